"""Who somebody is, whichever provider says so; what they may do is said elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from domain.access import Role


@dataclass(frozen=True, slots=True)
class Account:
    """Who a token speaks for.

    ``expires_at``: when the token does. ``email``: only an address that the provider has verified.
    ``organisation_id``: the one that the token asks to work in, which gives nobody the right to.
    ``roles``: of the operator's own tokens alone (``chainlytics token``); what everybody else may
    do is said by events, never by a token.
    """

    provider: str
    subject: str
    expires_at: datetime | None
    email: str | None = None
    name: str | None = None
    organisation_id: UUID | None = None
    roles: frozenset[Role] | None = None

    @property
    def id(self) -> str:
        """The actor in events: unique over all providers. Whom an operator's token speaks for is
        named as the operator wrote it."""
        return self.subject if self.roles is not None else f"{self.provider}:{self.subject}"
