"""The bus on a real Postgres: retries, races, permissions and the walls between organisations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commands import HANDLERS, Bus, Context, Forbidden, command_id, stream_id
from commands.batch import Line
from commands.context import TooMuchContention, derived
from domain.access import Role
from domain.errors import Refused
from domain.inventory import PickStock, ReceiveStock
from domain.orders import (
    AllocateOrder,
    CancelOrder,
    OrderLine,
    PlaceOrder,
    ReserveOrder,
    ShipOrder,
)
from domain.sites import CloseSite, OpenSite
from domain.values import Command
from eventstore import CommandReused, Log, Receipt, Unit, VersionConflict, Writer, prepare_database
from eventstore.group import Answer
from eventstore.streams import Streams

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module", autouse=True)
def _prepared(database: str) -> None:
    prepare_database(database)


@pytest.fixture
def organisation() -> UUID:
    return uuid4()


@dataclass
class House:
    """A bus with a writer and a cache of its own, as in one process."""

    bus: Bus
    log: Log
    organisation: UUID

    def context(self, *roles: Role, **fields: Any) -> Context:
        return Context(self.organisation, "ana", frozenset(roles or {Role.ADMIN}), **fields)

    async def send(self, command: Command, **fields: Any) -> Receipt:
        return await self.bus.execute(command, self.context(**fields))

    async def outcome(self, command: Command) -> str:
        """The refusal's code, or ``ok``."""
        try:
            await self.send(command)
        except Refused as refusal:
            return refusal.code
        return "ok"


@asynccontextmanager
async def house(url: str, organisation: UUID) -> AsyncIterator[House]:
    async with (
        AsyncConnectionPool(url, open=False) as pool,
        Streams(url) as streams,
        Writer(url) as writer,
    ):
        log = Log(pool)
        yield House(Bus(log, streams, writer, HANDLERS), log, organisation)


def run(url: str, organisation: UUID, story: Callable[[House], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        async with house(url, organisation) as one:
            await story(one)

    asyncio.run(told())


def in_two_processes(
    url: str, organisation: UUID, story: Callable[[House, House], Coroutine[Any, Any, None]]
) -> None:
    async def told() -> None:
        async with house(url, organisation) as one, house(url, organisation) as two:
            await story(one, two)

    asyncio.run(told())


def place(order_id: str = "O-1", **fields: Any) -> PlaceOrder:
    line = OrderLine(line_no=1, sku="A", quantity=Decimal(1), unit_price_minor=100)
    order = PlaceOrder(
        order_id=order_id,
        customer_id="C-1",
        currency="EUR",
        lines=(line,),
        placed_at=NOON,
        promised_at=NOON,
    )
    return order.model_copy(update=fields)


def open_site(site_id: str = "S-1") -> OpenSite:
    return OpenSite(site_id=site_id, opened_at=NOON)


def allocate(order_id: str = "O-1") -> AllocateOrder:
    return AllocateOrder(order_id=order_id, site_id="S-1", allocated_at=NOON)


def cancel(order_id: str = "O-1") -> CancelOrder:
    return CancelOrder(order_id=order_id, reason="changed mind", cancelled_at=NOON)


def receive(quantity: int) -> ReceiveStock:
    return ReceiveStock(site_id="S-1", sku="A", quantity=Decimal(quantity), received_at=NOON)


def pick(quantity: int = 1) -> PickStock:
    return PickStock(site_id="S-1", sku="A", quantity=Decimal(quantity), picked_at=NOON)


CLOSE = CloseSite(site_id="S-1", reason="fire", closed_at=NOON)


# retries


def test_a_receipt_names_stream_version_and_position(database: str, organisation: UUID) -> None:
    async def story(one: House) -> None:
        before = await one.log.head()
        receipt = await one.send(place())
        assert receipt == Receipt("orders/O-1", 1, before + 1)
        assert (await one.send(cancel())).version == 2

    run(database, organisation, story)


def test_a_retry_gets_the_first_answer_though_the_rule_would_refuse_now(
    database: str, organisation: UUID
) -> None:
    async def story(one: House, two: House) -> None:
        key = uuid4()
        first = await one.send(place(), command_id=key)
        await one.send(cancel())
        for process in (one, two):
            again = await process.send(place(), command_id=key)
            assert again == Receipt(first.stream, 1, first.position, repeated=True)
        assert await one.outcome(place()) == "order.already_placed"

    in_two_processes(database, organisation, story)


def test_a_retry_of_what_may_be_done_again_is_not_done_again(
    database: str, organisation: UUID
) -> None:
    async def story(one: House, two: House) -> None:
        await one.send(open_site())
        key = uuid4()
        receipts = [await process.send(receive(3), command_id=key) for process in (one, two, one)]
        assert [receipt.repeated for receipt in receipts] == [False, True, True]
        assert await two.outcome(pick(4)) == "stock.not_enough"
        assert await two.outcome(pick(3)) == "ok"

    in_two_processes(database, organisation, story)


def test_a_reused_id_is_an_error(database: str, organisation: UUID) -> None:
    async def story(one: House) -> None:
        key = uuid4()
        await one.send(place(), command_id=key)
        with pytest.raises(CommandReused):
            await one.send(place("O-2"), command_id=key)
        with pytest.raises(CommandReused):
            await one.send(place(customer_id="C-2"), command_id=key)
        assert await one.outcome(place("O-2")) == "ok"

    run(database, organisation, story)


def test_the_senders_own_digest_decides_what_the_same_means(
    database: str, organisation: UUID
) -> None:
    async def story(one: House) -> None:
        key = uuid4()
        await one.send(place(), command_id=key, digest=b"body")
        later = place(placed_at=NOON.replace(hour=11))
        assert (await one.send(later, command_id=key, digest=b"body")).repeated
        with pytest.raises(CommandReused):
            await one.send(later, command_id=key, digest=b"other body")

    run(database, organisation, story)


def test_a_refused_command_may_be_sent_again_under_its_id(
    database: str, organisation: UUID
) -> None:
    async def story(one: House) -> None:
        key = uuid4()
        with pytest.raises(Refused):
            await one.send(cancel(), command_id=key)
        await one.send(place())
        assert not (await one.send(cancel(), command_id=key)).repeated

    run(database, organisation, story)


def test_the_answer_to_an_event_is_given_once(database: str, organisation: UUID) -> None:
    async def story(one: House) -> None:
        await one.send(place())
        cause = uuid4()
        context = derived(one.context(), cause, "cancel")
        assert context.causation_id == cause
        assert context == derived(context, cause, "cancel")
        assert context.command_id != derived(context, cause, "ship").command_id
        receipts = [await one.bus.execute(cancel(), context) for _ in range(2)]
        assert [receipt.repeated for receipt in receipts] == [False, True]
        [_, event] = (await one.log.streams([stream_id(organisation, "orders/O-1")])).popitem()[1]
        assert (event.causation_id, event.actor) == (cause, "ana")

    run(database, organisation, story)


# permissions


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("command", list(HANDLERS))
def test_a_role_may_send_what_its_handler_says(command: type[Command], role: Role) -> None:
    """No database: who is not allowed is told before anything is read."""
    bus = Bus(None, None, None, HANDLERS)  # type: ignore[arg-type]
    context = Context(uuid4(), "ana", frozenset({role}))
    wish = command.model_construct()
    if role in HANDLERS[command].roles:
        with pytest.raises(AttributeError):  # it went on, to a command without fields
            asyncio.run(bus.execute(wish, context))
    else:
        with pytest.raises(Forbidden, match=command.__name__):
            asyncio.run(bus.execute(wish, context))


def test_who_has_no_role_changes_nothing(database: str, organisation: UUID) -> None:
    async def story(one: House) -> None:
        before = await one.log.head()
        nobody = Context(organisation, "eve", frozenset())
        with pytest.raises(Forbidden, match="you have no role"):
            await one.bus.execute(place(), nobody)
        [result] = await one.bus.execute_many([(place(), nobody)])
        assert isinstance(result, Forbidden)
        assert await one.log.head() == before

    run(database, organisation, story)


def test_a_command_without_a_handler_is_forbidden(database: str, organisation: UUID) -> None:
    class Dream(Command):
        pass

    async def story(one: House) -> None:
        with pytest.raises(Forbidden, match="Dream"):
            await one.send(Dream())

    run(database, organisation, story)


# races


def test_a_stale_cache_is_found_out(database: str, organisation: UUID) -> None:
    async def story(one: House, two: House) -> None:
        await one.send(open_site())
        await one.send(place())
        await two.send(allocate())  # two knows version 2
        await one.send(ShipOrder(order_id="O-1", shipped_at=NOON))
        # What two knows would allow it.
        assert await two.outcome(cancel()) == "order.already_shipped"
        # What one knew before would refuse it.
        assert await one.outcome(place("O-2")) == "ok"
        assert await two.outcome(cancel("O-2")) == "ok"
        assert await one.outcome(allocate("O-2")) == "order.already_cancelled"

    in_two_processes(database, organisation, story)


def test_a_refusal_from_a_stale_cache_is_not_believed(database: str, organisation: UUID) -> None:
    async def story(one: House, two: House) -> None:
        await one.send(open_site())
        await one.send(receive(1))
        assert await two.outcome(pick(2)) == "stock.not_enough"
        await one.send(receive(1))
        assert await two.outcome(pick(2)) == "ok"

    in_two_processes(database, organisation, story)


def test_what_a_decision_read_must_still_hold(database: str, organisation: UUID) -> None:
    async def story(one: House, two: House) -> None:
        await one.send(open_site())
        await one.send(place())
        await one.send(place("O-2"))
        await one.send(allocate("O-2"))  # one has the open site in its cache
        await two.send(CLOSE)
        assert await one.outcome(allocate()) == "site.closed"

    in_two_processes(database, organisation, story)


def test_an_allocation_and_a_closing_at_once_come_out_in_some_order(
    database: str, organisation: UUID
) -> None:
    async def story(one: House, two: House) -> None:
        await one.send(open_site())
        orders = [f"O-{number}" for number in range(20)]
        for order_id in orders:
            await one.send(place(order_id))
        *allocated, _ = await asyncio.gather(
            *(one.outcome(allocate(order_id)) for order_id in orders), two.outcome(CLOSE)
        )
        assert set(allocated) <= {"ok", "site.closed"}
        ids = [stream_id(organisation, f"orders/{order_id}") for order_id in orders]
        site = stream_id(organisation, "sites/S-1")
        streams = await one.log.streams([*ids, site])
        closed_at = streams[site][1].position
        told = [event.position for order in ids for event in streams[order][1:]]
        assert len(told) == allocated.count("ok")
        assert all(position < closed_at for position in told)

    in_two_processes(database, organisation, story)


def test_the_last_pieces_go_to_as_many_as_there_are(database: str, organisation: UUID) -> None:
    async def story(one: House, two: House) -> None:
        await one.send(open_site())
        await one.send(receive(10))
        outcomes = await asyncio.gather(
            *((one, two)[number % 2].outcome(pick()) for number in range(50))
        )
        assert outcomes.count("ok") == 10
        assert outcomes.count("stock.not_enough") == 40
        stream = stream_id(organisation, "stock/S-1/A")
        assert len((await one.log.streams([stream]))[stream]) == 11

    in_two_processes(database, organisation, story)


def test_contention_without_end_is_given_up(database: str, organisation: UUID) -> None:
    class Unlucky(Writer):
        async def hand_in(self, unit: Unit, *, after: Answer | None = None) -> Answer:
            answer: Answer = asyncio.get_running_loop().create_future()
            answer.set_exception(VersionConflict(next(iter(unit.expected)), 0, 1))
            return answer

    async def told() -> None:
        async with (
            AsyncConnectionPool(database, open=False) as pool,
            Streams(database) as streams,
            Unlucky(database) as writer,
        ):
            one = House(Bus(Log(pool), streams, writer, HANDLERS), Log(pool), organisation)
            with pytest.raises(TooMuchContention, match=r"orders/O-1 .* version 0, found 1"):
                await one.send(place())
            with pytest.raises(TooMuchContention):
                await one.bus.execute_many([(place(), one.context())])

    asyncio.run(told())


# many


def test_many_commands_run_in_their_order_and_a_refusal_holds_up_nobody(
    database: str, organisation: UUID
) -> None:
    async def story(one: House) -> None:
        commands = [
            place(),
            allocate(),  # there is no site yet
            open_site(),
            allocate(),
            place(),
            ShipOrder(order_id="O-1", shipped_at=NOON),
            cancel(),
            place("O-2"),
        ]
        results = await one.bus.execute_many([(wish, one.context()) for wish in commands])
        told = [
            result.version if isinstance(result, Receipt) else getattr(result, "code", None)
            for result in results
        ]
        assert told == [
            1,
            "site.unknown",
            1,
            2,
            "order.already_placed",
            3,
            "order.already_shipped",
            1,
        ]
        positions = [result.position for result in results if isinstance(result, Receipt)]
        assert positions == list(range(positions[0], positions[0] + 5))
        # What the bus remembers is what the log holds.
        assert await one.outcome(cancel("O-2")) == "ok"

    run(database, organisation, story)


def test_many_commands_sent_again_get_their_first_answers(
    database: str, organisation: UUID
) -> None:
    async def story(one: House, two: House) -> None:
        wishes = [
            (place(f"O-{number}"), one.context(command_id=command_id(organisation, str(number))))
            for number in range(30)
        ]
        first = await one.bus.execute_many(wishes[:20])
        before = await one.log.head()
        for process in (one, two):
            again = await process.bus.execute_many(wishes[:20])
            assert [(a.position, a.repeated) for a in again if isinstance(a, Receipt)] == [
                (f.position, True) for f in first if isinstance(f, Receipt)
            ]
            assert await one.log.head() == before
        mixed = await two.bus.execute_many(wishes)
        assert [r.repeated for r in mixed if isinstance(r, Receipt)] == [True] * 20 + [False] * 10

    in_two_processes(database, organisation, story)


def test_a_command_twice_in_one_call_is_run_once(database: str, organisation: UUID) -> None:
    async def story(one: House) -> None:
        await one.send(open_site())
        context = one.context()
        other = one.context(command_id=context.command_id)
        results = await one.bus.execute_many(
            [
                (receive(5), context),
                (receive(5), other),
                (receive(6), other),
                (pick(5), one.context()),
            ]
        )
        first, second, third, fourth = results
        assert isinstance(first, Receipt)
        assert isinstance(second, Receipt)
        assert (second.position, second.repeated) == (first.position, True)
        assert isinstance(third, CommandReused)
        assert isinstance(fourth, Receipt)
        assert await one.outcome(pick()) == "stock.not_enough"

    run(database, organisation, story)


def test_many_commands_decide_on_the_newest_states(database: str, organisation: UUID) -> None:
    async def story(one: House, two: House) -> None:
        await one.send(open_site())
        await one.send(receive(1))
        assert await two.outcome(pick(5)) == "stock.not_enough"
        await one.send(receive(9))
        results = await two.bus.execute_many(
            [(pick(4), two.context()), (pick(4), two.context()), (pick(4), two.context())]
        )
        assert [isinstance(result, Receipt) for result in results] == [True, True, False]
        assert await one.outcome(pick(2)) == "ok"
        assert await one.outcome(pick(1)) == "stock.not_enough"

    in_two_processes(database, organisation, story)


def test_a_rehearsal_looks_at_the_newest_states_of_what_it_follows(
    database: str, organisation: UUID
) -> None:
    """What a reservation touches only the order says; what is in memory of it may be stale."""

    async def story(one: House, two: House) -> None:
        await one.send(open_site())
        await one.send(receive(5))
        assert await two.outcome(pick(6)) == "stock.not_enough"  # two knows of five
        await two.send(place())
        await two.send(allocate())
        await one.send(pick(5))
        all_of_it = ReserveOrder(order_id="O-1", partial=False, reserved_at=NOON)

        async def rehearsed(line: Line, *commands: Command) -> list[str]:
            batch = two.bus.batch([(command, two.context()) for command in commands])
            results = await two.bus.rehearse(batch, line)
            return [one.code if isinstance(one, Refused) else "ok" for one in results]

        line = Line()
        assert await rehearsed(line, all_of_it) == ["stock.not_enough"]
        # What the one before would leave counts, in the same batch and in the next.
        assert await rehearsed(line, receive(1), all_of_it) == ["ok", "ok"]
        assert await rehearsed(line, pick(1)) == ["stock.not_enough"]
        assert await one.outcome(pick(1)) == "stock.not_enough"

    in_two_processes(database, organisation, story)


def test_many_senders_of_many_commands_lose_and_double_nothing(
    database: str, organisation: UUID
) -> None:
    async def story(one: House, two: House) -> None:
        await one.send(open_site())
        await one.send(receive(40))

        async def batch(process: House) -> list[Any]:
            return list(
                await process.bus.execute_many([(pick(), process.context()) for _ in range(10)])
            )

        rounds = await asyncio.gather(*(batch(process) for process in (one, two) * 3))
        results = [result for batch in rounds for result in batch]
        assert sum(isinstance(result, Receipt) for result in results) == 40
        assert sum(isinstance(result, Refused) for result in results) == 20
        stream = stream_id(organisation, "stock/S-1/A")
        assert len((await one.log.streams([stream]))[stream]) == 41

    in_two_processes(database, organisation, story)


def test_nothing_of_nothing(database: str, organisation: UUID) -> None:
    async def story(one: House) -> None:
        assert await one.bus.execute_many([]) == []

    run(database, organisation, story)


# organisations


def test_organisations_do_not_see_each_others_streams(database: str) -> None:
    async def told() -> None:
        async with house(database, uuid4()) as ours, house(database, uuid4()) as theirs:
            await ours.send(place())
            assert await theirs.outcome(cancel()) == "order.unknown"
            assert await theirs.outcome(place()) == "ok"
            assert await ours.outcome(cancel()) == "ok"
            assert await theirs.outcome(cancel()) == "ok"
            # One bus for both, as in one server: its cache keeps them apart.
            other = House(ours.bus, ours.log, uuid4())
            assert await other.outcome(cancel()) == "order.unknown"

    asyncio.run(told())
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            """SELECT count(DISTINCT organisation_id) FROM events GROUP BY originator_id"""
        ).fetchall()
    assert {row[0] for row in rows} == {1}


def test_a_small_cache_forgets_and_reads_again(database: str, organisation: UUID) -> None:
    async def told() -> None:
        async with (
            AsyncConnectionPool(database, open=False) as pool,
            Streams(database) as streams,
            Writer(database) as writer,
        ):
            log = Log(pool)
            one = House(Bus(log, streams, writer, HANDLERS, cache_size=2), log, organisation)
            for number in range(6):
                await one.send(place(f"O-{number}"))
            for number in range(6):
                assert await one.outcome(cancel(f"O-{number}")) == "ok"
                assert await one.outcome(cancel(f"O-{number}")) == "order.already_cancelled"

    asyncio.run(told())
