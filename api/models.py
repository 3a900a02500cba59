"""Models over HTTP: what they are, which one has which role, how they do."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Path, Query, Response

from api.commands import Post, mount
from api.dependencies import (
    PATIENCE_S,
    Cursor,
    Dependencies,
    Limit,
    NotFound,
    either,
    reading,
    tagged,
)
from api.errors import documented
from api.listing import Chosen, choosing, partial, sortable
from api.routers import Router
from domain.models import (
    ApproveModel,
    DeployModel,
    Hash,
    ResumeModel,
    RetireModel,
    RollBackModel,
    StopModel,
    WithdrawModel,
)
from domain.values import Id
from ml.catalogue import KINDS
from ml.model_card import READS, card, story_of
from readmodels import models
from readmodels.database import ReadModels
from readmodels.models import (
    Deployment,
    LiveModel,
    ModelAlert,
    ModelDetail,
    ModelMeasurement,
    ModelMonth,
    ModelSummary,
)
from readmodels.page import Page

router = Router("/models", tags=["models"])

_STAGES = ("registered", "approved", "deployed", "retired")
_KindFilter = Annotated[Id | None, Query(description="Of this kind of decision only.")]
_ModelHash = Annotated[Hash, Path(description="SHA-256 of the model's artifact.")]


async def _must_be_champion(
    deps: Dependencies, organisation_id: UUID, command: RollBackModel
) -> None:
    """A rollback is from the champion of now: the model's own stream does not tell who that is."""
    head = await deps.log.head()
    await deps.positions.wait_for(head, ("model_list", "model_roles"), PATIENCE_S)
    await models.must_be_champion(ReadModels(deps.log, organisation_id), command.model_hash)


POSTS = (
    Post(
        "/{model_hash}/approve",
        ApproveModel,
        "Approve a model that somebody else registered",
        now=("approved_at",),
        example={"accept_worse": False},
    ),
    Post(
        "/{model_hash}/deploy",
        DeployModel,
        "Give an approved model a role in its kind",
        now=("deployed_at",),
        example={"role": "challenger", "share": 0.1},
    ),
    Post(
        "/{model_hash}/rollback",
        RollBackModel,
        "Make an earlier champion the champion again",
        now=("rolled_back_at",),
        check=_must_be_champion,
        example={"to": "0" * 64, "reason": "late deliveries were missed"},
    ),
    Post(
        "/{model_hash}/withdraw",
        WithdrawModel,
        "End a model's role",
        now=("withdrawn_at",),
        example={"reason": "the trial is over"},
    ),
    Post(
        "/{model_hash}/stop",
        StopModel,
        "Let a model decide nothing more",
        now=("stopped_at",),
        example={"reason": "its features are stale"},
    ),
    Post(
        "/{model_hash}/resume",
        ResumeModel,
        "Let a stopped model go on",
        now=("resumed_at",),
    ),
    Post(
        "/{model_hash}/retire",
        RetireModel,
        "Take a model out of every role for good",
        now=("retired_at",),
        example={"reason": "replaced"},
    ),
)
mount(router, POSTS)


@router.get(
    "",
    summary="List models, the latest first",
    responses=documented() | partial(ModelSummary, page=True),
)
async def list_models(
    read: Annotated[ReadModels, reading("models.list", "model_list", "model_roles")],
    chosen: Annotated[Chosen, choosing(ModelSummary)],
    kind: _KindFilter = None,
    stage: Annotated[str | None, Query(pattern=either(_STAGES))] = None,
    retired: Annotated[bool | None, Query(description="Only retired ones, or only others.")] = None,
    sort: Annotated[str | None, sortable(models.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ModelSummary]:
    """A page of models, with the roles that they have now."""
    found = await models.list_models(
        read, kind=kind, stage=stage, retired=retired, sort=sort, cursor=cursor, limit=limit
    )
    return chosen.of(found)


@router.get("/live", summary="Which model has which role", responses=documented())
async def list_live_models(
    read: Annotated[ReadModels, reading("models.live", "model_list", "model_roles")],
    kind: _KindFilter = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[LiveModel]:
    """The models in their roles, by kind and role: now, or at any time with `as_of`."""
    return await models.live_models(read, kind=kind, cursor=cursor, limit=limit)


@router.get("/deployments", summary="List changes of roles", responses=documented())
async def list_deployments(
    read: Annotated[ReadModels, reading("models.deployments", "model_deployments")],
    kind: _KindFilter = None,
    model_hash: Annotated[Hash | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Deployment]:
    """Deployments, rollbacks, withdrawals and retirements, the latest first."""
    return await models.model_deployments(
        read, kind=kind, model_hash=model_hash, cursor=cursor, limit=limit
    )


@router.get("/alerts", summary="List alerts", responses=documented())
async def list_alerts(
    read: Annotated[ReadModels, reading("models.alerts", "model_alerts")],
    is_open: Annotated[
        bool | None, Query(alias="open", description="Only open ones, or only cleared ones.")
    ] = None,
    kind: _KindFilter = None,
    model_hash: Annotated[Hash | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ModelAlert]:
    """Figures of models that went past their thresholds, the latest first."""
    return await models.model_alerts(
        read, is_open=is_open, kind=kind, model_hash=model_hash, cursor=cursor, limit=limit
    )


@router.get(
    "/{model_hash}",
    summary="Get a model",
    responses=documented(404) | partial(ModelDetail),
)
async def get_model(
    model_hash: _ModelHash,
    response: Response,
    read: Annotated[ReadModels, reading("models.get", "model_list", "model_roles")],
    chosen: Annotated[Chosen, choosing(ModelDetail)],
) -> ModelDetail:
    """A model with its training, its metrics and its baseline's, and its latest measurement."""
    found = await _known(read, model_hash)
    tagged(response, found.version, *found.roles)
    return chosen.of(found)


@router.get(
    "/{model_hash}/measurements", summary="List a model's measurements", responses=documented(404)
)
async def list_measurements(
    model_hash: _ModelHash,
    read: Annotated[
        ReadModels,
        reading("models.measurements", "model_list", "model_roles", "model_measurements"),
    ],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ModelMeasurement]:
    """Accuracy, calibration, drift and estimates without labels, the latest first."""
    await _known(read, model_hash)
    return await models.model_measurements(read, model_hash, cursor=cursor, limit=limit)


@router.get("/{model_hash}/months", summary="List a model's months", responses=documented(404))
async def list_months(
    model_hash: _ModelHash,
    read: Annotated[
        ReadModels, reading("models.months", "model_list", "model_roles", "model_months")
    ],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ModelMonth]:
    """What a model foretold and what came true, month by month."""
    await _known(read, model_hash)
    return await models.model_months(read, model_hash, cursor=cursor, limit=limit)


@router.get(
    "/{model_hash}/card",
    summary="Read a model's card",
    response_class=Response,
    responses=documented(404)
    | {200: {"content": {"text/markdown": {}}, "description": "Markdown."}},
)
async def get_model_card(
    model_hash: _ModelHash, read: Annotated[ReadModels, reading("models.card", *READS)]
) -> Response:
    """What it is for, what it learned from and how, its metrics beside the baseline's and by
    segment, who approved and deployed it, how it does in service, and its limits."""
    story = await story_of(read, model_hash)
    if story is None:
        raise NotFound("model", model_hash)
    return Response(card(story, KINDS.get(story.model.kind)), media_type="text/markdown")


async def _known(read: ReadModels, model_hash: str) -> ModelDetail:
    found = await models.get_model(read, model_hash)
    if found is None:
        raise NotFound("model", model_hash)
    return found
