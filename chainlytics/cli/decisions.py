"""Decisions: ask for one, read it, replay it, and how they do."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from time import perf_counter
from typing import Annotated
from uuid import uuid4

import typer

from chainlytics.application import Application
from chainlytics.cli import hypotheses, reviews
from chainlytics.cli.acting import Actor, AnyKind, KindOption, context, kind_of, reading, send
from chainlytics.cli.backtest import backtest, weights_of
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
from chainlytics.cli.decision_views import show_detail, show_replay
from chainlytics.settings import Settings
from domain.decisions import RecordOutcome, RequestDecision, Stage
from ml.catalogue import KINDS
from ml.replay import NotAnswered, Replayed, replay
from readmodels.decisions import (
    DecisionDetail,
    DecisionKpi,
    DecisionSummary,
    decision_kpis,
    get_decision,
)
from readmodels.decisions import list_decisions as list_page
from readmodels.page import MAX_LIMIT

app = typer.Typer(
    no_args_is_help=True, help="Decisions: request, list, show, explain, review, replay."
)
app.command()(backtest)


class Occurred(StrEnum):
    """Whether what the model warned of came true."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@app.command()
def request(
    subject_id: Annotated[str, typer.Argument(help="What it is about: an order's id, say.")],
    decision_id: Annotated[
        str | None, typer.Option("--id", help="The decision's id; made up if left out.")
    ] = None,
    kind: KindOption = "fulfilment",
    priority: Annotated[int, typer.Option(min=0, max=9, help="9 is decided first.")] = 5,
    deadline: Annotated[
        str | None,
        typer.Option(help="Too late after this time, such as 2026-03-31T18:00:00Z."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Other weights: cost=1,risk_minor=5000,carbon_minor_per_kg=10; those left out "
            "are the kind's usual ones."
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Ask as of this time, such as 2026-03-31T08:00:00Z; now if left out."),
    ] = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Ask for a decision, decide it here and now, and show it."""
    declared = kind_of(kind)
    command = RequestDecision.model_validate(
        {
            "decision_id": decision_id or str(uuid4()),
            "kind": kind,
            "subject_id": subject_id,
            "weights": None if weights is None else weights_of(weights, declared),
            "priority": priority,
            "deadline": deadline,
            "requested_at": datetime.now(UTC) if at is None else at,
        }
    )

    async def work(app: Application, settings: Settings) -> DecisionDetail:
        await app.consumer.prepare()
        await app.bus.execute(command, context(settings, actor))
        # A server that runs meanwhile may answer first: the log takes one answer.
        await app.consumer.catch_up()
        return await detail_of(app, settings, command.decision_id)

    _show(run(work, organisation), json)


@app.command()
def show(decision_id: str, organisation: Organisation = None, json: Json = False) -> None:
    """Show a decision: what, why, what the runner-up lacked, how sure; who reviewed it."""

    async def work(app: Application, settings: Settings) -> DecisionDetail:
        return await detail_of(app, settings, decision_id)

    _show(run(work, organisation), json)


@app.command("list")
def list_decisions(
    stage: Annotated[Stage | None, typer.Option(help="In this stage only.")] = None,
    kind: AnyKind = None,
    subject: Annotated[str | None, typer.Option(help="About this subject only.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Made by this model only: its whole hash.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT)] = 20,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """List decisions, newest first."""

    async def work(app: Application, settings: Settings) -> list[DecisionSummary]:
        read = await reading(app, settings)
        page = await list_page(
            read,
            stage=None if stage is None else stage.value,
            kind=kind,
            subject_id=subject,
            model_hash=model,
            limit=limit,
        )
        return list(page.items)

    columns = ("decision_id", "kind", "subject_id", "stage", "requested_at", "summary", "risk")
    rows("Decisions", run(work, organisation), json, columns)


@app.command()
def outcome(
    decision_id: str,
    occurred: Annotated[Occurred, typer.Option(help="Did what the model warned of come true?")],
    followed: Annotated[
        bool, typer.Option("--followed/--not-followed", help="Was done what was decided?")
    ] = True,
    cost: Annotated[int | None, typer.Option(help="What it came to cost, in minor units.")] = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Say how a decision turned out. That closes it."""
    told = {Occurred.YES: True, Occurred.NO: False, Occurred.UNKNOWN: None}
    command = RecordOutcome(
        decision_id=decision_id,
        occurred=told[occurred],
        followed=followed,
        cost_minor=cost,
        known_at=datetime.now(UTC),
    )
    send(command, f"decision {decision_id} is closed", organisation, actor, json)


@app.command("replay")
def replay_decisions(
    decision_id: Annotated[str | None, typer.Argument(help="One decision's id.")] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="Replay every decision.")] = False,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Decide again from the log and the stored model, and compare byte for byte.

    Ends with exit code 1 where a decision differs; the cause is named.
    """
    if all_of_them == (decision_id is not None):
        raise CliError("name one decision, or say --all")
    start = perf_counter()

    async def work(app: Application, settings: Settings) -> list[Replayed]:
        with bar("replaying", quiet=json) as update:
            chosen = None if decision_id is None else [decision_id]
            return await replay(
                app.url, app.log, app.artifacts, settings.organisation_id, chosen, update
            )

    try:
        found = run(work, organisation)
    except NotAnswered as error:
        raise CliError(str(error)) from error
    if json:
        emit(found)
    else:
        show_replay(found, perf_counter() - start)
    if not all(one.same for one in found):
        raise typer.Exit(1)


@app.command()
def kinds(json: Json = False) -> None:
    """List the kinds of decision: their features, levers and hard constraints."""
    if json:
        emit(
            [
                {
                    "name": kind.name,
                    "warning": kind.warning,
                    "option": list(kind.option),
                    "features": list(kind.feature_names),
                    "levers": {
                        one.name: [one.lever.low, one.lever.high]
                        for one in kind.features
                        if one.lever is not None
                    },
                    "constraints": {one.code: one.sentence for one in kind.constraints},
                    "weights": kind.subject.weights,
                    "code": kind.code,
                    "schema_hash": kind.schema_hash,
                }
                for kind in KINDS.values()
            ]
        )
        return
    for kind in KINDS.values():
        console.rule(f"[bold]{kind.name}[/]: will it {kind.warning}?", align="left")
        console.print(f"an option is {', '.join(kind.option)}; code {kind.code[:12]}")
        levers = {one.name: one.lever for one in kind.features if one.lever is not None}
        table(
            "Features",
            ("name", "where it raises the risk", "people can change it"),
            [
                (
                    one.name,
                    one.raises,
                    f"{levers[one.name].low:g} to {levers[one.name].high:g}"
                    if one.name in levers
                    else "",
                )
                for one in kind.features
            ],
        )
        if kind.constraints:
            told = [(one.code, one.sentence) for one in kind.constraints]
            table("Hard constraints", ("code", "broken where"), told)


@app.command()
def kpis(kind: AnyKind = None, organisation: Organisation = None, json: Json = False) -> None:
    """Show what becomes of decisions: overrides, referrals, contests, outcomes."""

    async def work(app: Application, settings: Settings) -> list[DecisionKpi]:
        read = await reading(app, settings)
        return list((await decision_kpis(read, kind=kind, limit=MAX_LIMIT)).items)

    columns = ("kind", "requested", "made", "failed", "referral_rate", "override_rate")
    more = ("contest_rate", "outcomes", "occurred_share")
    rows("What becomes of decisions", run(work, organisation), json, (*columns, *more))


reviews.add_to(app)
hypotheses.add_to(app)


async def detail_of(app: Application, settings: Settings, decision_id: str) -> DecisionDetail:
    """A decision.

    Raises:
        CliError: there is none of that id.
    """
    found = await get_decision(await reading(app, settings), decision_id)
    if found is None:
        raise CliError(f"decision {decision_id!r} is not known")
    return found


def _show(detail: DecisionDetail, json: bool) -> None:
    if json:
        emit(detail)
    elif detail.failed is not None:
        console.print(f"decision {detail.decision_id} failed: {detail.failed['detail']}")
        if detail.failed["code"] == "decision.no_model":
            console.print("train, approve and deploy one: chainlytics models --help")
        raise typer.Exit(1)
    elif detail.made is None or detail.explained is None:
        console.print(f"decision {detail.decision_id} is requested, not made yet")
    else:
        show_detail(detail)
