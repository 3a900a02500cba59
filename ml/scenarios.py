"""What chance and a scenario bring: demand like that of some days before, drawn from a seed, and
what a scenario makes of it.

Every draw has a name and follows from seed and name alone (SHA-256), so it is the same on every
machine, and a base line and its scenario, which ask for the same names, meet the same chance
(common random numbers; Law, Simulation Modeling and Analysis, 5th ed., section 11.2).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from math import floor
from typing import Any

import polars as pl
from polars import col

from domain.orders import (
    OrderAllocated,
    OrderCancelled,
    OrderDelivered,
    OrderPlaced,
    OrderShipped,
    PlaceOrder,
)
from domain.simulations import DisturbanceOfScenario, Disturbing
from domain.values import Event

#: Durations are drawn from the last so many days: there are few on a lane.
DURATION_DAYS = 90
#: So many durations make a sample of their own; where there are fewer, the next wider one is taken.
_LEAST = 5
#: Exact and the same everywhere, as the math library of a machine need not be.
_EXACT = Context(prec=28, rounding=ROUND_HALF_EVEN)

#: The fields of events that are looked at.
FIELDS: Mapping[type[Event], set[str]] = {
    OrderPlaced: {"order_id", "placed_at", "split_from", "state"},
    OrderAllocated: {"order_id", "site_id"},
    OrderShipped: {"site_id", "handling_s", "shipped_at"},
    OrderDelivered: {"site_id", "region", "service_level", "transit_s", "delivered_at"},
    OrderCancelled: {"placed_at", "cancelled_at"},
}


def drawn(seed: int, *name: object) -> float:
    """A number from 0 to below 1, always the same one of a seed and a name."""
    told = ":".join(map(str, (seed, *name)))
    digest = hashlib.sha256(told.encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2.0**53


def picked(values: Sequence[Any], share: float) -> Any:
    """One of some values, by a number from 0 to below 1."""
    return values[floor(share * len(values))]


class Durations:
    """How long something took, by what it depended on; the narrowest group that has enough."""

    def __init__(self, rows: Iterable[tuple[tuple[str, ...], int]]) -> None:
        found: dict[tuple[str, ...], list[int]] = {}
        for names, seconds in rows:
            for end in range(len(names) + 1):
                found.setdefault(names[:end], []).append(seconds)
        self._found = {names: sorted(values) for names, values in found.items()}

    def __bool__(self) -> bool:
        return bool(self._found)

    def draw(self, share: float, *names: str) -> timedelta:
        """A duration, by a number from 0 to below 1, of the first so many of the names."""
        for end in range(len(names), -1, -1):
            values = self._found.get(names[:end], [])
            if len(values) >= _LEAST or not end:
                return timedelta(seconds=picked(values, share))
        raise AssertionError("the shortest name is no name")


@dataclass(frozen=True, slots=True)
class Sampled:
    """An order of the log, and from where it went."""

    placed: Mapping[str, Any]
    placed_at: datetime
    site_id: str | None


@dataclass(frozen=True, slots=True)
class Past:
    """What is drawn from.

    ``start``: the first simulated day. ``days``: the orders of each day of the sample. ``handling``
    by site; ``transit`` by service level, region and site; ``cancel_share`` and ``cancel_after`` of
    the sampled days' orders.
    """

    start: date
    days: Mapping[date, Sequence[Sampled]]
    handling: Durations
    transit: Durations
    cancel_share: float
    cancel_after: Durations

    @property
    def orders(self) -> int:
        """How many orders were sampled."""
        return sum(map(len, self.days.values()))


class NothingToSample(Exception):
    """The log has nothing that could be drawn from."""


@dataclass(slots=True)
class Sampling:
    """Gathers from windows of the log, in its order, what is drawn from: nothing older is kept."""

    sample_days: int
    _kept: dict[type[Event], pl.DataFrame] = field(default_factory=dict)

    def read(self, frames: Mapping[type[Event], pl.DataFrame]) -> None:
        """Take the next window."""
        for event, names in FIELDS.items():
            if event in frames:
                mine = frames[event].select("position", *sorted(names))
                held = self._kept.get(event)
                self._kept[event] = mine if held is None else pl.concat([held, mine])
        if OrderPlaced not in self._kept:
            return
        newest = self._kept[OrderPlaced]["placed_at"].max()
        assert isinstance(newest, datetime)
        times: dict[type[Event], tuple[str, int]] = {
            OrderPlaced: ("placed_at", self.sample_days),
            OrderCancelled: ("placed_at", self.sample_days),
            OrderShipped: ("shipped_at", DURATION_DAYS),
            OrderDelivered: ("delivered_at", DURATION_DAYS),
        }
        for event, (name, days) in times.items():
            if event in self._kept:
                oldest = newest - timedelta(days=days + 2)
                self._kept[event] = self._kept[event].filter(col(name) > oldest)
        if OrderAllocated in self._kept:
            mine = self._kept[OrderPlaced].select("order_id")
            allocated = self._kept[OrderAllocated]
            self._kept[OrderAllocated] = allocated.join(mine, on="order_id", how="semi")

    def past(self) -> Past:
        """What was gathered. Days are whole: the last one, which may not be over, is left out.

        Raises:
            NothingToSample: no order was placed in these days, or none was delivered.
        """
        placed = self._kept.get(OrderPlaced)
        if placed is None or placed.is_empty():
            raise NothingToSample("no order was ever placed")
        newest = placed["placed_at"].max()
        assert isinstance(newest, datetime)
        last = newest.date()
        first = last - timedelta(days=self.sample_days)
        day = col("placed_at").dt.date()
        within = placed.filter((day >= first) & (day < last)).sort("position")
        if within.is_empty():
            raise NothingToSample(
                f"no order was placed in the {self.sample_days} days before {last}"
            )
        # A part of another order was asked for once: as what was placed.
        days = self._days(within.filter(col("split_from").is_null()), first)
        handling = Durations(
            ((site_id,), seconds)
            for site_id, seconds in self._told(OrderShipped, "site_id", "handling_s")
        )
        transit = Durations(
            ((level, region or "", site_id), seconds)
            for level, region, site_id, seconds in self._told(
                OrderDelivered, "service_level", "region", "site_id", "transit_s"
            )
        )
        if not handling or not transit:
            raise NothingToSample(
                f"no order was shipped and delivered, at times that are known, in the "
                f"{DURATION_DAYS} days before {last}"
            )
        cancelled = self._kept.get(OrderCancelled)
        gone = None if cancelled is None else cancelled.filter((day >= first) & (day < last))
        after: list[timedelta | None] = []
        if gone is not None:
            after = gone.select(col("cancelled_at") - col("placed_at")).to_series().to_list()
        return Past(
            start=last + timedelta(days=1),
            days=days,
            handling=handling,
            transit=transit,
            cancel_share=0.0 if gone is None else gone.height / within.height,
            cancel_after=Durations(
                ((), int(one.total_seconds()))
                for one in after
                if one is not None and one >= timedelta(0)
            ),
        )

    def _days(self, within: pl.DataFrame, first: date) -> dict[date, list[Sampled]]:
        days: dict[date, list[Sampled]] = {
            first + timedelta(days=number): [] for number in range(self.sample_days)
        }
        sites: dict[str, str] = {}
        if OrderAllocated in self._kept:
            sites = dict(self._kept[OrderAllocated].select("order_id", "site_id").iter_rows())
        columns = within.select("order_id", "placed_at", "state").iter_rows()
        for order_id, placed_at, state in columns:
            told = json.loads(state)
            if told["lines_known"]:
                one = Sampled(told, placed_at, sites.get(order_id))
                days[placed_at.date()].append(one)
        return days

    def _told(self, event: type[Event], *names: str) -> Iterable[tuple[Any, ...]]:
        """Rows of some columns whose last, a duration, is known and not below zero."""
        frame = self._kept.get(event)
        if frame is None:
            return []
        return frame.filter(col(names[-1]) >= 0).select(names).iter_rows()


def demand(
    past: Past, seed: int, day: int, disturbances: Sequence[DisturbanceOfScenario]
) -> list[PlaceOrder]:
    """The orders of a simulated day (1 is the first), by their time.

    It is one whole sampled day of the same weekday, each with the same chance (a bootstrap of days:
    what belongs together stays together). Where disturbances multiply a line's demand by f, it is
    there floor(f) times and once more with the chance of the rest; the first of them is in the
    order, each further one in an order of its own beside, with what else is there so often. All
    lines of an order share that one draw.
    """
    on = past.start + timedelta(days=day - 1)
    found: list[PlaceOrder] = []
    for order_id, one, often in _often(past, seed, day, disturbances):
        for copy in range(max(times for _, _, times in often)):
            mine = [_priced(line, price) for line, price, times in often if times > copy]
            name = order_id if not copy else f"{order_id}-{copy}"
            found.append(_order(one, on, name, mine))
    return sorted(found, key=lambda order: (order.placed_at, order.order_id))


def expected(past: Past, seed: int, day: int, disturbances: Sequence[DisturbanceOfScenario]) -> int:
    """How many orders ``demand`` has on a day, without making them."""
    some = _often(past, seed, day, disturbances)
    return sum(max(times for _, _, times in often) for _, _, often in some)


def _often(
    past: Past, seed: int, day: int, disturbances: Sequence[DisturbanceOfScenario]
) -> Iterator[tuple[str, Sampled, list[tuple[Mapping[str, Any], Decimal, int]]]]:
    """The orders of a day: for each its lines, what their price is multiplied by, and how often
    each is there."""
    on = past.start + timedelta(days=day - 1)
    alike = [one for one in past.days if one.weekday() == on.weekday()]
    sampled = past.days[picked(alike, drawn(seed, "day", day))]
    active = [one for one in disturbances if is_active(one, day)]
    for number, one in enumerate(sampled):
        order_id = f"SIM-{day:03}-{number:05}"
        share = drawn(seed, "demand", order_id)
        lines = [(line, *_multiplied(active, one, line)) for line in one.placed["lines"]]
        yield (
            order_id,
            one,
            [
                (line, price, floor(factor) + (share < factor - floor(factor)))
                for line, factor, price in lines
            ],
        )


def is_active(one: DisturbanceOfScenario, day: int) -> bool:
    """Whether a disturbance lasts on a day."""
    return one.from_day <= day and (one.to_day is None or day <= one.to_day)


def _multiplied(
    active: Sequence[DisturbanceOfScenario], order: Sampled, line: Mapping[str, Any]
) -> tuple[float, Decimal]:
    """By what a line's demand and its price are multiplied."""
    demand_, price = 1.0, Decimal(1)
    for one in active:
        if one.sku not in (None, line["sku"]):
            continue
        if one.kind == Disturbing.DEMAND_SURGE:
            site_id = line["site_id"] or order.site_id
            if one.region in (None, order.placed["region"]) and one.site_id in (None, site_id):
                demand_ *= one.factor or 1.0
        elif one.kind == Disturbing.PRICE_CHANGE:
            factor = Decimal(repr(one.factor))
            price *= factor
            demand_ *= float(_EXACT.power(factor, Decimal(repr(one.elasticity))))
    return demand_, price


def _priced(line: Mapping[str, Any], price: Decimal) -> Mapping[str, Any]:
    if price == 1:
        return line
    return {**line, "unit_price_minor": round(line["unit_price_minor"] * price)}


def _order(one: Sampled, on: date, order_id: str, lines: Sequence[Mapping[str, Any]]) -> PlaceOrder:
    """A sampled order again, on another day. Whose it was is left out."""
    later = datetime.combine(on, time(tzinfo=UTC)) - datetime.combine(
        one.placed_at.date(), time(tzinfo=UTC)
    )
    told = {name: one.placed[name] for name in PlaceOrder.model_fields if name in one.placed}
    told |= {"order_id": order_id, "lines": lines, "recipient": None}
    for name in ("placed_at", "promised_at"):
        told[name] = datetime.fromisoformat(told[name]) + later
    if told.get("delivery_window") is not None:
        told["delivery_window"] = {
            name: datetime.fromisoformat(moment) + later
            for name, moment in told["delivery_window"].items()
        }
    return PlaceOrder.model_validate(told)
