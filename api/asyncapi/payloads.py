"""The JSON schema of everything that goes over Kafka: events, commands and replies.

Each has a name: an event its topic, a command ``commands.PlaceOrder.v1``, a reply
``replies.CommandAccepted.v1``. They are JSON Schema 2020-12, and but for ``deprecated`` in words
that draft 7 has too: AsyncAPI's own schemas are made of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from api.commands import Accepted, Post, body_of
from api.errors import Problem
from api.posts import POSTS
from domain.catalogue import TOPICS, TYPES, type_of
from domain.schema_changes import Schema
from domain.schemas import released, schema_of, schemas_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_URN = "urn:chainlytics:schema:"

#: As Python writes a Decimal; one that is very large has an exponent.
_DECIMAL = r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"


@cache
def schemas() -> Mapping[str, Schema]:
    """Every schema by its name, as it is published."""
    found = {
        **{topic: _event(topic, schema) for topic, schema in event_schemas().items()},
        **{command_name(post): _command(post) for post in POSTS.values()},
        **{reply_name(kind): _reply(kind) for kind in REPLIES},
    }
    return {
        name: {"$schema": DIALECT, "$id": _URN + name, **schema}
        for name, schema in sorted(found.items())
    }


@cache
def event_schemas() -> Mapping[str, Schema]:
    """The schema of each topic that the log may hold, present and older, as it was released."""
    return dict(sorted((released() | schemas_of()).items()))


def command_name(post: Post) -> str:
    """The name of a command's schema."""
    return f"commands.{post.command.__name__}.v1"


def reply_name(kind: str) -> str:
    """The name of a reply's schema."""
    return f"replies.{kind}.v1"


def read_as(topic: str) -> str | None:
    """The present topic that an older one is read as; None: it is a present one, or nobody's."""
    kind = type_of(topic)
    return None if topic in TYPES or kind is None else TOPICS[kind]


#: What a command is answered: the title of the answer and its payload.
REPLIES: Mapping[str, tuple[str, Callable[[], Schema]]] = {
    "CommandAccepted": ("The command was taken", lambda: schema_of(Accepted)),
    "CommandRejected": ("The command was not taken", lambda: schema_of(Problem)),
}


def _event(topic: str, schema: Schema) -> dict[str, Any]:
    _, name, version = topic.split(".")
    found: dict[str, Any] = _tolerant(_words(schema))
    found |= {"title": f"{name}{version.upper()}", "description": schema.get("description", name)}
    if present := read_as(topic):
        found["deprecated"] = True
        found["description"] += (
            f"\n\nOlder form: it is not written any more, and read as {present}."
        )
    return found


def _command(post: Post) -> dict[str, Any]:
    found: dict[str, Any] = _words(schema_of(body_of(post), "validation"))
    for name in (*post.now, *post.made):
        # Left out is not null: where null may be sent, it says that the time is not known.
        found["properties"][name].pop("default", None)
    said = inspect.getdoc(post.command) or post.summary
    return found | {"title": post.command.__name__, "description": said}


def _reply(kind: str) -> dict[str, Any]:
    title, payload = REPLIES[kind]
    found: dict[str, Any] = _words(payload())
    return found | {"title": kind, "description": f"{title}. {found['description']}"}


def _words(node: Any) -> Any:
    """A schema in the standard's own words: the catalogue's ``decimal`` is a pattern."""
    if isinstance(node, list):
        return [_words(part) for part in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "decimal":
        return _decimal(node)
    return {
        key: {name: _words(field) for name, field in part.items()}
        if key == "properties"
        else part
        if key in ("default", "examples", "enum", "const", "required")
        else _words(part)
        for key, part in node.items()
    }


def _decimal(node: Mapping[str, Any]) -> dict[str, Any]:
    limits = ["An exact number as text"]
    if node.get("exclusiveMinimum") == 0:
        limits.append("above 0")
    if "maxDigits" in node:
        limits.append(f"{node['maxDigits']} digits at the most")
    if "decimalPlaces" in node:
        limits.append(f"{node['decimalPlaces']} of them behind the point")
    sign = "" if node.get("exclusiveMinimum") == 0 else "[+-]?"
    kept = {key: node[key] for key in ("examples", "default") if key in node}
    said = node.get("description")
    words = ", ".join(limits) + "."
    return kept | {
        "type": "string",
        "pattern": f"^{sign}{_DECIMAL}",
        "description": f"{said} {words}" if said else words,
    }


def _tolerant(node: Any) -> Any:
    """A schema that lets fields pass that it does not know: an event of the same version may get
    one more that may be absent (docs/events.md), and who reads it shall go on reading."""
    if isinstance(node, list):
        return [_tolerant(part) for part in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: _tolerant(field) for name, field in part.items()}
        if key == "properties"
        else part
        if key in ("default", "examples")
        else _tolerant(part)
        for key, part in node.items()
        if not (key == "additionalProperties" and part is False)
    }
