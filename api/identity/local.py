"""Access tokens of the built-in provider: short, and of one session."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from api.identity.account import Account
from api.identity.jwks import Key
from api.identity.providers import Kind, Verified, decoded, moment
from api.tokens import MIN_SECRET, InvalidToken

LOCAL = "local"
ACCESS_FOR = timedelta(minutes=15)
_ISSUER = "chainlytics-identity"
_AUDIENCE = "chainlytics-api"
_PURPOSE = b"chainlytics identity access tokens v1"


class LocalTokens:
    """Issues and verifies access tokens.

    Args:
        secret: the deployment's token secret. The key is derived from it for this one purpose, so
            that no token of the operator's is one of these, nor the other way round.

    Raises:
        ValueError: the secret is shorter than 32 characters.
    """

    name = LOCAL
    kind: Kind = "local"

    def __init__(self, secret: str) -> None:
        if len(secret) < MIN_SECRET:
            raise ValueError(f"the token secret must have at least {MIN_SECRET} characters")
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret.encode())
        self._key = Key(key, ("HS256",))
        self.issuer: str | None = _ISSUER

    def issue(
        self, account_id: UUID, session_id: UUID, *, email: str, ttl: timedelta = ACCESS_FOR
    ) -> tuple[str, datetime]:
        """A token of a session, and when it expires."""
        now = datetime.now(UTC).replace(microsecond=0)
        token = jwt.encode(
            {
                "iss": _ISSUER,
                "aud": _AUDIENCE,
                "sub": str(account_id),
                "sid": str(session_id),
                "jti": str(uuid4()),
                "email": email,
                "iat": now,
                "exp": now + ttl,
            },
            self._key.key,
            algorithm="HS256",
            headers={"typ": "at+jwt"},
        )
        return token, now + ttl

    async def verify(self, token: str, header: Mapping[str, Any]) -> Verified:
        """Who a token speaks for, and its session.

        Raises:
            InvalidToken: it is not to be believed.
        """
        claims = decoded(token, [self._key], issuer=_ISSUER, audience=[_AUDIENCE])
        try:
            account_id, session_id = UUID(claims["sub"]), UUID(claims["sid"])
        except (KeyError, ValueError, TypeError, AttributeError):
            raise InvalidToken("the token's claims are not valid") from None
        account = Account(LOCAL, str(account_id), moment(claims["exp"]), email=claims.get("email"))
        return Verified(account, session_id)

    async def available(self) -> bool:
        """Always: the key is here."""
        return True
