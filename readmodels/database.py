"""Runs queries: SQL in, typed rows out, always of one organisation.

They run as a role that owns nothing, and Postgres shows it the rows of that organisation alone
(docs/adr/0035): a query that forgot its organisation would find nothing of others.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import class_row
from pydantic import BaseModel, ConfigDict

from eventstore import Log, StoredEvent
from eventstore.ids import named_id
from eventstore.log import Connection
from projections.rows import copy_into_temporary
from readmodels.past import AsOf, NotByEffectiveTime, Past

_NAMED = re.compile(r"\bread_models\.(\w+)")
#: Those of some read models that were folded from a log that is no longer there.
_DIVERGED = "ARRAY(SELECT diverged(%s))"
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


class ReadModelOutdated(Exception):
    """A read model is not yet, or no longer, of the declaration that a query is written for."""

    def __init__(self, names: Sequence[str], error: Exception) -> None:
        self.names = tuple(names)
        super().__init__(
            f"the read model {' and '.join(names)} was made by another declaration than this "
            f"query's ({str(error).splitlines()[0]}); it is being rebuilt, or was rolled back"
        )


class ReadModels:
    """The read models of one organisation, as they stand or as of a moment in the past.

    Every query has the parameter ``organisation_id``; none runs without it. A parameter that is
    named like a key column of a read model is its value, where it is not None: of the past no other
    rows are folded.

    Args:
        log: the log.
        organisation_id: whose.
        past: folds what a query needs, where it is asked of the past.
        as_of: when; None is now.
    """

    def __init__(
        self,
        log: Log,
        organisation_id: UUID,
        past: Past | None = None,
        as_of: AsOf | None = None,
    ) -> None:
        self._log = log.of(organisation_id)
        self._organisation_id = organisation_id
        self._past = past
        self._as_of = as_of

    @property
    def organisation_id(self) -> UUID:
        """Whose they are."""
        return self._organisation_id

    async def rows(self, model: type[T], query: str, **parameters: Any) -> list[T]:
        """The rows of a query.

        Raises:
            ReadModelDiverged: a read model of the query was folded from a log that is gone.
            ReadModelOutdated: a read model of the query has other columns than it names.
            NotByEffectiveTime: it was asked by times that a read model does not know.
            LogUnavailable: the database gave no connection in time.
        """
        bound: Mapping[str, Any] = parameters | {"organisation_id": self._organisation_id}
        if "%(organisation_id)s" not in query:
            raise ValueError("a query without an organisation is not run")
        if self._past is not None and self._as_of is not None:
            return await self._rows_as_of(self._past, self._as_of, model, query, bound)
        names = _read_models(query)
        async with (
            self._log.connection() as connection,
            connection.cursor(row_factory=class_row(model)) as cursor,
        ):
            try:
                # The check comes first: between the two a table can only become right.
                async with self._log.together(connection, _DIVERGED, names) as check:
                    await cursor.execute(query, bound)
            except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable) as error:
                raise ReadModelOutdated(names, error) from error
            for _, diverged in await check.fetchall():
                if diverged:
                    raise ReadModelDiverged(diverged)
            return await cursor.fetchall()

    async def _rows_as_of(
        self, past: Past, as_of: AsOf, model: type[T], query: str, bound: Mapping[str, Any]
    ) -> list[T]:
        """The same query on tables of this transaction alone, which hold the rows of that time."""
        names = _read_models(query)
        folded = [await past.rows(name, self._organisation_id, as_of, bound) for name in names]
        async with (
            self._log.transaction() as connection,
            connection.cursor(row_factory=class_row(model)) as cursor,
        ):
            for name, rows in zip(names, folded, strict=True):
                await copy_into_temporary(connection, past.table(name), rows)
            # Planned for this once: the next transaction has other tables of that name.
            await cursor.execute(_NAMED.sub(r"pg_temp.\1", query), bound, prepare=False)
            return await cursor.fetchall()

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[tuple[Connection, sql.Identifier]]:
        """A transaction in which a whole read model can be read at leisure, and what the read model
        is called in it. Who reads says how long that may take.

        Raises:
            ReadModelDiverged, NotByEffectiveTime, LogUnavailable: as ``rows``.
        """
        folded = None
        if self._past is not None and self._as_of is not None:
            bound = {"organisation_id": self._organisation_id}
            folded = await self._past.rows(name, self._organisation_id, self._as_of, bound)
        async with self._log.transaction() as connection:
            await connection.execute("SET LOCAL statement_timeout = 0")
            if self._past is not None and folded is not None:
                await copy_into_temporary(connection, self._past.table(name), folded)
                yield connection, sql.Identifier("pg_temp", name)
                return
            cursor = await connection.execute(f"SELECT {_DIVERGED}", ([name],))
            for (diverged,) in await cursor.fetchall():
                if diverged:
                    raise ReadModelDiverged(diverged)
            yield connection, sql.Identifier("read_models", name)

    async def records(self, model: type[T], query: str, **parameters: Any) -> list[T]:
        """The rows of a query of tables beside the log: who did what, who looked at whom. They are
        written by whoever acts, so they are always of now."""
        if "%(organisation_id)s" not in query:
            raise ValueError("a query without an organisation is not run")
        bound: Mapping[str, Any] = parameters | {"organisation_id": self._organisation_id}
        async with (
            self._log.connection() as connection,
            connection.cursor(row_factory=class_row(model)) as cursor,
        ):
            async with self._log.together(connection):
                await cursor.execute(query, bound)
            return await cursor.fetchall()

    async def events(self, positions: Sequence[int]) -> dict[int, StoredEvent]:
        """The organisation's events at some positions of the log, wherever they are."""
        return await self._log.at(positions)

    async def stream(self, name: str) -> list[StoredEvent]:
        """A stream's events, up to the moment that is asked about: as the log has them, whatever
        the projector does.

        Raises:
            NotByEffectiveTime: it was asked by effective time, which streams are not read by.
        """
        if self._as_of is not None and self._as_of.effective_at is not None:
            raise NotByEffectiveTime(f"the stream {name} is read by the log's order only")
        id_ = self.stream_id(name)
        events = (await self._log.streams([id_])).get(id_, [])
        if self._as_of is None:
            return events
        return [event for event in events if event.position <= self._as_of.position]

    async def stream_after(self, name: str, version: int, limit: int) -> list[StoredEvent]:
        """At most ``limit`` events of a stream behind a version, up to the moment that is asked
        about.

        Raises:
            NotByEffectiveTime: it was asked by effective time, which streams are not read by.
        """
        if self._as_of is not None and self._as_of.effective_at is not None:
            raise NotByEffectiveTime(f"the stream {name} is read by the log's order only")
        events = await self._log.stream_after(self.stream_id(name), version, limit)
        if self._as_of is None:
            return events
        return [event for event in events if event.position <= self._as_of.position]

    def stream_id(self, name: str) -> UUID:
        """The log's id of a stream of the organisation."""
        return named_id(self._organisation_id, name)

    async def one(self, model: type[T], query: str, **parameters: Any) -> T | None:
        """The only row of a query, or None."""
        found = await self.rows(model, query, **parameters)
        return found[0] if found else None


@lru_cache(maxsize=1024)  # lists that are sorted have many texts
def _read_models(query: str) -> list[str]:
    """The read models that a query names."""
    found = sorted(set(_NAMED.findall(query)))
    if not found:
        raise ValueError("a query of no read model is not run")
    return found
