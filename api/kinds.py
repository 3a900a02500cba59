"""The kinds of decision over HTTP."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel

from api.dependencies import reading
from api.errors import documented
from api.routers import Router
from domain.decisions import Weights
from ml.catalogue import KINDS
from ml.estimates import ESTIMATES, OF_DECISIONS, Family
from ml.kind import Kind
from ml.rules import rule_for
from readmodels import models
from readmodels.database import ReadModels

router = Router(tags=["decisions"])


class DeclaredLever(BaseModel):
    """Between which values people can change a feature; options that agree in ``shared`` change
    together."""

    low: float
    high: float
    shared: list[str]


class DeclaredFeature(BaseModel):
    """A number that the models of a kind see. ``derived``: it follows from others."""

    name: str
    raises: str
    lowers: str
    derived: bool
    lever: DeclaredLever | None


class DeclaredConstraint(BaseModel):
    """A hard rule."""

    code: str
    sentence: str


class Fallback(BaseModel):
    """The rule that stands where no model is deployed, and where it comes from. ``hash``: of its
    declaration, which decisions of it name in the model's place."""

    says: str
    source: str
    hash: str


class DeclaredKind(BaseModel):
    """A kind of decision as the code declares it. ``code``: a hash over the whole declaration;
    ``schema_hash``: over its features and the tables that they are taken from. ``method``: by what
    requests are decided now: ``rule-based``, or the hash of the champion (``deployed``; a stopped
    one decides nothing and no rule stands in for it)."""

    name: str
    family: str
    method: str
    deployed: str | None
    fallback: Fallback | None
    warning: str
    option: list[str]
    features: list[DeclaredFeature]
    constraints: list[DeclaredConstraint]
    weights: Weights
    learns_from: str
    code: str
    schema_hash: str


class DeclaredEstimate(BaseModel):
    """A kind of number that a model, or the rule, says. ``features``: what a model sees, in words;
    empty where no model can be trained for it: then the rule always says it."""

    name: str
    family: str
    method: str
    deployed: str | None
    fallback: Fallback
    unit: str
    features: dict[str, str]
    learns_from: str
    schema_hash: str


class DeclaredKinds(BaseModel):
    """Every kind of decision, and every kind of number."""

    items: list[DeclaredKind]
    estimates: list[DeclaredEstimate]


@router.get("/kinds", summary="The kinds of decision", responses=documented())
async def list_kinds(
    read: Annotated[ReadModels, reading("kinds.list", "model_list", "model_roles")],
) -> DeclaredKinds:
    """What can be decided: the columns of an option, features with their words and levers, hard
    constraints, and the weights of a request that names none; and what is foretold. Each with its
    family, with the model that is deployed, and with the rule that stands where none is."""
    found = await models.live_models(read, limit=200)
    live = {one.kind: one.model_hash for one in found.items if one.role == "champion"}
    return DeclaredKinds(
        items=[declared(kind, live.get(kind.name)) for kind in KINDS.values()],
        estimates=[
            DeclaredEstimate(
                name=one.name,
                family=one.family.value,
                method=live.get(one.name, "rule-based"),
                deployed=live.get(one.name),
                fallback=Fallback(says=one.says, source=one.source, hash=one.hash),
                unit=one.unit,
                features=dict(one.features),
                learns_from=one.learns_from,
                schema_hash=one.schema_hash,
            )
            for one in ESTIMATES.values()
        ],
    )


def declared(kind: Kind, deployed: str | None) -> DeclaredKind:
    """A kind as it is shown. ``deployed``: the hash of its champion."""
    rule = rule_for(kind)
    return DeclaredKind(
        name=kind.name,
        family=OF_DECISIONS.get(kind.name, Family.POLICY).value,
        method=deployed or ("none" if rule is None else "rule-based"),
        deployed=deployed,
        fallback=None
        if rule is None
        else Fallback(says=rule.rule.says, source=rule.rule.source, hash=rule.hash),
        warning=kind.warning,
        option=list(kind.option),
        features=[
            DeclaredFeature(
                name=one.name,
                raises=one.raises,
                lowers=one.lowers,
                derived=one.derived,
                lever=None
                if one.lever is None
                else DeclaredLever(
                    low=one.lever.low, high=one.lever.high, shared=list(one.lever.shared)
                ),
            )
            for one in kind.features
        ],
        constraints=[
            DeclaredConstraint(code=one.code, sentence=one.sentence) for one in kind.constraints
        ],
        weights=kind.subject.weights,
        learns_from=kind.examples.query,
        code=kind.code,
        schema_hash=kind.schema_hash,
    )
