"""What a kind of decision declares: its subject, tables, features, constraints, costs and words.

A kind is one file, read in one screen; the engine that runs it (``ml.deciding``) knows no business.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import polars as pl

from commands.decisions import Subject
from domain.decisions import DecisionRequested, RecordOutcome
from domain.values import Event
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

    async def as_of(self, asked: Sequence[tuple[Table, pl.DataFrame]]) -> list[pl.DataFrame]:
        """For each table and frame of its keys and ``position``: the table's columns and
        ``last_position`` as of each row's position, in the order of the rows."""

    async def every(self, table: Table, organisation_id: str) -> pl.DataFrame:
        """Parts of all rows of one organisation."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A table that features are taken from. Its columns are called ``alias__column``.

    ``keys``: the table's key columns that the frame has under another name, or has to compute.
    """

    alias: str
    table: Table
    keys: Mapping[str, pl.Expr] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Lever:
    """People can change a feature, within these bounds, in the feature's own unit.

    ``shared``: candidates that agree in these columns of their option change together (none: all
    candidates of the decision do).
    """

    low: float
    high: float
    shared: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One number that the model sees.

    ``raises`` and ``lowers`` say in words what it means where it pushes the risk up or down;
    they may name ``{value}`` and the candidate's columns. ``derived``: its value names other
    features, not columns, and follows them where they are changed. ``of_the_world``: it says how
    things stand when one asks, much the same for all who ask then, so that it is not watched for
    drift against a year's rows. ``monotone``: 1 where more of it can only raise the risk, -1 where
    it can only lower it; models are held to that.
    """

    name: str
    value: pl.Expr
    raises: str
    lowers: str
    derived: bool = False
    of_the_world: bool = False
    lever: Lever | None = None
    monotone: int = 0


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


class Past(Protocol):
    """A log as frames, for training: contributions to tables, and fields of some events."""

    @property
    def parts(self) -> Mapping[Table, pl.DataFrame]:
        """Contributions to each feature table."""

    @property
    def frames(self) -> Mapping[type[Event], pl.DataFrame]:
        """The fields that ``Examples.fields`` asks for; no entry where there was no such event."""


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What a kind learns from.

    Attributes:
        fields: the event fields that ``rows`` needs.
        rows: finished cases, sorted by position: the option's columns and what the sources need,
            ``position`` (features are as of it), ``known`` (position of the outcome), ``at`` (time
            of the case) and ``occurred``.
        query: the same in words, for the model card.
        baseline: the feature that a model must beat: a share from 0 to 1; None: the overall share.
        contrast: where no outcome was ever recorded: made-up cases to tell the real ones from, put
            beside them after their features are joined; all real ones have ``occurred`` false.
        segments: columns by whose values metrics are told apart.
    """

    fields: Mapping[type[Event], set[str]]
    rows: Callable[[Past], pl.DataFrame]
    query: str
    baseline: str | None = None
    contrast: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    segments: Sequence[str] = ()


async def no_outcomes(_: Sequence[StoredEvent], __: History) -> list[Outcome]:
    """For kinds whose outcomes people record."""
    return []


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of decision.

    Attributes:
        name: as in ``DecisionRequested.kind``.
        subject: what it is about, and which weights it has where a request names none.
        warning: what the model warns of, as in "12 % likely to be late".
        tables: all that the consumer keeps for it.
        sources: tables in the order in which they are joined to a candidate.
        features: what the model sees, in the order of its schema.
        constraints: hard rules.
        enumerate: makes the candidates of requests: a frame with ``request`` (index),
            ``organisation_id``, ``position``, the option's columns and what they need.
        nothing: why there may be no candidate at all, in words.
        option: the columns that name an option.
        cost_minor, carbon_g: what an option costs.
        value_minor: what is at stake, for the four-eyes rule; null: not known.
        currency: the ISO code of all amounts; null: not known.
        exposure: which share of the model's risk an option bears (usually 1).
        summary: one sentence about the chosen candidate's columns.
        examples: what its models learn from.
        outcomes: finds in some events how decided cases turned out.
    """

    name: str
    subject: Subject
    warning: str
    tables: Sequence[Table]
    sources: Sequence[Source]
    features: Sequence[Feature]
    constraints: Sequence[Constraint]
    enumerate: Callable[[Sequence[Request], History], Awaitable[pl.DataFrame]]
    nothing: str
    option: Sequence[str]
    cost_minor: pl.Expr
    carbon_g: pl.Expr
    value_minor: pl.Expr
    summary: Callable[[Mapping[str, Any]], str]
    examples: Examples
    outcomes: Callable[[Sequence[StoredEvent], History], Awaitable[list[Outcome]]] = no_outcomes
    exposure: pl.Expr = field(default_factory=lambda: pl.lit(1.0))
    currency: pl.Expr = field(default_factory=lambda: pl.lit(None, pl.String))

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The model's input columns, in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def schema_hash(self) -> str:
        """SHA-256 over features and the tables they are taken from: a model fits one schema."""
        parts = [self.name]
        parts += [f"{feature.name}={whole(feature.value)}" for feature in self.features]
        for source in self.sources:
            keys = [f"{name}={whole(value)}" for name, value in source.keys.items()]
            parts.append(":".join([source.alias, source.table.fingerprint, *keys]))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @cached_property
    def code(self) -> str:
        """SHA-256 over all that the kind declares and the code of its file, without comments and
        layout: what a decision of it was made and told by."""
        parts = [self.schema_hash, self.warning, self.nothing, *self.option]
        parts += [f"{one.raises}|{one.lowers}|{one.lever}" for one in self.features]
        parts += [f"{one.code}={whole(one.broken)}|{one.sentence}" for one in self.constraints]
        amounts = (self.cost_minor, self.carbon_g, self.value_minor, self.currency, self.exposure)
        parts += [whole(one) for one in amounts]
        for function in (self.enumerate, self.summary):
            module = inspect.getmodule(function)
            source = inspect.getsource(function if module is None else module)
            parts.append(ast.dump(ast.parse(textwrap.dedent(source))))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
