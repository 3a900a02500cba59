"""Following one organisation's log: which events, from where, and what clients are told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Annotated, NamedTuple, Self
from uuid import UUID

from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator
from starlette.exceptions import HTTPException

from api.tail import Message, Tails
from api.tokens import Identity
from domain.catalogue import AREAS, STREAMS, TYPES, UPCASTERS, area_of, type_of
from eventstore import Log
from eventstore.ids import named_id
from eventstore.matching import Wanted
from eventstore.subscription import Bell

#: The first part of a stream's name, and the area that it is of: `stock` is of inventory.
COLLECTIONS: Mapping[str, str] = {
    STREAMS[event].partition("/")[0]: area
    for area, events in AREAS.items()
    for event in events
    if event in STREAMS
}
#: Topics, older ones too, under the name that clients know an event by.
_TOPICS: Mapping[str, frozenset[str]] = {
    event.__name__: frozenset(topic for topic in (*TYPES, *UPCASTERS) if type_of(topic) is event)
    for event in TYPES.values()
}
#: How many areas, streams or types may be asked for at once.
MOST_NAMES = 100
_MOST_CHARACTERS = 200
#: How many may be about to say who they are at once.
_MOST_UNKNOWN = 100
_LATER = {"Retry-After": "5"}


def _area(name: str) -> str:
    if name not in AREAS:
        raise ValueError(f"must be an area: {', '.join(sorted(AREAS))}")
    return name


def _stream(name: str) -> str:
    collection, _, key = name.partition("/")
    if collection not in COLLECTIONS or not key:
        known = ", ".join(sorted(COLLECTIONS))
        raise ValueError(f"must be the name of a stream, as in orders/O-1; it begins with {known}")
    if len(name) > _MOST_CHARACTERS or not name.isprintable():
        raise ValueError(f"must have at most {_MOST_CHARACTERS} characters, all printable")
    return name


def _type(name: str) -> str:
    if name not in _TOPICS:
        raise ValueError("must be the name of an event, as in OrderPlaced (docs/asyncapi)")
    return name


Area = Annotated[str, AfterValidator(_area)]
StreamName = Annotated[str, AfterValidator(_stream)]
EventName = Annotated[str, AfterValidator(_type)]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which events a client asks for, by the names that it knows; what is empty asks for all."""

    areas: Sequence[str] = ()
    streams: Sequence[str] = ()
    types: Sequence[str] = ()

    def check(self, where: str) -> None:
        """See that each name can match at all beside the others.

        Args:
            where: the part of the request that they stand in.

        Raises:
            RequestValidationError: a stream or a type is of none of the areas.
        """
        if not self.areas:
            return
        among = f"must be of an area asked for: {', '.join(sorted(set(self.areas)))}"
        wrong = [
            ("stream", name)
            for name in self.streams
            if COLLECTIONS[name.partition("/")[0]] not in self.areas
        ] + [
            ("type", name)
            for name in self.types
            if not any(area_of(topic) in self.areas for topic in _TOPICS[name])
        ]
        if wrong:
            raise RequestValidationError(
                [
                    {"type": "value_error", "loc": (where, kind), "msg": among, "input": name}
                    for kind, name in wrong
                ]
            )

    def of(self, organisation_id: UUID, hidden: frozenset[str]) -> Wanted:
        """What it asks of the log, without the areas that are hidden. A stream's id hangs on the
        organisation: nobody can name one of somebody else's."""
        return Wanted(
            frozenset(self.areas),
            frozenset(named_id(organisation_id, name) for name in self.streams),
            frozenset(topic for name in self.types for topic in _TOPICS[name]),
            hidden,
        )


class Passed(NamedTuple):
    """All up to here was sent or does not match: who comes back may go on from here."""

    position: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What a process gives its live connections.

    Attributes:
        connections: how many there may be at once.
        per_identity: how many of them one account, or one service of an organisation, may have.
        per_organisation: how many of them all of an organisation may have.
        slow_s: how long a client may take for one message before it is cut off, in seconds.
        heartbeat_s: after how much silence its position is told.
        recheck_s: how often it is asked whether the client may still follow.
    """

    connections: int = 500
    per_identity: int = 20
    per_organisation: int = 100
    slow_s: float = 30.0
    heartbeat_s: float = 15.0
    recheck_s: float = 5.0


class Live:
    """What live connections of one process share."""

    def __init__(
        self,
        log: Log,
        news: Bell,
        terms: Terms | None = None,
        origins: Collection[str] = (),
    ) -> None:
        self.terms = terms or Terms()
        #: Whose pages may open WebSockets, beside our own.
        self.origins = origins
        self._log = log
        self._tails = Tails(log, news)
        self._of_identity: Counter[str] = Counter()
        self._of_organisation: Counter[UUID] = Counter()
        self._unknown = 0

    async def __aenter__(self) -> Self:
        await self._tails.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._tails.__aexit__(kind, error, trace)

    @property
    def connections(self) -> int:
        """How many follow now."""
        return self._of_identity.total()

    @contextmanager
    def seat(self, who: Identity) -> Iterator[None]:
        """One live connection of somebody.

        Raises:
            HTTPException: 503, the process has no more of them; 429, this actor or its organisation
                has no more.
        """
        identity, organisation = who.counted_as, who.organisation_id
        self._check_room()
        if self._of_identity[identity] >= self.terms.per_identity:
            raise HTTPException(
                429,
                f"you have {self.terms.per_identity} live connections, as many as one may have: "
                "close one first",
                headers=_LATER,
            )
        if self._of_organisation[organisation] >= self.terms.per_organisation:
            raise HTTPException(
                429,
                f"your organisation has {self.terms.per_organisation} live connections, as many as "
                "one may have",
                headers=_LATER,
            )
        self._of_identity[identity] += 1
        self._of_organisation[organisation] += 1
        try:
            yield
        finally:
            self._of_identity[identity] -= 1
            self._of_organisation[organisation] -= 1
            # Nobody is remembered who has none.
            self._of_identity += Counter()
            self._of_organisation += Counter()

    @contextmanager
    def unknown(self) -> Iterator[None]:
        """A connection of somebody who has still to say who it is; there are few of them, so that
        they take no room from others.

        Raises:
            HTTPException: 503, there are no more.
        """
        self._check_room()
        if self._unknown >= _MOST_UNKNOWN:
            raise HTTPException(
                503, "too many connections have not said whose they are", headers=_LATER
            )
        self._unknown += 1
        try:
            yield
        finally:
            self._unknown -= 1

    def _check_room(self) -> None:
        most = self.terms.connections
        if self.connections >= most:
            raise HTTPException(503, f"this server has its {most} live connections", headers=_LATER)

    async def start(self, position: int | None, where: tuple[str, str]) -> int:
        """The position to follow from: the one asked for, or the log's end.

        Raises:
            RequestValidationError: the log does not go that far; ``where`` it was asked for.
        """
        head = await self._log.head()
        if position is not None and position > head:
            # It was restored from a backup: to wait until it is there again would skip events.
            rule = f"must not be beyond the log's end, which is {head}"
            raise RequestValidationError(
                [{"type": "value_error", "loc": where, "msg": rule, "input": position}]
            )
        return head if position is None else position

    async def follow(
        self,
        organisation_id: UUID,
        filters: Filters,
        position: int,
        hidden: Callable[[], frozenset[str]],
    ) -> AsyncGenerator[Message | Passed]:
        """The organisation's events behind a position, each once, in log order, for ever; and
        after each silence how far it is.

        ``hidden``: the areas that whoever follows may not see at that moment.
        """
        wanted = filters.of(organisation_id, hidden())
        told = monotonic()
        with self._tails.of(organisation_id) as tail:
            while True:
                mark = tail.mark()
                if wanted.without != (now := hidden()):
                    wanted = filters.of(organisation_id, now)
                # Without an await between: what is behind the position reaches up to this end.
                messages, end = tail.behind(position), tail.end
                more = False
                if messages is None:
                    page = await self._tails.read(organisation_id, position, wanted)
                    messages = [Message(event) for event in page.events]
                    end, more = page.position, page.more
                for message in messages:
                    if wanted.has(message.topic, message.stream_id):
                        yield message
                        told = monotonic()
                # A client may be ahead of the tail, by what it read for itself.
                position = max(position, end)
                left = told + self.terms.heartbeat_s - monotonic()
                if left <= 0:
                    yield Passed(position)
                    told = monotonic()
                elif not more:
                    await _rung(mark, left)


async def _rung(mark: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await mark.wait()
    except TimeoutError:
        pass
