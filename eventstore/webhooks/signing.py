"""Secrets and signatures as the Standard Webhooks specification has them (version 1.0.0)."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Mapping, Sequence

_PREFIX = "whsec_"
_BYTES = 32


def new_secret() -> bytes:
    """A random secret."""
    return secrets.token_bytes(_BYTES)


def shown(secret: bytes) -> str:
    """A secret as receivers are given it."""
    return _PREFIX + base64.b64encode(secret).decode()


def signed(
    message_id: str, timestamp: int, body: bytes, signers: Sequence[bytes]
) -> Mapping[str, str]:
    """The headers of a request: its id, its time (seconds since 1970), and a signature by each of
    the secrets, so that a receiver who knows one of them can verify it."""
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.digest(secret, content, "sha256")).decode()
        for secret in signers
    ]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
