"""What parts tell of their work where somebody follows requests through them.

Nobody below the composition root knows what a trace is made of: a part that is given None tells
nothing, and asks for no time. Ids are enough to find everything again in other processes: the
correlation id is the request's trace, and names of spans follow from ids of commands and events.
Times are nanoseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from eventstore.log import Entry


class Commanded(NamedTuple):
    """A command that was run, and what became of it."""

    name: str
    command_id: UUID
    correlation_id: UUID
    causation_id: UUID | None
    actor: str
    outcome: str


class Stored(NamedTuple):
    """An entry that is on the log, its last event's position, and since when it waited."""

    entry: Entry
    position: int
    since: int


class Followed(NamedTuple):
    """An event that was worked on. ``leads_to``: the command that was sent because of it."""

    event_id: UUID
    correlation_id: UUID
    position: int
    topic: str
    leads_to: UUID | None = None


class Spans(Protocol):
    """Follows requests. What it is told never fails and never waits."""

    def entered(self) -> int:
        """A request begins in this task; its span, to be given back to ``request``."""

    def request(
        self, span: int, correlation_id: UUID, traceparent: str, name: str, status: int, began: int
    ) -> None:
        """A request ended. ``traceparent``: as it was sent, or nothing. ``name``: the method and
        the path as it is declared."""

    def commands(self, commands: Sequence[Commanded], began: int) -> None:
        """Commands were run, each by itself or all as one batch."""

    def appended(self, stored: Iterable[Stored], began: int) -> None:
        """A group was committed; ``began``: when it was sent."""

    def handled(self, by: str, events: Sequence[Followed], began: int, **about: str) -> None:
        """A batch of events was worked on and committed. ``by``: who did. ``about``: what else is
        known of it."""
