"""The audit trail: every event as a line that a person reads, with who did it and why."""

from __future__ import annotations

from polars import lit

from domain.catalogue import AREAS, TOPICS
from projections.fold import first
from projections.sentences import sentence
from projections.table import Table

_EVENTS = tuple(TOPICS)
_AREA = {event: area for area, events in AREAS.items() for event in events}

AUDIT_TRAIL = Table(
    name="audit_trail",
    key=dict.fromkeys(_EVENTS, ("position",)),
    columns={
        "area": first({event: lit(_AREA[event]) for event in _EVENTS}),
        "what": first({event: lit(event.__name__) for event in _EVENTS}),
        "sentence": first({event: sentence(event) for event in _EVENTS}),
        "recorded_at": first(dict.fromkeys(_EVENTS, "recorded_at")),
        "actor": first(dict.fromkeys(_EVENTS, "actor")),
        "event_id": first(dict.fromkeys(_EVENTS, "event_id")),
        "correlation_id": first(dict.fromkeys(_EVENTS, "correlation_id")),
        "causation_id": first(dict.fromkeys(_EVENTS, "causation_id")),
        "stream_id": first(dict.fromkeys(_EVENTS, "stream_id")),
        "version": first(dict.fromkeys(_EVENTS, "version")),
    },
    indexes=(("stream_id", "position"), ("area", "position"), ("causation_id",)),
    every_event=True,
)

TABLES = (AUDIT_TRAIL,)
