"""Puts the records of one lane into the order of the log again, whatever order they came in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from eventstore.kafka.records import Carried
from eventstore.stored import StoredEvent


class LaneBatch(NamedTuple):
    """What there is of a lane behind ``after``: its events, in log order, none left out.

    What the lane has up to ``after`` was handed out before, or is to be read from the log.
    ``epoch``: of the relay that published them.
    """

    lane: int
    lanes: int
    epoch: UUID
    after: int
    events: Sequence[StoredEvent]

    @property
    def to(self) -> int:
        """The position up to which the lane is whole behind this batch."""
        return self.events[-1].position if self.events else self.after


class Superseded(Exception):
    """A batch is of an epoch, or of a number of lanes, that is over."""


class Held(NamedTuple):
    """A record that waits for its turn, and where it is in Kafka."""

    position: int
    previous: int
    topic: str
    offset: int
    event: StoredEvent


class LaneSequence:
    """The records of a lane that wait for their turn.

    Every record names the event before it in its lane. So what follows on what is done is known
    without asking anybody; a record at or before that is a repeat; one that follows on something
    else waits for it.

    Args:
        done: the position up to which all of the lane is done.
    """

    def __init__(self, done: int) -> None:
        self.done = done
        self._held: list[Held] = []
        self._sorted = True

    def __len__(self) -> int:
        return len(self._held)

    def add(self, topic: str, records: Iterable[tuple[int, Carried]]) -> None:
        """Take records of one topic, each with its offset."""
        for offset, (event, previous, _) in records:
            if event.position > self.done:
                self._held.append(Held(event.position, previous, topic, offset, event))
                self._sorted = False

    def ready(self, limit: int) -> list[StoredEvent]:
        """The events that follow on what is done, at most ``limit`` of them."""
        return self._chain(self.done, limit)

    def behind_gap(self, limit: int) -> tuple[int, list[StoredEvent]]:
        """The first events that are here though something before them is missing, and the position
        up to which it is; nothing and ``done`` where nothing waits."""
        self._in_order()
        if not self._held:
            return self.done, []
        after = self._held[0].previous
        return after, self._chain(after, limit)

    def finish(self, position: int) -> None:
        """Let go of what is done: all up to a position."""
        self.done = max(self.done, position)
        self._held = [one for one in self._held if one.position > self.done]

    def first_offset(self, topic: str) -> int | None:
        """The offset of the first record of a topic that waits; None: none does."""
        return min((one.offset for one in self._held if one.topic == topic), default=None)

    def topics(self) -> frozenset[str]:
        """The topics of which records wait."""
        return frozenset(one.topic for one in self._held)

    def _chain(self, done: int, limit: int) -> list[StoredEvent]:
        self._in_order()
        found: list[StoredEvent] = []
        for one in self._held:
            if one.position <= done:
                continue
            if one.previous > done or len(found) == limit:
                break
            found.append(one.event)
            done = one.position
        return found

    def _in_order(self) -> None:
        if not self._sorted:
            self._held.sort(key=attrgetter("position"))
            self._sorted = True
