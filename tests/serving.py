"""Real servers for tests: `chainlytics serve` as a process, or the same parts in this one."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any, TypeVar
from uuid import UUID

import httpx
from fastapi import FastAPI

from api.tokens import Issuer
from chainlytics.cli.server import _Server, _workers_in_thread, build_api, server_config
from chainlytics.settings import Settings
from domain.access import Role
from eventstore import prepare_database
from tests.patience import PATIENCE_S
from tests.world import ORGANISATION

SECRET = "known to the tests only, and long enough"
API = "/api/v1"
#: Servers of tests speak plain HTTP; httpx would read the machine's certificates for each client.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """A server that answers, and tokens for it."""

    url: str

    def client(
        self,
        *roles: Role,
        organisation_id: UUID = ORGANISATION,
        actor: str = "tester",
    ) -> httpx.Client:
        """Somebody with these roles (an admin, where none is named)."""
        token = bearer(*roles, organisation_id=organisation_id, actor=actor)
        return httpx.Client(
            verify=NO_TLS,
            base_url=self.url + API,
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )

    def nobody(self) -> httpx.Client:
        """Somebody without a token."""
        return httpx.Client(verify=NO_TLS, base_url=self.url, timeout=60)


def bearer(*roles: Role, organisation_id: UUID = ORGANISATION, actor: str = "tester") -> str:
    """A good token."""
    return Issuer(SECRET).issue(
        subject=actor,
        organisation_id=organisation_id,
        roles=frozenset(roles or {Role.ADMIN}),
        ttl=timedelta(hours=1),
    )


def until(ask: Callable[[], T | None], seconds: float = PATIENCE_S) -> T:
    """The first answer that is not None."""
    deadline = monotonic() + seconds
    while monotonic() < deadline:
        found = ask()
        if found is not None:
            return found
        sleep(0.05)
    raise AssertionError("it did not come about")


@contextmanager
def serving_process(database: str, home: Path) -> Iterator[tuple[Served, subprocess.Popen[bytes]]]:
    """`chainlytics serve`, stopped as by Ctrl-C."""
    port = free_port()
    log = home / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "chainlytics", "serve", "--port", str(port)],
            env=os.environ
            | {
                "DATABASE_URL": database,
                "CHAINLYTICS_HOME": str(home),
                "CHAINLYTICS_TOKEN_SECRET": SECRET,
                "CHAINLYTICS_SEAL_KEY": b64encode(SECRET[:32].encode()).decode(),
                "CHAINLYTICS_SEAL_EVERY_S": "1",
            },
            cwd=home,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        served = Served(f"http://127.0.0.1:{port}")
        wait_until_healthy(served, lambda: process.poll() is None, log)
        yield served, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextmanager
def serving_here(database: str, home: Path, **more: Any) -> Iterator[tuple[Served, FastAPI]]:
    """The same in threads of this process, so that a test can break a part of it."""
    prepare_database(database)
    settings = Settings(home=home, token_secret=SECRET, seal_every_s=0.5, **more)
    app = build_api(settings, database)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = server_config(app, log_level="critical")
        server = _Server(config, app)
        thread = Thread(target=server.run, args=([listener],), name="server")
        with _workers_in_thread(database, settings):
            thread.start()
            try:
                served = Served(f"http://127.0.0.1:{listener.getsockname()[1]}")
                wait_until_healthy(served, thread.is_alive)
                yield served, app
            finally:
                server.should_exit = True
                thread.join(timeout=30)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_healthy(served: Served, alive: Callable[[], bool], log: Path | None = None) -> None:
    """Return when the server answers and its read models stand."""
    with served.nobody() as client:

        def healthy() -> bool | None:
            assert alive(), log.read_text() if log is not None else "the server ended early"
            try:
                answer = client.get(f"{API}/health")
            except httpx.TransportError:
                return None
            return True if answer.status_code == 200 else None

        until(healthy)


def order(order_id: str, **more: Any) -> dict[str, Any]:
    """An order of one line, promised far ahead."""
    return {
        "order_id": order_id,
        "customer_id": "C-1",
        "currency": "EUR",
        "region": "DE-BE",
        "promised_at": "2099-01-01T00:00:00Z",
        "lines": [{"line_no": 1, "sku": "SKU-1", "quantity": "2", "unit_price_minor": 1999}],
    } | more


def accepted(answer: httpx.Response) -> dict[str, Any]:
    """What a command was answered; it must have been taken."""
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


def found(answer: httpx.Response) -> Any:
    """What a query was answered."""
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(client: httpx.Client, path: str, body: Any, key: str | None = None) -> dict[str, Any]:
    """Send a command that must be taken."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return accepted(client.post(path, json=body, headers=headers))


def get(client: httpx.Client, path: str, **query: Any) -> Any:
    """Ask a query that must be answered; again where read models are behind, as a client would: a
    machine that runs many tests is slow now and then."""
    deadline = monotonic() + PATIENCE_S
    while True:
        answer = client.get(path, params=query)
        if answer.status_code != 503 or "read-model-behind" not in answer.text:
            return found(answer)
        assert monotonic() < deadline, answer.text


def operations(schema: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every operation of the OpenAPI document."""
    return [
        (method.upper(), path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]


def send(client: httpx.Client, method: str, url: str, **more: Any) -> httpx.Response:
    """As ``client.request``, but without waiting for the end of a live stream."""
    with client.stream(method, url, **more) as answer:
        if "text/event-stream" not in answer.headers.get("content-type", ""):
            answer.read()
        return answer


def everything(client: httpx.Client, path: str, **query: Any) -> list[dict[str, Any]]:
    """All rows of a list, page by page."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    for _ in range(1000):
        page = get(client, path, **query | ({} if cursor is None else {"cursor": cursor}))
        assert len(page["items"]) <= query["limit"]
        rows += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return rows
        assert len(page["items"]) == query["limit"], "only the last page may be short"
    raise AssertionError("the pages never end")


def decided(client: httpx.Client, decision_id: str) -> dict[str, Any]:
    """The decision, as soon as it was answered."""

    def ask() -> dict[str, Any] | None:
        answer = client.get(f"/decisions/{decision_id}")
        if answer.status_code == 404:
            return None
        body: dict[str, Any] = found(answer)
        return body if body["explained"] or body["failed"] else None

    return until(ask)


def assert_problem(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The one shape of errors, with this status and this type."""
    assert answer.status_code == status, (answer.status_code, answer.text[:500])
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "correlation_id"} <= body.keys(), body
    assert body["status"] == status
    assert body["title"]
    assert body["type"].startswith("urn:chainlytics:problem:")
    assert body["correlation_id"] == answer.headers["x-correlation-id"]
    if code is not None:
        assert body["type"] == f"urn:chainlytics:problem:{code}"
    return body
