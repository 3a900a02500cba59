"""Models: train from the log, read, approve, and what is known of those in service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from chainlytics.application import Application
from chainlytics.cli import deployments
from chainlytics.cli.acting import Actor, AnyKind, context, reading
from chainlytics.cli.console import (
    CliError,
    Json,
    Organisation,
    bar,
    console,
    emit,
    rows,
    run,
)
from chainlytics.cli.measure import measure
from chainlytics.cli.model_views import show_model, show_training
from chainlytics.settings import Settings
from domain.errors import Refused
from ml.catalogue import KINDS
from ml.model_card import card, story_of
from ml.models import NotEnoughHistory, Trained
from ml.training import TRAINABLE, trainer
from readmodels.database import ReadModels
from readmodels.models import (
    Deployment,
    LiveModel,
    ModelAlert,
    ModelDetail,
    ModelSummary,
    get_model,
    live_models,
    model_alerts,
    model_deployments,
)
from readmodels.models import list_models as list_page
from readmodels.page import MAX_LIMIT
from readmodels.past import NotAMoment, NotInThePast, Past, moment_of

T = TypeVar("T")
TrainedKind = Annotated[
    str, typer.Option("--kind", help="The kind of decision, or of number such as demand.")
]

app = typer.Typer(
    no_args_is_help=True, help="Models: train, list, read, approve, deploy, withdraw, stop."
)
app.command()(measure)


async def train_and_register(
    app: Application, settings: Settings, kind: str, actor: str | None, *, quiet: bool
) -> Trained:
    """Train on the organisation's log and propose the model; one known already is left as it is."""
    with bar("reading the log", quiet=quiet) as update:
        trained = await trainer(kind)(
            app.url,
            app.log,
            app.artifacts,
            settings.organisation_id,
            at=datetime.now(UTC),
            report=update,
        )
    try:
        await app.bus.execute(trained.registration, context(settings, actor))
    except Refused as refusal:
        if refusal.code != "model.already_registered":
            raise
    return trained


@app.command("train")
def train_model(
    kind: TrainedKind = "fulfilment",
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Train a model from the log, judge it by later cases, propose it."""
    if kind not in TRAINABLE:
        raise CliError(f"kind {kind!r} is not known; there are {', '.join(TRAINABLE)}")

    async def work(app: Application, settings: Settings) -> Trained:
        return await train_and_register(app, settings, kind, actor, quiet=json)

    try:
        trained = run(work, organisation)
    except NotEnoughHistory as error:
        raise CliError(str(error)) from error
    if json:
        emit(trained)
        return
    show_training(trained)
    rest = f" --organisation {organisation}" if organisation else ""
    name = trained.registration.model_hash[:12]
    console.print("registered; somebody else approves it, then it can be deployed:")
    typer.echo(f"  chainlytics models approve {name} --actor NAME{rest}")
    typer.echo(f"  chainlytics models deploy {name}{rest}")


@app.command("list")
def list_models(
    kind: AnyKind = None, organisation: Organisation = None, json: Json = False
) -> None:
    """List models, newest first, with the roles that they have now."""

    async def ask(read: ReadModels) -> list[ModelSummary]:
        return list((await list_page(read, kind=kind, limit=MAX_LIMIT)).items)

    columns = ("model_hash", "kind", "stage", "roles", "registered_by", "registered_at")
    found = _asked(ask, organisation)
    rows("Models", found, json, columns)


@app.command()
def show(model_hash: str, organisation: Organisation = None, json: Json = False) -> None:
    """Show a model: where it stands, what it learned from, how well it does."""

    async def work(app: Application, settings: Settings) -> ModelDetail:
        full = await deployments.full_hash(app, settings, model_hash)
        found = await get_model(ReadModels(app.log, settings.organisation_id), full)
        assert found is not None
        return found

    found = run(work, organisation)
    if json:
        emit(found)
    else:
        show_model(found)


@app.command("card")
def show_card(
    model_hash: str,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write it to this file.")
    ] = None,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Print a model's card (Markdown): its use, what it learned from, how it does, its limits."""

    async def work(app: Application, settings: Settings) -> str:
        full = await deployments.full_hash(app, settings, model_hash)
        story = await story_of(ReadModels(app.log, settings.organisation_id), full)
        assert story is not None
        return card(story, KINDS.get(story.model.kind))

    text = run(work, organisation)
    if output is not None:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise CliError(f"{output}: {error.strerror}") from error
    if json:
        emit({"card": text})
    elif output is None:
        typer.echo(text, nl=False)
    else:
        console.print(f"written: {output}", markup=False)


@app.command()
def live(
    kind: AnyKind = None,
    at: Annotated[
        str | None,
        typer.Option(help="At this log position, or time (2026-03-31T23:59:59Z); now if left out."),
    ] = None,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Show which model has which role, now or at any time."""

    async def work(app: Application, settings: Settings) -> list[LiveModel]:
        read = await reading(app, settings)
        if at is not None:
            past = Past(app.log, app.url)
            moment = await past.at(moment_of(at, "--at"))
            read = ReadModels(app.log, settings.organisation_id, past, moment)
        return list((await live_models(read, kind=kind, limit=MAX_LIMIT)).items)

    try:
        found = run(work, organisation)
    except (NotAMoment, NotInThePast) as error:
        raise CliError(str(error)) from error
    columns = ("kind", "role", "model_hash", "share", "since", "since_position", "stopped")
    rows("Models in their roles", found, json, columns)


@app.command()
def alerts(
    every: Annotated[bool, typer.Option("--all", help="Those that are cleared too.")] = False,
    kind: AnyKind = None,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """List alerts: figures of models that are past their thresholds."""

    async def ask(read: ReadModels) -> list[ModelAlert]:
        is_open = None if every else True
        return list((await model_alerts(read, is_open=is_open, kind=kind, limit=MAX_LIMIT)).items)

    columns = ("model_hash", "kind", "measure", "feature", "open", "value", "threshold")
    found = _asked(ask, organisation)
    rows("Alerts", found, json, (*columns, "sentence", "raised_at"))


@app.command()
def history(
    kind: AnyKind = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT)] = 50,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """List deployments, rollbacks, withdrawals and retirements, newest first."""

    async def ask(read: ReadModels) -> list[Deployment]:
        return list((await model_deployments(read, kind=kind, limit=limit)).items)

    found = _asked(ask, organisation)
    rows("Changes of roles", found, json)


deployments.add_to(app)


def _asked(ask: Callable[[ReadModels], Awaitable[list[T]]], organisation: str | None) -> list[T]:
    async def work(app: Application, settings: Settings) -> list[T]:
        return await ask(await reading(app, settings))

    return run(work, organisation)
