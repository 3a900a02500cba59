"""A server's address that stays while the server moves, stalls or loses what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Stands before a server, on a port that stays; can stall, and cut before an answer."""

    def __init__(self, url: str) -> None:
        self.aim(url)
        self._url = url
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()
        #: Whether to cut the connection instead of passing on these bytes of the server's.
        self.loses: Callable[[bytes], Awaitable[bool]] | None = None

    def aim(self, url: str) -> None:
        """Connect to this server from now on."""
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        parts = urlsplit(self._url)
        place = f"{parts.username}:{parts.password}@127.0.0.1:{port}"
        return urlunsplit(parts._replace(netloc=place))

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            answers, requests = await asyncio.open_connection(*self._target)
            ends.append(requests)
            pumps = [self._pump(reader, requests), self._pump(answers, writer, answering=True)]
            tasks = [asyncio.ensure_future(pump) for pump in pumps]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in tasks:
                    one.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except OSError:
            pass  # the server is away: so are we
        finally:
            for end in ends:
                end.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answering: bool = False
    ) -> None:
        while data := await source.read(65_536):
            await self.flowing.wait()
            if answering and self.loses is not None and await self.loses(data):
                return
            sink.write(data)
            await sink.drain()
