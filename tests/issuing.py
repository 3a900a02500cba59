"""An issuer of tokens for tests: real keys, and an HTTP server that tells the public ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass
class Keyed:
    """A private key with its id, and the algorithm that it signs with."""

    kid: str | None
    algorithm: str
    private: PrivateKey

    def jwk(self, **more: Any) -> dict[str, Any]:
        """The public half, as an issuer tells it."""
        public = self.private.public_key()
        match public:
            case rsa.RSAPublicKey():
                told = RSAAlgorithm.to_jwk(public, as_dict=True)
            case ec.EllipticCurvePublicKey():
                told = ECAlgorithm.to_jwk(public, as_dict=True)
            case _:
                told = OKPAlgorithm.to_jwk(public, as_dict=True)
        kid = {} if self.kid is None else {"kid": self.kid}
        return {**told, **kid, "use": "sig", "alg": self.algorithm, **more}

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """A token."""
        named = header if self.kid is None else {"kid": self.kid} | header
        return jwt.encode(claims, self.private, algorithm=self.algorithm, headers=named)


def rsa_key(kid: str | None = "rsa-1", algorithm: str = "RS256", bits: int = 2048) -> Keyed:
    return Keyed(kid, algorithm, rsa.generate_private_key(public_exponent=65537, key_size=bits))


def ec_key(kid: str | None = "ec-1") -> Keyed:
    return Keyed(kid, "ES256", ec.generate_private_key(ec.SECP256R1()))


def ed_key(kid: str | None = "ed-1") -> Keyed:
    return Keyed(kid, "EdDSA", ed25519.Ed25519PrivateKey.generate())


def good(**changes: Any) -> dict[str, Any]:
    """Claims of a good token: a duration counts from now, ``...`` leaves a claim out."""
    now = datetime.now(UTC)
    claims = {
        "sub": "auth0|ada",
        "iat": timedelta(seconds=-5),
        "exp": timedelta(minutes=10),
    } | changes
    return {
        name: int((now + value).timestamp()) if isinstance(value, timedelta) else value
        for name, value in claims.items()
        if value is not ...
    }


@dataclass
class IssuerServer:
    """Tells its keys at ``/keys`` and in its discovery document; counts who asks."""

    url: str
    keys: list[dict[str, Any]] = field(default_factory=list)
    #: What the discovery document says of itself, where that is not the truth.
    says: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    body: bytes | None = None
    asked: list[str] = field(default_factory=list)
    answering: Event = field(default_factory=Event)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Take requests and do not answer them for a while."""
        self.answering.clear()
        try:
            yield
        finally:
            self.answering.set()

    def document(self, path: str) -> bytes | None:
        """What stands at a path."""
        if path == "/keys":
            return self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()
        if path == "/.well-known/openid-configuration":
            told = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | self.says
            return json.dumps(told).encode()
        return None


@contextmanager
def issuer_server() -> Iterator[IssuerServer]:
    """An issuer on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            issuer.answering.wait(30)
            content = issuer.document(self.path)
            self.send_response(404 if content is None else issuer.status)
            if issuer.status in (301, 302):
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = IssuerServer(f"http://127.0.0.1:{server.server_port}")
        issuer.answering.set()
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()
