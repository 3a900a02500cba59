"""Following the log on a real Postgres: each matching event once, in order, whatever is cut."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from eventstore import Entry, NewEvent, StoredEvent, Subscription, Unit, Writer, prepare_database
from eventstore import embedded as embedded_server
from eventstore.embedded import EmbeddedPostgres
from eventstore.subscription import Bell, Page, read_page
from tests.conftest import TEST_SETTINGS, remove_server
from tests.patience import PATIENCE_S

ORGANISATION = UUID("5b0f7a0e-6f0c-4a52-8f0d-6a8f6f8f2b17")
NOTED, OTHER = "test.Noted.v1", "test.Other.v1"


@pytest.fixture(scope="module", autouse=True)
def _prepared(database: str) -> None:
    prepare_database(database)


def unit(*topics: str) -> Unit:
    """A new stream with an event of each topic."""
    stream = uuid4()
    events = [NewEvent(stream, n, topic, b"{}") for n, topic in enumerate(topics, start=1)]
    entry = Entry(
        uuid4(), b"", f"notes/{stream}", len(events), ORGANISATION, "ana", uuid4(), None, events
    )
    return Unit([entry], {stream: 0})


async def append(url: str, *topics: str) -> None:
    async with Writer(url) as writer:
        await writer.append(unit(*topics))


def head(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT position FROM log_head").fetchone()
    assert row is not None
    return int(row[0])


def matching(url: str, after: int, topic: str = NOTED) -> list[int]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            """SELECT notification_id FROM events WHERE notification_id > %s AND topic = %s
            ORDER BY 1""",
            (after, topic),
        ).fetchall()
    return [row[0] for row in rows]


def terminate(url: str) -> None:
    """Cut all other connections to the database."""
    with psycopg.connect(url) as connection:
        connection.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        )


def named(url: str) -> tuple[str, str]:
    """The URL with an application name of its own, and that name."""
    name = f"reader-{uuid4().hex[:8]}"
    return f"{url}?application_name={name}", name


def backends(url: str, name: str, *, locked: bool = False) -> int:
    """How many connections of that name there are, or of those, how many wait for a lock."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            """SELECT count(*) FROM pg_stat_activity WHERE application_name = %s
            AND (wait_event_type = 'Lock' OR NOT %s)""",
            (name, locked),
        ).fetchone()
    assert row is not None
    return int(row[0])


async def until(come: Callable[[], bool]) -> None:
    """Return when it has come to that.

    Raises:
        TimeoutError: it has not in a long time.
    """
    for _ in range(PATIENCE_S * 100):
        if come():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def take(batches: Subscription, count: int) -> list[StoredEvent]:
    """The next events of a subscription."""
    seen: list[StoredEvent] = []
    async with asyncio.timeout(PATIENCE_S):
        async for batch in batches:
            seen += batch
            if len(seen) >= count:
                break
    return seen


def told(events: Sequence[StoredEvent]) -> list[int]:
    return [event.position for event in events]


# order, and what is cut


def test_a_subscription_goes_on_where_it_was_told(database: str) -> None:
    start = head(database)

    async def run() -> list[StoredEvent]:
        await append(database, *[NOTED] * 7)
        async with Subscription(database, position=start + 3, batch=2) as batches:
            return await take(batches, 4)

    assert told(asyncio.run(run())) == list(range(start + 4, start + 8))


def test_a_subscription_survives_the_end_of_its_connections(database: str) -> None:
    start = head(database)

    async def run() -> list[int]:
        seen: list[int] = []
        async with (
            Writer(database) as writer,
            Subscription(database, position=start, poll_s=0.2) as batches,
        ):
            for turn in range(4):
                await writer.append(unit(NOTED, NOTED))
                seen += told(await take(batches, 2))
                if turn % 2 == 0:
                    terminate(database)
        return seen

    assert asyncio.run(run()) == list(range(start + 1, start + 9)) == matching(database, start)


@pytest.mark.parametrize("topics", [None, [NOTED]], ids=["all", "by topic"])
def test_an_event_between_a_read_and_the_wait_is_seen(
    database: str, monkeypatch: pytest.MonkeyPatch, topics: list[str] | None
) -> None:
    """With a poll once a minute, only LISTEN before the read can tell in time."""
    start = head(database)
    read = Subscription._read

    async def run() -> list[int]:
        reads = 0
        async with Writer(database) as writer:

            async def and_then_an_event(batches: Subscription, position: int) -> Page:
                nonlocal reads
                page = await read(batches, position)
                reads += 1
                if reads <= 3:
                    await writer.append(unit(NOTED))
                return page

            monkeypatch.setattr(Subscription, "_read", and_then_an_event)
            subscription = Subscription(database, position=start, poll_s=60, topics=topics)
            async with subscription as batches, asyncio.timeout(PATIENCE_S):
                return told(await take(batches, 3))

    assert asyncio.run(run()) == [start + 1, start + 2, start + 3]


@pytest.fixture
def server_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedPostgres]:
    """A server that comes back at its first port."""
    folder = Path(tempfile.mkdtemp(prefix="chainlytics-restart-"))
    folder.chmod(0o755)  # root's server runs as `nobody`
    server = EmbeddedPostgres(folder / "home", settings=TEST_SETTINGS)
    server.start()
    port = server.status().port
    assert port is not None
    monkeypatch.setattr(embedded_server, "_free_port", lambda: port)
    yield server
    remove_server(folder / "home")
    shutil.rmtree(folder, ignore_errors=True)


def test_a_subscription_survives_a_restart_of_the_server(
    server_of_its_own: EmbeddedPostgres,
) -> None:
    """Once while it waits, once while it reads on; the consumer does nothing for it."""
    server = server_of_its_own
    url = server.start()
    prepare_database(url)

    async def run() -> list[int]:
        await append(url, *[NOTED, OTHER] * 50)
        subscription = Subscription(
            url, position=0, batch=7, window=20, topics=[NOTED], poll_s=0.2, buffer=2
        )
        async with subscription as batches:
            seen = await take(batches, 14)
            await asyncio.to_thread(server.stop)
            rest = asyncio.create_task(take(batches, 86))
            await asyncio.sleep(0.5)  # it tries in vain for a while
            assert not rest.done()
            assert await asyncio.to_thread(server.start) == url
            await append(url, *[NOTED, OTHER] * 50)
            seen += await rest
            last = asyncio.create_task(take(batches, 1))
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await append(url, NOTED)
            return told(seen + await last)

    assert asyncio.run(run()) == matching(url, 0) == [*range(1, 201, 2), 201]


# topics


def test_only_events_of_the_topics_are_handed_out(database: str) -> None:
    start = head(database)

    async def run() -> list[StoredEvent]:
        await append(database, OTHER, NOTED, OTHER, "test.Third.v1", NOTED)
        async with Subscription(database, position=start, topics=[NOTED, "test.Third.v1"]) as some:
            return await take(some, 3)

    seen = asyncio.run(run())
    assert [(event.position - start, event.topic) for event in seen] == [
        (2, NOTED),
        (4, "test.Third.v1"),
        (5, NOTED),
    ]
    assert seen[0].organisation_id == ORGANISATION
    assert (seen[0].version, seen[0].state, seen[0].actor) == (2, b"{}", "ana")


def test_a_look_is_bounded_and_passes_over_what_does_not_match(database: str) -> None:
    start = head(database)

    async def run() -> None:
        await append(database, *[OTHER] * 25, NOTED, NOTED, NOTED, OTHER)
        async with await AsyncConnection.connect(database) as connection:
            look = partial(read_page, connection, limit=2, topics=[NOTED], window=10)
            assert await look(start) == Page([], start + 10, more=True)
            assert await look(start + 10) == Page([], start + 20, more=True)
            page = await look(start + 20)
            assert told(page.events) == [start + 26, start + 27]
            assert (page.position, page.more) == (start + 27, True), "not past what the limit cut"
            page = await look(start + 27)
            assert told(page.events) == [start + 28]
            assert (page.position, page.more) == (start + 29, False), "not past the head"
            assert await look(start + 29) == Page([], start + 29, more=False)
            # Where a backup was restored, a reader may be ahead of the log: it stays where it is.
            assert await look(start + 99) == Page([], start + 99, more=False)

    asyncio.run(run())


def test_an_empty_batch_comes_where_a_whole_window_did_not_match(database: str) -> None:
    """So that a consumer can store its position, and little is read again after a restart."""
    start = head(database)

    async def run() -> list[tuple[int, list[int]]]:
        await append(database, *[OTHER] * 35, NOTED, *[OTHER] * 4)
        seen: list[tuple[int, list[int]]] = []
        subscription = Subscription(database, position=start, topics=[NOTED], window=10)
        async with subscription as batches, asyncio.timeout(PATIENCE_S):
            async for batch in batches:
                seen.append((batches.position - start, told(batch)))
                if batch:
                    break
        return seen

    assert asyncio.run(run()) == [(10, []), (20, []), (30, []), (40, [start + 36])]


def test_the_position_moves_while_nothing_matches(database: str) -> None:
    start = head(database)

    async def run() -> None:
        async with (
            Writer(database) as writer,
            Subscription(database, position=start, topics=[NOTED]) as batches,
        ):
            waiting = asyncio.ensure_future(anext(batches))
            for _ in range(3):
                await writer.append(unit(OTHER))
                await until(lambda: batches.position == head(database))
            assert batches.position == start + 3
            assert not waiting.done()
            await writer.append(unit(NOTED))
            assert told(await waiting) == [start + 4]
            assert batches.position == start + 4

    asyncio.run(run())


def test_the_position_stands_while_a_batch_is_worked_on(database: str) -> None:
    """What is read ahead is not yet handed out: who stores the position now must get it again."""
    start = head(database)

    async def run() -> None:
        await append(database, NOTED, NOTED, OTHER, NOTED)
        async with Subscription(
            database, position=start, batch=1, topics=[NOTED], buffer=9
        ) as batches:
            assert told(await anext(batches)) == [start + 1]
            await until(lambda: batches._ahead.qsize() == 2)
            await append(database, OTHER, OTHER)
            await asyncio.sleep(0.1)
            assert batches.position == start + 1

    asyncio.run(run())


def test_a_filter_does_not_pass_over_what_is_still_to_be_committed(database: str) -> None:
    start = head(database)

    async def run() -> None:
        async with (
            Writer(database) as writer,
            Subscription(database, position=start, topics=[NOTED], poll_s=0.02) as batches,
        ):
            seen = asyncio.ensure_future(take(batches, 2))
            with psycopg.connect(database) as open_one:
                open_one.execute("UPDATE log_head SET position = position + 1")
                open_one.execute(
                    """INSERT INTO events (originator_id, originator_version, topic, state,
                        notification_id, event_id, organisation_id, recorded_at, correlation_id,
                        actor)
                    SELECT %s, 1, %s, '', position, %s, %s, now(), %s, 'ana' FROM log_head""",
                    (uuid4(), NOTED, uuid4(), ORGANISATION, uuid4()),
                )
                later = [asyncio.ensure_future(writer.append(unit(OTHER, NOTED)))]
                await asyncio.sleep(0.3)  # many polls
                assert batches.position == start
                assert not seen.done()
            await asyncio.gather(*later)
            assert told(await seen) == [start + 1, start + 3]

    asyncio.run(run())


class Step(NamedTuple):
    """What happens beside a reader: an append of some topics, or (none) a restart of the reader."""

    topics: tuple[str, ...]
    pause_ms: int


steps = st.lists(
    st.builds(
        Step,
        st.lists(st.sampled_from([NOTED, OTHER, OTHER, OTHER]), max_size=6).map(tuple),
        st.integers(0, 6),
    ),
    min_size=2,
    max_size=14,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=steps,
    batch=st.integers(1, 5),
    window=st.integers(1, 12),
    buffer=st.integers(1, 3),
    by_topic=st.booleans(),
)
def test_restarts_at_the_remembered_position_lose_and_repeat_nothing(
    database: str, steps: list[Step], batch: int, window: int, buffer: int, by_topic: bool
) -> None:
    start = head(database)
    seen: list[int] = []
    remembered = start

    @asynccontextmanager
    async def reading() -> AsyncIterator[Subscription]:
        """A reader that remembers as it goes, and is cut wherever it is."""
        nonlocal remembered
        subscription = Subscription(
            database,
            position=remembered,
            batch=batch,
            window=window,
            buffer=buffer,
            topics=[NOTED] if by_topic else None,
        )

        async def consume() -> None:
            nonlocal remembered
            async for events in subscription:
                seen.extend(told(events))
                assert seen == [at for at in sorted(seen) if at <= subscription.position]
                assert remembered <= subscription.position
                remembered = subscription.position
                await asyncio.sleep(0.001)

        async with subscription:
            consuming = asyncio.create_task(consume())
            yield subscription
            consuming.cancel()
            await asyncio.wait([consuming])
            assert consuming.cancelled() or consuming.exception() is None
        remembered = subscription.position

    async def run() -> None:
        left = list(steps)
        async with Writer(database) as writer:
            while left:
                async with reading():
                    while left:
                        step = left.pop(0)
                        if not step.topics:
                            break
                        await writer.append(unit(*step.topics))
                        await asyncio.sleep(step.pause_ms / 1000)
        async with reading() as subscription:
            last = start + sum(len(step.topics) for step in steps)
            await until(lambda: subscription.position >= last)

    asyncio.run(run())
    everything = list(range(start + 1, head(database) + 1))
    assert seen == (matching(database, start) if by_topic else everything)


# the buffer


def test_no_more_is_read_ahead_than_the_buffer_holds(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = head(database)
    read = Subscription._read
    reads: list[int] = []

    async def counted(batches: Subscription, position: int) -> Page:
        reads.append(position - start)
        return await read(batches, position)

    monkeypatch.setattr(Subscription, "_read", counted)

    async def run() -> list[int]:
        await append(database, *[NOTED] * 30)
        async with Subscription(database, position=start, batch=5, buffer=2) as batches:
            seen = told(await anext(batches))
            await until(lambda: len(reads) >= 3)
            await asyncio.sleep(0.2)  # time enough for the reads that must not be
            assert reads == [0, 5, 10], "the batch that is worked on, and two ahead"
            assert batches.position == start + 5
            return seen + told(await take(batches, 25))

    assert asyncio.run(run()) == list(range(start + 1, start + 31))


# the end


@pytest.mark.parametrize("where", ["waiting", "working", "reading ahead", "reading", "at once"])
def test_leaving_ends_tasks_and_connections(database: str, where: str) -> None:
    url, name = named(database)
    start = head(database)

    async def run() -> None:
        await append(database, *[NOTED] * 9)
        async with asyncio.timeout(PATIENCE_S):
            subscription = Subscription(url, position=start, batch=2, poll_s=600)
            with psycopg.connect(database) as locking:
                if where == "reading":  # its statement waits for a lock of ours
                    locking.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
                async with subscription as batches:
                    if where == "waiting":
                        await take(batches, 9)
                        with pytest.raises(TimeoutError):
                            await asyncio.wait_for(anext(batches), 0.1)
                    elif where == "working":
                        await anext(batches)
                    elif where == "reading ahead":
                        await until(lambda: not batches._ahead.empty())
                    elif where == "reading":
                        await until(lambda: backends(database, name, locked=True) == 1)
            assert await take(batches, 1) == [], "what was read ahead is not handed out any more"
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await until(lambda: backends(database, name) == 0)

    asyncio.run(run())


def test_leaving_ends_the_iteration_of_who_waits(database: str) -> None:
    start = head(database)

    async def run() -> None:
        async with Subscription(database, position=start) as batches:
            waiting = asyncio.create_task(take(batches, 1))
            await asyncio.sleep(0.05)
            await append(database, NOTED)
            assert told(await waiting) == [start + 1]
            waiting = asyncio.create_task(take(batches, 1))
            await asyncio.sleep(0.05)
        async with asyncio.timeout(PATIENCE_S):
            assert await waiting == []
            assert await take(batches, 1) == []

    asyncio.run(run())


def test_an_error_in_the_consumer_leaves_nothing_behind(database: str) -> None:
    url, name = named(database)
    start = head(database)

    async def fail() -> None:
        async with Subscription(url, position=start) as batches:
            async for _ in batches:
                raise ZeroDivisionError

    async def run() -> None:
        await append(database, NOTED)
        with pytest.raises(ZeroDivisionError):
            await fail()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await until(lambda: backends(database, name) == 0)

    asyncio.run(run())


# errors


def test_an_error_that_is_no_lost_connection_reaches_the_consumer(database: str) -> None:
    """Behind the batches that were read before it, and whoever asks again."""
    start = head(database)
    rename = "ALTER TABLE {} RENAME TO {}"

    async def run() -> None:
        await append(database, NOTED, NOTED)
        async with (
            Subscription(database, position=start, batch=1, poll_s=0.05) as batches,
            await AsyncConnection.connect(database, autocommit=True) as other,
            asyncio.timeout(PATIENCE_S),
        ):
            assert told(await anext(batches)) == [start + 1]
            await until(lambda: not batches._ahead.empty())
            await other.execute(rename.format("events", "events_away").encode())
            try:
                assert told(await anext(batches)) == [start + 2]
                for _ in range(2):
                    with pytest.raises(psycopg.errors.UndefinedTable):
                        await anext(batches)
            finally:
                await other.execute(rename.format("events_away", "events").encode())

    asyncio.run(run())


def test_what_cannot_be_listened_to_is_told(database: str) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(psycopg.ProgrammingError):
                async with Bell(f"{database}?no_such_option=1"):
                    pass
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_a_subscription_that_was_not_entered_says_so(database: str) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(take(Subscription(database, position=0), 1))
