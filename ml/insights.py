"""All that a screen tells of one decision: what, why, what else there was, what came of it, and
what people could change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml.catalogue import KINDS
from ml.explaining import Explanation, Push, best, explain

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Alternative:
    """A candidate of the decision, the best first. ``rejected``: the constraints that it breaks."""

    index: int
    option: Mapping[str, str]
    chosen: bool
    rejected: Sequence[str]
    risk: float
    cost_minor: int
    carbon_g: int
    objective: float


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A feature that people can change: its value in the decision, and the values it may take."""

    feature: str
    value: float | None
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Insights:
    """One decision on one screen.

    ``stage``: where it stands; ``waits_for``: so many people still have to agree. ``explanation``
    tells of the chosen candidate (of the best one, where none was chosen), ``factors`` what pushes
    its score, the strongest first. ``review``: what people said. ``failure``: why there is none.
    """

    decision_id: str
    kind: str
    subject_id: str
    stage: str
    requested_at: str
    option: Mapping[str, str] = field(default_factory=dict)
    waits_for: int | None = None
    explanation: Explanation | None = None
    factors: Sequence[Push] = ()
    alternatives: Sequence[Alternative] = ()
    levers: Sequence[WhatIf] = ()
    review: Mapping[str, Json] = field(default_factory=dict)
    outcome: Json | None = None
    failure: Json | None = None


def insights(
    parts: Mapping[str, Any], features: Sequence[str], stage: str, waits_for: int | None
) -> Insights:
    """What is told of a decision.

    Args:
        parts: its events as JSON, by what they are (``requested``, ``made``, ``explained`` ...).
        features: those of its model, in order, as it was registered; none of a rule.
        stage: where it stands.
        waits_for: so many people still have to agree.
    """
    requested = parts["requested"]
    told: dict[str, Any] = {
        "decision_id": requested["decision_id"],
        "kind": requested["kind"],
        "subject_id": requested["subject_id"],
        "stage": stage,
        "requested_at": requested["requested_at"],
        "waits_for": waits_for,
        "outcome": parts.get("outcome"),
        "failure": parts.get("failed"),
        "review": {
            name: parts[name]
            for name in ("referred", "confirmed", "overridden", "contested", "kept")
            if parts.get(name) is not None
        },
    }
    made, explained = parts.get("made"), parts.get("explained")
    if made is None or explained is None:
        return Insights(**told)
    candidates = made["candidates"]
    chosen = made["chosen"] if made["chosen"] is not None else best(candidates)
    kind = KINDS.get(made["kind"])
    explanation = explain(made, explained, features, kind, chosen)
    factors = explanation.candidates[0].features if explanation.candidates else ()
    overridden = parts.get("overridden")
    return Insights(
        **told,
        option=made["option"] if overridden is None else overridden["option"],
        explanation=explanation,
        factors=factors,
        alternatives=_alternatives(made),
        levers=_levers(made["kind"], {one.name: one.value for one in factors}),
    )


def _alternatives(made: Json) -> list[Alternative]:
    found = [
        Alternative(
            index=index,
            option=one["option"],
            chosen=index == made["chosen"],
            rejected=one["rejected"],
            risk=one["risk"],
            cost_minor=one["cost_minor"],
            carbon_g=one["carbon_g"],
            objective=one["objective"],
        )
        for index, one in enumerate(made["candidates"])
    ]
    return sorted(found, key=lambda one: (not one.chosen, bool(one.rejected), one.objective))


def _levers(kind: str, values: Mapping[str, float | None]) -> list[WhatIf]:
    if kind not in KINDS:
        return []
    return [
        WhatIf(one.name, values.get(one.name), one.lever.low, one.lever.high)
        for one in KINDS[kind].features
        if one.lever is not None and one.name in values
    ]
