"""Who did what, what came of a decision, who looked at personal data: for auditors, read-only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from chainlytics.application import Application
from chainlytics.cli.acting import reading
from chainlytics.cli.console import CliError, Json, Organisation, console, emit, rows, run
from chainlytics.settings import Settings
from domain.catalogue import AREAS
from ml import timeline_picture
from readmodels import audit, timeline
from readmodels.audit import AuditLine, CommandLine, NobodyLine, PersonalAccess, Result
from readmodels.database import ReadModels
from readmodels.page import MAX_LIMIT, Page
from readmodels.timeline import NotInTheTrail, Step, Timeline

_Row = TypeVar("_Row", bound=BaseModel)
_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]
_DAYS = audit.LOOKED_BACK.days
_BACK = f"of the last {_DAYS} days, without --from."
_Actor = Annotated[str | None, typer.Option("--actor", help="Of this actor only.")]
_From = Annotated[
    datetime | None,
    typer.Option("--from", formats=_FORMATS, help="From this moment on (UTC, unless it says)."),
]
_To = Annotated[datetime | None, typer.Option("--to", formats=_FORMATS, help="Before this moment.")]
_Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="So many rows at most.")]
_COLOURS = {"root": "bold", "causation": "blue", "stream": "dim", "decision": "green"}


def add_to(app: typer.Typer) -> None:
    """Put the commands about the trail on the command line."""
    app.command("commands")(show_commands)
    app.command("timeline")(show_timeline)
    app.command("access")(show_access)
    app.command("trail")(show_trail)


def show_commands(
    actor: Annotated[
        str | None, typer.Option("--actor", help=f"Of this actor only; {_BACK}")
    ] = None,
    command: Annotated[str | None, typer.Option(help=f"Of this name only; {_BACK}")] = None,
    result: Annotated[Result | None, typer.Option(help="That ended so only.")] = None,
    stream: Annotated[str | None, typer.Option(help=f"On this stream only; {_BACK}")] = None,
    since: _From = None,
    until: _To = None,
    oldest: Annotated[bool, typer.Option("--oldest", help="The oldest first.")] = False,
    unauthenticated: Annotated[
        bool,
        typer.Option(
            "--unauthenticated",
            help="Requests without a good token instead: they belong to no organisation.",
        ),
    ] = False,
    limit: _Limit = 50,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Show who did what with which roles, and what became of it; denied attempts too."""
    if unauthenticated:

        async def nobody(app: Application, _: Settings) -> list[NobodyLine]:
            return await audit.unauthenticated(
                app.log, since=_utc(since), until=_utc(until), limit=limit
            )

        rows("Requests without a good token", run(nobody, organisation), json)
        return

    async def work(app: Application, settings: Settings) -> list[CommandLine]:
        read = ReadModels(app.log, settings.organisation_id)
        return await _pages(
            lambda **at: audit.commands(
                read,
                actor=actor,
                command=command,
                result=result,
                stream=stream,
                since=_utc(since),
                until=_utc(until),
                newest_first=not oldest,
                **at,
            ),
            limit,
        )

    title = "Commands"
    if since is None and (actor or command or stream):
        title += f" of the {_DAYS} days before {_utc(until) or 'now'}"
    _show(
        title,
        run(work, organisation),
        json,
        {
            "when": lambda one: _moment(one.at),
            "who": lambda one: _over(one.actor, ", ".join(one.roles)),
            "what": lambda one: _over(one.command, one.stream, one.code or ""),
            "result": lambda one: _over(one.result, _how_often_or_where(one)),
        },
        folded=("who", "what"),
    )


def show_access(
    person: Annotated[str | None, typer.Option(help="About this person (a pseudonym).")] = None,
    actor: _Actor = None,
    since: _From = None,
    until: _To = None,
    limit: _Limit = 50,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Show who was given whose personal data, which of it and why; the latest first."""

    async def work(app: Application, settings: Settings) -> list[PersonalAccess]:
        read = ReadModels(app.log, settings.organisation_id)
        return await _pages(
            lambda **at: audit.personal_access(
                read, person=person, actor=actor, since=_utc(since), until=_utc(until), **at
            ),
            limit,
        )

    _show(
        "Looks at personal data",
        run(work, organisation),
        json,
        {
            "when": lambda one: _moment(one.at),
            "who": lambda one: _over(one.actor, ", ".join(one.roles)),
            "whose, what and why": lambda one: _over(one.person, ", ".join(one.fields), one.why),
        },
        folded=("who", "whose, what and why"),
    )


def show_trail(
    area: Annotated[str | None, typer.Option(help=f"One of {', '.join(AREAS)}.")] = None,
    stream: Annotated[UUID | None, typer.Option(help="Of this stream's id only.")] = None,
    limit: _Limit = 50,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Show every event as a sentence, in the order of the log."""
    if area is not None and area not in AREAS:
        raise CliError(f"area {area!r} is not known; there are {', '.join(AREAS)}")

    async def work(app: Application, settings: Settings) -> list[AuditLine]:
        read = await reading(app, settings)
        return await _pages(
            lambda **at: audit.audit_trail(read, area=area, stream_id=stream, **at), limit
        )

    _show(
        "Audit trail",
        run(work, organisation),
        json,
        {
            "position": lambda one: str(one.position),
            "when": lambda one: _moment(one.recorded_at),
            "actor": lambda one: escape(one.actor),
            "sentence": lambda one: escape(one.sentence),
        },
        folded=("actor", "sentence"),
    )


def show_timeline(
    decision: Annotated[str, typer.Argument(help="The decision's id.")],
    svg: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw it into this file instead.")
    ] = None,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Show what came of a decision: a tree, in which causes carry their effects."""

    async def work(app: Application, settings: Settings) -> Timeline | None:
        try:
            return await timeline.timeline(await reading(app, settings), decision)
        except NotInTheTrail as error:  # an event that could not be folded is parked
            raise CliError(f"{error}; see chainlytics projections dead-letters") from error

    found = run(work, organisation)
    if found is None:
        raise CliError(f"decision {decision!r} is not known")
    if svg is not None:
        svg.write_text(timeline_picture.picture(found), encoding="utf-8")
        if not json:
            console.print(f"{escape(str(svg))}: {found.events} events")
    if json:
        emit(found)
    elif svg is None:
        console.print(_tree(found))


def _tree(found: Timeline) -> Tree:
    tree: Tree | None = None
    branches: list[Tree] = []
    steps = timeline_picture.flat(found.root)
    elsewhere = timeline_picture.parents_elsewhere(steps)
    for number, (_, step, above) in enumerate(steps):
        if above is None:
            tree = Tree(_line(step, None))
            branches.append(tree)
        else:
            branches.append(branches[above].add(_line(step, elsewhere.get(number))))
    assert tree is not None
    if not found.complete:
        tree.add("[bold]there are more events than are shown[/]")
    return tree


def _line(step: Step, parent: int | None) -> str:
    colour = _COLOURS[step.by]
    told = f"[{colour}]{escape(step.sentence)}[/]\n[dim]{step.recorded_at:%Y-%m-%d %H:%M:%S} "
    told += f"{escape(step.actor)}, position {step.position}[/]"
    if parent is not None:
        told += f"\n[dim]follows from position {parent}[/]"
    if step.refers is not None:
        at = step.refers.position
        told += f"\n[dim]its model: {escape(step.refers.sentence)}, position {at}[/]"
    return told


def _show(
    title: str,
    found: Sequence[_Row],
    json: bool,
    cells: Mapping[str, Callable[[_Row], str]],
    folded: Sequence[str],
) -> None:
    """Rows as JSON, or as a table that fits a terminal of 80 columns: only what is ``folded`` may
    be broken, the rest is never wider than its words."""
    if json:
        emit(list(found))
    elif not found:
        console.print(f"{title}: none yet")
    else:
        table = Table(title=title, title_justify="left", header_style="bold")
        for name in cells:
            table.add_column(name, overflow="fold", no_wrap=name not in folded)
        for row in found:
            table.add_row(*(cell(row) for cell in cells.values()))
        console.print(table)


def _over(first: str, *below: str) -> str:
    """Lines of one cell, the first one to be seen first."""
    return "\n".join([escape(first), *(f"[dim]{escape(line)}[/]" for line in below if line)])


def _moment(at: datetime) -> str:
    return _over(f"{at:%Y-%m-%d}", f"{at:%H:%M:%S}")


def _how_often_or_where(one: CommandLine) -> str:
    if one.position is not None:
        return f"at {one.position}"
    return "" if one.times == 1 else f"{one.times} times"


async def _pages(ask: Callable[..., Awaitable[Page[_Row]]], limit: int) -> list[_Row]:
    """At most so many rows, however many pages they are."""
    found: list[_Row] = []
    at: dict[str, Any] = {}
    while len(found) < limit:
        page = await ask(limit=min(limit - len(found), MAX_LIMIT), **at)
        found += page.items
        if page.next_cursor is None:
            break
        at = {"cursor": page.next_cursor}
    return found


def _utc(moment: datetime | None) -> datetime | None:
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
