"""What must be true of several companies' log, tables, decisions and topics, whatever was done to
who works on them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from time import monotonic
from uuid import UUID

import psycopg
from kafka import KafkaConsumer, TopicPartition
from psycopg import AsyncConnection

from chainlytics.application import FED, application
from domain.catalogue import TOPICS
from domain.decisions import (
    RULE_BASED,
    DecisionFailed,
    DecisionMade,
    DecisionOutcomeRecorded,
    DecisionRequested,
)
from eventstore.kafka.cluster import Cluster, lane_of
from eventstore.kafka.records import Carried, carried
from eventstore.log import read_after
from eventstore.stored import StoredEvent
from ml.replay import replay
from projections.projector import Projector
from tests.appending import head
from tests.feeding import COMPANIES, EVERY, LANES
from tests.patience import PATIENCE_S
from tests.test_folds import dump, progress


async def assert_whole(url: str, cluster: Cluster) -> Counter[UUID]:
    """Tables are as a rebuild makes them, every decision is there once and the same again, the
    topics hold the log; how often they hold each event."""
    await assert_tables(url)
    await assert_decisions(url)
    return await asyncio.to_thread(assert_topics, url, cluster, await events(url))


async def assert_tables(url: str) -> None:
    """Read models equal a fresh rebuild."""
    end = head(url)
    assert progress(url) == {table.name: (end, None) for table in EVERY}
    live = {table.name: dump(url, table) for table in EVERY}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA read_models CASCADE")
        connection.execute("DROP TABLE projections, projection_lanes")
    anew = Projector(url, EVERY)
    await anew.prepare()
    await anew.catch_up()
    assert [table.name for table in EVERY if dump(url, table) != live[table.name]] == []
    assert all(live[name] for name in ("order_summary", "decision_detail", "feature_decided"))


async def assert_decisions(url: str) -> None:
    """Each request has one answer, which is what a replay gives; each order one outcome at most."""
    found: Counter[tuple[UUID, str, str]] = Counter()
    by_rule = set()
    for event in await events(url):
        if event.topic == TOPICS[DecisionMade] and json.loads(event.state)["role"] == RULE_BASED:
            by_rule.add(event.organisation_id)
        for kind in (DecisionRequested, DecisionMade, DecisionFailed, DecisionOutcomeRecorded):
            if event.topic == TOPICS[kind]:
                decision_id = json.loads(event.state)["decision_id"]
                found[event.organisation_id, decision_id, kind.__name__] += 1
    assert set(found.values()) == {1}
    asked = {one[:2] for one in found if one[2] == "DecisionRequested"}
    made = {one[:2] for one in found if one[2] == "DecisionMade"}
    failed = {one[:2] for one in found if one[2] == "DecisionFailed"}
    assert made | failed == asked
    assert not made & failed
    assert {one for one, _ in made} == set(COMPANIES)
    assert by_rule == {COMPANIES[-1]}  # it has no model
    async with application(url, pool_size=2) as app:
        for one in COMPANIES:
            again = await replay(app.url, app.log, app.artifacts, one)
            assert [replayed for replayed in again if not replayed.same] == []
            assert len(again) == sum(organisation == one for organisation, _ in asked)


def assert_topics(url: str, cluster: Cluster, log: Sequence[StoredEvent]) -> Counter[UUID]:
    """The topics hold the log as it is: every event in its lane, those of a topic in their order,
    each with the one before it; what is there again is the same. How often each event is there."""
    with psycopg.connect(url) as connection:
        [[epoch, lanes]] = connection.execute("SELECT epoch, lanes FROM relay").fetchall()
    assert lanes == LANES
    told: dict[int, dict[int, Carried]] = {lane: {} for lane in range(LANES)}
    often: Counter[UUID] = Counter()
    for partition, records in carried_by(cluster).items():
        last = 0
        for one in records:
            assert one.epoch == epoch
            assert lane_of(one.event.organisation_id, LANES) == partition.partition
            position = one.event.position
            first = told[partition.partition].setdefault(position, one)
            assert one == first
            assert (position > last) == (first is one)
            last = max(last, position)
            often[one.event.event_id] += 1
    of_lanes = [told[lane_of(one.organisation_id, LANES)].pop(one.position) for one in log]
    assert [one.event for one in of_lanes] == log
    assert [lane for lane, more in told.items() if more] == []
    before = [0] * LANES
    for one in of_lanes:
        lane = lane_of(one.event.organisation_id, LANES)
        assert one.previous == before[lane]
        before[lane] = one.event.position
    return often


def carried_by(cluster: Cluster) -> dict[TopicPartition, list[Carried]]:
    """All that the relay's topics hold, in their order."""
    consumer = KafkaConsumer(**cluster.options("test"), group_id=None, enable_auto_commit=False)
    try:
        partitions = [
            TopicPartition(cluster.topic(area), lane) for area in FED for lane in range(LANES)
        ]
        found: dict[TopicPartition, list[Carried]] = {one: [] for one in partitions}
        ends = consumer.end_offsets(partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        deadline = monotonic() + PATIENCE_S
        while any(consumer.position(one) < end for one, end in ends.items()):
            assert monotonic() < deadline
            for partition, records in consumer.poll(timeout_ms=200, max_records=5_000).items():
                found[partition] += [carried(r.key, r.value, r.headers) for r in records]
        return found
    finally:
        consumer.close()


async def events(url: str) -> list[StoredEvent]:
    """The log."""
    async with await AsyncConnection.connect(url) as connection:
        return await read_after(connection, 0, 10**6)
