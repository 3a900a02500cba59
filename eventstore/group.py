"""A group of units as one statement: the columns that go in, and what its answer says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from typing import Any
from uuid import UUID

from psycopg.pq.abc import PGresult

from eventstore.log import CommandReused, Receipt, RepeatedCommands, Unit, VersionConflict
from eventstore.spans import Stored
from eventstore.wire import BIGINTS, BYTES, TEXTS, UUIDS, Statement

APPEND = Statement(
    "append",
    """SELECT outcome, unit, command, stream, version, "position", stream_id, expected
    FROM append_group($1,$2,$3,$4,$5,$6,$7,$8, $9,$10,$11,
        $12,$13,$14,$15,$16,$17,$18,$19,$20,$21)""",
    (
        *(BIGINTS, UUIDS, BYTES, TEXTS, BIGINTS, BIGINTS, UUIDS, TEXTS),
        *(BIGINTS, UUIDS, BIGINTS),
        *(BIGINTS, UUIDS, BIGINTS, TEXTS, BYTES, UUIDS, UUIDS, UUIDS, UUIDS, TEXTS),
    ),
)


Answer = asyncio.Future[list[Receipt]]
#: Unit, command id, digest, stream, version, its last event, organisation, what was asked by whom.
_EntryRow = tuple[int, bytes, bytes, bytes, int, int | None, bytes, bytes]
#: Unit, stream, version, topic, state, event id, organisation, correlation, causation, actor.
_EventRow = tuple[int, bytes, int, bytes, bytes, bytes, bytes, bytes, bytes | None, bytes]


@dataclass(slots=True, eq=False)
class Waiting:
    """A unit on its way; where its caller waits, since which ``monotonic``; its weight."""

    unit: Unit
    answer: Answer
    since: float
    weight: int
    #: Streams that it appends to, all that it looks at, its commands; as integers, which are
    #: hashed at a fifth of the price of a UUID.
    appends: Set[int]
    looks: Set[int]
    commands: Set[int]
    #: The answer to the unit that it is to be stored behind, if at all.
    after: Answer | None = None

    @classmethod
    def of(cls, unit: Unit, answer: Answer, since: float) -> Waiting:
        """A unit that waits from now on.

        Raises:
            ValueError: there are no entries, or an event does not follow on its stream's expected
                version.
        """
        if not unit.entries:
            raise ValueError("a unit without entries: there is nothing to store")
        weight = 0
        versions = {stream_id.int: version for stream_id, version in unit.expected.items()}
        looks = frozenset(versions)
        appends: set[int] = set()
        commands: set[int] = set()
        for entry in unit.entries:
            commands.add(entry.command_id.int)
            for stream_id, version, _, _ in entry.events:
                key = stream_id.int
                if versions.get(key) != version - 1:
                    raise ValueError(
                        f"stream {stream_id}: event of version {version} does not follow on "
                        f"{versions.get(key, 'a version that the unit expects')}"
                    )
                versions[key] = version
                appends.add(key)
                weight += 1
        return cls(unit, answer, since, weight or 1, appends, looks, commands)

    @property
    def held(self) -> bool:
        """Whether what it is to be stored behind is still under way."""
        return self.after is not None and not self.after.done()

    @property
    def orphaned(self) -> bool:
        """Whether what it was to be stored behind was not stored, as far as is known."""
        after = self.after
        if after is None or not after.done():
            return False
        # One that is repeated was stored before, behind something else.
        return after.cancelled() or after.exception() is not None or after.result()[0].repeated


def answer(group: Sequence[Waiting], result: PGresult) -> None:
    """Tell every caller. Failures are rows; all other units were stored, in their order."""
    last = result.ntuples - 1
    errors = _errors(group, result, last) if last else {}
    head = position = _integer(result.get_value(last, 5))
    for number, waiting in enumerate(group):
        told = waiting.answer
        error = errors.get(number)
        if error is not None:
            if not told.done():
                if isinstance(error, RepeatedCommands) and len(waiting.unit.entries) == 1:
                    told.set_result(list(error.receipts.values()))
                else:
                    told.set_exception(error)
            continue
        receipts: list[Receipt] = []
        for entry in waiting.unit.entries:
            position += len(entry.events)
            at = position if entry.events else head
            receipts.append(Receipt(entry.stream, entry.version, at))
        if not told.done():  # otherwise its caller was cancelled
            told.set_result(receipts)


def stored(group: Sequence[Waiting], now: float, now_ns: int) -> Iterator[Stored]:
    """The entries that an answered group has put on the log. ``now``: ``monotonic``, and the same
    moment in nanoseconds since 1970."""
    for waiting in group:
        told = waiting.answer
        if told.cancelled() or told.exception() is not None:
            continue
        since = now_ns - int((now - waiting.since) * 1e9)
        for entry, receipt in zip(waiting.unit.entries, told.result(), strict=True):
            if not receipt.repeated:
                yield Stored(entry, receipt.position, since)


def event_id_of(command_id: UUID, index: int) -> UUID:
    """The id of a command's event, by its number among them."""
    return UUID(bytes=_event_id(command_id.bytes, index))


def _errors(
    group: Sequence[Waiting], result: PGresult, count: int
) -> dict[int, CommandReused | RepeatedCommands | VersionConflict]:
    """Why units were not stored, by their number in the group.

    A repeated command conflicts with its own first run: the first answer goes before the conflict.
    """
    found: dict[int, CommandReused | RepeatedCommands | VersionConflict] = {}
    for row in range(count):
        outcome, unit, command, stream, version, position, stream_id, expected = (
            result.get_value(row, column) for column in range(8)
        )
        number = _integer(unit)
        known = found.get(number)
        if outcome == b"conflict":
            if known is None:
                found[number] = VersionConflict(
                    UUID(bytes=stream_id), _integer(expected), _integer(version)
                )
            continue
        command_id = UUID(bytes=command)
        if outcome == b"reused":
            found[number] = CommandReused(command_id)
        elif not isinstance(known, CommandReused):
            receipt = Receipt(
                (stream or b"").decode(), _integer(version), _integer(position), repeated=True
            )
            before = known.receipts if isinstance(known, RepeatedCommands) else {}
            found[number] = RepeatedCommands({**before, command_id: receipt})
    return found


def _integer(value: bytes | None) -> int:
    assert value is not None
    return int.from_bytes(value, "big", signed=True)


def columns(group: Sequence[Waiting]) -> tuple[Sequence[Any], ...]:
    """The parameters of ``append_group``: entries, expectations, events, a column each."""
    entries: list[_EntryRow] = []
    expectations: list[tuple[int, bytes, int]] = []
    events: list[_EventRow] = []
    for number, waiting in enumerate(group):
        unit_entries, expected = waiting.unit
        for stream_id, version in expected.items():
            expectations.append((number, stream_id.int.to_bytes(16, "big"), version))
        for entry in unit_entries:
            id_, digest, stream, last, own, actor, correlation_id, cause, new, name, roles = entry
            command_id = id_.bytes
            organisation_id = own.bytes
            asked = _asked(name, roles, actor)
            if not new:
                asked += b"\x1f%b\x1f%b" % (
                    str(correlation_id).encode(),
                    b"" if cause is None else str(cause).encode(),
                )
            shared = (
                organisation_id,
                correlation_id.bytes,
                None if cause is None else cause.bytes,
                actor.encode(),
            )
            for index, (stream_id, version, topic, state) in enumerate(new):
                event_id = _event_id(command_id, index)
                row = (
                    number,
                    stream_id.int.to_bytes(16, "big"),
                    version,
                    topic.encode(),
                    state,
                    event_id,
                )
                events.append(row + shared)
            behind = len(events) if new else None
            of_stream = stream.encode()
            entries.append(
                (number, command_id, digest, of_stream, last, behind, organisation_id, asked)
            )
    return (*_transposed(entries, 8), *_transposed(expectations, 3), *_transposed(events, 10))


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> Iterable[Sequence[Any]]:
    return zip(*rows, strict=True) if rows else ((),) * width


@lru_cache(maxsize=4096)
def _asked(command: str, roles: frozenset[str], actor: str) -> bytes:
    """Who asked what with which roles, as one column: a sender's commands are mostly alike."""
    return "\x1f".join((command, ",".join(sorted(roles)), actor.replace("\x1f", " "))).encode()


def _event_id(command_id: bytes, index: int) -> bytes:
    """``uuid5(command_id, str(index))`` as bytes: sending a group again changes nothing."""
    made = sha1(command_id + b"%d" % index, usedforsecurity=False).digest()
    return b"%b%c%c%c%b" % (
        *(made[:6], made[6] & 0x0F | 0x50, made[7], made[8] & 0x3F | 0x80),
        made[9:16],
    )
