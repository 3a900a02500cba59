"""Measuring models on a real log: figures by hand, drift where it was made, alerts once."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from chainlytics.application import Application, run_workers
from chainlytics.cli import measure as command
from commands.bulk import Keyed
from commands.sample_year import sample_year
from domain import catalogue
from domain.decisions import DecisionMade, RecordOutcome, RequestDecision
from domain.models import ModelAlertCleared, ModelAlertRaised, ModelMeasured, ModelRegistered
from domain.orders import PlaceOrder
from domain.policies import SetPolicy
from domain.reviews import OverrideDecision
from domain.values import Event
from eventstore import prepare_database
from ml.models import loaded
from ml.monitoring import Measured, NotMeasurable, measure, model_of
from ml.scoring import Scorer
from ml.watch import measure_all
from ml.weighing import floats
from tests.world import NOW, ORGANISATION, a_year, company, context, deployed_model, send

ORDERS = 1200
#: Features that a site's past and our own choice have no say in.
OF_THE_ORDER = ("promised_days", "weight_kg", "units", "lines", "weekday", "hour")
_YEAR = [
    one.command
    for one in sample_year(orders=ORDERS).commands
    if isinstance(one.command, PlaceOrder)
]


async def events_of(app: Application, *kinds: type[Event]) -> list[Any]:
    topics = {catalogue.TOPICS[kind] for kind in kinds}
    events = await app.log.after(0, 1_000_000)
    return [catalogue.decode(one.topic, one.state) for one in events if one.topic in topics]


async def decide(
    app: Application, name: str, count: int, more_days: int = 0, *, wait: bool = True
) -> None:
    """Place orders like those that the model learned from, some promised later, and decide them."""
    placed, asked = [], []
    step = len(_YEAR) // 2 // count
    for number, old in enumerate(_YEAR[::step][:count]):
        order_id = f"{name}-{number}"
        promised_at = old.promised_at + timedelta(days=more_days)
        order = old.model_copy(update={"order_id": order_id, "promised_at": promised_at})
        placed.append(Keyed(f"place:{order_id}", order, order_id, order_id))
        request = RequestDecision(
            decision_id=f"d-{order_id}",
            subject_id=order_id,
            requested_at=old.placed_at + timedelta(minutes=10),
        )
        asked.append(Keyed(f"ask:{order_id}", request, order_id, order_id))
    await send(app, [*placed, *asked], name)
    if wait:
        await app.consumer.catch_up()


async def measured(app: Application, model_hash: str, *stretch: int) -> Measured | None:
    return await measure(
        app.url, app.log, app.artifacts, app.bus, ORGANISATION, model_hash, *stretch
    )


@pytest.fixture(scope="module")
def trained(database: str) -> tuple[str, str]:
    """A database with a year and a deployed model, and the model's hash."""

    async def fill() -> str:
        async with company(database) as app:
            await a_year(app, ORDERS)
            model = await deployed_model(app)
            await app.consumer.catch_up()
            return model.registration.model_hash

    return database, asyncio.run(fill())


def test_drift_is_told_once_and_its_end_too(trained: tuple[str, str]) -> None:
    url, model_hash = trained

    async def story() -> None:
        async with company(url) as app:
            assert await measured(app, model_hash) is None
            await decide(app, "calm", 60)
            calm = await measured(app, model_hash)
            assert calm is not None
            assert calm.measurement.decisions == 60
            assert set(calm.measurement.psi) == set(calm.measurement.ks)
            assert {"score", *OF_THE_ORDER} <= set(calm.measurement.psi)
            assert not [one for one in calm.passed if one.feature in OF_THE_ORDER]
            assert {one.name for one in calm.limits} >= {"psi:score", "ks:hour", "override_rate"}
            # Known outcomes are too few to be watched.
            assert "accuracy_drop" not in {one.name for one in calm.limits}

            await decide(app, "shifted", 60, more_days=12)
            shifted = await measured(app, model_hash)
            assert shifted is not None
            assert shifted.measurement.from_position == calm.measurement.to_position + 1
            assert shifted.measurement.decisions == 60
            found = {one.feature for one in shifted.passed if one.feature in OF_THE_ORDER}
            assert found == {"promised_days"}
            await decide(app, "again", 60, more_days=12)
            assert await measured(app, model_hash) is not None
            raised = _of("promised_days", await events_of(app, ModelAlertRaised))
            assert sorted(one.measure for one in raised) == ["ks", "psi"]
            psi = next(one for one in raised if one.measure == "psi")
            made = await events_of(app, DecisionMade)
            chosen = [one for one in made if "d-shifted-" in one.decision_id and one.option]
            assert psi.sentence == (
                f"Drift: promised_days of the last {len(chosen)} decisions is distributed unlike "
                "the training "
                f"rows: PSI {psi.value:.2f}, more than {psi.threshold:.2f}"
            )
            assert psi.value > psi.threshold >= 0.25
            assert not _of("promised_days", await events_of(app, ModelAlertCleared))

            await decide(app, "over", 60)
            assert await measured(app, model_hash) is not None
            cleared = _of("promised_days", await events_of(app, ModelAlertCleared))
            assert sorted(one.measure for one in cleared) == ["ks", "psi"]
            assert len(_of("promised_days", await events_of(app, ModelAlertRaised))) == 2
            assert len(await events_of(app, ModelMeasured)) == 4

    asyncio.run(story())


def _of(feature: str, events: list[Any]) -> list[Any]:
    return [one for one in events if one.feature == feature]


def test_figures_are_those_by_hand(trained: tuple[str, str]) -> None:
    url, model_hash = trained

    async def story() -> None:
        async with company(url) as app:
            await measure_all(app.url, app.log, app.artifacts, app.bus)
            await decide(app, "hand", 80)
            made = {
                one.decision_id: one
                for one in await events_of(app, DecisionMade)
                if one.decision_id.startswith("d-hand-") and one.chosen is not None
            }
            names = sorted(made)
            occurred = {name: number % 3 == 0 for number, name in enumerate(names[:55])}
            for name, late in occurred.items():
                await _outcome(app, name, late, followed=True)
            # Another option was done; how it went cannot be known: neither judges the model.
            await _outcome(app, names[55], True, followed=False)
            await _outcome(app, names[56], None, followed=True)
            for name in names[57:60]:
                await _override(app, made[name])
            end = await app.log.head()
            found = await measured(app, model_hash)
            assert found is not None
            told = found.measurement
            assert told.to_position == end
            assert (told.decisions, told.outcomes, told.overridden) == (80, 55, 3)
            pairs = [(made[name].foretold, late) for name, late in occurred.items()]
            right = sum((risk >= 0.5) == late for risk, late in pairs)
            assert told.accuracy == pytest.approx(right / 55)
            squares = sum((risk - late) ** 2 for risk, late in pairs)
            assert told.brier == pytest.approx(squares / 55)
            bins: dict[int, list[tuple[float, bool]]] = {}
            for risk, late in pairs:
                bins.setdefault(min(int(risk * 10), 9), []).append((risk, late))
            off = sum(abs(sum(r for r, _ in one) - sum(y for _, y in one)) for one in bins.values())
            assert told.calibration_error == pytest.approx(off / 55)
            risks = [one.foretold for one in made.values()]
            likely = sum(max(risk, 1 - risk) for risk in risks) / len(risks)
            assert told.estimated_accuracy == pytest.approx(likely)
            expected = sum(risk * (1 - risk) for risk in risks) / len(risks)
            assert told.estimated_brier == pytest.approx(expected)

            limits = {one.name: one for one in found.limits}
            assert limits["override_rate"].value == pytest.approx(3 / 80)
            # A third was late, hardly anything was foretold: past what chance explains.
            assert limits["calibration_error"] in found.passed
            assert limits["calibration_error"].threshold >= 0.1
            assert limits["accuracy_drop"] in found.passed
            await _check_drift(app, found, list(made.values()))

            # The same stretch again is the same command.
            before = await app.log.head()
            again = await measured(app, model_hash, told.from_position, end)
            assert again is not None
            assert (again.repeated, again.measurement) == (True, told)
            assert await measured(app, model_hash) is None
            assert await app.log.head() == before

    asyncio.run(story())


async def _outcome(app: Application, name: str, occurred: bool | None, *, followed: bool) -> None:
    outcome = RecordOutcome(decision_id=name, occurred=occurred, followed=followed, known_at=None)
    await app.bus.execute(outcome, context())


async def _override(app: Application, made: DecisionMade) -> None:
    other = next(
        one.option for one in made.candidates if not one.rejected and one.option != made.option
    )
    override = OverrideDecision(
        decision_id=made.decision_id, option=other, reason="known better", overridden_at=NOW
    )
    await app.bus.execute(override, context("planner"))


async def _check_drift(app: Application, found: Measured, made: list[DecisionMade]) -> None:
    """PSI of a yes-or-no feature and KS of the scores, from their definitions."""
    [model] = await events_of(app, ModelRegistered)
    rows = loaded(await app.artifacts.get(model.training.data_hash))[:, :-1]
    chosen = [one.candidates[one.chosen] for one in made if one.chosen is not None]
    now = np.array([floats(one.features) for one in chosen])
    column = model.training.features.index("by_truck")
    counts = [Counter(side[:, column].tolist()) for side in (rows, now)]
    p, q = (
        [(count[value] + 1) / (sum(count.values()) + 2) for value in (0, 1)] for count in counts
    )
    assert set(counts[0]) == {0.0, 1.0}
    by_hand = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert found.measurement.psi["by_truck"] == pytest.approx(by_hand, abs=1e-6)
    scorer = Scorer(await app.artifacts.get(model.model_hash), model.training.features)
    before, after = scorer.risks(rows)[0], np.array([one.margin for one in chosen])
    gaps = [abs((before <= at).mean() - (after <= at).mean()) for at in (*before, *after)]
    assert found.measurement.ks["score"] == pytest.approx(max(gaps), abs=1e-6)


def test_the_policy_says_what_is_past_its_limit(trained: tuple[str, str]) -> None:
    url, model_hash = trained

    async def story() -> None:
        async with company(url) as app:
            wide = SetPolicy(
                kind="fulfilment", max_psi=50, max_ks=1, max_override_rate=1, set_at=NOW
            )
            await app.bus.execute(wide, context("boss"))
            await decide(app, "wide", 55, more_days=12)
            found = await measured(app, model_hash)
            assert found is not None
            assert found.passed == ()
            assert {one.threshold for one in found.limits if one.measure == "psi"} == {50}
            await decide(app, "few", 40, more_days=12)
            few = await measured(app, model_hash)
            assert few is not None
            assert {one.measure for one in few.limits} == {"override_rate"}
            with pytest.raises(NotMeasurable):
                await measured(app, "0" * 64)
            assert await model_of(app.url, app.log, ORGANISATION, model_hash[:10]) == model_hash
            with pytest.raises(NotMeasurable, match="0 models"):
                await model_of(app.url, app.log, ORGANISATION, "nothing")

    asyncio.run(story())


def test_a_worker_measures_when_there_is_enough(trained: tuple[str, str]) -> None:
    url, _ = trained

    async def story() -> None:
        async with company(url) as app:
            await measure_all(app.url, app.log, app.artifacts, app.bus)
            before = len(await events_of(app, ModelMeasured))
            await decide(app, "less", 30)
            every = timedelta(seconds=0.1)
            workers = asyncio.create_task(
                run_workers(url, projector=False, consumer=True, measure=every)
            )
            try:
                await asyncio.sleep(1)
                assert len(await events_of(app, ModelMeasured)) == before
                await decide(app, "more", 30, wait=False)
                for _ in range(100):
                    if len(await events_of(app, ModelMeasured)) > before:
                        break
                    await asyncio.sleep(0.1)
                await asyncio.sleep(0.5)
                found = await events_of(app, ModelMeasured)
            finally:
                workers.cancel()
                with suppress(asyncio.CancelledError):
                    await workers
            assert len(found) == before + 1
            assert found[-1].measurement.decisions >= 50

    asyncio.run(story())


def test_the_command_line(trained: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    url, model_hash = trained

    async def story() -> None:
        async with company(url) as app:
            await measure_all(app.url, app.log, app.artifacts, app.bus)
            await decide(app, "told", 50)

    asyncio.run(story())
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("CHAINLYTICS_ORGANISATION", str(ORGANISATION))
    prepare_database(url)
    cli = typer.Typer()
    cli.command()(command.measure)
    done = CliRunner().invoke(cli, ["--model", model_hash[:12], "--json"], catch_exceptions=False)
    [found] = json.loads(done.output)
    assert found["measurement"]["decisions"] == 50
    assert found["model_hash"] == model_hash
    done = CliRunner().invoke(cli, [], catch_exceptions=False)
    assert "not measured yet" in done.output

    async def more() -> None:
        async with company(url) as app:
            await decide(app, "shown", 50)

    asyncio.run(more())
    done = CliRunner().invoke(cli, [], catch_exceptions=False)
    assert f"Model {model_hash[:12]}" in done.output
    assert "calibration error" in done.output
