"""Files on their way into an import: kept in parts, for a day at the most."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO, NamedTuple
from uuid import UUID, uuid4

from eventstore.log import Log

#: How long a file that nobody brings in is kept.
KEPT = timedelta(days=1)
#: Bytes of one part.
PART = 1 << 20
_ROOM = """SELECT coalesce(sum(bytes), 0)::bigint FROM uploads WHERE organisation_id = %s"""
_OF = """SELECT bytes FROM uploads WHERE organisation_id = %s AND upload_id = %s"""
_PRUNE = """WITH gone AS (DELETE FROM uploads WHERE {which} RETURNING upload_id)
DELETE FROM upload_parts p USING gone g WHERE p.upload_id = g.upload_id"""
_OLD = _PRUNE.format(which="uploaded_at < now() - %s")
_THESE = _PRUNE.format(which="organisation_id = %s AND upload_id = ANY(%s)")


class NoRoom(Exception):
    """An organisation has as many bytes waiting to be brought in as it may have.

    Args:
        waiting: bytes that wait.
        most: bytes that may.
    """

    def __init__(self, waiting: int, most: int) -> None:
        self.waiting, self.most = waiting, most
        super().__init__(
            f"{waiting:,} bytes wait to be imported, with this file it would be more than {most:,}"
        )


class Upload(NamedTuple):
    """A stored file."""

    upload_id: str
    bytes: int
    sha256: str


class Uploads:
    """Uploaded files, each its organisation's alone.

    Args:
        log: connections to its database.
        most: bytes that one organisation may have waiting.
    """

    def __init__(self, log: Log, *, most: int = 1 << 30) -> None:
        self._log, self._most = log, most

    async def put(self, organisation_id: UUID, actor: str, file: IO[bytes]) -> Upload:
        """Store a file from its beginning to its end.

        Raises:
            NoRoom: with it the organisation would have too much waiting.
        """
        name, digest, size, number = uuid4(), hashlib.sha256(), 0, 0
        async with self._log.connection() as connection, connection.transaction():
            # One upload of an organisation after the other: the room is counted before it is taken.
            key = int.from_bytes(organisation_id.bytes[:8], "big", signed=True)
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
            row = await (await connection.execute(_ROOM, (organisation_id,))).fetchone()
            assert row is not None
            while part := await asyncio.to_thread(file.read, PART):
                size += len(part)
                if row[0] + size > self._most:
                    raise NoRoom(row[0], self._most)
                digest.update(part)
                await connection.execute(
                    "INSERT INTO upload_parts VALUES (%s, %s, %b)", (name, number, part)
                )
                number += 1
            told = Upload(str(name), size, digest.hexdigest())
            await connection.execute(
                """INSERT INTO uploads (upload_id, organisation_id, bytes, sha256, uploaded_by)
                VALUES (%s, %s, %s, %s, %s)""",
                (name, organisation_id, size, told.sha256, actor),
            )
        return told

    async def has(self, organisation_id: UUID, upload_id: str) -> bool:
        """Whether the organisation has a file of that id."""
        name = _uuid(upload_id)
        if name is None:
            return False
        async with self._log.connection() as connection:
            found = await connection.execute(_OF, (organisation_id, name))
            return await found.fetchone() is not None

    async def write(self, organisation_id: UUID, upload_id: str, target: Path) -> bool:
        """Put a file of the organisation into a folder; False: there is none of that id."""
        if not await self.has(organisation_id, upload_id):
            return False
        with target.open("xb") as file:
            async with self._log.connection() as connection:
                number = 0
                while True:
                    row = await (
                        await connection.execute(
                            "SELECT content FROM upload_parts WHERE upload_id = %s AND number = %s",
                            (_uuid(upload_id), number),
                            binary=True,
                        )
                    ).fetchone()
                    if row is None:
                        return True
                    await asyncio.to_thread(file.write, row[0])
                    number += 1

    async def delete(self, organisation_id: UUID, upload_ids: Sequence[str]) -> None:
        """Forget files of the organisation."""
        names = [name for one in upload_ids if (name := _uuid(one)) is not None]
        async with self._log.connection() as connection:
            await connection.execute(_THESE, (organisation_id, names))

    async def prune(self, kept: timedelta = KEPT) -> None:
        """Forget what nobody has brought in for so long."""
        async with self._log.connection() as connection:
            await connection.execute(_OLD, (kept,))


def _uuid(upload_id: str) -> UUID | None:
    try:
        return UUID(upload_id)
    except ValueError:
        return None
