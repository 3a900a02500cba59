"""docs/decisions.md is run: every command on it, in its order, as a reader would."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from chainlytics.cli import app
from eventstore.embedded import EmbeddedPostgres

PAGE = Path(__file__).parent.parent / "docs" / "decisions.md"


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


def test_the_commands_of_the_page_do_what_it_says(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ:
        if name.startswith("CHAINLYTICS_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("CHAINLYTICS_HOME", str(home))
    monkeypatch.chdir(home)
    said: dict[str, str] = {}
    for line in commands():
        name, *arguments = shlex.split(line)
        assert name == "chainlytics", line
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (line, done.output, done.exception)
        said[" ".join(arguments[:3])] = " ".join(done.output.split())
    assert "replenishment" in said["decisions kinds"]
    assert "D-2" in said["decisions list --stage"]
    assert "promised" in said["decisions what-if D-1"]
    assert "1 the same to the byte" in said["decisions replay D-1"]
    assert ", 0 different" in said["decisions replay --all"]
    assert ElementTree.parse(home / "why.svg").getroot().tag.endswith("svg")
    assert "<svg" in (home / "backtest.html").read_text(encoding="utf-8")
