"""Policies over HTTP: when people take over, when to raise an alert, and the stop switch."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading, tagged
from api.errors import documented
from api.routers import Router
from domain.policies import ResumeKind, SetPolicy, StopKind
from domain.values import Id
from ml.catalogue import KINDS
from readmodels import policies
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.policies import PolicySummary

router = Router("/policies", tags=["policies"])

POSTS = (
    Post(
        "/{kind}",
        SetPolicy,
        "Set the policy of a kind as a whole",
        now=("set_at",),
        example={
            "minimum_confidence": 0.6,
            "four_eyes_above_minor": 500_000,
            "max_psi": 0.25,
            "max_override_rate": 0.3,
        },
    ),
    Post(
        "/{kind}/stop",
        StopKind,
        "Stop all decisions of a kind",
        now=("stopped_at",),
        example={"reason": "the warehouses are flooded"},
    ),
    Post(
        "/{kind}/resume",
        ResumeKind,
        "Let a stopped kind decide again",
        now=("resumed_at",),
    ),
)
mount(router, POSTS)


@router.get("", summary="List policies", responses=documented())
async def list_policies(
    read: Annotated[ReadModels, reading("policies.list", "policy_list")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[PolicySummary]:
    """The kinds that have a policy of their own or were ever stopped; the others have the usual
    one."""
    return await policies.list_policies(read, cursor=cursor, limit=limit)


@router.get("/{kind}", summary="Get the policy of a kind", responses=documented(404))
async def get_policy(
    kind: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("policies.get", "policy_list")],
) -> PolicySummary:
    """The policy that holds; `set_by` is null where it is the usual one."""
    if kind not in KINDS:
        raise NotFound("kind", kind)
    found = await policies.get_policy(read, kind)
    tagged(response, found.version)
    return found
