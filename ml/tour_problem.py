"""The routing problem of a site's day: its orders, vehicles, rules and rates, made into numbers.

What cannot be planned whatever the vehicles do (a place that nobody knows, a client that is closed
all day) is said here; everything else is for ``ml.feasibility`` and the solver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from domain.errors import Refused
from domain.factors import COST_CURRENCY, RATES, SERVICE_S, SHIFT_HOURS, USUAL_FUEL, emission
from domain.loads import Goods
from domain.places import Point
from domain.route_rules import RouteRule, broken
from domain.routing import (
    Constraint,
    Emission,
    Problem,
    Rates,
    RoutedStop,
    RoutedVehicle,
    Span,
    Unserved,
)
from domain.sites import Site
from domain.time_windows import OpeningHours, TimeWindow
from domain.transport import Vehicle, must_carry
from ml.judging import Judge
from ml.travel_time import ways

#: Rules with hours are asked in steps of so many seconds.
_STEP_S = 900
#: A day goes on until so many hours after its midnight: night tours end in the next one.
_LONGEST_H = 36


class CurrenciesDiffer(Exception):
    """Vehicles whose costs are told in several currencies cannot be weighed against each other."""


@dataclass(frozen=True, slots=True)
class OrderToGo:
    """An order that is to go: where, how much, when. ``hours``: of its client; they count where the
    order has no window of its own. None: not known."""

    order_id: str
    point: Point | None
    weight_g: int | None
    volume_cm3: int | None
    window: TimeWindow | None
    hours: OpeningHours | None
    service_s: int | None
    goods: Goods
    customer_id: str | None = None


@dataclass(frozen=True, slots=True)
class VehicleAtHand:
    """A vehicle that may be used, between which times; None: the site's usual ones."""

    vehicle: Vehicle
    window: TimeWindow | None = None
    driver_id: str | None = None


@dataclass(frozen=True, slots=True)
class Tariffs:
    """What an organisation has set in the place of the defaults: rates with their currency by mode,
    emissions by mode and fuel."""

    rates: Mapping[str, tuple[Rates, str]]
    emissions: Mapping[tuple[str, str], Emission]


NO_TARIFFS = Tariffs({}, {})


def day_of(site: Site, day: date) -> TimeWindow:
    """A day as the clock of the site has it; of a site that has none, as UTC has it."""
    zone = ZoneInfo(site.opening_hours.zone) if site.opening_hours is not None else UTC
    starts = datetime.combine(day, time(), zone).astimezone(UTC)
    ends = datetime.combine(day + timedelta(days=1), time(), zone).astimezone(UTC)
    return TimeWindow(starts_at=starts, ends_at=ends)


def problem_of(
    site: Site,
    day: date,
    orders: Sequence[OrderToGo],
    vehicles: Sequence[VehicleAtHand],
    rules: Iterable[RouteRule],
    tariffs: Tariffs = NO_TARIFFS,
    travel: Judge | None = None,
) -> tuple[Problem, tuple[VehicleAtHand, ...]]:
    """The problem of a day, and the vehicles of it that are there at all that day.
    ``travel``: what says how long ways take; None: the rule.

    Raises:
        CurrenciesDiffer: vehicles cost money of several currencies.
        ValueError: the site's own place is not known.
    """
    if site.location is None:
        raise ValueError(f"site {site.site_id} has no location: change the site first")
    whole = day_of(site, day)
    here = [(one, shift) for one in vehicles if (shift := shift_of(site, one, whole)) is not None]
    currency = _currency([one.vehicle for one, _ in here], tariffs)
    limited = bool(here) and all(one.vehicle.max_weight_g is not None for one, _ in here)
    without: list[Unserved] = []
    going: list[tuple[OrderToGo, Point, tuple[TimeWindow, ...]]] = []
    for order in orders:
        windows = _windows(order, whole)
        reason = _cannot(order, windows, whole, limited)
        if reason is not None:
            without.append(reason)
        elif order.point is not None:
            going.append((order, order.point, windows))
    rules = list(rules)
    laws = [_legal(order, point, windows, here, rules) for order, point, windows in going]
    modes = list(dict.fromkeys(one.vehicle.mode for one, _ in here)) or ["van"]
    routed = tuple(
        RoutedVehicle(
            vehicle_id=one.vehicle.vehicle_id,
            profile=modes.index(one.vehicle.mode),
            max_weight_g=one.vehicle.max_weight_g,
            max_volume_cm3=one.vehicle.max_volume_cm3,
            from_s=_second(whole, shift.starts_at),
            to_s=_second(whole, shift.ends_at),
            rates=rates_of(one.vehicle, tariffs),
            emission=emission_of(one.vehicle, tariffs),
            may_not_serve=tuple(
                order.order_id
                for (order, _, _), law in zip(going, laws, strict=True)
                if one.vehicle.vehicle_id in law.kept_off
            ),
        )
        for one, shift in here
    )
    stops = tuple(
        RoutedStop(
            order_id=order.order_id,
            point=point,
            weight_g=order.weight_g or 0,
            volume_cm3=order.volume_cm3 or 0,
            service_s=SERVICE_S if order.service_s is None else order.service_s,
            windows=tuple(
                Span(
                    from_s=_second(whole, window.starts_at),
                    to_s=max(_second(whole, window.ends_at) - 1, _second(whole, window.starts_at)),
                )
                for window in law.windows
            ),
            forbidden=law.sentences,
        )
        for (order, point, _), law in zip(going, laws, strict=True)
    )
    problem = Problem(
        site_id=site.site_id,
        origin=whole.starts_at,
        depot=site.location,
        currency=currency,
        profiles=ways(modes, whole.starts_at, site.location, stops, routed, travel),
        vehicles=routed,
        without=tuple(without),
        stops=stops,
    )
    return problem, tuple(one for one, _ in here)


def rates_of(vehicle: Vehicle, tariffs: Tariffs) -> Rates:
    """What a vehicle costs: as was said of itself, else of its mode, else by default."""
    if vehicle.currency is not None:
        return Rates(
            fixed_minor=vehicle.fixed_cost_minor or 0,
            per_km_minor=vehicle.cost_per_km_minor or 0,
            per_hour_minor=vehicle.cost_per_hour_minor or 0,
        )
    set_by_them = tariffs.rates.get(vehicle.mode)
    return RATES[vehicle.mode] if set_by_them is None else set_by_them[0]


def emission_of(vehicle: Vehicle, tariffs: Tariffs) -> Emission | None:
    """What a vehicle emits: as was set for its mode and fuel, else by default."""
    found = tariffs.emissions.get(
        (vehicle.mode, vehicle.fuel or USUAL_FUEL.get(vehicle.mode, "none"))
    )
    return emission(vehicle.mode, vehicle.fuel) if found is None else found


def _currency(vehicles: Sequence[Vehicle], tariffs: Tariffs) -> str:
    by_vehicle = {
        one.vehicle_id: one.currency
        or (tariffs.rates[one.mode][1] if one.mode in tariffs.rates else COST_CURRENCY)
        for one in vehicles
    }
    found = sorted(set(by_vehicle.values()))
    if len(found) > 1:
        told = ", ".join(f"{name} in {code}" for name, code in sorted(by_vehicle.items()))
        raise CurrenciesDiffer(f"the vehicles' costs are told in {' and '.join(found)}: {told}")
    return found[0] if found else COST_CURRENCY


def shift_of(site: Site, one: VehicleAtHand, whole: TimeWindow) -> TimeWindow | None:
    """From when to when a vehicle is at hand on a whole day; None: it is not."""
    if one.window is not None:
        longest = whole.starts_at + timedelta(hours=_LONGEST_H)
        starts = max(one.window.starts_at, whole.starts_at)
        ends = min(one.window.ends_at, longest)
        begins_that_day = starts < min(ends, whole.ends_at)
        return TimeWindow(starts_at=starts, ends_at=ends) if begins_that_day else None
    if site.opening_hours is not None:
        spans = site.opening_hours.windows(whole)
        if not spans:
            return None
        return TimeWindow(starts_at=spans[0].starts_at, ends_at=spans[-1].ends_at)
    first, last = (whole.starts_at + timedelta(hours=hour) for hour in SHIFT_HOURS)
    return TimeWindow(starts_at=first, ends_at=last)


def _windows(order: OrderToGo, whole: TimeWindow) -> tuple[TimeWindow, ...]:
    """When an order may be handed over that day; empty where it may not, or where nothing is
    said."""
    if order.window is not None:
        starts = max(order.window.starts_at, whole.starts_at)
        ends = min(order.window.ends_at, whole.ends_at)
        return (TimeWindow(starts_at=starts, ends_at=ends),) if starts < ends else ()
    return () if order.hours is None else order.hours.windows(whole)


def _cannot(
    order: OrderToGo, windows: tuple[TimeWindow, ...], whole: TimeWindow, limited: bool
) -> Unserved | None:
    """Why an order cannot be planned at all; None: it can."""
    day = f"{whole.starts_at:%Y-%m-%d %H:%M} UTC"
    code, why = None, ""
    if order.point is None:
        code = Constraint.NO_PLACE
        why = "neither it nor its client says where it is to go"
    elif order.weight_g is None and limited:
        code = Constraint.NO_WEIGHT
        why = "neither its lines nor their products say what it weighs"
    elif order.window is not None and not windows:
        code = Constraint.ANOTHER_DAY
        window = order.window
        starts, ends = f"{window.starts_at:%Y-%m-%d %H:%M}", f"{window.ends_at:%Y-%m-%d %H:%M}"
        why = f"its window is from {starts} to {ends} UTC"
    elif order.hours is not None and order.window is None and not windows:
        code = Constraint.CLOSED
        why = "its client is closed all day"
    if code is None:
        return None
    return Unserved(
        order_id=order.order_id,
        code=code.value,
        sentence=f"Order {order.order_id} cannot be brought: {why}",
        values={"day_begins": day},
    )


@dataclass(frozen=True, slots=True)
class _Law:
    """When an order may be handed over, by whom not, and why not."""

    windows: tuple[TimeWindow, ...]
    kept_off: frozenset[str]
    sentences: tuple[str, ...]


def _legal(
    order: OrderToGo,
    point: Point,
    windows: tuple[TimeWindow, ...],
    vehicles: Sequence[tuple[VehicleAtHand, TimeWindow]],
    rules: Sequence[RouteRule],
) -> _Law:
    """What the rules of the road leave of an order's windows and vehicles.

    A vehicle is kept off an order if it breaks a rule at any time at which it could stand there.
    Where that leaves nobody, the windows are made narrower for the vehicle that may the longest.
    """
    unfit = {one.vehicle.vehicle_id: why for one, _ in vehicles if (why := _unfit(one, order))}
    if len(unfit) == len(vehicles):
        return _Law(windows, frozenset(unfit), tuple(unfit.values())[:3])
    near = [rule for rule in rules if rule.zone.contains(point)]
    if not near:
        return _Law(windows, frozenset(unfit), tuple(unfit.values())[:3])
    vehicles = [(one, shift) for one, shift in vehicles if one.vehicle.vehicle_id not in unfit]
    allowed: dict[str, list[TimeWindow]] = {}
    sentences: dict[str, str] = {}
    whole: dict[str, int] = {}
    for one, shift in vehicles:
        id_ = one.vehicle.vehicle_id
        allowed[id_], whole[id_] = [], 0
        for step in _steps(windows or (shift,), shift):
            whole[id_] += step.seconds
            found = broken(near, one.vehicle, order.goods, point, step.starts_at)
            if found:
                sentences.setdefault(f"{id_} {found[0].rule_id}", found[0].sentence)
            else:
                allowed[id_].append(step)
    free = {id_ for id_, steps in allowed.items() if _long(steps) == whole[id_]}
    if not free:
        best = max(allowed, key=lambda id_: (_long(allowed[id_]), id_))
        windows = _joined(allowed[best])
        free = {
            id_
            for id_, steps in allowed.items()
            if windows and _long(steps) >= _long(allowed[best]) and _joined(steps) == windows
        }
    kept_off = (frozenset(allowed) - free) | frozenset(unfit)
    said = [text for key, text in sorted(sentences.items()) if key.split(" ")[0] in kept_off]
    return _Law(windows, kept_off, tuple([*unfit.values(), *said][:3]))


def _unfit(one: VehicleAtHand, order: OrderToGo) -> str | None:
    """Why a vehicle may not carry an order's dangerous goods anywhere; None: it may."""
    try:
        must_carry(one.vehicle, Goods(hazards=order.goods.hazards))
    except Refused as refusal:
        return refusal.detail
    return None


def _steps(windows: Sequence[TimeWindow], shift: TimeWindow) -> list[TimeWindow]:
    found: list[TimeWindow] = []
    for window in windows:
        at, end = max(window.starts_at, shift.starts_at), min(window.ends_at, shift.ends_at)
        while at < end:
            after = min(at + timedelta(seconds=_STEP_S), end)
            found.append(TimeWindow(starts_at=at, ends_at=after))
            at = after
    return found


def _joined(steps: Sequence[TimeWindow]) -> tuple[TimeWindow, ...]:
    found: list[TimeWindow] = []
    for step in steps:
        if found and found[-1].ends_at == step.starts_at:
            step = TimeWindow(starts_at=found.pop().starts_at, ends_at=step.ends_at)
        found.append(step)
    return tuple(found)


def _long(steps: Sequence[TimeWindow]) -> int:
    return sum(step.seconds for step in steps)


def _second(whole: TimeWindow, at: datetime) -> int:
    return max(int((at - whole.starts_at).total_seconds()), 0)
