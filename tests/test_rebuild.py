"""Rebuilding beside the live table: killed and gone on with, rolled back, or some rows in place."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import polars as pl
import psycopg
import pytest
from psycopg import AsyncConnection, sql

from domain.inventory import StockAdjusted, StockPicked, StockReceived
from domain.orders import OrderCancelled
from domain.values import Event
from eventstore import Writer
from projections import projector, store
from projections.catalogue import TABLES
from projections.fold import collect, count, each, last, total
from projections.inventory import STOCK_LEVELS
from projections.orders import ORDER_SUMMARY, ORDER_TIMELINE
from projections.projector import Projector
from projections.rebuild import (
    NotLive,
    rebuild,
    rebuild_between,
    rebuild_keys,
    rebuild_organisation,
)
from projections.table import LAST_POSITION, Table
from tests.appending import emptied
from tests.patience import PATIENCE_S
from tests.test_folds import ORGANISATIONS, Fact, facts, tell

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
_MOVES = (StockReceived, StockPicked, StockAdjusted)
_MOVED_AT: dict[type[Event], str] = {
    StockReceived: "received_at",
    StockPicked: "picked_at",
    StockAdjusted: "adjusted_at",
}
_LETTERS = "SELECT count(*) FROM dead_letters"


def longest_wait(given: pl.DataFrame) -> pl.DataFrame:
    """The longest time between two movements: what no fold expresses."""
    moves = given.drop_nulls("at").sort("organisation_id", "site_id", "sku", "at")
    waits = pl.col("at").diff().over("organisation_id", "site_id", "sku").dt.total_seconds()
    return moves.group_by("organisation_id", "site_id", "sku", maintain_order=True).agg(
        waits.max().fill_null(0).alias("longest_s"), pl.len().alias("moves")
    )


WAITS = Table(
    name="waits",
    key=dict.fromkeys(_MOVES, ("site_id", "sku")),
    columns={
        "at": each(_MOVED_AT),
    },
    recompute=longest_wait,
)
#: A row that an adjustment takes away.
OPEN_STOCK = Table(
    name="open_stock",
    key=dict.fromkeys(_MOVES, ("site_id", "sku")),
    columns={
        "received": total({StockReceived: "quantity"}),
        "moves": collect({StockReceived: "quantity", StockPicked: "quantity"}, most=3),
        "order_id": last({StockPicked: "order_id"}),
        "picks": count(StockPicked),
    },
    closes=(StockAdjusted,),
)
EVERY_WAY = [STOCK_LEVELS, ORDER_SUMMARY, ORDER_TIMELINE, WAITS, OPEN_STOCK]


@pytest.fixture
def log(database: str) -> str:
    """An empty log without read models."""
    return emptied(database)


async def write(url: str, told: Sequence[Fact], versions: dict[UUID, int]) -> None:
    async with Writer(url) as writer:
        await tell(writer, list(told), versions)


def dump(url: str, table: Table, suffix: str = "") -> list[str]:
    query = sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1").format(
        sql.Identifier("read_models", table.name + suffix)
    )
    with psycopg.connect(url) as connection:
        return [row for (row,) in connection.execute(query)]


def one(url: str, query: str, *parameters: Any) -> Any:
    with psycopg.connect(url) as connection:
        row = connection.execute(query, parameters).fetchone()
    return None if row is None else row[0]


async def caught_up(url: str, tables: Sequence[Table], **options: Any) -> int:
    runner = Projector(url, tables, **options)
    await runner.prepare()
    return await runner.catch_up()


@pytest.mark.parametrize("table", EVERY_WAY, ids=lambda table: table.name)
def test_live_in_batches_and_rebuilt_in_pieces_are_equal(log: str, table: Table) -> None:
    async def run() -> None:
        versions: dict[UUID, int] = {}
        await write(log, facts(Random(11), 400), versions)
        for batch in (7, 60):
            await caught_up(log, [table], batch=batch)
            await write(log, facts(Random(batch), 150), versions)
        assert await caught_up(log, [table]) == 700
        live = dump(log, table)
        assert len(live) > 3
        for rows_in_memory, positions in ((3, 40), (100, 300), (10_000, 10_000)):
            folded = await rebuild(
                log, table, rows_in_memory=rows_in_memory, positions_at_once=positions
            )
            assert folded == 700
            assert dump(log, table) == live, (rows_in_memory, positions)

    asyncio.run(run())


_KILLED = """
import asyncio, sys
from projections import rebuild
from projections.reading import LogReader
from tests.test_rebuild import EVERY_WAY
LogReader.window = property(lambda self: 40)
table = next(t for t in EVERY_WAY if t.name == sys.argv[2])
asyncio.run(rebuild.rebuild(sys.argv[1], table, rows_in_memory=30, positions_at_once=80))
"""


@pytest.mark.parametrize("table", [STOCK_LEVELS, ORDER_TIMELINE, OPEN_STOCK], ids=lambda t: t.name)
def test_a_rebuild_that_is_killed_leaves_the_live_table_and_goes_on(log: str, table: Table) -> None:
    async def prepared() -> None:
        await write(log, facts(Random(3), 2500), {})
        await caught_up(log, [table])

    asyncio.run(prepared())
    live = dump(log, table)
    chance, reached, kills = Random(5), [0], 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", _KILLED, log, table.name],
            cwd=Path(__file__).parent.parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        query = "SELECT position FROM projection_rebuilds WHERE name = %s"
        enough = reached[-1] + chance.randint(1, 900)
        give_up = monotonic() + PATIENCE_S
        while process.poll() is None and (one(log, query, table.name) or 0) < enough:
            assert monotonic() < give_up
            sleep(0.002)
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        assert dump(log, table) == live
        # What the killed one has written down is never less than what it began with.
        reached.append(one(log, query, table.name) or 0)
        assert reached[-1] >= reached[-2]
    assert kills >= 2
    assert max(reached) > 0
    assert dump(log, table) == live
    assert dump(log, table, store.OLD) == live
    assert one(log, "SELECT count(*) FROM projection_rebuilds") == 0


@pytest.mark.parametrize("table", EVERY_WAY, ids=lambda table: table.name)
def test_many_rows_at_once_are_those_of_few_at_once(log: str, table: Table) -> None:
    """Where a batch touches many rows they go over COPY, otherwise as arrays."""

    async def run() -> None:
        chance = Random(8)
        told: list[Fact] = [
            (
                chance.choice(ORGANISATIONS),
                cls(
                    **{"site_id": f"S-{number % 900}", "sku": "A", field: NOON},
                    **({"change": 1, "reason": "\\N"} if cls is StockAdjusted else {"quantity": 2}),
                    **({"order_id": chance.choice([None, ""])} if cls is StockPicked else {}),
                ),
            )
            for number in range(2600)
            for cls, field in [chance.choice(list(_MOVED_AT.items()))]
        ]
        told += [
            (
                ORGANISATIONS[0],
                OrderCancelled(
                    order_id=f"O-{number}",
                    site_id=None,
                    currency="EUR",
                    placed_at=NOON,
                    cancelled_at=None,
                    reason=f"\\N, {number}",
                ),
            )
            for number in range(700)
        ]
        await write(log, [*told, *facts(chance, 300)], {})
        failures: list[Any] = []
        found: list[list[str]] = []
        for batch in (100_000, 90):
            runner = Projector(log, [table], batch=batch, back_off_s=())
            await runner.prepare()
            async with await AsyncConnection.connect(log, autocommit=True) as connection:
                while await runner.step(connection):
                    pass
                error = "SELECT error FROM projections WHERE name = %s"
                failures.append((one(log, error, table.name), one(log, _LETTERS)))
                found.append(dump(log, table))
                if batch > 90:
                    await store.start_over(connection, [table])
        assert failures == [(None, 0)] * 2
        assert len(found[0]) > 600
        assert found[0] == found[1]

    asyncio.run(run())


def test_writes_go_on_and_readers_never_see_a_partial_table(log: str) -> None:
    async def run() -> None:
        versions: dict[UUID, int] = {}
        await write(log, facts(Random(2), 600), versions)
        await caught_up(log, [ORDER_TIMELINE])
        runner = Projector(log, [ORDER_TIMELINE])
        live = asyncio.create_task(runner.run())
        seen: list[int] = []

        async def read() -> None:
            async with await AsyncConnection.connect(log, autocommit=True) as connection:
                while True:
                    cursor = await connection.execute(
                        "SELECT count(*) FROM read_models.order_timeline"
                    )
                    row = await cursor.fetchone()
                    assert row is not None
                    seen.append(row[0])

        reader = asyncio.create_task(read())
        for seed in range(6):
            await asyncio.gather(
                rebuild(log, ORDER_TIMELINE, rows_in_memory=50, positions_at_once=100),
                write(log, facts(Random(100 + seed), 60), versions),
            )
        for task in (reader, live):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert await caught_up(log, [ORDER_TIMELINE]) == 960
        assert len(seen) > 20
        assert seen == sorted(seen)
        rows = dump(log, ORDER_TIMELINE)
        await rebuild(log, ORDER_TIMELINE)
        assert dump(log, ORDER_TIMELINE) == rows

    asyncio.run(run())


def test_a_rebuild_can_be_rolled_back_and_that_too(log: str) -> None:
    changed = Table(
        name="stock_levels",
        key={StockReceived: ("site_id", "sku")},
        columns={"received": total({StockReceived: "quantity"})},
    )

    async def roll_back(table: Table) -> int:
        async with await AsyncConnection.connect(log, autocommit=True) as connection:
            return await store.roll_back(connection, table)

    async def run() -> None:
        versions: dict[UUID, int] = {}
        await write(log, facts(Random(2), 200), versions)
        await caught_up(log, [STOCK_LEVELS])
        with pytest.raises(store.NothingToRollBack, match="has no former table"):
            await roll_back(STOCK_LEVELS)
        before = dump(log, STOCK_LEVELS)
        # Of the same declaration: it just goes on from where it was.
        await rebuild(log, STOCK_LEVELS)
        await write(log, facts(Random(3), 100), versions)
        assert await caught_up(log, [STOCK_LEVELS]) == 300
        after = dump(log, STOCK_LEVELS)
        assert await roll_back(STOCK_LEVELS) == 200
        assert dump(log, STOCK_LEVELS) == before
        assert await caught_up(log, [STOCK_LEVELS]) == 300
        assert dump(log, STOCK_LEVELS) == after
        # Of another one: it is held until that code is back, and the new code leaves it alone.
        assert await caught_up(log, [changed]) == 300
        newer = dump(log, changed)
        assert newer != after
        assert await roll_back(changed) == 300
        assert dump(log, STOCK_LEVELS) == after
        assert one(log, "SELECT held FROM projections WHERE name = 'stock_levels'") is True
        await write(log, facts(Random(4), 50), versions)
        assert await caught_up(log, [changed]) == 300
        assert dump(log, STOCK_LEVELS) == after
        assert await caught_up(log, [STOCK_LEVELS]) == 350
        # Rolling back what was rolled back, or rebuilding, ends it.
        assert await roll_back(STOCK_LEVELS) == 300
        assert dump(log, changed) == newer
        await rebuild(log, changed)
        assert one(log, "SELECT held FROM projections WHERE name = 'stock_levels'") is False
        assert await caught_up(log, [changed]) == 350

    asyncio.run(run())


def test_after_a_rollback_the_former_code_runs_and_the_next_version_is_built(log: str) -> None:
    def version(number: int) -> Table:
        columns = {f"picks_{number}": count(StockPicked)}
        return Table("picks", {StockPicked: ("site_id",)}, columns)

    async def run() -> None:
        versions: dict[UUID, int] = {}
        await write(log, facts(Random(2), 100), versions)
        await caught_up(log, [version(1)])
        await caught_up(log, [version(2)])
        async with await AsyncConnection.connect(log, autocommit=True) as connection:
            await store.roll_back(connection, version(2))
        await write(log, facts(Random(3), 100), versions)
        assert await caught_up(log, [version(1)]) == 200
        assert one(log, "SELECT held FROM projections WHERE name = 'picks'") is False
        assert await caught_up(log, [version(3)]) == 200
        assert one(log, "SELECT sum(picks_3) FROM read_models.picks") > 10

    asyncio.run(run())


def test_a_new_table_that_was_killed_in_building_is_built_not_filled(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "_LONG", 50)

    async def run() -> None:
        await write(log, facts(Random(2), 300), {})
        async with await AsyncConnection.connect(log, autocommit=True) as connection:
            await store.prepare(connection, [STOCK_LEVELS])  # and no more: killed
        runner = Projector(log, [STOCK_LEVELS], batch=10)
        live = asyncio.create_task(runner.run())
        seen = set()
        while 300 not in seen:
            seen.add(one(log, "SELECT position FROM projections WHERE name = 'stock_levels'"))
            await asyncio.sleep(0.005)
        live.cancel()
        with suppress(asyncio.CancelledError):
            await live
        assert seen == {0, 300}

    asyncio.run(run())


def test_a_table_that_is_being_mended_holds_up_no_other(log: str) -> None:
    async def run() -> None:
        versions: dict[UUID, int] = {}
        await write(log, facts(Random(2), 50), versions)
        await caught_up(log, [STOCK_LEVELS, ORDER_SUMMARY])
        await write(log, facts(Random(3), 50), versions)
        async with await AsyncConnection.connect(log) as mending:
            await store.progress(mending, [STOCK_LEVELS], lock=True)
            runner = Projector(log, [STOCK_LEVELS, ORDER_SUMMARY])
            async with await AsyncConnection.connect(log, autocommit=True) as connection:
                while await runner.step(connection):
                    pass
                position = "SELECT position FROM projections WHERE name = %s"
                assert one(log, position, "order_summary") == 100
                assert one(log, position, "stock_levels") == 50
                await mending.rollback()
                while await runner.step(connection):
                    pass
                assert one(log, position, "stock_levels") == 100

    asyncio.run(run())


def test_a_swap_waits_for_a_long_reader_and_nobody_waits_for_the_swap(log: str) -> None:
    async def run() -> None:
        await write(log, facts(Random(2), 50), {})
        await caught_up(log, [STOCK_LEVELS])
        async with await AsyncConnection.connect(log) as report:
            await report.execute("SELECT count(*) FROM read_models.stock_levels")
            swapping = asyncio.create_task(rebuild(log, STOCK_LEVELS))
            async with await AsyncConnection.connect(log, autocommit=True) as reader:
                await reader.execute("SET statement_timeout = '1500ms'")
                for _ in range(15):
                    await reader.execute("SELECT count(*) FROM read_models.stock_levels")
                    await asyncio.sleep(0.1)
            assert not swapping.done()
            await report.rollback()
            assert await swapping == 50

    asyncio.run(run())


def test_a_table_that_another_runner_holds_is_not_waited_for(log: str) -> None:
    async def run() -> None:
        await write(log, facts(Random(2), 50), {})
        await caught_up(log, [STOCK_LEVELS])
        other = Projector(log, [STOCK_LEVELS])
        async with await AsyncConnection.connect(log, autocommit=True) as connection:
            await other.step(connection)
            with psycopg.connect(log, autocommit=True) as hand:
                hand.execute("UPDATE projections SET held = true, position = 10")
            async with asyncio.timeout(PATIENCE_S):
                assert await Projector(log, [STOCK_LEVELS]).catch_up() == 10

    asyncio.run(run())


@pytest.mark.parametrize("table", EVERY_WAY, ids=lambda table: table.name)
def test_some_rows_are_made_again_in_their_place(log: str, table: Table) -> None:
    def spoil(where: str) -> None:
        """Rows that somebody broke by hand."""
        kinds = {n: kind for n, kind in table.row_types.items() if n not in table.keys}
        column = next(name for name, kind in kinds.items() if kind == pl.Int64())
        with psycopg.connect(log) as connection:
            connection.execute(f"UPDATE read_models.{table.name} SET {column} = 77 WHERE {where}")

    async def run() -> None:
        await write(log, facts(Random(21), 300), {})
        await caught_up(log, [table])
        live = dump(log, table)
        first, second = (str(organisation) for organisation in ORGANISATIONS)
        spoil(f"organisation_id = '{first}'")
        assert dump(log, table) != live
        await rebuild_organisation(log, table, ORGANISATIONS[0])
        assert dump(log, table) == live
        if table.every_event:
            return
        keys = [name for name in table.keys if name != "organisation_id"]
        with psycopg.connect(log) as connection:
            named = connection.execute(
                sql.SQL("SELECT organisation_id::text, {} FROM {} ORDER BY 1, 2 LIMIT 3").format(
                    sql.SQL(", ").join(map(sql.Identifier, keys)),
                    sql.Identifier("read_models", table.name),
                )
            ).fetchall()
        schema = {name: table.types[name] for name in table.keys}
        wanted = pl.DataFrame(named, schema=schema, orient="row")
        for organisation, *values in named:
            same = " AND ".join(f"{k} = '{v}'" for k, v in zip(keys, values, strict=True))
            spoil(f"organisation_id = '{organisation}' AND {same}")
        assert await rebuild_keys(log, table, wanted) == 3
        assert dump(log, table) == live
        # Those that a span of the log touched; others keep what is wrong with them.
        spoil(f"organisation_id = '{second}'")
        assert await rebuild_between(log, table, 0, 300) > 0
        assert dump(log, table) == live
        assert await rebuild_between(log, table, 300, 300) == 0

    asyncio.run(run())


def test_rows_of_another_declaration_are_not_made_again_in_place(log: str) -> None:
    other = Table(
        name="stock_levels",
        key={StockReceived: ("site_id", "sku")},
        columns={"received": total({StockReceived: "quantity"})},
    )

    async def run() -> None:
        await write(log, facts(Random(2), 50), {})
        await caught_up(log, [STOCK_LEVELS])
        with pytest.raises(NotLive, match="another declaration"):
            await rebuild_organisation(log, other, ORGANISATIONS[0])
        with psycopg.connect(log) as connection:
            connection.execute("UPDATE projections SET last_event_id = gen_random_uuid()")
        with pytest.raises(NotLive, match="another log"):
            await rebuild_organisation(log, STOCK_LEVELS, ORGANISATIONS[0])

    asyncio.run(run())


def test_two_runners_share_the_tables_and_the_second_takes_over(log: str) -> None:
    """Each table has one runner at a time; when its connection is cut, another one has it."""
    tables = [STOCK_LEVELS, ORDER_SUMMARY]

    async def run() -> None:
        versions: dict[UUID, int] = {}
        await write(log, facts(Random(2), 50), versions)
        first, second = Projector(log, tables), Projector(log, tables)
        await first.prepare()
        async with (
            await AsyncConnection.connect(log, autocommit=True) as mine,
            await AsyncConnection.connect(log, autocommit=True) as other,
        ):
            assert await first.step(mine)
            await write(log, facts(Random(3), 50), versions)
            assert not await second.step(other)  # they are not its to run
            assert one(log, "SELECT min(position) FROM projections") == 50
            pid = mine.info.backend_pid
            with psycopg.connect(log, autocommit=True) as killer:
                killer.execute("SELECT pg_terminate_backend(%s)", (pid,))
            with pytest.raises(psycopg.OperationalError):
                await first.step(mine)
            give_up = monotonic() + PATIENCE_S
            while not await second.step(other):
                assert monotonic() < give_up
                await asyncio.sleep(0.05)
            assert one(log, "SELECT min(position) FROM projections") == 100

    asyncio.run(run())


def test_a_rebuild_says_nothing_to_the_log(log: str) -> None:
    """Folds have no side effects: after a rebuild of everything the log is as it was."""

    async def run() -> None:
        await write(log, facts(Random(2), 100), {})
        await caught_up(log, list(TABLES.values()))
        state = "SELECT md5(string_agg(e::text, '' ORDER BY notification_id)) FROM events e"
        before = one(log, state), one(log, "SELECT count(*) FROM commands")
        for table in TABLES.values():
            await rebuild(log, table)
        assert (one(log, state), one(log, "SELECT count(*) FROM commands")) == before

    asyncio.run(run())


def test_a_back_dated_event_makes_its_own_rows_again_and_no_others(log: str) -> None:
    async def run() -> None:
        def moved(sku: str, hours: int) -> Fact:
            at = NOON + timedelta(hours=hours)
            event = StockReceived(site_id="S", sku=sku, quantity=Decimal(1), received_at=at)
            return ORGANISATIONS[0], event

        latest = Table(
            name="latest",
            key={StockReceived: ("sku",)},
            columns={
                "quantities": collect({StockReceived: "received_at"}),
                "n": count(StockReceived),
            },
            effective={StockReceived: "received_at"},
        )
        versions: dict[UUID, int] = {}
        await write(log, [moved("A", 1), moved("A", 5), moved("B", 2)], versions)
        await caught_up(log, [latest])
        with psycopg.connect(log) as connection:
            connection.execute("UPDATE read_models.latest SET n = 100")  # to be told apart
        await write(log, [moved("A", 3), moved("B", 9)], versions)
        await caught_up(log, [latest])
        with psycopg.connect(log) as connection:
            found = connection.execute(
                f"SELECT sku, quantities, n, {LAST_POSITION} FROM read_models.latest ORDER BY 1"
            ).fetchall()
        hours = {sku: [datetime.fromisoformat(at) for at in listed] for sku, listed, _, _ in found}
        assert hours["A"] == [NOON + timedelta(hours=n) for n in (1, 3, 5)]
        assert hours["B"] == [NOON + timedelta(hours=n) for n in (2, 9)]
        # A was made again from all of its events; B was gone on with.
        assert [row[2:] for row in found] == [(3, 4), (101, 5)]

    asyncio.run(run())
