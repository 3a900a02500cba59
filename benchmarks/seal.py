"""Seals: the sealer against hashlib alone on the same bytes, and what proofs and the walk cost.

Everything durable, sides interleaved. CHAINLYTICS_BENCH_EVENTS sets the size (1 million events).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

import psycopg
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg_pool import AsyncConnectionPool

from benchmarks import deliveries
from benchmarks.peers.peer import own_database
from chainlytics import verifier
from chainlytics.application import REQUESTS
from eventstore import Entry, Log, NewEvent, Unit, Writer, prepare_database
from eventstore.seals import leaves
from eventstore.seals.proofs import Proofs
from eventstore.seals.sealer import Sealer, keep_sealed
from eventstore.seals.verification import verify

Say = Callable[[str], None]
Figures = dict[str, Any]

_TARGETS = {
    "seal_vs_sha256": "at least 0.25",
    "verify_vs_sha256": "report",
    "inclusion_ms_p50": "report",
    "consistency_ms_p50": "report",
    "check_ms_p50": "report",
    "append_beside_sealer": "report",
}
_ROUNDS, _PROOFS = 3, 300
_SEALS = "seal_tiles, seal_trees, seal_heads, seal_decisions, seal_keys"


def run(url: str, say: Say) -> Figures:
    """All figures; ratios are of events a second."""
    events = int(os.environ.get("CHAINLYTICS_BENCH_EVENTS", 1_000_000))
    figures: Figures = {"events": events}
    with own_database(url, "seals") as database:
        deliveries.fill(database, events, say)
        figures |= _against_hashlib(database, events, say)
        figures |= uvloop.run(_proofs(database, events))
        say(f"proofs over {events:,} events: {figures['inclusion_ms_p50']} ms")
    with own_database(url, "beside") as database:
        prepare_database(database)
        figures |= _appends(database, say)
    for name, target in _TARGETS.items():
        say(f"{name:24} {figures[name]:>10,}   {target}")
    return figures


def _against_hashlib(database: str, events: int, say: Say) -> Figures:
    """Seal the whole log, in turn with hashing the very same leaves in memory, and walk it."""
    hashed, sealed, walked = list[float](), list[float](), list[float]()
    key = Ed25519PrivateKey.generate()
    for number in range(_ROUNDS):
        hashed.append(events / _hashing(database, events))
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(f"TRUNCATE {_SEALS}")
            connection.execute("CHECKPOINT")
        begun = perf_counter()
        newest = Sealer(database, lambda: key, REQUESTS).seal()
        sealed.append(events / (perf_counter() - begun))
        assert newest is not None
        assert newest.size == events
        begun = perf_counter()
        verdict = verify(database, REQUESTS)
        walked.append(events / (perf_counter() - begun))
        assert verdict.holds
        assert verdict.sealed == events
        say(
            f"{number + 1} of {_ROUNDS}: hashlib {hashed[-1]:,.0f}/s, sealer {sealed[-1]:,.0f}/s, "
            f"walk {walked[-1]:,.0f}/s"
        )
    return {
        "seal_vs_sha256": _ratio(sealed, hashed),
        "verify_vs_sha256": _ratio(walked, hashed),
        "sha256_per_second": round(median(hashed)),
        "seal_per_second": round(median(sealed)),
        "verify_per_second": round(median(walked)),
    }


def _hashing(database: str, events: int) -> float:
    """Seconds to hash every leaf by hashlib, the leaves in memory already."""
    took, after = 0.0, 0
    with psycopg.connect(database, autocommit=True) as connection:
        while after < events:
            to = min(events, after + 100_000)
            rows = [row for some in leaves.rows(connection, after, to) for row in some]
            begun = perf_counter()
            for row in rows:
                sha256(row).digest()
            took += perf_counter() - begun
            after = to
    return took


async def _proofs(database: str, events: int) -> Figures:
    """Milliseconds for a proof of one event and of growth, and for checking one."""
    included, grown, checked = list[float](), list[float](), list[float]()
    random.seed(1)
    async with AsyncConnectionPool(database, min_size=2, kwargs={"autocommit": True}) as pool:
        proofs = Proofs(Log(pool))
        sizes = [head.size for head in await proofs.heads(2**62, 10_000)][1:]
        for number in range(_PROOFS):
            begun = perf_counter()
            proof = await proofs.inclusion([random.randint(1, events)])
            included.append(perf_counter() - begun)
            if number % 10 == 0:
                begun = perf_counter()
                verifier.check(proof)
                checked.append(perf_counter() - begun)
                if sizes:
                    begun = perf_counter()
                    await proofs.consistency(random.choice(sizes))
                    grown.append(perf_counter() - begun)
    return {
        "inclusion_ms_p50": _ms(included),
        "inclusion_ms_p99": round(1000 * sorted(included)[int(len(included) * 0.99)], 2),
        "consistency_ms_p50": _ms(grown),
        "check_ms_p50": _ms(checked),
        "inclusion_hashes": (events - 1).bit_length(),
    }


def _appends(database: str, say: Say) -> Figures:
    """Appends a second beside a sealer that seals every tenth of a second, against none."""
    alone, beside = list[float](), list[float]()
    key = Ed25519PrivateKey.generate()
    sealer = Sealer(database, lambda: key, REQUESTS)

    async def measured(sealing: bool) -> float:
        async with Writer(database) as writer:
            task = (
                asyncio.create_task(keep_sealed(sealer, every=timedelta(seconds=0.1)))
                if sealing
                else None
            )
            begun = perf_counter()
            await asyncio.gather(*(_sender(writer, 100) for _ in range(64)))
            took = perf_counter() - begun
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        return 6400 / took

    for _ in range(_ROUNDS):
        alone.append(uvloop.run(measured(False)))
        beside.append(uvloop.run(measured(True)))
        say(f"appends: alone {alone[-1]:,.0f}/s, beside the sealer {beside[-1]:,.0f}/s")
    return {
        "append_beside_sealer": _ratio(beside, alone),
        "append_per_second": round(median(alone)),
    }


async def _sender(writer: Writer, count: int) -> None:
    state = b'{"note":"' + b"x" * 319 + b'"}'
    for _ in range(count):
        stream = uuid4()
        event = NewEvent(stream, 1, "bench.Noted.v1", state)
        entry = Entry(uuid4(), b"digest", "n", 1, stream, "bench", uuid4(), None, [event])
        await writer.append(Unit([entry], {stream: 0}))


def _ms(seconds: list[float]) -> float:
    return round(1000 * median(seconds), 2) if seconds else 0.0


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return round(median(a / b for a, b in zip(ours, theirs, strict=True)), 2)
