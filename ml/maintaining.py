"""Upkeep as a task: the log is sealed, what is sealed is archived.

Both are of the whole server, so they are done for its operator alone, never for a member or a key
of one organisation.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from time import monotonic

from eventstore.archive.object_store import ArchiveUnavailable
from eventstore.archive.writer import ArchiveError
from eventstore.seals.sealer import SealingRefused
from eventstore.seals.signing import WrongKey
from ml.job import CannotBeDone, Found, Job, Report, Tools

_SEALED = "SELECT coalesce((SELECT size FROM seal_heads ORDER BY number DESC LIMIT 1), 0)"
_ARCHIVED = """SELECT coalesce((SELECT max(last_position) FROM segments), 0),
    (SELECT count(*) FROM segments)"""
#: How long another process is waited for that has begun to seal or to archive, in seconds.
_PATIENCE_S = 600.0
_LOOK_S = 0.5


async def sealing(tools: Tools, job: Job, report: Report) -> Found:
    """Seal the log up to where it is now; done as soon as a signed head covers that, whoever has
    signed it."""
    await _for_the_operator(tools, job)
    sealer = tools.sealer
    if sealer is None:
        raise CannotBeDone(
            "sealing.no_key",
            "this worker has no signing key: set CHAINLYTICS_SEAL_KEY, the same for all processes",
        )
    head = await tools.log.head()
    before = await _sealed(tools)
    deadline = monotonic() + _PATIENCE_S

    def told(done: int, total: int) -> None:
        report(done, total, "sealing, by log positions")

    told(before, head)
    try:
        while (size := await _sealed(tools)) < head:
            if await asyncio.to_thread(sealer.seal, told) is None:  # somebody else is at it
                if monotonic() > deadline:
                    raise CannotBeDone(
                        "sealing.busy", f"another process seals and does not come to {head}"
                    )
                told(size, head)
                await asyncio.sleep(_LOOK_S)
    except (SealingRefused, WrongKey) as error:
        raise CannotBeDone("sealing.refused", str(error)) from error
    return Found({"position": head, "sealed": size, "newly_sealed": size - before})


async def archiving(tools: Tools, job: Job, report: Report) -> Found:
    """Write all that is sealed by now into the archive, the last stretch as a shorter segment."""
    await _for_the_operator(tools, job)
    archive = tools.archive
    if archive is None:
        raise CannotBeDone(
            "archiving.no_store", "this worker has no archive: set CHAINLYTICS_ARCHIVE"
        )
    to = await _sealed(tools)
    _, before = await _archived(tools)
    deadline = monotonic() + _PATIENCE_S

    def told(done: int, total: int) -> None:
        report(done, total, "writing the archive, by log positions")

    try:
        while (state := await _archived(tools))[0] < to:
            told(state[0], to)
            # One at a time: between two of them the task can be stopped.
            found = await asyncio.to_thread(archive.write, now=True, most=1, report=told)
            if not found:
                if monotonic() > deadline:
                    raise CannotBeDone(
                        "archiving.busy", f"another process archives and does not come to {to}"
                    )
                await asyncio.sleep(_LOOK_S)
    except (ArchiveError, ArchiveUnavailable) as error:
        raise CannotBeDone("archiving.failed", str(error)) from error
    return Found({"position": state[0], "segments": state[1], "newly_written": state[1] - before})


async def _for_the_operator(tools: Tools, job: Job) -> None:
    """Raises CannotBeDone where somebody of one organisation has asked for it."""
    who = job.asked.requested_by
    rights = await tools.memberships.rights(job.organisation_id, who, datetime.now(UTC))
    if rights is not None:
        raise CannotBeDone(
            "task.of_the_server",
            f"{who} is of one organisation: the operator's tokens alone may ask for this",
        )


async def _sealed(tools: Tools) -> int:
    """How many events the newest signed head covers."""
    async with tools.log.connection() as connection:
        row = await (await connection.execute(_SEALED)).fetchone()
    assert row is not None
    return int(row[0])


async def _archived(tools: Tools) -> tuple[int, int]:
    """The last archived position, and how many segments there are."""
    async with tools.log.connection() as connection:
        row = await (await connection.execute(_ARCHIVED)).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])
