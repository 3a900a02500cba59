"""Assignments: which vehicle is at a site's disposal from when to when, and who drives it."""

from __future__ import annotations

from polars import lit

from domain.assignments import (
    EVENTS,
    AssignmentCancelled,
    AssignmentChanged,
    AssignmentEnded,
    VehicleAssigned,
)
from projections.fold import first, last
from projections.table import Table

ASSIGNMENT_LIST = Table(
    name="assignment_list",
    key=dict.fromkeys(EVENTS, ("vehicle_id", "assignment_id")),
    columns={
        "version": last(dict.fromkeys(EVENTS, "version")),
        "site_id": last(dict.fromkeys(EVENTS, "site_id")),
        "starts_at": last({VehicleAssigned: "starts_at", AssignmentChanged: "starts_at"}),
        "ends_at": last(
            {VehicleAssigned: "ends_at", AssignmentChanged: "ends_at", AssignmentEnded: "ends_at"}
        ),
        # Whole: what was cleared is null in it, and a fold takes null for nothing said.
        "described": last({VehicleAssigned: "state", AssignmentChanged: "state"}, json=True),
        "ended": last({AssignmentEnded: "state"}, json=True),
        "status": last(
            {
                VehicleAssigned: lit("assigned"),
                AssignmentEnded: lit("ended"),
                AssignmentCancelled: lit("cancelled"),
            }
        ),
        "reason": last({AssignmentEnded: "reason", AssignmentCancelled: "reason"}),
        "assigned_at": first({VehicleAssigned: "assigned_at"}),
        "cancelled_at": last({AssignmentCancelled: "cancelled_at"}),
    },
    indexes=(("site_id", "starts_at"), ("starts_at",)),
)

TABLES = (ASSIGNMENT_LIST,)
