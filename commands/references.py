"""Rows that point to rows: what points to nothing is rejected, and a whole with a broken part."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import replace

import polars as pl

from commands.mapping import Mapping
from commands.sources import OnReject, Reject, Table


def consistent(
    tables: MappingOf[str, Table], mapping: Mapping, report: OnReject
) -> dict[str, Table]:
    """The tables with every row marked that cannot stand for what other rows are.

    A row is rejected where a reference of it finds no row, or only a rejected one; a whole is
    rejected where a part of it was (an order with a missing line would be untrue). Each rejection
    may cause others, so this goes on until nothing changes.
    """
    result = dict(tables)
    while True:
        before = _rejected(result)
        for name, source in mapping.files.items():
            for column, target in source.pointers.items():
                key = mapping.files[target].key[0]
                result[name] = _pointing(result[name], column, result[target], key, report)
            for column, target in source.part_of.items():
                key = mapping.files[target].key[0]
                result[target] = _whole(result[target], key, result[name], column, report)
        if _rejected(result) == before:
            return result


def _rejected(tables: MappingOf[str, Table]) -> int:
    return sum(table.rows - int(table.frame["ok"].sum()) for table in tables.values())


def _pointing(table: Table, column: str, target: Table, key: str, report: OnReject) -> Table:
    known = (
        target.frame.filter(pl.col(key).is_not_null())
        .group_by(key)
        .agg(target_ok=pl.col("ok").any(), target_line=pl.col("line").first())
    )
    frame = table.frame.join(
        known, left_on=column, right_on=key, how="left", maintain_order="left"
    ).with_columns(
        lost=pl.col("ok") & pl.col(column).is_not_null() & ~pl.col("target_ok").fill_null(False)
    )
    found = frame.filter("lost").select("line", column, "target_line")
    for line, value, target_line in found.iter_rows():
        if target_line is None:
            rule, reason = "unknown_reference", f"{target.file} has no such {key}"
        else:
            rule, reason = "broken_reference", f"{target.file} line {target_line} was rejected"
        report(Reject(table.file, line, column, str(value), rule, reason))
    ok = frame.select(pl.col("ok") & ~pl.col("lost")).to_series()
    return replace(table, frame=table.frame.with_columns(ok=ok))


def _whole(table: Table, key: str, parts: Table, column: str, report: OnReject) -> Table:
    broken = (
        parts.frame.filter(~pl.col("ok") & pl.col(column).is_not_null())
        .group_by(column)
        .agg(part_line=pl.col("line").min())
    )
    frame = table.frame.join(
        broken, left_on=key, right_on=column, how="left", maintain_order="left"
    )
    torn = pl.col("ok") & pl.col("part_line").is_not_null()
    for line, value, part_line in frame.filter(torn).select("line", key, "part_line").iter_rows():
        reason = f"its part in {parts.file} line {part_line} was rejected"
        report(Reject(table.file, line, key, str(value), "broken_part", reason))
    ok = frame.select(pl.col("ok") & pl.col("part_line").is_null()).to_series()
    return replace(table, frame=table.frame.with_columns(ok=ok))
