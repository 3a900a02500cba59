"""What a model of demand sees and says: shares of a stock's own usual demand, so that what was
learned of one stock holds for large and small ones alike."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np

from ml.forecasting import WEEK, Series
from ml.scoring import Matrix

#: Days that features look back on.
BACK = 8 * WEEK
#: Days ahead that are learned; what lies further is foretold as the last one of its weekday.
AHEAD = 4 * WEEK

#: Each feature in words.
FEATURES: Mapping[str, str] = {
    "days_ahead": "it is {value:.0f} days ahead",
    "weekday": "it is weekday {value:.0f} (1 is Monday)",
    "day_of_month": "it is day {value:.0f} of the month",
    "month": "it is month {value:.0f} of the year",
    "last_week": "last week {value:.2f} times as much went as usual",
    "last_four_weeks": "in the last four weeks {value:.2f} times as much went as usual",
    "same_weekday": "on the last four such weekdays {value:.2f} times as much went as usual",
    "same_weekday_8": "on the last eight such weekdays {value:.2f} times as much went as usual",
    "share_of_days": "something went on {value:.0%} of the days",
    "variation": "days vary by {value:.2f} times what is usual",
    "since_last": "something went {value:.0f} days ago",
}


def usual(series: Series) -> float:
    """Mean demand a day of the last ``BACK`` days: what features and labels are measured by."""
    return float(series[-BACK:].mean())


def features(series: Series, from_day: date, horizon: int) -> Matrix:
    """A row for each of the days from ``from_day`` on, float32.

    Args:
        series: demand a day up to the day before, ``BACK`` days or more, not all of them 0.
        from_day: the first day that is foretold.
        horizon: for how many days.
    """
    recent = series[-BACK:]
    scale = usual(series)
    weeks = recent.reshape(-1, WEEK)
    places = np.flatnonzero(recent > 0)
    same = (
        float(recent[-WEEK:].mean()) / scale,
        float(recent[-4 * WEEK :].mean()) / scale,
        float((recent > 0).mean()),
        float(recent.std()) / scale,
        float(len(recent) - places[-1]),
    )
    rows = []
    for number in range(horizon):
        day = from_day + timedelta(days=number)
        column = weeks[:, number % WEEK]
        rows.append(
            (
                min(number + 1, AHEAD - (AHEAD - number - 1) % WEEK),
                day.isoweekday(),
                day.day,
                day.month,
                *same[:2],
                float(column[-4:].mean()) / scale,
                float(column.mean()) / scale,
                *same[2:],
            )
        )
    return np.array(rows, np.float32)
