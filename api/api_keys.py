"""The API keys of services, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Body, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import Example
from pydantic import BaseModel, ConfigDict, Field

from api.authorisation import api_key_of, digest_of
from api.commands import Accepted, IdempotencyKey, Post, accepted, mount
from api.conditional import IfMatch
from api.dependencies import Caller, Cursor, Limit, Parts, reading, tagged
from api.errors import documented
from api.listing import sortable
from api.organisations import context_with_secret
from api.routers import Router
from api.times import Timestamp
from commands import HANDLERS
from domain.access import Roles
from domain.api_keys import IssueApiKey, Permission, RevokeApiKey
from domain.values import Text
from readmodels import api_keys
from readmodels.access import QUERIES
from readmodels.api_keys import ApiKeyView
from readmodels.database import ReadModels
from readmodels.page import Page

router = Router("/organisation/api-keys", tags=["organisations"])

Actor = Annotated[str, Field(min_length=1, max_length=240, pattern=r"^[^\x00]+$")]
_ISSUE: dict[str, Example] = {
    "example": {
        "summary": "A key that may do two things",
        "value": {
            "name": "warehouse scanner",
            "roles": ["service"],
            "scopes": ["PickStock", "stock.list"],
        },
    }
}

POSTS = (
    Post(
        "/{key_id}/revoke",
        RevokeApiKey,
        "Revoke an API key",
        now=("revoked_at",),
    ),
)
mount(router, POSTS)


class Issuing(BaseModel):
    """What a key is for. ``scopes``: the commands and queries that it is good for, of those that
    its roles allow; all of them where none is named (`GET /organisation/permissions`)."""

    model_config = ConfigDict(extra="forbid")

    name: Text
    roles: Roles
    scopes: tuple[Permission, ...] = Field(default=(), max_length=200)
    expires_at: Timestamp | None = None


class Issued(Accepted):
    """A key. It is shown in this answer and to a retry of it, and stored nowhere."""

    key: str = Field(description="Send it as `Authorization: Bearer ...`.")


@router.post(
    "",
    summary="Issue an API key",
    status_code=201,
    responses=documented(400, 409, 413),
)
async def issue_api_key(
    request: Request,
    response: Response,
    deps: Parts,
    caller: Caller,
    body: Annotated[Issuing, Body(openapi_examples=_ISSUE)],
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> Issued:
    """Give a service a key of its own. It goes where a token goes."""
    _check_scopes(body.scopes)
    context = context_with_secret(request, caller, IssueApiKey, body, idempotency_key, if_match)
    secret = deps.authorisation.secret_of(context.command_id)
    command = IssueApiKey(
        key_id=context.command_id.hex,
        digest=digest_of(secret),
        issued_at=datetime.now(UTC),
        **body.model_dump(),
    )
    receipt = await deps.bus.execute(command, context)
    deps.authorisation.memberships.changed(caller.organisation_id, receipt.stream)
    tagged(response, receipt.version)
    key = api_key_of(caller.organisation_id, command.key_id, secret)
    return Issued(**accepted(receipt).model_dump(), key=key)


@router.get("", summary="List API keys", responses=documented())
async def list_api_keys(
    read: Annotated[ReadModels, reading("api_keys.list", "api_key_list")],
    revoked: Annotated[bool, Query(description="Revoked ones too.")] = False,
    issued_by: Annotated[Actor | None, Query(description="Those that somebody issued.")] = None,
    sort: Annotated[str | None, sortable(api_keys.KEY_SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ApiKeyView]:
    """The keys of services, without their secrets."""
    return await api_keys.list_api_keys(
        read, revoked=revoked, issued_by=issued_by, sort=sort, cursor=cursor, limit=limit
    )


def _check_scopes(scopes: tuple[str, ...]) -> None:
    known = QUERIES.keys() | {command.__name__ for command in HANDLERS}
    for place, scope in enumerate(scopes):
        if scope not in known:
            raise RequestValidationError(
                [
                    {
                        "type": "value_error",
                        "loc": ("body", "scopes", place),
                        "msg": "there is no such command or query: GET /organisation/permissions",
                        "input": scope,
                    }
                ]
            )
