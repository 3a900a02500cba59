"""Inference as a task: decisions or forecasts about many subjects at once.

Command ids hang on the task and the subject, so a task that is done again asks nothing twice.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from commands import Context
from commands.decisions import decision_stream
from commands.handler import stream_id
from domain import catalogue
from domain.access import Role
from domain.decisions import DecisionExplained, DecisionFailed, DecisionMade, RequestDecision
from domain.errors import Refused
from domain.values import Command
from eventstore import Receipt
from eventstore.ids import named_id
from ml.catalogue import KINDS
from ml.estimates import DEMAND
from ml.explaining import method_of
from ml.forecaster import Forecaster
from ml.job import CannotBeDone, Found, Job, Report, Tools
from readmodels import forecasts
from readmodels.database import ReadModels
from readmodels.waiting import waiting

#: Subjects of one task.
MOST = 1000
#: Commands that are sent together, and how long answers are waited for after the last one came.
_AT_ONCE = 200
_PATIENCE_S = 300.0
_AGAIN_S = 0.3

Row = dict[str, Any]


async def inference(tools: Tools, job: Job, report: Report) -> Found:
    """Ask, wait for the answers, and write them down."""
    asked = job.asked.inference
    assert asked is not None
    read = ReadModels(tools.log, job.organisation_id)
    if asked.kind == DEMAND.name:
        rows = await _forecasts(tools, job, read, report)
    elif asked.kind in KINDS:
        rows = await _decisions(tools, job, read, report)
    else:
        known = ", ".join(sorted([*KINDS, DEMAND.name]))
        raise CannotBeDone("decision.unknown_kind", f"kind {asked.kind!r}: there are {known}")
    counts = Counter(str(row["result"]) for row in rows)
    by_rule = sum(row.get("method") == "rule-based" for row in rows)
    figures = {"subjects": len(rows), **counts, "rule_based": by_rule}
    if asked.format == "csv":
        return Found(figures, _csv(rows), "text/csv", "inference.csv")
    content = json.dumps({"summary": figures, "items": rows}, ensure_ascii=False).encode()
    return Found(figures, content, "application/json", "inference.json")


async def _decisions(tools: Tools, job: Job, read: ReadModels, report: Report) -> list[Row]:
    asked = job.asked.inference
    assert asked is not None
    subjects = (
        await waiting(read, asked.kind, MOST)
        if asked.subject_ids is None
        else list(dict.fromkeys(asked.subject_ids))
    )
    rows: dict[str, Row] = {}
    open_: dict[str, str] = {}
    for start in range(0, len(subjects), _AT_ONCE):
        report(start, 2 * len(subjects), "asking for decisions")
        some = subjects[start : start + _AT_ONCE]
        sent = [_request(job, asked.kind, subject) for subject in some]
        for subject, result in zip(some, await tools.bus.execute_many(sent), strict=True):
            decision_id = _decision_id(job, subject)
            if isinstance(result, Receipt):
                open_[subject] = decision_id
            else:
                rows[subject] = _not_taken(subject, result)
    await _answers(tools, job, open_, rows, len(subjects), report)
    return [rows[subject] for subject in subjects]


async def _answers(
    tools: Tools,
    job: Job,
    open_: dict[str, str],
    rows: dict[str, Row],
    count: int,
    report: Report,
) -> None:
    """Wait for the answers; what has none after a while is told so."""
    heard = monotonic()
    while open_ and monotonic() - heard < _PATIENCE_S:
        report(2 * count - len(open_), 2 * count, "waiting for answers")
        names = dict(list(open_.items())[:_AT_ONCE])
        ids = {
            subject: stream_id(job.organisation_id, decision_stream(decision_id))
            for subject, decision_id in names.items()
        }
        events = await tools.log.streams(list(ids.values()))
        for subject, id_ in ids.items():
            found = [catalogue.decode(one.topic, one.state) for one in events[id_]]
            row = _answer(subject, found)
            if row is not None:
                rows[subject] = row
                del open_[subject]
                heard = monotonic()
        if names and names.keys() <= open_.keys():
            await asyncio.sleep(_AGAIN_S)
    for subject, decision_id in open_.items():
        rows[subject] = {
            "subject_id": subject,
            "result": "unanswered",
            "decision_id": decision_id,
            "sentence": f"there was no answer for {_PATIENCE_S:.0f} s",
        }


def _answer(subject: str, events: Sequence[Any]) -> Row | None:
    made = next((one for one in events if isinstance(one, DecisionMade)), None)
    words = next((one for one in events if isinstance(one, DecisionExplained)), None)
    failed = next((one for one in events if isinstance(one, DecisionFailed)), None)
    if failed is not None:
        told = {"code": failed.code, "sentence": failed.detail}
        return {
            "subject_id": subject,
            "result": "failed",
            "decision_id": failed.decision_id,
            **told,
        }
    if made is None or words is None:
        return None
    return {
        "subject_id": subject,
        "result": "made",
        "decision_id": made.decision_id,
        "method": method_of({"role": made.role, "model_hash": made.model_hash}),
        "option": dict(made.option),
        "risk": made.risk,
        "confidence": made.confidence,
        "sentence": words.summary,
    }


async def _forecasts(tools: Tools, job: Job, read: ReadModels, report: Report) -> list[Row]:
    asked = job.asked.inference
    assert asked is not None
    if asked.subject_ids is None:
        known = await forecasts.stocks(read, None, MOST)
        subjects = [f"{one.site_id}/{one.sku}" for one in known]
    else:
        subjects = list(dict.fromkeys(asked.subject_ids))
    forecaster, at = Forecaster(tools.artifacts), job.asked.requested_at
    rows: list[Row] = []
    for number, subject in enumerate(subjects):
        report(number, len(subjects), "foretelling demand")
        site_id, _, sku = subject.partition("/")
        try:
            if not sku:
                raise Refused("decision.wrong_subject", subject_id=subject, wanted="SITE/SKU")
            [command] = await forecaster.make(read, site_id, sku, at.date(), asked.horizon_days, at)
            [result] = await tools.bus.execute_many([_sent(job, command, f"forecast:{subject}")])
            if not isinstance(result, Receipt):
                raise result
        except Refused as refusal:
            rows.append(_not_taken(subject, refusal))
            continue
        rows.append(
            {
                "subject_id": subject,
                "result": "made",
                "method": command.method,
                "technique": command.technique,
                "from_day": command.from_day.isoformat(),
                "total": command.total,
                "total_low": command.total_low,
                "total_high": command.total_high,
                "sentence": command.sentence,
            }
        )
    return rows


def _decision_id(job: Job, subject: str) -> str:
    return str(named_id(job.cause.event_id, f"decision:{subject}"))


def _request(job: Job, kind: str, subject: str) -> tuple[Command, Context]:
    command = RequestDecision(
        decision_id=_decision_id(job, subject),
        kind=kind,
        subject_id=subject,
        priority=job.asked.priority,
        requested_at=job.asked.requested_at,
    )
    return _sent(job, command, f"request:{subject}")


def _sent(job: Job, command: Command, name: str) -> tuple[Command, Context]:
    return command, Context(
        organisation_id=job.organisation_id,
        actor=job.asked.requested_by,
        roles=frozenset({Role.SERVICE}),  # what the requester may do was asked before
        command_id=named_id(job.cause.event_id, name),
        correlation_id=job.cause.correlation_id,
        causation_id=job.cause.event_id,
        # Foretold again the log may have grown: the first answer stands.
        digest=named_id(job.cause.event_id, name).bytes,
    )


def _not_taken(subject: str, error: Exception) -> Row:
    code = error.code if isinstance(error, Refused) else type(error).__name__
    return {
        "subject_id": subject,
        "result": "refused",
        "code": code,
        "sentence": str(error),
    }


_COLUMNS = (
    *("subject_id", "result", "decision_id", "method", "technique", "option", "risk"),
    *("confidence", "from_day", "total", "total_low", "total_high", "code", "sentence"),
)


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in _COLUMNS])
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    if isinstance(value, Mapping):
        value = " ".join(f"{name}={one}" for name, one in value.items())
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}'"
    return "" if value is None else value
