"""Faults of brokers, servers and processes, all of them real, while orders come in.

After each: read models are as a rebuild makes them, every request is decided once, as a replay
decides it, and the topics hold the log.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection

from domain.catalogue import TOPICS
from domain.decisions import DecisionExplained, DecisionFailed, DecisionMade
from eventstore.embedded import EmbeddedPostgres
from eventstore.kafka import relay_state
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.relay import keep_relayed
from tests.appending import head, terminate
from tests.broker import StoppableBroker
from tests.conftest import TEST_SETTINGS
from tests.feeding import (
    COMPANIES,
    LANES,
    Processes,
    processes,
    relay_of,
    relayed,
    running,
    several_companies,
    traffic,
    until_further,
    until_members,
    until_relayed,
    until_settled,
    workers,
)
from tests.patience import PATIENCE_S
from tests.proxy import Proxy
from tests.test_adversity import crash
from tests.wholeness import assert_whole, carried_by, events
from tests.world import company, copied


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """The home of a server of the module's own, that may be killed.

    Not in pytest's folder: each run of pytest closes that to the `nobody` as whom root's server
    runs, and here the server starts again in the middle.
    """
    folder = Path(tempfile.mkdtemp(prefix="chainlytics-faults-"))
    folder.chmod(0o755)
    yield folder
    EmbeddedPostgres(folder).stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(home: Path) -> EmbeddedPostgres:
    """It runs, whatever the test before did to it, once it is started again."""
    return EmbeddedPostgres(home, settings=TEST_SETTINGS)


@pytest.fixture(scope="module")
def world(server: EmbeddedPostgres) -> str:
    """The name of a database with several companies' log, which nobody has relayed or folded."""
    url = urlsplit(server.start())
    with psycopg.connect(url.geturl(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE world")
    asyncio.run(several_companies(urlunsplit(url._replace(path="/world"))))
    return "world"


@pytest.fixture
def log(server: EmbeddedPostgres, world: str) -> str:
    """The URL of a copy of the world. It goes with the server, whose port may be another one in the
    next test."""
    url, name = urlsplit(server.start()), f"copy_{uuid4().hex[:12]}"
    with psycopg.connect(url.geturl(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {world}".encode())
    return urlunsplit(url._replace(path=f"/{name}"))


@asynccontextmanager
async def held(url: str, *statements: str) -> AsyncIterator[Holder]:
    """A transaction that has locked something, and is undone at the end."""
    async with await AsyncConnection.connect(url) as connection:
        for statement in statements:
            await connection.execute(statement.encode())
        yield Holder(url, connection.info.backend_pid)
        await connection.rollback()


@dataclass(frozen=True)
class Holder:
    """A transaction that others wait for."""

    url: str
    pid: int

    def waiting(self) -> list[int]:
        """The backends that do."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))",
                (self.pid,),
            ).fetchall()
        return [pid for (pid,) in rows]

    async def until_waiting(self, number: int, check: Processes) -> list[int]:
        """The backends, once there are so many."""
        deadline = monotonic() + PATIENCE_S
        while len(found := self.waiting()) < number:
            assert monotonic() < deadline
            check.check()
            await asyncio.sleep(0.02)
        return found


async def answers(url: str) -> dict[tuple[str, str, str], bytes]:
    """What the decision consumer has said, as it is stored."""
    kinds = {TOPICS[one] for one in (DecisionMade, DecisionExplained, DecisionFailed)}
    return {
        (str(one.organisation_id), json.loads(one.state)["decision_id"], one.topic): one.state
        for one in await events(url)
        if one.topic in kinds
    }


def size_of(url: str, table: str) -> int:
    with psycopg.connect(url) as connection:
        [[size]] = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()
    return int(size)


def test_kafka_brings_the_decisions_of_the_log(log: str, cluster: Cluster) -> None:
    async def decide_by_log(url: str) -> None:
        async with company(url) as app:
            await app.consumer.catch_up()

    async def run() -> None:
        with copied(log) as other:
            await decide_by_log(other)
            async with running(
                keep_relayed(relay_of(log, cluster)),
                workers(log, cluster, projector=True, consumer=True),
            ):
                await until_settled(log)
            by_log, by_kafka = await answers(other), await answers(log)
        assert by_log == by_kafka
        assert {one[0] for one in by_log} == {str(one) for one in COMPANIES}
        often = await assert_whole(log, cluster)
        assert set(often.values()) == {1}

    asyncio.run(run())


def test_the_broker_is_killed_in_mid_stream(log: str, own_broker: StoppableBroker) -> None:
    cluster = Cluster((own_broker.bootstrap,), prefix=f"faults-{uuid4().hex[:12]}")

    async def kill_it() -> None:
        """And see that commands are taken without it."""
        await until_further(log)
        await asyncio.to_thread(own_broker.stop, kill=True)
        behind = head(log)
        async with asyncio.timeout(PATIENCE_S):
            while head(log) < behind + 20:  # noqa: ASYNC110 - traffic goes on
                await asyncio.sleep(0.1)

    async def run() -> None:
        async with running(workers(log, cluster, projector=True, consumer=True)):
            async with traffic(log, 1):
                async with running(keep_relayed(relay_of(log, cluster))):
                    await kill_it()
                    await asyncio.to_thread(own_broker.start)
                    await kill_it()
                # This relay ended with what it could not send.
                await asyncio.to_thread(own_broker.start)
            async with running(keep_relayed(relay_of(log, cluster))):
                await until_settled(log)
        await assert_whole(log, cluster)

    asyncio.run(run())


def test_consumers_are_killed_in_mid_batch(log: str, cluster: Cluster, tmp_path: Path) -> None:
    chance = Random(2)
    held_up = ("read_models.audit_trail", "read_models.feature_requests")

    async def run() -> None:
        with processes(log, cluster, tmp_path) as started:

            def pair() -> list[subprocess.Popen[bytes]]:
                return [started.start(name) for name in ("projector", "consumer")]

            async with running(keep_relayed(relay_of(log, cluster))), traffic(log, 2):
                first, second = pair(), pair()
                await until_members(cluster, 2)
                # All are in the middle of a batch: some rows are written, answers are on the log.
                async with held(
                    log, *(f"LOCK {table} IN EXCLUSIVE MODE" for table in held_up)
                ) as holder:
                    await holder.until_waiting(4, started)
                    for victim in first:
                        started.kill(victim)
                    answered = {decision for _, decision, _ in await answers(log)}
                    assert len(answered) > size_of(log, "read_models.feature_requests")
                # What they leave is taken over by a member of this process.
                async with running(workers(log, cluster, projector=True, consumer=True)):
                    for victim in second:
                        await asyncio.sleep(chance.uniform(0, 2))
                        started.kill(victim)
                    await until_members(cluster, 1)
                    await until_further(log)
            async with running(
                keep_relayed(relay_of(log, cluster)),
                workers(log, cluster, projector=True, consumer=True),
            ):
                await until_settled(log)
        await assert_whole(log, cluster)

    asyncio.run(run())


def test_members_come_and_go_while_events_flow(log: str, cluster: Cluster) -> None:
    async def run() -> None:
        async with running(
            keep_relayed(relay_of(log, cluster)),
            workers(log, cluster, projector=True, consumer=True),
        ):
            async with traffic(log, 3):
                await until_members(cluster, 1)
                for _ in range(2):
                    async with running(workers(log, cluster, projector=True, consumer=True)):
                        await until_members(cluster, 2)
                        await until_further(log, 30)
                    await until_further(log, 10)
            await until_settled(log)
        often = await assert_whole(log, cluster)
        assert set(often.values()) == {1}

    asyncio.run(run())


def test_the_relay_is_killed_between_publishing_and_its_checkpoint(
    log: str, cluster: Cluster, tmp_path: Path
) -> None:
    async def kill_there(relay: subprocess.Popen[bytes], started: Processes) -> None:
        """Kill a relay that has published something and not written it down."""
        async with held(log, "SELECT FROM relay FOR NO KEY UPDATE") as holder:
            before = relayed(log)
            waiting = await holder.until_waiting(1, started)
            started.kill(relay)
            # It has sent its statement: what is left of its connection would still carry it out.
            terminate(log, *waiting)
        published = await asyncio.to_thread(carried_by, cluster)
        last = max(one.event.position for records in published.values() for one in records)
        assert relayed(log) == before < last

    async def run() -> None:
        async with await AsyncConnection.connect(log, autocommit=True) as connection:
            await relay_state.make(connection, LANES)
        with processes(log, cluster, tmp_path) as started:
            async with running(workers(log, cluster, projector=True, consumer=True)):
                async with traffic(log, 4):
                    await kill_there(started.start("relay"), started)  # before its first one
                    relay = started.start("relay")
                    await until_relayed(log)
                    await kill_there(relay, started)
                    started.start("relay")
                    await until_further(log, 20, started)
                await until_settled(log, started)
        often = await assert_whole(log, cluster)
        assert max(often.values()) > 1

    asyncio.run(run())


def test_the_server_crashes_and_starts_again(
    log: str, cluster: Cluster, server: EmbeddedPostgres, home: Path
) -> None:
    name = urlsplit(log).path

    async def run() -> None:
        proxy, direct = Proxy(log), log
        # Clients know one address; a server that starts again takes another port.
        async with (
            proxy as stays,
            running(
                keep_relayed(relay_of(stays, cluster)),
                workers(stays, cluster, projector=True, consumer=True),
            ),
        ):
            async with traffic(stays, 5):
                for how in ("the whole server", "shut down at once"):
                    await until_further(direct, 30)
                    await asyncio.to_thread(crash, home, how)
                    url = await asyncio.to_thread(server.start)
                    proxy.aim(url)
                    direct = urlunsplit(urlsplit(url)._replace(path=name))
                await until_further(direct, 50)
            await until_settled(direct)
        await assert_whole(direct, cluster)

    asyncio.run(run())
