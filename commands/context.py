"""What surrounds a command: who sends it, under which id, and what may become of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

from commands.handler import Stream
from domain.access import Role
from domain.errors import Refused
from domain.values import Command, Event
from eventstore import CommandReused, Entry, NewEvent, Receipt, VersionConflict
from eventstore.ids import named_id


class Forbidden(Exception):
    """The sender's roles, or the scopes of its key, do not allow the command."""

    def __init__(
        self,
        command: str,
        roles: Collection[Role],
        needed: Collection[Role],
        scopes: Collection[str] | None = None,
    ) -> None:
        self.command, self.roles, self.needed = command, roles, needed
        have = ", ".join(sorted(roles)) or "no role"
        told = f"{command} needs one of {', '.join(sorted(needed))}; you have {have}"
        if scopes is not None and not frozenset(needed).isdisjoint(roles):
            told = f"{command} is not among the scopes of this key: {', '.join(sorted(scopes))}"
        super().__init__(told)


class TooMuchContention(Exception):
    """Others kept changing a stream for as long as we tried.

    ``conflict`` is the last one: which stream was expected at which version and found at which.
    """

    def __init__(
        self, attempts: int, conflict: VersionConflict | None, streams: Sequence[Stream]
    ) -> None:
        self.conflict = conflict
        told = "the streams kept changing"
        if conflict is not None:
            names = [stream.name for stream in streams if stream.id == conflict.stream_id]
            name = names[0] if names else str(conflict.stream_id)
            told = (
                f"{name} kept changing (at last: expected version {conflict.expected}, "
                f"found {conflict.actual})"
            )
        super().__init__(f"{told}; gave up after {attempts} attempts")


@dataclass(frozen=True, slots=True)
class Context:
    """Who sends a command and what led to it.

    ``command_id`` makes a retry safe: the same id is answered with the first result.
    ``digest`` replaces the command's own digest where the sender's words are known better
    (HTTP: the body as it was sent, before the server put its time into it).
    """

    organisation_id: UUID
    actor: str
    roles: frozenset[Role]
    command_id: UUID = field(default_factory=uuid4)
    correlation_id: UUID = field(default_factory=uuid4)
    causation_id: UUID | None = None
    digest: bytes | None = None
    #: Refuse the command if its own stream is at another version when it is stored.
    expected: Expected | None = None
    #: The commands that a key is good for; None: all that the roles allow.
    scopes: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Rights:
    """What somebody may do: by which roles and, for a key, of that only which scopes."""

    roles: frozenset[Role] = frozenset()
    scopes: frozenset[str] | None = None

    def allow(self, command: str, roles: Collection[Role]) -> bool:
        """Whether they allow a command that is for these roles."""
        return not self.roles.isdisjoint(roles) and (self.scopes is None or command in self.scopes)


@dataclass(frozen=True, slots=True)
class Expected:
    """At which version the sender has seen the stream that its command is about.

    Args:
        versions: any of these will do.
        any_version: the stream has only to exist.
    """

    versions: frozenset[int] = frozenset()
    any_version: bool = False

    def check(self, stream: Stream, version: int) -> None:
        """Raises VersionMismatch where the stream is at another version."""
        if version not in self.versions and not (self.any_version and version > 0):
            raise VersionMismatch(stream.name, self, version)


class VersionMismatch(Refused):
    """The command's stream is not at a version that its sender has seen."""

    def __init__(self, stream: str, expected: Expected, actual: int) -> None:
        told = "*" if expected.any_version else ", ".join(map(str, sorted(expected.versions)))
        super().__init__(PRECONDITION_FAILED, stream=stream, expected=told, actual=actual)

    @property
    def detail(self) -> str:
        """Which stream, and both versions."""
        expected, actual = self.context["expected"] or "none", self.context["actual"]
        wanted = "that it exists" if expected == "*" else f"version {expected}"
        return f"{self.context['stream']} is at version {actual}; If-Match asked for {wanted}"


#: The code of a command whose stream was at another version than its sender has seen.
PRECONDITION_FAILED = "precondition-failed"
#: A command and what surrounds it.
Sent = tuple[Command, Context]
#: Topic and stored bytes of an event.
Encode = Callable[[Event], tuple[str, bytes]]
#: What became of one command of many.
Result = Receipt | Refused | CommandReused | Forbidden


def command_id(organisation_id: UUID, key: str) -> UUID:
    """The id of a command that is known by a key of the sender's own."""
    return named_id(organisation_id, f"command:{key}")


def digest_of(command: Command) -> bytes:
    """SHA-256 over the command's name and JSON."""
    name = type(command).__name__.encode()
    return hashlib.sha256(name + b"\0" + command.__pydantic_serializer__.to_json(command)).digest()


def derived(context: Context, cause: UUID, step: str) -> Context:
    """The context of a command that follows from an event: its id comes from the event's, so
    that answering the event twice is one command."""
    return replace(context, command_id=named_id(cause, step), causation_id=cause)


def entry_of(
    encode: Encode,
    command: Command,
    context: Context,
    stream: Stream,
    version: int,
    events: Sequence[Event],
) -> Entry:
    """The command's part of an append: its events behind ``version`` of its stream."""
    new = []
    for event in events:
        version += 1
        topic, state = encode(event)
        new.append(NewEvent(stream.id, version, topic, state))
    return _entry(command, context, stream, version, new)


def entry_of_several(
    encode: Encode,
    command: Command,
    context: Context,
    own: Stream,
    version: int,
    events: Sequence[tuple[Stream, int, Event]],
) -> Entry:
    """As ``entry_of``, of events that stand with their streams and their versions there; the answer
    is the own stream's ``version`` behind them."""
    new = [NewEvent(stream.id, at, *encode(event)) for stream, at, event in events]
    return _entry(command, context, own, version, new)


def _entry(
    command: Command, context: Context, stream: Stream, version: int, new: Sequence[NewEvent]
) -> Entry:
    return Entry(
        context.command_id,
        context.digest or digest_of(command),
        stream.name,
        version,
        context.organisation_id,
        context.actor,
        context.correlation_id,
        context.causation_id,
        new,
        type(command).__name__,
        context.roles,
    )
