"""Models over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading, tagged
from api.errors import documented
from domain.models import ApproveModel, DeployModel, Hash
from readmodels import models
from readmodels.database import ReadModels
from readmodels.models import ModelDetail, ModelSummary
from readmodels.page import Page

router = APIRouter(prefix="/models", tags=["models"])

mount(
    router,
    (
        Post(
            "/{model_hash}/approve",
            ApproveModel,
            "Approve a model that somebody else registered",
            now=("approved_at",),
        ),
        Post(
            "/{model_hash}/deploy",
            DeployModel,
            "Make an approved model the champion of its kind",
            now=("deployed_at",),
        ),
    ),
)


@router.get("", summary="List models, the latest first", responses=documented())
async def list_models(
    read: Annotated[ReadModels, reading("models.list", "model_list", "champions")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ModelSummary]:
    """A page of models."""
    return await models.list_models(read, cursor=cursor, limit=limit)


@router.get("/{model_hash}", summary="Get a model", responses=documented(404))
async def get_model(
    model_hash: Annotated[Hash, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("models.get", "model_list", "champions")],
) -> ModelDetail:
    """A model with its training, its metrics and its baseline's."""
    found = await models.get_model(read, model_hash)
    if found is None:
        raise NotFound("model", model_hash)
    tagged(response, found.last_position)
    return found
