"""A relay, consumers and the business of several companies on a real broker; until when to wait for
them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any
from uuid import UUID

import psycopg
from kafka import KafkaAdminClient
from kafka.errors import CoordinatorNotAvailableError

from chainlytics.application import Application, application, run_workers
from commands.sample_year import sample_year
from domain.catalogue import AREAS
from domain.decisions import (
    RequestDecision,
)
from domain.inventory import ReceiveStock
from domain.orders import AllocateOrder, DeliverOrder, PlaceOrder, ShipOrder
from domain.values import Command
from eventstore import LogUnavailable
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.relay import Relay
from ml.catalogue import FEATURE_TABLES
from ml.fulfilment import FULFILMENT
from ml.models import train
from projections.catalogue import TABLES
from projections.table import Table
from tests.appending import head
from tests.patience import PATIENCE_S
from tests.test_folds import progress
from tests.world import NOW, company, context, deploy, send

LANES = 4
#: One in each lane. The last one has no model: its requests fail.
COMPANIES = [UUID(int=(11 << 64) + number) for number in range(LANES)]
#: Commands of the made year that each company has seen; the first one all of them.
_SEEN = (None, 400, 300, 300)
EVERY: Sequence[Table] = [*TABLES.values(), *FEATURE_TABLES]


# who runs


def relay_of(url: str, cluster: Cluster) -> Relay:
    return Relay(url, cluster, AREAS, lanes=LANES)


async def workers(url: str, cluster: Cluster, *, projector: bool, consumer: bool) -> None:
    """Members of both groups, or of one, as a process runs them."""
    await run_workers(url, projector=projector, consumer=consumer, cluster=cluster, measure=None)


@asynccontextmanager
async def running(*work: object) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Coroutines as tasks that are cancelled at the end; one that ends by itself has failed."""
    tasks = [asyncio.ensure_future(one) for one in work]  # type: ignore[call-overload]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [one for one in results if not isinstance(one, asyncio.CancelledError)] == []


class Processes:
    """``chainlytics`` commands as processes that can be killed. What they say is kept in files."""

    def __init__(self, url: str, cluster: Cluster, home: Path) -> None:
        self._home = home
        self._environment = os.environ | {
            "DATABASE_URL": url,
            "CHAINLYTICS_HOME": str(home),
            "CHAINLYTICS_TRANSPORT": "kafka",
            "KAFKA_BOOTSTRAP_SERVERS": ",".join(cluster.brokers),
            "CHAINLYTICS_KAFKA_PREFIX": cluster.prefix,
            "CHAINLYTICS_KAFKA_LANES": str(LANES),
        }
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, command: str) -> subprocess.Popen[bytes]:
        log = self._home / f"{command}-{len(list(self._home.iterdir()))}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "chainlytics", command],
                env=self._environment,
                cwd=self._home,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._running.append((process, log))
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """As a crash would."""
        self.check()
        self._running = [one for one in self._running if one[0] is not process]
        process.kill()
        process.wait()

    def check(self) -> None:
        """None has ended by itself."""
        for process, log in self._running:
            assert process.poll() is None, log.read_text()[-4000:]

    def end(self) -> None:
        for process, _ in self._running:
            process.kill()
            process.wait()


@contextmanager
def processes(url: str, cluster: Cluster, home: Path) -> Iterator[Processes]:
    """None of them is left at the end."""
    home.mkdir(exist_ok=True)
    started = Processes(url, cluster, home)
    try:
        yield started
        started.check()
    finally:
        started.end()


# what they do


async def several_companies(url: str) -> None:
    """A year of one company and the beginning of some others', one model that decides for all but
    the last, and requests that nobody has answered yet. No table is folded."""
    year = list(sample_year(orders=400).commands)
    async with company(url) as app:
        for one, seen in zip(COMPANIES, _SEEN, strict=True):
            await send(app, list(islice(year, seen)), organisation_id=one)
        trained = await train(app.url, app.log, app.artifacts, COMPANIES[0], FULFILMENT, NOW)
        for one in COMPANIES[:-1]:
            await deploy(app, trained, one)
        waiting = Traffic(app, seed=0)
        for _ in range(12):
            await waiting.order()


class Traffic:
    """Orders by chance: each is placed, decided on, and followed to its end."""

    def __init__(self, app: Application, seed: int) -> None:
        self._app, self._seed, self._chance = app, seed, Random(seed)
        self._year = sample_year(orders=50)
        self._placed = [c.command for c in self._year.commands if isinstance(c.command, PlaceOrder)]
        self._open: list[tuple[UUID, str]] = []
        self._number = 0

    async def order(self) -> None:
        """Some commands of some company."""
        chance = self._chance
        self._number += 1
        one = COMPANIES[self._number % len(COMPANIES)]
        order_id = f"N-{self._seed}-{self._number}"
        like = chance.choice(self._placed)
        await self._send(
            one,
            like.model_copy(
                update={
                    "order_id": order_id,
                    "placed_at": NOW,
                    "promised_at": NOW + timedelta(days=4),
                }
            ),
        )
        await self._send(
            one,
            RequestDecision(decision_id=f"d-{order_id}", subject_id=order_id, requested_at=NOW),
        )
        sku = chance.choice(like.lines).sku
        await self._send(
            one,
            ReceiveStock(site_id="S-MUC", sku=sku, quantity=5, received_at=NOW),  # type: ignore[arg-type]
        )
        self._open.append((one, order_id))
        if chance.random() < 0.5:
            one, order_id = self._open.pop(chance.randrange(len(self._open)))
            for command in (
                AllocateOrder(order_id=order_id, site_id="S-MUC", allocated_at=NOW),
                ShipOrder(order_id=order_id, shipped_at=NOW + timedelta(days=1)),
                DeliverOrder(order_id=order_id, delivered_at=NOW + timedelta(days=3)),
            ):
                await self._send(one, command)

    async def _send(self, organisation_id: UUID, command: Command) -> None:
        """Until it is taken: the id stays the same."""
        sent = context("planner", organisation_id)
        while True:
            try:
                await self._app.bus.execute(command, sent)
                return
            except (LogUnavailable, psycopg.OperationalError, psycopg.InterfaceError):
                await asyncio.sleep(0.1)

    async def flow(self) -> None:
        """Go on for ever."""
        while True:
            await self.order()
            await asyncio.sleep(0.1)


@asynccontextmanager
async def traffic(url: str, seed: int) -> AsyncIterator[Traffic]:
    """Orders come in meanwhile."""
    async with application(url, pool_size=2) as app:
        found = Traffic(app, seed)
        flowing = asyncio.create_task(found.flow())
        try:
            yield found
        finally:
            flowing.cancel()
            with suppress(asyncio.CancelledError):
                await flowing


# how far they are


async def until_settled(url: str, check: Processes | None = None) -> None:
    """Return when the relay and every table are at the log's head, and no request waits."""
    deadline = monotonic() + PATIENCE_S
    while monotonic() < deadline:
        if check is not None:
            check.check()
        with suppress(psycopg.OperationalError):
            if _settled(url):
                return
        await asyncio.sleep(0.1)
    raise AssertionError(
        f"the log is at {head(url)}, the relay at {relayed(url)}, the tables at {progress(url)}"
    )


def _settled(url: str) -> bool:
    end, tables = head(url), progress(url)
    reached = {tables[one.name][0] for one in EVERY if one.name in tables}
    return len(tables) == len(EVERY) and reached == {end} and relayed(url) == end == head(url)


def relayed(url: str) -> int:
    """The position of the relay's checkpoint."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT position FROM relay").fetchone()
    return 0 if row is None else int(row[0])


async def until_further(url: str, by: int = 1, check: Processes | None = None) -> None:
    """Return when read models and decisions have come further: so many positions, over all
    lanes."""
    goals = {name: done + by for name, done in lanes_done(url).items()}
    deadline = monotonic() + PATIENCE_S
    while any(lanes_done(url)[name] < goal for name, goal in goals.items()):
        assert monotonic() < deadline, f"{lanes_done(url)}, and not {goals}"
        if check is not None:
            check.check()
        await asyncio.sleep(0.02)


def lanes_done(url: str) -> dict[str, int]:
    """The positions that a read model and decisions have come to, all lanes together."""
    names = ["order_summary", "feature_decided"]
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT name, sum(position)::bigint FROM projection_lanes WHERE name = ANY(%s)"
            " GROUP BY name",
            (names,),
        ).fetchall()
    return dict.fromkeys(names, 0) | dict(rows)


async def until_members(cluster: Cluster, members: int) -> None:
    """Return when each of the two groups has so many members, all of them with lanes."""
    admin = await asyncio.to_thread(lambda: KafkaAdminClient(**cluster.options("test")))
    names = [cluster.group(name) for name in ("projector", "decisions")]
    deadline = monotonic() + PATIENCE_S
    try:
        while True:
            found: Any = {}
            with suppress(CoordinatorNotAvailableError):  # nobody has ever been a member here
                found = await asyncio.to_thread(admin.describe_groups, names)
            if [_members(group) for group in found.values()] == [members, members]:
                return
            assert monotonic() < deadline, f"there are not {members} members: {found}"
            await asyncio.sleep(0.1)
    finally:
        admin.close()


def _members(group: Any) -> int:
    """How many there are; -1: they are still about to share the lanes."""
    with_lanes = [one for one in group["members"] if one["member_assignment"]]
    stable = group["group_state"] == "Stable" and len(with_lanes) == len(group["members"])
    return len(with_lanes) if stable else -1


async def until_relayed(url: str) -> None:
    """Return when the relay has a checkpoint."""
    async with asyncio.timeout(PATIENCE_S):
        while not relayed(url):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.05)
