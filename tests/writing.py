"""Clients of the log that write down what they do: a recorder, and a process that appends.

``python -m tests.writing URL HISTORY NAME [DEAD...]`` appends all kinds of units until its
standard input ends. First it settles what the processes that wrote the histories DEAD left open.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any
from uuid import UUID, uuid4, uuid5

from eventstore import (
    CommandReused,
    Entry,
    LogUnavailable,
    NewEvent,
    Receipt,
    RepeatedCommands,
    Unit,
    VersionConflict,
    Writer,
)
from eventstore.history import Answer, Asked, Attempt

ORGANISATION = UUID("9c1f8a52-7d5e-4c0c-8c61-5c3c5b7f9d01")
SHARED = [uuid5(ORGANISATION, f"shared {number}") for number in range(3)]
CALLERS = 6  # of one process, at once


class Recorder:
    """Writes the history of one client: JSON lines, each flushed before anything else happens."""

    def __init__(self, client: str, file: IO[str]) -> None:
        self._client, self._file, self._begun = client, file, 0

    async def append(
        self, store: Callable[[Unit], Awaitable[list[Receipt]]], unit: Unit
    ) -> list[Receipt]:
        """Append by ``store`` and note what came of it; returns and raises as ``store`` does."""
        number = self.invoke(unit)
        try:
            receipts = await store(unit)
        except VersionConflict as error:
            seen = [str(error.stream_id), error.expected, error.actual]
            self._note("conflict", number, conflict=seen)
            raise
        except CommandReused as error:
            self._note("reused", number, reused=str(error.command_id))
            raise
        except RepeatedCommands as error:
            self._note("repeated", number, answers=_answers(error.receipts))
            raise
        except BaseException:
            self._note("unknown", number)
            raise
        self.acknowledged(number, unit, receipts)
        return receipts

    def invoke(self, unit: Unit) -> int:
        """Note what will be sent; the number names it for ``acknowledged``."""
        self._begun += 1
        commands = [
            {
                "id": str(entry.command_id),
                "digest": entry.digest.hex(),
                "version": entry.version,
                "events": [(str(event.stream_id), event.version) for event in entry.events],
            }
            for entry in unit.entries
        ]
        expected = {str(stream): version for stream, version in unit.expected.items()}
        self._note("invoke", self._begun, commands=commands, expected=expected)
        return self._begun

    def acknowledged(self, number: int, unit: Unit, receipts: Sequence[Receipt]) -> None:
        """Note that an append was answered with a receipt for each entry."""
        ids = [entry.command_id for entry in unit.entries]
        self._note("ok", number, answers=_answers(dict(zip(ids, receipts, strict=True))))

    def _note(self, kind: str, number: int, **what: Any) -> None:
        # The monotonic clock is one for all processes of a machine.
        line = {"kind": kind, "client": self._client, "number": number, "at": time.monotonic_ns()}
        self._file.write(json.dumps(line | what) + "\n")
        self._file.flush()


def _answers(receipts: Mapping[UUID, Receipt]) -> dict[str, tuple[int, int, bool]]:
    return {
        str(one): (told.version, told.position, told.repeated) for one, told in receipts.items()
    }


@contextmanager
def recording(path: Path, client: str) -> Iterator[Recorder]:
    """A recorder on a new file."""
    with path.open("x", encoding="utf-8") as file:
        yield Recorder(client, file)


def read_history(path: Path) -> list[Attempt]:
    """The attempts of one file in order of their beginning; a torn last line does not count."""
    attempts: dict[int, Attempt] = {}
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # the last has no end: torn
        note = json.loads(line)
        number, at = note["number"], note["at"]
        if note["kind"] == "invoke":
            commands = tuple(
                Asked(
                    UUID(one["id"]),
                    one["digest"],
                    one["version"],
                    tuple((UUID(stream), version) for stream, version in one["events"]),
                )
                for one in note["commands"]
            )
            expected = {UUID(stream): version for stream, version in note["expected"].items()}
            attempts[number] = Attempt(note["client"], at, commands, expected)
            continue
        stream, expectation, actual = note.get("conflict", [None, 0, 0])
        attempts[number] = replace(
            attempts[number],
            outcome=note["kind"],
            ended=at,
            answers={UUID(one): Answer(*told) for one, told in note.get("answers", {}).items()},
            conflict=(UUID(stream), expectation, actual) if stream else None,
            reused=UUID(note["reused"]) if "reused" in note else None,
        )
    return list(attempts.values())


def ask(*events: tuple[UUID, int], command_id: UUID | None = None, payload: str = "") -> Asked:
    """A command that adds versions to streams; ``payload`` stands for the rest of its body."""
    digest = hashlib.sha256(repr((events, payload)).encode()).hexdigest()
    return Asked(command_id or uuid4(), digest, events[-1][1] if events else 0, events)


def unit_of(commands: Iterable[Asked], expected: Mapping[UUID, int]) -> Unit:
    """The unit that a history tells of; what it does not tell follows from the command's id."""
    return Unit([_entry(asked) for asked in commands], expected)


def _entry(asked: Asked) -> Entry:
    events = [
        NewEvent(stream, version, "test.Noted.v1", asked.command_id.bytes * 8)
        for stream, version in asked.events
    ]
    one = asked.command_id
    name, digest = f"notes/{one}", bytes.fromhex(asked.digest)
    return Entry(one, digest, name, asked.version, ORGANISATION, "ana", one, None, events)


def left_open(dead: Sequence[Path]) -> list[Attempt]:
    """What some clients sent and nobody was answered, the last attempt of each."""
    attempts = [attempt for path in dead for attempt in read_history(path)]
    last = {attempt.commands: attempt for attempt in attempts}
    settled = {attempt.commands for attempt in attempts if attempt.outcome != "unknown"}
    return [attempt for commands, attempt in last.items() if commands not in settled]


class Client:
    """Several callers over one writer; each knows of streams what it was told."""

    def __init__(self, writer: Writer, recorder: Recorder, seed: str) -> None:
        self._writer, self._recorder = writer, recorder
        self._random = random.Random(seed)
        self._versions: dict[UUID, int] = defaultdict(int)
        self._done: list[Attempt] = []
        self.stopping = asyncio.Event()

    async def settle(self, commands: Sequence[Asked], expected: Mapping[UUID, int]) -> None:
        """Send a unit, by the same ids, until it is answered; learn from the answer."""
        unit = unit_of(commands, expected)
        while True:
            try:
                await self._recorder.append(self._writer.append, unit)
            except LogUnavailable:
                await asyncio.sleep(0.1)
                continue
            except VersionConflict as conflict:
                self._learn([(conflict.stream_id, conflict.actual)])
                return
            except CommandReused:
                return
            except RepeatedCommands:
                pass
            self._learn(event for asked in commands for event in asked.events)
            self._done.append(Attempt("", 0, tuple(commands), expected))
            return

    def _learn(self, events: Iterable[tuple[UUID, int]]) -> None:
        for stream, version in events:
            self._versions[stream] = max(self._versions[stream], version)

    async def call(self) -> None:
        """One caller with a stream of its own, until told to stop."""
        own = uuid4()
        while not self.stopping.is_set():
            await self._one(own)
            await asyncio.sleep(self._random.uniform(0, 0.02))

    async def _one(self, own: UUID) -> None:
        chance, shared = self._random, self._random.choice(SHARED)
        match chance.choice(["own", "own", "shared", "several", "read", "unit", "none", "again"]):
            case "own":
                await self._add([own] * chance.randint(1, 4))
            case "shared":
                await self._add([shared])
            case "several":
                await self._add([own, shared, own, chance.choice(SHARED)])
            case "read":
                await self._add([own], read=[shared])
            case "unit":
                await self._add([own, own, uuid4()], read=[shared], split=2)
            case "none":
                await self.settle([ask()], {shared: self._versions[shared]})
            case "again" if self._done:
                before = chance.choice(self._done)
                await self.settle(before.commands, before.expected)
                first, *others = before.commands
                changed = ask(*first.events, command_id=first.command_id, payload="another")
                await self.settle([changed, *others], before.expected)

    async def _add(
        self, streams: Sequence[UUID], *, read: Sequence[UUID] = (), split: int | None = None
    ) -> None:
        """The next version of each stream; as two commands where ``split`` says so."""
        expected = {stream: self._versions[stream] for stream in (*streams, *read)}
        events = [
            (stream, expected[stream] + streams[: index + 1].count(stream))
            for index, stream in enumerate(streams)
        ]
        parts = [events[:split], events[split:]] if split else [events]
        await self.settle([ask(*part) for part in parts], expected)


async def run(url: str, history: Path, name: str, dead: Sequence[Path]) -> None:
    """Be one writer process."""
    with recording(history, name) as recorder:
        async with Writer(url, max_group=40, patience_s=5.0) as writer:
            client = Client(writer, recorder, name)
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), client.stopping.set)
            await asyncio.gather(
                *(client.settle(one.commands, one.expected) for one in left_open(dead))
            )
            await asyncio.gather(*(client.call() for _ in range(CALLERS)))


def resend(url: str, history: Path, name: str, units: Sequence[Unit]) -> list[list[Receipt] | str]:
    """Append from a process of one's own: the receipts, or the name of the error, of each unit."""

    async def each(store: Callable[[Unit], Awaitable[list[Receipt]]], unit: Unit) -> Any:
        try:
            return await recorder.append(store, unit)
        except RepeatedCommands as repeated:
            return [repeated.receipts[entry.command_id] for entry in unit.entries]
        except (CommandReused, VersionConflict) as error:
            return type(error).__name__

    async def all_of_them() -> list[list[Receipt] | str]:
        async with Writer(url) as writer:
            return [await each(writer.append, unit) for unit in units]

    with recording(history, name) as recorder:
        return asyncio.run(all_of_them())


# seen from outside


@dataclass(eq=False)
class Process:
    """A writer process, its history and those that it continues."""

    name: str
    history: Path
    dead: tuple[Path, ...]
    running: subprocess.Popen[bytes]


class Crowd:
    """Writer processes; a killed one is followed by one that settles what it left open."""

    def __init__(self, url: str, folder: Path, output: IO[bytes]) -> None:
        self._url, self._folder, self._output = url, folder, output
        self._started = 0
        self.living: list[Process] = []
        self.dead: list[Process] = []

    def start(self, *dead: Path) -> None:
        self._started += 1
        name = f"writer-{self._started}"
        history = self._folder / f"{name}.jsonl"
        url = f"{self._url}?application_name={name}"
        running = subprocess.Popen(
            [sys.executable, "-m", "tests.writing", url, history, name, *dead],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
        )
        self.living.append(Process(name, history, dead, running))

    def kill(self, victim: Process) -> None:
        """kill -9, without an heir so far."""
        victim.running.kill()
        victim.running.communicate()
        self.living.remove(victim)
        self.dead.append(victim)

    def replace(self, victim: Process) -> None:
        """Start its heir."""
        wrote = [victim.history] if victim.history.exists() else []
        self.start(*victim.dead, *wrote)

    async def stop(self) -> None:
        """Let all finish what they have begun."""
        for process in self.living:
            assert process.running.stdin is not None
            process.running.stdin.close()
        for process in self.living:
            assert await asyncio.to_thread(process.running.wait, 60) == 0, process.name

    def histories(self) -> list[list[Attempt]]:
        return [read_history(path) for path in sorted(self._folder.glob("*.jsonl"))]


@contextmanager
def crowd_of(count: int, url: str, folder: Path) -> Iterator[Crowd]:
    """Writer processes on a log; histories and output are in the folder."""
    with (folder / "writers.log").open("wb") as output:
        crowd = Crowd(url, folder, output)
        try:
            for _ in range(count):
                crowd.start()
            yield crowd
        finally:
            for process in crowd.living:
                process.running.kill()
                process.running.communicate()


if __name__ == "__main__":
    url, history, name, *dead = sys.argv[1:]
    asyncio.run(run(url, Path(history), name, [Path(path) for path in dead]))
