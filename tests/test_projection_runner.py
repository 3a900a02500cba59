"""The `eventsourcing` package's applications and projection runners, unmodified, on our log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.application import Application, ProcessingEvent
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.projection import (
    EventSourcedProjection,
    EventSourcedProjectionRunner,
    Projection,
    ProjectionRunner,
)
from eventsourcing.utils import TopicError, clear_topic_cache, get_topic, register_topic
from psycopg.sql import SQL, Identifier

from eventstore import Entry, NewEvent, Unit, Writer, prepare_database
from eventstore.recorder import LogTrackingRecorder
from tests.patience import PATIENCE_S
from tests.test_recorder import environment

ORGANISATION = UUID("6f1b2c9a-53c4-4a7e-9a0e-0f4a1d6f7c11")
NOTED = "test.Noted.v1"


class Parcel(Aggregate):
    class Seen(Aggregate.Event):
        place: str

    def __init__(self, place: str) -> None:
        self.seen = [place]

    @event(Seen)
    def see(self, place: str) -> None:
        self.seen.append(place)


class Parcels(Application[UUID]):
    def send(self, place: str) -> UUID:
        parcel = Parcel(place)
        self.save(parcel)
        return parcel.id

    def see(self, parcel_id: UUID, place: str) -> int:
        """The position of what was stored."""
        parcel: Parcel = self.repository.get(parcel_id)
        parcel.see(place)
        return self.save(parcel)[-1].notification.id


class Places(PostgresTrackingRecorder):
    """A view in Postgres: how often something was seen at a place."""

    def __init__(self, datastore: PostgresDatastore, **names: Any) -> None:
        super().__init__(datastore, **names)
        table = Identifier(self.tracking_table_name.replace("tracking", "places"))
        self.sql_create_statements.append(
            SQL(
                "CREATE TABLE IF NOT EXISTS {} (place text PRIMARY KEY, times bigint NOT NULL)"
            ).format(table)
        )
        self._count = SQL(
            """INSERT INTO {0} AS p VALUES (%s, 1)
            ON CONFLICT (place) DO UPDATE SET times = p.times + 1"""
        ).format(table)
        self._read = SQL("SELECT place, times FROM {}").format(table)

    def count(self, place: str, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(self._count, (place,))

    def times(self) -> dict[str, int]:
        with self.datastore.cursor() as cursor:
            cursor.execute(self._read)
            return {row["place"]: row["times"] for row in cursor.fetchall()}


class SafePlaces(LogTrackingRecorder, Places):
    """The same on our own recorder."""


class CountPlaces(Projection[Places]):
    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Every event that is not named below would be a surprise."""
        raise AssertionError(f"nobody asked for {domain_event}")

    @process_event.register
    def parcel_sent(self, domain_event: Parcel.Created, tracking: Tracking) -> None:
        self.view.count(domain_event.place, tracking)  # type: ignore[attr-defined]

    @process_event.register
    def parcel_seen(self, domain_event: Parcel.Seen, tracking: Tracking) -> None:
        self.view.count(domain_event.place, tracking)


class CountSightings(CountPlaces):
    topics = (get_topic(Parcel.Seen),)


@pytest.fixture
def url(database: str) -> str:
    """A database with an empty log and nothing of the package's."""
    with psycopg.connect(database) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    prepare_database(database)
    return database


def runner(
    url: str, projection: type[Projection[Any]] = CountPlaces, view: type[Places] = Places
) -> ProjectionRunner[Parcels, Places]:
    return ProjectionRunner(
        application_class=Parcels,
        projection_class=projection,
        view_class=view,
        env=environment(url),
    )


async def note(url: str, units: int, events: int = 1) -> None:
    """Our own writer appends: topics that the package cannot resolve."""
    async with Writer(url) as writer:
        await asyncio.gather(*(writer.append(_unit(events)) for _ in range(units)))


def _unit(events: int) -> Unit:
    stream = uuid4()
    new = [NewEvent(stream, version, NOTED, b'{"text":"x"}') for version in range(1, events + 1)]
    entry = Entry(uuid4(), b"", f"notes/{stream}", events, ORGANISATION, "ana", uuid4(), None, new)
    return Unit([entry], {stream: 0})


def reach(running: Any, position: int) -> None:
    running.wait(position, timeout=PATIENCE_S)


@pytest.mark.parametrize("view", [Places, SafePlaces], ids=["the package's view", "our view"])
def test_a_view_follows_an_application_and_goes_on_after_a_restart(
    url: str, view: type[Places]
) -> None:
    with runner(url, view=view) as running:
        parcel = running.app.send("Lisbon")
        asyncio.run(note(url, units=3))
        reach(running, running.app.see(parcel, "Porto"))
        assert running.view.times() == {"Lisbon": 1, "Porto": 1}
    with Parcels(env=environment(url)) as parcels:  # while nothing is projected
        parcels.see(parcel, "Porto")
        asyncio.run(note(url, units=2, events=700))
    with runner(url, view=view) as running:
        reach(running, running.app.see(parcel, "Lisbon"))
        assert running.view.times() == {"Lisbon": 2, "Porto": 2}
        loaded: Parcel = running.app.repository.get(parcel)
        assert loaded.seen == ["Lisbon", "Porto", "Porto", "Lisbon"]
    assert running.view.max_tracking_id("Parcels") == 1 + 3 + 1 + 1 + 1400 + 1


def test_topics_choose_events(url: str) -> None:
    with runner(url, CountSightings) as running:
        parcel = running.app.send("Lisbon")
        asyncio.run(note(url, units=1))
        reach(running, running.app.see(parcel, "Porto"))
        assert running.view.times() == {"Porto": 1}


def test_nothing_is_missed_beside_other_writers(url: str) -> None:
    def send(place: str) -> int:
        with Parcels(env=environment(url)) as parcels:
            parcel = parcels.send(place)
            return max(parcels.see(parcel, place) for _ in range(40))

    places = [f"place {number}" for number in range(4)]
    with runner(url) as running, ThreadPoolExecutor(6) as threads:
        ours = [threads.submit(asyncio.run, note(url, units=200)) for _ in range(2)]
        last = max(threads.map(send, places))
        for one in ours:
            one.result()
        reach(running, last)
        assert running.view.times() == dict.fromkeys(places, 41)


def test_a_view_is_right_though_connections_are_cut(url: str) -> None:
    """The runner's own reading and listening survive it; here nothing is written meanwhile."""
    with runner(url) as running:
        parcel = running.app.send("Lisbon")
        for _ in range(3):
            reach(running, running.app.see(parcel, "Porto"))
            with psycopg.connect(url) as connection:
                connection.execute(
                    """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()
                    AND query LIKE 'LISTEN%'"""
                )
        assert running.view.times() == {"Lisbon": 1, "Porto": 3}


@dataclass(frozen=True)
class Noted:
    """An event of our own, as the package wants to see it."""

    originator_id: UUID
    originator_version: int
    text: str


class CountNotes(Projection[Places]):
    topics = (NOTED,)

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        raise AssertionError(f"nobody asked for {domain_event}")

    @process_event.register
    def noted(self, domain_event: Noted, tracking: Tracking) -> None:
        self.view.count(domain_event.text, tracking)


@pytest.fixture
def noted() -> Iterator[Mapping[str, type]]:
    register_topic(NOTED, Noted)
    yield {NOTED: Noted}
    clear_topic_cache()


@pytest.mark.usefixtures("noted")
def test_a_projection_may_ask_for_our_own_events_by_topic(url: str) -> None:
    with runner(url, CountNotes) as running:
        running.app.send("Lisbon")
        asyncio.run(note(url, units=4, events=3))
        reach(running, 13)
        assert running.view.times() == {"x": 12}


def test_a_topic_that_the_package_does_not_know_ends_the_runner_if_it_is_asked_for(
    url: str,
) -> None:
    asyncio.run(note(url, units=1))
    with pytest.raises(TopicError, match=NOTED), runner(url, CountNotes) as running:
        running.run_forever(timeout=PATIENCE_S)


class Greeting(Aggregate):
    def __init__(self, text: str) -> None:
        self.text = text


class Greetings(EventSourcedProjection[UUID]):
    """Greets each parcel: events that follow from events."""

    @singledispatchmethod
    def policy(self, domain_event: Any, processing_event: ProcessingEvent[UUID]) -> None:
        raise AssertionError(f"nobody asked for {domain_event}")

    @policy.register
    def sent(self, domain_event: Parcel.Created, processing_event: ProcessingEvent[UUID]) -> None:
        greeting = Greeting(f"hello {domain_event.place}")  # type: ignore[attr-defined]
        processing_event.collect_events(greeting)

    @policy.register
    def seen(self, domain_event: Parcel.Seen, processing_event: ProcessingEvent[UUID]) -> None:
        """Nothing follows; the position is remembered all the same."""


def test_events_that_follow_from_events_stand_in_the_same_log(url: str) -> None:
    def greeter() -> EventSourcedProjectionRunner[Parcels, Greetings]:
        return EventSourcedProjectionRunner(
            application_class=Parcels, projection_class=Greetings, env=environment(url)
        )

    with greeter() as running:
        parcel = running.app.send("Lisbon")
        reach(running, running.app.see(parcel, "Porto"))
    with greeter() as running:
        running.app.send("Faro")
        reach(running, running.app.see(parcel, "Braga"))
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT actor, count(*) FROM events GROUP BY actor ORDER BY actor"
        ).fetchall()
        head = connection.execute("SELECT position FROM log_head").fetchone()
    assert rows == [("eventsourcing/greetings", 2), ("eventsourcing/parcels", 4)]
    assert head == (6,)
