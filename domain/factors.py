"""The numbers that ways, costs and emissions are reckoned with, each with its source.

They are defaults: an organisation puts its own in their place (domain/tariffs.py, and a vehicle's
own rates). ``basis`` says what a number is worth: "published" was printed so in the source named;
"estimate" is a round planning value of ours, of the size that the literature has, to be replaced
before anybody relies on it. docs/costs.md has the tables in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from domain.routing import Emission, Rates

Basis = Literal["published", "estimate"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a number is from, and what it is worth."""

    text: str
    basis: Basis


# ways


@dataclass(frozen=True, slots=True)
class Travel:
    """How vehicles of a mode get along.

    Attributes:
        detour_permille: length of the way for 1000 m of great circle.
        near_kmh: speed on the first ``near_m`` metres of a way.
        far_kmh: speed beyond.
    """

    detour_permille: int
    near_kmh: int
    far_kmh: int
    near_m: int = 5_000


DETOUR_SOURCE = Source(
    "Roads: 1.417 between places of the USA (F. P. Boscoe, K. A. Henry, M. S. Zdeb, A Nationwide "
    "Comparison of Driving Distance Versus Straight-Line Distance to Hospitals, The Professional "
    "Geographer 64(2), 2012); 1.32 in Germany, 1.46 in Europe (R. H. Ballou, H. Rahardja, "
    "N. Sakai, Selected country circuity factors for road travel distance estimation, "
    "Transportation Research Part A 36(9), 2002). 1.4 is taken. Rail, ship and plane: estimates.",
    "published",
)
SPEED_SOURCE = Source(
    "Door to door in towns and on the roads between them, lights included; planning values.",
    "estimate",
)
#: By mode of vehicles.
TRAVEL: Mapping[str, Travel] = {
    "cargo_bike": Travel(1400, 15, 15),
    "van": Travel(1400, 30, 65),
    "truck": Travel(1400, 25, 60),
    "rail": Travel(1300, 30, 50),
    "ship": Travel(1500, 25, 25),
    "plane": Travel(1050, 200, 700),
}

#: Seconds at a stop where an order says nothing.
SERVICE_S = 300
#: When vehicles drive where neither an assignment nor a site says more, by the clock of the site.
SHIFT_HOURS = (6, 20)

# costs

COST_SOURCE = Source(
    "Round planning values in euro of 2024: driver with social costs and vehicle by the hour, "
    "energy, tyres and repairs by the kilometre; toll for vehicles above 3.5 t only.",
    "estimate",
)
COST_CURRENCY = "EUR"
#: In minor units of ``COST_CURRENCY``, by mode of vehicles.
RATES: Mapping[str, Rates] = {
    "cargo_bike": Rates(fixed_minor=500, per_km_minor=10, per_hour_minor=2_400),
    "van": Rates(fixed_minor=2_000, per_km_minor=30, per_hour_minor=2_800),
    "truck": Rates(fixed_minor=6_000, per_km_minor=65, per_hour_minor=3_200, toll_per_km_minor=15),
    "rail": Rates(fixed_minor=50_000, per_km_minor=900, per_hour_minor=20_000),
    "ship": Rates(fixed_minor=100_000, per_km_minor=2_000, per_hour_minor=30_000),
    "plane": Rates(fixed_minor=200_000, per_km_minor=1_500, per_hour_minor=250_000),
}

# emissions


@dataclass(frozen=True, slots=True)
class Energy:
    """Well-to-wheel grams of CO2e of a litre, kilogram or kilowatt hour."""

    unit: str
    g_co2e: int
    source: Source


_EN_16258 = Source(
    "EN 16258:2012, table A.1, well to wheel. ISO 14083:2023 and the GLEC Framework v3 (2023), "
    "which succeed it, have newer regional values: set those.",
    "published",
)
#: By fuel of vehicles.
ENERGY: Mapping[str, Energy] = {
    "diesel": Energy("l", 3_240, _EN_16258),
    "petrol": Energy("l", 2_880, _EN_16258),
    "lpg": Energy("l", 1_900, _EN_16258),
    "cng": Energy("kg", 3_070, _EN_16258),
    "lng": Energy("kg", 3_700, Source("natural gas with liquefaction and slip", "estimate")),
    "hvo": Energy("l", 500, Source("from wastes; depends on the feedstock", "estimate")),
    "electric": Energy(
        "kWh", 300, Source("EU average of about 2022 with losses and supply chain", "estimate")
    ),
    "hydrogen": Energy("kg", 11_000, Source("from natural gas by steam reforming", "estimate")),
    "none": Energy("kWh", 0, Source("muscles; food is not counted", "estimate")),
}

CONSUMPTION_SOURCE = Source(
    "Litres, kilograms or kilowatt hours for 100 km, empty and full, as usual of such vehicles on "
    "delivery tours; planning values.",
    "estimate",
)
#: Thousandths of the fuel's unit for 100 km, empty and full, by mode and fuel.
CONSUMPTION: Mapping[tuple[str, str], tuple[int, int]] = {
    ("cargo_bike", "electric"): (1_500, 2_500),
    ("cargo_bike", "none"): (0, 0),
    ("van", "diesel"): (8_500, 10_500),
    ("van", "petrol"): (9_500, 12_000),
    ("van", "lpg"): (11_500, 14_500),
    ("van", "cng"): (7_000, 9_000),
    ("van", "hvo"): (8_800, 10_900),
    ("van", "hybrid"): (7_000, 9_000),
    ("van", "electric"): (24_000, 32_000),
    ("van", "hydrogen"): (1_100, 1_500),
    ("truck", "diesel"): (18_000, 26_000),
    ("truck", "hvo"): (18_600, 26_900),
    ("truck", "cng"): (15_500, 22_500),
    ("truck", "lng"): (15_000, 22_000),
    ("truck", "hybrid"): (16_000, 23_500),
    ("truck", "electric"): (80_000, 115_000),
    ("truck", "hydrogen"): (5_500, 8_000),
}
#: What a vehicle drives with where nobody has said: the usual one of its mode.
USUAL_FUEL: Mapping[str, str] = {"cargo_bike": "electric", "van": "diesel", "truck": "diesel"}


@dataclass(frozen=True, slots=True)
class Intensity:
    """Well-to-wheel grams of CO2e for a tonne that is carried for a kilometre."""

    g_per_tkm: int
    source: Source


_EEA = Source(
    "European Environment Agency, Rail and waterborne: best for low-carbon motorised transport, "
    "briefing 01/2021: averages of the EU in 2018",
    "published",
)
#: By mode: of legs that are bought by the tonne and kilometre and not driven by a vehicle of ours.
INTENSITY: Mapping[str, Intensity] = {
    "truck": Intensity(137, _EEA),
    "rail": Intensity(24, _EEA),
    "ship": Intensity(7, _EEA),
    "plane": Intensity(
        1_000, Source("long haul, without effects at height; of this size everywhere", "estimate")
    ),
}


def emission(mode: str, fuel: str | None) -> Emission | None:
    """What a vehicle emits by its mode and fuel; None: no default is known for it."""
    kind = fuel or USUAL_FUEL.get(mode, "")
    burnt = CONSUMPTION.get((mode, kind))
    energy = ENERGY.get("diesel" if kind == "hybrid" else kind)
    if burnt is None or energy is None:
        return None
    # Thousandths of a unit for 100 km times grams of a unit are milligrams for 100 km.
    empty, full = (amount * energy.g_co2e // 100 for amount in burnt)
    return Emission(empty_mg_per_km=empty, full_mg_per_km=full)
