"""Backup and restore of the log, and read models that stand on a log that is gone."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from chainlytics.application import Application, application
from chainlytics.cli.server import build_api
from chainlytics.settings import Settings
from commands.sample_year import sample_year
from domain import catalogue
from domain.decisions import DecisionFailed, DecisionMade
from domain.orders import OrderLine, PlaceOrder
from eventstore import Log, prepare_database
from eventstore.backup import (
    LOG_TABLES,
    WITHOUT_ROWS,
    Backup,
    BackupError,
    backup,
    head_of,
    restore,
)
from eventstore.client_applications import ClientApplications, ClientError
from eventstore.embedded import EmbeddedPostgres
from ml.catalogue import FEATURE_TABLES
from ml.rules import RULES
from projections.catalogue import TABLES
from projections.table import Table
from readmodels.database import ReadModelDiverged, ReadModels
from readmodels.orders import list_orders, order_timeline
from readmodels.positions import Positions, ReadModelBehind
from tests.patience import PATIENCE_S
from tests.serving import NO_TLS, SECRET, assert_problem, bearer, until
from tests.world import NOW, ORGANISATION, company, context, request, send

ROOT = Path(__file__).resolve().parent.parent
#: Orders of the made year that a small log is told; sites and stock come before them.
COMMANDS = list(sample_year(orders=60).commands)
READ_MODELS = tuple(TABLES.values())
Fresh = Callable[[], str]
Rows = dict[str, list[str]]


@pytest.fixture
def fresh(server_url: str) -> Iterator[Fresh]:
    """Makes databases that know nothing of us."""
    made: list[str] = []

    def make() -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        made.append(name)
        return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))

    yield make
    with psycopg.connect(server_url, autocommit=True) as connection:
        for name in made:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )


def query(url: str, text: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(text.encode()).fetchall()


def change(url: str, *texts: str) -> None:
    with psycopg.connect(url) as connection:
        for text in texts:
            connection.execute(text.encode())


def log_rows(url: str) -> Rows:
    """Every row of the log's tables."""
    return {
        name: [row for (row,) in query(url, f"SELECT t::text FROM {name} t ORDER BY 1")]
        for name in LOG_TABLES
        if name not in WITHOUT_ROWS
    }


def table_rows(url: str, tables: Iterable[Table] = READ_MODELS) -> Rows:
    """Every row of the read models."""
    return {
        table.name: [
            row
            for (row,) in query(url, f"SELECT t::text FROM read_models.{table.name} t ORDER BY 1")
        ]
        for table in tables
    }


async def folded(url: str) -> Rows:
    """The rows that the log of a database folds to, in its read models."""
    async with company(url) as app:
        await app.projector.catch_up()
    return table_rows(url)


def order(order_id: str) -> PlaceOrder:
    line = OrderLine(line_no=1, sku="SKU-1", quantity=Decimal(1), unit_price_minor=1000)
    return PlaceOrder(
        order_id=order_id,
        customer_id="C-1",
        currency="EUR",
        lines=(line,),
        placed_at=NOW,
        promised_at=NOW + timedelta(days=3),
    )


async def told(url: str, first: int, last: int) -> None:
    """Some of the commands; read models come along."""
    async with company(url) as app:
        await send(app, COMMANDS[first:last])
        await app.projector.catch_up()


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[tuple[ReadModels, Positions]]:
    """Queries alone: nobody prepares, nobody folds."""
    async with AsyncConnectionPool(
        url, min_size=1, open=False, kwargs={"autocommit": True}
    ) as pool:
        log = Log(pool, pool)
        async with Positions(log, url) as positions:
            yield ReadModels(log, ORGANISATION), positions


# a backup is the log


def test_what_was_acknowledged_before_a_backup_is_in_it_while_writers_go_on(
    fresh: Fresh, tmp_path: Path
) -> None:
    source, target, file = fresh(), fresh(), tmp_path / "log.backup"

    async def source_goes_on() -> tuple[Backup, int]:
        async with company(source) as app:
            await send(app, COMMANDS[:100])
            acknowledged = await app.log.head()
            stop = asyncio.Event()

            async def go_on(number: int) -> None:
                for serial in range(10**6):
                    if stop.is_set():
                        return
                    await app.bus.execute(order(f"N-{number}-{serial}"), context())

            writers = [asyncio.create_task(go_on(number)) for number in range(4)]
            while await app.log.head() < acknowledged + 40:
                assert not any(writer.done() for writer in writers)
                await asyncio.sleep(0.01)
            acknowledged = await app.log.head()
            done = await asyncio.to_thread(backup, source, file)
            stop.set()
            await asyncio.gather(*writers)
            assert await app.log.head() > done.head  # they did go on
            return done, acknowledged

    done, acknowledged = asyncio.run(source_goes_on())
    assert done.head >= acknowledged
    assert done.bytes == file.stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {"log.backup", "log.backup.sha256"}
    assert file.stat().st_mode & 0o077 == 0

    restored = restore(target, file)
    assert (restored.head, restored.replaced) == (done.head, 0)
    events = "SELECT t::text FROM events t WHERE notification_id <= {} ORDER BY notification_id"
    assert query(target, events.format(10**9)) == query(source, events.format(done.head))
    commands = "SELECT t::text FROM commands t WHERE position <= {} ORDER BY 1"
    assert query(target, commands.format(10**9)) == query(source, commands.format(done.head))
    assert restored.commands == len(query(target, "SELECT FROM commands"))

    # The application goes on where the log ends, and a retry of before gets its first answer.
    async def target_goes_on() -> None:
        async with company(target) as app:
            head = await app.log.head()
            await send(app, COMMANDS[:100])
            assert await app.log.head() == head == done.head
            await send(app, COMMANDS[100:140])
            assert await app.log.head() > head
            await app.projector.catch_up()
            live = table_rows(target)
            for table in TABLES.values():
                await app.projector.rebuild(table)
            assert table_rows(target) == live
            assert len(live["audit_trail"]) == await app.log.head()

    asyncio.run(target_goes_on())


def test_a_restored_log_folds_to_the_same_rows(fresh: Fresh, tmp_path: Path) -> None:
    source, target, file = fresh(), fresh(), tmp_path / "log.backup"
    asyncio.run(told(source, 0, 150))
    change(source, "INSERT INTO artifacts VALUES (encode(sha256('bytes'), 'hex'), 'bytes')")
    done = backup(source, file)
    # It, and the rules that stand in for models: every consumer stores them.
    assert restore(target, file).artifacts == 1 + len(RULES)
    assert log_rows(target) == log_rows(source)
    assert asyncio.run(folded(target)) == table_rows(source)
    assert head_of(target) == done.head


def test_the_backup_has_every_table_of_the_log(fresh: Fresh, tmp_path: Path) -> None:
    url, file = fresh(), tmp_path / "log.backup"
    asyncio.run(told(url, 0, 30))
    there = {
        name
        for (name,) in query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    }
    read_models = {"projections", "projection_lanes", "projection_rebuilds", "dead_letters"}
    assert there - read_models == set(LOG_TABLES)
    backup(url, file)
    with psycopg.connect(url) as connection:
        folder = ClientApplications.for_server(connection).folder
    listed = subprocess.run(
        [folder / "pg_restore", "--list", file], capture_output=True, text=True, check=True
    ).stdout
    data = set(re.findall(r"TABLE DATA \S+ (\S+)", listed))
    assert data == set(LOG_TABLES) - WITHOUT_ROWS
    assert "read_models" not in listed


def test_a_former_backup_is_overwritten_only_when_told_so(fresh: Fresh, tmp_path: Path) -> None:
    url, file = fresh(), tmp_path / "log.backup"
    asyncio.run(told(url, 0, 20))
    backup(url, file)
    before = file.read_bytes()
    asyncio.run(told(url, 20, 40))
    with pytest.raises(BackupError, match="is there already"):
        backup(url, file)
    assert file.read_bytes() == before
    done = backup(url, file, overwrite=True)
    assert restore(fresh(), file).head == done.head == head_of(url)


def test_a_server_that_is_newer_than_the_client_is_told_clearly() -> None:
    with pytest.raises(
        ClientError, match=r"PostgreSQL 99 .*not older; those found here are of \d+"
    ):
        ClientApplications.for_version(99)


def test_a_database_without_a_log_is_not_backed_up(fresh: Fresh, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="no log in database"):
        backup(fresh(), tmp_path / "log.backup")
    assert list(tmp_path.iterdir()) == []


# what ends a backup or a restore before its time


@contextmanager
def held(url: str, table: str) -> Iterator[None]:
    """Somebody keeps everybody else from a table."""
    with psycopg.connect(url) as connection:
        connection.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(table)))
        yield


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_backup_leaves_nothing_under_the_name(
    fresh: Fresh, tmp_path: Path, number: signal.Signals
) -> None:
    url, file = fresh(), tmp_path / "log.backup"
    asyncio.run(told(url, 0, 20))
    with held(url, "artifacts"):
        process = subprocess.Popen(
            [sys.executable, "-m", "chainlytics", "db", "backup", str(file)],
            env=os.environ | {"DATABASE_URL": url, "CHAINLYTICS_HOME": str(tmp_path / "home")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            until(lambda: waiting_for_a_lock(url) or process.poll())
            assert process.poll() is None, process.communicate()
            process.send_signal(number)
            process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
        assert not file.exists()
        if number != signal.SIGKILL:
            assert process.returncode == 130
            assert list(tmp_path.iterdir()) == []
        else:  # pg_dump has outlived it, and writes on
            with pytest.raises(BackupError, match="another backup is being written"):
                backup(url, file)
            assert waiting_for_a_lock(url)
    until(lambda: None if waiting_for_a_lock(url) else True)

    def again() -> Backup | None:
        try:
            return backup(url, file)
        except BackupError:  # the former one's pg_dump is about to end
            return None

    head = until(again).head
    assert restore(fresh(), file).head == head


def waiting_for_a_lock(url: str) -> bool | None:
    found = query(
        url,
        """SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'pg_dump'""",
    )
    return True if found else None


def test_a_damaged_backup_is_refused_and_nothing_changes(fresh: Fresh, tmp_path: Path) -> None:
    source, target, file = fresh(), fresh(), tmp_path / "log.backup"
    asyncio.run(told(source, 0, 150))
    backup(source, file)
    asyncio.run(told(target, 0, 60))
    asyncio.run(folded(target))
    before, models = log_rows(target), table_rows(target)
    whole = file.read_bytes()
    torn = whole[: len(whole) * 2 // 3]
    flipped = bytearray(whole)
    flipped[len(whole) * 2 // 3] ^= 0x55
    checksum = tmp_path / "log.backup.sha256"
    for damaged in (torn, bytes(flipped), b"", b"SELECT 1;\n"):
        file.write_bytes(damaged)
        with pytest.raises(BackupError, match="is damaged: it does not have the checksum"):
            restore(target, file, replace=True)
    # Without its checksum the archive itself tells, however late: nothing was committed.
    checksum.unlink()
    for damaged in (torn, bytes(flipped), whole[:-2], b"", b"SELECT 1;\n"):
        file.write_bytes(damaged)
        with pytest.raises(BackupError) as refused:
            restore(target, file, replace=True)
        assert re.search("database is as it was|not a whole backup", str(refused.value))
        assert "\n" not in str(refused.value)
    with pytest.raises(BackupError, match="there is no backup"):
        restore(target, tmp_path / "nowhere", replace=True)
    assert (log_rows(target), table_rows(target)) == (before, models)


@pytest.mark.parametrize(
    ("damage", "told_so"),
    [
        ("DELETE FROM events WHERE notification_id = 7", "positions are not contiguous"),
        ("DELETE FROM events WHERE notification_id = 1", "positions are not contiguous"),
        ("UPDATE log_head SET position = position + 1", "head says position"),
        ("DELETE FROM log_head", "head says position"),
        (
            """UPDATE events SET originator_version = originator_version + 5
            WHERE notification_id = (SELECT max(notification_id) FROM events)""",
            "versions of stream",
        ),
        (
            "UPDATE commands SET position = 10000 WHERE position = 9",
            "answered with a position that the log does not have",
        ),
        ("INSERT INTO artifacts VALUES ('abc', 'bytes')", "artifact abc does not hold"),
    ],
)
def test_what_is_not_a_log_is_not_committed(
    fresh: Fresh, tmp_path: Path, damage: str, told_so: str
) -> None:
    source, target, file = fresh(), fresh(), tmp_path / "log.backup"
    asyncio.run(told(source, 0, 60))
    asyncio.run(told(target, 0, 20))
    before = log_rows(target)
    change(source, damage)
    with psycopg.connect(source) as connection:
        if connection.execute("SELECT FROM log_head").fetchone() is None:
            connection.execute("INSERT INTO log_head VALUES (true, 1, now())")
    backup(source, file)
    with pytest.raises(BackupError, match=f"not a whole log: .*{told_so}"):
        restore(target, file, replace=True)
    assert log_rows(target) == before
    asyncio.run(told(target, 20, 40))


@pytest.mark.parametrize("former_version", [False, True])
def test_a_log_that_is_not_empty_is_replaced_only_when_told_so(
    fresh: Fresh, tmp_path: Path, former_version: bool
) -> None:
    """Also what the backup of a former version does not know is not left over from that log."""
    url, file = fresh(), tmp_path / "log.backup"
    asyncio.run(told(url, 0, 20))
    then = log_rows(url)
    if former_version:
        change(url, "DROP TABLE snapshots, schema_applied")
    former = backup(url, file).head
    asyncio.run(told(url, 20, 40))
    change(
        url,
        "INSERT INTO artifacts VALUES (encode(sha256('later'), 'hex'), 'later')",
        "INSERT INTO snapshots VALUES (gen_random_uuid(), 'rules', 9, 'state', now())",
    )
    before, head = log_rows(url), head_of(url)
    with pytest.raises(BackupError, match=f"not empty, its head is at position {head}"):
        restore(url, file)
    assert log_rows(url) == before
    restored = restore(url, file, replace=True)
    assert (restored.head, restored.replaced) == (former, head)
    assert log_rows(url) == then
    assert query(url, "SELECT FROM snapshots") == []


def test_a_restore_waits_for_nobody_for_ever(fresh: Fresh, tmp_path: Path) -> None:
    url, file = fresh(), tmp_path / "log.backup"
    asyncio.run(told(url, 0, 20))
    backup(url, file)
    before = log_rows(url)
    with held(url, "artifacts"), pytest.raises(BackupError, match="stop the servers"):
        restore(url, file, replace=True, lock_timeout_s=0.2)
    with psycopg.connect(url), pytest.raises(BackupError, match="1 other connection"):
        restore(url, file, replace=True)
    assert log_rows(url) == before
    with psycopg.connect(url):
        restore(url, file, replace=True, despite_connections=True)
    assert log_rows(url) == before


# read models that stand on a log that is gone


@asynccontextmanager
async def following(app: Application) -> AsyncIterator[None]:
    """The projector as it runs behind the log; nobody prepares it."""
    task = asyncio.create_task(app.projector.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def orders_of(url: str) -> list[str]:
    return [
        key for (key,) in query(url, "SELECT order_id FROM read_models.order_summary ORDER BY 1")
    ]


async def place(url: str, *order_ids: str) -> None:
    """Commands alone: the read models stay where they are."""
    async with company_without_workers(url) as app:
        for order_id in order_ids:
            await app.bus.execute(order(order_id), context())


@asynccontextmanager
async def company_without_workers(url: str) -> AsyncIterator[Application]:
    async with application(url, pool_size=4) as app:
        yield app


@pytest.mark.parametrize("newer", [0, 1, 2, 30])
def test_read_models_of_a_lost_log_are_never_served_and_rebuilt_by_themselves(
    fresh: Fresh, tmp_path: Path, newer: int
) -> None:
    """`newer`: commands after the restore, before the projector runs: fewer than were lost, as many
    (the head is the position that the read models have come to), and more."""
    url, witness, file = fresh(), fresh(), tmp_path / "log.backup"

    async def before() -> None:
        await told(url, 0, 60)
        backup(url, file)
        await place(url, "LOST-1", "LOST-2")
        await folded(url)

    asyncio.run(before())
    assert {"LOST-1", "LOST-2"} <= set(orders_of(url))
    lost = head_of(url)
    restore(url, file, replace=True)
    asyncio.run(place(url, *(f"N-{number}" for number in range(newer))))
    assert head_of(url) == lost - 2 + newer
    backup(url, file, overwrite=True)
    restore(witness, file)
    right = asyncio.run(folded(witness))

    async def after() -> None:
        async with reading(url) as (read, positions):
            with pytest.raises(ReadModelDiverged, match="order_summary was folded from a log that"):
                await list_orders(read)
            with pytest.raises(ReadModelBehind):
                await positions.wait_for(1, ["order_summary"], 0.2)
            states = {state.name: state for state in await positions.states()}
            assert all(states[name].diverged for name in TABLES)
            assert {states[name].behind for name in TABLES} == {lost - 2 + newer}
            async with company_without_workers(url) as app, following(app):
                await positions.wait_for(lost - 2 + newer, list(TABLES), PATIENCE_S)
                shown = await list_orders(read, limit=500)
                assert {row.order_id for row in shown.items} == {
                    *(f"N-{number}" for number in range(newer)),
                    *(key for key in orders_of(witness) if not key.startswith("N-")),
                }
                await order_timeline(read, "N-0")
            assert not any(
                state.diverged for state in await positions.states() if state.name in TABLES
            )

    asyncio.run(after())
    assert table_rows(url) == right

    # And the rebuilt ones go on live.
    async def go_on() -> None:
        await place(url, "AFTER")
        async with company_without_workers(url) as app:
            await app.projector.catch_up()

    asyncio.run(go_on())
    assert "AFTER" in orders_of(url)


def test_the_api_says_so_while_it_runs(fresh: Fresh, tmp_path: Path) -> None:
    url, file = fresh(), tmp_path / "log.backup"
    prepare_database(url)

    async def story() -> None:
        await told(url, 0, 60)
        backup(url, file)
        await place(url, "LOST-1")
        await folded(url)
        app = build_api(Settings(home=tmp_path, token_secret=SECRET), url)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                verify=NO_TLS,
                transport=transport,
                base_url="http://test/api/v1",
                headers={"Authorization": f"Bearer {bearer()}"},
            ) as client,
        ):
            assert (await client.get("/orders/LOST-1")).status_code == 200
            await asyncio.to_thread(restore, url, file, replace=True, despite_connections=True)
            await place(url, "N-1", "N-2", "N-3")
            for path in ("/orders/LOST-1", "/orders", "/kpis/daily", "/audit", "/sites"):
                answer = await client.get(path)
                assert_problem(answer, 503, "read-model-diverged")
                assert answer.headers["retry-after"] == "5"
                assert "folded from a log that is no longer there" in answer.json()["detail"]
            health = await client.get("/health")
            assert health.status_code == 503
            assert health.json()["status"] == "degraded"
            assert re.fullmatch(r"\d+ diverged", health.json()["projections"])
            async with company(url) as workers:
                await workers.projector.catch_up()
                await workers.consumer.catch_up()  # else stalled, where the machine is slow
            assert (await client.get("/orders/LOST-1")).status_code == 404
            assert (await client.get("/orders/N-3")).status_code == 200
            assert (await client.get("/health")).status_code == 200

    asyncio.run(story())


def test_requests_whose_answers_were_lost_are_answered_again_once(
    fresh: Fresh, tmp_path: Path
) -> None:
    """Feature tables rebuilt to the head would have passed over them."""
    url, witness, file = fresh(), fresh(), tmp_path / "log.backup"

    async def ask(name: str, *decisions: str) -> None:
        async with company_without_workers(url) as app:
            for decision_id in decisions:
                await request(app, decision_id, name)

    async def answer(database: str) -> list[str]:
        async with company(database) as app:
            await app.consumer.catch_up()
            events = await app.log.after(0, 10**6)
        decoded = [catalogue.decode(event.topic, event.state) for event in events]
        answers = (DecisionMade, DecisionFailed)
        return sorted(event.decision_id for event in decoded if isinstance(event, answers))

    async def before() -> None:
        await told(url, 0, 60)
        await place(url, "A")
        await ask("A", "D-1")
        assert await answer(url) == ["D-1"]
        await ask("A", "D-2", "D-3")
        backup(url, file)
        assert await answer(url) == ["D-1", "D-2", "D-3"]

    asyncio.run(before())
    for newer, declared_anew in ((0, False), (5, False), (5, True)):
        restore(url, file, replace=True)
        asyncio.run(place(url, *(f"N-{number}" for number in range(newer))))
        if declared_anew:
            change(url, "UPDATE projections SET fingerprint = 'of a former version'")
        assert asyncio.run(answer(url)) == ["D-1", "D-2", "D-3"]
        assert asyncio.run(answer(url)) == ["D-1", "D-2", "D-3"]
    other = tmp_path / "other.backup"
    backup(url, other)
    restore(witness, other)
    assert asyncio.run(answer(witness)) == ["D-1", "D-2", "D-3"]
    features = [table for table in FEATURE_TABLES if table.name not in TABLES]
    assert table_rows(url, features) == table_rows(witness, features)
    assert any(table_rows(url, features).values())


# the operator's page


def blocks() -> list[str]:
    """The shell blocks of docs/operators.md, in their order."""
    text = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_operators_page_do_what_it_says(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)  # root's PostgreSQL runs as `nobody`
    home, folder = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    folder.mkdir()
    command = folder / "chainlytics"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m chainlytics "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    programs = ClientApplications.for_version(1).folder
    server = EmbeddedPostgres(home)
    url = server.start()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("CHAINLYTICS_")
    } | {
        "CHAINLYTICS_HOME": str(home),
        "DATABASE_URL": url,
        "PATH": f"{folder}:{programs}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "PYTHONWARNINGS": "ignore",
    }

    def run(script: str, code: int = 0) -> str:
        done = subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", script],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == code, (script, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return " ".join((done.stdout + done.stderr).split())

    try:
        prepare_database(url)
        asyncio.run(told(url, 0, 60))
        head = head_of(url)
        back_up, base_backup, into_empty, replacing, listing, rehearsal, *more = blocks()
        prune, rebuilding, rolling_back, replaying, showing, archived, dropping = more
        said = run(back_up)
        assert f"head at position {head}" in said
        assert "nightly.backup: OK" in said
        assert "verified" in run(base_backup)
        assert f"not empty, its head is at position {head}" in run(into_empty, code=1)
        asyncio.run(told(url, 60, 80))
        assert f"restored: head at position {head}" in run(replacing)
        assert "order_summary" in run(listing)
        said = run(rehearsal)
        assert f"restored: head at position {head}" in said
        assert "order_summary" in said
        change(url, "UPDATE commands SET recorded_at = now() - interval '401 days'")
        assert "60 commands older than 400 days are forgotten" in run(prune)
        assert '"forgotten": 0' in run("chainlytics db prune --json")
        # No server runs that would rebuild what was folded from the log before the restore.
        run("chainlytics projections rebuild --all --json")
        assert f"order_summary: {head} events in" in run(rebuilding)
        assert "order_summary is the former table again" in run(rolling_back)
        assert "order_summary has no dead letters" in run(replaying)
        assert "stock_levels: 0 rows" in run(showing)
        assert "there is no segment yet 0 of 0 segments are as sealed" in run(archived)
        assert "no segment ends before that" in run(dropping)
        change(url, "TRUNCATE events, commands", "UPDATE log_head SET position = 0")
        assert f"restored: head at position {head}" in run(into_empty)
        refused = run("echo n | chainlytics db restore nightly.backup --replace", code=1)
        assert f"its head at position {head}, is lost. Replace it?" in refused
        again = run("chainlytics db backup nightly.backup", code=1)
        assert "is there already" in again
    finally:
        server.stop()
