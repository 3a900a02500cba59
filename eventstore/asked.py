"""Who asked for events, as what: the commands table says it beside the log, for as long as it is
kept. It is no part of what is sealed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eventstore.log import Log, StoredEvent

_ASKED = """SELECT e.position, c.asked
    FROM unnest(%s::bigint[], %s::uuid[], %s::timestamptz[], %s::bigint[])
        AS e (position, organisation_id, recorded_at, version)
    JOIN commands c ON c.organisation_id = e.organisation_id AND c.recorded_at = e.recorded_at
        AND c.stream = %s AND c.version = e.version
    WHERE c.asked IS NOT NULL"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A command's name, and the roles of who sent it."""

    command: str
    roles: tuple[str, ...]


async def asked_for(log: Log, stream: str, events: Iterable[StoredEvent]) -> dict[int, Asked]:
    """By the position of a command's last event: what was asked for, as far as it is still known.

    Args:
        log: the log.
        stream: the name of the stream that all of them are of.
        events: events of that stream.
    """
    wanted = list(events)
    asked = (
        [event.position for event in wanted],
        [event.organisation_id for event in wanted],
        [event.recorded_at for event in wanted],
        [event.version for event in wanted],
        stream,
    )
    async with log.connection() as connection:
        rows = await (await connection.execute(_ASKED, asked)).fetchall()
    found = {}
    for position, text in rows:
        command, roles, *_ = str(text).split("\x1f")
        found[position] = Asked(command, tuple(filter(None, roles.split(","))))
    return found
