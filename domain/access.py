"""Who may act: the roles that permissions name, and how commands name them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from domain.errors import Refused


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

#: SHA-256 in hexadecimal.
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _once(roles: tuple[Role, ...]) -> tuple[Role, ...]:
    if len(set(roles)) < len(roles):
        raise ValueError("each role is named once")
    return tuple(sorted(roles))


Roles = Annotated[
    tuple[Role, ...],
    Field(min_length=1, max_length=len(Role), examples=[["analyst"]]),
    AfterValidator(_once),
]
#: What the actor of an API key begins with.
KEY_ACTOR = "key:"


def roles_of(names: Sequence[str]) -> frozenset[Role]:
    """The roles of these names."""
    # A role that a later version no longer knows allows nothing.
    return frozenset(role for role in Role if role in names)


def must_be_person(actor: str) -> None:
    """No key gives anybody rights: it could give more than its own, for longer than it lives."""
    if actor.startswith(KEY_ACTOR):
        raise Refused("organisation.needs_a_person", actor=actor)
