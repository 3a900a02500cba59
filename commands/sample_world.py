"""The made-up company of the sample year: where it is, what it sells, how fast it and its carriers
are. Figures only; what happens in it is in sample_year.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import time
from math import sqrt
from random import Random

from domain.sites import ServiceLevel
from domain.vehicle_kinds import Mode

HOUR = 3_600
DAY = 24 * HOUR
#: Sites work from 6 to 20 o'clock, Monday to Saturday.
OPENS, CLOSES = 6 * HOUR, 20 * HOUR

#: Demand by weekday (Monday first), by month, and by hour of the day.
WEEKDAYS = (1.25, 1.15, 1.05, 1.0, 1.0, 0.7, 0.85)
MONTHS = (0.85, 0.8, 0.95, 1.0, 1.0, 0.95, 0.85, 0.8, 1.0, 1.05, 1.45, 1.3)
HOURS = (1, 1, 1, 1, 1, 2, 4, 6, 9, 11, 12, 12, 12, 11, 11, 11, 10, 11, 13, 15, 15, 12, 7, 3)


@dataclass(frozen=True, slots=True)
class Place:
    """A customer region: where it lies (km) and its share of the demand."""

    code: str
    x: int
    y: int
    share: float


REGIONS = (
    Place("NL", 0, 0, 0.12),
    Place("BE", -30, -150, 0.08),
    Place("DE-NW", 180, -60, 0.16),
    Place("DE-BE", 590, 30, 0.10),
    Place("DE-BY", 500, -430, 0.11),
    Place("FR-N", -180, -380, 0.13),
    Place("FR-S", 50, -950, 0.07),
    Place("IT-N", 330, -760, 0.08),
    Place("ES-C", -700, -1250, 0.05),
    Place("AT", 800, -420, 0.04),
    Place("PL", 1050, 20, 0.04),
    Place("DK", 430, 400, 0.02),
)


@dataclass(frozen=True, slots=True)
class Speed:
    """How a service level moves: hours before it starts to roll, and kilometres an hour."""

    base_h: float
    km_h: float
    saturdays: bool


SPEEDS = {
    "economy": Speed(30.0, 13.0, saturdays=False),
    "standard": Speed(17.0, 21.0, saturdays=False),
    "express": Speed(8.0, 42.0, saturdays=True),
}


#: Where sites may not send to: no carrier has a licence for it.
FORBIDDEN = (("S-MIL", "DK"), ("S-LIL", "PL"))


@dataclass(frozen=True, slots=True)
class Vehicle:
    """What a site sends orders with. ``share``: how much of the site's capacity it takes a day."""

    vehicle_id: str
    mode: Mode
    levels: tuple[str, ...]
    share: float
    max_weight_g: int | None = None
    cost_minor: int = 0
    carbon_g: int = 0

    def carries(self, level: str, weight_g: int) -> bool:
        """Whether it serves a level and bears the weight."""
        bears = self.max_weight_g is None or weight_g <= self.max_weight_g
        return level in self.levels and bears

    def slowness(self, at_home: bool) -> float:
        """What it makes of the time on the road; bicycles are quick within their own region."""
        match self.mode:
            case "truck":
                return 1.12
            case "cargo_bike":
                return 0.9 if at_home else 1.15
        return 1.0


@dataclass(slots=True)
class Site:
    """A site while the year runs. ``free_at``: when it has worked off what it was given."""

    site_id: str
    name: str
    region: Place
    share: float
    levels: tuple[ServiceLevel, ...]
    vehicles: tuple[Vehicle, ...]
    capacity: int = 1
    free_at: int = 0
    stock: dict[str, int] = field(default_factory=dict)
    target: dict[str, int] = field(default_factory=dict)

    def distance_to(self, place: Place) -> float:
        """Kilometres to a region, 40 within the own one."""
        dx, dy = self.region.x - place.x, self.region.y - place.y
        return max(40.0, sqrt(dx * dx + dy * dy))


def sites() -> list[Site]:
    """The six sites; each has prices of its own, two have no express, two have a cargo bike."""
    rows = (
        ("AMS", "Amsterdam", 0, 0.19, 0, True, True),
        ("ESS", "Essen", 2, 0.20, -20, True, False),
        ("LEJ", "Leipzig", 3, 0.16, -60, True, False),
        ("MUC", "Munich", 4, 0.15, 30, True, False),
        ("LIL", "Lille", 5, 0.16, 10, False, True),
        ("MIL", "Milan", 7, 0.14, -30, False, False),
    )
    made = []
    for code, name, region, share, extra, express, bike in rows:
        levels = _levels(extra, express)
        vehicles = _vehicles(code, {level.code for level in levels}, bike)
        made.append(Site(f"S-{code}", name, REGIONS[region], share, levels, vehicles))
    return made


def _levels(extra: int, express: bool) -> tuple[ServiceLevel, ...]:
    slow = (
        ServiceLevel(
            code="economy",
            cost_minor=390 + extra,
            carbon_g=350,
            max_weight_g=20_000,
            transit_s=5 * DAY,
        ),
        ServiceLevel(
            code="standard",
            cost_minor=620 + extra,
            carbon_g=720,
            transit_s=3 * DAY,
            cut_off=time(19),
        ),
    )
    fast = ServiceLevel(
        code="express",
        cost_minor=1_390 + extra,
        carbon_g=1_900,
        max_weight_g=12_000,
        transit_s=36 * HOUR,
        cut_off=time(16),
    )
    return (*slow, fast) if express else slow


def _vehicles(code: str, offered: set[str], bike: bool) -> tuple[Vehicle, ...]:
    """A van for everything, a truck where there is time, and in two places a cargo bike."""

    def of(*levels: str) -> tuple[str, ...]:
        return tuple(level for level in levels if level in offered)

    van = Vehicle(f"V-{code}-VAN", "van", of("economy", "standard", "express"), 0.7, 25_000)
    truck = Vehicle(
        f"V-{code}-TRUCK",
        "truck",
        of("economy", "standard"),
        0.6,
        cost_minor=-80,
        carbon_g=-120,
    )
    cargo_bike = Vehicle(
        f"V-{code}-BIKE",
        "cargo_bike",
        of("standard", "express"),
        0.25,
        max_weight_g=8_000,
        cost_minor=40,
        carbon_g=-500,
    )
    return (van, truck, cargo_bike) if bike else (van, truck)


@dataclass(frozen=True, slots=True)
class Article:
    """Something that is sold: price, weight, and how often it is asked for."""

    sku: str
    price_minor: int
    weight_g: int
    demand: float


def articles(random: Random, count: int) -> list[Article]:
    """Mostly light things; each eighth is heavy."""
    made = []
    for number in range(1, count + 1):
        heavy = number % 8 == 0
        weight = random.randrange(6_000, 19_000) if heavy else random.randrange(80, 3_200)
        price = random.randrange(15, 250) * 100 - 5 + (4_000 if heavy else 0)
        made.append(Article(f"SKU-{number:03}", price, weight, 1.0 / (number % 40 + 6)))
    return made


def working_time(start: int, work: int, first_weekday: int) -> int:
    """The second at which ``work`` seconds of a site's working time have passed since ``start``."""
    now = start
    while True:
        day, second = divmod(now, DAY)
        if (first_weekday + day) % 7 == 6 or second >= CLOSES:
            now = (day + 1) * DAY + OPENS
            continue
        second = max(second, OPENS)
        if second + work <= CLOSES:
            return day * DAY + second + work
        work -= CLOSES - second
        now = (day + 1) * DAY + OPENS


def delivery_time(arrival: int, speed: Speed, first_weekday: int) -> int:
    """When a parcel that arrived is handed over: from 7 to 20 o'clock, not on Sundays."""
    day, second = divmod(arrival, DAY)
    if second > CLOSES:
        day, second = day + 1, second // 3
    while (weekday := (first_weekday + day) % 7) == 6 or (weekday == 5 and not speed.saturdays):
        day += 1
    return day * DAY + max(second, 7 * HOUR + second // 6)
