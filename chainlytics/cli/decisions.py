"""Decisions: ask for one, read why, replay."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from time import perf_counter
from typing import Annotated, Any
from uuid import uuid4

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
from chainlytics.cli.models import Actor, context
from chainlytics.settings import Settings
from domain.decisions import RequestDecision
from ml.replay import NotAnswered, Replayed, replay
from readmodels.database import ReadModels
from readmodels.decisions import DecisionDetail, DecisionSummary, get_decision
from readmodels.decisions import list_decisions as list_page
from readmodels.page import MAX_LIMIT

app = typer.Typer(no_args_is_help=True, help="Decisions: request, list, show, replay.")


@app.command()
def request(
    order_id: str,
    decision_id: Annotated[
        str | None, typer.Option("--id", help="The decision's id; made up if left out.")
    ] = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Ask for a fulfilment decision on an order, decide it here and now, and show it."""
    command = RequestDecision(
        decision_id=decision_id or str(uuid4()),
        subject_id=order_id,
        requested_at=datetime.now(UTC),
    )

    async def work(app: Application, settings: Settings) -> DecisionDetail:
        await app.consumer.prepare()
        await app.bus.execute(command, context(settings, actor))
        # A server that runs meanwhile may answer first: the log takes one answer.
        await app.consumer.catch_up()
        return await _detail(app, settings, command.decision_id)

    _show(run(work, organisation), json)


@app.command()
def show(decision_id: str, organisation: Organisation = None, json: Json = False) -> None:
    """Show a decision: what, why, what the runner-up lacked, how sure."""

    async def work(app: Application, settings: Settings) -> DecisionDetail:
        return await _detail(app, settings, decision_id)

    _show(run(work, organisation), json)


@app.command("list")
def list_decisions(
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT)] = 20,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """List decisions, newest first."""

    async def work(app: Application, settings: Settings) -> list[DecisionSummary]:
        await _catch_up(app)
        page = await list_page(ReadModels(app.log, settings.organisation_id), limit=limit)
        return list(page.items)

    columns = ("decision_id", "subject_id", "stage", "requested_at", "summary", "confidence")
    rows("Decisions", run(work, organisation), json, columns)


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
            return await replay(app.log, app.artifacts, settings.organisation_id, chosen, update)

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


def show_replay(found: list[Replayed], seconds: float) -> None:
    """Print what a replay found."""
    different = [one for one in found if not one.same]
    if different:
        table(
            "Not the same as on the log",
            ("decision", "position", "cause", "detail"),
            [(one.decision_id, one.position, one.cause, one.detail) for one in different[:50]],
        )
        causes = Counter(one.cause for one in different)
        console.print(", ".join(f"{count} by {cause}" for cause, count in causes.items()))
    compared = sum(one.bytes_compared for one in found)
    console.print(
        f"replayed {len(found)} decisions in {seconds:.1f} s: "
        f"[green]{len(found) - len(different)} the same to the byte[/] "
        f"({compared:,} bytes compared), {len(different)} different"
    )


async def _catch_up(app: Application) -> None:
    await app.projector.prepare()
    await app.projector.catch_up()


async def _detail(app: Application, settings: Settings, decision_id: str) -> DecisionDetail:
    await _catch_up(app)
    found = await get_decision(ReadModels(app.log, settings.organisation_id), decision_id)
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
        show_decision(detail.made, detail.explained)


def show_decision(made: dict[str, Any], explained: dict[str, Any]) -> None:
    """Print a decision as a person would want to read it."""
    console.rule(f"[bold]Decision {made['decision_id']}[/]", align="left")
    console.print(f"[bold green]{explained['summary']}[/]\n")
    rows = []
    ranked = sorted(made["candidates"], key=lambda one: (bool(one["rejected"]), one["objective"]))
    for candidate in ranked[:8]:
        chosen = candidate["option"] == made["option"]
        rows.append(
            (
                "→" if chosen else "",
                " by ".join(candidate["option"].values()),
                f"{candidate['probability']:.1%}",
                f"{candidate['cost_minor'] / 100:.2f}",
                f"{candidate['carbon_g'] / 1000:.1f} kg",
                f"{candidate['objective'] / 100:.2f}",
                "\n".join(candidate["rejected"]),
            )
        )
    more = len(ranked) - len(rows)
    title = f"Candidates, the best {len(rows)} of {len(ranked)}" if more > 0 else "Candidates"
    table(title, ("", "option", "late", "cost", "carbon", "objective", "ruled out by"), rows)
    console.print("\n[bold]Why this one is as risky as it is[/]")
    widest = max((abs(one["contribution"] or 0.0) for one in explained["reasons"]), default=1.0)
    for reason in explained["reasons"]:
        push = reason["contribution"] or 0.0
        colour = "red" if push > 0 else "green"
        blocks = "█" * max(1, round(12 * abs(push) / (widest or 1.0)))
        console.print(f"  {push:+.2f} [{colour}]{blocks:<12}[/] {reason['sentence']}")
    runner_up = explained["runner_up"] or {"sentence": "there was no other candidate"}
    console.print(f"\n[bold]Runner-up[/]  {runner_up['sentence']}")
    if explained["rejections"]:
        console.print(
            "[bold]Ruled out[/]  "
            + "; ".join(one["sentence"] for one in explained["rejections"][:5])
        )
    if made["confidence"] is not None:
        console.print(
            f"[bold]How sure[/]   {made['confidence']:.1%} that this order will "
            f"{'be late' if made['probability'] > 0.5 else 'not be late'} (the model's own "
            f"probability, not calibrated); model {made['model_hash'][:12]}, "
            f"as of log position {made['as_of']:,}\n"
        )
