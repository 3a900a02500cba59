"""How much may be asked: by whom how often, and how much at once.

Each identity has a budget of its own. Whoever shows no credentials, or some that were not seen to
be good yet, is counted by address; and addresses that show bad ones are let down to a trickle
before anything is verified for them.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import ceil
from time import monotonic

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from api.allowance import Limits, Network, Rate
from api.bodies import BODILESS
from api.errors import http_problem
from api.handshakes import BEARER, correlation_id_of, refuse
from api.slots import Slots

#: So many callers are remembered at once, of each sort.
_MOST = 50_000
#: What probes ask is answered however busy we are.
_PROBES = ("/health/", "/api/v1/health", "/metrics")
#: How a WebSocket is refused: by a status, or by 4000 and that status if it was open already.
_REFUSED = {"websocket.http.response.start": 0, "websocket.close": 4000}


class Buckets:
    """Token buckets by key: for each, one number, the moment from which it is full again.

    Args:
        rate: how fast they fill, and how much they hold.
        most: keys remembered; a full bucket need not be.
    """

    def __init__(self, rate: Rate, *, most: int = _MOST) -> None:
        self._off = rate.per_second <= 0
        self._step = 0.0 if self._off else 1 / rate.per_second
        self._depth = self._step * max(1, rate.burst)
        self._most = most
        self._full_at: dict[bytes | str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: bytes | str, now: float) -> float:
        """Take one token. 0: it was there; else the seconds until there is one."""
        if self._off:
            return 0.0
        full_at = max(self._full_at.get(key, now), now) + self._step
        wait = full_at - self._depth - now
        if wait > 1e-9:
            return wait
        self._full_at[key] = full_at
        if len(self._full_at) > self._most:
            self._forget(now)
        return 0.0

    def wait(self, key: bytes | str, now: float) -> float:
        """The seconds until there is a token, without taking it."""
        if self._off:
            return 0.0
        return max(0.0, self._full_at.get(key, now) + self._step - self._depth - now)

    def _forget(self, now: float) -> None:
        """Forget full buckets; where that is not enough, a tenth of the others, the oldest ones."""
        left = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        for key in list(left)[: max(0, len(left) - self._most * 9 // 10)]:
            del left[key]
        self._full_at = left


class _TooMany(HTTPException):
    """Too many requests of one caller."""

    def __init__(self, policy: str, rate: Rate, wait: float) -> None:
        window = max(1, ceil(rate.burst / rate.per_second))
        super().__init__(
            429,
            f"more than {rate.per_second:g} requests a second by {policy} (and {rate.burst} at "
            f"once); try again in {wait:.3g} s",
            headers={
                "Retry-After": str(max(1, ceil(wait))),
                "RateLimit-Policy": f'"{policy}";q={rate.burst};w={window}',
                "RateLimit": f'"{policy}";r=0;t={max(1, ceil(wait))}',
            },
        )


class Limited:
    """Refuses what goes past the limits, before anything is read or verified. Plain ASGI; a few
    look-ups for each request."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._identities = Buckets(limits.identity)
        self._addresses = Buckets(limits.address)
        self._failures = Buckets(limits.failures)
        #: Whose credentials were good, by their digest.
        self._good: dict[bytes, str] = {}
        self._running = Slots(limits.concurrent, limits.share)
        #: Whoever sends a head and then nothing takes no place of those that are answered.
        self._arriving = Slots(limits.concurrent, limits.share, "bodies of yours are on their way")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        shown: bytes | None = None
        forwarded: list[bytes] = []
        for name, value in scope["headers"]:
            if name == b"authorization":
                shown = _digest(value)
            elif name == b"x-forwarded-for":
                forwarded.append(value)
        address = address_of(scope, forwarded, self._limits.proxies)
        shows = shown is not None
        if scope["type"] == "websocket":
            # Who shows nothing with the handshake does so by the first message.
            shown, shows = shown or _offered(scope), True
        who = None if shown is None else self._good.get(shown)
        refusal = self._refusal(shows, who, address)
        if refusal is not None:
            await _refuse(scope, receive, send, refusal)
        elif scope["type"] == "websocket" or (
            scope["method"] in BODILESS and scope["path"].startswith(_PROBES)
        ):
            await self._app(scope, receive, self._watched(scope, send, shown, address))
        else:
            await self._counted(scope, receive, send, shown, address, who or address)

    async def _counted(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        shown: bytes | None,
        address: str,
        caller: str,
    ) -> None:
        """Answer a request in a slot of its caller: of those on their way until its body is there,
        then of those that run. It holds one at the most."""
        slots: Slots | None = None

        def let_go() -> None:
            nonlocal slots
            if slots is not None:
                slots.free(caller)
                slots = None

        def move(to: Slots) -> HTTPException | None:
            nonlocal slots
            let_go()
            refusal = to.take(caller)
            if refusal is None:
                slots = to
            return refusal

        async def received() -> Message:
            message = await receive()
            if (
                slots is self._arriving
                and message["type"] == "http.request"
                and not message.get("more_body")
                and (refusal := move(self._running)) is not None
            ):
                raise refusal  # to whoever reads the body, who tells the client
            return message

        bodiless = scope["method"] in BODILESS
        refusal = move(self._running if bodiless else self._arriving)
        if refusal is not None:
            if not bodiless:  # the body is not read
                refusal.headers = {**(refusal.headers or {}), "Connection": "close"}
            await _refuse(scope, receive, send, refusal)
            return
        watched = self._watched(scope, send, shown, address, let_go)
        try:
            await self._app(scope, receive if bodiless else received, watched)
        finally:
            let_go()

    def _watched(
        self,
        scope: Scope,
        send: Send,
        shown: bytes | None,
        address: str,
        goes_live: Callable[[], None] | None = None,
    ) -> Send:
        """Learns from what is answered whose credentials are good, and that a live stream begins:
        those have seats of their own."""

        learnt = scope["type"] == "http"  # a WebSocket may be open before its token is seen

        async def watched(message: Message) -> None:
            nonlocal learnt
            kind = message["type"]
            if kind == "http.response.start":
                self._learn(message["status"], shown, scope, address)
                if goes_live is not None and _is_live(message["headers"]):
                    goes_live()
            elif kind in _REFUSED:
                status = message.get("status") or message.get("code", 0)
                self._learn(status - _REFUSED[kind], shown, scope, address)
            elif not learnt and "limited_as" in scope.get("state", {}):
                learnt = True
                self._learn(200, shown, scope, address)
            await send(message)

        return watched

    def _refusal(self, shows: bool, who: str | None, address: str) -> HTTPException | None:
        limits = self._limits
        now = monotonic()
        if who is not None:
            if wait := self._identities.take(who, now):
                return _TooMany("identity", limits.identity, wait)
        else:
            if shows and (wait := self._failures.wait(address, now)):
                return _TooMany("failures", limits.failures, wait)
            if wait := self._addresses.take(address, now):
                return _TooMany("address", limits.address, wait)
        return None

    def _learn(self, status: int, shown: bytes | None, scope: Scope, address: str) -> None:
        """From an answer, whether the credentials that were shown are good."""
        if status == 401:
            if "limited_as" not in scope.get("state", {}):  # they were never good on this one
                self._failures.take(address, monotonic())
            if shown is not None:
                self._good.pop(shown, None)
        elif shown is not None and shown not in self._good:
            self._believe(shown, scope)

    def _believe(self, shown: bytes, scope: Scope) -> None:
        """Remember credentials that were good, and whose they are."""
        who: str | None = scope.get("state", {}).get("limited_as")
        if who is None:
            return  # nobody has looked at them
        if len(self._good) >= _MOST:
            self._good.pop(next(iter(self._good)))
        self._good[shown] = who


async def _refuse(scope: Scope, receive: Receive, send: Send, error: HTTPException) -> None:
    if scope["type"] == "http":
        await http_problem(Request(scope), error)(scope, receive, send)
        return
    websocket = WebSocket(scope, receive, send)
    await refuse(websocket, error, correlation_id_of(websocket))


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()


def _offered(scope: Scope) -> bytes | None:
    """The token that a page shows with the handshake, as other requests show it."""
    for protocol in scope["subprotocols"]:
        if protocol.startswith(BEARER):
            return _digest(f"Bearer {protocol.removeprefix(BEARER)}".encode())
    return None


def address_of(
    scope: Scope | Mapping[str, object], forwarded: Sequence[bytes], proxies: Sequence[Network]
) -> str:
    """Whose connection it is: behind proxies that are trusted, the nearest one that is not.

    Args:
        scope: names the peer.
        forwarded: the values of X-Forwarded-For, in their order.
        proxies: who is believed.
    """
    client = scope.get("client")
    peer = str(client[0]) if isinstance(client, tuple | list) and client else ""
    if forwarded and proxies and _is_of(peer, tuple(proxies)):
        hops = b",".join(forwarded).decode("latin-1").split(",")
        for hop in reversed(hops[-20:]):
            peer = hop.strip()
            if not _is_of(peer, tuple(proxies)):
                break
    return _block(peer[:64])


@lru_cache(maxsize=4096)
def _is_of(host: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in networks)


@lru_cache(maxsize=4096)
def _block(host: str) -> str:
    """An address as it is counted: IPv6 gives every customer 2**64 of them."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _is_live(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in headers
    )
