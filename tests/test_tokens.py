"""Bearer tokens: what is believed, and every way in which one is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest

from api.tokens import MIN_SECRET, Identity, InvalidToken, Issuer
from domain.access import Role

SECRET = "s" * 64
ORGANISATION = UUID(int=7)


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims, with changes: a duration counts from now, ``...`` leaves a claim out."""
    now = datetime.now(UTC)
    good: dict[str, Any] = {
        "iss": "chainlytics-dev",
        "aud": "chainlytics",
        "sub": "ada",
        "org": str(ORGANISATION),
        "roles": ["analyst"],
        "iat": now - timedelta(minutes=1),
        "exp": now + timedelta(minutes=10),
    }
    return {
        name: now + value if isinstance(value, timedelta) else value
        for name, value in (good | changes).items()
        if value is not ...
    }


def signed(secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    return jwt.encode(claims(**changes), secret, algorithm=algorithm)


def part(value: object) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value, default=str).encode()
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def forged(header: object, payload: object = None, secret: str = SECRET) -> str:
    """Any header over any payload, with a right HMAC-SHA256 of the two."""
    body = payload
    if body is None:
        moment = int(datetime.now(UTC).timestamp())
        body = claims(iat=moment - 60, exp=moment + 600)
    said = f"{part(header)}.{part(body)}"
    return f"{said}.{part(hmac.digest(secret.encode(), said.encode(), hashlib.sha256))}"


def refused(token: str) -> str:
    with pytest.raises(InvalidToken) as caught:
        Issuer(SECRET).verify(token)
    return str(caught.value)


def test_a_token_says_who_it_speaks_for() -> None:
    issuer = Issuer(SECRET)
    token = issuer.issue(
        subject="ada",
        organisation_id=ORGANISATION,
        roles=frozenset({Role.ADMIN, Role.AUDITOR}),
        ttl=timedelta(minutes=5),
    )
    assert issuer.verify(token) == Identity(
        "ada", ORGANISATION, frozenset({Role.ADMIN, Role.AUDITOR})
    )


def test_the_forgeries_below_differ_from_a_good_token_in_one_thing_each() -> None:
    good = Identity("ada", ORGANISATION, frozenset({Role.ANALYST}))
    assert Issuer(SECRET).verify(signed()) == good
    assert Issuer(SECRET).verify(forged({"alg": "HS256", "typ": "JWT"})) == good


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, "HS384", "HS512", "RS256"])
def test_the_header_does_not_say_the_algorithm(algorithm: str | None) -> None:
    refused(forged({"alg": algorithm, "typ": "JWT"}))


def test_alg_none_without_a_signature_is_refused() -> None:
    unsigned = jwt.encode(claims(), "", algorithm="none")
    assert unsigned.endswith(".")
    refused(unsigned)


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_algorithm_with_the_right_secret_is_refused(algorithm: str) -> None:
    refused(signed(algorithm=algorithm))


def test_another_secret_is_refused() -> None:
    refused(signed(secret="t" * 64))


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": timedelta(seconds=-1)},
        {"nbf": timedelta(minutes=5)},
        {"iat": timedelta(minutes=5)},
        {"exp": "soon"},
        {"aud": "somebody-else"},
        {"aud": []},
        {"iss": "somebody-else"},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\0b"},
        {"sub": "a\ud800b"},
        {"org": "demo"},
        {"org": 7},
        {"org": None},
        {"roles": ["owner"]},
        {"roles": "admin"},
        {"roles": {"admin": True}},
        {"roles": [["admin"]]},
        {"roles": None},
    ],
    ids=str,
)
def test_a_wrong_claim_is_refused(changes: dict[str, Any]) -> None:
    refused(signed(**changes))


@pytest.mark.parametrize("name", ["exp", "iat", "iss", "aud", "sub", "org", "roles"])
def test_a_missing_claim_is_refused(name: str) -> None:
    changes: dict[str, Any] = {name: ...}
    refused(signed(**changes))


def test_a_tampered_payload_is_refused() -> None:
    header, _, signature = signed().split(".")
    moment = int(datetime.now(UTC).timestamp())
    more = part(claims(iat=moment - 60, exp=moment + 600, roles=["admin"]))
    refused(f"{header}.{more}.{signature}")


def test_a_tampered_signature_is_refused() -> None:
    header, payload, signature = signed().split(".")
    other = "B" if signature[0] == "A" else "A"
    refused(f"{header}.{payload}.{other}{signature[1:]}")
    refused(f"{header}.{payload}.")


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "é.é.é",
        "\ud800",
        " ",
        part(b"\xff\xfe") + ".e30.e30",
        part([]) + ".e30.e30",
        part(b"[" * 30_000) + ".e30.e30",
    ],
    ids=lambda token: ascii(token[:10]),
)
def test_what_is_no_token_is_refused(token: str) -> None:
    refused(token)


def test_a_signed_payload_that_is_no_object_is_refused() -> None:
    header = {"alg": "HS256", "typ": "JWT"}
    for payload in (b"[]", b'"admin"', b"7", b"\xff", b"[" * 30_000, b"{"):
        refused(forged(header, payload))


def test_the_reason_says_nothing_of_the_secret() -> None:
    for token in (signed(secret="t" * 64), signed(org="demo"), "a.b.c"):
        reason = refused(token)
        assert SECRET not in reason
        assert token not in reason


@pytest.mark.parametrize("secret", ["", "s" * (MIN_SECRET - 1)])
def test_a_short_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match=f"at least {MIN_SECRET} characters"):
        Issuer(secret)


def test_a_secret_of_the_least_length_is_taken() -> None:
    Issuer("s" * MIN_SECRET)
