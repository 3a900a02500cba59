"""How far read models and the relay are, and what this process does, as Prometheus asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated

import psycopg
from fastapi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.backlogs import Tasks, Webhooks
from api.dependencies import Parts, allowed
from api.errors import documented
from api.routers import Router
from api.tokens import Identity
from api.traffic import Traffic
from eventstore import LogUnavailable
from readmodels.health import task_lag
from readmodels.positions import LaneState, ProjectionState
from readmodels.relay import Relaying, RelayState, relay_state
from readmodels.webhooks import webhook_lag

router = Router(tags=["health"], at="")

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


#: Who scrapes is answered in this time, in seconds, whether the database answers or not.
_PATIENCE_S = 3.0
_OF_A_POOL: tuple[tuple[str, str, Callable[[Mapping[str, int]], float]], ...] = (
    ("max_connections", "Connections that the pool may open.", lambda it: it.get("pool_max", 0)),
    ("connections", "Connections that are open.", lambda it: it.get("pool_size", 0)),
    (
        "used_connections",
        "Connections that somebody works with.",
        lambda it: max(it.get("pool_size", 0) - it.get("pool_available", 0), 0),
    ),
    ("waiting", "Callers that wait for a connection.", lambda it: it.get("requests_waiting", 0)),
)
#: Name, help, psycopg's own key, and the unit of that.
_COUNTED_OF_A_POOL: tuple[tuple[str, str, str, float], ...] = (
    ("requests_total", "Connections that were asked for.", "requests_num", 1),
    ("queued_total", "Of these, how many had to wait.", "requests_queued", 1),
    ("wait_seconds_total", "How long they waited in all.", "requests_wait_ms", 0.001),
    ("errors_total", "Of these, how many got none in time.", "requests_errors", 1),
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


class _Commands(Collector):
    """What became of commands of this process."""

    def __init__(self, counts: Mapping[tuple[str, str], int], pending: int) -> None:
        self._counts, self._pending = counts, pending

    def collect(self) -> Iterable[Metric]:
        """A counter by command and outcome, and what waits for the log."""
        commands = CounterMetricFamily(
            "chainlytics_commands_total",
            "Commands by what became of them: accepted, repeated, or why they were not taken.",
            labels=["command", "outcome"],
        )
        for pair, count in self._counts.items():
            commands.add_metric(list(pair), count)
        yield commands
        yield GaugeMetricFamily(
            "chainlytics_log_pending_events",
            "Events that wait to be appended to the log.",
            value=self._pending,
        )


class _Pools(Collector):
    """How much of each pool of connections to the database is in use."""

    def __init__(self, pools: Mapping[str, Mapping[str, int]]) -> None:
        self._pools = pools

    def collect(self) -> Iterable[Metric]:
        """The gauges and counters of each pool."""
        for name, text, value in _OF_A_POOL:
            gauge = GaugeMetricFamily(f"chainlytics_pool_{name}", text, labels=["pool"])
            for pool, stats in self._pools.items():
                gauge.add_metric([pool], value(stats))
            yield gauge
        for name, text, key, each in _COUNTED_OF_A_POOL:
            counter = CounterMetricFamily(f"chainlytics_pool_{name}", text, labels=["pool"])
            for pool, stats in self._pools.items():
                counter.add_metric([pool], stats.get(key, 0) * each)
            yield counter


class _Database(Collector):
    """Whether the database answered this scrape."""

    def __init__(self, up: bool) -> None:
        self._up = up

    def collect(self) -> Iterable[Metric]:
        """One gauge."""
        yield GaugeMetricFamily(
            "chainlytics_database_up",
            "1 where the database answered in time, 0 where it did not.",
            value=int(self._up),
        )


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
            "description": "Requests, commands and connections of this process; gauges of each "
            "read model, of the relay, of webhooks and tasks, as long as the database answers.",
            "content": {"text/plain": {}},
        }
    },
)
async def metrics(
    request: Request, deps: Parts, _: Annotated[Identity, allowed("metrics.read")]
) -> Response:
    """Prometheus text format. A scraper needs a bearer token as everybody does, a service's say."""
    registry = CollectorRegistry()
    traffic: Traffic = request.app.state.traffic
    registry.register(traffic)
    registry.register(_Commands(deps.bus.outcomes.counts, deps.bus.pending))
    registry.register(_Pools(deps.pools()))
    up = True
    try:
        async with asyncio.timeout(_PATIENCE_S):
            states, relaying = await deps.positions.states(), await relay_state(deps.log)
            webhooks = await webhook_lag(deps.log)
            tasks = await deps.probe.look(task_lag)
    except (LogUnavailable, TimeoutError, psycopg.OperationalError, psycopg.InterfaceError):
        up = False
    else:
        registry.register(_Projections(states))
        registry.register(_Relay(relaying))
        registry.register(Webhooks(webhooks))
        registry.register(Tasks(tasks))
    registry.register(_Database(up))
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
