"""Replay: decide again from the log and the stored model, and compare with the log to the byte.

A mismatch names its cause (``ml.causes``). It walks the log with the tables in memory, so what it
takes of memory is what the feature tables of one organisation take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from commands import stream_id
from commands.decisions import decision_stream
from domain import catalogue
from domain.decisions import (
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionReferred,
    DecisionRequested,
    DecisionShadowed,
    FailDecision,
    RecordDecision,
)
from domain.values import Event
from eventstore import Log
from eventstore.artifacts import Artifacts
from eventstore.persons.keys import erased_persons
from ml.catalogue import KINDS
from ml.causes import cause as cause_of
from ml.deciding import Answer
from ml.erased import ErasedData
from ml.kind import Request
from ml.pieces import DEADLINE_PASSED, answers, too_late
from ml.scorers import Scorers
from ml.tables import GOVERNANCE
from ml.walk import Window, walk
from projections.reading import LogReader
from projections.table import Table

Progress = Callable[[int, int], None]
#: Topic, bytes and position of a stored event.
Stored = tuple[str, bytes, int]

ANSWERS: tuple[type[Event], ...] = (
    DecisionMade,
    DecisionExplained,
    DecisionShadowed,
    DecisionReferred,
    DecisionFailed,
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay found. ``cause`` is empty where every byte is the same; ``erased`` names what
    its subject had told of persons who were erased since."""

    decision_id: str
    position: int
    kind: str
    same: bool
    cause: str
    detail: str
    bytes_compared: int
    erased: tuple[str, ...] = ()


class NotAnswered(Exception):
    """A decision that is not on the organisation's log, or has no answer yet."""


def tables() -> tuple[Table, ...]:
    """What has to be folded to decide."""
    mine = [table for kind in KINDS.values() for table in kind.tables]
    return tuple(dict.fromkeys((*mine, *GOVERNANCE)))


def requests_of(window: Window) -> list[Request]:
    """The decision requests of a window."""
    frame = window.events.get(DecisionRequested)
    if frame is None:
        return []
    columns = frame.select("organisation_id", "position", "state").iter_rows()
    return [
        Request(organisation_id, position, DecisionRequested.model_validate_json(state))
        for organisation_id, position, state in columns
    ]


async def replay(
    url: str,
    log: Log,
    artifacts: Artifacts,
    organisation_id: UUID,
    decision_ids: Sequence[str] | None = None,
    report: Progress | None = None,
) -> list[Replayed]:
    """Replay some decisions of an organisation, or all that were answered.

    Raises:
        NotAnswered: a decision asked for is not on the log or not answered.
    """
    head = await log.head()
    asked = None
    if decision_ids is not None:
        asked = await _stored(log, organisation_id, decision_ids)
        head = max((position for position, _ in asked.values()), default=0)
    erased = ErasedData(organisation_id, await erased_persons(log, organisation_id))
    compare = _Comparison(organisation_id, None if asked is None else dict(asked), erased)
    scorers = Scorers(artifacts)
    fields: dict[type[Event], set[str]] = {DecisionRequested: {"state"}}
    if asked is None:
        fields |= {event: {"decision_id", "state"} for event in ANSWERS}
    fields |= erased.fields
    async with LogReader(url) as reader:
        async for window in walk(reader, organisation_id, tables(), fields, head):
            erased.read(window)
            requests = [one for one in requests_of(window) if compare.wants(one)]
            compare.expect(requests)
            async for some in answers(KINDS, requests, window.history, scorers):
                compare.take(some)
            compare.read(window)
            if report is not None:
                report(window.to, head)
    return compare.result()


async def _stored(
    log: Log, organisation_id: UUID, decision_ids: Sequence[str]
) -> dict[str, tuple[int, list[Stored]]]:
    """The position of each decision's request, and its answer as it is stored."""
    streams = {name: stream_id(organisation_id, decision_stream(name)) for name in decision_ids}
    events = await log.streams(list(streams.values()))
    found: dict[str, tuple[int, list[Stored]]] = {}
    for name, id_ in streams.items():
        asked = 0
        stored: list[Stored] = []
        for one in events.get(id_, []):
            kind = catalogue.type_of(one.topic)
            if kind is DecisionRequested:
                asked = one.position
            elif kind in ANSWERS:
                stored.append((*catalogue.present(one.topic, one.state), one.position))
        if not asked or not stored:
            raise NotAnswered(f"decision {name!r} is not on the log or not answered yet")
        found[name] = (asked, stored)
    return found


class _Comparison:
    """Answers given again, until what is stored of them has been read too."""

    def __init__(
        self,
        organisation_id: UUID,
        asked: dict[str, tuple[int, list[Stored]]] | None,
        erased: ErasedData,
    ) -> None:
        self._organisation = str(organisation_id)
        self._asked = asked
        self._erased = erased
        self._again: dict[str, Answer | None] = {}
        self._requests: dict[str, Request] = {}
        self._stored: dict[str, list[Stored]] = {}
        self._found: list[Replayed] = []

    def wants(self, request: Request) -> bool:
        """Whether the request is among those that are replayed."""
        return self._asked is None or request.event.decision_id in self._asked

    def expect(self, requests: Sequence[Request]) -> None:
        """Requests whose answers are about to be given again."""
        for request in requests:
            self._requests[request.event.decision_id] = request
            self._again[request.event.decision_id] = None

    def take(self, some: Sequence[Answer]) -> None:
        """Answers given again."""
        for answer in some:
            self._again[answer.request.event.decision_id] = answer

    def read(self, window: Window) -> None:
        """What the log holds of answers."""
        if self._asked is not None:
            for name in [name for name in self._asked if name in self._again]:
                self._compare(name, self._asked[name][1])
            return
        for event in ANSWERS:
            frame = window.events.get(event)
            if frame is None:
                continue
            topic = catalogue.TOPICS[event]
            columns = frame.select("decision_id", "state", "position").iter_rows()
            for decision_id, state, position in columns:
                self._stored.setdefault(decision_id, []).append((topic, state.encode(), position))
        # An answer is one append: it is whole, unless the window ends with it.
        whole = [
            name
            for name, stored in self._stored.items()
            if name in self._again and max(position for _, _, position in stored) < window.to
        ]
        for name in whole:
            self._compare(name, self._stored.pop(name))

    def result(self) -> list[Replayed]:
        """What was found, in the order of the requests."""
        for name in [name for name in self._stored if name in self._again]:
            self._compare(name, self._stored.pop(name))
        return sorted(self._found, key=lambda one: one.position)

    def _compare(self, name: str, stored: list[Stored]) -> None:
        stored.sort(key=lambda one: one[2])
        answer = self._again.pop(name)
        request = self._requests.pop(name)
        again = _events(request, answer, stored)
        same = [catalogue.encode(event) for event in again] == [
            (topic, state) for topic, state, _ in stored
        ]
        cause, detail = "", ""
        if not same:
            cause, detail = cause_of(
                [catalogue.decode(topic, state) for topic, state, _ in stored], again
            )
        self._found.append(
            Replayed(
                decision_id=name,
                position=request.position,
                kind=request.event.kind,
                same=same,
                cause=cause,
                detail=detail,
                bytes_compared=sum(len(state) for _, state, _ in stored),
                erased=self._erased.of(
                    KINDS[request.event.kind], request.event.subject_id, request.position
                )
                if request.event.kind in KINDS
                else (),
            )
        )


def _events(request: Request, answer: Answer | None, stored: Sequence[Stored]) -> list[Event]:
    """The events of an answer given again."""
    event = request.event
    command = None if answer is None else answer.command
    topic, state, _ = stored[0]
    told = catalogue.decode(topic, state)
    if isinstance(told, DecisionFailed) and told.code == DEADLINE_PASSED:
        # Whether it was too late the clock said, which a replay has not; the words are ours.
        command = too_late(request, datetime.max.replace(tzinfo=UTC)) or command
    match command:
        case RecordDecision():
            referred = () if command.referred is None else (command.referred,)
            return [command.made, command.explained, *command.shadows, *referred]
        case FailDecision():
            return [
                DecisionFailed(
                    decision_id=event.decision_id,
                    kind=event.kind,
                    subject_id=event.subject_id,
                    code=command.code,
                    detail=command.detail,
                )
            ]
    return []
