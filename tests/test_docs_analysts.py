"""The analysts' page as a reader follows it: every block is run in order, and what the page shows
of it is what it says."""

from __future__ import annotations

import ast
import asyncio
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from inspect import iscoroutine
from pathlib import Path
from time import sleep
from types import CodeType, TracebackType
from typing import Any, Self, cast

import polars as pl
import psycopg
import pytest

from chainlytics.application import application
from chainlytics.settings import organisation_id
from eventstore.embedded import EmbeddedPostgres
from projections import fold, store
from projections.projector import Projector
from projections.schema import METADATA
from projections.table import Table
from readmodels.database import ReadModelOutdated, ReadModels
from readmodels.past import AsOf, Past
from tests.serving import SECRET, serving_process

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "analysts.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What begins a line that shows what the block says.
SHOWN = "#>"
#: The first line of a cell that is to be saved, as `# regions.py`.
SAVED = re.compile(r"# (\w+\.py)\n")
#: Where the page's server listens; the test's has another port.
ADDRESS = "http://127.0.0.1:8000"
#: The last position of the demo's year, which the page's results are as of.
YEAR = 5119
DEMO = organisation_id("demo")
_END = "the end of the block"
pytestmark = pytest.mark.slow


class Terminal:
    """One shell for all of the page's commands; a command that fails ends it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["/bin/bash", "-euo", "pipefail"],
            env=environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shell.kill()
        self._shell.communicate()

    def run(self, script: str) -> str:
        """What the commands print."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{{\n{script}\n}} </dev/null\necho; echo {_END}\n")
        self._shell.stdin.flush()
        lines: list[str] = []
        for line in self._shell.stdout:
            if line.strip() == _END:
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"{script}\nends with {self._shell.wait()}:\n{''.join(lines)}")


@dataclass
class Notebook:
    """Cells run in turn in one session, inside an event loop, as Jupyter runs them."""

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})

    async def run(self, cell: str) -> str:
        """What a cell prints, and the value of its last expression."""
        tree = ast.parse(cell)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        printed = io.StringIO()
        with redirect_stdout(printed):
            await self._run(compile(tree, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
            if isinstance(last, ast.Expr):
                whole = ast.Expression(last.value)
                value = await self._run(compile(whole, "<cell>", "eval"))
                if value is not None:
                    printed.write(f"{value}\n")
        return printed.getvalue()

    async def _run(self, code: CodeType) -> Any:
        value = eval(code, self.names)
        return await value if iscoroutine(value) else value


@dataclass(frozen=True)
class Said:
    """A block of the page: its line, its text, what it said when it was run, what the page shows
    of that."""

    line: int
    source: str
    said: str
    shown: list[str]


@dataclass(frozen=True)
class Followed:
    """The page, followed to its end: its blocks, the session's names, the database, the folder."""

    blocks: list[Said]
    names: dict[str, Any]
    url: str
    folder: Path


def blocks() -> Iterator[tuple[int, str, str, list[str]]]:
    """Each block: its line, its language, its text, and the lines that it is shown to say."""
    for match in BLOCK.finditer(PAGE):
        lines = match.group(2).splitlines()
        text = "\n".join(line for line in lines if not line.startswith(SHOWN))
        shown = [line.removeprefix(SHOWN).strip() for line in lines if line.startswith(SHOWN)]
        yield PAGE.count("\n", 0, match.start()) + 1, match.group(1), text, shown


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    """The page, followed from a home folder that is empty."""
    folder = tmp_path_factory.mktemp("analyst")
    for one in (folder, *folder.parents[:2]):
        one.chmod(0o755)  # root's PostgreSQL runs as `nobody`
    home = folder / "home"
    home.mkdir()
    command = folder / "chainlytics"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m chainlytics "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    server = EmbeddedPostgres(home)
    with pytest.MonkeyPatch.context() as patch, pl.Config():
        for name in os.environ:
            if name.startswith("CHAINLYTICS_") or name in ("DATABASE_URL", "COLUMNS"):
                patch.delenv(name)
        patch.setenv("CHAINLYTICS_HOME", str(home))
        patch.setenv("CHAINLYTICS_TOKEN_SECRET", SECRET)
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        patch.chdir(folder)
        url = server.start()
        try:
            yield asyncio.run(followed(url, folder))
        finally:
            server.stop()


async def followed(url: str, folder: Path) -> Followed:
    """Every block, in order; the server runs from the first one on that asks it."""
    notebook = Notebook(folder)
    told = []
    address = ADDRESS
    with ExitStack() as stack:
        terminal = stack.enter_context(Terminal(folder, dict(os.environ)))
        for line, language, source, shown in blocks():
            if ADDRESS in source and address == ADDRESS:
                served, _ = stack.enter_context(serving_process(url, folder / "home"))
                address = served.url
            if "pyspark" in source and find_spec("pyspark") is None:
                continue  # test_the_spark_example_was_run says so
            if "archive write" in source:
                await asyncio.to_thread(sealed_by_now, url)
            if language == "python":
                if saved := SAVED.match(source):
                    (folder / saved.group(1)).write_text(source, encoding="utf-8")
                said = await notebook.run(source)
            else:
                assert language == "sh", f"line {line}: {language}"
                said = await asyncio.to_thread(terminal.run, source.replace(ADDRESS, address))
            told.append(Said(line, source, said, shown))
    return Followed(told, notebook.names, url, folder)


def sealed_by_now(url: str) -> None:
    """Wait until the server has sealed the year, as it does by itself."""
    for _ in range(300):
        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT coalesce(max(size), 0) FROM seal_heads").fetchone()
        assert row is not None
        if row[0] >= YEAR:
            return
        sleep(0.1)
    raise AssertionError("the server did not seal the year")


def test_the_spark_example_was_run(page: Followed) -> None:
    if find_spec("pyspark") is None:
        pytest.skip("pyspark is not installed: pip install -e .[spark]")
    assert any("pyspark" in block.source for block in page.blocks)


def test_every_block_says_what_the_page_shows(page: Followed) -> None:
    assert len([block for block in page.blocks if block.shown]) >= 15
    for block in page.blocks:
        said = iter([line.strip() for line in block.said.splitlines()])
        for line in block.shown:
            # In the page's order; bars and the like may stand between.
            assert line in said, f"line {block.line}: {line!r} is not in\n{block.said}"
        assert "Traceback" not in block.said, block.line


def test_the_first_commands_say_what_the_page_tells_of_them(page: Followed) -> None:
    begin = page.blocks[0].said
    assert re.search(r"^│ order_summary +│", begin, re.MULTILINE)
    assert re.search(r"^│ feature_\w+ +│", begin, re.MULTILINE)
    assert pl.read_csv(page.folder / "regions.csv").height == page.names["frame"].height
    assert pl.read_parquet(page.folder / "regions.parquet").height == page.names["frame"].height
    written = next(block for block in page.blocks if "/adjust" in block.source).said
    assert '"repeated":false' in written


def test_the_page_leaves_nothing_out() -> None:
    folds = [name for name in fold.Merge if f" {name}(" not in PAGE]
    assert folds == []
    inside = {"name", "columns", "indexes", "types", "row_types"}
    parts = {one.name for one in fields(Table)} - inside
    assert [name for name in parts if f"{name}=" not in PAGE] == []
    assert [name for name in METADATA if name not in PAGE] == []


def test_the_notebooks_call_needs_nothing_imported_before_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from chainlytics.preview import preview"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_running_form_is_what_previews_say(page: Followed) -> None:
    known: pl.DataFrame = page.names["known"]
    for one in known.gather_every(150).iter_rows(named=True):
        said = page.names["preview"](
            page.names["LATENESS"],
            as_of=one["position"],
            keys={"place": one["place"]},
            progress=False,
        ).to_dicts()
        columns = ("delivered", "late", "share", "last_position")
        told = {name: said[0][name] for name in columns} if said else None
        without = {"delivered": 0, "late": 0, "share": one["share"], "last_position": None}
        assert {name: one[name] for name in columns} == (told or without)


def test_the_pages_declaration_and_query_make_a_read_model(page: Followed) -> None:
    """As part 8 says: made and caught up, noticed when changed, swapped, rolled back."""
    regions = cast(Table, page.names["REGIONS"])
    ask, preview = page.names["list_regions"], page.names["preview"]

    async def run() -> None:
        async with application(page.url, pool_size=2) as app:
            read = ReadModels(app.log, DEMO)

            def previewed(as_of: int | None) -> list[dict[str, Any]]:
                rows = preview(regions, as_of=as_of, progress=False)
                return cast(
                    list[dict[str, Any]],
                    rows.select("region", "orders", "share", "last_position").to_dicts(),
                )

            former = Projector(page.url, [replace(regions, computed={})])
            await former.prepare()
            await former.catch_up()
            with pytest.raises(ReadModelOutdated):
                await ask(read)
            await Projector(page.url, [regions]).prepare()
            assert [row.model_dump() for row in await ask(read)] == previewed(None)
            past = Past(app.log, page.url, {regions.name: regions})
            then = await ask(ReadModels(app.log, DEMO, past, AsOf(YEAR)))
            assert [row.model_dump() for row in then] == previewed(YEAR) != previewed(None)
            async with app.log.connection() as connection:
                await store.roll_back(connection, regions)
                with pytest.raises(ReadModelOutdated):
                    await ask(read)
                await store.roll_back(connection, regions)
            assert [row.model_dump() for row in await ask(read)] == previewed(None)

    asyncio.run(run())
