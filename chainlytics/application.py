"""Builds the system by hand: everything that one event loop runs, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta

from psycopg_pool import AsyncConnectionPool

from chainlytics.settings import Settings
from commands import Bus
from eventstore import Log, Writer, prepare_database
from eventstore.artifacts import Artifacts
from eventstore.embedded import EmbeddedPostgres
from eventstore.log import Connection
from eventstore.retention import keep_pruned
from eventstore.streams import Streams
from ml.catalogue import HANDLERS
from ml.decisions import DecisionConsumer
from ml.watch import keep_measured
from projections.catalogue import TABLES
from projections.projector import Projector

_PRUNE_EVERY = timedelta(hours=1)
_MEASURE_EVERY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Application:
    """The parts that one event loop works with."""

    url: str
    pool: AsyncConnectionPool[Connection]
    log: Log
    bus: Bus
    artifacts: Artifacts
    projector: Projector
    consumer: DecisionConsumer


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The database's URL: the one of the settings, or the embedded server's, started for us.

    The embedded server is stopped by the last process that leaves it.

    Raises:
        EmbeddedPostgresError: it cannot be started.
        psycopg.OperationalError: the database of ``DATABASE_URL`` cannot be reached.
    """
    if settings.database_url is not None:
        prepare_database(settings.database_url)
        yield settings.database_url
        return
    server = EmbeddedPostgres(settings.home)
    url = server.start()
    try:
        prepare_database(url)
        yield url
    finally:
        server.stop(only_if_idle=True)


@asynccontextmanager
async def application(url: str, *, pool_size: int = 10) -> AsyncIterator[Application]:
    """Everything wired to one database; closed in the other order."""
    pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
        url, min_size=1, max_size=pool_size, open=False, timeout=15, kwargs={"autocommit": True}
    )
    async with pool, Streams(url) as streams, Writer(url) as writer:
        log = Log(pool)
        bus = Bus(log, streams, writer, HANDLERS)
        artifacts = Artifacts(log)
        yield Application(
            url=url,
            pool=pool,
            log=log,
            bus=bus,
            artifacts=artifacts,
            projector=Projector(url, list(TABLES.values())),
            consumer=DecisionConsumer(url, bus, artifacts),
        )


async def run_workers(
    url: str,
    *,
    projector: bool,
    consumer: bool,
    remember: timedelta | None = None,
    measure: timedelta | None = _MEASURE_EVERY,
) -> None:
    """Run read models and decisions behind the log until cancelled.

    ``remember``: how long the ids of accepted commands are kept; None keeps them for ever.
    ``measure``: how often the consumer's models are measured; None: never.
    """
    async with application(url, pool_size=4) as app, asyncio.TaskGroup() as group:
        if projector:
            group.create_task(app.projector.run(), name="projector")
        if consumer:
            await app.consumer.prepare()
            group.create_task(app.consumer.run(), name="decision consumer")
            if measure is not None:
                watching = keep_measured(url, app.log, app.artifacts, app.bus, every=measure)
                group.create_task(watching, name="model monitor")
        if remember is not None:
            group.create_task(keep_pruned(url, remember, every=_PRUNE_EVERY), name="retention")
