"""Evidence bundles over HTTP: one decision's whole story, to be checked offline."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import HTTPException, Path, Query, Response

from api.dependencies import Caller, NotFound, Parts, reading
from api.errors import documented
from api.routers import Router
from domain.values import Id
from ml.bundle import READS, ModelGone, NoSuchDecision
from ml.replay import NotAnswered
from readmodels.database import ReadModels

router = Router("/decisions", tags=["decisions"])


@router.get(
    "/{decision_id}/bundle",
    summary="Take the evidence away",
    response_class=Response,
    responses=documented(404, 409)
    | {200: {"content": {"application/zip": {}}, "description": "A zip file."}},
)
async def get_bundle(
    decision_id: Annotated[Id, Path()],
    deps: Parts,
    caller: Caller,
    read: Annotated[ReadModels, reading("decisions.bundle", *READS)],
    day: Annotated[
        bool,
        Query(description="Prove too that its day had no other requests, which shows those."),
    ] = True,
) -> Response:
    """An archive with the decision's story, the events that it comes from, proofs that they are in
    the log as it was signed, the model, and a program that checks all of it without this server and
    decides again. A decision that is not under a signed head yet is a conflict: try again. Of
    one whose model is stored no more, or not as it was, there is none (503)."""
    try:
        found = await deps.bundles.make(
            read,
            caller.organisation_id,
            decision_id,
            made_at=datetime.now(UTC).replace(microsecond=0),
            day=day,
        )
    except NoSuchDecision:
        raise NotFound("decision", decision_id) from None
    except NotAnswered:
        raise NotFound("answered decision", decision_id) from None
    except ModelGone as error:
        raise HTTPException(503, str(error)) from error
    name = f"{decision_id}-evidence.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(found, media_type="application/zip", headers=headers)
