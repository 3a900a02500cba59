"""What an import sends: the rows of every step's select, in the order of business time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from commands.catalogue import COMMANDS
from commands.mapping import Mapping, MappingError, Step
from commands.sources import OnReject, Reject, Table
from domain.values import Command

_SOURCES = "{}.source"


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step with its rows: the fields of each command, and what the importer knows of it."""

    label: str
    command: str
    model: type[Command]
    rows: Sequence[dict[str, Any]]
    keys: Sequence[str]
    cases: Sequence[str | None]
    sources: Sequence[str]
    part_sources: MappingOf[str, Sequence[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Draft:
    """One command before it is validated."""

    step: PlannedStep
    row: int

    @property
    def fields(self) -> dict[str, Any]:
        """The command's fields, as the select gave them."""
        return self.step.rows[self.row]

    @property
    def key(self) -> str:
        """The command's key, once in the mapping."""
        return f"{self.step.label}:{self.step.keys[self.row]}"

    @property
    def case(self) -> str:
        """What the command is about; empty where the step has no cases."""
        return self.step.cases[self.row] or ""

    @property
    def source(self) -> str:
        """``file:line`` of the row it comes from."""
        return self.step.sources[self.row]

    def origin(self, place: Sequence[str | int]) -> str:
        """``file:line`` of the row that a field comes from, an element of a list included."""
        match place:
            case (str(name), int(index), *_) if name in self.step.part_sources:
                return self.step.part_sources[name][self.row][index]
        return self.source


@dataclass(frozen=True, slots=True)
class Plan:
    """All commands of an import, in order."""

    steps: Sequence[PlannedStep]
    order: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Draft]:
        return (Draft(self.steps[step], row) for step, row in self.order)


def plan_of(mapping: Mapping, tables: MappingOf[str, Table], report: OnReject) -> Plan:
    """Run the selects over what was accepted and put their rows in order.

    Raises:
        MappingError: a select does not run, or its columns do not fit its command.
    """
    sql = pl.SQLContext({name: table.accepted for name, table in tables.items()}, eager=True)
    for name, select in mapping.views.items():
        sql.register(name, _run(sql, select, mapping, f"views.{name}"))
    frames = [_rows_of(sql, step, mapping, report) for step in mapping.steps]
    steps = [
        _planned(step, frame, mapping) for step, frame in zip(mapping.steps, frames, strict=True)
    ]
    return Plan(steps, _in_order(mapping, frames))


def _in_order(mapping: Mapping, frames: Sequence[pl.DataFrame]) -> list[tuple[int, int]]:
    """(step, row) by time; within a case in the order of the steps, whatever the times say.

    A command's time is the latest one of its case so far: the log never tells a later step
    before an earlier one, nor any step before its own time.
    """
    parts = [
        frame.select(
            pl.lit(number).alias("step"),
            pl.int_range(pl.len()).alias("row"),
            _case(step).alias("case"),
            _at(step, frame, mapping).alias("at"),
            pl.col(step.key).cast(pl.String).alias("key"),
        )
        for number, (step, frame) in enumerate(zip(mapping.steps, frames, strict=True))
    ]
    steps = pl.concat(parts).sort("case", "step", "at", "key", nulls_last=True)
    latest = pl.col("at").cum_max().forward_fill().over("case")
    timed = steps.with_columns(at=pl.when(pl.col("case").is_null()).then("at").otherwise(latest))
    return timed.sort("at", "step", "key").select("step", "row").rows()


def _case(step: Step) -> pl.Expr:
    if step.case is None:
        return pl.lit(None, pl.String)
    return pl.concat_str(pl.lit(f"{step.case}="), pl.col(step.case).cast(pl.String))


def _at(step: Step, frame: pl.DataFrame, mapping: Mapping) -> pl.Expr:
    moment = pl.Datetime("us", "UTC")
    if step.at is None:
        return pl.lit(None, moment)
    if frame.schema[step.at] not in (moment, pl.Null):
        detail = f"at: {step.at!r} is {frame.schema[step.at]}, not a time"
        raise MappingError(mapping.name, step.label, detail)
    return pl.col(step.at).cast(moment)


def _rows_of(
    sql: pl.SQLContext[pl.DataFrame], step: Step, mapping: Mapping, report: OnReject
) -> pl.DataFrame:
    """The rows of a step with their lists, one for each key."""
    frame = _run(sql, step.select, mapping, step.label)
    needed = {step.key, "source"} | {name for name in (step.at, step.case) if name}
    absent = sorted(needed - set(frame.columns))
    if absent:
        raise MappingError(mapping.name, step.label, f"the select has no column {absent[0]!r}")
    for name, select in step.lists.items():
        parts = _parts(_run(sql, select, mapping, f"{step.label}.{name}"), name, step, mapping)
        frame = frame.join(parts, on=step.key, how="left").with_columns(
            pl.col(name, _SOURCES.format(name)).fill_null([])
        )
    return _once(frame, step, report)


def _parts(frame: pl.DataFrame, name: str, step: Step, mapping: Mapping) -> pl.DataFrame:
    if not {step.key, "source"} <= set(frame.columns):
        where = f"{step.label}.{name}"
        raise MappingError(mapping.name, where, f"the select needs {step.key!r} and 'source'")
    elements = [column for column in frame.columns if column not in (step.key, "source")]
    return (
        frame.with_columns(_plain(frame))
        .group_by(step.key, maintain_order=True)
        .agg(pl.struct(elements).alias(name), pl.col("source").alias(_SOURCES.format(name)))
    )


def _once(frame: pl.DataFrame, step: Step, report: OnReject) -> pl.DataFrame:
    """Rows with a key of their own; a second one would be taken for a repetition of the first."""
    usable = pl.col(step.key).is_not_null() & pl.col(step.key).is_first_distinct()
    for source, key in frame.filter(~usable).select("source", step.key).iter_rows():
        file, _, line = (source or ":0").rpartition(":")
        rule = "key_missing" if key is None else "key_twice"
        reason = "names no key" if key is None else "another row of this step has the same key"
        shown = "" if key is None else str(key)
        report(Reject(file, int(line), step.key, shown, rule, reason, step.command))
    return frame.filter(usable)


def _planned(step: Step, frame: pl.DataFrame, mapping: Mapping) -> PlannedStep:
    model = COMMANDS[step.command]
    lists = {name: _SOURCES.format(name) for name in step.lists}
    own = {step.key, step.at, step.case, "source", *lists.values()}
    sent = [
        name
        for name in frame.columns
        if name.partition(".")[0] in model.model_fields and name not in lists.values()
    ]
    unknown = [name for name in frame.columns if name not in (*sent, *own)]
    if unknown:
        raise MappingError(mapping.name, step.label, f"{step.command} has no field {unknown[0]!r}")
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    given = {name.partition(".")[0] for name in sent}
    missing = [name for name in required if name not in given]
    rows = frame.select(sent).with_columns(_plain(frame.select(sent))).to_dicts()
    if missing:
        raise MappingError(mapping.name, step.label, f"{step.command} needs {missing[0]!r}")
    return PlannedStep(
        label=step.label,
        command=step.command,
        model=model,
        rows=[_nested(row) for row in rows] if any("." in name for name in sent) else rows,
        keys=frame[step.key].cast(pl.String).to_list(),
        cases=frame.with_columns(_case(step).alias("case"))["case"].to_list(),
        sources=frame["source"].fill_null(":0").to_list(),
        part_sources={name: frame[column].to_list() for name, column in lists.items()},
    )


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose columns ``field.part`` are the parts of one field; None where all of them are."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        field, dot, part = name.partition(".")
        if not dot:
            found[name] = value
        elif value is not None:
            found[field] = (found.get(field) or {}) | {part: value}
        else:
            found.setdefault(field, None)
    return found


def _plain(frame: pl.DataFrame) -> list[pl.Expr]:
    """Times as ISO text: they become Python times without a zone database on the machine."""
    return [
        pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        for name, kind in frame.schema.items()
        if kind == pl.Datetime("us", "UTC")
    ]


def _run(
    sql: pl.SQLContext[pl.DataFrame], select: str, mapping: Mapping, where: str
) -> pl.DataFrame:
    try:
        return sql.execute(select)
    except PolarsError as error:
        raise MappingError(mapping.name, where, str(error)) from error
