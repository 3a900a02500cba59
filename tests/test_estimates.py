"""Models of numbers: what they learn from tours and demand, who approves them, and that plans and
estimates go by the deployed one and say so."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from chainlytics.cli.models import app as models_app
from domain.access import Role
from domain.factors import RATES
from domain.inventory import PickStock, ReceiveStock
from domain.places import Point
from domain.routing import Rates, Route, RoutedStop, RoutedVehicle, Solution, Span, Visit
from domain.sites import OpenSite, ServiceLevel
from domain.tour_events import StopCompleted, StopFailed, TourCompleted, TourPlanned, TourStarted
from domain.tour_plans import PlanTours, TourOrder, TourVehicle
from domain.tours import FailStop, FinishTour, StartTour
from domain.values import Command
from ml.estimate_training import train_estimate
from ml.estimates import ESTIMATES, TOUR_COST, TRAVEL_TIME
from ml.estimating import Regressor
from ml.judging import Judge
from ml.models import NotEnoughHistory
from ml.scoring import ModelUnfit
from ml.tour_cases import cost_rows, travel_rows
from ml.tour_cost import FEATURES, Past, features
from ml.training import trainer
from ml.travel import rule_seconds
from ml.travel_time import MOST, sun_hour, ways
from tests.serving import Served, assert_problem, found, get, post, serving_here, until
from tests.world import ORGANISATION, company, context

FIRST = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
DAYS = 140
VANS = ("V-A", "V-B", "V-C")
#: Mondays and Fridays everything takes longer, and V-C is slow always.
SLOW_DAYS, SLOW_VAN = (1, 5), "V-C"
NOBODY = UUID(int=404)
BERLIN = Point(latitude=52.52, longitude=13.405)

# what is learned, from frames made by hand


def at(hours: float, day: int = 0) -> datetime:
    return FIRST + timedelta(days=day, hours=hours)


def planned(tour_id: str, position: int, **more: Any) -> dict[str, Any]:
    """A tour of two stops: 3 km there, 3 km on, 6 km back."""
    stops = [
        {
            "stop_no": number,
            "order_id": f"{tour_id}-{number}",
            "arrives_at": at(8 + number),
            "distance_m": 3_000,
            "direct_m": 3_000 * number,
            "point": {"latitude": 52.5, "longitude": 15.0},
        }
        for number in (1, 2)
    ]
    told = {
        "position": position,
        "tour_id": tour_id,
        "site_id": "S-1",
        "vehicle_id": "V-A",
        "currency": "EUR",
        "mode": "van",
        "day": FIRST.date(),
        "starts_at": at(8),
        "ends_at": at(11),
        "distance_m": 12_000,
        "back_distance_m": 6_000,
        "travel_s": 5_400,
        "waiting_s": 1_080,
        "weight_g": 500,
        "max_weight_g": 1_000,
        "rates": RATES["van"].model_dump(),
        "cost_minor": 10_000,
        "stops": stops,
        "planned_at": at(0),
    }
    return told | more


def driven(*done: tuple[int, datetime | None, datetime]) -> dict[Any, pl.DataFrame]:
    """A tour that left at eight: its stops' numbers, when it came and when it went on."""
    stops = [
        {"tour_id": "T", "order_id": f"T-{number}", "arrived_at": came, "completed_at": left}
        for number, came, left in done
    ]
    return {
        TourPlanned: pl.DataFrame([planned("T", 1)]),
        TourStarted: pl.DataFrame([{"tour_id": "T", "started_at": at(8)}]),
        StopCompleted: pl.DataFrame(stops),
        TourCompleted: pl.DataFrame([{"tour_id": "T", "finished_at": at(10)}]),
    }


def test_ways_are_learned_from_leaving_one_place_to_coming_to_the_next() -> None:
    """3 km at 30 km/h are 360 s; of 6 km the last one goes at 65: 656 s."""
    assert (rule_seconds("van", 3_000), rule_seconds("van", 6_000)) == (360, 656)
    rows = travel_rows(driven((1, at(8.2), at(8.5)), (2, at(8.6), at(9.6))))
    assert rows.came.tolist() == pytest.approx([720 / 360, 360 / 360, 1440 / 656])
    assert rows.by_rule.tolist() == [1, 1, 1]
    # Metres, the mode's speed, metres from the depot at both ends, Monday, the sun's hour: 15
    # degrees east it is an hour later than UTC.
    assert rows.matrix.tolist() == [
        [3_000, 65, 0, 3_000, 1, 10],
        [3_000, 65, 3_000, 6_000, 1, 11],
        [6_000, 65, 6_000, 0, 1, 12],
    ]
    assert (rows.known > rows.asked).all()


def test_ways_of_unknown_length_or_time_are_not_learned() -> None:
    # The second stop first: nobody knows how long those ways were, nor the one back.
    with pytest.raises(NotEnoughHistory, match="no way of a tour"):
        travel_rows(driven((2, at(8.2), at(8.5)), (1, at(8.6), at(9))))
    # Nobody told when it came to the first stop, and to the second it took half an hour.
    rows = travel_rows(driven((1, None, at(8.5)), (2, at(9 + 1 / 60), at(9.6))))
    assert rows.came.tolist() == pytest.approx([1440 / 656])
    assert MOST < 1860 / 360
    with pytest.raises(NotEnoughHistory):
        travel_rows({})


def test_a_stop_that_failed_was_driven_to_all_the_same() -> None:
    frames = driven((1, at(8.2), at(8.5)))
    failed = {"tour_id": "T", "order_id": "T-2", "arrived_at": at(8.6), "failed_at": at(9.6)}
    frames[StopFailed] = pl.DataFrame([failed])
    assert len(travel_rows(frames).came) == 3


def test_costs_see_what_was_known_of_site_and_vehicle_when_a_tour_was_planned() -> None:
    """Planned third and finished last: it knows one finished tour, and not the second one."""
    tours = [planned("T-1", 1), planned("T-2", 2, vehicle_id="V-B"), planned("T-3", 4)]
    ends = [
        {"position": place, "tour_id": name, "cost_minor": minor, "finished_at": at(12)}
        for place, name, minor in ((3, "T-1", 15_000), (5, "T-2", 9_000), (6, "T-3", 10_000))
    ]
    rows = cost_rows({TourPlanned: pl.DataFrame(tours), TourCompleted: pl.DataFrame(ends)})
    assert rows.came.tolist() == [1.5, 0.9, 1.0]
    names = list(FEATURES)
    site, vehicle = (rows.matrix[:, names.index(f"{one}_ratio")] for one in ("site", "vehicle"))
    assert np.isnan(site[:2]).all()
    assert (site[2], vehicle[2]) == (1.5, 1.5)
    first = dict(zip(names, rows.matrix[0].tolist(), strict=True))
    # Two stops, 12 km, three hours: half of them on the way, a tenth waiting; half full.
    assert (first["stops"], first["metres"], first["hours"]) == (2, 12_000, 3)
    assert (first["travel_share"], first["load_share"]) == (0.5, 0.5)
    assert first["waiting_share"] == pytest.approx(0.1)
    # 84.00 of hours, 3.60 of kilometres and 20.00 for the tour
    assert first["time_share"] == pytest.approx(8_400 / 10_760)
    assert first["hour"] == 9


def test_no_finished_tour_is_too_little_to_learn_from() -> None:
    with pytest.raises(NotEnoughHistory, match="no tour is finished"):
        cost_rows({TourPlanned: pl.DataFrame([planned("T-1", 1)])})


def test_amounts_without_a_past_are_not_known() -> None:
    assert math.isnan(Past().ratio)
    assert Past().with_one(200, 300).with_one(200, 100).ratio == 1
    assert np.isnan(features(planned("T", 1, max_weight_g=None), Past(), Past())).sum() == 3


def test_the_hour_by_the_sun_needs_no_time_zone() -> None:
    assert sun_hour(datetime(2026, 1, 1, 23, 30, tzinfo=UTC), 15.0) == 0.5
    assert sun_hour(datetime(2026, 1, 1, 1, tzinfo=UTC), -30.0) == 23


def test_every_kind_of_number_can_be_trained() -> None:
    for name, one in ESTIMATES.items():
        assert one.features, name
        assert trainer(name).keywords == {"estimate": one}  # type: ignore[attr-defined]
    assert len({one.schema_hash for one in ESTIMATES.values()}) == len(ESTIMATES)


# a log of driven tours and of demand


def tour_plan(day: int, chance: np.random.Generator) -> tuple[PlanTours, list[list[int]]]:
    """The plan of a day: each van to three orders; and what each way really takes, in seconds."""
    routes, orders, real = [], [], []
    weekday = (FIRST + timedelta(days=day)).isoweekday()
    for van in VANS:
        metres = [int(one) for one in chance.integers(2_000, 15_000, 4)]
        second, visits = 8 * 3600, []
        for number, way in enumerate(metres[:3]):
            took = rule_seconds("van", way)
            name = f"O-{day}-{van}-{number}"
            orders.append(TourOrder(order_id=name, weight_g=1_000, direct_m=way, point=BERLIN))
            visits.append(
                Visit(
                    order_id=name,
                    arrives_s=second + took,
                    begins_s=second + took,
                    leaves_s=second + took + 300,
                    distance_m=way,
                    travel_s=took,
                )
            )
            second += took + 300
        back = rule_seconds("van", metres[3])
        routes.append(
            Route(
                vehicle_id=van,
                starts_s=8 * 3600,
                ends_s=second + back,
                distance_m=sum(metres),
                travel_s=second + back - 8 * 3600 - 900,
                waiting_s=0,
                service_s=900,
                weight_g=3_000,
                volume_cm3=0,
                back_distance_m=metres[3],
                back_travel_s=back,
                visits=tuple(visits),
            )
        )
        slow = (2.0 if weekday in SLOW_DAYS else 1.1) * (1.3 if van == SLOW_VAN else 1.0)
        noise = chance.uniform(0.95, 1.05, 4)
        real.append(
            [int(rule_seconds("van", m) * slow * n) for m, n in zip(metres, noise, strict=True)]
        )
    solution = Solution(
        routes=tuple(routes),
        unserved=(),
        objective=0,
        solver="by hand",
        solver_version="1",
        iterations=0,
        seed=0,
    )
    day_at = FIRST + timedelta(days=day)
    command = PlanTours(
        plan_id=f"TP-{day}",
        site_id="S-1",
        day=day_at.date(),
        currency="EUR",
        origin=day_at,
        problem_hash="a" * 64,
        estimate="rule_based",
        solution=solution,
        vehicles=tuple(
            TourVehicle(vehicle_id=van, mode="van", max_weight_g=9_000, rates=RATES["van"])
            for van in VANS
        ),
        orders=tuple(orders),
        planned_at=day_at,
    )
    return command, real


def driving(command: PlanTours, real: list[list[int]]) -> Iterator[Command]:
    """The commands of a day: nobody is at home, which needs no orders."""
    yield command
    for number, (route, took) in enumerate(zip(command.solution.routes, real, strict=True), 1):
        tour_id = f"{command.plan_id}.{number}"
        now = command.origin + timedelta(seconds=route.starts_s)
        yield StartTour(tour_id=tour_id, started_at=now)
        for visit, seconds in zip(route.visits, took[:3], strict=True):
            came = now + timedelta(seconds=seconds)
            now = came + timedelta(seconds=300)
            yield FailStop(
                tour_id=tour_id,
                order_id=visit.order_id,
                reason="nobody_there",
                arrived_at=came,
                failed_at=now,
            )
        yield FinishTour(tour_id=tour_id, finished_at=now + timedelta(seconds=took[3]))


def demand(chance: np.random.Generator) -> Iterator[Command]:
    """A stock that has gone by weeks for 330 days up to now: tasks foretell from today on."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = midnight - timedelta(days=330)
    yield ReceiveStock(site_id="S-1", sku="WEEKLY", quantity=Decimal(10**6), received_at=first)
    for number in range(330):
        day = first + timedelta(days=number, hours=9)
        pieces = 2 + (6 if day.isoweekday() == 5 else 0) + int(chance.integers(0, 3))
        yield PickStock(site_id="S-1", sku="WEEKLY", quantity=Decimal(pieces), picked_at=day)


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A site whose tours were driven for twenty weeks, served with a worker; no model."""

    async def fill() -> None:
        chance = np.random.default_rng(5)
        async with company(database) as app:
            opened = OpenSite(
                site_id="S-1",
                region="BE",
                daily_capacity=100,
                location=BERLIN,
                service_levels=(ServiceLevel(code="standard", cost_minor=500, carbon_g=900),),
                opened_at=datetime(2020, 1, 1, tzinfo=UTC),
            )
            sent: list[Command] = [opened, *demand(chance)]
            for day in range(DAYS):
                sent += driving(*tour_plan(day, chance))
            for start in range(0, len(sent), 400):
                some = [(one, context()) for one in sent[start : start + 400]]
                results = await app.bus.execute_many(some)
                assert not [one for one in results if isinstance(one, Exception)]
            await app.projector.catch_up()

    asyncio.run(fill())
    with serving_here(database, tmp_path_factory.mktemp("home")) as (found_here, _):
        with found_here.client(actor="boss") as boss:
            for name in ("V-A", "V-C"):
                body = {
                    "vehicle_id": name,
                    "site_id": "S-1",
                    "mode": "van",
                    "service_levels": ["standard"],
                }
                post(boss, "/vehicles", body)
        yield found_here


@pytest.fixture(scope="module")
def boss(served: Served) -> Iterator[httpx.Client]:
    with served.client(Role.ADMIN, actor="boss") as client:
        yield client


@pytest.fixture(scope="module")
def models(served: Served, boss: httpx.Client) -> dict[str, dict[str, Any]]:
    """What training each kind as a task came to; proposed by one person, approved by another."""
    told = {}
    with served.client(Role.ANALYST, actor="ann") as ann:
        for kind in ESTIMATES:
            task = ended(ann, "training", {"kind": kind})
            assert task["state"] == "completed", task
            told[kind] = task["result"]
            name = told[kind]["model_hash"]
            get(boss, "/models", min_position=task["last_position"])
            with served.client(Role.ADMIN, actor="ann") as herself:
                refused = herself.post(f"/models/{name}/approve", json={"accept_worse": True})
                assert_problem(refused, 403, "model.needs_second_person")
            post(boss, f"/models/{name}/approve", {"accept_worse": kind == "demand"})
    return told


def ended(client: httpx.Client, kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """A task, as soon as nothing more comes."""
    path = "/tours/plan" if kind == "tours" else f"/tasks/{kind}"
    asked = client.post(path, json=body)
    assert asked.status_code == 202, asked.text

    def look() -> dict[str, Any] | None:
        task: dict[str, Any] = found(client.get(f"/tasks/{asked.json()['task_id']}"))
        return task if task["state"] in ("completed", "failed", "cancelled") else None

    return until(look)


def role(client: httpx.Client, model_hash: str, what: str, **body: Any) -> None:
    """Change what a model does, and wait until everybody knows."""
    receipt = post(client, f"/models/{model_hash}/{what}", body)
    get(client, "/models/live", min_position=receipt["position"])


def place(client: httpx.Client, order_id: str, latitude: float) -> None:
    line = {"line_no": 1, "sku": "SKU-1", "quantity": "1", "unit_price_minor": 1, "weight_g": 500}
    body = {
        "order_id": order_id,
        "customer_id": "C-1",
        "currency": "EUR",
        "placed_at": "2026-06-01T10:00:00Z",
        "promised_at": "2026-06-05T17:00:00Z",
        "destination": {"latitude": latitude, "longitude": 13.405},
        "lines": [line],
    }
    post(client, "/orders", body)
    allocated = {"site_id": "S-1", "allocated_at": "2026-06-01T11:00:00Z"}
    post(client, f"/orders/{order_id}/allocate", allocated)


def plan_of(client: httpx.Client, **body: Any) -> dict[str, Any]:
    """A plan for a Friday, made by the task."""
    told = {"site_id": "S-1", "day": "2026-06-05", "iterations": 100, "seed": 1}
    task = ended(client, "tours", told | body)
    assert task["state"] == "completed", task
    shown: dict[str, Any] = get(
        client,
        f"/tours/plans/{task['result']['plan_id']}",
        min_position=task["last_position"],
    )
    return shown


# without a model


def test_without_a_model_the_rule_says_so(boss: httpx.Client) -> None:
    told = get(boss, "/tours/TP-3.1/cost")
    assert (told["method"], told["model_hash"]) == ("rule-based", TOUR_COST.hash)
    assert told["estimate_minor"] == told["planned_minor"]
    assert (told["low_minor"], told["factors"], told["base_times"]) == (None, [], None)
    assert "rule-based" in told["sentence"]
    assert sum(one["cost_minor"] for one in told["orders"]) == told["estimate_minor"]
    assert told["actual_minor"] > told["planned_minor"]
    kinds = {one["name"]: one for one in get(boss, "/kinds")["estimates"]}
    for name in ("tour_cost", "travel_time"):
        assert kinds[name]["method"] == "rule-based"
        assert kinds[name]["features"] == dict(ESTIMATES[name].features)
    assert_problem(boss.get("/tours/T-404/cost"), 404)
    assert_problem(boss.get("/tours/a b/cost"), 422)


@pytest.fixture(scope="module")
def by_rule(boss: httpx.Client) -> dict[str, Any]:
    """A plan of four orders, made when no model was deployed."""
    for number in range(4):
        place(boss, f"O-P{number}", 52.54 + number / 50)
    return plan_of(boss, plan_id="BY-RULE")


def test_ways_go_by_the_rule_and_come_again(boss: httpx.Client, by_rule: dict[str, Any]) -> None:
    assert (by_rule["estimate"], by_rule["served"]) == ("rule_based", 4)
    again = post(boss, "/tours/plans/BY-RULE/replay", {})
    assert (again["same"], again["same_ways"], again["estimate"]) == (True, True, "rule_based")


# trained by the task, approved by somebody else


def test_models_that_learned_are_nearer_than_the_rule(models: dict[str, dict[str, Any]]) -> None:
    for kind in ("travel_time", "tour_cost"):
        told = models[kind]
        assert told["mae"] < 0.5 * told["baseline_mae"], told
        assert told["rmse"] < told["baseline_rmse"], told
    assert models["demand"]["test_rows"] >= 50
    assert models["demand"]["baseline_mae"] > 0


def test_their_cards_tell_what_they_are_for(
    boss: httpx.Client, models: dict[str, dict[str, Any]]
) -> None:
    for kind, words in (("travel_time", "routing: seconds"), ("tour_cost", "cost: minor units")):
        card = boss.get(f"/models/{models[kind]['model_hash']}/card").text
        assert words in card
        assert "mean absolute error" in card
        assert "Outdated" not in card


@pytest.fixture(scope="module")
def deployed(
    boss: httpx.Client, models: dict[str, dict[str, Any]], by_rule: dict[str, Any]
) -> dict[str, str]:
    """The champion of each kind."""
    names: dict[str, str] = {kind: told["model_hash"] for kind, told in models.items()}
    for name in names.values():
        role(boss, name, "deploy")
    return names


def test_plans_go_by_the_deployed_model_and_name_it(
    boss: httpx.Client, deployed: dict[str, str]
) -> None:
    name = deployed["travel_time"]
    plan = plan_of(boss, plan_id="BY-MODEL", replaces="BY-RULE")
    assert plan["estimate"] == name
    again = post(boss, "/tours/plans/BY-MODEL/replay", {})
    assert (again["same"], again["same_ways"], again["estimate"]) == (True, True, name)
    before, after = (
        boss.get(f"/tours/plans/{one}/problem").json()["profiles"][0]
        for one in ("BY-RULE", "BY-MODEL")
    )
    assert after["estimate"] == name
    assert after["distance_m"] == before["distance_m"]
    then, now = (np.array(one["duration_s"]) for one in (before, after))
    assert (np.diag(now) == 0).all()
    off = ~np.eye(len(now), dtype=bool)
    # Fridays take twice as long: 2.0, for one van in three 2.6.
    assert 1.7 < (now[off] / then[off]).mean() < 2.9


def test_a_tours_cost_is_told_with_exact_reasons(
    boss: httpx.Client, deployed: dict[str, str]
) -> None:
    # The last Monday but one, the slow van: after most of what was learned.
    told = get(boss, f"/tours/TP-{DAYS - 7}.3/cost")
    assert told["method"] == told["model_hash"] == deployed["tour_cost"]
    assert {one["feature"] for one in told["factors"]} == set(FEATURES)
    product = told["base_times"] * math.prod(one["times"] for one in told["factors"])
    assert told["estimate_minor"] == pytest.approx(told["planned_minor"] * product, rel=0.002)
    assert told["low_minor"] <= told["estimate_minor"] <= told["high_minor"]
    error, by_rule = (
        abs(told[one] - told["actual_minor"]) for one in ("estimate_minor", "planned_minor")
    )
    assert error < by_rule
    assert sum(one["cost_minor"] for one in told["orders"]) == told["estimate_minor"]
    assert "by a model" in told["sentence"]
    assert told["factors"][0]["feature"] in ("weekday", "vehicle_ratio", "site_ratio")
    # What was known is what was finished before: the very first tour knows nothing.
    first = {one["feature"]: one for one in get(boss, "/tours/TP-0.1/cost")["factors"]}
    assert first["site_ratio"]["value"] is None
    assert first["site_ratio"]["sentence"] == "site_ratio is not known"


def test_a_stopped_model_stops_and_withdrawn_the_rule_stands_in(
    boss: httpx.Client, deployed: dict[str, str]
) -> None:
    travel, costs = deployed["travel_time"], deployed["tour_cost"]
    for name in (travel, costs):
        role(boss, name, "stop", reason="odd")
    place(boss, "O-LAST", 52.6)
    task = ended(boss, "tours", {"site_id": "S-1", "day": "2026-06-05", "order_ids": ["O-LAST"]})
    assert (task["state"], task["code"]) == ("failed", "estimate.model_stopped")
    assert_problem(boss.get("/tours/TP-3.1/cost"), 409, "estimate.model_stopped")
    role(boss, travel, "withdraw", reason="odd")
    role(boss, costs, "retire", reason="odd")
    assert plan_of(boss, order_ids=["O-LAST"])["estimate"] == "rule_based"
    assert get(boss, "/tours/TP-3.1/cost")["method"] == "rule-based"
    assert boss.post(f"/models/{costs}/deploy", json={}).status_code == 409


# demand, by tasks


def test_inference_of_demand_goes_by_the_model_and_says_so(
    boss: httpx.Client, deployed: dict[str, str]
) -> None:
    task = ended(boss, "inference", {"kind": "demand", "horizon_days": 7})
    assert task["state"] == "completed", task
    assert task["result"] == {"subjects": 1, "made": 1, "rule_based": 0}
    [row] = get(boss, f"/tasks/{task['task_id']}/result")["items"]
    assert (row["subject_id"], row["result"]) == ("S-1/WEEKLY", "made")
    kept = get(boss, "/forecasts/S-1/WEEKLY", min_position=task["last_position"])
    assert (kept["total"], kept["method"]) == (row["total"], row["method"])
    assert kept["method"] == deployed["demand"]
    assert kept["technique"] == "model"
    assert kept["made_by"] == "boss"


def test_inference_is_stopped_halfway(boss: httpx.Client) -> None:
    ids = [f"S-404/{number}" for number in range(1000)]
    asked = boss.post("/tasks/inference", json={"kind": "demand", "subject_ids": ids})
    path = f"/tasks/{asked.json()['task_id']}"

    def runs() -> dict[str, Any] | None:
        task: dict[str, Any] = found(boss.get(path))
        return task if task["state"] != "requested" else None

    assert until(runs)["state"] == "running"
    post(boss, f"{path}/cancel", {"reason": "not now"})

    def over() -> dict[str, Any] | None:
        task: dict[str, Any] = found(boss.get(path))
        return task if task["state"] not in ("running", "cancelling") else None

    task = until(over)
    assert (task["state"], task["reason"]) == ("cancelled", "not now")
    assert_problem(boss.get(f"{path}/result"), 409, "task.not_completed")


# what cannot be


def test_a_model_of_one_kind_says_nothing_of_another(
    served: Served, models: dict[str, dict[str, Any]], database: str
) -> None:
    async def load() -> None:
        async with company(database) as app:
            content = await app.artifacts.get(models["travel_time"]["model_hash"])
            with pytest.raises(ModelUnfit, match="not trained for tour_cost"):
                Regressor(content, TOUR_COST)
            with pytest.raises(NotEnoughHistory):
                await train_estimate(app.url, app.log, app.artifacts, NOBODY, TRAVEL_TIME, FIRST)
            check_batch(Regressor(content, TRAVEL_TIME))

    asyncio.run(load())


def check_batch(model: Regressor) -> None:
    """The ways of a problem are whole seconds, by thousandths of the rule's, upwards; the day and
    the hour are the problem's."""
    judge = Judge("m" * 64, "m" * 64, model)
    stops = [
        RoutedStop(
            order_id=f"O-{number}",
            point=Point(latitude=52.55 + number / 50, longitude=13.405),
            windows=(Span(from_s=9 * 3600, to_s=11 * 3600),) if number else (),
        )
        for number in range(3)
    ]
    van = RoutedVehicle(vehicle_id="V-A", from_s=8 * 3600, to_s=16 * 3600, rates=Rates())
    tuesday = FIRST + timedelta(days=1)
    for day, least, most in ((FIRST, 1.7, 2.9), (tuesday, 1.0, 1.6)):
        [by_rule] = ways(["van"], day, BERLIN, stops, [van], None)
        [by_model] = ways(["van"], day, BERLIN, stops, [van], judge)
        assert by_model == ways(["van"], day, BERLIN, stops, [van], judge)[0]
        assert (by_rule.estimate, by_model.estimate) == ("rule_based", "m" * 64)
        rule, told = by_rule.duration_s[0][1], by_model.duration_s[0][1]
        permille = {-(-rule * one // 1000) for one in range(200, 5001)}
        assert told in permille
        assert least < told / rule < most


def test_the_command_line_trains_numbers_too(
    models: dict[str, dict[str, Any]],
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same log, the same code: its later events are not about tours that were driven, so that
    it learns the same and comes to the model that is known."""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("CHAINLYTICS_HOME", str(tmp_path))
    words = ["train", "--kind", "travel_time", "--organisation", str(ORGANISATION), "--json"]
    done = CliRunner().invoke(models_app, words)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["registration"]
    assert told["kind"] == "travel_time"
    assert told["metrics"]["mae"] == models["travel_time"]["mae"]
    assert told["model_hash"] == models["travel_time"]["model_hash"]


@pytest.mark.parametrize("kind", ["weather", "travel-time", ""])
def test_an_unknown_kind_is_not_trained(boss: httpx.Client, kind: str) -> None:
    assert_problem(boss.post("/tasks/training", json={"kind": kind}), 422)
