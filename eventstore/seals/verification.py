"""Walks the whole log and holds it against every signed head: what was changed, and where first.

The events' hashes are computed anew, and the heads over them compared with what was signed. Of what
else the database says nothing is believed: the stored leaf hashes serve to name the very position,
and only where they lead to the signed head themselves.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import psycopg

from eventstore.archive.cold import dropped_rows, dropped_segments
from eventstore.seals import leaves
from eventstore.seals.checkpoint import BadCheckpoint, Head, Key, opened, origin_of
from eventstore.seals.leaves import row_bytes
from eventstore.seals.merkle import WIDTH, Growing, Tile, leaf_hash, leaf_hashes, root_of, split
from eventstore.seals.sealer import ARCHIVE, DECISIONS, LOG, members_head
from eventstore.seals.signing import chain, public_keys

#: Called with events walked and events in all.
Report = Callable[[int, int], None]

_HEADS = "SELECT number, size, note FROM seal_heads ORDER BY number"
_LEAVES = """SELECT number, hashes FROM seal_tiles
    WHERE tree = 'log' AND level = 0 AND number BETWEEN %s AND %s ORDER BY number"""
_ENDS = """SELECT (SELECT position FROM log_head),
    (SELECT coalesce(max(notification_id), 0) FROM events),
    (SELECT min(notification_id) FROM events)"""
_UPPER = "SELECT level, number, hashes FROM seal_tiles WHERE tree = 'log' AND level > 0"
_BESIDE = "SELECT level, number, hashes FROM seal_tiles WHERE tree = %s"
_DECIDED = "SELECT position FROM seal_decisions WHERE organisation_id = %s ORDER BY number"
_MANIFESTS = "SELECT manifest FROM segments ORDER BY number"
_TREES = "SELECT tree, size, root FROM seal_trees"
#: Events whose hashes are held in memory, 32 bytes each.
_AT_ONCE = 100_000
_ARCHIVED_AT_ONCE = 500


class Finding(NamedTuple):
    """Something that is not as it was sealed. ``first`` and ``last``: log positions, where it has
    some."""

    first: int | None
    last: int | None
    what: str


@dataclass(slots=True)
class Verdict:
    """What a walk over the log found; without findings, the log is what was signed."""

    origin: str
    events: int = 0
    sealed: int = 0
    heads: int = 0
    keys: int = 0
    witnessed: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing was found. Where nothing is sealed, that says nothing."""
        return not self.findings

    @property
    def proved(self) -> bool:
        """Whether the log, as far as it is sealed, is what was signed."""
        return self.holds and self.sealed > 0

    @property
    def first_bad(self) -> int | None:
        """The first position at which the log is not as it was sealed."""
        return min((one.first for one in self.findings if one.first is not None), default=None)


class _Signed(NamedTuple):
    """A signed head that the log is held against: where it is from, and what it says."""

    source: str
    head: Head


def verify(
    url: str,
    decisions: str,
    *,
    origin: str | None = None,
    witnessed: Sequence[tuple[str, str]] = (),
    report: Report = lambda done, total: None,
) -> Verdict:
    """Walk the log from its first event and compare it with every signed head.

    Args:
        url: libpq connection string.
        decisions: how the topics of decision requests begin, as the sealer was told.
        origin: the log's name, from a source that is trusted; without it, that of its first key.
        witnessed: signed heads that others kept, each with the name of its source: what was cut off
            together with its heads shows by them alone.
        report: told how far it is.

    Raises:
        ArchiveUnavailable: events that were dropped from the database cannot be read.
        psycopg.OperationalError: the database cannot be reached.
    """
    with psycopg.connect(url, connect_timeout=5) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return _Walk(connection, decisions, report).run(origin, witnessed)


class _Fork:
    """From where the events and the stored hashes say different things on: a tree of either, until
    the next signed head says which is right."""

    def __init__(self, tree: Growing) -> None:
        self._size = tree.size
        self.mine: Growing | None = tree.copy()  # None: events are missing
        self.stored: Growing | None = tree.copy()  # None: hashes are missing
        self.differences: list[Finding] = []

    def add(self, mine: Sequence[bytes | None], stored: Sequence[bytes | None]) -> None:
        first = self._size + 1
        self._size += len(mine)
        for number, (one, other) in enumerate(zip(mine, stored, strict=True), first):
            if one != other:
                what = "is missing" if one is None else "was changed"
                _extend(self.differences, Finding(number, number, what))
        self.mine = _added(self.mine, mine)
        self.stored = _added(self.stored, stored)


class _Walk:
    """One walk: a tree of what is right as far as it has come, and what was found on the way."""

    def __init__(self, connection: psycopg.Connection[Any], decisions: str, report: Report) -> None:
        self._connection = connection
        self._begin = decisions.encode()
        self._report = report
        self._tree = Growing()
        self._fork: _Fork | None = None
        self._changed = False  # whether events were found changed: what hangs on them was, too
        self._upper: dict[Tile, bytes] = {}  # tiles of the log's tree above its leaves
        self._size = 0  # events walked
        self._agreed = 0  # the size of the last head that was found right
        self._decisions: dict[str, Growing] = {}
        self._members: dict[str, tuple[int, bytes]] = {}
        self._decided: dict[str, list[int]] = {}
        self._decision_tiles: dict[str, dict[Tile, bytes]] = {}
        self._manifests: list[bytes] = []
        self._archived: dict[int, bytes] = {}
        self.verdict = Verdict("")

    def run(self, origin: str | None, witnessed: Sequence[tuple[str, str]]) -> Verdict:
        """Walk and compare."""
        keys = self._keys(origin)
        heads = self._own_heads(keys)
        self.verdict.heads = len(heads)
        for source, note in witnessed:
            heads += self._opened(source, note, keys)
        self.verdict.witnessed = len(heads) - self.verdict.heads
        heads.sort(key=lambda one: one.head.size)
        self._manifests = leaf_hashes(bytes(one) for (one,) in self._rows(_MANIFESTS))
        [(given, last, first)] = self._rows(_ENDS)
        if given is None:
            self._found("the log has lost its head")
            given = last
        if first is not None and first < 1:
            self._found("stands before the first position", first, min(0, last))
        self.verdict.events = last
        self.verdict.sealed = max((one.head.size for one in heads), default=0)
        if not heads and (keys or origin or witnessed):
            self._found("the log was sealed once, and no signed head is left")
        end = max(given, last, self.verdict.sealed)
        for one in heads:
            self._walk_to(one.head.size, end)
            if not self._agrees(one):
                return self.verdict  # what is behind cannot be judged
        self._stored_trees()
        self._tail(given, last, end)
        return self.verdict

    def _keys(self, origin: str | None) -> list[Key]:
        known = public_keys(self._connection)
        keys = [one.key for one in known]
        named = origin_of(keys[0].public_key) if keys else ""
        self.verdict.origin, self.verdict.keys = origin or named, len(keys)
        if origin is not None and named != origin:
            self._found(f"the log's first key names it {named or 'nothing'}, not {origin}")
        for number in chain(known):
            self._found(f"signing key {number} is not vouched for by the one before it")
        return keys

    def _own_heads(self, keys: Sequence[Key]) -> list[_Signed]:
        found: list[_Signed] = []
        before = 0
        for number, size, note in self._rows(_HEADS):
            for one in self._opened(f"signed head {number}", note, keys):
                if one.head.size != size:
                    self._found(f"signed head {number} covers {one.head.size} events, not {size}")
                if one.head.size < before:
                    self._found(f"signed head {number} covers less than the one before it")
                before = one.head.size
                found.append(one)
        return found

    def _opened(self, source: str, note: str, keys: Sequence[Key]) -> list[_Signed]:
        try:
            return [_Signed(source, opened(note, keys, self.verdict.origin)[0])]
        except BadCheckpoint as error:
            self._found(f"{source}: {error}")
            return []

    # events into trees

    def _walk_to(self, size: int, end: int) -> None:
        while self._size < size:
            after = self._size
            to = min(size, after + _AT_ONCE)
            mine = self._hashes(after, to)
            stored = self._stored_leaves(after, to)
            if self._fork is None and mine == stored and None not in mine:
                changed = self._tree.add(one for one in mine if one is not None)
                self._upper |= {tile: one for tile, one in changed.items() if tile.level}
            else:
                self._fork = self._fork or _Fork(self._tree)
                self._fork.add(mine, stored)
            self._size = to
            self._report(to, end)

    def _hashes(self, after: int, to: int) -> list[bytes | None]:
        """The leaf hashes of a stretch, a place for each position: None where there is none."""
        hashes: list[bytes | None] = []
        for some in _rows_of(self._connection, after, to):
            if leaves.first_wrong(some, after + len(hashes)) is None:
                hashes += leaf_hashes(some)
            else:
                for row in some:
                    position = leaves.position_of(row)
                    if position <= after + len(hashes):
                        self._found("stands on the log twice", position)
                        continue
                    hashes += [None] * (position - after - len(hashes) - 1)
                    hashes.append(leaf_hash(row))
            for row in [row for row in some if self._begin in row]:
                if leaves.topic_of(row).startswith(self._begin):
                    tree = f"{DECISIONS}{UUID(bytes=leaves.organisation_of(row))}"
                    changed = self._decisions.setdefault(tree, Growing()).add([leaf_hash(row)])
                    self._decision_tiles.setdefault(tree, {}).update(changed)
                    self._decided.setdefault(tree, []).append(leaves.position_of(row))
                    self._members.pop(tree, None)
        return hashes + [None] * (to - after - len(hashes))

    def _stored_leaves(self, after: int, to: int) -> list[bytes | None]:
        """The leaf hashes that were stored when a stretch was sealed; None where they are gone."""
        first = after // WIDTH
        tiles = {
            number: bytes(one) for number, one in self._rows(_LEAVES, first, (to - 1) // WIDTH)
        }
        found: list[bytes | None] = []
        for number in range(first, (to - 1) // WIDTH + 1):
            hashes: list[bytes | None] = list(split(tiles.get(number, b"")))
            found += (hashes + [None] * WIDTH)[:WIDTH]
        return found[after - first * WIDTH : to - first * WIDTH]

    # trees against what was signed

    def _agrees(self, signed: _Signed) -> bool:
        """Hold the log against a head; whether one can go on behind it."""
        source, head = signed
        fork, self._fork = self._fork, None
        if fork is None:
            right = self._tree.root == head.root
        elif fork.stored is not None and fork.stored.root == head.root:
            self._tree, right, self._changed = fork.stored, True, True
            for one in fork.differences:
                _extend(self.verdict.findings, one)
        elif fork.mine is not None and fork.mine.root == head.root:
            self._tree, right = fork.mine, True
            for one in fork.differences:
                self._found("the stored hash is not that of the event", one.first, one.last)
        else:
            right = False
        if not right:
            self._found(
                f"is not what {source} was signed over, and the hashes that could tell where were "
                "changed too",
                self._agreed + 1,
                head.size,
            )
            return False
        self._agreed = head.size
        if not self._changed:
            self._agree_beside(source, head)
        return True

    def _agree_beside(self, source: str, head: Head) -> None:
        """The further lines of a head: organisations' decisions, and the archive."""
        for tree, growing in self._decisions.items():
            if tree not in self._members:
                self._members[tree] = growing.size, growing.root
        count, root = members_head(self._members)
        if head.extension("decisions") != [str(count), _base64(root)]:
            self._found(f"{source}: the trees of decision requests are not what was signed")
        segments = int((head.extension("archive") or ["0"])[0])
        if segments not in self._archived:
            self._archived[segments] = root_of(self._manifests[:segments])
        there = segments <= len(self._manifests)
        if not there or head.extension("archive") != [
            str(segments),
            _base64(self._archived[segments]),
        ]:
            self._found(f"{source}: the archive's manifests are not what was signed")

    def _stored_trees(self) -> None:
        """What proofs are made from must say the same."""
        if self._changed or self._tree.size == 0:
            return
        expected = {LOG: (self._tree.size, self._tree.root)} | self._members
        stored = {tree: (size, bytes(root)) for tree, size, root in self._rows(_TREES)}
        for tree in sorted((expected.keys() | stored.keys()) - {ARCHIVE}):
            if expected.get(tree) != stored.get(tree):
                self._found(f"the stored head of the tree {tree} is not what was signed")
        upper = {Tile(level, number): bytes(one) for level, number, one in self._rows(_UPPER)}
        if self.verdict.holds and upper != self._upper:
            self._found("stored hashes above the events' were changed")
        for tree, positions in self._decided.items():
            organisation_id = tree.removeprefix(DECISIONS)
            if [one for (one,) in self._rows(_DECIDED, organisation_id)] != positions:
                self._found(f"the stored positions of the tree {tree} were changed")
            tiles = {
                Tile(level, number): bytes(one) for level, number, one in self._rows(_BESIDE, tree)
            }
            if tiles != self._decision_tiles[tree]:
                self._found(f"the stored hashes of the tree {tree} were changed")

    def _tail(self, given: int, last: int, end: int) -> None:
        """Events behind the newest head are not sealed yet; their positions have no gaps."""
        for after in range(self._size, end, _AT_ONCE):
            to = min(end, after + _AT_ONCE)
            for number, one in enumerate(self._hashes(after, to), after + 1):
                if one is None:
                    _extend(self.verdict.findings, Finding(number, number, "is missing"))
            self._report(to, end)
        if last > given:
            self._found("was not given by the log, whose head is before it", given + 1, last)

    def _found(self, what: str, first: int | None = None, last: int | None = None) -> None:
        self.verdict.findings.append(Finding(first, last if last is not None else first, what))

    def _rows(self, query: LiteralString, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()


def _rows_of(connection: psycopg.Connection[Any], after: int, to: int) -> Iterator[list[bytes]]:
    """The rows of a stretch, some at a time, wherever they are. What the database still has of a
    dropped range is read from it: that is what everybody else reads."""
    for one in dropped_segments(connection, after, to):
        first, last = max(after, one.segment.first - 1), min(to, one.segment.last)
        yield from leaves.rows(connection, after, first)
        here = {
            leaves.position_of(row): row
            for some in leaves.rows(connection, first, last)
            for row in some
        }
        some = []
        for event in dropped_rows(connection, first, last):
            some.append(here.pop(event.position, b"") or row_bytes(event))
            if len(some) == _ARCHIVED_AT_ONCE:
                yield some
                some = []
        yield some
        after = last
    yield from leaves.rows(connection, after, to)


def _added(tree: Growing | None, hashes: Sequence[bytes | None]) -> Growing | None:
    if tree is None or any(one is None for one in hashes):
        return None
    tree.add(one for one in hashes if one is not None)
    return tree


def _extend(findings: list[Finding], one: Finding) -> None:
    """Note what was found; what stands next to one another is one finding."""
    if findings and one.first is not None and one.what == findings[-1].what:
        before = findings[-1].last
        if before is not None and before + 1 == one.first:
            findings[-1] = findings[-1]._replace(last=one.last)
            return
    findings.append(one)


def _base64(value: bytes) -> str:
    return b64encode(value).decode()
