"""The messages of the AsyncAPI document: every event, command and reply in words."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from api.asyncapi import examples as examples
from api.asyncapi.payloads import REPLIES, command_name, event_schemas, read_as, reply_name
from api.commands import Post
from api.posts import POSTS
from domain.catalogue import SENTENCES, STREAMS, area_of, type_of

#: Messages that have no schema of their own.
OTHER, DEAD_LETTER, REPLAYED = "other", "dead-letter", "replayed"
_BINDING = "0.5.0"
CORRELATION: Mapping[str, Any] = {
    "trace": {
        "location": "$message.header#/traceparent",
        "description": "The trace id in it is the correlation id of all that came of one request.",
    },
    "command": {
        "location": "$message.header#/ce_id",
        "description": "The sender's own id of the command.",
    },
    "reply": {
        "location": "$message.header#/ce_commandid",
        "description": "The `ce_id` of the command that is answered.",
    },
}


def messages() -> dict[str, Any]:
    """Every message by its name."""
    return {
        **{topic: _event(topic) for topic in event_schemas()},
        OTHER: {
            "name": OTHER,
            "title": "Any other event",
            "summary": "An event of a type that is not of Chainlytics' own.",
            "headers": {"$ref": "#/components/schemas/EventHeaders"},
            "payload": {"description": "As its writer made it."},
            **_OF_EVENT,
        },
        **{command_name(post): _command(post) for post in POSTS.values()},
        **{reply_name(name): _reply(name, title) for name, (title, _) in REPLIES.items()},
        DEAD_LETTER: {
            "name": DEAD_LETTER,
            "title": "A message that could not be taken in",
            "summary": "Key, value and headers as they came, and headers that say why.",
            "headers": {"$ref": "#/components/schemas/DeadLetterHeaders"},
            "payload": {"description": "The value as it came."},
        },
        REPLAYED: {
            "name": REPLAYED,
            "title": "A dead letter was sent again",
            "summary": "A mark behind the letter, of headers only.",
            "headers": {"$ref": "#/components/schemas/ReplayedHeaders"},
            "payload": {"type": "string", "maxLength": 0, "description": "Empty."},
        },
    }


_OF_EVENT: Mapping[str, Any] = {
    "contentType": "application/json",
    "correlationId": {"$ref": "#/components/correlationIds/trace"},
    "bindings": {"$ref": "#/components/messageBindings/stream"},
}


def _event(topic: str) -> dict[str, Any]:
    _, name, _ = topic.split(".")
    kind = type_of(topic)
    described = str(event_schemas()[topic].get("description", name))
    about = [described]
    tags = [area_of(topic)]
    if present := read_as(topic):
        about.append(f"Not written any more; older events on the log have it. Now: `{present}`.")
        tags.append("older")
    elif kind is not None:
        about.append(f"In a sentence: {SENTENCES[kind]}.")
    if kind is not None:
        about.append(f"Stream: `{STREAMS[kind]}`.")
    return {
        "name": topic,
        "title": _title(name),
        "summary": _first_sentence(described),
        "description": "\n\n".join(about),
        "tags": [{"name": tag} for tag in tags],
        "headers": _typed("EventHeaders", topic),
        "payload": {"$ref": f"#/components/schemas/{topic}"},
        **_OF_EVENT,
        **_shown(examples.event(topic)),
    }


def _command(post: Post) -> dict[str, Any]:
    name = post.command.__name__
    left_out = [f"`{field}`" for field in (*post.now, *post.made)]
    return {
        "name": name,
        "title": _title(name),
        "summary": post.summary,
        "description": f"{inspect.getdoc(post.command)}\n\nMay be left out: {', '.join(left_out)}.",
        "contentType": "application/json",
        "headers": _typed("CommandHeaders", name),
        "payload": {"$ref": f"#/components/schemas/{command_name(post)}"},
        "correlationId": {"$ref": "#/components/correlationIds/command"},
        **_shown(examples.command(post)),
    }


def _reply(name: str, title: str) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "summary": f"{title}.",
        "headers": _typed("ReplyHeaders", name),
        "payload": {"$ref": f"#/components/schemas/{reply_name(name)}"},
        "correlationId": {"$ref": "#/components/correlationIds/reply"},
        **_shown(examples.reply(name)),
    }


def _typed(headers: str, kind: str) -> dict[str, Any]:
    """Headers of one type of message: ``ce_type`` tells the messages of a topic apart."""
    return {
        "type": "object",
        "allOf": [
            {"$ref": f"#/components/schemas/{headers}"},
            {"properties": {"ce_type": {"type": "string", "const": kind}}},
        ],
    }


def _shown(example: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if example is None else {"examples": [dict(example)]}


def _title(name: str) -> str:
    """``OrderPlaced`` as "Order placed"."""
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
    return words.strip().capitalize()


def _first_sentence(text: str) -> str:
    whole = " ".join(text.split("\n\n")[0].split())
    return whole.partition(". ")[0].rstrip(".") + "."


def bound(**kafka: Any) -> dict[str, Any]:
    """A binding to Kafka."""
    return {"kafka": {**kafka, "bindingVersion": _BINDING}}
