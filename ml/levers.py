"""The values of a lever that may make a difference: one on each side of every threshold at which a
tree splits, on the lever itself or on a feature that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import polars as pl

from ml.history import derived
from ml.kind import Feature, Kind

Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]
#: A threshold in the lever's own unit, and how near to it a float32 may fall on the wrong side.
Edge = tuple[float, float]

#: Halvings that find where a feature that does not follow in a straight line meets a threshold.
_HALVINGS = 60


def edges(
    kind: Kind, lever: Feature, thresholds: Mapping[str, Sequence[float]], frame: pl.DataFrame
) -> list[list[Edge]]:
    """Where the lever's value makes a tree decide otherwise, for each row.

    Args:
        kind: for the features that follow from the lever.
        lever: the feature that is changed.
        thresholds: the values at which trees split, by feature.
        frame: features (n rows, float64), null where not known.
    """
    assert lever.lever is not None
    own = [(value, _slack(value)) for value in thresholds.get(lever.name, [])]
    found = [list(own) for _ in range(frame.height)]
    for feature in kind.features:
        splits = thresholds.get(feature.name, [])
        if feature.derived and splits and _follows(kind, feature, lever.name):
            crossed = _crossings(kind, lever, feature.name, splits, frame)
            for row, values in enumerate(crossed):
                slacks = [max(_slack(value), _slack(split)) for value, split in values]
                found[row] += zip((value for value, _ in values), slacks, strict=True)
    low, high = lever.lever.low, lever.lever.high
    return [[edge for edge in row if low < edge[0] < high] for row in found]


def values(row_edges: Sequence[Edge], present: float, low: float, high: float) -> list[float]:
    """A value in each gap between the edges but the present one's, as near to the present one as
    float32 allows; of gaps that are too narrow for that, the middle."""
    ordered = [(low, 0.0), *sorted(set(row_edges)), (high, 0.0)]
    found = []
    for (start, above), (end, below) in pairwise(ordered):
        if start <= present < end or start >= end:
            continue
        near = start + above if present < start else end - below
        middle = (start + end) / 2
        found.append(near if start < near < end or near in (low, high) else middle)
    return [float(np.float32(value)) for value in found if low <= np.float32(value) <= high]


def _slack(value: float) -> float:
    return 8 * float(np.spacing(np.float32(max(abs(value), 1e-3))))


def _follows(kind: Kind, feature: Feature, name: str) -> bool:
    """Whether a derived feature follows from another one, directly or not."""
    by_name = {one.name: one for one in kind.features}
    roots = feature.value.meta.root_names()
    return name in roots or any(
        _follows(kind, by_name[root], name)
        for root in roots
        if root in by_name and by_name[root].derived
    )


def _crossings(
    kind: Kind, lever: Feature, name: str, splits: Sequence[float], frame: pl.DataFrame
) -> list[list[tuple[float, float]]]:
    """For each row the values of the lever at which a derived feature meets a split, and the split.

    Between the lever's bounds it is taken to rise or fall only.
    """
    assert lever.lever is not None
    count = frame.height
    rows = np.repeat(np.arange(count), len(splits))
    targets = np.tile(np.array(splits, np.float64), count)
    cases = frame[rows.tolist()]

    def at(lever_values: Numbers) -> Numbers:
        changed = cases.with_columns(pl.Series(lever.name, lever_values))
        told: Numbers = derived(kind, changed)[name].cast(pl.Float64).to_numpy() - targets
        return told

    low = np.full(len(rows), lever.lever.low)
    high = np.full(len(rows), lever.lever.high)
    below, above = at(low), at(high)
    with np.errstate(invalid="ignore", divide="ignore"):
        crossing = np.sign(below) * np.sign(above) < 0
        guess = low - below * (high - low) / (above - below)
        straight = np.abs(at(np.where(crossing, guess, low))) <= 1e-9 * (1 + np.abs(targets))
        if (crossing & ~straight).any():
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                same = np.sign(at(middle)) == np.sign(below)
                low, high = np.where(same, middle, low), np.where(same, high, middle)
            guess = np.where(straight, guess, (low + high) / 2)
    found: list[list[tuple[float, float]]] = [[] for _ in range(count)]
    for row, value, target in zip(
        rows[crossing].tolist(), guess[crossing].tolist(), targets[crossing].tolist(), strict=True
    ):
        found[row].append((value, target))
    return found
