"""Every endpoint that takes a command, of all areas."""

from __future__ import annotations

from collections.abc import Mapping

from api import (
    alerts,
    api_keys,
    assignments,
    clients,
    decisions,
    forecasts,
    inventory,
    metrics,
    models,
    notifications,
    orders,
    organisations,
    policies,
    products,
    reviews,
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
from api.commands import Post

#: By the name of its command.
POSTS: Mapping[str, Post] = {
    post.command.__name__: post
    for area in (
        orders,
        shipments,
        sites,
        inventory,
        stock_keeping,
        transport,
        decisions,
        reviews,
        policies,
        models,
        tasks,
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
        notifications,
    )
    for post in area.POSTS
}
