"""Decisions: requested once, answered once, closed with what came of them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from domain.decisions import (
    DECISIONS,
    Candidate,
    DecisionConfirmed,
    DecisionContested,
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionNotRedecided,
    DecisionOutcomeRecorded,
    DecisionOverridden,
    DecisionReferred,
    DecisionRequested,
    DecisionShadowed,
    FailDecision,
    KeepDecision,
    Reason,
    RecordDecision,
    RecordOutcome,
    RequestDecision,
    RunnerUp,
    Stage,
    Weights,
)
from domain.orders import OrderCancelled, OrderLine, OrderPlaced
from domain.values import Command, Event
from ml.catalogue import KINDS
from tests.spec import given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WEIGHTS = Weights(cost=1.5, risk_minor=3000, carbon_minor_per_kg=20)

order_placed = OrderPlaced(
    order_id="O-1",
    customer_id="C-1",
    currency="EUR",
    lines=(OrderLine(line_no=1, sku="SKU-1", quantity=Decimal(1), unit_price_minor=100),),
    lines_known=True,
    units=Decimal(1),
    goods_minor=100,
    freight_minor=0,
    weight_g=None,
    region=None,
    placed_at=NOON,
    promised_at=NOON,
)
order_cancelled = OrderCancelled(
    order_id="O-1", site_id=None, currency="EUR", placed_at=NOON, cancelled_at=None, reason="x"
)

REQUEST = RequestDecision(decision_id="D-1", subject_id="O-1", weights=WEIGHTS, requested_at=NOON)
FAIL = FailDecision(decision_id="D-1", code="decision.no_champion", detail="no model is deployed")
KEEP = KeepDecision(
    decision_id="D-1", code="order.already_cancelled", detail="the order is cancelled"
)
OUTCOME = RecordOutcome(
    decision_id="D-1", occurred=True, followed=True, cost_minor=-250, known_at=NOON
)

requested = DecisionRequested(
    decision_id="D-1",
    kind="fulfilment",
    subject_id="O-1",
    weights=WEIGHTS,
    priority=5,
    deadline=None,
    redecides=None,
    requested_at=NOON,
)
made = DecisionMade(
    decision_id="D-1",
    kind="fulfilment",
    subject_id="O-1",
    as_of=41,
    role="champion",
    model_hash="a" * 64,
    schema_hash="b" * 64,
    code="c" * 64,
    libraries={"xgboost": "3.2.0"},
    weights=WEIGHTS,
    candidates=(
        Candidate(
            option={"site_id": "S-1", "service_level": "standard"},
            features="AAAAAA==",
            lineage={"orders": 40},
            margin=-1.25,
            probability=0.2227,
            risk=0.25,
            cost_minor=500,
            carbon_g=900,
            objective=1136.1,
            rejected=(),
        ),
    ),
    chosen=0,
    option={"site_id": "S-1", "service_level": "standard"},
    probability=0.2227,
    foretold=0.25,
    risk=0.125,
    confidence=0.75,
    value_minor=100,
    currency="EUR",
)
explained = DecisionExplained(
    decision_id="D-1",
    kind="fulfilment",
    subject_id="O-1",
    contributions=("AAAAAA==",),
    summary="S-1 by standard",
    reasons=(Reason(code="slack", sentence="much time is left", feature="slack", value=3.0),),
    rejections=(),
    runner_up=RunnerUp(candidate=0, sentence="there is no other"),
)
referred = DecisionReferred(
    decision_id="D-1",
    kind="fulfilment",
    subject_id="O-1",
    model_hash="a" * 64,
    approvals=1,
    reasons=(Reason(code="confidence.too_low", sentence="it is too low"),),
)
shadow = DecisionShadowed(
    decision_id="D-1",
    kind="fulfilment",
    subject_id="O-1",
    model_hash="d" * 64,
    margins="AAAAAA==",
    option={},
    risk=None,
    agrees=False,
)
confirmed = DecisionConfirmed(
    decision_id="D-1",
    kind="fulfilment",
    subject_id="O-1",
    model_hash="a" * 64,
    option=made.option,
    confirmed_by="ben",
    approvals_left=0,
    confirmed_at=NOON,
)
overridden = DecisionOverridden(
    decision_id="D-1",
    kind="fulfilment",
    subject_id="O-1",
    model_hash="a" * 64,
    decided=made.option,
    option={"site_id": "S-2"},
    reason="nearer",
    overridden_by="ben",
    first=True,
    approvals_left=0,
    overridden_at=NOON,
)
contested = DecisionContested(
    decision_id="D-1",
    kind="fulfilment",
    subject_id="O-1",
    reason="too dear",
    contested_by="ben",
    redecide=True,
    weights=WEIGHTS,
    priority=5,
    contested_at=NOON,
)
failed = DecisionFailed(
    decision_id="D-1",
    kind="fulfilment",
    subject_id="O-1",
    code="decision.no_champion",
    detail="no model is deployed",
)
closed = DecisionOutcomeRecorded(
    decision_id="D-1",
    kind="fulfilment",
    subject_id="O-1",
    model_hash="a" * 64,
    probability=0.2227,
    foretold=0.25,
    occurred=True,
    followed=True,
    cost_minor=-250,
    known_at=NOON,
)


def kept(stage: str) -> DecisionNotRedecided:
    return DecisionNotRedecided(
        decision_id="D-1",
        kind="fulfilment",
        subject_id="O-1",
        stage=stage,
        code="order.already_cancelled",
        detail="the order is cancelled",
    )


RECORD = RecordDecision(made=made, explained=explained)


# request


def test_a_decision_is_requested() -> None:
    given().reading(order_placed).when(REQUEST).then(requested)


@pytest.mark.parametrize(
    "history", [[requested], [requested, made, explained], [requested, failed]]
)
def test_a_decision_is_requested_once(history: list[Event]) -> None:
    given(*history).reading(order_placed).when(REQUEST).refused("decision.already_requested")


def test_a_decision_is_of_a_kind_that_is_known() -> None:
    odd = REQUEST.model_copy(update={"kind": "weather"})
    given().reading(order_placed).when(odd).refused("decision.unknown_kind", kind="weather")


def test_a_decision_needs_its_order() -> None:
    given().when(REQUEST).refused("order.unknown", order_id="O-1")


def test_a_decision_needs_an_open_order() -> None:
    given().reading(order_placed, order_cancelled).when(REQUEST).refused("order.already_cancelled")


def test_a_decision_on_request_has_the_kinds_own_weights_and_no_hurry() -> None:
    plain = RequestDecision(decision_id="D-1", subject_id="O-1", requested_at=NOON)
    usual = requested.model_copy(update={"weights": KINDS["fulfilment"].subject.weights})
    given().reading(order_placed).when(plain).then(usual)


def test_priority_deadline_and_what_is_decided_anew_are_kept() -> None:
    asked: dict[str, Any] = {"priority": 9, "deadline": NOON, "redecides": "D-0"}
    urgent = REQUEST.model_copy(update=asked)
    given().reading(order_placed).when(urgent).then(requested.model_copy(update=asked))


# answer


def test_a_decision_is_recorded_with_its_explanation() -> None:
    given(requested).when(RECORD).then(made, explained)


def test_shadows_stand_beside_the_decision_and_the_referral_is_the_last_word() -> None:
    shadowed = RECORD.model_copy(update={"referred": referred, "shadows": (shadow,)})
    given(requested).when(shadowed).then(made, explained, shadow, referred)


def test_a_decision_fails() -> None:
    given(requested).when(FAIL).then(failed)


@pytest.mark.parametrize("command", [RECORD, FAIL])
@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], "decision.unknown"),
        ([requested, made, explained], "decision.not_requested"),
        ([requested, failed], "decision.not_requested"),
        ([requested, made, explained, referred], "decision.not_requested"),
        ([requested, made, explained, contested], "decision.not_requested"),
        ([requested, made, explained, closed], "decision.not_requested"),
    ],
)
def test_a_request_is_answered_once(command: Command, history: list[Event], code: str) -> None:
    given(*history).when(command).refused(code, decision_id="D-1")


# outcome


def test_an_outcome_closes_a_decision_and_repeats_what_was_expected() -> None:
    given(requested, made, explained).when(OUTCOME).then(closed)


@pytest.mark.parametrize("event", [referred, confirmed, overridden, contested])
def test_what_people_did_with_a_decision_does_not_keep_its_outcome_away(event: Event) -> None:
    """The outcome repeats what was foretold of the model's own choice."""
    given(requested, made, explained, event).when(OUTCOME).then(closed)


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], "decision.unknown"),
        ([requested], "decision.not_made"),
        ([requested, failed], "decision.not_made"),
        ([requested, made, explained, closed], "decision.not_made"),
    ],
)
def test_only_a_made_decision_has_an_outcome(history: list[Event], code: str) -> None:
    given(*history).when(OUTCOME).refused(code, decision_id="D-1")


# contested, and not to be made anew


@pytest.mark.parametrize(
    ("before", "stage"),
    [
        ([made, explained], Stage.MADE),
        ([made, explained, referred], Stage.REFERRED),
        ([made, explained, referred, confirmed], Stage.CONFIRMED),
        ([made, explained, overridden], Stage.OVERRIDDEN),
        ([made, explained, closed], Stage.CLOSED),
        ([failed], Stage.FAILED),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_cannot_be_made_anew_stands_as_it_stood(before: list[Event], stage: str) -> None:
    given(requested, *before, contested).when(KEEP).then(kept(stage))
    history = (requested, *before, contested, kept(stage))
    assert DECISIONS.fold(history).stage == stage
    # It can be contested once more, and kept once more.
    given(*history).when(KEEP).refused("decision.not_contested", stage=stage)
    given(*history, contested).when(KEEP).then(kept(stage))


@pytest.mark.parametrize("before", [[made, explained, closed], [failed]], ids=["closed", "failed"])
def test_what_is_kept_closed_or_failed_has_no_outcome(before: list[Event]) -> None:
    stage = "failed" if before == [failed] else "closed"
    given(requested, *before, contested, kept(stage)).when(OUTCOME).refused("decision.not_made")


def test_what_is_kept_as_it_was_made_has_its_outcome() -> None:
    given(requested, made, explained, contested, kept("made")).when(OUTCOME).then(closed)


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], "decision.unknown"),
        ([requested], "decision.not_contested"),
        ([requested, made, explained], "decision.not_contested"),
        ([requested, made, explained, contested, closed], "decision.not_contested"),
    ],
)
def test_only_what_is_contested_is_kept(history: list[Event], code: str) -> None:
    given(*history).when(KEEP).refused(code, decision_id="D-1")


# what a command may hold


@pytest.mark.parametrize(
    ("kind", "fields", "field", "rule"),
    [
        (RequestDecision, {"weights": {"cost": -1}}, "weights.cost", "greater than or equal to 0"),
        (RequestDecision, {"weights": {"cost": float("nan")}}, "weights.cost", "finite number"),
        (RequestDecision, {"weights": {"speed": 1}}, "weights.speed", "Extra inputs"),
        (RequestDecision, {"requested_at": "2026-03-01T12:00:00"}, "requested_at", "timezone"),
        (RequestDecision, {"subject_id": ""}, "subject_id", "match pattern"),
        (RequestDecision, {"priority": 10}, "priority", "less than or equal to 9"),
        (RequestDecision, {"deadline": "2026-03-01T12:00:00"}, "deadline", "timezone"),
        (RequestDecision, {"redecides": "a b"}, "redecides", "match pattern"),
        (RequestDecision, {"weights": {"lateness_minor": 1}}, "lateness_minor", "Extra inputs"),
        (RequestDecision, {"kind": "a kind"}, "kind", "match pattern"),
        (FailDecision, {"code": "x", "detail": "a\0b"}, "detail", "U+0000"),
        (KeepDecision, {"code": "x", "detail": "a\0b"}, "detail", "U+0000"),
        (RecordOutcome, {"occurred": True, "followed": True}, "known_at", "Field required"),
        (RecordOutcome, {"followed": True, "known_at": None}, "occurred", "Field required"),
        (RecordOutcome, {"occurred": True, "known_at": None}, "followed", "Field required"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    kind: type[Command], fields: dict[str, Any], field: str, rule: str
) -> None:
    known = {"decision_id": "D-1"}
    if kind is RequestDecision:
        known |= {"subject_id": "O-1", "requested_at": "2026-03-01T12:00:00Z"}
    told = problems(kind, **(known | fields))
    assert field in told
    assert rule in told


def test_a_margin_that_is_no_number_is_not_recorded() -> None:
    candidate = made.candidates[0].model_dump() | {"margin": float("inf")}
    told = problems(
        RecordDecision,
        made=made.model_dump() | {"candidates": [candidate]},
        explained=explained.model_dump(),
    )
    assert "made.candidates.0.margin" in told
    assert "finite number" in told


@pytest.mark.parametrize(
    "command",
    [
        RECORD.model_copy(update={"made": made.model_copy(update={"subject_id": "O-9"})}),
        RECORD.model_copy(update={"made": made.model_copy(update={"kind": "other"})}),
        RECORD.model_copy(
            update={"explained": explained.model_copy(update={"decision_id": "D-9"})}
        ),
        RECORD.model_copy(update={"referred": referred.model_copy(update={"subject_id": "O-9"})}),
        RECORD.model_copy(
            update={"shadows": (shadow, shadow.model_copy(update={"kind": "other"}))}
        ),
    ],
)
def test_an_answer_to_another_request_is_not_recorded(command: RecordDecision) -> None:
    given(requested).when(command).refused("decision.answers_another_request")
