"""The log's proof over HTTP: signed heads, keys, and proofs that are checked offline."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Query, Response
from pydantic import BaseModel, Field

from api.dependencies import Cursor, Limit, Parts, allowed
from api.errors import documented
from api.routers import Router
from api.times import Timestamp
from api.tokens import Identity
from eventstore.seals.proofs import MOST_EVENTS, Proofs
from readmodels.page import BadCursor, Page, decode, page

router = Router("/audit", tags=["proof"])
_Auditor = Annotated[Identity, allowed("audit.proofs")]
_FIRST = 2**62


class SignedHead(BaseModel):
    """A signed head of the log: how many events it covers, and the note that was signed."""

    number: int
    size: int = Field(description="Events that it covers.")
    note: str = Field(description="A checkpoint as C2SP has it, signed with Ed25519.")
    signed_at: datetime


class SigningKey(BaseModel):
    """A public key of the log (Ed25519, hex), and by what the one before it vouches for it."""

    number: int
    public_key: str
    from_size: int = Field(description="Events under the smallest head that it signs.")
    endorsement: str | None
    since: datetime


class Proof(BaseModel):
    """A proof as `chainlytics audit check-proof` and chainlytics/verifier.py read it."""

    model_config = {"extra": "allow"}

    proof: str = Field(examples=["inclusion", "consistency", "decisions"])
    checkpoint: str


@router.get(
    "/checkpoint",
    summary="Get the newest signed head",
    responses={
        **documented(404, 409),
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
    },
    response_class=Response,
)
async def get_checkpoint(deps: Parts, _: _Auditor) -> Response:
    """The newest signed head as plain text: keep it, to hold the log against it later."""
    newest = await Proofs(deps.log).newest()
    return Response(newest.note, media_type="text/plain; charset=utf-8")


@router.get("/heads", summary="List signed heads", responses=documented())
async def list_heads(
    deps: Parts, _: _Auditor, cursor: Cursor = None, limit: Limit = 50
) -> Page[SignedHead]:
    """Signed heads, newest first."""
    (before,) = decode(cursor, int) if cursor else (_FIRST,)
    if not 0 <= before <= _FIRST:
        raise BadCursor(f"cursor {cursor!r} was not given by this query")
    found = await Proofs(deps.log).heads(before, limit + 1)
    rows = [
        SignedHead(number=one.number, size=one.size, note=one.note, signed_at=one.signed_at)
        for one in found
    ]
    return page(rows, limit, lambda row: (row.number,))


@router.get("/keys", summary="List the log's public keys", responses=documented())
async def list_keys(deps: Parts, _: _Auditor) -> list[SigningKey]:
    """The public keys that sign heads, oldest first. The log's name follows from the first one, and
    each vouches for the next."""
    return [
        SigningKey(
            number=one.number,
            public_key=one.public_key.hex(),
            from_size=one.from_size,
            endorsement=None if one.endorsement is None else one.endorsement.hex(),
            since=one.since,
        )
        for one in await Proofs(deps.log).keys()
    ]


@router.get("/proofs/inclusion", summary="Prove events", responses=documented(404, 409))
async def prove_events(
    deps: Parts,
    caller: _Auditor,
    position: Annotated[
        list[Annotated[int, Field(ge=1, lt=2**63)]],
        Query(min_length=1, max_length=MOST_EVENTS, description="Log positions of events."),
    ],
    size: Annotated[
        int | None, Query(ge=1, lt=2**63, description="Under the head over so many events.")
    ] = None,
) -> Proof:
    """That events of your organisation are in the log, with the events as they are hashed."""
    made = Proofs(deps.log).inclusion(position, size, organisation_id=caller.organisation_id)
    return Proof.model_validate(await made)


@router.get(
    "/proofs/consistency", summary="Prove that the log only grew", responses=documented(404, 409)
)
async def prove_growth(
    deps: Parts,
    _: _Auditor,
    old: Annotated[int, Query(ge=1, lt=2**63, description="Events under the earlier head.")],
    new: Annotated[
        int | None, Query(ge=1, lt=2**63, description="Under the later head; the newest.")
    ] = None,
) -> Proof:
    """That the log under one signed head is the beginning of the log under another."""
    return Proof.model_validate(await Proofs(deps.log).consistency(old, new))


@router.get(
    "/proofs/decisions", summary="Prove a list of decisions", responses=documented(404, 409)
)
async def prove_decisions(
    deps: Parts,
    caller: _Auditor,
    start: Annotated[Timestamp, Query(alias="from", examples=["2026-03-01T00:00:00Z"])],
    end: Annotated[Timestamp, Query(alias="to", examples=["2026-04-01T00:00:00Z"])],
) -> Proof:
    """That these are all decisions that your organisation asked for in a period."""
    made = Proofs(deps.log).decisions(caller.organisation_id, start, end)
    return Proof.model_validate(await made)
