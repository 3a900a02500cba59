"""Models: train from the log, approve, deploy."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from chainlytics.application import Application
from chainlytics.cli.console import (
    CliError,
    Json,
    Organisation,
    bar,
    console,
    emit,
    rows,
    run,
    table,
)
from chainlytics.settings import Settings, operator
from commands import Context
from domain.access import Role
from domain.errors import Refused
from domain.models import ApproveModel, DeployModel, Metrics
from domain.values import Command
from eventstore import Receipt
from ml.models import NotEnoughHistory, Trained, train
from readmodels.database import ReadModels
from readmodels.models import ModelSummary
from readmodels.models import list_models as list_page
from readmodels.page import MAX_LIMIT

app = typer.Typer(no_args_is_help=True, help="Models: train, list, approve, deploy.")
Actor = Annotated[str | None, typer.Option("--actor", help="Who does it; you by default.")]


def context(settings: Settings, actor: str | None) -> Context:
    """The context of a command that a person sends from the command line."""
    return Context(
        organisation_id=settings.organisation_id,
        actor=actor or operator(),
        roles=frozenset({Role.ADMIN}),
    )


async def train_and_register(
    app: Application, settings: Settings, actor: str | None, *, quiet: bool
) -> Trained:
    """Train on the organisation's log and propose the model; one known already is left as it is."""
    with bar("reading the log", quiet=quiet) as update:
        trained = await train(
            app.log, app.artifacts, settings.organisation_id, datetime.now(UTC), update
        )
    try:
        await app.bus.execute(trained.registration, context(settings, actor))
    except Refused as refusal:
        if refusal.code != "model.already_registered":
            raise
    return trained


def show_training(trained: Trained) -> None:
    """Print how well a model does beside its baseline."""
    model = trained.registration
    rows = [
        (name, *(getattr(metrics, name) for metrics in (model.metrics, model.baseline)))
        for name in Metrics.model_fields
    ]
    table(
        f"Model {model.model_hash[:12]} on the orders after {model.training.split_at:%Y-%m-%d}",
        ("", "model", "baseline (late share of the lane)"),
        rows,
    )
    if model.metrics.log_loss >= model.baseline.log_loss:
        console.print(
            "[yellow]Its probabilities fit no better than the baseline's: think before it is "
            "approved.[/] More history, or what the log does not hold yet, may help."
        )


@app.command("train")
def train_model(organisation: Organisation = None, actor: Actor = None, json: Json = False) -> None:
    """Train a fulfilment model from the log, judge it by later orders, propose it."""

    async def work(app: Application, settings: Settings) -> Trained:
        return await train_and_register(app, settings, actor, quiet=json)

    try:
        trained = run(work, organisation)
    except NotEnoughHistory as error:
        raise CliError(str(error)) from error
    if json:
        emit(trained)
        return
    show_training(trained)
    model_hash = trained.registration.model_hash
    console.print(
        "registered; somebody else approves it, then it can be deployed:\n"
        f"  chainlytics models approve {model_hash} --actor NAME\n"
        f"  chainlytics models deploy {model_hash}"
    )


@app.command()
def approve(
    model_hash: str, organisation: Organisation = None, actor: Actor = None, json: Json = False
) -> None:
    """Approve a model that somebody else registered."""
    command = ApproveModel(model_hash=model_hash, approved_at=datetime.now(UTC))
    _send(command, organisation, actor, json)


@app.command()
def deploy(
    model_hash: str, organisation: Organisation = None, actor: Actor = None, json: Json = False
) -> None:
    """Make an approved model the champion of its kind."""
    command = DeployModel(model_hash=model_hash, deployed_at=datetime.now(UTC))
    _send(command, organisation, actor, json)


@app.command("list")
def list_models(organisation: Organisation = None, json: Json = False) -> None:
    """List models, newest first."""

    async def work(app: Application, settings: Settings) -> list[ModelSummary]:
        await app.projector.prepare()
        await app.projector.catch_up()
        page = await list_page(ReadModels(app.log, settings.organisation_id), limit=MAX_LIMIT)
        return list(page.items)

    columns = ("model_hash", "kind", "stage", "champion", "registered_by", "registered_at")
    rows("Models", run(work, organisation), json, columns)


def _send(command: Command, organisation: str | None, actor: str | None, json: bool) -> None:
    async def work(app: Application, settings: Settings) -> Receipt:
        return await app.bus.execute(command, context(settings, actor))

    receipt = run(work, organisation)
    if json:
        emit(receipt)
    else:
        console.print(
            f"{receipt.stream} is at version {receipt.version}, position {receipt.position}"
        )
