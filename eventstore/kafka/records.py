"""An event as a record of Kafka and back: CloudEvents 1.0 in Kafka's binary mode.

The key is the stream, the value the event's stored bytes, everything else stands in headers. From a
record the event comes back as it stands in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple, cast
from uuid import UUID

from eventstore.stored import StoredEvent

Headers = list[tuple[str, bytes]]
#: The fields of a ``StoredEvent``, in its order, as ``COLUMNS`` are read.
Row = tuple[int, UUID, int, str, bytes, UUID, UUID, datetime, UUID, UUID | None, str]
row_of = cast(
    Callable[[StoredEvent], Row], attrgetter(*(field.name for field in fields(StoredEvent)))
)
_SOURCE = b"/organisations/"
_SPECIFICATION = ("ce_specversion", b"1.0")
_CONTENT = ("content-type", b"application/json")


class NotOurs(Exception):
    """A record that is no event as the relay writes it."""


class Record(NamedTuple):
    """What is put into a topic."""

    key: bytes
    value: bytes
    headers: Headers


class Carried(NamedTuple):
    """An event as a record brought it.

    ``previous``: the position of the event before it in its lane, in whatever topic; 0: none.
    ``epoch``: the run of the relay that published it.
    """

    event: StoredEvent
    previous: int
    epoch: UUID


def record_of(event: StoredEvent, previous: int, epoch: bytes) -> Record:
    """The record of an event.

    Args:
        event: as the log has it.
        previous: the position of the event before it in its lane; 0: it is the first.
        epoch: of the relay, as text.
    """
    return Record(*put(row_of(event), previous, epoch))


def put(row: Row, previous: int, epoch: bytes) -> tuple[bytes, bytes, Headers]:
    """As ``record_of``, of a row of the log: the relay makes no event of what it only passes on."""
    position, stream_id, version, topic, state, event_id, organisation_id, at = row[:8]
    correlation_id, causation_id, actor = row[8:]
    stream = _text(f"{stream_id.int:032x}")
    own = f"{event_id.int:032x}"
    moment = (at if at.tzinfo is UTC else at.astimezone(UTC)).isoformat()
    fraction = moment[19:26] if at.microsecond else ".000000"
    headers = [
        _SPECIFICATION,
        ("ce_id", _text(own)),
        ("ce_source", _source(organisation_id.int)),
        ("ce_type", topic.encode()),
        ("ce_subject", stream),
        ("ce_time", f"{moment[:19]}{fraction}Z".encode()),
        _CONTENT,
        # The trace is the correlation id; the span within it follows from the event's id.
        ("traceparent", f"00-{correlation_id.int:032x}-{own[16:]}-01".encode()),
        ("ce_position", b"%d" % position),
        ("ce_previous", b"%d" % previous),
        ("ce_streamversion", b"%d" % version),
        ("ce_actor", actor.encode()),
        ("ce_epoch", epoch),
    ]
    if causation_id is not None:
        headers.append(("ce_causationid", _text(f"{causation_id.int:032x}")))
    return stream, state, headers


def carried(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
) -> Carried:
    """The event that a record carries.

    Raises:
        NotOurs: something of it is missing or not of its form.
    """
    said: Mapping[str, bytes] = dict(headers)
    try:
        if key is None or value is None:
            raise ValueError("it has no key or no value")
        if said["ce_specversion"] != b"1.0" or said["ce_subject"] != key:
            raise ValueError("it is no CloudEvent of its stream")
        if said["content-type"] != b"application/json":
            raise ValueError("it is no JSON")
        position, previous = int(said["ce_position"]), int(said["ce_previous"])
        recorded_at = datetime.fromisoformat(said["ce_time"].decode())
        if not 0 <= previous < position or recorded_at.tzinfo is None:
            raise ValueError("its place or its time is not of its form")
        causation = said.get("ce_causationid")
        return Carried(
            StoredEvent(
                position,
                _uuid(key),
                int(said["ce_streamversion"]),
                said["ce_type"].decode(),
                value,
                _uuid(said["ce_id"]),
                _organisation(said["ce_source"]),
                recorded_at,
                UUID(said["traceparent"][3:35].decode()),
                None if causation is None else _uuid(causation),
                said["ce_actor"].decode(),
            ),
            previous,
            _epoch(said["ce_epoch"]),
        )
    # A header may also be null.
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise NotOurs(f"a record is no event of the relay's: {error!r}") from error


def _text(digits: str) -> bytes:
    """A uuid as text; by hand, which is faster than its own ``str``."""
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}".encode()


@lru_cache(maxsize=10_000)
def _source(organisation: int) -> bytes:
    return _SOURCE + _text(f"{organisation:032x}")


@lru_cache(maxsize=10_000)
def _organisation(source: bytes) -> UUID:
    if not source.startswith(_SOURCE):
        raise ValueError("its source is no organisation")
    return _uuid(source[len(_SOURCE) :])


def _uuid(text: bytes) -> UUID:
    return UUID(text.decode())


@lru_cache(maxsize=100)
def _epoch(text: bytes) -> UUID:
    return _uuid(text)
