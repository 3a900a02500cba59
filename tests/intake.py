"""The outside of the intake for tests: who sends commands by Kafka and reads the answers."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any
from uuid import uuid4

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from api.dependencies import Dependencies
from api.intake import keep_taken_in, make_topics
from chainlytics.cli.server import open_parts
from chainlytics.settings import Settings
from eventstore import prepare_database
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.letters import COMMANDS, REPLIES, Letter, dead_letters
from tests.patience import PATIENCE_S
from tests.serving import SECRET, bearer

LANES = 2


@dataclass(frozen=True)
class Reply:
    """An answer as it came."""

    key: bytes
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def accepted(self) -> dict[str, Any]:
        """The body of one that says that the command was taken."""
        assert self.headers["ce_type"] == "CommandAccepted", self.body
        return self.body

    def rejected(self, status: int, code: str) -> dict[str, Any]:
        """The body of one that says why not."""
        assert self.headers["ce_type"] == "CommandRejected", self.body
        assert self.headers["content-type"] == "application/problem+json"
        told = (self.body["status"], self.body["type"].removeprefix("urn:chainlytics:problem:"))
        assert told == (status, code), self.body
        return self.body


class Outside:
    """Sends commands and reads answers, with clients of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.producer: Any = KafkaProducer(bootstrap_servers=list(cluster.brokers), linger_ms=5)
        self._consumer: Any = KafkaConsumer(
            bootstrap_servers=list(cluster.brokers),
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        self._consumer.assign(
            [TopicPartition(cluster.topic(REPLIES), number) for number in range(LANES)]
        )
        self._replies: defaultdict[str, list[Reply]] = defaultdict(list)

    def close(self) -> None:
        self.producer.close(timeout=5)
        self._consumer.close(autocommit=False)

    def send(
        self,
        command: str,
        fields: Any,
        *,
        id: str | None = None,
        token: str | None = None,
        key: str | None = "K",
        without: str = "",
        **headers: str,
    ) -> str:
        """Send a command and return its id; ``without``: a header that is left out."""
        sent_id = id or f"c-{uuid4()}"
        said = {
            "ce_specversion": "1.0",
            "ce_id": sent_id,
            "ce_source": "/tests",
            "ce_type": command,
            "authorization": f"Bearer {token or bearer()}",
        } | headers
        self.producer.send(
            self.cluster.topic(COMMANDS),
            key=None if key is None else key.encode(),
            value=fields if isinstance(fields, bytes) else json.dumps(fields).encode(),
            headers=[(name, value.encode()) for name, value in said.items() if name != without],
        )
        return sent_id

    def replies(self, id: str, count: int = 1) -> list[Reply]:
        """The first answers to a command, so many."""
        self._read(lambda: len(self._replies[id]) >= count)
        return self._replies[id]

    def reply(self, id: str) -> Reply:
        """The only answer to a command so far."""
        [reply] = self.replies(id)
        return reply

    def ask(self, command: str, fields: Any, **more: Any) -> Reply:
        """Send a command and wait for its answer."""
        return self.reply(self.send(command, fields, **more))

    def all_replied(self, ids: list[str]) -> dict[str, list[Reply]]:
        """All answers to these commands, when each has one."""
        self._read(lambda: all(self._replies[one] for one in ids))
        return {one: self._replies[one] for one in ids}

    def letters(self, id: str) -> list[Letter]:
        """The dead letters of a command."""
        return [one for one in dead_letters(self.cluster) if one.command_id == id]

    def _read(self, enough: Callable[[], bool]) -> None:
        self.producer.flush()
        deadline = monotonic() + PATIENCE_S
        while not enough():
            assert monotonic() < deadline, "it was not answered"
            for records in self._consumer.poll(timeout_ms=200).values():
                for one in records:
                    headers = {name: value.decode() for name, value in one.headers}
                    reply = Reply(one.key, headers, json.loads(one.value))
                    self._replies[headers["ce_commandid"]].append(reply)


@contextmanager
def outside(bootstrap: str, cluster: Cluster | None = None) -> Iterator[Outside]:
    """Somebody outside, and topics of the test's own."""
    cluster = cluster or Cluster(tuple(bootstrap.split(",")), f"t{uuid4().hex[:10]}")
    make_topics(cluster, LANES, None)
    who = Outside(cluster)
    try:
        yield who
    finally:
        who.close()


@contextmanager
def running(
    database: str, home: Path, work: Callable[[Dependencies], Awaitable[None]]
) -> Iterator[Thread]:
    """Some work with the parts of the application, in a thread, until the block ends."""
    prepare_database(database)
    settings = Settings(home=home, token_secret=SECRET)
    loop = asyncio.new_event_loop()
    ended: list[BaseException] = []
    begun = Event()

    async def body() -> None:
        async with open_parts(settings, database) as parts:
            begun.set()
            await work(parts)

    task = loop.create_task(body())

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            ended.append(error)
        finally:
            begun.set()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = Thread(target=run, name="intake")
    thread.start()
    begun.wait(30)
    try:
        yield thread
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=30)
    assert not thread.is_alive()
    if ended:
        raise ended[0]


@contextmanager
def taking_in(database: str, home: Path, cluster: Cluster) -> Iterator[None]:
    """An intake that runs while the block does."""
    with running(database, home, lambda parts: keep_taken_in(cluster, parts, lanes=LANES)):
        yield
