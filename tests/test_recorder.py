"""The `eventsourcing` package on our log: its own recorder tests, its applications, our promises.

Of the cases in `eventsourcing.tests.persistence` all that test a recorder or a factory run here:
AggregateRecorder-, ApplicationRecorder- (on both of our recorders that store events),
TrackingRecorder-, ProcessRecorder-, NonInterleavingNotificationIDs- and InfrastructureFactory-.
What cannot apply, and why:

- AggregateRecorderTestCase expects no positions back from an insert, which an application recorder
  must give; it runs on `WithoutPositions`. Snapshots use the package's own aggregate recorder.
- test_performance, of three cases, asserts nothing; benchmarks measure.
- TranscoderTestCase is of JSON, not of recorders; the package's transcoder is used as it is.
- Of the ``POSTGRES_`` settings, ``ENABLE_DB_FUNCTIONS`` and an ``ORIGINATOR_ID_TYPE`` of text are
  refused, which is tested here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from threading import Event, current_thread
from time import sleep
from typing import Any, Protocol, cast
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
    Tracking,
)
from eventsourcing.postgres import PostgresAggregateRecorder, PostgresDatastore, PostgresFactory
from eventsourcing.tests import persistence as package
from eventsourcing.utils import Environment
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier

from eventstore import Entry, NewEvent, Unit, Writer, prepare_database
from eventstore import recorder as recorders
from eventstore.recorder import (
    ORGANISATION_VARIABLE,
    LogProcessRecorder,
    LogRecorder,
    LogTrackingRecorder,
)

ORGANISATION = UUID("0f8c0e0b-3a46-4a3c-9b5c-7a4f6a1d2c11")


class WithoutPositions(LogRecorder):
    """As the package's aggregate recorders answer: without positions."""

    def insert_events(self, stored_events: Any, **kwargs: Any) -> None:
        super().insert_events(stored_events, **kwargs)


class OnPostgres(Protocol):
    """What has a datastore."""

    datastore: PostgresDatastore


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


@pytest.fixture
def process(database: str) -> Iterator[LogProcessRecorder]:
    """A process recorder over an empty log."""
    with empty_log(database) as opened:
        created = LogProcessRecorder(opened)
        created.create_table()
        yield created


@contextmanager
def empty_log(database: str) -> Iterator[PostgresDatastore]:
    prepare_database(database)
    with psycopg.connect(database) as connection:
        connection.execute("TRUNCATE events, commands")
        connection.execute("UPDATE log_head SET position = 0")
        connection.execute("DROP TABLE IF EXISTS notification_tracking")
    with datastore(database) as opened:
        yield opened


class OnTheLog:
    """Gives a test case of the package a datastore with an empty log."""

    datastore: PostgresDatastore

    @pytest.fixture(autouse=True)
    def _open(self, database: str) -> Iterator[None]:
        with empty_log(database) as opened:
            self.datastore = opened
            yield

    def create_recorder(self) -> LogRecorder:
        recorder = LogRecorder(self.datastore)
        recorder.create_table()
        return recorder


class TestApplicationRecorder(OnTheLog, package.ApplicationRecorderTestCase[LogRecorder]):
    test_performance = None  # type: ignore[assignment]

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestProcessRecorderOfAnApplication(TestApplicationRecorder):
    def create_recorder(self) -> LogRecorder:
        recorder = LogProcessRecorder(self.datastore)
        recorder.create_table()
        return recorder


class TestNonInterleaving(OnTheLog, package.NonInterleavingNotificationIDsBaseCase):
    insert_num = 1000


class TestAggregateRecorder(OnTheLog, package.AggregateRecorderTestCase):
    test_performance = None  # type: ignore[assignment]

    def create_recorder(self) -> LogRecorder:
        return WithoutPositions(self.datastore)


class TestTrackingRecorder(OnTheLog, package.TrackingRecorderTestCase):
    def create_recorder(self) -> LogTrackingRecorder:  # type: ignore[override]
        recorder = LogTrackingRecorder(self.datastore)
        recorder.create_table()
        return recorder


class TestProcessRecorder(OnTheLog, package.ProcessRecorderTestCase):
    test_performance = None  # type: ignore[assignment]

    def create_recorder(self) -> LogProcessRecorder:
        recorder = LogProcessRecorder(self.datastore)
        recorder.create_table()
        return recorder


class View(LogTrackingRecorder):
    """A view of somebody's."""


class TestFactory(package.InfrastructureFactoryTestCase[PostgresFactory]):
    @pytest.fixture(autouse=True)
    def _named(self, database: str) -> None:
        prepare_database(database)
        self.env = Environment("Parcels", environment(database))

    def expected_factory_class(self) -> type[PostgresFactory]:
        return PostgresFactory

    def expected_aggregate_recorder_class(self) -> type[PostgresAggregateRecorder]:
        return PostgresAggregateRecorder  # snapshots

    def expected_application_recorder_class(self) -> type[LogRecorder]:
        return LogRecorder

    def expected_tracking_recorder_class(self) -> type[LogTrackingRecorder]:
        return LogTrackingRecorder

    def tracking_recorder_subclass(self) -> type[View]:
        return View

    def expected_process_recorder_class(self) -> type[LogProcessRecorder]:
        return LogProcessRecorder


class Parcel(Aggregate):
    def __init__(self) -> None:
        self.seen: list[str] = []

    @event("Seen")
    def see(self, place: str) -> None:
        self.seen.append(place)


class Parcels(Application[UUID]):
    snapshotting_intervals = {Parcel: 4}  # noqa: RUF012 (as the package types it)


def environment(url: str, **settings: str) -> dict[str, str]:
    """What an application of the package needs to be told in order to run on our log."""
    parts = conninfo_to_dict(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "APPLICATION_RECORDER_TOPIC": "eventstore.recorder:LogRecorder",
        "PROCESS_RECORDER_TOPIC": "eventstore.recorder:LogProcessRecorder",
        "TRACKING_RECORDER_TOPIC": "eventstore.recorder:LogTrackingRecorder",
        "POSTGRES_DBNAME": str(parts["dbname"]),
        "POSTGRES_HOST": str(parts["host"]),
        "POSTGRES_PORT": str(parts["port"]),
        "POSTGRES_USER": str(parts["user"]),
        "POSTGRES_PASSWORD": str(parts["password"]),
        **settings,
    }


def application(url: str, **settings: str) -> Application[UUID]:
    return Application(env=environment(url, **settings))


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
    assert rows == [(ORGANISATION, "eventsourcing/application")]
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


def lose_an_acknowledgement(
    recorder: OnPostgres, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object] = int
) -> list[bool]:
    """Break the recorder's next connection behind its commit; filled once that has happened."""
    connect = recorder.datastore.get_connection
    lost: list[bool] = []

    @contextmanager
    def losing() -> Iterator[Connection[DictRow]]:
        with connect() as connection:
            yield connection
        if not lost:
            lost.append(True)
            meanwhile()
            raise OperationalError("connection lost after the commit")

    monkeypatch.setattr(recorder.datastore, "get_connection", losing)
    return lost


def test_a_lost_acknowledgement_is_not_a_conflict(
    recorder: LogRecorder, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_an_acknowledgement(recorder, monkeypatch)
    assert recorder.insert_events(_stored(uuid4(), 3)) == [1, 2, 3]
    assert lost
    assert _positions(database) == [1, 2, 3]


@pytest.mark.parametrize("count", [0, 3], ids=["no events", "events"])
def test_a_process_recorder_may_lose_an_acknowledgement_too(
    process: LogProcessRecorder, database: str, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    lost = lose_an_acknowledgement(process, monkeypatch)
    given = process.insert_events(_stored(uuid4(), count), tracking=Tracking("upstream", 7))
    assert lost
    assert given == ([1, 2, 3] if count else None)
    assert _positions(database) == [1, 2, 3][:count]
    assert process.max_tracking_id("upstream") == 7


def test_a_tracking_recorder_may_lose_an_acknowledgement_too(
    process: LogProcessRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = LogTrackingRecorder(process.datastore)
    lost = lose_an_acknowledgement(tracking, monkeypatch)
    tracking.insert_tracking(Tracking("upstream", 7))
    assert lost
    assert tracking.max_tracking_id("upstream") == 7


@pytest.mark.parametrize(("count", "reached"), [(0, 8), (3, 7)], ids=["no events", "events"])
def test_what_somebody_else_stored_meanwhile_is_a_conflict(
    process: LogProcessRecorder,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    reached: int,
) -> None:
    """The connection broke, but it is not our own attempt that the next one meets."""

    def other() -> None:
        with psycopg.connect(database) as connection:
            connection.execute("UPDATE notification_tracking SET notification_id = %s", (reached,))
            connection.execute("UPDATE events SET event_id = gen_random_uuid()")

    process.insert_events([], tracking=Tracking("upstream", 6))
    lost = lose_an_acknowledgement(process, monkeypatch, other)
    with pytest.raises(IntegrityError):
        process.insert_events(_stored(uuid4(), count), tracking=Tracking("upstream", 7))
    assert lost


def test_events_and_tracking_are_stored_together_or_not_at_all(
    process: LogProcessRecorder, database: str
) -> None:
    stream = uuid4()
    process.insert_events(_stored(stream, 1), tracking=Tracking("upstream", 1))
    for events, position in ((_stored(stream, 1), 2), (_stored(uuid4(), 1), 1)):
        with pytest.raises(IntegrityError):
            process.insert_events(events, tracking=Tracking("upstream", position))
    assert process.max_tracking_id("upstream") == 1
    assert _positions(database) == [1]


def test_tables_are_made_by_several_at_once(server_url: str, database: str) -> None:
    """The package's own fail on one another."""
    schema = f"apart_{uuid4().hex[:8]}"
    with psycopg.connect(database) as connection:
        connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))
    with datastore(database, schema=schema) as opened:
        made = [LogProcessRecorder(opened) for _ in range(8)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(LogProcessRecorder.create_table, made))
        made[0].insert_events(_stored(uuid4(), 1), tracking=Tracking("upstream", 1))
        again = LogProcessRecorder(opened)
        again.create_table()
        assert again.max_tracking_id("upstream") == 1


def test_an_application_starts_while_others_write(recorder: LogRecorder, database: str) -> None:
    """Defining tables would wait for this transaction, and make the ones behind it wait."""
    with psycopg.connect(database) as open_one:
        open_one.execute("SELECT FROM log_head FOR UPDATE")
        open_one.execute("LOCK TABLE events IN ROW EXCLUSIVE MODE")
        with recorder.datastore.transaction(commit=True) as cursor:
            cursor.execute("SET LOCAL lock_timeout = '2s'")
            recorder._create_table(cursor)


def test_snapshots_are_taken_and_used(recorder: LogRecorder, database: str) -> None:
    with Parcels(env=environment(database, IS_SNAPSHOTTING_ENABLED="yes")) as parcels:
        parcel = Parcel()
        for place in ("Lisbon", "Porto", "Braga"):
            parcel.see(place)
        parcels.save(parcel)
        assert parcels.snapshots is not None
        [snapshot] = parcels.snapshots.get(parcel.id)
        assert snapshot.originator_version == 4
        parcel.see("Faro")
        parcels.save(parcel)
        with psycopg.connect(database) as connection:
            # What the snapshot covers is not read again: nobody notices that it is gone.
            connection.execute(
                "UPDATE events SET topic = 'gone' WHERE originator_version <= 4 AND actor = %s",
                ("eventsourcing/parcels",),
            )
        loaded = cast(Parcel, parcels.repository.get(parcel.id))
        assert loaded.seen == ["Lisbon", "Porto", "Braga", "Faro"]


def test_an_application_is_shown_its_own_events(recorder: LogRecorder, database: str) -> None:
    other = LogRecorder(recorder.datastore, events_table_name="other_events")
    recorder.insert_events(_stored(uuid4(), 2))
    other.insert_events(_stored(uuid4(), 1))
    asyncio.run(_append(database, units=1))
    recorder.insert_events(_stored(uuid4(), 1))

    def ids(shown: LogRecorder, *topics: str, **bounds: Any) -> list[int]:
        found = shown.select_notifications(1, 10, topics=topics, **bounds)
        return [notification.id for notification in found]

    assert ids(recorder) == [1, 2, 5]
    assert ids(other) == [3]
    assert ids(other, "test.Noted.v1") == [4]
    assert ids(other, "test.Noted.v1", "topic") == [1, 2, 3, 4, 5]
    assert ids(recorder, stop=4, inclusive_of_start=False) == [2]


def test_a_subscription_sees_what_was_committed_before_it_listened(
    recorder: LogRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package's own waits for ever here (the test's time limit would say so)."""
    look, connect = recorder.max_notification_id, recorder.datastore.get_connection
    stream = uuid4()
    committed = Event()

    def committing_after_the_first_look() -> int | None:
        found: int | None = look()
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

    monkeypatch.setattr(recorders, "_POLL_S", 3600.0)
    monkeypatch.setattr(recorder, "max_notification_id", committing_after_the_first_look)
    monkeypatch.setattr(recorder.datastore, "get_connection", listening_late)
    with recorder.subscribe() as subscription:
        assert next(subscription).originator_id == stream


def test_a_subscription_polls_besides(
    recorder: LogRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = uuid4()
    monkeypatch.setattr(recorder, "_notify_channel", lambda cursor: None)
    with recorder.subscribe() as subscription:
        for version in (1, 2):
            recorder.insert_events(_stored(stream, 1, first=version))
            assert next(subscription).originator_version == version


def test_a_subscription_hands_out_more_than_one_look_brings(recorder: LogRecorder) -> None:
    """The package looks at 500 events at once."""
    recorder.insert_events(_stored(uuid4(), 1200))
    with recorder.subscribe() as subscription:
        assert [next(subscription).id for _ in range(1200)] == list(range(1, 1201))


def test_a_subscription_survives_the_end_of_its_connections(
    recorder: LogRecorder, database: str
) -> None:
    stream = uuid4()
    with recorder.subscribe() as subscription:
        for version in range(1, 4):
            recorder.insert_events(_stored(stream, 1, first=version))
            assert next(subscription).originator_version == version
            with psycopg.connect(database) as connection:
                connection.execute(
                    """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
                )


def test_a_subscription_ends_with_its_datastore(recorder: LogRecorder) -> None:
    """It does not try for ever to reach what was closed."""
    with pytest.raises(OperationalError), recorder.subscribe() as subscription:  # noqa: PT012
        recorder.insert_events(_stored(uuid4(), 1))
        next(subscription)
        recorder.datastore.close()
        next(subscription)


def test_a_subscription_passes_over_what_does_not_match(
    recorder: LogRecorder, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look is bounded, and none is repeated from before what was looked at."""
    monkeypatch.setattr(recorders, "_WINDOW", 50)
    select = recorder.select_notifications
    looks: list[tuple[int, int]] = []

    def noting(start: int, limit: int, stop: int, *more: Any, **options: Any) -> Any:
        looks.append((start, stop))
        return select(start, limit, stop, *more, **options)

    monkeypatch.setattr(recorder, "select_notifications", noting)
    asyncio.run(_append(database, units=4, events=40))
    recorder.insert_events(_stored(uuid4(), 1))
    with recorder.subscribe(gt=3) as subscription:
        assert next(subscription).id == 161
        asyncio.run(_append(database, units=1))
        recorder.insert_events(_stored(uuid4(), 1))
        assert next(subscription).id == 163
        for _ in range(100):  # a poll behind the last event looks at nothing
            sleep(0.01)
    assert looks[:4] == [(3, 53), (53, 103), (103, 153), (153, 161)]
    assert all(before[1] == after[0] for before, after in pairwise(looks))
    assert looks[-1][1] == 163


def test_functions_of_the_package_are_refused(recorder: LogRecorder, database: str) -> None:
    with (
        datastore(database, enable_db_functions=True) as unordered,
        pytest.raises(NotSupportedError, match="POSTGRES_ENABLE_DB_FUNCTIONS"),
    ):
        LogRecorder(unordered)
    with (
        datastore(database, enable_db_functions=True) as unordered,
        pytest.raises(NotSupportedError, match="POSTGRES_ENABLE_DB_FUNCTIONS"),
    ):
        LogProcessRecorder(unordered)
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
