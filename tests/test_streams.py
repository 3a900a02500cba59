"""Loading streams: snapshots of the right rules, tails behind them, many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commands import Bus, Context, Handler, stream_id
from commands.states import Rules
from commands.turns import Turns
from domain.access import Role
from domain.catalogue import Catalogue
from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event
from eventstore import Log, LogUnavailable, Writer, prepare_database
from eventstore.streams import Snapshot, Streams, Wanted
from tests.appending import head_locked, terminate, unit

EVERY = 10
_folded: list[int] = []


class Add(Command):
    counter: str
    amount: int = 1


class Added(Event):
    counter: str
    amount: int


@dataclass(frozen=True, slots=True)
class Counter:
    total: int = 0


def evolve(counter: Counter, event: Added) -> Counter:
    _folded.append(event.amount)
    return Counter(counter.total + event.amount)


def evolve_otherwise(counter: Counter, event: Added) -> Counter:
    _folded.append(event.amount)
    return Counter(counter.total + 100 * event.amount)


COUNTERS = Decider(initial=Counter(), evolve=evolve)
OTHERWISE = Decider(initial=Counter(), evolve=evolve_otherwise)
CATALOGUE = Catalogue({"test": (Added,)}, {}, {})


def handlers(decider: Decider[Counter], seen: list[int]) -> dict[type[Command], Handler]:
    def decide(command: Add, _: str, counter: Counter) -> Sequence[Event]:
        if not command.amount:
            raise Refused("counter.nothing", counter=command.counter)
        seen.append(counter.total)
        return [Added(counter=command.counter, amount=command.amount)]

    return {
        Add: Handler(
            command=Add,
            roles=frozenset({Role.SERVICE}),
            stream=lambda command: f"counters/{command.counter}",
            decider=decider,
            decide=decide,
        )
    }


class House:
    """A bus as a process that has just started has it: nothing in memory."""

    def __init__(self, log: Log, streams: Streams, writer: Writer, organisation: UUID) -> None:
        self.log, self.streams, self.writer = log, streams, writer
        self.organisation = organisation
        self.seen: list[int] = []

    def fresh(self, decider: Decider[Counter] = COUNTERS, *, patience_s: float = 15) -> Bus:
        return Bus(
            self.log,
            self.streams,
            self.writer,
            handlers(decider, self.seen),
            snapshot_every=EVERY,
            catalogue=CATALOGUE,
            patience_s=patience_s,
        )

    async def add(self, bus: Bus, times: int = 1, counter: str = "A") -> None:
        for _ in range(times):
            context = Context(self.organisation, "ana", frozenset({Role.SERVICE}))
            await bus.execute(Add(counter=counter), context)

    async def folded(self, decider: Decider[Counter] = COUNTERS) -> tuple[int, int]:
        """What a fresh bus decides on, and how many events it folded for that."""
        _folded.clear()
        await self.add(self.fresh(decider))
        return self.seen[-1], len(_folded) - 1  # the last is the new one


@asynccontextmanager
async def house(url: str) -> AsyncIterator[House]:
    prepare_database(url)
    async with (
        AsyncConnectionPool(url, open=False, kwargs={"autocommit": True}) as pool,
        Streams(url) as streams,
        Writer(url) as writer,
    ):
        yield House(Log(pool), streams, writer, uuid4())


async def snapshots(one: House) -> list[tuple[Any, ...]]:
    # A load goes before the snapshots that wait, the next one behind them: then they are there.
    for _ in range(2):
        await one.streams.load({uuid4(): Wanted(0, b"")})
    async with one.log.connection() as connection:
        rows = await connection.execute(
            "SELECT version, convert_from(state, 'UTF8') FROM snapshots WHERE stream_id = %s",
            (stream_id(one.organisation, "counters/A"),),
        )
        return await rows.fetchall()


def test_a_long_stream_is_loaded_from_its_snapshot(database: str) -> None:
    async def story() -> None:
        async with house(database) as one:
            await one.add(one.fresh(), 25)
            assert await snapshots(one) == [(20, '{"total":20}')]
            assert await one.folded() == (25, 5)
            await one.add(one.fresh(), 4)
            assert await snapshots(one) == [(30, '{"total":30}')]
            assert await one.folded() == (30, 0)

    asyncio.run(story())


def test_a_long_stream_without_a_snapshot_gets_one_when_it_is_loaded(database: str) -> None:
    async def story() -> None:
        async with house(database) as one:
            await one.add(one.fresh(), 25)
            await snapshots(one)
            async with one.log.connection() as connection:
                await connection.execute("TRUNCATE snapshots")
            assert await one.folded() == (25, 25)
            assert await snapshots(one) == [(25, '{"total":25}')]
            assert await one.folded() == (26, 1)

    asyncio.run(story())


def test_a_snapshot_of_other_rules_is_not_used_and_is_replaced(database: str) -> None:
    async def story() -> None:
        async with house(database) as one:
            await one.add(one.fresh(), 25)
            assert (await snapshots(one))[0] == (20, '{"total":20}')
            assert await one.folded(OTHERWISE) == (2500, 25)
            assert (await snapshots(one))[0] == (25, '{"total":2500}')
            assert await one.folded(OTHERWISE) == (2600, 1)
            assert await one.folded(COUNTERS) == (27, 27), "nor the other way round"

    asyncio.run(story())


def test_the_fingerprint_tells_rules_state_and_upcasters_apart() -> None:
    class Added2(Event):
        counter: str
        amount: int

    @dataclass(frozen=True, slots=True)
    class Wider:
        total: int = 0
        most: int = 0

    first = Rules(COUNTERS, CATALOGUE).fingerprint
    assert first == Rules(Decider(initial=Counter(), evolve=evolve), CATALOGUE).fingerprint
    older = Catalogue(
        {"test": (Added,)}, {Added: 2}, {"test.Added.v1": ("test.Added.v2", lambda body: body)}
    )
    others = {
        Rules(OTHERWISE, CATALOGUE).fingerprint,
        Rules(Decider(initial=Wider(), evolve=evolve), CATALOGUE).fingerprint,
        Rules(COUNTERS, older).fingerprint,
    }
    assert len(others | {first}) == 4


def test_a_snapshot_that_cannot_be_read_is_done_without(database: str) -> None:
    async def story() -> None:
        async with house(database) as one:
            await one.add(one.fresh(), 25)
            await snapshots(one)
            async with one.log.connection() as connection:
                await connection.execute('UPDATE snapshots SET state = \'{"total":"many"}\'')
            assert await one.folded() == (25, 25)

    asyncio.run(story())


def test_a_snapshot_ahead_of_the_log_is_not_used(database: str) -> None:
    """As after the log alone was restored from a backup."""

    async def story() -> None:
        async with house(database) as one:
            await one.add(one.fresh(), 25)
            await snapshots(one)
            async with one.log.connection() as connection:
                await connection.execute(
                    "DELETE FROM events WHERE originator_id = %s AND originator_version > 7",
                    (stream_id(one.organisation, "counters/A"),),
                )
            assert await one.folded() == (7, 7)

    asyncio.run(story())


def test_a_state_in_memory_that_is_ahead_of_the_log_is_given_up(database: str) -> None:
    async def story() -> None:
        async with house(database) as one:
            bus = one.fresh()
            await one.add(bus, 25)
            async with one.log.connection() as connection:
                await connection.execute(
                    "DELETE FROM events WHERE originator_id = %s AND originator_version > 7",
                    (stream_id(one.organisation, "counters/A"),),
                )
            await one.add(bus)
            assert one.seen[-1] == 7
            await one.add(bus)
            assert one.seen[-1] == 8

    asyncio.run(story())


def test_many_loads_at_once_each_get_their_own(database: str) -> None:
    async def story() -> None:
        async with house(database) as one:
            streams = [uuid4() for _ in range(40)]
            await asyncio.gather(
                *(
                    one.writer.append(unit(stream, *range(1, number % 5 + 2)))
                    for number, stream in enumerate(streams)
                )
            )
            found = await asyncio.gather(
                *(
                    one.streams.load({stream: Wanted(number % 3, b""), uuid4(): Wanted(0, b"")})
                    for number, stream in enumerate(streams)
                )
            )
            for number, (stream, mine) in enumerate(zip(streams, found, strict=True)):
                last = number % 5 + 1
                assert len(mine) == 2
                assert mine[stream] == (
                    None,
                    [
                        (version, "test.Noted.v1", b'{"n":%d}' % version)
                        for version in range(number % 3 + 1, last + 1)
                    ],
                )

    asyncio.run(story())


def test_a_load_survives_its_connection_and_a_stalled_one_is_told(database: str) -> None:
    async def story() -> None:
        prepare_database(database)
        stream = uuid4()
        async with Writer(database) as writer, Streams(database, patience_s=0.5) as streams:
            await writer.append(unit(stream, 1))
            assert len((await streams.load({stream: Wanted(0, b"")}))[stream].events) == 1
            terminate(database)
            assert len((await streams.load({stream: Wanted(0, b"")}))[stream].events) == 1
            with psycopg.connect(database) as stalling:
                stalling.execute("LOCK TABLE snapshots IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(LogUnavailable, match="did not answer"):
                    await streams.load({stream: Wanted(0, b"")})
            assert len((await streams.load({stream: Wanted(0, b"")}))[stream].events) == 1

    asyncio.run(story())


def test_snapshots_that_wait_are_kept_at_the_end(database: str) -> None:
    stream = uuid4()

    async def story() -> None:
        prepare_database(database)
        async with Streams(database) as streams:
            for version in (2, 5, 3):
                streams.save(stream, Snapshot(version, b"rules", b"%d" % version))

    asyncio.run(story())
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT version, state FROM snapshots WHERE stream_id = %s", (stream,)
        ).fetchall()
    assert rows == [(5, b"5")], "the newest of them"


def test_an_older_snapshot_does_not_replace_a_newer_one(database: str) -> None:
    stream = uuid4()

    async def story() -> None:
        prepare_database(database)
        for version in (5, 3):
            async with Streams(database) as streams:
                streams.save(stream, Snapshot(version, b"rules", b"%d" % version))

    asyncio.run(story())
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT version FROM snapshots WHERE stream_id = %s", (stream,)
        ).fetchone()
    assert row == (5,)


def test_a_bus_is_told_when_streams_cannot_be_loaded(database: str) -> None:
    async def story() -> None:
        async with house(database) as one, Streams(database, patience_s=0.3) as impatient:
            one.streams = impatient
            with psycopg.connect(database) as stalling:
                stalling.execute("LOCK TABLE snapshots IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(LogUnavailable):
                    await one.add(one.fresh())

    asyncio.run(story())


def test_commands_on_one_stream_are_all_told_when_the_database_stalls(database: str) -> None:
    """Their turns come one after the other; their patience does not add up."""

    async def story() -> None:
        prepare_database(database)
        async with (
            AsyncConnectionPool(database, open=False, timeout=2) as pool,
            Streams(database, patience_s=2) as streams,
            Writer(database, patience_s=2) as writer,
        ):
            one = House(Log(pool), streams, writer, uuid4())
            bus = one.fresh(patience_s=2)
            await one.add(bus)
            with head_locked(database):
                async with asyncio.timeout(30):  # 30 times two seconds would be 60
                    outcomes = await asyncio.gather(
                        *(one.add(bus) for _ in range(30)), return_exceptions=True
                    )
            assert all(isinstance(outcome, LogUnavailable) for outcome in outcomes)
            await one.add(bus)

    asyncio.run(story())


def test_a_refusal_is_not_waited_for_when_the_database_stalls(database: str) -> None:
    async def story() -> None:
        prepare_database(database)
        async with (
            AsyncConnectionPool(database, open=False, timeout=2) as pool,
            Streams(database, patience_s=2) as streams,
            Writer(database, patience_s=2) as writer,
        ):
            one = House(Log(pool), streams, writer, uuid4())
            bus = one.fresh()
            await one.add(bus)
            with psycopg.connect(database) as stalling:
                stalling.execute("LOCK TABLE commands IN ACCESS EXCLUSIVE MODE")
                async with asyncio.timeout(60):
                    with pytest.raises(LogUnavailable):
                        await bus.execute(
                            Add(counter="A", amount=0),
                            Context(one.organisation, "ana", frozenset({Role.SERVICE})),
                        )

    asyncio.run(story())


def test_no_more_loads_wait_than_are_let(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.streams._WAITING", 50)

    async def story() -> None:
        prepare_database(database)
        async with Streams(database, patience_s=2) as streams:
            with psycopg.connect(database) as stalling:
                stalling.execute("LOCK TABLE snapshots IN ACCESS EXCLUSIVE MODE")
                async with asyncio.timeout(30):
                    outcomes = await asyncio.gather(
                        *(streams.load({uuid4(): Wanted(0, b"")}) for _ in range(200)),
                        return_exceptions=True,
                    )
            assert all(isinstance(one, LogUnavailable) for one in outcomes)
            assert sum("wait for the database already" in str(one) for one in outcomes) == 149
            assert await streams.load({(one := uuid4()): Wanted(0, b"")}) == {one: (None, [])}

    asyncio.run(story())


def test_a_connection_whose_statements_could_not_be_prepared_is_made_anew(database: str) -> None:
    async def story() -> None:
        prepare_database(database)
        with psycopg.connect(database, autocommit=True) as connection:
            async with Streams(database, patience_s=8) as streams:
                connection.execute("ALTER TABLE snapshots RENAME TO elsewhere")
                try:
                    with pytest.raises(LogUnavailable, match="snapshots"):
                        await streams.load({uuid4(): Wanted(0, b"")})
                finally:
                    connection.execute("ALTER TABLE elsewhere RENAME TO snapshots")
                assert await streams.load({(one := uuid4()): Wanted(0, b"")}) == {one: (None, [])}

    asyncio.run(story())


def test_turns_are_first_come_first_served_and_a_cancelled_one_is_passed_on() -> None:
    async def story() -> None:
        turns, order = Turns(), list[str]()

        async def use(name: str) -> None:
            if not turns.take(1):
                await turns.wait(1)
            try:
                order.append(name)
                await asyncio.sleep(0)
            finally:
                turns.give(1)

        assert turns.take(1)
        assert turns.take(2), "another key is free"
        waiting = [asyncio.create_task(use(name)) for name in "abcd"]
        await asyncio.sleep(0)
        waiting[1].cancel()
        turns.give(1)
        waiting[0].cancel()  # its turn had come, it had not run yet
        await asyncio.gather(*waiting, return_exceptions=True)
        assert order == ["c", "d"]
        assert turns.take(1), "nobody has it"

    asyncio.run(story())


def test_the_lock_of_the_log_holds_up_no_load(database: str) -> None:
    async def story() -> None:
        prepare_database(database)
        async with Streams(database, patience_s=60) as streams:
            with head_locked(database):
                assert (await streams.load({(one := uuid4()): Wanted(0, b"")}))[one].events == []

    asyncio.run(story())
