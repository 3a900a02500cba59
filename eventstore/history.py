"""A test kit for any writer of the log: what clients saw, compared with what the log holds.

Each client notes an append before it is sent and the answer after it came, in a file of its own,
so that a kill -9 leaves a truthful history (``tests/writing.py`` does). ``check`` names each broken
rule:

- ``position``: positions run from 1 to the head without a gap.
- ``version``: versions of a stream run from 1 without a gap, in the order of positions.
- ``twice``: an event stands in the log once.
- ``unasked``: somebody asked for every event.
- ``lost``: an acknowledged command is in the log.
- ``unit``: what was appended together stands together, whole and remembered, or not at all.
- ``refused``: what was only ever refused is not in the log.
- ``stale``: at a unit's position every stream, written or only read, was at its expected version.
- ``answer``: an acknowledgement names the version and position under which the command is stored.
- ``first``: one acknowledgement at most says that it was not repeated.
- ``reused``: an id with another payload is refused, and with the same payload is not.
- ``forgotten``: a command that was acknowledged before is never answered with a conflict.
- ``conflict``: a conflict names a version that the stream then had, and not the expected one.
- ``order``: what was acknowledged before another append began stands before it.
- ``missed``, ``seen twice``, ``out of order``, ``another event``: a reader of the whole log saw
  each event once, in order.

A command that nobody acknowledged may be in the log once or not at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple
from uuid import UUID, uuid5

import psycopg

Outcome = Literal["ok", "conflict", "reused", "repeated", "unknown"]


class Asked(NamedTuple):
    """A command of an append; ``events`` are stream and version of each, in order."""

    command_id: UUID
    digest: str
    version: int
    events: tuple[tuple[UUID, int], ...]


class Answer(NamedTuple):
    version: int
    position: int
    repeated: bool


@dataclass(frozen=True)
class Attempt:
    """One append as its client saw it. Times are comparable between processes of one machine."""

    client: str
    begun: int
    commands: tuple[Asked, ...]
    expected: Mapping[UUID, int]
    outcome: Outcome = "unknown"
    ended: int | None = None
    answers: Mapping[UUID, Answer] = field(default_factory=dict)
    conflict: tuple[UUID, int, int] | None = None  # stream, expected, actual
    reused: UUID | None = None


class LoggedEvent(NamedTuple):
    position: int
    stream_id: UUID
    version: int
    event_id: UUID


class Remembered(NamedTuple):
    """A stored command's digest and the answer that a retry gets."""

    digest: str
    version: int
    position: int


class FinalLog(NamedTuple):
    """The whole log after all is over; events in the order of positions."""

    events: Sequence[LoggedEvent]
    commands: Mapping[UUID, Remembered]
    head: int


@dataclass(frozen=True)
class Violation:
    """A broken rule and, in a sentence, where."""

    rule: str
    sentence: str


def read_log(url: str) -> FinalLog:
    """What the log of a database holds now, in one snapshot."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        events = connection.execute(
            """SELECT notification_id, originator_id, originator_version, event_id
            FROM events ORDER BY notification_id"""
        ).fetchall()
        commands = connection.execute(
            "SELECT command_id, encode(digest, 'hex'), version, position FROM commands"
        ).fetchall()
        [[head]] = connection.execute("SELECT position FROM log_head").fetchall()
    remembered = {row[0]: Remembered(*row[1:]) for row in commands}
    return FinalLog([LoggedEvent(*row) for row in events], remembered, head)


def check(
    histories: Iterable[Iterable[Attempt]],
    readers: Iterable[Sequence[tuple[int, UUID]]],
    log: FinalLog,
) -> list[Violation]:
    """What of the rules above was broken; empty where all were kept.

    Args:
        histories: the attempts of each client process.
        readers: position and event id of what each reader saw from the log's beginning to its
            end, across all its restarts.
        log: what the log holds after everybody has stopped.
    """
    checker = _Checker([attempt for history in histories for attempt in history], log)
    found = [*checker.log(), *checker.commands(), *checker.times()]
    for number, seen in enumerate(readers):
        found += checker.reader(f"reader {number}", seen)
    return list(dict.fromkeys(found))


class _Checker:
    def __init__(self, attempts: Sequence[Attempt], log: FinalLog) -> None:
        self._attempts, self._log = attempts, log
        self._places = {event.event_id: event for event in log.events}
        self._tries: dict[UUID, list[tuple[Attempt, Asked]]] = defaultdict(list)
        for attempt in attempts:
            for asked in attempt.commands:
                self._tries[asked.command_id].append((attempt, asked))
        # By the longest attempt: what a shorter one did not ask for must not be there either.
        self._rows = {
            one: [
                self._places.get(uuid5(one, str(index)))
                for index in range(max(len(asked.events) for _, asked in tries))
            ]
            for one, tries in self._tries.items()
        }
        self._streams: dict[UUID, list[LoggedEvent]] = defaultdict(list)
        for event in log.events:
            self._streams[event.stream_id].append(event)

    def log(self) -> Iterator[Violation]:
        positions = [0, *(event.position for event in self._log.events)]
        for before, position in pairwise(positions):
            if position != before + 1:
                yield Violation("position", f"{position} follows {before}")
        if self._log.head != positions[-1]:
            yield Violation("position", f"the head is {self._log.head}, not {positions[-1]}")
        for stream, events in self._streams.items():
            for before, version in pairwise([0, *(event.version for event in events)]):
                if version != before + 1:
                    yield Violation("version", f"stream {stream}: {version} follows {before}")
        for event_id, times in Counter(event.event_id for event in self._log.events).items():
            if times > 1:
                yield Violation("twice", f"event {event_id} is stored {times} times")
        asked = {row.event_id for rows in self._rows.values() for row in rows if row}
        for event_id in self._places.keys() - asked:
            yield Violation("unasked", f"nobody asked for event {event_id}")
        for one in self._log.commands.keys() - self._tries.keys():
            yield Violation("unasked", f"nobody sent command {one}")

    def commands(self) -> Iterator[Violation]:
        for one, tries in self._tries.items():
            remembered = self._log.commands.get(one)
            rows = [row for row in self._rows[one] if row]
            answers = [attempt.answers[one] for attempt, _ in tries if one in attempt.answers]
            eventful = all(asked.events for _, asked in tries)
            if answers and (remembered is None or (eventful and not rows)):
                yield Violation("lost", f"command {one} was acknowledged and is not in the log")
            elif remembered is not None or rows:
                yield from self._stored(one, tries)
            if sum(not answer.repeated for answer in answers) > 1:
                yield Violation("first", f"command {one} was twice acknowledged as new")
            for version, position in {answer[:2] for answer in answers}:
                stands = rows[-1].position if rows else remembered and remembered.position
                if remembered and (remembered.version, stands) != (version, position):
                    told = f"answered with version {version} at {position}"
                    yield Violation("answer", f"command {one} stands at {stands} and was {told}")
            for attempt, asked in tries:
                same = remembered is not None and remembered.digest == asked.digest
                if attempt.reused == one and (remembered is None or same):
                    yield Violation("reused", f"command {one} was refused with its own payload")
                elif one in attempt.answers and remembered and not same:
                    yield Violation("reused", f"command {one} was accepted with another payload")

    def _stored(self, one: UUID, tries: Sequence[tuple[Attempt, Asked]]) -> Iterator[Violation]:
        """One attempt must explain what is stored; each that claims to have stored it must."""
        doubts = [self._doubt(attempt, one) for attempt, _ in tries]
        if all(doubts):
            # The attempt that explains most tells best what is wrong.
            order = ["reused", "refused", "unit", "stale"]
            yield max((d for d in doubts if d), key=lambda doubt: order.index(doubt.rule))
        for (attempt, _), doubt in zip(tries, doubts, strict=True):
            if doubt and attempt.outcome == "ok" and not attempt.answers[one].repeated:
                yield doubt

    def _doubt(self, attempt: Attempt, one: UUID) -> Violation | None:
        """Why an attempt cannot be what stored this command."""
        name = f"command {one} of {attempt.client}"
        # A unit that is sent again after a lost answer is told that all of it is stored.
        again = all(asked.command_id in attempt.answers for asked in attempt.commands)
        if attempt.outcome != "unknown" and not again:
            return Violation("refused", f"{name} was refused ({attempt.outcome}) and is stored")
        rows: list[LoggedEvent] = []
        for asked in attempt.commands:
            found = [row for row in self._rows[asked.command_id] if row]
            if tuple((row.stream_id, row.version) for row in found) != asked.events:
                return Violation("unit", f"{name}: events of {asked.command_id} are not as asked")
            remembered = self._log.commands.get(asked.command_id)
            if remembered is None:
                return Violation("unit", f"{name}: {asked.command_id} is not remembered")
            if remembered.digest != asked.digest:
                return Violation("reused", f"{name}: it is stored with another payload")
            rows += found
        if any(after.position != before.position + 1 for before, after in pairwise(rows)):
            return Violation("unit", f"{name}: other events stand between those of the unit")
        place = rows[0].position if rows else self._log.commands[one].position + 1
        for stream, expected in attempt.expected.items():
            earlier = bisect_left(self._streams[stream], (place,)) if stream in self._streams else 0
            actual = self._streams[stream][earlier - 1].version if earlier else 0
            if actual != expected:
                told = f"expected stream {stream} at {expected}, where it was at {actual}"
                return Violation("stale", f"{name} at {place} {told}")
        return None

    def times(self) -> Iterator[Violation]:
        """One walk through time, over the beginnings and ends of all attempts."""
        moments = [(attempt.begun, 0, n) for n, attempt in enumerate(self._attempts)]
        moments += [(a.ended, 1, n) for n, a in enumerate(self._attempts) if a.ended is not None]
        passed = 0  # the last position that somebody knew of, and the same of each stream
        known: dict[UUID, int] = defaultdict(int)
        begun: set[UUID] = set()
        acknowledged: set[UUID] = set()
        for _, ends, number in sorted(moments):
            attempt = self._attempts[number]
            if ends:
                acknowledged |= attempt.answers.keys()
                for row in (row for one in attempt.answers for row in self._rows[one] if row):
                    passed = max(passed, row.position)
                    known[row.stream_id] = max(known[row.stream_id], row.version)
                continue
            for one in (asked.command_id for asked in attempt.commands):
                place = min((row.position for row in self._rows[one] if row), default=passed + 1)
                if one not in begun and place <= passed:
                    yield Violation("order", f"command {one} began after {passed}, is at {place}")
                if one in acknowledged and attempt.outcome == "conflict":
                    yield Violation("forgotten", f"command {one}: a conflict instead of its answer")
                begun.add(one)
            if attempt.conflict is not None:
                stream, expected, actual = attempt.conflict
                last = self._streams[stream][-1].version if stream in self._streams else 0
                wrong = actual == expected or expected != attempt.expected.get(stream)
                if wrong or not known[stream] <= actual <= last:
                    told = f"stream {stream}: expected {expected}, found {actual}"
                    yield Violation("conflict", f"{attempt.client} was told a wrong one: {told}")

    def reader(self, name: str, seen: Sequence[tuple[int, UUID]]) -> Iterator[Violation]:
        stored = {event.position: event.event_id for event in self._log.events}
        last, before = 0, set[int]()
        for position, event_id in seen:
            if position in before:
                yield Violation("seen twice", f"{name} saw position {position} twice")
            elif position < last:
                yield Violation("out of order", f"{name} saw position {position} after {last}")
            elif position > last + 1:
                yield Violation("missed", f"{name} saw position {position} next to {last}")
            if stored.get(position) != event_id:
                yield Violation("another event", f"{name} saw {event_id} at position {position}")
            before.add(position)
            last = max(last, position)
        if last < self._log.head:
            yield Violation("missed", f"{name} saw nothing behind {last} of {self._log.head}")
