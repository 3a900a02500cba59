"""Decisions over HTTP: ask, read what and why, replay."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, Parts, allowed, either, reading, tagged
from api.errors import documented
from api.tokens import Identity
from domain.decisions import RecordOutcome, RequestDecision, Stage
from domain.values import Id
from ml.deciding import floats
from ml.replay import NotAnswered, Replayed
from readmodels import decisions
from readmodels.database import ReadModels
from readmodels.decisions import DecisionDetail, DecisionSummary
from readmodels.page import Page

router = APIRouter(prefix="/decisions", tags=["decisions"])

_STAGES = [stage.value for stage in Stage if stage is not Stage.UNKNOWN]

mount(
    router,
    (
        Post(
            "",
            RequestDecision,
            "Ask for a decision",
            now=("requested_at",),
            made=("decision_id",),
            status=201,
            example={"subject_id": "O-1"},
        ),
        Post(
            "/{decision_id}/outcome",
            RecordOutcome,
            "Say how a decision turned out",
            now=("known_at",),
            example={"late": False, "followed": True},
        ),
    ),
)


class Explanation(BaseModel):
    """Why a decision is what it is. ``contributions``: for each candidate, exact SHAP values in
    log odds in the order of the model's features, the base value last."""

    decision_id: str
    summary: str
    option: dict[str, str]
    probability: float | None
    confidence: float | None
    reasons: list[dict[str, Any]]
    rejections: list[dict[str, Any]]
    runner_up: dict[str, Any] | None
    candidates: list[dict[str, Any]]
    contributions: list[list[float]]
    model_hash: str
    as_of: int


@router.get("", summary="List decisions, the latest first", responses=documented())
async def list_decisions(
    read: Annotated[ReadModels, reading("decisions.list", "decision_list")],
    stage: Annotated[str | None, Query(pattern=either(_STAGES))] = None,
    subject_id: Annotated[Id | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DecisionSummary]:
    """A page of decisions, of one stage or about one subject."""
    return await decisions.list_decisions(
        read, stage=stage, subject_id=subject_id, cursor=cursor, limit=limit
    )


@router.get("/{decision_id}", summary="Get a decision", responses=documented(404))
async def get_decision(
    decision_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("decisions.get", "decision_detail")],
) -> DecisionDetail:
    """A decision's events as they stand in the log."""
    found = await _found(read, decision_id)
    tagged(response, found.last_position)
    return found


@router.get("/{decision_id}/explanation", summary="Read why", responses=documented(404))
async def get_explanation(
    decision_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("decisions.explanation", "decision_detail")],
) -> Explanation:
    """Reasons in words and numbers, what was ruled out, and what the runner-up lacked."""
    found = await _found(read, decision_id)
    made, explained = found.made, found.explained
    if made is None or explained is None:
        raise NotFound("explanation of decision", decision_id)
    tagged(response, found.last_position)
    return Explanation(
        decision_id=decision_id,
        summary=explained["summary"],
        option=made["option"],
        probability=made["probability"],
        confidence=made["confidence"],
        reasons=explained["reasons"],
        rejections=explained["rejections"],
        runner_up=explained["runner_up"],
        candidates=made["candidates"],
        contributions=[floats(encoded) for encoded in explained["contributions"]],
        model_hash=made["model_hash"],
        as_of=made["as_of"],
    )


@router.post("/{decision_id}/replay", summary="Decide again and compare", responses=documented(404))
async def replay_decision(
    decision_id: Annotated[Id, Path()],
    deps: Parts,
    caller: Annotated[Identity, allowed("decisions.replay")],
) -> Replayed:
    """Recompute the decision from the log and the stored model; are the bytes the same?"""
    try:
        [found] = await deps.replay(caller.organisation_id, decision_id)
    except NotAnswered:
        raise NotFound("answered decision", decision_id) from None
    return found


async def _found(read: ReadModels, decision_id: str) -> DecisionDetail:
    found = await decisions.get_decision(read, decision_id)
    if found is None:
        raise NotFound("decision", decision_id)
    return found
