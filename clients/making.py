"""The clients, made from the OpenAPI document."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from clients.npm import HERE, run


def python_client(document: Path, folder: Path) -> Path:
    """The package ``chainlytics_client``: typed, over httpx. What was there is replaced.

    Raises:
        CalledProcessError: a part of the document could not be understood at all.
    """
    made = folder / "chainlytics_client"
    command = [
        *(sys.executable, "-m", "openapi_python_client", "generate", "--overwrite"),
        *("--path", str(document), "--config", str(HERE / "python.yaml")),
        *("--meta", "none", "--output-path", str(made)),
    ]
    # It formats what it made by the ruff beside this Python.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    done = subprocess.run(
        command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        done.check_returncode()
    (made / "py.typed").touch()
    return made


def typescript_client(document: Path, folder: Path) -> Path:
    """The folder ``typescript`` with a client over fetch, which tsc finds right.

    Raises:
        ToolFailed: it could not be made, or its types do not hold.
    """
    made = folder / "typescript"
    told = {"CLIENT_DOCUMENT": str(document), "CLIENT_OUTPUT": str(made)}
    run("openapi-ts", "--file", "openapi-ts.config.mjs", "--silent", env=told)
    (made / "tsconfig.json").write_text((HERE / "tsconfig.json").read_text())
    run("tsc", "--project", made / "tsconfig.json")
    return made
