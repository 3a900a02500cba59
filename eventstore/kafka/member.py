"""A member of a consumer group: which lanes it has, and the records that come in them.

kafka-python's consumer blocks, so that all it does happens on one thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from eventstore.kafka.clients import opened
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.polling import poll
from eventstore.kafka.records import Carried, NotOurs, carried

_log = structlog.get_logger(__name__)
#: How long one poll waits for records, in seconds.
_POLL_S = 0.1


class Member(ConsumerRebalanceListener):  # type: ignore[misc]
    """A consumer of kafka-python, which blocks, in a thread of its own."""

    def __init__(self, cluster: Cluster, name: str, topics: Sequence[str]) -> None:
        self._options = cluster.options(name) | {
            "group_id": cluster.group(name),
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "allow_auto_create_topics": False,
            "max_poll_records": 5_000,
            "fetch_max_wait_ms": 100,
            "bootstrap_timeout_ms": 5_000,
            "session_timeout_ms": 10_000,
            "heartbeat_interval_ms": 1_000,
            "metadata_max_age_ms": 10_000,  # a topic that is made later is seen soon
            "metrics_enabled": False,
        }
        self._topics = topics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"kafka {name}")
        self._consumer: Any = None
        self._assigned: set[TopicPartition] = set()
        self._rebalanced = False
        self._leaving = False
        self._read: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}

    async def join(self) -> None:
        """Become a member.

        Raises:
            KafkaError: no broker answers.
        """

        def work() -> None:
            self._consumer = opened(KafkaConsumer, **self._options)
            self._consumer.subscribe(topics=self._topics, listener=self)

        await self._run(work)

    async def leave(self) -> None:
        """Give the lanes back."""

        def work() -> None:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                with suppress(KafkaError, OSError):
                    consumer.close(autocommit=False, timeout_ms=2_000)

        self._leaving = True
        # A poll under way ends first; whoever is cancelled here has waited long enough.
        await asyncio.shield(self._run(work))
        self._thread.shutdown(wait=False)

    async def poll(
        self, without: set[TopicPartition]
    ) -> dict[TopicPartition, list[tuple[int, Carried]]]:
        """Records that have come, with their offsets; of some topics none are asked for."""

        def work() -> dict[TopicPartition, list[tuple[int, Carried]]]:
            self._pause(without)
            polled = poll(self._consumer, round(_POLL_S * 1000), lambda: self._leaving)
            for tp, records in polled.items():
                self._read[tp] = records[-1].offset + 1
            return {tp: list(_decoded(records)) for tp, records in polled.items()}

        polled: dict[TopicPartition, list[tuple[int, Carried]]] = await self._run(work)
        return polled

    def _pause(self, without: set[TopicPartition]) -> None:
        without &= self._assigned
        paused = self._consumer.paused()
        if without != paused:
            self._consumer.resume(*(paused - without))
            self._consumer.pause(*(without - paused))

    def lanes(self) -> list[int]:
        """The lanes of which every topic is ours, or as much as there is of it."""
        return sorted({tp.partition for tp in self._assigned})

    def rebalanced(self) -> bool:
        """Whether lanes were given or taken since it was asked last."""
        found, self._rebalanced = self._rebalanced, False
        return found

    async def commit(self, done_before: Callable[[TopicPartition, int], int]) -> None:
        """Tell Kafka how far we are: for who looks at the lag there, and to go on from."""
        offsets = {tp: done_before(tp, read) for tp, read in self._read.items()}
        news = {tp: one for tp, one in offsets.items() if self._committed.get(tp) != one}
        if not news:
            return

        def work() -> None:
            mine = {tp: OffsetAndMetadata(one, "", -1) for tp, one in news.items()}
            # In a rebalance, or with the coordinator away, it is said the next time.
            with suppress(KafkaError):
                self._consumer.commit_async(
                    {tp: one for tp, one in mine.items() if tp in self._assigned}
                )
                self._committed |= news

        await self._run(work)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Lanes are about to be shared out anew; called by kafka-python within ``poll``. Until then
        nothing comes, and whose they will be is not known."""

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """These lanes are ours now, and no others; called by kafka-python within ``poll``."""
        self._assigned = set(assigned)
        self._rebalanced = True
        self._read = {tp: read for tp, read in self._read.items() if tp in self._assigned}
        self._committed.clear()

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _decoded(records: Iterable[Any]) -> Iterable[tuple[int, Carried]]:
    for record in records:
        try:
            yield record.offset, carried(record.key, record.value, record.headers)
        except NotOurs as error:
            _log.warning("left out", topic=record.topic, offset=record.offset, error=str(error))
