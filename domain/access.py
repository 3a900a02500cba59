"""Who may act: the roles that permissions name."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """A role within one organisation."""

    ADMIN = "admin"
    ANALYST = "analyst"
    VIEWER = "viewer"
    AUDITOR = "auditor"
    SERVICE = "service"


#: Runs the daily business: orders and stock.
OPERATE = frozenset({Role.ADMIN, Role.SERVICE})
#: Plans: asks for decisions, proposes models.
PLAN = OPERATE | {Role.ANALYST}
#: Answers requests: consumers only.
SERVE = frozenset({Role.SERVICE})
#: Sees personal data in plain words.
PERSONAL = OPERATE
#: Looks at anything of the organisation, at personal data through masks.
READ = frozenset(Role)
