"""Every command by name, and its handler."""

from __future__ import annotations

from collections.abc import Mapping

from commands import (
    alerts,
    api_keys,
    assignments,
    clients,
    decisions,
    forecasts,
    inventory,
    metrics,
    models,
    orders,
    organisations,
    people,
    policies,
    products,
    reviews,
    route_rules,
    schedules,
    simulations,
    sites,
    stock_keeping,
    tariffs,
    tasks,
    tours,
    transport,
    webhooks,
)
from commands.handler import Handler
from domain.values import Command

HANDLERS: Mapping[type[Command], Handler] = {
    handler.command: handler
    for area in (
        orders,
        sites,
        inventory,
        stock_keeping,
        decisions,
        models,
        transport,
        reviews,
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
    )
    for handler in area.HANDLERS
}

COMMANDS: Mapping[str, type[Command]] = {command.__name__: command for command in HANDLERS}
