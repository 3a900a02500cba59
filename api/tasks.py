"""Tasks over HTTP: long work is asked for, followed, stopped, and its result fetched.

Who asks gets 202, the task and where to look; the work itself is done by a worker.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from api.commands import Post, may_send, mount
from api.dependencies import (
    Caller,
    Cursor,
    Dependencies,
    Limit,
    NotAllowed,
    NotFound,
    Parts,
    either,
    reading,
    reading_now,
    tagged,
)
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, choosing, partial, sortable
from api.routers import Router
from api.server_wide import of_the_server
from commands import Context, Forbidden
from commands.tasks import REQUESTS, task_stream
from domain.errors import Refused
from domain.tasks import CancelOwnTask, CancelTask, PrioritiseTask, RetryTask, State
from domain.values import Command, Id
from domain.work import (
    Kind,
    RequestArchiving,
    RequestBacktest,
    RequestBundle,
    RequestImport,
    RequestInference,
    RequestReplay,
    RequestSealing,
    RequestTraining,
)
from eventstore import Receipt
from eventstore.artifacts import ArtifactCorrupt, Artifacts
from ml.catalogue import HANDLERS
from readmodels import task_queue, tasks
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.task_queue import QueueOverview
from readmodels.tasks import TaskDetail, TaskSummary

router = Router("/tasks", tags=["tasks"])

_STATES = [state.value for state in State if state is not State.UNKNOWN]
#: Seconds after which it is worth to look again.
_AGAIN = "1"


async def _as_task(
    deps: Dependencies, organisation_id: UUID, receipt: Receipt, response: Response
) -> TaskSummary:
    """The task as the log has it now, whatever read models do, and where it is."""
    found = tasks.told_of(await ReadModels(deps.log, organisation_id).stream(receipt.stream))
    assert found is not None
    tagged(response, found.version)
    response.headers["Location"] = f"/api/v1/tasks/{found.task_id}"
    if not found.finished:
        response.headers["Retry-After"] = _AGAIN
    return tasks.summary(found)


async def _must_be_there(deps: Dependencies, organisation_id: UUID, command: RequestImport) -> None:
    """Each file was uploaded by the organisation. Whether they are the mapping's is said first."""
    HANDLERS[RequestImport].stream(command)
    for file in command.files:
        if not await deps.uploads.has(organisation_id, file.upload_id):
            raise Refused("upload.unknown", file=file.name, upload_id=file.upload_id)


async def _may_ask_again(deps: Dependencies, command: RetryTask, context: Context) -> None:
    """Who asks for work once more may ask for work of that kind."""
    read = ReadModels(deps.log, context.organisation_id)
    before = tasks.told_of(await read.stream(task_stream(command.retry_of)))
    if before is None:
        return  # the rule says so
    request = REQUESTS[before.kind]
    needed = HANDLERS[request].roles
    is_scoped = context.scopes is not None and request.__name__ not in context.scopes
    if context.roles.isdisjoint(needed) or is_scoped:
        raise Forbidden(request.__name__, context.roles, needed, context.scopes)
    if request in (RequestSealing, RequestArchiving):
        await of_the_server(deps, command, context)


def request_post(path: str, command: type[Command], summary: str, **more: Any) -> Post:
    """An endpoint that asks for long work by a command: 202, the task, and where to look."""
    return Post(
        path,
        command,
        summary,
        now=("requested_at",),
        made=("task_id",),
        status=202,
        answer=_as_task,
        answers=TaskSummary,
        **more,
    )


POSTS = (
    request_post(
        "/replay",
        RequestReplay,
        "Decide again and compare, as a task",
        example={"decision_ids": ["D-1"], "priority": "normal"},
    ),
    request_post(
        "/training",
        RequestTraining,
        "Train a model, as a task",
        example={"kind": "fulfilment", "priority": "low"},
    ),
    request_post(
        "/inference",
        RequestInference,
        "Ask models about many subjects, as a task",
        example={"kind": "fulfilment", "subject_ids": ["O-1", "O-2"], "format": "csv"},
    ),
    request_post(
        "/import",
        RequestImport,
        "Import uploaded files, as a task",
        check=_must_be_there,
        example={
            "mapping": "orders",
            "files": [{"name": "orders.csv", "upload_id": "0f8fad5b-d9cb-469f-a165-70867728950e"}],
            "priority": "urgent",
        },
    ),
    request_post(
        "/backtest",
        RequestBacktest,
        "Decide the past again otherwise, as a task",
        example={
            "kind": "fulfilment",
            "weights": {"cost": 1, "risk_minor": 5000, "carbon_minor_per_kg": 10},
        },
    ),
    request_post(
        "/bundle",
        RequestBundle,
        "Make an evidence bundle, as a task",
        example={"decision_id": "D-1"},
    ),
    request_post(
        "/sealing",
        RequestSealing,
        "Seal the log, as a task",
        guard=of_the_server,
        example={"priority": "urgent"},
    ),
    request_post(
        "/archiving",
        RequestArchiving,
        "Archive what is sealed, as a task",
        guard=of_the_server,
        example={"priority": "low"},
    ),
    request_post(
        "/{retry_of}/retry",
        RetryTask,
        "Ask once more for what a task was to do",
        guard=_may_ask_again,
    ),
    Post(
        "/{task_id}/prioritise",
        PrioritiseTask,
        "Give a waiting task another priority",
        now=("prioritised_at",),
        answer=_as_task,
        answers=TaskSummary,
        example={"priority": "urgent"},
    ),
    Post(
        "/{task_id}/cancel",
        CancelTask,
        "Stop a task",
        now=("cancelled_at",),
        own=CancelOwnTask,
        answer=_as_task,
        answers=TaskSummary,
        example={"reason": "the wrong file"},
    ),
)
mount(router, POSTS)


@router.get(
    "",
    summary="List tasks, the latest first",
    responses=documented() | partial(TaskSummary, page=True),
)
async def list_tasks(
    read: Annotated[ReadModels, reading("tasks.list", "task_list")],
    chosen: Annotated[Chosen, choosing(TaskSummary)],
    state: Annotated[
        str | None, Query(pattern=either(_STATES), description="In this state only.")
    ] = None,
    kind: Annotated[
        str | None, Query(pattern=either(list(Kind)), description="Of this kind only.")
    ] = None,
    sort: Annotated[str | None, sortable(tasks.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[TaskSummary]:
    """Tasks of all kinds, as far as they have come."""
    found = await tasks.list_tasks(
        read, state=state, kind=kind, sort=sort, cursor=cursor, limit=limit
    )
    return chosen.of(found)


@router.get("/queue", summary="The queue at a glance", responses=documented())
async def get_queue(
    read: Annotated[ReadModels, reading_now("tasks.queue", "task_queue", "task_list")],
) -> QueueOverview:
    """What waits and runs, by kind and priority; how long the oldest waits; who works; what was
    finished in the last hour."""
    return await task_queue.queue_overview(read)


@router.get("/{task_id}", summary="Get a task", responses=documented(404))
async def get_task(
    task_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("tasks.get")],
) -> TaskSummary:
    """How far it is, and what came of it. `Retry-After` says when to look again."""
    found = await _known(read, task_id)
    tagged(response, found.version)
    if not found.finished:
        response.headers["Retry-After"] = _AGAIN
    return tasks.summary(found)


@router.get("/{task_id}/history", summary="The history of a task", responses=documented(404))
async def get_task_history(
    task_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("tasks.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """What happened to it, in words, the oldest first."""
    return await history_of(read, task_stream(task_id), "task", task_id, cursor, limit)


@router.get(
    "/{task_id}/result",
    summary="Fetch what came of a task",
    response_class=Response,
    responses=documented(404, 409)
    | {
        200: {
            "content": {
                "application/json": {},
                "text/csv": {},
                "application/zip": {},
            },
            "description": "The file that the task made; its figures, where it made none.",
        }
    },
)
async def get_task_result(
    task_id: Annotated[Id, Path()],
    request: Request,
    deps: Parts,
    caller: Caller,
    read: Annotated[ReadModels, reading("tasks.result")],
) -> Response:
    """The file of a completed task (replayed decisions, a comparison, rejected rows, an archive),
    or the figures of one without a file; for who may ask for such a task. One that is not completed
    is a conflict."""
    found = await _known(read, task_id)
    if not may_send(REQUESTS[found.kind], caller):
        raise NotAllowed(f"the result of a {found.kind}", caller)
    if found.state != State.COMPLETED:
        raise Refused("task.not_completed", task_id=task_id, state=found.state)
    if found.artifact is None:
        return JSONResponse(found.result)
    try:
        content = await Artifacts(deps.log).get(found.artifact)
    except (KeyError, ArtifactCorrupt) as error:
        raise HTTPException(503, "the file is not stored any more, or not as it was") from error
    headers = {
        "Content-Disposition": f'attachment; filename="{found.file_name}"',
        "X-Content-Type-Options": "nosniff",
    }
    return Response(content, media_type=found.media_type, headers=headers)


async def _known(read: ReadModels, task_id: str) -> TaskDetail:
    found = await tasks.get_task(read, task_id)
    if found is None:
        raise NotFound("task", task_id)
    return found
