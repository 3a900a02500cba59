"""What each kind of task does: the same code as the command line's, told to go on or to stop."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import time
from typing import Any

from pydantic_core import to_jsonable_python

from commands import HANDLERS, Context
from commands.bulk import Progress
from commands.context import Rights
from commands.importer import SourcesUnusable, import_directory
from commands.lines import FILE, MAPPING, import_lines
from commands.mapping import MappingError, read_mapping, shipped_mappings
from commands.tasks import REQUESTS
from domain.access import Role
from domain.errors import Refused
from domain.work import Kind
from eventstore.ids import named_id
from eventstore.seals.proofs import NotSealed
from ml.backtest import NothingToCompare, backtest
from ml.bundle import Bundles, ModelGone, NoSuchDecision
from ml.catalogue import KINDS
from ml.deciding import Instead
from ml.inferring import inference
from ml.job import CannotBeDone, Found, Job, Report, Tools
from ml.maintaining import archiving, sealing
from ml.models import NotEnoughHistory
from ml.replay import NotAnswered, replay
from ml.simulating import simulation
from ml.touring import tours
from ml.training import trainer
from readmodels.database import ReadModels

_GZIP = b"\x1f\x8b"
#: How long a decision's seal is waited for, in seconds.
_SEALED_S = 60
_SPOOL_S = 86_400


#: What is done for whom an operator's token names, who may do all, and is no member.
_OF_OPERATOR = Rights(frozenset({Role.SERVICE}))
#: Why work fails for good, and the code that it is told under.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (NotEnoughHistory, "training.not_enough_history"),
    (NotAnswered, "replay.not_answered"),
    (NoSuchDecision, "bundle.no_such_decision"),
    (ModelGone, "bundle.model_gone"),
    (NotSealed, "bundle.not_sealed"),
    (NothingToCompare, "backtest.nothing_to_compare"),
    (SourcesUnusable, "import.files_unusable"),
    (MappingError, "import.mapping"),
)


async def do(tools: Tools, job: Job, report: Report) -> Found:
    """Do a task. Done again, it comes to the same.

    Raises:
        CannotBeDone: it never will be done; the reason is in words.
    """
    await rights_of(tools, job)
    try:
        return await _WORK[Kind(job.asked.kind)](tools, job, report)
    except Refused as error:
        raise CannotBeDone(error.code, error.detail) from error
    except tuple(kind for kind, _ in _REASONS) as error:
        code = next(code for kind, code in _REASONS if isinstance(error, kind))
        raise CannotBeDone(code, str(error)) from error


async def rights_of(tools: Tools, job: Job) -> Rights:
    """What whoever asked for a task may do at this moment.

    Raises:
        CannotBeDone: not any more what was asked for.
    """
    who = job.asked.requested_by
    found = await tools.memberships.rights(job.organisation_id, who, datetime.now(UTC))
    if found is None:
        return _OF_OPERATOR
    request = REQUESTS[job.asked.kind]
    if not found.allow(request.__name__, HANDLERS[request].roles):
        told = f"{who} may not ask for this any more"
        raise CannotBeDone("task.requester_gone", told)
    return found


async def _replay(tools: Tools, job: Job, report: Report) -> Found:
    asked = job.asked.replay
    assert asked is not None
    ids = None if asked.decision_ids is None else list(dict.fromkeys(asked.decision_ids))
    found = await replay(
        tools.url,
        tools.log,
        tools.artifacts,
        job.organisation_id,
        ids,
        lambda done, total: report(done, total, "deciding again, by log positions"),
    )
    same = sum(one.same for one in found)
    return Found(
        {
            "decisions": len(found),
            "same": same,
            "different": len(found) - same,
            "bytes_compared": sum(one.bytes_compared for one in found),
        },
        _json(found),
        "application/json",
        "replay.json",
    )


async def _training(tools: Tools, job: Job, report: Report) -> Found:
    """Train and propose. It is proposed by who asked for it, so that somebody else approves."""
    asked = job.asked.training
    assert asked is not None
    context = Context(
        organisation_id=job.organisation_id,
        actor=job.asked.requested_by,
        roles=frozenset({Role.SERVICE}),
        command_id=named_id(job.cause.event_id, "register"),
        correlation_id=job.cause.correlation_id,
        causation_id=job.cause.event_id,
        # The log grows: trained again it would be another model, and the first one stands.
        digest=hashlib.sha256(f"register {job.cause.event_id}".encode()).digest(),
    )
    known = (await tools.log.answers([context.command_id])).get(context.command_id)
    if known is not None:
        return Found({"model_hash": known[1].stream.partition("/")[2], "kind": asked.kind})
    trained = await trainer(asked.kind)(
        tools.url,
        tools.log,
        tools.artifacts,
        job.organisation_id,
        at=datetime.now(UTC),
        report=lambda done, total: report(done, total, "reading the log, by positions"),
        fitting=lambda done, total: report(done, total, "growing trees"),
    )
    proposed = trained.registration
    await rights_of(tools, job)  # training takes a while
    try:
        await tools.bus.execute(proposed, context)
    except Refused as refusal:
        if refusal.code != "model.already_registered":
            raise
    told = {
        "auc": proposed.metrics.auc,
        "log_loss": proposed.metrics.log_loss,
        "baseline_log_loss": proposed.baseline.log_loss,
        "mae": proposed.metrics.mae,
        "baseline_mae": proposed.baseline.mae,
        "rmse": proposed.metrics.rmse,
        "baseline_rmse": proposed.baseline.rmse,
    }
    figures = {name: value for name, value in told.items() if value is not None}
    return Found(
        {
            "model_hash": proposed.model_hash,
            "kind": proposed.kind,
            "train_rows": proposed.training.train_rows,
            "test_rows": proposed.metrics.rows,
            **figures,
        }
    )


async def _import(tools: Tools, job: Job, report: Report) -> Found:
    """Bring files in, on behalf of who asked for it."""
    asked = job.asked.importing
    assert asked is not None
    mine = named_id(job.organisation_id, f"import {job.asked.task_id}")
    _sweep(tools.spool, f"{mine}-")
    folder = tools.spool / f"{mine}-{job.attempt}"
    folder.mkdir(mode=0o700, parents=True)
    rejects = folder / "rejects.csv"

    def told(progress: Progress) -> None:
        report(progress.done, progress.total, "sending commands")

    try:
        data = folder / "files"
        data.mkdir()
        for file in asked.files:
            target = data / file.name  # the mapping's own name for it, as the request's rule says
            if not await tools.uploads.write(job.organisation_id, file.upload_id, target):
                detail = f"the upload of {file.name} is there no more: send it again"
                raise CannotBeDone("import.upload_gone", detail)
            with target.open("rb") as opened:
                if opened.read(2) == _GZIP:
                    detail = f"{file.name} is compressed: send it plain"
                    raise CannotBeDone("import.compressed", detail)
        report(0, 0, "reading the files")
        if asked.mapping == MAPPING:
            found = await import_lines(
                tools.bus,
                data / FILE,
                organisation_id=job.organisation_id,
                actor=job.asked.requested_by,
                rejects=rejects,
                on_progress=told,
                ask_rights=partial(rights_of, tools, job),
                dry_run=asked.dry_run or False,
            )
        else:
            found = await import_directory(
                tools.bus,
                read_mapping(shipped_mappings()[asked.mapping]),
                data,
                organisation_id=job.organisation_id,
                actor=job.asked.requested_by,
                rejects=rejects,
                on_progress=told,
                ask_rights=partial(rights_of, tools, job),
                dry_run=asked.dry_run or False,
            )
        content = rejects.read_bytes()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    done = found.progress
    return Found(
        {
            "dry_run": int(asked.dry_run or False),
            "rows": sum(found.rows.values()),
            "rejected_rows": sum(found.rejected_rows.values()),
            "commands": done.total,
            "stored": done.stored,
            "repeated": done.repeated,
            "rejected": done.rejected,
            "complaints": found.reject_lines,
        },
        content,
        "text/csv",
        "rejects.csv",
    )


def _sweep(spool: Path, mine: str) -> None:
    """Remove what earlier attempts, and workers that died long ago, have left."""
    if not spool.is_dir():
        return
    for folder in spool.iterdir():
        if folder.name.startswith(mine) or folder.stat().st_mtime < time() - _SPOOL_S:
            shutil.rmtree(folder, ignore_errors=True)


async def _backtest(tools: Tools, job: Job, report: Report) -> Found:
    asked = job.asked.backtest
    assert asked is not None
    head = await tools.log.head()
    found = await backtest(
        tools.url,
        tools.log,
        tools.artifacts,
        job.organisation_id,
        KINDS[asked.kind],
        Instead(asked.model_hash, asked.weights),
        max(asked.from_position, 1),
        head if asked.to_position is None else asked.to_position,
        lambda done, total: report(done, total, "deciding again, by log positions"),
    )
    return Found(
        {
            "compared": found.compared,
            "unchanged": found.unchanged,
            "swapped": found.swapped,
            "failed_then": found.failed_then,
            "failed_now": found.failed_now,
        },
        _json(found),
        "application/json",
        "backtest.json",
    )


async def _bundle(tools: Tools, job: Job, report: Report) -> Found:
    asked = job.asked.bundle
    assert asked is not None
    bundles = Bundles(tools.log, tools.artifacts, tools.verifier)
    report(0, 0, "gathering the evidence")
    deadline = time() + _SEALED_S
    content = b""
    while not content:
        try:
            content = await bundles.make(
                ReadModels(tools.log, job.organisation_id),
                job.organisation_id,
                asked.decision_id,
                made_at=datetime.now(UTC).replace(microsecond=0),
                day=asked.day,
            )
        except NotSealed:
            if time() > deadline:
                raise
            report(0, 0, "waiting for the seal")
            await asyncio.sleep(1)
    return Found(
        {"decision_id": asked.decision_id, "bytes": len(content)},
        content,
        "application/zip",
        f"{asked.decision_id}-evidence.zip",
    )


_WORK: Mapping[Kind, Callable[[Tools, Job, Report], Awaitable[Found]]] = {
    Kind.REPLAY: _replay,
    Kind.TRAINING: _training,
    Kind.IMPORT: _import,
    Kind.BACKTEST: _backtest,
    Kind.BUNDLE: _bundle,
    Kind.SIMULATION: simulation,
    Kind.INFERENCE: inference,
    Kind.TOURS: tours,
    Kind.SEALING: sealing,
    Kind.ARCHIVING: archiving,
}


def _json(value: Any) -> bytes:
    plain = partial(to_jsonable_python, fallback=str)
    return json.dumps(value, default=plain, ensure_ascii=False).encode()
