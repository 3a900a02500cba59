"""The newest events of each organisation that somebody follows: read once, whoever follows them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from json import dumps
from types import TracebackType
from typing import Self
from uuid import UUID

import psycopg
import structlog

from domain import catalogue
from eventstore import Log, LogUnavailable, StoredEvent
from eventstore.archive.cold import Cold
from eventstore.archive.object_store import ArchiveUnavailable
from eventstore.matching import Wanted, matching
from eventstore.subscription import Bell, Page

#: What is kept of one organisation. Who falls behind that reads the log for itself.
_MOST_EVENTS = 500
_MOST_BYTES = 512 * 1024
#: What one read for one client brings: the most that a client holds in memory.
PAGE_EVENTS = 500
PAGE_BYTES = 256 * 1024
#: Clients that read the log for themselves at the same time: the other connections are for who
#: sends commands and asks queries.
_READERS = 2
_PAUSE_S = 0.5
_EVERYTHING = Wanted()
_log = structlog.get_logger(__name__)


class Message:
    """An event as clients get it; put into bytes once for all of them."""

    def __init__(self, event: StoredEvent) -> None:
        self.position = event.position
        self.stream_id = event.stream_id
        self.topic = event.topic
        self._event: StoredEvent | None = event
        kind = catalogue.type_of(event.topic)
        # What is stored under an older topic goes out by its present name, in its present form.
        name = event.topic if kind is None else kind.__name__
        self.name = name if name.isprintable() else repr(name)

    @cached_property
    def data(self) -> str:
        """Head and body as one line of JSON."""
        event = self._event
        assert event is not None
        topic, body = event.topic, b"null"
        if catalogue.type_of(topic) is not None:
            topic, body = catalogue.present(topic, event.state)
        head = {
            "position": event.position,
            "stream_id": str(event.stream_id),
            "version": event.version,
            "topic": topic,
            "recorded_at": event.recorded_at.isoformat(),
            "actor": event.actor,
            "event_id": str(event.event_id),
            "correlation_id": str(event.correlation_id),
            "causation_id": None if event.causation_id is None else str(event.causation_id),
        }
        # Stored JSON goes out as it stands. A line break in JSON is only ever between its parts.
        told = body.decode().replace("\r", " ").replace("\n", " ")
        self._event = None  # what it says is kept once
        return f'{dumps(head, ensure_ascii=False)[:-1]}, "event": {told}}}'

    @property
    def sse(self) -> bytes:
        """As a server-sent event."""
        return f"event: {self.name}\ndata: {self.data}\nid: {self.position}\n\n".encode()

    @property
    def text(self) -> str:
        """As a message of a WebSocket."""
        head = f'{{"type": "event", "id": {self.position}, "event": {dumps(self.name)}'
        return f'{head}, "data": {self.data}}}'


class Tail:
    """One organisation's events behind position ``start`` up to ``end``, all of them."""

    def __init__(self) -> None:
        self.start = self.end = -1  # nothing is known yet
        self.followers = 0
        self._kept: deque[tuple[Message, int]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def mark(self) -> asyncio.Event:
        """This moment: set as soon as the tail has grown since."""
        return self._news

    def behind(self, position: int) -> list[Message] | None:
        """The events behind a position up to ``end``; None: not all of them are here."""
        if not 0 <= self.start <= position:
            return None
        found = []
        for message, _ in reversed(self._kept):
            if message.position <= position:
                break
            found.append(message)
        found.reverse()
        return found

    def grow(self, events: list[StoredEvent], end: int) -> None:
        """Take in what is behind ``end`` up to a new one."""
        for event in events:
            self._kept.append((Message(event), len(event.state)))
            self._bytes += len(event.state)
        while len(self._kept) > _MOST_EVENTS or self._bytes > _MOST_BYTES:
            message, size = self._kept.popleft()
            self._bytes -= size
            self.start = message.position
        self.end = end
        told, self._news = self._news, asyncio.Event()
        told.set()

    def begin(self, position: int) -> None:
        """Begin behind a position, with nothing."""
        self.start = position
        self.grow([], position)


class Tails:
    """Reads the ends of the followed organisations' logs, one after the other: however many follow,
    one connection of the pool works for those who are at the head."""

    def __init__(self, log: Log, news: Bell) -> None:
        self._log = log
        self._news = news
        self._tails: dict[UUID, Tail] = {}
        self._cold = Cold()
        self._readers = asyncio.Semaphore(_READERS)
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="read the tails")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @contextmanager
    def of(self, organisation_id: UUID) -> Iterator[Tail]:
        """The tail of an organisation, which is read for as long as anybody holds it."""
        tail = self._tails.setdefault(organisation_id, Tail())
        tail.followers += 1
        self._wanted.set()
        try:
            yield tail
        finally:
            tail.followers -= 1
            if not tail.followers:
                del self._tails[organisation_id]

    async def read(self, organisation_id: UUID, after: int, wanted: Wanted) -> Page:
        """A page of an organisation's events up to the log's present end, for one client."""
        async with self._readers:
            head = await self._log.head()
            return await self._read(organisation_id, after, wanted, head, PAGE_EVENTS, PAGE_BYTES)

    async def _read(
        self,
        organisation_id: UUID,
        after: int,
        wanted: Wanted,
        to: int,
        limit: int,
        most_bytes: int,
    ) -> Page:
        return await matching(
            self._log.of(organisation_id),
            organisation_id,
            after,
            wanted,
            to=to,
            limit=limit,
            most_bytes=most_bytes,
            cold=self._cold,
        )

    async def _run(self) -> None:
        while True:
            while not self._tails:
                self._wanted.clear()
                await self._wanted.wait()
            mark = self._news.mark()
            self._wanted.clear()
            try:
                if not await self._grow_all():
                    await self._rest(mark)
            except (psycopg.Error, LogUnavailable, ArchiveUnavailable) as error:
                _log.warning("reading the tails again", error=str(error).strip())
                await asyncio.sleep(_PAUSE_S)
            except Exception:
                _log.exception("reading the tails again")
                await asyncio.sleep(_PAUSE_S)

    async def _grow_all(self) -> bool:
        """Read each tail up to the log's present end, or one page; whether one has more."""
        head = await self._log.head()
        more = False
        for organisation_id, tail in list(self._tails.items()):
            if tail.end < 0:
                tail.begin(head)
            elif tail.followers and tail.end < head:
                # Half of what is kept: who takes it at once has missed nothing.
                limits = (_MOST_EVENTS // 2, _MOST_BYTES // 2)
                page = await self._read(organisation_id, tail.end, _EVERYTHING, head, *limits)
                tail.grow(page.events, page.position)
                more |= page.more
        return more

    async def _rest(self, mark: asyncio.Event) -> None:
        """Return at news, at the bell's poll, or when somebody begins to follow."""
        waits = [
            asyncio.ensure_future(self._news.wait(mark)),
            asyncio.ensure_future(self._wanted.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*waits, return_exceptions=True)
        if waits[0].done() and not waits[0].cancelled():
            waits[0].result()
