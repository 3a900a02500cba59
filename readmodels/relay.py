"""How far the relay is: what of the log stands on Kafka, and whether somebody puts it there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg.rows import class_row
from pydantic import Field

from eventstore import Log
from eventstore.kafka.relay_state import LEASE
from readmodels.database import Row
from readmodels.positions import A_FEW, STALLED_AFTER_S

# One row always. The first event that is not relayed by scalar subquery, as in positions.py.
_STATE = """SELECT r.epoch, coalesce(r.position, 0) AS position, h.position AS head, r.updated_at,
        r.position > 0 AND r.event_id IS NOT NULL AND r.event_id IS DISTINCT FROM
            (SELECT e.event_id FROM events e WHERE e.notification_id = r.position) AS diverged,
        extract(epoch FROM statement_timestamp() - r.updated_at)::float8 AS still_s,
        extract(epoch FROM statement_timestamp() - (
            SELECT e.recorded_at FROM events e WHERE e.notification_id > r.position
            ORDER BY e.notification_id LIMIT 1
        ))::float8 AS waiting_s,
        EXISTS (
            SELECT FROM pg_locks k
            WHERE k.locktype = 'advisory' AND k.granted AND k.objsubid = 1
                AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND k.classid = 0::oid AND k.objid = %(lease)s::oid
        ) AS active,
        coalesce((SELECT jsonb_agg(jsonb_build_object('lane', l.lane, 'position', l.position)
                                   ORDER BY l.lane)
            FROM relay_lanes l WHERE l.lane < r.lanes), '[]') AS lanes
    FROM log_head h LEFT JOIN relay r ON true"""


class Relaying(StrEnum):
    """What the relay is doing. Where several hold, the one that comes first here.

    ``never_ran``: no relay has ever run on this log, or none since a backup was restored.
    ``diverged``: what it put on Kafka is of a log that is no longer there. ``stopped``: no process
    holds its lease, so nothing is relayed. ``stalled``: one holds it, but there is work and it does
    not move, as where the brokers are away. ``catching_up``: it is more than a few events behind
    and moves. ``live``: it is at the head, or next to it.
    """

    NEVER_RAN = "never_ran"
    DIVERGED = "diverged"
    STOPPED = "stopped"
    STALLED = "stalled"
    CATCHING_UP = "catching_up"
    LIVE = "live"

    @property
    def moves(self) -> bool:
        """Whether the relay follows the log."""
        return self in (Relaying.CATCHING_UP, Relaying.LIVE)


class RelayLane(Row):
    """What was put into a lane of Kafka."""

    lane: int = Field(description="The partition, the same one in every topic.")
    position: int = Field(description="Of the last event that was put into it; 0: none was yet.")


class RelayState(Row):
    """How far the relay is behind the log."""

    state: Relaying
    epoch: UUID | None = Field(
        description="Names one run of the topics over one log; null where no relay ever ran."
    )
    position: int = Field(description="All up to it is acknowledged by the brokers.")
    head: int
    behind: int = Field(description="Events of the log that are not known to be on Kafka.")
    seconds_behind: float = Field(
        description="How long the first of them has been on the log; 0 where no relay ever ran."
    )
    active: bool = Field(description="Whether a process holds the relay's lease at this moment.")
    updated_at: datetime | None = Field(
        description="When its position was written last; null where no relay ever ran."
    )
    lanes: list[RelayLane] = Field(description="In order; empty where no relay ever ran.")


async def relay_state(log: Log) -> RelayState:
    """How far the relay is.

    Raises:
        LogUnavailable: the database gave no connection in time.
    """
    async with (
        log.connection() as connection,
        connection.cursor(row_factory=class_row(_Found)) as cursor,
    ):
        # Planned each time: a plan made while the log was short would read all of it later on.
        await cursor.execute(_STATE, {"lease": LEASE}, prepare=False)
        found = await cursor.fetchone()
    assert found is not None
    return found.state()


@dataclass(frozen=True, slots=True)
class _Found:
    """The row of ``_STATE``. ``still_s``: since its position was written last. ``waiting_s``: since
    its first event that is not relayed was recorded; None where all are."""

    epoch: UUID | None
    position: int
    head: int
    updated_at: datetime | None
    diverged: bool | None
    still_s: float | None
    waiting_s: float | None
    active: bool
    lanes: list[dict[str, Any]]

    def state(self) -> RelayState:
        """The row as it is shown."""
        # Of a log that is no longer there nothing counts: it has all of this one before it.
        behind = self.head if self.diverged else self.head - self.position
        return RelayState(
            state=self._does(behind),
            epoch=self.epoch,
            position=self.position,
            head=self.head,
            behind=behind,
            seconds_behind=max(self.waiting_s or 0.0, 0.0),
            active=self.active,
            updated_at=self.updated_at,
            lanes=[RelayLane(**one) for one in self.lanes],
        )

    def _does(self, behind: int) -> Relaying:
        if self.epoch is None:
            return Relaying.NEVER_RAN
        if self.diverged:
            return Relaying.DIVERGED
        if not self.active:
            return Relaying.STOPPED
        if min(self.waiting_s or 0.0, self.still_s or 0.0) > STALLED_AFTER_S:
            return Relaying.STALLED
        return Relaying.CATCHING_UP if behind > A_FEW else Relaying.LIVE
