"""Imports of entities by CSV: dry runs, row by row errors, and what the log holds afterwards."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from api.imports import MOST_ERRORS
from domain.access import Role
from tests.serving import NO_TLS, Served, assert_problem, found, get, serving_here, until

SITES = """site_id,name,region,kind,latitude,longitude,daily_capacity,service_level,level_cost_minor
S-1,Amsterdam,NL,warehouse,52.37,4.89,200,standard,490
S-1,Amsterdam,NL,warehouse,52.37,4.89,200,express,990
S-2,Berlin,DE-BE,store,52.52,13.40,,standard,
"""
PRODUCTS = """sku,name,unit,weight_g,price_minor,currency,un_number,hazard_class
A-1,Apple juice,C62,1100,250,EUR,,
A-2,Lamp oil,LTR,800,900,EUR,UN1993,3
"""
#: For each entity a file, and what is in it.
FILES = {
    "sites": SITES,
    "products": PRODUCTS,
    "clients": "client_id,name,currency,default_site_id,opening_hours\n"
    "C-1,Bakery North,EUR,S-1,Europe/Berlin; Mo-Fr 05:00-12:00; Sa 06:00-11:00\n"
    "C-2,Kiosk,EUR,,\n",
    "vehicles": "vehicle_id,site_id,mode,service_levels,max_weight_g,vehicle_class\n"
    "V-1,S-1,van,standard;express,800000,N1\nV-2,S-2,truck,standard,,\n",
    "stock": "site_id,sku,reorder_point,on_hand,bin\nS-1,A-1,10,120,A-1\nS-2,A-1,,,\n",
    "assignments": "assignment_id,vehicle_id,site_id,starts_at,ends_at,assigned_at\n"
    "AS-1,V-1,S-1,2026-03-02T06:00:00Z,2026-03-02T14:00:00Z,2026-03-01T10:00:00Z\n"
    "AS-2,V-1,S-1,2026-03-02T14:00:00Z,2026-03-02T20:00:00Z,2026-03-01T10:00:00Z\n",
    "orders": "order_id,customer_id,currency,region,placed_at,promised_at,line_no,sku,quantity,"
    "unit_price,weight_g,latitude,longitude,window_starts_at,window_ends_at\n"
    "O-1,C-1,EUR,NL,2026-03-01T10:00:00Z,2026-03-03T10:00:00Z,1,A-1,2,2.50,1100,52.4,4.9,"
    "2026-03-03T07:00:00Z,2026-03-03T09:00:00Z\n",
}
LISTS = {
    "sites": ("/sites", 2),
    "products": ("/products", 2),
    "clients": ("/clients", 2),
    "vehicles": ("/vehicles", 2),
    "stock": ("/stock-keeping", 2),
    "assignments": ("/assignments", 2),
    "orders": ("/orders", 1),
}


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    """A planner's client of an organisation into which everything was imported."""
    with served.client(Role.ADMIN, organisation_id=uuid4()) as client:
        for entity, text in FILES.items():
            sent(client, entity, text)
        yield client


def put(client: httpx.Client, entity: str, text: str, *, dry_run: bool = False) -> httpx.Response:
    return client.post(
        f"/imports/{entity}",
        content=text.encode(),
        headers={"Content-Type": "text/csv"},
        params={"dry_run": str(dry_run).lower()} if dry_run else {},
    )


def sent(client: httpx.Client, entity: str, text: str, *, dry_run: bool = False) -> dict[str, Any]:
    told: dict[str, Any] = found(put(client, entity, text, dry_run=dry_run))
    return told


def events_of(database: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT count(*) FROM events").fetchone()
    assert row is not None
    return int(row[0])


def test_a_dry_run_says_what_the_import_then_does(served: Served, database: str) -> None:
    with served.client(Role.ADMIN, organisation_id=uuid4()) as client:
        for entity, text in FILES.items():
            before = events_of(database)
            rehearsed = sent(client, entity, text, dry_run=True)
            assert events_of(database) == before
            done = sent(client, entity, text)
            assert done.pop("dry_run") is False
            assert rehearsed.pop("dry_run") is True
            assert rehearsed == done
            assert done["errors"] == []
            assert events_of(database) - before >= done["accepted"] > 0
            again = sent(client, entity, text)
            assert again["accepted"] == 0
            assert again["known_before"] == done["accepted"]
            assert sent(client, entity, text, dry_run=True)["known_before"] == done["accepted"]


def test_what_was_imported_is_listed(client: httpx.Client) -> None:
    for entity, (path, count) in LISTS.items():
        rows = until(lambda path=path, count=count: _rows(client, path, count))  # type: ignore[misc]
        assert len(rows) == count, entity
    site = get(client, "/sites/S-1")
    assert {level["code"]: level["cost_minor"] for level in site["service_levels"]} == {
        "standard": 490,
        "express": 990,
    }
    assert site["location"] == {"latitude": 52.37, "longitude": 4.89}
    assert get(client, "/products/A-2")["hazard"]["un_number"] == "UN1993"
    placed = get(client, "/orders/O-1")["placed"]
    assert placed["destination"] == {"latitude": 52.4, "longitude": 4.9}
    assert placed["delivery_window"]["ends_at"] == "2026-03-03T09:00:00Z"
    assert placed["lines"][0]["weight_g"] == 1100


def _rows(client: httpx.Client, path: str, count: int) -> list[dict[str, Any]] | None:
    rows: list[dict[str, Any]] = get(client, path)["items"]
    return rows if len(rows) >= count else None


@pytest.mark.parametrize("dry_run", [True, False])
def test_each_broken_row_is_told_and_the_rest_goes_in(
    served: Served, client: httpx.Client, dry_run: bool
) -> None:
    mark = "D" if dry_run else "R"
    text = (
        "sku,name,unit,weight_g,gtin,price_minor,currency\n"
        f"{mark}-1,Good,,,,,\n"
        f"{mark}-2,,,,,,\n"
        f"{mark} 3,A blank in the SKU,,,,,\n"
        f"{mark}-4,No such unit,parsec,,,,\n"
        f"{mark}-5,Heavy as air,,-5,,,\n"
        f"{mark}-6,A wrong digit,,,4006381333930,,\n"
        f"{mark}-7,No such currency,,,,100,XXX\n"
        f"{mark}-1,Twice,,,,,\n"
        f"{mark}-8,Also good,,,,,\n"
    )
    told = sent(client, "products", text, dry_run=dry_run)
    assert (told["rows"], told["accepted"], told["rejected"]) == (9, 2, 7)
    by_line = {error["line"]: error for error in told["errors"]}
    assert sorted(by_line) == [3, 4, 5, 6, 7, 8, 9]
    assert [by_line[n]["column"] for n in sorted(by_line)][:6] == [
        *("name", "sku", "unit", "weight_g", "gtin", "currency")
    ]
    assert by_line[7]["value"] == "4006381333930"
    assert "1" in by_line[7]["reason"]  # the digit that would be right
    assert by_line[9]["rule"] == "duplicate"
    # As somebody reads the file, whatever was looked at first; and in our words only.
    lines = [error["line"] for error in told["errors"]]
    assert lines == sorted(lines)
    assert not any("Value error" in error["reason"] for error in told["errors"])


@pytest.mark.parametrize("dry_run", [True, False])
def test_rules_see_what_the_rows_before_left(client: httpx.Client, dry_run: bool) -> None:
    day = "2026-04-01" if dry_run else "2026-04-02"
    mark = "D" if dry_run else "R"
    text = (
        "assignment_id,vehicle_id,site_id,starts_at,ends_at,assigned_at\n"
        f"{mark}-1,V-1,S-1,{day}T06:00:00Z,{day}T14:00:00Z,2026-03-01T10:00:00Z\n"
        f"{mark}-2,V-1,S-1,{day}T13:00:00Z,{day}T15:00:00Z,2026-03-01T10:00:00Z\n"
        f"{mark}-3,V-404,S-1,{day}T13:00:00Z,{day}T15:00:00Z,2026-03-01T10:00:00Z\n"
    )
    told = sent(client, "assignments", text, dry_run=dry_run)
    assert told["accepted"] == 1
    rules = {error["line"]: error["rule"] for error in told["errors"]}
    assert set(rules) == {3, 4}
    assert rules[3].startswith("assignment.")
    assert rules[4] == "vehicle.unknown"


def test_a_row_that_was_changed_is_told(client: httpx.Client) -> None:
    other = PRODUCTS.replace("Apple juice", "Pear juice")
    told = sent(client, "products", other)
    assert (told["accepted"], told["known_before"], told["rejected"]) == (0, 1, 1)
    assert [(one["line"], one["rule"]) for one in told["errors"]] == [(2, "command.reused")]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("\n", "empty"),
        ("sku\nA-1\n", "missing_columns"),
        ("sku;name\nA-1;Juice\n", "delimiter"),
        ("sku,name,sku\nA,B,C\n", "duplicate_columns"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_as_a_whole(
    client: httpx.Client, text: str, rule: str
) -> None:
    body = assert_problem(put(client, "products", text), 422, "import.file_unusable")
    assert body["context"]["rule"] == rule if "context" in body else rule in body["detail"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_of_another_encoding_is_told_as_such(client: httpx.Client, encoding: str) -> None:
    body = PRODUCTS.encode(encoding)
    answer = client.post("/imports/products", content=body, headers={"Content-Type": "text/csv"})
    detail = assert_problem(answer, 422, "import.file_unusable")["detail"]
    assert encoding[:6].upper() in detail
    assert "UTF-8 is expected" in detail
    assert "JSON" not in detail


def test_brackets_of_a_table_are_no_levels_of_json(client: httpx.Client) -> None:
    text = "sku,name\nBR-1," + "[" * 40 + "\n"
    assert sent(client, "products", text)["accepted"] == 1


def test_a_table_is_no_way_round_for_json(client: httpx.Client) -> None:
    deep = b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"
    answer = client.post("/products", content=deep, headers={"Content-Type": "text/csv"})
    assert_problem(answer, 415, "unsupported-media-type")


def test_bad_requests_are_named(client: httpx.Client, served: Served) -> None:
    assert_problem(put(client, "planets", "a\n"), 422, "invalid")
    wrong = client.post("/imports/products", json={"sku": "A"})
    assert_problem(wrong, 415, "unsupported-media-type")
    assert_problem(put(client, "products", ""), 400)
    with served.client(Role.VIEWER) as viewer:
        assert_problem(put(viewer, "products", PRODUCTS), 403, "forbidden")
        assert_problem(viewer.get("/imports"), 403, "forbidden")


def test_a_key_imports_what_its_scopes_allow(client: httpx.Client, served: Served) -> None:
    scopes = ["imports.run", "RegisterProduct"]
    issue = {"name": "products only", "roles": ["service"], "scopes": scopes}
    issued = client.post("/organisation/api-keys", json=issue)
    assert issued.status_code == 201, issued.text
    key = issued.json()["key"]
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(
        verify=NO_TLS, base_url=str(client.base_url), headers=headers, timeout=60
    ) as service:
        text = "client_id,name,currency\nC-77,Not allowed,EUR\n"
        told = sent(service, "clients", text)
        assert told["accepted"] == 0
        assert told["errors"][0]["rule"] == "command.forbidden"
        assert sent(service, "products", "sku,name\nK-1,By key\n")["accepted"] == 1


def test_a_template_has_the_columns_that_are_listed(client: httpx.Client) -> None:
    for one in get(client, "/imports")["items"]:
        answer = client.get(f"/imports/{one['entity']}/template.csv")
        [head] = list(csv.reader(io.StringIO(answer.text)))
        assert head == [column["name"] for column in one["columns"]]
        needed = {column["name"] for column in one["columns"] if column["required"]}
        assert needed <= set(FILES[one["entity"]].partition("\n")[0].split(","))


def test_more_errors_than_are_told_are_counted(client: httpx.Client) -> None:
    text = "sku,name\n" + "".join(f"bad sku {n},x\n" for n in range(MOST_ERRORS + 5))
    told = sent(client, "products", text, dry_run=True)
    assert len(told["errors"]) == MOST_ERRORS
    assert told["errors_left_out"] == 5
