"""How far read models and the relay are, as Prometheus asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.dependencies import Parts, allowed
from api.errors import documented
from api.tokens import Identity
from readmodels.positions import LaneState, ProjectionState
from readmodels.relay import Relaying, RelayState, relay_state

router = APIRouter(tags=["health"])

#: Name, help, and a projection's value: None leaves its sample out.
_OF_EACH: tuple[tuple[str, str, Callable[[ProjectionState], float | None]], ...] = (
    ("position", "Log position that the read model has come to.", lambda one: one.position),
    ("behind_events", "Events that the read model has not folded.", lambda one: one.behind),
    (
        "behind_seconds",
        "How long the first event that is not folded has been on the log.",
        lambda one: one.seconds_behind,
    ),
    (
        "rate_events_per_second",
        "Events folded a second when there last was a backlog.",
        lambda one: one.rate,
    ),
    (
        "eta_seconds",
        "Time until the read model is at the head; none where it stands still.",
        lambda one: one.eta_s,
    ),
    (
        "dead_letters",
        "Events that the read model could not fold, and those waiting for them.",
        lambda one: one.dead_letters,
    ),
    (
        "up",
        "1 where the read model follows the log, 0 where it stands still.",
        lambda one: int(one.state.moves),
    ),
    (
        "rebuild_ratio",
        "Share of the log that a rebuild under way has folded, from 0 to 1.",
        lambda one: None if one.rebuild is None else one.rebuild.progress,
    ),
)
#: Of each lane of a projection. Labels cost memory wherever they are scraped: beyond so many lanes
#: only those that are furthest behind have a sample, which are those that an alarm wants.
_LANES_AT_MOST = 64
_OF_EACH_LANE: tuple[tuple[str, str, Callable[[LaneState], float]], ...] = (
    (
        "behind_events",
        "Log positions to the last event put into the lane: at most so many are not folded.",
        lambda one: one.behind,
    ),
    (
        "behind_seconds",
        "How long the first event that may not be folded of the lane has been on the log.",
        lambda one: one.seconds_behind,
    ),
)
#: Of the relay; no samples where none ever ran.
_OF_THE_RELAY: tuple[tuple[str, str, Callable[[RelayState], float]], ...] = (
    ("position", "Log position up to which all is acknowledged by Kafka.", lambda it: it.position),
    ("behind_events", "Events of the log that are not known to be on Kafka.", lambda it: it.behind),
    (
        "behind_seconds",
        "How long the first event that is not known to be on Kafka has been on the log.",
        lambda it: it.seconds_behind,
    ),
    (
        "up",
        "1 where a relay holds the lease and follows the log, 0 where nothing is relayed.",
        lambda it: int(it.state.moves),
    ),
)


class _Projections(Collector):
    """The gauges of one scrape."""

    def __init__(self, states: Sequence[ProjectionState]) -> None:
        self._states = states

    def collect(self) -> Iterable[Metric]:
        """Every gauge with a sample for each projection that has one."""
        for name, text, value in _OF_EACH:
            gauge = GaugeMetricFamily(f"chainlytics_projection_{name}", text, labels=["projection"])
            for state in self._states:
                if (found := value(state)) is not None:
                    gauge.add_metric([state.name], found)
            yield gauge
        for name, text, of_lane in _OF_EACH_LANE:
            labels = ["projection", "lane"]
            gauge = GaugeMetricFamily(f"chainlytics_projection_lane_{name}", text, labels=labels)
            for state in self._states:
                worst = sorted(state.lanes, key=lambda one: (-one.seconds_behind, one.lane))
                for one in worst[:_LANES_AT_MOST]:
                    gauge.add_metric([state.name, str(one.lane)], of_lane(one))
            yield gauge
        head = GaugeMetricFamily("chainlytics_log_head", "The last position of the log.")
        for state in self._states[:1]:
            head.add_metric([], state.head)
        yield head


class _Relay(Collector):
    """The gauges of one scrape."""

    def __init__(self, state: RelayState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """Every gauge, with a sample if a relay ever ran."""
        for name, text, value in _OF_THE_RELAY:
            gauge = GaugeMetricFamily(f"chainlytics_relay_{name}", text)
            if self._state.state is not Relaying.NEVER_RAN:
                gauge.add_metric([], value(self._state))
            yield gauge


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses=documented()
    | {
        200: {
            "description": "Gauges of each read model and of the relay.",
            "content": {"text/plain": {}},
        }
    },
)
async def metrics(deps: Parts, _: Annotated[Identity, allowed("metrics.read")]) -> Response:
    """Prometheus text format. A scraper needs a bearer token as everybody does, a service's say."""
    registry = CollectorRegistry()
    registry.register(_Projections(await deps.positions.states()))
    registry.register(_Relay(await relay_state(deps.log)))
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
