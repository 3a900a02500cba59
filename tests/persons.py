"""People in tests: the application with a master key, and all that a database holds as text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import sql

from chainlytics.application import Application, application

MASTER = b"m" * 32


@asynccontextmanager
async def wired(url: str) -> AsyncIterator[Application]:
    """The application beside the server, with the same master key."""
    async with application(url, pool_size=4, master=lambda: MASTER) as app:
        yield app


def everything_stored(url: str) -> Iterator[tuple[str, str]]:
    """Every row of every table as text, with its table; bytes as text too."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            """SELECT schemaname, tablename FROM pg_tables
            WHERE schemaname IN ('public', 'read_models')"""
        ).fetchall()
        assert len(tables) > 20
        for schema, name in tables:
            table = sql.Identifier(schema, name)
            for (row,) in connection.execute(sql.SQL("SELECT t::text FROM {} t").format(table)):
                yield name, row


def places_of(url: str, words: list[str]) -> set[str]:
    """The tables that hold one of the words, as text or as bytes."""
    wanted = [*words, *(word.encode().hex() for word in words)]
    return {name for name, row in everything_stored(url) if any(one in row for one in wanted)}


def query(url: str, text: str, *values: Any) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(text.encode(), values).fetchall()
