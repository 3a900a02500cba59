"""Alerts: what somebody should look at."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from chainlytics.application import Application
from chainlytics.cli.acting import Actor, context, reading, taken
from chainlytics.cli.console import Json, Organisation, rows, run
from chainlytics.settings import Settings, operator
from domain.alert_rules import AlertKind, Severity
from domain.alerts import AcknowledgeAlert, ReopenAlert, ResolveAlert, State
from domain.values import Command
from eventstore import Receipt
from readmodels.alerts import AlertSummary, RuleSummary, alert_rules, list_alerts
from readmodels.page import MAX_LIMIT

app = typer.Typer(no_args_is_help=True, help="Alerts: what somebody should look at.")
AlertId = Annotated[str, typer.Argument(help="The alert's id.")]


def _send(
    command: Command, told: str, organisation: str | None, actor: str | None, json: bool
) -> None:
    async def work(app: Application, settings: Settings) -> Receipt:
        return await app.bus.execute(command, context(settings, actor))

    taken(run(work, organisation), told, json)


@app.command("list")
def list_all(
    state: Annotated[State | None, typer.Option(help="In this state only.")] = None,
    kind: Annotated[AlertKind | None, typer.Option(help="Of this kind only.")] = None,
    severity: Annotated[Severity | None, typer.Option(help="Of this severity only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT)] = 50,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """List alerts, the latest raised first."""

    async def work(app: Application, settings: Settings) -> list[AlertSummary]:
        page = await list_alerts(
            await reading(app, settings),
            operator(),
            state=None if state is None else state.value,
            kind=None if kind is None else kind.value,
            severity=None if severity is None else severity.value,
            limit=limit,
        )
        return list(page.items)

    columns = ("alert_id", "severity", "kind", "subject_id", "state", "sentence", "raised_at")
    rows("Alerts", run(work, organisation), json, columns)


@app.command()
def ack(
    alert_id: AlertId,
    note: Annotated[str | None, typer.Option(help="What is done, in a sentence.")] = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Say that you look after an alert."""
    command = AcknowledgeAlert(alert_id=alert_id, note=note, acknowledged_at=datetime.now(UTC))
    _send(command, f"alert {alert_id} is looked after", organisation, actor, json)


@app.command()
def resolve(
    alert_id: AlertId,
    reason: Annotated[str, typer.Option(help="Why, in a sentence.")],
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Settle an alert, whether its cause is gone or not."""
    command = ResolveAlert(alert_id=alert_id, reason=reason, resolved_at=datetime.now(UTC))
    _send(command, f"alert {alert_id} is resolved", organisation, actor, json)


@app.command()
def reopen(
    alert_id: AlertId,
    reason: Annotated[str | None, typer.Option(help="Why, in a sentence.")] = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Take back that an alert was acknowledged, snoozed or resolved."""
    command = ReopenAlert(alert_id=alert_id, reason=reason, reopened_at=datetime.now(UTC))
    _send(command, f"alert {alert_id} is open again", organisation, actor, json)


@app.command()
def rules(organisation: Organisation = None, json: Json = False) -> None:
    """List the rules that alerts are raised by."""

    async def work(app: Application, settings: Settings) -> list[RuleSummary]:
        return await alert_rules(await reading(app, settings))

    columns = ("kind", "enabled", "threshold", "severity", "max_age_days", "most_open", "set_by")
    rows("Rules", run(work, organisation), json, columns)
