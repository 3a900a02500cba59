"""A year of a plausible company, made from a seed: the same commands on every machine.

Whether an order is late follows from what it met: the backlog of its site, the distance, the
service level, the vehicle, the weekday, heavy parcels, the lane's carrier and the slack of its
promise. On top comes noise. Only ``random()`` and whole-number draws of the generator and exact
arithmetic are used (and ``sqrt``, which is exact): other functions of a machine's math library may
differ in their last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from random import Random

from commands.bulk import Keyed
from commands.sample_world import (
    DAY,
    FORBIDDEN,
    HOUR,
    HOURS,
    MONTHS,
    OPENS,
    REGIONS,
    SPEEDS,
    WEEKDAYS,
    Article,
    Place,
    Site,
    Vehicle,
    articles,
    delivery_time,
    sites,
    working_time,
)
from domain.inventory import PickStock, ReceiveStock
from domain.orders import (
    AllocateOrder,
    CancelOrder,
    DeliverOrder,
    OrderLine,
    PlaceOrder,
    ShipOrder,
)
from domain.routes import ForbidRoute
from domain.sites import OpenSite
from domain.transport import RegisterVehicle
from domain.values import Command

DAYS = 365
OPEN_DAYS = 2
START = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Totals:
    """What the year comes to, to check what was stored against."""

    placed: int = 0
    allocated: int = 0
    shipped: int = 0
    delivered: int = 0
    late: int = 0
    cancelled: int = 0
    lines: int = 0
    goods_minor: int = 0
    freight_minor: int = 0
    received: int = 0
    picked: int = 0


@dataclass(frozen=True, slots=True)
class SampleYear:
    """The commands in the order of their times, and their totals.

    ``name``: what their keys belong to (see ``Sender``). ``ends_at``: the year's now.
    """

    name: str
    commands: Sequence[Keyed]
    totals: Totals
    ends_at: datetime


def sample_year(seed: int = 7, orders: int = 10_000, start: datetime = START) -> SampleYear:
    """Make the year. The orders of the last two days are placed and wait for a decision."""
    year = _Year(seed, orders, start)
    year.run()
    return year.result(f"sample-year-{start:%Y-%m-%d}-{seed}-{orders}")


@dataclass(frozen=True, slots=True)
class _Order:
    number: int
    order_id: str
    place: Place
    placed: int
    promised: int
    lines: tuple[OrderLine, ...]
    weight_g: int


class _Year:
    """The simulation. Times are whole seconds since the start of the year."""

    def __init__(self, seed: int, orders: int, start: datetime) -> None:
        self._random = Random(seed)
        self._count = orders
        self._start = start
        self._weekday = start.weekday()
        self._end = DAYS * DAY
        self._timed: list[tuple[int, int, Keyed]] = []
        self._totals = Totals()
        self._sites = sites()
        self._articles = articles(self._random, 120)
        self._popularity = list(accumulate(article.demand for article in self._articles))
        self._shares = list(accumulate(place.share for place in REGIONS))
        # What a lane's carrier is worth is nowhere written down; its record shows it.
        self._lanes = {
            (site.site_id, place.code): 0.8 + 0.55 * self._random.random()
            for site in self._sites
            for place in REGIONS
        }

    def run(self) -> None:
        self._open_sites()
        moments = sorted(self._moments())
        monday = -1
        for number, moment in enumerate(moments, 1):
            day = moment // DAY
            week = (self._weekday + day) // 7
            if week != monday:
                monday = week
                self._replenish(max(0, week * 7 - self._weekday))
            order = self._place(number, moment)
            if day < DAYS - OPEN_DAYS:
                self._fulfil(order)

    def result(self, name: str) -> SampleYear:
        self._timed.sort(key=lambda timed: timed[:2])
        return SampleYear(
            name=name,
            commands=[keyed for _, _, keyed in self._timed],
            totals=self._totals,
            ends_at=self._time(self._end),
        )

    def _open_sites(self) -> None:
        daily = self._count / DAYS
        for site in self._sites:
            site.capacity = max(2, round(daily * site.share * 1.65))
            command = OpenSite(
                site_id=site.site_id,
                name=site.name,
                region=site.region.code,
                service_levels=site.levels,
                daily_capacity=site.capacity,
                opened_at=self._time(0),
            )
            self._tell(0, site.site_id, "open", command)
            self._register_vehicles(site)
            self._stock_up(site)
        for site_id, region in FORBIDDEN:
            forbid = ForbidRoute(
                site_id=site_id,
                region=region,
                reason="no licensed carrier",
                forbidden_at=self._time(0),
            )
            self._tell(0, f"{site_id}:{region}", "forbid", forbid)

    def _register_vehicles(self, site: Site) -> None:
        for vehicle in site.vehicles:
            command = RegisterVehicle(
                vehicle_id=vehicle.vehicle_id,
                site_id=site.site_id,
                mode=vehicle.mode,
                service_levels=vehicle.levels,
                max_weight_g=vehicle.max_weight_g,
                daily_capacity=max(1, round(site.capacity * vehicle.share)),
                cost_minor=vehicle.cost_minor,
                carbon_g=vehicle.carbon_g,
                registered_at=self._time(0),
            )
            self._tell(0, f"{site.site_id}:{vehicle.vehicle_id}", "register", command)

    def _stock_up(self, site: Site) -> None:
        """Which articles the site keeps, and how many of each it likes to have."""
        units = self._count / 52 * site.share * 2.9 / self._popularity[-1]
        for number, article in enumerate(self._articles):
            if (number + len(site.site_id) * self._sites.index(site)) % 6:
                site.stock[article.sku] = 0
                site.target[article.sku] = 6 + round(article.demand * units * 4)

    def _replenish(self, day: int) -> None:
        """Monday's goods: what has sunk below two thirds of its target is filled up."""
        season = MONTHS[self._time(day * DAY).month - 1]
        at = day * DAY + OPENS
        for site in self._sites:
            for sku, target in site.target.items():
                wanted = round(target * season)
                missing = wanted - site.stock[sku]
                if missing * 3 < wanted:
                    continue
                site.stock[sku] = wanted
                command = ReceiveStock(
                    site_id=site.site_id,
                    sku=sku,
                    quantity=Decimal(missing),
                    received_at=self._time(at),
                )
                self._tell(at, f"{site.site_id}:{sku}:{day}", "receive", command)
                self._totals.received += missing

    def _moments(self) -> list[int]:
        """When orders are placed: by season, weekday and hour."""
        weights = [
            WEEKDAYS[(self._weekday + day) % 7] * MONTHS[self._time(day * DAY).month - 1]
            for day in range(DAYS)
        ]
        draw = self._random.choices
        days = draw(range(DAYS), weights, k=self._count)
        hours = draw(range(24), HOURS, k=self._count)
        return [
            day * DAY + hour * HOUR + self._random.randrange(HOUR)
            for day, hour in zip(days, hours, strict=True)
        ]

    def _place(self, number: int, placed: int) -> _Order:
        random = self._random
        [place] = random.choices(REGIONS, cum_weights=self._shares)
        lines = self._lines()
        nearest = min(site.distance_to(place) for site in self._sites)
        slack = random.choices((0, 1, 2, 3), (20, 35, 30, 15))[0]
        days = 4 + int(nearest / 350) + slack
        order = _Order(
            number=number,
            order_id=f"O-{number:06}",
            place=place,
            placed=placed,
            promised=(placed // DAY + days) * DAY + 20 * HOUR,
            lines=lines,
            weight_g=sum(int(line.quantity) * (line.weight_g or 0) for line in lines),
        )
        command = PlaceOrder(
            order_id=order.order_id,
            customer_id=f"C-{place.code}-{random.randrange(1, 400):03}",
            currency="EUR",
            lines=lines,
            region=place.code,
            placed_at=self._time(placed),
            promised_at=self._time(order.promised),
        )
        self._tell(placed, order.order_id, "place", command)
        self._totals.placed += 1
        self._totals.lines += len(lines)
        self._totals.goods_minor += sum(
            int(line.quantity) * line.unit_price_minor for line in lines
        )
        self._totals.freight_minor += sum(line.freight_minor for line in lines)
        return order

    def _lines(self) -> tuple[OrderLine, ...]:
        random = self._random
        size = random.choices((1, 2, 3, 4), (52, 28, 13, 7))[0]
        chosen: dict[str, Article] = {}
        while len(chosen) < size:
            [article] = random.choices(self._articles, cum_weights=self._popularity)
            chosen[article.sku] = article
        return tuple(
            OrderLine(
                line_no=number,
                sku=article.sku,
                quantity=Decimal(random.choices((1, 2, 3), (75, 18, 7))[0]),
                unit_price_minor=article.price_minor,
                freight_minor=290 + article.weight_g // 50,
                weight_g=article.weight_g,
            )
            for number, article in enumerate(chosen.values(), 1)
        )

    def _fulfil(self, order: _Order) -> None:
        """From the choice of a site to the customer's door, or to a cancellation."""
        random = self._random
        allocated = order.placed + random.randrange(120, 2_400)
        cancelled = random.random() < 0.02
        if cancelled and random.random() < 0.6:
            self._cancel(order, allocated, "changed mind")
            return
        able = [site for site in self._sites if _has(site, order.lines)]
        if not any(_may_send(site, order.place) for site in able):
            self._cancel(order, allocated + 6 * HOUR, "out of stock")
            return
        site = self._choose(able, order)
        level = self._level(site, order)
        vehicle = _vehicle(site, level, order)
        command = AllocateOrder(
            order_id=order.order_id,
            site_id=site.site_id,
            service_level=level,
            vehicle_id=vehicle.vehicle_id,
            allocated_at=self._time(allocated),
        )
        if not self._tell(allocated, order.order_id, "allocate", command):
            return
        self._totals.allocated += 1
        if cancelled:
            self._cancel(order, allocated + random.randrange(60, 900), "changed mind")
            return
        self._send(order, site, level, vehicle, self._pick(order, site, allocated))

    def _choose(self, able: Sequence[Site], order: _Order) -> Site:
        """What people did so far: mostly the nearest site, else any; nobody looked at backlogs.
        Where the route was forbidden they went back to the nearest site that may send there."""
        if self._random.random() >= 0.65:
            site = self._random.choice(able)
            if _may_send(site, order.place):
                return site
        legal = [site for site in able if _may_send(site, order.place)]
        return min(legal, key=lambda site: site.distance_to(order.place))

    def _level(self, site: Site, order: _Order) -> str:
        hurried = order.promised - order.placed < 5 * DAY
        wishes = {"economy": 34, "standard": 46, "express": 34 if hurried else 12}
        fit = [
            level.code
            for level in site.levels
            if level.max_weight_g is None or order.weight_g <= level.max_weight_g
        ]
        return self._random.choices(fit, [wishes[code] for code in fit])[0]

    def _pick(self, order: _Order, site: Site, allocated: int) -> int:
        """Wait for one's turn at the site, then take each line from its shelf."""
        turn = working_time(max(allocated, site.free_at), 14 * HOUR // site.capacity, self._weekday)
        site.free_at = turn
        ready = turn
        for line in order.lines:
            ready = working_time(ready, self._random.randrange(300, 1_800), self._weekday)
            # Reserved when the order was allocated, so that a later order cannot take it.
            site.stock[line.sku] -= int(line.quantity)
            command = PickStock(
                site_id=site.site_id,
                sku=line.sku,
                quantity=line.quantity,
                order_id=order.order_id,
                picked_at=self._time(ready),
            )
            if self._tell(ready, f"{order.order_id}:{line.line_no}", "pick", command):
                self._totals.picked += int(line.quantity)
        return working_time(ready, self._random.randrange(1_200, 7_200), self._weekday)

    def _send(self, order: _Order, site: Site, level: str, vehicle: Vehicle, shipped: int) -> None:
        ship = ShipOrder(
            order_id=order.order_id, carrier=f"{level}-eu", shipped_at=self._time(shipped)
        )
        delivered = self._arrival(order, site, level, vehicle, shipped)
        deliver = DeliverOrder(order_id=order.order_id, delivered_at=self._time(delivered))
        if self._tell(shipped, order.order_id, "ship", ship):
            self._totals.shipped += 1
        if self._tell(delivered, order.order_id, "deliver", deliver):
            self._totals.delivered += 1
            self._totals.late += delivered > order.promised

    def _arrival(
        self, order: _Order, site: Site, level: str, vehicle: Vehicle, shipped: int
    ) -> int:
        random = self._random
        speed = SPEEDS[level]
        hours = speed.base_h + site.distance_to(order.place) / speed.km_h
        hours *= self._lanes[site.site_id, order.place.code]
        hours *= vehicle.slowness(at_home=site.region == order.place)
        if order.weight_g > 12_000:
            hours *= 1.35
        hours *= 0.7 + 0.2 * (random.random() + random.random() + random.random())
        if random.random() < 0.02:
            hours += random.randrange(24, 97)
        return delivery_time(shipped + int(hours * HOUR), speed, self._weekday)

    def _cancel(self, order: _Order, at: int, reason: str) -> None:
        command = CancelOrder(order_id=order.order_id, reason=reason, cancelled_at=self._time(at))
        if self._tell(at, order.order_id, "cancel", command):
            self._totals.cancelled += 1

    def _tell(self, at: int, case: str, verb: str, command: Command) -> bool:
        """Put a command in; what would come after the year's end has not happened yet."""
        if at >= self._end:
            return False
        about = case.partition(":")[0]
        self._timed.append((at, len(self._timed), Keyed(f"{verb}:{case}", command, about, case)))
        return True

    def _time(self, second: int) -> datetime:
        return self._start + timedelta(seconds=second)


def _vehicle(site: Site, level: str, order: _Order) -> Vehicle:
    """One that carries the order, in turns, so that each is seen with orders of all kinds."""
    fit = [one for one in site.vehicles if one.carries(level, order.weight_g)]
    return fit[order.number % len(fit)]


def _may_send(site: Site, place: Place) -> bool:
    return (site.site_id, place.code) not in FORBIDDEN


def _has(site: Site, lines: Sequence[OrderLine]) -> bool:
    return all(site.stock.get(line.sku, 0) >= line.quantity for line in lines)
