"""Loaded models by hash."""

from __future__ import annotations

import asyncio

from eventstore.artifacts import Artifacts
from ml.kind import Kind
from ml.scoring import Scorer


class Scorers:
    """Loaded models by hash; bytes under one hash never change."""

    def __init__(self, artifacts: Artifacts, keep: int = 16) -> None:
        self._artifacts = artifacts
        self._keep = keep
        self._loaded: dict[tuple[str, str], Scorer] = {}

    async def load(self, kind: Kind, model_hash: str) -> Scorer:
        """The model of a hash, read against the kind's features."""
        key = (kind.schema_hash, model_hash)
        if key not in self._loaded:
            content = await self._artifacts.get(model_hash)
            while len(self._loaded) >= self._keep:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[key] = await asyncio.to_thread(Scorer, content, kind.feature_names)
        return self._loaded[key]
