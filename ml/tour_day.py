"""What is known of a site's day: the orders that are to go, and the vehicles that are at hand.

Read models say which orders and vehicles there are; their own streams say what they are, so that
nothing is planned on what was true a moment ago.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, TypeVar
from uuid import UUID

from commands.assignments import assignments_stream
from commands.clients import client_stream
from commands.handler import stream_id
from commands.orders import order_stream
from commands.products import product_stream
from commands.sites import site_stream
from commands.tariffs import emission_stream, tariff_stream
from commands.tours import plan_stream, tour_stream
from commands.transport import vehicle_stream
from domain import tours
from domain.assignments import ASSIGNMENTS
from domain.catalogue import decode, type_of
from domain.clients import CLIENTS, Client
from domain.decider import Decider
from domain.factors import USUAL_FUEL
from domain.hazards import Hazard
from domain.loads import Goods
from domain.order_state import ORDERS, Order, Status
from domain.products import PRODUCTS, Product
from domain.route_rules import ROUTE_RULES, RouteRule
from domain.route_rules import STREAM as RULES
from domain.routing import MOST_STOPS, Constraint, Unserved
from domain.sites import SITES, Site
from domain.tariffs import EMISSION_FACTORS, TARIFFS
from domain.time_windows import TimeWindow
from domain.tour_bookings import (
    TOUR_ORDERS,
    TOUR_VEHICLES,
)
from domain.tour_bookings import order_stream as order_on_tour_stream
from domain.tour_bookings import vehicle_stream as vehicle_tours_stream
from domain.tour_plans import TOUR_PLANS
from domain.transport import VEHICLES
from domain.work import ToursWork
from eventstore import Log
from ml.job import CannotBeDone
from ml.tour_problem import OrderToGo, Tariffs, VehicleAtHand, day_of, shift_of
from readmodels.database import ReadModels, Row

#: Orders in one of these have something that may still go.
_TO_GO = (Status.ALLOCATED, Status.PARTLY_SHIPPED)

# By their lines: those of an order may go from several sites.
_PROMISED = """SELECT o.order_id AS name FROM read_models.order_summary AS o
    WHERE o.organisation_id = %(organisation_id)s
      AND o.status IN ('allocated', 'partly_shipped') AND o.promised_at < %(before)s
      AND EXISTS (SELECT FROM read_models.order_lines AS l
        WHERE l.organisation_id = o.organisation_id AND l.order_id = o.order_id
          AND coalesce(l.site_id, o.site_id) = %(site_id)s
          AND l.quantity > coalesce(l.shipped_in_parts, 0) + coalesce(l.cancelled_by_line, 0)
            + coalesce(l.split_off, 0))
    ORDER BY o.promised_at, o.order_id LIMIT %(limit)s"""

_VEHICLES = """SELECT vehicle_id AS name FROM read_models.vehicle_list
    WHERE organisation_id = %(organisation_id)s AND NOT retired ORDER BY vehicle_id"""

S = TypeVar("S")


class _Name(Row):
    name: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """What is known of a site's day."""

    site: Site
    day: TimeWindow
    orders: tuple[OrderToGo, ...]
    vehicles: tuple[VehicleAtHand, ...]
    without: tuple[Unserved, ...]
    rules: Sequence[RouteRule]
    tariffs: Tariffs


async def gather(log: Log, read: ReadModels, organisation_id: UUID, asked: ToursWork) -> Gathered:
    """What there is to plan: read models say which orders and vehicles, their streams what they
    are."""
    fold = _Folder(log, organisation_id)
    site = (await fold.states(SITES, [site_stream(asked.site_id)]))[0]
    if not site.site_id:
        raise CannotBeDone("tours.site_unknown", f"there is no site {asked.site_id}")
    if site.location is None:
        raise CannotBeDone(
            "tours.site_without_place",
            f"site {asked.site_id} has no location: say where it is by changing it",
        )
    day = day_of(site, asked.day)
    names = list(dict.fromkeys(asked.order_ids or ()))
    if asked.order_ids is None:
        rows = await read.rows(
            _Name, _PROMISED, site_id=asked.site_id, before=day.ends_at, limit=MOST_STOPS + 1
        )
        names = [row.name for row in rows]
    if len(names) > MOST_STOPS:
        told = f"more than {MOST_STOPS} orders are to go: name those that are to be planned"
        raise CannotBeDone("tours.too_many_orders", told)
    given_up = await _to_be_given_up(fold, asked.replaces)
    on_tours = await fold.states(
        TOUR_ORDERS, [order_on_tour_stream(name, asked.site_id) for name in names]
    )
    taken = {
        name: one.tour_id
        for name, one in zip(names, on_tours, strict=True)
        if one.tour_id is not None and one.tour_id not in given_up
    }
    orders = await fold.states(ORDERS, [order_stream(name) for name in names])
    clients = await fold.states(
        CLIENTS, [client_stream(order.customer_id or "-") for order in orders]
    )
    skus = sorted({line.sku for order in orders for line in order.lines})
    products = dict(
        zip(skus, await fold.states(PRODUCTS, [product_stream(s) for s in skus]), strict=True)
    )
    going: list[OrderToGo] = []
    without: list[Unserved] = []
    for name, order, client in zip(names, orders, clients, strict=True):
        reason = _not_ready(name, order, asked, taken)
        if reason is None:
            one = to_go(order, client, products, asked.site_id)
            if asked.order_ids is not None or one.window is None or one.window.overlaps(day):
                going.append(one)
        elif asked.order_ids is not None:  # whoever names an order is told of it
            without.append(reason)
    rules = (await fold.states(ROUTE_RULES, [RULES]))[0]
    vehicles = await _vehicles(fold, read, site, day, given_up)
    return Gathered(
        site=site,
        day=day,
        orders=tuple(going),
        vehicles=vehicles,
        without=tuple(without),
        rules=list(rules.rules.values()),
        tariffs=await _tariffs(fold, vehicles),
    )


def to_go(order: Order, client: Client, products: Mapping[str, Product], site_id: str) -> OrderToGo:
    """An order as a stop: what of it is still open at the site, and where its client is."""
    weight: Decimal | None = Decimal(0)
    volume: Decimal | None = Decimal(0)
    hazards: list[Hazard] = []
    for line in order.lines:
        if (line.site_id or order.site_id) != site_id or not line.open:
            continue
        product = products.get(line.sku, Product())
        grams = product.weight_g if line.weight_g is None else line.weight_g
        room = product.volume_cm3 if line.volume_cm3 is None else line.volume_cm3
        weight = None if weight is None or grams is None else weight + line.open * grams
        volume = None if volume is None or room is None else volume + line.open * room
        if product.hazard is not None:
            hazards.append(product.hazard)
    weight_g = None if weight is None else int(weight.to_integral_value(ROUND_CEILING))
    volume_cm3 = None if volume is None else int(volume.to_integral_value(ROUND_CEILING))
    return OrderToGo(
        order_id=order.order_id,
        point=order.destination or client.location,
        weight_g=weight_g,
        volume_cm3=volume_cm3,
        window=order.delivery_window,
        hours=client.delivery_hours or client.opening_hours,
        service_s=order.service_s,
        goods=Goods(
            weight_g=weight_g,
            volume_cm3=volume_cm3,
            hazards=tuple(hazards),
        ),
        customer_id=order.customer_id or None,
    )


def _not_ready(
    name: str, order: Order, asked: ToursWork, taken: Mapping[str, str]
) -> Unserved | None:
    """Why an order is not to be planned now; None: it is."""
    code, why = Constraint.NOT_READY, ""
    if order.status is Status.UNKNOWN:
        why = "there is no such order"
    elif order.status not in _TO_GO:
        why = f"it is {order.status.value}, and only what is allocated can go"
    elif all((line.site_id or order.site_id) != asked.site_id for line in order.lines):
        why = f"it is allocated to site {order.site_id}, not to {asked.site_id}"
    elif not any(
        line.open for line in order.lines if (line.site_id or order.site_id) == asked.site_id
    ):
        why = f"all of it that goes from {asked.site_id} has left"
    elif name in taken:
        code, why = Constraint.ON_A_TOUR, f"it is on tour {taken[name]} already"
    else:
        return None
    return Unserved(
        order_id=name,
        code=code.value,
        sentence=f"Order {name} cannot be brought: {why}",
        values={"status": order.status.value},
    )


async def _to_be_given_up(fold: _Folder, plan_id: str | None) -> frozenset[str]:
    """The tours of a plan that is to be replaced, but for those on the way."""
    if plan_id is None:
        return frozenset()
    [plan] = await fold.states(TOUR_PLANS, [plan_stream(plan_id)])
    found = await fold.states(tours.TOURS, [tour_stream(name) for name in plan.tour_ids])
    return frozenset(
        name
        for name, tour in zip(plan.tour_ids, found, strict=True)
        if tour.status is tours.Status.PLANNED
    )


async def _vehicles(
    fold: _Folder,
    read: ReadModels,
    site: Site,
    day: TimeWindow,
    given_up: Collection[str],
) -> tuple[VehicleAtHand, ...]:
    """The vehicles that are assigned to the site that day; where there are none, all of the
    site's, in its opening hours. Those that have a tour in that time are not at hand."""
    names = [row.name for row in await read.rows(_Name, _VEHICLES)]
    vehicles = await fold.states(VEHICLES, [vehicle_stream(name) for name in names])
    assigned = await fold.states(ASSIGNMENTS, [assignments_stream(name) for name in names])
    booked = await fold.states(TOUR_VEHICLES, [vehicle_tours_stream(name) for name in names])
    found = [
        VehicleAtHand(
            vehicle,
            TimeWindow(starts_at=one.starts_at, ends_at=one.ends_at),
            one.driver_id,
        )
        for vehicle, its in zip(vehicles, assigned, strict=True)
        for one in sorted(its.made.values(), key=lambda one: one.starts_at)
        if one.site_id == site.site_id
        and not one.is_cancelled
        and not vehicle.is_retired
        and day.starts_at <= one.starts_at < day.ends_at
        and one.starts_at < one.ends_at
    ]
    if not found:
        found = [
            VehicleAtHand(vehicle)
            for vehicle in vehicles
            if vehicle.site_id == site.site_id and not vehicle.is_retired
        ]
    busy = {name: one.without(given_up) for name, one in zip(names, booked, strict=True)}
    free = [
        one
        for one in found
        if (shift := shift_of(site, one, day)) is not None
        and busy[one.vehicle.vehicle_id].clash(shift.starts_at, shift.ends_at) is None
    ]
    first = {one.vehicle.vehicle_id: one for one in reversed(free)}  # one tour a vehicle and plan
    return tuple(first[name] for name in sorted(first))


async def _tariffs(fold: _Folder, vehicles: Sequence[VehicleAtHand]) -> Tariffs:
    """What the organisation has set for the vehicles that are there."""
    modes = sorted({one.vehicle.mode for one in vehicles})
    kinds = sorted(
        {
            (one.vehicle.mode, one.vehicle.fuel or USUAL_FUEL.get(one.vehicle.mode, "none"))
            for one in vehicles
        }
    )
    rates = await fold.states(TARIFFS, [tariff_stream(mode) for mode in modes])
    emitted = await fold.states(EMISSION_FACTORS, [emission_stream(*kind) for kind in kinds])
    return Tariffs(
        {
            mode: (one.rates, one.currency)
            for mode, one in zip(modes, rates, strict=True)
            if one.rates is not None
        },
        {
            kind: one.emission
            for kind, one in zip(kinds, emitted, strict=True)
            if one.emission is not None
        },
    )


class _Folder:
    """Reads streams and folds them, many in one round trip."""

    def __init__(self, log: Log, organisation_id: UUID) -> None:
        self._log, self._organisation_id = log, organisation_id

    async def states(self, decider: Decider[S], streams: Sequence[str]) -> list[S]:
        """The state of each stream; the initial one where there is none."""
        found = await events_of(self._log, self._organisation_id, streams)
        return [decider.fold(found[name]) for name in streams]


async def events_of(
    log: Log, organisation_id: UUID, streams: Sequence[str]
) -> dict[str, list[Any]]:
    """The events of some streams by the streams' names."""
    ids = {name: stream_id(organisation_id, name) for name in streams}
    found = await log.streams(list(ids.values())) if ids else {}
    return {
        name: [decode(one.topic, one.state) for one in found[id_] if type_of(one.topic)]
        for name, id_ in ids.items()
    }
