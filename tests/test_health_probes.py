"""What the API tells probes: alive, ready, the database, models; on a real server and database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from eventstore.probe import Recent
from ml.catalogue import KINDS
from tests.outages import away
from tests.serving import API, Served, serving_here, until

PROBES = ("/health/live", "/health/ready", "/health/database", "/health/ml")


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("probed")) as (served, _):
        yield served


@pytest.fixture
def probe(served: Served) -> Iterator[httpx.Client]:
    with served.nobody() as client:
        yield client


@pytest.fixture
def sql(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def becomes(
    client: httpx.Client, path: str, status: int, well: Callable[[Any], bool] = lambda _: True
) -> Any:
    """The answer, as soon as it is the one; what was seen a moment ago is believed."""

    def ask() -> Any:
        answer = client.get(path)
        return answer.json() if answer.status_code == status and well(answer.json()) else None

    return until(ask)


def test_all_is_well(probe: httpx.Client) -> None:
    assert probe.get("/health/live").json() == {"status": "ok"}
    ready = becomes(probe, "/health/ready", 200)
    assert ready == {"status": "ok", "database": "ok", "log": "ok", "read_models": "ok"}
    database = becomes(probe, "/health/database", 200)
    assert database["status"] == "ok"
    assert database["latency_ms"] > 0
    models = becomes(probe, "/health/ml", 200, lambda told: told["consumer"]["status"] == "live")
    assert models["kinds"] == {name: {"status": "none", "faults": []} for name in KINDS}
    assert models["alerts"] == 0
    assert models["consumer"]["behind_s"] >= 0


def test_without_its_database_it_is_alive_and_not_ready(probe: httpx.Client, database: str) -> None:
    with away(database):
        ready = becomes(probe, "/health/ready", 503)
        assert ready["database"] == "away"
        assert becomes(probe, "/health/database", 503) == {"status": "away", "latency_ms": None}
        assert becomes(probe, "/health/ml", 503)["status"] == "unavailable"
        assert becomes(probe, f"{API}/health", 503)["database"] == "away"
        assert probe.get("/health/live").status_code == 200
    assert becomes(probe, "/health/ready", 200)["status"] == "ok"
    assert becomes(probe, "/health/database", 200)["status"] == "ok"


def test_a_standby_takes_no_commands(
    probe: httpx.Client, sql: psycopg.Connection, database: str
) -> None:
    name = urlsplit(database).path.removeprefix("/")
    sql.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = true')
    try:
        with away(database):  # what is connected keeps its settings
            becomes(probe, "/health/ready", 503)
        found = becomes(probe, "/health/ready", 503, lambda told: told["database"] != "away")
        assert found["database"] == "read-only"
        assert (
            becomes(probe, "/health/database", 503, lambda told: told["status"] != "away")["status"]
            == "read-only"
        )
    finally:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = false")
            connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        with away(database):
            becomes(probe, "/health/ready", 503, lambda told: told["database"] == "away")
    becomes(probe, "/health/ready", 200)


def test_a_champion_that_cannot_decide_is_named_by_its_kind(
    probe: httpx.Client, database: str
) -> None:
    """Its row says that it is deployed; what is stored is not what its hash says."""
    kind = KINDS["fulfilment"]
    with psycopg.connect(database, autocommit=True) as sql:

        def deploy(model_hash: str, schema_hash: str) -> None:
            for table, columns in (
                ("model_roles", {"role": "champion", "schema_hash": schema_hash}),
                ("model_list", {"role": "champion"}),
            ):
                values = {
                    "organisation_id": "00000000-0000-0000-0000-00000000beef",
                    "kind": kind.name,
                    "model_hash": model_hash,
                    "last_position": 1,
                } | columns
                names = ", ".join(values)
                places = ", ".join(["%s"] * len(values))
                sql.execute(
                    f"INSERT INTO read_models.{table} ({names}) VALUES ({places})",
                    list(values.values()),
                )

        def undeploy() -> None:
            for table in ("model_roles", "model_list"):
                sql.execute(f"DELETE FROM read_models.{table}")

        gone, bad = "a" * 64, "b" * 64
        try:
            deploy(gone, kind.schema_hash)
            found = becomes(probe, "/health/ml", 503)
            assert found["status"] == "degraded"
            assert found["kinds"]["fulfilment"] == {"status": "broken", "faults": ["missing"]}
            undeploy()
            sql.execute("INSERT INTO artifacts (hash, content) VALUES (%s, %s)", (bad, b"other"))
            deploy(bad, kind.schema_hash)
            found = becomes(
                probe,
                "/health/ml",
                503,
                lambda told: told["kinds"]["fulfilment"]["faults"] != ["missing"],
            )
            assert found["kinds"]["fulfilment"] == {"status": "broken", "faults": ["corrupt"]}
            undeploy()
            deploy(gone, "another")
            found = becomes(
                probe,
                "/health/ml",
                503,
                lambda told: told["kinds"]["fulfilment"]["faults"] != ["corrupt"],
            )
            assert found["kinds"]["fulfilment"]["faults"] == ["outdated"]
            assert gone not in str(found)
        finally:
            undeploy()
    becomes(probe, "/health/ml", 200)


def test_nobody_learns_anything_of_anybody(probe: httpx.Client, database: str) -> None:
    """No address, no user, no organisation, no position; whether it is well or not."""
    parts = urlsplit(database)
    secrets = [parts.password, parts.username, parts.hostname, str(parts.port), parts.path[1:]]
    told = [probe.get(path).text for path in PROBES]
    with away(database):
        becomes(probe, "/health/ready", 503)
        told += [becomes(probe, path, 503) and probe.get(path).text for path in PROBES[1:]]
    for secret in secrets:
        assert secret is not None
        assert secret not in "".join(told), secret
    for word in ("organisation", "position", "psycopg", "Traceback", "SELECT"):
        assert word not in "".join(told), word
    becomes(probe, "/health/ready", 200)


def test_probes_are_documented(probe: httpx.Client) -> None:
    paths = probe.get("/openapi.json").json()["paths"]
    for path in PROBES:
        operation = paths[path]["get"]
        assert operation["summary"]
        assert not operation.get("security")
        told = operation["responses"]["200"]["content"]["application/json"]
        assert told["example"]
        if path != "/health/live":
            ill = operation["responses"]["503"]["content"]["application/json"]
            assert ill["example"]["status"] != told["example"]["status"]
            assert ill["schema"]


def test_an_answer_is_believed_for_a_while() -> None:
    asked: list[None] = []

    async def ask() -> int:
        asked.append(None)
        await asyncio.sleep(0)
        return len(asked)

    async def many(recent: Recent[int]) -> list[int]:
        return await asyncio.gather(*(recent.get() for _ in range(50)))

    assert asyncio.run(many(Recent(ask, believed_s=60))) == [1] * 50
    assert asyncio.run(many(Recent(ask, believed_s=0))) == list(range(2, 52))
