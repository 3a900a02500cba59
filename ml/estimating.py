"""Models that put a number on something: sealed, loaded, explained exactly, trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from domain.models import Metrics, RegisterModel, Training
from eventstore.artifacts import Artifacts
from ml.estimates import Estimate
from ml.models import LEAST_ROWS, NotEnoughHistory, saved
from ml.scoring import Matrix, ModelUnfit, Vector, base_score, libraries

if TYPE_CHECKING:
    import xgboost

_BASE_SCORE = "chainlytics_base_score"
_VERSION = "chainlytics_xgboost"
_ESTIMATE = "chainlytics_estimate"
_SPREAD = "chainlytics_spread"

Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]
#: What is told of a training as it goes on: (done, of how many).
Progress = Callable[[int, int], None]

MAX_ROUNDS = 300
PATIENCE_ROUNDS = 20
#: Trees of numbers that are never below zero and often zero (Tweedie, compound Poisson).
PARAMETERS: Mapping[str, object] = {
    "objective": "reg:tweedie",
    "tweedie_variance_power": 1.5,
    "tree_method": "hist",
    "max_depth": 4,
    "eta": 0.05,
    "min_child_weight": 10,
    "lambda": 2.0,
    "seed": 7,
    "nthread": 1,
}
#: 80 % of what came lies between these quantiles of the errors.
_QUANTILES = (0.1, 0.9)


@dataclass(frozen=True, slots=True)
class Rows:
    """Cases to learn from: features [n, m], what came [n], what the rule said [n], when the case
    was foretold and when what came was known (days since 1970)."""

    matrix: Matrix
    came: Numbers
    by_rule: Numbers
    asked: Numbers
    known: Numbers


@dataclass(frozen=True, slots=True)
class Estimated:
    """Numbers of n rows, the interval of 80 % around each, and their explanation: SHAP values of
    the logarithm [n, m + 1], the base value last."""

    values: Numbers
    low: Numbers
    high: Numbers
    margins: Vector
    contributions: Matrix


class Regressor:
    """A loaded model of numbers.

    Raises:
        ModelUnfit: it is none, or not of this estimate, features or base score.
    """

    def __init__(self, content: bytes, estimate: Estimate) -> None:
        import xgboost

        self._names = list(estimate.features)
        self._booster = xgboost.Booster({"nthread": 1})
        try:
            self._booster.load_model(bytearray(content))
        except xgboost.core.XGBoostError as error:
            raise ModelUnfit(f"the artifact is no XGBoost model: {error}") from error
        if self._booster.attr(_ESTIMATE) != estimate.schema_hash:
            raise ModelUnfit(f"the model was not trained for {estimate.name} as it is now")
        sealed, found = self._booster.attr(_BASE_SCORE), base_score(self._booster)
        if sealed != found:
            raise ModelUnfit(
                f"base score {found} under xgboost {xgboost.__version__}, but {sealed} "
                f"when it was trained under {self._booster.attr(_VERSION)}"
            )
        below, above = json.loads(self._booster.attr(_SPREAD) or "[0, 0]")
        self._below, self._above = float(below), float(above)

    def values(self, matrix: Matrix) -> Numbers:
        """Numbers alone for each row, which is far quicker."""
        import xgboost

        data = xgboost.DMatrix(matrix, feature_names=self._names, nthread=1)
        values: Numbers = self._booster.predict(data).astype(np.float64)
        return values

    def estimate(self, matrix: Matrix) -> Estimated:
        """Numbers for each row."""
        import xgboost

        data = xgboost.DMatrix(matrix, feature_names=self._names, nthread=1)
        values = self._booster.predict(data).astype(np.float64)
        return Estimated(
            values=values,
            low=np.maximum(values + self._below, 0.0),
            high=values + self._above,
            margins=self._booster.predict(data, output_margin=True),
            contributions=self._booster.predict(data, pred_contribs=True),
        )


def sealed(booster: xgboost.Booster, estimate: Estimate, spread: Sequence[float]) -> bytes:
    """The artifact's bytes, with what it is for, base score and spread of errors inside."""
    import xgboost

    booster.set_attr(
        **{
            _BASE_SCORE: base_score(booster),
            _VERSION: xgboost.__version__,
            _ESTIMATE: estimate.schema_hash,
            _SPREAD: json.dumps(list(spread)),
        }
    )
    return bytes(booster.save_raw("ubj"))


async def fitted(
    estimate: Estimate,
    rows: Rows,
    artifacts: Artifacts,
    at: datetime,
    to_position: int,
    fitting: Progress | None = None,
) -> RegisterModel:
    """Train on the first three quarters of time, judge by the last one, and store the artifact.

    The last fifth of what is learned from says how many trees are enough, and how far off the model
    is. A case is learned from only if what came was known by the end of its part.

    Raises:
        NotEnoughHistory: fewer than 50 rows in a part.
    """
    first, last = float(rows.asked.min()), float(rows.asked.max())
    split = first + (last - first) * 0.75
    middle = first + (split - first) * 0.8
    fit = rows.known < middle
    check = (rows.asked >= middle) & (rows.known < split)
    test = rows.asked >= split
    sizes = [int(part.sum()) for part in (fit, check, test)]
    if min(sizes) < LEAST_ROWS:
        raise NotEnoughHistory(
            f"{sizes[0]} cases of {estimate.name} to learn from, {sizes[1]} to stop by and "
            f"{sizes[2]} to judge by; {LEAST_ROWS} each are needed"
        )
    booster = _grown(estimate, rows, fit, check, fitting)
    spread = _spread(booster, estimate, rows, check)
    content = sealed(booster, estimate, spread)
    model = Regressor(content, estimate)
    told = model.estimate(rows.matrix[test]).values
    data_hash = await artifacts.put(
        saved(np.column_stack([rows.matrix[fit], rows.came[fit].astype(np.float32)]))
    )
    await artifacts.put(estimate.declaration)
    return RegisterModel(
        model_hash=await artifacts.put(content),
        kind=estimate.name,
        schema_hash=estimate.schema_hash,
        training=Training(
            from_position=1,
            to_position=to_position,
            train_rows=sizes[0],
            split_at=datetime.fromtimestamp(split * 86_400, tz=at.tzinfo),
            features=tuple(estimate.features),
            parameters={name: str(value) for name, value in PARAMETERS.items()}
            | {"rounds": str(booster.num_boosted_rounds())},
            libraries=libraries(),
            base_score=base_score(booster),
            query=estimate.learns_from,
            data_hash=data_hash,
            calibrated_on=sizes[1],
        ),
        metrics=errors(rows.came[test], told),
        baseline=errors(rows.came[test], rows.by_rule[test]),
        registered_at=at,
    )


def errors(came: Numbers, told: Numbers) -> Metrics:
    """How far off numbers were."""
    off = told - came
    return Metrics(
        rows=len(came),
        late_share=None,
        auc=None,
        log_loss=None,
        brier=None,
        mae=round(float(np.abs(off).mean()), 6),
        rmse=round(float(np.sqrt((off * off).mean())), 6),
    )


def _grown(
    estimate: Estimate, rows: Rows, fit: Any, check: Any, told: Progress | None
) -> xgboost.Booster:
    import xgboost

    class Told(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            if told is not None:
                told(epoch + 1, MAX_ROUNDS)
            return False

    def data(part: Any) -> xgboost.DMatrix:
        return xgboost.DMatrix(
            rows.matrix[part],
            label=rows.came[part].astype(np.float32),
            feature_names=list(estimate.features),
            nthread=1,
        )

    booster = xgboost.train(
        dict(PARAMETERS) | {"eval_metric": "mae"},
        data(fit),
        num_boost_round=MAX_ROUNDS,
        evals=[(data(check), "later")],
        early_stopping_rounds=PATIENCE_ROUNDS,
        callbacks=[] if told is None else [Told()],
        verbose_eval=False,
    )
    return booster[: int(booster.best_iteration) + 1]


def _spread(
    booster: xgboost.Booster, estimate: Estimate, rows: Rows, check: Any
) -> tuple[float, float]:
    """Between which errors four fifths of them lie; the number itself is always inside."""
    import xgboost

    data = xgboost.DMatrix(rows.matrix[check], feature_names=list(estimate.features), nthread=1)
    off = rows.came[check] - booster.predict(data).astype(np.float64)
    low, high = (float(np.quantile(off, share)) for share in _QUANTILES)
    return min(low, 0.0), max(high, 0.0)
