"""Proofs about the log, from stored tiles: made in one snapshot of the database, checked anywhere.

Each is a plain JSON document that holds what is proved (rows as they are hashed, base64), the
hashes that lead to a signed head, and the head. docs/auditors.md tells how to check one by hand;
`chainlytics/verifier.py` does it with the standard library alone.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncCursor, IsolationLevel
from psycopg.rows import class_row

from eventstore.log import Connection, Log
from eventstore.seals import merkle
from eventstore.seals.checkpoint import parsed
from eventstore.seals.leaves import row_bytes
from eventstore.seals.merkle import Span, Tile
from eventstore.seals.sealer import DECISIONS, LOG, TILES, member_leaf, members
from eventstore.seals.signing import PublicKey

# What witnesses signed stands under the note: whoever trusts one has its key.
_HEADS = """SELECT h.number, h.size, h.note || coalesce((
        SELECT string_agg(c.signatures, '' ORDER BY c.witness)
        FROM seal_cosignatures c WHERE c.number = h.number), '') AS note, h.signed_at
    FROM seal_heads h"""
_NEWEST = f"{_HEADS} ORDER BY h.number DESC LIMIT 1"
_OF_SIZE = f"{_HEADS} WHERE h.size = %s ORDER BY h.number DESC LIMIT 1"
_BEFORE = f"{_HEADS} WHERE h.number < %s ORDER BY h.number DESC LIMIT %s"
_KEYS = "SELECT number, public_key, from_size, endorsement, since FROM seal_keys ORDER BY number"
_TREES = "SELECT tree, size, root FROM seal_trees"
_PERIOD = """SELECT count(*) FILTER (WHERE position <= %(after)s),
    count(*) FILTER (WHERE position <= %(to)s), count(*)
    FROM seal_decisions WHERE organisation_id = %(organisation_id)s"""
_POSITIONS = """SELECT position FROM seal_decisions
    WHERE organisation_id = %s AND number >= %s AND number < %s ORDER BY number"""
_INSTANT = timedelta(microseconds=1)
_LONG_AGO = datetime(1900, 1, 1, tzinfo=UTC)
#: Events in one proof of inclusion.
MOST_EVENTS = 1_000
#: Decisions in one proof of completeness: what fits a person's patience and one answer.
MOST_DECISIONS = 10_000

Document = dict[str, Any]


class Unprovable(ValueError):
    """What is asked for makes no sense or is too much; the message says why."""


class NotSealed(Exception):
    """There is no signed head that covers what is asked for (yet); the message says how far."""


class NoSuchEvent(NotSealed):
    """There is no event at a position, or it is not the asker's."""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A signed head as it is kept."""

    number: int
    size: int
    note: str
    signed_at: datetime


class Proofs:
    """Makes proofs from the tiles that the sealer keeps."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def newest(self) -> SignedHead:
        """The newest signed head.

        Raises:
            NotSealed: there is none yet.
        """
        async with self._snapshot() as connection:
            return await _head(connection, None)

    async def heads(self, before: int, limit: int) -> list[SignedHead]:
        """Signed heads of lower numbers than ``before``, newest first."""
        async with self._snapshot() as connection, _heads(connection) as cursor:
            await cursor.execute(_BEFORE, (before, limit))
            return list(await cursor.fetchall())

    async def keys(self) -> list[PublicKey]:
        """The log's public keys, oldest first."""
        async with (
            self._snapshot() as connection,
            connection.cursor(row_factory=class_row(PublicKey)) as cursor,
        ):
            return await (await cursor.execute(_KEYS)).fetchall()

    async def inclusion(
        self,
        positions: Sequence[int],
        size: int | None = None,
        *,
        organisation_id: UUID | None = None,
    ) -> Document:
        """That events are in the log, under the newest signed head or the one over ``size`` events:
        about log2(size) hashes for each.

        Args:
            positions: log positions of the events.
            size: of the head.
            organisation_id: whose events they must be; those of others are as if they were not.

        Raises:
            NotSealed: the head does not cover them, or there is no such head.
            NoSuchEvent: one is not there.
        """
        # Events stay as they are: they are read before, on a connection that is given back.
        found = await self._log.at(positions)
        async with self._snapshot() as connection:
            head = await _head(connection, size)
            last = max(positions, default=0)
            if last > head.size or min(positions, default=1) < 1:
                raise NotSealed(
                    f"position {last if last > head.size else min(positions)} is not covered by "
                    f"the signed head over {head.size} events"
                )
            for position in positions:
                mine = position in found and organisation_id in (
                    None,
                    found[position].organisation_id,
                )
                if not mine:
                    raise NoSuchEvent(f"there is no event at position {position}")
            spans = [merkle.inclusion(position - 1, head.size) for position in positions]
            hashes = await _hashes(connection, LOG, [one for path in spans for one in path])
            return {
                "proof": "inclusion",
                "events": [
                    {
                        "position": position,
                        "row": _text(row_bytes(found[position])),
                        "path": [_text(hashes[span]) for span in path],
                    }
                    for position, path in zip(positions, spans, strict=True)
                ],
                "checkpoint": head.note,
                "keys": await _keys(connection),
            }

    async def consistency(self, old: int | str, new: int | None = None) -> Document:
        """That the log under the newest signed head (or the one over ``new`` events) begins with
        exactly what an earlier head covers.

        Args:
            old: how many events the earlier head covers, or its note as the asker has kept it.
            new: how many the later one covers.

        Raises:
            NotSealed: there are no such heads.
            BadCheckpoint: the note is none.
            Unprovable: the earlier head covers more than the later one, or nothing.
        """
        async with self._snapshot() as connection:
            later = await _head(connection, new)
            if isinstance(old, str):
                size, note = parsed(old).size, old
            else:
                earlier = await _head(connection, old)
                size, note = earlier.size, earlier.note
            if not 0 < size <= later.size:
                raise Unprovable(
                    f"the later head covers {later.size} events, and the earlier one {size}: "
                    "either they are in the wrong order, or events were cut off"
                )
            spans = merkle.consistency(size, later.size)
            hashes = await _hashes(connection, LOG, spans)
            return {
                "proof": "consistency",
                "path": [_text(hashes[span]) for span in spans],
                "old_checkpoint": note,
                "checkpoint": later.note,
                "keys": await _keys(connection),
            }

    async def path(self, old: int, new: int) -> list[bytes]:
        """The bare hashes of a consistency proof between any two sizes, as witnesses want them.

        Raises:
            ValueError: the old size is not below the new one, or 0.
        """
        async with self._snapshot() as connection:
            spans = merkle.consistency(old, new)
            hashes = await _hashes(connection, LOG, spans)
            return [hashes[span] for span in spans]

    async def decisions(self, organisation_id: UUID, start: datetime, end: datetime) -> Document:
        """That a list of an organisation's decision requests is all of them that were recorded from
        ``start`` to before ``end``, as of the newest signed head.

        A period that ends later is proved up to the last event under that head, and says so. The
        organisation's requests have a tree of their own, whose size and head stand in the
        signed head. The proof holds the requests of the period and the one on either side, which
        show by their times that nothing of the period lies beyond them.

        Raises:
            NotSealed: no request of the organisation is under a signed head yet.
            Unprovable: the period is empty, or holds more than ``MOST_DECISIONS``.
        """
        if start >= end:
            raise Unprovable(f"from {start.isoformat()} to {end.isoformat()} is no period")
        # Nothing is proved behind the newest signed head: the period ends there at the latest.
        # What was recorded up to then does not change, so it may be asked before.
        newest = await self.newest()
        end = min(end, _recorded(newest.note) + _INSTANT)
        if start >= end:
            raise NotSealed(f"the signed log ends before {start.isoformat()}")
        after, to = await self._before(start), await self._before(end)
        async with self._snapshot() as connection:
            head = await _head(connection, None)
            asked = {"after": after, "to": to, "organisation_id": organisation_id}
            period = await (await connection.execute(_PERIOD, asked)).fetchone()
            assert period is not None
            first, last, size = period
            if last - first > MOST_DECISIONS:
                raise Unprovable(
                    f"{last - first} decisions were requested in this period; one proof holds "
                    f"{MOST_DECISIONS} at the most: ask for shorter ones"
                )
            tree = f"{DECISIONS}{organisation_id}"
            low, high = max(0, first - 1), min(size, last + 1)
            beside = merkle.around(low, high, size)
            hashes = await _hashes(connection, tree, beside)
            cursor = await connection.execute(_POSITIONS, (organisation_id, low, high))
            positions = [position for (position,) in await cursor.fetchall()]
            cursor = await connection.execute(_TREES)
            every = members({tree: (n, root) for tree, n, root in await cursor.fetchall()})
            leaves = [merkle.leaf_hash(member_leaf(*one)) for one in every]
            place = next((n for n, one in enumerate(every) if one[0] == organisation_id), None)
            if place is None:
                raise NotSealed("no decision request of this organisation is sealed yet")
            path = merkle.inclusion(place, len(leaves))
            proof = {
                "proof": "decisions",
                "organisation_id": str(organisation_id),
                "from": start.isoformat(),
                "to": end.isoformat(),
                "count": last - first,
                "first": low,
                "tree_size": size,
                "beside": [_text(hashes[span]) for span in beside],
                "member": place,
                "members": len(leaves),
                "member_path": [_text(merkle.root_of(leaves[low:end])) for low, end in path],
                "checkpoint": head.note,
                "keys": await _keys(connection),
            }
        events = await self._log.at(positions)
        return proof | {"rows": [_text(row_bytes(events[one])) for one in positions]}

    async def _before(self, moment: datetime) -> int:
        """The last position recorded before a moment; 0 where there is none."""
        if moment < _LONG_AGO:
            return 0
        return await self._log.position_at(moment - _INSTANT)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        """A connection whose queries all see one moment: heads and tiles fit together."""
        async with self._log.connection() as connection:
            await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
            try:
                async with connection.transaction():
                    yield connection
            finally:
                await connection.set_isolation_level(None)


def _recorded(note: str) -> datetime:
    """When the last event under a signed head was recorded."""
    [moment] = parsed(note).extension("recorded")
    return datetime.fromisoformat(moment)


def _text(value: bytes) -> str:
    return b64encode(value).decode()


def _heads(connection: Connection) -> AsyncCursor[SignedHead]:
    return connection.cursor(row_factory=class_row(SignedHead))


async def _head(connection: Connection, size: int | None) -> SignedHead:
    """The newest signed head, or the newest over so many events."""
    async with _heads(connection) as cursor:
        await (cursor.execute(_NEWEST) if size is None else cursor.execute(_OF_SIZE, (size,)))
        head = await cursor.fetchone()
    if head is None:
        raise NotSealed(
            "nothing is sealed yet"
            if size is None
            else f"no signed head covers exactly {size} events"
        )
    return head


async def _hashes(connection: Connection, tree: str, spans: Sequence[Span]) -> dict[Span, bytes]:
    """The hashes of some subtrees, from stored tiles.

    Raises:
        NotSealed: tiles are damaged.
    """
    wanted = sorted(merkle.tiles_of(spans))
    cursor = await connection.execute(
        TILES, ([tile.level for tile in wanted], [tile.number for tile in wanted], tree)
    )
    tiles = {Tile(level, at): bytes(hashes) for level, at, hashes in await cursor.fetchall()}
    try:
        return {span: merkle.hash_of(span, tiles) for span in spans}
    except (KeyError, ValueError) as error:
        raise NotSealed("stored hashes are damaged: chainlytics audit verify says more") from error


async def _keys(connection: Connection) -> list[dict[str, str | int | None]]:
    """The public keys, each with where it begins and what the one before it vouches by."""
    cursor = await connection.execute(_KEYS)
    return [
        {
            "key": _text(key),
            "from_size": from_size,
            "endorsement": None if vouched is None else _text(vouched),
        }
        for _, key, from_size, vouched, _ in await cursor.fetchall()
    ]
