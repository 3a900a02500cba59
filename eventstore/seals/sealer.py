"""The sealer: hashes what the log has got since, adds it to the trees, and signs their heads.

It reads what is committed and writes its own tables, so no append ever waits for it. Tiles, trees
and signed head of a stretch are one transaction: killed anywhere, it goes on behind the last one.
"""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import psycopg
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from eventstore.seals import leaves
from eventstore.seals.checkpoint import BadCheckpoint, Head, parsed, signed
from eventstore.seals.merkle import (
    EMPTY,
    Growing,
    Span,
    Tile,
    edge_tiles,
    hash_of,
    leaf_hash,
    leaf_hashes,
    root_of,
    tiles_of,
)
from eventstore.seals.signing import WrongKey, registered

LOG, ARCHIVE, DECISIONS = "log", "archive", "decisions/"
_SEALING = 0x_C4A1_0007
#: Events under one signed head: as many as are hashed in a fraction of a second.
_STRETCH = 100_000
_WHOLE = timedelta(days=7)
_THIN_EVERY_S = 3600.0
_log = structlog.get_logger(__name__)

_TREES = "SELECT tree, size, root FROM seal_trees"
TILES = """SELECT t.level, t.number, t.hashes
    FROM unnest(%s::smallint[], %s::bigint[]) AS w (level, number)
    JOIN seal_tiles t ON t.tree = %s AND t.level = w.level AND t.number = w.number"""
_PUT_TILES = """INSERT INTO seal_tiles (tree, level, number, hashes)
    SELECT %s, * FROM unnest(%s::smallint[], %s::bigint[], %b::bytea[])
    ON CONFLICT (tree, level, number) DO UPDATE SET hashes = excluded.hashes"""
_PUT_TREE = """INSERT INTO seal_trees (tree, size, root) VALUES (%s, %s, %s)
    ON CONFLICT (tree) DO UPDATE SET size = excluded.size, root = excluded.root"""
_PUT_DECISIONS = """INSERT INTO seal_decisions (organisation_id, number, position)
    SELECT %s, * FROM unnest(%s::bigint[], %s::bigint[])"""
_PUT_HEAD = """INSERT INTO seal_heads (number, size, note)
    SELECT coalesce(max(number), -1) + 1, %s, %s FROM seal_heads RETURNING number"""
_SEGMENTS = "SELECT manifest FROM segments WHERE number >= %s ORDER BY number"
# Of the heads of an hour the last one stays; so does the newest, which may be of this hour.
_THIN = """DELETE FROM seal_heads h WHERE signed_at < clock_timestamp() - %s AND EXISTS (
    SELECT FROM seal_heads later WHERE later.number > h.number
    AND date_trunc('hour', later.signed_at) = date_trunc('hour', h.signed_at))"""
_NEWEST = "SELECT note FROM seal_heads ORDER BY number DESC LIMIT 1"
_RECORDED = "SELECT recorded_at FROM events WHERE notification_id = %s"

#: Called with events sealed and events in all.
Report = Callable[[int, int], None]


class SealingRefused(Exception):
    """The log, or what is stored of its seals, is not what was signed before: nothing is signed any
    more until somebody has looked. The message says what was found."""


class LogBroken(SealingRefused):
    """The log does not have an event that it must have; nothing behind it is sealed."""

    def __init__(self, position: int) -> None:
        self.position = position
        super().__init__(
            f"position {position} is missing from the log: events were changed or deleted in the "
            "database; nothing from there on is sealed"
        )


@dataclass(frozen=True, slots=True)
class Sealed:
    """A signed head: its number, how many events it covers, and the note."""

    number: int
    size: int
    note: str


class Sealer:
    """Seals the log up to its head. Of several processes one does it at a time.

    Nothing is signed that does not grow from what was signed before: the stored trees must be those
    of the newest signed head, and that must grow from the last one that this sealer remembers
    outside of the database, or else whoever can write to the database could have a changed log
    signed anew.

    Args:
        url: libpq connection string.
        key: gives the key that signs; asked each time, so that a rotated one is taken. The first
            one that is used names the log.
        decisions: how the topics begin of those events of which each organisation has a tree of
            its own, so that a list of them can be proved to be complete.
        memory: a file with the last head that was signed; None: nothing is remembered.
        stretch: events under one signed head at most.
    """

    def __init__(
        self,
        url: str,
        key: Callable[[], Ed25519PrivateKey],
        decisions: str,
        *,
        memory: Path | None = None,
        stretch: int = _STRETCH,
    ) -> None:
        self._url = url
        self._key = key
        self._decisions = decisions.encode()
        self._memory = memory
        self._stretch = stretch

    def seal(self, report: Report = lambda done, total: None) -> Sealed | None:
        """Seal everything that is committed now; the newest head, None where nothing is new.

        Raises:
            LogBroken: an event is missing. What is before it is sealed.
            SealingRefused: what was signed before is not what the database has.
            WrongKey: the log has another newest key.
            psycopg.OperationalError: the database went away.
        """
        newest: Sealed | None = None
        key = self._key()
        with psycopg.connect(self._url, connect_timeout=5) as connection:
            # What comes in meanwhile waits for the next time, so that a busy log has few heads.
            (head,) = _row(connection, "SELECT position FROM log_head")
            connection.commit()
            while newest is None or newest.size < head:
                with connection.transaction():
                    one = self._step(connection, key, head)
                if one is None:
                    break
                self._remember(one.note)
                newest = one
                report(one.size, head)
        return newest

    def forget(self) -> None:
        """Believe the database as it is: a backup was put in the place of the log on purpose."""
        if self._memory is not None:
            self._memory.unlink(missing_ok=True)

    def thin(self, older_than: timedelta) -> int:
        """Keep one signed head an hour of those that are older; how many went."""
        with psycopg.connect(self._url, connect_timeout=5) as connection:
            return connection.execute(_THIN, (older_than,)).rowcount

    def _step(
        self, connection: psycopg.Connection[Any], key: Ed25519PrivateKey, head: int
    ) -> Sealed | None:
        """Seal the next stretch up to ``head``; None where there is none, or somebody else is at
        it."""
        (mine,) = _row(connection, "SELECT pg_try_advisory_xact_lock(%s)", _SEALING)
        if not mine:
            return None
        origin = registered(connection, key)
        trees = {tree: (size, bytes(root)) for tree, size, root in connection.execute(_TREES)}
        last = self._check(connection, origin, trees)
        size = trees[LOG][0] if LOG in trees else 0
        archived = trees[ARCHIVE][0] if ARCHIVE in trees else 0
        if head < size:
            raise SealingRefused(f"{size} events were sealed, and the log has only {head}")
        manifests = [bytes(one) for (one,) in connection.execute(_SEGMENTS, (archived,))]
        to = min(head, size + self._stretch)
        if to <= size and not manifests:
            return None

        log = _Tree(connection, LOG, trees)
        decisions = self._hashed(connection, size, to, log)
        trees[LOG] = log.stored(connection)
        if manifests:
            archive = _Tree(connection, ARCHIVE, trees)
            archive.add(leaf_hashes(manifests))
            trees[ARCHIVE] = archive.stored(connection)
        for organisation_id, found in decisions.items():
            tree = _Tree(connection, f"{DECISIONS}{organisation_id}", trees)
            numbers = list(range(tree.size, tree.size + len(found)))
            tree.add([hashed for _, hashed in found])
            trees[tree.name] = tree.stored(connection)
            positions = [position for position, _ in found]
            connection.execute(_PUT_DECISIONS, (organisation_id, numbers, positions))
        if last is not None and last.size == to:  # its last event may be dropped already
            recorded = last.extension("recorded")
        else:
            (moment,) = _row(connection, _RECORDED, to)
            recorded = [moment.astimezone(UTC).isoformat()]
        note = signed(head_of(origin, trees, recorded), key)
        (number,) = _row(connection, _PUT_HEAD, to, note)
        return Sealed(number, to, note)

    def _check(
        self,
        connection: psycopg.Connection[Any],
        origin: str,
        trees: Mapping[str, tuple[int, bytes]],
    ) -> Head | None:
        """The newest signed head, if there is one.

        Raises:
            SealingRefused: the stored trees are not what was signed last.
        """
        (before,) = _row(
            connection,
            "SELECT count(*) FROM (SELECT FROM events WHERE notification_id < 1 LIMIT 1)",
        )
        if before:
            raise SealingRefused("an event stands before position 1: it was put there by hand")
        newest = connection.execute(_NEWEST).fetchone()
        last = None if newest is None else parsed(newest[0])
        if last is None:
            if trees:
                raise SealingRefused("there are trees, and no signed head of them")
        else:
            now = head_of(origin, trees, ())
            if (now.origin, now.size, now.root) != (last.origin, last.size, last.root) or any(
                now.extension(name) != last.extension(name) for name in ("decisions", "archive")
            ):
                raise SealingRefused("the stored trees are not those that were signed last")
        if self._memory is not None and self._memory.exists():
            self._check_growth(connection, origin, trees.get(LOG, (0, EMPTY)))
        return last

    def _check_growth(
        self, connection: psycopg.Connection[Any], origin: str, now: tuple[int, bytes]
    ) -> None:
        assert self._memory is not None
        try:
            known = parsed(self._memory.read_text(encoding="utf-8"))
        except (BadCheckpoint, OSError) as error:
            raise SealingRefused(f"{self._memory}: {error}") from error
        size, root = now
        if known.origin != origin:
            raise SealingRefused(f"{self._memory} is of another log, {known.origin}")
        if known.size > size:
            found = f"the database knows of {size} sealed events, {known.size} were signed before"
        elif known.size == size:
            found = "" if known.root == root else "another log of the same size was signed before"
        else:
            spans = [Span(0, known.size), Span(0, size)]
            tiles = read_tiles(connection, LOG, spans)
            try:
                same = [hash_of(span, tiles) for span in spans] == [known.root, root]
            except (KeyError, ValueError):
                same = False
            found = "" if same else "the log does not grow from what was signed before"
        if found:
            raise SealingRefused(
                f"{found}; if a backup was put in its place on purpose, say so: "
                "chainlytics audit seal --restored"
            )

    def _remember(self, note: str) -> None:
        if self._memory is None:
            return
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        part = self._memory.with_name(f"{self._memory.name}.{os.getpid()}")
        with part.open("w", encoding="utf-8") as opened:
            opened.write(note)
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(self._memory)

    def _hashed(
        self, connection: psycopg.Connection[Any], after: int, to: int, log: _Tree
    ) -> dict[UUID, list[tuple[int, bytes]]]:
        """Put the events of a stretch into the log's tree; position and hash of those that are
        decision requests, by organisation."""
        decisions: dict[UUID, list[tuple[int, bytes]]] = {}
        begin, position = self._decisions, after
        for some in leaves.rows(connection, after, to):
            wrong = leaves.first_wrong(some, position)
            if wrong is not None:
                raise LogBroken(position + wrong + 1)
            hashes = leaf_hashes(some)
            # A look at all of the bytes is quicker than finding each topic.
            asked = enumerate(some) if begin in b"".join(some) else ()
            for number in [n for n, row in asked if begin in row]:
                if leaves.topic_of(some[number]).startswith(begin):
                    organisation_id = UUID(bytes=leaves.organisation_of(some[number]))
                    found = decisions.setdefault(organisation_id, [])
                    found.append((position + number + 1, hashes[number]))
            # Now, not at the end: the database goes on sending meanwhile.
            log.add(hashes)
            position += len(some)
        if position != to:
            raise LogBroken(position + 1)
        return decisions


class _Tree:
    """A stored tree that is added to.

    Raises:
        SealingRefused: what is stored of it does not make its root.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        name: str,
        trees: Mapping[str, tuple[int, bytes]],
    ) -> None:
        self.name = name
        self.size, root = trees.get(name, (0, EMPTY))
        try:
            tiles = tiles_at(connection, name, edge_tiles(self.size))
            self._growing = Growing(self.size, tiles)
        except (KeyError, ValueError) as error:
            raise SealingRefused(f"the stored hashes of the tree {name} are damaged") from error
        if self._growing.root != root:
            raise SealingRefused(f"the stored hashes of the tree {name} were changed")
        self._changed: dict[Tile, bytes] = {}

    def add(self, hashes: Iterable[bytes]) -> None:
        """Put leaves behind the last one."""
        self._changed |= self._growing.add(hashes)

    def stored(self, connection: psycopg.Connection[Any]) -> tuple[int, bytes]:
        """Store what changed; the new size and root."""
        size, root = self._growing.size, self._growing.root
        tiles = list(self._changed)
        connection.execute(
            _PUT_TILES,
            (
                self.name,
                [tile.level for tile in tiles],
                [tile.number for tile in tiles],
                [self._changed[tile] for tile in tiles],
            ),
        )
        connection.execute(_PUT_TREE, (self.name, size, root))
        return size, root


def head_of(origin: str, trees: Mapping[str, tuple[int, bytes]], recorded: Sequence[str]) -> Head:
    """What is signed of some trees; ``recorded``: when the last event was, RFC 3339, if known."""
    size, root = trees.get(LOG, (0, EMPTY))
    count, members = members_head(trees)
    segments, archive = trees.get(ARCHIVE, (0, EMPTY))
    moment = [f"recorded {one}" for one in recorded]
    lines = (f"decisions {count} {_base64(members)}", f"archive {segments} {_base64(archive)}")
    return Head(origin, size, root, (*moment, *lines))


def tiles_at(
    connection: psycopg.Connection[Any], tree: str, tiles: Iterable[Tile]
) -> dict[Tile, bytes]:
    """Some tiles of a tree, as far as they are stored."""
    wanted = sorted(tiles)
    found = connection.execute(
        TILES, ([tile.level for tile in wanted], [tile.number for tile in wanted], tree)
    )
    return {Tile(level, number): bytes(hashes) for level, number, hashes in found}


def read_tiles(
    connection: psycopg.Connection[Any], tree: str, spans: Iterable[Span]
) -> dict[Tile, bytes]:
    """The tiles that the hashes of some subtrees are made of."""
    return tiles_at(connection, tree, tiles_of(spans))


def member_leaf(organisation_id: UUID, size: int, root: bytes) -> bytes:
    """What stands for an organisation's tree of decision requests in the signed head: its id (16
    bytes), how many there are (8 bytes, big endian), their head (32 bytes)."""
    return organisation_id.bytes + size.to_bytes(8, "big") + root


def members(trees: Mapping[str, tuple[int, bytes]]) -> list[tuple[UUID, int, bytes]]:
    """The trees of decision requests, by organisation id."""
    return sorted(
        (UUID(tree.removeprefix(DECISIONS)), size, root)
        for tree, (size, root) in trees.items()
        if tree.startswith(DECISIONS)
    )


def members_head(trees: Mapping[str, tuple[int, bytes]]) -> tuple[int, bytes]:
    """How many organisations have a tree of decision requests, and the head over those trees."""
    found = [leaf_hash(member_leaf(*one)) for one in members(trees)]
    return len(found), root_of(found)


async def keep_sealed(sealer: Sealer, *, every: timedelta, whole: timedelta = _WHOLE) -> None:
    """Seal now and then, until cancelled. Of the signed heads that are older than ``whole``, one an
    hour is kept: a later one covers all that an earlier one did."""
    thinned = -inf
    while True:
        try:
            newest = await asyncio.to_thread(sealer.seal)
            if monotonic() - thinned > _THIN_EVERY_S:
                thinned = monotonic()
                await asyncio.to_thread(sealer.thin, whole)
            if newest is not None:
                _log.debug("sealed", events=newest.size, head=newest.number)
        except SealingRefused as error:
            _log.critical("nothing is sealed: something was changed", error=str(error))
        except WrongKey as error:
            _log.error("the log is not sealed", error=str(error))
        except psycopg.Error as error:
            _log.warning("sealing later", error=str(error).strip())
        await asyncio.sleep(every.total_seconds())


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _row(connection: psycopg.Connection[Any], query: str, *values: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query, values).fetchone()
    assert row is not None
    return row
