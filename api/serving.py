"""uvicorn's connections, with a way for a live stream to cut its own off.

A connection that is closed is first flushed, and whoever does not read keeps it open for ever. So
the scope of a request has under ``extensions`` what throws away what the client has not taken.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

#: The largest message of a WebSocket's client; the connection of a larger one is closed with 1009.
MOST_BYTES = 256 * 1024
_ABORT = "chainlytics.abort"
_CUT = "chainlytics.cut"


class Http(HttpToolsProtocol):
    """HTTP whose responses can abort their connection."""

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        extensions: dict[str, Any] = {_ABORT: self.transport.abort}
        self.scope["extensions"] = extensions


class Sockets(WebSocketsSansIOProtocol):
    """WebSockets that can be cut off with a word."""

    async def run_asgi(self) -> None:
        """Serve one connection."""
        extensions: dict[str, Any] = {_ABORT: self.transport.abort, _CUT: self.cut}
        self.scope["extensions"] = {**self.scope["extensions"], **extensions}
        await super().run_asgi()

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the application says."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            # A refusal is an answer too: the handshake is over, and nothing went wrong.
            self.handshake_complete = True

    def cut(self, code: int, reason: str, after_s: float) -> None:
        """Close without waiting until there is room: the reason stands behind what waits to be
        read, and what is not taken after some seconds is thrown away."""
        if self.close_sent or self.transport.is_closing():
            self.loop.call_later(after_s, self.transport.abort)
            return
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.stop_keepalive()
        self.close_sent = True
        if self.read_paused:  # its answer to the close is to be read
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(after_s, self.transport.abort)


def abort(scope: MutableMapping[str, Any]) -> None:
    """Throw a connection away with all that its client has not taken; another server than ours
    closes it when the client has read it."""
    cutting: Callable[[], None] | None = scope.get("extensions", {}).get(_ABORT)
    if cutting is not None:
        cutting()


def cut(scope: MutableMapping[str, Any], code: int, reason: str, after_s: float) -> None:
    """Close a WebSocket whose client may not read, and abort it after some seconds."""
    cutting: Callable[[int, str, float], None] | None = scope.get("extensions", {}).get(_CUT)
    if cutting is not None:
        cutting(code, reason, after_s)
