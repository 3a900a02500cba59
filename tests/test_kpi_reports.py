"""KPI reports over HTTP and real Postgres: recounts, the past, pictures."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import polars as pl
import psycopg
import pytest
from psycopg.rows import dict_row

from domain.access import Role
from domain.inventory import StockPicked, StockReceived, StockReserved
from projections.engine import finish, fold_events
from projections.kpi_formulas import KPIS
from projections.kpi_stock import stock_days
from projections.kpis import STOCK_DAYS, STOCK_MONTHS, STOCK_SITE_DAYS, STOCK_SUMS
from readmodels.database import ReadModels
from readmodels.kpi_sums import Period, sums
from tests.serving import (
    Served,
    assert_problem,
    everything,
    found,
    get,
    post,
    serving_here,
    until,
)
from tests.test_folds import stored
from tests.world import ORGANISATION, a_year, company


@pytest.fixture(scope="module")
def filled(database: str) -> str:
    """A small made year, and its database."""

    async def fill() -> None:
        async with company(database) as app:
            await a_year(app, orders=400)
            await app.projector.catch_up()

    asyncio.run(fill())
    return database


@pytest.fixture(scope="module")
def served(filled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(filled, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(Role.VIEWER) as client:
        yield client


def recounted(database: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(database, row_factory=dict_row) as connection:
        return connection.execute(query, {"own": ORGANISATION}).fetchall()


def report(client: httpx.Client, name: str, **query: Any) -> dict[str, Any]:
    told: dict[str, Any] = get(client, f"/metrics/kpi/{name}/report", **query)
    return told


def year_of(client: httpx.Client) -> dict[str, str]:
    """The days of everything that was ordered."""
    days = [row["day"] for row in everything(client, "/kpis/daily", limit=500)]
    return {"from": min(days), "to": max(days)}


def test_the_catalogue_says_what_there_is(client: httpx.Client) -> None:
    told = get(client, "/metrics/kpi")["items"]
    assert [one["name"] for one in told] == list(KPIS)
    assert all(one["formula"] and one["unit"] and one["by"] for one in told)


def test_a_report_is_what_a_recount_of_the_log_gives(client: httpx.Client, filled: str) -> None:
    days = year_of(client)
    told = report(client, "late_share", by="month,site", **days)
    counted = recounted(
        filled,
        """SELECT date_trunc('month', (e.body->>'placed_at')::timestamptz AT TIME ZONE 'UTC')::date
                AS month, e.body->>'site_id' AS site_id,
            count(*) FILTER (WHERE (e.body->>'late')::bool) AS late,
            count(e.body->>'late') AS timed
        FROM (SELECT convert_from(state, 'UTF8')::jsonb AS body FROM events
              WHERE organisation_id = %(own)s AND topic LIKE 'orders.OrderDelivered.%%') e
        GROUP BY 1, 2 ORDER BY 1, 2""",
    )
    assert len(counted) > 12
    assert [(row["group"], row["sums"]) for row in told["rows"]] == [
        (
            {"month": str(row["month"]), "site_id": row["site_id"]},
            {"late": row["late"], "delivered_timed": row["timed"]},
        )
        for row in counted
    ]
    late, timed = (sum(row[name] for row in counted) for name in ("late", "timed"))
    assert told["totals"][0]["value"] == late / timed


def test_the_period_before_is_the_same_number_of_days(client: httpx.Client) -> None:
    days = year_of(client)
    first = date.fromisoformat(days["from"]) + timedelta(days=60)
    last = first + timedelta(days=29)
    told = report(client, "lead_time", **{"from": first, "to": last})
    before = report(
        client,
        "lead_time",
        **{"from": told["previous_first"], "to": told["previous_last"]},
    )
    assert told["previous_last"] == str(first - timedelta(days=1))
    assert told["previous_first"] == str(first - timedelta(days=30))
    (total,) = told["totals"]
    assert total["previous"] == before["totals"][0]["value"]
    assert total["change"] == total["value"] - total["previous"]
    assert total["is_better"] is (total["change"] < 0)


def test_limited_to_a_site_it_is_that_sites_row(client: httpx.Client) -> None:
    days = year_of(client)
    rows = report(client, "otif", by="site", **days)["rows"]
    for row in rows:
        one = report(client, "otif", site_id=row["group"]["site_id"], **days)
        assert one["totals"][0]["value"] == row["value"]
        assert one["rows"] == []


def picked(
    site_id: str, sku: str, many: int, at: datetime, reserved: int | None = None
) -> StockPicked:
    return StockPicked(
        site_id=site_id,
        sku=sku,
        quantity=Decimal(many),
        order_id="O-1",
        picked_at=at,
        reserved=None if reserved is None else Decimal(reserved),
    )


def _moves(chance: Random, first: date) -> list[Any]:
    """Stock that comes, is put aside, goes and is counted, some of it told late."""
    found: list[Any] = []
    level: dict[tuple[str, str], int] = {}
    aside: dict[tuple[str, str], int] = {}
    for number in range(400):
        key = site_id, sku = chance.choice(["S-1", "S-2"]), chance.choice(["A", "B", "C"])
        at = datetime.combine(first, datetime.min.time(), UTC) + timedelta(hours=number * 4)
        many = chance.randint(1, 6)
        held, kept = level.get(key, 0), aside.get(key, 0)
        match chance.randint(1, 4):
            case 1 if held < 5:
                found.append(
                    StockReceived(site_id=site_id, sku=sku, quantity=Decimal(many), received_at=at)
                )
                level[key] = held + many
            case 2 if held - kept > 0:
                many = min(many, held - kept)
                found.append(picked(site_id, sku, many, at))
                level[key] = held - many
            case 3 if held - kept > 0:
                many = min(many, held - kept)
                found.append(
                    StockReserved(
                        site_id=site_id,
                        sku=sku,
                        quantity=Decimal(many),
                        order_id="O-1",
                        reserved_at=at,
                    )
                )
                aside[key] = kept + many
            case 4 if kept:
                found.append(picked(site_id, sku, kept, at, kept))
                level[key], aside[key] = held - kept, 0
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_stock_told_backwards_by_postgres_is_stock_told_forwards(filled: str, seed: int) -> None:
    """Two ways to the same days: from what is in stock now, and from the first event on."""
    first = date(2026, 1, 1)
    own = uuid4()
    events = stored([(own, event) for event in _moves(Random(seed), first)])
    moves = finish(STOCK_DAYS, fold_events(STOCK_DAYS, events))
    sources = STOCK_SITE_DAYS, STOCK_MONTHS, STOCK_SUMS
    period = Period(date(2026, 2, 1), date(2026, 2, 20))

    async def asked() -> pl.DataFrame:
        async with company(filled) as app:
            async with app.log.connection() as connection:
                for table in sources:
                    rows = finish(table, fold_events(table, events))
                    names = ", ".join(rows.columns)
                    marks = ", ".join("%s" for _ in rows.columns)
                    async with connection.cursor() as cursor:
                        await cursor.executemany(
                            f"INSERT INTO read_models.{table.name} ({names}) VALUES ({marks})",
                            rows.rows(),
                        )
            read = ReadModels(app.log, own)
            now, before = (await sums(read, ["stock_days"], period, groups=["site_id"]))[
                "stock_days"
            ]
            return pl.concat([before, now])

    told = asyncio.run(asked())
    expected = stock_days(moves, period.before.first, period.last)
    assert expected["stock_outs"].sum() > 3
    assert expected["unit_days"].sum() > 0
    assert (
        told.sort("site_id", "day").rows()
        == expected.with_columns(pl.col("unit_days", "used").cast(float))
        .sort("site_id", "day")
        .rows()
    )


def test_it_is_for_who_may_read(served: Served) -> None:
    with served.nobody() as nobody:
        assert_problem(nobody.get("/api/v1/metrics/dashboard"), 401)
    with served.client(Role.VIEWER) as viewer:
        assert viewer.get("/metrics/dashboard").status_code == 200


def test_as_of_a_position_it_is_what_was_told_then(client: httpx.Client, filled: str) -> None:
    days = year_of(client)
    (half,) = recounted(
        filled,
        """SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY notification_id) AS position
        FROM events WHERE organisation_id = %(own)s AND topic LIKE 'orders.OrderDelivered.%%'""",
    )
    (counted,) = recounted(
        filled,
        f"""SELECT count(*) FILTER (WHERE (body->>'late')::bool) AS late,
            count(body->>'late') AS timed
        FROM (SELECT convert_from(state, 'UTF8')::jsonb AS body FROM events
              WHERE organisation_id = %(own)s AND topic LIKE 'orders.OrderDelivered.%%'
                AND notification_id <= {half["position"]}) e""",
    )
    told = report(client, "late_share", as_of=half["position"], **days)
    assert told["totals"][0]["value"] == counted["late"] / counted["timed"]
    whole = report(client, "late_share", **days)
    assert told["totals"] != whole["totals"]
    stock = report(client, "days_on_hand", as_of=half["position"], **days)
    assert stock["totals"][0]["value"] is not None
    assert stock["totals"] != report(client, "days_on_hand", **days)["totals"]


def test_the_dashboard_tells_what_the_reports_tell(client: httpx.Client) -> None:
    days = year_of(client)
    last = date.fromisoformat(days["to"]) - timedelta(days=20)
    period = {"from": last - timedelta(days=29), "to": last}
    told = get(client, "/metrics/dashboard", **period)
    assert {tile["kpi"]["name"] for tile in told["tiles"]} == set(KPIS)
    for tile in told["tiles"]:
        name = tile["kpi"]["name"]
        assert len(tile["series"]) == 30
        whole = report(client, name, by="day", **period)
        (total,) = [one for one in whole["totals"] if one["currency"] == tile["currency"]]
        assert tile["value"] == pytest.approx(total["value"])
        assert tile["previous"] == pytest.approx(total["previous"])
        by_day = {row["group"]["day"]: row["value"] for row in whole["rows"]}
        for point in tile["series"]:
            if by_day.get(point["day"]) is not None:
                assert point["value"] == pytest.approx(by_day[point["day"]])


def test_a_dashboard_of_one_client_has_the_kpis_that_can_be_told_so(client: httpx.Client) -> None:
    told = get(client, "/metrics/dashboard", customer_id="C-1")
    names = {tile["kpi"]["name"] for tile in told["tiles"]}
    assert names == {name for name, kpi in KPIS.items() if "client" in kpi.groups}
    assert "otif" in names
    assert "days_on_hand" not in names


def test_pictures_and_rows_for_a_spreadsheet(client: httpx.Client) -> None:
    days = year_of(client)
    for by in ("week", "month,site", "site", None):
        query = {**days, **({"by": by} if by else {}), "format": "svg"}
        answer = client.get("/metrics/kpi/late_share/report", params=query)
        assert answer.headers["content-type"] == "image/svg+xml"
        assert answer.text.startswith("<svg")
        assert ("<polyline" in answer.text) is (by in ("week", "month,site"))
        assert ("<rect" in answer.text) is True
    answer = client.get(
        "/metrics/kpi/late_share/report", params={**days, "by": "month,site", "format": "csv"}
    )
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(answer.text.splitlines()))
    told = report(client, "late_share", by="month,site", **days)["rows"]
    assert [row["site_id"] for row in rows] == [row["group"]["site_id"] for row in told]
    assert float(rows[0]["late_share"]) == told[0]["value"]
    page = client.get("/metrics/dashboard", params={"format": "html"})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<svg" in page.text
    assert "<script" not in page.text
    picture = client.get("/metrics/dashboard", params={"format": "svg"})
    assert picture.text.count("<rect") > len(KPIS) - 3


@pytest.mark.parametrize(
    ("path", "query", "status", "code", "words"),
    [
        ("/metrics/kpi/otiff/report", {}, 404, "not-found", "otif, late_share"),
        (
            "/metrics/kpi/otif/report",
            {"from": "2025-03-02", "to": "2025-03-01"},
            422,
            "bad-report",
            "2025-03-02 is after to, 2025-03-01",
        ),
        (
            "/metrics/kpi/otif/report",
            {"from": "2000-01-01", "to": "2025-03-01"},
            422,
            "bad-report",
            "9192 days; at most 1100",
        ),
        (
            "/metrics/dashboard",
            {"from": "2020-01-01", "to": "2025-03-01"},
            422,
            "bad-report",
            "400",
        ),
        (
            "/metrics/kpi/otif/report",
            {"from": "0001-01-01", "to": "0001-01-01"},
            422,
            "bad-report",
            "outside the years",
        ),
        *(  # thirty days before there are none
            (path, {"to": f"0001-01-0{day}"}, 422, "bad-report", "to: 0001-01-0")
            for path in ("/metrics/kpi/otif/report", "/metrics/dashboard")
            for day in (1, 5)
        ),
        (
            "/metrics/kpi/otif/report",
            {"from": "9999-12-31"},
            422,
            "bad-report",
            "from: 9999-12-31 is outside the years",
        ),
        (
            "/metrics/kpi/otif/report",
            {"by": "day,week"},
            422,
            "bad-report",
            "by: one of day, week, month, not day and week",
        ),
        ("/metrics/kpi/otif/report", {"by": "moon"}, 422, "bad-report", "not told by 'moon'"),
        ("/metrics/kpi/stock_outs/report", {"by": "client"}, 422, "bad-report", "but by day"),
        (
            "/metrics/kpi/stock_outs/report",
            {"customer_id": "C-1"},
            422,
            "bad-report",
            "client: stock_outs is not told by 'client'",
        ),
        ("/metrics/kpi/otif/report", {"from": "yesterday"}, 422, "invalid", "from"),
        ("/metrics/kpi/otif/report", {"currency": "EURO"}, 422, "invalid", "currency"),
        ("/metrics/kpi/otif/report", {"format": "pdf"}, 422, "invalid", "format"),
        ("/metrics/kpi/otif/report", {"site": "S-1"}, 422, "invalid", "site"),
        ("/metrics/kpi/otif/report", {"as_of": "2999-01-01T00:00:00Z"}, 422, "bad-as-of", "past"),
    ],
)
def test_what_cannot_be_reported_is_told_with_what_can(
    client: httpx.Client, path: str, query: dict[str, str], status: int, code: str, words: str
) -> None:
    told = assert_problem(client.get(path, params=query), status, code)
    assert words in told["detail"]


def test_figures_over_http(served: Served) -> None:
    with served.client(Role.ANALYST) as ana:
        body = {"name": "dock.wait", "value": "12.5", "unit": "min"}
        taken = post(ana, "/metrics", {**body, "measured_at": "2026-03-01T12:00:00Z"})
        id_ = taken["id"]
        corrected = post(ana, f"/metrics/{id_}/correct", {"value": "21.5", "reason": "swapped"})
        told = get(ana, f"/metrics/{id_}", min_position=corrected["position"])
        assert (Decimal(told["value"]), told["corrections"], told["version"]) == (
            Decimal("21.5"),
            1,
            2,
        )
        listed = get(ana, "/metrics", name="dock.wait", sort="-value", fields="metric_id,value")
        assert listed["items"] == [{"metric_id": id_, "value": "21.500"}]
        assert [one["metric_id"] for one in get(ana, "/metrics", search="K.WA")["items"]] == [id_]
        assert get(ana, "/metrics", search="k_wa")["items"] == []
        window = {
            "measured_since": "2026-03-01T00:00:00Z",
            "measured_until": "2026-03-02T00:00:00Z",
        }
        assert len(get(ana, "/metrics", **window)["items"]) == 1
        window["measured_until"] = "2026-03-01T12:00:00Z"
        assert get(ana, "/metrics", **window)["items"] == []
        past = get(ana, f"/metrics/{id_}", as_of=taken["position"])
        assert Decimal(past["value"]) == Decimal("12.5")
        gone = post(ana, f"/metrics/{id_}/withdraw", {"reason": "test"})
        assert get(ana, "/metrics", min_position=gone["position"])["items"] == []
        assert len(get(ana, "/metrics", withdrawn=True)["items"]) == 1
        history = get(ana, f"/metrics/{id_}/history")["items"]
        assert [one["what"] for one in history] == [
            "MetricRecorded",
            "MetricCorrected",
            "MetricWithdrawn",
        ]
        assert "12.5 to 21.5 min" in history[1]["sentence"]
        assert_problem(ana.post("/metrics", json={**body, "site_id": "S-X"}), 404, "site.unknown")
        assert_problem(ana.post("/metrics", json={**body, "value": "many"}), 422)
        assert_problem(ana.get("/metrics", params={"sort": "unit"}), 422, "bad-sort")
        assert_problem(ana.get("/metrics/none"), 404, "not-found")
    with served.client(Role.VIEWER) as viewer:
        assert_problem(viewer.post("/metrics", json=body), 403, "forbidden")
        assert found(viewer.get("/metrics"))["next_cursor"] is None


def test_acceptance_by_client_is_of_the_orders_that_were_decided(served: Served) -> None:
    """What Postgres sums of orders' clients and decisions' days; no model: the rule decides."""
    with served.client() as admin:
        orders = {one["customer_id"]: one for one in everything(admin, "/orders", limit=200)}
        mine, other = [one for one in orders.values() if one["status"] == "placed"][:2]
        asked = post(admin, "/decisions", {"subject_id": mine["order_id"]})
        path = f"/decisions/{asked['id']}"

        def made() -> dict[str, Any] | None:
            told: dict[str, Any] = get(admin, path, min_position=asked["position"])
            return told if told["made"] is not None else None

        decided = until(made)
        query = {"by": "client", "min_position": decided["last_position"]}
        rows = get(admin, "/metrics/kpi/decision_acceptance/report", **query)["rows"]
        assert [(row["group"], row["value"]) for row in rows] == [
            ({"customer_id": mine["customer_id"]}, 1.0)
        ]
        limited = {**query, "by": "day", "customer_id": other["customer_id"]}
        assert get(admin, "/metrics/kpi/decision_acceptance/report", **limited)["rows"] == []
