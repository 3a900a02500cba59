"""What a model of travel times sees and says: how many times as long as by the rule a way takes,
so that what was learned holds for short and long ways, by bicycle and by truck.

Tours are not there yet when ways are asked for. So the hour of a way is that at which its end is
to be served: the middle of its windows, else of the shift. Hours are those of the sun (UTC and
four minutes for each degree of longitude), which every place has without a time zone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from domain.factors import TRAVEL
from domain.places import Point
from domain.routing import Profile, RoutedStop, RoutedVehicle
from ml.scoring import Exact, Matrix
from ml.travel import Whole, profile

if TYPE_CHECKING:
    from ml.estimating import Regressor
    from ml.judging import Judge

#: Each feature in words.
FEATURES: Mapping[str, str] = {
    "metres": "the way is {value:.0f} m long",
    "mode_kmh": "the rule has its mode at {value:.0f} km/h between towns",
    "begins_m": "it begins {value:.0f} m from the depot",
    "ends_m": "it ends {value:.0f} m from the depot",
    "weekday": "it is weekday {value:.0f} (1 is Monday)",
    "hour": "it is about {value:.0f} o'clock by the sun",
}
#: Slower or faster by more than this is a break, or a slip of the pen: not learned, not said.
LEAST, MOST = 0.2, 5.0


def features(
    mode_kmh: Exact,
    metres: Exact,
    begins_m: Exact,
    ends_m: Exact,
    weekday: Exact,
    hour: Exact,
) -> Matrix:
    """A row for each way, float32."""
    columns = (metres, mode_kmh, begins_m, ends_m, weekday, hour)
    return np.column_stack([column.astype(np.float32) for column in columns])


def sun_hour(at: datetime, longitude: float) -> float:
    """The hour of a day by the mean sun, 0 to 24."""
    return (at.hour + at.minute / 60 + at.second / 3600 + longitude / 15) % 24


@dataclass(frozen=True, slots=True)
class _Day:
    """A model's times on a day; ``hours``: at which each place is about to be reached."""

    model: Regressor
    estimate: str
    weekday: int
    hours: Exact

    def seconds(self, mode: str, metres: Whole, by_rule: Whole) -> Whole:
        """All ways in one batch. Whole thousandths of the rule's seconds, then upwards: the last
        bits of a float change nothing."""
        count = len(metres)
        direct = metres[0].astype(np.float64)
        rows = features(
            np.full(count * count, float(TRAVEL[mode].far_kmh)),
            metres.ravel().astype(np.float64),
            np.repeat(direct, count),
            np.tile(direct, count),
            np.full(count * count, float(self.weekday)),
            np.tile(self.hours, count),
        )
        told = np.clip(self.model.values(rows), LEAST, MOST)
        permille = np.rint(told * 1000).astype(np.int64).reshape(count, count)
        seconds: Whole = -(-by_rule * permille // 1000)
        return seconds


def ways(
    modes: Sequence[str],
    origin: datetime,
    depot: Point,
    stops: Sequence[RoutedStop],
    vehicles: Sequence[RoutedVehicle],
    judge: Judge | None,
) -> tuple[Profile, ...]:
    """The ways of a problem for each mode; by the rule where ``judge`` has no model. Goes by what
    the problem itself holds, so that they can be made again from it."""
    places = [depot, *(stop.point or depot for stop in stops)]
    if judge is None or judge.model is None:
        return tuple(profile(mode, places) for mode in modes)
    noon = origin + timedelta(hours=12 + depot.longitude / 15)
    starts = min((one.from_s for one in vehicles), default=0)
    ends = max((one.to_s for one in vehicles), default=86_400)
    about = [ends, *(_about(stop, starts, ends) for stop in stops)]
    hours = np.array(
        [
            sun_hour(origin + timedelta(seconds=second), place.longitude)
            for second, place in zip(about, places, strict=True)
        ]
    )
    times = _Day(judge.model, judge.model_hash, noon.isoweekday(), hours)
    return tuple(profile(mode, places, times) for mode in modes)


def _about(stop: RoutedStop, starts: int, ends: int) -> int:
    """The second at which a stop is about to be served."""
    if not stop.windows:
        return (starts + ends) // 2
    first, last = max(stop.windows[0].from_s, starts), min(stop.windows[-1].to_s, ends)
    return (first + last) // 2
