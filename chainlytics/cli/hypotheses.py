"""Explanations of a decision: why, what if, and what would have turned it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from chainlytics.application import Application
from chainlytics.cli.acting import pairs, reading
from chainlytics.cli.console import CliError, Json, Organisation, console, emit, run
from chainlytics.cli.decision_views import (
    show_candidate,
    show_counterfactual_table,
    show_explanation,
)
from chainlytics.settings import Settings
from ml.catalogue import KINDS
from ml.explaining import (
    Explanation,
    NoSuchCandidate,
    best,
    explain,
    explain_weighing,
    in_words,
    number,
    waterfall_of,
    what_if_in_words,
)
from ml.hypotheses import Hypotheses, WhatIf, why_no_counterfactual
from ml.whatif import Change, Counterfactual, WrongCase
from readmodels.decisions import DecisionDetail, get_decision
from readmodels.models import get_model


def add_to(app: typer.Typer) -> None:
    """Put the commands beside the others of decisions."""
    app.command("explain")(explain_decision)
    app.command("what-if")(what_if)
    app.command("counterfactual")(find_counterfactual)


def explain_decision(
    decision_id: str,
    candidate: Annotated[
        int | None,
        typer.Option(min=0, help="This candidate, by its number in `show`; the chosen one if not."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All candidates.")] = False,
    svg: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the waterfall to this file.")
    ] = None,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Explain a decision by exact SHAP values, in words and bars."""
    if every and (candidate is not None or svg is not None):
        raise CliError("--all goes with neither --candidate nor --svg")

    async def work(app: Application, settings: Settings) -> Explanation:
        read = await reading(app, settings)
        detail = await get_decision(read, decision_id)
        if detail is not None and detail.failed is not None:
            why = f"{detail.failed['detail']} [{detail.failed['code']}]"
            raise CliError(f"decision {decision_id!r} failed: {why}")
        if detail is None or detail.made is None or detail.explained is None:
            raise CliError(f"decision {decision_id!r} is not known, or was not made")
        model = await get_model(read, detail.made["model_hash"])
        one = best(detail.made["candidates"]) if candidate is None else candidate
        return explain(
            detail.made,
            detail.explained,
            [] if model is None else model.features,
            KINDS.get(detail.made["kind"]),
            None if every else one,
        )

    try:
        found = run(work, organisation)
    except NoSuchCandidate as error:
        raise CliError(str(error)) from error
    if svg is not None:
        _write(svg, waterfall_of(found.subject_id, found.candidates[0]))
    if json:
        emit(found)
        return
    show_explanation(found)
    if svg is not None:
        console.print(f"written: {escape(str(svg))}")


def what_if(
    decision_id: str,
    changes: Annotated[
        list[str],
        typer.Option("--set", help="FEATURE=NUMBER; may be repeated. See `decisions kinds`."),
    ],
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only for candidates with NAME=VALUE, such as site_id=S-AMS."),
    ] = None,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Weigh a decision's candidates again with other feature values. Nothing is put on the log."""
    places = pairs(where or [], "--where")
    asked = [
        Change(name, _numeric(name, value), places)
        for name, value in pairs(changes, "--set").items()
    ]

    async def work(app: Application, settings: Settings) -> tuple[str | None, WhatIf]:
        detail = await _known(app, settings, decision_id)
        found = await Hypotheses(app.artifacts).what_if(detail.made, asked)
        return None if detail.made is None else detail.made["currency"], found

    try:
        currency, found = run(work, organisation)
    except WrongCase as error:
        raise CliError(str(error)) from error
    sentence = what_if_in_words(asked, found.weighing, found.before, found.kind)
    candidates = explain_weighing(found.kind, found.weighing)
    if json:
        turned = found.weighing.chosen != found.before
        told = {"sentence": sentence, "turned": turned, "before": found.before}
        emit(told | {"after": found.weighing.chosen, "options": candidates})
        return
    console.print(f"[bold]{escape(sentence)}[/]")
    for one in dict.fromkeys((found.weighing.chosen, found.before)):
        if one is not None:
            show_candidate(candidates[one], currency)


def find_counterfactual(
    decision_id: str, organisation: Organisation = None, json: Json = False
) -> None:
    """Find the smallest change, of what people can change, that would have turned a decision."""

    async def work(
        app: Application, settings: Settings
    ) -> tuple[DecisionDetail, Counterfactual | None]:
        detail = await _known(app, settings, decision_id)
        return detail, await Hypotheses(app.artifacts).counterfactual(detail.made)

    detail, found = run(work, organisation)
    why_none = "" if detail.made is None else why_no_counterfactual(detail.made)
    sentence = in_words(found, why_none, KINDS.get(detail.requested["kind"]))
    if json:
        emit({"decision_id": decision_id, "sentence": sentence, "counterfactual": found})
        return
    console.print(f"[bold]{escape(sentence)}[/]")
    if found is not None:
        show_counterfactual_table(
            [
                (one.feature, " ".join(one.where.values()), number(before), number(one.value))
                for one, before in zip(found.changes, found.before, strict=True)
            ]
        )


async def _known(app: Application, settings: Settings, decision_id: str) -> DecisionDetail:
    found = await get_decision(await reading(app, settings), decision_id)
    if found is None:
        raise CliError(f"decision {decision_id!r} is not known")
    return found


def _numeric(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CliError(f"--set {name}: {text!r} is no number") from None


def _write(file: Path, content: str) -> None:
    try:
        file.write_text(content, encoding="utf-8")
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}") from error
