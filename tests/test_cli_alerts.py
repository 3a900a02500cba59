"""The command line of alerts, schedules and the queue of tasks, on one database."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from chainlytics.application import Application
from chainlytics.settings import operator, organisation_id
from commands import Context
from domain.access import Role
from domain.orders import CancelOrder, OrderLine, PlaceOrder
from domain.tasks import FailTask, StartTask
from domain.values import Command
from domain.work import RequestReplay
from ml.alerts import Watcher
from ml.schedules import Scheduler
from tests.test_cli_decisions import Here, flat
from tests.world import company

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def terminal(database: str, tmp_path_factory: pytest.TempPathFactory) -> Here:
    found = Here(tmp_path_factory.mktemp("home"))
    found.environment["DATABASE_URL"] = database
    within(database, lambda app: asyncio.sleep(0))  # its tables are made
    return found


def within(database: str, work: Callable[[Application], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with company(database) as app:
            return await work(app)

    return asyncio.run(main())


def own(name: str = "") -> str:
    """An organisation that nobody else has."""
    return f"{name}{uuid4().hex[:8]}"


def send(database: str, organisation: str, *commands: Command) -> None:
    async def work(app: Application) -> None:
        for command in commands:
            context = Context(id_of(organisation), "boss", frozenset({Role.ADMIN, Role.SERVICE}))
            await app.bus.execute(command, context)

    within(database, work)


def id_of(organisation: str) -> UUID:
    return organisation_id(organisation)


def watched(database: str, organisation: str) -> None:
    """A look of the watcher."""

    async def work(app: Application) -> None:
        await app.projector.catch_up()
        await Watcher(app.log, app.bus).look(datetime.now(UTC), id_of(organisation))

    within(database, work)


def late(order_id: str) -> PlaceOrder:
    line = OrderLine(line_no=1, sku="SKU-1", quantity=Decimal(1), unit_price_minor=100)
    return PlaceOrder(
        order_id=order_id,
        customer_id="C-1",
        currency="EUR",
        lines=(line,),
        placed_at=NOW - 9 * HOUR,
        promised_at=NOW - HOUR,
    )


# alerts


def test_alerts_are_listed_looked_after_resolved_and_opened_again(
    database: str, terminal: Here
) -> None:
    org = own("alerts")
    of = ("--organisation", org)
    assert "none yet" in terminal.run("alerts", "list", *of).stdout
    send(database, org, late("O-1"), late("O-2"))
    watched(database, org)
    listed = terminal.json("alerts", "list", "--kind", "order_late", "--state", "open", *of)
    assert {one["subject_id"] for one in listed} == {"O-1", "O-2"}
    assert terminal.json("alerts", "list", "--severity", "critical", *of) == []
    assert len(terminal.json("alerts", "list", "--limit", "1", *of)) == 1
    assert "order_late" in terminal.run("alerts", "list", *of).stdout
    [alert_id] = [one["alert_id"] for one in listed if one["subject_id"] == "O-1"]

    def now() -> dict[str, Any]:
        [found] = [
            one for one in terminal.json("alerts", "list", *of) if one["alert_id"] == alert_id
        ]
        return dict(found)

    done = terminal.run("alerts", "ack", alert_id, "--note", "called them", *of)
    assert f"alert {alert_id} is looked after" in flat(done.stdout)
    told = now()
    assert (told["state"], told["acknowledged_by"], told["note"]) == (
        "acknowledged",
        operator(),
        "called them",
    )
    receipt = terminal.json(
        "alerts", "resolve", alert_id, "--reason", "a holiday", "--actor", "ana", *of
    )
    assert receipt["stream"] == f"alerts/{alert_id}"
    assert (now()["state"], now()["resolved_by"]) == ("resolved", "ana")
    terminal.run("alerts", "reopen", alert_id, "--reason", "it is none", *of)
    assert now()["state"] == "open"
    send(database, org, CancelOrder(order_id="O-1", reason="x", cancelled_at=NOW))
    watched(database, org)
    assert now()["state"] == "resolved"


def test_what_cannot_be_done_with_an_alert_is_said(terminal: Here) -> None:
    of = ("--organisation", own())
    for words in (("ack", "A-1"), ("resolve", "A-1", "--reason", "x"), ("reopen", "A-1")):
        error = terminal.run("alerts", *words, *of, code=1).stderr
        assert "alert.unknown" in error
        assert "A-1" in error
    assert "--reason" in terminal.run("alerts", "resolve", "A-1", *of, code=2).stderr
    assert "boredom" in terminal.run("alerts", "list", "--kind", "boredom", *of, code=2).stderr


def test_the_rules_of_alerts_are_listed(terminal: Here) -> None:
    rules = {one["kind"]: one for one in terminal.json("alerts", "rules", "--organisation", own())}
    assert rules["stock_out_ahead"]["threshold"] == 7
    assert rules["order_late"]["enabled"] is True
    assert "order_late_ahead" in terminal.run("alerts", "rules").stdout


# schedules


def test_a_schedule_is_made_run_paused_resumed_and_ended(database: str, terminal: Here) -> None:
    org = own("schedules")
    of = ("--organisation", org)
    made = terminal.run(
        *("schedules", "make", "nightly", "--task", "training", "--kind", "fulfilment"),
        *("--cron", "30 2 * * *", "--zone", "Europe/Berlin", "--name", "Train", *of),
    )
    assert "schedule nightly is made" in made.stdout
    shown = terminal.json("schedules", "show", "nightly", *of)
    assert (shown["name"], shown["state"], shown["runs_as"]) == ("Train", "active", operator())
    assert shown["when"]["zone"] == "Europe/Berlin"
    assert shown["work"]["kind"] == "fulfilment"
    assert len(shown["next_times"]) == 5
    assert "schedule_id: nightly" in terminal.run("schedules", "show", "nightly", *of).stdout
    assert [one["schedule_id"] for one in terminal.json("schedules", "list", *of)] == ["nightly"]
    assert "nightly" in terminal.run("schedules", "list", *of).stdout

    terminal.run("schedules", "run", "nightly", *of)
    looked(database)
    [ran] = terminal.json("schedules", "runs", "nightly", *of)
    assert (ran["state"], ran["due_at"], ran["runs_as"]) == ("requested", None, operator())
    assert terminal.json("tasks", "show", ran["task_id"], *of)["kind"] == "training"
    assert ran["task_id"][:8] in terminal.run("schedules", "runs", "nightly", *of).stdout

    terminal.run("schedules", "pause", "nightly", "--reason", "the move", *of)
    shown = terminal.json("schedules", "show", "nightly", *of)
    assert (shown["state"], shown["paused_reason"]) == ("paused", "the move")
    terminal.run("schedules", "resume", "nightly", "--actor", "ana", *of)
    shown = terminal.json("schedules", "show", "nightly", *of)
    assert (shown["state"], shown["runs_as"]) == ("active", "ana")
    terminal.run("schedules", "retire", "nightly", *of)
    assert terminal.json("schedules", "show", "nightly", *of)["state"] == "retired"
    error = terminal.run("schedules", "run", "nightly", *of, code=1).stderr
    assert "schedule.retired" in error


def looked(database: str) -> None:
    """A look of the scheduler."""

    async def work(app: Application) -> None:
        await app.projector.catch_up()
        await Scheduler(app.log, app.bus, app.memberships).look(datetime.now(UTC))

    within(database, work)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--task", "sealing"), "one of them"),
        (("--task", "sealing", "--cron", "60 * * * *"), "'60' is no minute"),
        (("--task", "sealing", "--cron", "0 0 * * *", "--zone", "Mars"), "no time zone"),
        (("--task", "sealing", "--every", "5"), "greater than or equal to 60"),
        (("--task", "training", "--every", "3600"), "training needs one"),
        (("--task", "training", "--kind", "luck", "--every", "3600"), "decision.unknown_kind"),
        (("--task", "tours", "--site", "S-404", "--every", "3600"), "site.unknown"),
        (("--task", "simulation", "--scenario", "X", "--every", "3600"), "scenario.unknown"),
        (("--task", "dancing", "--every", "3600"), "task"),
    ],
    ids=str,
)
def test_a_schedule_that_cannot_be_is_told_why(
    terminal: Here, words: tuple[str, ...], told: str
) -> None:
    of = ("--organisation", "cli")
    assert told in flat(terminal.run("schedules", "make", "x", *words, *of, code=1).stderr)


def test_a_schedule_that_there_is_not_is_said(terminal: Here) -> None:
    of = ("--organisation", own())
    assert "'x' is not known" in flat(terminal.run("schedules", "show", "x", *of, code=1).stderr)
    for word in ("pause", "resume", "retire", "run"):
        assert "schedule.unknown" in terminal.run("schedules", word, "x", *of, code=1).stderr
    assert terminal.json("schedules", "runs", "x", *of) == []


# the queue of tasks


def test_the_queue_is_shown_moved_and_filled_again(database: str, terminal: Here) -> None:
    org = own("tasks")
    of = ("--organisation", org)
    empty = terminal.json("tasks", "queue", *of)
    assert (empty["waiting"], empty["running"], empty["oldest_wait_s"]) == (0, 0, None)
    send(
        database,
        org,
        *(RequestReplay(task_id=f"T-{n}", requested_at=NOW - HOUR) for n in range(3)),
        StartTask(task_id="T-0", worker="w-1", started_at=NOW),
        FailTask(task_id="T-0", attempt=1, code="x.y", reason="no disk", failed_at=NOW),
        StartTask(task_id="T-1", worker="w-1", started_at=NOW),
    )
    queue = terminal.json("tasks", "queue", *of)
    assert (queue["waiting"], queue["running"]) == (1, 1)
    assert queue["oldest_wait_s"] >= 3600
    shown = flat(terminal.run("tasks", "queue", *of).stdout)
    assert re.search(r"1 wait, the oldest for \d,\d{3}", shown)  # seconds since the module was read
    assert "replay" in shown

    done = terminal.run("tasks", "prioritise", "T-2", "9", *of)
    assert "task T-2 has priority 9" in done.stdout
    assert terminal.json("tasks", "show", "T-2", *of)["priority"] == 9
    error = terminal.run("tasks", "prioritise", "T-1", "9", *of, code=1).stderr
    assert "task." in error
    terminal.run("tasks", "prioritise", "T-2", "10", *of, code=2)

    told = flat(terminal.run("tasks", "retry", "T-0", *of).stdout)
    again = told.partition("as ")[2].partition(",")[0]
    found = terminal.json("tasks", "show", again, *of)
    assert (found["kind"], found["state"], found["requested_by"]) == (
        "replay",
        "requested",
        operator(),
    )
    for task_id, code in (("T-404", "task.unknown"), ("T-1", "task.")):
        assert code in terminal.run("tasks", "retry", task_id, *of, code=1).stderr
    assert "dancing" in terminal.run("tasks", "run", "--kinds", "dancing", code=1).stderr
    assert terminal.json("tasks", "list", "--state", "failed", *of)[0]["task_id"] == "T-0"
