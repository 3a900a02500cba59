"""docs/auditors.md is run: every command on it, in its order, as a new auditor would."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chainlytics import verifier
from chainlytics.cli import app
from eventstore.embedded import EmbeddedPostgres

PAGE = Path(__file__).parent.parent / "docs" / "auditors.md"


def commands() -> list[str]:
    """The commands of the page's shell blocks, in their order."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in found for line in block.strip().splitlines()]


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="chainlytics-docs-") as folder:
        Path(folder).chmod(0o755)  # root's PostgreSQL runs as `nobody`
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            yield Path(folder)
        finally:
            server.stop()


def _said(arguments: list[str]) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return " ".join(done.output.split())


def _run_alone(home: Path, arguments: list[str]) -> str:
    """An own copy of the verifier, without anything of ours to import."""
    (home / "verifier.py").write_bytes(Path(verifier.__file__).read_bytes())
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def test_the_commands_of_the_page_do_what_it_says(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ:
        if name.startswith("CHAINLYTICS_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("CHAINLYTICS_HOME", str(home))
    monkeypatch.chdir(home)
    said: dict[str, str] = {}
    decision = origin = ""
    for line in commands():
        if "$DECISION" in line and not decision:
            listed = json.loads(_said(["decisions", "list", "--json"]))
            decision = next(one["decision_id"] for one in listed if one["stage"] == "made")
        if "$ORIGIN" in line and not origin:
            origin = (home / "kept.txt").read_text(encoding="utf-8").splitlines()[0]
        plain = line.replace("$DECISION", decision).replace("$ORIGIN", origin)
        name, *arguments = shlex.split(plain)
        assert name in ("chainlytics", "python"), line
        told = _said(arguments) if name == "chainlytics" else _run_alone(home, arguments)
        said[line] = told
    kept = said["chainlytics audit verify --origin $ORIGIN --witness kept.txt"]
    assert "holds: the log is what was signed" in kept
    assert "heads that others kept: 1" in kept
    assert "holds: the log is" in said["chainlytics audit verify --origin $ORIGIN"]
    complete = said["chainlytics audit check-proof decisions.json --origin $ORIGIN"]
    assert "12 decisions were requested" in complete
    assert "holds" in said["python verifier.py events.json --origin $ORIGIN"]
    for line in (
        "chainlytics audit verify-bundle evidence.zip --origin $ORIGIN",
        "python verifier.py evidence.zip --origin $ORIGIN",
    ):
        assert "the same to the bit" in said[line]
        assert "FAILED" not in said[line]
    assert "1 the same to the byte" in said["chainlytics decisions replay $DECISION"]
    assert ", 0 different" in said["chainlytics decisions replay --all"]
    asked = json.loads(_said(["audit", "commands", "--command", "RequestDecision", "--json"]))
    assert len(asked) == 12
    assert {one["result"] for one in asked} == {"accepted"}
    assert "decision-consumer" in said["chainlytics audit timeline $DECISION"]
