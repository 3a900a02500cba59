"""A decision in words: reasons, rejections and what the runner-up lacked."""

from __future__ import annotations

import math
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from string import Formatter
from typing import Any

import polars as pl

from domain.decisions import Reason
from domain.values import money
from ml.kind import Feature, Kind
from ml.rules import RULES

#: How many reasons are told, strongest first.
REASONS = 5

Row = Mapping[str, Any]


class Rows:
    """Rows of a frame as mappings. Only columns that somebody asks for are made into Python."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame
        self._columns: dict[str, list[Any]] = {}

    def column(self, name: str) -> list[Any]:
        """All values of a column.

        Raises:
            KeyError: there is none of that name.
        """
        if name not in self._columns:
            if name not in self._frame.columns:
                raise KeyError(name)
            self._columns[name] = self._frame[name].to_list()
        return self._columns[name]

    def row(self, number: int, **more: Any) -> Row:
        """One row, and what else is known of it."""
        return ChainMap(more, _OneOf(self, number))  # type: ignore[arg-type]

    @property
    def names(self) -> list[str]:
        """The columns."""
        return self._frame.columns


class _OneOf(Mapping[str, Any]):
    """A row that looks its values up."""

    __slots__ = ("_number", "_rows")

    def __init__(self, rows: Rows, number: int) -> None:
        self._rows, self._number = rows, number

    def __getitem__(self, name: str) -> Any:
        return self._rows.column(name)[self._number]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows.names)

    def __len__(self) -> int:
        return len(self._rows.names)


def reasons(
    kind: Kind,
    row: Row,
    values: Sequence[float],
    contributions: Sequence[float],
    no_model: str = "",
) -> tuple[Reason, ...]:
    """The strongest pushes on the score, each as a sentence.

    ``no_model``: why a rule scored it; then that comes first, and what the rule does not look at is
    left out.
    """
    count = len(kind.features)
    ranked = sorted(range(count), key=lambda number: (-abs(contributions[number]), number))
    if no_model:
        ranked = [number for number in ranked if contributions[number] != 0]
    pushes = (
        reason(kind.features[number], row, values[number], contributions[number])
        for number in ranked[:REASONS]
    )
    return (*rule_based(kind, no_model), *pushes)


def rule_based(kind: Kind, no_model: str) -> tuple[Reason, ...]:
    """That a rule decided, why, and what it says; nothing where a model did."""
    if not no_model:
        return ()
    sentence = f"Rule-based, {no_model}: {RULES[kind.name].says}"
    return (Reason(code="method.rule_based", sentence=sentence),)


def by_rule(summary: str, no_model: str) -> str:
    """A summary that says so where no model is behind it."""
    return f"{summary} (rule-based)" if no_model else summary


def reason(feature: Feature, row: Row, value: float, push: float) -> Reason:
    """What a feature's value does to the score, as a sentence."""
    known = not math.isnan(value)
    direction = "raises" if push > 0 else "lowers"
    sentence = told(feature, row, value, push)
    return Reason(
        code=f"{feature.name}.{direction}",
        sentence=f"{_upper(sentence)}: {direction} the risk",
        feature=feature.name,
        value=value if known else None,
        contribution=push,
    )


def told(feature: Feature, row: Row, value: float, push: float) -> str:
    """A feature's value in words."""
    if math.isnan(value):
        return f"{feature.name.replace('_', ' ')} is not known yet"
    template = feature.raises if push > 0 else feature.lowers
    return template.format_map(ChainMap({"value": value}, row))  # type: ignore[arg-type]


def rejections(
    kind: Kind, rows: Rows, first: int, rejected: Sequence[tuple[str, ...]]
) -> tuple[Reason, ...]:
    """Each broken constraint of each candidate, told once. ``rejected``: of the rows from
    ``first`` on."""
    found: dict[str, str] = {}
    for constraint in kind.constraints:
        columns = [rows.column(name) for name in _fields(constraint.sentence)]
        seen = set()
        for number, codes in enumerate(rejected, first):
            if constraint.code not in codes:
                continue
            # Formatting costs more than looking whether it would give the same sentence again.
            values = tuple(column[number] for column in columns)
            if values not in seen:
                seen.add(values)
                found[constraint.sentence.format_map(rows.row(number))] = constraint.code
    return tuple(Reason(code=code, sentence=_upper(text)) for text, code in found.items())


def broken_in_words(
    kind: Kind | None,
    option: Mapping[str, str],
    codes: Sequence[str],
    told: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What a candidate breaks, each in the words that were told of it; the rule's code where it is
    not sure which words those are.

    Args:
        option: the candidate's.
        codes: of the constraints that it breaks.
        told: the decision's rejections, of all candidates.
    """
    templates = {one.code: one.sentence for one in kind.constraints} if kind is not None else {}
    found = []
    for code in codes:
        pattern = _pattern(templates[code], option) if code in templates else None
        fitting = {
            str(one["sentence"])
            for one in told
            if one["code"] == code and pattern and re.fullmatch(pattern, one["sentence"])
        }
        found.append(fitting.pop() if len(fitting) == 1 else code)
    return found


def _pattern(template: str, option: Mapping[str, str]) -> str:
    """Of the sentences that a template may have become for an option."""
    parts = []
    for text, name, _, _ in Formatter().parse(template):
        parts.append(re.escape(text))
        if name:
            parts.append(re.escape(option[name]) if name in option else ".+?")
    pattern = "".join(parts)
    return f"(?i:{pattern})" if template.startswith("{") else f"(?i:{pattern[0]}){pattern[1:]}"


@cache
def _fields(template: str) -> tuple[str, ...]:
    return tuple(name for _, name, _, _ in Formatter().parse(template) if name)


def runner_up(kind: Kind, chosen: Row, other: Row) -> str:
    """What the next best candidate lacked."""
    name = ", ".join(str(other[column]) for column in kind.option if other[column])
    if other["rejected"]:
        broken = [c for c in kind.constraints if c.code in other["rejected"]]
        why = "; ".join(constraint.sentence.format_map(other) for constraint in broken)
        return f"{name} was next, but was ruled out: {why}"
    currency = chosen["currency"]
    cost = other["cost_minor"] - chosen["cost_minor"]
    # As the shares are shown, so that a reader's own subtraction agrees.
    risk = round(other["risk"] * 100, 1) - round(chosen["risk"] * 100, 1)
    carbon = (other["carbon_g"] - chosen["carbon_g"]) / 1000
    parts = [
        f"{money(abs(cost), currency)} {'dearer' if cost > 0 else 'cheaper'}" if cost else "",
        f"{abs(risk):.1f} points {'more' if risk > 0 else 'less'} likely to {kind.warning}"
        if abs(risk) > 0.05
        else f"as likely to {kind.warning}",
        f"{abs(carbon):.1f} kg {'more' if carbon > 0 else 'less'} carbon" if carbon else "",
    ]
    worse = other["objective"] - chosen["objective"]
    said = ", ".join(part for part in parts if part)
    return f"{name} was next: {said}; {money(worse, currency)} worse in all"


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
