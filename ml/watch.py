"""Which models have done something since they were last measured; measures them now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection

from commands import Bus
from domain.decisions import RULE_BASED, DecisionMade, DecisionOutcomeRecorded
from domain.models import ModelMeasured
from domain.values import Event
from eventstore import Log, LogUnavailable
from eventstore.artifacts import Artifacts
from ml.monitoring import LEAST_DECISIONS, LEAST_OUTCOMES, Measured, measure
from projections.frames import NewerTopic
from projections.reading import LogReader

_MEASURING = 0x_C4A1_0004
_log = structlog.get_logger(__name__)

_FIELDS: Mapping[type[Event], set[str]] = {
    DecisionMade: {"model_hash", "role"},
    DecisionOutcomeRecorded: {"model_hash"},
    ModelMeasured: {"model_hash", "state"},
}


@dataclass(slots=True)
class _News:
    """Log positions behind the last measured one, of one model's events."""

    measured_to: int = 0
    positions: dict[type[Event], list[int]] = field(default_factory=dict)

    def forget(self, to: int) -> None:
        self.measured_to = max(self.measured_to, to)
        for event, positions in self.positions.items():
            self.positions[event] = [one for one in positions if one > self.measured_to]

    def count(self, event: type[Event]) -> int:
        return len(self.positions.get(event, ()))


class Unmeasured:
    """Follows the log and knows what is not measured yet: each event is read once."""

    def __init__(self, url: str, organisation_id: UUID | None = None) -> None:
        self._url, self._organisation = url, organisation_id
        self._position = 0
        self._news: dict[tuple[UUID, str], _News] = {}
        #: What made decisions and is no model: nobody registered it, and it cannot drift.
        self._rules: set[str] = set()

    async def read(self, to: int) -> None:
        """Read on to a position. A log that was set back (a restore) is read anew."""
        if to < self._position:
            self._position, self._news = 0, {}
        async with LogReader(self._url) as reader:
            while self._position < to:
                end = await reader.window_end(self._position, to)
                frames = await reader.frames(_FIELDS, self._position, end, self._organisation)
                # What a measurement of this window counts is in it or before it.
                for event in _FIELDS:
                    if event in frames:
                        self._take(event, frames[event].rows(named=True))
                self._position = end

    def _take(self, event: type[Event], rows: list[dict[str, object]]) -> None:
        for row in rows:
            model_hash, position = row["model_hash"], row["position"]
            if row.get("role") == RULE_BASED:
                self._rules.add(str(model_hash))
            if model_hash is None or model_hash in self._rules:
                continue
            assert isinstance(position, int)
            key = UUID(str(row["organisation_id"])), str(model_hash)
            news = self._news.setdefault(key, _News())
            if event is ModelMeasured:
                measured = ModelMeasured.model_validate_json(str(row["state"]))
                news.forget(measured.measurement.to_position)
            elif position > news.measured_to:
                news.positions.setdefault(event, []).append(position)

    def due(self, decisions: int, outcomes: int) -> list[tuple[UUID, str]]:
        """The models with at least so many new decisions, or so many new outcomes."""
        return [
            key
            for key, news in self._news.items()
            if news.count(DecisionMade) >= decisions
            or news.count(DecisionOutcomeRecorded) >= outcomes
        ]


async def measure_all(
    url: str,
    log: Log,
    artifacts: Artifacts,
    bus: Bus,
    organisation_id: UUID | None = None,
    *,
    unmeasured: Unmeasured | None = None,
    decisions: int = 1,
    outcomes: int = 1,
) -> list[Measured]:
    """Measure every model that has done so much since its last measurement, of one organisation or
    of all. One that cannot be measured holds up no other.

    Args:
        unmeasured: what was read of the log before.
        decisions, outcomes: so many new ones of either are enough.
    """
    unmeasured = unmeasured or Unmeasured(url, organisation_id)
    await unmeasured.read(await log.head())
    found = []
    for organisation, model_hash in unmeasured.due(decisions, outcomes):
        try:
            measured = await measure(url, log, artifacts, bus, organisation, model_hash)
        except (psycopg.Error, LogUnavailable):
            raise
        except Exception as error:
            name = type(error).__name__
            _log.warning("model not measured", model=model_hash[:12], error=f"{name}: {error}")
            continue
        if measured is not None:
            found.append(measured)
    return found


async def keep_measured(
    url: str, log: Log, artifacts: Artifacts, bus: Bus, *, every: timedelta
) -> None:
    """Measure models now and then, until cancelled; of several processes one does it at a time.

    A model is measured when it has 50 decisions or 50 outcomes that are not.
    """
    unmeasured = Unmeasured(url)
    while True:
        try:
            async with await AsyncConnection.connect(
                url, autocommit=True, connect_timeout=5
            ) as connection:
                row = await (
                    await connection.execute("SELECT pg_try_advisory_lock(%s)", (_MEASURING,))
                ).fetchone()
                if row is not None and row[0]:
                    for one in await measure_all(
                        url,
                        log,
                        artifacts,
                        bus,
                        unmeasured=unmeasured,
                        decisions=LEAST_DECISIONS,
                        outcomes=LEAST_OUTCOMES,
                    ):
                        _log.info(
                            "model measured",
                            model=one.model_hash[:12],
                            decisions=one.measurement.decisions,
                            past_limits=[limit.name for limit in one.passed],
                        )
        except (psycopg.Error, LogUnavailable, NewerTopic) as error:
            _log.warning("measuring later", error=str(error).strip())
        await asyncio.sleep(every.total_seconds())
