"""Everything that reads the log says the same from the archive: rebuilds, the past, training, the
running form, replays, streams; before and after the archived range is dropped from Postgres."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import polars as pl
import psycopg
import pytest
from polars.testing import assert_frame_equal
from structlog.testing import capture_logs

from domain import catalogue
from domain.decisions import DecisionFailed
from domain.errors import Refused
from domain.inventory import AdjustStock
from eventstore import Entry, NewEvent, Unit, VersionConflict, Writer
from eventstore.archive.cold import dropped_rows
from eventstore.archive.dropping import restore
from eventstore.archive.object_store import ArchiveDamaged, ArchiveUnavailable
from eventstore.archive.writer import ArchiveError
from eventstore.log import StoredEvent
from eventstore.recorder import LogRecorder
from eventstore.seals.leaves import row_bytes, rows
from eventstore.streams import Streams, Wanted
from eventstore.subscription import Subscription
from ml import deciding, governance
from ml.catalogue import FEATURE_TABLES
from ml.fulfilment import FULFILMENT
from ml.models import read_log
from ml.replay import replay
from projections import dead_letters, segments
from projections.accumulate import parts
from projections.as_of import rows_as_of, running_as_of
from projections.catalogue import TABLES
from projections.frames import NewerTopic, wanted
from projections.look_up import can_be_looked_up
from projections.reading import LogReader
from projections.rebuild import rebuild, rebuild_keys
from projections.segments import DECODER
from projections.store import roll_back
from projections.table import Table
from readmodels import audit
from readmodels.database import ReadModels
from readmodels.positions import Positions
from tests.archiving import archived, dropped, held
from tests.test_rebuild import dump
from tests.test_recorder import datastore
from tests.world import (
    NOW,
    ORGANISATION,
    a_year,
    company,
    context,
    copied,
    deployed_model,
    open_orders,
    request,
)

POSITIONS = 700
EVERY: tuple[Table, ...] = (*TABLES.values(), *FEATURE_TABLES)
#: Merged rows, a row for each event, rows by effective time, rows of many events.
SOME = tuple(
    TABLES[name] for name in ("order_summary", "order_timeline", "stock_levels", "daily_kpis")
)


@pytest.fixture(scope="module")
def year(database: str) -> str:
    """A year of orders, a model, some decisions; every table at the head."""

    async def fill() -> None:
        async with company(database) as app:
            await a_year(app, orders=600)
            await deployed_model(app)
            for number, order_id in enumerate(await open_orders(app, 4)):
                await request(app, f"d-{number}", order_id)
            await app.consumer.catch_up()
            await app.projector.catch_up()
            assert await app.log.head() > 3 * POSITIONS

    asyncio.run(fill())
    return database


@pytest.fixture
def world(year: str) -> Iterator[str]:
    with copied(year) as url:
        yield url


@contextmanager
def no_rows() -> Iterator[None]:
    """Fails where rows are decoded although there are columns of them."""
    with patch.object(segments, "decode_frame", side_effect=AssertionError("decoded")):
        yield


def head(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT position FROM log_head").fetchone()
    assert row is not None
    return int(row[0])


async def told(url: str, tables: tuple[Table, ...], position: int) -> dict[str, pl.DataFrame]:
    async with LogReader(url) as reader:
        return {
            table.name: (await rows_as_of(reader, table, position)).sort(table.keys)
            for table in tables
        }


def every_event(url: str) -> list[StoredEvent]:
    async def read() -> list[StoredEvent]:
        async with company(url) as app:
            return await app.log.after(0, 10**6)

    return asyncio.run(read())


def assert_equal(found: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    assert found.keys() == expected.keys()
    for name, frame in expected.items():
        assert_frame_equal(found[name], frame, check_exact=True)


@pytest.mark.parametrize("drop", [False, True], ids=["archived", "dropped"])
def test_every_table_is_the_same_as_of_any_position(world: str, tmp_path: Path, drop: bool) -> None:
    end = head(world)
    moments = (POSITIONS // 2, POSITIONS, 2 * POSITIONS + 13, end)
    before = [asyncio.run(told(world, EVERY, moment)) for moment in moments]
    done = archived(world, tmp_path, positions=POSITIONS)
    assert len(done) == end // POSITIONS >= 3
    assert not any(set(one.topics) - set(one.typed) for one in done)
    if drop:
        assert sum(one.gone for one in dropped(world)) > POSITIONS
        assert held(world) < end - POSITIONS
    with no_rows():
        for moment, expected in zip(moments, before, strict=True):
            assert_equal(asyncio.run(told(world, EVERY, moment)), expected)


@pytest.mark.parametrize("drop", [False, True], ids=["archived", "dropped"])
def test_a_rebuild_from_segments_makes_the_live_rows(
    world: str, tmp_path: Path, drop: bool
) -> None:
    live = {table.name: dump(world, table) for table in EVERY}
    archived(world, tmp_path, positions=POSITIONS)
    if drop:
        dropped(world)
    for table in EVERY if drop else SOME:
        assert asyncio.run(rebuild(world, table)) == head(world)
        assert dump(world, table) == live[table.name], table.name
    for table in SOME:  # in small pieces too, which end within segments
        with patch.object(LogReader, "window", property(lambda _: 331)):
            asyncio.run(rebuild(world, table, rows_in_memory=50, positions_at_once=450))
        assert dump(world, table) == live[table.name], table.name


def test_columns_are_read_where_there_are_some_and_postgres_is_not(
    world: str, tmp_path: Path
) -> None:
    archived(world, tmp_path, positions=POSITIONS)
    table = TABLES["order_summary"]

    async def read() -> list[int]:
        async with LogReader(world) as reader:
            with no_rows(), patch.object(reader, "between", side_effect=AssertionError):
                return [done async for done, _ in parts(reader, table, 0, 2 * POSITIONS)]

    assert asyncio.run(read()) == [POSITIONS, 2 * POSITIONS]


def test_the_past_training_and_replays_say_the_same_after_a_drop(
    world: str, tmp_path: Path
) -> None:
    table = next(one for one in FEATURE_TABLES if can_be_looked_up(one))

    async def say() -> tuple[Any, ...]:
        async with company(world) as app:
            log = await read_log(app.url, app.log, ORGANISATION, FULFILMENT)
            async with LogReader(app.url) as reader:
                rows = await rows_as_of(reader, table, log.head)
                probes = pl.concat(
                    rows.select(*table.keys, pl.lit(position, pl.Int64).alias("position"))
                    for position in (POSITIONS - 1, 2 * POSITIONS, log.head)
                ).sort("position", *table.keys)
                running = await running_as_of(reader, table, probes, log.head, ORGANISATION)
            again = await replay(app.url, app.log, app.artifacts, ORGANISATION, None)
            return log, running, again

    log, running, again = asyncio.run(say())
    assert len(again) == 4
    assert all(one.same for one in again)
    archived(world, tmp_path, positions=POSITIONS)
    dropped(world)
    log_after, running_after, again_after = asyncio.run(say())
    for one, frame in log.parts.items():
        assert_frame_equal(log_after.parts[one], frame, check_exact=True)
    for event, frame in log.frames.items():
        assert_frame_equal(log_after.frames[event], frame, check_exact=True)
    assert_frame_equal(running_after, running, check_exact=True)
    assert again_after == again


def test_readers_see_no_seam(world: str, tmp_path: Path) -> None:
    before = every_event(world)
    by_stream: dict[UUID, list[StoredEvent]] = {}
    for event in before:
        by_stream.setdefault(event.stream_id, []).append(event)
    archived(world, tmp_path, positions=POSITIONS)
    gone = sum(one.gone for one in dropped(world))
    assert held(world) == len(before) - gone
    topics = [before[3].topic, before[900].topic]

    async def read() -> None:
        async with company(world) as app:
            assert await app.log.after(0, 10**6) == before
            for start in (0, 5, POSITIONS - 2, 2 * POSITIONS, len(before) - 3, len(before)):
                assert await app.log.after(start, 17) == before[start : start + 17]
            of = await app.log.after_of(ORGANISATION, 3, 25, to=POSITIONS * 2)
            assert of == before[3:28]
            assert await app.log.after_of(uuid4(), 0, 25, to=len(before)) == []
            assert await app.log.streams(by_stream) == by_stream
            assert await app.log.at([2, 701, len(before)]) == {
                n: before[n - 1] for n in (2, 701, len(before))
            }
            for number in (0, 5, POSITIONS, len(before) - 1):
                at = before[number].recorded_at
                last = max(e.position for e in before if e.recorded_at <= at)
                assert await app.log.position_at(at) == last
                earlier = at - timedelta(microseconds=1)
                known = [e.position for e in before if e.recorded_at <= earlier]
                assert await app.log.position_at(earlier) == max(known, default=0)
        assert await followed(world, None) == before
        assert await followed(world, topics) == [e for e in before if e.topic in topics]

    asyncio.run(read())
    with psycopg.connect(world) as connection:
        cold = list(dropped_rows(connection, 10, 2 * POSITIONS))
    assert cold == before[10 : 2 * POSITIONS]


async def followed(url: str, topics: list[str] | None) -> list[StoredEvent]:
    end = head(url)
    found: list[StoredEvent] = []
    async with Subscription(url, position=0, batch=97, topics=topics, window=300) as batches:
        async for batch in batches:
            found += batch
            if batches.position >= end:
                return found
    raise AssertionError


def test_the_archived_rows_are_the_bytes_that_were_sealed(world: str, tmp_path: Path) -> None:
    with psycopg.connect(world) as connection:
        sealed_bytes = [row for some in rows(connection, 0, 2 * POSITIONS) for row in some]
    archived(world, tmp_path, positions=POSITIONS)
    dropped(world)
    with psycopg.connect(world) as connection:
        assert [
            row_bytes(one) for one in dropped_rows(connection, 0, 2 * POSITIONS)
        ] == sealed_bytes


def test_an_old_stream_takes_another_command_and_conflicts_are_still_found(
    world: str, tmp_path: Path
) -> None:
    placed = every_event(world)
    old = next(e for e in placed if e.topic == "orders.OrderPlaced.v1")
    stream = [e for e in placed if e.stream_id == old.stream_id]
    assert len(stream) > 1
    archived(world, tmp_path, positions=POSITIONS)
    dropped(world)
    with psycopg.connect(world, autocommit=True) as connection:
        connection.execute("DELETE FROM snapshots")
        row = connection.execute(
            "SELECT count(*) FROM events WHERE originator_id = %s", (old.stream_id,)
        ).fetchone()
    assert row is not None
    assert 0 < row[0] < len(stream)

    async def work() -> None:
        async with Streams(world) as streams:
            for seen in range(len(stream)):
                found = await streams.load({old.stream_id: Wanted(seen, b"other rules")})
                assert [e[0] for e in found[old.stream_id].events] == [
                    e.version for e in stream[seen:]
                ]
                assert [e[2] for e in found[old.stream_id].events] == [
                    e.state for e in stream[seen:]
                ]
        event = NewEvent(old.stream_id, len(stream) + 1, "x.Y.v1", b"{}")
        async with Writer(world) as writer:
            stale = {old.stream_id: 1}
            with pytest.raises(VersionConflict) as told:
                await writer.append(unit(event._replace(version=2), stale))
            assert told.value.actual == len(stream)
            done = await writer.append(unit(event, {old.stream_id: len(stream)}))
            assert done[0].position == head(world)

    asyncio.run(work())


def unit(event: NewEvent, expected: dict[UUID, int]) -> Unit:
    entry = Entry(
        command_id=uuid4(),
        digest=b"d",
        stream="s",
        version=event.version,
        organisation_id=ORGANISATION,
        actor="ana",
        correlation_id=uuid4(),
        causation_id=None,
        events=(event,),
    )
    return Unit((entry,), expected)


def retopic(url: str, topic: str, older: str) -> None:
    """The log as code had written it that knew a topic under an older name only."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE events SET topic = %s WHERE topic = %s", (older, topic))


def test_older_topics_are_upcast_by_the_code_that_reads_them(
    world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns are never those of an upcast: a later step would not be seen."""
    table = TABLES["order_summary"]
    expected = asyncio.run(told(world, (table,), head(world)))
    present, older = "orders.OrderPlaced.v1", "orders.OrderPlaced.v0"
    retopic(world, present, older)
    monkeypatch.setitem(catalogue.UPCASTERS, older, (present, lambda body: body))
    done = archived(world, tmp_path, positions=POSITIONS)
    assert older in done[0].topics
    assert older not in done[0].typed
    assert present not in done[0].typed
    dropped(world)
    assert_equal(asyncio.run(told(world, (table,), head(world))), expected)

    def renamed(body: dict[str, Any]) -> dict[str, Any]:
        return body | {"customer_id": "somebody"}

    monkeypatch.setitem(catalogue.UPCASTERS, older, (present, renamed))
    [found] = asyncio.run(told(world, (table,), head(world))).values()
    assert set(found["customer_id"]) == {"somebody"}


def test_columns_that_the_code_wants_otherwise_are_decoded(world: str, tmp_path: Path) -> None:
    table = TABLES["order_summary"]
    expected = asyncio.run(told(world, (table,), head(world)))
    archived(world, tmp_path, positions=POSITIONS)
    with patch.object(segments, "DECODER", DECODER + 1):
        with pytest.raises(AssertionError, match="decoded"), no_rows():
            asyncio.run(told(world, (table,), head(world)))
        assert_equal(asyncio.run(told(world, (table,), head(world))), expected)


def test_an_event_of_newer_code_waits_in_a_segment_too(world: str, tmp_path: Path) -> None:
    archived(world, tmp_path, positions=POSITIONS)
    # As an older server sees it: the type is not in its catalogue.
    topic = "orders.OrderPlaced.v1"
    types = {one: kind for one, kind in catalogue.TYPES.items() if one != topic}
    with patch.object(catalogue.CATALOGUE, "types", types), pytest.raises(NewerTopic):
        asyncio.run(told(world, (TABLES["stock_levels"],), POSITIONS))


@pytest.mark.parametrize("drop", [False, True], ids=["archived", "dropped"])
def test_a_poison_event_is_parked_from_a_segment_as_from_postgres(
    world: str, tmp_path: Path, drop: bool
) -> None:
    table = TABLES["order_summary"]
    with psycopg.connect(world, autocommit=True) as connection:
        row = connection.execute(
            """UPDATE events SET state = '{"order_id": 7' WHERE notification_id = (
                SELECT min(notification_id) FROM events WHERE topic = 'orders.OrderPlaced.v1')
            RETURNING notification_id"""
        ).fetchone()
    assert row is not None
    poison = int(row[0])
    asyncio.run(rebuild(world, table))
    expected = dump(world, table)
    assert letters(world, table)[0] == poison
    parked = letters(world, table)
    [first, *_] = archived(world, tmp_path, positions=POSITIONS)
    assert first.first <= poison <= first.last
    assert "orders.OrderPlaced.v1" not in first.typed
    if drop:
        dropped(world)
    asyncio.run(rebuild(world, table))
    assert dump(world, table) == expected
    assert letters(world, table) == parked


def letters(url: str, table: Table) -> list[int]:
    async def read() -> list[int]:
        async with company(url) as app, app.log.connection() as connection:
            found = await dead_letters.letters(connection, table.name, limit=1000)
            return [one.position for one in found]

    return asyncio.run(read())


def test_without_its_file_an_archived_range_is_read_from_postgres_and_a_dropped_one_not(
    world: str, tmp_path: Path
) -> None:
    table = TABLES["order_summary"]
    expected = asyncio.run(told(world, (table,), head(world)))
    done = archived(world, tmp_path, positions=POSITIONS)
    files = [tmp_path / file.path for file in done[1].files]
    away = {file: file.read_bytes() for file in files}
    for damage in (b"", b"PAR1"):
        for file in files:
            if damage:
                file.write_bytes(damage)
            else:
                file.unlink()
        assert_equal(asyncio.run(told(world, (table,), head(world))), expected)
        with pytest.raises(ArchiveUnavailable):
            dropped(world)
        for file, content in away.items():
            file.write_bytes(content)
    assert held(world) < head(world), "the segment before the damaged one was dropped"
    dropped(world)
    assert_equal(asyncio.run(told(world, (table,), head(world))), expected)
    for file in files:
        file.unlink()
    with pytest.raises(ArchiveUnavailable, match=f"{POSITIONS + 1:,} to {2 * POSITIONS:,}"):
        asyncio.run(told(world, (table,), head(world)))

    async def read() -> None:
        async with company(world) as app:
            assert len(await app.log.after(0, 10)) == 10
            with pytest.raises(ArchiveUnavailable, match=r"log/\d+-\d+-\w+\.parquet"):
                await app.log.after(POSITIONS, 10)

    asyncio.run(read())


def test_a_moved_folder_is_found_where_the_environment_says(
    world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = TABLES["order_summary"]
    expected = asyncio.run(told(world, (table,), head(world)))
    archived(world, tmp_path / "one", positions=POSITIONS)
    dropped(world)
    (tmp_path / "one").rename(tmp_path / "other")
    with pytest.raises(ArchiveUnavailable):
        asyncio.run(told(world, (table,), head(world)))
    monkeypatch.setenv("CHAINLYTICS_ARCHIVE", str(tmp_path / "other"))
    assert_equal(asyncio.run(told(world, (table,), head(world))), expected)


def test_rows_of_some_keys_are_made_again_from_a_dropped_range(world: str, tmp_path: Path) -> None:
    tables = [TABLES["order_summary"], TABLES["order_timeline"], TABLES["stock_levels"]]
    live = {table.name: dump(world, table) for table in tables}
    archived(world, tmp_path, positions=POSITIONS)
    dropped(world)

    async def again(table: Table) -> None:
        async with LogReader(world) as reader:
            rows = await rows_as_of(reader, table, head(world))
        some = rows.select(table.keys).unique().sort(table.keys).gather_every(3)
        assert await rebuild_keys(world, table, some) == some.height
        one = some.head(2)
        async with LogReader(world) as reader:
            found = await rows_as_of(reader, table, head(world), keys=one)
        expected = rows.join(one, on=table.keys, how="semi", maintain_order="left")
        assert_frame_equal(found.sort(table.keys), expected.sort(table.keys))

    for table in tables:
        asyncio.run(again(table))
        assert dump(world, table) == live[table.name], table.name


def test_a_former_table_can_still_be_rolled_back_to(world: str, tmp_path: Path) -> None:
    table = TABLES["order_summary"]
    live = dump(world, table)

    async def early() -> None:
        """Make the former table one that has come less far."""
        await rebuild(world, table)
        with psycopg.connect(world, autocommit=True) as connection:
            connection.execute(
                """UPDATE projections SET old_position = 30, old_event_id =
                    (SELECT event_id FROM events WHERE notification_id = 30) WHERE name = %s""",
                (table.name,),
            )
            connection.execute(f"TRUNCATE read_models.{table.name}__old")
            async with LogReader(world) as reader:
                rows_then = await rows_as_of(reader, table, 30)
            assert rows_then.height == 0, "nothing was ordered yet"

    asyncio.run(early())
    archived(world, tmp_path, positions=POSITIONS)
    dropped(world)

    async def back() -> None:
        async with company(world) as app, app.log.connection() as connection:
            assert await roll_back(connection, table) == 30
            await app.projector.catch_up()
            states = {one.name: one for one in await Positions(app.log, world).states()}
            assert states[table.name].position == head(world)
            assert not states[table.name].diverged

    asyncio.run(back())
    assert dump(world, table) == live


def test_what_others_need_is_not_dropped(world: str, tmp_path: Path) -> None:
    archived(world, tmp_path, positions=POSITIONS)
    with psycopg.connect(world, autocommit=True) as connection:
        connection.execute("UPDATE projections SET position = 9 WHERE name = 'order_summary'")
    with pytest.raises(ArchiveError, match="order_summary is at position 9"):
        dropped(world)
    assert held(world) == head(world)
    with psycopg.connect(world, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO projection_rebuilds (name, fingerprint, position) VALUES ('x', 'f', 5)"""
        )
        connection.execute("UPDATE projections SET position = %s", (head(world),))
    with pytest.raises(ArchiveError, match="the rebuild of x is at position 5"):
        dropped(world)


def test_a_dropped_range_is_put_back(world: str, tmp_path: Path) -> None:
    before = every_event(world)
    done = archived(world, tmp_path, positions=POSITIONS)
    with psycopg.connect(world) as connection:
        log = connection.execute("SELECT e::text FROM events e ORDER BY notification_id").fetchall()
    dropped(world)
    assert [one.number for one in restore(world, [1])] == [1]
    assert [one.number for one in restore(world)] == [one.number for one in done if one.number != 1]
    with psycopg.connect(world) as connection:
        again = connection.execute(
            "SELECT e::text FROM events e ORDER BY notification_id"
        ).fetchall()
        cold = connection.execute("SELECT count(*) FROM cold_streams").fetchone()
    assert again == log
    assert cold == (0,)
    assert every_event(world) == before
    assert restore(world) == []


def test_a_drop_in_the_middle_of_a_read_is_not_noticed(world: str, tmp_path: Path) -> None:
    """A reader that looked before the archive was there finds the events where they went."""
    table = TABLES["order_summary"]
    expected = asyncio.run(told(world, (table,), head(world)))

    async def read() -> dict[str, pl.DataFrame]:
        fields = wanted([table])
        async with LogReader(world) as reader:
            before = await reader.frames(fields, 0, 50)
            archived(world, tmp_path, positions=POSITIONS)
            dropped(world)
            assert (await reader.frames(fields, 0, 50)).keys() == before.keys()
            for kind, frame in before.items():
                again = (await reader.frames(fields, 0, 50))[kind]
                assert_frame_equal(again.select(frame.columns), frame)
            rows = await rows_as_of(reader, table, head(world))
            return {table.name: rows.sort(table.keys)}

    assert_equal(asyncio.run(read()), expected)


def test_a_command_on_a_cold_stream_is_decided_on_all_of_its_events(
    world: str, tmp_path: Path
) -> None:
    """No state in memory, no snapshot: what was dropped is what the rule has to see."""
    stock: dict[UUID, list[StoredEvent]] = {}
    for event in every_event(world):
        if event.topic.startswith("inventory.Stock"):
            stock.setdefault(event.stream_id, []).append(event)
    moves = max(stock.values(), key=len)
    assert len(moves) > 5
    archived(world, tmp_path, positions=POSITIONS)
    dropped(world)
    with psycopg.connect(world, autocommit=True) as connection:
        connection.execute("DELETE FROM snapshots")
    place = json.loads(moves[-1].state)
    [on_hand] = [
        row["on_hand"]
        for row in asyncio.run(told(world, (TABLES["stock_levels"],), head(world)))[
            "stock_levels"
        ].iter_rows(named=True)
        if (row["site_id"], row["sku"]) == (place["site_id"], place["sku"])
    ]

    async def work() -> None:
        async with company(world) as app:
            adjust = AdjustStock(
                site_id=place["site_id"],
                sku=place["sku"],
                change=-on_hand - 1,
                reason="broken",
                adjusted_at=NOW,
            )
            with pytest.raises(Refused):
                await app.bus.execute(adjust, context())
            one = adjust.model_copy(update={"change": Decimal(1)})
            receipt = await app.bus.execute(one, context())
            assert receipt.version == len(moves) + 1

    asyncio.run(work())


def test_the_packages_recorder_reads_what_was_dropped(world: str, tmp_path: Path) -> None:
    before = every_event(world)
    streams: dict[UUID, list[StoredEvent]] = {}
    for event in before:
        streams.setdefault(event.stream_id, []).append(event)
    long = max((streams[event.stream_id] for event in before[:300]), key=len)
    topics = [before[0].topic, before[500].topic]

    def say() -> list[object]:
        with datastore(world) as opened:
            recorder = LogRecorder(opened)
            stream = long[0].stream_id
            return [
                recorder.select_events(stream),
                recorder.select_events(stream, desc=True, limit=3),
                recorder.select_events(stream, desc=True),
                recorder.select_events(stream, gt=2, limit=2),
                recorder.select_events(stream, gt=1, lte=4),
                recorder.select_events(stream, lte=3, desc=True, limit=1),
                recorder.select_events(stream, gt=len(long)),
                recorder.select_events(uuid4()),
                recorder.select_notifications(3, 40, topics=topics),
                recorder.select_notifications(None, 10**6, topics=topics),
                recorder.select_notifications(POSITIONS - 5, 40, stop=POSITIONS + 5, topics=topics),
                recorder.max_notification_id(),
            ]

    expected = say()
    archived(world, tmp_path, positions=POSITIONS)
    dropped(world)
    assert say() == expected


@pytest.mark.parametrize("change", ["drop", "restore"])
@pytest.mark.parametrize("table", ["stock_levels"])
def test_rows_of_some_keys_are_whole_while_a_range_is_dropped_or_put_back(
    world: str, tmp_path: Path, table: str, change: str
) -> None:
    """Whatever is asked of Postgres is asked while the range goes, or comes back."""
    declared = TABLES[table]
    end = head(world)
    [expected] = asyncio.run(told(world, (declared,), end)).values()
    keys = expected.select(declared.keys).unique().sort(declared.keys).gather_every(5)
    archived(world, tmp_path, positions=POSITIONS)
    if change == "restore":
        dropped(world)
    real = LogReader._read

    async def say(url: str, number: int) -> pl.DataFrame:
        """Change it before one of the reads."""
        reads = 0

        async def read(reader: LogReader, query: Any) -> pl.DataFrame:
            nonlocal reads
            reads += 1
            if reads == number:
                (dropped if change == "drop" else restore)(url)
            return await real(reader, query)

        with patch.object(LogReader, "_read", read):
            async with LogReader(url) as reader:
                return await rows_as_of(reader, declared, end, keys=keys)

    mine = expected.join(keys, on=declared.keys, how="semi", maintain_order="left")
    for number in range(1, 7):
        with copied(world) as url:
            found = asyncio.run(say(url, number))
        assert_frame_equal(found.sort(declared.keys), mine.sort(declared.keys))


@pytest.mark.parametrize("number", range(3))
def test_a_restore_while_a_window_is_read_is_not_noticed(
    world: str, tmp_path: Path, number: int
) -> None:
    fields = wanted([TABLES["order_summary"]])

    async def read(again: bool) -> pl.DataFrame:
        async with LogReader(world) as reader:
            real, reads = reader._read, 0
            if again:  # it knows of no archive yet
                reader._archived = 0

            async def instead(query: Any) -> pl.DataFrame:
                nonlocal reads
                reads += 1
                if again and reads == number + 1:
                    restore(world)
                return await real(query)

            with patch.object(reader, "_read", instead):
                return await reader.between(fields, 0, 2 * POSITIONS)

    expected = asyncio.run(read(again=False))
    archived(world, tmp_path, positions=POSITIONS)
    dropped(world)
    found = asyncio.run(read(again=True))
    assert_frame_equal(found.select(expected.columns), expected)


def test_a_large_segment_is_read_in_even_parts(
    world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [segment, *_] = archived(world, tmp_path, positions=POSITIONS)
    monkeypatch.setattr("projections.reading._PACKED_BYTES", segment.log.bytes // 3 + 1)
    table = TABLES["order_summary"]

    async def read() -> list[int]:
        async with LogReader(world) as reader:
            return [done async for done, _ in parts(reader, table, 0, POSITIONS)]

    part = -(-POSITIONS // 3)
    assert asyncio.run(read()) == [part, 2 * part, POSITIONS]


def test_a_damaged_file_is_found_before_it_is_read(world: str, tmp_path: Path) -> None:
    """Of the same size and readable: Postgres is read instead while it has the events."""
    table = TABLES["order_summary"]
    expected = asyncio.run(told(world, (table,), head(world)))
    done = archived(world, tmp_path, positions=POSITIONS)
    file = tmp_path / done[0].typed["orders.OrderPlaced.v1"].path
    content = file.read_bytes()
    other = bytearray(content)
    other[4] ^= 1
    file.write_bytes(other)
    with capture_logs() as said:
        assert_equal(asyncio.run(told(world, (table,), head(world))), expected)
    assert any("other content" in str(one.get("error")) for one in said)
    file.write_bytes(content)
    dropped(world)
    file.write_bytes(other)
    with pytest.raises(ArchiveDamaged, match="other content"):
        asyncio.run(told(world, (table,), head(world)))


def test_the_trail_says_what_only_an_archived_event_knows(world: str, tmp_path: Path) -> None:
    """A former version of the code did not note beside a command what it followed from."""
    with psycopg.connect(world, autocommit=True) as connection:
        connection.execute(
            """UPDATE commands SET asked = array_to_string(
                (string_to_array(asked, chr(31)))[1:3], chr(31))"""
        )

    async def say() -> list[audit.CommandLine]:
        async with company(world) as app:
            read = ReadModels(app.log, ORGANISATION)
            return list((await audit.commands(read, limit=200)).items)

    lines = asyncio.run(say())
    assert len([one for one in lines if one.correlation_id is not None]) > 100
    archived(world, tmp_path, positions=POSITIONS)
    dropped(world)
    assert asyncio.run(say()) == lines


def test_a_decision_that_needs_a_lost_file_fails_alone(
    world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are answered; while the archive is only away, nobody is."""
    real, trouble = governance.rulings, ArchiveUnavailable("away")

    async def rulings(kind: Any, requests: Any, history: Any) -> Any:
        if any(one.event.decision_id == "d-lost" for one in requests):
            raise trouble
        return await real(kind, requests, history)

    async def ends(app: Any) -> dict[str, list[str]]:
        """What each decision's stream ends with."""
        found: dict[str, list[str]] = {"d-a": [], "d-lost": [], "d-b": []}
        for one in await app.log.after(0, 10**6):
            name = json.loads(one.state).get("decision_id")
            if name in found:
                found[name].append(one.topic)
        return found

    async def story() -> None:
        nonlocal trouble
        monkeypatch.setattr(deciding, "rulings", rulings)
        async with company(world) as app:
            orders = await open_orders(app, 8)
            for name, order_id in zip(("d-a", "d-lost", "d-b"), orders[4:], strict=False):
                await request(app, name, order_id)
            with pytest.raises(ArchiveUnavailable):
                await app.consumer.catch_up()
            trouble = ArchiveDamaged("/srv/archive/log/1.parquet is lost")
            await app.consumer.catch_up()
            ended, lost = await ends(app), catalogue.TOPICS[DecisionFailed]
            assert ended["d-lost"][1:] == [lost]
            assert all(len(ended[name]) > 1 and lost not in ended[name] for name in ("d-a", "d-b"))
            [failed] = [
                json.loads(one.state) for one in await app.log.after(0, 10**6) if one.topic == lost
            ]
            assert failed["code"] == "decision.history_lost"
            assert "parquet" not in failed["detail"]

    asyncio.run(story())
