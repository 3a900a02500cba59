"""Branches: the log as of a position with hypothetical commands on top. The same seed gives the
same events, and nothing of it is ever on the log."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg import sql

from chainlytics.application import Application
from chainlytics.settings import Settings
from chainlytics.tasks import tools_of
from commands.inventory import stock_stream
from commands.tasks import task_stream
from domain.catalogue import TOPICS
from domain.decisions import DecisionMade
from domain.errors import Refused
from domain.inventory import STOCK, PickStock, ReceiveStock, StockReceived
from domain.orders import OrderPlaced
from domain.simulations import Disturbance, Disturbing, GenerateScenario, ScenarioGenerated
from domain.sites import CloseSite
from domain.work import RequestSimulation
from eventstore.ids import named_id
from ml.branch import Branch, Fork, Hypothetical
from ml.job import CannotBeDone, Found, Job
from ml.scorers import Scorers
from ml.simulating import Begun, Outcome, begin, check_size, run, simulation
from ml.simulation_report import SimulationResults
from ml.tables import STOCK as STOCK_ROWS
from projections.as_of import rows_as_of
from projections.catalogue import TABLES
from projections.engine import fold_events
from projections.reading import LogReader
from readmodels.tasks import task_of
from tests.serving import SECRET
from tests.world import ORGANISATION, a_year, company, context, copied, deployed_model

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 3
T = TypeVar("T")


def quiet(*_: Any) -> None:
    """Nobody listens."""


def on(url: str, work: Callable[[Application], Coroutine[Any, Any, T]]) -> T:
    """What some work with the application on a database comes to."""

    async def main() -> T:
        async with company(url) as app:
            return await work(app)

    return asyncio.run(main())


@pytest.fixture(scope="module")
def year(database: str) -> str:
    """A small made year, without any model; its read models are kept."""

    async def fill(app: Application) -> None:
        await a_year(app, orders=700)
        await app.projector.catch_up()
        await app.consumer.catch_up()

    on(database, fill)
    return database


async def begun_at(app: Application, position: int | None = None) -> Begun:
    head = await app.log.head() if position is None else position
    return await begin(app.url, app.log, ORGANISATION, head, 28, quiet)


def a_scenario(*disturbances: Disturbance, **more: Any) -> ScenarioGenerated:
    command = GenerateScenario(
        scenario_id="S-1",
        disturbances=disturbances or (Disturbance(kind=Disturbing.DEMAND_SURGE, factor=2),),
        generated_at=NOW,
        **({"seed": 11, "horizon_days": DAYS} | more),
    )
    return ScenarioGenerated.model_validate(
        command.model_dump(mode="json") | {"generated_by": "ana"}
    )


async def ran(app: Application, begun: Begun, scenario: ScenarioGenerated) -> Outcome:
    return await run(begun, scenario, 0, Scorers(app.artifacts), quiet, keep=True)


def digest_of_all(outcome: Outcome) -> str:
    """Over every field of every event, as nobody else reckons it."""
    told = "\n".join(repr(event) for event in outcome.branch.events)
    return hashlib.sha256(told.encode()).hexdigest()


async def a_stock(app: Application) -> tuple[int, str, str, Decimal]:
    """Position, site, article and quantity of the log's first receipt."""
    events = await app.log.after(0, 10_000)
    first = next(one for one in events if one.topic == TOPICS[StockReceived])
    told = json.loads(first.state)
    return first.position, told["site_id"], told["sku"], Decimal(told["quantity"])


# what a branch sees


def test_a_branch_sees_the_log_up_to_its_position(year: str) -> None:
    async def look(app: Application) -> None:
        position, site_id, sku, quantity = await a_stock(app)
        name = stock_stream(site_id, sku)
        for at, version in ((position, 1), (position - 1, 0)):
            fork = Fork(app.log, ORGANISATION, at, {})
            known = await Branch(fork, "look", Scorers(app.artifacts)).known(name, STOCK)
            assert known.version == version
            assert known.state.on_hand == (quantity if version else 0)
        elsewhere = Fork(app.log, named_id(ORGANISATION, "other"), position, {})
        known = await Branch(elsewhere, "look", Scorers(app.artifacts)).known(name, STOCK)
        assert known.version == 0

    on(year, look)


def test_the_same_rules_say_no_on_a_branch(year: str) -> None:
    async def refuse(app: Application) -> None:
        position, site_id, sku, quantity = await a_stock(app)
        branch = Branch(Fork(app.log, ORGANISATION, position, {}), "no", Scorers(app.artifacts))
        pick = PickStock(site_id=site_id, sku=sku, quantity=quantity, picked_at=NOW)
        assert await branch.attempt(Hypothetical(pick, NOW)) is not None
        with pytest.raises(Refused, match="not enough"):
            await branch.execute(Hypothetical(pick, NOW))
        close = CloseSite(site_id=site_id, reason="flood", closed_at=NOW)
        await branch.execute(Hypothetical(close, NOW))
        receive = ReceiveStock(site_id=site_id, sku=sku, quantity=quantity, received_at=NOW)
        assert await branch.attempt(Hypothetical(receive, NOW)) is None
        nowhere = receive.model_copy(update={"site_id": "S-404"})
        assert await branch.attempt(Hypothetical(nowhere, NOW)) is None
        assert branch.refused == {"stock.not_enough": 1, "site.closed": 1, "site.unknown": 1}
        assert branch.happened == {"StockPicked": 1, "SiteClosed": 1}
        assert branch.position == position + 2
        # Another branch of the fork knows nothing of it.
        other = Branch(branch.fork, "other", Scorers(app.artifacts))
        assert await other.attempt(Hypothetical(pick, NOW)) is not None

    on(year, refuse)


def test_a_branch_folds_what_the_log_would(year: str) -> None:
    """The same commands on a branch and on a copy of the log, and the same rows of every table
    that tells of them."""
    names = ("stock_levels", "stock_days", "sites")

    async def both(app: Application) -> None:
        _, site_id, sku, _ = await a_stock(app)
        commands = (
            ReceiveStock(site_id=site_id, sku=sku, quantity=Decimal(7), received_at=NOW),
            PickStock(site_id=site_id, sku=sku, quantity=Decimal(2), picked_at=NOW),
            ReceiveStock(site_id=site_id, sku="NEW", quantity=Decimal("0.5"), received_at=NOW),
            CloseSite(site_id=site_id, reason="flood", closed_at=NOW),
        )
        head = await app.log.head()
        async with LogReader(app.url) as reader:
            parts = {}
            for name in names:
                parts[TABLES[name]] = fold_events(TABLES[name], await app.log.after(0, head))
            branch = Branch(
                Fork(app.log, ORGANISATION, head, parts), "fold", Scorers(app.artifacts)
            )
            for command in commands:
                await branch.execute(Hypothetical(command, NOW))
                await app.bus.execute(command, context())
            assert branch.position == await app.log.head()
            for table in parts:
                real = await rows_as_of(reader, table, head + 4, organisation_id=ORGANISATION)
                there = branch.rows(table)
                assert there.sort(table.keys).equals(real.sort(table.keys)), table.name
                assert there.height
                assert not there.filter(there["last_position"] > head).is_empty()

    with copied(year) as copy:
        on(copy, both)


# days


def test_the_same_seed_gives_the_same_events_and_a_scenario_others(year: str) -> None:
    async def twice(app: Application) -> None:
        begun = await begun_at(app)
        scenario = a_scenario()
        first, again = await ran(app, begun, scenario), await ran(app, begun, scenario)
        assert digest_of_all(first) == digest_of_all(again)
        assert first.branch.digest == again.branch.digest
        # Also where the log is read anew.
        anew = await ran(app, await begun_at(app), scenario)
        assert digest_of_all(anew) == digest_of_all(first)
        assert first.kpis == again.kpis == anew.kpis
        base = await ran(app, begun, scenario.model_copy(update={"disturbances": ()}))
        other = await ran(app, begun, scenario.model_copy(update={"seed": 12}))
        assert len({one.branch.digest for one in (first, base, other)}) == 3
        # Positions go on behind the fork, versions behind those of the streams.
        events = first.branch.events
        head = begun.fork.position
        assert [one.position for one in events] == [head + 1 + n for n in range(len(events))]
        assert len({one.event_id for one in events}) == len(events)
        assert len({(one.stream_id, one.version) for one in events}) == len(events)
        # The base line's orders are in the scenario too, byte for byte.
        topic = TOPICS[OrderPlaced]
        mine, theirs = (
            {one.state for one in outcome.branch.events if one.topic == topic}
            for outcome in (base, first)
        )
        assert mine
        assert mine < theirs
        assert len(theirs) == 2 * len(mine)

    on(year, twice)


_ELSEWHERE = """
import asyncio, sys
from tests.test_branch import a_scenario, begun_at, digest_of_all, on, ran

async def work(app):
    return digest_of_all(await ran(app, await begun_at(app), a_scenario(horizon_days=2)))

print(on(sys.argv[1], work))
"""


def test_the_same_seed_gives_the_same_events_in_other_processes(year: str) -> None:
    async def here(app: Application) -> str:
        return digest_of_all(await ran(app, await begun_at(app), a_scenario(horizon_days=2)))

    found = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, year],
        env={"PYTHONHASHSEED": "4711", "PATH": "", "POLARS_MAX_THREADS": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split()[-1] == on(year, here)


def test_days_go_by_as_the_log_would_have_them(year: str) -> None:
    """Orders of the log go on, new ones are placed, decided on by rule, shipped and delivered;
    goods are ordered; rules are kept: stock never falls below zero."""

    async def live(app: Application) -> None:
        begun = await begun_at(app)
        surge = Disturbance(kind=Disturbing.DEMAND_SURGE, factor=10)
        outcome = await ran(app, begun, a_scenario(surge, horizon_days=13))
        happened = outcome.branch.happened
        assert happened["OrderPlaced"] > 100
        # Those of the log that waited are decided on as well; no other one is asked about.
        waited = sum(one.status == "placed" for one in begun.open_orders)
        assert 0 < waited < 20
        assert "order.already_delivered" not in outcome.branch.refused
        assert happened["OrderAllocated"] > happened["OrderPlaced"] / 2
        assert happened["OrderDelivered"] > 0
        assert happened["StockPicked"] > 0
        assert happened["StockReceived"] > 0
        assert set(outcome.decided_by) == {"fulfilment: rule_based", "replenishment: rule_based"}
        assert happened["StockReserved"] > 0
        assert happened["DecisionMade"] == sum(outcome.decided_by.values())
        levels = outcome.branch.rows(STOCK_ROWS)
        assert levels.height > 100
        assert levels.filter(levels["on_hand"] < 0).is_empty()
        assert outcome.kpis["otif", None] is not None
        assert sum(one["orders"] for one in outcome.days.values()) == happened["OrderPlaced"]

    on(year, live)


def test_orders_of_the_simulated_days_are_followed_to_the_door(year: str) -> None:
    """Else the quick ones alone would count, and hardly any late one."""

    async def follow(app: Application) -> None:
        begun = await begun_at(app)
        outcome = await ran(app, begun, a_scenario(horizon_days=5))
        placed = sum(one["orders"] for one in outcome.days.values())
        assert placed > 10
        assert placed == sum(one["delivered"] + one["cancelled"] for one in outcome.days.values())
        last = begun.past.start + timedelta(days=5)
        placing = [one for one in outcome.branch.events if one.topic == TOPICS[OrderPlaced]]
        assert all(one.recorded_at.date() < last for one in placing)
        assert any(one.recorded_at.date() > last for one in outcome.branch.events)

    on(year, follow)


def test_a_closed_site_ships_nothing_until_it_opens_again(year: str) -> None:
    async def close(app: Application) -> None:
        begun = await begun_at(app)
        _, site_id, _, _ = await a_stock(app)
        closed = Disturbance(kind=Disturbing.SITE_CLOSED, site_id=site_id, from_day=2, to_day=4)
        outcome = await ran(app, begun, a_scenario(closed, horizon_days=8))
        happened = outcome.branch.happened
        assert happened["SiteClosed"] == happened["SiteReopened"] == 1
        days: dict[int, set[str]] = {}
        for one in outcome.branch.events:
            told = json.loads(one.state)
            if one.topic == TOPICS[DecisionMade] and told["kind"] == "fulfilment":
                day = (one.recorded_at.date() - begun.past.start).days + 1
                days.setdefault(day, set()).add(told["option"].get("site_id", ""))
        assert all(site_id not in days.get(day, set()) for day in (2, 3, 4))
        assert any(site_id in chosen for chosen in days.values())

    on(year, close)


def test_late_suppliers_and_lost_vehicles_are_felt(year: str) -> None:
    async def feel(app: Application) -> None:
        begun = await begun_at(app)
        events = await app.log.after(0, 200)
        vehicle = next(
            json.loads(one.state) for one in events if one.topic.endswith("VehicleRegistered.v1")
        )
        some = (
            Disturbance(kind=Disturbing.SUPPLIER_LATE, days=30),
            Disturbance(kind=Disturbing.VEHICLE_LOST, vehicle_id=vehicle["vehicle_id"], from_day=1),
        )
        surge = Disturbance(kind=Disturbing.DEMAND_SURGE, factor=10)
        base = await ran(app, begun, a_scenario(surge, horizon_days=13))
        found = await ran(app, begun, a_scenario(surge, *some, horizon_days=13))
        assert base.branch.happened["StockReceived"] > 0
        assert found.branch.happened["StockReceived"] == 0
        assert found.branch.happened["VehicleRetired"] == 1
        mine = [
            json.loads(one.state)["option"].get("vehicle_id")
            for one in found.branch.events
            if one.topic == TOPICS[DecisionMade]
        ]
        assert vehicle["vehicle_id"] not in mine

    on(year, feel)


def test_a_model_that_is_deployed_at_the_fork_decides(year: str) -> None:
    async def model(app: Application) -> None:
        before = await app.log.head()
        trained = await deployed_model(app)
        scenario = a_scenario(horizon_days=2)
        outcome = await ran(app, await begun_at(app), scenario)
        name = f"champion {trained.registration.model_hash[:12]}"
        assert outcome.decided_by[f"fulfilment: {name}"] > 0
        # A branch that leaves the log before that knows no model.
        earlier = await ran(app, await begun_at(app, before), scenario)
        assert set(earlier.decided_by) == {"fulfilment: rule_based"}

    with copied(year) as copy:
        on(copy, model)


# the task


def tables_of(url: str) -> dict[str, str]:
    """A digest of every row of every table that there is, in whatever schema."""
    found = {}
    with psycopg.connect(url) as connection:
        names = connection.execute(
            """SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n
                ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm')
                AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"""
        ).fetchall()
        for schema, name in names:
            query = sql.SQL(
                "SELECT md5(coalesce(string_agg(md5(t::text), '' ORDER BY md5(t::text)), '')) "
                "FROM {} AS t"
            ).format(sql.Identifier(schema, name))
            row = connection.execute(query).fetchone()
            assert row is not None
            found[f"{schema}.{name}"] = row[0]
    return found


async def asked_for(app: Application, **more: Any) -> Job:
    """A scenario and a run of it, asked for on the log, and taken on by nobody."""
    closed = Disturbance(kind=Disturbing.DEMAND_SURGE, factor=2, region="NL")
    scenario = GenerateScenario(
        scenario_id="S-9", seed=3, horizon_days=3, disturbances=(closed,), generated_at=NOW
    )
    await app.bus.execute(scenario, context())
    request = RequestSimulation(task_id="T-9", scenario_id="S-9", requested_at=NOW, **more)
    await app.bus.execute(request, context())
    stream = named_id(ORGANISATION, task_stream("T-9"))
    events = (await app.log.streams([stream]))[stream]
    asked = task_of(events).asked
    assert asked is not None
    return Job(ORGANISATION, events[0], 1, asked)


async def done(
    url: str, home: Path, job: Job, report: Callable[[int, int, str], None] = quiet
) -> Found:
    async with AsyncExitStack() as stack:
        settings = Settings(home=home, token_secret=SECRET)
        tools = await stack.enter_async_context(tools_of(url, settings)())
        return await simulation(tools, job, report)


def test_a_simulation_leaves_no_trace_in_the_database(year: str, tmp_path: Path) -> None:
    """Not a row of any table of any schema is another one: the log, read models, feature tables,
    queues, artifacts. What a worker says of the task beside is the task's own."""

    async def prepare(app: Application) -> Job:
        job = await asked_for(app, replications=2)
        await app.projector.catch_up()
        await app.consumer.catch_up()
        return job

    with copied(year) as copy:
        job = on(copy, prepare)
        before = tables_of(copy)
        assert {"public.events", "read_models.order_summary", "read_models.feature_stock"} <= set(
            before
        )
        told: list[tuple[int, int, str]] = []
        found = asyncio.run(done(copy, tmp_path, job, lambda *one: told.append(one)))
        assert tables_of(copy) == before
    assert found.content is not None
    results = SimulationResults.model_validate_json(found.content)
    assert results.position == job.cause.position == found.result["position"]
    assert results.replications == len(results.digests) == 2
    assert results.digests[0].base_line == found.result["digest_base_line"]
    assert len({side for one in results.digests for side in (one.base_line, one.scenario)}) == 4
    assert [one.low is not None for one in results.kpis if one.runs == 2]
    assert results.events["OrderPlaced"].scenario > results.events["OrderPlaced"].base_line
    days = [one for one in told if one[2] == "days simulated"]
    assert days[-1] == (12, 12, "days simulated")
    assert [one[0] for one in days] == sorted(one[0] for one in days)


def test_a_simulation_stops_where_it_is_told_to(year: str, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(number: int, _: int, step: str) -> None:
        if step == "days simulated" and number >= 1:
            raise Stop

    with copied(year) as copy:
        job = on(copy, asked_for)
        with pytest.raises(Stop):
            asyncio.run(done(copy, tmp_path, job, stop))


def test_what_cannot_be_simulated_is_told_in_words(year: str, tmp_path: Path) -> None:
    with copied(year) as copy:

        async def ask(app: Application) -> tuple[Job, int]:
            job = await asked_for(app, position=10**6)
            return job, await app.log.head()

        job, head = on(copy, ask)
        with pytest.raises(CannotBeDone, match=rf"log ends at position {head:,}") as error:
            asyncio.run(done(copy, tmp_path, job))
        assert error.value.code == "simulation.position_ahead"

        async def look(app: Application) -> None:
            with pytest.raises(CannotBeDone, match="no order was ever placed") as told:
                await begun_at(app, 1)
            assert told.value.code == "simulation.nothing_to_sample"
            surges = [Disturbance(kind=Disturbing.DEMAND_SURGE, factor=10)] * 4
            with pytest.raises(CannotBeDone, match="20,000 at the most") as many:
                check_size(await begun_at(app), a_scenario(*surges))
            assert many.value.code == "simulation.too_many_orders"

        on(copy, look)
