"""How a command finds its rule: declared once for each command, read by the bus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from domain.access import Role
from domain.decider import Decider
from domain.values import Command, Event


def stream_id(organisation_id: UUID, stream: str) -> UUID:
    """The log's id of a stream such as ``orders/O-1``; two organisations never share one."""
    return uuid5(organisation_id, stream)


@dataclass(frozen=True, slots=True)
class Read:
    """A stream that a rule looks at without appending to it."""

    stream: str
    decider: Decider[Any]


@dataclass(frozen=True, slots=True)
class Handler:
    """One command's permission, stream and rule.

    Attributes:
        command: the command's class; its name is the permission's name.
        roles: who may send it; nobody else may.
        stream: the stream that it decides on, from the command.
        decider: folds that stream.
        decide: ``(command, actor, state, *states of reads) -> events``.
        reads: further streams, whose versions must still hold when the events are appended.
        creates: the stream usually does not exist yet, so it is not read first.
    """

    command: type[Command]
    roles: frozenset[Role]
    stream: Callable[[Any], str]
    decider: Decider[Any]
    decide: Callable[..., Sequence[Event]]
    reads: Callable[[Any], Sequence[Read]] = lambda _: ()
    creates: bool = False
