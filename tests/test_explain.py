"""Why, over HTTP: decisions in sentences, factors, and what would be decided."""

from __future__ import annotations

import asyncio
import csv
import io
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from domain.access import Role
from ml.catalogue import KINDS
from ml.rules import rule_for
from ml.words import broken_in_words
from tests.serving import (
    Served,
    assert_problem,
    decided,
    get,
    post,
    serving_here,
    until,
)
from tests.world import a_year, company, decidable_orders


@pytest.fixture(scope="module")
def world(
    database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, list[str]]]:
    """A small year without any model, served; orders that can be decided."""

    async def fill() -> list[str]:
        async with company(database) as app:
            await a_year(app, 300)
            await app.consumer.catch_up()
        return await decidable_orders(database)

    orders = asyncio.run(fill())
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served, orders


@pytest.fixture
def client(world: tuple[Served, list[str]]) -> Iterator[httpx.Client]:
    with world[0].client(Role.ADMIN, actor="planner") as found:
        yield found


@pytest.fixture(scope="module")
def decision(world: tuple[Served, list[str]]) -> dict[str, Any]:
    """A decision of the rule, as it stands."""
    with world[0].client(Role.ADMIN, actor="planner") as client:
        asked = post(client, "/decisions", {"subject_id": world[1][0]})
        return decided(client, asked["id"])


def test_a_decision_of_the_rule_is_explained_as_one(
    client: httpx.Client, decision: dict[str, Any]
) -> None:
    name = decision["decision_id"]
    told = client.get(f"/explain/{name}").json()
    made = decision["made"]
    rule = rule_for(KINDS["fulfilment"])
    assert rule is not None
    assert (told["method"], told["role"], told["model_hash"]) == (
        "rule-based",
        "rule_based",
        rule.hash,
    )
    assert told["chosen"] == made["option"]
    assert "rule-based" in told["summary"]
    assert told["why"][0].startswith("Rule-based, no model is deployed for fulfilment")
    assert told["confidence"] == made["confidence"]
    assert "by a rule and not by a model" in told["confidence_sentence"]
    assert len(told["why_not"]) == min(10, len(made["candidates"]) - 1)
    places = {one["candidate"]: one for one in told["why_not"]}
    assert made["chosen"] not in places
    for place, one in places.items():
        assert one["option"] == made["candidates"][place]["option"]
        assert one["rejected"] == made["candidates"][place]["rejected"]
        assert one["sentence"]
    assert told["factors"][0]["feature"] == "lane_late_share"
    assert told["counterfactual"]
    for link in told["links"].values():
        assert client.get(link.removeprefix("/api/v1")).status_code == 200, link
    with_etag = client.get(f"/explain/{name}")
    assert with_etag.headers["etag"]


def test_factors_make_up_the_margin(client: httpx.Client, decision: dict[str, Any]) -> None:
    name = decision["decision_id"]
    made = decision["made"]
    told = client.get(f"/explain/decision/{name}/factors").json()
    assert told["candidate"] == made["chosen"]
    assert told["additive"]
    assert told["sum"] == pytest.approx(told["margin"], abs=1e-4)
    assert told["margin"] == made["candidates"][made["chosen"]]["margin"]
    assert [one["rank"] for one in told["factors"]] == [*range(1, len(told["factors"]) + 1)]
    assert math.fsum(one["share"] for one in told["factors"]) == pytest.approx(1)
    first = told["factors"][0]
    assert first["direction"] == ("raises" if first["contribution"] > 0 else "lowers")
    assert told["factors"][-1]["direction"] == "none"
    other = client.get(
        f"/explain/decision/{name}/factors", params={"candidate": 0, "limit": 2}
    ).json()
    assert (other["candidate"], len(other["factors"])) == (0, 2)
    in_all = other["base"] + math.fsum(one["contribution"] for one in other["factors"])
    assert in_all + other["left"] == pytest.approx(other["margin"], abs=1e-4)


def test_a_subject_is_supposed_as_it_would_be_decided_and_nothing_is_stored(
    client: httpx.Client, world: tuple[Served, list[str]], decision: dict[str, Any]
) -> None:
    order = world[1][1]
    before = get(client, "/decisions", subject_id=order)["items"]
    case = {"kind": "fulfilment", "subject_id": order}
    told = client.post("/explain", json=case).json()
    assert told["method"] == "rule-based"
    assert told["additive"]
    assert (told["turned"], told["chosen"]) == (False, told["before"])
    asked = post(client, "/decisions", {"subject_id": order})
    made = decided(client, asked["id"])["made"]
    assert told["options"][told["chosen"]]["option"] == made["option"]
    assert [one["margin"] for one in told["options"]] == [
        one["margin"] for one in made["candidates"]
    ]
    assert [one["rejected"] for one in told["options"]] == [
        one["rejected"] for one in made["candidates"]
    ]
    assert len(get(client, "/decisions", subject_id=order)["items"]) == len(before) + 1
    cheap = {**case, "weights": {"cost": 1, "risk_minor": 0, "carbon_minor_per_kg": 0}}
    thrifty = client.post("/explain", json=cheap).json()
    allowed = [one for one in thrifty["options"] if not one["rejected"]]
    chosen = thrifty["options"][thrifty["chosen"]]
    assert chosen["cost_minor"] == min(one["cost_minor"] for one in allowed)


def test_a_decision_is_supposed_with_changes(
    client: httpx.Client, decision: dict[str, Any]
) -> None:
    name = decision["decision_id"]
    chosen = decision["made"]["option"]
    change = {"feature": "lane_late_share", "value": 0.99, "where": {"site_id": chosen["site_id"]}}
    told = client.post("/explain", json={"decision_id": name, "changes": [change]}).json()
    assert told["before"] == decision["made"]["chosen"]
    mine = told["options"][told["before"]]
    assert mine["risk"] == pytest.approx(0.99, abs=1e-4)
    assert "lane late share" in told["sentence"]
    same = client.post("/explain", json={"decision_id": name}).json()
    assert (same["turned"], same["chosen"]) == (False, decision["made"]["chosen"])


@pytest.mark.parametrize(
    ("case", "status", "code"),
    [
        ({}, 422, None),
        ({"kind": "fulfilment"}, 422, None),
        ({"kind": "fulfilment", "subject_id": "O-1", "decision_id": "D"}, 422, None),
        ({"decision_id": "D-404"}, 404, "not-found"),
        ({"subject_id": "O-1"}, 422, None),
        ({"kind": "fulfilment", "subject_id": "O-404"}, 404, "not-found"),
        ({"kind": "weather", "subject_id": "O-1"}, 404, "not-found"),
        ({"kind": "fulfilment", "subject_id": "O 1"}, 422, None),
        ({"kind": "fulfilment", "options": []}, 422, None),
        ({"kind": "fulfilment", "options": [{"features": {"colour": 1}}]}, 422, None),
        ({"kind": "fulfilment", "subject_id": "O-1", "model_hash": "a" * 64}, 422, None),
    ],
)
def test_bad_cases_get_clear_answers(
    client: httpx.Client, case: dict[str, Any], status: int, code: str | None
) -> None:
    assert_problem(client.post("/explain", json=case), status, code)


def test_what_is_not_there_is_not_explained(client: httpx.Client, decision: dict[str, Any]) -> None:
    assert_problem(client.get("/explain/D-404"), 404)
    assert_problem(client.get("/explain/decision/D-404/factors"), 404)
    path = f"/explain/decision/{decision['decision_id']}/factors"
    assert_problem(client.get(path, params={"candidate": 9999}), 404)
    assert_problem(client.get(path, params={"limit": 0}), 422)


def test_a_viewer_reads_why_and_supposes_nothing(
    world: tuple[Served, list[str]], decision: dict[str, Any]
) -> None:
    with world[0].client(Role.VIEWER) as viewer:
        told = viewer.get(f"/explain/{decision['decision_id']}").json()
        assert told["counterfactual"] is None
        case = {"decision_id": decision["decision_id"]}
        assert_problem(viewer.post("/explain", json=case), 403)


def test_kinds_tell_family_and_fallback(client: httpx.Client) -> None:
    told = get(client, "/kinds")
    kinds = {one["name"]: one for one in told["items"]}
    assert {name: one["family"] for name, one in kinds.items()} == {
        "fulfilment": "policy",
        "replenishment": "policy",
        "anomaly": "anomaly",
    }
    estimates = {one["family"]: one for one in told["estimates"]}
    assert set(estimates) == {"forecast", "cost", "routing"}
    for one in (*kinds.values(), *estimates.values()):
        assert (one["method"], one["deployed"]) == ("rule-based", None)
        assert one["fallback"]["says"]
        assert one["fallback"]["source"]
        assert len(one["fallback"]["hash"]) == 64


# many at once


def done(client: httpx.Client, task_id: str) -> dict[str, Any]:
    def ask() -> Any:
        found = client.get(f"/tasks/{task_id}").json()
        return found if found["state"] in ("completed", "failed") else None

    return dict(until(ask, 60))


def test_inference_decides_many_and_says_by_what(
    client: httpx.Client, world: tuple[Served, list[str]]
) -> None:
    subjects = [*world[1][1:4], "O-404"]
    body = {"kind": "fulfilment", "subject_ids": subjects, "format": "csv"}
    asked = client.post("/tasks/inference", json=body)
    assert asked.status_code == 202, asked.text
    task = done(client, asked.json()["task_id"])
    assert task["result"] == {"subjects": 4, "made": 3, "refused": 1, "rule_based": 3}
    text = client.get(f"/tasks/{task['task_id']}/result").text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["subject_id"] for row in rows] == subjects
    assert {row["method"] for row in rows[:3]} == {"rule-based"}
    assert rows[3]["code"] == "order.unknown"
    for row in rows[:3]:
        made = decided(client, row["decision_id"])["made"]
        assert made["subject_id"] == row["subject_id"]


def test_inference_foretells_many(client: httpx.Client) -> None:
    body = {"kind": "demand", "subject_ids": ["S-404/A", "S-404"], "horizon_days": 7}
    task = done(client, client.post("/tasks/inference", json=body).json()["task_id"])
    assert task["result"] == {"subjects": 2, "refused": 2, "rule_based": 0}
    found = client.get(f"/tasks/{task['task_id']}/result").json()
    assert [one["code"] for one in found["items"]] == [
        "forecast.nothing_known",
        "decision.wrong_subject",
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "weather"},
        {"kind": "fulfilment", "subject_ids": []},
        {"kind": "demand", "horizon_days": 91},
        {"kind": "demand", "format": "xml"},
    ],
)
def test_bad_inference_is_refused(client: httpx.Client, body: dict[str, Any]) -> None:
    assert_problem(client.post("/tasks/inference", json=body), 422)


def test_what_a_candidate_breaks_is_told_in_its_own_words() -> None:
    cut_off = "service_level.cut_off_passed"
    rejections = [
        {"code": cut_off, "sentence": "Standard at site S-MIL takes no orders after 19:00 UTC"},
        {"code": cut_off, "sentence": "Standard at site S-MUC takes no orders after 19:00 UTC"},
        {"code": cut_off, "sentence": "Express at site S-MIL takes no orders after 16:00 UTC"},
        {"code": "stock.not_enough", "sentence": "Site S-MIL lacks stock for 1 of the lines"},
        {"code": "stock.not_enough", "sentence": "Site S-MUC lacks stock for 2 of the lines"},
    ]
    option = {"site_id": "S-MIL", "service_level": "standard", "vehicle_id": "V-MIL-VAN"}
    told = broken_in_words(KINDS["fulfilment"], option, [cut_off, "stock.not_enough"], rejections)
    assert told == [rejections[0]["sentence"], rejections[3]["sentence"]]


def test_what_is_not_sure_to_be_a_candidates_words_is_told_as_its_rule() -> None:
    rejections = [
        {"code": "vehicle.gone", "sentence": "It went"},
        {"code": "service_level.too_heavy", "sentence": "Express carries 5 g at most, too little"},
    ]
    option = {"site_id": "S-MIL", "service_level": "standard"}
    codes = ["vehicle.gone", "service_level.too_heavy"]
    assert broken_in_words(KINDS["fulfilment"], option, codes, rejections) == codes
    assert broken_in_words(None, option, codes, rejections) == codes
