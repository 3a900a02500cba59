"""Decisions: which rule answers which command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from commands.handler import Handler, Read
from commands.orders import order_stream
from domain import decisions, orders
from domain.access import PLAN, SERVE
from domain.errors import Refused
from domain.values import Event

#: For each kind: the subject's stream, and the rule that says whether it can be decided on.
SUBJECTS: Mapping[str, tuple[Callable[[str], Read], Callable[[Any, str], None]]] = {
    "fulfilment": (
        lambda subject_id: Read(order_stream(subject_id), orders.ORDERS),
        orders.must_be_open,
    ),
}


def decision_stream(decision_id: str) -> str:
    """The stream of a decision."""
    return decisions.STREAM.format(decision_id=decision_id)


def _subject(command: decisions.RequestDecision) -> Sequence[Read]:
    if command.kind not in SUBJECTS:
        raise Refused("decision.unknown_kind", kind=command.kind, known=", ".join(SUBJECTS))
    return [SUBJECTS[command.kind][0](command.subject_id)]


def _request(
    command: decisions.RequestDecision, _: str, decision: decisions.Decision, subject: object
) -> Sequence[Event]:
    events = decisions.request(decision, command)
    SUBJECTS[command.kind][1](subject, command.subject_id)
    return events


HANDLERS = (
    Handler(
        command=decisions.RequestDecision,
        roles=PLAN,
        stream=lambda command: decision_stream(command.decision_id),
        decider=decisions.DECISIONS,
        decide=_request,
        reads=_subject,
        creates=True,
    ),
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
        command=decisions.RecordOutcome,
        roles=PLAN,
        stream=lambda command: decision_stream(command.decision_id),
        decider=decisions.DECISIONS,
        decide=lambda command, _, decision: decisions.record_outcome(decision, command),
    ),
)
