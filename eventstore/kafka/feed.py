"""Takes lanes of the log from Kafka, as a member of a group, and hands them to a consumer.

Kafka says which member has which lane and brings its records. What is done is written beside the
effects, in Postgres, by the consumer: two members that both believe to have a lane do no harm, and
offsets are only a hint where to go on reading. What Kafka does not bring is read from the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import psycopg
import structlog
from kafka import TopicPartition
from kafka.errors import KafkaError
from psycopg import AsyncConnection

from eventstore.kafka.cluster import Cluster, lane_of
from eventstore.kafka.member import Member
from eventstore.kafka.records import Carried
from eventstore.kafka.relay_state import CHANNEL
from eventstore.kafka.sequence import LaneBatch, LaneSequence, Superseded
from eventstore.log import Connection
from eventstore.subscription import follow

_log = structlog.get_logger(__name__)
#: How long a record waits for the ones before it, before these are read from the log, in seconds.
_PATIENCE_S = 1.0
#: How often it is looked whether a lane has more than Kafka brought, in seconds.
_LOOK_EVERY_S = 1.0
_COMMIT_EVERY_S = 1.0
#: How long a lane is left alone whose consumer fails, in seconds.
_BACK_OFF_S = 2.0
#: Records of a lane that wait in memory, from which on the topics that are ahead are not read.
_MANY = 20_000

_RELAY = "SELECT epoch, lanes FROM relay"
_PUT = "SELECT lane, position FROM relay_lanes WHERE lane = ANY(%s)"


class LaneConsumer(Protocol):
    """What takes the events of lanes: each once in effect, however often and with however much
    missing they are handed over."""

    async def position(self, connection: Connection, lane: int) -> int:
        """The position up to which it has all of a lane."""

    async def take(self, connection: Connection, batch: LaneBatch) -> None:
        """Take a batch, effects and positions in one transaction; what is missing before it is read
        from the log.

        Raises:
            Superseded: the relay has begun anew since the batch was published.
        """

    async def level(self, connection: Connection) -> None:
        """Say up to where it has all lanes."""


class _Relay(NamedTuple):
    epoch: UUID
    lanes: int


class Feed:
    """One member of the group ``name``.

    Args:
        url: libpq connection string.
        cluster: where Kafka is.
        name: of the group; members of one name share the lanes.
        areas: whose topics are read.
        consumer: takes the events.
        batch: events handed over at once, at most.
    """

    def __init__(
        self,
        url: str,
        cluster: Cluster,
        name: str,
        areas: Sequence[str],
        consumer: LaneConsumer,
        *,
        batch: int = 5_000,
    ) -> None:
        self._url = url
        self._cluster = cluster
        self._name = name
        self._topics = [cluster.topic(area) for area in areas]
        self._consumer = consumer
        self._batch = batch

    async def run(self) -> None:
        """Take lanes for ever; survives restarts of the brokers and of the database."""
        async with asyncio.TaskGroup() as group:
            # Often an event is folded before the relay has written down that it is published.
            level = follow(self._url, f"{self._name}: level", self._level, CHANNEL)
            group.create_task(level, name=f"level {self._name}")
            group.create_task(self._take(), name=f"feed {self._name}")

    async def _level(self, connection: Connection) -> bool:
        await self._consumer.level(connection)
        return False

    async def _take(self) -> None:
        while True:
            try:
                async with await AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=5
                ) as connection:
                    if (relay := await _relay(connection)) is not None:
                        await self._member(connection, relay)
                    else:  # nothing was ever published
                        await asyncio.sleep(_LOOK_EVERY_S)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                _log.warning("connecting again", who=self._name, error=str(error).strip())
                await asyncio.sleep(0.5)
            except (KafkaError, OSError) as error:
                _log.warning("joining again", who=self._name, error=repr(error))
                await asyncio.sleep(1.0)

    async def _member(self, connection: Connection, relay: _Relay) -> None:
        """Be a member until the relay begins anew or something is lost."""
        member = Member(self._cluster, self._name, self._topics)
        lanes = _Lanes(self._consumer, relay, self._batch)
        try:
            await member.join()
            looked_at = committed_at = monotonic()
            while True:
                brought = await member.poll(lanes.crowded())
                if member.rebalanced():
                    await lanes.assign(connection, member.lanes())
                if not lanes.add(brought) and await _relay(connection) != relay:
                    return
                moved = await lanes.hand_over(connection)
                now = monotonic()
                if now - looked_at > _LOOK_EVERY_S:
                    looked_at = now
                    if await _relay(connection) != relay:
                        return
                    moved |= await lanes.look(connection)
                if moved:
                    await self._consumer.level(connection)
                if now - committed_at > _COMMIT_EVERY_S:
                    committed_at = now
                    await member.commit(lanes.done_before)
        except Superseded as error:
            _log.warning("beginning anew", who=self._name, error=str(error))
        except KafkaError:
            # What Kafka cannot give at the moment, as behind a record that the client cannot read,
            # the log can.
            lanes = _Lanes(self._consumer, relay, self._batch)
            await lanes.assign(connection, member.lanes())
            await lanes.look(connection, patiently=False)
            raise
        finally:
            await member.leave()


async def _relay(connection: Connection) -> _Relay | None:
    row = await (await connection.execute(_RELAY)).fetchone()
    return None if row is None else _Relay(*row)


class _Lanes:
    """The lanes that are ours, with what waits in them."""

    def __init__(self, consumer: LaneConsumer, relay: _Relay, batch: int) -> None:
        self._consumer = consumer
        self._relay = relay
        self._batch = batch
        self._sequences: dict[int, LaneSequence] = {}
        self._again_at: dict[int, float] = {}
        self._gap_since: dict[int, float] = {}

    async def assign(self, connection: Connection, lanes: Iterable[int]) -> None:
        """Have these lanes and no others. What waits in one that stays ours is not brought again:
        kafka-python reads on where it was."""
        former, self._sequences = self._sequences, {}
        for lane in lanes:
            done = await self._consumer.position(connection, lane)
            self._sequences[lane] = former[lane] if lane in former else LaneSequence(done)
            self._sequences[lane].finish(done)
        self._again_at.clear()
        self._gap_since.clear()

    def add(self, brought: Mapping[TopicPartition, Sequence[tuple[int, Carried]]]) -> bool:
        """Take records; False: some are of an epoch that is not ours, and were left out."""
        known = True
        for tp, records in brought.items():
            sequence = self._sequences.get(tp.partition)
            if sequence is None:
                continue
            ours = [one for one in records if one[1].epoch == self._relay.epoch]
            known &= len(ours) == len(records)
            # A relay that does not know of more lanes yet puts events where others belong now.
            here = [
                one
                for one in ours
                if lane_of(one[1].event.organisation_id, self._relay.lanes) == tp.partition
            ]
            sequence.add(tp.topic, here)
        return known

    async def hand_over(self, connection: Connection) -> bool:
        """Hand over what follows on what is done, in every lane; whether there was something."""
        moved = False
        for lane, sequence in self._sequences.items():
            while events := sequence.ready(self._batch):
                if not await self._take(connection, lane, sequence.done, events):
                    break
                moved = True
            if not self._is_stuck(lane, sequence):
                continue
            after, events = sequence.behind_gap(self._batch)
            _log.warning("reading from the log what Kafka did not bring", lane=lane, to=after)
            moved |= await self._take(connection, lane, after, events)
        return moved

    async def look(self, connection: Connection, *, patiently: bool = True) -> bool:
        """Read from the log what was put into lanes and did not come for a while; whether there was
        something. A lane that failed is tried again too."""
        idle = [lane for lane, sequence in self._sequences.items() if not len(sequence)]
        moved = False
        cursor = await connection.execute(_PUT, (idle,))
        for lane, put in await cursor.fetchall():
            done = await self._consumer.position(connection, lane)
            self._sequences[lane].finish(done)
            if put > done and (self._waited(lane) or not patiently):
                moved |= await self._take(connection, lane, put, [])
            elif put <= done:
                self._gap_since.pop(lane, None)
        return moved

    def crowded(self) -> set[TopicPartition]:
        """The topics that are too far ahead of others of their lane to be read on."""
        return {
            TopicPartition(topic, lane)
            for lane, sequence in self._sequences.items()
            if len(sequence) > _MANY
            for topic in sequence.topics()
        }

    def done_before(self, tp: TopicPartition, position: int) -> int:
        """The offset up to which all of a topic is done, that was read up to ``position``."""
        sequence = self._sequences.get(tp.partition)
        first = None if sequence is None else sequence.first_offset(tp.topic)
        return position if first is None else first

    async def _take(
        self, connection: Connection, lane: int, after: int, events: Sequence[Any]
    ) -> bool:
        if self._again_at.get(lane, 0) > monotonic():
            return False
        batch = LaneBatch(lane, self._relay.lanes, self._relay.epoch, after, events)
        try:
            await self._consumer.take(connection, batch)
        except (psycopg.OperationalError, psycopg.InterfaceError, Superseded):
            raise
        except Exception:
            # What a batch cannot do now it may do later; it is not skipped and not half done.
            _log.exception("batch failed, trying again", lane=lane)
            self._again_at[lane] = monotonic() + _BACK_OFF_S
            return False
        self._sequences[lane].finish(batch.to)
        self._gap_since.pop(lane, None)
        return True

    def _is_stuck(self, lane: int, sequence: LaneSequence) -> bool:
        """Whether records wait for others that have not come for a while."""
        if not len(sequence):
            return False
        if sequence.ready(1):  # its consumer failed: there is nothing missing
            self._gap_since.pop(lane, None)
            return False
        return self._waited(lane)

    def _waited(self, lane: int) -> bool:
        return monotonic() - self._gap_since.setdefault(lane, monotonic()) > _PATIENCE_S
