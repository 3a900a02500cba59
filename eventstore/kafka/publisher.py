"""Puts events into topics: each into its area's topic and its organisation's lane, in their order.

What it publishes follows from the events and from where it begins, so that publishing them again
makes the same records. All of it blocks; who has an event loop calls it in a thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from eventstore.kafka.clients import opened
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.records import Headers, Row, put
from eventstore.kafka.topics import LARGEST, TopicNames

_log = structlog.get_logger(__name__)

#: A broker that is away is waited for: a batch that expired would leave a hole before the next one.
_FOR_EVER_MS = 2**31 - 1
_PATIENCE_MS = 5_000
#: A batch that is not acknowledged by then is sent again by a new producer: its topic may be gone.
_ACKNOWLEDGED_S = 20.0
#: What a batch has around its records and what compression may add, at most; and from where on a
#: record is looked at.
_AROUND, _LARGE = 64 * 1024, 1024 * 1024


class Batch(NamedTuple):
    """Events that were sent: the last of them, and the last position in each lane that got some."""

    position: int
    event_id: UUID
    lanes: Mapping[int, int]
    futures: Sequence[Any]


def producer(cluster: Cluster) -> Any:
    """A producer as the relay wants it.

    One request at a time for each partition, so that a retry never overtakes. It lingers long,
    for large batches; who has no more to send flushes.

    Raises:
        KafkaError: no broker answers.
    """
    return opened(
        KafkaProducer,
        **cluster.options("relay"),
        acks="all",
        enable_idempotence=True,
        max_in_flight_requests_per_connection=1,
        compression_type="lz4",
        linger_ms=50,
        batch_size=256 * 1024,
        max_request_size=LARGEST - _AROUND,
        delivery_timeout_ms=_FOR_EVER_MS,
        bootstrap_timeout_ms=_PATIENCE_MS,
        max_block_ms=2 * _PATIENCE_MS,
        reconnect_backoff_max_ms=1_000,
        metrics_enabled=False,
    )


class Publisher:
    """A producer and what it has to know of the lanes.

    Args:
        cluster: where the topics are.
        topics: which topic carries an event.
        epoch: of the relay, for every record.
        previous: the last position in each lane so far; 0: nothing.
    """

    def __init__(
        self, cluster: Cluster, topics: TopicNames, epoch: UUID, previous: Sequence[int]
    ) -> None:
        self._topics = topics
        self._epoch = str(epoch).encode()
        self._previous = list(previous)
        self._cluster = cluster
        self._places: dict[tuple[str, int], TopicPartition] = {}
        self._producer: Any = None
        self._closed = False

    def connect(self) -> None:
        """Find the brokers, and who leads which partition.

        Raises:
            KafkaError: none answers, or they do not know a topic.
        """
        self._producer = producer(self._cluster)
        if self._closed:  # in the meantime
            self.close()
        for topic in self._topics:
            self._producer.partitions_for(topic)

    def send(self, rows: Sequence[Row]) -> Batch:
        """Hand events to the producer, which sends them by and by.

        An event that is too large for a topic is left out, and told of: it is missing from the
        chain of its lane, so that consumers read it from the log.

        Raises:
            KafkaError: the producer was closed.
        """
        # Past its own `send`: half of what that takes is to look at each header and at the
        # partition, which are ours.
        append, wake = self._producer._accumulator.append, self._producer._sender.wakeup
        previous, epoch = self._previous, self._epoch
        lanes = len(previous)
        futures: list[Any] = []
        touched: set[int] = set()
        for row in rows:
            position, lane = row[0], row[6].int % lanes  # as `lane_of` says
            key, value, headers = put(row, previous[lane], epoch)
            previous[lane] = position
            touched.add(lane)
            if len(value) > _LARGE and _bytes(value, headers) > LARGEST - _AROUND:
                _log.warning(
                    "an event is too large for Kafka: consumers read it from the log",
                    position=position,
                    bytes=len(value),
                )
                continue
            place = self._place(row[3], lane)
            future, full, begun, _ = append(place, None, key, value, headers)
            futures.append(future)
            if full or begun:
                wake()
        last = rows[-1]
        return Batch(last[0], last[5], {lane: previous[lane] for lane in touched}, futures)

    def _place(self, topic: str, lane: int) -> TopicPartition:
        """Where an event goes; those are few, and made once."""
        place = self._places.get((topic, lane))
        if place is None:
            place = TopicPartition(self._topics.of(topic), lane)
            self._places[topic, lane] = place
        return place

    def confirm(self, batch: Batch, *, at_once: bool = False) -> None:
        """Wait until the brokers have acknowledged every event of a batch.

        ``at_once``: nothing follows that is worth lingering for.

        Raises:
            KafkaError: they refused one, did not answer in time, or the producer was closed.
        """
        if at_once:
            self._producer.flush(_ACKNOWLEDGED_S)
        for future in batch.futures:
            if not future.is_done:
                future.get(_ACKNOWLEDGED_S)
            elif future.failed():
                raise future.exception

    def close(self) -> None:
        """Let go of the producer, and of all that it has not sent; who waits is told so."""
        self._closed = True
        if self._producer is None:
            return
        # Its own `close` flushes first, and where that takes longer than it may it goes no further:
        # the sender would live on and send.
        sender = self._producer._sender
        sender.force_close()
        sender.join(_PATIENCE_MS / 1000)
        with suppress(KafkaError):
            self._producer.close(timeout=0)


def _bytes(value: bytes, headers: Headers) -> int:
    return len(value) + sum(len(name) + len(said) for name, said in headers)
