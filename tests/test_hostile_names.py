"""Names that would be markup: pages and pictures show them as they are, and do nothing of it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from xml.etree import ElementTree

import pytest

from api.kpis import page_of, picture_of, tiles_of
from domain.places import Point
from domain.routing import Emission, Problem, Profile, Rates, RoutedStop, RoutedVehicle, Unserved
from ml import forecast_picture
from ml.kpi_pictures import by_name, over_time
from ml.report import Report, Rows, as_html, as_markdown
from ml.routing import solve
from ml.simulation_report import Pair, affected, differences, page, picture
from ml.tour_map import tour_map
from projections.kpi_formulas import KPIS
from readmodels.forecasts import ForecastDay, ForecastDetail
from readmodels.kpi_reports import (
    Dashboard,
    KpiFigure,
    KpiPoint,
    KpiReport,
    KpiTile,
    KpiTotal,
    entry,
)
from tests.test_simulations import a_result

DAY = date(2026, 3, 2)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOSTILE = (
    "</text><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "]]></svg><svg onload=alert(1)>",
    "&lt;b&gt; &amp; &#60;script&#62;",
    "<!--",
)
#: And what XML cannot hold.
IN_PICTURES = (*HOSTILE, "\x00\x1b\ufffe\ud800")
#: What our pictures and pages are made of.
KNOWN = frozenset(
    (
        *("svg", "title", "desc", "rect", "text", "line", "polyline", "polygon", "path"),
        *("circle", "g", "html", "head", "meta", "style", "body", "main", "h1", "h2", "p"),
        *("figure", "div", "table", "caption", "thead", "tbody", "tr", "th", "td"),
    )
)


def must_be_harmless(told: str) -> None:
    """It can be read as XML, holds our elements only, and none that does something."""
    page = told.removeprefix("<!DOCTYPE html>\n")
    for name in ('charset="utf-8"', 'initial-scale=1"'):
        page = page.replace(f"{name}>", f"{name}/>")
    for element in ElementTree.fromstring(page).iter():
        assert element.tag.rpartition("}")[2] in KNOWN
        assert not [name for name in element.attrib if name.startswith("on") or "href" in name]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_simulation_shows_what_it_is_called(name: str) -> None:
    pair = Pair(base_line=1, scenario=2)
    found = a_result().model_copy(
        update={
            "simulation_id": name,
            "scenario_id": name,
            "disturbances": (name,),
            "sites": affected([({name: {name: 1.0}}, {name: {name: 3.0}})]),
            "skus": affected([({name: {"late": 1.0}}, {})]),
            "events": {name: pair},
            "refused": {name: pair},
            "decided_by": {name: pair},
            "kpis": tuple(
                one.model_copy(update={"title": name, "currency": "EUR", "unit": name})
                for one in a_result().kpis
            ),
        }
    )
    must_be_harmless(page(found))
    must_be_harmless(picture(found, "kpis"))
    must_be_harmless(differences({name: found, "other": found}, name))


@pytest.mark.parametrize("name", IN_PICTURES)
def test_a_kpi_of_sites_and_clients_shows_what_they_are_called(name: str) -> None:
    kpi = KPIS["otif"]
    must_be_harmless(by_name(name, kpi, [(name, 0.5), ("S-1", 0.9)]))
    must_be_harmless(over_time(name, kpi, {name: [(DAY, 0.5)], "S-1": [(DAY, 0.9)]}))
    total = KpiTotal(currency=None, value=0.5, previous=None, change=None, is_better=None)
    for group in ({"site": name}, {"day": "2026-03-02", "client": name}):
        report = KpiReport(
            kpi=entry(kpi),
            first=DAY,
            last=DAY,
            previous_first=DAY,
            previous_last=DAY,
            by=tuple(group),
            rows=(KpiFigure(group=group, value=0.5, sums={}),),
            totals=(total,),
        )
        must_be_harmless(picture_of(kpi, report))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_dashboard_shows_its_currencies(name: str) -> None:
    tile = KpiTile(
        kpi=entry(KPIS["cost_per_order"]).model_copy(update={"title": name, "formula": name}),
        currency=name,
        value=1234.0,
        previous=1.0,
        change=None,
        is_better=False,
        series=(KpiPoint(day=DAY, value=1.0),),
    )
    board = Dashboard(first=DAY, last=DAY, previous_first=DAY, previous_last=DAY, tiles=(tile,))
    must_be_harmless(tiles_of(board))
    must_be_harmless(as_html(page_of(board)))


@pytest.mark.parametrize("name", IN_PICTURES)
def test_a_map_shows_who_goes_where_and_why_not(name: str) -> None:
    metres = ((0, 10_000), (10_000, 0))
    asked = Problem(
        site_id=name,
        origin=NOON,
        depot=Point(latitude=52.5, longitude=13.4),
        currency="EUR",
        profiles=(Profile(mode="van", estimate="test", distance_m=metres, duration_s=metres),),
        vehicles=(
            RoutedVehicle(
                vehicle_id=name,
                from_s=0,
                to_s=86_400,
                rates=Rates(fixed_minor=1, per_km_minor=1, per_hour_minor=1),
                emission=Emission(empty_mg_per_km=1, full_mg_per_km=1),
            ),
        ),
        stops=(RoutedStop(order_id=name, point=Point(latitude=52.6, longitude=13.4)),),
    )
    left = Unserved(order_id=name, code=name, sentence=name, values={})
    found = solve(asked, iterations=20, seed=1).model_copy(update={"unserved": (left,)})
    assert len(found.routes) == 1
    must_be_harmless(tour_map(name, asked, found))


@pytest.mark.parametrize("name", IN_PICTURES)
def test_a_forecast_shows_what_it_is_of(name: str) -> None:
    told = ForecastDetail(
        site_id=name,
        version=1,
        sku=name,
        forecasts=1,
        from_day=DAY,
        horizon_days=1,
        method=name,
        technique=name,
        total=1.0,
        total_low=0.0,
        total_high=2.0,
        sentence=name,
        made_by=name,
        made_at=NOON,
        last_position=1,
        as_of=1,
        model_hash=name,
        input_hash=name,
        history_days=1,
        scale=None,
        days=[ForecastDay(day=DAY, value=1.0, low=0.0, high=2.0)],
    )
    must_be_harmless(forecast_picture.picture(told, {}, date(2026, 2, 2), DAY))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_report_shows_its_cells(name: str) -> None:
    report = Report(name, [Rows(name, (name, name), [(name, name)], numbers=1)])
    must_be_harmless(as_html(report))
    assert "<script" not in as_markdown(report, {}).replace("\\<", "")
