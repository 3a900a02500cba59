"""The command line as a newcomer uses it: the demo, then the README's tour, on one home folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from chainlytics.cli import app
from eventstore.embedded import EmbeddedPostgres
from tests.patience import PATIENCE_S
from tests.serving import NO_TLS

ROOT = Path(__file__).resolve().parent.parent


class Terminal:
    """Runs the command line against a home folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CHAINLYTICS_") and name != "DATABASE_URL"
        } | {"CHAINLYTICS_HOME": str(home), "COLUMNS": "160"}

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "chainlytics", *words],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code).stdout)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A home in which the demo has run, and in which a server goes on running."""
    home = tmp_path_factory.mktemp("home")
    for folder in (home, *home.parents[:2]):
        folder.chmod(0o755)  # root's PostgreSQL runs as `nobody`
    found = Terminal(home)
    server = EmbeddedPostgres(home)
    server.start()
    try:
        yield found
    finally:
        server.stop()


@pytest.fixture(scope="module")
def demo(terminal: Terminal) -> str:
    """What the demo printed."""
    return terminal.run("demo", "--orders", "1500", "--decisions", "6").stdout


def test_the_demo_tells_the_whole_story(demo: str) -> None:
    assert "summary reads «placed» at once" in demo
    assert re.search(r"Ship order \S+ from site \S+ by \w+", " ".join(demo.split()))
    assert "Runner-up" in demo
    assert "How sure" in demo
    assert "What if" in demo
    assert "demo-waterfall.svg" in demo
    assert "6 the same to the byte" in demo
    squeezed = re.sub(r"\s", "", demo)  # a terminal of tests is narrow
    assert "norealstreamwastouched" in squeezed
    assert "demo-simulation.html" in squeezed
    assert "demo-dashboard.html" in squeezed
    assert re.search(r"aday\W*\d+\.\d\W*\d+tours", squeezed)
    assert "rebuild order_summary" in demo


def test_a_second_demo_starts_from_what_is_there(terminal: Terminal, demo: str) -> None:
    again = terminal.run("demo", "--orders", "1500", "--decisions", "3").stdout
    assert " 0 stored" in again.replace("\n", " ") or again.find("0 stored") >= 0
    assert "is deployed already" in again
    assert "9 the same to the byte" in again


def test_asking_reading_and_replaying(terminal: Terminal, demo: str) -> None:
    listed = terminal.json("decisions", "list", "--limit", "3")
    assert len(listed) == 3
    order_id = listed[0]["subject_id"]
    made = terminal.json("decisions", "request", order_id, "--id", "TOUR-D1")
    assert made["made"]["subject_id"] == order_id
    shown = terminal.run("decisions", "show", "TOUR-D1").stdout
    assert made["explained"]["summary"] in " ".join(shown.split())
    [replayed] = terminal.json("decisions", "replay", "TOUR-D1")
    assert replayed["same"] is True
    assert "0 different" in terminal.run("decisions", "replay", "--all").stdout
    assert (
        "already requested"
        in terminal.run("decisions", "request", order_id, "--id", "TOUR-D1", code=1).stderr
    )


def test_projections_models_and_database(terminal: Terminal, demo: str) -> None:
    states = terminal.json("projections", "list")
    assert {state["name"] for state in states} >= {"order_summary", "daily_kpis", "audit_trail"}
    assert {state["behind"] for state in states} != set()
    [rebuilt] = terminal.json("projections", "rebuild", "order_summary")
    assert rebuilt["events"] > 5000
    [model] = terminal.json("models", "list")
    assert model["stage"] == "deployed"
    assert model["roles"] == ["champion"]
    assert model["model_hash"][:12] in terminal.run("models", "list").stdout.replace("\n", "")
    status = terminal.json("db", "status")
    assert status["running"] is True


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("decisions show NO-SUCH", "decision 'NO-SUCH' is not known"),
        ("decisions replay NO-SUCH", "is not on the log"),
        ("decisions replay", "name one decision, or say --all"),
        ("decisions request NO-SUCH", "unknown"),
        ("projections rebuild nothing", "'nothing' is not known; there are order_summary"),
        ("import nowhere .", "neither a shipped one (assignments, clients, olist"),
        ("import olist .", "orders.csv"),
        ("models approve xyz", "model 'xyz': 0 models of organisation 'demo'"),
        ("models train --organisation nobody", "no case of fulfilment"),
        ("models train --kind tour_cost --organisation nobody", "no tour is finished yet"),
    ],
)
def test_a_mistake_is_one_clear_sentence(terminal: Terminal, words: str, told: str) -> None:
    error = terminal.run(*shlex.split(words), code=1).stderr
    assert told in " ".join(error.split())


@pytest.mark.parametrize(
    "words",
    [
        "",
        "demo",
        "serve",
        "import",
        "token",
        "db",
        "projections",
        "models",
        "policies",
        "people",
        "decisions replay",
    ],
)
def test_every_command_explains_itself(words: str) -> None:
    shown = CliRunner().invoke(app, [*words.split(), "--help"])
    assert shown.exit_code == 0, shown.output
    assert "Usage:" in shown.output


def test_a_command_imports_only_what_it_needs() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from chainlytics.cli import app;"
        "shown = CliRunner().invoke(app, ['decisions', '--help']); assert shown.exit_code == 0;"
        "assert 'uvicorn' not in sys.modules and 'fastapi' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE_S)


def test_a_command_that_is_nearly_right_is_suggested() -> None:
    shown = CliRunner().invoke(app, ["decision", "list"])
    assert shown.exit_code == 2
    assert "Did you mean 'decisions'?" in " ".join(shown.output.split())


def test_serving_until_interrupted(terminal: Terminal, demo: str) -> None:
    """As `make serve`: the README's curl commands against it, then Ctrl-C."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = terminal.run("token").stdout.strip()
    process = subprocess.Popen(
        [sys.executable, "-m", "chainlytics", "serve", "--port", str(port)],
        env=terminal.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_healthy(address, process)
        body = readme_order()
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "my-first"}
        with httpx.Client(
            verify=NO_TLS, base_url=f"{address}/api/v1", headers=headers, timeout=30
        ) as client:
            first = client.post("/orders", json=body)
            again = client.post("/orders", json=body)
            assert (first.status_code, again.status_code) == (201, 201)
            assert again.json() == first.json() | {"repeated": True}
            position = first.json()["position"]
            order = client.get("/orders/TOUR-1", params={"min_position": position})
            assert order.json()["status"] == "placed"
        assert httpx.get(f"{address}/docs", verify=NO_TLS).status_code == 200
        taken = terminal.run("serve", "--port", str(port), code=1)
        assert f"port {port} on 127.0.0.1 is taken" in " ".join(taken.stderr.split())
        assert terminal.json("decisions", "request", "TOUR-1")["made"] is not None
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert "Traceback" not in error
        assert address in out
        assert EmbeddedPostgres(terminal.home).status().running
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_until_healthy(address: str, process: subprocess.Popen[str]) -> None:
    give_up = monotonic() + PATIENCE_S
    while monotonic() < give_up:
        assert process.poll() is None, process.communicate()
        try:
            if httpx.get(f"{address}/api/v1/health", verify=NO_TLS).status_code == 200:
                return
        except httpx.TransportError:
            pass
        sleep(0.1)
    raise AssertionError("the server did not become healthy")


def readme_order() -> Any:
    """The order that the README's curl command sends."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"-d '(\{.*?\})'", text, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_the_readmes_commands_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^(?:\w+=\$\()?chainlytics ([a-z]+(?: [a-z]+)?)", text, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        words = command.split()
        if words[0] in ("import", "token"):
            words = words[:1]
        assert "Usage:" in CliRunner().invoke(app, [*words, "--help"]).output
