"""A small company for tests: a real database, the parts wired to it, a made year."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from chainlytics.application import Application, application
from commands import Context
from commands.bulk import Keyed, Sender, send_all
from commands.sample_year import sample_year
from domain.access import Role
from domain.catalogue import TOPICS, decode
from domain.decisions import DecisionMade, RequestDecision
from domain.models import ApproveModel, DeployModel
from eventstore import prepare_database
from ml.fulfilment import FULFILMENT
from ml.models import Trained, train

ORGANISATION = UUID("00000000-0000-0000-0000-0000000000aa")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def context(actor: str = "tester", organisation_id: UUID = ORGANISATION) -> Context:
    """Somebody who may do everything."""
    return Context(
        organisation_id=organisation_id, actor=actor, roles=frozenset({Role.ADMIN, Role.SERVICE})
    )


@contextmanager
def copied(url: str) -> Iterator[str]:
    """A copy of a database that nobody is connected to, thrown away afterwards."""
    parts = urlsplit(url)
    name = f"copy_{uuid4().hex[:12]}"
    server = urlunsplit(parts._replace(path="/postgres"))
    with psycopg.connect(server, autocommit=True) as connection:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(parts.path[1:])))
    yield urlunsplit(parts._replace(path=f"/{name}"))
    with psycopg.connect(server, autocommit=True) as connection:
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
        connection.execute(drop.format(sql.Identifier(name)))


@asynccontextmanager
async def company(url: str) -> AsyncIterator[Application]:
    """The application on a database; its tables are there."""
    prepare_database(url)
    async with application(url, pool_size=4) as app:
        await app.projector.prepare()
        await app.consumer.prepare()
        yield app


async def send(
    app: Application,
    commands: list[Keyed],
    name: str = "year",
    organisation_id: UUID = ORGANISATION,
) -> None:
    """Send commands that must all be taken."""
    refused: list[str] = []
    await send_all(
        app.bus,
        commands,
        Sender(name, organisation_id, "sample"),
        total=len(commands),
        on_refusal=lambda keyed, code, detail: refused.append(f"{keyed.key}: {code} {detail}"),
    )
    assert refused == []


async def a_year(app: Application, orders: int = 1200) -> None:
    """Send a small made year."""
    await send(app, list(sample_year(orders=orders).commands))


async def deployed_model(app: Application) -> Trained:
    """Train on what the log holds, and deploy."""
    trained = await train(app.url, app.log, app.artifacts, ORGANISATION, FULFILMENT, NOW)
    await deploy(app, trained)
    return trained


async def deploy(app: Application, trained: Trained, organisation_id: UUID = ORGANISATION) -> None:
    """Register a model with an organisation, approve it by a second person, deploy it."""
    planner, boss = (context(actor, organisation_id) for actor in ("planner", "boss"))
    model_hash = trained.registration.model_hash
    await app.bus.execute(trained.registration, planner)
    approved = ApproveModel(model_hash=model_hash, accept_worse=True, approved_at=NOW)
    await app.bus.execute(approved, boss)
    planner = context("planner", organisation_id)
    await app.bus.execute(DeployModel(model_hash=model_hash, deployed_at=NOW), planner)


async def another_model(app: Application, depth: int = 2) -> str:
    """A model of other trees from the same log, approved and without a role."""
    with patch.dict("ml.models.PARAMETERS", max_depth=depth):
        trained = await train(app.url, app.log, app.artifacts, ORGANISATION, FULFILMENT, NOW)
    model_hash = trained.registration.model_hash
    await app.bus.execute(trained.registration, context("planner"))
    await app.bus.execute(
        ApproveModel(model_hash=model_hash, accept_worse=True, approved_at=NOW), context("boss")
    )
    return model_hash


async def open_orders(app: Application, limit: int = 20) -> list[str]:
    """Orders that wait for a decision."""
    await app.projector.catch_up()
    async with app.log.connection() as connection:
        rows = await (
            await connection.execute(
                """SELECT order_id FROM read_models.order_summary
                WHERE organisation_id = %s AND status = 'placed' ORDER BY order_id LIMIT %s""",
                (ORGANISATION, limit),
            )
        ).fetchall()
    return [order_id for (order_id,) in rows]


async def decidable_orders(url: str) -> list[str]:
    """Orders for which more than one option is allowed, found out on a copy of the database."""
    with copied(url) as copy:
        async with company(copy) as app:
            for order_id in await open_orders(app, 40):
                await request(app, f"probe-{order_id}", order_id)
            await app.consumer.catch_up()
            events = await app.log.after(0, 10**6)
    made = [
        event
        for one in events
        if one.topic == TOPICS[DecisionMade]
        and isinstance(event := decode(one.topic, one.state), DecisionMade)
    ]
    return [
        event.subject_id for event in made if sum(not one.rejected for one in event.candidates) > 1
    ]


async def request(app: Application, decision_id: str, order_id: str) -> None:
    """Ask for a decision."""
    command = RequestDecision(decision_id=decision_id, subject_id=order_id, requested_at=NOW)
    await app.bus.execute(command, context("planner"))
