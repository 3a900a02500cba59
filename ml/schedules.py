"""The scheduler: says which schedules are due, and asks for their tasks.

Any number of schedulers may run, and any of them may die at any moment: ids do it, no lock. That a
schedule is due is a command whose id follows from the schedule and the time, so the log takes it
once; the task's request follows from the event that it made, under an id that follows from that
event. What was fired and not asked for, because a scheduler died between the two, the read models
name, and the next look asks for it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import structlog
from pydantic import ValidationError

from commands import Bus, Context, Forbidden, TooMuchContention
from commands.membership import Memberships
from domain.access import Role
from domain.catalogue import decode
from domain.errors import Refused
from domain.scheduled_work import OF_THE_SERVER, request_of
from domain.schedules import MISSED, FailScheduledRun, FireSchedule, ScheduleFired
from domain.timetable import Timetable, latest
from domain.values import Command
from eventstore import Log, LogUnavailable, StoredEvent
from eventstore.ids import named_id
from eventstore.log import Connection
from ml.catalogue import HANDLERS

ACTOR = "service:schedules"
_LOOK_S = 1.0
_log = structlog.get_logger(__name__)
_OUTAGE = (psycopg.OperationalError, psycopg.InterfaceError, LogUnavailable, TooMuchContention)

# Of all organisations: the rules look at the log before anything is fired.
_ACTIVE = """SELECT organisation_id, schedule_id, told, counts_from, after
    FROM read_models.schedule_clock WHERE active AND told IS NOT NULL"""
_OPEN = """SELECT f.organisation_id, f.fired_position FROM read_models.schedule_fired f
    WHERE f.fired_position IS NOT NULL ORDER BY f.fired_position LIMIT 1000"""


class Fired(NamedTuple):
    """A task that a schedule asked for, or the code of why it could not."""

    organisation_id: UUID
    schedule_id: str
    task_id: str
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class _Clock:
    """A schedule that may become due, as far as the read models know."""

    organisation_id: UUID
    schedule_id: str
    told: dict[str, Any]
    counts_from: datetime
    after: datetime

    def due(self, now: datetime) -> datetime | None:
        """The last time that it was due and not fired; None: there is none."""
        table = Timetable(**self.told["when"])
        found = latest(table, self.counts_from, self.after, now)
        missed = found is not None and now - found > MISSED
        return None if missed and self.told["catch_up"] == "skip" else found


class Scheduler:
    """Fires schedules.

    Args:
        log: the log.
        bus: takes commands.
        memberships: knows what may be done in whose name.
    """

    def __init__(self, log: Log, bus: Bus, memberships: Memberships) -> None:
        self._log, self._bus, self._memberships = log, bus, memberships

    async def run(self) -> None:
        """Look every second until cancelled; survives a restart of the database by itself."""
        while True:
            try:
                await self.look(datetime.now(UTC))
            except psycopg.errors.UndefinedTable:
                pass  # the read models are not made yet
            except _OUTAGE as error:
                _log.warning("schedules wait", error=str(error).strip())
            except Exception:
                _log.exception("schedules were not looked at")
            await asyncio.sleep(_LOOK_S)

    async def look(self, now: datetime) -> list[Fired]:
        """Fire what is due at a moment, and ask for what was fired; which tasks."""
        async with self._log.connection() as connection:
            active = [_Clock(*row) for row in await _rows(connection, _ACTIVE)]
            waiting = await _rows(connection, _OPEN)
        known = await self._log.at([position for _, position in waiting])
        events = {event.event_id: event for event in known.values()}
        asked: list[Fired] = []
        for one in active:
            with _apart(one.organisation_id, one.schedule_id):
                due = one.due(now)
                event = None if due is None else await self._fire(one, due, now)
                if event is not None:
                    events[event.event_id] = event
        for event in events.values():
            with _apart(event.organisation_id, str(event.event_id)):
                asked.append(await self._ask(event, now))
        return asked

    async def _fire(self, one: _Clock, due: datetime, now: datetime) -> StoredEvent | None:
        """Say that a schedule is due; the event, whoever was first to say so."""
        name = f"schedule {one.schedule_id} due {due.isoformat()}"
        command = FireSchedule(
            schedule_id=one.schedule_id,
            task_id=str(named_id(one.organisation_id, name)),
            due_at=due,
            fired_at=now,
        )
        context = Context(
            organisation_id=one.organisation_id,
            actor=ACTOR,
            roles=frozenset({Role.SERVICE}),
            command_id=named_id(one.organisation_id, f"command:{name}"),
            # Not when it is said: the same time is due once, whoever sees it when.
            digest=hashlib.sha256(name.encode()).digest(),
        )
        try:
            receipt = await self._bus.execute(command, context)
        except Refused as refusal:  # paused or ended meanwhile, or a later time has been fired
            _log.info("schedule not fired", schedule=one.schedule_id, why=refusal.code)
            return None
        # Not by the stream, which grows with every time that it is due.
        return (await self._log.at([receipt.position]))[receipt.position]

    async def _ask(self, event: StoredEvent, now: datetime) -> Fired:
        """Ask for the task of a schedule that was fired, in the name of whoever set it."""
        fired = decode(event.topic, event.state)
        assert isinstance(fired, ScheduleFired)
        due = fired.due_at or fired.fired_at
        code, reason, pause = "", "", False
        try:
            request = request_of(fired.work, fired.task_id, fired.priority, due, fired.zone)
            await self._bus.execute(request, await self._context(event, fired, request, now))
        except (Refused, ValidationError) as error:
            code = error.code if isinstance(error, Refused) else "schedule.work_unusable"
            reason = error.detail if isinstance(error, Refused) else str(error)
        except Forbidden:
            code, pause = "schedule.not_allowed", True
            reason = f"{fired.runs_as} may not ask for {fired.work.task} any more"
        if not code:
            return Fired(event.organisation_id, fired.schedule_id, fired.task_id)
        await self._failed(event, fired, code, reason[:500], now, pause=pause)
        return Fired(event.organisation_id, fired.schedule_id, fired.task_id, code)

    async def _context(
        self, event: StoredEvent, fired: ScheduleFired, request: Command, now: datetime
    ) -> Context:
        """What the task is asked for with: what whoever set the schedule may do now.

        Raises:
            Forbidden: nothing of the sort any more.
        """
        organisation_id, who = event.organisation_id, fired.runs_as
        rights = await self._memberships.rights(organisation_id, who, now)
        needed = HANDLERS[type(request)].roles
        roles, scopes = needed, None
        if rights is not None:
            roles, scopes = rights.roles, rights.scopes
            if fired.work.task in OF_THE_SERVER:
                raise Forbidden(type(request).__name__, roles, needed)
        return Context(
            organisation_id=organisation_id,
            actor=who,
            roles=roles,
            scopes=scopes,
            command_id=named_id(event.event_id, "task"),
            correlation_id=event.correlation_id,
            causation_id=event.event_id,
            digest=hashlib.sha256(f"task {event.event_id}".encode()).digest(),
        )

    async def _failed(
        self,
        event: StoredEvent,
        fired: ScheduleFired,
        code: str,
        reason: str,
        now: datetime,
        *,
        pause: bool,
    ) -> None:
        command = FailScheduledRun(
            schedule_id=fired.schedule_id,
            task_id=fired.task_id,
            code=code,
            reason=reason,
            pause=pause,
            failed_at=now,
        )
        context = Context(
            organisation_id=event.organisation_id,
            actor=ACTOR,
            roles=frozenset({Role.SERVICE}),
            command_id=named_id(event.event_id, "failed"),
            correlation_id=event.correlation_id,
            causation_id=event.event_id,
            digest=hashlib.sha256(f"failed {event.event_id}".encode()).digest(),
        )
        await self._bus.execute(command, context)
        _log.warning("a schedule's task is not asked for", schedule=fired.schedule_id, code=code)


@contextmanager
def _apart(organisation_id: UUID, which: str) -> Iterator[None]:
    """What goes wrong with one schedule holds up no other; what goes wrong with all does."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, *_OUTAGE):
        raise
    except Exception:
        _log.exception("a schedule waits", organisation_id=str(organisation_id), which=which)


async def _rows(connection: Connection, query: str) -> Sequence[Any]:
    return await (await connection.execute(query.encode())).fetchall()
