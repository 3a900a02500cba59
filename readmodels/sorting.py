"""Sorted lists: columns are declared, ORDER BY and the place to go on from are made of them.

A row's place is the values of its sort columns, the key among them, so that no two rows share one.
A cursor holds the sort it belongs to. Null counts as larger than every value, as in the indexes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from readmodels.page import Page, Row, decode_sorted, encode, encode_sorted

_SQL = {
    datetime: "timestamptz",
    date: "date",
    str: "text",
    int: "bigint",
    float: "float8",
    bool: "bool",
    Decimal: "numeric",
}
#: So many columns may be named at once.
MOST = 3
T = TypeVar("T")


class BadSort(ValueError):
    """A list cannot be sorted like that; the message names what it can be sorted by."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a list can be sorted by.

    Attributes:
        kind: the type of its values.
        nullable: whether it may be null.
        sql: the expression, where it is not the column's name. The rows' field of the column's name
            has its value.
    """

    kind: type
    nullable: bool = False
    sql: str | None = None


class _By(NamedTuple):
    name: str
    column: Column
    down: bool

    @property
    def sql(self) -> str:
        return self.column.sql or self.name


@dataclass(frozen=True, slots=True)
class Sorting:
    """What a list can be sorted by.

    Args:
        columns: by the names that clients use.
        usual: how it is sorted where nobody says.
        key: the columns that tell two rows apart; they end every sort.
    """

    columns: Mapping[str, Column]
    usual: str
    key: Sequence[str]
    described: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "described", ", ".join(self.columns))
        assert all(not self.columns[name].nullable for name in self.key)

    def by(self, sort: str | None, cursor: str | None) -> Sorted:
        """The rows behind a cursor, sorted.

        Raises:
            BadSort: columns that there are not, or one twice, or too many.
            BadCursor: the cursor was not given by this list, sorted so.
        """
        wanted = self._parsed(self.usual if sort is None else sort)
        plain = self._parsed(self.usual)
        if cursor is None:
            return Sorted(wanted, None, wanted == plain)
        kinds = [(one.column.kind, one.column.nullable) for one in wanted]
        said = None if wanted == plain else _text(wanted)
        return Sorted(wanted, decode_sorted(cursor, said, kinds), wanted == plain)

    def _parsed(self, sort: str) -> tuple[_By, ...]:
        found: dict[str, _By] = {}
        for part in sort.split(","):
            name = part.strip().removeprefix("-")
            column = self.columns.get(name)
            if column is None:
                raise BadSort(f"cannot sort by {name[:40]!r}; by these: {self.described}")
            if name in found:
                raise BadSort(f"{name} stands twice in the sort")
            found[name] = _By(name, column, part.strip().startswith("-"))
        if len(found) > MOST:
            raise BadSort(f"a list is sorted by {MOST} columns at the most")
        last = next(reversed(found.values()))
        for name in self.key:
            found.setdefault(name, _By(name, self.columns[name], last.down))
            # Nothing behind the whole key can tell rows apart.
        return tuple(found.values())


class Sorted:
    """A list's order, and the place in it to go on from."""

    def __init__(self, columns: Sequence[_By], after: Sequence[Any] | None, is_usual: bool) -> None:
        self._columns, self._after, self._is_usual = columns, after, is_usual

    @property
    def sql(self) -> str:
        """What stands behind a query's last condition: ``AND ... ORDER BY ... LIMIT %(limit)s``."""
        order = ", ".join(f"{one.sql} DESC" if one.down else one.sql for one in self._columns)
        behind = "" if self._after is None else f" AND ({_behind(self._columns, self._after)})"
        return f"{behind} ORDER BY {order} LIMIT %(limit)s"

    @property
    def parameters(self) -> dict[str, Any]:
        """The values of the place."""
        return {f"after_{n}": value for n, value in enumerate(self._after or ())}

    def page(self, rows: Sequence[Row], limit: int) -> Page[Row]:
        """A page of at most ``limit`` of the rows; one row more than that says there are more."""
        items = tuple(rows[:limit])
        if len(rows) <= limit:
            return Page[Row](items=items, next_cursor=None)
        place = [getattr(items[-1], one.name) for one in self._columns]
        said = encode(place) if self._is_usual else encode_sorted(_text(self._columns), place)
        return Page[Row](items=items, next_cursor=said)


def _text(columns: Sequence[_By]) -> str:
    return ",".join(f"-{one.name}" if one.down else one.name for one in columns)


def _behind(columns: Sequence[_By], after: Sequence[Any]) -> str:
    """The condition of the rows behind a place."""
    marks = [f"%(after_{n})s::{_SQL[one.column.kind]}" for n, one in enumerate(columns)]
    if len({one.down for one in columns}) == 1 and not any(one.column.nullable for one in columns):
        # One comparison of rows: it is one step into an index.
        names = ", ".join(one.sql for one in columns)
        return f"({names}) {'<' if columns[0].down else '>'} ({', '.join(marks)})"
    found: list[str] = []
    same: list[str] = []
    for one, value, mark in zip(columns, after, marks, strict=True):
        found.append(" AND ".join([*same, _beyond(one, value, mark)]))
        same.append(f"{one.sql} IS NULL" if value is None else f"{one.sql} = {mark}")
    return " OR ".join(f"({one})" for one in found)


def _beyond(one: _By, value: Any, mark: str) -> str:
    """Whether a row's value comes behind another one. Null is the largest."""
    if one.down:
        return f"{one.sql} IS NOT NULL" if value is None else f"{one.sql} < {mark}"
    if value is None:
        return "false"
    return (
        f"({one.sql} > {mark} OR {one.sql} IS NULL)"
        if one.column.nullable
        else (f"{one.sql} > {mark}")
    )
