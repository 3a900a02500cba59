"""kill -9 of the database server and of the importer in the middle of an import, then go on."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep

import psutil
import psycopg
import pytest

from eventstore.embedded import EmbeddedPostgres
from tests.patience import PATIENCE_S
from tests.world import company

ORDERS = 6_000


@pytest.fixture
def home() -> Iterator[Path]:
    """A home with an embedded server of its own.

    Not in pytest's folder: each run of pytest closes that to the `nobody` as whom root's server
    runs, and here the server starts again in the middle.
    """
    folder = Path(tempfile.mkdtemp(prefix="chainlytics-kill-"))
    folder.chmod(0o755)
    yield folder
    EmbeddedPostgres(folder).stop()
    shutil.rmtree(folder)


def write_data_set(directory: Path) -> None:
    """Delivered orders of one line each, in Olist's form."""
    directory.mkdir()
    tables: dict[str, list[list[object]]] = {
        "customers": [["customer_id", "customer_unique_id", "customer_state"]],
        "products": [["product_id", "product_weight_g"], ["P-1", 700]],
        "orders": [
            [
                "order_id",
                "customer_id",
                "order_status",
                "order_purchase_timestamp",
                "order_approved_at",
                "order_delivered_carrier_date",
                "order_delivered_customer_date",
                "order_estimated_delivery_date",
            ]
        ],
        "order_items": [
            ["order_id", "order_item_id", "product_id", "seller_id", "price", "freight_value"]
        ],
    }
    start = datetime(2025, 1, 1, tzinfo=UTC)
    for number in range(ORDERS):
        placed = start + timedelta(minutes=number)
        steps = [placed + timedelta(days=days) for days in (0, 0.1, 1, 3 + number % 5, 6)]
        moments = [f"{moment:%Y-%m-%d %H:%M:%S}" for moment in steps]
        tables["customers"].append([f"C-{number}", f"U-{number % 500}", "SP"])
        tables["orders"].append([f"O-{number}", f"C-{number}", "delivered", *moments])
        price = f"{number % 90 + 1}.50"
        tables["order_items"].append([f"O-{number}", 1, "P-1", f"S-{number % 7}", price, "3.10"])
    for name, rows in tables.items():
        with (directory / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def importer(home: Path, data: Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "DATABASE_URL"}
    return subprocess.Popen(
        [sys.executable, "-m", "chainlytics", "import", "olist", str(data), "--json"],
        env=environment | {"CHAINLYTICS_HOME": str(home)},
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stored(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM commands").fetchone()
        assert row is not None
        return int(row[0])


def test_server_and_importer_killed_in_mid_import_then_a_clean_continuation(home: Path) -> None:
    data = home / "data"
    write_data_set(data)
    server = EmbeddedPostgres(home)
    url = server.start()
    process = importer(home, data)
    give_up = monotonic() + PATIENCE_S
    seen = 0
    while seen < 3_000:
        assert process.poll() is None, process.communicate()
        assert monotonic() < give_up
        with contextlib.suppress(psycopg.errors.UndefinedTable):  # the importer makes the tables
            seen = stored(url)
        sleep(0.02)
    # The whole server at once, as a power cut would, while commands are in flight.
    postmaster = server.status().pid
    assert postmaster is not None
    children = psutil.Process(postmaster).children(recursive=True)
    for victim in (psutil.Process(postmaster), *children):
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    url = EmbeddedPostgres(home).start()
    survived = stored(url)
    assert survived >= seen, "what was acknowledged is there"
    assert survived < 4 * ORDERS, "the import was in the middle"
    assert_whole(url)
    again = importer(home, data)
    out, error = again.communicate(timeout=240)
    assert again.returncode == 0, error
    progress = json.loads(out)["progress"]
    assert progress["total"] == 4 * ORDERS + 7
    assert progress["repeated"] == survived
    assert progress["stored"] == progress["total"] - survived
    assert progress["rejected"] == 0
    assert_whole(url)

    async def tables() -> list[tuple[int, int, int, int]]:
        async with company(url) as app:
            await app.projector.catch_up()
            async with app.log.connection() as connection:
                rows = await (
                    await connection.execute(
                        """SELECT sum(orders), sum(delivered), sum(late), sum(revenue_minor)
                        FROM read_models.daily_kpis"""
                    )
                ).fetchall()
        return [tuple(int(value) for value in row) for row in rows]  # type: ignore[misc]

    late = sum(3 + number % 5 > 6 for number in range(ORDERS))
    revenue = sum((number % 90 + 1) * 100 + 50 for number in range(ORDERS))
    assert asyncio.run(tables()) == [(ORDERS, ORDERS, late, revenue)]


def assert_whole(url: str) -> None:
    """Positions and versions are contiguous; each command's events are there, once."""
    with psycopg.connect(url) as connection:
        for query in (
            """SELECT count(*) - coalesce(max(notification_id), 0) FROM events""",
            """SELECT coalesce(max(notification_id), 0) - (SELECT position FROM log_head)
               FROM events""",
            """SELECT count(*) FROM (SELECT originator_id FROM events GROUP BY 1
               HAVING max(originator_version) <> count(*)) broken""",
            """SELECT count(*) FROM commands c LEFT JOIN events e ON e.notification_id = c.position
               WHERE e.notification_id IS NULL""",
        ):
            row = connection.execute(query).fetchone()
            assert row == (0,), query
