"""Decisions as frontends list and open them."""

from __future__ import annotations

from polars import col, lit

from domain.decisions import (
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionOutcomeRecorded,
    DecisionRequested,
)
from projections.fold import first, last
from projections.table import Table

_ALL = (
    DecisionRequested,
    DecisionMade,
    DecisionExplained,
    DecisionFailed,
    DecisionOutcomeRecorded,
)

DECISION_LIST = Table(
    name="decision_list",
    key=dict.fromkeys(_ALL, ("decision_id",)),
    columns={
        "kind": first({DecisionRequested: "kind"}),
        "subject_id": first({DecisionRequested: "subject_id"}),
        "stage": last(
            {
                DecisionRequested: lit("requested"),
                DecisionMade: lit("made"),
                DecisionFailed: lit("failed"),
                DecisionOutcomeRecorded: lit("closed"),
            }
        ),
        "requested_at": first({DecisionRequested: "requested_at"}),
        "requested_by": first({DecisionRequested: "actor"}),
        "as_of": last({DecisionMade: "as_of"}),
        "model_hash": last({DecisionMade: "model_hash"}),
        "probability": last({DecisionMade: "probability"}),
        "confidence": last({DecisionMade: "confidence"}),
        "candidates": last({DecisionMade: col("candidates").list.len().cast(int)}),
        "summary": last({DecisionExplained: "summary", DecisionFailed: "detail"}),
        "late": last({DecisionOutcomeRecorded: "late"}),
        "followed": last({DecisionOutcomeRecorded: "followed"}),
    },
    indexes=(("requested_at", "decision_id"), ("subject_id",)),
)

DECISION_DETAIL = Table(
    name="decision_detail",
    key=dict.fromkeys(_ALL, ("decision_id",)),
    columns={
        "requested_position": first({DecisionRequested: "position"}),
        "requested": first({DecisionRequested: "state"}, json=True),
        "made": last({DecisionMade: "state"}, json=True),
        "explained": last({DecisionExplained: "state"}, json=True),
        "failed": last({DecisionFailed: "state"}, json=True),
        "outcome": last({DecisionOutcomeRecorded: "state"}, json=True),
    },
)

TABLES = (DECISION_LIST, DECISION_DETAIL)
