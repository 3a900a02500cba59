"""The subject of the append and load benchmarks: notebooks, whose notes are events of 300 bytes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from uuid import UUID, uuid4

from psycopg_pool import AsyncConnectionPool

from commands import Bus, Context, Handler, stream_id
from commands.handler import Stream
from domain.access import Role
from domain.catalogue import Catalogue
from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event, Id, Text
from eventstore import Log, Writer, prepare_database
from eventstore.streams import Streams

ORGANISATION = UUID(int=7)
SERVICE = frozenset({Role.SERVICE})
STATE_BYTES = 300


class TakeNote(Command):
    """Write a note into a notebook that is not full."""

    notebook: Id
    text: Text


class NoteTaken(Event):
    """A note was written."""

    notebook: str
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Notebook:
    """What the rule needs to know."""

    notes: int = 0
    characters: int = 0


def evolve(notebook: Notebook, event: NoteTaken) -> Notebook:
    """The notebook after one more note."""
    return Notebook(event.number, notebook.characters + len(event.text))


NOTEBOOKS = Decider(initial=Notebook(), evolve=evolve)


def take(notebook: Notebook, command: TakeNote) -> Sequence[Event]:
    """Write a note, unless the notebook is full."""
    if notebook.characters > 10**9:
        raise Refused("notebook.full", notebook=command.notebook)
    return [NoteTaken(notebook=command.notebook, number=notebook.notes + 1, text=command.text)]


HANDLERS: Mapping[type[Command], Handler] = {
    TakeNote: Handler(
        command=TakeNote,
        roles=SERVICE,
        stream=lambda command: f"notebooks/{command.notebook}",
        decider=NOTEBOOKS,
        decide=lambda command, _, notebook: take(notebook, command),
    )
}
CATALOGUE = Catalogue({"bench": (NoteTaken,)}, {}, {})
_EMPTY = NoteTaken(notebook="0" * 12, number=100, text="")
_TEXT = "x" * (STATE_BYTES - len(CATALOGUE.encode(_EMPTY)[1]))


def command(notebook: str) -> tuple[TakeNote, Context]:
    """A command whose event has 300 bytes, and its context, of an id of its own."""
    return TakeNote(notebook=notebook, text=_TEXT), Context(ORGANISATION, "bench", SERVICE)


@asynccontextmanager
async def open_bus(url: str, *, snapshot_every: int = 100) -> AsyncIterator[Bus]:
    """A bus for notes on a database, prepared where it is empty."""
    prepare_database(url)
    async with (
        AsyncConnectionPool(url, open=False, kwargs={"autocommit": True}) as pool,
        Streams(url) as streams,
        Writer(url) as writer,
    ):
        yield Bus(
            Log(pool),
            streams,
            writer,
            HANDLERS,
            catalogue=CATALOGUE,
            snapshot_every=snapshot_every,
        )


async def closed_loop(bus: Bus, callers: int, sent: Iterable[tuple[TakeNote, Context]]) -> float:
    """Seconds for the commands, each caller waiting for its answer before the next one."""
    waiting = iter(sent)

    async def call() -> None:
        for command, context in waiting:
            await bus.execute(command, context)

    gc.collect()
    begun = perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    return perf_counter() - begun


def stream_of(notebook: str) -> Stream:
    """The stream of a notebook."""
    name = f"notebooks/{notebook}"
    return Stream(stream_id(ORGANISATION, name), name, NOTEBOOKS)


def names(count: int) -> list[str]:
    """As many new notebooks."""
    return [uuid4().hex[:12] for _ in range(count)]
