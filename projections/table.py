"""Declarations: a read model is a table whose columns are folds over events, keyed by their fields.

A declaration's shape is checked when it is made, its expressions before anything is folded by them:
a field that an event does not have, an expression that does not fit its type, a key that is missing
fail there, naming table, event and column.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, cast

import polars as pl
from polars.exceptions import ColumnNotFoundError, PolarsError, StructFieldNotFoundError

from domain.catalogue import TOPICS, VERSIONS
from domain.people import personal_fields
from domain.values import Event
from projections.fold import Contribution, Fold, Merge, expression
from projections.schema import (
    METADATA,
    MOMENT,
    DataType,
    any_spans_rows,
    common_type,
    fields_of,
    is_column,
    is_null,
    plain,
    required_fields,
    spans_rows,
    stays_in_row,
    whole,
)

#: One key of a row: its columns from expressions, or from fields of the same names.
Key = Mapping[str, Contribution] | Sequence[str]
#: Rows of some keys from everything that their events said, for what no fold expresses.
Recompute = Callable[[pl.DataFrame], pl.DataFrame]

#: The log position of the newest event in a row.
LAST_POSITION = "last_position"
#: When the newest event of a row counts from, in tables by effective time.
LAST_EFFECTIVE = "last_effective_at"
#: The name of the event that a row of a recomputed table's input comes from.
EVENT = "event"
#: What Postgres can hold beside the suffixes of a table and of what a fold remembers.
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,49}")
_LONGEST = 50
_SUFFIXES = ("__next", "__old", "__swapped")
_SYSTEM = frozenset({"xmin", "xmax", "cmin", "cmax", "ctid", "tableoid"})
_COMPARED = (Merge.LEAST, Merge.GREATEST, Merge.DISTINCT)


class WrongDeclaration(TypeError):
    """A declaration that cannot work; the message names table, event, column and reason."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A read model, declared once; live, rebuilt, as of and previewed by the same engine.

    Its expressions are checked when its types are first asked for: who folds nothing (most commands
    of the command line) does not wait for what all declarations together take.

    Attributes:
        name: the table's name in the schema of read models.
        key: for each event type, the key's expressions by column name (all of the same names), or
            several such keys: the event then says something about several rows.
            ``organisation_id`` comes first by itself. A key that is null is left out.
        columns: the folds.
        computed: columns made of the others when a row is written.
        indexes: further indexes, each a list of columns behind ``organisation_id``.
        every_event: a row for each event: nothing is merged, rows are only added.
        explode: for an event type, the list field whose items are folded one by one; its
            expressions see one item under the field's name.
        closes: events with which a row disappears. What comes later begins a new row.
        effective: when an event counts from, where that is not the order of the log: its columns
            ``first``, ``last``, ``collect`` and ``latest_of_map`` go by it. Null: when recorded.
        recompute: makes the finished rows of some keys from all that their events say (a frame of
            the key's columns, the ``each`` columns, ``event``, ``last_position``, in log order),
            for what no fold expresses. Everything of a key is read again when it is touched.
    Raises:
        WrongDeclaration: its shape cannot be.
    """

    name: str
    key: Mapping[type[Event], Key | Sequence[Mapping[str, Contribution]]]
    columns: Mapping[str, Fold]
    computed: Mapping[str, pl.Expr] = field(default_factory=dict)
    indexes: Sequence[Sequence[str]] = ()
    every_event: bool = False
    explode: Mapping[type[Event], str] = field(default_factory=dict)
    closes: Sequence[type[Event]] = ()
    effective: Mapping[type[Event], Contribution] = field(default_factory=dict)
    recompute: Recompute | None = None

    def __post_init__(self) -> None:
        _check_shape(self)

    @property
    def types(self) -> Mapping[str, DataType]:
        """The type of each key column and of each column's values.

        Raises:
            WrongDeclaration: it cannot work.
        """
        return _checked(self)

    @property
    def row_types(self) -> Mapping[str, DataType]:
        """The columns of a finished row and their types, in order.

        Raises:
            WrongDeclaration: it cannot work.
        """
        return _row_types(self)

    def check(self) -> None:
        """See that it can work.

        Raises:
            WrongDeclaration: it cannot; the message names table, event, column and reason.
        """
        _row_types(self)

    @property
    def keys(self) -> tuple[str, ...]:
        """The key's column names, ``organisation_id`` first."""
        return ("organisation_id", *self.keys_of(next(iter(self.key)))[0])

    @property
    def events(self) -> tuple[type[Event], ...]:
        """The event types that the table folds."""
        return tuple(self.key)

    @property
    def reduces(self) -> bool:
        """Whether several contributions become one row as soon as they meet."""
        return not (self.every_event or self.closes or self.recompute)

    @property
    def merges(self) -> bool:
        """Whether several events make one row."""
        return not self.every_event

    @property
    def refolds(self) -> bool:
        """Whether rows may have to be made from all of their events again."""
        return self.recompute is not None or bool(self.effective)

    def keys_of(self, event: type[Event]) -> tuple[Mapping[str, pl.Expr], ...]:
        """The keys of one event type: for each, the expressions by column name."""
        key: Any = self.key[event]
        several = (
            key if not isinstance(key, Mapping) and key and isinstance(key[0], Mapping) else (key,)
        )
        return tuple(
            {name: expression(value) for name, value in one.items()}
            if isinstance(one, Mapping)
            else {name: pl.col(name) for name in one}
            for one in several
        )

    def of(self, fold: Fold, event: type[Event], number: int) -> pl.Expr | None:
        """What an event contributes to a column under its key of that number; None: nothing."""
        found = fold.contributions.get(event)
        return None if found is None else found[number if len(found) > 1 else 0]

    def fields(self, event: type[Event]) -> frozenset[str]:
        """The fields of an event that the table reads."""
        return _fields(self, event)

    def _fields(self, event: type[Event]) -> frozenset[str]:
        read = [one for _, one in self.expressions(event)]
        for fold in self.columns.values():
            read += (fold.map_keys or {}).get(event, ())
        if event in self.effective:
            read.append(expression(self.effective[event]))
        names = {name for one in read for name in one.meta.root_names()}
        if event in self.explode:
            names.add(self.explode[event])
        if self.effective:
            names.add("recorded_at")
        return frozenset(names)

    def key_fields(self, event: type[Event]) -> set[str]:
        """The fields of an event that its keys are made of."""
        keys = [one for key in self.keys_of(event) for one in key.values()]
        names = {name for one in keys for name in one.meta.root_names()}
        return names | ({self.explode[event]} if event in self.explode else set())

    def expressions(self, event: type[Event]) -> Iterator[tuple[str, pl.Expr]]:
        """What an event says about each column of the key and each column."""
        for key in self.keys_of(event):
            yield from key.items()
        for name, fold in self.columns.items():
            yield from ((name, one) for one in fold.contributions.get(event, ()))

    @property
    def fingerprint(self) -> str:
        """Changes when the declaration does. Of a ``recompute`` function its source counts."""
        return _fingerprint(self, tuple(VERSIONS.items()))

    def _fingerprint(self) -> str:
        parts = [self.name, repr(self.keys), repr(self.indexes), str(self.every_event)]
        for event in self.events:
            parts.append(event.__name__)
            parts += [
                f"{name}={whole(one)}" for key in self.keys_of(event) for name, one in key.items()
            ]
            if event in VERSIONS:  # the same fields may say something else, in other units perhaps
                parts.append(TOPICS[event])
            # Personal fields count for who reads them: no other table or model can tell of them.
            others = fields_of(event).keys() - (personal_fields(event) - self.fields(event))
            parts += [f"{name}:{fields_of(event)[name]}" for name in sorted(others)]
        for name, fold in self.columns.items():
            parts += [name, fold.merge, str(fold.json), f"most={fold.most},{fold.newest}"]
            for said in (fold.contributions, fold.map_keys or {}):
                parts += [f"{e.__name__}={whole(x)}" for e, xs in said.items() for x in xs]
            if fold.merge is Merge.DISTINCT:  # a hash is the same within one version only
                parts.append(pl.__version__)
        parts += [f"{name}={whole(one)}" for name, one in self.computed.items()]
        parts += [f"explode {e.__name__}.{name}" for e, name in self.explode.items()]
        parts += [f"closes {e.__name__}" for e in self.closes]
        for event, counts_from in self.effective.items():
            parts.append(f"effective {event.__name__}={whole(expression(counts_from))}")
        if self.recompute is not None:
            parts.append(_source(self.recompute))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def never_null(self, fold: Fold) -> bool:
        """Whether every event that contributes to a column does so whenever it occurs."""
        return all(
            (one.meta.is_literal() and not is_null(one))
            or (
                is_column(one)
                and one.meta.root_names()[0] in required_fields(event)
                and self.explode.get(event) != one.meta.root_names()[0]
            )
            for event, found in fold.contributions.items()
            for one in found
        )


def _source(function: Recompute) -> str:
    """What a function says: its source, its defaults and what it has captured.

    Raises:
        TypeError: it is no plain function.
    """
    if not inspect.isfunction(function):
        raise TypeError(f"{function!r} is no plain function")
    code = function.__code__
    try:
        said = inspect.getsource(function)
    except OSError:  # written at a prompt
        said = f"{code.co_code!r}{code.co_consts}{code.co_names}"
    captured = [cell.cell_contents for cell in function.__closure__ or ()]
    return said + "".join(_said(value) for value in (*captured, *(function.__defaults__ or ())))


def _said(value: Any) -> str:
    if inspect.isfunction(value):
        return _source(value)
    if value is None or isinstance(value, str | int | float | Decimal | date | timedelta):
        return repr(value)
    if isinstance(value, tuple):
        return "".join(map(_said, value))
    raise TypeError(f"what a function has captured must be plain, got {type(value).__name__}")


# Asked for with every batch; a declaration does not change.


@cache
def _fingerprint(table: Table, _: object) -> str:
    return table._fingerprint()


@cache
def _fields(table: Table, event: type[Event]) -> frozenset[str]:
    return table._fields(event)


def frame_schema(table: Table, event: type[Event]) -> dict[str, DataType]:
    """What the expressions of a table see of one event type, one item for an exploded list."""
    schema = {**METADATA, **fields_of(event)}
    if event in table.explode:
        listed = schema[table.explode[event]]
        schema[table.explode[event]] = cast(DataType, cast(pl.List, listed).inner)
    return schema


@cache
def _checked(table: Table) -> dict[str, DataType]:
    """The types of all key columns and columns.

    Raises:
        WrongDeclaration: with table, event, column and reason.
    """
    found: dict[str, list[tuple[str, DataType]]] = {}
    for event in table.events:
        schema = frame_schema(table, event)
        asked = list(table.expressions(event))
        apart = _tells_rows_apart([one for _, one in asked], schema)
        at_once = _types_at_once([one for _, one in asked], schema)
        for number, (column, one) in enumerate(asked):
            dtype = _evaluated(
                table, event, column, one, schema, apart=apart, known=at_once.get(number)
            )
            _check_type(table, event, column, dtype)
            found.setdefault(column, []).append((event.__name__, dtype))
        for column, fold in table.columns.items():
            for one in (fold.map_keys or {}).get(event, ()):
                dtype = _evaluated(table, event, column, one, schema)
                if dtype.is_nested():
                    raise WrongDeclaration(
                        f"{table.name}.{column}: {event.__name__} says {dtype}, "
                        "which cannot be a map's key"
                    )
        if event in table.effective:
            _check_moment(table, event, schema)
    types: dict[str, DataType] = {"organisation_id": METADATA["organisation_id"]}
    for column in (*table.keys[1:], *table.columns):
        cast_to = table.columns[column].dtype if column in table.columns else None
        said = [pair for pair in found.get(column, []) if not isinstance(pair[1], pl.Null)]
        if not said:
            raise WrongDeclaration(f"{table.name}: no event says anything about {column!r}")
        common = common_type(dtype for _, dtype in said)
        if common is None:
            told = ", ".join(dict.fromkeys(f"{event} says {dtype}" for event, dtype in said))
            raise WrongDeclaration(f"{table.name}.{column}: the types do not go together: {told}")
        types[column] = common if cast_to is None else plain(cast_to)
    return types


@cache
def _row_types(table: Table) -> dict[str, DataType]:
    """The columns of a finished row and their types, in order.

    Raises:
        WrongDeclaration: a computed column, or what ``recompute`` gives, does not fit.
    """
    if table.recompute is None:
        rows = pl.DataFrame(schema=_folded_types(table))
    else:
        given = {name: table.types[name] for name in (*table.keys, *table.columns)}
        given |= {EVENT: pl.String(), LAST_POSITION: pl.Int64()}
        try:
            rows = table.recompute(pl.DataFrame(schema=given))
        except Exception as error:
            raise WrongDeclaration(f"{table.name}: recompute fails on no rows: {error}") from error
        missing = [name for name in table.keys if name not in rows.columns]
        if missing:
            raise WrongDeclaration(f"{table.name}: recompute gives no key column {missing[0]!r}")
        rows = rows.drop(LAST_POSITION, strict=False).with_columns(
            pl.lit(0, pl.Int64).alias(LAST_POSITION)
        )
    types = dict(rows.schema)
    for column, one in table.computed.items():
        try:
            types[column] = rows.select(one.alias(column)).schema[column]
        except PolarsError as error:
            reason = str(error).splitlines()[0]
            raise WrongDeclaration(f"{table.name}.{column}: {reason}") from error
        if spans_rows(one, rows.schema):
            raise WrongDeclaration(
                f"{table.name}.{column}: a computed column is made of its own row only"
            )
    try:
        return {column: plain(dtype) for column, dtype in types.items()}
    except TypeError as error:
        raise WrongDeclaration(f"{table.name}: {error}") from error


def _folded_types(table: Table) -> dict[str, DataType]:
    types = {name: table.types[name] for name in table.keys}
    remembered: dict[str, DataType] = {}
    for column, fold in table.columns.items():
        dtype = table.types[column]
        match fold.merge:
            case Merge.COLLECT:
                types[column] = pl.List(dtype)
            case Merge.LATEST:
                types[column] = pl.List(pl.Struct({"key": pl.String(), "value": dtype}))
                remembered[seen(column)] = types[column]
            case Merge.DISTINCT:
                types[column] = pl.Int64()
                remembered[seen(column)] = pl.List(pl.Int64())
            case _:
                types[column] = dtype
    types[LAST_POSITION] = pl.Int64()
    if table.effective:
        types[LAST_EFFECTIVE] = MOMENT
    return types | remembered


def seen(column: str) -> str:
    """The column of a finished row that holds what its fold has to remember: the hashes that
    ``count_distinct`` has seen, the entries of ``latest_of_map`` in the order of their change."""
    return f"{column}__seen"


def _check_names(table: Table) -> None:
    if not _NAME.fullmatch(table.name) or table.name.endswith(_SUFFIXES):
        raise WrongDeclaration(
            f"{table.name!r} cannot be a table's name: small letters, digits and _ (at most 50), "
            "not ending in __next, __old or __swapped"
        )
    for name in (*table.keys[1:], *table.columns, *table.computed):
        if not name or len(name.encode()) > _LONGEST or name in _SYSTEM:
            raise WrongDeclaration(f"{table.name}: a column cannot be called {name!r}")
    known = {*table.keys, *table.columns, *table.computed, LAST_POSITION}
    for index in table.indexes:
        for name in index:
            if name not in known and table.recompute is None:
                raise WrongDeclaration(f"{table.name}: there is no column {name!r} for an index")


def _check_shape(table: Table) -> None:
    if not table.key:
        raise WrongDeclaration(f"{table.name}: there is no event")
    for event, key in table.key.items():
        if event not in TOPICS:
            raise WrongDeclaration(f"{table.name}: {event!r} is no event")
        if isinstance(key, str):
            raise WrongDeclaration(
                f"{table.name}: the key of {event.__name__} is a text; write ({key!r},)"
            )
    names = {tuple(key) for event in table.key for key in table.keys_of(event)}
    if len(names) != 1:
        raise WrongDeclaration(
            f"{table.name}: every event needs the same key columns, got {sorted(names)}"
        )
    _check_names(table)
    taken = {"organisation_id", LAST_POSITION, LAST_EFFECTIVE, EVENT}
    for name in (*table.keys[1:], *table.columns, *table.computed):
        if name in taken or name.endswith(("@", "__seen")):
            raise WrongDeclaration(f"{table.name}: a column cannot be called {name!r}")
        taken.add(name)
    mentioned = [
        (f".{n}", event) for n, fold in table.columns.items() for event in fold.contributions
    ]
    mentioned += [("", event) for event in (*table.explode, *table.closes, *table.effective)]
    for column, event in mentioned:
        if event not in table.key:
            named = getattr(event, "__name__", repr(event))
            raise WrongDeclaration(f"{table.name}{column}: {named} has no key")
    for column, fold in table.columns.items():
        for event, given in (*fold.contributions.items(), *(fold.map_keys or {}).items()):
            keys = len(table.keys_of(event))
            if len(given) not in (1, keys):
                raise WrongDeclaration(
                    f"{table.name}.{column}: {event.__name__} has {keys} keys and "
                    f"{len(given)} contributions"
                )
        each = fold.merge is Merge.EACH
        if each and table.recompute is None and not table.every_event:
            raise WrongDeclaration(f"{table.name}.{column}: `each` merges nothing: use a fold")
        if not each and table.recompute is not None:
            raise WrongDeclaration(f"{table.name}.{column}: `recompute` takes `each` columns only")
    for event, name in table.explode.items():
        if not isinstance(fields_of(event).get(name), pl.List):
            raise WrongDeclaration(f"{table.name}: {event.__name__} has no list field {name!r}")
    if sum(map(bool, (table.every_event, table.closes, table.recompute is not None))) > 1:
        raise WrongDeclaration(
            f"{table.name}: `every_event`, `closes` and `recompute` do not go together"
        )
    if table.recompute is not None:
        try:
            _source(table.recompute)
        except TypeError as error:
            raise WrongDeclaration(f"{table.name}: recompute: {error}") from error
    if table.effective and (table.closes or table.every_event):
        raise WrongDeclaration(
            f"{table.name}: `effective` does not go together with `closes` or `every_event`"
        )


# Every process that folds begins with these checks: what many expressions can be asked at once is.


def _tells_rows_apart(asked: Sequence[pl.Expr], schema: Mapping[str, DataType]) -> bool:
    """Whether nothing that an event says spans rows, as far as that can be told at once."""
    said = [
        one for one in asked if not (is_column(one) or one.meta.is_literal() or stays_in_row(one))
    ]
    try:
        return not said or not any_spans_rows(said, schema)
    except (PolarsError, KeyError):  # which one, and why, is told one by one
        return False


def _types_at_once(asked: Sequence[pl.Expr], schema: Mapping[str, DataType]) -> dict[int, DataType]:
    """The type of each expression that is no column, by its number; empty where one is wrong."""
    said = {str(number): one for number, one in enumerate(asked) if not is_column(one)}
    names = {name for one in said.values() for name in one.meta.root_names()}
    try:
        empty = pl.DataFrame(schema={name: schema[name] for name in names})
        found = empty.select(one.alias(number) for number, one in said.items()).schema
    except (PolarsError, KeyError):  # which one, and why, is told one by one
        return {}
    return {int(number): dtype for number, dtype in found.items()}


def _evaluated(
    table: Table,
    event: type[Event],
    column: str,
    one: pl.Expr,
    schema: Mapping[str, DataType],
    *,
    apart: bool = False,
    known: DataType | None = None,
) -> DataType:
    where = f"{table.name}.{column}: {event.__name__}"
    names = one.meta.root_names()
    for name in names:
        if name not in schema:
            raise WrongDeclaration(
                f"{where} has no field {name!r}; it has {', '.join(sorted(schema))} "
                f"(the text itself is lit({name!r}))"
            )
    try:
        plainly = is_column(one)
        if known is not None:
            dtype = known
        elif plainly:
            dtype = schema[names[0]]
        else:
            empty = pl.DataFrame(schema={name: schema[name] for name in names})
            dtype = empty.select(one.alias("x")).schema["x"]
    except (ColumnNotFoundError, StructFieldNotFoundError) as error:
        raise WrongDeclaration(f"{where} has no field {str(error).splitlines()[0]!r}") from error
    except PolarsError as error:
        raise WrongDeclaration(f"{where}: {str(error).splitlines()[0]}") from error
    if not plainly and not apart and spans_rows(one, schema):
        raise WrongDeclaration(
            f"{where} says something about several events at once, as sum() or shift() do: "
            "an expression is of one event, folds put them together"
        )
    try:
        return plain(dtype)
    except TypeError as error:
        hint = "; use .dt.total_seconds()" if isinstance(dtype, pl.Duration) else ""
        raise WrongDeclaration(f"{where}: {error}{hint}") from error


def _check_moment(table: Table, event: type[Event], schema: Mapping[str, DataType]) -> None:
    counts_from = expression(table.effective[event])
    dtype = _evaluated(table, event, "effective", counts_from, schema)
    if not isinstance(dtype, pl.Datetime):
        raise WrongDeclaration(
            f"{table.name}.effective: {event.__name__} says {dtype} where a moment is needed"
        )


def _check_type(table: Table, event: type[Event], column: str, dtype: DataType) -> None:
    where = f"{table.name}.{column}: {event.__name__} says"
    if isinstance(dtype, pl.Null):
        return
    fold = table.columns.get(column)
    if fold is None and dtype.is_nested():
        raise WrongDeclaration(f"{where} {dtype}, which cannot be a key")
    if fold is not None and fold.merge is Merge.TOTAL and not dtype.is_numeric():
        raise WrongDeclaration(f"{where} {dtype} where {fold.merge} needs a number")
    if fold is not None and fold.merge in _COMPARED and dtype.is_nested():
        raise WrongDeclaration(f"{where} {dtype}, which {fold.merge} cannot compare")
