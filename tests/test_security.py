"""Attacks over real HTTP on a real process: what is tried, and that nothing comes of it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from argon2 import PasswordHasher
from psycopg import sql
from starlette.requests import Request

from api.errors import unexpected
from api.identity.local import LocalTokens
from chainlytics.telemetry import configure_logs
from domain.access import Role
from tests.serving import (
    API,
    NO_TLS,
    SECRET,
    Served,
    accepted,
    assert_problem,
    bearer,
    found,
    operations,
    order,
    send,
    serving_process,
    until,
)

HASH = "0" * 64
#: Stands in everything that is a secret below.
MARK = "s3cr3tZqX9"


@dataclass(frozen=True)
class Here:
    """A running server, its database and where it logs."""

    served: Served
    database: str
    log: Path


@pytest.fixture(scope="module")
def here(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    home = tmp_path_factory.mktemp("home")
    with serving_process(database, home) as (served, _):
        yield Here(served, database, home / "serve.log")


@pytest.fixture(scope="module")
def served(here: Here) -> Served:
    return here.served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(Role.ADMIN, Role.SERVICE, organisation_id=uuid4()) as client:
        yield client


@pytest.fixture(scope="module")
def schema(served: Served) -> dict[str, Any]:
    with served.nobody() as nobody:
        document: dict[str, Any] = found(nobody.get("/openapi.json"))
    return document


def filled(path: str, name: str = "X-none") -> str:
    """A path with names in the place of its parameters."""
    known = {
        "model_hash": HASH,
        "kind": "fulfilment",
        "person": str(UUID(int=0)),
        "topic": "orders.OrderPlaced.v1",
        "position": "1",
    }
    return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], name), path)


def raw(served: Served, request: bytes, *, seconds: float = 3) -> bytes:
    """What the server says to these bytes, until it is silent for so long; the first word may take
    longer, on a machine that runs many tests."""
    host, port = served.url.removeprefix("http://").split(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        try:
            while part := connection.recv(65_536):
                said += part
                connection.settimeout(seconds)
        except TimeoutError:
            pass
    return said


def head(token: str, *lines: str, method: str = "POST", path: str = "/orders") -> bytes:
    """The beginning of a request."""
    first = [f"{method} {API}{path} HTTP/1.1", "Host: x", f"Authorization: {token}"]
    return "\r\n".join([*first, *lines, "", ""]).encode("latin-1")


# Injection

TEXTS = [
    "'; DROP TABLE events; --",
    "x' OR '1'='1",
    "$$; SELECT pg_sleep(9); $$",
    "%s %(organisation_id)s {0} {organisation_id}",
    "<script>alert(1)</script>",
    "{{7*7}} ${7*7} #{7*7}",
    "\r\nSet-Cookie: a=b",
    "=cmd|' /C calc'!A0",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_text_is_a_text_wherever_it_stands(client: httpx.Client, text: str) -> None:
    site = f"S-{uuid4().hex[:8]}"
    accepted(client.post("/sites", json={"site_id": site, "name": text}))
    last = accepted(client.post(f"/sites/{site}/close", json={"reason": text}))["position"]
    shown = client.get(f"/sites/{site}", params={"min_position": last})
    assert found(shown)["name"] == text
    assert shown.headers["content-type"] == "application/json"
    assert shown.headers["x-content-type-options"] == "nosniff"
    trail = found(client.get("/audit", params={"limit": 500, "min_position": last}))
    assert any(line["sentence"].endswith(f"was closed: {text}") for line in trail["items"])


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_parameter_is_a_value_or_refused(client: httpx.Client, text: str) -> None:
    for path, name in (
        ("/orders", "sort"),
        ("/orders", "fields"),
        ("/orders", "cursor"),
        ("/orders", "as_of"),
        ("/orders", "customer_id"),
        ("/orders", "placed_since"),
        ("/decisions", "role"),
        ("/stock", "below"),
        ("/audit/commands", "actor"),
        ("/audit/commands", "stream"),
    ):
        answer = client.get(path, params={name: text})
        assert answer.status_code in (200, 422), (path, name, answer.text)
        assert "set-cookie" not in answer.headers
        if answer.status_code == 200:
            assert found(answer)["items"] == []
    found(client.get("/orders"))  # the log is still there


# Path traversal

PATHS = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//etc/passwd",
]


@pytest.mark.parametrize("path", [*PATHS, "/etc/passwd", "..\\..\\windows", "%00"])
def test_no_path_leads_out_of_what_is_served(
    served: Served, client: httpx.Client, path: str
) -> None:
    for base in ("/assets", f"{API}/orders", f"{API}/schemas", f"{API}/uploads", f"{API}/tasks"):
        request = head(client.headers["authorization"], "Connection: close", method="GET", path="")
        said = raw(served, request.replace(f"{API} HTTP".encode(), f"{base}/{path} HTTP".encode()))
        status = int(said.split(b" ", 2)[1])
        assert status in (307, 400, 404, 405, 422), (base, path, said[:200])
        assert b"root:" not in said


def test_an_upload_has_no_name_of_its_senders(here: Here, client: httpx.Client) -> None:
    """What a file is called is nobody's business: it is kept under an id that is made here."""
    for name in ("../../../../tmp/owned", "/etc/cron.d/x", "..\\x", "x\0y"):
        headers = {
            "Content-Type": "text/csv",
            "Content-Disposition": f'attachment; filename="{name}"'.replace("\0", "%00"),
            "X-File-Name": name.replace("\0", "%00"),
            "Slug": name.replace("\0", "%00"),
        }
        stored = client.post("/uploads", content=b"a,b\n1,2\n", headers=headers)
        assert stored.status_code == 201, stored.text
        UUID(stored.json()["upload_id"])
        assert_problem(client.post("/uploads", content=b"a", params={"filename": name}), 422)
    assert not Path("/tmp/owned").exists()
    upload = {"upload_id": "../../etc/passwd"}
    body = {"files": {"orders.csv": upload["upload_id"]}, "mapping": "../../etc/passwd"}
    answer = client.post("/tasks/import", json=body)
    assert answer.status_code in (404, 422), answer.text
    assert "root:" not in answer.text


# Mass assignment

FORBIDDEN = {
    "organisation_id": str(uuid4()),
    "actor": "root",
    "roles": ["admin"],
    "version": 7,
    "position": 1,
    "status": "delivered",
    "is_admin": True,
    "recorded_at": "2020-01-01T00:00:00Z",
    "command_id": str(uuid4()),
    "expected": {"any_version": True},
    "__class__": "x",
    "constructor": {},
}


def test_no_field_is_set_that_is_not_offered(client: httpx.Client, schema: dict[str, Any]) -> None:
    tried = 0
    for method, path, operation in operations(schema):
        if method == "GET" or "application/json" not in operation.get("requestBody", {}).get(
            "content", {}
        ):
            continue
        body_schema = operation["requestBody"]["content"]["application/json"]["schema"]
        named = body_schema.get("$ref", "").rpartition("/")[2]
        offered = schema["components"]["schemas"].get(named, body_schema).get("properties", {})
        for name, value in FORBIDDEN.items():
            if name in offered or path.endswith("/preferences"):  # they hold what one likes
                continue
            answer = client.request(method, filled(path).removeprefix(API), json={name: value})
            assert answer.status_code in (401, 403, 422), (path, name, answer.text)
            if answer.status_code == 422 and answer.json().get("errors"):
                told = {error["field"] for error in answer.json()["errors"]}
                assert f"body.{name}" in told, (path, name, told)
            tried += 1
    assert tried > 400


def test_who_acts_is_who_the_token_says(client: httpx.Client) -> None:
    headers = {
        "X-Actor": "root",
        "X-User": "root",
        "X-Roles": "admin",
        "X-Forwarded-User": "root",
        "X-HTTP-Method-Override": "DELETE",
    }
    last = accepted(client.post("/sites", json={"site_id": "S-who"}, headers=headers))["position"]
    trail = found(client.get("/audit", params={"min_position": last, "limit": 500}))["items"]
    assert {line["actor"] for line in trail} == {"tester"}


# Other people's things


def test_what_others_have_looks_like_what_nobody_has(
    served: Served, schema: dict[str, Any], client: httpx.Client
) -> None:
    """A stranger cannot tell by any answer whether an id is taken elsewhere."""
    accepted(client.post("/sites", json={"site_id": "S-idor"}))
    accepted(client.post("/orders", json=order("S-idor")))
    vehicle = {"vehicle_id": "S-idor", "site_id": "S-idor", "mode": "van"}
    accepted(client.post("/vehicles", json=vehicle | {"service_levels": ["standard"]}))
    decision = {"decision_id": "S-idor", "subject_id": "S-idor"}
    last = accepted(client.post("/decisions", json=decision))["position"]
    found(client.get("/orders/S-idor", params={"min_position": last}))
    seen = 0
    with served.client(*Role, organisation_id=uuid4()) as stranger:
        for method, path, operation in operations(schema):
            if "{" not in path or method not in ("GET", "POST", "DELETE"):
                continue
            url, none = (filled(path, name).removeprefix(API) for name in ("S-idor", "S-none"))
            if url == none:
                continue
            content = operation.get("requestBody", {}).get("content", {})
            examples = content.get("application/json", {}).get("examples", {})
            body: Any = next((one["value"] for one in examples.values()), {})
            theirs = send(stranger, method, url, json=body if method == "POST" else None)
            nobodys = send(stranger, method, none, json=body if method == "POST" else None)
            assert theirs.status_code == nobodys.status_code, (path, theirs.text, nobodys.text)
            if theirs.status_code == 200:  # a list of what is there: nothing
                assert found(theirs) == found(nobodys), path
                nothing: tuple[Any, ...] = ([], {"items": [], "next_cursor": None}, {"count": 0})
                assert found(theirs) in nothing, path
                continue
            one, other = theirs.json(), nobodys.json()
            assert one["type"] == other["type"]
            assert one["detail"].replace("S-idor", "S-none") == other["detail"]
            seen += 1
    assert seen > 25


def test_another_organisation_cannot_be_named(served: Served, client: httpx.Client) -> None:
    theirs = uuid4()
    with served.client(organisation_id=theirs) as owner:
        accepted(owner.post("/sites", json={"site_id": "S-mine"}))
    for answer in (
        client.get("/sites", headers={"X-Organisation-Id": str(theirs)}),
        client.post("/sites", json={"site_id": "S-x"}, headers={"X-Organisation-Id": str(theirs)}),
    ):
        assert answer.status_code in (403, 404), answer.text
    assert_problem(client.get("/sites", params={"organisation_id": str(theirs)}), 422)


# Headers that two servers may read differently


def test_one_key_and_no_other_is_read(served: Served, client: httpx.Client) -> None:
    token = client.headers["authorization"]
    body = json.dumps({"site_id": "S-key"})
    rest = ["Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"]

    def ask(*lines: str) -> tuple[int, str]:
        said = raw(served, head(token, *rest, *lines, path="/sites") + body.encode())
        assert said.count(b"HTTP/1.1 ") == 1, said
        return int(said.split(b" ", 2)[1]), said.decode("latin-1")

    # Twice, with another name or behind a blank: refused, or no key at all.
    status, said = ask("Idempotency-Key: one", "Idempotency-Key: two")
    assert (status, "must be sent once" in said) == (422, True)
    status, said = ask("Idempotency-Key: one", "idempotency-key: one")
    assert status == 422
    for line in ("Idempotency-Key : one", "Idempotency-Key\x00: one", "Idempotency Key: one"):
        status, said = ask(line)
        assert status == 400, (line, said)
    status, said = ask("Idempotency-Key: one\r\n two")  # folded over two lines
    assert status in (400, 422), said
    status, _ = ask("Idempotency-Key: one\rX: y")
    assert status in (400, 422)
    # An underscore makes another header, which says nothing.
    assert ask("Idempotency_Key: under")[0] == 201
    assert ask("Idempotency_Key: under")[0] == 409
    # Blanks around a key are none of it, capitals in its name are.
    other = body.replace("S-key", "S-kez")
    loud = head(token, *rest, "IDEMPOTENCY-KEY: \t k1", path="/sites")
    assert raw(served, loud + other.encode()).startswith(b"HTTP/1.1 201")
    again = client.post("/sites", json={"site_id": "S-kez"}, headers={"Idempotency-Key": "k1"})
    assert accepted(again)["repeated"]


def test_a_key_is_its_organisations_alone(served: Served) -> None:
    answers = []
    for _ in range(2):
        with served.client(organisation_id=uuid4()) as client:
            sent = client.post(
                "/sites", json={"site_id": "S-same"}, headers={"Idempotency-Key": "same"}
            )
            answers.append(accepted(sent))
            other = client.post(
                "/sites", json={"site_id": "S-other"}, headers={"Idempotency-Key": "same"}
            )
            assert_problem(other, 409, "idempotency-key-reused")
    assert [one["repeated"] for one in answers] == [False, False]
    assert answers[0]["position"] != answers[1]["position"]


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: +5",),
        ("Content-Length: 5, 5",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding: xchunked",),
    ],
)
def test_a_body_of_two_lengths_is_refused(
    served: Served, client: httpx.Client, lines: tuple[str, ...]
) -> None:
    smuggled = b"0\r\n\r\nGET /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n"
    token = client.headers["authorization"]
    said = raw(served, head(token, "Content-Type: application/json", *lines) + smuggled)
    assert b'"status":"ok"' not in said.replace(b" ", b"")
    assert int(said.split(b" ", 2)[1]) >= 400
    assert said.count(b"HTTP/1.1 200") == 0


# Bodies that are too much


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' * 100_000,
        b"[" * 900_000,
        b'{"lines":' + b"[" * 33 + b"]" * 33 + b"}",
        b'{"quantity":' + b"9" * 100_000 + b"}",
        b'{"quantity":1e' + b"9" * 1000 + b"}",
        b'{"' + b"a" * 900_000 + b'":1}',
        b"[" + b'"x",' * 200_000 + b'"x"]',
        b'{"a":1,' * 1 + b",".join(b'"k%d":1' % n for n in range(50_000)) + b"}",
        "{}".encode("utf-16"),
        b"[" * 20_000 + b'"' + b'\\"' * 400_000,
    ],
    ids=range(10),
)
def test_a_body_that_would_cost_much_costs_little(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/orders", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text[:300]
    assert_problem(answer, answer.status_code)
    assert len(answer.content) < 30_000
    assert "Traceback" not in answer.text


def test_a_body_that_is_too_large_is_not_read(served: Served, client: httpx.Client) -> None:
    token = client.headers["authorization"]
    lines = ("Content-Type: application/json", "Content-Length: 99999999999")
    said = raw(served, head(token, *lines) + b"{", seconds=5)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"body-too-large" in said


def test_slow_bodies_hold_up_nobody(served: Served, client: httpx.Client) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    token = client.headers["authorization"]
    lines = ("Content-Type: application/json", "Content-Length: 1000")
    slow = []
    found(client.get("/orders"))  # it is known whose the token is
    try:
        for _ in range(200):
            connection = socket.create_connection((host, int(port)), timeout=5)
            connection.sendall(head(token, *lines) + b"{")
            slow.append(connection)
        found(client.get("/orders"))
        site = {"site_id": f"S-{uuid4().hex[:8]}"}
        # Whoever they are of has used up its share of them as soon as they are there; nobody else.
        until(lambda: True if client.post("/sites", json=site).status_code == 429 else None)
        found(client.get("/orders"))
        with served.client(actor="somebody else") as other:
            accepted(other.post("/sites", json=site))
    finally:
        for connection in slow:
            connection.close()


# Logs

FORGED = '\r\n{"event": "forged", "level": "critical"}\x1b[2J\x00'


@pytest.mark.parametrize("pretty", [False, True])
def test_what_a_sender_says_stays_in_its_line_of_the_log(
    capfd: pytest.CaptureFixture[str], pretty: bool
) -> None:
    configure_logs("INFO", pretty=pretty)
    try:
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/x{FORGED}",
            "headers": [],
            "query_string": b"",
            "server": ("x", 1),
            "scheme": "http",
        }
        unexpected(Request(scope), ValueError("one line"))
        logged = capfd.readouterr().err
    finally:
        configure_logs("INFO")
    assert "forged" in logged
    assert not any(line.startswith('{"event": "forged"') for line in logged.splitlines())
    assert "\x1b[2J" not in logged
    assert "\x00" not in logged
    if not pretty:
        [line] = logged.splitlines()
        assert json.loads(line)["event"] == "unexpected error"


def test_a_correlation_id_is_ours_unless_it_is_one(client: httpx.Client) -> None:
    for value in ("x", "a" * 5000, '{"event":"forged"}', "../../x", "%0d%0aX: y"):
        answer = client.get("/orders", headers={"X-Correlation-ID": value})
        assert str(UUID(answer.headers["x-correlation-id"])) != value
        found(answer)


# Secrets


def test_secrets_are_nowhere_to_be_found(here: Here, schema: dict[str, Any]) -> None:
    """Every endpoint is given secrets in every place; then logs and database are searched."""
    issued = _issued_secrets(here)
    good = bearer(*Role, organisation_id=uuid4(), actor="tester")
    headers = {
        "X-Api-Key": MARK,
        "Cookie": f"session={MARK}; refresh_token={MARK}",
        "Proxy-Authorization": f"Basic {MARK}",
        "X-Amz-Security-Token": MARK,
        "Referer": f"https://x/?token={MARK}",
        "User-Agent": f"agent {MARK}",
    }
    secrets = {"password": f"{MARK}-password", "token": f"{MARK}-token", "secret": f"{MARK}-s"}
    with here.served.nobody() as nobody:
        for authorization in (f"Bearer {good}", f"Bearer {MARK}.{MARK}.{MARK}", f"Basic {MARK}"):
            for method, path, _ in operations(schema):
                url = filled(path)
                mine = headers | {"Authorization": authorization}
                with_body = method != "GET"
                send(nobody, method, url, headers=mine, params={"access_token": MARK})
                send(nobody, method, url, headers=mine, json=secrets if with_body else None)
                if with_body:
                    broken = json.dumps(secrets)[:-3]
                    typed = mine | {"Content-Type": "application/json"}
                    send(nobody, method, url, headers=typed, content=broken)
        for name in ("login", "register"):
            email = {"email": "ada@example.org", "password": f"{MARK}-long-enough-password"}
            send(nobody, "POST", f"{API}/auth/{name}", json=email)
        for name in ("refresh", "verify"):
            send(nobody, "POST", f"{API}/auth/{name}", json={"token": MARK, "refresh_token": MARK})
    sleep(1.5)  # attempts are written behind
    logged = here.log.read_text(encoding="utf-8", errors="replace")
    needles = [MARK, SECRET, good, good.rpartition(".")[2], *issued]
    for needle in needles:
        assert needle not in logged, logged[max(0, logged.find(needle) - 300) :][:600]
    assert "Traceback" not in logged
    for table, row in rows_of(here.database):
        for needle in needles:
            assert needle not in row, (table, row[:500])


def _issued_secrets(here: Here) -> list[str]:
    """Secrets that the server has made itself, has shown once and has then been shown: an API key,
    an invitation's code, a webhook's secret, a refresh token."""
    account = uuid4()
    access, _ = LocalTokens(SECRET).issue(account, uuid4(), email="boss@example.org")
    with httpx.Client(verify=NO_TLS, base_url=here.served.url + API, timeout=60) as boss:
        boss.headers["Authorization"] = f"Bearer {access}"
        own = accepted(boss.post("/organisations", json={"name": "Secretive"}))["organisation_id"]
        boss.headers["X-Organisation-Id"] = own
        key = accepted(
            boss.post("/organisation/api-keys", json={"name": "scanner", "roles": ["service"]})
        )["key"]
        code = accepted(boss.post("/organisation/invitations", json={"roles": ["viewer"]}))["code"]
        hook = {"webhook_id": "hook", "url": "https://93.184.216.34/", "events": ["orders"]}
        secret = accepted(boss.post("/webhooks", json=hook))["secret"]
        with httpx.Client(verify=NO_TLS, base_url=boss.base_url, timeout=60) as other:
            other.headers["Authorization"] = f"Bearer {key}"
            assert other.get("/orders").status_code == 200
            other.headers["Authorization"] = f"Bearer {key[:-1]}"
            assert other.get("/orders").status_code == 401
            joining, _ = LocalTokens(SECRET).issue(uuid4(), uuid4(), email="ben@example.org")
            other.headers["Authorization"] = f"Bearer {joining}"
            joined = other.post("/invitations/accept", json={"code": code})
            assert joined.status_code == 200, joined.text
    password, email = "three quiet herons wade", f"{uuid4().hex}@example.org"
    with psycopg.connect(here.database) as connection:
        connection.execute(
            "INSERT INTO identity.accounts (id, email, password_hash) VALUES (%s, %s, %s)",
            (uuid4(), email, PasswordHasher().hash(password)),
        )
    with here.served.nobody() as nobody:
        signed = nobody.post(f"{API}/auth/login", json={"email": email, "password": password})
        refresh = found(signed)["refresh_token"]
        turned = nobody.post(f"{API}/auth/refresh", json={"refresh_token": refresh})
        newer = found(turned)["refresh_token"]
    # By the part that nobody could guess, whatever stands before it.
    secrets = [one.rpartition("_")[2] for one in (key, code, secret)]
    assert all(len(one) >= 32 for one in secrets), secrets
    return [access, *secrets, refresh, newer, password]


_HEX = re.compile(r"\\x((?:[0-9a-f]{2})+)")


def rows_of(database: str) -> Iterator[tuple[str, str]]:
    """Every row of every table as text, bytes as the text that they are."""
    with psycopg.connect(database) as connection:
        tables = connection.execute(
            """SELECT table_schema, table_name FROM information_schema.tables
            WHERE table_type = 'BASE TABLE'
              AND table_schema NOT IN ('pg_catalog', 'information_schema')"""
        ).fetchall()
        assert ("public", "events") in tables
        for schema, name in tables:
            table = sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(schema, name))
            for (row,) in connection.execute(table):
                yield f"{schema}.{name}", _HEX.sub(_text, row)


def _text(found: re.Match[str]) -> str:
    """Bytes as the text that they are."""
    return bytes.fromhex(found[1]).decode("utf-8", "replace")
