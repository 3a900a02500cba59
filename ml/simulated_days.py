"""The days of a simulation on one branch: orders are placed, decided on, shipped and delivered,
goods are ordered and come in; each step is a command, and what a rule refuses does not happen.

What is assumed beside the log: docs/simulations.md.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import partial

import polars as pl
from polars import col

from commands.inventory import stock_stream
from commands.orders import order_stream
from commands.sites import site_stream
from domain.decisions import RULE_BASED, DecisionMade, DecisionReferred, RequestDecision
from domain.inventory import STOCK as STOCKS
from domain.inventory import ReceiveStock
from domain.order_state import Order, Status
from domain.orders import (
    ORDERS,
    AllocateOrder,
    CancelOrder,
    DeliverOrder,
    PlaceOrder,
    ShipOrder,
)
from domain.reservations import ReleaseOrder, ReserveOrder
from domain.reviews import ConfirmDecision
from domain.simulations import DisturbanceOfScenario, Disturbing
from domain.sites import SITES, CloseSite, ReopenSite
from domain.transport import RetireVehicle
from domain.values import Command, Event
from ml.branch import Branch, Hypothetical
from ml.replenishment import LEAD_DAYS, REVIEW_DAYS
from ml.scenarios import Past, demand, drawn, is_active
from ml.tables import STOCK, STOCK_WEEK

#: The hours (UTC) at which all that waits is decided on.
DECIDED_AT = (8, 13, 18)
#: The hours at which goods come in, and at which it is looked what to order, on Mondays.
RECEIVED_AT, REVIEWED_AT = 5, 6
#: An order for which no option was found on so many days is given up.
MOST_TRIES = 5
#: What is looked at once: the articles that last the shortest.
MOST_REVIEWED = 500

#: For so many days behind the simulated ones their orders are followed to the door: who stops
#: looking at the end sees the quick deliveries alone, and few late ones.
MOST_DAYS_AFTER = 30

#: Something that happens at a moment.
Step = Callable[[datetime], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class OpenOrder:
    """An order of the log that was under way where the branch leaves it."""

    order_id: str
    status: str
    site_id: str | None
    service_level: str | None
    region: str | None
    lines: Sequence[tuple[str, Decimal]]


class SimulatedDays:
    """Lets days go by on a branch.

    Args:
        branch: what happens is on it.
        past: what is drawn from.
        seed: what chance brings.
        disturbances: what goes otherwise than usual; none: the base line.
        open_orders: what was under way.
        on_day: told how many days are over, now and then; it raises where it is to stop.
    """

    def __init__(
        self,
        branch: Branch,
        past: Past,
        seed: int,
        disturbances: Sequence[DisturbanceOfScenario],
        open_orders: Sequence[OpenOrder],
        on_day: Callable[[int], None],
    ) -> None:
        self._branch, self._past, self._seed = branch, past, seed
        self._disturbances, self._open, self._on_day = disturbances, open_orders, on_day
        self._over = 0
        self._steps: list[tuple[datetime, int, Step]] = []
        self._number = 0
        # Orders that wait for a decision: on how many days there was none for them.
        self._waiting: dict[str, int] = {}
        # Those of the simulated days that are neither delivered nor given up.
        self._unsettled: set[str] = set()
        self._regions: dict[str, str] = {}
        # What it is about.
        self._lines: dict[str, Sequence[tuple[str, Decimal]]] = {}
        # Its site, and the service level.
        self._from: dict[str, tuple[str, str]] = {}
        self._ordered: set[tuple[str, str]] = set()
        self._decisions = 0
        #: How many decisions of which kind which model made, or the kind's rule.
        self.decided_by: Counter[str] = Counter()

    async def run(self, days: int) -> None:
        """Let so many days go by, and then so many more as their orders take."""
        self._begin()
        for day in range(1, days + 1):
            self._plan(day)
            self._demand(day)
            await self._branch.read(self._orders)
            await self._live(day)
            self._over = day
            self._on_day(day)
        for day in range(days + 1, days + MOST_DAYS_AFTER + 1):
            if not self._unsettled:
                break
            self._plan(day)
            await self._live(day)
            self._on_day(days)

    async def _live(self, day: int) -> None:
        """Do what is to happen on a day."""
        ends = self._moment(day + 1)
        while self._steps and self._steps[0][0] < ends:
            at, _, step = heapq.heappop(self._steps)
            await step(at)
        self._branch.fold()

    # what is to happen

    def _moment(self, day: int, hour: int = 0) -> datetime:
        on = self._past.start + timedelta(days=day - 1)
        return datetime.combine(on, time(hour, tzinfo=UTC))

    def _later(self, at: datetime, step: Step) -> None:
        self._number += 1
        heapq.heappush(self._steps, (at, self._number, step))

    def _begin(self) -> None:
        """What was under way goes on."""
        begins = self._moment(1)
        for one in self._open:
            self._regions[one.order_id] = one.region or ""
            self._lines[one.order_id] = one.lines
            self._from[one.order_id] = one.site_id or "", one.service_level or ""
            share = drawn(self._seed, "open", one.order_id)
            if one.status == Status.PLACED:
                self._waiting[one.order_id] = 0
            elif one.status in (Status.ALLOCATED, Status.PARTLY_SHIPPED):
                after = self._past.handling.draw(share, one.site_id or "")
                self._later(begins + after * share, partial(self._ship, one.order_id))
            elif one.status == Status.SHIPPED:
                after = self._transit(one.order_id, one.site_id or "", one.service_level or "")
                # Some of the way is behind it, nobody knows how much.
                self._later(begins + after * share, partial(self._deliver, one.order_id))
        self._open = ()

    def _plan(self, day: int) -> None:
        """Put in what is known of a day when it begins."""
        begins = self._moment(day)
        for one in self._disturbances:
            if one.from_day == day and one.kind == Disturbing.SITE_CLOSED:
                close = CloseSite(site_id=str(one.site_id), reason="simulated", closed_at=begins)
                self._later(begins, partial(self._send, close))
            if one.to_day == day - 1 and one.kind == Disturbing.SITE_CLOSED:
                reopen = ReopenSite(site_id=str(one.site_id), reopened_at=begins)
                self._later(begins, partial(self._send, reopen))
            if one.from_day == day and one.kind == Disturbing.VEHICLE_LOST:
                lose = RetireVehicle(
                    vehicle_id=str(one.vehicle_id), reason="simulated", retired_at=begins
                )
                self._later(begins, partial(self._send, lose))
        for number, hour in enumerate(DECIDED_AT):
            self._later(self._moment(day, hour), partial(self._decide, number == 0))

    def _demand(self, day: int) -> None:
        """Put in what is asked for on a day, and that goods are looked at."""
        if self._moment(day).weekday() == 0:
            self._later(self._moment(day, REVIEWED_AT), partial(self._review, day))
        self._orders = demand(self._past, self._seed, day, self._disturbances)
        for order in self._orders:
            self._later(order.placed_at, partial(self._place, order))

    # what happens

    async def _send(self, command: Command, at: datetime) -> None:
        await self._branch.attempt(Hypothetical(command, at))

    async def _place(self, order: PlaceOrder, at: datetime) -> None:
        if await self._branch.attempt(Hypothetical(order, at)) is None:
            return
        self._regions[order.order_id] = order.region or ""
        self._lines[order.order_id] = [(line.sku, line.quantity) for line in order.lines]
        self._waiting[order.order_id] = 0
        self._unsettled.add(order.order_id)
        if drawn(self._seed, "cancel", order.order_id) < self._past.cancel_share:
            share = drawn(self._seed, "cancelled after", order.order_id)
            after = self._past.cancel_after.draw(share) if self._past.cancel_after else timedelta(0)
            self._later(at + after, partial(self._cancel, order.order_id, "changed mind"))

    async def _cancel(self, order_id: str, reason: str, at: datetime) -> None:
        cancel = CancelOrder(order_id=order_id, reason=reason, cancelled_at=at)
        if await self._branch.attempt(Hypothetical(cancel, at)) is not None:
            self._waiting.pop(order_id, None)
            self._unsettled.discard(order_id)

    async def _decide(self, first: bool, at: datetime) -> None:
        """Ask where each order that waits is to go from. Those that were asked for in vain are
        asked for again on the next day."""
        self._on_day(self._over)
        waiting = [order_id for order_id, tries in self._waiting.items() if first or not tries]
        if not waiting:
            return
        asked: dict[str, str] = {}
        self._branch.fold()
        for order_id in waiting:
            if self._waiting[order_id] >= MOST_TRIES:
                await self._cancel(order_id, "no option was found", at)
                self._waiting.pop(order_id, None)
                self._unsettled.discard(order_id)
                continue
            self._waiting[order_id] += 1
            asked |= await self._request("fulfilment", order_id, at)
        for decision_id, option in (await self._answers(at)).items():
            await self._allocate(asked[decision_id], decision_id, option, at)

    async def _request(self, kind: str, subject_id: str, at: datetime) -> dict[str, str]:
        """The subject by the id of its decision; nothing where it cannot be asked."""
        self._decisions += 1
        decision_id = f"SIM-D-{self._decisions:06}"
        command = RequestDecision(
            decision_id=decision_id, kind=kind, subject_id=subject_id, requested_at=at
        )
        events = await self._branch.attempt(Hypothetical(command, at))
        return {} if events is None else {decision_id: subject_id}

    async def _answers(self, at: datetime) -> dict[str, dict[str, str]]:
        """The option of each decision that was just requested and has one. Where people are asked,
        they agree."""
        events: Sequence[Event] = await self._branch.decide(at)
        made = {
            one.decision_id: one.option
            for one in events
            if isinstance(one, DecisionMade) and one.option
        }
        for one in events:
            if isinstance(one, DecisionMade):
                by = one.role if one.role == RULE_BASED else f"{one.role} {one.model_hash[:12]}"
                self.decided_by[f"{one.kind}: {by}"] += 1
            if isinstance(one, DecisionReferred) and one.decision_id in made:
                confirm = ConfirmDecision(decision_id=one.decision_id, confirmed_at=at)
                for number in range(one.approvals):
                    person = f"simulated-person-{number + 1}"
                    if await self._branch.attempt(Hypothetical(confirm, at, person)) is None:
                        del made[one.decision_id]
                        break
        return made

    async def _allocate(
        self, order_id: str, decision_id: str, option: dict[str, str], at: datetime
    ) -> None:
        command = AllocateOrder(
            order_id=order_id,
            site_id=option["site_id"],
            service_level=option["service_level"],
            vehicle_id=option.get("vehicle_id"),
            decision_id=decision_id,
            allocated_at=at,
        )
        if await self._branch.attempt(Hypothetical(command, at)) is None:
            return
        self._from[order_id] = command.site_id, command.service_level
        if not await self._reserve(order_id, command.site_id, at):
            return
        self._waiting.pop(order_id, None)
        share = drawn(self._seed, "handling", order_id)
        after = self._past.handling.draw(share, command.site_id)
        self._later(at + after, partial(self._ship, order_id))

    async def _reserve(self, order_id: str, site_id: str, at: datetime) -> bool:
        """Put its goods aside, all or none, where the site keeps all of them in stock here."""
        for sku, _ in self._lines[order_id]:
            if not (await self._branch.known(stock_stream(site_id, sku), STOCKS)).version:
                return True
        reserve = ReserveOrder(order_id=order_id, partial=False, reserved_at=at)
        return await self._branch.attempt(Hypothetical(reserve, at)) is not None

    async def _ship(self, order_id: str, at: datetime) -> None:
        """Hand it over; where its site is closed by then, it waits for another decision."""
        site_id, service_level = self._from[order_id]
        order: Order = (await self._branch.known(order_stream(order_id), ORDERS)).state
        if order.status not in (Status.ALLOCATED, Status.PARTLY_SHIPPED):
            return
        if not (await self._branch.known(site_stream(site_id), SITES)).state.is_open:
            if order.is_reserved:
                await self._send(ReleaseOrder(order_id=order_id, released_at=at), at)
            self._waiting.setdefault(order_id, 1)
            return
        ship = ShipOrder(order_id=order_id, carrier=None, shipped_at=at)
        if await self._branch.attempt(Hypothetical(ship, at)) is not None:
            after = self._transit(order_id, site_id, service_level)
            self._later(at + after, partial(self._deliver, order_id))
        else:
            self._unsettled.discard(order_id)

    def _transit(self, order_id: str, site_id: str, service_level: str) -> timedelta:
        share = drawn(self._seed, "transit", order_id)
        return self._past.transit.draw(share, service_level, self._regions[order_id], site_id)

    async def _deliver(self, order_id: str, at: datetime) -> None:
        await self._send(DeliverOrder(order_id=order_id, delivered_at=at), at)
        self._unsettled.discard(order_id)

    # goods

    async def _review(self, day: int, at: datetime) -> None:
        """Ask what to order of the articles that do not last long."""
        self._on_day(self._over)
        asked: dict[str, str] = {}
        for site_id, sku in self._short(at):
            asked |= await self._request("replenishment", f"{site_id}/{sku}", at)
        for decision_id, option in (await self._answers(at)).items():
            if option.get("order") != "now":
                continue
            site_id, _, sku = asked[decision_id].partition("/")
            late = sum(
                one.days or 0
                for one in self._disturbances
                if one.kind == Disturbing.SUPPLIER_LATE
                and is_active(one, day)
                and one.sku in (None, sku)
                and one.site_id in (None, site_id)
            )
            self._ordered.add((site_id, sku))
            receive = ReceiveStock(
                site_id=site_id,
                sku=sku,
                quantity=Decimal(option["quantity"]),
                received_at=self._moment(day + LEAD_DAYS + late, RECEIVED_AT),
            )
            assert receive.received_at is not None
            self._later(receive.received_at, partial(self._receive, receive))

    async def _receive(self, receive: ReceiveStock, at: datetime) -> None:
        self._ordered.discard((receive.site_id, receive.sku))
        await self._send(receive, at)

    def _short(self, at: datetime) -> list[tuple[str, str]]:
        """Articles of which there is less than twice what goes, ever or lately, until the goods of
        the next weekly order come; none that is on its way. The shortest first."""
        age = (pl.lit(at) - col("first_at")).dt.total_seconds() / 86_400.0
        weeks = self._branch.rows(STOCK_WEEK)
        lately = (
            weeks.filter(col("week") >= (at - timedelta(days=28)).date())
            .group_by("site_id", "sku")
            .agg(lately=col("picked").cast(pl.Float64).sum() / 28.0)
        )
        daily = pl.max_horizontal(
            col("picked").cast(pl.Float64) / pl.max_horizontal(age, 7.0), col("lately")
        )
        rows = (
            self._branch.rows(STOCK)
            .join(lately, on=["site_id", "sku"], how="left")
            .with_columns(lasts=col("on_hand").cast(pl.Float64) / daily)
            .filter((col("picks") > 0) & (col("lasts") < 2.0 * (LEAD_DAYS + REVIEW_DAYS)))
            .sort("lasts", "site_id", "sku")
        )
        found = list(rows.select("site_id", "sku").iter_rows())
        return [one for one in found if one not in self._ordered][:MOST_REVIEWED]
