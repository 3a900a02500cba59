"""Declarations: a read model is a table whose columns are mergeable folds over events.

A column says, for each event type, what one event contributes, as a polars expression over the
event's fields and the metadata of its record (``METADATA``). How contributions merge is the fold.
A contribution that is null is none. Merging is associative: parts are merged in log order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import polars as pl

from domain.catalogue import TOPICS, VERSIONS
from domain.values import Event
from projections.schema import METADATA, fields_of

Contribution = pl.Expr | str | int
Contributions = Mapping[type[Event], Contribution]


class Merge(StrEnum):
    """How two parts of a column become one."""

    FIRST = "first"
    LAST = "last"
    TOTAL = "total"
    LEAST = "least"
    GREATEST = "greatest"


@dataclass(frozen=True, slots=True)
class Fold:
    """One column: what each event contributes and how contributions merge.

    ``json`` marks text that holds JSON; it is stored as jsonb.
    """

    merge: Merge
    contributions: Mapping[type[Event], pl.Expr]
    dtype: pl.DataType | type[pl.DataType] | None = None
    json: bool = False


def first(contributions: Contributions, *, json: bool = False) -> Fold:
    """The earliest contribution in log order."""
    return Fold(Merge.FIRST, _expressions(contributions), json=json)


def last(contributions: Contributions, *, json: bool = False) -> Fold:
    """The latest contribution in log order."""
    return Fold(Merge.LAST, _expressions(contributions), json=json)


def total(contributions: Contributions) -> Fold:
    """The sum; 0 without contributions. Exact for integers and decimals."""
    return Fold(Merge.TOTAL, _expressions(contributions))


def count(*events: type[Event], where: Mapping[type[Event], pl.Expr] | None = None) -> Fold:
    """How many events; with ``where``, those of which the condition is true."""
    ones: dict[type[Event], pl.Expr] = dict.fromkeys(events, pl.lit(1, pl.Int64))
    for event, condition in (where or {}).items():
        ones[event] = condition.cast(pl.Int64)
    return Fold(Merge.TOTAL, ones, dtype=pl.Int64)


def least(contributions: Contributions) -> Fold:
    """The smallest contribution."""
    return Fold(Merge.LEAST, _expressions(contributions))


def greatest(contributions: Contributions) -> Fold:
    """The largest contribution."""
    return Fold(Merge.GREATEST, _expressions(contributions))


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A read model, declared once; live, rebuilt and as-of by the same engine.

    Attributes:
        name: the table's name in the schema of read models.
        key: for each event type, the key's expressions by column name (all of the same names).
            ``organisation_id`` comes first by itself. An event whose key is null is left out.
        columns: the folds.
        computed: columns made of the others when a row is written.
        indexes: further indexes, each a list of columns behind ``organisation_id``.
        every_event: a row for each event: nothing is merged, rows are only added.
    """

    name: str
    key: Mapping[type[Event], Mapping[str, Contribution] | Sequence[str]]
    columns: Mapping[str, Fold]
    computed: Mapping[str, pl.Expr] = field(default_factory=dict)
    indexes: Sequence[Sequence[str]] = ()
    every_event: bool = False

    def __post_init__(self) -> None:
        names = {self._names(key) for key in self.key.values()}
        if len(names) != 1:
            raise TypeError(f"{self.name}: every event needs the same key columns, got {names}")
        for event, expressions in self._expressions_by_event().items():
            if event not in self.key:
                raise TypeError(f"{self.name}: {event.__name__} has no key")
            known = fields_of(event).keys() | METADATA.keys()
            for expression in expressions:
                for name in expression.meta.root_names():
                    if name not in known:
                        raise TypeError(
                            f"{self.name}: {event.__name__} has no field {name!r}; "
                            f"it has {', '.join(sorted(known))}"
                        )

    @property
    def keys(self) -> tuple[str, ...]:
        """The key's column names, ``organisation_id`` first."""
        return ("organisation_id", *self._names(next(iter(self.key.values()))))

    @property
    def events(self) -> tuple[type[Event], ...]:
        """The event types that the table folds."""
        return tuple(self.key)

    def key_of(self, event: type[Event]) -> list[pl.Expr]:
        """The expressions of the key for one event type, named."""
        key = self.key[event]
        pairs = key.items() if isinstance(key, Mapping) else [(name, pl.col(name)) for name in key]
        return [_expression(value).alias(name) for name, value in pairs]

    def fields(self, event: type[Event]) -> set[str]:
        """The fields of an event that the table reads."""
        expressions = self._expressions_by_event().get(event, [])
        return {name for expression in expressions for name in expression.meta.root_names()}

    @property
    def fingerprint(self) -> str:
        """Changes when the declaration does."""
        parts = [self.name, repr(self.keys), repr(self.indexes), str(self.every_event)]
        for event in self.events:
            parts += [event.__name__, *(str(expression) for expression in self.key_of(event))]
            if event in VERSIONS:  # the same fields may say something else, in other units perhaps
                parts.append(TOPICS[event])
            parts += [f"{name}:{dtype}" for name, dtype in sorted(fields_of(event).items())]
        for name, fold in self.columns.items():
            parts += [name, fold.merge, str(fold.json)]
            parts += [f"{e.__name__}={x}" for e, x in fold.contributions.items()]
        parts += [f"{name}={expression}" for name, expression in self.computed.items()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def _expressions_by_event(self) -> dict[type[Event], list[pl.Expr]]:
        found = {event: self.key_of(event) for event in self.key}
        for fold in self.columns.values():
            for event, expression in fold.contributions.items():
                found.setdefault(event, []).append(expression)
        return found

    @staticmethod
    def _names(key: Mapping[str, Contribution] | Sequence[str]) -> tuple[str, ...]:
        return tuple(key)


def _expressions(contributions: Contributions) -> dict[type[Event], pl.Expr]:
    return {event: _expression(value) for event, value in contributions.items()}


def _expression(value: Contribution) -> pl.Expr:
    match value:
        case pl.Expr():
            return value
        case str():
            return pl.col(value)
        case _:
            return pl.lit(value, pl.Int64)
