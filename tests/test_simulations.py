"""Simulations: what scenarios may be, what chance and they bring, what is told of the result."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from domain.access import Role
from domain.simulations import (
    CancelSimulation,
    Disturbance,
    DisturbanceOfScenario,
    Disturbing,
    GenerateScenario,
    RetireScenario,
    ScenarioGenerated,
    ScenarioRetired,
    words,
)
from domain.sites import ServiceLevel, SiteClosed, SiteOpened
from domain.tasks import TaskCancelled, TaskRequested
from domain.transport import VehicleRegistered, VehicleRetired
from domain.work import RequestSimulation, SimulationWork
from ml.catalogue import HANDLERS
from ml.drawing import WIDTH
from ml.scenarios import Durations, Past, Sampled, demand, drawn
from ml.simulation_report import (
    PICTURES,
    DayFigures,
    KpiDifference,
    Pair,
    RunDigest,
    SimulationResults,
    affected,
    differences,
    interval,
    page,
    paired,
    picture,
)
from tests.spec import given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SURGE: dict[str, Any] = {"kind": "demand_surge", "factor": 1.5, "region": "NL"}
GENERATE = GenerateScenario(
    scenario_id="S-1",
    seed=7,
    horizon_days=14,
    disturbances=(Disturbance(**SURGE),),
    generated_at=NOON,
)
RETIRE = RetireScenario(scenario_id="S-1", reason="tried", retired_at=NOON)
RUN = RequestSimulation(task_id="T-1", scenario_id="S-1", replications=3, requested_at=NOON)

generated = ScenarioGenerated(
    scenario_id="S-1",
    name=None,
    seed=7,
    horizon_days=14,
    sample_days=28,
    disturbances=(
        DisturbanceOfScenario(
            kind="demand_surge",
            from_day=1,
            to_day=None,
            factor=1.5,
            region="NL",
            sku=None,
            site_id=None,
            vehicle_id=None,
            days=None,
            elasticity=None,
        ),
    ),
    generated_by="ana",
    generated_at=NOON,
)
retired = ScenarioRetired(scenario_id="S-1", reason="tried", retired_by="ana", retired_at=NOON)
site_opened = SiteOpened(
    site_id="S-AMS",
    name=None,
    region=None,
    service_levels=(ServiceLevel(code="standard"),),
    daily_capacity=None,
    opened_at=None,
)
site_closed = SiteClosed(site_id="S-AMS", reason="flood", closed_at=None)
vehicle = VehicleRegistered(
    vehicle_id="V-1",
    site_id="S-AMS",
    mode="van",
    service_levels=("standard",),
    max_weight_g=None,
    daily_capacity=None,
    cost_minor=0,
    carbon_g=0,
    registered_at=None,
)
vehicle_retired = VehicleRetired(vehicle_id="V-1", site_id="S-AMS", reason="rust", retired_at=None)


def of(kind: str, **fields: Any) -> DisturbanceOfScenario:
    return DisturbanceOfScenario(**Disturbance(kind=Disturbing(kind), **fields).model_dump())


# scenarios


def test_a_scenario_is_generated_once() -> None:
    given().when(GENERATE).then(generated)
    given(generated).when(GENERATE).refused("scenario.already_generated", scenario_id="S-1")
    given(generated, retired).when(GENERATE).refused("scenario.already_generated")


def test_a_scenario_is_retired_once() -> None:
    given(generated).when(RETIRE).then(retired)
    given(generated, retired).when(RETIRE).refused("scenario.retired", scenario_id="S-1")
    given().when(RETIRE).refused("scenario.unknown", scenario_id="S-1")


def test_sites_and_vehicles_of_a_scenario_are_known() -> None:
    closed = Disturbance(kind=Disturbing.SITE_CLOSED, site_id="S-AMS")
    lost = Disturbance(kind=Disturbing.VEHICLE_LOST, vehicle_id="V-1", from_day=2)
    both = GENERATE.model_copy(update={"disturbances": (closed, lost)})
    assert given().reading(site_opened, vehicle).when(both).refusal is None
    assert given().reading(site_opened, site_closed, vehicle).when(both).refusal is None
    given().reading(vehicle).when(both).refused("site.unknown", site_id="S-AMS")
    given().reading(site_opened).when(both).refused("vehicle.unknown", vehicle_id="V-1")
    given().reading(site_opened, vehicle, vehicle_retired).when(both).refused(
        "vehicle.retired", vehicle_id="V-1"
    )


def test_a_scenario_that_is_in_use_is_run() -> None:
    requested = TaskRequested(
        task_id="T-1",
        kind="simulation",
        priority=5,
        simulation=SimulationWork(scenario_id="S-1", position=None, replications=3),
        requested_by="ana",
        requested_at=NOON,
    )
    given().reading(generated).when(RUN).then(requested)
    given().when(RUN).refused("scenario.unknown", scenario_id="S-1")
    given().reading(generated, retired).when(RUN).refused("scenario.retired", scenario_id="S-1")
    given(requested).reading(generated).when(RUN).refused("task.already_requested", task_id="T-1")


def test_a_simulation_is_stopped_and_no_other_task() -> None:
    cancel = CancelSimulation(task_id="T-1", reason="wrong", cancelled_at=NOON)
    requested = TaskRequested(
        task_id="T-1",
        kind="simulation",
        priority=5,
        simulation=SimulationWork(scenario_id="S-1", position=None, replications=3),
        requested_by="ana",
        requested_at=NOON,
    )
    cancelled = TaskCancelled(
        task_id="T-1", kind="simulation", reason="wrong", cancelled_by="ana", cancelled_at=NOON
    )
    given(requested).when(cancel).then(cancelled)
    given().when(cancel).refused("simulation.unknown", simulation_id="T-1")
    training = requested.model_copy(update={"kind": "training", "simulation": None})
    given(training).when(cancel).refused("simulation.unknown", simulation_id="T-1")
    given(requested, cancelled).when(cancel).refused("task.already_finished", task_id="T-1")


def test_who_plans_simulates() -> None:
    for command in (GenerateScenario, RetireScenario, RequestSimulation):
        assert HANDLERS[command].roles == {Role.ADMIN, Role.ANALYST, Role.SERVICE}


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"kind": "meteor"}, "kind", "demand_surge"),
        ({"kind": "demand_surge"}, "factor", "a demand_surge needs it"),
        (SURGE | {"factor": 0}, "factor", "greater than 0"),
        (SURGE | {"factor": 11}, "factor", "less than or equal to 10"),
        (SURGE | {"factor": float("inf")}, "factor", "finite number"),
        (SURGE | {"days": 3}, "days", "a demand_surge has none"),
        (SURGE | {"region": "N L"}, "region", "match pattern"),
        (SURGE | {"from_day": 0}, "from_day", "greater than or equal to 1"),
        (SURGE | {"from_day": 3, "to_day": 2}, "to_day", "2 lies before from_day, 3"),
        ({"kind": "site_closed"}, "site_id", "a site_closed needs it"),
        ({"kind": "site_closed", "site_id": "S", "sku": "A"}, "sku", "a site_closed has none"),
        ({"kind": "vehicle_lost"}, "vehicle_id", "a vehicle_lost needs it"),
        ({"kind": "vehicle_lost", "vehicle_id": "V", "to_day": 2}, "to_day", "gone for good"),
        ({"kind": "supplier_late", "days": 0}, "days", "greater than or equal to 1"),
        ({"kind": "supplier_late", "days": 61}, "days", "less than or equal to 60"),
        ({"kind": "price_change", "factor": 1.1}, "elasticity", "a price_change needs it"),
        ({"kind": "price_change", "factor": 1.1, "elasticity": 1}, "elasticity", "equal to 0"),
        (  # more than a number can be
            {"kind": "price_change", "factor": 1e-300, "elasticity": -10},
            "factor, elasticity",
            "at most 20",
        ),
        (
            {"kind": "price_change", "factor": 0.1, "elasticity": -2},
            "factor, elasticity",
            "demand times 100, at most 20",
        ),
    ],
)
def test_a_wrong_disturbance_is_named_with_its_rule(
    fields: dict[str, Any], field: str, rule: str
) -> None:
    told = problems(GenerateScenario, **GENERATE.model_dump() | {"disturbances": [fields]})
    assert field in told
    assert rule in told


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"disturbances": []}, "disturbances", "at least 1 item"),
        ({"disturbances": [SURGE] * 21}, "disturbances", "at most 20 items"),
        ({"horizon_days": 0}, "horizon_days", "greater than or equal to 1"),
        ({"horizon_days": 91}, "horizon_days", "less than or equal to 90"),
        ({"sample_days": 6}, "sample_days", "greater than or equal to 7"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": 2**32}, "seed", "less than 4294967296"),
        ({"scenario_id": "a b"}, "scenario_id", "match pattern"),
        (
            {"disturbances": [SURGE, SURGE | {"to_day": 15}]},
            "disturbances.1",
            "day 15 lies behind the horizon of 14 days",
        ),
        (
            {"disturbances": [{"kind": "vehicle_lost", "vehicle_id": "V-1"}] * 2},
            "disturbances",
            "each vehicle is lost once",
        ),
        ({"weather": "wet"}, "weather", "Extra inputs"),
    ],
)
def test_a_wrong_scenario_is_named_with_its_rule(
    fields: dict[str, Any], field: str, rule: str
) -> None:
    told = problems(GenerateScenario, **GENERATE.model_dump() | fields)
    assert field in told
    assert rule in told


@pytest.mark.parametrize(
    ("fields", "field"), [({"replications": 0}, "replications"), ({"replications": 11}, "replica")]
)
def test_a_wrong_run_is_named_with_its_rule(fields: dict[str, Any], field: str) -> None:
    assert field in problems(RequestSimulation, **RUN.model_dump() | fields)
    assert problems(RequestSimulation, **RUN.model_dump()) == ""


@pytest.mark.parametrize(
    ("disturbance", "sentence"),
    [
        (
            of("demand_surge", factor=1.5, region="NL", sku="A", from_day=2, to_day=4),
            "Demand of A from region NL is 1.5 times the usual from day 2 to day 4",
        ),
        (
            of("demand_surge", factor=2),
            "Demand of everything is 2 times the usual from day 1 to the end",
        ),
        (of("site_closed", site_id="S"), "Site S is closed from day 1 to the end"),
        (of("vehicle_lost", vehicle_id="V", from_day=3), "Vehicle V is lost from day 3 on"),
        (
            of("supplier_late", days=5, sku="A", site_id="S"),
            "Goods of A at site S ordered from day 1 to the end come 5 days later",
        ),
        (
            of("price_change", factor=1.1, elasticity=-1.5),
            "Prices of everything are 1.1 times the usual from day 1 to the end, at a price "
            "elasticity of -1.5",
        ),
    ],
)
def test_a_disturbance_has_words(disturbance: DisturbanceOfScenario, sentence: str) -> None:
    assert words(disturbance) == sentence


# what chance and a scenario bring

MONDAY = date(2026, 3, 2)


def an_order(number: int, day: date, region: str = "NL", skus: str = "A") -> Sampled:
    """An order of a sampled day, placed at noon, a line for each letter."""
    placed_at = datetime(day.year, day.month, day.day, 12, number, tzinfo=UTC)
    lines = [
        {
            "line_no": line_no,
            "sku": sku,
            "quantity": "2",
            "unit_price_minor": 1000,
            "freight_minor": 0,
            "weight_g": None,
            "site_id": None,
        }
        for line_no, sku in enumerate(skus, 1)
    ]
    placed = {
        "order_id": f"O-{day}-{number}",
        "customer_id": "C-1",
        "currency": "EUR",
        "lines": lines,
        "lines_known": True,
        "units": "2",
        "region": region,
        "placed_at": placed_at.isoformat(),
        "promised_at": (placed_at + timedelta(days=3)).isoformat(),
        "person": "00000000-0000-0000-0000-000000000001",
    }
    return Sampled(placed, placed_at, "S-AMS")


def a_past(orders: int = 40, **more: Any) -> Past:
    """Four weeks before a Monday with so many orders each day."""
    days = [MONDAY - timedelta(days=number) for number in range(28, 0, -1)]
    return Past(
        start=MONDAY,
        days={day: [an_order(number, day, **more) for number in range(orders)] for day in days},
        handling=Durations([(("S-AMS",), 3600)]),
        transit=Durations([(("standard", "NL", "S-AMS"), 7200)]),
        cancel_share=0.0,
        cancel_after=Durations([]),
    )


def test_draws_follow_from_seed_and_name_alone() -> None:
    """`printf 7:day:1 | sha256sum` begins with cb9293885356952c: its first 53 bits over 2**53."""
    assert drawn(7, "day", 1) == (0xCB9293885356952C >> 11) / 2**53
    assert len({drawn(seed, "day", day) for seed in range(20) for day in range(20)}) == 400
    mean = sum(drawn(1, number) for number in range(10_000)) / 10_000
    assert abs(mean - 0.5) < 4 * math.sqrt(1 / 12 / 10_000)


def test_a_day_is_a_sampled_one_of_the_same_weekday_again() -> None:
    past = a_past()
    found = demand(past, 7, 1, ())
    assert [order.order_id for order in found] == [f"SIM-001-{n:05}" for n in range(40)]
    assert {order.placed_at.date() for order in found} == {MONDAY}
    assert {order.promised_at - order.placed_at for order in found} == {timedelta(days=3)}
    assert all(order.recipient is None for order in found)
    days = {number: past.days[day] for number, day in enumerate(past.days)}
    lonely = Past(**{**_fields(past), "days": dict(zip(past.days, days.values(), strict=True))})
    monday = past.start - timedelta(days=7)
    for day in list(lonely.days):
        if day.weekday() == 0 and day != monday:
            assert len(lonely.days[day]) == 40
    # A weekday without orders stays without.
    empty = {day: [] if day.weekday() == 0 else some for day, some in past.days.items()}
    assert demand(Past(**{**_fields(past), "days": empty}), 7, 1, ()) == []


def _fields(past: Past) -> dict[str, Any]:
    return {name: getattr(past, name) for name in Past.__slots__}


def test_a_surge_multiplies_what_it_names_and_keeps_all_else() -> None:
    base = {order.order_id: order for order in demand(a_past(), 7, 1, ())}
    surge = of("demand_surge", factor=2.5, region="NL")
    found = {order.order_id: order for order in demand(a_past(), 7, 1, (surge,))}
    assert {name: found[name] for name in base} == base
    # 2 of each, and a third with a chance of one half: 40 * 2.5, give or take four deviations.
    assert abs(len(found) - 100) < 4 * math.sqrt(40 * 0.25)
    assert len(demand(a_past(), 7, 1, (of("demand_surge", factor=2, region="FR"),))) == 40
    assert len(demand(a_past(), 7, 1, (of("demand_surge", factor=3, site_id="S-AMS"),))) == 120
    assert len(demand(a_past(), 7, 1, (of("demand_surge", factor=3, site_id="S-BER"),))) == 40
    late = of("demand_surge", factor=3, from_day=2, to_day=2)
    assert [len(demand(a_past(), 7, day, (late,))) for day in (1, 2, 3)] == [40, 120, 40]


def test_a_surge_of_one_article_leaves_other_lines_alone() -> None:
    surge = of("demand_surge", factor=3, sku="A")
    found = demand(a_past(1, skus="AB"), 7, 1, (surge,))
    assert [[line.sku for line in order.lines] for order in found] == [["A", "B"], ["A"], ["A"]]
    slump = of("demand_surge", factor=1e-9, sku="A")
    found = demand(a_past(1, skus="AB"), 7, 1, (slump,))
    assert [[line.sku for line in order.lines] for order in found] == [["B"]]
    assert demand(a_past(1), 7, 1, (slump,)) == []


def test_a_price_changes_demand_by_its_elasticity() -> None:
    """1.25 ** -2 = 0.64: of 4000 orders about 2560 are left, at 12.50 each."""
    change = of("price_change", factor=1.25, elasticity=-2)
    found = [order for seed in range(100) for order in demand(a_past(), seed, 1, (change,))]
    assert abs(len(found) - 2560) < 4 * math.sqrt(4000 * 0.64 * 0.36)
    assert {line.unit_price_minor for order in found for line in order.lines} == {1250}
    same = of("price_change", factor=2, elasticity=0)
    assert len(demand(a_past(), 7, 1, (same,))) == 40


def test_durations_come_from_the_narrowest_group_that_has_enough() -> None:
    rows = [(("a", "x"), 1)] * 5 + [(("a", "y"), 100)] * 4 + [(("b", "x"), 7)]
    times = Durations(rows)
    assert times.draw(0.99, "a", "x") == timedelta(seconds=1)
    assert times.draw(0.99, "a", "y") == timedelta(seconds=100)
    assert times.draw(0.0, "a", "y") == timedelta(seconds=1)
    assert times.draw(0.55, "b", "x") == timedelta(seconds=7)
    assert times.draw(0.0, "c") == timedelta(seconds=1)
    assert not Durations([])


# what is told


def a_result(**changes: Any) -> SimulationResults:
    pair = Pair(base_line=10, scenario=12)
    told: dict[str, Any] = {
        "simulation_id": "T-1",
        "scenario_id": "S-1",
        "position": 4711,
        "first_day": MONDAY,
        "last_day": MONDAY + timedelta(days=1),
        "replications": 2,
        "sampled_orders": 1120,
        "disturbances": ("Site <S> is closed from day 1 to the end",),
        "kpis": (
            KpiDifference(
                kpi="late_share",
                title="Late share",
                unit="share",
                better="lower",
                currency=None,
                base_line=0.1,
                scenario=0.15,
                difference=0.05,
                low=0.01,
                high=0.09,
                runs=2,
            ),
            KpiDifference(
                kpi="cost_per_order",
                title="Cost per order",
                unit="minor_units",
                better="lower",
                currency="EUR",
                base_line=500,
                scenario=None,
                difference=None,
                runs=0,
            ),
        ),
        "days": tuple(
            DayFigures(
                day=MONDAY + timedelta(days=number),
                orders=pair,
                delivered=pair,
                late=Pair(base_line=1, scenario=number),
                cancelled=pair,
            )
            for number in range(2)
        ),
        "sites": affected([({"S-AMS": {"late": 1.0}}, {"S-AMS": {"late": 3.0}})]),
        "skus": (),
        "events": {"OrderPlaced": pair},
        "refused": {"site.closed": Pair(base_line=0, scenario=3)},
        "decided_by": {"fulfilment: rule_based": pair},
        "digests": (RunDigest(seed=7, base_line="a" * 64, scenario="b" * 64),),
    }
    return SimulationResults(**told | changes)


def test_an_interval_is_students() -> None:
    """Of 1, 2, 3: mean 2, standard deviation 1, t(2) = 4.303: 2 -+ 4.303 / sqrt(3) = 2.484."""
    low, high = interval([1.0, 2.0, 3.0]) or (0, 0)
    assert (round(low, 3), round(high, 3)) == (-0.484, 4.484)
    assert interval([1.0]) is None
    assert interval([2.0, 2.0]) == (2.0, 2.0)


def test_runs_are_paired_by_name_and_the_most_affected_come_first() -> None:
    assert paired([({"a": 1}, {"b": 3}), ({"a": 3}, {})]) == {
        "a": Pair(base_line=2, scenario=0),
        "b": Pair(base_line=0, scenario=1.5),
    }
    found = affected(
        [({"x": {"n": 1.0}, "y": {"n": 5.0}, "z": {"n": 2.0}}, {"x": {"n": 1.0}, "y": {"n": 2.0}})]
    )
    assert [(one.name, one.figures["n"].scenario) for one in found] == [("y", 2.0), ("z", 0.0)]


@pytest.mark.parametrize("name", PICTURES)
def test_a_result_has_pictures(name: str) -> None:
    drawing = picture(a_result(), name)
    assert drawing.startswith(f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}"')
    if name != "kpis":
        assert "base line" in drawing
    assert "scenario" in drawing


def test_several_results_have_one_picture() -> None:
    drawing = differences({"T-1": a_result(), "T-2": a_result()}, "Compared")
    assert drawing.count('class="bar"') == 2
    assert "T-2" in drawing
    # Where there is no difference there is nothing to draw.
    assert "Nothing to show" in differences({"T-1": a_result(kpis=())}, "Compared")


def test_a_result_is_a_page_of_its_own() -> None:
    told = page(a_result())
    assert "Site &lt;S&gt; is closed" in told
    assert "<S>" not in told
    assert told.count("<svg") == len(PICTURES)
    assert "15.0%" in told
    assert "+1.0 points to +9.0 points" in told
    assert "rule_based" in told
    assert "position 4,711" in told
    assert SimulationResults.model_validate_json(a_result().model_dump_json()) == a_result()
