"""Decisions: requested, made and explained or failed, and how they turned out.

What a replay needs is in the events: the model's hash, the features' bytes, margins, library
versions and weights. ``as_of`` is the log position of the request: a decision sees the log up to
there and nothing after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event, Id, UtcTime, Value, Words


class Stage(StrEnum):
    """Where a decision stands."""

    UNKNOWN = "unknown"
    REQUESTED = "requested"
    MADE = "made"
    FAILED = "failed"
    CLOSED = "closed"


# values


class Weights(Value):
    """What the objective counts, in minor units of the order's currency.

    objective = cost * cost_minor + lateness_minor * P(late) + carbon_minor_per_kg * kg of CO2e
    """

    cost: Annotated[float, Field(ge=0, le=1000)] = 1.0
    lateness_minor: Annotated[int, Field(ge=0, le=10**9)] = 2000
    carbon_minor_per_kg: Annotated[int, Field(ge=0, le=10**9)] = 10


class Candidate(Value):
    """One option and what was computed of it.

    ``features``: base64 of little-endian float32 values in the order of the model's schema.
    ``lineage``: for each feature table, the last log position that its values come from.
    ``rejected``: codes of the hard constraints that it breaks; empty where it was allowed.
    """

    option: dict[str, str]
    features: str
    lineage: dict[str, int]
    margin: float
    probability: float
    cost_minor: int
    carbon_g: int
    objective: float
    rejected: tuple[str, ...]


class Reason(Value):
    """Why, in a sentence: a feature's push on the score, or a broken constraint."""

    code: str
    sentence: str
    feature: str | None = None
    value: float | None = None
    contribution: float | None = None


class RunnerUp(Value):
    """The next best option and what it lacked."""

    candidate: int
    sentence: str


# commands


class RequestDecision(Command):
    """Ask for a decision on a subject."""

    decision_id: Id
    kind: Id = "fulfilment"
    subject_id: Id
    weights: Weights = Weights()
    requested_at: UtcTime


class RecordOutcome(Command):
    """Say how a decision turned out. ``followed``: what was decided is what was done."""

    decision_id: Id
    late: bool | None
    followed: bool
    known_at: UtcTime | None


# events


class DecisionRequested(Event):
    """Somebody asked for a decision."""

    decision_id: str
    kind: str
    subject_id: str
    weights: Weights
    requested_at: datetime


class DecisionMade(Event):
    """A model scored the candidates and the best allowed one was chosen (None: none allowed).

    ``probability``: P(late) of the chosen candidate. ``confidence``: the probability that the
    model gives to its own statement about it, max(p, 1 - p); not calibrated.
    """

    decision_id: str
    kind: str
    subject_id: str
    as_of: int
    model_hash: str
    schema_hash: str
    libraries: dict[str, str]
    weights: Weights
    candidates: tuple[Candidate, ...]
    chosen: int | None
    option: dict[str, str]
    probability: float | None
    confidence: float | None


class DecisionExplained(Event):
    """Why. ``contributions``: for each candidate, base64 of little-endian float32 SHAP values in
    log odds, one for each feature and the base value last."""

    decision_id: str
    kind: str
    subject_id: str
    contributions: tuple[str, ...]
    summary: str
    reasons: tuple[Reason, ...]
    rejections: tuple[Reason, ...]
    runner_up: RunnerUp | None


class DecisionFailed(Event):
    """A decision could not be made."""

    decision_id: str
    kind: str
    subject_id: str
    code: str
    detail: str


class DecisionOutcomeRecorded(Event):
    """How the decided case turned out."""

    decision_id: str
    kind: str
    subject_id: str
    probability: float | None
    late: bool | None
    followed: bool
    known_at: datetime | None


class RecordDecision(Command):
    """Put a made decision and its explanation on the log."""

    made: DecisionMade
    explained: DecisionExplained


class FailDecision(Command):
    """Say that a decision cannot be made, and why."""

    decision_id: Id
    code: Words
    detail: Words


EVENTS = (
    DecisionRequested,
    DecisionMade,
    DecisionExplained,
    DecisionFailed,
    DecisionOutcomeRecorded,
)

#: The stream that an event belongs to, by its fields.
STREAM = "decisions/{decision_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    DecisionRequested: "Decision {decision_id} ({kind}) was requested for {subject_id}",
    DecisionMade: "Decision {decision_id} for {subject_id} was made by model {model_hash} "
    "with confidence {confidence}",
    DecisionExplained: "Decision {decision_id} was explained: {summary}",
    DecisionFailed: "Decision {decision_id} for {subject_id} failed: {detail}",
    DecisionOutcomeRecorded: "Decision {decision_id} for {subject_id} turned out late: {late}, "
    "followed: {followed}",
}

# state


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules need to know of a decision."""

    decision_id: str = ""
    kind: str = ""
    subject_id: str = ""
    stage: Stage = Stage.UNKNOWN
    probability: float | None = None


def evolve(decision: Decision, event: Event) -> Decision:
    """The decision after one more of its events."""
    match event:
        case DecisionRequested():
            return Decision(event.decision_id, event.kind, event.subject_id, stage=Stage.REQUESTED)
        case DecisionMade():
            return replace(decision, stage=Stage.MADE, probability=event.probability)
        case DecisionFailed():
            return replace(decision, stage=Stage.FAILED)
        case DecisionOutcomeRecorded():
            return replace(decision, stage=Stage.CLOSED)
    return decision


DECISIONS = Decider(initial=Decision(), evolve=evolve)

# decisions about decisions


def request(decision: Decision, command: RequestDecision) -> Sequence[Event]:
    """Ask once under one identifier."""
    if decision.stage is not Stage.UNKNOWN:
        raise Refused("decision.already_requested", decision_id=command.decision_id)
    return [
        DecisionRequested(
            decision_id=command.decision_id,
            kind=command.kind,
            subject_id=command.subject_id,
            weights=command.weights,
            requested_at=command.requested_at,
        )
    ]


def record(decision: Decision, command: RecordDecision) -> Sequence[Event]:
    """Answer a request once, with a decision and an explanation of what was asked."""
    _must_be(decision, command.made.decision_id, Stage.REQUESTED)
    asked = (decision.decision_id, decision.kind, decision.subject_id)
    for answer in (command.made, command.explained):
        if (answer.decision_id, answer.kind, answer.subject_id) != asked:
            raise Refused(
                "decision.answers_another_request",
                decision_id=decision.decision_id,
                answered=answer.decision_id,
                subject_id=answer.subject_id,
            )
    return [command.made, command.explained]


def fail(decision: Decision, command: FailDecision) -> Sequence[Event]:
    """Answer a request with the reason why there is no decision."""
    _must_be(decision, command.decision_id, Stage.REQUESTED)
    return [
        DecisionFailed(
            decision_id=decision.decision_id,
            kind=decision.kind,
            subject_id=decision.subject_id,
            code=command.code,
            detail=command.detail,
        )
    ]


def record_outcome(decision: Decision, command: RecordOutcome) -> Sequence[Event]:
    """Close a made decision with what came of it."""
    _must_be(decision, command.decision_id, Stage.MADE)
    return [
        DecisionOutcomeRecorded(
            decision_id=decision.decision_id,
            kind=decision.kind,
            subject_id=decision.subject_id,
            probability=decision.probability,
            late=command.late,
            followed=command.followed,
            known_at=command.known_at,
        )
    ]


def _must_be(decision: Decision, decision_id: str, stage: Stage) -> None:
    if decision.stage is Stage.UNKNOWN:
        raise Refused("decision.unknown", decision_id=decision_id)
    if decision.stage is not stage:
        raise Refused(f"decision.not_{stage.value}", decision_id=decision_id, stage=decision.stage)
