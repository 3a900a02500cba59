"""Loaded models by hash, and the rules that stand where none is deployed."""

from __future__ import annotations

import asyncio

from eventstore.artifacts import Artifacts
from ml.kind import Kind
from ml.rules import rule_for
from ml.scoring import Judge, Scorer


class Scorers:
    """Loaded models by hash; bytes under one hash never change."""

    def __init__(self, artifacts: Artifacts, keep: int = 16) -> None:
        self._artifacts = artifacts
        self._keep = keep
        self._loaded: dict[tuple[str, str], Judge] = {}

    async def load(self, kind: Kind, model_hash: str) -> Judge:
        """The model or rule of a hash, read against the kind's features."""
        key = (kind.schema_hash, model_hash)
        if key not in self._loaded:
            judge = await self._read(kind, model_hash)
            while len(self._loaded) >= self._keep:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[key] = judge
        return self._loaded[key]

    async def _read(self, kind: Kind, model_hash: str) -> Judge:
        rule = rule_for(kind)
        if rule is not None and rule.hash == model_hash:
            return rule
        content = await self._artifacts.get(model_hash)
        return await asyncio.to_thread(Scorer, content, kind.feature_names)
