"""Any read model as of any moment: what its queries would have answered then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import polars as pl
import pytest

from chainlytics.application import Application
from domain.inventory import PickStock, ReceiveStock
from domain.sites import OpenSite, ServiceLevel
from ml.catalogue import FEATURE_TABLES
from projections.as_of import NotByEffectiveTime, rows_as_of
from projections.catalogue import TABLES
from projections.reading import LogReader
from projections.table import Table
from readmodels import audit, decisions, inventory, kpis, models, orders, sites, transport
from readmodels.database import ReadModels
from readmodels.past import AsOf, NotInThePast, Past
from tests.world import (
    ORGANISATION,
    a_year,
    company,
    context,
    deployed_model,
    open_orders,
    request,
)

Query = Callable[[ReadModels], Awaitable[Any]]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@asynccontextmanager
async def busy(url: str) -> AsyncIterator[Application]:
    """A company with a year of orders and some decisions behind it, made once."""
    async with company(url) as app:
        if await app.log.head() == 0:
            await a_year(app, orders=600)
            await deployed_model(app)
            for number, order_id in enumerate(await open_orders(app, 5)):
                await request(app, f"D-{number}", order_id)
            await app.consumer.catch_up()
        await app.projector.catch_up()
        yield app


def queries(order_id: str, model_hash: str) -> dict[str, Query]:
    """Every query that there is, with what it takes."""
    return {
        "orders.list": lambda read: orders.list_orders(read, limit=300),
        "orders.list status": lambda read: orders.list_orders(read, status="delivered", limit=50),
        "orders.get": lambda read: orders.get_order(read, order_id),
        "orders.timeline": lambda read: orders.order_timeline(read, order_id),
        "sites.list": lambda read: sites.list_sites(read, limit=100),
        "sites.get": lambda read: sites.get_site(read, "S-AMS"),
        "stock.list": lambda read: inventory.list_stock(read, limit=400),
        "vehicles.list": lambda read: transport.list_vehicles(read, limit=100),
        "vehicles.list site": lambda read: transport.list_vehicles(read, site_id="S-AMS"),
        "vehicles.get": lambda read: transport.get_vehicle(read, "V-AMS-VAN"),
        "routes.list": lambda read: transport.list_routes(read),
        "decisions.list": lambda read: decisions.list_decisions(read, limit=100),
        "decisions.get": lambda read: decisions.get_decision(read, "D-1"),
        "models.list": lambda read: models.list_models(read),
        "models.get": lambda read: models.get_model(read, model_hash),
        "kpis.daily": lambda read: kpis.daily_kpis(read, limit=400),
        "audit.trail": lambda read: audit.audit_trail(read, limit=500),
        "audit.trail area": lambda read: audit.audit_trail(read, area="models"),
    }


async def events(reader: LogReader, table: Table, keys: pl.DataFrame, to: int) -> pl.DataFrame:
    return pl.concat([piece async for piece in reader.of_keys(table, keys, to)])


def new_site(site_id: str) -> OpenSite:
    standard = ServiceLevel(code="standard", cost_minor=1, carbon_g=1)
    return OpenSite(
        site_id=site_id,
        name="New",
        region="DE-BE",
        service_levels=(standard,),
        daily_capacity=5,
        opened_at=NOON,
    )


def test_every_query_as_of_now_answers_what_it_answers_now(database: str) -> None:
    async def run() -> None:
        async with busy(database) as app:
            past = Past(app.log, app.url)
            now = await past.at(None)
            live = ReadModels(app.log, ORGANISATION)
            then = ReadModels(app.log, ORGANISATION, past, now)
            [model] = (await models.list_models(live)).items
            [order, *_] = (await orders.list_orders(live, status="delivered")).items
            for name, ask in queries(order.order_id, model.model_hash).items():
                expected = await ask(live)
                assert expected is not None, name
                assert await ask(then) == expected, name

    asyncio.run(run())


def test_a_query_answers_what_it_answered_when_the_log_was_there(database: str) -> None:
    async def run() -> None:
        async with busy(database) as app:
            past = Past(app.log, app.url)
            live = ReadModels(app.log, ORGANISATION)
            answers: dict[int, dict[str, Any]] = {}

            async def remember() -> None:
                head = await app.log.head()
                await app.projector.catch_up()
                answers[head] = {
                    "site": await sites.get_site(live, "S-NEW"),
                    "sites": await sites.list_sites(live, limit=100),
                    "stock": await inventory.list_stock(live, site_id="S-NEW"),
                    "models": await models.list_models(live),
                }

            await remember()
            await app.bus.execute(new_site("S-NEW"), context())
            await remember()
            for number in range(1, 4):
                receive = ReceiveStock(
                    site_id="S-NEW", sku="A", quantity=Decimal(number), received_at=NOON
                )
                await app.bus.execute(receive, context())
                await remember()
            assert len(answers) == 5
            for position, told in answers.items():
                then = ReadModels(app.log, ORGANISATION, past, AsOf(position))
                assert await sites.get_site(then, "S-NEW") == told["site"]
                assert await sites.list_sites(then, limit=100) == told["sites"]
                assert await inventory.list_stock(then, site_id="S-NEW") == told["stock"]
                assert await models.list_models(then) == told["models"]
            assert answers[min(answers)]["site"] is None

    asyncio.run(run())


def test_a_time_names_the_last_position_recorded_by_then(database: str) -> None:
    async def run() -> None:
        async with busy(database) as app:
            past = Past(app.log, app.url)
            head = await app.log.head()
            [last] = await app.log.after(head - 1, 1)
            assert (await past.at(last.recorded_at)).position == head
            assert (await past.at(last.recorded_at - timedelta(microseconds=1))).position < head
            assert (await past.at(datetime(2020, 1, 1, tzinfo=UTC))).position == 0
            nothing = ReadModels(app.log, ORGANISATION, past, AsOf(0))
            assert (await orders.list_orders(nothing)).items == ()
            with pytest.raises(NotInThePast, match=rf"ends at position {head}, {head + 1} was"):
                await past.at(head + 1)
            with pytest.raises(NotInThePast, match="is not in the past"):
                await past.at(datetime.now(UTC) + timedelta(hours=1))

    asyncio.run(run())


def test_stock_counts_when_it_moved_as_far_as_it_is_known(database: str) -> None:
    async def run() -> None:
        async with busy(database) as app:
            past = Past(app.log, app.url)

            async def on_hand(as_of: AsOf) -> Decimal | None:
                read = ReadModels(app.log, ORGANISATION, past, as_of)
                items = (await inventory.list_stock(read, site_id="S-T", sku="A")).items
                return items[0].on_hand if items else None

            def moved(cls: type[Any], quantity: int, day: int, field: str) -> Any:
                at = NOON + timedelta(days=day)
                return cls(site_id="S-T", sku="A", quantity=Decimal(quantity), **{field: at})

            await app.bus.execute(new_site("S-T"), context())
            await app.bus.execute(moved(ReceiveStock, 10, 0, "received_at"), context())
            await app.bus.execute(moved(PickStock, 3, 4, "picked_at"), context())
            before = await app.log.head()
            # It was two days earlier that more had come in; that is told only now.
            await app.bus.execute(moved(ReceiveStock, 5, 2, "received_at"), context())
            await app.projector.catch_up()
            head = await app.log.head()
            day = [NOON + timedelta(days=n, hours=1) for n in range(5)]
            assert [await on_hand(AsOf(head, at)) for at in day] == [10, 10, 15, 15, 12]
            assert [await on_hand(AsOf(before, at)) for at in day] == [10, 10, 10, 10, 7]
            assert await on_hand(AsOf(head, NOON - timedelta(days=1))) is None
            [row] = (
                await inventory.list_stock(ReadModels(app.log, ORGANISATION), site_id="S-T")
            ).items
            assert row.last_moved_at == NOON + timedelta(days=4)
            assert row.on_hand == 12
            assert row.last_position == head
            orders_then = ReadModels(app.log, ORGANISATION, past, AsOf(head, NOON))
            with pytest.raises(NotByEffectiveTime, match="order_summary knows no time"):
                await orders.list_orders(orders_then)

    asyncio.run(run())


def test_only_the_keys_asked_for_are_read(database: str) -> None:
    async def run() -> None:
        async with busy(database) as app, LogReader(app.url) as reader:
            head = await app.log.head()
            order_id = (await open_orders(app, 1))[0]
            row = {"organisation_id": str(ORGANISATION), "order_id": order_id}
            for name in ("order_summary", "order_timeline"):
                found = await events(reader, TABLES[name], pl.DataFrame([row]), head)
                assert 1 <= found.height < 10, name
            # What is kept in streams of another key is looked for in the log, by its text.
            feature = next(t for t in FEATURE_TABLES if t.name == "feature_sites")
            site = pl.DataFrame([{"organisation_id": str(ORGANISATION), "site_id": "S-AMS"}])
            part = await events(reader, feature, site, head)
            assert 0 < part.height < head / 2
            rows = await rows_as_of(reader, feature, head, keys=site)
            every = await rows_as_of(reader, feature, head, organisation_id=ORGANISATION)
            assert rows.to_dicts() == every.filter(pl.col("site_id") == "S-AMS").to_dicts()

    asyncio.run(run())


def test_another_organisation_has_another_past(database: str) -> None:
    async def run() -> None:
        async with busy(database) as app:
            past = Past(app.log, app.url)
            now = await past.at(None)
            other = ReadModels(app.log, UUID(int=7), past, now)
            assert (await orders.list_orders(other)).items == ()
            assert await sites.get_site(other, "S-AMS") is None

    asyncio.run(run())
