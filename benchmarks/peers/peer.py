"""What every peer of the append benchmark offers, and the clients that drive those in Python."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

HERE = Path(__file__).parent
BODY = {"note": "x" * 288}
PAYLOAD = json.dumps(BODY)  # 300 bytes, as JSON for the stores that want it


class Miscounted(Exception):
    """A store does not hold the events it acknowledged, so its rate says nothing."""


@dataclass(frozen=True)
class Appended:
    """What a store acknowledged: `warm` events before the clock ran, `events` while it ran."""

    warm: int
    events: int
    seconds: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


class Store(Protocol):
    """A running, empty event store of a peer."""

    def append(self, clients: int, seconds: float) -> Appended:
        """Append single events of 300 bytes by `clients` concurrent clients, versions checked."""
        ...

    def count(self) -> int:
        """How many events it holds."""
        ...


class Peer(Protocol):
    """An event store we are compared with."""

    name: str

    def missing(self) -> str | None:
        """Why it cannot run here and how to install it; None when it can."""
        ...

    def open(self, url: str) -> AbstractContextManager[Store]:
        """Install it in a database of its own on the server of `url`; everything goes at exit."""
        ...

    def append(self, url: str, clients: int, seconds: float) -> float:
        """Durable appends of single events a second. Raises Miscounted if events are not there."""
        with self.open(url) as store:
            before = store.count()
            appended = store.append(clients, seconds)
            stored = store.count() - before
        if stored != appended.warm + appended.events:
            raise Miscounted(f"{self.name} holds {stored} events of {appended}")
        return appended.rate


Client = Callable[[int], AbstractContextManager[Callable[[], object]]]


def in_threads(clients: int, seconds: float, client: Client) -> Appended:
    """Let each of `clients` threads open its client by number and call it until time is up.

    Each calls once before the clock starts: connections, plans and function caches are warm.
    """
    ready = threading.Barrier(clients)

    def drive(number: int) -> tuple[int, float, float]:
        try:
            with client(number) as append:
                append()
                ready.wait()
                begun, done = perf_counter(), 0
                while perf_counter() - begun < seconds:
                    append()
                    done += 1
                return done, begun, perf_counter()
        except BaseException:
            ready.abort()  # nobody shall wait for a client that failed
            raise

    with ThreadPoolExecutor(clients) as pool:
        outcomes = [pool.submit(drive, number) for number in range(clients)]
    errors = [error for outcome in outcomes if (error := outcome.exception()) is not None]
    if errors:  # a broken barrier is what the others saw of the first failure
        raise min(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError))
    done, begun, ended = zip(*(outcome.result() for outcome in outcomes), strict=True)
    return Appended(clients, sum(done), max(ended) - min(begun))


@contextmanager
def own_database(url: str, name: str) -> Iterator[str]:
    """A new database on the server of `url`, named after a peer, dropped at exit."""
    # The random part: no two runs meet, and no database of somebody else is ever dropped.
    database = f"peer_{name.replace('-', '_')}_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    try:
        yield urlunsplit(urlsplit(url)._replace(path=f"/{database}"))
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(database)))


def rows_of(url: str, table: sql.Composable) -> int:
    """How many rows a table holds, seen by a connection of its own."""
    with psycopg.connect(url) as connection:
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()
    assert row is not None
    return int(row[0])
