"""Loads: the goods on a vehicle, as rules of the road ask, and the tunnels closed to them.

ADR: Agreement concerning the International Carriage of Dangerous Goods by Road (UNECE). Tunnel
categories: 1.9.5; restriction codes: 8.6.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from domain.hazards import Hazard, HazardClass
from domain.values import Value, is_stored

#: Category of a tunnel, from the least to the most restricted; category A lets everything through.
TunnelCategory = Literal["B", "C", "D", "E"]

#: For codes of two parts: the first category that is closed to a large load (in tanks or in bulk,
#: or above a net explosive mass in grams), and the first that is closed to any other.
_OF_TWO: dict[str, tuple[str, str, int | None]] = {
    "B1000C": ("B", "C", 1_000_000),
    "B/D": ("B", "D", None),
    "B/E": ("B", "E", None),
    "C5000D": ("C", "D", 5_000_000),
    "C/D": ("C", "D", None),
    "C/E": ("C", "E", None),
    "D/E": ("D", "E", None),
}


def _each_once(values: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    if len(set(values)) < len(values) and not is_stored(info):
        raise ValueError(f"each is named once, got {', '.join(values)}")
    return tuple(sorted(values))


HazardClasses = Annotated[tuple[HazardClass, ...], Field(max_length=22), AfterValidator(_each_once)]


class Goods(Value):
    """What a vehicle carries. ``weight_g``, ``volume_cm3``: of the whole load. ``in_bulk``: in
    tanks or loose, not in packages. ``explosive_mass_g``: net explosive mass of class 1."""

    weight_g: Annotated[int, Field(ge=0, le=10**9)] | None = None
    volume_cm3: Annotated[int, Field(ge=0, le=10**12)] | None = None
    hazards: Annotated[tuple[Hazard, ...], Field(max_length=500)] = ()
    in_bulk: bool = False
    explosive_mass_g: Annotated[int, Field(ge=0, le=10**9)] | None = None

    @property
    def hazard_classes(self) -> tuple[str, ...]:
        """The classes of its dangerous goods, each once."""
        return tuple(sorted({hazard.hazard_class for hazard in self.hazards}))


def same_class(one: str, other: str) -> bool:
    """Whether two classes may be the same: class 1 holds 1.4, and what is said to be of class 1
    only may be of 1.4."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def closed_to(category: TunnelCategory, goods: Goods) -> Sequence[str]:
    """The tunnel codes that keep goods out of tunnels of a category, each once; none: let through.

    A load whose net explosive mass is not told is taken to be a large one.
    """
    codes = {hazard.tunnel_code for hazard in goods.hazards} - {None}
    return sorted(code for code in codes if code and _first_closed(code, goods) <= category)


def _first_closed(code: str, goods: Goods) -> str:
    if code not in _OF_TWO:
        return code
    large, other, limit_g = _OF_TWO[code]
    if limit_g is None:
        return large if goods.in_bulk else other
    mass_g = goods.explosive_mass_g
    return large if mass_g is None or mass_g > limit_g else other
