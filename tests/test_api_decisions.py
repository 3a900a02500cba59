"""Decisions over HTTP, against `chainlytics serve`: asked, explained, reviewed, asked what if."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4
from xml.etree import ElementTree

import httpx
import pytest

from domain.access import Role
from domain.decisions import Weights
from ml.fulfilment import FULFILMENT
from ml.scoring import ADDITIVITY_TOLERANCE
from tests.serving import (
    Served,
    assert_problem,
    decided,
    everything,
    found,
    get,
    order,
    post,
    serving_process,
    until,
)
from tests.world import a_year, company, decidable_orders, deployed_model

ANY_HASH = "0" * 64


@pytest.fixture(scope="module")
def waiting(database: str) -> list[str]:
    """Orders that wait for a decision and have several ways, in a made year with a deployed
    model."""

    async def fill() -> list[str]:
        async with company(database) as app:
            await a_year(app)
            await deployed_model(app)
            await app.consumer.catch_up()
        return await decidable_orders(database)

    return asyncio.run(fill())


@pytest.fixture(scope="module")
def served(
    database: str, waiting: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with serving_process(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture
def planner(served: Served) -> Iterator[httpx.Client]:
    with served.client(Role.ANALYST, actor="planner") as client:
        yield client


@pytest.fixture
def boss(served: Served) -> Iterator[httpx.Client]:
    with served.client(Role.ADMIN, actor="boss") as client:
        yield client


def asked(client: httpx.Client, subject_id: str, **more: Any) -> dict[str, Any]:
    """A decision on an order, answered."""
    return decided(client, post(client, "/decisions", {"subject_id": subject_id, **more})["id"])


def other_options(detail: dict[str, Any]) -> list[dict[str, str]]:
    """The allowed options that were not chosen."""
    made = detail["made"]
    return [
        one["option"]
        for number, one in enumerate(made["candidates"])
        if number != made["chosen"] and not one["rejected"]
    ]


def test_an_order_that_no_site_may_sell_fails_with_its_reason(served: Served) -> None:
    with served.client(organisation_id=uuid4()) as client:
        post(client, "/orders", order("O-1"))
        request = post(client, "/decisions", {"decision_id": "D-1", "subject_id": "O-1"})
        assert request["stream"] == "decisions/D-1"
        shown = decided(client, "D-1")
        assert shown["failed"]["code"] == "decision.no_candidate"
        assert shown["requested_position"] == request["position"]
        assert shown["made"] is None
        [listed] = get(client, "/decisions", min_position=shown["last_position"])["items"]
        assert (listed["stage"], listed["subject_id"]) == ("failed", "O-1")
        for path in ("explanation", "explanation/waterfall.svg"):
            said = assert_problem(client.get(f"/decisions/D-1/{path}"), 404, "not-found")
            failed = {name: shown["failed"][name] for name in ("code", "detail")}
            assert said["context"] == failed
            assert failed["detail"] in said["detail"]
            assert "[decision.no_candidate]" in said["detail"]
        assert_problem(client.get("/decisions/D-1/counterfactual"), 409, "decision.not_made")
        changes = {"changes": [{"feature": "site_backlog", "value": 1}]}
        answer = client.post("/decisions/D-1/what-if", json=changes)
        assert_problem(answer, 409, "decision.not_made")
        case = {"kind": "fulfilment", "options": [{"features": {}}]}
        supposed = client.post("/explain", json=case)
        assert supposed.status_code == 200, supposed.text
        assert supposed.json()["method"] == "rule-based"


def test_a_decision_is_made_explained_replayed_and_closed(
    served: Served, planner: httpx.Client, waiting: list[str]
) -> None:
    weights = {"cost": 1.0, "risk_minor": 5000, "carbon_minor_per_kg": 20}
    body = {
        "subject_id": waiting[0],
        "weights": weights,
        "priority": 8,
        "deadline": "2099-01-01T00:00:00Z",
    }
    request = post(planner, "/decisions", body, "ask")
    # The server made the id up: a retry is told the same one.
    assert post(planner, "/decisions", body, "ask") == request | {"repeated": True}
    path = f"/decisions/{request['id']}"
    shown = decided(planner, request["id"])
    made = shown["made"]
    assert made["as_of"] == request["position"]
    assert made["weights"] == shown["requested"]["weights"] == weights
    assert (shown["requested"]["priority"], made["role"]) == (8, "champion")

    why = get(planner, f"{path}/explanation", min_position=shown["last_position"])
    assert why["option"] == made["option"]
    assert why["option"]["site_id"] in why["summary"]
    assert why["reasons"]
    assert why["weights"] == weights
    assert why["additive"] is True
    assert why["additivity_error"] <= why["additivity_tolerance"] == ADDITIVITY_TOLERANCE
    assert len(why["candidates"]) == len(made["candidates"])
    for number, one in enumerate(why["candidates"]):
        assert (one["index"], one["chosen"]) == (number, number == made["chosen"])
        assert {push["name"] for push in one["features"]} == set(FULFILMENT.feature_names)
        total = one["base"] + sum(push["contribution"] for push in one["features"])
        assert total == pytest.approx(one["margin"], abs=ADDITIVITY_TOLERANCE)
    chosen = why["candidates"][made["chosen"]]
    assert [push["sentence"] for push in chosen["features"][:3]] == [
        reason["sentence"] for reason in why["reasons"][:3]
    ]

    replayed = found(planner.post(f"{path}/replay"))
    assert (replayed["same"], replayed["cause"]) == (True, "")
    assert replayed["bytes_compared"] > 0

    post(planner, f"{path}/outcome", {"occurred": False, "followed": True, "cost_minor": 700})
    again = planner.post(f"{path}/outcome", json={"occurred": True, "followed": True})
    assert_problem(again, 409, "decision.not_made")
    [listed] = get(
        planner,
        "/decisions",
        subject_id=waiting[0],
        stage="closed",
        min_position=shown["last_position"] + 1,
    )["items"]
    told = (listed["decision_id"], listed["occurred"], listed["followed"])
    assert told == (request["id"], False, True)
    for name in ("probability", "foretold", "risk", "confidence", "value_minor", "currency"):
        assert listed[name] == made[name], name
    assert listed["currency"] == why["currency"] == "EUR"
    assert why["foretold"] == made["foretold"] is not None
    detail = planner.get(path)
    assert found(detail)["outcome"]["foretold"] == made["foretold"]
    assert found(detail)["kept"] is None
    assert detail.headers["etag"] == f'"{found(detail)["version"]}"'
    # What came after changes nothing of what was decided then.
    assert found(planner.post(f"{path}/replay"))["same"] is True

    with served.client(Role.AUDITOR) as auditor:
        trail = everything(auditor, "/audit", area="decisions", limit=500)
        mine = [line for line in trail if request["id"] in line["sentence"]]
        assert [(line["what"], line["actor"]) for line in mine] == [
            ("DecisionRequested", "planner"),
            ("DecisionMade", "decision-consumer"),
            ("DecisionExplained", "decision-consumer"),
            ("DecisionOutcomeRecorded", "planner"),
        ]
        # The answer follows from the request, in one correlation.
        assert mine[1]["causation_id"] == mine[2]["causation_id"] == mine[0]["event_id"]
        assert len({line["correlation_id"] for line in mine[:3]}) == 1


def test_one_candidate_and_its_picture(planner: httpx.Client, waiting: list[str]) -> None:
    shown = asked(planner, waiting[1])
    path = f"/decisions/{shown['decision_id']}/explanation"
    [one] = get(planner, path, candidate=1)["candidates"]
    assert one["index"] == 1
    assert_problem(planner.get(path, params={"candidate": 9999}), 404, "not-found")
    assert_problem(planner.get(path, params={"candidate": -1}), 422, "invalid")

    chosen = planner.get(f"{path}/waterfall.svg")
    assert chosen.status_code == 200
    assert chosen.headers["content-type"].startswith("image/svg+xml")
    words = " ".join(ElementTree.fromstring(chosen.text).itertext())
    assert "(chosen)" in words
    assert shown["made"]["option"]["site_id"] in words
    other = planner.get(f"{path}/waterfall.svg", params={"candidate": 1}).text
    assert ("(chosen)" in " ".join(ElementTree.fromstring(other).itertext())) == one["chosen"]
    for asked_of in (path, f"{path}/waterfall.svg"):
        early = planner.get(asked_of, params={"as_of": shown["requested_position"]})
        assert_problem(early, 404, "not-found")


def test_what_if_and_what_would_have_turned_it(planner: httpx.Client, waiting: list[str]) -> None:
    shown = asked(planner, waiting[2])
    path = f"/decisions/{shown['decision_id']}"
    site = shown["made"]["option"]["site_id"]
    worse = [{"feature": "site_backlog", "value": 450, "where": {"site_id": site}}]
    said = found(planner.post(f"{path}/what-if", json={"changes": worse}))
    assert said["before"] == shown["made"]["chosen"]
    assert said["turned"] == (said["after"] != said["before"])
    assert said["sentence"].startswith(f"If site backlog of site {site} were 450")
    assert said["additive"] is True
    for one, was in zip(said["options"], shown["made"]["candidates"], strict=True):
        backlog = next(push for push in one["features"] if push["name"] == "site_backlog")
        changed = one["option"]["site_id"] == site
        assert (backlog["value"] == 450) == changed
        # What is not changed is weighed as it was, to the bit.
        assert changed or one["risk"] == was["risk"]

    turned = get(planner, f"{path}/counterfactual")
    if turned["counterfactual"] is None:
        assert "turns the choice" in turned["sentence"]
    else:
        changes = turned["counterfactual"]["changes"]
        assert turned["sentence"].startswith("If ")
        assert "would have been chosen instead of" in turned["sentence"]
        again = found(planner.post(f"{path}/what-if", json={"changes": changes}))
        assert again["turned"] is True
        assert again["options"][again["after"]]["option"] == turned["counterfactual"]["chosen"]


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"feature": "mood", "value": 1}, "feature", "mood"),
        ({"feature": "slack_days", "value": 1}, "feature", "slack_days"),
        ({"feature": "site_backlog", "value": 1, "where": {"site_id": "S-NO"}}, "where", None),
    ],
)
def test_a_change_that_cannot_be_made(
    planner: httpx.Client, waiting: list[str], change: dict[str, Any], field: str, value: str
) -> None:
    [first, *_] = get(planner, "/decisions", stage="made")["items"]
    path = f"/decisions/{first['decision_id']}/what-if"
    said = assert_problem(planner.post(path, json={"changes": [change]}), 422, "wrong-case")
    [error] = said["errors"]
    assert error["field"] == field
    assert error.get("value") == value
    assert error["rule"]
    for broken in ([], [{"feature": "site_backlog", "value": "NaN"}], [change | {"value": 1e300}]):
        assert_problem(planner.post(path, json={"changes": broken}), 422, "invalid")


def test_a_hypothetical_case(planner: httpx.Client, served: Served) -> None:
    options = [
        {
            "option": {"site_id": "S-AMS", "service_level": level},
            "features": {"promised_days": 3, "site_backlog": 20, "transit_days": days},
            "cost_minor": cost,
        }
        for level, days, cost in (("economy", 6, 390), ("express", 1, 990))
    ]
    case = {"kind": "fulfilment", "options": options}
    said = found(planner.post("/explain", json=case))
    [live] = get(planner, "/models/live")["items"]
    assert said["model_hash"] == live["model_hash"]
    assert said["weights"] == Weights().model_dump()
    assert said["options"][said["chosen"]]["chosen"] is True
    assert said["additive"] is True
    for one in said["options"]:
        total = one["base"] + sum(push["contribution"] for push in one["features"])
        assert total == pytest.approx(one["margin"], abs=ADDITIVITY_TOLERANCE)
        assert {push["value"] for push in one["features"] if push["name"] == "units"} == {None}
    cheap = case | {"weights": {"cost": 1, "risk_minor": 0, "carbon_minor_per_kg": 0}}
    named = cheap | {"model_hash": live["model_hash"]}
    assert found(planner.post("/explain", json=named))["chosen"] == 0

    wrong = case | {"options": [{"features": {"mood": 1}}]}
    [error] = assert_problem(planner.post("/explain", json=wrong), 422, "wrong-case")["errors"]
    assert (error["field"], error["value"]) == ("features", "mood")
    for path, changes in (("kind", {"kind": "weather"}), ("model", {"model_hash": ANY_HASH})):
        answer = assert_problem(planner.post("/explain", json=case | changes), 404, "not-found")
        assert path in answer["detail"]
    assert_problem(planner.post("/explain", json=case | {"options": []}), 422, "invalid")
    other_kind = planner.post(
        "/explain", json=case | {"kind": "anomaly", "model_hash": live["model_hash"]}
    )
    assert_problem(other_kind, 422, "model.of_another_kind")
    # Before the model was deployed there was none: the rule stands in, and the answer says so.
    assert said["method"] == live["model_hash"]
    asked = {"as_of": live["since_position"] - 1}
    early = found(planner.post("/explain", json=case, params=asked))
    assert early["method"] == "rule-based"
    assert early["model_hash"] != live["model_hash"]
    assert "(rule-based)" in early["sentence"]
    with served.client(organisation_id=uuid4()) as stranger:
        theirs = stranger.post("/explain", json=case | {"model_hash": live["model_hash"]})
        assert_problem(theirs, 404, "not-found")


def test_people_confirm_override_and_contest(
    planner: httpx.Client, boss: httpx.Client, waiting: list[str]
) -> None:
    policy = {"minimum_confidence": 0.0, "four_eyes_above_minor": 0}
    post(boss, "/policies/fulfilment", policy)
    try:
        shown = asked(planner, waiting[3])
    finally:
        post(boss, "/policies/fulfilment", {"minimum_confidence": 0.0})
    path = f"/decisions/{shown['decision_id']}"
    assert shown["referred"]["approvals"] == 2
    assert [one["code"] for one in shown["referred"]["reasons"]] == ["value.four_eyes"]
    post(planner, f"{path}/confirm", {})
    again = planner.post(f"{path}/confirm", json={})
    assert_problem(again, 403, "decision.needs_another_person")

    option, *_ = other_options(shown)
    reason = "the customer called"
    for body, status, code in (
        ({"option": {"site_id": "S-NO"}, "reason": reason}, 422, "decision.no_such_option"),
        (
            {"option": shown["made"]["option"], "reason": reason},
            409,
            "decision.same_option",
        ),
        ({"option": option}, 422, "invalid"),
    ):
        assert_problem(planner.post(f"{path}/override", json=body), status, code)
    rejected = [one["option"] for one in shown["made"]["candidates"] if one["rejected"]]
    for one in rejected[:1]:
        answer = planner.post(f"{path}/override", json={"option": one, "reason": reason})
        assert_problem(answer, 422, "decision.option_rejected")
    post(planner, f"{path}/override", {"option": option, "reason": reason})
    last = post(boss, f"{path}/confirm", {})["position"]
    detail = get(planner, path, min_position=last)
    assert detail["overridden"]["overridden_by"] == "planner"
    assert detail["overridden"]["decided"] == shown["made"]["option"]
    assert detail["confirmed"]["approvals_left"] == 0
    [listed] = get(planner, "/decisions", subject_id=waiting[3], min_position=last)["items"]
    assert (listed["overridden_by"], listed["approvals_left"]) == ("planner", 0)

    weights = {"cost": 1.0, "risk_minor": 0, "carbon_minor_per_kg": 0}
    contested = {"reason": "too dear", "weights": weights}
    post(boss, f"{path}/contest", contested)
    assert_problem(boss.post(f"{path}/contest", json=contested), 409, "decision.already_contested")

    def answered() -> dict[str, Any] | None:
        items = get(planner, "/decisions", redecides=shown["decision_id"])["items"]
        return items[0] if items and items[0]["stage"] == "made" else None

    anew = get(planner, f"/decisions/{until(answered)['decision_id']}")
    assert anew["requested"]["weights"] == anew["made"]["weights"] == weights
    assert get(planner, path)["contested"]["contested_by"] == "boss"

    [kpis] = get(planner, "/kpis/decisions", kind="fulfilment")["items"]
    assert kpis["overridden"] == kpis["contested"] == kpis["referred"] == 1
    assert kpis["override_rate"] == pytest.approx(1 / kpis["made"])
    assert get(planner, "/kpis/decisions", kind="weather")["items"] == []


def test_decisions_in_pages_and_by_filter(planner: httpx.Client, waiting: list[str]) -> None:
    ids = [asked(planner, order_id)["decision_id"] for order_id in waiting[4:9]]
    rows = get(planner, "/decisions", limit=500)["items"]
    assert set(ids) <= {row["decision_id"] for row in rows}
    assert everything(planner, "/decisions", limit=2) == rows
    for query in (
        {"kind": "fulfilment"},
        {"stage": "made"},
        {"model_hash": rows[0]["model_hash"]},
        {"subject_id": waiting[4], "stage": "made"},
    ):
        wanted = [row for row in rows if all(row[name] == query[name] for name in query)]
        assert wanted
        assert everything(planner, "/decisions", limit=3, **query) == wanted
    for nothing in ({"kind": "weather"}, {"model_hash": ANY_HASH}, {"redecides": "D-none"}):
        assert get(planner, "/decisions", **nothing)["items"] == []


def test_the_kinds_are_declared(served: Served) -> None:
    with served.client(Role.VIEWER) as viewer:
        kinds = {kind["name"]: kind for kind in get(viewer, "/kinds")["items"]}
    mine = kinds["fulfilment"]
    assert mine["option"] == list(FULFILMENT.option)
    assert [one["name"] for one in mine["features"]] == list(FULFILMENT.feature_names)
    backlog = next(one for one in mine["features"] if one["name"] == "site_backlog")
    assert backlog["lever"] == {"low": 0, "high": 500, "shared": ["site_id"]}
    assert {one["code"] for one in mine["constraints"]} >= {"site.closed", "route.forbidden"}
    assert (mine["code"], mine["schema_hash"]) == (FULFILMENT.code, FULFILMENT.schema_hash)
    assert mine["weights"] == Weights().model_dump()


def test_policies_are_set_stopped_and_resumed(served: Served) -> None:
    mine: UUID = uuid4()
    with served.client(organisation_id=mine, actor="boss") as client:
        usual = get(client, "/policies/fulfilment")
        assert (usual["set_by"], usual["minimum_confidence"], usual["stopped"]) == (None, 0, False)
        assert get(client, "/policies")["items"] == []
        body = {"minimum_confidence": 0.7, "four_eyes_above_minor": 50_000, "max_psi": 0.1}
        first = post(client, "/policies/fulfilment", body)["position"]
        stopped = post(client, "/policies/fulfilment/stop", {"reason": "flood"})["position"]
        again = client.post("/policies/fulfilment/stop", json={"reason": "flood"})
        assert_problem(again, 409, "policy.already_stopped")
        shown = get(client, "/policies/fulfilment", min_position=stopped)
        assert shown == usual | body | {
            "set_by": "boss",
            "set_at": shown["set_at"],
            "stopped": True,
            "stopped_by": "boss",
            "stopped_reason": "flood",
            "stopped_at": shown["stopped_at"],
            "last_position": stopped,
            "version": 2,
        }
        post(client, "/orders", order("O-1"))
        assert asked(client, "O-1")["failed"]["code"] == "decision.kind_stopped"
        resumed = post(client, "/policies/fulfilment/resume", {})["position"]
        assert_problem(
            client.post("/policies/fulfilment/resume", json={}), 409, "policy.not_stopped"
        )
        [listed] = get(client, "/policies", min_position=resumed)["items"]
        assert (listed["stopped"], listed["stopped_reason"]) == (False, None)
        assert get(client, "/policies/fulfilment", as_of=first)["stopped"] is False
        assert_problem(client.get("/policies/weather"), 404, "not-found")
        unknown = client.post("/policies/weather/stop", json={"reason": "rain"})
        assert_problem(unknown, 422, "decision.unknown_kind")
        assert_problem(
            client.post("/policies/fulfilment", json={"minimum_confidence": 1.5}), 422, "invalid"
        )
