"""Lanes where something goes wrong beside them: other lanes, another log, a table made anew."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest
from kafka import TopicPartition

from chainlytics.application import application
from eventstore import Writer
from eventstore.kafka import relay_state
from eventstore.kafka.feed import _Lanes, _Relay
from eventstore.kafka.records import Carried
from eventstore.kafka.sequence import LaneBatch, Superseded
from eventstore.log import Connection, read_after
from ml.catalogue import FEATURE_TABLES
from projections import folding, lane_projector, store
from projections.inventory import STOCK_LEVELS
from projections.lane_projector import LaneProjector
from projections.orders import ORDER_SUMMARY
from projections.projector import Projector
from projections.rebuild import rebuild
from tests.appending import emptied
from tests.laning import batches, chained, relayed
from tests.test_folds import dump, facts, progress, tell
from tests.test_lanes import (
    EVERY,
    LANES,
    ORGANISATIONS,
    as_folded,
    connected,
    dumped,
    lanes_of,
    written,
)


@pytest.fixture
def log(database: str) -> str:
    """The URL of a database with an empty log and no read models."""
    return emptied(database)


async def fed(
    connection: Connection,
    projector: LaneProjector,
    relay: _Relay,
    records: dict[int, list[Carried]],
    rounds: int = 15,
) -> None:
    """What a member does with records that Kafka brings, and then with what it does not bring."""
    lanes = _Lanes(projector, relay, 5000)
    await lanes.assign(connection, range(relay.lanes))
    for lane, some in records.items():
        lanes.add({TopicPartition("t", lane): list(enumerate(some))})
    for _ in range(rounds):
        await lanes.hand_over(connection)
        await lanes.look(connection, patiently=False)
        await projector.level(connection)
        await asyncio.sleep(0.1)


def test_a_table_that_failed_in_a_lane_where_nothing_comes_any_more_goes_on(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        events = await written(log, 3, 60)
        epoch, lanes = lanes_of(log, events)
        projector = LaneProjector(log, [STOCK_LEVELS, ORDER_SUMMARY], back_off_s=(0.1, 0.1, 0.1))
        await projector.prepare()
        real, left = folding.fold_part, [2]

        async def fails_twice(connection: Any, reader: Any, table: Any, *rest: Any) -> None:
            if table is STOCK_LEVELS and left[0]:
                left[0] -= 1
                raise ValueError("once")
            await real(connection, reader, table, *rest)

        monkeypatch.setattr(lane_projector, "fold_part", fails_twice)
        async with connected(log) as connection:
            await fed(connection, projector, _Relay(epoch, LANES), lanes)
        assert left == [0]
        assert progress(log) == {"stock_levels": (60, None), "order_summary": (60, None)}

    asyncio.run(run())


def test_a_table_that_was_rolled_back_goes_on_with_code_of_its_declaration(log: str) -> None:
    async def run() -> None:
        events = await written(log, 3, 60)
        epoch, lanes = lanes_of(log, events)
        projector = LaneProjector(log, [STOCK_LEVELS])
        await projector.prepare()
        with psycopg.connect(log) as connection:
            connection.execute("UPDATE projections SET held = true")
        async with connected(log) as connection:
            await fed(connection, projector, _Relay(epoch, LANES), lanes, rounds=2)
        with psycopg.connect(log) as connection:
            [found] = connection.execute("SELECT position, held FROM projections").fetchall()
        assert found == (60, False)

    asyncio.run(run())


def test_an_error_is_gone_when_another_process_has_gone_on(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        events = await written(log, 3, 60)
        epoch, lanes = lanes_of(log, events)

        async def fails(*_: Any) -> None:
            raise ValueError("once")

        async with connected(log) as connection:
            with monkeypatch.context() as patch:
                patch.setattr(lane_projector, "fold_part", fails)
                broken = LaneProjector(log, [STOCK_LEVELS])
                await broken.prepare()
                for lane, some in lanes.items():
                    await broken.take(connection, batches(some, lane, LANES, epoch, 1000)[0])
                assert progress(log) == {"stock_levels": (0, "once")}
            sound = LaneProjector(log, [STOCK_LEVELS])
            await sound.prepare()
            await fed(connection, sound, _Relay(epoch, LANES), lanes, rounds=2)
        assert progress(log) == {"stock_levels": (60, None)}

    asyncio.run(run())


def test_records_of_fewer_lanes_are_not_taken_for_those_of_more(log: str) -> None:
    async def run() -> None:
        events = await written(log, 7, 200)
        _, lanes = lanes_of(log, events)
        async with connected(log) as connection:
            await relay_state.widen(connection, LANES + 1)
            now = await relay_state.state(connection)
            assert now is not None
            projector = LaneProjector(log, EVERY)  # its first start
            await projector.prepare()
            # As they stand in the topics; and as if they were of this epoch.
            await fed(connection, projector, _Relay(now.epoch, LANES + 1), lanes, rounds=2)
            alike = {
                lane: [one._replace(epoch=now.epoch) for one in some]
                for lane, some in lanes.items()
            }
            await fed(connection, projector, _Relay(now.epoch, LANES + 1), alike, rounds=2)
        assert progress(log) == {table.name: (200, None) for table in EVERY}
        found = dumped(log, EVERY)
        assert found == await as_folded(log, EVERY)

    asyncio.run(run())


def test_a_former_table_of_other_lanes_is_not_rolled_back_to(log: str) -> None:
    async def run() -> None:
        events = await written(log, 7, 200)
        epoch, lanes = lanes_of(log, events)
        projector = LaneProjector(log, [ORDER_SUMMARY])
        await projector.prepare()
        async with connected(log) as connection:
            for batch in batches(lanes[0], 0, LANES, epoch, 1000):
                await projector.take(connection, batch)
            await Projector(log, [ORDER_SUMMARY]).rebuild(ORDER_SUMMARY)
            await fed(connection, projector, _Relay(epoch, LANES), lanes, rounds=2)
            await relay_state.widen(connection, LANES + 1)
            with pytest.raises(store.NothingToRollBack):
                await store.roll_back(connection, ORDER_SUMMARY)
        found = dumped(log, [ORDER_SUMMARY])
        assert found == await as_folded(log, [ORDER_SUMMARY])

    asyncio.run(run())


def test_events_that_the_log_has_lost_are_not_folded(log: str) -> None:
    """A standby that lacks the end of the log takes over; the topics still have it."""

    async def run() -> None:
        events = await written(log, 3, 200)
        with psycopg.connect(log) as connection:
            connection.execute("DELETE FROM events WHERE notification_id > 180")
            connection.execute("DELETE FROM commands WHERE position > 180")
            connection.execute("UPDATE log_head SET position = 180")
        epoch = relayed(log, LANES, events[:180])
        projector = LaneProjector(log, EVERY)
        await projector.prepare()
        async with connected(log) as connection:
            for lane, some in chained(events, LANES, epoch).items():
                for batch in batches(some, lane, LANES, epoch, 1000):
                    if batch.to > 180:
                        with pytest.raises(Superseded):
                            await projector.take(connection, batch)
            await relay_state.begin_anew(connection)
            chance = Random(6)
            told = [
                (UUID(int=chance.choice(ORGANISATIONS).int + 30), event)
                for _, event in facts(Random(77), 60)
            ]
            async with Writer(log) as writer:
                await tell(writer, told, {})
            now = await read_after(connection, 0, 1000)
            epoch = relayed(log, LANES, now)
            await fed(
                connection, projector, _Relay(epoch, LANES), chained(now, LANES, epoch), rounds=2
            )
        assert progress(log) == {table.name: (240, None) for table in EVERY}
        found = dumped(log, EVERY)
        assert found == await as_folded(log, EVERY)

    asyncio.run(run())


def test_feature_tables_of_which_one_is_rebuilt_meanwhile_fold_nothing_twice(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        events = await written(log, 3, 200)
        epoch = relayed(log, 1, events)
        batch = LaneBatch(0, 1, epoch, 200, [])
        async with application(log, pool_size=2) as app, connected(log) as connection:
            consumer = app.consumer
            monkeypatch.setattr(consumer, "_batch", 40)
            await consumer.prepare()
            real, rebuilt = consumer._take_some, list[str]()

            async def then_rebuilt(connection: Connection, batch: LaneBatch) -> bool:
                more = await real(connection, batch)
                if not rebuilt:
                    table = next(one for one in FEATURE_TABLES if dump(log, one))
                    rebuilt.append(table.name)
                    await rebuild(log, table)
                return more

            monkeypatch.setattr(consumer, "_take_some", then_rebuilt)
            with pytest.raises(Exception, match="feature tables have come to"):
                await consumer.take(connection, batch)
            await consumer.take(connection, batch)
            await consumer.level(connection)
        assert rebuilt
        assert {progress(log)[table.name][0] for table in FEATURE_TABLES} == {200}
        found = dumped(log, list(FEATURE_TABLES))
        assert found == await as_folded(log, list(FEATURE_TABLES))

    asyncio.run(run())
