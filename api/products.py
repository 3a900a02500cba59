"""Products over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading, tagged
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, Search, choosing, partial, sortable
from api.routers import Router
from commands.products import product_stream
from domain.products import ChangeProduct, RegisterProduct, ReinstateProduct, RetireProduct
from domain.units import Unit
from domain.values import Id
from readmodels import products
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.products import Product

router = Router("/products", tags=["products"])

POSTS: tuple[Post, ...] = (
    Post(
        "",
        RegisterProduct,
        "Register a product",
        now=("registered_at",),
        status=201,
        errors=(409,),
        example={
            "sku": "SKU-THINNER-1L",
            "gtin": "4006381333931",
            "name": "Paint thinner, 1 l bottle",
            "unit": "C62",
            "weight_g": 930,
            "volume_cm3": 1200,
            "hazard": {
                "un_number": "UN1263",
                "hazard_class": "3",
                "packing_group": "II",
                "tunnel_code": "D/E",
            },
            "price_minor": 1290,
            "cost_minor": 640,
            "currency": "EUR",
            "lead_days": 5,
            "pack_size": "12",
        },
    ),
    Post(
        "/{sku}/change",
        ChangeProduct,
        "Change what is said of a product",
        now=("changed_at",),
        example={"price_minor": 1390, "clear": ["gtin"]},
    ),
    Post(
        "/{sku}/retire",
        RetireProduct,
        "Take a product out of the range",
        now=("retired_at",),
        example={"reason": "the maker gave it up"},
    ),
    Post(
        "/{sku}/reinstate",
        ReinstateProduct,
        "Take a retired product back into the range",
        now=("reinstated_at",),
    ),
)
mount(router, POSTS)


@router.get("", summary="List products", responses=documented() | partial(Product, page=True))
async def list_products(
    read: Annotated[ReadModels, reading("products.list", "product_list")],
    chosen: Annotated[Chosen, choosing(Product)],
    retired: Annotated[bool | None, Query()] = None,
    unit: Annotated[Unit | None, Query()] = None,
    hazardous: Annotated[bool | None, Query()] = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(products.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Product]:
    """Products by SKU, retired ones too; `search` looks into SKU, name and GTIN."""
    found = await products.list_products(
        read,
        retired=retired,
        unit=unit,
        hazardous=hazardous,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get("/{sku}", summary="Get a product", responses=documented(404))
async def get_product(
    sku: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("products.get", "product_list")],
) -> Product:
    """A product: its units, weight, volume, hazards, prices."""
    found = await products.get_product(read, sku)
    if found is None:
        raise NotFound("product", sku)
    tagged(response, found.version)
    return found


@router.get("/{sku}/history", summary="Read a product's history", responses=documented(404))
async def get_product_history(
    sku: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("products.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """What happened to a product, the oldest first."""
    return await history_of(read, product_stream(sku), "product", sku, cursor, limit)
