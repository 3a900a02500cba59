"""Training: features never see the future, the split is by time, the artifact is what it says."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import numpy as np
import polars as pl
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from domain.models import RegisterModel
from ml.calibration import calibrate
from ml.fulfilment import FULFILMENT
from ml.history import LogHistory, matrix, with_sources
from ml.kind import Kind
from ml.models import (
    LEAST_OF_SEGMENT,
    LEAST_ROWS,
    LogFrames,
    NotEnoughHistory,
    _fitted,
    _segments,
    _Split,
    _split,
    loaded,
    metrics,
    read_log,
    saved,
    train,
    training_rows,
)
from ml.scoring import ModelUnfit, Scorer, base_score
from projections.table import LAST_POSITION
from tests.world import NOW, ORGANISATION, a_year, company, deployed_model

#: What a training row is before its sources are joined to it.
PROBES = [
    "organisation_id",
    "position",
    "order_id",
    "site_id",
    "service_level",
    "vehicle_id",
    "region",
    "day",
]


@pytest.fixture(scope="module")
def year(database: str) -> str:
    """A database with a small year."""

    async def fill() -> None:
        async with company(database) as app:
            await a_year(app)

    asyncio.run(fill())
    return database


def frames(url: str) -> LogFrames:
    async def read() -> LogFrames:
        async with company(url) as app:
            return await read_log(app.url, app.log, ORGANISATION, FULFILMENT)

    return asyncio.run(read())


def test_features_do_not_change_when_later_events_do(year: str) -> None:
    """Shuffle, drop and falsify what came after a row's position: its features stay."""
    log_frames = frames(year)
    rows = asyncio.run(training_rows(FULFILMENT, log_frames))
    cut = int(rows["position"].median())  # type: ignore[arg-type]
    random = Random(5)
    tampered = {}
    for table, part in log_frames.parts.items():
        before = part.filter(pl.col(LAST_POSITION) <= cut)
        after = part.filter(pl.col(LAST_POSITION) > cut)
        later = after[LAST_POSITION].to_list()
        kept = after.sample(fraction=0.6, shuffle=True, seed=3)
        kept = kept.with_columns(
            pl.Series(LAST_POSITION, sorted(random.sample(later, kept.height)), pl.Int64)
        )
        tampered[table] = pl.concat([before, kept])
    early = rows.filter(pl.col("position") <= cut)
    assert early.height > 200
    probes = early.select(PROBES)
    again = asyncio.run(with_sources(FULFILMENT, probes, LogHistory(tampered)))
    assert np.array_equal(matrix(FULFILMENT, early), matrix(FULFILMENT, again), equal_nan=True)
    late = rows.filter(pl.col("position") > cut)
    probes = late.select(PROBES)
    changed = asyncio.run(with_sources(FULFILMENT, probes, LogHistory(tampered)))
    # The test can fail: what comes after does change the later rows.
    assert not np.array_equal(matrix(FULFILMENT, late), matrix(FULFILMENT, changed), equal_nan=True)


def test_an_orders_own_delivery_is_not_among_its_features(year: str) -> None:
    rows = asyncio.run(training_rows(FULFILMENT, frames(year)))
    assert (rows["known"] > rows["position"]).all()
    for alias in ("site", "lane", "lane_service", "service", "region", "all"):
        seen = rows[f"{alias}__{LAST_POSITION}"].drop_nulls()
        assert seen.len() > 0
        assert (rows.filter(pl.col(f"{alias}__{LAST_POSITION}") > pl.col("position"))).is_empty()


def test_rows_are_the_same_in_one_pass_and_one_by_one(year: str) -> None:
    log_frames = frames(year)
    rows = asyncio.run(training_rows(FULFILMENT, log_frames))
    some = rows.sample(n=25, seed=1).sort("position")
    for row in some.iter_slices(1):
        position = row["position"][0]
        known = {
            table: part.filter(pl.col(LAST_POSITION) <= position)
            for table, part in log_frames.parts.items()
        }
        probe = row.select(PROBES)
        alone = asyncio.run(with_sources(FULFILMENT, probe, LogHistory(known)))
        assert_frame_equal(alone, row.select(alone.columns))


def test_the_model_beats_its_baseline_on_later_orders(year: str) -> None:
    async def work() -> None:
        async with company(year) as app:
            trained = await deployed_model(app)
            model = trained.registration
            assert model.metrics.rows == model.baseline.rows > 100
            assert not model.metrics.fit_worse_than(model.baseline)
            assert model.metrics.log_loss != model.baseline.log_loss
            assert (model.metrics.auc or 0) > (model.baseline.auc or 1)
            content = await app.artifacts.get(model.model_hash)
            assert len(content) == trained.artifact_bytes
            again = await train(app.url, app.log, app.artifacts, ORGANISATION, FULFILMENT, NOW)
            # The log went on (the model's own events), the rows are the same: so is the model.
            assert again.registration.model_hash == model.model_hash
            with pytest.raises(ModelUnfit, match="other features"):
                Scorer(content, [*FULFILMENT.feature_names[1:], "something_else"])
            with pytest.raises(ModelUnfit, match="no XGBoost model"):
                Scorer(b"{}", FULFILMENT.feature_names)

    asyncio.run(work())


# the split


def ids(rows: pl.DataFrame) -> set[int]:
    return set(rows["position"].to_list())


def check_split(rows: pl.DataFrame, split: _Split) -> None:
    """What is learned from was known before what is calibrated by began, and that before what is
    judged by began."""
    fit, calibrating, test = split.fit, split.calibrate, split.test
    assert not ids(fit) & ids(calibrating)
    assert not (ids(fit) | ids(calibrating)) & ids(test)
    assert ids(fit) | ids(calibrating) | ids(test) <= ids(rows)
    assert fit["known"].max() < calibrating["position"].min()  # type: ignore[operator]
    assert fit["known"].max() < test["position"].min()  # type: ignore[operator]
    assert calibrating["known"].max() < test["position"].min()  # type: ignore[operator]
    # The split is by time: nothing of the last quarter is learned from, and all of it judges.
    assert ids(rows.filter(pl.col("at") >= split.at)) <= ids(test)
    assert min(fit.height, calibrating.height, test.height) >= LEAST_ROWS


def test_no_row_that_judges_was_learned_from(year: str) -> None:
    rows = asyncio.run(training_rows(FULFILMENT, frames(year)))
    split = _split(FULFILMENT, rows)
    check_split(rows, split)
    # Orders that were under way when the test began belong to nobody.
    nobody = ids(rows) - ids(split.fit) - ids(split.calibrate) - ids(split.test)
    assert 0 < len(nobody) < rows.height / 5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(300, 500), st.integers(1, 120))
def test_no_order_of_times_and_outcomes_mixes_the_sides(
    seed: int, count: int, longest: int
) -> None:
    """Also where cases are recorded in another order than they happened."""
    random = np.random.default_rng(seed)
    position = np.sort(random.choice(5 * count, count, replace=False)) + 1
    days = np.sort(random.uniform(0, 300, count)) + random.uniform(-3, 3, count)
    rows = pl.DataFrame(
        {
            "position": position,
            "known": position + random.integers(1, longest + 1, count),
            "at": [NOW + timedelta(days=float(day)) for day in days],
            "occurred": random.random(count) < 0.3,
        }
    )
    try:
        split = _split(FULFILMENT, rows)
    except NotEnoughHistory:
        return
    check_split(rows, split)


def test_where_all_happened_at_once_there_is_not_enough() -> None:
    rows = pl.DataFrame(
        {
            "position": range(1, 401),
            "known": range(2, 402),
            "at": [NOW] * 400,
            "occurred": [n % 3 == 0 for n in range(400)],
        }
    )
    with pytest.raises(NotEnoughHistory, match="0 cases of fulfilment to learn from"):
        _split(FULFILMENT, rows)


@pytest.mark.parametrize("outcome", [True, False])
def test_one_outcome_alone_teaches_nothing(outcome: bool) -> None:
    rows = pl.DataFrame(
        {
            "position": range(1, 401),
            "known": range(2, 402),
            "at": [NOW + timedelta(days=n) for n in range(400)],
            "occurred": [outcome] * 400,
        }
    )
    with pytest.raises(NotEnoughHistory, match="both outcomes are needed"):
        _split(FULFILMENT, rows)


# what is stored


@dataclass(frozen=True)
class Kept:
    """A training, what it left in the store, and its split made again."""

    model: RegisterModel
    content: bytes
    learned: bytes
    split: _Split


@pytest.fixture(scope="module")
def kept(year: str) -> Kept:
    async def work() -> Kept:
        async with company(year) as app:
            model = (
                await train(app.url, app.log, app.artifacts, ORGANISATION, FULFILMENT, NOW)
            ).registration
            log_frames = await read_log(app.url, app.log, ORGANISATION, FULFILMENT)
            assert model.training.data_hash is not None
            return Kept(
                model,
                await app.artifacts.get(model.model_hash),
                await app.artifacts.get(model.training.data_hash),
                _split(FULFILMENT, await training_rows(FULFILMENT, log_frames)),
            )

    return asyncio.run(work())


def test_the_rows_that_were_learned_from_are_kept_and_made_again(kept: Kept) -> None:
    """From the log alone: their hash is that of the artifact."""
    fit = kept.split.fit
    rows = matrix(FULFILMENT, fit)
    truth = fit["occurred"].to_numpy().astype(np.float32)
    found = loaded(kept.learned)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.column_stack([rows, truth]), equal_nan=True)
    again = saved(np.column_stack([rows, truth]))
    assert hashlib.sha256(again).hexdigest() == kept.model.training.data_hash
    assert found.shape == (kept.model.training.train_rows, len(FULFILMENT.feature_names) + 1)
    assert kept.model.training.calibrated_on == kept.split.calibrate.height
    assert kept.model.training.split_at == kept.split.at
    assert kept.model.training.query == FULFILMENT.examples.query


def test_what_the_event_says_is_enough_to_train_it_again(kept: Kept) -> None:
    """The kept rows and the event's parameters give the same numbers to the bit."""
    found, names = loaded(kept.learned), list(kept.model.training.features)
    parameters = dict(kept.model.training.parameters)
    rounds = int(parameters.pop("rounds"))
    data = xgboost.DMatrix(found[:, :-1], label=found[:, -1], feature_names=names, nthread=1)
    again = xgboost.train(parameters, data, num_boost_round=rounds)
    rows = matrix(FULFILMENT, kept.split.test)
    test = xgboost.DMatrix(rows, feature_names=names, nthread=1)
    theirs = Scorer(kept.content, names).score(rows)
    assert np.array_equal(again.predict(test, output_margin=True), theirs.margins)
    assert base_score(again) == kept.model.training.base_score


@pytest.mark.parametrize("direction", [1, -1])
def test_a_model_is_held_to_what_a_feature_can_only_do(kept: Kept, direction: int) -> None:
    """Even where the rows say otherwise: one direction of the two is against them."""
    name = FULFILMENT.examples.baseline
    held = replace(
        FULFILMENT,
        features=[
            replace(one, monotone=direction if one.name == name else 0)
            for one in FULFILMENT.features
        ],
    )
    rows = matrix(held, kept.split.test)
    column = held.feature_names.index(name or "")

    def steps(kind: Kind) -> np.ndarray[Any, Any]:
        """What each step upwards makes of each row's margin."""
        booster = _fitted(kind, kept.split)
        found = []
        for value in np.linspace(0, 1, 40):
            rows[:, column] = value
            data = xgboost.DMatrix(rows, feature_names=list(kind.feature_names), nthread=1)
            found.append(booster.predict(data, output_margin=True))
        return np.diff(np.stack(found), axis=0) * direction

    assert (steps(held) >= 0).all()
    # The test can fail: without it, the trees do what the rows say.
    assert (steps(FULFILMENT) < 0).any()


def test_the_event_says_what_a_model_is_held_to(year: str) -> None:
    [first, *others] = FULFILMENT.features
    held = replace(FULFILMENT, features=[replace(first, monotone=-1), *others])

    async def work() -> RegisterModel:
        async with company(year) as app:
            trained = await train(app.url, app.log, app.artifacts, ORGANISATION, held, NOW)
            return trained.registration

    zeros = ",".join("0" for _ in others)
    told = asyncio.run(work()).training.parameters["monotone_constraints"]
    assert told == f"(-1,{zeros})"


def test_the_calibration_is_inside_the_artifact(kept: Kept) -> None:
    scorer = Scorer(kept.content, FULFILMENT.feature_names)
    rows = kept.split.calibrate
    scores = scorer.score(matrix(FULFILMENT, rows))
    truth = rows["occurred"].to_numpy().astype(float)
    assert scorer.calibration == calibrate(scores.probabilities.astype(np.float64), truth)
    assert np.array_equal(scores.risks, scorer.calibration(scores.probabilities.astype(np.float64)))
    assert not np.array_equal(scores.risks, scores.probabilities)
    # A model without one is not taken.
    bare = xgboost.Booster()
    bare.load_model(bytearray(kept.content))
    bare.set_attr(chainlytics_calibration=None)
    with pytest.raises(ModelUnfit, match="without a calibration"):
        Scorer(bytes(bare.save_raw("ubj")), FULFILMENT.feature_names)


def test_the_metrics_are_of_the_calibrated_risks_of_the_later_part(kept: Kept) -> None:
    test = kept.split.test
    truth = test["occurred"].to_numpy().astype(float)
    rows = matrix(FULFILMENT, test)
    scorer = Scorer(kept.content, FULFILMENT.feature_names)
    assert kept.model.metrics == metrics(truth, scorer.risks(rows)[1])
    column = FULFILMENT.feature_names.index("lane_late_share")
    assert kept.model.baseline == metrics(truth, rows[:, column].astype(float))


def test_the_metrics_of_segments_add_up_to_the_whole(kept: Kept) -> None:
    whole, test = kept.model.metrics, kept.split.test
    assert whole.rows == test.height
    for column in FULFILMENT.examples.segments:
        parts = {one.value: one.metrics for one in kept.model.segments if one.column == column}
        counts = dict(test[column].value_counts().rows())
        told = {value: n for value, n in counts.items() if n >= LEAST_OF_SEGMENT}
        assert {value: one.rows for value, one in parts.items()} == told
        for value, one in parts.items():
            late = test.filter(pl.col(column) == value)["occurred"].sum()
            assert one.late_share == round(late / one.rows, 4)


def test_segments_without_a_least_size_are_the_whole(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.models.LEAST_OF_SEGMENT", 1)
    whole, test = kept.model.metrics, kept.split.test
    _, risks = Scorer(kept.content, FULFILMENT.feature_names).risks(matrix(FULFILMENT, test))
    truth = test["occurred"].to_numpy().astype(float)
    found = _segments(FULFILMENT, test, truth, risks)
    assert set(kept.model.segments) < set(found)
    for column in FULFILMENT.examples.segments:
        parts = [one.metrics for one in found if one.column == column]
        assert sum(one.rows for one in parts) == whole.rows
        for name in ("late_share", "brier", "log_loss", "accuracy"):
            mean = sum(one.rows * getattr(one, name) for one in parts) / whole.rows
            assert mean == pytest.approx(getattr(whole, name), abs=1e-4)


def test_too_little_history_is_said(year: str) -> None:
    async def work() -> None:
        async with company(year) as app:
            with pytest.raises(NotEnoughHistory, match="no case of fulfilment"):
                await train(app.url, app.log, app.artifacts, UUID(int=404), FULFILMENT, NOW)

    asyncio.run(work())


def test_metrics_by_hand() -> None:
    truth = np.array([0.0, 0.0, 1.0, 1.0])
    found = metrics(truth, np.array([0.1, 0.4, 0.35, 0.8]))
    assert found.auc == 0.75  # three of four pairs in the right order
    assert found.brier == round((0.01 + 0.16 + 0.4225 + 0.04) / 4, 4)
    assert metrics(truth, np.array([0.5, 0.5, 0.5, 0.5])).auc == 0.5
    assert metrics(np.ones(3), np.array([0.9, 0.9, 0.9])).auc is None
