"""API keys: what services of an organisation show who they are with.

A key's secret stays with the service; events hold its digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated

from pydantic import Field

from domain.access import Digest, Role, Roles, must_be_person, roles_of
from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event, Id, Text, UtcTime

#: The name of a command or a query, as permissions have it.
Permission = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z_.]{1,63}$", examples=["orders.list"])]

# commands


class IssueApiKey(Command):
    """Give a service a key of its own. ``scopes``: the commands and queries that it may send, of
    those that its roles allow; all of them where none is named."""

    key_id: Id
    name: Text = Field(examples=["warehouse scanner"])
    roles: Roles
    scopes: Annotated[tuple[Permission, ...], Field(max_length=200)] = ()
    digest: Digest
    expires_at: UtcTime | None = None
    issued_at: UtcTime


class RevokeApiKey(Command):
    """End a key, for good."""

    key_id: Id
    revoked_at: UtcTime


# events


class ApiKeyIssued(Event):
    """A service has a key."""

    key_id: str
    name: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    digest: str
    issued_by: str
    expires_at: datetime | None
    issued_at: datetime


class ApiKeyRevoked(Event):
    """A key ended."""

    key_id: str
    revoked_by: str
    revoked_at: datetime


EVENTS: tuple[type[Event], ...] = (ApiKeyIssued, ApiKeyRevoked)

#: The stream that an event belongs to, by its fields.
STREAM = "api_keys/{key_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    ApiKeyIssued: "{issued_by} issued the API key {key_id} for {name}",
    ApiKeyRevoked: "{revoked_by} revoked the API key {key_id}",
}

# states


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a key is worth. Without a digest it was never issued."""

    roles: frozenset[Role] = frozenset()
    scopes: frozenset[str] = frozenset()
    digest: str = ""
    expires_at: datetime | None = None
    revoked: bool = False


def evolve(key: ApiKey, event: Event) -> ApiKey:
    """The key after one more of its events."""
    match event:
        case ApiKeyIssued():
            scopes = frozenset(event.scopes)
            return ApiKey(roles_of(event.roles), scopes, event.digest, event.expires_at)
        case ApiKeyRevoked():
            return replace(key, revoked=True)
    return key


API_KEYS = Decider(initial=ApiKey(), evolve=evolve)

# decisions


def issue(key: ApiKey, command: IssueApiKey, actor: str) -> Sequence[Event]:
    """Issue a key; no key issues another, which could do more and live longer than itself."""
    must_be_person(actor)
    if key.digest:
        raise Refused("api_key.already_issued", key_id=command.key_id)
    if command.expires_at is not None and command.expires_at <= command.issued_at:
        raise Refused("api_key.expires_before_it_begins", expires_at=command.expires_at)
    return [ApiKeyIssued(**command.model_dump(), issued_by=actor)]


def revoke(key: ApiKey, command: RevokeApiKey, actor: str) -> Sequence[Event]:
    """Revoke a key, once."""
    if not key.digest:
        raise Refused("api_key.unknown", key_id=command.key_id)
    if key.revoked:
        raise Refused("api_key.already_revoked", key_id=command.key_id)
    return [ApiKeyRevoked(key_id=command.key_id, revoked_by=actor, revoked_at=command.revoked_at)]
