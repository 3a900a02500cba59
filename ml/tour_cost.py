"""What a model of tour costs sees and says: how many times what the plan reckons a tour costs, so
that what was learned holds for every currency. How such an estimate is told, with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from domain.costing import cost, shares
from domain.factors import TRAVEL
from domain.routing import Rates
from domain.tour_events import TourPlanned
from domain.values import money, seconds
from ml.scoring import Matrix
from ml.travel_time import sun_hour

if TYPE_CHECKING:
    from ml.judging import Judge

#: Each feature in words.
FEATURES: Mapping[str, str] = {
    "stops": "it has {value:.0f} stops",
    "metres": "it is {value:.0f} m long",
    "hours": "it takes {value:.1f} hours",
    "travel_share": "{value:.0%} of its time it is on the way",
    "waiting_share": "{value:.0%} of its time it waits",
    "time_share": "{value:.0%} of what it costs are hours",
    "load_share": "it is loaded with {value:.0%} of what its vehicle may carry",
    "mode_kmh": "the rule has its mode at {value:.0f} km/h between towns",
    "weekday": "it is weekday {value:.0f} (1 is Monday)",
    "hour": "it starts at about {value:.0f} o'clock by the sun",
    "site_ratio": "tours of the site cost {value:.2f} times what was planned so far",
    "vehicle_ratio": "tours of the vehicle cost {value:.2f} times what was planned so far",
}
#: More or less than this is a slip of the pen: not learned, not said.
LEAST, MOST = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class Past:
    """The finished tours of a site or vehicle up to a log position: what was planned, and what came
    of it, in minor units of one currency."""

    planned_minor: int = 0
    minor: int = 0

    def with_one(self, planned_minor: int, minor: int) -> Past:
        """After one more of them."""
        return Past(self.planned_minor + planned_minor, self.minor + minor)

    @property
    def ratio(self) -> float:
        """How many times what was planned; NaN: nothing is known."""
        return self.minor / self.planned_minor if self.planned_minor else float("nan")


def features(tour: Mapping[str, Any], site: Past, vehicle: Past) -> Matrix:
    """The row of a tour, by the fields of its ``TourPlanned`` as plain values, float32.

    Args:
        tour: the event's fields.
        site: the site's finished tours when this one was planned.
        vehicle: the vehicle's.
    """
    stops, starts_at, day = tour["stops"], tour["starts_at"], tour["day"]
    assert isinstance(starts_at, datetime)
    assert isinstance(day, date)
    took = max(seconds(starts_at, tour["ends_at"]) or 0, 1)
    parts = cost(
        Rates(**tour["rates"]),
        distance_m=tour["distance_m"],
        duration_s=took,
        stops=len(stops),
    )
    first = stops[0]["point"] if stops else None
    limit = tour["max_weight_g"]
    row = (
        len(stops),
        tour["distance_m"],
        took / 3600,
        tour["travel_s"] / took,
        tour["waiting_s"] / took,
        parts.time / max(parts.total, 1),
        tour["weight_g"] / limit if limit else float("nan"),
        TRAVEL[tour["mode"]].far_kmh if tour["mode"] in TRAVEL else float("nan"),
        day.isoweekday(),
        float("nan") if first is None else sun_hour(starts_at, first["longitude"]),
        site.ratio,
        vehicle.ratio,
    )
    return np.array([row], np.float32)


class CostFactor(BaseModel):
    """What a feature of a tour does to the estimate: it multiplies it by ``times``, exactly (SHAP
    values of the logarithm)."""

    feature: str
    value: float | None
    sentence: str
    contribution: float
    times: float


class OrderCost(BaseModel):
    """An order's part in the estimate, by weight times direct distance; parts sum up to it."""

    order_id: str
    cost_minor: int


class TourCostEstimate(BaseModel):
    """What a tour is about to cost, in minor units of ``currency``.

    ``method``: ``rule-based``, or the hash of the deployed model. ``planned_minor``: as the plan
    reckons it, which is the rule. ``low_minor``, ``high_minor``: four of five tours cost what lies
    between; the rule does not know. ``base_times`` and ``times`` of all factors multiply up to what
    the model says of ``planned_minor``. ``actual_minor``: when the tour is over.
    """

    tour_id: str
    currency: str
    method: str
    model_hash: str
    planned_minor: int
    estimate_minor: int
    low_minor: int | None
    high_minor: int | None
    actual_minor: int | None
    sentence: str
    base_times: float | None
    factors: list[CostFactor]
    orders: list[OrderCost]


def told(
    planned: TourPlanned, site: Past, vehicle: Past, judge: Judge, actual_minor: int | None
) -> TourCostEstimate:
    """The estimate of a tour. Pure, but for the model that is loaded."""
    minor, low, high = planned.cost_minor, None, None
    base, factors, by = None, list[CostFactor](), "rule-based, as planned"
    if judge.model is not None:
        row = features(planned.model_dump(), site, vehicle)
        found = judge.model.estimate(row)
        minor, low, high = (
            _times(planned.cost_minor, float(values[0]))
            for values in (found.values, found.low, found.high)
        )
        shap = found.contributions[0].astype(np.float64)
        base, by = float(np.exp(shap[-1])), "by a model"
        factors = [
            CostFactor(
                feature=name,
                value=None if np.isnan(value) else float(value),
                sentence=f"{name} is not known" if np.isnan(value) else words.format(value=value),
                contribution=float(part),
                times=float(np.exp(part)),
            )
            for (name, words), value, part in zip(
                FEATURES.items(), row[0].tolist(), shap[:-1].tolist(), strict=True
            )
        ]
        factors.sort(key=lambda one: (-abs(one.contribution), one.feature))
    parts = shares(minor, [(stop.weight_g, stop.direct_m) for stop in planned.stops])
    return TourCostEstimate(
        tour_id=planned.tour_id,
        currency=planned.currency,
        method=judge.method,
        model_hash=judge.model_hash,
        planned_minor=planned.cost_minor,
        estimate_minor=minor,
        low_minor=low,
        high_minor=high,
        actual_minor=actual_minor,
        sentence=f"Tour {planned.tour_id} costs {money(minor, planned.currency)}, {by}",
        base_times=base,
        factors=factors,
        orders=[
            OrderCost(order_id=stop.order_id, cost_minor=part)
            for stop, part in zip(planned.stops, parts, strict=True)
        ],
    )


def _times(minor: int, ratio: float) -> int:
    """So many times an amount: by whole thousandths, so that a float's last bits change nothing;
    half upwards."""
    permille = round(min(max(ratio, LEAST), MOST) * 1000)
    return (minor * permille + 500) // 1000
