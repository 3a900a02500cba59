"""Replay: decide again from the log and the stored model, and compare with the log to the byte.

A mismatch names its cause: the model's bytes, library versions, features, score, explanation,
choice, or the code that puts them into events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import polars as pl

from domain import catalogue
from domain.decisions import (
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    FailDecision,
    RecordDecision,
)
from domain.values import Event
from eventstore import Log, StoredEvent
from eventstore.artifacts import ArtifactCorrupt, Artifacts
from ml.catalogue import KINDS
from ml.deciding import Answer, decide
from ml.decisions import Scorers, requests_in
from ml.history import LogHistory
from ml.kind import Kind, Request
from ml.scoring import Scorer, libraries
from projections.contributions import contributions
from projections.frames import decode, wanted

_CHUNK = 20_000
_BATCH = 200
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay found. ``cause`` is empty where every byte is the same."""

    decision_id: str
    position: int
    kind: str
    same: bool
    cause: str
    detail: str
    bytes_compared: int


class NotAnswered(Exception):
    """A decision that is not on the organisation's log, or has no answer yet."""


async def replay(
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
    recorded, answers, events_by_kind = await _read(log, organisation_id)
    requests = [request for request in recorded if request.event.decision_id in answers]
    if decision_ids is not None:
        known = {request.event.decision_id for request in requests}
        for decision_id in decision_ids:
            if decision_id not in known:
                raise NotAnswered(f"decision {decision_id!r} is not on the log or not answered yet")
        requests = [one for one in requests if one.event.decision_id in set(decision_ids)]
    scorers = Scorers(artifacts)
    found: list[Replayed] = []
    for name, kind in KINDS.items():
        mine = [request for request in requests if request.event.kind == name]
        history = events_by_kind[name]
        for start in range(0, len(mine), _BATCH):
            for answer in await decide(
                kind, mine[start : start + _BATCH], history, partial(_load, scorers, kind)
            ):
                stored = answers[answer.request.event.decision_id]
                found.append(_compare(answer, stored))
            if report is not None:
                report(len(found), len(requests))
    return sorted(found, key=lambda one: one.position)


async def _load(scorers: Scorers, kind: Kind, model_hash: str) -> Scorer:
    try:
        return await scorers.load(kind, model_hash)
    except ArtifactCorrupt as error:
        # For a decision this is a reason, not a crash.
        raise KeyError(str(error)) from error


async def _read(
    log: Log, organisation_id: UUID
) -> tuple[list[Request], dict[str, list[StoredEvent]], dict[str, LogHistory]]:
    """Requests, stored answers by decision, and each kind's history, in one pass."""
    head = await log.head()
    tables = {name: tuple(kind.tables) for name, kind in KINDS.items()}
    every = tuple(dict.fromkeys(table for some in tables.values() for table in some))
    parts = {table: [contributions(table, {})] for table in every}
    requests: list[Request] = []
    answers: dict[str, list[StoredEvent]] = {}
    kinds = {DecisionMade, DecisionExplained, DecisionFailed}
    position = 0
    while events := await log.after_of(organisation_id, position, _CHUNK, to=head):
        frames = decode(events, wanted(every))
        for table in every:
            parts[table].append(contributions(table, frames))
        requests += requests_in(events, organisation_id)
        for stored in events:
            if catalogue.type_of(stored.topic) in kinds:
                event = catalogue.decode(stored.topic, stored.state)
                decision_id = getattr(event, "decision_id")  # noqa: B009 - the three have one
                answers.setdefault(decision_id, []).append(stored)
        position = events[-1].position
    histories = {
        name: LogHistory({table: pl.concat(parts[table]) for table in some})
        for name, some in tables.items()
    }
    return requests, answers, histories


def _compare(answer: Answer, stored: Sequence[StoredEvent]) -> Replayed:
    request = answer.request
    again = _events(answer)
    before = [catalogue.decode(one.topic, one.state) for one in stored]
    bytes_again = [catalogue.encode(event) for event in again]
    same = bytes_again == [catalogue.present(one.topic, one.state) for one in stored]
    cause, detail = ("", "") if same else _cause(before, again)
    return Replayed(
        decision_id=request.event.decision_id,
        position=request.position,
        kind=request.event.kind,
        same=same,
        cause=cause,
        detail=detail,
        bytes_compared=sum(len(one.state) for one in stored),
    )


def _events(answer: Answer) -> list[Event]:
    match answer.command:
        case RecordDecision():
            return [answer.command.made, answer.command.explained]
        case FailDecision():
            event = answer.request.event
            return [
                DecisionFailed(
                    decision_id=event.decision_id,
                    kind=event.kind,
                    subject_id=event.subject_id,
                    code=answer.command.code,
                    detail=answer.command.detail,
                )
            ]


def _cause(before: Sequence[Event], again: Sequence[Event]) -> tuple[str, str]:
    """The first thing that differs, nearest to the source first."""
    made = next((one for one in before if isinstance(one, DecisionMade)), None)
    anew = next((one for one in again if isinstance(one, DecisionMade)), None)
    failed = next((one for one in again if isinstance(one, DecisionFailed)), None)
    if made is not None and failed is not None:
        return "model", failed.detail
    if made is None or anew is None:
        return "log", "the log holds another kind of answer than the replay gives"
    if made.model_hash != anew.model_hash:
        return "model", f"decided by {made.model_hash[:12]}, the log says {anew.model_hash[:12]}"
    if made.libraries != anew.libraries:
        return "library versions", f"{made.libraries} then, {libraries()} now"
    if [one.option for one in made.candidates] != [one.option for one in anew.candidates]:
        return "features", "other candidates follow from the log"
    pairs = list(zip(made.candidates, anew.candidates, strict=True))
    for name, fields in (
        ("features", ("features", "lineage", "cost_minor", "carbon_g")),
        ("score", ("margin", "probability")),
        ("constraints", ("rejected",)),
        ("weights", ("objective",)),
    ):
        for old, new in pairs:
            for field in fields:
                if getattr(old, field) != getattr(new, field):
                    told = f"{getattr(old, field)} on the log, {getattr(new, field)} now"
                    return name, f"{field} of {old.option}: {told}"
    if made.weights != anew.weights:
        return "weights", f"{made.weights} on the log, {anew.weights} asked for"
    if made.chosen != anew.chosen or made.option != anew.option:
        return "choice", f"{made.option} on the log, {anew.option} now"
    if made != anew:
        return "choice", "the decision's own numbers differ"
    words = next((one for one in before if isinstance(one, DecisionExplained)), None)
    new_words = next((one for one in again if isinstance(one, DecisionExplained)), None)
    if words is None or new_words is None or words.contributions != new_words.contributions:
        return "explanation", "SHAP values differ"
    if words != new_words:
        return "explanation", "the words differ"
    return "code", "the same values are written as other bytes"
