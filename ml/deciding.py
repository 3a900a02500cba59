"""The one way to decide: requests and a history in, answers out. No clock, no randomness.

The consumer runs it on live rows, replay on the log: same code, same bytes.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from domain.decisions import (
    Candidate,
    DecisionExplained,
    DecisionMade,
    FailDecision,
    RecordDecision,
    RunnerUp,
)
from ml import words
from ml.history import join, matrix, with_sources
from ml.kind import Failed, History, Kind, Request
from ml.scoring import ModelUnfit, Scorer, Scores, libraries
from ml.tables import CHAMPION
from projections.table import LAST_POSITION

#: Loads the model of a hash; raises KeyError where there is none.
LoadScorer = Callable[[str], Awaitable[Scorer]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be put on the log for a request."""

    request: Request
    command: RecordDecision | FailDecision


async def decide(
    kind: Kind, requests: Sequence[Request], history: History, load: LoadScorer
) -> list[Answer]:
    """Answer requests of one kind, each as of its own log position, in one batch.

    A request that cannot be decided is answered alone with the reason.
    """
    if not requests:
        return []
    champions = await _champions(kind, requests, history)
    frame = await with_sources(kind, await kind.enumerate(requests, history), history)
    frame = frame.with_columns(
        *(
            constraint.broken.fill_null(False).alias(constraint.code)
            for constraint in kind.constraints
        ),
        kind.cost_minor.alias("cost_minor"),
        kind.carbon_g.alias("carbon_g"),
    )
    inputs = matrix(kind, frame)
    owners = frame["request"].to_numpy()
    scores: dict[int, tuple[pl.DataFrame, np.ndarray[Any, Any], Scores] | Failed] = {}
    for champion in dict.fromkeys(champions):
        mine = [n for n, one in enumerate(champions) if one == champion]
        try:
            scorer = await _scorer(kind, champion, load)
            rows = np.flatnonzero(np.isin(owners, mine))
            # The trees run in a thread: the loop goes on serving.
            scored = await asyncio.to_thread(scorer.score, inputs[rows])
        except Failed as failure:
            scores |= dict.fromkeys(mine, failure)
            continue
        for number in mine:
            own = np.flatnonzero(owners[rows] == number)
            part = Scores(scored.margins[own], scored.probabilities[own], scored.contributions[own])
            scores[number] = (frame[rows[own].tolist()], inputs[rows[own]], part)
    versions = libraries()
    answers = []
    for number, request in enumerate(requests):
        found = scores[number]
        try:
            if isinstance(found, Failed):
                raise found
            command = _answer(kind, request, champions[number][0], versions, *found)
        except Failed as failure:
            answers.append(
                Answer(
                    request,
                    FailDecision(
                        decision_id=request.event.decision_id,
                        code=failure.code,
                        detail=failure.detail,
                    ),
                )
            )
        else:
            answers.append(Answer(request, command))
    return answers


async def _champions(
    kind: Kind, requests: Sequence[Request], history: History
) -> list[tuple[str, str]]:
    frame = pl.DataFrame(
        {
            "organisation_id": [request.organisation_id for request in requests],
            "kind": [kind.name] * len(requests),
            "position": [request.position for request in requests],
        }
    )
    found = await join(frame, "champion", CHAMPION, history)
    return [
        (model or "", schema or "")
        for model, schema in found.select(
            "champion__model_hash", "champion__schema_hash"
        ).iter_rows()
    ]


async def _scorer(kind: Kind, champion: tuple[str, str], load: LoadScorer) -> Scorer:
    model_hash, schema_hash = champion
    if not model_hash:
        raise Failed("decision.no_model", f"no model is deployed for {kind.name}")
    if schema_hash != kind.schema_hash:
        raise Failed(
            "decision.schema_changed",
            f"model {model_hash[:12]} was trained on features {schema_hash[:12]}, "
            f"now they are {kind.schema_hash[:12]}: train and deploy a new one",
        )
    try:
        return await load(model_hash)
    except (KeyError, ModelUnfit) as error:
        raise Failed("decision.model_unfit", f"model {model_hash[:12]}: {error}") from error


def _answer(
    kind: Kind,
    request: Request,
    model_hash: str,
    versions: dict[str, str],
    frame: pl.DataFrame,
    inputs: np.ndarray[Any, Any],
    scores: Scores,
) -> RecordDecision:
    if frame.is_empty():
        raise Failed(
            "decision.no_candidate", "the order's lines are not known, or no site may sell them"
        )
    event = request.event
    weights = event.weights
    rows: list[dict[str, Any]] = []
    candidates: list[Candidate] = []
    for index, row in enumerate(frame.iter_rows(named=True)):
        probability = float(scores.probabilities[index])
        objective = (
            weights.cost * row["cost_minor"]
            + weights.lateness_minor * probability
            + weights.carbon_minor_per_kg * row["carbon_g"] / 1000
        )
        rejected = tuple(c.code for c in kind.constraints if row[c.code])
        rows.append(
            row | {"probability": probability, "objective": objective, "rejected": rejected}
        )
        candidates.append(
            Candidate(
                option={name: row[name] for name in kind.option},
                features=_base64(inputs[index]),
                lineage={
                    source.alias: position
                    for source in kind.sources
                    if (position := row[f"{source.alias}__{LAST_POSITION}"]) is not None
                },
                margin=float(scores.margins[index]),
                probability=probability,
                cost_minor=row["cost_minor"],
                carbon_g=row["carbon_g"],
                objective=objective,
                rejected=rejected,
            )
        )
    # Ties go to the first in the order of the option's names: the frame is sorted by them.
    ranked = sorted(
        range(len(rows)), key=lambda n: (bool(rows[n]["rejected"]), rows[n]["objective"], n)
    )
    best = ranked[0]
    chosen = None if rows[best]["rejected"] else best
    likely: float | None = None if chosen is None else rows[best]["probability"]
    made = DecisionMade(
        decision_id=event.decision_id,
        kind=kind.name,
        subject_id=event.subject_id,
        as_of=request.position,
        model_hash=model_hash,
        schema_hash=kind.schema_hash,
        libraries=versions,
        weights=weights,
        candidates=tuple(candidates),
        chosen=chosen,
        option={} if chosen is None else candidates[best].option,
        probability=likely,
        confidence=None if likely is None else max(likely, 1 - likely),
    )
    explained = DecisionExplained(
        decision_id=event.decision_id,
        kind=kind.name,
        subject_id=event.subject_id,
        contributions=tuple(_base64(row) for row in scores.contributions),
        summary=(
            f"No candidate for {event.subject_id} keeps all the rules"
            if chosen is None
            else kind.summary(rows[best])
        ),
        reasons=(
            ()
            if chosen is None
            else words.reasons(kind, rows[best], inputs[best], scores.contributions[best])
        ),
        rejections=words.rejections(kind, rows),
        runner_up=(
            None
            if chosen is None or len(ranked) < 2
            else RunnerUp(
                candidate=ranked[1], sentence=words.runner_up(kind, rows[best], rows[ranked[1]])
            )
        ),
    )
    return RecordDecision(made=made, explained=explained)


def _base64(values: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def floats(encoded: str) -> list[float]:
    """The numbers behind base64 of little-endian float32 values."""
    return [float(value) for value in np.frombuffer(base64.b64decode(encoded), dtype="<f4")]
