"""A decision's story from its events: what stands in a bundle's decision.json.

All of it but the words is in the events; chainlytics/verifier.py derives it again and compares.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import cache
from typing import Any

from domain import catalogue
from domain.catalogue import SENTENCES
from domain.decisions import (
    RULE_BASED,
    DecisionConfirmed,
    DecisionContested,
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionNotRedecided,
    DecisionOutcomeRecorded,
    DecisionOverridden,
    DecisionReferred,
    DecisionRequested,
    DecisionShadowed,
)
from domain.models import ModelApproved, ModelDeployed, ModelRegistered, ModelRolledBack
from domain.policies import PolicySet
from domain.values import Event
from eventstore import StoredEvent
from eventstore.asked import Asked
from ml.explaining import explain
from ml.kind import Kind
from ml.weighing import floats

Json = dict[str, Any]
_REVIEWS = (DecisionConfirmed, DecisionOverridden, DecisionContested, DecisionNotRedecided)
_FIELD = re.compile(r"\{(\w+)[^}]*\}")
#: A personal value as events hold it.
TOKEN = re.compile(r"p1\.[A-Za-z0-9_-]{20,}")


@dataclass(frozen=True, slots=True)
class Told:
    """A stored event and what it says, upcast to its present form; ``type`` None: not ours."""

    stored: StoredEvent
    type: type[Event] | None
    body: Json

    @property
    def position(self) -> int:
        """Where it stands in the log."""
        return self.stored.position

    @property
    def sentence(self) -> str:
        """The event as a line that a person reads."""
        if self.type is None:
            return self.stored.topic
        return SENTENCES[self.type].format_map(
            {name: _plain(value) for name, value in self.body.items()}
        )


def _plain(value: Any) -> Any:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else value


def told(stored: StoredEvent) -> Told:
    """A stored event with what it says."""
    body = catalogue.as_json(stored.topic, stored.state)
    return Told(stored, catalogue.type_of(stored.topic), body if body is not None else {})


@dataclass(frozen=True, slots=True)
class Case:
    """A decision and the events around it.

    ``own``: of its stream; ``events``: all that the bundle holds, in log order. ``asked``: by
    position, what was asked for as what. ``left_out``: what is not here, in sentences.
    """

    organisation_id: str
    decision_id: str
    own: Sequence[Told]
    events: Sequence[Told]
    asked: Mapping[int, Asked]
    kind: Kind | None
    left_out: Sequence[str]

    def of(self, *types: type[Event]) -> list[Told]:
        """The decision's own events of these types."""
        return [one for one in self.own if one.type in types]

    def one(self, event: type[Event]) -> Told | None:
        """The decision's event of this type, or None."""
        return next(iter(self.of(event)), None)

    @property
    def request(self) -> Told:
        """The request."""
        [found] = self.of(DecisionRequested)
        return found

    @property
    def features(self) -> list[str]:
        """What the model sees, as it was registered, or the rule, as it is declared; empty where
        nothing was decided."""
        made = self.one(DecisionMade)
        if made is None:
            return []
        if made.body["role"] == RULE_BASED:
            kind = self.kind
            same = kind is not None and kind.schema_hash == made.body["schema_hash"]
            return list(kind.feature_names) if kind is not None and same else []
        mine = [
            one.body["training"]["features"]
            for one in self.events
            if one.type is ModelRegistered and one.body["model_hash"] == made.body["model_hash"]
        ]
        return list(mine[0]) if mine else []


def story(case: Case) -> Json:
    """The story as JSON."""
    request = case.request
    made, explained = case.one(DecisionMade), case.one(DecisionExplained)
    found: Json = {
        "decision_id": case.decision_id,
        "organisation_id": case.organisation_id,
        "kind": request.body["kind"],
        "subject_id": request.body["subject_id"],
        "request": _event(case, request),
        "made": None,
        "candidates": [],
        "explanation": None,
        "referral": _event(case, case.one(DecisionReferred)),
        "shadows": [_event(case, one) for one in case.of(DecisionShadowed)],
        "failure": _event(case, case.one(DecisionFailed)),
        "reviews": [_event(case, one) for one in case.of(*_REVIEWS)],
        "outcome": _event(case, case.one(DecisionOutcomeRecorded)),
        "redecided_by": [
            one.body["decision_id"]
            for one in case.events
            if one.type is DecisionRequested and one.body["redecides"] == case.decision_id
        ],
        "governance": governance(case),
        "constraints": _constraints(case),
        "left_out": list(case.left_out),
    }
    if made is not None and explained is not None:
        head = _event(case, made) or {}
        words = _event(case, explained) or {}
        del head["candidates"], words["contributions"]
        found |= {"made": head, "explanation": words, "candidates": _candidates(case)}
    return found


def governance(case: Case) -> Json:
    """Who proposed and approved the model, what gave it its role, and the policy then."""
    made, as_of = case.one(DecisionMade), case.request.position
    if made is None:
        return {"registered": None, "approved": None, "role": None, "policy": None}
    kind, model_hash, role = (made.body[name] for name in ("kind", "model_hash", "role"))
    before = [one for one in case.events if one.position <= as_of]
    mine = [one for one in before if one.body.get("model_hash") == model_hash]
    given = [
        one
        for one in before
        if one.type in (ModelDeployed, ModelRolledBack)
        and one.body["kind"] == kind
        and _given(one) == (role, model_hash)
    ]
    policies = [one for one in before if one.type is PolicySet and one.body["kind"] == kind]
    return {
        "registered": _last(case, [one for one in mine if one.type is ModelRegistered]),
        "approved": _last(case, [one for one in mine if one.type is ModelApproved]),
        "role": _last(case, given),
        "policy": _last(case, policies),
    }


def readable(one: Told) -> Json:
    """An event as it stands in the log, field by field."""
    stored = one.stored
    found: Json = {
        "position": stored.position,
        "recorded_at": stored.recorded_at.astimezone(UTC).isoformat(),
        "topic": stored.topic,
        "actor": stored.actor,
        "stream_id": str(stored.stream_id),
        "version": stored.version,
        "event_id": str(stored.event_id),
        "organisation_id": str(stored.organisation_id),
        "correlation_id": str(stored.correlation_id),
        "causation_id": None if stored.causation_id is None else str(stored.causation_id),
    }
    if one.type is not None:
        template = catalogue.STREAMS[one.type]
        found |= {"stream": template.format_map(one.body), "sentence": one.sentence}
    return found | _state(stored.state)


def _state(state: bytes) -> Json:
    try:
        return {"data": json.loads(state)}
    except ValueError:
        return {"base64": base64.b64encode(state).decode()}


def _event(case: Case, one: Told | None) -> Json | None:
    """An event of the story: where it stands, what it says, and as what its sender asked."""
    if one is None:
        return None
    found = {
        "event": one.stored.topic.split(".")[1],
        "position": one.position,
        "recorded_at": one.stored.recorded_at.astimezone(UTC).isoformat(),
        "actor": one.stored.actor,
        **{
            name: value
            for name, value in one.body.items()
            if name not in ("decision_id", "kind", "subject_id")
        },
    }
    asked = case.asked.get(one.position)
    if asked is not None:
        found["asked_as"] = {"command": asked.command, "roles": list(asked.roles)}
    return found


def _last(case: Case, events: Sequence[Told]) -> Json | None:
    return _event(case, events[-1] if events else None)


def _given(one: Told) -> tuple[str, str]:
    """The role that an event gives, and the model that it is given to."""
    if one.type is ModelRolledBack:
        return "champion", one.body["to"]
    return one.body["role"], one.body["model_hash"]


def _candidates(case: Case) -> list[Json]:
    made, explained = case.one(DecisionMade), case.one(DecisionExplained)
    assert made is not None
    assert explained is not None
    names = case.features
    same = case.kind is not None and case.kind.schema_hash == made.body["schema_hash"]
    sources = sources_of(case.kind) if same and case.kind is not None else {}
    words = explain(made.body, explained.body, names, case.kind)
    found = []
    for number, one in enumerate(made.body["candidates"]):
        *pushes, base = floats(explained.body["contributions"][number])
        sentences = {push.name: push.sentence for push in words.candidates[number].features}
        lineage = one["lineage"]
        rest = {name: value for name, value in one.items() if name != "features"}
        found.append(
            {
                "index": number,
                "chosen": number == made.body["chosen"],
                **rest,
                "base": base,
                "features": [
                    {
                        "name": name,
                        "value": None if math.isnan(value) else value,
                        "contribution": push,
                        "sentence": sentences[name],
                        "lineage": {
                            alias: lineage[alias]
                            for alias in sources.get(name, ())
                            if alias in lineage
                        },
                    }
                    for name, value, push in zip(
                        names, floats(one["features"]), pushes, strict=True
                    )
                ],
            }
        )
    return found


@cache
def sources_of(kind: Kind) -> Mapping[str, tuple[str, ...]]:
    """For each feature the tables that its value is made of, by their aliases."""
    features = {one.name: one for one in kind.features}
    known = [source.alias for source in kind.sources]

    def found(name: str) -> set[str]:
        aliases: set[str] = set()
        for root in features[name].value.meta.root_names():
            if root in features and root != name:
                aliases |= found(root)
            else:
                aliases.add(root.partition("__")[0])
        return aliases

    return {name: tuple(one for one in known if one in found(name)) for name in features}


def _constraints(case: Case) -> list[Json]:
    """The hard rules that were checked, and the candidates that break each."""
    made = case.one(DecisionMade)
    if made is None:
        return []
    candidates = made.body["candidates"]
    same = case.kind is not None and case.kind.code == made.body["code"]
    rules = {one.code: one.sentence for one in case.kind.constraints} if same and case.kind else {}
    codes = dict.fromkeys([*rules, *(code for one in candidates for code in one["rejected"])])
    return [
        {
            "code": code,
            "sentence": _FIELD.sub(lambda one: _named(one[1]), rules.get(code, "")),
            "broken_by": [n for n, one in enumerate(candidates) if code in one["rejected"]],
        }
        for code in codes
    ]


def _named(field: str) -> str:
    return f"[{field.removesuffix('_id').replace('__', ' ').replace('_', ' ')}]"
