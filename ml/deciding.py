"""The one way to decide: requests and a history in, answers out. No clock, no randomness.

The consumer runs it on live rows, replay and backtests on the log: same code, same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import psycopg
import structlog

from domain.decisions import (
    FailDecision,
    RecordDecision,
    Weights,
)
from domain.models import Role
from eventstore import LogUnavailable
from eventstore.archive.object_store import ArchiveDamaged
from eventstore.artifacts import ArtifactCorrupt
from ml.governance import KIND_STOPPED, Ruling, rulings
from ml.history import matrix, with_sources
from ml.kind import Failed, History, Kind, Request
from ml.scoring import (
    ADDITIVITY_TOLERANCE,
    Judge,
    Matrix,
    ModelUnfit,
    libraries,
)
from ml.weighing import Case, Decided, Scored
from ml.words import Rows

_log = structlog.get_logger(__name__)

#: Loads the model or rule of a hash; raises KeyError where there is none, ModelUnfit,
#: ArtifactCorrupt.
LoadScorer = Callable[[str], Awaitable[Judge]]
#: Taken while a matrix is scored: how many are at once.
Gate = AbstractAsyncContextManager[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be put on the log for a request."""

    request: Request
    command: RecordDecision | FailDecision


@dataclass(frozen=True, slots=True)
class Instead:
    """What a backtest decides with: another model, other weights, or both."""

    model_hash: str | None = None
    weights: Weights | None = None


async def decide(
    kind: Kind,
    requests: Sequence[Request],
    history: History,
    load: LoadScorer,
    gate: Gate,
    instead: Instead | None = None,
) -> list[Answer]:
    """Answer requests of one kind, each as of its own log position, in one batch.

    A request that cannot be decided is answered alone with the reason; one that upsets the whole
    batch is found by halving it. So is one that needs a file of the archive that is lost.

    Raises:
        psycopg.Error, LogUnavailable: the database, or the archive, cannot be read: nobody is
            answered.
    """
    if not requests:
        return []
    try:
        return await _decide(kind, requests, history, load, gate, instead)
    except Exception as error:
        # What is lost is lost for the next attempt too: it must not hold up all others.
        lost = isinstance(error, ArchiveDamaged)
        if isinstance(error, psycopg.Error | LogUnavailable) and not lost:
            raise
        if len(requests) == 1:
            # The requester is told in a line; whoever has to mend it needs to know where.
            decision_id = requests[0].event.decision_id
            _log.warning("cannot decide", decision_id=decision_id, exc_info=True)
            return [_failed(requests[0], _as_failure(error))]
        middle = len(requests) // 2
        return [
            *await decide(kind, requests[:middle], history, load, gate, instead),
            *await decide(kind, requests[middle:], history, load, gate, instead),
        ]


async def _decide(
    kind: Kind,
    requests: Sequence[Request],
    history: History,
    load: LoadScorer,
    gate: Gate,
    instead: Instead | None,
) -> list[Answer]:
    ruled = _as_told(await rulings(kind, requests, history), instead)
    case = _case(kind, len(requests), await _candidates(kind, requests, history))
    scores = await _scores(case, ruled, load, gate)
    versions = libraries()
    answers = []
    for number, (request, ruling) in enumerate(zip(requests, ruled, strict=True)):
        try:
            if isinstance(ruling, Failed):
                raise ruling
            if isinstance(scored := scores[number], Failed):
                raise scored
            weights = (instead and instead.weights) or request.event.weights
            decided = Decided(kind, request, weights, case, number, ruling, scored)
            answers.append(Answer(request, decided.command(versions)))
        except Failed as failure:
            answers.append(_failed(request, failure))
    return answers


def _as_failure(error: Exception) -> Failed:
    if isinstance(error, ArchiveDamaged):
        return Failed("decision.history_lost", "a part of the archive that it needs is lost")
    told = f"{type(error).__name__}: {error}".replace("\0", "")
    return Failed("decision.error", told[:500])


def _failed(request: Request, failure: Failed) -> Answer:
    return Answer(
        request,
        FailDecision(
            decision_id=request.event.decision_id, code=failure.code, detail=failure.detail
        ),
    )


def _as_told(ruled: list[Ruling | Failed], instead: Instead | None) -> Sequence[Ruling | Failed]:
    if instead is None or instead.model_hash is None:
        return ruled
    alone = Ruling(instead.model_hash, Role.CHAMPION.value)
    return [
        replace(one, model_hash=alone.model_hash, role=alone.role, shadow=None, told="")
        if isinstance(one, Ruling)
        else one
        if one.code == KIND_STOPPED
        else alone
        for one in ruled
    ]


async def _candidates(kind: Kind, requests: Sequence[Request], history: History) -> pl.DataFrame:
    frame = await with_sources(kind, await kind.enumerate(requests, history), history)
    return frame.with_columns(
        *(
            constraint.broken.fill_null(False).alias(constraint.code)
            for constraint in kind.constraints
        ),
        kind.cost_minor.cast(pl.Int64).alias("cost_minor"),
        kind.carbon_g.cast(pl.Int64).alias("carbon_g"),
        kind.value_minor.cast(pl.Int64).alias("value_minor"),
        kind.exposure.cast(pl.Float64).alias("exposure"),
        kind.currency.cast(pl.String).alias("currency"),
    )


def _case(kind: Kind, count: int, frame: pl.DataFrame) -> Case:
    owners = frame["request"].to_numpy()
    starts = np.searchsorted(owners, np.arange(count + 1)).tolist()
    codes = [constraint.code for constraint in kind.constraints]
    broken = frame.select(codes)
    rejected: list[tuple[str, ...]] = [()] * frame.height
    any_broken = frame.select(pl.any_horizontal(codes)).to_series() if codes else None
    for number in [] if any_broken is None else any_broken.arg_true():
        told = broken.row(number)
        rejected[number] = tuple(code for code, is_so in zip(codes, told, strict=True) if is_so)
    return Case(Rows(frame), matrix(kind, frame), starts, rejected, frame["exposure"].to_numpy())


async def _scores(
    case: Case, ruled: Sequence[Ruling | Failed], load: LoadScorer, gate: Gate
) -> list[Scored | Failed]:
    """The numbers of each request's candidates, by its model and its shadow."""
    found: list[Scored | Failed] = [one if isinstance(one, Failed) else Scored() for one in ruled]
    by_model: dict[str, list[int]] = {}
    by_shadow: dict[str, list[int]] = {}
    for number, ruling in enumerate(ruled):
        if isinstance(ruling, Ruling):
            by_model.setdefault(ruling.model_hash, []).append(number)
            if ruling.shadow:
                by_shadow.setdefault(ruling.shadow, []).append(number)
    for model_hash, numbers in by_model.items():
        try:
            scorer = await load(model_hash)
        except (KeyError, ModelUnfit, ArtifactCorrupt) as error:
            told = f"model {model_hash[:12]}: {error}"
            failure = Failed("decision.model_unfit", told)
            for number in numbers:
                found[number] = failure
            continue
        taken = _taken(case, numbers)
        async with gate:
            # The trees run in a thread: the loop goes on serving.
            scores = await asyncio.to_thread(scorer.score, taken)
        if scores.additivity_error > ADDITIVITY_TOLERANCE:
            raise ArithmeticError(
                f"SHAP values of model {model_hash[:12]} miss the margin by "
                f"{scores.additivity_error:.2g}, more than {ADDITIVITY_TOLERANCE:.0e}"
            )
        for number, part in _parted(case, numbers):
            one = found[number]
            assert isinstance(one, Scored)
            one.take(scores, part)
    for model_hash, numbers in by_shadow.items():
        try:
            scorer = await load(model_hash)
        except (KeyError, ModelUnfit, ArtifactCorrupt) as error:
            # A shadow never acts, and never holds up.
            _log.warning("shadow cannot score", model=model_hash, error=str(error))
            continue
        async with gate:
            margins, risks = await asyncio.to_thread(scorer.risks, _taken(case, numbers))
        for number, part in _parted(case, numbers):
            one = found[number]
            if isinstance(one, Scored):
                one.shadow = (margins[part], risks[part])
    return found


def _taken(case: Case, numbers: Sequence[int]) -> Matrix:
    if len(numbers) == len(case.starts) - 1:
        return case.inputs
    parts = [case.inputs[case.starts[number] : case.starts[number + 1]] for number in numbers]
    return np.concatenate(parts)


def _parted(case: Case, numbers: Sequence[int]) -> list[tuple[int, slice]]:
    """Where each request's rows stand in what ``_taken`` gave."""
    found, start = [], 0
    for number in numbers:
        height = case.starts[number + 1] - case.starts[number]
        found.append((number, slice(start, start + height)))
        start += height
    return found
