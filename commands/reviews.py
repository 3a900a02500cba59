"""Reviews: which rule answers which command."""

from __future__ import annotations

from commands.decisions import decision_stream
from commands.handler import Handler
from domain import reviews
from domain.access import PLAN
from domain.decisions import DECISIONS

HANDLERS = (
    Handler(
        command=reviews.ConfirmDecision,
        roles=PLAN,
        stream=lambda command: decision_stream(command.decision_id),
        decider=DECISIONS,
        decide=lambda command, actor, decision: reviews.confirm(decision, command, actor),
    ),
    Handler(
        command=reviews.OverrideDecision,
        roles=PLAN,
        stream=lambda command: decision_stream(command.decision_id),
        decider=DECISIONS,
        decide=lambda command, actor, decision: reviews.override(decision, command, actor),
    ),
    Handler(
        command=reviews.ContestDecision,
        roles=PLAN,
        stream=lambda command: decision_stream(command.decision_id),
        decider=DECISIONS,
        decide=lambda command, actor, decision: reviews.contest(decision, command, actor),
    ),
)
