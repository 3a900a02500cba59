"""Merkle trees: the published vectors, and properties against the definition of RFC 6962."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlytics import verifier
from chainlytics.verifier import NotProved
from eventstore.seals import merkle
from eventstore.seals.merkle import Growing, Span, Tile

# The eight leaves of Certificate Transparency's reference implementation, and the heads over the
# first 0 to 8 of them (google/certificate-transparency, merkletree/merkle_tree_test.cc).
LEAVES = [
    bytes.fromhex(one)
    for one in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
HEADS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# Of the same source: (leaf, size, path) and (old, new, path), leaves counted from 0.
PATHS = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
GROWTHS = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]

sizes = st.integers(1, 70_000)


def defined(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word by word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\1" + defined(leaves[:k]) + defined(leaves[k:])).digest()


def hashes(size: int) -> list[bytes]:
    return [merkle.leaf_hash(b"%d" % number) for number in range(size)]


def grown(size: int, *, at: list[int] | None = None) -> tuple[Growing, dict[Tile, bytes]]:
    """A tree of so many leaves that was added to at some sizes, and all of its tiles."""
    tree, tiles = Growing(), dict[Tile, bytes]()
    leaves = hashes(size)
    for end in [*sorted(at or []), size]:
        tiles |= tree.add(leaves[tree.size : end])
    return tree, tiles


@pytest.mark.parametrize("size", range(9))
def test_the_published_heads(size: int) -> None:
    found = merkle.root_of([merkle.leaf_hash(leaf) for leaf in LEAVES[:size]])
    assert found.hex() == HEADS[size] == defined(LEAVES[:size]).hex()


@pytest.mark.parametrize(("leaf", "size", "path"), PATHS)
def test_the_published_inclusion_proofs(leaf: int, size: int, path: list[str]) -> None:
    tree = Growing()
    tiles = tree.add([merkle.leaf_hash(one) for one in LEAVES[:size]])
    spans = merkle.inclusion(leaf, size)
    assert [merkle.hash_of(span, tiles).hex() for span in spans] == path
    told = [bytes.fromhex(one) for one in path]
    found = verifier.root_by_inclusion(merkle.leaf_hash(LEAVES[leaf]), leaf, size, told)
    assert found.hex() == HEADS[size]


@pytest.mark.parametrize(("old", "new", "path"), GROWTHS)
def test_the_published_consistency_proofs(old: int, new: int, path: list[str]) -> None:
    tiles = Growing().add([merkle.leaf_hash(one) for one in LEAVES[:new]])
    spans = merkle.consistency(old, new)
    assert [merkle.hash_of(span, tiles).hex() for span in spans] == path
    told = [bytes.fromhex(one) for one in path]
    heads = bytes.fromhex(HEADS[old]), bytes.fromhex(HEADS[new])
    verifier.check_consistency(old, heads[0], new, heads[1], told)


@given(st.integers(0, 600), st.lists(st.integers(0, 600), max_size=5))
def test_a_tree_is_the_same_however_it_grew(size: int, at: list[int]) -> None:
    tree, tiles = grown(size, at=[one for one in at if one < size])
    assert tree.root == defined([b"%d" % number for number in range(size)])
    assert merkle.root_of(hashes(size)) == tree.root
    _, once = grown(size)
    assert tiles == once


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_001])
def test_a_tree_goes_on_from_its_stored_tiles(size: int) -> None:
    tree, tiles = grown(size)
    again = Growing(size, tiles)
    assert again.root == tree.root == merkle.root_of(hashes(size))
    assert again.add(hashes(size + 300)[size:]) == tree.add(hashes(size + 300)[size:])
    assert again.root == merkle.root_of(hashes(size + 300))


@given(sizes, st.data())
def test_every_proof_holds_and_no_other(size: int, data: st.DataObject) -> None:
    tree, tiles = _large(size)
    leaf = data.draw(st.integers(0, size - 1))
    path = [merkle.hash_of(span, tiles) for span in merkle.inclusion(leaf, size)]
    assert len(path) <= size.bit_length()
    mine = merkle.leaf_hash(b"%d" % leaf)
    assert verifier.root_by_inclusion(mine, leaf, size, path) == tree
    other = data.draw(st.integers(0, size - 1).filter(lambda one: size == 1 or one != leaf))
    if other != leaf:
        with pytest.raises((NotProved, AssertionError)):
            assert verifier.root_by_inclusion(mine, other, size, path) == tree

    old = data.draw(st.integers(1, size))
    growth = [merkle.hash_of(span, tiles) for span in merkle.consistency(old, size)]
    before = _large(old)[0]
    verifier.check_consistency(old, before, size, tree, growth)
    for changed in (
        (old, bytes(32), size, tree, growth),
        (old, before, size, bytes(32), growth),
        (old, before, size, tree, [*growth, bytes(32)]),
        *(((old, before, size, tree, growth[:-1]),) if growth else ()),
    ):
        with pytest.raises(NotProved):
            verifier.check_consistency(*changed)


@given(sizes, st.data())
def test_a_run_of_leaves_and_what_is_beside_it_make_the_head(
    size: int, data: st.DataObject
) -> None:
    tree, tiles = _large(size)
    first = data.draw(st.integers(0, size))
    end = data.draw(st.integers(first, min(size, first + 40)))
    beside = [merkle.hash_of(span, tiles) for span in merkle.around(first, end, size)]
    run = _LEAVES[first:end]
    if run or beside:
        assert verifier.root_by_run(run, first, size, beside) == tree
    if len(run) > 1:
        swapped = [run[1], run[0], *run[2:]]
        assert verifier.root_by_run(swapped, first, size, beside) != tree
    with pytest.raises(NotProved):
        verifier.root_by_run(run, first, size, [*beside, bytes(32)])


@given(st.integers(1, 2**40), st.data())
def test_a_proof_reads_few_tiles(size: int, data: st.DataObject) -> None:
    leaf = data.draw(st.integers(0, size - 1))
    spans = merkle.inclusion(leaf, size)
    levels = -(-size.bit_length() // 8)
    assert len(merkle.tiles_of(spans)) <= 3 * levels


@pytest.mark.parametrize(("leaf", "size"), [(-1, 4), (4, 4), (0, 0)])
def test_there_is_no_proof_of_what_is_not_there(leaf: int, size: int) -> None:
    with pytest.raises(ValueError, match="is not in a tree"):
        merkle.inclusion(leaf, size)


def test_a_tile_that_is_too_short_is_not_filled_up() -> None:
    _, tiles = grown(300)
    short = {**tiles, Tile(0, 1): tiles[Tile(0, 1)][:64]}
    with pytest.raises(ValueError, match="has no hashes"):
        merkle.hash_of(Span(256, 300), short)


_LEAVES = hashes(70_000)
_TREE, _TILES = grown(70_000)


def _large(size: int) -> tuple[bytes, dict[Tile, bytes]]:
    """The head of the first so many leaves of one large tree, and tiles with its hashes."""
    spans = merkle._pieces(Span(0, size))
    heads = [merkle.root_of(merkle.split(_TILES[tile])[at : at + n]) for tile, at, n in spans]
    while len(heads) > 1:
        right = heads.pop()
        heads.append(merkle.node_hash(heads.pop(), right))
    return heads[0], _TILES
