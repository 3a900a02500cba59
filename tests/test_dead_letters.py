"""What a table cannot fold: tried again, then parked with the later events of its key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from string import ascii_letters
from typing import Any
from uuid import UUID, uuid4, uuid5

import psycopg
import pytest
from polars import col, when

from domain import catalogue
from domain.inventory import StockAdjusted, StockReceived
from domain.values import Event
from eventstore import Entry, NewEvent, Unit, Writer
from projections import dead_letters, folding
from projections import rows as row_store
from projections.fold import collect, count, first, last, total
from projections.inventory import STOCK_LEVELS
from projections.projector import Projector
from projections.rebuild import rebuild, rebuild_between, rebuild_organisation
from projections.replay import NoSuchLetter, replay
from projections.table import Table
from tests.appending import emptied
from tests.spec import stream_of

ORGANISATION = UUID("11111111-2222-4333-8444-5555555555d1")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
POISON = "0.666"

#: Cannot fold a quantity of POISON: an integer is asked of a text that is none.
FRAGILE = Table(
    name="fragile",
    key=dict.fromkeys((StockReceived, StockAdjusted), ("site_id", "sku")),
    columns={
        "received": total(
            {
                StockReceived: when(col("quantity") == Decimal(POISON))
                .then(col("sku").str.to_integer(strict=True))
                .otherwise(0)
                + col("quantity")
            }
        ),
        "seen": count(StockReceived, StockAdjusted),
        "order": collect({StockReceived: "quantity", StockAdjusted: "change"}),
        "last_reason": last({StockAdjusted: "reason"}),
    },
)
#: The same without the weakness.
MENDED = Table(
    name="fragile",
    key=FRAGILE.key,
    columns=dict(FRAGILE.columns) | {"received": total({StockReceived: "quantity"})},
)


@pytest.fixture
def log(database: str) -> str:
    """An empty log without read models."""
    return emptied(database)


async def tell(url: str, events: Sequence[Event], raw: bytes | None = None) -> None:
    """Append events, each by itself; the last one with other bytes if they are given."""
    async with Writer(url) as writer:
        for index, event in enumerate(events):
            stream = uuid5(ORGANISATION, stream_of(event))
            topic, state = catalogue.encode(event)
            if raw is not None and index == len(events) - 1:
                state = raw
            version = 1 + len(_versions(url, stream))
            new = NewEvent(stream, version, topic, state)
            entry = Entry(uuid4(), b"", "s", version, ORGANISATION, "ana", uuid4(), None, [new])
            await writer.append(Unit([entry], {stream: version - 1}))


def _versions(url: str, stream: UUID) -> list[int]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT originator_version FROM events WHERE originator_id = %s", (stream,)
        ).fetchall()
    return [version for (version,) in rows]


def received(sku: str, quantity: str) -> StockReceived:
    return StockReceived(site_id="S", sku=sku, quantity=Decimal(quantity), received_at=NOON)


def adjusted(sku: str, reason: str = "count") -> StockAdjusted:
    return StockAdjusted(
        site_id="S", sku=sku, change=Decimal("-0.5"), reason=reason, adjusted_at=NOON
    )


def rows(url: str, table: Table = FRAGILE) -> dict[str, tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            f"""SELECT sku, received, seen, "order", last_position
            FROM read_models.{table.name}"""
        ).fetchall()
    return {sku: tuple(rest) for sku, *rest in found}


def parked(url: str, suffix: str = "") -> list[tuple[int, str | None]]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            """SELECT position, left(error, 30) FROM dead_letters
            WHERE projection = 'fragile' AND suffix = %s ORDER BY 1""",
            (suffix,),
        ).fetchall()


def projector(url: str, table: Table = FRAGILE, **options: Any) -> Projector:
    return Projector(url, [table, STOCK_LEVELS], back_off_s=(0.01, 0.01), **options)


async def caught_up(url: str, table: Table = FRAGILE, **options: Any) -> int:
    runner = projector(url, table, **options)
    await runner.prepare()
    return await runner.catch_up()


#: Positions: 1 good, 2 poison of A, 3 good of B, 4 and 5 of A wait, 6 poison of C, 7 good of B.
STORY: tuple[Event, ...] = (
    received("A", "1"),
    received("A", POISON),
    received("B", "2"),
    adjusted("A"),
    received("A", "4"),
    received("C", POISON),
    received("B", "8"),
)


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_a_poison_event_and_the_later_ones_of_its_key_are_parked(log: str, batch: int) -> None:
    async def run() -> None:
        await tell(log, STORY)
        assert await caught_up(log, batch=batch) == 7
        letters = parked(log)
        assert [position for position, _ in letters] == [2, 4, 5, 6]
        assert [error is None for _, error in letters] == [False, True, True, False]
        assert rows(log) == {
            "A": (Decimal(1), 1, ["1.000"], 1),
            "B": (Decimal(10), 2, ["2.000", "8.000"], 7),
        }
        # Another table, which can, has folded all of it.
        with psycopg.connect(log) as connection:
            counted = connection.execute(
                "SELECT sku, received FROM read_models.stock_levels ORDER BY 1"
            ).fetchall()
        poison = Decimal(POISON)
        assert counted == [("A", 5 + poison), ("B", Decimal(10)), ("C", poison)]
        # What comes later goes the same ways.
        await tell(log, [adjusted("A"), adjusted("C"), adjusted("B")])
        assert await caught_up(log, batch=batch) == 10
        assert [position for position, _ in parked(log)] == [2, 4, 5, 6, 8, 9]
        assert rows(log)["B"][1] == 3

    asyncio.run(run())


def test_dead_letters_are_replayed_in_the_order_of_their_keys(log: str) -> None:
    async def run() -> None:
        await tell(log, STORY)
        await caught_up(log)
        # Nothing was mended: they fail again, and those behind them wait.
        again = await replay(log, FRAGILE)
        assert (again.folded, again.failed, again.waiting, again.left) == (0, 2, 2, 4)
        # The code is mended in a way that leaves the rows alone.
        folded = await replay(log, _as(MENDED), positions=[6])
        assert (folded.folded, folded.left) == (1, 3)
        assert rows(log)["C"] == (Decimal(POISON), 1, ["0.666"], 6)
        # A later one of a key may not overtake an earlier one that is not asked for.
        late = await replay(log, _as(MENDED), positions=[5])
        assert (late.folded, late.waiting, late.left) == (0, 1, 3)
        bounded = await replay(log, _as(MENDED), limit=2)
        assert (bounded.folded, bounded.left) == (2, 1)
        assert rows(log)["A"] == (1 + Decimal(POISON), 3, ["1.000", "0.666", "-0.500"], 4)
        rest = await replay(log, _as(MENDED))
        assert (rest.folded, rest.left) == (1, 0)
        assert rows(log)["A"][2] == ["1.000", "0.666", "-0.500", "4.000"]
        with pytest.raises(NoSuchLetter, match="no dead letter at position 2"):
            await replay(log, _as(MENDED), positions=[2])
        # A key without dead letters is folded live again, and all is as if nothing had happened.
        await tell(log, [adjusted("A")])
        await caught_up(log, _as(MENDED))
        live = rows(log)
        await rebuild(log, _as(MENDED))
        assert rows(log) == live

    asyncio.run(run())


def _as(table: Table) -> Table:
    """A table that counts as the fragile one: its code was mended, not what it means."""

    class Mended(Table):
        @property
        def fingerprint(self) -> str:
            return FRAGILE.fingerprint

    return Mended(table.name, table.key, table.columns)


def test_a_rebuild_parks_what_it_cannot_fold_and_a_mended_one_does_not(log: str) -> None:
    async def run() -> None:
        await tell(log, STORY)
        await caught_up(log)
        live = rows(log)
        await rebuild(log, FRAGILE)
        assert rows(log) == live
        assert [position for position, _ in parked(log)] == [2, 4, 5, 6]
        assert [position for position, _ in parked(log, "__old")] == [2, 4, 5, 6]
        # Of one organisation alone, in its place.
        await rebuild_organisation(log, FRAGILE, ORGANISATION)
        assert rows(log) == live
        assert await caught_up(log, MENDED) == 7
        assert parked(log) == []
        assert rows(log)["A"] == (
            5 + Decimal(POISON),
            4,
            ["1.000", "0.666", "-0.500", "4.000"],
            5,
        )

    asyncio.run(run())


def test_an_event_that_cannot_even_be_read_is_parked_with_its_stream(log: str) -> None:
    async def run() -> None:
        broken = b'{"site_id": "S", "sku": "A", "quantity": {"not": "a number"}'
        await tell(log, [received("A", "1"), received("A", "2")], raw=broken)
        await tell(log, [received("B", "3"), received("A", "4")])
        assert await caught_up(log) == 4
        assert [position for position, _ in parked(log)] == [2, 4]
        assert rows(log) == {
            "A": (Decimal(1), 1, ["1.000"], 1),
            "B": (Decimal(3), 1, ["3.000"], 3),
        }
        with psycopg.connect(log) as connection:
            found = connection.execute(
                "SELECT keys FROM dead_letters WHERE projection = 'fragile' AND position = 2"
            ).fetchone()
        stream = uuid5(ORGANISATION, stream_of(received("A", "1")))
        assert found is not None
        [key] = found[0]
        assert dead_letters.shown(key) == f"stream/{stream}"

    asyncio.run(run())


def test_an_event_whose_key_was_not_known_takes_its_place_when_it_is_replayed(log: str) -> None:
    """Later events of its key came from another stream and were not held back."""
    weak = Table(
        name="weak",
        key={StockAdjusted: ("reason",)},
        columns={
            "first": first({StockAdjusted: "sku"}),
            "change": total({StockAdjusted: "change"}),
            "order": collect({StockAdjusted: "sku"}),
        },
    )

    async def run() -> None:
        await tell(log, [adjusted("A", "same")], raw=b'{"site_id": "S", "sku": "A", "change": []}')
        await tell(log, [adjusted("B", "same"), adjusted("C", "same")])
        runner = Projector(log, [weak], back_off_s=(0.01,))
        await runner.prepare()
        assert await runner.catch_up() == 3
        with psycopg.connect(log, autocommit=True) as connection:
            parked = connection.execute("SELECT position, keys FROM dead_letters").fetchall()
            assert [position for position, _ in parked] == [1]
            # What stood in the way is mended.
            _, state = catalogue.encode(adjusted("A", "same"))
            connection.execute("UPDATE events SET state = %s WHERE notification_id = 1", (state,))
        assert (await replay(log, weak)).folded == 1
        with psycopg.connect(log) as connection:
            found = connection.execute('SELECT first, "order", last_position FROM read_models.weak')
            assert found.fetchall() == [("A", ["A", "B", "C"], 3)]

    asyncio.run(run())


def test_one_dead_letter_costs_the_others_no_retry(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        await tell(log, STORY)
        runner = projector(log)
        await runner.prepare()
        await runner.catch_up()
        before = parked(log)
        await tell(log, [received("B", "1"), received("D", "1")])
        calls = 0
        merge_part = row_store.merge_part

        async def failing(*words: Any, **named: Any) -> None:
            nonlocal calls
            calls += 1
            if calls <= 2:
                raise MemoryError("for a moment")
            await merge_part(*words, **named)

        monkeypatch.setattr(row_store, "merge_part", failing)
        assert await runner.catch_up() == 9
        assert parked(log) == before
        assert rows(log)["D"][1] == 1

    asyncio.run(run())


def test_a_span_with_dead_letters_can_be_rebuilt(log: str) -> None:
    async def run() -> None:
        await tell(log, STORY)
        await caught_up(log)
        live = rows(log)
        assert await rebuild_between(log, FRAGILE, 0, 7) == 2
        assert rows(log) == live

    asyncio.run(run())


def test_a_table_that_can_fold_nothing_stops_instead_of_parking_everything(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "MOST_FAILURES", 5)

    async def run() -> None:
        await tell(log, [received("A", "1"), *(received(f"P{n}", POISON) for n in range(6))])
        assert await caught_up(log) == 0
        assert parked(log) == []
        with psycopg.connect(log) as connection:
            found = connection.execute(
                "SELECT position, error FROM projections WHERE name = 'fragile'"
            ).fetchone()
        assert found is not None
        position, error = found
        assert position == 0
        assert error.startswith("more than 5 events of one batch cannot be folded")

    asyncio.run(run())


def test_an_outage_of_the_database_parks_nothing(log: str) -> None:
    busy = psycopg.errors.LockNotAvailable("canceling statement due to lock timeout")
    full = psycopg.errors.ProgramLimitExceeded("index row size 2712 exceeds btree maximum")
    assert folding.is_outage(busy)
    assert folding.is_outage(psycopg.OperationalError("server closed the connection"))
    assert folding.is_outage(psycopg.errors.AdminShutdown("terminating connection"))
    # Some of what is called operational is the event's own doing.
    assert not folding.is_outage(full)
    assert not folding.is_outage(psycopg.DataError("a text that holds a zero"))

    async def run() -> None:
        await tell(log, [received("A", "1")])
        long = "".join(Random(1).choices(ascii_letters, k=6000))  # for an index of Postgres
        wide = Table("wide", {StockAdjusted: ("reason",)}, {"seen": count(StockAdjusted)})
        await tell(log, [adjusted("A", "short"), adjusted("A", long), adjusted("A", "last")])
        runner = Projector(log, [wide], back_off_s=(0.01,))
        await runner.prepare()
        assert await runner.catch_up() == 4
        with psycopg.connect(log) as connection:
            found = connection.execute("SELECT reason FROM read_models.wide ORDER BY 1").fetchall()
            errors = connection.execute("SELECT position, error FROM dead_letters").fetchall()
        assert found == [("last",), ("short",)]
        [(position, error)] = errors
        assert position == 3
        assert "exceeds btree" in error

    asyncio.run(run())
