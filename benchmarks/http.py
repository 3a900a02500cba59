"""HTTP: a POST of an order against a POST that does nothing, and GETs against their bare SELECTs.

One server process with the whole API on a durable Postgres, one client process, 64 connections that
are kept; sides interleaved. CHAINLYTICS_BENCH_SECONDS sets how long each side of a round runs (4).
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter, sleep
from typing import Any

import httpx
import numpy as np
import psycopg
import uvloop
from fastapi import Request, Response
from psycopg_pool import AsyncConnectionPool

from api.tokens import Issuer
from benchmarks.closed_loop import Load, load
from benchmarks.peers.peer import own_database
from chainlytics.application import application
from chainlytics.cli.server import build_api, serve_app
from chainlytics.memory import calm_collector
from chainlytics.settings import Settings, organisation_id
from chainlytics.telemetry import configure_logs
from domain.access import Role
from eventstore import prepare_database
from readmodels import orders

Say = Callable[[str], None]
Figures = dict[str, Any]

_TARGETS = {
    "post_vs_empty": "at least 0.5",
    "post_per_second": "report",
    "empty_per_second": "report",
    "post_ms_p50": "report",
    "post_ms_p99": "report",
    "get_vs_select": "report",
    "get_per_second": "report",
    "select_per_second": "report",
    "get_ms_p50": "report",
    "get_ms_p99": "report",
    "select_ms_p50": "report",
    "select_ms_p99": "report",
    "list_50_vs_select": "report",
    "list_50_per_second": "report",
    "list_50_ms_p50": "report",
    "list_50_ms_p99": "report",
    "list_50_select_ms_p50": "report",
    "list_50_select_ms_p99": "report",
}
_CONNECTIONS = 64
_ORGANISATION = organisation_id("bench")
_SECRET = "of a benchmark only, and long enough for it"
_NOTHING = "/api/v1/nothing"
_ORDERS = 2_000
_PATIENCE_S = 60.0
_LIST = f"{orders._LIST} ORDER BY placed_at DESC, order_id DESC LIMIT 51"


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    seconds: float = 4.0
    rounds: int = 5

    @classmethod
    def from_environment(cls) -> Sizes:
        """The sizes of the figures in docs/benchmarks.md, or those of the environment."""
        return cls(seconds=float(os.environ.get("CHAINLYTICS_BENCH_SECONDS", cls.seconds)))


def run(url: str, say: Say, sizes: Sizes | None = None) -> Figures:
    """All figures; rates are of requests a second."""
    sizes = sizes or Sizes.from_environment()
    figures: Figures = {"connections": _CONNECTIONS, "sizes": asdict(sizes)}
    with own_database(url, "http") as database, _serving(database) as port:
        figures |= _posting(port, sizes, say)
        uvloop.run(_folded(database))
        figures |= _getting(database, port, sizes, say)
    for name, target in _TARGETS.items():
        say(f"{name:24} {figures[name]:>10,}   {target}")
    return figures


# the server


@contextmanager
def _serving(database: str) -> Iterator[int]:
    """The API as `chainlytics api` runs it, in a process of its own, and one endpoint more."""
    prepare_database(database)
    with socket.socket() as listener, tempfile.TemporaryDirectory() as home:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(database, Path(home), listener), daemon=True
        )
        process.start()
        try:
            _wait(port)
            yield port
        finally:
            process.terminate()
            process.join(20)


def _serve(database: str, home: Path, listener: socket.socket) -> None:
    configure_logs("WARNING")
    calm_collector()
    # Counted as always, only never too many: it is one identity that asks.
    settings = Settings(
        home=home, token_secret=_SECRET, rate_identity=1e6, rate_identity_burst=10_000_000
    )
    app = build_api(settings, database)

    @app.post(_NOTHING)
    async def nothing(request: Request) -> Response:
        await request.body()
        return Response(b"{}", media_type="application/json")

    # Found first: what it is to look for a route is no part of doing nothing.
    app.router.routes.insert(0, app.router.routes.pop())
    serve_app(app, listener)


def _wait(port: int) -> None:
    deadline = monotonic() + _PATIENCE_S
    while monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/api/v1/health", timeout=5)
            return
        except httpx.TransportError:
            sleep(0.1)
    raise TimeoutError("the server did not begin to answer")


# requests


def _head(method: str, path: str, length: int | None = None) -> bytes:
    token = Issuer(_SECRET).issue(
        subject="bench",
        organisation_id=_ORGANISATION,
        roles=frozenset({Role.ADMIN}),
        ttl=timedelta(hours=2),
    )
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {token}",
        *(["Content-Type: application/json"] if length is not None else []),
    ]
    return "\r\n".join(lines).encode()


_numbers = count(1)


def _order() -> tuple[bytes, str]:
    """A body, always of one length, and the number of its order."""
    number = f"O-{next(_numbers):09}"
    order = {
        "order_id": number,
        "customer_id": "C-1",
        "currency": "EUR",
        "region": "DE-BE",
        "promised_at": "2030-01-01T00:00:00Z",
        "lines": [
            {
                "line_no": 1,
                "sku": "SKU-001",
                "quantity": "2",
                "unit_price_minor": 1999,
                "weight_g": 800,
            },
            {
                "line_no": 2,
                "sku": "SKU-002",
                "quantity": "1",
                "unit_price_minor": 999,
                "weight_g": 300,
            },
        ],
    }
    return json.dumps(order).encode(), number


def _poster(path: str) -> Callable[[], bytes]:
    head = _head("POST", path, 0)

    def make() -> bytes:
        body, number = _order()
        return b"%b\r\nIdempotency-Key: %b\r\nContent-Length: %d\r\n\r\n%b" % (
            *(head, number.encode(), len(body)),
            body,
        )

    return make


def _posting(port: int, sizes: Sizes, say: Say) -> Figures:
    """An order, and the same bytes to an endpoint that only reads them."""
    post, empty = _poster("/api/v1/orders"), _poster(_NOTHING)
    for make, status in ((post, 201), (empty, 200)):
        load(port, make, status, _CONNECTIONS, 1.0)
    posts, empties = list[Load](), list[Load]()
    for number in range(sizes.rounds):
        posts.append(load(port, post, 201, _CONNECTIONS, sizes.seconds))
        empties.append(load(port, empty, 200, _CONNECTIONS, sizes.seconds))
        say(
            f"{number + 1} of {sizes.rounds}: order {posts[-1].rate:,.0f}/s, "
            f"nothing {empties[-1].rate:,.0f}/s"
        )
    rate, nothing = median(one.rate for one in posts), median(one.rate for one in empties)
    p50, p99 = _percentiles(posts)
    return {
        "post_vs_empty": round(rate / nothing, 2),
        "post_per_second": round(rate),
        "empty_per_second": round(nothing),
        "post_ms_p50": p50,
        "post_ms_p99": p99,
    }


def _percentiles(loads: list[Load]) -> tuple[float, float]:
    """Milliseconds."""
    took = np.concatenate([one.took for one in loads]) * 1000
    return round(float(np.percentile(took, 50)), 2), round(float(np.percentile(took, 99)), 2)


# reading


async def _folded(database: str) -> None:
    async with application(database, pool_size=2) as app:
        await app.projector.catch_up()
        async with app.log.connection() as connection:
            await connection.execute("VACUUM ANALYZE read_models.order_summary")


def _getting(database: str, port: int, sizes: Sizes, say: Say) -> Figures:
    """One order and a list of fifty over HTTP, and their SELECTs through a pool like the API's."""
    with psycopg.connect(database) as connection:
        found = connection.execute(
            "SELECT order_id FROM read_models.order_summary ORDER BY order_id LIMIT %s", (_ORDERS,)
        ).fetchall()
    ids = [order_id for (order_id,) in found]
    turns = count()
    heads = [_head("GET", f"/api/v1/orders/{order_id}") + b"\r\n\r\n" for order_id in ids]
    fifty = _head("GET", "/api/v1/orders?limit=50") + b"\r\n\r\n"

    def one() -> bytes:
        return heads[next(turns) % len(heads)]

    sides: dict[str, list[Load]] = {name: [] for name in ("get", "select", "list", "list select")}
    load(port, one, 200, _CONNECTIONS, 1.0)
    for number in range(sizes.rounds):
        sides["get"].append(load(port, one, 200, _CONNECTIONS, sizes.seconds))
        sides["select"].append(uvloop.run(_selecting(database, ids, sizes.seconds)))
        sides["list"].append(load(port, lambda: fifty, 200, _CONNECTIONS, sizes.seconds))
        sides["list select"].append(uvloop.run(_selecting(database, None, sizes.seconds)))
        said = ", ".join(f"{name} {loads[-1].rate:,.0f}/s" for name, loads in sides.items())
        say(f"{number + 1} of {sizes.rounds}: {said}")
    rates = {name: median(one.rate for one in loads) for name, loads in sides.items()}
    took = {name: _percentiles(loads) for name, loads in sides.items()}
    return {
        "get_vs_select": round(rates["get"] / rates["select"], 2),
        "get_per_second": round(rates["get"]),
        "select_per_second": round(rates["select"]),
        "get_ms_p50": took["get"][0],
        "get_ms_p99": took["get"][1],
        "select_ms_p50": took["select"][0],
        "select_ms_p99": took["select"][1],
        "list_50_vs_select": round(rates["list"] / rates["list select"], 2),
        "list_50_per_second": round(rates["list"]),
        "list_50_ms_p50": took["list"][0],
        "list_50_ms_p99": took["list"][1],
        "list_50_select_ms_p50": took["list select"][0],
        "list_50_select_ms_p99": took["list select"][1],
    }


async def _selecting(database: str, ids: list[str] | None, seconds: float) -> Load:
    """The SELECT of an order, or of the newest fifty, by as many at once as there are connections
    over HTTP, through a pool of the size that the API has."""
    found = Load()
    parameters: dict[str, object] = dict.fromkeys(re.findall(r"%\((\w+)\)s", _LIST))
    parameters["organisation_id"] = _ORGANISATION
    query = _LIST if ids is None else orders._GET
    turns = count()
    size = Settings.model_fields["pool_size"].default
    async with AsyncConnectionPool(
        database, min_size=size, max_size=size, open=False, kwargs={"autocommit": True}
    ) as pool:
        begun = perf_counter()

        async def ask() -> None:
            while (since := perf_counter()) < begun + seconds:
                if ids is not None:
                    parameters["order_id"] = ids[next(turns) % len(ids)]
                async with pool.connection() as connection:
                    await (await connection.execute(query, parameters)).fetchall()
                found.requests += 1
                found.took.append(perf_counter() - since)

        await asyncio.gather(*(ask() for _ in range(_CONNECTIONS)))
        found.seconds = perf_counter() - begun
    return found
