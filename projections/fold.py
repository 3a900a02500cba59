"""Folds: what one event says about a column, and how what several events say becomes one value.

A column says, for each event type, what one event contributes, as a polars expression over the
event's fields and the metadata of its record (``projections.schema.METADATA``). A contribution that
is null is none. Merging is associative and safe out of order: ``first``, ``last``, ``collect`` and
``latest_of_map`` remember where each value came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import polars as pl

from domain.values import Event

#: What one event contributes: an expression, a field's name, or a number.
Contribution = pl.Expr | str | int | float
#: One for an event, or as many as the event has keys.
Contributed = Contribution | Sequence[Contribution]
Contributions = Mapping[type[Event], Contributed]


class Merge(StrEnum):
    """How two parts of a column become one."""

    FIRST = "first"
    LAST = "last"
    TOTAL = "total"
    LEAST = "least"
    GREATEST = "greatest"
    COLLECT = "collect"
    DISTINCT = "count_distinct"
    LATEST = "latest_of_map"
    EACH = "each"


@dataclass(frozen=True, slots=True)
class Fold:
    """One column: what each event contributes and how contributions merge.

    Attributes:
        merge: how.
        contributions: for each event type one expression, or one for each of the event's keys.
        dtype: what contributions are cast to; None takes them as they are.
        json: text that holds JSON; it is stored as jsonb.
        most: how many values ``collect`` and ``latest_of_map`` keep, and up to how many
            ``count_distinct`` is exact.
        newest: whether ``collect`` keeps the newest values where there are too many.
        map_keys: for ``latest_of_map``: the key that each contribution belongs to.
    """

    merge: Merge
    contributions: Mapping[type[Event], tuple[pl.Expr, ...]]
    dtype: pl.DataType | type[pl.DataType] | None = None
    json: bool = False
    most: int = 0
    newest: bool = True
    map_keys: Mapping[type[Event], tuple[pl.Expr, ...]] | None = None

    def __post_init__(self) -> None:
        if self.merge in (Merge.COLLECT, Merge.DISTINCT, Merge.LATEST) and self.most < 1:
            raise ValueError(f"{self.merge}: the bound must be at least 1, got {self.most}")


def first(contributions: Contributions, *, json: bool = False) -> Fold:
    """The earliest contribution."""
    return Fold(Merge.FIRST, _expressions(contributions), json=json)


def last(contributions: Contributions, *, json: bool = False) -> Fold:
    """The latest contribution."""
    return Fold(Merge.LAST, _expressions(contributions), json=json)


def total(contributions: Contributions) -> Fold:
    """The sum; 0 without contributions. Exact for integers and decimals; a sum that leaves 64 bits
    is an error, never another number."""
    return Fold(Merge.TOTAL, _expressions(contributions))


def count(*events: type[Event], where: Mapping[type[Event], Contribution] | None = None) -> Fold:
    """How many events; with ``where``, those of which the condition is true."""
    ones: dict[type[Event], tuple[pl.Expr, ...]] = {e: (pl.lit(1, pl.Int64),) for e in events}
    for event, condition in (where or {}).items():
        ones[event] = (pl.when(expression(condition)).then(pl.lit(1, pl.Int64)),)
    return Fold(Merge.TOTAL, ones, dtype=pl.Int64)


def least(contributions: Contributions) -> Fold:
    """The smallest contribution."""
    return Fold(Merge.LEAST, _expressions(contributions))


def greatest(contributions: Contributions) -> Fold:
    """The largest contribution."""
    return Fold(Merge.GREATEST, _expressions(contributions))


def collect(contributions: Contributions, *, most: int = 100, newest: bool = True) -> Fold:
    """The contributions as a list in log order: the newest ``most`` of them, or the oldest."""
    return Fold(Merge.COLLECT, _expressions(contributions), most=most, newest=newest)


def count_distinct(contributions: Contributions, *, exact: int = 1000) -> Fold:
    """How many different contributions there are; 0 without any.

    Exact up to ``exact`` different values. Beyond, an estimate from the smallest ``exact`` of
    64-bit hashes (Bar-Yossef et al., Counting Distinct Elements in a Data Stream, 2002: bottom-k),
    with a standard error of 1 / sqrt(exact - 2), 3 % for 1000.
    """
    return Fold(Merge.DISTINCT, _expressions(contributions), most=exact)


def latest_of_map(
    contributions: Mapping[type[Event], tuple[Contributed, Contributed]], *, most: int = 1000
) -> Fold:
    """A map: the latest contribution under each map key, by the text of the key.

    Args:
        contributions: for each event type (map key, value). A null value contributes nothing.
        most: entries kept at most: those that changed last.
    """
    keys = {event: pair[0] for event, pair in contributions.items()}
    values = {event: pair[1] for event, pair in contributions.items()}
    return Fold(Merge.LATEST, _expressions(values), most=most, map_keys=_expressions(keys))


def each(contributions: Contributions, *, json: bool = False) -> Fold:
    """What every single event says, for tables with a row for each event (``every_event``) and
    tables that are recomputed (``recompute``)."""
    return Fold(Merge.EACH, _expressions(contributions), json=json)


def expression(value: Contribution) -> pl.Expr:
    """A contribution as an expression: a text names a field, a number stands for itself.

    Raises:
        TypeError: it is none.
    """
    match value:
        case pl.Expr():
            return value
        case str():
            return pl.col(value)
        case bool() | float():
            return pl.lit(value)
        case int():
            return pl.lit(value, pl.Int64)
    raise TypeError(
        f"{value!r} is no contribution: write an expression, a field's name or a number"
    )


def expressions(value: Contributed) -> tuple[pl.Expr, ...]:
    """One or several contributions as expressions."""
    several: Any = value if isinstance(value, list | tuple) else (value,)
    return tuple(expression(one) for one in several)


def _expressions(contributions: Contributions) -> dict[type[Event], tuple[pl.Expr, ...]]:
    return {event: expressions(value) for event, value in contributions.items()}
