"""Looking rows up is another way to what the running form says: the same values for every table."""

from __future__ import annotations

import asyncio

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from domain.decisions import DecisionMade
from ml.catalogue import FEATURE_TABLES
from projections import rows
from projections.fold import collect
from projections.look_up import can_be_looked_up, look_up
from projections.running import running
from projections.table import LAST_POSITION, Table
from tests.world import ORGANISATION, a_year, company, deployed_model, open_orders, request


@pytest.fixture(scope="module")
def year(database: str) -> str:
    """A database with a year, a model and some decisions; its feature tables are at the head."""

    async def fill() -> None:
        async with company(database) as app:
            await a_year(app)
            await deployed_model(app)
            for number, order_id in enumerate((await open_orders(app))[:3]):
                await request(app, f"d-{number}", order_id)
            await app.consumer.catch_up()

    asyncio.run(fill())
    return database


@pytest.mark.parametrize(
    "table", [one for one in FEATURE_TABLES if can_be_looked_up(one)], ids=lambda one: one.name
)
def test_it_says_what_the_running_form_says(year: str, table: Table) -> None:
    async def story() -> None:
        async with company(year) as app, app.log.connection() as connection:
            stored = await rows.read_all(connection, table, str(ORGANISATION))
            known = stored.select(table.keys).sample(fraction=1, shuffle=True, seed=3).head(300)
            schema = known.schema
            strange = {
                name: str(ORGANISATION) if name == "organisation_id" else None for name in schema
            }
            other = strange | {
                name: "nobody" for name, kind in schema.items() if kind == pl.String()
            }
            other |= {"organisation_id": str(ORGANISATION)}
            # Known keys, twice in part, one that is not there, and one without a value.
            asked = pl.concat(
                [known, known.head(2), pl.DataFrame([other, strange], schema=schema)]
            ).sample(fraction=1, shuffle=True, seed=5)
            head = await app.log.head()
            probes = asked.with_columns(pl.lit(head).cast(pl.Int64).alias("position"))
            async with connection.transaction():
                [found] = await look_up(connection, [(table, asked)])
            wanted = running(table, stored, probes).drop(*table.keys, "position")
            assert_frame_equal(found, wanted)
            if known.height:
                assert found[LAST_POSITION].null_count() < found.height

    asyncio.run(story())


def test_a_table_with_lists_is_not_looked_up() -> None:
    listed = Table(
        name="listed",
        key={DecisionMade: ("kind",)},
        columns={"decisions": collect({DecisionMade: "decision_id"})},
    )
    assert not can_be_looked_up(listed)


def test_several_tables_are_one_question(year: str) -> None:
    """Each answer stays with its table."""

    async def story() -> None:
        async with company(year) as app, app.log.connection() as connection:
            tables = [one for one in FEATURE_TABLES if can_be_looked_up(one)]
            keys = [
                (await rows.read_all(connection, one, str(ORGANISATION))).select(one.keys).head(5)
                for one in tables
            ]
            async with connection.transaction():
                together = await look_up(connection, list(zip(tables, keys, strict=True)))
                for table, some, found in zip(tables, keys, together, strict=True):
                    [alone] = await look_up(connection, [(table, some)])
                    assert_frame_equal(found, alone)

    asyncio.run(story())
