"""Every event type by topic: the one way from events to stored bytes and back.

A topic is ``area.EventName.vN``; N is the schema version of the stored JSON. An event class may
have ancestors: ``UPCASTERS[(topic)]`` turns JSON of an older topic into that of the next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from domain import decisions, inventory, models, orders
from domain.values import Event

AREAS: Mapping[str, tuple[type[Event], ...]] = {
    "orders": orders.EVENTS,
    "inventory": inventory.EVENTS,
    "decisions": decisions.EVENTS,
    "models": models.EVENTS,
}

SENTENCES: Mapping[type[Event], str] = (
    orders.SENTENCES | inventory.SENTENCES | decisions.SENTENCES | models.SENTENCES
)

#: Schema version by event class; 1 where it is not named.
VERSIONS: Mapping[type[Event], int] = {}

#: From an older topic to (next topic, JSON object -> JSON object).
UPCASTERS: Mapping[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {}

TOPICS: Mapping[type[Event], str] = {
    event: f"{area}.{event.__name__}.v{VERSIONS.get(event, 1)}"
    for area, events in AREAS.items()
    for event in events
}
TYPES: Mapping[str, type[Event]] = {topic: event for event, topic in TOPICS.items()}


def area_of(topic: str) -> str:
    """The business area that a topic belongs to."""
    return topic.partition(".")[0]


def encode(event: Event) -> tuple[str, bytes]:
    """Topic and stored bytes of an event: compact JSON with fields in declared order."""
    return TOPICS[type(event)], event.__pydantic_serializer__.to_json(event)


def decode(topic: str, state: bytes) -> Event:
    """The event behind stored bytes, upcast to its present version.

    Raises:
        KeyError: the topic is not in the catalogue.
    """
    event = TYPES.get(topic)
    if event is not None:
        return event.model_validate_json(state)
    body = json.loads(state)
    while topic in UPCASTERS:
        topic, upcast = UPCASTERS[topic]
        body = upcast(body)
    return TYPES[topic].model_validate(body, strict=False)


def as_json(topic: str, state: bytes) -> Any:
    """The stored JSON of an event, upcast where its topic is an older one.

    Somebody else's topic (unknown to the catalogue) gives None: its bytes may be anything.
    """
    if topic in TYPES:
        return json.loads(state)
    if topic in UPCASTERS:
        return json.loads(encode(decode(topic, state))[1])
    return None
