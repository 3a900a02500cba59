"""The Python client, generated from the document, against a real server: an order's life."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from api.openapi import text_of
from chainlytics.cli.openapi import document
from clients.making import python_client
from domain.access import Role
from tests.serving import Served, bearer, serving_here


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (here, _):
        yield here


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("clients")
    file = folder / "openapi.json"
    file.write_text(text_of(document()), encoding="utf-8")
    made: Path = python_client(file, folder)
    sys.path.insert(0, str(made.parent))
    try:
        yield importlib.import_module(made.name)
    finally:
        sys.path.remove(str(made.parent))
        for name in [one for one in sys.modules if one.split(".")[0] == made.name]:
            del sys.modules[name]


@pytest.fixture
def client(package: ModuleType, served: Served) -> Iterator[Any]:
    with package.AuthenticatedClient(base_url=served.url, token=bearer(Role.ADMIN)) as client:
        yield client


def part(package: ModuleType, name: str) -> Any:
    """A module of the client, as ``api.orders.place_order``."""
    return importlib.import_module(f"{package.__name__}.{name}")


def order(package: ModuleType, order_id: str, **more: Any) -> Any:
    models = part(package, "models")
    line = models.OrderLine(line_no=1, sku="SKU-1", quantity="2", unit_price_minor=1999)
    return models.PlaceOrderBody(
        order_id=order_id,
        customer_id="C-1",
        currency="EUR",
        lines=[line],
        promised_at=datetime(2099, 1, 1, tzinfo=UTC),
        **more,
    )


def test_an_order_is_placed_waited_for_and_read(package: ModuleType, client: Any) -> None:
    models = part(package, "models")
    place = part(package, "api.orders.place_order")
    accepted = place.sync(client=client, body=order(package, "O-1"), idempotency_key="first")
    assert isinstance(accepted, models.Accepted)
    assert (accepted.id, accepted.version, accepted.repeated) == ("O-1", 1, False)

    get = part(package, "api.orders.get_order")
    answer = get.sync_detailed("O-1", client=client, min_position=accepted.position)
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"1"')
    found = answer.parsed
    assert isinstance(found, models.OrderDetail)
    assert (found.status, found.goods_minor, found.currency) == ("placed", 3998, "EUR")
    assert found.promised_at == datetime(2099, 1, 1, tzinfo=UTC)

    again = place.sync(client=client, body=order(package, "O-1"), idempotency_key="first")
    assert isinstance(again, models.Accepted)
    assert (again.position, again.repeated) == (accepted.position, True)


def test_what_is_refused_is_a_problem(package: ModuleType, client: Any) -> None:
    models = part(package, "models")
    place = part(package, "api.orders.place_order")
    cancel = part(package, "api.orders.cancel_order")
    accepted = place.sync(client=client, body=order(package, "O-2"))
    assert isinstance(accepted, models.Accepted)

    refused = place.sync_detailed(client=client, body=order(package, "O-2"))
    assert refused.status_code == 409
    assert isinstance(refused.parsed, models.Problem)
    assert refused.parsed.type_ == "urn:chainlytics:problem:order.already_placed"
    assert refused.parsed.correlation_id == refused.headers["X-Correlation-ID"]

    wrong = place.sync(client=client, body=order(package, "O 3"))
    assert isinstance(wrong, models.Problem)
    assert [(one.field, one.value) for one in wrong.errors] == [("body.order_id", "O 3")]

    body = models.CancelOrderBody(reason="changed mind")
    late = cancel.sync("O-2", client=client, body=body, if_match='"7"')
    assert isinstance(late, models.Problem)
    assert late.status == 412
    taken = cancel.sync("O-2", client=client, body=body, if_match='"1"')
    assert isinstance(taken, models.Accepted)
    assert taken.version == 2

    missing = part(package, "api.orders.get_order").sync("O-none", client=client)
    assert isinstance(missing, models.Problem)
    assert missing.status == 404


def test_all_pages_of_a_list(package: ModuleType, client: Any) -> None:
    models = part(package, "models")
    place = part(package, "api.orders.place_order")
    list_orders = part(package, "api.orders.list_orders")
    wanted = [f"P-{number}" for number in range(5)]
    position = 0
    for order_id in wanted:
        position = place.sync(client=client, body=order(package, order_id, region="PAGES")).position
    seen: list[str] = []
    more: dict[str, Any] = {"region": "PAGES", "limit": 2, "sort": "order_id"}
    while True:
        page = list_orders.sync(client=client, min_position=position, **more)
        assert isinstance(page, models.OrderSummaryPage), page
        seen += [one.order_id for one in page.items]
        if page.next_cursor is None:
            break
        more["cursor"] = page.next_cursor
    assert seen == wanted


async def _health(package: ModuleType, url: str) -> Any:
    async with package.Client(base_url=url) as client:
        return await part(package, "api.health.health").asyncio(client=client)


def test_it_is_asynchronous_too(package: ModuleType, served: Served) -> None:
    assert asyncio.run(_health(package, served.url)).status == "ok"


def test_without_a_token_there_is_nothing(package: ModuleType, served: Served) -> None:
    with package.AuthenticatedClient(base_url=served.url, token="none") as client:
        answer = part(package, "api.orders.list_orders").sync_detailed(client=client)
    assert answer.status_code == 401
    assert answer.parsed.type_ == "urn:chainlytics:problem:unauthenticated"
