"""Models: what was registered, who approved it, which one is the champion of its kind."""

from __future__ import annotations

from polars import lit

from domain.models import ModelApproved, ModelDeployed, ModelRegistered
from projections.fold import first, last
from projections.table import Table

MODEL_LIST = Table(
    name="model_list",
    key=dict.fromkeys((ModelRegistered, ModelApproved, ModelDeployed), ("model_hash",)),
    columns={
        "kind": first({ModelRegistered: "kind"}),
        "stage": last(
            {
                ModelRegistered: lit("registered"),
                ModelApproved: lit("approved"),
                ModelDeployed: lit("deployed"),
            }
        ),
        "registered_by": first({ModelRegistered: "registered_by"}),
        "registered_at": first({ModelRegistered: "registered_at"}),
        "approved_by": first({ModelApproved: "approved_by"}),
        "approved_at": first({ModelApproved: "approved_at"}),
        "deployed_by": last({ModelDeployed: "deployed_by"}),
        "deployed_at": last({ModelDeployed: "deployed_at"}),
        "deployed_position": last({ModelDeployed: "position"}),
        "registered": first({ModelRegistered: "state"}, json=True),
    },
)

CHAMPIONS = Table(
    name="champions",
    key={ModelDeployed: ("kind",)},
    columns={
        "model_hash": last({ModelDeployed: "model_hash"}),
        "schema_hash": last({ModelDeployed: "schema_hash"}),
        "deployed_at": last({ModelDeployed: "deployed_at"}),
    },
)

TABLES = (MODEL_LIST, CHAMPIONS)
