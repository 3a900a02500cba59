"""A topic of a real Kafka as a witness."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

from eventstore import prepare_database
from eventstore.seals.checkpoint import parsed
from eventstore.witnesses.addresses import witnesses_of
from eventstore.witnesses.kafka import KafkaWitness
from eventstore.witnesses.witness import HeadNote, WitnessAway
from tests.broker import StoppableBroker
from tests.witnessing import TreeLog, kept, put, until_state


@pytest.fixture
def log() -> TreeLog:
    made = TreeLog()
    made.grow(5)
    return made


def test_a_topic_gets_heads_and_catches_up_after_an_outage(
    database: str, own_broker: StoppableBroker, log: TreeLog
) -> None:
    prepare_database(database)
    make_topic(own_broker, "heads")
    witness = KafkaWitness([own_broker.bootstrap], "heads", patience_s=3)
    (usual,) = witnesses_of(f"kafka://{own_broker.bootstrap}/heads")
    assert (type(usual), usual.name) == (KafkaWitness, witness.name)
    first = put(database, log.head())

    async def story() -> tuple[HeadNote, HeadNote]:
        async with kept(database, [witness], log.proof):
            await until_state(database, witness.name, "current", 60)
            second = put(database, log.grow(1))
            await until_state(database, witness.name, "current")
            await asyncio.to_thread(own_broker.stop)
            put(database, log.grow(1))
            away = await until_state(database, witness.name, "away", 60)
            assert away.number == second.number
            put(database, log.grow(1))
            newest = put(database, log.grow(1))
            await asyncio.to_thread(own_broker.start)
            back = await until_state(database, witness.name, "current", 90)
            assert back.number == newest.number
            return second, newest

    second, newest = asyncio.run(story())
    records = consumed(own_broker, "heads")
    assert {key for key, _ in records} == {first.head.origin}
    # At least once, and in order; a head that was under way in the outage may be among them.
    sizes = [parsed(note).size for _, note in records]
    assert sizes == sorted(sizes)
    notes = [note for _, note in records]
    assert {first.note, second.note, newest.note} <= set(notes)
    assert notes[-1] == newest.note
    assert set(notes) <= {log.head(size).note for size in range(5, 10)}


def test_a_broker_that_is_not_there_is_away(log: TreeLog) -> None:
    witness = KafkaWitness(["127.0.0.1:1"], "heads", patience_s=1)
    start = monotonic()
    with pytest.raises(WitnessAway, match="Kafka"):
        asyncio.run(witness.hand(log.head(), seen=0, proof=log.proof))
    assert monotonic() - start < 10


def make_topic(broker: StoppableBroker, topic: str) -> None:
    """A topic of one partition: brokers need not make what is not there."""
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    try:
        admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        admin.close()


def consumed(broker: StoppableBroker, topic: str) -> list[tuple[str, str]]:
    """Key and value of all records of a topic's one partition."""
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, enable_auto_commit=False)
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition])[partition]
        found: list[tuple[str, str]] = []
        while consumer.position(partition) < end:
            for records in consumer.poll(timeout_ms=1000).values():
                found += [(one.key.decode(), one.value.decode()) for one in records]
        return found
    finally:
        consumer.close()
