"""Accounts in a file of their own: a backup of the log holds none, and this one holds no log.

One JSON object a line: first what it is, then accounts, profiles and preferences. Sessions, codes
and revocations are left out: what was ended since the file was written must not come back to life.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from api.identity.sessions import ended_sessions
from eventstore import Log

_FORMAT = {"format": "chainlytics accounts", "version": 1}
_TABLES = ("accounts", "profiles", "preferences")
_EMPTIED = ("codes", "tries", "accounts", "profiles", "preferences")


class NotAnExport(Exception):
    """A file cannot be written, or is not one that was; the message says why."""


class Exported(NamedTuple):
    """How many there are in a file."""

    accounts: int
    profiles: int
    preferences: int


async def export_accounts(log: Log, file: Path, *, overwrite: bool = False) -> Exported:
    """Write accounts to a file that only its owner reads; it is whole or not there.

    Raises:
        NotAnExport: it cannot be written.
    """
    lines, counts = [json.dumps(_FORMAT)], []
    async with log.connection() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for table in _TABLES:
            found = await connection.execute(
                f"SELECT to_jsonb(rows) FROM identity.{table} AS rows ORDER BY 1".encode()
            )
            rows = await found.fetchall()
            lines += [json.dumps({"table": table, "row": row[0]}) for row in rows]
            counts.append(len(rows))
    _write(file, "\n".join(lines) + "\n", overwrite)
    return Exported(*counts)


async def import_accounts(log: Log, file: Path, *, replace: bool = False) -> Exported:
    """Put the accounts of a file into the database, all or none; everybody logs in anew.

    Args:
        replace: in the place of those that are there, which are lost.

    Raises:
        NotAnExport: the file is none, or there are accounts already.
    """
    rows = _read(file)
    async with log.connection() as connection, connection.transaction():
        await connection.execute("LOCK TABLE identity.accounts IN SHARE ROW EXCLUSIVE MODE")
        found = await connection.execute("SELECT id FROM identity.accounts")
        former = [row[0] for row in await found.fetchall()]
        if former and not replace:
            raise NotAnExport("there are accounts already; they are replaced only if told so")
        for account_id in former:
            await ended_sessions(connection, account_id, "accounts restored")
        for table in _EMPTIED:
            await connection.execute(f"DELETE FROM identity.{table}".encode())
        try:
            for table, row in rows:
                await connection.execute(
                    f"INSERT INTO identity.{table} SELECT * "
                    f"FROM jsonb_populate_record(NULL::identity.{table}, %s::jsonb)".encode(),
                    (json.dumps(row),),
                )
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise NotAnExport(f"{file} holds rows that are none: {error}") from error
    return Exported(*(sum(one == table for one, _ in rows) for table in _TABLES))


def _read(file: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        first, *lines = file.read_text(encoding="utf-8").splitlines()
        if json.loads(first) != _FORMAT:
            raise ValueError("of another format")
        found = [json.loads(line) for line in lines]
        rows = [(str(one["table"]), dict(one["row"])) for one in found]
    except OSError as error:
        raise NotAnExport(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise NotAnExport(f"{file} does not hold accounts") from error
    if strange := {table for table, _ in rows} - set(_TABLES):
        raise NotAnExport(f"{file} holds rows of {', '.join(sorted(strange))}")
    return rows


def _write(file: Path, text: str, overwrite: bool) -> None:
    if file.exists() and not overwrite:
        raise NotAnExport(f"{file} is there already; it is not overwritten unless told so")
    made: str | None = None
    try:
        descriptor, made = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # 0600
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(descriptor)
        Path(made).replace(file)
    except OSError as error:
        if made is not None:
            Path(made).unlink(missing_ok=True)
        raise NotAnExport(f"{file} cannot be written: {error.strerror}") from error
