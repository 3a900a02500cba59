"""The cipher of personal data: tokens, wrapped keys, and the blind index. Pure functions of bytes.

A token is ``p1.`` and base64url of nonce, ciphertext and tag: AES-256-GCM (NIST SP 800-38D) under
the person's key, bound to the key's id and the field, so that a token moved to another person or
field does not open. A key is wrapped the same way under the master key, bound to its id. The index
is HMAC-SHA256 over a normalised value, so that a value is found without being stored.
"""

from __future__ import annotations

import hmac
import os
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NoBase64
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

#: Bytes of a key, the master key too.
KEY_BYTES = 32
_NONCE_BYTES = 12
_PREFIX = "p1."


class WrongKey(Exception):
    """Bytes that this key did not make, or not for this purpose, or that were changed."""


def new_key() -> bytes:
    """A random key."""
    return os.urandom(KEY_BYTES)


def derived_key(secret: bytes, purpose: str) -> bytes:
    """A key for one purpose from a secret (HKDF-SHA256, RFC 5869)."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose.encode()).derive(secret)


def wrap(master: bytes, key: bytes, name: bytes) -> bytes:
    """A key under the master key: nonce, ciphertext and tag, 60 bytes; bound to a name."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(master).encrypt(nonce, key, b"wrap\0" + name)


def unwrap(master: bytes, wrapped: bytes, name: bytes) -> bytes:
    """The key that ``wrap`` was given.

    Raises:
        WrongKey: another master key wrapped it, or it is bound to another name.
    """
    try:
        nonce, sealed = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        return AESGCM(master).decrypt(nonce, sealed, b"wrap\0" + name)
    except (InvalidTag, ValueError) as error:
        raise WrongKey("the key was wrapped by another master key") from error


class PersonCipher:
    """Makes and opens the tokens of one person."""

    __slots__ = ("_cipher", "_name")

    def __init__(self, key_id: UUID, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._name = key_id.bytes

    def token(self, field: str, value: str) -> str:
        """The token of a value; another one each time."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, value.encode(), self._name + field.encode())
        return _PREFIX + urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode()

    def value(self, field: str, token: str) -> str:
        """The value of a token.

        Raises:
            WrongKey: the token is of another person or field, was changed, or is none.
        """
        try:
            if not token.startswith(_PREFIX):
                raise ValueError
            text = token.removeprefix(_PREFIX)
            content = urlsafe_b64decode(text + "=" * (-len(text) % 4))
            nonce, sealed = content[:_NONCE_BYTES], content[_NONCE_BYTES:]
            return self._cipher.decrypt(nonce, sealed, self._name + field.encode()).decode()
        except (InvalidTag, ValueError, NoBase64) as error:
            raise WrongKey("the token does not open with this person's key") from error


def index_token(index_key: bytes, organisation_id: UUID, field: str, value: str) -> bytes:
    """What stands for a value in the blind index: the same for values that people hold for equal.

    An organisation's tokens say nothing about another's. ``person_id`` is taken to the letter: it
    decides who is one person.
    """
    words = (organisation_id.bytes, field.encode(), normalised(field, value).encode())
    return hmac.digest(index_key, b"\0".join(words), "sha256")


def normalised(field: str, value: str) -> str:
    """A value as it is compared: letter case, blanks and compatible forms of letters aside; of a
    phone number the digits and a leading plus."""
    if field == "person_id":
        return value
    plain = " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    if field == "phone":
        return plain[:1].strip("0123456789 ()/.-") + "".join(filter(str.isdigit, plain))
    return plain
