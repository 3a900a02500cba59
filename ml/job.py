"""What work is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from commands import Bus
from commands.membership import Memberships
from domain.tasks import TaskRequested
from eventstore import Log, StoredEvent
from eventstore.archive.writer import Archive
from eventstore.artifacts import Artifacts
from eventstore.seals.sealer import Sealer
from eventstore.uploads import Uploads

#: Called from the work with what is done, of how much (0: not known), and what it is doing.
Report = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Tools:
    """What work is done with.

    ``spool``: a folder of our own for files that are being imported. ``verifier``: the program
    that evidence bundles have a copy of. ``sealer``, ``archive``: of the whole server; None: the
    process is not set up for that.
    """

    url: str
    log: Log
    bus: Bus
    artifacts: Artifacts
    uploads: Uploads
    spool: Path
    verifier: bytes
    memberships: Memberships
    sealer: Sealer | None = None
    archive: Archive | None = None


#: Opens them, on the event loop that they are used on.
OpenTools = Callable[[], AbstractAsyncContextManager[Tools]]


@dataclass(frozen=True, slots=True)
class Job:
    """A task that is being done: whose, since which event, which attempt, and what it asks."""

    organisation_id: UUID
    cause: StoredEvent
    attempt: int
    asked: TaskRequested


@dataclass(frozen=True, slots=True)
class Found:
    """What came of it: figures, and perhaps a file."""

    result: Mapping[str, int | float | str]
    content: bytes | None = None
    media_type: str | None = None
    file_name: str | None = None


class CannotBeDone(Exception):
    """A task that fails for a reason that whoever asked for it can understand."""

    def __init__(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(f"{code}: {reason}")
