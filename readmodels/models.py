"""Models: what was registered, approved and deployed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page

_COLUMNS = """m.model_hash, m.kind, m.stage, m.registered_by, m.registered_at, m.approved_by,
    m.approved_at, m.deployed_by, m.deployed_at, m.deployed_position, m.last_position,
    (c.model_hash IS NOT NULL) AS champion"""

_FROM = """FROM read_models.model_list m LEFT JOIN read_models.champions c
    ON c.organisation_id = m.organisation_id AND c.model_hash = m.model_hash
    WHERE m.organisation_id = %(organisation_id)s"""

_GET = f"SELECT {_COLUMNS}, m.registered {_FROM} AND m.model_hash = %(model_hash)s"

_LIST = f"""SELECT {_COLUMNS} {_FROM}
      AND (%(before)s::timestamptz IS NULL
           OR (m.registered_at, m.model_hash) < (%(before)s::timestamptz, %(before_hash)s::text))
    ORDER BY m.registered_at DESC, m.model_hash DESC LIMIT %(limit)s"""


class ModelSummary(Row):
    """A model and where it stands; ``champion``: it answers requests of its kind now."""

    model_hash: str
    kind: str
    stage: str
    champion: bool
    registered_by: str
    registered_at: datetime
    approved_by: str | None
    approved_at: datetime | None
    deployed_by: str | None
    deployed_at: datetime | None
    deployed_position: int | None
    last_position: int


class ModelDetail(ModelSummary):
    """A model with its training, its metrics and its baseline's, as registered."""

    registered: dict[str, Any]


async def get_model(read: ReadModels, model_hash: str) -> ModelDetail | None:
    """One model, or None."""
    return await read.one(ModelDetail, _GET, model_hash=model_hash)


async def list_models(
    read: ReadModels, *, cursor: str | None = None, limit: int = 50
) -> Page[ModelSummary]:
    """Models, the latest registered first."""
    before, before_hash = decode(cursor, datetime, str) if cursor else (None, None)
    rows = await read.rows(
        ModelSummary, _LIST, before=before, before_hash=before_hash, limit=limit + 1
    )
    return page(rows, limit, lambda row: (row.registered_at, row.model_hash))
