"""One connection for the hot path, driven at libpq's level: packed arrays in, bytes out.

psycopg turns each value of a list into bytes by itself, in Python; with nineteen arrays a group
that was most of the cost of a command. Here a column is packed by one join (docs/adr/0010).
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import TupleRow

from eventstore.log import LogUnavailable

CONNECTION_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError)
_ANSWERED = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
# Our statements are look-ups by index, planned once: a plan anew for each run costs more than the
# run, and one made while a table was small would read it whole ever after.
# A lock is waited for no longer than the caller waits: given up, its backend must not act later.
_SETTINGS = """SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;
SET lock_timeout = {lock_ms}"""
# What another connection, or another moment, may answer otherwise: lost connections, servers that
# start or stop, serialisation, a standby that was asked, statements that are gone.
_PASSING = re.compile("08|40|57P0|25006|26000|0A000")
_LOCKED = "55P03"
_log = structlog.get_logger(__name__)


_HEADER = struct.Struct("!5i")  # dimensions, may hold nulls, element type, length, lower bound
_EMPTY = struct.Struct("!3i")
_NULL = b"\xff\xff\xff\xff"
_UUID_LENGTH = struct.pack("!i", 16)
_length = struct.Struct("!i").pack
_bigint = struct.Struct("!iq").pack
_SMALL = {number: _bigint(8, number) for number in range(4096)}  # units, most versions


def _uuids(values: Sequence[Any]) -> bytes:
    if None in values:
        return b"".join([_NULL if one is None else _UUID_LENGTH + one for one in values])
    # One join in C: the same length stands in front of each.
    return _UUID_LENGTH + _UUID_LENGTH.join(values)


def _texts(values: Sequence[Any]) -> bytes:
    return b"".join([_length(len(one)) + one for one in values])


def _bigints(values: Sequence[Any]) -> bytes:
    small = _SMALL.get
    return b"".join([small(one) or (_NULL if one is None else _bigint(8, one)) for one in values])


@dataclass(frozen=True, slots=True)
class ArrayType:
    """A type whose arrays we pack: its oid, its array's, and the binary form of the elements."""

    oid: int
    array_oid: int
    elements: Callable[[Sequence[Any]], bytes]

    def pack(self, values: Sequence[Any]) -> bytes:
        """The binary form of an array of one dimension (none, where it has no elements)."""
        if not values:
            return _EMPTY.pack(0, 0, self.oid)
        return _HEADER.pack(1, 1, self.oid, len(values), 1) + self.elements(values)


#: Sixteen bytes each, or None.
UUIDS = ArrayType(2950, 2951, _uuids)
BYTES = ArrayType(17, 1001, _texts)
#: UTF-8 bytes.
TEXTS = ArrayType(25, 1009, _texts)
#: Integers or None.
BIGINTS = ArrayType(20, 1016, _bigints)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that a wire runs, and the types of its parameters."""

    name: str
    query: str
    types: tuple[ArrayType, ...]


class Wire:
    """Runs prepared statements whose parameters are packed arrays; results are binary.

    One statement at a time. A statement must be safe to send again: when the connection breaks it
    is, on a new one.

    Args:
        url: libpq connection string.
        statements: what it will run.
        patience_s: how long a statement may take in all, mending included.
    """

    def __init__(self, url: str, statements: Sequence[Statement], *, patience_s: float) -> None:
        self._url = url
        self._statements = statements
        self._patience_s = patience_s
        self._connection: AsyncConnection[TupleRow] | None = None
        self._pgconn: PGconn | None = None
        self._reply: asyncio.Future[PGresult] | None = None
        self._result: PGresult | None = None
        self._descriptor = -1  # of the socket that is watched
        self._writing = False

    async def close(self) -> None:
        """Close the connection; the next statement would open another."""
        self._unwatch()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def run(self, statement: Statement, columns: Iterable[Sequence[Any]]) -> PGresult:
        """Run a statement, on a new connection where the old one breaks.

        ``columns``: the values of each parameter's array.

        Raises:
            LogUnavailable: the database did not answer within ``patience_s``; it may have acted.
            psycopg.Error: the database refused the statement.
        """
        parameters = [kind.pack(one) for kind, one in zip(statement.types, columns, strict=True)]
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._patience_s
        while True:
            try:
                if self._pgconn is None:
                    await self.close()  # what is left of one that broke while nobody used it
                    async with asyncio.timeout_at(give_up):
                        await self._connect()
                return await self._exchange(
                    loop,
                    lambda pgconn: pgconn.send_query_prepared(
                        statement.name.encode(), parameters, [1] * len(parameters), result_format=1
                    ),
                    give_up,
                )
            except TimeoutError:
                await self._give_up()
                raise LogUnavailable(
                    f"the database did not answer within {self._patience_s:g} s"
                ) from None
            except psycopg.Error as error:
                if error.sqlstate == _LOCKED:
                    raise LogUnavailable(
                        f"the database did not answer within {self._patience_s:g} s: a transaction "
                        "of somebody else holds a lock"
                    ) from error
                if not self._passing(error):
                    raise
                await self.close()
                told = error.diag.message_primary or str(error).strip()
                if loop.time() + 0.1 > give_up:
                    raise LogUnavailable(f"the database cannot be reached: {told}") from error
                _log.warning("log connection lost, trying again", error=told)
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                await self.close()  # in the middle of an exchange
                raise

    def _passing(self, error: psycopg.Error) -> bool:
        """Whether the same statement may fare better on another connection."""
        if self._pgconn is None or self._pgconn.status != ConnStatus.OK or error.sqlstate is None:
            return True
        return _PASSING.match(error.sqlstate) is not None

    async def _give_up(self) -> None:
        """Stop the statement, as far as the server listens, and close: its late answer would be
        taken for the next one's."""
        if self._connection is not None:
            with suppress(psycopg.Error, TimeoutError):
                await self._connection.cancel_safe(timeout=1.0)
        await self.close()

    async def _connect(self) -> None:
        connection = await AsyncConnection.connect(self._url, autocommit=True, connect_timeout=5)
        self._connection = connection
        settings = _SETTINGS.format(lock_ms=max(1, int(self._patience_s * 900)))
        await connection.execute(settings, prepare=False)
        self._pgconn = connection.pgconn
        self._descriptor = self._pgconn.socket
        loop = asyncio.get_running_loop()
        loop.add_reader(self._descriptor, self._read)
        try:
            await self._prepare(loop)
        except BaseException:
            await self.close()  # half prepared it would never be of use
            raise

    async def _prepare(self, loop: asyncio.AbstractEventLoop) -> None:
        for one in self._statements:
            await self._exchange(
                loop,
                lambda pgconn, one=one: pgconn.send_prepare(  # type: ignore[misc]
                    one.name.encode(), one.query.encode(), [kind.array_oid for kind in one.types]
                ),
            )

    async def _exchange(
        self,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[PGconn], None],
        give_up: float | None = None,
    ) -> PGresult:
        """Send one statement and wait for its one result."""
        assert self._pgconn is not None
        reply: asyncio.Future[PGresult] = loop.create_future()
        self._reply, self._result = reply, None
        timer = None if give_up is None else loop.call_at(give_up, _late, reply)
        try:
            send(self._pgconn)
            self._write()
            result = await reply
        finally:
            self._reply = None
            if timer is not None:
                timer.cancel()
        if result.status not in _ANSWERED:
            raise error_from_result(result)
        return result

    def _write(self) -> None:
        """Send what libpq has buffered; what the socket does not take now, when it does."""
        pgconn = self._pgconn
        if pgconn is None:
            return
        loop = asyncio.get_running_loop()
        try:
            if pgconn.flush():
                loop.add_writer(self._descriptor, self._write)
                self._writing = True
            elif self._writing:
                loop.remove_writer(self._descriptor)
                self._writing = False
        except CONNECTION_ERRORS as error:
            self._broken(error)

    def _read(self) -> None:
        """Take what came in; the reply is complete when libpq has no more results."""
        pgconn = self._pgconn
        if pgconn is None:
            return
        try:
            pgconn.consume_input()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    if self._result is not None and self._reply and not self._reply.done():
                        self._reply.set_result(self._result)
                    return
                self._result = result
        except CONNECTION_ERRORS as error:
            self._broken(error)

    def _broken(self, error: Exception) -> None:
        self._unwatch()
        if self._reply and not self._reply.done():
            self._reply.set_exception(error)

    def _unwatch(self) -> None:
        """Before the socket goes: its number may be another's soon."""
        if self._pgconn is not None:
            self._pgconn = None
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._descriptor)
            loop.remove_writer(self._descriptor)


def _late(reply: asyncio.Future[PGresult]) -> None:
    if not reply.done():
        reply.set_exception(TimeoutError())
