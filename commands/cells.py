"""What a cell must be, for each kind of column: its value, or the rule that it breaks."""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass

import polars as pl

from commands.mapping import Column, Mapping
from domain.values import ID_PATTERN

_ISO = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d",
)
_NUMBER = r"^[+-]?[0-9]{1,15}(\.[0-9]+)?$"
_WHOLE = r"^[+-]?[0-9]{1,15}(\.0+)?$"
_UTC = pl.Datetime("us", "UTC")

Rules = dict[str, tuple[pl.Expr, str]]


@dataclass(frozen=True, slots=True)
class Cell:
    """Expressions over a column of text: its typed value, and the first rule that a cell breaks.

    ``reasons``: each rule in words.
    """

    value: pl.Expr
    fault: pl.Expr
    reasons: MappingOf[str, str]


def checked_cell(name: str, column: Column, mapping: Mapping) -> Cell:
    """How to read and check the cells of a column."""
    text = pl.col(name)
    value, rules = _of_kind(text, column, mapping)
    rules = {
        "encoding": (text.str.contains("\ufffd", literal=True), "holds bytes that are not text"),
        **rules,
    }
    if not column.optional:
        rules = {"missing": (text.is_null(), "must not be empty"), **rules}
    fault = pl.lit(None, pl.String)
    for rule, (broken, _) in reversed(rules.items()):
        fault = pl.when(broken).then(pl.lit(rule)).otherwise(fault)
    return Cell(
        value=pl.when(fault.is_null()).then(value),
        fault=fault,
        reasons={rule: reason for rule, (_, reason) in rules.items()},
    )


def _of_kind(text: pl.Expr, column: Column, mapping: Mapping) -> tuple[pl.Expr, Rules]:
    match column.kind:
        case "id":
            reason = "must be letters, digits, dot, dash or underscore, 64 at most"
            return text, {"id": (~text.str.contains(ID_PATTERN), reason)}
        case "text":
            if not column.one_of:
                return text, {}
            reason = f"must be one of {', '.join(column.one_of)}"
            return text, {"one_of": (~text.is_in(column.one_of), reason)}
        case "time":
            return _time(text, mapping)
        case "money":
            return _money(text, mapping)
        case "number":
            plain = _plain(text, mapping)
            return plain, {"number": (~plain.str.contains(_NUMBER), "must be a number")}
    plain = _plain(text, mapping)
    whole = plain.str.extract(r"^([+-]?[0-9]+)").cast(pl.Int64, strict=False)
    return whole, {"integer": (~plain.str.contains(_WHOLE), "must be a whole number")}


def _plain(text: pl.Expr, mapping: Mapping) -> pl.Expr:
    return text.str.replace(",", ".", literal=True) if mapping.decimal_mark == "," else text


def _money(text: pl.Expr, mapping: Mapping) -> tuple[pl.Expr, Rules]:
    """Minor units by digits alone: no float ever holds an amount."""
    digits = mapping.minor_digits
    plain = _plain(text, mapping)
    whole = plain.str.extract(r"^\+?([0-9]+)")
    cents = plain.str.extract(r"\.([0-9]+)").fill_null("").str.pad_end(digits, "0").str.head(digits)
    minor = pl.concat_str([whole, cents]).cast(pl.Int64, strict=False)
    return minor, {
        "number": (~plain.str.contains(_NUMBER), "must be an amount of money"),
        "negative": (plain.str.starts_with("-"), "must not be negative"),
        "precision": (
            plain.str.contains(rf"\.[0-9]{{{digits}}}[0-9]*[1-9]"),
            f"has more than {digits} decimal places",
        ),
    }


def _time(text: pl.Expr, mapping: Mapping) -> tuple[pl.Expr, Rules]:
    formats = mapping.time_formats or _ISO
    parsed = [
        _zoned(text.str.to_datetime(form, time_unit="us", strict=False), form, mapping.time_zone)
        for form in formats
    ]
    moment = pl.coalesce(parsed)
    shown = "ISO 8601" if formats is _ISO else " or ".join(formats)
    return moment, {"time": (text.is_not_null() & moment.is_null(), f"must be a time ({shown})")}


def _zoned(moment: pl.Expr, form: str, zone: str) -> pl.Expr:
    if re.search("%[#:]*z", form):
        return moment.cast(_UTC)
    # An hour that the clocks skipped is counted on from before the change, as Python's zoneinfo
    # does; an hour that came twice is its first.
    here = moment.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    before = moment.dt.offset_by("-3h").dt.replace_time_zone(
        zone, ambiguous="earliest", non_existent="null"
    )
    return pl.coalesce(
        here.dt.convert_time_zone("UTC"),
        before.dt.convert_time_zone("UTC").dt.offset_by("3h"),
    )
