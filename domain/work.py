"""Work: what long tasks there are, how each is asked for, and what a request says is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from domain.decisions import Weights
from domain.models import Hash
from domain.values import Command, Id, SubjectId, UtcTime, Value

#: Files of one import.
MOST_FILES = 20
#: Times that one simulation is run, each with another seed.
MOST_REPLICATIONS = 10
_WORDS: Mapping[str, int] = {"low": 1, "normal": 5, "urgent": 9}


class Kind(StrEnum):
    """What is to be done."""

    REPLAY = "replay"
    TRAINING = "training"
    IMPORT = "import"
    BACKTEST = "backtest"
    BUNDLE = "bundle"
    SIMULATION = "simulation"
    INFERENCE = "inference"
    TOURS = "tours"
    SEALING = "sealing"
    ARCHIVING = "archiving"


def _number(priority: object) -> object:
    return _WORDS.get(priority, priority) if isinstance(priority, str) else priority


_Number = Annotated[int, Field(ge=0, le=9)]
#: 9 first; ``urgent`` is 9, ``normal`` 5, ``low`` 1.
Priority = Annotated[
    _Number,
    BeforeValidator(_number, json_schema_input_type=_Number | Literal["low", "normal", "urgent"]),
]
_Position = Annotated[int, Field(ge=0, lt=2**63)]


def _is_none(value: object) -> bool:
    return value is None


def _is_false(value: object) -> bool:
    return value is False


# values and commands


class ImportFile(Value):
    """A file that was uploaded, under the name that the mapping has for it."""

    name: Id
    upload_id: Id


class RequestReplay(Command):
    """Decide again from the log, and compare byte for byte: some decisions, or all where
    ``decision_ids`` is left out."""

    task_id: Id
    decision_ids: Annotated[tuple[Id, ...], Field(min_length=1, max_length=1000)] | None = None
    priority: Priority = 5
    requested_at: UtcTime


class RequestTraining(Command):
    """Train a model of a kind of decision from the log and propose it; somebody else approves."""

    task_id: Id
    kind: Id
    priority: Priority = 5
    requested_at: UtcTime


class RequestImport(Command):
    """Bring uploaded files in by a mapping that the installation has. ``dry_run``: only say what
    would go in and what would not."""

    task_id: Id
    mapping: Id
    files: Annotated[tuple[ImportFile, ...], Field(min_length=1, max_length=MOST_FILES)]
    dry_run: Annotated[bool, Field(exclude_if=_is_false)] = False
    priority: Priority = 5
    requested_at: UtcTime

    @model_validator(mode="after")
    def _files_are_named_once(self) -> Self:
        names = [file.name for file in self.files]
        if len(set(names)) != len(names):
            raise ValueError(f"files: each name once, got {', '.join(names)}")
        return self


class RequestBacktest(Command):
    """Decide past requests between two log positions again, by another model, other weights or
    both; ``to_position``: the last one where it is left out."""

    task_id: Id
    kind: Id
    model_hash: Hash | None = None
    weights: Weights | None = None
    from_position: _Position = 0
    to_position: _Position | None = None
    priority: Priority = 5
    requested_at: UtcTime

    @model_validator(mode="after")
    def _something_is_otherwise(self) -> Self:
        if self.model_hash is None and self.weights is None:
            raise ValueError("model_hash, weights: one of them, or both")
        if self.to_position is not None and self.to_position < self.from_position:
            raise ValueError(f"to_position: {self.to_position} lies before {self.from_position}")
        return self


class RequestBundle(Command):
    """Put a decision's evidence into one archive; ``day``: prove too that its day had no other
    requests."""

    task_id: Id
    decision_id: Id
    day: bool = True
    priority: Priority = 5
    requested_at: UtcTime


class RequestSimulation(Command):
    """Run a scenario on a branch of the log: beside it, a base line without its disturbances.

    ``position``: where the branch leaves the log; where it is left out, the position of this
    request. ``replications``: how often, each time with the next seed.
    """

    task_id: Id
    scenario_id: Id
    position: _Position | None = None
    replications: Annotated[int, Field(ge=1, le=MOST_REPLICATIONS)] = 1
    priority: Priority = 5
    requested_at: UtcTime


class RequestInference(Command):
    """Ask models about many subjects at once: for decisions of a kind, or (kind ``demand``) for
    forecasts of stocks, each SITE/SKU, over so many days. ``subject_ids``: all that are open where
    left out."""

    task_id: Id
    kind: Id
    subject_ids: Annotated[tuple[SubjectId, ...], Field(min_length=1, max_length=1000)] | None = (
        None
    )
    horizon_days: Annotated[int, Field(ge=1, le=90)] = 28
    format: Literal["json", "csv"] = "json"
    priority: Priority = 5
    requested_at: UtcTime


class RequestTours(Command):
    """Plan the tours of a site's orders for a day: those that are named, or all that are allocated
    to it and promised by then.

    ``plan_id``: the plan's name, the task's where it is left out. ``iterations`` of the search and
    its ``seed`` make the plan repeatable; left out, iterations go by the number of orders.
    ``replaces``: a plan of the same site and day, whose tours that have not begun are given up.
    """

    task_id: Id
    site_id: Id
    day: date
    order_ids: Annotated[tuple[Id, ...], Field(min_length=1, max_length=1000)] | None = None
    plan_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,55}$")] | None = None
    iterations: Annotated[int, Field(ge=1, le=200_000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    replaces: Id | None = None
    priority: Priority = 5
    requested_at: UtcTime


class RequestSealing(Command):
    """Seal the log as it stands."""

    task_id: Id
    priority: Priority = 5
    requested_at: UtcTime


class RequestArchiving(Command):
    """Write what is sealed into the archive."""

    task_id: Id
    priority: Priority = 5
    requested_at: UtcTime


# what is to be done


class ReplayWork(Value):
    """Which decisions; None: all."""

    decision_ids: tuple[str, ...] | None


class TrainingWork(Value):
    """The kind of decision."""

    kind: str


class FileOfImport(Value):
    """An uploaded file and the mapping's name for it."""

    name: str
    upload_id: str


class ImportWork(Value):
    """The files and the mapping."""

    mapping: str
    files: tuple[FileOfImport, ...]
    dry_run: Annotated[bool | None, Field(exclude_if=_is_none)] = None


class BacktestWork(Value):
    """What is decided again, and how."""

    kind: str
    model_hash: str | None
    weights: Weights | None
    from_position: int
    to_position: int | None


class BundleWork(Value):
    """Whose evidence."""

    decision_id: str
    day: bool


class SimulationWork(Value):
    """Which scenario, how often, and where its branch leaves the log; None: at the request."""

    scenario_id: str
    position: int | None
    replications: int


class InferenceWork(Value):
    """The kind, and about what; None: all that are open."""

    kind: str
    subject_ids: tuple[str, ...] | None
    horizon_days: int = 28
    format: str = "json"


class ToursWork(Value):
    """From where, when, and which orders; None: all that are to go then."""

    site_id: str
    day: date
    order_ids: tuple[str, ...] | None
    plan_id: str | None = None
    iterations: int | None = None
    seed: int = 0
    replaces: str | None = None


class SealingWork(Value):
    """Nothing more is to be said of it."""


class ArchivingWork(Value):
    """Nothing more is to be said of it."""


#: What each request is for.
KINDS: Mapping[type[Command], Kind] = {
    RequestReplay: Kind.REPLAY,
    RequestTraining: Kind.TRAINING,
    RequestImport: Kind.IMPORT,
    RequestBacktest: Kind.BACKTEST,
    RequestBundle: Kind.BUNDLE,
    RequestSimulation: Kind.SIMULATION,
    RequestInference: Kind.INFERENCE,
    RequestTours: Kind.TOURS,
    RequestSealing: Kind.SEALING,
    RequestArchiving: Kind.ARCHIVING,
}
