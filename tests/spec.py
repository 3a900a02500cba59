"""The three words of a specification: given events, when a command, then events or a refusal.

    given(placed, allocated).when(ShipOrder(...)).then(OrderShipped(...))
    given().reading(site_closed).when(PickStock(...)).refused("site.closed")

Runs the declared handlers on folded states; no database, no bus.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from domain.catalogue import TOPICS, area_of
from domain.errors import Refused
from domain.values import Command, Event
from ml.catalogue import HANDLERS

ACTOR = "ana"


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
            # As the bus: the own stream is not read a second time.
            states = [
                read.decider.fold(event for event in self.read if stream_of(event) == read.stream)
                for read in handler.reads(command)
                if read.stream != stream
            ]
            own = handler.decider.fold(self.own)
            return Outcome(events=tuple(handler.decide(command, actor, own, *states)))
        except Refused as refusal:
            return Outcome(refusal=refusal)


def given(*events: Event) -> Given:
    """What happened before, in the stream that the command is about."""
    return Given(events)


def stream_of(event: Any) -> str:
    """The stream that an event belongs to."""
    match area_of(TOPICS[type(event)]):
        case "orders":
            return f"orders/{event.order_id}"
        case "decisions":
            return f"decisions/{event.decision_id}"
        case "models":
            return f"models/{event.model_hash}"
        case "tasks":
            return f"tasks/{event.task_id}"
        case "policies":
            return f"policies/{event.kind}"
        case "webhooks":
            return f"webhooks/{event.webhook_id}"
        case "people":
            return f"people/{event.person}"
        case "api_keys":
            return f"api_keys/{event.key_id}"
        case "organisations":
            return "organisations/own"
        case "transport" if hasattr(event, "vehicle_id"):
            return f"vehicles/{event.vehicle_id}"
        case "transport":
            return f"routes/{event.site_id}/{event.region}"
    if hasattr(event, "sku"):
        return f"stock/{event.site_id}/{event.sku}"
    return f"sites/{event.site_id}"


def problems(kind: type[Command], /, **fields: Any) -> str:
    """What is wrong with a command's fields, in words; empty where nothing is."""
    try:
        kind(**fields)
    except ValueError as error:
        return str(error)
    return ""
