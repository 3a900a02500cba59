"""The day counted again, from the log's JSON by SQL alone: none of our folds has a part in it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg

_EVENTS = """CREATE TEMP TABLE told AS
    SELECT notification_id AS position, split_part(topic, '.', 2) AS what,
        convert_from(state, 'UTF8')::jsonb AS said
    FROM events WHERE organisation_id = %(own)s AND (topic LIKE 'orders.%%'
        OR topic LIKE 'inventory.%%' OR topic LIKE 'decisions.Decision%%')"""

# What stands on each shelf behind each movement.
_SHELVES = """CREATE TEMP TABLE shelves AS
    SELECT said->>'site_id' AS site_id, said->>'sku' AS sku, position,
        sum(on_hand) OVER own AS on_hand, sum(reserved) OVER own AS reserved
    FROM told CROSS JOIN LATERAL (SELECT (said->>'quantity')::numeric AS quantity) AS q
        CROSS JOIN LATERAL (SELECT
            CASE what WHEN 'StockReceived' THEN quantity WHEN 'StockReturned' THEN quantity
                WHEN 'StockPicked' THEN -quantity
                WHEN 'StockAdjusted' THEN (said->>'change')::numeric
                ELSE 0 END AS on_hand,
            CASE what WHEN 'StockReserved' THEN quantity WHEN 'StockReleased' THEN -quantity
                WHEN 'StockPicked' THEN -coalesce((said->>'reserved')::numeric, 0)
                ELSE 0 END AS reserved) AS moved
    WHERE what LIKE 'Stock%' AND what NOT LIKE 'StockKeeping%'
    WINDOW own AS (PARTITION BY said->>'site_id', said->>'sku' ORDER BY position)"""

_NEGATIVE = """SELECT count(*) FROM shelves
    WHERE on_hand < 0 OR reserved < 0 OR on_hand < reserved"""

_STOCK = """SELECT count(*) FROM (
        SELECT DISTINCT ON (site_id, sku) site_id, sku, on_hand, reserved
        FROM shelves ORDER BY site_id, sku, position DESC
    ) AS counted FULL JOIN (
        SELECT site_id, sku, on_hand, reserved FROM read_models.stock_levels
        WHERE organisation_id = %(own)s
    ) AS shown USING (site_id, sku)
    WHERE counted.on_hand IS DISTINCT FROM shown.on_hand
        OR counted.reserved IS DISTINCT FROM coalesce(shown.reserved, 0)"""

# Money and units of each order as its lines have them, and what became of it.
_ORDERS = """SELECT count(*) FROM (
        SELECT said->>'order_id' AS order_id, lines.goods, lines.units,
            said->>'customer_id' AS customer_id
        FROM told CROSS JOIN LATERAL (
            SELECT sum(round((one->>'quantity')::numeric * (one->>'unit_price_minor')::numeric))
                    AS goods,
                sum((one->>'quantity')::numeric) AS units
            FROM jsonb_array_elements(said->'lines') AS one
        ) AS lines WHERE what = 'OrderPlaced'
    ) AS counted FULL JOIN (
        SELECT order_id, goods_minor, units, customer_id FROM read_models.order_summary
        WHERE organisation_id = %(own)s
    ) AS shown USING (order_id)
    WHERE (counted.goods, counted.units, counted.customer_id)
        IS DISTINCT FROM (shown.goods_minor::numeric, shown.units, shown.customer_id)"""

_ENDED = """SELECT count(*) FROM (
        SELECT said->>'order_id' AS order_id, bool_or(what = 'OrderDelivered') AS delivered,
            bool_or(what = 'OrderCancelled') AS cancelled
        FROM told WHERE what LIKE 'Order%%' GROUP BY 1
    ) AS counted FULL JOIN (
        SELECT order_id, status FROM read_models.order_summary WHERE organisation_id = %(own)s
    ) AS shown USING (order_id)
    WHERE coalesce(counted.delivered, false) <> (shown.status = 'delivered')
        OR coalesce(counted.cancelled, false) <> (shown.status = 'cancelled')
        OR shown.order_id IS NULL OR counted.order_id IS NULL"""

_DAYS = """SELECT count(*) FROM (
        SELECT (said->>'placed_at')::timestamptz::date AS day, said->>'currency' AS currency,
            count(*) FILTER (WHERE what = 'OrderPlaced') AS orders,
            count(*) FILTER (WHERE what = 'OrderDelivered') AS delivered,
            count(*) FILTER (WHERE what = 'OrderDelivered'
                AND (said->>'delivered_at')::timestamptz > (said->>'promised_at')::timestamptz)
                AS late,
            count(*) FILTER (WHERE what = 'OrderCancelled') AS cancelled
        FROM told WHERE what IN ('OrderPlaced', 'OrderDelivered', 'OrderCancelled') GROUP BY 1, 2
    ) AS counted FULL JOIN (
        SELECT day, currency, orders, delivered, late, cancelled FROM read_models.daily_kpis
        WHERE organisation_id = %(own)s
    ) AS shown USING (day, currency)
    WHERE (counted.orders, counted.delivered, counted.late, counted.cancelled)
        IS DISTINCT FROM (shown.orders, shown.delivered, shown.late, shown.cancelled)"""

#: Each compares one read model with the recount: how many rows differ.
COMPARED = {
    "stock_levels": _STOCK,
    "order_summary": _ORDERS,
    "order_summary.status": _ENDED,
    "daily_kpis": _DAYS,
}

_PLACED = (
    """SELECT count(*) FROM told WHERE what = 'OrderPlaced' AND said->>'order_id' LIKE 'D-%%'"""
)
_ASKED = """SELECT count(*) FROM told t WHERE what = 'DecisionRequested' AND NOT EXISTS (
    SELECT FROM told a WHERE a.what IN ('DecisionMade', 'DecisionFailed')
        AND a.said->>'decision_id' = t.said->>'decision_id')"""


def recount(
    url: str, organisation_id: UUID, *, placed: int, acknowledged: int, since: int
) -> dict[str, Any]:
    """What is lost, below zero, or other in the tables than in the log.

    Args:
        url: of the database.
        organisation_id: whose day.
        placed: orders that were acknowledged.
        acknowledged: commands of the day that were.
        since: the log position before the day.
    """
    own = {"own": organisation_id}
    with psycopg.connect(url) as connection:

        def number(query: str, **more: Any) -> int:
            row = connection.execute(query.encode(), own | more).fetchone()
            assert row is not None
            return int(row[0])

        connection.execute(_EVENTS.encode(), own)
        connection.execute("CREATE INDEX ON told (what, (said->>'decision_id'))")
        connection.execute("ANALYZE told")
        connection.execute(_SHELVES.encode())
        mismatched = {name: number(query) for name, query in COMPARED.items()}
        stored = number(
            "SELECT count(*) FROM commands WHERE organisation_id = %(own)s"
            " AND position > %(since)s AND split_part(asked, chr(31), 3) = 'day'",
            since=since,
        )
        return {
            "lost": abs(placed - number(_PLACED)) + abs(acknowledged - stored) + number(_ASKED),
            "negative_stock": number(_NEGATIVE),
            "mismatched_totals": sum(mismatched.values()),
            "mismatched": {name: count for name, count in mismatched.items() if count},
        }
