"""The OpenAPI document as a file: what clients are made from."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Any

import typer

from api.app import create_app
from api.dependencies import Dependencies
from api.openapi import text_of
from chainlytics import __version__
from chainlytics.cli.console import console


def document() -> dict[str, Any]:
    """The document, as every server of this version has it at /openapi.json."""
    return create_app(_nothing, version=__version__).openapi()


def openapi(
    out: Annotated[
        Path | None, typer.Option("--out", dir_okay=False, help="File to write into.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare only; exit code 1 where the file differs.")
    ] = False,
) -> None:
    """Write the OpenAPI document of the HTTP API. Without --out, print it."""
    text = text_of(document())
    if out is None:
        typer.echo(text, nl=False)
        return
    there = out.read_text(encoding="utf-8") if out.is_file() else None
    if check:
        console.print(f"{out} {'is what the code says' if there == text else 'differs'}")
        raise typer.Exit(there != text)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    console.print(f"{out} {'is as it was' if there == text else 'is written'}", soft_wrap=True)


def _nothing() -> AbstractAsyncContextManager[Dependencies]:
    raise RuntimeError("this application is described, not run")
