"""Live streams under load and at their limits: filters, resuming while others write, slow clients,
tokens that end, how many there may be."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from time import sleep
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI

from api.tokens import Issuer
from domain.access import Role
from tests.following import (
    MANY,
    Message,
    connections,
    drained,
    following,
    live_server,
    place,
    place_megabytes,
    raw,
    wait_for_connections,
    wait_until_thrown_away,
)
from tests.serving import API, NO_TLS, SECRET, Served, accepted, assert_problem, bearer
from tests.test_authorisation import PROVIDERS, Person, add, founded, token

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


@pytest.fixture
def other(served: Served) -> Iterator[httpx.Client]:
    with served.client(organisation_id=uuid4()) as client:
        yield client


def site(client: httpx.Client, site_id: str) -> int:
    """The position of a site opened."""
    return int(accepted(client.post("/sites", json={"site_id": site_id}))["position"])


def cancel(client: httpx.Client, order_id: str) -> int:
    return int(
        accepted(client.post(f"/orders/{order_id}/cancel", json={"reason": "x"}))["position"]
    )


def ids(messages: list[Message]) -> list[int]:
    return [message.id for message in messages]


def of_areas(messages: list[Message]) -> list[str]:
    return [message.data["topic"].partition(".")[0] for message in messages]


def test_filters_narrow_what_comes(client: httpx.Client, other: httpx.Client) -> None:
    [one] = place(client, "O-1")
    place(other, "O-1")
    opened = site(client, "S-1")
    [two] = place(client, "O-2")
    gone = cancel(client, "O-1")
    asked: list[tuple[dict[str, Any], list[int]]] = [
        ({"area": "inventory"}, [opened]),
        ({"area": ["inventory", "orders"]}, [one, opened, two, gone]),
        ({"stream": "orders/O-1"}, [one, gone]),
        ({"stream": ["orders/O-2", "sites/S-1"]}, [opened, two]),
        ({"type": "OrderCancelled"}, [gone]),
        ({"type": ["OrderPlaced", "SiteOpened"]}, [one, opened, two]),
        ({"stream": "orders/O-1", "type": "OrderPlaced"}, [one]),
        ({"area": "orders", "stream": "orders/O-2"}, [two]),
    ]
    for filters, expected in asked:
        with following(client, after=0, **filters) as stream:  # what was
            assert ids(stream.take(len(expected))) == expected, filters
            stream.until_id(gone)  # and no more of it
    with following(client, area="inventory") as stream:  # what comes
        place(client, "O-3")
        opened = site(client, "S-2")
        assert ids(stream.take(1)) == [opened]


@pytest.mark.parametrize(
    ("role", "areas"),
    [
        (Role.ADMIN, ["webhooks", "organisations", "api_keys", "orders"]),
        (Role.AUDITOR, ["webhooks", "api_keys", "orders"]),
        (Role.ANALYST, ["orders"]),
        (Role.SERVICE, ["orders"]),
    ],
)
def test_what_may_not_be_asked_for_does_not_come(
    client: httpx.Client, served: Served, organisation: UUID, role: Role, areas: list[str]
) -> None:
    """Addresses of webhooks, invitations and keys are told to who may list them: what was, by
    whatever filter, and what comes."""

    def happens(name: str) -> int:
        webhook = {"webhook_id": name, "url": "https://1.1.1.1/secret"}
        accepted(client.post("/webhooks", json=webhook))
        accepted(client.post("/organisation/invitations", json={"roles": ["viewer"]}))
        issue = {"name": "k", "roles": ["viewer"]}
        accepted(client.post("/organisation/api-keys", json=issue))
        [position] = place(client, name)
        return position

    last = happens("X-1")
    with served.client(role, organisation_id=organisation) as somebody:
        with following(somebody, after=0) as stream:
            assert of_areas(stream.take(len(areas))) == areas
            happens("X-2")
            assert of_areas(stream.take(len(areas))) == areas
        filters: list[dict[str, Any]] = [
            {"area": ["webhooks", "orders"]},
            {"stream": ["webhooks/X-1", "orders/X-1"]},
            {"type": ["WebhookRegistered", "OrderPlaced"]},
        ]
        of_webhooks = [area for area in areas if area in ("webhooks", "orders")]
        for asked in filters:
            with following(somebody, after=0, **asked) as stream:
                taken = stream.take(len(of_webhooks))
                assert of_areas(taken) == of_webhooks, asked
                assert taken[-1].id == last


def test_who_loses_a_role_loses_what_it_showed(database: str, tmp_path: Path) -> None:
    """Of what follows, though the stream goes on."""
    providers = json.dumps(PROVIDERS)
    with live_server(database, tmp_path, identity_providers=providers, **SETTINGS) as (served, _):
        ada, ben = Person(served), Person(served)
        own = founded(ada)
        admin, other = ada.acting_for(own), ben.acting_for(own)
        add(admin, ben, "admin", "analyst")
        with following(other, area=["organisations", "orders"]) as stream:
            invite: Any = {"json": {"roles": ["viewer"]}}
            accepted(admin.post("/organisation/invitations", **invite))
            assert of_areas(stream.take(1)) == ["organisations"]
            roles = {"roles": ["analyst"]}
            accepted(admin.post(f"/organisation/members/{ben.member}/roles", json=roles))
            sleep(SETTINGS["live_recheck_s"] + 1.5)  # and as long as a right may be believed in
            accepted(admin.post("/organisation/invitations", **invite))
            place(admin, "O-1")
            came = [one.event for one in stream.take(1)]
            if came == ["MemberRolesChanged"]:  # told at once
                came = [one.event for one in stream.take(1)]
            assert came == ["OrderPlaced"]


def test_what_is_not_asked_for_is_passed_over_and_told(
    client: httpx.Client, other: httpx.Client
) -> None:
    """Silence is filled with ids that are no events, and a client goes on from them."""
    with following(client, area="inventory") as stream:
        last = place(client, "O-1", "O-2")[-1]
        last = max(last, *place(other, "O-1"))
        stream.until_id(last)
        assert f"position {last}" in stream.comments
    opened = site(client, "S-1")
    with following(client, last_event_id=stream.last_id, area="inventory") as stream:
        assert ids(stream.take(1)) == [opened]


def test_who_has_seen_nothing_yet_loses_nothing(client: httpx.Client) -> None:
    """The place where it began is an id too: what happens while it is away is there later."""
    with following(client) as stream:
        begun = int(stream.greeting.rsplit(" ", 1)[1])
        stream.until_id(begun)
    placed = place(client, "O-1")
    with following(client, last_event_id=stream.last_id) as stream:
        assert ids(stream.take(1)) == placed


@pytest.mark.parametrize(
    ("query", "field", "value", "rule"),
    [
        (
            {"area": "order"},
            "query.area.0",
            "order",
            "must be an area: alerts, api_keys, assignments",
        ),
        ({"area": ""}, "query.area.0", "", "must be an area"),
        ({"area": ["orders", "x"]}, "query.area.1", "x", "must be an area"),
        ({"stream": "orders"}, "query.stream.0", "orders", "the name of a stream"),
        ({"stream": "orders/"}, "query.stream.0", "orders/", "the name of a stream"),
        ({"stream": "../orders/1"}, "query.stream.0", "../orders/1", "the name of a stream"),
        ({"stream": "orders/\0"}, "query.stream.0", "orders/\0", "all printable"),
        ({"stream": "orders/" + "x" * 300}, "query.stream.0", None, "at most 200 characters"),
        ({"type": "orderplaced"}, "query.type.0", "orderplaced", "the name of an event"),
        (
            {"area": "inventory", "stream": "orders/O-1"},
            "query.stream",
            "orders/O-1",
            "must be of an area asked for: inventory",
        ),
        (
            {"area": "inventory", "type": "OrderPlaced"},
            "query.type",
            "OrderPlaced",
            "must be of an area asked for: inventory",
        ),
        ({"area": ["orders"] * 101}, "query.area", None, "at most 100"),
        ({"after": str(2**62)}, "query.after", 2**62, "must not be beyond the log's end"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    client: httpx.Client, query: dict[str, Any], field: str, value: Any, rule: str
) -> None:
    told = assert_problem(client.get("/stream", params=query), 422, "invalid")
    [error] = told["errors"]
    assert error["field"] == field
    assert rule in error["rule"]
    assert value is None or error["value"] == value


def test_a_place_that_the_log_has_lost_is_refused(client: httpx.Client) -> None:
    answer = client.get("/stream", headers={"Last-Event-ID": str(2**62)})
    [error] = assert_problem(answer, 422, "invalid")["errors"]
    assert error["field"] == "header.last-event-id"


def test_nothing_is_lost_or_repeated_while_many_write(
    served: Served, client: httpx.Client, organisation: UUID
) -> None:
    """Connections are cut at any place while four clients write; filters pass half of it over."""
    stop = Event()
    written: list[list[int]] = [[], [], [], []]
    place(client, "O-before")

    def write(number: int) -> None:
        foreign = number == 3
        own = uuid4() if foreign else organisation
        with served.client(organisation_id=own, actor=f"writer {number}") as writer:
            count = 0
            while not stop.is_set():
                count += 1
                positions = place(writer, f"O-{number}-{count}")
                if number == 2:
                    cancel(writer, f"O-{number}-{count}")
                if not foreign:
                    written[number] += positions

    writers = [Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    chance = random.Random(7)
    seen: list[int] = []
    last: int | None = None
    try:
        for _ in range(25):
            with following(client, last_event_id=last, area="orders", type="OrderPlaced") as stream:
                seen += ids(stream.take(chance.randrange(1, 12)))
                last = stream.last_id
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    every = sorted(position for positions in written for position in positions)
    assert every
    with following(client, last_event_id=last, type="OrderPlaced") as stream:
        seen += ids(stream.take(sum(position > seen[-1] for position in every)))
    # It began at the log's end of then.
    assert seen == [position for position in every if position >= seen[0]]


def test_many_clients_see_the_same(client: httpx.Client, served: Served, app: FastAPI) -> None:
    """Those at the head share what is read; each has all of it, in order."""
    results: list[list[int]] = []
    ready = Event()

    def follow(actor: str, organisation: UUID) -> None:
        with (
            served.client(organisation_id=organisation, actor=actor) as reader,
            following(reader) as stream,
        ):
            ready.wait(30)
            results.append(ids(stream.take(60)))

    organisation = uuid4()
    followers = [Thread(target=follow, args=(f"reader {n}", organisation)) for n in range(8)]
    for follower in followers:
        follower.start()
    wait_for_connections(app, 8)
    sleep(0.2)  # each has read its greeting's position
    with served.client(organisation_id=organisation) as writer:
        positions = place(writer, *[f"O-{number}" for number in range(60)])
    ready.set()
    for follower in followers:
        follower.join(30)
    assert results == [positions] * 8


def ask(organisation: UUID, query: str = "after=0") -> bytes:
    """The request of a client that speaks HTTP by hand."""
    token = bearer(organisation_id=organisation)
    head = f"GET {API}/stream?{query} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}"
    return f"{head}\r\n\r\n".encode()


def test_who_does_not_read_is_cut_off(
    served: Served, app: FastAPI, client: httpx.Client, organisation: UUID
) -> None:
    """Of a backlog of megabytes the server keeps what its buffers hold, and that for a time."""
    place_megabytes(client)
    with raw(served) as connection:
        connection.sendall(ask(organisation))
        assert b"200 OK" in connection.recv(100)
        wait_for_connections(app, 1)
        wait_for_connections(app, 0)  # it was cut off
        wait_until_thrown_away(connection)
        got = drained(connection)
    # What the kernel had taken: far from all, and the rest was thrown away, not kept for it.
    assert got.count(b"event: OrderPlaced") < MANY
    # It comes back where it was, and who reads gets all of it.
    last = max((int(line[4:]) for line in got.split(b"\n") if line.startswith(b"id: ")), default=0)
    with following(client, last_event_id=last) as stream:
        assert stream.take(1)[0].event == "OrderPlaced"


def test_who_does_not_read_what_happens_now_is_cut_off(
    served: Served, app: FastAPI, client: httpx.Client, organisation: UUID
) -> None:
    with raw(served) as connection, following(client) as reader:
        connection.sendall(ask(organisation, ""))
        assert b"200 OK" in connection.recv(100)
        wait_for_connections(app, 2)
        writing = Thread(target=place_megabytes, args=(client,))
        writing.start()
        assert len(reader.take(MANY)) == MANY
        writing.join()
        wait_for_connections(app, 1)  # and nobody else is
        placed = place(client, "O-last")
        assert ids(reader.take(1)) == placed


def test_a_stream_ends_when_its_token_does(
    served: Served, app: FastAPI, client: httpx.Client, organisation: UUID
) -> None:
    token = Issuer(SECRET).issue(
        subject="brief",
        organisation_id=organisation,
        roles=frozenset({Role.ADMIN}),
        ttl=timedelta(seconds=2),
    )
    with httpx.Client(
        verify=NO_TLS, base_url=served.url + API, headers={"Authorization": f"Bearer {token}"}
    ) as brief:
        with following(brief) as stream:
            placed = place(client, "O-1")
            assert ids(stream.rest()) == placed  # it ends as a stream ends
        assert "the token is not valid: Signature has expired" in stream.comments
        assert_problem(brief.get("/stream"), 401, "unauthenticated")


def test_each_has_so_many_connections(
    served: Served, app: FastAPI, client: httpx.Client, organisation: UUID
) -> None:
    with following(client), following(client), following(client) as third:
        answer = client.get("/stream")
        told = assert_problem(answer, 429)
        assert "3 live connections" in told["detail"]
        assert int(answer.headers["retry-after"]) > 0
        with (  # others have theirs, also of the same name in another organisation
            served.client(organisation_id=organisation, actor="colleague") as colleague,
            following(colleague),
            served.client(organisation_id=uuid4()) as namesake,
            following(namesake),
        ):
            placed = place(client, "O-1")
            assert ids(third.take(1)) == placed
    wait_for_connections(app, 0)
    with following(client) as stream:  # one that is closed makes room
        placed = place(client, "O-2")
        assert ids(stream.take(1)) == placed


def test_how_far_read_models_are_takes_a_connection_too(
    served: Served, app: FastAPI, client: httpx.Client
) -> None:
    path = "/projections/stream"
    with following(client), client.stream("GET", path) as one, client.stream("GET", path) as two:
        assert (one.status_code, two.status_code) == (200, 200)
        assert_problem(client.get(path), 429)
        assert_problem(client.get("/stream"), 429)
    wait_for_connections(app, 0)
    with client.stream("GET", path) as again:
        assert again.status_code == 200


def test_how_far_read_models_are_is_told_no_longer_than_the_key_is_good(
    served: Served, app: FastAPI, client: httpx.Client
) -> None:
    issued = client.post("/organisation/api-keys", json={"name": "board", "roles": ["viewer"]})
    assert issued.status_code == 201, issued.text
    key = {"Authorization": f"Bearer {issued.json()['key']}"}
    with (
        httpx.Client(verify=NO_TLS, base_url=served.url + API, headers=key, timeout=30) as board,
        board.stream("GET", "/projections/stream") as answer,
    ):
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines) == "event: projections"
        accepted(client.post(f"/organisation/api-keys/{issued.json()['id']}/revoke", json={}))
        assert ": the API key was revoked" in list(lines)  # and there it ends
        assert_problem(board.get("/projections/stream"), 401, "unauthenticated")


def test_connections_do_not_multiply_by_organisations_and_keys(
    database: str, tmp_path: Path
) -> None:
    limits = {"live_connections_per_identity": 2, "live_connections_per_organisation": 5}
    providers = json.dumps(PROVIDERS)
    with (
        live_server(database, tmp_path, identity_providers=providers, **limits) as (served, _),
        ExitStack() as opened,
    ):

        def follow(client: httpx.Client) -> int:
            answer = opened.enter_context(client.stream("GET", "/stream"))
            if answer.status_code != 200:
                answer.read()
                assert_problem(answer, 429)
                assert int(answer.headers["retry-after"]) > 0
            return answer.status_code

        ada = Person(served)
        own, second = (ada.acting_for(founded(ada, name)) for name in ("One", "Two"))
        # An account has its connections over all its organisations,
        assert [follow(own), follow(second), follow(own), follow(second)] == [200, 200, 429, 429]
        # and an organisation so many over all its keys, which are nobody's account.
        asked = []
        for _ in range(3):
            made = own.post("/organisation/api-keys", json={"name": "k", "roles": ["admin"]}).json()
            key = {"Authorization": f"Bearer {made['key']}"}
            service = opened.enter_context(
                httpx.Client(verify=NO_TLS, base_url=served.url + API, headers=key, timeout=30)
            )
            asked += [follow(service) for _ in range(2)]
        assert asked == [200, 200, 200, 200, 429, 429]
        other = Person(served)
        assert follow(other.acting_for(founded(other))) == 200


def test_an_accounts_requests_are_counted_over_all_its_organisations(
    database: str, tmp_path: Path
) -> None:
    limits = {"rate_identity": 0.1, "rate_identity_burst": 4}
    providers = json.dumps(PROVIDERS)
    with live_server(database, tmp_path, identity_providers=providers, **limits) as (served, _):
        ada = Person(served)
        # A token of its own for each, or the first organisation is remembered with the token.
        organisations = [founded(ada, name) for name in ("One", "Two", "Three")]
        clients = [ada.acting_for(one) for one in organisations]
        for number, client in enumerate(clients):
            shown = token(ada.subject, nonce=number)
            client.headers["Authorization"] = f"Bearer {shown}"
        got = [client.get("/sites").status_code for client in clients for _ in range(4)]
        assert got.count(429) >= 3
        assert got[-1] == 429


def test_the_process_has_so_many_connections(served: Served, app: FastAPI) -> None:
    clients = [served.client(actor=f"reader {number}") for number in range(9)]
    streams = [following(one) for one in clients]
    try:
        for stream in streams[:8]:
            stream.__enter__()
        answer = clients[8].get("/stream")
        told = assert_problem(answer, 503)
        assert "8 live connections" in told["detail"]
        assert int(answer.headers["retry-after"]) > 0
    finally:
        for stream in streams[:8]:
            stream.__exit__(None, None, None)
        for one in clients:
            one.close()


def test_a_refused_request_takes_no_place(
    client: httpx.Client, app: FastAPI, served: Served
) -> None:
    for _ in range(10):
        assert_problem(client.get("/stream", params={"area": "x"}), 422)
        assert_problem(client.get("/stream", params={"after": str(2**62)}), 422)
    with served.client(Role.VIEWER) as viewer:
        assert_problem(viewer.get("/stream"), 403)
    assert connections(app) == 0


def test_stopping_ends_who_does_not_read(database: str, tmp_path: Path) -> None:
    """The server waits for no client: its thread ends (tests/following.py sees to it)."""
    organisation = uuid4()
    with (
        live_server(database, tmp_path, live_slow_s=3600) as (served, app),
        served.client(organisation_id=organisation) as client,
        raw(served) as connection,
    ):
        place_megabytes(client)
        connection.sendall(ask(organisation))
        assert b"200 OK" in connection.recv(100)
        wait_for_connections(app, 1)
