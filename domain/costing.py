"""What a tour costs and emits, and which part of it each order has.

All sums are exact: money in whole minor units, emissions in whole grams of CO2e, rounded once, half
upwards. What is parted among orders sums up to the whole (largest remainder).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor

from domain.routing import Emission, Rates
from domain.values import Value


class CostParts(Value):
    """What a tour costs, in minor units; ``total`` is the sum of the others."""

    fixed: int
    distance: int
    toll: int
    time: int
    stops: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.fixed + self.distance + self.toll + self.time + self.stops


class Leg(Value):
    """One way between two places with the load that the vehicle has on it."""

    distance_m: int
    load_g: int


def cost(rates: Rates, *, distance_m: int, duration_s: int, stops: int) -> CostParts:
    """What a tour of so many metres, seconds and stops costs.

    Time is from leaving the depot to being back, waiting included: the driver is paid for it.
    """
    return CostParts(
        fixed=rates.fixed_minor,
        distance=_rounded(Fraction(rates.per_km_minor * distance_m, 1000)),
        toll=_rounded(Fraction(rates.toll_per_km_minor * distance_m, 1000)),
        time=_rounded(Fraction(rates.per_hour_minor * duration_s, 3600)),
        stops=rates.per_stop_minor * stops,
    )


def carbon_g(emission: Emission, legs: Sequence[Leg], max_load_g: int | None) -> int:
    """Grams of CO2e that a vehicle emits on some legs, well to wheel.

    Between empty and full it grows in a straight line with the load, as handbooks have it (DSLV,
    Calculating GHG emissions for freight forwarding and logistics services, 2013, section on
    trucks). A vehicle whose limit is not known counts as half full.
    """
    total = Fraction(0)
    for leg in legs:
        share = Fraction(1, 2)
        if max_load_g is not None:
            share = (
                min(Fraction(leg.load_g, max_load_g), Fraction(1)) if max_load_g else Fraction(0)
            )
        per_km = emission.empty_mg_per_km + share * (
            emission.full_mg_per_km - emission.empty_mg_per_km
        )
        total += per_km * leg.distance_m / 1_000_000  # milligrams a kilometre, metres
    return _rounded(total)


def freight_carbon_g(g_per_tkm: int, *, weight_g: int, distance_m: int) -> int:
    """Grams of CO2e of goods that are carried by the tonne and kilometre: rail, sea, air."""
    return _rounded(Fraction(g_per_tkm * weight_g * distance_m, 10**9))


def part(whole: int, weights: Sequence[int]) -> tuple[int, ...]:
    """A whole in parts as weights are, which sum up to it (largest remainder, Hamilton's method: of
    equal remainders the earlier one). Where no weight is above zero, all are alike.

    Raises:
        ValueError: there is nobody to part it among, or a weight is below zero.
    """
    if not weights or min(weights) < 0:
        raise ValueError(f"weights: at least one, none below zero, got {list(weights)}")
    given = list(weights) if any(weights) else [1] * len(weights)
    quotas = [Fraction(abs(whole) * weight, sum(given)) for weight in given]
    parts = [floor(quota) for quota in quotas]
    order = sorted(range(len(given)), key=lambda n: (parts[n] - quotas[n], n))
    for n in order[: abs(whole) - sum(parts)]:
        parts[n] += 1
    return tuple(parts if whole >= 0 else [-value for value in parts])


def shares(whole: int, orders: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """A tour's cost or emissions in parts, one for each order's (weight in grams, metres from the
    depot): by weight times direct distance, the transport activity of ISO 14083:2023. An order
    whose weight is not known counts as the lightest that is: as one gram, where none is."""
    known = [weight for weight, _ in orders if weight > 0]
    light = min(known, default=1)
    return part(whole, [(weight or light) * max(metres, 1) for weight, metres in orders])


def _rounded(value: Fraction) -> int:
    return floor(value + Fraction(1, 2))
