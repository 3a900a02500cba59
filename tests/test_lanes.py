"""Lanes: however their records come, tables are as if the log had been folded in its order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from eventstore import StoredEvent, Writer
from eventstore.kafka.cluster import lane_of
from eventstore.kafka.records import Carried
from eventstore.kafka.sequence import LaneBatch, LaneSequence, Superseded
from eventstore.log import Connection, read_after
from projections import store
from projections.catalogue import TABLES
from projections.inventory import STOCK_LEVELS
from projections.lane_projector import LaneProjector
from projections.orders import ORDER_SUMMARY
from projections.projector import Projector
from projections.rebuild import rebuild_organisation
from projections.table import Table
from tests.appending import emptied
from tests.laning import batches, chained, relayed
from tests.test_folds import dump, facts, progress, tell

LANES = 3
ORGANISATIONS = [UUID(int=(7 << 64) + number) for number in range(5)]
#: Tables that are folded in every way: merged, by when events count, each event a row, closed.
EVERY = [
    TABLES[name]
    for name in ("stock_levels", "order_summary", "order_timeline", "daily_kpis", "people")
]
EPOCH = uuid4()


# one lane put in order


def records(count: int) -> list[tuple[int, Carried]]:
    """A lane of a log that others share, with its offsets."""
    positions = [3 * number + 1 for number in range(count)]
    return [
        (
            number,
            Carried(
                StoredEvent(
                    position,
                    uuid4(),
                    1,
                    "a.B.v1",
                    b"{}",
                    uuid4(),
                    ORGANISATIONS[0],
                    datetime(2026, 1, 1, tzinfo=UTC),
                    uuid4(),
                    None,
                    "ana",
                ),
                positions[number - 1] if number else 0,
                EPOCH,
            ),
        )
        for number, position in enumerate(positions)
    ]


@given(data=st.data(), count=st.integers(1, 12), limit=st.integers(1, 5))
def test_records_in_any_order_and_repeated_come_once_and_in_order(
    data: st.DataObject, count: int, limit: int
) -> None:
    lane = records(count)
    brought = data.draw(st.permutations(lane + data.draw(st.lists(st.sampled_from(lane)))))
    sequence, found = LaneSequence(0), list[int]()
    for number, record in enumerate(brought):
        sequence.add("a" if number % 2 else "b", [record])
        while events := sequence.ready(limit):
            assert len(events) <= limit
            found += [one.position for one in events]
            sequence.finish(events[-1].position)
    assert found == [event.position for _, (event, _, _) in lane]
    assert len(sequence) == 0


def test_what_is_missing_is_named_and_nothing_behind_it_is_given_out() -> None:
    lane = records(5)
    sequence = LaneSequence(0)
    sequence.add("a", [lane[0], lane[3], lane[4]])
    assert [one.position for one in sequence.ready(10)] == [1]
    sequence.finish(1)
    assert sequence.ready(10) == []
    after, events = sequence.behind_gap(10)
    assert (after, [one.position for one in events]) == (7, [10, 13])
    assert sequence.first_offset("a") == 3
    assert sequence.first_offset("b") is None
    sequence.finish(13)
    assert sequence.behind_gap(10) == (13, [])


# tables


@pytest.fixture
def log(database: str) -> str:
    """The URL of a database with an empty log and no read models."""
    return emptied(database)


async def written(url: str, seed: int, size: int) -> list[StoredEvent]:
    """Facts of several organisations."""
    chance = Random(seed)
    told = [(chance.choice(ORGANISATIONS), event) for _, event in facts(chance, size)]
    async with Writer(url) as writer:
        await tell(writer, told, {})
    async with connected(url) as connection:
        return await read_after(connection, 0, size)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


def lanes_of(url: str, events: list[StoredEvent]) -> tuple[UUID, dict[int, list[Carried]]]:
    epoch = relayed(url, LANES, events)
    return epoch, chained(events, LANES, epoch)


async def as_folded(url: str, tables: list[Table]) -> dict[str, list[str]]:
    """What the whole log folds to, in its order and in one go."""
    found = {}
    for table in tables:
        await Projector(url, [table]).rebuild(table)
        found[table.name] = dump(url, table)
    return found


def dumped(url: str, tables: list[Table]) -> dict[str, list[str]]:
    return {table.name: dump(url, table) for table in tables}


def in_any_order(
    lanes: dict[int, list[Carried]], epoch: UUID, chance: Random
) -> Iterator[LaneBatch]:
    """Lanes in turns by chance; batches come twice, too early, or never."""
    left = {
        lane: batches(some, lane, LANES, epoch, chance.randint(1, 40))
        for lane, some in lanes.items()
    }
    while any(left.values()):
        lane = chance.choice([lane for lane, some in left.items() if some])
        batch = left[lane].pop(0)
        if chance.random() < 0.2:
            continue  # lost
        yield batch
        if chance.random() < 0.3:
            yield batch
        if left[lane] and chance.random() < 0.2:
            yield left[lane][-1]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_lanes_in_any_order_make_the_tables_of_the_log(database: str, seed: int) -> None:
    async def run() -> None:
        url = emptied(database)
        events = await written(url, seed, 250)
        epoch, lanes = lanes_of(url, events)
        chance = Random(seed)
        projector = LaneProjector(url, EVERY)
        assert await projector.prepare() == []
        async with connected(url) as connection:
            for batch in in_any_order(lanes, epoch, chance):
                await projector.take(connection, batch)
                if chance.random() < 0.2:
                    await projector.level(connection)
                if chance.random() < 0.1:  # somebody runs by the log for a while
                    async with connected(url) as other:
                        await Projector(url, EVERY, batch=chance.randint(1, 50)).step(other)
            for lane, some in lanes.items():
                if some:  # what was lost at the end
                    last = some[-1].event.position
                    await projector.take(connection, LaneBatch(lane, LANES, epoch, last, []))
            await projector.level(connection)
        assert progress(url) == {table.name: (250, None) for table in EVERY}
        found = dumped(url, EVERY)
        assert found == await as_folded(url, EVERY)

    asyncio.run(run())


def test_two_members_that_both_believe_to_have_a_lane_fold_it_once(log: str) -> None:
    async def run() -> None:
        events = await written(log, 3, 300)
        epoch, lanes = lanes_of(log, events)
        members = [LaneProjector(log, EVERY) for _ in range(3)]
        for one in members:
            await one.prepare()

        async def work(member: LaneProjector) -> None:
            async with connected(log) as connection:
                for lane, some in lanes.items():
                    for batch in batches(some, lane, LANES, epoch, 17):
                        await member.take(connection, batch)
                        await member.level(connection)

        await asyncio.gather(*(work(one) for one in members))
        assert progress(log) == {table.name: (300, None) for table in EVERY}
        assert dumped(log, EVERY) == await as_folded(log, EVERY)

    asyncio.run(run())


def test_a_position_is_that_of_the_lane_that_is_furthest_behind(log: str) -> None:
    async def run() -> None:
        events = await written(log, 4, 90)
        epoch, lanes = lanes_of(log, events)
        behind = lane_of(events[40].organisation_id, LANES)
        projector = LaneProjector(log, [STOCK_LEVELS])
        await projector.prepare()
        async with connected(log) as connection:
            for lane, some in lanes.items():
                upto = [one for one in some if lane != behind or one.event.position < 41]
                for batch in batches(upto, lane, LANES, epoch, 1000):
                    await projector.take(connection, batch)
            await projector.level(connection)
            before = [one for one in events if lane_of(one.organisation_id, LANES) == behind]
            done = max((one.position for one in before if one.position < 41), default=0)
            assert progress(log)["stock_levels"][0] == done
            # An idle lane holds nobody up: the last one comes to the head of what was relayed.
            for batch in batches(lanes[behind], behind, LANES, epoch, 1000):
                await projector.take(connection, batch)
            await projector.level(connection)
        assert progress(log)["stock_levels"][0] == 90

    asyncio.run(run())


def test_a_batch_of_another_epoch_is_not_taken(log: str) -> None:
    async def run() -> None:
        events = await written(log, 5, 30)
        epoch, lanes = lanes_of(log, events)
        relayed(log, LANES, events)  # and begins anew
        projector = LaneProjector(log, EVERY)
        await projector.prepare()
        async with connected(log) as connection:
            with pytest.raises(Superseded):
                await projector.take(connection, batches(lanes[0], 0, LANES, epoch, 10)[0])
        assert dump(log, ORDER_SUMMARY) == []

    asyncio.run(run())


def test_a_rebuild_in_the_middle_goes_on_with_every_lane(log: str) -> None:
    async def run() -> None:
        events = await written(log, 6, 200)
        epoch, lanes = lanes_of(log, events)
        projector = LaneProjector(log, EVERY)
        await projector.prepare()
        cut = {lane: batches(some, lane, LANES, epoch, 25) for lane, some in lanes.items()}
        async with connected(log) as connection:
            for batch in cut[0]:
                await projector.take(connection, batch)
            for batch in cut[1][:1]:
                await projector.take(connection, batch)
            await projector.level(connection)
            await Projector(log, [ORDER_SUMMARY]).rebuild(ORDER_SUMMARY)
            await rebuild_organisation(log, STOCK_LEVELS, ORGANISATIONS[0])
            await rebuild_organisation(log, STOCK_LEVELS, ORGANISATIONS[1])
            for batch in [*cut[1], *cut[2], *cut[0]]:
                await projector.take(connection, batch)
            await projector.level(connection)
        assert dumped(log, EVERY) == await as_folded(log, EVERY)

    asyncio.run(run())


def test_a_table_that_is_rolled_back_has_its_own_lanes_again(log: str) -> None:
    async def run() -> None:
        events = await written(log, 7, 200)
        epoch, lanes = lanes_of(log, events)
        projector = LaneProjector(log, [ORDER_SUMMARY])
        await projector.prepare()
        cut = {lane: batches(some, lane, LANES, epoch, 25) for lane, some in lanes.items()}
        async with connected(log) as connection:
            for batch in cut[0]:
                await projector.take(connection, batch)
            await Projector(log, [ORDER_SUMMARY]).rebuild(ORDER_SUMMARY)
            await store.roll_back(connection, ORDER_SUMMARY)
            for batch in [*cut[0], *cut[1], *cut[2]]:
                await projector.take(connection, batch)
            await projector.level(connection)
        live = dumped(log, [ORDER_SUMMARY])
        assert live == await as_folded(log, [ORDER_SUMMARY])

    asyncio.run(run())


def test_a_table_of_a_log_that_is_gone_is_rebuilt(log: str) -> None:
    async def run() -> None:
        events = await written(log, 8, 120)
        epoch, lanes = lanes_of(log, events)
        projector = LaneProjector(log, [ORDER_SUMMARY])
        await projector.prepare()
        async with connected(log) as connection:
            for batch in batches(lanes[0], 0, LANES, epoch, 1000):
                await projector.take(connection, batch)
            # Only the lane is ahead: the table itself stands at 0.
            with psycopg.connect(log) as other:
                other.execute("UPDATE projection_lanes SET last_event_id = gen_random_uuid()")
            assert await store.diverged(connection, [ORDER_SUMMARY]) == [ORDER_SUMMARY]
            building = asyncio.create_task(projector.build([]))
            try:
                for _ in range(100):
                    for lane, some in lanes.items():
                        for batch in batches(some, lane, LANES, epoch, 50):
                            await projector.take(connection, batch)
                    if not await store.diverged(connection, [ORDER_SUMMARY]):
                        break
                    await asyncio.sleep(0.05)
                await projector.level(connection)
            finally:
                building.cancel()
        assert dumped(log, [ORDER_SUMMARY]) == await as_folded(log, [ORDER_SUMMARY])

    asyncio.run(run())


def test_what_cannot_be_folded_is_parked_and_its_lane_goes_on(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = 57

    async def run() -> None:
        events = await written(log, 9, 150)
        spoiled = events[poison - 1]
        with psycopg.connect(log) as connection:
            connection.execute(
                "UPDATE events SET state = %s WHERE notification_id = %s",
                (b"spoiled", poison),
            )
        epoch, lanes = lanes_of(
            log, [one if one is not spoiled else replace(one, state=b"spoiled") for one in events]
        )
        projector = LaneProjector(log, EVERY, back_off_s=(0.01, 0.01))
        await projector.prepare()
        async with connected(log) as connection:
            for _ in range(8):
                for lane, some in lanes.items():
                    for batch in batches(some, lane, LANES, epoch, 40):
                        await projector.take(connection, batch)
                await asyncio.sleep(0.05)
            await projector.level(connection)
        stands = {name: position for name, (position, _) in progress(log).items()}
        assert set(stands.values()) == {150}
        with psycopg.connect(log) as connection:
            parked = connection.execute(
                "SELECT DISTINCT position FROM dead_letters WHERE error IS NOT NULL"
            ).fetchall()
        assert parked == [(poison,)]
        live = dumped(log, EVERY)
        assert live == await as_folded(log, EVERY)

    asyncio.run(run())
