"""Time windows and opening hours: what is open when, by the clock on the wall."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.time_windows import WEEKDAYS, OpeningHours, OpenSpan, TimeWindow
from tests.spec import problems


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def hours(*spans: tuple[str, str, str], zone: str = "Europe/Berlin") -> OpeningHours:
    said = [{"day": day, "opens": opens, "closes": closes} for day, opens, closes in spans]
    return OpeningHours.model_validate({"zone": zone, "spans": said})


WEEK = hours(
    ("monday", "08:00", "12:00"),
    ("monday", "13:00", "18:00"),
    ("friday", "20:00", "24:00"),
    ("saturday", "00:00", "02:00"),
)

# windows


def test_a_window_holds_its_start_and_not_its_end() -> None:
    window = TimeWindow(starts_at=at("2026-03-02T08:00Z"), ends_at=at("2026-03-02T12:00Z"))
    assert window.seconds == 4 * 3600
    assert window.contains(window.starts_at)
    assert not window.contains(window.ends_at)
    later = TimeWindow(starts_at=window.ends_at, ends_at=at("2026-03-02T13:00Z"))
    assert not window.overlaps(later)
    wide = TimeWindow(starts_at=at("2026-03-02T11:59Z"), ends_at=at("2026-03-03T00:00Z"))
    assert window.overlaps(wide)
    assert wide.overlaps(window)


@pytest.mark.parametrize(
    ("starts", "ends", "rule"),
    [
        ("2026-03-02T12:00Z", "2026-03-02T08:00Z", "ends_at: must be after starts_at"),
        ("2026-03-02T12:00Z", "2026-03-02T12:00Z", "ends_at: must be after starts_at"),
        # The same moment in two zones.
        ("2026-03-02T12:00+01:00", "2026-03-02T11:00Z", "ends_at: must be after starts_at"),
        ("2026-03-02T12:00", "2026-03-02T13:00Z", "starts_at"),
        ("noon", "2026-03-02T13:00Z", "starts_at"),
    ],
)
def test_a_window_that_is_none_is_named(starts: str, ends: str, rule: str) -> None:
    assert rule in problems(TimeWindow, starts_at=starts, ends_at=ends)


# opening hours


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-03-02T07:59+01:00", False),
        ("2026-03-02T08:00+01:00", True),
        ("2026-03-02T11:59:59+01:00", True),
        ("2026-03-02T12:00+01:00", False),
        ("2026-03-02T07:30Z", True),  # 08:30 in Berlin
        ("2026-06-01T06:30Z", True),  # 08:30 in Berlin, in summer
        ("2026-06-01T07:30+02:00", False),
        ("2026-03-03T09:00+01:00", False),  # a Tuesday
        ("2026-03-06T23:59:59+01:00", True),  # Friday night
        ("2026-03-07T00:00+01:00", True),
        ("2026-03-07T02:00+01:00", False),
    ],
)
def test_a_place_is_open_by_its_own_clock(moment: str, is_open: bool) -> None:
    assert WEEK.is_open(at(moment)) is is_open


@pytest.mark.parametrize(
    ("moment", "opens"),
    [
        ("2026-03-02T09:00+01:00", "2026-03-02T09:00+01:00"),
        ("2026-03-02T07:00+01:00", "2026-03-02T08:00+01:00"),
        ("2026-03-02T12:00+01:00", "2026-03-02T13:00+01:00"),
        ("2026-03-02T19:00+01:00", "2026-03-06T20:00+01:00"),
        ("2026-03-07T02:00+01:00", "2026-03-09T08:00+01:00"),
        ("2026-03-28T12:00+01:00", "2026-03-30T08:00+02:00"),  # clocks go forward between them
    ],
)
def test_the_next_opening(moment: str, opens: str) -> None:
    assert WEEK.next_opening(at(moment)) == at(opens)


def test_a_place_that_opens_once_a_week_opens_next_week() -> None:
    once = hours(("monday", "08:00", "09:00"))
    assert once.next_opening(at("2026-03-02T09:00+01:00")) == at("2026-03-09T08:00+01:00")


def test_the_hour_that_there_is_not_opens_when_it_is_over() -> None:
    night = hours(("sunday", "02:30", "05:00"))
    assert night.next_opening(at("2026-03-29T00:00Z")) == at("2026-03-29T03:00+02:00")
    assert not night.is_open(at("2026-03-29T00:59:59Z"))
    assert night.is_open(at("2026-03-29T01:00Z"))
    # A span of that hour alone: nobody can come in, so it is the week after.
    lost = hours(("sunday", "02:00", "03:00"))
    assert lost.next_opening(at("2026-03-28T12:00Z")) == at("2026-04-05T02:00+02:00")


def test_the_hour_that_comes_twice_counts_twice() -> None:
    night = hours(("sunday", "02:00", "03:00"))
    assert night.is_open(at("2026-10-25T02:30+02:00"))
    assert night.is_open(at("2026-10-25T02:30+01:00"))
    day = TimeWindow(starts_at=at("2026-10-24T12:00Z"), ends_at=at("2026-10-25T12:00Z"))
    assert [window.seconds for window in night.windows(day)] == [2 * 3600]


def test_what_of_a_window_is_open() -> None:
    weekend = TimeWindow(
        starts_at=at("2026-03-06T21:00+01:00"), ends_at=at("2026-03-09T09:00+01:00")
    )
    assert WEEK.windows(weekend) == (
        # The two spans over midnight are one.
        TimeWindow(starts_at=weekend.starts_at, ends_at=at("2026-03-07T02:00+01:00")),
        TimeWindow(starts_at=at("2026-03-09T08:00+01:00"), ends_at=weekend.ends_at),
    )
    tuesday = TimeWindow(starts_at=at("2026-03-03T00:00Z"), ends_at=at("2026-03-04T00:00Z"))
    assert WEEK.windows(tuesday) == ()


_minutes = st.integers(0, 24 * 60)


def _text(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@given(
    st.sampled_from(WEEKDAYS),
    st.lists(_minutes, min_size=2, max_size=2, unique=True).map(sorted),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "UTC"]),
    st.integers(0, 2 * 365 * 86_400).map(lambda s: at("2025-01-01T00:00Z") + timedelta(seconds=s)),
)
def test_at_the_next_opening_it_is_open_and_was_closed_before(
    day: Any, span: list[int], zone: str, moment: datetime
) -> None:
    week = hours((day, _text(span[0]), _text(span[1])), zone=zone)
    opens = week.next_opening(moment)
    assert opens >= moment
    assert week.is_open(opens)
    if opens > moment:
        assert not week.is_open(max(moment, opens - timedelta(seconds=1)))
        assert week.windows(TimeWindow(starts_at=moment, ends_at=opens)) == ()


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"closes": "08:00"}, "closes: must be after opens, got 08:00 to 08:00 on monday"),
        ({"opens": "22:00", "closes": "06:00"}, "over midnight write two spans"),
        ({"day": "Monday"}, "day"),
        ({"day": "holiday"}, "day"),
        ({"opens": "8:00"}, "'8:00' must be HH:MM from 00:00 to 24:00"),
        ({"opens": "08:60"}, "'08:60' must be HH:MM"),
        ({"closes": "24:01"}, "'24:01' must be HH:MM"),
        ({"closes": "2400"}, "'2400' must be HH:MM"),
        ({"closes": "٢٤:٠٠"}, "must be HH:MM"),
        ({"opens": "08:00Z"}, "opens"),
    ],
)
def test_a_span_that_is_none_is_named(fields: dict[str, Any], rule: str) -> None:
    said = {"day": "monday", "opens": "08:00", "closes": "18:00"} | fields
    assert rule in problems(OpenSpan, **said)


def test_hours_that_are_none_are_named() -> None:
    span = {"day": "monday", "opens": "08:00", "closes": "18:00"}
    late = {"day": "monday", "opens": "17:59", "closes": "20:00"}
    assert "'Mars/Base' is no time zone" in problems(OpeningHours, zone="Mars/Base", spans=[span])
    assert "'../etc/passwd' is no" in problems(OpeningHours, zone="../etc/passwd", spans=[span])
    assert "spans" in problems(OpeningHours, zone="UTC", spans=[])
    assert "spans: must not overlap, got 08:00 to 18:00 and 17:59 to 20:00 on monday" in problems(
        OpeningHours, zone="UTC", spans=[late, span]
    )
    touching = [late | {"opens": "18:00"}, span]
    assert problems(OpeningHours, zone="UTC", spans=touching) == ""


# as text


def test_hours_are_read_from_a_cell_of_a_table() -> None:
    text = "Europe/Berlin; Mo,We-Th 08:00-12:00,13:00-17:00; Sa-Su 09:00-12:00"
    told = OpeningHours.model_validate(text)
    halves = (("08:00", "12:00"), ("13:00", "17:00"))
    weekdays = [(day, *half) for day in ("monday", "wednesday", "thursday") for half in halves]
    weekend = [(day, "09:00", "12:00") for day in ("saturday", "sunday")]
    assert told == hours(*weekdays, *weekend)
    over_sunday = OpeningHours.model_validate("Europe/Berlin; Sa-Mo 09:00-12:00")
    assert [span.day for span in over_sunday.spans] == ["saturday", "sunday", "monday"]


@pytest.mark.parametrize(
    ("text", "place", "rule"),
    [
        ("", "zone", "is no time zone"),
        ("Mo-Fr 08:00-17:00", "zone", "is no time zone"),
        ("Europe/Berlin", "spans", "at least 1 item"),
        ("Europe/Berlin; Mon 08:00-17:00", "", "'Mon' must be a day or days, Mo, Tu"),
        ("Europe/Berlin; Mo-Frei 08:00-17:00", "", "'Mo-Frei' must be a day"),
        ("Europe/Berlin; Mo 8-17", "spans.0.opens", "'8' must be HH:MM"),
        ("Europe/Berlin; Mo", "spans.0.opens", "must be HH:MM"),
        ("Europe/Berlin; Mo 17:00-08:00", "spans.0", "must be after opens"),
        ("Europe/Berlin; Mo 08:00-17:00; Mo-Tu 10:00-11:00", "", "must not overlap"),
    ],
)
def test_hours_that_are_no_hours_say_what_is_wrong(text: str, place: str, rule: str) -> None:
    with pytest.raises(ValidationError) as raised:
        OpeningHours.model_validate(text)
    first = raised.value.errors()[0]
    assert ".".join(map(str, first["loc"])) == place
    assert rule in first["msg"]
