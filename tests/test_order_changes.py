"""What becomes of parts of orders: given up, split off, returned, promised anew; their worth."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from domain.inventory import StockReturned
from domain.order_events import (
    LinesCancelled,
    LineSite,
    LinesReturned,
    LineTerms,
    OrderPlaced,
    OrderRepromised,
    OrderSplit,
)
from domain.orders import (
    AllocateOrder,
    CancelLines,
    CancelOrder,
    DeliverOrder,
    OrderCancelled,
    OrderDelivered,
    RepromiseOrder,
    ReturnOrder,
    SplitOrder,
)
from domain.shipments import LineQuantity
from domain.values import Command
from tests.order_world import (
    AT,
    DAY,
    HOUR,
    IN_TWO,
    NOON,
    PROMISED,
    allocated,
    arrived,
    aside,
    asked,
    begun,
    begun_stock,
    by_hand,
    came,
    changed,
    closed,
    ended,
    free,
    gone,
    handed,
    kept,
    left,
    opened,
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


def test_steps_go_along_with_a_split() -> None:
    checked = changed(placed, terms=(LineTerms(line_no=1, step=Decimal(1)),))
    outcome = given(checked).when(SPLIT.model_copy(update={"lines": asked(one=1)}))
    [new] = [event for event in outcome.events if isinstance(event, OrderPlaced)]
    assert new.terms == (LineTerms(line_no=1, step=Decimal(1)),)


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
