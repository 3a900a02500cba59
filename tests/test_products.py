"""Products: what is said of them goes together, and is changed, not overwritten."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from domain.catalogue import decode, encode
from domain.hazards import Hazard
from domain.products import (
    PRODUCTS,
    ChangeProduct,
    ProductChanged,
    ProductRegistered,
    ProductReinstated,
    ProductRetired,
    RegisterProduct,
    ReinstateProduct,
    RetireProduct,
    check_digit,
)
from domain.units import UNITS
from domain.values import Event
from tests.spec import given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
THINNER = Hazard(un_number="UN1263", hazard_class="3", packing_group="II", tunnel_code="D/E")

REGISTER = RegisterProduct(
    sku="SKU-1",
    gtin="4006381333931",
    name="Thinner, 1 l bottle",
    weight_g=930,
    volume_cm3=1200,
    shelf_life_days=730,
    hazard=THINNER,
    price_minor=1290,
    cost_minor=640,
    currency="EUR",
    lead_days=5,
    pack_size=Decimal(12),
    registered_at=NOON,
)
RETIRE = RetireProduct(sku="SKU-1", reason="given up", retired_at=NOON)
REINSTATE = ReinstateProduct(sku="SKU-1", reinstated_at=NOON)

registered = ProductRegistered(
    sku="SKU-1",
    gtin="4006381333931",
    name="Thinner, 1 l bottle",
    unit="C62",
    quantity_step=Decimal(1),
    weight_g=930,
    volume_cm3=1200,
    shelf_life_days=730,
    hazard=THINNER,
    price_minor=1290,
    cost_minor=640,
    currency="EUR",
    lead_days=5,
    pack_size=Decimal(12),
    registered_at=NOON,
)
retired = ProductRetired(sku="SKU-1", reason="given up", retired_at=NOON)
reinstated = ProductReinstated(sku="SKU-1", reinstated_at=NOON)


def changed(names: str, **values: Any) -> ProductChanged:
    """The product as registered, with other values."""
    said = registered.model_dump(exclude={"registered_at"}) | values
    return ProductChanged(**said, changed=names, changed_at=NOON)


def change(**fields: Any) -> ChangeProduct:
    return ChangeProduct(sku="SKU-1", changed_at=NOON, **fields)


def register(**fields: Any) -> RegisterProduct:
    said: dict[str, Any] = {"sku": "SKU-1", "name": "Oil", "registered_at": NOON}
    return RegisterProduct(**said | fields)


# registering


def test_a_product_is_registered() -> None:
    given().when(REGISTER).then(registered)


@pytest.mark.parametrize("history", [[registered], [registered, retired]])
def test_a_sku_is_taken_once(history: list[Event]) -> None:
    given(*history).when(REGISTER).refused("product.already_registered", sku="SKU-1")


@pytest.mark.parametrize(
    ("unit", "step", "weight_g", "volume_cm3"),
    [
        ("C62", "1", None, None),
        ("XPX", "1", None, None),
        ("KGM", "0.001", 1000, None),
        ("LTR", "0.001", None, 1000),
        ("MTR", "0.001", None, None),
    ],
)
def test_a_unit_says_what_it_knows(
    unit: str, step: str, weight_g: int | None, volume_cm3: int | None
) -> None:
    [event] = given().when(register(unit=unit)).events
    assert isinstance(event, ProductRegistered)
    told = (event.quantity_step, event.weight_g, event.volume_cm3)
    assert told == (Decimal(step), weight_g, volume_cm3)


@pytest.mark.parametrize("name", ["weight_g", "volume_cm3"])
def test_a_kilogram_weighs_a_kilogram_and_a_litre_is_a_litre(name: str) -> None:
    unit = "KGM" if name == "weight_g" else "LTR"
    given().when(register(unit=unit, **{name: 999})).refused(
        "product.not_what_the_unit_is", unit=unit, field=name, value=999, known=1000
    )


def test_pieces_are_whole() -> None:
    given().when(register(quantity_step="0.5")).refused(
        "product.step_not_whole", unit="C62", quantity_step="0.5"
    )
    given(registered).when(change(quantity_step="2.5")).refused("product.step_not_whole")


def test_a_pack_holds_whole_steps() -> None:
    given().when(register(quantity_step="6", pack_size="15")).refused(
        "product.pack_not_of_steps", pack_size="15", quantity_step="6"
    )
    given(registered).when(change(quantity_step="5")).refused("product.pack_not_of_steps")


@pytest.mark.parametrize("name", ["price_minor", "cost_minor"])
def test_money_has_a_currency(name: str) -> None:
    given().when(register(**{name: 100})).refused("product.currency_missing", field=name, value=100)
    given(registered).when(change(clear=("currency",))).refused("product.currency_missing")


# bad input


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"sku": "SKU 1"}, "sku"),
        ({"sku": ""}, "sku"),
        ({"sku": "-1"}, "sku"),
        ({"sku": "A" * 65}, "sku"),
        ({"gtin": "4006381333932"}, "'4006381333932' ends in 2; its check digit is 1"),
        ({"gtin": "96385075"}, "'96385075' ends in 5; its check digit is 4"),
        ({"gtin": "123"}, "must have 8, 12, 13 or 14 digits (GTIN)"),
        ({"gtin": "400638133393X"}, "must have 8, 12, 13 or 14 digits (GTIN)"),
        ({"gtin": "٤٠٠٦٣٨١٣٣٣٩٣١"}, "must have 8, 12, 13 or 14 digits (GTIN)"),
        ({"name": ""}, "name"),
        ({"name": "a\0b"}, "must not hold the character U+0000"),
        ({"unit": "KG"}, "'KG' is not a unit of UN/ECE Recommendation 20"),
        ({"unit": "c62"}, "'c62' is not a unit"),
        ({"quantity_step": "0"}, "quantity_step"),
        ({"quantity_step": "0.0001"}, "quantity_step"),
        ({"weight_g": 0}, "weight_g"),
        ({"weight_g": -5}, "weight_g"),
        ({"weight_g": 1.5}, "weight_g"),
        ({"volume_cm3": 0}, "volume_cm3"),
        ({"shelf_life_days": 0}, "shelf_life_days"),
        ({"price_minor": -1}, "price_minor"),
        ({"currency": "EURO"}, "'EURO' is not an ISO 4217 currency code"),
        ({"currency": "DEM"}, "'DEM' is not an ISO 4217 currency code"),
        ({"lead_days": -1}, "lead_days"),
        ({"pack_size": "0"}, "pack_size"),
        ({"hazard": {"un_number": "1263", "hazard_class": "3"}}, "hazard.un_number"),
        ({"hazard": {"un_number": "UN126", "hazard_class": "3"}}, "hazard.un_number"),
        ({"hazard": {"un_number": "UN1263", "hazard_class": "10"}}, "hazard.hazard_class"),
        ({"hazard": {"un_number": "UN1263", "hazard_class": "3.1"}}, "hazard.hazard_class"),
        (
            {"hazard": {"un_number": "UN1263", "hazard_class": "3", "packing_group": "IV"}},
            "hazard.packing_group",
        ),
        (
            {"hazard": {"un_number": "UN1965", "hazard_class": "2.1", "packing_group": "II"}},
            "packing_group: goods of class 2.1 have none (ADR 2.1.1.3), got II",
        ),
        (
            {"hazard": {"un_number": "UN1263", "hazard_class": "3", "tunnel_code": "A"}},
            "hazard.tunnel_code",
        ),
        ({"color": "red"}, "color"),
    ],
)
def test_what_cannot_be_is_named(fields: dict[str, Any], rule: str) -> None:
    said = {"sku": "SKU-1", "name": "Oil", "registered_at": NOON} | fields
    assert rule in problems(RegisterProduct, **said)


@pytest.mark.parametrize("gtin", ["96385074", "036000291452", "4006381333931", "10614141000415"])
def test_trade_item_numbers_of_all_lengths_are_taken(gtin: str) -> None:
    assert register(gtin=gtin).gtin == gtin


@examples(
    st.sampled_from([7, 11, 12, 13]).flatmap(
        lambda n: st.integers(0, 10**n - 1).map(lambda number: f"{number:0{n}}")
    )
)
def test_one_check_digit_of_ten_is_right(digits: str) -> None:
    taken = [end for end in range(10) if not _problems_of(f"{digits}{end}")]
    assert taken == [check_digit(digits)]


def _problems_of(gtin: str) -> str:
    return problems(RegisterProduct, sku="S", name="n", gtin=gtin, registered_at=None)


def test_units_have_names_and_say_one_thing_at_most() -> None:
    assert all(unit.name for unit in UNITS.values())
    for unit in UNITS.values():
        said = (unit.whole, unit.weight_g is not None, unit.volume_cm3 is not None)
        assert sum(said) <= 1


# changing


def test_a_product_is_changed() -> None:
    given(registered).when(change(price_minor=1390, name="Thinner")).then(
        changed("name, price_minor", name="Thinner", price_minor=1390)
    )


def test_what_is_cleared_is_not_known_any_more() -> None:
    given(registered).when(change(clear=("hazard", "gtin"))).then(
        changed("gtin, hazard", hazard=None, gtin=None)
    )


@pytest.mark.parametrize("fields", [{}, {"price_minor": 1290}, {"pack_size": "12.0"}])
def test_a_change_of_nothing_is_no_event(fields: dict[str, Any]) -> None:
    given(registered).when(change(**fields)).then()


def test_a_weight_that_the_unit_says_is_not_cleared() -> None:
    sold_by_weight = registered.model_copy(
        update={"unit": "KGM", "quantity_step": Decimal("0.001"), "weight_g": 1000}
    )
    given(sold_by_weight).when(change(clear=("weight_g",))).refused("product.not_what_the_unit_is")


def test_what_is_given_and_cleared_is_named() -> None:
    told = problems(ChangeProduct, sku="S", gtin="96385074", clear=["gtin"], changed_at=None)
    assert "clear: gtin is given a value as well" in told


@pytest.mark.parametrize("field", ["unit", "registered_at"])
def test_what_never_changes_is_not_taken(field: str) -> None:
    assert field in problems(ChangeProduct, sku="S", changed_at=None, **{field: "KGM"})


# retiring


def test_a_product_is_retired_and_reinstated() -> None:
    given(registered).when(RETIRE).then(retired)
    given(registered, retired).when(REINSTATE).then(reinstated)
    given(registered, retired, reinstated).when(RETIRE).then(retired)


@pytest.mark.parametrize("command", [RETIRE, REINSTATE, change(name="x")])
def test_a_product_that_there_is_not_is_unknown(command: Any) -> None:
    given().when(command).refused("product.unknown", sku="SKU-1")


@pytest.mark.parametrize("command", [RETIRE, change(name="x")])
def test_a_retired_product_rests(command: Any) -> None:
    given(registered, retired).when(command).refused("product.retired", sku="SKU-1")


@pytest.mark.parametrize("history", [[registered], [registered, retired, reinstated]])
def test_only_what_is_retired_comes_back(history: list[Event]) -> None:
    given(*history).when(REINSTATE).refused("product.not_retired", sku="SKU-1")


def test_a_reinstated_product_is_as_it_was() -> None:
    history: list[Event] = [registered, changed("name", name="Thinner"), retired, reinstated]
    before, after = PRODUCTS.fold(history[:2]), PRODUCTS.fold(history)
    assert before == after
    assert PRODUCTS.fold(decode(*encode(event)) for event in history) == after
