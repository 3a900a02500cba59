"""Inventory: which rule answers which command."""

from __future__ import annotations

from typing import Protocol

from commands.handler import Handler, Read
from domain import inventory
from domain.access import OPERATE


class _OfSite(Protocol):
    site_id: str


class _OfStock(_OfSite, Protocol):
    sku: str


def site_stream(site_id: str) -> str:
    """The stream of a site."""
    return inventory.SITE_STREAM.format(site_id=site_id)


def stock_stream(site_id: str, sku: str) -> str:
    """The stream of one SKU at one site."""
    return inventory.STOCK_STREAM.format(site_id=site_id, sku=sku)


def _site(command: _OfSite) -> list[Read]:
    return [Read(site_stream(command.site_id), inventory.SITES)]


def _stock(command: _OfStock) -> str:
    return stock_stream(command.site_id, command.sku)


HANDLERS = (
    Handler(
        command=inventory.OpenSite,
        roles=OPERATE,
        stream=lambda command: site_stream(command.site_id),
        decider=inventory.SITES,
        decide=lambda command, _, site: inventory.open_site(site, command),
        creates=True,
    ),
    Handler(
        command=inventory.CloseSite,
        roles=OPERATE,
        stream=lambda command: site_stream(command.site_id),
        decider=inventory.SITES,
        decide=lambda command, _, site: inventory.close_site(site, command),
    ),
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
        decide=lambda command, _, stock, site: inventory.pick(stock, command, site),
        reads=_site,
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
