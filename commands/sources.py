"""CSV files as typed tables: what is wrong is reported by line and cell, and the rest goes on.

Every cell is read as text first, so that no cell can fail a file.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from commands.cells import Cell, checked_cell
from commands.mapping import Mapping, SourceFile

_GZIP = b"\x1f\x8b"
_OTHER_DELIMITERS = (",", ";", "\t", "|")


class SourceError(Exception):
    """A whole file cannot be used. ``rule`` is a stable word for why."""

    def __init__(self, file: str, rule: str, detail: str) -> None:
        self.file, self.rule, self.detail = file, rule, detail
        super().__init__(f"{file}: {rule}: {detail}")


@dataclass(frozen=True, slots=True)
class Reject:
    """Something that did not go in: where it stands and which rule it breaks."""

    file: str
    line: int
    column: str
    value: str
    rule: str
    reason: str
    command: str = ""


class _Rows(Protocol):
    """What csv.reader gives: rows, and the line that it has come to."""

    @property
    def line_num(self) -> int: ...
    def __iter__(self) -> Iterator[list[str]]: ...


OnReject = Callable[[Reject], None]


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file.

    ``frame``: the mapped columns, typed, with ``line`` (1-based, the header is line 1), ``source``
    (``file:line``) and ``ok``. ``rows``: how many were read.
    """

    file: str
    frame: pl.DataFrame
    rows: int

    @property
    def accepted(self) -> pl.DataFrame:
        """The rows that nothing is wrong with."""
        return self.frame.filter("ok").drop("ok", "line")


def read_table(directory: Path, source: SourceFile, mapping: Mapping, report: OnReject) -> Table:
    """Read and check one file; each broken cell and each row of wrong length is reported.

    Raises:
        SourceError: missing file, empty file, missing columns, wrong delimiter, not CSV at all.
    """
    path = _find(directory, source.file)
    raw = _read_rows(path, source)
    cells = {name: checked_cell(name, column, mapping) for name, column in source.columns.items()}
    faults = raw.select("line", "fields", *(cell.fault.alias(name) for name, cell in cells.items()))
    _report(path.name, raw, faults, cells, report)
    sound = faults.select(pl.all_horizontal(pl.exclude("line").is_null())).to_series()
    typed = raw.select(
        *(cell.value.alias(name) for name, cell in cells.items()),
        "line",
        pl.format("{}:{}", pl.lit(path.name), "line").alias("source"),
        sound.alias("ok"),
    )
    return Table(path.name, _unique(typed, path.name, source.key, report), raw.height)


def _report(
    file: str,
    raw: pl.DataFrame,
    faults: pl.DataFrame,
    cells: dict[str, Cell],
    report: OnReject,
) -> None:
    """One line for each broken cell; where the row's length is wrong, one for the row."""
    for line, reason in faults.select("line", "fields").drop_nulls().iter_rows():
        report(Reject(file, line, "", "", "fields", reason))
    whole = faults["fields"].is_null()
    for name, cell in cells.items():
        found = raw.select("line", value=name).with_columns(faults[name].alias("rule"))
        for line, value, rule in found.filter(whole & faults[name].is_not_null()).iter_rows():
            report(Reject(file, line, name, value or "", rule, cell.reasons[rule]))


def _unique(frame: pl.DataFrame, file: str, key: Sequence[str], report: OnReject) -> pl.DataFrame:
    """The first row with a key stands; later ones with the same key are rejected."""
    if not key:
        return frame
    whole = pl.all_horizontal(pl.col(name).is_not_null() for name in key)
    frame = frame.with_columns(first=pl.col("line").min().over(*key))
    again = whole & (pl.col("line") != pl.col("first"))
    value = pl.concat_str([pl.col(name).cast(pl.String) for name in key], separator=" ")
    for line, first, found in frame.filter(again).select("line", "first", value).iter_rows():
        reason = f"line {first} has the same key"
        report(Reject(file, line, " ".join(key), found, "duplicate", reason))
    return frame.with_columns(ok=pl.col("ok") & ~again).drop("first")


def _find(directory: Path, name: str) -> Path:
    for path in (directory / name, directory / f"{name}.gz"):
        if path.is_file():
            return path
    raise SourceError(name, "missing_file", f"neither it nor {name}.gz is in {directory}")


def _read_rows(path: Path, source: SourceFile) -> pl.DataFrame:
    """The mapped columns as text, with ``line`` and, where a row's length is wrong, ``fields``."""
    text = _text(path, source.encoding)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=source.delimiter)
    lines: list[int] = []
    try:
        header = [name.strip() for name in next(rows, [])]
        places = _places(path.name, header, source)
        cells: list[list[str]] = [[] for _ in places]
        faults: list[str | None] = []
        for start, row in _numbered(rows):
            fault = None
            if len(row) != len(header):
                fault = f"{len(header)} fields expected, {len(row)} found"
                if rows.line_num > start:
                    fault += f" (the row runs to line {rows.line_num}: a quote left open?)"
                row = (row + [""] * len(header))[: len(header)]
            lines.append(start)
            faults.append(fault)
            for column, place in zip(cells, places, strict=True):
                column.append("" if place is None else row[place])
    except csv.Error as error:
        detail = f"line {1 + (lines[-1] if lines else 0)} or later: {error}; a quote left open?"
        raise SourceError(path.name, "not_csv", detail) from error
    data = dict(zip(source.columns, cells, strict=True))
    text_columns = pl.DataFrame(data, schema=dict.fromkeys(data, pl.String)).with_columns(
        pl.col(pl.String).str.strip_chars().replace("", None)
    )
    return text_columns.with_columns(
        pl.Series("line", lines, pl.Int64), pl.Series("fields", faults, pl.String)
    )


def _numbered(rows: _Rows) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the line it begins in."""
    start = rows.line_num + 1
    for row in rows:
        if row:
            yield start, row
        start = rows.line_num + 1


def _text(path: Path, encoding: str) -> str:
    """The file's text, unpacked; undecodable bytes become U+FFFD and fail their cell only."""
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(path.name, "unreadable", str(error)) from error
    try:
        text = content.decode(encoding, errors="replace")
        expected = codecs.lookup(encoding).name
    except LookupError as error:
        raise SourceError(path.name, "encoding", str(error)) from error
    # By the first bytes: a mark, or zeros among them. It guesses for JSON; of texts it is the same.
    looks_like = json.detect_encoding(content)
    if expected.startswith("utf-8") and not looks_like.startswith("utf-8"):
        raise SourceError(
            path.name, "encoding", f"it looks like {looks_like.upper()}, UTF-8 is expected"
        )
    return text.removeprefix("\ufeff")


def _places(file: str, header: Sequence[str], source: SourceFile) -> list[int | None]:
    """Where each mapped column stands in the header; None: nowhere, and it need not."""
    if not any(header):
        raise SourceError(file, "empty", "there is no header line")
    missing = [
        name for name, column in source.columns.items() if name not in header and not column.absent
    ]
    if missing:
        used = _delimiter_used(header, source)
        if used is not None:
            raise SourceError(
                file, "delimiter", f"{source.delimiter!r} is expected, {used!r} is used"
            )
        raise SourceError(
            file, "missing_columns", f"{', '.join(missing)}; there are {', '.join(header)[:300]}"
        )
    twice = [name for name in source.columns if header.count(name) > 1]
    if twice:
        raise SourceError(file, "duplicate_columns", ", ".join(twice))
    return [header.index(name) if name in header else None for name in source.columns]


def _delimiter_used(header: Sequence[str], source: SourceFile) -> str | None:
    line = source.delimiter.join(header)
    for other in _OTHER_DELIMITERS:
        names = {name.strip(' "') for name in line.split(other)}
        needed = {name for name, column in source.columns.items() if not column.absent}
        if other != source.delimiter and needed <= names:
            return other
    return None
