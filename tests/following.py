"""Following a live stream in tests: a server alone, a reader of server-sent events, and a client
that does not read."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from fastapi import FastAPI

from chainlytics.cli.server import _Server, build_api, server_config
from chainlytics.settings import Settings
from eventstore import prepare_database
from tests.serving import SECRET, Served, accepted, order, until


@dataclass(frozen=True)
class Message:
    """One server-sent event."""

    id: int
    event: str
    data: dict[str, Any]


class Follower:
    """Reads a stream line by line, as a browser's EventSource does."""

    def __init__(self, answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        self._lines = answer.iter_lines()
        self.last_id: int | None = None
        self.comments: list[str] = []
        # The first line says that it listens: what is sent from now on is seen.
        self.greeting = next(self._lines)
        assert self.greeting.startswith(": following from position ")

    def take(self, number: int) -> list[Message]:
        """The next events, as many as that."""
        messages = self._messages()
        return [next(messages) for _ in range(number)]

    def rest(self) -> list[Message]:
        """What comes until the server ends it."""
        return list(self._messages())

    def until_id(self, position: int) -> None:
        """Read on until the last event id is at a position; no event may come before."""
        fields: dict[str, str] = {}
        while self.last_id is None or self.last_id < position:
            self._line(next(self._lines), fields)
            assert "data" not in fields

    def _messages(self) -> Iterator[Message]:
        fields: dict[str, str] = {}
        for line in self._lines:
            done = self._line(line, fields)
            if done is not None:
                yield done

    def _line(self, line: str, fields: dict[str, str]) -> Message | None:
        """As the specification says it: an id counts with data or without, which make an event."""
        if line.startswith(":"):
            self.comments.append(line.removeprefix(":").strip())
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            block = dict(fields)
            fields.clear()
            self.last_id = int(block.get("id", self.last_id or 0))
            if "data" in block:
                return Message(int(block["id"]), block["event"], json.loads(block["data"]))
        return None


@contextmanager
def following(
    client: httpx.Client,
    after: int | None = None,
    last_event_id: int | None = None,
    **filters: Any,
) -> Iterator[Follower]:
    """Follow the log as a client does."""
    query = filters | ({} if after is None else {"after": after})
    headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
    with client.stream("GET", "/stream", params=query, headers=headers, timeout=30) as answer:
        follower = Follower(answer)
        yield follower
        del follower  # httpx closes a response whose iterator nobody holds any more


@contextmanager
def live_server(database: str, home: Path, **settings: Any) -> Iterator[tuple[Served, FastAPI]]:
    """The API alone, in a thread of this process, with settings of its own."""
    prepare_database(database)
    app = build_api(Settings(home=home, token_secret=SECRET, **settings), database)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = server_config(app, log_level="error")
        server = _Server(config, app)
        thread = Thread(target=server.run, args=([listener],), name="server")
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive() or None)
            assert thread.is_alive(), "the server ended early"
            yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}"), app
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()


def place(client: httpx.Client, *order_ids: str) -> list[int]:
    """Positions of orders placed."""
    return [
        int(accepted(client.post("/orders", json=order(order_id)))["position"])
        for order_id in order_ids
    ]


#: More than kernels take for who does not read, in events of about 150 KB.
MANY = 60


def place_megabytes(client: httpx.Client) -> None:
    """So many orders of a thousand lines."""
    [line] = order("O-0")["lines"]
    lines = [line | {"line_no": number} for number in range(1, 1001)]
    for number in range(MANY):
        accepted(client.post("/orders", json=order(f"O-{number}", lines=lines)))


def raw(served: Served) -> socket.socket:
    """A connection whose own buffer is small, so that what is not read is the server's matter."""
    address = urlsplit(served.url)
    assert address.hostname is not None
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    connection.settimeout(30)
    connection.connect((address.hostname, address.port))
    return connection


def wait_until_thrown_away(connection: socket.socket) -> None:
    """Return when the server has given its end up, though nothing was read of it."""
    here, there = connection.getsockname()[1], connection.getpeername()[1]

    def is_gone() -> bool | None:
        ends = psutil.Process().net_connections("tcp")
        held = any(
            one.laddr.port == there and getattr(one.raddr, "port", None) == here  # a listener's: ()
            for one in ends
        )
        return None if held else True

    until(is_gone, 20)


def drained(connection: socket.socket) -> bytes:
    """All that still comes until the other side has ended it."""
    found = bytearray()
    try:
        while piece := connection.recv(1 << 16):
            found += piece
    except ConnectionError:
        pass
    return bytes(found)


def connections(app: FastAPI) -> int:
    """How many follow the log there."""
    found: int = app.state.dependencies.live.connections
    return found


def wait_for_connections(app: FastAPI, number: int) -> None:
    """Return when so many follow."""
    until(lambda: True if connections(app) == number else None, 30)
