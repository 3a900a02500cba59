"""Webhooks: deliver to them, look at what was sent, send again what was given up."""

from __future__ import annotations

from typing import Annotated

import typer

from chainlytics.application import Application
from chainlytics.cli.acting import Actor, reading
from chainlytics.cli.console import CliError, Json, Organisation, console, emit, rows, run
from chainlytics.cli.server import HealthPort, run_worker
from chainlytics.settings import Settings, operator
from chainlytics.webhooks import deliver
from eventstore.webhooks import queue
from readmodels import webhooks
from readmodels.database import ReadModels
from readmodels.webhooks import STATUSES, Backlog, Delivery, Letter, WebhookSummary

app = typer.Typer(no_args_is_help=True, help="Webhooks: run the deliverer, list, show, send again.")
WebhookId = Annotated[str, typer.Argument(help="The webhook's id.")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="The latest so many.")]


@app.command("run")
def run_deliverer(health_port: HealthPort = None) -> None:
    """Run the deliverer alone. Where another one runs it stands by."""
    settings = Settings()

    async def work(url: str) -> None:
        await deliver(url, settings)

    run_worker(work, health_port)


@app.command("list")
def list_webhooks(organisation: Organisation = None, json: Json = False) -> None:
    """List the webhooks."""

    async def work(app: Application, settings: Settings) -> list[WebhookSummary]:
        found = await webhooks.list_webhooks(await reading(app, settings), limit=500)
        return list(found.items)

    columns = ("webhook_id", "url", "events", "paused", "paused_reason", "registered_by")
    rows("Webhooks", run(work, organisation), json, columns)


@app.command()
def show(webhook_id: WebhookId, organisation: Organisation = None, json: Json = False) -> None:
    """Show a webhook and how far it is."""

    async def work(app: Application, settings: Settings) -> tuple[WebhookSummary, Backlog | None]:
        read = await reading(app, settings)
        found = await _known(read, webhook_id)
        return found, await webhooks.backlog(read, webhook_id)

    found, backlog = run(work, organisation)
    told = found.model_dump(mode="json") | {
        "backlog": None if backlog is None else backlog.model_dump(mode="json")
    }
    if json:
        emit(told)
        return
    for name, value in told.items():
        if isinstance(value, dict):
            for inner, one in value.items():
                console.print(f"{name}.{inner}: {one}", markup=False)
        else:
            console.print(f"{name}: {value}", markup=False)


@app.command()
def deliveries(
    webhook_id: WebhookId,
    status: Annotated[str | None, typer.Option(help=f"Only these: {', '.join(STATUSES)}.")] = None,
    limit: Limit = 50,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """List what was sent to a webhook and what waits, the newest first."""
    if status is not None and status not in STATUSES:
        raise CliError(f"--status: {status!r} is none of {', '.join(STATUSES)}")

    async def work(app: Application, settings: Settings) -> list[Delivery]:
        read = await reading(app, settings)
        await _known(read, webhook_id)
        found = await webhooks.list_deliveries(read, webhook_id, status=status, limit=limit)
        return list(found.items)

    columns = ("position", "event", "status", "attempts", "status_code", "error", "changed_at")
    rows("Deliveries", run(work, organisation), json, columns)


@app.command("dead-letters")
def dead_letters(
    webhook_id: WebhookId,
    limit: Limit = 50,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """List what was given up, and how many later events wait for each."""

    async def work(app: Application, settings: Settings) -> list[Letter]:
        read = await reading(app, settings)
        await _known(read, webhook_id)
        return list((await webhooks.list_dead_letters(read, webhook_id, limit=limit)).items)

    columns = ("position", "event", "attempts", "status_code", "error", "holding", "changed_at")
    rows("Dead letters", run(work, organisation), json, columns)


@app.command()
def replay(
    webhook_id: WebhookId,
    position: Annotated[int | None, typer.Option(min=1, help="One dead letter.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead letters of the webhook.")] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Give them up for good instead.")
    ] = False,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Send dead letters again, one or all, or give them up so that their streams go on."""
    if every is (position is not None):
        raise CliError("name one dead letter by --position, or say --all")
    act = queue.discard if discard else queue.replay

    async def work(app: Application, settings: Settings) -> int:
        await _known(await reading(app, settings), webhook_id)
        async with app.log.connection() as connection:
            key = (settings.organisation_id, webhook_id)
            return await act(connection, key, position, actor or operator())

    count = run(work, organisation)
    if position is not None and not count:
        raise CliError(f"there is no dead letter of {webhook_id} at position {position}")
    if json:
        emit({"count": count, "discarded": discard})
    else:
        told = "given up" if discard else "to be sent again"
        console.print(f"{count} dead letter{'' if count == 1 else 's'} {told}")


async def _known(read: ReadModels, webhook_id: str) -> WebhookSummary:
    found = await webhooks.get_webhook(read, webhook_id)
    if found is None:
        raise CliError(f"webhook {webhook_id!r} is not known")
    return found
