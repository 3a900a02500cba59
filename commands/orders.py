"""Orders: which rule answers which command."""

from __future__ import annotations

from collections.abc import Sequence

from commands.handler import Handler, Read
from commands.inventory import site_stream
from domain import inventory, orders
from domain.access import OPERATE
from domain.values import Event


def order_stream(order_id: str) -> str:
    """The stream of an order."""
    return orders.STREAM.format(order_id=order_id)


def _sites(command: orders.AllocateOrder) -> list[Read]:
    site_ids = dict.fromkeys([command.site_id, *(line.site_id for line in command.line_sites)])
    return [Read(site_stream(site_id), inventory.SITES) for site_id in site_ids]


def _allocate(
    command: orders.AllocateOrder, _: str, order: orders.Order, *sites: inventory.Site
) -> Sequence[Event]:
    events = orders.allocate(order, command)
    for read, site in zip(_sites(command), sites, strict=True):
        site_id = read.stream.partition("/")[2]
        inventory.must_be_open(site, site_id)
        inventory.must_offer(site, command.service_level)
    return events


HANDLERS = (
    Handler(
        command=orders.PlaceOrder,
        roles=OPERATE,
        stream=lambda command: order_stream(command.order_id),
        decider=orders.ORDERS,
        decide=lambda command, _, order: orders.place(order, command),
        creates=True,
    ),
    Handler(
        command=orders.AllocateOrder,
        roles=OPERATE,
        stream=lambda command: order_stream(command.order_id),
        decider=orders.ORDERS,
        decide=_allocate,
        reads=_sites,
    ),
    Handler(
        command=orders.ShipOrder,
        roles=OPERATE,
        stream=lambda command: order_stream(command.order_id),
        decider=orders.ORDERS,
        decide=lambda command, _, order: orders.ship(order, command),
    ),
    Handler(
        command=orders.DeliverOrder,
        roles=OPERATE,
        stream=lambda command: order_stream(command.order_id),
        decider=orders.ORDERS,
        decide=lambda command, _, order: orders.deliver(order, command),
    ),
    Handler(
        command=orders.CancelOrder,
        roles=OPERATE,
        stream=lambda command: order_stream(command.order_id),
        decider=orders.ORDERS,
        decide=lambda command, _, order: orders.cancel(order, command),
    ),
)
