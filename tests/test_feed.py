"""Consumers fed by Kafka, on a real broker: tables are as the log says, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from time import monotonic
from uuid import UUID

import psycopg
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from chainlytics.application import FED
from eventstore import Writer
from eventstore.kafka.cluster import Cluster, lane_of
from eventstore.kafka.feed import Feed
from eventstore.kafka.relay import keep_relayed
from projections.inventory import STOCK_LEVELS
from projections.lane_projector import LaneProjector
from projections.orders import ORDER_SUMMARY, ORDER_TIMELINE
from projections.projector import Projector
from projections.table import Table
from tests.appending import emptied, head
from tests.feeding import LANES, relay_of, running
from tests.patience import PATIENCE_S
from tests.relaying import emptied as replaced
from tests.test_folds import dump, facts, progress, tell

ORGANISATIONS = [UUID(int=(9 << 64) + number) for number in range(8)]
#: Tables that are folded in different ways: merged, each event a row, by when events count.
SOME = [STOCK_LEVELS, ORDER_SUMMARY, ORDER_TIMELINE]


@pytest.fixture
def log(database: str) -> str:
    """The URL of a database with an empty log and no read models."""
    return emptied(database)


class Facts:
    """Writes more and more facts of several organisations."""

    def __init__(self, url: str, seed: int) -> None:
        self._url, self._chance = url, Random(seed)
        self._versions: dict[UUID, int] = {}

    async def write(self, size: int) -> None:
        told = [
            (self._chance.choice(ORGANISATIONS), event) for _, event in facts(self._chance, size)
        ]
        async with Writer(self._url) as writer:
            await tell(writer, told, self._versions)


def feed_of(url: str, cluster: Cluster, tables: Sequence[Table] = SOME) -> Feed:
    return Feed(url, cluster, "projector", FED, LaneProjector(url, tables))


async def until_at_head(url: str, tables: Sequence[Table] = SOME) -> None:
    end, deadline = head(url), monotonic() + PATIENCE_S
    while monotonic() < deadline:
        if {position for position, _ in progress(url).values()} == {end}:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the log is at {end}, the tables are at {progress(url)}")


async def assert_as_the_log_says(url: str, tables: Sequence[Table] = SOME) -> None:
    """Read models equal a fresh rebuild."""
    live = {table.name: dump(url, table) for table in tables}
    for table in tables:
        await Projector(url, [table]).rebuild(table)
        assert dump(url, table) == live[table.name], table.name
        assert live[table.name]


def test_tables_follow_the_log_through_kafka(log: str, cluster: Cluster) -> None:
    async def run() -> None:
        said = Facts(log, 1)
        await said.write(200)  # a backlog
        await LaneProjector(log, SOME).prepare()
        async with running(keep_relayed(relay_of(log, cluster)), feed_of(log, cluster).run()):
            await until_at_head(log)
            for _ in range(5):
                await said.write(30)
            await until_at_head(log)
        await assert_as_the_log_says(log)

    asyncio.run(run())


def test_two_members_share_the_lanes_and_one_takes_over(log: str, cluster: Cluster) -> None:
    async def run() -> None:
        said = Facts(log, 2)
        await LaneProjector(log, SOME).prepare()
        async with running(keep_relayed(relay_of(log, cluster)), feed_of(log, cluster).run()):
            await said.write(150)
            await until_at_head(log)
            async with running(feed_of(log, cluster).run()):
                for _ in range(6):
                    await said.write(40)
                    await asyncio.sleep(0.3)
                await until_at_head(log)
            await said.write(50)
            await until_at_head(log)
        await assert_as_the_log_says(log)

    asyncio.run(run())


def test_what_kafka_has_lost_is_read_from_the_log(log: str, cluster: Cluster) -> None:
    async def run() -> None:
        said = Facts(log, 3)
        await said.write(300)
        await LaneProjector(log, SOME).prepare()
        await relay_of(log, cluster).catch_up()
        lost = sorted({lane_of(one, LANES) for one in ORGANISATIONS})[:2]
        admin = KafkaAdminClient(**cluster.options("test"))
        admin.delete_records({TopicPartition(cluster.topic("orders"), lane): -1 for lane in lost})
        admin.close()
        async with running(keep_relayed(relay_of(log, cluster)), feed_of(log, cluster).run()):
            await until_at_head(log)
            await said.write(60)
            await until_at_head(log)
        await assert_as_the_log_says(log)

    asyncio.run(run())


def test_consumers_may_change_from_the_log_to_kafka_and_back(log: str, cluster: Cluster) -> None:
    async def run() -> None:
        said = Facts(log, 4)
        await said.write(100)
        await Projector(log, SOME).prepare()
        await Projector(log, SOME).catch_up()
        await said.write(100)
        async with running(keep_relayed(relay_of(log, cluster)), feed_of(log, cluster).run()):
            await until_at_head(log)
            await said.write(70)
        await said.write(30)
        # In mid-way: some lanes are further than others.
        await Projector(log, SOME, batch=13).catch_up()
        await until_at_head(log)
        async with running(keep_relayed(relay_of(log, cluster)), feed_of(log, cluster).run()):
            await said.write(40)
            await until_at_head(log)
        await assert_as_the_log_says(log)

    asyncio.run(run())


def test_records_of_strangers_are_left_out(log: str, cluster: Cluster) -> None:
    async def run() -> None:
        said = Facts(log, 5)
        await said.write(60)
        await LaneProjector(log, SOME).prepare()
        await relay_of(log, cluster).catch_up()
        producer = KafkaProducer(**cluster.options("stranger"))
        for lane in range(LANES):
            producer.send(cluster.topic("orders"), b"?", key=b"x", partition=lane).get(10)
        producer.close()
        with psycopg.connect(log) as connection:
            assert connection.execute("SELECT count(*) FROM relay").fetchone() == (1,)
        async with running(keep_relayed(relay_of(log, cluster)), feed_of(log, cluster).run()):
            await said.write(60)
            await until_at_head(log)
        await assert_as_the_log_says(log)

    asyncio.run(run())


class Latin(str):
    """A header's name as a client in another encoding sends it."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"n\xe4me"


def test_a_record_that_the_client_cannot_read_holds_up_nobody(log: str, cluster: Cluster) -> None:
    async def run() -> None:
        said = Facts(log, 6)
        await said.write(60)
        await LaneProjector(log, SOME).prepare()
        await relay_of(log, cluster).catch_up()
        producer = KafkaProducer(**cluster.options("stranger"))
        for lane in range(LANES):
            headers = [(Latin("name"), b"")]
            producer.send(cluster.topic("orders"), b"?", b"x", headers, lane).get(10)
        producer.close()
        async with running(keep_relayed(relay_of(log, cluster)), feed_of(log, cluster).run()):
            await said.write(60)
            await until_at_head(log)
        await assert_as_the_log_says(log)

    asyncio.run(run())


def test_a_log_that_is_replaced_by_a_shorter_one_is_noticed(log: str, cluster: Cluster) -> None:
    async def run() -> None:
        await Facts(log, 1).write(200)
        await LaneProjector(log, SOME).prepare()
        projector = LaneProjector(log, SOME)
        feed = Feed(log, cluster, "projector", FED, projector)
        relay = keep_relayed(relay_of(log, cluster))
        async with running(relay, feed.run(), projector.build([])):
            await until_at_head(log)
            replaced(log)
            await Facts(log, 99).write(150)
            await until_at_head(log)
        await assert_as_the_log_says(log)

    asyncio.run(run())
