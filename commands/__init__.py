"""What may be asked: one handler for each command, and the one bus that runs them."""

from commands.bus import Bus
from commands.catalogue import COMMANDS, HANDLERS
from commands.context import (
    Context,
    Expected,
    Forbidden,
    Result,
    TooMuchContention,
    VersionMismatch,
    command_id,
    derived,
    digest_of,
)
from commands.handler import Handler, Read, stream_id

__all__ = [
    "COMMANDS",
    "HANDLERS",
    "Bus",
    "Context",
    "Expected",
    "Forbidden",
    "Handler",
    "Read",
    "Result",
    "TooMuchContention",
    "VersionMismatch",
    "command_id",
    "derived",
    "digest_of",
    "stream_id",
]
