"""Drift: how far today's numbers are from those learned from, and how good the model should be on
cases whose outcome nobody knows yet."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]
Indices = np.ndarray[tuple[int], np.dtype[np.intp]]


def psi(reference: ArrayLike, current: ArrayLike, bins: int = 10) -> float:
    """Population stability index: sum of (p - q) ln(p / q) over bins, 0 or more.

    Siddiqi 2006, over the reference's quantile bins; the outer ones are open. By custom 0.1 is
    worth a look and 0.25 is a shift; chance alone brings about (bins - 1) (1 / n + 1 / m).

    A reference of at most ``bins`` distinct values gets a bin for each and one for all others; a
    value that is as many as a quantile bin should hold gets its own too, and so does NaN. Each bin
    that holds anything counts one case more on both sides (Laplace), so the index is finite. 0.0
    where one side has no values at all.

    Raises:
        ValueError: fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins hold nothing")
    before, now = _numbers(reference), _numbers(current)
    if not len(before) or not len(now):
        return 0.0
    values, sizes = np.unique(before[~np.isnan(before)], return_counts=True)
    if len(values) <= bins:
        old, new = (_counts(_places(values, side), len(values) + 2) for side in (before, now))
    else:
        cuts = _cuts(values, sizes, bins)
        old, new = (_counts(_between(cuts, side), len(cuts) + 2) for side in (before, now))
    held = (old + new) > 0
    p = (old[held] + 1) / (old.sum() + held.sum())
    q = (new[held] + 1) / (new.sum() + held.sum())
    return float(((p - q) * np.log(p / q)).sum())


def ks(reference: ArrayLike, current: ArrayLike) -> float:
    """Two-sample Kolmogorov-Smirnov statistic in [0, 1]: the widest gap between the shares of
    values up to x (Hodges 1958). NaNs are left out; 0.0 where nothing else is on a side."""
    before, now = (np.sort(side[~np.isnan(side)]) for side in map(_numbers, (reference, current)))
    if not len(before) or not len(now):
        return 0.0
    every = np.concatenate([before, now])
    up_to_before = np.searchsorted(before, every, side="right") / len(before)
    up_to_now = np.searchsorted(now, every, side="right") / len(now)
    return float(np.abs(up_to_before - up_to_now).max())


def estimated_accuracy(risks: ArrayLike) -> float:
    """The share of right calls to expect at a threshold of one half: mean of max(r, 1 - r).

    Confidence-based performance estimation (CBPE, NannyML): as true as ``risks`` [n] are
    calibrated, and blind to a change of what the features mean.

    Raises:
        ValueError: no risks, or one outside 0 to 1.
    """
    found = _risks(risks)
    return float(np.maximum(found, 1 - found).mean())


def estimated_brier(risks: ArrayLike) -> float:
    """The Brier score to expect: mean of r (1 - r), the variance of an outcome of that risk.

    On the terms and with the errors of ``estimated_accuracy``.
    """
    found = _risks(risks)
    return float((found * (1 - found)).mean())


def _numbers(values: ArrayLike) -> Numbers:
    found: Numbers = np.asarray(values, dtype=np.float64).ravel()
    return found


def _risks(risks: ArrayLike) -> Numbers:
    found = _numbers(risks)
    if not len(found):
        raise ValueError("no risks to estimate from")
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError("a risk is not between 0 and 1")
    return found


def _cuts(values: Numbers, sizes: Indices, bins: int) -> Numbers:
    """The ends of the bins, the last one's left out: quantiles of the reference, and both sides of
    a value that is as many as a bin should hold. ``values`` rise, ``sizes`` counts each."""
    up_to, last = np.cumsum(sizes), len(values) - 1
    quantiles = np.searchsorted(up_to, np.arange(1, bins) * up_to[-1] / bins, side="left")
    heavy = np.flatnonzero(sizes * bins >= up_to[-1])
    ends = np.unique(np.concatenate([quantiles[quantiles < last], heavy, heavy - 1]))
    below_all = np.nextafter(values[0], -np.inf)
    cuts: Numbers = np.where(ends < 0, below_all, values[ends])
    return cuts


def _between(cuts: Numbers, side: Numbers) -> Indices:
    """Bin of each value: up to the first cut 0, and so on; NaN is the last one."""
    return np.where(np.isnan(side), len(cuts) + 1, np.searchsorted(cuts, side, side="left"))


def _places(values: Numbers, side: Numbers) -> Indices:
    """Bin of each value: its own; after them one for any other, and NaN's."""
    if not len(values):
        return np.where(np.isnan(side), 1, 0)
    near = np.minimum(np.searchsorted(values, side, side="left"), len(values) - 1)
    own = np.where(values[near] == side, near, len(values))
    return np.where(np.isnan(side), len(values) + 1, own)


def _counts(places: Indices, bins: int) -> Indices:
    return np.bincount(places, minlength=bins)
