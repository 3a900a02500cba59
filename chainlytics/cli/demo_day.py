"""The demo's day: orders with stock put aside, tours with a map, a simulation, an alert, KPIs.

All of it over HTTP, as a frontend would. Times are those of the data, so that a day fits behind the
year that is there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any
from uuid import uuid4

from rich.markup import escape

from chainlytics.cli.console import CliError, console, table
from chainlytics.cli.frontend import Frontend
from domain.values import money

#: Orders that are placed, and pieces of the article that they ask for: the last ones have to wait.
ORDERS = 16
PIECES = 40
_PATIENCE_S = 30
#: So far apart, in degrees, stops lie: a town and the land around it.
_AROUND = 0.12
_SHOWN_KPIS = 6


async def simulate(user: Frontend, home: Path) -> str:
    """Try out a surge with a site closed, on a branch of the log; what it did in a line."""
    [site, *_] = (await user.get("/sites", open="true", limit=1))["items"]
    scenario = await user.post(
        "/simulations/generate",
        {
            "scenario_id": f"DEMO-{uuid4().hex[:8]}",
            "seed": 7,
            "horizon_days": 7,
            "disturbances": [
                {"kind": "demand_surge", "factor": 1.5, "from_day": 2},
                {
                    "kind": "site_closed",
                    "site_id": site["site_id"],
                    "from_day": 3,
                    "to_day": 5,
                },
            ],
        },
    )
    asked = await user.post("/simulations/run", {"scenario_id": scenario["scenario_id"]})
    run_id = asked["simulation_id"]
    await user.done(run_id, "simulating a week twice")
    found = await user.get(f"/simulations/{run_id}/results")
    for told in found["disturbances"]:
        console.print(f"  {escape(told)}")
    moved = sorted(
        (one for one in found["kpis"] if one["difference"]),
        key=lambda one: -abs(one["difference"]) / (abs(one["base_line"] or 0) or 1),
    )
    table(
        "What that would do",
        ("KPI", "base line", "scenario"),
        [
            (one["title"], _figure(one["base_line"], one), _figure(one["scenario"], one))
            for one in moved[:_SHOWN_KPIS]
        ],
    )
    report = home / "demo-simulation.html"
    report.write_text(await user.get(f"/simulations/{run_id}/results/report.html"))
    console.print(f"[bold]Report[/]      {escape(str(report))}\n")
    days = len(found["days"])
    return f"{days} days, forked at position {found['position']:,}; no real stream was touched"


def _figure(value: float | None, kpi: dict[str, Any]) -> str:
    if value is None:
        return "-"
    if kpi["unit"] == "share":
        return f"{value:.1%}"
    if kpi["unit"] == "minor_units":
        return money(value, kpi["currency"])
    return f"{value:,.2f}"


class Day:
    """One day of a site: its orders from placing to the customer's door.

    Args:
        user: who does all of it.
        home: where pictures go.
    """

    def __init__(self, user: Frontend, home: Path) -> None:
        self._user, self._home = user, home
        self._mark = uuid4().hex[:6].upper()
        self._sku = f"JUICE-{self._mark}"
        self._random = Random(7)
        # Up to where the log has this day.
        self._position = 0

    async def run(self) -> tuple[str, str]:
        """Live the day; what the tours and the alert came to, each in a line."""
        latest = (await self._user.get("/orders", limit=1))["items"][0]
        start = datetime.fromisoformat(latest["placed_at"])
        day = (start + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        site_id, level = await self._site()
        await self._prepare(site_id, level, day)
        orders = await self._orders(site_id, level, day)
        tours = await self._tours(site_id, day, orders)
        alert = await self._alert(site_id)
        picture = self._home / "demo-dashboard.html"
        query = {"from": f"{start.date() - timedelta(days=28)}", "to": f"{day.date()}"}
        dashboard = await self._user.get(
            "/metrics/dashboard", format="html", min_position=self._position, **query
        )
        picture.write_text(dashboard)
        console.print(f"[bold]Dashboard[/]   {escape(str(picture))}\n")
        return tours, alert

    async def _site(self) -> tuple[str, str]:
        """A site that is open, with a place on the map, and a service level of it."""
        [site, *_] = (await self._user.get("/sites", open="true", limit=1))["items"]
        site_id = str(site["site_id"])
        if site["location"] is None:
            place = {"location": {"latitude": 52.37, "longitude": 4.9}}
            changed = await self._user.post(f"/sites/{site_id}/change", place)
            self._position = int(changed["position"])
        return site_id, str(site["service_levels"][0]["code"])

    async def _prepare(self, site_id: str, level: str, day: datetime) -> None:
        """An article with stock, and two vans of the day."""
        product = {
            "sku": self._sku,
            "name": "Apple juice, six bottles",
            "weight_g": 8_400,
            "volume_cm3": 11_000,
            "price_minor": 1_290,
            "currency": "EUR",
        }
        await self._user.post("/products", product)
        await self._user.post(
            f"/stock-keeping/{site_id}/{self._sku}", {"reorder_point": "10", "safety_stock": "4"}
        )
        await self._user.post(f"/stock/{site_id}/{self._sku}/receive", {"quantity": str(PIECES)})
        for number in (1, 2):
            vehicle_id = f"VAN-{self._mark}-{number}"
            van = {
                "vehicle_id": vehicle_id,
                "site_id": site_id,
                "mode": "van",
                "service_levels": [level],
                "vehicle_class": "N1",
                "max_weight_g": 190_000,
                "max_volume_cm3": 3_000_000,
            }
            await self._user.post("/vehicles", van)
            shift = {"starts_at": _at(day, 7), "ends_at": _at(day, 17)}
            assignment = {
                "assignment_id": f"SHIFT-{self._mark}-{number}",
                "vehicle_id": vehicle_id,
                "site_id": site_id,
                "window": shift,
            }
            await self._user.post("/assignments", assignment)

    async def _orders(self, site_id: str, level: str, day: datetime) -> list[str]:
        """Orders that are placed and allocated, with stock put aside as far as there is any."""
        site = await self._user.get(f"/sites/{site_id}", min_position=self._position)
        lines = []
        for number in range(1, ORDERS + 1):
            order_id = f"DAY-{self._mark}-{number:02}"
            opens = self._random.choice((8, 10, 13))
            quantity = self._random.choice((2, 3, 3, 4))
            order = {
                "order_id": order_id,
                "customer_id": f"C-{self._mark}-{number:02}",
                "currency": "EUR",
                "placed_at": _at(day, -12),
                "promised_at": _at(day, 18),
                "destination": {
                    axis: round(site["location"][axis] + self._random.uniform(-_AROUND, _AROUND), 5)
                    for axis in ("latitude", "longitude")
                },
                "delivery_window": {"starts_at": _at(day, opens), "ends_at": _at(day, opens + 4)},
                "lines": [
                    {
                        "line_no": 1,
                        "sku": self._sku,
                        "quantity": str(quantity),
                        "unit_price_minor": 1_290,
                        "weight_g": 8_400,
                        "volume_cm3": 11_000,
                    }
                ],
            }
            await self._user.post("/orders", order)
            where = {"site_id": site_id, "service_level": level, "allocated_at": _at(day, -11)}
            await self._user.post(f"/orders/{order_id}/allocate", where)
            reserved = await self._user.post(
                f"/orders/{order_id}/reserve", {"reserved_at": _at(day, -11)}
            )
            lines.append((order_id, reserved["position"]))
        last = lines[-1][1]
        waiting = (
            await self._user.get("/backorders", site_id=site_id, sku=self._sku, min_position=last)
        )["items"]
        late = {one["order_id"] for one in waiting}
        console.print(
            f"{ORDERS} orders of {PIECES} pieces on the shelf: {ORDERS - len(late)} have all that "
            f"they asked for put aside, {len(late)} wait for goods"
        )
        return [order_id for order_id, _ in lines if order_id not in late]

    async def _tours(self, site_id: str, day: datetime, orders: Sequence[str]) -> str:
        asked = await self._user.post(
            "/tours/plan",
            {
                "site_id": site_id,
                "day": f"{day.date()}",
                "order_ids": list(orders),
                "plan_id": f"PLAN-{self._mark}",
                "seed": 1,
            },
        )
        task = await self._user.done(asked["task_id"], "planning tours")
        plan_id = f"PLAN-{self._mark}"
        position = task["last_position"]
        plan = await self._user.get(f"/tours/plans/{plan_id}", min_position=position)
        tours = (await self._user.get("/tours", plan_id=plan_id))["items"]
        table(
            f"Tours of {day.date()}",
            ("tour", "vehicle", "stops", "km", "cost", "CO2e kg"),
            [
                (
                    tour["tour_id"],
                    tour["vehicle_id"],
                    tour["stops"],
                    f"{tour['planned_distance_m'] / 1000:.1f}",
                    money(tour["planned_cost_minor"], tour["currency"]),
                    "-"
                    if tour["planned_carbon_g"] is None
                    else f"{tour['planned_carbon_g'] / 1000:.1f}",
                )
                for tour in tours
            ],
        )
        for left in plan["plan"]["solution"]["unserved"]:
            console.print(f"  left behind: {escape(left['sentence'])}")
        picture = self._home / "demo-tours.svg"
        picture.write_text(await self._user.get(f"/tours/plans/{plan_id}/map.svg"))
        console.print(f"[bold]Map[/]         {escape(str(picture))}")
        driven = await self._drive(tours[0]["tour_id"], day)
        stops = sum(tour["stops"] for tour in tours)
        return f"{len(tours)} tours, {stops} stops; {driven} delivered with proof"

    async def _drive(self, tour_id: str, day: datetime) -> int:
        """Load the first tour, and hand its orders over."""
        tour = await self._user.get(f"/tours/{tour_id}")
        stops = (await self._user.get("/tours/stops", tour_id=tour_id, limit=100))["items"]
        for stop in stops:
            await self._user.post(
                f"/orders/{stop['order_id']}/ship", {"shipped_at": tour["planned_starts_at"]}
            )
        await self._user.post(f"/tours/{tour_id}/start", {"started_at": tour["planned_starts_at"]})
        for stop in sorted(stops, key=lambda one: one["stop_no"]):
            # What was signed on the pad stays with the carrier; the log knows it by its hash.
            signed = hashlib.sha256(f"{tour_id}/{stop['order_id']}".encode()).hexdigest()
            proof = {"kind": "signature", "sha256": signed, "reference": f"PAD-{self._mark}"}
            done = {"completed_at": stop["planned_leave_at"], "proof": proof}
            path = f"/tours/{tour_id}/stops/{stop['order_id']}/complete"
            await self._user.post(path, done)
        finished = {"finished_at": tour["planned_ends_at"]}
        came_back = await self._user.post(f"/tours/{tour_id}/finish", finished)
        self._position = came_back["position"]
        return len(stops)

    async def _alert(self, site_id: str) -> str:
        """The watcher has seen that the shelf is nearly empty; somebody takes care of it."""
        give_up = monotonic() + _PATIENCE_S
        while monotonic() < give_up:
            found = (await self._user.get("/alerts", search=self._sku))["items"]
            if found:
                alert = found[0]
                console.print(
                    f"[bold]Alert[/]       [yellow]{escape(alert['severity'])}[/] "
                    f"{escape(alert['sentence'])}"
                )
                await self._user.post(f"/alerts/{alert['alert_id']}/acknowledge", {})
                return f"{alert['kind']} at {site_id}, acknowledged"
            await asyncio.sleep(0.2)
        raise CliError(f"no alert was raised about {self._sku} within {_PATIENCE_S} s")


def _at(day: datetime, hour: int) -> str:
    return (day + timedelta(hours=hour)).isoformat()
