"""Emmett: the TypeScript event store, on PostgreSQL, run by Node.js (emmett.mjs)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql

from benchmarks.peers.peer import HERE, PAYLOAD, Appended, Peer, Store, own_database, rows_of

CONNECTIONS = 10  # of the pool; the default of node-postgres


class EmmettError(Exception):
    """emmett.mjs ended with an error; the message is what it said."""


class Emmett(Peer):
    """Each append is `appendToStream` of one event on a new stream, expecting version 0.

    STREAM_DOES_NOT_EXIST is not used: the package passes it on as "no check".
    """

    name = "emmett"

    def __init__(self, *, connections: int = CONNECTIONS) -> None:
        """`connections`: the size of its pool; more clients than that wait for one."""
        self._connections = connections

    def missing(self) -> str | None:
        """It wants Node.js and its npm packages."""
        if shutil.which("node") is None:
            return "Emmett runs on Node.js: install Node.js 20, then `npm ci` in benchmarks/peers."
        if not (HERE / "node_modules" / "@event-driven-io" / "emmett-postgresql").is_dir():
            return "Emmett's npm packages are not here: run `npm ci` in benchmarks/peers."
        return None

    @contextmanager
    def open(self, url: str) -> Iterator[Store]:
        """Let it make its schema itself."""
        with own_database(url, self.name) as database:
            store = _Streams(database, self._connections)
            store.run("migrate")
            yield store


class _Streams:
    def __init__(self, url: str, connections: int) -> None:
        self._url = url
        self._connections = connections

    def run(self, *arguments: str) -> str:
        """Run emmett.mjs; answers with the last line of its output."""
        done = subprocess.run(
            ["node", "emmett.mjs", *arguments],
            cwd=HERE,
            # Not among the arguments: those can be read by everybody on the machine.
            env={**os.environ, "DATABASE_URL": self._url, "PAYLOAD": PAYLOAD},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise EmmettError(done.stderr[-2000:])
        return (done.stdout.splitlines() or [""])[-1]

    def append(self, clients: int, seconds: float) -> Appended:
        connections = min(clients, self._connections)
        return Appended(**json.loads(self.run(*map(str, (clients, seconds, connections)))))

    def count(self) -> int:
        return rows_of(self._url, sql.Identifier("emt_messages"))
