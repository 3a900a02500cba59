"""A server with a made year, a deployed model and decisions, to be held against its document."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventstore.embedded import EmbeddedPostgres
from tests.conftest import TEST_SETTINGS, remove_server
from tests.serving import Served, serving_process
from tests.world import a_year, company, deployed_model, open_orders, request

ORDERS = 600


@contextmanager
def served(home: Path) -> Iterator[Served]:
    """The server, on a PostgreSQL of its own in ``home``; both are gone afterwards."""
    home.chmod(0o755)  # root's server runs as `nobody`
    postgres = EmbeddedPostgres(home / "data", settings=TEST_SETTINGS)
    try:
        url = postgres.start()
        asyncio.run(_fill(url))
        with serving_process(url, home) as (server, _):
            yield server
    finally:
        remove_server(home / "data")


async def _fill(url: str) -> None:
    async with company(url) as app:
        await a_year(app, ORDERS)
        await deployed_model(app)
        for number, order_id in enumerate(await open_orders(app, 5), start=1):
            await request(app, f"D-{number}", order_id)
        await app.consumer.catch_up()
        await app.projector.catch_up()
