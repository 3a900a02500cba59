"""Parts: frames of keys, the state of columns and the orders that values came from.

A *part* is a frame with the table's keys, the state of its columns and ``last_position`` (the log
position of the newest event in each row). One event's contribution is a part, a batch is a part, a
stored row is a part, and parts merge to parts, in any order: where an order matters, the state
holds the *order* that its value came from (its log position; for a table by effective time that
comes first). A stored row holds no orders: it stands for all events of its key up to its
``last_position``, and what is merged with it is newer.
"""

from __future__ import annotations

from functools import cache

import polars as pl

from projections.fold import Merge
from projections.schema import MOMENT, DataType
from projections.table import EVENT, LAST_EFFECTIVE, LAST_POSITION, Table

#: State that stays in the engine is marked so: orders, and what a closing event did.
AT = "@"
#: When the oldest contribution of a part counts from.
FIRST_EFFECTIVE = f"{AT}first_effective"
#: Where a contribution stands, in tables whose contributions stay apart.
ORDER = f"{AT}order"
#: Where the last closing event stands.
CLOSED = f"{AT}closed"
#: Contributions of one event have one position: their number within it tells them apart.
_WITHIN = 2**20
_POSITIONS = 2**43
_ORDERED = (Merge.FIRST, Merge.LAST)
#: Folds whose state is a list.
LISTS = (Merge.COLLECT, Merge.LATEST, Merge.DISTINCT)


@cache
def part_schema(table: Table) -> dict[str, DataType]:
    """The columns of a part and their types."""
    schema = {name: table.types[name] for name in table.keys}
    at = order_type(table)
    for name, fold in table.columns.items():
        dtype = table.types[name]
        if fold.merge is Merge.COLLECT:
            dtype = pl.List(pl.Struct({"at": at, "value": dtype}))
        elif fold.merge is Merge.LATEST:
            dtype = pl.List(pl.Struct({"at": at, "key": pl.String(), "value": dtype}))
        elif fold.merge is Merge.DISTINCT:
            dtype = pl.List(pl.Int64())
        schema[name] = dtype
    schema |= dict.fromkeys(orders_of(table).values(), at)
    schema[LAST_POSITION] = pl.Int64()
    if table.effective:
        schema[LAST_EFFECTIVE] = MOMENT
        schema[FIRST_EFFECTIVE] = MOMENT
    if not table.reduces:
        schema[ORDER] = at
    if table.closes:
        schema[CLOSED] = at
    if table.recompute is not None:
        schema[EVENT] = pl.String()
    return schema


@cache
def empty_part(table: Table) -> pl.DataFrame:
    """What no events contribute."""
    return pl.DataFrame(schema=part_schema(table))


# orders


def order_type(table: Table) -> DataType:
    """The type of orders: log positions, or effective times before them."""
    return pl.Int128() if table.effective else pl.Int64()


def order_of(table: Table, position: pl.Expr, effective: pl.Expr, within: pl.Expr) -> pl.Expr:
    """Where a contribution stands among all: its log position, its number within its event."""
    order = position
    if table.effective:
        moment = effective.cast(pl.Int64).cast(pl.Int128)
        order = moment * pl.lit(_POSITIONS, pl.Int128) + position.cast(pl.Int128)
    if table.explode or any(len(table.keys_of(event)) > 1 for event in table.events):
        order = order * pl.lit(_WITHIN, order_type(table)) + within.cast(order_type(table))
    return order


@cache
def orders_of(table: Table) -> dict[str, str]:
    """For each column whose value has an order, the column that holds it. Those that always change
    together share one."""
    if table.every_event or table.recompute is not None:
        return {}
    shared: dict[object, str] = {}
    found = {}
    for name, fold in table.columns.items():
        if fold.merge in _ORDERED:
            together: object = name
            if table.never_null(fold):
                together = (fold.merge, frozenset(fold.contributions))
            found[name] = shared.setdefault(together, name + AT)
    return found


def columns_by_order(table: Table) -> dict[str, list[str]]:
    """For each column that holds an order, the columns whose values it is of."""
    found: dict[str, list[str]] = {}
    for name, at in orders_of(table).items():
        found.setdefault(at, []).append(name)
    return found
