"""The log: writer, readers, subscriptions, recorder. Knows bytes and topics, not business."""

from eventstore.log import (
    CommandReused,
    Entry,
    Log,
    LogUnavailable,
    NewEvent,
    PredecessorFailed,
    Receipt,
    RepeatedCommands,
    StoredEvent,
    Unit,
    VersionConflict,
)
from eventstore.schema import prepare_database
from eventstore.subscription import Subscription
from eventstore.writer import Writer

__all__ = [
    "CommandReused",
    "Entry",
    "Log",
    "LogUnavailable",
    "NewEvent",
    "PredecessorFailed",
    "Receipt",
    "RepeatedCommands",
    "StoredEvent",
    "Subscription",
    "Unit",
    "VersionConflict",
    "Writer",
    "prepare_database",
]
