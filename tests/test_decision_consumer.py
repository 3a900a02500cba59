"""The decision consumer on a real log: decides once, as of the request, and explains."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pytest

from chainlytics.application import Application
from commands import Bus
from domain import catalogue
from domain.decisions import (
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionOutcomeRecorded,
    RecordDecision,
)
from domain.inventory import AdjustStock, CloseSite
from domain.orders import AllocateOrder, DeliverOrder, OrderAllocated, ShipOrder
from domain.values import Event
from eventstore import Receipt
from ml.catalogue import FEATURE_TABLES
from ml.scoring import ADDITIVITY_TOLERANCE
from projections.projector import Projector
from tests.world import (
    NOW,
    a_year,
    company,
    context,
    deployed_model,
    open_orders,
    request,
)


async def events_of(app: Application, *kinds: type[Event]) -> list[Any]:
    """All events of some types, in log order."""
    topics = {catalogue.TOPICS[kind] for kind in kinds}
    found, position = [], 0
    while batch := await app.log.after(position, 10_000):
        found += [catalogue.decode(e.topic, e.state) for e in batch if e.topic in topics]
        position = batch[-1].position
    return found


@pytest.fixture(scope="module")
def year(database: str) -> str:
    """A database with a small year, its features folded, and a deployed model."""

    async def fill() -> None:
        async with company(database) as app:
            await a_year(app)
            await deployed_model(app)
            await app.consumer.catch_up()

    asyncio.run(fill())
    return database


def test_a_request_is_decided_and_explained(year: str) -> None:
    async def story() -> None:
        async with company(year) as app:
            order_id = (await open_orders(app))[0]
            await request(app, "d-story", order_id)
            await app.consumer.catch_up()
            [made] = [e for e in await events_of(app, DecisionMade) if e.decision_id == "d-story"]
            [explained] = [
                e for e in await events_of(app, DecisionExplained) if e.decision_id == "d-story"
            ]
            chosen = made.candidates[made.chosen]
            assert made.option == chosen.option
            assert chosen.rejected == ()
            assert chosen.probability == made.probability
            allowed = [one for one in made.candidates if not one.rejected]
            assert chosen.objective == min(one.objective for one in allowed)
            # Sites with another stock or capacity are told apart by lineage up to the request.
            assert all(max(one.lineage.values()) <= made.as_of for one in made.candidates)
            # Exact SHAP: the values add up to the margin.
            for candidate, encoded in zip(made.candidates, explained.contributions, strict=True):
                shap = np.frombuffer(base64.b64decode(encoded), "<f4").astype(float)
                assert abs(shap.sum() - candidate.margin) < ADDITIVITY_TOLERANCE
            strengths = [abs(reason.contribution) for reason in explained.reasons]
            assert strengths == sorted(strengths, reverse=True)
            assert made.option["site_id"] in explained.summary
            assert explained.runner_up is not None

    asyncio.run(story())


def test_shap_is_what_the_shap_package_says(year: str) -> None:
    shap = pytest.importorskip("shap")
    import xgboost

    async def story() -> None:
        async with company(year) as app:
            order_id = (await open_orders(app))[1]
            await request(app, "d-shap", order_id)
            await app.consumer.catch_up()
            [made] = [e for e in await events_of(app, DecisionMade) if e.decision_id == "d-shap"]
            [told] = [
                e for e in await events_of(app, DecisionExplained) if e.decision_id == "d-shap"
            ]
            booster = xgboost.Booster()
            booster.load_model(bytearray(await app.artifacts.get(made.model_hash)))
            rows = np.stack(
                [np.frombuffer(base64.b64decode(one.features), "<f4") for one in made.candidates]
            )
            theirs = shap.TreeExplainer(booster).shap_values(
                xgboost.DMatrix(rows, feature_names=booster.feature_names)
            )
            ours = np.stack(
                [np.frombuffer(base64.b64decode(one), "<f4")[:-1] for one in told.contributions]
            )
            assert np.array_equal(theirs.astype("<f4"), ours)

    asyncio.run(story())


def test_what_breaks_a_hard_constraint_is_never_chosen(year: str) -> None:
    async def story() -> None:
        async with company(year) as app:
            order_id = (await open_orders(app))[2]
            await request(app, "d-before", order_id)
            await app.consumer.catch_up()
            [before] = [
                e for e in await events_of(app, DecisionMade) if e.decision_id == "d-before"
            ]
            site_id = before.option["site_id"]
            close = CloseSite(site_id=site_id, reason="flood", closed_at=NOW)
            await app.bus.execute(close, context())
            await request(app, "d-after", order_id)
            await app.consumer.catch_up()
            [after] = [e for e in await events_of(app, DecisionMade) if e.decision_id == "d-after"]
            assert after.option["site_id"] != site_id
            codes = [one.rejected for one in after.candidates if one.option["site_id"] == site_id]
            assert codes
            assert all("site.closed" in rejected for rejected in codes)
            # The earlier decision was taken as of its own position: it stands as it was.
            assert all("site.closed" not in one.rejected for one in before.candidates)

    asyncio.run(story())


def test_too_little_stock_rules_a_site_out(year: str) -> None:
    async def story() -> None:
        async with company(year) as app:
            order_id = (await open_orders(app))[3]
            await request(app, "d-stocked", order_id)
            await app.consumer.catch_up()
            [made] = [e for e in await events_of(app, DecisionMade) if e.decision_id == "d-stocked"]
            site_id = made.option["site_id"]
            async with app.log.connection() as connection:
                rows = await (
                    await connection.execute(
                        """SELECT line->>'sku', s.on_hand FROM read_models.order_summary o,
                        jsonb_array_elements(o.placed->'lines') line,
                        read_models.stock_levels s
                        WHERE o.order_id = %s AND s.site_id = %s AND s.sku = line->>'sku'""",
                        (order_id, site_id),
                    )
                ).fetchall()
            for sku, on_hand in rows:
                if on_hand:
                    burnt = AdjustStock(
                        site_id=site_id, sku=sku, change=-on_hand, reason="fire", adjusted_at=NOW
                    )
                    await app.bus.execute(burnt, context())
            await request(app, "d-burnt", order_id)
            await app.consumer.catch_up()
            [after] = [e for e in await events_of(app, DecisionMade) if e.decision_id == "d-burnt"]
            short = [one.rejected for one in after.candidates if one.option["site_id"] == site_id]
            assert all("stock.not_enough" in rejected for rejected in short)
            assert after.option.get("site_id") != site_id

    asyncio.run(story())


def test_an_outcome_comes_back(year: str) -> None:
    async def story() -> None:
        async with company(year) as app:
            order_id = (await open_orders(app))[4]
            await request(app, "d-outcome", order_id)
            await app.consumer.catch_up()
            [made] = [e for e in await events_of(app, DecisionMade) if e.decision_id == "d-outcome"]
            done = AllocateOrder(
                order_id=order_id, **made.option, decision_id="d-outcome", allocated_at=NOW
            )
            for command in (
                done,
                ShipOrder(order_id=order_id, shipped_at=NOW),
                DeliverOrder(order_id=order_id, delivered_at=NOW + timedelta(days=400)),
            ):
                await app.bus.execute(command, context())
            await app.consumer.catch_up()
            [outcome] = [
                e
                for e in await events_of(app, DecisionOutcomeRecorded)
                if e.decision_id == "d-outcome"
            ]
            assert outcome.late is True
            assert outcome.followed is True
            assert outcome.probability == made.probability

    asyncio.run(story())


def test_a_crash_between_answer_and_position_decides_once(
    year: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(Exception):
        pass

    async def story() -> None:
        async with company(year) as app:
            orders = (await open_orders(app))[5:8]
            for number, order_id in enumerate(orders):
                await request(app, f"d-crash-{number}", order_id)
            execute = Bus.execute
            taken = 0

            async def crash_after_two(self: Bus, command: Any, sent: Any) -> Receipt:
                nonlocal taken
                receipt = await execute(self, command, sent)
                taken += isinstance(command, RecordDecision)
                if taken == 2:
                    raise Crash
                return receipt

            monkeypatch.setattr(Bus, "execute", crash_after_two)
            with pytest.raises(Crash):
                await app.consumer.catch_up()
            monkeypatch.undo()
            before = await events_of(app, DecisionMade)
        # A new process with no memory of the first one.
        async with company(year) as app:
            await app.consumer.catch_up()
            made = await events_of(app, DecisionMade)
            counts = Counter(event.decision_id for event in made)
            assert max(counts.values()) == 1
            assert {f"d-crash-{number}" for number in range(3)} <= counts.keys()
            assert made[: len(before)] == before
            failed = [e.decision_id for e in await events_of(app, DecisionFailed)]
            assert failed == []

    asyncio.run(story())


def test_batches_of_any_size_make_the_same_feature_rows(year: str) -> None:
    async def story() -> None:
        async with company(year) as app:
            await app.consumer.catch_up()
        with psycopg.connect(year, autocommit=True) as connection:
            tables = [
                name
                for (name,) in connection.execute(
                    """SELECT table_name FROM information_schema.tables
                    WHERE table_schema = 'read_models' AND table_name LIKE 'feature\\_%'
                    AND table_name NOT LIKE '%\\_\\_%' ORDER BY 1"""
                ).fetchall()
            ]
            assert len(tables) > 5

            def rows() -> dict[str, list[Any]]:
                return {
                    name: sorted(connection.execute(f"SELECT t::text FROM read_models.{name} t"))
                    for name in tables
                }

            live = rows()
            for name in tables:
                connection.execute(f"TRUNCATE read_models.{name}")
            connection.execute("UPDATE projections SET position = 0 WHERE name LIKE 'feature%'")
            async with company(year) as app:
                app.consumer._batch = 777
                await app.consumer.catch_up()
                made = await events_of(app, DecisionMade)
            assert rows() == live
            assert len({event.decision_id for event in made}) == len(made)

    asyncio.run(story())


@pytest.mark.parametrize("case", ["new", "changed"])
def test_a_feature_table_that_joins_while_requests_wait_counts_nothing_twice(
    year: str, case: str
) -> None:
    """Rebuilt to the head, it is ahead of the others, whose batch must not be folded into it."""

    async def story() -> None:
        async with company(year) as app:
            await app.consumer.catch_up()
            first, second = (await open_orders(app))[2:4]
            await request(app, f"d-joins-{case}", first)  # waits: nobody decides now
            site_id = (await events_of(app, OrderAllocated))[-1].site_id
            for command in (
                AllocateOrder(order_id=second, site_id=site_id, allocated_at=NOW),
                ShipOrder(order_id=second, shipped_at=NOW),
                DeliverOrder(order_id=second, delivered_at=NOW + timedelta(days=2)),
            ):
                await app.bus.execute(command, context())
        with psycopg.connect(year, autocommit=True) as connection:
            changes = {
                "new": "DELETE FROM projections WHERE name = 'feature_lanes'",
                "changed": "UPDATE projections SET fingerprint = '' WHERE name = 'feature_lanes'",
            }
            assert connection.execute(changes[case].encode()).rowcount == 1
            async with company(year) as app:
                await app.consumer.prepare()
                await app.consumer.catch_up()
                made = await events_of(app, DecisionMade)

            def rows() -> dict[str, list[Any]]:
                return {
                    table.name: sorted(
                        connection.execute(f"SELECT t::text FROM read_models.{table.name} t")
                    )
                    for table in FEATURE_TABLES
                }

            joined = rows()
            for table in FEATURE_TABLES:
                await Projector(year, FEATURE_TABLES).rebuild(table)
            anew = rows()
            assert [name for name in anew if anew[name] != joined[name]] == []
        decided = [event.decision_id for event in made]
        assert decided.count(f"d-joins-{case}") == 1
        assert len(set(decided)) == len(decided)

    asyncio.run(story())


def test_without_a_model_the_request_fails_with_the_reason(database: str) -> None:
    async def story() -> None:
        other = context().organisation_id.int + 1
        from uuid import UUID

        organisation = UUID(int=other)
        from domain.decisions import RequestDecision
        from domain.orders import OrderLine, PlaceOrder

        async with company(database) as app:
            place = PlaceOrder(
                order_id="O-1",
                customer_id="C-1",
                currency="EUR",
                lines=(
                    OrderLine(line_no=1, sku="A", quantity="1", unit_price_minor=100),  # type: ignore[arg-type]
                ),
                placed_at=NOW,
                promised_at=NOW + timedelta(days=3),
            )
            await app.bus.execute(place, context(organisation_id=organisation))
            asked = RequestDecision(decision_id="d-none", subject_id="O-1", requested_at=NOW)
            await app.bus.execute(asked, context(organisation_id=organisation))
            await app.consumer.catch_up()
            [failed] = [
                e for e in await events_of(app, DecisionFailed) if e.decision_id == "d-none"
            ]
            assert failed.code == "decision.no_model"

    asyncio.run(story())
