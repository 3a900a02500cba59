"""What the relay makes of another log, of other topics, and of what is not as usual in a log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from kafka.admin import ConfigResource
from psycopg import AsyncConnection

from domain.catalogue import AREAS
from eventstore.kafka import relay_state, topics
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.relay import Relay
from eventstore.kafka.topics import LARGEST, TopicNames, WrongPartitions, ensure_topics
from tests.archiving import archived, dropped, held
from tests.relaying import (
    LANES,
    TOPICS,
    append,
    assert_once,
    assert_whole,
    checkpoint,
    emptied,
    found_in,
    kept,
    logged,
    relay_of,
    until_relayed,
)


@pytest.fixture
def log(database: str) -> str:
    """A database whose log is empty."""
    return emptied(database)


# another log, other topics


def test_a_log_put_back_by_other_means_is_published_anew(log: str, cluster: Cluster) -> None:
    async def story() -> None:
        await append(log, 60)
        await relay_of(log, cluster).catch_up()
        before = checkpoint(log)
        with psycopg.connect(log) as connection:  # a copy of the day before, put in its place
            connection.execute("DELETE FROM events WHERE notification_id > 40")
            connection.execute("UPDATE log_head SET position = 40")
        await append(log, 10)
        await relay_of(log, cluster).catch_up()
        after = checkpoint(log)
        assert (before[1], after[1]) == (60, 50)
        assert before[0] != after[0]

    asyncio.run(story())
    assert_once(assert_whole(log, cluster))


def test_an_older_checkpoint_beside_another_log_is_found_out_by_the_topics(
    log: str, cluster: Cluster
) -> None:
    async def story() -> None:
        await append(log, 20)
        await relay_of(log, cluster).catch_up()
        old = checkpoint(log)
        await append(log, 20)
        await relay_of(log, cluster).catch_up()
        # Everything of the day before, the relay's rows too; then other things happened.
        with psycopg.connect(log) as connection:
            connection.execute("DELETE FROM events WHERE notification_id > 20")
            connection.execute("UPDATE log_head SET position = 20")
            connection.execute("UPDATE relay SET position = 20, event_id = %s", (old[2],))
            for lane, position in enumerate(old[3]):
                connection.execute(
                    "UPDATE relay_lanes SET position = %s WHERE lane = %s", (position, lane)
                )
        await append(log, 30)
        await relay_of(log, cluster).catch_up()
        assert checkpoint(log)[0] != old[0]

    asyncio.run(story())
    assert_once(assert_whole(log, cluster))


@pytest.mark.parametrize("area", ["orders", "other"])
def test_a_topic_that_was_deleted_is_filled_again(log: str, cluster: Cluster, area: str) -> None:
    async def story() -> None:
        await append(log, 40)
        await relay_of(log, cluster).catch_up()
        with topics.admin(cluster) as admin:
            admin.delete_topics([cluster.topic(area)])
        await append(log, 2)

        async with kept(relay_of(log, cluster)):  # the topic may still be on its way out
            await until_relayed(log)

    asyncio.run(story())
    assert_whole(log, cluster)


def test_a_new_area_begins_with_an_empty_topic(log: str, cluster: Cluster) -> None:
    async def story() -> None:
        await append(log, 12)
        older = Relay(log, cluster, [area for area in AREAS if area != "models"], lanes=LANES)
        await older.catch_up()
        before = checkpoint(log)[0]
        await relay_of(log, cluster).catch_up()
        assert checkpoint(log)[0] == before

    asyncio.run(story())
    assert_once(assert_whole(log, cluster))


def test_other_brokers_get_everything(log: str, cluster: Cluster) -> None:
    elsewhere = Cluster(cluster.brokers, prefix=f"{cluster.prefix}-elsewhere")

    async def story() -> None:
        await append(log, 30)
        await relay_of(log, cluster).catch_up()
        await relay_of(log, elsewhere).catch_up()

    asyncio.run(story())
    assert_once(assert_whole(log, elsewhere))


def test_a_relay_that_was_set_back_begins_anew_while_it_runs(log: str, cluster: Cluster) -> None:
    async def story() -> None:
        async with kept(relay_of(log, cluster)):
            await append(log, 30)
            await until_relayed(log)
            before = checkpoint(log)[0]
            async with await AsyncConnection.connect(log, autocommit=True) as connection:
                epoch = await relay_state.begin_anew(connection)
            assert epoch not in (None, before)
            await until_relayed(log)
            assert checkpoint(log)[0] == epoch

    asyncio.run(story())
    assert_once(assert_whole(log, cluster))
    assert len(found_in(cluster)) == 60


def test_a_topic_with_another_number_of_partitions_is_refused(log: str, cluster: Cluster) -> None:
    ensure_topics(cluster, [cluster.topic("people")], LANES + 1)
    with pytest.raises(WrongPartitions) as refused:
        asyncio.run(relay_of(log, cluster).catch_up())
    assert str(refused.value).startswith(
        f"topic {cluster.topic('people')} has 4 partitions, and the log is relayed in 3 lanes"
    )


def test_topics_are_made_once_and_keep_records_for_ever(cluster: Cluster) -> None:
    names = list(TopicNames(cluster, AREAS))
    assert names[-1] == cluster.topic("other")
    assert ensure_topics(cluster, names, 2) == sorted(names)
    assert ensure_topics(cluster, names, 2) == []
    found = topics.topics(cluster, [*names, cluster.topic("nobodys")])
    assert [(one.name, one.partitions, one.replication) for one in found] == [
        (name, 2, 1) for name in names
    ]
    with topics.admin(cluster) as admin:
        configs = admin.describe_configs([ConfigResource("TOPIC", names[0])])
    kept_for = configs["topic"][names[0]]["retention.ms"]["value"]
    assert kept_for == "-1"


def test_the_first_run_fixes_the_lanes(log: str, cluster: Cluster) -> None:
    async def story() -> None:
        await append(log, 10)
        await relay_of(log, cluster, lanes=2).catch_up()
        await append(log, 10)
        await relay_of(log, cluster, lanes=5).catch_up()

    asyncio.run(story())
    assert_once(assert_whole(log, cluster, lanes=2))


# what is not as usual in the log


def test_ranges_that_stand_in_the_archive_only_are_relayed(
    log: str, cluster: Cluster, tmp_path: Path
) -> None:
    async def story() -> None:
        await append(log, 25, TOPICS, versions=10)
        whole = logged(log)
        archived(log, tmp_path, positions=100)
        dropped(log)
        assert held(log) < 250
        await relay_of(log, cluster).catch_up()
        assert_once(assert_whole(log, cluster, log=whole))
        # And what is looked up there: where the relay was, and what stands last in each lane.
        await relay_of(log, cluster).catch_up()

    asyncio.run(story())
    assert len(found_in(cluster)) == 250


def test_an_event_too_large_for_a_topic_is_left_out_of_the_chain(
    log: str, cluster: Cluster
) -> None:
    async def story() -> None:
        await append(log, 10)
        await append(log, 1, state=b"x" * LARGEST)
        await append(log, 10)
        await relay_of(log, cluster).catch_up()

    asyncio.run(story())
    assert checkpoint(log)[1] == 21
    found = found_in(cluster)
    assert sorted(one.event.position for one in found) == [n for n in range(1, 22) if n != 11]
    # Who follows the chain sees that something is missing, and reads it from the log.
    assert 11 in {one.carried.previous for one in found}
