"""The three words of a specification: given events, when a command, then events or a refusal.

    given(placed, allocated).when(ShipOrder(...)).then(OrderShipped(...))
    given().reading(site_closed).when(PickStock(...)).refused("site.closed")

Runs the declared handlers on folded states; no database, no bus.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from commands.handler import Handler
from domain.catalogue import stream_of as stream_of
from domain.errors import Refused
from domain.values import Command, Event, Value
from ml.catalogue import HANDLERS

ACTOR = "ana"
ORGANISATION = UUID(int=1)


@dataclass(frozen=True)
class Outcome:
    """What became of the command."""

    events: tuple[Event, ...] = ()
    refusal: Refused | None = None

    def then(self, *expected: Event) -> None:
        """It led to these events."""
        assert self.refusal is None, self.refusal
        assert self.events == expected

    def refused(self, code: str, **context: Any) -> None:
        """It was refused with this code, having looked at these values."""
        assert self.refusal is not None, f"was accepted: {self.events}"
        assert self.refusal.code == code
        assert {name: self.refusal.context.get(name) for name in context} == context


@dataclass(frozen=True)
class Given:
    """The events of the command's own stream, and those of streams that its rule only reads."""

    own: tuple[Event, ...]
    read: tuple[Event, ...] = ()

    def reading(self, *events: Event) -> Given:
        """What happened in the streams that the rule reads."""
        return replace(self, read=events)

    def when(self, command: Command, actor: str = ACTOR) -> Outcome:
        """The command is sent."""
        handler = HANDLERS[type(command)]
        try:
            stream = handler.stream(command)
            assert {stream_of(event) for event in self.own} <= {stream}
            own = handler.decider.fold(self.own)
            if handler.several:
                return Outcome(events=self._of_several(handler, command, actor, own))
            # As the bus: the own stream is not read a second time.
            states = [
                read.decider.fold(event for event in self.read if stream_of(event) == read.stream)
                for read in handler.reads(command)
                if read.stream != stream
            ]
            return Outcome(events=tuple(handler.decide(command, actor, own, *states)))
        except Refused as refusal:
            return Outcome(refusal=refusal)

    def _of_several(
        self, handler: Handler, command: Command, actor: str, own: Any
    ) -> tuple[Event, ...]:
        """What a rule of several streams answers; each event belongs to one of them."""
        streams = handler.all_streams(ORGANISATION, command, own)
        states = {
            stream.name: stream.decider.fold(
                event for event in (*self.own, *self.read) if stream_of(event) == stream.name
            )
            for stream in streams
        }
        events = tuple(handler.decide(command, actor, own, states))
        assert {stream_of(one) for one in events} <= {one.name for one in streams if one.appends}
        return events


def given(*events: Event) -> Given:
    """What happened before, in the stream that the command is about."""
    return Given(events)


def problems(kind: type[Value], /, **fields: Any) -> str:
    """What is wrong with the fields of a command or a value, in words; empty where nothing is."""
    try:
        kind(**fields)
    except ValueError as error:
        return str(error)
    return ""
