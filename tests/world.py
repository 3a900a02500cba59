"""A small company for tests: a real database, the parts wired to it, a made year."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

from chainlytics.application import Application, application
from commands import Context
from commands.bulk import Keyed, Sender, send_all
from commands.sample_year import sample_year
from domain.access import Role
from domain.decisions import RequestDecision
from domain.models import ApproveModel, DeployModel
from eventstore import prepare_database
from ml.models import Trained, train

ORGANISATION = UUID("00000000-0000-0000-0000-0000000000aa")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def context(actor: str = "tester", organisation_id: UUID = ORGANISATION) -> Context:
    """Somebody who may do everything."""
    return Context(
        organisation_id=organisation_id, actor=actor, roles=frozenset({Role.ADMIN, Role.SERVICE})
    )


@asynccontextmanager
async def company(url: str) -> AsyncIterator[Application]:
    """The application on a database; its tables are there."""
    prepare_database(url)
    async with application(url, pool_size=4) as app:
        await app.projector.prepare()
        await app.consumer.prepare()
        yield app


async def send(app: Application, commands: list[Keyed], name: str = "year") -> None:
    """Send commands that must all be taken."""
    refused: list[str] = []
    await send_all(
        app.bus,
        commands,
        Sender(name, ORGANISATION, "sample"),
        total=len(commands),
        on_refusal=lambda keyed, code, detail: refused.append(f"{keyed.key}: {code} {detail}"),
    )
    assert refused == []


async def a_year(app: Application, orders: int = 1200) -> None:
    """Send a small made year."""
    await send(app, list(sample_year(orders=orders).commands))


async def deployed_model(app: Application) -> Trained:
    """Train on what the log holds, approve by a second person, deploy."""
    trained = await train(app.log, app.artifacts, ORGANISATION, NOW)
    model_hash = trained.registration.model_hash
    await app.bus.execute(trained.registration, context("planner"))
    await app.bus.execute(ApproveModel(model_hash=model_hash, approved_at=NOW), context("boss"))
    await app.bus.execute(DeployModel(model_hash=model_hash, deployed_at=NOW), context("planner"))
    return trained


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


async def request(app: Application, decision_id: str, order_id: str) -> None:
    """Ask for a decision."""
    command = RequestDecision(decision_id=decision_id, subject_id=order_id, requested_at=NOW)
    await app.bus.execute(command, context("planner"))
