"""Bodies: not too large, not too slow, not too deep."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Mapping
from itertools import accumulate

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import http_problem

MAX_BODY = 1_000_000
#: Methods whose requests have no body that anybody reads.
BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})
#: The media type of tables (RFC 4180).
TABLE = b"text/csv"
#: Levels of arrays and objects within each other.
MAX_DEPTH = 32
# Possessive, and the last quote may be missing: it cannot fail, so it reads every byte once.
_TEXTS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class TooLarge(HTTPException):
    """The body went past the limit. FastAPI reads bodies and lets only its own errors through."""

    def __init__(self, limit: int = MAX_BODY) -> None:
        # The rest of it is not read.
        super().__init__(
            413, f"the body is larger than {limit:,} bytes", headers={"Connection": "close"}
        )


class TooSlow(HTTPException):
    """The body did not arrive in time."""

    def __init__(self, seconds: float) -> None:
        told = f"the body did not arrive within {seconds:g} s"
        super().__init__(408, told, headers={"Connection": "close"})


class TooDeep(HTTPException):
    """JSON with too many levels."""

    code = "json-too-deep"

    def __init__(self) -> None:
        super().__init__(400, f"the JSON has more than {MAX_DEPTH} levels")


class NotUtf8(HTTPException):
    """What a parser would take for JSON of another encoding, in which bytes are no brackets."""

    code = "json-not-utf-8"

    def __init__(self, encoding: str) -> None:
        super().__init__(400, f"the body looks like {encoding.upper()}: JSON is sent in UTF-8")


class Bodies:
    """Reads a body whole before anybody else does, and refuses what is past the limits; whatever it
    says it is, since who reads it may be told otherwise. Only what says that it is a table is never
    taken for JSON: endpoints of JSON answer it with 415.

    Args:
        app: takes what is good.
        timeout_s: how long a body may take; 0: no limit.
        larger: for the paths that may take more than a megabyte, how much; their bodies are passed
            on as they come, and they say themselves how long that may take.
    """

    def __init__(
        self, app: ASGIApp, timeout_s: float = 30, larger: Mapping[str, int] | None = None
    ) -> None:
        self._app = app
        self._timeout_s = timeout_s or None
        self._larger = larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["method"] in BODILESS:
            await self._app(scope, receive, send)
            return
        limit = self._larger.get(scope["path"], MAX_BODY)
        kinds, is_table = 0, False
        try:
            for name, value in scope["headers"]:
                if name == b"content-length" and value.isdigit() and int(value[:20]) > limit:
                    raise TooLarge(limit)
                if name == b"content-encoding" and value.lower() != b"identity":
                    raise HTTPException(415, "send the body as it is: without Content-Encoding")
                if name == b"content-type":
                    kinds += 1
                    is_table = value.partition(b";")[0].strip().lower() == TABLE
            if kinds > 1:
                raise HTTPException(415, "Content-Type stands there more than once")
            if scope["path"] in self._larger:
                receive = _passed_on(receive, limit)
            else:
                receive = await self._whole(receive, is_table)
        except ClientDisconnect:
            return  # nobody is there to be answered
        except HTTPException as error:
            await http_problem(Request(scope), error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _whole(self, receive: Receive, is_table: bool) -> Receive:
        """The body in one message, looked at; of a table nobody parses JSON."""
        message = await self._soon(_gathered(receive))
        body = message.get("body", b"")
        if len(body) > MAX_BODY:
            raise TooLarge
        if not is_table:
            # As the parser guesses, by the first bytes.
            if not (encoding := json.detect_encoding(body)).startswith("utf-8"):
                raise NotUtf8(encoding)
            if is_too_deep(body):
                raise TooDeep
        first: Message | None = message

        async def again() -> Message:
            nonlocal first
            if first is not None:
                told, first = first, None
                return told
            return await receive()

        return again

    async def _soon(self, message: Awaitable[Message]) -> Message:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await message
        except TimeoutError:
            raise TooSlow(self._timeout_s or 0) from None


def _passed_on(receive: Receive, limit: int) -> Receive:
    """The body as it comes, up to its limit."""
    read = 0

    async def bounded() -> Message:
        nonlocal read
        message = await receive()
        if message["type"] == "http.request":
            read += len(message.get("body", b""))
            if read > limit:
                raise TooLarge(limit)
        return message

    return bounded


async def _gathered(receive: Receive) -> Message:
    """A body as one message, in however many pieces it comes."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        if not message.get("more_body") and not body:
            return message
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise TooLarge
        if not message.get("more_body"):
            return {"type": "http.request", "body": bytes(body), "more_body": False}


def is_too_deep(body: bytes) -> bool:
    """Whether JSON has more levels than is good for who parses it. Counted without parsing."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _TEXTS.sub(b"", body).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_DEPTH
