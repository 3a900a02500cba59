"""Builds what sends to webhooks."""

from __future__ import annotations

from chainlytics.application import Application, application
from chainlytics.settings import Settings
from commands.delivering import Deliverer
from commands.webhook_messages import Webhooks
from eventstore.webhooks.addresses import Addresses, networks
from eventstore.webhooks.secrets import WebhookSecrets
from eventstore.webhooks.sending import Sender


def webhooks_of(app: Application, settings: Settings) -> Webhooks:
    """What sends to webhooks by the settings."""
    addresses = Addresses(networks(settings.webhook_private_addresses))
    secrets = WebhookSecrets(app.log, app.people.keys)
    return Webhooks(addresses, secrets, Sender(addresses))


async def deliver(url: str, settings: Settings) -> None:
    """Deliver to webhooks until cancelled; where another process does, stand by."""
    async with application(url, pool_size=4, master=settings.personal_key, queries=False) as app:
        await Deliverer(url, app.log, app.bus, webhooks_of(app, settings)).run()
