"""kill -9 of the worker that does a task: another one takes it over, and all is as if nothing had
been."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest

from chainlytics.application import Application
from commands.tasks import task_stream
from domain.catalogue import TOPICS
from domain.orders import OrderPlaced
from domain.tasks import State, TaskStarted
from domain.work import ImportFile, RequestImport, RequestReplay
from eventstore.uploads import Uploads
from readmodels.database import ReadModels
from readmodels.tasks import TaskDetail, get_task
from tests.patience import PATIENCE_S
from tests.test_kill import assert_whole
from tests.world import (
    NOW,
    ORGANISATION,
    a_year,
    company,
    context,
    deployed_model,
    open_orders,
    request,
)

ORDERS = 15_000
T = TypeVar("T")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@contextmanager
def workers(url: str, home: Path, count: int) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """Processes that do tasks, by their process ids."""
    found: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for number in range(count):
            with (home / f"worker-{number}.log").open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "chainlytics", "tasks", "run"],
                    env=os.environ | {"DATABASE_URL": url, "CHAINLYTICS_HOME": str(home)},
                    cwd=home,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            found[process.pid] = process
        yield found
    finally:
        for process in found.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in found.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


@asynccontextmanager
async def folding(url: str) -> AsyncIterator[Application]:
    """The company, its read models behind the log."""
    async with company(url) as app:
        task = asyncio.create_task(app.projector.run())
        try:
            yield app
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def until(ask: Callable[[], Awaitable[T | None]], seconds: float = PATIENCE_S) -> T:
    deadline = monotonic() + seconds
    while monotonic() < deadline:
        if (found := await ask()) is not None:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come about")


async def begun(app: Application, task_id: str) -> int | None:
    """The process that has begun a task last."""
    read = ReadModels(app.log, ORGANISATION)
    events = await read.stream(task_stream(task_id))
    starts = [one for one in events if one.topic == TOPICS[TaskStarted]]
    if not starts:
        return None
    return int(TaskStarted.model_validate_json(starts[-1].state).worker.rpartition(":")[2])


async def ended(app: Application, task_id: str, organisation: UUID) -> TaskDetail | None:
    """The task, if nothing more comes."""
    found = await get_task(ReadModels(app.log, organisation), task_id)
    return found if found is not None and found.finished else None


async def placed(app: Application, organisation: UUID) -> int:
    async with app.log.connection() as connection:
        row = await (
            await connection.execute(
                "SELECT count(*) FROM events WHERE topic = %s AND organisation_id = %s",
                (TOPICS[OrderPlaced], organisation),
            )
        ).fetchone()
    assert row is not None
    return int(row[0])


def orders_csv() -> bytes:
    header = "order_id,customer_id,currency,region,placed_at,promised_at,"
    lines = [header + "line_no,sku,quantity,unit_price\n"]
    for number in range(ORDERS):
        moments = f"2026-01-01 {number // 3600:02}:00:00,2026-01-09 10:00:00"
        lines.append(f"O-{number},C-{number % 90},EUR,DE-BE,{moments},1,SKU-{number % 7},3,1.99\n")
    return "".join(lines).encode()


async def ask_for_import(app: Application, task_id: str, organisation: UUID) -> None:
    stored = await Uploads(app.log).put(organisation, "ana", io.BytesIO(orders_csv()))
    command = RequestImport(
        task_id=task_id,
        mapping="orders",
        files=(ImportFile(name="orders.csv", upload_id=stored.upload_id),),
        requested_at=NOW,
    )
    await app.bus.execute(command, context("ana", organisation))


async def order_rows(app: Application, organisation: UUID) -> list[Any]:
    await app.projector.catch_up()
    async with app.log.connection() as connection:
        found = await connection.execute(
            """SELECT order_id, status, version, customer_id, goods_minor, units, lines, placed_at,
                promised_at FROM read_models.order_summary
            WHERE organisation_id = %s ORDER BY order_id""",
            (organisation,),
        )
        return await found.fetchall()


def test_an_import_is_finished_by_another_worker(database: str, home: Path) -> None:
    other = uuid4()

    async def work() -> None:
        async with folding(database) as app:
            with workers(database, home, 2) as processes:
                await ask_for_import(app, "import", ORGANISATION)
                victim = await until(lambda: begun(app, "import"))

                async def midway() -> int | None:
                    count = await placed(app, ORGANISATION)
                    return count if count >= 1_500 else None

                await until(midway)
                os.kill(victim, signal.SIGKILL)
                processes[victim].wait()
                survived = await placed(app, ORGANISATION)
                assert 1_500 <= survived < ORDERS, "it was in the midst"
                task = await until(lambda: ended(app, "import", ORGANISATION))
                survivor = await begun(app, "import")
                assert survivor in processes.keys() - {victim}
                assert (task.state, task.attempt) == (State.COMPLETED, 2)
                assert task.result is not None
                # What the writer had sent when it died may have been stored behind our count.
                repeated = task.result["repeated"]
                assert survived <= repeated < ORDERS
                assert task.result["stored"] == ORDERS - repeated
                assert (task.result["commands"], task.result["rejected"]) == (ORDERS, 0)
                await ask_for_import(app, "import", other)
                plain = await until(lambda: ended(app, "import", other))
                assert (plain.state, plain.attempt) == (State.COMPLETED, 1)
                assert plain.result is not None
                assert plain.result["stored"] == ORDERS
            assert await placed(app, ORGANISATION) == await placed(app, other) == ORDERS
            rows = await order_rows(app, ORGANISATION)
            assert rows == await order_rows(app, other)
            assert len(rows) == ORDERS
            async with app.log.connection() as connection:
                left = await connection.execute("SELECT count(*) FROM upload_parts")
                assert await left.fetchone() == (0,), "nothing of the files is kept"
            assert not any((home / "imports").rglob("*.csv"))

    asyncio.run(work())
    assert_whole(database)


def test_a_replay_is_finished_by_another_worker(database: str, home: Path) -> None:
    async def work() -> None:
        async with folding(database) as app:
            await a_year(app, orders=700)
            await deployed_model(app)
            for number, order_id in enumerate(await open_orders(app, 6)):
                await request(app, f"d-{number}", order_id)
            await app.consumer.catch_up()
            with workers(database, home, 2) as processes:
                command = RequestReplay(task_id="replay", requested_at=NOW)
                await app.bus.execute(command, context("ana"))
                victim = await until(lambda: begun(app, "replay"))
                os.kill(victim, signal.SIGKILL)
                processes[victim].wait()
                assert await ended(app, "replay", ORGANISATION) is None, "it was in the midst"
                task = await until(lambda: ended(app, "replay", ORGANISATION))
                assert (task.state, task.attempt) == (State.COMPLETED, 2)
                command = RequestReplay(task_id="again", requested_at=NOW)
                await app.bus.execute(command, context("ana"))
                plain = await until(lambda: ended(app, "again", ORGANISATION))
            assert (plain.state, plain.attempt) == (State.COMPLETED, 1)
            assert plain.result == task.result
            assert plain.result is not None
            assert plain.result["same"] == plain.result["decisions"] == 6
            assert plain.artifact == task.artifact, "the same bytes"

    asyncio.run(work())
    assert_whole(database)
