"""Stock keeping: which rule answers which command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from commands.handler import Handler, Read
from commands.inventory import stock_stream
from commands.products import product_stream
from commands.sites import site_stream
from domain import inventory, products, sites, stock_keeping
from domain.access import OPERATE


class _OfKeeping(Protocol):
    site_id: str
    sku: str


def stock_keeping_stream(site_id: str, sku: str) -> str:
    """The stream of how a SKU is kept at a site."""
    return stock_keeping.STREAM.format(site_id=site_id, sku=sku)


def _own(command: _OfKeeping) -> str:
    return stock_keeping_stream(command.site_id, command.sku)


def _site_and_product(command: _OfKeeping) -> Sequence[Read]:
    return [
        Read(site_stream(command.site_id), sites.SITES),
        Read(product_stream(command.sku), products.PRODUCTS),
    ]


def _stock(command: _OfKeeping) -> Sequence[Read]:
    return [Read(stock_stream(command.site_id, command.sku), inventory.STOCK)]


HANDLERS: tuple[Handler, ...] = (
    Handler(
        command=stock_keeping.KeepStock,
        roles=OPERATE,
        stream=_own,
        decider=stock_keeping.KEEPING,
        decide=lambda command, _, keeping, site, product: stock_keeping.keep(
            keeping, command, site, product
        ),
        reads=_site_and_product,
    ),
    Handler(
        command=stock_keeping.ChangeStockKeeping,
        roles=OPERATE,
        stream=_own,
        decider=stock_keeping.KEEPING,
        decide=lambda command, _, keeping, site, product: stock_keeping.change(
            keeping, command, site, product
        ),
        reads=_site_and_product,
    ),
    Handler(
        command=stock_keeping.EndStockKeeping,
        roles=OPERATE,
        stream=_own,
        decider=stock_keeping.KEEPING,
        decide=lambda command, _, keeping, stock: stock_keeping.end(keeping, command, stock),
        reads=_stock,
    ),
)
