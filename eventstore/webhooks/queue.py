"""What is to be sent to which webhook: taken in from the log, sent in the order of each stream,
given up, replayed. One transaction each, on the connection of whoever delivers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from eventstore.log import Connection
from eventstore.webhooks.sending import Outcome

#: Held by the one process that delivers, by the connection that it writes with.
LEASE = 0x_C4A1_0009
#: Deliveries of a webhook that may be pending; the log keeps the rest.
MOST_PENDING = 1000

_ENDPOINT = """organisation_id, webhook_id, url, events, secret_id, former_secret_id, former_until,
    position, failures, failing_since"""
# A new address is tried at once, and so is what was resumed; `xmax` of a new row is 0.
_PUT = """WITH former AS (
        SELECT url, paused FROM webhook_endpoints
        WHERE organisation_id = %(organisation_id)s AND webhook_id = %(webhook_id)s
    ), put AS (
        INSERT INTO webhook_endpoints AS e (organisation_id, webhook_id, url, events, secret_id,
            former_secret_id, former_until, paused, position)
        VALUES (%(organisation_id)s, %(webhook_id)s, %(url)s, %(events)s, %(secret_id)s,
            %(former_secret_id)s, %(former_until)s, %(paused)s, %(position)s)
        ON CONFLICT (organisation_id, webhook_id) DO UPDATE SET url = excluded.url,
            events = excluded.events, secret_id = excluded.secret_id,
            former_secret_id = excluded.former_secret_id, former_until = excluded.former_until,
            paused = excluded.paused)
    SELECT former.url <> %(url)s OR (former.paused AND NOT %(paused)s) FROM former"""
_START_ANEW = """WITH again AS (
        UPDATE webhook_endpoints SET failures = 0, failing_since = NULL, not_before = '-infinity'
        WHERE organisation_id = %(organisation_id)s AND webhook_id = %(webhook_id)s)
    UPDATE webhook_deliveries SET step = 0, due_at = clock_timestamp()
    WHERE organisation_id = %(organisation_id)s AND webhook_id = %(webhook_id)s
        AND status = 'pending'"""
_REMOVE = (
    "DELETE FROM webhook_endpoints WHERE organisation_id = %s AND webhook_id = %s",
    "DELETE FROM webhook_secrets WHERE organisation_id = %s AND webhook_id = %s",
    """UPDATE webhook_deliveries SET status = 'discarded', changed_at = clock_timestamp()
    WHERE organisation_id = %s AND webhook_id = %s AND status IN ('pending', 'held', 'dead')""",
)
_WITH_ROOM = f"""SELECT {_ENDPOINT} FROM webhook_endpoints e WHERE NOT paused AND (
        SELECT count(*) FROM (SELECT FROM webhook_deliveries d
            WHERE d.organisation_id = e.organisation_id AND d.webhook_id = e.webhook_id
                AND d.status = 'pending' LIMIT %(most)s) AS pending) < %(most)s"""
# Behind one of its stream that failed, an event waits with the others.
_TAKE_IN = """INSERT INTO webhook_deliveries
        (organisation_id, webhook_id, position, event_id, stream_id, event, status)
    SELECT n.organisation_id, n.webhook_id, n.position, n.event_id, n.stream_id, n.event,
        CASE WHEN EXISTS (SELECT FROM webhook_deliveries d
            WHERE d.organisation_id = n.organisation_id AND d.webhook_id = n.webhook_id
                AND d.stream_id = n.stream_id AND (d.status IN ('held', 'dead')
                    OR (d.status = 'pending' AND d.step > 0))) THEN 'held' ELSE 'pending' END
    FROM unnest(%s::uuid[], %s::text[], %s::bigint[], %s::uuid[], %s::uuid[], %s::text[])
        AS n (organisation_id, webhook_id, position, event_id, stream_id, event)
    ON CONFLICT DO NOTHING"""
_ADVANCE = """UPDATE webhook_endpoints e SET position = n.position
    FROM unnest(%s::uuid[], %s::text[], %s::bigint[]) AS n (organisation_id, webhook_id, position)
    WHERE e.organisation_id = n.organisation_id AND e.webhook_id = n.webhook_id
        AND e.position < n.position"""
_SENDABLE = """NOT e.paused AND e.not_before <= clock_timestamp()"""
_READY = f"""SELECT organisation_id, webhook_id FROM webhook_endpoints e
    WHERE {_SENDABLE} AND EXISTS (SELECT FROM webhook_deliveries d
        WHERE d.organisation_id = e.organisation_id AND d.webhook_id = e.webhook_id
            AND d.status = 'pending' AND d.due_at <= clock_timestamp())"""
_ONE = f"""SELECT {_ENDPOINT} FROM webhook_endpoints e
    WHERE organisation_id = %s AND webhook_id = %s AND {_SENDABLE}"""
_DUE = """SELECT d.position, d.event_id, d.stream_id, d.attempts, d.step FROM webhook_deliveries d
    WHERE d.organisation_id = %s AND d.webhook_id = %s AND d.status = 'pending'
        AND d.due_at <= clock_timestamp() AND NOT EXISTS (
            SELECT FROM webhook_deliveries e
            WHERE e.organisation_id = d.organisation_id AND e.webhook_id = d.webhook_id
                AND e.stream_id = d.stream_id AND e.position < d.position
                AND e.status IN ('pending', 'held', 'dead'))
    ORDER BY d.position LIMIT %s"""
_ATTEMPT = """INSERT INTO webhook_attempts (organisation_id, webhook_id, position, attempt, at,
        duration_ms, status_code, error)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""
_SETTLE = """UPDATE webhook_deliveries SET status = %s, attempts = %s, step = %s,
        due_at = clock_timestamp() + %s, status_code = %s, error = %s,
        changed_at = clock_timestamp()
    WHERE organisation_id = %s AND webhook_id = %s AND position = %s AND status = 'pending'"""
_HOLD = """UPDATE webhook_deliveries SET status = 'held'
    WHERE organisation_id = %s AND webhook_id = %s AND stream_id = %s AND position > %s
        AND status = 'pending'"""
_RELEASE = """UPDATE webhook_deliveries SET status = 'pending', due_at = clock_timestamp()
    WHERE organisation_id = %s AND webhook_id = %s AND stream_id = ANY(%s) AND status = 'held'"""
_HEALTH = """UPDATE webhook_endpoints SET
        failures = CASE WHEN %(failed)s = 0 THEN 0 ELSE failures + %(failed)s END,
        failing_since = CASE WHEN %(failed)s > 0
            THEN coalesce(failing_since, clock_timestamp()) END,
        not_before = greatest(not_before, clock_timestamp() + %(rest)s)
    WHERE organisation_id = %(organisation_id)s AND webhook_id = %(webhook_id)s"""
_REPLAY = """UPDATE webhook_deliveries SET status = 'pending', step = 0,
        due_at = clock_timestamp(), changed_at = clock_timestamp(), changed_by = %s
    WHERE organisation_id = %s AND webhook_id = %s AND status = 'dead'
        AND (%s::bigint IS NULL OR position = %s)"""
_DISCARD = """UPDATE webhook_deliveries SET status = 'discarded', changed_at = clock_timestamp(),
        changed_by = %s
    WHERE organisation_id = %s AND webhook_id = %s AND status = 'dead'
        AND (%s::bigint IS NULL OR position = %s)
    RETURNING stream_id"""
_PRUNE = (
    """DELETE FROM webhook_deliveries WHERE ctid = ANY(ARRAY(SELECT ctid FROM webhook_deliveries
        WHERE status IN ('delivered', 'discarded') AND changed_at < clock_timestamp() - %s::interval
        LIMIT 5000))""",
    """DELETE FROM webhook_attempts WHERE ctid = ANY(ARRAY(SELECT ctid FROM webhook_attempts
        WHERE at < clock_timestamp() - %s::interval LIMIT 5000))""",
)

Key = tuple[UUID, str]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook as the deliverer has it; ``failures`` in a row, since ``failing_since``."""

    organisation_id: UUID
    webhook_id: str
    url: str
    events: Sequence[str]
    secret_id: UUID
    former_secret_id: UUID | None
    former_until: datetime | None
    position: int
    failures: int
    failing_since: datetime | None

    @property
    def key(self) -> Key:
        """Whose it is, and which."""
        return self.organisation_id, self.webhook_id


class New(NamedTuple):
    """An event that is to be sent to a webhook."""

    organisation_id: UUID
    webhook_id: str
    position: int
    event_id: UUID
    stream_id: UUID
    event: str


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that is to be tried now, after so many attempts."""

    position: int
    event_id: UUID
    stream_id: UUID
    attempts: int
    step: int


class Tried(NamedTuple):
    """A delivery and what came of it. ``again_in``: until it is tried again; None: it is given up,
    where it was not taken."""

    due: Due
    outcome: Outcome
    again_in: timedelta | None


async def lease(connection: Connection) -> bool:
    """Take the right to deliver, as long as the connection lasts; whether nobody else has it."""
    cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", (LEASE,))
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def followed(connection: Connection) -> int:
    """Up to where events of webhooks themselves are taken in."""
    row = await (await connection.execute("SELECT position FROM webhook_follower")).fetchone()
    return 0 if row is None else int(row[0])


async def set_followed(connection: Connection, position: int) -> None:
    """Say up to where events of webhooks themselves are taken in."""
    # A backup from before there were webhooks leaves no row.
    await connection.execute(
        """INSERT INTO webhook_follower (position) VALUES (%s)
        ON CONFLICT (only_row) DO UPDATE SET position = excluded.position""",
        (position,),
    )


async def put(connection: Connection, endpoint: Endpoint, *, paused: bool) -> None:
    """Have a webhook as it is now. Where it is known, its position stays; where it has another
    address or goes on, what waits is tried at once, as if it had never failed."""
    values = {
        "organisation_id": endpoint.organisation_id,
        "webhook_id": endpoint.webhook_id,
        "url": endpoint.url,
        "events": list(endpoint.events),
        "secret_id": endpoint.secret_id,
        "former_secret_id": endpoint.former_secret_id,
        "former_until": endpoint.former_until,
        "paused": paused,
        "position": endpoint.position,
    }
    row = await (await connection.execute(_PUT, values)).fetchone()
    if row is not None and row[0]:
        await connection.execute(_START_ANEW, values)


async def remove(connection: Connection, key: Key) -> None:
    """Forget a webhook and its secrets; what waits for it is discarded."""
    for statement in _REMOVE:
        await connection.execute(statement, key)


async def with_room(connection: Connection) -> list[Endpoint]:
    """The webhooks that run and for which not too much is pending."""
    async with connection.cursor(row_factory=class_row(Endpoint)) as cursor:
        await cursor.execute(_WITH_ROOM, {"most": MOST_PENDING})
        return await cursor.fetchall()


async def take_in(
    connection: Connection, new: Sequence[New], reached: Sequence[tuple[UUID, str, int]]
) -> None:
    """Remember what is to be sent, and up to where the log was looked at for each webhook."""
    if new:
        await connection.execute(_TAKE_IN, tuple(map(list, zip(*new, strict=True))))
    if reached:
        await connection.execute(_ADVANCE, tuple(map(list, zip(*reached, strict=True))))


async def ready(connection: Connection) -> list[Key]:
    """The webhooks for which something is due."""
    found: list[Key] = await (await connection.execute(_READY)).fetchall()
    return found


async def due(connection: Connection, key: Key, most: int) -> tuple[Endpoint, list[Due]] | None:
    """A webhook and what is due for it, at most one of each stream; None: it is not to be sent
    anything now. One that fails is asked by one delivery at a time."""
    async with connection.cursor(row_factory=class_row(Endpoint)) as cursor:
        await cursor.execute(_ONE, key)
        endpoint = await cursor.fetchone()
    if endpoint is None:
        return None
    async with connection.cursor(row_factory=class_row(Due)) as listing:
        await listing.execute(_DUE, (*key, 1 if endpoint.failures else most))
        found = await listing.fetchall()
    return (endpoint, found) if found else None


async def settle(connection: Connection, key: Key, tried: Sequence[Tried], rest: timedelta) -> None:
    """Write down what came of deliveries. ``rest``: how long the webhook is left alone."""
    taken = [one for one in tried if one.outcome.taken]
    for one in tried:
        number, outcome = one.due.attempts + 1, one.outcome
        await connection.execute(
            _ATTEMPT,
            (
                *(*key, one.due.position, number, outcome.at),
                *(outcome.duration_ms, outcome.status_code, outcome.error),
            ),
        )
        status = "delivered" if outcome.taken else "dead" if one.again_in is None else "pending"
        step = one.due.step if outcome.taken else one.due.step + 1
        await connection.execute(
            _SETTLE,
            (
                *(status, number, step, one.again_in or timedelta()),
                *(outcome.status_code, outcome.error, *key, one.due.position),
            ),
        )
        if not outcome.taken:
            await connection.execute(_HOLD, (*key, one.due.stream_id, one.due.position))
    if taken:
        await connection.execute(_RELEASE, (*key, [one.due.stream_id for one in taken]))
    await connection.execute(
        _HEALTH,
        {
            "organisation_id": key[0],
            "webhook_id": key[1],
            # Where one was taken and others were not, the webhook as such is there.
            "failed": 0 if taken else len(tried),
            "rest": rest,
        },
    )


async def replay(connection: Connection, key: Key, position: int | None, by: str) -> int:
    """Have dead letters sent again, one or all, each with its schedule from the start; how many."""
    cursor = await connection.execute(_REPLAY, (by, *key, position, position))
    return cursor.rowcount


async def discard(connection: Connection, key: Key, position: int | None, by: str) -> int:
    """Give dead letters up for good, one or all: the later events of their streams go on; how
    many."""
    async with connection.transaction():
        cursor = await connection.execute(_DISCARD, (by, *key, position, position))
        streams = [stream for (stream,) in await cursor.fetchall()]
        if streams:
            await connection.execute(_RELEASE, (*key, streams))
    return len(streams)


async def prune(connection: Connection, keep: timedelta) -> None:
    """Forget what was delivered or discarded so long ago, some of it."""
    for statement in _PRUNE:
        await connection.execute(statement, (keep,))
