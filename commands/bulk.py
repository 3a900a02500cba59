"""Many commands through the one bus: in their order, in chunks, safe to stop and to run again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from commands.batch import Batch, Line
from commands.bus import Bus
from commands.context import Context, Forbidden, Result, Rights, Sent, command_id, digest_of
from domain.access import Role
from domain.errors import Refused
from domain.values import Command
from eventstore import CommandReused
from eventstore.ids import named_id

CHUNK = 500
_BREATH = 50  # commands
_AT_ONCE = 2  # chunks: one commits, one is decided


class Keyed(NamedTuple):
    """A command under a key of its sender's own, so that sending it again changes nothing.

    ``case`` names what it is about; commands of one case share their correlation id, one without
    a case has its command id for it.
    ``origin``: where it came from, for a report; ``file:line`` where it was a file.
    """

    key: str
    command: Command
    case: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Sender:
    """On whose behalf commands are sent, and the name that their keys belong to. ``scopes``: as in
    a context."""

    name: str
    organisation_id: UUID
    actor: str
    roles: frozenset[Role] = frozenset({Role.SERVICE})
    scopes: frozenset[str] | None = None

    def context(self, keyed: Keyed) -> Context:
        """The context of one command: the same one whenever it is sent."""
        id_ = command_id(self.organisation_id, f"{self.name}:{keyed.key}")
        case = keyed.case
        return Context(
            self.organisation_id,
            self.actor,
            self.roles,
            id_,
            named_id(self.organisation_id, f"{self.name}:{case}") if case else id_,
            None,
            digest_of(keyed.command),
            None,
            self.scopes,
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
#: Asked before each chunk what its sender may do by now; what it raises ends the sending.
AskRights = Callable[[], Awaitable[Rights]]


async def send_all(
    bus: Bus,
    commands: Iterable[Keyed | None],
    sender: Sender,
    *,
    total: int,
    on_refusal: OnRefusal,
    on_progress: OnProgress = lambda _: None,
    ask_rights: AskRights | None = None,
    chunk: int = CHUNK,
    dry_run: bool = False,
) -> Progress:
    """Run commands in their order; a refused one does not hold up the rest.

    While one chunk commits the next one is made and decided. None in ``commands`` stands for a
    command that could not be made; it counts as rejected. A chunk is stored whole or not at all;
    whoever was stopped sends all again, and what is stored stays as it is. With ``ask_rights`` each
    chunk is sent with what the sender may do then. With ``dry_run`` all is decided and nothing is
    stored: ``stored`` counts what would be.

    Raises:
        LogUnavailable, TooMuchContention: of each chunk under way nothing was stored, or all.
    """
    source = iter(commands)
    progress = Progress(total)
    line = Line()
    running: deque[tuple[_Chunk, asyncio.Task[list[Result]]]] = deque()
    try:
        while True:
            if ask_rights is not None:
                rights = await ask_rights()
                sender = replace(sender, roles=rights.roles, scopes=rights.scopes)
            ready = await _take(bus, source, sender, chunk)
            if ready:
                take = bus.rehearse if dry_run else bus.run
                running.append((ready, asyncio.create_task(take(ready.batch, line))))
            if not running:
                return progress
            if len(running) == _AT_ONCE or not ready:
                oldest, task = running.popleft()
                progress = _counted(progress, oldest, await task, on_refusal)
                on_progress(progress)
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)


class _Chunk(NamedTuple):
    size: int
    keyed: Sequence[Keyed]
    batch: Batch

    def __bool__(self) -> bool:
        return self.size > 0


async def _take(bus: Bus, source: Iterator[Keyed | None], sender: Sender, chunk: int) -> _Chunk:
    size = 0
    sendable: list[Keyed] = []
    sent: list[Sent] = []
    for keyed in islice(source, chunk):
        # Now and then the loop, so that what commits meanwhile is sent and answered. A thread
        # instead would wait for Python's lock as long as it would hold it.
        if not size % _BREATH:
            await asyncio.sleep(0)
        size += 1
        if keyed is not None:
            sendable.append(keyed)
            sent.append((keyed.command, sender.context(keyed)))
    await asyncio.sleep(0)
    return _Chunk(size, sendable, bus.batch(sent))


def _counted(
    progress: Progress, chunk: _Chunk, results: Sequence[Result], on_refusal: OnRefusal
) -> Progress:
    stored = repeated = 0
    for keyed, result in zip(chunk.keyed, results, strict=True):
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
