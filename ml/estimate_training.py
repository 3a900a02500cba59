"""What models of numbers learn from: cases of the log, each as it stood when it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from uuid import UUID

import numpy as np
import polars as pl
from polars import col

from domain.inventory import StockPicked
from domain.values import Event
from eventstore import Log
from eventstore.artifacts import Artifacts
from ml import demand
from ml.estimates import DEMAND, TOUR_COST, TRAVEL_TIME, Estimate
from ml.estimating import Progress, Rows, fitted
from ml.forecasting import WEEK, Series, forecast
from ml.models import NotEnoughHistory, Trained
from ml.scoring import Matrix
from ml.tour_cases import COST_FIELDS, TRAVEL_FIELDS, cost_rows, travel_rows
from projections.reading import LogReader

#: Moments in the lives of stocks that are learned from at the most, evenly taken.
MOST_MOMENTS = 4_000
_EPOCH = date(1970, 1, 1)

Frames = Mapping[type[Event], pl.DataFrame]


async def train_estimate(
    url: str,
    log: Log,
    artifacts: Artifacts,
    organisation_id: UUID,
    estimate: Estimate,
    at: datetime,
    report: Progress | None = None,
    fitting: Progress | None = None,
) -> Trained:
    """Train a model of numbers from the log and store its artifact, and the rows it learned from.

    Raises:
        NotEnoughHistory: there are too few cases.
    """
    fields, rows_of = _LEARNS[estimate.name]
    frames, head = await read_events(url, log, organisation_id, fields, report)
    rows = await asyncio.to_thread(rows_of, frames)
    registration = await fitted(estimate, rows, artifacts, at, head, fitting)
    content = await artifacts.get(registration.model_hash)
    return Trained(registration, len(content))


async def read_events(
    url: str,
    log: Log,
    organisation_id: UUID,
    fields: Mapping[type[Event], set[str]],
    report: Progress | None,
) -> tuple[Frames, int]:
    """Fields of an organisation's events as frames, and where the log ends."""
    head = await log.head()
    kept: dict[type[Event], list[pl.DataFrame]] = {}
    position = 0
    async with LogReader(url) as reader:
        while position < head:
            end = await reader.window_end(position, head)
            found = await reader.frames(fields, position, end, organisation_id)
            for event, names in fields.items():
                if event in found:
                    kept.setdefault(event, []).append(found[event].select(sorted(names)))
            position = end
            if report is not None:
                report(position, head)
    return {event: pl.concat(some) for event, some in kept.items()}, head


# demand

_PICKED = {"site_id", "sku", "quantity", "picked_at", "recorded_at"}


def demand_rows(frames: Frames) -> Rows:
    """The four weeks behind every seventh day of every stock with eight weeks of history.

    Raises:
        NotEnoughHistory: no stock has that.
    """
    picks = frames.get(StockPicked)
    moments = [] if picks is None else list(_moments(picks))
    if not moments:
        raise NotEnoughHistory("no stock has eight weeks of demand and four behind them yet")
    step = max(1, len(moments) // MOST_MOMENTS)
    moments = moments[::step]
    asked = [number for _, _, number in moments]
    judged = min(asked) + (max(asked) - min(asked)) * 0.75
    parts = [
        _case(series, place, number, judged=number >= judged) for series, place, number in moments
    ]
    ahead = demand.AHEAD
    days = np.repeat(np.array(asked, np.float64), ahead)
    return Rows(
        matrix=np.concatenate([matrix for matrix, _, _ in parts]),
        came=np.concatenate([came for _, came, _ in parts]),
        by_rule=np.concatenate([told for _, _, told in parts]),
        asked=days,
        known=days + np.tile(np.arange(1, ahead + 1, dtype=np.float64), len(parts)),
    )


def _moments(picks: pl.DataFrame) -> Iterator[tuple[Series, int, int]]:
    """Series, a place in it, and the day of that place (days since 1970)."""
    days = (
        picks.with_columns(day=pl.coalesce("picked_at", "recorded_at").dt.date())
        .group_by("site_id", "sku", "day")
        .agg(col("quantity").cast(pl.Float64).sum())
        .sort("site_id", "sku", "day")
    )
    final = days["day"].max()
    assert isinstance(final, date)
    for _, mine in days.group_by("site_id", "sku", maintain_order=True):
        first = mine["day"][0]
        series = np.zeros((final - first).days + 1)
        series[(mine["day"] - first).dt.total_days().to_numpy()] = mine["quantity"].to_numpy()
        start = (first - _EPOCH).days
        for place in range(demand.BACK, len(series) - demand.AHEAD + 1, WEEK):
            if series[place - demand.BACK : place].any():
                yield series, place, start + place


def _case(
    series: Series, place: int, number: int, *, judged: bool
) -> tuple[Matrix, Series, Series]:
    known, ahead = series[:place], demand.AHEAD
    scale = demand.usual(known)
    matrix = demand.features(known, _EPOCH + timedelta(days=number), ahead)
    told = forecast(known, ahead).values / scale if judged else np.full(ahead, np.nan)
    return matrix, series[place : place + ahead] / scale, told


#: By estimate: the fields of events that it learns from, and the cases that they make.
_LEARNS: Mapping[str, tuple[Mapping[type[Event], set[str]], Callable[[Frames], Rows]]] = {
    DEMAND.name: ({StockPicked: _PICKED}, demand_rows),
    TRAVEL_TIME.name: (TRAVEL_FIELDS, travel_rows),
    TOUR_COST.name: (COST_FIELDS, cost_rows),
}
