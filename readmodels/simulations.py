"""Simulations: scenarios, and their runs, which are tasks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from domain.simulations import DisturbanceOfScenario, Disturbing, ScenarioGenerated, words
from domain.tasks import FINISHED, STREAM, State
from domain.work import Kind
from readmodels import tasks
from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting
from readmodels.tasks import TaskDetail

_SCENARIO = """scenario_id, version, name, seed, horizon_days, sample_days, kinds,
    generated->'disturbances' AS disturbances, generated_by, generated_at, retired, retired_at,
    retire_reason, last_position"""

_GET_SCENARIO = f"""SELECT {_SCENARIO} FROM read_models.scenario_list
    WHERE organisation_id = %(organisation_id)s AND scenario_id = %(scenario_id)s"""

_LIST_SCENARIOS = f"""SELECT {_SCENARIO} FROM read_models.scenario_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(retired)s::bool IS NULL OR retired = %(retired)s)
      AND (%(kind)s::text IS NULL OR %(kind)s = ANY (string_to_array(kinds, ',')))
      AND (%(found)s::text IS NULL OR scenario_id ILIKE %(found)s OR name ILIKE %(found)s)"""

SCENARIO_SORTING = Sorting(
    {
        "scenario_id": Column(str),
        "name": Column(str, nullable=True),
        "generated_at": Column(datetime),
        "horizon_days": Column(int),
        "last_position": Column(int),
    },
    usual="-generated_at",
    key=("scenario_id",),
)

_SCENARIO_ID = "requested->'simulation'->>'scenario_id'"
_LIST = f"""SELECT task_id AS simulation_id, {_SCENARIO_ID} AS scenario_id,
        (requested->'simulation'->>'position')::bigint AS asked_position,
        (requested->'simulation'->>'replications')::bigint AS replications,
        priority, state, version, requested_by, requested_at, requested_position, started_at,
        done, total, step, CASE WHEN state = 'completed' THEN ended->'result' END AS result,
        CASE WHEN state <> 'completed' THEN ended->>'code' END AS code,
        CASE WHEN state <> 'completed' THEN ended->>'reason' END AS reason,
        finished_at, last_position
    FROM read_models.task_list
    WHERE organisation_id = %(organisation_id)s AND kind = '{Kind.SIMULATION.value}'
      AND (%(state)s::text IS NULL OR state = %(state)s)
      AND (%(of_scenario)s::text IS NULL OR {_SCENARIO_ID} = %(of_scenario)s)"""

SORTING = Sorting(
    {
        "requested_position": Column(int),
        "requested_at": Column(datetime),
        "priority": Column(int),
        "state": Column(str),
        "scenario_id": Column(str, sql=_SCENARIO_ID),
        "finished_at": Column(datetime, nullable=True),
        "last_position": Column(int),
    },
    usual="-requested_position",
    key=("requested_position",),
)

# The days that demand would be drawn from, the last one left out: it may not be over.
_TOUCHED = """WITH newest AS (SELECT max(placed_at)::date AS day FROM read_models.order_summary
        WHERE organisation_id = %(organisation_id)s)
    SELECT count(*) AS orders FROM read_models.order_summary o, newest
    WHERE o.organisation_id = %(organisation_id)s
      AND o.placed_at >= (newest.day - %(days)s::int)::timestamp AT TIME ZONE 'UTC'
      AND o.placed_at < newest.day::timestamp AT TIME ZONE 'UTC'
      AND (%(of_region)s::text IS NULL OR o.region = %(of_region)s)
      AND (%(of_site)s::text IS NULL OR o.site_id = %(of_site)s)
      AND (%(of_vehicle)s::text IS NULL OR o.vehicle_id = %(of_vehicle)s)
      AND (%(of_sku)s::text IS NULL OR EXISTS (
            SELECT FROM jsonb_array_elements(o.placed->'lines') AS l
            WHERE l->>'sku' = %(of_sku)s))"""


class Scenario(Row):
    """What is to be tried. ``words``: its disturbances in sentences."""

    scenario_id: str = Field(examples=["S-1"])
    version: int
    name: str | None
    seed: int
    horizon_days: int
    sample_days: int
    disturbances: tuple[DisturbanceOfScenario, ...]
    words: tuple[str, ...] = ()
    generated_by: str
    generated_at: datetime
    retired: bool
    retired_at: datetime | None
    retire_reason: str | None
    last_position: int


class Touched(Row):
    """A disturbance in a sentence. ``orders``: of the orders of the sampled days, so many are such
    as it touches; null where it touches no orders but goods."""

    words: str
    orders: int | None


class ScenarioPreview(Row):
    """What a scenario that was just generated will do.

    ``sampled_orders``: of the days that demand is drawn from, as the read models have them now;
    ``expected_orders``: so many in the simulated days, without any disturbance.
    """

    scenario_id: str = Field(examples=["S-1"])
    version: int
    position: int = Field(description="Its log position: ask queries for `min_position`.")
    repeated: bool
    horizon_days: int
    sampled_orders: int
    expected_orders: int
    disturbances: tuple[Touched, ...]


class SimulationSummary(Row):
    """A run of a scenario as it stands.

    ``position``: where its branches leave the log. ``done`` of ``total`` is its progress in days,
    ``step`` says of what. ``result``: figures of base line and scenario, when it is completed; all
    of it is at ``/results``. ``code`` and ``reason``: why it failed or was stopped.
    """

    simulation_id: str = Field(examples=["T-1"])
    scenario_id: str
    position: int
    replications: int
    priority: int
    state: str = Field(examples=["running"])
    requested_by: str
    requested_at: datetime
    started_at: datetime | None
    done: int | None
    total: int | None
    step: str | None = Field(examples=["days simulated"])
    result: dict[str, Any] | None = None
    code: str | None = None
    reason: str | None = None
    finished_at: datetime | None = None
    version: int
    last_position: int

    @property
    def finished(self) -> bool:
        """Whether nothing more comes."""
        return State(self.state) in FINISHED


class _Stored(Row):
    simulation_id: str
    scenario_id: str
    asked_position: int | None
    replications: int
    priority: int
    state: str
    version: int
    requested_by: str
    requested_at: datetime
    requested_position: int
    started_at: datetime | None
    done: int | None
    total: int | None
    step: str | None
    result: dict[str, Any] | None
    code: str | None
    reason: str | None
    finished_at: datetime | None
    last_position: int


class _Count(Row):
    orders: int


async def get_scenario(read: ReadModels, scenario_id: str) -> Scenario | None:
    """One scenario, or None."""
    found = await read.one(Scenario, _GET_SCENARIO, scenario_id=scenario_id)
    return None if found is None else _worded(found)


async def list_scenarios(
    read: ReadModels,
    *,
    retired: bool | None = None,
    kind: str | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Scenario]:
    """Scenarios, the latest first.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SCENARIO_SORTING.by(sort, cursor or None)
    rows = await read.rows(
        Scenario,
        _LIST_SCENARIOS + by.sql,
        retired=retired,
        kind=kind,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    found = by.page(rows, limit)
    return Page[Scenario](
        items=tuple(_worded(one) for one in found.items), next_cursor=found.next_cursor
    )


async def preview(
    read: ReadModels, generated: ScenarioGenerated, version: int, position: int, repeated: bool
) -> ScenarioPreview:
    """What a scenario will do, by the orders of the days before."""
    days = generated.sample_days
    sampled = await _touched(read, days)
    found: list[Touched] = []
    for one in generated.disturbances:
        orders = None
        if one.kind != Disturbing.SUPPLIER_LATE:
            orders = await _touched(read, days, one)
        found.append(Touched(words=words(one), orders=orders))
    return ScenarioPreview(
        scenario_id=generated.scenario_id,
        version=version,
        position=position,
        repeated=repeated,
        horizon_days=generated.horizon_days,
        sampled_orders=sampled,
        expected_orders=round(sampled / days * generated.horizon_days),
        disturbances=tuple(found),
    )


async def _touched(read: ReadModels, days: int, one: DisturbanceOfScenario | None = None) -> int:
    found = await read.one(
        _Count,
        _TOUCHED,
        days=days,
        of_region=one and one.region,
        of_site=one and one.site_id,
        of_vehicle=one and one.vehicle_id,
        of_sku=one and one.sku,
    )
    return 0 if found is None else found.orders


async def get_simulation(read: ReadModels, simulation_id: str) -> TaskDetail | None:
    """The task that a simulation is, as the log has it; None: there is no such simulation."""
    found = await tasks.get_task(read, simulation_id)
    return found if found is not None and found.kind == Kind.SIMULATION else None


def summary(task: TaskDetail, requested_position: int) -> SimulationSummary:
    """What is shown of the task that a simulation is."""
    asked = task.arguments
    told = task.model_dump(include=set(SimulationSummary.model_fields))
    return SimulationSummary(
        **told,
        simulation_id=task.task_id,
        scenario_id=asked["scenario_id"],
        position=requested_position if asked["position"] is None else asked["position"],
        replications=asked["replications"],
    )


async def first_position(read: ReadModels, simulation_id: str) -> int:
    """The log position of the request for a simulation."""
    events = await read.stream(STREAM.format(task_id=simulation_id))
    return events[0].position


async def list_simulations(
    read: ReadModels,
    *,
    state: str | None = None,
    scenario_id: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[SimulationSummary]:
    """Simulations, the latest requested first.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        _Stored,
        _LIST + by.sql,
        state=state,
        of_scenario=scenario_id,
        limit=limit + 1,
        **by.parameters,
    )
    found = by.page(rows, limit)
    items = tuple(_told(row) for row in found.items)
    return Page[SimulationSummary](items=items, next_cursor=found.next_cursor)


def _told(row: _Stored) -> SimulationSummary:
    told = row.model_dump(exclude={"asked_position", "requested_position"})
    position = row.requested_position if row.asked_position is None else row.asked_position
    if row.state == State.COMPLETED:
        told |= {"step": None, "done": row.total, "total": row.total}
    return SimulationSummary(**told, position=position)


def _worded(found: Scenario) -> Scenario:
    told = tuple(words(one) for one in found.disturbances)
    return found.model_copy(update={"words": told})
