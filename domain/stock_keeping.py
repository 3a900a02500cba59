"""Stock keeping: which SKUs a site keeps, how much of each it wants there, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from domain.decider import Decider
from domain.errors import Refused
from domain.inventory import Stock
from domain.products import Product, must_be_in_range, must_be_registered
from domain.sites import Site, must_be_known, must_be_open
from domain.values import Command, Currency, Event, Id, Minor, Quantity, Text, UtcTime, Value

# values and commands

#: As Quantity, or none.
Level = Annotated[Decimal, Field(ge=0, max_digits=15, decimal_places=3)]
#: Where it lies in the site: aisle, rack, shelf, as people there write it.
Bin = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ./_-]{0,31}$", examples=["A-12-3"])]
#: What may be known or not, and so can be cleared.
Clearable = Literal["max_level", "bin", "unit_cost_minor", "currency"]


class KeepStock(Command):
    """Begin to keep a SKU at a site.

    ``reorder_point``: where what is available falls to it, more is ordered. ``safety_stock``: the
    part of that which is there for bad days. ``max_level``: no more is wanted on hand. All are in
    the product's unit of measure.
    """

    site_id: Id
    sku: Id
    reorder_point: Level = Field(default=Decimal(0), examples=["20"])
    safety_stock: Level = Field(default=Decimal(0), examples=["8"])
    max_level: Quantity | None = Field(default=None, examples=["120"])
    bin: Bin | None = None
    unit_cost_minor: Minor | None = None
    currency: Currency | None = None
    kept_at: UtcTime | None


class ChangeStockKeeping(Command):
    """Change how a SKU is kept at a site: what is left out stays as it is, what ``clear`` names is
    not known any more."""

    site_id: Id
    sku: Id
    reorder_point: Level | None = Field(default=None, examples=["20"])
    safety_stock: Level | None = Field(default=None, examples=["8"])
    max_level: Quantity | None = Field(default=None, examples=["120"])
    bin: Bin | None = None
    unit_cost_minor: Minor | None = None
    currency: Currency | None = None
    clear: Annotated[tuple[Clearable, ...], Field(max_length=4)] = ()
    changed_at: UtcTime | None

    @model_validator(mode="after")
    def _clears_nothing_that_is_given(self) -> Self:
        both = sorted({name for name in self.clear if getattr(self, name) is not None})
        if both:
            raise ValueError(f"clear: {', '.join(both)} is given a value as well")
        return self


class EndStockKeeping(Command):
    """Keep a SKU at a site no more. Refused while some of it is on hand or reserved, unless
    ``despite_stock`` says that this is known."""

    site_id: Id
    sku: Id
    reason: Text
    despite_stock: bool = False
    ended_at: UtcTime | None


# events


class _Described(Value):
    """Everything that is said of how a SKU is kept at a site."""

    site_id: str
    sku: str
    reorder_point: Decimal
    safety_stock: Decimal
    max_level: Decimal | None
    bin: str | None
    unit_cost_minor: int | None
    currency: str | None


class StockKeepingBegun(_Described, Event):
    """A site began to keep a SKU."""

    kept_at: datetime | None


class StockKeepingChanged(_Described, Event):
    """How a SKU is kept changed; ``changed`` names the fields, the others are as before."""

    changed: str
    changed_at: datetime | None


class StockKeepingEnded(Event):
    """A site keeps a SKU no more. ``on_hand``: what lay there still."""

    site_id: str
    sku: str
    reason: str
    on_hand: Decimal
    ended_at: datetime | None


EVENTS: tuple[type[Event], ...] = (StockKeepingBegun, StockKeepingChanged, StockKeepingEnded)

#: The stream that an event belongs to, by its fields.
STREAM = "stock_keeping/{site_id}/{sku}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    StockKeepingBegun: "Site {site_id} began to keep {sku}: it is reordered at {reorder_point}",
    StockKeepingChanged: "How site {site_id} keeps {sku} was changed: {changed}",
    StockKeepingEnded: "Site {site_id} keeps {sku} no more: {reason}",
}

# state


@dataclass(frozen=True, slots=True)
class Keeping:
    """What the rules need to know of how a SKU is kept at a site."""

    is_kept: bool = False
    was_kept: bool = False
    reorder_point: Decimal = Decimal(0)
    safety_stock: Decimal = Decimal(0)
    max_level: Decimal | None = None
    bin: str | None = None
    unit_cost_minor: int | None = None
    currency: str | None = None


_FIELDS = tuple(name for name in _Described.model_fields if name not in ("site_id", "sku"))


def evolve(keeping: Keeping, event: Event) -> Keeping:
    """The keeping after one more of its events."""
    match event:
        case StockKeepingBegun() | StockKeepingChanged():
            said = {name: getattr(event, name) for name in _FIELDS}
            return Keeping(is_kept=True, was_kept=True, **said)
        case StockKeepingEnded():
            return replace(keeping, is_kept=False)
    return keeping


KEEPING = Decider(initial=Keeping(), evolve=evolve)

# decisions


def keep(keeping: Keeping, command: KeepStock, site: Site, product: Product) -> Sequence[Event]:
    """Begin, or begin again, to keep a product of the range at an open site."""
    must_be_open(site, command.site_id)
    must_be_in_range(product, command.sku)
    if keeping.is_kept:
        raise Refused("stock_keeping.already_kept", site_id=command.site_id, sku=command.sku)
    said = {name: getattr(command, name) for name in _FIELDS}
    _must_be_sound(command.site_id, product, said)
    return [
        StockKeepingBegun(site_id=command.site_id, sku=command.sku, **said, kept_at=command.kept_at)
    ]


def change(
    keeping: Keeping, command: ChangeStockKeeping, site: Site, product: Product
) -> Sequence[Event]:
    """Change how a SKU is kept, be its site closed or its product retired; nothing where all of it
    is said already."""
    must_be_known(site, command.site_id)
    must_be_registered(product, command.sku)
    _must_be_kept(keeping, command.site_id, command.sku)
    before = {name: getattr(keeping, name) for name in _FIELDS}
    given = {name: getattr(command, name) for name in _FIELDS}
    after = before | {name: value for name, value in given.items() if value is not None}
    after |= dict.fromkeys(command.clear)
    _must_be_sound(command.site_id, product, after)
    changed = [name for name in _FIELDS if after[name] != before[name]]
    if not changed:
        return []
    return [
        StockKeepingChanged(
            site_id=command.site_id,
            sku=command.sku,
            **after,
            changed=", ".join(changed),
            changed_at=command.changed_at,
        )
    ]


def end(keeping: Keeping, command: EndStockKeeping, stock: Stock) -> Sequence[Event]:
    """Keep a SKU no more, where nothing of it is left or that is known."""
    _must_be_kept(keeping, command.site_id, command.sku)
    if not command.despite_stock and (stock.on_hand > 0 or stock.reserved > 0):
        raise Refused(
            "stock_keeping.stock_left",
            site_id=command.site_id,
            sku=command.sku,
            on_hand=stock.on_hand,
            reserved=stock.reserved,
        )
    return [
        StockKeepingEnded(
            site_id=command.site_id,
            sku=command.sku,
            reason=command.reason,
            on_hand=stock.on_hand,
            ended_at=command.ended_at,
        )
    ]


def _must_be_kept(keeping: Keeping, site_id: str, sku: str) -> None:
    if not keeping.was_kept:
        raise Refused("stock_keeping.unknown", site_id=site_id, sku=sku)
    if not keeping.is_kept:
        raise Refused("stock_keeping.ended", site_id=site_id, sku=sku)


def _must_be_sound(site_id: str, product: Product, said: dict[str, Any]) -> None:
    """Refuse what does not go together, or not with the product."""
    where = {"site_id": site_id, "sku": product.sku}
    for name in ("reorder_point", "safety_stock", "max_level"):
        if said[name] is not None and said[name] % product.quantity_step:
            raise Refused(
                "stock_keeping.level_not_of_steps",
                **where,
                field=name,
                value=said[name],
                quantity_step=product.quantity_step,
                unit=product.unit,
            )
    point, safety, most = said["reorder_point"], said["safety_stock"], said["max_level"]
    if safety > point:
        raise Refused(
            "stock_keeping.safety_above_reorder_point",
            **where,
            safety_stock=safety,
            reorder_point=point,
        )
    if most is not None and most <= point:
        raise Refused(
            "stock_keeping.max_level_too_low", **where, max_level=most, reorder_point=point
        )
    if said["unit_cost_minor"] is not None and said["currency"] is None:
        raise Refused(
            "stock_keeping.currency_missing",
            **where,
            field="unit_cost_minor",
            value=said["unit_cost_minor"],
        )
