"""The audit trail: every event as a line, who did what with which roles, who looked at whom."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from psycopg.rows import class_row
from pydantic import Field

from eventstore import Log
from eventstore.retention import Retention
from readmodels.database import ReadModels, Row
from readmodels.page import BadCursor, Page, decode, page

_TRAIL = """SELECT position, area, what, sentence, recorded_at, actor, event_id, correlation_id,
        causation_id, stream_id, version
    FROM read_models.audit_trail
    WHERE organisation_id = %(organisation_id)s AND position > %(after)s
      AND (%(area)s::text IS NULL OR area = %(area)s)
      AND (%(stream_id)s::uuid IS NULL OR stream_id = %(stream_id)s)
    ORDER BY position LIMIT %(limit)s"""


class AuditLine(Row):
    """One event: what happened, who did it, and what it followed from."""

    position: int
    area: str
    what: str
    sentence: str
    recorded_at: datetime
    actor: str
    event_id: UUID
    correlation_id: UUID
    causation_id: UUID | None
    stream_id: UUID
    version: int


async def audit_trail(
    read: ReadModels,
    *,
    area: str | None = None,
    stream_id: UUID | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[AuditLine]:
    """Events in log order."""
    (after,) = decode(cursor, int) if cursor else (0,)
    rows = await read.rows(
        AuditLine, _TRAIL, after=after, area=area, stream_id=stream_id, limit=limit + 1
    )
    return page(rows, limit, lambda row: (row.position,))


#: How far back commands of an actor, of a name or on a stream are looked for where it is not said.
#: They are found by time alone: an index by actor would be paid for by every append.
LOOKED_BACK = timedelta(days=30)


class Result(StrEnum):
    """What became of a command, or of a query that was denied."""

    ACCEPTED = "accepted"
    DENIED = "denied"
    REFUSED = "refused"
    REUSED = "reused"
    CONFLICT = "conflict"


# Both tables in one order: by time, then by what tells rows of one moment apart. An accepted
# command's correlation and cause, where it does not say them, are its last event's.
_COMMANDS = """WITH accepted AS (
    SELECT recorded_at AS at, recorded_at AS last_at, position AS place, command_id AS id,
        string_to_array(asked, chr(31)) AS told, stream, version, position
    FROM commands
    WHERE organisation_id = %(organisation_id)s
      AND (%(result)s::text IS NULL OR %(result)s = 'accepted')
      AND (%(since)s::timestamptz IS NULL OR recorded_at >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR recorded_at < %(until)s)
      AND (%(actor)s::text IS NULL OR split_part(asked, chr(31), 3) = %(actor)s)
      AND (%(command)s::text IS NULL OR split_part(asked, chr(31), 1) = %(command)s)
      AND (%(stream)s::text IS NULL OR stream = %(stream)s)
      AND (%(at)s::timestamptz IS NULL OR (recorded_at {beyond}= %(at)s
           AND (recorded_at, position, command_id) {beyond} (%(at)s, %(place)s, %(id)s::uuid)))
    ORDER BY recorded_at {order}, position {order}, command_id {order} LIMIT %(limit)s
), not_taken AS (
    SELECT at, last_at, 0::bigint AS place, id, actor, roles, command, stream, result, code,
        correlation_id, times
    FROM attempts
    WHERE organisation_id = %(organisation_id)s
      AND (%(result)s::text IS NULL OR result = %(result)s)
      AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
      AND (%(actor)s::text IS NULL OR actor = %(actor)s)
      AND (%(command)s::text IS NULL OR command = %(command)s)
      AND (%(stream)s::text IS NULL OR stream = %(stream)s)
      AND (%(at)s::timestamptz IS NULL OR (at {beyond}= %(at)s
           AND (at, 0::bigint, id) {beyond} (%(at)s, %(place)s, %(id)s::uuid)))
    ORDER BY at {order}, id {order} LIMIT %(limit)s
)
SELECT a.at, a.last_at, a.place, a.id, a.told[3] AS actor,
    string_to_array(a.told[2], ',') AS roles, a.told[1] AS command, a.stream, 'accepted' AS result,
    NULL AS code, a.version, a.position, 1::bigint AS times,
    CASE WHEN cardinality(a.told) > 3 THEN a.told[4]::uuid ELSE e.correlation_id END
        AS correlation_id,
    CASE WHEN cardinality(a.told) > 3 THEN nullif(a.told[5], '')::uuid ELSE e.causation_id END
        AS causation_id
FROM accepted a
LEFT JOIN events e ON cardinality(a.told) = 3 AND e.notification_id = a.position
UNION ALL
SELECT at, last_at, place, id, actor, roles, command, stream, result, code, NULL, NULL, times,
    correlation_id, NULL
FROM not_taken
ORDER BY at {order}, place {order}, id {order} LIMIT %(limit)s"""
_OLDEST_FIRST = _COMMANDS.format(order="ASC", beyond=">")
_NEWEST_FIRST = _COMMANDS.format(order="DESC", beyond="<")

_ACCESS = """SELECT id, at, actor, roles, person, fields, why, correlation_id FROM personal_access
    WHERE organisation_id = %(organisation_id)s
      AND (%(person)s::text IS NULL OR person = %(person)s)
      AND (%(actor)s::text IS NULL OR actor = %(actor)s)
      AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
      AND (%(after)s::timestamptz IS NULL OR (at, id) < (%(after)s::timestamptz, %(id)s::bigint))
    ORDER BY at DESC, id DESC LIMIT %(limit)s"""


_KEPT = """SELECT 'commands' AS "table", count(*) AS rows, min(recorded_at) AS oldest
    FROM commands WHERE organisation_id = %(organisation_id)s
UNION ALL
    SELECT 'attempts', count(*), min(at) FROM attempts WHERE organisation_id = %(organisation_id)s
UNION ALL
    SELECT 'personal_access', count(*), min(at) FROM personal_access
    WHERE organisation_id = %(organisation_id)s"""

_NOBODY = """SELECT at, last_at, command AS endpoint, times FROM attempts
    WHERE organisation_id IS NULL
      AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
    ORDER BY at DESC, id DESC LIMIT %(limit)s"""


class CommandLine(Row):
    """Who did what when, as what, and what became of it; queries that were denied too.

    ``at``: when it was accepted, or first not taken. ``times``: so many like attempts until
    ``last_at`` are this one line; then ``correlation_id`` is that of the first. ``command``: empty
    where a former version of the code sent it. ``position``: in the log, of what was accepted.
    ``code``: of the rule that did not take it.
    """

    id: UUID
    at: datetime
    last_at: datetime
    actor: str
    roles: list[str]
    command: str
    stream: str
    result: Result
    code: str | None
    version: int | None
    position: int | None
    times: int
    correlation_id: UUID | None
    causation_id: UUID | None


class NobodyLine(Row):
    """Requests to one endpoint without a good token, within a minute."""

    at: datetime
    last_at: datetime
    endpoint: str
    times: int


class _Placed(CommandLine):
    place: int


class KeptRecords(Row):
    """How long a class of record is kept, and what there is of it in the organisation."""

    table: str
    days: int | None = Field(description="Kept so long; null: for ever.")
    rows: int
    oldest: datetime | None


class _Counted(Row):
    table: str
    rows: int
    oldest: datetime | None


class PersonalAccess(Row):
    """Somebody was given personal data: which of it (``fields``), whose, and why. ``person`` is a
    pseudonym."""

    id: int
    at: datetime
    actor: str
    roles: list[str]
    person: str
    fields: list[str]
    why: str
    correlation_id: UUID | None


async def commands(
    read: ReadModels,
    *,
    actor: str | None = None,
    command: str | None = None,
    result: Result | None = None,
    stream: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    newest_first: bool = False,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[CommandLine]:
    """Every command once, with what became of it, in the order of time; from ``since``, before
    ``until``. What is not taken comes to be seen within a second or so.

    With ``actor``, ``command`` or ``stream`` and without ``since`` it looks back for
    ``LOOKED_BACK`` from ``until`` (or now).
    """
    if since is None and (actor or command or stream):
        since = (until or datetime.now(UTC)) - LOOKED_BACK
    at, place, id_ = decode(cursor, datetime, int, str) if cursor else (None, None, None)
    rows = await read.records(
        _Placed,
        _NEWEST_FIRST if newest_first else _OLDEST_FIRST,
        actor=actor,
        command=command,
        result=result,
        stream=stream,
        since=since,
        until=until,
        at=at,
        place=place,
        id=_uuid(id_),
        limit=limit + 1,
    )
    found = page(rows, limit, lambda row: (row.at, row.place, str(row.id)))
    items = await _with_archived(read, found.items)
    return Page[CommandLine](items=items, next_cursor=found.next_cursor)


async def _with_archived(read: ReadModels, rows: Sequence[_Placed]) -> tuple[CommandLine, ...]:
    """The lines, with what only an archived event says of them."""
    unknown = [
        row.position for row in rows if row.position is not None and row.correlation_id is None
    ]
    events = await read.events(unknown) if unknown else {}
    items = []
    for row in rows:
        line = CommandLine(**dict(row.model_dump(exclude={"place"})))
        if row.position is not None and (event := events.get(row.position)) is not None:
            told = {"correlation_id": event.correlation_id, "causation_id": event.causation_id}
            line = line.model_copy(update=told)
        items.append(line)
    return tuple(items)


async def personal_access(
    read: ReadModels,
    *,
    person: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[PersonalAccess]:
    """Who was given whose personal data, the latest first; from ``since``, before ``until``."""
    after, id_ = decode(cursor, datetime, int) if cursor else (None, None)
    rows = await read.records(
        PersonalAccess,
        _ACCESS,
        person=person,
        actor=actor,
        since=since,
        until=until,
        after=after,
        id=id_,
        limit=limit + 1,
    )
    return page(rows, limit, lambda row: (row.at, row.id))


async def kept_records(read: ReadModels, retention: Retention) -> list[KeptRecords]:
    """How long each class of record is kept, and what there is of it; they are counted."""
    days = {
        table: None if duration is None else duration.days
        for table, duration in retention.by_table.items()
    }
    return [
        KeptRecords(**one.model_dump(), days=days[one.table])
        for one in await read.records(_Counted, _KEPT)
    ]


async def unauthenticated(
    log: Log, *, since: datetime | None = None, until: datetime | None = None, limit: int = 50
) -> list[NobodyLine]:
    """Requests of nobody knows whom, the latest first. They belong to no organisation, so they are
    for the operator of the installation alone."""
    async with (
        log.connection() as connection,
        connection.cursor(row_factory=class_row(NobodyLine)) as cursor,
    ):
        await cursor.execute(_NOBODY, {"since": since, "until": until, "limit": limit})
        return await cursor.fetchall()


def _uuid(told: str | None) -> UUID | None:
    try:
        return None if told is None else UUID(told)
    except ValueError as error:
        raise BadCursor("the cursor was not given by this query") from error
