"""The organisation's log by WebSocket: the same events as server-sent ones, and filters that change
while it is open."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from fastapi import WebSocket
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocketDisconnect, WebSocketState

from api.dependencies import Dependencies, NotAllowed, identified, may_ask
from api.errors import problem_of, told_of
from api.handshakes import BEARER, correlation_id_of, refuse
from api.live import Filters, Passed
from api.routers import PREFIX, Router
from api.serving import abort, cut
from api.socket_messages import (
    MOST_CHARACTERS,
    Address,
    Authenticate,
    Subscribe,
    read_address,
    read_message,
    read_organisation,
)
from api.stream import AWAY, GRACE_S, TooSlow
from api.tokens import Identity, InvalidToken
from api.watch import PERMISSION, Watch
from eventstore.attempts import Attempt

router = Router()
#: The protocol that is spoken. A browser names its token beside it, as ``bearer.<token>``.
PROTOCOL = "chainlytics"
#: How long who has shown no token may take to send it, in seconds.
AUTHENTICATE_S = 5.0
#: Messages that are not understood, after which the connection is closed.
PATIENCE = 5
#: Between two messages of a client: what it says faster waits in its own buffers.
_PACE_S = 0.1
_MOST_REASON = 123  # bytes, by RFC 6455
# Codes of RFC 6455; what HTTP has a status for is 4000 and that status.
_RESTARTS, _BROKE_RULES, _TOO_BIG, _FAILED, _LATER = 1012, 1008, 1009, 1011, 1013
_log = structlog.get_logger(__name__)


class Closed(Exception):
    """The connection is to be closed, and why."""

    def __init__(self, code: int, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(reason)


@dataclass(slots=True)
class _Following:
    """What a client gets, and how far it is."""

    filters: Filters
    position: int


class Socket:
    """One connection."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._deps: Dependencies = socket.app.state.dependencies
        self._live = self._deps.live
        self._stopping: asyncio.Event = socket.app.state.stopping
        self._correlation_id = correlation_id_of(socket)

    async def run(self) -> None:
        """Serve it to its end."""
        try:
            await self._enter()
        except WebSocketDisconnect:
            pass
        except Closed as closed:
            await self._close(closed.code, closed.reason)
        except TooSlow:
            _log.info("a slow client is cut off", path=self._socket.scope["path"])
            cut(self._socket.scope, _LATER, "messages were not taken in time", GRACE_S)
        except AWAY as error:
            _log.warning("a live stream ends", error=str(error).strip())
            await self._close(_LATER, "the log does not answer now")
        except Exception as error:
            # The same answers as over HTTP; what nobody foresaw is logged by its table.
            await self._refuse(error)

    async def _enter(self) -> None:
        self._check_origin()
        address = read_address(self._socket.query_params.multi_items())
        filters = address.filters()
        filters.check("query")
        token, who = await self._authenticated(address)
        with self._live.seat(who):
            position = await self._live.start(address.after, ("query", "after"))
            if self._socket.application_state is WebSocketState.CONNECTING:
                await self._accept()
            watch = Watch(self._deps, token, who, self._live.terms.recheck_s)
            await self._serve(who, watch, _Following(filters, position))

    def _check_origin(self) -> None:
        """A browser says whose page it is that connects; other clients say nothing.

        Raises:
            HTTPException: it is somebody else's page.
        """
        origin = self._socket.headers.get("origin")
        if origin is None or not {origin, "*"}.isdisjoint(self._live.origins):
            return
        if urlsplit(origin).netloc.lower() != self._socket.headers.get("host", "").lower():
            raise HTTPException(403, f"pages of {origin[:100]!r} may not connect here")

    async def _authenticated(self, address: Address) -> tuple[str, Identity]:
        """The token, from wherever the client can put it, and whose it is."""
        headers, organisation = self._socket.headers, address.organisation_id
        if (named := headers.get("x-organisation-id")) is not None:
            organisation = read_organisation(named)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if token and scheme.lower() == "bearer":
            return token, await self._admitted(token, organisation)
        for protocol in self._socket.scope["subprotocols"]:
            if protocol.startswith(BEARER):
                # A page hears of the code of a close, but not of a status of HTTP.
                await self._accept()
                token = protocol.removeprefix(BEARER)
                return token, await self._admitted(token, organisation)
        with self._live.unknown():
            await self._accept()
            first = await self._first()
            organisation = first.organisation_id or organisation
            return first.token, await self._admitted(first.token, organisation)

    async def _first(self) -> Authenticate:
        try:
            async with asyncio.timeout(AUTHENTICATE_S):
                message = read_message(await self._receive())
        except TimeoutError:
            message = None
        if not isinstance(message, Authenticate):
            raise InvalidToken(
                'the first message must be {"type": "authenticate", "token": ...}, '
                f"within {AUTHENTICATE_S:g} seconds"
            )
        return message

    async def _admitted(self, token: str, organisation: UUID | None) -> Identity:
        note, correlation_id = self._deps.attempts.note, self._correlation_id
        try:
            who = await identified(self._deps, token, organisation)
        except InvalidToken:
            endpoint = f"GET {self._socket.scope['path']}"
            code = "unauthenticated"
            note(Attempt(None, "", (), endpoint, "", "unauthenticated", code, correlation_id))
            raise
        self._socket.state.limited_as = who.counted_as
        if not may_ask(PERMISSION, who):
            asked = (who.organisation_id, who.actor, who.roles, PERMISSION)
            note(Attempt(*asked, "", "denied", "forbidden", correlation_id))
            raise NotAllowed(PERMISSION, who)
        return who

    async def _accept(self) -> None:
        spoken = PROTOCOL if PROTOCOL in self._socket.scope["subprotocols"] else None
        told = (b"x-correlation-id", str(self._correlation_id).encode())
        await self._socket.accept(spoken, headers=[told])

    async def _serve(self, who: Identity, watch: Watch, following: _Following) -> None:
        """Send events, change them as the client says, until something ends it."""
        writing = asyncio.create_task(
            self._write(who, watch, following), name="write a live stream"
        )
        wishing = asyncio.create_task(self._next_wish(watch))
        watching = asyncio.create_task(watch.ended())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while True:
                tasks = {writing, wishing, watching, stopping}
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    raise Closed(_RESTARTS, "the server stops")
                if watching.done():
                    raise Closed(*watching.result())
                if writing.done():
                    writing.result()  # it ends with an error only
                if wishing.done():
                    wish = wishing.result()
                    await _cancelled(writing)
                    following.filters = wish.filters()
                    if wish.after is not None:
                        following.position = wish.after
                    writing = asyncio.create_task(self._write(who, watch, following))
                    wishing = asyncio.create_task(self._next_wish(watch))
        finally:
            await _cancelled(writing, wishing, watching, stopping)

    async def _write(self, who: Identity, watch: Watch, following: _Following) -> None:
        filters, position = following.filters, following.position
        names = {
            "areas": list(filters.areas),
            "streams": list(filters.streams),
            "types": list(filters.types),
        }
        await self._say({"type": "following", "position": position} | names)
        own, hidden = who.organisation_id, watch.hidden
        async with aclosing(self._live.follow(own, filters, position, hidden)) as messages:
            async for message in messages:
                if isinstance(message, Passed):
                    await self._say({"type": "position", "position": message.position})
                else:
                    await self._send(message.text)
                # It was handed over whole, or this line is not reached.
                following.position = message.position

    async def _next_wish(self, watch: Watch) -> Subscribe:
        """What the client wants to follow from now on; meanwhile, what else it says is answered."""
        wrong = 0
        while True:
            try:
                message = read_message(await self._receive())
                if isinstance(message, Subscribe):
                    message.filters().check("message")
                    await self._live.start(message.after, ("message", "after"))
                    return message
                who = await watch.renew(message.token)
                expires = None if who.expires_at is None else who.expires_at.isoformat()
                await self._say({"type": "authenticated", "expires_at": expires})
                wrong = 0
            except (WebSocketDisconnect, Closed, TooSlow, *AWAY):
                raise
            except Exception as error:
                await self._say(self._problem(error))
                wrong += 1
                if wrong == PATIENCE:
                    raise Closed(_BROKE_RULES, f"{PATIENCE} messages were not understood") from None
            await asyncio.sleep(_PACE_S)

    async def _receive(self) -> str:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text: str | None = message.get("text")
        if text is None:
            raise Closed(1003, "messages are text, in JSON")
        if len(text) > MOST_CHARACTERS:
            raise Closed(_TOO_BIG, f"a message has at most {MOST_CHARACTERS:,} characters")
        return text

    async def _say(self, message: dict[str, Any]) -> None:
        await self._send(json.dumps(message))

    async def _send(self, text: str) -> None:
        """The server keeps some KB for a client and holds the next message back until they are
        taken: that is how long it may take."""
        try:
            async with asyncio.timeout(self._live.terms.slow_s):
                await self._socket.send_text(text)
        except TimeoutError:
            raise TooSlow from None

    def _problem(self, error: Exception) -> dict[str, Any]:
        return {
            "type": "error",
            "problem": problem_of(told_of(error), str(self._correlation_id)),
        }

    async def _refuse(self, error: Exception) -> None:
        """Say why it ends: as an answer of HTTP before it is open, else by message and code."""
        told = told_of(error)
        if told.status == 500:
            _log.error("unexpected error", path=self._socket.scope["path"], exc_info=error)
        if self._socket.application_state is WebSocketState.CONNECTING:
            await refuse(self._socket, error, self._correlation_id)
            return
        with suppress(WebSocketDisconnect, TooSlow):
            await self._say(self._problem(error))
        await self._close(_FAILED if told.status == 500 else 4000 + told.status, told.detail)

    async def _close(self, code: int, reason: str) -> None:
        short = reason.encode()[:_MOST_REASON].decode(errors="ignore")
        try:
            async with asyncio.timeout(GRACE_S):
                await self._socket.close(code, short)
        except TimeoutError:
            cut(self._socket.scope, code, short, GRACE_S)
        except (WebSocketDisconnect, RuntimeError):
            pass  # it is closed already
        # A closed connection stays until its client has read all; it need not.
        asyncio.get_running_loop().call_later(GRACE_S, abort, self._socket.scope)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def follow_by_socket(websocket: WebSocket) -> None:
    """Follow the log by WebSocket; docs/live.md says what is said on it."""
    await Socket(websocket).run()


# A plain route: what the application's endpoints depend on is there for requests of HTTP.
router.add_websocket_route(f"{PREFIX}/stream/socket", follow_by_socket)
