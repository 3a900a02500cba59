"""Metrics: which rule answers which command."""

from __future__ import annotations

from collections.abc import Sequence

from commands.clients import client_stream
from commands.handler import Handler, Read
from commands.products import product_stream
from commands.sites import site_stream
from commands.transport import vehicle_stream
from domain import clients, metrics, products, sites, transport
from domain.access import PLAN


def metric_stream(metric_id: str) -> str:
    """The stream of a figure."""
    return metrics.STREAM.format(metric_id=metric_id)


def _about(command: metrics.RecordMetric) -> Sequence[Read]:
    """What the figure is of."""
    named = (
        (command.site_id, site_stream, sites.SITES),
        (command.client_id, client_stream, clients.CLIENTS),
        (command.vehicle_id, vehicle_stream, transport.VEHICLES),
        (command.sku, product_stream, products.PRODUCTS),
    )
    return [Read(stream(name), decider) for name, stream, decider in named if name is not None]


HANDLERS: tuple[Handler, ...] = (
    Handler(
        command=metrics.RecordMetric,
        roles=PLAN,
        stream=lambda command: metric_stream(command.metric_id),
        decider=metrics.METRICS,
        decide=lambda command, _, metric, *about: metrics.record(metric, command, *about),
        reads=_about,
        creates=True,
    ),
    Handler(
        command=metrics.CorrectMetric,
        roles=PLAN,
        stream=lambda command: metric_stream(command.metric_id),
        decider=metrics.METRICS,
        decide=lambda command, actor, metric: metrics.correct(metric, command, actor),
    ),
    Handler(
        command=metrics.WithdrawMetric,
        roles=PLAN,
        stream=lambda command: metric_stream(command.metric_id),
        decider=metrics.METRICS,
        decide=lambda command, actor, metric: metrics.withdraw(metric, command, actor),
    ),
)
