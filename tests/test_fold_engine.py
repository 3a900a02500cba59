"""The engine of folds: whichever way a table is folded, its rows are what plain Python says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any
from uuid import UUID

import polars as pl
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars import col, lit
from polars.exceptions import InvalidOperationError
from psycopg import sql
from psycopg.rows import dict_row

from domain.inventory import StockPicked, StockReceived
from domain.orders import OrderCancelled, OrderPlaced
from eventstore import StoredEvent, Writer, prepare_database
from eventstore.log import read_after
from projections.contributions import contributions
from projections.engine import finish, fold_events, folded, merge, resume
from projections.fold import (
    Fold,
    Merge,
    collect,
    count,
    count_distinct,
    greatest,
    last,
    latest_of_map,
    total,
)
from projections.frames import decode, wanted
from projections.projector import Projector
from projections.rebuild import rebuild
from projections.running import running
from projections.table import LAST_POSITION, Table
from tests.fold_cases import (
    CASES,
    EFFECTIVE,
    FOLDED,
    RECOMPUTED,
    Case,
    Rows,
    facts,
)
from tests.test_folds import NOON, ORGANISATIONS, Row, stored, tell

A = ORGANISATIONS[0]

logs = st.builds(facts, st.randoms(use_true_random=False), st.integers(0, 50)).map(stored)
chances = st.randoms(use_true_random=False)
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def finished(table: Table, part: pl.DataFrame) -> Rows:
    """The finished rows by key, maps as such."""
    found: Rows = {}
    for row in finish(table, part).iter_rows(named=True):
        key = tuple(row.pop(name) for name in table.keys)
        assert key not in found
        found[key] = as_read(table, row)
    return found


def as_read(table: Table, row: Row) -> Row:
    """A row without what only the engine reads."""
    row = {name: value for name, value in row.items() if not name.endswith("__seen")}
    maps = [name for name, fold in table.columns.items() if fold.merge is Merge.LATEST]
    return row | {name: {one["key"]: one["value"] for one in row[name]} for name in maps}


def pieces(events: Sequence[StoredEvent], chance: Random) -> list[Sequence[StoredEvent]]:
    """The events cut into contiguous parts, some of them empty."""
    cuts = sorted(chance.randint(0, len(events)) for _ in range(chance.randint(0, 5)))
    return [events[start:end] for start, end in pairwise([0, *cuts, len(events)])]


# merging


def in_any_order(table: Table, parts: list[pl.DataFrame], chance: Random) -> pl.DataFrame:
    """Some parts merged, that with some others, and so on."""
    parts = chance.sample(parts, len(parts))
    while len(parts) > 1:
        some = chance.randint(2, 3)
        parts = [*parts[some:], merge(table, parts[:some])]
        chance.shuffle(parts)
    return parts[0]


@every_case
def test_a_table_means_what_plain_python_says_in_whatever_parts_it_is_merged(case: Case) -> None:
    @settings(max_examples=15, deadline=None)
    @given(logs, chances)
    def holds(events: list[StoredEvent], chance: Random) -> None:
        expected = case.rows(events)
        assert finished(case.table, fold_events(case.table, events)) == expected
        shares: list[list[StoredEvent]] = [[], [], []]
        for event in events:
            chance.choice(shares).append(event)
        for apart in (pieces(events, chance), [events[0::2], events[1::2]], shares):
            parts = [fold_events(case.table, part) for part in apart]
            assert finished(case.table, in_any_order(case.table, parts, chance)) == expected

    holds()


@pytest.mark.parametrize("case", [one for one in FOLDED if one is not EFFECTIVE], ids=str)
def test_stored_rows_go_on_where_they_were(case: Case) -> None:
    """Folded in log order, as live and in a rebuild; what is stored holds no orders."""

    @settings(max_examples=15, deadline=None)
    @given(logs, chances)
    def holds(events: list[StoredEvent], chance: Random) -> None:
        table = case.table
        parts = [fold_events(table, piece) for piece in pieces(events, chance)]
        kept = gone_on = folded(table, parts[:1])
        for part in parts[1:]:
            kept = folded(table, [kept, part])
            gone_on = folded(table, [resume(table, finish(table, gone_on)), part])
        expected = case.rows(events)
        assert finished(table, gone_on) == expected
        assert finished(table, kept) == expected

    holds()


# the running form


@pytest.mark.parametrize("case", FOLDED, ids=str)
def test_running_says_what_the_table_held_at_each_probe(case: Case) -> None:
    @settings(max_examples=15, deadline=None)
    @given(logs, chances)
    def holds(events: list[StoredEvent], chance: Random) -> None:
        start = chance.randint(0, len(events))
        before = fold_events(case.table, events[:start])
        if case is not EFFECTIVE and chance.random() < 0.5:
            before = resume(case.table, finish(case.table, before))
        after = contributions(case.table, decode(events[start:], wanted([case.table])))
        probes = _probes(case, events, start, chance)
        found = running(case.table, pl.concat([before, after]), probes)
        assert found["probe"].to_list() == list(range(probes.height))
        as_of = [case.rows(events[:end]) for end in range(len(events) + 1)]
        for row in found.iter_rows(named=True):
            key = tuple(row.pop(name) for name in case.table.keys)
            row.pop("probe")
            at = min(row.pop("position"), len(events))
            assert as_read(case.table, row) == as_of[at].get(key, case.row([])), (key, at)

    holds()


def _probes(case: Case, events: list[StoredEvent], start: int, chance: Random) -> pl.DataFrame:
    """Positions from ``start`` to behind the end, of keys that occur, and of one that does not."""
    keys: list[tuple[Any, ...]] = sorted(case.rows(events), key=repr)
    no_key = tuple(None for _ in case.table.keys)
    names = [*case.table.keys, "position", "probe"]
    types = [case.table.types[name] for name in case.table.keys] + [pl.Int64(), pl.Int64()]
    asked = [
        (*chance.choice([*keys, no_key]), chance.randint(start, len(events) + 1), number)
        for number in range(20)
    ]
    return pl.DataFrame(asked, schema=dict(zip(names, types, strict=True)), orient="row")


def test_a_recomputed_table_has_no_running_form() -> None:
    with pytest.raises(TypeError, match="lowest: recomputed rows and rows of events have no"):
        running(RECOMPUTED.table, fold_events(RECOMPUTED.table, []), pl.DataFrame())


def placed(order_id: str, goods_minor: int = 0) -> OrderPlaced:
    return OrderPlaced(
        order_id=order_id,
        customer_id="C",
        currency="EUR",
        lines=(),
        lines_known=False,
        units=Decimal(1),
        goods_minor=goods_minor,
        freight_minor=0,
        weight_g=None,
        region=None,
        placed_at=NOON,
        promised_at=NOON,
    )


def cancelled(order_id: str) -> OrderCancelled:
    return OrderCancelled(
        order_id=order_id,
        site_id=None,
        currency="EUR",
        placed_at=NOON,
        cancelled_at=None,
        reason="lost",
    )


def received(sku: str, quantity: int = 1, at: datetime | None = None) -> StockReceived:
    return StockReceived(site_id="S", sku=sku, quantity=Decimal(quantity), received_at=at)


def picked(sku: str, order_id: str | None) -> StockPicked:
    return StockPicked(site_id="S", sku=sku, quantity=Decimal(1), order_id=order_id, picked_at=None)


def test_what_a_closing_event_says_is_forgotten_in_every_form() -> None:
    table = Table(
        name="open_orders",
        key={OrderPlaced: ("order_id",), OrderCancelled: ("order_id",)},
        closes=(OrderCancelled,),
        columns={
            "events": count(OrderPlaced, OrderCancelled),
            "reason": last({OrderCancelled: "reason"}),
            "worth": greatest({OrderPlaced: "goods_minor", OrderCancelled: 99}),
            "positions": collect({OrderPlaced: "position", OrderCancelled: "position"}),
        },
    )
    events = stored([(A, placed("O-1")), (A, cancelled("O-1")), (A, placed("O-1", 5))])
    expected = {"events": 1, "reason": None, "worth": 5, "positions": [3], LAST_POSITION: 3}
    key = (str(A), "O-1")
    whole = fold_events(table, events)
    assert finished(table, whole) == {key: expected}
    kept = folded(table, [fold_events(table, events[:2]), fold_events(table, events[2:])])
    assert finished(table, kept) == {key: expected}
    probe = pl.DataFrame({"organisation_id": [key[0]], "order_id": ["O-1"], "position": [3]})
    history = contributions(table, decode(events, wanted([table])))
    found = running(table, history, probe).row(0, named=True)
    assert {name: found[name] for name in expected} == expected


# single promises of the folds


def one_column(fold: Fold) -> Table:
    return Table(
        name="one",
        key={StockPicked: ("site_id",), StockReceived: ("site_id",)},
        columns={"x": fold},
    )


def seen(table: Table, part: pl.DataFrame) -> Any:
    [row] = finished(table, part).values()
    return row["x"]


def test_a_literal_null_says_nothing() -> None:
    """As for a key that an event says nothing about."""
    table = Table(
        name="by_place",
        key={StockPicked: [{"place": "site_id"}, {"place": "sku"}]},
        columns={
            "role": last({StockPicked: (lit("site"), lit("sku"))}),
            "sku_here": last({StockPicked: ("sku", lit(None))}),
        },
    )
    events = stored(
        [(A, picked("B", None)), (A, picked("S", None).model_copy(update={"site_id": "T"}))]
    )
    row = finished(table, fold_events(table, events))[str(A), "S"]
    assert row == {"role": "sku", "sku_here": "B", LAST_POSITION: 2}


@pytest.mark.parametrize("over", [0, 1, 3])
def test_a_map_keeps_what_changed_last(over: int) -> None:
    """In one fold, and where it goes on from what is stored."""
    skus = [*"CBAC", *"FED"[:over], "B"]
    table = one_column(latest_of_map({StockReceived: ("sku", "position")}, most=3))
    events = stored([(A, received(sku)) for sku in skus])
    by_sku: dict[str, int] = {}
    for position, sku in enumerate(skus, 1):
        by_sku.pop(sku, None)
        by_sku[sku] = position
    expected = dict(list(by_sku.items())[-3:])
    assert seen(table, fold_events(table, events)) == expected
    live = fold_events(table, events[:1])
    for event in events[1:]:
        live = folded(table, [resume(table, finish(table, live)), fold_events(table, [event])])
    assert seen(table, live) == expected


def test_a_list_keeps_the_newest_or_the_oldest() -> None:
    events = stored([(A, received(sku)) for sku in "ABCDE"])
    for newest, expected in ((True, ["D", "E"]), (False, ["A", "B"])):
        table = one_column(collect({StockReceived: "sku"}, most=2, newest=newest))
        assert seen(table, fold_events(table, events)) == expected


@pytest.mark.parametrize("fold", [collect, latest_of_map, count_distinct])
def test_a_bound_is_at_least_one(fold: Any) -> None:
    bound = {"exact": 0} if fold is count_distinct else {"most": 0}
    said = ("sku", "sku") if fold is latest_of_map else "sku"
    with pytest.raises(ValueError, match="the bound must be at least 1, got 0"):
        fold({StockReceived: said}, **bound)


# counting what is different


def distinct(value: pl.Expr, exact: int) -> Table:
    return Table(
        name="distinct",
        key={StockReceived: ("site_id",)},
        columns={"x": count_distinct({StockReceived: value}, exact=exact)},
    )


def many(table: Table, numbers: Sequence[int]) -> pl.DataFrame:
    """The part of as many events, numbered; decoded ones, as encoding takes longer than folding."""
    number = pl.Series("number", numbers)
    frame = pl.DataFrame(
        {
            "position": range(1, len(numbers) + 1),
            "organisation_id": [str(A)] * len(numbers),
            "site_id": ["S"] * len(numbers),
            "sku": number.cast(pl.String),
            "quantity": number.cast(pl.Decimal(38, 3)),
            "received_at": number.cast(pl.Datetime("us", "UTC")),
        },
        schema_overrides={"position": pl.Int64()},
    )
    return merge(table, [contributions(table, {StockReceived: frame})])


@pytest.mark.parametrize("exact", [1, 2, 7, 50])
def test_distinct_is_exact_up_to_its_bound(exact: int) -> None:
    table = distinct(col("sku"), exact)
    for size in range(1, exact + 1):
        assert seen(table, many(table, [*range(size), *range(size)])) == size


@pytest.mark.parametrize(
    "value",
    [col("sku"), col("quantity"), col("received_at"), col("sku").cast(pl.Int64)],
    ids=["text", "decimal", "moment", "integer"],
)
def test_distinct_is_estimated_beyond_its_bound(value: pl.Expr) -> None:
    table = distinct(value, exact=400)
    for size in (401, 2_000, 30_000):
        numbers = list(range(size))
        whole = many(table, numbers)
        assert abs(seen(table, whole) / size - 1) < 0.25, size  # five standard errors
        # Parts that know the same values, in any order, and one from what is stored.
        parts = [many(table, numbers[: size // 2]), many(table, numbers[size // 3 :])]
        for merged in (parts, parts[::-1], [resume(table, finish(table, parts[0])), parts[1]]):
            assert seen(table, merge(table, merged)) == seen(table, whole)


# numbers that leave 64 bits


@pytest.mark.parametrize("closes", [(), (OrderCancelled,)])
def test_a_total_that_leaves_64_bits_raises(closes: tuple[type[OrderCancelled], ...]) -> None:
    table = Table(
        name="worth",
        key={OrderPlaced: ("currency",), OrderCancelled: ("currency",)},
        columns={"worth": total({OrderPlaced: "goods_minor"})},
        closes=closes,
    )

    def told(*goods: int) -> list[StoredEvent]:
        return stored([(A, placed("O-1", one)) for one in goods])

    # A total may leave 64 bits on its way as long as it comes back.
    [row] = finished(table, fold_events(table, told(2**62, 2**62 - 1, 2**62, -(2**62)))).values()
    assert row["worth"] == 2**63 - 1
    [row] = finished(table, fold_events(table, told(-(2**62), -(2**62)))).values()
    assert row["worth"] == -(2**63)
    events = told(2**62, 2**62)
    with pytest.raises(InvalidOperationError):
        finish(table, fold_events(table, events))
    halves = [fold_events(table, events[:1]), fold_events(table, events[1:])]
    with pytest.raises(InvalidOperationError):
        folded(table, halves)
    probe = pl.DataFrame({"organisation_id": [str(A)], "currency": ["EUR"], "position": [2]})
    with pytest.raises(InvalidOperationError):
        running(table, pl.concat(halves), probe)


# on Postgres


@pytest.fixture
def log(database: str) -> str:
    """The URL of a database with an empty log and no read models."""
    prepare_database(database)
    with psycopg.connect(database) as connection:
        connection.execute("DROP SCHEMA IF EXISTS read_models CASCADE")
        for name in ("projections", "projection_rebuilds", "dead_letters"):
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name)))
        connection.execute("TRUNCATE events, commands")
        connection.execute("UPDATE log_head SET position = 0")
    return database


async def log_of(url: str) -> list[StoredEvent]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        return await read_after(connection, 0, 10_000)


def in_postgres(url: str, table: Table) -> Rows:
    """The rows of a table by key. The values of a list or map are texts where JSON has no such."""
    query = sql.SQL("SELECT * FROM {}").format(sql.Identifier("read_models", table.name))
    found: Rows = {}
    with psycopg.connect(url, row_factory=dict_row) as connection:
        for row in connection.execute(query).fetchall():
            row["organisation_id"] = str(row["organisation_id"])
            key = tuple(row.pop(name) for name in table.keys)
            found[key] = {name: v for name, v in row.items() if not name.endswith("__seen")}
    return found


def as_stored(rows: Rows) -> Rows:
    return {
        key: {
            name: _in_json(value) if isinstance(value, list | dict) else value
            for name, value in row.items()
        }
        for key, row in rows.items()
    }


def _in_json(value: Any) -> Any:
    match value:
        case dict():
            return {name: _in_json(one) for name, one in value.items()}
        case list():
            return [_in_json(one) for one in value]
        case Decimal():
            return str(value.quantize(Decimal("0.001")))
        case datetime():
            return value.isoformat()
        case None | bool() | int() | float() | str():
            return value
    return str(value)


@pytest.mark.parametrize(("seed", "batch"), [(1, 4), (2, 33), (3, 200)])
def test_live_rebuilt_and_folded_in_memory_are_equal(log: str, seed: int, batch: int) -> None:
    tables = [case.table for case in CASES]

    async def told() -> list[StoredEvent]:
        async with Writer(log) as writer:
            versions: dict[UUID, int] = {}
            projector = Projector(log, tables, batch=batch)
            await projector.prepare()
            await tell(writer, facts(Random(seed), 100), versions)
            await projector.catch_up()
            await tell(writer, facts(Random(-seed), 50), versions)
            assert await projector.catch_up() == 150
        return await log_of(log)

    events = asyncio.run(told())
    for case in CASES:
        expected = case.rows(events)
        assert finished(case.table, fold_events(case.table, events)) == expected
        assert in_postgres(log, case.table) == as_stored(expected), case
        asyncio.run(rebuild(log, case.table, rows_in_memory=5, positions_at_once=40))
        assert in_postgres(log, case.table) == as_stored(expected), case
    with psycopg.connect(log) as connection:
        assert connection.execute("SELECT count(*) FROM dead_letters").fetchone() == (0,)
