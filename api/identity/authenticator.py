"""Finds the provider that a token is of, and asks it alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import jwt

from api.identity.account import Account
from api.identity.providers import Provider, Verified
from api.identity.revocations import (
    Revocations,
    session_revoked,
    sessions_until,
    token_revoked,
)
from api.tokens import InvalidToken

_LONGEST = 16_384
_SLACK = timedelta(minutes=1)
#: How long a token that was verified is not verified again; whether it was revoked is asked always.
_BELIEVED = timedelta(seconds=30)
_MOST = 10_000


class _Believed(NamedTuple):
    """A token that its provider has verified, until when that counts, and the names under which it
    may be revoked."""

    verified: Verified
    until: datetime
    names: tuple[str, ...]


class Authenticator:
    """Believes the tokens of the providers that it was given, and no others.

    A token says by `iss` whose it claims to be. That is not believed, it only chooses whom to ask:
    the provider verifies it with its own keys, algorithms, issuer and audience.

    Raises:
        ValueError: two providers have the same issuer or the same name.
    """

    def __init__(self, providers: Sequence[Provider], revocations: Revocations) -> None:
        self._by_issuer = {one.issuer: one for one in providers}
        if len(self._by_issuer) < len(providers) or len({one.name for one in providers}) < len(
            providers
        ):
            raise ValueError("two providers have the same issuer or the same name")
        self._revocations = revocations
        self._believed: OrderedDict[str, _Believed] = OrderedDict()
        self.providers = tuple(providers)

    async def authenticate(self, token: str) -> Account:
        """Who a token speaks for.

        Raises:
            InvalidToken: it is not to be believed; the message is safe to show.
            KeysUnavailable: its provider's keys cannot be had now, so nobody can say.
        """
        return (await self.verified(token)).account

    async def verified(self, token: str) -> Verified:
        """As ``authenticate``, with the session that a token of the built-in provider is of."""
        if len(token) > _LONGEST:
            raise InvalidToken(f"the token is longer than {_LONGEST:,} characters")
        now = datetime.now(UTC)
        known = self._believed.get(token)
        if known is None or known.until <= now:
            known = await self._ask(token, now)
            self._believed[token] = known
            if len(self._believed) > _MOST:
                self._believed.popitem(last=False)
        if any(one in self._revocations for one in known.names):
            raise InvalidToken("the token was revoked")
        return known.verified

    async def _ask(self, token: str, now: datetime) -> _Believed:
        """What its provider says of a token."""
        try:
            header = jwt.get_unverified_header(token)
            claims = jwt.decode(token, options={"verify_signature": False, "verify_iss": False})
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise InvalidToken("the token is not a JSON Web Token that can be read") from error
        if "b64" in header:
            raise InvalidToken("the token's content is not where it belongs")
        issuer = claims.get("iss")
        provider = (
            self._by_issuer.get(issuer) if issuer is None or isinstance(issuer, str) else None
        )
        if provider is None:
            raise InvalidToken("the token is of no issuer that is known here")
        found = await provider.verify(token, header)
        names = [token_revoked(token)]
        if found.session is not None:
            names.append(session_revoked(found.session))
        until = now + _BELIEVED
        if found.account.expires_at is not None:
            until = min(until, found.account.expires_at)
        return _Believed(found, until, tuple(names))

    async def revoke(self, token: str) -> None:
        """Believe a good token no more: here at once, in other processes within a second. Of the
        built-in provider the whole session goes, of others the token itself.

        Raises:
            InvalidToken: it is not good anyway.
        """
        found = await self.verified(token)
        what = [token_revoked(token)]
        until = (found.account.expires_at or datetime.max.replace(tzinfo=UTC)) + _SLACK
        if found.session is not None:
            what.append(session_revoked(found.session))
            until = max(until, sessions_until())
        await self._revocations.revoke(*what, until=until)
