"""Decisions: which rule answers which command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commands.handler import Handler, Read
from domain import decisions
from domain.access import PLAN, SERVE
from domain.decisions import USUAL_WEIGHTS, Weights
from domain.errors import Refused
from domain.values import Event


@dataclass(frozen=True, slots=True)
class Subject:
    """What a kind of decision is about.

    Attributes:
        reads: the streams that say whether it can be decided on, from the subject's id.
        rule: refuses what cannot be: ``(subject_id, *states of reads)``.
        weights: the kind's own weights, where a request names none.
    """

    reads: Callable[[str], Sequence[Read]]
    rule: Callable[..., None]
    weights: Weights = USUAL_WEIGHTS


def decision_stream(decision_id: str) -> str:
    """The stream of a decision."""
    return decisions.STREAM.format(decision_id=decision_id)


def request_handler(subjects: Mapping[str, Subject]) -> Handler:
    """The handler of requests, for the kinds that there are."""

    def subject_of(command: decisions.RequestDecision) -> Subject:
        if command.kind not in subjects:
            raise Refused(
                "decision.unknown_kind", kind=command.kind, known=", ".join(sorted(subjects))
            )
        return subjects[command.kind]

    def decide(
        command: decisions.RequestDecision, _: str, decision: decisions.Decision, *states: Any
    ) -> Sequence[Event]:
        subject = subject_of(command)
        events = decisions.request(decision, command, subject.weights)
        subject.rule(command.subject_id, *states)
        return events

    return Handler(
        command=decisions.RequestDecision,
        roles=PLAN,
        stream=lambda command: decision_stream(command.decision_id),
        decider=decisions.DECISIONS,
        decide=decide,
        reads=lambda command: subject_of(command).reads(command.subject_id),
        creates=True,
    )


#: Without a kind that could be asked for: ml.catalogue knows them.
HANDLERS = (
    request_handler({}),
    Handler(
        command=decisions.RecordDecision,
        roles=SERVE,
        stream=lambda command: decision_stream(command.made.decision_id),
        decider=decisions.DECISIONS,
        decide=lambda command, _, decision: decisions.record(decision, command),
    ),
    Handler(
        command=decisions.FailDecision,
        roles=SERVE,
        stream=lambda command: decision_stream(command.decision_id),
        decider=decisions.DECISIONS,
        decide=lambda command, _, decision: decisions.fail(decision, command),
    ),
    Handler(
        command=decisions.KeepDecision,
        roles=SERVE,
        stream=lambda command: decision_stream(command.decision_id),
        decider=decisions.DECISIONS,
        decide=lambda command, _, decision: decisions.keep(decision, command),
    ),
    Handler(
        command=decisions.RecordOutcome,
        roles=PLAN,
        stream=lambda command: decision_stream(command.decision_id),
        decider=decisions.DECISIONS,
        decide=lambda command, _, decision: decisions.record_outcome(decision, command),
    ),
)
