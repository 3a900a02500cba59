"""Route rules: one, many, and those that may forbid something."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from domain.catalogue import decode, type_of
from domain.route_rules import ROUTE_RULES, STREAM, RouteRule
from readmodels.database import ReadModels, Row
from readmodels.history import HistoryEntry, history
from readmodels.page import MAX_LIMIT, Page, encode
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

_UNTIL = "(described->>'valid_until')::timestamptz"

_RULE = f"""rule_id, name, source, valid_from, {_UNTIL} AS valid_until,
    described->>'source_url' AS source_url,
    described->'zone' AS zone,
    described->'forbids' AS forbids,
    nullif(described->'hours', 'null'::jsonb) AS hours,
    coalesce(described->'exempt_vehicles', '[]'::jsonb) AS exempt_vehicles,
    set_by, set_at, lifted, CASE WHEN lifted THEN lifted_by END AS lifted_by,
    CASE WHEN lifted THEN lifted_at END AS lifted_at,
    CASE WHEN lifted THEN lift_reason END AS lift_reason, last_position"""

_GET = f"""SELECT {_RULE} FROM read_models.route_rule_list
    WHERE organisation_id = %(organisation_id)s AND rule_id = %(rule_id)s"""

_LIST = f"""SELECT {_RULE} FROM read_models.route_rule_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(lifted)s::bool IS NULL OR lifted = %(lifted)s)
      AND (%(valid_at)s::timestamptz IS NULL OR (
            NOT lifted AND valid_from <= %(valid_at)s
            AND ({_UNTIL} IS NULL OR {_UNTIL} > %(valid_at)s)))
      AND (%(found)s::text IS NULL OR rule_id ILIKE %(found)s OR name ILIKE %(found)s
           OR source ILIKE %(found)s OR described->'zone'->>'name' ILIKE %(found)s)"""

SORTING = Sorting(
    {
        "rule_id": Column(str),
        "name": Column(str),
        "source": Column(str),
        "valid_from": Column(datetime),
        "valid_until": Column(datetime, nullable=True, sql=_UNTIL),
        "set_at": Column(datetime),
        "last_position": Column(int),
    },
    usual="rule_id",
    key=("rule_id",),
)


class StoredRule(Row):
    """A rule of the road: a zone, whom it is closed to, when, and which law says so.

    ``zone``: a polygon of points or a circle. ``forbids``: vehicles and loads to which all that is
    named there applies. ``hours``: when it holds, by the clock of its zone; null: always.
    """

    rule_id: str
    name: str
    source: str
    source_url: str | None
    zone: dict[str, Any]
    forbids: dict[str, Any]
    hours: dict[str, Any] | None
    valid_from: datetime
    valid_until: datetime | None
    exempt_vehicles: list[str]
    set_by: str
    set_at: datetime
    lifted: bool
    lifted_by: str | None
    lifted_at: datetime | None
    lift_reason: str | None
    last_position: int


async def get_rule(read: ReadModels, rule_id: str) -> StoredRule | None:
    """One rule, or None."""
    return await read.one(StoredRule, _GET, rule_id=rule_id)


async def list_rules(
    read: ReadModels,
    *,
    lifted: bool | None = None,
    valid_at: datetime | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[StoredRule]:
    """Rules by id. ``valid_at``: those not lifted whose validity has that moment, be it outside of
    their hours. ``search`` is looked for in id, name, source and the zone's name.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        StoredRule,
        _LIST + by.sql,
        lifted=lifted,
        valid_at=valid_at,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)


async def standing_rules(read: ReadModels) -> tuple[RouteRule, ...]:
    """The rules that were set and not lifted, by id, straight from the log: what
    ``domain.route_rules.broken`` wants."""
    events = [
        decode(stored.topic, stored.state)
        for stored in await read.stream(STREAM)
        if type_of(stored.topic) is not None
    ]
    rules = ROUTE_RULES.fold(events).rules
    return tuple(rules[rule_id] for rule_id in sorted(rules))


async def rule_history(
    read: ReadModels, rule_id: str, *, cursor: str | None = None, limit: int = 50
) -> Page[HistoryEntry]:
    """What happened to one rule, the oldest first: its events among those of the one stream.

    Raises:
        BadCursor: the cursor was not given by this query.
    """
    found: list[HistoryEntry] = []
    after = cursor
    while len(found) <= limit:
        page = await history(read, STREAM, cursor=after, limit=MAX_LIMIT)
        found += [one for one in page.items if (one.data or {}).get("rule_id") == rule_id]
        after = page.next_cursor
        if after is None:
            break
    items = tuple(found[:limit])
    more = encode((items[-1].version,)) if len(found) > limit else None
    return Page[HistoryEntry](items=items, next_cursor=more)
