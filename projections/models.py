"""Models: what was registered, who approved it, which one has which role, how they do."""

from __future__ import annotations

from polars import col, lit

from domain.models import (
    ModelAlertCleared,
    ModelAlertRaised,
    ModelApproved,
    ModelDeployed,
    ModelMeasured,
    ModelRegistered,
    ModelResumed,
    ModelRetired,
    ModelRolledBack,
    ModelStopped,
    ModelWithdrawn,
)
from projections.fold import count, each, first, last
from projections.table import Table

MODEL_LIST = Table(
    name="model_list",
    key={
        **dict.fromkeys(
            (
                ModelRegistered,
                ModelApproved,
                ModelDeployed,
                ModelWithdrawn,
                ModelStopped,
                ModelResumed,
                ModelRetired,
                ModelMeasured,
                ModelAlertRaised,
                ModelAlertCleared,
            ),
            ("model_hash",),
        ),
        ModelRolledBack: ({"model_hash": col("model_hash")}, {"model_hash": col("to")}),
    },
    columns={
        # A rollback stands in the stream of the model that is left, not of the one it goes back to.
        "version": last(
            {
                **dict.fromkeys(
                    (
                        ModelRegistered,
                        ModelApproved,
                        ModelDeployed,
                        ModelWithdrawn,
                        ModelStopped,
                        ModelResumed,
                        ModelRetired,
                        ModelMeasured,
                        ModelAlertRaised,
                        ModelAlertCleared,
                    ),
                    "version",
                ),
                ModelRolledBack: ("version", lit(None)),
            }
        ),
        "kind": first({ModelRegistered: "kind"}),
        "stage": last(
            {
                ModelRegistered: lit("registered"),
                ModelApproved: lit("approved"),
                ModelDeployed: lit("deployed"),
                ModelRetired: lit("retired"),
            }
        ),
        # The role that it was given last; it has it as long as model_roles names it there.
        "role": last(
            {
                ModelDeployed: "role",
                ModelRolledBack: (lit(""), lit("champion")),
                ModelWithdrawn: lit(""),
                ModelRetired: lit(""),
            }
        ),
        "registered_by": first({ModelRegistered: "registered_by"}),
        "registered_at": first({ModelRegistered: "registered_at"}),
        "approved_by": first({ModelApproved: "approved_by"}),
        "approved_at": first({ModelApproved: "approved_at"}),
        "deployed_by": last({ModelDeployed: "deployed_by"}),
        "deployed_at": last({ModelDeployed: "deployed_at"}),
        "deployed_position": last({ModelDeployed: "position"}),
        "stopped": last({ModelStopped: "reason", ModelResumed: lit("")}),
        "retired": last({ModelRetired: "reason"}),
        "registered": first({ModelRegistered: "state"}, json=True),
        "measured": last({ModelMeasured: "state"}, json=True),
    },
)

#: Which model has which role of a kind. ``share``: of the requests, where it is a challenger.
MODEL_ROLES = Table(
    name="model_roles",
    key={
        ModelDeployed: ("kind", "role"),
        ModelRolledBack: {"kind": col("kind"), "role": lit("champion")},
    },
    columns={
        "model_hash": last({ModelDeployed: "model_hash", ModelRolledBack: "to"}),
        "schema_hash": last({ModelDeployed: "schema_hash", ModelRolledBack: "to_schema_hash"}),
        "share": last({ModelDeployed: "share", ModelRolledBack: lit(1.0)}),
        "since": last({ModelDeployed: "deployed_at", ModelRolledBack: "rolled_back_at"}),
        "since_position": last({ModelDeployed: "position", ModelRolledBack: "position"}),
    },
)

#: Every change of a role, in the order of the log.
MODEL_DEPLOYMENTS = Table(
    name="model_deployments",
    key={
        ModelDeployed: ("position",),
        ModelRolledBack: ("position",),
        ModelWithdrawn: ("position",),
        ModelRetired: ("position",),
    },
    columns={
        "kind": each(
            {
                ModelDeployed: "kind",
                ModelRolledBack: "kind",
                ModelWithdrawn: "kind",
                ModelRetired: "kind",
            }
        ),
        "role": each(
            {
                ModelDeployed: "role",
                ModelRolledBack: lit("champion"),
                ModelWithdrawn: lit("none"),
                ModelRetired: lit("none"),
            }
        ),
        "model_hash": each(
            {
                ModelDeployed: "model_hash",
                ModelRolledBack: "to",
                ModelWithdrawn: "model_hash",
                ModelRetired: "model_hash",
            }
        ),
        "by": each(
            {
                ModelDeployed: "deployed_by",
                ModelRolledBack: "rolled_back_by",
                ModelWithdrawn: "withdrawn_by",
                ModelRetired: "retired_by",
            }
        ),
        "at": each(
            {
                ModelDeployed: "deployed_at",
                ModelRolledBack: "rolled_back_at",
                ModelWithdrawn: "withdrawn_at",
                ModelRetired: "retired_at",
            }
        ),
        "reason": each(
            {ModelRolledBack: "reason", ModelWithdrawn: "reason", ModelRetired: "reason"}
        ),
    },
    every_event=True,
)

#: What is measured of models over time.
MODEL_MEASUREMENTS = Table(
    name="model_measurements",
    key={ModelMeasured: ("model_hash", "position")},
    columns={
        "kind": each({ModelMeasured: "kind"}),
        "measured_at": each({ModelMeasured: "measured_at"}),
        "measurement": each({ModelMeasured: col("state")}, json=True),
    },
    every_event=True,
)

_WATCHED = {
    "model_hash": col("model_hash"),
    "measure": col("measure"),
    "feature": col("feature").fill_null(""),
}

#: What is watched of models: raised and not cleared is open.
MODEL_ALERTS = Table(
    name="model_alerts",
    key={ModelAlertRaised: _WATCHED, ModelAlertCleared: _WATCHED},
    columns={
        "kind": first({ModelAlertRaised: "kind"}),
        "open": last({ModelAlertRaised: lit(True), ModelAlertCleared: lit(False)}),
        "value": last({ModelAlertRaised: "value", ModelAlertCleared: "value"}),
        "threshold": last({ModelAlertRaised: "threshold", ModelAlertCleared: "threshold"}),
        "sentence": last({ModelAlertRaised: "sentence"}),
        "raised_at": last({ModelAlertRaised: "raised_at"}),
        "cleared_at": last({ModelAlertCleared: "cleared_at"}),
        "times": count(ModelAlertRaised),
    },
)

TABLES = (MODEL_LIST, MODEL_ROLES, MODEL_DEPLOYMENTS, MODEL_MEASUREMENTS, MODEL_ALERTS)
