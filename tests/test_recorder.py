"""The `eventsourcing` package on our log: its own recorder tests, its applications, our promises.

Of the package's recorder tests these cannot apply to one log that all share:
- AggregateRecorderTestCase expects no positions back from an insert; it runs on `WithoutPositions`.
- test_performance asserts nothing; benchmarks measure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, current_thread
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import (
    IntegrityError,
    NotSupportedError,
    OperationalError,
    StoredEvent,
)
from eventsourcing.postgres import PostgresDatastore
from eventsourcing.tests import persistence as package
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow

from eventstore import Entry, NewEvent, Unit, Writer, prepare_database
from eventstore.recorder import ACTOR, ORGANISATION_VARIABLE, LogRecorder

ORGANISATION = UUID("0f8c0e0b-3a46-4a3c-9b5c-7a4f6a1d2c11")


class WithoutPositions(LogRecorder):
    """As the package's aggregate recorders answer: without positions."""

    def insert_events(self, stored_events: Any, **kwargs: Any) -> None:
        super().insert_events(stored_events, **kwargs)


@contextmanager
def datastore(url: str, **settings: Any) -> Iterator[PostgresDatastore]:
    parts = conninfo_to_dict(url)
    with PostgresDatastore(
        dbname=str(parts["dbname"]),
        host=str(parts["host"]),
        port=str(parts["port"]),
        user=str(parts["user"]),
        password=str(parts["password"]),
        pool_size=4,
        max_overflow=8,
        **settings,
    ) as opened:
        yield opened


@pytest.fixture
def recorder(database: str) -> Iterator[LogRecorder]:
    """A recorder over an empty log."""
    with empty_log(database) as opened:
        yield LogRecorder(opened)


@contextmanager
def empty_log(database: str) -> Iterator[PostgresDatastore]:
    prepare_database(database)
    with psycopg.connect(database) as connection:
        connection.execute("TRUNCATE events, commands")
        connection.execute("UPDATE log_head SET position = 0")
    with datastore(database) as opened:
        yield opened


class OnTheLog:
    """Gives a test case of the package its recorder."""

    recorder: LogRecorder

    @pytest.fixture(autouse=True)
    def _open(self, database: str) -> Iterator[None]:
        with empty_log(database) as opened:
            self.recorder = LogRecorder(opened)
            yield

    def create_recorder(self) -> LogRecorder:
        self.recorder.create_table()
        return self.recorder


class TestApplicationRecorder(OnTheLog, package.ApplicationRecorderTestCase[LogRecorder]):
    test_performance = None  # type: ignore[assignment]

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestNonInterleaving(OnTheLog, package.NonInterleavingNotificationIDsBaseCase):
    insert_num = 1000


class TestAggregateRecorder(OnTheLog, package.AggregateRecorderTestCase):
    test_performance = None  # type: ignore[assignment]

    def create_recorder(self) -> LogRecorder:
        return WithoutPositions(self.recorder.datastore)


class Parcel(Aggregate):
    def __init__(self) -> None:
        self.seen: list[str] = []

    @event("Seen")
    def see(self, place: str) -> None:
        self.seen.append(place)


def application(url: str, **settings: str) -> Application[UUID]:
    parts = conninfo_to_dict(url)
    return Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "APPLICATION_RECORDER_TOPIC": "eventstore.recorder:LogRecorder",
            "POSTGRES_DBNAME": str(parts["dbname"]),
            "POSTGRES_HOST": str(parts["host"]),
            "POSTGRES_PORT": str(parts["port"]),
            "POSTGRES_USER": str(parts["user"]),
            "POSTGRES_PASSWORD": str(parts["password"]),
            **settings,
        }
    )


async def _append(url: str, units: int, events: int = 1) -> list[int]:
    """Our own writer's part: the positions that it was given for its last events."""
    async with Writer(url) as writer:
        answers = await asyncio.gather(*(writer.append(_unit(events)) for _ in range(units)))
    return [receipt.position for [receipt] in answers]


def _unit(events: int) -> Unit:
    stream = uuid4()
    new = [NewEvent(stream, version, "test.Noted.v1", b"{}") for version in range(1, events + 1)]
    entry = Entry(uuid4(), b"", "notes/1", events, ORGANISATION, "writer", uuid4(), None, new)
    return Unit([entry], {stream: 0})


def _positions(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT notification_id FROM events ORDER BY notification_id"
        ).fetchall()
        head = connection.execute("SELECT position FROM log_head").fetchone()
    positions = [row[0] for row in rows]
    assert head == (len(positions),)
    return positions


def _stored(stream: UUID, count: int, first: int = 1) -> list[StoredEvent]:
    return [StoredEvent(stream, first + number, "topic", b"state") for number in range(count)]


def test_an_application_and_our_writer_share_one_sequence(
    recorder: LogRecorder, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ORGANISATION_VARIABLE, str(ORGANISATION))
    with application(database) as parcels:
        parcel = Parcel()
        parcel.see("Lisbon")
        assert [one.notification.id for one in parcels.save(parcel)] == [1, 2]
        assert asyncio.run(_append(database, units=1)) == [3]
        parcel.see("Porto")
        assert [one.notification.id for one in parcels.save(parcel)] == [4]
        loaded = cast(Parcel, parcels.repository.get(parcel.id))
        assert loaded.seen == ["Lisbon", "Porto"]
    assert _positions(database) == [1, 2, 3, 4]
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT DISTINCT organisation_id, actor FROM events WHERE originator_id = %s",
            (parcel.id,),
        ).fetchall()
        ids = connection.execute("SELECT count(DISTINCT event_id) FROM events").fetchone()
    assert rows == [(ORGANISATION, ACTOR)]
    assert ids == (4,)


def test_without_a_setting_events_belong_to_the_nil_organisation(recorder: LogRecorder) -> None:
    recorder.insert_events(_stored(uuid4(), 1))
    with recorder.datastore.cursor() as cursor:
        cursor.execute("SELECT organisation_id FROM events")
        assert cursor.fetchall() == [{"organisation_id": UUID(int=0)}]


def test_recorders_and_the_writer_leave_no_gap(recorder: LogRecorder, database: str) -> None:
    given: list[int] = []

    def record(thread: int) -> list[int]:
        positions: list[int] = []
        for turn in range(10):
            positions += recorder.insert_events(_stored(uuid4(), 1 + (thread + turn) % 7)) or []
        return positions

    with ThreadPoolExecutor(6) as threads:
        recorded = [threads.submit(record, thread) for thread in range(4)]
        ours = [threads.submit(asyncio.run, _append(database, units=60)) for _ in range(2)]
        given = [position for one in [*recorded, *ours] for position in one.result()]
    assert len(set(given)) == len(given)
    assert sorted(given) == _positions(database) == list(range(1, len(given) + 1))


def test_a_conflict_takes_no_position(recorder: LogRecorder, database: str) -> None:
    stream = uuid4()
    recorder.insert_events(_stored(stream, 2))
    with pytest.raises(IntegrityError):
        recorder.insert_events([*_stored(uuid4(), 1), *_stored(stream, 1, first=2)])
    assert recorder.insert_events(_stored(stream, 1, first=3)) == [3]
    assert _positions(database) == [1, 2, 3]


def test_a_lost_acknowledgement_is_not_a_conflict(
    recorder: LogRecorder, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = recorder.datastore.get_connection
    lost: list[bool] = []

    @contextmanager
    def losing() -> Iterator[Connection[DictRow]]:
        with connect() as connection:
            yield connection
        if not lost:
            lost.append(True)
            raise OperationalError("connection lost after the commit")

    monkeypatch.setattr(recorder.datastore, "get_connection", losing)
    assert recorder.insert_events(_stored(uuid4(), 3)) == [1, 2, 3]
    assert lost
    assert _positions(database) == [1, 2, 3]


def test_a_subscription_sees_what_was_committed_before_it_listened(
    recorder: LogRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package's own waits for ever here (the test's time limit would say so)."""
    select, connect = recorder.select_notifications, recorder.datastore.get_connection
    stream = uuid4()
    committed = Event()

    def committing_after_the_first_read(*args: Any, **kwargs: Any) -> Any:
        found = select(*args, **kwargs)
        if not committed.is_set():
            recorder.insert_events(_stored(stream, 1))
            committed.set()
        return found

    @contextmanager
    def listening_late() -> Iterator[Connection[DictRow]]:
        if "_listen" in current_thread().name:
            committed.wait()
        with connect() as connection:
            yield connection

    monkeypatch.setattr(recorder, "select_notifications", committing_after_the_first_read)
    monkeypatch.setattr(recorder.datastore, "get_connection", listening_late)
    with recorder.subscribe() as subscription:
        assert next(iter(subscription)).originator_id == stream


def test_functions_of_the_package_are_refused(recorder: LogRecorder, database: str) -> None:
    with (
        datastore(database, enable_db_functions=True) as unordered,
        pytest.raises(NotSupportedError, match="POSTGRES_ENABLE_DB_FUNCTIONS"),
    ):
        LogRecorder(unordered)
    with pytest.raises(NotSupportedError, match="POSTGRES_ENABLE_DB_FUNCTIONS"):
        application(database, POSTGRES_ENABLE_DB_FUNCTIONS="yes")


def test_streams_with_text_names_are_refused(recorder: LogRecorder, database: str) -> None:
    with (
        datastore(database, originator_id_type="text") as named,
        pytest.raises(NotSupportedError, match="ORIGINATOR_ID_TYPE"),
    ):
        LogRecorder(named)


def test_a_schema_of_its_own(recorder: LogRecorder, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS apart")
    with datastore(database, schema="apart") as elsewhere:
        apart = LogRecorder(elsewhere)
        apart.create_table()
        assert apart.insert_events(_stored(uuid4(), 2)) == [1, 2]
        assert apart.max_notification_id() == 2
    assert recorder.max_notification_id() is None


def test_vacuum_does_not_wait_for_an_insert(recorder: LogRecorder, database: str) -> None:
    """The order lock is one row of log_head; the package's LOCK TABLE would block this."""
    with recorder.datastore.transaction() as cursor:
        recorder._insert_stored_events(cursor, _stored(uuid4(), 1), event_ids=[uuid4()])
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("SET lock_timeout = '2s'")
            other.execute("VACUUM events")
            other.execute("ANALYZE events")
