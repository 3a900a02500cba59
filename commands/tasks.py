"""Tasks: which rule answers which command, and what an import may ask for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from commands.handler import Handler
from domain import tasks
from domain.access import OPERATE, SERVE, Role
from domain.errors import Refused
from domain.values import Command

#: Trains models, which changes nothing until somebody else approves one.
_TRAIN = frozenset({Role.ADMIN, Role.ANALYST})
#: Asks the log and the models again, as ``readmodels.access`` has it; nothing changes by it.
_PROBE = frozenset({Role.ADMIN, Role.ANALYST, Role.AUDITOR})
_EVIDENCE = frozenset({Role.ADMIN, Role.AUDITOR})


#: Who may ask for a kind of work may have it done, and may see what came of it.
REQUESTS: Mapping[str, type[Command]] = {
    tasks.Kind.REPLAY: tasks.RequestReplay,
    tasks.Kind.TRAINING: tasks.RequestTraining,
    tasks.Kind.IMPORT: tasks.RequestImport,
    tasks.Kind.BACKTEST: tasks.RequestBacktest,
    tasks.Kind.BUNDLE: tasks.RequestBundle,
}


def task_stream(task_id: str) -> str:
    """The stream of a task."""
    return tasks.STREAM.format(task_id=task_id)


def _stream(command: Any) -> str:
    return task_stream(command.task_id)


def handlers(
    kinds: Collection[str], imports: Callable[[], Mapping[str, Collection[str]]]
) -> tuple[Handler, ...]:
    """The handlers of requests, for the kinds of decision that there are, and for the mappings that
    the installation has, each with the names of its files."""

    def of_kind(command: Any) -> str:
        if command.kind not in kinds:
            raise Refused(
                "decision.unknown_kind", kind=command.kind, known=", ".join(sorted(kinds))
            )
        return _stream(command)

    def of_mapping(command: tasks.RequestImport) -> str:
        known = imports()
        if command.mapping not in known:
            raise Refused(
                "import.no_such_mapping", mapping=command.mapping, known=", ".join(sorted(known))
            )
        wanted, given = set(known[command.mapping]), {file.name for file in command.files}
        if wanted != given:
            raise Refused(
                "import.other_files",
                mapping=command.mapping,
                missing=", ".join(sorted(wanted - given)),
                unknown=", ".join(sorted(given - wanted)),
            )
        return _stream(command)

    asked: tuple[tuple[Any, frozenset[Role], Callable[[Any], str]], ...] = (
        (tasks.RequestReplay, _PROBE, _stream),
        (tasks.RequestTraining, _TRAIN, of_kind),
        (tasks.RequestImport, OPERATE, of_mapping),
        (tasks.RequestBacktest, _PROBE, of_kind),
        (tasks.RequestBundle, _EVIDENCE, _stream),
    )
    return tuple(
        Handler(
            command=command,
            roles=roles,
            stream=stream,
            decider=tasks.TASKS,
            decide=lambda command, actor, task: tasks.request(task, command, actor),
            creates=True,
        )
        for command, roles, stream in asked
    )


def no_imports() -> Mapping[str, Collection[str]]:
    """Without any mapping: ml.catalogue knows them."""
    return {}


def _by_actor(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda command, actor, task: rule(task, command, actor)


def _by_worker(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda command, _, task: rule(task, command)


HANDLERS = (
    *handlers((), no_imports),
    *(
        Handler(command=command, roles=roles, stream=_stream, decider=tasks.TASKS, decide=decide)
        for command, roles, decide in (
            (tasks.CancelTask, OPERATE, _by_actor(tasks.cancel)),
            (tasks.CancelOwnTask, OPERATE | _PROBE, _by_actor(tasks.cancel_own)),
            (tasks.StartTask, SERVE, _by_worker(tasks.start)),
            (tasks.ReportTask, SERVE, _by_worker(tasks.report)),
            (tasks.CompleteTask, SERVE, _by_worker(tasks.complete)),
            (tasks.FailTask, SERVE, _by_worker(tasks.fail)),
            (tasks.ReleaseTask, SERVE, _by_worker(tasks.release)),
        )
    ),
)
