"""Kafka: the relay against a bare producer, what consuming costs, and latency from log to topic.

Postgres durable, a broker of its own, sides interleaved. CHAINLYTICS_BENCH_EVENTS sets the size of
the log (200,000 events).
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import numpy as np
import psycopg
import uvloop
from kafka import KafkaConsumer, TopicPartition
from psycopg import AsyncConnection

from benchmarks import deliveries, latency
from benchmarks.deliveries import DELIVERIES
from benchmarks.peers.peer import own_database
from chainlytics.application import FED
from domain.catalogue import AREAS
from eventstore import Entry, NewEvent, Unit, Writer, prepare_database
from eventstore.kafka.cluster import Cluster, lane_of
from eventstore.kafka.embedded import EmbeddedBroker
from eventstore.kafka.feed import Feed
from eventstore.kafka.publisher import producer
from eventstore.kafka.records import Headers, put
from eventstore.kafka.relay import Relay, keep_relayed
from eventstore.kafka.topics import TopicNames, ensure_topics
from projections.lane_projector import LaneProjector
from projections.projector import Projector

Say = Callable[[str], None]
Figures = dict[str, Any]

_TARGETS = {
    "relay_vs_producer": "at least 0.6",
    "relay_per_second": "report",
    "producer_per_second": "report",
    "consume_vs_bare": "report",
    "consume_per_second": "report",
    "bare_consumer_per_second": "report",
    "topic_ms_p50": "report",
    "topic_ms_p99": "report",
    "latency_ms_p50": "report",
    "latency_ms_p99": "report",
}
_LANES, _ORGANISATIONS = 6, 100
_TRUNCATE = "TRUNCATE relay, relay_lanes"
_SPREAD = "UPDATE events SET organisation_id = md5('o' || notification_id %% %s)::uuid"
_ROWS = """SELECT notification_id, originator_id, originator_version, topic, state, event_id,
    organisation_id, recorded_at, correlation_id, causation_id, actor
    FROM events ORDER BY notification_id"""


class Sent(NamedTuple):
    """A record as `KafkaProducer.send` takes it."""

    topic: str
    value: bytes
    key: bytes
    headers: Headers
    partition: int


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    events: int = 200_000
    rounds: int = 5
    appends: int = 1_000
    per_second: float = 100
    seconds: float = 20

    @classmethod
    def from_environment(cls) -> Sizes:
        """The sizes of the figures in docs/benchmarks.md, or those of the environment."""
        return cls(events=int(os.environ.get("CHAINLYTICS_BENCH_EVENTS", cls.events)))


def run(url: str, say: Say, sizes: Sizes | None = None) -> Figures:
    """All figures; rates are of events a second.

    Raises:
        TablesDiffer: the folding consumer did not make the table that the log says.
    """
    sizes = sizes or Sizes.from_environment()
    figures: Figures = {"lanes": _LANES, "sizes": asdict(sizes)}
    with _broker() as bootstrap:
        with own_database(url, "relay") as database:
            _fill(database, sizes.events, say)
            relayed, produced, cluster = _against_producer(database, bootstrap, sizes, say)
            figures |= {
                "relay_vs_producer": _ratio(relayed, produced),
                "relay_per_second": round(median(relayed)),
                "producer_per_second": round(median(produced)),
            }
            figures |= _consuming(database, cluster, sizes, say)
        with own_database(url, "topic") as database:
            prepare_database(database)
            figures |= uvloop.run(_to_topic(database, bootstrap, sizes))
        figures |= _to_row(url, bootstrap, sizes, say)
    for name, target in _TARGETS.items():
        say(f"{name:28} {figures[name]:>10,}   {target}")
    return figures


@contextmanager
def _broker() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="chainlytics-bench-kafka-") as folder:
        broker = EmbeddedBroker(Path(folder))
        broker.start()
        try:
            yield broker.bootstrap
        finally:
            broker.stop()


def _fill(database: str, events: int, say: Say) -> None:
    """Deliveries of many organisations, so that every lane has some."""
    deliveries.fill(database, events, say)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(_SPREAD, (_ORGANISATIONS,))
        connection.execute("VACUUM (FULL, ANALYZE) events")
        connection.execute("CHECKPOINT")


# the relay against a producer


def _against_producer(
    database: str, bootstrap: str, sizes: Sizes, say: Say
) -> tuple[list[float], list[float], Cluster]:
    """The rates of both, round by round, and where the relay's last round stands."""
    records = _prebuilt(database)
    relayed, produced = list[float](), list[float]()
    cluster = Cluster((bootstrap,))
    for number in range(sizes.rounds):
        produced.append(sizes.events / _producing(Cluster((bootstrap,), f"bare-{number}"), records))
        cluster = Cluster((bootstrap,), f"relay-{number}")
        relayed.append(sizes.events / _relaying(database, cluster, sizes.events))
        say(
            f"{number + 1} of {sizes.rounds}: producer {produced[-1]:,.0f}/s, "
            f"relay {relayed[-1]:,.0f}/s"
        )
    return relayed, produced, cluster


def _prebuilt(database: str) -> list[Sent]:
    """What the relay makes of the log: the very same keys, values, headers and partitions, in the
    order of the log. Their topics are still the events' own."""
    previous = [0] * _LANES
    epoch = str(uuid4()).encode()
    found: list[Sent] = []
    with (
        psycopg.connect(database) as connection,
        connection.cursor(name="log", binary=True) as cursor,
    ):
        cursor.itersize = 10_000
        cursor.execute(_ROWS)
        for row in cursor:
            lane = lane_of(row[6], _LANES)
            key, value, headers = put(row, previous[lane], epoch)
            previous[lane] = row[0]
            found.append(Sent(row[3], value, key, headers, lane))
    return found


def _producing(cluster: Cluster, records: list[Sent]) -> float:
    """Seconds for a bare producer, as the relay's is, to have them all acknowledged."""
    names = TopicNames(cluster, AREAS)
    ensure_topics(cluster, names, _LANES)
    ready = [one._replace(topic=names.of(one.topic)) for one in records]
    bare = producer(cluster)
    for name in names:
        bare.partitions_for(name)
    begun = perf_counter()
    futures = [bare.send(*one) for one in ready]
    bare.flush()
    took = perf_counter() - begun
    assert all(future.succeeded() for future in futures)
    bare.close()
    return took


def _relaying(database: str, cluster: Cluster, events: int) -> float:
    """Seconds for the relay, from its start to its last checkpoint."""
    ensure_topics(cluster, TopicNames(cluster, AREAS), _LANES)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(_TRUNCATE)
        connection.execute("CHECKPOINT")
    relay = Relay(database, cluster, AREAS, lanes=_LANES)
    begun = perf_counter()
    reached = uvloop.run(relay.catch_up())
    took = perf_counter() - begun
    assert reached == events
    return took


# consuming


def _consuming(database: str, cluster: Cluster, sizes: Sizes, say: Say) -> Figures:
    """Events a second of one member that folds a table from all lanes, against a loop that does
    nothing with them."""
    folded, bare, events = list[float](), list[float](), sizes.events
    for number in range(sizes.rounds):
        bare.append(events / _bare_loop(cluster, events))
        folded.append(events / uvloop.run(_folding(database, cluster, events, number)))
        say(
            f"{number + 1} of {sizes.rounds}: bare consumer {bare[-1]:,.0f}/s, "
            f"folding {folded[-1]:,.0f}/s"
        )
    return {
        "consume_vs_bare": _ratio(folded, bare),
        "consume_per_second": round(median(folded)),
        "bare_consumer_per_second": round(median(bare)),
    }


async def _folding(database: str, cluster: Cluster, events: int, number: int) -> float:
    """Seconds from joining a new group until a new table has every event.

    Raises:
        TablesDiffer: it is not the table that the log says.
    """
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS read_models CASCADE")
        connection.execute(
            "DROP TABLE IF EXISTS projections, projection_lanes, projection_rebuilds, dead_letters"
        )
        connection.execute("CHECKPOINT")
    # As a worker that was away: one that begins would build so long a log's table from the log.
    await Projector(database, [DELIVERIES]).create()
    projector = LaneProjector(database, [DELIVERIES])
    feed = Feed(database, cluster, f"folding-{number}", FED, projector)
    begun = perf_counter()
    running = asyncio.create_task(feed.run())
    try:
        async with await AsyncConnection.connect(database, autocommit=True) as connection:
            reached = 0
            while reached < events:
                if running.done():  # it never ends by itself
                    running.result()
                await asyncio.sleep(0.02)
                row = await (
                    await connection.execute("SELECT position FROM projections")
                ).fetchone()
                reached = 0 if row is None else row[0]
        took = perf_counter() - begun
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    found, wanted = deliveries.contents(database), deliveries.truth(database, events)
    deliveries.check_same("the folding consumer", found, wanted)
    return took


def _bare_loop(cluster: Cluster, events: int) -> float:
    consumer = KafkaConsumer(
        **cluster.options("bare"),
        group_id=None,
        enable_auto_commit=False,
        max_poll_records=5_000,
        metrics_enabled=False,
    )
    places = [
        TopicPartition(topic, lane)
        for topic in TopicNames(cluster, AREAS)
        for lane in range(_LANES)
    ]
    consumer.assign(places)
    consumer.seek_to_beginning(*places)
    count, begun = 0, perf_counter()
    while count < events:
        for records in consumer.poll(timeout_ms=100).values():
            for record in records:
                count += len(record.value) > 0
    took = perf_counter() - begun
    consumer.close()
    return took


# latency


async def _to_topic(database: str, bootstrap: str, sizes: Sizes) -> Figures:
    """Milliseconds from an append's answer until a consumer has the event, the relay running in
    this process."""
    cluster = Cluster((bootstrap,), "latency")
    names = TopicNames(cluster, AREAS)
    ensure_topics(cluster, names, _LANES)
    answered: dict[UUID, float] = {}
    seen: dict[UUID, float] = {}
    consumer = KafkaConsumer(
        **cluster.options("latency"), group_id=None, auto_offset_reset="earliest"
    )
    consumer.assign([TopicPartition(names.of("orders"), lane) for lane in range(_LANES)])

    def watch() -> None:
        while len(seen) < sizes.appends:
            for records in consumer.poll(timeout_ms=50).values():
                now = perf_counter()
                for record in records:
                    seen[UUID(record.key.decode())] = now

    relaying = asyncio.create_task(keep_relayed(Relay(database, cluster, AREAS, lanes=_LANES)))
    watching = asyncio.create_task(asyncio.to_thread(watch))
    try:
        async with Writer(database) as writer:
            begun = perf_counter()
            for number in range(sizes.appends):
                await asyncio.sleep(begun + number / sizes.per_second - perf_counter())
                unit = _unit()
                await writer.append(unit)
                answered[unit.entries[0].events[0].stream_id] = perf_counter()
            await watching
    finally:
        relaying.cancel()
        await asyncio.gather(relaying, return_exceptions=True)
        consumer.close()
    # The first ones found the relay still on its way to the brokers.
    took = [
        (seen[stream] - at) * 1e3 for stream, at in list(answered.items())[sizes.appends // 5 :]
    ]
    p50, p99 = np.percentile(took, [50, 99])
    return {"topic_ms_p50": round(float(p50), 2), "topic_ms_p99": round(float(p99), 2)}


def _to_row(url: str, bootstrap: str, sizes: Sizes, say: Say) -> Figures:
    """Milliseconds from a command's answer until its row was read: the relay and the read models
    are processes of their own, and Kafka is between them."""
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "CHAINLYTICS_TRANSPORT": "kafka",
        "CHAINLYTICS_KAFKA_PREFIX": "to-row",
    }
    found = uvloop.run(
        latency.measure(
            url,
            sizes.per_second,
            sizes.seconds,
            say,
            workers=("relay", "projector"),
            settings=settings,
        )
    )
    return {"latency_ms_p50": round(found.p50, 2), "latency_ms_p99": round(found.p99, 2)}


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return round(median(a / b for a, b in zip(ours, theirs, strict=True)), 2)


def _unit() -> Unit:
    stream = uuid4()
    event = NewEvent(stream, 1, "orders.Noted.v1", b'{"note":"' + b"x" * 288 + b'"}')
    entry = Entry(uuid4(), b"", f"n/{stream}", 1, uuid4(), "benchmark", uuid4(), None, [event])
    return Unit([entry], {stream: 0})
