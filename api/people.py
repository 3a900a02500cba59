"""People over HTTP: found, shown in plain words or masks, and erased."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Body, Path, Query, Request, Response
from fastapi.openapi.models import Example
from pydantic import BaseModel, ConfigDict, Field

from api.commands import Accepted, IdempotencyKey, only_one
from api.conditional import IfMatch, expected_in
from api.dependencies import Caller, NotFound, Parts, allowed, reading, tagged
from api.errors import documented
from api.routers import Router
from api.tokens import Identity
from commands import Context
from commands.erasing import erase
from domain.people import Reason
from readmodels.database import ReadModels
from readmodels.people import PersonView, Reader

router = Router("/people", tags=["people"])

Why = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00]+$",
        description="What the data is needed for; it is kept in the access log.",
    ),
]
PersonPath = Annotated[UUID, Path(description="The pseudonym, as orders have it.")]


_EXAMPLES: dict[str, Example] = {
    "example": {"summary": "Erase a person", "value": {"reason": "requested"}}
}
_SEARCHES: dict[str, Example] = {
    "example": {
        "summary": "Find by email",
        "value": {"search": "ada@example.org", "why": "her letter of May 3"},
    }
}


class Erasure(BaseModel):
    """Why a person is erased."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason = Reason.REQUESTED


class Search(BaseModel):
    """Whom to find. In the body: addresses are kept in logs and histories."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    search: str = Field(
        min_length=1, max_length=254, description="A person id, name, email or phone."
    )
    why: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00]+$",
        description="What the data is needed for; it is kept in the access log.",
    )


class FoundPeople(BaseModel):
    """The persons that were found. ``more``: there are more than these; search by something that
    fewer have."""

    items: list[PersonView]
    more: bool


@router.post("/search", summary="Find people", responses=documented(400, 413))
async def find_people(
    request: Request,
    deps: Parts,
    caller: Annotated[Identity, allowed("people.find")],
    read: Annotated[ReadModels, reading("people.find", "people")],
    body: Annotated[Search, Body(openapi_examples=_SEARCHES)],
) -> FoundPeople:
    """The people who have exactly this id, name, email or phone number, letter case and blanks
    aside. Each look is written to the access log. Who was erased is not found."""
    reader = _reader(request, caller, body.why or "search")
    found = await deps.people.find(read, reader, body.search)
    return FoundPeople(items=found.items, more=found.more)


@router.get("/{person}", summary="Get a person", responses=documented(404))
async def get_person(
    request: Request,
    person: PersonPath,
    deps: Parts,
    caller: Annotated[Identity, allowed("people.get")],
    read: Annotated[ReadModels, reading("people.get", "people")],
    why: Why = None,
) -> PersonView:
    """A person: in plain words for admins and services (the look is written to the access log),
    in masks for others. Of an erased person there is nothing but the time."""
    found = await deps.people.show(read, _reader(request, caller, why or "look"), person)
    if found is None:
        raise NotFound("person", str(person))
    return found


@router.post("/{person}/erase", summary="Erase a person", responses=documented(400, 404, 409, 413))
async def erase_person(
    request: Request,
    response: Response,
    person: PersonPath,
    body: Annotated[Erasure, Body(openapi_examples=_EXAMPLES)],
    deps: Parts,
    caller: Caller,
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> Accepted:
    """Destroy a person's key, for good: on the answer the data cannot be read any more, here or in
    any archive or backup made from now on. For admins. Done again, it is answered as the first
    time, with an `Idempotency-Key` or without."""
    only_one(request, "Idempotency-Key")
    context = Context(
        organisation_id=caller.organisation_id,
        actor=caller.actor,
        roles=caller.roles,
        scopes=caller.scopes,
        correlation_id=request.state.correlation_id,
        expected=expected_in(request, if_match),
    )
    receipt = await erase(deps.bus, deps.people.keys, person, body.reason, context)
    tagged(response, receipt.version)
    return Accepted(
        stream=receipt.stream,
        id=str(person),
        version=receipt.version,
        position=receipt.position,
        repeated=receipt.repeated,
    )


def _reader(request: Request, caller: Identity, why: str) -> Reader:
    return Reader(
        caller.organisation_id, caller.actor, caller.roles, why, request.state.correlation_id
    )
