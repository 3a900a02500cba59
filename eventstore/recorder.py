"""The log as a recorder of the `eventsourcing` package: its applications run on our one table.

Selected beside the package's own ``PERSISTENCE_MODULE=eventsourcing.postgres`` and ``POSTGRES_*``
variables, each by its topic:

- ``APPLICATION_RECORDER_TOPIC=eventstore.recorder:LogRecorder``
- ``PROCESS_RECORDER_TOPIC=eventstore.recorder:LogProcessRecorder``
- ``TRACKING_RECORDER_TOPIC=eventstore.recorder:LogTrackingRecorder`` (or a view's base class)

Snapshots stay in the package's own table. ``CHAINLYTICS_ORGANISATION_ID`` says whose the events
are; without it, the nil organisation's.

The log holds other applications' events and our own commands' besides. An application is shown its
own, as if it had a table to itself: a topic that the package cannot resolve would end a projection
with TopicError. With ``topics``, it is shown the events of these topics, whoever stored them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import monotonic, sleep
from typing import Any
from uuid import UUID, uuid4

import psycopg
from eventsourcing.persistence import (
    ApplicationRecorder,
    IntegrityError,
    InterfaceError,
    Notification,
    NotSupportedError,
    OperationalError,
    ShutDown,
    StoredEvent,
    Subscription,
    Tracking,
)
from eventsourcing.postgres import (
    PostgresApplicationRecorder,
    PostgresDatastore,
    PostgresProcessRecorder,
    PostgresSubscription,
    PostgresTrackingRecorder,
)
from eventsourcing.utils import retry
from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier

from eventstore.archive.cold import ATTEMPTS, Cold, dropped_of_stream, dropped_segments
from eventstore.archive.object_store import ArchiveDamaged
from eventstore.schema import create_tables

ORGANISATION_VARIABLE = "CHAINLYTICS_ORGANISATION_ID"
ACTOR = "eventsourcing"
_TABLE = "events"  # its name is also the channel's
_CONNECTION_ERRORS = (InterfaceError, OperationalError)
_WINDOW = 10_000  # positions that a subscription looks at in one statement
_POLL_S = 1.0
_PAUSE_S = 0.5  # before a lost connection is made again
_BEGIN, _END = -1, 2**63 - 1

_LOCK_HEAD = SQL("SELECT position FROM {schema}.log_head FOR UPDATE")

# A statement of its own behind the lock: it must see what was committed while the lock was waited
# for, which the snapshot of a statement that had waited itself would not show. A version that the
# stream has passed is refused as none, for its row may be dropped: the primary key would take it.
_INSERT = SQL("""
WITH given AS (
    UPDATE {schema}.log_head
    SET position = position + %(count)s, recorded_at = greatest(recorded_at, clock_timestamp())
    RETURNING position - %(count)s AS head, recorded_at
)
INSERT INTO {schema}.events (originator_id, originator_version, topic, state, notification_id,
                             event_id, organisation_id, recorded_at, correlation_id, actor)
SELECT e.stream,
       CASE WHEN e.version >= coalesce((SELECT max(originator_version) FROM {schema}.events
                                        WHERE originator_id = e.stream), e.version)
            THEN e.version END,
       e.topic, e.state, given.head + e.n,
       e.id, %(organisation)s, given.recorded_at, %(correlation)s, %(actor)s
FROM given, unnest(%(streams)s::uuid[], %(versions)s::bigint[], %(topics)s::text[],
                   %(states)s::bytea[], %(ids)s::uuid[])
            WITH ORDINALITY AS e (stream, version, topic, state, id, n)
ORDER BY e.n
RETURNING notification_id""")

_FIRST_POSITION = SQL("""
SELECT notification_id AS position FROM {schema}.events
WHERE originator_id = %s AND originator_version = %s AND event_id = %s""")

# One row at least: whether a part is dropped, in the snapshot of the events.
_NOTIFICATIONS = SQL("""
SELECT dropped.so, found.* FROM (
    SELECT EXISTS (SELECT FROM {schema}.segments WHERE dropped_at IS NOT NULL
        AND last_position >= %(first)s AND first_position <= %(last)s) AS so
) AS dropped LEFT JOIN LATERAL (
    SELECT notification_id AS id, originator_id, originator_version, topic, state
    FROM {schema}.events
    WHERE notification_id BETWEEN %(first)s AND %(last)s AND {which} AND NOT dropped.so
    ORDER BY notification_id LIMIT %(limit)s
) AS found ON true ORDER BY id""")


class LogRecorder(PostgresApplicationRecorder):
    """Stores an application's events in the log, in one gapless sequence with everybody else's.

    Args:
        datastore: the package's connection pool and settings.
        events_table_name: tells the application; all of them share the table ``events``.

    Raises:
        NotSupportedError: the settings ask for what would break the log's promises.
    """

    def __init__(
        self, datastore: PostgresDatastore, *, events_table_name: str = "stored_events"
    ) -> None:
        if datastore.enable_db_functions:
            raise NotSupportedError(
                "POSTGRES_ENABLE_DB_FUNCTIONS must be off: the package's insert function takes no "
                "lock, so positions would be committed out of order and readers would miss events"
            )
        if datastore.originator_id_type != "uuid":
            raise NotSupportedError("ORIGINATOR_ID_TYPE must be uuid: the log names streams so")
        super().__init__(datastore, events_table_name=_TABLE)
        schema = Identifier(datastore.schema)
        self.sql_create_statements.clear()  # the tables are made by our own schema
        self._actor = f"{ACTOR}/{events_table_name.removesuffix('_events')}"
        self._cold = Cold()
        self._organisation = UUID(os.environ.get(ORGANISATION_VARIABLE) or str(UUID(int=0)))
        # One row is locked, not the table. It is held to the end of the commit, so positions are
        # committed in their order and without a gap; and it leaves VACUUM, ANALYZE and CREATE
        # INDEX CONCURRENTLY alone, which LOCK TABLE .. IN EXCLUSIVE MODE collides with.
        # Test: test_recorder.py, recorders and the writer share one gapless sequence.
        self.lock_table_statements = [
            SQL("SET LOCAL lock_timeout = '{0}s'").format(datastore.lock_timeout),
            _LOCK_HEAD.format(schema=schema),
        ]
        self.insert_events_statement = _INSERT.format(schema=schema)
        self._select_first_position = _FIRST_POSITION.format(schema=schema)
        self._select_own = _NOTIFICATIONS.format(schema=schema, which=SQL("actor = %(actor)s"))
        self._select_topics = _NOTIFICATIONS.format(
            schema=schema, which=SQL("topic = ANY(%(topics)s)")
        )

    def _create_table(self, curs: psycopg.Cursor[DictRow]) -> None:
        """Create the log's tables in the datastore's schema, where there is no log yet.

        A log that is there is not touched: applications start at any time, and statements that
        define tables would meet the locks of those who write. `prepare_database` completes it.
        """
        if not _is_there(curs, self.datastore.schema, _TABLE):
            schema = Identifier(self.datastore.schema)
            curs.execute(SQL("SET LOCAL search_path TO {}").format(schema))
            create_tables(curs)
        super()._create_table(curs)

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Append events; their positions.

        Raises:
            IntegrityError: a stream has an event of that version already.
        """
        ids = [uuid4() for _ in stored_events]
        positions: Sequence[int] | None
        try:
            positions = super().insert_events(stored_events, event_ids=ids, **kwargs)
        except IntegrityError:
            # The package sends again when a connection breaks, also when only the acknowledgement
            # was lost: the conflict is then with our own events, which the ids tell.
            first = self._position_of(stored_events[0], ids[0]) if ids else None
            if first is None:
                raise
            positions = range(first, first + len(ids))
        return positions and list(positions)

    def _position_of(self, event: StoredEvent, event_id: UUID) -> int | None:
        with self.datastore.cursor() as cursor:
            cursor.execute(
                self._select_first_position,
                (event.originator_id, event.originator_version, event_id),
            )
            row = cursor.fetchone()
        return None if row is None else int(row["position"])

    def _insert_stored_events(
        self,
        curs: psycopg.Cursor[DictRow],
        stored_events: Sequence[StoredEvent],
        *,
        event_ids: Sequence[UUID] = (),
        **_: Any,
    ) -> None:
        self._lock_table(curs)
        self._notify_channel(curs)
        curs.execute(
            self.insert_events_statement,
            {
                "count": len(stored_events),
                "organisation": self._organisation,
                "correlation": uuid4(),
                "actor": self._actor,
                "streams": [event.originator_id for event in stored_events],
                "versions": [event.originator_version for event in stored_events],
                "topics": [event.topic for event in stored_events],
                "states": [event.state for event in stored_events],
                "ids": list(event_ids),
            },
            binary=True,
        )

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Events of a stream, wherever they are; as the package asks for them."""
        found: Sequence[StoredEvent]
        found = super().select_events(originator_id, gt=gt, lte=lte, desc=desc, limit=limit)
        if _whole(found, gt, lte, desc, limit):
            return found
        seen = _BEGIN if gt is None else gt
        for _ in range(ATTEMPTS):
            # To its end, for the newest event of a stream is never dropped: what is missing shows.
            hot = super().select_events(originator_id, gt=gt)
            with self.datastore.get_connection() as connection:
                cold = dropped_of_stream(
                    connection, UUID(str(originator_id)), seen, self.datastore.schema
                )
            events = {
                one.version: StoredEvent(one.stream_id, one.version, one.topic, one.state)
                for one in cold
            }
            for event in hot:
                version = event.originator_version
                if events.setdefault(version, event) != event:
                    raise ArchiveDamaged(
                        f"version {version} of stream {originator_id} is another event in Postgres "
                        "than in the archive"
                    )
            versions = sorted(events)
            # What was put back between the two statements is in neither answer.
            if not versions or _gapless(versions, seen):
                versions = [one for one in versions if lte is None or one <= lte]
                return [events[one] for one in (versions[::-1] if desc else versions)[:limit]]
        raise OperationalError(f"stream {originator_id} has a hole")

    @retry(_CONNECTION_ERRORS, max_attempts=10, wait=0.2)
    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """The application's own events, or those of ``topics``, in log order."""
        first = (start or 0) + (start is not None and not inclusive_of_start)
        last = _END if stop is None else stop
        until = last  # up to where Postgres is asked
        found: list[Notification] = []
        while first <= last and len(found) < limit:
            room = limit - len(found)
            some = self._notifications(first, until, room, topics)
            if some is not None:
                found += some
                first, until = until + 1, last
                continue
            with self.datastore.get_connection() as connection:
                dropped = dropped_segments(connection, first - 1, last, self.datastore.schema)
            if dropped and dropped[0].segment.first <= first:
                found += [
                    Notification(
                        originator_id=event.stream_id,
                        originator_version=event.version,
                        topic=event.topic,
                        state=event.state,
                        id=event.position,
                    )
                    for event in self._cold.events(
                        dropped[0],
                        first - 1,
                        last,
                        room,
                        topics=topics or None,
                        actor=None if topics else self._actor,
                    )
                ]
                first, until = dropped[0].segment.last + 1, last
            else:  # nothing any more: it was put back
                until = dropped[0].segment.first - 1 if dropped else last
        return found

    def _notifications(
        self, first: int, last: int, limit: int, topics: Sequence[str]
    ) -> list[Notification] | None:
        """What Postgres has of a range; None: a part of it is dropped."""
        with self.datastore.cursor() as cursor:
            # Planned each time: a plan made while the log was short would read it all later on.
            cursor.execute(
                self._select_topics if topics else self._select_own,
                {
                    "first": first,
                    "last": last,
                    "limit": limit,
                    "actor": self._actor,
                    "topics": list(topics),
                },
                prepare=False,
                binary=True,
            )
            rows = cursor.fetchall()
        if rows[0]["so"]:
            return None
        return [
            Notification(**{name: value for name, value in row.items() if name != "so"})
            for row in rows
            if row["id"] is not None
        ]

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Follow the application's own events, or those of ``topics``, behind a position."""
        return LogSubscription(recorder=self, gt=gt, topics=topics)


class LogTrackingRecorder(PostgresTrackingRecorder):
    """Remembers how far a view is: the package's, safe to send again and to create at once."""

    def insert_tracking(self, tracking: Tracking) -> None:
        """Remember a position.

        Raises:
            IntegrityError: the view is there already, or further on.
        """
        attempts: list[Tracking] = []
        try:
            self._send_tracking(tracking, attempts)
        except IntegrityError:
            if not self._was_stored(tracking, attempts):
                raise

    @retry(_CONNECTION_ERRORS, max_attempts=10, wait=0.2)
    def _send_tracking(self, tracking: Tracking, attempts: list[Tracking]) -> None:
        attempts.append(tracking)
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)

    def _was_stored(self, tracking: Tracking | None, attempts: Sequence[object]) -> bool:
        """Whether a conflict is with our own earlier attempt, whose acknowledgement was lost."""
        if tracking is None or len(attempts) < 2:
            return False
        known: int | None = self.max_tracking_id(tracking.application_name)
        return known == tracking.notification_id

    def _create_table(self, curs: psycopg.Cursor[DictRow]) -> None:
        # The package has looked without a lock: two that start at once would both make the table.
        # Test: test_recorder.py, tables are made by several at once.
        if _is_there(curs, self.datastore.schema, self.tracking_table_name):
            self.tracking_table_exists = True
            known = self._max_tracking_id(self.table_migration_identifier, curs)
            self.tracking_migration_previous = self.tracking_migration_current = known
        super()._create_table(curs)


def _whole(
    found: Sequence[StoredEvent],
    gt: int | None,
    lte: int | None,
    desc: bool,
    limit: int | None,
) -> bool:
    """Whether what Postgres gave is surely all that was asked for of a stream: no gaps, from where
    it was to begin, to where it was to end."""
    versions = [event.originator_version for event in found]
    if desc:
        versions.reverse()
    if not versions or not _consecutive(versions):
        return False
    full = limit is not None and len(versions) == limit
    begins = versions[0] <= (1 if gt is None else gt + 1) or (desc and full)
    # The newest event of a stream is never dropped.
    ends = lte is None or versions[-1] == lte or (full and not desc)
    return begins and ends


def _consecutive(versions: Sequence[int]) -> bool:
    return versions[-1] - versions[0] + 1 == len(versions)


def _gapless(versions: Sequence[int], seen: int) -> bool:
    """Whether these can be all versions of a stream behind one."""
    return versions[0] <= max(seen, 0) + 1 and _consecutive(versions)


def _is_there(cursor: psycopg.Cursor[DictRow], schema: str, table: str) -> bool:
    """Whether there is a table; whoever asks next waits until this transaction has ended."""
    cursor.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"recorder {schema}.{table}",)
    )
    cursor.execute(
        "SELECT FROM pg_tables WHERE schemaname = %s AND tablename = %s", (schema, table)
    )
    return cursor.fetchone() is not None


class LogProcessRecorder(LogTrackingRecorder, PostgresProcessRecorder, LogRecorder):
    """Stores events in the log and the position that they follow from, in one transaction."""

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """As LogRecorder's, with ``tracking`` beside the events; there may be none of them.

        Raises:
            IntegrityError: a stream has an event of that version, or ``tracking`` is not new.
        """
        attempts: list[object] = []
        try:
            return super().insert_events(stored_events, attempts=attempts, **kwargs)
        except IntegrityError:
            # Events tell by their ids whether they were stored; without any, the position tells.
            if stored_events or not self._was_stored(kwargs.get("tracking"), attempts):
                raise
            return None

    def _insert_events(
        self,
        curs: psycopg.Cursor[DictRow],
        stored_events: Sequence[StoredEvent],
        **kwargs: Any,
    ) -> None:
        kwargs["attempts"].append(curs)
        super()._insert_events(curs, stored_events, **kwargs)


class LogSubscription(PostgresSubscription):
    """The package's subscription without its blind spots.

    The package reads first and listens then: an event committed between the two is seen only with
    the next one, and nothing polls. Here, what came in before LISTEN took effect is read right
    after it. A lost connection is made anew, and a pull is bounded: it goes on behind positions
    that do not match instead of reading them again and again.
    """

    def _listen(self) -> None:
        try:
            while not self._has_been_stopped:
                try:
                    self._ring()
                except _CONNECTION_ERRORS as error:
                    self._pause_after(error)
        except BaseException as error:
            if self._thread_error is None:
                self._thread_error = error
            self.stop()

    def _ring(self) -> None:
        with self._recorder.datastore.get_connection() as connection:
            connection.execute(SQL("LISTEN {}").format(Identifier(_TABLE)))
            due = monotonic()
            while not self._has_been_stopped and not self._thread_error:
                if monotonic() >= due:
                    self._has_been_notified.set()
                    due = monotonic() + _POLL_S
                for _ in connection.notifies(timeout=0.1, stop_after=1):
                    self._has_been_notified.set()

    def _pull(self) -> None:
        more = True
        while more and not self._has_been_stopped:
            self._has_been_notified.clear()
            try:
                more = self._pull_window()
            except _CONNECTION_ERRORS as error:
                self._pause_after(error)
            except ShutDown:
                break

    def _pull_window(self) -> bool:
        """Queue what matches in the next window of positions; whether the log goes on behind it."""
        after = self._last_notification_id or 0
        # The head first: all up to it is committed, so that what does not match may be passed over.
        head = self._recorder.max_notification_id() or 0
        if head <= after:
            return False
        last = min(head, after + _WINDOW)
        found = self._recorder.select_notifications(
            after, self._select_limit, last, self._topics, inclusive_of_start=False
        )
        if found:
            self._notifications_queue.put(found)
        full = len(found) == self._select_limit
        self._last_notification_id = found[-1].id if full else last
        return self._last_notification_id < head

    def _pause_after(self, error: Exception) -> None:
        if self._recorder.datastore.pool.closed:  # by the application: no connection will come
            raise error
        sleep(_PAUSE_S)
