"""Inventory: sites, and the stock of each SKU at each site. Stock never falls below zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time
from decimal import Decimal
from typing import Annotated, Self

from pydantic import AfterValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from domain.decider import Decider
from domain.errors import Refused
from domain.values import (
    Change,
    Command,
    Event,
    Id,
    Minor,
    Quantity,
    Region,
    Text,
    UtcTime,
    Value,
)


def _whole_minute(moment: time) -> time:
    if moment.tzinfo is not None or moment.second or moment.microsecond:
        raise ValueError("must be HH:MM in UTC, without a zone")
    return moment


#: A minute of the day in UTC, ``HH:MM``.
MinuteOfDay = Annotated[
    time,
    AfterValidator(_whole_minute),
    PlainSerializer(lambda moment: f"{moment:%H:%M}", when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"}),
]

# values and commands


class ServiceLevel(Value):
    """A way of shipping that a site offers: its price, carbon and how far it is fit to carry.

    ``transit_s``: within how many seconds from the handover the carrier undertakes to deliver.
    ``cut_off``: orders that are decided later in the day leave a day later.
    """

    code: Id
    cost_minor: Minor = 0
    carbon_g: Annotated[int, Field(ge=0, le=10**9)] = 0
    max_weight_g: Annotated[int, Field(gt=0, le=10**9)] | None = None
    transit_s: Annotated[int, Field(gt=0, le=10**9)] | None = None
    cut_off: MinuteOfDay | None = Field(default=None, examples=["16:00"])


class OpenSite(Command):
    """Open a site. ``daily_capacity`` None: not limited or not known."""

    site_id: Id
    name: Text | None = None
    region: Region | None = None
    service_levels: Annotated[tuple[ServiceLevel, ...], Field(min_length=1, max_length=20)] = (
        ServiceLevel(code="standard"),
    )
    daily_capacity: Annotated[int, Field(gt=0, le=10**9)] | None = None
    opened_at: UtcTime | None

    @model_validator(mode="after")
    def _codes_are_unique(self) -> Self:
        codes = [level.code for level in self.service_levels]
        if len(set(codes)) != len(codes):
            raise ValueError(f"service_levels: codes must be unique, got {codes}")
        return self


class CloseSite(Command):
    """Close a site for good: it ships no more orders."""

    site_id: Id
    reason: Text
    closed_at: UtcTime | None


class ReceiveStock(Command):
    """Goods came in."""

    site_id: Id
    sku: Id
    quantity: Quantity = Field(examples=["12"])
    received_at: UtcTime | None


class PickStock(Command):
    """Goods were taken from the shelf, for an order or otherwise."""

    site_id: Id
    sku: Id
    quantity: Quantity = Field(examples=["1"])
    order_id: Id | None = None
    picked_at: UtcTime | None


class AdjustStock(Command):
    """A count or a breakage changes what is on hand."""

    site_id: Id
    sku: Id
    change: Change = Field(examples=["-2"])
    reason: Text
    adjusted_at: UtcTime | None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.change == 0:
            raise ValueError("change: must not be zero")
        return self


# events


class SiteOpened(Event):
    """A site started to ship orders."""

    site_id: str
    name: str | None
    region: str | None
    service_levels: tuple[ServiceLevel, ...]
    daily_capacity: int | None
    opened_at: datetime | None


class SiteClosed(Event):
    """A site stopped shipping orders."""

    site_id: str
    reason: str
    closed_at: datetime | None


class StockReceived(Event):
    """Goods came in."""

    site_id: str
    sku: str
    quantity: Decimal
    received_at: datetime | None


class StockPicked(Event):
    """Goods were taken from the shelf."""

    site_id: str
    sku: str
    quantity: Decimal
    order_id: str | None
    picked_at: datetime | None


class StockAdjusted(Event):
    """What is on hand was corrected."""

    site_id: str
    sku: str
    change: Decimal
    reason: str
    adjusted_at: datetime | None


EVENTS = (SiteOpened, SiteClosed, StockReceived, StockPicked, StockAdjusted)

#: The stream that an event belongs to, by its fields.
SITE_STREAM = "sites/{site_id}"
STOCK_STREAM = "stock/{site_id}/{sku}"
STREAMS: dict[type[Event], str] = {
    SiteOpened: SITE_STREAM,
    SiteClosed: SITE_STREAM,
    StockReceived: STOCK_STREAM,
    StockPicked: STOCK_STREAM,
    StockAdjusted: STOCK_STREAM,
}

SENTENCES: dict[type[Event], str] = {
    SiteOpened: "Site {site_id} was opened",
    SiteClosed: "Site {site_id} was closed: {reason}",
    StockReceived: "Site {site_id} received {quantity} of {sku}",
    StockPicked: "Site {site_id} picked {quantity} of {sku}",
    StockAdjusted: "Stock of {sku} at site {site_id} was adjusted by {change}: {reason}",
}

# state


@dataclass(frozen=True, slots=True)
class Site:
    """What the rules need to know of a site."""

    site_id: str = ""
    is_open: bool = False
    service_levels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Stock:
    """What is on hand of one SKU at one site."""

    on_hand: Decimal = Decimal(0)


def evolve_site(site: Site, event: Event) -> Site:
    """The site after one more of its events."""
    match event:
        case SiteOpened():
            return Site(
                site_id=event.site_id,
                is_open=True,
                service_levels=frozenset(level.code for level in event.service_levels),
            )
        case SiteClosed():
            return replace(site, is_open=False)
    return site


def evolve_stock(stock: Stock, event: Event) -> Stock:
    """The stock after one more of its events."""
    match event:
        case StockReceived():
            return Stock(stock.on_hand + event.quantity)
        case StockPicked():
            return Stock(stock.on_hand - event.quantity)
        case StockAdjusted():
            return Stock(stock.on_hand + event.change)
    return stock


SITES = Decider(initial=Site(), evolve=evolve_site)
STOCK = Decider(initial=Stock(), evolve=evolve_stock)

# decisions


def open_site(site: Site, command: OpenSite) -> Sequence[Event]:
    """Open a site that does not exist yet."""
    if site.site_id:
        raise Refused("site.already_opened", site_id=site.site_id)
    return [
        SiteOpened(
            site_id=command.site_id,
            name=command.name,
            region=command.region,
            service_levels=command.service_levels,
            daily_capacity=command.daily_capacity,
            opened_at=command.opened_at,
        )
    ]


def close_site(site: Site, command: CloseSite) -> Sequence[Event]:
    """Close an open site."""
    must_be_open(site, command.site_id)
    return [SiteClosed(site_id=command.site_id, reason=command.reason, closed_at=command.closed_at)]


def receive(stock: Stock, command: ReceiveStock, site: Site) -> Sequence[Event]:
    """Take goods in at an open site."""
    must_be_open(site, command.site_id)
    return [
        StockReceived(
            site_id=command.site_id,
            sku=command.sku,
            quantity=command.quantity,
            received_at=command.received_at,
        )
    ]


def pick(stock: Stock, command: PickStock, site: Site) -> Sequence[Event]:
    """Take goods from the shelf, as many as there are at the most."""
    must_be_open(site, command.site_id)
    _must_have(stock, command.site_id, command.sku, command.quantity)
    return [
        StockPicked(
            site_id=command.site_id,
            sku=command.sku,
            quantity=command.quantity,
            order_id=command.order_id,
            picked_at=command.picked_at,
        )
    ]


def adjust(stock: Stock, command: AdjustStock, site: Site) -> Sequence[Event]:
    """Correct what is on hand; a closed site may still be counted."""
    must_be_known(site, command.site_id)
    _must_have(stock, command.site_id, command.sku, -command.change)
    return [
        StockAdjusted(
            site_id=command.site_id,
            sku=command.sku,
            change=command.change,
            reason=command.reason,
            adjusted_at=command.adjusted_at,
        )
    ]


def must_be_open(site: Site, site_id: str) -> None:
    """Refuse what needs an open site."""
    must_be_known(site, site_id)
    if not site.is_open:
        raise Refused("site.closed", site_id=site_id)


def must_be_known(site: Site, site_id: str) -> None:
    """Refuse what needs a site, be it closed."""
    if not site.site_id:
        raise Refused("site.unknown", site_id=site_id)


def must_offer(site: Site, service_level: str) -> None:
    """Refuse a service level that the site does not have."""
    if service_level not in site.service_levels:
        raise Refused(
            "site.service_level_not_offered",
            site_id=site.site_id,
            service_level=service_level,
            offered=", ".join(sorted(site.service_levels)),
        )


def _must_have(stock: Stock, site_id: str, sku: str, quantity: Decimal) -> None:
    if stock.on_hand < quantity:
        raise Refused(
            "stock.not_enough", site_id=site_id, sku=sku, on_hand=stock.on_hand, asked=quantity
        )
