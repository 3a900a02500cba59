"""Imports: a mapping and a folder of CSV files, through commands, into the log.

What cannot go in is written to a rejects file with its file, line and reason; the rest goes in.
Values are quoted there where they cannot be a person's.
Commands get ids from their keys, so importing again adds only what is not there yet.
"""

from __future__ import annotations

import asyncio
import csv
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self
from uuid import UUID

from pydantic import ValidationError

from commands.bulk import CHUNK, AskRights, Keyed, OnProgress, Progress, Sender, send_all
from commands.bus import Bus
from commands.catalogue import COMMANDS
from commands.mapping import Mapping
from commands.plan import Draft, Plan, plan_of
from commands.references import consistent
from commands.sources import OnReject, Reject, SourceError, Table, read_table
from domain.access import Role
from domain.people import is_about_person, personal_parts

__all__ = ["ImportReport", "RejectsFile", "SourcesUnusable", "import_directory"]


class SourcesUnusable(Exception):
    """Files of an import cannot be used; nothing was imported. One ``SourceError`` for each."""

    def __init__(self, errors: list[SourceError]) -> None:
        self.errors = errors
        super().__init__("; ".join(map(str, errors)))


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        rows: rows read of each file.
        rejected_rows: rows of each file that did not go in, and so made no command.
        progress: commands, and how many were stored, repeated (in the log already) or rejected.
        rejects: the file that says why, one line for each broken rule.
        reject_lines: how many lines it has.
    """

    rows: dict[str, int]
    rejected_rows: dict[str, int]
    progress: Progress
    rejects: Path
    reject_lines: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Commands a second, reading and checking included."""
        return self.progress.done / self.seconds if self.seconds else 0.0


async def import_directory(
    bus: Bus,
    mapping: Mapping,
    directory: Path,
    *,
    organisation_id: UUID,
    actor: str,
    rejects: Path,
    roles: frozenset[Role] = frozenset({Role.SERVICE}),
    on_progress: OnProgress = lambda _: None,
    ask_rights: AskRights | None = None,
    chunk: int = CHUNK,
    dry_run: bool = False,
) -> ImportReport:
    """Import the files of ``directory`` as ``mapping`` says. Stopped at any moment, run it again.

    Args:
        organisation_id: whose orders they are.
        actor: on whose behalf, with which ``roles``.
        ask_rights: asked before each chunk what the actor may do by then, in place of ``roles``.
        rejects: the rejects file to write (an older one is replaced).
        on_progress: told after each chunk.
        dry_run: only say what would go in and what would not; nothing is stored.

    Raises:
        SourcesUnusable: a file is missing, empty, of other columns or not CSV.
        MappingError: a select does not work or does not fit its command.
        LogUnavailable, TooMuchContention: import again to continue.
    """
    started = time.perf_counter()
    with RejectsFile(rejects) as rejected:
        tables = await asyncio.to_thread(_read, mapping, directory, rejected.add)
        plan = await asyncio.to_thread(plan_of, mapping, tables, rejected.add)
        progress = await send_all(
            bus,
            _commands(plan, rejected.add),
            Sender(mapping.name, organisation_id, actor, roles),
            total=len(plan),
            on_refusal=lambda keyed, code, detail: rejected.add(_refused(keyed, code, detail)),
            on_progress=on_progress,
            ask_rights=ask_rights,
            chunk=chunk,
            dry_run=dry_run,
        )
    return ImportReport(
        rows={table.file: table.rows for table in tables.values()},
        rejected_rows={
            table.file: table.rows - int(table.frame["ok"].sum()) for table in tables.values()
        },
        progress=progress,
        rejects=rejects,
        reject_lines=rejected.lines,
        seconds=time.perf_counter() - started,
    )


def _read(mapping: Mapping, directory: Path, report: OnReject) -> dict[str, Table]:
    if _names_persons(mapping):
        report = _without_value(report)
    tables: dict[str, Table] = {}
    errors: list[SourceError] = []
    for name, source in mapping.files.items():
        try:
            tables[name] = read_table(directory, source, mapping, report)
        except SourceError as error:
            errors.append(error)
    if errors:
        raise SourcesUnusable(errors)
    return consistent(tables, mapping, report)


def _names_persons(mapping: Mapping) -> bool:
    """Whether a step's select may bring persons in, by itself or from a view."""
    return any(
        name in select
        for step in mapping.steps
        for part in personal_parts(COMMANDS[step.command])
        for name in (part.path[:1] or (part.person,))
        for select in (step.select, *mapping.views.values())
    )


def _without_value(report: OnReject) -> OnReject:
    # Which column holds a person's data only the selects know: a reject says where it stands.
    return lambda reject: report(replace(reject, value=""))


def _commands(plan: Plan, report: OnReject) -> Iterator[Keyed | None]:
    """The plan's commands in their order; None for one that does not validate.

    The rest of a case is not sent after that: one cause is one complaint, not four.
    """
    broken: dict[str, str] = {}
    for draft in plan:
        if draft.case in broken:
            report(_reject(draft, "", "", "case_broken_off", broken[draft.case]))
            yield None
            continue
        try:
            command = draft.step.model.model_validate(draft.fields)
        except ValidationError as error:
            _explain(draft, error, report)
            if draft.case:
                broken[draft.case] = f"its {draft.step.command} at {draft.source} was rejected"
            yield None
            continue
        yield Keyed(draft.key, command, draft.case, draft.source)


def _explain(draft: Draft, error: ValidationError, report: OnReject) -> None:
    persons = personal_parts(draft.step.model)
    for problem in error.errors(include_url=False, include_context=False):
        place = problem["loc"]
        column = ".".join(map(str, place))
        unsaid = isinstance(problem["input"], dict) or is_about_person(persons, place)
        value = "" if unsaid else str(problem["input"])
        reason = problem["msg"].removeprefix("Value error, ")
        report(_reject(draft, column, value, problem["type"], reason, draft.origin(place)))


def _reject(
    draft: Draft, column: str, value: str, rule: str, reason: str, origin: str = ""
) -> Reject:
    file, line = _split(origin or draft.source)
    return Reject(file, line, column, value, rule, reason, draft.step.command)


def _refused(keyed: Keyed, code: str, detail: str) -> Reject:
    file, line = _split(keyed.origin)
    key = keyed.key.partition(":")[2]
    return Reject(file, line, "", key, code, detail, type(keyed.command).__name__)


def _split(origin: str) -> tuple[str, int]:
    file, _, line = origin.rpartition(":")
    return file, int(line) if line.isdigit() else 0


def _private(path: str, flags: int) -> int:
    """Open a file for its owner alone, an older one too: it tells of what is in the sources."""
    file = os.open(path, flags, 0o600)
    if stat.S_ISREG(os.fstat(file).st_mode):
        os.fchmod(file, 0o600)
    return file


class RejectsFile:
    """Writes rejects as they come, so that a stopped import has told what it knew."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "w", newline="", encoding="utf-8", opener=_private)  # noqa: SIM115
        self._rows = csv.writer(self._file)
        self._rows.writerow(field.name for field in fields(Reject))
        self._lock = Lock()
        self.lines = 0

    def add(self, reject: Reject) -> None:
        # From two threads: what does not validate, and what the bus refuses.
        with self._lock:
            self._rows.writerow(asdict(reject).values())
            self.lines += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
