"""The decision consumer on a real log: decides once, as of the request, and explains."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import wraps
from typing import Any
from uuid import UUID

import numpy as np
import polars as pl
import psycopg
import pytest

from chainlytics.application import Application
from commands import Bus
from domain import catalogue
from domain.decisions import (
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionNotRedecided,
    DecisionOutcomeRecorded,
    DecisionRequested,
    RecordDecision,
    RecordOutcome,
    RequestDecision,
    Weights,
)
from domain.errors import Refused
from domain.inventory import AdjustStock
from domain.orders import (
    AllocateOrder,
    CancelOrder,
    DeliverOrder,
    OrderAllocated,
    OrderLine,
    PlaceOrder,
    ShipOrder,
)
from domain.policies import StopKind
from domain.reviews import ContestDecision
from domain.sites import CloseSite, OpenSite
from domain.transport import RegisterVehicle, RetireVehicle
from domain.values import Command, Event
from eventstore import LogUnavailable
from eventstore.artifacts import Artifacts
from ml.catalogue import FEATURE_TABLES, KINDS
from ml.fulfilment import FULFILMENT, MAX_SITES, MAX_VEHICLES, enumerate_candidates
from ml.kind import History, Kind, Request
from ml.replay import replay
from ml.scoring import ADDITIVITY_TOLERANCE, Scorer
from projections.projector import Projector
from tests.world import (
    NOW,
    ORGANISATION,
    a_year,
    company,
    context,
    copied,
    decidable_orders,
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


@pytest.fixture(scope="module")
def deciding(year: str) -> list[str]:
    """Orders with more than one allowed option, while nothing else was done."""
    return asyncio.run(decidable_orders(year))


@pytest.fixture
def copy(year: str, deciding: Sequence[str]) -> Iterator[str]:
    """A copy of the year, for what would be in the way of others."""
    assert deciding
    with copied(year) as url:
        yield url


def test_a_request_is_decided_and_explained(year: str) -> None:
    async def story() -> None:
        async with company(year) as app:
            order_id = (await open_orders(app))[9]
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
            order_id = (await open_orders(app))[10]
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
            assert outcome.occurred is True
            assert outcome.followed is True
            assert (outcome.probability, outcome.foretold) == (made.probability, made.foretold)
            assert outcome.model_hash == made.model_hash

    asyncio.run(story())


async def deliver(app: Application, order_id: str, by: Mapping[str, Any], **more: Any) -> None:
    """An order goes its way, late."""
    for command in (
        AllocateOrder(order_id=order_id, **by, **more, allocated_at=NOW),
        ShipOrder(order_id=order_id, shipped_at=NOW),
        DeliverOrder(order_id=order_id, delivered_at=NOW + timedelta(days=400)),
    ):
        await app.bus.execute(command, context())


async def outcomes_of(app: Application, *names: str) -> dict[str, DecisionOutcomeRecorded]:
    found = [
        one for one in await events_of(app, DecisionOutcomeRecorded) if one.decision_id in names
    ]
    assert len(found) == len({one.decision_id for one in found})
    return {one.decision_id: one for one in found}


def differently(made: DecisionMade) -> dict[str, str]:
    """An allowed option that was not chosen."""
    return next(
        one.option for one in made.candidates if not one.rejected and one.option != made.option
    )


@pytest.mark.parametrize("batch", [1, 20_000])
def test_a_delivery_closes_all_decisions_about_the_order(
    copy: str, deciding: Sequence[str], batch: int
) -> None:
    async def story() -> None:
        async with company(copy) as app:
            app.consumer._batch = batch
            names = ("d-one", "d-two", "d-three")
            for name in names:
                await request(app, name, deciding[0])
            await request(app, "d-elsewhere", deciding[1])
            await app.consumer.catch_up()
            made = {one.decision_id: one for one in await events_of(app, DecisionMade)}
            by = RecordOutcome(decision_id="d-three", occurred=False, followed=False, known_at=NOW)
            await app.bus.execute(by, context())
            other = differently(made["d-one"])
            await deliver(app, deciding[0], other, decision_id="d-one")
            await app.consumer.catch_up()
            found = await outcomes_of(app, *names, "d-elsewhere")
            assert found.keys() == set(names)
            for name in ("d-one", "d-two"):
                assert (found[name].occurred, found[name].followed) == (True, False)
                assert found[name].known_at == NOW + timedelta(days=400)
                assert found[name].foretold == made[name].foretold
            # What somebody had said stays.
            assert found["d-three"].occurred is False

    asyncio.run(story())


@pytest.mark.parametrize("batch", [1, 20_000])
def test_a_decision_made_after_the_delivery_has_its_outcome(
    copy: str, deciding: Sequence[str], batch: int
) -> None:
    """It was asked for in time: the consumer was late, or the order quick."""

    async def story() -> None:
        async with company(copy) as app:
            app.consumer._batch = batch
            await request(app, "d-early", deciding[0])
            await app.consumer.catch_up()
            [made] = [e for e in await events_of(app, DecisionMade) if e.decision_id == "d-early"]
            await request(app, "d-slow", deciding[0])
            await request(app, "d-slow-2", deciding[0])
            await deliver(app, deciding[0], made.option, decision_id="d-early")
            await app.consumer.catch_up()
            found = await outcomes_of(app, "d-early", "d-slow", "d-slow-2")
            told = {name: (one.occurred, one.followed) for name, one in found.items()}
            assert told == dict.fromkeys(["d-early", "d-slow", "d-slow-2"], (True, True))
            head = await app.log.head()
            await app.consumer.catch_up()
            assert await app.log.head() == head

    asyncio.run(story())


def test_a_crash_behind_outcomes_records_each_once(
    copy: str, deciding: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with company(copy) as app:
            await request(app, "d-one", deciding[0])
            await request(app, "d-two", deciding[0])
            await app.consumer.catch_up()
            [made] = [e for e in await events_of(app, DecisionMade) if e.decision_id == "d-one"]
            await deliver(app, deciding[0], made.option)
            crash_after(monkeypatch, RecordOutcome, 1)
            with pytest.raises(Crash):
                await app.consumer.catch_up()
            monkeypatch.undo()
        async with company(copy) as app:
            before = await outcomes_of(app, "d-one", "d-two")
            await app.consumer.catch_up()
            assert await outcomes_of(app, "d-one", "d-two") == before
            assert before.keys() == {"d-one", "d-two"}

    asyncio.run(story())


# many sites and vehicles


async def candidates_of(app: Application, name: str, order_id: str) -> DecisionMade:
    await request(app, name, order_id)
    await app.consumer.catch_up()
    [made] = [e for e in await events_of(app, DecisionMade) if e.decision_id == name]
    assert isinstance(made, DecisionMade)
    return made


def test_closed_sites_do_not_crowd_out_open_ones(copy: str, deciding: Sequence[str]) -> None:
    """Sixty of them, first by name, and lacking nothing, as they never kept stock."""

    async def story() -> None:
        async with company(copy) as app:
            before = await candidates_of(app, "d-plain", deciding[0])
            sites = [f"A-{number:02}" for number in range(60)]
            opened = [OpenSite(site_id=name, opened_at=NOW) for name in sites]
            closed = [CloseSite(site_id=name, reason="flood", closed_at=NOW) for name in sites]
            await app.bus.execute_many([(one, context()) for one in (*opened, *closed)])
            after = await candidates_of(app, "d-crowd", deciding[0])
            assert after.option == before.option
            mine = [one for one in after.candidates if one.option["site_id"] not in sites]
            assert mine == list(before.candidates)
            shut = [one for one in after.candidates if one.option["site_id"] in sites]
            known = {one.option["site_id"] for one in after.candidates}
            assert len(known) == MAX_SITES
            assert all("site.closed" in one.rejected for one in shut)
            again = await replay(app.url, app.log, app.artifacts, ORGANISATION, ["d-crowd"])
            assert [one.cause for one in again] == [""]

    asyncio.run(story())


def test_so_many_vehicles_of_a_site_and_level_are_considered(
    copy: str, deciding: Sequence[str]
) -> None:
    """The retired ones last."""

    async def story() -> None:
        async with company(copy) as app:
            before = await candidates_of(app, "d-plain", deciding[0])
            site, level = before.option["site_id"], before.option["service_level"]
            fleet = [f"A-{number:02}" for number in range(2 * MAX_VEHICLES)]
            for name in fleet:
                register = RegisterVehicle(
                    vehicle_id=name,
                    site_id=site,
                    mode="van",
                    service_levels=(level,),
                    registered_at=NOW,
                )
                await app.bus.execute(register, context())
            for name in fleet[:MAX_VEHICLES]:
                retire = RetireVehicle(vehicle_id=name, reason="rust", retired_at=NOW)
                await app.bus.execute(retire, context())
            after = await candidates_of(app, "d-crowd", deciding[0])
            counts = Counter(
                (one.option["site_id"], one.option["service_level"]) for one in after.candidates
            )
            assert max(counts.values()) == counts[site, level] == MAX_VEHICLES
            mine = [
                one.option["vehicle_id"]
                for one in after.candidates
                if (one.option["site_id"], one.option["service_level"]) == (site, level)
            ]
            assert mine == fleet[MAX_VEHICLES:]
            elsewhere = {
                tuple(one.option.values())
                for one in before.candidates
                if (one.option["site_id"], one.option["service_level"]) != (site, level)
            }
            assert elsewhere <= {tuple(one.option.values()) for one in after.candidates}

    asyncio.run(story())


class Crash(Exception):
    pass


def crash_after(patch: pytest.MonkeyPatch, command: type[Command], pieces: int) -> None:
    """The process dies right behind so many appends of a command."""
    execute_many = Bus.execute_many
    taken = 0

    async def dies(self: Bus, commands: Any) -> Any:
        nonlocal taken
        results = await execute_many(self, commands)
        taken += any(isinstance(one, command) for one, _ in commands)
        if taken == pieces:
            raise Crash
        return results

    patch.setattr(Bus, "execute_many", dies)


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_a_crash_between_answer_and_position_decides_once(
    year: str, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {f"d-crash-{pieces}-{number}" for number in range(3)}

    async def story() -> None:
        async with company(year) as app:
            orders = (await open_orders(app))[5:8]
            for decision_id, order_id in zip(sorted(asked), orders, strict=True):
                await request(app, decision_id, order_id)
            monkeypatch.setattr("ml.pieces.PIECE", 1)
            crash_after(monkeypatch, RecordDecision, pieces)
            with pytest.raises(Crash):
                await app.consumer.catch_up()
            monkeypatch.undo()
            before = await events_of(app, DecisionMade)
            assert len([one for one in before if one.decision_id in asked]) == pieces
        # A new process with no memory of the first one.
        async with company(year) as app:
            await app.consumer.catch_up()
            made = await events_of(app, DecisionMade)
            counts = Counter(event.decision_id for event in made)
            assert max(counts.values()) == 1
            assert asked <= counts.keys()
            assert made[: len(before)] == before
            failed = {e.decision_id for e in await events_of(app, DecisionFailed)}
            assert not failed & asked
            found = await replay(app.url, app.log, app.artifacts, ORGANISATION, sorted(asked))
            assert [one.cause for one in found] == [""] * 3

    asyncio.run(story())


# requests that cannot be decided


def falling_over(order_id: str) -> Kind:
    """Fulfilment that has not thought of one order; otherwise the same kind to the byte."""

    @wraps(enumerate_candidates)
    async def enumerates(requests: Sequence[Request], history: History) -> pl.DataFrame:
        if order_id in {one.event.subject_id for one in requests}:
            raise ZeroDivisionError(f"{order_id} has no units")
        return await enumerate_candidates(requests, history)

    kind = replace(FULFILMENT, enumerate=enumerates)
    assert kind.code == FULFILMENT.code
    return kind


@pytest.mark.parametrize("bad", [0, 3, 6])
def test_one_bad_request_of_many_fails_alone(
    year: str, bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with company(year) as app:
            orders = (await open_orders(app))[4:11]
            names = [f"d-bad-{bad}-{number}" for number in range(7)]
            for name, order_id in zip(names, orders, strict=True):
                await request(app, name, order_id)
            monkeypatch.setitem(KINDS, "fulfilment", falling_over(orders[bad]))
            await app.consumer.catch_up()
            made = {one.decision_id for one in await events_of(app, DecisionMade)}
            assert made & set(names) == set(names) - {names[bad]}
            [failed] = [
                one for one in await events_of(app, DecisionFailed) if one.decision_id in names
            ]
            assert failed.decision_id == names[bad]
            assert failed.subject_id == orders[bad]
            assert failed.code == "decision.error"
            assert failed.detail == f"ZeroDivisionError: {orders[bad]} has no units"
            # The failure replays with that code, and all others without it.
            again = await replay(app.url, app.log, app.artifacts, ORGANISATION, names)
            assert [one.cause for one in again] == [""] * 7
            monkeypatch.undo()
            mended = await replay(app.url, app.log, app.artifacts, ORGANISATION, names)
            assert [one.decision_id for one in mended if not one.same] == [names[bad]]

    asyncio.run(story())


def test_a_model_that_says_no_number_decides_nothing(
    year: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is NaN near to anything, nor does it pass for it."""
    scored = Scorer.score

    def score(self: Scorer, matrix: Any) -> Any:
        found = scored(self, matrix)
        return replace(found, margins=np.full_like(found.margins, np.nan))

    async def story() -> None:
        async with company(year) as app:
            await request(app, "d-nan", (await open_orders(app))[4])
            monkeypatch.setattr(Scorer, "score", score)
            await app.consumer.catch_up()
            [failed] = [e for e in await events_of(app, DecisionFailed) if e.decision_id == "d-nan"]
            assert failed.code == "decision.error"
            assert failed.detail.startswith("ArithmeticError: SHAP values of model ")
            assert "miss the margin by inf" in failed.detail

    asyncio.run(story())


def test_a_model_that_breaks_fails_each_request_with_the_reason(
    year: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(self: Scorer, matrix: Any) -> Any:
        raise RuntimeError("out of trees\0")

    async def story() -> None:
        async with company(year) as app:
            for number, order_id in enumerate((await open_orders(app))[4:7]):
                await request(app, f"d-trees-{number}", order_id)
            monkeypatch.setattr(Scorer, "score", score)
            await app.consumer.catch_up()
            failed = [
                (one.code, one.detail)
                for one in await events_of(app, DecisionFailed)
                if one.decision_id.startswith("d-trees-")
            ]
            assert failed == [("decision.error", "RuntimeError: out of trees")] * 3

    asyncio.run(story())


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("server closed the connection"),
        psycopg.InterfaceError("the cursor is closed"),
        LogUnavailable("the database gave no connection in time"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("what", ["rows", "model"])
def test_a_lost_database_is_no_reason_to_fail_a_request(
    year: str, error: Exception, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"d-lost-{what}-{type(error).__name__}"

    async def lost(*_: Any) -> Any:
        raise error

    async def story() -> None:
        async with company(year) as app:
            await request(app, name, (await open_orders(app))[5])
            if what == "rows":
                patched = replace(FULFILMENT, enumerate=lost)
                monkeypatch.setitem(KINDS, "fulfilment", patched)
            else:
                monkeypatch.setattr(Artifacts, "get", lost)
            with pytest.raises(type(error)):
                await app.consumer.catch_up()
            monkeypatch.undo()
            await app.consumer.catch_up()
            answers = [
                type(one)
                for one in await events_of(app, DecisionMade, DecisionFailed)
                if one.decision_id == name
            ]
            assert answers == [DecisionMade]

    asyncio.run(story())


@pytest.mark.parametrize("beside", [0, 2])
def test_an_order_that_no_site_may_sell_has_no_candidate(year: str, beside: int) -> None:
    """Alone, and among others that are decided."""

    async def story() -> None:
        async with company(year) as app:
            order_id, decision_id = f"O-orphan-{beside}", f"d-orphan-{beside}"
            line = OrderLine(
                line_no=1, sku="A", quantity=Decimal(1), unit_price_minor=100, site_id="S-404"
            )
            place = PlaceOrder(
                order_id=order_id,
                customer_id="C-1",
                currency="EUR",
                lines=(line,),
                placed_at=NOW,
                promised_at=NOW + timedelta(days=3),
            )
            await app.bus.execute(place, context())
            await request(app, decision_id, order_id)
            for number, other in enumerate((await open_orders(app))[4 : 4 + beside]):
                await request(app, f"{decision_id}-{number}", other)
            await app.consumer.catch_up()
            [failed] = [
                one
                for one in await events_of(app, DecisionFailed)
                if one.decision_id.startswith(decision_id)
            ]
            assert failed.decision_id == decision_id
            assert failed.code == "decision.no_candidate"
            assert failed.detail == FULFILMENT.nothing

    asyncio.run(story())


# contested decisions


def test_a_contested_decision_is_decided_anew_under_a_linked_id(year: str) -> None:
    other = Weights(cost=0.1, risk_minor=90_000, carbon_minor_per_kg=0)

    async def story() -> None:
        async with company(year) as app:
            order_id = (await open_orders(app))[8]
            await request(app, "d-contest", order_id)
            await app.consumer.catch_up()
            contest = ContestDecision(
                decision_id="d-contest", reason="too risky", weights=other, contested_at=NOW
            )
            await app.bus.execute(contest, context("customer"))
            await app.consumer.catch_up()
            [asked] = [
                one
                for one in await events_of(app, DecisionRequested)
                if one.redecides == "d-contest"
            ]
            assert asked.decision_id != "d-contest"
            assert (asked.kind, asked.subject_id) == ("fulfilment", order_id)
            assert asked.weights == other
            answers = await events_of(app, DecisionMade)
            [first] = [one for one in answers if one.decision_id == "d-contest"]
            [second] = [one for one in answers if one.decision_id == asked.decision_id]
            assert second.weights == other != first.weights
            assert second.as_of > first.as_of
            # The same question of the same model: only what counts has changed.
            assert [one.risk for one in second.candidates] == [one.risk for one in first.candidates]
            assert second.candidates != first.candidates
            both = ["d-contest", asked.decision_id]
            found = await replay(app.url, app.log, app.artifacts, ORGANISATION, both)
            assert [one.cause for one in found] == ["", ""]

    asyncio.run(story())


def test_who_wants_no_new_decision_gets_none(year: str) -> None:
    async def story() -> None:
        async with company(year) as app:
            await request(app, "d-grumble", (await open_orders(app))[8])
            await app.consumer.catch_up()
            grumble = ContestDecision(
                decision_id="d-grumble", reason="hm", redecide=False, contested_at=NOW
            )
            await app.bus.execute(grumble, context("customer"))
            await app.consumer.catch_up()
            linked = [one.redecides for one in await events_of(app, DecisionRequested)]
            assert "d-grumble" not in linked

    asyncio.run(story())


def test_who_contests_what_cannot_be_decided_any_more_is_told(
    copy: str, deciding: Sequence[str]
) -> None:
    """The order has been cancelled: no new decision, and an event that says so."""

    async def story() -> None:
        async with company(copy) as app:
            order_id = deciding[0]
            await request(app, "d-too-late", order_id)
            await app.consumer.catch_up()
            cancel = CancelOrder(order_id=order_id, reason="x", cancelled_at=NOW)
            await app.bus.execute(cancel, context())
            contest = ContestDecision(decision_id="d-too-late", reason="no", contested_at=NOW)
            await app.bus.execute(contest, context("customer"))
            await app.consumer.catch_up()
            kept = DecisionNotRedecided(
                decision_id="d-too-late",
                kind="fulfilment",
                subject_id=order_id,
                stage="made",
                code="order.already_cancelled",
                detail=f"order already cancelled (order_id={order_id}, status=cancelled) "
                "[order.already_cancelled]",
            )
            assert await events_of(app, DecisionNotRedecided) == [kept]
            await app.projector.catch_up()
            async with app.log.connection() as connection:
                query = "SELECT stage FROM read_models.decision_list WHERE decision_id = %s"
                rows = await (await connection.execute(query, ("d-too-late",))).fetchall()
            assert rows == [("made",)]
            # It stands, so it can be contested once more.
            await app.bus.execute(contest, context("customer"))
            with pytest.raises(Refused, match=r"decision\.already_contested"):
                await app.bus.execute(contest, context("customer"))
            await app.consumer.catch_up()
            assert await events_of(app, DecisionNotRedecided) == [kept, kept]

    asyncio.run(story())


def test_who_contests_while_nobody_decides_is_told(copy: str, deciding: Sequence[str]) -> None:
    """The new decision fails: the old one stands again and can be contested once more."""

    async def story() -> None:
        async with company(copy) as app:
            await request(app, "d-stands", deciding[0])
            await app.consumer.catch_up()
            stop = StopKind(kind="fulfilment", reason="strike", stopped_at=NOW)
            await app.bus.execute(stop, context())
            contest = ContestDecision(decision_id="d-stands", reason="no", contested_at=NOW)
            await app.bus.execute(contest, context("customer"))
            await app.consumer.catch_up()
            [asked] = [
                one
                for one in await events_of(app, DecisionRequested)
                if one.redecides == "d-stands"
            ]
            failed = {one.decision_id: one.code for one in await events_of(app, DecisionFailed)}
            assert failed[asked.decision_id] == "decision.kind_stopped"
            kept = [one.decision_id for one in await events_of(app, DecisionNotRedecided)]
            assert kept == ["d-stands"]

    asyncio.run(story())


@pytest.mark.parametrize("command", [RequestDecision, RecordDecision], ids=["asked", "answered"])
def test_a_crash_behind_a_contest_decides_anew_once(
    year: str, command: type[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"d-contest-crash-{command.__name__}"

    async def story() -> None:
        async with company(year) as app:
            await request(app, name, (await open_orders(app))[8])
            await app.consumer.catch_up()
            contest = ContestDecision(decision_id=name, reason="no", contested_at=NOW)
            await app.bus.execute(contest, context("customer"))
            crash_after(monkeypatch, command, 1)
            with pytest.raises(Crash):
                await app.consumer.catch_up()
            monkeypatch.undo()
        async with company(year) as app:
            await app.consumer.catch_up()
            [asked] = [
                one for one in await events_of(app, DecisionRequested) if one.redecides == name
            ]
            made = [one.decision_id for one in await events_of(app, DecisionMade)]
            assert made.count(asked.decision_id) == 1
            assert made.count(name) == 1

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


def test_an_order_without_any_site_fails_with_the_reason(database: str) -> None:
    async def story() -> None:
        organisation = UUID(int=ORGANISATION.int + 1)
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
            assert failed.code == "decision.no_candidate"

    asyncio.run(story())
