"""What screens show: the day at a glance, and one decision with everything about it.

One screen is at most three queries of read models. A part that the caller may not ask for by itself
is not asked for here either.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date, datetime
from functools import cache
from typing import Any, NamedTuple

from pydantic import Field

from domain.decisions import STREAM
from domain.work import Kind
from readmodels.database import ReadModels, Row

#: Rows of a list on a screen.
SHOWN = 10
#: Lines of a decision's timeline.
MOST_LINES = 500


class Part(NamedTuple):
    """A part of the day's screen: the query whose right it takes, what it reads, and how."""

    permission: str
    table: str
    sql: str


_OWN = "organisation_id = %(organisation_id)s"
_OF_DAY = "placed_at >= %(today)s::date AND placed_at < %(today)s::date + 1"

PARTS: Mapping[str, Part] = {
    "orders": Part(
        "orders.list",
        "order_summary",
        f"""SELECT coalesce(jsonb_object_agg(status, n), '{{}}') FROM (
            SELECT status, count(*) AS n FROM read_models.order_summary
            WHERE {_OWN} AND {_OF_DAY} GROUP BY status) counted""",
    ),
    "alerts": Part(
        "alerts.list",
        "alert_list",
        f"""SELECT coalesce(jsonb_object_agg(severity, n), '{{}}') FROM (
            SELECT severity, count(*) AS n FROM read_models.alert_list
            WHERE {_OWN} AND state = 'open' GROUP BY severity) counted""",
    ),
    "decisions": Part(
        "decisions.list",
        "decision_list",
        f"""SELECT jsonb_build_object('count',
                (SELECT count(*) FROM read_models.decision_list
                 WHERE {_OWN} AND stage = 'referred'),
            'first', (SELECT coalesce(jsonb_agg(waiting), '[]') FROM (
                SELECT decision_id, kind, subject_id, requested_at, priority, summary,
                    approvals_left FROM read_models.decision_list
                WHERE {_OWN} AND stage = 'referred'
                ORDER BY requested_at, decision_id LIMIT {SHOWN}) waiting))""",
    ),
    "tours": Part(
        "tours.list",
        "tour_list",
        f"""SELECT jsonb_build_object('by_status',
            (SELECT coalesce(jsonb_object_agg(status, n), '{{}}') FROM (
                SELECT status, count(*) AS n FROM read_models.tour_list
                WHERE {_OWN} AND day = %(today)s::date GROUP BY status) counted),
            'first', (SELECT coalesce(jsonb_agg(tour), '[]') FROM (
                SELECT tour_id, site_id, vehicle_id, status, stops, completed_stops, failed_stops,
                    delay_s, planned_starts_at, planned_ends_at FROM read_models.tour_list
                WHERE {_OWN} AND day = %(today)s::date
                ORDER BY planned_starts_at, tour_id LIMIT {SHOWN}) tour))""",
    ),
}

_DECISION = f"""SELECT d.decision_id, d.version, d.requested, d.made, d.explained, d.referred,
        d.failed, d.confirmed, d.overridden, d.contested, d.kept, d.outcome, l.stage,
        l.approvals_left, coalesce(m.registered->'training'->'features', '[]') AS features,
        d.last_position
    FROM read_models.decision_detail d
        JOIN read_models.decision_list l USING (organisation_id, decision_id)
        LEFT JOIN read_models.model_list m ON m.organisation_id = d.organisation_id
            AND m.model_hash = d.made->>'model_hash'
    WHERE d.{_OWN} AND d.decision_id = %(decision_id)s"""

_LINES = f"""SELECT position, what, sentence, recorded_at, actor FROM read_models.audit_trail
    WHERE {_OWN} AND stream_id = %(stream_id)s ORDER BY position LIMIT {MOST_LINES}"""

_SIMULATION = f"""SELECT task_id AS simulation_id, version,
        requested->'simulation'->>'scenario_id' AS scenario_id, state, requested_by, requested_at,
        done, total, step, finished_at, CASE WHEN state = 'completed' THEN ended->>'artifact' END
        AS artifact, CASE WHEN state <> 'completed' THEN ended->>'code' END AS code,
        CASE WHEN state <> 'completed' THEN ended->>'reason' END AS reason, last_position
    FROM read_models.task_list
    WHERE {_OWN} AND task_id = %(simulation_id)s AND kind = '{Kind.SIMULATION.value}'"""

#: Read models that a decision's screen is made of.
DECISION_TABLES = ("decision_detail", "decision_list", "model_list", "audit_trail")


class Waiting(Row):
    """A decision that waits for people."""

    decision_id: str
    kind: str
    subject_id: str
    requested_at: datetime
    priority: int
    summary: str | None
    approvals_left: int | None


class WaitingDecisions(Row):
    """How many decisions wait for people, and those that have waited longest."""

    count: int
    first: tuple[Waiting, ...]


class TourToday(Row):
    """A tour of the day, as planned and as far as it is."""

    tour_id: str
    site_id: str
    vehicle_id: str
    status: str
    stops: int
    completed_stops: int
    failed_stops: int
    delay_s: int | None
    planned_starts_at: datetime
    planned_ends_at: datetime


class Tours(Row):
    """The tours of the day by their status, and the first of them."""

    by_status: dict[str, int]
    first: tuple[TourToday, ...]


class Day(Row):
    """The day at a glance. What the caller may not ask for is null."""

    orders: dict[str, int] | None = Field(
        default=None, description="Orders placed on the day, by their state."
    )
    alerts: dict[str, int] | None = Field(
        default=None, description="Alerts that are open, by severity."
    )
    decisions: WaitingDecisions | None = None
    tours: Tours | None = None


class _Told(Row):
    name: str
    told: Any


class DecisionScreen(Row):
    """A decision's events of each sort, where it stands, and its model's features."""

    decision_id: str
    version: int
    stage: str
    approvals_left: int | None
    requested: dict[str, Any]
    made: dict[str, Any] | None
    explained: dict[str, Any] | None
    referred: dict[str, Any] | None
    failed: dict[str, Any] | None
    confirmed: dict[str, Any] | None
    overridden: dict[str, Any] | None
    contested: dict[str, Any] | None
    kept: dict[str, Any] | None
    outcome: dict[str, Any] | None
    features: list[str]
    last_position: int


class SimulationScreen(Row):
    """How far a simulation is. ``code`` and ``reason``: why it failed or was stopped."""

    simulation_id: str
    version: int
    scenario_id: str | None
    state: str
    requested_by: str
    requested_at: datetime
    done: int | None
    total: int | None
    step: str | None
    finished_at: datetime | None
    artifact: str | None = Field(exclude=True)
    code: str | None
    reason: str | None
    last_position: int


class Line(Row):
    """An event of a decision, in words."""

    position: int
    what: str
    sentence: str
    recorded_at: datetime
    actor: str


@cache
def _day(names: tuple[str, ...]) -> str:
    return "\nUNION ALL\n".join(
        f"SELECT '{name}' AS name, ({PARTS[name].sql}) AS told" for name in names
    )


async def day(read: ReadModels, today: date, parts: Collection[str]) -> Day:
    """The parts of the day's screen that are asked for, in one query."""
    if not parts:
        return Day()
    rows = await read.rows(_Told, _day(tuple(sorted(parts))), today=today)
    return Day(**{row.name: row.told for row in rows})


async def decision(read: ReadModels, decision_id: str) -> DecisionScreen | None:
    """One decision with what is needed to explain it, in one query; None: it is not known."""
    return await read.one(DecisionScreen, _DECISION, decision_id=decision_id)


async def lines(read: ReadModels, decision_id: str) -> tuple[Line, ...]:
    """What happened to a decision, the first event first."""
    stream_id = read.stream_id(STREAM.format(decision_id=decision_id))
    return tuple(await read.rows(Line, _LINES, stream_id=stream_id))


async def simulation(read: ReadModels, simulation_id: str) -> SimulationScreen | None:
    """How far a simulation is, in one query; None: it is not known."""
    return await read.one(SimulationScreen, _SIMULATION, simulation_id=simulation_id)
