"""The sample year: the same on every machine, plausible, and taken by the bus without a refusal."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commands import HANDLERS, Bus, digest_of
from commands.bulk import Keyed, Progress, Sender, send_all
from commands.sample_year import SampleYear, sample_year
from domain.inventory import PickStock, ReceiveStock
from domain.orders import AllocateOrder, CancelOrder, DeliverOrder, PlaceOrder, ShipOrder
from domain.routes import ForbidRoute
from domain.sites import OpenSite, ServiceLevel
from domain.transport import RegisterVehicle
from eventstore import Log, Writer, prepare_database
from eventstore.streams import Streams

ORGANISATION = UUID("5f0c7f6e-6f0e-4f57-9df0-6d1d9f1f3a02")


@pytest.fixture(scope="module")
def year() -> SampleYear:
    return sample_year()


def _digest(year: SampleYear) -> str:
    sha = hashlib.sha256()
    for keyed in year.commands:
        sha.update(keyed.key.encode() + digest_of(keyed.command))
    return sha.hexdigest()


def _of(year: SampleYear, kind: type) -> list[Keyed]:
    return [keyed for keyed in year.commands if isinstance(keyed.command, kind)]


def test_a_seed_is_a_year() -> None:
    small = sample_year(seed=3, orders=300)
    assert _digest(small) == _digest(sample_year(seed=3, orders=300))
    assert _digest(small) != _digest(sample_year(seed=4, orders=300))


def test_the_default_year_is_the_same_on_every_machine(year: SampleYear) -> None:
    assert _digest(year) == "5ae18f88427d883acaad4c06e6bddee113d9f3c0d60620742cc19b5ec62dfdfc"


def test_the_totals_are_those_of_the_commands(year: SampleYear) -> None:
    totals = year.totals
    placed = [keyed.command for keyed in year.commands if isinstance(keyed.command, PlaceOrder)]
    assert totals.placed == len(placed) == 10_000
    assert totals.lines == sum(len(order.lines) for order in placed)
    assert totals.goods_minor == sum(
        line.quantity * line.unit_price_minor for order in placed for line in order.lines
    )
    assert totals.allocated == len(_of(year, AllocateOrder))
    assert totals.shipped == len(_of(year, ShipOrder))
    assert totals.delivered == len(_of(year, DeliverOrder))
    assert totals.cancelled == len(_of(year, CancelOrder))
    picks = [keyed.command for keyed in year.commands if isinstance(keyed.command, PickStock)]
    assert totals.picked == sum(pick.quantity for pick in picks)


def test_it_is_a_plausible_company(year: SampleYear) -> None:
    totals = year.totals
    assert 0.10 <= totals.late / totals.delivered <= 0.15
    assert 0.01 <= totals.cancelled / totals.placed <= 0.03
    levels = Counter(
        keyed.command.service_level
        for keyed in year.commands
        if isinstance(keyed.command, AllocateOrder)
    )
    assert set(levels) == {"economy", "standard", "express"}
    assert len(_of(year, OpenSite)) == 6
    start = [type(keyed.command).__name__ for keyed in year.commands[:22]]
    assert start[:4] == ["OpenSite", "RegisterVehicle", "RegisterVehicle", "RegisterVehicle"]
    assert Counter(start) == {"OpenSite": 6, "RegisterVehicle": 14, "ForbidRoute": 2}


def test_keys_are_unique(year: SampleYear) -> None:
    assert len({keyed.key for keyed in year.commands}) == len(year.commands)


def test_stock_never_falls_below_zero(year: SampleYear) -> None:
    on_hand: Counter[tuple[str, str]] = Counter()
    for keyed in year.commands:
        match keyed.command:
            case ReceiveStock() as receipt:
                on_hand[receipt.site_id, receipt.sku] += int(receipt.quantity)
            case PickStock() as pick:
                on_hand[pick.site_id, pick.sku] -= int(pick.quantity)
                assert on_hand[pick.site_id, pick.sku] >= 0


def test_each_order_names_a_vehicle_that_can_carry_it(year: SampleYear) -> None:
    vehicles: dict[str, RegisterVehicle] = {}
    placed: dict[str, PlaceOrder] = {}
    levels: dict[tuple[str, str], ServiceLevel] = {}
    for keyed in year.commands:
        match keyed.command:
            case OpenSite() as site:
                levels |= {(site.site_id, level.code): level for level in site.service_levels}
            case RegisterVehicle() as vehicle:
                vehicles[vehicle.vehicle_id] = vehicle
                for code in vehicle.service_levels:
                    level = levels[vehicle.site_id, code]
                    assert level.cost_minor + vehicle.cost_minor > 0
                    assert level.carbon_g + vehicle.carbon_g >= 0
            case PlaceOrder() as order:
                placed[order.order_id] = order
            case AllocateOrder() as choice:
                vehicle = vehicles[choice.vehicle_id or ""]
                assert choice.site_id == vehicle.site_id
                assert choice.service_level in vehicle.service_levels
                lines = placed[choice.order_id].lines
                weight = sum(line.quantity * (line.weight_g or 0) for line in lines)
                assert vehicle.max_weight_g is None or weight <= vehicle.max_weight_g
    assert Counter(vehicle.mode for vehicle in vehicles.values()) == {
        "van": 6,
        "truck": 6,
        "cargo_bike": 2,
    }
    used = Counter(
        keyed.command.vehicle_id
        for keyed in year.commands
        if isinstance(keyed.command, AllocateOrder)
    )
    assert used.keys() == vehicles.keys()
    assert min(used.values()) > 100


def test_no_order_goes_where_its_site_may_not_send(year: SampleYear) -> None:
    forbidden = {
        (keyed.command.site_id, keyed.command.region)
        for keyed in year.commands
        if isinstance(keyed.command, ForbidRoute)
    }
    assert len(forbidden) == 2
    regions = {
        keyed.case: keyed.command.region
        for keyed in year.commands
        if isinstance(keyed.command, PlaceOrder)
    }
    used = {
        (keyed.command.site_id, regions[keyed.case])
        for keyed in year.commands
        if isinstance(keyed.command, AllocateOrder)
    }
    assert forbidden.isdisjoint(used)
    assert len(used) == 6 * 12 - 2


def test_the_last_orders_wait_for_a_decision(year: SampleYear) -> None:
    allocated = {keyed.case for keyed in _of(year, AllocateOrder)}
    recent = [
        keyed.case
        for keyed in year.commands
        if isinstance(keyed.command, PlaceOrder)
        and keyed.command.placed_at >= year.ends_at - timedelta(days=2)
    ]
    assert len(recent) > 20
    assert allocated.isdisjoint(recent)


def test_lateness_follows_from_what_an_order_met(year: SampleYear) -> None:
    """A rule of thumb from slack and level separates late orders far better than chance."""
    placed = {
        keyed.case: keyed.command
        for keyed in year.commands
        if isinstance(keyed.command, PlaceOrder)
    }
    late = {
        keyed.case: keyed.command.delivered_at > placed[keyed.case].promised_at
        for keyed in year.commands
        if isinstance(keyed.command, DeliverOrder) and keyed.command.delivered_at
    }
    shares: dict[bool, list[bool]] = {True: [], False: []}
    for keyed in year.commands:
        if isinstance(keyed.command, AllocateOrder) and keyed.case in late:
            risky = keyed.command.service_level == "economy"
            order = placed[keyed.case]
            tight = order.promised_at - order.placed_at < timedelta(days=5)
            if risky == tight:
                shares[risky].append(late[keyed.case])
    assert sum(shares[True]) / len(shares[True]) > 3 * sum(shares[False]) / len(shares[False])


def test_the_bus_takes_it_whole_and_once(database: str) -> None:
    small = sample_year(orders=400)
    prepare_database(database)
    first, refusals = asyncio.run(_send(database, small))
    assert refusals == []
    assert first == Progress(len(small.commands), stored=len(small.commands))
    again, _ = asyncio.run(_send(database, small))
    assert again == Progress(len(small.commands), repeated=len(small.commands))
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT topic, count(*) FROM events GROUP BY 1").fetchall()
    stored: dict[str, int] = dict(rows)
    assert stored["orders.OrderPlaced.v1"] == small.totals.placed
    assert stored["orders.OrderDelivered.v1"] == small.totals.delivered
    assert stored["transport.VehicleRegistered.v1"] == 14
    assert stored["transport.RouteForbidden.v1"] == 2


async def _send(database: str, year: SampleYear) -> tuple[Progress, list[str]]:
    refusals: list[str] = []
    async with (
        AsyncConnectionPool(database, open=False) as pool,
        Streams(database) as streams,
        Writer(database) as writer,
    ):
        progress = await send_all(
            Bus(Log(pool), streams, writer, HANDLERS),
            year.commands,
            Sender(year.name, ORGANISATION, "test"),
            total=len(year.commands),
            on_refusal=lambda keyed, code, _: refusals.append(f"{keyed.key} {code}"),
        )
    return progress, refusals
