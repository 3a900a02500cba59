"""What the API refuses, and that it says so in one shape and tells nobody else's business."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from threading import Event
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from structlog.testing import capture_logs

from api.bodies import MAX_BODY
from api.dependencies import Dependencies
from api.errors import NOT_SET_UP, NOT_THIS_PERSON, UNPROCESSABLE, status_of
from api.problems import RULES
from api.tokens import Issuer
from commands import HANDLERS
from domain.access import Role
from domain.errors import Refused
from domain.values import Command
from eventstore import LogUnavailable
from eventstore.archive.object_store import ArchiveDamaged, ArchiveUnavailable
from ml.replay import Replayed
from readmodels.access import QUERIES
from readmodels.orders import TimelineEntry
from readmodels.page import encode
from tests.serving import (
    API,
    NO_TLS,
    SECRET,
    Served,
    accepted,
    assert_problem,
    found,
    operations,
    order,
    send,
    serving_here,
    until,
)
from tests.test_authorisation import PUBLIC, _permissions
from tests.world import ORGANISATION

HASH = "0" * 64
#: Whose mail can be asked for, as nobody's can who has no account.
ACCOUNT = "dev:tester"
FAR = 2**62
#: The type of a problem that is a rule's refusal.
RULE = re.compile(r":[a-z_]+\.[a-z_]+$")
#: What a query must be asked with.
WORDS: dict[str, dict[str, Any]] = {
    "compare_simulations": {"ids": "X-none,Y-none"},
    "compare_simulations_picture": {"ids": "X-none,Y-none"},
    "prove_events": {"position": 1},
    "prove_growth": {"old": 1},
    "prove_decisions": {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"},
}
COMMAND_OF = {
    re.sub(r"(?<!^)(?=[A-Z])", "_", command.__name__).lower(): command for command in HANDLERS
}
#: Bodies that are good in form and change nothing; the others send their examples.
BODIES: dict[str, dict[str, Any]] = {
    "PlaceOrder": order("O-nobody"),
    "AllocateOrder": {"site_id": "S-none"},
    "CancelOrder": {"reason": "changed mind"},
    "OpenSite": {"site_id": "S-role"},
    "CloseSite": {"reason": "lease ended"},
    "ReceiveStock": {"quantity": "1"},
    "PickStock": {"quantity": "1"},
    "AdjustStock": {"change": "1", "reason": "count"},
    "RegisterVehicle": {
        "vehicle_id": "V-none",
        "site_id": "S-none",
        "mode": "van",
        "service_levels": ["standard"],
    },
    "RetireVehicle": {"reason": "sold"},
    "ForbidRoute": {"site_id": "S-none", "region": "DK", "reason": "customs"},
    "AllowRoute": {"site_id": "S-none", "region": "DK"},
    "RequestDecision": {"subject_id": "O-none"},
    "RecordOutcome": {"occurred": None, "followed": True},
    "OverrideDecision": {"option": {"site_id": "S-none"}, "reason": "x"},
    "ContestDecision": {"reason": "x"},
    "RollBackModel": {"to": "1" * 64, "reason": "x"},
    "WithdrawModel": {"reason": "x"},
    "StopModel": {"reason": "x"},
    "RetireModel": {"reason": "x"},
    "SetPolicy": {"minimum_confidence": 0.5},
    # What everybody may ask for who may make a schedule at all.
    "MakeSchedule": {
        "name": "At night",
        "when": {"every_s": 86_400},
        "work": {"task": "inference", "kind": "fulfilment"},
    },
    "StopKind": {"reason": "x"},
}
#: Commands that nobody sends over HTTP: a consumer's and a worker's answers, a training's
#: registrations, what the watch and the clock of schedules find, what a planner has solved.
INTERNAL = {
    *("RecordDecision", "FailDecision", "KeepDecision", "RegisterModel", "RecordMeasurement"),
    *("StartTask", "ReportTask", "CompleteTask", "FailTask", "ReleaseTask", "CancelOwnTask"),
    *("RaiseAlert", "EndAlertCause", "RecordNotice", "FireSchedule", "FailScheduledRun"),
    *("PlanTours", "RecordForecast"),
}
#: Sent in the place of another by who may not send that one.
INSTEAD = dict.fromkeys(("CancelTask", "CancelSimulation"), "CancelOwnTask")
#: Commands of an account, whatever it may do in an organisation.
OF_ACCOUNTS = {"FoundOrganisation", "AcceptInvitation"}
#: What is sent where it is no JSON.
CSV = {"create_upload": b"x", "import_entity": b"site_id,name,service_level\n"}
#: A body for each query that has one.
ASKED: dict[str, dict[str, Any]] = {
    "find_people": {"search": "nobody"},
    "check_route": {"vehicle_id": "V-none", "points": [{"latitude": 52.5, "longitude": 13.4}]},
    "explain_hypothetical": {"kind": "fulfilment", "options": [{"features": {}}]},
    "what_if": {"changes": [{"feature": "site_backlog", "value": 1}]},
}


@pytest.fixture(scope="module")
def here(
    database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, FastAPI]]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as served:
        yield served


@pytest.fixture(scope="module")
def served(here: tuple[Served, FastAPI]) -> Served:
    return here[0]


@pytest.fixture(scope="module")
def app(here: tuple[Served, FastAPI]) -> FastAPI:
    return here[1]


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(Role.ADMIN, Role.SERVICE) as client:
        yield client


@pytest.fixture(scope="module")
def nobody(served: Served) -> Iterator[httpx.Client]:
    with served.nobody() as client:
        yield client


@pytest.fixture(scope="module")
def schema(nobody: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = found(nobody.get("/openapi.json"))
    return document


def permissions(app: FastAPI) -> dict[str, str]:
    """The queries that endpoints ask for, by operation."""
    contexts = [one.original_route for one in iter_route_contexts(app.routes)]
    routes = [one for one in contexts if isinstance(one, APIRoute) and one.include_in_schema]
    return {
        route.name: asked[0] for route in routes if (asked := list(_permissions(route.dependant)))
    }


def roles_of(command: type[Command]) -> frozenset[Role]:
    """Whoever may send a command, or what is sent in its place."""
    instead = INSTEAD.get(command.__name__)
    others = (handler.roles for one, handler in HANDLERS.items() if one.__name__ == instead)
    return HANDLERS[command].roles.union(*others)


def body_of(operation: dict[str, Any], known: dict[str, dict[str, Any]], name: str) -> Any:
    """A body that is good in form: the one that is known, else the document's example; None: the
    operation has none."""
    if name in known or "requestBody" not in operation:
        return known.get(name)
    media: dict[str, Any] = operation["requestBody"]["content"].get("application/json", {})
    examples = [one["value"] for one in media.get("examples", {}).values()]
    return next(iter(examples), media.get("example"))


def filled(path: str) -> str:
    """A path with good names in the place of its parameters."""
    known = {
        "model_hash": HASH,
        "kind": "fulfilment",
        "alert_kind": "order_late",
        "entity": "sites",
        "picture_name": "kpis",
        "read_model": "nothing",
        "mode": "van",
        "fuel": "diesel",
        "person": str(UUID(int=0)),
        "topic": "orders.OrderPlaced.v1",
        "member": "nhost:nobody",
        "position": "1",
        "task_id": str(UUID(int=0)),
        "session_id": str(UUID(int=0)),
    }
    return re.sub(r"\{(\w+)\}", lambda name: known.get(name[1], "X-none"), path)


# Who may ask


def test_only_these_paths_are_open(schema: dict[str, Any], nobody: httpx.Client) -> None:
    found_open, closed = set(), 0
    for method, path, operation in operations(schema):
        body: dict[str, Any] | None = {} if method in ("POST", "PUT") else None
        answer = send(nobody, method, filled(path), json=body)
        if operation["operationId"] in PUBLIC:
            found_open.add(operation["operationId"])
            if method == "GET":
                assert answer.status_code == 200, path
            else:  # where people come in who have no token yet
                assert_problem(answer, 422, "invalid")
            continue
        assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        closed += 1
    assert found_open == PUBLIC
    assert closed == len(operations(schema)) - len(PUBLIC)
    assert nobody.get("/docs").status_code == 200
    assert nobody.get("/").headers["location"] == "/docs"


def test_every_route_is_in_the_document(app: FastAPI, schema: dict[str, Any]) -> None:
    documented = set(schema["paths"])
    # Pages, the document itself, and what speaks WebSocket (docs/live.md).
    hidden = {"/openapi.json", "/docs", "/assets", "/", f"{API}/stream/socket", "/{path:path}"}
    paths = {one.path for one in iter_route_contexts(app.routes)} - {None}
    assert len(paths) > 100
    assert paths - documented <= hidden
    assert documented <= paths
    assert {path for path in documented if not path.startswith(API)} == {
        *("/metrics", "/health/live", "/health/ready", "/health/database", "/health/ml")
    }


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer a.b.c", "Basic YTpi", "bearer", "Bearer \xe9", "Token x"],
)
def test_a_bad_authorization_header(nobody: httpx.Client, header: str) -> None:
    answer = nobody.get(f"{API}/orders", headers={b"Authorization": header.encode("latin-1")})
    assert_problem(answer, 401, "unauthenticated")


def test_each_command_is_for_its_roles_only(served: Served, schema: dict[str, Any]) -> None:
    tried = set()
    for role in Role:
        with served.client(role, organisation_id=uuid4(), actor=ACCOUNT) as client:
            for method, path, operation in operations(schema):
                command = COMMAND_OF.get(operation["operationId"])
                if command is None or command.__name__ in OF_ACCOUNTS:
                    continue
                tried.add(command)
                body = body_of(operation, BODIES, command.__name__) or {}
                answer = client.request(method, served.url + filled(path), json=body)
                if role in roles_of(command):
                    # It was looked at by the rules, whatever they say.
                    if answer.status_code >= 400:
                        code = RULE.search(answer.json()["type"])
                        assert code, (path, answer.text)
                        missing = 503 if code[0][1:] in NOT_SET_UP else 422
                        assert answer.status_code in (404, 409, 422, missing), (path, answer.text)
                    else:
                        assert answer.status_code in (200, 201, 202), path
                else:
                    assert_problem(answer, 403, "forbidden")
    named = {command.__name__ for command in tried}
    assert named == {command.__name__ for command in HANDLERS} - INTERNAL - OF_ACCOUNTS


def test_each_query_is_for_its_roles_only(
    served: Served, app: FastAPI, schema: dict[str, Any]
) -> None:
    asked = set()
    query_of = permissions(app)
    for role in Role:
        with served.client(role) as client:
            for method, path, operation in operations(schema):
                query = query_of.get(operation["operationId"])
                if query is None:
                    continue
                asked.add(query)
                body = body_of(operation, ASKED, operation["operationId"])
                words = WORDS.get(operation["operationId"])
                csv = CSV.get(operation["operationId"])
                sent: dict[str, Any] = {"json": body}
                if csv is not None:
                    sent = {"content": csv, "headers": {"Content-Type": "text/csv"}}
                answer = send(client, method, served.url + filled(path), params=words, **sent)
                if role in QUERIES[query]:
                    # 409: nothing is sealed yet.
                    good = (200, 404, 409) if query == "audit.proofs" else (200, 201, 404)
                    assert answer.status_code in good, (role, path, answer.status_code)
                else:
                    assert_problem(answer, 403, "forbidden")
    assert asked == QUERIES.keys()


def test_the_audit_trail_is_not_for_viewers(served: Served) -> None:
    for role in (Role.VIEWER, Role.ANALYST, Role.SERVICE):
        with served.client(role) as client:
            assert_problem(client.get("/audit"), 403, "forbidden")


def test_a_token_without_roles_may_do_nothing(served: Served) -> None:
    token = Issuer(SECRET).issue(
        subject="ada", organisation_id=ORGANISATION, roles=frozenset(), ttl=timedelta(minutes=5)
    )
    with httpx.Client(
        verify=NO_TLS, base_url=served.url + API, headers={"Authorization": f"Bearer {token}"}
    ) as c:
        assert_problem(c.get("/orders"), 403, "forbidden")
        assert_problem(c.post("/orders", json=order("O-1")), 403, "forbidden")


def test_internal_commands_have_no_endpoint(schema: dict[str, Any]) -> None:
    """A consumer's and a worker's answers and a training's registrations do not come over HTTP."""
    mounted = {operation["operationId"] for _, _, operation in operations(schema)}
    missing = {command.__name__ for name, command in COMMAND_OF.items() if name not in mounted}
    assert missing == INTERNAL


# What is sent


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"colour": "red"}, "body.colour"),
        ({"status": "delivered"}, "body.status"),
        ({"order_id": ""}, "body.order_id"),
        ({"order_id": "O 1"}, "body.order_id"),
        ({"order_id": "O-1\n"}, "body.order_id"),
        ({"order_id": "-1"}, "body.order_id"),
        ({"order_id": "../O-1"}, "body.order_id"),
        ({"order_id": "x" * 65}, "body.order_id"),
        ({"order_id": 7}, "body.order_id"),
        ({"order_id": None}, "body.order_id"),
        ({"customer_id": "C\0"}, "body.customer_id"),
        ({"customer_id": "\ud800"}, "body.customer_id"),
        ({"currency": "EURO"}, "body.currency"),
        ({"currency": "eur"}, "body.currency"),
        ({"currency": "E\ud800"}, "body.currency"),
        ({"promised_at": "2099-01-01T00:00:00"}, "body.promised_at"),
        ({"promised_at": "2099-01-01"}, "body.promised_at"),
        ({"promised_at": "tomorrow"}, "body.promised_at"),
        ({"promised_at": "2099-13-01T00:00:00Z"}, "body.promised_at"),
        ({"promised_at": "9999-12-31T23:59:59-23:59"}, "body.promised_at"),
        ({"placed_at": "0001-01-01T00:00:00+23:59"}, "body.placed_at"),
        ({"placed_at": None}, "body.placed_at"),
        ({"promised_at": "2000-01-01T00:00:00Z"}, "body.promised_at"),
        ({"lines": []}, "body.lines"),
        ({"lines": {}}, "body.lines"),
        ({"lines": "[]"}, "body.lines"),
        ({"lines_known": "perhaps"}, "body.lines_known"),
        ({"lines_known": False}, "body.lines"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_bad_field_is_named(client: httpx.Client, changes: dict[str, Any], field: str) -> None:
    body = json.dumps(order("O-bad") | changes)  # escapes a lone surrogate
    answer = client.post("/orders", content=body, headers={"Content-Type": "application/json"})
    said = assert_problem(answer, 422, "invalid")
    assert field in {error["field"] for error in said["errors"]}, said["errors"]
    assert not any("Value error" in error["rule"] for error in said["errors"])
    assert "Traceback" not in answer.text


def test_a_rule_over_several_fields_tells_the_field_and_its_value(client: httpx.Client) -> None:
    window = {"starts_at": "2099-01-02T08:00:00Z", "ends_at": "2099-01-02T07:00:00Z"}
    answer = client.post("/orders", json=order("O-bad") | {"delivery_window": window})
    [error] = assert_problem(answer, 422, "invalid")["errors"]
    assert error["field"] == "body.delivery_window.ends_at"
    assert error["value"] == window["ends_at"]
    assert error["rule"].startswith("must be after starts_at")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"unit_price_minor": -1}, "unit_price_minor"),
        ({"unit_price_minor": 10**15 + 1}, "unit_price_minor"),
        ({"unit_price_minor": 10**400}, "unit_price_minor"),
        ({"unit_price_minor": 19.99}, "unit_price_minor"),
        ({"unit_price_minor": "free"}, "unit_price_minor"),
        ({"freight_minor": -1}, "freight_minor"),
        ({"quantity": "0"}, "quantity"),
        ({"quantity": "-1"}, "quantity"),
        ({"quantity": "0.0001"}, "quantity"),
        ({"quantity": "NaN"}, "quantity"),
        ({"quantity": "Infinity"}, "quantity"),
        ({"quantity": "1e400"}, "quantity"),
        ({"quantity": "1e-400"}, "quantity"),
        ({"quantity": float("nan")}, "quantity"),
        ({"quantity": float("inf")}, "quantity"),
        ({"weight_g": -1}, "weight_g"),
        ({"weight_g": 10**18}, "weight_g"),
        ({"line_no": 0}, "line_no"),
        ({"sku": "a/b"}, "sku"),
        ({"colour": "red"}, "colour"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_bad_field_of_a_line_is_named(
    client: httpx.Client, changes: dict[str, Any], field: str
) -> None:
    [line] = order("O-bad")["lines"]
    body = json.dumps(order("O-bad", lines=[line | changes]))
    answer = client.post("/orders", content=body, headers={"Content-Type": "application/json"})
    said = assert_problem(answer, 422, "invalid")
    assert [error["field"] for error in said["errors"]] == [f"body.lines.0.{field}"]


def test_a_field_name_that_cannot_be_written_is_refused(client: httpx.Client) -> None:
    for name in ("\\ud800", "\\u0000", "x" * 10_000):
        body = json.dumps(order("O-bad"))[:-1] + f', "{name}": 1}}'
        answer = client.post("/orders", content=body, headers={"Content-Type": "application/json"})
        assert_problem(answer, 422, "invalid")
        assert len(answer.content) < 3_000


@pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800", "\\udfff\\ud800", ""])
def test_a_text_that_cannot_be_stored_is_refused(client: httpx.Client, text: str) -> None:
    body = f'{{"site_id": "S-text", "name": "{text}"}}'
    answer = client.post("/sites", content=body, headers={"Content-Type": "application/json"})
    said = assert_problem(answer, 422, "invalid")
    assert [error["field"] for error in said["errors"]] == ["body.name"]


def test_a_text_of_any_script_is_stored_as_it_is(client: httpx.Client) -> None:
    name = "Zürich 倉庫 🏭 \u202e\\N \"x\" 'y' {z} %s \u0001\u007f\ufffe"
    sent = accepted(client.post("/sites", json={"site_id": "S-script", "name": name}))
    shown = client.get("/sites/S-script", params={"min_position": sent["position"]})
    assert found(shown)["name"] == name
    closed = accepted(client.post("/sites/S-script/close", json={"reason": name}))
    trail = client.get("/audit", params={"min_position": closed["position"], "limit": 500})
    assert f"Site S-script was closed: {name}" in {
        line["sentence"] for line in found(trail)["items"]
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"order_id": }',
        b"[]",
        b'"text"',
        b"null",
        b"7",
        b"\xff\xfe",
        b"\x00",
        b"[" * 50_000,
        b'{"a":' * 50_000,
        b"[" * 50_000 + b"]" * 50_000,
        b'{"lines": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda content: ascii(content[:14]),
)
def test_a_body_that_is_no_command_is_refused(client: httpx.Client, content: bytes) -> None:
    answer = client.post("/orders", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert_problem(answer, answer.status_code, "invalid" if answer.status_code == 422 else None)
    assert len(answer.content) < 5_000


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "x", ""]
)
def test_another_content_type_is_refused(client: httpx.Client, kind: str) -> None:
    answer = client.post(
        "/orders", content=json.dumps(order("O-type")), headers={"Content-Type": kind}
    )
    assert_problem(answer, 415, "unsupported-media-type")


def test_a_body_that_is_too_large_is_refused(client: httpx.Client) -> None:
    large = b" " * (MAX_BODY + 1)
    headers = {"Content-Type": "application/json"}

    def in_pieces() -> Iterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    for content in (large, in_pieces()):
        answer = client.post("/orders", content=content, headers=headers)
        assert_problem(answer, 413, "body-too-large")
    padded = json.dumps(order("O-large")).encode()
    padded += b" " * (MAX_BODY - len(padded))
    accepted(client.post("/orders", content=padded, headers=headers))


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb", "\xe9"])
def test_a_bad_idempotency_key(client: httpx.Client, key: str) -> None:
    answer = client.post(
        "/orders", json=order("O-key"), headers={b"Idempotency-Key": key.encode("latin-1")}
    )
    said = assert_problem(answer, 422, "invalid")
    assert [error["field"].lower() for error in said["errors"]] == ["header.idempotency-key"]


@pytest.mark.parametrize(
    "path",
    [
        "/orders?limit=0",
        "/orders?limit=501",
        "/orders?limit=x",
        f"/orders?limit={'9' * 5000}",
        "/orders?status=unknown",
        "/orders?status=placed%0A",
        "/orders?status=placed'--",
        "/orders?customer_id=%00",
        "/orders?region=DE%20BE",
        "/orders?min_position=-1",
        "/orders?min_position=x",
        f"/orders?min_position={2**63}",
        "/stock?sku=%ED%A0%80",
        "/stock?site_id=a/b",
        "/kpis/daily?first=2026-02-30",
        "/kpis/daily?last=x",
        "/audit?area=everything",
        "/audit?stream_id=x",
        "/decisions?stage=x",
        "/orders/%20",
        "/orders/%00",
        "/orders/-x",
        f"/orders/{'x' * 65}",
        "/orders/O-1%0A",
        "/sites/%ED%A0%80",
        "/models/x",
        f"/models/{'A' * 64}",
        "/decisions/x%00",
        "/decisions?model_hash=x",
        "/decisions?kind=%00",
        "/decisions/D-1/explanation?candidate=-1",
        "/models/alerts?open=perhaps",
        "/models/deployments?model_hash=x",
        "/models/live?kind=a/b",
        "/policies/a%20b",
        "/stream?after=-1",
        "/stream?after=x",
        f"/stream?after={2**63}",
    ],
)
def test_a_bad_parameter(client: httpx.Client, path: str) -> None:
    assert_problem(send(client, "GET", path), 422, "invalid")


@pytest.mark.parametrize("header", ["X-Min-Position", "Last-Event-ID"])
@pytest.mark.parametrize("value", ["-1", "x", str(2**63)])
def test_a_bad_position_in_a_header(client: httpx.Client, header: str, value: str) -> None:
    path = "/stream" if header == "Last-Event-ID" else "/orders"
    assert_problem(send(client, "GET", path, headers={header: value}), 422, "invalid")


CURSORS = [
    "x",
    "%%%",
    "é",
    "",
    encode([]),
    encode([1, 2, 3]),
    encode(["\0"]),
    encode(["\0", "\0"]),
    encode(["\ud800"]),
    encode(["\ud800", "\ud800"]),
    encode(["2026-01-01T00:00:00+00:00", "\ud800"]),
    encode(["2026-01-01T00:00:00+00:00", "\0"]),
    encode(["2026-01-01", "\ud800"]),
    encode([None]),
    encode([None, None]),
    encode([True]),
    encode([1.5]),
    encode([2**63]),
    encode([{}, []]),
    "bnVsbA",
    "W1tbW1tbW1tb" * 40,
]


@pytest.mark.parametrize("cursor", CURSORS, ids=range(len(CURSORS)))
@pytest.mark.parametrize(
    "path",
    [
        "/orders",
        "/sites",
        "/stock",
        "/vehicles",
        "/routes",
        "/decisions",
        "/models",
        "/models/live",
        "/models/deployments",
        "/models/alerts",
        "/policies",
        "/kpis/daily",
        "/kpis/decisions",
        "/audit",
        "/audit/heads",
    ],
)
def test_a_cursor_of_nobodys_making(client: httpx.Client, path: str, cursor: str) -> None:
    answer = client.get(path, params={"cursor": cursor})
    if answer.status_code == 200:
        # An empty one is none; an honest one may be of another list with keys of the same types.
        assert cursor == ""
        return
    assert_problem(answer, 422, "bad-cursor")


def test_a_timelines_bad_cursor(client: httpx.Client) -> None:
    accepted(client.post("/orders", json=order("O-cursor")))
    for cursor in ("x", encode(["1"]), encode([2**64]), encode([1, 2])):
        answer = client.get("/orders/O-cursor/timeline", params={"cursor": cursor})
        assert_problem(answer, 422, "bad-cursor")


def test_a_cursor_that_is_too_long(client: httpx.Client) -> None:
    assert_problem(client.get("/orders", params={"cursor": "x" * 501}), 422, "invalid")


def test_cursors_at_the_edge_of_time(client: httpx.Client) -> None:
    for moment in (
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59.999999-23:59",
        "2026-01-01T00:00:00+00:00:01",
    ):
        page = found(client.get("/orders", params={"cursor": encode([moment, "O"])}))
        assert page["next_cursor"] is None


@pytest.mark.parametrize(
    "text", ["' OR 1=1 --", '"; DROP TABLE events; --', "%", "_", "$1", "%(after)s", "\\", "*"]
)
def test_filters_are_values_and_never_sql(client: httpx.Client, text: str) -> None:
    sent = accepted(client.post("/orders", json=order(f"O-{uuid4()}")))
    for path, name in (
        ("/orders", "customer_id"),
        ("/orders", "region"),
        ("/orders", "status"),
        ("/stock", "sku"),
        ("/vehicles", "site_id"),
        ("/routes", "site_id"),
        ("/decisions", "subject_id"),
        ("/audit", "area"),
    ):
        assert_problem(client.get(path, params={name: text}), 422, "invalid")
    assert_problem(client.get(f"/orders/{quote(text, safe='')}"), 422, "invalid")
    # A cursor's text is the one that reaches the database as it came.
    page = client.get("/sites", params={"cursor": encode([text]), "limit": 1})
    assert {site["site_id"] > "" for site in found(page)["items"]} <= {True}
    after = found(client.get("/orders", params={"min_position": sent["position"]}))
    assert after["items"]


# What is not there, and what is not allowed as things stand


def test_an_unknown_path_and_a_wrong_method(client: httpx.Client, nobody: httpx.Client) -> None:
    for path in ("/nothing", f"{API}/nothing", f"{API}/orders/O-1/nothing", f"{API}/../etc"):
        assert_problem(nobody.get(path), 404, "not-found")
    for method in ("PUT", "DELETE", "PATCH"):
        answer = client.request(method, "/orders")
        assert_problem(answer, 405, "method-not-allowed")
    assert "POST" in client.put("/orders/O-1/ship").headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        "/orders/O-none",
        "/orders/O-none/timeline",
        "/sites/S-none",
        "/vehicles/V-none",
        "/decisions/D-none",
        "/decisions/D-none/explanation",
        "/decisions/D-none/explanation/waterfall.svg",
        "/decisions/D-none/counterfactual",
        f"/models/{HASH}",
        f"/models/{HASH}/card",
        f"/models/{HASH}/months",
        f"/models/{HASH}/measurements",
        "/policies/weather",
    ],
)
def test_what_is_not_known(client: httpx.Client, path: str) -> None:
    assert_problem(client.get(path), 404, "not-found")


def test_replays_wait_for_each_other_and_nobody_else(
    client: httpx.Client, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = [0], [0]
    go = Event()

    async def slow(*_: object) -> list[Replayed]:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.to_thread(go.wait, 30)
        running[0] -= 1
        return [Replayed("D-1", 1, "fulfilment", True, "", "", 1)]

    monkeypatch.setattr("chainlytics.cli.server.replay", slow)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(client.post, f"/decisions/D-{n}/replay") for n in range(3)]
        until(lambda: running[0] or None)
        try:
            found(client.get("/health"))
        finally:
            go.set()
        assert [one.result().status_code for one in asked] == [200] * 3
    assert most == [1]


def test_replay_of_what_was_never_decided(client: httpx.Client) -> None:
    assert_problem(client.post("/decisions/D-none/replay"), 404, "not-found")


def test_a_refusal_has_the_status_of_its_rule(served: Served) -> None:
    with served.client(organisation_id=uuid4()) as client:

        def refused(path: str, status: int, code: str, **body: Any) -> dict[str, Any]:
            return assert_problem(client.post(path, json=body), status, code)

        refused("/orders/O-1/ship", 404, "order.unknown")
        refused("/sites/S-1/close", 404, "site.unknown", reason="x")
        refused("/stock/S-1/A/receive", 404, "site.unknown", quantity="1")
        refused(f"/models/{HASH}/approve", 404, "model.unknown")
        outcome = {"occurred": True, "followed": True}
        refused("/decisions/D-1/outcome", 404, "decision.unknown", **outcome)
        refused("/decisions/D-1/confirm", 404, "decision.unknown")
        back = {"to": "1" * 64, "reason": "x"}
        refused(f"/models/{HASH}/rollback", 404, "model.unknown", **back)
        refused("/decisions", 404, "order.unknown", subject_id="O-1")
        refused("/decisions", 422, "decision.unknown_kind", subject_id="O-1", kind="weather")

        accepted(client.post("/sites", json={"site_id": "S-1"}))
        accepted(client.post("/sites", json={"site_id": "S-2"}))
        [line] = order("O-1")["lines"]
        accepted(client.post("/orders", json=order("O-1", lines=[line | {"site_id": "S-2"}])))
        accepted(client.post("/orders", json=order("O-2", lines=[], lines_known=False)))
        accepted(client.post("/orders", json=order("O-3")))
        again = refused("/orders", 409, "order.already_placed", **order("O-1"))
        assert again["context"] == {"order_id": "O-1", "status": "placed"}
        refused("/sites", 409, "site.already_opened", site_id="S-1")
        refused("/orders/O-1/ship", 409, "order.not_allocated")
        refused("/orders/O-1/deliver", 409, "order.not_shipped")
        refused("/stock/S-1/A/pick", 409, "stock.not_enough", quantity="1")
        refused("/orders/O-1/allocate", 422, "order.line_sold_by_another_site", site_id="S-1")
        refused("/orders/O-2/allocate", 422, "order.lines_not_known", site_id="S-1")
        lines = [{"line_no": 9, "site_id": "S-1"}]
        refused("/orders/O-3/allocate", 422, "order.no_such_line", site_id="S-1", line_sites=lines)
        level = {"site_id": "S-1", "service_level": "rocket"}
        refused("/orders/O-3/allocate", 422, "site.service_level_not_offered", **level)


def test_a_read_model_that_is_behind_says_so(client: httpx.Client) -> None:
    answer = client.get("/orders", params={"min_position": FAR})
    said = assert_problem(answer, 503, "read-model-behind")
    assert str(FAR) in said["detail"]
    assert answer.headers["retry-after"] == "1"


# What the answers carry


def test_the_correlation_id_goes_into_events_and_answers(client: httpx.Client) -> None:
    mine = uuid4()
    trace = uuid4().hex
    for number, (headers, expected) in enumerate(
        [
            ({"X-Correlation-ID": str(mine)}, mine),
            ({"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}, UUID(trace)),
            (
                {
                    "traceparent": f"00-{trace}-00f067aa0ba902b7-00",
                    "X-Correlation-ID": str(mine),
                },
                UUID(trace),
            ),
        ]
    ):
        answer = client.post("/orders", json=order(f"O-trace-{number}"), headers=headers)
        assert answer.headers["x-correlation-id"] == str(expected)
        trail = client.get(
            "/audit", params={"min_position": accepted(answer)["position"], "limit": 500}
        )
        [line] = [
            line
            for line in found(trail)["items"]
            if line["position"] == accepted(answer)["position"]
        ]
        assert line["correlation_id"] == str(expected)
        refused = client.get("/orders/O-none", headers=headers)
        assert assert_problem(refused, 404)["correlation_id"] == str(expected)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Correlation-ID": "mine"},
        {"X-Correlation-ID": ""},
        {"traceparent": "x"},
        {"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"},
        {"traceparent": f"ff-{'a' * 32}-00f067aa0ba902b7-01"},
    ],
)
def test_a_bad_correlation_id_is_replaced(client: httpx.Client, headers: dict[str, str]) -> None:
    ids = {client.get("/orders", headers=headers).headers["x-correlation-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(UUID(one).version == 4 for one in ids)


@contextmanager
def broken(app: FastAPI, error: BaseException) -> Iterator[list[MutableMapping[str, Any]]]:
    """The application, with a replay that raises; what is logged meanwhile is given."""
    whole: Dependencies = app.state.dependencies

    async def fail(organisation_id: UUID, decision_id: str) -> list[Replayed]:
        raise error

    app.state.dependencies = replace(whole, replay=fail)
    try:
        with capture_logs() as logs:
            yield logs
    finally:
        app.state.dependencies = whole


def test_an_unexpected_error_tells_nothing(client: httpx.Client, app: FastAPI) -> None:
    error = RuntimeError("password=hunter2 in /srv/secret.py")
    with broken(app, error) as logs:
        answer = client.post("/decisions/D-1/replay")
    said = assert_problem(answer, 500, "unexpected")
    assert "errors" not in said
    [line] = [line for line in logs if line["event"] == "unexpected error"]
    assert line["exc_info"] is error
    for word in ("hunter2", "secret.py", "RuntimeError", "Traceback", "File"):
        assert word not in answer.text
    # The connection goes on.
    assert_problem(client.post("/decisions/D-1/replay"), 404)


def test_a_row_that_cannot_be_read_is_our_fault(client: httpx.Client, app: FastAPI) -> None:
    """A pydantic error that the sender has not caused is not a 422."""
    with pytest.raises(ValueError, match="TimelineEntry") as caught:
        TimelineEntry.model_validate({"position": "hunter2"})
    with broken(app, caught.value):
        answer = client.post("/decisions/D-1/replay")
    assert_problem(answer, 500, "unexpected")
    assert "hunter2" not in answer.text


def test_a_database_that_gives_no_connection_is_a_503(client: httpx.Client, app: FastAPI) -> None:
    with broken(app, LogUnavailable("the database gave no connection in time")):
        answer = client.post("/decisions/D-1/replay")
    assert_problem(answer, 503, "log-unavailable")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [(ArchiveUnavailable, "archive-unavailable", "5"), (ArchiveDamaged, "archive-damaged", None)],
)
def test_an_archive_that_is_away_is_a_503_that_does_not_say_where_it_is(
    client: httpx.Client,
    app: FastAPI,
    error: type[ArchiveUnavailable],
    code: str,
    retry: str | None,
) -> None:
    with broken(app, error("sftp://ana:hunter2@store.example/log/1.parquet cannot be read")):
        answer = client.post("/decisions/D-1/replay")
    assert_problem(answer, 503, code)
    assert answer.headers.get("retry-after") == retry
    for word in ("hunter2", "store.example", "parquet"):
        assert word not in answer.text


# Whose business it is


def test_another_organisation_sees_nothing(served: Served) -> None:
    mine, other = uuid4(), uuid4()
    last = 0
    vehicle = BODIES["RegisterVehicle"] | {"vehicle_id": "V-1", "site_id": "S-1"}
    with served.client(organisation_id=mine) as client:
        for path, body in (
            ("/sites", {"site_id": "S-1", "name": "secret-site"}),
            ("/stock/S-1/A/receive", {"quantity": "3"}),
            ("/vehicles", vehicle),
            ("/routes/forbid", {"site_id": "S-1", "region": "DK", "reason": "customs"}),
            ("/orders", order("O-1", customer_id="secret-customer")),
            ("/policies/fulfilment", {"minimum_confidence": 0.5}),
            ("/decisions", {"decision_id": "D-1", "subject_id": "O-1"}),
        ):
            last = accepted(client.post(path, json=body))["position"]
        lists = ["/orders", "/sites", "/stock", "/vehicles", "/routes", "/decisions"]
        lists += ["/kpis/daily", "/kpis/decisions", "/policies", "/audit"]
        singles = ["/orders/O-1", "/orders/O-1/timeline", "/sites/S-1", "/vehicles/V-1"]
        singles += ["/decisions/D-1"]
        for path in lists + singles:
            found(client.get(path, params={"min_position": last}))
        stream_id = found(client.get("/audit"))["items"][0]["stream_id"]
        cursor = found(client.get("/audit", params={"limit": 1}))["next_cursor"]
        for path in lists:
            assert found(client.get(path))["items"], path
    with served.client(*Role, organisation_id=other) as client:
        lists += ["/models", "/models/live", "/models/deployments", "/models/alerts"]
        for path in lists:
            page = found(client.get(path, params={"min_position": last}))
            assert page == {"items": [], "next_cursor": None}, path
        for path in singles:
            assert_problem(client.get(path), 404, "not-found")
        assert found(client.get("/audit", params={"stream_id": stream_id}))["items"] == []
        assert found(client.get("/audit", params={"cursor": cursor}))["items"] == []
        assert_problem(client.get("/decisions/D-1/explanation"), 404)
        assert_problem(client.post("/decisions/D-1/replay"), 404)
        for path, body in (
            ("/orders/O-1/cancel", {"reason": "x"}),
            ("/orders/O-1/allocate", {"site_id": "S-1"}),
            ("/sites/S-1/close", {"reason": "x"}),
            ("/stock/S-1/A/pick", {"quantity": "1"}),
            ("/vehicles", vehicle),
            ("/vehicles/V-1/retire", {"reason": "x"}),
            ("/routes/allow", {"site_id": "S-1", "region": "DK"}),
            ("/decisions", {"subject_id": "O-1"}),
            ("/decisions/D-1/outcome", {"occurred": True, "followed": True}),
            ("/decisions/D-1/contest", {"reason": "x"}),
        ):
            answer = client.post(path, json=body)
            assert answer.json()["type"].endswith(".unknown"), path
            assert_problem(answer, 404)
        # The names are free for the other organisation's own things.
        accepted(client.post("/sites", json={"site_id": "S-1", "name": "theirs"}))
        accepted(client.post("/orders", json=order("O-1", customer_id="theirs")))
    with served.client(organisation_id=mine) as client:
        assert found(client.get("/orders/O-1"))["customer_id"] == "secret-customer"
        assert found(client.get("/orders/O-1"))["status"] == "placed"


# What is documented


def test_the_document_describes_every_operation(app: FastAPI, schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.")
    assert schema["info"]["title"] == "Chainlytics"
    ids = [operation["operationId"] for _, _, operation in operations(schema)]
    assert len(ids) == len(set(ids))
    assert set(ids) >= permissions(app).keys()
    for method, path, operation in operations(schema):
        assert operation["summary"], path
        assert operation.get("description"), path
        if operation["operationId"] in PUBLIC:
            assert "security" not in operation
            continue
        assert operation["security"] == [{"HTTPBearer": []}], path
        statuses = set(operation["responses"])
        assert {"401", "403", "422", "503"} <= statuses, path
        assert ("404" in statuses) or "{" not in path, path
        if operation["operationId"] in COMMAND_OF:
            assert method == "POST"
            assert {"409", "413"} <= statuses, path
            [media] = operation["requestBody"]["content"].values()
            assert media["examples"], path
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert answer["content"]["application/problem+json"]["schema"] == {
                    "$ref": "#/components/schemas/Problem"
                }, (path, status)


def test_every_reference_of_the_document_leads_somewhere(schema: dict[str, Any]) -> None:
    references = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(schema)))
    assert references
    assert references <= schema["components"]["schemas"].keys()
    assert "HTTPValidationError" not in references


def test_the_examples_of_the_document_are_good(served: Served, schema: dict[str, Any]) -> None:
    """Sent as they stand they may be refused by a rule, never by form."""
    with served.client(*Role, organisation_id=uuid4(), actor=ACCOUNT) as client:
        sent = 0
        for method, path, operation in operations(schema):
            if operation["operationId"] not in COMMAND_OF:
                continue
            [media] = operation["requestBody"]["content"].values()
            for example in media["examples"].values():
                answer = client.request(method, served.url + filled(path), json=example["value"])
                if answer.status_code >= 400:
                    assert RULE.search(answer.json()["type"]), (path, answer.text)
                sent += 1
    assert sent >= len(HANDLERS) - len(INTERNAL)


def test_every_refusals_code_has_its_status() -> None:
    """What the rules may refuse is told from a broken form and from what another person may."""
    found = RULES.keys()  # tests/test_problems.py sees that it is what the code refuses
    assert found >= NOT_THIS_PERSON | UNPROCESSABLE
    for code in NOT_THIS_PERSON:
        assert status_of(Refused(code)) == 403
    for code in UNPROCESSABLE:
        assert status_of(Refused(code)) == 422
    for code in NOT_SET_UP:
        assert status_of(Refused(code)) == 503
    assert found >= NOT_SET_UP
    for code in found - NOT_THIS_PERSON - UNPROCESSABLE - NOT_SET_UP:
        assert status_of(Refused(code)) == (404 if code.endswith(".unknown") else 409)
    conflicts = {
        "decision.already_contested",
        "decision.waits_for_people",
        "model.no_role",
        "model.not_champion",
        "model.stopped",
        "model.worse_than_baseline",
    }
    assert conflicts <= found - NOT_THIS_PERSON - UNPROCESSABLE
