"""A log as its lanes, for tests that hand lanes to consumers without Kafka in between."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import psycopg

from eventstore.kafka.cluster import lane_of
from eventstore.kafka.records import Carried
from eventstore.kafka.sequence import LaneBatch
from eventstore.stored import StoredEvent


def relayed(url: str, lanes: int, events: Sequence[StoredEvent]) -> UUID:
    """Say that a relay has published these events; its epoch."""
    epoch = uuid4()
    last = [
        max(
            (one.position for one in events if lane_of(one.organisation_id, lanes) == lane),
            default=0,
        )
        for lane in range(lanes)
    ]
    with psycopg.connect(url) as connection:
        connection.execute("DELETE FROM relay")
        connection.execute("DELETE FROM relay_lanes")
        connection.execute(
            "INSERT INTO relay (epoch, lanes, position, event_id) VALUES (%s, %s, %s, %s)",
            (epoch, lanes, events[-1].position, events[-1].event_id),
        )
        for lane, position in enumerate(last):
            connection.execute("INSERT INTO relay_lanes VALUES (%s, %s)", (lane, position))
    return epoch


def chained(events: Sequence[StoredEvent], lanes: int, epoch: UUID) -> dict[int, list[Carried]]:
    """The records of each lane, in their order."""
    found: dict[int, list[Carried]] = {lane: [] for lane in range(lanes)}
    for event in events:
        lane = found[lane_of(event.organisation_id, lanes)]
        lane.append(Carried(event, lane[-1].event.position if lane else 0, epoch))
    return found


def batches(
    records: Sequence[Carried], lane: int, lanes: int, epoch: UUID, size: int
) -> list[LaneBatch]:
    """A lane cut into batches."""
    return [
        LaneBatch(
            lane,
            lanes,
            epoch,
            records[start].previous,
            [one.event for one in records[start : start + size]],
        )
        for start in range(0, len(records), size)
    ]
