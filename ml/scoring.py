"""One model and its numbers: margins, probabilities and exact SHAP values.

XGBoost computes exact SHAP itself (``pred_contribs``; Lundberg et al. 2020, TreeSHAP), the same
bytes as shap.TreeExplainer, which calls it. So nothing here imports shap.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ml.calibration import Calibration

if TYPE_CHECKING:  # importing it takes most of a second, and most commands never score
    import xgboost

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Vector = np.ndarray[tuple[int], np.dtype[np.float32]]
Exact = np.ndarray[tuple[int], np.dtype[np.float64]]

#: |sum of SHAP values + base - margin| stays below this (float32 sums in another order).
ADDITIVITY_TOLERANCE = 1e-4

_BASE_SCORE = "chainlytics_base_score"
_VERSION = "chainlytics_xgboost"
_CALIBRATION = "chainlytics_calibration"


class ModelUnfit(Exception):
    """The artifact cannot be trusted to give the numbers that it gave when it was trained."""


@dataclass(frozen=True, slots=True)
class Scores:
    """For n candidates of m features: margins [n], probabilities [n] as the model says them, risks
    [n] (float64, calibrated), SHAP [n, m + 1] in log odds with the base value last."""

    margins: Vector
    probabilities: Vector
    risks: Exact
    contributions: Matrix

    @property
    def additivity_error(self) -> float:
        """The largest distance of a row's SHAP sum from its margin."""
        if not len(self.margins):
            return 0.0
        sums = self.contributions.sum(axis=1, dtype=np.float64)
        # A NaN is the largest of all: it must not pass for a small distance.
        return float(np.nan_to_num(np.abs(sums - self.margins), nan=np.inf).max())


class Judge(Protocol):
    """What scores candidates: a model, or the rule that stands where none is deployed."""

    def score(self, matrix: Matrix) -> Scores:
        """Numbers for each row; the same to the bit alone or in a batch."""

    def risks(self, matrix: Matrix) -> tuple[Vector, Exact]:
        """Margins and calibrated risks alone, which is quicker."""

    def thresholds(self) -> dict[str, list[float]]:
        """The values of features between which nothing changes, or is taken not to."""


def libraries() -> dict[str, str]:
    """Versions of what computes features and scores."""
    import xgboost

    return {name: version(name) for name in ("numpy", "polars")} | {"xgboost": xgboost.__version__}


def base_score(booster: xgboost.Booster) -> str:
    """The base score as the booster's configuration holds it."""
    config = json.loads(booster.save_config())
    return str(config["learner"]["learner_model_param"]["base_score"])


def seal(booster: xgboost.Booster, calibration: Calibration) -> bytes:
    """The artifact's bytes (UBJSON), with calibration, base score and library version inside.

    xgboost may load another version's model silently with another base score: see ``Scorer``.
    """
    import xgboost

    booster.set_attr(
        **{
            _BASE_SCORE: base_score(booster),
            _VERSION: xgboost.__version__,
            _CALIBRATION: calibration.to_json(),
        }
    )
    return bytes(booster.save_raw("ubj"))


class Scorer:
    """A loaded model.

    Raises:
        ModelUnfit: features or base score are not those that it was trained with.
    """

    def __init__(self, content: bytes, feature_names: Sequence[str]) -> None:
        import xgboost

        self._names = list(feature_names)
        self._booster = xgboost.Booster({"nthread": 1})
        try:
            self._booster.load_model(bytearray(content))
        except xgboost.core.XGBoostError as error:
            raise ModelUnfit(f"the artifact is no XGBoost model: {error}") from error
        if self._booster.feature_names != self._names:
            raise ModelUnfit("the model was trained on other features")
        sealed, found = self._booster.attr(_BASE_SCORE), base_score(self._booster)
        if sealed != found:
            raise ModelUnfit(
                f"base score {found} under xgboost {xgboost.__version__}, but {sealed} "
                f"when it was trained under {self._booster.attr(_VERSION)}"
            )

        calibration = self._booster.attr(_CALIBRATION)
        if calibration is None:
            raise ModelUnfit("the model was registered without a calibration")
        self.calibration = Calibration.from_json(calibration)

    def score(self, matrix: Matrix) -> Scores:
        """Numbers for each row; the same to the bit alone or in a batch."""
        data = self._data(matrix)
        probabilities = self._booster.predict(data)
        return Scores(
            margins=self._booster.predict(data, output_margin=True),
            probabilities=probabilities,
            risks=self.calibration(probabilities.astype(np.float64)),
            contributions=self._booster.predict(data, pred_contribs=True),
        )

    def risks(self, matrix: Matrix) -> tuple[Vector, Exact]:
        """Margins and calibrated risks alone, which is much faster than with SHAP values."""
        data = self._data(matrix)
        margins = self._booster.predict(data, output_margin=True)
        return margins, self.calibration(self._booster.predict(data).astype(np.float64))

    def thresholds(self) -> dict[str, list[float]]:
        """The values at which trees split, by feature: between two of them nothing changes."""
        found: dict[str, set[float]] = {}
        waiting = [json.loads(tree) for tree in self._booster.get_dump(dump_format="json")]
        while waiting:
            node = waiting.pop()
            if "children" in node:
                found.setdefault(node["split"], set()).add(float(node["split_condition"]))
                waiting += node["children"]
        return {name: sorted(values) for name, values in found.items()}

    def _data(self, matrix: Matrix) -> xgboost.DMatrix:
        import xgboost

        return xgboost.DMatrix(matrix, feature_names=self._names, nthread=1)
