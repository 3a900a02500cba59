"""How far read models are: over HTTP, as a live stream, as metrics, and in health's words.

No projector runs here: each test writes down how far the read models are, so that what is asked for
is known.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.tokens import Issuer
from chainlytics.cli.server import _Server, build_api, server_config
from chainlytics.settings import Settings
from domain.access import Role
from eventstore import prepare_database
from projections import store
from projections.catalogue import TABLES
from readmodels import positions
from readmodels.positions import STALLED_AFTER_S
from tests.serving import (
    API,
    NO_TLS,
    SECRET,
    Served,
    accepted,
    assert_problem,
    bearer,
    found,
    order,
    until,
)
from tests.world import ORGANISATION

NAME = "order_summary"
OTHER = UUID("00000000-0000-0000-0000-0000000000bb")
#: Positions on the log; the last three are another organisation's.
HEAD = 160
MINE = HEAD - 3
#: Far enough in the past to be a standstill.
LONG_AGO = timedelta(seconds=10 * STALLED_AFTER_S)


@contextmanager
def api_alone(database: str, home: Path) -> Iterator[tuple[Served, _Server]]:
    """The API, without anybody who folds."""
    prepare_database(database)
    app = build_api(Settings(home=home, token_secret=SECRET), database)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = server_config(app, log_level="critical")
        server = _Server(config, app)
        thread = Thread(target=server.run, args=([listener],), name="server")
        thread.start()
        try:
            served = Served(f"http://127.0.0.1:{listener.getsockname()[1]}")
            until(lambda: server.started or not thread.is_alive() or None)
            yield served, server
        finally:
            server.should_exit = True
            thread.join(timeout=30)


@pytest.fixture(scope="module")
def running(
    database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, _Server]]:
    with api_alone(database, tmp_path_factory.mktemp("home")) as (served, server):
        with served.client() as mine, served.client(organisation_id=OTHER) as theirs:
            for number in range(MINE):
                accepted(mine.post("/orders", json=order(f"O-{number}")))
            for number in range(HEAD - MINE):
                accepted(theirs.post("/orders", json=order(f"O-{number}")))
        yield served, server


@pytest.fixture
def served(running: tuple[Served, _Server]) -> Served:
    return running[0]


@pytest.fixture
def client(running: tuple[Served, _Server]) -> Iterator[httpx.Client]:
    served, server = running

    def look_anew(request: httpx.Request) -> None:
        """Health is believed for a second; here it is asked more often than that."""
        if request.url.path.endswith("/health"):
            server._app.state.looks = None
            server._app.state.dependencies.positions._seen = None

    with served.client() as client:
        client.event_hooks["request"].append(look_anew)
        yield client


@pytest.fixture
def sql(served: Served, database: str) -> Iterator[psycopg.Connection]:
    """A connection; every read model is at the head, and nothing else is known of it."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DELETE FROM dead_letters")
        connection.execute("DELETE FROM projection_rebuilds")
        connection.execute("UPDATE events SET recorded_at = now()")
        connection.execute(
            """UPDATE projections SET position = %s, updated_at = now(), error = NULL, rate = NULL,
                held = false,
                last_event_id = (SELECT event_id FROM events WHERE notification_id = %s)""",
            (HEAD, HEAD),
        )
        yield connection


def stand(sql: psycopg.Connection, behind: int, name: str = NAME, **values: Any) -> None:
    """Write down that a read model is so many events behind, and more about it."""
    position = HEAD - behind
    sql.execute(
        """UPDATE projections SET position = %s,
            last_event_id = (SELECT event_id FROM events WHERE notification_id = %s)
        WHERE name = %s""",
        (position, position, name),
    )
    for column, value in values.items():
        sql.execute(f"UPDATE projections SET {column} = %s WHERE name = %s", (value, name))


def recorded(sql: psycopg.Connection, position: int, ago: timedelta) -> datetime:
    """Let an event have been recorded so long ago; when that was."""
    row = sql.execute(
        """UPDATE events SET recorded_at = clock_timestamp() - %s WHERE notification_id = %s
        RETURNING recorded_at""",
        (ago, position),
    ).fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def clock(sql: psycopg.Connection) -> datetime:
    row = sql.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def begin_rebuild(sql: psycopg.Connection, position: int, rate: float | None) -> None:
    sql.execute(
        """INSERT INTO projection_rebuilds (name, fingerprint, position, rate)
        VALUES (%s, '', %s, %s)""",
        (NAME, position, rate),
    )


def park(sql: psycopg.Connection, *positions: int, suffix: str = "", name: str = NAME) -> None:
    for position in positions:
        sql.execute(
            """INSERT INTO dead_letters (projection, suffix, position, event_id, keys, error)
            SELECT %s, %s, notification_id, event_id, ARRAY['a' || chr(31) || 'b'], 'no number'
            FROM events WHERE notification_id = %s""",
            (name, suffix, position),
        )


def one(client: httpx.Client, name: str = NAME) -> dict[str, Any]:
    state: dict[str, Any] = found(client.get(f"/projections/{name}"))
    return state


def gauges(client: httpx.Client, served: Served) -> dict[str, dict[str | None, float]]:
    """Every metric's samples by projection."""
    answer = client.get(f"{served.url}/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    read: dict[str, dict[str | None, float]] = {}
    for family in text_string_to_metric_families(answer.text):
        if any(sample.labels.keys() - {"projection"} for sample in family.samples):
            continue  # of other things: tests/test_metrics.py
        if family.type != "gauge":
            continue
        assert family.documentation
        samples = {sample.labels.get("projection"): sample.value for sample in family.samples}
        assert len(samples) == len(family.samples)
        read[family.name] = samples
    return read


# The list, and one of it


def test_a_read_model_at_the_head(client: httpx.Client, sql: psycopg.Connection) -> None:
    items = found(client.get("/projections"))["items"]
    assert [item["name"] for item in items] == sorted(TABLES)
    for item in items:
        assert item["state"] == "live"
        assert item["position"] == item["head"] == HEAD
        assert (item["behind"], item["seconds_behind"], item["eta_s"]) == (0, 0, 0)
        assert item["rate"] is item["error"] is item["rebuild"] is None
        assert item["dead_letters"] == 0
        assert item == one(client, item["name"])


@pytest.mark.parametrize("name", ["nothing", "order_summary__next", "ORDER_SUMMARY"])
@pytest.mark.parametrize("path", ["", "/dead-letters"])
def test_a_name_that_is_none(
    client: httpx.Client, sql: psycopg.Connection, name: str, path: str
) -> None:
    assert_problem(client.get(f"/projections/{name}{path}"), 404, "not-found")


@pytest.mark.parametrize("name", ["%00", "%ED%A0%80", "-", "x" * 65, f"{NAME}%0A"])
@pytest.mark.parametrize("path", ["", "/dead-letters"])
def test_what_is_no_name(client: httpx.Client, name: str, path: str) -> None:
    assert_problem(client.get(f"/projections/{name}{path}"), 422, "invalid")


def test_events_and_seconds_behind_and_when_it_is_there(
    client: httpx.Client, sql: psycopg.Connection
) -> None:
    """Its age has the first event that is not folded, not the last that is, nor any later one."""
    stand(sql, 120, rate=40.0)
    for position, seconds in ((HEAD - 120, 900), (HEAD - 118, 100)):
        recorded(sql, position, timedelta(seconds=seconds))
    first = recorded(sql, HEAD - 119, timedelta(seconds=500))
    before = clock(sql)
    state = one(client)
    after = clock(sql)
    assert (state["position"], state["head"], state["behind"]) == (HEAD - 120, HEAD, 120)
    waited = timedelta(seconds=state["seconds_behind"])
    tiny = timedelta(milliseconds=1)  # a float of seconds
    assert before - first - tiny <= waited <= after - first + tiny
    assert (state["rate"], state["eta_s"]) == (40, 3)
    assert state["state"] == "catching_up"
    assert one(client, "audit_trail")["seconds_behind"] == 0


def test_an_eta_is_not_made_up(client: httpx.Client, sql: psycopg.Connection) -> None:
    stand(sql, 120)
    assert one(client)["eta_s"] is None
    stand(sql, 120, rate=0.0)
    assert one(client)["eta_s"] is None
    stand(sql, 120, rate=40.0, error="no number")
    assert one(client)["eta_s"] is None, "it stands still"


def test_of_another_log_all_is_still_to_be_folded(
    client: httpx.Client, sql: psycopg.Connection
) -> None:
    first = recorded(sql, 1, timedelta(seconds=500))
    stand(sql, 0, last_event_id=uuid4(), rate=40.0)
    before = clock(sql)
    state = one(client)
    assert (state["state"], state["diverged"]) == ("diverged", True)
    assert (state["position"], state["behind"]) == (HEAD, HEAD)
    assert state["seconds_behind"] >= (before - first).total_seconds() - 0.001
    assert state["eta_s"] is None
    stand(sql, 0, position=HEAD + 50)
    assert one(client)["state"] == "diverged"
    assert one(client)["behind"] == HEAD


# What it is doing, and what health says of that

LATE = {"behind": 120, "updated_at": "long ago", "first": "long ago"}
WELL = "ok"


@dataclass(frozen=True)
class Case:
    """Columns of the read model's row, and what is to be said of it."""

    row: dict[str, Any]
    state: str
    health: str = WELL
    up: int = 1


CASES = {
    "a few events behind": Case({"behind": 3}, "live"),
    "a backlog": Case({"behind": 120}, "catching_up"),
    "an old backlog that shrinks": Case({"behind": 120, "first": "long ago"}, "catching_up"),
    "new work after a quiet night": Case({"behind": 120, "updated_at": "long ago"}, "catching_up"),
    "a quiet night": Case({"behind": 0, "updated_at": "long ago"}, "live"),
    "old work, and no move": Case(LATE, "stalled", "1 stalled", 0),
    "one old event, and no move": Case(LATE | {"behind": 1}, "stalled", "1 stalled", 0),
    "an error": Case({"behind": 3, "error": "no number"}, "stopped", "1 stopped", 0),
    "an error for long": Case(LATE | {"error": "no number"}, "stopped", "1 stopped", 0),
    "rolled back": Case({"behind": 120, "held": True}, "held", WELL, 0),
    "rolled back long ago": Case(LATE | {"held": True}, "held", WELL, 0),
    "another log": Case({"behind": 0, "last_event_id": uuid4()}, "diverged", "1 diverged", 0),
    "another log, held": Case(
        {"behind": 0, "last_event_id": uuid4(), "held": True}, "diverged", "1 diverged", 0
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_its_state_is_told_everywhere(
    served: Served, client: httpx.Client, sql: psycopg.Connection, case: Case
) -> None:
    row = dict(case.row)
    behind = row.pop("behind")
    if row.pop("first", None):
        recorded(sql, HEAD - behind + 1, LONG_AGO)
    if "updated_at" in row:
        row["updated_at"] = clock(sql) - LONG_AGO
    stand(sql, behind, **row)
    assert one(client)["state"] == case.state
    others = {item["name"]: item["state"] for item in found(client.get("/projections"))["items"]}
    assert others.pop(NAME) == case.state
    assert set(others.values()) == {"live"}
    health = client.get("/health")
    assert health.status_code == (200 if case.health == WELL else 503)
    assert health.json()["projections"] == case.health
    assert health.json()["status"] == ("ok" if case.health == WELL else "degraded")
    assert health.json()["database"] == "ok"
    up = gauges(client, served)["chainlytics_projection_up"]
    assert up.pop(NAME) == case.up
    assert set(up.values()) == {1}


def test_health_counts_what_is_wrong(client: httpx.Client, sql: psycopg.Connection) -> None:
    recorded(sql, HEAD, LONG_AGO)
    for name in ("audit_trail", "daily_kpis"):
        stand(sql, 1, name, updated_at=clock(sql) - LONG_AGO)
    stand(sql, 1, error="no number")
    stand(sql, 0, "stock_levels", last_event_id=uuid4())
    park(sql, 7)
    health = client.get("/health")
    assert health.status_code == 503
    assert health.json()["projections"] == "1 stopped, 2 stalled, 1 diverged, 1 dead letter"
    assert health.json()["behind"] == HEAD


def test_dead_letters_are_named_and_are_no_illness(
    served: Served, client: httpx.Client, sql: psycopg.Connection
) -> None:
    park(sql, 3, 5)
    park(sql, 3, name="audit_trail")
    for suffix in ("__next", "__old"):  # of tables that nobody reads
        park(sql, 8, suffix=suffix)
    health = client.get("/health")
    assert health.status_code == 200
    assert health.json()["status"] == "ok"
    assert health.json()["projections"] == "ok, 3 dead letters"
    state = one(client)
    assert (state["dead_letters"], state["state"]) == (2, "live")
    counted = gauges(client, served)["chainlytics_projection_dead_letters"]
    assert (counted[NAME], counted["audit_trail"], counted["daily_kpis"]) == (2, 1, 0)


# A rebuild beside it


@contextmanager
def at_a_rebuild(database: str) -> Iterator[None]:
    """Hold what a rebuild holds while it runs."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_advisory_lock(%s, hashtext(%s))", (store.REBUILDS, NAME), prepare=False
        )
        yield


def test_a_rebuild_shows_how_far_it_is(
    served: Served, client: httpx.Client, sql: psycopg.Connection, database: str
) -> None:
    begin_rebuild(sql, HEAD // 4, 60.0)
    with at_a_rebuild(database):
        state = one(client)
        assert state["state"] == "rebuilding"
        assert (state["behind"], state["eta_s"]) == (0, 0), "the live table goes on"
        assert state["rebuild"] == {
            "position": HEAD // 4,
            "progress": 0.25,
            "rate": 60,
            "eta_s": 2,
            "running": True,
        }
        measured = gauges(client, served)
        assert measured["chainlytics_projection_rebuild_ratio"] == {NAME: 0.25}
        assert measured["chainlytics_projection_up"][NAME] == 1
        assert client.get("/health").status_code == 200
        sql.execute("UPDATE projection_rebuilds SET position = 0, rate = NULL")
        begun = one(client)["rebuild"]
        assert (begun["progress"], begun["rate"], begun["eta_s"]) == (0, None, None)
        sql.execute("UPDATE projection_rebuilds SET position = %s", (HEAD + 7,))
        assert one(client)["rebuild"]["progress"] == 1, "of a longer log that is gone"
    assert one(client, "audit_trail")["rebuild"] is None


def test_a_rebuild_under_way_is_a_move_and_one_cut_off_is_none(
    client: httpx.Client, sql: psycopg.Connection, database: str
) -> None:
    """A changed declaration: the live table stands still until the new one is in its place."""
    recorded(sql, HEAD - 119, LONG_AGO)
    stand(sql, 120, updated_at=clock(sql) - LONG_AGO)
    begin_rebuild(sql, HEAD // 4, 60.0)
    with at_a_rebuild(database):
        assert one(client)["state"] == "rebuilding"
        assert client.get("/health").status_code == 200

    def cut_off() -> dict[str, Any] | None:  # the server notices soon that the rebuild has gone
        state = one(client)
        return None if state["rebuild"]["running"] else state

    state = until(cut_off)
    assert state["state"] == "stalled"
    assert state["rebuild"]["progress"] == 0.25
    assert state["rebuild"]["eta_s"] is None
    assert client.get("/health").status_code == 503


# What it costs


def test_how_far_they_are_is_asked_of_a_large_log_by_position(sql: psycopg.Connection) -> None:
    """Every look at the log is one by its index, however long the log."""
    with sql.transaction(force_rollback=True):
        sql.execute(
            """INSERT INTO events (originator_id, originator_version, topic, state, notification_id,
                event_id, organisation_id, recorded_at, correlation_id, actor)
            SELECT gen_random_uuid(), 1, 'test', '', %s + n, gen_random_uuid(),
                gen_random_uuid(), now(), gen_random_uuid(), 'ana'
            FROM generate_series(1, 20000) AS n""",
            (HEAD,),
        )
        begin_rebuild(sql, 1, None)
        park(sql, *range(1, 20))
        sql.execute("ANALYZE")
        parameters = {"name": None, "rebuilds": store.REBUILDS}
        query = f"EXPLAIN (FORMAT JSON) {positions._STATES}"
        row = sql.execute(query, parameters, prepare=False).fetchone()
    assert row is not None
    looks = [node for node in nodes(row[0][0]["Plan"]) if node.get("Relation Name") == "events"]
    assert looks
    for look in looks:
        assert look["Index Name"] == "events_position", look
        assert re.search("notification_id >?= ", look["Index Cond"]), look


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


# The live stream


def messages(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The lists that a stream sends, by name."""
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            assert fields["event"] == "projections"
            yield {item["name"]: item for item in json.loads(fields["data"])["items"]}
            fields = {}


def test_the_stream_sends_the_list_and_then_what_changed(
    client: httpx.Client, sql: psycopg.Connection
) -> None:
    expected = {item["name"]: item for item in found(client.get("/projections"))["items"]}
    with client.stream("GET", "/projections/stream") as answer:
        stream = messages(answer)
        # A look of half a second ago, of the test before, may be sent first.
        seen = next(state for state in stream if state == expected)
        for step in range(3):
            park(sql, step + 1)
            changed = next(stream)
            assert changed == seen | {NAME: seen[NAME] | {"dead_letters": step + 1}}
            seen = changed


def test_two_watchers_see_the_same(client: httpx.Client, sql: psycopg.Connection) -> None:
    with (
        client.stream("GET", "/projections/stream") as one_answer,
        client.stream("GET", "/projections/stream") as other_answer,
    ):
        streams = messages(one_answer), messages(other_answer)
        for stream in streams:
            next(stream)
        stand(sql, 0, error="no number")
        for stream in streams:
            shown = next(state for state in stream if state[NAME]["state"] == "stopped")
            assert shown[NAME]["error"] == "it cannot be folded further; the operator sees why"


def test_a_watcher_outlives_cut_connections(
    sql: psycopg.Connection, database: str, tmp_path: Path
) -> None:
    others = """SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()"""
    before = [pid for (pid,) in sql.execute(others)]
    with (
        api_alone(database, tmp_path) as (served, _),
        served.client() as client,
        client.stream("GET", "/projections/stream") as answer,
    ):
        stream = messages(answer)
        assert next(stream)[NAME]["dead_letters"] == 0
        for step in range(3):
            cut = sql.execute(
                f"SELECT pg_terminate_backend(pid) FROM ({others}) o WHERE pid <> ALL(%s)",
                (before,),
            )
            assert cut.rowcount > 0
            park(sql, step + 1)
            assert next(stream)[NAME]["dead_letters"] == step + 1


def test_a_server_stops_while_somebody_watches(
    sql: psycopg.Connection, database: str, tmp_path: Path
) -> None:
    with (
        api_alone(database, tmp_path) as (other, server),
        other.client() as client,
        client.stream("GET", "/projections/stream") as answer,
    ):
        stream = messages(answer)
        assert set(next(stream)) == set(TABLES)
        server.should_exit = True
        with pytest.raises(StopIteration):  # it ends as a stream ends: nothing is cut off
            next(stream)


# Metrics

#: What has samples only where a relay ran (tests/test_lag.py).
OF_LANES_AND_RELAY = (
    "chainlytics_projection_lane_behind_events",
    "chainlytics_projection_lane_behind_seconds",
    "chainlytics_relay_position",
    "chainlytics_relay_behind_events",
    "chainlytics_relay_behind_seconds",
    "chainlytics_relay_up",
)


def test_metrics_say_what_the_list_says(
    served: Served, client: httpx.Client, sql: psycopg.Connection
) -> None:
    recorded(sql, HEAD - 119, timedelta(seconds=500))
    stand(sql, 120, rate=40.0)
    begin_rebuild(sql, HEAD // 2, None)
    park(sql, 1)
    before = one(client)["seconds_behind"]
    measured = gauges(client, served)
    after = one(client)["seconds_behind"]
    waited = measured["chainlytics_projection_behind_seconds"]
    assert before <= waited[NAME] <= after
    others = {"chainlytics_log_head", *OF_LANES_AND_RELAY}
    assert {
        name: samples.get(NAME)
        for name, samples in measured.items()
        if name.startswith("chainlytics_projection_") or name in others
    } == {
        "chainlytics_projection_position": HEAD - 120,
        "chainlytics_projection_behind_events": 120,
        "chainlytics_projection_behind_seconds": waited[NAME],
        "chainlytics_projection_rate_events_per_second": 40,
        "chainlytics_projection_eta_seconds": 3,
        "chainlytics_projection_dead_letters": 1,
        "chainlytics_projection_up": 1,
        "chainlytics_projection_rebuild_ratio": 0.5,
        "chainlytics_log_head": None,
    } | dict.fromkeys(OF_LANES_AND_RELAY)
    assert not any(measured[name] for name in OF_LANES_AND_RELAY), "there is no relay here"
    assert measured["chainlytics_log_head"] == {None: HEAD}
    for name in ("position", "behind_events", "behind_seconds", "dead_letters", "up"):
        assert measured[f"chainlytics_projection_{name}"].keys() == TABLES.keys(), name
    # What is not known is left out.
    assert measured["chainlytics_projection_rate_events_per_second"].keys() == {NAME}
    stand(sql, 120, error="no number")
    assert NAME not in gauges(client, served)["chainlytics_projection_eta_seconds"]


# Dead letters


def test_dead_letters_in_pages(client: httpx.Client, sql: psycopg.Connection) -> None:
    park(sql, *range(9, 0, -2))
    park(sql, 2, name="audit_trail")
    park(sql, 4, suffix="__next")
    sql.execute("UPDATE dead_letters SET error = NULL, attempts = 0 WHERE position = 9")
    whole = found(client.get(f"/projections/{NAME}/dead-letters"))
    assert [letter["position"] for letter in whole["items"]] == [1, 3, 5, 7, 9]
    assert whole["next_cursor"] is None
    first = whole["items"][0]
    assert (first["projection"], first["error"], first["keys"]) == (NAME, "no number", ["a/b"])
    assert first["topic"].startswith("orders.")
    assert whole["items"][-1]["error"] is None
    for limit in (1, 2, 4, 5):
        read: list[Any] = []
        query: dict[str, str | int] = {"limit": limit}
        while True:
            page = found(client.get(f"/projections/{NAME}/dead-letters", params=query))
            assert 0 < len(page["items"]) <= limit
            read += page["items"]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        assert read == whole["items"], limit
    answer = client.get(f"/projections/{NAME}/dead-letters", params={"cursor": "x"})
    assert_problem(answer, 422, "bad-cursor")


def test_dead_letters_of_another_organisation_are_not_shown(
    served: Served, client: httpx.Client, sql: psycopg.Connection
) -> None:
    park(sql, 1, MINE, MINE + 1, HEAD)
    mine = found(client.get(f"/projections/{NAME}/dead-letters", params={"limit": 2}))
    assert [letter["position"] for letter in mine["items"]] == [1, MINE]
    assert mine["next_cursor"] is None, "it would tell that there are more"
    with served.client(organisation_id=OTHER) as other:
        theirs = found(other.get(f"/projections/{NAME}/dead-letters"))
    assert [letter["position"] for letter in theirs["items"]] == [MINE + 1, HEAD]
    with served.client(organisation_id=uuid4()) as stranger:
        assert found(stranger.get(f"/projections/{NAME}/dead-letters"))["items"] == []
    assert one(client)["dead_letters"] == 4


# Who may ask

PATHS = {
    f"{API}/projections": set(Role),
    f"{API}/projections/{NAME}": set(Role),
    f"{API}/projections/stream": set(Role),
    f"{API}/projections/{NAME}/dead-letters": {Role.ADMIN, Role.ANALYST, Role.AUDITOR},
    "/metrics": set(Role),
}


def status(served: Served, path: str, token: str | None) -> httpx.Response:
    """An answer, without waiting for the end of a live stream."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with (
        httpx.Client(verify=NO_TLS, base_url=served.url, headers=headers, timeout=30) as client,
        client.stream("GET", path) as answer,
    ):
        if answer.status_code != 200:
            answer.read()
        return answer


@pytest.mark.parametrize("path", PATHS)
def test_who_may_ask(served: Served, sql: psycopg.Connection, path: str) -> None:
    refused = assert_problem(status(served, path, None), 401, "unauthenticated")
    assert refused["detail"] == "a bearer token is needed"
    assert_problem(status(served, path, "x"), 401, "unauthenticated")
    nothing = Issuer(SECRET).issue(
        subject="ada", organisation_id=ORGANISATION, roles=frozenset(), ttl=timedelta(minutes=5)
    )
    assert_problem(status(served, path, nothing), 403, "forbidden")
    for role in Role:
        answer = status(served, path, bearer(role))
        if role in PATHS[path]:
            assert answer.status_code == 200, role
        else:
            assert_problem(answer, 403, "forbidden")
