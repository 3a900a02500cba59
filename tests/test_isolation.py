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
from domain.alert_rules import AlertKind, Severity
from domain.alerts import RaiseAlert, alert_id_of
from domain.api_keys import IssueApiKey
from domain.organisations import AddMember, FoundOrganisation, InviteMember
from domain.webhooks import RegisterWebhook
from domain.work import RequestReplay
from eventstore.ids import named_id
from ml.simulation_report import PICTURES
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
    "alert_kind": "kinds of alerts are the installation's; each organisation has its own rules",
    "kind": "kinds of decisions are the installation's; each organisation has its own policy",
    "name": "read models and KPIs are the installation's, and how far read models are",
    "read_model": "each organisation exports its own rows: tests/test_exports.py",
    "entity": "what can be imported is the installation's",
    "mode": "modes of transport are the installation's; each organisation has its own tariffs",
    "fuel": "fuels are the installation's; each organisation has its own emission factors",
    "picture_name": "a picture is of a simulation, whose id stands beside it",
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
    **{name: name for name in ("client_id", "assignment_id", "rule_id", "driver_id")},
    **{name: name for name in ("plan_id", "scenario_id", "metric_id", "schedule_id")},
    "default_site_id": "site_id",
    **dict.fromkeys(("new_order_id", "shipment_id", "return_id"), "order_id"),
    "person_id": "person_id",
    "decision_ids": "decision_id",
    **dict.fromkeys(("subject_id", "subject_ids", "order_ids"), "order_id"),
}
#: Endpoints that ask for a task, and what its id is called in their answer.
TASKS = {"/tours/plan": "task_id", "/simulations/run": "simulation_id"}


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
        return path.format_map({**self.ids, "kind": "fulfilment", "picture_name": PICTURES[0]})

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
                RaiseAlert(
                    kind=AlertKind.ORDER_LATE,
                    subject_id="ORDER-HERE",
                    occurrence=1,
                    severity=Severity.WARNING,
                    sentence="ORDER-HERE is late",
                    raised_at=NOW,
                ),
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
        "retry_of": "TASK-HERE",
        "schedule_id": "SCHEDULE-HERE",
        "alert_id": alert_id_of("order_late", "ORDER-HERE", 1),
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
    post(ana, "/products", example("/products") | {"sku": ids["sku"]})
    post(ana, f"/stock-keeping/{ids['site_id']}/{ids['sku']}", {})
    post(ana, f"/stock/{ids['site_id']}/{ids['sku']}/receive", {"quantity": "12"})
    post(ana, "/schedules", example("/schedules") | {"schedule_id": ids["schedule_id"]})
    ids["metric_id"] = "METRIC-HERE"
    figure = {"metric_id": ids["metric_id"], "site_id": ids["site_id"]}
    post(ana, "/metrics", example("/metrics") | figure)
    own = {name: ids[name] for name in ("vehicle_id", "site_id")}
    post(ana, "/vehicles", example("/vehicles") | own)
    ids |= {"client_id": "CLIENT-HERE", "assignment_id": "ASSIGNMENT-HERE"}
    ids |= {"rule_id": "RULE-HERE", "driver_id": "DRIVER-77"}
    post(ana, "/clients", example("/clients") | {"client_id": ids["client_id"]})
    shift = {name: ids[name] for name in ("assignment_id", "driver_id")}
    post(ana, "/assignments", example("/assignments") | own | shift)
    post(ana, "/route-rules", example("/route-rules") | {"rule_id": ids["rule_id"]})
    simulate(ana, ids)  # while the year's last order is the last one: demand is drawn from its days
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
    foretell(ana, ids)
    plan_a_tour(ana, ids)
    ids["shipment_id"] = "1"  # what an order that leaves as a whole calls it
    for path in ("/decisions/{decision_id}/bundle", "/tasks/{task_id}", "/webhooks/{webhook_id}"):
        until_answered(ana, path.format_map(ids))


def foretell(ana: httpx.Client, ids: dict[str, str]) -> None:
    """A forecast of the stock that has an id here."""
    sold = {"quantity": "1", "picked_at": (NOW - timedelta(days=2)).isoformat()}
    picked = post(ana, f"/stock/{ids['site_id']}/{ids['sku']}/pick", sold)
    get(ana, "/forecasts", min_position=picked["position"])
    yesterday = (NOW - timedelta(days=1)).date().isoformat()
    asked = {"site_id": ids["site_id"], "sku": ids["sku"], "from_day": yesterday}
    until(lambda: ana.post("/forecasts", json=asked).status_code == 201 or None)
    until_answered(ana, f"/forecasts/{ids['site_id']}/{ids['sku']}")


def plan_a_tour(ana: httpx.Client, ids: dict[str, str]) -> None:
    """A plan with a tour on which one order is."""
    at = {"latitude": 52.54, "longitude": 13.41}
    times = {"placed_at": "2026-03-01T10:00:00Z", "promised_at": "2026-03-02T17:00:00Z"}
    toured = order("ORDER-TOURED", destination=at) | times
    toured["lines"][0]["weight_g"] = 800
    post(ana, "/orders", toured)
    sent = {"site_id": ids["site_id"], "allocated_at": "2026-03-01T11:00:00Z"}
    post(ana, "/orders/ORDER-TOURED/allocate", sent)
    ids["plan_id"] = "PLAN-HERE"
    asked = {name: ids[name] for name in ("plan_id", "site_id")}
    asked |= {"day": "2026-03-02", "task_id": "TOURING"}
    task = worked(ana, "/tours/plan", asked | {"iterations": 50})
    assert task["state"] == "completed", task
    [tour] = get(ana, "/tours", plan_id="PLAN-HERE", min_position=task["last_position"])["items"]
    ids["tour_id"] = tour["tour_id"]


def simulate(ana: httpx.Client, ids: dict[str, str]) -> None:
    """A scenario and a simulation of it."""
    ids |= {"scenario_id": "SCENARIO-HERE", "simulation_id": "SIMULATION-HERE"}
    closed = {"kind": "site_closed", "site_id": ids["site_id"]}
    scenario = {"scenario_id": ids["scenario_id"], "horizon_days": 1, "disturbances": [closed]}
    post(ana, "/simulations/generate", scenario)
    run = {"scenario_id": ids["scenario_id"], "task_id": ids["simulation_id"]}
    task = worked(ana, "/simulations/run", run)
    assert task["state"] == "completed", task
    until_answered(ana, f"/simulations/{ids['simulation_id']}/results")


def worked(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A task that was asked for under an id, when it is over."""
    answer = client.post(path, json=body)
    assert answer.status_code == 202, answer.text
    return until(lambda: ended(client, body["task_id"]), 120)


def ended(client: httpx.Client, task_id: str) -> dict[str, Any] | None:
    """A task that is over; None: it is not yet."""
    answer = client.get(f"/tasks/{task_id}")
    task: dict[str, Any] = answer.json()
    done = answer.status_code == 200 and task["state"] in ("completed", "failed", "cancelled")
    return task if done else None


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
        closed = {"kind": "site_closed", "site_id": "OWN-SITE"}
        scenario = {"horizon_days": 1, "disturbances": [closed]}
        post(client, "/simulations/generate", scenario | {"scenario_id": "OWN-SCENARIO"})

    def ask(self, method: str, path: str, field: tuple[str, ...], value: str) -> tuple[int, str]:
        """Status and what was told, without the id itself and what is new with every answer."""
        self._number += 1
        own = f"OWN-{self._number}"
        self._make(path, own)
        told = next(t for m, p, t in self._world.operations if (m, p) == (method, path))
        body = self._example(told, field) | self._own(path, own, field)
        if field[0] == "line_sites":
            body["line_sites"] = [{"line_no": 1, "site_id": "OWN-SITE"}]
        set_in(body, field, value)
        ids = {**dict.fromkeys(re.findall(r"{(\w+)}", path), own), "site_id": "OWN-SITE"}
        where = path.format_map({**ids, "sku": "OWN-SKU"})
        answer = self._client.request(method, where, json=body)
        said = answer.json()
        if answer.is_error:
            refused = f"{said['type']}: {said['detail']}"
            return answer.status_code, refused.replace(value, "ID").replace(own, "OWN")
        if path not in TASKS and not path.startswith("/tasks/"):
            return answer.status_code, ", ".join(sorted(said))
        task_id = said.get(TASKS.get(path, "task_id")) or said["id"]
        task = until(lambda: ended(self._client, task_id))
        return answer.status_code, f"{task['state']}: {task['reason']}".replace(value, "ID")

    def _make(self, path: str, own: str) -> None:
        """What a path or its body names as there already."""
        if "{order_id}" in path or path in ("/decisions", "/frontend/decision"):
            post(self._client, "/orders", order(own))
        if path.endswith(("/shipments", "/returns")):
            post(self._client, f"/orders/{own}/allocate", {"site_id": "OWN-SITE"})
        if path.endswith("/returns"):
            post(self._client, f"/orders/{own}/ship", {})
            post(self._client, f"/orders/{own}/deliver", {})
        if "{vehicle_id}" in path or path == "/assignments":
            self._post("/vehicles", vehicle_id=own, site_id="OWN-SITE")
        if "{assignment_id}" in path:
            named = {"vehicle_id": own, "assignment_id": own}
            self._post("/assignments", **named, site_id="OWN-SITE")
        if path.endswith("/reinstate"):
            post(self._client, f"/vehicles/{own}/retire", {"reason": "broken"})
        if "{client_id}" in path:
            self._post("/clients", client_id=own)
        if "{schedule_id}" in path:
            self._post("/schedules", schedule_id=own)
        if "{retry_of}" in path:
            asked = {"task_id": own, "decision_id": "NOBODYS"}
            assert worked(self._client, "/tasks/bundle", asked)["state"] == "failed"

    def _post(self, path: str, **changes: str) -> None:
        told = next(t for m, p, t in self._world.operations if (m, p) == ("POST", path))
        post(self._client, path, example_of(told) | changes)

    def _example(self, told: Mapping[str, Any], field: tuple[str, ...]) -> dict[str, Any]:
        """The first body with such a field that the document shows, or its schema does."""
        content = told["requestBody"]["content"]["application/json"]
        for one in content.get("examples", {}).values():
            if field[0] in one["value"]:
                return deepcopy(dict(one["value"]))
        if "examples" in content:
            return example_of(told)
        name = content["schema"]["$ref"].rpartition("/")[2]
        schema = self._world.app.openapi()["components"]["schemas"][name]
        return deepcopy(dict(schema.get("example", {})))

    def _own(self, path: str, own: str, field: tuple[str, ...]) -> dict[str, Any]:
        """What in an example is to be its own, or new, and what takes such a field."""
        task = {"site_id": "tours", "scenario_id": "simulation"}.get(field[-1])
        work = {"work": {"task": task}} if field[0] == "work" else {}
        return {
            "/orders": order(own, recipient={"person_id": own, "name": "Ada", "city": "Berlin"}),
            "/orders/{order_id}/allocate": {"site_id": "OWN-SITE", "vehicle_id": None},
            "/orders/{order_id}/returns": {"site_id": "OWN-SITE"},
            "/sites": {"site_id": own},
            "/vehicles": {"vehicle_id": own, "site_id": "OWN-SITE"},
            "/routes/forbid": {"site_id": "OWN-SITE", "region": own},
            "/decisions": {"subject_id": own},
            "/frontend/decision": {"subject_id": own},
            "/clients": {"client_id": own},
            "/assignments": {"vehicle_id": own, "assignment_id": own, "site_id": "OWN-SITE"},
            "/route-rules": {"rule_id": own},
            "/metrics": {"site_id": "OWN-SITE"},
            "/tours/plan": {"site_id": "OWN-SITE"},
            "/simulations/run": {"scenario_id": "OWN-SCENARIO"},
            "/simulations/generate": {
                "horizon_days": 1,
                "disturbances": [
                    {"kind": "vehicle_lost"}
                    if field[-1] == "vehicle_id"
                    else {"kind": "site_closed", "site_id": "OWN-SITE"}
                ],
            },
            "/schedules": {"schedule_id": own} | work,
            "/schedules/{schedule_id}": work,
            "/webhooks": BODIES["/webhooks/{webhook_id}"] | {"webhook_id": own},
        }.get(path, {})


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
                if isinstance(items, dict) and "items" not in items:
                    # No list: what is told of something that nobody has.
                    nobodys = re.sub("[0-9A-Za-z]", "7", values[name])
                    items = [] if items == get(third, path, **{name: nobodys}) else items
                elif isinstance(items, dict):
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
