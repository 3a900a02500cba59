"""Parts of orders: shipped, and delivered with proof."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from domain.order_events import (
    LineSite,
    Proof,
)
from domain.orders import (
    DeliverOrder,
    DeliverShipment,
    ShipOrder,
    ShipPart,
)
from domain.people import SealedRecipient
from tests.order_world import (
    AT,
    DAY,
    NOON,
    PROMISED,
    PROOF,
    allocated,
    arrived,
    aside,
    begun,
    begun_stock,
    came,
    changed,
    ended,
    gone,
    handed,
    kept,
    left,
    part,
    placed,
    plain,
    ship,
    taken,
    waits,
    whole,
    whole_stock,
)
from tests.spec import given

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
