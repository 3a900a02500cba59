"""How long the ids of commands are remembered, and that forgetting holds nobody up."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore import Receipt, Unit, Writer, prepare_database, retention
from eventstore.retention import Retention, keep_pruned, prune
from tests.appending import entry, head, head_locked, unit
from tests.patience import PATIENCE_S

MONTH = timedelta(days=30)


@pytest.fixture(autouse=True)
def _empty(database: str) -> None:
    prepare_database(database)
    with psycopg.connect(database) as connection:
        connection.execute("TRUNCATE events, commands")
        connection.execute("UPDATE log_head SET position = 0")


def commands(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM commands").fetchone()
    assert row is not None
    return int(row[0])


def age(url: str, days: int, count: int) -> None:
    """Let the first commands have been accepted some days ago."""
    with psycopg.connect(url) as connection:
        connection.execute(
            """UPDATE commands SET recorded_at = now() - make_interval(days => %s)
            WHERE position <= %s""",
            (days, count),
        )


async def fill(url: str, count: int) -> None:
    async with Writer(url) as writer:
        await asyncio.gather(*(writer.append(unit(uuid4(), 1)) for _ in range(count)))


async def pruned(url: str, older_than: timedelta) -> tuple[int, list[int]]:
    told: list[int] = []
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        return await prune(connection, older_than, pages=1, report=told.append), told


def test_old_ids_are_forgotten_in_steps_and_young_ones_kept(database: str) -> None:
    async def story() -> None:
        await fill(database, 400)
        age(database, 31, 250)
        count, steps = await pruned(database, MONTH)
        assert count == 250
        assert len(steps) > 3, "a page a step"
        assert steps == sorted(steps)
        assert commands(database) == 150
        assert (await pruned(database, MONTH))[0] == 0
        assert head(database) == 400, "events stay"

    asyncio.run(story())


def test_a_step_reads_its_own_pages_only(database: str) -> None:
    with psycopg.connect(database) as connection:
        step = {"first": "(7,0)", "end": "(9,0)", "before": "2026-01-01"}
        query = retention._of("commands", f"EXPLAIN {retention._STEP}")
        plan = connection.execute(query, step).fetchall()
    assert any("Tid Range Scan" in line for (line,) in plan), plan


def test_a_remembered_id_gets_its_first_answer_and_a_forgotten_one_is_run_anew(
    database: str,
) -> None:
    async def story() -> None:
        stream, id_ = uuid4(), uuid4()
        async with Writer(database) as writer:
            [first] = await writer.append(unit(stream, 1, command_id=id_))
            assert (await pruned(database, MONTH))[0] == 0
            [again] = await writer.append(unit(stream, 1, command_id=id_))
            assert again == first._replace(repeated=True)
            age(database, 31, 1)
            assert (await pruned(database, MONTH))[0] == 1
            [anew] = await writer.append(unit(stream, 2, command_id=id_))
            assert anew == Receipt(first.stream, 2, 2)

    asyncio.run(story())


def test_pruning_waits_for_no_append_and_no_append_for_pruning(database: str) -> None:
    async def story() -> None:
        await fill(database, 20)
        age(database, 31, 20)
        with head_locked(database):  # an append that is not yet committed
            async with asyncio.timeout(PATIENCE_S):
                assert (await pruned(database, MONTH))[0] == 20
        await fill(database, 5)
        with psycopg.connect(database) as deleting:  # a step that is not yet committed
            deleting.execute("DELETE FROM commands")
            async with asyncio.timeout(PATIENCE_S), Writer(database) as writer:
                await writer.append(unit(uuid4(), 1))
            deleting.rollback()
        assert commands(database) == 6

    asyncio.run(story())


async def until_left(url: str, count: int) -> None:
    for _ in range(1000):
        if commands(url) == count:
            return
        await asyncio.sleep(0.02)
    raise TimeoutError(f"{commands(url)} commands are still remembered, not {count}")


def test_one_of_several_processes_prunes_by_itself(database: str) -> None:
    async def story() -> None:
        await fill(database, 3)
        age(database, 31, 2)
        loops = [
            asyncio.create_task(
                keep_pruned(database, Retention(MONTH, MONTH), every=timedelta(seconds=0.05))
            )
            for _ in range(3)
        ]
        await until_left(database, 1)
        age(database, 31, 3)
        await until_left(database, 0)  # it goes on doing so
        for loop in loops:
            loop.cancel()
        ended = await asyncio.gather(*loops, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)

    asyncio.run(story())


def test_an_entry_needs_no_events_to_be_remembered_and_forgotten(database: str) -> None:
    async def story() -> None:
        async with Writer(database) as writer:
            await writer.append(Unit([entry(uuid4())]))
        age(database, 31, 1)
        assert (await pruned(database, MONTH))[0] == 1

    asyncio.run(story())
