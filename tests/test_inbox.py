"""Where a topic is read on: at what was stored of this topic, not of one that had its name."""

from __future__ import annotations

import asyncio
from time import monotonic

from kafka import KafkaProducer

from chainlytics.application import Application, application
from eventstore import prepare_database
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.inbox import Inbox
from eventstore.kafka.topics import admin, ensure_topics


def test_a_topic_that_is_made_anew_is_read_from_its_beginning(
    database: str, cluster: Cluster
) -> None:
    topic = cluster.topic("commands")
    prepare_database(database)

    async def run() -> None:
        async with application(database, pool_size=2) as app:
            ensure_topics(cluster, [topic], 1)
            fill(cluster, topic, 5)
            assert await taken(cluster, app, topic, 5) == [b"0", b"1", b"2", b"3", b"4"]
            fill(cluster, topic, 1)
            assert await taken(cluster, app, topic, 1) == [b"0"]  # it goes on where it was
            with admin(cluster) as client:
                client.delete_topics([topic])
            await asyncio.sleep(1.5)
            ensure_topics(cluster, [topic], 1)
            fill(cluster, topic, 8)
            assert await taken(cluster, app, topic, 8) == [b"%d" % number for number in range(8)]

    asyncio.run(run())


def fill(cluster: Cluster, topic: str, count: int) -> None:
    producer = KafkaProducer(**cluster.options("sender"))
    for number in range(count):
        producer.send(topic, value=b"%d" % number)
    producer.flush()
    producer.close()


async def taken(
    cluster: Cluster, app: Application, topic: str, count: int, patience_s: float = 30
) -> list[bytes | None]:
    found: list[bytes | None] = []
    async with Inbox(cluster, "intake", topic, app.log) as inbox:
        deadline = monotonic() + patience_s
        while len(found) < count and monotonic() < deadline:
            messages = await inbox.poll()
            found += [one.value for one in messages]
            await inbox.done(messages)
    return found
