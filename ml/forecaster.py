"""Makes forecasts from the log: the series of a stock, the model or the rule, and what goes on the
log. The same series and the same model make the same bytes again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

import numpy as np

from domain.errors import Refused
from domain.forecasts import RULE_BASED, ForecastMade, RecordForecast
from eventstore.artifacts import Artifacts
from ml import demand
from ml.estimates import DEMAND
from ml.estimating import Regressor
from ml.forecasting import MOST_DAYS, WEEK, Forecast, Series, forecast, mase_scale
from ml.judging import Judge, Judges
from readmodels import forecasts
from readmodels.database import ReadModels
from readmodels.forecasts import DemandDay, ForecastDetail

#: Decimal places of what is put on the log: a thousandth of the smallest quantity.
_PLACES = 6


class Forecaster:
    """Makes forecasts of an organisation's stocks.

    Args:
        artifacts: where models are stored.
    """

    def __init__(self, artifacts: Artifacts) -> None:
        self._judges = Judges(artifacts)

    async def make(
        self,
        read: ReadModels,
        site_id: str,
        sku: str | None,
        from_day: date,
        horizon: int,
        made_at: datetime,
    ) -> list[RecordForecast]:
        """Forecasts of a stock, or of all stocks of a site that anything was asked of in the last
        two years.

        Raises:
            Refused: nothing was ever asked of it, or the model cannot be used.
        """
        judge = await self._judges.now(read, DEMAND)
        rows = await forecasts.demand(read, site_id, sku, _since(from_day), from_day)
        by_sku: dict[str, list[DemandDay]] = {}
        for row in rows:
            by_sku.setdefault(row.sku, []).append(row)
        if not by_sku:
            raise Refused(
                "forecast.nothing_known",
                site_id=site_id,
                sku=sku or "any",
                before=from_day.isoformat(),
            )
        return await asyncio.to_thread(
            lambda: [
                foretell(site_id, name, mine, from_day, horizon, judge, made_at)
                for name, mine in by_sku.items()
            ]
        )

    async def again(self, read: ReadModels, made: ForecastMade) -> RecordForecast:
        """A forecast made again; ``read``: as of the position that it names.

        Raises:
            Refused: its model is not there any more, or its series is gone.
        """
        judge = await self._judges.of(DEMAND, made.model_hash)
        since = _since(made.from_day)
        rows = await forecasts.demand(read, made.site_id, made.sku, since, made.from_day)
        if not rows:
            raise Refused(
                "forecast.nothing_known",
                site_id=made.site_id,
                sku=made.sku,
                before=made.from_day.isoformat(),
            )
        return await asyncio.to_thread(
            foretell,
            made.site_id,
            made.sku,
            rows,
            made.from_day,
            made.horizon_days,
            judge,
            made.made_at,
        )


def _since(from_day: date) -> date:
    return from_day - timedelta(days=MOST_DAYS)


def series_of(rows: Sequence[DemandDay], from_day: date) -> Series:
    """Demand a day from the first day with any on, up to the day before ``from_day``."""
    first = rows[0].day
    found = np.zeros((from_day - first).days)
    for row in rows:
        found[(row.day - first).days] = float(row.demand)
    return found


def foretell(
    site_id: str,
    sku: str,
    rows: Sequence[DemandDay],
    from_day: date,
    horizon: int,
    judge: Judge,
    made_at: datetime,
) -> RecordForecast:
    """A forecast of one stock. Pure, but for the model that is loaded."""
    series = series_of(rows, from_day)
    usable = judge.model is not None and len(series) >= demand.BACK and series[-demand.BACK :].any()
    told = (
        by_model(judge.model, series, from_day, horizon)
        if usable and judge.model is not None
        else forecast(series, horizon)
    )
    method, model_hash = (judge.method, judge.model_hash) if usable else (RULE_BASED, DEMAND.hash)
    values = _rounded(told.values)
    scale = mase_scale(series, WEEK)
    by = "by a model" if usable else f"rule-based ({_WORDS[told.technique]})"
    return RecordForecast(
        site_id=site_id,
        sku=sku,
        from_day=from_day,
        as_of=max(row.last_position for row in rows),
        method=method,
        model_hash=model_hash,
        technique=told.technique,
        input_hash=hashlib.sha256(f"{rows[0].day}:{series.tolist()}".encode()).hexdigest(),
        history_days=len(series),
        values=values,
        low=tuple(min(low, value) for low, value in zip(_rounded(told.low), values, strict=True)),
        high=tuple(
            max(high, value) for high, value in zip(_rounded(told.high), values, strict=True)
        ),
        total=round(told.total, _PLACES),
        total_low=round(told.total_low, _PLACES),
        total_high=round(told.total_high, _PLACES),
        scale=None if scale is None else round(scale, _PLACES) or None,
        sentence=f"{told.total:.1f} pieces of {sku} will be asked for at {site_id} in "
        f"{horizon} days from {from_day:%d %b %Y} on, {told.total_low:.1f} to "
        f"{told.total_high:.1f} in four of five cases; {by}, from {len(series)} days",
        made_at=made_at,
    )


_WORDS: Mapping[str, str] = {
    "mean": "the mean of a short series",
    "croston_sba": "intermittent demand, Croston's method after Syntetos and Boylan",
    "theta_weekly": "theta method with weekly seasons",
    "model": "model",
}


def by_model(model: Regressor, series: Series, from_day: date, horizon: int) -> Forecast:
    """What a model says, in pieces. Days are taken to be independent for the interval of the sum.

    Errors of days add up as their squares do.
    """
    scale = demand.usual(series)
    told = model.estimate(demand.features(series, from_day, horizon))
    values, low, high = (one * scale for one in (told.values, told.low, told.high))
    total = float(values.sum())
    below = float(np.sqrt(((values - low) ** 2).sum()))
    above = float(np.sqrt(((high - values) ** 2).sum()))
    return Forecast("model", values, low, high, total, max(total - below, 0.0), total + above)


def _rounded(values: Series) -> tuple[float, ...]:
    return tuple(round(value, _PLACES) for value in values.tolist())


def recorded(command: RecordForecast, version: int, position: int, actor: str) -> ForecastDetail:
    """A forecast as it was just put on the log."""
    made = ForecastMade(**command.model_dump(), horizon_days=len(command.values), made_by=actor)
    own = made.model_dump(include=set(forecasts.ForecastSummary.model_fields))
    summary = forecasts.ForecastSummary(
        **own, version=version, forecasts=version, last_position=position
    )
    return forecasts.detail(summary, made)
