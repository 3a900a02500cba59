"""message-db: an event store made of PostgreSQL functions, called from psycopg."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
from psycopg import sql

from benchmarks.peers.peer import (
    HERE,
    PAYLOAD,
    Appended,
    Peer,
    Store,
    in_threads,
    own_database,
    rows_of,
)

FOLDER = HERE / "node_modules" / "@eventide" / "message-db" / "database"
# install.sh's order. Left out: pgcrypto (gen_random_uuid is PostgreSQL's own by now), and what a
# write does not touch: the views, and a role of the whole server with its privileges.
FILES = ("schema", "tables", "types", "functions", "indexes")
WRITE = "SELECT write_message(%s, %s, 'Noted', %s::jsonb, NULL, -1)"


class MessageDb(Peer):
    """Each append writes the first message of a new stream, expecting no version (-1).

    A writer locks its stream's category, so writers of one category queue. By default each client
    has a category of its own, which is fastest; positions then commit out of order between them.
    """

    name = "message-db"

    def __init__(self, *, one_category: bool = False) -> None:
        """`one_category`: all streams in one category, the only way to its ordered positions."""
        self._one_category = one_category

    def missing(self) -> str | None:
        """Its SQL files are an npm package."""
        if FOLDER.is_dir():
            return None
        return "message-db's SQL files are not here: run `npm ci` in benchmarks/peers (Node.js 20)."

    @contextmanager
    def open(self, url: str) -> Iterator[Store]:
        """Install its schema, table and functions."""
        with own_database(url, self.name) as database:
            with psycopg.connect(database) as connection:
                for folder in FILES:
                    for file in sorted((FOLDER / folder).glob("*.sql")):
                        connection.execute(file.read_bytes())
            yield _Messages(database, one_category=self._one_category)


class _Messages:
    def __init__(self, url: str, *, one_category: bool) -> None:
        self._url = url
        self._one_category = one_category

    def append(self, clients: int, seconds: float) -> Appended:
        @contextmanager
        def client(number: int) -> Iterator[Callable[[], object]]:
            category = "benchmark" if self._one_category else f"benchmark{number}"
            with psycopg.connect(
                self._url,
                autocommit=True,
                prepare_threshold=0,
                options="-c search_path=message_store,public",  # its functions call each other so
            ) as connection:

                def append() -> None:
                    stream = uuid4()
                    connection.execute(WRITE, (str(uuid4()), f"{category}-{stream}", PAYLOAD))

                yield append

        return in_threads(clients, seconds, client)

    def count(self) -> int:
        return rows_of(self._url, sql.Identifier("message_store", "messages"))
