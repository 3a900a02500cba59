"""Kafka at the command line: how far the relay is, publishing again, topics, lanes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest

from chainlytics.cli import main
from chainlytics.cli.console import console as terminal
from domain.catalogue import AREAS
from eventstore.kafka.cluster import Cluster, lane_of
from projections.catalogue import TABLES
from projections.projector import Projector
from tests.appending import emptied as without_read_models
from tests.relaying import (
    LANES,
    append,
    assert_once,
    assert_whole,
    checkpoint,
    emptied,
    found_in,
    logged,
    process,
    relay_of,
    until_relayed,
)

Say = Callable[..., str]


@pytest.fixture
def log(database: str) -> str:
    """A database whose log is empty and that has no read models."""
    return emptied(without_read_models(database))


@pytest.fixture
def say(
    log: str,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Say:
    """Runs the command line and gives what it said, on both channels."""
    monkeypatch.setenv("DATABASE_URL", log)
    monkeypatch.setenv("CHAINLYTICS_HOME", str(tmp_path))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", ",".join(cluster.brokers))
    monkeypatch.setenv("CHAINLYTICS_KAFKA_PREFIX", cluster.prefix)
    monkeypatch.setenv("CHAINLYTICS_KAFKA_LANES", str(LANES))
    monkeypatch.setattr(terminal, "width", 200)

    def run(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["chainlytics", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, (out, err)
        return out if "--json" in words else " ".join((out + err).split())

    return run


def told(say: Say, *words: str) -> Any:
    return json.loads(say("kafka", *words, "--json"))


def fold(url: str) -> None:
    """Bring the read models to the log's head."""
    asyncio.run(_fold(url))


async def _fold(url: str) -> None:
    projector = Projector(url, list(TABLES.values()))
    await projector.prepare()
    await projector.catch_up()


def level(url: str) -> None:
    """Every consumer has come to the log's head."""
    fold(url)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE projections SET position = (SELECT position FROM log_head)")


def test_status_says_how_far_the_relay_and_those_behind_it_are(
    say: Say, log: str, cluster: Cluster
) -> None:
    assert "no relay has run on this log" in say("kafka", "status")
    asyncio.run(append(log, 20))
    asyncio.run(relay_of(log, cluster).catch_up())
    asyncio.run(append(log, 5))
    found = told(say, "status")
    assert (found["relay"]["position"], found["relay"]["head"]) == (20, 25)
    assert (found["relay"]["behind"], found["relay"]["epoch"]) == (5, str(checkpoint(log)[0]))
    assert [one["position"] for one in found["relay"]["lanes"]] == checkpoint(log)[3]
    [orders] = [one for one in found["consumers"] if one["name"] == "order_summary"]
    assert [lane["behind"] for lane in orders["lanes"]] == checkpoint(log)[3]
    shown = say("kafka", "status")
    assert "20 of 25" in shown
    assert "5 events" in shown
    assert "order_summary" in shown


def test_restart_publishes_everything_again(
    say: Say, log: str, cluster: Cluster, tmp_path: Path
) -> None:
    assert "nothing to publish again" in say("kafka", "restart", "--yes", code=1)
    asyncio.run(append(log, 20))
    with process(log, cluster, tmp_path):
        asyncio.run(until_relayed(log))
        before = checkpoint(log)[0]
        epoch = told(say, "restart", "--yes")["epoch"]
        assert epoch != str(before)
        asyncio.run(until_relayed(log))
    assert str(checkpoint(log)[0]) == epoch
    assert_once(assert_whole(log, cluster))
    assert len(found_in(cluster)) == 40


def test_restart_asks_first(
    say: Say, log: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(append(log, 3))
    asyncio.run(relay_of(log, cluster).catch_up())
    before = checkpoint(log)
    monkeypatch.setattr(sys, "stdin", StringIO("n\n"))
    assert "The whole log is published again" in say("kafka", "restart", code=1)
    assert checkpoint(log) == before


def test_topics_are_listed_and_created(say: Say, log: str, cluster: Cluster) -> None:
    names = [cluster.topic(area) for area in (*AREAS, "other")]
    assert told(say, "topics") == {"topics": [], "missing": sorted(names)}
    made = told(say, "topics", "--create")
    assert [one["name"] for one in made["topics"]] == names
    assert {one["partitions"] for one in made["topics"]} == {LANES}
    asyncio.run(append(log, 50))
    asyncio.run(relay_of(log, cluster).catch_up())
    sizes = {one["name"]: one["bytes"] for one in told(say, "topics")["topics"]}
    assert sizes[cluster.topic("orders")] > 0
    assert sizes[cluster.topic("models")] == 0
    assert cluster.topic("orders") in say("kafka", "topics")


def test_more_lanes_go_on_where_the_old_ones_ended(say: Say, log: str, cluster: Cluster) -> None:
    asyncio.run(append(log, 40))
    asyncio.run(relay_of(log, cluster).catch_up())
    former = checkpoint(log)[0]
    level(log)
    assert told(say, "lanes", "5") == {"before": LANES, "lanes": 5}
    epoch = checkpoint(log)[0]
    assert epoch != former  # what stands in the old lanes is not taken for what is in new ones
    assert checkpoint(log) == (epoch, 40, logged(log)[-1].event_id, [40] * 5)
    assert "5 lanes already" in say("kafka", "lanes", "5")
    assert {one["partitions"] for one in told(say, "topics")["topics"]} == {5}
    asyncio.run(append(log, 40))
    asyncio.run(relay_of(log, cluster).catch_up())
    new = [one for one in found_in(cluster, 5) if one.event.position > 40]
    assert checkpoint(log)[:2] == (epoch, 80)
    assert sorted(one.event.position for one in new) == list(range(41, 81))
    for lane in range(5):
        chain = sorted(one.carried[:2][1] for one in new if one.lane == lane)
        assert chain[0] == 40  # who was level has all up to there
    assert all(one.lane == lane_of(one.event.organisation_id, 5) for one in new)


def test_lanes_stay_where_they_cannot_be_changed(
    say: Say, log: str, cluster: Cluster, tmp_path: Path
) -> None:
    assert "no relay has run" in say("kafka", "lanes", "5", code=1)

    asyncio.run(append(log, 20))
    with process(log, cluster, tmp_path):
        asyncio.run(until_relayed(log))
        assert "a relay is running" in say("kafka", "lanes", "5", code=1)
    assert "there cannot be fewer" in say("kafka", "lanes", "2", code=1)
    assert "is not level: it is at 0, and the relay at 20" in say("kafka", "lanes", "5", code=1)
    level(log)
    with psycopg.connect(log) as connection:
        connection.execute(
            """INSERT INTO projection_lanes (name, suffix, lane, lanes, position)
            VALUES ('order_summary', '', 1, 3, 21)"""
        )
    refused = say("kafka", "lanes", "5", code=1)
    assert "order_summary is not level: it has come to 21 in some lane and to 20" in refused
    assert {one["partitions"] for one in told(say, "topics")["topics"]} == {LANES}


def test_without_brokers_it_says_what_to_set(
    say: Say, monkeypatch: pytest.MonkeyPatch, cluster: Cluster
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS")
    for words in (["relay"], ["kafka", "topics"], ["kafka", "lanes", "4"]):
        assert "set KAFKA_BOOTSTRAP_SERVERS" in say(*words, code=1)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    assert "brokers do not answer" in say("kafka", "topics", code=1)
