"""What probes ask of the database: whether it can be worked with, and which models decide. Over all
organisations, so nothing of it is shown but whether it is well."""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import psycopg

from domain.tasks import State
from eventstore.log import Connection
from projections.store import DIVERGED

# A schema that another version has changed is no reason: while servers are replaced one by one, old
# and new ones work on the same.
_DATABASE = """SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,
    to_regclass('log_head') IS NOT NULL AND to_regclass('projections') IS NOT NULL"""
_DIVERGED = f"SELECT p.name FROM projections p WHERE {DIVERGED} ORDER BY p.name"
_CHAMPIONS = """SELECT DISTINCT r.kind, r.model_hash, r.schema_hash
    FROM read_models.model_roles r JOIN read_models.model_list m
      ON m.organisation_id = r.organisation_id AND m.model_hash = r.model_hash
    WHERE r.role = 'champion' AND m.role = 'champion' AND m.retired IS NULL
      AND coalesce(m.stopped, '') = ''
    ORDER BY 1, 2 LIMIT 1000"""
# Open tasks are few, finished ones are many: the queue holds those alone.
_TASKS = """SELECT t.state, count(*),
        coalesce(extract(epoch FROM clock_timestamp() - min(t.requested_at)), 0)::float8
    FROM read_models.task_queue q JOIN read_models.task_list t
      ON t.organisation_id = q.organisation_id AND t.task_id = q.task_id
    WHERE q.requested_position IS NOT NULL GROUP BY t.state"""
_ALERTS = "SELECT count(*) FROM read_models.model_alerts WHERE open"


class DatabaseState(NamedTuple):
    """``latency_ms``: of one question and its answer. ``writable``: it is no standby. ``prepared``:
    the log's tables are there."""

    latency_ms: float
    writable: bool
    prepared: bool


class Champion(NamedTuple):
    """A model that decides requests of a kind, and the features that it was trained on."""

    kind: str
    model_hash: str
    schema_hash: str


class Deployed(NamedTuple):
    """Every champion, each once, and how many alerts on models are open."""

    champions: list[Champion]
    alerts: int


class TaskLag(NamedTuple):
    """How many tasks are open, by state, and how long the one that has waited longest has not been
    begun, in seconds."""

    open: dict[str, int]
    waiting_s: float


async def task_lag(connection: Connection) -> TaskLag:
    """How far tasks are behind; none while the read models are not made yet."""
    lag = TaskLag(dict.fromkeys((State.REQUESTED, State.RUNNING, State.CANCELLING), 0), 0.0)
    try:
        rows = await (await connection.execute(_TASKS)).fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        return lag
    found = {state: (count, seconds) for state, count, seconds in rows if state in lag.open}
    return TaskLag(
        {state: found.get(state, (0, 0.0))[0] for state in lag.open},
        max(found.get(State.REQUESTED, (0, 0.0))[1], 0.0),
    )


async def database_state(connection: Connection) -> DatabaseState:
    """How the database answers.

    Raises:
        psycopg.OperationalError: it does not.
    """
    began = perf_counter()
    row = await (await connection.execute(_DATABASE)).fetchone()
    latency_ms = (perf_counter() - began) * 1000
    assert row is not None
    return DatabaseState(round(latency_ms, 2), not row[0], bool(row[1]))


async def diverged(connection: Connection) -> list[str]:
    """The read models that were folded from a log that is no longer there."""
    # Planned each time: a plan made while the log was short would read all of it later on.
    cursor = await connection.execute(_DIVERGED, prepare=False)
    return [name for (name,) in await cursor.fetchall()]


async def deployed(connection: Connection) -> Deployed:
    """Which models decide; none while the read models are not made yet."""
    try:
        champions = await (await connection.execute(_CHAMPIONS)).fetchall()
        alerts = await (await connection.execute(_ALERTS)).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        return Deployed([], 0)
    assert alerts is not None
    return Deployed([Champion(*one) for one in champions], int(alerts[0]))
