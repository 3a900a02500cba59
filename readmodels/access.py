"""Who may ask which query. A query that is not named here may be asked by nobody."""

from __future__ import annotations

from collections.abc import Mapping

from domain.access import READ, Role

QUERIES: Mapping[str, frozenset[Role]] = {
    "orders.list": READ,
    "orders.get": READ,
    "orders.timeline": READ,
    "sites.list": READ,
    "sites.get": READ,
    "stock.list": READ,
    "decisions.list": READ,
    "decisions.get": READ,
    "decisions.explanation": READ,
    "decisions.replay": frozenset({Role.ADMIN, Role.ANALYST, Role.AUDITOR}),
    "models.list": READ,
    "models.get": READ,
    "kpis.daily": READ,
    "projections.list": READ,
    "projections.dead_letters": frozenset({Role.ADMIN, Role.ANALYST, Role.AUDITOR}),
    "metrics.read": READ,
    "audit.trail": frozenset({Role.ADMIN, Role.AUDITOR}),
    "stream.events": frozenset({Role.ADMIN, Role.ANALYST, Role.AUDITOR, Role.SERVICE}),
}
