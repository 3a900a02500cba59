"""Why: explanations of decisions, made or supposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Body, Path, Query, Response

from api.decisions import explanation_of, known
from api.dependencies import Caller, Dependencies, NotFound, Parts, may_ask, reading, tagged
from api.errors import documented
from api.explained import (
    DecisionFactors,
    DecisionInWords,
    HypotheticalAnswer,
    HypotheticalCase,
    NotChosen,
    factors_of,
)
from api.hypotheses import model_for
from api.routers import Router
from domain.decisions import Weights
from domain.errors import Refused
from domain.values import Id, money
from eventstore.artifacts import Artifacts
from ml.catalogue import KINDS
from ml.explaining import (
    ExplainedCandidate,
    Explanation,
    best,
    explain_weighing,
    in_words,
    name_of,
    what_if_in_words,
)
from ml.hypotheses import why_no_counterfactual
from ml.kind import Failed, Kind
from ml.rules import rule_for
from ml.scoring import ADDITIVITY_TOLERANCE
from ml.supposing import suppose
from ml.whatif import Change, Option, Weighing, WrongCase
from ml.words import broken_in_words
from readmodels.database import ReadModels

router = Router("/explain", tags=["explanations"])

#: Candidates that are told why they were not chosen, the best ones.
_OTHERS = 10
_FACTORS = 5


_CASES = {
    "options": {
        "summary": "Two ways for an order",
        "value": {
            "kind": "fulfilment",
            "options": [
                {
                    "option": {"site_id": "S-AMS", "service_level": "standard"},
                    "features": {"promised_days": 4, "site_backlog": 45, "transit_days": 2.5},
                    "cost_minor": 490,
                    "carbon_g": 500,
                },
                {
                    "option": {"site_id": "S-AMS", "service_level": "express"},
                    "features": {"promised_days": 4, "site_backlog": 45, "transit_days": 1},
                    "cost_minor": 990,
                    "carbon_g": 900,
                },
            ],
        },
    },
    "subject": {
        "summary": "An order as it stands, with another weight of lateness",
        "value": {
            "kind": "fulfilment",
            "subject_id": "O-1",
            "weights": {"cost": 1, "risk_minor": 9000, "carbon_minor_per_kg": 10},
        },
    },
    "decision": {
        "summary": "A decision with an emptier site",
        "value": {
            "decision_id": "D-1",
            "changes": [{"feature": "site_backlog", "value": 5, "where": {"site_id": "S-AMS"}}],
        },
    },
}
_READS = ("decision_detail", "model_list", "model_roles")


@router.post("", summary="Explain a hypothetical case", responses=documented(404, 409))
async def explain_hypothetical(
    case: Annotated[HypotheticalCase, Body(openapi_examples=_CASES)],
    deps: Parts,
    read: Annotated[ReadModels, reading("decisions.hypothetical", *_READS)],
) -> HypotheticalAnswer:
    """What a model, or the rule where none is deployed, would say of options that nobody asked
    about, of a subject as it stands now, or of a decision with other feature values or weights;
    with exact contributions and sentences. Nothing is put on the log; hard constraints are judged
    for subjects only, a decision's stay as they were."""
    changes = [Change(one.feature, one.value, one.where) for one in case.changes]
    if case.decision_id is not None:
        detail = await known(read, case.decision_id)
        return await _changed(deps, detail.made, changes, case.weights)
    assert case.kind is not None
    kind = KINDS.get(case.kind)
    if kind is None:
        raise NotFound("kind", case.kind)
    weights = kind.subject.weights if case.weights is None else case.weights
    if case.subject_id is not None:
        made = await _supposed(deps, read, kind, case.subject_id, weights)
        return await _changed(deps, made, changes, weights)
    model_hash = await model_for(read, kind, case.model_hash)
    options = [
        Option(one.option, one.features, one.cost_minor, one.carbon_g) for one in case.options or ()
    ]
    found = await deps.hypotheses.weigh(kind, model_hash, weights, options)
    return _answer(kind, model_hash, weights, found, found.chosen, _choice(found, kind))


@router.get("/{decision_id}", summary="Why it was decided so", responses=documented(404))
async def explain_decision(
    decision_id: Annotated[Id, Path()],
    response: Response,
    deps: Parts,
    caller: Caller,
    read: Annotated[ReadModels, reading("explain.decision", *_READS)],
) -> DecisionInWords:
    """A decision in sentences: what was chosen and why, why not the others, how sure that is, its
    strongest factors, and what would have turned it."""
    told, detail = await explanation_of(read, decision_id, None)
    assert detail.made is not None
    tagged(response, detail.version)
    kind = KINDS.get(told.kind)
    shown = next(one for one in told.candidates if one.index == best(detail.made["candidates"]))
    counterfactual = None
    if may_ask("decisions.counterfactual", caller):
        counterfactual = await _counterfactual(deps, detail.made, kind)
    base = f"/api/v1/decisions/{decision_id}"
    runner = told.runner_up
    return DecisionInWords(
        decision_id=decision_id,
        kind=told.kind,
        subject_id=told.subject_id,
        method=told.method,
        role=told.role,
        model_hash=told.model_hash,
        as_of=told.as_of,
        summary=told.summary,
        chosen=dict(told.option),
        why=[one["sentence"] for one in told.reasons]
        or [one["sentence"] for one in told.rejections],
        why_not=_others(told, kind),
        runner_up=None if runner is None else runner["sentence"],
        confidence=told.confidence,
        confidence_sentence=_sure(told, kind),
        factors=factors_of(shown)[:_FACTORS],
        counterfactual=counterfactual,
        links={
            "decision": base,
            "explanation": f"{base}/explanation",
            "factors": f"/api/v1/explain/decision/{decision_id}/factors",
            "waterfall": f"{base}/explanation/waterfall.svg",
            "timeline": f"{base}/timeline",
            "timeline_picture": f"{base}/timeline.svg",
        },
    )


@router.get(
    "/decision/{decision_id}/factors",
    summary="What its score is made of",
    responses=documented(404),
)
async def get_factors(
    decision_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("explain.factors", *_READS)],
    candidate: Annotated[
        int | None,
        Query(
            ge=0,
            lt=10**6,
            description="By its place in the decision's list; the chosen one, or "
            "the best where none was chosen, where left out.",
        ),
    ] = None,
    limit: Annotated[int | None, Query(ge=1, le=500, description="The strongest ones.")] = None,
) -> DecisionFactors:
    """Each feature of one candidate: its value, its exact contribution in log odds and as a share,
    and a sentence; the strongest first. With the base value they sum to the margin."""
    told, detail = await explanation_of(read, decision_id, candidate)
    assert detail.made is not None
    tagged(response, detail.version)
    wanted = best(detail.made["candidates"]) if candidate is None else candidate
    one = next(each for each in told.candidates if each.index == wanted)
    every = factors_of(one)
    shown = every[:limit]
    return DecisionFactors(
        decision_id=decision_id,
        kind=told.kind,
        method=told.method,
        model_hash=told.model_hash,
        candidate=one.index,
        option=dict(one.option),
        chosen=one.chosen,
        base=one.base,
        margin=one.margin,
        probability=one.probability,
        risk=one.risk,
        factors=shown,
        left=sum(each.contribution for each in every[len(shown) :]),
        sum=one.base + sum(each.contribution for each in every),
        additivity_error=one.additivity_error,
        additivity_tolerance=ADDITIVITY_TOLERANCE,
        additive=one.additive,
    )


async def _supposed(
    deps: Dependencies, read: ReadModels, kind: Kind, subject_id: str, weights: Weights
) -> Mapping[str, Any]:
    organisation_id = read.organisation_id
    try:
        made, _ = await suppose(
            deps.log,
            Artifacts(deps.log),
            organisation_id,
            kind,
            subject_id,
            weights,
            datetime.now(UTC),
        )
    except Failed as failure:
        why = f"would not be decided: {failure.detail} [{failure.code}]"
        raise NotFound(
            f"{kind.name} of", subject_id, why, code=failure.code, detail=failure.detail
        ) from None
    return made.model_dump(mode="json")


async def _changed(
    deps: Dependencies,
    made: Mapping[str, Any] | None,
    changes: Sequence[Change],
    weights: Weights | None,
) -> HypotheticalAnswer:
    """A decision with some features, or its weights, set to other values."""
    if made is None:
        raise Refused("decision.not_made")
    own = made if weights is None else {**made, "weights": weights.model_dump(mode="json")}
    found = await deps.hypotheses.what_if(own, changes)
    weighing, kind = found.weighing, found.kind
    sentence = (
        what_if_in_words(changes, weighing, found.before, kind)
        if changes
        else _choice(weighing, kind)
    )
    return _answer(
        kind,
        str(made["model_hash"]),
        Weights.model_validate(own["weights"]),
        weighing,
        found.before,
        sentence,
    )


def _answer(
    kind: Kind,
    model_hash: str,
    weights: Weights,
    found: Weighing,
    before: int | None,
    sentence: str,
) -> HypotheticalAnswer:
    rule = rule_for(kind)
    by_rule = rule is not None and rule.hash == model_hash
    return HypotheticalAnswer(
        kind=kind.name,
        method="rule-based" if by_rule else model_hash,
        model_hash=model_hash,
        weights=weights,
        sentence=f"{sentence} (rule-based)" if by_rule else sentence,
        chosen=found.chosen,
        before=before,
        turned=found.chosen != before,
        options=explain_weighing(kind, found),
        additivity_error=found.additivity_error,
        additivity_tolerance=ADDITIVITY_TOLERANCE,
        additive=found.additivity_error <= ADDITIVITY_TOLERANCE,
    )


def _choice(found: Weighing, kind: Kind) -> str:
    if found.chosen is None:
        return "No option keeps all the rules"
    one = found.options[found.chosen]
    return f"It would be {name_of(one.option.option, kind)} at a risk of {one.risk:.1%}"


async def _counterfactual(
    deps: Dependencies, made: Mapping[str, Any], kind: Kind | None
) -> str | None:
    try:
        found = await deps.hypotheses.counterfactual(made)
    except (Refused, WrongCase):  # its model or its features are not there any more
        return None
    return in_words(found, why_no_counterfactual(made), kind)


def _sure(told: Explanation, kind: Kind | None) -> str:
    if told.confidence is None or told.foretold is None:
        return "No candidate keeps all the rules: a person decides"
    does = "will" if told.foretold >= 0.5 else "will not"
    warning = "come out as warned" if kind is None else kind.warning
    by = ", by a rule and not by a model" if told.method == "rule-based" else ""
    return f"{told.confidence:.1%} that it {does} {warning}{by}"


def _others(told: Explanation, kind: Kind | None) -> list[NotChosen]:
    chosen = next((one for one in told.candidates if one.chosen), None)
    others = sorted(
        (one for one in told.candidates if not one.chosen),
        key=lambda one: (bool(one.rejected), one.objective, one.index),
    )
    return [
        NotChosen(
            candidate=one.index,
            option=dict(one.option),
            rejected=list(one.rejected),
            sentence=_lacked(one, chosen, told, kind),
        )
        for one in others[:_OTHERS]
    ]


def _lacked(
    other: ExplainedCandidate,
    chosen: ExplainedCandidate | None,
    told: Explanation,
    kind: Kind | None,
) -> str:
    name, currency = name_of(other.option, kind), told.currency
    if other.rejected:
        broken = broken_in_words(kind, other.option, other.rejected, told.rejections)
        return f"{name} was ruled out: {'; '.join(broken)}"
    if chosen is None:
        return f"{name} was not chosen"
    cost = other.cost_minor - chosen.cost_minor
    risk = (other.risk - chosen.risk) * 100
    dearer = "dearer" if cost > 0 else "cheaper"
    parts = [
        f"{money(abs(cost), currency)} {dearer}" if cost else "",
        f"{abs(risk):.1f} points {'riskier' if risk > 0 else 'safer'}" if abs(risk) >= 0.05 else "",
        f"{money(other.objective - chosen.objective, currency)} worse in all",
    ]
    return f"{name}: {', '.join(part for part in parts if part)}"
