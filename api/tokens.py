"""Bearer tokens of the built-in development issuer: who you are, and your roles."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt

from domain.access import KEY_ACTOR, Role

_ALGORITHM = "HS256"
_ISSUER = "chainlytics-dev"
_AUDIENCE = "chainlytics"
_REQUIRED = ["exp", "iat", "iss", "aud", "sub", "org", "roles"]
MIN_SECRET = 32


class InvalidToken(Exception):
    """A token that is not to be believed. The message is safe to show."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sends a request, for which organisation, and what is allowed there.

    ``scopes``: the commands and queries that an API key is good for; None: all that the roles
    allow. ``expires_at``: when what it showed is good no more. ``operator``: whether it holds the
    server's own secret.
    """

    actor: str
    organisation_id: UUID
    roles: frozenset[Role]
    scopes: frozenset[str] | None = None
    expires_at: datetime | None = field(default=None, compare=False)
    operator: bool = field(default=False, compare=False)

    @property
    def counted_as(self) -> str:
        """Whose budget it is: an account's own, whatever organisation it acts for, since it may
        found as many as it likes. The names of keys and of the operator's own are an
        organisation's."""
        if self.operator or self.actor.startswith(KEY_ACTOR):
            return f"{self.organisation_id}/{self.actor}"
        return self.actor


class Issuer:
    """Issues and verifies HS256 tokens.

    Raises:
        ValueError: the secret is shorter than 32 characters.
    """

    def __init__(self, secret: str) -> None:
        if len(secret) < MIN_SECRET:
            raise ValueError(f"the token secret must have at least {MIN_SECRET} characters")
        self._secret = secret

    def issue(
        self, *, subject: str, organisation_id: UUID, roles: frozenset[Role], ttl: timedelta
    ) -> str:
        """A token for somebody of an organisation, good for ``ttl``."""
        now = datetime.now(UTC)
        return jwt.encode(
            {
                "iss": _ISSUER,
                "aud": _AUDIENCE,
                "sub": subject,
                "org": str(organisation_id),
                "roles": sorted(roles),
                "iat": now,
                "exp": now + ttl,
            },
            self._secret,
            algorithm=_ALGORITHM,
        )

    def verify(self, token: str) -> Identity:
        """Who a token speaks for.

        Raises:
            InvalidToken: signature, algorithm, time, issuer, audience or claims are wrong.
        """
        return self._identity(token)

    def renew(self, token: str, ttl: timedelta) -> str:
        """A token for whom another one speaks, or spoke: its time may be over.

        Raises:
            InvalidToken: it was never ours, or is not good yet.
        """
        who = self._identity(token, expired=True)
        return self.issue(
            subject=who.actor, organisation_id=who.organisation_id, roles=who.roles, ttl=ttl
        )

    def _identity(self, token: str, *, expired: bool = False) -> Identity:
        try:
            # The algorithm is ours to say, never the token's.
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                audience=_AUDIENCE,
                options={"require": _REQUIRED, "verify_exp": not expired},
            )
            actor, roles = claims["sub"], claims["roles"]
            # The subject is written beside every event: Postgres takes no U+0000 or lone surrogate.
            if not isinstance(roles, list) or not actor or not actor.isprintable():
                raise InvalidToken("the token has no readable subject or no list of roles")
            return Identity(
                actor,
                UUID(claims["org"]),
                frozenset(Role(role) for role in roles),
                expires_at=datetime.fromtimestamp(claims["exp"], UTC),
            )
        except jwt.PyJWTError as error:
            raise InvalidToken(f"the token is not valid: {error}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidToken("the token's claims are not valid") from error
