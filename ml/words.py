"""A decision in words: reasons, rejections and what the runner-up lacked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from domain.decisions import Reason
from ml.kind import Kind
from ml.scoring import Vector

#: How many reasons are told, strongest first.
REASONS = 5

Row = Mapping[str, Any]


def reasons(kind: Kind, row: Row, values: Vector, contributions: Vector) -> tuple[Reason, ...]:
    """The strongest pushes on the score, each as a sentence."""
    ranked = sorted(
        range(len(kind.features)), key=lambda number: (-abs(contributions[number]), number)
    )
    found = []
    for number in ranked[:REASONS]:
        feature, push = kind.features[number], float(contributions[number])
        value = float(values[number])
        if math.isnan(value):
            sentence = f"{feature.name.replace('_', ' ')} is not known yet"
        else:
            template = feature.raises if push > 0 else feature.lowers
            sentence = template.format(value=value, **row)
        direction = "raises" if push > 0 else "lowers"
        found.append(
            Reason(
                code=f"{feature.name}.{direction}",
                sentence=f"{sentence[0].upper()}{sentence[1:]}: {direction} the risk",
                feature=feature.name,
                value=None if math.isnan(value) else value,
                contribution=push,
            )
        )
    return tuple(found)


def rejections(kind: Kind, rows: Sequence[Row]) -> tuple[Reason, ...]:
    """Each broken constraint of each candidate, told once."""
    told = {
        constraint.sentence.format(**row): constraint.code
        for row in rows
        for constraint in kind.constraints
        if constraint.code in row["rejected"]
    }
    return tuple(Reason(code=code, sentence=_upper(text)) for text, code in told.items())


def runner_up(kind: Kind, chosen: Row, other: Row) -> str:
    """What the next best candidate lacked."""
    name = " by ".join(str(other[column]) for column in kind.option)
    if other["rejected"]:
        broken = [c for c in kind.constraints if c.code in other["rejected"]]
        why = "; ".join(constraint.sentence.format(**other) for constraint in broken)
        return f"{name} was next, but was ruled out: {why}"
    cost = (other["cost_minor"] - chosen["cost_minor"]) / 100
    # As the shares are shown, so that a reader's own subtraction agrees.
    risk = round(other["probability"] * 100, 1) - round(chosen["probability"] * 100, 1)
    carbon = (other["carbon_g"] - chosen["carbon_g"]) / 1000
    parts = [
        f"{abs(cost):.2f} {'dearer' if cost > 0 else 'cheaper'}" if cost else "",
        f"{abs(risk):.1f} points {'more' if risk > 0 else 'less'} likely to be late"
        if abs(risk) > 0.05
        else "as likely to be late",
        f"{abs(carbon):.1f} kg {'more' if carbon > 0 else 'less'} carbon" if carbon else "",
    ]
    worse = other["objective"] - chosen["objective"]
    told = ", ".join(part for part in parts if part)
    return f"{name} was next: {told}; {worse / 100:.2f} worse in all"


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
