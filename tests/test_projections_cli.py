"""Read models at the command line: list, rebuild, roll back, replay, show the past, preview."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest

from chainlytics.cli import main
from chainlytics.cli.console import console as terminal
from chainlytics.preview import preview
from domain.orders import OrderDelivered, OrderPlaced
from eventstore import prepare_database
from projections.fold import count, greatest
from projections.kpis import DAILY_KPIS
from projections.table import Table
from tests.world import ORGANISATION, a_year, company

Say = Callable[..., str]

REGIONS = Table(
    name="regions",
    key={OrderPlaced: ("region",), OrderDelivered: ("region",)},
    columns={
        "orders": count(OrderPlaced),
        "delivered": count(OrderDelivered),
        "largest_minor": greatest({OrderPlaced: "goods_minor"}),
    },
    computed={"open": pl.col("orders") - pl.col("delivered")},
)
FILE = """
from polars import col
from domain.orders import OrderDelivered, OrderPlaced
from projections.fold import count, greatest
from projections.table import Table

REGIONS = Table(
    name="regions",
    key={OrderPlaced: ("region",), OrderDelivered: ("region",)},
    columns={
        "orders": count(OrderPlaced),
        "delivered": count(OrderDelivered),
        "largest_minor": greatest({OrderPlaced: "goods_minor"}),
    },
    computed={"open": col("orders") - col("delivered")},
)
"""


@pytest.fixture(scope="module")
def year(database: str) -> str:
    """A database with a year in it, folded."""

    async def fill() -> None:
        prepare_database(database)
        async with company(database) as app:
            await a_year(app, 500)
            await app.projector.catch_up()

    asyncio.run(fill())
    return database


@pytest.fixture
def say(
    year: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Say:
    """Runs the command line and gives what it said, on both channels."""
    monkeypatch.setenv("DATABASE_URL", year)
    monkeypatch.setenv("CHAINLYTICS_ORGANISATION", str(ORGANISATION))
    monkeypatch.setenv("CHAINLYTICS_HOME", str(tmp_path))
    monkeypatch.setattr(terminal, "width", 200)

    def run(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["chainlytics", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, (out, err)
        return out if "--json" in words else " ".join((out + err).split())

    return run


def told(say: Say, *words: str) -> Any:
    return json.loads(say("projections", *words, "--json"))


def head(year: str) -> int:
    with psycopg.connect(year) as connection:
        row = connection.execute("SELECT position FROM log_head").fetchone()
    assert row is not None
    return int(row[0])


def test_the_list_says_how_far_each_is(say: Say, year: str) -> None:
    listed = {state["name"]: state for state in told(say, "list")}
    assert listed["order_summary"]["position"] == head(year)
    assert listed["order_summary"]["state"] == "live"
    assert "order_summary" in say("projections", "list")


def test_a_rebuild_and_its_rollback(say: Say, year: str) -> None:
    [done] = told(say, "rebuild", "stock_levels")
    assert (done["name"], done["events"]) == ("stock_levels", head(year))
    assert f"{head(year):,} events" in say("projections", "rebuild", "stock_levels")
    assert told(say, "rollback", "stock_levels")["position"] == head(year)
    assert "the former table again" in say("projections", "rollback", "stock_levels")
    assert "nothing to roll back" in say("projections", "rollback", "sites", code=1)


def test_some_rows_alone(say: Say, year: str) -> None:
    with psycopg.connect(year) as connection:
        row = connection.execute("SELECT site_id, sku FROM read_models.stock_levels LIMIT 1")
        site_id, sku = row.fetchone() or ("", "")
    one = f"site_id={site_id},sku={sku}"
    assert "1 rows made again" in say("projections", "rebuild", "stock_levels", "--key", one)
    [whole] = told(say, "rebuild", "daily_kpis", "--organisation", str(ORGANISATION))
    assert whole["rows"] > 100
    middle = head(year) // 2
    span = ("--since", str(middle), "--until", str(middle + 200))
    [some] = told(say, "rebuild", "order_summary", *span)
    assert 0 < some["rows"] < 200
    [none] = told(say, "rebuild", "order_summary", "--since", "2001-01-01T00:00Z", "--until", "1")
    assert none["rows"] <= 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("rebuild",), "no projection is named; there are order_summary"),
        (("rebuild", "nope"), "projection 'nope' is not known"),
        (("rebuild", "sites", "--until", "5"), "--until needs --since"),
        (("rebuild", "sites", "--since", "0", "--key", "site_id=A"), "name one of them"),
        (("rebuild", "stock_levels", "--key", "site_id=A"), "does not name 'sku'"),
        (("rebuild", "stock_levels", "--key", "shop=A"), "names no key column of stock_levels"),
        (("rebuild", "daily_kpis", "--key", "day=soon,currency=EUR"), "'soon' is none"),
        (("rebuild", "sites", "--since", "noon"), "neither a log position nor a time"),
        (("replay", "sites"), "say which: --position N"),
        (("replay", "sites", "--position", "3"), "sites has no dead letter at position 3"),
        (("show", "nope"), "projection 'nope' is not known"),
        (("show", "sites", "--as-of", "99999999"), "the log ends at position"),
        (("show", "sites", "--as-of", "2999-01-01T00:00:00Z"), "is not in the past"),
        (("show", "sites", "--effective-at", "2025-06-01T00:00Z"), "sites knows no time"),
        (("show", "sites", "--effective-at", "12"), "a time is needed"),
        (("show", "sites", "--out", "sites.xlsx"), "must end in .csv, .json"),
        (("preview", __file__, "--table", "nope"), "there is no table 'nope'; it declares"),
    ],
)
def test_mistakes_are_one_clear_sentence(say: Say, words: tuple[str, ...], expected: str) -> None:
    said = say("projections", *words, code=1)
    assert expected in said
    assert said.startswith("error: ")


def test_what_no_code_declares_any_more_is_dropped(say: Say, year: str) -> None:
    assert "orders_by_moon" in say("projections", "drop", "orders_by_moon", code=1)
    assert "is declared" in say("projections", "drop", "sites", code=1)
    with psycopg.connect(year) as connection:
        connection.execute("CREATE TABLE read_models.orders_by_moon AS SELECT 1")
        connection.execute(
            "INSERT INTO projections (name, fingerprint, position) VALUES ('orders_by_moon', '', 1)"
        )
    assert told(say, "drop", "orders_by_moon") == {"name": "orders_by_moon", "dropped": True}
    assert "orders_by_moon" not in {state["name"] for state in told(say, "list")}
    with psycopg.connect(year) as connection:
        found = connection.execute("SELECT to_regclass('read_models.orders_by_moon')").fetchone()
    assert found == (None,)


def test_dead_letters_are_listed_and_replayed(say: Say, year: str) -> None:
    assert "sites has no dead letters" in say("projections", "dead-letters", "sites")
    with psycopg.connect(year) as connection:
        connection.execute(
            """INSERT INTO dead_letters (projection, suffix, position, event_id, keys, error)
            SELECT 'sites', '', notification_id, event_id, '{x}'::text[], 'it was a bad day'
            FROM events WHERE topic LIKE 'inventory.SiteOpened%' ORDER BY 5 LIMIT 1"""
        )
    [letter] = told(say, "dead-letters", "sites")
    assert letter["error"] == "it was a bad day"
    assert "it was a bad day" in say("projections", "dead-letters", "sites")
    done = told(say, "replay", "sites", "--all")
    assert (done["folded"], done["failed"], done["left"]) == (1, 0, 0)


def test_a_read_model_is_shown_as_of_any_day(say: Say, tmp_path: Path, year: str) -> None:
    now = told(say, "show", "daily_kpis")["daily_kpis"]
    then = told(say, "show", "daily_kpis", "--as-of", str(head(year) // 2))["daily_kpis"]
    assert sum(day["orders"] for day in then) < sum(day["orders"] for day in now) == 500
    assert say("projections", "show", "daily_kpis", "--limit", "2").count("EUR") == 2
    file = tmp_path / "kpis.parquet"
    assert str(file.name) in say("projections", "show", "daily_kpis", "--out", str(file))
    assert pl.read_parquet(file).height == len(now)
    first = told(say, "show", "stock_levels", "--effective-at", "2025-02-01T00:00:00Z")
    later = told(say, "show", "stock_levels", "--effective-at", "2025-12-01T00:00:00Z")
    moved = [row["last_moved_at"] for row in first["stock_levels"]]
    assert max(moved) <= "2025-02-01"
    assert len(later["stock_levels"]) >= len(moved) > 0


def test_a_declaration_is_tried_without_a_trace(say: Say, tmp_path: Path, year: str) -> None:
    def state() -> list[Any]:
        with psycopg.connect(year) as connection:
            return connection.execute(
                "SELECT tablename FROM pg_tables UNION SELECT name FROM projections ORDER BY 1"
            ).fetchall()

    file = tmp_path / "regions.py"
    file.write_text(FILE)
    before = state()
    rows = told(say, "preview", str(file))["regions"]
    assert sum(row["orders"] for row in rows) == 500
    assert all(row["open"] == row["orders"] - row["delivered"] for row in rows)
    one = rows[0]["region"]
    assert told(say, "preview", str(file), "--key", f"region={one}")["regions"] == rows[:1]
    assert "regions: " in say("projections", "preview", str(file), "--limit", "1")
    csv = tmp_path / "regions.csv"
    say("projections", "preview", str(file), "--out", str(csv))
    assert pl.read_csv(csv).height == len(rows)
    file.write_text(FILE.replace('"goods_minor"', '"goods"'))
    said = say("projections", "preview", str(file), code=1)
    assert "regions.largest_minor: OrderPlaced has no field 'goods'" in said
    file.write_text("import nothing_of_that_name")
    assert "ModuleNotFoundError" in say("projections", "preview", str(file), code=1)
    file.write_text("answer = 42")
    assert "no table is declared" in say("projections", "preview", str(file), code=1)
    assert state() == before


def test_a_notebook_gets_a_frame_within_its_own_loop(
    say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    async def cell() -> pl.DataFrame:
        return preview(REGIONS, progress=False)  # a notebook's cell runs within a loop

    frame = asyncio.run(cell())
    assert frame.columns == [
        "region",
        "orders",
        "delivered",
        "largest_minor",
        "last_position",
        "open",
    ]
    assert frame["orders"].sum() == 500
    assert frame["region"].is_sorted()
    past = preview(REGIONS, as_of=10, progress=False)
    assert past["last_position"].max() in (None, *range(11))
    one = preview(REGIONS, keys={"region": frame["region"][0]}, progress=False)
    assert one.equals(frame.head(1))
    with pytest.raises(TypeError, match="regions has no key column 'shop'; it has region"):
        preview(REGIONS, keys={"shop": "x"}, progress=False)
    days = preview(DAILY_KPIS, as_of=datetime.now(UTC), progress=False)
    assert days["orders"].sum() == 500
