"""The running server of a data folder: who it is, whether it lives, and what a killed one left."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil


@dataclass(frozen=True)
class Postmaster:
    """The server as its `postmaster.pid` describes it; the file may be older than the truth."""

    pid: int
    port: int | None
    ready: bool

    @classmethod
    def read(cls, data: Path) -> Self | None:
        """What the file says, or None where it is absent or only just being written."""
        try:
            lines = (data / "postmaster.pid").read_text().splitlines()
            pid = int(lines[0])
        except (OSError, ValueError, IndexError):
            return None
        port = int(lines[3]) if len(lines) > 3 and lines[3].strip().isdigit() else None
        return cls(pid, port, ready=len(lines) > 7 and lines[7].strip() == "ready")

    def is_alive(self, data: Path) -> bool:
        """Whether the pid is a PostgreSQL of this folder: no zombie, nobody else's process.

        Told by its command line, which even root in a container may not be denied.
        """
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and str(data) in process.cmdline()
        except psutil.Error:
            return False


def disown_stale_pid(data: Path) -> None:
    """Let PostgreSQL pass a pid that lives on as a zombie or as somebody else's process.

    The caller has made sure that no server runs. PostgreSQL takes its parent's pid for a stale
    one, and still checks the shared memory named below it, which deleting the file would skip.
    """
    file = data / "postmaster.pid"
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return
    if not lines:  # a server was killed just as it made the file: it had no backends yet
        file.unlink()
        return
    with file.open("r+") as opened:  # in place: the file stays its owner's
        opened.write("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
        opened.truncate()


def terminate_orphans(data: Path, *, force: bool) -> None:
    """End backends that work in this folder, which is their working directory, without a server."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name().startswith("postgres") and Path(process.cwd()) == data.resolve():
                process.send_signal(signal.SIGKILL if force else signal.SIGTERM)
