"""Dead letters: messages that could not be taken in, kept as they came, and put back on demand.

That a letter was put back is said by a marker behind it in its own partition: a record of nothing
but headers. So what was replayed is known for as long as the letter is, to everybody who can read
it, and a database that was restored forgets nothing of it. A crash between the two puts a letter
back twice; the command's id makes one of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from eventstore.kafka.clients import opened
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.inbox import Headers, Message, Outgoing

COMMANDS, DEAD, REPLIES = "commands", "commands-dead", "replies"
_ABOUT = ("dead_reason", "dead_topic", "dead_partition", "dead_offset", "dead_at", "dead_value")
_LEFT_OUT = b"left out"
_PATIENCE_MS = 10_000
_MOST_REASON = 1_000


class CannotReplay(Exception):
    """A letter cannot be put back; the message says why."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that could not be taken in.

    Attributes:
        partition, offset: its place among the dead letters.
        came_topic, came_partition, came_offset: where it came in.
        at: when it was given up.
        reason: why.
        whole: False: it was too large to be kept, or unreadable; only its place is known.
        replayed_at: when it was last put back.
    """

    partition: int
    offset: int
    at: datetime
    reason: str
    command: str
    command_id: str
    came_topic: str
    came_partition: int
    came_offset: int
    whole: bool
    replayed_at: datetime | None
    key: bytes | None
    value: bytes | None
    headers: Headers


def dead_letter(cluster: Cluster, message: Message, reason: str) -> Outgoing:
    """A message as a dead letter."""
    about = [
        ("dead_reason", reason[:_MOST_REASON].encode("utf-8", "replace")),
        ("dead_topic", message.topic.encode()),
        ("dead_partition", b"%d" % message.partition),
        ("dead_offset", b"%d" % message.offset),
        ("dead_at", datetime.now(UTC).isoformat().encode()),
    ]
    place = Outgoing(cluster.topic(DEAD), None, b"", [*about, ("dead_value", _LEFT_OUT)])
    if message.unreadable is not None:
        return place
    # kafka-python sends no header without a value, and no record of neither key nor value.
    headers = [(name, value or b"") for name, value in message.headers if name not in _ABOUT]
    value = b"" if message.key is None and message.value is None else message.value
    return Outgoing(cluster.topic(DEAD), message.key, value, [*headers, *about], None, place)


def dead_letters(cluster: Cluster) -> list[Letter]:
    """All dead letters that the brokers still have, oldest first. Blocks.

    Raises:
        KafkaError: the brokers cannot be reached.
    """
    letters: dict[tuple[int, int], Letter] = {}
    seen: set[tuple[str, int, int]] = set()
    for record in _records(cluster, cluster.topic(DEAD)):
        said = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
        if "dead_offset" in said:  # a letter, whatever headers its message had
            letter = _letter(record, said)
            came = letter.came_topic, letter.came_partition, letter.came_offset
            if came not in seen:  # given up once more after a crash
                seen.add(came)
                letters[letter.partition, letter.offset] = letter
        elif "replayed_offset" in said:
            known = letters.get((record.partition, int(said["replayed_offset"])))
            if known is not None:
                at = datetime.fromisoformat(said["replayed_at"])
                letters[known.partition, known.offset] = replace(known, replayed_at=at)
    return sorted(letters.values(), key=lambda one: (one.at, one.partition, one.offset))


@contextmanager
def replaying(cluster: Cluster) -> Iterator[Callable[[Letter, Callable[[str], str]], None]]:
    """Puts letters back where they came from. Each is with the brokers when the call returns.

    It is called with a letter and what makes a fresh token of a former one.

    Raises:
        CannotReplay: by the call: there is no whole message, or no token in it.
        KafkaError: the brokers did not take it; it may be put back once more.
    """
    producer: Any = KafkaProducer(
        **cluster.options("dead-letters"),
        acks="all",
        enable_idempotence=True,
        bootstrap_timeout_ms=_PATIENCE_MS,
        max_block_ms=_PATIENCE_MS,
        delivery_timeout_ms=2 * _PATIENCE_MS,
        request_timeout_ms=_PATIENCE_MS,
        max_request_size=16 * 1024 * 1024,
    )

    def replay(letter: Letter, renewed: Callable[[str], str]) -> None:
        headers = _with_fresh_token(letter, renewed)
        producer.send(
            letter.came_topic,
            key=letter.key,
            value=letter.value,
            headers=headers,
            partition=letter.came_partition,
        ).get(timeout=3 * _PATIENCE_MS / 1000)
        marker = [
            ("replayed_offset", b"%d" % letter.offset),
            ("replayed_at", datetime.now(UTC).isoformat().encode()),
        ]
        producer.send(
            cluster.topic(DEAD), value=b"", headers=marker, partition=letter.partition
        ).get(timeout=3 * _PATIENCE_MS / 1000)

    try:
        yield replay
    finally:
        producer.close(timeout=0)


def _with_fresh_token(letter: Letter, renewed: Callable[[str], str]) -> list[tuple[str, bytes]]:
    if not letter.whole:
        raise CannotReplay("the message itself was not kept: it was too large or unreadable")
    headers: list[tuple[str, bytes]] = []
    signed = False
    for name, value in letter.headers:
        if name in _ABOUT:
            continue
        if name == "authorization":
            scheme, _, token = (value or b"").decode("utf-8", "replace").partition(" ")
            value, signed = f"{scheme} {renewed(token.strip())}".encode(), True
        headers.append((name, value or b""))
    if not signed:
        raise CannotReplay("it has no token, so nobody knows on whose behalf it was sent")
    return headers


def _letter(record: Any, said: dict[str, str]) -> Letter:
    return Letter(
        partition=record.partition,
        offset=record.offset,
        at=datetime.fromisoformat(said["dead_at"]),
        reason=said["dead_reason"],
        command=said.get("ce_type", ""),
        command_id=said.get("ce_id", ""),
        came_topic=said["dead_topic"],
        came_partition=int(said["dead_partition"]),
        came_offset=int(said["dead_offset"]),
        whole="dead_value" not in said,
        replayed_at=None,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )


def _records(cluster: Cluster, topic: str) -> Iterator[Any]:
    """Every record that a topic has now, in the order of each partition."""
    consumer: Any = opened(
        KafkaConsumer,
        **cluster.options("dead-letters"),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        bootstrap_timeout_ms=_PATIENCE_MS,
        allow_auto_create_topics=False,
    )
    try:
        numbers: Sequence[int] = sorted(consumer.partitions_for_topic(topic) or ())
        if not numbers:
            return
        partitions = [TopicPartition(topic, number) for number in numbers]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        consumer.seek_to_beginning(*partitions)
        left = {one for one in partitions if consumer.position(one) < ends[one]}
        while left:
            for records in consumer.poll(timeout_ms=1000).values():
                yield from records
            left = {one for one in left if consumer.position(one) < ends[one]}
    finally:
        consumer.close(autocommit=False)
