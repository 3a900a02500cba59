"""Assignments: a vehicle is at one site's disposal at a time, whoever asks at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st
from psycopg_pool import AsyncConnectionPool

from commands import HANDLERS, Bus, Context
from domain.access import Role
from domain.assignments import (
    ASSIGNMENTS,
    AssignmentCancelled,
    AssignmentChanged,
    AssignmentEnded,
    AssignVehicle,
    CancelAssignment,
    ChangeAssignment,
    EndAssignment,
    VehicleAssigned,
)
from domain.errors import Refused
from domain.sites import OpenSite, ServiceLevel, Site, SiteClosed, SiteOpened
from domain.time_windows import TimeWindow
from domain.transport import RegisterVehicle, Vehicle, VehicleRegistered, VehicleRetired
from domain.values import Command
from eventstore import Log, Writer, prepare_database
from eventstore.streams import Streams
from tests.spec import given, problems

SIX = datetime(2026, 3, 2, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
SHIFT = TimeWindow(starts_at=SIX, ends_at=SIX + 8 * HOUR)
REST = TimeWindow(starts_at=SIX + 4 * HOUR, ends_at=SIX + 5 * HOUR)

ASSIGN = AssignVehicle(
    vehicle_id="V-1",
    assignment_id="A-1",
    site_id="S-1",
    window=SHIFT,
    driver_id="D-17",
    break_window=REST,
    assigned_at=SIX - HOUR,
)
CHANGE = ChangeAssignment(
    vehicle_id="V-1", assignment_id="A-1", driver_id="D-18", changed_at=SIX - HOUR
)
END = EndAssignment(
    vehicle_id="V-1", assignment_id="A-1", reason="breakdown", ended_at=SIX + 2 * HOUR
)
CANCEL = CancelAssignment(
    vehicle_id="V-1", assignment_id="A-1", reason="no work", cancelled_at=SIX - HOUR
)

opened = SiteOpened(
    site_id="S-1",
    name=None,
    region=None,
    service_levels=(ServiceLevel(code="standard"),),
    daily_capacity=None,
    opened_at=None,
)
closed = SiteClosed(site_id="S-1", reason="moved", closed_at=None)
vehicle = VehicleRegistered(
    vehicle_id="V-1",
    site_id="S-1",
    mode="van",
    service_levels=("standard",),
    max_weight_g=None,
    daily_capacity=None,
    cost_minor=0,
    carbon_g=0,
    registered_at=None,
)
retired = VehicleRetired(vehicle_id="V-1", site_id="S-1", reason="sold", retired_at=None)
assigned = VehicleAssigned(
    vehicle_id="V-1",
    assignment_id="A-1",
    site_id="S-1",
    starts_at=SHIFT.starts_at,
    ends_at=SHIFT.ends_at,
    driver_id="D-17",
    break_starts_at=REST.starts_at,
    break_ends_at=REST.ends_at,
    assigned_at=SIX - HOUR,
)
changed = AssignmentChanged(
    **assigned.model_dump(exclude={"assigned_at"}) | {"driver_id": "D-18"},
    changed="driver_id",
    changed_at=SIX - HOUR,
)
ended = AssignmentEnded(
    vehicle_id="V-1",
    assignment_id="A-1",
    site_id="S-1",
    ends_at=SIX + 2 * HOUR,
    break_starts_at=None,
    break_ends_at=None,
    reason="breakdown",
)
cancelled = AssignmentCancelled(
    vehicle_id="V-1",
    assignment_id="A-1",
    site_id="S-1",
    reason="no work",
    cancelled_at=SIX - HOUR,
)


def other(message: Any, **fields: Any) -> Any:
    return message.model_copy(update=fields)


def at(start: int, end: int) -> TimeWindow:
    """From so many hours after six to so many."""
    return TimeWindow(starts_at=SIX + start * HOUR, ends_at=SIX + end * HOUR)


def test_a_vehicle_is_assigned() -> None:
    given().reading(vehicle, opened).when(ASSIGN).then(assigned)


def test_a_vehicle_may_be_lent_to_another_site() -> None:
    there = other(opened, site_id="S-2")
    given().reading(vehicle, there).when(other(ASSIGN, site_id="S-2")).then(
        other(assigned, site_id="S-2")
    )


def test_an_assignment_needs_a_vehicle_in_use_and_an_open_site() -> None:
    given().reading(opened).when(ASSIGN).refused("vehicle.unknown", vehicle_id="V-1")
    given().reading(vehicle, retired, opened).when(ASSIGN).refused("vehicle.retired")
    given().reading(vehicle).when(ASSIGN).refused("site.unknown", site_id="S-1")
    given().reading(vehicle, opened, closed).when(ASSIGN).refused("site.closed", site_id="S-1")


@pytest.mark.parametrize("history", [[assigned], [assigned, ended], [assigned, cancelled]])
def test_an_id_is_used_once(history: list[Any]) -> None:
    again = other(ASSIGN, window=at(20, 24), break_window=None)
    given(*history).reading(vehicle, opened).when(again).refused(
        "assignment.already_made", vehicle_id="V-1", assignment_id="A-1"
    )


@pytest.mark.parametrize("window", [at(-1, 1), at(2, 3), at(7, 9), at(-5, 20), at(0, 8)])
def test_two_assignments_do_not_overlap(window: TimeWindow) -> None:
    second = other(ASSIGN, assignment_id="A-2", window=window, break_window=None)
    given(assigned).reading(vehicle, opened).when(second).refused(
        "assignment.overlaps", vehicle_id="V-1", assignment_id="A-2", other="A-1"
    )


@pytest.mark.parametrize("window", [at(-3, 0), at(8, 12)])
def test_one_may_begin_as_the_other_ends(window: TimeWindow) -> None:
    second = other(ASSIGN, assignment_id="A-2", window=window, break_window=None)
    given(assigned).reading(vehicle, opened).when(second).then(
        other(
            assigned,
            assignment_id="A-2",
            starts_at=window.starts_at,
            ends_at=window.ends_at,
            break_starts_at=None,
            break_ends_at=None,
        )
    )


@pytest.mark.parametrize("history", [[assigned, cancelled], [assigned, ended]])
def test_what_was_cancelled_or_ended_early_leaves_its_time(history: list[Any]) -> None:
    second = other(ASSIGN, assignment_id="A-2", window=at(2, 8), break_window=None)
    [made] = given(*history).reading(vehicle, opened).when(second).events
    assert made == other(
        assigned,
        assignment_id="A-2",
        starts_at=SIX + 2 * HOUR,
        break_starts_at=None,
        break_ends_at=None,
    )


def test_a_change_tells_what_is_other_and_keeps_the_rest() -> None:
    given(assigned).reading(vehicle).when(CHANGE).then(changed)
    given(assigned, changed).reading(vehicle).when(CHANGE).then()
    given(assigned).reading(vehicle).when(
        ChangeAssignment(
            vehicle_id="V-1",
            assignment_id="A-1",
            window=at(1, 9),
            clear=("driver_id",),
            changed_at=SIX - HOUR,
        )
    ).then(
        other(
            changed,
            starts_at=SIX + HOUR,
            ends_at=SIX + 9 * HOUR,
            driver_id=None,
            changed="starts_at, ends_at, driver_id",
        )
    )


def test_a_change_keeps_the_break_within_the_time() -> None:
    shorter = other(CHANGE, window=at(0, 4))
    given(assigned).reading(vehicle).when(shorter).refused(
        "assignment.break_outside", vehicle_id="V-1", assignment_id="A-1"
    )
    given(assigned).reading(vehicle).when(other(shorter, clear=("break_window",))).then(
        other(
            changed,
            ends_at=SIX + 4 * HOUR,
            break_starts_at=None,
            break_ends_at=None,
            changed="ends_at, driver_id, break_starts_at, break_ends_at",
        )
    )


def test_a_change_obeys_the_rules_of_a_new_assignment() -> None:
    later = other(assigned, assignment_id="A-2", starts_at=SIX + 9 * HOUR, ends_at=SIX + 12 * HOUR)
    given(assigned, later).reading(vehicle).when(other(CHANGE, window=at(0, 10))).refused(
        "assignment.overlaps", assignment_id="A-1", other="A-2"
    )
    given(assigned).reading(vehicle, retired).when(CHANGE).refused("vehicle.retired")
    given(assigned).reading(vehicle).when(other(CHANGE, site_id="S-9")).refused(
        "site.unknown", site_id="S-9"
    )


def test_an_assignment_ends_while_it_runs() -> None:
    given(assigned).when(END).then(ended)
    for moment in (SIX, SIX - HOUR, SIX + 8 * HOUR, SIX + 9 * HOUR):
        given(assigned).when(other(END, ended_at=moment)).refused(
            "assignment.not_running", asked=moment.isoformat()
        )


def test_an_early_end_cuts_a_break_that_has_begun() -> None:
    in_break = SIX + 4.5 * HOUR
    given(assigned).when(other(END, ended_at=in_break)).then(
        other(
            ended,
            ends_at=in_break,
            break_starts_at=REST.starts_at,
            break_ends_at=in_break,
        )
    )


def test_what_has_begun_is_ended_and_not_cancelled() -> None:
    given(assigned).when(CANCEL).then(cancelled)
    given(assigned).when(other(CANCEL, cancelled_at=SIX)).refused(
        "assignment.already_started", asked=SIX.isoformat()
    )


@pytest.mark.parametrize("command", [CHANGE, END, CANCEL], ids=type)
def test_what_ended_or_was_cancelled_or_never_was_stays_so(command: Command) -> None:
    given().reading(vehicle).when(command).refused("assignment.unknown", assignment_id="A-1")
    given(assigned, ended).reading(vehicle).when(command).refused("assignment.already_ended")
    given(assigned, cancelled).reading(vehicle).when(command).refused("assignment.cancelled")


@pytest.mark.parametrize(
    ("kind", "fields", "field", "rule"),
    [
        (AssignVehicle, {"driver_id": "Ana.Maria"}, "driver_id", "never a person's name"),
        (AssignVehicle, {"driver_id": "Ana Maria 1"}, "driver_id", "match pattern"),
        (AssignVehicle, {"window": {"starts_at": SIX, "ends_at": SIX}}, "ends_at", "must be after"),
        (AssignVehicle, {"window": None}, "window", "valid dictionary"),
        (AssignVehicle, {"break_window": at(7, 9)}, "break_window", "must lie within"),
        (AssignVehicle, {"assignment_id": "a b"}, "assignment_id", "match pattern"),
        (AssignVehicle, {"driver": "D-1"}, "driver", "Extra inputs"),
        (ChangeAssignment, {"clear": ["driver_id"]}, "clear", "driver_id is given a value"),
        (ChangeAssignment, {"clear": ["site_id"]}, "clear.0", "Input should be"),
        (EndAssignment, {"reason": ""}, "reason", "at least 1 character"),
        (EndAssignment, {"ended_at": "2026-03-02T08:00:00"}, "ended_at", "timezone"),
        (CancelAssignment, {"vehicle_id": ""}, "vehicle_id", "match pattern"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    kind: type[Command], fields: dict[str, Any], field: str, rule: str
) -> None:
    [sound] = [one for one in (ASSIGN, CHANGE, END, CANCEL) if isinstance(one, kind)]
    assert problems(kind, **sound.model_dump()) == ""
    told = problems(kind, **sound.model_dump() | fields)
    assert field in told
    assert rule in told


_hours = st.integers(0, 30)


@examples(
    st.lists(
        st.tuples(st.sampled_from(["assign", "change", "end", "cancel"]), _hours, _hours, _hours),
        max_size=25,
    )
)
def test_no_minute_is_promised_twice(wishes: list[tuple[str, int, int, int]]) -> None:
    """Whatever is wished for in whatever order; minutes are counted one by one by a model of its
    own, which knows no windows."""
    made = ASSIGNMENTS.initial
    site = Site(site_id="S-1", is_open=True)
    van = Vehicle(vehicle_id="V-1", site_id="S-1", mode="van")
    hours: dict[str, set[int]] = {}
    for n, (what, start, end, which) in enumerate(wishes):
        if end <= start:
            continue
        name = f"A-{n}" if what == "assign" else f"A-{which % 7}"
        told: dict[str, Any] = {"vehicle_id": "V-1", "assignment_id": name}
        wanted = set(range(start, end))
        before = hours.get(name)
        others = set().union(*(held for one, held in hours.items() if one != name))
        command: Command
        states: tuple[Any, ...] = ()
        match what:
            case "assign":
                command = AssignVehicle(
                    **told, site_id="S-1", window=at(start, end), assigned_at=SIX
                )
                states, after = (van, site), None if wanted & others else wanted
            case "change":
                command = ChangeAssignment(**told, window=at(start, end), changed_at=SIX)
                free = before is not None and not wanted & others
                states, after = (van,), wanted if free else None
            case "end":
                command = EndAssignment(**told, reason="x", ended_at=SIX + start * HOUR)
                runs = before is not None and min(before) < start <= max(before)
                left = {hour for hour in before or () if hour < start}
                after = left if runs else None
            case _:
                command = CancelAssignment(**told, reason="x", cancelled_at=SIX + start * HOUR)
                ahead = before is not None and start < min(before)
                after = set() if ahead else None
        try:
            events = HANDLERS[type(command)].decide(command, "ana", made, *states)
        except Refused as refusal:
            gone = refusal.code in ("assignment.already_ended", "assignment.cancelled")
            assert after is None or gone
            continue
        assert after is not None
        made = ASSIGNMENTS.fold(events, made)
        hours[name] = after
        if not after:
            del hours[name]
    promised = [hour for held in hours.values() for hour in held]
    assert len(promised) == len(set(promised))
    standing = {name: one for name, one in made.made.items() if not one.is_cancelled}
    assert {
        name: set(range(*((edge - SIX) // HOUR for edge in (one.starts_at, one.ends_at))))
        for name, one in standing.items()
    } == hours


ORGANISATION = UUID("00000000-0000-0000-0000-0000000000ab")
TWENTY = 20


def ana() -> Context:
    return Context(organisation_id=ORGANISATION, actor="ana", roles=frozenset({Role.ADMIN}))


def test_of_twenty_who_want_the_same_vehicle_at_once_one_gets_it(database: str) -> None:
    """From four processes' worth of buses: each has its own memory of the stream, so that only the
    log can tell them apart. What they want differs, and all of it shares one hour."""

    async def run() -> tuple[list[str], list[Any]]:
        async with AsyncExitStack() as stack, AsyncConnectionPool(database, open=False) as pool:
            buses = [
                Bus(
                    Log(pool),
                    await stack.enter_async_context(Streams(database)),
                    await stack.enter_async_context(Writer(database)),
                    HANDLERS,
                )
                for _ in range(4)
            ]
            await buses[0].execute(OpenSite(site_id="S-1", opened_at=SIX), ana())
            register = RegisterVehicle(
                vehicle_id="V-1",
                site_id="S-1",
                mode="van",
                service_levels=("standard",),
                registered_at=SIX,
            )
            await buses[0].execute(register, ana())

            async def want(n: int) -> str:
                command = AssignVehicle(
                    vehicle_id="V-1",
                    assignment_id=f"A-{n}",
                    site_id="S-1",
                    window=at(n - TWENTY, n + 1),
                    assigned_at=SIX,
                )
                try:
                    await buses[n % 4].execute(command, ana())
                except Refused as refusal:
                    return refusal.code
                return "assigned"

            answers = await asyncio.gather(*(want(n) for n in range(TWENTY)))
            log = Log(pool, pool).of(ORGANISATION)
            id_ = HANDLERS[AssignVehicle].streams(ORGANISATION, ASSIGN)[0].id
            return answers, (await log.streams([id_]))[id_]

    prepare_database(database)
    answers, stored = asyncio.run(run())
    assert sorted(answers) == ["assigned"] + ["assignment.overlaps"] * (TWENTY - 1)
    assert [event.version for event in stored] == [1]
