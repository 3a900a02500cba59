"""Explanations: all numbers add up, sentences fit their candidate, pictures are well-formed."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import xgboost

from chainlytics.cli.console import console
from chainlytics.cli.decision_views import show_candidate, show_decision, show_explanation
from domain.decisions import Weights
from ml.calibration import Calibration
from ml.explaining import (
    Explanation,
    NoSuchCandidate,
    explain,
    explain_weighing,
    in_words,
    name_of,
    waterfall_of,
    what_if_in_words,
)
from ml.fulfilment import FULFILMENT
from ml.hypotheses import why_no_counterfactual
from ml.scoring import ADDITIVITY_TOLERANCE, Scorer, Scores, seal
from ml.weighing import encode
from ml.whatif import Change, Counterfactual, Option, weigh

NAMES = FULFILMENT.feature_names
SVG = "{http://www.w3.org/2000/svg}"
WEIGHTS = Weights()


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """A model of random cases in which a backlog makes late."""
    random = np.random.default_rng(5)
    rows = random.uniform(0, 40, (600, len(NAMES))).astype(np.float32)
    rows[random.uniform(size=rows.shape) < 0.05] = np.nan
    backlog = np.nan_to_num(rows[:, NAMES.index("site_backlog")])
    late = (backlog + random.normal(0, 6, 600) > 24).astype(np.float32)
    data = xgboost.DMatrix(rows, label=late, feature_names=list(NAMES))
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3}, data, 40)
    return Scorer(seal(booster, Calibration((0.0, 1.0), (0.01, 0.99))), NAMES)


OPTIONS = (
    {"service_level": "express", "site_id": "S-AMS"},
    {"service_level": "economy", "site_id": "S-LIL"},
    {"service_level": "economy", "site_id": "S-ESS"},
)


def recorded(scorer: Scorer, rejected: tuple[str, ...] = ()) -> tuple[dict[str, Any], ...]:
    """The two events of a decision, as JSON; the first option is the chosen one."""
    random = np.random.default_rng(9)
    matrix = random.uniform(0, 40, (len(OPTIONS), len(NAMES))).astype(np.float32)
    matrix[:, NAMES.index("weight_kg")] = np.nan
    scores: Scores = scorer.score(matrix)
    candidates = [
        {
            "option": option,
            "features": encoded,
            "margin": float(scores.margins[number]),
            "probability": float(scores.probabilities[number]),
            "risk": float(scores.risks[number]),
            "cost_minor": 400 + number,
            "carbon_g": 100,
            "objective": 500.0 + number,
            "rejected": list(rejected) if number == 2 else [],
        }
        for number, (option, encoded) in enumerate(zip(OPTIONS, encode(matrix), strict=True))
    ]
    made = {
        "decision_id": "D-1",
        "kind": "fulfilment",
        "subject_id": "O-1",
        "model_hash": "0" * 64,
        "schema_hash": FULFILMENT.schema_hash,
        "role": "champion",
        "as_of": 7,
        "weights": WEIGHTS.model_dump(),
        "candidates": candidates,
        "chosen": 0,
        "option": OPTIONS[0],
        "probability": candidates[0]["probability"],
        "foretold": 0.1,
        "risk": candidates[0]["risk"],
        "confidence": 0.9,
        "currency": "JPY",
    }
    explained = {
        "contributions": encode(scores.contributions),
        "summary": "Ship it",
        "reasons": [
            {"feature": "site_backlog", "sentence": "As it was told then", "contribution": 1.0},
            {"feature": None, "sentence": "Because", "contribution": None},
        ],
        "rejections": [],
        "runner_up": None,
    }
    return made, explained


def explained_by(scorer: Scorer, **more: Any) -> Explanation:
    made, explained = recorded(scorer)
    return explain(made, explained, NAMES, FULFILMENT, **more)


def test_base_and_contributions_are_the_margin(scorer: Scorer) -> None:
    found = explained_by(scorer)
    assert found.additive
    assert found.additivity_tolerance == ADDITIVITY_TOLERANCE
    assert len(found.candidates) == 3
    for one in found.candidates:
        total = one.base + math.fsum(push.contribution for push in one.features)
        assert abs(total - one.margin) == pytest.approx(one.additivity_error, abs=1e-12)
        assert one.additivity_error <= found.additivity_error <= ADDITIVITY_TOLERANCE
        assert {push.name for push in one.features} == set(NAMES)
        strengths = [abs(push.contribution) for push in one.features]
        assert strengths == sorted(strengths, reverse=True)


def test_what_does_not_add_up_is_said(scorer: Scorer) -> None:
    made, explained = recorded(scorer)
    made["candidates"][1]["margin"] += 0.5
    found = explain(made, explained, NAMES, FULFILMENT)
    assert not found.additive
    assert [one.additive for one in found.candidates] == [True, False, True]
    assert found.additivity_error == pytest.approx(0.5, abs=1e-3)
    assert explain(made, explained, NAMES, FULFILMENT, candidate=0).additive


def test_sentences_are_the_events_or_the_templates(scorer: Scorer) -> None:
    chosen, other, _ = (
        {push.name: push for push in one.features} for one in explained_by(scorer).candidates
    )
    assert chosen["site_backlog"].sentence == "As it was told then"
    backlog = other["site_backlog"]
    assert "orders wait at site S-LIL" in backlog.sentence
    direction = "raises" if backlog.contribution > 0 else "lowers"
    assert backlog.sentence.endswith(f"{direction} the risk")
    # Its words name the region, which an option does not tell.
    assert other["lane_late_share"].sentence.startswith("lane late share = ")
    assert other["weight_kg"].value is None
    assert other["weight_kg"].sentence.startswith("Weight kg is not known yet")


def test_a_decision_of_older_features_is_told_by_their_names(scorer: Scorer) -> None:
    made, explained = recorded(scorer)
    made["schema_hash"] = "older"
    names = [f"old_{name}" for name in NAMES]
    found = explain(made, explained, names, FULFILMENT, candidate=1)
    assert {push.name for push in found.candidates[0].features} == set(names)
    assert all(
        push.sentence.startswith(push.name.replace("_", " "))
        for push in found.candidates[0].features
    )
    nameless = explain(made, explained, [], None, candidate=1).candidates[0]
    assert {push.name for push in nameless.features} == {f"feature_{n}" for n in range(len(NAMES))}


def test_one_candidate_or_all(scorer: Scorer) -> None:
    assert [one.index for one in explained_by(scorer, candidate=2).candidates] == [2]
    for wrong in (-1, 3):
        with pytest.raises(NoSuchCandidate, match="0 to 2"):
            explained_by(scorer, candidate=wrong)


def test_an_option_is_told_in_its_kinds_order(scorer: Scorer) -> None:
    found = explained_by(scorer)
    assert list(found.option) == ["site_id", "service_level"]
    assert name_of(found.candidates[1].option) == "S-LIL, economy"
    assert name_of({"service_level": "x", "site_id": "S"}, FULFILMENT) == "S, x"
    assert name_of({}) == "nothing"


def test_what_was_foretold_and_amounts_in_their_currency(scorer: Scorer) -> None:
    found = explained_by(scorer)
    assert (found.foretold, found.currency) == (0.1, "JPY")
    made, explained = recorded(scorer)
    with console.capture() as told:
        show_explanation(found)
        show_candidate(found.candidates[1], None)
        show_decision(made | {"foretold": 0.9, "risk": 0.0}, explained)
    text = " ".join(told.get().split())
    # The yen has no decimals; of an amount whose currency is not known no code is told.
    assert "cost 400 JPY," in text
    assert "cost 4.01," in text
    # The statement is about what was foretold, not about the share of it that the option bears.
    assert "90.0% that it will be late" in text


@pytest.mark.parametrize("candidate", [0, 1, 2])
def test_the_waterfall_is_a_picture(scorer: Scorer, candidate: int) -> None:
    [one] = explained_by(scorer, candidate=candidate).candidates
    root = ElementTree.fromstring(waterfall_of("O-1 <&>", one))
    assert root.tag == f"{SVG}svg"
    words = " ".join(root.itertext())
    assert ("chosen" if candidate == 0 else "not chosen") in words
    assert "site_backlog" in words
    assert "E[f(x)]" in words


def test_a_weighing_is_explained_alike(scorer: Scorer) -> None:
    options = [
        Option({"service_level": "express", "site_id": "S-AMS"}, {"site_backlog": 3.0}, 900),
        Option({"service_level": "express", "site_id": "S-LIL"}, {"site_backlog": 38.0}, 300),
        Option({"site_id": "S-ESS"}, {"site_backlog": 0.0}, rejected=("site.closed",)),
    ]
    weighing = weigh(FULFILMENT, scorer, WEIGHTS, options)
    found = explain_weighing(FULFILMENT, weighing)
    assert [one.chosen for one in found] == [True, False, False]
    assert found[2].rejected == ("site.closed",)
    for one in found:
        assert one.additive
        assert one.base + math.fsum(push.contribution for push in one.features) == pytest.approx(
            one.margin, abs=ADDITIVITY_TOLERANCE
        )
    backlog = next(push for push in found[1].features if push.name == "site_backlog")
    assert backlog.sentence == "38 orders wait at site S-LIL: raises the risk"
    ElementTree.fromstring(waterfall_of("hypothetical", found[1]))

    changes = [Change("site_backlog", 3.0, {"site_id": "S-LIL"})]
    told = what_if_in_words(changes, weighing, 1, FULFILMENT)
    assert told.startswith("If site backlog of site S-LIL were 3, it would be S-AMS, express at ")
    assert told.endswith("instead of S-LIL, express")
    assert "the choice would be the same: S-AMS" in what_if_in_words(
        changes, weighing, 0, FULFILMENT
    )


def test_a_counterfactual_in_words(scorer: Scorer) -> None:
    found = Counterfactual(
        changes=[Change("site_backlog", 12.0, {"site_id": "S-AMS"}), Change("promised_days", 2.5)],
        before=[45.0, None],
        distance=0.2,
        chosen={"service_level": "express", "site_id": "S-AMS"},
        instead_of={"service_level": "economy", "site_id": "S-LIL"},
    )
    assert in_words(found, "", FULFILMENT) == (
        "If site backlog of site S-AMS were 12 instead of 45 and promised days were 2.5 instead of "
        "not known, S-AMS, express would have been chosen instead of S-LIL, economy"
    )
    made, _ = recorded(scorer)
    assert in_words(None, why_no_counterfactual(made), None).startswith("No change of one or two")
    alone = made | {"candidates": made["candidates"][:1]}
    assert "one allowed candidate" in why_no_counterfactual(alone)
    assert "Every candidate breaks a rule" in why_no_counterfactual(made | {"chosen": None})
