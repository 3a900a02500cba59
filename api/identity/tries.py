"""Makes guessing slow: tries at one address wait longer and longer, wherever they come from."""

from __future__ import annotations

import hashlib

from api.identity.failures import TooManyTries
from eventstore import Log

#: Tries without a wait; then 1, 2, 4 ... seconds, a quarter of an hour at the most. A try after a
#: day of peace is the first again.
FREE = 5
_LONGEST_S = 900
_PEACE = "1 day"

# The try is counted before the password is looked at: a thousand at once get no more than one does.
_TRY = f"""INSERT INTO identity.tries AS tries (address, times, last_at, locked_until)
VALUES (%(address)s, 1, clock_timestamp(), '-infinity')
ON CONFLICT (address) DO UPDATE SET
    times = CASE WHEN tries.last_at < clock_timestamp() - interval '{_PEACE}' THEN 1
        ELSE least(tries.times, 1000) + 1 END,
    last_at = clock_timestamp(),
    locked_until = CASE
        WHEN tries.last_at < clock_timestamp() - interval '{_PEACE}' OR tries.times < {FREE}
        THEN '-infinity'
        ELSE clock_timestamp() + make_interval(secs =>
            least({_LONGEST_S}, power(2, least(tries.times - {FREE}, 20)))) END
WHERE tries.locked_until <= clock_timestamp()
RETURNING true"""
_WAIT = """SELECT extract(epoch FROM locked_until - clock_timestamp())::float8
    FROM identity.tries WHERE address = %s"""
_FORGET = "DELETE FROM identity.tries WHERE address = %s"
_PRUNE = f"DELETE FROM identity.tries WHERE last_at < now() - interval '{_PEACE}'"


class Tries:
    """Counts tries by address, in the database: for all processes, and over restarts.

    Addresses that nobody has are counted too: to be made to wait tells nothing.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    async def begin(self, email: str) -> None:
        """Count a try.

        Raises:
            TooManyTries: it has to wait.
        """
        address = _address(email)
        async with self._log.connection() as connection:
            row = await (await connection.execute(_TRY, {"address": address})).fetchone()
            if row is None:
                row = await (await connection.execute(_WAIT, (address,))).fetchone()
                raise TooManyTries(1.0 if row is None else row[0])

    async def forget(self, email: str) -> None:
        """The right password was given, or a new one was set."""
        async with self._log.connection() as connection:
            await connection.execute(_FORGET, (_address(email),))

    async def prune(self) -> None:
        """Remove what has been at peace."""
        async with self._log.connection() as connection:
            await connection.execute(_PRUNE)


def _address(email: str) -> bytes:
    return hashlib.sha256(email.encode()).digest()
