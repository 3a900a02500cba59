"""Training from the log: rows as of each case's own position, a split by time, a calibration, a
baseline, and metrics by segment."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import polars as pl
from polars import col

from domain.models import Metrics, RegisterModel, Segment, Training
from domain.values import Event
from eventstore import Log
from eventstore.artifacts import Artifacts
from ml.calibration import Calibration, calibrate, calibration_error
from ml.history import LogHistory, matrix, with_sources
from ml.kind import Kind
from ml.scoring import Matrix, Scorer, base_score, libraries, seal
from projections.contributions import contributions
from projections.frames import wanted
from projections.projector import Progress
from projections.reading import LogReader
from projections.table import Table

if TYPE_CHECKING:
    import xgboost

#: Share of the time span whose cases are learned from; the rest judges.
TRAIN_SHARE = 0.75
#: Share of the training cases that trees are fitted to; the later ones say how many trees are
#: enough, and calibrate them.
FIT_SHARE = 0.8
#: Trees at the most, and how many may bring nothing before it is enough.
MAX_ROUNDS = 400
PATIENCE_ROUNDS = 25
#: Rows that a side needs, and that a segment needs to be told of.
LEAST_ROWS = 50
LEAST_OF_SEGMENT = 30
MOST_SEGMENTS = 12
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
    url: str, log: Log, organisation_id: UUID, kind: Kind, report: Progress | None = None
) -> LogFrames:
    """Read an organisation's log once: contributions to the kind's tables, and what its examples
    ask for."""
    head = await log.head()
    tables = tuple(dict.fromkeys(source.table for source in kind.sources))
    asked = wanted(tables)
    for event, names in kind.examples.fields.items():
        asked[event] = asked.get(event, set()) | names
    parts: dict[Table, list[pl.DataFrame]] = {table: [] for table in tables}
    kept: dict[type[Event], list[pl.DataFrame]] = {}
    position = 0
    async with LogReader(url) as reader:
        while position < head:
            end = await reader.window_end(position, head)
            frames = await reader.frames(asked, position, end, organisation_id)
            for table in tables:
                parts[table].append(contributions(table, frames))
            for event, names in kind.examples.fields.items():
                if event in frames:
                    found = frames[event].select("organisation_id", "position", *sorted(names))
                    kept.setdefault(event, []).append(found)
            position = end
            if report is not None:
                report(position, head)
    return LogFrames(
        parts={
            table: pl.concat(found) if found else contributions(table, {})
            for table, found in parts.items()
        },
        frames={event: pl.concat(found) for event, found in kept.items()},
        head=head,
    )


async def training_rows(kind: Kind, log_frames: LogFrames) -> pl.DataFrame:
    """A row for each finished case: its features' columns as of its ``position``, ``occurred``,
    ``at`` and ``known`` (position of the outcome).

    The running form of the folds gives each row what was on the log at its position and nothing
    later.

    Raises:
        NotEnoughHistory: there is no finished case.
    """
    rows = kind.examples.rows(log_frames)
    if rows.is_empty():
        raise NotEnoughHistory(f"no case of {kind.name} has a known outcome yet")
    return await with_sources(kind, rows, LogHistory(log_frames.parts))


def parameters(kind: Kind) -> Mapping[str, object]:
    """What trees of a kind are grown by."""
    held = ",".join(str(feature.monotone) for feature in kind.features)
    return {**PARAMETERS, "monotone_constraints": f"({held})"}


@dataclass(frozen=True, slots=True)
class _Split:
    """Cases by time: to fit trees to, to calibrate them, to judge them."""

    fit: pl.DataFrame
    calibrate: pl.DataFrame
    test: pl.DataFrame
    at: datetime


async def train(
    url: str,
    log: Log,
    artifacts: Artifacts,
    organisation_id: UUID,
    kind: Kind,
    at: datetime,
    report: Progress | None = None,
    fitting: Progress | None = None,
) -> Trained:
    """Train a model from the log and store its artifact, and beside it the rows that it learned
    from.

    The cases of the first three quarters of time are learned from, if their outcome was known by
    then; the later ones judge. ``report`` is told how much of the log is read, ``fitting`` how many
    trees are grown; what it raises ends the training.

    Raises:
        NotEnoughHistory: fewer than 50 rows on a side, or one outcome only.
    """
    log_frames = await read_log(url, log, organisation_id, kind, report)
    rows = await training_rows(kind, log_frames)
    split = _split(kind, rows)
    booster = _fitted(kind, split, fitting)
    calibration = _calibration(kind, booster, split.calibrate)
    content = seal(booster, calibration)
    scorer = Scorer(content, kind.feature_names)
    truth = split.test["occurred"].to_numpy().astype(float)
    _, risks = scorer.risks(matrix(kind, split.test))
    learned = np.column_stack([matrix(kind, split.fit), _labels(split.fit)])
    data_hash = await artifacts.put(saved(learned))
    model_hash = await artifacts.put(content)
    return Trained(
        registration=RegisterModel(
            model_hash=model_hash,
            kind=kind.name,
            schema_hash=kind.schema_hash,
            training=Training(
                from_position=int(rows["position"][0]),
                to_position=log_frames.head,
                train_rows=split.fit.height,
                split_at=split.at,
                features=kind.feature_names,
                parameters={name: str(value) for name, value in parameters(kind).items()}
                | {"rounds": str(booster.num_boosted_rounds())},
                libraries=libraries(),
                base_score=base_score(booster),
                query=kind.examples.query,
                data_hash=data_hash,
                calibrated_on=split.calibrate.height,
            ),
            metrics=metrics(truth, risks),
            baseline=metrics(truth, _baseline(kind, split)),
            segments=_segments(kind, split.test, truth, risks),
            registered_at=at,
        ),
        artifact_bytes=len(content),
    )


def _split(kind: Kind, rows: pl.DataFrame) -> _Split:
    first, final = rows["at"].min(), rows["at"].max()
    assert isinstance(first, datetime)
    assert isinstance(final, datetime)
    at = first + (final - first) * TRAIN_SHARE
    cut = rows.filter(col("at") >= at)["position"].min()
    learned = rows.filter(col("known") < cut)
    test = rows.filter(col("position") >= cut)
    middle = learned["position"].quantile(FIT_SHARE, "nearest") or 0
    fit = learned.filter(col("known") < middle)
    calibrating = learned.filter(col("position") >= middle)
    if (contrast := kind.examples.contrast) is not None:
        fit, calibrating, test = contrast(fit), contrast(calibrating), contrast(test)
    few = min(fit.height, calibrating.height, test.height) < LEAST_ROWS
    if few or fit["occurred"].n_unique() < 2 or calibrating["occurred"].n_unique() < 2:
        raise NotEnoughHistory(
            f"{fit.height} cases of {kind.name} to learn from, {calibrating.height} to calibrate "
            f"by and {test.height} to judge by; {LEAST_ROWS} each and both outcomes are needed"
        )
    return _Split(fit, calibrating, test, at)


def _fitted(kind: Kind, split: _Split, told: Progress | None = None) -> xgboost.Booster:
    """Trees fitted to the first cases, as many as fit the next ones best. The later cases that
    judge the model have no say in this."""
    import xgboost

    class Told(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            if told is not None:
                told(epoch + 1, MAX_ROUNDS)
            return False

    booster = xgboost.train(
        dict(parameters(kind)) | {"eval_metric": "logloss"},
        _data(kind, split.fit),
        num_boost_round=MAX_ROUNDS,
        evals=[(_data(kind, split.calibrate), "later")],
        early_stopping_rounds=PATIENCE_ROUNDS,
        callbacks=[] if told is None else [Told()],
        verbose_eval=False,
    )
    return booster[: int(booster.best_iteration) + 1]


def _calibration(kind: Kind, booster: xgboost.Booster, rows: pl.DataFrame) -> Calibration:
    said = booster.predict(_data(kind, rows)).astype(np.float64)
    return calibrate(said, _labels(rows).astype(np.float64))


def _labels(rows: pl.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return rows["occurred"].to_numpy().astype(np.float32)


def _data(kind: Kind, rows: pl.DataFrame) -> xgboost.DMatrix:
    import xgboost

    return xgboost.DMatrix(
        matrix(kind, rows),
        label=_labels(rows),
        feature_names=list(kind.feature_names),
        nthread=1,
    )


def _baseline(kind: Kind, split: _Split) -> Numbers:
    """What one would say without a model."""
    if kind.examples.baseline is None:
        said = np.full(split.test.height, _labels(split.fit).mean(dtype=np.float64))
    else:
        column = list(kind.feature_names).index(kind.examples.baseline)
        said = matrix(kind, split.test)[:, column].astype(float)
    clipped: Numbers = np.clip(said, 1e-6, 1 - 1e-6)
    return clipped


def _segments(
    kind: Kind, rows: pl.DataFrame, truth: Numbers, risks: Numbers
) -> tuple[Segment, ...]:
    """Metrics by the values of the segment columns, the most frequent values."""
    found = []
    for column in kind.examples.segments:
        values = rows[column].cast(pl.String)
        frequent = values.drop_nulls().value_counts(sort=True).rows()
        for value, count in sorted(frequent, key=lambda one: (-one[1], one[0]))[:MOST_SEGMENTS]:
            if count >= LEAST_OF_SEGMENT:
                mine = (values == value).fill_null(False).to_numpy()
                told = metrics(truth[mine], risks[mine])
                found.append(Segment(column=column, value=value, metrics=told))
    return tuple(found)


def saved(rows: Matrix) -> bytes:
    """The rows that a model learned from as an artifact: features, the label last."""
    content = io.BytesIO()
    np.save(content, rows, allow_pickle=False)
    return content.getvalue()


def loaded(content: bytes) -> Matrix:
    """The rows behind an artifact of ``saved``."""
    rows: Matrix = np.load(io.BytesIO(content), allow_pickle=False)
    return rows


Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]


def metrics(truth: Numbers, predicted: Numbers) -> Metrics:
    """How well probabilities fit outcomes (0 or 1).

    AUC by ranks (Mann-Whitney), log loss and Brier score as usually defined; accuracy of saying
    what is more probable; expected calibration error in ten bins.
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
        accuracy=round(float(((predicted >= 0.5) == (truth == 1)).mean()), 4),
        calibration_error=round(calibration_error(predicted, truth), 4),
    )
