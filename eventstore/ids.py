"""Ids that follow from a name: RFC 9562 version 5, at half the price of the standard library's."""

from __future__ import annotations

from hashlib import sha1
from uuid import UUID, SafeUUID

_KEEP = ~(0xF000 << 64 | 0xC000 << 48) & (1 << 128) - 1
_VERSION_5 = 0x5000 << 64 | 0x8000 << 48
_new, _set, _safe = object.__new__, object.__setattr__, SafeUUID.unknown


def named_id(namespace: UUID, name: str) -> UUID:
    """``uuid.uuid5(namespace, name)``: the constructor that checks six ways in is left out."""
    digest = sha1(namespace.bytes + name.encode(), usedforsecurity=False).digest()
    made = _new(UUID)
    _set(made, "int", int.from_bytes(digest[:16], "big") & _KEEP | _VERSION_5)
    _set(made, "is_safe", _safe)
    return made
