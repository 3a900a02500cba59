"""Content-addressed bytes: what a hash names can never be another thing."""

from __future__ import annotations

import hashlib

from eventstore.log import Log


class ArtifactCorrupt(Exception):
    """Stored bytes do not have the hash that names them."""


class Artifacts:
    """Trained models and the like, stored once under the SHA-256 of their bytes."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def put(self, content: bytes) -> str:
        """Store bytes; their hash in hex. The same bytes twice are one artifact."""
        name = hashlib.sha256(content).hexdigest()
        async with self._log.connection() as connection:
            await connection.execute(
                "INSERT INTO artifacts (hash, content) VALUES (%s, %b) ON CONFLICT DO NOTHING",
                (name, content),
            )
        return name

    async def get(self, name: str) -> bytes:
        """The bytes of a hash, checked.

        Raises:
            KeyError: there are none.
            ArtifactCorrupt: they were changed.
        """
        async with self._log.connection() as connection:
            row = await (
                await connection.execute("SELECT content FROM artifacts WHERE hash = %s", (name,))
            ).fetchone()
        if row is None:
            raise KeyError(name)
        content = bytes(row[0])
        if hashlib.sha256(content).hexdigest() != name:
            raise ArtifactCorrupt(f"artifact {name} does not hold the bytes that its name says")
        return content
