"""What webhooks are told, and what tells them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from domain import catalogue
from domain.webhooks import STREAM, WEBHOOKS, Webhook
from eventstore import Log
from eventstore.ids import named_id
from eventstore.log import StoredEvent
from eventstore.webhooks.addresses import Addresses
from eventstore.webhooks.secrets import WebhookSecrets
from eventstore.webhooks.sending import Outcome, Sender


@dataclass(frozen=True, slots=True)
class Webhooks:
    """What sends to webhooks: where requests may go, what signs them, what sends them."""

    addresses: Addresses
    secrets: WebhookSecrets
    sender: Sender

    async def state(self, log: Log, organisation_id: UUID, webhook_id: str) -> Webhook:
        """A webhook as the log has it, whatever the deliverer does."""
        id_ = named_id(organisation_id, STREAM.format(webhook_id=webhook_id))
        events = (await log.streams([id_]))[id_]
        return WEBHOOKS.fold(catalogue.decode(one.topic, one.state) for one in events)

    async def test(self, organisation_id: UUID, webhook_id: str, webhook: Webhook) -> Outcome:
        """Send a request of type ``webhook.test`` to a webhook that is registered."""
        now, url = datetime.now(UTC), webhook.url
        assert url is not None
        former = webhook.former_secret_id
        signers = await self.secrets.signers(
            organisation_id,
            webhook_id,
            UUID(webhook.secret_id),
            None if former is None else UUID(former),
            webhook.former_until,
            now,
        )
        message_id = f"test-{uuid4()}"
        told = {
            "type": "webhook.test",
            "timestamp": _written(now),
            "id": message_id,
            "organisation_id": str(organisation_id),
            "data": {"webhook_id": webhook_id},
        }
        return await self.sender.send(url, message_id, packed(told), signers)


def message(event: StoredEvent) -> bytes:
    """What a receiver is told of an event: type, timestamp and data as Standard Webhooks has them,
    with what the live stream says besides. The same bytes each time.

    Raises:
        ValueError: newer code wrote the event, or its bytes are no such event.
    """
    if catalogue.is_newer(event.topic):
        raise ValueError(f"{event.topic} was written by newer code")
    kind = catalogue.type_of(event.topic)
    told = {
        "type": catalogue.TOPICS[kind] if kind else event.topic,
        "timestamp": _written(event.recorded_at),
        "id": str(event.event_id),
        "organisation_id": str(event.organisation_id),
        "position": event.position,
        "stream_id": str(event.stream_id),
        "version": event.version,
        "actor": event.actor,
        "correlation_id": str(event.correlation_id),
        "causation_id": None if event.causation_id is None else str(event.causation_id),
        "data": catalogue.as_json(event.topic, event.state),
    }
    return packed(told)


def packed(told: Mapping[str, Any]) -> bytes:
    """A body as it is signed and sent."""
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
