"""Who may say who somebody is: our own tokens, Nhost, Supabase, and issuers of OpenID Connect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol
from uuid import UUID

import jwt
from pydantic import SecretStr

from api.identity.account import Account
from api.identity.configuration import Nhost, Oidc, Supabase
from api.identity.jwks import Jwks, Key, Pace
from api.tokens import InvalidToken

#: Seconds that a provider's clock may be ahead of ours. A token's end is taken to the second.
_AHEAD_S = 10
_MOST_SUBJECT = 200

Kind = Literal["operator", "local", "nhost", "supabase", "oidc"]


@dataclass(frozen=True, slots=True)
class Verified:
    """What a token says, once it is believed. ``session``: of the built-in provider's tokens, the
    session that they are of."""

    account: Account
    session: UUID | None = None


class Provider(Protocol):
    """Somebody whose tokens are believed."""

    @property
    def name(self) -> str:
        """What its accounts' ids begin with."""

    @property
    def kind(self) -> Kind:
        """What it is."""

    @property
    def issuer(self) -> str | None:
        """`iss` of its tokens; None: they have none."""

    async def verify(self, token: str, header: Mapping[str, Any]) -> Verified:
        """Who its token speaks for.

        Raises:
            InvalidToken: signature, algorithm, time, issuer, audience or claims are wrong.
            KeysUnavailable: its keys cannot be had.
        """

    async def available(self) -> bool:
        """Whether its tokens can be verified now."""


class Foreign:
    """A provider elsewhere. Of its tokens we believe who somebody is, never what they may do."""

    def __init__(self, settings: Nhost | Supabase | Oidc, *, pace: Pace | None = None) -> None:
        self._settings = settings
        self.name = settings.name
        self.kind: Kind = settings.kind
        self.issuer: str | None = settings.issuer
        secret: SecretStr | None = getattr(settings, "secret", None)
        self._secret = None if secret is None else Key(secret.get_secret_value(), ("HS256",))
        self._jwks = (
            Jwks(
                settings.jwks_url,
                issuer=settings.issuer,
                algorithms=settings.algorithms,
                pace=pace,
            )
            if self._secret is None
            else None
        )

    async def verify(self, token: str, header: Mapping[str, Any]) -> Verified:
        """See ``Provider``."""
        claims = decoded(
            token,
            await self._keys(header),
            issuer=self.issuer,
            audience=self._settings.audience,
        )
        account = _ACCOUNTS[self.kind](self._settings, claims)
        return Verified(account)

    async def available(self) -> bool:
        """Whether its keys can be had."""
        return self._jwks is None or await self._jwks.available()

    async def _keys(self, header: Mapping[str, Any]) -> Sequence[Key]:
        if self._jwks is None:
            assert self._secret is not None
            return [self._secret]
        kid = header.get("kid")
        if not (kid is None or isinstance(kid, str)):
            raise InvalidToken("the token's key id is not a text")
        return await self._jwks.keys(kid)


def decoded(
    token: str, keys: Sequence[Key], *, issuer: str | None, audience: Sequence[str]
) -> dict[str, Any]:
    """The claims of a token that one of the keys has signed, for now and for us.

    Raises:
        InvalidToken: they are not to be believed.
    """
    error: Exception | None = None
    for key in keys:
        try:
            # The algorithms are the key's, never the token's.
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=list(key.algorithms),
                issuer=issuer,
                audience=list(audience) or None,
                leeway=_AHEAD_S,
                options={
                    "require": ["exp", *(["iss"] if issuer is not None else [])],
                    "verify_aud": bool(audience),
                    "verify_iss": issuer is not None,
                    "verify_sub": False,  # not every provider's id is there
                    "verify_jti": False,
                },
            )
        except jwt.PyJWTError as wrong:
            error = wrong
        except (ValueError, TypeError, OverflowError, RecursionError) as wrong:
            error = wrong
        else:
            if issuer is None and "iss" in claims:
                raise InvalidToken("the token is of another issuer")
            if moment(claims["exp"]) <= datetime.now(UTC):
                raise InvalidToken("the token is not valid: it has expired")
            return claims
    told = error if isinstance(error, jwt.PyJWTError) else "its claims cannot be read"
    raise InvalidToken(f"the token is not valid: {told}")


def moment(seconds: Any) -> datetime:
    """A token's time."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        raise InvalidToken("the token's time is outside the calendar") from None


def subject_of(claims: Mapping[str, Any], name: str) -> str:
    """Who it is, as a text that can stand beside every event."""
    subject = claims.get(name)
    if (
        not isinstance(subject, str)
        or not 0 < len(subject) <= _MOST_SUBJECT
        or not subject.isprintable()
        or subject.strip() != subject
    ):
        raise InvalidToken(f"the token has no readable {name}")
    return subject


def _nhost(settings: Nhost, claims: Mapping[str, Any]) -> Account:
    hasura = claims.get(settings.claims)
    if isinstance(hasura, str):  # Hasura's `stringified_json`
        try:
            hasura = json.loads(hasura)
        except (ValueError, RecursionError):
            hasura = None
    if not isinstance(hasura, Mapping):
        raise InvalidToken(f"the token has no claims {settings.claims!r}")
    subject = subject_of(hasura, "x-hasura-user-id")
    if claims.get("sub", subject) != subject:
        raise InvalidToken("sub and x-hasura-user-id of the token differ")
    if str(hasura.get("x-hasura-user-is-anonymous", "false")).lower() != "false":
        raise InvalidToken("anonymous users of Nhost are not let in")
    return Account(
        settings.name,
        subject,
        moment(claims["exp"]),
        organisation_id=_organisation(hasura, settings.organisation_claim),
    )


def _supabase(settings: Supabase, claims: Mapping[str, Any]) -> Account:
    # `anon` and `service_role` are keys of the project, not persons.
    if claims.get("role") != "authenticated":
        raise InvalidToken("role of the token is not `authenticated`")
    if claims.get("is_anonymous", False) is not False:
        raise InvalidToken("anonymous users of Supabase are not let in")
    # `user_metadata` is the user's own to write, so nothing of it is believed.
    return Account(
        settings.name,
        subject_of(claims, "sub"),
        moment(claims["exp"]),
        email=_text(claims.get("email")) if settings.confirms_email else None,
        organisation_id=_organisation(claims, settings.organisation_claim),
    )


def _oidc(settings: Oidc, claims: Mapping[str, Any]) -> Account:
    verified = claims.get("email_verified")
    return Account(
        settings.name,
        subject_of(claims, "sub"),
        moment(claims["exp"]),
        email=_text(claims.get("email")) if verified is True or verified == "true" else None,
        name=_text(claims.get("name")),
        organisation_id=_organisation(claims, settings.organisation_claim),
    )


_ACCOUNTS: Mapping[Kind, Any] = {"nhost": _nhost, "supabase": _supabase, "oidc": _oidc}


def _text(value: Any) -> str | None:
    usable = isinstance(value, str) and 0 < len(value) <= 254 and value.isprintable()
    return value if usable else None


def _organisation(claims: Mapping[str, Any], path: str) -> UUID | None:
    """The organisation that is asked for: by the whole name, else by the way that dots describe."""
    value: Any = claims.get(path)
    if value is None:
        value = claims
        for step in path.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
    if value is None or value == "":
        return None
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise InvalidToken(f"{path} of the token is not the id of an organisation") from None
