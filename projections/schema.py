"""Column types: what an event's fields and a record's metadata are in a frame."""

from __future__ import annotations

import types
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin

import polars as pl
from polars.datatypes import DataTypeClass
from pydantic import BaseModel

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
    """The type as it stands in JSON: times and decimals are strings there."""
    if dtype in (MOMENT, EXACT):
        return pl.String()
    if isinstance(dtype, pl.List):
        return pl.List(wire(_instance(dtype.inner)))
    if isinstance(dtype, pl.Struct):
        return pl.Struct({part.name: wire(_instance(part.dtype)) for part in dtype.fields})
    return dtype


def from_wire(name: str, dtype: DataType) -> pl.Expr:
    """The column as its own type, from the type that JSON has for it."""
    if dtype == MOMENT:
        return pl.col(name).str.to_datetime("%+", time_unit="us", time_zone="UTC")
    return pl.col(name).cast(dtype) if wire(dtype) != dtype else pl.col(name)


def _instance(dtype: pl.DataType | DataTypeClass) -> DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()


_SCALARS: tuple[tuple[type, DataType], ...] = (
    (bool, pl.Boolean()),
    (int, pl.Int64()),
    (float, pl.Float64()),
    (Decimal, EXACT),
    (datetime, MOMENT),
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
    if hasattr(annotation, "__metadata__"):
        return _dtype(annotation.__origin__)
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            return pl.Struct(pl.Schema(fields_of(annotation)))
        for kind, dtype in _SCALARS:
            if issubclass(annotation, kind):
                return dtype
    return None
