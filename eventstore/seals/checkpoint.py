"""Signed tree heads, as C2SP has them: checkpoints (c2sp.org/tlog-checkpoint) in signed notes
(c2sp.org/signed-note) with Ed25519. A person can read one, and any witness can check it.

    chainlytics/5b1ff0...            the log's origin: it follows from its first public key
    48291                            events
    Vq2Zl...                         RFC 6962 head over them, base64
    recorded 2026-11-21T20:37:36Z    when the last of them was recorded
    decisions 3 qx8s...              organisations, and the head over their decision requests
    archive 12 9fJk...               segments of the archive, and the head over their manifests

    — chainlytics/5b1ff0... <key hash and signature, base64>
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_ED25519 = b"\1"  # the kind of signature, in a key's hash
_SIGNATURE = re.compile(r"^— (\S+) (\S+)$")
_ORIGIN = re.compile(r"^chainlytics/[0-9a-f]{32}$")
_NOTE = re.compile(r"^chainlytics/[0-9a-f]{32}\n(?:[^\n]+\n)+\n(?:— [^\n]+\n)+", re.MULTILINE)
_ENDORSED = b"chainlytics key endorsement v2\n"


class BadCheckpoint(ValueError):
    """A text that is no checkpoint, or is not signed by who it should be; the message says why."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a checkpoint says of a log: ``size`` events under ``root``, and further lines."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def body(self) -> str:
        """The text that is signed."""
        lines = (self.origin, str(self.size), b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    def extension(self, name: str) -> list[str]:
        """The words behind a name on its line; none where there is no such line."""
        found = [line.split(" ")[1:] for line in self.extensions if line.split(" ")[0] == name]
        return found[0] if found else []


def origin_of(first_key: bytes) -> str:
    """The name of the log whose first public key this is (32 bytes): who knows the name knows
    which keys to believe, for every later key is vouched for by the one before it."""
    return f"chainlytics/{sha256(first_key).hexdigest()[:32]}"


def signed(head: Head, key: Ed25519PrivateKey) -> str:
    """The head as a signed note."""
    signature = key.sign(head.body.encode())
    hashed = key_hash(head.origin, public_bytes(key.public_key()))
    return f"{head.body}\n— {head.origin} {b64encode(hashed + signature).decode()}\n"


class Key(NamedTuple):
    """A public key (32 bytes) that is believed, and the size of the smallest head that it signs:
    there the key before it ends."""

    public_key: bytes
    from_size: int = 0


def opened(note: str, keys: Sequence[Key], origin: str | None = None) -> tuple[Head, int]:
    """What a signed note says, and the number of the key that signed it.

    Args:
        note: the whole text.
        keys: public keys that are believed, in their order.
        origin: the log that it must be of.

    Raises:
        BadCheckpoint: it is none, of another log, or signed by none of the keys that may sign it.
    """
    head = parsed(note)
    if origin is not None and head.origin != origin:
        raise BadCheckpoint(f"it is of the log {head.origin}, not of {origin}")
    body = head.body.encode()
    for signature in _signatures(note, head.origin):
        for number, (key, from_size) in enumerate(keys):
            if signature[:4] != key_hash(head.origin, key):
                continue
            if not verified(key, signature[4:], body):
                continue
            end = keys[number + 1].from_size if number + 1 < len(keys) else head.size
            if not from_size <= head.size <= end:
                raise BadCheckpoint(f"key {number} signed it, which had no say over that size")
            return head, number
    raise BadCheckpoint("none of the log's keys signed it")


def parsed(note: str) -> Head:
    """What a signed note says; its signature is not looked at.

    Raises:
        BadCheckpoint: it is none.
    """
    body, blank, _ = note.partition("\n\n")
    lines = body.split("\n")
    if not blank or len(lines) < 3 or "" in lines:
        raise BadCheckpoint("it has not the form of a signed checkpoint")
    origin, size, root, *extensions = lines
    if not _ORIGIN.fullmatch(origin):
        raise BadCheckpoint(f"{origin!r} is not the origin of such a log")
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", size):
        raise BadCheckpoint(f"{size!r} is not a number of events")
    try:
        hashed = b64decode(root, validate=True)
    except Base64Error as error:
        raise BadCheckpoint(f"{root!r} is not base64") from error
    if len(hashed) != 32:
        raise BadCheckpoint(f"its root has {len(hashed)} bytes instead of 32")
    names = [line.split(" ")[0] for line in extensions]
    if len(set(names)) != len(names):
        raise BadCheckpoint("it has a line twice")
    return Head(origin, int(size), hashed, tuple(extensions))


def notes_in(text: str) -> list[str]:
    """The signed notes that stand one behind another in a text, as a witness keeps them.

    Raises:
        BadCheckpoint: there is none, or something else stands between them.
    """
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n").strip() + "\n"
    found = [match[0] for match in _NOTE.finditer(plain)]
    rest = _NOTE.sub("", plain).strip()
    if not found or rest:
        what = f": {rest.splitlines()[0][:60]!r}" if rest else ""
        raise BadCheckpoint(f"not all of it is signed heads{what}")
    return found


def _signatures(note: str, name: str) -> list[bytes]:
    found = []
    for line in note.partition("\n\n")[2].splitlines():
        match = _SIGNATURE.match(line)
        if match is None:
            raise BadCheckpoint(f"{line!r} is not a signature line")
        if match[1] == name:
            try:
                found.append(b64decode(match[2], validate=True))
            except Base64Error as error:
                raise BadCheckpoint(f"the signature of {name} is not base64") from error
    return found


def key_hash(name: str, public_key: bytes) -> bytes:
    """Four bytes by which a note names the key that signed it."""
    return sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:4]


def verified(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature is of this key and message."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def endorsement(key: Ed25519PrivateKey, successor: Key) -> bytes:
    """By which a key vouches for the one after it, and for where it ends itself."""
    return key.sign(_endorsed(successor))


def endorsed(key: bytes, signature: bytes, successor: Key) -> bool:
    """Whether a key vouched for the one after it."""
    return verified(key, signature, _endorsed(successor))


def _endorsed(successor: Key) -> bytes:
    return _ENDORSED + successor.public_key + successor.from_size.to_bytes(8, "big")


def public_bytes(key: Ed25519PublicKey) -> bytes:
    """A public key's 32 bytes."""
    return key.public_bytes_raw()
