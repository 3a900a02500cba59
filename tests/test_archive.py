"""The archive: what is written of a log, what a manifest names, who is kept from doing harm; the
command line and the API."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any
from unittest.mock import patch

import duckdb
import polars as pl
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from structlog.testing import capture_logs
from typer.testing import CliRunner

from chainlytics.cli import app
from domain.access import Role
from domain.inventory import StockReceived
from eventstore.archive import writer as archives
from eventstore.archive.dropping import Needed, drop, verify
from eventstore.archive.object_store import ArchiveUnavailable, ObjectStore
from eventstore.archive.segments import parse
from eventstore.archive.writer import ArchiveError, keep_written
from eventstore.backup import BackupError, backup
from eventstore.backup import restore as restore_backup
from projections.catalogue import TABLES
from projections.schema import fields_of
from projections.segments import needed, typed
from tests.appending import emptied
from tests.archiving import archive, archived, dropped, held, manifests_sealed, sealed
from tests.patience import PATIENCE_S
from tests.serving import assert_problem, serving_here, until
from tests.test_folds import facts
from tests.test_rebuild import caught_up, write
from tests.world import copied

EVENTS = 900
_WRITER = """
import sys
from tests.archiving import archive
from tests.patience import PATIENCE_S
archive(sys.argv[1], sys.argv[2], positions=100).write()
"""


@pytest.fixture(scope="module")
def filled(database: str) -> str:
    """A log of some hundred events, and the tables that follow it."""
    emptied(database)
    asyncio.run(write(database, facts(Random(8), EVENTS), {}))
    asyncio.run(caught_up(database, list(TABLES.values())))
    return database


@pytest.fixture
def log(filled: str) -> Iterator[str]:
    with copied(filled) as url:
        yield url


def execute(url: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query, parameters)
        return cursor.fetchall() if cursor.description else []


def counted(url: str, segments: int) -> bool | None:
    """Whether there are so many segments; None: not yet."""
    return execute(url, "SELECT count(*) FROM segments") == [(segments,)] or None


# writing


def test_only_whole_segments_of_what_is_sealed_are_written(log: str, tmp_path: Path) -> None:
    writer = archive(log, tmp_path, positions=200)
    assert writer.write() == []
    assert writer.write(now=True) == [], "nothing is sealed"
    sealed(log, 199)
    assert writer.write() == []
    sealed(log, 450)
    assert [(one.first, one.last) for one in writer.write()] == [(1, 200), (201, 400)]
    assert writer.write() == []
    assert [(one.first, one.last) for one in writer.write(now=True)] == [(401, 450)]
    sealed(log, EVENTS)
    assert [(one.first, one.last) for one in writer.write(most=1)] == [(451, 650)]
    assert [one.number for one in writer.write()] == [4]
    assert execute(log, "SELECT max(last_position) FROM segments") == [(850,)]


def test_a_segment_ends_where_its_events_are_large(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MOST_BYTES", 30_000)
    monkeypatch.setattr(archives, "_WINDOW", 50)
    done = archived(log, tmp_path, positions=400)
    assert len(done) > EVENTS // 400
    assert all(one.events < 400 for one in done[:-1])
    assert [one.first for one in done] == [1, *(one.last + 1 for one in done[:-1])]


def test_the_files_hold_the_rows_and_the_columns(log: str, tmp_path: Path) -> None:
    [first, *_] = archived(log, tmp_path, positions=300)
    rows = pl.read_parquet(tmp_path / first.log.path)
    stored = execute(
        log,
        """SELECT notification_id, topic, state FROM events WHERE notification_id <= 300
        ORDER BY 1""",
    )
    assert rows.select("position", "topic", "state").rows() == stored
    assert first.topics == dict(rows["topic"].value_counts().iter_rows())
    file = first.typed["inventory.StockReceived.v1"]
    columns = pl.read_parquet(tmp_path / file.path)
    told = [(n, json.loads(state)) for n, topic, state in stored if topic == file.topic]
    assert columns["position"].to_list() == [n for n, _ in told]
    assert columns["quantity"].to_list() == [Decimal(said["quantity"]) for _, said in told]
    assert set(fields_of(StockReceived)) <= set(columns.columns)
    with duckdb.connect() as connection:
        [(count,)] = connection.execute(
            f"SELECT count(*) FROM read_parquet('{tmp_path}/log/*.parquet')"
        ).fetchall()
        [codec] = connection.execute(
            f"""SELECT DISTINCT compression FROM parquet_metadata('{tmp_path}/log/*.parquet')"""
        ).fetchall()
        [statistics] = connection.execute(
            f"""SELECT bool_and(stats_min_value IS NOT NULL)
            FROM parquet_metadata('{tmp_path}/log/*.parquet') WHERE path_in_schema = 'position'"""
        ).fetchall()
    assert (count, codec, statistics) == (EVENTS, ("ZSTD",), (True,))


def test_a_manifest_names_every_file_and_the_manifest_before_it(log: str, tmp_path: Path) -> None:
    done = archived(log, tmp_path, positions=300)
    manifests = [bytes(one) for (one,) in execute(log, "SELECT manifest FROM segments ORDER BY 1")]
    before = None
    for segment, manifest in zip(done, manifests, strict=True):
        assert (tmp_path / segment.manifest_path).read_bytes() == manifest
        said = json.loads(manifest)
        assert json.dumps(said, sort_keys=True, separators=(",", ":")).encode() == manifest
        assert parse(manifest) == segment
        assert said["previous"] == before
        assert said["events"] == segment.last - segment.first + 1 == sum(said["topics"].values())
        for file in (said["log"], *said["typed"]):
            content = (tmp_path / file["path"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
            assert len(content) == file["bytes"]
        before = hashlib.sha256(manifest).hexdigest()


def test_a_writer_that_is_killed_is_gone_on_with(log: str, tmp_path: Path) -> None:
    """Whatever it left behind: files without a row, a manifest, half a file."""
    sealed(log)
    whole = tmp_path / "whole"
    with copied(log) as undisturbed:
        expected = archive(undisturbed, whole, positions=100).write()
    folder, chance, kills = tmp_path / "archive", Random(2), 0
    for _ in range(40):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, log, str(folder)], cwd=Path(__file__).parent.parent
        )
        count = len(list(folder.rglob("*")))
        give_up, enough = monotonic() + PATIENCE_S, count + chance.randint(1, 15)
        while process.poll() is None and len(list(folder.rglob("*"))) < enough:
            assert monotonic() < give_up
            sleep(0.001)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.kill()
        process.wait()
        kills += 1
        with psycopg.connect(log) as connection:
            assert {wrong for _, wrong in verify(connection)} <= {None}
    assert kills >= 2
    assert archive(log, folder, positions=100).write() == []
    manifests = execute(log, "SELECT manifest FROM segments ORDER BY number")
    assert [parse(bytes(one)) for (one,) in manifests] == expected
    assert not list(folder.rglob("*.part"))


def test_a_store_that_is_full_makes_no_segment(log: str, tmp_path: Path) -> None:
    sealed(log)
    real, puts = ObjectStore.put, 0

    def put(store: ObjectStore, name: str, content: bytes | Path) -> None:
        nonlocal puts
        puts += 1
        if puts == 12:
            raise ArchiveUnavailable("no space")
        real(store, name, content)

    with patch.object(ObjectStore, "put", put), pytest.raises(ArchiveUnavailable):
        archive(log, tmp_path, positions=100).write()
    before = execute(log, "SELECT count(*) FROM segments")
    assert len(archive(log, tmp_path, positions=100).write()) == 9 - before[0][0]
    with psycopg.connect(log) as connection:
        assert [wrong for _, wrong in verify(connection)] == [None] * 9


def test_one_of_several_writers_works(log: str, tmp_path: Path) -> None:
    sealed(log)
    with psycopg.connect(log, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (archives._WRITING,))
        assert archive(log, tmp_path, positions=300).write() == []
    assert len(archive(log, tmp_path, positions=300).write()) == 3


def test_a_copy_of_a_database_does_not_write_over_the_originals_archive(
    log: str, filled: str, tmp_path: Path
) -> None:
    archived(log, tmp_path, positions=300, size=300)
    with copied(filled) as other:
        execute(
            other,
            "UPDATE events SET state = '{}', topic = 'x.Y.v1' WHERE notification_id = 7",
        )
        assert len(archived(other, tmp_path, positions=300)) == 3
        assert [one[1] for one in verified(other)] == [None] * 3
    assert [one[1] for one in verified(log)] == [None]


def test_another_logs_archive_is_not_written_to(log: str, filled: str, tmp_path: Path) -> None:
    archived(log, tmp_path, positions=300, size=300)
    there = sorted(tmp_path.rglob("*"))
    with copied(filled) as other:
        execute(other, "UPDATE events SET event_id = gen_random_uuid()")
        with pytest.raises(ArchiveError, match="archive of another log"):
            archived(other, tmp_path, positions=300)
    assert sorted(tmp_path.rglob("*")) == there


def test_an_empty_folder_does_not_take_the_place_of_the_archive(log: str, tmp_path: Path) -> None:
    archived(log, tmp_path / "one", positions=300, size=600)
    dropped(log)
    sealed(log)
    with pytest.raises(ArchiveError, match="does not hold segment 1"):
        archive(log, tmp_path / "other", positions=300).write()
    assert not (tmp_path / "other").exists()
    assert execute(log, "SELECT url FROM archive_store") == [(str(tmp_path / "one"),)]
    (tmp_path / "one").rename(tmp_path / "other")
    assert len(archive(log, tmp_path / "other", positions=300).write()) == 1
    assert execute(log, "SELECT url FROM archive_store") == [(str(tmp_path / "other"),)]


def test_a_manifest_without_a_row_holds_up_nobody(log: str, tmp_path: Path) -> None:
    """The writer died between the two, and the next one finds more to write."""
    sealed(log, 250)
    with (
        patch.object(archives.Archive, "_insert", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        archive(log, tmp_path).write(now=True)
    sealed(log, 400)
    assert [one.last for one in archive(log, tmp_path).write(now=True)] == [400]
    assert [one[1] for one in verified(log)] == [None]


def test_a_log_that_was_restored_from_before_a_segment_is_archived_on(
    log: str, filled: str, tmp_path: Path
) -> None:
    file = tmp_path / "log.backup"
    archived(log, tmp_path / "archive", positions=300, size=300)
    backup(log, file)
    archived(log, tmp_path / "archive", positions=300)
    with copied(filled) as target:
        restore_backup(target, file, replace=True)
        execute(target, "UPDATE events SET actor = 'somebody else' WHERE notification_id = 500")
        done = archived(target, tmp_path / "archive", positions=200)
        assert [one.number for one in done] == [1, 2, 3]
        assert [one[1] for one in verified(target)] == [None] * 4
    assert [one[1] for one in verified(log)] == [None] * 3


def verified(url: str) -> list[tuple[int, str | None]]:
    with psycopg.connect(url) as connection:
        return [(segment.number, wrong) for segment, wrong in verify(connection)]


def test_the_worker_verifies_one_segment_after_the_other(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = archive(log, tmp_path, positions=300)
    assert writer.check(7) is None
    done = archived(log, tmp_path, positions=300)
    file = tmp_path / done[1].log.path
    file.write_bytes(bytes(reversed(file.read_bytes())))
    found = [writer.check(number) for number in range(6)]
    assert [one[0].number for one in found if one] == [0, 1, 2, 0, 1, 2]
    assert [bool(one[1]) for one in found if one] == [False, True, False] * 2
    monkeypatch.setattr(archives, "_CHECKED_EVERY_S", 0.01)

    async def run() -> None:
        task = asyncio.create_task(keep_written(writer, every=timedelta(seconds=0.01)))
        try:
            while not [one for one in said if one["event"] == "the archive is damaged"]:
                assert not task.done()
                await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with capture_logs() as said:
        asyncio.run(asyncio.wait_for(run(), PATIENCE_S))
    told = next(one for one in said if one["event"] == "the archive is damaged")
    assert (told["log_level"], told["segment"]) == ("critical", 1)


def test_a_hole_in_the_log_is_not_archived(log: str, tmp_path: Path) -> None:
    execute(log, "DELETE FROM events WHERE notification_id = 250")
    with pytest.raises(ArchiveError, match="hole behind position 200"):
        archived(log, tmp_path, positions=200)
    assert execute(log, "SELECT count(*) FROM segments") == [(1,)]


def test_the_worker_writes_what_becomes_due(log: str, tmp_path: Path) -> None:
    async def run() -> None:
        writer = archive(log, tmp_path, positions=300)
        task = asyncio.create_task(keep_written(writer, every=timedelta(seconds=0.05)))
        try:
            for size, segments in ((300, 1), (EVENTS, 3)):
                await asyncio.to_thread(sealed, log, size)
                assert await asyncio.to_thread(until, partial(counted, log, segments), 20)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_events_that_are_no_events_have_rows_and_no_columns(log: str, tmp_path: Path) -> None:
    [(position,)] = execute(
        log,
        """UPDATE events SET state = 'not json' WHERE notification_id =
            (SELECT max(notification_id) FROM events WHERE topic = 'inventory.StockPicked.v1'
             AND notification_id <= 300) RETURNING notification_id""",
    )
    execute(log, "UPDATE events SET topic = 'somebody.Elses.v1' WHERE notification_id = 1")
    first, second, _ = archived(log, tmp_path, positions=300)
    assert first.topics["somebody.Elses.v1"] == 1
    assert "inventory.StockPicked.v1" not in first.typed
    assert "inventory.StockPicked.v1" in second.typed
    rows = pl.read_parquet(tmp_path / first.log.path)
    assert rows.filter(pl.col("position") == position)["state"].item() == b"not json"
    assert typed(rows)["inventory.StockPicked.v1"] is None


# verifying and dropping


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest", "row"])
def test_every_damage_is_found_and_nothing_of_it_is_dropped(
    log: str, tmp_path: Path, damage: str
) -> None:
    done = archived(log, tmp_path, positions=300)
    file = tmp_path / done[1].typed["inventory.StockReceived.v1"].path
    content = bytearray(file.read_bytes())
    match damage:
        case "flip":
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        case "cut":
            file.write_bytes(content[:-1])
        case "remove":
            file.unlink()
        case "manifest":
            (tmp_path / done[1].manifest_path).write_bytes(b"{}")
        case "row":
            execute(
                log,
                """UPDATE segments SET manifest = convert_to(replace(convert_from(manifest, 'UTF8'),
                '"last":600', '"last":599'), 'UTF8') WHERE number = 1""",
            )
    with psycopg.connect(log) as connection:
        found = [wrong for _, wrong in verify(connection)]
    assert found[0] is None
    assert found[1] is not None
    if damage == "row":
        assert found[2] is not None, "the next one names the manifest that was"
    else:
        assert found[2] is None
    if damage in ("flip", "cut", "remove"):
        with pytest.raises(ArchiveUnavailable):
            dropped(log)
        assert execute(log, "SELECT number FROM segments WHERE dropped_at IS NOT NULL") == [(0,)]


def test_what_differs_from_the_archive_is_not_dropped(log: str, tmp_path: Path) -> None:
    archived(log, tmp_path, positions=300)
    execute(log, "UPDATE events SET actor = 'mallory' WHERE notification_id = 450")
    with pytest.raises(ArchiveError, match=r"segment 1: .* hold different events"):
        dropped(log)
    assert execute(log, "SELECT number FROM segments WHERE dropped_at IS NOT NULL") == [(0,)]


def test_what_no_signed_head_covers_is_not_dropped(log: str, tmp_path: Path) -> None:
    archived(log, tmp_path, positions=300, size=300)
    manifests_sealed(log)
    archived(log, tmp_path, positions=300)
    with pytest.raises(ArchiveError, match="covers the manifest of segment 1"):
        drop(log, 10**6, needed)
    assert execute(log, "SELECT number FROM segments WHERE dropped_at IS NOT NULL") == [(0,)]


def test_who_needs_more_while_something_is_dropped_waits(log: str, tmp_path: Path) -> None:
    archived(log, tmp_path, positions=300)
    manifests_sealed(log)
    refused: list[str] = []

    def needs(connection: psycopg.Connection[Any]) -> Needed:
        found = needed(connection)
        for table in ("dead_letters", "projection_rebuilds"):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                execute(impatient, f"DELETE FROM {table}")
            refused.append(table)
        return found

    impatient = make_conninfo(log, options="-c lock_timeout=50")
    drop(log, 301, needs)
    assert refused == ["dead_letters", "projection_rebuilds"]


def test_the_newest_event_of_each_stream_stays(log: str, tmp_path: Path) -> None:
    newest = "SELECT originator_id, max(originator_version) FROM events GROUP BY 1 ORDER BY 1"
    before = execute(log, newest)
    archived(log, tmp_path, positions=300)
    [first, *_] = dropped(log, 301)
    assert (first.number, first.gone + first.kept) == (0, 300)
    assert held(log) == EVENTS - first.gone
    assert execute(log, newest) == before
    cold = execute(log, "SELECT DISTINCT number FROM cold_streams")
    assert cold == [(0,)]


def test_a_backup_says_that_the_archive_is_needed_and_a_hole_is_still_found(
    log: str, filled: str, tmp_path: Path
) -> None:
    archived(log, tmp_path / "archive", positions=300)
    gone = sum(one.gone for one in dropped(log, 601))
    file = tmp_path / "log.backup"
    done = backup(log, file)
    assert (done.archive, done.only_archived) == (str(tmp_path / "archive"), gone)
    with copied(filled) as target:
        restored = restore_backup(target, file, replace=True)
        assert restored.head == EVENTS
        assert held(target) == EVENTS - gone
    for damage in (
        "DELETE FROM events WHERE notification_id = 700",
        "UPDATE segments SET dropped_at = NULL WHERE number = 1",
        "UPDATE segments SET first_position = 302 WHERE number = 1",
    ):
        with copied(log) as broken:
            execute(broken, damage)
            backup(broken, file, overwrite=True)
            with copied(filled) as target, pytest.raises(BackupError, match="not a whole log"):
                restore_backup(target, file, replace=True)


# the command line and the API


def test_the_command_line_writes_lists_verifies_drops_and_puts_back(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", log)
    monkeypatch.setenv("CHAINLYTICS_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str, code: int = 0, typed: str = "") -> str:
        done = CliRunner().invoke(app, ["archive", *words], input=typed)
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    done = CliRunner().invoke(app, ["archive", "write"])
    assert "set CHAINLYTICS_ARCHIVE" in str(done.exception)
    monkeypatch.setenv("CHAINLYTICS_ARCHIVE", str(tmp_path / "archive"))
    monkeypatch.setenv("CHAINLYTICS_ARCHIVE_POSITIONS", "300")
    assert "nothing is due" in run("write")
    assert "there is no segment" in run("list")
    sealed(log, 800)
    assert [one["last"] for one in json.loads(run("write", "--json"))] == [300, 600]
    assert "601" in run("write", "--now")
    listed = json.loads(run("list", "--json"))
    assert [one["events"] for one in listed] == [300, 300, 200]
    assert listed[0]["dropped_at"] is None
    shown = json.loads(run("show", "1", "--json"))
    assert shown == listed[1]
    assert shown["manifest_sha256"] in run("show", "1")
    assert "3 of 3 segments are as sealed" in run("verify")
    manifests_sealed(log)
    planned = json.loads(run("drop", "--before", "601", "--dry-run", "--json"))
    assert [one["number"] for one in planned] == [0, 1]
    assert held(log) == EVENTS
    run("drop", "--before", "601", code=1, typed="n\n")
    assert held(log) == EVENTS
    assert json.loads(run("drop", "--before", "601", "--yes", "--json")) == planned
    assert held(log) == EVENTS - sum(one["gone"] for one in planned)
    assert "no segment ends before that" in run("drop", "--older-than", "1")
    [last] = json.loads(run("drop", "--older-than", "0", "--yes", "--json"))
    assert last["number"] == 2
    assert json.loads(run("restore", "--number", "1", "--json")) == [1]
    assert "2 segments are in Postgres again" in run("restore")
    assert held(log) == EVENTS
    (tmp_path / "archive" / shown["files"][0]["path"]).unlink()
    broken = json.loads(run("verify", "--json", code=1))
    assert [one["number"] for one in broken if one["wrong"]] == [1]


def test_auditors_list_segments_over_http(log: str, tmp_path: Path) -> None:
    done = archived(log, tmp_path / "archive", positions=300)
    with serving_here(log, tmp_path) as (served, _):
        with served.client(Role.AUDITOR) as client:
            first = client.get("/archive/segments", params={"limit": 2}).json()
            rest = client.get(
                "/archive/segments", params={"limit": 2, "cursor": first["next_cursor"]}
            ).json()
            assert_problem(client.get("/archive/segments", params={"cursor": "x"}), 422)
        with served.client(Role.ANALYST) as client:
            assert_problem(client.get("/archive/segments"), 403)
    items = [*first["items"], *rest["items"]]
    assert rest["next_cursor"] is None
    assert [(one["first"], one["last"]) for one in items] == [(one.first, one.last) for one in done]
    assert [file["sha256"] for file in items[0]["files"]] == [one.sha256 for one in done[0].files]
