"""Training: features never see the future, the split is by time, the artifact is what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from domain.orders import OrderDelivered, OrderPlaced
from domain.values import Event
from ml.fulfilment import FULFILMENT
from ml.history import LogHistory, matrix, with_sources
from ml.models import LogFrames, NotEnoughHistory, metrics, read_log, train, training_rows
from ml.scoring import ModelUnfit, Scorer
from projections.table import LAST_POSITION
from tests.world import NOW, ORGANISATION, a_year, company, deployed_model

FIELDS: Mapping[type[Event], set[str]] = {
    OrderPlaced: {"order_id", "region", "placed_at"},
    OrderDelivered: {"order_id", "site_id", "service_level", "late"},
}


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
            return await read_log(app.log, ORGANISATION, tuple(FULFILMENT.tables), FIELDS)

    return asyncio.run(read())


def test_features_do_not_change_when_later_events_do(year: str) -> None:
    """Shuffle, drop and falsify what came after a row's position: its features stay."""
    log_frames = frames(year)
    rows = asyncio.run(training_rows(log_frames))
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
    columns = ["organisation_id", "position", "order_id", "site_id", "service_level", "region"]
    probes = early.select(*columns, "placed_at", "day")
    again = asyncio.run(with_sources(FULFILMENT, probes, LogHistory(tampered)))
    assert np.array_equal(matrix(FULFILMENT, early), matrix(FULFILMENT, again), equal_nan=True)
    late = rows.filter(pl.col("position") > cut)
    probes = late.select(*columns, "placed_at", "day")
    changed = asyncio.run(with_sources(FULFILMENT, probes, LogHistory(tampered)))
    # The test can fail: what comes after does change the later rows.
    assert not np.array_equal(matrix(FULFILMENT, late), matrix(FULFILMENT, changed), equal_nan=True)


def test_an_orders_own_delivery_is_not_among_its_features(year: str) -> None:
    rows = asyncio.run(training_rows(frames(year)))
    assert (rows["known"] > rows["position"]).all()
    for alias in ("site", "lane", "lane_service", "service", "region", "all"):
        seen = rows[f"{alias}__{LAST_POSITION}"].drop_nulls()
        assert seen.len() > 0
        assert (rows.filter(pl.col(f"{alias}__{LAST_POSITION}") > pl.col("position"))).is_empty()


def test_rows_are_the_same_in_one_pass_and_one_by_one(year: str) -> None:
    log_frames = frames(year)
    rows = asyncio.run(training_rows(log_frames))
    some = rows.sample(n=25, seed=1).sort("position")
    for row in some.iter_slices(1):
        position = row["position"][0]
        known = {
            table: part.filter(pl.col(LAST_POSITION) <= position)
            for table, part in log_frames.parts.items()
        }
        probe = row.select(
            "organisation_id", "position", "order_id", "site_id", "service_level", "region", "day"
        )
        alone = asyncio.run(with_sources(FULFILMENT, probe, LogHistory(known)))
        assert_frame_equal(alone, row.select(alone.columns))


def test_the_model_beats_its_baseline_on_later_orders(year: str) -> None:
    async def work() -> None:
        async with company(year) as app:
            trained = await deployed_model(app)
            model = trained.registration
            assert model.metrics.rows == model.baseline.rows > 100
            assert model.metrics.log_loss < model.baseline.log_loss
            assert (model.metrics.auc or 0) > (model.baseline.auc or 1)
            content = await app.artifacts.get(model.model_hash)
            assert len(content) == trained.artifact_bytes
            again = await train(app.log, app.artifacts, ORGANISATION, NOW)
            # The log went on (the model's own events), the rows are the same: so is the model.
            assert again.registration.model_hash == model.model_hash
            with pytest.raises(ModelUnfit, match="other features"):
                Scorer(content, [*FULFILMENT.feature_names[1:], "something_else"])
            with pytest.raises(ModelUnfit, match="no XGBoost model"):
                Scorer(b"{}", FULFILMENT.feature_names)

    asyncio.run(work())


def test_too_little_history_is_said(year: str) -> None:
    async def work() -> None:
        from uuid import UUID

        async with company(year) as app:
            with pytest.raises(NotEnoughHistory, match="no order"):
                await train(app.log, app.artifacts, UUID(int=404), NOW)

    asyncio.run(work())


def test_metrics_by_hand() -> None:
    truth = np.array([0.0, 0.0, 1.0, 1.0])
    found = metrics(truth, np.array([0.1, 0.4, 0.35, 0.8]))
    assert found.auc == 0.75  # three of four pairs in the right order
    assert found.brier == round((0.01 + 0.16 + 0.4225 + 0.04) / 4, 4)
    assert metrics(truth, np.array([0.5, 0.5, 0.5, 0.5])).auc == 0.5
    assert metrics(np.ones(3), np.array([0.9, 0.9, 0.9])).auc is None
