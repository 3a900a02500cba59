"""What explanations over HTTP look like."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.hypotheses import HypotheticalOption, SentChange
from domain.decisions import Weights
from domain.models import Hash
from domain.values import Id, SubjectId
from ml.explaining import ExplainedCandidate


class Factor(BaseModel):
    """What one feature does to a candidate's score.

    ``contribution``: in log odds. ``share``: of all contributions, whatever their sign; they sum to
    1. ``direction``: ``raises`` or ``lowers`` the risk, ``none`` where it does nothing.
    """

    rank: int
    feature: str
    value: float | None
    contribution: float
    share: float
    direction: str
    sentence: str


class NotChosen(BaseModel):
    """A candidate that was not chosen, and what it lacked. ``rejected``: rules that it breaks."""

    candidate: int
    option: dict[str, str]
    rejected: list[str]
    sentence: str


class DecisionInWords(BaseModel):
    """One decision for whoever asks why: in sentences first.

    ``method``: ``rule-based``, or the hash of the model. ``confidence``: that what is foretold
    comes true. ``counterfactual``: what would have turned it, for who may ask that. ``links``:
    where more is.
    """

    decision_id: str
    kind: str
    subject_id: str
    method: str
    role: str
    model_hash: str
    as_of: int
    summary: str
    chosen: dict[str, str]
    why: list[str]
    why_not: list[NotChosen]
    runner_up: str | None
    confidence: float | None
    confidence_sentence: str
    factors: list[Factor]
    counterfactual: str | None
    links: dict[str, str]


class DecisionFactors(BaseModel):
    """What a candidate's score is made of: ``base`` and all contributions make up ``margin``;
    ``left``: what the factors that are not told contribute."""

    decision_id: str
    kind: str
    method: str
    model_hash: str
    candidate: int
    option: dict[str, str]
    chosen: bool
    base: float
    margin: float
    probability: float
    risk: float
    factors: list[Factor]
    left: float
    sum: float
    additivity_error: float
    additivity_tolerance: float
    additive: bool


class HypotheticalCase(BaseModel):
    """What is supposed: options of a kind (``kind``, ``options``), a subject as it stands now
    (``kind``, ``subject_id``), or a decision (``decision_id``). ``changes``: features that are to
    be other ones. ``weights``: the kind's own, or the decision's, where left out. ``model_hash``:
    the kind's champion now where left out, for options only."""

    model_config = ConfigDict(extra="forbid")

    kind: Id | None = None
    model_hash: Hash | None = None
    weights: Weights | None = None
    options: Annotated[list[HypotheticalOption], Field(min_length=1, max_length=200)] | None = None
    subject_id: SubjectId | None = None
    decision_id: Id | None = None
    changes: Annotated[list[SentChange], Field(max_length=50)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_thing_is_supposed(self) -> HypotheticalCase:
        given = [
            name
            for name in ("options", "subject_id", "decision_id")
            if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError("options, subject_id, decision_id: one of them")
        if (self.kind is None) != (self.decision_id is not None):
            raise ValueError("kind: goes with options or subject_id, a decision has its own")
        if self.model_hash is not None and self.options is None:
            raise ValueError("model_hash: goes with options only")
        if self.changes and self.options is not None:
            raise ValueError("changes: options say their features themselves")
        return self


class HypotheticalAnswer(BaseModel):
    """What would be said of each option, why, and which one would be chosen (its index). Nothing of
    it is stored. ``method``: ``rule-based``, or the model's hash; ``before``: what is chosen
    without the changes, ``turned``: it is another one."""

    kind: str
    method: str
    model_hash: str
    weights: Weights
    sentence: str
    chosen: int | None
    before: int | None
    turned: bool
    options: list[ExplainedCandidate]
    additivity_error: float
    additivity_tolerance: float
    additive: bool


def factors_of(candidate: ExplainedCandidate) -> list[Factor]:
    """A candidate's pushes with their ranks and shares."""
    whole = sum(abs(one.contribution) for one in candidate.features)
    return [
        Factor(
            rank=number,
            feature=one.name,
            value=one.value,
            contribution=one.contribution,
            share=abs(one.contribution) / whole if whole else 0.0,
            direction="raises"
            if one.contribution > 0
            else "lowers"
            if one.contribution < 0
            else "none",
            sentence=one.sentence,
        )
        for number, one in enumerate(candidate.features, 1)
    ]
