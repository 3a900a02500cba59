"""Daily KPIs of the orders placed on each day."""

from __future__ import annotations

from datetime import date

from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page

_DAILY = """SELECT day, currency, orders, delivered, delivered_timed, late, cancelled,
        revenue_minor, freight_minor, late_share, last_position
    FROM read_models.daily_kpis
    WHERE organisation_id = %(organisation_id)s
      AND (%(first)s::date IS NULL OR day >= %(first)s)
      AND (%(last)s::date IS NULL OR day <= %(last)s)
      AND (%(after)s::date IS NULL OR (day, currency) > (%(after)s::date, %(after_currency)s::text))
    ORDER BY day, currency LIMIT %(limit)s"""


class DailyKpi(Row):
    """The orders placed on one day (UTC) in one currency, and what became of them.

    ``late_share``: late / delivered_timed (deliveries with a known time); null without any.
    """

    day: date
    currency: str
    orders: int
    delivered: int
    delivered_timed: int
    late: int
    cancelled: int
    revenue_minor: int
    freight_minor: int
    late_share: float | None
    last_position: int


async def daily_kpis(
    read: ReadModels,
    *,
    first: date | None = None,
    last: date | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[DailyKpi]:
    """KPIs by day and currency, earliest first; ``first`` and ``last`` are included."""
    after, after_currency = decode(cursor, date, str) if cursor else (None, None)
    rows = await read.rows(
        DailyKpi,
        _DAILY,
        first=first,
        last=last,
        after=after,
        after_currency=after_currency,
        limit=limit + 1,
    )
    return page(rows, limit, lambda row: (row.day, row.currency))
