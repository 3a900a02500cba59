"""What if: the decision's own numbers again, and changes that truly turn it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from polars import col

from domain import catalogue
from domain.decisions import DecisionExplained, DecisionMade, Weights
from ml.calibration import Calibration
from ml.fulfilment import FULFILMENT
from ml.kind import Feature, Kind, Lever
from ml.scoring import ADDITIVITY_TOLERANCE, Scorer, seal
from ml.weighing import floats
from ml.whatif import (
    Change,
    Counterfactual,
    Option,
    WrongCase,
    changed,
    counterfactual,
    of_decision,
    weigh,
)
from tests.world import a_year, company, decidable_orders, deployed_model, request

NAMES = FULFILMENT.feature_names
LEVERS = {one.name: one.lever for one in FULFILMENT.features if one.lever is not None}
#: The risk counts for more, so that what people can change counts too.
WARY = Weights(cost=0.2, risk_minor=20_000, carbon_minor_per_kg=0)


@dataclass(frozen=True)
class Decided:
    """Decisions with their explanations, and the model that made them."""

    made: Sequence[DecisionMade]
    explained: Sequence[DecisionExplained]
    scorer: Scorer

    def options(self, number: int) -> list[Option]:
        return of_decision(NAMES, json.loads(catalogue.encode(self.made[number])[1]))


@pytest.fixture(scope="module")
def decided(database: str) -> Decided:
    async def fill() -> Decided:
        async with company(database) as app:
            await a_year(app)
            trained = await deployed_model(app)
            await app.consumer.catch_up()
        orders = await decidable_orders(database)
        async with company(database) as app:
            for number, order_id in enumerate(orders[:10]):
                await request(app, f"d-{number:02}", order_id)
            await app.consumer.catch_up()
            content = await app.artifacts.get(trained.registration.model_hash)
            events = [catalogue.decode(e.topic, e.state) for e in await app.log.after(0, 10**6)]
        return Decided(
            [one for one in events if isinstance(one, DecisionMade)],
            [one for one in events if isinstance(one, DecisionExplained)],
            Scorer(content, NAMES),
        )

    found = asyncio.run(fill())
    assert len(found.made) == 10
    return found


# weighing


def test_a_decisions_own_options_weigh_what_they_weighed(decided: Decided) -> None:
    for number, (made, explained) in enumerate(zip(decided.made, decided.explained, strict=True)):
        weighing = weigh(FULFILMENT, decided.scorer, made.weights, decided.options(number))
        assert weighing.chosen == made.chosen
        assert weighing.additivity_error < ADDITIVITY_TOLERANCE
        for one, told, shap in zip(
            weighing.options, made.candidates, explained.contributions, strict=True
        ):
            assert (one.margin, one.probability) == (told.margin, told.probability)
            assert (one.risk, one.objective) == (told.risk, told.objective)
            assert tuple(one.option.rejected) == told.rejected
            assert one.option.option == told.option
            assert [*one.contributions.values(), one.base] == floats(shap)
            assert tuple(one.contributions) == NAMES


def test_other_weights_choose_by_what_they_say(decided: Decided) -> None:
    only_cost = Weights(cost=1, risk_minor=0, carbon_minor_per_kg=0)
    only_risk = Weights(cost=0, risk_minor=1000, carbon_minor_per_kg=0)
    for number in range(len(decided.made)):
        options = decided.options(number)
        allowed = [n for n, one in enumerate(options) if not one.rejected]
        cheap = weigh(FULFILMENT, decided.scorer, only_cost, options)
        safe = weigh(FULFILMENT, decided.scorer, only_risk, options)
        assert cheap.chosen is not None
        assert safe.chosen is not None
        assert options[cheap.chosen].cost_minor == min(options[n].cost_minor for n in allowed)
        assert safe.options[safe.chosen].risk == min(safe.options[n].risk for n in allowed)


def test_a_rejected_option_is_weighed_and_never_chosen(decided: Decided) -> None:
    options = decided.options(0)
    before = weigh(FULFILMENT, decided.scorer, WARY, options)
    assert before.chosen is not None
    out = [
        replace(one, rejected=("site.closed",)) if n == before.chosen else one
        for n, one in enumerate(options)
    ]
    after = weigh(FULFILMENT, decided.scorer, WARY, out)
    assert after.chosen not in (None, before.chosen)
    assert [one.margin for one in after.options] == [one.margin for one in before.options]
    none = [replace(one, rejected=("site.closed",)) for one in options]
    assert weigh(FULFILMENT, decided.scorer, WARY, none).chosen is None


def test_a_feature_that_is_left_out_is_not_known(decided: Decided) -> None:
    """As null, and as the model takes it."""
    [first, *_] = decided.options(0)
    without = {name: value for name, value in first.features.items() if name != "hour"}
    for told in (without, {**without, "hour": None}):
        [one] = weigh(FULFILMENT, decided.scorer, WARY, [replace(first, features=told)]).options
        row = np.array([[np.nan if told.get(n) is None else told[n] for n in NAMES]], np.float32)
        assert one.margin == float(decided.scorer.score(row).margins[0])


# changing


def test_a_change_concerns_the_options_that_agree(decided: Decided) -> None:
    options = decided.options(0)
    site = options[0].option["site_id"]
    after = changed(FULFILMENT, options, [Change("site_backlog", 7, {"site_id": site})])
    for before, one in zip(options, after, strict=True):
        mine = one.option["site_id"] == site
        assert one.features["site_backlog"] == (7 if mine else before.features["site_backlog"])
        kept = {n: v for n, v in before.features.items() if n != "site_backlog"}
        assert {n: v for n, v in one.features.items() if n != "site_backlog"} == pytest.approx(
            kept, rel=1e-6
        )
        if not mine:
            assert one.features == before.features
        assert (one.cost_minor, one.rejected) == (before.cost_minor, before.rejected)
    assert options == decided.options(0)


def test_what_follows_from_a_feature_follows(decided: Decided) -> None:
    options = decided.options(0)
    changes = [Change("promised_days", 9.5), Change("transit_days", 2.25)]
    for one in changed(FULFILMENT, options, changes):
        handling = one.features["site_handling_days"]
        assert handling is not None
        slack = one.features["slack_days"]
        assert slack == float(np.float32(9.5 - handling - 2.25))
    # What is not known leaves what follows unknown too.
    unknown = [replace(one, features={**one.features, "transit_days": None}) for one in options]
    for one in changed(FULFILMENT, unknown, [Change("promised_days", 9.5)]):
        assert one.features["slack_days"] is None


def test_no_change_changes_nothing(decided: Decided) -> None:
    """Also not in the last bit of what is computed again."""
    for number in range(len(decided.made)):
        options = decided.options(number)
        same = changed(FULFILMENT, options, [])
        assert [one.features for one in same] == [one.features for one in options]
        then = weigh(FULFILMENT, decided.scorer, WARY, options)
        now = weigh(FULFILMENT, decided.scorer, WARY, same)
        assert [one.margin for one in now.options] == [one.margin for one in then.options]


def test_what_a_change_does_not_touch_stays_to_the_bit(decided: Decided) -> None:
    """Also where it does not follow from the others as one would compute it now."""
    [first, second, *_] = decided.options(0)
    odd = [replace(one, features={**one.features, "slack_days": 12.5}) for one in (first, second)]
    assert first.option != second.option
    touched, kept = changed(FULFILMENT, odd, [Change("promised_days", 9.5, first.option)])
    assert kept.features == odd[1].features
    assert touched.features["slack_days"] != 12.5
    # To set a feature to the value that it has touches nothing.
    now = odd[0].features["promised_days"]
    assert now is not None
    assert changed(FULFILMENT, odd, [Change("promised_days", now)]) == odd


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("value", [1e39, -1e300])
def test_a_value_that_would_be_infinite_is_named(decided: Decided, value: float) -> None:
    options = decided.options(0)
    after = changed(FULFILMENT, options, [Change("hour", value, options[1].option)])
    told = "features: 'hour' of option 1 would be infinite"
    with pytest.raises(WrongCase, match=told):
        weigh(FULFILMENT, decided.scorer, WARY, after)
    plain = [replace(one, features={**one.features, "hour": None}) for one in options]
    plain[1] = replace(options[1], features={**options[1].features, "hour": value})
    with pytest.raises(WrongCase, match=told):
        weigh(FULFILMENT, decided.scorer, WARY, plain)
    # What follows from two large values may be infinite too.
    large = [Change("promised_days", 3e38), Change("transit_days", -3e38)]
    with pytest.raises(WrongCase, match="features: 'slack_days' of option 0 would be infinite"):
        weigh(FULFILMENT, decided.scorer, WARY, changed(FULFILMENT, options, large))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (Change("speed", 1.0), "feature: 'speed' is none of promised_days, slack_days"),
        (Change("slack_days", 1.0), "feature: 'slack_days' follows from others"),
        (Change("hour", float("nan")), "value: nan of hour is no number"),
        (Change("hour", float("inf")), "value: inf of hour is no number"),
        (Change("hour", 1.0, {"site_id": "S-404"}), "where: no option has .*S-404"),
        (Change("hour", 1.0, {"colour": "red"}), "where: no option has .*colour"),
    ],
)
def test_a_wrong_change_is_named(decided: Decided, change: Change, told: str) -> None:
    with pytest.raises(WrongCase, match=told):
        changed(FULFILMENT, decided.options(0), [change])


def test_a_wrong_option_is_named(decided: Decided) -> None:
    with pytest.raises(WrongCase, match="options: there must be at least one"):
        weigh(FULFILMENT, decided.scorer, WARY, [])
    odd = Option(option={"site_id": "S"}, features={"speed": 1.0})
    with pytest.raises(WrongCase, match="features: 'speed' is none of"):
        weigh(FULFILMENT, decided.scorer, WARY, [odd])


# counterfactuals


def turned(
    kind: Kind,
    scorer: Scorer,
    weights: Weights,
    options: Sequence[Option],
    changes: Sequence[Change],
) -> int | None:
    """What is chosen after some changes, by the long way."""
    return weigh(kind, scorer, weights, changed(kind, options, changes)).chosen


def check(
    kind: Kind, scorer: Scorer, weights: Weights, options: Sequence[Option], found: Counterfactual
) -> None:
    """It flips the choice, by levers within their bounds, and its distance is what it says."""
    levers = {one.name: one.lever for one in kind.features}
    before = weigh(kind, scorer, weights, options).chosen
    assert before is not None
    assert options[before].option == found.instead_of
    after = turned(kind, scorer, weights, options, found.changes)
    assert after not in (None, before)
    assert options[after].option == found.chosen
    distance = 0.0
    assert 1 <= len(found.changes) <= 2
    for change, was in zip(found.changes, found.before, strict=True):
        lever = levers[change.feature]
        assert lever is not None
        assert lever.low <= change.value <= lever.high
        assert set(change.where) == set(lever.shared)
        mine = [one for one in options if change.where.items() <= one.option.items()]
        assert {one.features[change.feature] for one in mine} == {was}
        start = (lever.low + lever.high) / 2 if was is None else was
        distance += abs(change.value - start) / (lever.high - lever.low)
    assert found.distance == pytest.approx(distance)


Case = tuple[float, Sequence[Change]]


def choices(
    kind: Kind, scorer: Scorer, weights: Weights, options: Sequence[Option], cases: Sequence[Case]
) -> list[int | None]:
    """What is chosen after each of some sets of changes: written anew, for many at once."""
    names = list(kind.feature_names)
    values = np.array(
        [[np.nan if one.features[n] is None else one.features[n] for n in names] for one in options]
    )
    rows = np.repeat(values[None], len(cases), axis=0).astype(np.float64)
    for number, (_, changes) in enumerate(cases):
        for change in changes:
            mine = [
                n for n, one in enumerate(options) if change.where.items() <= one.option.items()
            ]
            rows[number, mine, names.index(change.feature)] = change.value
    of = {name: rows[:, :, index] for index, name in enumerate(names)}
    if kind is FULFILMENT:
        slack = of["promised_days"] - of["site_handling_days"] - of["transit_days"]
        rows[:, :, names.index("slack_days")] = slack
    else:
        rows[:, :, names.index("slack")] = of["promised"] - of["load"]
    _, risks = scorer.risks(rows.reshape(-1, len(names)).astype(np.float32))
    halves = np.array([kind is not FULFILMENT and o.option["site_id"] == "S-0" for o in options])
    costs = np.array([one.cost_minor for one in options], float) * weights.cost
    carbon = np.array([one.carbon_g for one in options]) * weights.carbon_minor_per_kg / 1000
    told = costs + weights.risk_minor * (risks.reshape(len(cases), -1) * (1 - halves / 2)) + carbon
    told[:, [bool(one.rejected) for one in options]] = np.inf
    return [int(row.argmin()) if np.isfinite(row.min()) else None for row in told]


def turning(
    kind: Kind,
    scorer: Scorer,
    weights: Weights,
    options: Sequence[Option],
    cases: Iterable[Case],
    found: Counterfactual | None,
) -> list[Case]:
    """The changes smaller than what was found that turn the decision too."""
    before = weigh(kind, scorer, weights, options).chosen
    near = [one for one in cases if found is None or one[0] < found.distance - 1e-6]
    if not near:
        return []
    told = choices(kind, scorer, weights, options, near)
    return [one for one, chosen in zip(near, told, strict=True) if chosen != before]


def single_changes(
    kind: Kind, options: Sequence[Option], steps: int
) -> Iterator[tuple[float, Change]]:
    """Every lever of every group over an even grid, with its distance."""
    for feature in kind.features:
        lever = feature.lever
        if lever is None:
            continue
        groups = {tuple((name, one.option[name]) for name in lever.shared) for one in options}
        for group in sorted(groups):
            where = dict(group)
            mine = [one for one in options if where.items() <= one.option.items()]
            was = mine[0].features[feature.name]
            start = (lever.low + lever.high) / 2 if was is None else was
            for value in np.linspace(lever.low, lever.high, steps):
                distance = abs(float(value) - start) / (lever.high - lever.low)
                yield distance, Change(feature.name, float(value), where)


@pytest.mark.parametrize("weights", [WARY, Weights()], ids=["wary", "usual"])
def test_a_counterfactual_turns_the_decision(decided: Decided, weights: Weights) -> None:
    turns = 0
    for number in range(len(decided.made)):
        options = decided.options(number)
        found = counterfactual(FULFILMENT, decided.scorer, weights, options)
        if found is not None:
            turns += 1
            assert {one.feature for one in found.changes} <= LEVERS.keys()
            check(FULFILMENT, decided.scorer, weights, options, found)
    assert turns >= 3


def smaller_singles(decided: Decided, number: int, levers: Iterable[str]) -> list[Case]:
    """Smaller changes of some levers that turn a decision, by brute force over an even grid."""
    options = decided.options(number)
    found = counterfactual(FULFILMENT, decided.scorer, WARY, options)
    cases: list[Case] = [
        (distance, [change])
        for distance, change in single_changes(FULFILMENT, options, 501)
        if change.feature in levers
    ]
    assert len(cases) >= 501
    return turning(FULFILMENT, decided.scorer, WARY, options, cases, found)


@pytest.mark.parametrize("number", range(10))
def test_no_smaller_change_of_the_backlog_turns_it(decided: Decided, number: int) -> None:
    assert smaller_singles(decided, number, ["site_backlog"]) == []


def test_no_smaller_single_change_turns_it(decided: Decided) -> None:
    found = [smaller_singles(decided, number, LEVERS) for number in range(10)]
    assert found == [[]] * 10


def test_where_nothing_is_allowed_nothing_turns(decided: Decided) -> None:
    none = [replace(one, rejected=("site.closed",)) for one in decided.options(0)]
    assert counterfactual(FULFILMENT, decided.scorer, WARY, none) is None


def test_one_option_alone_stays(decided: Decided) -> None:
    [one] = [o for o in decided.options(0) if not o.rejected][:1]
    assert counterfactual(FULFILMENT, decided.scorer, WARY, [one]) is None


# small kinds, made up

_PUSH = ("up", "down")
SMALL = replace(
    FULFILMENT,
    name="small",
    features=(
        Feature("load", col("load"), *_PUSH, lever=Lever(0, 10, shared=("site_id",))),
        Feature("promised", col("promised"), *_PUSH, lever=Lever(0, 10)),
        Feature("fixed", col("fixed"), *_PUSH),
        Feature("slack", col("promised") - col("load"), *_PUSH, derived=True),
    ),
    option=("site_id",),
    exposure=pl.when(col("site_id") == "S-0").then(0.5).otherwise(1.0),
)
VALUES = st.integers(0, 40).map(lambda n: n / 4)


@cache
def small_scorer(seed: int, derived: bool) -> Scorer:
    """Trees over random data; without the derived feature where it is not wanted."""
    random = np.random.default_rng(seed)
    rows = np.round(random.uniform(0, 10, (300, 4)), 1).astype(np.float32)
    rows[:, 3] = rows[:, 1] - rows[:, 0] if derived else 0
    truth = (rows[:, 0] + rows[:, 2] - rows[:, 1] + random.normal(0, 2, 300) > 5).astype(float)
    names = list(SMALL.feature_names)
    data = xgboost.DMatrix(rows, label=truth, feature_names=names, nthread=1)
    params: dict[str, Any] = {"objective": "binary:logistic", "max_depth": 2, "nthread": 1}
    booster = xgboost.train(params, data, num_boost_round=6)
    content = seal(booster, Calibration((0.0, 0.3, 1.0), (0.05, 0.3, 0.9)))
    return Scorer(content, names)


@st.composite
def small_options(draw: st.DrawFn, unknown: bool = False) -> list[Option]:
    promised = draw(VALUES)
    found = []
    for number in range(draw(st.integers(1, 4))):
        load = draw(st.none() | VALUES if unknown else VALUES)
        values = {
            "load": load,
            "promised": promised,
            "fixed": draw(VALUES),
            "slack": None if load is None else promised - load,
        }
        found.append(
            Option(
                option={"site_id": f"S-{number}"},
                features=values,
                cost_minor=draw(st.integers(0, 300)),
                rejected=draw(st.sampled_from([(), (), ("site.closed",)])),
            )
        )
    return found


@settings(max_examples=60, deadline=None)
@given(small_options(unknown=True), st.integers(0, 5), st.booleans())
def test_in_small_a_counterfactual_turns_the_decision(
    options: list[Option], seed: int, derived: bool
) -> None:
    scorer = small_scorer(seed, derived)
    found = counterfactual(SMALL, scorer, SMALL_WEIGHTS, options)
    if found is not None:
        check(SMALL, scorer, SMALL_WEIGHTS, options, found)


SMALL_WEIGHTS = Weights(cost=1, risk_minor=600, carbon_minor_per_kg=0)


def test_as_many_options_as_features_are_no_other_matrix() -> None:
    """Square: it could be read by columns."""
    features = {"load": None, "promised": 0.0, "fixed": 0.0, "slack": None}
    options = [Option(option={"site_id": f"S-{n}"}, features=features) for n in range(4)]
    options[0] = replace(options[0], cost_minor=6)
    found = counterfactual(SMALL, small_scorer(0, False), SMALL_WEIGHTS, options)
    assert found is not None
    check(SMALL, small_scorer(0, False), SMALL_WEIGHTS, options, found)


def nothing_smaller(options: list[Option], scorer: Scorer, *, pairs: bool = True) -> None:
    """Singles over a fine grid, pairs over a coarse one: none of those nearer turns it."""
    found = counterfactual(SMALL, scorer, SMALL_WEIGHTS, options)
    if weigh(SMALL, scorer, SMALL_WEIGHTS, options).chosen is None:
        assert found is None
        return
    cases: list[Case] = [(far, [one]) for far, one in single_changes(SMALL, options, 101)]
    coarse = list(single_changes(SMALL, options, 9)) if pairs else []
    cases += [
        (a + b, [one, two])
        for (a, one), (b, two) in combinations(coarse, 2)
        if (one.feature, one.where) != (two.feature, two.where)
    ]
    assert turning(SMALL, scorer, SMALL_WEIGHTS, options, cases, found) == [], found


@settings(max_examples=60, deadline=None)
@given(options=small_options(), seed=st.integers(0, 5))
def test_in_small_nothing_smaller_turns_it(options: list[Option], seed: int) -> None:
    nothing_smaller(options, small_scorer(seed, derived=False))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(options=small_options(), seed=st.integers(0, 5))
def test_in_small_nothing_smaller_turns_it_by_what_follows(
    options: list[Option], seed: int
) -> None:
    """Of pairs that meet the threshold of what follows from both, not all are tried."""
    nothing_smaller(options, small_scorer(seed, derived=True), pairs=False)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(options=small_options(unknown=True), seed=st.integers(0, 5))
def test_in_small_nothing_smaller_turns_what_is_not_known(options: list[Option], seed: int) -> None:
    nothing_smaller(options, small_scorer(seed, derived=False))
