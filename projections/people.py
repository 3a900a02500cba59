"""People: the newest tokens of each person. The row goes with the erasure, live, in a rebuild and
as of any later position, and with it all that tables hold of the person but the pseudonym."""

from __future__ import annotations

from polars import col

from domain.orders import OrderPlaced
from domain.people import FIELDS, PersonErased
from projections.fold import count, first, last
from projections.table import Table

PEOPLE = Table(
    name="people",
    key=dict.fromkeys((OrderPlaced, PersonErased), ("person",)),
    columns={
        **{name: last({OrderPlaced: col("recipient").struct.field(name)}) for name in FIELDS},
        "orders": count(OrderPlaced),
        "first_placed_at": first({OrderPlaced: "placed_at"}),
        "last_placed_at": last({OrderPlaced: "placed_at"}),
    },
    closes=(PersonErased,),
)

TABLES = (PEOPLE,)
