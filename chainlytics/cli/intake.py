"""Commands by Kafka: take them in, and put back what could not be taken."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from kafka.errors import KafkaError
from rich.markup import escape

from api.authorisation import is_api_key
from api.intake import keep_taken_in
from api.tokens import InvalidToken, Issuer
from chainlytics.cli.console import CliError, Json, console, emit, table
from chainlytics.cli.server import HealthPort, open_parts, run_worker
from chainlytics.settings import Settings
from chainlytics.telemetry import following
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.letters import CannotReplay, Letter, dead_letters, replaying

#: The group `dead-letters` of `chainlytics kafka`.
letters = typer.Typer(
    name="dead-letters", help="Commands by Kafka that could not be taken.", no_args_is_help=True
)
#: Long enough for a backlog in front of it.
_FRESH = timedelta(hours=1)


def intake(health_port: HealthPort = None) -> None:
    """Run the intake of commands from Kafka alone."""
    settings = Settings()
    cluster = cluster_of(settings)

    async def work(url: str) -> None:
        async with open_parts(settings, url, spans) as parts:
            await keep_taken_in(
                cluster,
                parts,
                lanes=settings.kafka_lanes,
                replication=settings.kafka_replication,
            )

    with following(settings, "intake") as spans:
        run_worker(work, health_port)


@letters.command("list")
def list_letters(
    json: Json = False,
    limit: Annotated[int, typer.Option(min=1, help="The latest so many.")] = 50,
) -> None:
    """List commands that could not be taken: which, why, and whether they were put back."""
    found = _found(cluster_of(Settings()))
    shown = found[-limit:]
    if json:
        emit([_plain(one) for one in shown])
    elif not shown:
        console.print("Dead letters: none yet")
    else:
        title = f"Dead letters: {len(shown)} of {len(found)}, the latest last"
        columns = ("partition", "offset", "at", "command", "id", "reason", "replayed")
        table(title, columns, [_line(one) for one in shown])


@letters.command("replay")
def replay_letters(
    partition: Annotated[int | None, typer.Option(min=0, help="Of one letter.")] = None,
    offset: Annotated[int | None, typer.Option(min=0, help="Of one letter.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All that were not put back before.")
    ] = False,
    json: Json = False,
) -> None:
    """Put dead letters back among the commands, in their order, each with a fresh token for whom
    its own one spoke. Exit code 1 where one cannot be put back."""
    if every is (partition is not None or offset is not None) or (
        (partition is None) is not (offset is None)
    ):
        raise CliError("name one letter by --partition and --offset, or say --all")
    settings = Settings()
    cluster = cluster_of(settings)
    found = _found(cluster)
    if every:
        chosen = [one for one in found if one.replayed_at is None]
    else:
        chosen = [one for one in found if (one.partition, one.offset) == (partition, offset)]
        if not chosen:
            raise CliError(f"there is no dead letter at offset {offset} of partition {partition}")
    refused = _replay(cluster, Issuer(settings.issuer_secret()), chosen)
    if json:
        emit({"replayed": len(chosen) - len(refused), "refused": refused})
    else:
        console.print(f"{len(chosen) - len(refused)} put back among the commands")
        for one in refused:
            console.print(
                f"[bold red]not put back:[/] partition {one['partition']} "
                f"offset {one['offset']}: {escape(str(one['reason']))}",
                soft_wrap=True,
            )
    if refused:
        raise typer.Exit(1)


def cluster_of(settings: Settings) -> Cluster:
    """The cluster of the settings.

    Raises:
        CliError: they name none.
    """
    cluster = settings.cluster()
    if cluster is None:
        raise CliError("no Kafka brokers are named: set KAFKA_BOOTSTRAP_SERVERS=host:port")
    return cluster


def _found(cluster: Cluster) -> list[Letter]:
    try:
        return dead_letters(cluster)
    except KafkaError as error:
        raise CliError(f"the Kafka brokers do not answer: {error}") from error


def _replay(cluster: Cluster, issuer: Issuer, chosen: list[Letter]) -> list[dict[str, object]]:
    refused: list[dict[str, object]] = []

    def renewed(token: str) -> str:
        return token if is_api_key(token) else issuer.renew(token, _FRESH)

    try:
        with replaying(cluster) as replay:
            for letter in chosen:
                try:
                    replay(letter, renewed)
                except (CannotReplay, InvalidToken) as error:
                    place = {"partition": letter.partition, "offset": letter.offset}
                    refused.append(place | {"reason": str(error)})
    except KafkaError as error:
        raise CliError(f"the Kafka brokers did not take it: {error}") from error
    return refused


def _line(one: Letter) -> tuple[object, ...]:
    replayed = None if one.replayed_at is None else f"{one.replayed_at:%Y-%m-%d %H:%M:%S}"
    at = f"{one.at:%Y-%m-%d %H:%M:%S}"
    return one.partition, one.offset, at, one.command, one.command_id, one.reason, replayed


def _plain(one: Letter) -> dict[str, object]:
    """A letter for scripts: neither its token nor its value, which may be personal."""
    return {
        "partition": one.partition,
        "offset": one.offset,
        "at": one.at.isoformat(),
        "command": one.command,
        "id": one.command_id,
        "reason": one.reason,
        "came_partition": one.came_partition,
        "came_offset": one.came_offset,
        "whole": one.whole,
        "replayed_at": None if one.replayed_at is None else one.replayed_at.isoformat(),
    }
