"""Training from the log: rows as of each order's own position, a split by time, a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np
import polars as pl
import xgboost
from polars import col

from domain.models import Metrics, RegisterModel, Training
from domain.orders import OrderDelivered, OrderPlaced
from domain.values import Event
from eventstore import Log
from eventstore.artifacts import Artifacts
from ml.fulfilment import FULFILMENT
from ml.history import LogHistory, matrix, with_sources
from ml.kind import Kind
from ml.scoring import Scorer, base_score, libraries, seal
from projections.contributions import contributions
from projections.frames import decode, wanted
from projections.projector import Progress
from projections.table import Table

#: Share of the time span whose orders are learned from; the rest judges.
TRAIN_SHARE = 0.75
#: Trees at the most, and how many may bring nothing before it is enough.
MAX_ROUNDS = 400
PATIENCE_ROUNDS = 25
PARAMETERS: Mapping[str, object] = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "max_depth": 4,
    "eta": 0.05,
    "min_child_weight": 5,
    "lambda": 2.0,
    "seed": 7,
    "nthread": 1,
}
_CHUNK = 20_000


class NotEnoughHistory(Exception):
    """The log does not hold enough finished cases to learn from."""


@dataclass(frozen=True, slots=True)
class LogFrames:
    """The log of one organisation as frames: feature contributions, and what labels need."""

    parts: Mapping[Table, pl.DataFrame]
    frames: Mapping[type[Event], pl.DataFrame]
    head: int


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model: its artifact is stored, nothing is on the log yet."""

    registration: RegisterModel
    artifact_bytes: int


async def read_log(
    log: Log,
    organisation_id: UUID,
    tables: tuple[Table, ...],
    fields: Mapping[type[Event], set[str]],
    report: Progress | None = None,
) -> LogFrames:
    """Read an organisation's log once: contributions to tables, and some fields of some events."""
    head = await log.head()
    asked = wanted(tables)
    for event, names in fields.items():
        asked.setdefault(event, set()).update(names)
    parts: dict[Table, list[pl.DataFrame]] = {table: [] for table in tables}
    kept: dict[type[Event], list[pl.DataFrame]] = {event: [] for event in fields}
    position = 0
    while events := await log.after_of(organisation_id, position, _CHUNK, to=head):
        frames = decode(events, asked)
        for table in tables:
            parts[table].append(contributions(table, frames))
        for event, names in fields.items():
            if event in frames:
                kept[event].append(frames[event].select("organisation_id", "position", *names))
        position = events[-1].position
        if report is not None:
            report(position, head)
    return LogFrames(
        parts={
            table: pl.concat(found) if found else contributions(table, {})
            for table, found in parts.items()
        },
        frames={event: pl.concat(found) for event, found in kept.items() if found},
        head=head,
    )


async def training_rows(log_frames: LogFrames) -> pl.DataFrame:
    """A row for each order with a known outcome: its features as of its placement, ``late``,
    ``position`` of the placement and ``known`` (position of the delivery).

    The running form of the folds gives each row what was on the log when the order was placed and
    nothing later.
    """
    if OrderDelivered not in log_frames.frames:
        raise NotEnoughHistory("no order of this organisation was delivered yet")
    placed = log_frames.frames[OrderPlaced].select(
        "organisation_id", "position", "order_id", "region", "placed_at"
    )
    delivered = (
        log_frames.frames[OrderDelivered]
        .filter(col("late").is_not_null())
        .select("order_id", "site_id", "service_level", "late", known="position")
    )
    frame = placed.join(delivered, on="order_id", how="inner").sort("position")
    frame = frame.with_columns(col("placed_at").dt.date().alias("day"))
    return await with_sources(FULFILMENT, frame, LogHistory(log_frames.parts))


async def train(
    log: Log,
    artifacts: Artifacts,
    organisation_id: UUID,
    at: datetime,
    report: Progress | None = None,
) -> Trained:
    """Train a fulfilment model from the log and store its artifact.

    The orders of the first three quarters of time are learned from, if their outcome was known by
    then; the later ones judge. The baseline is the late share of the order's lane, as known then.

    Raises:
        NotEnoughHistory: fewer than 50 rows on a side, or one outcome only.
    """
    kind = FULFILMENT
    fields: dict[type[Event], set[str]] = {
        OrderPlaced: {"order_id", "region", "placed_at"},
        OrderDelivered: {"order_id", "site_id", "service_level", "late"},
    }
    log_frames = await read_log(log, organisation_id, tuple(kind.tables), fields, report)
    rows = await training_rows(log_frames)
    first, final = rows["placed_at"].min(), rows["placed_at"].max()
    if not isinstance(first, datetime) or not isinstance(final, datetime):
        raise NotEnoughHistory("no order has a known outcome yet")
    split_at = first + (final - first) * TRAIN_SHARE
    split = rows.filter(col("placed_at") >= split_at)["position"].min()
    assert isinstance(split, int)
    train_rows = rows.filter(col("known") < split)
    test_rows = rows.filter(col("position") >= split)
    labels = train_rows["late"].to_numpy().astype(np.float32)
    if min(len(train_rows), len(test_rows)) < 50 or len(set(labels.tolist())) < 2:
        raise NotEnoughHistory(
            f"{len(train_rows)} orders to learn from and {len(test_rows)} to judge by; "
            "50 each and both outcomes are needed"
        )
    rounds = _enough_rounds(kind, train_rows)
    booster = xgboost.train(dict(PARAMETERS), _data(kind, train_rows), num_boost_round=rounds)
    content = seal(booster)
    scored = Scorer(content, kind.feature_names).score(matrix(kind, test_rows))
    truth = test_rows["late"].to_numpy().astype(float)
    lane = list(kind.feature_names).index("lane_late_share")
    known_share = matrix(kind, test_rows)[:, lane].astype(float)
    model_hash = await artifacts.put(content)
    return Trained(
        registration=RegisterModel(
            model_hash=model_hash,
            kind=kind.name,
            schema_hash=kind.schema_hash,
            training=Training(
                from_position=int(rows["position"][0]),
                to_position=log_frames.head,
                train_rows=len(train_rows),
                split_at=split_at,
                features=kind.feature_names,
                parameters={name: str(value) for name, value in PARAMETERS.items()}
                | {"rounds": str(rounds)},
                libraries=libraries(),
                base_score=base_score(booster),
            ),
            metrics=metrics(truth, scored.probabilities.astype(float)),
            baseline=metrics(truth, np.clip(known_share, 1e-6, 1 - 1e-6)),
            registered_at=at,
        ),
        artifact_bytes=len(content),
    )


def _data(kind: Kind, rows: pl.DataFrame) -> xgboost.DMatrix:
    return xgboost.DMatrix(
        matrix(kind, rows),
        label=rows["late"].to_numpy().astype(np.float32),
        feature_names=list(kind.feature_names),
        nthread=1,
    )


def _enough_rounds(kind: Kind, rows: pl.DataFrame) -> int:
    """How many trees fit the last fifth of the training time best, learned from the rest of it.

    The later orders that judge the model have no say in this.
    """
    cut = rows["position"].quantile(0.8, "nearest")
    assert cut is not None
    earlier, later = rows.filter(col("known") < cut), rows.filter(col("position") >= cut)
    if earlier["late"].n_unique() < 2 or later["late"].n_unique() < 2:
        return MAX_ROUNDS // 4
    booster = xgboost.train(
        dict(PARAMETERS) | {"eval_metric": "logloss"},
        _data(kind, earlier),
        num_boost_round=MAX_ROUNDS,
        evals=[(_data(kind, later), "later")],
        early_stopping_rounds=PATIENCE_ROUNDS,
        verbose_eval=False,
    )
    return int(booster.best_iteration) + 1


Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]


def metrics(truth: Numbers, predicted: Numbers) -> Metrics:
    """How well probabilities fit outcomes (0 or 1).

    AUC by ranks (Mann-Whitney), log loss and Brier score as usually defined.
    """
    positives, negatives = int(truth.sum()), int((1 - truth).sum())
    auc = None
    if positives and negatives:
        ranks = pl.Series(predicted).rank("average").to_numpy()
        wins = float(ranks[truth == 1].sum()) - positives * (positives + 1) / 2
        auc = round(wins / (positives * negatives), 4)
    safe = np.clip(predicted, 1e-7, 1 - 1e-7)
    loss = -(truth * np.log(safe) + (1 - truth) * np.log(1 - safe)).mean()
    return Metrics(
        rows=len(truth),
        late_share=round(float(truth.mean()), 4),
        auc=auc,
        log_loss=round(float(loss), 4),
        brier=round(float(((predicted - truth) ** 2).mean()), 4),
    )
