"""Tasks: long work that others asked for; its worker, and how far it is."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated
from uuid import uuid4

import typer

from chainlytics.application import Application, run_workers
from chainlytics.cli.acting import Actor, context, reading, taken
from chainlytics.cli.console import CliError, Json, Organisation, bar, console, emit, rows, run
from chainlytics.cli.server import HealthPort, run_worker
from chainlytics.settings import Settings
from chainlytics.tasks import tools_of
from chainlytics.telemetry import following
from domain.tasks import CancelTask, PrioritiseTask, RetryTask, State
from domain.work import Kind
from eventstore import Receipt
from readmodels.database import ReadModels
from readmodels.page import MAX_LIMIT
from readmodels.task_queue import Done, QueueOverview, Worker, queue_overview
from readmodels.tasks import TaskSummary, get_task, summary
from readmodels.tasks import list_tasks as list_page

app = typer.Typer(no_args_is_help=True, help="Tasks: long work, its worker, and how far it is.")
_LOOK_S = 0.5


def _kinds(text: str | None) -> frozenset[Kind] | None:
    """The kinds of ``simulation,training``; None: all.

    Raises:
        CliError: there is no such kind.
    """
    if text is None:
        return None
    known = {kind.value: kind for kind in Kind}
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        told = ", ".join(unknown) or "none"
        raise CliError(f"--kinds {told}: there are {', '.join(known)}")
    return frozenset(known[name] for name in names)


@app.command("run")
def run_tasks(
    kinds: Annotated[
        str | None,
        typer.Option(help="Do tasks of these kinds only, with commas between; of all without it."),
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(min=1, max=64, help="So many at the same time.")
    ] = None,
    health_port: HealthPort = None,
) -> None:
    """Run a worker of tasks alone, which fires schedules and raises alerts too. Several share the
    work; one that dies loses nothing."""
    settings = Settings()
    chosen = _kinds(kinds)

    async def work(url: str) -> None:
        await run_workers(
            url,
            projector=False,
            consumer=False,
            spans=spans,
            tasks=tools_of(url, settings),
            tasks_at_once=at_once or settings.tasks_at_once,
            tasks_kinds=chosen,
            tasks_of_kind=settings.tasks_of_kind(),
            schedules=True,
            alerts=True,
            mail=settings.mail_adapter(),
        )

    with following(settings, "tasks") as spans:
        run_worker(work, health_port)


@app.command("list")
def list_tasks(
    state: Annotated[State | None, typer.Option(help="In this state only.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Of this kind only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT)] = 20,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """List tasks, the latest first."""

    async def work(app: Application, settings: Settings) -> list[TaskSummary]:
        read = await reading(app, settings)
        page = await list_page(
            read,
            state=None if state is None else state.value,
            kind=None if kind is None else kind.value,
            limit=limit,
        )
        return list(page.items)

    columns = ("task_id", "kind", "priority", "state", "step", "done", "total", "requested_by")
    rows("Tasks", run(work, organisation), json, (*columns, "requested_at", "finished_at"))


@app.command()
def show(task_id: str, organisation: Organisation = None, json: Json = False) -> None:
    """Show a task: what it is to do, how far it is, what came of it."""

    async def work(app: Application, settings: Settings) -> TaskSummary:
        return await _known(app, settings, task_id)

    _show(run(work, organisation), json)


@app.command()
def cancel(
    task_id: str,
    reason: Annotated[str | None, typer.Option(help="Why, in a sentence.")] = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Stop a task. What it has stored stays."""

    async def work(app: Application, settings: Settings) -> Receipt:
        command = CancelTask(task_id=task_id, reason=reason, cancelled_at=datetime.now(UTC))
        return await app.bus.execute(command, context(settings, actor))

    taken(run(work, organisation), f"task {task_id} is told to stop", json)


@app.command()
def prioritise(
    task_id: str,
    priority: Annotated[int, typer.Argument(min=0, max=9, help="9 is done first.")],
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Give a task that waits another priority."""

    async def work(app: Application, settings: Settings) -> Receipt:
        command = PrioritiseTask(
            task_id=task_id, priority=priority, prioritised_at=datetime.now(UTC)
        )
        return await app.bus.execute(command, context(settings, actor))

    taken(run(work, organisation), f"task {task_id} has priority {priority}", json)


@app.command()
def retry(
    task_id: str,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Ask once more for what a task was to do that failed or was stopped."""
    again = str(uuid4())

    async def work(app: Application, settings: Settings) -> Receipt:
        command = RetryTask(task_id=again, retry_of=task_id, requested_at=datetime.now(UTC))
        return await app.bus.execute(command, context(settings, actor))

    taken(run(work, organisation), f"task {task_id} is asked for once more, as {again}", json)


@app.command()
def queue(organisation: Organisation = None, json: Json = False) -> None:
    """Show the queue at a glance: what waits and runs, who works, what the last hour brought."""

    async def work(app: Application, settings: Settings) -> QueueOverview:
        return await queue_overview(await reading(app, settings))

    found = run(work, organisation)
    if json:
        emit(found)
        return
    oldest = "" if found.oldest_wait_s is None else f", the oldest for {found.oldest_wait_s:,.0f} s"
    console.print(f"{found.waiting} wait{oldest}; {found.running} run", highlight=False)
    columns = ("kind", "priority", "waiting", "running", "oldest_at")
    rows("Queue", list(found.by_kind), False, columns)
    rows("Last hour", list(found.last_hour), False, tuple(Done.model_fields))
    rows("Workers", list(found.workers), False, tuple(Worker.model_fields))


@app.command()
def wait(
    task_id: str,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Give up after so long; without it, never.")
    ] = None,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Wait for a task and show how far it is. Exit code 1 where it failed, was cancelled or is not
    finished in time."""

    async def work(app: Application, settings: Settings) -> TaskSummary:
        deadline = None if seconds is None else monotonic() + seconds
        with bar(f"task {task_id}", quiet=json) as update:
            while True:
                found = await _known(app, settings, task_id)
                if found.total:
                    update(found.done or 0, found.total)
                if found.finished or (deadline is not None and monotonic() >= deadline):
                    return found
                await asyncio.sleep(_LOOK_S)

    found = run(work, organisation)
    _show(found, json)
    if found.state != State.COMPLETED:
        raise typer.Exit(1)


async def _known(app: Application, settings: Settings, task_id: str) -> TaskSummary:
    """A task, as the log has it.

    Raises:
        CliError: there is none of that id.
    """
    found = await get_task(ReadModels(app.log, settings.organisation_id), task_id)
    if found is None:
        raise CliError(f"task {task_id!r} is not known")
    return summary(found)


def _show(task: TaskSummary, json: bool) -> None:
    if json:
        emit(task)
        return
    console.print(f"[bold]{task.kind}[/] {task.task_id}: {task.state}", highlight=False)
    told: dict[str, object] = {
        "asked for by": f"{task.requested_by}, {task.requested_at:%Y-%m-%d %H:%M:%S}",
        "arguments": task.arguments,
        "attempt": task.attempt or None,
        "progress": f"{task.step or 'done'}: {task.done:,} of {task.total or 0:,}"
        if task.done
        else None,
        "result": task.result,
        "reason": None if task.reason is None else f"{task.reason} [{task.code or task.state}]",
        "finished": None if task.finished_at is None else f"{task.finished_at:%Y-%m-%d %H:%M:%S}",
    }
    for name, value in told.items():
        if value is not None:
            console.print(f"  {name}: {value}", markup=False, soft_wrap=True)
