"""The log as a recorder of the `eventsourcing` package: its applications run on our one table.

Selected by ``APPLICATION_RECORDER_TOPIC=eventstore.recorder:LogRecorder`` beside the package's own
``PERSISTENCE_MODULE=eventsourcing.postgres`` and ``POSTGRES_*`` variables.
``CHAINLYTICS_ORGANISATION`` says whose the events are; without it, the nil organisation's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg
from eventsourcing.persistence import (
    ApplicationRecorder,
    IntegrityError,
    NotSupportedError,
    StoredEvent,
    Subscription,
)
from eventsourcing.postgres import (
    PostgresApplicationRecorder,
    PostgresDatastore,
    PostgresSubscription,
)
from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier

from eventstore.schema import create_tables

ORGANISATION_VARIABLE = "CHAINLYTICS_ORGANISATION_ID"
ACTOR = "eventsourcing"
_TABLE = "events"  # its name is also the channel's

_LOCK_HEAD = SQL("SELECT position FROM {schema}.log_head FOR UPDATE")

# A statement of its own behind the lock: it must see what was committed while the lock was waited
# for, which the snapshot of a statement that had waited itself would not show.
_INSERT = SQL("""
WITH given AS (
    UPDATE {schema}.log_head
    SET position = position + %(count)s, recorded_at = greatest(recorded_at, clock_timestamp())
    RETURNING position - %(count)s AS head, recorded_at
)
INSERT INTO {schema}.events (originator_id, originator_version, topic, state, notification_id,
                             event_id, organisation_id, recorded_at, correlation_id, actor)
SELECT e.stream, e.version, e.topic, e.state, given.head + e.n,
       e.id, %(organisation)s, given.recorded_at, %(correlation)s, %(actor)s
FROM given, unnest(%(streams)s::uuid[], %(versions)s::bigint[], %(topics)s::text[],
                   %(states)s::bytea[], %(ids)s::uuid[])
            WITH ORDINALITY AS e (stream, version, topic, state, id, n)
ORDER BY e.n
RETURNING notification_id""")

_FIRST_POSITION = SQL("""
SELECT notification_id AS position FROM {schema}.events
WHERE originator_id = %s AND originator_version = %s AND event_id = %s""")


class LogRecorder(PostgresApplicationRecorder):
    """Stores an application's events in the log, in one gapless sequence with everybody else's.

    Args:
        datastore: the package's connection pool and settings.
        events_table_name: not used: all applications share the table ``events``.

    Raises:
        NotSupportedError: the settings ask for what would break the log's promises.
    """

    def __init__(self, datastore: PostgresDatastore, *, events_table_name: str = _TABLE) -> None:
        if datastore.enable_db_functions:
            raise NotSupportedError(
                "POSTGRES_ENABLE_DB_FUNCTIONS must be off: the package's insert function takes no "
                "lock, so positions would be committed out of order and readers would miss events"
            )
        if datastore.originator_id_type != "uuid":
            raise NotSupportedError("ORIGINATOR_ID_TYPE must be uuid: the log names streams so")
        super().__init__(datastore, events_table_name=_TABLE)
        schema = Identifier(datastore.schema)
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

    def create_table(self) -> None:
        """Create or complete the log's tables, in the datastore's schema."""
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(
                SQL("SET LOCAL search_path TO {}").format(Identifier(self.datastore.schema))
            )
            create_tables(cursor)

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
            first = self._position_of(stored_events[0], ids[0])
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
                "actor": ACTOR,
                "streams": [event.originator_id for event in stored_events],
                "versions": [event.originator_version for event in stored_events],
                "topics": [event.topic for event in stored_events],
                "states": [event.state for event in stored_events],
                "ids": list(event_ids),
            },
            binary=True,
        )

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Follow the log from behind a position."""
        return LogSubscription(recorder=self, gt=gt, topics=topics)


class LogSubscription(PostgresSubscription):
    """The package's subscription without its blind spot.

    The package reads first and listens then: an event committed between the two is seen only with
    the next one. Here, what came in before LISTEN took effect is read right after it.
    """

    def _listen(self) -> None:
        try:
            with self._recorder.datastore.get_connection() as connection:
                connection.execute(SQL("LISTEN {}").format(Identifier(_TABLE)))
                self._has_been_notified.set()
                while not self._has_been_stopped and not self._thread_error:
                    for _ in connection.notifies(timeout=0.1, stop_after=1):
                        self._has_been_notified.set()
        except BaseException as error:
            if self._thread_error is None:
                self._thread_error = error
            self.stop()
