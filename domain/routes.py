"""Routes: the regions that sites may not send orders to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.decider import Decider
from domain.errors import Refused
from domain.sites import Site, must_be_known
from domain.values import Command, Event, Id, Region, Text, UtcTime


class ForbidRoute(Command):
    """Forbid a site to send orders to a region. Every route is legal until then."""

    site_id: Id
    region: Region
    reason: Text
    forbidden_at: UtcTime | None


class AllowRoute(Command):
    """Allow again what was forbidden."""

    site_id: Id
    region: Region
    allowed_at: UtcTime | None


class RouteForbidden(Event):
    """A site may not send orders to a region any more."""

    site_id: str
    region: str
    reason: str
    forbidden_at: datetime | None


class RouteAllowed(Event):
    """A site may send orders to a region again."""

    site_id: str
    region: str
    allowed_at: datetime | None


EVENTS = (RouteForbidden, RouteAllowed)

#: The stream that an event belongs to, by its fields.
STREAM = "routes/{site_id}/{region}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    RouteForbidden: "Site {site_id} was forbidden to send orders to {region}: {reason}",
    RouteAllowed: "Site {site_id} was allowed again to send orders to {region}",
}


@dataclass(frozen=True, slots=True)
class Route:
    """Whether a site may send orders to a region."""

    is_forbidden: bool = False


def evolve_route(route: Route, event: Event) -> Route:
    """The route after one more of its events."""
    match event:
        case RouteForbidden():
            return Route(is_forbidden=True)
        case RouteAllowed():
            return Route(is_forbidden=False)
    return route


ROUTES = Decider(initial=Route(), evolve=evolve_route)


def forbid(route: Route, command: ForbidRoute, site: Site) -> Sequence[Event]:
    """Forbid a legal route of a site that is known."""
    must_be_known(site, command.site_id)
    if route.is_forbidden:
        raise Refused("route.already_forbidden", site_id=command.site_id, region=command.region)
    return [
        RouteForbidden(
            site_id=command.site_id,
            region=command.region,
            reason=command.reason,
            forbidden_at=command.forbidden_at,
        )
    ]


def allow(route: Route, command: AllowRoute, site: Site) -> Sequence[Event]:
    """Allow a forbidden route of a site that is known."""
    must_be_known(site, command.site_id)
    if not route.is_forbidden:
        raise Refused("route.not_forbidden", site_id=command.site_id, region=command.region)
    return [
        RouteAllowed(site_id=command.site_id, region=command.region, allowed_at=command.allowed_at)
    ]
