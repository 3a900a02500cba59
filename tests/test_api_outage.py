"""The database goes away and comes back: a 503 that says so, soon, and never a 500."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from psycopg import sql

from domain.access import Role
from tests.serving import accepted, assert_problem, order, serving_here, until

_TERMINATE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = %s AND pid <> pg_backend_pid()"""


@pytest.fixture(scope="module")
def admin(server_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def name(database: str) -> str:
    return urlsplit(database).path.removeprefix("/")


@pytest.fixture(scope="module")
def client(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        serving_here(database, tmp_path_factory.mktemp("home")) as (served, _),
        served.client(*Role) as client,
    ):
        yield client


@contextmanager
def away(admin: psycopg.Connection, name: str) -> Iterator[None]:
    """Nobody is let into the database, and who was in is put out."""
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    admin.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
    admin.execute(_TERMINATE, (name,))
    try:
        yield
    finally:
        admin.execute(allow.format(sql.Identifier(name), sql.SQL("true")))


def well(client: httpx.Client) -> bool | None:
    return True if client.get("/health").status_code == 200 else None


def test_cut_connections_are_never_a_500(
    client: httpx.Client, admin: psycopg.Connection, name: str
) -> None:
    """A pooled connection does not know that the server has ended it."""
    for path in ("/health", "/orders", "/projections", "/orders?min_position=1"):
        for _ in range(3):
            admin.execute(_TERMINATE, (name,))
            answer = client.get(path)
            assert answer.status_code in (200, 503), (path, answer.text)
            if answer.status_code == 503 and path != "/health":
                assert_problem(answer, 503)
                assert answer.headers["retry-after"] == "1"
                assert "administrator" not in answer.text, "Postgres' words stay in the log"
        until(lambda: well(client))


def test_health_says_soon_that_the_database_is_away(
    client: httpx.Client, admin: psycopg.Connection, name: str
) -> None:
    until(lambda: well(client))
    with away(admin, name):
        # What was seen a second ago is believed.
        until(lambda: None if well(client) else True, 5)
        for _ in range(3):
            start = monotonic()
            answer = client.get("/health")
            assert monotonic() - start < 5
            assert answer.status_code == 503
            assert answer.json()["database"] == "away"
    until(lambda: well(client))


def test_a_database_that_is_away_is_not_a_read_model_that_is_behind(
    client: httpx.Client, admin: psycopg.Connection, name: str
) -> None:
    position = accepted(client.post("/orders", json=order("O-1")))["position"]
    with away(admin, name):
        # First on a connection that was cut, then on none at all.
        for _ in range(2):
            answer = client.get("/orders", params={"min_position": position})
            assert_problem(answer, 503, "log-unavailable")
    # Connections that were cut are found out one by one: each answers 503, and is made anew.
    path = f"/orders/O-1?min_position={position}"
    until(lambda: True if client.get(path).status_code == 200 else None)
