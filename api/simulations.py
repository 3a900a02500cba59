"""Simulations over HTTP: scenarios, their runs on branches of the log, and what came of them.

A run is a task: who asks for it gets 202, the simulation, and where to look.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Path, Query, Response

from api.commands import Post, mount
from api.dependencies import (
    Cursor,
    Dependencies,
    Limit,
    NotFound,
    either,
    reading,
    tagged,
)
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, choosing, partial, sortable
from api.routers import Router
from api.simulation_results import summary_of
from commands.simulations import scenario_stream
from domain import catalogue
from domain.errors import Refused
from domain.simulations import (
    CancelSimulation,
    Disturbing,
    GenerateScenario,
    RetireScenario,
    ScenarioGenerated,
)
from domain.tasks import CancelOwnTask, State
from domain.values import Id
from domain.work import RequestSimulation
from eventstore import Receipt
from readmodels import simulations
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.simulations import Scenario, ScenarioPreview, SimulationSummary

router = Router("/simulations", tags=["simulations"])

_STATES = [state.value for state in State if state is not State.UNKNOWN]
#: Seconds after which it is worth to look again.
_AGAIN = "1"


async def _as_preview(
    deps: Dependencies, organisation_id: UUID, receipt: Receipt, response: Response
) -> ScenarioPreview:
    """What the scenario will do."""
    read = ReadModels(deps.log, organisation_id)
    first, *_ = await read.stream(receipt.stream)
    generated = catalogue.decode(first.topic, first.state)
    assert isinstance(generated, ScenarioGenerated)
    response.headers["Location"] = f"/api/v1/simulations/scenarios/{generated.scenario_id}"
    return await simulations.preview(
        read, generated, receipt.version, receipt.position, receipt.repeated
    )


async def _as_simulation(
    deps: Dependencies, organisation_id: UUID, receipt: Receipt, response: Response
) -> SimulationSummary:
    """The simulation as the log has it now, and where it is."""
    read = ReadModels(deps.log, organisation_id)
    found = await summary_of(read, receipt.stream.partition("/")[2])
    tagged(response, found.version)
    response.headers["Location"] = f"/api/v1/simulations/{found.simulation_id}"
    if not found.finished:
        response.headers["Retry-After"] = _AGAIN
    return found


async def _must_be_on_the_log(deps: Dependencies, _: UUID, command: RequestSimulation) -> None:
    """A branch leaves the log where the log is."""
    head = await deps.log.head()
    if command.position is not None and command.position > head:
        raise Refused("simulation.position_ahead", position=command.position, last=head)


POSTS: tuple[Post, ...] = (
    Post(
        "/generate",
        GenerateScenario,
        "Generate a scenario",
        now=("generated_at",),
        made=("scenario_id",),
        status=201,
        answer=_as_preview,
        answers=ScenarioPreview,
        example={
            "name": "A hot spring in the Netherlands",
            "seed": 7,
            "horizon_days": 14,
            "disturbances": [
                {"kind": "demand_surge", "factor": 1.5, "region": "NL", "from_day": 3},
                {"kind": "site_closed", "site_id": "S-AMS", "from_day": 5, "to_day": 7},
            ],
        },
    ),
    Post(
        "/scenarios/{scenario_id}/retire",
        RetireScenario,
        "Retire a scenario",
        now=("retired_at",),
        example={"reason": "the spring is over"},
    ),
    Post(
        "/run",
        RequestSimulation,
        "Run a scenario, as a task",
        now=("requested_at",),
        made=("task_id",),
        status=202,
        check=_must_be_on_the_log,
        answer=_as_simulation,
        answers=SimulationSummary,
        example={"scenario_id": "S-1", "replications": 3, "priority": "normal"},
    ),
    Post(
        "/{task_id}/cancel",
        CancelSimulation,
        "Stop a simulation",
        now=("cancelled_at",),
        own=CancelOwnTask,
        answer=_as_simulation,
        answers=SimulationSummary,
        example={"reason": "the wrong scenario"},
    ),
)
mount(router, POSTS)


# scenarios


@router.get(
    "/scenarios",
    summary="List scenarios, the latest first",
    responses=documented(),
)
async def list_scenarios(
    read: Annotated[ReadModels, reading("simulations.scenarios", "scenario_list")],
    retired: Annotated[
        bool | None, Query(description="Only those that were retired, or were not.")
    ] = None,
    kind: Annotated[
        str | None,
        Query(pattern=either(list(Disturbing)), description="With such a disturbance only."),
    ] = None,
    search: Annotated[
        str | None, Query(max_length=100, description="Part of its id or name.")
    ] = None,
    sort: Annotated[str | None, sortable(simulations.SCENARIO_SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Scenario]:
    """What can be tried, in words too."""
    return await simulations.list_scenarios(
        read, retired=retired, kind=kind, search=search, sort=sort, cursor=cursor, limit=limit
    )


@router.get("/scenarios/{scenario_id}", summary="Get a scenario", responses=documented(404))
async def get_scenario(
    scenario_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("simulations.scenarios", "scenario_list")],
) -> Scenario:
    """What is tried, in words too."""
    found = await simulations.get_scenario(read, scenario_id)
    if found is None:
        raise NotFound("scenario", scenario_id)
    tagged(response, found.version)
    return found


@router.get(
    "/scenarios/{scenario_id}/history",
    summary="See what happened to a scenario",
    responses=documented(404),
)
async def get_scenario_history(
    scenario_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("simulations.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """Its events in words, the oldest first."""
    stream = scenario_stream(scenario_id)
    return await history_of(read, stream, "scenario", scenario_id, cursor, limit)


# runs


@router.get(
    "",
    summary="List simulations, the latest first",
    responses=documented() | partial(SimulationSummary, page=True),
)
async def list_simulations(
    read: Annotated[ReadModels, reading("simulations.list", "task_list")],
    chosen: Annotated[Chosen, choosing(SimulationSummary)],
    state: Annotated[
        str | None, Query(pattern=either(_STATES), description="In this state only.")
    ] = None,
    scenario_id: Annotated[Id | None, Query(description="Of this scenario only.")] = None,
    sort: Annotated[str | None, sortable(simulations.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[SimulationSummary]:
    """Runs of scenarios: how far they are, and figures of those that are completed."""
    found = await simulations.list_simulations(
        read, state=state, scenario_id=scenario_id, sort=sort, cursor=cursor, limit=limit
    )
    return chosen.of(found)


@router.get("/{simulation_id}", summary="Get a simulation", responses=documented(404))
async def get_simulation(
    simulation_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("simulations.get")],
) -> SimulationSummary:
    """How far it is, and its figures when it is completed. `Retry-After` says when to look
    again."""
    found = await summary_of(read, simulation_id)
    tagged(response, found.version)
    if not found.finished:
        response.headers["Retry-After"] = _AGAIN
    return found
