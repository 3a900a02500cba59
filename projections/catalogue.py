"""Every read model by name."""

from __future__ import annotations

from collections.abc import Mapping

from projections import (
    alerts,
    api_keys,
    assignments,
    audit,
    clients,
    decisions,
    forecasts,
    inventory,
    kpis,
    metrics,
    models,
    orders,
    organisations,
    people,
    policies,
    products,
    route_rules,
    schedules,
    shipments,
    simulations,
    sites,
    stock_keeping,
    tariffs,
    tasks,
    tours,
    transport,
    webhooks,
)
from projections.table import Table

TABLES: Mapping[str, Table] = {
    table.name: table
    for area in (
        orders,
        shipments,
        sites,
        inventory,
        stock_keeping,
        transport,
        decisions,
        models,
        policies,
        tasks,
        people,
        webhooks,
        organisations,
        api_keys,
        products,
        clients,
        assignments,
        route_rules,
        tours,
        tariffs,
        forecasts,
        simulations,
        metrics,
        schedules,
        alerts,
        kpis,
        audit,
    )
    for table in area.TABLES
}
