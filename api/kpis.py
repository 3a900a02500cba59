"""KPIs over HTTP: the catalogue, a report of one, a dashboard of all; daily ones; decisions'."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import Path, Query, Response
from pydantic import BaseModel

from api.browsers import page_policy
from api.dependencies import Cursor, Limit, NotFound, reading
from api.errors import documented
from api.routers import Router
from api.times import Day
from domain.values import Currency, Id
from ml.kpi_pictures import by_name, over_time, tiles, words
from ml.report import Picture, Report, Rows, Text, as_html
from projections.kpi_formulas import GROUPS, KPIS, Kpi
from readmodels import decisions, kpi_reports, kpis
from readmodels.database import ReadModels
from readmodels.decisions import DecisionKpi
from readmodels.kpi_reports import (
    DASHBOARD_DAYS,
    TABLES,
    Dashboard,
    KpiEntry,
    KpiReport,
    period_of,
)
from readmodels.kpi_sums import Only
from readmodels.kpis import DailyKpi
from readmodels.page import Page

router = Router(tags=["kpis"])

_TIMES = ("day", "week", "month")
_From = Annotated[
    Day | None, Query(alias="from", description="The first day (UTC), included; 30 where left out.")
]
_To = Annotated[
    Day | None, Query(alias="to", description="The last day, included; today where left out.")
]
_Site = Annotated[Id | None, Query(description="Of this site only.")]
_Client = Annotated[Id | None, Query(description="Of this client's orders only.")]
_Money = Annotated[Currency | None, Query(description="In this currency only.")]


class KpiCatalogue(BaseModel):
    """Every KPI that there is."""

    items: tuple[KpiEntry, ...]


@router.get("/metrics/kpi", summary="The KPIs that there are", responses=documented())
async def list_kpis(_: Annotated[ReadModels, reading("kpis.catalogue")]) -> KpiCatalogue:
    """What each KPI is, its unit, its formula in words, whether people want it high or low, and
    what it can be grouped by."""
    return KpiCatalogue(items=kpi_reports.catalogue())


@router.get(
    "/metrics/kpi/{name}/report",
    summary="Report a KPI",
    response_model=KpiReport,
    responses=documented(404)
    | {
        200: {
            "content": {"image/svg+xml": {}, "text/csv": {}},
            "description": "The report; by `format` as a picture or as rows for a spreadsheet.",
        }
    },
)
async def kpi_report(
    name: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("kpis.report", *TABLES)],
    response: Response,
    first: _From = None,
    last: _To = None,
    by: Annotated[
        str | None,
        Query(
            max_length=100,
            description=f"What to group by, with commas between: of {', '.join(GROUPS)}; one unit "
            "of time at the most.",
            examples=["week,site"],
        ),
    ] = None,
    site_id: _Site = None,
    customer_id: _Client = None,
    currency: _Money = None,
    format: Annotated[Literal["json", "svg", "csv"], Query()] = "json",
) -> KpiReport | Response:
    """A KPI of a period, by days, weeks, months, sites or clients, with its total and that of the
    period of the same length before it. `as_of` tells it as it was told then."""
    kpi = known(name)
    period = period_of(first, last, datetime.now(UTC).date())
    only = Only(site_id=site_id, customer_id=customer_id, currency=currency)
    asked = [one.strip() for one in by.split(",")] if by else []
    found = await kpi_reports.report(read, kpi, period, asked, only)
    if format == "json":
        return found
    if format == "csv":
        return _told(csv_of(found), "text/csv; charset=utf-8", response)
    return _told(picture_of(kpi, found), "image/svg+xml", response)


@router.get(
    "/metrics/dashboard",
    summary="All KPIs of a period",
    response_model=Dashboard,
    responses=documented()
    | {200: {"content": {"image/svg+xml": {}, "text/html": {}}, "description": "The dashboard."}},
)
async def kpi_dashboard(
    read: Annotated[ReadModels, reading("kpis.dashboard", *TABLES)],
    response: Response,
    first: _From = None,
    last: _To = None,
    site_id: _Site = None,
    customer_id: _Client = None,
    currency: _Money = None,
    format: Annotated[Literal["json", "svg", "html"], Query()] = "json",
) -> Dashboard | Response:
    """Each KPI of the period beside the period before and day by day; with a filter, those that
    can be told so. `as_of` tells them as they were told then."""
    period = period_of(first, last, datetime.now(UTC).date(), DASHBOARD_DAYS)
    only = Only(site_id=site_id, customer_id=customer_id, currency=currency)
    found = await kpi_reports.dashboard(read, period, only)
    if format == "json":
        return found
    if format == "svg":
        return _told(tiles_of(found), "image/svg+xml", response)
    page = as_html(page_of(found))
    response.headers["Content-Security-Policy"] = page_policy(page)
    return _told(page, "text/html; charset=utf-8", response)


@router.get("/kpis/daily", summary="Daily KPIs", responses=documented())
async def daily_kpis(
    read: Annotated[ReadModels, reading("kpis.daily", "daily_kpis")],
    first: Annotated[Day | None, Query(description="First day, included.")] = None,
    last: Annotated[Day | None, Query(description="Last day, included.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DailyKpi]:
    """Orders, deliveries, late share and revenue by the day that orders were placed (UTC)."""
    return await kpis.daily_kpis(read, first=first, last=last, cursor=cursor, limit=limit)


@router.get("/kpis/decisions", summary="KPIs of decisions", responses=documented())
async def decision_kpis(
    read: Annotated[ReadModels, reading("kpis.decisions", "decision_kpis")],
    kind: Annotated[Id | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DecisionKpi]:
    """What becomes of decisions, by kind: how many were made, referred, overridden, contested, and
    how often what the model warned of came true."""
    return await decisions.decision_kpis(read, kind=kind, cursor=cursor, limit=limit)


def known(name: str) -> Kpi:
    """The KPI of a name.

    Raises:
        NotFound: there is none.
    """
    if name not in KPIS:
        raise NotFound("kpi", name, f"is not known; there are {', '.join(KPIS)}")
    return KPIS[name]


def csv_of(report: KpiReport) -> str:
    """A report's rows, or its totals where it has none."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    if not report.by:
        writer.writerow(["currency", "value", "previous", "change"])
        writer.writerows((t.currency, t.value, t.previous, t.change) for t in report.totals)
        return written.getvalue()
    groups = list(report.rows[0].group) if report.rows else list(report.by)
    sums = list(report.rows[0].sums) if report.rows else []
    writer.writerow([*groups, report.kpi.name, *sums])
    for row in report.rows:
        writer.writerow([*row.group.values(), row.value, *row.sums.values()])
    return written.getvalue()


def picture_of(kpi: Kpi, report: KpiReport) -> str:
    """A report as a picture: lines over time, bars otherwise."""
    title = f"{kpi.title}, {report.first} to {report.last}"
    time = next((one for one in report.by if one in _TIMES), None)
    if time is None:
        named = [(" ".join(row.group.values()), row.value) for row in report.rows]
        totals = [(total.currency or "all", total.value) for total in report.totals]
        return by_name(title, kpi, named if report.by else totals)
    series: dict[str, list[tuple[datetime, float | None]]] = {}
    for row in report.rows:
        name = " ".join(value for column, value in row.group.items() if column != time)
        day = datetime.fromisoformat(row.group[time])
        series.setdefault(name, []).append((day, row.value))
    largest = sorted(series, key=lambda name: -sum(v or 0 for _, v in series[name]))
    return over_time(title, kpi, {name: series[name] for name in largest})


def tiles_of(dashboard: Dashboard) -> str:
    """A dashboard as a picture."""
    return tiles(
        f"KPIs, {dashboard.first} to {dashboard.last}",
        [
            (
                KPIS[tile.kpi.name],
                tile.currency,
                tile.value,
                tile.previous,
                tile.is_better,
                [(point.day, point.value) for point in tile.series],
            )
            for tile in dashboard.tiles
        ],
    )


def page_of(dashboard: Dashboard) -> Report:
    """A dashboard as a page: the picture, and the same as a table with the formulas."""
    rows = [
        (
            tile.kpi.title,
            words(KPIS[tile.kpi.name], tile.value, tile.currency),
            words(KPIS[tile.kpi.name], tile.previous, tile.currency),
            tile.kpi.formula,
        )
        for tile in dashboard.tiles
    ]
    before = f"{dashboard.previous_first} to {dashboard.previous_last}"
    return Report(
        f"KPIs, {dashboard.first} to {dashboard.last}",
        (
            Text(f"Each figure stands beside that of {before}. Days are in UTC."),
            Picture("tiles", "KPIs", tiles_of(dashboard)),
            Rows("The figures", ("KPI", "figure", "before", "formula"), rows),
        ),
    )


def _told(content: str, media_type: str, response: Response) -> Response:
    answer = Response(content, media_type=media_type)
    # What is said in headers (As-Of-Position) holds for this one too.
    answer.headers.raw.extend(response.headers.raw)
    return answer
