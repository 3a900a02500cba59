"""Every endpoint that takes a command, of all areas."""

from __future__ import annotations

from collections.abc import Mapping

from api import (
    api_keys,
    decisions,
    inventory,
    models,
    orders,
    organisations,
    policies,
    reviews,
    tasks,
    transport,
    webhooks,
)
from api.commands import Post

#: By the name of its command.
POSTS: Mapping[str, Post] = {
    post.command.__name__: post
    for area in (
        orders,
        inventory,
        transport,
        decisions,
        reviews,
        policies,
        models,
        tasks,
        webhooks,
        organisations,
        api_keys,
    )
    for post in area.POSTS
}
