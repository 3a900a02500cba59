"""Backup and restore of the log, by PostgreSQL's own pg_dump and pg_restore.

A backup is one archive of pg_dump's custom format: the log's tables as of one snapshot, while
writers go on. Read models are not in it: they are folded from the log. Beside it stands its
checksum, in the form of `sha256sum`. A restore is one transaction, and its last statement before
the commit checks the log: whatever goes wrong, the database is as it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, LiteralString

import psycopg
from psycopg import sql

from eventstore.client_applications import ClientApplications, ClientError, Target
from eventstore.schema import TABLES, prepare_database

__all__ = ["Backup", "BackupError", "Restored", "backup", "head_of", "restore"]

#: Every table that the schema makes: one that is added to it is in the backup from then on.
LOG_TABLES = TABLES
#: Tables that a backup has the definition of only, so that a restore empties them: states made from
#: the log, the mark by which ``prepare_database`` would believe its work to be done, how far the
#: relay is, whose topics hold what another log had, and files that wait to be imported.
WITHOUT_ROWS = frozenset(
    {"snapshots", "schema_applied", "relay", "relay_lanes", "kafka_offsets"}
    | {"uploads", "upload_parts"}
)
_CHUNK = 1 << 20
_PSQL = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--set=VERBOSITY=verbose")

# Held to the end of the transaction, the locks keep out who would fold or append meanwhile.
_BEGIN = """BEGIN;
SET LOCAL lock_timeout = '{lock_timeout}ms';
DO $$
DECLARE
    head   bigint;
    others bigint;
BEGIN
    LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE;
    SELECT max(position) INTO head FROM (
        SELECT position FROM log_head UNION ALL SELECT max(notification_id) FROM events) AS found;
    IF head > 0 AND NOT {replace} THEN
        RAISE 'the log there is not empty, its head is at position %; it is replaced only if that '
            'is asked for', head USING ERRCODE = 'CL001';
    END IF;
    SELECT count(*) INTO others FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND usesysid IS NOT NULL
        AND coalesce(backend_type, 'client backend') = 'client backend';
    IF head > 0 AND others > 0 AND NOT {despite_connections} THEN
        RAISE 'there are % other connections to the database: stop the servers, projectors and '
            'consumers that use it, they remember states of the log that is to be replaced',
            others USING ERRCODE = 'CL001';
    END IF;
    -- Whatever the backup does not have, it was made from the former log.
    TRUNCATE {tables};
END $$;
"""

_VERIFY = """RESET search_path;
DO $$
DECLARE
    events_in bigint;
    low       bigint;
    high      bigint;
    head      bigint;
    dropped   bigint;
    kept      bigint;
    broken    text;
BEGIN
    SELECT count(*), min(notification_id), coalesce(max(notification_id), 0)
    INTO events_in, low, high FROM events;
    -- What is dropped stands in the archive, but for the events that were kept here.
    SELECT coalesce(sum(last_position - first_position + 1), 0) INTO dropped
    FROM segments WHERE dropped_at IS NOT NULL;
    SELECT count(*) INTO kept FROM segments s JOIN events e
        ON e.notification_id BETWEEN s.first_position AND s.last_position
    WHERE s.dropped_at IS NOT NULL;
    IF events_in - kept + dropped <> high OR (low <> 1 AND dropped = 0) THEN
        RAISE 'its positions are not contiguous: there are % events at positions % to %',
            events_in, low, high USING ERRCODE = 'CL002';
    END IF;
    SELECT s.number INTO broken FROM segments s LEFT JOIN segments p ON p.number = s.number - 1
    WHERE s.first_position <> coalesce(p.last_position, 0) + 1 OR s.last_position > high
        OR s.last_position < s.first_position OR (p.number IS NULL AND s.number <> 0) LIMIT 1;
    IF FOUND THEN
        RAISE 'segment % of the archive does not begin where the one before it ends', broken
            USING ERRCODE = 'CL002';
    END IF;
    SELECT position INTO head FROM log_head;
    IF head IS DISTINCT FROM high THEN
        RAISE 'its head says position %, and its last event is at %', head, high
            USING ERRCODE = 'CL002';
    END IF;
    SELECT originator_id INTO broken FROM events GROUP BY originator_id
    HAVING (min(originator_version) > 1
        OR max(originator_version) - min(originator_version) + 1 <> count(*))
        AND NOT EXISTS (SELECT FROM cold_streams c JOIN segments s USING (number)
            WHERE c.stream_id = originator_id AND s.dropped_at IS NOT NULL) LIMIT 1;
    IF FOUND THEN
        RAISE 'the versions of stream % are not contiguous', broken USING ERRCODE = 'CL002';
    END IF;
    SELECT command_id INTO broken FROM commands WHERE position NOT BETWEEN 0 AND high LIMIT 1;
    IF FOUND THEN
        RAISE 'command % was answered with a position that the log does not have', broken
            USING ERRCODE = 'CL002';
    END IF;
    SELECT hash INTO broken FROM artifacts WHERE hash <> encode(sha256(content), 'hex') LIMIT 1;
    IF FOUND THEN
        RAISE 'artifact % does not hold what its name says', broken USING ERRCODE = 'CL002';
    END IF;
    PERFORM pg_notify('events', high::text);
END $$;
COMMIT;
"""

_COUNTS = """SELECT (SELECT position FROM log_head),
    (SELECT count(DISTINCT originator_id) FROM events), (SELECT count(*) FROM commands),
    (SELECT count(*) FROM artifacts)"""
_ARCHIVED = """SELECT (SELECT url FROM archive_store WHERE EXISTS (SELECT FROM segments)),
    (SELECT coalesce(sum(last_position - first_position + 1 - (SELECT count(*) FROM events
        WHERE notification_id BETWEEN first_position AND last_position)), 0)::bigint
     FROM segments WHERE dropped_at IS NOT NULL)"""
#: Called now and then with the bytes written so far.
Report = Callable[[int], None]


class BackupError(Exception):
    """A backup or a restore was not done; the message says why."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A written backup: ``head`` is the last position in it. ``archive``: where the archive is that
    it does not hold, ``only_archived`` events are nowhere else."""

    file: Path
    head: int
    bytes: int
    sha256: str
    archive: str | None
    only_archived: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What the log holds after a restore; ``replaced``: the head of the log that stood there."""

    file: Path
    head: int
    streams: int
    commands: int
    artifacts: int
    replaced: int


def head_of(url: str) -> int:
    """The last position of a database's log; 0 where the log is empty.

    Raises:
        BackupError: there is no log in this database.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        return _head(connection)


def backup(
    url: str, file: Path, *, overwrite: bool = False, report: Report = lambda done: None
) -> Backup:
    """Write the log of a database to a file; under its own name it is whole or not there.

    Args:
        url: libpq connection string.
        file: where to; its checksum goes beside it, with `.sha256` behind its name.
        overwrite: put it in the place of a former one.
        report: called with the bytes written so far.

    Raises:
        BackupError: it could not be done; the message says why. No file is left behind.
        psycopg.OperationalError: the database cannot be reached.
    """
    if file.exists() and not overwrite:
        raise BackupError(f"{file} is there already; it is not overwritten unless told so")
    target, part = Target.of(url), _part(file)
    with (
        _explained("no backup was made"),
        _staged(file) as staged,
        psycopg.connect(url) as connection,
    ):
        applications = ClientApplications.for_server(connection)
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        head = _head(connection)
        (snapshot,) = _row(connection, "SELECT pg_export_snapshot()")
        archive, only_archived = (
            _row(connection, _ARCHIVED) if _exists(connection, "cold_streams") else (None, 0)
        )
        tables = [name for name in LOG_TABLES if _exists(connection, name)]
        with applications.start(
            "pg_dump",
            "--format=custom",
            "--no-owner",
            "--lock-wait-timeout=10s",
            f"--snapshot={snapshot}",
            *(f"--table={name}" for name in tables),
            *(f"--exclude-table-data={name}" for name in sorted(WITHOUT_ROWS)),
            f"--file={part}",
            target=target,
            keep=staged.fileno(),  # who outlives us keeps the lock
        ) as dump:
            while dump.still_runs(0.25):
                report(_size(staged))
        _check_contents(applications, part, [name for name in tables if name not in WITHOUT_ROWS])
        digest, size = _sha256(part), _size(staged)
        checksum = _checksum_file(file)
        checksum.unlink(missing_ok=True)  # never a new backup beside a former one's checksum
        _put(staged, file)
        with _staged(checksum) as noted:
            noted.write(f"{digest}  {file.name}\n".encode())
            _put(noted, checksum)
    return Backup(file, head, size, digest, archive, only_archived)


def restore(
    url: str,
    file: Path,
    *,
    replace: bool = False,
    despite_connections: bool = False,
    lock_timeout_s: float = 10.0,
    report: Report = lambda done: None,
) -> Restored:
    """Put the log of a backup into a database, all of it or nothing.

    The log there must be empty, unless it is to be replaced. Read models are left as they are: who
    reads or folds them sees that their log is gone (``projections.store.DIVERGED``).

    Args:
        url: libpq connection string.
        file: what ``backup`` wrote.
        replace: put it in the place of a log that is not empty; that log is lost.
        despite_connections: replace it although somebody is connected to the database. Processes
            that remember states of the former log must have been stopped all the same.
        lock_timeout_s: how long to wait for others to let go of the log's tables.
        report: called with the bytes of SQL sent so far.

    Raises:
        BackupError: it could not be done, or what came out is not a log; the message says why. The
            database is as it was.
        psycopg.OperationalError: the database cannot be reached.
    """
    if not file.is_file():
        raise BackupError(f"there is no backup {file}")
    _verify_checksum(file)
    prepare_database(url)
    target = Target.of(url)
    unchanged = "the database is as it was"
    with _explained(unchanged), psycopg.connect(url, autocommit=True) as connection:
        applications = ClientApplications.for_server(connection)
        former = _head(connection)
    _check_contents(applications, file, ("events", "log_head", "commands", "artifacts"))
    begin = _BEGIN.format(
        lock_timeout=max(1, round(1000 * lock_timeout_s)),
        tables=", ".join(("log_head", *(name for name in LOG_TABLES if name != "log_head"))),
        replace=replace,
        despite_connections=despite_connections,
    )
    with (
        _explained(unchanged),
        applications.start("psql", *_PSQL, target=target, stdin=subprocess.PIPE) as server,
        applications.start(
            "pg_restore",
            "--clean",
            "--if-exists",
            "--no-owner",
            "--no-privileges",
            "--file=-",
            str(file.absolute()),
            stdout=subprocess.PIPE,
        ) as archive,
    ):
        # Without the COMMIT at the very end the server takes everything back.
        sent = 0
        server.write(begin.encode())
        for chunk in archive.chunks(_CHUNK):
            server.write(chunk)
            sent += len(chunk)
            report(sent)
        archive.finish()
        server.write(_VERIFY.encode())
        server.finish()
    prepare_database(url)  # what a newer version of the code has beyond the backup
    with psycopg.connect(url, autocommit=True) as connection:
        for name in LOG_TABLES:
            connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(name)))
        head, streams, commands, artifacts = _row(connection, _COUNTS)
    return Restored(file, head, streams, commands, artifacts, replaced=former)


def _head(connection: psycopg.Connection[Any]) -> int:
    if not _exists(connection, "log_head"):
        raise BackupError(f"there is no log in database {connection.info.dbname!r}")
    (head,) = _row(connection, "SELECT position FROM log_head")
    return int(head)


def _exists(connection: psycopg.Connection[Any], table: str) -> bool:
    found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table,)).fetchone()
    return found is not None and bool(found[0])


def _row(connection: psycopg.Connection[Any], query: LiteralString) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return tuple(row)


@contextmanager
def _explained(outcome: str) -> Iterator[None]:
    """What a client application ended with, as a sentence for the operator."""
    try:
        yield
    except ClientError as error:
        match error.sqlstate:
            case "CL001":
                told = str(error)
            case "CL002":
                told = f"what the backup holds is not a whole log: {error}"
            case "55P03":
                told = "others use the log's tables: stop the servers, projectors and consumers"
            case _:
                told = str(error)
        raise BackupError(f"{told}; {outcome}") from error


@contextmanager
def _staged(file: Path) -> Iterator[IO[bytes]]:
    """A file beside it, open, for our eyes only; it is removed unless ``_put`` gave it its name."""
    part = _part(file)
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise BackupError(f"cannot write {part}: {error.strerror}") from error
    with os.fdopen(descriptor, "r+b") as staged:
        try:
            fcntl.flock(staged, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another one may have given the file its name before we had the lock.
            ours = part.exists() and os.path.samestat(part.stat(), os.fstat(descriptor))
        except BlockingIOError:
            ours = False
        if not ours:
            raise BackupError(f"another backup is being written to {file}")
        try:
            staged.truncate()
            yield staged
        finally:
            part.unlink(missing_ok=True)


def _part(file: Path) -> Path:
    return file.with_name(file.name + ".part")


def _put(staged: IO[bytes], file: Path) -> None:
    """Give a staged file its name, durably."""
    staged.flush()
    os.fsync(staged.fileno())
    _part(file).replace(file)
    folder = os.open(file.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _size(staged: IO[bytes]) -> int:
    return os.fstat(staged.fileno()).st_size


def _check_contents(applications: ClientApplications, file: Path, tables: Collection[str]) -> None:
    """Have pg_restore list an archive, and see that the data of the tables is in it."""
    with applications.start(
        "pg_restore", "--list", str(file.absolute()), stdout=subprocess.PIPE
    ) as listing:
        try:
            told = b"".join(listing.chunks(_CHUNK)).decode()
            listing.finish()
        except ClientError as error:
            raise BackupError(f"{file} is not a whole backup: {error}") from error
    there = set(re.findall(r"TABLE DATA \S+ (\S+)", told))
    if missing := set(tables) - there:
        raise BackupError(f"{file} is no backup of a log: it lacks {', '.join(sorted(missing))}")


def _checksum_file(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")


def _verify_checksum(file: Path) -> None:
    """Compare a backup with the checksum beside it; by itself it is checked less thoroughly."""
    checksum = _checksum_file(file)
    if checksum.exists() and checksum.read_text(encoding="utf-8").split()[:1] != [_sha256(file)]:
        raise BackupError(f"{file} is damaged: it does not have the checksum of {checksum.name}")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
