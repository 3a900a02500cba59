"""Keeps witnesses at the newest signed head, and remembers what each of them has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, LiteralString

import psycopg
import structlog
from psycopg import AsyncConnection

from eventstore.log import Connection
from eventstore.seals.checkpoint import BadCheckpoint
from eventstore.witnesses.witness import HeadNote, Proof, Witness, WitnessAway, WitnessRefused

#: A witness that is away is asked again after twice the time, up to this.
_LONGEST = timedelta(minutes=10)
_MOST_WORDS = 500
_log = structlog.get_logger(__name__)

_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('witness ' || %s, 0))"
_NEWEST = "SELECT number, note FROM seal_heads ORDER BY number DESC LIMIT 1"
_KNOWN = "SELECT number, size, error IS NULL FROM seal_witnessed WHERE witness = %s"
_TAKEN = """INSERT INTO seal_witnessed (witness, number, size, at)
    VALUES (%(witness)s, %(number)s, %(size)s, clock_timestamp())
    ON CONFLICT (witness) DO UPDATE SET number = excluded.number, size = excluded.size,
        at = excluded.at, error = NULL, refused = false, failed_at = NULL"""
_COSIGNED = """INSERT INTO seal_cosignatures (number, witness, signatures)
    VALUES (%(number)s, %(witness)s, %(signatures)s)
    ON CONFLICT (number, witness) DO UPDATE
        SET signatures = excluded.signatures, at = clock_timestamp()"""
# `failed_at` is when it began.
_FAILED = """INSERT INTO seal_witnessed (witness, error, refused, failed_at)
    VALUES (%(witness)s, %(error)s, %(refused)s, clock_timestamp())
    ON CONFLICT (witness) DO UPDATE SET error = excluded.error, refused = excluded.refused,
        failed_at = coalesce(seal_witnessed.failed_at, excluded.failed_at)"""
_STATES = """WITH newest AS (SELECT number, size FROM seal_heads ORDER BY number DESC LIMIT 1)
SELECT name, name = ANY(%(named)s), w.number, w.size, w.at, w.error, w.refused, w.failed_at,
    newest.number, newest.size, c.number IS NOT NULL
FROM (SELECT unnest(%(named)s::text[]) UNION SELECT witness FROM seal_witnessed) AS names (name)
LEFT JOIN newest ON true
LEFT JOIN seal_witnessed AS w ON w.witness = name
LEFT JOIN seal_cosignatures AS c ON c.witness = name AND c.number = w.number
ORDER BY array_position(%(named)s::text[], name), name"""

#: ``current``: it has the newest head. ``behind``: it has not, and nothing is known against it.
#: ``away``: it did not take the last one it was handed. ``refused``: it says that the log
#: contradicts what it has seen. ``dropped``: the settings do not name it any more.
State = Literal["current", "behind", "away", "refused", "dropped"]


@dataclass(frozen=True, slots=True)
class WitnessState:
    """What a witness has: number and size (in events) of its last head and when it took it, whether
    it signed that, and why and since when it takes no more."""

    name: str
    state: State
    number: int | None
    size: int | None
    at: datetime | None
    cosigned: bool
    error: str | None
    failed_at: datetime | None
    newest_number: int | None
    newest_size: int | None


async def witness_states(connection: Connection, names: Sequence[str]) -> list[WitnessState]:
    """The state of the witnesses that are named, then of those that were once."""
    rows = await (await connection.execute(_STATES, {"named": list(names)})).fetchall()
    found = []
    for name, named, number, size, at, error, refused, failed_at, newest, of_size, signed in rows:
        state: State
        if refused:
            state = "refused"  # whether it is named or not: dropping a witness proves nothing
        elif not named:
            state = "dropped"
        elif error is not None:
            state = "away"
        else:
            state = "current" if number == newest else "behind"
        found.append(
            WitnessState(name, state, number, size, at, signed, error, failed_at, newest, of_size)
        )
    return found


async def keep_witnessed(
    url: str, witnesses: Sequence[Witness], *, every: timedelta, proof: Proof
) -> None:
    """Look for a newer head now and then and hand it to each witness, until cancelled.

    Each has a pace of its own: one that is away or refuses is asked again later and later (ten
    minutes at most, or ``every``), and then gets the newest head only. Of several processes one
    does it. With no witnesses this returns at once.
    """
    async with asyncio.TaskGroup() as group:
        for one in witnesses:
            group.create_task(_keep(url, one, every, proof), name=f"witness {one.name}")


async def _keep(url: str, witness: Witness, every: timedelta, proof: Proof) -> None:
    failures = 0
    try:
        while True:
            try:
                await hand_newest(url, witness, proof)
                failures = 0
            except (WitnessRefused, WitnessAway):
                failures += 1
            except psycopg.Error as error:
                failures += 1
                _log.warning("witness later", witness=witness.name, error=str(error).strip())
            await asyncio.sleep(pause(every, failures).total_seconds())
    finally:
        await witness.close()


def pause(every: timedelta, failures: int) -> timedelta:
    """How long to wait after so many failures on end."""
    longest = max(every, _LONGEST)
    # Beyond 20 doublings even a millisecond is longer than that.
    return min(every * (1 << min(failures, 20)), longest)


async def hand_newest(url: str, witness: Witness, proof: Proof) -> None:
    """Hand the newest head over, if the witness has it not, and remember what came of it.

    Raises:
        WitnessRefused: it said no, or the log's newest head is older than what it has.
        WitnessAway: it did not take the head.
        psycopg.Error: the database failed; the same head is handed again next time.
    """
    async with await AsyncConnection.connect(url, autocommit=True, connect_timeout=5) as connection:
        # One at a time, and read behind the lock: no witness gets an older head after a newer one.
        if not await _one(connection, _LOCK, witness.name):
            return
        newest = await (await connection.execute(_NEWEST)).fetchone()
        known = await (await connection.execute(_KNOWN, (witness.name,))).fetchone()
        if newest is None or (known is not None and known[0] == newest[0] and known[2]):
            return
        number, note = newest
        had, seen = (known[0] or 0, known[1] or 0) if known is not None else (0, 0)
        try:
            head = _head(number, note, had, seen)
            signatures = await _hand(witness, head, seen, proof)
        except WitnessRefused as error:
            _log.error("witness refuses", witness=witness.name, number=number, error=str(error))
            await _failed(connection, witness, error, refused=True)
            raise
        except WitnessAway as error:
            _log.warning("witness away", witness=witness.name, number=number, error=str(error))
            await _failed(connection, witness, error, refused=False)
            raise
        values = {"witness": witness.name, "number": number, "size": head.head.size}
        async with connection.transaction():
            await connection.execute(_TAKEN, values)
            if signatures:
                await connection.execute(_COSIGNED, values | {"signatures": signatures})
    if known is not None and not known[2]:
        _log.info("witness has the newest head again", witness=witness.name, number=number)


def _head(number: int, note: str, had: int, seen: int) -> HeadNote:
    """The newest head, unless it cannot be one after what a witness has already."""
    try:
        head = HeadNote.of(number, note)
    except BadCheckpoint as error:
        raise WitnessRefused(f"head {number} in the database is no checkpoint: {error}") from error
    if number < had or head.head.size < seen:
        raise WitnessRefused(
            f"it has head {had:,} of {seen:,} events, and the newest one here is head {number:,} "
            f"of {head.head.size:,}: the log was set back"
        )
    return head


async def _hand(witness: Witness, head: HeadNote, seen: int, proof: Proof) -> str:
    try:
        return await witness.hand(head, seen=seen, proof=proof)
    except (WitnessRefused, WitnessAway, psycopg.Error):
        raise
    except Exception as error:  # whatever it is, the other witnesses get their heads
        _log.error("witness cannot be asked", witness=witness.name, exc_info=True)
        raise WitnessAway(f"{type(error).__name__}: {error}") from error


async def _failed(
    connection: Connection, witness: Witness, error: Exception, *, refused: bool
) -> None:
    words = str(error)[:_MOST_WORDS].replace("\0", "")
    values = {"witness": witness.name, "error": words, "refused": refused}
    await connection.execute(_FAILED, values)


async def _one(connection: Connection, query: LiteralString, *values: object) -> Any:
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None
    return row[0]
