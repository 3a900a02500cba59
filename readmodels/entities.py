"""Everything that there is, kind by kind: how many, the first of them, and a search in one kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page
from readmodels.searching import containing

#: Counted up to here; what is more is told as more.
MOST_COUNTED = 10_000
#: Of each kind where all are shown.
FIRST = 5


class Kind(NamedTuple):
    """A kind of entity: the query whose right it takes, the read model, and how it is shown.

    ``id_``, ``title``, ``state``: expressions over the read model's columns. ``key``: the columns
    that the list is in the order of, by an index. ``at``: the newest stand first by this time.
    """

    permission: str
    table: str
    id_: str
    title: str
    state: str
    at: str | None = None


def _retired(column: str = "retired") -> str:
    return f"CASE WHEN {column} THEN 'retired' ELSE 'in use' END"


_OF_STOCK = "site_id || '/' || sku"

KINDS: Mapping[str, Kind] = {
    "orders": Kind(
        "orders.list", "order_summary", "order_id", "customer_id", "status", "placed_at"
    ),
    "sites": Kind(
        "sites.list",
        "sites",
        "site_id",
        "coalesce(name, site_id)",
        "CASE WHEN is_open THEN 'open' ELSE 'closed' END",
    ),
    "products": Kind("products.list", "product_list", "sku", "name", _retired()),
    "stock": Kind(
        "stock.list",
        "stock_levels",
        _OF_STOCK,
        "trim_scale(available)::text || ' available'",
        "CASE WHEN available > 0 THEN 'in stock' ELSE 'out of stock' END",
    ),
    "clients": Kind("clients.list", "client_list", "client_id", "name", _retired()),
    "vehicles": Kind(
        "vehicles.list", "vehicle_list", "vehicle_id", "mode || ' of ' || site_id", _retired()
    ),
    "assignments": Kind(
        "assignments.list",
        "assignment_list",
        "vehicle_id || '/' || assignment_id",
        "vehicle_id || ' at ' || site_id",
        "coalesce(status, 'assigned')",
    ),
    "route_rules": Kind(
        "route_rules.list",
        "route_rule_list",
        "rule_id",
        "name",
        "CASE WHEN lifted THEN 'lifted' ELSE 'in force' END",
    ),
    "tours": Kind(
        "tours.list",
        "tour_list",
        "tour_id",
        "vehicle_id || ' on ' || day",
        "status",
        "planned_starts_at",
    ),
    "decisions": Kind(
        "decisions.list",
        "decision_list",
        "decision_id",
        "kind || ' of ' || subject_id",
        "stage",
        "requested_at",
    ),
    "forecasts": Kind("forecasts.list", "forecast_list", _OF_STOCK, "sentence", "method"),
    "scenarios": Kind(
        "simulations.scenarios",
        "scenario_list",
        "scenario_id",
        "coalesce(name, scenario_id)",
        _retired(),
    ),
    "metrics": Kind(
        "metrics.list",
        "metric_list",
        "metric_id",
        "name || ' ' || trim_scale(value) || ' ' || unit",
        "CASE WHEN is_withdrawn THEN 'withdrawn' ELSE 'counts' END",
        "measured_at",
    ),
    "alerts": Kind("alerts.list", "alert_list", "alert_id", "sentence", "state", "raised_at"),
    "schedules": Kind("schedules.list", "schedule_list", "schedule_id", "name", "state"),
    "tasks": Kind("tasks.list", "task_list", "task_id", "kind", "state", "requested_at"),
}


class Entity(Row):
    """An entity in one line. ``at``: when it came about, of kinds whose newest stand first."""

    id: str
    title: str
    state: str
    at: datetime | None


class Entities(Row):
    """A kind's entities: how many (null where they were searched), and the first. ``more``: there
    are more than were counted, or than are on this page."""

    kind: str
    count: int | None
    more: bool
    items: tuple[Entity, ...]


class _Counted(Row):
    kind: str
    count: int
    items: list[dict[str, Any]]


def _columns(kind: Kind) -> str:
    return (
        f"{kind.id_} AS id, coalesce({kind.title}, {kind.id_}) AS title, "
        f"coalesce({kind.state}, '') AS state, {kind.at or 'NULL::timestamptz'} AS at"
    )


def _order(kind: Kind) -> str:
    return f"{kind.at} DESC, {kind.id_} DESC" if kind.at else kind.id_


@cache
def _overview(names: tuple[str, ...]) -> str:
    return "\nUNION ALL\n".join(
        f"""SELECT '{name}' AS kind, (SELECT count(*) FROM (
            SELECT FROM read_models.{kind.table}
            WHERE organisation_id = %(organisation_id)s LIMIT {MOST_COUNTED + 1}) counted) AS count,
        (SELECT coalesce(jsonb_agg(e), '[]') FROM (
            SELECT {_columns(kind)} FROM read_models.{kind.table}
            WHERE organisation_id = %(organisation_id)s ORDER BY {_order(kind)} LIMIT {FIRST}
        ) e) AS items"""
        for name, kind in ((name, KINDS[name]) for name in names)
    )


@cache
def _search(name: str) -> str:
    kind = KINDS[name]
    behind = (
        f"(%(after_at)s::timestamptz IS NULL OR ({kind.at}, {kind.id_}) "
        "< (%(after_at)s::timestamptz, %(after_id)s::text))"
        if kind.at
        else f"(%(after_id)s::text IS NULL OR {kind.id_} > %(after_id)s)"
    )
    return f"""SELECT {_columns(kind)} FROM read_models.{kind.table}
        WHERE organisation_id = %(organisation_id)s
          AND (%(like)s::text IS NULL OR {kind.id_} ILIKE %(like)s OR {kind.title} ILIKE %(like)s)
          AND {behind}
        ORDER BY {_order(kind)} LIMIT %(limit)s"""


async def overview(read: ReadModels, kinds: Collection[str]) -> tuple[Entities, ...]:
    """Of each kind how many there are, and the first of them, in one query."""
    if not kinds:
        return ()
    rows = await read.rows(_Counted, _overview(tuple(name for name in KINDS if name in kinds)))
    return tuple(
        Entities(
            kind=row.kind,
            count=min(row.count, MOST_COUNTED),
            more=row.count > MOST_COUNTED,
            items=tuple(Entity(**item) for item in row.items),
        )
        for row in rows
    )


async def search(
    read: ReadModels,
    kind: str,
    *,
    text: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Entity]:
    """The entities of a kind whose id or title holds a text; the newest first where they have a
    time, by id otherwise.

    Raises:
        BadCursor: the cursor was not given by this list.
    """
    at = KINDS[kind].at is not None
    after: tuple[Any, ...] = (None, None)
    if cursor:
        after = decode(cursor, datetime, str) if at else (None, *decode(cursor, str))
    rows = await read.rows(
        Entity,
        _search(kind),
        like=containing(text),
        after_at=after[0],
        after_id=after[1],
        limit=limit + 1,
    )
    return page(rows, limit, lambda row: (row.at, row.id) if at else (row.id,))
