"""Postgres answers as polars frames: Arrow by ADBC, the fastest way out of it.

ADBC calls *database* what knows a server's types. To open one reads the whole catalogue of types
and columns (0.3 s where there are a hundred tables), a connection of an open one takes some ms: so
it is opened once for each URL and kept. It holds no connection, and Postgres' own types, which are
all that we ask for, have the same ids on every server.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from types import TracebackType
from typing import Self

import adbc_driver_postgresql
import polars as pl
import psycopg
from adbc_driver_manager import AdbcConnection, AdbcDatabase, AdbcStatement
from adbc_driver_manager import Error as DriverError

_DATABASES_KEPT = 16


@lru_cache(_DATABASES_KEPT)
def _database(url: str) -> AdbcDatabase:
    found: AdbcDatabase = adbc_driver_postgresql.connect(url)
    return found


class ArrowConnection:
    """A connection for queries whose answers are frames. Not for two threads at a time.

    Args:
        url: libpq connection string.
        transaction: keep one transaction open from the first query on, until it is closed.

    Raises:
        psycopg.OperationalError: the database cannot be reached.
    """

    def __init__(self, url: str, *, transaction: bool = False) -> None:
        self._connection: AdbcConnection | None = None
        try:
            self._connection = AdbcConnection(_database(url))
            if transaction:
                self._connection.set_autocommit(False)
        except DriverError as error:
            self.close()
            raise psycopg.OperationalError(str(error)) from error

    def frame(self, query: str) -> pl.DataFrame:
        """What a query answers, by the names of its columns.

        Raises:
            psycopg.OperationalError: the database cannot be read.
        """
        try:
            with AdbcStatement(self._connection) as statement:
                statement.set_sql_query(query)
                answer, _ = statement.execute_query()
                return pl.DataFrame(answer)
        except DriverError as error:
            raise psycopg.OperationalError(str(error)) from error

    def close(self) -> None:
        """End it; what is broken is closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DriverError):
                connection.close()

    def __del__(self) -> None:
        self.close()  # the driver's own connections stay open when they are forgotten

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
