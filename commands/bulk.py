"""Many commands through the one bus: in their order, in chunks, safe to stop and to run again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from commands.bus import Bus, Context, Forbidden, command_id
from domain.access import Role
from domain.errors import Refused
from domain.values import Command
from eventstore import CommandReused

if TYPE_CHECKING:
    from commands.bus import Result

CHUNK = 500


@dataclass(frozen=True, slots=True)
class Keyed:
    """A command under a key of its sender's own, so that sending it again changes nothing.

    ``case`` names what it is about; commands of one case share their correlation id.
    ``origin``: where it came from, for a report; ``file:line`` where it was a file.
    """

    key: str
    command: Command
    case: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Sender:
    """On whose behalf commands are sent, and the name that their keys belong to."""

    name: str
    organisation_id: UUID
    actor: str
    roles: frozenset[Role] = frozenset({Role.SERVICE})

    def context(self, keyed: Keyed) -> Context:
        """The context of one command: the same one whenever it is sent."""
        return Context(
            organisation_id=self.organisation_id,
            actor=self.actor,
            roles=self.roles,
            command_id=command_id(self.organisation_id, f"{self.name}:{keyed.key}"),
            correlation_id=uuid5(self.organisation_id, f"{self.name}:{keyed.case or keyed.key}"),
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: ``done`` of ``total`` commands, and what became of them."""

    total: int
    stored: int = 0
    repeated: int = 0
    rejected: int = 0

    @property
    def done(self) -> int:
        """Commands that were answered."""
        return self.stored + self.repeated + self.rejected


OnProgress = Callable[[Progress], None]
#: Told of each command that the bus did not take: what, its rule's code, and why in words.
OnRefusal = Callable[[Keyed, str, str], None]


async def send_all(
    bus: Bus,
    commands: Iterable[Keyed | None],
    sender: Sender,
    *,
    total: int,
    on_refusal: OnRefusal,
    on_progress: OnProgress = lambda _: None,
    chunk: int = CHUNK,
) -> Progress:
    """Run commands in their order; a refused one does not hold up the rest.

    ``commands`` is read in a worker thread, one chunk ahead of the one that commits. None in it
    stands for a command that could not be made; it counts as rejected. The same chunk is stored
    whole or not at all, so whoever was stopped runs it again from the start.

    Raises:
        LogUnavailable, TooMuchContention: of the chunk nothing was stored, or all.
    """
    source = iter(commands)
    progress = Progress(total)
    ready = await asyncio.to_thread(_take, source, sender, chunk)
    while ready:
        # One after the other: commands of a later chunk build on those of an earlier one.
        results, following = await asyncio.gather(
            bus.execute_many([(keyed.command, context) for keyed, context in ready.sendable]),
            asyncio.to_thread(_take, source, sender, chunk),
        )
        progress = _counted(progress, ready, results, on_refusal)
        on_progress(progress)
        ready = following
    return progress


@dataclass(frozen=True, slots=True)
class _Chunk:
    size: int
    sendable: Sequence[tuple[Keyed, Context]]

    def __bool__(self) -> bool:
        return self.size > 0


def _take(source: Iterator[Keyed | None], sender: Sender, chunk: int) -> _Chunk:
    taken = list(islice(source, chunk))
    return _Chunk(len(taken), [(keyed, sender.context(keyed)) for keyed in taken if keyed])


def _counted(
    progress: Progress, chunk: _Chunk, results: Sequence[Result], on_refusal: OnRefusal
) -> Progress:
    stored = repeated = 0
    for (keyed, _), result in zip(chunk.sendable, results, strict=True):
        match result:
            case Refused():
                on_refusal(keyed, result.code, result.detail)
            case CommandReused():
                on_refusal(keyed, "command.reused", "was sent before with other values")
            case Forbidden():
                on_refusal(keyed, "command.forbidden", str(result))
            case _ if result.repeated:
                repeated += 1
            case _:
                stored += 1
    return replace(
        progress,
        stored=progress.stored + stored,
        repeated=progress.repeated + repeated,
        rejected=progress.rejected + chunk.size - stored - repeated,
    )
