"""What is hashed of an event: the row as PostgreSQL sends it in COPY's binary format.

That form is length-prefixed, so no two rows have the same bytes, it has been the same since 2003,
and it comes from the database without a conversion. docs/auditors.md tells it field by field.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

from eventstore.log import StoredEvent
from eventstore.seals.merkle import leaf_hash as leaf_hash

#: The columns of a row, in order.
COLUMNS = (
    "notification_id, originator_id, originator_version, event_id, organisation_id, recorded_at,"
    " correlation_id, causation_id, actor, topic, state"
)
_FIELDS = 11
_COPY = f"""COPY (SELECT {COLUMNS} FROM events WHERE notification_id > {{after}}
    AND notification_id <= {{to}} ORDER BY notification_id) TO STDOUT (FORMAT BINARY)"""
_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_AT_ONCE = 500
_HEADER, _TRAILER = 19, 2  # bytes of COPY's own around the rows
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def row_bytes(event: StoredEvent) -> bytes:
    """The row of an event as the database would send it."""
    fields = (
        struct.pack("!q", event.position),
        event.stream_id.bytes,
        struct.pack("!q", event.version),
        event.event_id.bytes,
        event.organisation_id.bytes,
        struct.pack("!q", (event.recorded_at - _EPOCH) // _MICROSECOND),
        event.correlation_id.bytes,
        None if event.causation_id is None else event.causation_id.bytes,
        event.actor.encode(),
        event.topic.encode(),
        event.state,
    )
    parts = [struct.pack("!h", _FIELDS)]
    for field in fields:
        parts.append(b"\xff\xff\xff\xff" if field is None else struct.pack("!i", len(field)))
        parts.append(field or b"")
    return b"".join(parts)


def position_of(row: bytes) -> int:
    """The log position that a row says."""
    return int.from_bytes(row[6:14], "big", signed=True)


def organisation_of(row: bytes) -> bytes:
    """The sixteen bytes of the organisation that a row names."""
    return row[70:86]


def recorded_at_of(row: bytes) -> datetime:
    """When the event of a row was recorded."""
    return _EPOCH + int.from_bytes(row[90:98], "big", signed=True) * _MICROSECOND


def topic_of(row: bytes) -> bytes:
    """The topic of a row, its tenth field."""
    at = 98  # behind the six fields of fixed length
    for _ in range(3):  # correlation, causation, actor
        at += 4 + max(0, int.from_bytes(row[at : at + 4], "big", signed=True))
    length = int.from_bytes(row[at : at + 4], "big")
    return row[at + 4 : at + 4 + length]


def rows(connection: psycopg.Connection[Any], after: int, to: int) -> Iterator[list[bytes]]:
    """The rows behind ``after`` and not beyond ``to``, by position, as the database has them, a few
    hundred at a time: so many that Python's loops are short, so few that the database goes on
    sending while they are hashed.

    Raises:
        psycopg.Error: the database refused or went away.
    """
    # psycopg's own loop takes a row apart or copies it twice; libpq's hands it over as it came.
    wire = connection.pgconn
    result = wire.exec_(_COPY.format(after=int(after), to=int(to)).encode())
    if result.status != ExecStatus.COPY_OUT:
        raise error_from_result(result)
    take, ended = wire.get_copy_data, False
    try:
        size, data = take(0)
        if data[: len(_SIGNATURE)] == _SIGNATURE:
            data = data[_HEADER:]
            size -= _HEADER
        while size > _TRAILER:
            some = [bytes(data)]
            add = some.append
            for _ in range(_AT_ONCE):
                size, data = take(0)
                if size <= _TRAILER:
                    break
                add(bytes(data))
            else:
                size, data = take(0)
            yield some
        while size > 0:
            size, data = take(0)
        ended = True
    finally:
        if not ended:
            wire.get_cancel().cancel()
            with suppress(psycopg.Error):
                while take(0)[0] > 0:
                    pass
        while (last := wire.get_result()) is not None:
            result = last
    if result.status != ExecStatus.COMMAND_OK:
        raise error_from_result(result)


def first_wrong(some: list[bytes], after: int) -> int | None:
    """Which of some rows does not stand at its position, where the first is to be behind ``after``;
    None where all do."""
    wanted = array("q", range(after + 1, after + 1 + len(some)))
    if sys.byteorder == "little":
        wanted.byteswap()
    if b"".join([row[6:14] for row in some]) == wanted.tobytes():
        return None
    return next(n for n, row in enumerate(some) if position_of(row) != after + 1 + n)
