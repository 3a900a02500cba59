"""Merkle trees as RFC 6962 has them: heads, and proofs of inclusion, consistency and range.

A tree is kept in tiles of 256 hashes (https://c2sp.org/tlog-tiles): tile ``number`` of ``level`` l
holds the hashes of perfect subtrees of 256^l leaves each. Any hash that a proof wants is made of
one tile, so a proof over n events reads about log256(n) tiles for each of its log2(n) hashes, most
of them the same. Everything here is pure; where tiles are kept is somebody else's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

#: RFC 6962, section 2.1: the head of a tree without leaves.
EMPTY = sha256(b"").digest()
SIZE = 32
_HEIGHT = 8
WIDTH = 1 << _HEIGHT


class Span(NamedTuple):
    """Leaves ``first`` to before ``end``, whose subtree's hash is meant."""

    first: int
    end: int


class Tile(NamedTuple):
    """Where 256 hashes stand together: a level of subtrees, and the tile's number there."""

    level: int
    number: int


#: Hashes of tiles, joined; the last tile of a level may have less than 256.
Tiles = Mapping[Tile, bytes]


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf (RFC 6962, section 2.1)."""
    return sha256(b"\0" + data).digest()


def leaf_hashes(some: Iterable[bytes]) -> list[bytes]:
    """The hashes of some leaves, in one go."""
    digest = sha256
    return [digest(b"\0" + data).digest() for data in some]


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees (RFC 6962, section 2.1)."""
    return sha256(b"\1" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The head of a tree with these leaf hashes."""
    if not hashes:
        return EMPTY
    level = list(hashes)
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        # A subtree without a sister goes up as it is: the split of RFC 6962 comes to the same.
        level = _paired(level) + odd
    return level[0]


def _paired(level: Sequence[bytes]) -> list[bytes]:
    pairs = iter(level)
    # Looked up once: this line and the leaf's are nearly all that sealing costs.
    digest = sha256
    return [
        digest(b"\1" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)
    ]


class Growing:
    """A tree that leaves are added to, and the tiles that this changes.

    Args:
        size: leaves that it has.
        tiles: for each level the last tile, where it is not full (``edge_tiles`` names them).

    Raises:
        KeyError: a tile is missing.
        ValueError: a tile is too short.
    """

    def __init__(self, size: int = 0, tiles: Tiles | None = None) -> None:
        self.size = size
        self._edge: list[list[bytes]] = []
        for tile in edge_tiles(size):
            held = (size >> _HEIGHT * tile.level) % WIDTH
            hashes = split(tiles[tile])[:held] if held and tiles is not None else []
            if len(hashes) != held:
                raise ValueError(f"{tile} has {len(hashes)} hashes instead of {held}")
            self._edge.append(hashes)

    def add(self, hashes: Iterable[bytes]) -> dict[Tile, bytes]:
        """Put leaf hashes behind the last one; the tiles that changed, whole."""
        changed: dict[Tile, bytes] = {}
        new, level = list(hashes), 0
        before, self.size = self.size, self.size + len(new)
        while new:
            if level == len(self._edge):
                self._edge.append([])
            held = self._edge[level] + new
            number = before >> _HEIGHT * (level + 1)
            full = len(held) // WIDTH * WIDTH
            for start in range(0, len(held), WIDTH):
                changed[Tile(level, number + start // WIDTH)] = b"".join(
                    held[start : start + WIDTH]
                )
            new = held[:full]
            for _ in range(_HEIGHT):
                new = _paired(new)
            self._edge[level] = held[full:]
            level += 1
        return changed

    def copy(self) -> Growing:
        """A tree of its own that begins where this one is."""
        twin = Growing()
        twin.size, twin._edge = self.size, [list(held) for held in self._edge]
        return twin

    @property
    def root(self) -> bytes:
        """The tree's head."""
        head: bytes | None = None
        for held in self._edge:
            if held:
                mine = held if head is None else [*held, head]
                # What lies to the right is smaller than one subtree of this level.
                head = root_of(mine)
        return EMPTY if head is None else head


def edge_tiles(size: int) -> list[Tile]:
    """The tile of each level that the next hash goes to, from the leaves up; it may be empty yet,
    and is not stored then."""
    found: list[Tile] = []
    level = 0
    while size >> _HEIGHT * level:
        found.append(Tile(level, size >> _HEIGHT * (level + 1)))
        level += 1
    return found


def split(data: bytes) -> list[bytes]:
    """The hashes of a tile."""
    return [data[at : at + SIZE] for at in range(0, len(data), SIZE)]


# which subtrees a proof is made of


def inclusion(leaf: int, size: int) -> list[Span]:
    """PATH of RFC 6962, section 2.1.1: the subtrees that prove a leaf, from the leaf up.

    Raises:
        ValueError: the tree has no such leaf.
    """
    if not 0 <= leaf < size:
        raise ValueError(f"leaf {leaf} is not in a tree of {size}")
    first, end = 0, size
    path: list[Span] = []
    while end - first > 1:
        middle = first + _split(end - first)
        if leaf < middle:
            path.append(Span(middle, end))
            end = middle
        else:
            path.append(Span(first, middle))
            first = middle
    return path[::-1]


def consistency(old: int, new: int) -> list[Span]:
    """PROOF of RFC 6962, section 2.1.2: the subtrees that prove a head to be one of a tree's past.

    Raises:
        ValueError: the old tree is not smaller, or empty.
    """
    if not 0 < old <= new:
        raise ValueError(f"a tree of {old} is not what a tree of {new} grew from")
    first, end = 0, new
    path: list[Span] = []
    whole = True  # whether the old tree's part of this subtree is the old head itself
    while end != old:
        middle = first + _split(end - first)
        if old <= middle:
            path.append(Span(middle, end))
            end = middle
        else:
            path.append(Span(first, middle))
            first, whole = middle, False
    if not whole:
        path.append(Span(first, end))
    return path[::-1]


def around(first: int, end: int, size: int) -> list[Span]:
    """The subtrees beside a run of leaves, left ones first: with the leaves they make the head.

    Raises:
        ValueError: the tree has no such leaves.
    """
    if not 0 <= first <= end <= size:
        raise ValueError(f"leaves {first} to {end} are not in a tree of {size}")
    found: list[Span] = []

    def cover(low: int, high: int) -> None:
        if low >= high or (first <= low and high <= end and first < end):
            return
        if high <= first or low >= end:
            found.append(Span(low, high))
            return
        middle = low + _split(high - low)
        cover(low, middle)
        cover(middle, high)

    cover(0, size)
    return found


def _split(size: int) -> int:
    """The largest power of two below a size above 1."""
    return 1 << (size - 1).bit_length() - 1


# their hashes, from tiles


def tiles_of(spans: Iterable[Span]) -> set[Tile]:
    """The tiles that the hashes of some subtrees are made of."""
    return {tile for span in spans for tile, _, _ in _pieces(span)}


def hash_of(span: Span, tiles: Tiles) -> bytes:
    """The hash of a subtree of a tree of RFC 6962.

    Raises:
        KeyError: a tile is missing.
        ValueError: a tile is too short.
    """
    hashes: list[bytes] = []
    for tile, first, count in _pieces(span):
        data = tiles[tile][first * SIZE : (first + count) * SIZE]
        if len(data) != count * SIZE:
            raise ValueError(f"{tile} has no hashes {first} to {first + count}")
        hashes.append(root_of(split(data)))
    head = hashes.pop()
    while hashes:
        head = node_hash(hashes.pop(), head)
    return head


def hashes_of(spans: Sequence[Span], read: Callable[[set[Tile]], Tiles]) -> list[bytes]:
    """The hashes of some subtrees; ``read`` gives the tiles, all at once."""
    tiles = read(tiles_of(spans))
    return [hash_of(span, tiles) for span in spans]


def _pieces(span: Span) -> list[tuple[Tile, int, int]]:
    """The perfect subtrees of a span, largest first: tile, and first hash and count within it."""
    found: list[tuple[Tile, int, int]] = []
    at, end = span
    while at < end:
        bits = (end - at).bit_length() - 1
        level = bits // _HEIGHT
        index = at >> _HEIGHT * level
        count = 1 << bits % _HEIGHT
        found.append((Tile(level, index >> _HEIGHT), index % WIDTH, count))
        at += 1 << bits
    return found
