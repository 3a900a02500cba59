"""The importer on small files: what is broken is told by file, line and rule; the rest goes in."""

from __future__ import annotations

import asyncio
import csv
import gzip
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commands import HANDLERS, Bus
from commands.importer import ImportReport, SourcesUnusable, import_directory
from commands.mapping import Mapping, MappingError, parse_mapping, read_mapping, shipped_mappings
from eventstore import Log, Writer, prepare_database
from eventstore.streams import Streams

SHOP = """
name = "shop"
title = "A small shop"
time_zone = "America/Sao_Paulo"

[files.customers]
file = "customers.csv"
key = ["customer"]
columns = { customer = "id", state = "text?" }

[files.orders]
file = "orders.csv"
key = ["order_id"]
references = { customer = "customers" }
[files.orders.columns]
order_id = "id"
customer = "id"
status = ["new", "sent"]
placed = "time"
promised = "time"
sent = "time?"

[files.items]
file = "items.csv"
key = ["order_id", "no"]
part_of = { order_id = "orders" }
columns = { order_id = "id", no = "integer", sku = "id", pieces = "number", price = "money" }

[[steps]]
command = "OpenSite"
key = "site_id"
select = "SELECT 'S1' AS site_id, NULL AS opened_at, MIN(source) AS source FROM orders"

[[steps]]
command = "PlaceOrder"
key = "order_id"
case = "order_id"
at = "placed_at"
select = '''
SELECT o.order_id, o.customer AS customer_id, 'BRL' AS currency, c.state AS region,
       o.placed AS placed_at, o.promised AS promised_at, o.source
FROM orders o JOIN customers c ON o.customer = c.customer
'''
[steps.lists]
lines = '''
SELECT order_id, no AS line_no, sku, pieces AS quantity, price AS unit_price_minor, source
FROM items ORDER BY order_id, no
'''

[[steps]]
command = "AllocateOrder"
key = "order_id"
case = "order_id"
select = '''
SELECT order_id, 'S1' AS site_id, NULL AS allocated_at, source
FROM orders WHERE sent IS NOT NULL
'''

[[steps]]
command = "ShipOrder"
key = "order_id"
case = "order_id"
at = "shipped_at"
select = "SELECT order_id, sent AS shipped_at, source FROM orders WHERE status = 'sent'"
"""

CUSTOMERS = ["customer,state", "C1,SP", "C2,RJ"]
ORDERS = [
    "order_id,customer,status,placed,promised,sent",
    "O1,C1,sent,2017-10-14 10:00:00,2017-10-20,2017-10-13 09:00:00",
    "O2,C2,new,2017-10-15 00:30:00,2017-10-21,",
]
ITEMS = ["order_id,no,sku,pieces,price", "O1,1,A,2,10.5", "O1,2,B,0.125,3", "O2,1,A,1,9.99"]

Line = tuple[str, str, str, str, str]


class Shop:
    """A folder of files and an organisation of its own to bring them into."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder, self.database, self.organisation = folder, database, uuid4()
        self.mapping = parse_mapping(SHOP)
        self.write("customers.csv", CUSTOMERS)
        self.write("orders.csv", ORDERS)
        self.write("items.csv", ITEMS)

    def write(self, name: str, lines: list[str], end: str = "\n", encoding: str = "utf-8") -> None:
        (self.folder / name).write_bytes((end.join(lines) + end).encode(encoding))

    def bring_in(self, mapping: Mapping | None = None, chunk: int = 500) -> ImportReport:
        return asyncio.run(self._bring_in(mapping or self.mapping, chunk))

    async def _bring_in(self, mapping: Mapping, chunk: int) -> ImportReport:
        url = self.database
        async with (
            AsyncConnectionPool(url, open=False) as pool,
            Streams(url) as streams,
            Writer(url) as writer,
        ):
            return await import_directory(
                Bus(Log(pool), streams, writer, HANDLERS),
                mapping,
                self.folder,
                organisation_id=self.organisation,
                actor="test",
                rejects=self.folder / "out" / "rejects.csv",
                chunk=chunk,
            )

    def rejects(self) -> list[Line]:
        """file:line, column, value, rule, command; sorted."""
        with (self.folder / "out" / "rejects.csv").open(newline="", encoding="utf-8") as file:
            return sorted(
                (
                    f"{row['file']}:{row['line']}",
                    row["column"],
                    row["value"],
                    row["rule"],
                    row["command"],
                )
                for row in csv.DictReader(file)
            )

    def facts(self) -> list[tuple[str, str]]:
        with psycopg.connect(self.database) as connection:
            return connection.execute(
                """SELECT split_part(topic, '.', 2), convert_from(state, 'UTF8') FROM events
                WHERE organisation_id = %s ORDER BY notification_id""",
                (self.organisation,),
            ).fetchall()

    def placed(self) -> list[str]:
        return [body[13:15] for name, body in self.facts() if name == "OrderPlaced"]


@pytest.fixture
def shop(tmp_path: Path, database: str) -> Shop:
    prepare_database(database)
    return Shop(tmp_path, database)


def test_good_rows_become_facts_in_the_order_of_the_life_cycle(shop: Shop) -> None:
    report = shop.bring_in(chunk=2)
    assert (report.progress.stored, report.progress.total, report.reject_lines) == (5, 5, 0)
    # O1 was sent before it was placed: its time stays, its place in the log is behind.
    assert [name for name, _ in shop.facts()] == [
        "SiteOpened",
        "OrderPlaced",
        "OrderAllocated",
        "OrderShipped",
        "OrderPlaced",
    ]
    placed = shop.facts()[1][1]
    assert '"goods_minor":2138' in placed  # 2 x 10.50 and 0.125 x 3.00, to the even cent
    assert '"placed_at":"2017-10-14T13:00:00Z"' in placed
    assert '"shipped_at":"2017-10-13T12:00:00Z"' in shop.facts()[3][1]


def test_an_hour_that_the_clocks_skipped_counts_from_before(shop: Shop) -> None:
    shop.bring_in()
    assert '"placed_at":"2017-10-15T03:30:00Z"' in shop.facts()[4][1]


def test_twice_adds_nothing(shop: Shop) -> None:
    first = shop.bring_in()
    again = shop.bring_in(chunk=1)
    assert (again.progress.stored, again.progress.repeated) == (0, first.progress.stored)
    assert len(shop.facts()) == 5


def test_a_changed_row_is_not_taken_for_the_first_one(shop: Shop) -> None:
    shop.bring_in()
    shop.write("items.csv", [*ITEMS[:3], "O2,1,A,1,19.99"])
    report = shop.bring_in()
    assert shop.rejects() == [("orders.csv:3", "", "O2", "command.reused", "PlaceOrder")]
    assert (report.progress.repeated, report.progress.rejected) == (4, 1)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (",C1,new,2017-10-16,2017-10-20,", ("order_id", "", "missing")),
        ("O 3,C1,new,2017-10-16,2017-10-20,", ("order_id", "O 3", "id")),
        ("O3,C1,new,2017-02-30,2017-10-20,", ("placed", "2017-02-30", "time")),
        ("O3,C1,new,,2017-10-20,", ("placed", "", "missing")),
        ("O3,C1,lost,2017-10-16,2017-10-20,", ("status", "lost", "one_of")),
        ("O3,C9,new,2017-10-16,2017-10-20,", ("customer", "C9", "unknown_reference")),
        ("O1,C1,new,2017-10-16,2017-10-20,", ("order_id", "O1", "duplicate")),
        ("O3,C1,new,2017-10-16", ("", "", "fields")),
        ('O3,C1,"new,2017-10-16,2017-10-20,', ("", "", "fields")),
        ("O3,C1\ufffd,new,2017-10-16,2017-10-20,", ("customer", "C1\ufffd", "encoding")),
    ],
)
def test_a_broken_order_row(shop: Shop, row: str, expected: tuple[str, str, str]) -> None:
    shop.write("orders.csv", [*ORDERS, row])
    report = shop.bring_in()
    column, value, rule = expected
    assert shop.rejects() == [("orders.csv:4", column, value, rule, "")]
    assert (report.rows["orders.csv"], report.rejected_rows["orders.csv"]) == (3, 1)
    assert shop.placed() == ["O1", "O2"]


@pytest.mark.parametrize(
    ("row", "column", "value", "rule"),
    [
        ("O1,2,B,1,-3", "price", "-3", "negative"),
        ("O1,2,B,1,3.001", "price", "3.001", "precision"),
        ("O1,2,B,1,3 EUR", "price", "3 EUR", "number"),
        ("O1,2,B,,3", "pieces", "", "missing"),
        ("O1,two,B,1,3", "no", "two", "integer"),
        ("O1,1,B,1,3", "order_id no", "O1 1", "duplicate"),
    ],
)
def test_a_broken_item_takes_its_order_with_it(
    shop: Shop, row: str, column: str, value: str, rule: str
) -> None:
    """An order with a missing line would be untrue; its other lines are named too."""
    shop.write("items.csv", [ITEMS[0], ITEMS[1], row, ITEMS[3]])
    shop.bring_in()
    assert shop.rejects() == [
        ("items.csv:2", "order_id", "O1", "broken_reference", ""),
        ("items.csv:3", column, value, rule, ""),
        ("orders.csv:2", "order_id", "O1", "broken_part", ""),
    ]
    assert shop.placed() == ["O2"]


def test_an_item_of_an_unknown_order(shop: Shop) -> None:
    shop.write("items.csv", [*ITEMS, "O9,1,A,1,5"])
    shop.bring_in()
    assert shop.rejects() == [("items.csv:5", "order_id", "O9", "unknown_reference", "")]
    assert shop.placed() == ["O1", "O2"]


def test_what_the_command_does_not_allow_is_told_by_its_row(shop: Shop) -> None:
    """Lists included: the item's line, not the order's. The case's other commands are not sent."""
    shop.write("items.csv", [ITEMS[0], "O1,1,A,0,10.5", ITEMS[3]])
    shop.write("orders.csv", [*ORDERS, "O3,C1,new,2017-10-16,2017-10-01,"])
    report = shop.bring_in()
    assert shop.rejects() == [
        ("items.csv:2", "lines.0.quantity", "0", "greater_than", "PlaceOrder"),
        ("orders.csv:2", "", "", "case_broken_off", "AllocateOrder"),
        ("orders.csv:2", "", "", "case_broken_off", "ShipOrder"),
        ("orders.csv:4", "", "", "value_error", "PlaceOrder"),
    ]
    assert (report.progress.stored, report.progress.rejected) == (2, 4)


def test_what_the_business_refuses_is_told_by_its_row(shop: Shop) -> None:
    """A sent order whose allocation is not told cannot be shipped."""
    text = SHOP.replace("FROM orders WHERE sent IS NOT NULL", "FROM orders WHERE status = 'new'")
    shop.write("items.csv", [*ITEMS])
    report = shop.bring_in(parse_mapping(text))
    assert shop.rejects() == [("orders.csv:2", "", "O1", "order.not_allocated", "ShipOrder")]
    assert (report.progress.stored, report.progress.rejected) == (4, 1)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_and_byte_order_marks(shop: Shop, end: str, encoding: str) -> None:
    rows = [*ORDERS, "", 'O3,C1,new,"2017-10-16",2017-10-20,', "O4,C1,new,never,2017-10-20,"]
    shop.write("orders.csv", rows, end, encoding)
    shop.write("items.csv", [*ITEMS, "O3,1,A,1,1"], end, encoding)
    shop.bring_in()
    assert shop.rejects() == [("orders.csv:6", "placed", "never", "time", "")]
    assert shop.placed() == ["O1", "O2", "O3"]


def test_bytes_that_are_not_text_fail_their_cell(shop: Shop) -> None:
    content = ("\n".join(CUSTOMERS) + "\nC3,PARÁ\n").encode("latin-1")
    (shop.folder / "customers.csv").write_bytes(content)
    shop.bring_in()
    assert [line[:2] + line[3:4] for line in shop.rejects()] == [
        ("customers.csv:4", "state", "encoding")
    ]


@pytest.mark.parametrize(
    ("content", "rule", "told"),
    [
        (None, "missing_file", "orders.csv.gz"),
        (b"", "empty", "header"),
        (b"\xef\xbb\xbf\n", "empty", "header"),
        (ORDERS[0].replace(",", ";").encode(), "delimiter", "';'"),
        (ORDERS[0].replace("placed,", "").encode(), "missing_columns", "placed"),
        (f"{ORDERS[0]},sent".encode(), "duplicate_columns", "sent"),
        (gzip.compress(b"x" * 999, mtime=0)[:20], "unreadable", "end-of-stream"),
        (f'{ORDERS[0]}\nO1,"{"x" * 200_000}'.encode(), "not_csv", "quote"),
    ],
)
def test_an_unusable_file_is_named_with_its_rule(
    shop: Shop, content: bytes | None, rule: str, told: str
) -> None:
    (shop.folder / "orders.csv").unlink()
    if content is not None:
        (shop.folder / "orders.csv").write_bytes(content)
    with pytest.raises(SourcesUnusable) as raised:
        shop.bring_in()
    [error] = raised.value.errors
    assert (error.file, error.rule) == ("orders.csv", rule)
    assert told in error.detail
    assert shop.facts() == []


def test_a_file_of_a_header_alone_has_no_rows(shop: Shop) -> None:
    shop.write("orders.csv", ORDERS[:1])
    shop.write("items.csv", ITEMS[:1])
    report = shop.bring_in()
    assert (report.rows["orders.csv"], report.reject_lines) == (0, 0)
    assert [name for name, _ in shop.facts()] == ["SiteOpened"]  # its select counts no rows


STOCK = """
name = "warehouse"
title = "Counted stock, as a German spreadsheet writes it"
time_zone = "Europe/Berlin"
time_formats = ["%d.%m.%Y %H:%M"]
decimal_mark = ","

[files.counts]
file = "bestand.csv"
delimiter = ";"
encoding = "cp1252"
columns = { Lager = "text", Artikel = "id", Menge = "number", "gezählt am" = "time" }

[[steps]]
command = "OpenSite"
key = "site_id"
at = "first"
select = '''
SELECT REPLACE(Lager, 'ö', 'oe') AS site_id, NULL AS opened_at,
       MIN("gezählt am") AS first, MIN(source) AS source
FROM counts GROUP BY Lager
'''

[[steps]]
command = "ReceiveStock"
name = "opening_stock"
key = "key"
at = "received_at"
select = '''
SELECT CONCAT(Lager, '/', Artikel) AS key, REPLACE(Lager, 'ö', 'oe') AS site_id, Artikel AS sku,
       Menge AS quantity, "gezählt am" AS received_at, source
FROM counts
'''
"""


def test_another_data_set_is_another_mapping(shop: Shop) -> None:
    rows = [
        "Lager;Artikel;Menge;gezählt am;Bemerkung",
        "Köln;A-1;12,5;31.12.2024 18:00;",
        "Köln;A-2;3;30.12.2024 18:00;staubig",
        "Köln;A-1;4;31.12.2024 18:00;noch einmal",
        "Köln;A-3;-4;31.12.2024 18:00;",
    ]
    shop.write("bestand.csv", rows, "\r\n", "cp1252")
    report = shop.bring_in(parse_mapping(STOCK))
    assert report.progress.stored == 3
    assert [body for _, body in shop.facts()][1:] == [
        '{"site_id":"Koeln","sku":"A-2","quantity":"3","received_at":"2024-12-30T17:00:00Z"}',
        '{"site_id":"Koeln","sku":"A-1","quantity":"12.5","received_at":"2024-12-31T17:00:00Z"}',
    ]
    assert shop.rejects() == [
        ("bestand.csv:4", "key", "Köln/A-1", "key_twice", "ReceiveStock"),
        ("bestand.csv:5", "quantity", "-4", "greater_than", "ReceiveStock"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('command = "ShipOrder"', 'command = "SendOrder"', "no such command"),
        ('sku = "id"', 'sku = "code"', "'code' is not one of"),
        ('part_of = { order_id = "orders" }', 'part_of = { order_id = "ordres" }', "'ordres'"),
        ("America/Sao_Paulo", "America/Sampa", "IANA"),
        ('key = ["order_id", "no"]', 'key = ["order_id", "nr"]', "'nr'"),
        ('name = "shop"', 'name = "shop', "line 2"),
    ],
)
def test_a_wrong_mapping_says_where(old: str, new: str, told: str) -> None:
    with pytest.raises(MappingError, match="mapping text") as raised:
        parse_mapping(SHOP.replace(old, new))
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("sent AS shipped_at, source FROM", "sent AS shiped_at, source FROM", "shipped_at"),
        ("sent AS shipped_at, source FROM", "sent AS shipped_at, status, source FROM", "'status'"),
        ("sent AS shipped_at, source FROM", "snt AS shipped_at, source FROM", "snt"),
        ("sent AS shipped_at, source FROM", "sent AS shipped_at FROM", "'source'"),
    ],
)
def test_a_select_that_does_not_fit_says_which(shop: Shop, old: str, new: str, told: str) -> None:
    with pytest.raises(MappingError, match="ShipOrder") as raised:
        shop.bring_in(parse_mapping(SHOP.replace(old, new)))
    assert told in str(raised.value)
    assert shop.facts() == []


def test_the_shipped_mappings_are_right() -> None:
    assert [read_mapping(path).name for path in shipped_mappings().values()] == [
        *("assignments", "clients", "olist", "orders", "products", "sites", "stock", "vehicles")
    ]
