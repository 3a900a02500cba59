"""The log under attack: killed writers, cut connections, crashed servers, lost answers, stalls.

Clients write down what they did, readers what they saw; ``eventstore/history.py`` decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import random
import shutil
import signal
import tempfile
import tracemalloc
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4, uuid5

import psutil
import psycopg
import pytest
from psycopg import AsyncConnection, sql

from eventstore import (
    LogUnavailable,
    Receipt,
    RepeatedCommands,
    Subscription,
    Unit,
    Writer,
    prepare_database,
)
from eventstore.embedded import EmbeddedPostgres
from eventstore.history import Attempt, check, read_log
from tests.patience import PATIENCE_S
from tests.proxy import Proxy
from tests.writing import (
    ORGANISATION,
    Crowd,
    Recorder,
    ask,
    crowd_of,
    read_history,
    recording,
    resend,
    unit_of,
)

SEED = 20_261_121
WRITERS = 6
KILLS, KILLS_IN_COMMIT, CUT_BACKENDS, OPEN_TRANSACTIONS = 6, 4, 12, 4
CRASHES = ("the whole server", "shut down at once", "the postmaster alone")
LOST_ANSWERS = 3  # of one unit, in a row
STALLED_CALLERS, STALLED_WAVES, MAX_PENDING = 500, 4, 100


@pytest.fixture
def log_url(server_url: str) -> Iterator[str]:
    """A log of the test's own: the checker wants to know of every event."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        prepare_database(url)
        yield url
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def home() -> Iterator[Path]:
    """The home of a server of the test's own.

    Not in pytest's folder: each run of pytest closes that to the `nobody` as whom root's server
    runs, and here the server starts again in the middle.
    """
    folder = Path(tempfile.mkdtemp(prefix="chainlytics-adversity-"))
    folder.chmod(0o755)
    yield folder
    EmbeddedPostgres(folder).stop()
    shutil.rmtree(folder)


# who takes part


@dataclass
class Follower:
    """A tail reader that remembers the last position it saw."""

    seen: list[tuple[int, UUID]] = field(default_factory=list)
    resumed: int = 0
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def position(self) -> int:
        return self.seen[-1][0] if self.seen else 0

    async def follow(self, url: str, drops: random.Random | None = None) -> None:
        """Follow for ever; with ``drops``, leave again and again, in the middle of a batch."""
        while True:
            position = self.position
            async with Subscription(url, position=position, batch=50, poll_s=0.2) as batches:
                async for batch in batches:
                    seen = [(event.position, event.event_id) for event in batch]
                    mid = drops.randint(1, len(seen)) if drops and drops.random() < 0.3 else None
                    async with self.moved:
                        self.seen += seen[:mid]
                        self.moved.notify_all()
                    if mid:
                        self.resumed += 1
                        break

    async def reach(self, position: int) -> None:
        """Return when it has seen as much."""
        async with self.moved:
            await self.moved.wait_for(lambda: self.position >= position)


@asynccontextmanager
async def following(url: str) -> AsyncIterator[tuple[Follower, Follower]]:
    """Two readers: one that stays and one that is dropped again and again."""
    url = f"{url}?application_name=reader"
    staying, leaving = Follower(), Follower()
    tasks = [
        asyncio.create_task(staying.follow(url)),
        asyncio.create_task(leaving.follow(url, random.Random(SEED))),
    ]
    try:
        yield staying, leaving
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends


# what is done to them


async def waiting_for_the_head(connection: AsyncConnection) -> list[tuple[int, str]]:
    """Backends of writers that wait for a lock in their append: pid and writer; some at least."""
    while True:
        found = await connection.execute(
            """SELECT pid, application_name FROM pg_stat_activity
            WHERE wait_event_type = 'Lock' AND application_name LIKE 'writer-%'
            AND datname = current_database()"""
        )
        if rows := await found.fetchall():
            return rows
        await asyncio.sleep(0.005)


async def kill_in_mid_commit(url: str, crowd: Crowd) -> None:
    """kill -9 while the server works at the append: it will commit what nobody is told of."""
    async with (
        await AsyncConnection.connect(url) as holder,
        await AsyncConnection.connect(url, autocommit=True) as looking,
    ):
        await holder.execute("SELECT position FROM log_head FOR UPDATE")
        [(_, name), *_] = await waiting_for_the_head(looking)
        [victim] = [process for process in crowd.living if process.name == name]
        crowd.kill(victim)
        await holder.rollback()
    crowd.replace(victim)


async def cut_a_backend(url: str, chance: random.Random) -> int:
    """Terminate the backend of a writer or reader; how many were."""
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        found = await connection.execute(
            """SELECT pg_terminate_backend(pid) FROM (
                SELECT pid FROM pg_stat_activity WHERE datname = current_database()
                AND application_name ~ %s ORDER BY random() LIMIT 1) AS victim""",
            [chance.choice(["^writer-", "^writer-", "^reader"])],
        )
        return len(await found.fetchall())


async def hold_one_open(
    url: str, recorder: Recorder, followers: tuple[Follower, Follower], *, commits: bool
) -> None:
    """An event inserted and not committed while others want to; nobody may pass it."""
    asked = ask((uuid4(), 1))
    [(stream, version)] = asked.events
    unit = unit_of([asked], {stream: 0})
    async with (
        await AsyncConnection.connect(url) as holder,
        await AsyncConnection.connect(url, autocommit=True) as looking,
    ):
        # What is rolled back is not written down: nobody may ever find it.
        number = recorder.invoke(unit) if commits else 0
        moved = await holder.execute(
            """UPDATE log_head SET position = position + 1,
                recorded_at = greatest(recorded_at, clock_timestamp()) RETURNING position"""
        )
        [[position]] = await moved.fetchall()
        await holder.execute(
            """INSERT INTO events (originator_id, originator_version, topic, state,
                notification_id, event_id, organisation_id, recorded_at, correlation_id, actor)
            SELECT %s, %s, 'test', '', position, %s, %s, recorded_at, %s, 'ana' FROM log_head""",
            [stream, version, uuid5(asked.command_id, "0"), ORGANISATION, uuid4()],
        )
        await holder.execute(
            """INSERT INTO commands (command_id, digest, stream, version, position, recorded_at)
            SELECT %s, %s, 'notes/held', %s, position, recorded_at FROM log_head""",
            [asked.command_id, bytes.fromhex(asked.digest), version],
        )
        await waiting_for_the_head(looking)
        await asyncio.sleep(0.2)
        assert all(follower.position < position for follower in followers)
        if commits:
            await holder.commit()
            recorder.acknowledged(number, unit, [Receipt("notes/held", version, position)])
        else:
            await holder.rollback()


def crash(home: Path, how: str) -> None:
    """End the server of a home without a shutdown."""
    pid = EmbeddedPostgres(home).status().pid
    assert pid is not None
    postmaster = psutil.Process(pid)
    backends = postmaster.children(recursive=True)
    if how == "shut down at once":
        postmaster.send_signal(signal.SIGQUIT)
    elif how == "the postmaster alone":
        postmaster.kill()
    else:
        for victim in (postmaster, *backends):
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
    psutil.wait_procs([postmaster], timeout=PATIENCE_S)


def head(url: str) -> int:
    with psycopg.connect(url) as connection:
        [[position]] = connection.execute("SELECT position FROM log_head").fetchall()
        return int(position)


def outcomes(histories: list[list[Attempt]]) -> Counter[str]:
    return Counter(attempt.outcome for history in histories for attempt in history)


def told_only_later(histories: list[list[Attempt]]) -> set[UUID]:
    """Commands whose first answer reached nobody: all that was heard is that they were repeated."""
    answers = [
        answer for history in histories for attempt in history for answer in attempt.answers.items()
    ]
    repeated = {one for one, answer in answers if answer.repeated}
    return repeated - {one for one, answer in answers if not answer.repeated}


# the tests


def test_writers_killed_backends_cut_a_transaction_held_open(log_url: str, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    cut = 0

    async def kill(crowd: Crowd) -> None:
        plan = [True] * KILLS_IN_COMMIT + [False] * KILLS
        chance.shuffle(plan)
        for in_commit in plan:
            await asyncio.sleep(chance.uniform(0.1, 0.4))
            if in_commit:
                await kill_in_mid_commit(log_url, crowd)
            else:
                victim = chance.choice(crowd.living)
                crowd.kill(victim)
                crowd.replace(victim)

    async def disturb(recorder: Recorder, followers: tuple[Follower, Follower]) -> None:
        nonlocal cut
        for turn in range(CUT_BACKENDS):
            await asyncio.sleep(chance.uniform(0.1, 0.3))
            cut += await cut_a_backend(log_url, chance)
            if turn < OPEN_TRANSACTIONS:
                await hold_one_open(log_url, recorder, followers, commits=turn % 2 == 0)

    async def run(recorder: Recorder) -> None:
        with crowd_of(WRITERS, log_url, tmp_path) as crowd:
            async with following(log_url) as followers, asyncio.timeout(PATIENCE_S):
                await followers[0].reach(200)  # all are at work
                await asyncio.gather(kill(crowd), disturb(recorder, followers))
                await followers[0].reach(followers[0].position + 200)
                await crowd.stop()
                end = await asyncio.to_thread(head, log_url)
                await asyncio.gather(*(follower.reach(end) for follower in followers))
            histories = crowd.histories()
        readers = [follower.seen for follower in followers]
        assert check(histories, readers, read_log(log_url)) == []

        assert len(crowd.dead) == KILLS + KILLS_IN_COMMIT
        assert cut >= CUT_BACKENDS / 2
        assert followers[1].resumed > 10
        counted = outcomes(histories)
        assert min(counted[kind] for kind in ("ok", "conflict", "reused", "unknown")) > 0, counted
        # Some of what the killed had sent was stored, and their heirs were told so.
        assert told_only_later(histories)

    with recording(tmp_path / "holder.jsonl", "holder") as recorder:
        asyncio.run(run(recorder))


def test_the_server_crashes_and_starts_again(home: Path) -> None:
    server = EmbeddedPostgres(home)
    url = server.start()
    prepare_database(url)

    async def run() -> None:
        proxy = Proxy(url)  # clients know one address; a server that starts again takes a new port
        async with proxy as stays:
            with crowd_of(3, stays, home) as crowd:
                async with following(stays) as followers, asyncio.timeout(PATIENCE_S):
                    for how in CRASHES:
                        await followers[0].reach(followers[0].position + 150)
                        await asyncio.to_thread(crash, home, how)
                        before = followers[0].position
                        proxy.aim(await asyncio.to_thread(server.start))
                        await followers[0].reach(before + 150)
                    await crowd.stop()
                    direct = await asyncio.to_thread(server.start)
                    end = await asyncio.to_thread(head, direct)
                    await asyncio.gather(*(follower.reach(end) for follower in followers))
                histories = crowd.histories()
        readers = [follower.seen for follower in followers]
        assert check(histories, readers, read_log(direct)) == []
        assert not crowd.dead
        assert followers[1].resumed > 5
        assert outcomes(histories)["ok"] > 100 * len(CRASHES)

    asyncio.run(run())


def test_an_answer_that_is_lost_is_given_again(log_url: str, tmp_path: Path) -> None:
    """The request is carried out and its answer cut off on the way, more than once."""
    one, two = uuid4(), uuid4()
    units = [
        unit_of([ask((one, 1), (one, 2))], {one: 0}),
        unit_of([ask((one, 3)), ask((two, 1))], {one: 2, two: 0}),
        unit_of([ask()], {two: 1}),
        unit_of([ask((two, 2))], {one: 3, two: 1}),
    ]
    losses: Counter[int] = Counter()

    async def run(recorder: Recorder) -> list[list[Receipt]]:
        proxy, answers = Proxy(log_url), list[list[Receipt]]()
        async with proxy as url, await AsyncConnection.connect(log_url, autocommit=True) as looking:

            async def unheard(data: bytes) -> bool:
                """Whether what comes now is the first news of a unit that is stored."""
                if b"SELECT" not in data:  # the tag of a query's end; a new connection says hello
                    return False
                found = await looking.execute("SELECT count(*) FROM commands")
                [[stored]] = await found.fetchall()
                heard, unit = sum(map(len, answers)), len(answers)
                if stored == heard or losses[unit] == LOST_ANSWERS:
                    return False
                losses[unit] += 1
                return True

            proxy.loses = unheard
            async with Writer(url) as writer:
                for unit in units:
                    answers.append(await first_answers(recorder.append(writer.append, unit), unit))
        return answers

    with recording(tmp_path / "first.jsonl", "first") as recorder:
        answers = asyncio.run(run(recorder))
    assert losses == dict.fromkeys(range(len(units)), LOST_ANSWERS)
    told = [[(receipt.version, receipt.position) for receipt in answer] for answer in answers]
    assert told == [[(2, 2)], [(3, 3), (1, 4)], [(0, 4)], [(2, 5)]]

    changed = ask((one, 1), (one, 2), command_id=units[0].entries[0].command_id, payload="another")
    with multiprocessing.get_context("spawn").Pool(1) as process:
        again = process.apply(
            resend,
            (log_url, tmp_path / "second.jsonl", "second", [*units, unit_of([changed], {one: 0})]),
        )
    assert again == [*answers, "CommandReused"]
    assert all(receipt.repeated for answer in answers for receipt in answer)
    histories = [read_history(path) for path in tmp_path.glob("*.jsonl")]
    assert outcomes(histories) == {"ok": 6, "repeated": 2, "reused": 1}
    assert check(histories, [], read_log(log_url)) == []


def test_a_stalled_database_turns_callers_away(log_url: str, tmp_path: Path) -> None:
    """Nothing is broken, nothing moves: what waits is bounded, and so is how long."""

    async def ask_at_once(writer: Writer, recorder: Recorder) -> list[Unit]:
        """Callers by the hundred, all turned away; the units of some of them."""
        units = [
            unit_of([ask((stream, 1), (stream, 2))], {stream: 0})
            for stream in (uuid4() for _ in range(STALLED_CALLERS))
        ]
        ends = await asyncio.gather(
            *(recorder.append(writer.append, unit) for unit in units), return_exceptions=True
        )
        assert {type(end) for end in ends} == {LogUnavailable}
        return units[::20]

    async def watch(writer: Writer) -> None:
        while True:
            pending.append(writer.pending)
            await asyncio.sleep(0.005)

    async def run(recorder: Recorder) -> None:
        proxy = Proxy(log_url)
        async with (
            proxy as url,
            Writer(url, max_pending=MAX_PENDING, max_group=20, patience_s=1) as writer,
        ):
            await recorder.append(writer.append, unit_of([ask()], {}))
            proxy.flowing.clear()
            watching = asyncio.create_task(watch(writer))
            turned_away = list[Unit]()  # of the last wave
            for _ in range(STALLED_WAVES):
                turned_away = await ask_at_once(writer, recorder)
                held.append(memory_held())
            proxy.flowing.set()
            for unit in turned_away:
                await recorder.append(writer.append, unit)
            watching.cancel()

    pending: list[int] = []
    held: list[int] = []
    tracemalloc.start()
    try:
        with recording(tmp_path / "callers.jsonl", "callers") as recorder:
            asyncio.run(run(recorder))
    finally:
        tracemalloc.stop()
    assert MAX_PENDING / 2 < max(pending) <= MAX_PENDING
    # A caller that is not let go costs more than a kilobyte.
    assert held[-1] - held[0] < STALLED_CALLERS * 100
    history = read_history(tmp_path / "callers.jsonl")
    counted = outcomes([history])
    assert counted == {"unknown": STALLED_CALLERS * STALLED_WAVES, "ok": 1 + STALLED_CALLERS // 20}
    assert check([history], [], read_log(log_url)) == []


def memory_held() -> int:
    """Bytes that the log's code and its callers hold; the proxy's own do not count."""
    gc.collect()
    ours = [tracemalloc.Filter(True, f"*/{name}") for name in ("eventstore/*", "tests/writing.py")]
    taken = tracemalloc.take_snapshot().filter_traces(ours)
    return sum(statistic.size for statistic in taken.statistics("filename"))


async def first_answers(append: Awaitable[list[Receipt]], unit: Unit) -> list[Receipt]:
    """The receipts, also where a unit of several commands is told that it is stored already."""
    try:
        return await append
    except RepeatedCommands as repeated:
        return [repeated.receipts[entry.command_id] for entry in unit.entries]
