"""Decisions as frontends list and open them, and what becomes of each model's."""

from __future__ import annotations

from polars import col, lit, when

from domain.decisions import (
    DecisionConfirmed,
    DecisionContested,
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionNotRedecided,
    DecisionOutcomeRecorded,
    DecisionOverridden,
    DecisionReferred,
    DecisionRequested,
    DecisionShadowed,
)
from projections.fold import count, first, last, total
from projections.table import Table

_ALL = (
    DecisionRequested,
    DecisionMade,
    DecisionExplained,
    DecisionReferred,
    DecisionShadowed,
    DecisionFailed,
    DecisionConfirmed,
    DecisionOverridden,
    DecisionContested,
    DecisionNotRedecided,
    DecisionOutcomeRecorded,
)

DECISION_LIST = Table(
    name="decision_list",
    key=dict.fromkeys(_ALL, ("decision_id",)),
    columns={
        "version": last(dict.fromkeys(_ALL, "version")),
        "kind": first({DecisionRequested: "kind"}),
        "subject_id": first({DecisionRequested: "subject_id"}),
        "stage": last(
            {
                DecisionRequested: lit("requested"),
                DecisionMade: lit("made"),
                DecisionReferred: lit("referred"),
                DecisionFailed: lit("failed"),
                DecisionConfirmed: when(col("approvals_left") > 0)
                .then(lit("referred"))
                .otherwise(lit("confirmed")),
                DecisionOverridden: when(col("approvals_left") > 0)
                .then(lit("referred"))
                .otherwise(lit("overridden")),
                DecisionContested: lit("contested"),
                DecisionNotRedecided: "stage",
                DecisionOutcomeRecorded: lit("closed"),
            }
        ),
        "requested_at": first({DecisionRequested: "requested_at"}),
        "requested_by": first({DecisionRequested: "actor"}),
        "priority": first({DecisionRequested: "priority"}),
        "deadline": first({DecisionRequested: "deadline"}),
        "redecides": first({DecisionRequested: "redecides"}),
        "as_of": last({DecisionMade: "as_of"}),
        "model_hash": last({DecisionMade: "model_hash"}),
        "role": last({DecisionMade: "role"}),
        "probability": last({DecisionMade: "probability"}),
        "foretold": last({DecisionMade: "foretold"}),
        "risk": last({DecisionMade: "risk"}),
        "confidence": last({DecisionMade: "confidence"}),
        "value_minor": last({DecisionMade: "value_minor"}),
        "currency": last({DecisionMade: "currency"}),
        "candidates": last({DecisionMade: col("candidates").list.len().cast(int)}),
        "summary": last({DecisionExplained: "summary", DecisionFailed: "detail"}),
        "approvals_left": last(
            {
                DecisionReferred: "approvals",
                DecisionConfirmed: "approvals_left",
                DecisionOverridden: "approvals_left",
            }
        ),
        "overridden_by": last({DecisionOverridden: "overridden_by"}),
        "contested_by": last({DecisionContested: "contested_by"}),
        "occurred": last({DecisionOutcomeRecorded: "occurred"}),
        "followed": last({DecisionOutcomeRecorded: "followed"}),
    },
    indexes=(("requested_at", "decision_id"), ("subject_id",), ("stage", "requested_at")),
)

DECISION_DETAIL = Table(
    name="decision_detail",
    key=dict.fromkeys(_ALL, ("decision_id",)),
    columns={
        "version": last(dict.fromkeys(_ALL, "version")),
        "requested_position": first({DecisionRequested: "position"}),
        "requested": first({DecisionRequested: "state"}, json=True),
        "made": last({DecisionMade: "state"}, json=True),
        "explained": last({DecisionExplained: "state"}, json=True),
        "referred": last({DecisionReferred: "state"}, json=True),
        "shadow": last({DecisionShadowed: "state"}, json=True),
        "failed": last({DecisionFailed: "state"}, json=True),
        "confirmed": last({DecisionConfirmed: "state"}, json=True),
        "overridden": last({DecisionOverridden: "state"}, json=True),
        "contested": last({DecisionContested: "state"}, json=True),
        "kept": last({DecisionNotRedecided: "state"}, json=True),
        "outcome": last({DecisionOutcomeRecorded: "state"}, json=True),
    },
)

_KNOWN = col("occurred").is_not_null() & col("foretold").is_not_null()
_OCCURRED = col("occurred").cast(float)
_ERROR = col("foretold") - _OCCURRED

DECISION_KPIS = Table(
    name="decision_kpis",
    key={
        DecisionRequested: ("kind",),
        DecisionMade: ("kind",),
        DecisionFailed: ("kind",),
        DecisionReferred: ("kind",),
        DecisionOverridden: ("kind",),
        DecisionContested: ("kind",),
        DecisionOutcomeRecorded: ("kind",),
    },
    columns={
        "requested": count(DecisionRequested),
        "made": count(DecisionMade),
        "failed": count(DecisionFailed),
        "referred": count(DecisionReferred),
        "overridden": count(where={DecisionOverridden: col("first")}),
        "contested": count(DecisionContested),
        "outcomes": count(where={DecisionOutcomeRecorded: _KNOWN}),
        "occurred": count(where={DecisionOutcomeRecorded: _KNOWN & col("occurred")}),
        "followed": count(where={DecisionOutcomeRecorded: col("followed")}),
        "cost_minor": total({DecisionOutcomeRecorded: "cost_minor"}),
    },
    computed={
        "override_rate": when(col("made") > 0).then(col("overridden") / col("made")),
        "contest_rate": when(col("made") > 0).then(col("contested") / col("made")),
        "referral_rate": when(col("made") > 0).then(col("referred") / col("made")),
        "occurred_share": when(col("outcomes") > 0).then(col("occurred") / col("outcomes")),
    },
)

#: What was foretold came to a test only where it was done.
_TESTED = _KNOWN & col("followed")

#: The figures of a model's decisions, by the month in which they were made or became known.
MODEL_MONTHS = Table(
    name="model_months",
    key={
        DecisionOutcomeRecorded: {
            "model_hash": col("model_hash"),
            "month": col("recorded_at").dt.truncate("1mo").dt.date(),
        },
        DecisionOverridden: {
            "model_hash": col("model_hash"),
            "month": col("recorded_at").dt.truncate("1mo").dt.date(),
        },
        DecisionMade: {
            "model_hash": col("model_hash"),
            "month": col("recorded_at").dt.truncate("1mo").dt.date(),
        },
    },
    columns={
        "decisions": count(DecisionMade),
        "overridden": count(where={DecisionOverridden: col("first")}),
        "outcomes": count(where={DecisionOutcomeRecorded: _TESTED}),
        "occurred": count(where={DecisionOutcomeRecorded: _TESTED & col("occurred")}),
        "right": count(
            where={DecisionOutcomeRecorded: _TESTED & ((col("foretold") >= 0.5) == col("occurred"))}
        ),
        "foretold_sum": total({DecisionOutcomeRecorded: when(_TESTED).then(col("foretold"))}),
        "squared_error_sum": total({DecisionOutcomeRecorded: when(_TESTED).then(_ERROR * _ERROR)}),
    },
    computed={
        "accuracy": when(col("outcomes") > 0).then(col("right") / col("outcomes")),
        "brier": when(col("outcomes") > 0).then(col("squared_error_sum") / col("outcomes")),
        "foretold_share": when(col("outcomes") > 0).then(col("foretold_sum") / col("outcomes")),
        "occurred_share": when(col("outcomes") > 0).then(col("occurred") / col("outcomes")),
        "override_rate": when(col("decisions") > 0).then(col("overridden") / col("decisions")),
    },
)

TABLES = (DECISION_LIST, DECISION_DETAIL, DECISION_KPIS, MODEL_MONTHS)
