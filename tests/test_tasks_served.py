"""Tasks over HTTP, against the server with its worker: asked for, followed, stopped, fetched."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from time import monotonic
from typing import Any
from uuid import uuid4

import httpx
import pytest

from domain.access import Role
from tests.serving import Served, assert_problem, found, get, serving_here, until
from tests.world import a_year, company, deployed_model, open_orders, request

HEADER = (
    "order_id,customer_id,currency,region,placed_at,promised_at,line_no,sku,quantity,unit_price\n"
)


@pytest.fixture(scope="module")
def decided(database: str) -> str:
    """A made year with a champion and some decisions."""

    async def fill() -> None:
        async with company(database) as app:
            await a_year(app, orders=700)
            await deployed_model(app)
            for number, order_id in enumerate(await open_orders(app, 6)):
                await request(app, f"d-{number}", order_id)
            await app.consumer.catch_up()

    asyncio.run(fill())
    return database


@pytest.fixture(scope="module")
def served(decided: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(decided, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture
def boss(served: Served) -> Iterator[httpx.Client]:
    with served.client(Role.ADMIN, actor="boss") as client:
        yield client


def ask(client: httpx.Client, kind: str, body: dict[str, Any], key: str | None = None) -> Any:
    """Ask for a task; the answer's body, its headers as they must be."""
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = client.post(f"/tasks/{kind}", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    task = answer.json()
    assert answer.headers["location"] == f"/api/v1/tasks/{task['task_id']}"
    return task


def ended(client: httpx.Client, task_id: str) -> dict[str, Any]:
    """The task, as soon as nothing more comes."""

    def look() -> dict[str, Any] | None:
        answer = client.get(f"/tasks/{task_id}")
        task: dict[str, Any] = found(answer)
        over = task["state"] in ("completed", "failed", "cancelled")
        assert ("retry-after" in answer.headers) is not over
        return task if over else None

    return until(look)


def upload(client: httpx.Client, content: bytes) -> str:
    answer = client.post(
        "/uploads", content=content, headers={"Content-Type": "application/octet-stream"}
    )
    assert answer.status_code == 201, answer.text
    assert answer.json()["bytes"] == len(content)
    name: str = answer.json()["upload_id"]
    return name


def orders_csv(name: str, orders: int) -> bytes:
    lines = [
        f"{name}-{number},C-1,EUR,DE-BE,2026-01-01 10:00:00,2026-01-05 10:00:00,{line},S-1,2,9.99\n"
        for number in range(orders)
        for line in (1, 2)
    ]
    return (HEADER + "".join(lines)).encode()


def importing(client: httpx.Client, content: bytes, **more: Any) -> Any:
    files = [{"name": "orders.csv", "upload_id": upload(client, content)}]
    return ask(client, "import", {"mapping": "orders", "files": files, **more})


def test_a_replay_is_asked_for_followed_and_fetched(boss: httpx.Client) -> None:
    asked = ask(boss, "replay", {"task_id": "replay-all", "priority": "urgent"}, key="once")
    assert asked["state"] in ("requested", "running")
    assert (asked["kind"], asked["priority"], asked["requested_by"]) == ("replay", 9, "boss")
    assert asked["arguments"] == {"decision_ids": None}
    again = ask(boss, "replay", {"task_id": "replay-all", "priority": "urgent"}, key="once")
    assert again["requested_at"] == asked["requested_at"]
    reused = boss.post("/tasks/replay", json={}, headers={"Idempotency-Key": "once"})
    assert_problem(reused, 409, "idempotency-key-reused")
    task = ended(boss, "replay-all")
    assert task["state"] == "completed", task
    assert task["result"]["decisions"] == task["result"]["same"] == 6
    assert task["has_file"]
    assert task["attempt"] == 1
    answer = boss.get("/tasks/replay-all/result")
    assert answer.headers["content-disposition"] == 'attachment; filename="replay.json"'
    assert [one["decision_id"] for one in found(answer)] == [f"d-{n}" for n in range(6)]
    assert all(one["same"] for one in answer.json())


def test_some_decisions_are_replayed_and_what_is_none_fails_in_words(boss: httpx.Client) -> None:
    two = ask(boss, "replay", {"decision_ids": ["d-1", "d-1"]})
    assert ended(boss, two["task_id"])["result"]["decisions"] == 1
    none = ask(boss, "replay", {"decision_ids": ["d-404"]})
    task = ended(boss, none["task_id"])
    assert (task["state"], task["code"]) == ("failed", "replay.not_answered")
    assert "d-404" in task["reason"]
    assert task["result"] is None
    answer = boss.get(f"/tasks/{none['task_id']}/result")
    assert_problem(answer, 409, "task.not_completed")


def test_a_model_is_trained_and_proposed_by_who_asked(served: Served, boss: httpx.Client) -> None:
    with served.client(Role.ANALYST, actor="planner") as planner:
        task = ended(planner, ask(planner, "training", {"kind": "fulfilment"})["task_id"])
        assert task["state"] == "completed", task
        assert task["result"]["train_rows"] > 50
        model = get(
            planner,
            f"/models/{task['result']['model_hash']}",
            min_position=task["last_position"],
        )
        assert model["kind"] == "fulfilment"
        # The same log, the same model: known already, so it stays as it was proposed.
        few = ended(planner, ask(planner, "training", {"kind": "anomaly"})["task_id"])
        assert few["state"] in ("completed", "failed")
        if few["state"] == "completed":
            proposed = get(
                planner,
                f"/models/{few['result']['model_hash']}",
                min_position=few["last_position"],
            )
            assert proposed["registered_by"] == "planner"
        else:
            assert few["code"] == "training.not_enough_history"
        wrong = planner.post("/tasks/training", json={"kind": "fulfillment"})
        assert_problem(wrong, 422, "decision.unknown_kind")


def test_files_are_brought_in_and_what_is_wrong_is_told(boss: httpx.Client) -> None:
    broken = b"I-x,C-1,EUX,DE,2026-01-01 10:00:00,2026-01-05 10:00:00,1,SKU-1,2,9.99\n"
    short = b"I-y,C-1\n"
    task = importing(boss, orders_csv("I", 30) + broken + short)
    assert task["arguments"]["mapping"] == "orders"
    task = ended(boss, task["task_id"])
    assert task["state"] == "completed", task
    told = task["result"]
    assert (told["rows"], told["commands"], told["stored"]) == (62, 31, 30)
    assert (told["rejected"], told["rejected_rows"], told["complaints"]) == (1, 1, 2)
    answer = boss.get(f"/tasks/{task['task_id']}/result")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert {(row["line"], row["rule"]) for row in rows} == {
        ("62", "value_error"),
        ("63", "fields"),
    }
    order = get(boss, "/orders/I-7", min_position=task["last_position"])
    assert (order["lines"], order["goods_minor"]) == (2, 2 * 2 * 999)
    twice = ended(boss, importing(boss, orders_csv("I", 30))["task_id"])
    assert (twice["result"]["stored"], twice["result"]["repeated"]) == (0, 30)


def test_an_upload_is_gone_once_it_was_brought_in(boss: httpx.Client) -> None:
    files = [{"name": "orders.csv", "upload_id": upload(boss, orders_csv("G", 1))}]
    body = {"mapping": "orders", "files": files}
    assert ended(boss, ask(boss, "import", body)["task_id"])["state"] == "completed"

    def gone() -> bool | None:
        return True if boss.post("/tasks/import", json=body).status_code == 404 else None

    until(gone)
    assert_problem(boss.post("/tasks/import", json=body), 404, "upload.unknown")


def test_lines_of_json_are_commands(boss: httpx.Client) -> None:
    def line(number: int, **more: Any) -> str:
        fields = {
            "order_id": f"L-{number}",
            "customer_id": "C-1",
            "currency": "EUR",
            "placed_at": "2026-01-01T00:00:00Z",
            "promised_at": "2026-01-05T00:00:00Z",
            "lines": [{"line_no": 1, "sku": "S", "quantity": "1.5", "unit_price_minor": 5}],
        }
        said = {"key": f"k-{number}", "command": "PlaceOrder", "fields": fields}
        return json.dumps(said | more) + "\n"

    content = line(1) + line(2) + line(3, command="ApproveModel") + "{\n"
    files = [{"name": "commands.jsonl", "upload_id": upload(boss, content.encode())}]
    asked = ask(boss, "import", {"mapping": "commands", "files": files})
    task = ended(boss, asked["task_id"])
    assert task["state"] == "completed", task
    assert (task["result"]["stored"], task["result"]["rejected"]) == (2, 2)
    assert get(boss, "/orders/L-2", min_position=task["last_position"])["lines"] == 1


def test_the_past_is_decided_again_and_a_decision_is_bundled(boss: httpx.Client) -> None:
    weights = {"cost": 1, "risk_minor": 100_000, "carbon_minor_per_kg": 1}
    again = ask(boss, "backtest", {"kind": "fulfilment", "weights": weights})
    bundle = ask(boss, "bundle", {"decision_id": "d-1", "day": False})
    task = ended(boss, again["task_id"])
    assert task["state"] == "completed", task
    assert task["result"]["compared"] + task["result"]["failed_then"] == 6
    assert found(boss.get(f"/tasks/{task['task_id']}/result"))["kind"] == "fulfilment"
    task = ended(boss, bundle["task_id"])
    assert task["state"] == "completed", task
    answer = boss.get(f"/tasks/{task['task_id']}/result")
    assert answer.headers["content-type"] == "application/zip"
    assert answer.content.startswith(b"PK")


def test_what_runs_is_stopped_soon_and_what_it_stored_stays(boss: httpx.Client) -> None:
    task = importing(boss, orders_csv("S", 25_000))

    def runs() -> dict[str, Any] | None:
        told: dict[str, Any] = found(boss.get(f"/tasks/{task['task_id']}"))
        assert told["state"] in ("requested", "running"), told
        return told if (told["done"] or 0) > 0 else None

    halfway = until(runs)
    assert 0 < halfway["done"] < halfway["total"] == 25_000
    waits = ask(boss, "replay", {"task_id": "behind"})
    assert waits["state"] == "requested"
    stopped = boss.post("/tasks/behind/cancel", json={"reason": "not now"})
    assert stopped.status_code == 200
    assert (stopped.json()["state"], stopped.json()["reason"]) == ("cancelled", "not now")
    told = found(boss.post(f"/tasks/{task['task_id']}/cancel", json={}))
    assert told["state"] in ("cancelling", "cancelled")
    begun = monotonic()
    over = ended(boss, task["task_id"])
    assert (over["state"], over["cancelled_by"]) == ("cancelled", "boss")
    assert monotonic() - begun < 10  # far from what the whole of it takes
    again = boss.post(f"/tasks/{task['task_id']}/cancel", json={})
    assert_problem(again, 409, "task.already_finished")
    get(boss, "/orders/S-1", min_position=over["last_position"])
    assert boss.get("/orders/S-24999").status_code == 404


def test_the_urgent_comes_first_and_organisations_take_turns(
    served: Served, boss: httpx.Client
) -> None:
    blocker = importing(boss, orders_csv("B", 12_000), priority="urgent")

    def runs() -> bool | None:
        return found(boss.get(f"/tasks/{blocker['task_id']}"))["state"] == "running" or None

    until(runs)
    with served.client(Role.ADMIN, organisation_id=uuid4(), actor="other") as other:
        mine = [ask(boss, "replay", {"decision_ids": ["d-1"]}) for _ in range(3)]
        low = ask(boss, "replay", {"decision_ids": ["d-1"], "priority": "low"})
        theirs = ask(other, "replay", {})
        urgent = ask(boss, "replay", {"decision_ids": ["d-2"], "priority": 9})
        assert found(boss.get(f"/tasks/{blocker['task_id']}"))["state"] == "running"
        tasks = [ended(boss, one["task_id"]) for one in (urgent, *mine, low)]
        foreign = ended(other, theirs["task_id"])
    urgent, first, second, third, low = (one["started_at"] for one in tasks)
    assert urgent < foreign["started_at"] < first < second < third < low


def test_lists_go_by_state_and_kind_and_page_by_page(boss: httpx.Client) -> None:
    here = ended(boss, ask(boss, "replay", {"decision_ids": ["d-1"]})["task_id"])["last_position"]
    every = get(boss, "/tasks", limit=500, min_position=here)["items"]
    assert len(every) > 10
    assert every[0] == found(boss.get(f"/tasks/{every[0]['task_id']}"))
    times = [one["requested_at"] for one in every]
    assert times == sorted(times, reverse=True)
    done = get(boss, "/tasks", state="completed", kind="import", limit=500)["items"]
    assert done == [one for one in every if (one["state"], one["kind"]) == ("completed", "import")]
    paged: list[Any] = []
    cursor = None
    while True:
        query = {"limit": 4} | ({} if cursor is None else {"cursor": cursor})
        page = get(boss, "/tasks", **query)
        paged += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == every
    assert_problem(boss.get("/tasks", params={"state": "asleep"}), 422, "invalid")
    assert_problem(boss.get("/tasks", params={"cursor": "x"}), 422, "bad-cursor")


def test_another_organisation_has_none_of_it(served: Served, boss: httpx.Client) -> None:
    task = ask(boss, "replay", {"decision_ids": ["d-1"]})["task_id"]
    ended(boss, task)
    name = upload(boss, orders_csv("X", 1))
    with served.client(Role.ADMIN, organisation_id=uuid4()) as other:
        assert get(other, "/tasks")["items"] == []
        assert_problem(other.get(f"/tasks/{task}"), 404, "not-found")
        assert_problem(other.get(f"/tasks/{task}/result"), 404, "not-found")
        assert_problem(other.post(f"/tasks/{task}/cancel", json={}), 404, "task.unknown")
        files = [{"name": "orders.csv", "upload_id": name}]
        answer = other.post("/tasks/import", json={"mapping": "orders", "files": files})
        assert_problem(answer, 404, "upload.unknown")


def test_who_may_do_what(served: Served, boss: httpx.Client) -> None:
    bundle = ask(boss, "bundle", {"decision_id": "d-2"})["task_id"]
    assert ended(boss, bundle)["state"] == "completed"
    replay = {"decision_ids": ["d-1"]}
    with served.client(Role.VIEWER) as viewer, served.client(Role.ANALYST, actor="ann") as ann:
        for kind, body in (
            ("replay", replay),
            ("training", {"kind": "fulfilment"}),
            ("bundle", {"decision_id": "d-1"}),
        ):
            assert_problem(viewer.post(f"/tasks/{kind}", json=body), 403, "forbidden")
        assert_problem(viewer.post("/uploads", content=b"x"), 403, "forbidden")
        assert get(viewer, f"/tasks/{bundle}")["state"] == "completed"
        assert_problem(viewer.get(f"/tasks/{bundle}/result"), 403, "forbidden")
        assert_problem(ann.get(f"/tasks/{bundle}/result"), 403, "forbidden")
        assert_problem(ann.post("/tasks/bundle", json={"decision_id": "d-1"}), 403, "forbidden")
        assert_problem(ann.post("/uploads", content=b"x"), 403, "forbidden")
        own = ask(ann, "replay", replay)["task_id"]
        ended(ann, own)
        assert_problem(ann.post(f"/tasks/{own}/cancel", json={}), 409, "task.already_finished")
        others = ann.post(f"/tasks/{bundle}/cancel", json={})
        assert_problem(others, 403, "task.of_somebody_else")
        assert_problem(viewer.post(f"/tasks/{own}/cancel", json={}), 403, "forbidden")


@pytest.mark.parametrize(
    ("kind", "body", "status", "code", "says"),
    [
        ("replay", {"priority": "soon"}, 422, "invalid", "priority"),
        ("replay", {"priority": 10}, 422, "invalid", "priority"),
        ("replay", {"decision_ids": []}, 422, "invalid", "decision_ids"),
        ("replay", {"everything": True}, 422, "invalid", "everything"),
        ("backtest", {"kind": "fulfilment"}, 422, "invalid", "model_hash"),
        ("import", {"mapping": "orders", "files": []}, 422, "invalid", "files"),
        (
            "import",
            {"mapping": "orders", "files": [{"name": "../../etc/passwd", "upload_id": "u"}]},
            422,
            "invalid",
            "name",
        ),
        (
            "import",
            {"mapping": "orders", "files": [{"name": "people.csv", "upload_id": "u"}]},
            422,
            "import.other_files",
            "orders.csv",
        ),
        (
            "import",
            {"mapping": "../orders", "files": [{"name": "orders.csv", "upload_id": "u"}]},
            422,
            "invalid",
            "mapping",
        ),
        (
            "import",
            {"mapping": "mine", "files": [{"name": "orders.csv", "upload_id": "u"}]},
            422,
            "import.no_such_mapping",
            "orders",
        ),
        (
            "import",
            {"mapping": "orders", "files": [{"name": "orders.csv", "upload_id": "u"}]},
            404,
            "upload.unknown",
            "orders.csv",
        ),
    ],
)
def test_a_wrong_request_is_told_by_field_and_rule(
    boss: httpx.Client, kind: str, body: dict[str, Any], status: int, code: str, says: str
) -> None:
    told = assert_problem(boss.post(f"/tasks/{kind}", json=body), status, code)
    assert says in json.dumps(told)


def test_an_upload_is_bounded_and_plain(boss: httpx.Client) -> None:
    assert_problem(boss.post("/uploads", content=b""), 400)
    assert_problem(boss.post("/uploads", content=b"\x1f\x8b" + b"0" * 100), 415)
    told = assert_problem(boss.post("/uploads", content=b"0" * ((32 << 20) + 1)), 413)
    assert "33,554,432" in told["detail"]
