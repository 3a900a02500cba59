"""The log on a real Postgres: nothing lost, nothing twice, nothing skipped, whatever is cut."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import uuid
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from eventstore import (
    CommandReused,
    LogUnavailable,
    PredecessorFailed,
    Receipt,
    RepeatedCommands,
    StoredEvent,
    Subscription,
    Unit,
    VersionConflict,
    Writer,
    prepare_database,
    stored,
)
from eventstore import log as log_queries
from eventstore.archive import cold as cold_queries
from eventstore.artifacts import ArtifactCorrupt, Artifacts
from tests.appending import (
    ORGANISATION,
    entry,
    head,
    head_locked,
    positions,
    reading,
    take,
    terminate,
    unit,
    until_waiting,
    versions,
    waiting_backends,
)
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module", autouse=True)
def _prepared(database: str) -> None:
    prepare_database(database)


# order


def _write(url: str, units: int) -> list[int]:
    """One process with two writers: the positions that they were answered."""

    async def run() -> list[int]:
        async with Writer(url, max_group=20) as one, Writer(url, max_group=3) as two:
            receipts = await asyncio.gather(
                *((one, two)[n % 2].append(unit(uuid4(), *_sizes(n))) for n in range(units))
            )
        return [receipt.position for [receipt] in receipts]

    return asyncio.run(run())


def _sizes(number: int) -> range:
    return range(1, 2 + number % 5)


def test_a_tail_reader_sees_each_event_of_many_processes_once_and_in_order(database: str) -> None:
    start, units = head(database), 150
    count = 3 * sum(len(_sizes(number)) for number in range(units))

    async def follow() -> list[StoredEvent]:
        async with Subscription(database, position=start, batch=40, poll_s=0.2) as batches:
            return await take(batches, count)

    with multiprocessing.get_context("spawn").Pool(3) as processes:
        writing = processes.starmap_async(_write, [(database, units)] * 3)
        seen = asyncio.run(follow())
        answered = [position for process in writing.get(60) for position in process]
    told = [event.position for event in seen]
    assert told == list(range(start + 1, start + 1 + len(seen))) == positions(database, start)
    last = {event.stream_id: event for event in seen}
    assert sorted(answered) == sorted(event.position for event in last.values())
    recorded = [event.recorded_at for event in seen]
    assert recorded == sorted(recorded)
    assert len({event.event_id for event in seen}) == len(seen)


@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
def test_later_events_wait_for_an_open_transaction(database: str, commits: bool) -> None:
    """The defect of the field: a reader passes a position that is committed afterwards."""
    start, early = head(database), uuid4()

    async def run() -> list[StoredEvent]:
        async with (
            Writer(database) as one,
            Writer(database) as two,
            Subscription(database, position=start, poll_s=0.05) as batches,
        ):
            with head_locked(database) as open_one:
                open_one.execute("UPDATE log_head SET position = position + 1")
                open_one.execute(
                    """INSERT INTO events (originator_id, originator_version, topic, state,
                        notification_id, event_id, organisation_id, recorded_at, correlation_id,
                        actor)
                    SELECT %s, 1, 'test', '', position, %s, %s, now(), %s, 'ana' FROM log_head""",
                    (early, uuid4(), ORGANISATION, uuid4()),
                )
                later = [
                    asyncio.ensure_future(writer.append(unit(uuid4(), 1))) for writer in (one, two)
                ]
                await until_waiting(database)
                seen = asyncio.ensure_future(take(batches, 3 if commits else 2))
                await asyncio.sleep(0.3)
                assert not seen.done()
                assert batches.position == start
                if commits:
                    open_one.commit()
            await asyncio.gather(*later)
            return await seen

    seen = asyncio.run(run())
    assert [event.position for event in seen] == positions(database, start)
    assert positions(database, start) == list(range(start + 1, start + 1 + (3 if commits else 2)))
    assert (seen[0].stream_id == early) == commits


# once


def test_a_repeated_command_gets_its_first_answer(database: str) -> None:
    first = unit(uuid4(), 1, 2)

    async def run() -> list[list[Receipt]]:
        async with Writer(database) as one, Writer(database) as other:
            return [await writer.append(first) for writer in (one, one, other)]

    [[stored], [again], [elsewhere]] = asyncio.run(run())
    assert not stored.repeated
    assert again == elsewhere == Receipt(stored.stream, 2, stored.position, repeated=True)
    assert len(versions(database, next(iter(first.expected)))) == 2


def test_a_command_sent_twice_at_once_is_stored_once(database: str) -> None:
    stream = uuid4()
    twice = unit(stream, 1)

    async def run() -> list[list[Receipt]]:
        async with Writer(database) as one, Writer(database) as two:
            return await asyncio.gather(*(writer.append(twice) for writer in (one, one, two, two)))

    receipts = [receipt for [receipt] in asyncio.run(run())]
    assert sorted(receipt.repeated for receipt in receipts) == [False, True, True, True]
    assert len({receipt.position for receipt in receipts}) == 1
    assert versions(database, stream) == [1]


def test_an_id_with_another_payload_is_an_error(database: str) -> None:
    stream, command_id = uuid4(), uuid4()

    async def run() -> None:
        async with Writer(database) as writer:
            await writer.append(unit(stream, 1, command_id=command_id))
            with pytest.raises(CommandReused):
                await writer.append(unit(stream, 2, command_id=command_id, digest=b"other"))

    asyncio.run(run())
    assert versions(database, stream) == [1]


def test_a_command_without_events_is_remembered(database: str) -> None:
    nothing = Unit([entry(uuid4())])

    async def run() -> list[list[Receipt]]:
        async with Writer(database) as writer:
            return [await writer.append(nothing) for _ in range(2)]

    start = head(database)
    [[first], [again]] = asyncio.run(run())
    assert (first.position, first.repeated) == (start, False)
    assert (again.position, again.repeated) == (start, True)
    assert head(database) == start


def test_an_append_survives_the_end_of_its_backend(database: str) -> None:
    start, streams = head(database), [uuid4() for _ in range(5)]

    async def run() -> list[list[Receipt]]:
        async with Writer(database) as writer:
            with head_locked(database):
                tasks = [asyncio.ensure_future(writer.append(unit(one, 1))) for one in streams]
                terminate(database, await until_waiting(database))
                await until_waiting(database)  # it came back and sent again
            return await asyncio.gather(*tasks)

    receipts = [receipt for [receipt] in asyncio.run(run())]
    assert sorted(receipt.position for receipt in receipts) == positions(database, start)
    assert [versions(database, stream) for stream in streams] == [[1]] * 5


# conflicts


async def _as_one_group(url: str, *units: Unit) -> list[list[Receipt] | BaseException]:
    """The answers to units that are committed in one group."""
    async with Writer(url) as writer:
        with head_locked(url):
            plug = asyncio.ensure_future(writer.append(unit(uuid4(), 1)))
            await until_waiting(url)
            tasks = [asyncio.ensure_future(writer.append(one)) for one in units]
            await asyncio.sleep(0)
        await plug
        return await asyncio.gather(*tasks, return_exceptions=True)


def test_a_conflict_fails_one_unit_and_not_its_neighbours(database: str) -> None:
    good, taken, gone = [uuid4() for _ in range(3)], uuid4(), uuid4()

    async def run() -> list[list[Receipt] | BaseException]:
        async with Writer(database) as writer:
            await writer.append(unit(taken, 1))
        return await _as_one_group(
            database,
            unit(good[0], 1),
            unit(taken, 1),
            unit(good[1], 1, 2),
            unit(gone, 5),
            unit(good[2], 1),
        )

    start = head(database)
    answers = asyncio.run(run())
    assert isinstance(answers[1], VersionConflict)
    assert (answers[1].stream_id, answers[1].expected, answers[1].actual) == (taken, 0, 1)
    assert isinstance(answers[3], VersionConflict)
    assert (answers[3].stream_id, answers[3].expected, answers[3].actual) == (gone, 4, 0)
    assert [versions(database, stream) for stream in good] == [[1], [1, 2], [1]]
    assert versions(database, gone) == []
    assert positions(database, start) == list(range(start + 1, start + 7))


def test_a_group_with_a_bad_unit_on_a_stalled_database_is_told_at_once(database: str) -> None:
    """One by one, each would wait as long as all of them may."""
    good = [unit(uuid4(), 1) for _ in range(12)]
    bad = unit(uuid4(), 1, topic="no\0text")

    async def run() -> list[Any]:
        async with Writer(database, patience_s=2) as writer:
            with head_locked(database):
                async with asyncio.timeout(20):
                    units = [*good[:6], bad, *good[6:]]
                    return await asyncio.gather(
                        *(writer.append(one) for one in units), return_exceptions=True
                    )

    outcomes = asyncio.run(run())
    assert all(isinstance(one, LogUnavailable) for one in outcomes)


def test_an_error_of_one_unit_is_not_taken_for_a_lost_connection(database: str) -> None:
    """PostgreSQL calls it operational, psycopg too: it is the unit's own all the same."""
    fine, bad = uuid4(), uuid4()
    with psycopg.connect(database) as connection:
        connection.execute(
            """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.topic = 'too.Large.v1' THEN
                    RAISE EXCEPTION 'too large' USING ERRCODE = '54000';
                END IF;
                RETURN NEW;
            END $$"""
        )
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    try:

        async def run() -> tuple[Any, Any]:
            async with Writer(database, patience_s=120) as writer, asyncio.timeout(60):
                return await asyncio.gather(
                    writer.append(unit(fine, 1)),
                    writer.append(unit(bad, 1, topic="too.Large.v1")),
                    return_exceptions=True,
                )

        stored, refused = asyncio.run(run())
    finally:
        with psycopg.connect(database) as connection:
            connection.execute("DROP TRIGGER refuse ON events")
            connection.execute("DROP FUNCTION refuse")
    assert isinstance(stored, list)
    assert isinstance(refused, LogUnavailable)
    assert "too large" in str(refused)
    assert (versions(database, fine), versions(database, bad)) == ([1], [])


def test_what_cannot_be_stored_fails_alone(database: str) -> None:
    good, bad = [uuid4(), uuid4()], uuid4()
    answers = asyncio.run(
        _as_one_group(database, unit(good[0], 1), unit(bad, 1, topic="a\0b"), unit(good[1], 1))
    )
    assert isinstance(answers[1], LogUnavailable)
    assert [versions(database, stream) for stream in (*good, bad)] == [[1], [1], []]
    assert head(database) == positions(database)[-1] == len(positions(database))


def test_units_of_one_stream_are_judged_one_after_the_other(database: str) -> None:
    stream = uuid4()
    answers = asyncio.run(
        _as_one_group(
            database, unit(stream, 1), unit(stream, 2), unit(stream, 2), unit(stream, 3, 4)
        )
    )
    assert isinstance(answers[2], VersionConflict)
    assert [isinstance(answer, list) for answer in answers] == [True, True, False, True]
    assert versions(database, stream) == [1, 2, 3, 4]


def test_a_stream_that_was_only_read_must_not_have_moved(database: str) -> None:
    own, read = uuid4(), uuid4()

    async def run() -> None:
        async with Writer(database) as writer:
            await writer.append(unit(read, 1))
            await writer.append(Unit([entry(own, 1)], {own: 0, read: 1}))
            await writer.append(unit(read, 2))
            with pytest.raises(VersionConflict) as conflict:
                await writer.append(Unit([entry(own, 2)], {own: 1, read: 1}))
            assert (conflict.value.stream_id, conflict.value.actual) == (read, 2)

    asyncio.run(run())
    assert versions(database, own) == [1]


def test_a_reader_and_a_writer_of_a_stream_in_one_group_keep_their_order(database: str) -> None:
    read, first, second = uuid4(), uuid4(), uuid4()
    answers = asyncio.run(
        _as_one_group(
            database,
            Unit([entry(first, 1)], {first: 0, read: 0}),
            unit(read, 1),
            Unit([entry(second, 1)], {second: 0, read: 0}),
        )
    )
    assert [isinstance(answer, list) for answer in answers] == [True, True, False]
    assert isinstance(answers[2], VersionConflict)
    assert versions(database, second) == []


# units of several commands


def test_a_unit_is_stored_whole(database: str) -> None:
    one, two = uuid4(), uuid4()
    both = Unit([entry(one, 1), entry(two, 1), entry(one, 2)], {one: 0, two: 0})

    async def run() -> list[Receipt]:
        async with Writer(database) as writer:
            return await writer.append(both)

    start = head(database)
    receipts = asyncio.run(run())
    assert [receipt.position for receipt in receipts] == [start + 1, start + 2, start + 3]
    assert [receipt.version for receipt in receipts] == [1, 1, 2]
    assert versions(database, one) == [1, 2]


def test_a_unit_is_stored_whole_or_not_at_all(database: str) -> None:
    one, two = uuid4(), uuid4()

    async def run() -> None:
        async with Writer(database) as writer:
            await writer.append(unit(two, 1))
            with pytest.raises(VersionConflict):
                await writer.append(Unit([entry(one, 1), entry(two, 1)], {one: 0, two: 0}))

    asyncio.run(run())
    assert versions(database, one) == []
    assert versions(database, two) == [1]


def test_a_unit_with_commands_that_are_stored_already_is_sent_back(database: str) -> None:
    one, two = uuid4(), uuid4()
    known = entry(one, 1)

    async def run() -> tuple[Receipt, RepeatedCommands]:
        async with Writer(database) as writer:
            [first] = await writer.append(Unit([known], {one: 0}))
            with pytest.raises(RepeatedCommands) as repeated:
                await writer.append(Unit([known, entry(two, 1)], {one: 0, two: 0}))
            return first, repeated.value

    first, repeated = asyncio.run(run())
    assert repeated.receipts == {
        known.command_id: Receipt(first.stream, 1, first.position, repeated=True)
    }
    assert versions(database, two) == []


def test_a_unit_is_not_stored_unless_the_one_before_it_was(database: str) -> None:
    """Versions alone would not tell: a rival has brought the stream to the version that the first
    unit was to bring it to."""
    stream, other = uuid4(), uuid4()

    async def run() -> list[Any]:
        async with Writer(database) as writer, Writer(database) as rival:
            await rival.append(unit(stream, 1))
            first = await writer.hand_in(unit(stream, 1))
            second = await writer.hand_in(unit(stream, 2), after=first)
            third = await writer.hand_in(unit(other, 1), after=second)
            outcomes = await asyncio.gather(first, second, third, return_exceptions=True)
            fine = await writer.hand_in(unit(stream, 2))
            behind = await writer.hand_in(unit(stream, 3), after=fine)
            return [*outcomes, *await asyncio.gather(fine, behind)]

    first, second, third, fine, behind = asyncio.run(run())
    assert isinstance(first, VersionConflict)
    assert isinstance(second, PredecessorFailed)
    assert isinstance(third, PredecessorFailed)
    assert [fine[0].version, behind[0].version] == [2, 3]
    assert versions(database, stream) == [1, 2, 3]
    assert versions(database, other) == []


# back-pressure


def test_a_large_unit_is_not_overtaken_by_small_ones_for_ever(database: str) -> None:
    large = uuid4()

    async def run() -> tuple[Receipt, int]:
        small = 0
        async with Writer(database, max_pending=20, patience_s=10) as writer:

            async def send() -> None:
                nonlocal small
                while True:
                    await writer.append(unit(uuid4(), *range(1, 8)))
                    small += 1

            sending = [asyncio.create_task(send()) for _ in range(8)]
            [receipt] = await writer.append(unit(large, *range(1, 19)))
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
        assert writer.pending == 0
        return receipt, small

    receipt, small = asyncio.run(run())
    assert receipt.version == 18
    assert small < 1000, "it came soon"


def test_a_caller_that_leaves_the_line_takes_no_room_along(database: str) -> None:
    async def run() -> int:
        async with Writer(database, max_pending=2) as writer:
            with head_locked(database):
                first = asyncio.ensure_future(writer.append(unit(uuid4(), 1, 2)))
                await until_waiting(database)
                waiting = [asyncio.ensure_future(writer.append(unit(uuid4(), 1))) for _ in range(5)]
                await asyncio.sleep(0)
                waiting[0].cancel()
                waiting[3].cancel()
                await asyncio.sleep(0)
            done = await asyncio.gather(first, *waiting, return_exceptions=True)
            assert sum(isinstance(one, asyncio.CancelledError) for one in done) == 2
            assert sum(isinstance(one, list) for one in done) == 4
            return writer.pending

    assert asyncio.run(run()) == 0


def test_room_that_a_unit_leaves_unstored_is_given_to_who_waits(database: str) -> None:
    stream, waits = uuid4(), uuid4()

    async def run() -> Receipt:
        async with Writer(database, max_pending=2, patience_s=20) as writer:
            with head_locked(database):
                first = await writer.hand_in(unit(stream, 5))  # there is no version 4
                second = await writer.hand_in(unit(stream, 6), after=first)
                third = asyncio.ensure_future(writer.append(unit(waits, 1, 2)))
                await until_waiting(database)
            with pytest.raises(VersionConflict):
                await first
            with pytest.raises(PredecessorFailed):
                await second
            [receipt] = await asyncio.wait_for(third, PATIENCE_S)
            return receipt

    assert asyncio.run(run()).version == 2
    assert versions(database, waits) == [1, 2]


def test_who_finds_no_room_in_time_is_told(database: str) -> None:
    refused, stalled, later = uuid4(), uuid4(), uuid4()

    async def run() -> None:
        async with Writer(database, max_pending=2, patience_s=0.3) as writer:
            with head_locked(database):
                first = asyncio.ensure_future(writer.append(unit(stalled, 1, 2)))
                await until_waiting(database)
                with pytest.raises(LogUnavailable, match=r"did not answer|2 events wait"):
                    await writer.append(unit(refused, 1))
                with pytest.raises(LogUnavailable, match="did not answer"):
                    await first
                assert waiting_backends(database) == [], "nothing of theirs is stored later"
            await writer.append(unit(later, 1))

    asyncio.run(run())
    assert [versions(database, one) for one in (stalled, refused, later)] == [[], [], [1]]


def test_an_event_that_does_not_follow_on_is_not_sent(database: str) -> None:
    stream = uuid4()

    async def run() -> None:
        async with Writer(database) as writer:
            for wrong in (Unit([entry(stream, 1)]), Unit([entry(stream, 2, 4)], {stream: 1})):
                with pytest.raises(ValueError, match="does not follow on"):
                    await writer.append(wrong)

    asyncio.run(run())
    assert versions(database, stream) == []


def test_a_unit_larger_than_the_room_goes_alone(database: str) -> None:
    stream = uuid4()

    async def run() -> None:
        async with Writer(database, max_pending=2, max_group=2) as writer:
            await writer.append(unit(stream, *range(1, 11)))

    asyncio.run(run())
    assert versions(database, stream) == list(range(1, 11))


def test_closing_commits_what_waits_and_tells_who_came_too_late(database: str) -> None:
    stored, late = uuid4(), uuid4()

    async def run() -> None:
        writer = Writer(database, max_pending=1)
        await writer.__aenter__()
        with head_locked(database):
            first = asyncio.ensure_future(writer.append(unit(stored, 1)))
            await until_waiting(database)
            second = asyncio.ensure_future(writer.append(unit(late, 1)))
            await asyncio.sleep(0)  # it waits for room
            closing = asyncio.ensure_future(writer.__aexit__())
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await closing
            await first
            with pytest.raises(LogUnavailable, match="closing"):
                await second

    asyncio.run(run())
    assert [versions(database, one) for one in (stored, late)] == [[1], []]


# reading


def test_streams_and_answers(database: str) -> None:
    one, two, none = uuid4(), uuid4(), uuid4()
    first, second = unit(one, 1, 2, 3), unit(two, 1)
    other = uuid4()

    async def run() -> None:
        async with Writer(database) as writer, reading(database) as log:
            start = await log.head()
            [receipt] = await writer.append(first)
            await writer.append(second)
            found = await log.streams([one, two, none])
            assert {stream: [event.version for event in found[stream]] for stream in found} == {
                one: [1, 2, 3],
                two: [1],
                none: [],
            }
            assert found[one][2].state == b'{"n":3}'
            command_id = first.entries[0].command_id
            answers = await log.answers([command_id, uuid4()])
            again = Receipt(receipt.stream, 3, receipt.position, repeated=True)
            assert answers == {command_id: (b"digest", again)}
            of = [e.version for e in await log.after_of(ORGANISATION, start, 9, to=start + 2)]
            assert of == [1, 2]
            assert await log.after_of(other, start, 9, to=start + 9) == []
            assert [event.position for event in await log.after(start, 2)] == [start + 1, start + 2]
            assert await log.head() == start + 4

    asyncio.run(run())


def test_a_moment_finds_the_last_position_recorded_by_then(database: str) -> None:
    async def run() -> None:
        async with Writer(database) as writer, reading(database) as log:
            for size in (1, 3, 1, 2):
                await writer.append(unit(uuid4(), *range(1, size + 1)))
            events = await log.after(0, 100_000)
            moments = [event.recorded_at for event in events]
            for event in events[-8:]:
                at = event.recorded_at
                assert await log.position_at(at) == bisect_right(moments, at)
                before = at - timedelta(microseconds=1)
                assert await log.position_at(before) == bisect_right(moments, before)
            assert await log.position_at(moments[0] - timedelta(days=1)) == 0
            assert await log.position_at(moments[-1] + timedelta(days=1)) == len(events)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "parameters", "index"),
    [
        (log_queries._AFTER, (7, 9), "events_position"),
        (
            cold_queries.BETWEEN,
            {"after": 7, "last": 900, "organisation": ORGANISATION, "topics": None, "limit": 9},
            "events_position",
        ),
        (stored.STREAMS, ([ORGANISATION],), "events_stream_version"),
        (
            """SELECT recorded_at FROM events WHERE notification_id >= %s
            ORDER BY notification_id LIMIT 1""",
            (7,),
            "events_position",
        ),
    ],
    ids=["after", "after of one organisation", "streams", "a step of position_at"],
)
def test_reads_of_a_large_log_go_by_index(
    database: str, query: str, parameters: Any, index: str
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(
            """INSERT INTO events (originator_id, originator_version, topic, state, notification_id,
                event_id, organisation_id, recorded_at, correlation_id, actor)
            SELECT gen_random_uuid(), 1, 'test', '', 1000000 + n, gen_random_uuid(),
                gen_random_uuid(), now(), gen_random_uuid(), 'ana'
            FROM generate_series(1, 20000) AS n"""
        )
        connection.execute("ANALYZE events")
        plan = connection.execute(f"EXPLAIN {query}", parameters).fetchall()
        connection.rollback()
    assert any(index in line for (line,) in plan), plan


# the database and what stands beside the log


def test_a_database_is_prepared_by_several_at_once_and_again(server_url: str) -> None:
    name = f"test_{uuid.uuid4().hex[:12]}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(prepare_database, [url] * 8))
            _write(url, units=3)
            before = positions(url)
            prepare_database(url)
            assert positions(url) == before
            assert head(url) == len(before)
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_a_database_is_prepared_while_others_write(database: str) -> None:
    """A start in the middle of appends waits for none of them, and none waits for it."""

    async def run() -> None:
        async with Writer(database) as writer:
            with head_locked(database):
                await asyncio.wait_for(asyncio.to_thread(prepare_database, database), PATIENCE_S)
            done = asyncio.Event()

            async def write() -> None:
                while not done.is_set():
                    await writer.append(unit(uuid4(), 1))

            writing = [asyncio.create_task(write()) for _ in range(4)]
            for number in range(20):
                if number % 2:  # as where an older version of the schema is there
                    with psycopg.connect(database) as connection:
                        connection.execute("UPDATE schema_applied SET digest = 'older'")
                await asyncio.to_thread(prepare_database, database)
            done.set()
            await asyncio.gather(*writing)

    start = head(database)
    asyncio.run(run())
    assert positions(database, start) == list(range(start + 1, head(database) + 1))


def test_an_artifact_is_known_by_its_bytes(database: str) -> None:
    async def run() -> None:
        async with reading(database) as log:
            artifacts = Artifacts(log)
            content = b"\0model\xff" * 1000
            name = await artifacts.put(content)
            assert name == hashlib.sha256(content).hexdigest()
            assert await artifacts.put(content) == name
            assert await artifacts.get(name) == content
            with pytest.raises(KeyError):
                await artifacts.get("0" * 64)
            async with log.connection() as connection:
                await connection.execute(
                    "UPDATE artifacts SET content = 'other' WHERE hash = %s", (name,)
                )
            with pytest.raises(ArtifactCorrupt, match=name):
                await artifacts.get(name)

    asyncio.run(run())
