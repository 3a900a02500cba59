"""Decisions: the whole path and replay against bare SHAP of the same rows, and one at a time.

Everything durable (fsync and synchronous_commit on), same machine, one run, rounds interleaved.
The bare cost is ``Booster.predict(pred_contribs=True)`` of the same feature rows in one call by one
thread: no log, no words, no choice. One thread scores in the whole path too.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from statistics import median
from time import perf_counter
from typing import Any
from uuid import UUID

import numpy as np
import xgboost

from benchmarks.asking import ask_one_at_a_time
from benchmarks.peers.peer import own_database
from chainlytics.application import Application, application
from commands import Context
from commands.bulk import Sender, send_all
from commands.sample_year import sample_year
from domain import catalogue
from domain.access import Role
from domain.decisions import DecisionMade, RequestDecision
from domain.models import ApproveModel, DeployModel
from eventstore import prepare_database
from ml.fulfilment import FULFILMENT
from ml.models import train
from ml.replay import replay
from ml.scoring import Matrix

ORGANISATION = UUID(int=7)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ORDERS = 5_000
ROUNDS = 5
#: Requests that wait when the consumer of a round starts.
REQUESTS = 500
#: Decisions that are asked for one at a time, over HTTP.
ONE_AT_A_TIME = 100
Say = Callable[[str], None]


def run(url: str, say: Say) -> dict[str, Any]:
    """All figures; a ratio of 1 would be as fast as the bare SHAP call alone."""
    with own_database(url, "decide") as database:
        prepare_database(database)
        figures = asyncio.run(_in_batches(database, say))
        return figures | ask_one_at_a_time(database, ORGANISATION, ONE_AT_A_TIME, say)


async def _in_batches(url: str, say: Say) -> dict[str, Any]:
    async with application(url) as app:
        await app.projector.prepare()
        await app.consumer.prepare()
        year = sample_year(orders=ORDERS)
        await send_all(
            app.bus,
            year.commands,
            Sender(year.name, ORGANISATION, "bench"),
            total=len(year.commands),
            on_refusal=lambda keyed, code, detail: say(f"{keyed.key}: {code}"),
        )
        content = await _deployed(app, say)
        await app.consumer.catch_up()
        orders = await _open_orders(app)
        decided, replayed, bare, rows = [], [], [], 0
        for number in range(ROUNDS):
            name = f"round-{number}"
            begun = await app.log.head()
            await _request(app, name, orders)
            took = perf_counter()
            await app.consumer.catch_up()
            took = perf_counter() - took
            matrix, ids = await _decided_rows(app, begun)
            rows += len(matrix)
            raw = await asyncio.to_thread(_bare_shap, content, matrix)
            again = perf_counter()
            found = await replay(app.url, app.log, app.artifacts, ORGANISATION)
            again = perf_counter() - again
            if not all(one.same for one in found) or len(ids) != REQUESTS:
                raise AssertionError("a decision is missing, or was not replayed to the byte")
            # All decisions so far are replayed: per decision, against the rows of one.
            decided.append(raw / took)
            replayed.append(raw * len(found) / REQUESTS / again)
            bare.append(raw)
            say(
                f"round {number}: {REQUESTS} decisions of {len(matrix)} candidates in {took:.2f} s,"
                f" {len(found)} replayed in {again:.2f} s, bare SHAP {raw:.2f} s"
            )
    return {
        "batch_vs_raw": round(median(decided), 2),
        "replay_vs_raw": round(median(replayed), 2),
        "decisions_per_second": round(REQUESTS / median(bare) * median(decided)),
        "replayed_per_second": round(REQUESTS / median(bare) * median(replayed)),
        "raw_shap_rows_per_second": round(rows / sum(bare)),
        "candidates_per_decision": round(rows / ROUNDS / REQUESTS, 1),
    }


async def _deployed(app: Application, say: Say) -> bytes:
    """A model as `chainlytics models train` makes it; its artifact."""
    trained = await train(app.url, app.log, app.artifacts, ORGANISATION, FULFILMENT, NOW)
    model_hash = trained.registration.model_hash
    await app.bus.execute(trained.registration, _context("planner"))
    await app.bus.execute(ApproveModel(model_hash=model_hash, approved_at=NOW), _context("boss"))
    await app.bus.execute(DeployModel(model_hash=model_hash, deployed_at=NOW), _context("planner"))
    rounds = trained.registration.training.parameters["rounds"]
    say(f"model: {rounds} trees, {len(FULFILMENT.features)} features")
    return await app.artifacts.get(model_hash)


async def _open_orders(app: Application) -> list[str]:
    await app.projector.catch_up()
    async with app.log.connection() as connection:
        cursor = await connection.execute(
            """SELECT order_id FROM read_models.order_summary
            WHERE status IN ('placed', 'allocated') ORDER BY order_id"""
        )
        return [order_id for (order_id,) in await cursor.fetchall()]


async def _request(app: Application, name: str, orders: Sequence[str]) -> None:
    commands = [
        RequestDecision(
            decision_id=f"{name}-{number}",
            subject_id=orders[number % len(orders)],
            requested_at=NOW,
        )
        for number in range(REQUESTS)
    ]
    await app.bus.execute_many([(command, _context("planner")) for command in commands])


async def _decided_rows(app: Application, position: int) -> tuple[Matrix, list[str]]:
    """The feature rows of all candidates decided on behind a position, from the log."""
    rows, ids = [], []
    while events := await app.log.after(position, 10_000):
        for stored in events:
            if stored.topic == catalogue.TOPICS[DecisionMade]:
                made = catalogue.decode(stored.topic, stored.state)
                assert isinstance(made, DecisionMade)
                ids.append(made.decision_id)
                rows += [
                    np.frombuffer(base64.b64decode(c.features), "<f4") for c in made.candidates
                ]
        position = events[-1].position
    return np.stack(rows), ids


def _bare_shap(content: bytes, matrix: Matrix) -> float:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(content))
    start = perf_counter()
    data = xgboost.DMatrix(matrix, feature_names=list(FULFILMENT.feature_names), nthread=1)
    booster.predict(data, pred_contribs=True)
    return perf_counter() - start


def _context(actor: str) -> Context:
    return Context(ORGANISATION, actor, frozenset({Role.ADMIN, Role.SERVICE}))
