"""Stock keeping: what a site keeps, how much of it, and where it refers to."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from domain.catalogue import decode, encode
from domain.inventory import StockPicked, StockReceived, StockReserved
from domain.products import ProductRegistered, ProductReinstated, ProductRetired
from domain.sites import ServiceLevel, SiteClosed, SiteOpened
from domain.stock_keeping import (
    KEEPING,
    ChangeStockKeeping,
    EndStockKeeping,
    KeepStock,
    StockKeepingBegun,
    StockKeepingChanged,
    StockKeepingEnded,
)
from domain.values import Event
from tests.spec import given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

opened = SiteOpened(
    site_id="S-1",
    name=None,
    region=None,
    service_levels=(ServiceLevel(code="standard"),),
    daily_capacity=None,
    opened_at=NOON,
)
closed = SiteClosed(site_id="S-1", reason="moved", closed_at=NOON)
registered = ProductRegistered(
    sku="SKU-1",
    gtin=None,
    name="Thinner",
    unit="C62",
    quantity_step=Decimal(1),
    weight_g=930,
    volume_cm3=None,
    shelf_life_days=None,
    hazard=None,
    price_minor=None,
    cost_minor=None,
    currency=None,
    lead_days=None,
    pack_size=None,
    registered_at=NOON,
)
retired = ProductRetired(sku="SKU-1", reason="given up", retired_at=NOON)
reinstated = ProductReinstated(sku="SKU-1", reinstated_at=NOON)

KEEP = KeepStock(
    site_id="S-1",
    sku="SKU-1",
    reorder_point=Decimal(20),
    safety_stock=Decimal(8),
    max_level=Decimal(120),
    bin="A-12-3",
    unit_cost_minor=640,
    currency="EUR",
    kept_at=NOON,
)
END = EndStockKeeping(site_id="S-1", sku="SKU-1", reason="moved", ended_at=NOON)

begun = StockKeepingBegun(**KEEP.model_dump())
ended = StockKeepingEnded(
    site_id="S-1", sku="SKU-1", reason="moved", on_hand=Decimal(0), ended_at=NOON
)
received = StockReceived(site_id="S-1", sku="SKU-1", quantity=Decimal(5), received_at=NOON)
picked = StockPicked(site_id="S-1", sku="SKU-1", quantity=Decimal(5), order_id=None, picked_at=NOON)
reserved = StockReserved(
    site_id="S-1", sku="SKU-1", quantity=Decimal(2), order_id="O-1", reserved_at=NOON
)


def change(**fields: Any) -> ChangeStockKeeping:
    return ChangeStockKeeping(site_id="S-1", sku="SKU-1", changed_at=NOON, **fields)


def changed(names: str, **values: Any) -> StockKeepingChanged:
    """The keeping as begun, with other values."""
    said = begun.model_dump(exclude={"kept_at"}) | values
    return StockKeepingChanged(**said, changed=names, changed_at=NOON)


# beginning


def test_a_site_keeps_a_sku() -> None:
    given().reading(opened, registered).when(KEEP).then(begun)


def test_least_is_said_of_what_is_kept() -> None:
    command = KeepStock(site_id="S-1", sku="SKU-1", kept_at=NOON)
    [event] = given().reading(opened, registered).when(command).events
    assert KEEPING.fold([decode(*encode(event))]).reorder_point == 0


def test_a_sku_is_kept_once_and_again_after_its_end() -> None:
    known = opened, registered
    given(begun).reading(*known).when(KEEP).refused(
        "stock_keeping.already_kept", site_id="S-1", sku="SKU-1"
    )
    given(begun, ended).reading(*known).when(KEEP).then(begun)


@pytest.mark.parametrize(
    ("read", "code"),
    [
        ([registered], "site.unknown"),
        ([opened, closed, registered], "site.closed"),
        ([opened], "product.unknown"),
        ([opened, registered, retired], "product.retired"),
    ],
)
def test_what_is_kept_and_where_must_be_in_use(read: list[Event], code: str) -> None:
    given().reading(*read).when(KEEP).refused(code)


def test_a_reinstated_product_is_kept() -> None:
    given().reading(opened, registered, retired, reinstated).when(KEEP).then(begun)


# what goes together


@pytest.mark.parametrize(
    ("fields", "code", "context"),
    [
        (
            {"safety_stock": "21"},
            "stock_keeping.safety_above_reorder_point",
            {"safety_stock": "21", "reorder_point": "20"},
        ),
        (
            {"max_level": "20"},
            "stock_keeping.max_level_too_low",
            {"max_level": "20", "reorder_point": "20"},
        ),
        (
            {"reorder_point": "20.5"},
            "stock_keeping.level_not_of_steps",
            {"field": "reorder_point", "value": "20.5", "quantity_step": "1", "unit": "C62"},
        ),
        (
            {"currency": None},
            "stock_keeping.currency_missing",
            {"field": "unit_cost_minor", "value": 640},
        ),
    ],
)
def test_levels_go_together(fields: dict[str, Any], code: str, context: dict[str, Any]) -> None:
    known = opened, registered
    command = KeepStock.model_validate(KEEP.model_dump() | fields)
    given().reading(*known).when(command).refused(code, **context)
    asked = {name: value for name, value in fields.items() if value is not None}
    cleared = tuple(name for name, value in fields.items() if value is None)
    given(begun).reading(*known).when(change(**asked, clear=cleared)).refused(code, **context)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"sku": "SKU 1"}, "sku"),
        ({"site_id": ""}, "site_id"),
        ({"reorder_point": "-1"}, "reorder_point"),
        ({"reorder_point": "0.0001"}, "reorder_point"),
        ({"reorder_point": "NaN"}, "reorder_point"),
        ({"safety_stock": "-0.5"}, "safety_stock"),
        ({"max_level": "0"}, "max_level"),
        ({"bin": " A"}, "bin"),
        ({"bin": "A" * 33}, "bin"),
        ({"unit_cost_minor": -1}, "unit_cost_minor"),
        ({"currency": "EURO"}, "'EURO' is not an ISO 4217 currency code"),
    ],
)
def test_what_cannot_be_is_named(fields: dict[str, Any], rule: str) -> None:
    assert rule in problems(KeepStock, **KEEP.model_dump() | fields)
    same = {"site_id": "S-1", "sku": "SKU-1", "changed_at": NOON}
    assert rule in problems(ChangeStockKeeping, **same | fields)


# changing


def test_how_a_sku_is_kept_is_changed() -> None:
    given(begun).reading(opened, registered).when(change(reorder_point="30", bin="B-1")).then(
        changed("reorder_point, bin", reorder_point=Decimal(30), bin="B-1")
    )
    given(begun).reading(opened, registered).when(change(clear=("max_level", "bin"))).then(
        changed("max_level, bin", max_level=None, bin=None)
    )


def test_a_closed_site_and_a_retired_product_run_down() -> None:
    known = opened, closed, registered, retired
    given(begun).reading(*known).when(change(reorder_point="8")).then(
        changed("reorder_point", reorder_point=Decimal(8))
    )


@pytest.mark.parametrize("fields", [{}, {"reorder_point": "20.000"}, {"bin": "A-12-3"}])
def test_a_change_of_nothing_is_no_event(fields: dict[str, Any]) -> None:
    given(begun).reading(opened, registered).when(change(**fields)).then()


@pytest.mark.parametrize("command", [END, change(bin="B-1")])
def test_only_what_is_kept_is_changed_or_ended(command: Any) -> None:
    known = opened, registered
    given().reading(*known).when(command).refused("stock_keeping.unknown", sku="SKU-1")
    given(begun, ended).reading(*known).when(command).refused("stock_keeping.ended", sku="SKU-1")


def test_what_is_given_and_cleared_is_named() -> None:
    told = problems(
        ChangeStockKeeping, site_id="S", sku="A", bin="B", clear=["bin"], changed_at=None
    )
    assert "clear: bin is given a value as well" in told


# ending


@pytest.mark.parametrize("stock", [[], [received, picked]])
def test_what_is_empty_is_kept_no_more(stock: list[Event]) -> None:
    given(begun).reading(*stock).when(END).then(ended)


@pytest.mark.parametrize(
    ("stock", "aside"), [([received], "0"), ([received, reserved], "2")], ids=["free", "reserved"]
)
def test_what_is_left_is_kept_unless_that_is_known(stock: list[Event], aside: str) -> None:
    given(begun).reading(*stock).when(END).refused(
        "stock_keeping.stock_left", on_hand="5", reserved=aside
    )
    despite = END.model_copy(update={"despite_stock": True})
    given(begun).reading(*stock).when(despite).then(
        ended.model_copy(update={"on_hand": Decimal(5)})
    )
