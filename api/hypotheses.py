"""Cases that never were, over HTTP: what-ifs and counterfactuals of decisions."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from api.decisions import known
from api.dependencies import NotFound, Parts, reading, tagged
from api.errors import documented
from api.routers import Router
from domain.errors import Refused
from domain.values import Id, Words
from ml.catalogue import KINDS
from ml.explaining import (
    ExplainedCandidate,
    explain_weighing,
    in_words,
    what_if_in_words,
)
from ml.hypotheses import why_no_counterfactual
from ml.kind import Kind
from ml.rules import rule_for
from ml.scoring import ADDITIVITY_TOLERANCE
from ml.whatif import Change, Counterfactual
from readmodels import models
from readmodels.database import ReadModels

router = Router(tags=["explanations"])

#: Finite as float32 too, which is what models see.
_Number = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
_Columns = Annotated[dict[Id, Words], Field(max_length=10)]
_Minor = Annotated[int, Field(ge=-(10**15), le=10**15)]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HypotheticalOption(_Sent):
    """An option as it would be put to a model. ``features``: by name; one that is left out or null
    is not known."""

    option: _Columns = Field(default_factory=dict)
    features: Annotated[dict[Id, _Number | None], Field(max_length=200)]
    cost_minor: _Minor = 0
    carbon_g: _Minor = 0


class SentChange(_Sent):
    """A feature set to a value, for the candidates that agree with ``where`` (all, where it is
    left out)."""

    feature: Id
    value: _Number
    where: _Columns = Field(default_factory=dict)


class WhatIfCase(_Sent):
    """What is to be different."""

    changes: Annotated[list[SentChange], Field(min_length=1, max_length=50)]


class WhatIfAnswer(BaseModel):
    """The decision's candidates weighed again. ``before`` and ``after``: what is chosen, by index;
    ``turned``: it is another one."""

    decision_id: str
    sentence: str
    turned: bool
    before: int | None
    after: int | None
    options: list[ExplainedCandidate]
    additivity_error: float
    additivity_tolerance: float
    additive: bool


class CounterfactualAnswer(BaseModel):
    """The smallest change that turns a decision; null where none was found, as ``sentence``
    says."""

    decision_id: str
    sentence: str
    counterfactual: Counterfactual | None


_CHANGES = {
    "example": {
        "summary": "An emptier site",
        "value": {
            "changes": [{"feature": "site_backlog", "value": 5, "where": {"site_id": "S-AMS"}}]
        },
    }
}


@router.post(
    "/decisions/{decision_id}/what-if",
    summary="Decide again with other feature values",
    responses=documented(404, 409),
)
async def what_if(
    decision_id: Annotated[Id, Path()],
    case: Annotated[WhatIfCase, Body(openapi_examples=_CHANGES)],
    deps: Parts,
    read: Annotated[ReadModels, reading("decisions.what_if", "decision_detail")],
) -> WhatIfAnswer:
    """What the decision's own model would choose of its candidates if some of their features were
    others. Features that follow from those change with them; what was ruled out stays so. Nothing
    is put on the log."""
    detail = await known(read, decision_id)
    changes = [Change(one.feature, one.value, one.where) for one in case.changes]
    found = await deps.hypotheses.what_if(detail.made, changes)
    weighing = found.weighing
    return WhatIfAnswer(
        decision_id=decision_id,
        sentence=what_if_in_words(changes, weighing, found.before, found.kind),
        turned=weighing.chosen != found.before,
        before=found.before,
        after=weighing.chosen,
        options=explain_weighing(found.kind, weighing),
        additivity_error=weighing.additivity_error,
        additivity_tolerance=ADDITIVITY_TOLERANCE,
        additive=weighing.additivity_error <= ADDITIVITY_TOLERANCE,
    )


@router.get(
    "/decisions/{decision_id}/counterfactual",
    summary="What would have turned it?",
    responses=documented(404, 409),
)
async def get_counterfactual(
    decision_id: Annotated[Id, Path()],
    response: Response,
    deps: Parts,
    read: Annotated[ReadModels, reading("decisions.counterfactual", "decision_detail")],
) -> CounterfactualAnswer:
    """The smallest change of one or two of the values that people can change (the kind's levers,
    within their bounds) with which the decision's own model would have chosen another candidate;
    in words too."""
    detail = await known(read, decision_id)
    found = await deps.hypotheses.counterfactual(detail.made)
    tagged(response, detail.version)
    why_none = "" if detail.made is None else why_no_counterfactual(detail.made)
    sentence = in_words(found, why_none, KINDS.get(detail.requested["kind"]))
    return CounterfactualAnswer(decision_id=decision_id, sentence=sentence, counterfactual=found)


async def model_for(read: ReadModels, kind: Kind, model_hash: str | None) -> str:
    """The model that is asked for, of this organisation and kind; the kind's rule, where none is
    deployed."""
    if model_hash is None:
        live = await models.champion(read, kind.name)
        if live is not None:
            return live.model_hash
        rule = rule_for(kind)
        if rule is None:
            raise NotFound("champion of", kind.name)
        return rule.hash
    if (rule := rule_for(kind)) is not None and rule.hash == model_hash:
        return model_hash
    model = await models.get_model(read, model_hash)
    if model is None:
        raise NotFound("model", model_hash)
    if model.kind != kind.name:
        raise Refused(
            "model.of_another_kind", model_hash=model_hash, kind=model.kind, wanted=kind.name
        )
    return model_hash
