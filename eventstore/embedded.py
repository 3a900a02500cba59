"""PostgreSQL without a server to install: one cluster in a folder, on loopback, started on demand.

Several processes may ask for the same folder at once: `postgres.lock` lets one of them act at a
time, and every holder of a started server keeps a shared lock on `postgres.users`, so that the
last one out can tell that it is the last. The kernel frees both locks when a process dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psycopg

from eventstore.embedded_binaries import Account, EmbeddedPostgresError, bin_folder
from eventstore.embedded_postmaster import Postmaster, disown_stale_pid, terminate_orphans

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "ServerStatus"]

SETTINGS: Mapping[str, str] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "jit": "off",  # compiling costs more than our short queries
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",  # bulk imports without a checkpoint a minute
    "wal_level": "replica",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",  # the log is read below
    "log_line_prefix": "%m [%p] ",
}
_NAME = "chainlytics"  # the cluster's first role and the database
_ELSEWHERE = Path("/var/lib/chainlytics")  # for root, where `nobody` cannot reach the home
_LOG_LIMIT = 16 * 2**20
_START_SECONDS = 120.0  # crash recovery of a large log takes its time
_ORPHAN_PATIENCE = 5.0
_STOP_SECONDS = 60.0


@dataclass(frozen=True)
class ServerStatus:
    """What is known of the server; pid, port and version only while it runs."""

    running: bool
    data: Path
    pid: int | None = None
    port: int | None = None
    version: str | None = None


class EmbeddedPostgres:
    """The PostgreSQL cluster of one folder. Safe to use from several processes and threads."""

    def __init__(self, home: Path, *, settings: Mapping[str, str] | None = None) -> None:
        """Nothing is started yet. `settings` come on top of SETTINGS, at the next start."""
        self.home = home.absolute()
        self._settings = {**SETTINGS, **(settings or {})}
        self._use: IO[bytes] | None = None
        self._launched: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Make and start the cluster where that is still to be done; answers with its URL."""
        with self._exclusive():
            data = self._data(create=True)
            account = Account.for_data(data)
            password = self._password(create=not data.exists())
            if not data.exists():
                self._initialise(data, account, password)
            if (running := self._wait_until_settled(data)) is None:
                running = self._launch(data, account)
            url = self._url(running, password)
            self._ensure_database(url, data)
            self._hold()
            return url

    def stop(self, *, only_if_idle: bool = False) -> bool:
        """Shut down; with `only_if_idle`, not while anybody else uses it. Says whether it did."""
        if not self.home.exists():
            return False
        with self._exclusive():
            self._release()
            data = self._data(create=False)
            running = self._wait_until_settled(data)
            if running is None or (only_if_idle and self._in_use(running, data)):
                return False
            with suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGINT)  # fast shutdown: open transactions are ended
            self._wait_until_gone(running, data)
            return True

    def status(self) -> ServerStatus:
        """What runs now; starts and waits for nothing."""
        data = self._data(create=False)
        server = Postmaster.read(data)
        if server is None or not server.ready:
            return ServerStatus(running=False, data=data)
        try:
            with psycopg.connect(self._url(server, self._password(create=False))) as connection:
                version = connection.info.parameter_status("server_version")
        except psycopg.OperationalError:
            return ServerStatus(running=False, data=data)
        return ServerStatus(True, data, server.pid, server.port, version)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(only_if_idle=True)

    # Files of the home

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One process or thread at a time decides about the server of this home."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            lock = (self.home / "postgres.lock").open("ab")
        except OSError as error:
            raise EmbeddedPostgresError(
                f"Cannot write in {self.home}: {error.strerror}. Does it belong to another user?"
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _hold(self) -> None:
        if self._use is None:
            self._use = (self.home / "postgres.users").open("ab")
            fcntl.flock(self._use, fcntl.LOCK_SH)

    def _release(self) -> None:
        if self._use is not None:
            self._use.close()
            self._use = None

    def _data(self, *, create: bool) -> Path:
        """The data folder: in the home or, recorded there, where its account can reach it."""
        recorded = self.home / "postgres.location"
        if recorded.exists():
            return Path(recorded.read_text().strip())
        data = self.home / "postgres"
        if not create or data.exists() or Account.for_data(data).can_reach(self.home):
            return data.resolve()
        # A random part besides the hash: a home that was deleted and made anew starts empty.
        name = hashlib.sha256(bytes(self.home)).hexdigest()[:8] + "-" + secrets.token_hex(2)
        data = _ELSEWHERE / name / "postgres"
        data.parent.mkdir(parents=True)
        for folder in (_ELSEWHERE, data.parent):
            folder.chmod(0o755)  # whatever the umask
        _write_durably(recorded, f"{data}\n")
        return data

    def _password(self, *, create: bool) -> str:
        file = self.home / "postgres.password"
        if file.exists():
            try:
                return file.read_text().strip()
            except PermissionError:
                raise EmbeddedPostgresError(f"{file} belongs to another user.") from None
        if not create:
            raise EmbeddedPostgresError(
                f"{file} is missing: nobody can connect to {self._data(create=False)} without it. "
                "Restore it, or remove the data to begin anew."
            )
        _write_durably(file, password := secrets.token_urlsafe(24))
        return password

    def _url(self, server: Postmaster, password: str) -> str:
        return f"postgresql://{_NAME}:{password}@127.0.0.1:{server.port}/{_NAME}"

    # Making

    def _initialise(self, data: Path, account: Account, password: str) -> None:
        """Run initdb in a folder beside, then rename: a folder `postgres` is always complete."""
        _sweep(data.parent)
        staging = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=data.parent))
        cluster, password_file = staging / "data", staging / "password"
        password_file.write_text(password)
        account.own(staging)
        account.own(password_file)
        initdb = account.run(
            [
                bin_folder(account, data.parent) / "initdb",
                f"--pgdata={cluster}",
                f"--username={_NAME}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",  # order by code point, the same on every machine ...
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",  # ... with upper() and lower() for all of Unicode
                "--data-checksums",
                "--no-instructions",
            ],
            output=subprocess.PIPE,
        )
        output, _ = initdb.communicate()
        if initdb.returncode != 0:
            shutil.rmtree(staging, ignore_errors=True)
            raise EmbeddedPostgresError(
                f"initdb failed for {data}:\n{output.decode(errors='replace')[-2000:]}"
            )
        cluster.rename(data)
        _sweep(data.parent)

    def _ensure_database(self, url: str, data: Path) -> None:
        """Create the database if need be: the first start may have been killed before this."""
        try:
            with psycopg.connect(
                f"{url[: url.rindex('/')]}/postgres", autocommit=True
            ) as connection:
                query = "SELECT 1 FROM pg_database WHERE datname = %s"
                if connection.execute(query, [_NAME]).fetchone() is None:
                    connection.execute(f"CREATE DATABASE {_NAME}")
        except psycopg.OperationalError as error:
            raise EmbeddedPostgresError(
                f"PostgreSQL runs but refuses us: {error}\n{_log_tail(data)}"
            ) from error

    # Starting and stopping

    def _launch(self, data: Path, account: Account) -> Postmaster:
        """Start the server; again with another port, or when orphans of a killed one are gone."""
        postgres = bin_folder(account, data.parent) / "postgres"
        begun = time.monotonic()
        while True:
            disown_stale_pid(data)
            settings = {
                **self._settings,
                "listen_addresses": "127.0.0.1",
                "unix_socket_directories": "",
                "port": str(_free_port()),
            }
            options = [part for item in settings.items() for part in ("-c", "=".join(item))]
            with _open_log(data, account) as log:
                logged = log.seek(0, os.SEEK_END)
                self._launched = account.run([postgres, "-D", data, *options], output=log)
            while self._launched.poll() is None:
                server = Postmaster.read(data)
                if server is not None and server.pid == self._launched.pid and server.ready:
                    return server
                if time.monotonic() - begun > _START_SECONDS:
                    self._launched.terminate()
                    raise EmbeddedPostgresError(
                        f"PostgreSQL was not ready after {_START_SECONDS:.0f} s.\n{_log_tail(data)}"
                    )
                time.sleep(0.01)
            waited = time.monotonic() - begun
            message = _log_tail(data, after=logged)
            if "shared memory block" in message and waited < _START_SECONDS:
                # Backends outlived a killed postmaster: idle ones leave, busy ones must be told.
                if waited > _ORPHAN_PATIENCE:
                    terminate_orphans(data, force=waited > 3 * _ORPHAN_PATIENCE)
                time.sleep(0.2)
            elif "Address already in use" not in message or waited > _START_SECONDS:
                raise EmbeddedPostgresError(f"PostgreSQL did not start in {data}.\n{message}")

    def _wait_until_settled(self, data: Path) -> Postmaster | None:
        """The server that is ready, or None; waits for one that is starting or stopping."""
        deadline = time.monotonic() + _START_SECONDS
        while (server := Postmaster.read(data)) is not None and self._alive(server, data):
            if server.ready:
                return server
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL (pid {server.pid}) neither starts nor stops.\n{_log_tail(data)}"
                )
            time.sleep(0.05)
        return None

    def _wait_until_gone(self, server: Postmaster, data: Path) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        while self._alive(server, data):
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL (pid {server.pid}) did not stop within {_STOP_SECONDS:.0f} s.\n"
                    f"{_log_tail(data)}"
                )
            time.sleep(0.01)

    def _in_use(self, server: Postmaster, data: Path) -> bool:
        """Whether another process holds the server or is connected to it."""
        with (self.home / "postgres.users").open("ab") as users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        query = """
            SELECT count(*) FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
        """
        try:
            with psycopg.connect(self._url(server, self._password(create=False))) as connection:
                row = connection.execute(query).fetchone()
        except psycopg.errors.TooManyConnections:
            return True
        except psycopg.OperationalError as error:
            raise EmbeddedPostgresError(
                f"PostgreSQL runs but refuses us: {error}\n{_log_tail(data)}"
            ) from error
        return row is not None and row[0] > 0

    def _alive(self, server: Postmaster, data: Path) -> bool:
        """Whether the server lives. If it was our own child, it is collected once it has ended."""
        if self._launched is not None and self._launched.poll() is not None:
            self._launched = None
        return server.is_alive(data)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _open_log(data: Path, account: Account) -> IO[bytes]:
    path = data / "server.log"
    if path.exists() and path.stat().st_size > _LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))
    log = path.open("ab")
    path.chmod(0o600)
    account.own(path)
    return log


def _log_tail(data: Path, *, after: int = 0) -> str:
    try:
        with (data / "server.log").open("rb") as log:
            log.seek(max(after, log.seek(0, os.SEEK_END) - 4000))
            text = log.read().decode(errors="replace")
    except OSError:
        return "(no server log)"
    return "\n".join(text.splitlines()[-20:])


def _write_durably(file: Path, text: str) -> None:
    """Write a file for the caller's eyes only; after a crash it is whole or absent."""
    staging = file.with_name(f"{file.name}.new")
    staging.unlink(missing_ok=True)
    with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    staging.replace(file)


def _sweep(folder: Path) -> None:
    """Remove what interrupted starts left. The initdb of a killed one may write on for a moment
    and put a file back into what is being removed."""
    for _ in range(50):
        left = list(folder.glob("postgres.new-*"))
        if not left:
            return
        for interrupted in left:
            shutil.rmtree(interrupted, ignore_errors=True)
        time.sleep(0.1)
