"""The files of public routing benchmarks as our own problems, and what the best known ones cost.

Conventions as the data's READMEs state them: Solomon's instances have each distance truncated to
one decimal (the DIMACS challenge); Augerat's, Christofides' and Fisher's have each rounded to the
next integer; CMT, Tai and Golden are exact, here kept to three decimals.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from math import hypot
from pathlib import Path

from domain.routing import (
    Problem,
    Profile,
    Rates,
    RoutedStop,
    RoutedVehicle,
    Span,
    rectangle,
)

FOLDER = "CHAINLYTICS_SHARED_DATA"
_ORIGIN = datetime(2026, 1, 1, tzinfo=UTC)
_LONG = 10**9


class NoData(Exception):
    """The public instances are not on this machine."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A problem, how many of its metres are one unit of the file, and the best known cost."""

    name: str
    group: str
    problem: Problem
    scale: int
    best_known: float


def folder(data: str) -> Path:
    """Where a data set is: beside the checkout, or where the environment variable says.

    Raises:
        NoData: it is not there.
    """
    named = os.environ.get(FOLDER)
    root = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    found = root / data
    if not (found / "INDEX.csv").is_file():
        raise NoData(f"there is no {found}/INDEX.csv: set {FOLDER} to the folder that holds {data}")
    return found


def names(data: str) -> list[str]:
    """The instances of a data set."""
    return sorted(_index(data))


def solomon(name: str) -> Instance:
    """An instance of Solomon (1987) with 100 customers: capacity and time windows."""
    rows = [line.split() for line in (folder(_SOLOMON) / f"{name}.txt").read_text().splitlines()]
    at = next(n for n, row in enumerate(rows) if row[:1] == ["NUMBER"])
    vehicles, capacity = int(rows[at + 1][0]), int(rows[at + 1][1])
    places = [[int(value) for value in row] for row in rows if len(row) == 7 and row[0].isdecimal()]
    # Truncated to one decimal, so counted in tenths.
    matrix = rectangle(
        [[int(10 * hypot(a[1] - b[1], a[2] - b[2])) for b in places] for a in places]
    )
    depot, *customers = places
    stops = tuple(
        RoutedStop(
            order_id=str(number),
            weight_g=demand,
            service_s=10 * service,
            windows=(Span(from_s=10 * ready, to_s=10 * due),),
        )
        for number, _, _, demand, ready, due, service in customers
    )
    problem = _problem(matrix, stops, vehicles, capacity, to_s=10 * depot[5])
    group = name.rstrip("0123456789") + name.lstrip("RC")[0]
    return Instance(name, group, problem, 10, float(_index(_SOLOMON)[name]["bks_cost_stated"]))


def cvrp(name: str) -> Instance:
    """An instance of the classical problem with capacities: Augerat, Christofides, Tai, Golden."""
    told, rows = _sections((folder(_CVRP) / f"{name}.vrp").read_text())
    row = _index(_CVRP)[name]
    size, exact = int(told["DIMENSION"]), row["matching_convention"] == "exact"
    scale = 1000 if exact else 1
    if told["EDGE_WEIGHT_TYPE"] == "EXPLICIT":
        matrix = _lower([int(v) for line in rows["EDGE_WEIGHT_SECTION"] for v in line], size)
    else:
        at = [(float(x), float(y)) for _, x, y in rows["NODE_COORD_SECTION"]]
        matrix = [[int(scale * hypot(a[0] - b[0], a[1] - b[1]) + 0.5) for b in at] for a in at]
    demands = [int(float(line[1])) for line in rows["DEMAND_SECTION"]]
    service = round(scale * float(told.get("SERVICE_TIME", 0)))
    stops = tuple(
        RoutedStop(order_id=str(number), weight_g=demand, service_s=service)
        for number, demand in enumerate(demands[1:], start=2)
    )
    longest = round(scale * float(told["DISTANCE"])) if "DISTANCE" in told else None
    capacity = int(float(told["CAPACITY"]))
    # A route's length is limited with its service times (CMT): metres and seconds are the same.
    problem = _problem(rectangle(matrix), stops, size - 1, capacity, longest=longest)
    return Instance(name, "CVRP", problem, scale, float(row["bks_cost_stated"]))


_SOLOMON, _CVRP = "vrptw_solomon_100", "cvrp_small"


def _problem(
    matrix: tuple[tuple[int, ...], ...],
    stops: tuple[RoutedStop, ...],
    vehicles: int,
    capacity: int,
    *,
    to_s: int = _LONG,
    longest: int | None = None,
) -> Problem:
    return Problem(
        site_id="depot",
        origin=_ORIGIN,
        profiles=(Profile(mode="van", estimate="file", distance_m=matrix, duration_s=matrix),),
        vehicles=tuple(
            RoutedVehicle(
                vehicle_id=f"V-{number:03}",
                max_weight_g=capacity,
                to_s=to_s,
                max_duration_s=longest,
                rates=Rates(per_km_minor=1),
            )
            for number in range(1, vehicles + 1)
        ),
        stops=stops,
    )


def _index(data: str) -> dict[str, dict[str, str]]:
    with (folder(data) / "INDEX.csv").open(encoding="utf-8") as file:
        return {row["instance"]: row for row in csv.DictReader(file)}


def _sections(text: str) -> tuple[dict[str, str], dict[str, list[list[str]]]]:
    """What a VRPLIB file says by key, and the rows of its sections."""
    told: dict[str, str] = {}
    rows: dict[str, list[list[str]]] = {}
    section = ""
    for line in text.splitlines():
        if ":" in line:
            key, _, value = line.partition(":")
            told[key.strip()] = value.strip()
        elif line.strip().endswith("_SECTION"):
            section = line.strip()
            rows[section] = []
        elif section and line.strip() and line.strip() != "EOF":
            rows[section].append(line.split())
    return told, rows


def _lower(values: list[int], size: int) -> list[list[int]]:
    """A symmetric matrix from the rows below its diagonal."""
    matrix = [[0] * size for _ in range(size)]
    each = iter(values)
    for row in range(size):
        for column in range(row):
            matrix[row][column] = matrix[column][row] = next(each)
    return matrix
