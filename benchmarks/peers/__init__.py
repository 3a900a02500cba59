"""The event stores that the append benchmark compares the log with, and PostgreSQL's bare rows."""

from __future__ import annotations

import shutil
import subprocess

from benchmarks.peers.emmett import Emmett
from benchmarks.peers.eventsourcing_package import EventsourcingPackage, EventsourcingRecorder
from benchmarks.peers.message_db import MessageDb
from benchmarks.peers.peer import HERE, Appended, Miscounted, Peer, Store
from benchmarks.peers.raw import adbc_rows, copy_binary, raw_inserts
from benchmarks.peers.umadb import UmaDb

__all__ = [
    "PEERS",
    "Appended",
    "Emmett",
    "EventsourcingPackage",
    "EventsourcingRecorder",
    "MessageDb",
    "Miscounted",
    "Peer",
    "Store",
    "UmaDb",
    "adbc_rows",
    "copy_binary",
    "install",
    "raw_inserts",
]

PEERS: tuple[Peer, ...] = (
    EventsourcingPackage(),
    EventsourcingRecorder(),
    MessageDb(),
    Emmett(),
    UmaDb(),
)


def install() -> None:
    """Install the npm packages of package-lock.json where they are missing and npm is here.

    Where npm fails it says why on standard error; the peers concerned then say that they are
    missing.
    """
    npm = shutil.which("npm")
    if npm is None or (HERE / "node_modules").exists():
        return
    # Only its errors are of interest, and the last line of a benchmark's output is its result.
    command = [npm, "ci", "--loglevel=error"]
    subprocess.run(command, cwd=HERE, stdout=subprocess.DEVNULL, check=False)
