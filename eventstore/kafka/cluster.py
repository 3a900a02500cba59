"""A Kafka cluster: where it is, how to get in, and how our topics are called there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where a cluster is, and what our topics and groups there begin with.

    Attributes:
        brokers: ``host:port`` each, some of the cluster's.
        prefix: the first part of the names of topics and groups.
        security: more options of kafka-python's clients: TLS and SASL. Never shown.
    """

    brokers: tuple[str, ...]
    prefix: str = "chainlytics"
    security: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def topic(self, name: str) -> str:
        """The topic of a business area, or of something else that has one (``commands``)."""
        return f"{self.prefix}.{name}.v1"

    def group(self, name: str) -> str:
        """The consumer group of a kind of consumer (``projector``)."""
        return f"{self.prefix}-{name}"

    def options(self, client: str) -> dict[str, Any]:
        """What every client of kafka-python is made with; ``client``: what it is called."""
        return {
            "bootstrap_servers": list(self.brokers),
            "client_id": f"{self.prefix}-{client}",
            **self.security,
        }


def lane_of(organisation_id: UUID, lanes: int) -> int:
    """The lane of an organisation's events: the partition that they are in, in every topic.

    All events of one organisation are in one lane, so that they can be put in their order again
    without looking at others', and no two lanes ever touch the same row of a read model.
    """
    return organisation_id.int % lanes
