"""Timetables: when something that is done again and again is due, by a cron expression or an
interval. Pure: moments come in, moments go out.

Cron goes by the clock on the wall of a time zone. Where clocks are put forward, what would be due
in the hour that there is not is due as long after as clocks were put forward; where they are put
back, what names an hour is due in the first of the two hours alone, and what is due every hour
(`*` or `*/n` as its hour) in both.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter
from pydantic import Field, model_validator

from domain.time_windows import Zone
from domain.values import Value

FIELDS = ("minute", "hour", "day of month", "month", "day of week")
#: More than any clock was ever put forward or back, but for a zone that changed its date.
_SHIFT = timedelta(hours=3)
#: A year to look for the first time in.
_EPOCH = datetime(2026, 1, 1)  # noqa: DTZ001 - a clock on the wall
_SIGNS = re.compile(r"[0-9A-Za-z*,/-]+")
_NAMES = {
    "month": ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    "day of week": ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
}


def _checked(cron: str) -> None:
    """Raises ValueError, naming the field, for what is no cron expression of five fields."""
    parts = cron.split()
    if len(parts) != len(FIELDS):
        raise ValueError(
            f"cron: {cron!r} has {len(parts)} fields; it needs five: {', '.join(FIELDS)}"
        )
    for number, (name, part) in enumerate(zip(FIELDS, parts, strict=True)):
        words = set(re.findall("[A-Za-z]+", part.upper()))
        alone = ["*"] * len(FIELDS)
        alone[number] = part
        try:
            if not _SIGNS.fullmatch(part) or words - set(_NAMES.get(name, ())):
                raise CroniterError
            croniter.expand(" ".join(alone))
        except (CroniterError, ValueError) as error:
            raise ValueError(f"cron: {part!r} is no {name}") from error
    try:
        croniter(cron, _EPOCH).get_next(datetime)
    except CroniterError as error:
        raise ValueError(f"cron: {cron!r} never comes") from error


class TimesOfSchedule(Value):
    """A timetable as events keep it."""

    cron: str | None
    zone: str
    every_s: int | None


class Timetable(Value):
    """When something is due: by a cron expression in a time zone, or every so many seconds.

    ``cron``: minute, hour, day of month, month, day of week, as crontab(5) has them; ``zone``:
    whose clock it goes by. ``every_s``: seconds from one time to the next, counted from when it was
    set.
    """

    cron: Annotated[str, Field(max_length=100, examples=["30 2 * * *"])] | None = None
    zone: Zone = Field(default="UTC", examples=["Europe/Berlin"])
    every_s: Annotated[int, Field(ge=60, le=366 * 86_400)] | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.cron is None) == (self.every_s is None):
            raise ValueError("cron, every_s: one of them, and not both")
        if self.cron is not None:
            _checked(self.cron)
        return self


def following(table: Timetable, since: datetime, after: datetime) -> Iterator[datetime]:
    """When it is due, each later than ``after``, for ever, in UTC; ``since``: when it was set."""
    if table.every_s is not None:
        number = max(int((after - since).total_seconds() // table.every_s), 0)
        while True:
            number += 1
            yield since + timedelta(seconds=number * table.every_s)
    assert table.cron is not None
    zone = ZoneInfo(table.zone)
    times = croniter(table.cron, _wall(after, zone) - _SHIFT)
    waiting: list[datetime] = []
    last = after
    while True:
        try:
            wall = times.get_next(datetime)
        except CroniterError:  # none any more before the calendar ends
            return
        # No later one can come before this: it is safe to tell.
        safe = wall.replace(tzinfo=zone).astimezone(UTC) - _SHIFT
        while waiting and waiting[0] < safe:
            due = heapq.heappop(waiting)
            if due > last:
                last = due
                yield due
        for due in _moments(table.cron, wall, zone):
            heapq.heappush(waiting, due)


def latest(table: Timetable, since: datetime, after: datetime, until: datetime) -> datetime | None:
    """The last time that it was due, later than ``after`` and not later than ``until``."""
    if table.every_s is not None:
        number = int((until - since).total_seconds() // table.every_s)
        due = since + timedelta(seconds=number * table.every_s)
        return due if number >= 1 and due > after else None
    assert table.cron is not None
    zone = ZoneInfo(table.zone)
    times = croniter(table.cron, _wall(until, zone) + _SHIFT)
    found: datetime | None = None
    while True:
        try:
            wall = times.get_prev(datetime)
        except CroniterError:
            return found
        if wall.replace(tzinfo=zone).astimezone(UTC) + _SHIFT < max(found or after, after):
            return found
        for due in _moments(table.cron, wall, zone):
            if after < due <= until and (found is None or due > found):
                found = due


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def _moments(cron: str, wall: datetime, zone: ZoneInfo) -> set[datetime]:
    """When the clock shows this: where it shows it twice, once or twice."""
    folds = (0, 1) if cron.split()[1].startswith("*") else (0,)
    found = {wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in folds}
    there = {one for one in found if _wall(one, zone) == wall}
    # A time that the clock does not show: by the clock as it was before, as long after the change.
    return there or {wall.replace(tzinfo=zone).astimezone(UTC)}
