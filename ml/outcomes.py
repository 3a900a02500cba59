"""The decisions about a subject whose outcome is not known yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from ml.history import join
from ml.kind import History
from ml.tables import DECIDED


@dataclass(frozen=True, slots=True)
class Open:
    """A made decision that waits for its outcome: its option, and the position it is as of."""

    decision_id: str
    as_of: int
    option: Mapping[str, str]


async def opened(frame: pl.DataFrame, history: History) -> pl.DataFrame:
    """The frame (``kind``, ``subject_id``, ``position``) with ``open``: the decisions about each
    subject that were made by then and not closed, of the last hundred."""
    decided = await join(frame, "decided", DECIDED, history)
    found = [
        [one for one in map(_decision, made or ()) if one.decision_id not in set(closed or ())]
        for made, closed in decided.select("decided__made", "decided__closed").iter_rows()
    ]
    return frame.with_columns(pl.Series("open", found, dtype=pl.Object))


def _decision(told: str) -> Open:
    decision_id, as_of, option = told.split("\n", 2)
    return Open(decision_id, int(as_of), json.loads(option))
