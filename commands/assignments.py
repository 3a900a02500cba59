"""Assignments: which rule answers which command."""

from __future__ import annotations

from typing import Protocol

from commands.handler import Handler, Read
from commands.sites import site_stream
from commands.transport import vehicle_stream
from domain import assignments, sites, transport
from domain.access import OPERATE


class _OfVehicle(Protocol):
    vehicle_id: str


def assignments_stream(vehicle_id: str) -> str:
    """The stream of all assignments of a vehicle."""
    return assignments.STREAM.format(vehicle_id=vehicle_id)


def _stream(command: _OfVehicle) -> str:
    return assignments_stream(command.vehicle_id)


def _vehicle_and_site(
    command: assignments.AssignVehicle | assignments.ChangeAssignment,
) -> list[Read]:
    reads = [Read(vehicle_stream(command.vehicle_id), transport.VEHICLES)]
    if command.site_id is not None:
        reads.append(Read(site_stream(command.site_id), sites.SITES))
    return reads


HANDLERS = (
    Handler(
        command=assignments.AssignVehicle,
        roles=OPERATE,
        stream=_stream,
        decider=assignments.ASSIGNMENTS,
        decide=lambda command, _, made, vehicle, site: assignments.assign(
            made, command, vehicle, site
        ),
        reads=_vehicle_and_site,
    ),
    Handler(
        command=assignments.ChangeAssignment,
        roles=OPERATE,
        stream=_stream,
        decider=assignments.ASSIGNMENTS,
        decide=lambda command, _, made, vehicle, site=None: assignments.change(
            made, command, vehicle, site
        ),
        reads=_vehicle_and_site,
    ),
    Handler(
        command=assignments.EndAssignment,
        roles=OPERATE,
        stream=_stream,
        decider=assignments.ASSIGNMENTS,
        decide=lambda command, _, made: assignments.end(made, command),
    ),
    Handler(
        command=assignments.CancelAssignment,
        roles=OPERATE,
        stream=_stream,
        decider=assignments.ASSIGNMENTS,
        decide=lambda command, _, made: assignments.cancel(made, command),
    ),
)
