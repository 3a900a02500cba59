"""The log by WebSocket: the same events as by the stream, and what is said beside them."""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from api.identity.local import LocalTokens
from api.serving import MOST_BYTES
from api.socket_messages import MOST_CHARACTERS
from api.tokens import Issuer
from domain.access import Role
from tests.following import (
    MANY,
    connections,
    drained,
    following,
    live_server,
    place,
    place_megabytes,
    raw,
    wait_for_connections,
)
from tests.serving import API, NO_TLS, SECRET, Served, accepted, assert_problem, bearer

PATH = f"{API}/stream/socket"
SETTINGS: dict[str, Any] = {
    "live_heartbeat_s": 0.3,
    "live_recheck_s": 0.3,
    "live_slow_s": 1,
    "live_connections": 8,
    "live_connections_per_identity": 3,
}


@pytest.fixture(scope="module")
def server(
    database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, FastAPI]]:
    with live_server(database, tmp_path_factory.mktemp("home"), **SETTINGS) as server:
        yield server


@pytest.fixture
def served(server: tuple[Served, FastAPI]) -> Iterator[Served]:
    served, app = server
    wait_for_connections(app, 0)
    yield served
    wait_for_connections(app, 0)  # none is left behind


@pytest.fixture
def app(server: tuple[Served, FastAPI]) -> FastAPI:
    return server[1]


@pytest.fixture
def organisation() -> UUID:
    return uuid4()


@pytest.fixture
def client(served: Served, organisation: UUID) -> Iterator[httpx.Client]:
    with served.client(organisation_id=organisation) as client:
        yield client


class Listener:
    """Says and hears messages in JSON."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def say(self, **message: Any) -> None:
        self.connection.send(json.dumps(message))

    def hear(self) -> dict[str, Any]:
        """The next message that is no mere position."""
        while True:
            message: dict[str, Any] = json.loads(self.connection.recv(timeout=30))
            if message["type"] != "position":
                return message

    def hear_position(self) -> int:
        """The next position told in a silence."""
        message = json.loads(self.connection.recv(timeout=30))
        assert message["type"] == "position", message
        return int(message["position"])

    def ids(self, number: int) -> list[int]:
        """Positions of the next events."""
        messages = [self.hear() for _ in range(number)]
        assert all(message["type"] == "event" for message in messages), messages
        return [message["id"] for message in messages]

    def end(self) -> tuple[int, str]:
        """How the server closes it, whatever comes before that."""
        with pytest.raises(ConnectionClosed) as closed:
            self._exhaust()
        assert closed.value.rcvd is not None, "it was cut without a word"
        return closed.value.rcvd.code, closed.value.rcvd.reason

    def _exhaust(self) -> None:
        while True:
            self.connection.recv(timeout=30)


def address(served: Served, query: str = "") -> str:
    return f"ws{served.url.removeprefix('http')}{PATH}?{query}"


@contextmanager
def listening(served: Served, token: str, query: str = "", **more: Any) -> Iterator[Listener]:
    """Connected as a program is, by the header that it can set, and told from where it follows."""
    headers = {"Authorization": f"Bearer {token}"} | more.pop("headers", {})
    with connect(address(served, query), additional_headers=headers, **more) as connection:
        yield Listener(connection)


def refused(served: Served, query: str = "", **more: Any) -> tuple[int, dict[str, Any]]:
    """Status and problem that a connection is answered with."""
    with pytest.raises(InvalidStatus) as answer, connect(address(served, query), **more):
        pass
    response = answer.value.response
    assert response.headers["content-type"] == "application/problem+json"
    assert response.body is not None
    body: dict[str, Any] = json.loads(response.body)
    assert body["status"] == response.status_code
    assert body["correlation_id"] == response.headers["x-correlation-id"]
    return response.status_code, body


def offered(*names: str) -> list[Subprotocol]:
    return [Subprotocol(name) for name in names]


def auth(token: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


def cancel(client: httpx.Client, order_id: str) -> int:
    return int(
        accepted(client.post(f"/orders/{order_id}/cancel", json={"reason": "x"}))["position"]
    )


def brief(organisation: UUID, seconds: float = 2, actor: str = "tester") -> str:
    """A token for a moment."""
    return Issuer(SECRET).issue(
        subject=actor,
        organisation_id=organisation,
        roles=frozenset({Role.ADMIN}),
        ttl=timedelta(seconds=seconds),
    )


def test_what_may_not_be_asked_for_does_not_come(
    served: Served, client: httpx.Client, organisation: UUID
) -> None:
    accepted(client.post("/organisation/invitations", json={"roles": ["viewer"]}))
    [placed] = place(client, "O-1")
    for role, expected in ((Role.ADMIN, [placed - 1, placed]), (Role.ANALYST, [placed])):
        token = bearer(role, organisation_id=organisation)
        with listening(served, token, "area=organisations&area=orders&after=0") as listener:
            assert listener.hear()["type"] == "following"
            assert listener.ids(len(expected)) == expected


def test_it_says_what_the_stream_says(
    served: Served, client: httpx.Client, organisation: UUID
) -> None:
    start = place(client, "O-0")[0]
    with (
        listening(served, bearer(organisation_id=organisation)) as listener,
        following(client, after=start) as stream,
    ):
        hello = listener.hear()
        assert hello == {
            "type": "following",
            "position": hello["position"],
            "areas": [],
            "streams": [],
            "types": [],
        }
        place(client, "O-1")
        accepted(client.post("/orders/O-1/cancel", json={"reason": "zwei\nZeilen: «ja»"}))
        heard = [listener.hear(), listener.hear()]
        told = stream.take(2)
    assert [(one["id"], one["event"], one["data"]) for one in heard] == [
        (one.id, one.event, one.data) for one in told
    ]
    assert {one["type"] for one in heard} == {"event"}
    assert heard[1]["data"]["event"]["reason"] == "zwei\nZeilen: «ja»"


def test_the_address_may_say_what_is_wanted(
    served: Served, client: httpx.Client, organisation: UUID
) -> None:
    [one] = place(client, "O-1")
    place(client, "O-2")
    gone = cancel(client, "O-1")
    query = "area=orders&stream=orders/O-1&type=OrderPlaced&type=OrderCancelled&after=0"
    with listening(served, bearer(organisation_id=organisation), query) as listener:
        hello = listener.hear()
        assert (hello["position"], hello["areas"]) == (0, ["orders"])
        assert hello["streams"] == ["orders/O-1"]
        assert listener.ids(2) == [one, gone]


def test_filters_change_while_it_is_open(
    served: Served, client: httpx.Client, organisation: UUID
) -> None:
    [one, two] = place(client, "O-1", "O-2")
    with listening(served, bearer(organisation_id=organisation)) as listener:
        begun = listener.hear()["position"]
        listener.say(type="subscribe", streams=["orders/O-1"], after=0)
        hello = listener.hear()
        assert (hello["type"], hello["position"], hello["streams"]) == (
            "following",
            0,
            ["orders/O-1"],
        )
        assert listener.ids(1) == [one]
        gone = cancel(client, "O-1")
        cancel(client, "O-2")
        assert listener.ids(1) == [gone]
        # Without a position it goes on from the last one told.
        while listener.hear_position() < gone:
            pass
        listener.say(type="subscribe", types=["OrderPlaced"])
        assert listener.hear()["position"] >= gone
        [three] = place(client, "O-3")
        assert listener.ids(1) == [three]
        # And all that is there again, from any place.
        listener.say(type="subscribe", areas=["orders"], after=one)
        assert listener.hear()["position"] == one
        assert listener.ids(4)[0] == two
        assert begun >= two


def test_nothing_is_lost_or_repeated_while_filters_change(
    served: Served, client: httpx.Client, organisation: UUID
) -> None:
    stop = Event()
    placed: list[int] = []

    def write() -> None:
        with served.client(organisation_id=organisation, actor="writer") as writer:
            while not stop.is_set():
                placed.extend(place(writer, f"O-{len(placed)}"))

    with listening(served, bearer(organisation_id=organisation)) as listener:
        listener.hear()
        writer = Thread(target=write)
        writer.start()
        seen: list[int] = []
        try:
            for number in range(8):
                wish = [{"areas": ["orders"]}, {"types": ["OrderPlaced"]}][number % 2]
                listener.say(type="subscribe", **wish)
                while (message := listener.hear())["type"] == "event":
                    seen.append(message["id"])
                assert message["position"] == (seen[-1] if seen else message["position"])
                seen += listener.ids(5)
        finally:
            stop.set()
            writer.join()
        seen += listener.ids(len(placed) - len(seen))
    assert seen == placed


def test_a_silence_tells_the_position(
    served: Served, client: httpx.Client, organisation: UUID
) -> None:
    with listening(served, bearer(organisation_id=organisation), "area=inventory") as listener:
        listener.hear()
        last = place(client, "O-1")[0]
        while listener.hear_position() < last:
            pass


def test_a_page_names_its_token_beside_the_protocol(
    served: Served, client: httpx.Client, organisation: UUID
) -> None:
    """A browser can set no header, but offers protocols; it is answered with the one that is
    spoken, never with the token."""
    token = bearer(organisation_id=organisation)
    with connect(
        address(served),
        subprotocols=offered("chainlytics", f"bearer.{token}"),
        origin=Origin(served.url),
    ) as connection:
        assert connection.subprotocol == "chainlytics"
        assert connection.response is not None
        assert token not in str(connection.response.headers)
        listener = Listener(connection)
        listener.hear()
        placed = place(client, "O-1")
        assert listener.ids(1) == placed


def test_a_token_may_come_by_message(
    served: Served, client: httpx.Client, organisation: UUID
) -> None:
    with connect(address(served, "after=0")) as connection:
        listener = Listener(connection)
        listener.say(type="authenticate", token=bearer(organisation_id=organisation))
        assert listener.hear()["type"] == "following"
        placed = place(client, "O-1")
        assert listener.ids(1) == placed


def test_who_says_nothing_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.socket.AUTHENTICATE_S", 0.3)
    with connect(address(served)) as connection:
        listener = Listener(connection)
        problem = listener.hear()["problem"]
        assert problem["type"] == "urn:chainlytics:problem:unauthenticated"
        code, reason = listener.end()
    assert code == 4401
    assert "the first message must be" in reason


@pytest.mark.parametrize(
    "first",
    [
        {"type": "subscribe"},
        {"type": "authenticate", "token": "nonsense"},
        {"type": "authenticate", "token": ""},
        {"type": "authenticate", "token": {"of": "no use"}},
        {"type": "authenticate"},
        {},
    ],
)
def test_nobody_hears_anything(served: Served, first: dict[str, Any]) -> None:
    with connect(address(served)) as connection:
        listener = Listener(connection)
        listener.say(**first)
        assert listener.hear()["type"] == "error"
        assert listener.end()[0] in (4401, 4422)


def test_a_bad_token_is_refused(served: Served) -> None:
    status, body = refused(served, **auth("nonsense"))
    assert (status, body["type"]) == (401, "urn:chainlytics:problem:unauthenticated")
    # A page is not shown the status of an answer: it is let in, told, and closed.
    with connect(
        address(served), subprotocols=offered("chainlytics", "bearer.nonsense")
    ) as connection:
        listener = Listener(connection)
        assert listener.hear()["problem"]["status"] == 401
        assert listener.end()[0] == 4401


def test_a_viewer_may_not_follow(served: Served) -> None:
    status, body = refused(served, **auth(bearer(Role.VIEWER)))
    assert (status, body["type"]) == (403, "urn:chainlytics:problem:forbidden")


@pytest.mark.parametrize("name", ["token", "access_token", "authorization", "key"])
def test_a_token_in_the_address_is_refused(served: Served, name: str) -> None:
    """Addresses are written into logs."""
    token = bearer()
    status, body = refused(served, f"{name}={token}")
    [error] = body["errors"]
    assert (status, error["field"]) == (422, f"query.{name}")
    assert token not in json.dumps(body)


@pytest.mark.parametrize(
    ("query", "field", "rule"),
    [
        ("area=order", "query.area.0", "must be an area: alerts, api_keys, assignments"),
        ("stream=orders", "query.stream.0", "the name of a stream"),
        ("type=Nothing", "query.type.0", "the name of an event"),
        ("after=-1", "query.after", "greater than or equal to 0"),
        ("after=x", "query.after", "valid integer"),
        (f"after={2**62}", "query.after", "must not be beyond the log's end"),
        ("organisation_id=mine", "query.organisation_id", "valid UUID"),
        ("area=inventory&stream=orders/O-1", "query.stream", "of an area asked for"),
        ("areas=orders", "query.areas", "not permitted"),
    ],
)
def test_a_bad_address_is_refused(served: Served, query: str, field: str, rule: str) -> None:
    status, body = refused(served, query, **auth(bearer()))
    [error] = body["errors"]
    assert (status, error["field"]) == (422, field)
    assert rule in error["rule"]


def test_pages_of_others_are_refused(served: Served) -> None:
    token = bearer()
    for origin in ("https://evil.example", "null", f"{served.url}.evil.example"):
        status, body = refused(served, **auth(token), origin=origin)
        assert status == 403
        assert origin in body["detail"]
    with listening(served, token, origin=served.url) as listener:
        assert listener.hear()["type"] == "following"


def test_pages_that_are_named_are_let_in(database: str, tmp_path: Path) -> None:
    page = "https://app.example"
    with (
        live_server(database, tmp_path, cors_origins=page) as (served, _),
        listening(served, bearer(), origin=page) as listener,
    ):
        assert listener.hear()["type"] == "following"
        assert refused(served, **auth(bearer()), origin="https://evil.example")[0] == 403


def test_bad_messages_are_told_and_then_closed(
    served: Served, client: httpx.Client, organisation: UUID
) -> None:
    bad: list[tuple[str, str, str]] = [
        ("{", "message", "Invalid JSON"),
        ('{"type": "shout"}', "message", "'authenticate', 'subscribe'"),
        ('{"type": "subscribe", "areas": ["order"]}', "message.subscribe.areas.0", "be an area"),
        ('{"type": "subscribe", "after": "1"}', "message.subscribe.after", "valid integer"),
    ]
    with listening(served, bearer(organisation_id=organisation)) as listener:
        listener.hear()
        for text, field, rule in bad:
            listener.connection.send(text)
            problem = listener.hear()["problem"]
            [error] = problem["errors"]
            assert (problem["status"], error["field"]) == (422, field)
            assert rule in error["rule"]
        placed = place(client, "O-1")  # it goes on meanwhile
        assert listener.ids(1) == placed
        listener.connection.send("[" * 10_000)
        assert listener.hear()["type"] == "error"
        code, reason = listener.end()
    assert code == 1008
    assert "not understood" in reason


def test_good_messages_are_forgiven_for(served: Served) -> None:
    with listening(served, bearer()) as listener:
        listener.hear()
        for _ in range(3):
            for _ in range(3):
                listener.connection.send("{")
                assert listener.hear()["type"] == "error"
            listener.say(type="subscribe", areas=["inventory"])
            assert listener.hear()["type"] == "following"


@pytest.mark.parametrize("size", [MOST_CHARACTERS + 1, MOST_BYTES + 1])
def test_a_large_message_closes_it(served: Served, size: int) -> None:
    with listening(served, bearer()) as listener:
        listener.hear()
        listener.connection.send("x" * size)
        assert listener.end()[0] == 1009


def test_bytes_close_it(served: Served) -> None:
    with listening(served, bearer()) as listener:
        listener.hear()
        listener.connection.send(b'{"type": "subscribe"}')
        assert listener.end()[0] == 1003


def test_it_closes_when_the_token_ends(served: Served, organisation: UUID) -> None:
    with listening(served, brief(organisation)) as listener:
        listener.hear()
        code, reason = listener.end()
    assert code == 4401
    assert "expired" in reason


def test_it_closes_when_the_key_is_revoked(
    served: Served, client: httpx.Client, organisation: UUID
) -> None:
    issued = accepted(
        client.post("/organisation/api-keys", json={"name": "dashboard", "roles": ["service"]})
    )
    key = issued["key"]
    service = httpx.Client(
        verify=NO_TLS, base_url=client.base_url, headers={"Authorization": f"Bearer {key}"}
    )
    with listening(served, key) as listener, service, following(service) as stream:
        listener.hear()
        placed = place(client, "O-1")
        assert listener.ids(1) == placed
        accepted(client.post(f"/organisation/api-keys/{key.split('_')[2]}/revoke", json={}))
        assert listener.end() == (4401, "the API key was revoked")
        stream.rest()
        assert "the API key was revoked" in stream.comments


@pytest.mark.parametrize(
    ("change", "body", "code"),
    [
        ("roles", {"roles": ["viewer"]}, 4403),
        ("remove", {}, 4404),
    ],
)
def test_it_closes_when_the_member_may_no_more(
    served: Served,
    client: httpx.Client,
    organisation: UUID,
    change: str,
    body: dict[str, Any],
    code: int,
) -> None:
    """What an account may do is said by events; its token is good for as long as before."""
    account = uuid4()
    token, _ = LocalTokens(SECRET).issue(account, uuid4(), email="member@example.org")
    member = f"local:{account}"
    accepted(client.post("/organisation/members", json={"member": member, "roles": ["analyst"]}))
    query = f"organisation_id={organisation}"
    with listening(served, token, query) as listener:
        assert listener.hear()["type"] == "following"
        placed = place(client, "O-1")
        assert listener.ids(1) == placed
        accepted(client.post(f"/organisation/members/{member}/{change}", json=body))
        assert listener.end()[0] == code
    assert refused(served, query, **auth(token))[0] == code - 4000


def test_a_new_token_in_time_goes_on(
    served: Served, client: httpx.Client, organisation: UUID
) -> None:
    with listening(served, brief(organisation)) as listener:
        listener.hear()
        listener.say(type="authenticate", token=brief(organisation, 4))
        renewed = listener.hear()
        assert renewed["type"] == "authenticated"
        assert renewed["expires_at"]
        for stranger in (brief(uuid4()), brief(organisation, actor="somebody else")):
            listener.say(type="authenticate", token=stranger)
            assert listener.hear()["problem"]["status"] in (401, 404)
        # Longer than the first one's two seconds, of a clock that counts whole ones.
        begun = monotonic()
        while monotonic() - begun < 2.2:
            listener.hear_position()
        placed = place(client, "O-1")
        assert listener.ids(1) == placed
        assert listener.end()[0] == 4401


def test_each_has_so_many_connections(served: Served, app: FastAPI) -> None:
    token = bearer()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(listening(served, token)).hear()
        status, body = refused(served, **auth(token))
        assert status == 429
        assert "3 live connections" in body["detail"]
        with connect(address(served)) as late:
            listener = Listener(late)
            listener.say(type="authenticate", token=token)
            assert listener.hear()["problem"]["status"] == 429
            assert listener.end()[0] == 4429
        for number in range(5):
            own = bearer(actor=f"colleague {number}")
            stack.enter_context(listening(served, own)).hear()
        status, body = refused(served, **auth(bearer(actor="one too many")))
        assert status == 503
        assert "8 live connections" in body["detail"]
    wait_for_connections(app, 0)
    with listening(served, token) as listener:
        assert listener.hear()["type"] == "following"


def ask(organisation: UUID, query: str = "after=0") -> bytes:
    """The request of a client that speaks WebSocket by hand."""
    lines = [
        f"GET {PATH}?{query} HTTP/1.1",
        "Host: test",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {b64encode(b'sixteen bytes ok').decode()}",
        "Sec-WebSocket-Version: 13",
        f"Authorization: Bearer {bearer(organisation_id=organisation)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_who_does_not_read_is_cut_off(
    served: Served, app: FastAPI, client: httpx.Client, organisation: UUID
) -> None:
    place_megabytes(client)
    with raw(served) as connection:
        connection.sendall(ask(organisation))
        assert b"101 Switching" in connection.recv(100)
        wait_for_connections(app, 1)
        wait_for_connections(app, 0)
        got = drained(connection)
    assert got.count(b'"type": "event"') < MANY
    # Who begins to read in time is told why.
    assert got.endswith(b"\x03\xf5messages were not taken in time")
    assert connections(app) == 0


def test_others_hear_on_while_one_does_not_read(
    served: Served, app: FastAPI, client: httpx.Client, organisation: UUID
) -> None:
    with (
        raw(served) as connection,
        listening(served, bearer(organisation_id=organisation)) as listener,
    ):
        listener.hear()
        connection.sendall(ask(organisation, ""))
        assert b"101 Switching" in connection.recv(100)
        wait_for_connections(app, 2)
        writing = Thread(target=place_megabytes, args=(client,))
        writing.start()
        listener.ids(MANY)
        writing.join()
        wait_for_connections(app, 1)


def test_a_server_that_stops_says_so(database: str, tmp_path: Path) -> None:
    """And waits for nobody: its thread ends (tests/following.py sees to it)."""
    organisation = uuid4()
    silent: socket.socket
    with ExitStack() as stack:
        with live_server(database, tmp_path, live_slow_s=3600) as (served, app):
            with served.client(organisation_id=organisation) as client:
                place_megabytes(client)
            silent = stack.enter_context(raw(served))
            silent.sendall(ask(organisation))
            assert b"101 Switching" in silent.recv(100)
            listener = stack.enter_context(listening(served, bearer()))
            listener.hear()
            wait_for_connections(app, 2)
        assert listener.end()[0] == 1012
        assert connections(app) == 0
        assert drained(silent).count(b'"type": "event"') < MANY


def test_leaving_without_a_word_frees_the_place(
    served: Served, app: FastAPI, organisation: UUID
) -> None:
    with raw(served) as connection:
        connection.sendall(ask(organisation))
        assert b"101 Switching" in connection.recv(100)
        wait_for_connections(app, 1)
    wait_for_connections(app, 0)


def test_plain_http_is_told_what_is_missing(served: Served) -> None:
    with served.client() as client:
        assert_problem(client.get("/stream/socket"), 404)
