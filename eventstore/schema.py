"""Brings a database up to the schema that this version of the code needs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import psycopg

from eventstore.roles import NO_ROLE, RoleUnusable

#: In this order: a later file may speak of tables of an earlier one.
_FILES = (
    "roles.sql",
    *("schema.sql", "seals.sql", "archive.sql", "people.sql", "trail.sql", "kafka.sql"),
    "webhooks.sql",
    "uploads.sql",
    "roles.sql",
)
_SCHEMA = b"\n".join(Path(__file__).with_name(name).read_bytes() for name in _FILES)
#: Every table that the schema makes.
TABLES: tuple[str, ...] = tuple(
    re.findall(r"^CREATE TABLE IF NOT EXISTS (\w+)", _SCHEMA.decode(), re.MULTILINE)
)
_ADVISORY_LOCK = 0x_C4A1_0001


def prepare_database(url: str) -> None:
    """Create or complete the log's tables and functions; safe from several processes at once.

    Raises:
        psycopg.OperationalError: the database cannot be reached.
    """
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        create_tables(cursor)


def create_tables(cursor: psycopg.Cursor[Any]) -> None:
    """As ``prepare_database``, in the caller's transaction.

    Nothing is touched where this very schema was applied before: its statements take locks that an
    append would wait for, and the start of one process must not hold up the others.
    """
    digest = hashlib.sha256(_SCHEMA).hexdigest()
    if _applied(cursor) == digest:
        return
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
    if _applied(cursor) == digest:
        return
    try:
        cursor.execute(_SCHEMA, prepare=False)
    except psycopg.Error as error:
        if error.sqlstate != NO_ROLE:
            raise
        raise RoleUnusable(
            f"{error.diag.message_primary}: have an administrator of the database server make it "
            "and a login that is a member of it, and name that in CHAINLYTICS_API_DATABASE_URL"
        ) from error
    cursor.execute("UPDATE schema_applied SET digest = %s", (digest,))


def _applied(cursor: psycopg.Cursor[Any]) -> str | None:
    """The digest of the schema that the database has; None where there is no log yet, or where the
    role that queries run as is missing: a copy of the database on another server has none."""
    cursor.execute(
        """SELECT to_regclass('schema_applied') IS NOT NULL
            AND to_regrole(quote_ident(current_user || '_api')) IS NOT NULL AS there"""
    )
    row = cursor.fetchone()
    if not _only(row):
        return None
    cursor.execute("SELECT digest FROM schema_applied")
    found = cursor.fetchone()
    return None if found is None else str(_only(found))


def _only(row: Any) -> Any:
    """The one value of a row, whether the cursor makes tuples or dictionaries."""
    return next(iter(row.values())) if isinstance(row, dict) else row[0]
