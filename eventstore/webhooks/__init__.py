"""Webhooks: where requests may go, how they are signed and sent, what waits to be sent."""
