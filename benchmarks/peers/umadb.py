"""UmaDB: an event store of its own, a server written in Rust, with a Python client."""

from __future__ import annotations

import importlib
import importlib.util
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.peers.peer import PAYLOAD, Appended, Peer, Store, in_threads

SERVER = "from umadb.umadb_server_cli import main; main()"
SETTINGS = ("--read-method=mmap",)  # measured best; a pipelined writer and unfilled pages are not
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


class UmaDbError(Exception):
    """The server or a client failed; the message is what it said."""


class UmaDb(Peer):
    """Each append is one event with an id and a tag of its own, on condition that none has the tag.

    It is no PostgreSQL program: it keeps its events in a file of a temporary folder.
    """

    name = "umadb"

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where its temporary folder is made; it shall be on the disk of the others."""
        self._folder = folder

    def missing(self) -> str | None:
        """Its server and its client are one Python package."""
        if importlib.util.find_spec("umadb") is not None:
            return None
        return "UmaDB is not installed: run `pip install -e '.[peers]'`."

    @contextmanager
    def open(self, url: str) -> Iterator[Store]:
        """Start its server on loopback; stop it and remove its folder at exit."""
        # The package takes over Ctrl-C on import, so its clients live in a process of their own.
        with (
            tempfile.TemporaryDirectory(prefix="peer-umadb-", dir=self._folder) as folder,
            _server(Path(folder)) as address,
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
        ):
            yield _Events(address, process)


class _Events:
    def __init__(self, address: str, process: ProcessPoolExecutor) -> None:
        self._address = address
        self._process = process

    def append(self, clients: int, seconds: float) -> Appended:
        return self._process.submit(_append, self._address, clients, seconds).result()

    def count(self) -> int:
        return self._process.submit(_count, self._address).result()


# In the process of the clients


def _append(address: str, clients: int, seconds: float) -> Appended:
    with _connected(address) as (uma, shared):  # one connection is faster than one a thread

        @contextmanager
        def client(_number: int) -> Iterator[Callable[[], object]]:
            payload = PAYLOAD.encode()

            def append() -> None:
                tag = f"note-{uuid4()}"
                nobody = uma.AppendCondition(uma.Query([uma.QueryItem(tags=[tag])]))
                shared.append([uma.Event("Noted", payload, [tag], uuid4())], nobody)

            yield append

        return in_threads(clients, seconds, client)


def _count(address: str) -> int:
    with _connected(address) as (_, client):
        return sum(1 for _ in client.read())


@contextmanager
def _connected(address: str) -> Iterator[tuple[Any, Any]]:
    """The package and a client of it. Its errors leave the process as ours, which others know."""
    uma: Any = importlib.import_module("umadb")
    try:
        yield uma, uma.Client(address)
    except Exception as error:
        raise UmaDbError(f"{type(error).__name__}: {error}") from None


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    port = _free_port()
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [
                sys.executable,
                "-c",
                SERVER,
                f"--listen=127.0.0.1:{port}",
                f"--db-path={folder}",
                *SETTINGS,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_it_listens(server, port, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_it_listens(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise UmaDbError(f"UmaDB did not start:\n{log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
