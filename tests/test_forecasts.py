"""Forecasts of demand: formulas by hand and on public series, rules, and all of it over HTTP."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from domain.access import Role
from domain.forecasts import ForecastMade, RecordForecast
from domain.inventory import PickStock, ReceiveStock
from domain.sites import OpenSite, ServiceLevel, Site, open_site
from ml.demand import AHEAD, BACK, FEATURES, features
from ml.estimate_training import demand_rows, train_estimate
from ml.estimates import DEMAND
from ml.estimating import Regressor
from ml.forecasting import (
    forecast,
    mase_scale,
    naive2,
    sba,
    seasonal,
    ses,
    smape,
    theta,
)
from ml.models import NotEnoughHistory
from readmodels.forecasts import judged
from tests.serving import Served, assert_problem, get, serving_here, until
from tests.spec import given, problems
from tests.world import ORGANISATION, company, context, deploy

DATA = Path(__file__).parents[2] / "shared" / "data"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

# formulas, reckoned by hand


def test_croston_takes_sizes_and_intervals_apart() -> None:
    # Demands of 4 on day 2, 6 on day 4, alpha 0.5: size 5, interval 2 + 0.5 * (2 - 2) = 2;
    # (1 - 0.25) * 5 / 2 = 1.875
    level, variance = sba(np.array([0.0, 4, 0, 6]), alpha=0.5)
    assert level == pytest.approx(1.875)
    # share 1/2, variance of sizes 1: 1/2 * 1 + 1/4 * 25
    assert variance == pytest.approx(6.75)


def test_exponential_smoothing_takes_the_best_alpha() -> None:
    # Whoever follows a walk at once is wrong by its steps, the first one left out.
    level, alpha, variance = ses(np.array([1.0, 3, 5, 7, 9, 11]))
    assert (level, alpha) == (11.0, 1.0)
    assert variance == pytest.approx(5 * 2**2 / 5)
    # What swings about a level is followed slowly, from that level on.
    level, alpha, _ = ses(np.array([4.0, 6] * 50))
    assert alpha == pytest.approx(0.01)
    assert level == pytest.approx(5, abs=0.02)


def test_theta_goes_on_with_half_of_the_slope() -> None:
    # A straight line: slope 2, alpha 1: level 2 * 9, then + 1 * (h - 1 + 1)
    told, alpha, _ = theta(2 * np.arange(10.0), 3)
    assert alpha == 1.0
    assert told == pytest.approx([19, 20, 21])


def test_naive2_repeats_seasons() -> None:
    # A week whose Sundays are three times as strong, level 9 a day
    week = np.array([6.0, 6, 6, 6, 6, 6, 18])
    series = np.tile(week, 8)
    assert naive2(series, 7, 7) == pytest.approx(week, rel=1e-6)
    assert naive2(np.arange(1.0, 9), 3, 7) == pytest.approx([8, 8, 8])


@pytest.mark.parametrize(
    ("series", "technique", "first"),
    [
        ([0, 3, 0, 3], "mean", 1.5),
        ([5] * 40, "theta_weekly", 5.0),
        ([0, 0, 0, 4] * 12, "croston_sba", 0.95),
        ([0] * 60 + [1, 0, 2], "mean", 3 / 63),
    ],
)
def test_the_rule_chooses_by_the_series(series: list[float], technique: str, first: float) -> None:
    told = forecast(series, 14)
    assert told.technique == technique
    assert told.values[0] == pytest.approx(first, rel=1e-6)
    assert told.total == pytest.approx(told.values.sum())
    assert (told.low <= told.values).all()
    assert (told.values <= told.high).all()
    assert (told.low >= 0).all()
    assert told.total_low <= told.total <= told.total_high


def test_bands_hold_what_they_say() -> None:
    """Four of five days of a made-up demand, whose seeds are fixed, lie within."""
    chance = np.random.default_rng(11)
    inside = []
    for _ in range(60):
        drawn = chance.poisson(20, 200).astype(float)
        told = forecast(drawn[:172], 28)
        inside.append(((told.low <= drawn[172:]) & (drawn[172:] <= told.high)).mean())
    assert 0.75 < float(np.mean(inside)) < 0.9


@pytest.mark.parametrize("series", [[], [0, 0, 0]])
def test_nothing_is_foretold_from_nothing(series: list[float]) -> None:
    with pytest.raises(ValueError, match="nothing was asked for"):
        forecast(series, 7)
    with pytest.raises(ValueError, match="horizon"):
        forecast([1], 0)


@pytest.mark.skipif(not (DATA / "m4_weekly").is_dir(), reason="the public series are not here")
def test_the_methods_are_as_good_as_published_on_m4_weekly() -> None:
    """Naive2 to the published 9.161 and 2.777; exponential smoothing (9.012) and theta (9.093)
    within 1 %."""
    train = pl.read_csv(DATA / "m4_weekly/Weekly-train.csv.gz", infer_schema_length=0)
    test = pl.read_csv(DATA / "m4_weekly/Weekly-test.csv.gz", infer_schema_length=0)
    off: dict[str, list[float]] = {"naive2": [], "ses": [], "theta": []}
    scaled: list[float] = []
    for known, came in zip(train.iter_rows(), test.iter_rows(), strict=True):
        series = np.array([float(one) for one in known[1:] if one not in (None, "")])[-600:]
        actual = np.array([float(one) for one in came[1:] if one not in (None, "")])
        told = naive2(series, 13, 1)
        off["naive2"].append(smape(actual, told))
        off["ses"].append(smape(actual, np.full(13, ses(series)[0])))
        off["theta"].append(smape(actual, theta(series, 13)[0]))
        scale = mase_scale(np.array([float(one) for one in known[1:] if one not in (None, "")]))
        assert scale is not None
        scaled.append(float(np.abs(told - actual).mean()) / scale)
    found = {name: float(np.mean(values)) for name, values in off.items()}
    assert found["naive2"] == pytest.approx(9.161, abs=0.001)
    assert float(np.mean(scaled)) == pytest.approx(2.777, abs=0.001)
    assert found["ses"] == pytest.approx(9.012, rel=0.01)
    assert found["theta"] == pytest.approx(9.093, rel=0.01)


@pytest.mark.skipif(not (DATA / "m3_monthly").is_dir(), reason="the public series are not here")
def test_theta_with_seasons_is_as_good_as_published_on_m3_monthly() -> None:
    """THETA 13.89, NAIVE2 16.89 (sMAPE); a third of the series, against the stored forecasts."""
    series = pl.read_parquet(DATA / "m3_monthly/series.parquet").sort("sn", "t")
    stored = pl.read_parquet(DATA / "m3_monthly/forecasts_24_methods.parquet").sort("sn", "h")
    names = series["sn"].unique().sort().to_list()[::3]
    parts = series.filter(pl.col("sn").is_in(names)).partition_by("sn", as_dict=True)
    told = stored.filter(pl.col("method") == "THETA").partition_by("sn", as_dict=True)
    ours, theirs = [], []
    for key, part in parts.items():
        known = part.filter(pl.col("split") == "train")["value"].to_numpy()
        came = part.filter(pl.col("split") != "train")["value"].to_numpy()
        ours.append(smape(came, seasonal(known, len(came), 12)[0]))
        theirs.append(smape(came, told[key]["forecast"].to_numpy()))
    assert float(np.mean(ours)) == pytest.approx(float(np.mean(theirs)), rel=0.02)


# rules

FORECAST = RecordForecast(
    site_id="S-1",
    sku="A",
    from_day=date(2026, 3, 2),
    as_of=7,
    method="rule-based",
    model_hash="a" * 64,
    technique="mean",
    input_hash="b" * 64,
    history_days=10,
    values=(1.0, 2.0),
    low=(0.0, 1.0),
    high=(2.0, 3.0),
    total=3.0,
    total_low=1.0,
    total_high=5.0,
    scale=None,
    sentence="3 pieces",
    made_at=NOON,
)
LEVELS = (ServiceLevel(code="standard", cost_minor=1, carbon_g=1),)
opened = open_site(
    Site(),
    OpenSite(site_id="S-1", region="BE", daily_capacity=10, service_levels=LEVELS, opened_at=NOON),
)[0]
made = ForecastMade(**FORECAST.model_dump(), horizon_days=2, made_by="ana")


def test_a_forecast_is_recorded_once() -> None:
    given().reading(opened).when(FORECAST).then(made)
    later = FORECAST.model_copy(update={"made_at": NOON + timedelta(hours=1)})
    given(made).reading(opened).when(later).then()
    other = FORECAST.model_copy(update={"as_of": 9})
    given(made).reading(opened).when(other, "ben").then(
        made.model_copy(update={"as_of": 9, "made_by": "ben"})
    )


def test_a_forecast_that_knows_less_does_not_follow() -> None:
    older = FORECAST.model_copy(update={"as_of": 6})
    given(made).reading(opened).when(older).refused("forecast.knows_less", as_of=6, last_as_of=7)
    looking_back = older.model_copy(update={"from_day": date(2026, 2, 1)})
    assert len(given(made).reading(opened).when(looking_back).events) == 1


def test_a_site_that_nobody_knows_has_no_forecast() -> None:
    given().when(FORECAST).refused("site.unknown", site_id="S-1")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"values": (1.0,)}, "one of each for every day"),
        ({"low": (1.5, 1.0)}, "between its low and its high"),
        ({"values": ()}, "values"),
        ({"method": "guessed"}, "method"),
        ({"values": (math.nan, 1.0)}, "values"),
        ({"scale": 0}, "scale"),
    ],
)
def test_wrong_forecasts_are_refused_in_words(fields: dict[str, Any], words: str) -> None:
    assert words in problems(RecordForecast, **{**FORECAST.model_dump(), **fields})


# how good they were, by hand


def test_accuracy_counts_days_that_are_over() -> None:
    told = made.model_copy(
        update={
            "values": (2.0, 4.0, 1.0, 9.0),
            "low": (1.0, 3.0, 0.0, 8.0),
            "high": (3.0, 5.0, 2.0, 10.0),
            "horizon_days": 4,
            "scale": 2.0,
        }
    )
    came = {date(2026, 3, 2): 4.0, date(2026, 3, 3): 4.0}  # the third day had none
    found = judged(1, told, came, date(2026, 3, 5))
    assert (found.days, found.foretold, found.came) == (3, 7.0, 8.0)
    # errors -2, 0, 1
    assert found.bias == pytest.approx(-1 / 3, abs=1e-6)
    assert found.mae == pytest.approx(1.0)
    assert found.mape == pytest.approx((0.5 + 0) / 2)
    assert found.mase == pytest.approx(0.5)
    assert found.within == pytest.approx(2 / 3, abs=1e-6)
    nothing = judged(1, told, came, date(2026, 3, 1))
    assert (nothing.days, nothing.mae, nothing.within) == (0, None, None)


# what a model sees and learns


def test_a_model_sees_shares_of_what_is_usual() -> None:
    series = np.tile([1.0, 1, 1, 1, 1, 2, 0], 8)
    rows = features(series, date(2026, 3, 2), 30)
    names = list(FEATURES)
    assert rows.shape == (30, len(names))
    assert rows[:, names.index("days_ahead")].tolist() == [*range(1, 29), 22, 23]
    assert rows[5, names.index("weekday")] == 6
    assert rows[5, names.index("same_weekday")] == 2
    assert np.array_equal(rows, features(series * 50, date(2026, 3, 2), 30))


def test_too_short_a_history_is_not_learned_from() -> None:
    with pytest.raises(NotEnoughHistory, match="eight weeks"):
        demand_rows({})


# over HTTP

FIRST = datetime(2025, 7, 7, 9, tzinfo=UTC)  # a Monday
DAYS = 330


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A site with three stocks: one with weeks, one that hardly ever goes, one that nobody wants;
    and a model of demand that is approved but not deployed."""

    async def fill() -> None:
        chance = np.random.default_rng(3)
        async with company(database) as app:
            for site in ("S-1", "S-2"):
                command = OpenSite(
                    site_id=site,
                    region="BE",
                    daily_capacity=10,
                    service_levels=LEVELS,
                    opened_at=FIRST,
                )
                await app.bus.execute(command, context())
            sent: list[Any] = [
                ReceiveStock(site_id="S-1", sku=sku, quantity=Decimal(10**6), received_at=FIRST)
                for sku in ("WEEKLY", "SELDOM", "NEVER")
            ]
            for number in range(DAYS):
                at = FIRST + timedelta(days=number)
                weekly = 2 + (6 if at.isoweekday() == 5 else 0) + int(chance.integers(0, 3))
                wanted = {"WEEKLY": weekly, "SELDOM": 4 if number % 9 == 4 else 0}
                sent += [
                    PickStock(site_id="S-1", sku=sku, quantity=Decimal(pieces), picked_at=at)
                    for sku, pieces in wanted.items()
                    if pieces
                ]
            results = await app.bus.execute_many([(one, context()) for one in sent])
            assert not [one for one in results if isinstance(one, Exception)]

    asyncio.run(fill())
    with serving_here(database, tmp_path_factory.mktemp("home")) as (found, _):
        yield found


FROM = (FIRST + timedelta(days=DAYS)).date().isoformat()
_HEAD = {"site_id": "S-1", "from_day": FROM}


def foretold(client: Any, **asked: Any) -> list[dict[str, Any]]:
    def ask() -> Any:
        answer = client.post("/forecasts", json={**_HEAD, **asked})
        # The projector may not have come to the picks yet.
        if answer.status_code == 409 and "nothing_known" in answer.text:
            return None
        assert answer.status_code == 201, answer.text
        items = answer.json()["items"]
        behind = any(one["history_days"] < DAYS - 10 for one in items)
        return None if behind else answer.json()

    return list(until(ask, 20)["items"])


def test_a_forecast_is_made_by_the_rule_and_says_so(served: Served) -> None:
    with served.client(Role.ANALYST, actor="planner") as client:
        [weekly] = foretold(client, sku="WEEKLY", horizon_days=14)
        assert (weekly["method"], weekly["technique"]) == ("rule-based", "theta_weekly")
        assert weekly["model_hash"] == DEMAND.hash
        assert "rule-based" in weekly["sentence"]
        assert weekly["days"][0]["day"] == FROM
        by_weekday = {date.fromisoformat(one["day"]).isoweekday(): one for one in weekly["days"]}
        assert by_weekday[5]["value"] > 2 * by_weekday[2]["value"]
        [seldom] = foretold(client, sku="SELDOM", horizon_days=90)
        assert seldom["technique"] == "croston_sba"
        # 4 pieces every 9 days, less the bias of 5 %
        assert seldom["days"][0]["value"] == pytest.approx(0.95 * 4 / 9, rel=0.02)
        assert sorted(one["sku"] for one in foretold(client)) == ["SELDOM", "WEEKLY"]
        shown = get(client, "/forecasts/S-1/WEEKLY", min_position=weekly["last_position"])
        assert shown["made_by"] == "planner"
        told = get(client, "/forecasts", site_id="S-1", search="week", rule_based=True)
        assert [one["sku"] for one in told["items"]] == ["WEEKLY"]
        history = get(client, "/forecasts/S-1/SELDOM/history")["items"]
        assert history[0]["what"] == "ForecastMade"
        answer = client.get("/forecasts/S-1/WEEKLY/picture.svg")
        assert answer.headers["content-type"] == "image/svg+xml"
        assert answer.text.startswith("<svg")
        assert 'class="band"' in answer.text
        assert "rule-based" in answer.text


def test_the_same_question_changes_nothing_and_replays_to_the_byte(served: Served) -> None:
    with served.client() as client:
        [first] = foretold(client, sku="WEEKLY", horizon_days=7)
        [second] = foretold(client, sku="WEEKLY", horizon_days=7)
        assert second["version"] == first["version"]
        again = client.post("/forecasts/S-1/WEEKLY/replay").json()
        assert (again["same"], again["differs"]) == (True, [])
        older = client.post("/forecasts/S-1/WEEKLY/replay", params={"version": 1}).json()
        assert older["same"]


def test_past_forecasts_are_held_against_what_came(served: Served) -> None:
    start = (FIRST + timedelta(days=DAYS - 28)).date().isoformat()
    with served.client() as client:
        foretold(client, sku="WEEKLY", horizon_days=7)  # the series is there

        def ask() -> Any:
            body = {"site_id": "S-1", "sku": "WEEKLY", "from_day": start, "horizon_days": 28}
            answer = client.post("/forecasts", json=body)
            return answer.json() if answer.status_code == 201 else None

        version = until(ask)["items"][0]["version"]
        told = client.get("/forecasts/S-1/WEEKLY/accuracy", params={"until": FROM}).json()
        mine = next(one for one in told if one["version"] == version)
        assert mine["days"] == 28
        assert mine["mase"] < 1
        assert 0.5 < mine["within"] <= 1
        assert abs(mine["bias"]) < 1.5


def test_a_deployed_model_foretells_in_place_of_the_rule(served: Served, database: str) -> None:
    async def learn() -> str:
        async with company(database) as app:
            trained = await train_estimate(
                app.url, app.log, app.artifacts, ORGANISATION, DEMAND, FIRST
            )
            await deploy(app, trained)
            await app.projector.catch_up()
            mine = trained.registration
            assert mine.metrics.mae is not None
            assert mine.baseline.mae is not None
            assert mine.metrics.late_share is None
            model = Regressor(await app.artifacts.get(mine.model_hash), DEMAND)
            series = np.tile([1.0, 1, 1, 1, 1, 2, 0], BACK // 7)
            told = model.estimate(features(series, date(2026, 3, 2), AHEAD))
            sums = told.contributions.sum(axis=1)
            assert sums == pytest.approx(told.margins, abs=1e-4)
            assert np.exp(told.margins) == pytest.approx(told.values, rel=1e-4)
            return mine.model_hash

    model_hash = asyncio.run(learn())
    with served.client() as client:
        get(client, "/models/live")

        def ask() -> Any:
            [found] = foretold(client, sku="WEEKLY", horizon_days=21)
            return found if found["method"] != "rule-based" else None

        told = until(ask)
        assert told["method"] == told["model_hash"] == model_hash
        assert told["technique"] == "model"
        assert client.post("/forecasts/S-1/WEEKLY/replay").json()["same"]
        shown = client.get(f"/models/{model_hash}/card")
        assert shown.status_code == 200, shown.text
        stop = client.post(f"/models/{model_hash}/stop", json={"reason": "odd"})
        assert stop.status_code == 200, stop.text
        get(client, "/models/live", min_position=stop.json()["position"])
        body = {**_HEAD, "sku": "WEEKLY"}
        assert_problem(client.post("/forecasts", json=body), 409, "estimate.model_stopped")
        retired = client.post(f"/models/{model_hash}/retire", json={"reason": "odd"})
        get(client, "/models/live", min_position=retired.json()["position"])
        [by_rule] = foretold(client, sku="WEEKLY", horizon_days=5)
        assert by_rule["method"] == "rule-based"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"sku": "NEVER"}, 409, "forecast.nothing_known"),
        ({"site_id": "S-2"}, 409, "forecast.nothing_known"),
        ({"site_id": "S-404"}, 404, "not-found"),
        ({"horizon_days": 0}, 422, None),
        ({"horizon_days": 91}, 422, None),
        ({"sku": "a b"}, 422, None),
        ({"from_day": "yesterday"}, 422, None),
        ({"from_day": "1900-01-01"}, 422, None),
        ({"days": 7}, 422, None),
    ],
)
def test_bad_questions_get_clear_answers(
    served: Served, body: dict[str, Any], status: int, code: str | None
) -> None:
    with served.client() as client:
        answer = client.post("/forecasts", json={**_HEAD, **body})
        assert_problem(answer, status, code)


def test_who_may_not_plan_may_look(served: Served) -> None:
    with served.client(Role.VIEWER) as client:
        assert_problem(client.post("/forecasts", json=_HEAD), 403)
        assert client.get("/forecasts").status_code == 200
        assert_problem(client.get("/forecasts/S-1/NEVER"), 404)
        assert_problem(client.get("/forecasts/S-1/NEVER/accuracy"), 404)
        assert_problem(client.get("/forecasts/S-1/NEVER/picture.svg"), 404)
        assert_problem(client.get("/forecasts/S-1/NEVER/history"), 404)
        assert_problem(client.get("/forecasts", params={"sort": "colour"}), 422)
