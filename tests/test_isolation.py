"""Two organisations over HTTP: one asks every endpoint for every id of the other's.

The endpoints come from the application itself: one that is added with an id in its path fails here
until this file has such an id for it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from domain.access import Role
from domain.api_keys import IssueApiKey
from domain.organisations import AddMember, FoundOrganisation, InviteMember
from domain.tasks import RequestReplay
from domain.webhooks import RegisterWebhook
from eventstore.ids import named_id
from tests.serving import (
    API,
    Served,
    accepted,
    decided,
    found,
    get,
    order,
    post,
    serving_here,
    until,
)
from tests.world import ORGANISATION, a_year, company, context, deployed_model

OTHER = UUID("00000000-0000-0000-0000-0000000000bb")
THIRD = UUID("00000000-0000-0000-0000-0000000000cc")
STRANGER = "stranger"
SOON = datetime.now(UTC) + timedelta(days=1)
NOW = datetime.now(UTC)

#: What in a path is no organisation's, and why it may be asked for by everybody who is signed in.
OF_NOBODY = {
    "kind": "kinds of decisions are the installation's; each organisation has its own policy",
    "name": "read models are the installation's, and how far they are",
    "topic": "event types are the installation's",
    "session_id": "sessions are an account's: tests/test_accounts.py",
}
#: What an endpoint must be told besides the ids in its path.
QUERIES: Mapping[str, dict[str, str]] = {"/people/{person}": {"why": "a test"}}
#: GETs whose owner is not answered with 200 here, and with what instead.
OWNERS_ANSWER = {"/tasks/{task_id}/result": {200, 409}}
#: Bodies where the example in the endpoint's description will not do.
BODIES: Mapping[str, dict[str, Any]] = {
    "/webhooks/{webhook_id}": {"url": "https://93.184.216.34/", "events": ["orders"]}
}
#: Ids in bodies, by their field, and which of the one organisation's to ask with there.
IN_BODIES: Mapping[str, str] = {
    **{name: name for name in ("site_id", "vehicle_id", "model_hash", "webhook_id", "task_id")},
    **{name: name for name in ("order_id", "decision_id", "upload_id", "customer_id")},
    "person_id": "person_id",
    "decision_ids": "decision_id",
    "subject_id": "order_id",
}


@dataclass(frozen=True)
class World:
    """A server, what the one organisation has in it, and what asks."""

    served: Served
    app: FastAPI
    ids: Mapping[str, str]

    @property
    def operations(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Method, path and description of every endpoint under the prefix."""
        paths = self.app.openapi()["paths"]
        return [
            (method.upper(), path.removeprefix(API), told)
            for path, methods in paths.items()
            if path.startswith(API)
            for method, told in methods.items()
        ]

    def of_ids(self, *methods: str) -> list[tuple[str, str, dict[str, Any]]]:
        """Those with an id in their path that is some organisation's."""
        return [one for one in self.operations if one[0] in methods and self.needs(one[1])]

    def needs(self, path: str) -> set[str]:
        return set(re.findall(r"{(\w+)}", path)) - set(OF_NOBODY)

    def filled(self, path: str) -> str:
        """A path with the ids of the one organisation."""
        missing = self.needs(path) - set(self.ids)
        assert not missing, f"{path}: this test has no {', '.join(missing)} to ask with"
        return path.format_map({**self.ids, "kind": "fulfilment"})

    @property
    def tell_tales(self) -> set[str]:
        """Words that no answer to another organisation may hold."""
        own = {value for name, value in self.ids.items() if name != "position" and len(value) > 3}
        return own | {str(ORGANISATION)}


@pytest.fixture(scope="module")
def world(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    ids: dict[str, str] = {}

    async def fill() -> None:
        async with company(database) as app:
            await a_year(app)
            ids["model_hash"] = (await deployed_model(app)).registration.model_hash
            for command in (
                FoundOrganisation(name="One of two", founded_at=NOW),
                AddMember(member="dev:ana-of-this", roles=(Role.ANALYST,), added_at=NOW),
                InviteMember(
                    invitation_id="INVITED-HERE",
                    roles=(Role.ANALYST,),
                    digest="1" * 64,
                    expires_at=SOON,
                    invited_at=NOW,
                ),
                IssueApiKey(
                    key_id="KEY-HERE",
                    name="k",
                    roles=(Role.SERVICE,),
                    digest="2" * 64,
                    issued_at=NOW,
                ),
                RegisterWebhook(
                    webhook_id="HOOK-HERE",
                    url="https://127.0.0.1:9/",
                    events=("orders",),
                    secret_id=str(uuid4()),
                    registered_at=NOW,
                ),
                RequestReplay(task_id="TASK-HERE", decision_ids=("D-HERE",), requested_at=NOW),
            ):
                # A member would have to invite; the operator is none.
                actor = "operator" if isinstance(command, AddMember) else "boss-of-this"
                await app.bus.execute(command, context(actor))
            await app.projector.catch_up()

    asyncio.run(fill())
    ids |= {
        "member": "dev:ana-of-this",
        "invitation_id": "INVITED-HERE",
        "key_id": "KEY-HERE",
        "webhook_id": "HOOK-HERE",
        "task_id": "TASK-HERE",
        "order_id": "ORDER-HERE",
        "decision_id": "D-HERE",
        "vehicle_id": "VEHICLE-HERE",
    }
    home = tmp_path_factory.mktemp("home")
    with serving_here(database, home) as (served, app):
        with served.client(actor="ana-of-this") as ana:
            fill_by_http(ana, ids)
        with served.client(organisation_id=OTHER, actor=STRANGER) as stranger:
            post(stranger, "/orders", order("ORDER-THERE"))
        yield World(served, app, ids)


def fill_by_http(ana: httpx.Client, ids: dict[str, str]) -> None:
    """What comes most simply by the front door."""
    paths = get(ana, "../../openapi.json")["paths"]

    def example(path: str) -> Any:
        content = paths[API + path]["post"]["requestBody"]["content"]["application/json"]
        return content["examples"]["example"]["value"]

    ids |= {"site_id": "SITE-HERE", "sku": "SKU-HERE"}
    post(ana, "/sites", example("/sites") | {"site_id": ids["site_id"]})
    post(ana, f"/stock/{ids['site_id']}/{ids['sku']}/receive", {"quantity": "12"})
    own = {name: ids[name] for name in ("vehicle_id", "site_id")}
    post(ana, "/vehicles", example("/vehicles") | own)
    person = {"person_id": "P-HERE", "name": "Ana Maria", "city": "Berlin", "country": "DE"}
    ids |= {"person_id": person["person_id"], "customer_id": "CUSTOMER-HERE"}
    mine = order(ids["order_id"], recipient=person, customer_id=ids["customer_id"])
    placed = post(ana, "/orders", mine)
    upload = ana.post("/uploads", content=b"order_id\n", headers={"Content-Type": "text/csv"})
    ids["upload_id"] = accepted(upload)["upload_id"]
    shown = get(ana, f"/orders/{ids['order_id']}", min_position=placed["position"])
    ids["person"] = shown["person"]
    orders = [one["order_id"] for one in get(ana, "/orders", status="placed", limit=2)["items"]]
    waiting = next(one for one in orders if one != ids["order_id"])
    post(ana, "/decisions", {"decision_id": ids["decision_id"], "subject_id": waiting})
    assert decided(ana, ids["decision_id"])["explained"]
    ids["position"] = str(placed["position"])
    for path in ("/decisions/{decision_id}/bundle", "/tasks/{task_id}", "/webhooks/{webhook_id}"):
        until_answered(ana, path.format_map(ids))


def until_answered(client: httpx.Client, path: str, **query: str) -> None:
    """Sealed, folded or done: some things take a moment."""
    until(lambda: client.get(path, params=query).status_code == 200 or None)


@pytest.fixture(scope="module")
def ana(world: World) -> Iterator[httpx.Client]:
    """Of the organisation that has it all."""
    with world.served.client(*Role, actor="ana-of-this") as client:
        yield client


@pytest.fixture(scope="module")
def stranger(world: World) -> Iterator[httpx.Client]:
    """Of the other one, who may do everything there."""
    with world.served.client(*Role, organisation_id=OTHER, actor=STRANGER) as client:
        yield client


def test_every_get_of_an_id_answers_its_owner_and_is_404_for_the_other(
    world: World, ana: httpx.Client, stranger: httpx.Client
) -> None:
    wrong: list[str] = []
    asked = 0
    for _, path, told in world.of_ids("GET"):
        where, query = world.filled(path), QUERIES.get(path, {})
        own = ana.get(where, params=query)
        if own.status_code not in OWNERS_ANSWER.get(path, {200}):
            wrong.append(f"{path}: its owner is told {own.status_code}: {own.text[:200]}")
        known = {one["name"] for one in told.get("parameters", [])}
        for at in ({}, *({name: "1"} for name in ("as_of", "min_position") if name in known)):
            theirs = stranger.get(where, params=query | at)
            if theirs.status_code != 404:
                said = f"{theirs.status_code}: {theirs.text[:200]}"
                wrong.append(f"{path} {at}: another organisation is told {said}")
        asked += 1
    assert not wrong, "\n".join(wrong)
    assert asked > 20


def test_every_command_on_an_id_of_the_others_is_of_something_unknown(
    world: World, database: str, ana: httpx.Client, stranger: httpx.Client
) -> None:
    wrong: list[str] = []
    asked = 0
    for method, path, told in world.of_ids("POST", "PUT", "PATCH", "DELETE"):
        content = told.get("requestBody", {}).get("content", {})
        examples = content.get("application/json", {}).get("examples", {})
        body = BODIES.get(path) or next((one["value"] for one in examples.values()), {})
        answer = stranger.request(method, world.filled(path), json=body)
        unknown = answer.status_code == 404 or (
            answer.status_code == 409 and re.search(r"[._]unknown$", answer.json()["type"])
        )
        if not unknown:
            wrong.append(f"{method} {path}: {answer.status_code}: {answer.text[:300]}")
        if words := leaked(answer.text, world.tell_tales, world.filled(path) + json.dumps(body)):
            wrong.append(f"{method} {path} tells {words}")
        asked += 1
    assert not wrong, "\n".join(wrong)
    assert asked > 30
    with psycopg.connect(database) as connection:
        by_stranger = connection.execute(
            "SELECT count(*) FROM events WHERE organisation_id = %s AND actor LIKE '%%stranger%%'",
            (ORGANISATION,),
        ).fetchone()
        assert by_stranger == (0,)
        streams = [
            named_id(ORGANISATION, f"{area}/{world.ids[name]}")
            for area, name in (("orders", "order_id"), ("decisions", "decision_id"))
        ]
        actors = connection.execute(
            "SELECT DISTINCT actor FROM events WHERE originator_id = ANY(%s)", (streams,)
        ).fetchall()
        assert actors
        assert not any(STRANGER in actor for (actor,) in actors)
    # All of it is still as its owner left it.
    for path in ("/orders/{order_id}", "/webhooks/{webhook_id}", "/models/{model_hash}"):
        found(ana.get(world.filled(path)))


def test_an_id_of_the_others_in_a_body_is_as_one_that_nobody_has(
    world: World, ana: httpx.Client
) -> None:
    """Whether it is looked up or is a name for something new: the answers are the same, and what
    comes of a task too. A field that is added fails here until ``IN_BODIES`` names it."""
    wrong: list[str] = []
    asked: dict[tuple[str, str], tuple[int, str]] = {}
    for method, path, told in world.operations:
        for field in id_fields(world.app.openapi(), told):
            assert field[-1] in IN_BODIES, f"{path}: {'.'.join(field)} is not listed"
            theirs = world.ids[IN_BODIES[field[-1]]]
            nobodys = re.sub("[0-9A-Za-z]", "7", theirs)
            # Another one each time: what it is allowed to name so is there from then on.
            with world.served.client(*Role, organisation_id=uuid4(), actor="fourth") as fourth:
                asking = Asking(world, fourth)
                answers = [asking.ask(method, path, field, one) for one in (theirs, nobodys)]
            if answers[0] != answers[1]:
                wrong.append(f"{method} {path} {field}: {answers[0]} but {answers[1]}")
            asked[path, field[-1]] = answers[0]
    assert not wrong, "\n".join(wrong)
    assert len(asked) > 15
    # These are looked up: their owner would have been told something else.
    for one in (
        *(("/explain", "model_hash"), ("/tasks/import", "upload_id")),
        *(("/orders/{order_id}/allocate", "vehicle_id"), ("/tasks/bundle", "decision_id")),
    ):
        assert asked[one][0] == 404 or "failed" in asked[one][1], (one, asked[one])
    examples = [told for _, path, told in world.operations if path == "/explain"]
    body = example_of(examples[0]) | {"model_hash": world.ids["model_hash"]}
    found(ana.post("/explain", json=body))


class Asking:
    """One organisation that has things of its own, and asks with ids of others."""

    def __init__(self, world: World, client: httpx.Client) -> None:
        self._world, self._client = world, client
        self._number = 0
        site = next(t for m, p, t in world.operations if (m, p) == ("POST", "/sites"))
        post(client, "/sites", example_of(site) | {"site_id": "OWN-SITE"})
        post(client, "/stock/OWN-SITE/OWN-SKU/receive", {"quantity": "12"})

    def ask(self, method: str, path: str, field: tuple[str, ...], value: str) -> tuple[int, str]:
        """Status and what was told, without the id itself and what is new with every answer."""
        self._number += 1
        own = f"OWN-{self._number}"
        if "{order_id}" in path or path == "/decisions":
            post(self._client, "/orders", order(own))
        told = next(t for m, p, t in self._world.operations if (m, p) == (method, path))
        body = example_of(told) | self._own(path, own)
        if field[0] == "line_sites":
            body = {"line_sites": [{"line_no": 1, "site_id": "OWN-SITE"}]} | {
                name: value for name, value in body.items() if name != "site_id"
            }
        set_in(body, field, value)
        where = path.format(order_id=own, site_id="OWN-SITE", sku="OWN-SKU")
        answer = self._client.request(method, where, json=body)
        said = answer.json()
        if answer.is_error:
            return answer.status_code, f"{said['type']}: {said['detail']}".replace(value, "ID")
        if not path.startswith("/tasks/"):
            return answer.status_code, ", ".join(sorted(said))
        task = until(lambda: self._ended(said.get("task_id") or said["id"]))
        return answer.status_code, f"{task['state']}: {task['reason']}".replace(value, "ID")

    def _own(self, path: str, own: str) -> dict[str, Any]:
        """What in an example is to be its own, or new."""
        return {
            "/orders": order(own, recipient={"person_id": own, "name": "Ada", "city": "Berlin"}),
            "/orders/{order_id}/allocate": {"site_id": "OWN-SITE", "vehicle_id": None},
            "/sites": {"site_id": own},
            "/vehicles": {"vehicle_id": own, "site_id": "OWN-SITE"},
            "/routes/forbid": {"site_id": "OWN-SITE", "region": own},
            "/decisions": {"subject_id": own},
            "/webhooks": BODIES["/webhooks/{webhook_id}"] | {"webhook_id": own},
        }.get(path, {})

    def _ended(self, task_id: str) -> dict[str, Any] | None:
        answer = self._client.get(f"/tasks/{task_id}")
        task: dict[str, Any] = answer.json()
        done = answer.status_code == 200 and task["state"] in ("completed", "failed", "cancelled")
        return task if done else None


def example_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """The first body that the document shows."""
    examples = told["requestBody"]["content"]["application/json"]["examples"]
    body: dict[str, Any] = next(one["value"] for one in examples.values())
    return deepcopy(body)


def id_fields(document: Mapping[str, Any], told: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Where ids stand in an operation's body."""

    def walk(schema: Any, seen: frozenset[str], at: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name not in seen:
                yield from walk(document["components"]["schemas"][name], seen | {name}, at)
            return
        for name, inner in schema.get("properties", {}).items():
            if re.search("_(id|hash)(s|es)?$", name):
                yield (*at, name)
            yield from walk(inner, seen, (*at, name))
        for one in (schema.get("items"), schema.get("additionalProperties")):
            if isinstance(one, dict):
                yield from walk(one, seen, at)
        for kind in ("anyOf", "oneOf", "allOf"):
            for one in schema.get(kind, []):
                yield from walk(one, seen, at)

    content = told.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    return sorted(set(walk(schema, frozenset(), ())))


def set_in(body: dict[str, Any], field: tuple[str, ...], value: str) -> None:
    """Put an id where a field of a body is."""
    name, *rest = field
    if not rest:
        body[name] = [value] if name.endswith("s") else value
        return
    for one in body[name] if isinstance(body[name], list) else [body[name]]:
        set_in(one, tuple(rest), value)


def leaked(text: str, words: set[str], asked: str = "") -> set[str]:
    """The words that an answer tells; those that were asked with are not told."""
    return {word for word in words if word in text and word not in asked}


def test_no_list_holds_what_is_anothers_nor_does_any_filter_find_it(
    world: World, ana: httpx.Client
) -> None:
    stream = f"orders/{world.ids['order_id']}"
    values = {**world.ids, "subject_id": world.ids["order_id"], "stream": stream}
    values["stream_id"] = str(named_id(ORGANISATION, stream))
    seen: set[str] = set()
    wrong: list[str] = []
    filtered = 0
    # One that has asked for nothing yet: what was refused stands in its own trail.
    with world.served.client(*Role, organisation_id=THIRD, actor="third") as third:
        post(third, "/orders", order("ORDER-OF-THIRD"))
        for method, path, told in world.operations:
            if method != "GET" or "{" in path or path.endswith("/stream"):
                continue
            if words := leaked(third.get(path).text, world.tell_tales):
                wrong.append(f"{path} tells {words}")
            seen |= leaked(ana.get(path).text, world.tell_tales)
            for parameter in told.get("parameters", []):
                name = parameter["name"]
                if parameter["in"] != "query" or name not in values or name == "position":
                    continue
                answer = third.get(path, params={name: values[name]})
                items = answer.json() if answer.status_code == 200 else None
                if isinstance(items, dict):
                    items = items["items"]
                if answer.status_code != 404 and items != []:
                    wrong.append(f"{path}?{name}: {answer.status_code}: {answer.text[:200]}")
                filtered += 1
    assert not wrong, "\n".join(wrong)
    assert filtered > 10
    # The test would see it: the owner is shown what the other one is not.
    assert {world.ids["order_id"], world.ids["decision_id"], world.ids["model_hash"]} <= seen


def test_proofs_and_the_stream_are_of_ones_own_events(
    world: World, ana: httpx.Client, stranger: httpx.Client
) -> None:
    position = world.ids["position"]
    until_answered(ana, "/audit/proofs/inclusion", position=position)
    asked = stranger.get("/audit/proofs/inclusion", params={"position": position})
    assert asked.status_code == 404, asked.text
    with stranger.stream("GET", "/stream", params={"after": 0}) as answer:
        told = []
        for line in answer.iter_lines():
            if line.startswith("data:"):
                told.append(json.loads(line.removeprefix("data:")))
                break
    assert told[0]["actor"].endswith(STRANGER)
    assert told[0]["event"]["order_id"] == "ORDER-THERE"


def test_a_search_for_anothers_person_finds_nobody(
    ana: httpx.Client, stranger: httpx.Client
) -> None:
    sought = {"search": "P-HERE", "why": "a test"}
    assert found(ana.post("/people/search", json=sought))["items"]
    assert found(stranger.post("/people/search", json=sought))["items"] == []


def test_a_token_says_the_organisation_not_the_caller(world: World) -> None:
    with world.served.client(organisation_id=OTHER, actor=STRANGER) as client:
        path = world.filled("/orders/{order_id}")
        for header in (str(ORGANISATION), "demo"):
            answer = client.get(path, headers={"X-Organisation-Id": header})
            assert answer.status_code in (401, 403, 404, 422), answer.text
