"""Routing: gaps to the best known solutions of Solomon's and the classical instances, and seconds.

Data: ``vrptw_solomon_100`` and ``cvrp_small`` in ../shared/data beside the checkout, or where
CHAINLYTICS_SHARED_DATA says. pyvrp runs in one thread: seconds are those of the processor, of one
core; on a machine where others run too, more go by. CHAINLYTICS_BENCH_ITERATIONS sets the
iterations (those that are usual for the number of stops).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from statistics import fmean
from time import perf_counter, process_time
from typing import Any

from benchmarks.vrplib_files import Instance, NoData, cvrp, names, solomon
from ml.routing import solve, solver_version, usual_iterations

Say = Callable[[str], None]

_SEED = 1
_TARGETS = {"gap_mean_percent": "at most 2", "seconds_max": "at most 20", "unserved": "0"}


def run(_: str, say: Say) -> dict[str, Any]:
    """Gaps in percent of the best known cost, by class of instances and over all.

    Raises:
        SystemExit: the instances are not there; it says where they are looked for.
    """
    try:
        instances = [
            *map(solomon, names("vrptw_solomon_100")),
            *map(cvrp, names("cvrp_small")),
        ]
    except NoData as error:
        raise SystemExit(str(error)) from error
    told: dict[str, list[tuple[float, float]]] = {}
    unserved, begun = 0, perf_counter()
    for instance in instances:
        gap, took, left = _solved(instance)
        told.setdefault(instance.group, []).append((gap, took))
        unserved += left
        say(f"{instance.name:12} {gap:6.2f} %  {took:5.1f} s")
    figures: dict[str, Any] = {
        "instances": len(instances),
        "solver_version": solver_version(),
        "seed": _SEED,
    }
    for group, pairs in sorted(told.items()):
        name = group.lower()
        figures[f"gap_mean_percent_{name}"] = round(fmean(gap for gap, _ in pairs), 2)
        figures[f"gap_max_percent_{name}"] = round(max(gap for gap, _ in pairs), 2)
        figures[f"seconds_mean_{name}"] = round(fmean(took for _, took in pairs), 1)
    every = [pair for pairs in told.values() for pair in pairs]
    figures["gap_mean_percent"] = round(fmean(gap for gap, _ in every), 2)
    figures["gap_max_percent"] = round(max(gap for gap, _ in every), 2)
    figures["seconds_max"] = round(max(took for _, took in every), 1)
    figures["wall_seconds"] = round(perf_counter() - begun)
    figures["unserved"] = unserved
    for name, target in _TARGETS.items():
        say(f"{name:24} {figures[name]:>8}   {target}")
    return figures


def _solved(instance: Instance) -> tuple[float, float, int]:
    """The gap in percent, seconds, and customers left behind."""
    stops = len(instance.problem.stops)
    iterations = int(os.environ.get("CHAINLYTICS_BENCH_ITERATIONS", usual_iterations(stops)))
    begun = process_time()
    found = solve(instance.problem, iterations=iterations, seed=_SEED)
    took = process_time() - begun
    cost = found.distance_m / instance.scale
    return 100 * (cost / instance.best_known - 1), took, len(found.unserved)
