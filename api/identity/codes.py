"""Codes that go by mail: good once, not for long, and kept as hashes."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import Literal, NamedTuple

from eventstore.log import Connection

Purpose = Literal["verify", "reset"]
#: Without I, L, O and U: people may type it.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LETTERS = 20  # of 5 bits each: 100
_MOST_AN_HOUR = 5
_MOST_WRONG = 5

# Written down whether there is an account of the address or not: it takes as long.
_NEW = """WITH asked AS (
    SELECT count(*) AS times FROM identity.codes
    WHERE email = %(email)s AND purpose = %(purpose)s AND created_at > now() - interval '1 hour')
INSERT INTO identity.codes (hash, purpose, email, password_hash, name, expires_at)
SELECT %(hash)s, %(purpose)s, %(email)s, %(password_hash)s, %(name)s, now() + %(within)s
RETURNING (SELECT times FROM asked),
    (SELECT disabled_at IS NULL FROM identity.accounts WHERE email = %(email)s)"""
_FIND = """SELECT email, password_hash, name FROM identity.codes
    WHERE hash = %s AND purpose = %s AND expires_at > now()"""
_TAKE = """DELETE FROM identity.codes WHERE hash = %s AND purpose = %s AND expires_at > now()
    RETURNING email, password_hash, name"""
_WRONG = f"""WITH counted AS (
    UPDATE identity.codes SET wrong = wrong + 1 WHERE hash = %(hash)s RETURNING wrong)
DELETE FROM identity.codes WHERE hash = %(hash)s AND wrong + 1 >= {_MOST_WRONG}"""


class Asked(NamedTuple):
    """A code that was made. ``known``: whether the address has an account, and it is not disabled;
    None: it has none. ``too_often``: it is not to be sent."""

    code: str
    known: bool | None
    too_often: bool


class Kept(NamedTuple):
    """What a code stands for."""

    email: str
    password_hash: str | None
    name: str | None


def _hash(code: str) -> bytes:
    typed = code.upper().replace("-", "").replace(" ", "")
    return hashlib.sha256(typed.encode()).digest()


async def new_code(
    connection: Connection,
    purpose: Purpose,
    email: str,
    within: timedelta,
    *,
    password_hash: str | None = None,
    name: str | None = None,
) -> Asked:
    """Make a code for an address."""
    letters = "".join(secrets.choice(_ALPHABET) for _ in range(_LETTERS))
    found = await connection.execute(
        _NEW,
        {
            "hash": _hash(letters),
            "purpose": purpose,
            "email": email,
            "password_hash": password_hash,
            "name": name,
            "within": within,
        },
    )
    row = await found.fetchone()
    assert row is not None
    code = "-".join(letters[start : start + 5] for start in range(0, _LETTERS, 5))
    return Asked(code, row[1], row[0] >= _MOST_AN_HOUR)


async def find_code(connection: Connection, purpose: Purpose, code: str) -> Kept | None:
    """What a good code stands for."""
    row = await (await connection.execute(_FIND, (_hash(code), purpose))).fetchone()
    return None if row is None else Kept(*row)


async def take_code(connection: Connection, purpose: Purpose, code: str) -> Kept | None:
    """As ``find_code``, once: of several who come at the same time, one gets it."""
    row = await (await connection.execute(_TAKE, (_hash(code), purpose))).fetchone()
    return None if row is None else Kept(*row)


async def wrong_password(connection: Connection, code: str) -> None:
    """Count a wrong password that was given with a code; a few, and the code is gone."""
    await connection.execute(_WRONG, {"hash": _hash(code)})
