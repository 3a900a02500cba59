"""Schedules: tasks that are asked for again and again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

import typer
from pydantic import ValidationError

from chainlytics.application import Application
from chainlytics.cli.acting import Actor, context, reading, taken
from chainlytics.cli.console import CliError, Json, Organisation, console, emit, rows, run
from chainlytics.settings import Settings
from domain.schedules import (
    MakeSchedule,
    PauseSchedule,
    ResumeSchedule,
    RetireSchedule,
    RunSchedule,
)
from domain.values import Command
from eventstore import Receipt
from readmodels.page import MAX_LIMIT
from readmodels.schedules import (
    ScheduleDetail,
    ScheduleRun,
    ScheduleSummary,
    get_schedule,
    list_schedules,
    schedule_runs,
)

app = typer.Typer(no_args_is_help=True, help="Schedules: tasks that are asked for again and again.")
ScheduleId = Annotated[str, typer.Argument(help="The schedule's id.")]
Reason = Annotated[str | None, typer.Option(help="Why, in a sentence.")]
Limit = Annotated[int, typer.Option(min=1, max=MAX_LIMIT)]


def _send(
    command: Command, told: str, organisation: str | None, actor: str | None, json: bool
) -> None:
    async def work(app: Application, settings: Settings) -> Receipt:
        return await app.bus.execute(command, context(settings, actor))

    taken(run(work, organisation), told, json)


@app.command("make")
def make_schedule(
    schedule_id: ScheduleId,
    task: Annotated[str, typer.Option(help="Kind of task, as training or sealing.")],
    cron: Annotated[str | None, typer.Option(help="Five fields, as in a crontab.")] = None,
    zone: Annotated[str, typer.Option(help="Whose clock: a zone such as Europe/Berlin.")] = "UTC",
    every: Annotated[int | None, typer.Option(help="Instead: seconds between two times.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name; the id without it.")] = None,
    kind: Annotated[str | None, typer.Option(help="Kind of decision.")] = None,
    scenario: Annotated[str | None, typer.Option(help="Id of a simulation's scenario.")] = None,
    site: Annotated[str | None, typer.Option(help="Id of the site of tours.")] = None,
    days_ahead: Annotated[int | None, typer.Option(help="Tours of so many days later.")] = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Have a task asked for again and again."""
    when = {"cron": cron, "zone": zone, "every_s": every}
    asked = {"task": task, "kind": kind, "scenario_id": scenario, "site_id": site}
    try:
        command = MakeSchedule.model_validate(
            {
                "schedule_id": schedule_id,
                "name": name or schedule_id,
                "when": when,
                "work": asked | {"days_ahead": days_ahead},
                "made_at": datetime.now(UTC),
            }
        )
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        )
        raise CliError(told) from error
    _send(command, f"schedule {schedule_id} is made", organisation, actor, json)


@app.command("list")
def list_all(limit: Limit = 50, organisation: Organisation = None, json: Json = False) -> None:
    """List schedules, the latest made first."""

    async def work(app: Application, settings: Settings) -> list[ScheduleSummary]:
        return list((await list_schedules(await reading(app, settings), limit=limit)).items)

    columns = ("schedule_id", "name", "state", "when", "work", "runs_as", "runs", "last_fired_at")
    rows("Schedules", run(work, organisation), json, columns)


@app.command()
def show(schedule_id: ScheduleId, organisation: Organisation = None, json: Json = False) -> None:
    """Show a schedule, and when it is due next."""

    async def work(app: Application, settings: Settings) -> ScheduleDetail:
        found = await get_schedule(await reading(app, settings), schedule_id)
        if found is None:
            raise CliError(f"schedule {schedule_id!r} is not known")
        return found

    found = run(work, organisation)
    if json:
        emit(found)
        return
    for name, value in found.model_dump(mode="json").items():
        if value is not None:
            console.print(f"{name}: {value}", markup=False, highlight=False)


@app.command()
def runs(
    schedule_id: ScheduleId,
    limit: Limit = 50,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """List what a schedule has asked for, the latest first."""

    async def work(app: Application, settings: Settings) -> list[ScheduleRun]:
        found = await schedule_runs(await reading(app, settings), schedule_id, limit=limit)
        return list(found.items)

    columns = ("task_id", "due_at", "fired_at", "runs_as", "state", "reason")
    rows("Runs", run(work, organisation), json, columns)


@app.command()
def pause(
    schedule_id: ScheduleId,
    reason: Reason = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Let nothing become due for now."""
    command = PauseSchedule(schedule_id=schedule_id, reason=reason, paused_at=datetime.now(UTC))
    _send(command, f"schedule {schedule_id} is paused", organisation, actor, json)


@app.command()
def resume(
    schedule_id: ScheduleId,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Let a paused schedule go on, in your name."""
    command = ResumeSchedule(schedule_id=schedule_id, resumed_at=datetime.now(UTC))
    _send(command, f"schedule {schedule_id} goes on", organisation, actor, json)


@app.command()
def retire(
    schedule_id: ScheduleId,
    reason: Reason = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """End a schedule for good."""
    command = RetireSchedule(schedule_id=schedule_id, reason=reason, retired_at=datetime.now(UTC))
    _send(command, f"schedule {schedule_id} has ended", organisation, actor, json)


@app.command("run")
def run_now(
    schedule_id: ScheduleId,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Ask for a schedule's task now; whoever runs `serve` or `tasks run` asks for it."""
    command = RunSchedule(schedule_id=schedule_id, task_id=str(uuid4()), ran_at=datetime.now(UTC))
    _send(command, f"task {command.task_id} is asked for", organisation, actor, json)
