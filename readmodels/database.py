"""Runs queries: SQL in, typed rows out, always of one organisation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

from psycopg.rows import class_row
from pydantic import BaseModel, ConfigDict

from eventstore import Log
from projections.store import DIVERGED

_NAMED = re.compile(r"\bread_models\.(\w+)")
_DIVERGED = f"""SELECT p.name FROM projections p
    WHERE p.name = ANY(%s) AND {DIVERGED} ORDER BY p.name"""
T = TypeVar("T", bound=BaseModel)


class Row(BaseModel):
    """A row as a query gives it."""

    model_config = ConfigDict(frozen=True)


class ReadModelDiverged(Exception):
    """Read models were folded from a log that is no longer there: a backup was restored."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(
            f"the read model {' and '.join(names)} was folded from a log that is no longer there; "
            "it is being rebuilt"
        )


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
            ReadModelDiverged: a read model of the query was folded from a log that is gone.
            LogUnavailable: the database gave no connection in time.
        """
        bound: Mapping[str, Any] = parameters | {"organisation_id": self._organisation_id}
        if "%(organisation_id)s" not in query:
            raise ValueError("a query without an organisation is not run")
        async with (
            self._log.connection() as connection,
            connection.cursor() as check,
            connection.cursor(row_factory=class_row(model)) as cursor,
        ):
            # One round trip. The check comes first: between the two a table can only become right.
            async with connection.pipeline():
                await check.execute(_DIVERGED, (_read_models(query),), prepare=False)
                await cursor.execute(query, bound)
            if diverged := await check.fetchall():
                raise ReadModelDiverged([name for (name,) in diverged])
            return await cursor.fetchall()

    async def one(self, model: type[T], query: str, **parameters: Any) -> T | None:
        """The only row of a query, or None."""
        found = await self.rows(model, query, **parameters)
        return found[0] if found else None


@cache
def _read_models(query: str) -> list[str]:
    """The read models that a query names."""
    found = sorted(set(_NAMED.findall(query)))
    if not found:
        raise ValueError("a query of no read model is not run")
    return found
