"""Alerts: as they stand, who has seen them and who is told; and the conditions that they are
raised for, each folded so that only what may be one has to be looked at."""

from __future__ import annotations

from polars import coalesce, col, lit, when

from domain.alert_rules import AlertRuleSet
from domain.alerts import (
    OF_ALERTS,
    AlertAcknowledged,
    AlertCauseEnded,
    AlertRaised,
    AlertRead,
    AlertReopened,
    AlertResolved,
    AlertSnoozed,
)
from domain.decisions import (
    DecisionConfirmed,
    DecisionMade,
    DecisionOutcomeRecorded,
    DecisionOverridden,
)
from domain.inventory import (
    StockAdjusted,
    StockPicked,
    StockReceived,
    StockReleased,
    StockReserved,
    StockReturned,
)
from domain.notifications import AlertsRead, AlertsSubscribed, AlertsUnsubscribed, NoticeSent
from domain.order_events import (
    OrderAllocated,
    OrderCancelled,
    OrderDelivered,
    OrderPlaced,
    OrderRepromised,
    OrderShipped,
)
from domain.schedules import ScheduleFired
from domain.stock_keeping import StockKeepingBegun, StockKeepingChanged, StockKeepingEnded
from domain.tasks import TaskCancelled, TaskCompleted, TaskFailed, TaskRequested
from domain.values import Event
from projections.fold import count, first, greatest, last, total
from projections.table import Table

ALERT_LIST = Table(
    name="alert_list",
    key=dict.fromkeys(OF_ALERTS, ("alert_id",)),
    columns={
        "version": last(dict.fromkeys(OF_ALERTS, "version")),
        "kind": first({AlertRaised: "kind"}),
        "subject_id": first({AlertRaised: "subject_id"}),
        "occurrence": first({AlertRaised: "occurrence"}),
        "severity": first({AlertRaised: "severity"}),
        "sentence": first({AlertRaised: "sentence"}),
        "value": first({AlertRaised: "value"}),
        "threshold": first({AlertRaised: "threshold"}),
        "raised_at": first({AlertRaised: "raised_at"}),
        "raised_position": first({AlertRaised: "position"}),
        "state": last(
            {
                AlertRaised: lit("open"),
                AlertAcknowledged: lit("acknowledged"),
                AlertSnoozed: lit("snoozed"),
                AlertResolved: lit("resolved"),
                AlertReopened: lit("open"),
            }
        ),
        "acknowledged_by": last({AlertAcknowledged: "acknowledged_by"}),
        "acknowledged_at": last({AlertAcknowledged: "acknowledged_at"}),
        "note": last({AlertAcknowledged: "note"}),
        "snoozed_until": last({AlertSnoozed: "until"}),
        "resolved_by": last({AlertResolved: "resolved_by"}),
        "resolved_at": last({AlertResolved: "resolved_at"}),
        "resolved_reason": last({AlertResolved: "reason"}),
    },
    indexes=(("raised_position",), ("state", "raised_position")),
)

_CAUSES = (AlertRaised, AlertResolved, AlertCauseEnded, AlertReopened)

#: What alerts there have been about each subject. ``covered``: none is raised for it now.
ALERT_SUBJECTS = Table(
    name="alert_subjects",
    key=dict.fromkeys(_CAUSES, ("kind", "subject_id")),
    columns={
        "alert_id": last({AlertRaised: "alert_id"}),
        "times": count(AlertRaised),
        "covered": last(
            {
                AlertRaised: lit(True),
                AlertResolved: ~col("cause_is_gone"),
                AlertReopened: lit(True),
                AlertCauseEnded: lit(False),
            }
        ),
    },
    indexes=(("covered", "kind"),),
)

ALERT_READS = Table(
    name="alert_reads",
    key={AlertRead: {"alert_id": col("alert_id"), "reader": col("read_by")}},
    columns={"read_at": first({AlertRead: "read_at"})},
)

ALERT_READERS = Table(
    name="alert_readers",
    key={AlertsRead: ("reader",)},
    columns={"read_to": greatest({AlertsRead: coalesce("to_position", "position")})},
)

ALERT_RULE_LIST = Table(
    name="alert_rule_list",
    key={AlertRuleSet: ("kind",)},
    columns={
        "version": last({AlertRuleSet: "version"}),
        "enabled": last({AlertRuleSet: "enabled"}),
        "threshold": last({AlertRuleSet: "threshold"}),
        "severity": last({AlertRuleSet: "severity"}),
        "max_age_days": last({AlertRuleSet: "max_age_days"}),
        "most_open": last({AlertRuleSet: "most_open"}),
        "told": last({AlertRuleSet: "state"}, json=True),
        "set_by": last({AlertRuleSet: "set_by"}),
        "set_at": last({AlertRuleSet: "set_at"}),
    },
)

ALERT_SUBSCRIPTIONS = Table(
    name="alert_subscriptions",
    key=dict.fromkeys((AlertsSubscribed, AlertsUnsubscribed, NoticeSent), ("subscriber",)),
    columns={
        "version": last(
            dict.fromkeys((AlertsSubscribed, AlertsUnsubscribed, NoticeSent), "version")
        ),
        "active": last({AlertsSubscribed: lit(True), AlertsUnsubscribed: lit(False)}),
        "told": last({AlertsSubscribed: "state"}, json=True),
        "since_position": last({AlertsSubscribed: "position"}),
        "ended_reason": last({AlertsUnsubscribed: "reason"}),
        "last_told_at": last({NoticeSent: "told_at"}),
    },
)

ALERT_NOTICES = Table(
    name="alert_notices",
    key={NoticeSent: {"subscriber": col("subscriber"), "alert_id": col("alert_ids")}},
    columns={"told_at": first({NoticeSent: "told_at"})},
    explode={NoticeSent: "alert_ids"},
)

# conditions

_PROMISED: tuple[type[Event], ...] = (
    OrderPlaced,
    OrderRepromised,
    OrderAllocated,
    OrderShipped,
    OrderDelivered,
    OrderCancelled,
)

#: Orders that are on their way, by what they were promised for.
OPEN_PROMISES = Table(
    name="open_promises",
    key=dict.fromkeys(_PROMISED, ("order_id",)),
    columns={
        "promised_at": last({OrderPlaced: "promised_at", OrderRepromised: "promised_at"}),
        "region": last({OrderPlaced: "region", OrderAllocated: "region"}),
        "site_id": last({OrderAllocated: "site_id", OrderShipped: "site_id"}),
        "shipped": last({OrderShipped: lit(True)}),
    },
    indexes=(("promised_at",),),
    closes=(OrderDelivered, OrderCancelled),
)

#: How long goods of a site usually take to a region, from the hand-over to the delivery.
LANE_TIMES = Table(
    name="lane_times",
    key={OrderDelivered: ("site_id", "region")},
    columns={
        "transits": count(where={OrderDelivered: col("transit_s").is_not_null()}),
        "transit_s": total({OrderDelivered: "transit_s"}),
    },
)

_STOCK: tuple[type[Event], ...] = (
    StockReceived,
    StockPicked,
    StockAdjusted,
    StockReserved,
    StockReleased,
    StockReturned,
    StockKeepingBegun,
    StockKeepingChanged,
    StockKeepingEnded,
)

#: What of a SKU is to be had at a site, and where it is reordered.
STOCK_COVER = Table(
    name="stock_cover",
    key=dict.fromkeys(_STOCK, ("site_id", "sku")),
    columns={
        "on_hand": total(
            {
                StockReceived: col("quantity"),
                StockPicked: -col("quantity"),
                StockAdjusted: col("change"),
                StockReturned: col("quantity"),
            }
        ),
        "reserved": total(
            {
                StockReserved: col("quantity"),
                StockReleased: -col("quantity"),
                StockPicked: -col("reserved"),
            }
        ),
        "kept": last(
            {
                StockKeepingBegun: lit(True),
                StockKeepingChanged: lit(True),
                StockKeepingEnded: lit(False),
            }
        ),
        "reorder_point": last(
            {StockKeepingBegun: "reorder_point", StockKeepingChanged: "reorder_point"}
        ),
    },
    indexes=(("last_position",),),
)

#: How much of a SKU left a site on each day.
STOCK_DEMAND = Table(
    name="stock_demand",
    key={
        StockPicked: {
            "site_id": col("site_id"),
            "sku": col("sku"),
            "day": coalesce("picked_at", "recorded_at").dt.date(),
        }
    },
    columns={"picked": total({StockPicked: "quantity"})},
)

_IS_ANOMALY = when(col("kind") == "anomaly").then(col("decision_id"))
_DECIDED: tuple[type[Event], ...] = (
    DecisionMade,
    DecisionConfirmed,
    DecisionOverridden,
    DecisionOutcomeRecorded,
)

#: Cases that were looked at as unusual, until somebody says what they were.
OPEN_ANOMALIES = Table(
    name="open_anomalies",
    key={event: {"decision_id": _IS_ANOMALY} for event in _DECIDED},
    columns={
        "subject_id": last({DecisionMade: "subject_id"}),
        "foretold": last({DecisionMade: "foretold"}),
        "decided_at": last({DecisionMade: "recorded_at"}),
    },
    indexes=(("decided_at",),),
    closes=(DecisionConfirmed, DecisionOverridden, DecisionOutcomeRecorded),
)

#: Tasks that failed, until their work is asked for once more; and those that a schedule asked for,
#: until they are done: what is told of those is told of the schedule.
FAILED_TASKS = Table(
    name="failed_tasks",
    key={
        ScheduleFired: {"failed_id": col("task_id")},
        TaskFailed: {"failed_id": col("task_id")},
        TaskCompleted: {"failed_id": col("task_id")},
        TaskCancelled: {"failed_id": col("task_id")},
        TaskRequested: {"failed_id": col("retry_of")},
    },
    columns={
        "schedule_id": first({ScheduleFired: "schedule_id"}),
        "kind": last({TaskFailed: "kind"}),
        "reason": last({TaskFailed: "reason"}),
        "failed_at": last({TaskFailed: "failed_at"}),
    },
    indexes=(("failed_at",),),
    closes=(TaskRequested, TaskCompleted, TaskCancelled),
)

TABLES = (
    ALERT_LIST,
    ALERT_SUBJECTS,
    ALERT_READS,
    ALERT_READERS,
    ALERT_RULE_LIST,
    ALERT_SUBSCRIPTIONS,
    ALERT_NOTICES,
    OPEN_PROMISES,
    LANE_TIMES,
    STOCK_COVER,
    STOCK_DEMAND,
    OPEN_ANOMALIES,
    FAILED_TASKS,
)
