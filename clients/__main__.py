"""Make both clients: `make clients`. They are in build/clients afterwards."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from api.openapi import text_of
from chainlytics.cli.openapi import document as described
from clients.making import python_client, typescript_client
from clients.npm import HERE, ToolFailed, run


def main() -> int:
    """Make, check and name them."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=HERE.parent / "build" / "clients")
    arguments.add_argument("--lint", action="store_true", help="lint the document, make nothing")
    asked = arguments.parse_args()
    folder: Path = asked.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    document = folder / "openapi.json"
    document.write_text(text_of(described()), encoding="utf-8")
    try:
        if asked.lint:
            run(
                "spectral",
                "lint",
                "--ruleset",
                "spectral.yaml",
                "--fail-severity",
                "warn",
                document,
            )
            return 0
        made = python_client(document, folder)
        strictly = ["mypy", "--strict", "--config-file", os.devnull, str(made)]
        subprocess.run([sys.executable, "-m", *strictly], check=True)
        sys.stdout.write(f"Python:     {made}\n")
        sys.stdout.write(f"TypeScript: {typescript_client(document, folder)}\n")
    except (ToolFailed, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"clients: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
