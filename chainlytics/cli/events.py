"""Event types: their schemas, and what changed since they were released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from chainlytics.cli.console import CliError, Json, console, emit, table
from domain.catalogue import TOPICS, TYPES, type_of
from domain.schema_changes import Change
from domain.schemas import (
    COMMITTED,
    Incompatible,
    SchemasEdited,
    accept,
    changes,
    released,
    schemas_of,
)

app = typer.Typer(no_args_is_help=True, help="Event types: schemas, and how they may change.")
File = Annotated[
    Path, typer.Option("--file", exists=True, dir_okay=False, help="The committed catalogue.")
]


@app.command("schemas")
def show(
    topic: Annotated[
        str | None, typer.Argument(help="One topic, as orders.OrderPlaced.v1.")
    ] = None,
    file: File = COMMITTED,
    json: Json = False,
) -> None:
    """Show every event type ever released, or the fields of one; --json gives JSON schemas."""
    known = _released(file) | schemas_of()
    if topic is not None and topic not in known:
        raise CliError(f"topic {topic!r} is not known; `chainlytics events schemas` lists them")
    if json:
        emit(known if topic is None else known[topic])
    elif topic is None:
        topics = [(name, _read_as(name), len(known[name]["properties"])) for name in sorted(known)]
        table("Event types", ("topic", "read as", "fields"), topics)
    else:
        needed = known[topic].get("required", ())
        fields = [
            (name, _words(field), "" if name in needed else "may be absent")
            for name, field in known[topic]["properties"].items()
        ]
        table(topic, ("field", "type", ""), fields)


@app.command()
def check(file: File = COMMITTED, json: Json = False) -> None:
    """Compare the code with the committed catalogue; exit code 1 where they differ."""
    try:
        found = changes(path=file)
    except SchemasEdited as error:
        raise CliError(str(error)) from error
    if json:
        emit({"same": not found, "changes": found})
    else:
        _tell(found)
    if not found:
        return
    if not json and all(change.compatible for change in found):
        console.print("All are compatible: `chainlytics events accept` takes them in.")
    raise typer.Exit(1)


@app.command("accept")
def take_in(file: File = COMMITTED) -> None:
    """Write compatible changes into the committed catalogue; others are refused."""
    try:
        found = accept(path=file)
    except Incompatible as error:
        _tell(error.changes)
        raise CliError(
            "stored events could not be read any more: give the event a new version and an "
            "upcaster (docs/events.md); nothing was written"
        ) from error
    except SchemasEdited as error:
        raise CliError(str(error)) from error
    _tell(found)


def _tell(found: Sequence[Change]) -> None:
    for change in found:
        mark = "[green]compatible[/]" if change.compatible else "[red]incompatible[/]"
        console.print(f"{mark}: ", end="")
        console.print(str(change), markup=False, soft_wrap=True)
    if not found:
        console.print("the committed catalogue is what the code says")


def _released(file: Path) -> dict[str, Any]:
    try:
        return dict(released(file))
    except SchemasEdited as error:
        raise CliError(str(error)) from error


def _read_as(topic: str) -> str:
    kind = type_of(topic)
    return "nothing" if kind is None else "itself" if topic in TYPES else TOPICS[kind]


def _words(field: Mapping[str, Any]) -> str:
    """A field's type in a few words, as `array of object` or `string (date-time) or null`."""
    if "anyOf" in field:
        return " or ".join(_words(part) for part in field["anyOf"])
    if "items" in field:
        return f"array of {_words(field['items'])}"
    form = field.get("format")
    return f"{field.get('type', 'anything')}{f' ({form})' if form else ''}"
