"""A decision's timeline: overridden, contested, decided anew, its order allocated, its outcome."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4
from xml.etree import ElementTree

import psycopg
import pytest

from domain.access import Role
from domain.decisions import Weights
from domain.orders import AllocateOrder, DeliverOrder, ShipOrder
from domain.reviews import ContestDecision, OverrideDecision
from eventstore.ids import named_id
from ml.timeline_picture import flat, picture
from projections.audit import AUDIT_TRAIL
from readmodels import timeline as timelines
from readmodels.database import ReadModels
from readmodels.decisions import evidence
from readmodels.timeline import DEEPEST, NotInTheTrail, Step, Timeline, timeline
from tests.serving import Served, assert_problem, get, serving_process
from tests.test_cli_decisions import Here
from tests.world import (
    NOW,
    ORGANISATION,
    a_year,
    company,
    context,
    decidable_orders,
    deployed_model,
    request,
)

SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Story:
    """What happened, by the ids that it gave."""

    order_id: str
    anew: str


@pytest.fixture(scope="module")
def story(database: str) -> Story:
    """D-1 is overridden, contested and decided anew; its order is allocated because of it."""

    async def fill() -> None:
        async with company(database) as app:
            await a_year(app, 600)
            await deployed_model(app)
            await app.consumer.catch_up()

    async def tell(order_id: str) -> Story:
        async with company(database) as app:
            bus = app.bus
            await request(app, "D-1", order_id)
            await app.consumer.catch_up()
            found = await evidence(ReadModels(app.log, ORGANISATION), "D-1")
            assert found is not None
            assert found.made is not None
            option = next(
                one["option"]
                for number, one in enumerate(found.made["candidates"])
                if number != found.made["chosen"] and not one["rejected"]
            )
            override = OverrideDecision(
                decision_id="D-1", option=option, reason="they called", overridden_at=NOW
            )
            await bus.execute(override, context("boss"))
            contest = ContestDecision(
                decision_id="D-1",
                reason="too dear",
                weights=Weights(risk_minor=9000),
                contested_at=NOW,
            )
            await bus.execute(contest, context("planner"))
            await app.consumer.catch_up()
            await app.projector.catch_up()
            async with app.log.connection() as connection:
                row = await (
                    await connection.execute(
                        """SELECT decision_id FROM read_models.decision_list
                        WHERE redecides = 'D-1' AND organisation_id = %s""",
                        (ORGANISATION,),
                    )
                ).fetchone()
            assert row is not None
            anew = str(row[0])
            again = await evidence(ReadModels(app.log, ORGANISATION), anew)
            assert again is not None
            assert again.made is not None
            chosen = again.made["option"]
            allocate = AllocateOrder(
                order_id=order_id,
                site_id=chosen["site_id"],
                service_level=chosen.get("service_level", "standard"),
                vehicle_id=chosen.get("vehicle_id") or None,
                decision_id=anew,
                allocated_at=NOW,
            )
            await bus.execute(allocate, context("planner"))
            shipped = NOW + timedelta(days=1)
            await bus.execute(ShipOrder(order_id=order_id, shipped_at=shipped), context("site"))
            delivered = DeliverOrder(order_id=order_id, delivered_at=shipped + timedelta(days=1))
            await bus.execute(delivered, context("carrier"))
            await app.consumer.catch_up()
            await app.projector.catch_up()
            return Story(order_id, anew)

    asyncio.run(fill())
    order_id = asyncio.run(decidable_orders(database))[0]
    return asyncio.run(tell(order_id))


def of(database: str, decision_id: str, **more: Any) -> Timeline | None:
    async def ask() -> Timeline | None:
        async with company(database) as app:
            return await timeline(
                ReadModels(app.log, more.get("organisation", ORGANISATION)), decision_id
            )

    return asyncio.run(ask())


@pytest.fixture
def tree(database: str, story: Story) -> Timeline:
    found = of(database, "D-1")
    assert found is not None
    return found


def shape(step: Step) -> Any:
    """Names and reasons, nested."""
    return (step.what, step.by, [shape(child) for child in step.children])


def named(tree: Timeline, what: str) -> list[Step]:
    return [step for _, step, _ in flat(tree.root) if step.what == what]


def test_causes_carry_their_effects(tree: Timeline, story: Story) -> None:
    assert tree.decisions == ("D-1", story.anew)
    assert tree.complete
    what, by, children = shape(tree.root)
    assert (what, by) == ("DecisionRequested", "root")
    assert [(name, why) for name, why, _ in children] == [
        ("DecisionMade", "causation"),
        ("DecisionExplained", "causation"),
        ("DecisionOverridden", "stream"),
        ("DecisionContested", "stream"),
    ]
    [asked_anew] = children[3][2]
    assert asked_anew[:2] == ("DecisionRequested", "causation")
    made_anew, explained = asked_anew[2][:2]
    assert (made_anew[0], explained[0]) == ("DecisionMade", "DecisionExplained")
    [(name, why, rest)] = made_anew[2]
    assert (name, why) == ("OrderAllocated", "decision")
    assert [(one, by) for one, by, _ in rest] == [
        ("OrderShipped", "stream"),
        ("OrderDelivered", "stream"),
    ]
    # Both decisions foretold something of this order.
    outcomes = [(one, by) for one, by, _ in rest[1][2]]
    assert outcomes == [("DecisionOutcomeRecorded", "causation")] * len(outcomes)
    assert outcomes


def test_every_step_says_where_and_who(database: str, tree: Timeline, story: Story) -> None:
    steps = [step for _, step, _ in flat(tree.root)]
    assert len(steps) == tree.events == len({step.event_id for step in steps})
    with psycopg.connect(database) as connection:
        for step in steps:
            row = connection.execute(
                """SELECT event_id, actor, recorded_at, causation_id FROM events
                WHERE notification_id = %s""",
                (step.position,),
            ).fetchone()
            assert row == (step.event_id, step.actor, step.recorded_at, step.causation_id)
        wanted = connection.execute(
            "SELECT count(*) FROM events WHERE originator_id = %s", (tree.root.stream_id,)
        ).fetchone()
    assert wanted is not None
    assert sum(step.stream_id == tree.root.stream_id for step in steps) == wanted[0]
    for step in steps:
        for child in step.children:
            assert child.position > step.position
            assert (child.causation_id == step.event_id) == (child.by == "causation")
    [overridden] = named(tree, "DecisionOverridden")
    assert overridden.actor == "boss"
    assert "they called" in overridden.sentence
    # What came to pass with the order before the decision is not of the decision.
    assert named(tree, "OrderPlaced") == []


def test_the_model_that_was_live_is_referred_to(tree: Timeline) -> None:
    made = named(tree, "DecisionMade")
    assert len(made) == 2
    for step in made:
        assert step.refers is not None
        assert step.refers.what == "ModelDeployed"
        assert step.refers.position < step.position
    assert all(step.refers is None for step in named(tree, "DecisionExplained"))


def test_the_new_decision_has_its_own_story(database: str, story: Story) -> None:
    found = of(database, story.anew)
    assert found is not None
    assert found.decisions == (story.anew,)
    assert [one.what for one in found.root.children][:2] == ["DecisionMade", "DecisionExplained"]
    assert found.root.causation_id is not None  # why it was asked for stands there
    [allocated] = named(found, "OrderAllocated")
    assert story.order_id in allocated.sentence


def test_what_is_not_known_has_none(database: str, story: Story) -> None:
    assert of(database, "D-none") is None
    assert of(database, "D-1", organisation=uuid4()) is None


def test_more_than_is_shown_is_said_to_be(
    database: str, tree: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "MOST", 4)
    found = of(database, "D-1")
    assert found is not None
    assert not found.complete
    assert 0 < found.events <= 4 < tree.events
    assert "more events than are shown" in picture(found)
    assert tree.complete


def test_causes_are_found_by_an_index(database: str, tree: Timeline) -> None:
    assert ("causation_id",) in AUDIT_TRAIL.indexes
    parameters = {
        "organisation_id": ORGANISATION,
        "request": tree.root.stream_id,
        "own": [tree.root.stream_id],
        "orders": [uuid4()],
        "allocation": "OrderAllocated",
        "farthest": 10,
        "limit": 10,
    }
    with psycopg.connect(database) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(f"EXPLAIN {timelines._EVENTS}", parameters).fetchall()
        connection.rollback()
    told = "\n".join(line for (line,) in plan)
    assert "causation_id" in told.partition("Recursive Union")[2]
    assert "Seq Scan on audit_trail" not in told


class Line(NamedTuple):
    """A line of the trail; ``cause``: the number of the line that caused it."""

    stream: str
    what: str
    cause: int | None = None


def folded(database: str, lines: list[Line], order_id: str | None = None) -> UUID:
    """An organisation whose read models have D-1, an order allocated because of it, and these
    lines at the positions from 1 on."""
    organisation = uuid4()
    ids = [uuid4() for _ in lines]
    versions: Counter[str] = Counter()
    with psycopg.connect(database, autocommit=True) as connection:
        add = "INSERT INTO read_models."
        connection.execute(
            f"{add}decision_list (organisation_id, decision_id) VALUES (%s, 'D-1')",
            (organisation,),
        )
        if order_id is not None:
            connection.execute(
                f"{add}order_summary (organisation_id, order_id, decision_id) VALUES (%s, %s, %s)",
                (organisation, order_id, "D-1"),
            )
        for number, (id_, line) in enumerate(zip(ids, lines, strict=True), 1):
            versions[line.stream] += 1
            cause = None if line.cause is None else ids[line.cause]
            connection.execute(
                f"""{add}audit_trail (organisation_id, position, area, what, sentence, recorded_at,
                    actor, event_id, correlation_id, causation_id, stream_id, version)
                VALUES (%s, %s, 'orders', %s, %s, now(), 'ana', %s, %s, %s, %s, %s)""",
                (
                    *(organisation, number, line.what, f"{line.what} {number}", id_, id_, cause),
                    *(named_id(organisation, line.stream), versions[line.stream]),
                ),
            )
    return organisation


REQUESTED = Line("decisions/D-1", "DecisionRequested")
ALLOCATED = Line("orders/O-1", "OrderAllocated")


def test_a_chain_of_any_length_is_answered(database: str, served: Served, tmp_path: Path) -> None:
    chain = [REQUESTED, *(Line(f"other/{n}", "OrderPlaced", cause=n) for n in range(400))]
    organisation = folded(database, chain)
    found = of(database, "D-1", organisation=organisation)
    assert found is not None
    assert found.complete
    rows = flat(found.root)
    assert [step.position for _, step, _ in rows] == list(range(1, 402))
    assert max(depth for depth, _, _ in rows) == DEEPEST
    for number, (depth, step, above) in enumerate(rows):
        assert step.parent == step.causation_id
        assert above == (None if number == 0 else min(number, DEEPEST) - 1)
        assert depth == min(number, DEEPEST)
    assert Timeline.model_validate_json(found.model_dump_json()) == found
    told = "follows from position 400"
    assert told in picture(found)
    assert "follows from position 12 " not in picture(found)
    with served.client(Role.AUDITOR, organisation_id=organisation) as auditor:
        assert get(auditor, "/decisions/D-1/timeline") == found.model_dump(mode="json")
        assert told in auditor.get("/decisions/D-1/timeline.svg").text
    terminal = Here(tmp_path)
    terminal.environment |= {"DATABASE_URL": database, "COLUMNS": "80"}
    asked = ("audit", "timeline", "D-1", "--organisation", str(organisation))
    assert told in terminal.run(*asked).stdout.replace("\n", " ")
    assert terminal.json(*asked) == found.model_dump(mode="json")


def test_a_chain_is_not_followed_for_ever(
    database: str, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "FARTHEST", 10)
    for links, complete in ((10, True), (11, False), (40, False)):
        chain = [REQUESTED, *(Line(f"other/{n}", "OrderPlaced", cause=n) for n in range(links))]
        found = of(database, "D-1", organisation=folded(database, chain))
        assert found is not None
        assert (found.events, found.complete) == (11, complete)


def test_of_many_effects_so_many_are_shown_and_the_request_among_them(
    database: str, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "MOST", 20)
    rest = [Line("orders/O-1", "OrderShipped") for _ in range(30)]
    effects = [Line(f"other/{n}", "OrderPlaced", cause=0) for n in range(30)]
    for lines in ([REQUESTED, ALLOCATED, *rest], [REQUESTED, *effects]):
        found = of(database, "D-1", organisation=folded(database, lines, "O-1"))
        assert found is not None
        assert (found.events, found.complete) == (20, False)
        assert found.root.what == "DecisionRequested"


def test_what_an_order_went_through_before_takes_no_room(database: str, story: Story) -> None:
    before = [Line("orders/O-1", "OrderPlaced") for _ in range(timelines.MOST + 100)]
    after = [REQUESTED, Line("decisions/D-1", "DecisionMade"), ALLOCATED]
    found = of(database, "D-1", organisation=folded(database, [*before, *after], "O-1"))
    assert found is not None
    assert found.complete
    assert [step.what for _, step, _ in flat(found.root)] == [
        "DecisionRequested",
        "DecisionMade",
        "OrderAllocated",
    ]


def test_an_order_that_named_the_decision_before_it_was_asked_for(
    database: str, story: Story
) -> None:
    lines = [ALLOCATED, REQUESTED, Line("orders/O-1", "OrderShipped")]
    found = of(database, "D-1", organisation=folded(database, lines, "O-1"))
    assert found is not None
    assert shape(found.root) == ("DecisionRequested", "root", [])
    assert found.complete


def test_a_trail_that_is_behind_is_asked_again(
    database: str, story: Story, served: Served, tmp_path: Path
) -> None:
    for lines in ([], [Line("orders/O-1", "OrderPlaced")]):
        organisation = folded(database, lines)
        with pytest.raises(NotInTheTrail, match="does not have the request of decision 'D-1' yet"):
            of(database, "D-1", organisation=organisation)
        with served.client(Role.AUDITOR, organisation_id=organisation) as auditor:
            for path in ("timeline", "timeline.svg"):
                answer = auditor.get(f"/decisions/D-1/{path}")
                assert_problem(answer, 503, "read-model-behind")
                assert answer.headers["retry-after"] == "1"
        terminal = Here(tmp_path)
        terminal.environment["DATABASE_URL"] = database
        asked = ("audit", "timeline", "D-1", "--organisation", str(organisation))
        assert "does not have the request" in terminal.run(*asked, code=1).stderr


def test_the_picture_has_every_step(tree: Timeline) -> None:
    drawn = ElementTree.fromstring(picture(tree))
    dots = [one for one in drawn.iter(f"{SVG}circle") if one.get("class") == "step"]
    assert len(dots) == tree.events
    height = float(drawn.get("height") or 0)
    ys = [float(dot.get("cy") or 0) for dot in dots]
    assert ys == sorted(ys)
    assert max(ys) < height
    texts = "".join(one.text or "" for one in drawn.iter(f"{SVG}text"))
    assert "boss" in texts


@pytest.fixture(scope="module")
def served(
    database: str, story: Story, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with serving_process(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


def test_auditors_ask_for_it(served: Served, tree: Timeline, story: Story) -> None:
    with served.client(Role.AUDITOR) as auditor:
        assert get(auditor, "/decisions/D-1/timeline") == tree.model_dump(mode="json")
        answer = auditor.get("/decisions/D-1/timeline.svg")
        assert answer.headers["content-type"] == "image/svg+xml"
        assert answer.text == picture(tree)
        for path in ("timeline", "timeline.svg"):
            assert_problem(auditor.get(f"/decisions/D-none/{path}"), 404, "not-found")
        # As it was known when it was overridden.
        [overridden] = named(tree, "DecisionOverridden")
        then = get(auditor, "/decisions/D-1/timeline", as_of=str(overridden.position))
        assert then["decisions"] == ["D-1"]
        assert [one["what"] for one in then["root"]["children"]] == [
            "DecisionMade",
            "DecisionExplained",
            "DecisionOverridden",
        ]
        assert then["root"]["children"][2]["children"] == []


def test_the_command_line_shows_it(
    database: str, tree: Timeline, story: Story, tmp_path: Path
) -> None:
    terminal = Here(tmp_path)
    terminal.environment |= {
        "DATABASE_URL": database,
        "CHAINLYTICS_ORGANISATION": str(ORGANISATION),
        "COLUMNS": "200",
    }
    shown = terminal.run("audit", "timeline", "D-1").stdout
    for _, step, _ in flat(tree.root):
        assert f"position {step.position}" in shown
    assert "└──" in shown
    assert "its model: " in shown
    assert terminal.json("audit", "timeline", "D-1") == tree.model_dump(mode="json")
    file = tmp_path / "d1.svg"
    assert "events" in terminal.run("audit", "timeline", "D-1", "--svg", str(file)).stdout
    assert file.read_text() == picture(tree)
    assert "not known" in terminal.run("audit", "timeline", "D-none", code=1).stderr
