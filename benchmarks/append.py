"""Appending: commands through the bus against bare PostgreSQL and other event stores."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

import uvloop

from benchmarks import notes
from benchmarks.peers import (
    PEERS,
    EventsourcingPackage,
    Peer,
    adbc_rows,
    copy_binary,
    install,
    raw_inserts,
)
from benchmarks.peers.peer import own_database
from commands import Bus
from commands.bulk import Keyed, Sender, send_all

ROUNDS = 5
SECONDS = 1.5
COMMANDS = {1: 1_500, 64: 15_000, 512: 30_000}
NOTEBOOKS = 2_000
IMPORTED = 100_000
COPY_BATCHES = (512, 10_000)
#: Threads of the peers that were best for them; eventsourcing's are tried in the first round.
CLIENTS = 64
THREADS = (1, 2, 4, 8, 16)
#: The eventsourcing package twice: as it comes (get reads 10 to 30 events), and with its cache on.
_PEERS = (EventsourcingPackage(cached=False), *PEERS)
Say = Callable[[str], None]
Rates = dict[str, list[float]]


def run(url: str, say: Say) -> dict[str, Any]:
    """All figures: ratios of rates, the median of the rounds' own ratios, in one run.

    Each round measures everything once, so that a slow moment of the machine hits all alike.
    Everything is in a fresh database of its own, with fsync and synchronous_commit on.
    """
    install()
    rates: Rates = {}
    absent: dict[str, str] = {}

    def note(name: str, rate: float) -> None:
        rates.setdefault(name, []).append(rate)
        say(f"  {name:28} {rate:>12,.0f}/s")

    threads = _best_threads(url, say)
    for number in range(ROUNDS):
        say(f"round {number + 1} of {ROUNDS}")
        note("raw", raw_inserts(url, SECONDS))
        for name, rate in uvloop.run(_ours(url)).items():
            note(name, rate)
        for batch in COPY_BATCHES:
            note(f"copy_{batch}", copy_binary(url, 50_000, batch, answers=True))
            note(f"copy_events_{batch}", copy_binary(url, 50_000, batch))
        note("adbc", adbc_rows(url, IMPORTED))
        for peer in _PEERS:
            missing = peer.missing()
            if missing is not None:
                absent[peer.name] = missing
                continue
            clients = threads.get(peer.name, CLIENTS)
            note(peer.name, peer.append(url, clients, SECONDS))
    result = _ratios(rates)
    result["eventsourcing_threads"] = threads
    result["missing"] = absent
    result["median_per_second"] = {name: round(median(found)) for name, found in rates.items()}
    result["best_per_second"] = {name: round(max(found)) for name, found in rates.items()}
    return result


def _ratios(rates: Rates) -> dict[str, Any]:
    def ratio(ours: str, theirs: str) -> float | None:
        if theirs not in rates:
            return None
        pairs = zip(rates[ours], rates[theirs], strict=True)
        return round(median(a / b for a, b in pairs), 3)

    def best(prefix: str) -> str:
        names = (f"{prefix}_{batch}" for batch in COPY_BATCHES)
        return max(names, key=lambda name: median(rates[name]))

    return {
        "single_vs_raw": ratio("c1", "raw"),
        "c64_vs_eventsourcing": ratio("c64", "eventsourcing-uncached"),
        "c64_vs_eventsourcing_cached": ratio("c64", "eventsourcing"),
        "c64_vs_eventsourcing_recorder": ratio("c64", "eventsourcing-recorder"),
        "c512_vs_copy": ratio("c512", best("copy")),
        "c512_vs_copy_of_512": ratio("c512", "copy_512"),
        "c512_vs_copy_of_events_alone": ratio("c512", best("copy_events")),
        "import_vs_copy": ratio("import", "adbc"),
        "import_vs_copy_of_all_rows": ratio("import", best("copy")),
        "c64_vs_message_db": ratio("c64", "message-db"),
        "c64_vs_emmett": ratio("c64", "emmett"),
        "c64_vs_umadb": ratio("c64", "umadb"),
        "c64_vs_raw": ratio("c64", "raw"),
    }


def _best_threads(url: str, say: Say) -> dict[str, int]:
    """How many threads suit the eventsourcing package best, on this machine."""
    best: dict[str, int] = {}
    for peer in _of_the_package():
        if peer.missing() is None:
            tried = {threads: peer.append(url, threads, SECONDS) for threads in THREADS}
            best[peer.name] = max(tried, key=lambda threads: tried[threads])
            told = ", ".join(f"{threads}: {rate:,.0f}/s" for threads, rate in tried.items())
            say(f"{peer.name} by threads: {told}")
    return best


def _of_the_package() -> Iterator[Peer]:
    return (peer for peer in _PEERS if peer.name.startswith("eventsourcing"))


async def _ours(url: str) -> dict[str, float]:
    rates: dict[str, float] = {}
    with own_database(url, "log") as database:
        async with notes.open_bus(database) as bus:
            books = notes.names(NOTEBOOKS)
            await notes.closed_loop(bus, 64, [notes.command(book) for book in books])
            for callers, count in COMMANDS.items():
                made = (notes.command(books[number % NOTEBOOKS]) for number in range(count))
                # Peers make what they append while the clock runs, and so do we; COPY is given rows
                # that were made before, and there so are we.
                sent = list(made) if callers == 512 else made
                rates[f"c{callers}"] = count / await notes.closed_loop(bus, callers, sent)
    with own_database(url, "log") as database:
        async with notes.open_bus(database) as bus:
            rates["import"] = IMPORTED / await _imported(bus, IMPORTED)
    return rates


async def _imported(bus: Bus, count: int) -> float:
    """Seconds from lines of JSON to events on the log: parsed, validated, decided, deduplicated."""
    books = notes.names(NOTEBOOKS)
    text = notes.command(books[0])[0].text
    lines = [
        json.dumps({"notebook": books[number % NOTEBOOKS], "text": text}) for number in range(count)
    ]

    def commands() -> Iterator[Keyed]:
        for number, line in enumerate(lines):
            yield Keyed(str(number), notes.TakeNote.model_validate_json(line))

    def refuse(keyed: Keyed, code: str, detail: str) -> None:
        raise AssertionError(f"{keyed.key}: {code} {detail}")

    sender = Sender(uuid4().hex, notes.ORGANISATION, "bench", notes.SERVICE)
    gc.collect()
    begun = perf_counter()
    progress = await send_all(bus, commands(), sender, total=count, on_refusal=refuse)
    took = perf_counter() - begun
    assert progress.stored == count
    return took
