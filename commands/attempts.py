"""What the trail keeps of a command that was not taken: who, what, by which rule; not its body."""

from __future__ import annotations

from commands.context import Context, Forbidden, TooMuchContention
from commands.handler import Handler
from domain.errors import Refused
from domain.values import Command
from eventstore import CommandReused
from eventstore.attempts import Attempt, Outcome

#: Why a command was not taken.
NotTaken = Forbidden | Refused | CommandReused | TooMuchContention


def attempt_of(
    command: Command, context: Context, error: NotTaken, handler: Handler | None
) -> Attempt:
    """A command that was not taken; ``handler``: its own, where it has one."""
    result, code = _outcome(error)
    return Attempt(
        context.organisation_id,
        context.actor,
        context.roles,
        type(command).__name__,
        "" if handler is None else _stream(handler, command),
        result,
        code,
        context.correlation_id,
    )


def _outcome(error: NotTaken) -> tuple[Outcome, str]:
    match error:
        case Forbidden():
            return "denied", "forbidden"
        case Refused():
            return "refused", error.code
        case CommandReused():
            return "reused", "idempotency-key-reused"
        case TooMuchContention():
            return "conflict", "too-much-contention"


def _stream(handler: Handler, command: Command) -> str:
    """The stream that the command is about; empty where its own fields cannot say."""
    try:
        return handler.stream(command)
    except Refused:
        return ""
