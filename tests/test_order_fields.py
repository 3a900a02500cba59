"""What orders say and name: their fields, references, steps, and vehicles that hold them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from domain import catalogue
from domain.clients import RegisterClient, RetireClient
from domain.inventory import PickStock
from domain.order_events import (
    LineTerms,
    OrderPlaced,
)
from domain.orders import (
    AllocateOrder,
    CancelLines,
    DeliverShipment,
    PlaceOrder,
    RepromiseOrder,
    ReserveOrder,
    ReturnOrder,
    ShipPart,
    SplitOrder,
)
from domain.products import RegisterProduct, RetireProduct
from domain.shipments import LineQuantity
from domain.transport import RegisterVehicle
from domain.values import Command
from tests.order_world import (
    AT,
    NOON,
    allocated_alone,
    aside,
    came,
    changed,
    handed,
    kept,
    opened,
    part,
    placed,
    plain,
    waits,
)
from tests.spec import given, problems

# place


PLACE: dict[str, Any] = {
    "order_id": "O-1",
    "customer_id": "C-1",
    "currency": "EUR",
    "lines": [{"line_no": 1, "sku": "A", "quantity": "3", "unit_price_minor": 150}],
    "placed_at": "2026-03-01T12:00:00Z",
    "promised_at": "2026-03-06T12:00:00Z",
}
BERLIN = {"latitude": 52.520008, "longitude": 13.404954}
WINDOW = {"starts_at": "2026-03-06T08:00:00Z", "ends_at": "2026-03-06T12:00:00Z"}


def test_an_order_says_where_and_when_it_is_wanted() -> None:
    more = {"destination": BERLIN, "delivery_window": WINDOW, "service_s": 300}
    lines = [PLACE["lines"][0] | {"volume_cm3": 120}]
    [event] = given().when(PlaceOrder(**(PLACE | more | {"lines": lines}))).events
    told = event.model_dump(mode="json")
    assert told["destination"] == BERLIN
    assert told["delivery_window"] == WINDOW
    assert (told["service_s"], told["volume_cm3"]) == (300, 360)


def test_an_order_that_says_nothing_of_it_has_the_bytes_it_always_had() -> None:
    command = PlaceOrder(**PLACE)
    told = command.model_dump(mode="json")
    new = {"destination", "delivery_window", "service_s", "check_references"}
    assert not new & told.keys()
    assert "volume_cm3" not in told["lines"][0]
    [event] = given().when(command).events
    assert not (new | {"volume_cm3", "split_from"}) & event.model_dump(mode="json").keys()


RECIPIENT = {"person_id": "P-1", "name": "Ada Example"}


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"destination": BERLIN, "recipient": RECIPIENT}, "destination", "2 decimal places"),
        ({"destination": BERLIN | {"latitude": 91}}, "destination.latitude", "less than or equal"),
        ({"destination": BERLIN | {"longitude": "NaN"}}, "destination.longitude", "finite"),
        ({"delivery_window": {**WINDOW, "ends_at": WINDOW["starts_at"]}}, "ends_at", "after"),
        ({"service_s": -1}, "service_s", "greater than or equal to 0"),
        ({"service_s": 86_401}, "service_s", "less than or equal to 86400"),
        ({"check_references": "perhaps"}, "check_references", "valid boolean"),
        ({"lines": [PLACE["lines"][0] | {"volume_cm3": -1}]}, "lines.0.volume_cm3", "greater"),
    ],
)
def test_a_wrong_field_of_a_new_order_is_named(
    fields: dict[str, Any], field: str, rule: str
) -> None:
    told = problems(PlaceOrder, **(PLACE | fields))
    assert field in told
    assert rule in told


def test_a_district_is_no_home() -> None:
    district = {"latitude": 52.52, "longitude": 13.4}
    assert problems(PlaceOrder, **PLACE, destination=district, recipient=RECIPIENT) == ""


@pytest.mark.parametrize(
    ("kind", "fields", "field", "rule"),
    [
        (ShipPart, {"shipment_id": "P", "shipped_at": None, "lines": []}, "lines", "at least 1"),
        (
            ShipPart,
            {
                "shipment_id": "P",
                "shipped_at": None,
                "lines": [{"line_no": 1, "quantity": "1"}] * 2,
            },
            "lines",
            "line_no must be unique",
        ),
        (
            CancelLines,
            {"reason": "x", "cancelled_at": None, "lines": [{"line_no": 1, "quantity": "0"}]},
            "lines.0.quantity",
            "greater than 0",
        ),
        (
            SplitOrder,
            {
                "new_order_id": "O-1",
                "split_at": None,
                "lines": [{"line_no": 1, "quantity": "1"}],
            },
            "new_order_id",
            "another order",
        ),
        (
            DeliverShipment,
            {"shipment_id": "1", "delivered_at": None, "proof": {"kind": "oath", "sha256": "0"}},
            "proof.kind",
            "'signature', 'photo' or 'code'",
        ),
        (
            DeliverShipment,
            {"shipment_id": "1", "delivered_at": None, "proof": {"kind": "code", "sha256": "0"}},
            "proof.sha256",
            "match pattern",
        ),
        (RepromiseOrder, {"reason": "x", "repromised_at": None}, "promised_at", "Field required"),
        (
            ReturnOrder,
            {
                "return_id": "R",
                "lines": [{"line_no": 1, "quantity": "1"}],
                "site_id": "S",
                "reason": "",
                "returned_at": None,
            },
            "reason",
            "at least 1 character",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    kind: type[Command], fields: dict[str, Any], field: str, rule: str
) -> None:
    told = problems(kind, order_id="O-1", **fields)
    assert field in told
    assert rule in told


CHECKED = PlaceOrder(**PLACE, check_references=True)
[client_known] = (
    given()
    .when(RegisterClient(client_id="C-1", name="Shop", currency="EUR", registered_at=None))
    .events
)
[product_known] = given().when(RegisterProduct(sku="A", name="Bolt", registered_at=None)).events
[client_gone] = (
    given(client_known).when(RetireClient(client_id="C-1", reason="x", retired_at=None)).events
)
[product_gone] = (
    given(product_known).when(RetireProduct(sku="A", reason="x", retired_at=None)).events
)


def test_references_are_looked_at_where_that_is_asked_for() -> None:
    assert given().reading(client_known, product_known).when(CHECKED).refusal is None
    assert given().when(PlaceOrder(**PLACE)).refusal is None


@pytest.mark.parametrize(
    ("read", "code"),
    [
        ([product_known], "client.unknown"),
        ([client_known], "product.unknown"),
        ([client_known, client_gone, product_known], "client.retired"),
        ([client_known, product_known, product_gone], "product.retired"),
    ],
)
def test_a_reference_to_nothing_is_refused(read: list[Any], code: str) -> None:
    field = "customer_id" if code.startswith("client") else "lines.0.sku"
    given().reading(*read).when(CHECKED).refused(code, field=field)


def test_a_quantity_fits_the_steps_of_its_product() -> None:
    halves = CHECKED.model_copy(
        update={"lines": (CHECKED.lines[0].model_copy(update={"quantity": Decimal("2.5")}),)}
    )
    given().reading(client_known, product_known).when(halves).refused(
        "order.quantity_not_in_steps", line_no=1, sku="A", quantity="2.5", step="1"
    )


BY_WEIGHT: dict[str, Any] = {"unit": "KGM", "quantity_step": Decimal("0.5"), "registered_at": None}
[weighed] = given().when(RegisterProduct(sku="A", name="Nails", **BY_WEIGHT)).events
[checked] = given().reading(client_known, product_known).when(CHECKED).events
[checked_halves] = given().reading(client_known, weighed).when(CHECKED).events


def test_an_order_that_was_checked_knows_its_steps() -> None:
    assert isinstance(checked, OrderPlaced)
    assert checked.terms == (LineTerms(line_no=1, step=Decimal(1)),)
    [unchecked] = given().when(PlaceOrder(**PLACE)).events
    assert b"terms" not in catalogue.encode(unchecked)[1]


@pytest.mark.parametrize("step", ["1", "0.5"])
@pytest.mark.parametrize("kind", [ShipPart, CancelLines, SplitOrder, ReturnOrder])
def test_parts_fit_the_steps_as_well(kind: type[Command], step: str) -> None:
    history = [checked if step == "1" else checked_halves]
    if kind is ShipPart:
        history.append(allocated_alone)
    if kind is ReturnOrder:
        history += [allocated_alone, *plain[2:], changed(handed(1), parts=None)]
    quantity = Decimal(step) * Decimal("0.6")
    fields: dict[str, Any] = {
        ShipPart: {"shipment_id": "P-1", "shipped_at": AT},
        CancelLines: {"reason": "x", "cancelled_at": AT},
        SplitOrder: {"new_order_id": "O-2", "split_at": NOON},
        ReturnOrder: {
            "return_id": "R-1",
            "reason": "x",
            "site_id": "S-1",
            "returned_at": NOON,
        },
    }[kind]

    def some(quantity: Decimal) -> Any:
        lines = (LineQuantity(line_no=1, quantity=quantity),)
        return (
            given(*history)
            .reading(opened)
            .when(kind(**{"order_id": "O-1", "lines": lines} | fields))
        )

    some(quantity).refused("order.quantity_not_in_steps", line_no=1, sku="A", step=step)
    assert some(Decimal(step)).refusal is None


def test_no_broken_piece_is_put_aside_or_picked() -> None:
    two_and_a_half = changed(came("A", 2), quantity=Decimal("2.5"))
    outcome = (
        given(checked, allocated_alone)
        .reading(opened, two_and_a_half)
        .when(ReserveOrder(order_id="O-1", reserved_at=NOON))
    )
    ten = checked.lines[0].quantity  # type: ignore[attr-defined]
    assert outcome.events == (aside("A", 2), kept(part(1, 2, 2)), waits(1, int(ten) - 2))
    broken = PickStock(
        site_id="S-1", sku="A", quantity=Decimal("0.3"), order_id="O-1", picked_at=NOON
    )
    known = given(two_and_a_half, aside("A", 2)).reading(
        opened, checked, allocated_alone, *outcome.events[1:]
    )
    known.when(broken).refused("order.quantity_not_in_steps", line_no=1, step="1")


# vehicles


@pytest.mark.parametrize(
    ("limits", "field"),
    [({"max_weight_g": 2399}, "weight_g"), ({"max_volume_cm3": 499}, "volume_cm3")],
)
def test_a_vehicle_is_not_given_more_than_it_carries(limits: dict[str, int], field: str) -> None:
    order = changed(placed, lines=(placed.lines[0], changed(placed.lines[1], volume_cm3=0)))

    def asked_of(order: OrderPlaced, **limits: Any) -> Any:
        [van] = (
            given()
            .reading(opened)
            .when(
                RegisterVehicle(
                    vehicle_id="V-1",
                    site_id="S-1",
                    mode="van",
                    service_levels=("standard",),
                    registered_at=NOON,
                    **limits,
                )
            )
            .events
        )
        by_van = AllocateOrder(order_id="O-1", site_id="S-1", vehicle_id="V-1", allocated_at=NOON)
        return given(order).reading(opened, van).when(by_van)

    asked_of(order, **limits).refused("vehicle.overloaded", field=field, vehicle_id="V-1")
    enough = {name: most + 1 for name, most in limits.items()}
    assert asked_of(order, **enough).refusal is None
    unknown = changed(order, lines=tuple(changed(one, **{field: None}) for one in order.lines))
    assert asked_of(unknown, **limits).refusal is None
