"""Inventory: which rule answers which command.

A pick of what is put aside for an order is told to the order in the same append (docs/adr/0040).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from commands.handler import Handler, Read
from commands.sites import site_stream
from domain import inventory, sites
from domain.access import OPERATE
from domain.order_events import STREAM as ORDER_STREAM
from domain.order_state import ORDERS
from domain.reservations import pick_by_hand
from domain.values import Event


class _OfSite(Protocol):
    site_id: str


class _OfStock(_OfSite, Protocol):
    sku: str


def stock_stream(site_id: str, sku: str) -> str:
    """The stream of one SKU at one site."""
    return inventory.STOCK_STREAM.format(site_id=site_id, sku=sku)


def _site(command: _OfSite) -> list[Read]:
    return [Read(site_stream(command.site_id), sites.SITES)]


def _stock(command: _OfStock) -> str:
    return stock_stream(command.site_id, command.sku)


def _order_with_stock(command: inventory.PickStock, stock: inventory.Stock) -> list[Read]:
    """The order that stock is put aside for; who has none here is not told of picks."""
    if not stock.reserved_for(command.order_id):
        return []
    return [Read(_order(command), ORDERS, True)]


def _order(command: inventory.PickStock) -> str:
    return ORDER_STREAM.format(order_id=command.order_id)


def _pick(
    command: inventory.PickStock, _: str, stock: inventory.Stock, states: Mapping[str, Any]
) -> Sequence[Event]:
    site = states[site_stream(command.site_id)]
    order = states.get(_order(command))
    if order is None:
        return inventory.pick(stock, command, site)
    return pick_by_hand(stock, command, site, order)


HANDLERS = (
    Handler(
        command=inventory.ReceiveStock,
        roles=OPERATE,
        stream=_stock,
        decider=inventory.STOCK,
        decide=lambda command, _, stock, site: inventory.receive(stock, command, site),
        reads=_site,
    ),
    Handler(
        command=inventory.PickStock,
        roles=OPERATE,
        stream=_stock,
        decider=inventory.STOCK,
        decide=_pick,
        reads=_site,
        follows=_order_with_stock,
        several=True,
    ),
    Handler(
        command=inventory.AdjustStock,
        roles=OPERATE,
        stream=_stock,
        decider=inventory.STOCK,
        decide=lambda command, _, stock, site: inventory.adjust(stock, command, site),
        reads=_site,
    ),
)
