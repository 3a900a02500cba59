"""Whether a head is of another head's past: checks consistency proofs (RFC 9162, 2.1.4.2)."""

from __future__ import annotations

from collections.abc import Sequence

from eventstore.seals.checkpoint import Head
from eventstore.seals.merkle import node_hash


def consistent(old: Head, new: Head, path: Sequence[bytes]) -> bool:
    """Whether the first ``old.size`` leaves of the tree ``new`` make the tree ``old``.

    ``path``: hashes of 32 bytes as RFC 6962 has them; none where the sizes are the same, or the old
    one is 0.
    """
    if old.size > new.size:
        return False
    if old.size in (0, new.size):
        return not path and (old.size == 0 or old.root == new.root)
    hashes = list(path)
    if old.size & (old.size - 1) == 0:  # a perfect tree is in the new one as it is
        hashes.insert(0, old.root)
    if not hashes:
        return False
    # The last leaf of each tree, on its way up. Below where the old one's is a left child nothing
    # is proved: that subtree is the first hash.
    old_at, new_at = old.size - 1, new.size - 1
    while old_at & 1:
        old_at, new_at = old_at >> 1, new_at >> 1
    old_root = new_root = hashes[0]
    for sister in hashes[1:]:
        if new_at == 0:
            return False
        if old_at & 1 or old_at == new_at:
            old_root, new_root = node_hash(sister, old_root), node_hash(sister, new_root)
            while old_at and not old_at & 1:
                old_at, new_at = old_at >> 1, new_at >> 1
        else:
            new_root = node_hash(new_root, sister)
        old_at, new_at = old_at >> 1, new_at >> 1
    return new_at == 0 and old_root == old.root and new_root == new.root
