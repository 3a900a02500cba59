"""Examples of the messages in the AsyncAPI document: headers made by the code that makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from api.commands import Post, path_fields
from commands import stream_id
from domain.catalogue import STREAMS, fields_of_stream, type_of
from eventstore.kafka.records import record_of
from eventstore.stored import StoredEvent

#: By topic: payloads as they stood in a log.
_EVENTS = Path(__file__).with_name("examples.json")
_ORGANISATION = UUID("7b0f3c1e-5a52-4c39-9a0e-6f1b7a520c35")
_ID = UUID("0199f3a4-6c1d-7c44-b0a7-3d0f8a5be911")
_TRACE = UUID("4bf92f3577b34da6a3ce929d0e0e4736")
_EPOCH = b"5d1c7a90-2f5e-4d7b-8f64-0a6a4f0f1c22"
_FIELDS: Mapping[str, str] = {
    "order_id": "O-1",
    "site_id": "S-AMS",
    "sku": "SKU-001",
    "vehicle_id": "V-AMS-VAN",
    "assignment_id": "A-1",
    "client_id": "C-1",
    "shipment_id": "P-1",
    "rule_id": "LEZ",
    "plan_id": "TP-1",
    "tour_id": "TP-1.1",
    "mode": "van",
    "fuel": "diesel",
    "scenario_id": "surge-in-spring",
    "metric_id": "M-1",
    "decision_id": "D-1",
    "task_id": "T-1",
    "kind": "fulfilment",
    "model_hash": "0" * 64,
    "member": "local:6f1b7a52-0c35-4c1e-9d57-0d4a5a3c8f11",
    "invitation_id": "I-1",
    "key_id": "K-1",
    "webhook_id": "W-1",
    "schedule_id": "nightly-training",
    "retry_of": "T-1",
    "alert_id": "A-0f8fad5bd9cb469fa165708677289501",
    "alert_kind": "order_late",
    "reader": "local:6f1b7a52-0c35-4c1e-9d57-0d4a5a3c8f11",
    "subscriber": "local:6f1b7a52-0c35-4c1e-9d57-0d4a5a3c8f11",
}


def event(topic: str) -> dict[str, Any] | None:
    """An event's record as a message; None: there is no example of it."""
    payload = _events().get(topic)
    kind = type_of(topic)
    if payload is None or kind is None:
        return None
    named = {name: payload.get(name, "") for name in fields_of_stream(STREAMS[kind])}
    made = StoredEvent(
        position=1042,
        stream_id=stream_id(_ORGANISATION, STREAMS[kind].format(**named)),
        version=1,
        topic=topic,
        state=b"",
        event_id=_ID,
        organisation_id=_ORGANISATION,
        recorded_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        correlation_id=_TRACE,
        causation_id=None,
        actor="ada",
    )
    headers = record_of(made, 1040, _EPOCH).headers
    return {
        "name": topic,
        "headers": {name: text.decode() for name, text in headers},
        "payload": payload,
    }


def command(post: Post) -> dict[str, Any]:
    """A command as a message: the endpoint's example with the fields of its path."""
    name = post.command.__name__
    return {
        "name": name,
        "headers": {
            "ce_specversion": "1.0",
            "ce_id": "erp-4711",
            "ce_source": "/erp",
            "ce_type": name,
            "authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.e30.sig",
            "traceparent": f"00-{_TRACE.hex}-00f067aa0ba902b7-01",
        },
        "payload": {field: _FIELDS[field] for field in (*path_fields(post), *post.caller)}
        | dict(post.example),
    }


def reply(kind: str) -> dict[str, Any]:
    """A reply as a message."""
    payload = dict(_REPLIES[kind])
    return {
        "name": kind,
        "headers": {
            "ce_specversion": "1.0",
            "ce_id": "chainlytics.commands.v1-3-1042",
            "ce_source": f"/organisations/{_ORGANISATION}",
            "ce_type": kind,
            "ce_time": "2026-03-01T12:00:00.000000+00:00",
            "content-type": "application/problem+json"
            if "status" in payload
            else "application/json",
            "ce_correlationid": str(_TRACE),
            "ce_commandid": "erp-4711",
        },
        "payload": payload,
    }


_REPLIES: Mapping[str, Mapping[str, Any]] = {
    "CommandAccepted": {
        "stream": "orders/O-1",
        "id": "O-1",
        "version": 1,
        "position": 1042,
        "repeated": False,
    },
    "CommandRejected": {
        "type": "urn:chainlytics:problem:order.already_placed",
        "title": "Conflict",
        "status": 409,
        "detail": "order O-1 is already placed",
        "correlation_id": str(_TRACE),
        "context": {"order_id": "O-1", "status": "placed"},
    },
}


@cache
def _events() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(_EVENTS.read_text(encoding="utf-8"))
    return found
