"""Whether the models that decide can: each is there, is what its hash says, and can be loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from time import monotonic
from typing import NamedTuple

import structlog

from eventstore.artifacts import ArtifactCorrupt, Artifacts
from ml.kind import Kind
from ml.scoring import ModelUnfit, Scorer

_log = structlog.get_logger(__name__)


class Fitness(StrEnum):
    """``ok``: it decides. ``missing``: nothing is stored under its hash. ``corrupt``: what is
    stored does not have its hash. ``unfit``: it cannot be loaded as it was trained. ``outdated``:
    it was trained on other features than the kind has now."""

    OK = "ok"
    MISSING = "missing"
    CORRUPT = "corrupt"
    UNFIT = "unfit"
    OUTDATED = "outdated"


class Trained(NamedTuple):
    """A model, and the features that it was trained on."""

    kind: str
    model_hash: str
    schema_hash: str


class Fitnesses:
    """Looks at models, each again after a while.

    Args:
        artifacts: where models are stored.
        kinds: by name.
        again_s: after so many seconds a model is looked at again.
        at_once: so many models are loaded for one question at most, the others for the next ones.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        kinds: Mapping[str, Kind],
        *,
        again_s: float = 300.0,
        at_once: int = 5,
    ) -> None:
        self._artifacts = artifacts
        self._kinds = kinds
        self._again_s = again_s
        self._at_once = at_once
        self._known: dict[Trained, tuple[float, Fitness]] = {}

    async def of(self, models: Sequence[Trained]) -> dict[Trained, Fitness]:
        """How each model is, as far as it was looked at.

        Raises:
            LogUnavailable: the database gave no connection in time.
        """
        now = monotonic()
        mine = set(models)
        self._known = {one: known for one, known in self._known.items() if one in mine}
        old = [
            one
            for one in models
            if one not in self._known or now - self._known[one][0] >= self._again_s
        ]
        for one in sorted(old, key=lambda one: self._known.get(one, (0.0,))[0])[: self._at_once]:
            self._known[one] = (now, await self._look(one))
        return {one: fitness for one, (_, fitness) in self._known.items()}

    async def _look(self, model: Trained) -> Fitness:
        kind = self._kinds.get(model.kind)
        if kind is None or kind.schema_hash != model.schema_hash:
            return Fitness.OUTDATED
        try:
            content = await self._artifacts.get(model.model_hash)
            await asyncio.to_thread(Scorer, content, kind.feature_names)
        except KeyError:
            found = Fitness.MISSING
        except ArtifactCorrupt:
            found = Fitness.CORRUPT
        except ModelUnfit:
            found = Fitness.UNFIT
        else:
            return Fitness.OK
        _log.error("a champion cannot decide", model=model.model_hash, why=found.value)
        return found
