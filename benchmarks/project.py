"""Projections: live folds, rebuilds, latency and memory, against a runner and bare COPY.

Everything durable, one run, sides interleaved. Both sides of a comparison must have made the same
table, or the run fails. CHAINLYTICS_BENCH_EVENTS and CHAINLYTICS_BENCH_MOST set the sizes of the
log (1 and 10 million); without a larger one, CHAINLYTICS_BENCH_MOST=0, memory is measured once.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

import psycopg
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg import AsyncConnection

from benchmarks import backdated, deliveries, latency, rebuilding
from benchmarks.deliveries import DELIVERIES
from benchmarks.peers import projection_runner
from benchmarks.peers.peer import own_database
from benchmarks.peers.projection_runner import OneStatement
from chainlytics.application import REQUESTS
from eventstore.archive.writer import Archive
from eventstore.log import Connection
from eventstore.seals.sealer import Sealer
from projections import store
from projections.projector import Projector
from projections.rebuild import rebuild
from projections.segments import DECODER, typed

Say = Callable[[str], None]
Figures = dict[str, Any]

#: What is wanted: at least, or at most.
_TARGETS = {
    "live_vs_runner": "at least 40",
    "live_vs_runner_by_one_statement": "report",
    "rebuild_vs_floor": "at least 0.5",
    "rebuild_segments_vs_floor": "at least 2",
    "archive_per_second": "report",
    "archive_mb_per_million": "report",
    "latency_ms_p50": "under 15",
    "latency_ms_p99": "under 60",
    "peak_rss_mb": "at most 1,500",
    "rss_1m_mb": "report",
    "rss_ratio": "at most 1.3",
    "backdated_ms": "report",
    "backdated_searched_ms": "report",
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured. ``runner_events``: what the peer, which is slow, folds in a round."""

    events: int = 1_000_000
    most: int = 10_000_000
    rounds: int = 3
    runner_events: int = 20_000
    commands_per_second: float = 100
    seconds: float = 20
    backdated: int = 10

    @classmethod
    def from_environment(cls) -> Sizes:
        """The sizes of the figures in docs/benchmarks.md, or those of the environment."""
        events = int(os.environ.get("CHAINLYTICS_BENCH_EVENTS", cls.events))
        return cls(
            events=events,
            most=int(os.environ.get("CHAINLYTICS_BENCH_MOST", cls.most)),
            runner_events=min(cls.runner_events, max(1, events // cls.rounds // 2)),
        )


def run(url: str, say: Say, sizes: Sizes | None = None) -> Figures:
    """All figures; ratios are above 1 where we are faster than what we are held against.

    Raises:
        TablesDiffer: two sides made different tables.
    """
    sizes = sizes or Sizes.from_environment()
    figures: Figures = {}
    with own_database(url, "deliveries") as database:
        deliveries.fill(database, sizes.events, _progress)
        figures |= _against_runner(url, database, sizes)
        figures |= _against_floor(database, sizes)
        figures |= _latencies(url, sizes)
        figures |= _backdated(url, sizes)
        figures |= _memory(database, sizes)
    with own_database(url, "archived") as database:
        deliveries.fill(database, sizes.events, _progress)
        figures |= _segments_against_floor(database, sizes)
    with psycopg.connect(url) as connection:
        for name in ("fsync", "synchronous_commit"):
            row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            assert row is not None
            figures[name] = row[0]
    figures["sizes"] = asdict(sizes)
    for name, target in _TARGETS.items():
        if name in figures:
            say(f"{name:32} {figures[name]:>12,}   {target}")
    return figures


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# live, against the eventsourcing package


def _against_runner(url: str, database: str, sizes: Sizes) -> Figures:
    theirs, quicker, ours = list[float](), list[float](), list[float]()
    wanted = deliveries.truth(database, sizes.events)
    of_runner = 2 * sizes.rounds * sizes.runner_events
    with projection_runner.opened(url, database, of_runner) as runner:
        for number in range(sizes.rounds):
            _checkpoint(database)
            theirs.append(runner.fold(sizes.runner_events))
            _checkpoint(database)
            quicker.append(runner.fold(sizes.runner_events, OneStatement))
            _checkpoint(database)
            ours.append(sizes.events / uvloop.run(_live(database)))
            deliveries.check_same("our live table", deliveries.contents(database), wanted)
            _progress(
                f"live {number + 1} of {sizes.rounds}: runner {theirs[-1]:,.0f}/s, "
                f"by one statement {quicker[-1]:,.0f}/s, ours {ours[-1]:,.0f}/s"
            )
        # The same events folded by us: one table, whoever makes it.
        uvloop.run(_live(runner.url))
        same = deliveries.contents(runner.url)
        found = deliveries.contents(runner.url, projection_runner.THEIRS)
        deliveries.check_same("the runner's table", found, same)
        deliveries.check_same("our table", same, deliveries.truth(runner.url, of_runner))
    return {
        "live_vs_runner": _ratio(ours, theirs),
        "live_vs_runner_by_one_statement": _ratio(ours, quicker),
        "live_per_second": round(median(ours)),
        "runner_per_second": round(median(theirs)),
        "runner_by_one_statement_per_second": round(median(quicker)),
        "runner_sampled_events": of_runner,
        "table_rows": wanted.rows,
    }


async def _live(url: str) -> float:
    """Seconds to fold the whole log into an empty table by the projector; all of it durable."""
    projector = Projector(url, [DELIVERIES])
    await projector.prepare()
    connection: Connection
    async with (
        await AsyncConnection.connect(url, autocommit=True) as connection,
        connection.transaction(),
    ):
        await store.start_over(connection, [DELIVERIES])
    begun = perf_counter()
    reached = await projector.catch_up()
    took = perf_counter() - begun
    assert reached == deliveries.head(url)
    return took


# rebuild, against COPY


def _against_floor(database: str, sizes: Sizes) -> Figures:
    ours, floor = list[float](), list[float]()
    wanted = deliveries.truth(database, sizes.events)
    for number in range(sizes.rounds):
        _checkpoint(database)
        floor.append(sizes.events / _copied_out(database, sizes.events))
        _checkpoint(database)
        _empty(database)
        begun = perf_counter()
        events = uvloop.run(rebuild(database, DELIVERIES))
        ours.append(events / (perf_counter() - begun))
        assert events == sizes.events
        deliveries.check_same("our rebuilt table", deliveries.contents(database), wanted)
        _progress(
            f"rebuild {number + 1} of {sizes.rounds}: COPY out {floor[-1]:,.0f}/s, "
            f"ours {ours[-1]:,.0f}/s"
        )
    return {
        "rebuild_vs_floor": _ratio(ours, floor),
        "rebuild_per_second": round(median(ours)),
        "floor_per_second": round(median(floor)),
    }


def _segments_against_floor(database: str, sizes: Sizes) -> Figures:
    """As above, from an archive that our own writer has written of the same log."""
    ours, floor = list[float](), list[float]()
    wanted = deliveries.truth(database, sizes.events)
    with tempfile.TemporaryDirectory(prefix="chainlytics-bench-") as folder:
        key = Ed25519PrivateKey.generate()
        sealed = Sealer(database, lambda: key, REQUESTS).seal()
        assert sealed is not None
        assert sealed.size == sizes.events
        begun = perf_counter()
        written = Archive(database, folder, typed, decoder=DECODER).write(now=True)
        took = perf_counter() - begun
        assert written[-1].last == sizes.events
        stored = sum(file.bytes for segment in written for file in segment.files)
        _progress(f"archived: {sizes.events / took:,.0f}/s, {stored / 1e6:,.0f} MB")
        uvloop.run(Projector(database, [DELIVERIES]).create())
        for number in range(sizes.rounds):
            _checkpoint(database)
            floor.append(sizes.events / _copied_out(database, sizes.events))
            _checkpoint(database)
            _empty(database)
            begun = perf_counter()
            events = uvloop.run(rebuild(database, DELIVERIES))
            ours.append(events / (perf_counter() - begun))
            assert events == sizes.events
            made = deliveries.contents(database)
            deliveries.check_same("our table from segments", made, wanted)
            _progress(
                f"rebuild from segments {number + 1} of {sizes.rounds}: COPY out "
                f"{floor[-1]:,.0f}/s, ours {ours[-1]:,.0f}/s"
            )
    return {
        "rebuild_segments_vs_floor": _ratio(ours, floor),
        "rebuild_segments_per_second": round(median(ours)),
        "archive_per_second": round(sizes.events / took),
        "archive_mb_per_million": round(stored / sizes.events, 1),
    }


def _copied_out(url: str, events: int) -> float:
    """Seconds to COPY all columns of the log out in binary and throw them away; psycopg's own loop
    over libpq, without an object for each row, is as fast as psql."""
    with psycopg.connect(url, autocommit=True) as connection:
        wire = connection.pgconn
        begun = perf_counter()
        wire.exec_(b"COPY events TO STDOUT (FORMAT BINARY)")
        messages = 0
        while wire.get_copy_data(0)[0] > 0:
            messages += 1
        took = perf_counter() - begun
        while wire.get_result() is not None:
            pass
    assert messages >= events, messages
    return took


def _empty(url: str) -> None:
    """Leave nothing of the rows that the last round made: what is checked is what this one does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE read_models.{DELIVERIES.name}")


# latency, back-dated events, memory


def _latencies(url: str, sizes: Sizes) -> Figures:
    found = uvloop.run(latency.measure(url, sizes.commands_per_second, sizes.seconds, _progress))
    return {
        "latency_ms_p50": round(found.p50, 2),
        "latency_ms_p99": round(found.p99, 2),
        "latency_commands": found.commands,
        "latency_commands_per_second": round(found.per_second, 1),
        "command_ms_p50": round(found.command_p50, 2),
    }


def _backdated(url: str, sizes: Sizes) -> Figures:
    found = uvloop.run(backdated.measure(url, sizes.events, sizes.backdated, _progress))
    return {
        "backdated_ms": round(found.located, 2),
        "backdated_searched_ms": round(found.searched, 2),
        "step_in_order_ms": round(found.in_order, 2),
    }


def _memory(database: str, sizes: Sizes) -> Figures:
    small = _rebuilt(database, sizes.events)
    figures: Figures = {"rss_1m_mb": round(small.peak_rss_mb)}
    if sizes.most <= sizes.events:
        return figures
    deliveries.extend(database, sizes.most, _progress)
    large = _rebuilt(database, sizes.most)
    return figures | {
        "peak_rss_mb": round(large.peak_rss_mb),
        "rss_ratio": round(large.peak_rss_mb / small.peak_rss_mb, 2),
        "rebuild_most_per_second": round(large.events / large.seconds),
    }


def _rebuilt(database: str, events: int) -> rebuilding.Rebuilt:
    _empty(database)
    found = rebuilding.in_process(database)
    assert found.events == events
    wanted = deliveries.truth(database, events)
    deliveries.check_same("the table of the process", deliveries.contents(database), wanted)
    _progress(f"rebuilt {events:,} events with {found.peak_rss_mb:,.0f} MB at most")
    return found


def _checkpoint(url: str) -> None:
    """What was written before is not to be written while the next clock runs."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return round(median(a / b for a, b in zip(ours, theirs, strict=True)), 2)
