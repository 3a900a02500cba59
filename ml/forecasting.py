"""Forecasts of a demand series without a model: which method, and its formulas. Pure.

A series is what was asked for on each day, oldest first, zeros included. The same series gives the
same forecast to the bit: plain float64, no random numbers, no library whose version matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Series = np.ndarray[tuple[int], np.dtype[np.float64]]

#: Days in a season, and in what is looked back on at the most.
WEEK = 7
MOST_DAYS = 730
#: Fewer days than this, or fewer with demand, and the mean is all that can be said.
LEAST_DAYS = 3 * WEEK
LEAST_DEMANDS = 4
#: From this mean interval between demands on a series is intermittent (Syntetos, Boylan and
#: Croston, On the categorization of demand patterns, JORS 56, 2005).
INTERMITTENT = 1.32
#: Smoothing of intermittent demand: sizes and intervals change slowly.
CROSTON_ALPHA = 0.1
#: Smoothing constants that are tried; the one with the least squared error is taken.
ALPHAS = np.linspace(0.01, 1.0, 100)
#: 80 % of what comes lies within so many standard deviations.
Z = 1.2815515655446004
#: Of the test whether a series has seasons: the normal value of 90 %.
_SEASONAL_Z = 1.645


@dataclass(frozen=True, slots=True)
class Forecast:
    """What will be asked for on each of some days, with the interval in which 80 % of it lies; and
    in all of them together. ``technique``: how it was made."""

    technique: str
    values: Series
    low: Series
    high: Series
    total: float
    total_low: float
    total_high: float


def forecast(series: Sequence[float] | Series, horizon: int) -> Forecast:
    """The documented rule for demand: the mean of a short series, Syntetos and Boylan's estimate
    where most days have none, else the theta method with weekly seasons.

    Args:
        series: demand a day, oldest first; the last ``MOST_DAYS`` are looked at.
        horizon: for how many days.

    Raises:
        ValueError: nothing was ever asked for, or the horizon is no day.
    """
    known: Series = np.asarray(series, dtype=np.float64)[-MOST_DAYS:]
    if horizon < 1:
        raise ValueError(f"a horizon of {horizon} days holds nothing")
    if not known.size or not known.any():
        raise ValueError("nothing was asked for on any day")
    demands = int((known > 0).sum())
    if len(known) < LEAST_DAYS or demands < LEAST_DEMANDS:
        return _steady("mean", float(known.mean()), float(known.var()), horizon)
    if len(known) / demands >= INTERMITTENT:
        level, spread = sba(known)
        return _steady("croston_sba", level, spread, horizon)
    return _theta(known, horizon)


# one day like the other


def _steady(technique: str, level: float, variance: float, horizon: int) -> Forecast:
    """The same for each day; days are independent, so variances add up."""
    values = np.full(horizon, level)
    return _banded(technique, values, np.full(horizon, variance), horizon * variance)


def sba(series: Series, alpha: float = CROSTON_ALPHA) -> tuple[float, float]:
    """Demand a day of an intermittent series with two demands or more, and its variance.

    Croston (1972) smooths the sizes z of demands and the intervals p between them apart; Syntetos
    and Boylan (The accuracy of intermittent demand estimates, IJF 21, 2005) take his bias away:
    (1 - alpha / 2) * z / p. The variance is that of demands of such sizes which come on a day with
    probability 1 / p.
    """
    places = np.flatnonzero(series > 0)
    sizes = series[places]
    # How long it was quiet before the first demand nobody knows: a series begins with one.
    intervals = np.diff(places).astype(np.float64)
    size, interval = float(sizes[0]), float(intervals[0])
    for each, gap in zip(sizes[1:].tolist(), intervals.tolist(), strict=True):
        size += alpha * (each - size)
        interval += alpha * (gap - interval)
    share = 1 / interval
    variance = share * float(sizes.var()) + share * (1 - share) * size * size
    return (1 - alpha / 2) * size * share, variance


# level, trend and season


def ses(series: Series) -> tuple[float, float, float]:
    """Simple exponential smoothing: level, alpha, and the variance of its errors one day ahead.

    l(t) = l(t-1) + alpha * (y(t) - l(t-1)) with the alpha of ``ALPHAS`` and the first level that
    have the least sum of squared errors (Hyndman and Athanasopoulos, Forecasting, 8.1). Errors are
    e(t) = a(t) - c(t) * l(0) with a of the same recursion from 0 and c(t) = (1 - alpha)^t, so that
    the best first level is sum(a * c) / sum(c * c).
    """
    levels = np.zeros(len(ALPHAS))
    fading = np.ones(len(ALPHAS))
    squares, products, weights = (np.zeros(len(ALPHAS)) for _ in range(3))
    for value in series.tolist():
        errors = value - levels
        squares += errors * errors
        products += errors * fading
        weights += fading * fading
        levels = levels + ALPHAS * errors
        fading = fading * (1 - ALPHAS)
    left = np.maximum(squares - products * products / weights, 0.0)
    best = int(np.argmin(left))
    level = float(levels[best] + fading[best] * products[best] / weights[best])
    return level, float(ALPHAS[best]), float(left[best]) / max(len(series) - 1, 1)


def theta(series: Series, horizon: int) -> tuple[Series, float, float]:
    """The theta method (Assimakopoulos and Nikolopoulos, IJF 16, 2000): the mean of the trend line
    and of exponential smoothing with twice the curvature; alpha and error variance of the latter.

    As Hyndman and Billah (IJF 19, 2003) have it: smoothing of the series itself with half of the
    trend's slope b as drift: l + b/2 * (h - 1 + (1 - (1 - alpha)^n) / alpha).
    """
    n = len(series)
    times = np.arange(n, dtype=np.float64)
    slope = _slope(times, series)
    level, alpha, variance = ses(series)
    drift = slope / 2
    steps = np.arange(horizon, dtype=np.float64)
    return level + drift * (steps + (1 - (1 - alpha) ** n) / alpha), alpha, variance


def seasons(series: Series, period: int) -> Series:
    """Multiplicative seasonal indices by classical decomposition, mean 1; all 1 where the series
    has no season.

    The test and the indices are those of the M competitions' Naive2: the autocorrelation at the
    period is significant at 90 %, |r_m| > 1.645 * sqrt((1 + 2 * sum r_i^2, i < m) / n); indices are
    the means of value over centred moving average (Makridakis and Hibon, IJF 16, 2000).
    """
    flat = np.ones(period)
    n = len(series)
    if period < 2 or n < 3 * period or not _has_season(series, period):
        return flat
    weights = np.ones(period + 1 if period % 2 == 0 else period)
    if period % 2 == 0:
        weights[[0, -1]] = 0.5
    middle = np.convolve(series, weights / period, mode="valid")
    start = len(weights) // 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = series[start : start + len(middle)] / middle
    places = (np.arange(len(middle)) + start) % period
    good = np.isfinite(ratios)
    found = np.array([_mean(ratios[good & (places == place)]) for place in range(period)])
    return found / found.mean() if found.min() > 0.01 else flat


def naive2(series: Series, horizon: int, period: int) -> Series:
    """The last value without its season, with the seasons of the days to come: what the M
    competitions measure others by."""
    indices = seasons(series, period)
    n = len(series)
    level = series[-1] / indices[(n - 1) % period]
    told: Series = level * indices[(n + np.arange(horizon)) % period]
    return told


def seasonal(series: Series, horizon: int, period: int) -> tuple[Series, float, float]:
    """The theta method on the series without its seasons, and the seasons of the days to come;
    alpha and error variance, in the unit of the series."""
    indices = seasons(series, period)
    n = len(series)
    plain = series / indices[np.arange(n) % period]
    values, alpha, _ = theta(plain, horizon)
    errors = _one_step(plain, alpha) * indices[np.arange(n) % period]
    variance = float((errors * errors).mean())
    return values * indices[(n + np.arange(horizon)) % period], alpha, variance


def _one_step(series: Series, alpha: float) -> Series:
    """The errors of exponential smoothing one day ahead, from the best first level on."""
    level, errors = 0.0, np.empty(len(series))
    for number, value in enumerate(series.tolist()):
        errors[number] = value - level
        level += alpha * (value - level)
    fading = (1 - alpha) ** np.arange(len(series), dtype=np.float64)
    first = float((errors * fading).sum() / (fading * fading).sum())
    return errors - fading * first


def _theta(series: Series, horizon: int) -> Forecast:
    values, alpha, variance = seasonal(series, horizon, WEEK)
    steps = np.arange(horizon, dtype=np.float64)
    # Of exponential smoothing, h days ahead and summed (Hyndman et al., Forecasting with
    # Exponential Smoothing, 2008, tables 6.1 and 6.2).
    daily = variance * (1 + steps * alpha * alpha)
    n = float(horizon)
    summed = variance * n * (1 + alpha * (n - 1) + alpha * alpha * (n - 1) * (2 * n - 1) / 6)
    return _banded("theta_weekly", np.maximum(values, 0.0), daily, summed)


def _banded(technique: str, values: Series, variances: Series, summed: float) -> Forecast:
    widths = Z * np.sqrt(variances)
    total, width = float(values.sum()), Z * math.sqrt(summed)
    return Forecast(
        technique,
        values,
        np.maximum(values - widths, 0.0),
        values + widths,
        total,
        max(total - width, 0.0),
        total + width,
    )


def _slope(times: Series, series: Series) -> float:
    centred = times - times.mean()
    spread = float((centred * centred).sum())
    return float((centred * (series - series.mean())).sum()) / spread if spread else 0.0


def _has_season(series: Series, period: int) -> bool:
    centred = series - series.mean()
    spread = float((centred * centred).sum())
    if spread == 0:
        return False
    lags = [float((centred[lag:] * centred[:-lag]).sum()) / spread for lag in range(1, period + 1)]
    limit = _SEASONAL_Z * math.sqrt((1 + 2 * sum(one * one for one in lags[:-1])) / len(series))
    return abs(lags[-1]) > limit


def _mean(values: Series) -> float:
    return float(values.mean()) if values.size else 1.0


# how good forecasts were


def smape(actual: Series, told: Series) -> float:
    """Symmetric mean absolute percentage error in percent: mean of 200 |f - a| / (|f| + |a|)."""
    both = np.abs(actual) + np.abs(told)
    return float(np.mean(200 * np.abs(told - actual) / np.where(both > 0, both, 1.0)))


def mase_scale(series: Series, period: int = 1) -> float | None:
    """What an error is measured by: the mean absolute error of the seasonal naive forecast within
    the known series (Hyndman and Koehler, IJF 22, 2006); None where that is 0 or not defined."""
    if len(series) <= period:
        return None
    scale = float(np.mean(np.abs(series[period:] - series[:-period])))
    return scale or None
