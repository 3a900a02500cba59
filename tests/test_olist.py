"""The real orders: brought in by their mapping, killed in the middle, and counted in the log."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commands import HANDLERS, Bus
from commands.importer import ImportReport, import_directory
from commands.mapping import read_mapping, shipped_mappings
from eventstore import Log, Writer, prepare_database
from eventstore.streams import Streams

REPOSITORY = Path(__file__).parent.parent
DATA = Path(os.environ.get("CHAINLYTICS_DATA") or REPOSITORY.parent / "shared" / "data")
OLIST = DATA / "olist_2017_10k"
ORGANISATION = UUID("5f0c7f6e-6f0e-4f57-9df0-6d1d9f1f3a01")
COMMANDS = 40_653
_EARLY = datetime(2000, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.skipif(
    not OLIST.is_dir(), reason=f"the Olist files are not in {OLIST}; CHAINLYTICS_DATA names another"
)

_IMPORT_UNTIL_KILLED = """
import sys
from pathlib import Path
from tests.test_olist import run_import
run_import(sys.argv[1], Path(sys.argv[2]), lambda p: print(p.done, flush=True), chunk=200)
"""

Facts = list[tuple[str, UUID, dict[str, Any]]]


def run_import(
    database: str, rejects: Path, on_progress: Any = lambda _: None, chunk: int = 500
) -> ImportReport:
    async def importing() -> ImportReport:
        async with (
            AsyncConnectionPool(database, open=False) as pool,
            Streams(database) as streams,
            Writer(database) as writer,
        ):
            return await import_directory(
                Bus(Log(pool), streams, writer, HANDLERS),
                read_mapping(shipped_mappings()["olist"]),
                OLIST,
                organisation_id=ORGANISATION,
                actor="test",
                rejects=rejects,
                on_progress=on_progress,
                chunk=chunk,
            )

    return asyncio.run(importing())


def _kill_in_the_middle(database: str, rejects: Path) -> int:
    """Commands that a process had stored when it was killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", _IMPORT_UNTIL_KILLED, database, str(rejects)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        acknowledged = next(int(line) for line in child.stdout if int(line) >= 10_000)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT count(*) FROM commands").fetchone()
    assert row is not None
    assert acknowledged <= row[0] < COMMANDS
    return int(row[0])


@pytest.fixture(scope="module")
def imported(database: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, ImportReport]:
    """How much a killed import had stored, and the report of the one that went to the end."""
    prepare_database(database)
    folder = tmp_path_factory.mktemp("olist")
    stored = _kill_in_the_middle(database, folder / "rejects.csv")
    return stored, run_import(database, folder / "rejects.csv")


@pytest.fixture(scope="module")
def facts(database: str, imported: tuple[int, ImportReport]) -> Facts:
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT topic, originator_id, state FROM events ORDER BY notification_id"
        ).fetchall()
    return [(topic.split(".")[1], stream, json.loads(state)) for topic, stream, state in rows]


def _all(facts: Facts, name: str) -> list[dict[str, Any]]:
    return [body for found, _, body in facts if found == name]


def test_a_killed_import_continues_to_the_end(imported: tuple[int, ImportReport]) -> None:
    before, report = imported
    assert report.progress.repeated == before
    assert report.progress.stored == COMMANDS - before
    assert report.progress.rejected == 0
    assert report.rows == {
        "customers.csv.gz": 10_000,
        "products.csv.gz": 6_123,
        "orders.csv.gz": 10_000,
        "order_items.csv.gz": 11_252,
    }
    assert set(report.rejected_rows.values()) == {0}
    assert len(list(csv.reader(report.rejects.open()))) == 1  # its header


def test_importing_again_adds_nothing(
    database: str, imported: tuple[int, ImportReport], facts: Facts, tmp_path: Path
) -> None:
    again = run_import(database, tmp_path / "rejects.csv", chunk=333)
    assert (again.progress.stored, again.progress.repeated) == (0, COMMANDS)
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT position FROM log_head").fetchone()
    assert row == (len(facts),)


def test_every_fact_is_there_once(facts: Facts) -> None:
    expected = json.loads((DATA / "EXPECTED.json").read_text())["olist_2017_10k"]
    placed, delivered = _all(facts, "OrderPlaced"), _all(facts, "OrderDelivered")
    lines = [line for order in placed for line in order["lines"]]
    assert len(placed) == expected["orders"] == 10_000
    assert len(lines) == expected["order_items"] == 11_252
    assert sum(not order["lines_known"] for order in placed) == expected["orders_without_items"]
    assert sum(line["unit_price_minor"] for line in lines) == round(expected["price_sum"] * 100)
    assert sum(line["freight_minor"] for line in lines) == round(expected["freight_sum"] * 100)
    assert sum(order["goods_minor"] for order in placed) == 138_193_676
    assert len(delivered) == expected["status"]["delivered"] == 9_649
    assert sum(body["late"] is True for body in delivered) == 663
    assert sum(body["late"] is not None for body in delivered) == 9_648
    assert len(_all(facts, "SiteOpened")) == expected["distinct_sellers_in_items"]


def test_the_oddities_are_told_as_they_were(facts: Facts) -> None:
    allocated, shipped = _all(facts, "OrderAllocated"), _all(facts, "OrderShipped")
    cancelled = _all(facts, "OrderCancelled")
    assert len(allocated) == 10_000 - 111
    assert sum(body["allocated_at"] is None for body in allocated) == 3
    sellers = [len({line["site_id"] for line in body["line_sites"]}) for body in allocated]
    assert (sellers.count(2), sellers.count(3)) == (97, 4)
    assert len(shipped) == 9_649 + 104
    assert sum(body["out_of_order"] for body in shipped) == 16
    assert sum(body["out_of_order"] for body in _all(facts, "OrderDelivered")) == 5
    reasons = [body["reason"] for body in cancelled]
    assert (reasons.count("canceled"), reasons.count("unavailable")) == (57, 98)
    assert {body["cancelled_at"] for body in cancelled} == {None}
    lines = [line for order in _all(facts, "OrderPlaced") for line in order["lines"]]
    assert sum(line["weight_g"] is None for line in lines) == 4  # of the one product without


def test_the_log_tells_it_in_the_order_of_business_time(facts: Facts) -> None:
    times = {"OrderPlaced": "placed_at", "OrderAllocated": "allocated_at"}
    times |= {"OrderShipped": "shipped_at", "OrderDelivered": "delivered_at"}
    life = ["OrderPlaced", "OrderAllocated", "OrderShipped", "OrderDelivered", "OrderCancelled"]
    now = _EARLY
    latest: dict[UUID, datetime] = {}
    step: dict[UUID, int] = {}
    for name, stream, body in facts:
        if name == "SiteOpened":
            continue
        assert life.index(name) > step.get(stream, -1)
        step[stream] = life.index(name)
        told = body.get(times.get(name, ""))
        moment = datetime.fromisoformat(told) if told else _EARLY
        latest[stream] = max(moment, latest.get(stream, _EARLY))
        assert latest[stream] >= now
        now = latest[stream]


def test_times_without_a_zone_are_those_of_sao_paulo(facts: Facts) -> None:
    body = next(
        body
        for body in _all(facts, "OrderPlaced")
        if body["order_id"] == "e481f51cbdc54678b7cc49136f2d6af7"
    )
    assert body["placed_at"] == "2017-10-02T13:56:33Z"
    assert body["promised_at"] == "2017-10-18T02:00:00Z"  # daylight saving since 15 October
