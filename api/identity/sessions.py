"""Sessions of the built-in provider: refresh tokens that are good once, and what ends them."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

import structlog

from api.identity.failures import WrongRefreshToken
from api.identity.local import LocalTokens
from api.identity.revocations import (
    Revocations,
    note_revoked,
    session_revoked,
    sessions_until,
)
from eventstore import Log
from eventstore.log import Connection

LASTS = timedelta(days=30)
_MOST_OF_ACCOUNT = 50
_log = structlog.get_logger(__name__)
_PREFIX = "chr_"  # so that scanners for leaked secrets know one

_USE = """UPDATE identity.refresh_tokens AS tokens SET used_at = now()
FROM identity.sessions AS sessions JOIN identity.accounts AS accounts ON account_id = accounts.id
WHERE tokens.hash = %s AND tokens.used_at IS NULL AND sessions.id = tokens.session_id
    AND sessions.ended_at IS NULL AND sessions.expires_at > now() AND accounts.disabled_at IS NULL
RETURNING accounts.email, sessions.expires_at"""
# The session's row is locked first, by everybody: a reuse and a rotation cannot pass each other.
# The session's row is locked first, by everybody, so that two refreshes cannot pass each other.
_LOCK = """SELECT sessions.id, sessions.account_id FROM identity.sessions AS sessions
    JOIN identity.refresh_tokens AS tokens ON session_id = sessions.id
    WHERE tokens.hash = %s FOR UPDATE OF sessions"""
_USED = "SELECT used_at IS NOT NULL FROM identity.refresh_tokens WHERE hash = %s"
_END = """UPDATE identity.sessions SET ended_at = now(), ended_by = %(by)s
WHERE ended_at IS NULL AND account_id = %(account)s
    AND (%(session)s::uuid IS NULL OR id = %(session)s)
RETURNING id"""
_TOO_MANY = """SELECT id, account_id FROM identity.sessions
    WHERE account_id = %s AND ended_at IS NULL AND expires_at > now()
    ORDER BY last_used_at DESC OFFSET %s"""


class SignedIn(NamedTuple):
    """What somebody who logged in is given."""

    access_token: str
    access_expires_at: datetime
    refresh_token: str
    refresh_expires_at: datetime
    account_id: UUID


class Session(NamedTuple):
    """A session as its owner sees it."""

    id: UUID
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    client: str


class Sessions:
    """Begins, renews and ends sessions.

    A session is a family of refresh tokens: each is good once and answered with the next. One that
    comes back was stolen, or its thief was quicker; either way the session ends, and its access
    tokens with it. There is no time of grace: a client sends one refresh at a time.
    """

    def __init__(self, log: Log, tokens: LocalTokens, revocations: Revocations) -> None:
        self._log = log
        self._tokens = tokens
        self._revocations = revocations

    async def begin(self, account_id: UUID, email: str, client: str) -> SignedIn:
        """Sign somebody in whose password was right. The oldest of too many sessions end."""
        session_id, expires_at = uuid4(), datetime.now(UTC) + LASTS
        ended: list[UUID] = []
        async with self._log.connection() as connection, connection.transaction():
            await connection.execute(
                """INSERT INTO identity.sessions (id, account_id, expires_at, client)
                VALUES (%s, %s, %s, %s)""",
                (session_id, account_id, expires_at, client),
            )
            refresh = await _issued(connection, session_id)
            found = await connection.execute(_TOO_MANY, (account_id, _MOST_OF_ACCOUNT))
            for old, _ in await found.fetchall():
                ended += await ended_sessions(connection, account_id, "too many sessions", old)
        self.refuse(ended)
        return self._signed_in(account_id, session_id, email, refresh, expires_at)

    async def refresh(self, refresh_token: str) -> SignedIn:
        """The next tokens of a session.

        Raises:
            WrongRefreshToken: it is not good; if it was used before, its session has ended.
        """
        digest = _digest(refresh_token)
        async with self._log.connection() as connection, connection.transaction():
            family = await (await connection.execute(_LOCK, (digest,))).fetchone()
            if family is None:
                raise WrongRefreshToken
            session_id, account_id = family
            row = await (await connection.execute(_USE, (digest,))).fetchone()
            if row is not None:
                refresh = await _issued(connection, session_id)
                await connection.execute(
                    "UPDATE identity.sessions SET last_used_at = now() WHERE id = %s", (session_id,)
                )
                return self._signed_in(account_id, session_id, row[0], refresh, row[1])
            ended: list[UUID] = []
            if (await (await connection.execute(_USED, (digest,))).fetchone()) == (True,):
                ended = await ended_sessions(connection, account_id, "token reused", session_id)
        if ended:
            _log.warning(
                "a refresh token came back, its session was ended", session=str(session_id)
            )
        self.refuse(ended)
        raise WrongRefreshToken

    async def of(self, account_id: UUID) -> list[Session]:
        """Those that go on, the last used one first."""
        async with self._log.connection() as connection:
            found = await connection.execute(
                """SELECT id, created_at, last_used_at, expires_at, client FROM identity.sessions
                WHERE account_id = %s AND ended_at IS NULL AND expires_at > now()
                ORDER BY last_used_at DESC, id""",
                (account_id,),
            )
            return [Session(*row) for row in await found.fetchall()]

    async def end(self, account_id: UUID, session_id: UUID, by: str) -> bool:
        """End a session of the account; whether there was one."""
        async with self._log.connection() as connection, connection.transaction():
            ended = await ended_sessions(connection, account_id, by, session_id)
        self.refuse(ended)
        return bool(ended)

    def refuse(self, ended: list[UUID]) -> None:
        """Refuse the access tokens of ended sessions here; the others hear of it by their note."""
        self._revocations.know(map(session_revoked, ended), sessions_until())

    def _signed_in(
        self, account_id: UUID, session_id: UUID, email: str, refresh: str, until: datetime
    ) -> SignedIn:
        token, expires_at = self._tokens.issue(account_id, session_id, email=email)
        return SignedIn(token, expires_at, refresh, until, account_id)


async def ended_sessions(
    connection: Connection, account_id: UUID, by: str, session_id: UUID | None = None
) -> list[UUID]:
    """End one session of an account, or all, and note it, in the caller's transaction."""
    found = await connection.execute(_END, {"account": account_id, "by": by, "session": session_id})
    ended = [row[0] for row in await found.fetchall()]
    if ended:
        await note_revoked(connection, map(session_revoked, ended), sessions_until())
    return ended


async def _issued(connection: Connection, session_id: UUID) -> str:
    token = _PREFIX + secrets.token_urlsafe(32)
    await connection.execute(
        "INSERT INTO identity.refresh_tokens (hash, session_id) VALUES (%s, %s)",
        (_digest(token), session_id),
    )
    return token


def _digest(token: str) -> bytes:
    # 256 random bits: one round is enough.
    return hashlib.sha256(token.encode()).digest()
