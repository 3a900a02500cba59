"""Loading: a stream of 1000 events from its snapshot and tail against without."""

from __future__ import annotations

import gc
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import psycopg
import uvloop

from benchmarks import notes
from benchmarks.peers.peer import own_database
from commands.handler import Stream
from commands.states import States
from eventstore.streams import Streams

EVENTS = 1_000
TAIL = 5
STREAMS = 20
ROUNDS = 15
Say = Callable[[str], None]


def run(url: str, say: Say) -> dict[str, Any]:
    """`load_1000`: how many times faster with a snapshot; single loads, nothing in memory."""
    with own_database(url, "load") as database:
        return uvloop.run(_run(database, say))


async def _run(url: str, say: Say) -> dict[str, Any]:
    books = notes.names(STREAMS)
    async with notes.open_bus(url, snapshot_every=EVENTS - TAIL) as bus:
        for _ in range(EVENTS):
            await notes.closed_loop(bus, STREAMS, [notes.command(book) for book in books])
    streams = [notes.stream_of(book) for book in books]
    with psycopg.connect(url) as connection:
        taken = connection.execute("SELECT version, count(*) FROM snapshots GROUP BY 1").fetchall()
    assert taken == [(EVENTS - TAIL, STREAMS)], taken
    with_ms: list[float] = []
    without_ms: list[float] = []
    with_at_once_ms: list[float] = []
    without_at_once_ms: list[float] = []
    async with Streams(url) as wire:
        snapshots = States(wire, notes.CATALOGUE, size=STREAMS, every=10 * EVENTS)
        events = States(wire, notes.CATALOGUE, size=STREAMS, every=10 * EVENTS, snapshots=False)
        for number in range(ROUNDS):
            gc.collect()
            with_ms += [await _loaded(snapshots, [stream]) for stream in streams]
            without_ms += [await _loaded(events, [stream]) for stream in streams]
            with_at_once_ms.append(await _loaded(snapshots, streams))
            without_at_once_ms.append(await _loaded(events, streams))
            say(
                f"round {number + 1} of {ROUNDS}: with a snapshot {with_ms[-1]:.3f} ms, "
                f"without {without_ms[-1]:.3f} ms"
            )
    return {
        "load_1000": round(median(without_ms) / median(with_ms), 1),
        "load_1000_of_20_at_once": round(median(without_at_once_ms) / median(with_at_once_ms), 1),
        "events": EVENTS,
        "tail": TAIL,
        "with_snapshot_ms": round(median(with_ms), 3),
        "with_snapshot_best_ms": round(min(with_ms), 3),
        "without_ms": round(median(without_ms), 3),
        "without_best_ms": round(min(without_ms), 3),
    }


async def _loaded(states: States, streams: list[Stream]) -> float:
    """Milliseconds for a load of streams that are not in memory."""
    for stream in streams:
        states.forget(stream.id)
    begun = perf_counter()
    known = await states.load(streams)
    took = perf_counter() - begun
    assert all(one.version == one.state.notes == EVENTS for one in known)
    return took * 1e3
