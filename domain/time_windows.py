"""Stretches of time: a window between two moments, and the hours of a week that a place is open."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from typing import Annotated, Literal, Self, get_args
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, Field, ValidationInfo, WithJsonSchema, model_validator

from domain.values import UtcTime, Value, is_stored

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
#: In the order of the week, Monday first, as datetime.weekday() counts.
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)

_DAY = 24 * 60
_SHORT = tuple(day[:2].capitalize() for day in WEEKDAYS)
#: Characters of opening hours as text.
_LONGEST = 1_000


class TimeWindow(Value):
    """A stretch of time: ``starts_at`` belongs to it, ``ends_at`` does not."""

    starts_at: UtcTime = Field(examples=["2026-03-02T08:00:00Z"])
    ends_at: UtcTime = Field(examples=["2026-03-02T12:00:00Z"])

    @model_validator(mode="after")
    def _ends_after_it_starts(self, info: ValidationInfo) -> Self:
        if self.ends_at <= self.starts_at and not is_stored(info):
            raise ValueError(
                f"ends_at: must be after starts_at, got {self.ends_at.isoformat()} after "
                f"{self.starts_at.isoformat()}"
            )
        return self

    def contains(self, moment: datetime) -> bool:
        """Whether a moment lies in it."""
        return self.starts_at <= moment < self.ends_at

    def overlaps(self, other: TimeWindow) -> bool:
        """Whether two windows share a moment; one that ends as the other starts does not."""
        return self.starts_at < other.ends_at and other.starts_at < self.ends_at

    @property
    def seconds(self) -> int:
        """Its length in whole seconds."""
        return int((self.ends_at - self.starts_at).total_seconds())


@cache
def _zones() -> frozenset[str]:
    """Asked once: it walks a folder of the machine each time."""
    return frozenset(available_timezones())


def _zone(name: str, info: ValidationInfo) -> str:
    if name not in _zones() and not is_stored(info):
        raise ValueError(f"{name!r} is no time zone of the IANA database, such as 'Europe/Berlin'")
    return name


#: Name of a time zone of the IANA database.
Zone = Annotated[str, Field(max_length=64), AfterValidator(_zone)]


def _clock(text: str) -> str:
    hours, colon, minutes = text.partition(":")
    right = len(hours) == len(minutes) == 2 and colon and (hours + minutes).isdecimal()
    if not right or not text.isascii() or int(minutes) > 59 or _minutes(text) > _DAY:
        raise ValueError(f"{text!r} must be HH:MM from 00:00 to 24:00")
    return text


def _minutes(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


#: A minute of the day as clocks on the wall show it, ``HH:MM``; 24:00 is the end of the day.
ClockTime = Annotated[
    str,
    Field(max_length=5),
    AfterValidator(_clock),
    WithJsonSchema({"type": "string", "pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"}),
]


class OpenSpan(Value):
    """From when to when a place is open on one day of the week, by the clock on its wall.

    A span ends on the day it starts: what is open over midnight has two, one up to 24:00 and one
    from 00:00 of the next day.
    """

    day: Weekday
    opens: ClockTime = Field(examples=["08:00"])
    closes: ClockTime = Field(examples=["18:00"])

    @model_validator(mode="after")
    def _closes_after_it_opens(self, info: ValidationInfo) -> Self:
        if _minutes(self.closes) <= _minutes(self.opens) and not is_stored(info):
            raise ValueError(
                f"closes: must be after opens, got {self.opens} to {self.closes} on {self.day}; "
                "over midnight write two spans, up to 24:00 and from 00:00 of the next day"
            )
        return self


def _hours_of(text: str) -> dict[str, object]:
    """Opening hours from their text.

    Raises:
        ValueError: it is not of that form.
    """
    zone, *rules = (part.strip() for part in text[:_LONGEST].split(";"))
    spans: list[dict[str, str]] = []
    for rule in rules:
        days, _, times = rule.partition(" ")
        for day in _days_of(days):
            for stretch in times.split(","):
                opens, _, closes = stretch.strip().partition("-")
                spans.append({"day": day, "opens": opens, "closes": closes})
    return {"zone": zone, "spans": spans}


def _days_of(text: str) -> list[Weekday]:
    found: list[Weekday] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in _SHORT or (dash and last not in _SHORT):
            raise ValueError(
                f"{part[:20]!r} must be a day or days, Mo, Tu, We, Th, Fr, Sa or Su, as Mo-Fr; "
                "hours are written 'Europe/Berlin; Mo-Fr 08:00-12:00,13:00-17:00; Sa 09:00-12:00'"
            )
        start, end = _SHORT.index(first), _SHORT.index(last or first)
        found += [WEEKDAYS[n % 7] for n in range(start, end + 1 + 7 * (end < start))]
    return found


class OpeningHours(Value):
    """The hours of a week that a place is open, in its own time zone.

    Minutes are those of the clock on the wall: where clocks are put forward, a span that begins in
    the hour that there is not begins when it is over; where they are put back, the repeated hour
    counts twice. A cell of a table holds them as text: the zone, then days and times as
    OpenStreetMap writes them, ``Europe/Berlin; Mo-Fr 08:00-12:00,13:00-17:00; Sa 09:00-12:00``.
    """

    zone: Zone = Field(examples=["Europe/Berlin"])
    spans: Annotated[tuple[OpenSpan, ...], Field(min_length=1, max_length=70)]

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, given: object) -> object:
        return _hours_of(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _spans_do_not_overlap(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        for before, after in pairwise(self._ordered()):
            if before.day == after.day and _minutes(after.opens) < _minutes(before.closes):
                raise ValueError(
                    f"spans: must not overlap, got {before.opens} to {before.closes} and "
                    f"{after.opens} to {after.closes} on {after.day}"
                )
        return self

    def is_open(self, at: datetime) -> bool:
        """Whether it is open at a moment (any zone)."""
        return any(start <= at < end for start, end in self._stretches(at, days=0))

    def next_opening(self, at: datetime) -> datetime:
        """The moment itself where it is open then, otherwise when it opens next, in UTC."""
        if self.is_open(at):
            return at.astimezone(UTC)
        # Two weeks: a span of a single day may be lost in an hour that there is not.
        return next(start for start, _ in self._stretches(at, days=15) if start > at)

    def windows(self, between: TimeWindow) -> tuple[TimeWindow, ...]:
        """What of a window it is open, in the order of time; spans that touch are one."""
        days = (between.ends_at - between.starts_at).days + 2
        found: list[TimeWindow] = []
        for start, end in self._stretches(between.starts_at, days=days):
            first, last = max(start, between.starts_at), min(end, between.ends_at)
            if first >= last:
                continue
            if found and found[-1].ends_at == first:
                first = found.pop().starts_at
            found.append(TimeWindow(starts_at=first, ends_at=last))
        return tuple(found)

    def _ordered(self) -> list[OpenSpan]:
        return sorted(self.spans, key=lambda span: (WEEKDAYS.index(span.day), _minutes(span.opens)))

    def _stretches(self, at: datetime, days: int) -> list[tuple[datetime, datetime]]:
        """The spans as moments in UTC, from the day of a moment, as it is there, on."""
        first = at.astimezone(ZoneInfo(self.zone)).date()
        found: list[tuple[datetime, datetime]] = []
        for offset in range(days + 1):
            day = first + timedelta(days=offset)
            for span in self._ordered():
                if span.day == WEEKDAYS[day.weekday()]:
                    start = self._moment(day, span.opens, fold=0)
                    end = self._moment(day, span.closes, fold=1)
                    if start < end:  # not where the whole span is in an hour that there is not
                        found.append((start, end))
        return found

    def _moment(self, day: date, clock: str, fold: int) -> datetime:
        # By the clock on the wall, so that 24:00 is 00:00 of the next day.
        there = datetime.combine(day, time()) + timedelta(minutes=_minutes(clock))
        wall = there.replace(tzinfo=ZoneInfo(self.zone), fold=fold)
        found = wall.astimezone(UTC)
        if found.astimezone(wall.tzinfo).replace(tzinfo=None) == there:
            return found
        # The clock never shows this minute: it is the moment at which clocks are put forward.
        return self._put_forward(found)

    def _put_forward(self, near: datetime) -> datetime:
        """The moment within a day of ``near`` at which clocks are put forward there."""
        zone = ZoneInfo(self.zone)
        low, high = near - timedelta(hours=24), near + timedelta(hours=24)
        before = low.astimezone(zone).utcoffset()
        while high - low > timedelta(minutes=1):
            middle = low + (high - low) / 2
            if middle.astimezone(zone).utcoffset() == before:
                low = middle
            else:
                high = middle
        return high.replace(second=0, microsecond=0)
