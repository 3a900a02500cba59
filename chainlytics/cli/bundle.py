"""Evidence bundles at the command line: made of a decision, and checked without the system."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from chainlytics import verifier
from chainlytics.application import Application
from chainlytics.cli.acting import reading
from chainlytics.cli.console import CliError, Json, Organisation, console, emit, run
from chainlytics.settings import Settings
from eventstore.seals.proofs import NotSealed
from ml.bundle import Bundles, ModelGone, NoSuchDecision
from ml.replay import NotAnswered


def verifier_program() -> bytes:
    """The program that checks bundles, as each bundle has a copy of it."""
    return Path(verifier.__file__).read_bytes()


def bundle(
    decision: Annotated[str, typer.Argument(help="The decision's id.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to; DECISION-evidence.zip here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    day: Annotated[
        bool,
        typer.Option(
            "--day/--no-day",
            help="Prove too that its day had no other requests, which shows those that it had.",
        ),
    ] = True,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Write a decision's evidence into one archive that anybody can check offline."""
    target = out or Path(f"{decision.replace('/', '_')}-evidence.zip")
    if target.exists() and not force:
        raise CliError(f"{target} is there already: name another by --out, or say --force")

    async def work(app: Application, settings: Settings) -> bytes:
        bundles = Bundles(app.log, app.artifacts, verifier_program())
        return await bundles.make(
            await reading(app, settings),
            settings.organisation_id,
            decision,
            made_at=datetime.now(UTC).replace(microsecond=0),
            day=day,
        )

    try:
        content = run(work, organisation)
    except (NoSuchDecision, NotAnswered, NotSealed, ModelGone) as error:
        raise CliError(str(error)) from error
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CliError(f"{target} cannot be written: {error.strerror}") from error
    if json:
        emit({"file": str(target), "bytes": len(content)})
    else:
        told = f"written: {target} ({len(content):,} bytes); check it: "
        check = f"chainlytics audit verify-bundle {target}"  # in one line, to be copied
        console.print(f"{told}{check}", markup=False, soft_wrap=True)


def verify_bundle(
    file: Annotated[Path, typer.Argument(help="An evidence bundle (zip), or a proof (JSON).")],
    origin: Annotated[
        str | None, typer.Option(help="The log's name, from a source that you trust.")
    ] = None,
    no_replay: Annotated[
        bool, typer.Option("--no-replay", help="Do not make the decision again.")
    ] = False,
    json: Json = False,
) -> None:
    """Check an evidence bundle, offline, and say what it does not prove. Exit code 1 where
    something does not hold, 3 where something could not be checked."""
    found = verifier.verify(file, origin, replay=not no_replay)
    if json:
        emit(verifier.as_json(found))
    else:
        typer.echo(verifier.as_text(found))
        if origin is None:
            typer.echo("note: without --origin nothing says that this is the log you mean")
    code = verifier.exit_code(found)
    if code:
        raise typer.Exit(code)
