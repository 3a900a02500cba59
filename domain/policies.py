"""Policies: for each kind of decision, when people take over, when to raise an alert, and the stop
switch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import Field

from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event, Id, Minor, Text, UtcTime

Share = Annotated[float, Field(ge=0, le=1)]


class SetPolicy(Command):
    """Say when people take over decisions of a kind, and when its models' figures raise an alert.

    ``minimum_confidence``: below it, one person decides. ``four_eyes_above_minor``: where more is
    at stake, two persons have to agree. ``max_psi``, ``max_ks``: drift of a feature or of the
    scores; ``max_calibration_error``: mean distance of foretold from observed risk;
    ``max_accuracy_drop``: against the test at training; ``max_override_rate``: of its decisions.
    """

    kind: Id
    minimum_confidence: Share = 0.0
    four_eyes_above_minor: Minor | None = None
    max_psi: Annotated[float, Field(gt=0, le=100)] = 0.25
    max_ks: Share = 0.25
    max_calibration_error: Share = 0.1
    max_accuracy_drop: Share = 0.1
    max_override_rate: Share = 0.3
    set_at: UtcTime


class StopKind(Command):
    """Stop all decisions of a kind; requests are answered with the reason."""

    kind: Id
    reason: Text
    stopped_at: UtcTime


class ResumeKind(Command):
    """Let a stopped kind decide again."""

    kind: Id
    resumed_at: UtcTime


class PolicySet(Event):
    """The policy of a kind, from this log position on."""

    kind: str
    minimum_confidence: float
    four_eyes_above_minor: int | None
    max_psi: float
    max_ks: float
    max_calibration_error: float
    max_accuracy_drop: float
    max_override_rate: float
    set_by: str
    set_at: datetime


class KindStopped(Event):
    """Decisions of a kind were stopped."""

    kind: str
    reason: str
    stopped_by: str
    stopped_at: datetime


class KindResumed(Event):
    """Decisions of a kind go on."""

    kind: str
    resumed_by: str
    resumed_at: datetime


EVENTS = (PolicySet, KindStopped, KindResumed)

#: The stream that an event belongs to, by its fields.
STREAM = "policies/{kind}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    PolicySet: "The policy of {kind} was set by {set_by}: people decide below a confidence of "
    "{minimum_confidence}, four eyes above {four_eyes_above_minor} minor units",
    KindStopped: "Decisions of {kind} were stopped by {stopped_by}: {reason}",
    KindResumed: "Decisions of {kind} go on, says {resumed_by}",
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the rules need to know of a kind's policy."""

    stopped: bool = False


def evolve(policy: Policy, event: Event) -> Policy:
    """The policy after one more of its events."""
    match event:
        case KindStopped():
            return Policy(stopped=True)
        case KindResumed():
            return Policy(stopped=False)
    return policy


POLICIES = Decider(initial=Policy(), evolve=evolve)


def set_policy(_: Policy, command: SetPolicy, actor: str) -> Sequence[Event]:
    """Replace a kind's policy as a whole."""
    return [PolicySet(**command.model_dump(), set_by=actor)]


def stop(policy: Policy, command: StopKind, actor: str) -> Sequence[Event]:
    """Pull the stop switch."""
    if policy.stopped:
        raise Refused("policy.already_stopped", kind=command.kind)
    return [
        KindStopped(
            kind=command.kind,
            reason=command.reason,
            stopped_by=actor,
            stopped_at=command.stopped_at,
        )
    ]


def resume(policy: Policy, command: ResumeKind, actor: str) -> Sequence[Event]:
    """Release the stop switch."""
    if not policy.stopped:
        raise Refused("policy.not_stopped", kind=command.kind)
    return [KindResumed(kind=command.kind, resumed_by=actor, resumed_at=command.resumed_at)]
