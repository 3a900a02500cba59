"""The subject of the projection benchmark: deliveries, folded by site and service level.

An event has about 300 bytes of JSON, the table 10,000 rows. What the rows must be is asked of
PostgreSQL in one plain query, so that neither side of a comparison is its own judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from polars import col
from psycopg import sql

from benchmarks.peers.raw import COPY_TYPES
from domain import catalogue
from domain.orders import OrderDelivered
from eventstore import prepare_database
from eventstore.ids import named_id
from projections import rows
from projections.fold import count, greatest, last, least, total
from projections.table import Table

ORGANISATION = UUID(int=7)
SITES, LEVELS = 500, 20
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_STEP = 500_000
Say = Callable[[str], None]
Row = tuple[Any, ...]

DELIVERIES = Table(
    name="benchmark_deliveries",
    key={OrderDelivered: ("site_id", "service_level")},
    columns={
        "delivered": count(OrderDelivered),
        "late": count(where={OrderDelivered: col("late")}),
        "transit_s": total({OrderDelivered: "transit_s"}),
        "slowest_s": greatest({OrderDelivered: "transit_s"}),
        "first_placed_at": least({OrderDelivered: "placed_at"}),
        "last_order_id": last({OrderDelivered: "order_id"}),
        "last_delivered_at": last({OrderDelivered: "delivered_at"}),
    },
)
#: Where our rows stand.
OURS = sql.Identifier(rows.SCHEMA, DELIVERIES.name)

# The same rows by no engine at all. The newest event of a row is looked up by its position.
_TRUTH = sql.SQL(
    """(SELECT t.*, e.body ->> 'order_id' AS last_order_id,
        (e.body ->> 'delivered_at')::timestamptz AS last_delivered_at
    FROM (
        SELECT organisation_id, body ->> 'site_id' AS site_id,
            body ->> 'service_level' AS service_level,
            count(*) AS delivered,
            count(*) FILTER (WHERE (body ->> 'late')::boolean) AS late,
            sum((body ->> 'transit_s')::bigint)::bigint AS transit_s,
            max((body ->> 'transit_s')::bigint) AS slowest_s,
            min((body ->> 'placed_at')::timestamptz) AS first_placed_at,
            max(notification_id) AS last_position
        FROM (
            SELECT organisation_id, notification_id,
                convert_from(state, 'UTF8')::jsonb AS body
            FROM events WHERE notification_id <= {to}
        ) AS said GROUP BY 1, 2, 3
    ) AS t JOIN LATERAL (
        SELECT convert_from(state, 'UTF8')::jsonb AS body
        FROM events WHERE notification_id = t.last_position
    ) AS e ON true)"""
)
_CONTENTS = """SELECT count(*), coalesce(md5(string_agg(r::text, '' ORDER BY r::text)), '')
    FROM (SELECT {columns} FROM {source} AS s) AS r"""
# What the log itself would have written, made by the server (whose random uuids are slow).
_EXTEND = """
INSERT INTO events (originator_id, originator_version, topic, state, notification_id, event_id,
                    organisation_id, recorded_at, correlation_id, actor)
SELECT md5('stream' || n)::uuid, 1, %(topic)s,
       convert_to(format(
           '{"order_id":"%%s","site_id":"warehouse-%%s","service_level":"standard-%%s",'
           '"region":"DE-BE","currency":"EUR","placed_at":"%%s","promised_at":"%%s",'
           '"delivered_at":"%%s","late":%%s,"transit_s":%%s,"out_of_order":false,"vehicle_id":null}',
           md5(n::text), to_char(d.site, 'FM0000'), to_char(d.level, 'FM00'),
           to_char(d.at, d.iso), to_char(d.at + interval '3 days', d.iso),
           to_char(d.at + d.transit_s * interval '1 second', d.iso),
           (d.transit_s > 259200)::text, d.transit_s), 'UTF8'),
       n, md5('event' || n)::uuid, %(organisation)s, d.at, md5('cause' || n)::uuid, 'benchmark'
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
CROSS JOIN LATERAL (
    SELECT timestamp '2026-01-01' + n * interval '1 second' AS at,
        floor(random() * %(sites)s)::int + n * 0 AS site,
        floor(random() * %(levels)s)::int + n * 0 AS level,
        floor(random() * 300000)::int + n * 0 AS transit_s,
        'YYYY-MM-DD"T"HH24:MI:SS"Z"' AS iso
    OFFSET 0) AS d"""


class TablesDiffer(Exception):
    """Two sides of a comparison made different tables, so their rates say nothing."""


class Contents(NamedTuple):
    """How many rows a table has, and a checksum of all that is in them."""

    rows: int
    checksum: str


def fill(url: str, events: int, say: Say) -> None:
    """A log of so many deliveries in a fresh database, each in the stream of its order."""
    prepare_database(url)
    say(f"loading {events:,} events by COPY")
    with (
        psycopg.connect(url) as connection,
        connection.cursor().copy("COPY events FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types(COPY_TYPES)
        for row in _rows(events):
            copy.write_row(row)
    settle(url)


def extend(url: str, events: int, say: Say) -> None:
    """Make the log longer, up to so many events; their rows are made by the server."""
    first = head(url) + 1
    with psycopg.connect(url, autocommit=True) as connection:
        while first <= events:
            until = min(first + _STEP - 1, events)
            connection.execute(
                _EXTEND,
                {
                    "topic": catalogue.TOPICS[OrderDelivered],
                    "organisation": ORGANISATION,
                    "first": first,
                    "last": until,
                    "sites": SITES,
                    "levels": LEVELS,
                },
            )
            first = until + 1
            say(f"{until:,} of {events:,} events")
    settle(url)


def copy_log(source: str, target: str, events: int) -> None:
    """The first events of a log as the log of another, fresh database."""
    prepare_database(target)
    out = sql.SQL(
        "COPY (SELECT * FROM events WHERE notification_id <= {} ORDER BY notification_id)"
        " TO STDOUT (FORMAT BINARY)"
    ).format(events)
    with (
        psycopg.connect(source) as reading,
        psycopg.connect(target) as writing,
        reading.cursor().copy(out) as given,
        writing.cursor().copy("COPY events FROM STDIN (FORMAT BINARY)") as taken,
    ):
        for data in given:
            taken.write(data)
    settle(target)


def settle(url: str) -> None:
    """Say where the log ends, and leave nothing to be tidied up while a clock runs."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """UPDATE log_head SET (position, recorded_at) =
            (SELECT notification_id, recorded_at FROM events
            ORDER BY notification_id DESC LIMIT 1)"""
        )
        connection.execute("VACUUM (FREEZE, ANALYZE) events")
        connection.execute("CHECKPOINT")


def head(url: str) -> int:
    """The last position of a log."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT position FROM log_head").fetchone()
    assert row is not None
    return int(row[0])


def contents(url: str, table: sql.Composable = OURS) -> Contents:
    """What is in a table of the columns of ours."""
    query = sql.SQL(_CONTENTS).format(
        columns=sql.SQL(", ").join(sql.Identifier("s", name) for name in DELIVERIES.row_types),
        source=table,
    )
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return Contents(*row)


def truth(url: str, to: int) -> Contents:
    """What must be in the table as of a position, by a plain query over the log."""
    return contents(url, _TRUTH.format(to=to))


def check_same(name: str, found: Contents, wanted: Contents) -> None:
    """Raise where a side of a comparison did not make the rows that it had to.

    Raises:
        TablesDiffer: it did not.
    """
    if found != wanted:
        raise TablesDiffer(f"{name} has {found}, and it should be {wanted}")


def _rows(events: int) -> Iterator[Row]:
    random = Random(1)
    template = catalogue.STREAMS[OrderDelivered]
    for position in range(1, events + 1):
        event = _delivery(position, random)
        topic, state = catalogue.encode(event)
        stream = named_id(ORGANISATION, template.format(order_id=event.order_id))
        ids = (UUID(int=random.getrandbits(128)), UUID(int=random.getrandbits(128)))
        yield (
            *(stream, 1, topic, state, position, ids[0], ORGANISATION, event.placed_at),
            *(ids[1], None, "benchmark"),
        )


def _delivery(number: int, random: Random) -> OrderDelivered:
    placed_at = BEGIN + timedelta(seconds=number)
    transit_s = random.randrange(300_000)
    return OrderDelivered(
        order_id=f"{random.getrandbits(128):032x}",
        site_id=f"warehouse-{random.randrange(SITES):04}",
        service_level=f"standard-{random.randrange(LEVELS):02}",
        region="DE-BE",
        currency="EUR",
        placed_at=placed_at,
        promised_at=placed_at + timedelta(days=3),
        delivered_at=placed_at + timedelta(seconds=transit_s),
        late=transit_s > 3 * 86_400,
        transit_s=transit_s,
        out_of_order=False,
    )
