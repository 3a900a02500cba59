"""A member's poll of kafka-python that does not lose what a rebalance came to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError
from kafka.structs import MemberState

#: How long a group may take to share its partitions out, in seconds: a member that died is waited
#: for, and one that is in the middle of a batch.
_SHARED_IN_S = 30.0
_POLL_MS = 1_000


def poll(
    consumer: Any, timeout_ms: int, leaving: Callable[[], bool]
) -> dict[TopicPartition, Sequence[Any]]:
    """Records that have come, by partition. It blocks longer than it is asked to while the group
    shares its partitions out.

    What a sharing comes to that ends between two polls, kafka-python 3.0 forgets: it asks once
    more, or, where nothing seems to have changed, believes itself to be a member, and has no
    partition and sends no heartbeat for ever.

    Args:
        consumer: a ``KafkaConsumer`` that has subscribed.
        timeout_ms: how long it waits for records.
        leaving: whether it is not worth waiting for the group any more.

    Raises:
        KafkaTimeoutError: sharing takes too long: join anew.
        KafkaError: the consumer cannot go on.
    """
    polled: dict[TopicPartition, Sequence[Any]] = consumer.poll(timeout_ms=timeout_ms)
    until = monotonic() + _SHARED_IN_S
    while not polled and not leaving() and _is_shared(consumer):
        if monotonic() > until:
            raise KafkaTimeoutError("the group does not share its partitions out")
        consumer._coordinator.request_rejoin()
        polled = consumer.poll(timeout_ms=_POLL_MS)
    return polled


def _is_shared(consumer: Any) -> bool:
    """Whether the member has asked for partitions and does not have them yet."""
    return bool(consumer.group_metadata().state == MemberState.REBALANCING)
