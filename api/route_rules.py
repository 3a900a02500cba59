"""Route rules over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Body, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading
from api.errors import documented
from api.history import HistoryEntry
from api.listing import Chosen, Moment, Search, choosing, partial, sortable
from api.routers import Router
from api.times import Timestamp
from domain.loads import Goods
from domain.places import Point
from domain.route_rules import ChangeRouteRule, LiftRouteRule, SetRouteRule, broken
from domain.values import Id
from readmodels import route_rules, transport
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.route_rules import StoredRule

router = Router("/route-rules", tags=["route-rules"])

_RULE = {
    "rule_id": "LEZ-BER",
    "name": "Low emission zone of Berlin",
    "zone": {
        "name": "Berlin inside the S-Bahn ring",
        "polygon": [
            {"latitude": 52.5490, "longitude": 13.3885},
            {"latitude": 52.5345, "longitude": 13.4700},
            {"latitude": 52.4700, "longitude": 13.4690},
            {"latitude": 52.4750, "longitude": 13.3300},
            {"latitude": 52.5150, "longitude": 13.2830},
        ],
    },
    "forbids": {"fuels": ["diesel"], "emission_below": "euro4"},
    "valid_from": "2010-01-01T00:00:00Z",
    "source": "35. BImSchV (Verordnung zur Kennzeichnung der Kraftfahrzeuge)",
    "source_url": "https://www.gesetze-im-internet.de/bimschv_35/",
}

POSTS: tuple[Post, ...] = (
    Post(
        "",
        SetRouteRule,
        "Write down a rule of the road",
        now=("set_at",),
        named="rule_id",
        status=201,
        errors=(409,),
        example=_RULE,
    ),
    Post(
        "/{rule_id}/change",
        ChangeRouteRule,
        "Change a rule",
        now=("changed_at",),
        named="rule_id",
        example={
            "hours": {
                "zone": "Europe/Berlin",
                "spans": [{"day": "monday", "opens": "07:00", "closes": "20:00"}],
            }
        },
    ),
    Post(
        "/{rule_id}/lift",
        LiftRouteRule,
        "Lift a rule",
        now=("lifted_at",),
        named="rule_id",
        example={"reason": "the ordinance was repealed"},
    ),
)
mount(router, POSTS)


class RouteCheck(BaseModel):
    """A vehicle with goods at some points. ``at``: now, where left out."""

    model_config = ConfigDict(extra="forbid")

    vehicle_id: Id
    goods: Goods = Goods()
    points: Annotated[tuple[Point, ...], Field(min_length=1, max_length=1000)]
    at: Timestamp | None = None


class BrokenRule(BaseModel):
    """A rule that would be broken, in which zone, why in words, and which law says so."""

    rule_id: str
    zone: str
    sentence: str
    source: str


class RouteVerdict(BaseModel):
    """Whether a vehicle may stop at all points then, and the rules that it would break.

    ``rules``: so many were looked at. Which way it takes between the points is not.
    """

    vehicle_id: str
    at: datetime
    allowed: bool
    rules: int
    broken: list[BrokenRule]


_CHECK = {
    "example": {
        "summary": "A truck with paint thinner in Berlin",
        "value": {
            "vehicle_id": "V-BER-TRUCK",
            "goods": {
                "weight_g": 240_000,
                "hazards": [
                    {
                        "un_number": "UN1263",
                        "hazard_class": "3",
                        "packing_group": "II",
                        "tunnel_code": "D/E",
                    }
                ],
            },
            "points": [{"latitude": 52.520008, "longitude": 13.404954}],
            "at": "2026-03-02T09:00:00Z",
        },
    }
}


@router.post(
    "/check",
    summary="Check a vehicle, goods and points against the rules",
    responses=documented(404),
)
async def check_route(
    check: Annotated[RouteCheck, Body(openapi_examples=_CHECK)],
    read: Annotated[ReadModels, reading("route_rules.check", "vehicle_list")],
) -> RouteVerdict:
    """Which rules a vehicle breaks. What is not known of it counts as forbidden, and is said."""
    vehicle = await transport.get_vehicle(read, check.vehicle_id)
    if vehicle is None:
        raise NotFound("vehicle", check.vehicle_id)
    at = check.at or datetime.now(UTC)
    rules = await route_rules.standing_rules(read)
    found = broken(rules, vehicle, check.goods, check.points, at)
    return RouteVerdict(
        vehicle_id=check.vehicle_id,
        at=at,
        allowed=not found,
        rules=len(rules),
        broken=[BrokenRule(**one._asdict()) for one in found],
    )


@router.get("", summary="List route rules", responses=documented() | partial(StoredRule, page=True))
async def list_route_rules(
    read: Annotated[ReadModels, reading("route_rules.list", "route_rule_list")],
    chosen: Annotated[Chosen, choosing(StoredRule)],
    lifted: Annotated[bool | None, Query()] = None,
    valid_at: Moment = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(route_rules.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[StoredRule]:
    """Rules by id, lifted ones too; `search` looks in id, name, source and the zone's name."""
    found = await route_rules.list_rules(
        read,
        lifted=lifted,
        valid_at=valid_at,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get(
    "/{rule_id}", summary="Get a route rule", responses=documented(404) | partial(StoredRule)
)
async def get_route_rule(
    rule_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("route_rules.get", "route_rule_list")],
    chosen: Annotated[Chosen, choosing(StoredRule)],
) -> StoredRule:
    """A rule of the road, and which law says so."""
    found = await route_rules.get_rule(read, rule_id)
    if found is None:
        raise NotFound("route rule", rule_id)
    return chosen.of(found)


@router.get("/{rule_id}/history", summary="Read a route rule's history", responses=documented(404))
async def get_route_rule_history(
    rule_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("route_rules.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """What happened to a rule, the oldest first."""
    found = await route_rules.rule_history(read, rule_id, cursor=cursor, limit=limit)
    if not found.items and cursor is None:
        raise NotFound("route rule", rule_id)
    return found
