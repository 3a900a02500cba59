"""Every event type by topic: the one way from events to stored bytes and back.

A topic is ``area.EventName.vN``; N is the schema version of the stored JSON. Bytes under an older
topic are upcast step by step to the present one. docs/events.md says how events change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from string import Formatter
from typing import Any

from domain import (
    alerts,
    api_keys,
    assignments,
    clients,
    decisions,
    forecasts,
    inventory,
    metrics,
    models,
    orders,
    organisations,
    people,
    policies,
    products,
    route_rules,
    routes,
    schedules,
    simulations,
    sites,
    stock_keeping,
    tariffs,
    tasks,
    tour_bookings,
    tour_plans,
    tours,
    transport,
    webhooks,
)
from domain.values import STORED, Event

#: A pure function from the JSON object of one topic to that of the next.
Step = Callable[[dict[str, Any]], dict[str, Any]]
#: From an older topic to (next topic, step).
Upcasters = Mapping[str, tuple[str, Step]]


class Catalogue:
    """Event classes under their topics, and how bytes of older topics become present ones.

    Args:
        areas: the event classes of each area.
        versions: schema version by event class; 1 where it is not named.
        upcasters: from each older topic one step towards a present one.

    Raises:
        TypeError: two classes have one topic, or a chain of upcasters does not end in an event.
    """

    __slots__ = ("_form", "_read", "topics", "types", "upcasters")

    def __init__(
        self,
        areas: Mapping[str, tuple[type[Event], ...]],
        versions: Mapping[type[Event], int],
        upcasters: Upcasters,
    ) -> None:
        pairs = [
            (event, f"{area}.{event.__name__}.v{versions.get(event, 1)}")
            for area, events in areas.items()
            for event in events
        ]
        self.topics: Mapping[type[Event], str] = dict(pairs)
        self.types: Mapping[str, type[Event]] = {topic: event for event, topic in pairs}
        self.upcasters = upcasters
        self._read = {
            topic: partial(event.__pydantic_validator__.validate_json, context=STORED)
            for topic, event in self.types.items()
        }
        self._form = re.compile(rf"({'|'.join(map(re.escape, areas))})\.[A-Za-z]\w*\.v\d+")
        if not len(pairs) == len(self.topics) == len(self.types):
            raise TypeError("each event class has one topic, and each topic one event class")
        for topic in upcasters:
            self._check(topic)

    def _check(self, older: str) -> None:
        chain = [older]
        if older in self.types:
            raise TypeError(f"{older} is a present topic: there is nothing to upcast it to")
        while (topic := chain[-1]) in self.upcasters:
            chain.append(self.upcasters[topic][0])
            if chain[-1] in chain[:-1]:
                raise TypeError(f"upcasters go round in a circle: {' -> '.join(chain)}")
        if topic not in self.types:
            raise TypeError(f"upcasters end in a topic without an event: {' -> '.join(chain)}")

    def type_of(self, topic: str) -> type[Event] | None:
        """The event class that a topic, present or older, is read as; None: somebody else's."""
        while (event := self.types.get(topic)) is None and topic in self.upcasters:
            topic = self.upcasters[topic][0]
        return event

    def is_newer(self, topic: str) -> bool:
        """Whether a topic is of the form of ours and yet not known: newer code wrote it. To pass
        over it as over somebody else's would lose it."""
        return self.type_of(topic) is None and self._form.fullmatch(topic) is not None

    def encode(self, event: Event) -> tuple[str, bytes]:
        """Topic and stored bytes of an event: compact JSON with fields in declared order."""
        return self.topics[type(event)], event.__pydantic_serializer__.to_json(event)

    def decode(self, topic: str, state: bytes) -> Event:
        """The event behind stored bytes, upcast to its present version.

        Raises:
            KeyError: the topic is not in the catalogue.
            ValueError: the bytes are no such event.
        """
        read = self._read.get(topic)
        if read is None:
            topic, state = self._upcast(topic, state)
            read = self._read[topic]
        event: Event = read(state)
        return event

    def present(self, topic: str, state: bytes) -> tuple[str, bytes]:
        """Present topic and bytes of what is stored: as it stands, unless its topic is an older
        one. Who reads stored JSON without `decode` reads this.

        Raises:
            KeyError: the topic is not in the catalogue.
            ValueError: the bytes under an older topic are no such event.
        """
        if topic in self.types:
            return topic, state
        return self.encode(self.decode(topic, state))

    def as_json(self, topic: str, state: bytes) -> Any:
        """The JSON of a stored event, upcast where its topic is an older one.

        Somebody else's topic (unknown to the catalogue) gives None: its bytes may be anything.
        """
        if self.type_of(topic) is None:
            return None
        return json.loads(self.present(topic, state)[1])

    def _upcast(self, topic: str, state: bytes) -> tuple[str, bytes]:
        """Present topic and JSON that the steps lead to; as bytes, so that it is read by the same
        rules as what was stored."""
        if topic not in self.upcasters:
            raise KeyError(topic)
        body = json.loads(state)
        while topic not in self.types:
            topic, step = self.upcasters[topic]
            body = step(body)
        return topic, json.dumps(body).encode()


AREAS: Mapping[str, tuple[type[Event], ...]] = {
    "orders": orders.EVENTS,
    "inventory": (*sites.EVENTS, *inventory.EVENTS, *stock_keeping.EVENTS),
    "decisions": decisions.EVENTS,
    "models": models.EVENTS,
    "transport": (*transport.EVENTS, *routes.EVENTS),
    "policies": policies.EVENTS,
    "tasks": tasks.EVENTS,
    "people": people.EVENTS,
    "webhooks": webhooks.EVENTS,
    "organisations": organisations.EVENTS,
    "api_keys": api_keys.EVENTS,
    "products": products.EVENTS,
    "clients": clients.EVENTS,
    "assignments": assignments.EVENTS,
    "route_rules": route_rules.EVENTS,
    "tours": (*tour_plans.EVENTS, *tours.EVENTS, *tour_bookings.EVENTS),
    "tariffs": tariffs.EVENTS,
    "forecasts": forecasts.EVENTS,
    "simulations": simulations.EVENTS,
    "metrics": metrics.EVENTS,
    "schedules": schedules.EVENTS,
    "alerts": alerts.EVENTS,
}

SENTENCES: Mapping[type[Event], str] = (
    orders.SENTENCES
    | sites.SENTENCES
    | inventory.SENTENCES
    | stock_keeping.SENTENCES
    | decisions.SENTENCES
    | models.SENTENCES
    | organisations.SENTENCES
    | api_keys.SENTENCES
    | people.SENTENCES
    | policies.SENTENCES
    | tasks.SENTENCES
    | transport.SENTENCES
    | routes.SENTENCES
    | webhooks.SENTENCES
    | products.SENTENCES
    | clients.SENTENCES
    | assignments.SENTENCES
    | route_rules.SENTENCES
    | tour_plans.SENTENCES
    | tours.SENTENCES
    | tour_bookings.SENTENCES
    | tariffs.SENTENCES
    | forecasts.SENTENCES
    | simulations.SENTENCES
    | metrics.SENTENCES
    | schedules.SENTENCES
    | alerts.SENTENCES
)

#: The stream of each event: a template over its fields.
STREAMS: Mapping[type[Event], str] = (
    orders.STREAMS
    | sites.STREAMS
    | inventory.STREAMS
    | stock_keeping.STREAMS
    | decisions.STREAMS
    | models.STREAMS
    | organisations.STREAMS
    | api_keys.STREAMS
    | people.STREAMS
    | policies.STREAMS
    | tasks.STREAMS
    | transport.STREAMS
    | routes.STREAMS
    | webhooks.STREAMS
    | products.STREAMS
    | clients.STREAMS
    | assignments.STREAMS
    | route_rules.STREAMS
    | tour_plans.STREAMS
    | tours.STREAMS
    | tour_bookings.STREAMS
    | tariffs.STREAMS
    | forecasts.STREAMS
    | simulations.STREAMS
    | metrics.STREAMS
    | schedules.STREAMS
    | alerts.STREAMS
)

#: Schema version by event class; 1 where it is not named.
VERSIONS: Mapping[type[Event], int] = {
    decisions.DecisionRequested: 2,
    decisions.DecisionMade: 2,
    decisions.DecisionOutcomeRecorded: 2,
    models.ModelDeployed: 2,
}

#: From an older topic to (next topic, step). Each step stands beside its event, in the area's file.
UPCASTERS: dict[str, tuple[str, Step]] = {
    "decisions.DecisionRequested.v1": (
        "decisions.DecisionRequested.v2",
        decisions.requested_v1_to_v2,
    ),
    "decisions.DecisionMade.v1": ("decisions.DecisionMade.v2", decisions.made_v1_to_v2),
    "decisions.DecisionOutcomeRecorded.v1": (
        "decisions.DecisionOutcomeRecorded.v2",
        decisions.outcome_v1_to_v2,
    ),
    "models.ModelDeployed.v1": ("models.ModelDeployed.v2", models.deployed_v1_to_v2),
}

CATALOGUE = Catalogue(AREAS, VERSIONS, UPCASTERS)
TOPICS = CATALOGUE.topics
TYPES = CATALOGUE.types
type_of = CATALOGUE.type_of
is_newer = CATALOGUE.is_newer
encode = CATALOGUE.encode
decode = CATALOGUE.decode
present = CATALOGUE.present
as_json = CATALOGUE.as_json


def fields_of_stream(template: str) -> tuple[str, ...]:
    """The fields that name a stream, in their order."""
    return tuple(name for _, name, _, _ in Formatter().parse(template) if name)


def stream_of(event: Event) -> str:
    """The name of the stream that an event belongs to."""
    return STREAMS[type(event)].format_map(event.__dict__)


def area_of(topic: str) -> str:
    """The business area that a topic belongs to."""
    return topic.partition(".")[0]
