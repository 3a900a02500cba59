"""Tasks: which rule answers which command, and what an import may ask for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from commands.handler import Handler, Read
from commands.sites import site_stream
from domain import task_requests, tasks, work
from domain.access import OPERATE, PLAN, SERVE, Role
from domain.errors import Refused
from domain.sites import SITES, Site, must_be_known
from domain.values import Command

#: Trains models, which changes nothing until somebody else approves one.
_TRAIN = frozenset({Role.ADMIN, Role.ANALYST})
#: Asks the log and the models again, as ``readmodels.access`` has it; nothing changes by it.
_PROBE = frozenset({Role.ADMIN, Role.ANALYST, Role.AUDITOR})
_EVIDENCE = frozenset({Role.ADMIN, Role.AUDITOR})


#: Who may ask for a kind of work may have it done, and may see what came of it.
REQUESTS: Mapping[str, type[Command]] = {
    work.Kind.REPLAY: work.RequestReplay,
    work.Kind.TRAINING: work.RequestTraining,
    work.Kind.IMPORT: work.RequestImport,
    work.Kind.BACKTEST: work.RequestBacktest,
    work.Kind.BUNDLE: work.RequestBundle,
    work.Kind.SIMULATION: work.RequestSimulation,
    work.Kind.INFERENCE: work.RequestInference,
    work.Kind.TOURS: work.RequestTours,
    work.Kind.SEALING: work.RequestSealing,
    work.Kind.ARCHIVING: work.RequestArchiving,
}


def task_stream(task_id: str) -> str:
    """The stream of a task."""
    return tasks.STREAM.format(task_id=task_id)


def _stream(command: Any) -> str:
    return task_stream(command.task_id)


def handlers(
    kinds: Collection[str],
    imports: Callable[[], Mapping[str, Collection[str]]],
    estimates: Collection[str] = (),
) -> tuple[Handler, ...]:
    """The handlers of requests, for the kinds of decision that there are, for the mappings that the
    installation has, each with the names of its files, and for the kinds of numbers that models
    say (``estimates``)."""

    def of(known: Collection[str]) -> Callable[[Any], str]:
        def stream(command: Any) -> str:
            if command.kind not in known:
                raise Refused(
                    "decision.unknown_kind", kind=command.kind, known=", ".join(sorted(known))
                )
            return _stream(command)

        return stream

    def of_mapping(command: work.RequestImport) -> str:
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
        (work.RequestReplay, _PROBE, _stream),
        (work.RequestTraining, _TRAIN, of({*kinds, *estimates})),
        (work.RequestImport, OPERATE, of_mapping),
        (work.RequestBacktest, _PROBE, of(kinds)),
        (work.RequestBundle, _EVIDENCE, _stream),
        (work.RequestInference, PLAN, of({*kinds, "demand"})),
        (work.RequestSealing, OPERATE, _stream),
        (work.RequestArchiving, OPERATE, _stream),
    )
    return (
        *(
            Handler(
                command=command,
                roles=roles,
                stream=stream,
                decider=tasks.TASKS,
                decide=lambda command, actor, task: task_requests.request(task, command, actor),
                creates=True,
            )
            for command, roles, stream in asked
        ),
        Handler(
            command=work.RequestTours,
            roles=OPERATE,
            stream=_stream,
            decider=tasks.TASKS,
            decide=_tours,
            reads=lambda command: (Read(site_stream(command.site_id), SITES),),
            creates=True,
        ),
    )


def _tours(command: work.RequestTours, actor: str, task: tasks.Task, site: Site) -> Any:
    events = task_requests.request(task, command, actor)
    must_be_known(site, command.site_id)
    return events


def no_imports() -> Mapping[str, Collection[str]]:
    """Without any mapping: ml.catalogue knows them."""
    return {}


def _by_actor(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda command, actor, task: rule(task, command, actor)


def _by_worker(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda command, _, task: rule(task, command)


HANDLERS = (
    *handlers((), no_imports),
    # Whoever may ask for a kind of work may ask for it once more: the ports ask for that right too.
    Handler(
        command=tasks.RetryTask,
        roles=OPERATE | _PROBE | PLAN,
        stream=_stream,
        decider=tasks.TASKS,
        decide=lambda command, actor, task, before: task_requests.retry(
            task, command, actor, before
        ),
        reads=lambda command: (Read(task_stream(command.retry_of), tasks.TASKS),),
    ),
    *(
        Handler(command=command, roles=roles, stream=_stream, decider=tasks.TASKS, decide=decide)
        for command, roles, decide in (
            (tasks.CancelTask, OPERATE, _by_actor(task_requests.cancel)),
            (tasks.CancelOwnTask, OPERATE | _PROBE, _by_actor(task_requests.cancel_own)),
            (tasks.PrioritiseTask, OPERATE, _by_actor(task_requests.prioritise)),
            (tasks.StartTask, SERVE, _by_worker(tasks.start)),
            (tasks.ReportTask, SERVE, _by_worker(tasks.report)),
            (tasks.CompleteTask, SERVE, _by_worker(tasks.complete)),
            (tasks.FailTask, SERVE, _by_worker(tasks.fail)),
            (tasks.ReleaseTask, SERVE, _by_worker(tasks.release)),
        )
    ),
)
