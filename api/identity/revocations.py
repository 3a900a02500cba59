"""What is not good any more before its time: ended sessions, tokens that were given back."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

import psycopg
import structlog
from psycopg.rows import TupleRow

from api.identity.local import ACCESS_FOR
from eventstore import Log, LogUnavailable
from eventstore.log import Connection
from eventstore.subscription import Bell

CHANNEL = "identity_revocations"
#: A row may be committed so much later than its time says; and access tokens live so much longer
#: than the session that they are of.
_SLACK = timedelta(minutes=1)
_POLL_S = 1.0
_ALL = "SELECT what, until, noted_at FROM identity.revocations WHERE until > now()"
_NEWER = _ALL + " AND noted_at > %s"
_log = structlog.get_logger(__name__)


def session_revoked(session_id: UUID) -> str:
    """How the end of a session is noted."""
    return f"session:{session_id}"


def token_revoked(token: str) -> str:
    """How a token that was given back is noted: by what is signed of it. A signature can be written
    in several ways that all verify, so a hash of the whole could be got round."""
    signed = token.rpartition(".")[0]
    return f"token:{hashlib.sha256(signed.encode()).hexdigest()}"


async def note_revoked(connection: Connection, what: Iterable[str], until: datetime) -> None:
    """Write down and tell all processes, within the caller's transaction if there is one."""
    for one in what:
        await connection.execute(
            """INSERT INTO identity.revocations (what, until) VALUES (%s, %s)
            ON CONFLICT (what) DO UPDATE SET noted_at = clock_timestamp(),
                until = greatest(revocations.until, excluded.until)""",
            (one, until),
        )
    await connection.execute(f"NOTIFY {CHANNEL}")


def sessions_until() -> datetime:
    """When the last access token of a session that ends now has expired."""
    return datetime.now(UTC) + ACCESS_FOR + _SLACK


class Revocations:
    """What is revoked, in memory: at once what this process does, after a notification what others
    do, and after a second at the most where the notification is lost.

    While the database is away what is known stays known.
    """

    def __init__(self, log: Log, url: str) -> None:
        self._log = log
        self._bell = Bell(url, CHANNEL, poll_s=_POLL_S)
        self._until: dict[str, datetime] = {}
        self._seen: datetime | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._bell.__aenter__()
        try:
            await self._read()
        except BaseException:
            await self._bell.__aexit__(None, None, None)
            raise
        self._task = asyncio.create_task(self._follow(), name="revocations")
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._bell.__aexit__(None, None, None)

    def __contains__(self, what: str) -> bool:
        until = self._until.get(what)
        return until is not None and until > datetime.now(UTC)

    async def revoke(self, *what: str, until: datetime) -> None:
        """Refuse from now on: here at once, elsewhere as soon as they hear of it."""
        async with self._log.connection() as connection, connection.transaction():
            await note_revoked(connection, what, until)
        self.know(what, until)

    def know(self, what: Iterable[str], until: datetime) -> None:
        """Refuse here what was written down in the caller's own transaction."""
        for one in what:
            self._until[one] = max(until, self._until.get(one, until))

    async def _follow(self) -> None:
        while True:
            mark = self._bell.mark()
            try:
                await self._read()
                await self._bell.wait(mark)
            except (psycopg.Error, LogUnavailable) as error:
                _log.warning("revocations not read", error=str(error).strip())
                await asyncio.sleep(_POLL_S)
            except Exception as error:
                # Whatever it is: who stops reading believes what others took back.
                _log.error("revocations not read", error=str(error), exc_info=True)
                await asyncio.sleep(_POLL_S)

    async def _read(self) -> None:
        async with self._log.connection() as connection:
            found: list[TupleRow] = await (
                await connection.execute(_ALL)
                if self._seen is None
                else await connection.execute(_NEWER, (self._seen - _SLACK,))
            ).fetchall()
        now = datetime.now(UTC)
        self._until = {what: until for what, until in self._until.items() if until > now}
        for what, until, noted_at in found:
            self.know([what], until)
            self._seen = noted_at if self._seen is None else max(self._seen, noted_at)
