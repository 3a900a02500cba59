"""A process's own health over HTTP, for what starts, watches and scrapes it.

Nobody needs a token: it tells whether the process works and what it costs, nothing of the log and
no setting. It listens on loopback unless told otherwise.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from time import monotonic
from typing import Any

import psycopg
import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_BEAT_S = 1.0
#: An event loop that did not come round for so long hangs: whoever watches is to start it again.
SILENT_S = 30.0
#: An answer of the database is believed so long: any number of probes ask as often as one.
_BELIEVED_S = 1.0
#: Patience with the database, in seconds; libpq has no shorter one.
_PATIENCE_S = 2


class Pulse:
    """Whether a process works: it beats on the event loop, and is felt from threads."""

    def __init__(self, *, silent_s: float = SILENT_S) -> None:
        """``silent_s``: without a beat for so many seconds it is not alive."""
        self._silent_s = silent_s
        self._url: str | None = None
        self._beat = 0.0
        self._asking = Lock()
        self._answered: tuple[float, bool] | None = None

    @asynccontextmanager
    async def beating(self, url: str) -> AsyncIterator[None]:
        """Say that the event loop turns, as long as it does; ``url``: the database that the work
        needs."""

        async def beat() -> None:
            while True:
                self._beat = monotonic()
                self._url = url
                await asyncio.sleep(min(_BEAT_S, self._silent_s / 3))

        task = asyncio.create_task(beat(), name="pulse")
        try:
            yield
        finally:
            task.cancel()

    def live(self) -> bool:
        """Whether the event loop turns. A process that still prepares its database is alive: that
        may take long, and to be started again would not help it."""
        return self._url is None or monotonic() - self._beat < self._silent_s

    def ready(self) -> bool:
        """Whether it works: its event loop turns, and the database answers."""
        if self._url is None or not self.live():
            return False
        if not self._asking.acquire(timeout=_PATIENCE_S):
            return False
        try:
            if self._answered is None or monotonic() - self._answered[0] > _BELIEVED_S:
                answers = _answers(self._url)
                self._answered = (monotonic(), answers)
            return self._answered[1]
        finally:
            self._asking.release()


@contextmanager
def serving_health(listener: socket.socket, pulse: Pulse) -> Iterator[None]:
    """Answer /health/live, /health/ready and /metrics on a bound socket, in threads."""
    server = _Server(listener, pulse)
    thread = Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, pulse: Pulse) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.pulse = pulse
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asks may hang up; that is no news."""
        structlog.get_logger(__name__).debug("a health answer was not taken", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5  # who says nothing holds a thread no longer

    def do_GET(self) -> None:
        """Answer one question."""
        pulse = self.server.pulse
        if self.path == "/health/live":
            self._say(pulse.live())
        elif self.path == "/health/ready":
            self._say(pulse.ready())
        elif self.path == "/metrics":
            metrics = generate_latest(self.server.registry)
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, metrics)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")

    def log_message(self, format: str, *args: object) -> None:
        """Probes are not logged."""

    def _say(self, well: bool) -> None:
        status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, "text/plain", b"ok\n" if well else b"not ok\n")

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(
            url, connect_timeout=_PATIENCE_S, tcp_user_timeout=_PATIENCE_S * 1000
        ) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True
