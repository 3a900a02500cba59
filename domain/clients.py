"""Clients: the accounts that orders are placed for.

A client is a business that orders, never a person: persons are recipients (domain/people.py), and
what is said of a client stands in the log in plain words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from domain.decider import Decider
from domain.errors import Refused, of_field
from domain.places import Point
from domain.sites import Site, must_be_open
from domain.time_windows import OpeningHours
from domain.values import Command, Currency, Event, Id, Minor, Text, UtcTime, Value

# values and commands

#: Whose orders come first where not all can be served.
Priority = Literal["high", "standard", "low"]
PaymentDays = Annotated[int, Field(ge=0, le=365)]
PromiseHours = Annotated[int, Field(gt=0, le=24 * 365)]
#: What may be known of a client or not, and so can be cleared.
Clearable = Literal[
    "default_site_id",
    "location",
    "opening_hours",
    "delivery_hours",
    "payment_days",
    "credit_limit_minor",
    "promise_hours",
]


class RegisterClient(Command):
    """Take a client in: an account that orders are placed for.

    ``name`` is a company's: persons are recipients of orders, and never stand here.
    ``default_site_id``: the site that usually serves it. ``delivery_hours``: when it takes
    deliveries; left out, its opening hours. ``payment_days``: from the invoice to the payment.
    ``credit_limit_minor``: in minor units of ``currency``. ``promise_hours``: within how many hours
    orders are promised to be there.
    """

    client_id: Id
    name: Text = Field(examples=["Bakery Chain North GmbH"])
    currency: Currency
    default_site_id: Id | None = None
    location: Point | None = None
    opening_hours: OpeningHours | None = None
    delivery_hours: OpeningHours | None = None
    payment_days: PaymentDays | None = None
    credit_limit_minor: Minor | None = None
    priority: Priority = "standard"
    promise_hours: PromiseHours | None = None
    registered_at: UtcTime | None


class ChangeClient(Command):
    """Change what is said of a client: what is left out stays as it is, what ``clear`` names is not
    known, or not limited, any more."""

    client_id: Id
    name: Text | None = None
    currency: Currency | None = None
    default_site_id: Id | None = None
    location: Point | None = None
    opening_hours: OpeningHours | None = None
    delivery_hours: OpeningHours | None = None
    payment_days: PaymentDays | None = None
    credit_limit_minor: Minor | None = None
    priority: Priority | None = None
    promise_hours: PromiseHours | None = None
    clear: Annotated[tuple[Clearable, ...], Field(max_length=7)] = ()
    changed_at: UtcTime | None

    @model_validator(mode="after")
    def _clears_nothing_that_is_given(self) -> Self:
        both = sorted({name for name in self.clear if getattr(self, name) is not None})
        if both:
            raise ValueError(f"clear: {', '.join(both)} is given a value as well")
        return self


class RetireClient(Command):
    """End the business with a client."""

    client_id: Id
    reason: Text
    retired_at: UtcTime | None


class ReinstateClient(Command):
    """Take up the business with a retired client again."""

    client_id: Id
    reason: Text
    reinstated_at: UtcTime | None


# events


class _Described(Value):
    """Everything that is said of a client."""

    client_id: str
    name: str
    currency: str
    default_site_id: str | None
    location: Point | None
    opening_hours: OpeningHours | None
    delivery_hours: OpeningHours | None
    payment_days: int | None
    credit_limit_minor: int | None
    priority: str
    promise_hours: int | None


class ClientRegistered(_Described, Event):
    """A client was taken in."""

    registered_at: datetime | None


class ClientChanged(_Described, Event):
    """What is said of a client changed; ``changed`` names the fields, the others are as before."""

    changed: str
    changed_at: datetime | None


class ClientRetired(Event):
    """The business with a client ended."""

    client_id: str
    reason: str
    retired_at: datetime | None


class ClientReinstated(Event):
    """The business with a client was taken up again."""

    client_id: str
    reason: str
    reinstated_at: datetime | None


EVENTS: tuple[type[Event], ...] = (
    ClientRegistered,
    ClientChanged,
    ClientRetired,
    ClientReinstated,
)

#: The stream that an event belongs to, by its fields.
STREAM = "clients/{client_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    ClientRegistered: "Client {client_id} was registered: {name}",
    ClientChanged: "Client {client_id} was changed: {changed}",
    ClientRetired: "Client {client_id} was retired: {reason}",
    ClientReinstated: "Client {client_id} was taken up again: {reason}",
}

# state


@dataclass(frozen=True, slots=True)
class Client:
    """What is known of a client; ``client_id`` is empty where it is not registered."""

    client_id: str = ""
    name: str = ""
    currency: str = ""
    default_site_id: str | None = None
    location: Point | None = None
    opening_hours: OpeningHours | None = None
    delivery_hours: OpeningHours | None = None
    payment_days: int | None = None
    credit_limit_minor: int | None = None
    priority: str = "standard"
    promise_hours: int | None = None
    is_retired: bool = False


_FIELDS = tuple(_Described.model_fields)


def evolve(client: Client, event: Event) -> Client:
    """The client after one more of its events."""
    match event:
        case ClientRegistered() | ClientChanged():
            return replace(client, **_told(event))
        case ClientRetired():
            return replace(client, is_retired=True)
        case ClientReinstated():
            return replace(client, is_retired=False)
    return client


def _told(of: object) -> dict[str, Any]:
    return {name: getattr(of, name) for name in _FIELDS}


CLIENTS = Decider(initial=Client(), evolve=evolve)

# decisions


def register(client: Client, command: RegisterClient, site: Site | None = None) -> Sequence[Event]:
    """Take in a client under an id that is free; its default site has to be open."""
    if client.client_id:
        raise Refused(
            "client.already_registered", client_id=client.client_id, retired=client.is_retired
        )
    _must_be_served(command.default_site_id, site)
    return [ClientRegistered(**_told(command), registered_at=command.registered_at)]


def change(client: Client, command: ChangeClient, site: Site | None = None) -> Sequence[Event]:
    """Change what is said of a client that is not retired; nothing where all of it is said
    already."""
    must_be_active(client, command.client_id)
    before = _told(client)
    given = {name: value for name, value in _told(command).items() if value is not None}
    after = before | given | dict.fromkeys(command.clear)
    changed = [name for name in _FIELDS if after[name] != before[name]]
    if not changed:
        return []
    _must_be_served(command.default_site_id, site)
    limit = after["credit_limit_minor"]
    # The same number of another currency's units is another limit: who changes one says both.
    if "currency" in changed and limit is not None and command.credit_limit_minor is None:
        raise Refused(
            "client.limit_in_another_currency",
            client_id=client.client_id,
            credit_limit_minor=limit,
            currency=client.currency,
            asked=command.currency,
        )
    return [ClientChanged(**after, changed=", ".join(changed), changed_at=command.changed_at)]


def retire(client: Client, command: RetireClient) -> Sequence[Event]:
    """End the business with a client."""
    must_be_active(client, command.client_id)
    return [
        ClientRetired(
            client_id=command.client_id, reason=command.reason, retired_at=command.retired_at
        )
    ]


def reinstate(client: Client, command: ReinstateClient) -> Sequence[Event]:
    """Take back a retirement."""
    _must_be_registered(client, command.client_id)
    if not client.is_retired:
        raise Refused("client.not_retired", client_id=command.client_id)
    return [
        ClientReinstated(
            client_id=command.client_id,
            reason=command.reason,
            reinstated_at=command.reinstated_at,
        )
    ]


def must_be_active(client: Client, client_id: str) -> None:
    """Refuse what needs a client that is registered and not retired."""
    _must_be_registered(client, client_id)
    if client.is_retired:
        raise Refused("client.retired", client_id=client_id)


def _must_be_registered(client: Client, client_id: str) -> None:
    if not client.client_id:
        raise Refused("client.unknown", client_id=client_id)


def _must_be_served(site_id: str | None, site: Site | None) -> None:
    if site_id is not None and site is not None:
        with of_field("default_site_id"):
            must_be_open(site, site_id)
