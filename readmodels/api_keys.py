"""API keys, without their secrets."""

from __future__ import annotations

from datetime import datetime

from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.sorting import Column, Sorting

_KEYS = """SELECT key_id, name, roles, scopes, issued_by, issued_at, expires_at, revoked_by,
    revoked_at FROM read_models.api_key_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(issued_by)s::text IS NULL OR issued_by = %(issued_by)s)
      AND (%(revoked)s OR revoked_at IS NULL)"""
KEY_SORTING = Sorting(
    {
        "key_id": Column(str),
        "name": Column(str),
        "issued_at": Column(datetime),
        "expires_at": Column(datetime, nullable=True),
    },
    usual="-issued_at",
    key=("key_id",),
)


class ApiKeyView(Row):
    """A service's key, without its secret. ``scopes`` empty: all that the roles allow."""

    key_id: str
    name: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    issued_by: str
    issued_at: datetime
    expires_at: datetime | None
    revoked_by: str | None
    revoked_at: datetime | None


async def list_api_keys(
    read: ReadModels,
    *,
    revoked: bool = False,
    issued_by: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[ApiKeyView]:
    """API keys that were not revoked, or all of them, the newest first.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = KEY_SORTING.by(sort, cursor)
    rows = await read.rows(
        ApiKeyView,
        f"{_KEYS} {by.sql}",
        revoked=revoked,
        issued_by=issued_by,
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)
