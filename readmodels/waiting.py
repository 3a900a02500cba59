"""What waits for an answer: orders and stocks that no decision of a kind was asked for."""

from __future__ import annotations

from readmodels.database import ReadModels, Row

_ORDERS = """SELECT o.order_id AS subject_id FROM read_models.order_summary o
    WHERE o.organisation_id = %(organisation_id)s AND o.status = 'placed'
      AND NOT EXISTS (
        SELECT FROM read_models.decision_list d
        WHERE d.organisation_id = o.organisation_id AND d.subject_id = o.order_id
          AND d.kind = %(of_kind)s AND d.stage <> 'failed')
    ORDER BY o.placed_at, o.order_id LIMIT %(limit)s"""

_STOCKS = """SELECT s.site_id || '/' || s.sku AS subject_id FROM (
        SELECT DISTINCT organisation_id, site_id, sku FROM read_models.demand_days
        WHERE organisation_id = %(organisation_id)s) s
    WHERE NOT EXISTS (
        SELECT FROM read_models.decision_list d
        WHERE d.organisation_id = s.organisation_id AND d.subject_id = s.site_id || '/' || s.sku
          AND d.kind = %(of_kind)s AND d.stage NOT IN ('failed', 'closed'))
    ORDER BY 1 LIMIT %(limit)s"""


class _Subject(Row):
    subject_id: str


async def waiting(read: ReadModels, kind: str, limit: int) -> list[str]:
    """Subjects without a decision of a kind: placed orders, the oldest first; for replenishment
    stocks that anything was ever asked of, without one that is still open."""
    query = _STOCKS if kind == "replenishment" else _ORDERS
    return [one.subject_id for one in await read.rows(_Subject, query, of_kind=kind, limit=limit)]
