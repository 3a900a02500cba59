"""How far the read models are, and waiting until they have come to a position."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from time import monotonic
from typing import Any
from uuid import UUID

from psycopg.rows import class_row
from pydantic import Field

from eventstore import Log, LogUnavailable
from eventstore.subscription import Bell
from projections import dead_letters, store
from projections.dead_letters import DeadLetter
from projections.store import CHANNEL, DIVERGED
from readmodels.database import Row
from readmodels.page import Page, decode, page

#: Work that waited so long beside a position that stood so long: the read model does not move.
STALLED_AFTER_S = 30.0
#: Events behind that are the groups of a busy log, not a backlog.
A_FEW = 100

# Events by scalar subquery, never by a join: one may be hashed, which reads the whole log.
# Whether somebody is at a rebuild says its lock alone: a long stretch of one writes nothing down.
# Lanes that are behind do not stand still as long as the slowest of them moves. OFFSET 0: whether a
# read model has diverged is asked once, not wherever it is used.
_STATES = f"""SELECT p.name, p.position, h.position AS head, p.updated_at, p.error, p.held,
        p.rate, d.diverged,
        extract(epoch FROM statement_timestamp()
            - greatest(p.updated_at, l.moved_at))::float8 AS still_s,
        extract(epoch FROM statement_timestamp() - (
            SELECT e.recorded_at FROM events e
            WHERE e.notification_id >= CASE WHEN d.diverged THEN 1 ELSE p.position + 1 END
            ORDER BY e.notification_id LIMIT 1
        ))::float8 AS waiting_s,
        coalesce(letters.parked, 0) AS dead_letters, coalesce(l.lanes, '[]') AS lanes,
        r.position AS rebuild_position, r.rate AS rebuild_rate,
        CASE WHEN r.name IS NULL THEN false ELSE EXISTS (
            SELECT FROM pg_locks k
            WHERE k.locktype = 'advisory' AND k.granted AND k.objsubid = 2
                AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND k.classid = %(rebuilds)s::oid AND k.objid = hashtext(p.name)::oid
        ) END AS rebuild_running
    FROM projections p CROSS JOIN log_head h
        CROSS JOIN LATERAL (SELECT {DIVERGED} AS diverged OFFSET 0) d
        LEFT JOIN projection_rebuilds r ON r.name = p.name
        LEFT JOIN (SELECT projection, count(*) AS parked FROM dead_letters
                   WHERE suffix = '' GROUP BY projection) letters ON letters.projection = p.name
        CROSS JOIN LATERAL (
            SELECT min(coalesce(n.updated_at, p.updated_at))
                    FILTER (WHERE n.behind > 0) AS moved_at,
                jsonb_agg(jsonb_build_object(
                    'lane', n.lane, 'position', n.position, 'behind', n.behind,
                    'seconds_behind', CASE WHEN n.behind = 0 THEN 0 ELSE greatest(0, coalesce(
                        extract(epoch FROM statement_timestamp() - (
                            SELECT e.recorded_at FROM events e
                            WHERE e.notification_id >= n.position + 1
                            ORDER BY e.notification_id LIMIT 1
                        )), 0)) END
                ) ORDER BY n.lane) AS lanes
            FROM (
                SELECT put.lane, done.position, done.updated_at,
                    greatest(put.position - done.position, 0) AS behind
                FROM relay_lanes put
                    JOIN relay ON put.lane < relay.lanes
                    LEFT JOIN projection_lanes k
                        ON k.name = p.name AND k.suffix = '' AND k.lane = put.lane
                        AND k.lanes = relay.lanes
                    CROSS JOIN LATERAL (SELECT k.updated_at, CASE WHEN d.diverged THEN 0
                        ELSE greatest(p.position, k.position) END AS position) done
            ) n
        ) l
    WHERE %(name)s::text IS NULL OR p.name = %(name)s
    ORDER BY p.name"""

_REACHED = f"""SELECT coalesce(min(CASE WHEN {DIVERGED} THEN 0 ELSE p.position END), 0), count(*)
    FROM projections p WHERE p.name = ANY(%s)"""


class State(StrEnum):
    """What a read model is doing. Where several hold, the one that comes first here.

    ``diverged``: it was folded from a log that is no longer there; it is not served but rebuilt.
    ``stopped``: folding fails, ``error`` says why; it is tried again. ``held``: it was rolled back
    to another declaration's table and waits for that code or for a rebuild. ``stalled``: there is
    work, and nobody does it. ``rebuilding``: a new table is made beside it. ``catching_up``: it is
    more than a few events behind and moves. ``live``: it is at the head, or next to it.
    """

    DIVERGED = "diverged"
    STOPPED = "stopped"
    HELD = "held"
    STALLED = "stalled"
    REBUILDING = "rebuilding"
    CATCHING_UP = "catching_up"
    LIVE = "live"

    @property
    def moves(self) -> bool:
        """Whether the read model follows the log."""
        return self in (State.REBUILDING, State.CATCHING_UP, State.LIVE)


class RebuildState(Row):
    """How far a rebuild is in the table beside the live one."""

    position: int
    progress: float = Field(description="Its share of the log, from 0 to 1.")
    rate: float | None = Field(description="Events a second lately; null if not known yet.")
    eta_s: float | None = Field(description="Seconds until it is at the head; null if not known.")
    running: bool = Field(description="False: it was cut off; the next rebuild goes on with it.")


class LaneState(Row):
    """How far a read model is behind what the relay has put into a lane of Kafka.

    What the relay itself is behind the log is not in here; all that a read model is behind, by
    whatever way its events come, is in its own ``behind`` and ``seconds_behind``.
    """

    lane: int = Field(description="The partition, the same one in every topic.")
    position: int = Field(
        description="All of the lane up to this log position is folded, be it into the lane or as "
        "a part of what all lanes have done."
    )
    behind: int = Field(
        description="Log positions from there to the last event that the relay has put into the "
        "lane; 0 where all of it is folded. Other lanes' events are among them: at most so many "
        "are the lane's own."
    )
    seconds_behind: float = Field(
        description="How long the first event that the lane may not have folded has been on the "
        "log; 0 where all that was put into it is folded. Never less than the age of the first "
        "event of the lane's own that is not folded, so an alarm on it misses nothing."
    )


class ProjectionState(Row):
    """How far a read model is behind the log; ``error``: why it stands still."""

    name: str
    state: State
    position: int
    head: int
    behind: int = Field(description="Events that it has not folded.")
    seconds_behind: float = Field(
        description="How long the first event that it has not folded has been on the log."
    )
    rate: float | None = Field(
        description="Events a second when it last had a backlog; null if it never had one."
    )
    eta_s: float | None = Field(
        description="Seconds until it is at the head; null if not known, or if it stands still."
    )
    dead_letters: int = Field(description="Events that it could not fold, of all organisations.")
    diverged: bool
    held: bool
    updated_at: datetime
    error: str | None
    rebuild: RebuildState | None
    lanes: list[LaneState] = Field(
        description="Each lane of Kafka, in order; empty where no relay ever ran on this log."
    )


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
        self._looking = asyncio.Lock()
        self._seen: tuple[float, list[ProjectionState]] | None = None

    async def __aenter__(self) -> Positions:
        await self._bell.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._bell.__aexit__(None, None, None)

    async def states(self) -> list[ProjectionState]:
        """Every read model and how far it is, by name.

        Raises:
            LogUnavailable: the database gave no connection in time.
        """
        return await self._states(None)

    async def state(self, name: str) -> ProjectionState | None:
        """One read model and how far it is; None if there is none of that name.

        Raises:
            LogUnavailable: the database gave no connection in time.
        """
        found = await self._states(name)
        return found[0] if found else None

    async def recent_states(self, age_s: float) -> list[ProjectionState]:
        """As ``states``, but at most ``age_s`` seconds old: any number of watchers ask the database
        as often as one.

        Raises:
            LogUnavailable: the database gave no connection in time.
        """
        async with self._looking:
            now = monotonic()
            if self._seen is None or now - self._seen[0] >= age_s:
                self._seen = (now, await self.states())
            return self._seen[1]

    async def dead_letters(
        self, name: str, organisation_id: UUID, *, cursor: str | None = None, limit: int = 50
    ) -> Page[DeadLetter]:
        """The events of one organisation that a read model could not fold, in log order.

        Raises:
            BadCursor: the cursor was not given by this query.
            LogUnavailable: the database gave no connection in time.
        """
        (after,) = decode(cursor, int) if cursor else (0,)
        async with self._log.connection() as connection:
            rows = await dead_letters.letters(
                connection, name, after=after, limit=limit + 1, organisation_id=organisation_id
            )
        return page(rows, limit, lambda row: (row.position,))

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

    async def _states(self, name: str | None) -> list[ProjectionState]:
        async with (
            self._log.connection() as connection,
            connection.cursor(row_factory=class_row(_Found)) as cursor,
        ):
            # Planned each time: a plan made while the log was short would read all of it later on.
            await cursor.execute(_STATES, {"name": name, "rebuilds": store.REBUILDS}, prepare=False)
            return [found.state() for found in await cursor.fetchall()]

    async def _reached(self, tables: Sequence[str]) -> int:
        async with self._log.connection() as connection:
            cursor = await connection.execute(_REACHED, (list(tables),), prepare=False)
            row = await cursor.fetchone()
        assert row is not None
        return int(row[0]) if row[1] == len(tables) else 0


@dataclass(frozen=True, slots=True)
class _Found:
    """A row of ``_STATES``. ``still_s``: since it moved last. ``waiting_s``: since its first event
    that is not folded was recorded; None where all are."""

    name: str
    position: int
    head: int
    updated_at: datetime
    error: str | None
    held: bool
    rate: float | None
    diverged: bool
    still_s: float
    waiting_s: float | None
    dead_letters: int
    lanes: list[dict[str, Any]]
    rebuild_position: int | None
    rebuild_rate: float | None
    rebuild_running: bool

    def state(self) -> ProjectionState:
        """The row as it is shown."""
        # Of a log that is no longer there nothing counts: it has all of this one before it.
        behind = self.head if self.diverged else self.head - self.position
        does = self._does(behind)
        return ProjectionState(
            name=self.name,
            state=does,
            position=self.position,
            head=self.head,
            behind=behind,
            seconds_behind=max(self.waiting_s or 0.0, 0.0),
            rate=self.rate,
            eta_s=_eta_s(behind, self.rate if does.moves else None),
            dead_letters=self.dead_letters,
            diverged=self.diverged,
            held=self.held,
            updated_at=self.updated_at,
            error=self.error,
            rebuild=self._rebuild(),
            lanes=[LaneState(**one) for one in self.lanes],
        )

    def _does(self, behind: int) -> State:
        if self.diverged:
            return State.DIVERGED
        if self.error is not None:
            return State.STOPPED
        if self.held:
            return State.HELD
        waiting_s = min(self.waiting_s or 0.0, self.still_s)
        if waiting_s > STALLED_AFTER_S and not self.rebuild_running:
            return State.STALLED
        if self.rebuild_position is not None:
            return State.REBUILDING
        return State.CATCHING_UP if behind > A_FEW else State.LIVE

    def _rebuild(self) -> RebuildState | None:
        if self.rebuild_position is None:
            return None
        left = max(self.head - self.rebuild_position, 0)
        return RebuildState(
            position=self.rebuild_position,
            progress=1 - left / self.head if self.head else 1.0,
            rate=self.rebuild_rate,
            eta_s=_eta_s(left, self.rebuild_rate if self.rebuild_running else None),
            running=self.rebuild_running,
        )


def _eta_s(behind: int, rate: float | None) -> float | None:
    if behind <= 0:
        return 0.0
    return behind / rate if rate else None
