"""Growth: what appending and loading cost in a log of 5 million events against one of 100,000."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from random import Random
from statistics import median
from time import perf_counter
from typing import Any
from uuid import UUID

import psycopg
import uvloop
from psycopg_pool import AsyncConnectionPool

from benchmarks import notes
from benchmarks.peers.peer import own_database
from eventstore import Log, prepare_database
from eventstore.streams import Streams, Wanted

SIZES = {"small": 100_000, "large": 5_000_000}
STEP = 500_000
EVENTS_A_STREAM = 10
ROUNDS = 7
APPENDS = {1: 600, 64: 6_000}
LOADS = 300
Say = Callable[[str], None]
Costs = dict[str, list[float]]

# Streams of ten events with an answer for each command, as the log itself would have written them.
_FILL = """
INSERT INTO events (originator_id, originator_version, topic, state, notification_id, event_id,
                    organisation_id, recorded_at, correlation_id, actor)
SELECT md5(((n - 1) / %(each)s)::text)::uuid, 1 + (n - 1) %% %(each)s, 'bench.NoteTaken.v1',
       convert_to('{"notebook":"n","number":' || 1 + (n - 1) %% %(each)s || ',"text":"'
                  || repeat('x', 260) || '"}', 'UTF8'),
       n, gen_random_uuid(), %(organisation)s,
       '2026-01-01 00:00:00+00'::timestamptz + n * interval '1 second', gen_random_uuid(), 'bench'
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n"""
_COMMANDS = """
INSERT INTO commands (command_id, digest, stream, version, position, recorded_at)
SELECT gen_random_uuid(), sha256(n::text::bytea), 'notebooks/n', 1, n, now()
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n"""


def run(url: str, say: Say) -> dict[str, Any]:
    """Cost of each in the large log over its cost in the small one; 1.0 where size is no matter."""
    with own_database(url, "small") as small, own_database(url, "large") as large:
        databases = {"small": small, "large": large}
        for name, database in databases.items():
            _fill(database, SIZES[name], say)
        costs = uvloop.run(_measured(databases, say))
    ratios = {
        f"{name}_large_vs_small": round(
            median(costs[f"large {name}"]) / median(costs[f"small {name}"]), 2
        )
        for name in ("append_1", "append_64", "load", "read_1000", "position_at")
    }
    us = {name.replace(" ", "_"): round(median(found) * 1e6) for name, found in costs.items()}
    return ratios | {"events": SIZES, "median_us": us}


def _fill(url: str, size: int, say: Say) -> None:
    prepare_database(url)
    with psycopg.connect(url, autocommit=True) as connection:
        for first in range(1, size + 1, STEP):
            last = min(first + STEP - 1, size)
            parameters = {
                "first": first,
                "last": last,
                "each": EVENTS_A_STREAM,
                "organisation": notes.ORGANISATION,
            }
            connection.execute(_FILL, parameters)
            connection.execute(_COMMANDS, parameters)
            say(f"{last:,} of {size:,} events")
        connection.execute(
            """UPDATE log_head SET (position, recorded_at) =
            (SELECT max(notification_id), max(recorded_at) FROM events)"""
        )
        connection.execute("VACUUM ANALYZE events, commands")
        connection.execute("CHECKPOINT")


async def _measured(databases: dict[str, str], say: Say) -> Costs:
    costs: Costs = {}
    random = Random(1)
    for number in range(ROUNDS):
        for name, url in databases.items():
            for what, cost in (await _round(url, SIZES[name], random)).items():
                costs.setdefault(f"{name} {what}", []).append(cost)
            told = ", ".join(
                f"{what} {found[-1] * 1e6:,.0f} us"
                for what, found in costs.items()
                if what.startswith(name)
            )
            say(f"round {number + 1} of {ROUNDS}: {told}")
    return costs


async def _round(url: str, size: int, random: Random) -> dict[str, float]:
    """Seconds for one of each."""
    costs: dict[str, float] = {}
    async with notes.open_bus(url) as bus:
        books = notes.names(100)
        await notes.closed_loop(bus, 64, [notes.command(book) for book in books])
        for callers, count in APPENDS.items():
            sent = [notes.command(books[one % len(books)]) for one in range(count)]
            costs[f"append_{callers}"] = await notes.closed_loop(bus, callers, sent) / count
    async with (
        AsyncConnectionPool(url, open=False, kwargs={"autocommit": True}) as pool,
        Streams(url) as streams,
    ):
        log = Log(pool)
        with psycopg.connect(url) as connection:
            picked = [random.randrange(1, size) for _ in range(LOADS)]
            rows = connection.execute(
                """SELECT originator_id, recorded_at, notification_id FROM events
                WHERE notification_id = ANY(%s)""",
                (picked,),
            ).fetchall()
        ids: list[UUID] = [row[0] for row in rows]
        await streams.load({ids[0]: Wanted(0, b"")})
        begun = perf_counter()
        for id_ in ids:
            found = await streams.load({id_: Wanted(0, b"")})
            assert len(found[id_].events) == EVENTS_A_STREAM
        costs["load"] = (perf_counter() - begun) / len(ids)
        begun = perf_counter()
        for position in picked[:50]:
            assert await log.after(min(position, size - 1000), 1000)
        costs["read_1000"] = (perf_counter() - begun) / 50
        begun = perf_counter()
        for _, moment, position in rows:
            assert await log.position_at(moment + timedelta(milliseconds=1)) == position
        costs["position_at"] = (perf_counter() - begun) / len(rows)
    return costs
