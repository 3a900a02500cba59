"""The log's proof: sealing, signed heads, proofs, and the walk that finds what was changed."""

from __future__ import annotations

import json as jsons
from collections.abc import Awaitable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import psycopg
import typer
from rich.markup import escape

from chainlytics import verifier
from chainlytics.application import REQUESTS, Application, database, sealer_of
from chainlytics.cli.console import CliError, Json, Organisation, bar, console, emit, run, table
from chainlytics.settings import Settings
from eventstore.archive.object_store import ArchiveUnavailable
from eventstore.seals.checkpoint import BadCheckpoint, notes_in
from eventstore.seals.proofs import NotSealed, Proofs, SignedHead, Unprovable
from eventstore.seals.sealer import SealingRefused
from eventstore.seals.signing import WrongKey, chain, rotate
from eventstore.seals.verification import Verdict
from eventstore.seals.verification import verify as walk

T = TypeVar("T")
_MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]
_NEWEST = 2**62
_Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", dir_okay=False, help="Write it to a file instead of printing it."),
]
_Origin = Annotated[
    str | None,
    typer.Option(help="The log's name (chainlytics/...), from a source that you trust."),
]


def add_to(app: typer.Typer) -> None:
    """Put the commands about seals on the command line."""
    app.command("verify")(verify)
    app.command("seal")(seal)
    app.command("heads")(heads)
    app.command("checkpoint")(checkpoint)
    app.command("keys")(keys)
    app.command("rotate-key")(rotate_key)
    app.command("proof")(proof)
    app.command("consistency")(consistency)
    app.command("completeness")(completeness)
    app.command("check-proof")(check_proof)


def verify(
    origin: _Origin = None,
    witness: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A file of signed heads that somebody kept; may be repeated.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Walk the whole log and hold it against every signed head. Exit code 1 where something was
    changed, deleted, swapped, inserted or cut off; it names the first position. 3: nothing is
    sealed yet."""
    kept = [one for file in witness or [] for one in _kept(file)]
    with database(Settings()) as url, bar("verifying", quiet=json) as report:
        try:
            found = walk(url, REQUESTS, origin=origin, witnessed=kept, report=report)
        except ArchiveUnavailable as error:
            raise CliError(str(error)) from error
    if json:
        findings = [one._asdict() for one in found.findings]
        emit(
            {
                "holds": found.holds,
                "proved": found.proved,
                "first_bad": found.first_bad,
                "origin": found.origin,
                "events": found.events,
                "sealed": found.sealed,
                "heads": found.heads,
                "keys": found.keys,
                "witnessed": found.witnessed,
                "findings": findings,
            }
        )
    else:
        _tell(found, origin)
    if not found.proved:
        raise typer.Exit(1 if found.findings else 3)


def _kept(file: Path) -> list[tuple[str, str]]:
    """The signed heads in a file, each with the name of its place."""
    try:
        notes = notes_in(file.read_text(encoding="utf-8"))
    except (BadCheckpoint, UnicodeDecodeError) as error:
        raise CliError(f"{file} is no file of signed heads: {error}") from error
    return [(f"{file} ({number})", note) for number, note in enumerate(notes, 1)]


def _tell(found: Verdict, origin: str | None) -> None:
    for one in found.findings[:20]:
        where = ""
        if one.first is not None:
            last = "" if one.last == one.first else f" to {one.last:,}"
            where = f"position {one.first:,}{last} "
        console.print(f"[bold red]BAD[/]  {where}{escape(one.what)}", soft_wrap=True)
    if len(found.findings) > 20:
        console.print(f"     and {len(found.findings) - 20:,} more findings: --json shows all")
    console.print(
        f"log {found.origin or 'without a name yet'}: {found.events:,} events, "
        f"{found.sealed:,} of them sealed, "
        f"signed heads: {found.heads:,}, signing keys: {found.keys}, "
        f"heads that others kept: {found.witnessed:,}",
        soft_wrap=True,
    )
    if not found.sealed:
        console.print("[yellow]nothing is sealed yet, so nothing is proved[/]")
    elif found.holds:
        console.print("[bold green]holds:[/] the log is what was signed")
        if origin is None:
            console.print("note: without --origin nothing says that this is the log you mean")


def seal(
    restored: Annotated[
        bool,
        typer.Option(
            "--restored", help="A backup was put in the place of the log on purpose: sign it."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Seal what is on the log now, as `serve` does by itself, and print the signed head."""
    settings = Settings()
    with database(settings) as url:
        sealer = sealer_of(url, settings)
        if sealer is None:
            raise CliError("there is no signing key: set CHAINLYTICS_SEAL_KEY")
        if restored:
            sealer.forget()
        with bar("sealing", quiet=json) as report:
            try:
                found = sealer.seal(report)
            except (SealingRefused, WrongKey) as error:
                raise CliError(str(error)) from error
    if json:
        emit({"new": found is not None, "head": None if found is None else asdict(found)})
    elif found is None:
        console.print("nothing new to seal")
    else:
        console.print(found.note, end="", soft_wrap=True)


def heads(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="So many at most.")] = 20,
    json: Json = False,
) -> None:
    """List signed heads, newest first."""

    async def work(app: Application, _: Settings) -> list[SignedHead]:
        return await Proofs(app.log).heads(_NEWEST, limit)

    found = run(work)
    if json:
        emit(found)
        return
    told = [(one.number, f"{one.size:,}", f"{one.signed_at:%Y-%m-%d %H:%M:%S}") for one in found]
    table("Signed heads", ("head", "events", "signed"), told)


def checkpoint(out: _Out = None) -> None:
    """Print the newest signed head, the note that you keep to hold the log against it later."""

    async def work(app: Application, _: Settings) -> SignedHead:
        return await _asked(Proofs(app.log).newest())

    _give(run(work).note, out)


def keys(json: Json = False) -> None:
    """List the log's public keys, and whether the one before vouches for each."""

    async def work(app: Application, _: Settings) -> list[Any]:
        return list(await Proofs(app.log).keys())

    found = run(work)
    if json:
        emit(
            [
                {
                    "number": one.number,
                    "public_key": one.public_key.hex(),
                    "from_size": one.from_size,
                    "endorsement": None if one.endorsement is None else one.endorsement.hex(),
                    "since": one.since.isoformat(),
                }
                for one in found
            ]
        )
        return
    broken = set(chain(found))
    told = [
        (
            one.number,
            one.public_key.hex(),
            f"{one.from_size:,}",
            "names the log" if one.number == 0 else "no" if one.number in broken else "yes",
            f"{one.since:%Y-%m-%d %H:%M:%S}",
        )
        for one in found
    ]
    columns = ("key", "public key (Ed25519)", "from event", "vouched for", "since")
    table("Signing keys", columns, told)


def rotate_key(
    lost: Annotated[
        bool,
        typer.Option(
            "--lost",
            help="The old key is gone: nobody vouches for the new one, checks will say so.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Put a new signing key in the place of the old one, vouched for by it."""
    settings = Settings()
    if settings.seal_key is not None:
        raise CliError(
            "the signing key is in CHAINLYTICS_SEAL_KEY: only a key in a file can be replaced "
            f"({settings.seal_key_file}); put it there and unset the variable"
        )
    if not yes:
        typer.confirm("Put a new signing key in the place of the old one?", abort=True)
    with database(settings) as url, psycopg.connect(url) as connection:
        try:
            made = rotate(connection, settings.seal_key_file, lost=lost)
        except WrongKey as error:
            raise CliError(str(error)) from error
    console.print(f"key {made.number} signs from now on: {made.public_key.hex()}", soft_wrap=True)


def proof(
    positions: Annotated[list[int], typer.Argument(min=1, help="Log positions of events.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Under the signed head over so many events.")
    ] = None,
    out: _Out = None,
    organisation: Organisation = None,
) -> None:
    """Prove that events are in the log: a JSON document that anybody can check offline."""

    async def work(app: Application, settings: Settings) -> dict[str, Any]:
        own = settings.organisation_id
        return await _asked(Proofs(app.log).inclusion(positions, size, organisation_id=own))

    _give(_text(run(work, organisation)), out)


def consistency(
    old: Annotated[str, typer.Argument(help="A size in events, or a file with a signed head.")],
    new: Annotated[int | None, typer.Argument(min=1, help="A size; the newest head's.")] = None,
    out: _Out = None,
) -> None:
    """Prove that the log only grew between two signed heads."""
    earlier: int | str
    if old.isdecimal():
        earlier = int(old)
    else:
        try:
            earlier = Path(old).read_text(encoding="utf-8")
        except OSError as error:
            raise CliError(f"{old!r} is no size and no file: {error.strerror}") from error

    async def work(app: Application, _: Settings) -> dict[str, Any]:
        return await _asked(Proofs(app.log).consistency(earlier, new))

    _give(_text(run(work)), out)


def completeness(
    start: Annotated[
        datetime, typer.Option("--from", formats=_MOMENTS, help="From this moment on (UTC).")
    ],
    end: Annotated[datetime, typer.Option("--to", formats=_MOMENTS, help="Before this moment.")],
    out: _Out = None,
    organisation: Organisation = None,
) -> None:
    """Prove that a list of decision requests is all of them in a period."""

    async def work(app: Application, settings: Settings) -> dict[str, Any]:
        proofs = Proofs(app.log)
        return await _asked(proofs.decisions(settings.organisation_id, _utc(start), _utc(end)))

    _give(_text(run(work, organisation)), out)


def check_proof(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A proof (JSON).")],
    origin: _Origin = None,
    json: Json = False,
) -> None:
    """Check a proof, offline: the same as running chainlytics/verifier.py alone."""
    found = verifier.verify(file, origin)
    if json:
        emit(verifier.as_json(found))
    else:
        console.print(escape(verifier.as_text(found)), soft_wrap=True)
        if origin is None:
            console.print("note: without --origin nothing says that this is the log you mean")
    code = verifier.exit_code(found)
    if code:
        raise typer.Exit(code)


async def _asked(question: Awaitable[T]) -> T:
    """An answer, or a clear sentence why there is none."""
    try:
        return await question
    except (NotSealed, BadCheckpoint, Unprovable) as error:
        raise CliError(str(error)) from error


def _give(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=not text.endswith("\n"))
        return
    out.write_text(text, encoding="utf-8")
    console.print(f"written to {escape(str(out))}", soft_wrap=True)


def _text(document: dict[str, Any]) -> str:
    return jsons.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
