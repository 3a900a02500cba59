"""What waits to be delivered to webhooks and to be done as tasks, as Prometheus asks for it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from readmodels.health import TaskLag
from readmodels.webhooks import WebhookLag


class Webhooks(Collector):
    """The gauges of one scrape, of all webhooks together."""

    def __init__(self, lag: WebhookLag) -> None:
        self._lag = lag

    def collect(self) -> Iterable[Metric]:
        """How many there are, what waits for them, and since when."""
        lag = self._lag
        webhooks = GaugeMetricFamily(
            "chainlytics_webhooks", "Webhooks, by how they are.", labels=["state"]
        )
        for state, count in (
            ("running", lag.running),
            ("paused", lag.paused),
            ("failing", lag.failing),
        ):
            webhooks.add_metric([state], count)
        yield webhooks
        deliveries = GaugeMetricFamily(
            "chainlytics_webhook_deliveries",
            "Deliveries that are not done, by how they are.",
            labels=["state"],
        )
        for state, count in (("pending", lag.pending), ("held", lag.held), ("dead", lag.dead)):
            deliveries.add_metric([state], count)
        yield deliveries
        yield GaugeMetricFamily(
            "chainlytics_webhook_behind_seconds",
            "How long the oldest delivery that is not held back has waited.",
            value=lag.oldest_pending_s,
        )
        yield GaugeMetricFamily(
            "chainlytics_webhook_up", "1 where some process delivers.", value=int(lag.active)
        )


class Tasks(Collector):
    """The gauges of one scrape, of all tasks together."""

    def __init__(self, lag: TaskLag) -> None:
        self._lag = lag

    def collect(self) -> Iterable[Metric]:
        """How many are open, and since when the oldest waits."""
        tasks = GaugeMetricFamily(
            "chainlytics_tasks", "Tasks that are not finished, by state.", labels=["state"]
        )
        for state, count in self._lag.open.items():
            tasks.add_metric([state], count)
        yield tasks
        yield GaugeMetricFamily(
            "chainlytics_task_waiting_seconds",
            "How long the task that has waited longest has not been begun.",
            value=self._lag.waiting_s,
        )
