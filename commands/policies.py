"""Policies: which rule answers which command."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from commands.handler import Handler
from domain import policies
from domain.access import OPERATE, PLAN
from domain.errors import Refused


def policy_stream(kind: str) -> str:
    """The stream of a kind's policy."""
    return policies.STREAM.format(kind=kind)


def handlers(kinds: Collection[str]) -> tuple[Handler, ...]:
    """The handlers, for the kinds that there are: a misspelt kind must not seem stopped."""

    def stream(command: Any) -> str:
        if command.kind not in kinds:
            raise Refused(
                "decision.unknown_kind", kind=command.kind, known=", ".join(sorted(kinds))
            )
        return policy_stream(command.kind)

    rules: tuple[tuple[Any, frozenset[Any], Callable[..., Any]], ...] = (
        (policies.SetPolicy, OPERATE, policies.set_policy),
        (policies.StopKind, PLAN, policies.stop),
        (policies.ResumeKind, OPERATE, policies.resume),
    )
    return tuple(
        Handler(
            command=command,
            roles=roles,
            stream=stream,
            decider=policies.POLICIES,
            decide=lambda command, actor, policy, rule=rule: rule(policy, command, actor),
        )
        for command, roles, rule in rules
    )


#: Without any kind: ml.catalogue knows them.
HANDLERS = handlers(())
