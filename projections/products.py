"""Products as they stand."""

from __future__ import annotations

from polars import lit

from domain.products import (
    ProductChanged,
    ProductRegistered,
    ProductReinstated,
    ProductRetired,
)
from domain.values import Event
from projections.fold import first, last
from projections.table import Table

_EVENTS: tuple[type[Event], ...] = (
    ProductRegistered,
    ProductChanged,
    ProductRetired,
    ProductReinstated,
)

PRODUCT_LIST = Table(
    name="product_list",
    key=dict.fromkeys(_EVENTS, ("sku",)),
    columns={
        "version": last(dict.fromkeys(_EVENTS, "version")),
        "name": last({ProductRegistered: "name", ProductChanged: "name"}),
        "unit": last({ProductRegistered: "unit", ProductChanged: "unit"}),
        "registered_at": first({ProductRegistered: "registered_at"}),
        "retired": last(
            {
                ProductRegistered: lit(False),
                ProductRetired: lit(True),
                ProductReinstated: lit(False),
            }
        ),
        "retired_at": last({ProductRetired: "retired_at"}),
        "retire_reason": last({ProductRetired: "reason"}),
        # What may be cleared is read from here: a null leaves the value before.
        "described": last({ProductRegistered: "state", ProductChanged: "state"}, json=True),
    },
    indexes=(("last_position",),),
)

TABLES: tuple[Table, ...] = (PRODUCT_LIST,)
