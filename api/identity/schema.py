"""Brings a database up to the schema of identity, which is no part of the log's."""

from __future__ import annotations

import hashlib
from pathlib import Path

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from eventstore import Log

_SCHEMA = Path(__file__).with_name("identity.sql").read_bytes()
_DIGEST = hashlib.sha256(_SCHEMA).hexdigest()
_ADVISORY_LOCK = 0x_C4A1_000A


async def prepare_identity(log: Log) -> None:
    """Create or complete the tables; safe from several processes at once. Nothing is touched where
    this very schema was applied before."""
    async with log.connection() as connection:
        if await _applied(connection):
            return
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
            if await _applied(connection):
                return
            await connection.execute(_SCHEMA, prepare=False)
            await connection.execute("DELETE FROM identity.schema_applied")
            await connection.execute(
                "INSERT INTO identity.schema_applied (digest) VALUES (%s)", (_DIGEST,)
            )


async def _applied(connection: AsyncConnection[TupleRow]) -> bool:
    found = await connection.execute("SELECT to_regclass('identity.schema_applied') IS NOT NULL")
    row = await found.fetchone()
    if row is None or not row[0]:
        return False
    found = await connection.execute("SELECT digest FROM identity.schema_applied")
    row = await found.fetchone()
    return row is not None and row[0] == _DIGEST
