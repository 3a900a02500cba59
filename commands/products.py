"""Products: which rule answers which command."""

from __future__ import annotations

from commands.handler import Handler
from domain import products
from domain.access import OPERATE


def product_stream(sku: str) -> str:
    """The stream of a product."""
    return products.STREAM.format(sku=sku)


HANDLERS: tuple[Handler, ...] = (
    Handler(
        command=products.RegisterProduct,
        roles=OPERATE,
        stream=lambda command: product_stream(command.sku),
        decider=products.PRODUCTS,
        decide=lambda command, _, product: products.register(product, command),
        creates=True,
    ),
    Handler(
        command=products.ChangeProduct,
        roles=OPERATE,
        stream=lambda command: product_stream(command.sku),
        decider=products.PRODUCTS,
        decide=lambda command, _, product: products.change(product, command),
    ),
    Handler(
        command=products.RetireProduct,
        roles=OPERATE,
        stream=lambda command: product_stream(command.sku),
        decider=products.PRODUCTS,
        decide=lambda command, _, product: products.retire(product, command),
    ),
    Handler(
        command=products.ReinstateProduct,
        roles=OPERATE,
        stream=lambda command: product_stream(command.sku),
        decider=products.PRODUCTS,
        decide=lambda command, _, product: products.reinstate(product, command),
    ),
)
