"""Who may ask which query. A query that is not named here may be asked by nobody."""

from __future__ import annotations

from collections.abc import Mapping

from domain.access import OPERATE, PERSONAL, READ, Role

#: Asks models what they would say, and the log again what was said.
_PROBE = frozenset({Role.ADMIN, Role.ANALYST, Role.AUDITOR})

#: Of the whole server, not of one organisation: for the operator's own tokens only.
OF_THE_SERVER = frozenset({"metrics.read", "relay.get", "archive.segments"})

QUERIES: Mapping[str, frozenset[Role]] = {
    "orders.list": READ,
    "orders.get": READ,
    "orders.timeline": READ,
    "sites.list": READ,
    "sites.get": READ,
    "stock.list": READ,
    "vehicles.list": READ,
    "vehicles.get": READ,
    "routes.list": READ,
    "decisions.list": READ,
    "decisions.get": READ,
    "decisions.explanation": READ,
    "decisions.timeline": READ,
    "decisions.replay": _PROBE,
    "decisions.bundle": frozenset({Role.ADMIN, Role.AUDITOR}),
    "decisions.what_if": _PROBE,
    "decisions.counterfactual": _PROBE,
    "decisions.hypothetical": _PROBE,
    "kinds.list": READ,
    "models.list": READ,
    "models.get": READ,
    "models.live": READ,
    "models.deployments": READ,
    "models.measurements": READ,
    "models.months": READ,
    "models.alerts": READ,
    "models.card": READ,
    "people.find": PERSONAL,
    "people.get": READ,
    "policies.list": READ,
    "policies.get": READ,
    "kpis.daily": READ,
    "kpis.decisions": READ,
    "projections.list": READ,
    "projections.dead_letters": frozenset({Role.ADMIN, Role.ANALYST, Role.AUDITOR}),
    "organisation.get": READ,
    "organisation.permissions": READ,
    "members.list": READ,
    "members.get": READ,
    "invitations.list": frozenset({Role.ADMIN}),
    "api_keys.list": frozenset({Role.ADMIN, Role.AUDITOR}),
    "tasks.list": READ,
    "tasks.get": READ,
    "tasks.result": _PROBE | OPERATE,
    "uploads.create": OPERATE,
    "relay.get": READ,
    "metrics.read": READ,
    "archive.segments": frozenset({Role.ADMIN, Role.AUDITOR}),
    "audit.trail": frozenset({Role.ADMIN, Role.AUDITOR}),
    "audit.proofs": frozenset({Role.ADMIN, Role.AUDITOR}),
    "audit.commands": frozenset({Role.ADMIN, Role.AUDITOR}),
    "audit.personal_access": frozenset({Role.ADMIN, Role.AUDITOR}),
    "audit.retention": frozenset({Role.ADMIN, Role.AUDITOR}),
    "audit.witnesses": frozenset({Role.ADMIN, Role.AUDITOR}),
    "webhooks.list": frozenset({Role.ADMIN, Role.AUDITOR}),
    "webhooks.get": frozenset({Role.ADMIN, Role.AUDITOR}),
    "webhooks.deliveries": frozenset({Role.ADMIN, Role.AUDITOR}),
    "webhooks.replay": frozenset({Role.ADMIN}),
    "webhooks.test": frozenset({Role.ADMIN}),
    "stream.events": frozenset({Role.ADMIN, Role.ANALYST, Role.AUDITOR, Role.SERVICE}),
}
