"""Folds: one declaration, the same rows whichever way it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any
from uuid import UUID, uuid4, uuid5

import polars as pl
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars import col, lit
from psycopg import sql

from domain import catalogue
from domain.inventory import StockAdjusted, StockPicked, StockReceived
from domain.orders import (
    LineSite,
    OrderAllocated,
    OrderCancelled,
    OrderDelivered,
    OrderLine,
    OrderPlaced,
    OrderShipped,
)
from domain.values import Event
from eventstore import Entry, NewEvent, StoredEvent, Unit, Writer
from projections import folding
from projections.catalogue import TABLES
from projections.contributions import contributions
from projections.engine import finish, fold_events, merge
from projections.fold import count, first, greatest, last, least, total
from projections.frames import decode, wanted
from projections.inventory import STOCK_LEVELS
from projections.kpis import DAILY_KPIS
from projections.orders import ORDER_SUMMARY, ORDER_TIMELINE
from projections.projector import Projector
from projections.running import running
from projections.table import LAST_EFFECTIVE, LAST_POSITION, Table
from tests.appending import emptied
from tests.spec import stream_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORGANISATIONS = (
    UUID("11111111-2222-4333-8444-555555555501"),
    UUID("11111111-2222-4333-8444-555555555502"),
)
#: Texts that a careless way into a table would read as something else.
TEXTS = (
    "changed mind",
    "\\N",
    "",
    "a,b",
    'say "no"',
    "two\nlines",
    "\\.",
    "null",
    "ação ✓",
    "\t\\",
)

Fact = tuple[UUID, Event]
Row = dict[str, Any]


# events, by chance


def facts(chance: Random, size: int) -> list[Fact]:
    return [(chance.choice(ORGANISATIONS), _event(chance)) for _ in range(size)]


def _event(chance: Random) -> Event:
    order_id = f"O-{chance.randint(1, 4)}"
    site_id, sku = chance.choice(["S-1", "S-2"]), chance.choice(["A", "B"])
    amount = Decimal(chance.randint(1, 9999)) / 1000
    day = NOON + timedelta(days=chance.randint(0, 2))
    at = chance.choice([None, day, day + timedelta(microseconds=chance.randint(0, 10**9))])
    currency = chance.choice(["EUR", "BRL"])
    region = chance.choice([None, "SP", "LIS"])
    match chance.randint(1, 8):
        case 1:
            return StockReceived(site_id=site_id, sku=sku, quantity=amount, received_at=at)
        case 2:
            order = chance.choice([None, order_id])
            return StockPicked(
                site_id=site_id, sku=sku, quantity=amount, order_id=order, picked_at=at
            )
        case 3:
            return StockAdjusted(
                site_id=site_id,
                sku=sku,
                change=amount - 5,
                reason=chance.choice(TEXTS),
                adjusted_at=at,
            )
        case 4:
            line = OrderLine(line_no=1, sku=sku, quantity=amount, unit_price_minor=100)
            return OrderPlaced(
                order_id=order_id,
                customer_id=f"C-{chance.randint(1, 3)}",
                currency=currency,
                lines=(line,) * chance.randint(0, 2),
                lines_known=True,
                units=amount,
                goods_minor=chance.randint(0, 10**12),
                freight_minor=chance.randint(0, 1000),
                weight_g=None,
                region=region,
                placed_at=day,
                promised_at=day,
            )
        case 5:
            return OrderAllocated(
                order_id=order_id,
                site_id=site_id,
                service_level=chance.choice(["standard", "express"]),
                line_sites=(LineSite(line_no=1, site_id=site_id),),
                decision_id=chance.choice([None, "D-1", "D-2"]),
                region=region,
                allocated_at=at,
                vehicle_id={"S-1": "V-1"}.get(site_id),
            )
        case 6:
            return OrderShipped(
                order_id=order_id,
                site_id=site_id,
                service_level="standard",
                region=region,
                carrier=chance.choice([None, "DHL"]),
                shipped_at=at,
                handling_s=chance.choice([None, 5]),
                out_of_order=chance.choice([True, False]),
            )
        case 7:
            return OrderDelivered(
                order_id=order_id,
                site_id=site_id,
                service_level="standard",
                region=region,
                currency=currency,
                placed_at=day,
                promised_at=day,
                delivered_at=at,
                late=chance.choice([None, True, False]),
                transit_s=None,
                out_of_order=False,
            )
    return OrderCancelled(
        order_id=order_id,
        site_id=chance.choice([None, site_id]),
        currency=currency,
        placed_at=day,
        cancelled_at=at,
        reason=chance.choice(TEXTS),
    )


def stored(told: Sequence[Fact]) -> list[StoredEvent]:
    """Facts as they stand in a log that holds nothing else."""
    versions: dict[UUID, int] = {}
    rows = []
    for position, (organisation, event) in enumerate(told, 1):
        stream = uuid5(organisation, stream_of(event))
        versions[stream] = versions.get(stream, 0) + 1
        topic, state = catalogue.encode(event)
        rows.append(
            StoredEvent(
                position,
                stream,
                versions[stream],
                topic,
                state,
                uuid5(stream, str(position)),
                organisation,
                NOON + timedelta(seconds=position),
                stream,
                None,
                "ana",
            )
        )
    return rows


logs = st.builds(facts, st.randoms(use_true_random=False), st.integers(0, 40)).map(stored)
cuts = st.lists(st.integers(0, 40), max_size=6)


def parts_of(table: Table, events: Sequence[StoredEvent], at: list[int]) -> list[pl.DataFrame]:
    """What each contiguous part of a log folds to."""
    edges = sorted({0, len(events), *(min(cut, len(events)) for cut in at)})
    pieces = [events[start:end] for start, end in pairwise(edges)] or [events]
    return [fold_events(table, piece) for piece in pieces]


def rows(table: Table, part: pl.DataFrame) -> dict[tuple[Any, ...], Row]:
    """The finished rows by key."""
    found = {
        tuple(row.pop(key) for key in table.keys): row
        for row in finish(table, part).iter_rows(named=True)
    }
    assert len(found) == part.height
    return found


# the same meaning in plain Python


def plain_stock(events: Sequence[StoredEvent]) -> dict[tuple[Any, ...], Row]:
    found: dict[tuple[Any, ...], Row] = {}
    for one in events:
        event = catalogue.decode(one.topic, one.state)
        if not isinstance(event, StockReceived | StockPicked | StockAdjusted):
            continue
        row = found.setdefault(
            (str(one.organisation_id), event.site_id, event.sku),
            {
                "on_hand": Decimal(0),
                "reserved": Decimal(0),
                "received": Decimal(0),
                "picked": Decimal(0),
                "returned": Decimal(0),
                "adjustments": 0,
                "last_moved_at": None,
                LAST_EFFECTIVE: one.recorded_at.min.replace(tzinfo=UTC),
            },
        )
        moved = None
        match event:
            case StockReceived():
                row["on_hand"] += event.quantity
                row["received"] += event.quantity
                moved = event.received_at
            case StockPicked():
                row["on_hand"] -= event.quantity
                row["picked"] += event.quantity
                moved = event.picked_at
            case StockAdjusted():
                row["on_hand"] += event.change
                row["adjustments"] += 1
                moved = event.adjusted_at
        # Goods are counted when they moved; where that is not known, when it was told.
        row["last_moved_at"] = max((t for t in (moved, row["last_moved_at"]) if t), default=None)
        row[LAST_EFFECTIVE] = max(row[LAST_EFFECTIVE], moved or one.recorded_at)
        row[LAST_POSITION] = one.position
        row["available"] = row["on_hand"]  # nothing is reserved here
    return found


#: What other events than these add up, and what a sum is before its first one.
_SUMS: Row = {
    **dict.fromkeys(("goods_minor", "parts", "returned_minor", "cancelled_minor"), 0),
    **dict.fromkeys(("units", "reserved", "backordered", "returned"), Decimal(0)),
    **dict.fromkeys(("shipped_in_parts", "delivered_in_parts", "cancelled_by_line"), Decimal(0)),
}


def plain_orders(events: Sequence[StoredEvent]) -> dict[tuple[Any, ...], Row]:
    found: dict[tuple[Any, ...], Row] = {}
    for one in events:
        event = catalogue.decode(one.topic, one.state)
        told: Row
        match event:
            case OrderPlaced():
                told = {"status": "placed"}
                once = {
                    "customer_id": event.customer_id,
                    "region": event.region,
                    "currency": event.currency,
                    "freight_minor": event.freight_minor,
                    "lines": len(event.lines),
                    "placed_at": event.placed_at,
                    "promised_at": event.promised_at,
                    "placed": one.state.decode(),
                }
            case OrderAllocated():
                once = {}
                told = {
                    "status": "allocated",
                    "site_id": event.site_id,
                    "service_level": event.service_level,
                    "vehicle_id": event.vehicle_id or "",
                    "decision_id": event.decision_id,
                    "allocated_at": event.allocated_at,
                }
            case OrderShipped():
                once, told = {}, {"status": "shipped", "shipped_at": event.shipped_at}
            case OrderDelivered():
                once = {}
                told = {
                    "status": "delivered",
                    "delivered_at": event.delivered_at,
                    "late": event.late,
                }
            case OrderCancelled():
                once = {}
                told = {
                    "status": "cancelled",
                    "cancelled_at": event.cancelled_at,
                    "cancel_reason": event.reason,
                }
            case _:
                continue
        key = (str(one.organisation_id), event.order_id)
        row = found.setdefault(key, dict.fromkeys(ORDER_SUMMARY.columns) | _SUMS)
        if isinstance(event, OrderPlaced):
            row["goods_minor"] += event.goods_minor
            row["units"] += event.units
        told |= {"version": one.version, LAST_POSITION: one.position}
        row |= {name: value for name, value in told.items() if value is not None}
        row |= {name: value for name, value in once.items() if row[name] is None}
    for row in found.values():
        status, none = row["status"], Decimal(0)
        row["shipped"] = row["units"] if status in ("shipped", "delivered") else none
        row["delivered"] = row["units"] if status == "delivered" else none
        row["cancelled"] = row["units"] if status == "cancelled" else none
        due, came = row["promised_at"], row["delivered_at"]
        known = due is not None and came is not None
        row["late_s"] = int((came - due).total_seconds()) if known else None
    return found


def plain_days(events: Sequence[StoredEvent]) -> dict[tuple[Any, ...], Row]:
    found: dict[tuple[Any, ...], Row] = {}
    for one in events:
        event = catalogue.decode(one.topic, one.state)
        if not isinstance(event, OrderPlaced | OrderDelivered | OrderCancelled):
            continue
        day: date = event.placed_at.date()
        row = found.setdefault(
            (str(one.organisation_id), day, event.currency),
            dict.fromkeys(DAILY_KPIS.columns, 0),
        )
        match event:
            case OrderPlaced():
                row["orders"] += 1
                row["revenue_minor"] += event.goods_minor
                row["freight_minor"] += event.freight_minor
            case OrderDelivered():
                row["delivered"] += 1
                row["delivered_timed"] += event.late is not None
                row["late"] += event.late is True
            case OrderCancelled():
                row["cancelled"] += 1
        row[LAST_POSITION] = one.position
    for row in found.values():
        timed = row["delivered_timed"]
        row["late_share"] = row["late"] / timed if timed else None
    return found


PLAIN: list[tuple[Table, Callable[[Sequence[StoredEvent]], dict[tuple[Any, ...], Row]]]] = [
    (STOCK_LEVELS, plain_stock),
    (ORDER_SUMMARY, plain_orders),
    (DAILY_KPIS, plain_days),
]


@pytest.mark.parametrize(("table", "plain"), PLAIN, ids=[table.name for table, _ in PLAIN])
def test_a_fold_means_what_plain_python_says_however_the_log_is_cut(
    table: Table, plain: Callable[[Sequence[StoredEvent]], dict[tuple[Any, ...], Row]]
) -> None:
    @settings(max_examples=60, deadline=None)
    @given(logs, cuts)
    def holds(events: list[StoredEvent], at: list[int]) -> None:
        expected = plain(events)
        assert rows(table, fold_events(table, events)) == expected
        parts = parts_of(table, events, at)
        assert rows(table, merge(table, parts)) == expected
        # One after the other, as live; and the last ones first, as no order of work may matter.
        live = parts[0]
        for part in parts[1:]:
            live = merge(table, [live, part])
        assert rows(table, live) == expected
        late = parts[-1]
        for part in reversed(parts[:-1]):
            late = merge(table, [part, late])
        assert rows(table, late) == expected

    holds()


@settings(max_examples=40, deadline=None)
@given(logs, cuts)
def test_a_row_for_each_event_is_only_added(events: list[StoredEvent], at: list[int]) -> None:
    whole = fold_events(ORDER_TIMELINE, events)
    assert merge(ORDER_TIMELINE, parts_of(ORDER_TIMELINE, events, at)).equals(whole)
    orders = [one for one in events if one.topic.startswith("orders.")]
    assert whole["position"].to_list() == [one.position for one in orders]


# the running form

EVERY_KIND = Table(
    name="every_kind",
    key=dict.fromkeys((StockReceived, StockPicked, StockAdjusted), ("site_id", "sku")),
    columns={
        "first_at": first({StockReceived: "received_at", StockPicked: "picked_at"}),
        "last_at": last({StockReceived: "received_at", StockPicked: "picked_at"}),
        "first_order": first({StockPicked: "order_id"}),
        "last_order": last({StockPicked: "order_id"}),
        "moved": total({StockReceived: "quantity", StockPicked: -col("quantity")}),
        "picks": count(StockPicked),
        "ordered": count(where={StockPicked: col("order_id").is_not_null()}),
        "smallest": least({StockReceived: "quantity", StockAdjusted: "change"}),
        "largest": greatest({StockReceived: "quantity", StockAdjusted: "change"}),
        "earliest": least({StockPicked: "picked_at"}),
        "latest": greatest({StockPicked: "picked_at"}),
    },
    computed={"spread": col("largest") - col("smallest")},
)


@settings(max_examples=60, deadline=None)
@given(logs, st.randoms(use_true_random=False), st.integers(0, 40))
def test_running_is_the_fold_as_of_each_probe(
    events: list[StoredEvent], chance: Random, folded: int
) -> None:
    before, after = events[:folded], events[folded:]
    start = len(before)
    probes = pl.DataFrame(
        [
            {
                "organisation_id": str(chance.choice(ORGANISATIONS)),
                "site_id": chance.choice(["S-1", "S-2", "S-9", None]),
                "sku": chance.choice(["A", "B"]),
                "position": chance.randint(start, start + len(after) + 1),
                "probe": number,
            }
            for number in range(12)
        ],
        schema_overrides={"site_id": pl.String()},
    )
    frames = decode(after, wanted([EVERY_KIND]))
    parts = pl.concat([fold_events(EVERY_KIND, before), contributions(EVERY_KIND, frames)])
    found = running(EVERY_KIND, parts, probes)
    assert found["probe"].to_list() == list(range(12))

    nothing = dict.fromkeys([*EVERY_KIND.columns, *EVERY_KIND.computed, LAST_POSITION], None) | {
        "moved": Decimal(0),
        "picks": 0,
        "ordered": 0,
    }
    for row in found.iter_rows(named=True):
        seen = [one for one in events if one.position <= row["position"]]
        key = tuple(row[name] for name in EVERY_KIND.keys)
        expected = rows(EVERY_KIND, fold_events(EVERY_KIND, seen)).get(key, nothing)
        assert {name: row[name] for name in expected} == expected


# declarations


def test_an_event_without_a_key_is_left_out() -> None:
    picks = Table(
        name="picks_by_order",
        key={StockPicked: ("order_id",)},
        columns={"picks": count(StockPicked)},
    )
    picked = StockPicked(site_id="S", sku="A", quantity=Decimal(1), order_id=None, picked_at=None)
    known = picked.model_copy(update={"order_id": "O-1"})
    events = stored([(ORGANISATIONS[0], event) for event in (picked, known, picked, known)])
    assert rows(picks, fold_events(picks, events)) == {
        (str(ORGANISATIONS[0]), "O-1"): {"picks": 2, LAST_POSITION: 4}
    }
    assert fold_events(picks, events[:1]).is_empty()


def test_a_wrong_field_is_named_with_its_table_and_event() -> None:
    with pytest.raises(
        TypeError, match=r"^colours.colour: StockReceived has no field 'colour'.*quantity"
    ):
        Table(
            name="colours",
            key={StockReceived: ("sku",)},
            columns={"colour": first({StockReceived: "colour"})},
        ).check()
    with pytest.raises(TypeError, match=r"^colours.hue: StockReceived has no field 'hue'"):
        Table(name="colours", key={StockReceived: ("hue",)}, columns={}).check()


def test_an_event_that_is_folded_needs_a_key() -> None:
    with pytest.raises(TypeError, match=r"picks\.n: StockPicked has no key"):
        Table(name="picks", key={StockReceived: ("sku",)}, columns={"n": count(StockPicked)})


def test_all_events_of_a_table_have_the_same_key() -> None:
    with pytest.raises(TypeError, match="moves: every event needs the same key columns"):
        Table(name="moves", key={StockReceived: ("sku",), StockPicked: ("site_id",)}, columns={})


def declared(**changes: Any) -> Table:
    parts: dict[str, Any] = {
        "name": "received",
        "key": {StockReceived: ("site_id", "sku")},
        "columns": {"quantity": total({StockReceived: "quantity"})},
        "indexes": (),
        **changes,
    }
    return Table(**parts)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "taken_in"},
        {"key": {StockReceived: ("sku", "site_id")}},
        {"key": {StockReceived: {"site_id": col("site_id").str.to_lowercase(), "sku": col("sku")}}},
        {"columns": {"amount": total({StockReceived: "quantity"})}},
        {"columns": {"quantity": greatest({StockReceived: "quantity"})}},
        {"columns": {"quantity": total({StockReceived: col("quantity") * 2})}},
        {"columns": {"quantity": first({StockReceived: "state"}, json=True)}},
        {"columns": {"quantity": first({StockReceived: "state"})}},
        {"computed": {"twice": col("quantity") * 2}},
        {"indexes": (("sku",),)},
        {"every_event": True},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_another_declaration_has_another_fingerprint(changes: Mapping[str, Any]) -> None:
    assert declared().fingerprint == declared().fingerprint
    assert declared(**changes).fingerprint != declared().fingerprint


# on Postgres


@pytest.fixture
def log(database: str) -> str:
    """The URL of a database with an empty log and no read models."""
    return emptied(database)


async def tell(writer: Writer, told: Sequence[Fact], versions: dict[UUID, int]) -> None:
    """Append facts one by one, in their order."""
    appended = []
    for organisation, event in told:
        stream = uuid5(organisation, stream_of(event))
        before = versions.get(stream, 0)
        versions[stream] = before + 1
        new = NewEvent(stream, before + 1, *catalogue.encode(event))
        entry = Entry(
            uuid4(), b"", stream_of(event), before + 1, organisation, "ana", uuid4(), None, [new]
        )
        appended.append(asyncio.ensure_future(writer.append(Unit([entry], {stream: before}))))
    await asyncio.gather(*appended)


async def write(url: str, seed: int, size: int) -> None:
    """Facts by chance, the first of them with each of the odd texts in turn."""
    odd: list[Fact] = [
        (
            ORGANISATIONS[0],
            OrderCancelled(
                order_id=f"O-{100 + number}",
                site_id=None,
                currency="EUR",
                placed_at=NOON,
                cancelled_at=None,
                reason=text,
            ),
        )
        for number, text in enumerate(TEXTS)
    ]
    async with Writer(url) as writer:
        await tell(writer, [*odd, *facts(Random(seed), size - len(odd))], {})


def dump(url: str, table: Table) -> list[str]:
    """The table's rows as text, in no order of their own."""
    query = sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1").format(
        sql.Identifier("read_models", table.name)
    )
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(query).fetchall()]


def progress(url: str) -> dict[str, tuple[int, str | None]]:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT name, position, error FROM projections").fetchall()
    return {name: (position, error) for name, position, error in found}


async def rebuilt(url: str, table: Table) -> list[str]:
    """What the whole log folds to in one go."""
    await Projector(url, [table]).rebuild(table)
    return dump(url, table)


def test_live_and_rebuilt_tables_are_equal(log: str) -> None:
    tables = list(TABLES.values())

    async def run() -> None:
        await write(log, seed=1, size=400)
        projector = Projector(log, tables, batch=37)
        await projector.prepare()
        assert await projector.catch_up() == 400
        live = {table.name: dump(log, table) for table in tables}
        assert {len(live[table.name]) > 0 for table in (STOCK_LEVELS, ORDER_SUMMARY)} == {True}
        assert len(live["audit_trail"]) == 400
        for table in tables:
            assert await rebuilt(log, table) == live[table.name], table.name
        assert progress(log) == {table.name: (400, None) for table in tables}
        # And in parts, as a large log is.
        small = Projector(log, tables, batch=5)
        for table in tables:
            assert await small.rebuild(table) == 400
            assert dump(log, table) == live[table.name], table.name

    asyncio.run(run())


@asynccontextmanager
async def following(projector: Projector) -> AsyncIterator[None]:
    task = asyncio.create_task(projector.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_a_rebuild_while_writes_go_on_throws_no_reader_back(log: str) -> None:
    tables = [STOCK_LEVELS, ORDER_SUMMARY, ORDER_TIMELINE, DAILY_KPIS]
    counts: list[int] = []

    async def look() -> None:
        async with await psycopg.AsyncConnection.connect(log, autocommit=True) as connection:
            while True:
                cursor = await connection.execute("SELECT count(*) FROM read_models.order_timeline")
                row = await cursor.fetchone()
                assert row is not None
                counts.append(row[0])
                await asyncio.sleep(0.002)

    async def run() -> None:
        chance, versions = Random(2), dict[UUID, int]()
        projector = Projector(log, tables, batch=20)
        await projector.prepare()
        async with Writer(log) as writer, following(projector):
            looking = asyncio.create_task(look())

            async def go_on() -> None:
                for _ in range(60):
                    await tell(writer, facts(chance, 10), versions)

            writing = asyncio.create_task(go_on())
            while not writing.done():
                for table in tables:
                    await projector.rebuild(table)
            await writing
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
        assert await projector.catch_up() == 600
        for table in tables:
            live = dump(log, table)
            assert await rebuilt(log, table) == live, table.name

    asyncio.run(run())
    assert counts == sorted(counts)
    assert counts[-1] > 0


KILLS = """
CREATE SEQUENCE IF NOT EXISTS public.writes;
ALTER SEQUENCE public.writes RESTART;
CREATE OR REPLACE FUNCTION public.die() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A sequence goes on when a transaction is lost, so the next attempt gets further.
    IF nextval('public.writes') % 29 = 0 THEN
        PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(5);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER die BEFORE INSERT OR UPDATE ON read_models.stock_levels
    FOR EACH ROW EXECUTE FUNCTION public.die();
"""


def test_a_batch_that_is_cut_off_is_folded_once(log: str) -> None:
    async def run() -> int:
        cut = 0
        await write(log, seed=3, size=300)
        projector = Projector(log, [STOCK_LEVELS, DAILY_KPIS], batch=10)
        await projector.prepare()
        with psycopg.connect(log) as connection:
            connection.execute(KILLS)
        for _ in range(200):
            try:
                await projector.catch_up()
                break
            except psycopg.OperationalError:
                cut += 1
                [position] = {position for position, _ in progress(log).values()}
                assert position % 10 == 0
        assert progress(log) == {"stock_levels": (300, None), "daily_kpis": (300, None)}
        for table in (STOCK_LEVELS, DAILY_KPIS):
            live = dump(log, table)
            assert await rebuilt(log, table) == live, table.name
        return cut

    assert asyncio.run(run()) > 3


def test_a_table_whose_fold_raises_stops_alone(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "MOST_FAILURES", 0)  # every event fails: none is parked
    broken = Table(
        name="broken",
        key={StockReceived: ("site_id",)},
        columns={"number": last({StockReceived: col("sku").str.to_integer()})},
    )

    async def run() -> None:
        await write(log, seed=4, size=120)
        projector = Projector(log, [STOCK_LEVELS, broken, ORDER_SUMMARY], batch=25)
        await projector.prepare()
        assert await projector.catch_up() == 0
        found = progress(log)
        assert found["stock_levels"] == found["order_summary"] == (120, None)
        position, error = found["broken"]
        assert position == 0
        assert error is not None
        assert "parsing failed" in error
        live = dump(log, STOCK_LEVELS)
        assert await rebuilt(log, STOCK_LEVELS) == live
        # Mended, it is rebuilt by itself and goes with the others.
        mended = Table("broken", broken.key, {"number": last({StockReceived: "sku"})})
        again = Projector(log, [STOCK_LEVELS, mended, ORDER_SUMMARY])
        await again.prepare()
        assert await again.catch_up() == 120
        assert progress(log)["broken"] == (120, None)

    asyncio.run(run())


def test_two_projectors_make_the_rows_of_one(log: str) -> None:
    tables = [STOCK_LEVELS, ORDER_SUMMARY, DAILY_KPIS]

    async def run() -> None:
        both = [Projector(log, tables, batch=7), Projector(log, tables, batch=11)]
        await asyncio.gather(*(projector.prepare() for projector in both))
        chance, versions = Random(5), dict[UUID, int]()
        async with Writer(log) as writer, following(both[0]), following(both[1]):
            for _ in range(20):
                await tell(writer, facts(chance, 15), versions)
        assert await both[0].catch_up() == 300
        for table in tables:
            live = dump(log, table)
            assert await rebuilt(log, table) == live, table.name

    asyncio.run(run())


def test_a_changed_declaration_is_rebuilt_and_the_former_one_keeps_off(log: str) -> None:
    def moved(sign: int) -> Table:
        return Table(
            name="moved",
            key={StockReceived: ("site_id", "sku")},
            columns={"quantity": total({StockReceived: col("quantity") * lit(sign)})},
        )

    async def run() -> None:
        await write(log, seed=6, size=100)
        former, present = Projector(log, [moved(1)]), Projector(log, [moved(-1)])
        await former.prepare()
        await former.catch_up()
        before = dump(log, moved(1))
        # Two servers of the new version start at once.
        await asyncio.gather(present.prepare(), Projector(log, [moved(-1)]).prepare())
        await present.catch_up()
        after = dump(log, moved(-1))
        assert len(after) == len(before) > 0
        assert after != before
        # A server of the former version is still there when more comes in.
        async with Writer(log) as writer:
            received = StockReceived(site_id="S-77", sku="A", quantity=Decimal(5), received_at=None)
            await tell(writer, [(ORGANISATIONS[0], received)], {})
        await former.catch_up()
        assert dump(log, moved(-1)) == after
        assert await present.catch_up() == 101
        live = dump(log, moved(-1))
        assert any("S-77" in row and "-5.000" in row for row in live)
        assert await rebuilt(log, moved(-1)) == live
        with psycopg.connect(log) as connection:
            old = connection.execute("SELECT count(*) FROM read_models.moved__old").fetchone()
        assert old == (len(live),)

    asyncio.run(run())


# on a log that is another one


def replaced_log(url: str) -> None:
    """The log is gone; rows and positions of the read models are not."""
    with psycopg.connect(url) as connection:
        connection.execute("TRUNCATE events, commands")
        connection.execute("UPDATE log_head SET position = 0")


@pytest.mark.parametrize("size", [0, 90, 120, 150])
def test_tables_of_a_log_that_is_gone_are_folded_anew(log: str, size: int) -> None:
    """By whichever projector notices: both run, and the new log is shorter, as long, or longer."""
    tables = [STOCK_LEVELS, ORDER_TIMELINE, DAILY_KPIS]

    async def run() -> None:
        await write(log, seed=7, size=120)
        both = [Projector(log, tables, batch=7), Projector(log, tables, batch=50)]
        await both[0].prepare()
        await both[0].catch_up()
        replaced_log(log)
        if size:
            await write(log, seed=8, size=size)
        await asyncio.gather(*(projector.catch_up() for projector in both))
        assert progress(log) == {table.name: (size, None) for table in tables}
        for table in tables:
            live = dump(log, table)
            assert (len(live) > 0) == (size > 0)
            assert await rebuilt(log, table) == live, table.name

    asyncio.run(run())


def test_a_rebuild_by_hand_or_at_start_leaves_a_log_that_is_gone_behind(log: str) -> None:
    async def run() -> None:
        await write(log, seed=7, size=120)
        projector = Projector(log, [STOCK_LEVELS, DAILY_KPIS])
        await projector.prepare()
        await projector.catch_up()
        replaced_log(log)
        await write(log, seed=8, size=60)
        assert await projector.rebuild(STOCK_LEVELS) == 60
        assert progress(log) == {"stock_levels": (60, None), "daily_kpis": (120, None)}
        await projector.prepare()
        assert progress(log) == {"stock_levels": (60, None), "daily_kpis": (60, None)}
        for table in (STOCK_LEVELS, DAILY_KPIS):
            live = dump(log, table)
            assert await rebuilt(log, table) == live, table.name

    asyncio.run(run())


def test_a_table_of_a_former_version_is_believed_where_its_position_is_on_the_log(log: str) -> None:
    """It did not remember its last event; it does from the next batch on."""

    def known() -> list[tuple[str, int, bool]]:
        with psycopg.connect(log) as connection:
            return connection.execute(
                """SELECT name, position, last_event_id IS NOT DISTINCT FROM
                    (SELECT event_id FROM events WHERE notification_id = position)
                FROM projections ORDER BY name"""
            ).fetchall()

    async def run() -> None:
        await write(log, seed=7, size=120)
        projector = Projector(log, [STOCK_LEVELS])
        await projector.prepare()
        await projector.catch_up()
        with psycopg.connect(log) as connection:
            connection.execute("ALTER TABLE projections DROP COLUMN last_event_id")
            connection.execute("TRUNCATE read_models.stock_levels")  # a rebuild would show
        await projector.prepare()
        assert known() == [("stock_levels", 120, False)]
        await projector.catch_up()
        assert dump(log, STOCK_LEVELS) == []
        received = StockReceived(site_id="S-77", sku="A", quantity=Decimal(5), received_at=None)
        async with Writer(log) as writer:
            await tell(writer, [(ORGANISATIONS[0], received)], {})
        await projector.catch_up()
        assert known() == [("stock_levels", 121, True)]
        assert len(dump(log, STOCK_LEVELS)) == 1
        # Beyond the log it is not believed.
        with psycopg.connect(log) as connection:
            connection.execute("UPDATE projections SET position = 500, last_event_id = NULL")
        await projector.catch_up()
        assert known() == [("stock_levels", 121, True)]
        live = dump(log, STOCK_LEVELS)
        assert len(live) > 1
        assert await rebuilt(log, STOCK_LEVELS) == live

    asyncio.run(run())


def test_a_table_that_cannot_be_rebuilt_holds_up_no_other(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "MOST_FAILURES", 0)  # every event fails: none is parked
    broken = Table(
        name="broken",
        key={StockReceived: ("site_id",)},
        columns={"number": last({StockReceived: col("sku").str.to_integer()})},
    )

    async def run() -> None:
        projector = Projector(log, [broken, STOCK_LEVELS])
        await projector.prepare()
        await write(log, seed=4, size=120)
        with psycopg.connect(log) as connection:
            connection.execute(
                "UPDATE projections SET position = 7, last_event_id = gen_random_uuid()"
            )
        await projector.catch_up()
        found = progress(log)
        assert found["stock_levels"] == (120, None)
        position, error = found["broken"]
        assert position == 7
        assert error is not None
        assert "parsing failed" in error
        assert dump(log, broken) == []

    asyncio.run(run())
