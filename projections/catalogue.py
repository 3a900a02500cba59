"""Every read model by name."""

from __future__ import annotations

from collections.abc import Mapping

from projections import (
    audit,
    decisions,
    inventory,
    kpis,
    models,
    orders,
    people,
    policies,
    transport,
)
from projections.table import Table

TABLES: Mapping[str, Table] = {
    table.name: table
    for area in (orders, inventory, transport, decisions, models, policies, people, kpis, audit)
    for table in area.TABLES
}
