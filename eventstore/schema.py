"""Brings a database up to the schema that this version of the code needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

_SCHEMA = Path(__file__).with_name("schema.sql")
_ADVISORY_LOCK = 0x_C4A1_0001


def prepare_database(url: str) -> None:
    """Create or complete the log's tables and functions; safe from several processes at once.

    Raises:
        psycopg.OperationalError: the database cannot be reached.
    """
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        create_tables(cursor)


def create_tables(cursor: psycopg.Cursor[Any]) -> None:
    """As ``prepare_database``, in the caller's transaction."""
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
    cursor.execute(_SCHEMA.read_bytes(), prepare=False)
