"""What a stored model would say of cases that never were: one question at a time, so that answers
to requests are not held up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from domain.decisions import Weights
from domain.errors import Refused
from eventstore.artifacts import ArtifactCorrupt, Artifacts
from ml.catalogue import KINDS
from ml.kind import Kind
from ml.scorers import Scorers
from ml.scoring import Judge, ModelUnfit
from ml.whatif import (
    Change,
    Counterfactual,
    Option,
    Weighing,
    changed,
    counterfactual,
    of_decision,
    weigh,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A decision's candidates weighed again with changes. ``before``: what was chosen, by index."""

    kind: Kind
    before: int | None
    weighing: Weighing


class Hypotheses:
    """Asks stored models.

    Args:
        artifacts: where models are stored.
        kinds: the kinds of decision by name.
    """

    def __init__(self, artifacts: Artifacts, kinds: Mapping[str, Kind] = KINDS) -> None:
        self._scorers = Scorers(artifacts)
        self._kinds = kinds
        self._turn = asyncio.Lock()

    async def weigh(
        self, kind: Kind, model_hash: str, weights: Weights, options: Sequence[Option]
    ) -> Weighing:
        """Score options, explain each, and choose.

        Raises:
            WrongCase: a feature that the kind does not have, or no option.
            Refused: the model was not trained for the kind's present features.
        """
        return await self._asked(
            kind, model_hash, lambda scorer: weigh(kind, scorer, weights, options)
        )

    async def what_if(self, made: Mapping[str, Any] | None, changes: Sequence[Change]) -> WhatIf:
        """A decision's candidates with some features set to other values. Hard constraints are not
        judged anew: what was ruled out stays ruled out.

        Args:
            made: the event DecisionMade as JSON.
            changes: what is to be different.

        Raises:
            WrongCase: a change that cannot be made.
            Refused: there is no decision yet, or the kind's features have changed since.
        """
        kind, made = self._kind_of(made)
        weights = Weights.model_validate(made["weights"])
        options = changed(kind, of_decision(kind.feature_names, made), changes)
        return WhatIf(
            kind, made["chosen"], await self.weigh(kind, made["model_hash"], weights, options)
        )

    async def counterfactual(self, made: Mapping[str, Any] | None) -> Counterfactual | None:
        """The smallest change of the kind's levers that turns a decision, if there is one.

        Raises:
            Refused: there is no decision yet, or the kind's features have changed since.
        """
        kind, made = self._kind_of(made)
        weights = Weights.model_validate(made["weights"])
        options = of_decision(kind.feature_names, made)
        return await self._asked(
            kind,
            made["model_hash"],
            lambda scorer: counterfactual(kind, scorer, weights, options),
        )

    def _kind_of(self, made: Mapping[str, Any] | None) -> tuple[Kind, Mapping[str, Any]]:
        if made is None:
            raise Refused("decision.not_made")
        kind = self._kinds.get(made["kind"])
        if kind is None or kind.schema_hash != made["schema_hash"]:
            raise Refused(
                "decision.schema_changed",
                decision_id=made["decision_id"],
                kind=made["kind"],
                decided_on=made["schema_hash"][:12],
                now="none" if kind is None else kind.schema_hash[:12],
            )
        return kind, made

    async def _asked(self, kind: Kind, model_hash: str, ask: Callable[[Judge], T]) -> T:
        try:
            scorer = await self._scorers.load(kind, model_hash)
        except (KeyError, ModelUnfit, ArtifactCorrupt) as error:
            raise Refused("model.unfit", model_hash=model_hash, why=str(error)) from error
        async with self._turn:
            # The trees run in a thread: the loop goes on serving.
            return await asyncio.to_thread(ask, scorer)


def why_no_counterfactual(made: Mapping[str, Any]) -> str:
    """Why no change turns a decision, in words."""
    if made["chosen"] is None:
        return "Every candidate breaks a rule, so no other feature value turns the choice"
    if sum(1 for one in made["candidates"] if not one["rejected"]) == 1:
        return "There was one allowed candidate only, so no other feature value turns the choice"
    return (
        "No change of one or two of the values that people can change, within their bounds, "
        "turns the choice"
    )
