"""PostgreSQL's client applications (pg_dump, pg_restore, psql): finding and running them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from eventstore.embedded_binaries import Account, EmbeddedPostgresError, bin_folder

_NAMES = ("pg_dump", "pg_restore", "psql")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
# psql's verbose errors carry the SQLSTATE, which does not change with the server's language.
_SQL_ERROR = re.compile(r"^.*?: +([0-9A-Z]{5}): (.*)$", re.MULTILINE)
_PATIENCE_S = 5.0


class ClientError(Exception):
    """A client application is missing or ended with an error.

    ``sqlstate``: what the server gave as the reason, where it was the server.
    """

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        self.sqlstate = sqlstate
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Target:
    """The database that an application connects to. Its password is in no command line."""

    conninfo: str
    environment: Mapping[str, str]

    @classmethod
    def of(cls, url: str) -> Target:
        """The database of a libpq connection string."""
        fields = conninfo_to_dict(url)
        password = fields.pop("password", None)
        environment = {} if password is None else {"PGPASSWORD": str(password)}
        return cls(make_conninfo("", **fields), environment)


class Application:
    """A client application that runs."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._name = name
        self._process = process
        self._errors = errors

    def still_runs(self, seconds: float) -> bool:
        """Wait that long for its end; whether it still runs.

        Raises:
            ClientError: it ended with an error.
        """
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        self.finish()
        return False

    def chunks(self, size: int) -> Iterator[bytes]:
        """What it writes, until it ends its output."""
        assert self._process.stdout is not None
        while chunk := self._process.stdout.read(size):
            yield chunk

    def write(self, data: bytes) -> None:
        """Give it something to read.

        Raises:
            ClientError: it has ended with an error.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            self.finish()
            raise ClientError(f"{self._name} ended too early") from None

    def finish(self) -> None:
        """Let it come to its end.

        Raises:
            ClientError: it ended with an error.
        """
        self._close_input()
        if self._process.wait() != 0:
            raise self._error()

    def stop(self) -> None:
        """End it, wherever it is; nothing happens where it has ended."""
        self._close_input()
        if self._process.poll() is None:
            # Asked politely, it also tells the server to give up what it does.
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _close_input(self) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _error(self) -> ClientError:
        self._errors.seek(0)
        told = self._errors.read().decode(errors="replace").strip()
        if found := _SQL_ERROR.search(told):
            return ClientError(found[2], found[1])
        lines = [line for line in told.splitlines() if "detail:" not in line]
        return ClientError(lines[-1] if lines else f"{self._name} ended without a word")


@dataclass(frozen=True, slots=True)
class ClientApplications:
    """The client applications of one folder."""

    folder: Path

    @classmethod
    def for_server(cls, connection: psycopg.Connection[Any]) -> ClientApplications:
        """Those that can work with a server: the wheel's, otherwise those on the PATH.

        Raises:
            ClientError: all are older than the server, or there are none.
        """
        return cls.for_version(
            connection.info.server_version // 10_000, encrypted=connection.pgconn.ssl_in_use
        )

    @classmethod
    def for_version(cls, major: int, *, encrypted: bool = False) -> ClientApplications:
        """As ``for_server``. The wheel's applications cannot encrypt a connection."""
        newest = 0
        for folder in (None if encrypted else _wheel(), _path()):
            if folder is not None and (version := _major(folder)) is not None:
                if version >= major:
                    return cls(folder)
                newest = max(newest, version)
        found = f"those found here are of {newest}" if newest else "none were found"
        raise ClientError(
            f"the server is PostgreSQL {major} and wants pg_dump, pg_restore and psql that are not "
            f"older; {found}: install the client applications of PostgreSQL {major} and put them "
            "on the PATH"
        )

    @contextmanager
    def start(
        self,
        name: str,
        *words: str,
        target: Target | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        keep: int | None = None,
    ) -> Iterator[Application]:
        """Run one; it has ended when the context has. ``keep``: a file that it holds open too."""
        command = [str(self.folder / name), *words]
        environment = {**os.environ, "LC_ALL": "C"}
        if target is not None:
            command.append(f"--dbname={target.conninfo}")
            environment |= target.environment
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=errors,
                env=environment,
                pass_fds=() if keep is None else (keep,),
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
            application = Application(name, process, errors)
            try:
                yield application
            finally:
                application.stop()


def _wheel() -> Path | None:
    try:
        return bin_folder(Account(os.geteuid(), os.getegid()), Path(tempfile.gettempdir()))
    except EmbeddedPostgresError:
        return None


def _path() -> Path | None:
    found = shutil.which("pg_dump")
    return None if found is None else Path(found).parent


def _major(folder: Path) -> int | None:
    """The version that all applications of a folder have at least; None where one is missing."""
    versions = []
    for name in _NAMES:
        try:
            done = subprocess.run(
                [folder / name, "--version"], capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        found = _VERSION.search(done.stdout)
        if found is None:
            return None
        versions.append(int(found[1]))
    return min(versions)
