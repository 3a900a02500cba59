"""One request's candidates, weighed: the choice, its explanation, and whether people take it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from domain.decisions import (
    Candidate,
    DecisionExplained,
    DecisionMade,
    DecisionReferred,
    DecisionShadowed,
    Reason,
    RecordDecision,
    RunnerUp,
    Weights,
)
from domain.values import money
from ml import words
from ml.governance import Ruling
from ml.kind import Failed, Kind, Request
from ml.scoring import Exact, Matrix, Scores, Vector
from ml.words import Rows
from projections.table import LAST_POSITION


@dataclass(frozen=True, slots=True)
class Case:
    """A batch's candidates with all that is computed before a model sees them. Request n has the
    rows from ``starts[n]`` to ``starts[n + 1]``."""

    rows: Rows
    inputs: Matrix
    starts: Sequence[int]
    rejected: Sequence[tuple[str, ...]]
    exposure: Exact


class Scored:
    """What the models say of one request's candidates."""

    __slots__ = ("contributions", "margins", "probabilities", "risks", "shadow")

    margins: Vector
    probabilities: Vector
    risks: Exact
    contributions: Matrix

    def __init__(self) -> None:
        self.shadow: tuple[Vector, Exact] | None = None

    def take(self, scores: Scores, part: slice) -> None:
        """Take this request's rows."""
        self.margins = scores.margins[part]
        self.probabilities = scores.probabilities[part]
        self.risks = scores.risks[part]
        self.contributions = scores.contributions[part]


class Decided:
    """One request's candidates, weighed."""

    def __init__(
        self,
        kind: Kind,
        request: Request,
        weights: Weights,
        case: Case,
        number: int,
        ruling: Ruling,
        scored: Scored,
    ) -> None:
        self._kind, self._request, self._weights = kind, request, weights
        self._ruling, self._scored, self._rows = ruling, scored, case.rows
        self._first, end = case.starts[number], case.starts[number + 1]
        if self._first == end:
            raise Failed("decision.no_candidate", kind.nothing)
        mine = slice(self._first, end)
        self._inputs = case.inputs[mine]
        self._rejected = case.rejected[mine]
        self._costs = case.rows.column("cost_minor")[mine]
        self._carbon = case.rows.column("carbon_g")[mine]
        self._exposure = case.exposure[mine]
        self._risks = (scored.risks * self._exposure).tolist()
        self._objectives = self._weigh(self._risks)
        self._ranked = rank(self._objectives, self._rejected)
        best = self._ranked[0]
        self._chosen = None if self._rejected[best] else best

    def command(self, versions: dict[str, str]) -> RecordDecision:
        """The decision, its explanation, and whether people have to take it."""
        event, kind = self._request.event, self._kind
        head: dict[str, Any] = {
            "decision_id": event.decision_id,
            "kind": kind.name,
            "subject_id": event.subject_id,
        }
        chosen = self._chosen
        candidates = self._candidates()
        foretold = None if chosen is None else float(self._scored.risks[chosen])
        made = DecisionMade(
            **head,
            as_of=self._request.position,
            role=self._ruling.role,
            model_hash=self._ruling.model_hash,
            schema_hash=kind.schema_hash,
            code=kind.code,
            libraries=versions,
            weights=self._weights,
            candidates=candidates,
            chosen=chosen,
            option={} if chosen is None else candidates[chosen].option,
            probability=None if chosen is None else candidates[chosen].probability,
            foretold=foretold,
            risk=None if chosen is None else self._risks[chosen],
            confidence=None if foretold is None else max(foretold, 1 - foretold),
            value_minor=self._rows.column("value_minor")[self._first],
            currency=self._rows.column("currency")[self._first],
        )
        return RecordDecision(
            made=made,
            explained=self._explained(head),
            referred=self._referred(head, made),
            shadows=self._shadows(head, made),
        )

    def _weigh(self, risks: Sequence[float]) -> list[float]:
        weights = self._weights
        return [
            objective(weights, cost, risk, carbon)
            for cost, risk, carbon in zip(self._costs, risks, self._carbon, strict=True)
        ]

    def _candidates(self) -> tuple[Candidate, ...]:
        kind, scored, rows = self._kind, self._scored, self._rows
        names = [(name, rows.column(name)) for name in kind.option]
        lineage = [
            (source.alias, rows.column(f"{source.alias}__{LAST_POSITION}"))
            for source in kind.sources
        ]
        margins, probabilities = scored.margins.tolist(), scored.probabilities.tolist()
        encoded = encode(self._inputs)
        return tuple(
            Candidate(
                option={name: column[row] for name, column in names if column[row] is not None},
                features=encoded[index],
                lineage={
                    alias: position
                    for alias, column in lineage
                    if (position := column[row]) is not None
                },
                margin=margins[index],
                probability=probabilities[index],
                risk=self._risks[index],
                cost_minor=self._costs[index],
                carbon_g=self._carbon[index],
                objective=self._objectives[index],
                rejected=self._rejected[index],
            )
            for index, row in enumerate(range(self._first, self._first + len(self._costs)))
        )

    def _row(self, index: int) -> words.Row:
        return self._rows.row(
            self._first + index,
            probability=float(self._scored.probabilities[index]),
            risk=self._risks[index],
            objective=self._objectives[index],
            rejected=self._rejected[index],
        )

    def _explained(self, head: dict[str, Any]) -> DecisionExplained:
        kind, best = self._kind, self._ranked[0]
        row = self._row(best)
        why = self._ruling.told
        runner: RunnerUp | None = None
        if self._chosen is not None and len(self._ranked) > 1:
            other = self._ranked[1]
            sentence = words.runner_up(kind, row, self._row(other))
            runner = RunnerUp(candidate=other, sentence=sentence)
        return DecisionExplained(
            **head,
            contributions=tuple(encode(self._scored.contributions)),
            summary=(
                f"No candidate for {head['subject_id']} keeps all the rules"
                if self._chosen is None
                else words.by_rule(kind.summary(row), why)
            ),
            reasons=(
                ()
                if self._chosen is None
                else words.reasons(
                    kind,
                    row,
                    self._inputs[best].tolist(),
                    self._scored.contributions[best].tolist(),
                    why,
                )
            ),
            rejections=words.rejections(kind, self._rows, self._first, self._rejected),
            runner_up=runner,
        )

    def _referred(self, head: dict[str, Any], made: DecisionMade) -> DecisionReferred | None:
        """Whether people take it: nothing is allowed, too little confidence, or too much value."""
        found = []
        approvals = 1
        if made.confidence is None:
            told = "No candidate keeps all the rules: a person decides"
            found.append(Reason(code="choice.none_allowed", sentence=told))
        elif made.confidence < self._ruling.minimum_confidence:
            told = (
                f"The confidence of {made.confidence:.1%} is below the "
                f"{self._ruling.minimum_confidence:.1%} that the policy wants"
            )
            found.append(Reason(code="confidence.too_low", sentence=told))
        most = self._ruling.four_eyes_above_minor
        if most is not None and made.value_minor is None:
            told = "What is at stake is not known: four eyes"
            found.append(Reason(code="value.not_known", sentence=told))
            approvals = 2
        elif most is not None and made.value_minor is not None and made.value_minor > most:
            stake, limit = (money(one, made.currency) for one in (made.value_minor, most))
            told = f"{stake} are at stake, more than {limit}: four eyes"
            found.append(Reason(code="value.four_eyes", sentence=told))
            approvals = 2
        if not found:
            return None
        return DecisionReferred(
            **head, model_hash=made.model_hash, approvals=approvals, reasons=tuple(found)
        )

    def _shadows(self, head: dict[str, Any], made: DecisionMade) -> tuple[DecisionShadowed, ...]:
        if self._scored.shadow is None or self._ruling.shadow is None:
            return ()
        margins, raw = self._scored.shadow
        risks = (raw * self._exposure).tolist()
        best = rank(self._weigh(risks), self._rejected)[0]
        option = {} if self._rejected[best] else made.candidates[best].option
        return (
            DecisionShadowed(
                **head,
                model_hash=self._ruling.shadow,
                margins=encode(margins.reshape(1, -1))[0],
                option=option,
                risk=risks[best] if option else None,
                agrees=option == made.option,
            ),
        )


def objective(weights: Weights, cost_minor: int, risk: float, carbon_g: int) -> float:
    """What an option costs in all, in minor units (see ``Weights``)."""
    return (
        weights.cost * cost_minor
        + weights.risk_minor * risk
        + weights.carbon_minor_per_kg * carbon_g / 1000
    )


def rank(objectives: Sequence[float], rejected: Sequence[Sequence[str]]) -> list[int]:
    """Candidates from best to worst, the rejected ones last. Ties go to the first in the order of
    the option's names: candidates are sorted by them."""
    return sorted(range(len(objectives)), key=lambda n: (bool(rejected[n]), objectives[n], n))


def encode(values: np.ndarray[Any, Any]) -> list[str]:
    """Each row as base64 of little-endian float32 values."""
    content = np.ascontiguousarray(values, dtype="<f4").tobytes()
    size = 4 * values.shape[1]
    return [
        base64.b64encode(content[start : start + size]).decode()
        for start in range(0, len(content), size)
    ]


def floats(encoded: str) -> list[float]:
    """The numbers behind base64 of little-endian float32 values."""
    return [float(value) for value in np.frombuffer(base64.b64decode(encoded), dtype="<f4")]
