"""Column types: what an event's fields and a record's metadata are in a frame."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import polars as pl
from polars.datatypes import DataTypeClass
from polars.exceptions import PolarsError
from pydantic import AwareDatetime, BaseModel

DataType = pl.DataType

MOMENT = pl.Datetime("us", "UTC")
#: Exact quantities: up to three decimal places.
EXACT = pl.Decimal(38, 3)

#: What every record of the log carries beside the event's own fields.
METADATA: Mapping[str, DataType] = {
    "position": pl.Int64(),
    "organisation_id": pl.String(),
    "stream_id": pl.String(),
    "version": pl.Int64(),
    "topic": pl.String(),
    "event_id": pl.String(),
    "recorded_at": MOMENT,
    "correlation_id": pl.String(),
    "causation_id": pl.String(),
    "actor": pl.String(),
    "state": pl.String(),
}


@cache
def fields_of(event: type[BaseModel]) -> Mapping[str, DataType]:
    """The frame type of each field of an event; fields with free keys (dict) are left out."""
    found = {name: _dtype(info.annotation) for name, info in event.model_fields.items()}
    return {name: dtype for name, dtype in found.items() if dtype is not None}


def wire(dtype: DataType) -> DataType:
    """The type as it stands in JSON: times, days and decimals are strings there."""
    if dtype in (MOMENT, EXACT, pl.Date()):
        return pl.String()
    if isinstance(dtype, pl.List):
        return pl.List(wire(_instance(dtype.inner)))
    if isinstance(dtype, pl.Struct):
        return pl.Struct({part.name: wire(_instance(part.dtype)) for part in dtype.fields})
    return dtype


def from_wire(name: str, dtype: DataType) -> pl.Expr:
    """The column as its own type, from the type that JSON has for it."""
    return _from_wire(pl.col(name), dtype)


def _from_wire(column: pl.Expr, dtype: DataType) -> pl.Expr:
    if wire(dtype) == dtype:
        return column
    if dtype == MOMENT:
        return column.str.to_datetime("%+", time_unit="us", time_zone="UTC")
    if dtype == pl.Date():
        return column.str.to_date("%Y-%m-%d")
    if isinstance(dtype, pl.List):
        return column.list.eval(_from_wire(pl.element(), _instance(dtype.inner)))
    if isinstance(dtype, pl.Struct):
        parts = [
            _from_wire(column.struct.field(part.name), _instance(part.dtype)).alias(part.name)
            for part in dtype.fields
        ]
        return pl.when(column.is_not_null()).then(pl.struct(parts))
    return column.cast(dtype)


def required_fields(event: type[BaseModel]) -> frozenset[str]:
    """The fields and metadata that are never null in an event."""
    return _required(event) | frozenset(METADATA.keys() - {"causation_id"})


@cache
def _required(event: type[BaseModel]) -> frozenset[str]:
    return frozenset(
        name
        for name, info in event.model_fields.items()
        if types.NoneType not in get_args(info.annotation)
    )


def is_column(expression: pl.Expr) -> bool:
    """Whether an expression is a column as it stands."""
    names = expression.meta.root_names()
    return len(names) == 1 and expression.meta.eq(pl.col(names[0]))


def whole(expression: pl.Expr) -> str:
    """All that an expression says. Its text leaves out formats, options and long lists."""
    return expression.meta.serialize(format="json")


def is_null(expression: pl.Expr) -> bool:
    """Whether an expression is a null that stands there as such."""
    return expression.meta.is_literal() and pl.select(expression).item() is None


def spans_rows(expression: pl.Expr, schema: Mapping[str, DataType]) -> bool:
    """Whether an expression gives a row something else among other rows than alone, as a sum, a
    shift or a rank does. It is tried on made-up rows; where those do not suit it, it is searched
    for aggregations and windows."""
    if is_column(expression) or expression.meta.is_literal() or stays_in_row(expression):
        return False
    try:
        return any_spans_rows([expression], schema)
    except PolarsError:
        said = whole(expression)
        if '"Over"' in said or ('"Agg"' in said and '"Eval"' not in said):
            return True
        try:
            return not expression.meta.is_length_preserving()
        except PolarsError:
            return False


def stays_in_row(expression: pl.Expr) -> bool:
    """Whether polars says without trying that an expression goes row by row; False: it may or may
    not. Polars answers for the outermost operation alone, and not for lists' elements."""
    meta = expression.meta
    try:
        if meta.is_literal():
            return True
        alike = meta.is_row_separable() and meta.is_length_preserving()
        return alike and all(map(stays_in_row, meta.pop()))
    except PolarsError:
        return False


def any_spans_rows(expressions: Sequence[pl.Expr], schema: Mapping[str, DataType]) -> bool:
    """Whether one of some expressions spans rows, tried on all of them at once: one by one costs
    the start of every process a second.

    Raises:
        PolarsError: made-up rows do not suit one of them.
    """
    names = {name for one in expressions for name in one.meta.root_names()}
    rows = pl.DataFrame(
        [
            {name: number and _made_up(schema[name], number) for name in names}
            for number in (2, None, 3, 1, 2, None)
        ],
        schema={name: schema[name] for name in names} or {"nothing": pl.Int64()},
    )
    given = [one.alias(f"given@{number}") for number, one in enumerate(expressions)]
    together = rows.with_columns(given)
    alone = [rows[number].with_columns(given) for number in range(rows.height)]
    return any(
        repr(_listed(together[name][number])) != repr(_listed(one[name].item()))
        for name in together.columns[rows.width :]
        for number, one in enumerate(alone)
    )


def _listed(value: Any) -> Any:
    return value.to_list() if isinstance(value, pl.Series) else value


def _made_up(dtype: DataType, number: int) -> Any:
    """A value of a type, another one for each number."""
    if isinstance(dtype, pl.List):
        return [_made_up(_instance(dtype.inner), number)] * number
    if isinstance(dtype, pl.Struct):
        return {one.name: _made_up(_instance(one.dtype), number) for one in dtype.fields}
    if isinstance(dtype, pl.Boolean):
        return number != 3
    if isinstance(dtype, pl.String):
        return str(number)
    if isinstance(dtype, pl.Date):
        return date(2026, 1, number)
    if isinstance(dtype, pl.Datetime):
        return datetime(2026, 1, number, number, tzinfo=UTC)
    return Decimal(number) if isinstance(dtype, pl.Decimal) else number


def plain(dtype: pl.DataType | DataTypeClass | type[Any]) -> DataType:
    """The type that a column of this one is kept as: one integer, one float, one decimal type.

    Raises:
        TypeError: it has no column type in Postgres.
    """
    dtype = _instance(pl.Schema({"x": dtype})["x"])
    if dtype.is_integer():
        return pl.Int64()
    if dtype.is_float():
        return pl.Float64()
    if isinstance(dtype, pl.Decimal):
        return EXACT
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return MOMENT
    if isinstance(dtype, pl.Enum | pl.Categorical):
        return pl.String()
    if isinstance(dtype, pl.List):
        return pl.List(plain(dtype.inner))
    if isinstance(dtype, pl.Struct):
        return pl.Struct({part.name: plain(part.dtype) for part in dtype.fields})
    if isinstance(dtype, pl.String | pl.Boolean | pl.Date | pl.Null):
        return dtype
    raise TypeError(f"{dtype} is no type of a column")


def common_type(dtypes: Iterable[DataType]) -> DataType | None:
    """The one type that holds values of all of them; None: there is none."""
    found = set(dtypes)
    if len(found) == 1:
        return found.pop()
    if found <= {pl.Int64(), EXACT}:
        return EXACT
    return pl.Float64() if found <= {pl.Int64(), pl.Float64()} else None


def _instance(dtype: pl.DataType | DataTypeClass) -> DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()


_SCALARS: tuple[tuple[type, DataType], ...] = (
    (bool, pl.Boolean()),
    (int, pl.Int64()),
    (float, pl.Float64()),
    (Decimal, EXACT),
    (datetime, MOMENT),
    (AwareDatetime, MOMENT),  # what commands' values have, which events may hold as well
    (date, pl.Date()),  # behind datetime, which is one too
    (time, pl.String()),
    (str, pl.String()),
    (Enum, pl.String()),
)


def _dtype(annotation: Any) -> DataType | None:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        [kind] = [part for part in get_args(annotation) if part is not types.NoneType]
        return _dtype(kind)
    if origin is tuple:
        inner = _dtype(get_args(annotation)[0])
        return None if inner is None else pl.List(inner)
    if origin is Literal:  # one of some words
        return _dtype(type(get_args(annotation)[0]))
    if hasattr(annotation, "__metadata__"):
        return _dtype(annotation.__origin__)
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            return pl.Struct(pl.Schema(fields_of(annotation)))
        for kind, dtype in _SCALARS:
            if issubclass(annotation, kind):
                return dtype
    return None
