"""The short way to commands: it finds what the usual way finds, and answers what that answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Match

from api.app import create_app
from api.quick import CommandRoute, Commands
from api.routers import PREFIX
from tests.serving import NO_TLS, Served, bearer, order, serving_here


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


def _app() -> FastAPI:
    return create_app(lambda: None, version="0")  # type: ignore[arg-type, return-value]


def test_every_command_is_found_and_nothing_else() -> None:
    """Each path that has a POST, with a word in the place of each field."""
    app = _app()
    quick = app.router.routes[0]
    assert isinstance(quick, Commands)
    commands, others = 0, 0
    for route in iter_route_contexts(app.routes):
        if not isinstance(route.original_route, APIRoute):
            continue
        path = re.sub(r"\{\w+\}", "x", str(route.path))
        match, child = quick.matches(
            {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
        )
        if "POST" in (route.methods or ()) and isinstance(route.original_route, CommandRoute):
            commands += 1
            assert match is Match.FULL, path
            assert child["endpoint"] is route.endpoint, path
        elif "POST" in (route.methods or ()):
            others += 1
            assert match is Match.NONE, path
        for more in ({"method": "GET"}, {"query_string": b"a=1"}, {"type": "websocket"}):
            asked = {"type": "http", "method": "POST", "path": path, "query_string": b""} | more
            assert quick.matches(asked)[0] is Match.NONE
    assert commands > 25
    assert others > 10


#: Bodies that are right, nearly right and wrong, as bytes.
_VALUES: list[tuple[str, list[Any]]] = [
    ("order_id", ["O-1", "", "a b", 7, None, "é", "\u0000"]),
    ("currency", ["EUR", "eur", "XXX"]),
    ("promised_at", ["2030-01-01T00:00:00Z", "2030-01-01T00:00:00", 1893456000, "soon"]),
    ("customer_id", ["C-1", True, ["C-1"]]),
    ("region", ["DE-BE", None, ""]),
    ("no_such_field", [1]),
    ("lines", [[], None, [{}], "x", {}]),
    ("placed_at", ["2026-01-01T00:00:00+02:00", 0, ""]),
]
_FIELDS = st.sampled_from([(name, value) for name, values in _VALUES for value in values])
_RAW = st.sampled_from(
    [
        *(b"", b"null", b"[]", b"{", b'"x"', b"\xff", b"\xef\xbb\xbf{}", b'{"order_id": NaN}'),
        *(b'{"order_id": "\\ud800"}', b'{"a": 1e400}', b"{}\n\n", b'{"order_id": "O", }'),
    ]
)
_HEADERS = st.sampled_from(
    [
        {},
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "APPLICATION/JSON"},
        {"Content-Type": "text/plain"},
        {"Content-Type": ""},
        {"Idempotency-Key": "k"},
        {"Idempotency-Key": "\x7f"},
        {"Idempotency-Key": "k" * 201},
        {"If-Match": '"0"'},
        {"If-Match": "7"},
        {"X-Other": "1"},
        {"X-Organisation-Id": "mine"},
        {"X-Organisation-Id": str(uuid4())},
        {"Authorization": "bearer x"},
        {"Authorization": "Bearer"},
        {"Authorization": ""},
    ]
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(change=_FIELDS, raw=st.none() | _RAW, more=_HEADERS)
def test_it_answers_as_the_usual_way_does(
    served: Served, change: tuple[str, Any], raw: bytes | None, more: dict[str, str]
) -> None:
    """The same request to two organisations that are alike: once the short way, once with a
    charset, which sends it the usual way."""
    body = raw if raw is not None else json.dumps(order("O-1") | dict([change])).encode()
    answers = []
    for media in ("application/json", "application/json; charset=utf-8"):
        headers = {
            "Authorization": f"Bearer {bearer(organisation_id=uuid4())}",
            "Content-Type": media,
        }
        with httpx.Client(verify=NO_TLS, base_url=served.url + PREFIX, timeout=60) as client:
            answers.append(client.post("/orders", headers=headers | more, content=body))
    short, usual = answers
    assert short.status_code == usual.status_code
    assert _plain(short) == _plain(usual)


def _plain(answer: httpx.Response) -> Any:
    if "json" not in answer.headers.get("content-type", ""):
        return answer.text  # refused before it is read
    told = answer.json()
    return {name: told[name] for name in told if name not in ("correlation_id", "position")}
