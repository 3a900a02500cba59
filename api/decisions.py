"""Decisions over HTTP: ask, read what and why, replay."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import Annotated

from fastapi import Path, Query, Response

from api.commands import Post, mount
from api.conditional import entity_tag
from api.dependencies import (
    Cursor,
    Dependencies,
    Limit,
    NotFound,
    Parts,
    allowed,
    either,
    reading,
    tagged,
)
from api.errors import documented
from api.listing import Chosen, Moment, choosing, partial, sortable
from api.routers import Router
from api.tokens import Identity
from domain.decisions import RecordOutcome, RequestDecision, Stage
from domain.models import Hash
from domain.values import Id
from ml import timeline_picture
from ml.catalogue import KINDS
from ml.explaining import Explanation, NoSuchCandidate, best, explain, waterfall_of
from ml.replay import NotAnswered, Replayed
from readmodels import decisions, models
from readmodels.database import ReadModels
from readmodels.decisions import DecisionDetail, DecisionSummary
from readmodels.page import Page
from readmodels.timeline import TABLES, Timeline, timeline

router = Router("/decisions", tags=["decisions"])

_STAGES = [stage.value for stage in Stage if stage is not Stage.UNKNOWN]
_Candidate = Annotated[
    int | None,
    Query(ge=0, lt=10**6, description="One candidate, by its place in the decision's list."),
]

POSTS = (
    Post(
        "",
        RequestDecision,
        "Ask for a decision",
        now=("requested_at",),
        made=("decision_id",),
        status=201,
        example={
            "kind": "fulfilment",
            "subject_id": "O-1",
            "priority": 7,
            "deadline": "2099-01-01T00:00:00Z",
            "weights": {"cost": 1.0, "risk_minor": 5000, "carbon_minor_per_kg": 10},
        },
    ),
    Post(
        "/{decision_id}/outcome",
        RecordOutcome,
        "Say how a decision turned out",
        now=("known_at",),
        example={"occurred": False, "followed": True, "cost_minor": 1290},
    ),
)
mount(router, POSTS)


@router.get(
    "",
    summary="List decisions, the latest first",
    responses=documented() | partial(DecisionSummary, page=True),
)
async def list_decisions(
    read: Annotated[ReadModels, reading("decisions.list", "decision_list")],
    chosen: Annotated[Chosen, choosing(DecisionSummary)],
    stage: Annotated[str | None, Query(pattern=either(_STAGES))] = None,
    kind: Annotated[Id | None, Query()] = None,
    subject_id: Annotated[Id | None, Query()] = None,
    model_hash: Annotated[Hash | None, Query()] = None,
    redecides: Annotated[
        Id | None, Query(description="Those that answer this contested decision.")
    ] = None,
    role: Annotated[Id | None, Query(description="The role of the model that made it.")] = None,
    occurred: Annotated[bool | None, Query(description="What was foretold came true.")] = None,
    followed: Annotated[bool | None, Query(description="What was decided was done.")] = None,
    requested_since: Moment = None,
    requested_until: Moment = None,
    sort: Annotated[str | None, sortable(decisions.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DecisionSummary]:
    """A page of decisions; filters are joined by «and». Of times, `since` is in, `until` is out."""
    found = await decisions.list_decisions(
        read,
        stage=stage,
        kind=kind,
        subject_id=subject_id,
        model_hash=model_hash,
        redecides=redecides,
        role=role,
        occurred=occurred,
        followed=followed,
        requested_since=requested_since,
        requested_until=requested_until,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get(
    "/{decision_id}",
    summary="Get a decision",
    responses=documented(404) | partial(DecisionDetail),
)
async def get_decision(
    decision_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("decisions.get", "decision_detail")],
    chosen: Annotated[Chosen, choosing(DecisionDetail)],
) -> DecisionDetail:
    """A decision's events as they stand in the log."""
    found = await known(read, decision_id)
    tagged(response, found.version)
    return chosen.of(found)


@router.get("/{decision_id}/explanation", summary="Read why", responses=documented(404))
async def get_explanation(
    decision_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[
        ReadModels, reading("decisions.explanation", "decision_detail", "model_list", "model_roles")
    ],
    deps: Parts,
    candidate: _Candidate = None,
    wait_s: Annotated[
        float, Query(ge=0, le=30, description="Wait so long for a decision that is not made yet.")
    ] = 0,
) -> Explanation:
    """Reasons in words, what was ruled out and what the runner-up lacked; and for each candidate
    the exact SHAP value of every feature (log odds, the strongest first) with a sentence, the base
    value, and whether they sum to the margin. It is read from the log: there with the commit that
    made the decision. A decision that failed has none: the problem's `context` says why."""
    found = await _evidence(deps, read, decision_id, wait_s)
    explanation = await _explained(read, found, candidate)
    tagged(response, found.version)
    return explanation


@router.get(
    "/{decision_id}/explanation/waterfall.svg",
    summary="See why",
    response_class=Response,
    responses=documented(404)
    | {200: {"content": {"image/svg+xml": {}}, "description": "A picture."}},
)
async def get_waterfall(
    decision_id: Annotated[Id, Path()],
    read: Annotated[
        ReadModels, reading("decisions.explanation", "decision_detail", "model_list", "model_roles")
    ],
    candidate: _Candidate = None,
) -> Response:
    """How a candidate's features push its score from the base value to the margin; the chosen one
    where none is named (the best one, where none was chosen)."""
    found = await decisions.evidence(read, decision_id)
    if found is None:
        raise NotFound("decision", decision_id)
    if candidate is None and found.made is not None:
        candidate = best(found.made["candidates"])
    explanation = await _explained(read, found, candidate)
    picture = waterfall_of(explanation.subject_id, explanation.candidates[0])
    headers = {"ETag": entity_tag(found.version)}
    return Response(picture, media_type="image/svg+xml", headers=headers)


@router.get(
    "/{decision_id}/timeline", summary="See what came of a decision", responses=documented(404)
)
async def get_timeline(
    decision_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("decisions.timeline", *TABLES)],
) -> Timeline:
    """The decision's whole story as a tree: each event with what it caused, from the request on,
    through answer, reviews, a new decision and the order allocated because of it to the outcome."""
    return await _timeline(read, decision_id)


@router.get(
    "/{decision_id}/timeline.svg",
    summary="See what came of a decision as a picture",
    response_class=Response,
    responses=documented(404)
    | {200: {"content": {"image/svg+xml": {}}, "description": "A picture."}},
)
async def get_timeline_picture(
    decision_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("decisions.timeline", *TABLES)],
) -> Response:
    """The same tree, drawn."""
    return Response(
        timeline_picture.picture(await _timeline(read, decision_id)), media_type="image/svg+xml"
    )


@router.post("/{decision_id}/replay", summary="Decide again and compare", responses=documented(404))
async def replay_decision(
    decision_id: Annotated[Id, Path()],
    deps: Parts,
    caller: Annotated[Identity, allowed("decisions.replay")],
) -> Replayed:
    """Recompute the decision from the log and the stored model; are the bytes the same? One is
    replayed at a time."""
    try:
        [found] = await deps.replay(caller.organisation_id, decision_id)
    except NotAnswered:
        raise NotFound("answered decision", decision_id) from None
    return found


async def _timeline(read: ReadModels, decision_id: str) -> Timeline:
    found = await timeline(read, decision_id)
    if found is None:
        raise NotFound("decision", decision_id)
    return found


async def _evidence(
    deps: Dependencies, read: ReadModels, decision_id: str, wait_s: float
) -> DecisionDetail:
    """A decision as the log has it, as soon as it has an answer or the time is over."""
    deadline = monotonic() + wait_s
    while True:
        mark = deps.news.mark()
        found = await decisions.evidence(read, decision_id)
        if found is None:
            raise NotFound("decision", decision_id)
        left = deadline - monotonic()
        if left <= 0 or found.made is not None or found.failed is not None:
            return found
        with suppress(TimeoutError):
            await asyncio.wait_for(deps.news.wait(mark), left)


async def known(read: ReadModels, decision_id: str) -> DecisionDetail:
    """A decision.

    Raises:
        NotFound: the organisation has none of that id.
    """
    found = await decisions.get_decision(read, decision_id)
    if found is None:
        raise NotFound("decision", decision_id)
    return found


async def explanation_of(
    read: ReadModels, decision_id: str, candidate: int | None
) -> tuple[Explanation, DecisionDetail]:
    """A decision's explanation, for all of its candidates or one, and its events, as its stream has
    them.

    Raises:
        NotFound: there is none of that id, it has no explanation, or no such candidate.
    """
    found = await decisions.evidence(read, decision_id)
    if found is None:
        raise NotFound("decision", decision_id)
    return await _explained(read, found, candidate), found


async def _explained(read: ReadModels, found: DecisionDetail, candidate: int | None) -> Explanation:
    if found.failed is not None:
        code, detail = found.failed["code"], found.failed["detail"]
        why = f"is none: it failed, {detail} [{code}]"
        raise NotFound("explanation of decision", found.decision_id, why, code=code, detail=detail)
    if found.made is None or found.explained is None:
        why = "is not there: it is not made yet"
        raise NotFound("explanation of decision", found.decision_id, why)
    model = await models.get_model(read, found.made["model_hash"])
    names = [] if model is None else model.features
    kind = KINDS.get(found.made["kind"])
    try:
        return explain(found.made, found.explained, names, kind, candidate)
    except NoSuchCandidate:
        raise NotFound(f"candidate of decision {found.decision_id}", str(candidate)) from None
