"""Policies: when people take over decisions of a kind, when to raise an alert, the stop switch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from chainlytics.application import Application
from chainlytics.cli.acting import Actor, KindOption, context, reading, send, taken
from chainlytics.cli.console import CliError, Json, Organisation, rows, run
from chainlytics.settings import Settings
from domain.policies import ResumeKind, SetPolicy, StopKind
from eventstore import Receipt
from ml.catalogue import KINDS
from readmodels.policies import PolicySummary, get_policy

app = typer.Typer(
    no_args_is_help=True, help="Policies: when people take over, alerts, stop switches."
)


@app.command("list")
def list_policies(organisation: Organisation = None, json: Json = False) -> None:
    """List the policy of every kind of decision."""

    async def work(app: Application, settings: Settings) -> list[PolicySummary]:
        read = await reading(app, settings)
        return [await get_policy(read, kind) for kind in KINDS]

    columns = ("kind", "minimum_confidence", "four_eyes_above_minor", "max_psi", "max_ks")
    more = ("max_override_rate", "set_by", "stopped", "stopped_reason")
    rows("Policies", run(work, organisation), json, (*columns, *more))


@app.command("set")
def set_policy(
    kind: KindOption = "fulfilment",
    minimum_confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Below it, a person decides.")
    ] = None,
    four_eyes_above: Annotated[
        int | None,
        typer.Option(min=0, help="Where more is at stake, in minor units, two persons must agree."),
    ] = None,
    no_four_eyes: Annotated[
        bool, typer.Option("--no-four-eyes", help="One person is enough whatever is at stake.")
    ] = False,
    max_psi: Annotated[
        float | None, typer.Option(min=0, help="Alert above: drift, population stability index.")
    ] = None,
    max_ks: Annotated[
        float | None, typer.Option(min=0, max=1, help="Alert above: drift, Kolmogorov-Smirnov.")
    ] = None,
    max_calibration_error: Annotated[
        float | None, typer.Option(min=0, max=1, help="Alert above: foretold minus observed risk.")
    ] = None,
    max_accuracy_drop: Annotated[
        float | None, typer.Option(min=0, max=1, help="Alert above: against the test at training.")
    ] = None,
    max_override_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Alert above: share of its decisions.")
    ] = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Set the policy of a kind. What is left out stays as it is."""
    if no_four_eyes and four_eyes_above is not None:
        raise CliError("--no-four-eyes and --four-eyes-above say opposite things")
    given = {
        "minimum_confidence": minimum_confidence,
        "four_eyes_above_minor": four_eyes_above,
        "max_psi": max_psi,
        "max_ks": max_ks,
        "max_calibration_error": max_calibration_error,
        "max_accuracy_drop": max_accuracy_drop,
        "max_override_rate": max_override_rate,
    }
    changes: dict[str, float | None] = {
        name: value for name, value in given.items() if value is not None
    }
    if no_four_eyes:
        changes["four_eyes_above_minor"] = None
    if not changes:
        raise CliError("say what is to change: chainlytics policies set --help")

    async def work(app: Application, settings: Settings) -> Receipt:
        now = (await get_policy(await reading(app, settings), kind)).model_dump(include=set(given))
        command = SetPolicy(kind=kind, **(now | changes), set_at=datetime.now(UTC))
        return await app.bus.execute(command, context(settings, actor))

    taken(run(work, organisation), f"the policy of {kind} is set", json)


@app.command()
def stop(
    reason: Annotated[str, typer.Option(help="Why, in a sentence; requests are answered with it.")],
    kind: KindOption = "fulfilment",
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Stop all decisions of a kind."""
    command = StopKind(kind=kind, reason=reason, stopped_at=datetime.now(UTC))
    send(command, f"decisions of {kind} are stopped", organisation, actor, json)


@app.command()
def resume(
    kind: KindOption = "fulfilment",
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Let a stopped kind decide again."""
    command = ResumeKind(kind=kind, resumed_at=datetime.now(UTC))
    send(command, f"decisions of {kind} go on", organisation, actor, json)
