"""Drift: numbers worked out by hand, and what must hold for any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp  # type: ignore[import-untyped]

from ml.drift import estimated_accuracy, estimated_brier, ks, psi

NAN = math.nan
VALUES = st.lists(st.floats(), max_size=80) | st.lists(
    st.sampled_from([0.0, 1.0, 2.0, NAN]), max_size=80
)
KNOWN = st.lists(st.floats(allow_nan=False), min_size=1, max_size=80)


def index(*shares: tuple[float, float]) -> float:
    return sum((p - q) * math.log(p / q) for p, q in shares)


def test_psi_by_hand() -> None:
    """Ten values in two bins, split at the median 5; each bin counts one more."""
    reference = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    current = [6, 7, 8, 9, 10, 11, 12, 13, 1, 2]
    assert psi(reference, current, bins=2) == pytest.approx(
        index((6 / 12, 3 / 12), (6 / 12, 9 / 12))
    )


def test_psi_of_few_values_has_a_bin_for_each_and_one_for_others() -> None:
    assert psi([0, 0, 0, 1], [0, 1, 1, 7]) == pytest.approx(
        index((4 / 7, 2 / 7), (2 / 7, 3 / 7), (1 / 7, 2 / 7))
    )
    assert psi([5] * 100, [7] * 100) > 4
    assert psi([5] * 100, [5] * 7) == 0


def test_psi_counts_missing_values_as_a_bin() -> None:
    assert psi([1, 1, NAN], [1, NAN, NAN]) == pytest.approx(index((3 / 5, 2 / 5), (2 / 5, 3 / 5)))
    assert psi([NAN] * 50, [1.0] * 50) == pytest.approx(psi([1.0] * 50, [NAN] * 50))


def test_a_heavy_value_does_not_hide_a_shift_among_the_others() -> None:
    """Nearly all zero: without a bin for zero itself, values above and at it would be one."""
    reference = np.concatenate([np.zeros(950), np.linspace(1, 2, 50)])
    for moved in (np.linspace(1, 2, 500), -np.linspace(1, 2, 500)):
        assert psi(reference, np.concatenate([np.zeros(500), moved])) > 0.25
    assert psi(-reference, np.concatenate([np.zeros(500), -np.linspace(1, 2, 500)])) > 0.25


def test_a_shift_up_is_as_much_as_a_shift_down() -> None:
    """As nearly as bins that include their upper end can tell."""
    reference = np.arange(-1000, 1000) + 0.5
    up, down = reference + 300.25, reference - 300.25
    assert psi(reference, up) == pytest.approx(psi(reference, down), rel=0.02)
    assert psi(reference, up) > 0.25
    assert ks(reference, up) == ks(reference, down) == pytest.approx(0.1505, abs=1e-4)


def test_chance_alone_stays_far_below_what_is_worth_a_look() -> None:
    random = np.random.default_rng(7)
    assert psi(random.normal(size=4000), random.normal(size=4000)) < 0.02


@given(VALUES, VALUES, st.integers(1, 15))
def test_psi_is_finite_and_never_negative(
    reference: list[float], current: list[float], bins: int
) -> None:
    found = psi(reference, current, bins)
    assert math.isfinite(found)
    assert found >= 0


@given(VALUES, st.integers(1, 15))
def test_the_same_values_in_any_order_did_not_drift(values: list[float], bins: int) -> None:
    shuffled = list(reversed(values))
    assert psi(values, shuffled, bins) == 0
    assert ks(values, shuffled) == 0


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@given(KNOWN, KNOWN)
def test_ks_is_what_scipy_says(reference: list[float], current: list[float]) -> None:
    expected = ks_2samp(reference, current, method="asymp").statistic
    assert ks(reference, current) == pytest.approx(expected, abs=1e-12)
    assert ks(reference, current) == ks(current, reference)


def test_ks_by_hand() -> None:
    assert ks([1, 2, 3, 4], [3, 4, 5, 6]) == 0.5
    assert ks([1, NAN, 2], [NAN, 3]) == 1
    assert ks([], [1]) == ks([1], [NAN]) == ks([], []) == 0
    assert psi([], [1]) == psi([1], []) == psi([], []) == 0


def test_bins_are_needed() -> None:
    with pytest.raises(ValueError, match="bins"):
        psi([1], [1], bins=0)


def test_estimates_by_hand() -> None:
    assert estimated_accuracy([0.1, 0.5, 0.8]) == pytest.approx((0.9 + 0.5 + 0.8) / 3)
    assert estimated_brier([0.1, 0.5, 0.8]) == pytest.approx((0.09 + 0.25 + 0.16) / 3)
    assert estimated_accuracy([0, 1]) == 1
    assert estimated_brier([0, 1]) == 0


def test_estimates_meet_the_outcomes_where_risks_are_calibrated() -> None:
    random = np.random.default_rng(11)
    risks = random.beta(2, 5, 40_000)
    late = random.random(len(risks)) < risks
    accuracy = float(((risks > 0.5) == late).mean())
    brier = float(((risks - late) ** 2).mean())
    assert estimated_accuracy(risks) == pytest.approx(accuracy, abs=0.01)
    assert estimated_brier(risks) == pytest.approx(brier, abs=0.005)


@pytest.mark.parametrize("risks", [[], [1.1], [-0.1], [NAN]])
def test_what_is_no_risk_is_refused(risks: list[float]) -> None:
    for asked in (estimated_accuracy, estimated_brier):
        with pytest.raises(ValueError, match="risk"):
            asked(risks)
