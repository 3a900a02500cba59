"""Products, sites and stock keeping over HTTP: written, found, read back with their history."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from domain.access import Role
from tests.serving import Served, assert_problem, everything, found, get, post, serving_here

PAGE = Path(__file__).parents[1] / "docs" / "entities.md"
NOON = "2026-03-01T12:00:00Z"
BERLIN = {"latitude": 52.520008, "longitude": 13.404954}
POTSDAM = {"latitude": 52.390569, "longitude": 13.064473}
THINNER = {
    "sku": "SKU-1",
    "gtin": "4006381333931",
    "name": "Thinner 100%",
    "weight_g": 930,
    "hazard": {"un_number": "UN1263", "hazard_class": "3", "packing_group": "II"},
    "price_minor": 1290,
    "currency": "EUR",
    "pack_size": "12",
    "registered_at": NOON,
}


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """Somebody in an organisation of the test's own: its tables are empty."""
    with served.client(organisation_id=uuid4()) as client:
        yield client


def _curls(page: str) -> list[list[str]]:
    """The words of each curl command of a page."""
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = shlex.split("\n".join(blocks).replace("\\\n", " ").replace("\ncurl ", "\n;curl "))
    commands: list[list[str]] = []
    for word in lines:
        if word.removeprefix(";") == "curl":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def test_every_command_of_the_page_does_what_it_says(client: httpx.Client) -> None:
    commands = _curls(PAGE.read_text(encoding="utf-8"))
    assert len(commands) > 20
    position = 0
    for words in commands:
        [path] = (word for word in words if word.startswith("$API"))
        path = path.removeprefix("$API")
        if "-d" in words:
            body = json.loads(words[words.index("-d") + 1])
            position = post(client, path, body).get("position", position)
        else:
            answer = client.get(path, headers={"X-Min-Position": str(position)})
            # A list that finds nothing would tell of a filter that is wrong.
            assert found(answer).get("items") != [], path


def _ids(client: httpx.Client, path: str, name: str, position: int, **query: Any) -> list[str]:
    rows = everything(client, path, limit=1, min_position=position, **query)
    return [row[name] for row in rows]


def _history(client: httpx.Client, path: str, **query: Any) -> list[tuple[str, str]]:
    page = get(client, f"{path}/history", **query)
    return [(entry["what"], entry["sentence"]) for entry in page["items"]]


def test_the_life_of_a_product(client: httpx.Client) -> None:
    post(client, "/products", THINNER)
    answer = client.post("/products/SKU-1/change", json={"price_minor": 1390, "clear": ["gtin"]})
    position = found(answer)["position"]
    read = client.get("/products/SKU-1", params={"min_position": position})
    product = found(read)
    assert read.headers["etag"] == answer.headers["etag"] == '"2"'
    assert product == {
        "sku": "SKU-1",
        "version": 2,
        "gtin": None,
        "name": "Thinner 100%",
        "unit": "C62",
        "quantity_step": "1",
        "weight_g": 930,
        "volume_cm3": None,
        "shelf_life_days": None,
        "hazard": {
            "un_number": "UN1263",
            "hazard_class": "3",
            "packing_group": "II",
            "tunnel_code": None,
        },
        "hazard_class": "3",
        "price_minor": 1390,
        "cost_minor": None,
        "currency": "EUR",
        "lead_days": None,
        "pack_size": "12",
        "retired": False,
        "registered_at": NOON,
        "retired_at": None,
        "retire_reason": None,
        "last_position": position,
    }
    position = post(client, "/products/SKU-1/retire", {"reason": "given up"})["position"]
    product = get(client, "/products/SKU-1", min_position=position)
    assert (product["retired"], product["retire_reason"]) == (True, "given up")
    position = post(client, "/products/SKU-1/reinstate", {})["position"]
    product = get(client, "/products/SKU-1", min_position=position)
    assert (product["retired"], product["retired_at"]) == (False, None)
    assert _history(client, "/products/SKU-1") == [
        ("ProductRegistered", "Product SKU-1 was registered: Thinner 100%, by C62"),
        ("ProductChanged", "Product SKU-1 was changed: gtin, price_minor"),
        ("ProductRetired", "Product SKU-1 was retired: given up"),
        ("ProductReinstated", "Product SKU-1 came back into the range"),
    ]


def test_a_history_is_read_page_by_page_and_as_of_then(client: httpx.Client) -> None:
    position = post(client, "/products", THINNER)["position"]
    for price in (1, 2, 3):
        post(client, "/products/SKU-1/change", {"price_minor": price})
    whole = get(client, "/products/SKU-1/history")["items"]
    assert everything(client, "/products/SKU-1/history", limit=1) == whole
    assert everything(client, "/products/SKU-1/history", limit=3) == whole
    assert [entry["version"] for entry in whole] == [1, 2, 3, 4]
    assert [entry["data"]["price_minor"] for entry in whole] == [1290, 1, 2, 3]
    assert {entry["actor"] for entry in whole} == {"tester"}
    # The answer is there at once, and then it is that of then.
    assert get(client, "/products/SKU-1/history", as_of=position)["items"] == whole[:1]
    then = get(client, "/products/SKU-1", as_of=position)
    assert (then["version"], then["gtin"], then["price_minor"]) == (1, THINNER["gtin"], 1290)
    for cursor in ("x", "WzEuNV0", "Wy0xXQ", "Wzk5OTk5OTk5OTld"):
        answer = client.get("/products/SKU-1/history", params={"cursor": cursor})
        assert_problem(answer, 422, "bad-cursor")
    answer = client.get("/products/SKU-1/history", params={"effective_at": NOON})
    assert_problem(answer, 422, "no-effective-time")


def test_products_are_found(client: httpx.Client) -> None:
    post(client, "/products", THINNER)
    post(client, "/products", {"sku": "OIL_1", "name": "Olive oil", "unit": "LTR"})
    post(client, "/products", {"sku": "OIL-2", "name": "Engine oil", "weight_g": 5000})
    position = post(client, "/products/OIL-2/retire", {"reason": "old"})["position"]

    def skus(**query: Any) -> list[str]:
        return _ids(client, "/products", "sku", position, **query)

    assert skus() == ["OIL-2", "OIL_1", "SKU-1"]
    assert skus(sort="-name") == ["SKU-1", "OIL_1", "OIL-2"]
    assert skus(sort="-weight_g,sku") == ["OIL_1", "OIL-2", "SKU-1"]  # null is the largest
    assert skus(sort="hazard_class") == ["SKU-1", "OIL-2", "OIL_1"]
    assert skus(retired=True) == ["OIL-2"]
    assert skus(unit="LTR") == ["OIL_1"]
    assert skus(hazardous=True) == ["SKU-1"]
    assert skus(search="OIL") == ["OIL-2", "OIL_1"]
    assert skus(search="oil_") == ["OIL_1"]  # not any character
    assert skus(search="100%") == ["SKU-1"]
    assert skus(search="40063813") == ["SKU-1"]
    page = get(client, "/products", fields="sku,retired", limit=1, min_position=position)
    assert page["items"] == [{"sku": "OIL-2", "retired": True}]
    assert_problem(client.get("/products", params={"unit": "KG"}), 422, "invalid")
    assert_problem(client.get("/products", params={"search": "a\0"}), 422, "invalid")
    assert_problem(client.get("/products", params={"sort": "price"}), 422, "bad-sort")


def test_bad_products_are_told_why(client: httpx.Client) -> None:
    answer = client.post("/products", json=THINNER | {"gtin": "4006381333932"})
    [error] = assert_problem(answer, 422, "invalid")["errors"]
    assert error["field"] == "body.gtin"
    assert "its check digit is 1" in error["rule"]
    assert error["value"] == "4006381333932"
    answer = client.post("/products", json=THINNER | {"currency": None})
    assert_problem(answer, 422, "product.currency_missing")
    answer = client.post("/products/SKU-9/change", json={"name": "x"})
    assert_problem(answer, 404, "product.unknown")
    post(client, "/products", THINNER)
    assert_problem(client.post("/products", json=THINNER), 409, "product.already_registered")
    for path in ("/products/SKU-9", "/products/SKU-9/history"):
        assert_problem(client.get(path), 404, "not-found")


def test_the_life_of_a_site(client: httpx.Client) -> None:
    hours = {
        "zone": "Europe/Berlin",
        "spans": [{"day": "monday", "opens": "06:00", "closes": "22:00"}],
    }
    more = {"kind": "store", "location": BERLIN, "opening_hours": hours, "docks": 2}
    post(client, "/sites", {"site_id": "S-1", "name": "Mitte", "daily_capacity": 9, **more})
    change = {"docks": 3, "capacity_weight_g": 10**9, "clear": ["opening_hours"]}
    position = post(client, "/sites/S-1/change", change)["position"]
    site = get(client, "/sites/S-1", min_position=position)
    assert (site["version"], site["kind"], site["location"]) == (2, "store", BERLIN)
    assert (site["docks"], site["opening_hours"], site["daily_capacity"]) == (3, None, 9)
    assert (site["capacity_weight_g"], site["capacity_volume_cm3"]) == (10**9, None)
    before = get(client, "/sites/S-1", as_of=position - 1)
    assert (before["docks"], before["opening_hours"]) == (2, hours)
    position = post(client, "/sites/S-1/close", {"reason": "flooded"})["position"]
    site = get(client, "/sites/S-1", min_position=position)
    assert (site["is_open"], site["close_reason"]) == (False, "flooded")
    assert_problem(client.post("/sites/S-1/change", json={"docks": 1}), 409, "site.closed")
    position = post(client, "/sites/S-1/reopen", {})["position"]
    site = get(client, "/sites/S-1", min_position=position)
    assert (site["is_open"], site["close_reason"], site["docks"]) == (True, None, 3)
    assert_problem(client.post("/sites/S-1/reopen", json={}), 409, "site.not_closed")
    assert _history(client, "/sites/S-1") == [
        ("SiteOpened", "Site S-1 was opened"),
        ("SiteChanged", "Site S-1 was changed: opening_hours, capacity_weight_g, docks"),
        ("SiteClosed", "Site S-1 was closed: flooded"),
        ("SiteReopened", "Site S-1 was opened again"),
    ]
    assert_problem(client.get("/sites/S-9/history"), 404, "not-found")


def test_sites_are_found(client: httpx.Client) -> None:
    post(client, "/sites", {"site_id": "S-BER", "name": "Berlin", "location": BERLIN})
    store = {"site_id": "S-POT", "name": "Potsdam", "kind": "store", "location": POTSDAM}
    post(client, "/sites", store)
    position = post(client, "/sites", {"site_id": "S-XX", "daily_capacity": 5})["position"]

    def ids(**query: Any) -> list[str]:
        return _ids(client, "/sites", "site_id", position, **query)

    assert ids() == ["S-BER", "S-POT", "S-XX"]
    assert ids(kind="warehouse") == ["S-BER", "S-XX"]
    assert ids(kind="store") == ["S-POT"]
    assert ids(search="POTS") == ["S-POT"]
    assert ids(search="s-") == ["S-BER", "S-POT", "S-XX"]
    assert ids(sort="-kind,site_id") == ["S-BER", "S-XX", "S-POT"]
    # 27.2 km lie between the two.
    assert ids(near="52.520008,13.404954,27") == ["S-BER"]
    assert ids(near="52.520008,13.404954,28") == ["S-BER", "S-POT"]
    assert ids(near="-52.5,13.4,0") == []
    for near in ("52.5,13.4", "95,0,1", "0,181,1", "0,0,-1", "0,0,30000", "a,b,c", "0,0,1e3"):
        answer = client.get("/sites", params={"near": near})
        [error] = assert_problem(answer, 422, "invalid")["errors"]
        assert (error["field"], error["value"]) == ("query.near", near)
    assert_problem(client.get("/sites", params={"kind": "shed"}), 422, "invalid")


def test_the_life_of_a_stock(client: httpx.Client) -> None:
    keeping = "/stock-keeping/S-1/SKU-1"
    levels = {"reorder_point": "20", "safety_stock": "8", "max_level": "120", "bin": "A-12-3"}
    assert_problem(client.post(keeping, json=levels), 404, "site.unknown")
    post(client, "/sites", {"site_id": "S-1"})
    assert_problem(client.post(keeping, json=levels), 404, "product.unknown")
    post(client, "/products", THINNER)
    answer = client.post(keeping, json=levels | {"safety_stock": "21"})
    assert_problem(answer, 422, "stock_keeping.safety_above_reorder_point")
    assert client.post(keeping, json=levels).status_code == 201
    position = post(client, "/stock/S-1/SKU-1/receive", {"quantity": "25"})["position"]
    kept = get(client, keeping, min_position=position)
    assert (kept["on_hand"], kept["available"], kept["to_reorder"]) == ("25.000", "25.000", False)
    position = post(client, f"{keeping}/change", {"reorder_point": "25", "clear": ["bin"]})[
        "position"
    ]
    answer = client.get(keeping, params={"min_position": position})
    kept = found(answer)
    assert (kept["reorder_point"], kept["bin"], kept["to_reorder"]) == ("25.000", None, True)
    # Its tag tells of the stock too: what was seen before the pick is not what is there now.
    position = post(client, "/stock/S-1/SKU-1/pick", {"quantity": "5"})["position"]
    tag = {"If-None-Match": answer.headers["etag"]}
    answer = client.get(keeping, params={"min_position": position}, headers=tag)
    assert found(answer)["on_hand"] == "20.000"
    assert_problem(
        client.post(f"{keeping}/end", json={"reason": "moved"}), 409, "stock_keeping.stock_left"
    )
    ended = {"reason": "moved", "despite_stock": True}
    position = post(client, f"{keeping}/end", ended)["position"]
    kept = get(client, keeping, min_position=position)
    assert (kept["kept"], kept["end_reason"], kept["to_reorder"]) == (False, "moved", False)
    assert [what for what, _ in _history(client, keeping)] == [
        "StockKeepingBegun",
        "StockKeepingChanged",
        "StockKeepingEnded",
    ]
    # The stock's own level and movements.
    stock = get(client, "/stock/S-1/SKU-1", min_position=position)
    assert (stock["on_hand"], stock["received"], stock["picked"]) == ("20.000", "25.000", "5.000")
    assert _history(client, "/stock/S-1/SKU-1") == [
        ("StockReceived", "Site S-1 received 25 of SKU-1"),
        ("StockPicked", "Site S-1 picked 5 of SKU-1"),
    ]
    for path in ("/stock/S-1/SKU-9", "/stock/S-1/SKU-9/history", "/stock-keeping/S-1/SKU-9"):
        assert_problem(client.get(path), 404, "not-found")
    assert_problem(client.get("/stock-keeping/S-1/SKU-9/history"), 404, "not-found")


def test_what_is_kept_is_found(client: httpx.Client) -> None:
    for site_id in ("S-1", "S-2"):
        post(client, "/sites", {"site_id": site_id})
    for sku in ("A", "B"):
        post(client, "/products", {"sku": sku, "name": sku})
    post(client, "/stock-keeping/S-1/A", {"bin": "SHELF-1"})
    post(client, "/stock-keeping/S-1/B", {"reorder_point": "3"})
    post(client, "/stock-keeping/S-2/B", {"reorder_point": "3"})
    post(client, "/stock/S-1/A/receive", {"quantity": "1"})
    post(client, "/stock/S-1/B/receive", {"quantity": "9"})
    position = post(client, "/stock-keeping/S-2/B/end", {"reason": "x"})["position"]

    def keys(**query: Any) -> list[str]:
        query |= {"min_position": position, "limit": 1}
        rows = everything(client, "/stock-keeping", **query)
        return [f"{row['site_id']}/{row['sku']}" for row in rows]

    assert keys() == ["S-1/A", "S-1/B", "S-2/B"]
    assert keys(sort="-on_hand") == ["S-1/B", "S-1/A", "S-2/B"]
    assert keys(sort="sku,-reorder_point") == ["S-1/A", "S-2/B", "S-1/B"]
    assert keys(site_id="S-1") == ["S-1/A", "S-1/B"]
    assert keys(sku="B", kept=True) == ["S-1/B"]
    assert keys(kept=False) == ["S-2/B"]
    assert keys(to_reorder=True) == []
    assert keys(search="shelf") == ["S-1/A"]
    picked = post(client, "/stock/S-1/B/pick", {"quantity": "6"})["position"]
    position = picked
    assert keys(to_reorder=True) == ["S-1/B"]
    page = get(client, "/stock-keeping", fields="sku,on_hand", search="b", as_of=picked - 1)
    assert page["items"] == [
        {"sku": "B", "on_hand": "9.000"},
        {"sku": "B", "on_hand": "0"},
    ]


def test_nobody_sees_the_history_of_others(served: Served, client: httpx.Client) -> None:
    post(client, "/products", THINNER)
    with served.client(organisation_id=uuid4()) as other:
        assert_problem(other.get("/products/SKU-1/history"), 404, "not-found")
        assert_problem(other.get("/products/SKU-1"), 404, "not-found")


def test_who_only_looks_does_not_change(served: Served) -> None:
    own = UUID(int=uuid4().int)
    with (
        served.client(organisation_id=own) as admin,
        served.client(Role.VIEWER, organisation_id=own) as viewer,
    ):
        post(admin, "/products", THINNER)
        get(viewer, "/products/SKU-1/history")
        for path in ("/products/SKU-1/change", "/sites/S-1/reopen", "/stock-keeping/S-1/SKU-1"):
            assert_problem(viewer.post(path, json={}), 403, "forbidden")
