"""How far and how long it is between two places, by the mode of the vehicle.

Rules say it (great circle, detour, speeds: ``domain.factors`` has the numbers and their sources).
How long ways take a deployed model of ``travel_time`` says in the rule's place, under its hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from domain.factors import TRAVEL, Travel
from domain.places import EARTH_RADIUS_M, Point, distance_m
from domain.routing import Profile, rectangle

#: What an answer of the rules is called.
RULE_BASED = "rule_based"
#: Metres that are so near to the middle between two whole ones are reckoned one by one.
_NEAR_HALF_M = 1e-4
#: Shares of a great circle's half beyond which a sine's last bit is worth more than that.
_FAR = 0.99
#: Whole numbers from each place to each.
Whole = np.ndarray[tuple[int, int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Way:
    """A way between two places; ``estimate``: what the numbers come from."""

    distance_m: int
    duration_s: int
    estimate: str


class Times(Protocol):
    """What says how long ways take, in the place of the rule."""

    @property
    def estimate(self) -> str:
        """The hash that plans name it by."""

    def seconds(self, mode: str, metres: Whole, by_rule: Whole) -> Whole:
        """From each place to each, of vehicles of a mode; the first place is the depot."""


def travel(mode: str, start: Point, end: Point) -> Way:
    """The way from one place to another for vehicles of a mode.

    Length: haversine distance times the mode's detour factor. Time: the first kilometres at the
    mode's speed in towns, the rest at its speed between them.

    Raises:
        KeyError: there is no such mode.
    """
    factors = TRAVEL[mode]
    # Rounded before anything else: what comes after is whole numbers, the same on every machine.
    metres = round(distance_m(start, end)) * factors.detour_permille // 1000
    return Way(metres, _seconds(factors, metres), RULE_BASED)


def profile(mode: str, places: Sequence[Point], times: Times | None = None) -> Profile:
    """The ways between places, as a problem has them; the first place is the depot. ``times``: says
    how long they take; None: the rule."""
    factors = TRAVEL[mode]
    metres = straight(places) * factors.detour_permille // 1000
    near = np.minimum(metres, factors.near_m)
    seconds = _above(near * 18, factors.near_kmh * 5)
    seconds += _above((metres - near) * 18, factors.far_kmh * 5)
    if times is not None:
        seconds = times.seconds(mode, metres, seconds)
    return Profile(
        mode=mode,
        estimate=RULE_BASED if times is None else times.estimate,
        distance_m=rectangle(metres.tolist()),
        duration_s=rectangle(seconds.tolist()),
    )


def straight(places: Sequence[Point]) -> Whole:
    """The whole metres of the great circles between places: those of ``distance_m``, all at once.

    Problems are known by the hash of their numbers, and sines of arrays may differ in the last
    bit from those of single numbers: where that could make another whole metre, it is asked.
    """
    latitudes = np.radians([place.latitude for place in places])
    longitudes = np.array([place.longitude for place in places])
    half_lat = np.sin((latitudes[None, :] - latitudes[:, None]) / 2)
    half_lon = np.sin(np.radians(longitudes[None, :] - longitudes[:, None]) / 2)
    share = half_lat**2 + np.cos(latitudes)[:, None] * np.cos(latitudes) * half_lon**2
    metres = 2 * EARTH_RADIUS_M * np.arcsin(np.minimum(1.0, np.sqrt(share)))
    whole: Whole = np.rint(metres).astype(np.int64)
    doubtful = (np.abs(metres - np.floor(metres) - 0.5) < _NEAR_HALF_M) | (share > _FAR)
    for start, end in np.argwhere(doubtful).tolist():
        whole[start, end] = round(distance_m(places[start], places[end]))
    return whole


def rule_seconds(mode: str, metres: int) -> int:
    """How long the rule has vehicles of a mode take for a way of so many metres."""
    return _seconds(TRAVEL[mode], metres)


def _seconds(factors: Travel, metres: int) -> int:
    near = min(metres, factors.near_m)
    # Metres times 3.6 over kilometres an hour, upwards: nobody is to be promised too much. As
    # ``profile`` has it of all ways at once.
    parts = (near * 18, factors.near_kmh * 5), ((metres - near) * 18, factors.far_kmh * 5)
    return sum(-(-above // below) for above, below in parts)


def _above(above: Whole, below: int) -> Whole:
    """The quotients, upwards."""
    found: Whole = -(-above // below)
    return found
