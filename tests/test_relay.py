"""The relay on a real Postgres and a real broker: the log in topics, whatever is killed or cut."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from kafka.errors import KafkaError

from eventstore.embedded import EmbeddedPostgres
from eventstore.kafka import ends, publisher, topics
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.embedded import free_port
from eventstore.kafka.ends import ends_of
from eventstore.kafka.publisher import producer
from eventstore.kafka.relay import RelayBusy
from tests.appending import head, terminate
from tests.broker import StoppableBroker
from tests.conftest import TEST_SETTINGS, remove_server
from tests.proxy import Proxy
from tests.relaying import (
    LANES,
    STRANGERS,
    append,
    assert_once,
    assert_whole,
    checkpoint,
    emptied,
    found_in,
    kept,
    logged,
    process,
    relay_of,
    until,
    until_relayed,
)


@pytest.fixture
def log(database: str) -> str:
    """A database whose log is empty."""
    return emptied(database)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home for a server of the test's own; not in pytest's folder, which is closed to it."""
    folder = Path(tempfile.mkdtemp(prefix="chainlytics-relay-"))
    folder.chmod(0o755)
    yield folder
    remove_server(folder)


def test_every_event_is_in_its_topic_and_lane_once_and_in_order(log: str, cluster: Cluster) -> None:
    async def story() -> int:
        await append(log, 150)
        return await relay_of(log, cluster).catch_up()

    assert asyncio.run(story()) == 150
    found = assert_whole(log, cluster)
    assert_once(found)
    assert len({one.lane for one in found}) == LANES
    assert {one.topic for one in found} == {
        cluster.topic(area) for area in ("orders", "inventory", "people", "other")
    }
    strangers = {one.event.topic for one in found if one.topic == cluster.topic("other")}
    assert strangers == set(STRANGERS)


def test_the_checkpoint_is_written_and_told_and_nothing_is_published_again(
    log: str, cluster: Cluster
) -> None:
    async def story() -> None:
        await append(log, 30)
        with psycopg.connect(log, autocommit=True) as listening:
            listening.execute("LISTEN relay")
            await relay_of(log, cluster).catch_up()
            assert list(listening.notifies(timeout=1, stop_after=1))
        _, position, event_id, lanes = checkpoint(log)
        events = logged(log)
        assert (position, event_id) == (30, events[-1].event_id)
        assert lanes == [
            max(one.position for one in events if one.organisation_id.int % LANES == lane)
            for lane in range(LANES)
        ]
        await relay_of(log, cluster).catch_up()
        await append(log, 5)
        await relay_of(log, cluster).catch_up()

    asyncio.run(story())
    assert_once(assert_whole(log, cluster))


def test_it_follows_the_log_and_stops(log: str, cluster: Cluster) -> None:
    async def story() -> None:
        async with kept(relay_of(log, cluster)):
            for _ in range(5):
                await append(log, 7)
                await until_relayed(log)
        # The lease is given back with the connection.
        await append(log, 1)
        assert await relay_of(log, cluster).catch_up() == 36

    asyncio.run(story())
    assert_once(assert_whole(log, cluster))


def test_of_two_relays_one_is_active_and_the_other_takes_over(log: str, cluster: Cluster) -> None:
    async def story() -> None:
        async with kept(relay_of(log, cluster)) as first:
            await append(log, 40)
            await until_relayed(log)
            async with kept(relay_of(log, cluster)):
                with pytest.raises(RelayBusy):
                    await relay_of(log, cluster).catch_up()
                await append(log, 40)
                await until_relayed(log)
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
                await append(log, 40)
                await until_relayed(log)

    asyncio.run(story())
    found = assert_whole(log, cluster)
    assert_once(found)  # the one that stood by has published nothing
    assert len(found) == 120


# what is killed and cut


def ask_admin(cluster: Cluster) -> object:
    return topics.topics(cluster, ["t"])


def checkpoints_waiting(url: str) -> list[int]:
    """Backends that would write a checkpoint and wait for its row."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            """SELECT pid FROM pg_stat_activity WHERE datname = current_database()
            AND wait_event_type = 'Lock' AND query LIKE 'WITH moved AS%'"""
        ).fetchall()
    return [pid for (pid,) in rows]


def test_killed_between_publish_and_checkpoint_nothing_is_missing(
    log: str, cluster: Cluster, tmp_path: Path
) -> None:
    async def story() -> None:
        with process(log, cluster, tmp_path) as running:
            await append(log, 20)
            await until_relayed(log)
            with psycopg.connect(log) as holding:
                holding.execute("SELECT FROM relay FOR NO KEY UPDATE")
                await append(log, 30)
                await until(lambda: checkpoints_waiting(log))
                running.kill()
                running.wait()
                # Its checkpoint must not be written behind its back.
                terminate(log, *checkpoints_waiting(log))
        assert checkpoint(log)[1] == 20
        before = found_in(cluster)
        assert {one.event.position for one in before} > set(range(1, 21))
        with process(log, cluster, tmp_path) as running:
            await until_relayed(log)
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 0

    asyncio.run(story())
    found = assert_whole(log, cluster)
    assert len(found) > 50  # assert_whole: repeats are the same events
    assert "the relay is active" in (tmp_path / "relay.log").read_text()


def test_a_broker_that_is_killed_in_mid_stream_gets_everything(
    log: str, own_broker: StoppableBroker
) -> None:
    cluster = Cluster((own_broker.bootstrap,), prefix=f"killed-{uuid4().hex[:8]}")

    async def story() -> None:
        async with kept(relay_of(log, cluster)):
            await append(log, 100)
            await until(lambda: _position(log) > 0)
            writing = asyncio.create_task(append(log, 400))
            await asyncio.to_thread(own_broker.stop, kill=True)
            await writing
            await append(log, 100)
            assert _position(log) < head(log)
            await asyncio.to_thread(own_broker.start)
            await until_relayed(log)

    asyncio.run(story())
    assert_whole(log, cluster)


def test_a_relay_that_starts_before_the_brokers_waits_and_says_so_once(
    log: str, own_broker: StoppableBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster((own_broker.bootstrap,), prefix=f"early-{uuid4().hex[:8]}")
    said: list[str] = []

    def told(words: str) -> int:
        said.append(capsys.readouterr().out)
        return "".join(said).count(words)

    async def story() -> None:
        await append(log, 10)
        await asyncio.to_thread(own_broker.stop)
        with pytest.raises(KafkaError):
            await relay_of(log, cluster).catch_up()
        async with kept(relay_of(log, cluster)):
            await until(lambda: told("the relay waits for the brokers"))
            await asyncio.to_thread(own_broker.start)
            await until_relayed(log)

    asyncio.run(story())
    assert told("the relay waits for the brokers") == 1
    assert_whole(log, cluster)


@pytest.mark.parametrize("ask", [producer, lambda nowhere: ends_of(nowhere, ["t"], 1), ask_admin])
def test_brokers_that_are_looked_for_in_vain_leave_no_threads(
    ask: Callable[[Cluster], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (topics, publisher, ends):
        monkeypatch.setattr(module, "_PATIENCE_MS", 100)
    nowhere = Cluster((f"127.0.0.1:{free_port()}",))
    before = threading.active_count()
    for _ in range(5):
        with pytest.raises(KafkaError):
            ask(nowhere)
    assert threading.active_count() <= before


def test_cut_connections_to_postgres_lose_nothing(log: str, cluster: Cluster) -> None:
    async def story() -> None:
        async with kept(relay_of(log, cluster)):
            for _ in range(4):
                await append(log, 200)
                terminate(log)
            await until_relayed(log)

    asyncio.run(story())
    assert_whole(log, cluster)


def test_a_postgres_that_restarts_loses_nothing(cluster: Cluster, home: Path) -> None:
    server = EmbeddedPostgres(home, settings=TEST_SETTINGS)

    async def story() -> None:
        own = emptied(server.start())
        proxy = Proxy(own)  # a server that starts again takes a new port
        async with proxy as url, kept(relay_of(url, cluster)):
            await append(own, 300)
            await until(lambda: _position(own) > 0)
            await asyncio.to_thread(server.stop)
            own = await asyncio.to_thread(server.start)
            proxy.aim(own)
            await append(own, 50)
            await until_relayed(own)

    asyncio.run(story())
    assert_whole(server.start(), cluster)


def _position(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT position FROM relay").fetchone()
    return 0 if row is None else int(row[0])
