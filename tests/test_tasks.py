"""Tasks: asked for, begun, told of, done or stopped; whose turn it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from commands import HANDLERS as WITHOUT_KINDS
from commands.lines import ALLOWED, importable
from domain.access import Role
from domain.catalogue import encode
from domain.decisions import Weights
from domain.errors import Refused
from domain.tasks import (
    MOST_STARTS,
    CancelOwnTask,
    CancelTask,
    CompleteTask,
    FailTask,
    PrioritiseTask,
    ReleaseTask,
    ReportTask,
    RetryTask,
    StartTask,
    TaskCancelled,
    TaskCancelRequested,
    TaskCompleted,
    TaskFailed,
    TaskPrioritised,
    TaskProgressed,
    TaskReleased,
    TaskRequested,
    TaskStarted,
)
from domain.values import Command, Event
from domain.work import (
    BacktestWork,
    BundleWork,
    FileOfImport,
    ImportFile,
    ImportWork,
    Kind,
    ReplayWork,
    RequestBacktest,
    RequestBundle,
    RequestImport,
    RequestReplay,
    RequestTraining,
    TrainingWork,
)
from eventstore import StoredEvent
from ml.catalogue import HANDLERS, KINDS
from ml.estimates import ESTIMATES
from ml.tasks import TaskWorker
from readmodels.tasks import OpenTask, TaskDetail, in_turn, told_of
from tests.spec import given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HASH = "a" * 64

REPLAY = RequestReplay(task_id="T-1", requested_at=NOON)
START = StartTask(task_id="T-1", worker="w", started_at=NOON)
CANCEL = CancelTask(task_id="T-1", reason="wrong day", cancelled_at=NOON)
CANCEL_OWN = CancelOwnTask(task_id="T-1", cancelled_at=NOON)

requested = TaskRequested(
    task_id="T-1",
    kind="replay",
    priority=5,
    replay=ReplayWork(decision_ids=None),
    requested_by="ana",
    requested_at=NOON,
)
cancel_requested = TaskCancelRequested(
    task_id="T-1", kind="replay", reason="wrong day", cancelled_by="ana", cancelled_at=NOON
)
cancelled = TaskCancelled(**cancel_requested.model_dump())
completed = TaskCompleted(
    task_id="T-1",
    kind="replay",
    attempt=1,
    result={"decisions": 3},
    artifact=HASH,
    media_type="application/json",
    file_name="replay.json",
    completed_at=NOON,
)
failed = TaskFailed(
    task_id="T-1", kind="replay", attempt=1, code="x.y", reason="no", failed_at=NOON
)


def started(attempt: int = 1) -> TaskStarted:
    return TaskStarted(task_id="T-1", attempt=attempt, worker="w", started_at=NOON)


def released(attempt: int = 1) -> TaskReleased:
    return TaskReleased(task_id="T-1", attempt=attempt, released_at=NOON)


def progressed(attempt: int = 1) -> TaskProgressed:
    return TaskProgressed(
        task_id="T-1", attempt=attempt, done=1, total=2, step="deciding", progressed_at=NOON
    )


def complete(attempt: int = 1) -> CompleteTask:
    return CompleteTask(
        task_id="T-1",
        attempt=attempt,
        result={"decisions": 3},
        artifact=HASH,
        media_type="application/json",
        file_name="replay.json",
        completed_at=NOON,
    )


def fail(attempt: int = 1) -> FailTask:
    return FailTask(task_id="T-1", attempt=attempt, code="x.y", reason="no", failed_at=NOON)


def report(attempt: int = 1) -> ReportTask:
    return ReportTask(
        task_id="T-1", attempt=attempt, done=1, total=2, step="deciding", reported_at=NOON
    )


def release(attempt: int = 1) -> ReleaseTask:
    return ReleaseTask(task_id="T-1", attempt=attempt, released_at=NOON)


FINISHED: list[list[Event]] = [[completed], [failed], [cancelled]]
FILE = ImportFile(name="orders.csv", upload_id="U-1")
ASKED: list[tuple[Command, dict[str, Any]]] = [
    (REPLAY, {"kind": "replay", "replay": ReplayWork(decision_ids=None)}),
    (
        RequestReplay(task_id="T-1", decision_ids=("D-1",), requested_at=NOON),
        {"kind": "replay", "replay": ReplayWork(decision_ids=("D-1",))},
    ),
    (
        RequestTraining(task_id="T-1", kind="fulfilment", requested_at=NOON),
        {"kind": "training", "training": TrainingWork(kind="fulfilment")},
    ),
    (
        RequestImport(task_id="T-1", mapping="orders", files=(FILE,), requested_at=NOON),
        {
            "kind": "import",
            "importing": ImportWork(
                mapping="orders", files=(FileOfImport(name="orders.csv", upload_id="U-1"),)
            ),
        },
    ),
    (
        RequestBacktest(
            task_id="T-1", kind="fulfilment", weights=Weights(cost=2), requested_at=NOON
        ),
        {
            "kind": "backtest",
            "backtest": BacktestWork(
                kind="fulfilment",
                model_hash=None,
                weights=Weights(cost=2),
                from_position=0,
                to_position=None,
            ),
        },
    ),
    (
        RequestBundle(task_id="T-1", decision_id="D-1", requested_at=NOON),
        {"kind": "bundle", "bundle": BundleWork(decision_id="D-1", day=True)},
    ),
]


@pytest.mark.parametrize(("command", "said"), ASKED)
def test_a_request_says_of_its_kind_alone_what_is_asked(
    command: Command, said: dict[str, Any]
) -> None:
    given().when(command).then(
        TaskRequested(task_id="T-1", priority=5, requested_by="ana", requested_at=NOON, **said)
    )


@pytest.mark.parametrize("history", [[], [started()], *FINISHED])
@pytest.mark.parametrize("command", [command for command, _ in ASKED])
def test_an_id_is_taken_once(command: Command, history: list[Event]) -> None:
    given(requested, *history).when(command).refused("task.already_requested", task_id="T-1")


@pytest.mark.parametrize(
    ("said", "meant"), [("urgent", 9), ("normal", 5), ("low", 1), (0, 0), (9, 9)]
)
def test_a_priority_is_a_word_or_a_number(said: Any, meant: int) -> None:
    asked = RequestReplay(task_id="T-1", priority=said, requested_at=NOON)
    assert asked.priority == meant


@pytest.mark.parametrize("said", [10, -1, "soon", "URGENT", None, 1.5])
def test_no_other_priority_is_taken(said: Any) -> None:
    assert "priority" in problems(RequestReplay, task_id="T-1", priority=said, requested_at=NOON)


def test_a_kind_of_decision_that_there_is_not_is_refused() -> None:
    known = ", ".join(sorted({*KINDS, *ESTIMATES}))
    train = RequestTraining(task_id="T-1", kind="fulfillment", requested_at=NOON)
    given().when(train).refused("decision.unknown_kind", kind="fulfillment", known=known)
    with pytest.raises(Refused, match=r"decision\.unknown_kind"):
        WITHOUT_KINDS[RequestTraining].stream(train)


def test_an_import_names_a_mapping_of_the_installation_and_its_files() -> None:
    other = RequestImport(task_id="T-1", mapping="mine", files=(FILE,), requested_at=NOON)
    given().when(other).refused(
        "import.no_such_mapping",
        mapping="mine",
        known="assignments, clients, commands, olist, orders, products, sites, stock, vehicles",
    )
    wrong = RequestImport(task_id="T-1", mapping="commands", files=(FILE,), requested_at=NOON)
    given().when(wrong).refused(
        "import.other_files", missing="commands.jsonl", unknown="orders.csv"
    )
    assert importable()["olist"] == {
        "customers.csv",
        "products.csv",
        "orders.csv",
        "order_items.csv",
    }


@pytest.mark.parametrize("name", ["../orders.csv", "/etc/passwd", "a/b", "..", ".hidden", ""])
def test_a_files_name_is_never_a_path(name: str) -> None:
    said = {"mapping": "orders", "task_id": "T-1", "requested_at": NOON}
    for file in ({"name": name, "upload_id": "U-1"}, {"name": "orders.csv", "upload_id": name}):
        assert "match pattern" in problems(RequestImport, files=(file,), **said)


def test_lines_ask_for_the_daily_business_alone() -> None:
    assert {"PlaceOrder", "ReceiveStock", "ShipOrder"} <= ALLOWED.keys()
    assert not {"ApproveModel", "RecordDecision", "RequestImport", "ErasePerson"} & ALLOWED.keys()


def test_a_task_is_begun_and_told_of_and_done() -> None:
    given(requested).when(START).then(started())
    given(requested, started()).when(report()).then(progressed())
    given(requested, started(), progressed()).when(complete()).then(completed)
    given(requested, started(), progressed()).when(fail()).then(failed)


def test_it_is_begun_again_where_its_worker_died_but_not_for_ever() -> None:
    history: list[Event] = [requested]
    for attempt in range(1, MOST_STARTS + 1):
        given(*history).when(START).then(started(attempt))
        history.append(started(attempt))
    given(*history).when(START).then(
        TaskFailed(
            task_id="T-1",
            kind="replay",
            attempt=MOST_STARTS,
            code="task.worker_lost",
            reason=f"its worker ended unexpectedly {MOST_STARTS} times",
            failed_at=NOON,
        )
    )


def test_to_give_it_back_is_no_failure() -> None:
    history: list[Event] = [requested]
    for attempt in range(1, 3 * MOST_STARTS):
        given(*history, started(attempt)).when(release(attempt)).then(released(attempt))
        history += [started(attempt), released(attempt)]
    given(*history).when(START).then(started(3 * MOST_STARTS))


@pytest.mark.parametrize(
    "command", [report(), complete(), fail(), release()], ids=lambda one: type(one).__name__
)
def test_who_lost_it_says_nothing_more_of_it(command: Command) -> None:
    now = given(requested, started(), started(2)).when(command)
    now.refused("task.not_yours", yours=1, attempt=2)
    given(requested, started(), released()).when(command).refused("task.not_yours")
    for end in FINISHED:
        given(requested, started(), *end).when(command).refused("task.already_finished")
    given().when(command).refused("task.unknown")


def test_what_waits_is_stopped_at_once_and_what_runs_when_its_worker_hears_of_it() -> None:
    given(requested).when(CANCEL).then(cancelled)
    given(requested, started()).when(CANCEL).then(cancel_requested)
    stopping = (requested, started(), cancel_requested)
    given(*stopping).when(CANCEL).refused("task.cancelling")
    given(*stopping).when(report()).refused("task.cancelling")
    given(*stopping).when(release()).then(cancelled)
    given(*stopping).when(START).then(cancelled)
    given(*stopping).when(complete()).then(completed)


@pytest.mark.parametrize("history", FINISHED)
def test_what_is_finished_is_not_stopped(history: list[Event]) -> None:
    for command in (CANCEL, CANCEL_OWN, START):
        given(requested, *history).when(command).refused("task.already_finished", task_id="T-1")


def test_what_there_is_not_is_not_stopped() -> None:
    for command in (CANCEL, CANCEL_OWN, START):
        given().when(command).refused("task.unknown", task_id="T-1")


def test_ones_own_task_may_be_stopped_by_who_may_not_stop_all() -> None:
    own = cancelled.model_copy(update={"reason": None})
    given(requested).when(CANCEL_OWN, "ana").then(own)
    given(requested).when(CANCEL_OWN, "ben").refused("task.of_somebody_else", actor="ben")
    assert HANDLERS[CancelTask].roles == {Role.ADMIN, Role.SERVICE}
    assert HANDLERS[CancelOwnTask].roles == frozenset(Role) - {Role.VIEWER}


def test_who_may_ask_for_what() -> None:
    probing = {Role.ADMIN, Role.ANALYST, Role.AUDITOR}
    assert HANDLERS[RequestReplay].roles == HANDLERS[RequestBacktest].roles == probing
    assert HANDLERS[RequestTraining].roles == {Role.ADMIN, Role.ANALYST}
    assert HANDLERS[RequestImport].roles == {Role.ADMIN, Role.SERVICE}
    assert HANDLERS[RequestBundle].roles == {Role.ADMIN, Role.AUDITOR}


@pytest.mark.parametrize(
    ("kind", "fields", "field", "rule"),
    [
        (RequestReplay, {"decision_ids": ()}, "decision_ids", "at least 1"),
        (RequestReplay, {"decision_ids": ("../x",)}, "decision_ids", "match pattern"),
        (RequestReplay, {"depth": 1}, "depth", "Extra inputs"),
        (RequestTraining, {}, "kind", "required"),
        (RequestBacktest, {"kind": "fulfilment"}, "model_hash", "one of them"),
        (RequestBacktest, {"kind": "fulfilment", "model_hash": "x"}, "model_hash", "pattern"),
        (
            RequestBacktest,
            {"kind": "k", "model_hash": HASH, "from_position": 9, "to_position": 8},
            "to_position",
            "lies before",
        ),
        (RequestImport, {"mapping": "orders", "files": ()}, "files", "at least 1"),
        (RequestImport, {"mapping": "orders", "files": (FILE, FILE)}, "files", "each name once"),
        (RequestBundle, {"decision_id": "a b"}, "decision_id", "match pattern"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    kind: type[Command], fields: dict[str, Any], field: str, rule: str
) -> None:
    told = problems(kind, task_id="T-1", requested_at=NOON, **fields)
    assert field in told
    assert rule in told


A, B, C = (UUID(int=number) for number in (1, 2, 3))


def seen(*events: Event) -> TaskDetail:
    """What is told of a task with these events."""
    stored = []
    for number, event in enumerate(events, 1):
        topic, state = encode(event)
        stored.append(
            StoredEvent(number, A, number, topic, state, UUID(int=number), A, NOON, B, None, "ana")
        )
    found = told_of(stored)
    assert found is not None
    return found


@pytest.mark.parametrize("total", [2, 0])
def test_a_completed_task_is_not_at_a_step_any_more(total: int) -> None:
    on_its_way = progressed().model_copy(update={"total": total})
    half = seen(requested, started(), on_its_way)
    assert (half.done, half.total, half.step) == (1, total, "deciding")
    over = seen(requested, started(), on_its_way, completed)
    assert over.done == over.total == max(1, total)
    assert over.step is None


def test_a_task_that_counted_nothing_has_no_progress_in_the_end() -> None:
    begun = seen(requested, started())
    assert (begun.done, begun.total, begun.step) == (0, 0, "starting")
    over = seen(requested, started(), completed)
    assert (over.done, over.total, over.step) == (None, None, None)
    # Of what was not completed, it is told how far it came.
    ended = seen(requested, started(), progressed(), failed)
    assert (ended.done, ended.total, ended.step) == (1, 2, "deciding")


def test_what_failed_or_was_stopped_is_asked_for_once_more_in_ones_own_name() -> None:
    retry = RetryTask(task_id="T-2", retry_of="T-1", requested_at=NOON)
    again = requested.model_copy(
        update={"task_id": "T-2", "retry_of": "T-1", "requested_by": "ben", "priority": 9}
    )
    forward = TaskPrioritised(
        task_id="T-1", kind="replay", priority=9, prioritised_by="ana", prioritised_at=NOON
    )
    ends: list[list[Event]] = [[started(), failed], [cancelled]]
    for history in ([requested, forward, *end] for end in ends):
        given().reading(*history).when(retry, "ben").then(again)
        given(again).reading(*history).when(retry).refused("task.already_requested")
    for more, state in (((), "requested"), ((completed,), "completed")):
        given().reading(requested, *more).when(retry).refused("task.not_failed", state=state)
    given().when(retry).refused("task.unknown", task_id="T-1")
    # Of what is asked for anew nothing is said: such an event has the bytes that it always had.
    assert b"retry_of" not in encode(requested)[1]
    assert b'"retry_of":"T-1"' in encode(again)[1]


def test_a_task_that_waits_is_put_forward() -> None:
    urgent = PrioritiseTask(task_id="T-1", priority=9, prioritised_at=NOON)
    forward = TaskPrioritised(
        task_id="T-1", kind="replay", priority=9, prioritised_by="ana", prioritised_at=NOON
    )
    given(requested).when(urgent).then(forward)
    given(requested, forward).when(urgent).refused("task.same_priority", priority=9)
    given(requested, started()).when(urgent).refused("task.not_waiting", state="running")
    given(requested, failed).when(urgent).refused("task.already_finished")
    given().when(urgent).refused("task.unknown", task_id="T-1")
    assert seen(requested, forward).priority == 9


def test_a_worker_takes_what_it_is_for_and_no_more_of_a_kind_than_it_may() -> None:
    def takes(worker: TaskWorker, kind: str) -> bool:
        return worker._takes(OpenTask(A, "T-1", 5, 1, 0, kind))

    parts: Any = (None, None, None, None)
    assert takes(TaskWorker(*parts), "training")
    simulating = TaskWorker(*parts, kinds={Kind.SIMULATION})
    assert (takes(simulating, "simulation"), takes(simulating, "training")) == (True, False)
    bounded = TaskWorker(*parts, of_kind={Kind.TRAINING: 1})
    bounded._doing["training"] += 1
    assert (takes(bounded, "training"), takes(bounded, "simulation")) == (False, True)


def waiting(*tasks: tuple[UUID, str, int, int, int]) -> list[OpenTask]:
    return [OpenTask(*one) for one in tasks]


def names(tasks: list[OpenTask]) -> str:
    return " ".join(one.task_id for one in tasks)


def test_the_more_urgent_first_and_of_the_same_the_older_one() -> None:
    found = in_turn(
        waiting((A, "a1", 5, 10, 0), (A, "a2", 9, 20, 0), (A, "a3", 5, 5, 0), (A, "a4", 1, 1, 0)),
        {},
    )
    assert names(found) == "a2 a3 a1 a4"


def test_organisations_take_turns_within_a_priority() -> None:
    many = [(A, f"a{number}", 5, number, 0) for number in range(1, 5)]
    found = in_turn(
        waiting(*many, (B, "b1", 5, 50, 0), (B, "b2", 5, 51, 0), (C, "c1", 1, 2, 0)), {}
    )
    assert names(found) == "a1 b1 a2 b2 a3 a4 c1"


def test_who_was_served_last_is_served_after_the_others() -> None:
    tasks = waiting((A, "a1", 5, 1, 40), (B, "b1", 5, 2, 30), (C, "c1", 5, 3, 0))
    assert names(in_turn(tasks, {})) == "c1 b1 a1"
    assert names(in_turn(tasks, {C: 41})) == "b1 a1 c1"


def test_lines_of_an_import_are_told_by_number_and_rule(tmp_path: Path) -> None:
    from commands.lines import _commands
    from commands.sources import Reject

    place = {
        "order_id": "O-1",
        "customer_id": "C-1",
        "currency": "EUR",
        "placed_at": "2026-01-01T00:00:00Z",
        "promised_at": "2026-01-05T00:00:00Z",
        "lines": [{"line_no": 1, "sku": "S", "quantity": "1", "unit_price_minor": 5}],
    }
    good = {"key": "1", "command": "PlaceOrder", "fields": place}
    file = tmp_path / "commands.jsonl"
    lines = [
        json.dumps(good),
        "",
        "{",
        json.dumps(good | {"command": "ApproveModel"}),
        json.dumps(good | {"key": ""}),
        json.dumps(good | {"more": 1}),
        json.dumps(good | {"fields": place | {"currency": "EUX"}}),
        json.dumps(good | {"fields": place | {"recipient": {"name": 5, "email": "eve@x.org"}}}),
        '{"key": "' + "x" * 1_000_001 + '"}',
        json.dumps(good | {"key": "2"}),
    ]
    file.write_text("\n".join(lines))
    rejects: list[Reject] = []
    found = list(_commands(file, rejects.append))
    assert [None if one is None else one.key for one in found] == ["1", *[None] * 7, "2"]
    told = {(one.line, one.rule) for one in rejects}
    assert {
        (3, "not_json"),
        (4, "unknown"),
        (5, "key"),
        (6, "not_a_command"),
        (7, "value_error"),
        (9, "too_long"),
    } <= told
    assert any(one.line == 8 for one in rejects)
    assert "eve@x.org" not in repr([one for one in rejects if one.line == 8])
    assert next(one for one in rejects if one.line == 7).value == "EUX"
