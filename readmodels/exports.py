"""Exports: a whole read model as CSV or Excel, as it stands or as of a moment in the past.

Rows are read behind a cursor and written as they come: an export of any size takes little memory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from uuid import UUID

import psycopg
import xlsxwriter
from psycopg import sql
from xlsxwriter.worksheet import Worksheet

from projections.catalogue import TABLES
from projections.rows import sql_type
from projections.table import Table
from readmodels.database import ReadModelOutdated, ReadModels

Format = Literal["csv", "xlsx"]

#: The read models that can be exported, and the query whose right that takes.
EXPORTS: Mapping[str, str] = {
    "order_summary": "orders.list",
    "order_timeline": "orders.timeline",
    "order_lines": "orders.lines",
    "shipments": "shipments.list",
    "returns": "returns.list",
    "backorders": "backorders.list",
    "sites": "sites.list",
    "stock_levels": "stock.list",
    "stock_keeping": "stock_keeping.list",
    "product_list": "products.list",
    "client_list": "clients.list",
    "vehicle_list": "vehicles.list",
    "assignment_list": "assignments.list",
    "route_list": "routes.list",
    "route_rule_list": "route_rules.list",
    "tour_list": "tours.list",
    "tour_stops": "tours.stops",
    "tour_plan_list": "tours.plans",
    "tariff_list": "tariffs.list",
    "emission_factor_list": "tariffs.emissions",
    "decision_list": "decisions.list",
    "daily_kpis": "kpis.daily",
    "decision_kpis": "kpis.decisions",
    **dict.fromkeys(("order_kpis", "client_kpis", "stock_days"), "kpis.report"),
    **dict.fromkeys(("decided_costs", "decision_days", "client_decisions"), "kpis.report"),
    **dict.fromkeys(("tour_days", "client_tour_days"), "kpis.report"),
    "metric_list": "metrics.list",
    "demand_days": "forecasts.list",
    "forecast_list": "forecasts.list",
    "scenario_list": "simulations.scenarios",
    "model_list": "models.list",
    "model_roles": "models.live",
    "model_deployments": "models.deployments",
    "model_measurements": "models.measurements",
    "model_months": "models.months",
    "model_alerts": "models.alerts",
    "member_list": "members.list",
    "task_list": "tasks.list",
    "schedule_list": "schedules.list",
    "schedule_runs": "schedules.runs",
    "alert_list": "alerts.list",
    "alert_rule_list": "alerts.rules",
    "policy_list": "policies.list",
    "audit_trail": "audit.trail",
}

#: Those that cannot: what they hold no list shows as it is stored, or another one tells it whole.
NOT_EXPORTED = frozenset(
    {
        *("api_key_list", "invitation_list", "organisation_list", "webhook_list", "people"),
        *("decision_detail", "task_queue", "schedule_clock", "schedule_fired"),
        # Of one reader, and for that one only.
        *("alert_reads", "alert_readers", "alert_subscriptions", "alert_notices"),
        # What alerts are told from.
        *("alert_subjects", "open_promises", "lane_times", "stock_cover", "stock_demand"),
        *("open_anomalies", "failed_tasks"),
        # Sums of stock_days.
        *("stock_site_days", "stock_months", "stock_sums"),
    }
)

#: Rows that Excel holds on a sheet, its head among them; what is more goes to a further sheet.
SHEET_ROWS = 1_048_576
#: Excel's numbers have so many exact digits; what has more is written as text.
_EXACT_DIGITS = 15
_CELL = 32_767
_BATCH = 2_000
_BLOCK = 1 << 16
#: Exports of a process at once: each holds a connection.
_AT_ONCE = 2
#: How long one waits for its turn, and for a reader that does not read, in seconds.
_TURN_S = 10.0
_STALLED_S = 30.0
#: What spreadsheets take for a formula.
_FORMULA = r"^[[:space:]]*[=+\-@\t\r＝＋－＠]"


class BadFilter(ValueError):
    """A filter or a column that the read model does not have, or a value that does not fit it."""


class ExportsBusy(Exception):
    """As many exports as may run at once are running."""

    def __init__(self) -> None:
        super().__init__(f"{_AT_ONCE} exports are running, which is all that may at once")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a read model is exported.

    Attributes:
        table: the read model.
        columns: its columns, in this order.
        where: values that columns must have.
    """

    table: Table
    columns: tuple[str, ...]
    where: tuple[tuple[str, str], ...] = ()


def columns_of(table: Table) -> tuple[str, ...]:
    """The columns that can be exported: all but whose rows they are."""
    return tuple(name for name in table.row_types if name != "organisation_id")


def wanted(name: str, columns: Sequence[str] = (), where: Sequence[str] = ()) -> Wanted:
    """An export as it is asked for.

    Args:
        name: the read model.
        columns: the columns; none: all.
        where: ``column:value``, each.

    Raises:
        BadFilter: there is no such column, or a filter is not of this form.
    """
    table = TABLES[name]
    known = columns_of(table)
    found: list[tuple[str, str]] = []
    for one in where:
        column, colon, value = one.partition(":")
        if not colon:
            raise BadFilter(f"where: {one[:60]!r} is not of the form column:value")
        found.append((column, value))
    for column in (*columns, *(column for column, _ in found)):
        if column not in known:
            raise BadFilter(f"{name} has no column {column[:60]!r}; it has {', '.join(known)}")
    return Wanted(table, tuple(dict.fromkeys(columns)) or known, tuple(found))


class Exports:
    """Reads whole read models, a few at once."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)

    @asynccontextmanager
    async def open(
        self, read: ReadModels, what: Wanted, form: Format, *, raw: bool = False
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The export's bytes, as they come.

        Args:
            read: whose, and of when.
            what: which rows and columns.
            form: CSV (RFC 4180, UTF-8, times in ISO 8601) or an Excel workbook.
            raw: leave texts as they are in CSV that a spreadsheet would take for a formula; without
                it they get an apostrophe in front.

        Raises:
            ExportsBusy: too many are under way.
            BadFilter: a filter's value does not fit its column.
        """
        try:
            await asyncio.wait_for(self._turns.acquire(), _TURN_S)
        except TimeoutError:
            raise ExportsBusy from None
        try:
            source = _csv(read, what, raw) if form == "csv" else _xlsx(read, what)
            async with _ahead(source) as blocks:
                yield blocks
        finally:
            self._turns.release()


@asynccontextmanager
async def _ahead(source: AsyncGenerator[bytes, None]) -> AsyncIterator[AsyncIterator[bytes]]:
    """The same bytes, read a little ahead by a task of its own: who does not take them for a while
    does not hold the database's connection for ever. The first block, or what stands in its way, is
    there at once."""
    queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(maxsize=8)

    async def fill() -> None:
        try:
            # Closed by us: left to itself it would hold its connection until it is collected.
            async with aclosing(source):
                async for block in source:
                    async with asyncio.timeout(_STALLED_S):
                        await queue.put(block)
            await queue.put(None)
        except Exception as error:
            if not queue.full():
                queue.put_nowait(error)
            raise

    task = asyncio.create_task(fill(), name="export")

    async def take() -> bytes | None:
        getting = asyncio.ensure_future(queue.get())
        await asyncio.wait((getting, task), return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            found = getting.result()
        elif not queue.empty():
            found = await getting
        else:
            getting.cancel()
            await task  # says why nothing more comes
            return None
        if isinstance(found, Exception):
            raise found
        return found

    try:
        first = await take()

        async def blocks() -> AsyncIterator[bytes]:
            block = first
            while block is not None:
                yield block
                block = await take()

        yield blocks()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


def _query(what: Wanted, name: sql.Identifier, *, safe: bool = False) -> sql.Composed:
    """The rows in the order of their key. ``safe``: texts that begin as a formula are marked."""
    table = what.table
    chosen = [
        sql.SQL("CASE WHEN {0} ~ {1} THEN '''' || {0} ELSE {0} END AS {0}").format(
            sql.Identifier(column), sql.Literal(_FORMULA)
        )
        if safe and sql_type(table, column) == "text"
        else sql.Identifier(column)
        for column in what.columns
    ]
    # A literal without a type is taken for one of the column's.
    conditions = [
        sql.SQL("{} = {}").format(sql.Identifier(column), sql.Literal(value))
        for column, value in what.where
    ]
    keys = [sql.Identifier(key) for key in table.keys]
    return sql.SQL("SELECT {} FROM {} {} ORDER BY {}").format(
        sql.SQL(", ").join(chosen),
        name,
        sql.SQL("WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL(""),
        sql.SQL(", ").join(keys),
    )


async def _csv(read: ReadModels, what: Wanted, raw: bool) -> AsyncGenerator[bytes, None]:
    copy = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER true, ENCODING 'UTF8')")
    try:
        async with read.held(what.table.name) as (connection, name), connection.cursor() as cursor:
            await connection.execute("SET LOCAL timezone = 'UTC'")
            await connection.execute("SET LOCAL datestyle = 'ISO'")
            held = bytearray()
            query = copy.format(_query(what, name, safe=not raw))
            async with cursor.copy(query) as rows:
                async for row in rows:
                    held += row
                    if len(held) >= _BLOCK:
                        yield bytes(held)
                        held.clear()
            if held:
                yield bytes(held)
    except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable) as error:
        raise ReadModelOutdated([what.table.name], error) from error
    except psycopg.errors.DataError as error:
        raise BadFilter(f"where: {str(error).splitlines()[0]}") from error


async def _xlsx(read: ReadModels, what: Wanted) -> AsyncGenerator[bytes, None]:
    with TemporaryDirectory(prefix="chainlytics-export-") as folder:
        path = Path(folder) / "export.xlsx"
        book = await asyncio.to_thread(_Workbook, path, what)
        try:
            async with (
                read.held(what.table.name) as (connection, name),
                connection.cursor(name="export") as cursor,
            ):
                await cursor.execute(_query(what, name))
                while rows := await cursor.fetchmany(_BATCH):
                    await asyncio.to_thread(book.add, rows)
        except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable) as error:
            raise ReadModelOutdated([what.table.name], error) from error
        except psycopg.errors.DataError as error:
            raise BadFilter(f"where: {str(error).splitlines()[0]}") from error
        finally:
            await asyncio.to_thread(book.close)
        for block in _blocks(path):
            yield block


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


class _Workbook:
    """An Excel workbook that is written row by row into a file."""

    def __init__(self, path: Path, what: Wanted) -> None:
        # Rows go to the disk as they come; nothing is taken for a formula, a number or a link.
        self._book = xlsxwriter.Workbook(
            str(path),
            {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False},
        )
        self._time = self._book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        self._day = self._book.add_format({"num_format": "yyyy-mm-dd"})
        self._head = self._book.add_format({"bold": True})
        self._what = what
        self._sheets = 0
        self._row = SHEET_ROWS
        self._sheet: Worksheet = self._begin()

    def _begin(self) -> Worksheet:
        self._sheets += 1
        name = self._what.table.name[:28] + ("" if self._sheets == 1 else f" {self._sheets}")
        sheet = self._book.add_worksheet(name)
        for column, title in enumerate(self._what.columns):
            sheet.write_string(0, column, title, self._head)
        sheet.freeze_panes(1, 0)
        sheet.set_column(0, len(self._what.columns) - 1, 18)
        self._row = 1
        return sheet

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Write some rows."""
        for row in rows:
            if self._row == SHEET_ROWS:
                self._sheet = self._begin()
            for column, value in enumerate(row):
                self._write(column, value)
            self._row += 1

    def _write(self, column: int, value: Any) -> None:
        at = (self._row, column)
        match value:
            case None:
                return
            case bool():
                self._sheet.write_boolean(*at, value)
            case datetime():
                # Excel knows no zones: all times are UTC.
                self._sheet.write_datetime(*at, value.replace(tzinfo=None), self._time)
            case date():
                self._sheet.write_datetime(*at, value, self._day)
            case int() | float() | Decimal() if _is_exact(value):
                self._sheet.write_number(*at, float(value))
            case str() | UUID() | int() | float() | Decimal():
                self._sheet.write_string(*at, str(value)[:_CELL])
            case _:
                told = json.dumps(value, ensure_ascii=False, default=str)
                self._sheet.write_string(*at, told[:_CELL])

    def close(self) -> None:
        """Put the file together."""
        self._book.close()


def _is_exact(value: int | float | Decimal) -> bool:
    """Whether Excel's number keeps all of its digits."""
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")
    return len(Decimal(value).as_tuple().digits) <= _EXACT_DIGITS
