"""What may be asked: one handler for each command, and the one bus that runs them."""

from commands.bus import Bus
from commands.catalogue import COMMANDS, HANDLERS
from commands.context import (
    Context,
    Forbidden,
    Result,
    TooMuchContention,
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
    "Forbidden",
    "Handler",
    "Read",
    "Result",
    "TooMuchContention",
    "command_id",
    "derived",
    "digest_of",
    "stream_id",
]
