"""KPIs: each formula against cases worked by hand, real deliveries, and Postgres against polars."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from domain.decisions import (
    USUAL_WEIGHTS,
    Candidate,
    DecisionMade,
    DecisionOutcomeRecorded,
    DecisionOverridden,
)
from domain.inventory import (
    StockAdjusted,
    StockPicked,
    StockReceived,
    StockReleased,
    StockReserved,
)
from domain.order_events import Filled, OrderDelivered
from domain.tour_events import OrderShare
from domain.tours import TourCompleted
from domain.values import Event
from projections.engine import finish, fold_events
from projections.kpi_formulas import KPIS, day_rows, figures
from projections.kpis import LEAD_TIME_DAYS, TABLES
from readmodels.kpi_sums import summed
from tests.order_world import placed
from tests.test_folds import NOON, ORGANISATIONS, stored

DATA = Path(os.environ.get("CHAINLYTICS_DATA") or Path(__file__).parents[2] / "shared" / "data")
SCMS = DATA / "scms_delivery_history"
_DECLARED = {table.name: table for table in TABLES}
MARCH = (date(2026, 3, 1), date(2026, 3, 31))


def day(number: int, hour: int = 12) -> datetime:
    """A moment of March 2026."""
    return datetime(2026, 3, number, hour, tzinfo=UTC)


def folded(table: str, events: Sequence[Event]) -> pl.DataFrame:
    """The finished rows that some events of one organisation make."""
    declared = _DECLARED[table]
    facts = [(ORGANISATIONS[0], event) for event in events]
    return finish(declared, fold_events(declared, stored(facts)))


def told(
    name: str,
    events: Sequence[Event],
    by: Sequence[str] = (),
    period: tuple[date, date] = MARCH,
) -> dict[tuple[Any, ...], float | None]:
    """A KPI's figures by group."""
    kpi = KPIS[name]
    table = kpi.client_table if "client" in by and kpi.client_table else kpi.table
    rows = day_rows(table, folded(table, events), *period)
    found = figures(kpi, rows, by)
    groups = [one for one in found.columns if one not in (*kpi.columns, "value")]
    return {tuple(row[one] for one in groups): row["value"] for row in found.iter_rows(named=True)}


def delivered(
    order_id: str,
    placed: datetime,
    promised: datetime,
    at: datetime | None,
    site_id: str = "S-1",
    **more: Any,
) -> OrderDelivered:
    return OrderDelivered(
        order_id=order_id,
        site_id=site_id,
        service_level="standard",
        region=None,
        currency="EUR",
        placed_at=placed,
        promised_at=promised,
        delivered_at=at,
        late=None if at is None else at > promised,
        transit_s=None,
        out_of_order=False,
        **more,
    )


#: O-1 and O-2 of 2 March in time, O-3 of 2 March late; O-4 of 9 March late, O-5 of an unknown time.
DELIVERIES = (
    delivered("O-1", day(2), day(5), day(3)),  # 1 day
    delivered("O-2", day(2), day(5), day(5)),  # 3 days, at the promised moment: in time
    delivered("O-3", day(2), day(5), day(8), "S-2"),  # 6 days, late
    delivered("O-4", day(9), day(10), day(11), "S-2"),  # 2 days, late
    delivered("O-5", day(9), day(10), None),
)


def test_late_share() -> None:
    # Of five deliveries four have a time; two of those came after the promise: 2 / 4.
    assert told("late_share", DELIVERIES) == {(): 0.5}
    # Placed on 2 March: 1 of 3. On 9 March: 1 of 1.
    assert told("late_share", DELIVERIES, ["day"]) == {
        (date(2026, 3, 2),): 1 / 3,
        (date(2026, 3, 9),): 1.0,
    }
    # S-1: none of O-1 and O-2. S-2: both of O-3 and O-4.
    assert told("late_share", DELIVERIES, ["site"]) == {("S-1",): 0.0, ("S-2",): 1.0}


def test_a_day_is_that_of_the_order_and_weeks_begin_on_monday() -> None:
    # 2 and 9 March 2026 are Mondays; O-3 was delivered on Sunday the 8th and counts on the 2nd.
    assert told("late_share", DELIVERIES, ["week", "site"]) == {
        (date(2026, 3, 2), "S-1"): 0.0,
        (date(2026, 3, 2), "S-2"): 1.0,
        (date(2026, 3, 9), "S-1"): None,
        (date(2026, 3, 9), "S-2"): 1.0,
    }
    assert told("late_share", DELIVERIES, ["month"]) == {(date(2026, 3, 1),): 0.5}


def test_lead_time() -> None:
    # O-1 to O-4 took 1, 3, 6 and 2 days: 12 / 4 = 3 days on the mean.
    assert told("lead_time", DELIVERIES) == {(): 3.0}


def test_lead_time_p90_is_interpolated_in_its_bucket() -> None:
    # One order in each of the buckets (0,1], (1,2], (2,3], (5,6]. Nine tenths of 4 are 3.6: 3 are
    # below 5 days, and 0.6 of the one order in (5,6] makes 5 + 0.6 x 1 = 5.6 days.
    assert told("lead_time_p90", DELIVERIES)[()] == pytest.approx(5.6)
    # Ten orders of ten days: all in (8,10]; 9 of 10 make 8 + 0.9 x 2 = 9.8.
    ten = [delivered(f"O-{n}", day(1), day(5), day(11)) for n in range(10)]
    assert told("lead_time_p90", ten)[()] == pytest.approx(9.8)


def test_lead_time_p90_behind_the_last_bucket_is_told_as_its_beginning() -> None:
    slow = [delivered("O-1", day(1), day(5), day(1) + timedelta(days=400))]
    assert told("lead_time_p90", slow) == {(): float(LEAD_TIME_DAYS[-1])}


def test_what_was_delivered_before_it_was_placed_has_no_lead_time() -> None:
    assert told("lead_time", [delivered("O-1", day(5), day(6), day(4))]) == {(): None}
    # At the very moment is in the first bucket: 0.9 of a day.
    at_once = [delivered("O-1", day(5), day(6), day(5))]
    assert told("lead_time", at_once) == {(): 0.0}
    assert told("lead_time_p90", at_once)[()] == pytest.approx(0.9)


def filled(
    order_id: str,
    lines: tuple[int, int],
    units: tuple[int, int, int],
    at: datetime | None = None,
    customer_id: str = "C-1",
) -> OrderDelivered:
    """Lines are (ordered, filled first), units (ordered, filled first, delivered)."""
    told = Filled(
        lines=lines[0],
        lines_filled=lines[1],
        units=Decimal(units[0]),
        units_filled=Decimal(units[1]),
        units_delivered=Decimal(units[2]),
    )
    return delivered(order_id, day(2), day(5), at or day(4), customer_id=customer_id, filled=told)


#: O-1 whole at once; O-2 in two shipments, one line and 6 of 10 units first; of O-3 2 of 5 units
#: were cancelled on the way; O-4 whole and late.
FILLED = (
    filled("O-1", (2, 2), (4, 4, 4)),
    filled("O-2", (2, 1), (10, 6, 10), customer_id="C-2"),
    filled("O-3", (1, 0), (5, 3, 3), customer_id="C-2"),
    filled("O-4", (1, 1), (1, 1, 1), day(6)),
)


def test_fill_rates() -> None:
    # Lines: 2 + 1 + 0 + 1 of 2 + 2 + 1 + 1 = 4 / 6.
    assert told("fill_rate_line", FILLED)[()] == pytest.approx(4 / 6)
    # Orders: O-1 and O-4 of four.
    assert told("fill_rate_order", FILLED) == {(): 0.5}
    # Units: 4 + 6 + 3 + 1 = 14 of 4 + 10 + 5 + 1 = 20.
    assert told("fill_rate_unit", FILLED) == {(): 0.7}


def test_otif() -> None:
    # O-1 and O-2 came in time and whole; O-3 in time and not whole; O-4 whole and late: 2 / 4.
    assert told("otif", FILLED) == {(): 0.5}
    # C-1 ordered O-1 and O-4, C-2 the others: one good of two each.
    assert told("otif", FILLED, ["client"]) == {("C-1",): 0.5, ("C-2",): 0.5}
    assert told("late_share", FILLED, ["client"]) == {("C-1",): 0.5, ("C-2",): 0.0}


def test_what_was_delivered_before_fill_was_told_counts_as_whole_and_for_no_client() -> None:
    # O-1 and O-2 of DELIVERIES in time, O-3 and O-4 late.
    assert told("otif", DELIVERIES, ["client"]) == {("",): 0.5}
    assert told("fill_rate_order", DELIVERIES) == {(): None}
    # With FILLED: 4 of 8 of known time; fill rates are those of FILLED alone.
    assert told("otif", (*DELIVERIES, *FILLED)) == {(): 0.5}
    assert told("fill_rate_unit", (*DELIVERIES, *FILLED)) == {(): 0.7}


def received(sku: str, quantity: int, at: datetime, site_id: str = "S-1") -> StockReceived:
    return StockReceived(site_id=site_id, sku=sku, quantity=Decimal(quantity), received_at=at)


def picked(
    sku: str, quantity: int, at: datetime, reserved: int | None = None, site_id: str = "S-1"
) -> StockPicked:
    return StockPicked(
        site_id=site_id,
        sku=sku,
        quantity=Decimal(quantity),
        order_id="O-1",
        picked_at=at,
        reserved=None if reserved is None else Decimal(reserved),
    )


#: Of A: 10 on the 1st, 4 used on the 3rd, 6 on the 5th, 8 received on the 7th.
#: At the ends of days 1 to 10: 10 10 6 6 0 0 8 8 8 8.
MOVES = (
    received("A", 10, day(1)),
    picked("A", 4, day(3)),
    picked("A", 6, day(5)),
    received("A", 8, day(7)),
)
TEN_DAYS = (date(2026, 3, 1), date(2026, 3, 10))


def test_days_on_hand_and_turns() -> None:
    # 10+10+6+6+0+0+8+8+8+8 = 64 unit days; 10 used. Average stock 6.4, average use 1 a day: 6.4.
    assert told("days_on_hand", MOVES, period=TEN_DAYS) == {(): 6.4}
    # 365 x 10 / 64 = 57.03125 times a year.
    assert told("inventory_turns", MOVES, period=TEN_DAYS) == {(): 57.03125}


def test_stock_outs() -> None:
    # Nothing at the ends of the 5th and 6th: out once, for 2 of 10 SKU days.
    assert told("stock_outs", MOVES, period=TEN_DAYS) == {(): 1.0}
    assert told("stock_out_days", MOVES, period=TEN_DAYS) == {(): 2.0}
    assert told("stock_out_share", MOVES, period=TEN_DAYS) == {(): 0.2}


def test_what_happened_before_the_period_stands_at_its_beginning() -> None:
    # From the 6th: the SKU is out already, so there is no new stock-out, and one day out of 5.
    later = (date(2026, 3, 6), date(2026, 3, 10))
    assert told("stock_outs", MOVES, period=later) == {(): 0.0}
    assert told("stock_out_share", MOVES, period=later) == {(): 0.2}
    # 0 + 8 x 4 = 32 unit days, nothing used: no days on hand can be told.
    assert told("days_on_hand", MOVES, period=later) == {(): None}
    assert told("inventory_turns", MOVES, period=later) == {(): 0.0}


def test_what_is_put_aside_is_not_available_but_in_stock() -> None:
    # 5 received on the 1st; all put aside on the 2nd: out. 2 given free on the 3rd, 3 picked of
    # those put aside on the 4th: 2 are left and available. Out at the end of the 2nd alone.
    events = (
        received("B", 5, day(1)),
        StockReserved(
            site_id="S-1", sku="B", quantity=Decimal(5), order_id="O-1", reserved_at=day(2)
        ),
        StockReleased(
            site_id="S-1", sku="B", quantity=Decimal(2), order_id="O-1", released_at=day(3)
        ),
        picked("B", 3, day(4), reserved=3),
    )
    four = (date(2026, 3, 1), date(2026, 3, 4))
    assert told("stock_out_days", events, ["day"], four) == {
        (date(2026, 3, number),): float(number == 2) for number in (1, 2, 3, 4)
    }
    # On hand 5, 5, 5, 2 = 17 unit days for 3 used: 17 / 3.
    assert told("days_on_hand", events, period=four)[()] == pytest.approx(17 / 3)


def test_a_correction_dated_back_changes_the_day_it_should() -> None:
    # The count of the 5th was told after the 7th: 3 were still there, so it was never out.
    counted = StockAdjusted(
        site_id="S-1", sku="A", change=Decimal(3), reason="found", adjusted_at=day(5)
    )
    assert told("stock_outs", (*MOVES, counted), period=TEN_DAYS) == {(): 0.0}


def made(decision_id: str, chosen: int | None, kind: str = "fulfilment") -> DecisionMade:
    candidates = tuple(
        Candidate(
            option={"site_id": site_id},
            features="",
            lineage={},
            margin=0.0,
            probability=0.5,
            risk=0.5,
            cost_minor=cost,
            carbon_g=carbon,
            objective=0.0,
            rejected=(),
        )
        for site_id, cost, carbon in (("S-1", 400, 900), ("S-2", 700, 100))
    )
    return DecisionMade(
        decision_id=decision_id,
        kind=kind,
        subject_id="O-1",
        as_of=1,
        role="champion",
        model_hash="0" * 64,
        schema_hash="0" * 64,
        code="",
        libraries={},
        weights=USUAL_WEIGHTS,
        candidates=candidates,
        chosen=chosen,
        option={} if chosen is None else {"site_id": f"S-{chosen + 1}"},
        probability=None,
        foretold=None,
        risk=None,
        confidence=None,
        value_minor=None,
        currency="EUR",
    )


def overridden(decision_id: str, *, first: bool) -> DecisionOverridden:
    return DecisionOverridden(
        decision_id=decision_id,
        kind="fulfilment",
        subject_id="O-1",
        model_hash="0" * 64,
        decided={"site_id": "S-1"},
        option={},
        reason="no van",
        overridden_by="ana",
        first=first,
        approvals_left=0,
        overridden_at=NOON,
    )


def outcome(decision_id: str, *, followed: bool) -> DecisionOutcomeRecorded:
    return DecisionOutcomeRecorded(
        decision_id=decision_id,
        kind="fulfilment",
        subject_id="O-1",
        model_hash=None,
        probability=None,
        foretold=None,
        occurred=None,
        followed=followed,
        cost_minor=None,
        known_at=None,
    )


#: Two choose S-1, one S-2, one nothing; one is of another kind. Recorded on 1 March 2026.
DECISIONS = (
    made("D-1", 0),
    made("D-2", 0),
    made("D-3", 1),
    made("D-4", None),
    made("D-5", 0, kind="replenishment"),
    overridden("D-1", first=True),
    overridden("D-1", first=False),
    outcome("D-2", followed=True),
    outcome("D-3", followed=True),
    outcome("D-1", followed=False),
)


def test_cost_and_carbon_per_order() -> None:
    # 400 + 400 + 700 = 1500 for three orders: 5.00 EUR each. Amounts are told by currency.
    assert told("cost_per_order", DECISIONS) == {("EUR",): 500.0}
    assert told("cost_per_order", DECISIONS, ["site"]) == {
        ("S-1", "EUR"): 400.0,
        ("S-2", "EUR"): 700.0,
    }
    # 900 + 900 + 100 = 1900 g for three orders.
    assert told("carbon_per_order", DECISIONS)[()] == pytest.approx(1900 / 3)


def share(order_id: str, cost: int, carbon: int | None, **more: Any) -> OrderShare:
    return OrderShare(order_id=order_id, cost_minor=cost, carbon_g=carbon, **more)


def came_back(
    tour_id: str, weight_g: int, orders: int, cost: int, vehicle_id: str = "V-1", **more: Any
) -> TourCompleted:
    fields: dict[str, Any] = {
        "plan_id": "P-1",
        "site_id": "S-1",
        "day": date(2026, 3, 2),
        "currency": "EUR",
        "failed": 1,
        "max_weight_g": 1_000_000,
        "planned_distance_m": 0,
        "distance_m": 0,
        "measured": True,
        "planned_s": 0,
        "duration_s": 0,
        "planned_cost_minor": 0,
        "planned_carbon_g": None,
        "carbon_g": 3_000,
        "shares": (),
        "finished_at": day(2),
        "delay_s": 0,
    }
    return TourCompleted(
        tour_id=tour_id,
        vehicle_id=vehicle_id,
        weight_g=weight_g,
        completed=orders,
        cost_minor=cost,
        **(fields | more),
    )


#: One van twice on the 2nd; another one, of which neither load nor emissions are known, on the 3rd.
TOURS = (
    came_back("T-1", 600_000, 6, 2_500, volume_cm3=4_000_000, max_volume_cm3=8_000_000),
    came_back("T-2", 300_000, 3, 2_000, volume_cm3=2_000_000, max_volume_cm3=8_000_000),
    came_back(
        *("T-3", 50_000, 1, 1_500, "V-2"),
        max_weight_g=None,
        carbon_g=None,
        day=date(2026, 3, 3),
    ),
)


def test_vehicle_use() -> None:
    # 600 + 300 of 1,000 + 1,000 kg; of V-2 it is not known what it may carry: 0.45.
    assert told("vehicle_use_weight", TOURS) == {(): 0.45}
    # 4 + 2 of 8 + 8 m3; of V-2 nothing is known: 0.375.
    assert told("vehicle_use_volume", TOURS) == {(): 0.375}
    # Goods of which nobody said how large they are do not make a vehicle look empty.
    silent = came_back("T-4", 1, 1, 1, volume_cm3=0, max_volume_cm3=8_000_000)
    assert told("vehicle_use_volume", (*TOURS, silent)) == {(): 0.375}
    assert told("vehicle_use_volume", [silent]) == {(): None}
    # Two tours of V-1 on a day, one of V-2 on another: 3 tours on 2 vehicle days.
    assert told("tours_per_vehicle_day", TOURS) == {(): 1.5}
    assert told("tours_per_vehicle_day", TOURS, ["day"]) == {
        (date(2026, 3, 2),): 2.0,
        (date(2026, 3, 3),): 1.0,
    }


def test_cost_and_carbon_as_driven() -> None:
    # 25 + 20 + 15 = 60.00 EUR for 6 + 3 + 1 = 10 orders handed over: 6.00 EUR.
    assert told("tour_cost_per_order", TOURS) == {("EUR",): 600.0}
    # 3,000 + 3,000 g for the 9 orders of tours whose emissions are known.
    assert told("tour_carbon_per_order", TOURS)[()] == pytest.approx(6_000 / 9)


def test_cost_and_carbon_as_driven_by_client() -> None:
    tours = (
        came_back(
            *("T-1", 1, 2, 1_000),
            shares=(
                share("O-1", 600, 2_000, customer_id="C-1", handed_over=True),
                share("O-2", 300, 700, customer_id="C-2", handed_over=True),
                share("O-3", 100, 300, customer_id="C-1", handed_over=False),
            ),
        ),
        # Before events told it nobody knew whose it was; of its emissions nothing is known.
        came_back("T-2", 1, 1, 500, carbon_g=None, shares=(share("O-4", 500, None),)),
    )
    # C-1 bears the 6 + 1 EUR of one order that it got and of one that it did not.
    assert told("tour_cost_per_order", tours, ["client"]) == {
        ("", "EUR"): 500.0,
        ("C-1", "EUR"): 700.0,
        ("C-2", "EUR"): 300.0,
    }
    assert told("tour_carbon_per_order", tours, ["client"]) == {
        ("",): None,
        ("C-1",): 2_300.0,
        ("C-2",): 700.0,
    }


def test_decision_acceptance() -> None:
    # Of four made fulfilment decisions one was overridden, twice: 3 / 4. Of the other kind none.
    assert told("decision_acceptance", DECISIONS, ["kind"]) == {
        ("fulfilment",): 0.75,
        ("replenishment",): 1.0,
    }
    # At S-1 two were made and one of them was overridden, at S-2 one was made, and one at no site.
    assert told("decision_acceptance", DECISIONS, ["kind", "site"]) == {
        ("fulfilment", ""): 1.0,
        ("fulfilment", "S-1"): 0.5,
        ("fulfilment", "S-2"): 1.0,
        ("replenishment", "S-1"): 1.0,
    }
    # Of three outcomes two are of what was decided.
    assert told("decision_followed", DECISIONS)[()] == pytest.approx(2 / 3)


def test_decision_acceptance_by_client() -> None:
    # C-1: a decision on O-1 is overridden and made anew, one is made on O-2: 1 - 1 / 3. C-2's order
    # waits for its first decision; that of another kind is of no client.
    orders = tuple(
        placed.model_copy(update={"order_id": order, "customer_id": client})
        for order, client in (("O-1", "C-1"), ("O-2", "C-1"), ("O-3", "C-2"))
    )
    decisions = (
        made("D-1", 0),
        overridden("D-1", first=True),
        overridden("D-1", first=False),
        made("D-2", 1),
        made("D-3", 0).model_copy(update={"subject_id": "O-2"}),
        made("D-4", 0, kind="replenishment"),
    )
    told_by_client = told("decision_acceptance", orders + decisions, ["client"])
    assert told_by_client == {("C-1",): pytest.approx(2 / 3)}
    # Both decisions on O-1 count for S-1, which was chosen first.
    assert told("decision_acceptance", orders + decisions, ["client", "site", "kind"]) == {
        ("C-1", "S-1", "fulfilment"): pytest.approx(2 / 3),
    }


@pytest.mark.parametrize("name", list(KPIS))
def test_a_kpi_of_nothing_is_not_known_and_no_error(name: str) -> None:
    kpi = KPIS[name]
    rows = day_rows(kpi.table, folded(kpi.table, []), *MARCH)
    values = figures(kpi, rows, ())["value"].to_list()
    assert values == (
        []
        if kpi.unit == "minor_units"
        else [0.0 if name in ("stock_outs", "stock_out_days") else None]
    )


@pytest.mark.parametrize("name", list(KPIS))
def test_a_kpi_is_declared_whole(name: str) -> None:
    kpi = KPIS[name]
    assert kpi.title
    assert kpi.formula
    assert kpi.source
    for table in filter(None, (kpi.table, kpi.client_table)):
        if table != "stock_days":
            assert set(kpi.columns) <= set(summed(table))
    page = (Path(__file__).parents[1] / "docs" / "kpis.md").read_text()
    assert f"`{name}`" in page


@pytest.mark.skipif(
    not SCMS.is_dir(),
    reason=f"the SCMS deliveries are not in {SCMS}; CHAINLYTICS_DATA names another",
)
def test_the_late_share_of_real_deliveries() -> None:
    """USAID's SCMS delivery history: 10,324 deliveries, 1,186 of them late, by vendor too."""
    expected = json.loads((DATA / "EXPECTED.json").read_text())["scms_delivery_history"]
    with gzip.open(SCMS / "scms_delivery_history.csv.gz", "rt", encoding="utf-8-sig") as file:
        events = [_of_scms(row) for row in csv.DictReader(file)]
    ever = (date(2006, 1, 1), date(2016, 12, 31))
    assert len(events) == expected["rows"]
    assert told("late_share", events, period=ever)[()] == pytest.approx(
        expected["late_share"], abs=5e-7
    )
    by_vendor = told("late_share", events, ["site"], ever)
    for vendor, (deliveries, late) in expected["late_by_vendor_top"].items():
        assert by_vendor[(vendor,)] == pytest.approx(late / deliveries)


def _of_scms(row: Mapping[str, str]) -> OrderDelivered:
    scheduled, arrived = (
        datetime.strptime(row[name], "%d-%b-%y").replace(tzinfo=UTC)
        for name in ("Scheduled Delivery Date", "Delivered to Client Date")
    )
    return delivered(row["ID"], scheduled, scheduled, arrived, row["Vendor"])
