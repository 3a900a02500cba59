"""How much may be asked, how bodies may come, and what browsers are told, over real HTTP."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from time import sleep
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import uvicorn
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from api.allowance import Limits, Rate
from api.bodies import MAX_DEPTH, is_too_deep
from api.limits import Buckets, address_of
from api.slots import Slots
from chainlytics.cli.server import build_api
from chainlytics.settings import Settings
from domain.access import Role
from eventstore import prepare_database
from tests.serving import API, SECRET, Served, accepted, assert_problem, found, order, until

SITE = "https://app.example.org"


@contextmanager
def api_alone(database: str, home: Path, **settings: Any) -> Iterator[tuple[Served, FastAPI]]:
    """The API with these settings, without read models or decisions behind it."""
    prepare_database(database)
    app = build_api(Settings(home=home, token_secret=SECRET, **settings), database)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", access_log=False, proxy_headers=False)
        )
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            until(lambda: True if server.started else None)
            yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}"), app
        finally:
            server.should_exit = True
            thread.join(timeout=30)


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    with api_alone(database, home, cors_origins=SITE, body_timeout_s=1) as (served, _):
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(Role.ADMIN, organisation_id=uuid4()) as client:
        yield client


def raw(served: Served, *pieces: bytes, pause_s: float = 0) -> bytes:
    """What a server says to these bytes, until it closes or is silent."""
    host, port = served.url.removeprefix("http://").split(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may have heard enough
            for piece in pieces:
                connection.sendall(piece)
                sleep(pause_s)
        connection.settimeout(5)
        try:
            while part := connection.recv(65_536):
                said += part
        except TimeoutError:
            pass
    return said


# Rates


@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.lists(st.integers(0, 300).map(lambda ms: ms / 1000), max_size=60),
)
def test_a_bucket_gives_its_burst_and_its_rate_and_no_more(
    per_second: int, burst: int, pauses: list[float]
) -> None:
    buckets = Buckets(Rate(per_second, burst))
    now, taken = 1000.0, 0
    for pause in pauses:
        now += pause
        wait = buckets.take("key", now)
        taken += wait == 0
        assert taken <= burst + per_second * (now - 1000) + 1e-6
        if wait:
            assert wait <= 1 / per_second + 1e-6
            assert buckets.take("key", now + wait + 1e-6) == 0  # what it says is enough
            taken += 1
            now += wait + 1e-6


def test_buckets_forget_what_is_full_and_stay_bounded() -> None:
    buckets = Buckets(Rate(1, 2), most=100)
    for number in range(10_000):
        assert buckets.take(f"key {number}", number / 1000) == 0
        assert len(buckets) <= 101
    assert Buckets(Rate(0, 1)).take("key", 0) == 0


def test_an_identity_that_asks_too_often_is_told_when_to_come_again(
    database: str, tmp_path: Path
) -> None:
    limits = {"rate_identity": 2, "rate_identity_burst": 5}
    with api_alone(database, tmp_path, **limits) as (served, _):
        mine = uuid4()
        with (
            served.client(organisation_id=mine) as client,
            served.client(organisation_id=mine) as again,  # another token of the same identity
            served.client(organisation_id=mine, actor="other") as other,
        ):
            assert found(again.get("/orders"))["items"] == []
            answers = [client.get("/orders") for _ in range(12)]
            good = [one for one in answers if one.status_code == 200]
            assert 5 <= len(good) <= 9
            refused = answers[-1]
            said = assert_problem(refused, 429, "too-many-requests")
            assert "identity" in said["detail"]
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["ratelimit"].startswith('"identity";r=0;t=')
            assert refused.headers["ratelimit-policy"] == '"identity";q=5;w=3'
            assert_problem(again.get("/orders"), 429, "too-many-requests")
            found(other.get("/orders"))
            sleep(1)
            found(client.get("/orders"))


def test_bad_tokens_are_let_down_to_a_trickle_and_good_ones_are_not(
    database: str, tmp_path: Path
) -> None:
    limits = {"rate_failures": 0.1, "rate_failures_burst": 5}
    with api_alone(database, tmp_path, **limits) as (served, app):
        with served.client(organisation_id=uuid4()) as good, served.nobody() as nobody:
            found(good.get("/orders"))
            answers = [
                nobody.get(f"{API}/orders", headers={"Authorization": f"Bearer {number}"})
                for number in range(8)
            ]
            assert [one.status_code for one in answers] == [401] * 5 + [429] * 3
            assert "failures" in assert_problem(answers[-1], 429)["detail"]
            found(good.get("/orders"))
            found(nobody.get(f"{API}/health"))  # who shows nothing has not failed
        assert app.state.dependencies is not None


def test_an_address_without_credentials_has_a_limit(database: str, tmp_path: Path) -> None:
    limits = {"rate_address": 0.1, "rate_address_burst": 4, "trusted_proxies": "127.0.0.0/8"}
    with api_alone(database, tmp_path, **limits) as (served, _), served.nobody() as nobody:

        def ask(*hops: str) -> int:
            headers = {"X-Forwarded-For": ", ".join(hops)} if hops else {}
            return nobody.get(f"{API}/schemas", headers=headers).status_code

        assert [ask("203.0.113.7") for _ in range(6)] == [200] * 4 + [429] * 2
        # What stands before the nearest address was written by whoever asked.
        assert ask("198.51.100.1", "203.0.113.7") == 429
        assert ask("203.0.113.8") == 200
        assert ask("203.0.113.7", "127.0.0.9") == 429


def test_a_proxy_is_believed_only_where_it_is_trusted(database: str, tmp_path: Path) -> None:
    limits = {"rate_address": 0.1, "rate_address_burst": 4}
    with api_alone(database, tmp_path, **limits) as (served, _), served.nobody() as nobody:
        statuses = [
            nobody.get(
                f"{API}/schemas", headers={"X-Forwarded-For": f"203.0.113.{number}"}
            ).status_code
            for number in range(6)
        ]
    assert statuses == [200] * 4 + [429] * 2


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", [b"1.1.1.1, 203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", [b"1.1.1.1", b"203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        ("10.0.0.1", [b"10.0.0.3"], "10.0.0.3"),
        ("10.0.0.1", [b"nonsense"], "unknown"),
        ("10.0.0.1", [b"\xff\xfe,,"], "unknown"),
        ("192.0.2.1", [b"203.0.113.7"], "192.0.2.1"),
        ("::ffff:192.0.2.1", [], "192.0.2.1"),
        ("2001:db8::1", [], "2001:db8::/64"),
        ("2001:db8::ffff:1", [], "2001:db8::/64"),
    ],
)
def test_whose_address_it_is(peer: str, forwarded: list[bytes], address: str) -> None:
    assert address_of({"client": (peer, 1)}, forwarded, [ip_network("10.0.0.0/8")]) == address


def test_requests_beyond_the_most_at_once_are_turned_away(database: str, tmp_path: Path) -> None:
    limits = {"concurrent_requests": 3, "concurrent_requests_per_caller": 1}
    with api_alone(database, tmp_path, **limits) as (served, app), ExitStack() as opened:
        callers = [
            opened.enter_context(served.client(actor=f"caller {number}")) for number in range(4)
        ]
        for caller in callers:
            found(caller.get("/orders"))
        with waiting(app, callers[:3]) as slow:
            refused = callers[3].get("/orders")
            assert_problem(refused, 503, "too-busy")
            assert refused.headers["retry-after"] == "1"
            assert callers[3].get("/health").status_code in (200, 503)
            assert "too-busy" not in callers[3].get("/health").text
        for one in slow:
            assert_problem(one.result(), 503, "read-model-behind")
        found(callers[3].get("/orders"))


@contextmanager
def waiting(app: FastAPI, callers: list[httpx.Client]) -> Iterator[list[Future[httpx.Response]]]:
    """A request of each is being answered: for a position that never comes it takes seconds."""
    with ThreadPoolExecutor(len(callers)) as pool:
        far = {"min_position": 2**62}
        slow = [pool.submit(caller.get, "/orders", params=far) for caller in callers]
        until(lambda: True if app.state.traffic.in_flight == len(callers) else None)
        yield slow


def test_one_identity_has_a_share_of_what_is_answered_at_once(
    database: str, tmp_path: Path
) -> None:
    with api_alone(database, tmp_path, concurrent_requests=60) as (served, app):
        mine = uuid4()
        with (
            served.client(organisation_id=mine) as client,
            served.client(organisation_id=mine, actor="other") as other,
        ):
            found(client.get("/orders"))
            found(other.get("/orders"))
            with waiting(app, [client] * 30) as slow:  # half of it, where there is little
                refused = client.get("/orders")
                told = assert_problem(refused, 429, "too-many-requests")
                assert "30 requests of yours" in told["detail"]
                assert int(refused.headers["retry-after"]) >= 1
                found(other.get("/orders"))
            assert {one.result().status_code for one in slow} == {503}
            found(client.get("/orders"))


def test_bodies_that_do_not_come_leave_room_for_others(database: str, tmp_path: Path) -> None:
    """A head and one byte cost a sender nothing: they take no place of those that are answered, and
    of those that are still to come they take an address' share."""
    limits = {"concurrent_requests": 60, "trusted_proxies": "127.0.0.0/8"}
    with api_alone(database, tmp_path, **limits) as (served, app), ExitStack() as opened:

        def begin(path: str, hop: str) -> socket.socket:
            host, port = served.url.removeprefix("http://").split(":")
            head = (
                f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {hop}\r\n"
                "Content-Length: 10\r\n\r\n1"
            )
            connection = opened.enter_context(socket.create_connection((host, int(port))))
            connection.settimeout(10)
            connection.sendall(head.encode())
            return connection

        begun = [begin("/nowhere", "203.0.113.7") for _ in range(30)]
        until(lambda: True if app.state.traffic.in_flight == 30 else None)
        refused = begin(f"{API}/orders", "203.0.113.7").recv(65_536)
        assert refused.startswith(b"HTTP/1.1 429 "), refused
        assert b"retry-after: 1" in refused.lower()
        with (
            served.client(organisation_id=uuid4()) as other,
            served.nobody() as neighbour,
        ):
            accepted(other.post("/orders", json=order("O-1")))
            # What has come whole is answered, from there too.
            same = {"X-Forwarded-For": "203.0.113.7"}
            found(neighbour.get(f"{API}/schemas", headers=same))
            # Of all addresses together: with half of them here there is no more room for bodies.
            begun += [begin("/nowhere", "203.0.113.8") for _ in range(30)]
            until(lambda: True if app.state.traffic.in_flight == 60 else None)
            assert_problem(other.post("/orders", json=order("O-2")), 503, "too-busy")
            found(other.get("/orders"))
            # Each that comes makes room again.
            begun[0].sendall(b"234567890")
            assert begun[0].recv(65_536).startswith(b"HTTP/1.1 404 ")
            accepted(other.post("/orders", json=order("O-2")))


@given(
    st.integers(1, 20),
    st.integers(1, 5),
    st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), max_size=80),
)
def test_slots_are_as_many_as_there_are_and_as_one_may_have(
    most: int, share: int, steps: list[tuple[bool, str]]
) -> None:
    slots = Slots(most, share)
    taken: list[str] = []
    for take, key in steps:
        if take:
            refusal = slots.take(key)
            over, full = taken.count(key) >= share, len(taken) >= most
            assert (refusal is None) == (not over and not full)
            if refusal is None:
                taken.append(key)
            else:
                assert refusal.status_code == (429 if over else 503)
        elif key in taken:
            slots.free(key)
            taken.remove(key)
        assert len(slots) == len(set(taken))
    assert Slots(0, 1).take("a") is None


@pytest.mark.parametrize(
    ("concurrent", "per_caller", "share"),
    [(1000, 0, 100), (100, 0, 32), (60, 0, 30), (3, 0, 2), (1, 0, 1), (1000, 7, 7)],
)
def test_ones_share_of_what_is_answered_at_once(
    concurrent: int, per_caller: int, share: int
) -> None:
    assert Limits(concurrent=concurrent, per_caller=per_caller).share == share


def test_a_query_that_takes_too_long_is_given_up(database: str, tmp_path: Path) -> None:
    with (
        api_alone(database, tmp_path, query_timeout_s=0.5) as (served, _),
        served.client(organisation_id=uuid4()) as client,
        psycopg.connect(database) as other,
    ):
        found(client.get("/orders"))
        other.execute("LOCK TABLE read_models.order_summary IN ACCESS EXCLUSIVE MODE")
        said = assert_problem(client.get("/orders"), 503, "query-too-slow")
        assert "ask for less" in said["detail"]
        found(client.get("/sites"))  # its connection is free again
        other.rollback()
        found(client.get("/orders"))


# Bodies


def test_a_body_that_does_not_come_is_not_waited_for(served: Served, client: httpx.Client) -> None:
    token = client.headers["authorization"]
    head = (
        f"POST {API}/orders HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    ).encode()
    said = raw(served, head, b'{"a":', b" ", b" ", b" ", pause_s=0.4)
    assert said.startswith(b"HTTP/1.1 408 "), said
    assert b"urn:chainlytics:problem:body-too-slow" in said
    assert b"connection: close" in said.lower()


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 20_000])
@pytest.mark.parametrize("pair", ["[]", '{"a":}'])
def test_json_that_is_too_deep_is_refused_before_it_is_parsed(
    client: httpx.Client, depth: int, pair: str
) -> None:
    opening, closing = (pair[0], "]") if pair == "[]" else ('{"a":', "}")
    body = opening * depth + "1" + closing * depth
    answer = client.post("/orders", content=body, headers={"Content-Type": "application/json"})
    if depth <= MAX_DEPTH:
        assert_problem(answer, 422, "invalid")
    else:
        assert str(MAX_DEPTH) in assert_problem(answer, 400, "json-too-deep")["detail"]


_JSON = st.recursive(
    st.none() | st.text(alphabet='[]{}"\\a\n', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"', max_size=2), inner),
    max_leaves=30,
)


@given(_JSON, st.integers(0, 60))
def test_the_depth_of_json_is_counted_as_a_parser_would(value: Any, more: int) -> None:
    def depth(one: Any) -> int:
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    for _ in range(more):
        value = [value]
    assert is_too_deep(json.dumps(value).encode()) == (depth(value) > MAX_DEPTH)


def test_counting_the_depth_takes_no_longer_for_texts_that_never_end() -> None:
    """Each byte is read once, however it is quoted: with a pattern that goes back it is hours."""
    assert is_too_deep(b"[" * 40 + b'"' + b'\\"' * 400_000)
    assert not is_too_deep(b'"' + b'\\"[' * 300_000)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("path", ["/orders", "/orders?dry_run=1"])  # the short way, and not
def test_json_that_is_not_utf_8_is_refused_before_it_is_parsed(
    client: httpx.Client, encoding: str, path: str
) -> None:
    """A parser would guess how it is written, and its brackets could not be counted as bytes."""
    deep = "\u5b5b" + "[" * 5000  # as bytes of UTF-16 more brackets than there are
    for text in (json.dumps(order("O-1")), '{"a":' + deep):
        answer = client.post(
            path, content=text.encode(encoding), headers={"Content-Type": "application/json"}
        )
        assert "UTF-8" in assert_problem(answer, 400, "json-not-utf-8")["detail"]
    marked = json.dumps(order(f"O-{uuid4()}")).encode("utf-8-sig")  # of UTF-8 it may be said
    accepted(client.post("/orders", content=marked, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize("second", ["application/json", "multipart/form-data"])
@pytest.mark.parametrize("path", ["/orders", "/users/preferences"])
def test_a_content_type_twice_is_refused(client: httpx.Client, path: str, second: str) -> None:
    """Who reads the first and who reads the last would not read the same."""
    body = b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"
    method = "POST" if path == "/orders" else "PUT"
    twice = [("Content-Type", "application/json"), ("Content-Type", second)]
    assert_problem(
        client.request(method, path, content=body, headers=twice), 415, "unsupported-media-type"
    )
    # Nor is a form a way round: whatever a body says it is, it is looked at.
    form = {"Content-Type": "multipart/form-data"}
    assert_problem(client.request(method, path, content=body, headers=form), 400, "json-too-deep")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate"])
def test_a_body_that_is_packed_is_refused(client: httpx.Client, encoding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    body = gzip.compress(b" " * 10_000_000)  # 10 MB of blanks in 10 KB
    assert_problem(client.post("/orders", content=body, headers=headers), 415)


# What is not declared


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/orders?statsu=placed", "query.statsu"),
        ("/orders?status=placed&status=shipped", "query.status"),
        ("/orders?limit=1&x%0d%0ay=1", "query.x\r\ny"),
        ("/health?x=1", "query.x"),
        ("/orders/O-1?organisation_id=x", "query.organisation_id"),
    ],
)
def test_an_unknown_parameter_is_refused(client: httpx.Client, path: str, field: str) -> None:
    said = assert_problem(client.get(path), 422, "invalid")
    assert [error["field"] for error in said["errors"]] == [field]


def test_the_allowed_parameters_are_named(client: httpx.Client) -> None:
    said = assert_problem(client.get("/orders?statsu=placed"), 422)
    assert "status" in said["errors"][0]["rule"]
    assert_problem(client.post("/orders?dry_run=1", json=order("O-1")), 422, "invalid")


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data", ""])
def test_another_content_type_is_415(client: httpx.Client, kind: str) -> None:
    answer = client.post("/orders", content=b"{}", headers={"Content-Type": kind})
    assert_problem(answer, 415, "unsupported-media-type")


# What browsers are told


def test_pages_of_a_named_site_may_ask_and_others_may_not(served: Served) -> None:
    asked = {"Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization,idempotency-key,if-match,traceparent"
    with served.nobody() as nobody:
        good = nobody.options(f"{API}/orders", headers={"Origin": SITE} | asked)
        assert good.status_code == 200
        assert good.headers["access-control-allow-origin"] == SITE
        assert "access-control-allow-credentials" not in good.headers
        bad = nobody.options(f"{API}/orders", headers={"Origin": "https://evil.example"} | asked)
        assert bad.status_code == 400
        assert bad.headers["content-type"] == "application/problem+json"
        assert "access-control-allow-origin" not in bad.headers
        # Refusals can be read by the page too.
        answer = nobody.get(f"{API}/orders", headers={"Origin": SITE})
        assert_problem(answer, 401)
        assert answer.headers["access-control-allow-origin"] == SITE
        exposed = answer.headers["access-control-expose-headers"]
        for name in ("ETag", "X-Correlation-ID", "Location", "Retry-After", "As-Of-Position"):
            assert name in exposed


def test_without_a_setting_no_site_may_ask(database: str, tmp_path: Path) -> None:
    with api_alone(database, tmp_path) as (served, _), served.nobody() as nobody:
        answer = nobody.get(f"{API}/health", headers={"Origin": SITE})
        assert "access-control-allow-origin" not in answer.headers


def test_answers_are_neither_guessed_nor_framed_nor_kept(
    served: Served, client: httpx.Client
) -> None:
    for answer in (client.get("/orders"), client.get("/nothing"), client.get("/orders?limit=x")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    with served.nobody() as nobody:
        page = nobody.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self' 'sha256-" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]


def test_large_answers_are_packed_and_live_ones_are_not(
    served: Served, client: httpx.Client
) -> None:
    for number in range(20):
        accepted(client.post("/sites", json={"site_id": f"S-{number}", "name": "x" * 100}))
    page = client.get("/schemas")
    assert page.headers["content-encoding"] == "gzip"
    assert "accept-encoding" in page.headers["vary"].lower()
    plain = client.get("/schemas", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == page.json()
    with client.stream("GET", "/stream", params={"after": 0}) as live:
        assert "content-encoding" not in live.headers
        assert live.headers["content-type"].startswith("text/event-stream")
        assert any(b"SiteOpened" in part for part in live.iter_raw())
