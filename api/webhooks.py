"""Webhooks over HTTP: registered, changed, paused, given another secret; what was sent and what
was given up."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID, uuid4

import structlog
from fastapi import Body, Path, Query, Request, Response
from pydantic import BaseModel, Field

from api.commands import (
    Accepted,
    IdempotencyKey,
    Post,
    accepted,
    asked,
    body_of,
    checked,
    mount,
    only_one,
)
from api.conditional import IfMatch, expected_in
from api.dependencies import (
    Caller,
    Cursor,
    Dependencies,
    Limit,
    NotFound,
    Parts,
    allowed,
    either,
    reading,
    reading_now,
    tagged,
)
from api.errors import documented
from api.listing import sortable
from api.routers import Router
from api.tokens import Identity
from commands import Context, Forbidden, command_id
from domain.errors import Refused
from domain.values import Id
from domain.webhooks import (
    ChangeWebhook,
    PauseWebhook,
    RegisterWebhook,
    RemoveWebhook,
    ResumeWebhook,
    RotateWebhookSecret,
)
from eventstore import Receipt
from eventstore.ids import named_id
from eventstore.webhooks import queue
from eventstore.webhooks.addresses import AddressRefused
from eventstore.webhooks.signing import shown
from readmodels import webhooks
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.webhooks import (
    STATUSES,
    Backlog,
    Delivery,
    DeliveryAttempt,
    Letter,
    WebhookSummary,
)

router = Router("/webhooks", tags=["webhooks"])
_log = structlog.get_logger(__name__)

WebhookPath = Annotated[Id, Path(description="The webhook's id.")]
Position = Annotated[int, Path(ge=1, lt=2**63, description="The event's log position.")]


async def _may_be_called(deps: Dependencies, _: UUID, command: Any) -> None:
    """Refuse addresses that nothing is sent to; they are looked at again with every request."""
    try:
        await deps.webhooks.addresses.of(command.url)
    except AddressRefused as error:
        _log.info("a webhook's address is refused", url=command.url, why=str(error))
        raise Refused(f"webhook.{error.code}", **error.context) from error


_URL = {"url": "https://erp.example.org/hooks", "events": ["orders", "DecisionMade"]}

REGISTER = Post(
    "",
    RegisterWebhook,
    "Register a webhook",
    now=("registered_at",),
    status=201,
    check=_may_be_called,
    example={"webhook_id": "erp", **_URL, "description": "orders for the ERP"},
)
ROTATE = Post(
    "/{webhook_id}/secret",
    RotateWebhookSecret,
    "Give a webhook another secret",
    now=("rotated_at",),
    example={"grace_hours": 24},
)
#: Those whose answer is no more than a receipt; what shows a secret is taken by HTTP alone.
POSTS = (
    Post(
        "/{webhook_id}",
        ChangeWebhook,
        "Change a webhook as a whole",
        now=("changed_at",),
        check=_may_be_called,
        example=_URL,
    ),
    Post(
        "/{webhook_id}/pause",
        PauseWebhook,
        "Send nothing for now",
        now=("paused_at",),
        example={"reason": "the ERP is being moved"},
    ),
    Post("/{webhook_id}/resume", ResumeWebhook, "Send again", now=("resumed_at",)),
    Post("/{webhook_id}/remove", RemoveWebhook, "Remove a webhook", now=("removed_at",)),
)
mount(router, POSTS)


class AcceptedSecret(Accepted):
    """A command's answer, with the secret that signs from now on: keep it, it is shown here only.
    A retry of the command shows it again for an hour; then it is null."""

    secret: str | None = Field(examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"])


class Replayed(BaseModel):
    """How many dead letters were taken."""

    count: int


class Tested(BaseModel):
    """What came of a test request. ``status_code`` is null where there was no answer, ``error``
    where it was taken."""

    taken: bool
    status_code: int | None
    duration_ms: int
    error: str | None


_REGISTRATION: Any = body_of(REGISTER, ["secret_id"])
_ROTATION: Any = body_of(ROTATE, ["webhook_id", "secret_id"])


@router.post(
    "",
    status_code=201,
    summary=REGISTER.summary,
    operation_id="register_webhook",
    responses=documented(400, 404, 408, 409, 412, 413, 415, 429),
)
async def register_webhook(
    request: Request,
    response: Response,
    deps: Parts,
    caller: Caller,
    body: Annotated[_REGISTRATION, Body(openapi_examples={"example": {"value": REGISTER.example}})],
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> AcceptedSecret:
    """Tell an address what happens from now on: each event of the organisation that `events` names
    (areas such as `orders`, or events such as `OrderPlaced`; none: everything). The answer shows
    the secret that requests are signed with."""
    sent = body.model_dump(exclude_unset=True, mode="json")
    context = _context(request, caller, idempotency_key, if_match)
    return await _with_secret(deps, response, context, REGISTER, sent["webhook_id"], sent)


@router.post(
    "/{webhook_id}/secret",
    summary=ROTATE.summary,
    operation_id="rotate_webhook_secret",
    responses=documented(400, 404, 408, 409, 412, 413, 415, 429),
)
async def rotate_webhook_secret(
    request: Request,
    response: Response,
    webhook_id: WebhookPath,
    deps: Parts,
    caller: Caller,
    body: Annotated[_ROTATION, Body(openapi_examples={"example": {"value": ROTATE.example}})],
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> AcceptedSecret:
    """Sign by a new secret, which the answer shows. For `grace_hours` requests carry the signatures
    of both; 0 ends the former one at once."""
    sent = body.model_dump(exclude_unset=True, mode="json")
    context = _context(request, caller, idempotency_key, if_match)
    return await _with_secret(deps, response, context, ROTATE, webhook_id, sent)


def _context(
    request: Request, caller: Identity, idempotency_key: str | None, if_match: str | None
) -> Context:
    own = caller.organisation_id
    if idempotency_key is not None:
        only_one(request, "Idempotency-Key")
    # The actor's too: the answer to a retry holds a secret, which is nobody else's.
    key = json.dumps(["secret", caller.actor, idempotency_key])
    return Context(
        organisation_id=own,
        actor=caller.actor,
        roles=caller.roles,
        command_id=uuid4() if idempotency_key is None else command_id(own, key),
        correlation_id=request.state.correlation_id,
        scopes=caller.scopes,
        expected=expected_in(request, if_match),
    )


async def _with_secret(
    deps: Dependencies,
    response: Response,
    context: Context,
    post: Post,
    webhook_id: str,
    sent: dict[str, Any],
) -> AcceptedSecret:
    """Make a secret, then take the command that names it; the secret's id follows from the
    command's, so that a retry finds it."""
    own, secrets = context.organisation_id, deps.webhooks.secrets
    secret_id = named_id(context.command_id, "webhook secret")
    named = {"webhook_id": webhook_id, "secret_id": str(secret_id)}
    command, digest = asked(post, named, sent)
    context = replace(context, digest=digest)
    try:
        deps.bus.allows(command, context)
    except Forbidden as error:
        deps.bus.not_taken(command, context, error)
        raise
    await checked(post.check, deps, command, context)
    made = await secrets.make(own, webhook_id, secret_id)
    try:
        receipt: Receipt = await deps.bus.execute(command, context)
    except Refused:
        if made:
            await secrets.drop(own, webhook_id, secret_id)
        raise
    found = await secrets.open(own, webhook_id, secret_id)
    tagged(response, receipt.version)
    return AcceptedSecret(
        **accepted(receipt).model_dump(),
        secret=shown(found.secret) if found is not None and found.fresh else None,
    )


@router.get("", summary="List webhooks", responses=documented())
async def list_webhooks(
    read: Annotated[ReadModels, reading("webhooks.list", "webhook_list")],
    sort: Annotated[str | None, sortable(webhooks.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[WebhookSummary]:
    """The webhooks that there are, by id."""
    return await webhooks.list_webhooks(read, sort=sort, cursor=cursor, limit=limit)


@router.get("/{webhook_id}", summary="Get a webhook", responses=documented(404))
async def get_webhook(
    webhook_id: WebhookPath,
    response: Response,
    read: Annotated[ReadModels, reading("webhooks.get", "webhook_list")],
) -> WebhookSummary:
    """A webhook as it stands; nobody is shown its secret again."""
    found = await webhooks.get_webhook(read, webhook_id)
    if found is None:
        raise NotFound("webhook", webhook_id)
    tagged(response, found.version)
    return found


@router.get("/{webhook_id}/backlog", summary="See how far a webhook is", responses=documented(404))
async def get_backlog(
    webhook_id: WebhookPath,
    read: Annotated[ReadModels, reading_now("webhooks.deliveries", "webhook_list")],
) -> Backlog:
    """What waits for a webhook, and since when it fails, if it does."""
    found = await webhooks.backlog(read, webhook_id)
    if found is None:
        raise NotFound("webhook", webhook_id)
    return found


@router.get("/{webhook_id}/deliveries", summary="List deliveries", responses=documented(404))
async def list_deliveries(
    webhook_id: WebhookPath,
    read: Annotated[ReadModels, reading_now("webhooks.deliveries", "webhook_list")],
    status: Annotated[str | None, Query(pattern=either(STATUSES))] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Delivery]:
    """What is to be sent to a webhook and what was in the last 30 days, the newest first."""
    await _known(read, webhook_id)
    return await webhooks.list_deliveries(
        read, webhook_id, status=status, cursor=cursor, limit=limit
    )


@router.get(
    "/{webhook_id}/deliveries/{position}/attempts",
    summary="List a delivery's requests",
    responses=documented(404),
)
async def list_attempts(
    webhook_id: WebhookPath,
    position: Position,
    read: Annotated[ReadModels, reading_now("webhooks.deliveries", "webhook_list")],
) -> list[DeliveryAttempt]:
    """The latest 100 requests of a delivery, the newest first."""
    await _known(read, webhook_id)
    return await webhooks.attempts(read, webhook_id, position)


@router.get("/{webhook_id}/dead-letters", summary="List dead letters", responses=documented(404))
async def list_webhook_dead_letters(
    webhook_id: WebhookPath,
    read: Annotated[ReadModels, reading_now("webhooks.deliveries", "webhook_list")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Letter]:
    """What was given up, in log order; later events of their streams wait for them."""
    await _known(read, webhook_id)
    return await webhooks.list_dead_letters(read, webhook_id, cursor=cursor, limit=limit)


@router.post(
    "/{webhook_id}/dead-letters/replay",
    summary="Send all dead letters again",
    responses=documented(404),
)
async def replay_dead_letters(
    webhook_id: WebhookPath,
    deps: Parts,
    caller: Annotated[Identity, allowed("webhooks.replay")],
    read: Annotated[ReadModels, reading_now("webhooks.replay", "webhook_list")],
) -> Replayed:
    """Each begins its schedule anew; what waits behind it goes on when it is taken."""
    await _known(read, webhook_id)
    return await _again(deps, caller, webhook_id, None)


@router.post(
    "/{webhook_id}/dead-letters/{position}/replay",
    summary="Send a dead letter again",
    responses=documented(404),
)
async def replay_dead_letter(
    webhook_id: WebhookPath,
    position: Position,
    deps: Parts,
    caller: Annotated[Identity, allowed("webhooks.replay")],
) -> Replayed:
    """It begins its schedule anew; what waits behind it goes on when it is taken."""
    return await _again(deps, caller, webhook_id, position)


@router.post(
    "/{webhook_id}/dead-letters/{position}/discard",
    summary="Give a dead letter up for good",
    responses=documented(404),
)
async def discard_dead_letter(
    webhook_id: WebhookPath,
    position: Position,
    deps: Parts,
    caller: Annotated[Identity, allowed("webhooks.replay")],
) -> Replayed:
    """It is never sent; later events of its stream go on."""
    key = (caller.organisation_id, webhook_id)
    async with deps.log.connection() as connection:
        count = await queue.discard(connection, key, position, caller.actor)
    if not count:
        raise NotFound("dead letter", str(position))
    return Replayed(count=count)


@router.post("/{webhook_id}/test", summary="Send a test", responses=documented(404))
async def test_webhook(
    webhook_id: WebhookPath,
    deps: Parts,
    caller: Annotated[Identity, allowed("webhooks.test")],
) -> Tested:
    """Send a signed request of type `webhook.test` now, paused or not, and say what came of it. It
    is no event, and is not tried again."""
    found = await deps.webhooks.state(deps.log, caller.organisation_id, webhook_id)
    if found.url is None or found.removed:
        raise NotFound("webhook", webhook_id)
    outcome = await deps.webhooks.test(caller.organisation_id, webhook_id, found)
    return Tested(
        taken=outcome.taken,
        status_code=outcome.status_code,
        duration_ms=outcome.duration_ms,
        error=outcome.error,
    )


async def _known(read: ReadModels, webhook_id: str) -> None:
    if await webhooks.get_webhook(read, webhook_id) is None:
        raise NotFound("webhook", webhook_id)


async def _again(
    deps: Dependencies, caller: Identity, webhook_id: str, position: int | None
) -> Replayed:
    async with deps.log.connection() as connection:
        count = await queue.replay(
            connection, (caller.organisation_id, webhook_id), position, caller.actor
        )
    if position is not None and not count:
        raise NotFound("dead letter", str(position))
    return Replayed(count=count)
