"""Events as lines that a person reads, from the templates that stand beside the events."""

from __future__ import annotations

import re

import polars as pl

from domain.catalogue import SENTENCES
from domain.values import Event

_FIELD = re.compile(r"\{(\w+)\}")


def sentence(event: type[Event]) -> pl.Expr:
    """The event's sentence as an expression over its fields; what is not known reads «-»."""
    template = SENTENCES[event]
    fields = [pl.col(name).cast(pl.String).fill_null("-") for name in _FIELD.findall(template)]
    return pl.format(_FIELD.sub("{}", template), *fields)
