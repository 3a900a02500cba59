"""Why an order cannot be brought: which constraint keeps it off, in words and with its values.

First each order is looked at alone (``alone``): if not even a vehicle that takes nothing else could
bring it, the first constraint that no vehicle meets is the reason. What is left out of the tours
although it could go alone is left out because of the others (``together``): constraints are lifted
one by one, and the first one without which it could go too is the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from domain.routing import (
    Constraint,
    Problem,
    RoutedStop,
    RoutedVehicle,
    Unserved,
    moment,
)

#: Whether all that was taken and one more stop can be brought under the terms of a problem.
Fits = Callable[[Problem, RoutedStop], bool]
#: So many orders are looked at one by one; of the others only the constraint of all is told.
_MOST_TRIED = 10
_Values = dict[str, int | float | str]


def alone(problem: Problem) -> dict[str, Unserved]:
    """The orders that no vehicle could bring even alone, by order, each with its reason."""
    found: dict[str, Unserved] = {}
    for number, stop in enumerate(problem.stops, start=1):
        reason = _keeps_off(problem, number, stop)
        if reason is not None:
            found[stop.order_id] = reason
    return found


def together(
    problem: Problem, kept: Sequence[RoutedStop], left: Sequence[RoutedStop], fits: Fits
) -> list[Unserved]:
    """Why orders that could each go alone were left behind."""
    over = _above_all(problem, kept)
    found: list[Unserved] = []
    for number, stop in enumerate(left):
        if over is not None:
            found.append(_unserved(stop, *over))
        elif number >= _MOST_TRIED:
            found.append(_unserved(stop, *_UNKNOWN))
        else:
            found.append(_lifted(problem, stop, fits))
    return found


def _keeps_off(problem: Problem, number: int, stop: RoutedStop) -> Unserved | None:
    """What keeps an order off every vehicle; None: nothing does."""
    if not problem.vehicles:
        return _unserved(stop, Constraint.NO_VEHICLE, "no vehicle is free to bring it", {})
    left = [v for v in problem.vehicles if stop.order_id not in v.may_not_serve]
    if not left:
        told = "; ".join(stop.forbidden) or "rules keep every vehicle from it"
        values: _Values = {"vehicles": len(problem.vehicles)}
        return _unserved(stop, Constraint.LEGAL, f"no vehicle may go there: {told}", values)
    for code, demand, limit, unit in (
        (Constraint.WEIGHT, stop.weight_g, "max_weight_g", "g"),
        (Constraint.VOLUME, stop.volume_cm3, "max_volume_cm3", "cm3"),
    ):
        roomy = [v for v in left if (most := getattr(v, limit)) is None or demand <= most]
        if not roomy:
            most = max(getattr(v, limit) for v in left)
            word = "heavy" if code is Constraint.WEIGHT else "voluminous"
            sentence = f"it is too {word}: {demand} {unit}, and the largest vehicle takes {most}"
            name = "weight_g" if code is Constraint.WEIGHT else "volume_cm3"
            return _unserved(stop, code, sentence, {name: demand, limit: most})
        left = roomy
    reasons = [_in_time(problem, vehicle, number, stop) for vehicle in left]
    if None in reasons:
        return None
    # Several vehicles may fail for several reasons: the first of these is told.
    order = [Constraint.DISTANCE, Constraint.WINDOW, Constraint.TIME_TOGETHER, Constraint.SHIFT]
    known = [reason for reason in reasons if reason is not None]
    return min(known, key=lambda reason: order.index(Constraint(reason.code)))


def _in_time(
    problem: Problem, vehicle: RoutedVehicle, number: int, stop: RoutedStop
) -> Unserved | None:
    """What keeps an order off a vehicle that takes nothing else."""
    profile = problem.profiles[vehicle.profile]
    out, back = profile.duration_s[0][number], profile.duration_s[number][0]
    far = profile.distance_m[0][number] + profile.distance_m[number][0]
    if vehicle.max_distance_m is not None and far > vehicle.max_distance_m:
        values: _Values = {"distance_m": far, "max_distance_m": vehicle.max_distance_m}
        sentence = f"there and back is {far} m, and a vehicle may go {vehicle.max_distance_m} m"
        return _unserved(stop, Constraint.DISTANCE, sentence, values)
    arrives, last = vehicle.from_s + out, vehicle.to_s - back - stop.service_s

    def clock(second: int) -> str:
        return moment(problem.origin, second).strftime("%Y-%m-%d %H:%M UTC")

    if last < arrives or (
        vehicle.max_duration_s is not None and out + stop.service_s + back > vehicle.max_duration_s
    ):
        needs = out + stop.service_s + back
        has = min(vehicle.to_s - vehicle.from_s, vehicle.max_duration_s or vehicle.to_s)
        sentence = f"there, service and back take {needs} s, and the longest shift has {has} s"
        return _unserved(
            stop, Constraint.TIME_TOGETHER, sentence, {"needs_s": needs, "shift_s": has}
        )
    if not stop.windows:
        return None
    if all(span.to_s < arrives for span in stop.windows):
        closes = max(span.to_s for span in stop.windows)
        sentence = (
            f"its window closes at {clock(closes)}, and the earliest arrival is {clock(arrives)}"
        )
        values = {"closes_at": clock(closes), "earliest_arrival": clock(arrives)}
        return _unserved(stop, Constraint.WINDOW, sentence, values)
    if not any(max(span.from_s, arrives) <= min(span.to_s, last) for span in stop.windows):
        opens = min(span.from_s for span in stop.windows if span.to_s >= arrives)
        sentence = (
            f"its window opens at {clock(opens)}, and to be back in its shift a vehicle must have "
            f"come by {clock(last)}"
        )
        values = {"opens_at": clock(opens), "latest_arrival": clock(last)}
        return _unserved(stop, Constraint.SHIFT, sentence, values)
    return None


def _above_all(
    problem: Problem, stops: Sequence[RoutedStop]
) -> tuple[Constraint, str, _Values] | None:
    """Whether all orders together are more than all vehicles take."""
    for code, demand, limit, what in (
        (Constraint.TOTAL_WEIGHT, "weight_g", "max_weight_g", "g"),
        (Constraint.TOTAL_VOLUME, "volume_cm3", "max_volume_cm3", "cm3"),
    ):
        limits = [getattr(vehicle, limit) for vehicle in problem.vehicles]
        if None in limits:
            continue
        wanted, room = sum(getattr(stop, demand) for stop in stops), sum(limits)
        if wanted > room:
            sentence = (
                f"all orders together are {wanted} {what}, and all vehicles together take {room}"
            )
            return code, sentence, {demand: wanted, "capacity": room}
    return None


_UNKNOWN: tuple[Constraint, str, _Values] = (
    Constraint.TOGETHER,
    "it can go alone, but not beside the orders that were taken",
    {},
)


def _lifted(problem: Problem, stop: RoutedStop, fits: Fits) -> Unserved:
    """The first constraint without which a stop could go beside those that were taken."""
    served = len(problem.stops)
    tries: Mapping[Constraint, tuple[Problem, str]] = {
        Constraint.WINDOWS_TOGETHER: (
            _stops(problem, windows=()),
            "its time window and those of the others cannot all be kept: without windows it fits",
        ),
        Constraint.CAPACITY_TOGETHER: (
            _vehicles(problem, max_weight_g=None, max_volume_cm3=None),
            "the vehicles are full: with room for more it fits",
        ),
        Constraint.TIME_TOGETHER: (
            _vehicles(
                problem, to_s=10 * max(v.to_s for v in problem.vehicles), max_duration_s=None
            ),
            "the shifts are too short for one more stop: with longer ones it fits",
        ),
        Constraint.VEHICLES_TOGETHER: (
            _more(problem),
            "there are too few vehicles: with twice as many it fits",
        ),
    }
    for code, (other, sentence) in tries.items():
        if fits(other, stop):
            values: _Values = {"orders": served, "vehicles": len(problem.vehicles)}
            return _unserved(stop, code, sentence, values)
    return _unserved(stop, *_UNKNOWN)


def _stops(problem: Problem, **changes: object) -> Problem:
    changed = tuple(stop.model_copy(update=changes) for stop in problem.stops)
    return problem.model_copy(update={"stops": changed})


def _vehicles(problem: Problem, **changes: object) -> Problem:
    changed = tuple(vehicle.model_copy(update=changes) for vehicle in problem.vehicles)
    return problem.model_copy(update={"vehicles": changed})


def _more(problem: Problem) -> Problem:
    again = (v.model_copy(update={"vehicle_id": f"{v.vehicle_id} again"}) for v in problem.vehicles)
    return problem.model_copy(update={"vehicles": (*problem.vehicles, *again)})


def _unserved(stop: RoutedStop, code: Constraint, sentence: str, values: _Values) -> Unserved:
    return Unserved(
        order_id=stop.order_id,
        code=code.value,
        sentence=f"Order {stop.order_id} cannot be brought: {sentence}",
        values=values,
    )
