"""Measures models now: figures, drift and alerts."""

from __future__ import annotations

from typing import Annotated

import typer

from chainlytics.application import Application
from chainlytics.cli.console import CliError, Json, Organisation, console, emit, run, table
from chainlytics.settings import Settings
from ml.monitoring import Measured, NotMeasurable, model_of
from ml.monitoring import measure as measure_one
from ml.watch import measure_all


def measure(
    model: Annotated[
        str | None, typer.Option(help="This model: the start of its hash. All by default.")
    ] = None,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Measure models by their decisions since they were last measured, and show alerts.

    The figures go onto the log. Drift is watched from 50 decisions on, fit from 50 outcomes on.
    """

    async def work(app: Application, settings: Settings) -> list[Measured]:
        organisation_id = settings.organisation_id
        if model is None:
            return await measure_all(app.url, app.log, app.artifacts, app.bus, organisation_id)
        name = await model_of(app.url, app.log, organisation_id, model)
        found = await measure_one(app.url, app.log, app.artifacts, app.bus, organisation_id, name)
        return [] if found is None else [found]

    try:
        found = run(work, organisation)
    except NotMeasurable as error:
        raise CliError(str(error)) from error
    if json:
        emit(found)
    elif not found:
        console.print("no model has decided anything that is not measured yet")
    else:
        show_measured(found)


def show_measured(found: list[Measured]) -> None:
    """Print figures and what is past its limit."""
    for one in found:
        table(
            f"Model {one.model_hash[:12]} ({one.kind})", ("", "measured", "estimated"), _rows(one)
        )
        if one.passed:
            columns = ("measure", "feature", "value", "at most")
            limits = [
                (limit.measure, limit.feature, f"{limit.value:.3f}", f"{limit.threshold:.3f}")
                for limit in one.passed
            ]
            table("Past their limits", columns, limits)
        else:
            console.print("[green]nothing is past its limit[/]")
    console.print("estimated: what the foretold risks alone lead one to expect, without outcomes")


def _rows(one: Measured) -> list[tuple[object, ...]]:
    told = one.measurement
    worst = max(told.psi, key=lambda name: told.psi[name], default=None)
    return [
        ("log positions", f"{told.from_position:,} to {told.to_position:,}", None),
        ("decisions", f"{told.decisions:,}", None),
        ("of those or earlier ones overridden", f"{told.overridden:,}", None),
        ("outcomes", f"{told.outcomes:,}", None),
        ("accuracy", _share(told.accuracy), _share(told.estimated_accuracy)),
        ("Brier score", _score(told.brier), _score(told.estimated_brier)),
        ("calibration error", _share(told.calibration_error), None),
        ("largest drift", None if worst is None else f"{worst}: PSI {told.psi[worst]:.2f}", None),
    ]


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _score(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
