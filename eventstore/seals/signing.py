"""The log's signing keys: made, kept in a file that only its owner reads, followed by others.

Public keys stand in `seal_keys` in their order. Each but the first is vouched for by the one before
it, and the log's name follows from the first, so an auditor who knows the name needs no more.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg.rows import class_row

from eventstore.seals.checkpoint import Key, endorsed, endorsement, origin_of

_KEYS = "SELECT number, public_key, from_size, endorsement, since FROM seal_keys ORDER BY number"
_ADD = "INSERT INTO seal_keys (number, public_key, from_size, endorsement) VALUES (%s, %s, %s, %s)"
_SEALED = "SELECT coalesce((SELECT size FROM seal_trees WHERE tree = 'log'), 0)"
_NEXT = ".next"


class WrongKey(Exception):
    """A signing key that is none, or that is not the log's newest; the message says what to do."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key of the log: 32 bytes, from which size on it signs, and by what the one before it
    vouches for that."""

    number: int
    public_key: bytes
    from_size: int
    endorsement: bytes | None
    since: datetime

    @property
    def key(self) -> Key:
        """As heads are checked with it."""
        return Key(self.public_key, self.from_size)


def read_key(text: str) -> Ed25519PrivateKey:
    """A private key from its base64 form.

    Raises:
        WrongKey: it is none.
    """
    try:
        return Ed25519PrivateKey.from_private_bytes(b64decode(text.strip(), validate=True))
    except (Base64Error, ValueError) as error:
        raise WrongKey("a signing key is 32 bytes in base64") from error


def key_of(file: Path) -> Ed25519PrivateKey:
    """The private key in a file; made there where there is none.

    Raises:
        WrongKey: the file holds something else.
    """
    try:
        return read_key(file.read_text(encoding="ascii"))
    except FileNotFoundError:
        with suppress(FileExistsError):  # somebody else was quicker
            _write(file, Ed25519PrivateKey.generate())
        return read_key(file.read_text(encoding="ascii"))


def public_keys(connection: psycopg.Connection[Any]) -> list[PublicKey]:
    """The log's public keys, oldest first."""
    with connection.cursor(row_factory=class_row(PublicKey)) as cursor:
        return cursor.execute(_KEYS).fetchall()


def registered(connection: psycopg.Connection[Any], key: Ed25519PrivateKey) -> str:
    """The log's name, of a key that is its newest; the first one names the log.

    Raises:
        WrongKey: the log has another newest key.
    """
    mine = key.public_key().public_bytes_raw()
    known = public_keys(connection)
    if not known:
        connection.execute(_ADD, (0, mine, 0, None))
        return origin_of(mine)
    if known[-1].public_key != mine:
        former = any(one.public_key == mine for one in known)
        raise WrongKey(
            "the signing key was replaced by a newer one, which is wanted now"
            if former
            else "the signing key is not the one of this log: put the log's key in its place "
            "(CHAINLYTICS_SEAL_KEY, or seal.key in CHAINLYTICS_HOME), or replace it by "
            "`chainlytics audit rotate-key`"
        )
    return origin_of(known[0].public_key)


def rotate(connection: psycopg.Connection[Any], file: Path, *, lost: bool = False) -> PublicKey:
    """Put a new key in the place of the one in a file, vouched for by it.

    Cut off anywhere, the next call finds the new key whole or not at all: it stands beside the old
    one before the log knows it, and takes its place after.

    Args:
        connection: to the log's database; the change is committed.
        file: where the private key is.
        lost: the old key is gone: nobody vouches for the new one, and every check says so.

    Raises:
        WrongKey: the key in the file is not the log's newest.
    """
    finish_rotation(connection, file)
    if not lost and not file.exists():
        raise WrongKey(f"there is no signing key in {file}; --lost says that it is gone for good")
    old = None if lost else key_of(file)
    # No head is signed between, and no other key put in: both write this table or look at it.
    connection.execute("LOCK TABLE seal_keys IN EXCLUSIVE MODE")
    if old is not None:
        registered(connection, old)
    known = public_keys(connection)
    sealed = connection.execute(_SEALED).fetchone()
    assert sealed is not None
    new = Ed25519PrivateKey.generate()
    beside = file.with_name(file.name + _NEXT)
    beside.unlink(missing_ok=True)  # of a rotation that never came to the log
    _write(beside, new)
    successor = Key(new.public_key().public_bytes_raw(), sealed[0])
    vouched = None if old is None else endorsement(old, successor)
    connection.execute(_ADD, (len(known), *successor, vouched))
    connection.commit()
    finish_rotation(connection, file)
    return public_keys(connection)[-1]


def finish_rotation(connection: psycopg.Connection[Any], file: Path) -> None:
    """Where a rotation was cut off behind its commit, put the new key in its place."""
    beside = file.with_name(file.name + _NEXT)
    if not beside.exists():
        return
    known = public_keys(connection)
    new = read_key(beside.read_text(encoding="ascii"))
    if known and known[-1].public_key == new.public_key().public_bytes_raw():
        beside.replace(file)


def chain(keys: Sequence[PublicKey]) -> list[int]:
    """The numbers of the keys that the one before them does not vouch for; the first needs none."""
    return [
        key.number
        for before, key in pairwise(keys)
        if key.endorsement is None
        or key.from_size < before.from_size
        or not endorsed(before.public_key, key.endorsement, key.key)
    ]


def _write(file: Path, key: Ed25519PrivateKey) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Whole under its name or not there: a key that is half written would be lost for good.
    part = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(b64encode(key.private_bytes_raw()) + b"\n")
        opened.flush()
        os.fsync(opened.fileno())
    try:
        os.link(part, file)
    finally:
        part.unlink()
