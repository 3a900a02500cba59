"""Calibration: a model's probabilities mapped to the shares that were observed, and how far off
they are."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]

#: Knots at the most: a calibration travels inside an event.
MOST_KNOTS = 200
#: How far thinning may move a mapped probability.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Calibration:
    """A monotone map of probabilities: linear between its knots, flat outside them.

    ``scores`` rise strictly; ``shares`` never fall and lie in (0, 1).

    Raises:
        ValueError: the knots are not such.
    """

    scores: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        scores, shares = self.scores, self.shares
        if not scores or len(scores) != len(shares):
            raise ValueError(f"{len(scores)} scores and {len(shares)} shares are no knots")
        if not all(map(math.isfinite, scores)) or not all(0 < share < 1 for share in shares):
            raise ValueError("a knot is not finite, or its share is not between 0 and 1")
        if any(a >= b for a, b in pairwise(scores)):
            raise ValueError("the scores of the knots do not rise")
        if any(a > b for a, b in pairwise(shares)):
            raise ValueError("the shares of the knots fall")

    def __call__(self, probabilities: ArrayLike) -> Numbers:
        """Shares for probabilities [n]; NaN stays NaN.

        The same to the bit alone, in a batch and on any machine: np.interp is free to fuse its
        multiplication and addition, separate ufuncs are not. Never falls, not even by a bit.
        """
        scores, shares = np.array(self.scores), np.array(self.shares)
        wanted = np.clip(np.asarray(probabilities, dtype=np.float64), scores[0], scores[-1])
        left = np.searchsorted(scores, wanted, side="right") - 1
        right = np.minimum(left + 1, len(scores) - 1)
        width = scores[right] - scores[left]
        part = (wanted - scores[left]) / np.where(width > 0, width, 1.0)
        rise = (shares[right] - shares[left]) * part
        mapped: Numbers = np.minimum(shares[left] + rise, shares[right])
        return mapped

    def to_json(self) -> str:
        """Text that ``from_json`` turns back into an equal calibration, to the bit."""
        return json.dumps({"scores": self.scores, "shares": self.shares}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """
        Raises:
            ValueError: the text is no calibration.
        """
        found = json.loads(text)
        try:
            return cls(tuple(map(float, found["scores"])), tuple(map(float, found["shares"])))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the text is no calibration: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Bin:
    """The n cases whose probability is in [low, high): the mean of it, and the share of ones."""

    low: float
    high: float
    n: int
    predicted: float
    observed: float


def calibrate(probabilities: ArrayLike, outcomes: ArrayLike) -> Calibration:
    """Isotonic regression of outcomes [n] (0 or 1) on probabilities [n].

    Zadrozny & Elkan 2002, by pool adjacent violators; ties are pooled first. The knots are the ends
    of the blocks, as in scikit-learn. Shares are kept within 1 / (n + 2) of 0 and 1, Laplace's rule
    of succession for n equal outcomes, so that no risk is certain.

    At most ``MOST_KNOTS`` knots: more are thinned so that no mapped value moves by more than
    ``TOLERANCE``. A staircase of hundreds of even steps can't be drawn so; then the tolerance is
    doubled until it can, at the worst to 0.016.

    Raises:
        ValueError: empty, of unequal length, no probabilities, or outcomes other than 0 and 1.
    """
    # 0.28 s by itself, and serving needs the map only.
    from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]

    predicted, observed = _checked(probabilities, outcomes)
    scores, group, sizes = np.unique(predicted, return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=observed) / sizes
    fitted: Numbers = isotonic_regression(means, weights=sizes.astype(np.float64)).x
    n = len(predicted)
    shares = np.clip(fitted, 1 / (n + 2), (n + 1) / (n + 2))
    ends = np.ones(len(shares), dtype=bool)
    ends[1:-1] = (shares[1:-1] != shares[:-2]) | (shares[1:-1] != shares[2:])
    x, y = scores[ends].tolist(), shares[ends].tolist()
    kept, tolerance = list(range(len(x))), TOLERANCE
    while len(kept) > MOST_KNOTS:
        kept = _thinned(x, y, tolerance)
        tolerance *= 2
    return Calibration(tuple(x[i] for i in kept), tuple(y[i] for i in kept))


def reliability(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 10) -> list[Bin]:
    """Predicted beside observed in bins of equal width; the last one holds 1 too, empty ones are
    left out.

    Raises:
        ValueError: see ``calibrate``; or fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins hold nothing")
    predicted, observed = _checked(probabilities, outcomes)
    edges = np.arange(bins + 1) / bins
    places = np.minimum(np.searchsorted(edges, predicted, side="right") - 1, bins - 1)
    sizes = np.bincount(places, minlength=bins)
    predicted_sums = np.bincount(places, weights=predicted, minlength=bins)
    observed_sums = np.bincount(places, weights=observed, minlength=bins)
    return [
        Bin(
            low=float(edges[place]),
            high=float(edges[place + 1]),
            n=int(sizes[place]),
            predicted=float(predicted_sums[place] / sizes[place]),
            observed=float(observed_sums[place] / sizes[place]),
        )
        for place in np.flatnonzero(sizes)
    ]


def calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error in [0, 1]: |predicted - observed| of each bin, weighted by cases.

    Naeini, Cooper & Hauskrecht 2015, over the bins of ``reliability``, which tells the errors too.
    """
    found = reliability(probabilities, outcomes, bins)
    off = sum(each.n * abs(each.predicted - each.observed) for each in found)
    return off / sum(each.n for each in found)


def _checked(probabilities: ArrayLike, outcomes: ArrayLike) -> tuple[Numbers, Numbers]:
    predicted: Numbers = np.asarray(probabilities, dtype=np.float64)
    observed: Numbers = np.asarray(outcomes, dtype=np.float64)
    if predicted.ndim != 1 or predicted.shape != observed.shape:
        raise ValueError(
            f"probabilities {predicted.shape} and outcomes {observed.shape} are not two lists "
            "of one length"
        )
    if not len(predicted):
        raise ValueError("no cases to calibrate with")
    if not (np.isfinite(predicted).all() and np.isfinite(observed).all()):
        raise ValueError("a probability or an outcome is not finite")
    if predicted.min() < 0 or predicted.max() > 1:
        raise ValueError("a probability is outside 0 to 1")
    if not ((observed == 0) | (observed == 1)).all():
        raise ValueError("an outcome is neither 0 nor 1")
    return predicted, observed


def _thinned(x: list[float], y: list[float], tolerance: float) -> list[int]:
    """Which knots stay: from each one, the furthest whose line passes all between in tolerance.

    The cone of slopes that do narrows with each knot passed (Williams 1978).
    """
    last, kept = len(x) - 1, [0]
    while kept[-1] < last:
        start = kept[-1]
        reach, least, most = start + 1, -math.inf, math.inf
        for here in range(start + 1, last + 1):
            run, rise = x[here] - x[start], y[here] - y[start]
            if least <= rise / run <= most:
                reach = here
            least = max(least, (rise - tolerance) / run)
            most = min(most, (rise + tolerance) / run)
            if least > most:
                break
        kept.append(reach)
    return kept
