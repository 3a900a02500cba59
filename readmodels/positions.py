"""How far the read models are, and waiting until they have come to a position."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from psycopg.rows import class_row

from eventstore import Log, LogUnavailable
from eventstore.subscription import Bell
from projections.store import CHANNEL, DIVERGED
from readmodels.database import Row

_STATES = f"""SELECT p.name, p.position, h.position AS head,
        CASE WHEN d.diverged THEN h.position ELSE h.position - p.position END AS behind,
        d.diverged, p.updated_at, p.error
    FROM projections p CROSS JOIN log_head h
        CROSS JOIN LATERAL (SELECT {DIVERGED} AS diverged) d ORDER BY p.name"""

_REACHED = f"""SELECT coalesce(min(CASE WHEN {DIVERGED} THEN 0 ELSE p.position END), 0), count(*)
    FROM projections p WHERE p.name = ANY(%s)"""


class ProjectionState(Row):
    """How far a read model is behind the log, in events; ``error``: why it stands still.

    ``diverged``: it was folded from a log that is no longer there, so it is not served but rebuilt.
    """

    name: str
    position: int
    head: int
    behind: int
    diverged: bool
    updated_at: datetime
    error: str | None


class ReadModelBehind(Exception):
    """A read model did not come to a position in time."""

    def __init__(self, wanted: int, reached: int) -> None:
        self.wanted, self.reached = wanted, reached
        super().__init__(f"the read model is at position {reached}, {wanted} was asked for")


class Positions:
    """Knows how far read models are. Listens while it is open."""

    def __init__(self, log: Log, url: str) -> None:
        self._log = log
        self._bell = Bell(url, CHANNEL, poll_s=0.5)

    async def __aenter__(self) -> Positions:
        await self._bell.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._bell.__aexit__(None, None, None)

    async def states(self) -> list[ProjectionState]:
        """Every read model and how far it is."""
        async with (
            self._log.connection() as connection,
            connection.cursor(row_factory=class_row(ProjectionState)) as cursor,
        ):
            await cursor.execute(_STATES, prepare=False)
            return await cursor.fetchall()

    async def wait_for(self, position: int, tables: Sequence[str], timeout_s: float) -> None:
        """Return when all of the tables have come to a position.

        Raises:
            ReadModelBehind: they had not within ``timeout_s`` seconds.
            LogUnavailable: the database did not say in that time how far they are.
        """
        reached: int | None = None
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    mark = self._bell.mark()  # before the look, so that no move is missed
                    reached = await self._reached(tables)
                    if reached >= position:
                        return
                    await self._bell.wait(mark)
        except TimeoutError:
            if reached is None:
                raise LogUnavailable("the database gave no connection in time") from None
            raise ReadModelBehind(position, reached) from None

    async def _reached(self, tables: Sequence[str]) -> int:
        async with self._log.connection() as connection:
            cursor = await connection.execute(_REACHED, (list(tables),), prepare=False)
            row = await cursor.fetchone()
        assert row is not None
        return int(row[0]) if row[1] == len(tables) else 0
