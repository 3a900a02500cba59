"""Transport: which rule answers which command."""

from __future__ import annotations

from typing import Protocol

from commands.handler import Handler, Read
from commands.sites import site_stream
from domain import routes, sites, transport
from domain.access import OPERATE


class _OfSite(Protocol):
    site_id: str


class _OfRoute(_OfSite, Protocol):
    region: str


def vehicle_stream(vehicle_id: str) -> str:
    """The stream of a vehicle."""
    return transport.VEHICLE_STREAM.format(vehicle_id=vehicle_id)


def route_stream(site_id: str, region: str) -> str:
    """The stream of the way from one site to one region."""
    return routes.STREAM.format(site_id=site_id, region=region)


def _site(command: _OfSite) -> list[Read]:
    return [Read(site_stream(command.site_id), sites.SITES)]


def _route(command: _OfRoute) -> str:
    return route_stream(command.site_id, command.region)


HANDLERS = (
    Handler(
        command=transport.RegisterVehicle,
        roles=OPERATE,
        stream=lambda command: vehicle_stream(command.vehicle_id),
        decider=transport.VEHICLES,
        decide=lambda command, _, vehicle, site: transport.register(vehicle, command, site),
        reads=_site,
        creates=True,
    ),
    Handler(
        command=transport.ChangeVehicle,
        roles=OPERATE,
        stream=lambda command: vehicle_stream(command.vehicle_id),
        decider=transport.VEHICLES,
        decide=lambda command, _, vehicle: transport.change_vehicle(vehicle, command),
    ),
    Handler(
        command=transport.MoveVehicle,
        roles=OPERATE,
        stream=lambda command: vehicle_stream(command.vehicle_id),
        decider=transport.VEHICLES,
        decide=lambda command, _, vehicle, site: transport.move(vehicle, command, site),
        reads=_site,
    ),
    Handler(
        command=transport.ReinstateVehicle,
        roles=OPERATE,
        stream=lambda command: vehicle_stream(command.vehicle_id),
        decider=transport.VEHICLES,
        decide=lambda command, _, vehicle, site: transport.reinstate(vehicle, command, site),
        reads=_site,
    ),
    Handler(
        command=transport.RetireVehicle,
        roles=OPERATE,
        stream=lambda command: vehicle_stream(command.vehicle_id),
        decider=transport.VEHICLES,
        decide=lambda command, _, vehicle: transport.retire(vehicle, command),
    ),
    Handler(
        command=routes.ForbidRoute,
        roles=OPERATE,
        stream=_route,
        decider=routes.ROUTES,
        decide=lambda command, _, route, site: routes.forbid(route, command, site),
        reads=_site,
    ),
    Handler(
        command=routes.AllowRoute,
        roles=OPERATE,
        stream=_route,
        decider=routes.ROUTES,
        decide=lambda command, _, route, site: routes.allow(route, command, site),
        reads=_site,
    ),
)
