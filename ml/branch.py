"""A branch of the log: what is so far, and hypothetical commands on top of it.

It sees the log up to a position, by the same handlers, folds and models; its own events are in
memory and nowhere else. It holds no writer: there is no way from here to the real streams.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import polars as pl

from commands.handler import Stream, stream_id
from commands.states import Known
from domain import catalogue
from domain.catalogue import stream_of
from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event
from eventstore import Log, StoredEvent
from eventstore.ids import named_id
from ml.catalogue import HANDLERS, KINDS
from ml.decisions import requests_in
from ml.history import LogHistory
from ml.pieces import answers
from ml.replay import tables
from ml.scorers import Scorers
from projections.accumulate import Accumulator
from projections.contributions import contributions
from projections.engine import finish, merge
from projections.frames import decode, wanted
from projections.table import Table

ACTOR = "simulation"
#: Streams that are read in one round trip.
_STREAMS_AT_ONCE = 500
_DECIDING = frozenset(tables())


class Fork:
    """Where branches leave the log: its streams as of the position, each read once, and its tables.

    Branches of one fork share what it knows; states and parts are never changed.

    Args:
        log: read, up to the position only.
        organisation_id: whose.
        position: the last one that branches see.
        parts: each table's part up to there.
    """

    def __init__(
        self, log: Log, organisation_id: UUID, position: int, parts: Mapping[Table, pl.DataFrame]
    ) -> None:
        self.organisation_id, self.position, self.parts = organisation_id, position, parts
        self._log = log
        self._known: dict[int, Known] = {}

    async def read(self, streams: Iterable[Stream]) -> None:
        """Get to know the streams that are not known yet, many in one round trip."""
        missing = {one.id: one for one in streams if one.id.int not in self._known}
        ids = list(missing)
        for start in range(0, len(ids), _STREAMS_AT_ONCE):
            some = ids[start : start + _STREAMS_AT_ONCE]
            for id_, events in (await self._log.streams(some)).items():
                decider = missing[id_].decider
                seen = [event for event in events if event.position <= self.position]
                told = (
                    catalogue.decode(one.topic, one.state)
                    for one in seen
                    if catalogue.type_of(one.topic) is not None
                )
                version = seen[-1].version if seen else 0
                self._known[id_.int] = Known(version, decider.fold(told))

    def known(self, stream: Stream) -> Known:
        """A stream that was read, as of the position."""
        return self._known[stream.id.int]


@dataclass(frozen=True, slots=True)
class Hypothetical:
    """A command that somebody might send at a moment, and who."""

    command: Command
    at: datetime
    actor: str = ACTOR


class Branch:
    """Hypothetical events on top of a fork.

    The same commands at the same moments give the same events, byte for byte: ids follow from
    ``name`` and from how many there were before. ``digest`` is over all of them.

    Args:
        fork: what is so far.
        name: ids follow from it.
        scorers: models by their hash.
        keep: hold on to all events, for who wants to look at them.
    """

    def __init__(self, fork: Fork, name: str, scorers: Scorers, *, keep: bool = False) -> None:
        self.fork = fork
        self.count = 0
        #: How often which event happened, and which rule refused a command.
        self.happened: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        #: All events, where they are kept.
        self.events: list[StoredEvent] = []
        self._ids = named_id(fork.organisation_id, f"branch {fork.position} {name}")
        self._scorers = scorers
        self._keep = keep
        self._digest = hashlib.sha256()
        self._own: dict[int, Known] = {}
        self._fields = wanted(fork.parts)
        # Events that are not folded yet, and what the others came to.
        self._new: list[StoredEvent] = []
        self._held = {table: Accumulator(table) for table in fork.parts}

    @property
    def position(self) -> int:
        """The position of its last event."""
        return self.fork.position + self.count

    @property
    def digest(self) -> str:
        """SHA-256 over all events so far: positions, streams, versions, times, actors and bytes."""
        return self._digest.hexdigest()

    # commands

    async def read(self, commands: Iterable[Command]) -> None:
        """Read the streams that commands will touch, many in one round trip."""
        streams: list[Stream] = []
        for command in commands:
            try:
                handler = HANDLERS[type(command)]
                streams += handler.streams(self.fork.organisation_id, command)
            except Refused:  # who sends it will be told
                continue
        await self._read(streams)

    async def _read(self, streams: Iterable[Stream]) -> None:
        await self.fork.read(one for one in streams if one.id.int not in self._own)

    async def execute(self, sent: Hypothetical) -> Sequence[Event]:
        """Decide a command by its handler; its events.

        Raises:
            Refused: a rule said no.
        """
        command, organisation_id = sent.command, self.fork.organisation_id
        handler = HANDLERS[type(command)]
        try:
            if handler.several:
                own = handler.own(organisation_id, command)
                await self._read([own])
                state = self._known(own).state
                streams = handler.all_streams(organisation_id, command, state)
                await self._read(streams)
                states = {one.name: self._known(one).state for one in streams}
                events = handler.decide(command, sent.actor, state, states)
            else:
                streams = handler.streams(organisation_id, command)
                await self._read(streams)
                found = [self._known(one).state for one in streams]
                events = handler.decide(command, sent.actor, *found)
        except Refused as refusal:
            self.refused[refusal.code] += 1
            raise
        by_name = {one.name: one for one in streams}
        for event in events:
            self._append(by_name[stream_of(event)], event, sent)
        return events

    async def known(self, name: str, decider: Decider[Any]) -> Known:
        """A stream as it stands on the branch."""
        stream = Stream(stream_id(self.fork.organisation_id, name), name, decider)
        await self._read([stream])
        return self._known(stream)

    async def attempt(self, sent: Hypothetical) -> Sequence[Event] | None:
        """As ``execute``; None where a rule said no, which is counted."""
        try:
            return await self.execute(sent)
        except Refused:
            return None

    def _known(self, stream: Stream) -> Known:
        return self._own.get(stream.id.int) or self.fork.known(stream)

    def _append(self, stream: Stream, event: Event, sent: Hypothetical) -> None:
        before = self._known(stream)
        self._own[stream.id.int] = Known(
            before.version + 1, stream.decider.evolve(before.state, event)
        )
        self.count += 1
        topic, state = catalogue.encode(event)
        stored = StoredEvent(
            position=self.position,
            stream_id=stream.id,
            version=before.version + 1,
            topic=topic,
            state=state,
            event_id=named_id(self._ids, str(self.count)),
            organisation_id=self.fork.organisation_id,
            recorded_at=sent.at,
            correlation_id=self._ids,
            causation_id=None,
            actor=sent.actor,
        )
        self.happened[type(event).__name__] += 1
        self._new.append(stored)
        if self._keep:
            self.events.append(stored)
        beside = (
            f"{stored.position}|{stream.name}|{stored.version}|{topic}|{stored.event_id}|"
            f"{stored.recorded_at.isoformat()}|{stored.actor}|"
        )
        self._digest.update(beside.encode() + state + b"\n")

    # folds and decisions

    def fold(self) -> None:
        """Fold what is new into the tables. Decisions are as of later positions from here on."""
        if self._new:
            for table, part in self._contributions(self._held).items():
                if not part.is_empty():
                    self._held[table].add(merge(table, [part]))
            self._new.clear()

    def rows(self, table: Table) -> pl.DataFrame:
        """The rows of a table as they stand on the branch, as readers would see them."""
        self.fold()
        whole = Accumulator(table)
        whole.add(self.fork.parts[table])
        whole.add(self._held[table].part())
        return finish(table, whole.part())

    async def decide(self, at: datetime) -> list[Event]:
        """Answer the decision requests among what is new, as the consumer would, each as of its own
        position: by the models, or the rules, that decide at the fork. What came of it."""
        requests = requests_in(self._new)
        if not requests:
            return []
        batch = self._contributions(_DECIDING & self._held.keys())
        history = LogHistory(
            {
                table: pl.concat([self.fork.parts[table], self._held[table].part(), part])
                for table, part in batch.items()
            }
        )
        found: list[Event] = []
        async for some in answers(KINDS, requests, history, self._scorers):
            for answer in some:
                found += await self.attempt(Hypothetical(answer.command, at)) or ()
        return found

    def _contributions(self, tables: Iterable[Table]) -> dict[Table, pl.DataFrame]:
        frames = decode(self._new, self._fields)
        return {table: contributions(table, frames) for table in tables}
