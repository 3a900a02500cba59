"""Claims on persons' keys: a key that was made for a command belongs to a person once an event
under it is stored, and goes where none ever is. See ``eventstore/people.sql``."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from eventstore.archive.cold import Cold, on
from eventstore.log import Connection

_AT_ONCE = 1_000

#: An event that names the key (pseudonyms stand in events as text), in a stream that was claimed.
_EVENT = (
    "e.originator_id = c.stream_id AND position(convert_to(c.key_id::text, 'UTF8') IN e.state) > 0"
)
#: A condition: something of the person ``k`` is stored.
BELONGS = f"""(NOT EXISTS (SELECT FROM person_claims c WHERE c.key_id = k.key_id)
    OR EXISTS (SELECT FROM person_claims c JOIN events e ON {_EVENT} WHERE c.key_id = k.key_id))"""

_CLAIMED = "SELECT key_id FROM person_claims WHERE claim = ANY(%s)"
_HOLD = "SELECT FROM person_keys WHERE key_id = ANY(%s) ORDER BY key_id FOR UPDATE"
_GIVE_UP = "DELETE FROM person_claims WHERE claim = ANY(%s) RETURNING key_id"
_REMOVE = """DELETE FROM person_keys k WHERE k.key_id = ANY(%s) AND k.wrapped IS NOT NULL
    AND NOT EXISTS (SELECT FROM person_claims c WHERE c.key_id = k.key_id) RETURNING k.key_id"""
_REMOVE_INDEX = "DELETE FROM person_search WHERE key_id = ANY(%s)"
_STORED = f"SELECT DISTINCT c.key_id FROM person_claims c JOIN events e ON {_EVENT} LIMIT %s"
_SETTLE = "DELETE FROM person_claims WHERE key_id = ANY(%s)"
_OLD = """SELECT key_id FROM person_claims
    GROUP BY key_id HAVING max(since) < clock_timestamp() - %s LIMIT %s"""
_OF_OLD = """SELECT c.claim, c.stream_id FROM person_claims c WHERE c.key_id = %s
    AND NOT EXISTS (SELECT FROM person_claims o
        WHERE o.key_id = c.key_id AND o.since >= clock_timestamp() - %s)"""


class Claim(NamedTuple):
    """What a command under way has on a person's key: one id each time that it is run, and the
    stream that it would append to."""

    id: UUID
    stream_id: UUID


async def release(connection: Connection, claims: Collection[UUID]) -> None:
    """Give up claims of commands that were not stored; a key of which nobody has another one goes,
    and what it could be found by."""
    given_up = list(claims)
    async with connection.transaction():
        rows = await (await connection.execute(_CLAIMED, (given_up,))).fetchall()
        if not rows:
            return
        # Who writes under the key holds it until the claim is there, so nobody comes in between.
        await connection.execute(_HOLD, ([key_id for (key_id,) in rows],))
        left = await (await connection.execute(_GIVE_UP, (given_up,))).fetchall()
        gone = await (await connection.execute(_REMOVE, ([one for (one,) in left],))).fetchall()
        await connection.execute(_REMOVE_INDEX, ([key_id for (key_id,) in gone],))


async def settle(connection: Connection) -> bool:
    """Take the claims off keys under which events are stored; whether there may be more."""
    async with connection.transaction():
        rows = await (await connection.execute(_STORED, (_AT_ONCE,))).fetchall()
        stored = [key_id for (key_id,) in rows]
        if stored:
            # Held first: a claim that comes behind this would make the key look unused later on.
            await connection.execute(_HOLD, (stored,))
            await connection.execute(_SETTLE, (stored,))
    return len(stored) == _AT_ONCE


async def give_up_old(connection: Connection, older_than: timedelta) -> int:
    """Give up claims of commands whose process died: all claims on the key are older than this and
    no event names it, here or in the archive. How many keys went.

    Raises:
        ArchiveUnavailable: a file of the archive is needed and cannot be read.
    """
    count = 0
    rows = await (await connection.execute(_OLD, (older_than, _AT_ONCE))).fetchall()
    cold = Cold()
    for (key_id,) in rows:
        async with connection.transaction():
            await connection.execute(_HOLD, ([key_id],))
            claimed = await (await connection.execute(_OF_OLD, (key_id, older_than))).fetchall()
            if not claimed:
                continue
            streams = {stream_id: 0 for _, stream_id in claimed}
            name = str(key_id).encode()
            found = await cold.streams(on(connection), streams)
            if any(name in event.state for events in found.values() for event in events):
                await connection.execute(_SETTLE, ([key_id],))
            else:
                await release(connection, [claim for claim, _ in claimed])
                count += 1
    return count
