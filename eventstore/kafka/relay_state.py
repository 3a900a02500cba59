"""How far the relay is: its rows in Postgres, as values, and how they are set back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from eventstore.kafka.publisher import Batch
from eventstore.log import Connection

#: Notified whenever the relay has come further.
CHANNEL = "relay"
#: The advisory lock that the one active relay holds.
LEASE = 0x_C4A1_0008

_MAKE = """WITH made AS (
    INSERT INTO relay (epoch, lanes) VALUES (gen_random_uuid(), %s) ON CONFLICT DO NOTHING
    RETURNING lanes
) INSERT INTO relay_lanes (lane) SELECT generate_series(0, lanes - 1) FROM made
ON CONFLICT (lane) DO UPDATE SET position = 0"""
_READ = """SELECT epoch, lanes, position, event_id, updated_at,
    ARRAY(SELECT l.position FROM relay_lanes l WHERE l.lane < r.lanes ORDER BY l.lane)
FROM relay r"""
# One statement, one transaction: where somebody else has moved the relay, nothing is written.
_MOVE = """WITH moved AS (
    UPDATE relay SET position = %(to)s, event_id = %(event_id)s, updated_at = clock_timestamp()
    WHERE epoch = %(epoch)s AND position = %(former)s RETURNING position
), lanes AS (
    UPDATE relay_lanes l SET position = n.position
    FROM unnest(%(lanes)s::integer[], %(positions)s::bigint[]) AS n (lane, position)
    WHERE l.lane = n.lane AND EXISTS (SELECT FROM moved)
) SELECT pg_notify(%(channel)s, '') FROM moved"""
# Who takes a batch holds the row's key (FOR KEY SHARE): its epoch and its lanes stay what they are.
_HOLD = "SELECT FROM relay FOR UPDATE"
_ANEW = f"""WITH held AS MATERIALIZED ({_HOLD}), anew AS (
    UPDATE relay SET epoch = gen_random_uuid(), position = 0, event_id = NULL,
        updated_at = clock_timestamp()
    WHERE EXISTS (SELECT FROM held)
    RETURNING epoch
), lanes AS (UPDATE relay_lanes SET position = 0 WHERE EXISTS (SELECT FROM anew))
SELECT epoch FROM anew"""
# Another epoch too: what was published before stands where other lanes are now.
_WIDEN = """WITH wider AS (
    UPDATE relay SET lanes = %(lanes)s, epoch = gen_random_uuid(), updated_at = clock_timestamp()
    RETURNING position
) INSERT INTO relay_lanes (lane, position)
SELECT lane, position FROM wider, generate_series(0, %(lanes)s - 1) AS lane
ON CONFLICT (lane) DO UPDATE SET position = excluded.position"""


@dataclass(frozen=True, slots=True)
class RelayState:
    """The relay's rows.

    Attributes:
        epoch: one run of the topics over one log.
        lanes: how many there are.
        position: all up to it is acknowledged by the brokers.
        event_id: of the event there; None at position 0.
        updated_at: when it came there.
        previous: the last position of each lane.
    """

    epoch: UUID
    lanes: int
    position: int
    event_id: UUID | None
    updated_at: datetime
    previous: Sequence[int]


async def make(connection: Connection, lanes: int) -> RelayState:
    """The relay's rows, made if there are none."""
    await connection.execute(_MAKE, (lanes,))
    found = await state(connection)
    assert found is not None
    return found


async def state(connection: Connection) -> RelayState | None:
    """The relay's rows; None: it has never run on this log."""
    row = await (await connection.execute(_READ)).fetchone()
    return None if row is None else RelayState(*row)


async def move(connection: Connection, epoch: UUID, former: int, batch: Batch) -> bool:
    """Write down that a batch is acknowledged and tell who listens; False: the relay is not where
    it was, because somebody else moved it."""
    values: Mapping[str, object] = {
        "epoch": epoch,
        "former": former,
        "to": batch.position,
        "event_id": batch.event_id,
        "lanes": list(batch.lanes),
        "positions": list(batch.lanes.values()),
        "channel": CHANNEL,
    }
    return await (await connection.execute(_MOVE, values)).fetchone() is not None


async def begin_anew(connection: Connection) -> UUID | None:
    """A new epoch: the relay publishes everything again, and nothing that was published before
    counts; the epoch. None: the relay has never run. One that is running notices by itself."""
    row = await (await connection.execute(_ANEW)).fetchone()
    return None if row is None else UUID(str(row[0]))


async def hold(connection: Connection) -> None:
    """Wait for the batches under way, and let nobody begin one until the transaction ends."""
    await connection.execute(_HOLD)


async def widen(connection: Connection, lanes: int) -> None:
    """So many lanes from now on, all of them behind the relay's position. Who consumes must have
    come to there."""
    await connection.execute(_WIDEN, {"lanes": lanes})


async def lease(connection: Connection) -> bool:
    """Take the right to relay, if nobody has it. It lasts as long as the connection, which is also
    the one that writes the checkpoint."""
    row = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", (LEASE,))).fetchone()
    return row is not None and bool(row[0])


async def release(connection: Connection) -> None:
    """Give the right up, where the connection lives on."""
    await connection.execute("SELECT pg_advisory_unlock(%s)", (LEASE,))
