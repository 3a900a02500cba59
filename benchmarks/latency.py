"""From a command's answer to its row: all read models run by the command line in another process.

Commands are sent at a steady rate whether or not the ones before have been answered, so that a
slow moment delays what comes in it and hides nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from types import MappingProxyType

import numpy as np

from benchmarks.deliveries import ORGANISATION, Say
from benchmarks.peers.peer import own_database
from chainlytics.application import Application, application
from commands import Context
from domain.access import Role
from domain.inventory import ReceiveStock
from domain.sites import OpenSite
from domain.values import Command
from eventstore import prepare_database
from projections.catalogue import TABLES
from projections.inventory import STOCK_LEVELS
from readmodels.positions import Positions

SITES, SKUS = 10, 50
#: Connections of this process: one for each command that is under way.
_CONNECTIONS = 20
_WARM_S = 2.0
_PATIENCE_S = 60.0
_DEFAULTS: Mapping[str, str] = MappingProxyType({})
_ROW = """SELECT last_position FROM read_models.stock_levels
    WHERE organisation_id = %s AND site_id = %s AND sku = %s"""
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_ROLES = frozenset({Role.ADMIN, Role.SERVICE})


@dataclass(frozen=True)
class Latencies:
    """Milliseconds from answer to row, and of the commands themselves."""

    p50: float
    p99: float
    command_p50: float
    commands: int
    per_second: float


class NotVisible(Exception):
    """A read model said that it had come to a position, and the row there was an older one."""


async def measure(
    url: str,
    rate: float,
    seconds: float,
    say: Say,
    *,
    workers: Sequence[str] = ("projector",),
    settings: Mapping[str, str] = _DEFAULTS,
) -> Latencies:
    """Send commands for so many seconds, after some that warm everything up.

    The clock of each runs from its answer until its row was read: ``Positions.wait_for``, then a
    query of its own. ``workers``: the commands of the command line that bring events to rows, with
    these ``settings`` in their environment.

    Raises:
        NotVisible: a row was not there when it was said to be.
        ReadModelBehind: the projector did not come to a position within a minute.
    """
    with own_database(url, "latency") as database:
        prepare_database(database)
        with ExitStack() as running:
            for worker in workers:
                running.enter_context(_worker(database, worker, settings))
            async with (
                application(database, pool_size=_CONNECTIONS) as app,
                Positions(app.log, database) as positions,
            ):
                await _prepare(app, positions)
                say("the projector has started")
                await _send(app, positions, rate, min(_WARM_S, seconds))
                begun = perf_counter()
                took = await _send(app, positions, rate, seconds)
                per_second = len(took) / (perf_counter() - begun)
    answered, visible = zip(*took, strict=True)
    p50, p99 = np.percentile(visible, [50, 99])
    return Latencies(
        float(p50), float(p99), float(np.median(answered)), len(took), float(per_second)
    )


async def _prepare(app: Application, positions: Positions) -> None:
    """Streams to send commands to; return when the projector has folded them all."""
    await app.projector.prepare()
    commands: list[Command] = [OpenSite(site_id=_site(n), opened_at=_NOW) for n in range(SITES)]
    commands += [_receive(number) for number in range(SITES * SKUS)]
    for command in commands:
        await app.bus.execute(command, _context())
    await positions.wait_for(await app.log.head(), list(TABLES), _PATIENCE_S)


async def _send(
    app: Application, positions: Positions, rate: float, seconds: float
) -> list[tuple[float, float]]:
    """Milliseconds of each command, and from its answer to its row."""
    begun = perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in range(max(1, round(rate * seconds))):
            await asyncio.sleep(begun + number / rate - perf_counter())
            tasks.append(group.create_task(_one(app, positions, number % (SITES * SKUS))))
    return [task.result() for task in tasks]


async def _one(app: Application, positions: Positions, number: int) -> tuple[float, float]:
    command = _receive(number)
    sent = perf_counter()
    receipt = await app.bus.execute(command, _context())
    answered = perf_counter()
    await positions.wait_for(receipt.position, [STOCK_LEVELS.name], _PATIENCE_S)
    async with app.log.connection() as connection:
        cursor = await connection.execute(_ROW, (ORGANISATION, command.site_id, command.sku))
        row = await cursor.fetchone()
    seen = perf_counter()
    if row is None or row[0] < receipt.position:
        raise NotVisible(f"{command.sku} at position {receipt.position}: {row}")
    return (answered - sent) * 1e3, (seen - answered) * 1e3


@contextmanager
def _worker(url: str, name: str, settings: Mapping[str, str]) -> Iterator[None]:
    """A worker as a process of its own; what it said is told where we fail."""
    with tempfile.TemporaryDirectory(prefix="chainlytics-bench-") as folder:
        log = Path(folder) / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "chainlytics", name],
                env={**os.environ, "DATABASE_URL": url, "CHAINLYTICS_HOME": folder, **settings},
                cwd=Path(__file__).parent.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield
        except BaseException as error:
            error.add_note(f"the {name} said:\n{log.read_text()[-2000:]}")
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _site(number: int) -> str:
    return f"warehouse-{number:04}"


def _receive(number: int) -> ReceiveStock:
    site, sku = divmod(number, SKUS)
    return ReceiveStock(
        site_id=_site(site), sku=f"SKU-{sku:06}", quantity=Decimal(1), received_at=_NOW
    )


def _context() -> Context:
    return Context(ORGANISATION, "benchmark", _ROLES)
