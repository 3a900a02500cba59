"""What people tell of themselves and how they like things: of accounts of every provider."""

from __future__ import annotations

from typing import Any, Literal

from psycopg.types.json import Jsonb

from eventstore import Log

Kind = Literal["profile", "preferences"]
_READ: dict[Kind, str] = {
    "profile": "SELECT profile FROM identity.profiles WHERE account = %s",
    "preferences": "SELECT preferences FROM identity.preferences WHERE account = %s",
}
_WRITE: dict[Kind, str] = {
    "profile": """INSERT INTO identity.profiles (account, profile) VALUES (%s, %s)
        ON CONFLICT (account) DO UPDATE SET profile = excluded.profile, updated_at = now()""",
    "preferences": """INSERT INTO identity.preferences (account, preferences) VALUES (%s, %s)
        ON CONFLICT (account) DO UPDATE
        SET preferences = excluded.preferences, updated_at = now()""",
}


class Profiles:
    """Keeps a profile and preferences beside an account's id, outside of the log."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def get(self, kind: Kind, account: str) -> dict[str, Any]:
        """What was put last; empty where nothing was."""
        async with self._log.connection() as connection:
            found = await connection.execute(_READ[kind].encode(), (account,))
            row = await found.fetchone()
        return {} if row is None else dict(row[0])

    async def put(self, kind: Kind, account: str, value: dict[str, Any]) -> None:
        """Put it in the place of the former."""
        async with self._log.connection() as connection:
            await connection.execute(_WRITE[kind].encode(), (account, Jsonb(value)))
