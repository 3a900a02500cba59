"""Pages: a cursor stands for the last row seen, so a page costs the same however deep it is."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from math import isfinite
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

MAX_LIMIT = 500
Row = TypeVar("Row", bound=BaseModel)


class BadCursor(ValueError):
    """A cursor that this query did not give."""


class Page(BaseModel, Generic[Row]):
    """Some rows, and where to go on: ``next_cursor`` is null on the last page."""

    model_config = ConfigDict(frozen=True)

    items: tuple[Row, ...]
    next_cursor: str | None = Field(description="Send it as `cursor` for the next page.")


def encode(values: Sequence[Any]) -> str:
    """The cursor behind a row with these sort values."""
    return _packed([_plain(value) for value in values])


def encode_sorted(sort: str, values: Sequence[Any]) -> str:
    """The cursor behind a row with these values in a list that is sorted so."""
    return _packed({"sort": sort, "after": [_plain(value) for value in values]})


def decode(cursor: str, *kinds: type) -> tuple[Any, ...]:
    """The sort values of a cursor, of these types (datetime, date, str, int).

    Raises:
        BadCursor: it was not made by ``encode`` for such values.
    """
    try:
        values = _unpacked(cursor)
        if not isinstance(values, list) or len(values) != len(kinds):
            raise ValueError
        return tuple(_typed(value, kind) for value, kind in zip(values, kinds, strict=True))
    except (ValueError, TypeError, binascii.Error) as error:
        raise BadCursor(f"cursor {cursor[:40]!r} was not given by this query") from error


def decode_sorted(
    cursor: str, sort: str | None, kinds: Sequence[tuple[type, bool]]
) -> tuple[Any, ...]:
    """The values of a cursor of a list sorted so, of these types; with each, whether it may be
    null. ``sort`` None: the cursor of the usual sort, which is a plain one.

    Raises:
        BadCursor: it was not made for such a list, or for one that is sorted otherwise.
    """
    try:
        said = _unpacked(cursor)
        values = said
        if isinstance(said, dict) or sort is not None:
            if said["sort"] != sort:
                raise BadCursor("the cursor belongs to a list that is sorted otherwise")
            values = said["after"]
        if not isinstance(values, list) or len(values) != len(kinds):
            raise ValueError
        return tuple(
            None if value is None and nullable else _typed(value, kind)
            for value, (kind, nullable) in zip(values, kinds, strict=True)
        )
    except BadCursor:
        raise
    except (ValueError, TypeError, KeyError, ArithmeticError, binascii.Error) as error:
        raise BadCursor(f"cursor {cursor[:40]!r} was not given by this query") from error


def page(rows: Sequence[Row], limit: int, key: Callable[[Row], Sequence[Any]]) -> Page[Row]:
    """A page of at most ``limit`` of the rows; one row more than that says that there are more."""
    more = len(rows) > limit
    items = tuple(rows[:limit])
    return Page[Row](items=items, next_cursor=encode(key(items[-1])) if more else None)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def _packed(values: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def _unpacked(cursor: str) -> Any:
    padded = cursor + "=" * (-len(cursor) % 4)
    return json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))


def _typed(value: Any, kind: type) -> Any:
    if kind is datetime:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
        return moment
    if kind is date:
        return date.fromisoformat(value)
    if kind is Decimal:
        number = Decimal(value) if isinstance(value, str) and len(value) < 60 else None
        if number is None or not number.is_finite() or abs(number.adjusted()) > 40:
            raise ValueError
        return number
    if type(value) is not kind:
        raise ValueError
    if isinstance(value, float) and not isfinite(value):
        raise ValueError
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError
    if isinstance(value, str):
        value.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
        if "\0" in value:
            raise ValueError
    return value
