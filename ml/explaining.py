"""Explanations for all readers: each candidate's exact SHAP values beside sentences, checked for
their sum, and as a waterfall. What is told of a recorded decision comes from its own events.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain.decisions import RULE_BASED, Weights
from ml import pictures
from ml.kind import Feature, Kind
from ml.scoring import ADDITIVITY_TOLERANCE
from ml.weighing import floats, rank
from ml.whatif import Change, Counterfactual, Weighing
from ml.words import reason


@dataclass(frozen=True, slots=True)
class Push:
    """What one feature does to a candidate's margin, in log odds. ``value``: None: not known."""

    name: str
    value: float | None
    contribution: float
    sentence: str


@dataclass(frozen=True, slots=True)
class ExplainedCandidate:
    """A candidate and why its margin is what it is: ``base`` and all contributions make it up.

    ``index``: its place among the decision's candidates. ``rejected``: codes of the constraints
    that it breaks. ``features``: the strongest push first.
    """

    index: int
    option: Mapping[str, str]
    chosen: bool
    rejected: Sequence[str]
    probability: float
    risk: float
    objective: float
    cost_minor: int
    carbon_g: int
    base: float
    margin: float
    features: Sequence[Push]
    additivity_error: float
    additive: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a decision is what it is, for all of its candidates or one.

    Of the chosen one: ``probability``, as the model says it; ``foretold``, calibrated; ``risk``,
    the share of that which it bears. ``currency``: of all amounts; None: not known.
    ``method``: ``rule-based``, or the hash of the model that scored it.
    ``additivity_error``: the largest distance of base and contributions from a margin;
    ``additive``: it is within ``additivity_tolerance``.
    """

    decision_id: str
    kind: str
    subject_id: str
    model_hash: str
    role: str
    method: str
    as_of: int
    weights: Weights
    summary: str
    option: Mapping[str, str]
    probability: float | None
    foretold: float | None
    risk: float | None
    confidence: float | None
    currency: str | None
    reasons: Sequence[Mapping[str, Any]]
    rejections: Sequence[Mapping[str, Any]]
    runner_up: Mapping[str, Any] | None
    candidates: Sequence[ExplainedCandidate]
    additivity_error: float
    additivity_tolerance: float
    additive: bool


class NoSuchCandidate(LookupError):
    """A decision has no candidate of that index."""


def explain(
    made: Mapping[str, Any],
    explained: Mapping[str, Any],
    names: Sequence[str],
    kind: Kind | None = None,
    candidate: int | None = None,
) -> Explanation:
    """The explanation of a recorded decision.

    Args:
        made: the event DecisionMade as JSON.
        explained: the event DecisionExplained as JSON.
        names: the model's features, in order, as it was registered.
        kind: for the words of candidates that were not chosen; None: they are not known any more.
        candidate: tell of this one only.

    Raises:
        NoSuchCandidate: there is none of that index.
    """
    count = len(made["candidates"])
    if not names and kind is not None and made["schema_hash"] == kind.schema_hash:
        names = kind.feature_names  # a rule has no registration
    if candidate is not None and not 0 <= candidate < count:
        raise NoSuchCandidate(f"candidate {candidate}: there are 0 to {count - 1}")
    same = kind is not None and made["schema_hash"] == kind.schema_hash
    words = {one.name: one for one in kind.features} if kind is not None and same else {}
    told = {one["feature"]: one["sentence"] for one in explained["reasons"] if one.get("feature")}
    candidates = [
        _candidate(
            index,
            one,
            floats(explained["contributions"][index]),
            names,
            kind,
            words,
            told if index == made["chosen"] else {},
            chosen=index == made["chosen"],
        )
        for index, one in enumerate(made["candidates"])
        if candidate in (None, index)
    ]
    worst = max((one.additivity_error for one in candidates), default=0.0)
    return Explanation(
        decision_id=made["decision_id"],
        kind=made["kind"],
        subject_id=made["subject_id"],
        model_hash=made["model_hash"],
        role=made["role"],
        method=method_of(made),
        as_of=made["as_of"],
        weights=Weights.model_validate(made["weights"]),
        summary=explained["summary"],
        option=_ordered(made["option"], kind),
        probability=made["probability"],
        foretold=made["foretold"],
        risk=made["risk"],
        confidence=made["confidence"],
        currency=made["currency"],
        reasons=explained["reasons"],
        rejections=explained["rejections"],
        runner_up=explained["runner_up"],
        candidates=candidates,
        additivity_error=worst,
        additivity_tolerance=ADDITIVITY_TOLERANCE,
        additive=worst <= ADDITIVITY_TOLERANCE,
    )


def method_of(made: Mapping[str, Any]) -> str:
    """By what a decision was made: a model's hash, or ``rule-based`` where none was deployed."""
    return "rule-based" if made["role"] == RULE_BASED else str(made["model_hash"])


def explain_weighing(kind: Kind, weighing: Weighing) -> list[ExplainedCandidate]:
    """Hypothetical options as a model weighed them."""
    words = {one.name: one for one in kind.features}
    found = []
    for index, one in enumerate(weighing.options):
        option = _ordered(one.option.option, kind)
        pushes = [
            _push(name, one.option.features.get(name), push, words, option, {})
            for name, push in one.contributions.items()
        ]
        error = abs(one.base + math.fsum(one.contributions.values()) - one.margin)
        found.append(
            ExplainedCandidate(
                index=index,
                option=option,
                chosen=index == weighing.chosen,
                rejected=one.option.rejected,
                probability=one.probability,
                risk=one.risk,
                objective=one.objective,
                cost_minor=one.option.cost_minor,
                carbon_g=one.option.carbon_g,
                base=one.base,
                margin=one.margin,
                features=_strongest(pushes),
                additivity_error=error,
                additive=error <= ADDITIVITY_TOLERANCE,
            )
        )
    return found


def best(candidates: Sequence[Mapping[str, Any]]) -> int:
    """The index of the best of a decision's candidates, the rejected ones last."""
    objectives = [one["objective"] for one in candidates]
    return rank(objectives, [one["rejected"] for one in candidates])[0]


def waterfall_of(subject: str, candidate: ExplainedCandidate) -> str:
    """A candidate's pushes as SVG, from the base value to its margin."""
    role = "chosen" if candidate.chosen else "rejected" if candidate.rejected else "not chosen"
    return pictures.waterfall(
        f"{subject}: {name_of(candidate.option)} ({role}), risk {candidate.risk:.1%}",
        candidate.base,
        [(one.name, number(one.value), one.contribution) for one in candidate.features],
        candidate.margin,
    )


def in_words(found: Counterfactual | None, why_none: str, kind: Kind | None) -> str:
    """A counterfactual as a sentence.

    Args:
        found: it, or None where there is none.
        why_none: what to say then.
        kind: of the decision.
    """
    if found is None:
        return why_none
    changes = " and ".join(
        f"{_changed(change)} instead of {number(before)}"
        for change, before in zip(found.changes, found.before, strict=True)
    )
    return (
        f"If {changes}, {name_of(found.chosen, kind)} would have been chosen "
        f"instead of {name_of(found.instead_of, kind)}"
    )


def what_if_in_words(
    changes: Sequence[Change], weighing: Weighing, before: int | None, kind: Kind
) -> str:
    """What changes do to a choice, as a sentence."""
    told = " and ".join(map(_changed, changes))
    if weighing.chosen is None:
        return f"If {told}, still no candidate would keep all the rules"
    chosen = weighing.options[weighing.chosen]
    choice = f"{name_of(chosen.option.option, kind)} at a risk of {chosen.risk:.1%}"
    if weighing.chosen == before:
        return f"If {told}, the choice would be the same: {choice}"
    instead = weighing.options[before].option.option if before is not None else {}
    return f"If {told}, it would be {choice} instead of {name_of(instead, kind)}"


def name_of(option: Mapping[str, str], kind: Kind | None = None) -> str:
    """An option as people call it. ``kind``: its columns are told in this order; a database may
    give them in another one."""
    return ", ".join(value for value in _ordered(option, kind).values() if value) or "nothing"


def _ordered(option: Mapping[str, str], kind: Kind | None) -> dict[str, str]:
    columns = () if kind is None else kind.option
    known = {name: option[name] for name in columns if name in option}
    return known | {name: value for name, value in option.items() if name not in known}


def number(value: float | None) -> str:
    """A feature's value as people read it."""
    return (
        "not known" if value is None else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    )


def _changed(change: Change) -> str:
    name = change.feature.replace("_", " ")
    return f"{name}{_where(change.where)} were {number(change.value)}"


def _where(where: Mapping[str, str]) -> str:
    told = ", ".join(
        f"{name.removesuffix('_id').replace('_', ' ')} {value}" for name, value in where.items()
    )
    return f" of {told}" if told else ""


def _candidate(
    index: int,
    candidate: Mapping[str, Any],
    contributions: Sequence[float],
    names: Sequence[str],
    kind: Kind | None,
    words: Mapping[str, Feature],
    told: Mapping[str, str],
    *,
    chosen: bool,
) -> ExplainedCandidate:
    values = [None if math.isnan(value) else value for value in floats(candidate["features"])]
    *pushes, base = contributions
    # Where the model's registration is not to be read, its features have no names.
    known = names if len(names) == len(values) else [f"feature_{n}" for n in range(len(values))]
    error = abs(math.fsum(contributions) - candidate["margin"])
    return ExplainedCandidate(
        index=index,
        option=_ordered(candidate["option"], kind),
        chosen=chosen,
        rejected=candidate["rejected"],
        probability=candidate["probability"],
        risk=candidate["risk"],
        objective=candidate["objective"],
        cost_minor=candidate["cost_minor"],
        carbon_g=candidate["carbon_g"],
        base=base,
        margin=candidate["margin"],
        features=_strongest(
            [
                _push(name, value, push, words, candidate["option"], told)
                for name, value, push in zip(known, values, pushes, strict=True)
            ]
        ),
        additivity_error=error,
        additive=error <= ADDITIVITY_TOLERANCE,
    )


def _push(
    name: str,
    value: float | None,
    push: float,
    words: Mapping[str, Feature],
    option: Mapping[str, str],
    told: Mapping[str, str],
) -> Push:
    sentence = told.get(name) or _sentence(words.get(name), value, push, option)
    direction = "raises" if push > 0 else "lowers"
    label = f"{name.replace('_', ' ')} = {number(value)}: {direction} the risk"
    return Push(name, value, push, sentence or label)


def _sentence(
    feature: Feature | None, value: float | None, push: float, option: Mapping[str, str]
) -> str | None:
    """The feature's own words, where they name nothing but its value and the option's columns."""
    if feature is None:
        return None
    try:
        row = ChainMap(dict(option))
        return reason(feature, row, math.nan if value is None else value, push).sentence
    except (KeyError, ValueError, TypeError):
        return None


def _strongest(pushes: Sequence[Push]) -> list[Push]:
    return sorted(pushes, key=lambda one: -abs(one.contribution))
