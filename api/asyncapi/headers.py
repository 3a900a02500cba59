"""The headers of what goes over Kafka: CloudEvents 1.0 in Kafka's binary mode, all of them text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_POSITION = "^[1-9][0-9]*$"
_COUNT = "^(0|[1-9][0-9]*)$"
_TRACE = "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"


def _text(said: str, pattern: str | None = None, **more: Any) -> dict[str, Any]:
    found = {"type": "string", **more}
    if pattern is not None:
        found["pattern"] = pattern
    return found | {"description": said}


def _headers(
    title: str, said: str, properties: Mapping[str, Any], optional: Sequence[str] = ()
) -> dict[str, Any]:
    return {
        "type": "object",
        "title": title,
        "description": said,
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
    }


_VERSION = _text("CloudEvents 1.0.", const="1.0")

EVENT_HEADERS = _headers(
    "EventHeaders",
    "An event's attributes by CloudEvents 1.0, each a header in UTF-8.",
    {
        "ce_specversion": _VERSION,
        "ce_id": _text("The event's id. A repeat has the same.", f"^{_UUID}$"),
        "ce_source": _text("The organisation that it happened in.", f"^/organisations/{_UUID}$"),
        "ce_type": _text("The event's type: area, name, version of its form.", minLength=1),
        "ce_subject": _text("The stream that the event is in; also the key.", f"^{_UUID}$"),
        "ce_time": _text("When the event was recorded.", format="date-time"),
        "content-type": _text("The value is JSON.", const="application/json"),
        "traceparent": _text("W3C trace context; the trace id is the correlation id.", _TRACE),
        "ce_position": _text("The event's position in the log.", _POSITION),
        "ce_previous": _text(
            "The position of the event before it in the same partition number, over all topics of "
            "events together; 0: it is the first.",
            _COUNT,
        ),
        "ce_streamversion": _text("The stream's version at this event.", _COUNT),
        "ce_actor": _text("Who sent the command that caused it."),
        "ce_epoch": _text(
            "The run of the topics that the record is of. It changes where a backup was restored: "
            "records of another epoch do not continue yours.",
            f"^{_UUID}$",
        ),
        "ce_causationid": _text("The event that caused it; absent where none did.", f"^{_UUID}$"),
    },
    optional=("ce_causationid",),
)

COMMAND_HEADERS = _headers(
    "CommandHeaders",
    "A command's attributes by CloudEvents 1.0, each a header in UTF-8, and none of them twice.",
    {
        "ce_specversion": _VERSION,
        "ce_id": _text(
            "The sender's own id of the command: sent again, it is answered as the first time.",
            r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$",
            maxLength=200,
        ),
        "ce_source": _text("Where the command comes from.", minLength=1),
        "ce_type": _text("The name of the command."),
        "authorization": _text(
            "`Bearer` and a token of the HTTP API: it says organisation, actor and roles.",
            "^[Bb][Ee][Aa][Rr][Ee][Rr] .+$",
        ),
        "traceparent": _text("W3C trace context: its trace id is the correlation id.", _TRACE),
        "ce_correlationid": _text("The correlation id, where there is no trace.", format="uuid"),
    },
    optional=("traceparent", "ce_correlationid"),
)

REPLY_HEADERS = _headers(
    "ReplyHeaders",
    "A reply's attributes by CloudEvents 1.0, each a header in UTF-8.",
    {
        "ce_specversion": _VERSION,
        "ce_id": _text("Topic, partition and offset of the command: a repeat has the same."),
        "ce_source": _text(
            "The organisation; without its id where the token was not to be believed.",
            f"^/organisations(/{_UUID})?$",
        ),
        "ce_type": _text("Whether the command was taken."),
        "ce_time": _text("When it was answered.", format="date-time"),
        "content-type": _text(
            "JSON, or problem details (RFC 9457).",
            enum=["application/json", "application/problem+json"],
        ),
        "ce_correlationid": _text("Of all that came of the command.", f"^{_UUID}$"),
        "ce_commandid": _text("The `ce_id` of the command that is answered.", minLength=1),
    },
)

DEAD_LETTER_HEADERS = _headers(
    "DeadLetterHeaders",
    "Beside the headers that the message came with: why it was put away, and where it came from.",
    {
        "dead_reason": _text("Why."),
        "dead_topic": _text("The topic that it came by."),
        "dead_partition": _text("Its partition there.", _COUNT),
        "dead_offset": _text("Its offset there.", _COUNT),
        "dead_at": _text("When it was put away.", format="date-time"),
        "dead_value": _text(
            "There where the message was unreadable or too large to keep: neither its key, value "
            "nor headers are here.",
            const="left out",
        ),
    },
    optional=("dead_value",),
)

REPLAYED_HEADERS = _headers(
    "ReplayedHeaders",
    "Says of a dead letter in the same partition that it was sent again.",
    {
        "replayed_offset": _text("The letter's offset.", _COUNT),
        "replayed_at": _text("When.", format="date-time"),
    },
)
