"""Conditional requests (RFC 9110): entity tags that name a version, If-Match and If-None-Match."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commands import Expected

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_LIST = re.compile(rf"\s*{_TAG}(?:\s*,\s*{_TAG})*\s*", re.ASCII)
_ONE = re.compile(_TAG)
#: Of one of our tags: the version, and behind a dot what the answer hangs on besides.
_OURS = re.compile(r'"(0|[1-9][0-9]{0,17})(?:\.[a-z0-9-]+)?"')
_LONGEST = 1000


def entity_tag(version: int, *besides: str) -> str:
    """The tag of an answer: the version of its stream, and what else its bytes hang on."""
    return f'"{".".join((str(version), "-".join(besides)) if besides else (str(version),))}"'


def expected_of(header: str) -> Expected:
    """What If-Match asks for. Tags that are none of ours, and weak ones, match nothing.

    Raises:
        ValueError: it is no list of entity tags.
    """
    if header.strip() == "*":
        return Expected(any_version=True)
    if len(header) > _LONGEST or not _LIST.fullmatch(header):
        raise ValueError('must be *, or entity tags such as "7" with commas between them')
    ours = (_OURS.fullmatch(tag) for tag in _ONE.findall(header))
    return Expected(frozenset(int(found[1]) for found in ours if found))


#: A command's If-Match, as it is sent.
IfMatch = Annotated[
    str | None,
    Header(
        max_length=_LONGEST,
        description="Take the command only if its stream is at this version: the `ETag` that a "
        'read of it gave, such as `"7"`; several with commas between them; `*`: if it exists.',
        examples=['"7"'],
    ),
]


def expected_in(request: Request, if_match: str | None) -> Expected | None:
    """What a request's If-Match asks for; None: nothing.

    Raises:
        RequestValidationError: it is no list of entity tags.
    """
    if if_match is None:
        return None
    try:
        return expected_of(", ".join(request.headers.getlist("if-match")))
    except ValueError as error:
        told = {"type": "if_match", "loc": ("header", "If-Match"), "msg": str(error)}
        raise RequestValidationError([told | {"input": if_match}]) from error


class NotModified:
    """Answers 304 where a GET names in If-None-Match the tag that the answer would have."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        said = [value for name, value in scope["headers"] if name == b"if-none-match"]
        if not said:
            await self._app(scope, receive, send)
            return
        held = b", ".join(said).decode("latin-1")
        known = {tag.removeprefix("W/") for tag in _ONE.findall(held)}
        unchanged = False

        async def send_if_new(message: Message) -> None:
            nonlocal unchanged
            if message["type"] == "http.response.start" and message["status"] == 200:
                headers = Headers(raw=message["headers"])
                tag = headers.get("etag", "").removeprefix("W/")
                if tag and (tag in known or held.strip() == "*"):
                    unchanged = True
                    kept = [
                        (name, value)
                        for name, value in message["headers"]
                        if name not in (b"content-length", b"content-type", b"content-encoding")
                    ]
                    message = {"type": "http.response.start", "status": 304, "headers": kept}
            elif unchanged and message["type"] == "http.response.body":
                if message.get("more_body"):
                    return
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, receive, send_if_new)
