"""The AsyncAPI 3 document: every topic of Kafka that we write or read, and every message there.

It is made of the event catalogue and of the endpoints' commands, so it cannot say otherwise.
Operations are told from our side, as AsyncAPI wants it: we send events, and we receive commands.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from api.asyncapi.headers import (
    COMMAND_HEADERS,
    DEAD_LETTER_HEADERS,
    EVENT_HEADERS,
    REPLAYED_HEADERS,
    REPLY_HEADERS,
)
from api.asyncapi.messages import (
    CORRELATION,
    DEAD_LETTER,
    OTHER,
    REPLAYED,
    bound,
    messages,
)
from api.asyncapi.payloads import REPLIES, command_name, event_schemas, reply_name, schemas
from api.asyncapi.servers import SECURITY, servers_of
from api.posts import POSTS
from domain.catalogue import AREAS, area_of
from domain.schema_changes import Schema
from eventstore.kafka.cluster import Cluster

#: Records are never thrown away: a consumer may begin at any time.
_FOR_EVER = {"retention.ms": -1, "retention.bytes": -1, "cleanup.policy": ["delete"]}

_ABOUT = """
The log of Chainlytics over Kafka: one topic for each business area, commands in, replies out.

**Order.** All events of an organisation are in one partition, the same number in every topic, in
the order of the log. To put the topics together again, take the records of one partition number by
`ce_position`.

**Nothing lost, nothing twice.** `ce_position` is an event's place in the log, `ce_previous` that of
the event before it in the same partition number, over all topics of events together. For each
partition number, keep the last position `D` that you have dealt with:

* `ce_position <= D`: a repeat, pass over it.
* `ce_previous <= D < ce_position`: the next one, take it.
* `ce_previous > D`: events are missing. They come by another topic, or stand in the log only.

Who reads some of the topics only goes by `ce_position` alone: larger than `D` is new. `ce_epoch`
changes where a backup was restored or the topics were made anew: begin at their start then.

**Commands.** A command is taken once for each `ce_id` of an organisation: sent again, it is
answered as the first time. Records that are no command are put into a topic of their own.

**People.** What is a person's stands in events as tokens, which only the HTTP API opens.
"""


def document(
    prefix: str = "chainlytics",
    server: Cluster | None = None,
    *,
    lanes: int = 6,
    version: str,
) -> dict[str, Any]:
    """The document as plain JSON.

    Args:
        prefix: what the names of topics begin with.
        server: the cluster to name, without anything secret; a placeholder without it.
        lanes: partitions of each topic.
        version: of the application.
    """
    names = Cluster((), prefix)
    channels = {
        **{area: _area(names, area, lanes) for area in (*AREAS, OTHER)},
        **_command_channels(names),
    }
    servers = servers_of(server)
    for channel in channels.values():
        channel["servers"] = [{"$ref": f"#/servers/{name}"} for name in servers]
    return {
        "asyncapi": "3.0.0",
        "id": "urn:chainlytics:asyncapi",
        "info": {
            "title": "Chainlytics",
            "version": version,
            "description": _ABOUT.strip(),
            "tags": [{"name": area, "description": _about(area)} for area in AREAS]
            + [{"name": "older", "description": "Not written any more, and still on the log."}],
        },
        "defaultContentType": "application/json",
        "servers": servers,
        "channels": channels,
        "operations": _operations(names),
        "components": {
            "schemas": {
                **{name: _embedded(schema) for name, schema in schemas().items()},
                "EventHeaders": dict(EVENT_HEADERS),
                "CommandHeaders": dict(COMMAND_HEADERS),
                "ReplyHeaders": dict(REPLY_HEADERS),
                "DeadLetterHeaders": dict(DEAD_LETTER_HEADERS),
                "ReplayedHeaders": dict(REPLAYED_HEADERS),
            },
            "messages": messages(),
            "securitySchemes": SECURITY,
            "correlationIds": CORRELATION,
            "messageBindings": {
                "stream": bound(
                    key={
                        "type": "string",
                        "format": "uuid",
                        "description": "The stream: a UUID of organisation and stream name.",
                    }
                )
            },
        },
    }


def files(found: Mapping[str, Any]) -> dict[str, str]:
    """The document and the schemas as the files that are published: text by path."""
    published = {"asyncapi.json": text_of(found)}
    return published | {f"schemas/{name}.json": text_of(one) for name, one in schemas().items()}


def text_of(value: Any) -> str:
    """JSON as it is published."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _embedded(schema: Schema) -> dict[str, Any]:
    """A schema within the document: a name of its own would be a place of its own there."""
    return {word: part for word, part in schema.items() if word not in ("$schema", "$id")}


# channels


def _area(names: Cluster, area: str, lanes: int) -> dict[str, Any]:
    if area == OTHER:
        said = "Events of types that are not of Chainlytics' own; their form is their writers'."
        messages = [OTHER]
    else:
        said = _about(area)
        messages = [topic for topic in event_schemas() if area_of(topic) == area]
    return _channel(
        names.topic(area),
        f"Events: {area}",
        f"{said}\n\nAn organisation's events are in one partition, the same number in every topic "
        "of events, in the order of the log.",
        messages,
        _FOR_EVER,
        partitions=lanes,
    )


def _command_channels(names: Cluster) -> dict[str, Any]:
    return {
        "commands": _channel(
            names.topic("commands"),
            "Commands",
            "Commands of other systems. Those that must be taken in their order have one key.",
            [command_name(post) for post in POSTS.values()],
            _kept_for(days=7),
        ),
        "replies": _channel(
            names.topic("replies"),
            "Replies",
            "What each command was answered; `ce_commandid` says which. The key is the command's, "
            "or its id where it has none.",
            [reply_name(kind) for kind in REPLIES],
            _kept_for(days=7),
        ),
        "deadCommands": _channel(
            names.topic("commands-dead"),
            "Commands that could not be dealt with",
            "Messages that are no command, or that failed here again and again. They are kept as "
            "they came, for whoever operates Chainlytics, and can be sent again.",
            [DEAD_LETTER, REPLAYED],
            _kept_for(days=30),
        ),
    }


def _channel(
    address: str,
    title: str,
    said: str,
    messages: Sequence[str],
    kept: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    return {
        "address": address,
        "title": title,
        "description": said,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": bound(topic=address, **more, topicConfiguration=kept),
    }


def _kept_for(days: int) -> dict[str, Any]:
    return {"retention.ms": days * 24 * 60 * 60 * 1000, "cleanup.policy": ["delete"]}


def _operations(names: Cluster) -> dict[str, Any]:
    sent = {
        f"send{area.capitalize()}": {
            "action": "send",
            "channel": {"$ref": f"#/channels/{area}"},
            "title": f"Publish events: {area}",
            "summary": "The relay publishes each event of the log, at least once, in log order.",
        }
        for area in (*AREAS, OTHER)
    }
    return sent | {
        "receiveCommands": {
            "action": "receive",
            "channel": {"$ref": "#/channels/commands"},
            "title": "Take commands",
            "summary": "Each command is taken once for its `ce_id`, and answered.",
            "security": [{"$ref": "#/components/securitySchemes/bearer"}],
            "bindings": bound(groupId={"type": "string", "const": names.group("intake")}),
            "reply": {"channel": {"$ref": "#/channels/replies"}},
        },
        "sendDeadCommands": {
            "action": "send",
            "channel": {"$ref": "#/channels/deadCommands"},
            "title": "Put away what is no command",
            "summary": "Such a record is put away with the reason, and the next one is taken.",
        },
    }


def _about(area: str) -> str:
    module = inspect.getmodule(AREAS[area][0])
    return " ".join((inspect.getdoc(module) or area).split("\n\n")[0].split())
