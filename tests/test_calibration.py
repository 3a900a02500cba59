"""Calibration: monotone, never certain, the same to the bit however it is asked, no worse."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.calibration import (
    MOST_KNOTS,
    TOLERANCE,
    Bin,
    Calibration,
    calibrate,
    calibration_error,
    reliability,
)

PROBABILITY = st.floats(0, 1) | st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.2, 0.5, 1.0])
CASES = st.lists(st.tuples(PROBABILITY, st.booleans()), min_size=1, max_size=60)
ASKED = st.lists(PROBABILITY | st.floats(-2, 3), min_size=1, max_size=40)

Cases = list[tuple[float, bool]]


def calibrated(cases: Cases) -> Calibration:
    return calibrate([risk for risk, _ in cases], [late for _, late in cases])


def brier(predicted: np.ndarray, observed: np.ndarray) -> float:
    return float(((predicted - observed) ** 2).mean())


@given(CASES, ASKED)
def test_a_higher_score_never_gets_a_lower_risk(cases: Cases, asked: list[float]) -> None:
    mapped = calibrated(cases)(np.sort(asked))
    assert (np.diff(mapped) >= 0).all()


@given(CASES, ASKED)
def test_no_risk_is_certain(cases: Cases, asked: list[float]) -> None:
    mapped, n = calibrated(cases)(asked), len(cases)
    assert mapped.dtype == np.float64
    assert mapped.min() >= 1 / (n + 2)
    assert mapped.max() <= (n + 1) / (n + 2)


@given(CASES, ASKED)
def test_alone_or_in_a_batch_the_bits_are_the_same(cases: Cases, asked: list[float]) -> None:
    calibration = calibrated(cases)
    batch = calibration(np.array(asked))
    alone = [calibration(np.array([one])).tobytes() for one in asked]
    assert b"".join(alone) == batch.tobytes()


@given(CASES)
def test_json_brings_it_back_to_the_bit(cases: Cases) -> None:
    calibration = calibrated(cases)
    assert Calibration.from_json(calibration.to_json()) == calibration


@given(CASES)
def test_no_monotone_map_within_the_bounds_fits_its_own_data_better(cases: Cases) -> None:
    raw, late = np.array([risk for risk, _ in cases]), np.array([late for _, late in cases])
    n = len(cases)
    bounded = np.clip(raw, 1 / (n + 2), (n + 1) / (n + 2))
    mapped = calibrated(cases)(raw)
    for other in (bounded, np.sqrt(bounded), np.full(n, bounded.mean())):
        kept = np.clip(other, 1 / (n + 2), (n + 1) / (n + 2))
        assert brier(mapped, late) <= brier(kept, late) + 1e-12


@given(CASES)
def test_the_mean_risk_is_the_share_of_ones_where_no_bound_is_touched(cases: Cases) -> None:
    calibration, n = calibrated(cases), len(cases)
    if calibration.shares[0] > 1 / (n + 2) and calibration.shares[-1] < (n + 1) / (n + 2):
        mapped = calibration([risk for risk, _ in cases])
        assert mapped.mean() == pytest.approx(np.mean([late for _, late in cases]))


def test_blocks_by_hand() -> None:
    """1, 0 and 0, 1 are pooled to a half each: one block, flat from 0.2 to 0.7."""
    calibration = calibrate([0.1, 0.2, 0.3, 0.6, 0.7, 0.9], [0, 1, 0, 0, 1, 1])
    assert calibration.scores == (0.1, 0.2, 0.6, 0.7, 0.9)
    assert calibration.shares == pytest.approx((1 / 8, 1 / 3, 1 / 3, 7 / 8, 7 / 8))
    assert calibration([0.0, 0.15, 0.4, 0.65, 1.0]) == pytest.approx(
        [1 / 8, (1 / 8 + 1 / 3) / 2, 1 / 3, (1 / 3 + 7 / 8) / 2, 7 / 8]
    )


def test_ties_are_one_knot_and_a_single_score_is_flat() -> None:
    calibration = calibrate([0.4] * 4, [1, 0, 0, 0])
    assert calibration == Calibration((0.4,), (0.25,))
    assert calibration([0.0, 0.4, 1.0]).tolist() == [0.25] * 3


def test_nan_stays_nan() -> None:
    calibration = calibrate([0.1, 0.4], [0, 1])
    assert np.isnan(calibration([np.nan, 0.2])).tolist() == [True, False]
    assert np.isnan(calibrate([0.4], [1])([np.nan])).all()


def test_an_overconfident_model_is_mended_on_later_data_too() -> None:
    random = np.random.default_rng(5)
    truth = random.beta(2, 3, 20_000)
    late = random.random(len(truth)) < truth
    told = (truth**3 / (truth**3 + (1 - truth) ** 3)).astype(np.float32)
    calibration = calibrate(told[:10_000], late[:10_000])
    later, outcome = told[10_000:], late[10_000:]
    assert brier(calibration(later), outcome) < brier(later, outcome) - 0.01
    assert calibration_error(later, outcome) > 0.1
    assert calibration_error(calibration(later), outcome) < 0.03


def grouped(shares: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cases of evenly spread scores, whose share of ones is as wanted."""
    scores = np.repeat(np.linspace(0.01, 0.99, len(shares)), size)
    ones = np.tile(np.arange(size), len(shares)) < np.repeat(np.round(shares * size), size)
    return scores, ones


def test_a_smooth_curve_is_thinned_within_tolerance() -> None:
    shares = np.linspace(0.02, 0.98, 500) ** 2
    calibration = calibrate(*grouped(shares, 1000))
    assert 2 < len(calibration.scores) <= MOST_KNOTS
    mapped = calibration(np.linspace(0.01, 0.99, 500))
    assert np.abs(mapped - np.round(shares * 1000) / 1000).max() <= TOLERANCE + 1e-12


def test_a_staircase_that_cannot_be_is_thinned_to_the_most_knots() -> None:
    steps = np.repeat(np.linspace(0.002, 0.998, 400), 2)
    calibration = calibrate(*grouped(steps, 500))
    assert len(calibration.scores) <= MOST_KNOTS
    assert np.abs(calibration(np.linspace(0.01, 0.99, 800)) - steps).max() <= 0.016


@pytest.mark.parametrize(
    ("probabilities", "outcomes", "told"),
    [
        ([], [], "no cases"),
        ([0.1, 0.2], [1], "not two lists"),
        ([[0.1]], [[1]], "not two lists"),
        ([0.1, np.nan], [0, 1], "not finite"),
        ([0.1, 0.2], [0, np.inf], "not finite"),
        ([0.1, 1.2], [0, 1], "outside 0 to 1"),
        ([0.1, 0.2], [0, 0.5], "neither 0 nor 1"),
    ],
)
def test_what_cannot_be_calibrated_is_told(
    probabilities: list[float], outcomes: list[float], told: str
) -> None:
    for asked in (calibrate, reliability, calibration_error):
        with pytest.raises(ValueError, match=told):
            asked(probabilities, outcomes)


@pytest.mark.parametrize(
    ("scores", "shares"),
    [
        ((), ()),
        ((0.1, 0.2), (0.5,)),
        ((0.2, 0.2), (0.4, 0.5)),
        ((0.1, 0.2), (0.5, 0.4)),
        ((0.1, float("nan")), (0.4, 0.5)),
        ((0.1, 0.2), (0.0, 0.5)),
        ((0.1, 0.2), (0.5, 1.0)),
    ],
)
def test_bad_knots_are_refused(scores: tuple[float, ...], shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="knot"):
        Calibration(scores, shares)
    with pytest.raises(ValueError, match="knot"):
        Calibration.from_json(json.dumps({"scores": scores, "shares": shares}))


@pytest.mark.parametrize("text", ["", "[]", "{}", "1", '{"scores": 1, "shares": 2}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json says it in its own words
        Calibration.from_json(text)


def test_reliability_and_error_by_hand() -> None:
    risks, late = [0.0, 0.1, 0.5, 0.7, 1.0], [0, 1, 1, 0, 1]
    assert reliability(risks, late, bins=2) == [
        Bin(low=0.0, high=0.5, n=2, predicted=0.05, observed=0.5),
        Bin(low=0.5, high=1.0, n=3, predicted=2.2 / 3, observed=2 / 3),
    ]
    error = (2 * 0.45 + 3 * (2.2 / 3 - 2 / 3)) / 5
    assert calibration_error(risks, late, bins=2) == pytest.approx(error)
    with pytest.raises(ValueError, match="bins"):
        reliability(risks, late, bins=0)


@settings(max_examples=50)
@given(CASES, st.integers(1, 30))
def test_bins_hold_each_case_once(cases: Cases, bins: int) -> None:
    risks, late = [risk for risk, _ in cases], [late for _, late in cases]
    found = reliability(risks, late, bins)
    assert sum(each.n for each in found) == len(cases)
    assert sum(each.n * each.observed for each in found) == pytest.approx(sum(late))
    for each in found:
        assert each.low - 1e-12 <= each.predicted <= each.high + 1e-12
    assert 0 <= calibration_error(risks, late, bins) <= 1
