"""Assignments: one, many."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

_DRIVER = "(described->>'driver_id')"

# Of one that ended early the break is as its end left it.
_ASSIGNMENT = f"""vehicle_id, assignment_id, site_id, starts_at, ends_at, status,
    {_DRIVER} AS driver_id,
    (coalesce(ended, described)->>'break_starts_at')::timestamptz AS break_starts_at,
    (coalesce(ended, described)->>'break_ends_at')::timestamptz AS break_ends_at,
    reason, assigned_at, cancelled_at, last_position"""

_GET = f"""SELECT {_ASSIGNMENT} FROM read_models.assignment_list
    WHERE organisation_id = %(organisation_id)s AND vehicle_id = %(vehicle_id)s
      AND assignment_id = %(assignment_id)s"""

_LIST = f"""SELECT {_ASSIGNMENT} FROM read_models.assignment_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(vehicle_id)s::text IS NULL OR vehicle_id = %(vehicle_id)s)
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(driver_id)s::text IS NULL OR {_DRIVER} = %(driver_id)s)
      AND (%(status)s::text IS NULL OR status = %(status)s)
      AND (%(found)s::text IS NULL OR assignment_id ILIKE %(found)s OR vehicle_id ILIKE %(found)s
           OR site_id ILIKE %(found)s OR {_DRIVER} ILIKE %(found)s)
      AND (%(starts_before)s::timestamptz IS NULL OR starts_at < %(starts_before)s)
      AND (%(ends_after)s::timestamptz IS NULL OR ends_at > %(ends_after)s)"""

SORTING = Sorting(
    {
        "vehicle_id": Column(str),
        "assignment_id": Column(str),
        "site_id": Column(str),
        "starts_at": Column(datetime),
        "ends_at": Column(datetime),
        "driver_id": Column(str, nullable=True, sql=_DRIVER),
        "assigned_at": Column(datetime),
        "last_position": Column(int),
    },
    usual="starts_at",
    key=("vehicle_id", "assignment_id"),
)


class Assignment(Row):
    """A vehicle's time at a site's disposal.

    ``status``: ``assigned``, ``ended`` (before its time) or ``cancelled``. ``driver_id``: a token,
    never a name.
    """

    vehicle_id: str
    assignment_id: str
    site_id: str
    starts_at: datetime
    ends_at: datetime
    status: str
    driver_id: str | None
    break_starts_at: datetime | None
    break_ends_at: datetime | None
    reason: str | None
    assigned_at: datetime
    cancelled_at: datetime | None
    last_position: int


async def get_assignment(
    read: ReadModels, vehicle_id: str, assignment_id: str
) -> Assignment | None:
    """One assignment, or None."""
    return await read.one(Assignment, _GET, vehicle_id=vehicle_id, assignment_id=assignment_id)


async def list_assignments(
    read: ReadModels,
    *,
    vehicle_id: str | None = None,
    site_id: str | None = None,
    driver_id: str | None = None,
    status: str | None = None,
    day: date | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Assignment]:
    """Assignments by their start. ``day``: those that have a part of that day (UTC). ``search``
    finds a part of an id: the assignment's, its vehicle's, site's or driver's.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    begins = None if day is None else datetime.combine(day, time(), UTC)
    ends = None if begins is None or day == date.max else begins + timedelta(days=1)
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        Assignment,
        _LIST + by.sql,
        vehicle_id=vehicle_id,
        site_id=site_id,
        driver_id=driver_id,
        status=status,
        starts_before=ends,
        ends_after=begins,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)
