"""Kafka: the relay, how far it and those behind it are, its topics and lanes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer
from kafka.errors import KafkaError
from rich.filesize import decimal
from rich.markup import escape

from chainlytics.application import Application, relay_of
from chainlytics.cli.console import CliError, Json, console, emit, run, table
from chainlytics.cli.intake import cluster_of, letters
from chainlytics.cli.server import HealthPort, run_worker
from chainlytics.settings import Settings
from domain.catalogue import AREAS
from eventstore.kafka import relay_state, topics
from eventstore.kafka.relay import keep_relayed
from eventstore.kafka.topics import Topic, TopicNames, WrongPartitions
from eventstore.log import Connection
from ml.catalogue import FEATURE_TABLES
from projections.catalogue import TABLES
from readmodels.positions import Positions, ProjectionState
from readmodels.relay import RelayState
from readmodels.relay import relay_state as relaying

app = typer.Typer(no_args_is_help=True, help="Kafka: how far the relay is, its topics and lanes.")
app.add_typer(letters)
T = TypeVar("T")
#: What folds events that come by lanes.
_CONSUMERS = [*TABLES, *(one.name for one in FEATURE_TABLES)]

# A table that stands still on purpose is rebuilt before it goes on.
_UNEVEN = """SELECT p.name, p.position, max(l.position) AS furthest
    FROM projections p LEFT JOIN projection_lanes l
        ON l.name = p.name AND l.suffix = '' AND l.position > p.position
    WHERE p.name = ANY(%(names)s)
    GROUP BY p.name, p.position, p.held
    HAVING count(l.lane) > 0 OR (p.position < %(position)s AND NOT p.held) ORDER BY p.name"""


def relay(health_port: HealthPort = None) -> None:
    """Run the relay alone: it publishes the log to Kafka's topics, as it grows. Of several one does
    so, and the others stand by."""
    settings = Settings()
    cluster_of(settings)

    async def work(url: str) -> None:
        found = relay_of(url, settings)
        assert found is not None
        await keep_relayed(found)

    run_worker(work, health_port)


@app.command()
def status(json: Json = False) -> None:
    """Say how far the relay is behind the log, and read models behind the relay, lane by lane."""

    async def work(app: Application, _: Settings) -> tuple[RelayState, list[ProjectionState]]:
        await app.projector.create()
        return await relaying(app.log), await Positions(app.log, app.url).states()

    found, states = run(work)
    if json:
        consumers = [
            {"name": one.name, "position": one.position, "lanes": one.lanes} for one in states
        ]
        emit({"relay": found, "consumers": consumers})
        return
    rows = [
        ("state", found.state),
        ("epoch", found.epoch),
        ("position", f"{found.position:,} of {found.head:,}"),
        ("behind", f"{found.behind:,} events, {found.seconds_behind:.1f} s"),
        ("updated", None if found.updated_at is None else f"{found.updated_at:%Y-%m-%d %H:%M:%S}"),
        ("lanes", len(found.lanes)),
    ]
    table("Relay", ("", ""), rows)
    if not found.lanes:
        console.print("no relay has run on this log: chainlytics relay")
        return
    table("Lanes", ("lane", "position"), [(one.lane, f"{one.position:,}") for one in found.lanes])
    columns = ("consumer", "position", "lanes behind", "seconds behind")
    table("Consumers", columns, [_line(one) for one in states])


@app.command()
def restart(
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    json: Json = False,
) -> None:
    """Publish the whole log again, in a new epoch. What was published before counts no more; what
    read models have folded stays. A relay that runs notices by itself."""
    if not yes:
        typer.confirm("The whole log is published again. Do it?", abort=True, err=True)

    async def work(app: Application, _: Settings) -> object:
        async with app.log.connection() as connection:
            return await relay_state.begin_anew(connection)

    epoch = run(work)
    if epoch is None:
        raise CliError("no relay has run on this log: there is nothing to publish again")
    if json:
        emit({"epoch": str(epoch)})
    else:
        console.print(f"the relay begins anew, in epoch {epoch}", soft_wrap=True)


@app.command("topics")
def list_topics(
    create: Annotated[
        bool, typer.Option("--create", help="Create those that are missing first.")
    ] = False,
    json: Json = False,
) -> None:
    """List the topics that carry the log, their partitions and sizes."""
    settings = Settings()
    cluster = cluster_of(settings)
    names = list(TopicNames(cluster, AREAS))

    async def lanes_of(app: Application, _: Settings) -> int:
        async with app.log.connection() as connection:
            known = await relay_state.state(connection)
        return settings.kafka_lanes if known is None else known.lanes

    if create:
        lanes = run(lanes_of)
        replication = settings.kafka_replication
        _asked(lambda: topics.ensure_topics(cluster, names, lanes, replication))
    found: list[Topic] = _asked(lambda: topics.topics(cluster, names))
    missing = sorted(set(names) - {one.name for one in found})
    if json:
        emit({"topics": [one._asdict() for one in found], "missing": missing})
        return
    rows = [(one.name, one.partitions, one.replication, decimal(one.bytes)) for one in found]
    table("Topics", ("topic", "partitions", "copies", "size"), rows, whole_first=True)
    if missing:
        told = escape(", ".join(missing))
        console.print(f"missing, the relay or --create makes them: {told}", soft_wrap=True)


@app.command("lanes")
def set_lanes(
    number: Annotated[int, typer.Argument(min=1, max=1000, help="How many there shall be.")],
    json: Json = False,
) -> None:
    """Make more lanes, so that more consumers can share the work: more partitions of each topic.

    Stop the relay first, and let consumers come to where it is. There cannot be fewer: Kafka takes
    no partition away.
    """
    cluster = cluster_of(Settings())
    names = list(TopicNames(cluster, AREAS))

    async def work(app: Application, _: Settings) -> int:
        await app.projector.create()
        async with app.log.connection() as connection:
            if not await relay_state.lease(connection):
                raise CliError("a relay is running: stop it first")
            try:
                return await _widen(connection)
            finally:
                await relay_state.release(connection)

    async def _widen(connection: Connection) -> int:
        known = await relay_state.state(connection)
        if known is None:
            raise CliError("no relay has run on this log: set CHAINLYTICS_KAFKA_LANES instead")
        if number < known.lanes:
            raise CliError(
                f"there are {known.lanes} lanes, and there cannot be fewer: Kafka takes no "
                "partition away; other topics can have fewer, by CHAINLYTICS_KAFKA_PREFIX"
            )
        if number == known.lanes:
            return known.lanes
        await _check_level(connection, known.position)
        await asyncio.to_thread(lambda: _asked(lambda: topics.widen_topics(cluster, names, number)))
        async with connection.transaction():
            await relay_state.hold(connection)
            await _check_level(connection, known.position)
            await relay_state.widen(connection, number)
        return known.lanes

    before = run(work)
    if json:
        emit({"before": before, "lanes": number})
    else:
        console.print(
            f"there are {number} lanes already" if before == number else f"{number} lanes"
        )


async def _check_level(connection: Connection, position: int) -> None:
    """Raise unless every table is as far in all lanes, and has all that was relayed: in which of
    the new lanes an event of an old one would be, nobody could say."""
    cursor = await connection.execute(_UNEVEN, {"names": _CONSUMERS, "position": position})
    for name, reached, furthest in await cursor.fetchall():
        if furthest is not None:
            told = f"it has come to {furthest:,} in some lane and to {reached:,} in all"
        else:
            told = f"it is at {reached:,}, and the relay at {position:,}"
        raise CliError(f"{name} is not level: {told}; let consumers run while the relay stands")


def _asked(question: Callable[[], T]) -> T:
    """What the brokers answered, or a clear sentence why they did not."""
    try:
        return question()
    except WrongPartitions as error:
        raise CliError(str(error)) from error
    except (KafkaError, OSError) as error:
        raise CliError(f"the Kafka brokers do not answer, or refused: {error}") from error


def _line(one: ProjectionState) -> tuple[object, ...]:
    behind = [lane for lane in one.lanes if lane.behind]
    told = ", ".join(f"{lane.lane}: {lane.behind:,}" for lane in behind) or "none"
    waiting = max((lane.seconds_behind for lane in behind), default=0.0)
    return one.name, f"{one.position:,}", told, f"{waiting:.1f}"
