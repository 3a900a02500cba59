"""A log that is only its tree, and a witness over HTTP that checks what it is handed; waiting for
what comes of it.

Log and witness are written from RFC 6962 and C2SP's page on witnesses alone, so that they can
judge ours.
"""

from __future__ import annotations

import asyncio
import socket
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from hashlib import sha256
from threading import Thread
from time import monotonic

import psycopg
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Request, Response
from psycopg import AsyncConnection

from eventstore.seals.checkpoint import (
    BadCheckpoint,
    Head,
    Key,
    opened,
    origin_of,
    public_bytes,
    signed,
)
from eventstore.witnesses.witness import HeadNote, Proof, Witness
from eventstore.witnesses.witnessed import WitnessState, keep_witnessed, witness_states
from tests.patience import PATIENCE_S
from tests.serving import free_port

#: How often `kept` looks for a newer head.
QUICK = timedelta(milliseconds=20)


class TreeLog:
    """A log of which there are only leaves; it signs heads of any of its sizes."""

    def __init__(self, leaves: Sequence[bytes] = (), key: Ed25519PrivateKey | None = None) -> None:
        self.key = key or Ed25519PrivateKey.generate()
        self.leaves = list(leaves)
        self.asked: list[tuple[int, int]] = []

    def grow(self, count: int, word: str = "event") -> HeadNote:
        """Add so many leaves; the head then, with its size as its number."""
        for _ in range(count):
            self.leaves.append(_hash(b"\0", f"{word} {len(self.leaves)}".encode()))
        return self.head()

    def head(self, size: int | None = None) -> HeadNote:
        """The head of the first so many leaves."""
        size = len(self.leaves) if size is None else size
        public = public_bytes(self.key.public_key())
        head = Head(origin_of(public), size, tree(self.leaves[:size]))
        return HeadNote(size, signed(head, self.key), head)

    def rewritten(self, at: int) -> TreeLog:
        """The same log, had another event stood there."""
        leaves = list(self.leaves)
        leaves[at] = _hash(b"\0", b"what never happened")
        return TreeLog(leaves, self.key)

    async def proof(self, old: int, new: int) -> list[bytes]:
        """PROOF(old, D[new])."""
        self.asked.append((old, new))
        return _subproof(old, self.leaves[:new], True)


def tree(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, of leaf hashes."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else sha256(b"").digest()
    k = _split(len(leaves))
    return _hash(b"\1", tree(leaves[:k]) + tree(leaves[k:]))


def put(url: str, head: HeadNote) -> HeadNote:
    """Let it be the database's newest head."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO seal_heads (number, size, note) VALUES (%s, %s, %s)",
            (head.number, head.head.size, head.note),
        )
    return head


class StrictWitness:
    """What C2SP's page wants of a witness of one log, and switches to behave worse."""

    def __init__(self, origin: str, public_key: bytes) -> None:
        self._origin, self._public_key = origin, public_key
        self._key = Ed25519PrivateKey.generate()
        self.seen: Head | None = None
        self.bodies: list[str] = []
        self.credentials: list[str | None] = []
        #: Answers this instead, if set.
        self.instead: Response | None = None
        self.app = FastAPI()
        self.app.post("/log/add-checkpoint")(self._add)

    async def _add(self, request: Request) -> Response:
        body = (await request.body()).decode()
        self.bodies.append(body)
        self.credentials.append(request.headers.get("authorization"))
        return self.instead or self._judge(body)

    def _judge(self, body: str) -> Response:
        proof, _, note = body.partition("\n\n")
        first, *lines = proof.split("\n")
        word, old = first.split(" ")
        assert word == "old"
        try:
            head, _ = opened(note, [Key(self._public_key)], self._origin)
        except BadCheckpoint as error:
            return Response(str(error), 403)
        seen = self.seen or Head(self._origin, 0, tree([]))
        if int(old) > head.size:
            return Response("the old size is larger than the new one", 400)
        if int(old) != seen.size:
            return Response(f"{seen.size}\n", 409, media_type="text/x.tlog.size")
        if seen.size == head.size and seen.root != head.root:
            return Response("another root", 409)
        if not _follows(seen, head, [b64decode(line, validate=True) for line in lines]):
            return Response("the proof does not hold", 422)
        self.seen = head
        return Response(self._cosignature(head) + "a line that is no signature\n")

    def _cosignature(self, head: Head) -> str:
        """cosignature/v1 (https://c2sp.org/tlog-cosignature)."""
        name, public = "witness.example", public_bytes(self._key.public_key())
        now = int(time.time())
        said = self._key.sign(f"cosignature/v1\ntime {now}\n{head.body}".encode())
        named = sha256(name.encode() + b"\n\4" + public).digest()[:4]
        return f"— {name} {b64encode(named + now.to_bytes(8, 'big') + said).decode()}\n"


class Host:
    """Serves an app on loopback, at an address that stays while it is away."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}/log"

    @contextmanager
    def up(self) -> Iterator[None]:
        """The server answers."""
        config = uvicorn.Config(self._app, log_level="critical", access_log=False)
        server = uvicorn.Server(config)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self._port))
            listener.listen()
            thread = Thread(target=server.run, args=([listener],), name="witness")
            thread.start()
            try:
                yield
            finally:
                server.should_exit = True
                thread.join(timeout=30)


def witness_of(log: TreeLog) -> StrictWitness:
    """A witness that believes this log's key."""
    return StrictWitness(log.head().head.origin, public_bytes(log.key.public_key()))


async def states(url: str, *names: str) -> list[WitnessState]:
    """What is known of these witnesses, and of former ones."""
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        return await witness_states(connection, names)


@asynccontextmanager
async def kept(url: str, witnesses: Sequence[Witness], proof: Proof) -> AsyncIterator[None]:
    """Witnesses are kept at the newest head, at a quick pace."""
    task = asyncio.create_task(keep_witnessed(url, witnesses, every=QUICK, proof=proof))
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(done: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Return as soon as it is so."""
    deadline = monotonic() + seconds
    while not done():
        assert monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.02)


async def until_state(url: str, name: str, state: str, seconds: float = PATIENCE_S) -> WitnessState:
    """What is known of a witness as soon as it is in this state."""
    deadline = monotonic() + seconds
    while True:
        (found,) = [one for one in await states(url, name) if one.name == name]
        if found.state == state:
            return found
        assert monotonic() < deadline, found
        await asyncio.sleep(0.05)


def _follows(old: Head, new: Head, path: list[bytes]) -> bool:
    """SUBPROOF of RFC 6962 read backwards."""
    if old.size == 0 or old.size == new.size:
        return not path
    try:
        old_root, new_root = _roots(old.size, new.size, path, old.root, True)
    except IndexError:
        return False
    return not path and old_root == old.root and new_root == new.root


def _roots(m: int, n: int, path: list[bytes], known: bytes, whole: bool) -> tuple[bytes, bytes]:
    if m == n:
        found = known if whole else path.pop()
        return found, found
    k = _split(n)
    sister = path.pop()
    if m <= k:
        old, new = _roots(m, k, path, known, whole)
        return old, _hash(b"\1", new + sister)
    old, new = _roots(m - k, n - k, path, known, False)
    return _hash(b"\1", sister + old), _hash(b"\1", sister + new)


def _subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [tree(leaves)]
    k = _split(len(leaves))
    if m <= k:
        return [*_subproof(m, leaves[:k], whole), tree(leaves[k:])]
    return [*_subproof(m - k, leaves[k:], False), tree(leaves[:k])]


def _split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def _hash(kind: bytes, data: bytes) -> bytes:
    return sha256(kind + data).digest()
