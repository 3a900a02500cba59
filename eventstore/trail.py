"""Who looked at personal data: written down before it is given out."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from uuid import UUID

import psycopg

from eventstore.log import Log, LogUnavailable

_LOOKED_AT = """INSERT INTO personal_access
    (organisation_id, actor, roles, person, fields, why, correlation_id)
VALUES (%s, %s, %s, %s, %s, %s, %s)"""


class Trail:
    """Writes the access log of personal data.

    Args:
        log: whose database it stands in.
        patience_s: how long a row may take to be written.
    """

    def __init__(self, log: Log, *, patience_s: float = 15.0) -> None:
        self._log = log
        self._patience_s = patience_s

    async def looked_at(
        self,
        organisation_id: UUID,
        actor: str,
        roles: Collection[str],
        person: str,
        fields: Sequence[str],
        why: str,
        correlation_id: UUID | None,
    ) -> None:
        """Write down that somebody is about to be given personal data; durable on return.

        ``person`` is the pseudonym, ``fields`` names what is given (not what it holds).

        Raises:
            LogUnavailable: it could not be written, so the data must not be given out.
        """
        row = (organisation_id, actor, sorted(roles), person, list(fields), why, correlation_id)
        try:
            # The pool commits as it takes the connection back.
            async with asyncio.timeout(self._patience_s), self._log.connection() as connection:
                await connection.execute(_LOOKED_AT, row)
        except TimeoutError as error:
            raise LogUnavailable(
                f"the look at personal data was not written down within {self._patience_s:g} s"
            ) from error
        except psycopg.Error as error:
            raise LogUnavailable(
                f"the look at personal data was not written down: {error}"
            ) from error
