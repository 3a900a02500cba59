"""Backtest: past requests decided again, each as of its own log position, by another model or other
weights; what would have been chosen, and what it would have come to.

Nothing is written. What became of a case is known for what was done alone: of any other choice
there is only what the model foretells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from commands import stream_id
from commands.decisions import decision_stream
from commands.models import model_stream
from domain import catalogue
from domain.decisions import (
    DecisionFailed,
    DecisionMade,
    DecisionOutcomeRecorded,
    DecisionReferred,
    DecisionRequested,
)
from domain.models import ModelRegistered
from domain.values import Event
from eventstore import Log
from eventstore.artifacts import ArtifactCorrupt, Artifacts
from ml.comparison import Backtest, Comparer, Then
from ml.deciding import Instead
from ml.kind import Kind, Request
from ml.pieces import answers
from ml.replay import Progress, requests_of
from ml.scorers import Scorers
from ml.scoring import ModelUnfit
from ml.tables import GOVERNANCE
from ml.walk import walk
from projections.reading import LogReader

#: Requests whose stored answers are held at once.
_AT_ONCE = 256


class NothingToCompare(Exception):
    """A backtest that cannot be run as it was asked for."""


async def backtest(
    url: str,
    log: Log,
    artifacts: Artifacts,
    organisation_id: UUID,
    kind: Kind,
    instead: Instead,
    from_position: int,
    to_position: int,
    report: Progress | None = None,
) -> Backtest:
    """Decide an organisation's answered requests between two log positions (both included) again.

    Raises:
        NothingToCompare: neither model nor weights are given, or the model cannot be used.
    """
    if instead.model_hash is None and instead.weights is None:
        raise NothingToCompare("name another model, other weights, or both")
    scorers = Scorers(artifacts)
    learned_to = None
    if instead.model_hash is not None:
        # Models are stored by their content, whoever they belong to.
        learned_to = await _learned_to(log, organisation_id, instead.model_hash)
        if learned_to is None:
            raise NothingToCompare(f"there is no model {instead.model_hash}")
        try:
            await scorers.load(kind, instead.model_hash)
        except KeyError as error:
            raise NothingToCompare(f"there is no model {instead.model_hash}") from error
        except (ModelUnfit, ArtifactCorrupt) as error:
            raise NothingToCompare(f"model {instead.model_hash[:12]}: {error}") from error
    to = min(to_position, await log.head())
    tables = tuple(dict.fromkeys((*kind.tables, *GOVERNANCE)))
    fields: Mapping[type[Event], set[str]] = {DecisionRequested: {"state"}}
    found = Comparer(kind, learned_to)
    async with LogReader(url) as reader:
        after = max(from_position - 1, 0)
        async for window in walk(reader, organisation_id, tables, fields, to, after):
            requests = [one for one in requests_of(window) if one.event.kind == kind.name]
            for start in range(0, len(requests), _AT_ONCE):
                some = requests[start : start + _AT_ONCE]
                then = await _answered(log, organisation_id, some)
                asked = [one for one in some if one.event.decision_id in then]
                async for given in answers(
                    {kind.name: kind}, asked, window.history, scorers, instead
                ):
                    for answer in given:
                        found.take(answer, then.pop(answer.request.event.decision_id))
            if report is not None:
                report(window.to, to)
    return found.result(instead, from_position, to)


async def _learned_to(log: Log, organisation_id: UUID, model_hash: str) -> int | None:
    """The log position up to which a model of the organisation learned from cases, by its
    registration; None: it has no such model."""
    mine = stream_id(organisation_id, model_stream(model_hash))
    for one in (await log.streams([mine])).get(mine, []):
        event = catalogue.decode(one.topic, one.state)
        if isinstance(event, ModelRegistered):
            return event.training.to_position
    return None


async def _answered(
    log: Log, organisation_id: UUID, requests: Sequence[Request]
) -> dict[str, Then]:
    """What is stored of those of the requests that were answered."""
    names = {
        stream_id(organisation_id, decision_stream(one.event.decision_id)): one.event.decision_id
        for one in requests
    }
    found: dict[str, Then] = {}
    for stream, events in (await log.streams(list(names))).items():
        kinds = {catalogue.type_of(one.topic): one for one in events}
        made, outcome = (
            catalogue.decode(one.topic, one.state) if (one := kinds.get(event)) else None
            for event in (DecisionMade, DecisionOutcomeRecorded)
        )
        assert made is None or isinstance(made, DecisionMade)
        assert outcome is None or isinstance(outcome, DecisionOutcomeRecorded)
        if made is not None or DecisionFailed in kinds:
            found[names[stream]] = Then(made, DecisionReferred in kinds, outcome)
    return found
