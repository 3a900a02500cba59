"""Webhooks: where they go, what they are told, and whether they are paused."""

from __future__ import annotations

from polars import lit

from domain.webhooks import (
    EVENTS,
    WebhookChanged,
    WebhookPaused,
    WebhookRegistered,
    WebhookRemoved,
    WebhookResumed,
    WebhookSecretRotated,
)
from projections.fold import first, last
from projections.table import Table

WEBHOOK_LIST = Table(
    name="webhook_list",
    key=dict.fromkeys(EVENTS, ("webhook_id",)),
    columns={
        "version": last(dict.fromkeys(EVENTS, "version")),
        "url": last({WebhookRegistered: "url", WebhookChanged: "url"}),
        "told": last({WebhookRegistered: "state", WebhookChanged: "state"}, json=True),
        "registered_by": first({WebhookRegistered: "registered_by"}),
        "registered_at": first({WebhookRegistered: "registered_at"}),
        "paused": last({WebhookPaused: lit(True), WebhookResumed: lit(False)}),
        "paused_by": last({WebhookPaused: "paused_by"}),
        "paused_reason": last({WebhookPaused: "reason"}),
        "paused_at": last({WebhookPaused: "paused_at"}),
        "rotated_at": last({WebhookSecretRotated: "rotated_at"}),
        "former_until": last({WebhookSecretRotated: "former_until"}),
        "removed_at": last({WebhookRemoved: "removed_at"}),
    },
)

TABLES = (WEBHOOK_LIST,)
