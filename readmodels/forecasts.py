"""Forecasts: the last one of each stock, what it was made from, and how good past ones were."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from domain.catalogue import decode, type_of
from domain.forecasts import STREAM, ForecastMade
from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.sorting import Column, Sorting

_COLUMNS = """site_id, sku, version, forecasts, from_day, horizon_days, method, technique, total,
    total_low, total_high, sentence, made_by, made_at, last_position"""

_LIST = f"""SELECT {_COLUMNS} FROM read_models.forecast_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(sku)s::text IS NULL OR sku = %(sku)s)
      AND (%(of_technique)s::text IS NULL OR technique = %(of_technique)s)
      AND (%(rule_based)s::bool IS NULL OR (method = 'rule-based') = %(rule_based)s)
      AND (%(search)s::text IS NULL OR sku ILIKE %(search)s)"""

_GET = f"""SELECT {_COLUMNS}, made FROM read_models.forecast_list
    WHERE organisation_id = %(organisation_id)s AND site_id = %(site_id)s AND sku = %(sku)s"""

# By its lower end only: what is asked about a past day must not see what came after it.
_DEMAND = """SELECT sku, day, demand, last_position FROM read_models.demand_days
    WHERE organisation_id = %(organisation_id)s AND site_id = %(site_id)s
      AND (%(sku)s::text IS NULL OR sku = %(sku)s)
      AND day >= %(since)s AND day < %(until)s
    ORDER BY sku, day"""

_STOCKS = """SELECT site_id, sku, max(last_position) AS last_position
    FROM read_models.demand_days
    WHERE organisation_id = %(organisation_id)s
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
    GROUP BY site_id, sku ORDER BY site_id, sku LIMIT %(limit)s"""

SORTING = Sorting(
    {
        "site_id": Column(str),
        "sku": Column(str),
        "made_at": Column(datetime),
        "from_day": Column(date),
        "horizon_days": Column(int),
        "total": Column(float),
        "technique": Column(str),
        "last_position": Column(int),
    },
    usual="site_id,sku",
    key=("site_id", "sku"),
)


class ForecastSummary(Row):
    """The last forecast of a stock. ``method``: ``rule-based``, or the model's hash; ``total`` and
    the interval of 80 % around it: pieces over all its days."""

    site_id: str
    sku: str
    version: int
    forecasts: int
    from_day: date
    horizon_days: int
    method: str
    technique: str
    total: float
    total_low: float
    total_high: float
    sentence: str
    made_by: str
    made_at: datetime
    last_position: int


class ForecastDay(Row):
    """A day that was foretold; 80 % of what comes lies between ``low`` and ``high``."""

    day: date
    value: float
    low: float
    high: float


class ForecastDetail(ForecastSummary):
    """The last forecast of a stock, day by day. ``as_of``: the newest log position of its series;
    ``input_hash``: SHA-256 of the series; ``model_hash``: of the model, or of the rule."""

    as_of: int
    model_hash: str
    input_hash: str
    history_days: int
    scale: float | None
    days: list[ForecastDay]


class DemandDay(Row):
    """What was asked for on a day, and the newest position that says so."""

    sku: str
    day: date
    demand: Decimal
    last_position: int


class Stock(Row):
    """A stock that something was ever asked of."""

    site_id: str
    sku: str
    last_position: int


class Accuracy(Row):
    """How a past forecast did, over those of its days that are over. None: not defined.

    ``bias``: mean of foretold less came; ``mae``: mean absolute error, pieces a day; ``mape``: mean
    absolute percentage error of the days on which anything came; ``mase``: ``mae`` over the mean
    absolute error of the weekly naive forecast before it (below 1: better than that);
    ``within``: share of the days that lay in the interval, which 80 % should.
    """

    version: int
    method: str
    technique: str
    made_at: datetime
    from_day: date
    horizon_days: int
    days: int
    foretold: float
    came: float
    bias: float | None
    mae: float | None
    mape: float | None
    mase: float | None
    within: float | None


class _Stored(ForecastSummary):
    made: dict[str, Any]


async def list_forecasts(
    read: ReadModels,
    *,
    site_id: str | None = None,
    sku: str | None = None,
    technique: str | None = None,
    rule_based: bool | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[ForecastSummary]:
    """The last forecast of each stock."""
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        ForecastSummary,
        _LIST + by.sql,
        site_id=site_id,
        sku=sku,
        of_technique=technique,
        rule_based=rule_based,
        search=None if search is None else f"%{_escaped(search)}%",
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


async def get_forecast(read: ReadModels, site_id: str, sku: str) -> ForecastDetail | None:
    """The last forecast of a stock, or None."""
    found = await read.one(_Stored, _GET, site_id=site_id, sku=sku)
    if found is None:
        return None
    return detail(found, ForecastMade.model_validate_json(json.dumps(found.made)))


def detail(summary: ForecastSummary, made: ForecastMade) -> ForecastDetail:
    """A summary with the days of its forecast."""
    own = summary.model_dump(include=set(ForecastSummary.model_fields))
    return ForecastDetail(
        **own,
        as_of=made.as_of,
        model_hash=made.model_hash,
        input_hash=made.input_hash,
        history_days=made.history_days,
        scale=made.scale,
        days=[
            ForecastDay(day=made.from_day + timedelta(days=number), value=value, low=low, high=high)
            for number, (value, low, high) in enumerate(
                zip(made.values, made.low, made.high, strict=True)
            )
        ],
    )


async def demand(
    read: ReadModels, site_id: str, sku: str | None, since: date, until: date
) -> list[DemandDay]:
    """What was asked for from one day on and before another one, by SKU and day; days without
    demand are left out."""
    return await read.rows(DemandDay, _DEMAND, site_id=site_id, sku=sku, since=since, until=until)


async def stocks(read: ReadModels, site_id: str | None, limit: int) -> list[Stock]:
    """The stocks that something was ever asked of."""
    return await read.rows(Stock, _STOCKS, site_id=site_id, limit=limit)


async def made(read: ReadModels, site_id: str, sku: str) -> list[tuple[int, ForecastMade]]:
    """Every forecast of a stock with its version, the oldest first, from the log."""
    events = await read.stream(STREAM.format(site_id=site_id, sku=sku))
    found = []
    for stored in events:
        if type_of(stored.topic) is ForecastMade:
            event = decode(stored.topic, stored.state)
            assert isinstance(event, ForecastMade)
            found.append((stored.version, event))
    return found


async def accuracy(
    read: ReadModels, site_id: str, sku: str, today: date, limit: int
) -> list[Accuracy]:
    """How the last forecasts of a stock did, the newest first. ``today``: the first day that is not
    over."""
    known = (await made(read, site_id, sku))[-limit:]
    if not known:
        return []
    first = min(event.from_day for _, event in known)
    came = {row.day: float(row.demand) for row in await demand(read, site_id, sku, first, today)}
    return [judged(version, event, came, today) for version, event in reversed(known)]


def judged(version: int, made: ForecastMade, came: dict[date, float], today: date) -> Accuracy:
    """A forecast against what came by day; a day without an entry had no demand."""
    over = max(0, min(made.horizon_days, (today - made.from_day).days))
    days = [made.from_day + timedelta(days=number) for number in range(over)]
    actual = [came.get(day, 0.0) for day in days]
    told = made.values[:over]
    errors = [said - is_ for said, is_ in zip(told, actual, strict=True)]
    shares = [abs(error) / is_ for error, is_ in zip(errors, actual, strict=True) if is_ > 0]
    inside = [
        low <= is_ <= high
        for low, is_, high in zip(made.low[:over], actual, made.high[:over], strict=True)
    ]
    mae = _mean([abs(error) for error in errors])
    return Accuracy(
        version=version,
        method=made.method,
        technique=made.technique,
        made_at=made.made_at,
        from_day=made.from_day,
        horizon_days=made.horizon_days,
        days=over,
        foretold=round(sum(told), 6),
        came=round(sum(actual), 6),
        bias=_mean(errors),
        mae=mae,
        mape=_mean(shares),
        mase=None if mae is None or made.scale is None else round(mae / made.scale, 6),
        within=_mean([float(one) for one in inside]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None
