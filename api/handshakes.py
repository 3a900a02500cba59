"""WebSockets that are not opened: the answer is HTTP's, in the one shape of errors."""

from __future__ import annotations

from uuid import UUID

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket

from api.correlation import correlation_of
from api.errors import PROBLEM_JSON, problem_of, told_of

#: A page cannot set headers: it offers its token as a protocol of this beginning.
BEARER = "bearer."


def correlation_id_of(socket: WebSocket) -> UUID:
    """The one that its client has named, else a new one."""
    named = socket.headers
    return correlation_of(named.get("traceparent", ""), named.get("x-correlation-id", ""))


async def refuse(socket: WebSocket, error: Exception, correlation_id: UUID) -> None:
    """Answer a handshake with a problem; it must not have been accepted."""
    told = told_of(error)
    if "websocket.http.response" not in socket.scope.get("extensions", {}):
        await socket.close(4000 + told.status)  # another server than ours: it answers with 403
        return
    body = problem_of(told, str(correlation_id))
    headers = {**(told.headers or {}), "X-Correlation-ID": str(correlation_id)}
    await socket.send_denial_response(JSONResponse(body, told.status, headers, PROBLEM_JSON))


async def nowhere(websocket: WebSocket) -> None:
    """What every path says that is not followed by WebSocket."""
    error = HTTPException(404, "nothing is followed by WebSocket here")
    await refuse(websocket, error, correlation_id_of(websocket))
