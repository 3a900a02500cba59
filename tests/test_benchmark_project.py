"""The projection benchmark measures what it says: both sides make one table, at a tiny size.

Nothing is said of speed here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import psycopg
import pytest
from eventsourcing.utils import clear_topic_cache

from benchmarks import deliveries, project
from benchmarks.peers import projection_runner
from benchmarks.peers.peer import own_database
from benchmarks.project import Sizes
from domain import catalogue
from projections import rows

TINY = Sizes(
    events=1_500,
    most=4_000,
    rounds=2,
    runner_events=300,
    commands_per_second=50,
    seconds=0.4,
    backdated=2,
)
FIGURES = {
    "live_vs_runner",
    "live_vs_runner_by_one_statement",
    "rebuild_vs_floor",
    "rebuild_segments_vs_floor",
    "archive_per_second",
    "archive_mb_per_million",
    "latency_ms_p50",
    "latency_ms_p99",
    "peak_rss_mb",
    "rss_1m_mb",
    "rss_ratio",
    "backdated_ms",
    "backdated_searched_ms",
}


@pytest.fixture(autouse=True)
def _topics() -> None:
    clear_topic_cache()


@pytest.fixture(scope="module")
def log(database: str) -> str:
    deliveries.fill(database, TINY.events, lambda _: None)
    return database


def test_every_figure_is_measured_and_nothing_is_left_behind(database: str) -> None:
    told: list[str] = []
    figures = project.run(database, told.append, TINY)
    assert figures.keys() >= FIGURES
    assert all(figures[name] > 0 for name in FIGURES)
    assert figures["runner_sampled_events"] == 1_200
    assert figures["latency_commands"] == 20
    assert figures["table_rows"] > 1_000
    assert {line.split()[0] for line in told} == FIGURES
    assert _databases(database) == []


def test_a_smaller_run_leaves_the_large_log_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINLYTICS_BENCH_EVENTS", "30")
    monkeypatch.setenv("CHAINLYTICS_BENCH_MOST", "0")
    assert Sizes.from_environment() == Sizes(events=30, most=0, runner_events=5)


def test_the_runner_folds_stretch_by_stretch_and_makes_what_the_log_says(log: str) -> None:
    with projection_runner.opened(log, log, 700) as runner:
        for view in (projection_runner.View, projection_runner.OneStatement):
            assert runner.fold(300, view) > 0
        found = deliveries.contents(runner.url, projection_runner.THEIRS)
        assert found == deliveries.truth(log, 600)
        assert found != deliveries.truth(log, 601)
        with psycopg.connect(runner.url) as connection:
            connection.execute(
                """UPDATE deliveries_view SET late = late + 1 WHERE last_position = 600"""
            )
        wrong = deliveries.contents(runner.url, projection_runner.THEIRS)
        assert wrong.rows == found.rows
        with pytest.raises(deliveries.TablesDiffer, match="the runner"):
            deliveries.check_same("the runner", wrong, found)


def test_rows_that_the_server_makes_are_events_as_we_write_them(server_url: str) -> None:
    with own_database(server_url, "extended") as database:
        deliveries.fill(database, 10, lambda _: None)
        deliveries.extend(database, 500, lambda _: None)
        with psycopg.connect(database) as connection:
            stored = connection.execute(
                "SELECT topic, state, notification_id FROM events ORDER BY notification_id"
            ).fetchall()
    assert [position for *_, position in stored] == list(range(1, 501))
    for topic, state, _ in stored:
        assert catalogue.encode(catalogue.decode(topic, state)) == (topic, state)
        assert 300 <= len(state) <= 330
    places = {
        (event.site_id, event.service_level)  # type: ignore[attr-defined]
        for event in (catalogue.decode(topic, state) for topic, state, _ in stored)
    }
    assert len(places) > 450  # of 10,000: neither side of a row is drawn but once


def test_both_sides_write_the_same_columns(log: str) -> None:
    with projection_runner.opened(log, log, 1) as runner:
        runner.fold(1)
        with psycopg.connect(runner.url) as connection:
            found = connection.execute(
                """SELECT column_name, data_type FROM information_schema.columns
                WHERE table_name = 'deliveries_view'"""
            ).fetchall()
    names = {
        "timestamptz": "timestamp with time zone",
        "uuid": "uuid",
        "text": "text",
        "bigint": "bigint",
    }
    table = deliveries.DELIVERIES
    assert dict(found) == {
        column: names[rows.sql_type(table, column)] for column in table.row_types
    }


def test_ctrl_c_leaves_no_server_and_no_folder() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # root's server runs as `nobody`
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "project", "--json"],
            cwd=Path(__file__).parent.parent,
            env=os.environ
            | {"TMPDIR": folder, "CHAINLYTICS_BENCH_EVENTS": "2000000"}
            | {"CHAINLYTICS_BENCH_MOST": "0"},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        assert "loading" in process.stderr.readline()
        assert _servers(folder) != []
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
        assert process.returncode != 0
        assert output == ""
        assert _servers(folder) == []
        assert list(Path(folder).iterdir()) == []


def _servers(folder: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(folder in part for part in process.info["cmdline"] or ())
    ]


def _databases(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            """SELECT datname FROM pg_database WHERE datname ~
            '^peer_(deliveries|latency|backdated|projection_runner)_'"""
        ).fetchall()
    return [name for (name,) in found]
