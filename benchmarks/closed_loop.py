"""An HTTP client that costs little: connections that are kept, each with one request under way.

The answers are read as far as their length; nothing of it is decoded, so that the client's share of
a core is small beside the server's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import uvloop

#: Makes the bytes of the next request.
Make = Callable[[], bytes]


class Failed(Exception):
    """An answer was not of the status that the benchmark is about."""


@dataclass
class Load:
    """What a load came to: how many requests in how many seconds, and how long each took (s)."""

    requests: int = 0
    seconds: float = 0.0
    took: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


class _Connection(asyncio.Protocol):
    """Sends a request, waits for the whole answer, sends the next one."""

    def __init__(self, make: Make, status: bytes, load: Load, done: asyncio.Future[None]) -> None:
        self._make, self._load, self._done = make, load, done
        self._wanted = b"HTTP/1.1 " + status
        self._buffer = b""
        self._since = 0.0
        self._until = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def begin(self, until: float) -> None:
        """Go on sending until then."""
        self._until = until
        self._next()

    def _next(self) -> None:
        self._since = perf_counter()
        self._transport.write(self._make())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._buffer.lower().find(b"content-length: ", 0, head)
        length = int(self._buffer[at + 16 : self._buffer.index(b"\r", at)]) if at >= 0 else 0
        if len(self._buffer) < head + 4 + length:
            return
        answer, self._buffer = self._buffer, b""
        now = perf_counter()
        if not answer.startswith(self._wanted):
            self._end(Failed(answer[:2000].decode("utf-8", "replace")))
            return
        self._load.requests += 1
        self._load.took.append(now - self._since)
        if now < self._until:
            self._next()
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or Failed("the server closed the connection"))

    def _end(self, error: Exception | None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


def load(port: int, make: Make, status: int, connections: int, seconds: float) -> Load:
    """Keep connections to a loopback port busy for some seconds.

    Raises:
        Failed: an answer had another status.
    """
    return uvloop.run(_load(port, make, str(status).encode(), connections, seconds))


async def _load(port: int, make: Make, status: bytes, connections: int, seconds: float) -> Load:
    found = Load()
    loop = asyncio.get_running_loop()
    ends = [loop.create_future() for _ in range(connections)]
    made = [
        (
            await loop.create_connection(
                lambda end=end: _Connection(make, status, found, end),  # type: ignore[misc]
                "127.0.0.1",
                port,
            )
        )
        for end in ends
    ]
    begun = perf_counter()
    for _, protocol in made:
        protocol.begin(begun + seconds)
    try:
        await asyncio.gather(*ends)
    finally:
        found.seconds = perf_counter() - begun
        for transport, _ in made:
            transport.close()
    return found
