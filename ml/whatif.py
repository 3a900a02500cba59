"""What if: a decision's candidates weighed again with other feature values, and the smallest change
that turns it. Nothing is read from the log: the decision's own numbers and its model are enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from domain.decisions import Weights
from ml.history import as_matrix, derived
from ml.kind import Feature, Kind
from ml.levers import edges, values
from ml.scoring import Judge, Matrix
from ml.weighing import floats, objective, rank

#: Values that are tried of one lever, nearest to the present one, and pairs of changes.
MOST_VALUES = 2000
MOST_PAIRED = 1000
MOST_PAIRS = 10_000
#: Rows that are scored at once.
ROWS_AT_ONCE = 8192

#: One row for each case, one column for each option, in minor units.
Objectives = np.ndarray[tuple[int, int], np.dtype[np.float64]]


class WrongCase(ValueError):
    """A hypothetical case that cannot be weighed; the message names field, value and rule."""


@dataclass(frozen=True, slots=True)
class Option:
    """A candidate as it is put to a model. ``features``: by name, None where not known.

    ``rejected``: codes of the hard constraints that it breaks.
    """

    option: Mapping[str, str]
    features: Mapping[str, float | None]
    cost_minor: int = 0
    carbon_g: int = 0
    rejected: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Weighed:
    """An option and what a model says of it. ``contributions``: SHAP values in log odds by
    feature; ``base``: what they start from."""

    option: Option
    margin: float
    probability: float
    risk: float
    objective: float
    base: float
    contributions: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Weighing:
    """Options weighed. ``chosen``: the best one that breaks no constraint; None: there is none.

    ``additivity_error``: the largest distance of a SHAP sum from its margin.
    """

    options: Sequence[Weighed]
    chosen: int | None
    additivity_error: float


@dataclass(frozen=True, slots=True)
class Change:
    """One feature set to a value, for the options that agree with ``where`` (none: for all)."""

    feature: str
    value: float
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """The smallest change of what people can change that turns a decision.

    ``before``: the value that each change replaces. ``distance``: the changes' sum, each as a share
    of its feature's bounds.
    """

    changes: Sequence[Change]
    before: Sequence[float | None]
    distance: float
    chosen: Mapping[str, str]
    instead_of: Mapping[str, str]


def of_decision(names: Sequence[str], made: Mapping[str, Any]) -> list[Option]:
    """The options of a decision.

    Args:
        names: the model's features, in order.
        made: the decision's event as JSON.
    """
    found = []
    for candidate in made["candidates"]:
        values = [None if math.isnan(value) else value for value in floats(candidate["features"])]
        found.append(
            Option(
                option=candidate["option"],
                features=dict(zip(names, values, strict=True)),
                cost_minor=candidate["cost_minor"],
                carbon_g=candidate["carbon_g"],
                rejected=tuple(candidate["rejected"]),
            )
        )
    return found


def weigh(kind: Kind, scorer: Judge, weights: Weights, options: Sequence[Option]) -> Weighing:
    """Score options, explain each, and choose.

    Raises:
        WrongCase: a feature that the kind does not have, a value that is no number, no option.
    """
    matrix = _matrix(kind, options)
    if np.isinf(matrix).any():
        row, column = np.argwhere(np.isinf(matrix))[0]
        name = kind.feature_names[column]
        raise WrongCase(f"features: {name!r} of option {row} would be infinite")
    scores = scorer.score(matrix)
    risks = (scores.risks * _exposure(kind, options)).tolist()
    objectives = _objectives(weights, options, risks)
    weighed = [
        Weighed(
            option=option,
            margin=float(scores.margins[number]),
            probability=float(scores.probabilities[number]),
            risk=risks[number],
            objective=objectives[number],
            base=float(scores.contributions[number, -1]),
            contributions={
                name: float(scores.contributions[number, index])
                for index, name in enumerate(kind.feature_names)
            },
        )
        for number, option in enumerate(options)
    ]
    return Weighing(weighed, _best(objectives, options), scores.additivity_error)


def changed(kind: Kind, options: Sequence[Option], changes: Sequence[Change]) -> list[Option]:
    """The options with some features set to other values; those that follow from them too.

    Raises:
        WrongCase: a feature that the kind does not have, or that follows from others; a value that
            is no number; a change that concerns no option.
    """
    known = {feature.name: feature for feature in kind.features}
    values = [dict(option.features) for option in options]
    for change in changes:
        feature = known.get(change.feature)
        if feature is None:
            raise WrongCase(f"feature: {change.feature!r} is none of {', '.join(known)}")
        if feature.derived:
            raise WrongCase(f"feature: {change.feature!r} follows from others: change those")
        if not math.isfinite(change.value):
            raise WrongCase(f"value: {change.value!r} of {change.feature} is no number")
        mine = [number for number, one in enumerate(options) if _agrees(one, change.where)]
        if not mine:
            raise WrongCase(f"where: no option has {dict(change.where)}")
        for number in mine:
            values[number][change.feature] = change.value
    touched = [n for n, one in enumerate(options) if values[n] != one.features]
    # What nothing touches stays as the decision has it, to the bit.
    for number, told in zip(
        touched, _following(kind, [values[number] for number in touched]), strict=True
    ):
        values[number] = told
    return [replace(one, features=told) for one, told in zip(options, values, strict=True)]


def counterfactual(
    kind: Kind, scorer: Judge, weights: Weights, options: Sequence[Option]
) -> Counterfactual | None:
    """The smallest change of the kind's levers, within their bounds, with which another option is
    chosen; None: no change of one or two of them does it.

    Trees are constant between two of their thresholds, so one value in each gap stands for all; the
    thresholds of features that follow from a lever count too (``ml.levers``).
    All single changes are tried; of pairs of such values the nearest ones, where they are smaller.
    So no smaller single change turns it; a smaller pair there may be.
    """
    allowed = [one for one in options if not one.rejected]
    if not allowed:
        return None
    search = _Search(kind, scorer, weights, allowed)
    thresholds = scorer.thresholds()
    single = [
        one
        for feature in kind.features
        if feature.lever is not None
        for one in _changes(kind, feature, thresholds, allowed)
    ]
    best, told = search.nearest([(one,) for one in single])
    every = [one for (one,), _ in told]
    # Most changes alone do nothing, and still may in a pair: near ones are paired with all, others
    # with those that do something new.
    pairs = [*_pairs(every, best), *_pairs(_effective(told, search), best)]
    smaller, _ = search.nearest(pairs)
    return smaller or best


# the search


@dataclass(frozen=True, slots=True)
class _Tried:
    change: Change
    before: float | None
    distance: float


#: What each set of changes makes of the objectives, as bytes: the same bytes, the same effect.
_Told = list[tuple[Sequence[_Tried], bytes]]


def _group(one: _Tried) -> tuple[str, tuple[tuple[str, str], ...]]:
    return one.change.feature, tuple(one.change.where.items())


def _effective(told: _Told, search: _Search) -> list[_Tried]:
    """Of single changes, for each effect that they have, the nearest of each lever and group."""
    nearest: dict[tuple[object, bytes], _Tried] = {}
    for (one,), effect in told:
        if effect != search.before_told:
            nearest.setdefault((_group(one), effect), one)
    return list(nearest.values())


def _pairs(single: Sequence[_Tried], best: Counterfactual | None) -> list[tuple[_Tried, _Tried]]:
    """Pairs of changes of different levers or groups that are smaller together than the best single
    one; the nearest."""
    single = single[:MOST_PAIRED]
    far = np.array([one.distance for one in single])
    numbers: dict[object, int] = {}
    number = np.array([numbers.setdefault(_group(one), len(numbers)) for one in single])
    together = far[:, None] + far[None, :]
    mine = np.triu(number[:, None] != number[None, :])
    if best is not None:
        mine &= together < best.distance
    first, second = np.nonzero(mine)
    order = np.argsort(together[first, second], kind="stable")[:MOST_PAIRS]
    return [(single[a], single[b]) for a, b in zip(first[order], second[order], strict=True)]


class _Search:
    """One decision's allowed options, and what is chosen of them under many sets of changes."""

    def __init__(
        self, kind: Kind, scorer: Judge, weights: Weights, options: Sequence[Option]
    ) -> None:
        self._kind, self._scorer, self._weights, self._options = kind, scorer, weights, options
        self._values = _frame(kind, [one.features for one in options]).to_numpy().astype(np.float64)
        self._exposure = _exposure(kind, options)
        self._none: list[tuple[str, ...]] = [()] * len(options)
        self._costs = np.array([one.cost_minor for one in options], np.float64)
        self._carbon = np.array([one.carbon_g for one in options], np.float64)
        self._columns = {name: index for index, name in enumerate(kind.feature_names)}
        objectives = self._objectives([()])
        self.before_told = objectives[0].tobytes()
        self.before = rank(objectives[0].tolist(), self._none)[0]

    def nearest(self, tried: Sequence[Sequence[_Tried]]) -> tuple[Counterfactual | None, _Told]:
        """The nearest of some sets of changes that turns the choice, and what those up to it do.
        They are scored nearest first, in batches, so that a near one is found without trying all.
        """
        options, before = self._options, self.before
        told: _Told = []
        ordered = sorted(tried, key=lambda some: sum(one.distance for one in some))
        size = max(1, ROWS_AT_ONCE // len(options))
        for start in range(0, len(ordered), size):
            some = ordered[start : start + size]
            for each, objectives in zip(some, self._objectives(some), strict=True):
                told.append((each, objectives.tobytes()))
                chosen = rank(objectives.tolist(), self._none)[0]
                changes = [one.change for one in each]
                if chosen == before or not self._turns(changes):
                    continue
                found = Counterfactual(
                    changes=changes,
                    before=[one.before for one in each],
                    distance=sum(one.distance for one in each),
                    chosen=options[chosen].option,
                    instead_of=options[before].option,
                )
                return found, told
        return None, told

    def _turns(self, changes: Sequence[Change]) -> bool:
        """What is told is weighed once more, by the way that everybody takes."""
        again = changed(self._kind, self._options, changes)
        return weigh(self._kind, self._scorer, self._weights, again).chosen != self.before

    def _objectives(self, cases: Sequence[Sequence[_Tried]]) -> Objectives:
        """The options' objectives under each set of changes."""
        count = len(self._options)
        rows = np.tile(self._values, (len(cases), 1, 1))
        for number, case in enumerate(cases):
            for one in case:
                mine = self._concerned(tuple(one.change.where.items()))
                rows[number, mine, self._columns[one.change.feature]] = one.change.value
        touched = (~np.isclose(rows, self._values, rtol=0, atol=0, equal_nan=True)).any(axis=2)
        flat = pl.DataFrame(
            rows.reshape(len(cases) * count, -1),
            schema=list(self._kind.feature_names),
            orient="row",
        )
        again = as_matrix(derived(self._kind, flat.fill_nan(None)))
        # What nothing touches stays as the decision has it, to the bit.
        kept = np.tile(self._values.astype(np.float32), (len(cases), 1))
        matrix = np.where(touched.reshape(-1, 1), again, kept)
        _, risks = self._scorer.risks(matrix)
        weights = self._weights
        told: Objectives = (
            weights.cost * self._costs
            + weights.risk_minor * (risks.reshape(len(cases), count) * self._exposure)
            + weights.carbon_minor_per_kg * self._carbon / 1000
        )
        return told

    def _concerned(self, where: tuple[tuple[str, str], ...]) -> list[int]:
        return [n for n, one in enumerate(self._options) if _agrees(one, dict(where))]


def _changes(
    kind: Kind,
    feature: Feature,
    thresholds: Mapping[str, Sequence[float]],
    options: Sequence[Option],
) -> Iterator[_Tried]:
    """A value in each gap between the thresholds that a lever meets, the nearest ones, for each
    group of options that share it."""
    lever = feature.lever
    assert lever is not None
    low, high = lever.low, lever.high
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for number, one in enumerate(options):
        key = tuple((name, one.option.get(name, "")) for name in lever.shared)
        groups.setdefault(key, []).append(number)
    met = edges(kind, feature, thresholds, _frame(kind, [one.features for one in options]))
    for group, mine in sorted(groups.items()):
        present = options[mine[0]].features[feature.name]
        start = (low + high) / 2 if present is None else present
        tried = values([edge for number in mine for edge in met[number]], start, low, high)
        if present is None:
            tried.append(start)
        for value in sorted(tried, key=lambda one: abs(one - start))[:MOST_VALUES]:
            change = Change(feature.name, value, dict(group))
            yield _Tried(change, present, abs(value - start) / (high - low))


def _objectives(weights: Weights, options: Sequence[Option], risks: Sequence[float]) -> list[float]:
    return [
        objective(weights, option.cost_minor, risk, option.carbon_g)
        for option, risk in zip(options, risks, strict=True)
    ]


def _best(objectives: Sequence[float], options: Sequence[Option]) -> int | None:
    best = rank(objectives, [option.rejected for option in options])[0]
    return None if options[best].rejected else best


def _agrees(option: Option, where: Mapping[str, str]) -> bool:
    return all(option.option.get(name, "") == value for name, value in where.items())


def _matrix(kind: Kind, options: Sequence[Option]) -> Matrix:
    if not options:
        raise WrongCase("options: there must be at least one")
    for option in options:
        unknown = sorted(set(option.features) - set(kind.feature_names))
        if unknown:
            raise WrongCase(f"features: {unknown[0]!r} is none of {', '.join(kind.feature_names)}")
    return as_matrix(_frame(kind, [option.features for option in options]))


def _frame(kind: Kind, values: Sequence[Mapping[str, float | None]]) -> pl.DataFrame:
    columns = {name: [one.get(name) for one in values] for name in kind.feature_names}
    return pl.DataFrame(columns, schema=dict.fromkeys(kind.feature_names, pl.Float64))


def _following(
    kind: Kind, values: Sequence[Mapping[str, float | None]]
) -> list[dict[str, float | None]]:
    """The values with the derived ones computed again, as float32 like all that a model sees."""
    frame = derived(kind, _frame(kind, values))
    return frame.cast(pl.Float32).cast(pl.Float64).to_dicts()


def _exposure(kind: Kind, options: Sequence[Option]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Which share of the risk each option bears; it hangs on the option alone."""
    columns = {name: [one.option.get(name) for one in options] for name in kind.option}
    frame = pl.DataFrame(columns, schema=dict.fromkeys(kind.option, pl.String))
    shares = frame.with_columns(kind.exposure.cast(pl.Float64).alias("exposure"))
    return shares["exposure"].to_numpy()
