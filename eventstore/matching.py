"""Some events of one organisation: those of an area, of a stream, of a topic, a bounded page of
them at a time."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from psycopg.rows import tuple_row

from eventstore.archive.cold import PRESENT, Cold
from eventstore.organisation_log import OrganisationLog
from eventstore.stored import COLUMNS, StoredEvent
from eventstore.subscription import Page

#: Positions that one statement looks at: a small organisation's events are far apart in a big log.
WINDOW = 20_000

_AMONG = "notification_id > %(after)s AND notification_id <= %(last)s"
_ORDER = "notification_id"
# The events of few streams are found by their index, however far apart they are: an order that the
# index of positions does not have keeps the planner from walking along it.
_AMONG_STREAMS = f"{_AMONG} AND originator_id = ANY(%(streams)s)"
_ORDER_STREAMS = "notification_id + 0"

# One row at least: whether a part is dropped, in the snapshot of the events. `octet_length` fetches
# no bytes: those of rows behind the limit stay where they are.
_MATCHING = """SELECT NOT {present}, weighed.* FROM (VALUES (1)) AS one LEFT JOIN LATERAL (
    SELECT * FROM (
        SELECT *, sum(octet_length(state)) OVER (ORDER BY position) - octet_length(state) AS before,
            count(*) OVER () AS matching
        FROM (
            SELECT {columns} FROM events
            WHERE {among} AND organisation_id = %(organisation)s
                AND (%(areas)s::text[] IS NULL OR split_part(topic, '.', 1) = ANY(%(areas)s))
                AND (%(topics)s::text[] IS NULL OR topic = ANY(%(topics)s))
                AND (%(without)s::text[] IS NULL OR split_part(topic, '.', 1) <> ALL(%(without)s))
                AND {present}
            ORDER BY {order} LIMIT %(limit)s
        ) AS found
    ) AS all_of_them WHERE before < %(most_bytes)s
) AS weighed ON true ORDER BY position"""
_ANYWHERE = _MATCHING.format(present=PRESENT, columns=COLUMNS, among=_AMONG, order=_ORDER)
_IN_STREAMS = _MATCHING.format(
    present=PRESENT, columns=COLUMNS, among=_AMONG_STREAMS, order=_ORDER_STREAMS
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events: those that are of one of the areas, in one of the streams and of one of the
    topics; what is empty asks for nothing. Of the areas in ``without`` none is."""

    areas: frozenset[str] = frozenset()
    streams: frozenset[UUID] = frozenset()
    topics: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()

    def has(self, topic: str, stream_id: UUID) -> bool:
        """Whether an event of this topic in this stream is among them."""
        area = topic.partition(".")[0]
        return (
            area not in self.without
            and (not self.areas or area in self.areas)
            and (not self.streams or stream_id in self.streams)
            and (not self.topics or topic in self.topics)
        )


async def matching(
    own: OrganisationLog,
    organisation_id: UUID,
    after: int,
    wanted: Wanted,
    *,
    to: int,
    limit: int,
    most_bytes: int,
    cold: Cold,
) -> Page:
    """Events of an organisation behind ``after`` and not beyond ``to``, in log order.

    The page ends after ``limit`` events or ``most_bytes`` (one event is always in it) or, where
    none match, after a stretch of the log: whoever reads on is never kept for long.

    Raises:
        ArchiveUnavailable: a file of the archive is needed and cannot be read.
    """
    last = to if wanted.streams else min(to, after + WINDOW)
    found = await _present(own, organisation_id, after, wanted, last, limit, most_bytes)
    if found is None:
        last = min(last, after + WINDOW)
        events = await cold.between(
            own.transaction, after, last, limit, organisation_id=organisation_id
        )
        reached = events[-1].position if len(events) == limit else last
        kept = [event for event in events if wanted.has(event.topic, event.stream_id)]
        events = _light(kept, most_bytes)
        if len(events) < len(kept):
            reached = events[-1].position
    else:
        events, more = found
        reached = events[-1].position if more else last
    reached = max(reached, after)
    return Page(events, reached, reached < to)


async def _present(
    own: OrganisationLog,
    organisation_id: UUID,
    after: int,
    wanted: Wanted,
    last: int,
    limit: int,
    most_bytes: int,
) -> tuple[list[StoredEvent], bool] | None:
    """The events and whether there are more of them; None: a part of the range is dropped."""
    asked = {
        "after": after,
        "last": last,
        "organisation": organisation_id,
        "areas": sorted(wanted.areas) or None,
        "topics": sorted(wanted.topics) or None,
        "without": sorted(wanted.without) or None,
        "streams": list(wanted.streams),
        "limit": limit,
        "most_bytes": most_bytes,
    }
    statement = _IN_STREAMS if wanted.streams else _ANYWHERE
    async with (
        own.connection() as connection,
        connection.cursor(row_factory=tuple_row, binary=True) as cursor,
    ):
        async with own.together(connection):
            # Planned each time: a plan made while the log was short would read all of it later on.
            await cursor.execute(statement, asked, prepare=False)
        rows = await cursor.fetchall()
    if rows[0][0]:
        return None
    *_, count = rows[0]
    if count is None:
        return [], False
    events = [StoredEvent(*row[1:-2]) for row in rows]
    return events, count == limit or len(events) < count


def _light(events: list[StoredEvent], most_bytes: int) -> list[StoredEvent]:
    total = 0
    for number, event in enumerate(events):
        if total >= most_bytes:
            return events[:number]
        total += len(event.state)
    return events
