"""The history of an entity over HTTP: each area's endpoint asks for its own stream here."""

from __future__ import annotations

from api.dependencies import NotFound
from readmodels import history
from readmodels.database import ReadModels
from readmodels.history import HistoryEntry
from readmodels.page import Page

__all__ = ["HistoryEntry", "history_of"]


async def history_of(
    read: ReadModels, stream: str, what: str, name: str, cursor: str | None, limit: int
) -> Page[HistoryEntry]:
    """A page of the history of an entity.

    Args:
        read: of the caller, as ``reading("<area>.history")`` gives it, without tables.
        stream: the entity's stream, as ``product_stream(sku)`` names it.
        what, name: what the entity is and its id, for the 404.

    Raises:
        NotFound: the stream has no event (at the moment that is asked about).
    """
    found = await history.history(read, stream, cursor=cursor, limit=limit)
    if not found.items and cursor is None:
        raise NotFound(what, name)
    return found
