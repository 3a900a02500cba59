"""Tours and plans of tours as dispatchers list them: planned beside actual, stop by stop."""

from __future__ import annotations

from polars import Expr, col, lit

from domain.tour_events import (
    StopCompleted,
    StopFailed,
    TourCancelled,
    TourCompleted,
    TourPlanned,
    TourStarted,
)
from domain.tour_plans import TourPlanCancelled, ToursPlanned
from domain.values import Event
from projections.fold import count, first, last
from projections.table import Table

_EVENTS: tuple[type[Event], ...] = (
    TourPlanned,
    TourStarted,
    StopCompleted,
    StopFailed,
    TourCompleted,
    TourCancelled,
)

TOUR_LIST = Table(
    name="tour_list",
    key=dict.fromkeys(_EVENTS, ("tour_id",)),
    columns={
        "status": last(
            {
                TourPlanned: lit("planned"),
                TourStarted: lit("started"),
                TourCompleted: lit("completed"),
                TourCancelled: lit("cancelled"),
            }
        ),
        "version": last(dict.fromkeys(_EVENTS, "version")),
        "plan_id": first({TourPlanned: "plan_id"}),
        "site_id": first({TourPlanned: "site_id"}),
        "day": first({TourPlanned: "day"}),
        "vehicle_id": first({TourPlanned: "vehicle_id"}),
        "driver_id": first({TourPlanned: "driver_id"}),
        "mode": first({TourPlanned: "mode"}),
        "currency": first({TourPlanned: "currency"}),
        "stops": first({TourPlanned: col("stops").list.len().cast(int)}),
        "weight_g": first({TourPlanned: "weight_g"}),
        "volume_cm3": first({TourPlanned: "volume_cm3"}),
        "max_weight_g": first({TourPlanned: "max_weight_g"}),
        "planned_starts_at": first({TourPlanned: "starts_at"}),
        "planned_ends_at": first({TourPlanned: "ends_at"}),
        "planned_distance_m": first({TourPlanned: "distance_m"}),
        "planned_cost_minor": first({TourPlanned: "cost_minor"}),
        "planned_carbon_g": first({TourPlanned: "carbon_g"}),
        "planned": first({TourPlanned: "state"}, json=True),
        "started_at": last({TourStarted: "started_at"}),
        "completed_stops": count(StopCompleted),
        "failed_stops": count(StopFailed),
        "delay_s": last(
            dict.fromkeys((TourStarted, StopCompleted, StopFailed, TourCompleted), "delay_s")
        ),
        "finished_at": last({TourCompleted: "finished_at"}),
        "duration_s": last({TourCompleted: "duration_s"}),
        "distance_m": last({TourCompleted: "distance_m"}),
        "measured": last({TourCompleted: "measured"}),
        "cost_minor": last({TourCompleted: "cost_minor"}),
        "carbon_g": last({TourCompleted: "carbon_g"}),
        "cancel_reason": last({TourCancelled: "reason"}),
    },
    indexes=(("day", "tour_id"), ("plan_id", "tour_id"), ("vehicle_id", "day")),
)


def _of_stop(name: str) -> Expr:
    return col("stops").struct.field(name)


def _of_share(name: str) -> Expr:
    return col("shares").struct.field(name)


def _of_proof(name: str) -> Expr:
    return col("proof").struct.field(name)


TOUR_STOPS = Table(
    name="tour_stops",
    key={
        TourPlanned: {"tour_id": col("tour_id"), "order_id": _of_stop("order_id")},
        StopCompleted: ("tour_id", "order_id"),
        StopFailed: ("tour_id", "order_id"),
        TourCompleted: {"tour_id": col("tour_id"), "order_id": _of_share("order_id")},
        TourCancelled: {"tour_id": col("tour_id"), "order_id": col("order_ids")},
    },
    explode={TourPlanned: "stops", TourCompleted: "shares", TourCancelled: "order_ids"},
    columns={
        "status": last(
            {
                TourPlanned: lit("planned"),
                StopCompleted: lit("completed"),
                StopFailed: lit("failed"),
                TourCancelled: lit("cancelled"),
            }
        ),
        "stop_no": first({TourPlanned: _of_stop("stop_no")}),
        "site_id": first({TourPlanned: "site_id"}),
        "day": first({TourPlanned: "day"}),
        "vehicle_id": first({TourPlanned: "vehicle_id"}),
        "planned_arrival_at": first({TourPlanned: _of_stop("arrives_at")}),
        "planned_begin_at": first({TourPlanned: _of_stop("begins_at")}),
        "planned_leave_at": first({TourPlanned: _of_stop("leaves_at")}),
        "distance_m": first({TourPlanned: _of_stop("distance_m")}),
        "weight_g": first({TourPlanned: _of_stop("weight_g")}),
        "arrived_at": last({StopCompleted: "arrived_at", StopFailed: "arrived_at"}),
        "done_at": last({StopCompleted: "completed_at", StopFailed: "failed_at"}),
        "delay_s": last({StopCompleted: "delay_s", StopFailed: "delay_s"}),
        "proof_kind": last({StopCompleted: _of_proof("kind")}),
        "proof_sha256": last({StopCompleted: _of_proof("sha256")}),
        "taken_by": last({StopCompleted: "taken_by"}),
        "fail_reason": last({StopFailed: "reason"}),
        "fail_note": last({StopFailed: "note"}),
        "cost_minor": last({TourCompleted: _of_share("cost_minor")}),
        "carbon_g": last({TourCompleted: _of_share("carbon_g")}),
    },
    indexes=(("tour_id", "stop_no"), ("order_id",)),
)

TOUR_PLAN_LIST = Table(
    name="tour_plan_list",
    key=dict.fromkeys((ToursPlanned, TourPlanCancelled), ("plan_id",)),
    columns={
        "status": last({ToursPlanned: lit("planned"), TourPlanCancelled: lit("cancelled")}),
        "version": last(dict.fromkeys((ToursPlanned, TourPlanCancelled), "version")),
        "site_id": first({ToursPlanned: "site_id"}),
        "day": first({ToursPlanned: "day"}),
        "currency": first({ToursPlanned: "currency"}),
        "tours": first({ToursPlanned: col("tour_ids").list.len().cast(int)}),
        "served": first({ToursPlanned: "served"}),
        "unserved": first({ToursPlanned: "unserved"}),
        "distance_m": first({ToursPlanned: "distance_m"}),
        "cost_minor": first({ToursPlanned: "cost_minor"}),
        "carbon_g": first({ToursPlanned: "carbon_g"}),
        "estimate": first({ToursPlanned: "estimate"}),
        "problem_hash": first({ToursPlanned: "problem_hash"}),
        "solver": first({ToursPlanned: "solver"}),
        "solver_version": first({ToursPlanned: "solver_version"}),
        "iterations": first({ToursPlanned: "iterations"}),
        "seed": first({ToursPlanned: "seed"}),
        "replaces": first({ToursPlanned: "replaces"}),
        "planned_by": first({ToursPlanned: "planned_by"}),
        "planned_at": first({ToursPlanned: "planned_at"}),
        "plan": first({ToursPlanned: "state"}, json=True),
        "cancel_reason": last({TourPlanCancelled: "reason"}),
        "cancelled_at": last({TourPlanCancelled: "cancelled_at"}),
    },
    indexes=(("day", "plan_id"),),
)

TABLES = (TOUR_LIST, TOUR_STOPS, TOUR_PLAN_LIST)
