"""Products: what is kept and sold, with its units, weight, volume and hazards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from domain.decider import Decider
from domain.errors import Refused
from domain.hazards import Hazard
from domain.units import UNITS, Unit
from domain.values import Command, Currency, Event, Id, Minor, Quantity, Text, UtcTime, Value

# values and commands


def _gtin(digits: str) -> str:
    if len(digits) not in (8, 12, 13, 14) or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{digits[:20]!r} must have 8, 12, 13 or 14 digits (GTIN)")
    right = check_digit(digits[:-1])
    if digits[-1] != str(right):
        raise ValueError(f"{digits!r} ends in {digits[-1]}; its check digit is {right}")
    return digits


def check_digit(digits: str) -> int:
    """The check digit behind the other digits of a GTIN: weights 3 and 1 from the right, up to the
    next ten (GS1 General Specifications, 7.9)."""
    weighed = sum(int(digit) * (1 if n % 2 else 3) for n, digit in enumerate(reversed(digits)))
    return -weighed % 10


#: Global Trade Item Number: GTIN-8, -12 (UPC), -13 (EAN) or -14.
Gtin = Annotated[
    str,
    Field(max_length=14),
    AfterValidator(_gtin),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^([0-9]{8}|[0-9]{12,14})$",
            "examples": ["4006381333931"],
        }
    ),
]
#: Grams.
Weight = Annotated[int, Field(gt=0, le=10**9)]
#: Cubic centimetres.
Volume = Annotated[int, Field(gt=0, le=10**12)]
#: Days, ten years at the most.
Days = Annotated[int, Field(ge=0, le=3650)]
#: What may be known of a product or not, and so can be cleared.
Clearable = Literal[
    "gtin",
    "weight_g",
    "volume_cm3",
    "shelf_life_days",
    "hazard",
    "price_minor",
    "cost_minor",
    "currency",
    "lead_days",
    "pack_size",
]


class RegisterProduct(Command):
    """Register what may be kept and sold under a SKU.

    ``weight_g`` and ``volume_cm3`` are of one unit of measure; of a unit that is a weight or a
    volume they are known and may be left out. ``quantity_step``: quantities are multiples of it;
    left out it is 1 for what is counted and 0.001 for what is measured. ``pack_size``: so much
    comes in one pack of the supplier. ``lead_days``: from the order to the supplier to the goods.
    """

    sku: Id
    gtin: Gtin | None = None
    name: Text
    unit: Unit = "C62"
    quantity_step: Quantity | None = Field(default=None, examples=["1"])
    weight_g: Weight | None = None
    volume_cm3: Volume | None = None
    shelf_life_days: Annotated[int, Field(gt=0, le=36_500)] | None = None
    hazard: Hazard | None = None
    price_minor: Minor | None = None
    cost_minor: Minor | None = None
    currency: Currency | None = None
    lead_days: Days | None = None
    pack_size: Quantity | None = Field(default=None, examples=["12"])
    registered_at: UtcTime | None


class ChangeProduct(Command):
    """Change what is said of a product: what is left out stays as it is, what ``clear`` names is
    not known any more. Its unit of measure never changes: what is on hand is counted in it."""

    sku: Id
    gtin: Gtin | None = None
    name: Text | None = None
    quantity_step: Quantity | None = Field(default=None, examples=["1"])
    weight_g: Weight | None = None
    volume_cm3: Volume | None = None
    shelf_life_days: Annotated[int, Field(gt=0, le=36_500)] | None = None
    hazard: Hazard | None = None
    price_minor: Minor | None = None
    cost_minor: Minor | None = None
    currency: Currency | None = None
    lead_days: Days | None = None
    pack_size: Quantity | None = Field(default=None, examples=["12"])
    clear: Annotated[tuple[Clearable, ...], Field(max_length=10)] = ()
    changed_at: UtcTime | None

    @model_validator(mode="after")
    def _clears_nothing_that_is_given(self) -> Self:
        both = sorted({name for name in self.clear if getattr(self, name) is not None})
        if both:
            raise ValueError(f"clear: {', '.join(both)} is given a value as well")
        return self


class RetireProduct(Command):
    """Take a product out of the range: nothing of it is bought or ordered any more."""

    sku: Id
    reason: Text
    retired_at: UtcTime | None


class ReinstateProduct(Command):
    """Take a retired product back into the range."""

    sku: Id
    reinstated_at: UtcTime | None


# events


class _Described(Value):
    """Everything that is said of a product."""

    sku: str
    gtin: str | None
    name: str
    unit: str
    quantity_step: Decimal
    weight_g: int | None
    volume_cm3: int | None
    shelf_life_days: int | None
    hazard: Hazard | None
    price_minor: int | None
    cost_minor: int | None
    currency: str | None
    lead_days: int | None
    pack_size: Decimal | None


class ProductRegistered(_Described, Event):
    """A product came into the range."""

    registered_at: datetime | None


class ProductChanged(_Described, Event):
    """What is said of a product changed; ``changed`` names the fields, the others are as before."""

    changed: str
    changed_at: datetime | None


class ProductRetired(Event):
    """A product left the range."""

    sku: str
    reason: str
    retired_at: datetime | None


class ProductReinstated(Event):
    """A product came back into the range."""

    sku: str
    reinstated_at: datetime | None


EVENTS: tuple[type[Event], ...] = (
    ProductRegistered,
    ProductChanged,
    ProductRetired,
    ProductReinstated,
)

#: The stream that an event belongs to, by its fields.
STREAM = "products/{sku}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    ProductRegistered: "Product {sku} was registered: {name}, by {unit}",
    ProductChanged: "Product {sku} was changed: {changed}",
    ProductRetired: "Product {sku} was retired: {reason}",
    ProductReinstated: "Product {sku} came back into the range",
}

# state


@dataclass(frozen=True, slots=True)
class Product:
    """What the rules need to know of a product; ``sku`` is empty where it is not registered."""

    sku: str = ""
    gtin: str | None = None
    name: str = ""
    unit: str = "C62"
    quantity_step: Decimal = Decimal(1)
    weight_g: int | None = None
    volume_cm3: int | None = None
    shelf_life_days: int | None = None
    hazard: Hazard | None = None
    price_minor: int | None = None
    cost_minor: int | None = None
    currency: str | None = None
    lead_days: int | None = None
    pack_size: Decimal | None = None
    is_retired: bool = False


_FIELDS = tuple(_Described.model_fields)


def evolve(product: Product, event: Event) -> Product:
    """The product after one more of its events."""
    match event:
        case ProductRegistered() | ProductChanged():
            return replace(product, **{name: getattr(event, name) for name in _FIELDS})
        case ProductRetired():
            return replace(product, is_retired=True)
        case ProductReinstated():
            return replace(product, is_retired=False)
    return product


PRODUCTS = Decider(initial=Product(), evolve=evolve)

# decisions


def register(product: Product, command: RegisterProduct) -> Sequence[Event]:
    """Register a product under a SKU that is not taken."""
    if product.sku:
        raise Refused("product.already_registered", sku=product.sku, retired=product.is_retired)
    unit = UNITS[command.unit]
    said = {name: getattr(command, name) for name in _FIELDS}
    usual = {
        "quantity_step": Decimal(1) if unit.whole else Decimal("0.001"),
        "weight_g": unit.weight_g,
        "volume_cm3": unit.volume_cm3,
    }
    said |= {name: value for name, value in usual.items() if said[name] is None}
    _must_be_sound(said)
    return [ProductRegistered(**said, registered_at=command.registered_at)]


def change(product: Product, command: ChangeProduct) -> Sequence[Event]:
    """Change what is said of a product in the range; nothing where all of it is said already."""
    must_be_in_range(product, command.sku)
    before = {name: getattr(product, name) for name in _FIELDS}
    after = dict(before)
    for name in _FIELDS:
        if (value := getattr(command, name, None)) is not None:
            after[name] = value
    after |= dict.fromkeys(command.clear)
    _must_be_sound(after)
    changed = [name for name in _FIELDS if after[name] != before[name]]
    if not changed:
        return []
    return [ProductChanged(**after, changed=", ".join(changed), changed_at=command.changed_at)]


def retire(product: Product, command: RetireProduct) -> Sequence[Event]:
    """Take a product out of the range; what is on hand of it may still be sold off."""
    must_be_in_range(product, command.sku)
    return [ProductRetired(sku=command.sku, reason=command.reason, retired_at=command.retired_at)]


def reinstate(product: Product, command: ReinstateProduct) -> Sequence[Event]:
    """Take back what was retired."""
    must_be_registered(product, command.sku)
    if not product.is_retired:
        raise Refused("product.not_retired", sku=command.sku)
    return [ProductReinstated(sku=command.sku, reinstated_at=command.reinstated_at)]


def must_be_registered(product: Product, sku: str) -> None:
    """Refuse what needs a product, be it retired."""
    if not product.sku:
        raise Refused("product.unknown", sku=sku)


def must_be_in_range(product: Product, sku: str) -> None:
    """Refuse what needs a product that is registered and not retired."""
    must_be_registered(product, sku)
    if product.is_retired:
        raise Refused("product.retired", sku=sku)


def _must_be_sound(said: dict[str, Any]) -> None:
    """Refuse what does not go together."""
    sku, code, step, pack = said["sku"], said["unit"], said["quantity_step"], said["pack_size"]
    unit = UNITS[code]
    if unit.whole and step % 1:
        raise Refused("product.step_not_whole", sku=sku, unit=code, quantity_step=step)
    if pack is not None and pack % step:
        raise Refused("product.pack_not_of_steps", sku=sku, pack_size=pack, quantity_step=step)
    for name, known in (("weight_g", unit.weight_g), ("volume_cm3", unit.volume_cm3)):
        if known is not None and said[name] != known:
            raise Refused(
                "product.not_what_the_unit_is",
                sku=sku,
                unit=code,
                field=name,
                value=said[name],
                known=known,
            )
    if said["currency"] is None:
        for name in ("price_minor", "cost_minor"):
            if said[name] is not None:
                raise Refused("product.currency_missing", sku=sku, field=name, value=said[name])
