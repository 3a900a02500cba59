"""WebSockets that are not opened: which answer they get, how they are counted, what is logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.following import live_server
from tests.serving import API, Served, bearer, found

PATH = f"{API}/stream/socket"
BURST = 5
LIMITS: dict[str, Any] = {"rate_failures": 0.01, "rate_failures_burst": BURST}


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with live_server(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@contextmanager
def logged() -> Iterator[list[logging.LogRecord]]:
    """What the server itself logs meanwhile, if it is a warning or worse."""
    records: list[logging.LogRecord] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, logger = Kept(logging.WARNING), logging.getLogger("uvicorn.error")
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


def refused(served: Served, path: str = PATH, **more: Any) -> tuple[int, dict[str, Any]]:
    """Status and problem that a handshake is answered with."""
    with pytest.raises(InvalidStatus) as answer, connect(url(served, path), **more):
        pass
    response = answer.value.response
    assert response.body is not None
    assert response.headers["content-type"] == "application/problem+json", response.body
    body: dict[str, Any] = json.loads(response.body)
    assert body["status"] == response.status_code
    assert body["correlation_id"] == response.headers["x-correlation-id"]
    assert str(UUID(body["correlation_id"])) == body["correlation_id"]
    if body["status"] in (429, 503):
        assert int(response.headers["retry-after"]) >= 1
    return response.status_code, body


def url(served: Served, path: str = PATH) -> str:
    return f"ws{served.url.removeprefix('http')}{path}"


def shown(token: str) -> dict[str, Any]:
    """As a program shows it."""
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


def offered(token: str) -> dict[str, Any]:
    """As a page shows it."""
    return {"subprotocols": [Subprotocol("chainlytics"), Subprotocol(f"bearer.{token}")]}


def followed(served: Served, **more: Any) -> None:
    with connect(url(served), **more) as connection:
        assert json.loads(connection.recv(timeout=30))["type"] == "following"


def exhaust(connection: ClientConnection) -> None:
    while True:
        connection.recv(timeout=30)


def closed(served: Served, first: str | None = None, **more: Any) -> int:
    """The code that it is closed with, after it was opened."""
    with connect(url(served), **more) as connection:
        if first is not None:
            connection.send(json.dumps({"type": "authenticate", "token": first}))
        with pytest.raises(ConnectionClosed) as end:
            exhaust(connection)
    assert end.value.rcvd is not None
    return end.value.rcvd.code


def test_guessed_tokens_are_let_down_to_a_trickle_and_good_ones_are_not(
    database: str, tmp_path: Path
) -> None:
    with live_server(database, tmp_path, **LIMITS) as (served, _):
        good, page = bearer(organisation_id=uuid4()), bearer(organisation_id=uuid4())
        followed(served, **shown(good))
        followed(served, **offered(page))
        statuses = [refused(served, **shown(f"guess-{n}"))[0] for n in range(BURST)]
        assert statuses == [401] * BURST
        status, body = refused(served, **shown("guess-6"))
        assert (status, body["type"]) == (429, "urn:chainlytics:problem:too-many-requests")
        assert "failures" in body["detail"]
        # However they are shown, and over HTTP as well.
        assert refused(served, **offered("guess-7"))[0] == 429
        assert refused(served)[0] == 429
        with served.nobody() as nobody:
            headers = {"Authorization": "Bearer guess-8"}
            assert nobody.get(f"{API}/orders", headers=headers).status_code == 429
            # Whoever was good goes on, over HTTP too, with the token that a page has shown.
            followed(served, **shown(good))
            followed(served, **offered(page))
            for token in (good, page):
                headers = {"Authorization": f"Bearer {token}"}
                found(nobody.get(f"{API}/orders", headers=headers))


@pytest.mark.parametrize("way", ["as a page", "as the first message"])
def test_a_token_that_is_refused_after_the_handshake_counts_too(
    database: str, tmp_path: Path, way: str
) -> None:
    with live_server(database, tmp_path, **LIMITS) as (served, _):
        for number in range(BURST):
            if way == "as a page":
                assert closed(served, **offered(f"guess-{number}")) == 4401
            else:
                assert closed(served, first=f"guess-{number}") == 4401
        status, body = refused(served, **offered("one-more"))
        assert status == 429
        assert "failures" in body["detail"]


def test_an_identity_that_connects_too_often_is_told_when_to_come_again(
    database: str, tmp_path: Path
) -> None:
    limits = {"rate_identity": 0.01, "rate_identity_burst": 3}
    with live_server(database, tmp_path, **limits) as (served, _):
        token = bearer(organisation_id=uuid4())
        for _ in range(4):  # the first by its address: nobody knew it yet
            followed(served, **shown(token))
        status, body = refused(served, **shown(token))
        assert status == 429
        assert "identity" in body["detail"]


def test_a_correlation_id_that_is_named_comes_back(database: str, tmp_path: Path) -> None:
    named = str(uuid4())
    headers = {"X-Correlation-ID": named}
    with live_server(database, tmp_path, rate_address=0.01, rate_address_burst=1) as (served, _):
        assert refused(served, "/nowhere", additional_headers=headers)[1]["correlation_id"] == named
        status, body = refused(served, additional_headers=headers)
        assert (status, body["correlation_id"]) == (429, named)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/nowhere", "/assets/favicon.png", "/assets/../x", "/docs", "/openapi.json"),
        *(f"{API}/nowhere", f"{API}/orders", f"{API}/health", f"{API}/stream", f"{PATH}/"),
    ],
)
def test_where_no_socket_is_there_is_nothing(served: Served, path: str) -> None:
    with logged() as records:
        status, body = refused(served, path, **shown(bearer()))
    assert (status, body["type"]) == (404, "urn:chainlytics:problem:not-found")
    assert records == []


def test_who_is_refused_writes_no_errors_to_the_log(served: Served) -> None:
    with logged() as records:
        assert refused(served, **shown("guess"))[0] == 401
        assert refused(served, f"{PATH}?area=x", **shown(bearer()))[0] == 422
        assert refused(served, origin="https://evil.example", **shown(bearer()))[0] == 403
        assert closed(served, **offered("guess")) == 4401
    assert [record.getMessage() for record in records] == []
