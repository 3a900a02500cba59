"""The JSON schema of every event type, and the committed catalogue of all that were ever released.

``event_schemas.json`` is what the log may hold: topic by topic, present and older. A schema is
pydantic's of the stored JSON, with references put in their places, without titles, keys sorted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from domain.catalogue import CATALOGUE, Catalogue
from domain.schema_changes import Change, Schema, Schemas, compare

COMMITTED = Path(__file__).with_name("event_schemas.json")

#: Where the limits of a decimal stand; JSON has it as a string, which pydantic says no more about.
_DECIMAL = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "max_digits": "maxDigits",
    "decimal_places": "decimalPlaces",
}


class SchemasEdited(Exception):
    """The committed catalogue is not as `chainlytics events accept` wrote it."""


class Incompatible(Exception):
    """Events on the log could not be read any more; one line for each broken rule."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        super().__init__("\n".join(str(change) for change in changes))


class _Generator(GenerateJsonSchema):
    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        told: Mapping[str, Any] = schema
        limits = {
            word: int(limit) if limit == int(limit) else float(limit)
            for name, word in _DECIMAL.items()
            if (limit := told.get(name)) is not None
        }
        return {"type": "string", "format": "decimal", **limits}


def schema_of(kind: type[BaseModel], mode: JsonSchemaMode = "serialization") -> Schema:
    """The JSON schema of an event's stored form; of what may be sent, with mode ``validation``."""
    found = kind.model_json_schema(mode=mode, schema_generator=_Generator)
    definitions = found.pop("$defs", {})
    schema: Schema = json.loads(json.dumps(_inlined(found, definitions), sort_keys=True))
    return schema


def schemas_of(catalogue: Catalogue = CATALOGUE) -> dict[str, Schema]:
    """The schema of each present topic."""
    return {topic: schema_of(event) for topic, event in sorted(catalogue.types.items())}


def released(path: Path = COMMITTED) -> dict[str, Schema]:
    """The committed catalogue: each topic ever released, and its schema.

    Raises:
        SchemasEdited: a schema is not the one that was accepted.
    """
    found = {}
    for topic, entry in json.loads(path.read_text(encoding="utf-8")).items():
        if entry["sha256"] != _digest(entry["schema"]):
            raise SchemasEdited(
                f"{path.name}: the schema of {topic} was edited by hand; put it back as it was, "
                "change the event's class and run `chainlytics events accept`"
            )
        found[topic] = entry["schema"]
    return found


def changes(catalogue: Catalogue = CATALOGUE, path: Path = COMMITTED) -> list[Change]:
    """What the code says otherwise than the committed catalogue.

    Raises:
        SchemasEdited: as ``released``.
    """
    return compare(released(path), schemas_of(catalogue), catalogue.upcasters)


def accept(catalogue: Catalogue = CATALOGUE, path: Path = COMMITTED) -> list[Change]:
    """Write the catalogue anew with the changes of the code; what changed. Older topics stay.

    Raises:
        Incompatible: nothing was written.
        SchemasEdited: as ``released``.
    """
    found = changes(catalogue, path)
    broken = [change for change in found if not change.compatible]
    if broken:
        raise Incompatible(broken)
    write(released(path) | schemas_of(catalogue), path)
    return found


def write(schemas: Schemas, path: Path) -> None:
    """Write a catalogue: sorted, each schema beside its SHA-256."""
    entries = {
        topic: {"sha256": _digest(schema), "schema": schema} for topic, schema in schemas.items()
    }
    text = json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _digest(schema: Schema) -> str:
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with its references put in their places and without titles.

    Raises:
        TypeError: it holds itself, which a table could not.
    """
    if isinstance(node, list):
        return [_inlined(part, definitions) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        if name not in definitions:
            raise TypeError(f"{name} holds itself")
        beside = {key: part for key, part in node.items() if key != "$ref"}
        rest = {key: part for key, part in definitions.items() if key != name}
        # What stands beside the reference (a default, say) is said of this place only.
        return _inlined({**definitions[name], **beside}, rest)
    found: dict[str, Any] = {}
    for key, part in node.items():
        if key == "properties":
            # Names of fields are no keywords: a field may be called «title».
            found[key] = {name: _inlined(field, definitions) for name, field in part.items()}
        elif key == "required":
            found[key] = sorted(part)
        elif key != "title":
            found[key] = part if key in ("default", "examples") else _inlined(part, definitions)
    return found
