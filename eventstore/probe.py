"""Looks whether the database answers, for probes: quickly, and never at the cost of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Generic, Self, TypeVar

import psycopg
from psycopg import AsyncConnection

from eventstore.log import Connection, LogUnavailable

T = TypeVar("T")

#: Who probes does not wait longer for the database, in seconds.
PATIENCE_S = 2.0


class Probe:
    """One connection of its own: a pool that is busy does not make the database look away, and
    probes take no connection from requests.

    Args:
        url: libpq connection string.
        patience_s: how long the database is waited for.
    """

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        self._url = url
        self._patience_s = patience_s
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def look(self, ask: Callable[[Connection], Awaitable[T]]) -> T:
        """What is asked of the database; one at a time.

        Raises:
            LogUnavailable: the database did not answer in time.
        """
        try:
            async with asyncio.timeout(self._patience_s), self._turn:
                try:
                    return await self._ask(ask)
                except BaseException:
                    await self._close()  # it may be in the middle of an answer
                    raise
        except TimeoutError:
            raise LogUnavailable("the database did not answer in time") from None
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise LogUnavailable("the database is away") from error

    async def _ask(self, ask: Callable[[Connection], Awaitable[T]]) -> T:
        if self._connection is not None:
            try:
                return await ask(self._connection)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                await self._close()  # the server was started again meanwhile
        self._connection = await AsyncConnection.connect(
            self._url, autocommit=True, connect_timeout=2
        )
        return await ask(self._connection)

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                await connection.close()


class Recent(Generic[T]):
    """An answer that is believed for a while: any number who ask cost as much as one.

    Args:
        ask: finds it out.
        believed_s: for how long, in seconds.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], *, believed_s: float = 1.0) -> None:
        self._ask = ask
        self._believed_s = believed_s
        self._turn = asyncio.Lock()
        self._known: tuple[float, T] | None = None

    async def get(self) -> T:
        """The answer."""
        async with self._turn:
            if self._known is None or monotonic() - self._known[0] >= self._believed_s:
                found = await self._ask()
                self._known = (monotonic(), found)
            return self._known[1]
