"""One back-dated event at the head of a long log: what a live step costs that refolds its row.

Counts of shelves, folded by when they were made. One table's key names the streams of its events,
the other's does not, so that its events are searched for in the whole log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from statistics import median
from time import perf_counter
from typing import Any
from uuid import UUID, uuid4

import psycopg
from polars import col
from psycopg import AsyncConnection, sql

from benchmarks.deliveries import BEGIN, ORGANISATION, Contents, Say, check_same, head, settle
from benchmarks.peers.peer import own_database
from domain import catalogue
from domain.inventory import StockAdjusted, StockPicked, StockReceived
from eventstore import Entry, NewEvent, Unit, Writer, prepare_database
from eventstore.ids import named_id
from eventstore.log import Connection
from projections import rows
from projections.fold import count, last, total
from projections.projector import Projector
from projections.rebuild import rebuild
from projections.table import Table

SHELVES, SITES = 10_000, 100
#: Counts of one shelf are so far apart.
_EVERY = timedelta(hours=1)
_REASON = "counted by hand in the night shift; " * 5

_COLUMNS: dict[str, Any] = {
    "on_hand": total(
        {
            StockReceived: col("quantity"),
            StockPicked: -col("quantity"),
            StockAdjusted: col("change"),
        }
    ),
    "adjustments": count(StockAdjusted),
    "last_change": last({StockAdjusted: "change"}),
    "last_moved_at": last(
        {
            StockReceived: "received_at",
            StockPicked: "picked_at",
            StockAdjusted: "adjusted_at",
        }
    ),
}
_EFFECTIVE: dict[Any, Any] = {
    StockReceived: "received_at",
    StockPicked: "picked_at",
    StockAdjusted: "adjusted_at",
}
#: Its key names the streams.
LOCATED = Table(
    name="benchmark_stock",
    key=dict.fromkeys(_EFFECTIVE, ("site_id", "sku")),
    columns=_COLUMNS,
    effective=_EFFECTIVE,
)
#: Each SKU is at one site only, but nobody told the table so.
SEARCHED = Table(
    name="benchmark_sku_stock",
    key=dict.fromkeys(_EFFECTIVE, ("sku",)),
    columns=_COLUMNS,
    effective=_EFFECTIVE,
)
TABLES = (LOCATED, SEARCHED)

_FILL = """
INSERT INTO events (originator_id, originator_version, topic, state, notification_id, event_id,
                    organisation_id, recorded_at, correlation_id, actor)
SELECT s.stream, t.turn + 1, %(topic)s,
       convert_to(format(
           '{"site_id":"%%s","sku":"%%s","change":"%%s","reason":"%%s","adjusted_at":"%%s"}',
           s.site_id, s.sku, n %% 7 + 1, %(reason)s::text,
           to_char(a.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')), 'UTF8'),
       n, md5('event' || n)::uuid, %(organisation)s, a.at + n * interval '1 microsecond',
       md5('cause' || n)::uuid, 'benchmark'
FROM generate_series(1, %(events)s::bigint) AS n
CROSS JOIN LATERAL (SELECT (n - 1) / %(shelves)s::bigint AS turn) AS t
CROSS JOIN LATERAL (SELECT %(begin)s::timestamptz + t.turn * %(every)s::interval AS at) AS a
JOIN shelves AS s ON s.number = (n - 1) %% %(shelves)s::bigint"""
_TRUTH = """SELECT count(*), md5(string_agg(r::text, '' ORDER BY r::text)) FROM (
    SELECT body ->> 'sku' AS sku, sum((body ->> 'change')::numeric(38, 3)) AS on_hand,
        count(*) AS adjustments,
        (array_agg((body ->> 'change')::numeric(38, 3)
            ORDER BY body ->> 'adjusted_at' DESC, notification_id DESC))[1] AS last_change,
        max((body ->> 'adjusted_at')::timestamptz) AS last_moved_at,
        max(notification_id) AS last_position
    FROM (SELECT notification_id, convert_from(state, 'UTF8')::jsonb AS body FROM events) AS e
    GROUP BY 1) AS r"""
_FOUND = """SELECT count(*), md5(string_agg(r::text, '' ORDER BY r::text)) FROM (
    SELECT sku, on_hand::numeric(38, 3), adjustments, last_change::numeric(38, 3), last_moved_at,
        last_position FROM {}) AS r"""


@dataclass(frozen=True)
class Costs:
    """Medians of milliseconds: a step with an event in order, and with a back-dated one."""

    in_order: float
    located: float
    searched: float


async def measure(url: str, events: int, rounds: int, say: Say) -> Costs:
    """What one live step costs at the head of a log of so many events.

    A step is all that the projector does: read, fold, find that the row's order is another, read
    the row's events, make the row, commit.

    Raises:
        TablesDiffer: a table is not what a plain query over the log says.
    """
    with own_database(url, "backdated") as database:
        shelves = min(SHELVES, events)
        streams = _fill(database, events, shelves, say)
        await Projector(database, TABLES).prepare()
        for table in TABLES:
            await rebuild(database, table)
        took: dict[str, list[float]] = {"in order": [], "located": [], "searched": []}
        random = Random(2)
        async with (
            Writer(database) as writer,
            _stepping(database, LOCATED) as located,
            _stepping(database, SEARCHED) as searched,
        ):
            versions = [events // shelves + (n < events % shelves) for n in range(shelves)]

            async def add(at: datetime) -> None:
                shelf = random.randrange(shelves)
                versions[shelf] += 1
                await writer.append(_unit(shelf, streams[shelf], versions[shelf], at))

            newest = BEGIN + 2 * _EVERY * (1 + events // shelves)
            for number in range(rounds + 1):
                await add(newest + number * _EVERY)
                in_order = await located()
                await searched()
                await add(BEGIN + _EVERY / 2)
                now = {"in order": in_order, "located": await located()}
                now["searched"] = await searched()
                if number:  # the first steps open connections
                    for name, ms in now.items():
                        took[name].append(ms)
                    told = ", ".join(f"{name} {ms:.1f} ms" for name, ms in now.items())
                    say(f"back-dated {number} of {rounds}: {told}")
        _check(database)
    return Costs(*(median(took[name]) for name in ("in order", "located", "searched")))


@asynccontextmanager
async def _stepping(url: str, table: Table) -> AsyncIterator[Any]:
    """A function that lets the table do one live step; milliseconds."""
    projector = Projector(url, [table])
    connection: Connection
    async with await AsyncConnection.connect(url, autocommit=True) as connection:

        async def step() -> float:
            begun = perf_counter()
            moved = await projector.step(connection)
            took = perf_counter() - begun
            assert moved
            cursor = await connection.execute(
                "SELECT position = (SELECT position FROM log_head), error FROM projections"
                " WHERE name = %s",
                (table.name,),
            )
            assert await cursor.fetchone() == (True, None)
            return took * 1e3

        yield step


def _fill(url: str, events: int, shelves: int, say: Say) -> list[UUID]:
    """A log of counts, the shelves in turn; their streams."""
    prepare_database(url)
    say(f"making {events:,} counts of {shelves:,} shelves")
    streams = [
        named_id(
            ORGANISATION,
            catalogue.STREAMS[StockAdjusted].format(site_id=_site(shelf), sku=_sku(shelf)),
        )
        for shelf in range(shelves)
    ]
    with psycopg.connect(url) as connection:
        connection.execute(
            "CREATE TEMP TABLE shelves (number bigint, site_id text, sku text, stream uuid)"
        )
        with connection.cursor().copy("COPY shelves FROM STDIN") as copy:
            for shelf, stream in enumerate(streams):
                copy.write_row((shelf, _site(shelf), _sku(shelf), stream))
        connection.execute(
            _FILL,
            {
                "shelves": shelves,
                "events": events,
                "topic": catalogue.TOPICS[StockAdjusted],
                "reason": _REASON.strip("; "),
                "begin": BEGIN,
                "every": _EVERY,
                "organisation": ORGANISATION,
            },
        )
    settle(url)
    assert head(url) == events
    return streams


def _unit(shelf: int, stream: UUID, version: int, at: datetime) -> Unit:
    event = StockAdjusted(
        site_id=_site(shelf),
        sku=_sku(shelf),
        change=Decimal(9),
        reason=_REASON.strip("; "),
        adjusted_at=at.astimezone(UTC),
    )
    new = NewEvent(stream, version, *catalogue.encode(event))
    one = uuid4()
    name = f"stock/{_site(shelf)}/{_sku(shelf)}"
    entry = Entry(one, b"", name, version, ORGANISATION, "benchmark", one, None, [new])
    return Unit([entry], {stream: version - 1})


def _check(url: str) -> None:
    with psycopg.connect(url) as connection:
        wanted = connection.execute(_TRUTH).fetchone()
        assert wanted is not None
        for table in TABLES:
            name = sql.Identifier(rows.SCHEMA, table.name)
            found = connection.execute(sql.SQL(_FOUND).format(name)).fetchone()
            assert found is not None
            check_same(table.name, Contents(*found), Contents(*wanted))


def _site(shelf: int) -> str:
    return f"warehouse-{shelf % SITES:04}"


def _sku(shelf: int) -> str:
    return f"SKU-{shelf:06}"
