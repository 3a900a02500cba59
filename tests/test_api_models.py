"""Models over HTTP, against `chainlytics serve`: approved, deployed, rolled back, measured."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from domain.access import Role
from domain.models import Limit, Measurement, RecordMeasurement
from readmodels.models import Deployment, champions
from tests.serving import (
    Served,
    assert_problem,
    decided,
    everything,
    found,
    get,
    post,
    serving_process,
)
from tests.world import (
    NOW,
    a_year,
    another_model,
    company,
    context,
    decidable_orders,
    deployed_model,
)

WORSE = "e" * 64


@dataclass(frozen=True)
class World:
    """The champion, an approved model without a role, one that fits worse than its baseline, and
    an order that waits."""

    champion: str
    other: str
    worse: str
    order_id: str


@pytest.fixture(scope="module")
def world(database: str) -> World:
    async def fill() -> World:
        async with company(database) as app:
            await a_year(app)
            trained = (await deployed_model(app)).registration
            champion = trained.model_hash
            other = await another_model(app)
            beaten = (trained.baseline.log_loss or 0) + 0.1
            bad = trained.metrics.model_copy(update={"log_loss": beaten})
            worse = trained.model_copy(update={"model_hash": WORSE, "metrics": bad})
            await app.bus.execute(worse, context("planner"))
            for number, value in enumerate((0.5, 0.1, 0.4)):
                await app.bus.execute(measured(champion, value, number), context())
            await app.consumer.catch_up()
            await app.projector.catch_up()
        return World(champion, other, WORSE, (await decidable_orders(database))[0])

    return asyncio.run(fill())


def measured(model_hash: str, psi: float, number: int) -> RecordMeasurement:
    """Figures of which one is watched."""
    return RecordMeasurement(
        model_hash=model_hash,
        measurement=Measurement(
            from_position=1,
            to_position=100 + number,
            decisions=60,
            outcomes=50,
            overridden=3,
            accuracy=0.9,
            brier=0.07,
            calibration_error=0.02,
            estimated_accuracy=0.91,
            estimated_brier=None,
            psi={"weekday": psi, "score": 0.01},
            ks={"weekday": psi / 2},
        ),
        limits=(
            Limit(
                measure="psi",
                feature="weekday",
                value=psi,
                threshold=0.25,
                sentence="weekday has drifted",
            ),
        ),
        measured_at=NOW + timedelta(days=number),
    )


@pytest.fixture(scope="module")
def served(
    database: str, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with serving_process(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture
def boss(served: Served) -> Iterator[httpx.Client]:
    with served.client(actor="boss") as client:
        yield client


def live(client: httpx.Client, **query: Any) -> dict[str, str]:
    """The model in each role of fulfilment."""
    items = get(client, "/models/live", kind="fulfilment", **query)["items"]
    return {one["role"]: one["model_hash"] for one in items}


def test_the_champion_and_its_metrics(served: Served, world: World) -> None:
    with served.client(Role.VIEWER) as viewer:
        models = {one["model_hash"]: one for one in get(viewer, "/models")["items"]}
        assert models.keys() == {world.champion, world.other, world.worse}
        assert everything(viewer, "/models", limit=1) == list(models.values())
        assert get(viewer, "/models", kind="anomaly")["items"] == []
        mine = models[world.champion]
        assert (mine["roles"], models[world.other]["roles"]) == (["champion"], [])
        assert (mine["stage"], mine["registered_by"], mine["approved_by"]) == (
            "deployed",
            "planner",
            "boss",
        )
        shown = viewer.get(f"/models/{world.champion}")
        assert found(shown)["registered"]["training"]["train_rows"] > 0
        assert {"metrics", "baseline", "segments"} <= found(shown)["registered"].keys()
        assert found(shown)["measurement"]["psi"] == {"weekday": 0.4, "score": 0.01}
        assert shown.headers["etag"] == f'"{mine["version"]}.{"-".join(mine["roles"])}"'


def test_measurements_alerts_and_months(boss: httpx.Client, world: World) -> None:
    path = f"/models/{world.champion}"
    rows = get(boss, f"{path}/measurements")["items"]
    assert [one["measurement"]["psi"]["weekday"] for one in rows] == [0.4, 0.1, 0.5]
    assert everything(boss, f"{path}/measurements", limit=2) == rows
    assert get(boss, f"/models/{world.other}/measurements")["items"] == []

    [alert] = get(boss, "/models/alerts", open=True)["items"]
    assert (alert["measure"], alert["feature"], alert["times"]) == ("psi", "weekday", 2)
    assert (alert["value"], alert["threshold"]) == (0.4, 0.25)
    assert get(boss, "/models/alerts", open=False)["items"] == []
    assert get(boss, "/models/alerts", model_hash=world.other)["items"] == []
    assert everything(boss, "/models/alerts", limit=1, kind="fulfilment") == [alert]
    # Between the second figures and the third it was cleared.
    [cleared] = get(boss, "/models/alerts", as_of=rows[1]["position"] + 1)["items"]
    assert (cleared["open"], cleared["times"]) == (False, 1)

    decision_id = post(boss, "/decisions", {"subject_id": world.order_id})["id"]
    decided(boss, decision_id)
    outcome = {"occurred": False, "followed": True}
    position = post(boss, f"/decisions/{decision_id}/outcome", outcome)["position"]
    months = get(boss, f"{path}/months", min_position=position)["items"]
    assert sum(month["decisions"] for month in months) == 1
    assert sum(month["outcomes"] for month in months) == 1
    assert everything(boss, f"{path}/months", limit=1) == months
    for part in ("measurements", "months", "card"):
        assert_problem(boss.get(f"/models/{'0' * 64}/{part}"), 404, "not-found")


def test_roles_are_given_rolled_back_and_taken(boss: httpx.Client, world: World) -> None:
    one, other = f"/models/{world.champion}", f"/models/{world.other}"
    start = live(boss)
    assert start == {"champion": world.champion}
    begun = post(boss, f"{other}/deploy", {"role": "shadow"})["position"]
    assert live(boss, min_position=begun) == start | {"shadow": world.other}
    for body in ({"role": "challenger"}, {"share": 0.5}, {"role": "shadow", "share": 0.5}):
        assert_problem(boss.post(f"{other}/deploy", json=body), 422, "invalid")
    challenged = post(boss, f"{other}/deploy", {"role": "challenger", "share": 0.25})["position"]
    # It has the role that it was given last, and no other one.
    assert live(boss, min_position=challenged) == start | {"challenger": world.other}
    [challenger] = [one for one in get(boss, "/models/live")["items"] if one["share"] < 1]
    assert (challenger["model_hash"], challenger["share"]) == (world.other, 0.25)

    early = {"to": world.champion, "reason": "x"}
    said = assert_problem(boss.post(f"{other}/rollback", json=early), 409, "model.not_champion")
    assert said["context"]["champion"] == world.champion
    promoted = post(boss, f"{other}/deploy", {})["position"]
    assert live(boss, min_position=promoted) == {"champion": world.other}
    assert get(boss, other)["roles"] == ["champion"]
    assert get(boss, one)["roles"] == []
    moment = datetime.now(UTC)
    same = {"to": world.other, "reason": "x"}
    assert_problem(boss.post(f"{other}/rollback", json=same), 422, "model.same_model")
    back = {"to": world.champion, "reason": "worse"}
    first = post(boss, f"{other}/rollback", back, "back")
    rolled = first["position"]
    # It is the champion no more; a retry gets its first answer all the same.
    again = assert_problem(boss.post(f"{other}/rollback", json=back), 409, "model.not_champion")
    assert world.champion in again["detail"]
    assert post(boss, f"{other}/rollback", back, "back") == first | {"repeated": True}
    changed = boss.post(
        f"{other}/rollback", json=back | {"reason": "x"}, headers={"Idempotency-Key": "back"}
    )
    assert_problem(changed, 409, "idempotency-key-reused")
    assert live(boss, min_position=rolled)["champion"] == world.champion
    # Which model decided is known for any time.
    assert live(boss, as_of=promoted)["champion"] == world.other
    assert live(boss, as_of=moment.isoformat())["champion"] == world.other
    assert live(boss, as_of=begun - 1) == start
    assert live(boss, as_of=1) == {}

    history = get(boss, "/models/deployments")["items"]
    assert [(row["role"], row["model_hash"], row["reason"]) for row in history] == [
        ("champion", world.champion, "worse"),
        ("champion", world.other, None),
        ("challenger", world.other, None),
        ("shadow", world.other, None),
        ("champion", world.champion, None),
    ]
    assert everything(boss, "/models/deployments", limit=2) == history
    mine = get(boss, "/models/deployments", model_hash=world.champion)["items"]
    assert [row["position"] for row in mine] == [rolled, history[-1]["position"]]

    stopped = post(boss, f"{one}/stop", {"reason": "stale"})["position"]
    assert_problem(boss.post(f"{one}/stop", json={"reason": "x"}), 409, "model.already_stopped")
    assert get(boss, one, min_position=stopped)["stopped"] == "stale"
    resumed = post(boss, f"{one}/resume", {})["position"]
    assert get(boss, one, min_position=resumed)["stopped"] is None
    assert_problem(boss.post(f"{one}/resume", json={}), 409, "model.not_stopped")

    shadow = post(boss, f"{other}/deploy", {"role": "shadow"})["position"]
    assert live(boss, min_position=shadow) == start | {"shadow": world.other}
    ended = post(boss, f"{other}/withdraw", {"reason": "the trial is over"})["position"]
    assert live(boss, min_position=ended) == start
    assert live(boss, as_of=shadow) == start | {"shadow": world.other}
    [latest, *_] = get(boss, "/models/deployments")["items"]
    told = (latest["role"], latest["model_hash"], latest["by"], latest["reason"])
    assert told == ("none", world.other, "boss", "the trial is over")

    retired = post(boss, f"{other}/retire", {"reason": "replaced"})["position"]
    assert live(boss, min_position=retired) == {"champion": world.champion}
    shown = get(boss, other)
    assert (shown["stage"], shown["retired"], shown["roles"]) == ("retired", "replaced", [])
    assert_problem(boss.post(f"{other}/deploy", json={}), 409, "model.retired")
    assert_problem(boss.post(f"{one}/approve", json={}), 409, "model.already_approved")
    card = boss.get(f"{other}/card").text
    assert "withdrawn | boss | the trial is over" in card
    assert "retired | boss | replaced" in card


def test_a_model_that_fits_worse_is_approved_on_purpose_only(
    boss: httpx.Client, world: World
) -> None:
    path = f"/models/{world.worse}"
    for body in ({}, {"accept_worse": False}):
        answer = boss.post(f"{path}/approve", json=body)
        assert_problem(answer, 409, "model.worse_than_baseline")
    assert "fit worse than the baseline's" in boss.get(f"{path}/card").text
    approved = post(boss, f"{path}/approve", {"accept_worse": True})["position"]
    assert get(boss, path, min_position=approved)["stage"] == "approved"


def test_who_may_not_roll_back_is_told_that_alone(served: Served, world: World) -> None:
    with served.client(Role.VIEWER) as viewer:
        body = {"to": world.champion, "reason": "x"}
        answer = viewer.post(f"/models/{world.other}/rollback", json=body)
        assert_problem(answer, 403, "forbidden")


def test_a_models_card(boss: httpx.Client, served: Served, world: World) -> None:
    answer = boss.get(f"/models/{world.champion}/card", headers={"Accept": "text/markdown"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/markdown")
    text = answer.text
    model = get(boss, f"/models/{world.champion}")
    training = model["registered"]["training"]
    for part in (
        f"# Model card: fulfilment {world.champion[:12]}",
        world.champion,
        training["data_hash"],
        f"{training['to_position']:,}",
        "every delivered order whose delivery time is known",
        "`site_backlog`",
        "`max_depth=4`",
        "xgboost",
        f"{model['registered']['metrics']['log_loss']:.4f}",
        "| site_id | S-",
        "approved | boss",
        "deployed as champion",
        "0.400 (weekday)",
        "weekday has drifted",
        "## Limits",
    ):
        assert part in text, part
    # Every line of a table has as many cells as its head.
    for table in text.split("\n\n"):
        lines = table.splitlines()
        if lines and lines[0].startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in lines}) == 1, table
    early = boss.get(f"/models/{world.champion}/card", params={"as_of": 1})
    assert_problem(early, 404, "not-found")
    with served.client(organisation_id=uuid4()) as stranger:
        assert_problem(stranger.get(f"/models/{world.champion}/card"), 404, "not-found")


def change(position: int, role: str, model: str, reason: str | None = None) -> Deployment:
    return Deployment(
        position=position,
        kind="fulfilment",
        role=role,
        model_hash=model,
        by="boss",
        at=NOW,
        reason=reason,
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ("", ""),
        ("+a", "a"),
        ("+a +b", "ba"),
        ("+a +b <a", "a"),
        ("+a +b +c <b", "ba"),
        ("+a +b +c <a", "a"),
        ("+a +b -a", "b"),
        ("+a +b -b", "a"),
        ("+a +b +a", "ab"),
        ("+a +b <a +c", "ca"),
        ("~s +a ~s", "a"),
    ],
)
def test_the_models_that_a_rollback_may_choose_from(changes: str, told: str) -> None:
    roles = {"+": "champion", "<": "champion", "-": "none", "~": "shadow"}
    made = [
        change(number, roles[word[0]], word[1], "why" if word[0] in "<-" else None)
        for number, word in enumerate(changes.split())
    ]
    assert "".join(champions(reversed(made))) == told
