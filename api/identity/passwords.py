"""Passwords: which are taken, how they are kept, and how they are compared."""

from __future__ import annotations

import secrets
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from api.identity.failures import Busy

T = TypeVar("T")
SHORTEST = 12
LONGEST = 256
#: Hashes computed at once in a process, 19 MiB each, and how many more may wait for their turn.
_AT_ONCE = 2
_WAITING = 64
_FEW_CHARACTERS = 4
_EVERYBODY_KNOWS = (
    *("password", "passwort", "letmein", "welcome", "qwertyuiop", "asdfghjkl", "iloveyou"),
    *("administrator", "chainlytics", "changeme", "correcthorsebatterystaple", "trustno1"),
)
_RUNS = ("abcdefghijklmnopqrstuvwxyz", "01234567890123456789", "qwertyuiopasdfghjklzxcvbnm")


def refused(password: str, email: str = "") -> str | None:
    """Why a password is not taken; None: it is. Length matters, not what kinds of characters it
    has (NIST SP 800-63B)."""
    plain = _plain(password).lower()
    if not SHORTEST <= len(password) <= LONGEST:
        return f"must have {SHORTEST} to {LONGEST} characters"
    if any(unicodedata.category(character) == "Cs" or character == "\0" for character in password):
        return "must be text"
    if email and (plain == email.lower() or plain == email.lower().partition("@")[0]):
        return "must not be the e-mail address"
    if len(Counter(plain)) < _FEW_CHARACTERS:
        return f"must have at least {_FEW_CHARACTERS} different characters"
    if any(plain in (run * 11) or plain in (run * 11)[::-1] for run in _RUNS):
        return "must not be a row of the keyboard, the alphabet or the digits"
    rest = plain
    for word in _EVERYBODY_KNOWS:
        rest = rest.replace(word, "")
    if len(rest) < len(plain) and len(rest.strip("0123456789!.?-_ ")) < _FEW_CHARACTERS:
        return "must not be one that everybody tries first"
    return None


class Passwords:
    """Hashes and checks passwords by Argon2id, off the event loop and a few at a time.

    OWASP's second choice of cost: 19 MiB, 2 passes, 1 lane. A hash of another cost is made anew
    when its owner next logs in.

    Args:
        hasher: with another cost, for tests and for tomorrow.
    """

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher(
            time_cost=2, memory_cost=19_456, parallelism=1, hash_len=32, salt_len=16, type=Type.ID
        )
        self._limit = anyio.CapacityLimiter(_AT_ONCE)
        self._waiting = 0
        # Nobody knows its password. Whoever is unknown is checked against it, in the same time.
        self._nobody = self._hasher.hash(secrets.token_urlsafe(32))

    async def hash(self, password: str) -> str:
        """A salted hash.

        Raises:
            Busy: too many wait already.
        """
        return await self._run(lambda: self._hasher.hash(_plain(password)))

    async def matches(self, password: str, kept: str | None) -> bool:
        """Whether it is the password of a hash. ``kept`` None, or an account's without a password:
        nobody's, and it takes as long to say so.

        Raises:
            Busy: too many wait already.
        """

        there = kept is not None and kept.startswith("$argon2id$")
        against = kept if kept is not None and there else self._nobody

        def check() -> bool:
            try:
                return self._hasher.verify(against, _plain(password))
            except (VerificationError, InvalidHashError):
                return False

        return await self._run(check) and there

    def outdated(self, kept: str) -> bool:
        """Whether a hash is of another cost than today's."""
        return self._hasher.check_needs_rehash(kept)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= _WAITING:
            raise Busy
        self._waiting += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limit)
        finally:
            self._waiting -= 1


def _plain(password: str) -> str:
    """The same characters however a keyboard composes them."""
    return unicodedata.normalize("NFKC", password)
