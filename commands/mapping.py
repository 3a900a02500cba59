"""Mappings: files that say how rows of CSV files become commands. See mappings/README.md."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping as MappingOf
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import available_timezones

from pydantic import Field, ValidationError, field_validator, model_validator

from commands.catalogue import COMMANDS
from domain.values import Id, Text, Value

SHIPPED = Path(__file__).with_name("mappings")

#: What a column may hold. A trailing ``?`` says that a cell may be empty, ``??`` that the file need
#: not have the column.
KINDS = ("id", "text", "time", "money", "number", "integer")

_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
_Select = Annotated[str, Field(min_length=1)]


class MappingError(Exception):
    """A mapping file is wrong, whatever the data."""

    def __init__(self, mapping: str, where: str, detail: str) -> None:
        super().__init__(f"mapping {mapping}: {where}: {detail}")


class Column(Value):
    """What the cells of one column must be. ``absent``: the column need not be there."""

    kind: Literal["id", "text", "time", "money", "number", "integer"]
    optional: bool = False
    absent: bool = False
    one_of: tuple[str, ...] = ()


class SourceFile(Value):
    """One CSV file, plain or gzip (``orders.csv`` finds ``orders.csv.gz`` too).

    Attributes:
        columns: those that are used, and what they hold; the file may have more.
        key: columns that no two rows share.
        references: column -> file whose (single) key has its values.
        part_of: as a reference, and the whole is untrue without each of its parts: a broken part
            takes the whole with it.
    """

    file: str
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    encoding: str = "utf-8"
    columns: dict[str, Column]
    key: tuple[str, ...] = ()
    references: dict[str, _Name] = Field(default_factory=dict)
    part_of: dict[str, _Name] = Field(default_factory=dict)

    @field_validator("columns", mode="before")
    @classmethod
    def _spelled_out(cls, columns: object) -> object:
        if not isinstance(columns, dict):
            return columns
        return {name: _column(name, spelling) for name, spelling in columns.items()}

    @model_validator(mode="after")
    def _names_its_columns(self) -> Self:
        for name in (*self.key, *self.references, *self.part_of):
            if name not in self.columns:
                raise ValueError(f"{name!r} is not among the columns of {self.file}")
        return self

    @property
    def pointers(self) -> MappingOf[str, str]:
        """All columns that point to another file's key."""
        return {**self.references, **self.part_of}


class Step(Value):
    """One command for each row of a select.

    Attributes:
        select: SQL over the files and views; its columns are the command's fields.
        key: column that names the command for good, once in the step.
        at: column with the time that orders commands; without it, or where it is empty, the
            command comes right behind the one before it in its case.
        case: column that names what the step is about. Steps of one case keep their order,
            whatever their times; each step has one row a case at most.
        lists: list field -> select with the same key column, one row for each element.
    """

    command: str
    name: _Name | None = None
    key: str
    at: str | None = None
    case: str | None = None
    select: _Select
    lists: dict[str, _Select] = Field(default_factory=dict)

    @field_validator("command")
    @classmethod
    def _is_known(cls, command: str) -> str:
        if command not in COMMANDS:
            raise ValueError(f"no such command; there are {', '.join(sorted(COMMANDS))}")
        return command

    @property
    def label(self) -> str:
        """The step's name in command ids and messages."""
        return self.name or self.command


class Mapping(Value):
    """From files to commands.

    Attributes:
        time_zone: of times that name none.
        decimal_mark: of money and numbers.
        minor_digits: decimal places of the currency's minor unit.
        views: named selects for other selects, made in their order.
        steps: in life-cycle order.
    """

    name: Id
    title: Text
    time_zone: str = "UTC"
    time_formats: tuple[str, ...] = ()
    decimal_mark: Literal[".", ","] = "."
    minor_digits: Annotated[int, Field(ge=0, le=4)] = 2
    files: Annotated[dict[_Name, SourceFile], Field(min_length=1)]
    views: dict[_Name, _Select] = Field(default_factory=dict)
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, zone: str) -> str:
        # Where the system has no zone database, polars' own one decides.
        known = available_timezones()
        if known and zone not in known:
            raise ValueError(f"{zone!r} is not an IANA time zone such as Europe/Berlin")
        return zone

    @model_validator(mode="after")
    def _points_to_what_there_is(self) -> Self:
        for name, source in self.files.items():
            for column, target in source.pointers.items():
                if target not in self.files or len(self.files[target].key) != 1:
                    raise ValueError(
                        f"files.{name}: {column} points to {target!r}, which is not a file "
                        "with a key of one column"
                    )
        labels = [step.label for step in self.steps]
        if len(set(labels)) != len(labels):
            raise ValueError(f"steps: names must be unique, got {', '.join(labels)}")
        return self


def read_mapping(path: Path) -> Mapping:
    """The mapping in a TOML file.

    Raises:
        MappingError: it cannot be read or is not right; says where.
    """
    try:
        return parse_mapping(path.read_text(encoding="utf-8"), path.name)
    except OSError as error:
        raise MappingError(path.name, "file", error.strerror or str(error)) from error


def parse_mapping(text: str, name: str = "text") -> Mapping:
    """The mapping in TOML text; ``name`` is for messages."""
    try:
        return Mapping.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise MappingError(name, "TOML", str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "mapping"
        raise MappingError(name, where, first["msg"]) from error


def shipped_mappings() -> dict[str, Path]:
    """The mappings that come with the project, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def _column(name: str, spelling: object) -> object:
    """``"time?"``, ``"time??"`` or a list of allowed words, as a column."""
    if isinstance(spelling, list):
        return {"kind": "text", "one_of": spelling}
    if not isinstance(spelling, str):
        return spelling
    found = re.fullmatch(rf"({'|'.join(KINDS)})(\?{{0,2}})", spelling)
    if found is None:
        raise ValueError(f"{name}: {spelling!r} is not one of {', '.join(KINDS)}, perhaps with a ?")
    return {"kind": found[1], "optional": bool(found[2]), "absent": found[2] == "??"}
