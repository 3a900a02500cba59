"""The conditions that alerts are raised for: for each kind a query of what meets it now.

Every query is of one organisation, knows ``now``, ``threshold`` and ``since`` (older is history),
and is asked in two ways: for what meets the condition and has no alert (``subjects`` null; at most
``limit`` rows, the newest first), and which of some subjects meet it still, however old.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from domain.alert_rules import AlertKind

Row = Mapping[str, Any]
#: Before the schedule's id, in the subject of an alert that a schedule's tasks fail.
OF_SCHEDULES = "schedules"

#: Looked at, in one statement: what has no alert that covers it.
_NOT_COVERED = """NOT EXISTS (SELECT FROM read_models.alert_subjects a
        WHERE a.organisation_id = %(organisation_id)s AND a.kind = %(kind)s
            AND a.subject_id = c.subject_id AND a.covered)"""


@dataclass(frozen=True, slots=True)
class Condition:
    """What an alert of a kind is raised for.

    Attributes:
        kind: which.
        query: rows with ``subject_id`` and ``value``, and what else the sentence needs; with
            ``subjects``, of those alone.
        order: how what is most urgent comes first.
        sentence: tells a row.
        by_stock: only what has moved since the last look can have come to meet it.
    """

    kind: AlertKind
    query: str
    order: str
    sentence: Callable[[Row], str]
    by_stock: bool = False

    @property
    def new(self) -> str:
        """What meets the condition and is covered by no alert."""
        return f"""SELECT c.*, coalesce((SELECT a.times FROM read_models.alert_subjects a
                WHERE a.organisation_id = %(organisation_id)s AND a.kind = %(kind)s
                    AND a.subject_id = c.subject_id), 0) AS times
            FROM ({self.query}) c WHERE {_NOT_COVERED} ORDER BY {self.order} LIMIT %(limit)s"""

    @property
    def count(self) -> str:
        """How many those are, up to a bound."""
        return f"""SELECT count(*) AS value FROM (SELECT FROM ({self.query}) c
            WHERE {_NOT_COVERED} LIMIT %(limit)s) AS found"""

    @property
    def still(self) -> str:
        """Which of some subjects meet it."""
        return f"SELECT c.subject_id FROM ({self.query}) c"


_LATE = """SELECT o.order_id AS subject_id, o.promised_at AS at, o.region,
        extract(epoch FROM %(now)s - o.promised_at)::float8 / 3600 AS value
    FROM read_models.open_promises o
    WHERE o.organisation_id = %(organisation_id)s
        AND o.promised_at < %(now)s - make_interval(secs => %(threshold)s * 3600)
        AND CASE WHEN %(subjects)s::text[] IS NULL THEN o.promised_at > %(since)s
            ELSE o.order_id = ANY(%(subjects)s) END"""

# Nobody waits for a promise that is weeks away: lanes of more than that are not looked at.
_LATE_AHEAD = """SELECT o.order_id AS subject_id, o.promised_at AS at, o.region,
        coalesce(l.transit_s::float8 / nullif(l.transits, 0) / 3600, %(threshold)s) AS value
    FROM read_models.open_promises o
    LEFT JOIN read_models.lane_times l ON l.organisation_id = o.organisation_id
        AND l.site_id = o.site_id AND l.region = o.region
    WHERE o.organisation_id = %(organisation_id)s AND o.promised_at >= %(now)s
        AND o.promised_at < %(now)s + interval '30 days' AND NOT coalesce(o.shipped, false)
        AND o.promised_at < %(now)s + make_interval(secs =>
            coalesce(l.transit_s::float8 / nullif(l.transits, 0), %(threshold)s * 3600))
        AND (%(subjects)s::text[] IS NULL OR o.order_id = ANY(%(subjects)s))"""

# What has moved, and whatever there is of a product that has been changed; or that which is named.
_CHOSEN = """SELECT s.* FROM read_models.stock_cover s
    WHERE s.organisation_id = %(organisation_id)s AND %(subjects)s::text[] IS NULL
        AND s.last_position > %(moved_since)s
    UNION ALL SELECT s.* FROM read_models.product_list p
    JOIN read_models.stock_cover s ON s.organisation_id = p.organisation_id AND s.sku = p.sku
    WHERE p.organisation_id = %(organisation_id)s AND %(subjects)s::text[] IS NULL
        AND p.last_position > %(moved_since)s AND s.last_position <= %(moved_since)s
    UNION ALL SELECT s.* FROM unnest(%(subjects)s::text[]) AS x
    JOIN read_models.stock_cover s ON s.organisation_id = %(organisation_id)s
        AND s.site_id = split_part(x, '/', 1) AND s.sku = split_part(x, '/', 2)"""

#: What is to be had, what goes in a day, of the last four weeks, and in how many days more comes.
_STOCK = f"""SELECT s.site_id || '/' || s.sku AS subject_id, s.site_id, s.sku,
        s.last_position AS at, s.on_hand - s.reserved AS available, coalesce(s.kept, false) AS kept,
        CASE WHEN s.kept THEN coalesce(s.reorder_point, 0) ELSE 0 END AS reorder_point,
        coalesce((SELECT sum(d.picked) FROM read_models.stock_demand d
            WHERE d.organisation_id = s.organisation_id AND d.site_id = s.site_id
                AND d.sku = s.sku AND d.day > (%(now)s AT TIME ZONE 'UTC')::date - 28), 0) / 28
            AS a_day,
        (p.described->>'lead_days')::int AS lead_days
    FROM ({_CHOSEN}) s LEFT JOIN read_models.product_list p
        ON p.organisation_id = s.organisation_id AND p.sku = s.sku"""

_STOCK_OUT = f"""SELECT *, available::float8 AS value FROM ({_STOCK}) s
    WHERE available <= %(threshold)s AND (a_day > 0 OR kept)"""

_STOCK_OUT_AHEAD = f"""SELECT *, (available / nullif(a_day, 0))::float8 AS value,
        lead_days::float8 AS threshold
    FROM ({_STOCK}) s
    WHERE available > 0 AND (available < a_day * coalesce(lead_days, %(threshold)s)::numeric
        OR (reorder_point > 0 AND available <= reorder_point))"""

_ANOMALY = """SELECT o.decision_id AS subject_id, o.subject_id AS about, o.decided_at AS at,
        o.foretold AS value
    FROM read_models.open_anomalies o
    WHERE o.organisation_id = %(organisation_id)s AND o.foretold >= %(threshold)s
        AND CASE WHEN %(subjects)s::text[] IS NULL THEN o.decided_at > %(since)s
            ELSE o.decision_id = ANY(%(subjects)s) END"""

# The alerts of models are events of their own (docs/monitoring.md): one alert points at a model's.
_DRIFT = """SELECT m.model_hash AS subject_id, max(m.raised_at) AS at, count(*)::float8 AS value,
        min(m.kind) AS kind, min(m.sentence) AS told
    FROM read_models.model_alerts m
    WHERE m.organisation_id = %(organisation_id)s AND m.open
        AND CASE WHEN %(subjects)s::text[] IS NULL THEN m.raised_at > %(since)s
            ELSE m.model_hash = ANY(%(subjects)s) END
    GROUP BY m.model_hash"""

# Of a schedule that fails night after night there is one alert, not one each night: it is about the
# schedule, by the last of its tasks that has ended.
_TASK = f"""SELECT f.failed_id AS subject_id, f.failed_at AS at, f.kind, f.reason,
        f.failed_id AS task_id, NULL AS schedule_id, NULL::float8 AS value
    FROM read_models.failed_tasks f
    WHERE f.organisation_id = %(organisation_id)s AND f.failed_at IS NOT NULL
        AND f.schedule_id IS NULL
        AND CASE WHEN %(subjects)s::text[] IS NULL THEN f.failed_at > %(since)s
            ELSE f.failed_id = ANY(%(subjects)s) END
    UNION ALL
    SELECT '{OF_SCHEDULES}/' || c.schedule_id, f.failed_at, f.kind, f.reason, f.failed_id,
        c.schedule_id, NULL
    FROM read_models.schedule_clock c
    CROSS JOIN LATERAL (SELECT r.task_id FROM read_models.schedule_runs r
        JOIN read_models.task_list t ON t.organisation_id = r.organisation_id
            AND t.task_id = r.task_id AND t.state IN ('completed', 'failed')
        WHERE r.organisation_id = c.organisation_id AND r.schedule_id = c.schedule_id
        ORDER BY r.fired_position DESC LIMIT 1) ended
    JOIN read_models.failed_tasks f ON f.organisation_id = c.organisation_id
        AND f.failed_id = ended.task_id AND f.failed_at IS NOT NULL
    WHERE c.organisation_id = %(organisation_id)s AND c.told IS NOT NULL
        AND CASE WHEN %(subjects)s::text[] IS NULL THEN f.failed_at > %(since)s
            ELSE '{OF_SCHEDULES}/' || c.schedule_id = ANY(%(subjects)s) END"""

# Few, or everything stands still: they are counted by the events that they are of.
_LETTERS = """SELECT d.projection AS subject_id, max(d.parked_at) AS at, count(*)::float8 AS value
    FROM dead_letters d JOIN events e ON e.notification_id = d.position
    WHERE e.organisation_id = %(organisation_id)s AND d.suffix = ''
        AND (%(subjects)s::text[] IS NULL OR d.projection = ANY(%(subjects)s))
    GROUP BY d.projection HAVING count(*) >= %(threshold)s"""


def _late(row: Row) -> str:
    return (
        f"Order {row['subject_id']} was promised for {row['at']:%Y-%m-%d %H:%M} UTC and is not "
        "delivered"
    )


def _late_ahead(row: Row) -> str:
    return (
        f"Order {row['subject_id']} is promised for {row['at']:%Y-%m-%d %H:%M} UTC and is not "
        f"shipped; it usually takes {row['value']:.0f} hours"
    )


def _out(row: Row) -> str:
    return f"Site {row['site_id']} has no {row['sku']} to give any more"


def _out_ahead(row: Row) -> str:
    told = f"Site {row['site_id']} has {row['available'].normalize():f} of {row['sku']} to give"
    if row["value"] is not None:
        told += f", which lasts {row['value']:.0f} days"
        if row["lead_days"] is not None:
            told += f"; more takes {row['lead_days']} days to come"
    if row["reorder_point"] and row["available"] <= row["reorder_point"]:
        told += f"; it is reordered at {row['reorder_point'].normalize():f}"
    return told


def _anomaly(row: Row) -> str:
    return f"{row['about']} is unusual ({row['value']:.0%}), says decision {row['subject_id']}"


def _drift(row: Row) -> str:
    more = "" if row["value"] == 1 else f" (and {row['value'] - 1:.0f} more figures)"
    return f"Model {row['subject_id'][:12]} of {row['kind']}: {row['told']}{more}"


def _task(row: Row) -> str:
    of = "" if row["schedule_id"] is None else f" of schedule {row['schedule_id']}"
    return f"The {row['kind']} {row['task_id']}{of} failed: {row['reason']}"


def _letters(row: Row) -> str:
    return f"{row['value']:.0f} events wait that the read model {row['subject_id']} cannot fold"


#: In the order in which they are looked at.
CONDITIONS: tuple[Condition, ...] = (
    Condition(AlertKind.DEAD_LETTERS, _LETTERS, "c.at DESC", _letters),
    Condition(AlertKind.TASK_FAILED, _TASK, "c.at DESC", _task),
    Condition(AlertKind.MODEL_DRIFT, _DRIFT, "c.at DESC", _drift),
    Condition(AlertKind.ORDER_LATE, _LATE, "c.at DESC", _late),
    Condition(AlertKind.ORDER_LATE_AHEAD, _LATE_AHEAD, "c.at", _late_ahead),
    Condition(AlertKind.STOCK_OUT, _STOCK_OUT, "c.at DESC", _out, by_stock=True),
    Condition(AlertKind.STOCK_OUT_AHEAD, _STOCK_OUT_AHEAD, "c.at DESC", _out_ahead, by_stock=True),
    Condition(AlertKind.ANOMALY, _ANOMALY, "c.value DESC, c.at DESC", _anomaly),
)
