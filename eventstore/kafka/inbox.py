"""A topic that is taken in by a group: each message is done with before its offset is stored.

kafka-python's clients block, so all they do happens on one thread. What is taken in comes again
after a crash, a rebalance or an outage: who uses this knows a repeat by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple, Self, TypeVar
from uuid import UUID

import structlog
from kafka import (
    ConsumerRebalanceListener,
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    TopicPartition,
)
from kafka.errors import (
    CommitFailedError,
    CorruptRecordError,
    KafkaError,
    MessageSizeTooLargeError,
    RebalanceInProgressError,
)
from kafka.structs import OffsetAndMetadata

from eventstore.kafka.clients import opened
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.polling import poll
from eventstore.log import Log

T = TypeVar("T")
#: As Kafka has them.
Headers = Sequence[tuple[str, bytes | None]]

_AT_ONCE = 500  # messages
_WAIT_MS = 500
_BOOTSTRAP_MS = 5_000
_ACKNOWLEDGED_MS = 20_000
_REQUEST_MS = 8_000
_COMMIT_EVERY_S = 1.0
_LARGE = 500_000  # bytes; brokers that take less have been told so
_CANNOT_COMMIT = (CommitFailedError, RebalanceInProgressError)
_STORED = """SELECT partition, next_offset FROM kafka_offsets
    WHERE consumer = %s AND topic = %s AND topic_id = %s"""
# It may go back where two members had a partition for a moment: then some messages come again.
_STORE = """INSERT INTO kafka_offsets (consumer, topic, topic_id, partition, next_offset)
    SELECT %s, %s, %s, * FROM unnest(%s::int[], %s::bigint[])
    ON CONFLICT (consumer, topic, partition)
    DO UPDATE SET next_offset = excluded.next_offset, topic_id = excluded.topic_id,
        updated_at = now()"""
_log = structlog.get_logger(__name__)


class Message(NamedTuple):
    """A message and its place. ``unreadable``: why nothing of it but its place is known."""

    topic: str
    partition: int
    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()
    unreadable: str | None = None


class Outgoing(NamedTuple):
    """A message to be put into a topic; ``smaller``: what is put where the brokers find it too
    large."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    partition: int | None = None
    smaller: Outgoing | None = None


class _Assigned(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes which partitions have to be begun where Postgres says."""

    def __init__(self) -> None:
        self.fresh: set[Any] = set()

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self.fresh.difference_update(revoked)

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self.fresh.update(assigned)


class Inbox:
    """A member of the group that takes a topic in, and a producer for what is said to it.

    A member begins each partition that it is given at the offset in Postgres, and at the beginning
    where there is none. What it did with messages is stored by ``done``.

    Args:
        cluster: where.
        consumer: the name that offsets are stored under, and the group's.
        topic: that is taken in.
        log: whose database holds the offsets.
    """

    def __init__(self, cluster: Cluster, consumer: str, topic: str, log: Log) -> None:
        self._cluster, self._name, self._topic, self._log = cluster, consumer, topic, log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=consumer)
        self._assigned = _Assigned()
        self._consumer: Any = None
        self._producer: Any = None
        self._topic_id: UUID | None = None
        self._next: dict[Any, int] = {}
        self._committed: dict[Any, int] = {}
        self._commit_at = 0.0
        self._spent = False
        self._leaving = False

    async def __aenter__(self) -> Self:
        """Reach the brokers.

        Raises:
            KafkaError: none answers.
        """
        try:
            await self._on_thread(self._open)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the group; what is under way comes again to who has the partition then."""
        self._leaving = True
        # Behind whatever the thread is at, also where its caller was cancelled.
        closed = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(closed))

    async def poll(self) -> list[Message]:
        """What came, in the order of each partition; nothing where nothing came for a while.

        Raises:
            LogUnavailable: the offsets cannot be read; ask again.
            KafkaError: the consumer cannot go on: open another inbox.
        """
        polled = await self._on_thread(self._poll)
        if not self._assigned.fresh:
            return polled
        # What came of a fresh partition began elsewhere: it comes again.
        fresh = set(self._assigned.fresh)
        await self._on_thread(self._begin, fresh, await self._stored())
        return [one for one in polled if TopicPartition(one.topic, one.partition) not in fresh]

    async def put(self, records: Sequence[Outgoing]) -> None:
        """Put messages into topics; all are acknowledged by all in-sync replicas on return.

        Raises:
            KafkaError: of some it is not known.
        """
        if records:
            await self._on_thread(self._put, records)

    async def done(self, messages: Iterable[Message]) -> None:
        """Store that messages are done with, each with all before it in its partition.

        Raises:
            LogUnavailable, psycopg.Error: it was not stored; they may come again.
        """
        after = {one.partition: one.offset + 1 for one in messages}
        if not after:
            return
        async with self._log.connection() as connection:
            await connection.execute(
                _STORE,
                (self._name, self._topic, self._topic_id, list(after), list(after.values())),
            )
        for partition, offset in after.items():
            self._next[TopicPartition(self._topic, partition)] = offset

    async def rewind(self) -> None:
        """Let all come again that is not stored as done.

        Raises:
            KafkaError: the consumer cannot go on: open another inbox.
        """
        await self._on_thread(self._rewind)

    async def _stored(self) -> dict[int, int]:
        async with self._log.connection() as connection:
            cursor = await connection.execute(_STORED, (self._name, self._topic, self._topic_id))
            return {int(partition): int(offset) for partition, offset in await cursor.fetchall()}

    async def _on_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # on the thread

    def _open(self) -> None:
        self._topic_id = self._id_of_topic()
        self._producer = self._new_producer()
        self._consumer = opened(
            KafkaConsumer,
            **self._cluster.options(self._name),
            group_id=self._cluster.group(self._name),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=_AT_ONCE,
            bootstrap_timeout_ms=_BOOTSTRAP_MS,
            session_timeout_ms=10_000,
            heartbeat_interval_ms=1_000,
            metadata_max_age_ms=60_000,
        )
        self._consumer.subscribe([self._topic], listener=self._assigned)

    def _id_of_topic(self) -> UUID:
        """Which topic it is that has the name now."""
        options = self._cluster.options(self._name)
        admin = opened(KafkaAdminClient, **options, bootstrap_timeout_ms=_BOOTSTRAP_MS)
        try:
            [described] = admin.describe_topics([self._topic])
            return UUID(str(described["topic_id"]))
        finally:
            admin.close()

    def _new_producer(self) -> Any:
        return opened(
            KafkaProducer,
            **self._cluster.options(self._name),
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
            batch_size=64 * 1024,
            bootstrap_timeout_ms=_BOOTSTRAP_MS,
            max_block_ms=_ACKNOWLEDGED_MS,
            request_timeout_ms=_REQUEST_MS,
            delivery_timeout_ms=_ACKNOWLEDGED_MS,
            max_request_size=16 * 1024 * 1024,  # what is too large is the brokers' to say
        )

    def _close(self) -> None:
        if self._consumer is not None:
            with suppress(*_CANNOT_COMMIT, KafkaError):
                self._commit()
            with suppress(KafkaError):
                self._consumer.close(autocommit=False, timeout_ms=_WAIT_MS)
        if self._producer is not None:
            self._producer.close(timeout=0)

    def _poll(self) -> list[Message]:
        if self._spent:
            raise KafkaError("the consumer came upon an unreadable message and is not asked again")
        if monotonic() >= self._commit_at:
            self._commit()
        try:
            return _messages(poll(self._consumer, _WAIT_MS, lambda: self._leaving))
        except CorruptRecordError:
            return self._pass_over()

    def _begin(self, fresh: set[Any], stored: Mapping[int, int]) -> None:
        for partition in fresh & self._consumer.assignment():
            offset = stored.get(partition.partition)
            if offset is None:
                self._consumer.seek_to_beginning(partition)
                self._next.pop(partition, None)
            else:
                # One beyond the end, of a topic that was made anew, is reset to the beginning.
                self._consumer.seek(partition, offset)
                self._next[partition] = offset
        self._assigned.fresh -= fresh

    def _rewind(self) -> None:
        for partition in self._consumer.assignment():
            if partition in self._next:
                self._consumer.seek(partition, self._next[partition])
            else:
                self._consumer.seek_to_beginning(partition)

    def _commit(self) -> None:
        """Tell the group's offsets to tools that show how far behind it is; we do not need them."""
        self._commit_at = monotonic() + _COMMIT_EVERY_S
        mine = self._consumer.assignment()
        news = {
            partition: offset
            for partition, offset in self._next.items()
            if partition in mine and self._committed.get(partition) != offset
        }
        if not news:
            return
        try:
            self._consumer.commit(
                {one: OffsetAndMetadata(offset, "", -1) for one, offset in news.items()},
                timeout_ms=_BOOTSTRAP_MS,
            )
            self._committed.update(news)
        except _CANNOT_COMMIT:
            pass
        except KafkaError as error:
            _log.debug("group offsets not committed", error=repr(error))

    def _pass_over(self) -> list[Message]:
        """Some partition has a record that the client cannot read and would stop at for ever, such
        as one with a header's name in another encoding: find it, and those behind it that are
        unreadable for its sake, as all of one batch are.

        A consumer that came upon one loops for ever when it is asked once more (kafka-python
        3.0.12), so consumers that are thrown away look for it, and this one is not asked again.
        """
        self._spent = True
        found: list[Message] = []
        for topic, number in sorted(self._consumer.assignment()):
            offset = self._consumer.position(TopicPartition(topic, number))
            while len(found) < _AT_ONCE and (reason := self._unreadable(topic, number, offset)):
                _log.error("unreadable message", topic=topic, partition=number, offset=offset)
                found.append(Message(topic, number, offset, unreadable=reason))
                offset += 1
        return found

    def _unreadable(self, topic: str, number: int, offset: int) -> str | None:
        """Why a message cannot be read; None: it can, or there is none."""
        options = self._cluster.options(self._name)
        looking: Any = opened(
            KafkaConsumer, **options, enable_auto_commit=False, bootstrap_timeout_ms=_BOOTSTRAP_MS
        )
        try:
            partition = TopicPartition(topic, number)
            looking.assign([partition])
            looking.seek(partition, offset)
            if looking.end_offsets([partition])[partition] > offset:
                looking.poll(timeout_ms=_BOOTSTRAP_MS, max_records=1)
            return None
        except CorruptRecordError as error:
            return str(error)
        finally:
            looking.close(autocommit=False)

    def _put(self, records: Sequence[Outgoing]) -> None:
        try:
            self._send_all(records)
        except MessageSizeTooLargeError:
            # It ends an idempotent producer, and with it all that it had in its hands.
            self._producer.close(timeout=0)
            self._producer = self._new_producer()
            fitting = [one.smaller if one.smaller and _is_large(one) else one for one in records]
            self._send_all(fitting)

    def _send_all(self, records: Sequence[Outgoing]) -> None:
        sent = [self._send(one) for one in records]
        self._producer.flush(timeout=2 * _ACKNOWLEDGED_MS / 1000)
        failed: list[Exception] = []
        for future in sent:
            try:
                future.get(timeout=0)
            except KafkaError as error:
                failed.append(error)
        # The one that ended it, not those that went with it.
        failed.sort(key=lambda one: not isinstance(one, MessageSizeTooLargeError))
        if failed:
            raise failed[0]

    def _send(self, one: Outgoing) -> Any:
        return self._producer.send(
            one.topic,
            key=one.key,
            value=one.value,
            headers=one.headers,
            partition=one.partition,
        )


def _is_large(one: Outgoing) -> bool:
    headers = sum(len(name) + len(value) for name, value in one.headers)
    return len(one.key or b"") + len(one.value or b"") + headers > _LARGE


def _messages(polled: Mapping[Any, Sequence[Any]]) -> list[Message]:
    return [
        Message(
            *(one.topic, one.partition, one.offset),
            *(one.key, one.value, one.headers or ()),
        )
        for records in polled.values()
        for one in records
    ]
