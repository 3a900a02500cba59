"""What decides where no model is deployed: a documented rule for each kind of decision.

A rule is no model and does not look like one: its decisions have the role ``rule_based``, and its
hash is that of its declaration, not of an artifact that was trained. Like a model it sees a
candidate's features and nothing else, and says one margin in log odds. So whatever asks models
(replay, what-if, explanations) asks rules the same way.

Contributions are exact Shapley values of the rule's few inputs against its reference case
(Sundararajan and Najmi, The many Shapley values for model explanation, ICML 2020: baseline
Shapley): with k inputs all 2^k sums are made, so that base and contributions make up the margin.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from ml.kind import Kind
from ml.scoring import Exact, Matrix, Scores, Vector

#: A rule's inputs: n rows, one column for each, float64.
Inputs = np.ndarray[tuple[int, int], np.dtype[np.float64]]
#: No rule is surer than this of anything.
LEAST_RISK = 1e-4


@dataclass(frozen=True, eq=False)
class Rule:
    """How a kind of decision is decided without a model.

    Attributes:
        kind: the kind's name.
        says: the rule in a sentence, for people.
        source: where its formula comes from.
        reference: its inputs, which are features of the kind, and the value that each is compared
            with. An input that is not known has this value, and so pushes nothing.
        margin: log odds, for n rows of inputs in the order of ``reference``.
        made_of: the functions that ``margin`` calls.
        steps: for what-if: the values of inputs at which it is worth to look.
    """

    kind: str
    says: str
    source: str
    reference: Mapping[str, float]
    margin: Callable[[Inputs], Exact]
    made_of: Sequence[Callable[..., Any]] = ()
    steps: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def declaration(self, feature_names: Sequence[str]) -> bytes:
        """All that the rule is, as JSON: its words, its inputs and its code without comments, and
        the features that it is given."""
        functions = (self.margin, *self.made_of)
        told = {
            "rule": self.kind,
            "says": self.says,
            "source": self.source,
            "features": list(feature_names),
            "reference": dict(self.reference),
            "constants": {name: value for one in functions for name, value in _constants(one)},
            "code": [_code(one) for one in functions],
        }
        return (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode()


class RuleScorer:
    """Scores candidates by a rule, as ``ml.scoring.Scorer`` does by a model.

    ``declaration``: the rule with the features that it is given, as JSON. ``hash``: SHA-256 of it,
    which stands where a decision names its model.
    """

    def __init__(self, rule: Rule, feature_names: Sequence[str]) -> None:
        self.rule = rule
        self.declaration = rule.declaration(feature_names)
        self.hash = hashlib.sha256(self.declaration).hexdigest()
        self._places = [list(feature_names).index(name) for name in rule.reference]
        self._reference = np.array(list(rule.reference.values()), np.float64)

    def score(self, matrix: Matrix) -> Scores:
        """Numbers for each row; the same to the bit alone or in a batch."""
        inputs = self._inputs(matrix)
        count = len(self._places)
        # f of every choice of inputs, the others at their reference.
        told = {
            chosen: self.rule.margin(np.where(np.array(chosen), inputs, self._reference))
            for chosen in product((False, True), repeat=count)
        }
        contributions = np.zeros((len(matrix), matrix.shape[1] + 1), np.float32)
        for number, place in enumerate(self._places):
            contributions[:, place] = _shapley(told, number, count)
        contributions[:, -1] = told[(False,) * count]
        margins = told[(True,) * count].astype(np.float32)
        probabilities = _probabilities(margins)
        return Scores(margins, probabilities, probabilities.astype(np.float64), contributions)

    def risks(self, matrix: Matrix) -> tuple[Vector, Exact]:
        """Margins and risks alone."""
        margins = self.rule.margin(self._inputs(matrix)).astype(np.float32)
        return margins, _probabilities(margins).astype(np.float64)

    def thresholds(self) -> dict[str, list[float]]:
        """The values of inputs between which the rule is looked at."""
        return {name: list(values) for name, values in self.rule.steps.items()}

    def _inputs(self, matrix: Matrix) -> Inputs:
        values = matrix[:, self._places].astype(np.float64)
        known: Inputs = np.where(np.isfinite(values), values, self._reference)
        return known


def _shapley(told: Mapping[tuple[bool, ...], Exact], number: int, count: int) -> Exact:
    """Shapley value of one input: its mean effect over all orders in which inputs may come in."""
    total = np.zeros_like(next(iter(told.values())))
    for chosen, before in told.items():
        if chosen[number]:
            continue
        size = sum(chosen)
        share = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
        after = told[(*chosen[:number], True, *chosen[number + 1 :])]
        total = total + share * (after - before)
    return total


def _probabilities(margins: Vector) -> Vector:
    exact = 1 / (1 + np.exp(-margins.astype(np.float64)))
    probabilities: Vector = exact.astype(np.float32)
    return probabilities


def _code(function: Callable[..., Any]) -> str:
    return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(function))))


def _constants(function: Callable[..., Any]) -> list[tuple[str, float]]:
    """The numbers of the module that a function names."""
    named = inspect.unwrap(function).__code__.co_names
    found = ((name, function.__globals__.get(name)) for name in named)
    return [(name, value) for name, value in found if isinstance(value, int | float)]


def log_odds(probabilities: Exact) -> Exact:
    """ln(p / (1 - p)); p is kept within ``LEAST_RISK`` of 0 and 1."""
    safe = np.clip(probabilities, LEAST_RISK, 1 - LEAST_RISK)
    odds: Exact = np.log(safe) - np.log1p(-safe)
    return odds


# fulfilment

#: The late share where nothing was ever delivered, as the feature's own smoothing has it.
_NO_DELIVERY = 0.1


def lane_late_share(inputs: Inputs) -> Exact:
    """The order is late as often as the site's orders to that region were."""
    return log_odds(inputs[:, 0])


# replenishment


def runs_out(inputs: Inputs) -> Exact:
    """P(more picks are asked for in the time than there are pieces for).

    Picks come by a Poisson process of the usual rate, each of the usual size: with ``days_covered``
    worth of c = days_covered * picks_a_day picks, and l = days * picks_a_day expected, the risk is
    P(N > c). By the Wilson-Hilferty cube-root approximation of chi-squared (1931), which is
    continuous in c: P(N <= c) = P(chi2 with 2(c + 1) degrees of freedom > 2l).
    """
    covered, days, picks = (np.maximum(inputs[:, number], 0.0) for number in range(3))
    expected, least = days * picks, covered * picks + 1
    spread = 1 / (9 * least)
    z = (np.cbrt(expected / least) - (1 - spread)) / np.sqrt(spread)
    return log_odds(np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in z.tolist()]))


# anomaly

#: One case in eleven is taken to be unusual, as the kind's models are taught.
_UNUSUAL = 1 / 11
#: Half to double of what is usual is one standard deviation on the scale of logarithms; what is
#: unusual spreads three times as far.
_USUAL_SPREAD = math.log(2)
_WIDER = 3.0
#: The ratio that speaks neither for nor against: both densities are the same there.
_NEITHER = math.exp(_USUAL_SPREAD * math.sqrt(2 * math.log(_WIDER) / (1 - 1 / _WIDER**2)))


def is_unusual(inputs: Inputs) -> Exact:
    """Log odds that quantity and value are of the unusual, each against the others of its own."""
    quantity, value, orders = inputs[:, 0], inputs[:, 1], inputs[:, 2]
    prior = math.log(_UNUSUAL / (1 - _UNUSUAL))
    evidence = speaks(quantity, orders) + speaks(value, orders)
    odds: Exact = np.clip(prior + evidence, -9.2, 9.2)
    return odds


def speaks(ratio: Exact, cases: Exact) -> Exact:
    """Log likelihood ratio of a case that is so many times the mean, unusual against usual.

    The mean holds the case itself: of n cases it is taken out first, r(n - 1) / (n - r). Log-normal
    densities of spreads s and 3s about the usual: ln(1/3) + z^2 / 2 * (1 - 1/9), z = ln(r) / s.
    """
    others = cases - 1
    # No other case, or a ratio that is not known: that one has no case to take out.
    alone = (others < 0.5) | (cases - ratio <= 0) | (ratio == _NEITHER)
    left_out = ratio * others / np.where(alone, 1.0, cases - ratio)
    # From very many cases on, one more changes nothing.
    fair = np.where(alone, _NEITHER, np.where(np.isfinite(left_out), left_out, ratio))
    z = np.log(np.maximum(fair, 1e-6)) / _USUAL_SPREAD
    told: Exact = np.minimum(-math.log(_WIDER) + z * z / 2 * (1 - 1 / _WIDER**2), 8.0)
    return told


RULES: Mapping[str, Rule] = {
    rule.kind: rule
    for rule in (
        Rule(
            kind="fulfilment",
            says="the risk of being late is the share of late deliveries from that site to that "
            "region so far, drawn towards the overall share by five imagined deliveries; 10 % "
            "where nothing was delivered yet",
            source="the base line that a model of the kind has to beat (additive smoothing)",
            reference={"lane_late_share": _NO_DELIVERY},
            margin=lane_late_share,
            made_of=(log_odds,),
        ),
        Rule(
            kind="replenishment",
            says="the risk of running out is that of a Poisson demand at the rate of the last four "
            "weeks (since the first movement, where nothing went in them), picks of the usual "
            "size; 50 % where nothing ever went",
            source="Poisson demand in the lead time (Silver, Pyke and Thomas, Inventory and "
            "Production Management in Supply Chains, 2017, ch. 6); Wilson and Hilferty 1931",
            reference={"days_covered": 14.0, "days": 14.0, "picks_a_day": 1.0},
            margin=runs_out,
            made_of=(log_odds,),
            steps={
                "days": [number + 0.5 for number in range(1, 28)],
                "cover": [number / 20 for number in range(1, 81)],
            },
        ),
        Rule(
            kind="anomaly",
            says="quantity and value are compared with their usual mean without the case itself: "
            "half to double is one standard deviation of the usual, the unusual spreads three "
            "times as far, one case in eleven is unusual beforehand; where there is nothing to "
            "compare with, nothing is said",
            source="naive Bayes on log ratios (Hastie, Tibshirani and Friedman, The Elements of "
            "Statistical Learning, 6.6.3)",
            reference={
                "quantity_vs_usual": _NEITHER,
                "value_vs_usual": _NEITHER,
                "customer_orders": 1e15,
            },
            margin=is_unusual,
            made_of=(speaks,),
        ),
    )
}


def rule_for(kind: Kind) -> RuleScorer | None:
    """What decides requests of a kind where no model is deployed; None: nothing does."""
    return _rule_for(kind.name, kind.feature_names)


@cache
def _rule_for(name: str, features: tuple[str, ...]) -> RuleScorer | None:
    rule = RULES.get(name)
    if rule is None or not set(rule.reference) <= set(features):
        return None
    return RuleScorer(rule, features)
