"""A log of some events of two organisations, sealed, and what can be done to it in the database."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from eventstore import Entry, NewEvent, Unit, Writer, prepare_database
from eventstore.schema import TABLES
from eventstore.seals.sealer import Sealed, Sealer

OURS = UUID("9c1f8a52-7d5e-4c0c-8c61-5c3c5b7f9d01")
THEIRS = UUID("11111111-7d5e-4c0c-8c61-5c3c5b7f9d02")
DECISIONS = "decisions.DecisionRequested."
NOTED, REQUESTED = "test.Noted.v1", "decisions.DecisionRequested.v2"


def key(name: str = "first") -> Ed25519PrivateKey:
    """A signing key that is the same in every run."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def sealer(
    url: str, name: str = "first", *, stretch: int = 100_000, memory: Path | None = None
) -> Sealer:
    return Sealer(url, lambda: key(name), DECISIONS, stretch=stretch, memory=memory)


def emptied(url: str) -> str:
    """The URL of a database with no events, seals, segments or read models."""
    prepare_database(url)
    kept = {"schema_applied", "log_head"}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(one for one in TABLES if one not in kept)}")
        connection.execute("UPDATE log_head SET position = 0, recorded_at = '-infinity'")
        connection.execute(
            "DROP TABLE IF EXISTS projections, projection_lanes, projection_rebuilds,"
            " dead_letters CASCADE"
        )
        connection.execute("DROP SCHEMA IF EXISTS read_models CASCADE")
    return url


def append(url: str, count: int, *, decisions: int = 0) -> None:
    """Put events on the log, each on a stream of its own; every so many-th is a decision request of
    ours, and the one behind it one of theirs."""

    def new(number: int) -> Unit:
        asked = decisions and number % decisions in (1, 2)
        organisation = THEIRS if decisions and number % decisions == 2 else OURS
        stream, topic = uuid4(), REQUESTED if asked else NOTED
        event = NewEvent(stream, 1, topic, b'{"n":%d}' % number)
        cause = uuid4() if number % 3 == 0 else None
        entry = Entry(
            uuid4(), b"digest", f"notes/{number}", 1, organisation, "ana", uuid4(), cause, [event]
        )
        return Unit([entry], {stream: 0})

    async def story() -> None:
        async with Writer(url) as writer:
            # One after the other: a group's order is that of its units, groups' that of commits.
            for start in range(1, count + 1, 200):
                some = range(start, min(count, start + 199) + 1)
                await asyncio.gather(*(writer.append(new(number)) for number in some))

    asyncio.run(story())


def seal(url: str, **options: Any) -> Sealed:
    """Seal all there is."""
    found = sealer(url, **options).seal()
    assert found is not None
    return found


def run(url: str, *statements: str) -> None:
    """What somebody with the database's password does."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
