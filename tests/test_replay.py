"""Replay: the same bytes again, and every kind of tampering found and named."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import psycopg
import pytest

from domain.models import DeployModel
from ml.replay import NotAnswered, Replayed, replay
from tests.world import (
    NOW,
    ORGANISATION,
    a_year,
    company,
    context,
    deployed_model,
    open_orders,
    request,
)

DECISIONS = 6


@pytest.fixture(scope="module")
def decided(database: str) -> str:
    """A database with a year and some decisions; the log goes on behind them."""

    async def fill() -> None:
        async with company(database) as app:
            await a_year(app)
            await deployed_model(app)
            orders = await open_orders(app, DECISIONS)
            for number, order_id in enumerate(orders):
                await request(app, f"d-{number}", order_id)
            await app.consumer.catch_up()

    asyncio.run(fill())
    return database


def replayed(url: str, ids: list[str] | None = None) -> list[Replayed]:
    """Replay in an application of its own, as another process would."""

    async def work() -> list[Replayed]:
        async with company(url) as app:
            return await replay(app.log, app.artifacts, ORGANISATION, ids)

    return asyncio.run(work())


def change(url: str, topic: str, decision_id: str, edit: Any) -> tuple[bytes, int]:
    """Edit a stored event straight in the database; its old bytes and position."""
    with psycopg.connect(url) as connection:
        for position, state in connection.execute(
            "SELECT notification_id, state FROM events WHERE topic LIKE %s", (topic,)
        ).fetchall():
            body = json.loads(state)
            if body.get("decision_id") == decision_id:
                edit(body)
                changed = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
                connection.execute(
                    "UPDATE events SET state = %s WHERE notification_id = %s", (changed, position)
                )
                return state, position
    raise AssertionError("no such event")


def put_back(url: str, position: int, state: bytes) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "UPDATE events SET state = %s WHERE notification_id = %s", (state, position)
        )


def test_every_decision_replays_to_the_same_bytes(decided: str) -> None:
    found = replayed(decided)
    assert len(found) == DECISIONS
    assert [one.cause for one in found] == [""] * DECISIONS
    assert all(one.same and one.bytes_compared > 1000 for one in found)


def test_one_alone_is_the_same_as_in_a_batch(decided: str) -> None:
    assert [one.same for one in replayed(decided, ["d-3"])] == [True]


def test_a_decision_that_is_not_there_is_named(decided: str) -> None:
    with pytest.raises(NotAnswered, match="d-404"):
        replayed(decided, ["d-404"])


def edit_candidate(field: str, value: Any) -> Any:
    def edit(body: dict[str, Any]) -> None:
        body["candidates"][0][field] = value

    return edit


@pytest.mark.parametrize(
    ("topic", "edit", "cause"),
    [
        ("%DecisionMade%", edit_candidate("features", "AAAA"), "features"),
        ("%DecisionMade%", edit_candidate("margin", -9.5), "score"),
        ("%DecisionMade%", edit_candidate("objective", 1.0), "weights"),
        ("%DecisionMade%", edit_candidate("rejected", ["site.closed"]), "constraints"),
        ("%DecisionMade%", lambda body: body.update(chosen=0, option={"site_id": "X"}), "choice"),
        ("%DecisionMade%", lambda body: body.update(model_hash="0" * 64), "model"),
        (
            "%DecisionMade%",
            lambda body: body["libraries"].update(xgboost="3.0.5"),
            "library versions",
        ),
        ("%DecisionExplained%", lambda body: body["contributions"].reverse(), "explanation"),
        ("%DecisionExplained%", lambda body: body.update(summary="Trust me"), "explanation"),
    ],
)
def test_a_changed_answer_is_found_and_named(
    decided: str, topic: str, edit: Any, cause: str
) -> None:
    state, position = change(decided, topic, "d-2", edit)
    try:
        different = [one for one in replayed(decided) if not one.same]
        assert [(one.decision_id, one.cause) for one in different] == [("d-2", cause)]
        assert different[0].detail
    finally:
        put_back(decided, position, state)


def test_the_same_values_in_other_bytes_are_found(decided: str) -> None:
    with psycopg.connect(decided) as connection:
        row = connection.execute(
            "SELECT notification_id, state FROM events WHERE topic LIKE '%DecisionMade%' LIMIT 1"
        ).fetchone()
        assert row is not None
        position, state = row
        spaced = json.dumps(json.loads(state)).encode()
        connection.execute(
            "UPDATE events SET state = %s WHERE notification_id = %s", (spaced, position)
        )
    try:
        assert {one.cause for one in replayed(decided) if not one.same} == {"code"}
    finally:
        put_back(decided, position, state)


def test_a_changed_past_is_found_by_its_features(decided: str) -> None:
    with psycopg.connect(decided) as connection:
        row = connection.execute(
            """SELECT notification_id, state FROM events WHERE topic LIKE '%OrderDelivered%'
            AND convert_from(state, 'UTF8') LIKE '%"late":false%' LIMIT 1"""
        ).fetchone()
        assert row is not None
        position, state = row
        forged = bytes(state).replace(b'"late":false', b'"late":true')
        connection.execute(
            "UPDATE events SET state = %s WHERE notification_id = %s", (forged, position)
        )
    try:
        different = [one for one in replayed(decided) if not one.same]
        assert {one.cause for one in different} == {"features"}
        assert len(different) == DECISIONS
    finally:
        put_back(decided, position, state)


@pytest.mark.parametrize("flip", [0, 100])
def test_a_changed_model_is_found(decided: str, flip: int) -> None:
    with psycopg.connect(decided) as connection:
        row = connection.execute("SELECT hash, content FROM artifacts").fetchone()
        assert row is not None
        model_hash, content = row
        forged = bytearray(content)
        forged[flip] ^= 1
        connection.execute(
            "UPDATE artifacts SET content = %s WHERE hash = %s", (bytes(forged), model_hash)
        )
    try:
        different = [one for one in replayed(decided) if not one.same]
        assert {one.cause for one in different} == {"model"}
        assert "does not hold the bytes" in different[0].detail
    finally:
        with psycopg.connect(decided) as connection:
            connection.execute(
                "UPDATE artifacts SET content = %s WHERE hash = %s", (content, model_hash)
            )


def test_decisions_stay_the_same_when_the_log_goes_on(decided: str) -> None:
    async def go_on() -> None:
        async with company(decided) as app:
            async with app.log.connection() as connection:
                rows = await (await connection.execute("SELECT hash FROM artifacts")).fetchall()
            again = DeployModel(model_hash=rows[0][0], deployed_at=NOW)
            await app.bus.execute(again, context("planner"))
            order_id = (await open_orders(app))[7]
            await request(app, "d-later", order_id)
            await app.consumer.catch_up()

    asyncio.run(go_on())
    found = replayed(decided)
    assert len(found) == DECISIONS + 1
    assert all(one.same for one in found)
