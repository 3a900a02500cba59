"""Tours, their stops, and the plans that they are part of."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from pydantic import Field

from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

_TOUR = """tour_id, status, version, plan_id, site_id, day, vehicle_id, driver_id, mode, currency,
    stops, weight_g, volume_cm3, max_weight_g, planned_starts_at, planned_ends_at,
    planned_distance_m, planned_cost_minor, planned_carbon_g, started_at, completed_stops,
    failed_stops, delay_s, finished_at, duration_s, distance_m, measured, cost_minor, carbon_g,
    cancel_reason, last_position"""

_GET_TOUR = f"""SELECT {_TOUR}, planned FROM read_models.tour_list
    WHERE organisation_id = %(organisation_id)s AND tour_id = %(tour_id)s"""

_LIST_TOURS = f"""SELECT {_TOUR} FROM read_models.tour_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(plan_id)s::text IS NULL OR plan_id = %(plan_id)s)
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(vehicle_id)s::text IS NULL OR vehicle_id = %(vehicle_id)s)
      AND (%(status)s::text IS NULL OR status = %(status)s)
      AND (%(since)s::date IS NULL OR day >= %(since)s)
      AND (%(until)s::date IS NULL OR day < %(until)s)
      AND (%(found)s::text IS NULL OR tour_id ILIKE %(found)s OR plan_id ILIKE %(found)s
           OR site_id ILIKE %(found)s OR vehicle_id ILIKE %(found)s OR driver_id ILIKE %(found)s)"""

TOUR_SORTING = Sorting(
    {
        "day": Column(date),
        "tour_id": Column(str),
        "site_id": Column(str),
        "vehicle_id": Column(str),
        "status": Column(str),
        "planned_starts_at": Column(datetime),
        "stops": Column(int),
        "planned_distance_m": Column(int),
        "delay_s": Column(int, nullable=True),
        "last_position": Column(int),
    },
    usual="-day,tour_id",
    key=("tour_id",),
)

_STOP = """tour_id, order_id, stop_no, status, site_id, day, vehicle_id, planned_arrival_at,
    planned_begin_at, planned_leave_at, distance_m, weight_g, arrived_at, done_at, delay_s,
    proof_kind, proof_sha256, taken_by, fail_reason, fail_note, cost_minor, carbon_g,
    last_position"""

_LIST_STOPS = f"""SELECT {_STOP} FROM read_models.tour_stops
    WHERE organisation_id = %(organisation_id)s
      AND (%(tour_id)s::text IS NULL OR tour_id = %(tour_id)s)
      AND (%(order_id)s::text IS NULL OR order_id = %(order_id)s)
      AND (%(status)s::text IS NULL OR status = %(status)s)
      AND (%(found)s::text IS NULL OR tour_id ILIKE %(found)s OR order_id ILIKE %(found)s
           OR site_id ILIKE %(found)s OR vehicle_id ILIKE %(found)s)"""

STOP_SORTING = Sorting(
    {
        "tour_id": Column(str),
        "stop_no": Column(int),
        "order_id": Column(str),
        "delay_s": Column(int, nullable=True),
        "done_at": Column(datetime, nullable=True),
    },
    usual="tour_id,stop_no",
    key=("tour_id", "order_id"),
)

# A finished tour's last event is that it is finished.
_COSTS = """SELECT vehicle_id = %(vehicle_id)s AS same_vehicle,
        site_id = %(site_id)s AS same_site,
        sum(planned_cost_minor)::bigint AS planned_minor, sum(cost_minor)::bigint AS minor
    FROM read_models.tour_list
    WHERE organisation_id = %(organisation_id)s AND status = 'completed'
      AND currency = %(currency)s AND planned_cost_minor > 0 AND last_position < %(before)s
      AND (site_id = %(site_id)s OR vehicle_id = %(vehicle_id)s)
    GROUP BY 1, 2"""

_PLAN = """plan_id, status, version, site_id, day, currency, tours, served, unserved, distance_m,
    cost_minor, carbon_g, estimate, problem_hash, solver, solver_version, iterations, seed,
    replaces, planned_by, planned_at, cancel_reason, cancelled_at, last_position"""

_GET_PLAN = f"""SELECT {_PLAN}, plan FROM read_models.tour_plan_list
    WHERE organisation_id = %(organisation_id)s AND plan_id = %(plan_id)s"""

_LIST_PLANS = f"""SELECT {_PLAN} FROM read_models.tour_plan_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(status)s::text IS NULL OR status = %(status)s)
      AND (%(since)s::date IS NULL OR day >= %(since)s)
      AND (%(until)s::date IS NULL OR day < %(until)s)
      AND (%(found)s::text IS NULL OR plan_id ILIKE %(found)s OR site_id ILIKE %(found)s)"""

PLAN_SORTING = Sorting(
    {
        "day": Column(date),
        "plan_id": Column(str),
        "site_id": Column(str),
        "planned_at": Column(datetime),
        "unserved": Column(int),
        "distance_m": Column(int),
        "cost_minor": Column(int),
        "last_position": Column(int),
    },
    usual="-day,plan_id",
    key=("plan_id",),
)


class TourSummary(Row):
    """A tour: what was planned, how far it is, and what came of it when it is over.

    Money is in minor units of ``currency``. ``delay_s``: behind the plan, by the last thing that
    was told. ``measured`` false: the plan's distance was taken for the real one.
    """

    tour_id: str = Field(examples=["PLAN-1.1"])
    status: str = Field(examples=["planned"])
    version: int
    plan_id: str
    site_id: str
    day: date
    vehicle_id: str
    driver_id: str | None
    mode: str
    currency: str
    stops: int
    weight_g: int
    volume_cm3: int
    max_weight_g: int | None
    planned_starts_at: datetime
    planned_ends_at: datetime
    planned_distance_m: int
    planned_cost_minor: int
    planned_carbon_g: int | None
    started_at: datetime | None
    completed_stops: int
    failed_stops: int
    delay_s: int | None
    finished_at: datetime | None
    duration_s: int | None
    distance_m: int | None
    measured: bool | None
    cost_minor: int | None
    carbon_g: int | None
    cancel_reason: str | None
    last_position: int


class TourDetail(TourSummary):
    """A tour with everything that its plan says, stops and parts of orders among it."""

    planned: dict[str, Any]


class TourStop(Row):
    """A stop of a tour, planned beside actual. Cost and emissions are the order's part in the tour,
    when it is over."""

    tour_id: str
    order_id: str
    stop_no: int
    status: str
    site_id: str
    day: date
    vehicle_id: str
    planned_arrival_at: datetime
    planned_begin_at: datetime
    planned_leave_at: datetime
    distance_m: int
    weight_g: int
    arrived_at: datetime | None
    done_at: datetime | None
    delay_s: int | None
    proof_kind: str | None
    proof_sha256: str | None
    taken_by: str | None
    fail_reason: str | None
    fail_note: str | None
    cost_minor: int | None
    carbon_g: int | None
    last_position: int


class TourPlanSummary(Row):
    """A plan of a site's tours for a day, and what it was found by: the problem's hash, the solver,
    its version, iterations and seed. ``estimate``: what ways and times come from."""

    plan_id: str
    status: str
    version: int
    site_id: str
    day: date
    currency: str
    tours: int
    served: int
    unserved: int
    distance_m: int
    cost_minor: int
    carbon_g: int | None
    estimate: str = Field(examples=["rule_based"])
    problem_hash: str
    solver: str
    solver_version: str
    iterations: int
    seed: int
    replaces: str | None
    planned_by: str
    planned_at: datetime
    cancel_reason: str | None
    cancelled_at: datetime | None
    last_position: int


class TourPlanDetail(TourPlanSummary):
    """A plan with its solution: each route, and each order left behind with the constraint that
    keeps it off."""

    plan: dict[str, Any]


async def get_tour(read: ReadModels, tour_id: str) -> TourDetail | None:
    """One tour, or None."""
    return await read.one(TourDetail, _GET_TOUR, tour_id=tour_id)


async def list_tours(
    read: ReadModels,
    *,
    plan_id: str | None = None,
    site_id: str | None = None,
    vehicle_id: str | None = None,
    status: str | None = None,
    since: date | None = None,
    until: date | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[TourSummary]:
    """Tours, those of the latest day first; of days, ``since`` is in and ``until`` is out.
    ``search`` finds a part of an id: the tour's, its plan's, site's, vehicle's or driver's."""
    by = TOUR_SORTING.by(sort, cursor or None)
    rows = await read.rows(
        TourSummary,
        _LIST_TOURS + by.sql,
        plan_id=plan_id,
        site_id=site_id,
        vehicle_id=vehicle_id,
        status=status,
        since=since,
        until=until,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)


async def list_stops(
    read: ReadModels,
    *,
    tour_id: str | None = None,
    order_id: str | None = None,
    status: str | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[TourStop]:
    """Stops in the order of their tours. ``search`` finds a part of an id: the tour's, the order's,
    the site's or the vehicle's."""
    by = STOP_SORTING.by(sort, cursor or None)
    rows = await read.rows(
        TourStop,
        _LIST_STOPS + by.sql,
        tour_id=tour_id,
        order_id=order_id,
        status=status,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)


class _Costs(Row):
    same_vehicle: bool
    same_site: bool
    planned_minor: int
    minor: int


async def costs_so_far(
    read: ReadModels, site_id: str, vehicle_id: str, currency: str, before: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What was planned and what came of it, in minor units of a currency: of the tours of a site
    and of those of a vehicle that were finished before a log position."""
    rows = await read.rows(
        _Costs,
        _COSTS,
        site_id=site_id,
        vehicle_id=vehicle_id,
        currency=currency,
        before=before,
    )

    def of(some: list[_Costs]) -> tuple[int, int]:
        return sum(one.planned_minor for one in some), sum(one.minor for one in some)

    return of([one for one in rows if one.same_site]), of([one for one in rows if one.same_vehicle])


async def get_plan(read: ReadModels, plan_id: str) -> TourPlanDetail | None:
    """One plan, or None."""
    return await read.one(TourPlanDetail, _GET_PLAN, plan_id=plan_id)


async def list_plans(
    read: ReadModels,
    *,
    site_id: str | None = None,
    status: str | None = None,
    since: date | None = None,
    until: date | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[TourPlanSummary]:
    """Plans, those of the latest day first. ``search`` finds a part of the plan's or site's id."""
    by = PLAN_SORTING.by(sort, cursor or None)
    rows = await read.rows(
        TourPlanSummary,
        _LIST_PLANS + by.sql,
        site_id=site_id,
        status=status,
        since=since,
        until=until,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)
