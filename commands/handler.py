"""How a command finds its rule: declared once for each command, read by the bus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from domain.access import Role
from domain.decider import Decider
from domain.values import Command, Event
from eventstore.ids import named_id


def stream_id(organisation_id: UUID, stream: str) -> UUID:
    """The log's id of a stream such as ``orders/O-1``; two organisations never share one."""
    return named_id(organisation_id, stream)


@dataclass(frozen=True, slots=True)
class Read:
    """A stream that a rule looks at without appending to it."""

    stream: str
    decider: Decider[Any]


class Stream(NamedTuple):
    """A stream that a command is decided on."""

    id: UUID
    name: str
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

    def streams(self, organisation_id: UUID, command: Command) -> list[Stream]:
        """The stream that the command appends to, then those that it reads, each once."""
        name = self.stream(command)
        found = [Stream(stream_id(organisation_id, name), name, self.decider)]
        reads = self.reads(command)
        if reads:
            names = dict.fromkeys((name,))
            for read in reads:
                if read.stream not in names:
                    names[read.stream] = None
                    id_ = stream_id(organisation_id, read.stream)
                    found.append(Stream(id_, read.stream, read.decider))
        return found
