"""Backtests on a real log: the same again, other weights, another model, and the reports."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner

import ml.backtest
import ml.models
from chainlytics.cli import backtest as command
from chainlytics.cli.console import CliError
from domain import catalogue
from domain.decisions import DecisionMade, DecisionRequested, RecordOutcome, Weights
from domain.models import RegisterModel, ResumeModel, StopModel
from ml.backtest import NothingToCompare, backtest
from ml.backtest_report import of_backtest
from ml.comparison import Backtest, Comparison
from ml.deciding import Instead
from ml.fulfilment import FULFILMENT
from ml.models import train
from ml.report import Picture, as_html, as_markdown, write_markdown
from tests.world import (
    NOW,
    ORGANISATION,
    a_year,
    company,
    context,
    deployed_model,
    open_orders,
    request,
)

DECISIONS = 60
USUAL = FULFILMENT.subject.weights
HURRY = Weights(cost=1, risk_minor=500_000, carbon_minor_per_kg=0)
CHEAP = Weights(cost=1, risk_minor=0, carbon_minor_per_kg=0)


@pytest.fixture(scope="module")
def world(database: str) -> dict[str, Any]:
    """A year, a model, decisions with outcomes for half of them, and a second model; what they are
    called."""

    async def fill() -> dict[str, Any]:
        async with company(database) as app:
            await a_year(app)
            orders = await open_orders(app)
            first = await deployed_model(app)
            # Asked for while the model was stopped: answered with the reason.
            name = first.registration.model_hash
            stop = StopModel(model_hash=name, reason="odd", stopped_at=NOW)
            await app.bus.execute(stop, context("boss"))
            await request(app, "d-stopped", orders[0])
            await app.consumer.catch_up()
            await app.bus.execute(ResumeModel(model_hash=name, resumed_at=NOW), context("boss"))
            for number in range(DECISIONS):
                await request(app, f"d-{number:03}", orders[number % len(orders)])
            await app.consumer.catch_up()
            # Asked for, and not answered.
            await request(app, "d-waiting", orders[0])
            made, positions = {}, {}
            for event in await app.log.after(0, 1_000_000):
                kind = catalogue.type_of(event.topic)
                if kind is DecisionMade:
                    one = DecisionMade.model_validate_json(event.state)
                    made[one.decision_id] = one
                elif kind is DecisionRequested:
                    asked = DecisionRequested.model_validate_json(event.state)
                    positions[asked.decision_id] = event.position
            for number in range(0, DECISIONS, 2):
                outcome = RecordOutcome(
                    decision_id=f"d-{number:03}",
                    occurred=number % 8 == 0,
                    followed=number % 10 != 0,
                    known_at=NOW,
                )
                await app.bus.execute(outcome, context())
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ml.models, "PARAMETERS", {**ml.models.PARAMETERS, "max_depth": 1})
                second = await train(app.url, app.log, app.artifacts, ORGANISATION, FULFILMENT, NOW)
            await app.bus.execute(second.registration, context("planner"))
            return {
                "url": database,
                "made": made,
                "positions": positions,
                "first": first.registration,
                "second": second.registration,
                "head": await app.log.head(),
            }

    return asyncio.run(fill())


def run(world: dict[str, Any], instead: Instead, start: int = 1, end: int = 10**9) -> Backtest:
    async def work() -> Backtest:
        async with company(world["url"]) as app:
            return await backtest(
                app.url, app.log, app.artifacts, ORGANISATION, FULFILMENT, instead, start, end
            )

    return asyncio.run(work())


def hash_of(registration: RegisterModel) -> str:
    return registration.model_hash


def test_the_same_model_and_weights_change_nothing(world: dict[str, Any]) -> None:
    seen: list[tuple[int, int]] = []

    async def work() -> Backtest:
        async with company(world["url"]) as app:
            return await backtest(
                app.url,
                app.log,
                app.artifacts,
                ORGANISATION,
                FULFILMENT,
                Instead(hash_of(world["first"]), USUAL),
                1,
                10**9,
                lambda done, total: seen.append((done, total)),
            )

    found = asyncio.run(work())
    made = list(world["made"].values())
    assert len(made) == DECISIONS
    assert (found.compared, found.unchanged, found.swapped) == (DECISIONS, DECISIONS, 0)
    # Another model is put in the place of one that was stopped.
    assert (found.failed_then, found.failed_now) == (1, 0)
    assert found.changes == ()
    assert all(swap.then == swap.now for swap in found.swaps)
    assert sum(swap.count for swap in found.swaps) == DECISIONS
    means = found.comparison
    assert means is not None
    assert means.recorded == means.then == means.now
    chosen = [one.candidates[one.chosen] for one in made if one.chosen is not None]
    assert found.judged == len(chosen)
    for mean, values in (
        (means.now.cost_minor, [one.cost_minor for one in chosen]),
        (means.now.risk, [one.risk for one in chosen]),
        (means.now.carbon_kg, [one.carbon_g / 1000 for one in chosen]),
        (means.now.objective, [one.objective for one in chosen]),
    ):
        assert mean == pytest.approx(sum(values) / len(values))
    assert found.none_allowed == ((DECISIONS - len(chosen)) / DECISIONS,) * 2
    assert found.outcomes.then == found.outcomes.now
    done, total = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == total[-1] == found.to_position


@pytest.mark.parametrize("weights", [HURRY, CHEAP])
def test_other_weights_swap_and_are_never_worse_by_their_own_measure(
    world: dict[str, Any], weights: Weights
) -> None:
    found = run(world, Instead(weights=weights))
    assert found.swapped > 0
    assert (
        found.swapped == len(found.changes) == sum(s.count for s in found.swaps if s.then != s.now)
    )
    assert found.unchanged + found.swapped == found.compared == DECISIONS
    assert (found.failed_then, found.failed_now) == (1, 1)
    for change in found.changes:
        assert change.then == world["made"][change.decision_id].option != change.now
        assert change.position == world["positions"][change.decision_id]
        if change.then_by_new is None or change.then_by_old is None:
            continue
        assert change.now_by_new is not None
        assert change.now_by_old is not None
        assert change.now_by_new <= change.then_by_new
        assert change.now_by_old >= change.then_by_old
        made = world["made"][change.decision_id]
        assert change.then_by_old == made.candidates[made.chosen].objective
    means = found.comparison
    assert means is not None
    assert means.now.objective <= means.then.objective
    assert means.recorded.cost_minor == means.then.cost_minor
    assert means.recorded.risk == means.then.risk
    if weights == HURRY:
        assert means.now.risk < means.then.risk
    else:
        assert means.now.cost_minor < means.then.cost_minor
        assert means.then.objective == pytest.approx(means.then.cost_minor)
    gains = [c.then_by_new - c.now_by_new for c in found.changes if c.then_by_new and c.now_by_new]
    assert gains == sorted(gains, reverse=True)


def test_another_model_is_judged_by_outcomes_only_where_the_choice_stays(
    world: dict[str, Any],
) -> None:
    found = run(world, Instead(hash_of(world["second"])))
    assert found.compared == DECISIONS
    assert found.unchanged > 0
    changed = {one.decision_id for one in found.changes}
    followed = [
        number
        for number in range(0, DECISIONS, 2)
        if number % 10 and world["made"][f"d-{number:03}"].option
    ]
    stays = [number for number in followed if f"d-{number:03}" not in changed]
    outcomes = found.outcomes
    assert outcomes.same == len(stays)
    assert outcomes.other == len(followed) - len(stays)
    assert outcomes.then is not None
    assert outcomes.now is not None
    pairs = [(world["made"][f"d-{number:03}"].foretold, number % 8 == 0) for number in stays]
    assert outcomes.then.metrics.brier == pytest.approx(
        sum((risk - occurred) ** 2 for risk, occurred in pairs) / len(pairs), abs=5e-5
    )
    assert outcomes.then.metrics.accuracy == pytest.approx(
        sum((risk >= 0.5) == occurred for risk, occurred in pairs) / len(pairs), abs=5e-5
    )
    assert outcomes.then.metrics.brier != outcomes.now.metrics.brier
    assert sum(each.n for each in outcomes.now.bins) == len(stays)


def test_parts_sum_to_the_whole(world: dict[str, Any]) -> None:
    found = run(world, Instead(weights=CHEAP))
    columns = dict.fromkeys(part.column for part in found.parts)
    assert list(columns) == ["site_id", "service_level", "vehicle_id"]
    mine = [part for part in found.parts if part.column == "service_level"]
    with_choice = [one for one in world["made"].values() if one.option]
    assert sum(part.decisions for part in mine) == len(with_choice)
    for part in mine:
        these = [one for one in with_choice if one.option["service_level"] == part.value]
        assert part.decisions == len(these)
        costs = [one.candidates[one.chosen].cost_minor for one in these]
        assert part.comparison.then.cost_minor == pytest.approx(sum(costs) / len(costs))


def test_a_stretch_is_compared_alone(world: dict[str, Any]) -> None:
    positions = world["positions"]
    first, last = positions["d-010"], positions["d-019"]
    found = run(world, Instead(weights=CHEAP), first, last)
    assert found.compared == 10
    assert {one.decision_id for one in found.changes} <= {f"d-{n:03}" for n in range(10, 20)}
    assert (found.from_position, found.to_position) == (first, last)
    nothing = run(world, Instead(weights=CHEAP), 1, first - 1000)
    assert (nothing.compared, nothing.comparison) == (0, None)
    assert "nothing to compare" in as_html(of_backtest(nothing))


def test_what_cannot_be_compared_is_told(world: dict[str, Any]) -> None:
    with pytest.raises(NothingToCompare, match="other weights"):
        run(world, Instead())
    with pytest.raises(NothingToCompare, match="no model"):
        run(world, Instead("0" * 64))


def told(found: Backtest) -> str:
    return " ".join(as_html(of_backtest(found)).split())


def test_what_the_model_learned_from_is_told_and_told_apart(
    world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first model learned before the decisions, the second one after them.
    first = run(world, Instead(hash_of(world["first"])))
    assert first.learned_to == world["first"].training.to_position
    assert (first.learned, first.unseen) == (0, None)
    assert f"all {DECISIONS} decisions compared lie behind that" in told(first)
    second = run(world, Instead(hash_of(world["second"])))
    assert (second.learned, second.unseen) == (DECISIONS, None)
    page = told(second)
    assert f"cases up to position {second.learned_to:,}; {DECISIONS} of the {DECISIONS} " in page
    assert "their foretold figures flatter it. None lies behind it" in page
    assert "On cases new to the model" not in page
    other = run(world, Instead(weights=CHEAP))
    assert (other.learned_to, other.learned, other.unseen) == (None, 0, None)
    assert "learned from cases" not in told(other)

    async def halfway(*_: object) -> int:
        return int(world["positions"]["d-039"])

    monkeypatch.setattr(ml.backtest, "_learned_to", halfway)
    both = run(world, Instead(hash_of(world["second"])))
    alone = run(world, Instead(hash_of(world["second"])), world["positions"]["d-040"])
    assert (both.learned, both.compared) == (40, DECISIONS)
    part = both.unseen
    assert part is not None
    assert (part.compared, part.swapped, part.judged) == (20, alone.swapped, alone.judged)
    assert (part.comparison, part.outcomes) == (alone.comparison, alone.outcomes)
    assert part.outcomes.same + part.outcomes.other > 0
    page = told(both)
    assert f"40 of the {DECISIONS} decisions compared lie before that" in page
    assert "On cases new to the model" in page
    assert "decisions new to the model" in page


def test_segments_that_decisions_do_not_tell_are_named(world: dict[str, Any]) -> None:
    found = run(world, Instead(weights=CHEAP))
    assert found.untold == tuple(
        name
        for name in FULFILMENT.examples.segments
        if name not in (*FULFILMENT.option, *FULFILMENT.feature_names)
    )
    assert "Left out: customer segment. " in told(replace(found, untold=("customer_segment",)))


def test_amounts_are_in_the_currency_of_the_cases(world: dict[str, Any]) -> None:
    found = run(world, Instead(weights=CHEAP))
    assert found.currencies == ("EUR",)
    assert {one.currency for one in found.changes} == {"EUR"}
    assert " EUR instead of " in told(found)
    means = found.comparison
    assert means is not None
    yen = told(replace(found, currencies=("JPY",)))
    assert f"{means.now.objective:,.0f} JPY instead of {means.then.objective:,.0f} JPY" in yen
    mixed = told(replace(found, currencies=("EUR", "JPY")))
    assert "in several currencies (EUR, JPY)" in mixed
    assert f"objective is {means.now.objective / 100:,.2f} instead of" in mixed


def pictures(found: Backtest) -> list[Picture]:
    return [block for block in of_backtest(found).blocks if isinstance(block, Picture)]


def test_reports_hold_text_tables_and_pictures(world: dict[str, Any], tmp_path: Path) -> None:
    found = run(world, Instead(hash_of(world["second"]), HURRY))
    report = of_backtest(found)
    names = {picture.name for picture in pictures(found)}
    assert {"swaps", "change", "by-site_id", "by-service_level"} <= names
    assert {"reliability-then", "reliability-now"} <= names
    page = as_html(report)
    inside = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    assert inside == [picture.svg for picture in pictures(found)]
    # Well formed but for the doctype, the void tags and the style's own syntax.
    body = re.sub(r"<style>.*?</style>|<meta[^>]*>", "", page.partition("\n")[2], flags=re.DOTALL)
    tree = ElementTree.fromstring(body)
    assert len(list(tree.iter("table"))) >= 6
    assert f"{found.swapped:,} (" in page
    assert "not known, only foretold" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    file = tmp_path / "back test.md"
    written = write_markdown(report, file)
    text = file.read_text(encoding="utf-8")
    links = re.findall(r"!\[[^]]*\]\(<([^>]*)>\)", text)
    assert [tmp_path / link for link in links] == written[1:]
    for svg in written[1:]:
        ElementTree.fromstring(svg.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_names_cannot_break_out_of_a_report(world: dict[str, Any]) -> None:
    found = run(world, Instead(weights=CHEAP))
    evil = "<script>alert(1)</script>|[x](y)"
    change = replace(found.changes[0], subject_id=evil, then={"site_id": evil})
    report = of_backtest(replace(found, changes=(change,)))
    assert "<script>" not in as_html(report)
    text = as_markdown(report, {one.name: one.name for one in pictures(found)})
    assert "\\<script\\>alert(1)\\</script\\>\\|\\[x\\](y)" in text


def test_relative_changes_from_nothing_are_told(world: dict[str, Any]) -> None:
    found = run(world, Instead(weights=CHEAP))
    means = found.comparison
    assert isinstance(means, Comparison)
    nothing = replace(means.then, risk=0.0)
    page = as_html(of_backtest(replace(found, comparison=replace(means, then=nothing))))
    assert "inf" not in re.sub(r"<svg .*?</svg>", "", page, flags=re.DOTALL)


def test_the_command_line(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", world["url"])
    monkeypatch.setenv("CHAINLYTICS_ORGANISATION", str(ORGANISATION))
    app = typer.Typer()
    app.command()(command.backtest)
    page = tmp_path / "report.html"
    start = hash_of(world["second"])[:12]
    done = CliRunner().invoke(
        app,
        ["--model", start, "--weights", "risk_minor=5000", "--from", "1", "--html", str(page)],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    assert f"Of {DECISIONS} decisions" in done.output
    assert "Then and now" in done.output
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    done = CliRunner().invoke(
        app,
        ["--weights", "cost=2", "--from", "2020-01-01T00:00:00Z", "--json"],
        catch_exceptions=False,
    )
    assert '"compared": 60' in done.output
    assert '"cost": 2.0' in done.output
    for words, told in (
        ([], "other weights"),
        (["--weights", "price=1"], "'price=1'"),
        (["--weights", "cost=-1"], "cost: "),
        (["--model", "ffffffffffff"], "0 models"),
        (["--weights", "cost=1", "--from", "yesterday"], "neither a log position"),
        (["--weights", "cost=1", "--from", "50", "--to", "7"], "behind"),
        (["--weights", "cost=1", "--kind", "love"], "not known"),
    ):
        with pytest.raises(CliError, match=told):
            CliRunner().invoke(app, words, catch_exceptions=False)
