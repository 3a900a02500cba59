"""Parts of orders: shipped, delivered with proof, split off, cancelled, returned, promised anew."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest

from domain import catalogue
from domain.clients import RegisterClient, RetireClient
from domain.inventory import PickStock, StockReturned
from domain.order_events import (
    Filled,
    LinesCancelled,
    LineSite,
    LinesReturned,
    LineTerms,
    OrderPlaced,
    OrderRepromised,
    OrderSplit,
    Proof,
)
from domain.orders import (
    AllocateOrder,
    CancelLines,
    CancelOrder,
    DeliverOrder,
    DeliverShipment,
    OrderCancelled,
    OrderDelivered,
    PlaceOrder,
    RepromiseOrder,
    ReserveOrder,
    ReturnOrder,
    ShipOrder,
    ShipPart,
    SplitOrder,
)
from domain.people import SealedRecipient
from domain.products import RegisterProduct, RetireProduct
from domain.shipments import LineQuantity
from domain.transport import RegisterVehicle
from domain.values import Command
from tests.order_world import (
    DAY,
    HOUR,
    NOON,
    PROMISED,
    allocated,
    arrived,
    aside,
    by_hand,
    came,
    changed,
    closed,
    ended,
    free,
    kept,
    left,
    opened,
    part,
    placed,
    taken,
    waits,
)
from tests.serving import Served, accepted, assert_problem, found, get, post, serving_here
from tests.spec import given, problems

AT = NOON + 3 * HOUR
PROOF = Proof(kind="signature", sha256="ab" * 32, reference="POD-1")

whole = (placed, allocated, kept(part(1, 10, 10), part(2, 4, 4)))
whole_stock = (came("A", 12), aside("A", 10), came("B", 4), aside("B", 4))
#: Six of line 1 went in shipment P-1.
begun = (*whole, left("P-1", part(1, 6, 6), weight_g=1200))
begun_stock = (*whole_stock, taken("A", 6, AT))
#: All has left, in two shipments.
gone = (*begun, left("P-2", part(1, 4, 4), part(2, 4, 4), weight_g=1200), ended(2))
#: Of an order that has line 1 alone.
allocated_alone = changed(allocated, line_sites=(LineSite(line_no=1, site_id="S-1"),))
#: As the old way is: no stock, no parts.
plain = (placed, allocated, changed(ended(1), parts=None, carrier="DHL"))


def asked(**lines: int) -> tuple[LineQuantity, ...]:
    """Quantities by ``one`` and ``two``."""
    numbers = {"one": 1, "two": 2, "nine": 9}
    return tuple(
        LineQuantity(line_no=numbers[name], quantity=Decimal(quantity))
        for name, quantity in lines.items()
    )


def ship(shipment_id: str = "P-1", **lines: int) -> ShipPart:
    return ShipPart(
        order_id="O-1",
        shipment_id=shipment_id,
        lines=asked(**lines),
        carrier="DHL",
        shipped_at=AT,
    )


#: Of lines of ten and four: all at once; or six of the first line, and the rest behind.
AT_ONCE = Filled(
    lines=2,
    lines_filled=2,
    units=Decimal(14),
    units_filled=Decimal(14),
    units_delivered=Decimal(14),
)
IN_TWO = AT_ONCE.model_copy(update={"lines_filled": 0, "units_filled": Decimal(6)})


def handed(parts: int, at: Any = NOON + DAY, **more: Any) -> OrderDelivered:
    told: dict[str, Any] = {"customer_id": "C-1", "filled": IN_TWO if parts == 2 else AT_ONCE}
    return OrderDelivered(
        order_id="O-1",
        site_id="S-1",
        service_level="standard",
        region="SP",
        currency="EUR",
        placed_at=NOON,
        promised_at=PROMISED,
        delivered_at=at,
        late=at > PROMISED,
        transit_s=int((at - AT).total_seconds()),
        out_of_order=False,
        vehicle_id="V-1",
        parts=parts,
        **(told | more),
    )


# ship in parts


def test_a_part_leaves_and_takes_what_was_put_aside_for_it() -> None:
    given(*whole).reading(*whole_stock).when(ship(one=6)).then(
        taken("A", 6, AT), left("P-1", part(1, 6, 6), weight_g=1200)
    )


def test_with_the_last_part_the_order_has_left() -> None:
    given(*begun).reading(*begun_stock).when(ship("P-2", one=4, two=4)).then(
        taken("A", 4, AT),
        taken("B", 4, AT),
        left("P-2", part(1, 4, 4), part(2, 4, 4), weight_g=1200),
        ended(2),
    )


def test_the_rest_leaves_under_the_next_number() -> None:
    rest = ShipOrder(order_id="O-1", carrier="DHL", shipped_at=AT)
    given(*begun).reading(*begun_stock).when(rest).then(
        taken("A", 4, AT),
        taken("B", 4, AT),
        left("1", part(1, 4, 4), part(2, 4, 4), weight_g=1200),
        ended(2),
    )


def test_the_rest_leaves_each_site_by_itself() -> None:
    parted = changed(
        allocated,
        line_sites=(LineSite(line_no=1, site_id="S-1"), LineSite(line_no=2, site_id="S-2")),
    )
    second = changed(part(2, 4), site_id="S-2")
    given(placed, parted, left("1", part(1, 6), weight_g=1200)).when(
        ShipOrder(order_id="O-1", carrier="DHL", shipped_at=AT)
    ).then(
        left("2", part(1, 4), weight_g=800),
        changed(left("3", second, weight_g=400), site_id="S-2"),
        ended(3),
    )
    given(placed, parted).when(ship(one=1, two=1)).refused(
        "shipment.of_several_sites", sites="S-1, S-2"
    )


def test_what_was_never_reserved_leaves_in_parts_as_well() -> None:
    given(placed, allocated).when(ship(one=6)).then(left("P-1", part(1, 6), weight_g=1200))


def test_a_part_of_unknown_weight_has_none() -> None:
    lines = (changed(placed.lines[0], weight_g=None), placed.lines[1])
    given(changed(placed, lines=lines), allocated).when(ship(one=1, two=1)).then(
        changed(left("P-1", part(1, 1), part(2, 1)), weight_g=None)
    )


@pytest.mark.parametrize(
    ("history", "command", "code"),
    [
        ([], ship(one=1), "order.unknown"),
        ([placed], ship(one=1), "order.not_allocated"),
        (begun, ship("P-1", one=1), "shipment.already_shipped"),
        (begun, ship("P-2", one=5), "order.not_open"),
        (begun, ship("P-2", nine=1), "order.no_such_line"),
        (gone, ship("P-3", one=1), "order.already_shipped"),
        ([changed(placed, lines=(), lines_known=False)], ship(one=1), "order.not_allocated"),
    ],
)
def test_only_what_is_open_is_shipped(history: list[Any], command: ShipPart, code: str) -> None:
    given(*history).reading(*begun_stock).when(command).refused(code)


def test_what_waits_for_stock_is_not_shipped() -> None:
    short = (placed, allocated, kept(part(1, 6, 6)), waits(1, 4), waits(2, 4))
    known = given(*short).reading(came("A", 6), aside("A", 6))
    known.when(ship(one=7)).refused("order.backordered", reserved="6", asked="7")
    known.when(ship(one=6)).then(taken("A", 6, AT), left("P-1", part(1, 6, 6), weight_g=1200))


# deliver


def deliver(shipment_id: str = "P-1", at: Any = NOON + DAY, **more: Any) -> DeliverShipment:
    return DeliverShipment(order_id="O-1", shipment_id=shipment_id, delivered_at=at, **more)


def test_a_shipment_arrives_with_its_proof() -> None:
    given(*begun).when(deliver(proof=PROOF)).then(changed(arrived("P-1", part(1, 6)), proof=PROOF))


def test_the_order_has_arrived_with_the_last_shipment_and_as_late_as_that() -> None:
    late = PROMISED + timedelta(seconds=90)
    second = arrived("P-2", part(1, 4), part(2, 4), at=late)
    assert (second.late, second.late_s) == (True, 90)
    first = arrived("P-1", part(1, 6))
    assert (first.late, first.late_s) == (False, -4 * 86_400)
    given(*gone, first).when(deliver("P-2", late)).then(second, handed(2, late))
    # The other one is told of last, and was later.
    given(*gone, second).when(deliver("P-1")).then(first, handed(2, late))


def test_what_is_still_to_leave_keeps_an_order_open() -> None:
    given(*begun, arrived("P-1", part(1, 6))).when(
        DeliverOrder(order_id="O-1", delivered_at=NOON)
    ).refused("order.not_shipped", status="partly_shipped")


def test_all_that_is_on_its_way_arrives_at_once() -> None:
    second = changed(arrived("P-2", part(1, 4), part(2, 4)), proof=PROOF)
    given(*gone, arrived("P-1", part(1, 6))).when(
        DeliverOrder(order_id="O-1", delivered_at=NOON + DAY, proof=PROOF)
    ).then(second, handed(2))


def test_an_order_that_left_as_a_whole_is_its_own_shipment() -> None:
    whole_order = changed(handed(1), parts=None, proof=PROOF)
    given(*plain).when(deliver("1", proof=PROOF)).then(whole_order)
    given(*plain).when(DeliverOrder(order_id="O-1", delivered_at=NOON + DAY, proof=PROOF)).then(
        whole_order
    )


def test_a_time_that_was_never_recorded_leaves_the_orders_open() -> None:
    untimed = arrived("P-1", part(1, 6)).model_copy(
        update={"delivered_at": None, "late": None, "late_s": None, "transit_s": None}
    )
    second = arrived("P-2", part(1, 4), part(2, 4))
    whole_order = handed(2).model_copy(
        update={"delivered_at": None, "late": None, "transit_s": None}
    )
    given(*gone, untimed).when(deliver("P-2")).then(second, whole_order)


@pytest.mark.parametrize(
    ("history", "shipment_id", "code"),
    [
        ([], "P-1", "order.unknown"),
        (whole, "P-1", "order.not_shipped"),
        (begun, "P-9", "shipment.unknown"),
        ([*begun, arrived("P-1", part(1, 6))], "P-1", "shipment.already_delivered"),
        ([*plain, changed(handed(1), parts=None)], "1", "order.already_delivered"),
    ],
)
def test_only_what_is_on_its_way_arrives(history: list[Any], shipment_id: str, code: str) -> None:
    given(*history).when(deliver(shipment_id)).refused(code)


def test_where_a_person_was_met_is_told_by_the_district() -> None:
    told = PROOF.model_dump()
    exact = Proof(**(told | {"location": {"latitude": 52.52, "longitude": 13.405}}))
    district = Proof(**(told | {"location": {"latitude": 52.52, "longitude": 13.4}}))
    token = "p1." + "x" * 40
    personal = changed(placed, person=str(uuid4()), recipient=SealedRecipient(name=token))
    known = given(personal, *begun[1:])
    known.when(deliver(proof=exact)).refused("order.location_too_exact", field="proof.location")
    assert known.when(deliver(proof=district)).refusal is None
    given(personal, *plain[1:]).when(
        DeliverOrder(order_id="O-1", delivered_at=NOON, proof=exact)
    ).refused("order.location_too_exact")
    assert given(*begun).when(deliver(proof=exact)).refusal is None


# cancel


def cancelled_lines(*parts: Any, reserved: int, goods: int) -> LinesCancelled:
    return LinesCancelled(
        order_id="O-1",
        lines=parts,
        units=sum((one.quantity for one in parts), Decimal(0)),
        reserved=Decimal(reserved),
        backordered=sum((one.backordered for one in parts), Decimal(0)),
        goods_minor=goods,
        currency="EUR",
        placed_at=NOON,
        cancelled_at=AT,
        reason="x",
    )


def drop(**lines: int) -> CancelLines:
    return CancelLines(order_id="O-1", lines=asked(**lines), reason="x", cancelled_at=AT)


CANCEL = CancelOrder(order_id="O-1", reason="x", cancelled_at=AT)


def test_the_rest_of_an_order_is_given_up_and_closes_it() -> None:
    given(*begun).reading(*begun_stock).when(CANCEL).then(
        free("A", 4, at=AT),
        free("B", 4, at=AT),
        cancelled_lines(part(1, 4, 4), part(2, 4, 4), reserved=8, goods=4600),
        ended(1),
    )


def test_where_all_that_left_has_arrived_the_order_has() -> None:
    given(*begun, arrived("P-1", part(1, 6))).reading(*begun_stock).when(CANCEL).then(
        free("A", 4, at=AT),
        free("B", 4, at=AT),
        cancelled_lines(part(1, 4, 4), part(2, 4, 4), reserved=8, goods=4600),
        ended(1),
        handed(1, filled=IN_TWO.model_copy(update={"units_delivered": Decimal(6)})),
    )


def test_pieces_are_given_up_what_waits_first() -> None:
    short = (placed, allocated, kept(part(1, 6, 6), part(2, 4, 4)), waits(1, 4))
    stock = (came("A", 6), aside("A", 6), came("B", 4), aside("B", 4))
    given(*short).reading(*stock).when(drop(one=5)).then(
        free("A", 1, at=AT), cancelled_lines(part(1, 5, 1, 4), reserved=1, goods=750)
    )


def test_an_order_of_which_nothing_is_left_is_cancelled() -> None:
    given(placed).when(drop(one=10, two=4)).then(
        cancelled_lines(
            changed(part(1, 10), site_id=None),
            changed(part(2, 4), site_id=None),
            reserved=0,
            goods=5500,
        ),
        OrderCancelled(
            order_id="O-1",
            site_id=None,
            currency="EUR",
            placed_at=NOON,
            cancelled_at=AT,
            reason="x",
        ),
    )


@pytest.mark.parametrize(
    ("history", "command", "code"),
    [
        ([], drop(one=1), "order.unknown"),
        ([placed], drop(one=11), "order.not_open"),
        ([placed], drop(nine=1), "order.no_such_line"),
        (begun, drop(one=5), "order.not_open"),
        ([changed(placed, lines=(), lines_known=False)], drop(one=1), "order.lines_not_known"),
    ],
)
def test_only_what_is_open_is_given_up(history: list[Any], command: CancelLines, code: str) -> None:
    given(*history).reading(*begun_stock).when(command).refused(code)


@pytest.mark.parametrize("command", [drop(one=1), CANCEL])
@pytest.mark.parametrize("history", [gone, plain, (*plain, changed(handed(1), parts=None))])
def test_what_has_left_is_returned_instead(history: list[Any], command: Command) -> None:
    given(*history).when(command).refused("order.already_shipped", instead="return it")


# split


SPLIT = SplitOrder(order_id="O-1", new_order_id="O-2", lines=asked(one=4), split_at=NOON)


def split_off(*parts: Any, reserved: int, backordered: int, goods: int) -> OrderSplit:
    return OrderSplit(
        order_id="O-1",
        new_order_id="O-2",
        lines=parts,
        units=sum((one.quantity for one in parts), Decimal(0)),
        reserved=Decimal(reserved),
        backordered=Decimal(backordered),
        goods_minor=goods,
        currency="EUR",
        placed_at=NOON,
        split_at=NOON,
    )


new_placed = changed(
    placed,
    order_id="O-2",
    lines=(changed(placed.lines[0], quantity=Decimal(4)),),
    units=Decimal(4),
    goods_minor=600,
    weight_g=800,
    volume_cm3=200,
    split_from="O-1",
)
new_allocated = changed(allocated, order_id="O-2", line_sites=(LineSite(line_no=1, site_id="S-1"),))


def test_lines_become_an_order_of_their_own() -> None:
    given(placed).when(SPLIT).then(
        split_off(changed(part(1, 4), site_id=None), reserved=0, backordered=0, goods=600),
        new_placed,
    )


def test_what_was_put_aside_goes_along_and_what_waits_goes_first() -> None:
    short = (placed, allocated, kept(part(1, 7, 7), part(2, 4, 4)), waits(1, 3))
    stock = (came("A", 7), aside("A", 7), came("B", 4), aside("B", 4))
    given(*short).reading(*stock).when(SPLIT).then(
        free("A", 1),
        aside("A", 1, "O-2"),
        split_off(part(1, 4, 1, 3), reserved=1, backordered=3, goods=600),
        new_placed,
        new_allocated,
        kept(part(1, 1, 1), order_id="O-2"),
        waits(1, 3, "O-2"),
    )


def test_a_split_keeps_the_first_promise_and_tells_of_the_last() -> None:
    told = OrderRepromised(
        order_id="O-1",
        promised_at=PROMISED + DAY,
        before=PROMISED,
        first_promised_at=PROMISED,
        repromised_at=NOON,
        reason="x",
    )
    outcome = given(placed, told).when(SPLIT)
    assert outcome.events[-1] == changed(told, order_id="O-2", reason="split from O-1")


def test_an_order_whose_rest_is_split_off_has_left() -> None:
    rest = SPLIT.model_copy(update={"lines": asked(one=4, two=4)})
    outcome = given(*begun).reading(*begun_stock).when(rest)
    assert outcome.refusal is None
    assert outcome.events[4] == split_off(
        part(1, 4, 4), part(2, 4, 4), reserved=8, backordered=0, goods=4600
    )
    assert outcome.events[5] == ended(1)


@pytest.mark.parametrize(
    ("history", "read", "lines", "code"),
    [
        ([], [], asked(one=1), "order.unknown"),
        ([placed], [changed(placed, order_id="O-2")], asked(one=1), "order.already_placed"),
        ([placed], [], asked(one=10, two=4), "order.nothing_left"),
        ([placed], [], asked(one=11), "order.not_open"),
        (gone, [], asked(one=1), "order.already_shipped"),
    ],
)
def test_an_order_is_split_in_two_that_have_something(
    history: list[Any], read: list[Any], lines: Any, code: str
) -> None:
    command = SPLIT.model_copy(update={"lines": lines})
    given(*history).reading(*read).when(command).refused(code)


# return


BACK = ReturnOrder(
    order_id="O-1",
    return_id="R-1",
    lines=asked(one=2),
    reason="too small",
    site_id="S-1",
    returned_at=NOON,
)
returned = LinesReturned(
    order_id="O-1",
    return_id="R-1",
    site_id="S-1",
    lines=(part(1, 2),),
    units=Decimal(2),
    goods_minor=300,
    currency="EUR",
    placed_at=NOON,
    restock=True,
    returned_at=NOON,
    reason="too small",
)
restocked = StockReturned(
    site_id="S-1",
    sku="A",
    quantity=Decimal(2),
    order_id="O-1",
    return_id="R-1",
    returned_at=NOON,
)
done = (*plain, changed(handed(1), parts=None))


def test_goods_come_back_onto_the_shelf() -> None:
    given(*done).reading(opened).when(BACK).then(returned, restocked)


def test_broken_goods_come_back_onto_no_shelf() -> None:
    broken = BACK.model_copy(update={"restock": False})
    given(*done).reading(opened).when(broken).then(changed(returned, restock=False))


def test_what_arrived_of_an_order_under_way_may_come_back() -> None:
    arrival = arrived("P-1", part(1, 6))
    given(*begun, arrival).reading(opened).when(BACK).then(returned, restocked)


@pytest.mark.parametrize(
    ("history", "lines", "code"),
    [
        ([], asked(one=1), "order.unknown"),
        (whole, asked(one=1), "order.not_shipped"),
        (plain, asked(one=1), "return.more_than_delivered"),
        (done, asked(one=11), "return.more_than_delivered"),
        ([*done, changed(returned, return_id="R-0")], asked(one=9), "return.more_than_delivered"),
        ([*done, returned], asked(one=1), "return.already_made"),
        (done, asked(nine=1), "order.no_such_line"),
    ],
)
def test_no_more_comes_back_than_arrived(history: list[Any], lines: Any, code: str) -> None:
    command = BACK.model_copy(update={"lines": lines})
    given(*history).reading(opened).when(command).refused(code)


def test_a_return_needs_an_open_site() -> None:
    given(*done).when(BACK).refused("site.unknown")
    given(*done).reading(opened, closed).when(BACK).refused("site.closed")


# promise


def promise(at: Any) -> RepromiseOrder:
    return RepromiseOrder(order_id="O-1", promised_at=at, reason="snow", repromised_at=NOON)


def test_another_moment_is_promised_and_the_first_one_counts() -> None:
    told = OrderRepromised(
        order_id="O-1",
        promised_at=PROMISED + DAY,
        before=PROMISED,
        first_promised_at=PROMISED,
        repromised_at=NOON,
        reason="snow",
    )
    given(placed).when(promise(PROMISED + DAY)).then(told)
    second = changed(told, before=PROMISED + DAY, promised_at=PROMISED + 2 * DAY)
    given(placed, told).when(promise(PROMISED + 2 * DAY)).then(second)
    late = DeliverOrder(order_id="O-1", delivered_at=PROMISED + HOUR)
    [event] = given(*plain, told).when(late).events
    assert isinstance(event, OrderDelivered)
    assert event.late is True
    assert event.promised_at == PROMISED


@pytest.mark.parametrize(
    ("history", "at", "code"),
    [
        ([], PROMISED, "order.unknown"),
        ([placed], PROMISED, "order.same_promise"),
        ([placed], NOON - HOUR, "order.promised_before_placed"),
        (done, PROMISED + DAY, "order.already_delivered"),
    ],
)
def test_a_promise_is_another_one_and_in_time(history: list[Any], at: Any, code: str) -> None:
    given(*history).when(promise(at)).refused(code)


def test_an_order_on_its_way_is_not_allocated_again() -> None:
    again = AllocateOrder(order_id="O-1", site_id="S-1", allocated_at=NOON)
    given(*begun).reading(opened).when(again).refused("order.already_partly_shipped")


# place


PLACE: dict[str, Any] = {
    "order_id": "O-1",
    "customer_id": "C-1",
    "currency": "EUR",
    "lines": [{"line_no": 1, "sku": "A", "quantity": "3", "unit_price_minor": 150}],
    "placed_at": "2026-03-01T12:00:00Z",
    "promised_at": "2026-03-06T12:00:00Z",
}
BERLIN = {"latitude": 52.520008, "longitude": 13.404954}
WINDOW = {"starts_at": "2026-03-06T08:00:00Z", "ends_at": "2026-03-06T12:00:00Z"}


def test_an_order_says_where_and_when_it_is_wanted() -> None:
    more = {"destination": BERLIN, "delivery_window": WINDOW, "service_s": 300}
    lines = [PLACE["lines"][0] | {"volume_cm3": 120}]
    [event] = given().when(PlaceOrder(**(PLACE | more | {"lines": lines}))).events
    told = event.model_dump(mode="json")
    assert told["destination"] == BERLIN
    assert told["delivery_window"] == WINDOW
    assert (told["service_s"], told["volume_cm3"]) == (300, 360)


def test_an_order_that_says_nothing_of_it_has_the_bytes_it_always_had() -> None:
    command = PlaceOrder(**PLACE)
    told = command.model_dump(mode="json")
    new = {"destination", "delivery_window", "service_s", "check_references"}
    assert not new & told.keys()
    assert "volume_cm3" not in told["lines"][0]
    [event] = given().when(command).events
    assert not (new | {"volume_cm3", "split_from"}) & event.model_dump(mode="json").keys()


RECIPIENT = {"person_id": "P-1", "name": "Ada Example"}


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"destination": BERLIN, "recipient": RECIPIENT}, "destination", "2 decimal places"),
        ({"destination": BERLIN | {"latitude": 91}}, "destination.latitude", "less than or equal"),
        ({"destination": BERLIN | {"longitude": "NaN"}}, "destination.longitude", "finite"),
        ({"delivery_window": {**WINDOW, "ends_at": WINDOW["starts_at"]}}, "ends_at", "after"),
        ({"service_s": -1}, "service_s", "greater than or equal to 0"),
        ({"service_s": 86_401}, "service_s", "less than or equal to 86400"),
        ({"check_references": "perhaps"}, "check_references", "valid boolean"),
        ({"lines": [PLACE["lines"][0] | {"volume_cm3": -1}]}, "lines.0.volume_cm3", "greater"),
    ],
)
def test_a_wrong_field_of_a_new_order_is_named(
    fields: dict[str, Any], field: str, rule: str
) -> None:
    told = problems(PlaceOrder, **(PLACE | fields))
    assert field in told
    assert rule in told


def test_a_district_is_no_home() -> None:
    district = {"latitude": 52.52, "longitude": 13.4}
    assert problems(PlaceOrder, **PLACE, destination=district, recipient=RECIPIENT) == ""


@pytest.mark.parametrize(
    ("kind", "fields", "field", "rule"),
    [
        (ShipPart, {"shipment_id": "P", "shipped_at": None, "lines": []}, "lines", "at least 1"),
        (
            ShipPart,
            {
                "shipment_id": "P",
                "shipped_at": None,
                "lines": [{"line_no": 1, "quantity": "1"}] * 2,
            },
            "lines",
            "line_no must be unique",
        ),
        (
            CancelLines,
            {"reason": "x", "cancelled_at": None, "lines": [{"line_no": 1, "quantity": "0"}]},
            "lines.0.quantity",
            "greater than 0",
        ),
        (
            SplitOrder,
            {
                "new_order_id": "O-1",
                "split_at": None,
                "lines": [{"line_no": 1, "quantity": "1"}],
            },
            "new_order_id",
            "another order",
        ),
        (
            DeliverShipment,
            {"shipment_id": "1", "delivered_at": None, "proof": {"kind": "oath", "sha256": "0"}},
            "proof.kind",
            "'signature', 'photo' or 'code'",
        ),
        (
            DeliverShipment,
            {"shipment_id": "1", "delivered_at": None, "proof": {"kind": "code", "sha256": "0"}},
            "proof.sha256",
            "match pattern",
        ),
        (RepromiseOrder, {"reason": "x", "repromised_at": None}, "promised_at", "Field required"),
        (
            ReturnOrder,
            {
                "return_id": "R",
                "lines": [{"line_no": 1, "quantity": "1"}],
                "site_id": "S",
                "reason": "",
                "returned_at": None,
            },
            "reason",
            "at least 1 character",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    kind: type[Command], fields: dict[str, Any], field: str, rule: str
) -> None:
    told = problems(kind, order_id="O-1", **fields)
    assert field in told
    assert rule in told


CHECKED = PlaceOrder(**PLACE, check_references=True)
[client_known] = (
    given()
    .when(RegisterClient(client_id="C-1", name="Shop", currency="EUR", registered_at=None))
    .events
)
[product_known] = given().when(RegisterProduct(sku="A", name="Bolt", registered_at=None)).events
[client_gone] = (
    given(client_known).when(RetireClient(client_id="C-1", reason="x", retired_at=None)).events
)
[product_gone] = (
    given(product_known).when(RetireProduct(sku="A", reason="x", retired_at=None)).events
)


def test_references_are_looked_at_where_that_is_asked_for() -> None:
    assert given().reading(client_known, product_known).when(CHECKED).refusal is None
    assert given().when(PlaceOrder(**PLACE)).refusal is None


@pytest.mark.parametrize(
    ("read", "code"),
    [
        ([product_known], "client.unknown"),
        ([client_known], "product.unknown"),
        ([client_known, client_gone, product_known], "client.retired"),
        ([client_known, product_known, product_gone], "product.retired"),
    ],
)
def test_a_reference_to_nothing_is_refused(read: list[Any], code: str) -> None:
    field = "customer_id" if code.startswith("client") else "lines.0.sku"
    given().reading(*read).when(CHECKED).refused(code, field=field)


def test_a_quantity_fits_the_steps_of_its_product() -> None:
    halves = CHECKED.model_copy(
        update={"lines": (CHECKED.lines[0].model_copy(update={"quantity": Decimal("2.5")}),)}
    )
    given().reading(client_known, product_known).when(halves).refused(
        "order.quantity_not_in_steps", line_no=1, sku="A", quantity="2.5", step="1"
    )


BY_WEIGHT: dict[str, Any] = {"unit": "KGM", "quantity_step": Decimal("0.5"), "registered_at": None}
[weighed] = given().when(RegisterProduct(sku="A", name="Nails", **BY_WEIGHT)).events
[checked] = given().reading(client_known, product_known).when(CHECKED).events
[checked_halves] = given().reading(client_known, weighed).when(CHECKED).events


def test_an_order_that_was_checked_knows_its_steps() -> None:
    assert isinstance(checked, OrderPlaced)
    assert checked.terms == (LineTerms(line_no=1, step=Decimal(1)),)
    [unchecked] = given().when(PlaceOrder(**PLACE)).events
    assert b"terms" not in catalogue.encode(unchecked)[1]


@pytest.mark.parametrize("step", ["1", "0.5"])
@pytest.mark.parametrize("kind", [ShipPart, CancelLines, SplitOrder, ReturnOrder])
def test_parts_fit_the_steps_as_well(kind: type[Command], step: str) -> None:
    history = [checked if step == "1" else checked_halves]
    if kind is ShipPart:
        history.append(allocated_alone)
    if kind is ReturnOrder:
        history += [allocated_alone, *plain[2:], changed(handed(1), parts=None)]
    quantity = Decimal(step) * Decimal("0.6")
    fields: dict[str, Any] = {
        ShipPart: {"shipment_id": "P-1", "shipped_at": AT},
        CancelLines: {"reason": "x", "cancelled_at": AT},
        SplitOrder: {"new_order_id": "O-2", "split_at": NOON},
        ReturnOrder: {
            "return_id": "R-1",
            "reason": "x",
            "site_id": "S-1",
            "returned_at": NOON,
        },
    }[kind]

    def some(quantity: Decimal) -> Any:
        lines = (LineQuantity(line_no=1, quantity=quantity),)
        return (
            given(*history)
            .reading(opened)
            .when(kind(**{"order_id": "O-1", "lines": lines} | fields))
        )

    some(quantity).refused("order.quantity_not_in_steps", line_no=1, sku="A", step=step)
    assert some(Decimal(step)).refusal is None


def test_steps_go_along_with_a_split() -> None:
    outcome = given(checked).when(SPLIT.model_copy(update={"lines": asked(one=1)}))
    [new] = [event for event in outcome.events if isinstance(event, OrderPlaced)]
    assert new.terms == (LineTerms(line_no=1, step=Decimal(1)),)


def test_no_broken_piece_is_put_aside_or_picked() -> None:
    two_and_a_half = changed(came("A", 2), quantity=Decimal("2.5"))
    outcome = (
        given(checked, allocated_alone)
        .reading(opened, two_and_a_half)
        .when(ReserveOrder(order_id="O-1", reserved_at=NOON))
    )
    ten = checked.lines[0].quantity  # type: ignore[attr-defined]
    assert outcome.events == (aside("A", 2), kept(part(1, 2, 2)), waits(1, int(ten) - 2))
    broken = PickStock(
        site_id="S-1", sku="A", quantity=Decimal("0.3"), order_id="O-1", picked_at=NOON
    )
    known = given(two_and_a_half, aside("A", 2)).reading(
        opened, checked, allocated_alone, *outcome.events[1:]
    )
    known.when(broken).refused("order.quantity_not_in_steps", line_no=1, step="1")


# money


def of_pennies(quantity: str) -> OrderPlaced:
    line = changed(placed.lines[0], quantity=Decimal(quantity), unit_price_minor=1)
    worth = round(line.quantity * line.unit_price_minor)
    return changed(placed, lines=(line,), units=line.quantity, goods_minor=worth)  # type: ignore[no-any-return]


SIX_TENTHS = (LineQuantity(line_no=1, quantity=Decimal("0.6")),)


def test_parts_and_rest_are_worth_what_the_whole_was() -> None:
    """2 pieces of 1 cent, split three times by 0.6: 2 cents in all, and no part below zero."""
    history: list[Any] = [of_pennies("2")]
    worth = []
    for number in range(3):
        command = SPLIT.model_copy(update={"lines": SIX_TENTHS, "new_order_id": f"N-{number}"})
        outcome = given(*history).when(command)
        gone, new = outcome.events
        assert isinstance(gone, OrderSplit)
        assert isinstance(new, OrderPlaced)
        assert gone.goods_minor == new.goods_minor
        worth.append(gone.goods_minor)
        history.append(gone)
    left_over = LineQuantity(line_no=1, quantity=Decimal("0.2"))
    last = CancelLines(order_id="O-1", lines=(left_over,), reason="x", cancelled_at=AT)
    end = given(*history).when(last).events[0]
    assert isinstance(end, LinesCancelled)
    assert (*worth, end.goods_minor) == (1, 0, 1, 0)


def test_a_part_of_a_part_is_worth_its_share() -> None:
    """What was split off is rounded as the piece of the first order that it is."""
    first = given(of_pennies("2")).when(SPLIT.model_copy(update={"lines": SIX_TENTHS}))
    rest = SPLIT.model_copy(update={"lines": SIX_TENTHS, "new_order_id": "N-2"})
    outcome = given(of_pennies("2"), first.events[0]).when(rest)
    second = outcome.events[1]
    assert isinstance(second, OrderPlaced)
    assert second.goods_minor == 0
    assert second.terms == (LineTerms(line_no=1, offset=Decimal("0.6")),)
    drops = CancelLines(order_id="N-2", lines=SIX_TENTHS, reason="x", cancelled_at=AT)
    assert given(second).when(drops).events[0].goods_minor == 0  # type: ignore[attr-defined]


def test_no_more_is_paid_back_than_was_paid() -> None:
    """1.8 pieces of 1 cent come back in three parts of 0.6: 2 cents in all."""
    history: list[Any] = [of_pennies("1.8"), *plain[1:], changed(handed(1), parts=None)]
    for number in range(3):
        command = BACK.model_copy(
            update={"lines": SIX_TENTHS, "return_id": f"R-{number}", "restock": False}
        )
        history += given(*history).reading(opened).when(command).events
    assert [one.goods_minor for one in history[-3:]] == [1, 0, 1]


# picked by hand


def test_what_was_picked_by_hand_leaves_first() -> None:
    history = (*whole, by_hand(part(1, 7, 7)))
    given(*history).reading(*whole_stock, taken("A", 7, NOON)).when(ship(one=9)).then(
        taken("A", 2, AT), left("P-1", part(1, 9, 2, picked=7), weight_g=1800)
    )


def test_what_was_picked_by_hand_is_given_up_last() -> None:
    history = (*whole, by_hand(part(1, 7, 7)))
    stock = (*whole_stock, taken("A", 7, NOON))
    given(*history).reading(*stock).when(drop(one=2)).then(
        free("A", 2, at=AT), cancelled_lines(part(1, 2, 2), reserved=2, goods=300)
    )
    given(*history).reading(*stock).when(drop(one=4)).then(
        free("A", 3, at=AT), cancelled_lines(part(1, 4, 3, picked=1), reserved=3, goods=600)
    )


def test_what_was_picked_by_hand_goes_along_with_a_split() -> None:
    history = (*whole, by_hand(part(1, 8, 8)))
    given(*history).reading(*whole_stock, taken("A", 8, NOON)).when(SPLIT).then(
        free("A", 2),
        aside("A", 2, "O-2"),
        split_off(part(1, 4, 2, picked=2), reserved=2, backordered=0, goods=600),
        new_placed,
        new_allocated,
        kept(part(1, 2, 2), order_id="O-2"),
        by_hand(part(1, 2), order_id="O-2"),
    )


# vehicles


@pytest.mark.parametrize(
    ("limits", "field"),
    [({"max_weight_g": 2399}, "weight_g"), ({"max_volume_cm3": 499}, "volume_cm3")],
)
def test_a_vehicle_is_not_given_more_than_it_carries(limits: dict[str, int], field: str) -> None:
    order = changed(placed, lines=(placed.lines[0], changed(placed.lines[1], volume_cm3=0)))

    def asked_of(order: OrderPlaced, **limits: Any) -> Any:
        [van] = (
            given()
            .reading(opened)
            .when(
                RegisterVehicle(
                    vehicle_id="V-1",
                    site_id="S-1",
                    mode="van",
                    service_levels=("standard",),
                    registered_at=NOON,
                    **limits,
                )
            )
            .events
        )
        by_van = AllocateOrder(order_id="O-1", site_id="S-1", vehicle_id="V-1", allocated_at=NOON)
        return given(order).reading(opened, van).when(by_van)

    asked_of(order, **limits).refused("vehicle.overloaded", field=field, vehicle_id="V-1")
    enough = {name: most + 1 for name, most in limits.items()}
    assert asked_of(order, **enough).refusal is None
    unknown = changed(order, lines=tuple(changed(one, **{field: None}) for one in order.lines))
    assert asked_of(unknown, **limits).refusal is None


# over HTTP


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(organisation_id=uuid4()) as client:
        accepted(client.post("/sites", json={"site_id": "S-1"}))
        yield client


ORDER = {
    "order_id": "O-1",
    "customer_id": "C-1",
    "currency": "EUR",
    "placed_at": "2026-03-01T12:00:00Z",
    "promised_at": "2026-03-06T12:00:00Z",
    "lines": [
        {"line_no": 1, "sku": "A", "quantity": "10", "unit_price_minor": 150},
        {"line_no": 2, "sku": "B", "quantity": "4", "unit_price_minor": 1000},
    ],
    "destination": BERLIN,
    "delivery_window": WINDOW,
}


def figures(row: dict[str, Any], *names: str) -> list[float | None]:
    return [None if row[name] is None else float(row[name]) for name in names]


LINE_FIGURES = ("reserved", "backordered", "shipped", "delivered", "returned", "cancelled")


def lines_of(client: httpx.Client, order_id: str, position: int) -> list[list[float | None]]:
    page = get(client, f"/orders/{order_id}/lines", min_position=position)
    return [figures(row, *LINE_FIGURES) for row in page["items"]]


def test_one_order_through_its_whole_life(client: httpx.Client) -> None:
    post(client, "/stock/S-1/A/receive", {"quantity": "6"})
    post(client, "/stock/S-1/B/receive", {"quantity": "4"})
    post(client, "/orders", ORDER)
    post(client, "/orders/O-1/allocate", {"site_id": "S-1"})
    at = post(client, "/orders/O-1/reserve", {})["position"]
    assert lines_of(client, "O-1", at) == [[6, 4, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0]]
    [waiting] = get(client, "/backorders", site_id="S-1", sku="A", min_position=at)["items"]
    assert (waiting["order_id"], waiting["line_no"], float(waiting["quantity"])) == ("O-1", 1, 4)
    stock = get(client, "/stock", min_position=at)["items"]
    assert [figures(row, "on_hand", "reserved", "available") for row in stock] == [
        [6, 6, 0],
        [4, 4, 0],
    ]

    told = {"shipment_id": "P-1", "lines": [{"line_no": 1, "quantity": "6"}], "carrier": "DHL"}
    at = post(client, "/orders/O-1/shipments", told)["position"]
    summary = get(client, "/orders/O-1", min_position=at)
    assert summary["status"] == "partly_shipped"
    assert figures(summary, "shipped", "reserved", "backordered") == [6, 4, 4]

    split = {"new_order_id": "O-1-B", "lines": [{"line_no": 1, "quantity": "3"}]}
    post(client, "/orders/O-1/split", split)
    post(client, "/stock/S-1/A/receive", {"quantity": "5"})
    at = post(client, "/orders/O-1-B/fill", {})["position"]
    assert lines_of(client, "O-1-B", at) == [[3, 0, 0, 0, 0, 0]]
    again = get(client, "/orders/O-1-B")
    assert (again["split_from"], again["status"]) == ("O-1", "allocated")

    drop = {"lines": [{"line_no": 1, "quantity": "1"}], "reason": "not needed"}
    post(client, "/orders/O-1/cancel-lines", drop)
    later = {"promised_at": "2026-03-08T12:00:00Z", "reason": "snow"}
    post(client, "/orders/O-1/repromise", later)
    at = post(client, "/orders/O-1/ship", {})["position"]
    assert lines_of(client, "O-1", at) == [[0, 0, 6, 0, 0, 1], [0, 0, 4, 0, 0, 0]]
    assert get(client, "/backorders", min_position=at)["items"] == []

    proof = {"kind": "signature", "sha256": "ab" * 32, "reference": "POD-1"}
    body = {"delivered_at": "2026-03-06T12:01:30Z", "proof": proof}
    post(client, "/orders/O-1/shipments/P-1/deliver", body)
    body = {"delivered_at": "2026-03-06T11:00:00Z"}
    post(client, "/orders/O-1/shipments/1/deliver", body)
    back = {"return_id": "R-1", "lines": [{"line_no": 1, "quantity": "2"}], "site_id": "S-1"}
    at = post(client, "/orders/O-1/returns", back | {"reason": "too small"})["position"]

    summary = get(client, "/orders/O-1", min_position=at)
    assert (summary["status"], summary["late"], summary["late_s"]) == ("delivered", True, 90)
    assert summary["promised_at"] == "2026-03-06T12:00:00Z"
    assert summary["repromised_to"] == "2026-03-08T12:00:00Z"
    assert figures(summary, "units", "shipped", "delivered", "returned", "cancelled") == [
        11,
        10,
        10,
        2,
        1,
    ]
    assert figures(summary, "latitude", "longitude") == [52.520008, 13.404954]
    assert summary["deliver_until"] == WINDOW["ends_at"]
    assert lines_of(client, "O-1", at) == [[0, 0, 6, 6, 2, 1], [0, 0, 4, 4, 0, 0]]
    shipments = get(client, "/shipments", order_id="O-1", sort="shipment_id")["items"]
    assert [(one["shipment_id"], one["status"], one["late_s"]) for one in shipments] == [
        ("1", "delivered", -3600),
        ("P-1", "delivered", 90),
    ]
    assert shipments[1]["proof_sha256"] == "ab" * 32
    assert get(client, "/orders/O-1/shipments")["items"][0]["order_id"] == "O-1"
    [returned] = get(client, "/returns", search="small")["items"]
    assert (returned["return_id"], returned["goods_minor"]) == ("R-1", 300)
    assert get(client, "/orders/O-1/returns")["items"] == [returned]
    stock = get(client, "/stock", min_position=at)["items"]
    assert [figures(row, "on_hand", "reserved", "available") for row in stock] == [
        [7, 3, 4],
        [0, 0, 0],
    ]
    history = get(client, "/orders/O-1/history")["items"]
    assert [one["version"] for one in history] == list(range(1, len(history) + 1))
    assert history[-1]["what"] == "LinesReturned"
    timeline = get(client, "/orders/O-1/timeline", min_position=at)["items"]
    assert [one["what"] for one in timeline] == [one["what"] for one in history]


def test_the_plain_way_shows_in_the_same_lists(client: httpx.Client) -> None:
    post(client, "/orders", ORDER)
    post(client, "/orders/O-1/allocate", {"site_id": "S-1"})
    at = post(client, "/orders/O-1/ship", {"carrier": "DHL"})["position"]
    assert lines_of(client, "O-1", at) == [[0, 0, 10, 0, 0, 0], [0, 0, 4, 0, 0, 0]]
    at = post(client, "/orders/O-1/deliver", {"delivered_at": "2026-03-06T12:00:00Z"})["position"]
    assert lines_of(client, "O-1", at) == [[0, 0, 10, 10, 0, 0], [0, 0, 4, 4, 0, 0]]
    [shipment] = get(client, "/shipments", min_position=at)["items"]
    assert (shipment["shipment_id"], shipment["carrier"], shipment["late_s"]) == ("1", "DHL", 0)
    assert float(shipment["units"]) == 14
    post(client, "/orders", ORDER | {"order_id": "O-2"})
    at = post(client, "/orders/O-2/cancel", {"reason": "x"})["position"]
    assert lines_of(client, "O-2", at) == [[0, 0, 0, 0, 0, 10], [0, 0, 0, 0, 0, 4]]
    listed = get(client, "/orders", search="o-2", min_position=at)["items"]
    assert [one["order_id"] for one in listed] == ["O-2"]


def test_bad_requests_are_answered_with_what_is_wrong(client: httpx.Client) -> None:
    post(client, "/orders", ORDER)
    post(client, "/orders/O-1/allocate", {"site_id": "S-1"})

    def refused(path: str, body: dict[str, Any], status: int, code: str) -> dict[str, Any]:
        return assert_problem(client.post(f"/orders{path}", json=body), status, code)

    one = {"lines": [{"line_no": 1, "quantity": "1"}]}
    told = refused("/O-1/reserve", {"partial": False}, 409, "stock.not_enough")
    assert "sku=A" in told["detail"]
    refused("/O-9/reserve", {}, 404, "order.unknown")
    refused("/O-1/fill", {}, 409, "order.not_backordered")
    refused("/O-1/release", {}, 409, "order.not_reserved")
    refused("/O-1/shipments/1/deliver", {}, 409, "order.not_shipped")
    by_van = one | {"shipment_id": "P-1", "vehicle_id": "V-9"}
    told = refused("/O-1/shipments", by_van, 404, "vehicle.unknown")
    assert "V-9" in told["detail"]
    refused("/O-1/split", one | {"new_order_id": "O-1"}, 422, "invalid")
    refused("/O-1/returns", one | {"return_id": "R", "reason": "x"}, 422, "invalid")
    refused("/O-1/cancel-lines", {"lines": [], "reason": "x"}, 422, "invalid")
    early = {"promised_at": "2020-01-01T00:00:00Z", "reason": "x"}
    refused("/O-1/repromise", early, 422, "order.promised_before_placed")
    post(client, "/orders/O-1/ship", {})
    told = refused("/O-1/cancel", {"reason": "x"}, 409, "order.already_shipped")
    assert "return it" in told["detail"]
    assert_problem(client.get("/orders/O-9/lines"), 404)
    assert_problem(client.get("/orders/O-9/shipments"), 404)
    assert_problem(client.get("/orders/O-9/returns"), 404)
    assert_problem(client.get("/orders/O-9/history"), 404)
    assert_problem(client.get("/backorders", params={"sort": "colour"}), 422)
    assert_problem(client.get("/shipments", params={"status": "lost"}), 422)
    assert found(client.get("/returns"))["items"] == []
