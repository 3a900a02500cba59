"""Runs queries: SQL in, typed rows out, always of one organisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

from psycopg.rows import class_row
from pydantic import BaseModel, ConfigDict

from eventstore import Log

T = TypeVar("T", bound=BaseModel)


class Row(BaseModel):
    """A row as a query gives it."""

    model_config = ConfigDict(frozen=True)


class ReadModels:
    """The read models of one organisation.

    Every query has the parameter ``organisation_id``; none runs without it.
    """

    def __init__(self, log: Log, organisation_id: UUID) -> None:
        self._log = log
        self._organisation_id = organisation_id

    async def rows(self, model: type[T], query: str, **parameters: Any) -> list[T]:
        """The rows of a query.

        Raises:
            LogUnavailable: the database gave no connection in time.
        """
        bound: Mapping[str, Any] = parameters | {"organisation_id": self._organisation_id}
        if "%(organisation_id)s" not in query:
            raise ValueError("a query without an organisation is not run")
        async with (
            self._log.connection() as connection,
            connection.cursor(row_factory=class_row(model)) as cursor,
        ):
            await cursor.execute(query, bound)
            return await cursor.fetchall()

    async def one(self, model: type[T], query: str, **parameters: Any) -> T | None:
        """The only row of a query, or None."""
        found = await self.rows(model, query, **parameters)
        return found[0] if found else None
