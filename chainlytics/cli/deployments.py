"""Which model does what: approve, deploy, roll back, withdraw, stop, resume, retire."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import typer

from chainlytics.application import Application
from chainlytics.cli.acting import Actor, KindOption, context, kind_of, reading, taken
from chainlytics.cli.console import CliError, Json, Organisation, run
from chainlytics.settings import Settings
from domain.errors import Refused
from domain.models import (
    ApproveModel,
    DeployModel,
    ModelRegistered,
    ResumeModel,
    RetireModel,
    Role,
    RollBackModel,
    StopModel,
    WithdrawModel,
)
from domain.values import Command
from eventstore import Receipt
from readmodels.database import ReadModels
from readmodels.models import (
    Deployment,
    champion,
    champions,
    get_model,
    list_models,
    model_deployments,
)
from readmodels.page import MAX_LIMIT

_Hash = Annotated[str, typer.Argument(help="The start of the model's hash.")]
_Reason = Annotated[str, typer.Option("--reason", help="Why, in a sentence.")]


def add_to(app: typer.Typer) -> None:
    """Put the commands beside the others of models."""
    for command in (approve, deploy, rollback, withdraw, stop, resume, retire):
        app.command()(command)


def approve(
    model_hash: _Hash,
    accept_worse: Annotated[
        bool,
        typer.Option("--accept-worse", help="Even if its log loss is worse than the baseline's."),
    ] = False,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Approve a model that somebody else registered."""

    async def work(app: Application, settings: Settings) -> tuple[str, Receipt]:
        full = await full_hash(app, settings, model_hash)
        command = ApproveModel(
            model_hash=full, accept_worse=accept_worse, approved_at=datetime.now(UTC)
        )
        try:
            return full, await app.bus.execute(command, context(settings, actor))
        except Refused as refusal:
            if refusal.code != "model.worse_than_baseline":
                raise
        model = await get_model(ReadModels(app.log, settings.organisation_id), full)
        assert model is not None
        registered = ModelRegistered.model_validate(model.registered)
        name, own, baseline = registered.metrics.against(registered.baseline)
        raise CliError(
            f"model {full[:12]}: it fits the later cases worse than the baseline "
            f"({name} {own:.4f}, the baseline's {baseline:.4f}; lower is better); "
            "--accept-worse approves it nevertheless"
        )

    full, receipt = run(work, organisation)
    taken(receipt, f"model {full[:12]}", json)


def deploy(
    model_hash: _Hash,
    role: Annotated[
        Role,
        typer.Option(
            "--as", help="A champion decides, a challenger decides a share, a shadow never acts."
        ),
    ] = Role.CHAMPION,
    share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Of the requests, for a challenger: 0.1, say."),
    ] = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Give an approved model a role in its kind; it takes the place of the one that had it."""
    now = datetime.now(UTC)
    if (role is Role.CHALLENGER) != (share is not None):
        raise CliError("--share: a challenger has one (0 to 1), a champion or shadow has none")
    _send(
        lambda full: DeployModel(model_hash=full, role=role, share=share, deployed_at=now),
        model_hash,
        organisation,
        actor,
        json,
    )


def rollback(
    reason: _Reason,
    kind: KindOption = "fulfilment",
    to: Annotated[
        str | None,
        typer.Option(help="Another earlier champion than the last one: the start of its hash."),
    ] = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Make the last champion before this one the champion again."""
    kind_of(kind)

    async def work(app: Application, settings: Settings) -> Receipt:
        read = await reading(app, settings)
        live = await champion(read, kind)
        if live is None:
            raise CliError(f"{kind} has no champion now (chainlytics models live)")
        present = live.model_hash
        if to is None:
            earlier = [name for name in champions(await _changes(read, kind)) if name != present]
            if not earlier:
                raise CliError(f"{kind} has no earlier champion (chainlytics models history)")
            back = earlier[0]
        else:
            back = await full_hash(app, settings, to)
        command = RollBackModel(
            model_hash=present, to=back, reason=reason, rolled_back_at=datetime.now(UTC)
        )
        return await app.bus.execute(command, context(settings, actor))

    taken(run(work, organisation), f"the champion of {kind} is rolled back", json)


def withdraw(
    model_hash: _Hash,
    reason: _Reason,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """End a model's role; it may be deployed again. Without a champion the kind's rule decides."""
    now = datetime.now(UTC)
    _send(
        lambda full: WithdrawModel(model_hash=full, reason=reason, withdrawn_at=now),
        model_hash,
        organisation,
        actor,
        json,
    )


def stop(
    model_hash: _Hash,
    reason: _Reason,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Let a model decide nothing more until it is resumed."""
    now = datetime.now(UTC)
    _send(
        lambda full: StopModel(model_hash=full, reason=reason, stopped_at=now),
        model_hash,
        organisation,
        actor,
        json,
    )


def resume(
    model_hash: _Hash, organisation: Organisation = None, actor: Actor = None, json: Json = False
) -> None:
    """Let a stopped model go on."""
    now = datetime.now(UTC)
    _send(
        lambda full: ResumeModel(model_hash=full, resumed_at=now),
        model_hash,
        organisation,
        actor,
        json,
    )


def retire(
    model_hash: _Hash,
    reason: _Reason,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Take a model out of every role for good; it stays for replays."""
    now = datetime.now(UTC)
    _send(
        lambda full: RetireModel(model_hash=full, reason=reason, retired_at=now),
        model_hash,
        organisation,
        actor,
        json,
    )


async def full_hash(app: Application, settings: Settings, start: str) -> str:
    """The only model whose hash starts so.

    Raises:
        CliError: there is none, or several.
    """
    page = await list_models(await reading(app, settings), limit=MAX_LIMIT)
    found = [model.model_hash for model in page.items if model.model_hash.startswith(start)]
    if len(found) != 1:
        raise CliError(
            f"model {start!r}: {len(found)} models of organisation {settings.organisation!r} "
            "have a hash that starts so (chainlytics models list)"
        )
    return found[0]


async def _changes(read: ReadModels, kind: str) -> list[Deployment]:
    """All changes of a kind's roles, the latest first."""
    found: list[Deployment] = []
    cursor: str | None = None
    while True:
        page = await model_deployments(read, kind=kind, cursor=cursor, limit=MAX_LIMIT)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


def _send(
    command: Callable[[str], Command],
    model_hash: str,
    organisation: str | None,
    actor: str | None,
    json: bool,
) -> None:
    async def work(app: Application, settings: Settings) -> tuple[str, Receipt]:
        full = await full_hash(app, settings, model_hash)
        return full, await app.bus.execute(command(full), context(settings, actor))

    full, receipt = run(work, organisation)
    taken(receipt, f"model {full[:12]}", json)
