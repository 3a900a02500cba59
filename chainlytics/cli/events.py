"""Event types: their schemas, and what changed since they were released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from api.asyncapi.document import document, files
from chainlytics import __version__
from chainlytics.cli.console import CliError, Json, console, emit, table
from chainlytics.settings import Settings
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


@app.command("asyncapi")
def publish(
    out: Annotated[
        Path | None, typer.Option("--out", file_okay=False, help="Folder to write into.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare only; exit code 1 where files differ.")
    ] = False,
    here: Annotated[
        bool, typer.Option("--here", help="With the brokers and names of the settings.")
    ] = False,
) -> None:
    """Write the AsyncAPI document of all topics of Kafka, and the JSON schema of every message.
    Without --out, print the document."""
    found = _published(here)
    if out is None:
        if check:
            raise CliError("--check compares the files of a folder: name it by --out")
        typer.echo(found["asyncapi.json"], nl=False)
        return
    differences = _differences(out, found)
    for path, how in sorted(differences.items()) if check else ():
        console.print(f"{path} {how}", markup=False, soft_wrap=True)
    if not check:
        _write(out, found)
        console.print(f"{len(found)} files in {out}; {len(differences)} changed", soft_wrap=True)
    elif differences:
        console.print(
            f"To write them: chainlytics events asyncapi --out {out}", markup=False, soft_wrap=True
        )
        raise typer.Exit(1)
    else:
        console.print(f"{out} is what the code says", markup=False, soft_wrap=True)


def _published(here: bool) -> dict[str, str]:
    """The files, for anybody's installation or for the one of the settings."""
    if not here:
        return files(document(version=__version__))
    settings = Settings()
    named = document(
        settings.kafka_prefix, settings.cluster(), lanes=settings.kafka_lanes, version=__version__
    )
    return files(named)


def _differences(out: Path, found: Mapping[str, str]) -> dict[str, str]:
    """What each file of a folder has otherwise; files that nobody publishes any more too."""
    there = {
        path.relative_to(out).as_posix(): path.read_text(encoding="utf-8")
        for path in [out / "asyncapi.json", *(out / "schemas").glob("*.json")]
        if path.is_file()
    }
    return {
        path: "is missing"
        if path not in there
        else "is not published any more"
        if path not in found
        else "differs"
        for path in {*there, *found}
        if there.get(path) != found.get(path)
    }


def _write(out: Path, found: Mapping[str, str]) -> None:
    (out / "schemas").mkdir(parents=True, exist_ok=True)
    for stale in {path.name for path in (out / "schemas").glob("*.json")}:
        if f"schemas/{stale}" not in found:
            (out / "schemas" / stale).unlink()
    for path, text in found.items():
        (out / path).write_text(text, encoding="utf-8")


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
