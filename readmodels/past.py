"""The past of read models: any query as of a log position, or of a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import polars as pl
from polars.exceptions import PolarsError

from eventstore import Log
from projections import dead_letters
from projections.as_of import NotByEffectiveTime, rows_as_of
from projections.catalogue import TABLES
from projections.frames import NewerTopic
from projections.reading import LogReader
from projections.table import Table

__all__ = [
    "AsOf",
    "NotAMoment",
    "NotByEffectiveTime",
    "NotFoldable",
    "NotInThePast",
    "Past",
    "moment_of",
]

#: Questions to the past that are answered at once: each may read all of an organisation's events.
_AT_ONCE = 2


class NotAMoment(ValueError):
    """What is neither a log position nor a time with zone."""


class NotInThePast(ValueError):
    """A position or a time that the log has not come to: its answer could still change."""


@dataclass(frozen=True, slots=True)
class AsOf:
    """When a question is asked of: the last log position that counts, and the moment up to which
    events count by their own time (None: all)."""

    position: int
    effective_at: datetime | None = None


def moment_of(when: int | str | datetime, name: str = "as_of") -> int | datetime:
    """The log position or the time that is named.

    Args:
        when: a position, a time with zone, or the text of one (RFC 3339).
        name: what the caller calls it, for the message.

    Raises:
        NotAMoment: it is neither.
    """
    found: int | str | datetime = when
    if isinstance(when, str):
        try:
            # A plus sign that was not escaped arrives as a space.
            plain = when.isascii() and when.isdigit()
            found = int(when) if plain else datetime.fromisoformat(when.replace(" ", "+"))
        except ValueError:
            pass
    if isinstance(found, datetime) and found.tzinfo is not None:
        return found
    if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
        return found
    raise NotAMoment(
        f"{name}: {str(when)!r} is neither a log position nor a time with zone (RFC 3339), "
        "as in 1234 or 2026-03-31T23:59:59Z"
    )


class NotFoldable(Exception):
    """An event in the way cannot be folded into a read model, and is not parked (yet)."""


class Past:
    """Folds what a query needs from the log.

    Args:
        log: the log.
        url: libpq connection string, for reading in bulk.
        tables: the declarations by name.
    """

    def __init__(self, log: Log, url: str, tables: Mapping[str, Table] = TABLES) -> None:
        self._log = log
        self._url = url
        self._tables = tables
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def at(
        self, when: int | str | datetime | None, effective_at: datetime | None = None
    ) -> AsOf:
        """The moment that a position or a time names, also as text; None names the end of the log.

        Raises:
            NotAMoment: it is neither a position nor a time with zone.
            NotInThePast: the log has not come to it.
        """
        when = None if when is None else moment_of(when)
        if effective_at is not None:
            moment_of(effective_at, "effective_at")
        if isinstance(when, datetime):
            now = datetime.now(UTC)
            if when > now:
                raise NotInThePast(
                    f"as_of: {when.isoformat()} is not in the past, it is {now.isoformat()}"
                )
            when = await self._log.position_at(when)
        head = await self._log.head()  # after that: it may only be further on
        if when is not None and when > head:
            raise NotInThePast(f"as_of: the log ends at position {head}, {when} was asked for")
        return AsOf(head if when is None else when, effective_at)

    def table(self, name: str) -> Table:
        """The declaration of a read model."""
        return self._tables[name]

    async def rows(
        self, name: str, organisation_id: UUID, as_of: AsOf, parameters: Mapping[str, Any]
    ) -> pl.DataFrame:
        """The rows of a read model as of a moment; only those of the keys asked for are folded.

        Args:
            name: the read model.
            organisation_id: whose.
            as_of: when.
            parameters: the query's: one that is named like a column of the key is its value.

        Raises:
            NotByEffectiveTime: the table knows no time from which its events count.
        """
        table = self._tables[name]
        keys = _keys(table, organisation_id, parameters)
        async with self._turns, LogReader(self._url) as reader:
            async with self._log.connection() as connection:
                parked = await dead_letters.parked_positions(connection, table)
            try:
                return await rows_as_of(
                    reader,
                    table,
                    as_of.position,
                    organisation_id=organisation_id,
                    keys=keys,
                    effective_at=as_of.effective_at,
                    parked=parked,
                )
            except (PolarsError, NewerTopic) as error:
                raise NotFoldable(
                    f"{name} cannot be folded up to position {as_of.position} by this code"
                ) from error


def _keys(
    table: Table, organisation_id: UUID, parameters: Mapping[str, Any]
) -> pl.DataFrame | None:
    """The values of key columns that a query names; None where it names none."""
    values = {name: parameters.get(name) for name in table.keys[1:]}
    named = {name: value for name, value in values.items() if value is not None}
    if not named:
        return None
    row = {"organisation_id": str(organisation_id), **named}
    return pl.DataFrame([row], schema={name: table.types[name] for name in row})
