"""The most urgent first: priorities and deadlines, in one batch and on the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import groupby, pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlytics.application import Application
from domain import catalogue
from domain.decisions import (
    DecisionFailed,
    DecisionMade,
    DecisionRequested,
    FailDecision,
    RequestDecision,
    Weights,
)
from domain.inventory import ReceiveStock
from domain.reviews import ContestDecision
from domain.values import Command
from eventstore import Receipt
from ml.deciding import Answer
from ml.fulfilment import FULFILMENT
from ml.kind import Kind, Request
from ml.pieces import DEADLINE_PASSED, PIECE, answers, pieces, too_late
from ml.replay import Replayed, replay
from ml.scorers import Scorers
from tests.world import (
    NOW,
    ORGANISATION,
    a_year,
    company,
    context,
    copied,
    decidable_orders,
    deployed_model,
)

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
ONE_DAY = datetime(2999, 1, 1, tzinfo=UTC)

# pieces


def asked(
    position: int, priority: int = 5, deadline: datetime | None = None, kind: str = "a"
) -> Request:
    event = DecisionRequested(
        decision_id=f"d-{position}",
        kind=kind,
        subject_id="O-1",
        weights=Weights(),
        priority=priority,
        deadline=deadline,
        redecides=None,
        requested_at=NOW,
    )
    return Request(str(ORGANISATION), position, event)


KINDS = {name: replace(FULFILMENT, name=name) for name in ("a", "b")}
DEADLINES = st.none() | st.integers(0, 3).map(lambda days: NOW + timedelta(days=days))
REQUESTS = st.lists(
    st.tuples(st.integers(0, 9), DEADLINES, st.sampled_from(["a", "b", "unknown"])), max_size=60
).map(lambda found: [asked(number, *one) for number, one in enumerate(found, 1)])


def small_pieces(requests: Sequence[Request], size: int) -> list[tuple[str, list[Request]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ml.pieces.PIECE", size)
        return [(kind.name, some) for kind, some in pieces(KINDS, requests)]


@given(REQUESTS, st.integers(1, 8), st.randoms())
def test_every_request_is_in_one_piece_of_its_kind(
    requests: list[Request], size: int, random: Any
) -> None:
    random.shuffle(requests)
    found = small_pieces(requests, size)
    told = [one.position for _, some in found for one in some]
    assert sorted(told) == sorted(one.position for one in requests if one.event.kind != "unknown")
    assert all(0 < len(some) <= size for _, some in found)
    assert all(one.event.kind == kind for kind, some in found for one in some)


@given(REQUESTS, st.integers(1, 8), st.randoms())
def test_nobody_waits_for_somebody_less_urgent(
    requests: list[Request], size: int, random: Any
) -> None:
    random.shuffle(requests)
    told = [one for _, some in small_pieces(requests, size) for one in some]
    priorities = [one.event.priority for one in told]
    assert priorities == sorted(priorities, reverse=True)
    # Of one kind and priority: by deadline, those without one last, then as they came.
    told.sort(key=lambda one: (-one.event.priority, one.event.kind))
    for _, equal in groupby(told, key=lambda one: (one.event.priority, one.event.kind)):
        order = [(one.event.deadline or ONE_DAY, one.position) for one in equal]
        assert all(first < second for first, second in pairwise(order))


def test_pieces_are_no_smaller_than_they_have_to_be() -> None:
    found = pieces(KINDS, [asked(number) for number in range(2 * PIECE + 1)])
    assert [len(some) for _, some in found] == [PIECE, PIECE, 1]


# deadlines


def test_a_deadline_itself_is_in_time() -> None:
    late = timedelta(microseconds=1)
    assert too_late(asked(1), ONE_DAY) is None
    assert too_late(asked(1, deadline=NOW), NOW) is None
    failed = too_late(asked(1, deadline=NOW), NOW + late)
    assert failed is not None
    assert failed.decision_id == "d-1"
    assert failed.code == DEADLINE_PASSED
    assert failed.detail == "the deadline of 2026-01-01T00:00:00+00:00 had passed"


class Clock:
    """A clock that says what it is told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def under_a_clock(
    requests: Sequence[Request], size: int, clock: Clock | None, takes: timedelta
) -> tuple[list[list[str]], list[str]]:
    """The answers piece by piece, and what was decided, if a piece takes so long."""
    decided: list[str] = []

    async def decide(kind: Kind, some: Sequence[Request], *_: Any) -> list[Answer]:
        decided.extend(one.event.decision_id for one in some)
        if clock is not None:
            clock.now += takes
        fail = FailDecision(decision_id="d", code="done", detail="done")
        return [Answer(one, fail) for one in some]

    async def work() -> list[list[str]]:
        nothing: Any = None
        scorers = Scorers(nothing)
        return [
            [
                f"{one.request.event.decision_id} {one.command.code}"
                for one in some
                if isinstance(one.command, FailDecision)
            ]
            async for some in answers(KINDS, requests, nothing, scorers, clock=clock)
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ml.pieces.PIECE", size)
        patch.setattr("ml.pieces.decide", decide)
        return asyncio.run(work()), decided


def test_a_deadline_is_judged_when_the_turn_has_come() -> None:
    """What was in time when the batch began is too late behind pieces that took an hour each."""
    hour = timedelta(hours=1)
    waiting = [
        asked(1, priority=9),
        asked(2, priority=8, deadline=NOW + hour),
        asked(3, priority=7, deadline=NOW + hour),
        asked(4, priority=6),
    ]
    found, decided = under_a_clock(waiting, 1, Clock(), hour)
    assert found == [["d-1 done"], ["d-2 done"], [f"d-3 {DEADLINE_PASSED}"], ["d-4 done"]]
    assert decided == ["d-1", "d-2", "d-4"]
    # Had the batch been quick, nobody would have been too late.
    found, decided = under_a_clock(waiting, 1, Clock(), timedelta())
    assert decided == ["d-1", "d-2", "d-3", "d-4"]


def test_those_in_time_are_decided_beside_those_that_are_too_late() -> None:
    before = NOW - timedelta(seconds=1)
    waiting = [asked(1, deadline=before), asked(2, deadline=NOW), asked(3), asked(4)]
    found, decided = under_a_clock(waiting, 3, Clock(), timedelta())
    assert found == [[f"d-1 {DEADLINE_PASSED}", "d-2 done", "d-3 done"], ["d-4 done"]]
    assert decided == ["d-2", "d-3", "d-4"]


def test_without_a_clock_nobody_is_too_late() -> None:
    """A replay has none: what was in time then is decided."""
    waiting = [asked(1, deadline=LONG_AGO), asked(2)]
    found, decided = under_a_clock(waiting, 1, None, timedelta())
    assert decided == ["d-1", "d-2"]
    assert found == [["d-1 done"], ["d-2 done"]]


# on a log


@dataclass(frozen=True)
class Base:
    url: str
    orders: Sequence[str]


@pytest.fixture(scope="module")
def base(database: str) -> Base:
    """A database to copy: a year, its features folded, a champion."""

    async def fill() -> Base:
        async with company(database) as app:
            await a_year(app)
            await deployed_model(app)
            await app.consumer.catch_up()
        return Base(database, await decidable_orders(database))

    return asyncio.run(fill())


@pytest.fixture
def url(base: Base) -> Iterator[str]:
    with copied(base.url) as copy:
        yield copy


async def ask(app: Application, base: Base, name: str, **more: Any) -> None:
    order_id = base.orders[0]
    command = RequestDecision(decision_id=name, subject_id=order_id, requested_at=NOW, **more)
    await app.bus.execute(command, context("planner"))


async def answers_of(app: Application) -> list[DecisionMade | DecisionFailed]:
    """In the order of the log."""
    found = []
    for one in await app.log.after(0, 10**6):
        if catalogue.type_of(one.topic) in (DecisionMade, DecisionFailed):
            event = catalogue.decode(one.topic, one.state)
            assert isinstance(event, DecisionMade | DecisionFailed)
            found.append(event)
    return found


async def again(app: Application, ids: list[str] | None = None) -> list[Replayed]:
    return await replay(app.url, app.log, app.artifacts, ORGANISATION, ids)


@pytest.mark.parametrize("size", [1, 2, PIECE])
def test_the_most_urgent_is_answered_first(
    base: Base, url: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each as of its own position, whatever the order."""
    monkeypatch.setattr("ml.pieces.PIECE", size)

    async def story() -> None:
        async with company(url) as app:
            await ask(app, base, "plain")
            await ask(app, base, "idle", priority=0)
            await ask(app, base, "later", deadline=ONE_DAY)
            await ask(app, base, "sooner", deadline=ONE_DAY - timedelta(days=1))
            await ask(app, base, "urgent", priority=9)
            await ask(app, base, "plain-2")
            await app.consumer.catch_up()
            told = await answers_of(app)
            order = ["urgent", "sooner", "later", "plain", "plain-2", "idle"]
            assert [one.decision_id for one in told] == order
            made = {one.decision_id: one for one in told if isinstance(one, DecisionMade)}
            came = ["plain", "idle", "later", "sooner", "urgent", "plain-2"]
            positions = [made[name].as_of for name in came]
            assert positions == sorted(positions)
            assert [one.same for one in await again(app)] == [True] * 6

    asyncio.run(story())


def test_priorities_hold_among_all_that_waits(base: Base, url: str) -> None:
    """A backlog of hundreds, in one batch of the consumer, with other events in between."""
    count = 300
    shuffled = Random(7)
    priorities = [shuffled.randrange(10) for _ in range(count)]

    async def story() -> None:
        async with company(url) as app:
            commands: list[Command] = []
            for number, priority in enumerate(priorities):
                commands.append(
                    RequestDecision(
                        decision_id=f"b-{number}",
                        subject_id=base.orders[number % len(base.orders)],
                        priority=priority,
                        requested_at=NOW,
                    )
                )
                commands += [
                    ReceiveStock(
                        site_id="S-MIL",
                        sku=f"NEW-{number}-{more}",
                        quantity=Decimal(1),
                        received_at=NOW,
                    )
                    for more in range(3)
                ]
            results = await app.bus.execute_many([(one, context()) for one in commands])
            assert [one for one in results if not isinstance(one, Receipt)] == []
            await app.consumer.catch_up()
            told = await answers_of(app)
            assert len(told) == count
            assert all(isinstance(one, DecisionMade) for one in told)
            order = [int(one.decision_id.removeprefix("b-")) for one in told]
            assert order == sorted(range(count), key=lambda n: (-priorities[n], n))
            found = await again(app)
            assert [one.decision_id for one in found if not one.same] == []
            assert len(found) == count

    asyncio.run(story())


def test_who_comes_too_late_is_told_and_the_others_are_decided(base: Base, url: str) -> None:
    async def story() -> None:
        async with company(url) as app:
            await ask(app, base, "late", priority=9, deadline=LONG_AGO)
            await ask(app, base, "in-time", deadline=ONE_DAY)
            await ask(app, base, "late-2", deadline=LONG_AGO)
            await app.consumer.catch_up()
            told = {one.decision_id: one for one in await answers_of(app)}
            assert told.keys() == {"late", "in-time", "late-2"}
            assert isinstance(told["in-time"], DecisionMade)
            for name in ("late", "late-2"):
                failed = told[name]
                assert isinstance(failed, DecisionFailed)
                assert failed.code == DEADLINE_PASSED
                assert failed.detail == "the deadline of 2020-01-01T00:00:00+00:00 had passed"
            found = await again(app)
            assert {one.decision_id: one.cause for one in found} == dict.fromkeys(told, "")
            assert [one.same for one in await again(app, ["late"])] == [True]

    asyncio.run(story())


def test_a_decision_made_in_time_replays_after_its_deadline(base: Base, url: str) -> None:
    async def story() -> None:
        async with company(url) as app:
            deadline = datetime.now(UTC) + timedelta(seconds=3)
            await ask(app, base, "tight", deadline=deadline)
            await app.consumer.catch_up()
            [made] = await answers_of(app)
            assert isinstance(made, DecisionMade)
            await asyncio.sleep((deadline - datetime.now(UTC)).total_seconds() + 0.01)
            assert [one.same for one in await again(app)] == [True]
            # Nor is it given up by a consumer that comes to it a second time.
            async with company(url) as other:
                await other.consumer.catch_up()
            assert len(await answers_of(app)) == 1

    asyncio.run(story())


def test_an_answer_in_time_stands_though_the_crash_behind_it_ends_after_the_deadline(
    base: Base, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is on the log, the consumer's position is not: it answers again, too late."""

    async def crash(*_: Any) -> None:
        raise SystemError

    async def story() -> None:
        deadline = datetime.now(UTC) + timedelta(seconds=3)
        async with company(url) as app:
            await ask(app, base, "tight", deadline=deadline)
            monkeypatch.setattr("projections.store.advance", crash)
            with pytest.raises(SystemError):
                await app.consumer.catch_up()
            monkeypatch.undo()
            [made] = await answers_of(app)
            assert isinstance(made, DecisionMade)
        await asyncio.sleep((deadline - datetime.now(UTC)).total_seconds() + 0.01)
        async with company(url) as app:
            head = await app.log.head()
            await app.consumer.catch_up()
            assert await answers_of(app) == [made]
            assert await app.log.after(head, 10) == []
            assert [one.same for one in await again(app)] == [True]

    asyncio.run(story())


def test_what_is_decided_anew_is_as_urgent_as_before(base: Base, url: str) -> None:
    async def story() -> None:
        async with company(url) as app:
            await ask(app, base, "first", priority=8)
            await app.consumer.catch_up()
            contest = ContestDecision(decision_id="first", reason="no", contested_at=NOW)
            await app.bus.execute(contest, context())
            await app.consumer.catch_up()
            events = [catalogue.decode(e.topic, e.state) for e in await app.log.after(0, 10**6)]
            [anew] = [
                one
                for one in events
                if isinstance(one, DecisionRequested) and one.redecides == "first"
            ]
            assert anew.priority == 8
            assert anew.deadline is None

    asyncio.run(story())
