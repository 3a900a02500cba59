"""The operator's own tokens (``chainlytics token``): the only ones that carry roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.identity.account import Account
from api.identity.providers import Kind, Verified
from api.tokens import Issuer


class Operator:
    """Believes what the holder of the server's secret has signed."""

    name = "operator"
    kind: Kind = "operator"

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self.issuer: str | None = "chainlytics-dev"

    async def verify(self, token: str, header: Mapping[str, Any]) -> Verified:
        """Who a token speaks for.

        Raises:
            InvalidToken: it is not to be believed.
        """
        who = self._issuer.verify(token)
        return Verified(
            Account(
                provider=self.name,
                subject=who.actor,
                expires_at=who.expires_at,
                organisation_id=who.organisation_id,
                roles=who.roles,
            )
        )

    async def available(self) -> bool:
        """Always: the secret is here."""
        return True
