"""Reviews: what people do with a made decision. They confirm, override or contest it; the decision
as the model made it stays on the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from domain.access import KEY_ACTOR
from domain.decisions import (
    ANSWERED,
    Decision,
    DecisionConfirmed,
    DecisionContested,
    DecisionOverridden,
    Stage,
    Weights,
    must_be,
)
from domain.errors import Refused
from domain.values import Command, Event, Id, Text, UtcTime, Words


class ConfirmDecision(Command):
    """Agree with what a referred decision says now."""

    decision_id: Id
    confirmed_at: UtcTime


class OverrideDecision(Command):
    """Choose another of a decision's candidates, and say why."""

    decision_id: Id
    option: Annotated[dict[Id, Words], Field(min_length=1, max_length=10)]
    reason: Text
    overridden_at: UtcTime


class ContestDecision(Command):
    """Object to a decision. ``redecide``: have it decided anew, with other ``weights`` if given."""

    decision_id: Id
    reason: Text
    redecide: bool = True
    weights: Weights | None = None
    contested_at: UtcTime


def confirm(decision: Decision, command: ConfirmDecision, actor: str) -> Sequence[Event]:
    """One person's yes; each person has one."""
    must_be(decision, command.decision_id, Stage.REFERRED)
    if not decision.option:
        raise Refused("decision.nothing_to_confirm", decision_id=decision.decision_id)
    _must_be_person(decision, actor)
    if actor in decision.approved_by:
        raise Refused(
            "decision.needs_another_person", decision_id=decision.decision_id, actor=actor
        )
    return [
        DecisionConfirmed(
            decision_id=decision.decision_id,
            kind=decision.kind,
            subject_id=decision.subject_id,
            model_hash=decision.model_hash or "",
            option=dict(decision.option),
            confirmed_by=actor,
            approvals_left=max(decision.approvals - len(decision.approved_by) - 1, 0),
            confirmed_at=command.confirmed_at,
        )
    ]


def override(decision: Decision, command: OverrideDecision, actor: str) -> Sequence[Event]:
    """Choose another candidate, if it keeps the hard constraints. Where several people have to
    agree, the others confirm it."""
    must_be(decision, command.decision_id, *(ANSWERED - {Stage.CONTESTED}))
    _must_be_person(decision, actor)
    options = json.loads(decision.options)
    broken = next((codes for option, codes in options if option == command.option), None)
    asked = " ".join(f"{name}={value}" for name, value in command.option.items())
    if broken is None:
        raise Refused("decision.no_such_option", decision_id=decision.decision_id, option=asked)
    if broken:
        raise Refused(
            "decision.option_rejected",
            decision_id=decision.decision_id,
            option=asked,
            breaks=", ".join(broken),
        )
    if command.option == decision.option:
        raise Refused("decision.same_option", decision_id=decision.decision_id, option=asked)
    return [
        DecisionOverridden(
            decision_id=decision.decision_id,
            kind=decision.kind,
            subject_id=decision.subject_id,
            model_hash=decision.model_hash or "",
            decided=dict(decision.decided),
            option=dict(command.option),
            reason=command.reason,
            overridden_by=actor,
            first=not decision.overridden,
            approvals_left=max(decision.approvals - 1, 0),
            overridden_at=command.overridden_at,
        )
    ]


def contest(decision: Decision, command: ContestDecision, actor: str) -> Sequence[Event]:
    """Object, also to a failed or a closed decision; once, until another one answers."""
    if decision.stage is Stage.CONTESTED:
        raise Refused("decision.already_contested", decision_id=decision.decision_id)
    stages = (ANSWERED | {Stage.FAILED, Stage.CLOSED}) - {Stage.CONTESTED}
    must_be(decision, command.decision_id, *stages)
    return [
        DecisionContested(
            decision_id=decision.decision_id,
            kind=decision.kind,
            subject_id=decision.subject_id,
            reason=command.reason,
            contested_by=actor,
            redecide=command.redecide,
            weights=decision.weights if command.weights is None else command.weights,
            priority=decision.priority,
            contested_at=command.contested_at,
        )
    ]


def _must_be_person(decision: Decision, actor: str) -> None:
    """Where several people have to agree, a key is none of them: one of them may have issued it."""
    if decision.approvals > 1 and actor.startswith(KEY_ACTOR):
        raise Refused("decision.needs_a_person", decision_id=decision.decision_id, actor=actor)
