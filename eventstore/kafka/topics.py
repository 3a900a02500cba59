"""The topics that carry the log: one for each business area, and one for what belongs to none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import sleep
from typing import Any, NamedTuple

from kafka import KafkaAdminClient
from kafka.errors import KafkaTimeoutError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from eventstore.kafka.clients import opened
from eventstore.kafka.cluster import Cluster

#: The area of events whose topic begins with none of ours.
OTHER = "other"
#: A record at most. The event that is larger stands in the log only; see ``Publisher``.
LARGEST = 10 * 1024 * 1024
_PATIENCE_MS = 5_000
_MADE_IN_MS = 30_000
#: Kept for ever, as the log is; how records are compressed is the producer's business.
_KEPT = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    "max.message.bytes": str(LARGEST),
    "compression.type": "producer",
}


class WrongPartitions(Exception):
    """A topic has another number of partitions than there are lanes: a lane would be in two places,
    or nowhere."""

    def __init__(self, topic: str, partitions: int, lanes: int) -> None:
        self.topic, self.partitions, self.lanes = topic, partitions, lanes
        super().__init__(
            f"topic {topic} has {partitions} partitions, and the log is relayed in {lanes} lanes: "
            "both must be the same number"
        )


class Topic(NamedTuple):
    """A topic as the brokers have it: partitions, copies of each, and bytes of all of them."""

    name: str
    partitions: int
    replication: int
    bytes: int


class TopicNames:
    """Which topic carries an event.

    Args:
        cluster: what the names of topics begin with.
        areas: the business areas, each with a topic of its own.
    """

    def __init__(self, cluster: Cluster, areas: Iterable[str]) -> None:
        self._of_area = {area: cluster.topic(area) for area in (*areas, OTHER)}
        self._known: dict[str, str] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._of_area.values())

    @property
    def areas(self) -> dict[str, str]:
        """The topic of each area."""
        return dict(self._of_area)

    def of(self, event_topic: str) -> str:
        """The topic of Kafka for an event's (``orders.OrderPlaced.v1``)."""
        found = self._known.get(event_topic)
        if found is None:
            area = event_topic.partition(".")[0]
            found = self._of_area.get(area, self._of_area[OTHER])
            self._known[event_topic] = found
        return found


def ensure_topics(
    cluster: Cluster,
    names: Iterable[str],
    lanes: int,
    replication: int | None = None,
    *,
    kept: Mapping[str, str] = _KEPT,
) -> list[str]:
    """Create the topics that are missing and wait until they are ready; those created. Blocks.

    Args:
        cluster: where.
        names: of topics, whole.
        lanes: partitions of each.
        replication: copies of each partition; None: the brokers' default.
        kept: for how long, and what else the brokers are told of them; for ever, if not said.

    Raises:
        WrongPartitions: one that is there has another number of partitions.
        KafkaError: the brokers cannot be reached, or refused.
    """
    wanted = list(names)
    with admin(cluster) as client:
        missing = sorted(set(wanted) - set(client.list_topics()))
        if missing:
            made = {
                "num_partitions": lanes,
                "replication_factor": -1 if replication is None else replication,
                "configs": dict(kept),
            }
            for name in missing:  # one by one: another process may have made some of them by now
                with suppress(TopicAlreadyExistsError):
                    client.create_topics({name: made}, timeout_ms=_MADE_IN_MS)
        client.wait_for_topics(wanted, timeout_ms=_MADE_IN_MS)
        for topic in client.describe_topics(wanted):
            partitions = len(topic["partitions"])
            if partitions != lanes:
                raise WrongPartitions(topic["name"], partitions, lanes)
    return missing


def widen_topics(cluster: Cluster, names: Iterable[str], lanes: int) -> None:
    """Give each topic more partitions, and wait until they are ready. Topics that have as many
    already are left alone, so that what was cut off can be done again. Blocks.

    Raises:
        WrongPartitions: one has more partitions than that.
        KafkaError: the brokers cannot be reached, or refused.
    """
    wanted = list(names)
    with admin(cluster) as client:
        client.wait_for_topics(wanted, timeout_ms=_MADE_IN_MS)
        has = {one["name"]: len(one["partitions"]) for one in client.describe_topics(wanted)}
        for name in wanted:
            if has[name] > lanes:
                raise WrongPartitions(name, has[name], lanes)
        for name in wanted:
            if has[name] < lanes:
                client.create_partitions({name: lanes}, timeout_ms=_MADE_IN_MS)
        _await_partitions(client, wanted, lanes)


def topics(cluster: Cluster, names: Iterable[str]) -> list[Topic]:
    """Those of the topics that are there, in the order of the names. Blocks.

    Raises:
        KafkaError: the brokers cannot be reached, or refused.
    """
    with admin(cluster) as client:
        there = set(client.list_topics())
        wanted = [name for name in names if name in there]
        if not wanted:
            return []
        described = {one["name"]: one["partitions"] for one in client.describe_topics(wanted)}
        sizes = _sizes(client, wanted)
    return [
        Topic(name, len(parts), max((len(p["replica_nodes"]) for p in parts), default=0), size)
        for name in wanted
        for parts, size in [(described[name], sizes.get(name, 0))]
    ]


@contextmanager
def admin(cluster: Cluster) -> Iterator[Any]:
    """A client for the administration of a cluster.

    Raises:
        KafkaError: no broker answers.
    """
    client = opened(
        KafkaAdminClient,
        **cluster.options("admin"),
        bootstrap_timeout_ms=_PATIENCE_MS,
        request_timeout_ms=_MADE_IN_MS,
    )
    try:
        yield client
    finally:
        client.close()


def _await_partitions(client: Any, names: Sequence[str], lanes: int) -> None:
    """Wait until all brokers' word on it is the same; new partitions are told about late."""
    for _ in range(_MADE_IN_MS // 100):
        client.wait_for_topics(names, timeout_ms=_MADE_IN_MS)
        described = client.describe_topics(names)
        if all(len(one["partitions"]) == lanes for one in described):
            return
        sleep(0.1)
    raise KafkaTimeoutError(f"the brokers made no {lanes} partitions in time")


def _sizes(client: Any, names: Sequence[str]) -> dict[str, int]:
    """Bytes of each topic: of the largest copy of each partition."""
    largest: dict[tuple[str, int], int] = {}
    try:
        brokers = client.describe_log_dirs(list(names))
    except UnknownTopicOrPartitionError:
        return {}
    for broker in brokers:
        for folder in broker["log_dirs"]:
            for topic in folder["topics"]:
                for part in topic["partitions"]:
                    key = (topic["name"], part["partition_index"])
                    largest[key] = max(largest.get(key, 0), part["partition_size"])
    sizes: dict[str, int] = {}
    for (name, _), size in largest.items():
        sizes[name] = sizes.get(name, 0) + size
    return sizes
