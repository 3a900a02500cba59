"""Decisions: requested, made and explained or failed, reviewed by people, and how they turned out.

What a replay needs is in the events: the model's hash, the features' bytes, margins, library
versions, weights and the declaration's hash. ``as_of`` is the log position of the request: a
decision sees the log up to there and nothing after it. What people do with a made decision is in
domain/reviews.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event, Id, SubjectId, UtcTime, Value, Words


class Stage(StrEnum):
    """Where a decision stands.

    MADE: it stands as the model made it. REFERRED: it waits for people, who confirm or override it.
    CONTESTED: somebody objects; another decision may answer that.
    """

    UNKNOWN = "unknown"
    REQUESTED = "requested"
    MADE = "made"
    REFERRED = "referred"
    CONFIRMED = "confirmed"
    OVERRIDDEN = "overridden"
    CONTESTED = "contested"
    FAILED = "failed"
    CLOSED = "closed"


#: The role of a decision that no model made: the kind's documented rule did.
RULE_BASED = "rule_based"

#: An answer is there, and no outcome yet.
ANSWERED = frozenset(
    {Stage.MADE, Stage.REFERRED, Stage.CONFIRMED, Stage.OVERRIDDEN, Stage.CONTESTED}
)


# values


class Weights(Value):
    """What the objective counts, in minor units of the subject's currency.

    objective = cost * cost_minor + risk_minor * risk + carbon_minor_per_kg * kg of CO2e

    ``risk_minor``: what it costs when what the model warns of comes true (an order is late, stock
    runs out, an unusual case passes unseen).
    """

    cost: Annotated[float, Field(ge=0, le=1000)] = 1.0
    risk_minor: Annotated[int, Field(ge=0, le=10**9)] = 2000
    carbon_minor_per_kg: Annotated[int, Field(ge=0, le=10**9)] = 10


USUAL_WEIGHTS = Weights()


class Candidate(Value):
    """One option and what was computed of it.

    ``features``: base64 of little-endian float32 values in the order of the model's schema.
    ``lineage``: for each feature table, the last log position that its values come from.
    ``probability``: as the model says it. ``risk``: the calibrated one, times the share of it that
    this option bears. ``rejected``: codes of the hard constraints that it breaks; empty where it
    was allowed.
    """

    option: dict[str, str]
    features: str
    lineage: dict[str, int]
    margin: float
    probability: float
    risk: float
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
    """Ask for a decision on a subject.

    ``weights``: the kind's own where left out. ``priority``: 9 first. ``deadline``: too late after
    it, then the answer is that there is none. ``redecides``: the contested decision that this one
    answers.
    """

    decision_id: Id
    kind: Id = "fulfilment"
    subject_id: SubjectId
    weights: Weights | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    deadline: UtcTime | None = None
    redecides: Id | None = None
    requested_at: UtcTime


class RecordOutcome(Command):
    """Say how a decision turned out.

    ``occurred``: what the model warned of came true (None: it cannot be known any more).
    ``followed``: what was decided is what was done. ``cost_minor``: what it came to cost.
    """

    decision_id: Id
    occurred: bool | None
    followed: bool
    cost_minor: Annotated[int, Field(ge=-(10**15), le=10**15)] | None = None
    known_at: UtcTime | None


# events


class DecisionRequested(Event):
    """Somebody asked for a decision."""

    decision_id: str
    kind: str
    subject_id: str
    weights: Weights
    priority: int
    deadline: datetime | None
    redecides: str | None
    requested_at: datetime


class DecisionMade(Event):
    """A model scored the candidates and the best allowed one was chosen (None: none allowed).

    ``role``: champion or challenger; ``rule_based`` where no model was deployed and the kind's rule
    scored them, then ``model_hash`` is that of the rule's declaration. ``code``: hash of the kind's
    declaration. Of the chosen candidate: ``probability``; ``foretold``, the calibrated probability
    (isotonic) that what the model warns of comes true; ``risk``, the share of that which the option
    bears. ``confidence``: that the model's statement comes true, max(foretold, 1 - foretold).
    ``value_minor``: what is at stake, None: not known. ``currency``: of all amounts.
    """

    decision_id: str
    kind: str
    subject_id: str
    as_of: int
    role: str
    model_hash: str
    schema_hash: str
    code: str
    libraries: dict[str, str]
    weights: Weights
    candidates: tuple[Candidate, ...]
    chosen: int | None
    option: dict[str, str]
    probability: float | None
    foretold: float | None
    risk: float | None
    confidence: float | None
    value_minor: int | None
    currency: str | None


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


class DecisionReferred(Event):
    """The decision is for people to take: so many of them have to agree."""

    decision_id: str
    kind: str
    subject_id: str
    model_hash: str
    approvals: int
    reasons: tuple[Reason, ...]


class DecisionShadowed(Event):
    """What another model would have chosen; it never acts. ``margins``: base64 of little-endian
    float32 values, one for each candidate of the decision."""

    decision_id: str
    kind: str
    subject_id: str
    model_hash: str
    margins: str
    option: dict[str, str]
    risk: float | None
    agrees: bool


class DecisionFailed(Event):
    """A decision could not be made."""

    decision_id: str
    kind: str
    subject_id: str
    code: str
    detail: str


class DecisionConfirmed(Event):
    """A person agrees with what the decision says now; ``approvals_left``: so many more must."""

    decision_id: str
    kind: str
    subject_id: str
    model_hash: str
    option: dict[str, str]
    confirmed_by: str
    approvals_left: int
    confirmed_at: datetime


class DecisionOverridden(Event):
    """A person chose another option than the model, which is still there as ``decided``.
    ``first``: nobody had overridden it before."""

    decision_id: str
    kind: str
    subject_id: str
    model_hash: str
    decided: dict[str, str]
    option: dict[str, str]
    reason: str
    overridden_by: str
    first: bool
    approvals_left: int
    overridden_at: datetime


class DecisionContested(Event):
    """Somebody objects to a decision. ``redecide``: it is to be decided anew, with ``weights``
    where they are given."""

    decision_id: str
    kind: str
    subject_id: str
    reason: str
    contested_by: str
    redecide: bool
    weights: Weights
    priority: int
    contested_at: datetime


class DecisionNotRedecided(Event):
    """A contested decision could not be made anew: it stands as it did, at ``stage``."""

    decision_id: str
    kind: str
    subject_id: str
    stage: str
    code: str
    detail: str


class DecisionOutcomeRecorded(Event):
    """How the decided case turned out. ``probability`` and ``foretold``: of what the model warned
    of. ``followed``: what the model chose is what was done."""

    decision_id: str
    kind: str
    subject_id: str
    model_hash: str | None
    probability: float | None
    foretold: float | None
    occurred: bool | None
    followed: bool
    cost_minor: int | None
    known_at: datetime | None


class RecordDecision(Command):
    """Put a made decision, its explanation, and what goes with it, on the log."""

    made: DecisionMade
    explained: DecisionExplained
    referred: DecisionReferred | None = None
    shadows: tuple[DecisionShadowed, ...] = ()


class FailDecision(Command):
    """Say that a decision cannot be made, and why."""

    decision_id: Id
    code: Words
    detail: Words


class KeepDecision(Command):
    """Say that a contested decision cannot be made anew, and why."""

    decision_id: Id
    code: Words
    detail: Words


EVENTS = (
    DecisionRequested,
    DecisionMade,
    DecisionExplained,
    DecisionReferred,
    DecisionShadowed,
    DecisionFailed,
    DecisionConfirmed,
    DecisionOverridden,
    DecisionContested,
    DecisionNotRedecided,
    DecisionOutcomeRecorded,
)

#: The stream that an event belongs to, by its fields.
STREAM = "decisions/{decision_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    DecisionRequested: "Decision {decision_id} ({kind}) was requested for {subject_id}",
    DecisionMade: "Decision {decision_id} for {subject_id} was made by the {role} {model_hash} "
    "with confidence {confidence}",
    DecisionExplained: "Decision {decision_id} was explained: {summary}",
    DecisionReferred: "Decision {decision_id} was referred to people: {approvals} must agree",
    DecisionShadowed: "Decision {decision_id} was shadowed by model {model_hash} "
    "(the same choice: {agrees})",
    DecisionFailed: "Decision {decision_id} for {subject_id} failed: {detail}",
    DecisionConfirmed: "Decision {decision_id} was confirmed by {confirmed_by}",
    DecisionOverridden: "Decision {decision_id} was overridden by {overridden_by}: {reason}",
    DecisionContested: "Decision {decision_id} was contested by {contested_by}: {reason}",
    DecisionNotRedecided: "Decision {decision_id} could not be made anew and stands: {detail}",
    DecisionOutcomeRecorded: "Decision {decision_id} for {subject_id} turned out as warned: "
    "{occurred}, followed: {followed}",
}

# older forms


def _weights_v2(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "cost": weights.get("cost", 1.0),
        "risk_minor": weights.get("lateness_minor", 2000),
        "carbon_minor_per_kg": weights.get("carbon_minor_per_kg", 10),
    }


def requested_v1_to_v2(body: dict[str, Any]) -> dict[str, Any]:
    """v2 calls the weight of the risk by that name, and has priority and deadline."""
    new = {"priority": 5, "deadline": None, "redecides": None}
    return {**body, "weights": _weights_v2(body["weights"]), **new}


def made_v1_to_v2(body: dict[str, Any]) -> dict[str, Any]:
    """v2 tells calibrated risk from the model's probability; v1 had no calibration."""
    candidates = [{**one, "risk": one["probability"]} for one in body["candidates"]]
    said = body["probability"]
    new = {"role": "champion", "code": "", "foretold": said, "risk": said}
    new |= {"value_minor": None, "currency": None}
    weights = _weights_v2(body["weights"])
    return {**body, "weights": weights, "candidates": candidates, **new}


def outcome_v1_to_v2(body: dict[str, Any]) -> dict[str, Any]:
    """v2 speaks of what the model warned of, not of lateness alone."""
    kept = {name: value for name, value in body.items() if name != "late"}
    new = {"model_hash": None, "foretold": body["probability"], "cost_minor": None}
    return {**kept, "occurred": body["late"], **new}


# state


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules need to know of a decision.

    ``options``: each candidate's option with the constraints that it breaks, as JSON: states are
    kept in memory, and most are never asked for them. ``option``: what holds now. ``approvals``:
    how many people have to agree; ``approved_by``: who has. ``awaits_outcome``: it was made, and
    nothing is known of its outcome. ``contested_at``: the stage from which it was contested.
    """

    decision_id: str = ""
    kind: str = ""
    subject_id: str = ""
    stage: Stage = Stage.UNKNOWN
    weights: Weights = USUAL_WEIGHTS
    priority: int = 5
    model_hash: str | None = None
    probability: float | None = None
    foretold: float | None = None
    decided: Mapping[str, str] = field(default_factory=dict)
    option: Mapping[str, str] = field(default_factory=dict)
    options: bytes = b"[]"
    approvals: int = 0
    approved_by: tuple[str, ...] = ()
    overridden: bool = False
    awaits_outcome: bool = False
    contested_at: Stage = Stage.UNKNOWN


def evolve(decision: Decision, event: Event) -> Decision:
    """The decision after one more of its events."""
    match event:
        case DecisionRequested():
            return Decision(
                event.decision_id,
                event.kind,
                event.subject_id,
                stage=Stage.REQUESTED,
                weights=event.weights,
                priority=event.priority,
            )
        case DecisionMade():
            return replace(
                decision,
                stage=Stage.MADE,
                model_hash=event.model_hash,
                probability=event.probability,
                foretold=event.foretold,
                decided=event.option,
                option=event.option,
                options=json.dumps(
                    [(one.option, one.rejected) for one in event.candidates]
                ).encode(),
                awaits_outcome=True,
            )
        case DecisionReferred():
            return replace(decision, stage=Stage.REFERRED, approvals=event.approvals)
        case DecisionFailed():
            return replace(decision, stage=Stage.FAILED)
        case DecisionConfirmed():
            return _agreed(decision, event.confirmed_by, event.approvals_left)
        case DecisionOverridden():
            other = replace(decision, option=event.option, approved_by=(), overridden=True)
            return _agreed(other, event.overridden_by, event.approvals_left)
        case DecisionContested():
            return replace(decision, stage=Stage.CONTESTED, contested_at=decision.stage)
        case DecisionNotRedecided():
            return replace(decision, stage=Stage(event.stage))
        case DecisionOutcomeRecorded():
            return replace(decision, stage=Stage.CLOSED, awaits_outcome=False)
    return decision


def _agreed(decision: Decision, person: str, left: int) -> Decision:
    settled = Stage.CONFIRMED if decision.option == decision.decided else Stage.OVERRIDDEN
    return replace(
        decision,
        stage=Stage.REFERRED if left else settled,
        approved_by=(*decision.approved_by, person),
    )


DECISIONS = Decider(initial=Decision(), evolve=evolve)

# decisions about decisions


def request(decision: Decision, command: RequestDecision, usual: Weights) -> Sequence[Event]:
    """Ask once under one identifier; ``usual``: the kind's weights."""
    if decision.stage is not Stage.UNKNOWN:
        raise Refused("decision.already_requested", decision_id=command.decision_id)
    return [
        DecisionRequested(
            decision_id=command.decision_id,
            kind=command.kind,
            subject_id=command.subject_id,
            weights=usual if command.weights is None else command.weights,
            priority=command.priority,
            deadline=command.deadline,
            redecides=command.redecides,
            requested_at=command.requested_at,
        )
    ]


def record(decision: Decision, command: RecordDecision) -> Sequence[Event]:
    """Answer a request once, with a decision and an explanation of what was asked."""
    must_be(decision, command.made.decision_id, Stage.REQUESTED)
    asked = (decision.decision_id, decision.kind, decision.subject_id)
    referred = () if command.referred is None else (command.referred,)
    events = (command.made, command.explained, *command.shadows, *referred)
    for answer in events:
        if (answer.decision_id, answer.kind, answer.subject_id) != asked:
            raise Refused(
                "decision.answers_another_request",
                decision_id=decision.decision_id,
                answered=answer.decision_id,
                subject_id=answer.subject_id,
            )
    return events


def fail(decision: Decision, command: FailDecision) -> Sequence[Event]:
    """Answer a request with the reason why there is no decision."""
    must_be(decision, command.decision_id, Stage.REQUESTED)
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
    """Close an answered decision with what came of it."""
    must_be(decision, command.decision_id, *ANSWERED)
    if not decision.awaits_outcome:
        stage = decision.contested_at
        raise Refused("decision.not_made", decision_id=decision.decision_id, stage=stage)
    return [
        DecisionOutcomeRecorded(
            decision_id=decision.decision_id,
            kind=decision.kind,
            subject_id=decision.subject_id,
            model_hash=decision.model_hash,
            probability=decision.probability,
            foretold=decision.foretold,
            occurred=command.occurred,
            followed=command.followed,
            cost_minor=command.cost_minor,
            known_at=command.known_at,
        )
    ]


def keep(decision: Decision, command: KeepDecision) -> Sequence[Event]:
    """Let a contested decision stand that cannot be made anew."""
    must_be(decision, command.decision_id, Stage.CONTESTED)
    return [
        DecisionNotRedecided(
            decision_id=decision.decision_id,
            kind=decision.kind,
            subject_id=decision.subject_id,
            stage=decision.contested_at,
            code=command.code,
            detail=command.detail,
        )
    ]


def must_not_wait(decision: Decision) -> None:
    """Refuse to act on a decision that people have not taken yet."""
    if decision.stage in (Stage.REFERRED, Stage.CONTESTED):
        raise Refused(
            "decision.waits_for_people", decision_id=decision.decision_id, stage=decision.stage
        )


def must_be(decision: Decision, decision_id: str, *stages: Stage) -> None:
    """Refuse what needs a decision in one of some stages."""
    if decision.stage is Stage.UNKNOWN:
        raise Refused("decision.unknown", decision_id=decision_id)
    if decision.stage not in stages:
        wanted = stages[0] if len(stages) == 1 else Stage.MADE
        raise Refused(f"decision.not_{wanted.value}", decision_id=decision_id, stage=decision.stage)
