"""Why a decision is not the same when it is made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from domain.decisions import (
    RULE_BASED,
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionReferred,
    DecisionShadowed,
)
from domain.values import Event

#: What a failure of the new attempt says about the old decision.
_FAILURES: Mapping[str, str] = {
    "decision.model_unfit": "model bytes",
    "decision.schema_changed": "code",
    "decision.no_candidate": "features",
}
#: What is compared of each candidate, nearest to the source first.
_OF_CANDIDATES = (
    ("features", ("features", "lineage", "cost_minor", "carbon_g")),
    ("score", ("margin", "probability")),
    ("calibration", ("risk",)),
    ("constraints", ("rejected",)),
    ("objective", ("objective",)),
)


def cause(before: Sequence[Event], again: Sequence[Event]) -> tuple[str, str]:
    """The first thing that differs, nearest to the source first, and in detail.

    Args:
        before: the events of the answer as the log has them.
        again: the events of the answer as it was given again.
    """
    made = next((one for one in before if isinstance(one, DecisionMade)), None)
    anew = next((one for one in again if isinstance(one, DecisionMade)), None)
    failed = next((one for one in again if isinstance(one, DecisionFailed)), None)
    failed_before = next((one for one in before if isinstance(one, DecisionFailed)), None)
    if failed_before is not None and failed_before.code == "decision.no_model" and anew is not None:
        return "rule", f"{failed_before.detail}; then there was no rule for that, now there is one"
    if failed_before is not None and failed is not None:
        return "failure", f"{_told(failed_before)} on the log, {_told(failed)} now"
    if made is not None and failed is not None:
        return _FAILURES.get(failed.code, "governance"), failed.detail
    if made is None or anew is None:
        return "log", "the log holds another kind of answer than the replay gives"
    return _of_decision(made, anew) or _of_words(before, again)


def _told(failed: DecisionFailed) -> str:
    return f"{failed.code} ({failed.detail})"


def _of_decision(made: DecisionMade, anew: DecisionMade) -> tuple[str, str] | None:
    if made.model_hash != anew.model_hash or made.role != anew.role:
        told = f"{made.role} {made.model_hash[:12]} on the log, {anew.role} {anew.model_hash[:12]}"
        if made.role == anew.role == RULE_BASED:
            return "rule", f"the kind's rule is another one: {told} now"
        return "governance", f"{told} as the log's own deployments have it"
    if made.libraries != anew.libraries:
        return "library versions", f"{dict(made.libraries)} then, {dict(anew.libraries)} now"
    if (made.code, made.schema_hash) != (anew.code, anew.schema_hash):
        told = f"{made.code[:12]} on the log, {anew.code[:12]} now"
        return "code", f"the kind's declaration is another one: {told}"
    if made.weights != anew.weights:
        return "weights", f"{made.weights} on the log, {anew.weights} asked for"
    if [one.option for one in made.candidates] != [one.option for one in anew.candidates]:
        return "features", "other candidates follow from the log"
    pairs = list(zip(made.candidates, anew.candidates, strict=True))
    for name, fields in _OF_CANDIDATES:
        for old, new in pairs:
            for field in fields:
                if getattr(old, field) != getattr(new, field):
                    told = f"{getattr(old, field)} on the log, {getattr(new, field)} now"
                    return name, f"{field} of {old.option}: {told}"
    if made.chosen != anew.chosen or made.option != anew.option:
        return "choice", f"{made.option} on the log, {anew.option} now"
    return None if made == anew else ("choice", "the decision's own numbers differ")


def _of_words(before: Sequence[Event], again: Sequence[Event]) -> tuple[str, str]:
    words, new_words = (
        next((one for one in events if isinstance(one, DecisionExplained)), None)
        for events in (before, again)
    )
    if words is None or new_words is None or words.contributions != new_words.contributions:
        return "explanation", "SHAP values differ"
    if words != new_words:
        return "explanation", "the words differ"
    for name, kind in (("shadow", DecisionShadowed), ("referral", DecisionReferred)):
        mine, anew = ([e for e in events if isinstance(e, kind)] for events in (before, again))
        if mine != anew:
            return name, f"{mine or 'none'} on the log, {anew or 'none'} now"
    return "encoding", "the same values are written as other bytes"
