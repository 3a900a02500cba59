"""Where and when an order is wanted, as long as nothing of it has left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from domain.errors import Refused
from domain.order_events import OrderChanged as OrderChanged
from domain.order_state import Order, Status, must_be
from domain.places import Point
from domain.shipments import PLACES_OF_PERSONS, is_exact
from domain.time_windows import TimeWindow
from domain.values import Command, Event, Id, UtcTime

_FIELDS = ("destination", "delivery_window", "service_s")


class ChangeOrder(Command):
    """Change where and when an order is wanted, before anything of it was shipped: what is left out
    stays as it is, what ``clear`` names is not said any more.

    Where the order has a recipient, its destination has at most 2 decimal places: a home is
    personal. ``service_s``: seconds that handing over takes at the stop.
    """

    order_id: Id
    destination: Point | None = None
    delivery_window: TimeWindow | None = None
    service_s: Annotated[int, Field(ge=0, le=86_400)] | None = None
    clear: Annotated[
        tuple[Literal["destination", "delivery_window", "service_s"], ...], Field(max_length=3)
    ] = ()
    changed_at: UtcTime | None

    @model_validator(mode="after")
    def _clears_nothing_that_is_given(self) -> Self:
        both = sorted({name for name in self.clear if getattr(self, name) is not None})
        if both:
            raise ValueError(f"clear: {', '.join(both)} is given a value as well")
        return self


def change(order: Order, command: ChangeOrder) -> Sequence[Event]:
    """Change where and when an order is wanted; nothing where all of it is said already."""
    must_be(order, command.order_id, Status.PLACED, Status.ALLOCATED)
    before = {name: getattr(order, name) for name in _FIELDS}
    given = {name: getattr(command, name) for name in _FIELDS}
    after = before | {name: value for name, value in given.items() if value is not None}
    after |= dict.fromkeys(command.clear)
    changed = [name for name in _FIELDS if after[name] != before[name]]
    if not changed:
        return []
    destination = command.destination
    if destination is not None and order.person is not None and is_exact(destination):
        raise Refused(
            "order.location_too_exact",
            order_id=order.order_id,
            field="destination",
            most=f"{PLACES_OF_PERSONS} decimal places",
        )
    return [
        OrderChanged(
            order_id=order.order_id,
            **after,
            changed=", ".join(changed),
            changed_at=command.changed_at,
        )
    ]
