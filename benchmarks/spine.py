"""The spine: commands, folds, decisions and replay against the bare cost of each.

Everything durable (fsync and synchronous_commit on), same machine, one run, rounds interleaved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import median
from time import perf_counter
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import xgboost

from chainlytics.application import Application, application
from commands import Context
from commands.bulk import Sender, send_all
from commands.sample_year import sample_year
from domain.access import Role
from domain.decisions import RequestDecision
from domain.models import ApproveModel, DeployModel
from domain.orders import OrderLine, PlaceOrder
from eventstore import prepare_database
from ml.fulfilment import FULFILMENT
from ml.models import train
from ml.replay import replay

ORGANISATION = UUID(int=7)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROUNDS = 5
SECONDS = 1.5
DECISIONS = 200
ORDERS = 5_000
Say = Callable[[str], None]


def run(url: str, say: Say) -> dict[str, Any]:
    """All figures; ratios are above 1 where we are faster than what we are held against."""
    prepare_database(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """CREATE TABLE raw_events (id uuid, version bigint, topic text, state bytea,
            position bigserial, PRIMARY KEY (id, version))"""
        )
    return asyncio.run(_run(url, say))


async def _run(url: str, say: Say) -> dict[str, Any]:
    async with application(url) as app:
        await app.projector.prepare()
        await app.consumer.prepare()
        commands = await _commands(app, url, say)
        year = sample_year(orders=ORDERS)
        start = perf_counter()
        await send_all(
            app.bus,
            year.commands,
            Sender(year.name, ORGANISATION, "bench"),
            total=len(year.commands),
            on_refusal=lambda keyed, code, detail: say(f"{keyed.key}: {code}"),
        )
        bulk = len(year.commands) / (perf_counter() - start)
        say(f"bulk commands/s {bulk:,.0f}")
        head = await app.log.head()
        start = perf_counter()
        await app.projector.catch_up()
        live = head / (perf_counter() - start)
        say(f"live fold of all read models, events/s {live:,.0f}")
        decisions = await _decisions(app, say)
    return commands | {"bulk_per_second": round(bulk), "live_per_second": round(live)} | decisions


async def _commands(app: Application, url: str, say: Say) -> dict[str, Any]:
    raw, one, sixty_four, many = [], [], [], []
    for number in range(ROUNDS):
        raw.append(await asyncio.to_thread(_raw_inserts, url))
        one.append(await _placed(app, 1))
        sixty_four.append(await _placed(app, 64))
        many.append(await _placed(app, 512))
        say(
            f"round {number}: raw {raw[-1]:,.0f}/s, 1 caller {one[-1]:,.0f}/s, "
            f"64 {sixty_four[-1]:,.0f}/s, 512 {many[-1]:,.0f}/s"
        )
    return {
        "raw_per_second": round(median(raw)),
        "single_vs_raw": _ratio(one, raw),
        "c64_vs_raw": _ratio(sixty_four, raw),
        "c512_vs_raw": _ratio(many, raw),
    }


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return round(median(a / b for a, b in zip(ours, theirs, strict=True)), 2)


def _raw_inserts(url: str) -> float:
    """Single-row INSERT with commit, by one client; rows a second."""
    state = b"x" * 300
    with psycopg.connect(url, autocommit=True, prepare_threshold=1) as connection:
        done, start = 0, perf_counter()
        while perf_counter() - start < SECONDS:
            connection.execute(
                "INSERT INTO raw_events (id, version, topic, state) VALUES (%s, 1, 'a.B.v1', %b)",
                (uuid4(), state),
            )
            done += 1
        return done / (perf_counter() - start)


async def _placed(app: Application, callers: int) -> float:
    """PlaceOrder through the bus: role, rule, dedupe, version check, commit; commands a second."""
    done, start = 0, perf_counter()

    async def call() -> None:
        nonlocal done
        while perf_counter() - start < SECONDS:
            await app.bus.execute(_order(), _context("bench"))
            done += 1

    await asyncio.gather(*(call() for _ in range(callers)))
    return done / (perf_counter() - start)


def _order() -> PlaceOrder:
    return PlaceOrder(
        order_id=uuid4().hex,
        customer_id="C-1",
        currency="EUR",
        lines=(OrderLine(line_no=1, sku="A", quantity=Decimal(1), unit_price_minor=100),),
        placed_at=NOW,
        promised_at=NOW + timedelta(days=3),
    )


def _context(actor: str) -> Context:
    return Context(ORGANISATION, actor, frozenset({Role.ADMIN, Role.SERVICE}))


async def _decisions(app: Application, say: Say) -> dict[str, Any]:
    trained = await train(app.url, app.log, app.artifacts, ORGANISATION, FULFILMENT, NOW)
    model_hash = trained.registration.model_hash
    await app.bus.execute(trained.registration, _context("planner"))
    await app.bus.execute(ApproveModel(model_hash=model_hash, approved_at=NOW), _context("boss"))
    await app.bus.execute(DeployModel(model_hash=model_hash, deployed_at=NOW), _context("planner"))
    await app.consumer.catch_up()
    async with app.log.connection() as connection:
        rows = await (
            await connection.execute(
                """SELECT order_id FROM read_models.order_summary
                WHERE status IN ('placed', 'allocated') AND region IS NOT NULL
                ORDER BY placed_at DESC LIMIT %s""",
                (DECISIONS,),
            )
        ).fetchall()
    for number in range(DECISIONS):
        command = RequestDecision(
            decision_id=f"D-{number}", subject_id=rows[number % len(rows)][0], requested_at=NOW
        )
        await app.bus.execute(command, _context("planner"))
    start = perf_counter()
    await app.consumer.catch_up()
    decided = perf_counter() - start
    await app.projector.catch_up()
    async with app.log.connection() as connection:
        row = await (
            await connection.execute(
                """SELECT sum(jsonb_array_length(made->'candidates'))
                FROM read_models.decision_detail WHERE made IS NOT NULL"""
            )
        ).fetchone()
    assert row is not None
    bare = _bare_shap(await app.artifacts.get(model_hash), int(row[0]))
    start = perf_counter()
    found = await replay(app.url, app.log, app.artifacts, ORGANISATION)
    replayed = perf_counter() - start
    assert all(one.same for one in found)
    assert len(found) == DECISIONS
    say(
        f"{DECISIONS} decisions of {row[0]} candidates: {decided:.2f} s, "
        f"replayed {replayed:.2f} s, bare SHAP of the same rows {bare:.2f} s"
    )
    return {
        "decisions_per_second": round(DECISIONS / decided),
        "decide_vs_bare_shap": round(bare / decided, 2),
        "replay_vs_bare_shap": round(bare / replayed, 2),
    }


def _bare_shap(content: bytes, rows: int) -> float:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(content))
    random = np.random.default_rng(1)
    matrix = random.random((rows, len(FULFILMENT.features)), dtype=np.float32)
    start = perf_counter()
    data = xgboost.DMatrix(matrix, feature_names=list(FULFILMENT.feature_names), nthread=1)
    booster.predict(data, pred_contribs=True)
    return perf_counter() - start
