"""Stock for orders: reserved, backordered, filled, released; never below zero, whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commands import HANDLERS, Bus, Context, stream_id
from domain.access import Role
from domain.errors import Refused
from domain.inventory import AdjustStock, PickStock, ReceiveStock, StockAdjusted, StockPicked
from domain.order_events import BackorderFilled, OrderReleased
from domain.orders import (
    AllocateOrder,
    CancelOrder,
    FillBackorder,
    OrderCancelled,
    OrderLine,
    PlaceOrder,
    ReleaseOrder,
    ReserveOrder,
    ShipOrder,
)
from domain.sites import OpenSite
from domain.values import Command
from eventstore import Log, Receipt, Unit, VersionConflict, Writer, prepare_database
from eventstore.group import Answer
from eventstore.streams import Streams
from tests.order_world import (
    HOUR,
    NOON,
    allocated,
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
from tests.spec import given, problems

RESERVE = ReserveOrder(order_id="O-1", reserved_at=NOON)
ALL_OR_NOTHING = RESERVE.model_copy(update={"partial": False})
RELEASE = ReleaseOrder(order_id="O-1", released_at=NOON)
FILL = FillBackorder(order_id="O-1", filled_at=NOON)
SHIP = ShipOrder(order_id="O-1", carrier="DHL", shipped_at=NOON + 3 * HOUR)
CANCEL = CancelOrder(order_id="O-1", reason="changed mind", cancelled_at=NOON)

#: Six of ten pieces of line 1 and all of line 2 are there.
short = (placed, allocated, kept(part(1, 6, 6), part(2, 4, 4)), waits(1, 4))
short_stock = (came("A", 6), aside("A", 6), came("B", 9), aside("B", 4))
whole = (placed, allocated, kept(part(1, 10, 10), part(2, 4, 4)))
whole_stock = (came("A", 12), aside("A", 10), came("B", 4), aside("B", 4))


# reserve


def test_what_is_there_is_put_aside_in_both_streams() -> None:
    given(placed, allocated).reading(opened, came("A", 12), came("B", 4)).when(RESERVE).then(
        aside("A", 10), aside("B", 4), kept(part(1, 10, 10), part(2, 4, 4))
    )


def test_what_is_not_there_is_backordered() -> None:
    given(placed, allocated).reading(opened, came("A", 6), came("B", 9)).when(RESERVE).then(
        aside("A", 6), aside("B", 4), kept(part(1, 6, 6), part(2, 4, 4)), waits(1, 4)
    )


def test_where_nothing_is_there_all_waits() -> None:
    given(placed, allocated).reading(opened).when(RESERVE).then(waits(1, 10), waits(2, 4))


def test_what_is_put_aside_for_another_order_is_not_there() -> None:
    others = aside("A", 5, "O-2")
    given(placed, allocated).reading(opened, came("A", 8), others, came("B", 4)).when(RESERVE).then(
        aside("A", 3), aside("B", 4), kept(part(1, 3, 3), part(2, 4, 4)), waits(1, 7)
    )


def test_two_lines_of_one_sku_share_what_is_there() -> None:
    lines = (placed.lines[0], changed(placed.lines[0], line_no=2))
    both = changed(placed, lines=lines)
    second = changed(part(2, 5, 5), sku="A")
    given(both, allocated).reading(opened, came("A", 15)).when(RESERVE).then(
        aside("A", 10), aside("A", 5), kept(part(1, 10, 10), second), changed(waits(2, 5), sku="A")
    )


def test_all_or_nothing_names_what_is_missing() -> None:
    given(placed, allocated).reading(opened, came("A", 6), came("B", 4)).when(
        ALL_OR_NOTHING
    ).refused("stock.not_enough", sku="A", site_id="S-1", line_no=1, available="6", asked="10")


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], "order.unknown"),
        ([placed], "order.not_allocated"),
        (whole, "order.already_reserved"),
        ([placed, allocated, changed(ended(1), parts=None)], "order.already_shipped"),
    ],
)
def test_only_an_allocated_order_is_reserved_once(history: list[Any], code: str) -> None:
    given(*history).reading(opened).when(RESERVE).refused(code)


def test_a_closed_site_puts_nothing_aside() -> None:
    known = given(placed, allocated).reading(opened, closed, came("A", 10))
    known.when(RESERVE).refused("site.closed", site_id="S-1")
    given(*short).reading(opened, closed, *short_stock, came("A", 1)).when(FILL).refused(
        "site.closed"
    )


def test_an_order_with_stock_put_aside_is_not_allocated_elsewhere() -> None:
    elsewhere = AllocateOrder(order_id="O-1", site_id="S-1", allocated_at=NOON)
    given(*whole).reading(opened).when(elsewhere).refused(
        "order.already_reserved", instead="release it first"
    )


# fill


def filled(line_no: int, quantity: int, to_come: int) -> BackorderFilled:
    return BackorderFilled(
        order_id="O-1",
        line_no=line_no,
        sku="AB"[line_no - 1],
        site_id="S-1",
        quantity=Decimal(quantity),
        left=Decimal(to_come),
        filled_at=NOON,
    )


def test_what_came_in_is_put_aside_for_who_waits() -> None:
    given(*short).reading(opened, *short_stock, came("A", 3)).when(FILL).then(
        aside("A", 3), filled(1, 3, 1)
    )
    one_line = FILL.model_copy(update={"line_no": 1})
    given(*short).reading(opened, *short_stock, came("A", 9)).when(one_line).then(
        aside("A", 4), filled(1, 4, 0)
    )


def test_where_nothing_came_in_nothing_is_filled() -> None:
    given(*short).reading(opened, *short_stock).when(FILL).refused(
        "stock.not_enough", sku="A", available="0", asked="4"
    )


def test_who_does_not_wait_gets_nothing() -> None:
    second = FILL.model_copy(update={"line_no": 2})
    given(*short).reading(opened, *short_stock).when(second).refused(
        "order.not_backordered", line_no=2
    )
    given(*whole).reading(opened, *whole_stock).when(FILL).refused("order.not_backordered")
    ninth = FILL.model_copy(update={"line_no": 9})
    given(*short).reading(opened, *short_stock).when(ninth).refused("order.no_such_line", line_no=9)


# release and cancel


def released(*parts: Any, reserved: int, backordered: int = 0) -> OrderReleased:
    return OrderReleased(
        order_id="O-1",
        lines=parts,
        reserved=Decimal(reserved),
        backordered=Decimal(backordered),
        released_at=NOON,
    )


def test_what_was_put_aside_is_given_free() -> None:
    told = released(part(1, 10, 6, 4), part(2, 4, 4), reserved=10, backordered=4)
    given(*short).reading(*short_stock).when(RELEASE).then(free("A", 6), free("B", 4), told)


def test_what_was_not_put_aside_is_not_given_free() -> None:
    given(placed, allocated).when(RELEASE).refused("order.not_reserved")


def test_a_cancelled_order_gives_its_stock_free() -> None:
    told = released(part(1, 10, 10), part(2, 4, 4), reserved=14)
    given(*whole).reading(*whole_stock).when(CANCEL).then(
        free("A", 10),
        free("B", 4),
        told,
        OrderCancelled(
            order_id="O-1",
            site_id="S-1",
            currency="EUR",
            placed_at=NOON,
            cancelled_at=NOON,
            reason="changed mind",
        ),
    )


def test_what_was_picked_by_hand_is_not_given_free_again() -> None:
    told = released(part(1, 3, 3), part(2, 4, 4), reserved=7)
    given(*whole, by_hand(part(1, 7, 7))).reading(*whole_stock, taken("A", 7, NOON)).when(
        RELEASE
    ).then(free("A", 3), free("B", 4), told)
    all_of_it = (*whole, by_hand(part(1, 10, 10)), by_hand(part(2, 4, 4)))
    given(*all_of_it).when(RELEASE).refused("order.not_reserved")


# ship


def test_shipping_picks_what_was_put_aside() -> None:
    at = NOON + 3 * HOUR
    given(*whole).reading(*whole_stock).when(SHIP).then(
        taken("A", 10, at),
        taken("B", 4, at),
        left("1", part(1, 10, 10), part(2, 4, 4), weight_g=2400),
        ended(1),
    )


def test_what_was_picked_by_hand_is_shipped_and_not_picked_again() -> None:
    at = NOON + 3 * HOUR
    gone = taken("A", 7, NOON)
    given(*whole, by_hand(part(1, 7, 7))).reading(*whole_stock, gone).when(SHIP).then(
        taken("A", 3, at),
        taken("B", 4, at),
        left("1", part(1, 10, 3, picked=7), part(2, 4, 4), weight_g=2400),
        ended(1),
    )


def test_an_order_that_waits_is_not_shipped_whole() -> None:
    given(*short).reading(*short_stock).when(SHIP).refused(
        "order.backordered", line_no=1, reserved="6", backordered="4"
    )


# stock


def pick(quantity: int, order_id: str | None = None) -> PickStock:
    return PickStock(
        site_id="S-1", sku="A", quantity=Decimal(quantity), order_id=order_id, picked_at=NOON
    )


def picked(quantity: int, order_id: str | None = None, own: int | None = None) -> StockPicked:
    return StockPicked(
        site_id="S-1",
        sku="A",
        quantity=Decimal(quantity),
        order_id=order_id,
        picked_at=NOON,
        reserved=None if own is None else Decimal(own),
    )


def test_who_names_no_order_takes_only_what_is_free() -> None:
    known = given(came("A", 10), aside("A", 8)).reading(opened)
    known.when(pick(2)).then(picked(2))
    known.when(pick(3)).refused("stock.not_enough", on_hand="10", reserved="8", asked="3")


def test_an_order_takes_what_is_put_aside_for_it_first() -> None:
    known = given(came("A", 10), aside("A", 6), aside("A", 3, "O-2")).reading(
        opened, placed, allocated, kept(part(1, 6, 6))
    )
    known.when(pick(4, "O-1")).then(picked(4, "O-1", own=4), by_hand(part(1, 4, 4)))
    known.when(pick(7, "O-1")).then(picked(7, "O-1", own=6), by_hand(part(1, 6, 6)))
    known.when(pick(8, "O-1")).refused("stock.not_enough", on_hand="10", reserved="9", asked="2")
    known.when(pick(1, "O-3")).then(picked(1, "O-3"))
    # What it has taken it has not any more.
    gone = given(came("A", 10), aside("A", 6), aside("A", 3, "O-2"), picked(6, "O-1", own=6))
    gone.reading(opened).when(pick(2, "O-1")).refused("stock.not_enough", on_hand="4")


def test_the_order_learns_what_was_picked_of_its_stock() -> None:
    known = given(came("A", 12), aside("A", 10)).reading(opened, *whole)
    known.when(pick(4, "O-1")).then(picked(4, "O-1", own=4), by_hand(part(1, 4, 4)))
    # More than it needs is taken from what is free, and is no part of it.
    known.when(pick(11, "O-1")).then(picked(11, "O-1", own=10), by_hand(part(1, 10, 10)))
    known.when(pick(1, "O-2")).then(picked(1, "O-2"))


def test_what_it_waits_for_may_be_picked_with_what_is_put_aside() -> None:
    known = given(came("A", 6), aside("A", 6), came("A", 4)).reading(opened, *short)
    known.when(pick(9, "O-1")).then(picked(9, "O-1", own=6), by_hand(part(1, 9, 6, 3)))


def test_a_pick_is_shared_among_lines_of_one_sku() -> None:
    lines = (placed.lines[0], changed(placed.lines[0], line_no=2))
    both = (changed(placed, lines=lines), allocated)
    second = changed(part(2, 10, 10), sku="A")
    known = given(came("A", 20), aside("A", 20)).reading(
        opened, *both, kept(part(1, 10, 10), second)
    )
    known.when(pick(12, "O-1")).then(
        picked(12, "O-1", own=12), by_hand(part(1, 10, 10), changed(part(2, 2, 2), sku="A"))
    )


def test_what_was_picked_by_hand_is_not_put_aside_again() -> None:
    free_again = released(part(2, 4, 4), reserved=4)
    gone = (*whole, by_hand(part(1, 10, 10)), free_again)
    given(*gone).reading(opened, came("A", 5), came("B", 4)).when(RESERVE).then(
        aside("B", 4), kept(part(2, 4, 4))
    )
    given(*whole, by_hand(part(1, 10, 10)), by_hand(part(2, 4, 4))).reading(
        opened, came("A", 5)
    ).when(RESERVE).refused("order.already_picked", order_id="O-1")


def test_what_was_picked_by_hand_is_not_allocated_elsewhere() -> None:
    gone = given(*whole, by_hand(part(1, 10, 10)), by_hand(part(2, 4, 4)))
    elsewhere = AllocateOrder(order_id="O-1", site_id="S-2", allocated_at=NOON)
    gone.reading(changed(opened, site_id="S-2")).when(elsewhere).refused(
        "order.already_picked", line_no=1, site_id="S-1"
    )
    here = elsewhere.model_copy(update={"site_id": "S-1"})
    assert gone.reading(opened).when(here).refusal is None


def test_a_line_with_nothing_open_is_passed_over() -> None:
    """Line 1 has left, line 2 was released: only line 2 is put aside."""
    history = (
        *whole,
        left("P-1", part(1, 10, 10), weight_g=2000),
        released(part(2, 4, 4), reserved=4),
    )
    given(*history).reading(opened, came("B", 4)).when(RESERVE).then(
        aside("B", 4), kept(part(2, 4, 4))
    )


def test_stock_is_not_corrected_below_what_is_put_aside() -> None:
    def adjust(change: int) -> AdjustStock:
        return AdjustStock(
            site_id="S-1", sku="A", change=Decimal(change), reason="broken", adjusted_at=NOON
        )

    known = given(came("A", 10), aside("A", 8)).reading(opened)
    known.when(adjust(-2)).then(
        StockAdjusted(site_id="S-1", sku="A", change=Decimal(-2), reason="broken", adjusted_at=NOON)
    )
    known.when(adjust(-3)).refused("stock.reserved", on_hand="10", reserved="8", asked="3")
    known.when(adjust(-11)).refused("stock.not_enough", on_hand="10", reserved="8", asked="11")


@pytest.mark.parametrize(
    ("kind", "fields", "field", "rule"),
    [
        (ReserveOrder, {}, "reserved_at", "Field required"),
        (ReserveOrder, {"reserved_at": None, "partial": "perhaps"}, "partial", "valid boolean"),
        (FillBackorder, {"filled_at": None, "line_no": 0}, "line_no", "greater than or equal to 1"),
        (ReleaseOrder, {"released_at": "2026-03-01T12:00:00"}, "released_at", "timezone"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    kind: type[Command], fields: dict[str, Any], field: str, rule: str
) -> None:
    told = problems(kind, order_id="O-1", **fields)
    assert field in told
    assert rule in told


# on a real log


@pytest.fixture(scope="module", autouse=True)
def _prepared(database: str) -> None:
    prepare_database(database)


class House:
    """A bus with a writer and a cache of its own, as in one process."""

    def __init__(self, bus: Bus, organisation: UUID) -> None:
        self.bus, self.organisation = bus, organisation

    def context(self, **fields: Any) -> Context:
        return Context(self.organisation, "ana", frozenset({Role.ADMIN}), **fields)

    async def send(self, *commands: Command) -> None:
        for command in commands:
            await self.bus.execute(command, self.context())

    async def outcome(self, command: Command) -> str:
        try:
            await self.send(command)
        except Refused as refusal:
            return refusal.code
        return "ok"


@asynccontextmanager
async def house(
    url: str, organisation: UUID, writing: type[Writer] = Writer
) -> AsyncIterator[House]:
    async with (
        AsyncConnectionPool(url, open=False) as pool,
        Streams(url) as streams,
        writing(url) as writer,
    ):
        yield House(Bus(Log(pool), streams, writer, HANDLERS), organisation)


def order(order_id: str, **lines: int) -> list[Command]:
    return [
        PlaceOrder(
            order_id=order_id,
            customer_id="C-1",
            currency="EUR",
            lines=tuple(
                OrderLine(line_no=number, sku=sku, quantity=Decimal(quantity), unit_price_minor=100)
                for number, (sku, quantity) in enumerate(lines.items(), 1)
            ),
            placed_at=NOON,
            promised_at=NOON,
        ),
        AllocateOrder(order_id=order_id, site_id="S-1", allocated_at=NOON),
    ]


def reserve(order_id: str, *, partial: bool = True) -> ReserveOrder:
    return ReserveOrder(order_id=order_id, partial=partial, reserved_at=NOON)


def came_in(sku: str, quantity: int) -> ReceiveStock:
    return ReceiveStock(site_id="S-1", sku=sku, quantity=Decimal(quantity), received_at=NOON)


OPEN = OpenSite(site_id="S-1", opened_at=NOON)

#: Of each stock, in the order of the log: what is on hand and put aside behind each event; and what
#: each order's own events say that it has.
_RECOUNT = """
    WITH moved AS (
        SELECT notification_id, topic, convert_from(state, 'UTF8')::jsonb AS e FROM events
        WHERE organisation_id = %(organisation_id)s AND topic LIKE 'inventory.Stock%%'
    ), counted AS (
        SELECT sum(CASE
                WHEN topic ~ 'Received|Returned' THEN (e->>'quantity')::numeric
                WHEN topic ~ 'Picked' THEN -(e->>'quantity')::numeric
                WHEN topic ~ 'Adjusted' THEN (e->>'change')::numeric ELSE 0 END)
            OVER (PARTITION BY e->>'site_id', e->>'sku' ORDER BY notification_id) AS on_hand,
            sum(CASE
                WHEN topic ~ 'Reserved' THEN (e->>'quantity')::numeric
                WHEN topic ~ 'Released' THEN -(e->>'quantity')::numeric
                WHEN topic ~ 'Picked' THEN -coalesce((e->>'reserved')::numeric, 0) ELSE 0 END)
            OVER (PARTITION BY e->>'site_id', e->>'sku' ORDER BY notification_id) AS reserved
        FROM moved
    )
    SELECT min(on_hand), min(reserved), min(on_hand - reserved) FROM counted"""

_BOTH_SIDES = """
    WITH told AS (
        SELECT topic, convert_from(state, 'UTF8')::jsonb AS e FROM events
        WHERE organisation_id = %(organisation_id)s
    )
    SELECT
        (SELECT coalesce(sum((e->>'quantity')::numeric), 0) FROM told WHERE topic ~ 'StockReserved')
        - (SELECT coalesce(sum((e->>'quantity')::numeric), 0) FROM told
            WHERE topic ~ 'StockReleased')
        - (SELECT coalesce(sum((e->>'reserved')::numeric), 0) FROM told
            WHERE topic ~ 'StockPicked'),
        (SELECT coalesce(sum((e->>'units')::numeric), 0) FROM told WHERE topic ~ 'OrderReserved')
        + (SELECT coalesce(sum((e->>'quantity')::numeric), 0) FROM told
            WHERE topic ~ 'BackorderFilled')
        - (SELECT coalesce(sum((e->>'reserved')::numeric), 0) FROM told
            WHERE topic ~ 'OrderReleased|OrderPartShipped|LinesCancelled|OrderSplit|OrderPicked')"""


def recount(url: str, organisation: UUID) -> tuple[int, int]:
    """What is put aside by the stocks' events and by the orders'; nothing was ever below zero."""
    with psycopg.connect(url) as connection:
        bound = {"organisation_id": organisation}
        least = connection.execute(_RECOUNT, bound).fetchone()
        assert least is not None
        assert all(figure >= 0 for figure in least), least
        both = connection.execute(_BOTH_SIDES, bound).fetchone()
        assert both is not None
        return int(both[0]), int(both[1])


@pytest.mark.parametrize("partial", [True, False])
def test_fifty_orders_at_once_share_the_last_ten_pieces(database: str, partial: bool) -> None:
    organisation = uuid4()

    async def told() -> None:
        async with (
            house(database, organisation) as one,
            house(database, organisation) as two,
            house(database, organisation) as three,
        ):
            await one.send(OPEN, came_in("A", 10))
            names = [f"O-{number}" for number in range(50)]
            commands = [command for name in names for command in order(name, A=1)]
            await one.bus.execute_many([(command, one.context()) for command in commands])
            outcomes = await asyncio.gather(
                *(
                    (one, two, three)[number % 3].outcome(reserve(name, partial=partial))
                    for number, name in enumerate(names)
                )
            )
            if partial:
                assert outcomes == ["ok"] * 50
            else:
                assert outcomes.count("ok") == 10
                assert outcomes.count("stock.not_enough") == 40

    asyncio.run(told())
    assert recount(database, organisation) == (10, 10)


def test_fifty_orders_of_two_lines_in_either_order_never_wait_for_each_other(
    database: str,
) -> None:
    organisation = uuid4()

    async def told() -> None:
        async with house(database, organisation) as one, house(database, organisation) as two:
            await one.send(OPEN, came_in("A", 60), came_in("B", 40))
            names = [f"O-{number}" for number in range(50)]
            for number, name in enumerate(names):
                lines = {"A": 1, "B": 1} if number % 2 else {"B": 1, "A": 1}
                await one.send(*order(name, **lines))
            await asyncio.gather(
                *(
                    (one, two)[number // 2 % 2].send(reserve(name))
                    for number, name in enumerate(names)
                )
            )

    asyncio.run(told())
    assert recount(database, organisation) == (90, 90)


def test_a_whole_life_in_one_batch_is_decided_on_what_the_batch_leaves(database: str) -> None:
    """Which stocks a reservation touches, only the order placed in the same batch says."""
    organisation = uuid4()

    async def told() -> None:
        async with house(database, organisation) as one, house(database, organisation) as two:
            commands: list[Command] = [OPEN, came_in("A", 3)]
            for name in ("O-1", "O-2", "O-3"):
                commands += [*order(name, A=2), reserve(name)]
            ship = ShipOrder(order_id="O-1", shipped_at=NOON)
            commands += [
                ship,
                CancelOrder(order_id="O-2", reason="x", cancelled_at=NOON),
                FillBackorder(order_id="O-3", filled_at=NOON),
                FillBackorder(order_id="O-3", filled_at=NOON),
            ]
            sent = [(command, one.context()) for command in commands]
            results = await one.bus.execute_many(sent)
            told = [one.code if isinstance(one, Refused) else "ok" for one in results]
            assert told == ["ok"] * (len(told) - 1) + ["stock.not_enough"]
            again = await two.bus.execute_many(sent)
            assert [isinstance(one, Receipt) and one.repeated for one in again][:-1] == [True] * (
                len(told) - 1
            )
            # What the bus remembers of every stream is what the log holds.
            await one.send(came_in("A", 1))
            assert await one.outcome(FillBackorder(order_id="O-3", filled_at=NOON)) == "ok"
            assert await two.outcome(ShipOrder(order_id="O-3", shipped_at=NOON)) == "ok"

    asyncio.run(told())
    assert recount(database, organisation) == (0, 0)


def test_a_pick_by_hand_is_told_to_the_order_with_the_append(database: str) -> None:
    """Once alone and once in a batch: what was picked is neither put aside nor picked again."""
    organisation = uuid4()

    def of(name: str) -> list[Command]:
        by_name = PickStock(
            site_id="S-1", sku="A", quantity=Decimal(5), order_id=name, picked_at=NOON
        )
        free_it = ReleaseOrder(order_id=name, released_at=NOON)
        again = reserve(name)
        ship_it = ShipOrder(order_id=name, shipped_at=NOON)
        return [*order(name, A=5, B=1), reserve(name), by_name, free_it, again, ship_it]

    async def told() -> None:
        async with house(database, organisation) as one:
            await one.send(OPEN, came_in("A", 20), came_in("B", 2))
            await one.send(*of("O-1"))
            results = await one.bus.execute_many(
                [(command, one.context()) for command in of("O-2")]
            )
            assert [isinstance(result, Receipt) for result in results] == [True] * 7
            left = PickStock(site_id="S-1", sku="A", quantity=Decimal(11), picked_at=NOON)
            assert await one.outcome(left) == "stock.not_enough"
            last = left.model_copy(update={"quantity": Decimal(10)})
            assert await one.outcome(last) == "ok"

    asyncio.run(told())
    assert recount(database, organisation) == (0, 0)


def test_the_receipt_is_of_the_commands_own_stream(database: str) -> None:
    organisation = uuid4()

    async def told() -> None:
        async with house(database, organisation) as one:
            await one.send(OPEN, came_in("A", 5), came_in("B", 5), *order("O-1", A=1, B=2))
            key = uuid4()
            first = await one.bus.execute(reserve("O-1"), one.context(command_id=key))
            assert (first.stream, first.version, first.repeated) == ("orders/O-1", 3, False)
            again = await one.bus.execute(reserve("O-1"), one.context(command_id=key))
            assert again == first._replace(repeated=True)
            ids = {
                name: stream_id(organisation, name)
                for name in ("orders/O-1", "stock/S-1/A", "stock/S-1/B")
            }
            log = Log(one.bus._log._pool)  # the same connections
            found = await log.streams(list(ids.values()))
            assert {name: len(found[id_]) for name, id_ in ids.items()} == {
                "orders/O-1": 3,
                "stock/S-1/A": 2,
                "stock/S-1/B": 2,
            }

    asyncio.run(told())


def test_snapshots_of_streams_that_others_append_to_are_right(database: str) -> None:
    organisation = uuid4()

    async def told() -> None:
        async with house(database, organisation) as one:
            await one.send(OPEN, came_in("A", 100))
            for number in range(25):
                await one.send(*order(f"O-{number}", A=2), reserve(f"O-{number}"))
        async with house(database, organisation) as two:  # loads from the snapshot
            assert (
                await two.outcome(
                    PickStock(site_id="S-1", sku="A", quantity=Decimal(51), picked_at=NOON)
                )
                == "stock.not_enough"
            )
            assert await two.outcome(ShipOrder(order_id="O-3", shipped_at=NOON)) == "ok"
            assert (
                await two.outcome(
                    PickStock(site_id="S-1", sku="A", quantity=Decimal(50), picked_at=NOON)
                )
                == "ok"
            )
        with psycopg.connect(database) as connection:
            stock = stream_id(organisation, "stock/S-1/A")
            kept_at = connection.execute(
                "SELECT version FROM snapshots WHERE stream_id = %s", (stock,)
            ).fetchone()
            assert kept_at is not None

    asyncio.run(told())
    assert recount(database, organisation) == (48, 48)


def test_a_conflict_on_one_of_the_streams_leaves_nothing_on_the_others(database: str) -> None:
    organisation = uuid4()

    class Overtaken(Writer):
        """Before each reservation is stored somebody else takes a piece from the shelf."""

        other: House | None = None
        times = 0

        async def append(self, unit: Unit) -> list[Receipt]:
            reserves = unit.entries[0].command == "ReserveOrder"
            if self.other is not None and reserves and Overtaken.times < 3:
                Overtaken.times += 1
                await self.other.send(
                    PickStock(site_id="S-1", sku="B", quantity=Decimal(1), picked_at=NOON)
                )
                with pytest.raises(VersionConflict) as lost:
                    await super().append(unit)
                assert await events_of(database, "orders/O-1") == 2
                assert await events_of(database, "stock/S-1/A") == 1
                raise lost.value
            return await super().append(unit)

    async def events_of(url: str, name: str) -> int:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            found = await connection.execute(
                "SELECT count(*) FROM events WHERE originator_id = %s",
                (stream_id(organisation, name),),
            )
            row = await found.fetchone()
            assert row is not None
            return int(row[0])

    async def told() -> None:
        async with (
            house(database, organisation, Overtaken) as one,
            house(database, organisation) as two,
        ):
            await one.send(OPEN, came_in("A", 5), came_in("B", 5), *order("O-1", A=5, B=5))
            Overtaken.other = two
            await one.send(reserve("O-1"))
            assert Overtaken.times == 3
            assert await events_of(database, "orders/O-1") == 4  # the last three of B wait

    asyncio.run(told())
    assert recount(database, organisation) == (7, 7)


def test_a_crash_before_the_append_leaves_nothing(database: str) -> None:
    organisation = uuid4()

    class Killed(Writer):
        async def hand_in(self, unit: Unit, *, after: Answer | None = None) -> Answer:
            if any(entry.command == "ReserveOrder" for entry in unit.entries):
                raise ConnectionError("killed")
            return await super().hand_in(unit, after=after)

    async def told() -> None:
        async with house(database, organisation, Killed) as one:
            await one.send(OPEN, came_in("A", 5), *order("O-1", A=5))
            with pytest.raises(ConnectionError):
                await one.send(reserve("O-1"))
        async with house(database, organisation) as two:
            assert await two.outcome(reserve("O-1", partial=False)) == "ok"

    asyncio.run(told())
    assert recount(database, organisation) == (5, 5)
