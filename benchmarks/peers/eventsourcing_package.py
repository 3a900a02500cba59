"""The `eventsourcing` package with its own PostgreSQL recorder: get an aggregate, change it, save.

One command appends one event. Its database functions are not used: they take no lock, so that a
reader who follows the log misses events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from uuid import UUID, uuid4

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import StoredEvent
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from benchmarks.peers.peer import (
    PAYLOAD,
    Appended,
    Peer,
    Store,
    in_threads,
    own_database,
    rows_of,
)

SHORT, LONG = 10, 30  # events of a stream: commands take it from the one to the other
TEXT = "x" * 210  # with its time and names an event's state has about 300 bytes
MOST_A_SECOND = 3_000  # aggregates are made ahead for so many commands
# Cached aggregates are neither copied nor brought up to date by a query before each command.
CACHE = {
    "AGGREGATE_CACHE_MAXSIZE": "10000",
    "AGGREGATE_CACHE_FASTFORWARD": "n",
    "DEEPCOPY_FROM_AGGREGATE_CACHE": "n",
}


class Notebook(Aggregate):
    """What the benchmark's commands change."""

    def __init__(self) -> None:
        self.notes = 0

    @event("Noted")
    def note(self, text: str) -> None:
        """Record a note."""
        self.notes += 1


class Notes(Application[UUID]):
    """Keeps notebooks; its name names its table."""


class EventsourcingPackage(Peer):
    """Each append is a command: repository.get of 10-30 events, one method, save.

    `clients` is the size of the pool of threads, and of that of its connections.
    """

    def __init__(self, *, cached: bool = True) -> None:
        """`cached`: aggregates stay in the repository's memory, the fastest its settings allow;
        otherwise as the package comes, each command reads its aggregate's events."""
        self._cached = cached
        self.name = "eventsourcing" if cached else "eventsourcing-uncached"

    def missing(self) -> str | None:
        """Never: the log itself uses the package."""
        return None

    @contextmanager
    def open(self, url: str) -> Iterator[Store]:
        """Let it make its table itself."""
        with own_database(url, self.name) as database:
            store = _Notebooks(database, CACHE if self._cached else {})
            store.application(1).close()
            yield store


class EventsourcingRecorder(Peer):
    """Each append is the recorder's insert_events of a new stream's first event; no aggregate."""

    name = "eventsourcing-recorder"

    def missing(self) -> str | None:
        """Never: the log itself uses the package."""
        return None

    @contextmanager
    def open(self, url: str) -> Iterator[Store]:
        """Let it make its table itself."""
        with own_database(url, self.name) as database:
            store = _Recorded(database, {})
            store.application(1).close()
            yield store


class _Notes:
    def __init__(self, url: str, settings: Mapping[str, str]) -> None:
        self._url = url
        self._settings = settings

    def application(self, clients: int) -> Notes:
        server = conninfo_to_dict(self._url)
        return Notes(
            env={
                "PERSISTENCE_MODULE": "eventsourcing.postgres",
                "POSTGRES_DBNAME": str(server["dbname"]),
                "POSTGRES_HOST": str(server["host"]),
                "POSTGRES_PORT": str(server["port"]),
                "POSTGRES_USER": str(server["user"]),
                "POSTGRES_PASSWORD": str(server.get("password", "")),
                "POSTGRES_POOL_SIZE": str(clients),
                "POSTGRES_MAX_OVERFLOW": "0",
                **self._settings,
            }
        )

    def count(self) -> int:
        return rows_of(self._url, sql.Identifier("notes_events"))


class _Notebooks(_Notes):
    def append(self, clients: int, seconds: float) -> Appended:
        each = math.ceil(MOST_A_SECOND * seconds / clients / (LONG - SHORT))
        with closing(self.application(clients)) as app:
            notebooks = [_notebook() for _ in range(clients * each)]
            app.save(*notebooks)
            ids = [notebook.id for notebook in notebooks]

            @contextmanager
            def client(number: int) -> Iterator[Callable[[], object]]:
                turns = count()

                def append() -> None:
                    turn = next(turns) // (LONG - SHORT) % each
                    notebook: Notebook = app.repository.get(ids[number * each + turn])
                    notebook.note(TEXT)
                    app.save(notebook)

                yield append

            appended = in_threads(clients, seconds, client)
        return replace(appended, warm=appended.warm + len(notebooks) * SHORT)


class _Recorded(_Notes):
    def append(self, clients: int, seconds: float) -> Appended:
        state = PAYLOAD.encode()
        with closing(self.application(clients)) as app:

            @contextmanager
            def client(_number: int) -> Iterator[Callable[[], object]]:
                yield lambda: app.recorder.insert_events(
                    [StoredEvent(uuid4(), 1, "benchmarks:Noted", state)]
                )

            return in_threads(clients, seconds, client)


def _notebook() -> Notebook:
    notebook = Notebook()
    for _ in range(SHORT - 1):
        notebook.note(TEXT)
    return notebook
