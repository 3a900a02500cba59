"""What stands last in topics: which partitions have ever held something, and their last events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CorruptRecordError, KafkaTimeoutError

from eventstore.kafka.clients import opened
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.records import Carried, NotOurs, carried

_PATIENCE_MS, _PATIENCE_S = 5_000, 60.0


class End(NamedTuple):
    """The end of a partition.

    ``offset``: where the next record goes; 0: it has never held one. ``last``: the event of its
    last record; None: there is no record any more, or it is no event of ours.
    """

    offset: int
    last: Carried | None


def ends_of(cluster: Cluster, topics: Iterable[str], lanes: int) -> dict[tuple[str, int], End]:
    """The end of each partition, by topic and lane. Blocks.

    Raises:
        KafkaError: the brokers cannot be reached, or do not answer in time.
    """
    partitions = [TopicPartition(topic, lane) for topic in topics for lane in range(lanes)]
    try:
        return _read(cluster, partitions)
    except CorruptRecordError:
        # Somebody else's record that the client cannot read. A consumer that came upon one is of no
        # more use, so that each partition gets one of its own.
        found: dict[tuple[str, int], End] = {}
        for one in partitions:
            try:
                found |= _read(cluster, [one])
            except CorruptRecordError:
                found |= _read(cluster, [one], records=False)
        return found


def _read(
    cluster: Cluster, partitions: Sequence[TopicPartition], *, records: bool = True
) -> dict[tuple[str, int], End]:
    """The ends of some partitions; without ``records`` only where they are."""
    consumer = opened(
        KafkaConsumer,
        **cluster.options("relay"),
        group_id=None,
        enable_auto_commit=False,
        allow_auto_create_topics=False,
        bootstrap_timeout_ms=_PATIENCE_MS,
    )
    try:
        offsets = consumer.end_offsets(partitions)
        found = {(one.topic, one.partition): End(offsets[one], None) for one in partitions}
        if not records:
            return found
        begins = consumer.beginning_offsets(partitions)
        waiting = {one for one in partitions if begins[one] < offsets[one]}
        consumer.assign(list(waiting))
        for one in waiting:
            consumer.seek(one, offsets[one] - 1)
        deadline = monotonic() + _PATIENCE_S
        while waiting:
            if monotonic() > deadline:
                raise KafkaTimeoutError("the brokers do not give the ends of the topics in time")
            for one, brought in consumer.poll(timeout_ms=500).items():
                for record in brought:
                    if record.offset >= offsets[one] - 1 and one in waiting:
                        end = End(offsets[one], _event(record.key, record.value, record.headers))
                        found[one.topic, one.partition] = end
                        waiting.discard(one)
                        consumer.pause(one)
            for one in list(waiting):  # what stands last may be no record: a transaction's mark
                if consumer.position(one, timeout_ms=_PATIENCE_MS) >= offsets[one]:
                    waiting.discard(one)
        return found
    finally:
        consumer.close()


def _event(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
) -> Carried | None:
    try:
        return carried(key, value, headers)
    except NotOurs:
        return None
