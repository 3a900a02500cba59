"""Servers: everything under one command, or each part by itself."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Annotated
from uuid import UUID

import structlog
import typer
import uvicorn
import uvloop
from fastapi import FastAPI

from api.app import create_app
from api.authorisation import Authorisation
from api.dependencies import Dependencies
from api.identity.profiles import Profiles
from api.intake import keep_taken_in
from api.live import Live, Terms
from api.serving import MOST_BYTES, Http, Sockets
from api.tokens import Issuer
from chainlytics import __version__
from chainlytics.application import (
    application,
    archive_of,
    database,
    feeding,
    relay_of,
    run_workers,
    sealing_of,
)
from chainlytics.cli.bundle import verifier_program
from chainlytics.cli.console import CliError, Organisation, console
from chainlytics.health import Pulse, serving_health
from chainlytics.identity import identity
from chainlytics.settings import Settings, operator, organisation_id
from chainlytics.tasks import tools_of
from chainlytics.telemetry import following, tracing_of
from chainlytics.webhooks import deliver, webhooks_of
from domain.access import Role
from eventstore.probe import Probe
from eventstore.spans import Spans
from eventstore.subscription import Bell
from eventstore.uploads import Uploads
from eventstore.witnesses.addresses import witnesses_of
from ml.bundle import Bundles
from ml.hypotheses import Hypotheses
from ml.replay import Replayed, replay
from readmodels.exports import Exports
from readmodels.past import Past
from readmodels.positions import Positions

_log = structlog.get_logger(__name__)
Host = Annotated[str | None, typer.Option(help="Address to listen on; loopback by default.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on.")]
HealthPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="Answer /health/live, /health/ready and /metrics on this port; off by default.",
    ),
]


def serve(host: Host = None, port: Port = None) -> None:
    """Run it all: database, API, read models and decisions. Ctrl-C stops it; nothing is lost."""
    settings = _settings(host, port)
    with (
        contextlib.closing(_listen(settings.host, settings.port)) as listener,
        database(settings) as url,
        _workers_in_thread(url, settings),
    ):
        _welcome(settings)
        _serve_api(settings, url, listener)


def api(host: Host = None, port: Port = None, health_port: HealthPort = None) -> None:
    """Run the API alone."""
    settings = _settings(host, port)
    pulse = Pulse()
    with (
        contextlib.closing(_listen(settings.host, settings.port)) as listener,
        _health(settings, health_port, pulse),
        database(settings) as url,
    ):
        _serve_api(settings, url, listener, pulse)


def projector(health_port: HealthPort = None) -> None:
    """Run the read models alone."""
    _run_alone(projector=True, consumer=False, health_port=health_port)


def consumer(health_port: HealthPort = None) -> None:
    """Run the decision consumer alone."""
    _run_alone(projector=False, consumer=True, health_port=health_port)


def token(
    role: Annotated[
        list[Role] | None, typer.Option(help="May be repeated; admin by default.")
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Who it speaks for; you by default.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=24 * 365)] = 12,
    organisation: Organisation = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write it to this file, which only its owner reads, and print nothing."),
    ] = None,
) -> None:
    """Print a bearer token of the built-in development issuer."""
    settings = Settings()
    issued = Issuer(settings.issuer_secret()).issue(
        subject=actor or operator(),
        organisation_id=organisation_id(organisation or settings.organisation),
        roles=frozenset(role or [Role.ADMIN]),
        ttl=timedelta(hours=hours),
    )
    if out is None:
        typer.echo(issued)
    else:
        _keep(issued, out)


def _keep(token: str, file: Path) -> None:
    """Put a token into a file that is whole at any moment."""
    made: str | None = None
    try:
        descriptor, made = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # 0600
        with os.fdopen(descriptor, "w", encoding="ascii") as opened:
            opened.write(token)
        Path(made).replace(file)
    except OSError as error:
        if made is not None:
            Path(made).unlink(missing_ok=True)
        raise CliError(f"{file} cannot be written: {error.strerror}") from error


def build_api(settings: Settings, url: str, pulse: Pulse | None = None) -> FastAPI:
    """The API with what it needs; opened and closed with the server's life.

    ``pulse``: beats while it serves.
    """

    tracing = tracing_of(settings, "api")

    @asynccontextmanager
    async def beating_parts() -> AsyncIterator[Dependencies]:
        try:
            async with (
                open_parts(settings, url, tracing) as parts,
                (pulse or Pulse()).beating(url),
            ):
                yield parts
        finally:
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    return create_app(
        beating_parts,
        version=__version__,
        spans=tracing,
        limits=settings.limits(),
        origins=settings.cors_origins,
    )


@asynccontextmanager
async def open_parts(
    settings: Settings, url: str, spans: Spans | None = None
) -> AsyncIterator[Dependencies]:
    """What commands and queries work with, whichever way they come in. ``spans``: follows requests;
    None: nobody does."""
    async with (
        application(
            url,
            pool_size=settings.pool_size,
            master=settings.personal_key,
            api_url=settings.api_database_url,
            query_timeout_s=settings.query_timeout_s,
            spans=spans,
        ) as parts,
        Positions(parts.log, url) as positions,
        Bell(url) as news,
        Probe(url) as probe,
        identity(settings, parts.log, url) as (authenticator, accounts),
        Live(parts.log, news, terms_of(settings), settings.cors_origins) as live,
    ):
        await parts.projector.create()
        turn = asyncio.Lock()
        issuer = Issuer(settings.issuer_secret())

        async def replay_one(organisation: UUID, decision_id: str) -> list[Replayed]:
            # It reads the log up to the decision: auditors wait for each other, nobody else.
            async with turn:
                return await replay(url, parts.log, parts.artifacts, organisation, [decision_id])

        yield Dependencies(
            bus=parts.bus,
            log=parts.log,
            issuer=issuer,
            authorisation=Authorisation(
                authenticator,
                parts.memberships,
                parts.log,
                secret=hmac.digest(settings.issuer_secret().encode(), b"given secrets", "sha256"),
            ),
            authenticator=authenticator,
            accounts=accounts,
            profiles=Profiles(parts.log),
            positions=positions,
            past=Past(parts.log, url),
            news=news,
            live=live,
            replay=replay_one,
            hypotheses=Hypotheses(parts.artifacts),
            bundles=Bundles(parts.log, parts.artifacts, verifier_program()),
            attempts=parts.attempts,
            people=parts.people,
            webhooks=webhooks_of(parts, settings),
            retention=settings.retention,
            uploads=Uploads(parts.log),
            exports=Exports(),
            upload_bytes=settings.upload_bytes,
            probe=probe,
            pools=lambda: {
                name: pool.get_stats()
                for name, pool in (("log", parts.pool), ("queries", parts.asking))
                if pool is not None
            },
            witnesses=tuple(one.name for one in witnesses_of(settings.witnesses)),
            kafka_prefix=settings.kafka_prefix,
            kafka_lanes=settings.kafka_lanes,
        )


async def take_in(url: str, settings: Settings, spans: Spans | None = None) -> None:
    """Take commands in from the Kafka cluster of the settings until cancelled."""
    cluster = settings.cluster()
    assert cluster is not None
    async with open_parts(settings, url, spans) as parts:
        await keep_taken_in(
            cluster, parts, lanes=settings.kafka_lanes, replication=settings.kafka_replication
        )


def terms_of(settings: Settings) -> Terms:
    """What live connections get by the settings."""
    return Terms(
        connections=settings.live_connections,
        per_identity=settings.live_connections_per_identity,
        per_organisation=settings.live_connections_per_organisation,
        slow_s=settings.live_slow_s,
        heartbeat_s=settings.live_heartbeat_s,
        recheck_s=settings.live_recheck_s,
    )


def _settings(host: str | None, port: int | None) -> Settings:
    settings = Settings()
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return settings.model_copy(update=changes)


def _welcome(settings: Settings) -> None:
    address = f"http://{settings.host}:{settings.port}"
    bearer = Issuer(settings.issuer_secret()).issue(
        subject=operator(),
        organisation_id=settings.organisation_id,
        roles=frozenset({Role.ADMIN}),
        ttl=timedelta(hours=12),
    )
    console.print(f"[bold]Chainlytics {__version__}[/] on {address}; try {address}/docs")
    console.print("an admin's token for 'Authorize' (12 hours; others: chainlytics token --help):")
    typer.echo(bearer)


def _serve_api(
    settings: Settings, url: str, listener: socket.socket, pulse: Pulse | None = None
) -> None:
    serve_app(build_api(settings, url, pulse), listener)


def serve_app(app: FastAPI, listener: socket.socket) -> None:
    """Serve the API until the process is told to stop."""
    _Server(server_config(app), app).run(sockets=[listener])


def server_config(app: FastAPI, log_level: str = "warning") -> uvicorn.Config:
    """How the API is served."""
    return uvicorn.Config(
        app,
        log_level=log_level,
        access_log=False,
        proxy_headers=False,  # api/limits.py believes the proxies of the settings only
        timeout_graceful_shutdown=5,
        server_header=False,
        http=Http,
        ws=Sockets,
        ws_max_size=MOST_BYTES,
    )


class _Server(uvicorn.Server):
    """Tells live streams to end before it waits for connections to close."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: end streams, finish requests, close."""
        self._app.state.stopping.set()
        await super().shutdown(sockets)
        # uvicorn would raise the signal again and end the process here and now; workers and the
        # database are still to be stopped.
        self._captured_signals.clear()


def _listen(host: str, port: int, option: str = "--port") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CliError(f"port {port} on {host} is taken; name another: {option} N") from error
        raise CliError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


@contextmanager
def _workers_in_thread(url: str, settings: Settings) -> Iterator[None]:
    """Read models and decisions on an event loop of their own: a long batch holds up no request."""
    loop = asyncio.new_event_loop()
    retention = settings.retention
    archive = archive_of(url, settings)
    sealing = sealing_of(url, settings)
    spans = tracing_of(settings, "workers")

    async def work() -> None:
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    workers = run_workers(
                        url,
                        projector=True,
                        consumer=True,
                        cluster=feeding(settings),
                        relay=relay_of(url, settings),
                        retention=retention,
                        archive=archive,
                        sealing=sealing,
                        spans=spans,
                        tasks=tools_of(url, settings),
                        tasks_at_once=settings.tasks_at_once,
                        tasks_of_kind=settings.tasks_of_kind(),
                        schedules=True,
                        alerts=True,
                        mail=settings.mail_adapter(),
                    )
                    group.create_task(workers, name="workers")
                    group.create_task(deliver(url, settings), name="webhooks")
                    if settings.cluster() is not None:
                        group.create_task(take_in(url, settings, spans), name="intake")
            except Exception as error:
                _log.error("workers start again", error=str(error), exc_info=True)
                await asyncio.sleep(2)

    task = loop.create_task(work())

    def body() -> None:
        asyncio.set_event_loop(loop)
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()
        if spans is not None:
            spans.close()

    thread = Thread(target=body, name="workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        # This one task only: the others close their connections as it unwinds.
        loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=20)


def _run_alone(*, projector: bool, consumer: bool, health_port: int | None) -> None:
    settings = Settings()

    async def work(url: str) -> None:
        await run_workers(
            url,
            projector=projector,
            consumer=consumer,
            cluster=feeding(settings),
            retention=settings.retention,
            archive=archive_of(url, settings) if projector else None,
            sealing=sealing_of(url, settings) if projector else None,
            spans=spans,
        )

    with following(settings, "projector" if projector else "consumer") as spans:
        run_worker(work, health_port)


def run_worker(work: Callable[[str], Awaitable[None]], health_port: int | None = None) -> None:
    """Run a worker on the database of the settings until it ends or is told to stop.

    ``health_port``: where its health is asked for; the settings say it where it is None.
    """
    settings = Settings()
    pulse = Pulse()

    async def until_told(url: str) -> None:
        task = asyncio.ensure_future(work(url))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        async with pulse.beating(url):
            try:
                await task
            except asyncio.CancelledError:
                pass
            except Exception:
                _log.error("worker ended", exc_info=True)
                raise

    with _health(settings, health_port, pulse), database(settings) as url:
        uvloop.run(until_told(url))


@contextmanager
def _health(settings: Settings, port: int | None, pulse: Pulse) -> Iterator[None]:
    """Tell a process's health on a port, or on that of the settings, if there is one."""
    port = settings.health_port if port is None else port
    if port is None:
        yield
    else:
        listener = _listen(settings.health_host, port, "--health-port")
        with serving_health(listener, pulse):
            yield
