"""The kinds of decision beside fulfilment, on a real log: replenishment and anomaly review."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID

import numpy as np
import polars as pl
import pytest

from chainlytics.application import Application
from domain import catalogue
from domain.decisions import (
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionOutcomeRecorded,
    RequestDecision,
)
from domain.errors import Refused
from domain.inventory import AdjustStock, PickStock, ReceiveStock
from domain.models import ApproveModel, DeployModel
from domain.orders import OrderLine, PlaceOrder
from domain.sites import CloseSite, OpenSite
from domain.values import Event
from ml.anomaly import ANOMALY
from ml.catalogue import KINDS
from ml.history import LogHistory, matrix, with_sources
from ml.kind import Kind
from ml.models import read_log, train, training_rows
from ml.replay import replay
from ml.replenishment import REPLENISHMENT
from ml.weighing import floats
from projections.table import LAST_POSITION
from tests.world import NOW, ORGANISATION, a_year, company, context, deployed_model, open_orders

ALL = list(KINDS)


async def deployed(app: Application, kind: Kind) -> str:
    """Train a model of a kind on what the log holds, approve and deploy it."""
    trained = await train(app.url, app.log, app.artifacts, ORGANISATION, kind, NOW)
    model_hash = trained.registration.model_hash
    await app.bus.execute(trained.registration, context("planner"))
    await app.bus.execute(ApproveModel(model_hash=model_hash, approved_at=NOW), context("boss"))
    await app.bus.execute(DeployModel(model_hash=model_hash, deployed_at=NOW), context("planner"))
    return model_hash


async def decided(
    app: Application, kind: Kind, subjects: Sequence[str], name: str, at: datetime = NOW
) -> list[DecisionMade | DecisionFailed]:
    """Ask for decisions in one go; the answers in the order of the subjects."""
    head = await app.log.head()
    for number, subject in enumerate(subjects):
        command = RequestDecision(
            decision_id=f"{name}-{number}", kind=kind.name, subject_id=subject, requested_at=at
        )
        await app.bus.execute(command, context("planner"))
    await app.consumer.catch_up()
    answers = {
        event.decision_id: event
        for event in await events_behind(app, head)
        if isinstance(event, DecisionMade | DecisionFailed)
    }
    return [answers[f"{name}-{number}"] for number in range(len(subjects))]


async def events_behind(app: Application, position: int) -> list[Event]:
    """The events behind a position."""
    found = []
    while batch := await app.log.after(position, 10_000):
        found += [catalogue.decode(one.topic, one.state) for one in batch]
        position = batch[-1].position
    return found


@pytest.fixture(scope="module")
def year(database: str) -> str:
    """A database with a year, and a model of each kind."""

    async def fill() -> None:
        async with company(database) as app:
            await a_year(app, 3000)
            await deployed_model(app)
            await deployed(app, REPLENISHMENT)
            await deployed(app, ANOMALY)
            await app.consumer.catch_up()

    asyncio.run(fill())
    return database


@pytest.mark.parametrize("name", ALL)
def test_training_rows_do_not_change_when_later_events_do(year: str, name: str) -> None:
    """Shuffle, drop and falsify what came after a row's position: its features stay."""
    kind = KINDS[name]

    async def story() -> None:
        async with company(year) as app:
            log_frames = await read_log(app.url, app.log, ORGANISATION, kind)
            rows = await training_rows(kind, log_frames)
            cut = int(rows["position"].median())  # type: ignore[arg-type]
            random = Random(5)
            tampered = {}
            for table, part in log_frames.parts.items():
                before = part.filter(pl.col(LAST_POSITION) <= cut)
                after = part.filter(pl.col(LAST_POSITION) > cut)
                kept = after.sample(fraction=0.6, shuffle=True, seed=3)
                later = random.sample(after[LAST_POSITION].to_list(), kept.height)
                falsified = kept.with_columns(pl.Series(LAST_POSITION, sorted(later), pl.Int64))
                tampered[table] = pl.concat([before, falsified])
            joined = [name for name in rows.columns if "__" in name]
            early = rows.filter(pl.col("position") <= cut)
            again = await with_sources(kind, early.drop(joined), LogHistory(tampered))
            assert early.height > 200
            assert np.array_equal(matrix(kind, early), matrix(kind, again), equal_nan=True)
            late = rows.filter(pl.col("position") > cut)
            other = await with_sources(kind, late.drop(joined), LogHistory(tampered))
            # The test can fail: what comes after does change the later rows.
            assert not np.array_equal(matrix(kind, late), matrix(kind, other), equal_nan=True)

    asyncio.run(story())


@pytest.mark.parametrize("name", ALL)
def test_a_kind_declares_what_can_be_shown(name: str) -> None:
    kind = KINDS[name]
    assert len(set(kind.feature_names)) == len(kind.feature_names)
    assert len(kind.code) == len(kind.schema_hash) == 64
    for feature in kind.features:
        if feature.lever is not None:
            assert feature.lever.low < feature.lever.high
            assert set(feature.lever.shared) <= set(kind.option)
            assert not feature.derived
    # What an option bears of the risk hangs on the option alone.
    assert set(kind.exposure.meta.root_names()) <= set(kind.option)


def test_all_decisions_of_all_kinds_replay_to_the_byte_and_add_up(year: str) -> None:
    async def story() -> None:
        async with company(year) as app:
            orders = (await open_orders(app))[:3]
            head = await app.log.head()
            for kind, subjects in (
                (KINDS["fulfilment"], orders),
                (REPLENISHMENT, ["S-ESS/SKU-001", "S-LIL/SKU-002"]),
                (ANOMALY, [orders[0], "S-ESS/SKU-001"]),
            ):
                answers = await decided(app, kind, subjects, f"all-{kind.name}")
                assert all(isinstance(one, DecisionMade) for one in answers)
            events = await events_behind(app, head)
            margins = {
                one.decision_id: [candidate.margin for candidate in one.candidates]
                for one in events
                if isinstance(one, DecisionMade)
            }
            explained = [one for one in events if isinstance(one, DecisionExplained)]
            assert len(explained) == len(margins) == 7
            for one in explained:
                sums = [sum(floats(encoded)) for encoded in one.contributions]
                assert sums == pytest.approx(margins[one.decision_id], abs=1e-4)
                assert one.summary
            found = await replay(app.url, app.log, app.artifacts, ORGANISATION)
            assert {one.kind for one in found} == set(KINDS)
            assert [one for one in found if not one.same] == []

    asyncio.run(story())


def test_a_shelf_that_runs_low_is_filled_now(year: str) -> None:
    """And one that is full is not."""

    async def story() -> None:
        async with company(year) as app:
            site, full, low = "S-ESS", "SKU-001", "SKU-003"
            at = NOW
            for sku, left in ((full, 500), (low, 1)):
                async with app.log.connection() as connection:
                    await app.projector.catch_up()
                    row = await (
                        await connection.execute(
                            """SELECT on_hand FROM read_models.stock_levels
                            WHERE organisation_id = %s AND site_id = %s AND sku = %s""",
                            (ORGANISATION, site, sku),
                        )
                    ).fetchone()
                assert row is not None
                if left != row[0]:
                    counted = AdjustStock(
                        site_id=site, sku=sku, change=left - row[0], reason="count", adjusted_at=at
                    )
                    await app.bus.execute(counted, context())
            answers = await decided(app, REPLENISHMENT, [f"{site}/{full}", f"{site}/{low}"], "low")
            plenty, scarce = answers
            assert isinstance(plenty, DecisionMade)
            assert isinstance(scarce, DecisionMade)
            assert plenty.option["order"] != "now"
            assert plenty.option["quantity"] == "0"
            assert scarce.option["order"] == "now"
            assert int(scarce.option["quantity"]) > 0
            risks = {one.option["order"]: one.risk for one in scarce.candidates}
            assert risks["now"] < risks["in_14_days"]

    asyncio.run(story())


def test_more_than_ever_came_in_at_once_is_ruled_out(year: str) -> None:
    """The quantities follow from what left the shelf; one busy week must not order the moon."""

    async def story() -> None:
        async with company(year) as app:
            site, sku = "S-MUC", "NEW-1"
            before = NOW - timedelta(days=8)
            for command in (
                ReceiveStock(site_id=site, sku=sku, quantity=Decimal(2), received_at=before),
                AdjustStock(
                    site_id=site, sku=sku, change=Decimal(400), reason="found", adjusted_at=before
                ),
                PickStock(site_id=site, sku=sku, quantity=Decimal(390), picked_at=before),
            ):
                await app.bus.execute(command, context())
            [made] = await decided(app, REPLENISHMENT, [f"{site}/{sku}"], "moon")
            assert isinstance(made, DecisionMade)
            ordered = [one for one in made.candidates if one.option["order"] == "now"]
            assert ordered
            assert all("quantity.beyond_experience" in one.rejected for one in ordered)
            assert made.option["order"] != "now"

    asyncio.run(story())


def test_a_shelf_that_empties_or_lasts_tells_the_outcome(year: str) -> None:
    """Within the decision's days, or with the first movement after them."""

    async def story() -> None:
        async with company(year) as app:
            head = await app.log.head()
            site, empties, lasts = "S-LEJ", "RUNS-OUT", "LASTS"
            for sku in (empties, lasts):
                for command in (
                    ReceiveStock(site_id=site, sku=sku, quantity=Decimal(5), received_at=NOW),
                    PickStock(site_id=site, sku=sku, quantity=Decimal(1), picked_at=NOW),
                ):
                    await app.bus.execute(command, context())
            made = await decided(
                app, REPLENISHMENT, [f"{site}/{empties}", f"{site}/{lasts}"], "outcome"
            )
            for sku, quantity, days in ((empties, 1, 1), (empties, 3, 2), (lasts, 1, 2)):
                pick = PickStock(
                    site_id=site,
                    sku=sku,
                    quantity=Decimal(quantity),
                    picked_at=NOW + timedelta(days=days),
                )
                await app.bus.execute(pick, context())
            await app.consumer.catch_up()

            async def outcomes() -> dict[str, DecisionOutcomeRecorded]:
                return {
                    one.decision_id: one
                    for one in await events_behind(app, head)
                    if isinstance(one, DecisionOutcomeRecorded)
                }

            assert (await outcomes()).keys() == {"outcome-0"}
            later = ReceiveStock(
                site_id=site, sku=lasts, quantity=Decimal(7), received_at=NOW + timedelta(days=22)
            )
            await app.bus.execute(later, context())
            await app.consumer.catch_up()
            found = await outcomes()
            assert found["outcome-0"].occurred is True
            assert found["outcome-1"].occurred is False
            for answer in made:
                assert isinstance(answer, DecisionMade)
                came = 7 if answer.decision_id == "outcome-1" else 0
                wanted = int(answer.option["quantity"])
                followed = came >= wanted if wanted else came == 0
                assert found[answer.decision_id].followed == followed
                assert found[answer.decision_id].foretold == answer.foretold

    asyncio.run(story())


def test_what_goes_fast_is_not_said_to_last(year: str) -> None:
    """Far more leaves the shelf in a day than is there: waiting is a risk, and known to be one."""

    async def story() -> None:
        async with company(year) as app:
            site, sku = "S-AMS", "FAST"
            bought = ReceiveStock(
                site_id=site,
                sku=sku,
                quantity=Decimal(3000),
                received_at=NOW - timedelta(days=40),
            )
            await app.bus.execute(bought, context())
            for day in range(35, 1, -1):
                gone = PickStock(
                    site_id=site,
                    sku=sku,
                    quantity=Decimal(85),
                    picked_at=NOW - timedelta(days=day),
                )
                await app.bus.execute(gone, context())
            [made] = await decided(app, REPLENISHMENT, [f"{site}/{sku}"], "fast")
            assert isinstance(made, DecisionMade)
            assert made.option["order"] == "now"
            by_order = {one.option["order"]: one for one in made.candidates}
            assert by_order["in_14_days"].risk > 0.1
            assert by_order["in_14_days"].risk > 5 * by_order["now"].risk  # of the largest order
            risks = [one.risk for one in made.candidates if one.option["order"] == "now"]
            assert risks == sorted(risks, reverse=True)  # more pieces never raise the risk

    asyncio.run(story())


def test_what_a_site_never_had_or_a_closed_site_is_not_replenished(year: str) -> None:
    async def story() -> None:
        async with company(year) as app:
            opened = OpenSite(site_id="S-GONE", opened_at=NOW)
            closed = CloseSite(site_id="S-GONE", reason="flood", closed_at=NOW)
            await app.bus.execute(opened, context())
            [failed] = await decided(app, REPLENISHMENT, ["S-AMS/NEVER"], "never")
            assert isinstance(failed, DecisionFailed)
            assert failed.code == "decision.no_candidate"
            await app.bus.execute(closed, context())
            for subject, code in (
                ("S-GONE/SKU-001", "site.closed"),
                ("S-NOWHERE/SKU-001", "site.unknown"),
                ("S-AMS", "decision.wrong_subject"),
            ):
                with pytest.raises(Refused) as refusal:
                    await decided(app, REPLENISHMENT, [subject], f"wrong-{code}")
                assert refusal.value.code == code

    asyncio.run(story())


def test_an_absurd_order_looks_more_unusual_than_any_other(year: str) -> None:
    async def story() -> None:
        async with company(year) as app:
            usual = (await open_orders(app, 30))[:20]
            absurd = PlaceOrder(
                order_id="O-ABSURD",
                customer_id="C-000001",
                currency="EUR",
                lines=(
                    OrderLine(
                        line_no=1,
                        sku="SKU-001",
                        quantity=Decimal(900),
                        unit_price_minor=1,
                        weight_g=19_000,
                    ),
                ),
                placed_at=NOW - timedelta(hours=21),
                promised_at=NOW + timedelta(days=300),
            )
            await app.bus.execute(absurd, context())
            answers = await decided(app, ANOMALY, [*usual, "O-ABSURD"], "odd")
            risks = []
            for answer in answers:
                assert isinstance(answer, DecisionMade)
                by_verdict = {one.option["verdict"]: one for one in answer.candidates}
                assert by_verdict["review"].risk == 0.0
                assert by_verdict["pass"].cost_minor == 0
                risks.append(by_verdict["pass"].risk)
            assert risks[-1] == max(risks)
            assert risks[-1] > 3 * float(np.median(risks))
            last = answers[-1]
            assert isinstance(last, DecisionMade)
            assert last.option == {"verdict": "review"}
            first = answers[int(np.argmin(risks))]
            assert isinstance(first, DecisionMade)
            assert first.option == {"verdict": "pass"}

    asyncio.run(story())


def test_a_subject_that_is_not_there_is_refused(year: str) -> None:
    async def story() -> None:
        async with company(year) as app:
            for subject, code in (("O-NOT-THERE", "order.unknown"), ("S-X/SKU-1", "site.unknown")):
                with pytest.raises(Refused) as refusal:
                    await decided(app, ANOMALY, [subject], f"absent-{code}")
                assert refusal.value.code == code
            stranger = context(organisation_id=UUID(int=99))
            foreign = RequestDecision(
                decision_id="foreign", kind="anomaly", subject_id="O-000001", requested_at=NOW
            )
            with pytest.raises(Refused):
                await app.bus.execute(foreign, stranger)

    asyncio.run(story())


def test_serving_never_imports_shap() -> None:
    """shap costs 4.5 s and 290 MB; exact SHAP values come from xgboost itself."""
    script = (
        "import sys, chainlytics.cli.server, ml.decisions, ml.replay, ml.whatif, ml.explaining;"
        "sys.exit('shap' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
