"""Imports of JSON lines: each line is an object with a key, a command's name and its fields.

    {"key": "4711", "command": "ShipOrder", "fields": {"order_id": "O-1", "shipped_at": "..."}}

What cannot go in is told as of a CSV file; a key that was sent before changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from commands import inventory, orders, transport
from commands.bulk import CHUNK, AskRights, Keyed, OnProgress, Sender, send_all
from commands.bus import Bus
from commands.importer import ImportReport, RejectsFile
from commands.mapping import read_mapping, shipped_mappings
from commands.sources import OnReject, Reject
from domain.access import Role
from domain.people import is_about_person, personal_parts
from domain.values import Command

#: The name of the mapping of JSON lines, and of its file.
MAPPING = "commands"
FILE = "commands.jsonl"
#: Bytes of one line.
LONGEST = 1_000_000
_MOST_KEY = 200

#: What lines may ask for: the daily business, nothing that governs it.
ALLOWED: Mapping[str, type[Command]] = {
    handler.command.__name__: handler.command
    for area in (orders, inventory, transport)
    for handler in area.HANDLERS
    if Role.ADMIN in handler.roles
}


@cache
def importable() -> Mapping[str, Collection[str]]:
    """The mappings that an import may name, each with the names of its files."""
    shipped = {
        name: frozenset(source.file for source in read_mapping(path).files.values())
        for name, path in shipped_mappings().items()
    }
    return {**shipped, MAPPING: frozenset({FILE})}


async def import_lines(
    bus: Bus,
    path: Path,
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
    """Send the commands of a file in its order. Stopped at any moment, run it again.

    Args:
        organisation_id: whose they are.
        actor: on whose behalf, with which ``roles``.
        rejects: the rejects file to write (an older one is replaced).
        on_progress: told after each chunk.
        ask_rights: asked before each chunk what the actor may do by then, in place of ``roles``.
        dry_run: only say what would go in and what would not; nothing is stored.

    Raises:
        LogUnavailable, TooMuchContention: import again to continue.
    """
    started = time.perf_counter()
    total = sum(1 for _ in _lines(path))
    with RejectsFile(rejects) as rejected:
        progress = await send_all(
            bus,
            _commands(path, rejected.add),
            Sender(MAPPING, organisation_id, actor, roles),
            total=total,
            on_refusal=lambda keyed, code, detail: rejected.add(
                Reject(
                    path.name,
                    int(keyed.origin),
                    "",
                    keyed.key,
                    code,
                    detail,
                    type(keyed.command).__name__,
                )
            ),
            on_progress=on_progress,
            ask_rights=ask_rights,
            chunk=chunk,
            dry_run=dry_run,
        )
    return ImportReport(
        rows={path.name: total},
        rejected_rows={path.name: progress.rejected},
        progress=progress,
        rejects=rejects,
        reject_lines=rejected.lines,
        seconds=time.perf_counter() - started,
    )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers; of one that is too long, its beginning."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST + 2):
            number += 1
            rest = line
            while not rest.endswith(b"\n") and (rest := file.readline(LONGEST)):
                pass
            if line.strip():
                yield number, line


def _commands(path: Path, report: OnReject) -> Iterator[Keyed | None]:
    """The command of each line; None for one that is none."""
    for number, line in _lines(path):
        try:
            yield _command(number, line)
        except _Wrong as error:
            for column, value, rule, reason, command in error.told:
                report(Reject(path.name, number, column, value, rule, reason, command))
            yield None


class _Wrong(Exception):
    def __init__(self, *told: tuple[str, str, str, str, str]) -> None:
        self.told = told  # column, value, rule, reason, command
        super().__init__()


def _command(number: int, line: bytes) -> Keyed:
    if len(line) > LONGEST:
        raise _Wrong(("", "", "too_long", f"a line has {LONGEST:,} bytes at the most", ""))
    try:
        said: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise _Wrong(("", "", "not_json", "it is no JSON", "")) from None
    if not isinstance(said, dict) or said.keys() != {"key", "command", "fields"}:
        detail = "an object with key, command and fields, and nothing else, is expected"
        raise _Wrong(("", "", "not_a_command", detail, ""))
    key, name = said["key"], said["command"]
    if not isinstance(key, str) or not 0 < len(key) <= _MOST_KEY:
        raise _Wrong(("key", "", "key", f"a text of 1 to {_MOST_KEY} characters is expected", ""))
    model = ALLOWED.get(name) if isinstance(name, str) else None
    if model is None:
        raise _Wrong(("command", str(name)[:100], "unknown", f"one of {', '.join(ALLOWED)}", ""))
    try:
        command = model.model_validate_json(json.dumps(said["fields"]))
    except ValidationError as error:
        persons = personal_parts(model)
        raise _Wrong(
            *(
                (
                    ".".join(map(str, one["loc"])),
                    ""
                    if isinstance(one["input"], dict) or is_about_person(persons, one["loc"])
                    else str(one["input"])[:100],
                    one["type"],
                    one["msg"],
                    name,
                )
                for one in error.errors(include_url=False, include_context=False)
            )
        ) from None
    return Keyed(key, command, origin=str(number))
