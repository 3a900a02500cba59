"""Sends one signed request to an address that was checked, and says what came of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import httpcore

from eventstore.webhooks.addresses import Addresses, AddressRefused, port_of
from eventstore.webhooks.signing import signed

#: How long a receiver may take in all, in seconds.
PATIENCE_S = 15.0
#: The longest that a receiver can put us off.
_LONGEST_WAIT = timedelta(hours=24)
_AGENT = b"Chainlytics-Webhooks"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request.

    ``status_code`` is None where there was no answer, ``error`` None where it was taken.
    ``retry_after``: how long the receiver wants to be left alone.
    """

    at: datetime
    duration_ms: int
    status_code: int | None
    error: str | None
    retry_after: timedelta | None = None

    @property
    def taken(self) -> bool:
        """Whether the receiver has it."""
        return self.error is None

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more."""
        return self.status_code == HTTPStatus.GONE

    @property
    def overloaded(self) -> bool:
        """Whether the receiver wants less of all of it, not another try of this one."""
        return self.status_code in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, whatever the name would say now. The name stays in
    the Host header and in TLS."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of the addresses that answers."""
        *others, last = self._addresses
        for address in others:
            try:
                return await self._network.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._network.connect_tcp(last, port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never."""
        raise httpcore.ConnectError("requests go over TCP alone")


class Sender:
    """Sends requests. Each resolves the name, checks what it led to, and connects to that: no
    connection is kept. No proxy is used, no redirect followed, and of an answer nothing is read
    but its head.

    Args:
        addresses: says where requests may go.
        tls: verifies receivers; the system's authorities without it.
        patience_s: how long a receiver may take, from the first look for its address on.
    """

    def __init__(
        self,
        addresses: Addresses,
        *,
        tls: ssl.SSLContext | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._addresses = addresses
        self._tls = tls or ssl.create_default_context()
        self._patience_s = patience_s

    async def send(
        self, url: str, message_id: str, body: bytes, signers: Sequence[bytes]
    ) -> Outcome:
        """POST a body, signed by each of the secrets. Whatever goes wrong is an outcome."""
        at, begun = datetime.now(UTC), monotonic()
        headers = signed(message_id, int(at.timestamp()), body, signers)
        code: int | None = None
        wait: timedelta | None = None
        error: str | None
        try:
            async with asyncio.timeout(self._patience_s):
                code, wait = await self._post(url, body, headers)
            error = None if 200 <= code < 300 else f"it answered {code}"
        except TimeoutError:
            error = f"it did not answer within {self._patience_s:g} seconds"
        except AddressRefused as refused:
            error = str(refused)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as failed:
            error = f"{type(failed).__name__}: {failed}".removesuffix(": ")[:300]
        except (OSError, ValueError) as failed:
            error = f"{type(failed).__name__}: {failed}"[:300]
        return Outcome(at, int((monotonic() - begun) * 1000), code, error, wait)

    async def _post(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, timedelta | None]:
        checked = await self._addresses.of(url)
        parts = urlsplit(url)
        target = httpcore.URL(
            scheme=parts.scheme.encode(),
            host=(parts.hostname or "").encode(),
            port=port_of(url),
            target=(parts.path or "/").encode(),
        )
        sent: list[tuple[bytes, bytes]] = [
            (b"Host", parts.netloc.encode()),
            (b"User-Agent", _AGENT),
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
            (b"Connection", b"close"),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ]
        connection = httpcore.AsyncHTTPConnection(
            origin=target.origin,
            ssl_context=self._tls,
            network_backend=_Checked(checked),
        )
        try:
            request = httpcore.Request(
                "POST",
                target,
                headers=sent,
                content=body,
                extensions={"timeout": {"connect": self._patience_s / 3}},  # each address
            )
            answer = await connection.handle_async_request(request)
            try:
                return answer.status, _retry_after(answer.headers)
            finally:
                await answer.aclose()
        finally:
            await connection.aclose()


def _retry_after(headers: Sequence[tuple[bytes, bytes]]) -> timedelta | None:
    """How long ``Retry-After`` asks for, as seconds or a date; None: it does not, or not so."""
    for name, value in headers:
        if name.lower() == b"retry-after":
            words = value.decode("ascii", "replace").strip()
            try:
                wait = (
                    timedelta(seconds=min(int(words), 10**6))
                    if words.isdigit()
                    else parsedate_to_datetime(words).astimezone(UTC) - datetime.now(UTC)
                )
            except (ValueError, OverflowError):
                return None
            return min(max(wait, timedelta()), _LONGEST_WAIT)
    return None
