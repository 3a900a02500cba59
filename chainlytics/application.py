"""Builds the system by hand: everything that one event loop runs, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool

from api.identity.mail import Mail
from api.notifier import Notifier
from chainlytics.settings import Settings
from commands import Bus
from commands.erasing import keep_erased
from commands.membership import Memberships
from domain.catalogue import AREAS, TOPICS
from domain.decisions import DecisionRequested
from domain.errors import Refused
from domain.work import Kind as TaskKind
from eventstore import Log, Writer, prepare_database
from eventstore.archive.writer import Archive, keep_written
from eventstore.artifacts import Artifacts
from eventstore.attempts import Attempts
from eventstore.embedded import EmbeddedPostgres
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.feed import Feed
from eventstore.kafka.relay import Relay, keep_relayed
from eventstore.kafka.topics import OTHER
from eventstore.log import Connection
from eventstore.persons.keys import PersonKeys
from eventstore.retention import Retention, keep_pruned
from eventstore.roles import conninfo_of_queries
from eventstore.seals.proofs import Proofs
from eventstore.seals.sealer import Sealer, keep_sealed
from eventstore.seals.signing import WrongKey
from eventstore.spans import Spans
from eventstore.streams import Streams
from eventstore.trail import Trail
from eventstore.witnesses.addresses import witnesses_of
from eventstore.witnesses.witness import Witness
from eventstore.witnesses.witnessed import keep_witnessed
from ml.alerts import Watcher
from ml.catalogue import HANDLERS
from ml.decisions import DecisionConsumer
from ml.job import OpenTools
from ml.schedules import Scheduler
from ml.tasks import TaskWorker
from ml.watch import keep_measured
from projections.catalogue import TABLES
from projections.lane_projector import LaneProjector
from projections.projector import Projector
from projections.segments import DECODER, typed
from readmodels.people import People

#: How the topics of decision requests begin, whatever their version.
REQUESTS = TOPICS[DecisionRequested].rpartition("v")[0]
#: The areas whose topics consumers read: all, since every event names the one before it.
FED = (*AREAS, OTHER)
_PRUNE_EVERY = timedelta(hours=1)
_MEASURE_EVERY = timedelta(hours=1)
_ARCHIVE_EVERY = timedelta(minutes=1)
_ERASE_EVERY = timedelta(seconds=2)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Application:
    """The parts that one event loop works with."""

    url: str
    pool: AsyncConnectionPool[Connection]
    #: Of queries; the same one where there is no other.
    asking: AsyncConnectionPool[Connection] | None
    log: Log
    attempts: Attempts
    bus: Bus
    memberships: Memberships
    artifacts: Artifacts
    projector: Projector
    consumer: DecisionConsumer
    people: People


@dataclass(frozen=True, slots=True)
class Sealing:
    """What seals the log, how often, and who is handed its signed heads."""

    sealer: Sealer
    every: timedelta
    witnesses: tuple[Witness, ...] = ()


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


def _no_master_key() -> bytes:
    raise Refused("person.cannot_be_encrypted")


def archive_of(url: str, settings: Settings) -> Archive | None:
    """What writes the archive of the settings; None: they name none."""
    location = settings.archive_location
    if location is None:
        return None
    return Archive(url, location, typed, decoder=DECODER, positions=settings.archive_positions)


def sealing_of(url: str, settings: Settings) -> Sealing | None:
    """How the log is sealed by the settings; None: they give no key."""
    sealer = sealer_of(url, settings)
    if sealer is None:
        _log.warning("nothing is sealed: set CHAINLYTICS_SEAL_KEY, the same for all processes")
        return None
    every = timedelta(seconds=settings.seal_every_s)
    return Sealing(sealer, every, tuple(witnesses_of(settings.witnesses)))


def sealer_of(url: str, settings: Settings) -> Sealer | None:
    """What seals the log with the key of the settings; None: they give none."""
    if settings.signing_key() is None:
        return None

    def key() -> Ed25519PrivateKey:
        found = settings.signing_key()
        if found is None:
            raise WrongKey(f"there is no signing key in {settings.seal_key_file} any more")
        return found

    return Sealer(url, key, REQUESTS, memory=settings.home / "seal.head")


def relay_of(url: str, settings: Settings) -> Relay | None:
    """What publishes the log to the cluster of the settings; None: they name none."""
    cluster = settings.cluster()
    if cluster is None:
        return None
    lanes, replication = settings.kafka_lanes, settings.kafka_replication
    return Relay(url, cluster, AREAS, lanes=lanes, replication=replication)


def feeding(settings: Settings) -> Cluster | None:
    """The cluster that consumers get events from; None: they read the database."""
    return settings.cluster() if settings.transport == "kafka" else None


async def _lanes_folded(url: str, cluster: Cluster, spans: Spans | None) -> None:
    """Run the read models on the lanes that Kafka gives us."""
    projector = LaneProjector(url, list(TABLES.values()), spans=spans)
    building = await projector.prepare()
    async with asyncio.TaskGroup() as group:
        group.create_task(projector.build(building), name="rebuild")
        group.create_task(Feed(url, cluster, "projector", FED, projector).run(), name="feed")


def _pool(conninfo: str, size: int, least: int = 1) -> AsyncConnectionPool[Connection]:
    return AsyncConnectionPool(
        conninfo, min_size=least, max_size=size, open=False, timeout=15, kwargs={"autocommit": True}
    )


@asynccontextmanager
async def _pool_of_queries(
    owners: AsyncConnectionPool[Connection],
    url: str,
    given: str | None,
    size: int,
    timeout_s: float,
) -> AsyncIterator[AsyncConnectionPool[Connection] | None]:
    """Connections of the role that queries run as, made as they are needed; ``size`` 0: none."""
    if not size:
        yield None
        return
    async with owners.connection() as owner:
        conninfo = await conninfo_of_queries(owner, url, given)
    # One query that reads for minutes would keep a connection from all others.
    options = conninfo_to_dict(conninfo).get("options") or ""
    bound = f"{options} -c statement_timeout={round(timeout_s * 1000)}"
    conninfo = make_conninfo(conninfo, options=bound.strip())
    async with _pool(conninfo, size, least=0) as pool:
        yield pool


@asynccontextmanager
async def application(
    url: str,
    *,
    pool_size: int = 10,
    master: Callable[[], bytes] = _no_master_key,
    api_url: str | None = None,
    queries: bool = True,
    spans: Spans | None = None,
    query_timeout_s: float = 0,
) -> AsyncIterator[Application]:
    """Everything wired to one database; closed in the other order.

    ``master``: gives the master key of personal data, when it is first needed.
    ``api_url``: of a login made for queries; without it one follows from ``url``.
    ``queries``: whether read models are asked here; if not, ``Log.of`` refuses.
    ``spans``: follows requests; None: nobody does.
    ``query_timeout_s``: how long one query of a read model may take; 0: as long as it does.

    Raises:
        RoleUnusable: queries cannot run as a role of their own.
    """
    async with (
        _pool(url, pool_size) as pool,
        _pool_of_queries(
            pool, url, api_url, pool_size if queries else 0, query_timeout_s
        ) as asking,
        Attempts(log := Log(pool, asking)) as attempts,
        Streams(url) as streams,
        Writer(url, spans=spans) as writer,
    ):
        keys = PersonKeys(log, master)
        bus = Bus(log, streams, writer, HANDLERS, attempts=attempts, keyring=keys, spans=spans)
        artifacts = Artifacts(log)
        yield Application(
            url=url,
            pool=pool,
            asking=asking,
            log=log,
            attempts=attempts,
            bus=bus,
            memberships=Memberships(streams),
            artifacts=artifacts,
            projector=Projector(url, list(TABLES.values()), spans=spans),
            consumer=DecisionConsumer(url, bus, artifacts, spans=spans),
            people=People(keys, Trail(log)),
        )


async def run_workers(
    url: str,
    *,
    projector: bool,
    consumer: bool,
    cluster: Cluster | None = None,
    relay: Relay | None = None,
    retention: Retention | None = None,
    archive: Archive | None = None,
    sealing: Sealing | None = None,
    measure: timedelta | None = _MEASURE_EVERY,
    spans: Spans | None = None,
    tasks: OpenTools | None = None,
    tasks_at_once: int = 1,
    tasks_kinds: Collection[TaskKind] | None = None,
    tasks_of_kind: Mapping[TaskKind, int] | None = None,
    schedules: bool = False,
    alerts: bool = False,
    mail: Mail | None = None,
) -> None:
    """Run read models and decisions behind the log until cancelled.

    ``cluster``: where they get the log's events from; None: from the database.
    ``relay``: publishes the log to Kafka; None: nobody here does.
    ``retention``: how long each class of record is kept; None keeps all for ever.
    ``sealing``: seals the log and hands its heads to witnesses; None: nobody here does.
    ``archive``: writes sealed ranges of the log into the archive; None: nobody here does.
    ``measure``: how often the consumer's models are measured; None: never.
    ``spans``: follows requests; None: nobody does.
    ``tasks``: opens what tasks are done with, ``tasks_at_once`` of them, those of ``tasks_kinds``
    alone (None: of all), ``tasks_of_kind`` of each; None: none is done here.
    ``schedules``: asks for the tasks of schedules that are due.
    ``alerts``: raises and resolves alerts, and tells subscribers of them by ``mail``, if there is a
    way to send it.
    """
    async with (
        application(url, pool_size=4, queries=False, spans=spans) as app,
        asyncio.TaskGroup() as group,
    ):
        if projector:
            run = app.projector.run() if cluster is None else _lanes_folded(url, cluster, spans)
            group.create_task(run, name="projector")
            group.create_task(keep_erased(url, every=_ERASE_EVERY), name="erasures")
        if consumer:
            await app.consumer.prepare()
            run = (
                app.consumer.run()
                if cluster is None
                else Feed(url, cluster, "decisions", FED, app.consumer).run()
            )
            group.create_task(run, name="decision consumer")
            if measure is not None:
                watching = keep_measured(url, app.log, app.artifacts, app.bus, every=measure)
                group.create_task(watching, name="model monitor")
        if tasks is not None:
            doing = TaskWorker(
                url,
                app.log,
                app.bus,
                tasks,
                at_once=tasks_at_once,
                kinds=tasks_kinds,
                of_kind=tasks_of_kind,
            )
            group.create_task(doing.run(), name="tasks")
        if schedules:
            clock = Scheduler(app.log, app.bus, app.memberships)
            group.create_task(clock.run(), name="schedules")
        if alerts:
            group.create_task(Watcher(app.log, app.bus).run(), name="alerts")
            if mail is not None:
                telling = Notifier(app.log, app.bus, app.memberships, mail)
                group.create_task(telling.run(), name="notifications")
        if relay is not None:
            group.create_task(keep_relayed(relay), name="relay")
        if sealing is not None:
            group.create_task(keep_sealed(sealing.sealer, every=sealing.every), name="sealer")
            path = Proofs(app.log).path
            handing = keep_witnessed(url, sealing.witnesses, every=sealing.every, proof=path)
            group.create_task(handing, name="witnesses")
        if archive is not None:
            group.create_task(keep_written(archive, every=_ARCHIVE_EVERY), name="archive")
        if retention is not None:
            group.create_task(keep_pruned(url, retention, every=_PRUNE_EVERY), name="retention")
