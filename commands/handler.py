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
    """A stream that a rule looks at; ``appends``: and may append to, where its handler says that it
    appends to several."""

    stream: str
    decider: Decider[Any]
    appends: bool = False


class Stream(NamedTuple):
    """A stream that a command is decided on; ``appends``: its rule may append to it."""

    id: UUID
    name: str
    decider: Decider[Any]
    appends: bool = False


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
        several: its events go to the streams that they belong to (``domain.catalogue.stream_of``):
            its own and those of its reads that say ``appends``, all in one append or none. Its rule
            is asked ``(command, actor, state, states of reads by stream name)`` (docs/adr/0040).
        follows: for such a handler, further streams that only the own stream's state names.
    """

    command: type[Command]
    roles: frozenset[Role]
    stream: Callable[[Any], str]
    decider: Decider[Any]
    decide: Callable[..., Sequence[Event]]
    reads: Callable[[Any], Sequence[Read]] = lambda _: ()
    creates: bool = False
    several: bool = False
    follows: Callable[[Any, Any], Sequence[Read]] | None = None

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

    def own(self, organisation_id: UUID, command: Command) -> Stream:
        """The stream that the command is about."""
        name = self.stream(command)
        return Stream(stream_id(organisation_id, name), name, self.decider, True)

    def all_streams(self, organisation_id: UUID, command: Command, state: Any) -> list[Stream]:
        """Every stream of a command of ``several``, its own first, each once, where its own stream
        has this state. One that is named twice is appended to if either says so."""
        own = self.own(organisation_id, command)
        found = {own.name: own}
        reads = [*self.reads(command)]
        if self.follows is not None:
            reads += self.follows(command, state)
        for name, decider, appends in ((one.stream, one.decider, one.appends) for one in reads):
            known = found.get(name)
            if known is None:
                found[name] = Stream(stream_id(organisation_id, name), name, decider, appends)
            elif appends and not known.appends:
                found[name] = known._replace(appends=True)
        return list(found.values())
