"""What a kind of decision declares: its tables, features, constraints and words.

A kind is read in one screen; the engine that runs it (``ml.deciding``) knows no business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from domain.decisions import DecisionRequested, RecordOutcome
from eventstore import StoredEvent
from projections.schema import whole
from projections.table import Table


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the log has it."""

    organisation_id: str
    position: int
    event: DecisionRequested


class History(Protocol):
    """Where a decision's tables come from: live rows and a batch, or the whole log."""

    async def parts(self, table: Table, keys: pl.DataFrame) -> pl.DataFrame:
        """Parts of the table, in log order, that hold at least the rows of some keys."""

    async def every(self, table: Table, organisation_id: str) -> pl.DataFrame:
        """Parts of all rows of one organisation."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A table that features are taken from. Its columns are called ``alias__column``."""

    alias: str
    table: Table


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One number that the model sees.

    ``raises`` and ``lowers`` say in words what it means where it pushes the risk up or down;
    they may name ``{value}`` and the candidate's columns.
    """

    name: str
    value: pl.Expr
    raises: str
    lowers: str


@dataclass(frozen=True, slots=True, eq=False)
class Constraint:
    """A hard rule: a candidate for which ``broken`` is true is rejected with this code."""

    code: str
    broken: pl.Expr
    sentence: str


class Failed(Exception):
    """A request that cannot be decided; the answer says why."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(f"{code}: {detail}")


#: An event that shows how a decision turned out, and the command that records it.
Outcome = tuple[StoredEvent, RecordOutcome]


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A kind of decision.

    Attributes:
        name: as in ``DecisionRequested.kind``.
        tables: all that the consumer keeps for it.
        sources: tables in the order in which they are joined to a candidate.
        features: what the model sees, in the order of its schema.
        constraints: hard rules.
        enumerate: makes the candidates of requests: a frame with ``request`` (index),
            ``organisation_id``, ``position``, the option's columns and what they need.
        option: the columns that name an option.
        cost_minor, carbon_g: what an option costs.
        summary: one sentence about the chosen candidate's columns.
        outcomes: finds in some events how decided cases turned out.
    """

    name: str
    sources: Sequence[Source]
    tables: Sequence[Table]
    features: Sequence[Feature]
    constraints: Sequence[Constraint]
    enumerate: Callable[[Sequence[Request], History], Awaitable[pl.DataFrame]]
    option: Sequence[str]
    cost_minor: pl.Expr
    carbon_g: pl.Expr
    summary: Callable[[Mapping[str, Any]], str]
    outcomes: Callable[[Sequence[StoredEvent], History], Awaitable[list[Outcome]]]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The model's input columns, in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def schema_hash(self) -> str:
        """SHA-256 over features and the tables they are taken from: a model fits one schema."""
        parts = [self.name]
        parts += [f"{feature.name}={whole(feature.value)}" for feature in self.features]
        parts += [f"{source.alias}:{source.table.fingerprint}" for source in self.sources]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
