"""Rules that decide where no model is deployed: their figures, and that nobody takes them for a
model."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import zipfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainlytics.cli.bundle import verifier_program
from chainlytics.verifier import verify_bundle
from domain import catalogue
from domain.decisions import (
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionReferred,
    RequestDecision,
)
from domain.policies import ResumeKind, SetPolicy, StopKind
from ml import rules
from ml.bundle import Bundles
from ml.catalogue import KINDS
from ml.explaining import explain
from ml.hypotheses import Hypotheses
from ml.replay import replay
from ml.rules import RULES, rule_for
from ml.scoring import ADDITIVITY_TOLERANCE
from ml.whatif import Change
from readmodels.database import ReadModels
from tests.sealing import sealer
from tests.world import NOW, ORGANISATION, a_year, company, context, copied, open_orders


def judge(kind: str) -> rules.RuleScorer:
    found = rule_for(KINDS[kind])
    assert found is not None
    return found


def row(kind: str, **features: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    names = KINDS[kind].feature_names
    assert set(features) <= set(names)
    return np.array([[features.get(name, math.nan) for name in names]], np.float32)


def risk(kind: str, **features: float) -> float:
    return float(judge(kind).score(row(kind, **features)).risks[0])


def pushes(kind: str, **features: float) -> dict[str, float]:
    told = judge(kind).score(row(kind, **features)).contributions[0].tolist()
    names = (*KINDS[kind].feature_names, "base")
    return {name: push for name, push in zip(names, told, strict=True) if push}


# figures, reckoned by hand


def test_every_kind_has_a_rule_that_says_what_it_does() -> None:
    for kind in KINDS.values():
        rule = judge(kind.name)
        told = json.loads(rule.declaration)
        assert told["says"] == RULES[kind.name].says
        assert told["features"] == list(kind.feature_names)
        assert hashlib.sha256(rule.declaration).hexdigest() == rule.hash
    assert len({judge(name).hash for name in KINDS}) == len(KINDS)


def test_an_order_is_late_as_often_as_its_lane() -> None:
    assert risk("fulfilment", lane_late_share=0.25) == pytest.approx(0.25, abs=1e-6)
    # ln(0.25 / 0.75) against ln(0.1 / 0.9), what is thought where nothing was delivered yet
    assert pushes("fulfilment", lane_late_share=0.25, promised_days=3) == pytest.approx(
        {"lane_late_share": math.log(3), "base": math.log(1 / 9)}, abs=1e-6
    )
    assert risk("fulfilment") == pytest.approx(0.1, abs=1e-6)


def test_stock_runs_out_as_a_poisson_demand_has_it() -> None:
    # 14 days, a pick a day, stock for 10 days: P(Poisson(14) > 10) = 0.8243 (tables)
    assert risk("replenishment", days_covered=10, days=14, picks_a_day=1) == pytest.approx(
        0.8243, abs=0.002
    )
    # nothing there and half a pick expected: 1 - exp(-0.5); the cube root is off by 0.006 here
    assert risk("replenishment", days_covered=0, days=1, picks_a_day=0.5) == pytest.approx(
        1 - math.exp(-0.5), abs=0.007
    )
    less = risk("replenishment", days_covered=20, days=14, picks_a_day=1)
    assert less < risk("replenishment", days_covered=15, days=14, picks_a_day=1)


def test_what_nothing_is_known_of_is_even() -> None:
    assert risk("replenishment") == pytest.approx(0.5, abs=0.09)
    assert risk("anomaly") == pytest.approx(1 / 11, abs=1e-6)


def test_many_times_the_usual_is_unusual_and_a_first_order_is_not() -> None:
    first = risk("anomaly", quantity_vs_usual=1, value_vs_usual=1, customer_orders=1)
    assert first == pytest.approx(1 / 11, abs=1e-6)
    # Two standard deviations, four times as much: ln(1/3) + 2 * 8/9 for it, the other is not known
    four = math.log(1 / 10) - math.log(3) + 2 * 8 / 9
    assert risk("anomaly", quantity_vs_usual=4) == pytest.approx(
        1 / (1 + math.exp(-four)), abs=1e-4
    )
    # The mean of ten orders that holds the case: 5 times it is 5 * 9 / 5 = 9 times the others'.
    nine = risk("anomaly", quantity_vs_usual=9)
    assert risk("anomaly", quantity_vs_usual=5, customer_orders=10) == pytest.approx(nine, abs=1e-5)
    assert risk("anomaly", quantity_vs_usual=1) < 1 / 11 < risk("anomaly", quantity_vs_usual=8)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_contributions_make_up_the_margin_alone_and_in_a_batch(
    name: str, seed: int, count: int
) -> None:
    chance = np.random.default_rng(seed)
    matrix = np.exp(chance.normal(0, 3, (count, len(KINDS[name].features)))).astype(np.float32)
    matrix[chance.random(matrix.shape) < 0.2] = np.nan
    if name == "fulfilment":
        place = KINDS[name].feature_names.index("lane_late_share")
        matrix[:, place] = chance.random(count)
    scorer = judge(name)
    told = scorer.score(matrix)
    assert told.additivity_error < ADDITIVITY_TOLERANCE
    assert np.isfinite(told.margins).all()
    for number in range(count):
        alone = scorer.score(matrix[number : number + 1])
        assert alone.margins.tobytes() == told.margins[number : number + 1].tobytes()
        assert alone.contributions.tobytes() == told.contributions[number : number + 1].tobytes()
    margins, risks = scorer.risks(matrix)
    assert (margins.tobytes(), risks.tobytes()) == (told.margins.tobytes(), told.risks.tobytes())


def test_contributions_are_shapley_values() -> None:
    """By the mean over all orders in which three inputs come in, reckoned apart."""
    rule = RULES["replenishment"]
    mine = {"days_covered": 5.0, "days": 21.0, "picks_a_day": 0.4}

    def worth(known: frozenset[str]) -> float:
        values = [mine[n] if n in known else rule.reference[n] for n in rule.reference]
        return float(rule.margin(np.array([values]))[0])

    expected = dict.fromkeys(mine, 0.0)
    orders = [one for one in product(mine, repeat=3) if len(set(one)) == 3]
    for order in orders:
        for place, name in enumerate(order):
            before = frozenset(order[:place])
            expected[name] += (worth(before | {name}) - worth(before)) / len(orders)
    found = pushes("replenishment", **mine)
    assert {name: found[name] for name in mine} == pytest.approx(expected, abs=1e-6)
    assert found["base"] == pytest.approx(worth(frozenset()), abs=1e-6)


def test_another_formula_or_another_number_is_another_rule(monkeypatch: Any) -> None:
    kind = KINDS["anomaly"]
    before = judge("anomaly").hash
    monkeypatch.setattr(rules, "_WIDER", 4.0)
    assert rules.RuleScorer(RULES["anomaly"], kind.feature_names).hash != before
    other = replace(RULES["anomaly"], margin=rules.lane_late_share)
    assert rules.RuleScorer(other, kind.feature_names).hash != before


# on a real log


@pytest.fixture(scope="module")
def year(database: str) -> tuple[str, list[str]]:
    """A database with a small year and no model, and its open orders."""

    async def fill() -> list[str]:
        async with company(database) as app:
            await a_year(app, 400)
            await app.consumer.catch_up()
            return await open_orders(app, 6)

    return database, asyncio.run(fill())


async def asked(app: Any, decision_id: str, kind: str, subject_id: str) -> None:
    command = RequestDecision(
        decision_id=decision_id, kind=kind, subject_id=subject_id, requested_at=NOW
    )
    await app.bus.execute(command, context("planner"))


async def of(app: Any, kind: type[Any]) -> dict[str, Any]:
    """The last event of a type, by decision."""
    events = [catalogue.decode(one.topic, one.state) for one in await app.log.after(0, 10**6)]
    return {one.decision_id: one for one in events if isinstance(one, kind)}


async def a_stock(app: Any) -> str:
    await app.projector.catch_up()
    async with app.log.connection() as connection:
        [site_id, sku] = await (
            await connection.execute(
                "SELECT site_id, sku FROM read_models.feature_stock ORDER BY picks DESC LIMIT 1"
            )
        ).fetchone()
    return f"{site_id}/{sku}"


def test_without_a_model_the_rule_decides_and_says_so(year: tuple[str, list[str]]) -> None:
    url, orders = year

    async def story(copy: str) -> None:
        async with company(copy) as app:
            await asked(app, "d-f", "fulfilment", orders[0])
            await asked(app, "d-r", "replenishment", await a_stock(app))
            await asked(app, "d-a", "anomaly", orders[0])
            await app.consumer.catch_up()
            made, words = await of(app, DecisionMade), await of(app, DecisionExplained)
            assert sorted(made) == ["d-a", "d-f", "d-r"]
            for name, one in made.items():
                kind = KINDS[one.kind]
                rule = judge(one.kind)
                assert (one.role, one.model_hash) == ("rule_based", rule.hash)
                assert await app.artifacts.get(one.model_hash) == rule.declaration
                assert one.confidence is None or one.confidence == max(
                    one.foretold, 1 - one.foretold
                )
                first = words[name].reasons[0] if words[name].reasons else None
                if one.chosen is not None:
                    assert "rule-based" in words[name].summary
                    assert first is not None
                    assert first.code == "method.rule_based"
                    assert f"no model is deployed for {one.kind}" in first.sentence
                    used = {r.feature for r in words[name].reasons[1:]}
                    assert used <= set(rule.rule.reference)
                told = explain(
                    one.model_dump(mode="json"), words[name].model_dump(mode="json"), [], kind
                )
                assert (told.method, told.additive) == ("rule-based", True)
                assert {push.name for push in told.candidates[0].features} == set(
                    kind.feature_names
                )
            share = "lane_late_share"
            explained = explain(
                made["d-f"].model_dump(mode="json"),
                words["d-f"].model_dump(mode="json"),
                [],
                KINDS["fulfilment"],
            )
            for candidate in explained.candidates:
                [value] = [one.value for one in candidate.features if one.name == share]
                assert candidate.risk == pytest.approx(0.1 if value is None else value, abs=1e-6)
            again = await replay(app.url, app.log, app.artifacts, ORGANISATION)
            assert [(one.same, one.cause) for one in again] == [(True, "")] * 3

    with copied(url) as copy:
        asyncio.run(story(copy))


def test_a_changed_rule_is_named_by_a_replay(year: tuple[str, list[str]], monkeypatch: Any) -> None:
    url, orders = year

    async def story(copy: str) -> None:
        async with company(copy) as app:
            await asked(app, "d-a", "anomaly", orders[0])
            await app.consumer.catch_up()
            rules._rule_for.cache_clear()
            monkeypatch.setattr(rules, "_UNUSUAL", 1 / 5)
            [found] = await replay(app.url, app.log, app.artifacts, ORGANISATION)
            assert (found.same, found.cause) == (False, "rule")
            assert "rule is another one" in found.detail

    try:
        with copied(url) as copy:
            asyncio.run(story(copy))
    finally:
        monkeypatch.undo()
        rules._rule_for.cache_clear()


def test_a_stop_switch_stops_the_rule_too_and_policies_hold(year: tuple[str, list[str]]) -> None:
    url, orders = year

    async def story(copy: str) -> None:
        async with company(copy) as app:
            stop = StopKind(kind="fulfilment", reason="strike", stopped_at=NOW)
            await app.bus.execute(stop, context("boss"))
            await asked(app, "d-stopped", "fulfilment", orders[0])
            resume = ResumeKind(kind="fulfilment", resumed_at=NOW)
            await app.bus.execute(resume, context("boss"))
            policy = SetPolicy(
                kind="fulfilment", minimum_confidence=0.999, four_eyes_above_minor=0, set_at=NOW
            )
            await app.bus.execute(policy, context("boss"))
            await asked(app, "d-policy", "fulfilment", orders[1])
            await app.consumer.catch_up()
            assert (await of(app, DecisionFailed))["d-stopped"].code == "decision.kind_stopped"
            referred = (await of(app, DecisionReferred))["d-policy"]
            assert referred.approvals == 2
            again = await replay(app.url, app.log, app.artifacts, ORGANISATION)
            assert all(one.same for one in again)

    with copied(url) as copy:
        asyncio.run(story(copy))


def test_what_if_asks_the_rule(year: tuple[str, list[str]]) -> None:
    url, _ = year

    async def story(copy: str) -> None:
        async with company(copy) as app:
            await asked(app, "d-r", "replenishment", await a_stock(app))
            await app.consumer.catch_up()
            made = (await of(app, DecisionMade))["d-r"].model_dump(mode="json")
            hypotheses = Hypotheses(app.artifacts)
            found = await hypotheses.what_if(made, [Change("days", 28.0)])
            for before, after in zip(made["candidates"], found.weighing.options, strict=True):
                assert after.risk >= before["risk"]
            turned = await hypotheses.counterfactual(made)
            assert turned is None or turned.chosen != turned.instead_of

    with copied(url) as copy:
        asyncio.run(story(copy))


def test_a_bundle_of_a_rules_decision_holds_and_says_so(
    year: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, orders = year

    async def story(copy: str) -> None:
        async with company(copy) as app:
            await asked(app, "d-f", "fulfilment", orders[0])
            await app.consumer.catch_up()
            await app.projector.catch_up()
            await asyncio.to_thread(sealer(copy).seal)
            bundles = Bundles(app.log, app.artifacts, verifier_program())
            content = await bundles.make(
                ReadModels(app.log, ORGANISATION), ORGANISATION, "d-f", made_at=NOW
            )
        file = tmp_path / "d-f.zip"
        file.write_bytes(content)
        found = verify_bundle(file)
        results = {one.what: (one.result, one.detail) for one in found.checks}
        assert not found.failed, results
        assert "rule-based" in results["governance"][1]
        with zipfile.ZipFile(file) as archive:
            assert f"model/{judge('fulfilment').hash}" in archive.namelist()
            page = archive.read("index.html").decode()
        assert "rule-based: no model was deployed" in page
        assert "<h2>The rule</h2>" in page

    with copied(url) as copy:
        asyncio.run(story(copy))
