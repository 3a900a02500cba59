"""Organisations over HTTP: members and their roles, invitations, and what a role may do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from hmac import compare_digest
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Body, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import Example
from pydantic import BaseModel, ConfigDict, Field

from api.authorisation import digest_of, invitation_code, read_invitation_code
from api.commands import Accepted, IdempotencyKey, Post, accepted, digest_of_words, mount, only_one
from api.conditional import IfMatch, expected_in
from api.dependencies import (
    Caller,
    Cursor,
    Dependencies,
    Limit,
    NotFound,
    Parts,
    Who,
    allowed,
    either,
    reading,
    tagged,
)
from api.errors import documented
from api.identity.account import Account
from api.listing import sortable
from api.routers import Router
from api.times import Timestamp
from api.tokens import Identity
from commands import HANDLERS, Context, command_id
from domain.access import Role, Roles
from domain.errors import Refused
from domain.organisations import (
    AcceptInvitation,
    AddMember,
    ChangeMemberRoles,
    FoundOrganisation,
    InviteMember,
    LeaveOrganisation,
    Member,
    RemoveMember,
    RenameOrganisation,
    RevokeInvitation,
)
from domain.values import Text
from readmodels import organisations
from readmodels.access import QUERIES
from readmodels.database import ReadModels
from readmodels.organisations import (
    Belonging,
    InvitationView,
    MemberDetail,
    MemberView,
    OrganisationView,
)
from readmodels.page import Page

router = Router(tags=["organisations"])

_DAYS = timedelta(days=1)
#: Organisations of one account, beyond which it founds no other.
_MOST = 50
_OF_MEMBER = "/organisation/members/{member}"
_INVITE: dict[str, Example] = {
    "example": {"summary": "Invite an analyst", "value": {"roles": ["analyst"]}}
}
_ACCEPT: dict[str, Example] = {
    "example": {
        "summary": "Accept an invitation",
        "value": {"code": invitation_code(UUID(int=7), "I-1", "0" * 64)},
    }
}
_FOUND: dict[str, Example] = {
    "example": {"summary": "Found an organisation", "value": {"name": "Example Logistics"}}
}

POSTS = (
    Post(
        "/organisation/rename",
        RenameOrganisation,
        "Rename the organisation",
        now=("renamed_at",),
        errors=(409,),
        example={"name": "Example Logistics"},
    ),
    Post(
        "/organisation/members",
        AddMember,
        "Add a member",
        now=("added_at",),
        status=201,
        errors=(409,),
        example={"member": "nhost:0f5b7a52-0c35-4c1e-9d57-0d4a5a3c8f11", "roles": ["analyst"]},
    ),
    Post(
        f"{_OF_MEMBER}/roles",
        ChangeMemberRoles,
        "Replace a member's roles",
        now=("changed_at",),
        example={"roles": ["analyst", "auditor"]},
    ),
    Post(f"{_OF_MEMBER}/remove", RemoveMember, "Remove a member", now=("removed_at",)),
    Post("/organisation/leave", LeaveOrganisation, "Leave the organisation", now=("left_at",)),
    Post(
        "/organisation/invitations/{invitation_id}/revoke",
        RevokeInvitation,
        "Take an invitation back",
        now=("revoked_at",),
    ),
)
mount(router, POSTS)


class Founding(BaseModel):
    """What a new organisation is called."""

    model_config = ConfigDict(extra="forbid")

    name: Text


class Founded(Accepted):
    """A new organisation; name it in `X-Organisation-Id`."""

    organisation_id: UUID


class Inviting(BaseModel):
    """What whoever is invited will be. ``expires_at``: in seven days, where left out."""

    model_config = ConfigDict(extra="forbid")

    roles: Roles
    expires_at: Timestamp | None = None


class Invited(Accepted):
    """An invitation, and the code that makes whoever accepts it a member. It is shown in this
    answer and to a retry of it, and stored nowhere."""

    code: str
    expires_at: datetime


class Accepting(BaseModel):
    """The code of an invitation."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    code: str = Field(min_length=1, max_length=300)


class PermissionView(BaseModel):
    """A command or a query, the roles that it is allowed to, and whether the caller may send it."""

    name: str
    kind: str = Field(pattern=r"^(command|query)$", examples=["query"])
    roles: tuple[Role, ...]
    allowed: bool


async def organisations_of(deps: Dependencies, account: Account) -> list[Belonging]:
    """The organisations of an account."""
    return list(await deps.authorisation.belongings(account))


@router.post(
    "/organisations",
    summary="Found an organisation",
    status_code=201,
    responses=documented(400, 409, 413),
)
async def found_organisation(
    request: Request,
    response: Response,
    deps: Parts,
    who: Who,
    body: Annotated[Founding, Body(openapi_examples=_FOUND)],
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> Founded:
    """Begin an organisation; whoever founds it is its first admin. Who belongs to fifty founds no
    other."""
    _must_have_account(who)
    only_one(request, "Idempotency-Key")
    key = json.dumps([who.id, idempotency_key or str(uuid4())])
    own = command_id(UUID(int=0), f"organisation:{key}")
    context = Context(
        organisation_id=own,
        actor=who.id,
        roles=frozenset({Role.ADMIN}),
        command_id=command_id(own, "found"),
        correlation_id=request.state.correlation_id,
        digest=digest_of_words(FoundOrganisation, {}, body.model_dump(mode="json")),
        expected=expected_in(request, if_match),
    )
    command = FoundOrganisation(name=body.name, founded_at=datetime.now(UTC))
    # What an organisation may have of us, an account must not have without end. A retry gets its
    # first answer all the same.
    many = len(await organisations_of(deps, who)) >= _MOST
    if many and not await deps.log.answers([context.command_id]):
        raise Refused("organisation.too_many", most=_MOST)
    receipt = await deps.bus.execute(command, context)
    deps.authorisation.joined(who, own)
    tagged(response, receipt.version)
    return Founded(**accepted(receipt).model_dump(), organisation_id=own)


@router.get("/organisations", summary="List my organisations", responses=documented())
async def list_organisations(deps: Parts, who: Who) -> list[Belonging]:
    """The organisations that the account belongs to, and as what; the oldest membership first."""
    return await organisations_of(deps, who)


@router.get("/organisation", summary="Get the organisation", responses=documented())
async def get_organisation(
    response: Response,
    read: Annotated[ReadModels, reading("organisation.get", "organisation_list")],
) -> OrganisationView:
    """What the organisation is called and who founded it; the ETag is the version of its stream,
    which members and invitations are in."""
    found = await organisations.get_organisation(read)
    tagged(response, found.version)
    return found


@router.get("/organisation/permissions", summary="List permissions", responses=documented())
async def list_permissions(
    caller: Annotated[Identity, allowed("organisation.permissions")],
) -> list[PermissionView]:
    """Every command and query with the roles that it is allowed to, and whether it is allowed to
    the caller: what a frontend shows and what not."""

    def told(name: str, kind: str, roles: frozenset[Role]) -> PermissionView:
        scoped = caller.scopes is None or name in caller.scopes
        may = scoped and not roles.isdisjoint(caller.roles)
        return PermissionView(name=name, kind=kind, roles=tuple(sorted(roles)), allowed=may)

    commands = {command.__name__: handler.roles for command, handler in HANDLERS.items()}
    return [
        *(told(name, "command", roles) for name, roles in sorted(commands.items())),
        *(told(name, "query", roles) for name, roles in sorted(QUERIES.items())),
    ]


@router.get("/organisation/members", summary="List members", responses=documented())
async def list_members(
    read: Annotated[ReadModels, reading("members.list", "member_list")],
    role: Annotated[str | None, Query(pattern=either([one.value for one in Role]))] = None,
    former: Annotated[bool, Query(description="Former members too.")] = False,
    sort: Annotated[str | None, sortable(organisations.MEMBER_SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[MemberView]:
    """The members by account; as of any moment with `as_of`."""
    return await organisations.list_members(
        read, role=role, former=former, sort=sort, cursor=cursor, limit=limit
    )


@router.get(_OF_MEMBER, summary="Get a member", responses=documented(404))
async def get_member(
    member: Annotated[Member, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("members.get", "member_list", "organisation_list")],
) -> MemberDetail:
    """A member and its roles; with `as_of`, those it had then. The ETag is the version of the
    organisation's stream."""
    found = await organisations.get_member(read, member)
    if found is None:
        raise NotFound("member", member)
    tagged(response, found.version)
    return found


@router.post(
    "/organisation/invitations",
    summary="Invite somebody",
    status_code=201,
    responses=documented(400, 409, 413),
)
async def invite_member(
    request: Request,
    response: Response,
    deps: Parts,
    caller: Caller,
    body: Annotated[Inviting, Body(openapi_examples=_INVITE)],
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> Invited:
    """Make an invitation. Send its code to whom it is for: who accepts it becomes a member."""
    now = datetime.now(UTC)
    context = context_with_secret(request, caller, InviteMember, body, idempotency_key, if_match)
    secret = deps.authorisation.secret_of(context.command_id)
    command = InviteMember(
        invitation_id=context.command_id.hex,
        roles=body.roles,
        digest=digest_of(secret),
        expires_at=body.expires_at or now + 7 * _DAYS,
        invited_at=now,
    )
    receipt = await deps.bus.execute(command, context)
    deps.authorisation.memberships.changed(caller.organisation_id, receipt.stream)
    organisation = await deps.authorisation.memberships.of(caller.organisation_id)
    made = organisation.invitations.get(command.invitation_id)
    tagged(response, receipt.version)
    return Invited(
        **accepted(receipt).model_dump() | {"id": command.invitation_id},
        code=invitation_code(caller.organisation_id, command.invitation_id, secret),
        expires_at=command.expires_at if made is None else made.expires_at,
    )


@router.get("/organisation/invitations", summary="List invitations", responses=documented())
async def list_invitations(
    read: Annotated[ReadModels, reading("invitations.list", "invitation_list")],
    closed: Annotated[bool, Query(description="Accepted and revoked ones too.")] = False,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[InvitationView]:
    """The invitations that nobody has accepted yet, those that have expired among them."""
    return await organisations.list_invitations(read, closed=closed, cursor=cursor, limit=limit)


@router.post(
    "/invitations/accept", summary="Accept an invitation", responses=documented(400, 404, 409, 413)
)
async def accept_invitation(
    request: Request,
    response: Response,
    deps: Parts,
    who: Who,
    body: Annotated[Accepting, Body(openapi_examples=_ACCEPT)],
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> Founded:
    """Become a member of the organisation that the code is of. Sent again it is answered as the
    first time, with an `Idempotency-Key` or without."""
    only_one(request, "Idempotency-Key")
    _must_have_account(who)
    code = read_invitation_code(body.code)
    if code is None:
        raise RequestValidationError(
            [
                {
                    "type": "value_error",
                    "loc": ("body", "code"),
                    "msg": "it is not the code of an invitation",
                    "input": None,
                }
            ]
        )
    own, invitation_id, secret = code
    organisation = await deps.authorisation.memberships.of(own)
    invitation = organisation.invitations.get(invitation_id)
    if invitation is not None and not compare_digest(invitation.digest, digest_of(secret)):
        # At once: what a guess costs us must not depend on how large the organisation is.
        raise Refused("invitation.unknown", invitation_id=invitation_id)
    context = Context(
        organisation_id=own,
        actor=who.id,
        # What the invitation gives; the rule asks for its code.
        roles=frozenset({Role.VIEWER}) if invitation is None else invitation.roles,
        command_id=command_id(own, f"accept:{invitation_id}:{who.id}"),
        correlation_id=request.state.correlation_id,
        digest=digest_of_words(AcceptInvitation, {}, {"code": digest_of(body.code)}),
        expected=expected_in(request, if_match),
    )
    command = AcceptInvitation(
        invitation_id=invitation_id, digest=digest_of(secret), accepted_at=datetime.now(UTC)
    )
    receipt = await deps.bus.execute(command, context)
    deps.authorisation.joined(who, own)
    tagged(response, receipt.version)
    return Founded(**accepted(receipt).model_dump(), organisation_id=own)


def context_with_secret(
    request: Request,
    caller: Identity,
    command: Any,
    body: BaseModel,
    idempotency_key: str | None,
    if_match: str | None,
) -> Context:
    """The context of a command whose answer holds a secret."""
    own = caller.organisation_id
    # The actor's too: the answer to a retry holds a secret, which is nobody else's.
    only_one(request, "Idempotency-Key")
    key = json.dumps([caller.actor, idempotency_key or str(uuid4())])
    return Context(
        organisation_id=own,
        actor=caller.actor,
        roles=caller.roles,
        scopes=caller.scopes,
        command_id=command_id(own, f"secret:{key}"),
        correlation_id=request.state.correlation_id,
        digest=digest_of_words(command, {}, body.model_dump(mode="json")),
        expected=expected_in(request, if_match),
    )


def _must_have_account(who: Account) -> None:
    if who.roles is not None:
        raise Refused("organisation.needs_an_account", actor=who.id)
