"""Who decides: roles, stop switches and policies as of the request, on a real log.

Every story runs on a copy of one database: a small year, its features folded, a champion.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import numpy as np
import polars as pl
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainlytics.application import Application
from domain import catalogue
from domain.decisions import (
    DecisionConfirmed,
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionReferred,
    DecisionShadowed,
    RequestDecision,
    Weights,
)
from domain.errors import Refused
from domain.models import (
    ApproveModel,
    DeployModel,
    Hash,
    Metrics,
    RegisterModel,
    ResumeModel,
    RetireModel,
    Role,
    RollBackModel,
    StopModel,
    Training,
    WithdrawModel,
)
from domain.orders import AllocateOrder
from domain.policies import ResumeKind, SetPolicy, StopKind
from domain.reviews import ConfirmDecision, ContestDecision
from domain.values import Command
from ml.catalogue import KINDS
from ml.fulfilment import FULFILMENT
from ml.governance import drawn
from ml.replay import replay
from ml.scoring import Scorer
from ml.weighing import floats, objective
from tests.world import (
    NOW,
    ORGANISATION,
    a_year,
    another_model,
    company,
    context,
    copied,
    decidable_orders,
    deployed_model,
    request,
)


@dataclass(frozen=True)
class Base:
    """A database to copy: its champion, another approved model, and orders that can be decided."""

    url: str
    champion: str
    other: str
    orders: Sequence[str]


@pytest.fixture(scope="module")
def base(database: str) -> Base:
    async def fill() -> Base:
        async with company(database) as app:
            await a_year(app)
            champion = (await deployed_model(app)).registration.model_hash
            other = await another_model(app)
            await app.consumer.catch_up()
        return Base(database, champion, other, (await decidable_orders(database))[:8])

    return asyncio.run(fill())


@pytest.fixture
def url(base: Base) -> Iterator[str]:
    with copied(base.url) as copy:
        yield copy


@dataclass
class Answer:
    """All that was put on the log for a request."""

    events: list[Any] = field(default_factory=list)

    def of(self, kind: type[Any]) -> list[Any]:
        return [one for one in self.events if isinstance(one, kind)]

    @property
    def made(self) -> DecisionMade:
        [made] = self.of(DecisionMade)
        assert isinstance(made, DecisionMade)
        return made

    @property
    def failed(self) -> DecisionFailed:
        assert not self.of(DecisionMade)
        [failed] = self.of(DecisionFailed)
        assert isinstance(failed, DecisionFailed)
        return failed


async def do(app: Application, *commands: Command, by: str = "boss") -> None:
    for command in commands:
        await app.bus.execute(command, context(by))


async def answered(app: Application) -> dict[str, Answer]:
    """Answer what waits, and replay it: every decision of this module replays."""
    await app.consumer.catch_up()
    found: dict[str, Answer] = {}
    for one in await app.log.after(0, 10**6):
        if one.topic.startswith("decisions."):
            event = catalogue.decode(one.topic, one.state)
            found.setdefault(event.decision_id, Answer()).events.append(event)  # type: ignore[attr-defined]
    again = await replay(app.url, app.log, app.artifacts, ORGANISATION)
    assert {one.decision_id: one.cause for one in again} == dict.fromkeys(found, "")
    return found


def deploy(model_hash: str, role: Role = Role.CHAMPION, share: float | None = None) -> DeployModel:
    return DeployModel(model_hash=model_hash, role=role, share=share, deployed_at=NOW)


def retire(model_hash: str) -> RetireModel:
    return RetireModel(model_hash=model_hash, reason="worn out", retired_at=NOW)


def withdraw(model_hash: str) -> WithdrawModel:
    return WithdrawModel(model_hash=model_hash, reason="too slow", withdrawn_at=NOW)


def stop(model_hash: str) -> StopModel:
    return StopModel(model_hash=model_hash, reason="odd figures", stopped_at=NOW)


STOP_KIND = StopKind(kind="fulfilment", reason="strike at the port", stopped_at=NOW)
RESUME_KIND = ResumeKind(kind="fulfilment", resumed_at=NOW)


# challengers


@given(st.text("0123456789abcdef", min_size=1), st.text(min_size=1))
def test_what_is_drawn_is_a_share_and_always_the_same(model_hash: str, decision_id: str) -> None:
    number = drawn(model_hash, decision_id)
    assert 0 <= number < 1
    assert drawn(model_hash, decision_id) == number


@settings(max_examples=25)
@given(st.integers(), st.floats(0, 1))
def test_over_many_decisions_the_share_is_what_was_said(seed: int, share: float) -> None:
    n = 3000
    taken = sum(drawn(f"model {seed}", f"d-{number}") < share for number in range(n))
    # Five standard deviations, and one decision.
    assert abs(taken - n * share) <= 5 * (n * share * (1 - share)) ** 0.5 + 1


def test_two_challengers_draw_apart() -> None:
    n = 3000
    both = sum(drawn("a", f"d-{k}") < 0.5 and drawn("b", f"d-{k}") < 0.5 for k in range(n))
    assert abs(both - n / 4) < 5 * (n * 3 / 16) ** 0.5


def test_a_challenger_decides_its_share_always_the_same_decisions(base: Base, url: str) -> None:
    names = [f"d-{number}" for number in range(48)]
    mine = {name for name in names if drawn(base.other, name) < 0.3}
    assert 5 < len(mine) < 25

    async def story() -> None:
        async with company(url) as app:
            await do(app, deploy(base.other, Role.CHALLENGER, 0.3))
            for number, name in enumerate(names):
                await request(app, name, base.orders[number % len(base.orders)])
            found = await answered(app)
            assert found.keys() == set(names)
            for name, answer in found.items():
                expected = (
                    ("challenger", base.other) if name in mine else ("champion", base.champion)
                )
                assert (answer.made.role, answer.made.model_hash) == expected
                assert not answer.of(DecisionShadowed)
            # One order, two models: the same features, other margins.
            one, other = (
                next(a.made for a in found.values() if a.made.role == role)
                for role in ("champion", "challenger")
            )
            twin = next(
                a.made
                for a in found.values()
                if a.made.subject_id == other.subject_id and a.made.role != other.role
            )
            assert [c.features for c in twin.candidates] == [c.features for c in other.candidates]
            assert [c.margin for c in twin.candidates] != [c.margin for c in other.candidates]
            assert one.schema_hash == other.schema_hash

    asyncio.run(story())


@pytest.mark.parametrize("out", [stop, retire, withdraw], ids=["stopped", "retired", "withdrawn"])
def test_where_the_challenger_is_out_the_champion_decides(base: Base, url: str, out: Any) -> None:
    async def story() -> None:
        async with company(url) as app:
            await do(app, deploy(base.other, Role.CHALLENGER, 1.0))
            await request(app, "d-before", base.orders[0])
            await do(app, out(base.other))
            await request(app, "d-after", base.orders[0])
            found = await answered(app)
            assert found["d-before"].made.role == "challenger"
            assert found["d-after"].made.role == "champion"
            assert found["d-after"].made.model_hash == base.champion

    asyncio.run(story())


def test_a_challenger_of_other_features_does_not_decide(base: Base, url: str) -> None:
    async def story() -> None:
        async with company(url) as app:
            odd = await registered(app, "b" * 64)
            await do(app, deploy(odd, Role.CHALLENGER, 1.0))
            await request(app, "d-1", base.orders[0])
            assert (await answered(app))["d-1"].made.model_hash == base.champion

    asyncio.run(story())


# shadows


def test_a_shadow_is_recorded_and_never_acts(base: Base, url: str) -> None:
    async def story() -> None:
        async with company(url) as app:
            for number, order_id in enumerate(base.orders):
                await request(app, f"d-{number}", order_id)
            await do(app, deploy(base.other, Role.SHADOW))
            for number, order_id in enumerate(base.orders):
                await request(app, f"s-{number}", order_id)
            found = await answered(app)
            scorer = Scorer(await app.artifacts.get(base.other), FULFILMENT.feature_names)
            agreed = set()
            for number in range(len(base.orders)):
                alone, beside = found[f"d-{number}"], found[f"s-{number}"]
                assert not alone.of(DecisionShadowed)
                # To the candidate what it is without a shadow.
                assert beside.made.role == "champion"
                assert beside.made.candidates == alone.made.candidates
                assert beside.made.option == alone.made.option
                [shadow] = beside.of(DecisionShadowed)
                assert isinstance(shadow, DecisionShadowed)
                assert shadow.model_hash == base.other
                rows = [floats(one.features) for one in beside.made.candidates]
                margins, risks = scorer.risks(np.array(rows, np.float32))
                assert floats(shadow.margins) == margins.tolist()
                weighed = [
                    (objective(beside.made.weights, one.cost_minor, risk, one.carbon_g), n)
                    for n, (one, risk) in enumerate(
                        zip(beside.made.candidates, risks.tolist(), strict=True)
                    )
                    if not one.rejected
                ]
                best = min(weighed)[1]
                assert shadow.option == beside.made.candidates[best].option
                assert shadow.risk == risks[best]
                assert shadow.agrees == (best == beside.made.chosen)
                agreed.add(shadow.agrees)
            assert True in agreed

    asyncio.run(story())


def test_a_shadow_looks_on_where_a_challenger_decides(base: Base, url: str) -> None:
    async def story() -> None:
        async with company(url) as app:
            third = await another_model(app, 3)
            await do(app, deploy(base.other, Role.CHALLENGER, 1.0), deploy(third, Role.SHADOW))
            await request(app, "d-1", base.orders[0])
            answer = (await answered(app))["d-1"]
            assert answer.made.role == "challenger"
            assert [one.model_hash for one in answer.of(DecisionShadowed)] == [third]

    asyncio.run(story())


def test_a_champion_that_is_made_a_shadow_is_champion_no_more(base: Base, url: str) -> None:
    async def story() -> None:
        async with company(url) as app:
            await do(app, deploy(base.champion, Role.SHADOW))
            await request(app, "d-nobody", base.orders[0])
            await do(app, deploy(base.other))
            await request(app, "d-1", base.orders[0])
            found = await answered(app)
            assert found["d-nobody"].made.role == "rule_based"
            assert found["d-1"].made.model_hash == base.other
            shadows = [one.model_hash for one in found["d-1"].of(DecisionShadowed)]
            assert shadows == [base.champion]

    asyncio.run(story())


@pytest.mark.parametrize(
    "out", [stop, retire, withdraw, None], ids=["stopped", "retired", "withdrawn", "gone"]
)
def test_a_shadow_that_is_out_holds_nothing_up(base: Base, url: str, out: Any) -> None:
    async def story() -> None:
        async with company(url) as app:
            await do(app, deploy(base.other, Role.SHADOW))
            if out is None:
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute("DELETE FROM artifacts WHERE hash = %s", (base.other,))
            else:
                await do(app, out(base.other))
            await request(app, "d-1", base.orders[0])
            answer = (await answered(app))["d-1"]
            assert answer.made.option
            assert answer.of(DecisionShadowed) == []

    asyncio.run(story())


# stop switches; a batch of one event reads the rows, a large one what is in the batch


@pytest.mark.parametrize("batch", [1, 20_000])
def test_a_stopped_kind_fails_what_is_asked_for_then(base: Base, url: str, batch: int) -> None:
    async def story() -> None:
        async with company(url) as app:
            app.consumer._batch = batch
            await request(app, "d-before", base.orders[0])
            await do(app, STOP_KIND)
            await request(app, "d-stopped", base.orders[0])
            await do(app, RESUME_KIND)
            await request(app, "d-again", base.orders[0])
            found = await answered(app)
            assert found["d-before"].made.candidates == found["d-again"].made.candidates
            failed = found["d-stopped"].failed
            assert failed.code == "decision.kind_stopped"
            assert failed.detail == "fulfilment is stopped: strike at the port"

    asyncio.run(story())


@pytest.mark.parametrize("batch", [1, 20_000])
def test_a_stopped_champion_fails_what_is_asked_for_then(base: Base, url: str, batch: int) -> None:
    async def story() -> None:
        async with company(url) as app:
            app.consumer._batch = batch
            await request(app, "d-before", base.orders[0])
            await do(app, stop(base.champion))
            await request(app, "d-stopped", base.orders[0])
            await do(app, ResumeModel(model_hash=base.champion, resumed_at=NOW))
            await request(app, "d-again", base.orders[0])
            found = await answered(app)
            assert found["d-before"].made.candidates == found["d-again"].made.candidates
            failed = found["d-stopped"].failed
            assert failed.code == "decision.model_stopped"
            assert failed.detail == f"model {base.champion[:12]} is stopped: odd figures"

    asyncio.run(story())


def test_another_companys_switches_and_policies_are_its_own(base: Base, url: str) -> None:
    other = UUID(int=ORGANISATION.int + 1)

    async def story() -> None:
        async with company(url) as app:
            await app.bus.execute(STOP_KIND, context(organisation_id=other))
            wary = SetPolicy(kind="fulfilment", minimum_confidence=1.0, set_at=NOW)
            await app.bus.execute(wary, context(organisation_id=other))
            await request(app, "d-1", base.orders[0])
            answer = (await answered(app))["d-1"]
            assert answer.made.option
            assert answer.of(DecisionReferred) == []

    asyncio.run(story())


# a model has the role that it was given last, and no other


async def listed_roles(app: Application) -> dict[str, str]:
    await app.projector.catch_up()
    async with app.log.connection() as connection:
        query = "SELECT model_hash, role FROM read_models.model_list WHERE organisation_id = %s"
        return dict(await (await connection.execute(query, (ORGANISATION,))).fetchall())


@pytest.mark.parametrize("batch", [1, 20_000])
def test_a_challenger_that_is_promoted_is_no_challenger_any_more(
    base: Base, url: str, batch: int
) -> None:
    """Rolled back, it is none again: its former role does not come back."""

    async def story() -> None:
        async with company(url) as app:
            app.consumer._batch = batch
            await do(app, deploy(base.other, Role.CHALLENGER, 1.0))
            await request(app, "d-challenger", base.orders[0])
            await do(app, deploy(base.other))
            await request(app, "d-promoted", base.orders[0])
            back = RollBackModel(
                model_hash=base.other, to=base.champion, reason="drift", rolled_back_at=NOW
            )
            await do(app, back)
            await request(app, "d-back", base.orders[0])
            told = {
                name: (answer.made.role, answer.made.model_hash)
                for name, answer in (await answered(app)).items()
            }
            assert told == {
                "d-challenger": ("challenger", base.other),
                "d-promoted": ("champion", base.other),
                "d-back": ("champion", base.champion),
            }
            roles = await listed_roles(app)
            assert (roles[base.other], roles[base.champion]) == ("", "champion")

    asyncio.run(story())


def test_a_champion_that_is_made_a_challenger_decides_its_share_only(base: Base, url: str) -> None:
    async def story() -> None:
        async with company(url) as app:
            await do(app, deploy(base.other), deploy(base.champion, Role.CHALLENGER, 0.5))
            names = [f"d-{number}" for number in range(16)]
            for name in names:
                await request(app, name, base.orders[0])
            mine = {name for name in names if drawn(base.champion, name) < 0.5}
            assert 0 < len(mine) < len(names)
            for name, answer in (await answered(app)).items():
                expected = (
                    ("challenger", base.champion) if name in mine else ("champion", base.other)
                )
                assert (answer.made.role, answer.made.model_hash) == expected

    asyncio.run(story())


@pytest.mark.parametrize("batch", [1, 20_000])
def test_a_withdrawn_champion_leaves_the_rule_until_it_is_deployed_again(
    base: Base, url: str, batch: int
) -> None:
    async def story() -> None:
        async with company(url) as app:
            app.consumer._batch = batch
            await request(app, "d-before", base.orders[0])
            await do(app, withdraw(base.champion))
            assert (await listed_roles(app))[base.champion] == ""
            await request(app, "d-without", base.orders[0])
            await do(app, deploy(base.champion))
            await request(app, "d-again", base.orders[0])
            found = await answered(app)
            by_rule = found["d-without"].made
            assert by_rule.role == "rule_based"
            why = found["d-without"].of(DecisionExplained)[0].reasons[0].sentence
            assert f"fulfilment has no champion: {base.champion[:12]} was withdrawn" in why
            assert found["d-before"].made.candidates == found["d-again"].made.candidates
            assert found["d-again"].made.role == "champion"

    asyncio.run(story())


def test_a_withdrawn_champion_is_followed_by_the_one_that_is_deployed(base: Base, url: str) -> None:
    """Withdrawing the former one, once another is champion, takes nothing from that one."""

    async def story() -> None:
        async with company(url) as app:
            await do(app, deploy(base.other), withdraw(base.champion))
            await request(app, "d-1", base.orders[0])
            assert (await answered(app))["d-1"].made.model_hash == base.other

    asyncio.run(story())


def test_a_champion_that_was_rolled_back_to_can_be_withdrawn(base: Base, url: str) -> None:
    """It has its role by an event of the other one."""

    async def story() -> None:
        async with company(url) as app:
            back = RollBackModel(
                model_hash=base.other, to=base.champion, reason="drift", rolled_back_at=NOW
            )
            await do(app, deploy(base.other), back, withdraw(base.champion))
            await request(app, "d-1", base.orders[0])
            assert (await answered(app))["d-1"].made.role == "rule_based"
            assert (await listed_roles(app))[base.champion] == ""

    asyncio.run(story())


# champions come and go


@pytest.mark.parametrize("batch", [1, 20_000])
def test_a_roll_back_brings_the_former_champion_back(base: Base, url: str, batch: int) -> None:
    async def story() -> None:
        async with company(url) as app:
            app.consumer._batch = batch
            await request(app, "d-first", base.orders[0])
            await do(app, deploy(base.other))
            await request(app, "d-second", base.orders[0])
            back = RollBackModel(
                model_hash=base.other, to=base.champion, reason="drift", rolled_back_at=NOW
            )
            await do(app, back)
            await request(app, "d-third", base.orders[0])
            found = await answered(app)
            assert found["d-first"].made.model_hash == base.champion
            assert found["d-second"].made.model_hash == base.other
            assert found["d-third"].made.model_hash == base.champion
            assert found["d-third"].made.role == "champion"
            assert found["d-third"].made.candidates == found["d-first"].made.candidates

    asyncio.run(story())


def test_a_retired_champion_leaves_the_rule(base: Base, url: str) -> None:
    async def story() -> None:
        async with company(url) as app:
            await request(app, "d-before", base.orders[0])
            await do(app, retire(base.champion))
            await request(app, "d-after", base.orders[0])
            found = await answered(app)
            assert found["d-before"].made.model_hash == base.champion
            assert found["d-after"].made.role == "rule_based"
            why = found["d-after"].of(DecisionExplained)[0].reasons[0].sentence
            assert f"{base.champion[:12]}, was retired" in why

    asyncio.run(story())


async def registered(app: Application, schema_hash: str, model_hash: Hash = "c" * 64) -> str:
    """A model of no artifact, approved."""
    metrics = Metrics(rows=1, late_share=0.5, auc=None, log_loss=1.0, brier=0.2)
    training = Training(
        from_position=1,
        to_position=2,
        train_rows=1,
        split_at=NOW,
        features=(),
        parameters={},
        libraries={},
        base_score="0.5",
    )
    register = RegisterModel(
        model_hash=model_hash,
        kind="fulfilment",
        schema_hash=schema_hash,
        training=training,
        metrics=metrics,
        baseline=metrics,
        registered_at=NOW,
    )
    await do(app, register, by="planner")
    await do(app, ApproveModel(model_hash=model_hash, approved_at=NOW))
    return model_hash


@pytest.mark.parametrize(
    ("schema_hash", "code", "told"),
    [
        ("b" * 64, "decision.schema_changed", "train and deploy a new one"),
        (FULFILMENT.schema_hash, "decision.model_unfit", "model cccccccccccc"),
    ],
    ids=["other features", "no artifact"],
)
def test_a_champion_that_cannot_decide_is_told(
    base: Base, url: str, schema_hash: str, code: str, told: str
) -> None:
    async def story() -> None:
        async with company(url) as app:
            await request(app, "d-before", base.orders[0])
            await do(app, deploy(await registered(app, schema_hash)))
            await request(app, "d-after", base.orders[0])
            found = await answered(app)
            assert found["d-before"].made.option
            assert found["d-after"].failed.code == code
            assert told in found["d-after"].failed.detail

    asyncio.run(story())


# people take over


async def policy(app: Application, confidence: float = 0.0, four_eyes: int | None = None) -> None:
    asked = SetPolicy(
        kind="fulfilment",
        minimum_confidence=confidence,
        four_eyes_above_minor=four_eyes,
        set_at=NOW,
    )
    await do(app, asked)


@pytest.mark.parametrize("batch", [1, 20_000])
def test_low_confidence_is_referred_to_one_person(base: Base, url: str, batch: int) -> None:
    async def story() -> None:
        async with company(url) as app:
            app.consumer._batch = batch
            await request(app, "d-0", base.orders[0])
            confidence = (await answered(app))["d-0"].made.confidence
            assert confidence is not None
            assert 0.5 <= confidence < 1
            await policy(app, confidence)
            await request(app, "d-at", base.orders[0])
            await policy(app, float(np.nextafter(confidence, 1)))
            await request(app, "d-below", base.orders[0])
            await policy(app)
            await request(app, "d-free", base.orders[0])
            found = await answered(app)
            assert found["d-at"].of(DecisionReferred) == []
            assert found["d-free"].of(DecisionReferred) == []
            [referred] = found["d-below"].of(DecisionReferred)
            assert referred.approvals == 1
            assert [one.code for one in referred.reasons] == ["confidence.too_low"]
            assert f"{confidence:.1%}" in referred.reasons[0].sentence
            # The model's decision is there all the same.
            assert found["d-below"].made.option == found["d-at"].made.option

    asyncio.run(story())


def test_what_is_worth_more_is_referred_to_two(base: Base, url: str) -> None:
    async def story() -> None:
        async with company(url) as app:
            await request(app, "d-0", base.orders[0])
            value = (await answered(app))["d-0"].made.value_minor
            assert value is not None
            await policy(app, four_eyes=value)
            await request(app, "d-at", base.orders[0])
            await policy(app, four_eyes=value - 1)
            await request(app, "d-above", base.orders[0])
            await policy(app, confidence=1.0, four_eyes=0)
            await request(app, "d-both", base.orders[0])
            found = await answered(app)
            assert found["d-at"].of(DecisionReferred) == []
            [above] = found["d-above"].of(DecisionReferred)
            assert above.approvals == 2
            assert [one.code for one in above.reasons] == ["value.four_eyes"]
            currency = found["d-above"].made.currency
            assert currency
            assert f"{currency} are at stake" in above.reasons[0].sentence
            [both] = found["d-both"].of(DecisionReferred)
            assert both.approvals == 2
            assert [one.code for one in both.reasons] == ["confidence.too_low", "value.four_eyes"]
            # Two persons, not one twice.
            confirm = ConfirmDecision(decision_id="d-above", confirmed_at=NOW)
            await do(app, confirm, by="ana")
            with pytest.raises(Refused, match=r"decision\.needs_another_person"):
                await do(app, confirm, by="ana")
            await do(app, confirm, by="ben")
            left = [
                one.approvals_left for one in (await answered(app))["d-above"].of(DecisionConfirmed)
            ]
            assert left == [1, 0]

    asyncio.run(story())


@pytest.mark.parametrize("four_eyes", [None, 0, 10**12])
def test_what_is_worth_nobody_knows_what_is_referred_to_two(
    base: Base, url: str, four_eyes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is a four-eyes rule, whatever its limit; where there is none, to nobody."""
    unknown = replace(FULFILMENT, value_minor=pl.lit(None, pl.Int64))
    monkeypatch.setitem(KINDS, "fulfilment", unknown)

    async def story() -> None:
        async with company(url) as app:
            await policy(app, four_eyes=four_eyes)
            await request(app, "d-1", base.orders[0])
            answer = (await answered(app))["d-1"]
            assert answer.made.value_minor is None
            if four_eyes is None:
                assert answer.of(DecisionReferred) == []
            else:
                [referred] = answer.of(DecisionReferred)
                assert referred.approvals == 2
                assert [one.code for one in referred.reasons] == ["value.not_known"]

    asyncio.run(story())


def test_confidence_is_of_what_is_foretold_whatever_share_the_option_bears(
    base: Base, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with company(url) as app:
            await request(app, "d-whole", base.orders[0])
            whole = (await answered(app))["d-whole"].made
        half = replace(FULFILMENT, exposure=pl.lit(0.5))
        monkeypatch.setitem(KINDS, "fulfilment", half)
        async with company(url) as app:
            weights = Weights(risk_minor=2 * whole.weights.risk_minor)
            command = RequestDecision(
                decision_id="d-half", subject_id=base.orders[0], weights=weights, requested_at=NOW
            )
            await do(app, command)
            await app.consumer.catch_up()
            [made] = [
                event
                for one in await app.log.after(0, 10**6)
                if one.topic == catalogue.TOPICS[DecisionMade]
                and isinstance(event := catalogue.decode(one.topic, one.state), DecisionMade)
                and event.decision_id == "d-half"
            ]
        assert made.option == whole.option
        assert made.foretold == whole.foretold == whole.risk
        assert made.foretold is not None
        assert made.risk == made.foretold / 2
        assert made.confidence == whole.confidence == max(made.foretold, 1 - made.foretold)

    asyncio.run(story())


@pytest.mark.parametrize("approvals", [1, 2])
def test_an_order_is_not_allocated_by_a_decision_that_waits_for_people(
    base: Base, url: str, approvals: int
) -> None:
    async def story() -> None:
        async with company(url) as app:
            await policy(app, 1.0, 0 if approvals == 2 else None)
            await request(app, "d-1", base.orders[0])
            answer = (await answered(app))["d-1"]
            [referred] = answer.of(DecisionReferred)
            assert referred.approvals == approvals
            option: dict[str, Any] = dict(answer.made.option)
            allocate = AllocateOrder(
                order_id=base.orders[0],
                **option,
                decision_id="d-1",
                allocated_at=NOW,
            )
            for person in ("ana", "ben")[:approvals]:
                with pytest.raises(Refused, match=r"decision\.waits_for_people"):
                    await do(app, allocate)
                await do(app, ConfirmDecision(decision_id="d-1", confirmed_at=NOW), by=person)
            await do(app, allocate)
            contest = ContestDecision(
                decision_id="d-1", reason="no", redecide=False, contested_at=NOW
            )
            await do(app, contest)
            with pytest.raises(Refused, match=r"decision\.waits_for_people"):
                await do(app, allocate)

    asyncio.run(story())


def test_a_request_before_a_change_is_decided_by_what_was_so_then(base: Base, url: str) -> None:
    """However late the consumer comes to it, and on every replay."""

    async def story() -> None:
        async with company(url) as app:
            await request(app, "d-first", base.orders[0])
            await policy(app, confidence=1.0)
            await request(app, "d-second", base.orders[0])
            await do(app, deploy(base.other), STOP_KIND)
            await request(app, "d-third", base.orders[0])
            await do(app, RESUME_KIND)
            await policy(app)
            await request(app, "d-fourth", base.orders[0])
            await do(app, retire(base.champion), retire(base.other))
            found = await answered(app)
            told = {
                name: (answer.made.model_hash, len(answer.of(DecisionReferred)))
                for name, answer in found.items()
                if name != "d-third"
            }
            assert told == {
                "d-first": (base.champion, 0),
                "d-second": (base.champion, 1),
                "d-fourth": (base.other, 0),
            }
            assert found["d-third"].failed.code == "decision.kind_stopped"

    asyncio.run(story())
