"""The relay: publishes the log to topics, in its order, and remembers how far it is.

The log is the truth and Kafka only carries it. Of several relays one is active at a time. Killed
anywhere it goes on behind its last checkpoint: what was published beyond it is published again, the
same records with the same event ids, which whoever follows the chain of a lane passes over. So do
records of a relay that has lost its place and does not know it yet.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable

import structlog
from kafka.errors import KafkaError
from psycopg import AsyncConnection
from psycopg.rows import class_row, tuple_row

from eventstore.archive.cold import Cold, on
from eventstore.kafka import relay_state
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.ends import End, ends_of
from eventstore.kafka.publisher import Batch, Publisher
from eventstore.kafka.records import Row, row_of
from eventstore.kafka.relay_state import RelayState
from eventstore.kafka.topics import OTHER, TopicNames, WrongPartitions, ensure_topics
from eventstore.log import Connection, read_after
from eventstore.stored import COLUMNS, StoredEvent
from eventstore.subscription import follow

#: Batches that are sent and not acknowledged yet.
_UNDER_WAY = 4
_STAND_BY_S, _AGAIN_S = 1.0, 1.0
_log = structlog.get_logger(__name__)

_AFTER = (
    f"SELECT {COLUMNS} FROM events WHERE notification_id > %s ORDER BY notification_id LIMIT %s"
)
_AT = f"SELECT {COLUMNS} FROM events WHERE notification_id = ANY(%s)"
# Whether an event of some areas was relayed; with `others`: one of none of them.
_RELAYED = """SELECT FROM events
    WHERE notification_id <= (SELECT position FROM relay)
        AND (split_part(topic, '.', 1) = ANY(%(areas)s)) IS DISTINCT FROM %(others)s LIMIT 1"""
_AWAY = "the relay waits for the brokers"
_WRONG = "the relay waits for topics of as many partitions as it has lanes"


class RelayBusy(Exception):
    """Another relay is at work on this log."""


class Relay:
    """Publishes one log to one cluster.

    Args:
        url: libpq connection string.
        cluster: where the topics are.
        areas: the business areas; each has a topic of its own, and what belongs to none goes to
            one more.
        lanes: partitions of each topic, where the relay has never run; then what was written down.
        replication: copies of each partition of the topics that it makes; None: the brokers'
            default.
        batch: events that are read, sent and acknowledged together at most.
    """

    def __init__(
        self,
        url: str,
        cluster: Cluster,
        areas: Iterable[str],
        *,
        lanes: int,
        replication: int | None = None,
        batch: int = 2_000,
    ) -> None:
        self._url = url
        self._cluster = cluster
        self._topics = TopicNames(cluster, areas)
        self._lanes = lanes
        self._replication = replication
        self._batch = batch
        self._cold = Cold()
        self._leased: Connection | None = None
        self._active: _Active | None = None
        self._paused: str | None = None

    async def catch_up(self) -> int:
        """Publish what the log holds now; the position reached.

        Raises:
            RelayBusy: another relay is at work.
            WrongPartitions: a topic has not as many partitions as there are lanes.
            KafkaError: the brokers cannot be reached, or refused.
            psycopg.OperationalError: the database went away.
        """
        async with await AsyncConnection.connect(
            self._url, autocommit=True, connect_timeout=5
        ) as connection:
            try:
                if not await self._lease(connection):
                    raise RelayBusy("another relay is at work on this log")
                while await self._relay(connection):
                    pass
                assert self._active is not None
                return self._active.read_to
            finally:
                await self._let_go()

    async def keep(self) -> None:
        """Publish the log as it grows, until cancelled; stand by while another relay does. Survives
        restarts of the database and of brokers by itself."""
        await follow(self._url, "relay", self._step)

    async def _step(self, connection: Connection) -> bool:
        """Publish what there is; whether to look again at once."""
        try:
            if not await self._lease(connection):
                await asyncio.sleep(_STAND_BY_S)
                return True
            return await self._relay(connection)
        except WrongPartitions as error:
            await self._pause(connection, _WRONG, error)
        except (KafkaError, OSError) as error:
            await self._pause(connection, _AWAY, error)
        except BaseException:
            await self._let_go()
            raise
        return True

    async def _pause(self, connection: Connection, why: str, error: Exception) -> None:
        """Let the brokers be for a moment, and another relay try, to which they may answer; said
        once, and once when it is over."""
        await self._let_go()
        if self._paused != why:
            _log.warning(why, error=str(error).strip() or type(error).__name__)
            self._paused = why
        await relay_state.release(connection)
        await asyncio.sleep(_AGAIN_S)

    async def _lease(self, connection: Connection) -> bool:
        if self._leased is connection:
            return True
        if not await relay_state.lease(connection):
            return False
        # A checkpoint that a crash of the server undoes is published again, no more.
        await connection.execute("SET synchronous_commit = off")
        self._leased = connection
        return True

    async def _let_go(self) -> None:
        """Stop publishing, and no more believe to have the lease: it goes with the connection."""
        self._leased = None
        await self._stop()

    async def _stop(self) -> None:
        active, self._active = self._active, None
        if active is not None:
            await asyncio.shield(asyncio.to_thread(active.publisher.close))

    async def _relay(self, connection: Connection) -> bool:
        """Publish until the log has no more; False, unless it has to begin once more."""
        if self._active is None:
            self._active = await self._begin(connection)
            await asyncio.to_thread(self._active.publisher.connect)
            _log.info("the relay is active", position=self._active.read_to)
        if not await self._active.publish_all():
            _log.warning("somebody else has moved the relay: it begins again")
            await self._stop()
            return True
        if self._paused is not None:
            _log.info("the relay goes on")
            self._paused = None
        return False

    async def _begin(self, connection: Connection) -> _Active:
        """Look where the relay was and whether the topics are of this log."""
        known = await relay_state.make(connection, self._lanes)
        if known.lanes != self._lanes:
            _log.warning(
                "the number of lanes was fixed when the relay first ran: "
                "`chainlytics kafka lanes` changes it",
                lanes=known.lanes,
                setting=self._lanes,
            )
        names = list(self._topics)
        made = await asyncio.to_thread(
            ensure_topics, self._cluster, names, known.lanes, self._replication
        )
        ends = await asyncio.to_thread(ends_of, self._cluster, names, known.lanes)
        why = await self._other_log(connection, known, ends)
        if why is None and known.position > 0 and made:
            why = await self._lost(connection, made)
        if why is not None:
            await relay_state.begin_anew(connection)
            known = await relay_state.make(connection, self._lanes)
            _log.warning(
                "the topics are not of this log: it is published anew, from its start",
                why=why,
                epoch=str(known.epoch),
            )
        publisher = Publisher(self._cluster, self._topics, known.epoch, known.previous)
        return _Active(connection, self._cold, self._batch, known, publisher)

    async def _other_log(
        self, connection: Connection, known: RelayState, ends: dict[tuple[str, int], End]
    ) -> str | None:
        """Why the topics, or what is written down of them, cannot be of this log; None: they are.

        A log that was put in this one's place by other means than our restore is found out by
        events that have other ids, or are not there. A topic that was made anew lacks what the
        relay has put into it.
        """
        ours = {
            place: end.last
            for place, end in ends.items()
            if end.last is not None and end.last.epoch == known.epoch
        }
        wanted = {one.event.position for one in ours.values()}
        wanted |= {one for one in (known.position, *known.previous) if one > 0}
        events = await self._at(connection, wanted)
        if known.position > 0:
            there = events.get(known.position)
            if there is None or there.event_id != known.event_id:
                return f"the event at position {known.position}, where the relay is, is another one"
        for (topic, lane), last in ours.items():
            there = events.get(last.event.position)
            if there is None or there.event_id != last.event.event_id:
                return f"{topic}, lane {lane}: position {last.event.position} is another event"
        for position in set(known.previous) - {0}:
            if (there := events.get(position)) is None:
                continue
            # In whichever lane it was: there may have been fewer of them then.
            topic = self._topics.of(there.topic)
            offsets = [end.offset for (one, _), end in ends.items() if one == topic]
            found = [last.event.position for (one, _), last in ours.items() if one == topic]
            if not any(offsets):
                return f"{topic} is empty, and had position {position}"
            if found and max(found) < position:
                return f"{topic} has lost what was behind position {max(found)}"
        return None

    async def _lost(self, connection: Connection, made: Collection[str]) -> str | None:
        """Why topics that had to be made now must have been there before; None: no event of theirs
        was relayed so far, as where an area is new."""
        areas = self._topics.areas
        for area, topic in areas.items():
            if topic not in made:
                continue
            others = area == OTHER
            wanted = [one for one in areas if one != OTHER] if others else [area]
            cursor = await connection.execute(_RELAYED, {"areas": wanted, "others": others})
            if await cursor.fetchone() is not None:
                return f"{topic} was not there any more"
        return None

    async def _at(
        self, connection: Connection, positions: Collection[int]
    ) -> dict[int, StoredEvent]:
        """The events at some positions, as far as they are there."""
        async with connection.cursor(row_factory=class_row(StoredEvent), binary=True) as cursor:
            await cursor.execute(_AT, (list(positions),))
            found = {event.position: event for event in await cursor.fetchall()}
        missing = [position for position in positions if position not in found]
        if missing:
            found |= await self._cold.at(on(connection), missing)
        return found


class _Active:
    """A relay at work: where it is, and what is under way."""

    def __init__(
        self,
        connection: Connection,
        cold: Cold,
        batch: int,
        known: RelayState,
        publisher: Publisher,
    ) -> None:
        self._connection = connection
        self._cold = cold
        self._batch = batch
        self._epoch = known.epoch
        self._written = known.position
        self.publisher = publisher
        self.read_to = known.position

    async def publish_all(self) -> bool:
        """Publish until the log has no more, and write down what is acknowledged; False: somebody
        else has moved the relay.

        Reading, sending and the brokers' work go on at once: while one batch is sent the next one
        is read, and the ones before are acknowledged.
        """
        under_way: deque[Batch] = deque()
        rows = await self._read()
        if not rows:
            known = await relay_state.state(self._connection)
            return known is not None and (known.epoch, known.position) == (
                self._epoch,
                self._written,
            )
        while rows:
            full = len(rows) == self._batch
            self.read_to = rows[-1][0]
            ahead = asyncio.create_task(self._read()) if full else None
            try:
                under_way.append(await asyncio.to_thread(self.publisher.send, rows))
                while len(under_way) > (_UNDER_WAY if full else 0):
                    if not await self._confirm(under_way.popleft(), at_once=not full):
                        return False
                rows = await ahead if ahead is not None else []
            finally:
                if ahead is not None and not ahead.done():
                    ahead.cancel()
                    await asyncio.gather(ahead, return_exceptions=True)
        while under_way:
            if not await self._confirm(under_way.popleft(), at_once=True):
                return False
        return True

    async def _read(self) -> list[Row]:
        async with self._connection.cursor(row_factory=tuple_row, binary=True) as cursor:
            await cursor.execute(_AFTER, (self.read_to, self._batch))
            rows: list[Row] = await cursor.fetchall()
        if not rows or rows[-1][0] == self.read_to + len(rows):
            return rows
        # Something in between is dropped.
        events = await read_after(self._connection, self.read_to, self._batch, self._cold)
        return [row_of(event) for event in events]

    async def _confirm(self, batch: Batch, *, at_once: bool) -> bool:
        """Wait for the brokers and write it down; False: somebody else has moved the relay."""
        await asyncio.to_thread(self.publisher.confirm, batch, at_once=at_once)
        moved = await relay_state.move(self._connection, self._epoch, self._written, batch)
        self._written = batch.position
        return moved


async def keep_relayed(relay: Relay) -> None:
    """Run a relay until cancelled."""
    await relay.keep()
