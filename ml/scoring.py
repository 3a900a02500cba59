"""One model and its numbers: margins, probabilities and exact SHAP values.

XGBoost computes exact SHAP itself (``pred_contribs``; Lundberg et al. 2020, TreeSHAP), the same
bytes as shap.TreeExplainer, which calls it. So nothing here imports shap.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import xgboost

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Vector = np.ndarray[tuple[int], np.dtype[np.float32]]

#: |sum of SHAP values + base - margin| stays below this (float32 sums in another order).
ADDITIVITY_TOLERANCE = 1e-4

_BASE_SCORE = "chainlytics_base_score"
_VERSION = "chainlytics_xgboost"


class ModelUnfit(Exception):
    """The artifact cannot be trusted to give the numbers that it gave when it was trained."""


@dataclass(frozen=True, slots=True)
class Scores:
    """For n candidates of m features: margins [n], probabilities [n], SHAP [n, m + 1] in log odds
    with the base value last."""

    margins: Vector
    probabilities: Vector
    contributions: Matrix


def libraries() -> dict[str, str]:
    """Versions of what computes features and scores."""
    return {name: version(name) for name in ("numpy", "polars")} | {"xgboost": xgboost.__version__}


def base_score(booster: xgboost.Booster) -> str:
    """The base score as the booster's configuration holds it."""
    config = json.loads(booster.save_config())
    return str(config["learner"]["learner_model_param"]["base_score"])


def seal(booster: xgboost.Booster) -> bytes:
    """The artifact's bytes (UBJSON), with the base score and library version inside.

    xgboost may load another version's model silently with another base score: see ``Scorer``.
    """
    booster.set_attr(**{_BASE_SCORE: base_score(booster), _VERSION: xgboost.__version__})
    return bytes(booster.save_raw("ubj"))


class Scorer:
    """A loaded model.

    Raises:
        ModelUnfit: features or base score are not those that it was trained with.
    """

    def __init__(self, content: bytes, feature_names: Sequence[str]) -> None:
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

    def score(self, matrix: Matrix) -> Scores:
        """Numbers for each row; the same to the bit alone or in a batch."""
        data = xgboost.DMatrix(matrix, feature_names=self._names, nthread=1)
        return Scores(
            margins=self._booster.predict(data, output_margin=True),
            probabilities=self._booster.predict(data),
            contributions=self._booster.predict(data, pred_contribs=True),
        )
