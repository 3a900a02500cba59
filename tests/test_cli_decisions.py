"""The command line of decisions, models and policies, on one home in which the demo has run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

import pytest

from chainlytics import cli
from chainlytics.cli.console import console
from eventstore.embedded import EmbeddedPostgres
from tests.test_cli import Terminal

#: Before any cut-off: what is allowed is not to hang on the time of day.
MORNING = "2026-01-01T08:00:00Z"


class Here(Terminal):
    """The same in this process: a command takes a moment, not the seconds of all its imports."""

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        out, error, found = StringIO(), StringIO(), 0
        # A worker of xdist has columns of its own, which were read when the console was made.
        width, console.width = console.width, int(self.environment["COLUMNS"])
        with (
            patch.dict(os.environ, self.environment, clear=True),
            patch.object(sys, "argv", ["chainlytics", *words]),
            # What concerns a whole process is none of this one's.
            patch.object(cli, "configure_logs"),
            patch.object(cli, "calm_collector"),
            redirect_stdout(out),
            redirect_stderr(error),
        ):
            try:
                cli.main()
            except SystemExit as end:
                found = int(end.code or 0)
            finally:
                console.width = width
        done = subprocess.CompletedProcess(words, found, out.getvalue(), error.getvalue())
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A home in which the demo has run, and in which a server goes on running."""
    home = tmp_path_factory.mktemp("home")
    for folder in (home, *home.parents[:2]):
        folder.chmod(0o755)  # root's PostgreSQL runs as `nobody`
    server = EmbeddedPostgres(home)
    server.start()
    try:
        Terminal(home).run("demo", "--orders", "1200", "--decisions", "8", "--no-day")
        yield Here(home)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def order_id(terminal: Terminal) -> str:
    """An order that may go several ways."""
    for one in terminal.json("decisions", "list", "--stage", "made"):
        made = terminal.json("decisions", "show", one["decision_id"])["made"]
        if made["option"] and sum(not each["rejected"] for each in made["candidates"]) > 1:
            found: str = one["subject_id"]
            return found
    raise AssertionError("no order has two ways")


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_decision_from_request_to_outcome(
    terminal: Terminal, order_id: str, tmp_path: Path
) -> None:
    told = "--priority 8 --deadline 2099-01-01T00:00:00Z --weights risk_minor=9000"
    made = terminal.json(
        "decisions", "request", order_id, "--id", "D-1", "--at", MORNING, *told.split()
    )
    assert made["requested"]["priority"] == 8
    assert made["made"]["weights"] == {"cost": 1.0, "risk_minor": 9000, "carbon_minor_per_kg": 10}

    why = terminal.json("decisions", "explain", "D-1", "--all")
    assert why["additive"] is True
    assert len(why["candidates"]) == len(made["made"]["candidates"])
    picture = tmp_path / "why.svg"
    text = terminal.run("decisions", "explain", "D-1", "--svg", str(picture)).stdout
    assert "= margin holds" in flat(text)
    assert "█" in text
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    [second] = terminal.json("decisions", "explain", "D-1", "--candidate", "1")["candidates"]
    assert second["index"] == 1

    site = made["made"]["option"]["site_id"]
    changes = ("--set", "site_backlog=480", "--where", f"site_id={site}")
    asked = terminal.json("decisions", "what-if", "D-1", *changes)
    assert asked["sentence"].startswith(f"If site backlog of site {site} were 480")
    said = flat(terminal.run("decisions", "what-if", "D-1", *changes).stdout)
    assert asked["sentence"] in said
    turned = terminal.json("decisions", "counterfactual", "D-1")
    assert turned["sentence"] in flat(terminal.run("decisions", "counterfactual", "D-1").stdout)

    terminal.run("decisions", "outcome", "D-1", "--occurred", "no", "--cost", "650")
    closed = terminal.json("decisions", "list", "--stage", "closed", "--kind", "fulfilment")
    assert [one["decision_id"] for one in closed] == ["D-1"]
    shown = flat(terminal.run("decisions", "show", "D-1").stdout)
    assert "would it be late? no; the decision was followed; it cost 6.50 EUR" in shown
    [kpis] = terminal.json("decisions", "kpis")
    assert (kpis["kind"], kpis["outcomes"], kpis["cost_minor"]) == ("fulfilment", 1, 650)


def test_people_review_a_referred_decision(terminal: Terminal, order_id: str) -> None:
    terminal.run("policies", "set", "--four-eyes-above", "0", "--actor", "boss")
    terminal.run("policies", "set", "--max-psi", "0.5", "--actor", "boss")
    mine = terminal.json("policies", "list")[0]
    assert (mine["kind"], mine["four_eyes_above_minor"], mine["max_psi"]) == ("fulfilment", 0, 0.5)
    try:
        made = terminal.json("decisions", "request", order_id, "--id", "D-2", "--at", MORNING)
    finally:
        terminal.run("policies", "set", "--no-four-eyes")
    assert made["referred"]["approvals"] == 2
    terminal.run("decisions", "confirm", "D-2", "--actor", "ana")
    again = terminal.run("decisions", "confirm", "D-2", "--actor", "ana", code=1)
    assert "another person" in again.stderr
    others = [
        one["option"]
        for number, one in enumerate(made["made"]["candidates"])
        if number != made["made"]["chosen"] and not one["rejected"]
    ]
    assert others
    words = [word for name, value in others[0].items() for word in ("--option", f"{name}={value}")]
    terminal.run(
        "decisions", "override", "D-2", *words, "--reason", "they called", "--actor", "bob"
    )
    waits = flat(terminal.run("decisions", "show", "D-2").stdout)
    assert "Overridden by bob" in waits
    assert "they called; 1 person must still agree" in waits
    terminal.run("decisions", "confirm", "D-2", "--actor", "ana")
    shown = flat(terminal.run("decisions", "show", "D-2").stdout)
    assert "Referred 2 persons must agree" in shown
    assert "must still agree" not in shown
    weights = ("--weights", "risk_minor=0")
    terminal.run("decisions", "contest", "D-2", "--reason", "too dear", *weights)
    [anew, contested] = terminal.json("decisions", "list", "--subject", order_id, "--limit", "2")
    assert anew["redecides"] == "D-2"
    # It is made as of now: late in the day cut-offs may leave nothing that is allowed.
    assert anew["stage"] in ("made", "referred")
    assert (contested["decision_id"], contested["stage"]) == ("D-2", "contested")
    terminal.run("decisions", "contest", anew["decision_id"], "--reason", "no", "--no-redecide")


def test_models_and_their_roles(terminal: Terminal, order_id: str, tmp_path: Path) -> None:
    [model] = terminal.json("models", "list", "--kind", "fulfilment")
    name = model["model_hash"][:10]
    assert model["roles"] == ["champion"]
    shown = terminal.run("models", "show", name).stdout
    assert "champion" in shown
    assert "By segment" in shown
    file = tmp_path / "card.md"
    terminal.run("models", "card", name, "--output", str(file))
    card = file.read_text(encoding="utf-8")
    assert card == terminal.run("models", "card", name).stdout
    assert card.startswith("# Model card: fulfilment")
    [champion] = terminal.json("models", "live")
    assert (champion["role"], champion["stopped"]) == ("champion", None)
    before = str(champion["since_position"] - 1)
    assert terminal.json("models", "live", "--at", before) == []
    terminal.run("models", "stop", name, "--reason", "stale")
    failed = terminal.json("decisions", "request", order_id, "--id", "D-stopped")
    assert failed["failed"]["code"] == "decision.model_stopped"
    terminal.run("models", "resume", name)
    terminal.run("models", "deploy", name, "--as", "challenger", "--share", "0.5")
    # It has the role that it was given last: nobody is the champion.
    assert [one["role"] for one in terminal.json("models", "live")] == ["challenger"]
    none = terminal.run("models", "rollback", "--reason", "worse", code=1)
    assert "fulfilment has no champion now" in flat(none.stderr)
    terminal.run("models", "withdraw", name, "--reason", "the trial is over")
    assert terminal.json("models", "live") == []
    unexplained = terminal.run("decisions", "explain", "D-stopped", code=1)
    assert "decision 'D-stopped' failed: " in flat(unexplained.stderr)
    assert "[decision.model_stopped]" in flat(unexplained.stderr)
    terminal.run("models", "deploy", name)
    history = terminal.json("models", "history")
    assert [one["role"] for one in history] == ["champion", "none", "challenger", "champion"]
    assert terminal.json("models", "alerts", "--all") == []
    none = terminal.run("models", "rollback", "--reason", "worse", code=1)
    assert "no earlier champion" in none.stderr


def test_a_kind_is_stopped_and_resumed(terminal: Terminal, order_id: str) -> None:
    terminal.run("policies", "stop", "--reason", "flood")
    failed = terminal.run("decisions", "request", order_id, code=1)
    assert "fulfilment is stopped: flood" in flat(failed.stdout)
    terminal.run("policies", "resume")
    assert terminal.json("policies", "list")[0]["stopped"] is False


def test_kinds_are_listed(terminal: Terminal) -> None:
    kinds: dict[str, Any] = {one["name"]: one for one in terminal.json("decisions", "kinds")}
    assert kinds["fulfilment"]["levers"]["site_backlog"] == [0, 500]
    assert "site_backlog" in terminal.run("decisions", "kinds").stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("decisions explain NO-SUCH", "is not known, or was not made"),
        ("decisions explain X --all --candidate 1", "--all goes with neither"),
        ("decisions what-if X --set site_backlog", "'site_backlog' is not NAME=VALUE"),
        ("decisions what-if X --set site_backlog=many", "'many' is no number"),
        ("decisions what-if NO-SUCH --set site_backlog=1", "is not known"),
        ("decisions request O-1 --kind weather", "kind 'weather' is not known"),
        ("decisions request O-1 --weights lateness=1", "none of cost, risk_minor"),
        ("decisions request O-1 --deadline soon", "deadline"),
        ("decisions confirm NO-SUCH", "decision unknown"),
        ("decisions override X --option a=1 --option a=2 --reason x", "is given twice"),
        ("models deploy 0 --as challenger", "--share: a challenger has one"),
        ("models train --kind weather", "kind 'weather' is not known"),
        ("models live --at yesterday", "--at: 'yesterday' is neither"),
        ("policies set", "say what is to change"),
        ("policies set --no-four-eyes --four-eyes-above 1", "say opposite things"),
        ("policies stop --kind weather --reason x", "unknown kind"),
    ],
)
def test_a_mistake_is_one_clear_sentence(terminal: Terminal, words: str, told: str) -> None:
    assert told in flat(terminal.run(*shlex.split(words), code=1).stderr)


@pytest.mark.parametrize("group", ["decisions", "models", "policies"])
def test_every_command_explains_itself(terminal: Terminal, group: str) -> None:
    text = terminal.run(group, "--help").stdout
    assert "Usage:" in text
