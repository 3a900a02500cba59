"""An issuer's public keys: fetched, kept, and fetched again when it signs with a new one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from api.identity.configuration import is_loopback
from api.tokens import InvalidToken

_MOST_BYTES = 256_000
_MOST_KEYS = 100
_MIN_RSA_BITS = 2048
_TIMEOUT_S = 5.0
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_log = structlog.get_logger(__name__)


class KeysUnavailable(Exception):
    """The issuer's keys cannot be had now; nobody's token can be checked."""


class Key(NamedTuple):
    """A public key, and the algorithms that it verifies."""

    key: Any
    algorithms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pace:
    """How often an issuer is asked, in seconds.

    ``lifetime_s``: how long keys are used before they are fetched again. ``between_s``: the least
    time between two requests, whatever tokens come. ``stale_s``: how long keys are used while the
    issuer does not answer; after that a key that it took back must not be believed any more.
    ``patience_s``: how long a token that can be checked with the present keys waits for newer ones.
    """

    lifetime_s: float = 600.0
    between_s: float = 30.0
    stale_s: float = 86_400.0
    patience_s: float = 0.5


class Jwks:
    """The keys at an address.

    One request at a time, and none within ``between_s`` of the one before it: whoever sends tokens
    with invented key ids cannot have us flood the issuer. While the issuer is away its last keys
    are used, a day at the most.

    Args:
        url: where the keys are; None: where the issuer's discovery document says.
        issuer: who they must be of, as the discovery document says.
        algorithms: those that keys may be used with.
        clock: seconds, for the times above.
    """

    def __init__(
        self,
        url: str | None,
        *,
        issuer: str | None,
        algorithms: tuple[str, ...],
        pace: Pace | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        assert url is not None or issuer is not None
        self._url = url
        self._issuer = issuer
        self._algorithms = algorithms
        self._pace = pace or Pace()
        self._clock = clock
        self._keys: Mapping[str | None, tuple[Key, ...]] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._turn = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None

    async def keys(self, kid: str | None) -> tuple[Key, ...]:
        """The keys of an id; of none, the only key that there is.

        Raises:
            InvalidToken: the issuer has no such key.
            KeysUnavailable: it does not tell its keys, and the last ones are too old.
        """
        if not self._fresh():
            await self._refresh()
        found = self._named(kid)
        if not found:
            # A new key, or an invented one: the issuer is asked, if it was not asked just now.
            await self._fetch()
            found = self._named(kid)
        if self._fetched_at is None or self._age() > self._pace.stale_s:
            raise KeysUnavailable("the issuer's keys cannot be had; try again later")
        if not found:
            raise InvalidToken("the token's key is not one of its issuer's")
        return found

    async def available(self) -> bool:
        """Whether a token could be checked now; asks the issuer only where that is due."""
        if not self._fresh():
            await self._refresh()
        return bool(self._keys) and self._age() <= self._pace.stale_s

    def _named(self, kid: str | None) -> tuple[Key, ...]:
        if kid is not None:
            return self._keys.get(kid, ())
        every = [key for keys in self._keys.values() for key in keys]
        return tuple(every) if len(every) == 1 else ()

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock() - self._fetched_at

    def _fresh(self) -> bool:
        return self._age() <= self._pace.lifetime_s

    async def _refresh(self) -> None:
        """Fetch anew. While there are keys that will do, nobody waits long for an issuer that does
        not answer."""
        if self._age() > self._pace.stale_s:
            await self._fetch()
            return
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._fetch(), name="keys of an issuer")
        await asyncio.wait([self._refreshing], timeout=self._pace.patience_s)

    async def _fetch(self) -> None:
        asked = self._asked_at
        async with self._turn:
            if self._asked_at != asked:
                return  # somebody else asked while we waited: what came of that is the answer
            now = self._clock()
            if self._asked_at is not None and now - self._asked_at < self._pace.between_s:
                return
            self._asked_at = now
            try:
                async with asyncio.timeout(2 * _TIMEOUT_S):
                    found = await self._asked()
            except (httpx.HTTPError, OSError, TimeoutError, ValueError) as error:
                # Of an address that does not answer, the library's own words can be empty.
                told = str(error) or type(error).__name__
                _log.warning("keys not fetched", issuer=self._issuer, url=self._url, error=told)
                return
            self._keys, self._fetched_at = found, self._clock()

    async def _asked(self) -> Mapping[str | None, tuple[Key, ...]]:
        # No redirects: who answers for an address says whose keys are believed.
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False) as client:
            url = self._url or await self._discovered(client)
            document = await _json(client, url)
        keys = document.get("keys")
        if not isinstance(keys, list):
            raise ValueError("the answer is not a set of keys")
        found: dict[str | None, tuple[Key, ...]] = {}
        for one in keys[:_MOST_KEYS]:
            key = _key(one, self._algorithms)
            if key is not None:
                kid = one.get("kid")
                found[kid] = (*found.get(kid, ()), key)
        if not found:
            raise ValueError("there is no key in the set that may be used")
        return found

    async def _discovered(self, client: httpx.AsyncClient) -> str:
        assert self._issuer is not None
        where = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        document = await _json(client, where)
        # OpenID Connect Discovery 4.3: to the letter, or one issuer could speak for another.
        if document.get("issuer") != self._issuer:
            raise ValueError(f"{where} is the document of another issuer")
        url = document.get("jwks_uri")
        if not isinstance(url, str):
            raise ValueError(f"{where} names no keys")
        parts = httpx.URL(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.host)):
            raise ValueError(f"{where} names keys that are not at an https address")
        return url


async def _json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """A small JSON object from an address, read no further than it may be long."""
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
        if answer.status_code != 200:
            raise ValueError(f"{url} answers {answer.status_code}")
        content = b""
        async for chunk in answer.aiter_bytes(16_384):
            content += chunk
            if len(content) > _MOST_BYTES:
                raise ValueError(f"{url} answers with more than {_MOST_BYTES:,} bytes")
    try:
        document = json.loads(content)
    except RecursionError:
        raise ValueError(f"{url} answers with JSON that is nested too deep") from None
    if not isinstance(document, dict):
        raise ValueError(f"{url} does not answer with an object")
    return document


def _key(one: Any, allowed: tuple[str, ...]) -> Key | None:
    """A key of the set, if it is a public one for signatures. Which algorithms it goes with follows
    from what it is: a token's `alg` chooses among these at the most."""
    if not isinstance(one, dict) or one.get("use", "sig") != "sig":
        return None
    kid, operations = one.get("kid"), one.get("key_ops", ["verify"])
    if not (kid is None or isinstance(kid, str)):
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if one.get("kty") == "RSA":
        fitting = _RSA
    elif one.get("kty") in ("EC", "OKP"):
        fitting = frozenset({_CURVES.get(str(one.get("crv")), "")})
    else:
        return None  # a secret (`oct`) does not belong where everybody reads
    if "alg" in one:
        fitting &= {str(one["alg"])}
    algorithms = tuple(sorted(fitting.intersection(allowed)))
    if not algorithms:
        return None
    public = {name: value for name, value in one.items() if name in ("kty", "n", "e", "crv")}
    public |= {name: one[name] for name in ("x", "y") if name in one}
    try:
        key = jwt.PyJWK(public, algorithms[0]).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        return None
    return Key(key, algorithms)
