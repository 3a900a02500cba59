"""Who puts a number on something: the champion of its kind, or the documented rule."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from domain.errors import Refused
from domain.forecasts import RULE_BASED
from eventstore.artifacts import ArtifactCorrupt, Artifacts
from ml.estimates import Estimate
from ml.estimating import Regressor
from ml.scoring import ModelUnfit
from readmodels import models
from readmodels.database import ReadModels


@dataclass(frozen=True, slots=True)
class Judge:
    """What says a number: a model and its hash, or the rule and the hash of its declaration."""

    method: str
    model_hash: str
    model: Regressor | None

    @property
    def by_rule(self) -> bool:
        """No model is deployed."""
        return self.model is None


class Judges:
    """Finds and loads what says numbers.

    Args:
        artifacts: where models are stored.
    """

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._loaded: dict[str, Regressor] = {}

    async def now(self, read: ReadModels, estimate: Estimate) -> Judge:
        """The champion of an estimate; the rule where there is none.

        Raises:
            Refused: the champion is stopped, or cannot be used: people have to look.
        """
        champion = await models.champion(read, estimate.name)
        if champion is None:
            return Judge(RULE_BASED, estimate.hash, None)
        if champion.stopped is not None:
            raise Refused(
                "estimate.model_stopped",
                kind=estimate.name,
                model_hash=champion.model_hash,
                why=champion.stopped,
            )
        return await self.of(estimate, champion.model_hash)

    async def of(self, estimate: Estimate, model_hash: str) -> Judge:
        """The model or rule of a hash.

        Raises:
            Refused: there is none that can be used.
        """
        if model_hash == estimate.hash:
            return Judge(RULE_BASED, estimate.hash, None)
        if model_hash not in self._loaded:
            try:
                content = await self._artifacts.get(model_hash)
                self._loaded[model_hash] = await asyncio.to_thread(Regressor, content, estimate)
            except (KeyError, ModelUnfit, ArtifactCorrupt) as error:
                raise Refused("model.unfit", model_hash=model_hash, why=str(error)) from error
        return Judge(model_hash, model_hash, self._loaded[model_hash])
