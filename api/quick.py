"""The short way to a command's endpoint, for requests that are as plain as most are.

FastAPI finds an endpoint's arguments anew for each request; of a POST that is valid in the usual
form that is most of the time which it takes. Here they are read directly. Whatever is not plain (a
header twice, a condition, a query, another charset) or not valid goes FastAPI's way, which then
says why: so there is one truth about what is accepted, and this file only ever says yes where it
would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette._utils import get_route_path
from starlette.routing import BaseRoute, Match
from starlette.types import Message, Receive, Scope, Send

from api.dependencies import Dependencies, identity

_KEY = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?\Z")
_ORGANISATION = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_BEARER = b"Bearer "
_JSON = b"application/json"
_COMMAND, _NOT_PLAIN = "chainlytics.command", "chainlytics.not_plain"
_READ = (b"authorization", b"content-type", b"idempotency-key", b"x-organisation-id", b"if-match")


class Arguments:
    """Reads the arguments of a command's endpoint.

    Args:
        body: the model of the body.
        path: the type of each field that the path holds.
    """

    def __init__(self, body: type[BaseModel], path: Mapping[str, Any]) -> None:
        self._body = body.__pydantic_validator__.validate_python
        self._path = {name: TypeAdapter(kind).validate_python for name, kind in path.items()}

    async def of(self, request: Request) -> dict[str, Any] | None:
        """The arguments of a plain and valid request; None: it is another one.

        Raises:
            InvalidToken, NoSuchOrganisation, OrganisationNeeded: it is not known who asks.
        """
        said = _headers(request)
        if said is None:
            return None
        bearer, key, organisation = (
            said.get(b"authorization", b""),
            said.get(b"idempotency-key"),
            said.get(b"x-organisation-id"),
        )
        if (
            not bearer.startswith(_BEARER)
            or said.get(b"content-type") != _JSON
            or b"if-match" in said
            or (key is not None and _KEY.match(key) is None)
            or (organisation is not None and _ORGANISATION.match(organisation) is None)
        ):
            return None
        shown = bearer[len(_BEARER) :].decode("latin-1").strip()
        if not shown:
            return None
        try:
            said_body = json.loads(await request.body())
        except (ValueError, RecursionError):
            return None
        deps: Dependencies = request.app.state.dependencies
        caller = await identity(
            request,
            deps,
            HTTPAuthorizationCredentials(scheme="Bearer", credentials=shown),
            None if organisation is None else UUID(organisation.decode()),
        )
        try:
            path = {name: read(request.path_params[name]) for name, read in self._path.items()}
            body = self._body(said_body)
        except ValidationError:
            return None
        return path | {
            "deps": deps,
            "caller": caller,
            "body": body,
            "idempotency_key": None if key is None else key.decode(),
        }


def _headers(request: Request) -> dict[bytes, bytes] | None:
    """The headers that count here; None: one of them stands there twice."""
    found: dict[bytes, bytes] = {}
    for name, value in request.scope["headers"]:
        if name in _READ:
            if name in found:
                return None
            found[name] = value
    return found


class CommandRoute(APIRoute):
    """The route of an endpoint that has ``arguments``, an ``Arguments``."""


class _Command(NamedTuple):
    """A command's endpoint and what is known of it before a request comes."""

    route: Any
    template: re.Pattern[str]
    endpoint: Callable[..., Awaitable[BaseModel]]
    arguments: Arguments
    status: int


class Commands(BaseRoute):
    """All endpoints of commands, found by their paths without looking at the others.

    Put it before the application's other routes, when all of them are there. What is not plain is
    given back to them with its body.
    """

    def __init__(self, app: FastAPI) -> None:
        self._usual = app.router.app
        self._found: dict[tuple[str, str], list[_Command]] = {}
        for route in app.routes:
            if isinstance(route, CommandRoute):
                endpoint: Any = route.endpoint
                arguments: Arguments = endpoint.__dict__["arguments"]
                command = _Command(
                    route, route.path_regex, endpoint, arguments, route.status_code or 200
                )
                self._found.setdefault(_shape(str(route.path)), []).append(command)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether it is a plain POST to a command's endpoint."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
            return Match.NONE, {}
        if _NOT_PLAIN in scope:
            return Match.NONE, {}
        path = get_route_path(scope)
        for command in self._found.get(_shape(path), ()):
            if found := command.template.match(path):
                more = {"path_params": found.groupdict(), "route": command.route}
                return Match.FULL, more | {"endpoint": command.endpoint, _COMMAND: command}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a plain request; let the others be answered as all are."""
        command: _Command = scope[_COMMAND]
        request = Request(scope, receive, send)
        given = await command.arguments.of(request)
        if given is None:
            scope[_NOT_PLAIN] = True
            await self._usual(scope, await _again(request, receive), send)
            return
        answer = Response(status_code=command.status, media_type="application/json")
        told = await command.endpoint(request=request, response=answer, **given)
        answer.body = told.__pydantic_serializer__.to_json(told)
        answer.headers["content-length"] = str(len(answer.body))
        await answer(scope, receive, send)


def _shape(path: str) -> tuple[str, str]:
    """What all paths of an endpoint have in common: how many parts, and which area (the part behind
    the API's version) it is of."""
    parts = path.split("/")
    return str(len(parts)), parts[3] if len(parts) > 3 else ""


async def _again(request: Request, receive: Receive) -> Receive:
    """The request's messages once more, where its body was read."""
    if not hasattr(request, "_body"):
        return receive
    first: Message = {"type": "http.request", "body": await request.body(), "more_body": False}
    left = [first]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay
