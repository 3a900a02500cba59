"""A witness over HTTP, by C2SP's protocol (https://c2sp.org/tlog-witness): ``add-checkpoint``."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import httpx
import structlog

from eventstore.witnesses.witness import HeadNote, Proof, WitnessAway, WitnessRefused

_PATIENCE_S = 10.0
_MOST_BYTES = 1 << 16
_SIZE_TYPE = "text/x.tlog.size"
_SIZE = re.compile(r"(0|[1-9][0-9]{0,18})\n?")
_SIGNATURE = re.compile(r"— [^\s+]+ ([A-Za-z0-9+/]+={0,2})")
_log = structlog.get_logger(__name__)


class _Answer(NamedTuple):
    status: int
    kind: str
    text: str

    @property
    def size(self) -> int | None:
        """The size that a witness says it has seen, if it does."""
        match = _SIZE.fullmatch(self.text)
        if self.status != HTTPStatus.CONFLICT or not self.kind.startswith(_SIZE_TYPE) or not match:
            return None
        return int(match[1])

    def __str__(self) -> str:
        said = " ".join(self.text.split())[:200]
        return f"{self.status}, {said}" if said else str(self.status)


class HttpWitness:
    """Posts to ``add-checkpoint`` below an address; user and password in it go along as Basic."""

    def __init__(self, prefix: str) -> None:
        self._url = f"{prefix.rstrip('/')}/add-checkpoint"
        parts = urlsplit(prefix)
        self._name = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self._client: httpx.AsyncClient | None = None

    @property
    def name(self) -> str:
        """The address, without user and password."""
        return self._name

    async def hand(self, head: HeadNote, *, seen: int, proof: Proof) -> str:
        """Post the head, and the proof that it follows from what it has seen; see ``Witness``."""
        size = head.head.size
        answer = await self._post(head, seen, proof)
        told = answer.size
        if told is not None and told != seen:
            # It has seen another one than we remember: prove from there.
            if told > size:
                raise WitnessRefused(
                    f"it has seen {told:,} events, this head is of {size:,}: the log was set back"
                )
            if told < seen:
                _log.warning("a witness forgot", witness=self.name, seen=seen, says=told)
            answer, seen = await self._post(head, told, proof), told
            if answer.size not in (None, seen):
                raise WitnessAway("it is being handed heads by somebody else")
        if answer.status == HTTPStatus.CONFLICT:
            raise WitnessRefused(f"it has seen another log of {seen:,} events ({answer})")
        if answer.status == HTTPStatus.UNPROCESSABLE_ENTITY:
            raise WitnessRefused(f"this head does not follow from the one it has seen ({answer})")
        if not 200 <= answer.status < 300:
            raise WitnessAway(f"it answered {answer}")
        return _signatures(answer.text)

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _post(self, head: HeadNote, old: int, proof: Proof) -> _Answer:
        size = head.head.size
        path = [] if old in (0, size) else await proof(old, size)
        lines = [f"old {old}", *(b64encode(one).decode() for one in path), "", head.note]
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=_PATIENCE_S)
        try:
            async with self._client.stream(
                "POST",
                self._url,
                content="\n".join(lines).encode(),
                headers={"Content-Type": "text/plain; charset=utf-8"},
            ) as answer:
                body = b""
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > _MOST_BYTES:
                        raise WitnessAway(f"it answered {answer.status_code} and too much with it")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise WitnessAway(f"{type(error).__name__}: {error}".removesuffix(": ")) from error
        kind = answer.headers.get("content-type", "")
        return _Answer(answer.status_code, kind, body.decode(errors="replace"))


def _signatures(text: str) -> str:
    """Those of the lines that are signature lines of a note."""
    found = []
    for line in text.split("\n"):
        match = _SIGNATURE.fullmatch(line)
        if match is None:
            continue
        try:
            # Four bytes name the key; what follows them is the signature.
            if len(b64decode(match[1], validate=True)) > 4:
                found.append(f"{line}\n")
        except Base64Error:
            continue
    return "".join(found)
