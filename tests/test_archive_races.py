"""Readers and writers while ranges are dropped and put back, while the store is slow, and while a
file is not what it was: all of the events, or an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import polars as pl
import psycopg
import pytest
from eventsourcing.persistence import IntegrityError
from eventsourcing.persistence import StoredEvent as Theirs
from psycopg_pool import AsyncConnectionPool

from eventstore import Log, LogUnavailable, prepare_database
from eventstore.archive import cold as cold_reads
from eventstore.archive import segments as files
from eventstore.archive.cold import Cold
from eventstore.archive.dropping import drop, restore
from eventstore.archive.object_store import ArchiveDamaged, ArchiveUnavailable, ObjectStore
from eventstore.log import read_after
from eventstore.recorder import LogRecorder
from eventstore.streams import Streams, Wanted
from projections.segments import needed
from tests.archiving import archived, dropped, held, manifests_sealed
from tests.test_recorder import datastore
from tests.world import copied

STREAMS, VERSIONS = 20, 20


@pytest.fixture(scope="module")
def filled(database: str) -> tuple[str, list[UUID]]:
    """A log of long streams."""
    prepare_database(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("TRUNCATE events, commands; UPDATE log_head SET position = 0")
    ids = [uuid4() for _ in range(STREAMS)]
    with datastore(database) as opened:
        recorder = LogRecorder(opened)
        for version in range(1, VERSIONS + 1):
            recorder.insert_events([Theirs(one, version, "x.Y.v1", b"{}") for one in ids])
    return database, ids


@pytest.fixture
def ids(filled: tuple[str, list[UUID]]) -> list[UUID]:
    return filled[1]


@pytest.fixture
def log(filled: tuple[str, list[UUID]], tmp_path: Path) -> Iterator[str]:
    """The log, archived in four segments."""
    with copied(filled[0]) as url:
        archived(url, tmp_path, positions=100)
        manifests_sealed(url)
        yield url


@asynccontextmanager
async def reading(url: str, **settings: Any) -> Any:
    async with AsyncConnectionPool(
        url, open=False, kwargs={"autocommit": True}, **settings
    ) as pool:
        yield Log(pool)


def first_time(real: Callable[..., Any], before: Callable[[], object]) -> Callable[..., Any]:
    """The same, with something before its first call."""
    done: list[bool] = []

    def instead(*args: Any, **kwargs: Any) -> Any:
        if not done:
            done.append(True)
            before()
        return real(*args, **kwargs)

    return instead


def test_a_stale_version_is_refused_where_its_row_was_dropped(log: str, ids: list[UUID]) -> None:
    dropped(log)
    with datastore(log) as opened:
        recorder = LogRecorder(opened)
        for version in (1, 4, VERSIONS):
            with pytest.raises(IntegrityError):
                recorder.insert_events(
                    [Theirs(uuid4(), 1, "x.Y.v1", b""), Theirs(ids[0], version, "x.Y.v1", b"{1}")]
                )
        assert recorder.max_notification_id() == STREAMS * VERSIONS
        done = recorder.insert_events(
            [Theirs(ids[0], VERSIONS + n, "x.Y.v1", b"") for n in (1, 2, 3)]
        )
        assert done == [STREAMS * VERSIONS + n for n in (1, 2, 3)]
        versions = [event.originator_version for event in recorder.select_events(ids[0])]
    assert versions == list(range(1, VERSIONS + 4))


def test_an_event_that_differs_from_the_archives_is_not_believed(log: str, ids: list[UUID]) -> None:
    dropped(log)
    with psycopg.connect(log, autocommit=True) as connection:
        connection.execute("UPDATE events SET state = 'forged'")
    with datastore(log) as opened, pytest.raises(ArchiveDamaged, match="another event"):
        LogRecorder(opened).select_events(ids[0])

    async def read() -> None:
        async with reading(log) as events:
            with pytest.raises(ArchiveDamaged, match="is another one"):
                await events.streams(ids)

    asyncio.run(read())


def test_notifications_are_whole_while_more_is_dropped_and_put_back(log: str) -> None:
    drop(log, 101, needed)
    every = list(range(1, STREAMS * VERSIONS + 1))
    with datastore(log) as opened:
        recorder = LogRecorder(opened)
        real = recorder._cold.events
        for between in (lambda: drop(log, 301, needed), lambda: restore(log)):
            with patch.object(recorder._cold, "events", first_time(real, between)):
                found = recorder.select_notifications(1, 1000)
            assert [one.id for one in found] == every
        dropped(log)
        real_segments = recorder._notifications
        again = first_time(lambda *a: None, lambda: restore(log))
        with patch.object(
            recorder, "_notifications", lambda *a: again() if held(log) < 400 else real_segments(*a)
        ):
            found = recorder.select_notifications(150, 100)
        assert [one.id for one in found] == every[149:249]


def test_few_notifications_take_few_events_of_a_segment(log: str) -> None:
    dropped(log)
    with datastore(log) as opened:
        recorder = LogRecorder(opened)
        real, sizes = files.stored_events, list[int]()

        def counted(rows: pl.DataFrame) -> Any:
            sizes.append(rows.height)
            return real(rows)

        with patch.object(cold_reads, "stored_events", counted):
            assert len(recorder.select_notifications(1, 10)) == 10
            assert recorder.select_notifications(1, 10, topics=["other"]) == []
        assert max(sizes) == 10


@pytest.mark.parametrize("way", ["recorder", "streams", "log", "at", "after_of", "moment"])
def test_a_restore_in_the_middle_of_a_read_leaves_no_hole(
    log: str, ids: list[UUID], way: str
) -> None:
    """The rows are not in Postgres yet when it is asked, and not cold any more when that is."""

    async def read() -> list[int]:
        async with reading(log) as events, Streams(log) as streams:
            match way:
                case "streams":
                    loaded = (await streams.load({ids[0]: Wanted(0, b"")}))[ids[0]]
                    return [event[0] for event in loaded.events]
                case "log":
                    return [event.version for event in (await events.streams([ids[0]]))[ids[0]]]
                case "at":
                    found = await events.at([1, 21, 41])
                    return sorted(found)
                case "after_of":
                    of = await events.after_of(UUID(int=0), 0, 30, to=40)
                    return [event.position for event in of]
            [event] = await events.after(70, 1)
            return [await events.position_at(event.recorded_at)]

    def recorded() -> list[int]:
        with datastore(log) as opened:
            found = LogRecorder(opened).select_events(ids[0])
        return [event.originator_version for event in found]

    def say() -> list[int]:
        return recorded() if way == "recorder" else asyncio.run(read())

    expected = say()
    assert expected
    dropped(log)
    # All statements that ask what is cold pass here.
    within = first_time(cold_reads._within, lambda: restore(log))
    with patch.object(cold_reads, "_within", within):
        assert say() == expected
    assert held(log) == STREAMS * VERSIONS


def test_a_stream_with_a_hole_is_an_error(log: str, ids: list[UUID]) -> None:
    with psycopg.connect(log, autocommit=True) as connection:
        connection.execute(
            "DELETE FROM events WHERE originator_id = %s AND originator_version = 7", (ids[0],)
        )

    async def read() -> None:
        async with reading(log) as events, Streams(log) as streams:
            with pytest.raises(LogUnavailable, match="hole"):
                await events.streams([ids[0]])
            with pytest.raises(LogUnavailable, match="hole"):
                await streams.load({ids[0]: Wanted(0, b"")})

    asyncio.run(read())


def test_a_store_that_hangs_holds_up_nobody_else(log: str, ids: list[UUID]) -> None:
    drop(log, 301, needed)
    hot, awake = uuid4(), Event()
    with datastore(log) as opened:
        LogRecorder(opened).insert_events([Theirs(hot, 1, "x.Y.v1", b"{}")])

    def hangs(*_: object) -> str:
        awake.wait(20)
        raise ArchiveUnavailable("unreachable")

    async def quick(work: Any) -> Any:
        begun = monotonic()
        found = await work
        assert monotonic() - begun < 0.4
        return found

    async def work() -> None:
        # One connection: nobody may hold it while a file is read.
        async with (
            Streams(log, patience_s=1.0) as streams,
            reading(log, min_size=1, max_size=1, timeout=0.5) as events,
        ):
            events._cold = Cold(patience_s=1.0)
            cold = [
                asyncio.create_task(one)
                for one in (
                    *(streams.load({one: Wanted(0, b"")}) for one in ids),
                    events.after(0, 10),
                    events.streams(ids[:3]),
                    events.at([3]),
                )
            ]
            await asyncio.sleep(0.3)
            assert len((await quick(streams.load({hot: Wanted(0, b"")})))[hot].events) == 1
            assert len(await quick(events.after(300, 10))) == 10
            await quick(asyncio.to_thread(lambda: None))
            async with asyncio.timeout(3):
                told = await asyncio.gather(*cold, return_exceptions=True)
            assert all(isinstance(one, LogUnavailable) for one in told), told

    with patch.object(ObjectStore, "source", hangs):
        try:
            asyncio.run(work())
        finally:
            awake.set()


def test_a_forged_segment_is_not_believed(log: str, ids: list[UUID], tmp_path: Path) -> None:
    drop(log, 101, needed)
    file = next(iter((tmp_path / "log").glob("000000000001-*")))
    content = file.read_bytes()

    async def read() -> int:
        async with await psycopg.AsyncConnection.connect(log, autocommit=True) as connection:
            return len(await read_after(connection, 0, 10))

    assert asyncio.run(read()) == 10
    forged = bytearray(content)
    forged[len(forged) // 3] ^= 1
    file.write_bytes(forged)
    with pytest.raises(ArchiveDamaged, match="other content"):
        asyncio.run(read())
    file.write_bytes(content)
    assert asyncio.run(read()) == 10
