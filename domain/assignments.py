"""Assignments: which vehicle is at a site's disposal from when to when, and who drives it.

The assignments of a vehicle are one stream, so that no two of them overlap, however many people
assign it at once. A driver is a token such as ``D-17``, never a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from domain.decider import Decider
from domain.errors import Refused
from domain.sites import Site, must_be_open
from domain.time_windows import TimeWindow
from domain.transport import Vehicle, must_be_in_use
from domain.values import Command, Event, Id, Text, UtcTime, Value

# values and commands


def _is_a_token(text: str) -> str:
    if not any(letter.isdigit() for letter in text):
        raise ValueError("must hold a digit: a token such as D-17, never a person's name")
    return text


#: Who drives, by a token of the sender's own: names stand nowhere in the log.
DriverToken = Annotated[Id, AfterValidator(_is_a_token)]


class _Scheduled(Value):
    @model_validator(mode="after")
    def _rests_within_its_time(self) -> Self:
        window, rest = getattr(self, "window", None), getattr(self, "break_window", None)
        if isinstance(window, TimeWindow) and isinstance(rest, TimeWindow):
            wrong = _outside(window, rest)
            if wrong is not None:
                raise ValueError(f"break_window: {wrong}")
        return self


class AssignVehicle(_Scheduled, Command):
    """Put a vehicle at a site's disposal for a time, be it of another site.

    ``driver_id``: a token, never a name. ``break_window``: when the driver rests and the vehicle
    stands.
    """

    vehicle_id: Id
    assignment_id: Id
    site_id: Id
    window: TimeWindow
    driver_id: DriverToken | None = Field(default=None, examples=["D-17"])
    break_window: TimeWindow | None = None
    assigned_at: UtcTime


class ChangeAssignment(_Scheduled, Command):
    """Change an assignment that did not end: what is left out stays as it is, what ``clear`` names
    is not told any more."""

    vehicle_id: Id
    assignment_id: Id
    site_id: Id | None = None
    window: TimeWindow | None = None
    driver_id: DriverToken | None = None
    break_window: TimeWindow | None = None
    clear: Annotated[tuple[Literal["driver_id", "break_window"], ...], Field(max_length=2)] = ()
    changed_at: UtcTime

    @model_validator(mode="after")
    def _clears_nothing_that_is_given(self) -> Self:
        both = sorted({name for name in self.clear if getattr(self, name) is not None})
        if both:
            raise ValueError(f"clear: {', '.join(both)} is given a value as well")
        return self


class EndAssignment(Command):
    """End an assignment early, while it runs: the vehicle is free from then on."""

    vehicle_id: Id
    assignment_id: Id
    reason: Text
    ended_at: UtcTime


class CancelAssignment(Command):
    """Cancel an assignment before it begins."""

    vehicle_id: Id
    assignment_id: Id
    reason: Text
    cancelled_at: UtcTime


# events


class VehicleAssigned(Event):
    """A vehicle was put at a site's disposal for a time."""

    vehicle_id: str
    assignment_id: str
    site_id: str
    starts_at: datetime
    ends_at: datetime
    driver_id: str | None
    break_starts_at: datetime | None
    break_ends_at: datetime | None
    assigned_at: datetime


class AssignmentChanged(Event):
    """An assignment is another one; ``changed`` names the fields, the others are as before."""

    vehicle_id: str
    assignment_id: str
    site_id: str
    starts_at: datetime
    ends_at: datetime
    driver_id: str | None
    break_starts_at: datetime | None
    break_ends_at: datetime | None
    changed: str
    changed_at: datetime


class AssignmentEnded(Event):
    """An assignment ended before its time, at ``ends_at``. A break that was to come is none."""

    vehicle_id: str
    assignment_id: str
    site_id: str
    ends_at: datetime
    break_starts_at: datetime | None
    break_ends_at: datetime | None
    reason: str


class AssignmentCancelled(Event):
    """An assignment did not come about."""

    vehicle_id: str
    assignment_id: str
    site_id: str
    reason: str
    cancelled_at: datetime


EVENTS: tuple[type[Event], ...] = (
    VehicleAssigned,
    AssignmentChanged,
    AssignmentEnded,
    AssignmentCancelled,
)

#: The stream that an event belongs to, by its fields.
STREAM = "assignments/{vehicle_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    VehicleAssigned: "Vehicle {vehicle_id} was assigned to site {site_id} from {starts_at} to "
    "{ends_at} ({assignment_id})",
    AssignmentChanged: "Assignment {assignment_id} of vehicle {vehicle_id} was changed: {changed}",
    AssignmentEnded: "Assignment {assignment_id} of vehicle {vehicle_id} ended early at {ends_at}: "
    "{reason}",
    AssignmentCancelled: "Assignment {assignment_id} of vehicle {vehicle_id} was cancelled: "
    "{reason}",
}

# state


@dataclass(frozen=True, slots=True)
class Assignment:
    """A vehicle's time at a site's disposal."""

    site_id: str
    starts_at: datetime
    ends_at: datetime
    driver_id: str | None
    break_starts_at: datetime | None
    break_ends_at: datetime | None
    is_ended: bool = False
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Assignments:
    """All assignments of a vehicle, by id."""

    made: dict[str, Assignment] = field(default_factory=dict)


#: What a change may tell.
_FIELDS = ("site_id", "starts_at", "ends_at", "driver_id", "break_starts_at", "break_ends_at")


def evolve(assignments: Assignments, event: Event) -> Assignments:
    """The assignments after one more event."""
    match event:
        case VehicleAssigned() | AssignmentChanged():
            return _with(assignments, event.assignment_id, Assignment(**_told(event)))
        case AssignmentEnded():
            ended = replace(
                assignments.made[event.assignment_id],
                ends_at=event.ends_at,
                break_starts_at=event.break_starts_at,
                break_ends_at=event.break_ends_at,
                is_ended=True,
            )
            return _with(assignments, event.assignment_id, ended)
        case AssignmentCancelled():
            cancelled = replace(assignments.made[event.assignment_id], is_cancelled=True)
            return _with(assignments, event.assignment_id, cancelled)
    return assignments


def _with(assignments: Assignments, assignment_id: str, one: Assignment) -> Assignments:
    return Assignments(assignments.made | {assignment_id: one})


def _told(of: object) -> dict[str, Any]:
    return {name: getattr(of, name) for name in _FIELDS}


ASSIGNMENTS = Decider(initial=Assignments(), evolve=evolve)

# decisions


def assign(
    assignments: Assignments, command: AssignVehicle, vehicle: Vehicle, site: Site
) -> Sequence[Event]:
    """Assign a vehicle in use to an open site, for a time in which it is free."""
    if command.assignment_id in assignments.made:
        raise Refused(
            "assignment.already_made",
            vehicle_id=command.vehicle_id,
            assignment_id=command.assignment_id,
        )
    must_be_in_use(vehicle, command.vehicle_id)
    must_be_open(site, command.site_id)
    told = _said(command.site_id, command.window, command.driver_id, command.break_window)
    _must_be_free(assignments, command.vehicle_id, command.assignment_id, command.window)
    return [
        VehicleAssigned(
            vehicle_id=command.vehicle_id,
            assignment_id=command.assignment_id,
            assigned_at=command.assigned_at,
            **told,
        )
    ]


def change(
    assignments: Assignments,
    command: ChangeAssignment,
    vehicle: Vehicle,
    site: Site | None = None,
) -> Sequence[Event]:
    """Change an assignment that neither ended nor was cancelled; nothing where all of it is said
    already."""
    one = _standing(assignments, command)
    must_be_in_use(vehicle, command.vehicle_id)
    window = command.window or TimeWindow(starts_at=one.starts_at, ends_at=one.ends_at)
    rest = command.break_window or _break_of(one)
    rest = None if "break_window" in command.clear else rest
    driver_id = None if "driver_id" in command.clear else command.driver_id or one.driver_id
    after = _said(command.site_id or one.site_id, window, driver_id, rest)
    changed = [name for name in _FIELDS if after[name] != getattr(one, name)]
    if not changed:
        return []
    if "site_id" in changed and site is not None:
        must_be_open(site, after["site_id"])
    wrong = None if rest is None else _outside(window, rest)
    if wrong is not None:
        raise Refused(
            "assignment.break_outside",
            vehicle_id=command.vehicle_id,
            assignment_id=command.assignment_id,
            rule=wrong,
        )
    _must_be_free(assignments, command.vehicle_id, command.assignment_id, window)
    return [
        AssignmentChanged(
            vehicle_id=command.vehicle_id,
            assignment_id=command.assignment_id,
            changed=", ".join(changed),
            changed_at=command.changed_at,
            **after,
        )
    ]


def end(assignments: Assignments, command: EndAssignment) -> Sequence[Event]:
    """End an assignment that runs at that moment."""
    one = _standing(assignments, command)
    if not one.starts_at < command.ended_at < one.ends_at:
        raise Refused(
            "assignment.not_running",
            vehicle_id=command.vehicle_id,
            assignment_id=command.assignment_id,
            starts_at=one.starts_at.isoformat(),
            ends_at=one.ends_at.isoformat(),
            asked=command.ended_at.isoformat(),
        )
    rest = _break_of(one)
    if rest is not None and rest.starts_at >= command.ended_at:
        rest = None
    return [
        AssignmentEnded(
            vehicle_id=command.vehicle_id,
            assignment_id=command.assignment_id,
            site_id=one.site_id,
            ends_at=command.ended_at,
            break_starts_at=None if rest is None else rest.starts_at,
            break_ends_at=None if rest is None else min(rest.ends_at, command.ended_at),
            reason=command.reason,
        )
    ]


def cancel(assignments: Assignments, command: CancelAssignment) -> Sequence[Event]:
    """Cancel an assignment that did not begin."""
    one = _standing(assignments, command)
    if command.cancelled_at >= one.starts_at:
        raise Refused(
            "assignment.already_started",
            vehicle_id=command.vehicle_id,
            assignment_id=command.assignment_id,
            starts_at=one.starts_at.isoformat(),
            asked=command.cancelled_at.isoformat(),
        )
    return [
        AssignmentCancelled(
            vehicle_id=command.vehicle_id,
            assignment_id=command.assignment_id,
            site_id=one.site_id,
            reason=command.reason,
            cancelled_at=command.cancelled_at,
        )
    ]


def _standing(
    assignments: Assignments, command: ChangeAssignment | EndAssignment | CancelAssignment
) -> Assignment:
    """The assignment that a command is about, which must neither have ended nor be cancelled."""
    names = {"vehicle_id": command.vehicle_id, "assignment_id": command.assignment_id}
    one = assignments.made.get(command.assignment_id)
    if one is None:
        raise Refused("assignment.unknown", **names)
    if one.is_cancelled:
        raise Refused("assignment.cancelled", **names)
    if one.is_ended:
        raise Refused("assignment.already_ended", **names, ends_at=one.ends_at.isoformat())
    return one


def _must_be_free(
    assignments: Assignments, vehicle_id: str, assignment_id: str, window: TimeWindow
) -> None:
    """Refuse a time that another assignment of the vehicle has a part of; one that begins as
    another ends has none."""
    for id_, other in assignments.made.items():
        if id_ == assignment_id or other.is_cancelled:
            continue
        if window.starts_at < other.ends_at and other.starts_at < window.ends_at:
            raise Refused(
                "assignment.overlaps",
                vehicle_id=vehicle_id,
                assignment_id=assignment_id,
                other=id_,
                starts_at=other.starts_at.isoformat(),
                ends_at=other.ends_at.isoformat(),
            )


def _said(
    site_id: str, window: TimeWindow, driver_id: str | None, rest: TimeWindow | None
) -> dict[str, Any]:
    return {
        "site_id": site_id,
        "driver_id": driver_id,
        "starts_at": window.starts_at,
        "ends_at": window.ends_at,
        "break_starts_at": None if rest is None else rest.starts_at,
        "break_ends_at": None if rest is None else rest.ends_at,
    }


def _break_of(one: Assignment) -> TimeWindow | None:
    if one.break_starts_at is None or one.break_ends_at is None:
        return None
    return TimeWindow(starts_at=one.break_starts_at, ends_at=one.break_ends_at)


def _outside(window: TimeWindow, rest: TimeWindow) -> str | None:
    if window.starts_at <= rest.starts_at and rest.ends_at <= window.ends_at:
        return None
    return (
        f"must lie within {window.starts_at.isoformat()} and {window.ends_at.isoformat()}, got "
        f"{rest.starts_at.isoformat()} to {rest.ends_at.isoformat()}"
    )
