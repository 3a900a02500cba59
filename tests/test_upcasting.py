"""Events under older topics read as present ones, on every way by which events are read.

A log of today is rewritten into what earlier versions of the code might have left (other areas,
names, fields and types; the bytes of ``EARLIER``). Whatever was read from it before must be read
from it after.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from chainlytics.application import Application
from commands import stream_id
from domain import catalogue
from domain.catalogue import AREAS, UPCASTERS, VERSIONS, Catalogue, Step
from domain.decisions import (
    Candidate,
    DecisionMade,
    DecisionOutcomeRecorded,
    DecisionRequested,
    Weights,
)
from domain.errors import Refused
from domain.inventory import StockReceived
from domain.models import ModelDeployed
from domain.orders import (
    ORDERS,
    AllocateOrder,
    DeliverOrder,
    OrderDelivered,
    OrderPlaced,
    PlaceOrder,
    ShipOrder,
    Status,
)
from domain.sites import SiteOpened
from domain.values import Event
from eventstore import StoredEvent
from ml.fulfilment import FULFILMENT
from ml.models import read_log, training_rows
from ml.replay import replay
from projections.catalogue import TABLES
from projections.contributions import contributions
from projections.fold import first
from projections.frames import NewerTopic, decode, wanted
from projections.table import Table
from tests.following import following
from tests.serving import serving_here
from tests.test_catalogue import values
from tests.test_folds import dump
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

Body = dict[str, Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def renamed(body: Body, **names: str) -> Body:
    """The object with some fields under other names: new name = old name."""
    back = {old: new for new, old in names.items()}
    return {back.get(name, name): value for name, value in body.items()}


def _micros(moment: str) -> int:
    return (datetime.fromisoformat(moment) - _EPOCH) // timedelta(microseconds=1)


def _moment(micros: int) -> str:
    return (_EPOCH + timedelta(microseconds=micros)).isoformat()


# steps forward, as production code would write them


def booked_v1_to_v2(body: Body) -> Body:
    """Goods were a decimal in major units."""
    goods = body.pop("goods")
    return body | {"goods_minor": int(Decimal(goods) * 100)}


def booked_v2_to_placed(body: Body) -> Body:
    """Times were microseconds, and the customer had a short name."""
    times = {name: _moment(body[name]) for name in ("placed_at", "promised_at")}
    return renamed(body, customer_id="customer") | times


def arrived_to_delivered(body: Body) -> Body:
    kept = body.pop("promise_kept")
    return body | {"late": None if kept is None else not kept}


def goods_in_to_received(body: Body) -> Body:
    return renamed(body, quantity="kilos") | {"quantity": str(Decimal(body["kilos"]) / 1000)}


def given_to_made(body: Body) -> Body:
    """How sure a model was of itself was not recorded; it follows."""
    risk = body["risk"]
    return body | {"confidence": None if risk is None else max(risk, 1 - risk)}


OLDER: Mapping[str, tuple[str, Step]] = {
    "sales.OrderBooked.v1": ("sales.OrderBooked.v2", booked_v1_to_v2),
    "sales.OrderBooked.v2": ("orders.OrderPlaced.v1", booked_v2_to_placed),
    "orders.OrderArrived.v1": ("orders.OrderDelivered.v1", arrived_to_delivered),
    "depots.DepotOpened.v1": (
        "inventory.SiteOpened.v1",
        lambda body: renamed(body, site_id="depot"),
    ),
    "inventory.GoodsIn.v1": ("inventory.StockReceived.v1", goods_in_to_received),
    "decisions.AdviceAsked.v1": (
        "decisions.DecisionRequested.v2",
        lambda body: renamed(body, decision_id="advice_id"),
    ),
    "decisions.AdviceGiven.v1": ("decisions.DecisionMade.v2", given_to_made),
}

# and back: what earlier code would have written


def _booked_v2(body: Body) -> Body:
    times = {name: _micros(body[name]) for name in ("placed_at", "promised_at")}
    return renamed(body, customer="customer_id") | times


def _booked_v1(body: Body) -> Body:
    body = _booked_v2(body)
    minor = body.pop("goods_minor")
    return body | {"goods": str(Decimal(minor) / 100)}


def _arrived(body: Body) -> Body:
    late = body.pop("late")
    return body | {"promise_kept": None if late is None else not late}


def _goods_in(body: Body) -> Body:
    return renamed(body, kilos="quantity") | {"kilos": int(Decimal(body["quantity"]) * 1000)}


def _given(body: Body) -> Body:
    return {name: value for name, value in body.items() if name != "confidence"}


#: For a class of events, the topics and forms in which earlier code wrote them.
EARLIER: Mapping[type[Event], tuple[tuple[str, Step], ...]] = {
    OrderPlaced: (("sales.OrderBooked.v1", _booked_v1), ("sales.OrderBooked.v2", _booked_v2)),
    OrderDelivered: (("orders.OrderArrived.v1", _arrived),),
    SiteOpened: (("depots.DepotOpened.v1", lambda body: renamed(body, depot="site_id")),),
    StockReceived: (("inventory.GoodsIn.v1", _goods_in),),
    DecisionRequested: (
        ("decisions.AdviceAsked.v1", lambda body: renamed(body, advice_id="decision_id")),
    ),
    DecisionMade: (("decisions.AdviceGiven.v1", _given),),
}


def earlier(topic: str, state: bytes, turn: int = 0) -> tuple[str, bytes]:
    """Topic and bytes that earlier code would have left; those of other events as they are."""
    forms = EARLIER.get(catalogue.TYPES[topic])
    if forms is None:
        return topic, state
    older, back = forms[turn % len(forms)]
    return older, json.dumps(back(json.loads(state))).encode()


# the catalogue as a value

PAST = Catalogue(AREAS, VERSIONS, OLDER)
_made: Mapping[type[Event], st.SearchStrategy[Any]] = {
    kind: values(kind) for kind in (OrderDelivered, SiteOpened, DecisionRequested)
} | {
    OrderPlaced: st.builds(
        lambda event, goods: event.model_copy(update={"goods_minor": goods}),
        values(OrderPlaced),
        st.integers(0, 10**12),
    ),
    StockReceived: st.builds(
        lambda event, number: event.model_copy(update={"quantity": Decimal(f"{number:f}")}),
        values(StockReceived),
        st.integers(1, 10**9).map(lambda number: Decimal(number) / 1000),
    ),
    DecisionMade: values(DecisionMade).map(
        lambda event: event.model_copy(
            update={"confidence": None if event.risk is None else max(event.risk, 1 - event.risk)}
        )
    ),
}


@pytest.mark.parametrize("kind", EARLIER, ids=lambda kind: str(kind.__name__))
def test_what_earlier_code_wrote_reads_as_the_same_event(kind: type[Event]) -> None:
    """Decoded, as bytes and as JSON: one event, whichever version its bytes are of."""

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(_made[kind], st.integers(0, 1))
    def reads_the_same(event: Event, turn: int) -> None:
        topic, state = PAST.encode(event)
        older, bytes_then = earlier(topic, state, turn)
        assert older != topic
        assert PAST.type_of(older) is kind
        assert PAST.decode(older, bytes_then) == event
        assert PAST.present(older, bytes_then) == (topic, state)
        assert PAST.as_json(older, bytes_then) == PAST.as_json(topic, state) == json.loads(state)

    reads_the_same()


def test_a_chain_goes_version_by_version() -> None:
    seen: list[tuple[str, Body]] = []

    def told(name: str, step: Step) -> Step:
        def runs(body: Body) -> Body:
            seen.append((name, dict(body)))
            return step(body)

        return runs

    steps: dict[str, tuple[str, Step]] = {
        "inventory.SiteShut.v1": (
            "inventory.SiteShut.v2",
            told("first", lambda body: body | {"reason": body.pop("why")}),
        ),
        "inventory.SiteShut.v2": (
            "inventory.SiteShut.v3",
            told("second", lambda body: body | {"closed_at": None}),
        ),
        "inventory.SiteShut.v3": (
            "inventory.SiteClosed.v1",
            told("third", lambda body: renamed(body, site_id="site")),
        ),
    }
    past = Catalogue(AREAS, {}, steps)
    event = past.decode("inventory.SiteShut.v1", b'{"site":"S-1","why":"fire"}')
    assert past.encode(event) == (
        "inventory.SiteClosed.v1",
        b'{"site_id":"S-1","reason":"fire","closed_at":null}',
    )
    assert seen == [
        ("first", {"site": "S-1", "why": "fire"}),
        ("second", {"site": "S-1", "reason": "fire"}),
        ("third", {"site": "S-1", "reason": "fire", "closed_at": None}),
    ]
    seen.clear()
    past.decode("inventory.SiteShut.v3", b'{"site":"S-1","reason":"r","closed_at":null}')
    assert [name for name, _ in seen] == ["third"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quantity", "2.50"),
        ("quantity", 2.5),
        ("quantity", "two"),
        ("quantity", "Infinity"),
        ("quantity", True),
        ("received_at", "2026-03-01T12:00:00+01:00"),
        ("received_at", "2026-03-01T12:00:00"),
        ("received_at", 1772366400),
        ("received_at", "1772366400"),
        ("received_at", "yesterday"),
        ("site_id", 7),
        ("colour", "red"),
    ],
)
def test_upcast_json_is_read_by_the_rules_of_stored_json(field: str, value: object) -> None:
    """Also where those rules say no, or read loosely."""
    body = {"site_id": "S", "sku": "A", "quantity": "1", "received_at": None} | {field: value}
    state = json.dumps(body).encode()
    same = Catalogue(
        AREAS, {}, {"inventory.Received.v1": ("inventory.StockReceived.v1", lambda body: body)}
    )

    def outcome(topic: str) -> Event | list[Any]:
        try:
            return same.decode(topic, state)
        except ValidationError as error:
            return error.errors(include_url=False)

    assert outcome("inventory.Received.v1") == outcome("inventory.StockReceived.v1")


@pytest.mark.parametrize("value", [NOW, Decimal(1)], ids=["moment", "decimal"])
def test_a_step_gives_json_and_no_objects_of_python(value: object) -> None:
    """They would be read by other rules than what is stored."""
    step: Step = lambda body: body | {"quantity": value, "received_at": value}  # noqa: E731
    past = Catalogue(AREAS, {}, {"inventory.In.v1": ("inventory.StockReceived.v1", step)})
    with pytest.raises(TypeError, match="not JSON serializable"):
        past.decode("inventory.In.v1", b'{"site_id":"S","sku":"A"}')


def test_a_step_that_forgets_a_field_is_found_on_every_way() -> None:
    """Tables would read null where the rules would fail."""
    forgets: Step = lambda body: {"site_id": body["site_id"]}  # noqa: E731
    past = Catalogue(AREAS, {}, {"inventory.Opened.v1": ("inventory.SiteOpened.v1", forgets)})
    for read in (past.decode, past.present, past.as_json):
        with pytest.raises(ValidationError, match="service_levels"):
            read("inventory.Opened.v1", b'{"site_id":"S"}')


def _same(body: Body) -> Body:
    return body


@pytest.mark.parametrize(
    ("upcasters", "told"),
    [
        (
            {"orders.OrderPlaced.v1": ("orders.OrderShipped.v1", _same)},
            "orders.OrderPlaced.v1 is a present topic",
        ),
        (
            {"a.A.v1": ("a.A.v2", _same), "a.A.v2": ("a.A.v3", _same)},
            "end in a topic without an event: a.A.v1 -> a.A.v2 -> a.A.v3",
        ),
        (
            {"a.A.v1": ("a.A.v2", _same), "a.A.v2": ("a.A.v1", _same)},
            "round in a circle: a.A.v1 -> a.A.v2 -> a.A.v1",
        ),
        ({"a.A.v1": ("a.A.v1", _same)}, "round in a circle: a.A.v1 -> a.A.v1"),
    ],
    ids=["from a present topic", "to nowhere", "circle", "to itself"],
)
def test_a_chain_must_lead_to_an_event(upcasters: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        Catalogue(AREAS, {}, upcasters)


def test_a_topic_names_one_event() -> None:
    with pytest.raises(TypeError, match="one topic"):
        Catalogue({"orders": (OrderPlaced, OrderPlaced)}, {}, {})
    with pytest.raises(TypeError, match="one topic"):
        Catalogue({"orders": (OrderPlaced,), "sales": (OrderPlaced,)}, {}, {})


def test_a_version_is_part_of_the_topic() -> None:
    later = Catalogue(
        AREAS, {OrderPlaced: 3}, {"orders.OrderPlaced.v2": ("orders.OrderPlaced.v3", _same)}
    )
    assert later.topics[OrderPlaced] == "orders.OrderPlaced.v3"
    assert later.type_of("orders.OrderPlaced.v2") is OrderPlaced
    assert later.type_of("orders.OrderPlaced.v1") is None


# what the first release wrote


V1_WEIGHTS = b'{"cost":1.5,"lateness_minor":3000,"carbon_minor_per_kg":20}'
V1_MADE = (
    b'{"decision_id":"D-1","kind":"fulfilment","subject_id":"O-1","as_of":41,"model_hash":"aa",'
    b'"schema_hash":"bb","libraries":{"xgboost":"3.2.0"},"weights":%s,"candidates":[{"option":'
    b'{"site_id":"S-1"},"features":"AAAAAA==","lineage":{"orders":40},"margin":-1.25,'
    b'"probability":0.25,"cost_minor":500,"carbon_g":900,"objective":1136.1,"rejected":[]}],'
    b'"chosen":0,"option":{"site_id":"S-1"},"probability":0.25,"confidence":0.75}' % V1_WEIGHTS
)
V1 = {
    "decisions.DecisionRequested.v1": (
        b'{"decision_id":"D-1","kind":"fulfilment","subject_id":"O-1","weights":%s,'
        b'"requested_at":"2026-01-01T00:00:00Z"}' % V1_WEIGHTS,
        DecisionRequested(
            decision_id="D-1",
            kind="fulfilment",
            subject_id="O-1",
            weights=Weights(cost=1.5, risk_minor=3000, carbon_minor_per_kg=20),
            priority=5,
            deadline=None,
            redecides=None,
            requested_at=NOW,
        ),
    ),
    "decisions.DecisionMade.v1": (
        V1_MADE,
        DecisionMade(
            decision_id="D-1",
            kind="fulfilment",
            subject_id="O-1",
            as_of=41,
            role="champion",
            model_hash="aa",
            schema_hash="bb",
            code="",
            libraries={"xgboost": "3.2.0"},
            weights=Weights(cost=1.5, risk_minor=3000, carbon_minor_per_kg=20),
            candidates=(
                Candidate(
                    option={"site_id": "S-1"},
                    features="AAAAAA==",
                    lineage={"orders": 40},
                    margin=-1.25,
                    probability=0.25,
                    risk=0.25,
                    cost_minor=500,
                    carbon_g=900,
                    objective=1136.1,
                    rejected=(),
                ),
            ),
            chosen=0,
            option={"site_id": "S-1"},
            probability=0.25,
            foretold=0.25,
            risk=0.25,
            confidence=0.75,
            value_minor=None,
            currency=None,
        ),
    ),
    "decisions.DecisionOutcomeRecorded.v1": (
        b'{"decision_id":"D-1","kind":"fulfilment","subject_id":"O-1","probability":0.25,'
        b'"late":true,"followed":false,"known_at":"2026-01-01T00:00:00Z"}',
        DecisionOutcomeRecorded(
            decision_id="D-1",
            kind="fulfilment",
            subject_id="O-1",
            model_hash=None,
            probability=0.25,
            foretold=0.25,
            occurred=True,
            followed=False,
            cost_minor=None,
            known_at=NOW,
        ),
    ),
    "models.ModelDeployed.v1": (
        b'{"model_hash":"aa","kind":"fulfilment","schema_hash":"bb","deployed_by":"ana",'
        b'"deployed_at":"2026-01-01T00:00:00Z"}',
        ModelDeployed(
            model_hash="aa",
            kind="fulfilment",
            schema_hash="bb",
            role="champion",
            share=1.0,
            deployed_by="ana",
            deployed_at=NOW,
        ),
    ),
}


def test_every_upcaster_of_the_project_has_an_example() -> None:
    assert V1.keys() == UPCASTERS.keys()


@pytest.mark.parametrize("topic", V1)
def test_what_the_first_release_wrote_reads_as_today(topic: str) -> None:
    state, event = V1[topic]
    assert catalogue.decode(topic, state) == event
    assert catalogue.present(topic, state) == catalogue.encode(event)
    assert catalogue.as_json(topic, state) == json.loads(catalogue.encode(event)[1])


def test_a_request_of_the_first_release_without_weights_has_the_usual_ones_of_then() -> None:
    topic = "decisions.DecisionRequested.v1"
    state = V1[topic][0].replace(V1_WEIGHTS, b"{}")
    event = catalogue.decode(topic, state)
    assert isinstance(event, DecisionRequested)
    assert event.weights == Weights(cost=1.0, risk_minor=2000, carbon_minor_per_kg=10)


# a whole log of earlier events


@contextmanager
def knowing_the_past() -> Iterator[None]:
    """Code that has come from there: the catalogue of the project with the steps of ``OLDER``."""
    with pytest.MonkeyPatch.context() as patch:
        for topic, step in OLDER.items():
            patch.setitem(UPCASTERS, topic, step)
        yield


def at(url: str, work: Callable[[Application], Awaitable[Any]]) -> Any:
    """Do something in an application of its own."""

    async def run() -> Any:
        async with company(url) as app:
            return await work(app)

    return asyncio.run(run())


async def everything(app: Application) -> list[StoredEvent]:
    return await app.log.after(0, 10**6)


def rewrite(url: str) -> int:
    """Give every stored event the form of earlier code; how many have another one now."""
    done = 0
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT notification_id, topic, state FROM events").fetchall()
        for position, topic, state in rows:
            if topic not in catalogue.TYPES:
                continue
            older, bytes_then = earlier(topic, bytes(state), position)
            if older != topic:
                done += 1
                connection.execute(
                    "UPDATE events SET topic = %s, state = %s WHERE notification_id = %s",
                    (older, bytes_then, position),
                )
    return done


def streamed(url: str, home: Path, count: int) -> list[Any]:
    """The log as a follower gets it."""
    with (
        serving_here(url, home) as (served, _),
        served.client(organisation_id=ORGANISATION) as client,
        following(client, after=0) as stream,
    ):
        return stream.take(count)


def tables_of(url: str) -> dict[str, list[str]]:
    return {name: dump(url, table) for name, table in TABLES.items()}


@dataclass(frozen=True)
class Seen:
    """What was read from the log before it was rewritten."""

    url: str
    events: list[StoredEvent]
    tables: dict[str, list[str]]
    messages: list[Any]
    features: Any
    rewritten: int


async def features(app: Application) -> Any:
    """What a model would learn from: the running form of the feature tables."""
    log_frames = await read_log(app.url, app.log, ORGANISATION, FULFILMENT)
    return await training_rows(FULFILMENT, log_frames)


@pytest.fixture(scope="module")
def seen(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """A log with a year and decisions, read in every way, then rewritten; its past is known."""

    async def fill(app: Application) -> None:
        await a_year(app)
        await deployed_model(app)
        for number, order_id in enumerate(await open_orders(app, 3)):
            await request(app, f"d-{number}", order_id)
        await app.consumer.catch_up()
        await app.projector.catch_up()

    at(database, fill)
    events = at(database, everything)
    messages = streamed(database, tmp_path_factory.mktemp("today"), len(events))
    before = Seen(
        url=database,
        events=events,
        tables=tables_of(database),
        messages=messages,
        features=at(database, features),
        rewritten=rewrite(database),
    )
    with knowing_the_past():
        yield before


def test_every_event_decodes_to_what_it_was(seen: Seen) -> None:
    found = at(seen.url, everything)
    assert {one.topic for one in found} >= OLDER.keys()
    assert sum(one.topic in OLDER for one in found) == seen.rewritten > 2000
    for then, now in zip(seen.events, found, strict=True):
        assert catalogue.decode(now.topic, now.state) == catalogue.decode(then.topic, then.state)
        assert catalogue.present(now.topic, now.state) == (then.topic, then.state)


def test_frames_of_old_events_say_present_topics_and_states(seen: Seen) -> None:
    booked = Table(
        name="booked",
        key={OrderPlaced: ("order_id",)},
        columns={
            "topic": first({OrderPlaced: "topic"}),
            "state": first({OrderPlaced: "state"}),
            "placed_at": first({OrderPlaced: "placed_at"}),
        },
    )
    asked = wanted([booked])
    then, now = (
        contributions(booked, decode(events, asked))
        for events in (seen.events, at(seen.url, everything))
    )
    assert now.height > 1000
    assert now.equals(then)


def test_an_event_of_newer_code_is_waited_for_and_not_passed_over(seen: Seen) -> None:
    """As while servers are replaced one by one; somebody else's topic is passed over."""
    one = seen.events[0]
    asked = wanted(TABLES.values())
    for topic in ("app:Account.Opened", "orders.things:Box.Made", "audit.Seen.v1", "orders"):
        assert not catalogue.is_newer(topic)
        assert decode([replace(one, topic=topic, state=b"\x80")], asked) == {}
    for topic in ("orders.OrderPlaced.v2", "orders.OrderPraised.v1"):
        with pytest.raises(NewerTopic, match=rf"position {one.position} holds {topic}"):
            decode([replace(one, topic=topic)], asked)


def test_a_rebuild_gives_the_same_rows(seen: Seen) -> None:
    async def rebuild(app: Application) -> None:
        for table in TABLES.values():
            assert await app.projector.rebuild(table) == len(seen.events)

    at(seen.url, rebuild)
    assert tables_of(seen.url) == seen.tables


def test_live_folds_give_the_same_rows(seen: Seen) -> None:
    with psycopg.connect(seen.url) as connection:
        connection.execute("DROP SCHEMA read_models CASCADE")
        connection.execute("DROP TABLE projections")

    async def fold(app: Application) -> int:
        return await app.projector.catch_up()

    assert at(seen.url, fold) == seen.events[-1].position
    assert tables_of(seen.url) == seen.tables


def test_features_are_the_same(seen: Seen) -> None:
    found = at(seen.url, features)
    assert found.height > 500
    assert found.equals(seen.features, null_equal=True)


def test_the_live_stream_tells_the_same(seen: Seen, tmp_path: Path) -> None:
    """Names, topics and bodies are present ones: a follower never learns of the older."""
    assert len(seen.messages) == len(seen.events)
    assert streamed(seen.url, tmp_path, len(seen.messages)) == seen.messages


def test_every_decision_replays(seen: Seen) -> None:
    async def again(app: Application) -> None:
        found = await replay(app.url, app.log, app.artifacts, ORGANISATION)
        assert [one.decision_id for one in found] == ["d-0", "d-1", "d-2"]
        assert [(one.same, one.cause) for one in found] == [(True, "")] * 3

    at(seen.url, again)


def test_a_replay_still_finds_what_was_changed_in_old_bytes(seen: Seen) -> None:
    with psycopg.connect(seen.url) as connection:
        row = connection.execute(
            """SELECT notification_id, state FROM events
            WHERE topic = 'decisions.AdviceGiven.v1' ORDER BY 1 LIMIT 1"""
        ).fetchone()
        assert row is not None
        position, state = row
        body = json.loads(state)
        body["candidates"][0]["margin"] += 0.5
        change = "UPDATE events SET state = %s WHERE notification_id = %s"
        connection.execute(change, (json.dumps(body).encode(), position))

    async def again(app: Application) -> None:
        found = await replay(app.url, app.log, app.artifacts, ORGANISATION)
        assert [one.cause for one in found] == ["score", "", ""]

    try:
        at(seen.url, again)
    finally:
        with psycopg.connect(seen.url) as connection:
            connection.execute(change, (state, position))


# what goes on upon it; these add to the log, so they come last


def test_the_bus_decides_on_old_events(seen: Seen) -> None:
    async def story(app: Application) -> None:
        order_id = (await open_orders(app, 5))[-1]
        stream = stream_id(ORGANISATION, f"orders/{order_id}")
        stored = (await app.log.streams([stream]))[stream]
        assert stored[0].topic.startswith("sales.OrderBooked.")
        events = [catalogue.decode(one.topic, one.state) for one in stored]
        order, [placed, *_] = ORDERS.fold(events), events
        assert isinstance(placed, OrderPlaced)
        assert order.status is Status.PLACED
        again = PlaceOrder(
            order_id=order_id,
            customer_id="C",
            currency="EUR",
            lines=placed.lines,
            placed_at=NOW,
            promised_at=NOW,
        )
        with pytest.raises(Refused, match=r"order\.already_placed"):
            await app.bus.execute(again, context())
        options = [
            json.loads(one.state)["option"]
            for one in seen.events
            if one.topic == catalogue.TOPICS[DecisionMade]
        ]
        option = next(option for option in options if option)
        site = placed.lines[0].site_id or option["site_id"]
        allocate = AllocateOrder(order_id=order_id, site_id=site, allocated_at=NOW)
        assert (await app.bus.execute(allocate, context())).version == len(stored) + 1
        tail = (await app.log.streams([stream]))[stream][-1]
        assert tail.topic == "orders.OrderAllocated.v1"
        assert json.loads(tail.state)["region"] == placed.region

    at(seen.url, story)


def test_the_consumer_answers_old_requests_and_sees_old_deliveries(seen: Seen) -> None:
    async def go_on(app: Application) -> None:
        await app.consumer.catch_up()
        await request(app, "d-later", (await open_orders(app, 4))[-1])
        answers = [
            catalogue.decode(one.topic, one.state)
            for one in await everything(app)
            if catalogue.type_of(one.topic) is DecisionMade
        ]
        [made, *_] = [one for one in answers if isinstance(one, DecisionMade) and one.option]
        order_id, option = made.subject_id, made.option
        allocate = AllocateOrder(order_id=order_id, **option, allocated_at=NOW)  # type: ignore[arg-type]
        await app.bus.execute(allocate, context())
        await app.bus.execute(ShipOrder(order_id=order_id, shipped_at=NOW), context())
        await app.bus.execute(DeliverOrder(order_id=order_id, delivered_at=NOW), context())

    async def answer(app: Application) -> list[str]:
        head = await app.log.head()
        await app.consumer.catch_up()
        return [one.topic for one in await app.log.after(head, 100)]

    at(seen.url, go_on)
    assert rewrite(seen.url) >= 2
    assert sorted(at(seen.url, answer)) == [
        "decisions.DecisionExplained.v1",
        "decisions.DecisionMade.v2",
        "decisions.DecisionOutcomeRecorded.v2",
    ]
    assert at(seen.url, answer) == []
    replayed = at(seen.url, lambda app: replay(app.url, app.log, app.artifacts, ORGANISATION))
    assert {one.decision_id: one.same for one in replayed}["d-later"]
