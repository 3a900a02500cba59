"""What models learn from finished tours: ways as they were driven, and what tours cost in the end,
each as it stood when the tour was planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from domain.factors import TRAVEL
from domain.tour_events import StopCompleted, StopFailed, TourCompleted, TourPlanned, TourStarted
from domain.values import Event, seconds
from ml import tour_cost, travel_time
from ml.estimating import Rows
from ml.models import NotEnoughHistory
from ml.tour_cost import Past
from ml.travel import rule_seconds

Frames = Mapping[type[Event], pl.DataFrame]
Row = dict[str, Any]

TRAVEL_FIELDS: Mapping[type[Event], set[str]] = {
    TourPlanned: {
        *("tour_id", "day", "mode", "back_distance_m", "ends_at", "stops", "planned_at"),
    },
    TourStarted: {"tour_id", "started_at"},
    StopCompleted: {"tour_id", "order_id", "arrived_at", "completed_at"},
    StopFailed: {"tour_id", "order_id", "arrived_at", "failed_at"},
    TourCompleted: {"tour_id", "finished_at"},
}
COST_FIELDS: Mapping[type[Event], set[str]] = {
    TourPlanned: {
        *("position", "tour_id", "site_id", "vehicle_id", "currency", "mode", "day", "starts_at"),
        *("ends_at", "distance_m", "travel_s", "waiting_s", "weight_g", "max_weight_g", "rates"),
        *("cost_minor", "stops", "planned_at"),
    },
    TourCompleted: {"position", "tour_id", "cost_minor", "finished_at"},
}


# ways


def travel_rows(frames: Frames) -> Rows:
    """Every way of a finished or running tour between places that follow each other in its plan:
    from leaving one to coming to the next. What nobody has told the time of is left out, and what
    took under a fifth or over five times of what the rule says.

    Raises:
        NotEnoughHistory: there is none.
    """
    started = _by_tour(frames, TourStarted)
    finished = _by_tour(frames, TourCompleted)
    stops: dict[tuple[str, str], tuple[datetime | None, datetime]] = {}
    for event, done_at in ((StopCompleted, "completed_at"), (StopFailed, "failed_at")):
        for row in _rows(frames, event):
            stops[row["tour_id"], row["order_id"]] = row["arrived_at"], row[done_at]
    found: list[tuple[float, ...]] = []
    for tour in _rows(frames, TourPlanned):
        begun = started.get(tour["tour_id"])
        if begun is not None and tour["mode"] in TRAVEL:
            found += _ways(tour, begun, stops, finished.get(tour["tour_id"]))
    if not found:
        raise NotEnoughHistory("no way of a tour was driven whose times were told yet")
    table = np.array(found, np.float64)
    kmh, metres, begins_m, ends_m, weekday, hour, came, asked, known = table.T
    return Rows(
        matrix=travel_time.features(kmh, metres, begins_m, ends_m, weekday, hour),
        came=came,
        by_rule=np.ones(len(table)),
        asked=asked,
        known=known,
    )


def _ways(
    tour: Row,
    begun: Row,
    stops: Mapping[tuple[str, str], tuple[datetime | None, datetime]],
    finished: Row | None,
) -> Iterator[tuple[float, ...]]:
    gone = sorted(
        (
            (stop, done)
            for stop in tour["stops"]
            if (done := stops.get((tour["tour_id"], stop["order_id"]))) is not None
        ),
        key=lambda one: (one[1][1], one[0]["stop_no"]),
    )
    place, left = 0, begun["started_at"]
    direct = {stop["stop_no"]: stop["direct_m"] for stop in tour["stops"]} | {0: 0}
    longitude = 0.0
    for stop, (arrived, done_at) in gone:
        number = stop["stop_no"]
        longitude = 0.0 if stop["point"] is None else stop["point"]["longitude"]
        # Who goes in another order than planned drives ways whose length nobody knows.
        if arrived is not None and number == place + 1:
            about = travel_time.sun_hour(stop["arrives_at"], longitude)
            metres, begins_m, ends_m = stop["distance_m"], direct[place], direct[number]
            yield from _way(tour, metres, begins_m, ends_m, about, left, arrived)
        place, left = number, done_at
    if finished is not None and gone and place == len(tour["stops"]):
        about = travel_time.sun_hour(tour["ends_at"], longitude)
        back = tour["back_distance_m"]
        yield from _way(tour, back, direct[place], 0, about, left, finished["finished_at"])


def _way(
    tour: Row, metres: int, begins_m: int, ends_m: int, about: float, left: datetime, came: datetime
) -> Iterator[tuple[float, ...]]:
    by_rule = rule_seconds(tour["mode"], metres)
    ratio = (seconds(left, came) or 0) / by_rule if by_rule else 0.0
    if travel_time.LEAST <= ratio <= travel_time.MOST:
        kmh = TRAVEL[tour["mode"]].far_kmh
        weekday = tour["day"].isoweekday()
        asked, known = _days(tour["planned_at"]), _days(came)
        yield (kmh, metres, begins_m, ends_m, weekday, about, ratio, asked, known)


# costs


def cost_rows(frames: Frames) -> Rows:
    """Every finished tour, with the site's and the vehicle's tours that were finished before it was
    planned, by log positions.

    Raises:
        NotEnoughHistory: there is none.
    """
    planned = {row["tour_id"]: row for row in _rows(frames, TourPlanned)}
    events = sorted(
        [*planned.values(), *_rows(frames, TourCompleted)], key=lambda row: int(row["position"])
    )
    past: dict[tuple[str, str, str], Past] = {}
    seen: dict[str, np.ndarray[tuple[int, int], np.dtype[np.float32]]] = {}
    parts, came, asked, known = [], [], [], []
    for row in events:
        tour = planned.get(row["tour_id"])
        if tour is None or not tour["cost_minor"]:
            continue
        keys = [(name, tour[name], tour["currency"]) for name in ("site_id", "vehicle_id")]
        if row is tour:
            site, vehicle = (past.get(key, Past()) for key in keys)
            seen[row["tour_id"]] = tour_cost.features(tour, site, vehicle)
            continue
        for key in keys:
            past[key] = past.get(key, Past()).with_one(tour["cost_minor"], row["cost_minor"])
        ratio = row["cost_minor"] / tour["cost_minor"]
        if tour_cost.LEAST <= ratio <= tour_cost.MOST:
            parts.append(seen[row["tour_id"]])
            came.append(ratio)
            asked.append(_days(tour["planned_at"]))
            known.append(_days(row["finished_at"]))
    if not parts:
        raise NotEnoughHistory("no tour is finished yet")
    return Rows(
        matrix=np.concatenate(parts),
        came=np.array(came),
        by_rule=np.ones(len(parts)),
        asked=np.array(asked),
        known=np.array(known),
    )


def _rows(frames: Frames, event: type[Event]) -> list[Row]:
    frame = frames.get(event)
    return [] if frame is None else frame.to_dicts()


def _by_tour(frames: Frames, event: type[Event]) -> dict[str, Row]:
    return {row["tour_id"]: row for row in _rows(frames, event)}


def _days(at: datetime) -> float:
    """Days since 1970."""
    return at.timestamp() / 86_400
