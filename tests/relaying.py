"""What tests of the relay share: logs of many organisations, and what stands in topics."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID, uuid4, uuid5

import psycopg
from kafka import KafkaConsumer, TopicPartition
from psycopg.rows import class_row

from domain.catalogue import AREAS
from eventstore import Entry, NewEvent, StoredEvent, Unit, Writer, prepare_database
from eventstore.kafka.cluster import Cluster, lane_of
from eventstore.kafka.records import Carried, carried
from eventstore.kafka.relay import Relay, keep_relayed
from eventstore.kafka.topics import TopicNames
from eventstore.stored import COLUMNS
from tests.patience import PATIENCE_S

LANES = 3
ORGANISATIONS = [uuid5(UUID(int=1), f"organisation {number}") for number in range(7)]
TOPICS = ("orders.OrderPlaced.v1", "inventory.StockReceived.v1", "people.PersonErased.v2")
#: Nobody's area, no area at all, and one that begins as ours do.
STRANGERS = ("test.Noted.v1", "noted", "ordersx.OrderPlaced.v1")


class Found(NamedTuple):
    """A record and where it stood."""

    topic: str
    lane: int
    offset: int
    key: bytes
    carried: Carried

    @property
    def event(self) -> StoredEvent:
        return self.carried.event


def relay_of(url: str, cluster: Cluster, **options: Any) -> Relay:
    """A relay of few lanes and small batches."""
    return Relay(url, cluster, AREAS, **{"lanes": LANES, "batch": 20} | options)


def emptied(url: str) -> str:
    """The URL of a database whose log is empty, and on which no relay has run."""
    prepare_database(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """TRUNCATE events, commands, relay, relay_lanes, segments, cold_streams, seal_heads,
            seal_trees"""
        )
        connection.execute("UPDATE log_head SET position = 0, recorded_at = '-infinity'")
    return url


async def append(
    url: str,
    count: int,
    topics: Sequence[str] = TOPICS + STRANGERS,
    *,
    state: bytes = b'{"n":1}',
    versions: int = 1,
) -> None:
    """So many streams, of several organisations and topics, with so many events each."""
    async with Writer(url) as writer:
        units = []
        for number in range(count):
            stream, topic = uuid4(), topics[number % len(topics)]
            organisation = ORGANISATIONS[number % len(ORGANISATIONS)]
            events = [NewEvent(stream, n, topic, state) for n in range(1, versions + 1)]
            ids = (organisation, "änne", uuid4(), uuid4() if number % 2 else None)
            entry = Entry(uuid4(), b"", f"n/{stream}", versions, *ids, events)
            units.append(Unit([entry], {stream: 0}))
        await asyncio.gather(*(writer.append(unit) for unit in units))


def logged(url: str) -> list[StoredEvent]:
    """What Postgres holds of the log."""
    with (
        psycopg.connect(url) as connection,
        connection.cursor(row_factory=class_row(StoredEvent)) as cursor,
    ):
        cursor.execute(f"SELECT {COLUMNS} FROM events ORDER BY notification_id")
        return cursor.fetchall()


def checkpoint(url: str) -> tuple[UUID, int, UUID | None, list[int]]:
    """Epoch, position and event of the relay, and the last position of each lane."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT epoch, position, event_id FROM relay").fetchone()
        lanes = connection.execute("SELECT position FROM relay_lanes ORDER BY lane").fetchall()
    assert row is not None
    return (*row, [position for (position,) in lanes])


def found_in(cluster: Cluster, lanes: int = LANES, areas: Iterable[str] = AREAS) -> list[Found]:
    """Everything that stands in the topics now, partition by partition."""
    consumer = KafkaConsumer(**cluster.options("test"), group_id=None, enable_auto_commit=False)
    try:
        places = [
            TopicPartition(topic, lane)
            for topic in TopicNames(cluster, areas)
            for lane in range(lanes)
        ]
        ends = consumer.end_offsets(places)
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        found: list[Found] = []
        deadline = monotonic() + PATIENCE_S
        while any(consumer.position(place) < ends[place] for place in places):
            assert monotonic() < deadline, "the topics do not give what they hold"
            for place, records in consumer.poll(timeout_ms=200).items():
                found += [
                    Found(
                        place.topic,
                        place.partition,
                        record.offset,
                        record.key,
                        carried(record.key, record.value, record.headers),
                    )
                    for record in records
                ]
        return found
    finally:
        consumer.close()


def assert_whole(
    url: str, cluster: Cluster, *, lanes: int = LANES, log: Sequence[StoredEvent] | None = None
) -> list[Found]:
    """The topics hold the log of the present epoch: every event as it is, in the topic of its area
    and the lane of its organisation, in order, and each names the one before it in its lane.

    Repeats may stand there as well: they are the same records. What stands there, repeats too.
    """
    epoch = checkpoint(url)[0]
    names = TopicNames(cluster, AREAS)
    found = [one for one in found_in(cluster, lanes) if one.carried.epoch == epoch]
    events = logged(url) if log is None else log
    by_position = {event.position: event for event in events}
    previous = dict(zip(by_position, _previous(events, lanes), strict=True))
    for one in found:
        assert one.event == by_position[one.event.position]
        assert one.topic == names.of(one.event.topic)
        assert one.lane == lane_of(one.event.organisation_id, lanes)
        assert one.key == str(one.event.stream_id).encode()
        assert one.carried.previous == previous[one.event.position]
    assert {one.event.position for one in found} == set(by_position)
    seen: dict[tuple[str, int], list[int]] = defaultdict(list)
    for one in sorted(found, key=lambda one: (one.topic, one.lane, one.offset)):
        positions = seen[one.topic, one.lane]
        if one.event.position not in positions:
            positions.append(one.event.position)
    for positions in seen.values():
        assert positions == sorted(positions)
    return found


def assert_once(found: Sequence[Found]) -> None:
    """None of them stands there twice."""
    positions = [one.event.position for one in found]
    assert len(positions) == len(set(positions))


def _previous(events: Sequence[StoredEvent], lanes: int) -> list[int]:
    """What each event must name: the position of the one before it in its lane."""
    last = [0] * lanes
    named = []
    for event in events:
        lane = lane_of(event.organisation_id, lanes)
        named.append(last[lane])
        last[lane] = event.position
    return named


@asynccontextmanager
async def kept(relay: Relay) -> AsyncIterator[asyncio.Task[None]]:
    """A relay that runs meanwhile."""
    task = asyncio.create_task(keep_relayed(relay))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(come: Callable[[], object]) -> None:
    """Return when it has come to that.

    Raises:
        TimeoutError: it has not in a long time.
    """
    for _ in range(PATIENCE_S * 50):
        if come():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError


async def until_relayed(url: str) -> None:
    """Return when the relay has written down that it is at the log's head."""

    def at_head() -> bool:
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT r.position = h.position FROM relay r, log_head h"
            ).fetchone()
        return row is not None and bool(row[0])

    await until(at_head)


@contextmanager
def process(url: str, cluster: Cluster, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`chainlytics relay`."""
    environment = os.environ | {
        "DATABASE_URL": url,
        "CHAINLYTICS_HOME": str(home),
        "KAFKA_BOOTSTRAP_SERVERS": ",".join(cluster.brokers),
        "CHAINLYTICS_KAFKA_PREFIX": cluster.prefix,
        "CHAINLYTICS_KAFKA_LANES": str(LANES),
    }
    with (home / "relay.log").open("ab") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "chainlytics", "relay"],
            env=environment,
            cwd=home,
            stdout=output,
            stderr=output,
        )
    try:
        yield running
    finally:
        running.kill()
        running.wait()
