"""What models of the families forecast, cost and routing say, and the rule that says it where none
is deployed.

A family is a use of models: *policy* and *anomaly* choose among candidates (of the kinds in
``ml.catalogue``), the others put a number on something. All of them live in one registry: proposed,
approved by a second person, deployed, stopped and retired by the same events.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from domain import costing
from ml import demand, forecasting, tour_cost, travel, travel_time


class Family(StrEnum):
    """What models are for."""

    POLICY = "policy"
    FORECAST = "forecast"
    COST = "cost"
    ROUTING = "routing"
    ANOMALY = "anomaly"


#: The family of each kind of decision; policy where it is not named.
OF_DECISIONS: Mapping[str, Family] = {"anomaly": Family.ANOMALY}


@dataclass(frozen=True, eq=False)
class Estimate:
    """A kind of number that a model may say.

    Attributes:
        name: as in ``RegisterModel.kind``.
        family: what it is for.
        says: the rule that says it without a model, for people.
        source: where the rule comes from.
        made_of: the rule's functions.
        sees: what makes the features.
        features: what a model sees, in order, and each in words.
        unit: of what it says.
        learns_from: which cases a model learns from, in words.
    """

    name: str
    family: Family
    says: str
    source: str
    made_of: Sequence[Callable[..., Any]]
    sees: Callable[..., Any]
    features: Mapping[str, str]
    unit: str
    learns_from: str

    @cached_property
    def declaration(self) -> bytes:
        """The rule as JSON: its words and its code without comments."""
        modules = dict.fromkeys(inspect.getmodule(one) for one in self.made_of)
        code = [ast.unparse(ast.parse(inspect.getsource(one))) for one in modules if one]
        told = {"rule": self.name, "says": self.says, "source": self.source, "code": code}
        return (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode()

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the rule's declaration."""
        return hashlib.sha256(self.declaration).hexdigest()

    @cached_property
    def schema_hash(self) -> str:
        """SHA-256 over the features and the code that makes them: a model fits one schema."""
        parts = [self.name, *self.features, inspect.getsource(self.sees)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


DEMAND = Estimate(
    name="demand",
    family=Family.FORECAST,
    says="the mean where there are fewer than 21 days or 4 days with demand; Syntetos and Boylan's "
    "estimate where most days have none (mean interval of 1.32 days or more); else the theta "
    "method with weekly seasons",
    source="Syntetos and Boylan, IJF 21, 2005; Assimakopoulos and Nikolopoulos, IJF 16, 2000; "
    "Hyndman and Billah, IJF 19, 2003",
    made_of=(forecasting.forecast,),
    sees=demand.features,
    features=demand.FEATURES,
    unit="pieces a day, as a multiple of the mean of the last 8 weeks",
    learns_from="what left the shelf on each of the 28 days behind every seventh day of every "
    "stock with 8 weeks of history",
)

TOUR_COST = Estimate(
    name="tour_cost",
    family=Family.COST,
    says="the vehicle's own rates where it has them, else the tariff of its class, by kilometre, "
    "hour, stop and toll, parted among the orders of a tour by what each adds",
    source="domain/factors.py and domain/costing.py name the source of each number",
    made_of=(costing.cost,),
    sees=tour_cost.features,
    features=tour_cost.FEATURES,
    unit="minor units of the tour's currency, as a multiple of what the plan reckons",
    learns_from="what every finished tour cost by its own hours and distance; what was said of "
    "its site and vehicle when it was planned, by log positions",
)
TRAVEL_TIME = Estimate(
    name="travel_time",
    family=Family.ROUTING,
    says="the great-circle distance times the detour factor of the mode; the first kilometres at "
    "its speed in towns, the rest at its speed between them",
    source="domain/factors.py names the source of each number",
    made_of=(travel.travel,),
    sees=travel_time.features,
    features=travel_time.FEATURES,
    unit="seconds of a way, as a multiple of the rule's; metres are the rule's always",
    learns_from="how long every way of a tour took between places that follow each other in its "
    "plan, where both times were told",
)

ESTIMATES: Mapping[str, Estimate] = {one.name: one for one in (DEMAND, TOUR_COST, TRAVEL_TIME)}
