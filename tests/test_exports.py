"""Exports: every row of a read model, as CSV and as Excel, now and as of any time."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from openpyxl import load_workbook

from domain.access import Role
from projections.catalogue import TABLES
from readmodels import exports
from readmodels.access import QUERIES
from readmodels.exports import EXPORTS, BadFilter, _ahead, _Workbook, columns_of, wanted
from tests.patience import PATIENCE_S
from tests.serving import Served, assert_problem, everything, get, order, post, serving_here

SIGNS = '=HYPERLINK("http://example.org";"Ä, ""x""")'


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture(scope="module")
def positions(served: Served) -> Iterator[tuple[httpx.Client, int, int]]:
    """A client, the position behind five orders, and that behind one's cancellation."""
    organisation = uuid4()
    with served.client(Role.ADMIN, Role.SERVICE, organisation_id=organisation) as client:
        placed = [
            post(client, "/orders", order(f"O-{number}", region=region))
            for number, region in enumerate(("R-0", "R-1", "R-0", None, "R-0"))
        ]
        cancelled = post(client, "/orders/O-2/cancel", {"reason": SIGNS})
        get(client, "/orders", min_position=cancelled["position"])
        get(client, "/orders/O-2/timeline", min_position=cancelled["position"])
        yield client, placed[-1]["position"], cancelled["position"]


def rows_of(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_csv_has_the_rows_of_the_list(positions: tuple[httpx.Client, int, int]) -> None:
    client, _, last = positions
    answer = client.get("/exports/order_summary", params={"min_position": last})
    rows = rows_of(answer)
    listed = everything(client, "/orders", sort="order_id", limit=2)
    assert [row["order_id"] for row in rows] == [one["order_id"] for one in listed]
    assert tuple(rows[0]) == columns_of(TABLES["order_summary"])
    assert "organisation_id" not in rows[0]
    for row, one in zip(rows, listed, strict=True):
        assert row["status"] == one["status"]
        assert row["region"] == (one["region"] or "")
        assert Decimal(row["units"]) == Decimal(one["units"])
        assert datetime.fromisoformat(row["placed_at"]) == datetime.fromisoformat(one["placed_at"])
        assert row["placed_at"].endswith("+00")
    assert 'filename="order_summary.csv"' in answer.headers["content-disposition"]


def test_a_formula_is_disarmed_unless_it_is_asked_for_raw(
    positions: tuple[httpx.Client, int, int],
) -> None:
    client, _, _ = positions
    query = {"where": "order_id:O-2", "columns": "cancel_reason,order_id"}
    [safe] = rows_of(client.get("/exports/order_summary", params=query))
    assert safe == {"cancel_reason": "'" + SIGNS, "order_id": "O-2"}
    [raw] = rows_of(client.get("/exports/order_summary", params=query | {"raw": "true"}))
    assert raw["cancel_reason"] == SIGNS


@pytest.mark.parametrize("reason", ["=1+1", " =1+1", "\n=1+1", "\uff1d1+1", "-2+3", "@SUM(A1)"])
def test_what_looks_like_a_formula_behind_blanks_is_one(served: Served, reason: str) -> None:
    with served.client(Role.ADMIN, organisation_id=uuid4()) as client:
        post(client, "/orders", order("O-1"))
        last = post(client, "/orders/O-1/cancel", {"reason": reason})["position"]
        get(client, "/orders", min_position=last)
        query = {"columns": "cancel_reason"}
        [safe] = rows_of(client.get("/exports/order_summary", params=query))
    assert safe["cancel_reason"] == "'" + reason


def sheet_of(content: bytes) -> Any:
    """The workbook's sheet."""
    return load_workbook(io.BytesIO(content)).active


def test_excel_has_the_same_rows_with_types(positions: tuple[httpx.Client, int, int]) -> None:
    client, _, _ = positions
    columns = "order_id,status,goods_minor,units,placed_at,late,cancel_reason,region"
    answer = client.get("/exports/order_summary", params={"format": "xlsx", "columns": columns})
    assert answer.status_code == 200
    sheet = sheet_of(answer.content)
    head, *rows = sheet.iter_rows(values_only=True)
    assert ",".join(head) == columns
    listed = everything(client, "/orders", sort="order_id", limit=50)
    assert len(rows) == len(listed) == 5
    for row, one in zip(rows, listed, strict=True):
        assert row[:3] == (one["order_id"], one["status"], one["goods_minor"])
        assert row[3] == 2
        placed = datetime.fromisoformat(one["placed_at"]).replace(tzinfo=None)
        assert abs(row[4] - placed).total_seconds() < 0.01  # Excel counts in days
    assert rows[2][6] == SIGNS
    assert sheet.cell(4, 7).data_type == "s"  # a text, no formula
    assert rows[3][7] is None


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_as_of_a_position_tells_what_was_then(
    positions: tuple[httpx.Client, int, int], form: str
) -> None:
    client, before, _ = positions
    query: dict[str, str | int] = {"as_of": before, "columns": "status,order_id", "format": form}
    answer = client.get("/exports/order_summary", params=query)
    assert answer.headers["as-of-position"] == str(before)
    if form == "csv":
        told = [(row["status"], row["order_id"]) for row in rows_of(answer)]
    else:
        sheet = sheet_of(answer.content)
        told = list(sheet.iter_rows(min_row=2, values_only=True))
    assert told == [("placed", f"O-{number}") for number in range(5)]


def test_the_past_has_the_bytes_of_the_present(positions: tuple[httpx.Client, int, int]) -> None:
    client, _, last = positions
    for name in ("order_summary", "order_timeline", "daily_kpis"):
        query = {"min_position": last}
        now = client.get(f"/exports/{name}", params=query)
        then = client.get(f"/exports/{name}", params={"as_of": last})
        assert now.status_code == then.status_code == 200
        assert now.content == then.content
        assert now.content.count(b"\n") > 1


def test_filters_hold_together_and_take_the_column_s_type(
    positions: tuple[httpx.Client, int, int],
) -> None:
    client, _, _ = positions

    def ids(*where: str) -> list[str]:
        query = {"where": list(where), "columns": "order_id"}
        return [
            row["order_id"] for row in rows_of(client.get("/exports/order_summary", params=query))
        ]

    assert ids("region:R-0") == ["O-0", "O-2", "O-4"]
    assert ids("region:R-0", "status:placed") == ["O-0", "O-4"]
    assert ids("goods_minor:3998", "units:2.0") == ["O-0", "O-1", "O-2", "O-3", "O-4"]
    assert ids("promised_at:2099-01-01T01:00:00+01:00", "region:R-1") == ["O-1"]
    assert ids("region:' OR true --") == []


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"where": "colour:red"}, "has no column 'colour'"),
        ({"columns": "order_id,organisation_id"}, "has no column 'organisation_id'"),
        ({"where": "status"}, "is not of the form column:value"),
        ({"where": "goods_minor:many"}, "many"),
        ({"where": "placed_at:yesterday-ish"}, "yesterday-ish"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_a_wrong_filter_is_named(
    positions: tuple[httpx.Client, int, int], query: dict[str, str], told: str, form: str
) -> None:
    client, _, _ = positions
    answer = client.get("/exports/order_summary", params=query | {"format": form})
    assert told in assert_problem(answer, 422, "bad-filter")["detail"]


def test_what_is_no_format_or_no_read_model_is_refused(
    positions: tuple[httpx.Client, int, int],
) -> None:
    client, _, _ = positions
    assert_problem(client.get("/exports/order_summary", params={"format": "pdf"}), 422, "invalid")
    assert_problem(client.get("/exports/events"), 404, "not-found")
    assert_problem(client.get("/exports/order_summary", params={"rows": "5"}), 422, "invalid")


def test_an_export_takes_the_right_of_its_list(
    served: Served, positions: tuple[httpx.Client, int, int]
) -> None:
    with served.client(Role.VIEWER) as viewer:
        assert viewer.get("/exports/order_summary").status_code == 200
        assert_problem(viewer.get("/exports/audit_trail"), 403, "forbidden")
        names = {one["name"] for one in get(viewer, "/exports")["items"]}
        assert "order_summary" in names
        assert "audit_trail" not in names
    with served.nobody() as nobody:
        assert_problem(nobody.get("/api/v1/exports/order_summary"), 401)


def test_others_rows_are_not_in_it(
    served: Served, positions: tuple[httpx.Client, int, int]
) -> None:
    with served.client(Role.ADMIN, organisation_id=uuid4()) as stranger:
        assert rows_of(stranger.get("/exports/order_summary")) == []
        assert rows_of(stranger.get("/exports/audit_trail")) == []


def test_every_read_model_can_be_exported_or_is_named_here() -> None:
    """What is left out holds what no list shows as it is stored: keys, addresses, persons' claims,
    or is a list's own detail or queue."""
    assert set(EXPORTS) | exports.NOT_EXPORTED == set(TABLES)
    assert not set(EXPORTS) & exports.NOT_EXPORTED
    assert set(EXPORTS.values()) <= set(QUERIES)
    for name in EXPORTS:
        assert wanted(name).columns == columns_of(TABLES[name])


def test_a_sheet_that_is_full_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "SHEET_ROWS", 4)
    path = tmp_path / "book.xlsx"
    book = _Workbook(path, wanted("daily_kpis", ["day", "currency", "orders"]))
    days = [(date(2026, 1, number), "EUR", 10**16 + number) for number in range(1, 8)]
    book.add(days[:5])
    book.add(days[5:])
    book.close()
    sheets = load_workbook(path).worksheets
    assert [sheet.title for sheet in sheets] == ["daily_kpis", "daily_kpis 2", "daily_kpis 3"]
    told = [row for sheet in sheets for row in sheet.iter_rows(min_row=2, values_only=True)]
    # More digits than Excel's numbers have are told as text, to the last one.
    assert told == [
        (datetime.combine(day, datetime.min.time()), currency, str(orders))
        for day, currency, orders in days
    ]


def test_values_of_every_type_are_written(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    book = _Workbook(path, wanted("order_summary", ["order_id"]))
    values: list[Any] = [
        *(None, True, 7, 0.5, Decimal("12.125"), Decimal("1234567890123456.5")),
        *(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "x" * 40_000, {"a": ["ä"]}, float("nan")),
    ]
    book.add([[value] for value in values])
    book.close()
    sheet = sheet_of(path.read_bytes())
    told = [row[0] for row in sheet.iter_rows(min_row=2, values_only=True)]
    assert told[1:7] == [
        *(True, 7, 0.5, 12.125, "1234567890123456.5"),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).replace(tzinfo=None),
    ]
    assert told[7] == "x" * 32_767
    assert told[8] == '{"a": ["ä"]}'
    assert told[9] == "nan"


def test_who_does_not_read_lets_go_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "_STALLED_S", 0.1)
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        try:
            for number in range(100):
                yield b"%d" % number
        finally:
            closed.set()

    async def stall() -> list[bytes]:
        taken = []
        async with _ahead(source()) as blocks:
            await asyncio.wait_for(closed.wait(), PATIENCE_S)
            try:
                async for block in blocks:
                    taken.append(block)
            except TimeoutError:
                return taken
        raise AssertionError("it came to its end")

    taken = asyncio.run(stall())
    assert taken == [b"%d" % number for number in range(len(taken))]
    assert 0 < len(taken) < 100


def test_what_fails_at_once_is_an_error_and_no_half_file() -> None:
    async def source() -> AsyncGenerator[bytes, None]:
        for word in ("no",):
            raise BadFilter(f"where: {word}")
        yield b""

    async def ask() -> None:
        async with _ahead(source()):
            raise AssertionError("nothing can be read")

    with pytest.raises(BadFilter):
        asyncio.run(ask())
