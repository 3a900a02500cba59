"""The `eventsourcing` package's ProjectionRunner, folding deliveries into the same table as ours.

It runs as it is meant to and at its best: its own recorder and log table, events as plain objects
with their texts as they stand in JSON, no dispatch but the package's own, one upsert an event in
the transaction that tracks it. (To send that as a pipeline made it slower.) ``OneStatement`` goes
past the package's own tracking method and is faster than its documentation knows how to be.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.persistence import Tracking, Transcoder
from eventsourcing.postgres import PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.utils import register_topic
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from pydantic_core import from_json, to_json

from benchmarks import deliveries
from benchmarks.peers.peer import own_database
from domain import catalogue
from domain.orders import OrderDelivered

#: Where its rows stand.
THEIRS = sql.Identifier("deliveries_view")
_TOPIC = catalogue.TOPICS[OrderDelivered]
_LOG = sql.Identifier("deliveries_events")
_VIEW = """CREATE TABLE IF NOT EXISTS deliveries_view (
    organisation_id   uuid        NOT NULL,
    site_id           text        NOT NULL,
    service_level     text        NOT NULL,
    delivered         bigint,
    late              bigint,
    transit_s         bigint,
    slowest_s         bigint,
    first_placed_at   timestamptz,
    last_order_id     text,
    last_delivered_at timestamptz,
    last_position     bigint,
    PRIMARY KEY (organisation_id, site_id, service_level)
) WITH (fillfactor = 80)"""
# Events come in log order, so that the newest is the last.
_ROW = """%s::uuid, %s, %s, 1, %s::bigint, %s::bigint, %s::bigint, %s::timestamptz, %s,
    %s::timestamptz, %s::bigint"""
_ON_CONFLICT = """ON CONFLICT (organisation_id, site_id, service_level) DO UPDATE SET
    delivered = v.delivered + 1,
    late = v.late + excluded.late,
    transit_s = v.transit_s + excluded.transit_s,
    slowest_s = greatest(v.slowest_s, excluded.slowest_s),
    first_placed_at = least(v.first_placed_at, excluded.first_placed_at),
    last_order_id = excluded.last_order_id,
    last_delivered_at = excluded.last_delivered_at,
    last_position = excluded.last_position"""
_UPSERT = f"INSERT INTO deliveries_view AS v VALUES ({_ROW}) {_ON_CONFLICT}"
_BOTH = f"""WITH tracked AS (
    INSERT INTO {{0}} VALUES (%s, %s)
    ON CONFLICT (application_name) DO UPDATE SET notification_id = excluded.notification_id
        WHERE {{0}}.notification_id < excluded.notification_id RETURNING 1)
INSERT INTO deliveries_view AS v SELECT {_ROW} FROM tracked {_ON_CONFLICT}"""
# The same events' content, as its own recorder keeps it.
_FILL = """INSERT INTO {} (originator_id, originator_version, topic, state, notification_id)
SELECT originator_id, originator_version, topic, state, notification_id
FROM events ORDER BY notification_id"""


@dataclass(frozen=True)
class Delivered:
    """The event as the package wants to see it; times are texts, which Postgres reads itself."""

    originator_id: UUID
    originator_version: int
    order_id: str
    site_id: str
    service_level: str
    placed_at: str
    delivered_at: str
    late: bool
    transit_s: int


class _Json(Transcoder):
    """JSON by pydantic's parser in Rust, the fastest that is here: events hold plain values."""

    def encode(self, obj: Any) -> bytes:
        return to_json(obj)

    def decode(self, data: bytes) -> Any:
        return from_json(data)


class Deliveries(Application[UUID]):
    """Keeps the events; its name names its table."""

    def construct_transcoder(self) -> Transcoder:
        """The fast one."""
        return _Json()


class View(PostgresTrackingRecorder):
    """The table, and how far it is. What lies behind ``until`` is left alone."""

    until: int

    def __init__(self, datastore: PostgresDatastore, **names: Any) -> None:
        super().__init__(datastore, **names)
        self.sql_create_statements.append(sql.SQL(_VIEW).format())
        self.reached = threading.Event()
        self.begun = self.ended = 0.0

    def fold(self, event: Delivered, tracking: Tracking) -> None:
        """Add one event to its row, exactly once."""
        if tracking.notification_id > self.until:
            return
        if not self.begun:
            self.begun = perf_counter()
        values = (
            deliveries.ORGANISATION,
            event.site_id,
            event.service_level,
            int(event.late),
            event.transit_s,
            event.transit_s,
            event.placed_at,
            event.order_id,
            event.delivered_at,
            tracking.notification_id,
        )
        self._write(values, tracking)
        if tracking.notification_id == self.until:
            self.ended = perf_counter()
            self.reached.set()

    def _write(self, values: tuple[Any, ...], tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(_UPSERT, values, prepare=True)


class OneStatement(View):
    """Row and tracking in one statement: one round trip where the package's own way takes four."""

    def __init__(self, datastore: PostgresDatastore, **names: Any) -> None:
        super().__init__(datastore, **names)
        self._both = sql.SQL(_BOTH).format(sql.Identifier(self.tracking_table_name))

    def _write(self, values: tuple[Any, ...], tracking: Tracking) -> None:
        tracked = (tracking.application_name, tracking.notification_id)
        with self.datastore.get_connection() as connection:
            connection.execute(self._both, (*tracked, *values), prepare=True)


class FoldDeliveries(Projection[View]):
    """Hands each event to the table."""

    topics = (_TOPIC,)

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Every other event would be a surprise."""
        raise AssertionError(f"nobody asked for {domain_event}")

    @process_event.register
    def delivered(self, domain_event: Delivered, tracking: Tracking) -> None:
        """One delivery."""
        self.view.fold(domain_event, tracking)


class Runner:
    """Folds a log stretch by stretch, each time as a runner that was started anew."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.position = 0
        server = conninfo_to_dict(url)
        self._environment = {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": str(server["dbname"]),
            "POSTGRES_HOST": str(server["host"]),
            "POSTGRES_PORT": str(server["port"]),
            "POSTGRES_USER": str(server["user"]),
            "POSTGRES_PASSWORD": str(server.get("password", "")),
        }
        register_topic(_TOPIC, Delivered)

    def create_log(self) -> None:
        """Let the package make its table, and put the events of our log beside into it."""
        Deliveries(env=self._environment).close()
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL(_FILL).format(_LOG))
            connection.execute(sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(_LOG))
            connection.execute("CHECKPOINT")

    def fold(self, events: int, view: type[View] = View) -> float:
        """Fold so many more events of the backlog; events a second.

        The clock runs from the first event that the projection is given to the commit of the last
        one: starting threads and connections, and reading what comes first, cost it nothing.
        """
        position = self.position + events
        stretch: type[View] = type("Stretch", (view,), {"until": position})
        with ProjectionRunner(
            application_class=Deliveries,
            projection_class=FoldDeliveries,
            view_class=stretch,
            env=self._environment,
        ) as running:
            while not running.view.reached.wait(0.5):
                running.run_forever(timeout=0)  # raises what ended its thread
        self.position = position
        return events / (running.view.ended - running.view.begun)


@contextmanager
def opened(url: str, source: str, events: int) -> Iterator[Runner]:
    """A runner on a database of its own, which holds the first events of a log, ours beside its."""
    with own_database(url, "projection-runner") as database:
        deliveries.copy_log(source, database, events)
        runner = Runner(database)
        runner.create_log()
        yield runner
