"""What would be decided on a subject now, if somebody asked: the same way as for a request, and
nothing of it is put on the log."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial
from uuid import UUID

from domain.decisions import (
    DecisionExplained,
    DecisionMade,
    DecisionRequested,
    RecordDecision,
    Weights,
)
from eventstore import Log
from eventstore.artifacts import Artifacts
from ml.deciding import decide
from ml.history import LiveHistory
from ml.kind import Failed, Kind, Request
from ml.scorers import Scorers
from ml.tables import GOVERNANCE
from projections.contributions import contributions

#: The name of a decision that nobody asked for.
SUPPOSED = "supposed"


async def suppose(
    log: Log,
    artifacts: Artifacts,
    organisation_id: UUID,
    kind: Kind,
    subject_id: str,
    weights: Weights,
    at: datetime,
) -> tuple[DecisionMade, DecisionExplained]:
    """The decision on a subject, by the feature tables as they stand, by the champion or the rule.

    Raises:
        Failed: there would be none, and why.
    """
    event = DecisionRequested(
        decision_id=SUPPOSED,
        kind=kind.name,
        subject_id=subject_id,
        weights=weights,
        priority=5,
        deadline=None,
        redecides=None,
        requested_at=at,
    )
    tables = dict.fromkeys((*kind.tables, *GOVERNANCE))
    nothing = {table: contributions(table, {}) for table in tables}
    scorers = Scorers(artifacts)
    request = Request(str(organisation_id), await log.head() + 1, event)
    async with log.connection() as connection:
        [answer] = await decide(
            kind,
            [request],
            LiveHistory(connection, nothing),
            partial(scorers.load, kind),
            asyncio.Lock(),
        )
    if not isinstance(answer.command, RecordDecision):
        raise Failed(answer.command.code, answer.command.detail)
    return answer.command.made, answer.command.explained
