"""A witness that is a file: notes one behind the other, a blank line between them.

The file is only ever appended to, so that its folder may forbid anything else. Each new head is
checked against the last one in it. A note cut off by a crash stays; a whole one follows it. A file
that took heads and has them no more is not begun anew: somebody took away what it had seen.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import structlog

from eventstore.seals.checkpoint import BadCheckpoint, Head, parsed
from eventstore.seals.consistency import consistent
from eventstore.witnesses.witness import HeadNote, Proof, WitnessAway, WitnessRefused

# The last note is looked for in so many bytes; a note has about 400.
_TAIL = 1 << 18
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the file has: bytes in all, the last of them, and the last head."""

    size: int
    tail: bytes
    last: Head | None


class FileWitness:
    """Appends notes to one log's file. Its folder has to be there: it may be a mount."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """The file's address."""
        return self._path.as_uri()

    async def hand(self, head: HeadNote, *, seen: int, proof: Proof) -> str:
        """Append the note and wait until it is on disk; see ``Witness``."""
        found = await self._in_thread(head, begin=not seen)
        _check_kept(found.last, seen)
        if found.last is not None:
            await _check(found.last, head.head, proof)
        if not found.tail.endswith(head.note.encode()):
            await self._in_thread(head, found)
        return ""

    async def close(self) -> None:
        """The file is open only while it is written to."""

    async def _in_thread(
        self, head: HeadNote, after: _Found | None = None, *, begin: bool = False
    ) -> _Found:
        try:
            return await asyncio.to_thread(self._work, head, after, begin)
        except OSError as error:
            raise WitnessAway(f"{error.strerror or error}") from error

    def _work(self, head: HeadNote, after: _Found | None, begin: bool) -> _Found:
        """Read the file's end; with ``after``, append the note behind what was read then. With
        ``begin``, a file that is not there is made."""
        # NONBLOCK: a pipe of that name must not hold us.
        how = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(self._path, how | os.O_CREAT if begin else how, 0o644)
        except FileNotFoundError:
            # Without its folder it is a mount that is not there.
            if begin or after is not None or not self._path.parent.is_dir():
                raise
            return _Found(0, b"", None)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise WitnessAway("it is not a regular file")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            found = _read(descriptor)
            if after is None:
                return found
            if found.size != after.size:
                raise WitnessAway("somebody else wrote to it at the same time")
            self._append(descriptor, head.note, found)
            return found
        finally:
            os.close(descriptor)

    def _append(self, descriptor: int, note: str, found: _Found) -> None:
        between = b"\n"
        if not found.tail:
            between = b""
        elif not found.tail.endswith(b"\n"):
            between = b"\n\n"
            _log.warning(
                "the witness file's last note was cut off; a whole one follows", file=self.name
            )
        rest = memoryview(between + note.encode())
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
        if not found.size:
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _read(descriptor: int) -> _Found:
    size = os.fstat(descriptor).st_size
    start = max(0, size - _TAIL)
    tail = os.pread(descriptor, _TAIL, start)
    # Any head counts, even one whose signature was cut off: the log had it.
    for block in reversed(tail.decode(errors="replace").split("\n\n")):
        try:
            return _Found(size, tail, parsed(block.strip("\n") + "\n\n"))
        except BadCheckpoint:
            continue
    if start:
        raise WitnessRefused(f"there is no head in its last {_TAIL:,} bytes")
    return _Found(size, tail, None)


def _check_kept(last: Head | None, seen: int) -> None:
    has = 0 if last is None else last.size
    if has >= seen:
        return
    told = "it has no head any more" if last is None else f"its last head is of {has:,} events"
    raise WitnessRefused(
        f"{told}, though it took one of {seen:,}: it was deleted, emptied or replaced. Bring the "
        "file back, or name another one that begins anew"
    )


async def _check(last: Head, head: Head, proof: Proof) -> None:
    if last.origin != head.origin:
        raise WitnessRefused(f"its last head is of the log {last.origin}, not of {head.origin}")
    if last.size > head.size:
        raise WitnessRefused(
            f"its last head is of {last.size:,} events, this one of {head.size:,}: "
            "the log was set back"
        )
    path = [] if last.size in (0, head.size) else await proof(last.size, head.size)
    if not consistent(last, head, path):
        raise WitnessRefused(
            f"the first {last.size:,} events are not those of its last head: the log was rewritten"
        )
