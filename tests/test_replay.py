"""Replay: the same bytes again, and every kind of tampering found and named."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest

import domain
import ml.fulfilment
from domain.decisions import DecisionFailed, DecisionMade, DecisionReferred, DecisionShadowed
from domain.models import DeployModel, RetireModel, Role
from domain.orders import OrderLine, PlaceOrder
from domain.policies import SetPolicy
from ml.catalogue import KINDS
from ml.fulfilment import FULFILMENT, enumerate_candidates
from ml.kind import Kind, Lever
from ml.replay import NotAnswered, Replayed, replay
from projections.reading import LogReader
from tests.world import (
    NOW,
    ORGANISATION,
    a_year,
    another_model,
    company,
    context,
    deployed_model,
    open_orders,
    request,
)

ROOT = Path(domain.__file__).parent.parent
#: d-0 and d-3 are referred (nothing is allowed), d-6 is decided by two persons, d-7 fails.
DECISIONS = 8


@pytest.fixture(scope="module")
def decided(database: str) -> str:
    """A database with a year, a champion and a shadow, and some decisions."""

    async def fill() -> None:
        async with company(database) as app:
            await a_year(app)
            await deployed_model(app)
            shadow = DeployModel(
                model_hash=await another_model(app), role=Role.SHADOW, deployed_at=NOW
            )
            await app.bus.execute(shadow, context())
            orders = await open_orders(app, DECISIONS)
            for number, order_id in enumerate(orders[:6]):
                await request(app, f"d-{number}", order_id)
            two = SetPolicy(kind="fulfilment", four_eyes_above_minor=0, set_at=NOW)
            await app.bus.execute(two, context())
            await request(app, "d-6", orders[6])
            line = OrderLine(
                line_no=1, sku="A", quantity=Decimal(1), unit_price_minor=100, site_id="S-404"
            )
            place = PlaceOrder(
                order_id="O-orphan",
                customer_id="C-1",
                currency="EUR",
                lines=(line,),
                placed_at=NOW,
                promised_at=NOW + timedelta(days=3),
            )
            await app.bus.execute(place, context())
            await request(app, "d-7", "O-orphan")
            await app.consumer.catch_up()

    asyncio.run(fill())
    return database


def replayed(url: str, ids: list[str] | None = None) -> list[Replayed]:
    """Replay in an application of its own."""

    async def work() -> list[Replayed]:
        async with company(url) as app:
            return await replay(app.url, app.log, app.artifacts, ORGANISATION, ids)

    return asyncio.run(work())


def changed(url: str, ids: list[str] | None = None) -> dict[str, str]:
    """The causes of those that are not the same, each with a detail."""
    found = [one for one in replayed(url, ids) if not one.same]
    assert all(one.detail for one in found)
    return {one.decision_id: one.cause for one in found}


Edit = Callable[[dict[str, Any]], object]


@contextmanager
def rewritten(
    url: str,
    write: Callable[[str, bytes], tuple[str, bytes]],
    name: str = "DecisionMade",
    **where: Any,
) -> Iterator[None]:
    """The last stored event of a type with these fields (of d-2 if none are said), under another
    topic and bytes for a while."""
    wanted = where or {"decision_id": "d-2"}
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            """SELECT notification_id, topic, state FROM events WHERE topic LIKE %s
            ORDER BY notification_id DESC""",
            (f"%.{name}.v%",),
        ).fetchall()
        position, topic, state = next(
            row for row in rows if wanted.items() <= json.loads(row[2]).items()
        )
        other = write(topic, bytes(state))
        assert other != (topic, bytes(state))
        change = "UPDATE events SET topic = %s, state = %s WHERE notification_id = %s"
        connection.execute(change, (*other, position))
        try:
            yield
        finally:
            connection.execute(change, (topic, state, position))


def tampered(url: str, name: str, edit: Edit, **where: Any) -> AbstractContextManager[None]:
    """As ``rewritten``, some fields being changed."""

    def write(topic: str, state: bytes) -> tuple[str, bytes]:
        body = json.loads(state)
        edit(body)
        return topic, json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()

    return rewritten(url, write, name, **where)


def test_every_decision_replays_to_the_same_bytes(decided: str) -> None:
    found = replayed(decided)
    assert [one.decision_id for one in found] == [f"d-{n}" for n in range(DECISIONS)]
    assert [one.cause for one in found] == [""] * DECISIONS
    assert all(one.same for one in found)
    assert all(one.bytes_compared > 1000 for one in found[:-1])
    assert {one.kind for one in found} == {"fulfilment"}
    # What is compared is there: a shadow each, and three referrals.
    with psycopg.connect(decided) as connection:
        count = "SELECT count(*) FROM events WHERE topic LIKE %s"
        kinds = (DecisionMade, DecisionShadowed, DecisionReferred, DecisionFailed)
        told = [connection.execute(count, (f"%.{one.__name__}.v%",)).fetchone() for one in kinds]
    assert told == [(7,), (7,), (3,), (1,)]


@pytest.mark.parametrize("name", ["d-3", "d-6", "d-7"])
def test_one_alone_is_the_same_as_in_a_batch(decided: str, name: str) -> None:
    [whole] = [one for one in replayed(decided) if one.decision_id == name]
    assert replayed(decided, [name]) == [whole]
    assert whole.same


def test_a_decision_that_is_not_there_is_named(decided: str) -> None:
    with pytest.raises(NotAnswered, match="d-404"):
        replayed(decided, ["d-3", "d-404"])


# what was answered


def of_candidate(field: str, value: Any) -> Edit:
    return lambda body: body["candidates"][0].update({field: value})


def encoded(text: str) -> str:
    """Other bytes of the same length: the first float is another number."""
    return ("A" if text[0] != "A" else "B") + text[1:]


def first_contribution(body: dict[str, Any]) -> None:
    body["contributions"][0] = encoded(body["contributions"][0])


def one_feature(body: dict[str, Any]) -> None:
    body["candidates"][0]["features"] = encoded(body["candidates"][0]["features"])


def other_library(name: str) -> Edit:
    return lambda body: body["libraries"].update({name: "1.0.0"})


def raised(field: str, by: float) -> Edit:
    def edit(body: dict[str, Any]) -> None:
        body["candidates"][0][field] += by

    return edit


@pytest.mark.parametrize(
    ("topic", "edit", "cause"),
    [
        ("DecisionMade", one_feature, "features"),
        ("DecisionMade", of_candidate("features", "AAAA"), "features"),
        ("DecisionMade", of_candidate("lineage", {}), "features"),
        ("DecisionMade", of_candidate("option", {"site_id": "S-9"}), "features"),
        ("DecisionMade", raised("cost_minor", 1), "features"),
        ("DecisionMade", raised("carbon_g", -1), "features"),
        ("DecisionMade", raised("margin", 0.001), "score"),
        ("DecisionMade", raised("probability", 1e-12), "score"),
        ("DecisionMade", raised("risk", 1e-12), "calibration"),
        ("DecisionMade", of_candidate("rejected", ["site.closed"]), "constraints"),
        ("DecisionMade", raised("objective", 1e-9), "objective"),
        ("DecisionMade", lambda body: body.update(chosen=0, option={"site_id": "X"}), "choice"),
        ("DecisionMade", lambda body: body.update(risk=0.5), "choice"),
        ("DecisionMade", lambda body: body.update(confidence=1.0), "choice"),
        ("DecisionMade", lambda body: body.update(value_minor=1), "choice"),
        ("DecisionMade", lambda body: body.update(foretold=0.5), "choice"),
        ("DecisionMade", lambda body: body.update(currency="XTS"), "choice"),
        ("DecisionMade", lambda body: body["weights"].update(risk_minor=1), "weights"),
        ("DecisionMade", lambda body: body.update(model_hash="0" * 64), "governance"),
        ("DecisionMade", lambda body: body.update(role="challenger"), "governance"),
        (
            "DecisionMade",
            lambda body: body["libraries"].update(xgboost="3.0.5"),
            "library versions",
        ),
        ("DecisionMade", lambda body: body["libraries"].update(polars="1.0"), "library versions"),
        ("DecisionMade", lambda body: body.update(code="0" * 64), "code"),
        ("DecisionMade", lambda body: body.update(schema_hash="0" * 64), "code"),
        ("DecisionExplained", first_contribution, "explanation"),
        ("DecisionExplained", lambda body: body["contributions"].reverse(), "explanation"),
        ("DecisionExplained", lambda body: body.update(summary="Trust me"), "explanation"),
        ("DecisionExplained", lambda body: body["reasons"].pop(), "explanation"),
        ("DecisionExplained", lambda body: body["runner_up"].update(sentence="-"), "explanation"),
        ("DecisionShadowed", lambda body: body.update(agrees=not body["agrees"]), "shadow"),
        ("DecisionShadowed", lambda body: body.update(margins=encoded(body["margins"])), "shadow"),
        ("DecisionShadowed", lambda body: body.update(risk=0.5), "shadow"),
        ("DecisionRequested", lambda body: body["weights"].update(risk_minor=1), "weights"),
        ("DecisionRequested", lambda body: body["weights"].update(cost=0.5), "weights"),
    ],
)
def test_a_changed_answer_is_found_and_named(
    decided: str, topic: str, edit: Edit, cause: str
) -> None:
    with tampered(decided, topic, edit, decision_id="d-2"):
        assert changed(decided) == {"d-2": cause}
        assert changed(decided, ["d-2", "d-4"]) == {"d-2": cause}
    assert changed(decided, ["d-2"]) == {}


@pytest.mark.parametrize(
    ("topic", "edit", "cause"),
    [
        ("DecisionReferred", lambda body: body.update(approvals=1), "referral"),
        ("DecisionReferred", lambda body: body["reasons"][0].update(sentence="-"), "referral"),
        # The rule itself is changed behind the decision's back, or a model's role.
        ("PolicySet", lambda body: body.update(four_eyes_above_minor=None), "referral"),
        ("PolicySet", lambda body: body.update(minimum_confidence=1.0), "referral"),
    ],
)
def test_a_changed_rule_about_people_is_found(
    decided: str, topic: str, edit: Edit, cause: str
) -> None:
    where = {"decision_id": "d-6"} if topic == "DecisionReferred" else {"kind": "fulfilment"}
    with tampered(decided, topic, edit, **where):
        assert changed(decided) == {"d-6": cause}


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("DecisionMade", "log"),
        ("DecisionExplained", "explanation"),
        ("DecisionShadowed", "shadow"),
        ("DecisionReferred", "referral"),
    ],
)
def test_a_part_of_an_answer_that_is_gone_is_found(decided: str, name: str, cause: str) -> None:
    with rewritten(decided, lambda *_: ("app:Gone", b"{}"), name, decision_id="d-6"):
        assert changed(decided) == {"d-6": cause}
        assert changed(decided, ["d-6"]) == {"d-6": cause}


def test_a_changed_failure_is_found(decided: str) -> None:
    with tampered(
        decided, "DecisionFailed", lambda body: body.update(detail="-"), decision_id="d-7"
    ):
        assert changed(decided) == {"d-7": "failure"}
    with tampered(
        decided, "DecisionFailed", lambda body: body.update(code="a.b"), decision_id="d-7"
    ):
        [told] = [one for one in replayed(decided, ["d-7"]) if not one.same]
        assert told.cause == "failure"
        said = f"({FULFILMENT.nothing})"
        assert told.detail == f"a.b {said} on the log, decision.no_candidate {said} now"


def test_the_same_values_in_other_bytes_are_found(decided: str) -> None:
    with rewritten(decided, lambda topic, state: (topic, json.dumps(json.loads(state)).encode())):
        assert changed(decided) == {"d-2": "encoding"}


# what it was answered from


def test_a_changed_past_is_found_by_its_features(decided: str) -> None:
    with tampered(decided, "OrderDelivered", lambda body: body.update(late=True), late=False):
        assert changed(decided) == {f"d-{n}": "features" for n in range(DECISIONS - 1)}


def test_a_changed_deployment_is_found(decided: str) -> None:
    """The shadow made the champion in the log: another model would have decided."""

    def swap(body: dict[str, Any]) -> None:
        body["role"] = "champion"

    with tampered(decided, "ModelDeployed", swap, role="shadow"):
        assert changed(decided) == {f"d-{n}": "governance" for n in range(DECISIONS - 1)}


@contextmanager
def artifact(url: str, role: str, edit: Callable[[bytes], bytes | None]) -> Iterator[None]:
    """The artifact of the model in a role, changed for a while; None: gone."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            """SELECT a.hash, a.content FROM artifacts a JOIN events e
            ON convert_from(e.state, 'UTF8')::json->>'model_hash' = a.hash
            WHERE e.topic LIKE 'models.ModelDeployed%%'
            AND convert_from(e.state, 'UTF8')::json->>'role' = %s LIMIT 1""",
            (role,),
        ).fetchone()
        assert row is not None
        name, content = row
        other = edit(content)
        connection.execute("DELETE FROM artifacts WHERE hash = %s", (name,))
        keep = "INSERT INTO artifacts (hash, content) VALUES (%s, %s)"
        if other is not None:
            connection.execute(keep, (name, other))
        try:
            yield
        finally:
            connection.execute("DELETE FROM artifacts WHERE hash = %s", (name,))
            connection.execute(keep, (name, content))


def flipped(place: int) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        forged = bytearray(content)
        forged[place] ^= 1
        return bytes(forged)

    return edit


def other_calibration(content: bytes) -> bytes:
    """The same trees, but risks are told higher."""
    import xgboost

    from ml.calibration import Calibration
    from ml.scoring import seal

    booster = xgboost.Booster()
    booster.load_model(bytearray(content))
    forged = seal(booster, Calibration((0.0, 1.0), (0.5, 0.9)))
    assert forged != content
    return forged


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (flipped(0), "does not hold the bytes"),
        (flipped(100), "does not hold the bytes"),
        (flipped(-1), "does not hold the bytes"),
        (other_calibration, "does not hold the bytes"),
        (lambda _: None, "model "),
    ],
    ids=["first", "hundredth", "last", "calibration", "gone"],
)
def test_changed_model_bytes_are_found(
    decided: str, edit: Callable[[bytes], bytes | None], told: str
) -> None:
    with artifact(decided, "champion", edit):
        different = [one for one in replayed(decided) if not one.same]
    told_of = {one.decision_id: one.cause for one in different}
    assert {told_of[f"d-{n}"] for n in range(DECISIONS - 1)} == {"model bytes"}
    assert told in different[0].detail


def test_a_shadows_changed_bytes_are_found(decided: str) -> None:
    with artifact(decided, "shadow", flipped(50)):
        assert changed(decided) == {f"d-{n}": "shadow" for n in range(DECISIONS - 1)}


# the code


async def other_candidates(requests: Any, history: Any) -> pl.DataFrame:
    """Another function with the same result is other code all the same."""
    return await enumerate_candidates(requests, history)


def other_constraint() -> Kind:
    [*others, one] = FULFILMENT.constraints
    return replace(FULFILMENT, constraints=[*others, replace(one, broken=pl.lit(False))])


def other_sentence() -> Kind:
    [one, *others] = FULFILMENT.constraints
    return replace(FULFILMENT, constraints=[replace(one, sentence="shut"), *others])


def other_words() -> Kind:
    [one, *others] = FULFILMENT.features
    return replace(FULFILMENT, features=[replace(one, raises="hm"), *others])


def other_feature() -> Kind:
    [*others, one] = FULFILMENT.features
    return replace(FULFILMENT, features=[*others, replace(one, value=one.value + 1)])


def other_lever() -> Kind:
    [one, *others] = FULFILMENT.features
    assert one.lever is not None
    return replace(FULFILMENT, features=[replace(one, lever=Lever(0.5, 31)), *others])


def test_a_kinds_code_is_all_of_its_file_but_comments_and_layout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = inspect.getsource(ml.fulfilment)

    def code(text: str) -> str:
        assert text != source
        monkeypatch.setattr("ml.kind.inspect.getsource", lambda _: text)
        return replace(FULFILMENT).code

    assert code(source + "\n# a remark\n") == FULFILMENT.code
    assert code(source.replace("\n\n\n", "\n\n\n\n")) == FULFILMENT.code
    # A helper, a constant, and the words of a summary.
    for old, new in (
        ('wanted: dict[str, str] = {line["sku"]', 'wanted: dict[str, str] = {line["SKU"]'),
        ("MAX_SITES = 50", "MAX_SITES = 49"),
        ("risk of being late", "risk of lateness"),
    ):
        assert code(source.replace(old, new)) != FULFILMENT.code


@pytest.mark.parametrize(
    "kind",
    [
        other_lever(),
        replace(FULFILMENT, currency=pl.lit("EUR")),
        other_constraint(),
        other_sentence(),
        other_words(),
        other_feature(),
        replace(FULFILMENT, enumerate=other_candidates),
        replace(FULFILMENT, summary=lambda row: "It is so"),
        replace(FULFILMENT, warning="come late"),
        replace(FULFILMENT, cost_minor=FULFILMENT.cost_minor + 1),
        replace(FULFILMENT, carbon_g=FULFILMENT.carbon_g + 1),
        replace(FULFILMENT, value_minor=FULFILMENT.value_minor + 1),
        replace(FULFILMENT, exposure=pl.lit(0.5)),
        replace(FULFILMENT, option=FULFILMENT.option[:2]),
    ],
    ids=[
        *("lever", "currency", "constraint", "sentence", "words", "feature"),
        *("enumerate", "summary", "warning"),
        *("cost", "carbon", "value", "exposure", "option"),
    ],
)
def test_a_kind_that_is_declared_otherwise_now_is_other_code(
    decided: str, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kind.code != FULFILMENT.code
    monkeypatch.setitem(KINDS, "fulfilment", kind)
    found = changed(decided)
    assert {found[f"d-{n}"] for n in range(DECISIONS - 1)} == {"code"}


def test_a_decision_of_the_first_release_is_told_by_its_code(decided: str) -> None:
    """It was made before there was a calibration: it reads, and replays as what it is not."""

    def back(_: str, state: bytes) -> tuple[str, bytes]:
        body = json.loads(state)
        for one in (body, *body["candidates"]):
            del one["risk"]
        for name in ("role", "code", "foretold", "value_minor", "currency"):
            del body[name]
        body["weights"]["lateness_minor"] = body["weights"].pop("risk_minor")
        return "decisions.DecisionMade.v1", json.dumps(body).encode()

    with rewritten(decided, back):
        assert changed(decided) == {"d-2": "code"}


# windows


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_small_windows_find_the_same_as_one(
    decided: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a window ends within an answer, or between a request and its answer."""
    whole = replayed(decided)
    first = min(one.position for one in whole)
    asked = []

    def windows(before: int) -> property:
        sizes = chain([before], repeat(size))

        def window(_: LogReader) -> int:
            asked.append(found := next(sizes))
            return found

        return property(window)

    monkeypatch.setattr(LogReader, "window", windows(first - 2))
    assert replayed(decided) == whole
    assert len(asked) > 30 / size
    monkeypatch.setattr(LogReader, "window", windows(first - 2))
    with tampered(decided, "DecisionExplained", first_contribution, decision_id="d-2"):
        assert changed(decided) == {"d-2": "explanation"}


def test_many_windows_over_the_whole_log_find_the_same(
    decided: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replayed(decided)
    monkeypatch.setattr(LogReader, "window", property(lambda _: 397))
    assert replayed(decided) == whole


# later and elsewhere; these add to the log, so they come last


def test_decisions_stay_the_same_when_the_log_goes_on(decided: str) -> None:
    async def go_on() -> None:
        async with company(decided) as app:
            again = DeployModel(model_hash=await another_model(app, 3), deployed_at=NOW)
            await app.bus.execute(again, context("planner"))
            await request(app, "d-later", (await open_orders(app))[7])
            await app.consumer.catch_up()

    asyncio.run(go_on())
    found = replayed(decided)
    assert len(found) == DECISIONS + 1
    assert all(one.same for one in found)


def test_decisions_of_a_retired_model_replay_in_a_fresh_process(decided: str) -> None:
    async def retire() -> None:
        async with company(decided) as app:
            hashes = {
                body["model_hash"]
                for one in await app.log.after(0, 10**6)
                if one.topic.startswith("models.ModelDeployed.")
                for body in [json.loads(one.state)]
            }
            assert len(hashes) == 3
            for model_hash in sorted(hashes):
                out = RetireModel(model_hash=model_hash, reason="old", retired_at=NOW)
                await app.bus.execute(out, context())
            await request(app, "d-last", (await open_orders(app))[7])
            await app.consumer.catch_up()

    asyncio.run(retire())
    script = """
import asyncio, json, sys
from chainlytics.application import application
from ml.replay import replay
from tests.world import ORGANISATION

async def work():
    async with application(sys.argv[1], pool_size=2) as app:
        return await replay(app.url, app.log, app.artifacts, ORGANISATION)

print(json.dumps([[one.decision_id, one.same, one.cause] for one in asyncio.run(work())]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, decided],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = [*(f"d-{n}" for n in range(DECISIONS)), "d-later", "d-last"]
    assert json.loads(done.stdout) == [[name, True, ""] for name in names]
