"""The history checker: it accepts what is right and finds every violation that is planted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.history import (
    Answer,
    Asked,
    Attempt,
    FinalLog,
    LoggedEvent,
    Outcome,
    Remembered,
    check,
)
from tests.writing import read_history

SPACE = UUID("7e0f3a44-52f5-4a4d-9a39-0c1d7a2f9b11")
STREAMS = [uuid5(SPACE, f"stream {number}") for number in range(4)]
A, B, C, D = STREAMS


@dataclass(frozen=True)
class Case:
    """All that the checker is given; one reader saw everything."""

    attempts: Sequence[Attempt]
    seen: Sequence[tuple[int, UUID]]
    log: FinalLog

    def rules(self) -> set[str]:
        """The broken ones, according to the checker."""
        half = len(self.attempts) // 2
        histories = [self.attempts[:half], self.attempts[half:]]
        return {violation.rule for violation in check(histories, [self.seen], self.log)}

    def with_attempt(self, number: int, **changes: object) -> Case:
        changed = list(self.attempts)
        changed[number] = replace(changed[number], **changes)  # type: ignore[arg-type]
        return replace(self, attempts=changed)

    def with_events(self, events: Sequence[LoggedEvent]) -> Case:
        """Another log, which the reader saw as it is."""
        head = events[-1].position if events else 0
        seen = [(event.position, event.event_id) for event in events]
        return replace(self, seen=seen, log=self.log._replace(events=events, head=head))


class World:
    """A log in memory that keeps all rules, and what its clients note of it."""

    def __init__(self) -> None:
        self.now = 0
        self.attempts: list[Attempt] = []
        self.events: list[LoggedEvent] = []
        self.commands: dict[UUID, Remembered] = {}
        self.versions = dict.fromkeys(STREAMS, 0)

    def ask(self, name: str, *streams: UUID, digest: str = "00") -> Asked:
        events = tuple(
            (stream, self.versions[stream] + streams[: index + 1].count(stream))
            for index, stream in enumerate(streams)
        )
        return Asked(uuid5(SPACE, name), digest, events[-1][1] if events else 0, events)

    def append(
        self,
        *commands: Asked,
        read: Mapping[UUID, int] | None = None,
        told: bool = True,
        slow: tuple[int, int] = (1, 1),
    ) -> None:
        """Carry out a unit; ``slow``: how long before began its client, how long after it ended."""
        self.now += 10
        expected = {stream: version - 1 for one in commands for stream, version in one.events[::-1]}
        expected |= read or {}
        wrong = [stream for stream in expected if expected[stream] != self.versions[stream]]
        again = {one.command_id for one in commands if one.command_id in self.commands}
        outcome: Outcome = "ok"
        conflict, reused = None, None
        if others := [
            one
            for one in commands
            if one.command_id in again and self.commands[one.command_id].digest != one.digest
        ]:
            outcome, reused = "reused", others[0].command_id
        elif again:
            outcome = "repeated" if len(commands) > 1 else "ok"
        elif wrong:
            outcome = "conflict"
            conflict = (wrong[0], expected[wrong[0]], self.versions[wrong[0]])
        else:
            self._store(commands)
        heard = [one.command_id for one in commands] if outcome in ("ok", "repeated") else []
        answers = {
            one: Answer(self.commands[one].version, self.commands[one].position, one in again)
            for one in heard
            if one in self.commands
        }
        attempt = Attempt("client", self.now - slow[0], commands, expected)
        if told:
            end = self.now + slow[1]
            attempt = replace(attempt, outcome=outcome, ended=end, answers=answers)
            attempt = replace(attempt, conflict=conflict, reused=reused)
        self.attempts.append(attempt)

    def _store(self, commands: Sequence[Asked]) -> None:
        for one in commands:
            for index, (stream, version) in enumerate(one.events):
                event_id = uuid5(one.command_id, str(index))
                place = len(self.events) + 1
                self.events.append(LoggedEvent(place, stream, version, event_id))
                self.versions[stream] = version
            remembered = Remembered(one.digest, one.version, len(self.events))
            self.commands[one.command_id] = remembered

    def never_arrives(self, *commands: Asked) -> None:
        """A unit that was sent and not stored; nobody knows."""
        self.attempts.append(Attempt("client", self.now, commands, {}))

    def case(self) -> Case:
        seen = [(event.position, event.event_id) for event in self.events]
        events, commands = list(self.events), dict(self.commands)
        return Case(list(self.attempts), seen, FinalLog(events, commands, len(events)))


# The attempts of every made history, by number.
PLAIN, READING, UNHEARD, AGAIN, CONFLICT, REUSED, UNIT, EMPTY, LOST, MORE = range(10)


def beginning() -> World:
    """One attempt of each kind."""
    world = World()
    plain = world.ask("plain", A, A, B)
    world.append(plain)
    world.append(world.ask("reading", B), read={A: 2, D: 0})
    unheard = world.ask("unheard", C)
    world.append(unheard, told=False)
    world.append(unheard)
    world.append(world.ask("late", A)._replace(events=((A, 2),)))
    world.append(plain._replace(digest="ff"))
    world.append(world.ask("first half", D), world.ask("second half", C))
    world.append(world.ask("empty"), read={D: 1})
    world.never_arrives(world.ask("lost", A))
    world.append(world.ask("more", A, C))
    return world


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A history that is right, with any number of attempts behind the beginning."""
    world = beginning()
    streams = st.sampled_from(STREAMS)
    delays = st.tuples(st.integers(1, 60), st.integers(1, 60))
    for number in range(draw(st.integers(0, 15))):
        kind = draw(st.sampled_from(["store", "unit", "stale", "again", "reuse", "never"]))
        chosen = draw(st.lists(streams, max_size=4))
        one = world.ask(f"command {number}", *chosen)
        told, slow = draw(st.booleans()), draw(delays)
        before = draw(st.sampled_from(world.attempts))
        match kind:
            case "store":
                stream = draw(streams)
                read = {} if stream in chosen else {stream: world.versions[stream]}
                world.append(one, read=read, told=told, slow=slow)
            case "unit":
                first, second = f"command {number} one", f"command {number} two"
                parts = world.ask(first, A, B, A), world.ask(second, D, C)
                world.append(*parts, told=told, slow=slow)
            case "stale":
                stream = draw(streams)
                world.append(world.ask(f"command {number}"), read={stream: 99}, slow=slow)
            case "again":
                world.append(*before.commands, told=told, slow=(1, slow[1]))
            case "reuse":
                changed = [asked._replace(digest="ee") for asked in before.commands]
                world.append(*changed, told=told, slow=(1, slow[1]))
            case _:
                world.never_arrives(one)
    return world.case()


@settings(max_examples=200, deadline=None)
@given(cases())
def test_a_history_that_is_right_is_accepted(case: Case) -> None:
    assert case.rules() == set()


def test_the_beginning_holds_one_attempt_of_each_kind() -> None:
    told = [attempt.outcome for attempt in beginning().attempts]
    assert told == [
        *("ok", "ok", "unknown", "ok", "conflict", "reused", "ok", "ok", "unknown", "ok")
    ]


def test_an_empty_log_is_right() -> None:
    assert check([], [[]], FinalLog([], {}, 0)) == []


# what is planted: a change of a right case, and the rule that it breaks

Plant = Callable[[Case], Case]


def without(case: Case, number: int, *, whole: bool = True) -> Case:
    """The log without the commands of an attempt, or without their last event."""
    ids = [
        uuid5(asked.command_id, str(index))
        for asked in case.attempts[number].commands
        for index in range(len(asked.events))
    ]
    gone = set(ids if whole else ids[-1:])
    kept = [event for event in case.log.events if event.event_id not in gone]
    commands = dict(case.log.commands)
    if whole:
        for asked in case.attempts[number].commands:
            del commands[asked.command_id]
    renumbered = [event._replace(position=n) for n, event in enumerate(kept, 1)]
    changed = case.with_events(renumbered)
    return replace(changed, log=changed.log._replace(commands=commands))


def stored_twice(case: Case) -> Case:
    event = case.log.events[0]
    last = max(one.version for one in case.log.events if one.stream_id == event.stream_id)
    again = event._replace(position=case.log.head + 1, version=last + 1)
    return case.with_events([*case.log.events, again])


def gap_in_positions(case: Case) -> Case:
    first, *others = case.log.events
    return case.with_events([first, *(e._replace(position=e.position + 1) for e in others)])


def gap_in_versions(case: Case) -> Case:
    *others, last = case.log.events
    return case.with_events([*others, last._replace(version=last.version + 1)])


def forgotten_by_the_log(case: Case, number: int) -> Case:
    commands = dict(case.log.commands)
    del commands[case.attempts[number].commands[0].command_id]
    return replace(case, log=case.log._replace(commands=commands))


def unheard_of(case: Case, number: int) -> Case:
    """Nobody ever sent the command of an attempt."""
    [asked] = case.attempts[number].commands
    kept = [
        attempt
        for attempt in case.attempts
        if asked.command_id not in [one.command_id for one in attempt.commands]
    ]
    return replace(case, attempts=kept)


def other_answer(case: Case, number: int, **changes: object) -> Case:
    """An acknowledgement that says something else."""
    answers = {
        one: answer._replace(**changes)  # type: ignore[arg-type]
        for one, answer in case.attempts[number].answers.items()
    }
    return case.with_attempt(number, answers=answers)


def never_accepted(case: Case, number: int) -> Case:
    """Whoever sent the command of an attempt was told of a conflict."""
    for n, attempt in enumerate(case.attempts):
        if attempt.commands == case.attempts[number].commands:
            case = case.with_attempt(n, outcome="conflict", answers={})
    return case


def told_conflict(case: Case, expected: int, actual: int) -> Case:
    return case.with_attempt(CONFLICT, conflict=(A, expected, actual))


def read_at(case: Case, version: int) -> Case:
    expected = {**case.attempts[READING].expected, A: version}
    return case.with_attempt(READING, expected=expected)


def accepted_changed(case: Case) -> Case:
    [asked] = case.attempts[PLAIN].commands
    answers = case.attempts[PLAIN].answers
    again = {asked.command_id: answers[asked.command_id]._replace(repeated=True)}
    return case.with_attempt(REUSED, outcome="ok", reused=None, answers=again)


def refused_unchanged(case: Case) -> Case:
    return case.with_attempt(REUSED, commands=case.attempts[PLAIN].commands)


def seeing(change: Callable[[list[tuple[int, UUID]]], list[tuple[int, UUID]]]) -> Plant:
    return lambda case: replace(case, seen=change(list(case.seen)))


PLANTED: dict[str, tuple[str, Plant]] = {
    "an acknowledged command is lost": ("lost", lambda c: without(c, MORE)),
    "an acknowledged command without events is lost": (
        "lost",
        lambda c: forgotten_by_the_log(c, EMPTY),
    ),
    "a stored command is not remembered": ("lost", lambda c: forgotten_by_the_log(c, UNHEARD)),
    "a command is stored twice": ("twice", stored_twice),
    "a gap in positions": ("position", gap_in_positions),
    "the head is not the last position": (
        "position",
        lambda c: replace(c, log=c.log._replace(head=c.log.head + 1)),
    ),
    "a gap in versions": ("version", gap_in_versions),
    "a command is stored in part": ("unit", lambda c: without(c, PLAIN, whole=False)),
    "a unit is stored in part": ("lost", lambda c: without(c, UNIT, whole=False)),
    "an event nobody asked for": ("unasked", lambda c: unheard_of(c, PLAIN)),
    "a conflict though stored": ("refused", lambda c: never_accepted(c, PLAIN)),
    "stored on a stream that was read at an older version": ("stale", lambda c: read_at(c, 1)),
    "stored on a stream that was read at a later version": ("stale", lambda c: read_at(c, 3)),
    "two answers with different positions": (
        "answer",
        lambda c: other_answer(c, AGAIN, position=2),
    ),
    "two answers with different versions": ("answer", lambda c: other_answer(c, AGAIN, version=7)),
    "a wrong first answer": ("answer", lambda c: other_answer(c, PLAIN, position=2)),
    "acknowledged as new by two": (
        "first",
        lambda c: replace(c, attempts=[*c.attempts, c.attempts[MORE]]),
    ),
    "another payload is accepted": ("reused", accepted_changed),
    "the same payload is refused": ("reused", refused_unchanged),
    "a retry conflicts with its own first run": (
        "forgotten",
        lambda c: c.with_attempt(REUSED, outcome="conflict", reused=None),
    ),
    "a conflict names the expected version": ("conflict", lambda c: told_conflict(c, 1, 1)),
    "a conflict names an expectation nobody had": ("conflict", lambda c: told_conflict(c, 5, 2)),
    "a conflict names a version that is past": ("conflict", lambda c: told_conflict(c, 1, 0)),
    "a conflict names a version that never was": ("conflict", lambda c: told_conflict(c, 1, 99)),
    "what was acknowledged first stands later": (
        "order",
        lambda c: c.with_attempt(UNIT, begun=-9, ended=-8),
    ),
    "a reader missed an event": ("missed", seeing(lambda seen: [*seen[:3], *seen[4:]])),
    "a reader missed the first": ("missed", seeing(lambda seen: seen[1:])),
    "a reader missed the last": ("missed", seeing(lambda seen: seen[:-1])),
    "a reader saw twice": ("seen twice", seeing(lambda seen: [*seen[:3], *seen[2:]])),
    "a reader saw out of order": (
        "out of order",
        seeing(lambda seen: [seen[0], seen[2], seen[1], *seen[3:]]),
    ),
    "a reader saw what is not in the log": (
        "another event",
        seeing(lambda seen: [(1, SPACE), *seen[1:]]),
    ),
}


@pytest.mark.parametrize(("rule", "plant"), PLANTED.values(), ids=PLANTED.keys())
def test_what_is_planted_is_found(rule: str, plant: Plant) -> None:
    @settings(max_examples=30, deadline=None)
    @given(cases())
    def wherever(case: Case) -> None:
        assert rule in plant(case).rules()

    wherever()


ALONE = {
    "a conflict though stored": {"refused"},
    "a stored command is not remembered": {"lost"},
    "the head is not the last position": {"position", "missed"},
    "a reader saw twice": {"seen twice"},
    "a reader missed the last": {"missed"},
    "another payload is accepted": {"reused"},
    "what was acknowledged first stands later": {"order"},
    "stored on a stream that was read at an older version": {"stale"},
    "two answers with different positions": {"answer"},
}


@pytest.mark.parametrize("name", ALONE)
def test_a_single_fault_is_called_by_its_name_alone(name: str) -> None:
    assert PLANTED[name][1](beginning().case()).rules() == ALONE[name]


def test_a_command_stored_without_its_answer_breaks_the_unit() -> None:
    """Nobody was told, so nothing is lost; but a retry would be stored again."""
    case = forgotten_by_the_log(beginning().case(), UNHEARD)
    case = case.with_attempt(AGAIN, outcome="unknown", answers={})
    assert case.rules() == {"unit"}


# the files


def test_a_history_that_ends_in_mid_word_is_read_up_to_there(tmp_path: Path) -> None:
    command, stream = str(uuid5(SPACE, "command")), str(A)
    asked = {"id": command, "digest": "00", "version": 1, "events": [[stream, 1]]}
    invoke = {"client": "w", "kind": "invoke", "commands": [asked], "expected": {stream: 0}}
    told = {"client": "w", "kind": "ok", "at": 4, "answers": {command: [1, 1, False]}}
    lines = [
        json.dumps(line)
        for line in (
            invoke | {"number": 1, "at": 3},
            told | {"number": 1},
            invoke | {"number": 2, "at": 5},
            told | {"number": 2, "at": 6},
        )
    ]
    path = tmp_path / "w.jsonl"
    path.write_text("\n".join(lines)[:-9])
    first, second = read_history(path)
    assert first.commands == (Asked(UUID(command), "00", 1, ((A, 1),)),)
    assert (first.outcome, first.begun, first.ended) == ("ok", 3, 4)
    assert first.answers == {UUID(command): Answer(1, 1, False)}
    assert (second.outcome, second.begun, second.ended) == ("unknown", 5, None)
    path.write_text("\n".join([*lines[:2], "torn", *lines[2:]]))
    with pytest.raises(ValueError, match="Expecting value"):
        read_history(path)
