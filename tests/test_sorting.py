"""Sorted lists: whatever the sort, pages one behind the other are the whole list in its order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cmp_to_key
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import class_row
from pydantic import BaseModel

from api.listing import PARTIAL_JSON
from domain.access import Role
from eventstore import prepare_database
from readmodels.page import BadCursor, encode, encode_sorted
from readmodels.sorting import MOST, BadSort, Column, Sorting
from tests.serving import (
    Served,
    accepted,
    assert_problem,
    everything,
    found,
    get,
    order,
    serving_here,
    until,
)

SORTING = Sorting(
    {
        "id": Column(str),
        "part": Column(int),
        "name": Column(str, nullable=True),
        "amount": Column(Decimal, nullable=True),
        "share": Column(float, nullable=True),
        "at": Column(datetime, nullable=True),
        "done": Column(bool),
    },
    usual="-at",
    key=("id", "part"),
)
START = datetime(2026, 1, 1, tzinfo=UTC)


class Line(BaseModel):
    """A row of the table that is sorted."""

    id: str
    part: int
    name: str | None
    amount: Decimal | None
    share: float | None
    at: datetime | None
    done: bool


def few(*values: Any) -> st.SearchStrategy[Any]:
    """So few values that many rows are alike."""
    return st.sampled_from(values)


LINES = st.lists(
    st.builds(
        Line,
        id=few("a", "B", "b", "ä", "a-1", "a 1"),
        part=st.integers(-2, 2),
        name=few(None, "", "x", "Y", "y", "x y"),
        amount=few(None, Decimal(0), Decimal("0.001"), Decimal(-5), Decimal("100000000000.5")),
        share=few(None, 0.1, 0.30000000000000004, -1e-300, 1e300),
        at=few(None, START, START + timedelta(microseconds=1), START + timedelta(days=1)),
        done=st.booleans(),
    ),
    max_size=25,
    unique_by=lambda line: (line.id, line.part),
)
SORTS = st.lists(
    st.sampled_from(sorted(SORTING.columns)), min_size=1, max_size=MOST, unique=True
).flatmap(
    lambda names: st.tuples(*[few("", "-") for _ in names]).map(
        lambda signs: ",".join(sign + name for sign, name in zip(signs, names, strict=True))
    )
)


@pytest.fixture(scope="module")
def connection(database: str) -> Iterator[psycopg.Connection[Any]]:
    prepare_database(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            """CREATE TEMPORARY TABLE lines (id text, part bigint, name text, amount numeric,
            share float8, at timestamptz, done bool)"""
        )
        yield connection


def pages(
    connection: psycopg.Connection[Any], sort: str | None, limit: int
) -> Iterator[tuple[Line, ...]]:
    """Every page of the table, as a query of a read model gives it."""
    cursor: str | None = None
    while True:
        by = SORTING.by(sort, cursor)
        with connection.cursor(row_factory=class_row(Line)) as asked:
            query = f"SELECT * FROM lines WHERE true{by.sql}"
            asked.execute(query.encode(), {"limit": limit + 1, **by.parameters})
            page = by.page(asked.fetchall(), limit)
        yield page.items
        if page.next_cursor is None:
            return
        assert len(page.items) == limit
        cursor = page.next_cursor


def fill(connection: psycopg.Connection[Any], lines: list[Line]) -> None:
    """Have these rows and no others."""
    connection.execute("TRUNCATE lines")
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO lines VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [tuple(line.model_dump().values()) for line in lines],
        )


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lines=LINES, sort=st.none() | SORTS, limit=st.integers(1, 7))
def test_the_pages_are_the_whole_list_in_its_order(
    connection: psycopg.Connection[Any], lines: list[Line], sort: str | None, limit: int
) -> None:
    fill(connection, lines)
    walked = [line for page in pages(connection, sort, limit) for line in page]
    keys = [(line.id, line.part) for line in walked]
    assert len(set(keys)) == len(keys) == len(lines)
    [whole] = pages(connection, sort, 500)
    assert tuple(walked) == whole
    # Postgres says how texts compare; all else is compared here.
    names = [name.removeprefix("-") for name in (sort or SORTING.usual).split(",")]
    if not {"id", "name"} & set(names):
        parts = [(name.removeprefix("-"), name[0] == "-") for name in (sort or "-at").split(",")]
        before = cmp_to_key(_comparison(parts))
        assert [before(line) for line in walked] == sorted(before(line) for line in walked)


def _comparison(parts: list[tuple[str, bool]]) -> Callable[[Line, Line], int]:
    """Which of two rows comes first; null is the largest."""

    def compare(one: Line, other: Line) -> int:
        for name, down in parts:
            left, right = getattr(one, name), getattr(other, name)
            if left == right:
                continue
            less = left is not None and (right is None or left < right)
            return 1 if less == down else -1
        return 0

    return compare


@pytest.mark.parametrize(
    "sort", ["", ",", "nothing", "id;", "id DESC", "--id", "id,id", "id,-id", "part,id,at,done"]
)
def test_a_sort_that_there_is_not_is_refused(sort: str) -> None:
    with pytest.raises(BadSort):
        SORTING.by(sort, None)


@pytest.mark.parametrize(
    "cursor",
    [
        encode(["2026-01-01T00:00:00+00:00", "a", 1]),  # of the usual sort
        encode_sorted("-name,-id,-part", ["x", "a", 1]),  # the other way round
        encode_sorted("name,id,part", ["x", "a"]),
        encode_sorted("name,id,part", ["x", None, 1]),
        encode_sorted("name,id,part", [7, "a", 1]),
        encode_sorted("name,id,part", ["x", "a", True]),
        encode_sorted("name,id,part", ["\0", "a", 1]),
        "e30",
        "x",
    ],
)
def test_a_cursor_belongs_to_its_sort(cursor: str) -> None:
    with pytest.raises(BadCursor):
        SORTING.by("name", cursor)
    with pytest.raises(BadCursor):
        SORTING.by(None, encode_sorted("name,id,part", ["x", "a", 1]))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "x", "9" * 70])
def test_a_cursors_number_is_one(number: str) -> None:
    with pytest.raises(BadCursor):
        SORTING.by("amount", encode_sorted("amount,id,part", [number, "a", 1]))


# Over HTTP


@pytest.fixture(scope="module")
def client(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    mine = uuid4()
    with (
        serving_here(database, tmp_path_factory.mktemp("home")) as (served, _),
        served.client(Role.ADMIN, Role.SERVICE, organisation_id=mine) as client,
    ):
        last = _filled(client)
        found(client.get("/orders", params={"min_position": last}))
        yield client


def _filled(client: httpx.Client) -> int:
    last = 0
    for number in range(12):
        site = f"S-{number % 3}"
        if number < 3:
            accepted(client.post("/sites", json={"site_id": site, "region": f"R-{number % 2}"}))
            vehicle: dict[str, Any] = {"vehicle_id": f"V-{number}", "site_id": site, "mode": "van"}
            vehicle["service_levels"] = ["standard"]
            accepted(client.post("/vehicles", json=vehicle))
            route = {"site_id": site, "region": f"R-{number}", "reason": "x"}
            accepted(client.post("/routes/forbid", json=route))
        [line] = order("O")["lines"]
        placed = order(
            f"O-{number:02}",
            lines=[line | {"unit_price_minor": 100 * (number % 4)}],
            placed_at=f"2026-01-{number + 1:02}T00:00:00Z",
            promised_at=f"2026-03-{20 - number:02}T00:00:00Z",
        )
        accepted(client.post("/orders", json=placed))
        accepted(client.post(f"/stock/{site}/SKU-{number}/receive", json={"quantity": number + 1}))
        decision = {"decision_id": f"D-{number}", "subject_id": f"O-{number:02}"}
        last = accepted(client.post("/decisions", json=decision | {"priority": number % 3}))[
            "position"
        ]
    for number in range(5):
        work = {"decision_ids": [f"D-{number}"], "priority": 1 + number % 3}
        asked = client.post("/tasks/replay", json=work | {"task_id": f"T-{number}"})
        assert asked.status_code == 202, asked.text
        hook = {"webhook_id": f"W-{number}", "url": "https://93.184.216.34/"}
        last = accepted(client.post("/webhooks", json=hook | {"events": ["PersonErased"]}))[
            "position"
        ]
    ends = {"completed", "failed"}
    until(lambda: {one["state"] for one in get(client, "/tasks")["items"]} <= ends or None)
    return last


LISTS = {
    "/orders": ("goods_minor", "-promised_at", "delivered_at,goods_minor", "site_id,-order_id"),
    "/sites": ("-site_id", "name", "daily_capacity,-region"),
    "/stock": ("-on_hand", "sku,site_id", "last_moved_at"),
    "/vehicles": ("-vehicle_id", "registered_at", "daily_capacity"),
    "/routes": ("-forbidden_at", "allowed_at,-site_id"),
    "/decisions": ("priority,-requested_at", "deadline", "-confidence", "value_minor"),
    "/models": ("-model_hash", "deployed_at"),
    "/tasks": ("-priority,requested_at", "state", "-requested_at", "kind,-task_id"),
    "/webhooks": ("-webhook_id", "-registered_at", "registered_at,webhook_id"),
}


@pytest.mark.parametrize("path", LISTS)
def test_every_sort_of_every_list_goes_through_its_pages(client: httpx.Client, path: str) -> None:
    whole = found(client.get(path, params={"limit": 500}))["items"]
    for sort in LISTS[path]:
        walked = everything(client, path, sort=sort, limit=2)
        assert len(walked) == len(whole)
        sorted_ = found(client.get(path, params={"sort": sort, "limit": 500}))["items"]
        assert [sorted(row.items(), key=str) for row in walked] == [
            sorted(row.items(), key=str) for row in sorted_
        ]
        named = [part.removeprefix("-") for part in sort.split(",")]
        if path != "/models":
            assert named[0] in walked[0]


def test_a_list_is_sorted_as_it_was_asked_for(client: httpx.Client) -> None:
    orders = everything(client, "/orders", sort="goods_minor,-order_id", limit=5)
    keys = [(row["goods_minor"], row["order_id"]) for row in orders]
    assert keys == sorted(keys, key=lambda key: (key[0], -int(key[1][2:])))
    assert len({key[0] for key in keys}) == 4
    tasks = everything(client, "/tasks", sort="-priority,requested_at", limit=2)
    assert [row["task_id"] for row in tasks] == ["T-2", "T-1", "T-4", "T-0", "T-3"]
    hooks = everything(client, "/webhooks", sort="-registered_at", limit=2)
    assert [row["webhook_id"] for row in hooks] == ["W-4", "W-3", "W-2", "W-1", "W-0"]
    few = found(client.get("/tasks", params={"fields": "task_id,state", "limit": 2}))["items"]
    assert [list(row) for row in few] == [["task_id", "state"]] * 2
    stock = everything(client, "/stock", sort="-on_hand", limit=5)
    assert [Decimal(row["on_hand"]) for row in stock] == list(range(12, 0, -1))


def test_the_past_is_sorted_too(client: httpx.Client) -> None:
    whole = everything(client, "/orders", sort="-goods_minor", limit=500)
    head = max(row["last_position"] for row in whole)
    then = everything(client, "/orders", sort="-goods_minor", limit=3, as_of=head)
    assert [row["order_id"] for row in then] == [row["order_id"] for row in whole]


def test_a_wrong_sort_names_the_right_ones(client: httpx.Client) -> None:
    said = assert_problem(client.get("/orders", params={"sort": "colour"}), 422, "bad-sort")
    assert "'colour'" in said["detail"]
    assert "placed_at, order_id" in said["detail"]
    for sort in ("goods_minor; DROP TABLE events", "(SELECT 1)", "placed_at DESC", "1", "person"):
        assert_problem(client.get("/orders", params={"sort": sort}), 422, "bad-sort")
    page = found(client.get("/orders", params={"sort": "goods_minor", "limit": 1}))
    others: list[dict[str, str]] = [{}, {"sort": "-goods_minor"}, {"sort": "goods_minor,status"}]
    for other in others:
        answer = client.get("/orders", params=other | {"cursor": page["next_cursor"]})
        assert_problem(answer, 422, "bad-cursor")


def test_filters_are_joined(client: httpx.Client) -> None:
    def ids(path: str, name: str, **query: Any) -> list[str]:
        return [row[name] for row in found(client.get(path, params=query))["items"]]

    since = {"placed_since": "2026-01-03T00:00:00Z", "placed_until": "2026-01-06T00:00:00Z"}
    assert ids("/orders", "order_id", **since) == ["O-04", "O-03", "O-02"]
    due = since | {"promised_until": "2026-03-17T00:00:00Z", "status": "placed"}
    assert ids("/orders", "order_id", **due) == ["O-04"]
    assert ids("/orders", "order_id", late=True) == []
    assert ids("/orders", "order_id", site_id="S-0") == []
    assert ids("/stock", "sku", site_id="S-0", below="5") == ["SKU-0", "SKU-3"]
    assert ids("/sites", "site_id", region="R-0", open=True) == ["S-0", "S-2"]
    assert ids("/sites", "site_id", open=False) == []
    assert ids("/vehicles", "vehicle_id", mode="van", retired=False) == ["V-0", "V-1", "V-2"]
    assert ids("/vehicles", "vehicle_id", mode="truck") == []
    assert ids("/routes", "region", region="R-1", forbidden=True) == ["R-1"]
    assert ids("/routes", "region", forbidden=False) == []
    assert ids("/models", "model_hash", stage="deployed", retired=True) == []
    none = {"requested_until": "2000-01-01T00:00:00Z"}
    assert ids("/decisions", "decision_id", **none) == []
    assert len(ids("/decisions", "decision_id", requested_since="2000-01-01T00:00:00Z")) == 12
    for bad in ({"placed_since": "yesterday"}, {"placed_since": "2026-01-01"}, {"late": "x"}):
        assert_problem(client.get("/orders", params=bad), 422, "invalid")
    for below in ("NaN", "x", "1e400"):
        assert_problem(client.get("/stock", params={"below": below}), 422, "invalid")


# Some fields only


def test_only_the_wanted_fields_are_sent(client: httpx.Client) -> None:
    whole = found(client.get("/orders", params={"limit": 3}))
    some = client.get("/orders", params={"limit": 3, "fields": "status,order_id"})
    assert some.headers["content-type"] == PARTIAL_JSON
    assert found(some) == {
        "items": [{"order_id": row["order_id"], "status": row["status"]} for row in whole["items"]],
        "next_cursor": whole["next_cursor"],
    }
    one = client.get("/orders/O-01", params={"fields": "version"})
    assert found(one) == {"version": 1}
    assert one.headers["etag"] == '"1"'
    then = client.get(
        "/orders/O-01", params={"fields": "version", "as_of": whole["items"][0]["last_position"]}
    )
    assert then.headers["as-of-position"] == str(whole["items"][0]["last_position"])
    every = ",".join(whole["items"][0])
    assert found(client.get("/orders", params={"limit": 3, "fields": every})) == whole


@pytest.mark.parametrize("path", ["/orders", "/decisions", "/models", "/sites", "/vehicles"])
@pytest.mark.parametrize("fields", ["colour", "order_id,", "items", "__class__", "*", ""])
def test_a_field_that_there_is_not_is_refused(client: httpx.Client, path: str, fields: str) -> None:
    said = assert_problem(client.get(path, params={"fields": fields}), 422, "invalid")
    assert [error["field"] for error in said["errors"]] == ["query.fields"]


def test_no_order_of_others_is_seen_by_any_sort(client: httpx.Client) -> None:
    """The conditions of a place are in brackets: an OR in them opens nothing."""
    token = client.headers["authorization"]
    other = Served(str(client.base_url).removesuffix("/api/v1/")).client(organisation_id=uuid4())
    with other:
        assert token != other.headers["authorization"]
        accepted(other.post("/sites", json={"site_id": "S-theirs"}))
        last = accepted(other.post("/orders", json=order("O-theirs")))["position"]
    for sort in ("delivered_at,goods_minor", "site_id,-region", "-delivered_at"):
        page = found(client.get("/orders", params={"sort": sort, "limit": 1, "min_position": last}))
        rest = client.get(
            "/orders", params={"sort": sort, "limit": 500, "cursor": page["next_cursor"]}
        )
        rows = found(rest)["items"]
        assert len(rows) == 11
        assert "O-theirs" not in {row["order_id"] for row in rows}
