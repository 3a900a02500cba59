"""A day: 100,000 orders from their placing to their delivery, with folds and decisions behind them.

Every order is decided by a trained model with exact explanations, allocated, reserved, picked,
shipped in whole or in part, delivered, some cancelled or sent back: all by commands that answer the
events before them. Read models and decisions run in processes of their own meanwhile, as in
production; everything durable. CHAINLYTICS_BENCH_ORDERS sets how many.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import SpawnProcess
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID

import psycopg
import uvloop

from benchmarks.day_driver import Driver, orders_of_the_day
from benchmarks.day_recount import recount
from benchmarks.peers.peer import own_database
from chainlytics.application import Application, application, run_workers
from chainlytics.memory import calm_collector
from commands import Context
from commands.bulk import Keyed, Sender, send_all
from commands.sample_world import sites
from commands.sample_year import sample_year
from domain.access import Role
from domain.inventory import ReceiveStock
from domain.models import ApproveModel, DeployModel
from domain.orders import PlaceOrder
from domain.sites import ChangeSite
from domain.transport import ChangeVehicle
from eventstore import prepare_database
from ml.fulfilment import FULFILMENT
from ml.models import train

ORGANISATION = UUID(int=9)
ORDERS = 100_000
#: Orders of the year that the model learns from.
LEARNED_FROM = 5_000
NOW = datetime(2026, 1, 4, tzinfo=UTC)
#: Of the day's demand, so much is on the shelves in the morning; the rest waits for the next truck.
STOCKED = Decimal("0.98")
_PATIENCE_S = 7200.0
Say = Callable[[str], None]


def run(url: str, say: Say) -> dict[str, Any]:
    """Seconds, events a second and memory; what is lost, below zero or other than in SQL: all 0."""
    with own_database(url, "day") as database:
        prepare_database(database)
        return uvloop.run(_run(database, say))


async def _run(url: str, say: Say) -> dict[str, Any]:
    count = int(os.environ.get("CHAINLYTICS_BENCH_ORDERS", ORDERS))
    async with application(url, pool_size=4) as app:
        await app.projector.prepare()
        await app.consumer.prepare()
        orders = orders_of_the_day(count)
        await _before(app, orders, say)
        driver = Driver(app.bus, app.log, ORGANISATION)
        with _workers(url) as memory:
            # They are up when they have folded what was told after they were started.
            await _send(app, [Keyed("up", _one_more(orders))], "up")
            await _caught_up(app, since := await app.log.head())
            started = perf_counter()
            async with asyncio.TaskGroup() as group:
                following = group.create_task(driver.follow(since))
                group.create_task(_tell(app, driver, since, following, say))
                await driver.place(orders)
                placed = driver.told.stored["PlaceOrder"]
                say(f"{placed:,} orders placed in {perf_counter() - started:.1f} s")
            commanded = perf_counter() - started
            head = await app.log.head()
            await _caught_up(app, head)
            seconds = perf_counter() - started
            peak = [_peak_mb(), *memory()]
    events = head - since
    say(f"refused: {driver.told.refused or 'nothing'}")
    say("counting again, in SQL")
    found = recount(
        url, ORGANISATION, placed=placed, acknowledged=driver.told.commands, since=since
    )
    return {
        "orders": count,
        "seconds": round(seconds, 1),
        "commands_seconds": round(commanded, 1),
        "events": events,
        "events_per_second": round(events / seconds),
        "orders_per_second": round(count / seconds),
        "peak_rss_mb": round(sum(peak)),
        "peak_rss_mb_each": [round(one) for one in peak],
        **found,
    }


async def _before(app: Application, orders: list[PlaceOrder], say: Say) -> None:
    """The year before, the model that learned from it, and the morning's stock."""
    year = sample_year(orders=LEARNED_FROM)
    await _send(app, [*year.commands], year.name)
    trained = await train(app.url, app.log, app.artifacts, ORGANISATION, FULFILMENT, NOW)
    model_hash = trained.registration.model_hash
    await app.bus.execute(trained.registration, _context("planner"))
    approve = ApproveModel(model_hash=model_hash, approved_at=NOW, accept_worse=True)
    await app.bus.execute(approve, _context("boss"))
    deploy = DeployModel(model_hash=model_hash, deployed_at=NOW)
    await app.bus.execute(deploy, _context("planner"))
    places = sites()
    wanted: dict[str, Decimal] = {}
    for order in orders:
        for line in order.lines:
            wanted[line.sku] = wanted.get(line.sku, Decimal(0)) + line.quantity
    morning: list[Keyed] = []
    for place in places:
        unlimited = ChangeSite(site_id=place.site_id, daily_capacity=10**9, changed_at=NOW)
        morning.append(Keyed(f"grow:{place.site_id}", unlimited))
        for vehicle in place.vehicles:
            more = ChangeVehicle(
                vehicle_id=vehicle.vehicle_id, daily_capacity=10**9, changed_at=NOW
            )
            morning.append(Keyed(f"grow:{vehicle.vehicle_id}", more))
        for sku, quantity in wanted.items():
            share = (quantity * STOCKED / len(places)).to_integral_value() + 1
            receive = ReceiveStock(site_id=place.site_id, sku=sku, quantity=share, received_at=NOW)
            morning.append(Keyed(f"stock:{place.site_id}:{sku}", receive))
    await _send(app, morning, "morning")
    await app.consumer.catch_up()
    await app.projector.catch_up()
    rounds = trained.registration.training.parameters["rounds"]
    say(f"{LEARNED_FROM:,} orders of a year learned from: {rounds} trees")


def _one_more(orders: list[PlaceOrder]) -> ReceiveStock:
    sku = orders[0].lines[0].sku
    site_id = sites()[0].site_id
    return ReceiveStock(site_id=site_id, sku=sku, quantity=Decimal(1), received_at=NOW)


async def _send(app: Application, keyed: list[Keyed], name: str) -> None:
    def refused(one: Keyed, code: str, detail: str) -> None:
        raise AssertionError(f"{one.key}: {code} {detail}")

    sender = Sender(name, ORGANISATION, "before")
    await send_all(app.bus, keyed, sender, total=len(keyed), on_refusal=refused)


def _context(actor: str) -> Context:
    roles = frozenset({Role.ADMIN, Role.SERVICE})
    return Context(organisation_id=ORGANISATION, actor=actor, roles=roles)


async def _tell(
    app: Application, driver: Driver, since: int, following: asyncio.Task[int], say: Say
) -> None:
    started = perf_counter()
    while not following.done():
        await asyncio.sleep(10)
        head = await app.log.head()
        say(
            f"{perf_counter() - started:.0f} s: {head - since:,} events, "
            f"{driver.open_orders:,} orders open"
        )
        if perf_counter() - started > _PATIENCE_S:
            raise TimeoutError(f"{driver.open_orders} orders are still open")


async def _caught_up(app: Application, head: int) -> None:
    """Return when every table has come to the log's end."""
    async with await psycopg.AsyncConnection.connect(app.url, autocommit=True) as connection:
        while True:
            cursor = await connection.execute("SELECT min(position) FROM projections")
            row = await cursor.fetchone()
            if row is not None and row[0] is not None and row[0] >= head:
                return
            await asyncio.sleep(0.2)


@contextmanager
def _workers(url: str) -> Iterator[Callable[[], list[float]]]:
    """Read models and decisions, each in a process of its own; asks them for their peak memory."""
    spawned = multiprocessing.get_context("spawn")
    running: list[tuple[SpawnProcess, Pipe]] = []
    for what in ("projector", "consumer"):
        ours, theirs = spawned.Pipe()
        process = spawned.Process(target=_work, args=(url, what, theirs), daemon=True)
        process.start()
        running.append((process, ours))

    def memory() -> list[float]:
        told = []
        for _, pipe in running:
            pipe.send("memory")
            told.append(float(pipe.recv()))
        return told

    try:
        yield memory
    finally:
        for process, pipe in running:
            pipe.send("end")
            process.join(30)
            if process.is_alive():
                process.kill()


def _work(url: str, what: str, pipe: Pipe) -> None:
    calm_collector()
    uvloop.run(_working(url, what, pipe))


async def _working(url: str, what: str, pipe: Pipe) -> None:
    work = asyncio.create_task(
        run_workers(url, projector=what == "projector", consumer=what == "consumer", measure=None)
    )
    while not work.done():
        asked = await asyncio.to_thread(pipe.poll, 1)
        if asked and pipe.recv() == "end":
            break
        if asked:
            pipe.send(_peak_mb())
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


def _peak_mb() -> float:
    """The most memory that this process has held; what it was started from does not count."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [one for one in status.read_text().splitlines() if one.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
