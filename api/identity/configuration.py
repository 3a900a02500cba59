"""Which providers a deployment believes: one value each, checked when it starts."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

#: Algorithms of public keys. Those of shared secrets are never among them, so no public key can be
#: taken for a secret.
PUBLIC_KEY_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
_MIN_SECRET = 32
#: Names that accounts of ours begin with, or actors that are no accounts.
_OURS = frozenset({"chainlytics-dev", "chainlytics-identity"})
RESERVED = frozenset({"local", "operator", "cli", "chainlytics", "key", "service", "system"})


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine."""
    if host is None or host == "localhost":
        return host == "localhost"
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _trusted_url(url: str) -> str:
    """Keys from an address that anybody on the way can answer for would let anybody in."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the address of a server, such as https://host/path")
    if parts.username is not None or parts.fragment:
        raise ValueError("must hold neither a name, a password nor a #fragment")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(f"{url!r} must be https; http is for this machine alone")
    return url


def _long_enough(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None and len(secret.get_secret_value()) < _MIN_SECRET:
        raise ValueError(f"must have at least {_MIN_SECRET} characters")
    return secret


Address = Annotated[str, AfterValidator(_trusted_url)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
Secret = Annotated[SecretStr | None, AfterValidator(_long_enough)]


class _Configuration(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    #: The first part of its accounts' ids in events: never change it.
    name: Name
    #: What `iss` of its tokens is. None: they have no `iss`.
    issuer: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    #: Who its tokens are for: one of these must be in `aud`.
    audience: Annotated[tuple[str, ...], Field(max_length=10)] = ()
    #: Where its public keys are.
    jwks_url: Address | None = None
    #: Algorithms that its public keys may be used with.
    algorithms: Annotated[
        tuple[Literal[PUBLIC_KEY_ALGORITHMS], ...],  # type: ignore[valid-type]
        Field(min_length=1),
    ] = ("RS256", "ES256", "EdDSA")
    #: The claim that names the organisation to work in; a dot leads into an object.
    organisation_claim: Annotated[str, Field(min_length=1, max_length=200)] = "organisation_id"

    @model_validator(mode="after")
    def _is_not_reserved(self) -> Self:
        if self.name in RESERVED:
            raise ValueError(f"the name {self.name!r} is taken by Chainlytics itself")
        if self.issuer in _OURS:
            raise ValueError(f"the issuer {self.issuer!r} is Chainlytics itself")
        return self


class _WithSecret(_Configuration):
    """A provider that signs with a secret that it shares with us, or with keys of its own."""

    #: The HS256 secret that it signs with.
    secret: Secret = None

    @model_validator(mode="after")
    def _has_one_kind_of_key(self) -> Self:
        if (self.secret is None) == (self.jwks_url is None):
            raise ValueError("needs either secret (HS256) or jwks_url (public keys), not both")
        return self


class Nhost(_WithSecret):
    """An Nhost project; its tokens are those of Hasura Auth."""

    kind: Literal["nhost"]
    issuer: str | None = "hasura-auth"
    #: The claim that Hasura's own claims are in.
    claims: Annotated[str, Field(min_length=1)] = "https://hasura.io/jwt/claims"
    organisation_claim: str = "x-hasura-organisation-id"


class Supabase(_WithSecret):
    """A Supabase project: its issuer is https://PROJECT.supabase.co/auth/v1."""

    kind: Literal["supabase"]
    issuer: Annotated[str, Field(min_length=1, max_length=500)]
    audience: tuple[str, ...] = ("authenticated",)
    organisation_claim: str = "app_metadata.organisation_id"
    #: Whether the project has e-mail addresses confirmed before it lets anybody in; only then is
    #: an address in a token believed.
    confirms_email: bool = False

    @model_validator(mode="after")
    def _has_an_audience(self) -> Self:
        if not self.audience:
            raise ValueError("needs an audience; Supabase's is `authenticated`")
        return self


class Oidc(_Configuration):
    """Any issuer of OpenID Connect; its keys are where its discovery document says, or at
    ``jwks_url``."""

    kind: Literal["oidc"]
    issuer: Address
    audience: Annotated[tuple[str, ...], Field(min_length=1, max_length=10)]


def _parsed(value: Any) -> Any:
    """The setting as JSON has it."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError as error:
        # Not the text itself: there may be secrets in it.
        raise ValueError(f"is not JSON: {getattr(error, 'msg', 'it cannot be read')}") from None
    if not isinstance(found, list):
        raise ValueError('must be a JSON list of providers, such as [{"kind": "oidc", ...}]')
    return found


def _apart(providers: tuple[Nhost | Supabase | Oidc, ...]) -> Any:
    for what, values in (
        ("name", [one.name for one in providers]),
        ("issuer", [one.issuer or "(none)" for one in providers]),
    ):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"two providers have the {what} {twice[0]!r}")
    return providers


#: A JSON list of providers that names and issuers tell apart.
Providers = Annotated[
    tuple[Annotated[Nhost | Supabase | Oidc, Field(discriminator="kind")], ...],
    BeforeValidator(_parsed),
    AfterValidator(_apart),
]
