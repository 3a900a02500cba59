"""The audit trail over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query

from api.dependencies import Cursor, Limit, Parts, allowed, either, reading
from api.errors import documented
from api.routers import Router
from api.times import Timestamp
from api.tokens import Identity
from domain.catalogue import AREAS
from eventstore.witnesses.witnessed import WitnessState, witness_states
from readmodels import audit
from readmodels.audit import AuditLine, CommandLine, KeptRecords, PersonalAccess, Result
from readmodels.database import ReadModels
from readmodels.page import Page

router = Router(tags=["audit"])

_Name = Annotated[str | None, Query(min_length=1, max_length=300, pattern="^[^\\x00]*$")]
_From = Annotated[Timestamp | None, Query(alias="from", description="From this moment on.")]
_To = Annotated[Timestamp | None, Query(alias="to", description="Before this moment.")]


@router.get("/audit", summary="Read the audit trail", responses=documented())
async def audit_trail(
    read: Annotated[ReadModels, reading("audit.trail", "audit_trail")],
    area: Annotated[str | None, Query(pattern=either(list(AREAS)))] = None,
    stream_id: Annotated[UUID | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[AuditLine]:
    """Every event as a readable line, in log order. For admins and auditors."""
    return await audit.audit_trail(read, area=area, stream_id=stream_id, cursor=cursor, limit=limit)


@router.get("/audit/commands", summary="Read who did what", responses=documented())
async def audit_commands(
    deps: Parts,
    caller: Annotated[Identity, allowed("audit.commands")],
    actor: _Name = None,
    command: _Name = None,
    result: Annotated[Result | None, Query()] = None,
    stream: _Name = None,
    since: _From = None,
    until: _To = None,
    order: Annotated[
        Literal["oldest", "newest"], Query(description="Which come first.")
    ] = "oldest",
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[CommandLine]:
    """Every command with actor, roles at the time and what became of it, also those that were
    denied or refused, and queries that were denied. By actor, command or stream it looks at the 30
    days before `to` (or now) where `from` is not said. For admins and auditors."""
    return await audit.commands(
        ReadModels(deps.log, caller.organisation_id),
        actor=actor,
        command=command,
        result=result,
        stream=stream,
        since=since,
        until=until,
        newest_first=order == "newest",
        cursor=cursor,
        limit=limit,
    )


@router.get(
    "/audit/personal-access", summary="Read who looked at personal data", responses=documented()
)
async def audit_personal_access(
    deps: Parts,
    caller: Annotated[Identity, allowed("audit.personal_access")],
    person: _Name = None,
    actor: _Name = None,
    since: _From = None,
    until: _To = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[PersonalAccess]:
    """Who was given which fields of whose personal data and why, the latest first. People are
    pseudonyms here. For admins and auditors."""
    return await audit.personal_access(
        ReadModels(deps.log, caller.organisation_id),
        person=person,
        actor=actor,
        since=since,
        until=until,
        cursor=cursor,
        limit=limit,
    )


@router.get("/audit/retention", summary="Read how long records are kept", responses=documented())
async def audit_retention(
    deps: Parts, caller: Annotated[Identity, allowed("audit.retention")]
) -> list[KeptRecords]:
    """How long accepted commands, attempts that were not taken and looks at personal data are kept,
    and how many the organisation has. Events are kept for ever. For admins and auditors."""
    return await audit.kept_records(ReadModels(deps.log, caller.organisation_id), deps.retention)


@router.get("/audit/witnesses", summary="Read who has which signed head", responses=documented())
async def audit_witnesses(
    deps: Parts, _: Annotated[Identity, allowed("audit.witnesses")]
) -> list[WitnessState]:
    """Each witness and the newest signed head that it took; who is away, and who says that the log
    contradicts what it has seen. For admins and auditors."""
    async with deps.log.connection() as connection:
        return await witness_states(connection, deps.witnesses)
