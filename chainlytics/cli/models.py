"""Models: train from the log, approve, deploy."""

from __future__ import annotations

from collections.abc import Callable
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
    better = {"auc": "higher is better", "log_loss": "lower is better", "brier": "lower is better"}
    rows = [
        (
            name,
            better.get(name),
            *(getattr(metrics, name) for metrics in (model.metrics, model.baseline)),
        )
        for name in Metrics.model_fields
    ]
    table(
        f"Model {model.model_hash[:12]} on the orders after {model.training.split_at:%Y-%m-%d}",
        ("", "", "model", "baseline (late share of the lane)"),
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
    rest = f" --organisation {organisation}" if organisation else ""
    name = trained.registration.model_hash[:12]
    console.print("registered; somebody else approves it, then it can be deployed:")
    typer.echo(f"  chainlytics models approve {name} --actor NAME{rest}")
    typer.echo(f"  chainlytics models deploy {name}{rest}")


@app.command()
def approve(
    model_hash: str, organisation: Organisation = None, actor: Actor = None, json: Json = False
) -> None:
    """Approve a model that somebody else registered."""
    now = datetime.now(UTC)
    _send(
        lambda full: ApproveModel(model_hash=full, approved_at=now),
        model_hash,
        organisation,
        actor,
        json,
    )


@app.command()
def deploy(
    model_hash: str, organisation: Organisation = None, actor: Actor = None, json: Json = False
) -> None:
    """Make an approved model the champion of its kind."""
    now = datetime.now(UTC)
    _send(
        lambda full: DeployModel(model_hash=full, deployed_at=now),
        model_hash,
        organisation,
        actor,
        json,
    )


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


def _send(
    command: Callable[[str], Command],
    model_hash: str,
    organisation: str | None,
    actor: str | None,
    json: bool,
) -> None:
    async def work(app: Application, settings: Settings) -> Receipt:
        full = await _full_hash(app, settings, model_hash)
        return await app.bus.execute(command(full), context(settings, actor))

    receipt = run(work, organisation)
    if json:
        emit(receipt._asdict())
    else:
        name = receipt.stream.partition("/")[2][:12]
        console.print(f"done: model {name} at log position {receipt.position}")


async def _full_hash(app: Application, settings: Settings, start: str) -> str:
    """The only model whose hash starts so."""
    await app.projector.prepare()
    await app.projector.catch_up()
    page = await list_page(ReadModels(app.log, settings.organisation_id), limit=MAX_LIMIT)
    found = [model.model_hash for model in page.items if model.model_hash.startswith(start)]
    if len(found) != 1:
        raise CliError(
            f"model {start!r}: {len(found)} models of organisation {settings.organisation!r} "
            "have a hash that starts so (chainlytics models list)"
        )
    return found[0]
