"""What came of simulations over HTTP: figures, pictures, a page, and several side by side."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import HTTPException, Path, Query, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field

from api.dependencies import Dependencies, NotFound, Parts, either, reading
from api.errors import documented
from api.routers import Router
from domain.errors import Refused
from domain.tasks import State
from domain.values import Id
from eventstore.artifacts import ArtifactCorrupt, Artifacts
from ml.simulation_report import (
    PICTURES,
    KpiDifference,
    SimulationResults,
    differences,
    page,
    picture,
)
from readmodels import simulations
from readmodels.database import ReadModels
from readmodels.simulations import SimulationSummary
from readmodels.tasks import TaskDetail

#: Before the other endpoints of simulations: those take any name for a simulation's.
router = Router("/simulations", tags=["simulations"])

#: Simulations that are compared at once.
_MOST_COMPARED = 6
#: Nothing of a page is loaded from anywhere, and no script runs in it.
_PAGE_RULES = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"
_SVG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/svg+xml": {}}, "description": "A picture."}
}
_HTML: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {}}, "description": "A page that needs no other file."}
}


class Compared(BaseModel):
    """A KPI and what each simulation makes of it, by its id; one that has no such KPI is left
    out."""

    kpi: str
    title: str
    unit: str
    better: str
    currency: str | None
    simulations: dict[str, KpiDifference]


class Comparison(BaseModel):
    """Simulations side by side: each against its own base line."""

    simulations: list[SimulationSummary]
    kpis: list[Compared] = Field(description="In the order of the first simulation.")


_Ids = Annotated[
    str,
    Query(
        max_length=500,
        description=f"Ids of completed simulations with commas between them, "
        f"{_MOST_COMPARED} at the most.",
        examples=["T-1,T-2"],
    ),
]


@router.get("/compare", summary="Compare simulations", responses=documented(404, 409))
async def compare_simulations(
    deps: Parts, read: Annotated[ReadModels, reading("simulations.results")], ids: _Ids
) -> Comparison:
    """The KPIs of some simulations, each against its base line. One that is not completed is a
    conflict."""
    found = await _compared(deps, read, ids)
    keys = dict.fromkeys((one.kpi, one.currency) for some in found.values() for one in some.kpis)
    kpis = []
    for kpi, currency in keys:
        mine = {
            name: one
            for name, some in found.items()
            for one in some.kpis
            if (one.kpi, one.currency) == (kpi, currency)
        }
        told = next(iter(mine.values()))
        kpis.append(
            Compared(
                kpi=kpi,
                title=told.title,
                unit=told.unit,
                better=told.better,
                currency=currency,
                simulations=mine,
            )
        )
    return Comparison(simulations=[await summary_of(read, name) for name in found], kpis=kpis)


@router.get(
    "/compare.svg",
    summary="See simulations compared",
    response_class=Response,
    responses=documented(404, 409) | _SVG,
)
async def compare_simulations_picture(
    deps: Parts, read: Annotated[ReadModels, reading("simulations.results")], ids: _Ids
) -> Response:
    """Each KPI's difference from the base line in per cent, as bars."""
    found = await _compared(deps, read, ids)
    drawn = differences(found, "What simulations change against their base lines")
    return Response(drawn, media_type="image/svg+xml")


@router.get(
    "/{simulation_id}/results",
    summary="Get what came of a simulation",
    responses=documented(404, 409),
)
async def get_simulation_results(
    simulation_id: Annotated[Id, Path()],
    deps: Parts,
    read: Annotated[ReadModels, reading("simulations.results")],
) -> SimulationResults:
    """KPIs against the base line, day by day figures, the sites and articles that differ most, what
    happened and what was refused. One that is not completed is a conflict."""
    return await results_of(deps, read, simulation_id)


@router.get(
    "/{simulation_id}/results/report.html",
    summary="Read what came of a simulation",
    response_class=Response,
    responses=documented(404, 409) | _HTML,
)
async def get_simulation_report(
    simulation_id: Annotated[Id, Path()],
    deps: Parts,
    read: Annotated[ReadModels, reading("simulations.results")],
) -> Response:
    """The same as one page, with pictures."""
    told = page(await results_of(deps, read, simulation_id))
    headers = {"Content-Security-Policy": _PAGE_RULES, "X-Content-Type-Options": "nosniff"}
    return Response(told, media_type="text/html", headers=headers)


@router.get(
    "/{simulation_id}/results/{picture_name}.svg",
    summary="See what came of a simulation",
    response_class=Response,
    responses=documented(404, 409) | _SVG,
)
async def get_simulation_picture(
    simulation_id: Annotated[Id, Path()],
    picture_name: Annotated[
        str, Path(pattern=either(PICTURES), description="Which: KPIs, or a figure day by day.")
    ],
    deps: Parts,
    read: Annotated[ReadModels, reading("simulations.results")],
) -> Response:
    """A picture: differences of KPIs as bars, or base line and scenario over the days."""
    drawn = picture(await results_of(deps, read, simulation_id), picture_name)
    return Response(drawn, media_type="image/svg+xml")


async def results_of(deps: Dependencies, read: ReadModels, simulation_id: str) -> SimulationResults:
    """What came of a simulation.

    Raises:
        NotFound: there is none of that id.
        Refused: it is not completed.
    """
    task = await known(read, simulation_id)
    if task.state != State.COMPLETED or task.artifact is None:
        raise Refused("task.not_completed", task_id=simulation_id, state=task.state)
    try:
        content = await Artifacts(deps.log).get(task.artifact)
    except (KeyError, ArtifactCorrupt) as error:
        raise HTTPException(503, "the file is not stored any more, or not as it was") from error
    return SimulationResults.model_validate_json(content)


async def _compared(deps: Dependencies, read: ReadModels, ids: str) -> dict[str, SimulationResults]:
    names = list(dict.fromkeys(name.strip() for name in ids.split(",") if name.strip()))
    if not 1 <= len(names) <= _MOST_COMPARED:
        told = {"type": "ids", "loc": ("query", "ids"), "input": ids[:100]}
        rule = f"name from 1 to {_MOST_COMPARED} simulations; these are {len(names)}"
        raise RequestValidationError([told | {"msg": rule}])
    return {name: await results_of(deps, read, name) for name in names}


async def known(read: ReadModels, simulation_id: str) -> TaskDetail:
    """The task that a simulation is.

    Raises:
        NotFound: there is none of that id.
    """
    found = await simulations.get_simulation(read, simulation_id)
    if found is None:
        raise NotFound("simulation", simulation_id)
    return found


async def summary_of(read: ReadModels, simulation_id: str) -> SimulationSummary:
    """A simulation as the log has it.

    Raises:
        NotFound: there is none of that id.
    """
    found = await known(read, simulation_id)
    return simulations.summary(found, await simulations.first_position(read, simulation_id))
