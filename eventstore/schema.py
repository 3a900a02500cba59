"""Brings a database up to the schema that this version of the code needs."""

from __future__ import annotations

from pathlib import Path

import psycopg

_SCHEMA = Path(__file__).with_name("schema.sql")
_ADVISORY_LOCK = 0x_C4A1_0001


def prepare_database(url: str) -> None:
    """Create or complete the log's tables and functions; safe from several processes at once.

    Raises:
        psycopg.OperationalError: the database cannot be reached.
    """
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
        connection.execute(_SCHEMA.read_bytes())
