"""Orders: what each command leads to, and what each rule refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.decisions import (
    USUAL_WEIGHTS,
    DecisionConfirmed,
    DecisionContested,
    DecisionNotRedecided,
    DecisionReferred,
    DecisionRequested,
)
from domain.order_events import Filled
from domain.orders import (
    AllocateOrder,
    CancelOrder,
    DeliverOrder,
    LineSite,
    OrderAllocated,
    OrderCancelled,
    OrderDelivered,
    OrderLine,
    OrderPlaced,
    OrderShipped,
    PlaceOrder,
    ShipOrder,
)
from domain.sites import ServiceLevel, SiteClosed, SiteOpened
from domain.transport import VehicleRegistered
from domain.values import Command
from tests.spec import given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

LINE = OrderLine(line_no=1, sku="SKU-1", quantity=Decimal(2), unit_price_minor=1999, weight_g=500)
PLACE = PlaceOrder(
    order_id="O-1",
    customer_id="C-1",
    currency="EUR",
    lines=(LINE,),
    region="SP",
    placed_at=NOON,
    promised_at=NOON + 5 * DAY,
)
ALLOCATE = AllocateOrder(order_id="O-1", site_id="S-1", allocated_at=NOON + HOUR)
SHIP = ShipOrder(order_id="O-1", carrier="DHL", shipped_at=NOON + 3 * HOUR)
DELIVER = DeliverOrder(order_id="O-1", delivered_at=NOON + 2 * DAY)
CANCEL = CancelOrder(order_id="O-1", reason="changed mind", cancelled_at=NOON + 2 * HOUR)

placed = OrderPlaced(
    order_id="O-1",
    customer_id="C-1",
    currency="EUR",
    lines=(LINE,),
    lines_known=True,
    units=Decimal(2),
    goods_minor=3998,
    freight_minor=0,
    weight_g=1000,
    region="SP",
    placed_at=NOON,
    promised_at=NOON + 5 * DAY,
)
allocated = OrderAllocated(
    order_id="O-1",
    site_id="S-1",
    service_level="standard",
    line_sites=(LineSite(line_no=1, site_id="S-1"),),
    decision_id=None,
    region="SP",
    allocated_at=NOON + HOUR,
)
shipped = OrderShipped(
    order_id="O-1",
    site_id="S-1",
    service_level="standard",
    region="SP",
    carrier="DHL",
    shipped_at=NOON + 3 * HOUR,
    handling_s=7200,
    out_of_order=False,
)
delivered = OrderDelivered(
    order_id="O-1",
    site_id="S-1",
    service_level="standard",
    region="SP",
    currency="EUR",
    placed_at=NOON,
    promised_at=NOON + 5 * DAY,
    delivered_at=NOON + 2 * DAY,
    late=False,
    transit_s=45 * 3600,
    out_of_order=False,
    customer_id="C-1",
    filled=Filled(
        lines=1,
        lines_filled=1,
        units=Decimal(2),
        units_filled=Decimal(2),
        units_delivered=Decimal(2),
    ),
)
cancelled = OrderCancelled(
    order_id="O-1",
    site_id=None,
    currency="EUR",
    placed_at=NOON,
    cancelled_at=NOON + 2 * HOUR,
    reason="changed mind",
)


def site(site_id: str = "S-1", *levels: str) -> SiteOpened:
    return SiteOpened(
        site_id=site_id,
        name=None,
        region=None,
        service_levels=tuple(ServiceLevel(code=code) for code in levels or ("standard",)),
        daily_capacity=None,
        opened_at=None,
    )


def changed(event: Any, **fields: Any) -> Any:
    return event.model_copy(update=fields)


# place


def test_an_order_is_placed_with_its_totals() -> None:
    given().when(PLACE).then(placed)


def test_totals_add_up_over_lines_and_a_missing_weight_leaves_the_weight_unknown() -> None:
    second = OrderLine(
        line_no=2, sku="SKU-2", quantity=Decimal("0.5"), unit_price_minor=5, freight_minor=7
    )
    given().when(changed(PLACE, lines=(LINE, second))).then(
        changed(
            placed,
            lines=(LINE, second),
            units=Decimal("2.5"),
            goods_minor=3998 + 2,  # half a cent rounds to even
            freight_minor=7,
            weight_g=None,
        )
    )


def test_an_order_whose_lines_were_never_recorded_is_placed_without_them() -> None:
    given().when(changed(PLACE, lines=(), lines_known=False)).then(
        changed(placed, lines=(), lines_known=False, units=Decimal(0), goods_minor=0, weight_g=None)
    )


@pytest.mark.parametrize(
    ("history", "status"),
    [
        ([placed], "placed"),
        ([placed, allocated], "allocated"),
        ([placed, allocated, shipped, delivered], "delivered"),
        ([placed, cancelled], "cancelled"),
    ],
)
def test_an_order_is_placed_once(history: list[Any], status: str) -> None:
    given(*history).when(PLACE).refused("order.already_placed", status=status)


# allocate


def test_an_order_is_allocated() -> None:
    given(placed).reading(site()).when(ALLOCATE).then(allocated)


def test_an_allocation_may_be_made_again_until_shipped() -> None:
    again = changed(ALLOCATE, site_id="S-2", decision_id="D-1")
    given(placed, allocated).reading(site("S-2")).when(again).then(
        changed(
            allocated,
            site_id="S-2",
            decision_id="D-1",
            line_sites=(LineSite(line_no=1, site_id="S-2"),),
        )
    )


NAMES = {"decision_id": "D-1", "kind": "fulfilment", "subject_id": "O-1"}
requested = DecisionRequested(
    **NAMES, weights=USUAL_WEIGHTS, priority=5, deadline=None, redecides=None, requested_at=NOON
)
contested = DecisionContested(
    **NAMES,
    reason="too dear",
    contested_by="ana",
    redecide=True,
    weights=USUAL_WEIGHTS,
    priority=5,
    contested_at=NOON,
)


def referred(approvals: int = 1) -> DecisionReferred:
    return DecisionReferred(**NAMES, model_hash="a" * 64, approvals=approvals, reasons=())


def confirmed(left: int = 0) -> DecisionConfirmed:
    return DecisionConfirmed(
        **NAMES,
        model_hash="a" * 64,
        option={},
        confirmed_by="ana",
        approvals_left=left,
        confirmed_at=NOON,
    )


def kept(stage: str) -> DecisionNotRedecided:
    return DecisionNotRedecided(**NAMES, stage=stage, code="order.unknown", detail="none")


BY_DECISION = ALLOCATE.model_copy(update={"decision_id": "D-1"})


@pytest.mark.parametrize(
    ("history", "stage"),
    [
        ([referred()], "referred"),
        ([referred(2), confirmed(1)], "referred"),
        ([referred(), contested], "contested"),
        ([contested], "contested"),
        ([referred(), contested, kept("referred")], "referred"),
    ],
)
def test_nobody_acts_on_a_decision_that_waits_for_people(history: list[Any], stage: str) -> None:
    given(placed).reading(site(), requested, *history).when(BY_DECISION).refused(
        "decision.waits_for_people", decision_id="D-1", stage=stage
    )
    # Without naming it, anybody may.
    given(placed).reading(site(), *history).when(ALLOCATE).then(allocated)


@pytest.mark.parametrize(
    "history",
    [[], [referred(), confirmed()], [referred(), confirmed(), contested, kept("confirmed")]],
)
def test_a_decision_that_stands_is_acted_on(history: list[Any]) -> None:
    told = allocated.model_copy(update={"decision_id": "D-1"})
    given(placed).reading(site(), requested, *history).when(BY_DECISION).then(told)


def test_a_decision_is_looked_at_beside_sites_and_vehicle() -> None:
    """States are read in the order of their streams."""
    parted = changed(
        BY_DECISION,
        vehicle_id="V-1",
        line_sites=(LineSite(line_no=1, site_id="S-2"),),
    )
    truck = VehicleRegistered(
        vehicle_id="V-1",
        site_id="S-1",
        mode="truck",
        service_levels=("standard",),
        max_weight_g=None,
        daily_capacity=None,
        cost_minor=0,
        carbon_g=0,
        registered_at=None,
    )
    known = given(placed).reading(site(), site("S-2"), truck, requested, referred())
    known.when(parted).refused("decision.waits_for_people", decision_id="D-1")
    known = known.reading(site(), site("S-2"), truck, requested, referred(), confirmed())
    assert known.when(parted).refusal is None
    known.reading(site(), truck, requested, referred(), confirmed()).when(parted).refused(
        "site.unknown"
    )
    known.reading(site(), site("S-2"), confirmed()).when(parted).refused("vehicle.unknown")


def test_lines_may_part() -> None:
    lines = (LINE, changed(LINE, line_no=2))
    parted = changed(ALLOCATE, line_sites=(LineSite(line_no=2, site_id="S-2"),))
    given(changed(placed, lines=lines)).reading(site(), site("S-2")).when(parted).then(
        changed(
            allocated,
            line_sites=(LineSite(line_no=1, site_id="S-1"), LineSite(line_no=2, site_id="S-2")),
        )
    )


def test_a_line_sold_by_one_site_is_shipped_by_no_other() -> None:
    sold = changed(placed, lines=(changed(LINE, site_id="S-9"),))
    given(sold).reading(site()).when(ALLOCATE).refused(
        "order.line_sold_by_another_site", line_no=1, sold_by="S-9", asked="S-1"
    )


def test_a_line_sold_by_one_site_is_shipped_by_it() -> None:
    sold = changed(placed, lines=(changed(LINE, site_id="S-1"),))
    given(sold).reading(site()).when(ALLOCATE).then(allocated)


def test_an_allocation_names_no_line_that_is_not_there() -> None:
    wrong = changed(ALLOCATE, line_sites=(LineSite(line_no=7, site_id="S-1"),))
    given(placed).reading(site()).when(wrong).refused("order.no_such_line", line_no=7)


def test_an_order_without_known_lines_is_not_allocated() -> None:
    given(changed(placed, lines=(), lines_known=False)).reading(site()).when(ALLOCATE).refused(
        "order.lines_not_known"
    )


def test_an_allocation_needs_a_site() -> None:
    given(placed).when(ALLOCATE).refused("site.unknown", site_id="S-1")


def test_an_allocation_needs_an_open_site() -> None:
    closed = SiteClosed(site_id="S-1", reason="fire", closed_at=None)
    given(placed).reading(site(), closed).when(ALLOCATE).refused("site.closed", site_id="S-1")


def test_each_site_of_an_allocation_is_looked_at() -> None:
    lines = (LINE, changed(LINE, line_no=2))
    parted = changed(ALLOCATE, line_sites=(LineSite(line_no=2, site_id="S-2"),))
    given(changed(placed, lines=lines)).reading(site()).when(parted).refused(
        "site.unknown", site_id="S-2"
    )


def test_a_site_ships_by_the_levels_that_it_offers() -> None:
    express = changed(ALLOCATE, service_level="express")
    given(placed).reading(site("S-1", "standard", "economy")).when(express).refused(
        "site.service_level_not_offered", service_level="express", offered="economy, standard"
    )


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], "order.unknown"),
        ([placed, allocated, shipped], "order.already_shipped"),
        ([placed, allocated, shipped, delivered], "order.already_delivered"),
        ([placed, cancelled], "order.already_cancelled"),
    ],
)
def test_an_allocation_comes_before_the_shipment(history: list[Any], code: str) -> None:
    given(*history).reading(site()).when(ALLOCATE).refused(code)


# ship


def test_an_order_is_shipped() -> None:
    given(placed, allocated).when(SHIP).then(shipped)


def test_a_shipment_dated_before_its_allocation_is_told_as_it_was() -> None:
    early = changed(SHIP, shipped_at=NOON)
    given(placed, allocated).when(early).then(
        changed(shipped, shipped_at=NOON, handling_s=-3600, out_of_order=True)
    )


def test_a_shipment_without_a_time_has_no_handling_time() -> None:
    untimed = changed(SHIP, shipped_at=None)
    given(placed, allocated).when(untimed).then(changed(shipped, shipped_at=None, handling_s=None))


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], "order.unknown"),
        ([placed], "order.not_allocated"),
        ([placed, allocated, shipped], "order.already_shipped"),
        ([placed, allocated, shipped, delivered], "order.already_delivered"),
        ([placed, allocated, cancelled], "order.already_cancelled"),
    ],
)
def test_only_an_allocated_order_is_shipped(history: list[Any], code: str) -> None:
    given(*history).when(SHIP).refused(code)


# deliver


def test_an_order_is_delivered_in_time() -> None:
    given(placed, allocated, shipped).when(DELIVER).then(delivered)


def test_a_delivery_at_the_promised_moment_is_in_time() -> None:
    moment = NOON + 5 * DAY
    given(placed, allocated, shipped).when(changed(DELIVER, delivered_at=moment)).then(
        changed(delivered, delivered_at=moment, late=False, transit_s=5 * 86400 - 3 * 3600)
    )


def test_a_delivery_after_the_promised_moment_is_late() -> None:
    moment = NOON + 5 * DAY + timedelta(seconds=1)
    given(placed, allocated, shipped).when(changed(DELIVER, delivered_at=moment)).then(
        changed(delivered, delivered_at=moment, late=True, transit_s=5 * 86400 - 3 * 3600 + 1)
    )


def test_a_delivery_without_a_time_is_neither_late_nor_in_time() -> None:
    given(placed, allocated, shipped).when(changed(DELIVER, delivered_at=None)).then(
        changed(delivered, delivered_at=None, late=None, transit_s=None)
    )


def test_a_delivery_dated_before_its_shipment_is_told_as_it_was() -> None:
    given(placed, allocated, shipped).when(changed(DELIVER, delivered_at=NOON)).then(
        changed(delivered, delivered_at=NOON, transit_s=-3 * 3600, out_of_order=True)
    )


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], "order.unknown"),
        ([placed], "order.not_shipped"),
        ([placed, allocated], "order.not_shipped"),
        ([placed, allocated, shipped, delivered], "order.already_delivered"),
        ([placed, cancelled], "order.already_cancelled"),
    ],
)
def test_only_a_shipped_order_is_delivered(history: list[Any], code: str) -> None:
    given(*history).when(DELIVER).refused(code)


# cancel


def test_an_order_is_cancelled_before_it_is_allocated() -> None:
    given(placed).when(CANCEL).then(cancelled)


def test_an_order_is_cancelled_before_it_is_shipped() -> None:
    given(placed, allocated).when(CANCEL).then(changed(cancelled, site_id="S-1"))


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], "order.unknown"),
        ([placed, allocated, shipped], "order.already_shipped"),
        ([placed, allocated, shipped, delivered], "order.already_shipped"),
        ([placed, cancelled], "order.already_cancelled"),
    ],
)
def test_it_is_too_late_to_cancel(history: list[Any], code: str) -> None:
    given(*history).when(CANCEL).refused(code)


# what a command may hold

PLACE_FIELDS: dict[str, Any] = {
    "order_id": "O-1",
    "customer_id": "C-1",
    "currency": "EUR",
    "lines": [{"line_no": 1, "sku": "SKU-1", "quantity": "2", "unit_price_minor": 1999}],
    "placed_at": "2026-03-01T12:00:00Z",
    "promised_at": "2026-03-06T12:00:00Z",
}


def line(**fields: Any) -> dict[str, Any]:
    return {"lines": [PLACE_FIELDS["lines"][0] | fields]}


def test_good_fields_have_no_problems() -> None:
    assert problems(PlaceOrder, **PLACE_FIELDS) == ""
    assert problems(AllocateOrder, order_id="O", site_id="S", allocated_at=None) == ""


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"lines": []}, "lines", "at least one line"),
        ({"lines_known": False}, "lines", "must be empty where lines_known is false"),
        ({"lines": PLACE_FIELDS["lines"] * 2}, "lines", "line_no must be unique"),
        ({"promised_at": "2026-03-01T11:59:59Z"}, "promised_at", "not be before placed_at"),
        ({"currency": "EURO"}, "currency", "not an ISO 4217 currency code"),
        ({"currency": "eur"}, "currency", "not an ISO 4217 currency code"),
        ({"placed_at": "2026-03-01T12:00:00"}, "placed_at", "timezone"),
        ({"placed_at": "yesterday"}, "placed_at", "valid datetime"),
        ({"placed_at": "0001-01-01T00:00:00+05:00"}, "placed_at", "outside the calendar"),
        ({"order_id": ""}, "order_id", "match pattern"),
        ({"order_id": "a b"}, "order_id", "match pattern"),
        ({"order_id": "../etc"}, "order_id", "match pattern"),
        ({"order_id": "x" * 65}, "order_id", "match pattern"),
        ({"region": "São Paulo"}, "region", "match pattern"),
        ({"priority": 1}, "priority", "Extra inputs are not permitted"),
        (line(colour="red"), "lines.0.colour", "Extra inputs are not permitted"),
        (line(unit_price_minor=-1), "lines.0.unit_price_minor", "greater than or equal to 0"),
        (line(unit_price_minor=1.5), "lines.0.unit_price_minor", "valid integer"),
        (line(freight_minor=-1), "lines.0.freight_minor", "greater than or equal to 0"),
        (line(quantity="0"), "lines.0.quantity", "greater than 0"),
        (line(quantity="-1"), "lines.0.quantity", "greater than 0"),
        (line(quantity="1.0001"), "lines.0.quantity", "no more than 3 decimal places"),
        (line(quantity="NaN"), "lines.0.quantity", "finite number"),
        (line(line_no=0), "lines.0.line_no", "greater than or equal to 1"),
        (line(quantity="1000000", unit_price_minor=10**10), "lines", "worth more than"),
        (line(freight_minor=10**16), "lines.0.freight_minor", "less than or equal to"),
        (line(quantity="10000000", weight_g=10**9), "lines", "heavier than"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    fields: dict[str, Any], field: str, rule: str
) -> None:
    told = problems(PlaceOrder, **(PLACE_FIELDS | fields))
    assert field in told
    assert rule in told


@pytest.mark.parametrize(
    ("kind", "fields", "field", "rule"),
    [
        (
            AllocateOrder,
            {
                "site_id": "S",
                "allocated_at": None,
                "line_sites": [{"line_no": 1, "site_id": "S"}, {"line_no": 1, "site_id": "T"}],
            },
            "line_sites",
            "line_no must be unique",
        ),
        (AllocateOrder, {"site_id": "S"}, "allocated_at", "Field required"),
        (ShipOrder, {"shipped_at": "2026-03-01T12:00:00"}, "shipped_at", "timezone"),
        (DeliverOrder, {}, "delivered_at", "Field required"),
        (CancelOrder, {"reason": "", "cancelled_at": None}, "reason", "at least 1 character"),
        (CancelOrder, {"reason": "x" * 501, "cancelled_at": None}, "reason", "at most 500"),
        (CancelOrder, {"reason": "a\0b", "cancelled_at": None}, "reason", "U+0000"),
    ],
)
def test_a_wrong_field_of_a_later_step_is_named_with_its_rule(
    kind: type[Command], fields: dict[str, Any], field: str, rule: str
) -> None:
    told = problems(kind, order_id="O-1", **fields)
    assert field in told
    assert rule in told


def test_times_are_kept_in_utc() -> None:
    order = PlaceOrder(**(PLACE_FIELDS | {"placed_at": "2026-03-01T09:00:00-03:00"}))
    assert order.placed_at == NOON
    assert order.placed_at.tzinfo is UTC
