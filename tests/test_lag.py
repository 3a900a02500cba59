"""How far the relay is behind the log, and read models behind what it put into each lane of Kafka:
over HTTP and as metrics.

Nobody relays or folds here: each test writes down how far they are, so that what is asked for is
known. Only the last test has a real relay.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from eventstore.kafka.cluster import Cluster, lane_of
from eventstore.kafka.relay import keep_relayed
from eventstore.kafka.relay_state import LEASE
from readmodels.positions import STALLED_AFTER_S
from tests.relaying import relay_of
from tests.serving import Served, accepted, found, order, until
from tests.test_projection_status import api_alone
from tests.world import ORGANISATION

NAME = "order_summary"
HEAD = 150
LANES = 3
EPOCH = uuid4()
EVENTS = "chainlytics_projection_lane_behind_events"
SECONDS = "chainlytics_projection_lane_behind_seconds"
LONG = 10 * STALLED_AFTER_S


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with api_alone(database, tmp_path_factory.mktemp("home")) as (served, _):
        with served.client() as client:
            for number in range(HEAD):
                accepted(client.post("/orders", json=order(f"O-{number}")))
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


@pytest.fixture
def sql(served: Served, database: str) -> Iterator[psycopg.Connection]:
    """A connection; read models are at the head, and no relay ever ran."""
    with psycopg.connect(database, autocommit=True) as connection:
        for table in ("relay", "relay_lanes", "projection_lanes"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("UPDATE events SET recorded_at = now()")
        fold(connection, HEAD)
        connection.execute("UPDATE projections SET updated_at = now()")
        yield connection


def fold(sql: psycopg.Connection, position: int, name: str | None = None) -> None:
    """Let read models, or the one of that name, have folded everything up to a position."""
    sql.execute(
        """UPDATE projections SET position = %(position)s,
            last_event_id = (SELECT event_id FROM events WHERE notification_id = %(position)s)
        WHERE %(name)s::text IS NULL OR name = %(name)s""",
        {"position": position, "name": name},
    )


def relayed(sql: psycopg.Connection, position: int, *lanes: int, ago: float = 0) -> None:
    """Let a relay have put all up to a position on Kafka, so long ago, and so much of it into each
    lane."""
    sql.execute(
        """INSERT INTO relay (epoch, lanes, position, event_id, updated_at)
        VALUES (%(epoch)s, %(lanes)s, %(position)s,
            (SELECT event_id FROM events WHERE notification_id = %(position)s), now() - %(ago)s)""",
        {
            "epoch": EPOCH,
            "lanes": len(lanes),
            "position": position,
            "ago": timedelta(seconds=ago),
        },
    )
    for lane, last in enumerate(lanes):
        sql.execute("INSERT INTO relay_lanes (lane, position) VALUES (%s, %s)", (lane, last))


def done(
    sql: psycopg.Connection, lane: int, position: int, lanes: int = LANES, suffix: str = ""
) -> None:
    """Let a read model have come to a position in one lane."""
    sql.execute(
        """INSERT INTO projection_lanes (name, suffix, lane, lanes, position)
        VALUES (%s, %s, %s, %s, %s)""",
        (NAME, suffix, lane, lanes, position),
    )


def recorded(sql: psycopg.Connection, position: int, ago: float) -> None:
    sql.execute(
        "UPDATE events SET recorded_at = clock_timestamp() - %s WHERE notification_id = %s",
        (timedelta(seconds=ago), position),
    )


def lanes(client: httpx.Client, name: str = NAME) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = found(client.get(f"/projections/{name}"))["lanes"]
    return items


def relay(client: httpx.Client) -> dict[str, Any]:
    state: dict[str, Any] = found(client.get("/relay"))
    return state


def samples(client: httpx.Client, served: Served) -> dict[tuple[str, ...], float]:
    """Every sample by the metric's name, projection and lane."""
    text = client.get(f"{served.url}/metrics").text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items(), reverse=True))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# Lanes of a read model


def test_without_a_relay_there_are_no_lanes(
    served: Served, client: httpx.Client, sql: psycopg.Connection
) -> None:
    assert lanes(client) == []
    assert not [key for key in samples(client, served) if "_lane_" in key[0]]


def test_a_lane_is_as_far_as_the_table_or_further(
    client: httpx.Client, sql: psycopg.Connection
) -> None:
    """What counts is the last event that was put into a lane, not the head: a quiet lane is not
    behind."""
    relayed(sql, HEAD, 90, HEAD, 140)
    fold(sql, 100, NAME)
    done(sql, 2, 130)
    done(sql, 1, 20)  # the table is further by now
    recorded(sql, 101, 500)
    recorded(sql, 131, 200)
    first, second, third = lanes(client)
    assert first == {"lane": 0, "position": 100, "behind": 0, "seconds_behind": 0}
    assert (second["lane"], second["position"], second["behind"]) == (1, 100, HEAD - 100)
    assert (third["lane"], third["position"], third["behind"]) == (2, 130, 10)
    assert 500 <= second["seconds_behind"] < 600
    assert 200 <= third["seconds_behind"] < 300
    assert {one["behind"] for one in lanes(client, "audit_trail")} == {0}


def test_lanes_of_a_table_beside_and_of_another_number_of_lanes_do_not_count(
    client: httpx.Client, sql: psycopg.Connection
) -> None:
    relayed(sql, HEAD, HEAD, HEAD, HEAD)
    fold(sql, 100, NAME)
    done(sql, 0, HEAD, suffix="__next")
    done(sql, 1, HEAD, lanes=LANES + 1)
    done(sql, 2, HEAD)
    assert [one["position"] for one in lanes(client)] == [100, 100, HEAD]


def test_of_another_log_all_lanes_are_still_to_be_folded(
    client: httpx.Client, sql: psycopg.Connection
) -> None:
    relayed(sql, HEAD, 10, 0, HEAD)
    done(sql, 0, 10)
    sql.execute("UPDATE projections SET last_event_id = %s WHERE name = %s", (uuid4(), NAME))
    assert [(one["position"], one["behind"]) for one in lanes(client)] == [
        (0, 10),
        (0, 0),
        (0, HEAD),
    ]


def test_a_lane_that_moves_keeps_the_read_model_from_standing_still(
    client: httpx.Client, sql: psycopg.Connection
) -> None:
    """The position of all lanes waits for the slowest one; while that one moves, nothing stalls."""
    relayed(sql, HEAD, HEAD, 10, HEAD)
    fold(sql, 20, NAME)
    recorded(sql, 21, LONG)
    sql.execute(
        "UPDATE projections SET updated_at = now() - %s WHERE name = %s",
        (timedelta(seconds=LONG), NAME),
    )
    done(sql, 0, 40)
    done(sql, 2, 140)

    def state() -> Any:
        return found(client.get(f"/projections/{NAME}"))["state"]

    assert state() == "catching_up"
    sql.execute(
        "UPDATE projection_lanes SET updated_at = now() - %s WHERE lane = 0",
        (timedelta(seconds=LONG),),
    )
    assert state() == "stalled", "lane 0 stands, however far and fast lane 2 goes"


def test_lanes_in_prometheus(served: Served, client: httpx.Client, sql: psycopg.Connection) -> None:
    relayed(sql, HEAD, 90, HEAD, 140)
    fold(sql, 100, NAME)
    recorded(sql, 101, 500)
    read = samples(client, served)
    assert [read[EVENTS, NAME, str(lane)] for lane in range(LANES)] == [0, 50, 40]
    assert read[SECONDS, NAME, "0"] == 0
    assert read[SECONDS, NAME, "1"] >= 500
    assert read[EVENTS, "audit_trail", "1"] == 0


def test_lanes_that_there_are_no_more_are_not_shown(
    client: httpx.Client, sql: psycopg.Connection
) -> None:
    relayed(sql, HEAD, HEAD, HEAD, 3)
    sql.execute("UPDATE relay SET lanes = 2")
    assert [one["lane"] for one in lanes(client)] == [0, 1]
    assert [one["lane"] for one in relay(client)["lanes"]] == [0, 1]


def test_of_very_many_lanes_prometheus_gets_the_worst(
    served: Served, client: httpx.Client, sql: psycopg.Connection
) -> None:
    relayed(sql, HEAD, *[0] * 97, HEAD, HEAD, 0)
    fold(sql, 100, NAME)
    assert len(lanes(client)) == 100
    shown = {key[2] for key in samples(client, served) if key[:2] == (SECONDS, NAME)}
    assert len(shown) == 64
    assert {"97", "98"} <= shown


# The relay


def test_a_relay_that_never_ran(
    served: Served, client: httpx.Client, sql: psycopg.Connection
) -> None:
    assert relay(client) == {
        "state": "never_ran",
        "epoch": None,
        "position": 0,
        "head": HEAD,
        "behind": HEAD,
        "seconds_behind": 0,
        "active": False,
        "updated_at": None,
        "lanes": [],
    }
    assert not [key for key in samples(client, served) if key[0].startswith("chainlytics_relay_")]


@pytest.fixture
def leased(database: str) -> Iterator[None]:
    """Somebody holds the relay's lease."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LEASE,))
        yield


def test_how_far_the_relay_is(
    served: Served, client: httpx.Client, sql: psycopg.Connection, leased: None
) -> None:
    relayed(sql, 30, 30, 0, 29)
    recorded(sql, 31, 500)
    state = relay(client)
    assert UUID(state["epoch"]) == EPOCH
    assert (state["position"], state["head"], state["behind"]) == (30, HEAD, HEAD - 30)
    assert 500 <= state["seconds_behind"] < 600
    assert (state["state"], state["active"]) == ("catching_up", True)
    assert state["lanes"] == [
        {"lane": lane, "position": last} for lane, last in enumerate((30, 0, 29))
    ]
    read = samples(client, served)
    assert read["chainlytics_relay_position",] == 30
    assert read["chainlytics_relay_behind_events",] == HEAD - 30
    assert read["chainlytics_relay_behind_seconds",] >= 500
    assert read["chainlytics_relay_up",] == 1


def test_a_relay_at_the_head_that_was_quiet_for_long_is_live(
    client: httpx.Client, sql: psycopg.Connection, leased: None
) -> None:
    relayed(sql, HEAD, HEAD, ago=LONG)
    state = relay(client)
    assert (state["state"], state["behind"], state["seconds_behind"]) == ("live", 0, 0)


def test_a_relay_that_does_not_move_although_there_is_work(
    served: Served, client: httpx.Client, sql: psycopg.Connection, leased: None
) -> None:
    relayed(sql, HEAD - 1, HEAD - 1, ago=LONG)
    recorded(sql, HEAD, LONG)
    state = relay(client)
    assert (state["state"], state["active"]) == ("stalled", True)
    assert samples(client, served)["chainlytics_relay_up",] == 0


def test_without_a_lease_nothing_is_relayed(
    served: Served, client: httpx.Client, sql: psycopg.Connection
) -> None:
    """Other locks are not the lease: of two keys, or of another number."""
    sql.execute("SELECT pg_advisory_lock(0, %s)", (LEASE - 2**32,))
    sql.execute("SELECT pg_advisory_lock(%s)", (LEASE + 1,))
    relayed(sql, HEAD, HEAD)
    state = relay(client)
    assert (state["state"], state["active"]) == ("stopped", False)
    assert samples(client, served)["chainlytics_relay_up",] == 0


def test_a_relay_of_a_log_that_is_no_longer_there(
    client: httpx.Client, sql: psycopg.Connection, leased: None
) -> None:
    relayed(sql, HEAD - 1, HEAD - 1)
    sql.execute("UPDATE relay SET event_id = %s", (uuid4(),))
    state = relay(client)
    assert (state["state"], state["behind"]) == ("diverged", HEAD)


def test_a_real_relay_and_what_it_left_behind(
    client: httpx.Client, sql: psycopg.Connection, database: str, cluster: Cluster
) -> None:
    """It is active as long as it runs. What it put into the one lane of all these orders is then
    to be folded, and nothing in the others."""
    fold(sql, 100, NAME)
    stop = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def work() -> None:
        task = asyncio.create_task(keep_relayed(relay_of(database, cluster)))
        await stop.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(work(),), name="relay")
    thread.start()
    try:
        state = until(lambda: now if (now := relay(client))["position"] == HEAD else None)
        assert (state["state"], state["behind"], state["active"]) == ("live", 0, True)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
    assert (
        until(lambda: now if not (now := relay(client))["active"] else None)["state"] == "stopped"
    )
    whose = lane_of(ORGANISATION, LANES)
    filled = {one["lane"]: one["position"] for one in relay(client)["lanes"]}
    assert filled == dict.fromkeys(range(LANES), 0) | {whose: HEAD}
    assert {one["lane"]: one["behind"] for one in lanes(client)} == (
        dict.fromkeys(range(LANES), 0) | {whose: HEAD - 100}
    )
