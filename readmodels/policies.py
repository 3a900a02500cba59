"""Policies: when people take over decisions of a kind, and whether it is stopped."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from domain.policies import SetPolicy
from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page

_COLUMNS = """kind, version, policy, set_by, set_at, coalesce(stopped, false) AS stopped,
    CASE WHEN stopped THEN stopped_by END AS stopped_by,
    CASE WHEN stopped THEN stopped_reason END AS stopped_reason,
    CASE WHEN stopped THEN stopped_at END AS stopped_at, last_position"""

_GET = f"""SELECT {_COLUMNS} FROM read_models.policy_list
    WHERE organisation_id = %(organisation_id)s AND kind = %(kind)s"""

_LIST = f"""SELECT {_COLUMNS} FROM read_models.policy_list
    WHERE organisation_id = %(organisation_id)s AND kind > %(after)s
    ORDER BY kind LIMIT %(limit)s"""


class _Stored(Row):
    kind: str
    version: int
    policy: dict[str, Any] | None
    set_by: str | None
    set_at: datetime | None
    stopped: bool
    stopped_by: str | None
    stopped_reason: str | None
    stopped_at: datetime | None
    last_position: int


class PolicySummary(Row):
    """The policy of a kind as it holds now; ``set_by`` is null where nobody has set one, then it
    is the usual one."""

    kind: str
    version: int = 0
    minimum_confidence: float
    four_eyes_above_minor: int | None
    max_psi: float
    max_ks: float
    max_calibration_error: float
    max_accuracy_drop: float
    max_override_rate: float
    set_by: str | None = None
    set_at: datetime | None = None
    stopped: bool = False
    stopped_by: str | None = None
    stopped_reason: str | None = None
    stopped_at: datetime | None = None
    last_position: int = 0


async def get_policy(read: ReadModels, kind: str) -> PolicySummary:
    """The policy of a kind: the usual one where none was set."""
    found = await read.one(_Stored, _GET, kind=kind)
    return _usual(kind) if found is None else _told(found)


async def list_policies(
    read: ReadModels, *, cursor: str | None = None, limit: int = 50
) -> Page[PolicySummary]:
    """The policies of the kinds that have one set or were stopped, by kind."""
    (after,) = decode(cursor, str) if cursor else ("",)
    rows = await read.rows(_Stored, _LIST, after=after, limit=limit + 1)
    return page([_told(row) for row in rows], limit, lambda row: (row.kind,))


def _usual(kind: str) -> PolicySummary:
    values = {
        name: field.default
        for name, field in SetPolicy.model_fields.items()
        if not field.is_required()
    }
    return PolicySummary(kind=kind, **values)


def _told(stored: _Stored) -> PolicySummary:
    given = {} if stored.policy is None else stored.policy
    said = {name: value for name, value in given.items() if name in PolicySummary.model_fields}
    rest = stored.model_dump(exclude={"policy"})
    return PolicySummary(**(_usual(stored.kind).model_dump() | said | rest))
