"""The worker of tasks: takes them in turn, does each in its own thread, and says how far it is.

Who has a task holds the lock of its stream, on a connection that ends with the process: the next
worker takes over a task as soon as the database knows that nobody has it any more. Every attempt
has a number; what an earlier one says of the task is refused.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from threading import Event, Thread
from time import monotonic
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection

from commands import Bus, Context, TooMuchContention, derived, stream_id
from commands.tasks import task_stream
from domain.access import Role
from domain.catalogue import TOPICS
from domain.errors import Refused
from domain.tasks import (
    FINISHED,
    CompleteTask,
    FailTask,
    ReleaseTask,
    ReportTask,
    StartTask,
    State,
    TaskCancelRequested,
    TaskStarted,
)
from domain.values import Command
from domain.work import Kind
from eventstore import Log, LogUnavailable, StoredEvent
from eventstore.artifacts import Artifacts
from eventstore.log import Connection
from eventstore.subscription import Bell
from eventstore.uploads import Uploads
from ml.job import CannotBeDone, Found, Job, OpenTools
from ml.task_work import do
from projections import store
from readmodels.tasks import OpenTask, in_turn, open_tasks, task_of

ACTOR = "service:tasks"
_log = structlog.get_logger(__name__)

#: How often a worker looks after what it does, in seconds.
_LOOK_S = 0.25
#: How often a task's progress is told at the most: each tenth of it, or so many seconds.
_TELL_S = 3.0
_TENTH = 0.1
#: How long work is waited for that was told to stop, in seconds. It sends nothing more; a thread
#: that computes comes to its end by itself.
_PATIENCE_S = 1.5
#: How long a task is left alone after the database failed under it, in seconds.
_AGAIN_S = 2.0
_PRUNE_S = 600.0
_LOCK = "SELECT pg_try_advisory_lock(%s)"
_UNLOCK = "SELECT pg_advisory_unlock(%s)"
_TOLD_TO_STOP = """SELECT EXISTS (SELECT FROM events
    WHERE originator_id = %s AND originator_version > %s AND topic = %s)"""
_OUTAGE = (psycopg.OperationalError, psycopg.InterfaceError, LogUnavailable, TooMuchContention)


class Stopped(Exception):
    """Work was told to stop."""


class Pace:
    """When progress is worth an event: a tenth further, other work, or some seconds later."""

    def __init__(self) -> None:
        self._share, self._step, self._at = 0.0, "", 0.0
        self._last: tuple[int, int, str] | None = None

    def due(self, told: tuple[int, int, str], now: float) -> bool:
        """Whether to tell this, at that time in seconds; if so, it is taken to be told."""
        done, total, step = told
        share = done / total if total else 0.0
        if told == self._last:
            return False
        further = step != self._step or share - self._share >= _TENTH
        if not further and now - self._at < _TELL_S:
            return False
        self._share, self._step, self._at, self._last = share, step, now, told
        return True


@dataclass(frozen=True, slots=True)
class _Lease:
    """A task that is ours as long as the connection lives."""

    connection: Connection
    job: Job
    context: Context
    started: UUID
    stream: UUID
    version: int


class _Work:
    """Work in a thread with an event loop of its own, so that it holds up nobody."""

    def __init__(self, open_tools: OpenTools, job: Job) -> None:
        self._open, self._job = open_tools, job
        self._caller = asyncio.get_running_loop()
        self.ended: asyncio.Future[Found] = self._caller.create_future()
        self.told: tuple[int, int, str] | None = None
        self._stop = Event()
        self._inner: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        Thread(target=self._run, name=f"task {job.asked.task_id}", daemon=True).start()

    def stop(self) -> None:
        """Tell it to stop: at its next look or wait."""
        self._stop.set()
        if self._inner is not None:
            loop, task = self._inner
            with suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(task.cancel)

    def _run(self) -> None:
        result: Found | BaseException
        try:
            result = asyncio.run(self._main())
        except BaseException as error:  # whatever it is, who waits is told
            result = error
        with suppress(RuntimeError):  # nobody waits any more
            self._caller.call_soon_threadsafe(self._end, result)

    def _end(self, result: Found | BaseException) -> None:
        if self.ended.done():
            return
        if isinstance(result, asyncio.CancelledError | Stopped):
            self.ended.set_exception(Stopped())
        elif isinstance(result, BaseException):
            self.ended.set_exception(result)
        else:
            self.ended.set_result(result)

    async def _main(self) -> Found:
        task = asyncio.current_task()
        assert task is not None
        self._inner = asyncio.get_running_loop(), task
        async with self._open() as tools:
            self._report(0, 0, "starting")
            return await do(tools, self._job, self._report)

    def _report(self, done: int, total: int, step: str) -> None:
        if self._stop.is_set():
            raise Stopped
        self.told = done, total, step


class TaskWorker:
    """Does tasks, some at once.

    Args:
        url: libpq connection string.
        log: the log.
        bus: takes what is said of tasks.
        open_tools: opens what the work needs, on the event loop of the thread that does it.
        at_once: tasks of this process at the same time.
        kinds: does tasks of these kinds only; None: of all.
        of_kind: so many of a kind at the same time, of those kinds that are named.
    """

    def __init__(
        self,
        url: str,
        log: Log,
        bus: Bus,
        open_tools: OpenTools,
        *,
        at_once: int = 1,
        kinds: Collection[Kind] | None = None,
        of_kind: Mapping[Kind, int] | None = None,
    ) -> None:
        self._url, self._log, self._bus, self._open = url, log, bus, open_tools
        self._at_once = at_once
        self._kinds = None if kinds is None else frozenset(kinds)
        self._of_kind = dict(of_kind or {})
        self._doing: Counter[str] = Counter()
        self._artifacts, self._uploads = Artifacts(log), Uploads(log)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._served: dict[UUID, int] = {}
        self._settled: set[tuple[UUID, str]] = set()
        self._left_alone: dict[tuple[UUID, str], float] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._pruned = float("-inf")

    async def run(self) -> None:
        """Do tasks until cancelled; survives a restart of the server by itself."""
        try:
            async with Bell(self._url, store.CHANNEL) as bell:
                while True:
                    mark = bell.mark()
                    try:
                        await self._prune()
                        await self._begin()
                    except psycopg.errors.UndefinedTable:
                        pass  # the read models are not made yet
                    except _OUTAGE as error:
                        _log.warning("looking for tasks again", error=str(error).strip())
                        await asyncio.sleep(0.5)
                    await self._news(bell, mark)
                    # Read models move often; a look now and then is enough.
                    await asyncio.sleep(0.1)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _news(self, bell: Bell, mark: asyncio.Event) -> None:
        """Return when the read models have moved, a task has ended, or a second has gone by."""
        waiting = asyncio.create_task(bell.wait(mark))
        try:
            await asyncio.wait({waiting, *self._running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _prune(self) -> None:
        if monotonic() - self._pruned > _PRUNE_S:
            self._pruned = monotonic()
            await self._uploads.prune()

    async def _begin(self) -> None:
        """Begin what is next, as long as there is room."""
        while len(self._running) < self._at_once:
            connection = await AsyncConnection.connect(
                self._url, autocommit=True, connect_timeout=5
            )
            lease = None
            try:
                lease = await self._next(connection)
            finally:
                if lease is None:
                    await connection.close()
            if lease is None:
                return
            task = asyncio.create_task(self._do(lease), name=f"task {lease.job.asked.task_id}")
            self._running.add(task)
            self._doing[lease.job.asked.kind] += 1
            task.add_done_callback(partial(self._done, lease.job.asked.kind))

    def _done(self, kind: str, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._doing[kind] -= 1

    def _takes(self, one: OpenTask) -> bool:
        """Whether a task is of a kind that is done here, and that there is room for."""
        if self._kinds is not None and one.kind not in self._kinds:
            return False
        most = next((most for kind, most in self._of_kind.items() if kind == one.kind), None)
        return most is None or self._doing[one.kind] < most

    async def _next(self, connection: Connection) -> _Lease | None:
        """The next task that nobody has, begun; None: there is none."""
        found = await open_tasks(connection)
        self._settled &= {(one.organisation_id, one.task_id) for one in found}
        now = monotonic()
        self._left_alone = {key: at for key, at in self._left_alone.items() if at > now}
        for one in in_turn(found, self._served):
            key = one.organisation_id, one.task_id
            if key in self._settled or key in self._left_alone or not self._takes(one):
                continue
            stream = stream_id(one.organisation_id, task_stream(one.task_id))
            lock = int.from_bytes(stream.bytes[:8], "big", signed=True)
            row = await (await connection.execute(_LOCK, (lock,))).fetchone()
            if row is None or not row[0]:
                continue
            lease = await self._start(connection, one, stream)
            if lease is not None:
                return lease
            self._settled.add(key)
            await connection.execute(_UNLOCK, (lock,))
        return None

    async def _start(self, connection: Connection, one: OpenTask, stream: UUID) -> _Lease | None:
        """Begin a task whose lock is ours; None: it is finished, perhaps by this very look."""
        events = await self._stream(stream)
        task = task_of(events)
        if task.asked is None or task.state in FINISHED:
            return None
        context = Context(
            organisation_id=one.organisation_id,
            actor=ACTOR,
            roles=frozenset({Role.SERVICE}),
            correlation_id=events[0].correlation_id,
        )
        command = StartTask(task_id=one.task_id, worker=self._name, started_at=datetime.now(UTC))
        with suppress(Refused):  # somebody has ended it meanwhile, as its events say
            await self._bus.execute(command, derived(context, events[-1].event_id, "start"))
        events = await self._stream(stream)
        task = task_of(events)
        begun = [event for event in events if event.topic == TOPICS[TaskStarted]]
        if task.state is not State.RUNNING or not begun:
            if task.state in FINISHED:
                await self._tidy(one.organisation_id, task.asked)
            return None
        assert task.asked is not None
        self._served[one.organisation_id] = begun[-1].position
        return _Lease(
            connection=connection,
            job=Job(one.organisation_id, events[0], task.attempt, task.asked),
            context=context,
            started=begun[-1].event_id,
            stream=stream,
            version=begun[-1].version,
        )

    async def _stream(self, stream: UUID) -> Sequence[StoredEvent]:
        return (await self._log.streams([stream])).get(stream, [])

    async def _do(self, lease: _Lease) -> None:
        """Do a task to its end, and say so."""
        job = lease.job
        log = _log.bind(task=job.asked.task_id, kind=job.asked.kind, attempt=job.attempt)
        log.info("task begun")
        work = _Work(self._open, job)
        try:
            stopped = await self._watch(lease, work)
            if stopped:
                await self._halt(work)
                await self._say(lease, "release", self._given_back(job))
                log.info("task stopped")
            else:
                await self._finish(lease, work.ended)
                log.info("task ended")
            await self._tidy(job.organisation_id, job.asked)
        except _OUTAGE as error:
            # It is begun again, by us or by others: what was done of it is not done twice.
            log.warning("task broken off", error=str(error).strip())
            key = job.organisation_id, job.asked.task_id
            self._left_alone[key] = monotonic() + _AGAIN_S
            await self._halt(work)
        except asyncio.CancelledError:
            await self._halt(work)
            with suppress(Exception):
                await asyncio.wait_for(
                    self._say(lease, "release", self._given_back(job)), _PATIENCE_S
                )
            raise
        except Exception:
            log.exception("task left to the next worker")
            key = job.organisation_id, job.asked.task_id
            self._left_alone[key] = monotonic() + _AGAIN_S
            await self._halt(work)
        finally:
            await lease.connection.close()

    async def _watch(self, lease: _Lease, work: _Work) -> bool:
        """Tell how far it is until it ends; whether it was told to stop.

        Raises:
            psycopg.OperationalError: the task is not ours any more.
        """
        pace, number = Pace(), 0
        topic = TOPICS[TaskCancelRequested]
        while True:
            await asyncio.wait({work.ended}, timeout=_LOOK_S)
            if work.ended.done():
                return False
            # On the connection that holds the lock: an answer says that it is ours still.
            row = await (
                await lease.connection.execute(_TOLD_TO_STOP, (lease.stream, lease.version, topic))
            ).fetchone()
            if row is not None and row[0]:
                return True
            if work.told is not None and pace.due(work.told, monotonic()):
                done, total, step = work.told
                number += 1
                told = ReportTask(
                    task_id=lease.job.asked.task_id,
                    attempt=lease.job.attempt,
                    done=done,
                    total=total,
                    step=step,
                    reported_at=datetime.now(UTC),
                )
                await self._say(lease, f"progress {number}", told)

    async def _finish(self, lease: _Lease, ended: asyncio.Future[Found]) -> None:
        """Say what came of it."""
        job, now = lease.job, datetime.now(UTC)
        task_id, attempt = job.asked.task_id, job.attempt
        try:
            found = ended.result()
        except CannotBeDone as error:
            reason = error.reason.replace("\0", "")[:500] or error.code
            code = error.code
        except _OUTAGE:
            raise
        except Exception as error:
            _log.error("task failed unexpectedly", task=job.asked.task_id, exc_info=error)
            code, reason = "task.unexpected", "something went wrong here; it was logged"
        else:
            await self._say(lease, "complete", await self._completed(job, found, now))
            return
        failed = FailTask(task_id=task_id, attempt=attempt, code=code, reason=reason, failed_at=now)
        await self._say(lease, "fail", failed)

    async def _completed(self, job: Job, found: Found, now: datetime) -> CompleteTask:
        artifact = None if found.content is None else await self._artifacts.put(found.content)
        return CompleteTask(
            task_id=job.asked.task_id,
            attempt=job.attempt,
            result=dict(found.result),
            artifact=artifact,
            media_type=found.media_type,
            file_name=found.file_name,
            completed_at=now,
        )

    async def _say(self, lease: _Lease, step: str, command: Command) -> None:
        """Send a command about a task; one that is not ours any more stays as it is."""
        try:
            await self._bus.execute(command, derived(lease.context, lease.started, step))
        except Refused as refusal:
            _log.info("not told of a task", task=lease.job.asked.task_id, why=str(refusal))

    @staticmethod
    def _given_back(job: Job) -> ReleaseTask:
        return ReleaseTask(
            task_id=job.asked.task_id, attempt=job.attempt, released_at=datetime.now(UTC)
        )

    @staticmethod
    async def _halt(work: _Work) -> None:
        """Stop work, and wait a little for it to end."""
        work.stop()
        await asyncio.wait({work.ended}, timeout=_PATIENCE_S)
        if work.ended.done():
            work.ended.exception()  # looked at: asyncio would complain of it

    async def _tidy(self, organisation_id: UUID, asked: Any) -> None:
        """Forget the files of an import that is over."""
        if asked is not None and asked.kind == Kind.IMPORT and asked.importing is not None:
            names = [file.upload_id for file in asked.importing.files]
            await self._uploads.delete(organisation_id, names)
