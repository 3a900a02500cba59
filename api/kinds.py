"""The kinds of decision over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel

from api.dependencies import allowed
from api.errors import documented
from api.tokens import Identity
from domain.decisions import Weights
from ml.catalogue import KINDS
from ml.kind import Kind

router = APIRouter(tags=["decisions"])


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


class DeclaredKind(BaseModel):
    """A kind of decision as the code declares it. ``code``: a hash over the whole declaration;
    ``schema_hash``: over its features and the tables that they are taken from."""

    name: str
    warning: str
    option: list[str]
    features: list[DeclaredFeature]
    constraints: list[DeclaredConstraint]
    weights: Weights
    learns_from: str
    code: str
    schema_hash: str


class DeclaredKinds(BaseModel):
    """Every kind of decision."""

    items: list[DeclaredKind]


@router.get("/kinds", summary="The kinds of decision", responses=documented())
async def list_kinds(_: Annotated[Identity, allowed("kinds.list")]) -> DeclaredKinds:
    """What can be decided: the columns of an option, features with their words and levers, hard
    constraints, and the weights of a request that names none."""
    return DeclaredKinds(items=[declared(kind) for kind in KINDS.values()])


def declared(kind: Kind) -> DeclaredKind:
    """A kind as it is shown."""
    return DeclaredKind(
        name=kind.name,
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
