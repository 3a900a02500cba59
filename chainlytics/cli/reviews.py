"""Reviews: confirm, override or contest a decision."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from chainlytics.application import Application
from chainlytics.cli.acting import Actor, context, pairs, reading, send, taken
from chainlytics.cli.backtest import weights_of
from chainlytics.cli.console import CliError, Json, Organisation, run
from chainlytics.settings import Settings
from domain.decisions import Weights
from domain.reviews import ConfirmDecision, ContestDecision, OverrideDecision
from eventstore import Receipt
from ml.catalogue import KINDS
from readmodels.decisions import get_decision

_Reason = Annotated[str, typer.Option("--reason", help="Why, in a sentence.")]


def add_to(app: typer.Typer) -> None:
    """Put the commands beside the others of decisions."""
    for command in (confirm, override, contest):
        app.command()(command)


def confirm(
    decision_id: str, organisation: Organisation = None, actor: Actor = None, json: Json = False
) -> None:
    """Agree with a decision that waits for people. Each person has one yes."""
    command = ConfirmDecision(decision_id=decision_id, confirmed_at=datetime.now(UTC))
    send(command, f"decision {decision_id} has your yes", organisation, actor, json)


def override(
    decision_id: str,
    option: Annotated[
        list[str],
        typer.Option(
            "--option", help="NAME=VALUE of the option, such as site_id=S-AMS; for each column."
        ),
    ],
    reason: _Reason,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Choose another of a decision's candidates. What the model chose stays on the log."""
    command = OverrideDecision(
        decision_id=decision_id,
        option=pairs(option, "--option"),
        reason=reason,
        overridden_at=datetime.now(UTC),
    )
    send(command, f"decision {decision_id} is overridden", organisation, actor, json)


def contest(
    decision_id: str,
    reason: _Reason,
    redecide: Annotated[
        bool, typer.Option("--redecide/--no-redecide", help="Have it decided anew.")
    ] = True,
    weights: Annotated[
        str | None,
        typer.Option(help="Decide anew by these weights: cost=1,risk_minor=8000; see `request`."),
    ] = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Object to a decision. `decisions list` shows the one that answers it."""

    async def work(app: Application, settings: Settings) -> Receipt:
        other = None if weights is None else await _weights(app, settings, decision_id, weights)
        command = ContestDecision(
            decision_id=decision_id,
            reason=reason,
            redecide=redecide,
            weights=other,
            contested_at=datetime.now(UTC),
        )
        await app.consumer.prepare()
        receipt = await app.bus.execute(command, context(settings, actor))
        if redecide:
            await app.consumer.catch_up()
        return receipt

    taken(run(work, organisation), f"decision {decision_id} is contested", json)


async def _weights(app: Application, settings: Settings, decision_id: str, text: str) -> Weights:
    found = await get_decision(await reading(app, settings), decision_id)
    if found is None:
        raise CliError(f"decision {decision_id!r} is not known")
    kind = KINDS.get(found.requested["kind"])
    if kind is None:
        raise CliError(f"kind {found.requested['kind']!r} of the decision is not known any more")
    return weights_of(text, kind)
