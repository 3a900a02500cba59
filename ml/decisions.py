"""The decision consumer: answers requests and records outcomes, each once.

It reads the log in batches and keeps the feature tables. Rows and position are committed together,
after the answers are on the log. A crash between the two answers again with the same command ids,
from the same rows, and the log returns the first answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from time import monotonic, time_ns
from uuid import UUID, uuid5

import polars as pl
import structlog
from psycopg import AsyncConnection

from commands import Bus, Context, Result
from domain import catalogue
from domain.access import Role
from domain.decisions import (
    DecisionContested,
    DecisionFailed,
    DecisionRequested,
    KeepDecision,
    RequestDecision,
)
from domain.errors import Refused
from domain.values import Command
from eventstore import Receipt, StoredEvent
from eventstore.archive.cold import Cold
from eventstore.artifacts import Artifacts
from eventstore.kafka.cluster import lane_of
from eventstore.kafka.sequence import LaneBatch
from eventstore.log import Connection, read_after
from eventstore.spans import Followed, Spans
from eventstore.subscription import follow
from ml.catalogue import FEATURE_TABLES, KINDS
from ml.history import LiveHistory, join
from ml.kind import Request
from ml.pieces import answers
from ml.rules import rule_for
from ml.scorers import Scorers
from ml.tables import REQUEST
from projections import lanes, rows, store
from projections.contributions import contributions
from projections.engine import merge
from projections.frames import decode, wanted
from projections.projector import Projector

_log = structlog.get_logger(__name__)
ACTOR = "decision-consumer"
#: A rate is believed from so many events on.
_RATED = 500


class FeaturesIncomplete(Exception):
    """A feature table could not fold some events: a decision would be made of wrong values."""


class _StandApart(Exception):
    """Feature tables are not at one position of a lane, or not of this code."""


class DecisionConsumer:
    """Follows the log and decides.

    Args:
        url: libpq connection string.
        bus: takes the answers.
        artifacts: where models are stored.
        batch: events in one transaction; among the requests of a batch the most urgent come first.
        spans: is told of every event that was answered; None: nobody follows.
    """

    def __init__(
        self,
        url: str,
        bus: Bus,
        artifacts: Artifacts,
        *,
        batch: int = 20_000,
        spans: Spans | None = None,
    ) -> None:
        self._spans = spans
        self._began = 0
        self._url = url
        self._bus = bus
        self._artifacts = artifacts
        self._scorers = Scorers(artifacts)
        self._batch = batch
        self._cold = Cold()
        self._rate: float | None = None

    async def prepare(self) -> None:
        """Create the feature tables; rebuild those that are new or whose declaration changed. Store
        the rules that decide without a model: a later version may have others."""
        for kind in KINDS.values():
            if (rule := rule_for(kind)) is not None:
                await self._artifacts.put(rule.declaration)
        async with await self._connect() as connection:
            changed = await store.prepare(connection, FEATURE_TABLES)
            async with connection.transaction():
                if await self._started_over(connection):
                    return
            positions = await store.progress(connection, FEATURE_TABLES)
        begun = any(known.position for known in positions.values())
        new = [table for table in FEATURE_TABLES if begun and not positions[table.name].position]
        projector = Projector(self._url, FEATURE_TABLES)
        for table in changed:
            await projector.rebuild(table, if_outdated=True)
        for table in new:
            await projector.rebuild(table)
        async with await self._connect() as connection, connection.transaction():
            await self._started_over(connection)

    async def run(self) -> None:
        """Follow the log for ever; survives a restart of the server by itself."""
        # The first decision is not to wait for what is imported late.
        await asyncio.to_thread(import_module, "xgboost")
        await follow(self._url, "decision consumer", self.step)

    async def catch_up(self) -> None:
        """Answer what the log holds now."""
        async with await self._connect() as connection:
            while await self.step(connection):
                pass

    async def step(self, connection: Connection) -> bool:
        """Take one batch; whether there was one."""
        begun = monotonic()
        async with connection.transaction():
            if await self._started_over(connection):
                return True
            outlook = await _whole(connection)
            known = await store.progress(connection, FEATURE_TABLES)
            position = min(progress.position for progress in known.values())
            events = await read_after(connection, position, self._batch, self._cold)
            if not events:
                return False
            left: Sequence[StoredEvent] = events
            if outlook.ahead:  # where events came by Kafka before: some lanes are done further
                for ahead in (await lanes.ahead(connection, FEATURE_TABLES)).values():
                    left = ahead.events_left(left)
            await self._decide(connection, left)
            rate = len(events) / (monotonic() - begun) if len(events) >= _RATED else None
            await store.advance(connection, FEATURE_TABLES, events[-1].position, rate)
        return True

    # Lane by lane, as a `LaneConsumer`: what is decided on is of the lane's organisations alone.

    async def position(self, connection: Connection, lane: int) -> int:
        """The position up to which all of a lane is decided."""
        return min((await lanes.done(connection, FEATURE_TABLES, lane)).values())

    async def level(self, connection: Connection) -> None:
        """Say up to where all lanes are decided."""
        rate, self._rate = self._rate, None
        await self._sound_again(connection)
        await lanes.level(connection, FEATURE_TABLES, store.CHANNEL, rate)

    async def take(self, connection: Connection, batch: LaneBatch) -> None:
        """Decide what a lane's events request; what is missing before them is read from the log.

        Raises:
            Superseded: the relay has begun anew since the batch was published.
            FeaturesIncomplete: a feature table has dead letters.
        """
        await self._sound_again(connection)
        try:
            while await self._take_some(connection, batch):
                pass
        except _StandApart:
            await self._sound_again(connection)
            raise

    async def _sound_again(self, connection: Connection) -> None:
        """Begin at the start of the log where the tables cannot be gone on with."""
        if await _unsound(connection) is not None:
            async with connection.transaction():
                await self._started_over(connection)

    async def _take_some(self, connection: Connection, batch: LaneBatch) -> bool:
        """Take the batch, or what comes before it from the log; whether there may be more."""
        begun = monotonic()
        async with connection.transaction():
            mine = await lanes.shared(connection, FEATURE_TABLES)
            if len(mine) < len(FEATURE_TABLES):
                raise _StandApart("feature tables are of another declaration")
            reached = set((await lanes.begin(connection, FEATURE_TABLES, batch)).values())
            if len(reached) > 1:
                # Some were rebuilt meanwhile: a batch would be folded into these twice.
                raise _StandApart(f"feature tables have come to {sorted(reached)}")
            [done] = reached
            if done >= batch.to:
                return False
            await _whole(connection)
            if done < batch.after:
                found = await read_after(connection, done, self._batch, self._cold)
                to = min(found[-1].position, batch.after)
            else:
                found, to = list(batch.events), batch.to
            events = [
                one
                for one in found
                if done < one.position <= to
                and lane_of(one.organisation_id, batch.lanes) == batch.lane
            ]
            await self._decide(connection, events)
            await lanes.advance(connection, FEATURE_TABLES, batch, to)
        if len(events) >= _RATED:
            self._rate = len(events) / (monotonic() - begun)
        return to < batch.to

    async def _decide(self, connection: Connection, events: Sequence[StoredEvent]) -> None:
        """Answer what some events request and record what they say of outcomes, then fold them."""
        self._began = 0 if self._spans is None else time_ns()
        frames = decode(events, wanted(FEATURE_TABLES))
        batch = {table: contributions(table, frames) for table in FEATURE_TABLES}
        history = LiveHistory(connection, batch)
        await self._answer(events, history)
        await self._ask_again(events)
        await self._keep(events, history)
        for kind in KINDS.values():
            outcomes = await kind.outcomes(events, history)
            await self._send(
                [(command, cause, f"outcome:{command.decision_id}") for cause, command in outcomes]
            )
        for table, parts in batch.items():
            await rows.merge_part(connection, table, merge(table, [parts]))

    async def _started_over(self, connection: Connection) -> bool:
        """Go back to the start where the tables cannot be gone on with; whether so. Takes the row
        locks that keep other consumers out."""
        await store.progress(connection, FEATURE_TABLES, lock=True)
        reason = await _unsound(connection)
        if reason is None:
            return False
        _log.warning("deciding from the start of the log", reason=reason)
        await store.start_over(connection, FEATURE_TABLES)
        return True

    async def _answer(self, events: Sequence[StoredEvent], history: LiveHistory) -> None:
        """Decide what is requested, the most urgent first."""
        causes = {event.position: event for event in events}
        clock = partial(datetime.now, UTC)
        requests = requests_in(events)
        async for some in answers(KINDS, requests, history, self._scorers, clock=clock):
            await self._send(
                [(one.command, causes[one.request.position], "answer") for one in some]
            )

    async def _ask_again(self, events: Sequence[StoredEvent]) -> None:
        """Request what a contested decision is to be decided anew."""
        for stored in events:
            if catalogue.type_of(stored.topic) is not DecisionContested:
                continue
            event = catalogue.decode(stored.topic, stored.state)
            assert isinstance(event, DecisionContested)
            if event.redecide:
                command = RequestDecision(
                    decision_id=str(uuid5(stored.event_id, "redecision")),
                    kind=event.kind,
                    subject_id=event.subject_id,
                    weights=event.weights,
                    priority=event.priority,
                    redecides=event.decision_id,
                    requested_at=event.contested_at,
                )
                [result] = await self._send([(command, stored, "redecision")])
                if isinstance(result, Refused):
                    kept = KeepDecision(
                        decision_id=event.decision_id, code=result.code, detail=str(result)
                    )
                    await self._send([(kept, stored, "kept")])

    async def _keep(self, events: Sequence[StoredEvent], history: LiveHistory) -> None:
        """Let contested decisions stand whose new decision failed."""
        failed: dict[int, tuple[StoredEvent, DecisionFailed]] = {}
        for stored in events:
            if catalogue.type_of(stored.topic) is DecisionFailed:
                event = catalogue.decode(stored.topic, stored.state)
                assert isinstance(event, DecisionFailed)
                failed[stored.position] = (stored, event)
        if not failed:
            return
        frame = pl.DataFrame(
            {
                "organisation_id": [str(one.organisation_id) for one, _ in failed.values()],
                "decision_id": [event.decision_id for _, event in failed.values()],
                "position": list(failed),
            }
        )
        asked = await join(frame, "request", REQUEST, history)
        for position, contested in asked.select("position", "request__redecides").iter_rows():
            cause, event = failed[position]
            if contested is not None:
                kept = KeepDecision(decision_id=contested, code=event.code, detail=event.detail)
                await self._send([(kept, cause, "kept")])

    async def _send(self, sent: Sequence[tuple[Command, StoredEvent, str]]) -> list[Result]:
        """Put commands on the log as one append; what became of each."""
        if not sent:
            return []
        commands = [
            (
                command,
                Context(
                    organisation_id=cause.organisation_id,
                    actor=ACTOR,
                    roles=frozenset({Role.SERVICE}),
                    command_id=uuid5(cause.event_id, step),
                    correlation_id=cause.correlation_id,
                    causation_id=cause.event_id,
                ),
            )
            for command, cause, step in sent
        ]
        results = await self._bus.execute_many(commands)
        if self._spans is not None:
            answered = [
                Followed(one.event_id, one.correlation_id, one.position, one.topic, said.command_id)
                for (_, one, _), (_, said) in zip(sent, commands, strict=True)
            ]
            self._spans.handled(ACTOR, answered, self._began)
        for (command, _), result in zip(commands, results, strict=True):
            if not isinstance(result, Receipt):
                # Somebody else has answered (an outcome by hand, say): the log stands.
                name = type(command).__name__
                _log.warning("answer not taken", command=name, error=str(result))
        return results

    async def _connect(self) -> Connection:
        return await AsyncConnection.connect(self._url, autocommit=True, connect_timeout=5)


async def _unsound(connection: Connection) -> str | None:
    """Why the feature tables cannot be gone on with; None: they can.

    Answers that are on the log are not given twice: their command ids are the same.
    """
    if await store.diverged(connection, FEATURE_TABLES):
        # Rebuilt to the head, they would pass over requests whose answers the log has lost.
        return "the log is another one"
    known = await store.progress(connection, FEATURE_TABLES)
    further = list((await lanes.ahead(connection, FEATURE_TABLES)).values())
    apart = further and (
        len(further) < len(FEATURE_TABLES) or any(o != further[0] for o in further)
    )
    if apart or len({one.position for one in known.values()}) > 1:
        # Some were rebuilt to the head while requests before it wait: a batch would be folded into
        # these twice.
        return "the feature tables stand apart"
    return None


async def _whole(connection: Connection) -> store.Outlook:
    """How the feature tables are.

    Raises:
        FeaturesIncomplete: one of them has dead letters.
    """
    outlook = await store.outlook(connection, FEATURE_TABLES)
    if outlook.parked:
        names = ", ".join(sorted(outlook.parked))
        raise FeaturesIncomplete(f"{names}: there are dead letters, decisions wait for them")
    return outlook


def requests_in(
    events: Sequence[StoredEvent], organisation_id: UUID | None = None
) -> list[Request]:
    """The decision requests among some events, of one organisation or all."""
    found = []
    for stored in events:
        if organisation_id not in (None, stored.organisation_id):
            continue
        if catalogue.type_of(stored.topic) is DecisionRequested:
            event = catalogue.decode(stored.topic, stored.state)
            assert isinstance(event, DecisionRequested)
            found.append(Request(str(stored.organisation_id), stored.position, event))
    return found
