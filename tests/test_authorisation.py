"""Who may do what, over HTTP: accounts of a provider, what events say of them, and API keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import psycopg
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from api.dependencies import account, identity
from api.posts import POSTS
from api.routers import PREFIX
from commands import HANDLERS
from domain.access import Role
from domain.values import Command
from ml.catalogue import HANDLERS as ALL_HANDLERS
from readmodels.access import QUERIES
from tests.serving import NO_TLS, Served, assert_problem, get, post, serving_here, until

ISSUER = "https://project.example/auth"
SHARED = "shared with a provider in this test only"
PROVIDERS = [{"kind": "nhost", "name": "nhost", "issuer": ISSUER, "secret": SHARED}]


@pytest.fixture(scope="module")
def running(
    database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, FastAPI]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAINLYTICS_IDENTITY_PROVIDERS", json.dumps(PROVIDERS))
        with serving_here(database, tmp_path_factory.mktemp("home")) as running:
            yield running


@pytest.fixture(scope="module")
def served(running: tuple[Served, FastAPI]) -> Served:
    return running[0]


class Person:
    """Somebody with an account of the provider."""

    def __init__(self, served: Served) -> None:
        self.subject = str(uuid4())
        self.member = f"nhost:{self.subject}"
        self.client = httpx.Client(
            verify=NO_TLS,
            base_url=served.url + PREFIX,
            headers={"Authorization": f"Bearer {token(self.subject)}"},
            timeout=60,
        )

    def acting_for(self, organisation: str) -> httpx.Client:
        return httpx.Client(
            verify=NO_TLS,
            base_url=self.client.base_url,
            headers=dict(self.client.headers) | {"X-Organisation-Id": organisation},
            timeout=60,
        )


def token(subject: str, **claims: Any) -> str:
    now = datetime.now(UTC)
    return jwt.encode(
        {
            "iss": ISSUER,
            "sub": subject,
            "iat": now,
            "exp": now + timedelta(hours=1),
            # What it says of roles is nobody's business here.
            "https://hasura.io/jwt/claims": {
                "x-hasura-user-id": subject,
                "x-hasura-default-role": "admin",
                "x-hasura-allowed-roles": ["admin"],
            },
            **claims,
        },
        SHARED,
        algorithm="HS256",
    )


def founded(person: Person, name: str = "Example") -> str:
    answer = person.client.post("/organisations", json={"name": name})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["organisation_id"])


def add(client: httpx.Client, person: Person, *roles: str) -> dict[str, Any]:
    made = client.post("/organisation/invitations", json={"roles": list(roles)})
    assert made.status_code == 201, made.text
    return post(person.client, "/invitations/accept", {"code": made.json()["code"]})


SITE = {
    "site_id": "S-1",
    "name": "One",
    "region": "DE-BE",
    "service_levels": [{"code": "standard", "cost_minor": 1, "carbon_g": 1}],
    "daily_capacity": 10,
}


# default deny


def test_every_command_and_every_query_has_a_rule() -> None:
    commands = {command for command in _all(Command) if command.__module__.startswith("domain.")}
    assert commands == ALL_HANDLERS.keys() == HANDLERS.keys()
    assert all(handler.roles for handler in HANDLERS.values())
    assert all(QUERIES.values())


def test_every_endpoint_asks_who_and_whether(running: tuple[Served, FastAPI]) -> None:
    """An endpoint that is added without a rule fails here."""
    _, app = running
    commands = {_snake(name) for name in POSTS}
    asks_nobody, asks_no_rule = set(), set()
    for route in _routes(app):
        asked = set(_asked(route.dependant))
        if identity not in asked and account not in asked:
            asks_nobody.add(route.name)
        elif not any(hasattr(one, "permission") for one in asked) and route.name not in commands:
            asks_no_rule.add(route.name)
    for one in {p for r in _routes(app) for p in _permissions(r.dependant)}:
        assert one in QUERIES, one
    # What is here is nobody's secret.
    assert asks_nobody == PUBLIC
    # What is here is about the account itself, or sends a command that has its rule.
    assert asks_no_rule == OF_ONESELF


def test_every_other_way_in_is_one_of_these(running: tuple[Served, FastAPI]) -> None:
    """What is no endpoint of the document, WebSockets above all, has no dependencies that the test
    above could look at: it stands here, with the tests that knock at it."""
    _, app = running
    documented = {id(route) for route in _routes(app)}
    others = {
        (type(one.original_route).__name__, one.path)
        for one in iter_route_contexts(app.routes)
        if id(one.original_route) not in documented
    }
    assert others == OTHERS


#: How the server is, the ways in, and what messages look like.
PUBLIC = {
    *("health", "live", "ready", "database", "ml", "identity_health"),
    *("register", "verify", "login", "refresh", "ask_reset", "reset"),
    *("get_asyncapi", "list_schemas", "get_schema"),
}
OF_ONESELF = {
    *("me", "logout", "list_sessions", "end_session"),
    *("get_profile", "put_profile", "get_preferences", "put_preferences"),
    *("found_organisation", "list_organisations", "invite_member", "accept_invitation"),
    *("issue_api_key", "erase_person", "register_webhook", "rotate_webhook_secret"),
}


#: By kind of route and path.
OTHERS: set[tuple[str, str | None]] = {
    ("Commands", None),  # the posts of the document, quicker: tests/test_quick.py
    ("WebSocketRoute", f"{PREFIX}/stream/socket"),  # tests/test_socket.py
    ("WebSocketRoute", "/{path:path}"),  # every other one, and opens none: tests/test_handshakes.py
    *(("Route", "/openapi.json"), ("APIRoute", "/docs"), ("APIRoute", "/"), ("Mount", "/assets")),
}


def _routes(app: FastAPI) -> list[APIRoute]:
    found = [one.original_route for one in iter_route_contexts(app.routes)]
    return [one for one in found if isinstance(one, APIRoute) and one.include_in_schema]


def _asked(dependant: Dependant) -> Iterator[Any]:
    for one in dependant.dependencies:
        yield one.call
        yield from _asked(one)


def _permissions(dependant: Dependant) -> Iterator[str]:
    for one in _asked(dependant):
        if hasattr(one, "permission"):
            yield one.permission


def _all(kind: type[Command]) -> Iterator[type[Command]]:
    for one in kind.__subclasses__():
        yield one
        yield from _all(one)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]


# accounts and organisations


def test_an_account_alone_may_do_nothing(served: Served) -> None:
    """Whatever its token says of roles."""
    eve = Person(served)
    refused = eve.client.get("/orders")
    assert_problem(refused, 422, "organisation-needed")
    assert get(eve.client, "/organisations") == []
    for organisation in (str(uuid4()), founded(Person(served))):
        assert_problem(eve.acting_for(organisation).get("/orders"), 404, "not-found")
        assert_problem(eve.acting_for(organisation).post("/sites", json=SITE), 404, "not-found")


def test_who_founds_an_organisation_is_its_admin(served: Served) -> None:
    ada = Person(served)
    own = founded(ada, "Ada's")
    site = post(ada.acting_for(own), "/sites", SITE)
    assert site["version"] == 1

    def mine() -> list[dict[str, Any]] | None:
        return get(ada.client, "/organisations") or None

    assert until(mine) == [{"organisation_id": own, "name": "Ada's", "roles": ["admin"]}]
    # Of one organisation only, it need not be named.
    shown = get(ada.client, "/organisation", min_position=site["position"])
    assert shown["name"] == "Ada's"
    second = founded(ada, "Another")
    until(lambda: True if len(get(ada.client, "/organisations")) == 2 else None)
    told = until(
        lambda: one if (one := ada.client.get("/organisation")).status_code == 422 else None
    )
    assert_problem(told, 422, "organisation-needed")
    assert second in {one["organisation_id"] for one in get(ada.client, "/organisations")}


def test_founding_twice_by_one_key_founds_one(served: Served) -> None:
    ada = Person(served)
    said: Any = {"json": {"name": "Once"}, "headers": {"Idempotency-Key": "k"}}
    first, again = (ada.client.post("/organisations", **said).json() for _ in range(2))
    assert again == first | {"repeated": True}
    other = Person(served).client.post("/organisations", **said).json()
    assert other["organisation_id"] != first["organisation_id"]


def test_what_a_member_may_do_is_what_its_roles_say(served: Served) -> None:
    ada, ben = Person(served), Person(served)
    own = founded(ada)
    admin, member = ada.acting_for(own), ben.acting_for(own)
    add(admin, ben, "viewer")
    position = post(admin, "/sites", SITE)["position"]
    assert get(member, "/sites", min_position=position)["items"]
    assert_problem(member.post("/sites", json=SITE | {"site_id": "S-2"}), 403, "forbidden")
    assert_problem(member.get("/audit"), 403, "forbidden")
    post(admin, f"/organisation/members/{ben.member}/roles", {"roles": ["admin"]})
    assert post(member, "/sites", SITE | {"site_id": "S-2"})["version"] == 1
    post(admin, f"/organisation/members/{ben.member}/remove", {})
    for answer in (member.get("/sites"), member.post("/sites", json=SITE)):
        assert_problem(answer, 404, "not-found")


def test_a_right_that_another_process_took_away_ends(
    served: Served, database: str, tmp_path: Path
) -> None:
    """The log says so, whichever process wrote it and wherever the read models are."""
    ada, ben = Person(served), Person(served)
    own = founded(ada)
    add(ada.acting_for(own), ben, "viewer")
    member = ben.acting_for(own)
    assert member.get("/sites").status_code == 200
    with serving_here(database, tmp_path) as (other, _):
        admin = httpx.Client(
            verify=NO_TLS,
            base_url=other.url + PREFIX,
            headers=dict(ada.client.headers) | {"X-Organisation-Id": own},
            timeout=60,
        )
        post(admin, f"/organisation/members/{ben.member}/remove", {})
    until(lambda: True if member.get("/sites").status_code == 404 else None, 10)


def test_members_are_listed_as_of_any_moment(served: Served) -> None:
    ada, ben = Person(served), Person(served)
    own = founded(ada)
    admin = ada.acting_for(own)
    then = add(admin, ben, "viewer")["position"]
    changed = post(admin, f"/organisation/members/{ben.member}/roles", {"roles": ["auditor"]})
    gone = post(admin, f"/organisation/members/{ben.member}/remove", {})
    one = f"/organisation/members/{ben.member}"
    assert get(admin, one, as_of=str(then))["roles"] == ["viewer"]
    assert get(admin, one, as_of=str(changed["position"]))["roles"] == ["auditor"]
    now = get(admin, one, min_position=gone["position"])
    assert now["roles"] == []
    assert now["removed"]
    assert now["removed_by"] == ada.member
    assert [one["member"] for one in get(admin, "/organisation/members")["items"]] == [ada.member]
    everybody = get(admin, "/organisation/members", former=True)["items"]
    assert {one["member"] for one in everybody} == {ada.member, ben.member}
    auditors = get(admin, "/organisation/members", role="auditor", as_of=str(changed["position"]))
    assert [one["member"] for one in auditors["items"]] == [ben.member]
    assert_problem(admin.get("/organisation/members/nhost:nobody"), 404, "not-found")


# invitations


def test_an_invitation_makes_a_member_of_whoever_has_its_code(served: Served) -> None:
    ada, ben, eve = Person(served), Person(served), Person(served)
    own = founded(ada)
    admin = ada.acting_for(own)
    said: Any = {"json": {"roles": ["analyst"]}, "headers": {"Idempotency-Key": "for Ben"}}
    made = admin.post("/organisation/invitations", **said)
    assert made.status_code == 201, made.text
    again = admin.post("/organisation/invitations", **said).json()
    assert again == made.json() | {"repeated": True}
    code = made.json()["code"]
    forged = code[:-1] + ("0" if code[-1] != "0" else "1")
    assert_problem(
        eve.client.post("/invitations/accept", json={"code": forged}), 404, "invitation.unknown"
    )
    assert_problem(eve.client.post("/invitations/accept", json={"code": "x"}), 422, "invalid")
    joined = ben.client.post("/invitations/accept", json={"code": code})
    assert joined.status_code == 200, joined.text
    assert joined.json()["organisation_id"] == own
    assert ben.acting_for(own).get("/orders").status_code == 200
    assert_problem(
        eve.client.post("/invitations/accept", json={"code": code}),
        404,
        "invitation.unknown",
    )
    [shown] = get(
        admin,
        "/organisation/invitations",
        closed=True,
        min_position=joined.json()["position"],
    )["items"]
    assert shown["accepted_by"] == ben.member
    assert "digest" not in shown
    assert get(admin, "/organisation/invitations")["items"] == []


# API keys


def test_a_key_does_what_its_scopes_say_until_it_is_revoked(served: Served, database: str) -> None:
    ada = Person(served)
    own = founded(ada)
    admin = ada.acting_for(own)
    issue = {
        "name": "scanner",
        "roles": ["service"],
        "scopes": ["OpenSite", "sites.list"],
    }
    headers = {"Idempotency-Key": "scanner"}
    made = admin.post("/organisation/api-keys", json=issue, headers=headers)
    assert made.status_code == 201, made.text
    key, key_id = made.json()["key"], made.json()["id"]
    # Lost on the way, it is given once more; to other words it is not.
    again = admin.post("/organisation/api-keys", json=issue, headers=headers)
    assert again.json() == made.json() | {"repeated": True}
    other = admin.post("/organisation/api-keys", json=issue | {"name": "x"}, headers=headers)
    assert_problem(other, 409, "idempotency-key-reused")

    service = keyed(served, key)
    assert post(service, "/sites", SITE)["version"] == 1
    assert service.get("/sites").status_code == 200
    for refused in (service.get("/stock"), service.post("/orders", json=ORDER)):
        assert_problem(refused, 403, "forbidden")
        assert "scopes of this key" in refused.json()["detail"]
    # A key is for one organisation, and no account.
    named = {"X-Organisation-Id": str(uuid4())}
    assert_problem(service.get("/sites", headers=named), 404, "not-found")
    assert_problem(service.get("/organisations"), 401, "unauthenticated")

    [listed] = get(admin, "/organisation/api-keys", min_position=made.json()["position"])["items"]
    assert listed["key_id"] == key_id
    assert listed["scopes"] == ["OpenSite", "sites.list"]
    secret = key.rpartition("_")[2]
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT convert_from(state, 'UTF8') FROM events").fetchall()
    assert not any(secret in state for (state,) in rows)

    post(admin, f"/organisation/api-keys/{key_id}/revoke", {})
    refused = service.get("/sites")
    assert_problem(refused, 401, "unauthenticated")
    assert "revoked" in refused.json()["detail"]


ORDER = {
    "order_id": "O-1",
    "customer_id": "C-1",
    "currency": "EUR",
    "region": "DE-BE",
    "promised_at": "2030-01-01T00:00:00Z",
    "lines": [{"line_no": 1, "sku": "S", "quantity": "1", "unit_price_minor": 1, "weight_g": 1}],
}


def keyed(served: Served, key: str) -> httpx.Client:
    return httpx.Client(
        verify=NO_TLS,
        base_url=served.url + PREFIX,
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )


def test_a_key_that_is_wrong_in_one_place_is_none(served: Served) -> None:
    ada = Person(served)
    own = founded(ada)
    issue = {"name": "k", "roles": ["viewer"]}
    key = ada.acting_for(own).post("/organisation/api-keys", json=issue).json()["key"]
    assert keyed(served, key).get("/sites").status_code == 200
    _, organisation, key_id, secret = key.split("_")
    other = "0" * 64
    for wrong in (
        f"chk_{uuid4().hex}_{key_id}_{secret}",
        f"chk_{organisation}_other_{secret}",
        f"chk_{organisation}_{key_id}_{other}",
        f"chk_{organisation}_{key_id}_",
        f"chk_{organisation}_{key_id}",
        key + "0",
        key.upper(),
    ):
        assert_problem(keyed(served, wrong).get("/sites"), 401, "unauthenticated")


def test_an_unknown_scope_is_refused_by_name(served: Served) -> None:
    ada = Person(served)
    admin = ada.acting_for(founded(ada))
    issue = {"name": "k", "roles": ["viewer"], "scopes": ["orders.list", "orders.lst"]}
    answer = admin.post("/organisation/api-keys", json=issue)
    assert_problem(answer, 422, "invalid")
    [error] = answer.json()["errors"]
    assert (error["field"], error["value"]) == ("body.scopes.1", "orders.lst")


def test_a_key_expires(served: Served) -> None:
    ada = Person(served)
    admin = ada.acting_for(founded(ada))
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    issue = {"name": "k", "roles": ["viewer"], "expires_at": soon.isoformat()}
    service = keyed(served, admin.post("/organisation/api-keys", json=issue).json()["key"])
    assert service.get("/sites").status_code == 200
    ended = until(lambda: one if (one := service.get("/sites")).status_code == 401 else None, 10)
    assert "expired" in ended.json()["detail"]


def test_only_admins_say_who_may_do_what(served: Served) -> None:
    ada, ben = Person(served), Person(served)
    own = founded(ada)
    add(ada.acting_for(own), ben, "analyst", "auditor", "service", "viewer")
    member = ben.acting_for(own)
    tries = {
        "/organisation/members": {"member": "nhost:eve", "roles": ["admin"]},
        f"/organisation/members/{ben.member}/roles": {"roles": ["admin"]},
        f"/organisation/members/{ada.member}/remove": {},
        "/organisation/invitations": {"roles": ["admin"]},
        "/organisation/api-keys": {"name": "k", "roles": ["admin"]},
        "/organisation/rename": {"name": "Mine"},
    }
    for path, body in tries.items():
        assert_problem(member.post(path, json=body), 403, "forbidden")
    assert post(member, "/organisation/leave", {})["version"] > 0
    assert_problem(member.get("/sites"), 404, "not-found")


def test_permissions_are_told(served: Served) -> None:
    viewer = served.client(Role.VIEWER)
    told = {one["name"]: one for one in get(viewer, "/organisation/permissions")}
    assert told["orders.list"]["allowed"]
    assert not told["PlaceOrder"]["allowed"]
    assert told.keys() == QUERIES.keys() | {command.__name__ for command in HANDLERS}


def test_an_operators_token_is_of_one_organisation(served: Served) -> None:
    own, other = uuid4(), uuid4()
    operator = served.client(organisation_id=own)
    assert operator.get("/sites", headers={"X-Organisation-Id": str(own)}).status_code == 200
    answer = operator.get("/sites", headers={"X-Organisation-Id": str(other)})
    assert_problem(answer, 404, "not-found")
    assert_problem(operator.get("/sites", headers={"X-Organisation-Id": "mine"}), 422, "invalid")
    assert UUID(get(operator, "/organisations")[0]["organisation_id"]) == own


# what a key and a stranger may not


def test_a_key_gives_nobody_rights(served: Served) -> None:
    ada = Person(served)
    admin = ada.acting_for(founded(ada))
    issue = {"name": "k", "roles": ["admin"], "scopes": ["IssueApiKey", "InviteMember"]}
    key = keyed(served, admin.post("/organisation/api-keys", json=issue).json()["key"])
    more = {"name": "more", "roles": ["admin"]}
    for path, body in (
        ("/organisation/api-keys", more),
        ("/organisation/invitations", {"roles": ["admin"]}),
    ):
        assert_problem(key.post(path, json=body), 403, "organisation.needs_a_person")


def test_nobody_is_put_into_an_organisation(served: Served) -> None:
    eve, ben = Person(served), Person(served)
    own = founded(ben)
    admin = eve.acting_for(founded(eve))
    body = {"member": ben.member, "roles": ["admin"]}
    answer = admin.post("/organisation/members", json=body)
    assert_problem(answer, 403, "member.needs_invitation")
    until(lambda: get(ben.client, "/organisations") or None)
    assert [one["organisation_id"] for one in get(ben.client, "/organisations")] == [own]


def test_the_answer_to_a_retry_is_nobody_elses(served: Served) -> None:
    """It holds a secret; and what two actors and their keys are called does not run together."""
    ada, ben = Person(served), Person(served)
    own = founded(ada)
    admin, other = ada.acting_for(own), ben.acting_for(own)
    add(admin, ben, "admin")
    issue: Any = {"json": {"name": "k", "roles": ["viewer"]}, "headers": {"Idempotency-Key": "1"}}
    first = admin.post("/organisation/api-keys", **issue).json()
    second = other.post("/organisation/api-keys", **issue).json()
    assert not second["repeated"]
    assert second["key"] != first["key"]
    twice = [("Idempotency-Key", "1"), ("Idempotency-Key", "2")]
    for path, body in (
        ("/organisation/api-keys", issue["json"]),
        ("/organisations", {"name": "x"}),
        ("/organisation/invitations", {"roles": ["viewer"]}),
    ):
        answer = admin.post(path, json=body, headers=[*admin.headers.items(), *twice])
        assert_problem(answer, 422, "invalid")


def test_figures_of_the_whole_server_are_the_operators(served: Served) -> None:
    ada = Person(served)
    admin = ada.acting_for(founded(ada))
    for path in ("/relay", "/archive/segments"):
        assert_problem(admin.get(path), 403, "forbidden")
        assert served.client().get(path).status_code != 403
    metrics = httpx.get(served.url + "/metrics", verify=NO_TLS, headers=dict(admin.headers))
    assert_problem(metrics, 403, "forbidden")


def test_who_founds_or_joins_need_not_wait_for_tables(served: Served) -> None:
    """Nor name the organisation, where it is the only one."""
    for _ in range(10):
        ada, ben = Person(served), Person(served)
        own = founded(ada)
        assert [one["organisation_id"] for one in get(ada.client, "/organisations")] == [own]
        made = ada.client.post("/organisation/invitations", json={"roles": ["viewer"]})
        assert made.status_code == 201, made.text
        post(ben.client, "/invitations/accept", {"code": made.json()["code"]})
        assert ben.client.get("/orders").status_code == 200


def test_who_changes_members_can_ask_for_the_version_it_saw(served: Served) -> None:
    ada, ben = Person(served), Person(served)
    admin = ada.acting_for(founded(ada))
    joined = add(admin, ben, "viewer")
    one = f"/organisation/members/{ben.member}"
    seen = admin.get(one, params={"min_position": joined["position"]}).headers["etag"]
    assert seen == f'"{joined["version"]}"'
    roles = {"roles": ["analyst"]}
    assert admin.post(f"{one}/roles", json=roles, headers={"If-Match": seen}).status_code == 200
    stale = admin.post(f"{one}/roles", json=roles, headers={"If-Match": seen})
    assert_problem(stale, 412, "precondition-failed")
    invite = admin.post(
        "/organisation/invitations", json={"roles": ["viewer"]}, headers={"If-Match": seen}
    )
    assert_problem(invite, 412, "precondition-failed")


def test_an_operator_is_no_account(served: Served) -> None:
    operator = served.client(organisation_id=uuid4())
    answer = operator.post("/organisations", json={"name": "x"})
    assert_problem(answer, 403, "organisation.needs_an_account")
    code = f"chi_{'0' * 32}_I-1_{'0' * 64}"
    answer = operator.post("/invitations/accept", json={"code": code})
    assert_problem(answer, 403, "organisation.needs_an_account")


def test_members_and_keys_are_sorted(served: Served) -> None:
    people = [Person(served) for _ in range(3)]
    admin = people[0].acting_for(founded(people[0]))
    position = [add(admin, one, "viewer") for one in people[1:]][-1]["position"]
    listed = get(admin, "/organisation/members", sort="-added_at", min_position=position)["items"]
    assert [one["member"] for one in listed] == [one.member for one in reversed(people)]
    keys = [
        admin.post("/organisation/api-keys", json={"name": name, "roles": ["viewer"]}).json()
        for name in ("b", "a", "c")
    ]
    asked = {"sort": "name", "min_position": keys[-1]["position"]}
    named = get(admin, "/organisation/api-keys", **asked)["items"]
    assert [one["name"] for one in named] == ["a", "b", "c"]
    none = get(admin, "/organisation/api-keys", issued_by="local:eve", **asked)["items"]
    assert none == []


def test_nobody_founds_organisations_without_end(served: Served) -> None:
    ada = Person(served)
    headers = {"Idempotency-Key": "first"}
    first = ada.client.post("/organisations", json={"name": "0"}, headers=headers).json()
    for number in range(1, 50):
        founded(ada, str(number))

    def refused() -> httpx.Response | None:
        answer = ada.client.post("/organisations", json={"name": "one more"})
        return answer if answer.status_code == 409 else None

    # The last ones may not be counted yet: it is no lock, but a bound.
    assert_problem(until(refused), 409, "organisation.too_many")
    again = ada.client.post("/organisations", json={"name": "0"}, headers=headers)
    assert again.json() == first | {"repeated": True}
