"""Who decides a request: policy, stop switches and the models' roles, as of its log position."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from domain.decisions import RULE_BASED
from domain.models import Role
from ml.history import join
from ml.kind import Failed, History, Kind, Request
from ml.rules import rule_for
from ml.tables import MODEL, POLICY, ROLE

KIND_STOPPED = "decision.kind_stopped"
_ROLES = tuple(role.value for role in Role)


@dataclass(frozen=True, slots=True)
class Ruling:
    """Which model decides a request, in which role, and when people take over.

    ``told``: why the kind's rule decides in place of a model; empty where a model does.
    ``shadow``: a model that scores it too. ``minimum_confidence``: below it a person decides.
    ``four_eyes_above_minor``: two persons where more is at stake; None: no such rule.
    """

    model_hash: str
    role: str
    shadow: str | None = None
    minimum_confidence: float = 0.0
    four_eyes_above_minor: int | None = None
    told: str = ""


@dataclass(frozen=True, slots=True)
class _Post:
    """A model in a role. ``stopped``: why it decides nothing. ``current``: it was given no other
    role since, and this one was not ended."""

    model_hash: str
    schema_hash: str
    share: float
    stopped: str
    retired: bool
    current: bool


async def rulings(
    kind: Kind, requests: Sequence[Request], history: History
) -> list[Ruling | Failed]:
    """A ruling for each request, or why nobody may decide it."""
    frame = pl.DataFrame(
        {
            "organisation_id": [request.organisation_id for request in requests],
            "kind": [kind.name] * len(requests),
            "position": [request.position for request in requests],
        },
        schema_overrides={"position": pl.Int64},
    )
    policies = await join(frame, "policy", POLICY, history)
    posts = await _posts(frame, history)
    columns = ("stopped", "minimum_confidence", "four_eyes_above_minor")
    told = policies.select(f"policy__{column}" for column in columns).iter_rows()
    found: list[Ruling | Failed] = []
    for number, (request, (stopped, confidence, four_eyes)) in enumerate(
        zip(requests, told, strict=True)
    ):
        try:
            if stopped:
                raise Failed(KIND_STOPPED, f"{kind.name} is stopped: {stopped}")
            model_hash, role, shadow, why = _chosen(kind, request, posts[number])
        except Failed as failure:
            found.append(failure)
            continue
        found.append(
            Ruling(
                model_hash,
                role,
                shadow,
                0.0 if confidence is None else confidence,
                None if four_eyes is None or four_eyes < 0 else four_eyes,
                why,
            )
        )
    return found


async def _posts(frame: pl.DataFrame, history: History) -> list[dict[str, _Post]]:
    """The models in their roles, for each row."""
    numbered = frame.with_row_index("number")
    roles = pl.DataFrame({"role": _ROLES})
    held = await join(numbered.join(roles, how="cross"), "role", ROLE, history)
    held = held.filter(pl.col("role__model_hash").is_not_null())
    held = await join(held, "model", MODEL, history, {"model_hash": pl.col("role__model_hash")})
    found: list[dict[str, _Post]] = [{} for _ in range(frame.height)]
    columns = (
        "number",
        "role",
        "role__model_hash",
        "role__schema_hash",
        "role__share",
        "model__stopped",
        "model__retired",
        "model__role",
    )
    for number, role, model, schema, share, stopped, retired, own in held.select(
        columns
    ).iter_rows():
        post = _Post(model, schema, share, stopped or "", bool(retired), own == role)
        found[number][role] = post
    return found


def _chosen(
    kind: Kind, request: Request, posts: Mapping[str, _Post]
) -> tuple[str, str, str | None, str]:
    """Model, its role, the shadow beside it, and why it is no model but the kind's rule."""
    challenger = _able(kind, posts.get(Role.CHALLENGER))
    shadow = _able(kind, posts.get(Role.SHADOW))
    other = None if shadow is None else shadow.model_hash
    champion = posts.get(Role.CHAMPION)
    if challenger and drawn(challenger.model_hash, request.event.decision_id) < challenger.share:
        mine, role = challenger, Role.CHALLENGER
    elif why := _no_champion(kind, champion):
        rule = rule_for(kind)
        if rule is None:
            raise Failed("decision.no_model", why)
        return rule.hash, RULE_BASED, other, why
    else:
        assert champion is not None
        mine, role = _champion(kind, champion), Role.CHAMPION
    return mine.model_hash, role.value, other if other != mine.model_hash else None, ""


def drawn(model_hash: str, decision_id: str) -> float:
    """A number from 0 to 1 for a challenger and a decision, always the same one."""
    digest = hashlib.sha256(f"{model_hash}:{decision_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def _able(kind: Kind, post: _Post | None) -> _Post | None:
    """The model, if it may and can decide."""
    if post is None or not post.current or post.stopped or post.retired:
        return None
    return post if post.schema_hash == kind.schema_hash else None


def _no_champion(kind: Kind, post: _Post | None) -> str:
    """Why a kind has no champion; empty: it has one."""
    if post is None:
        return f"no model is deployed for {kind.name}"
    name = post.model_hash[:12]
    if not post.current:
        return f"{kind.name} has no champion: {name} was withdrawn"
    if post.retired:
        return f"the last champion of {kind.name}, {name}, was retired"
    return ""


def _champion(kind: Kind, post: _Post) -> _Post:
    """The champion, if it may and can decide. A stopped one is not stood in for: who pulled the
    switch wants people to look. Nor is one of other features: that is a fault to be mended."""
    name = post.model_hash[:12]
    if post.stopped:
        raise Failed("decision.model_stopped", f"model {name} is stopped: {post.stopped}")
    if post.schema_hash != kind.schema_hash:
        raise Failed(
            "decision.schema_changed",
            f"model {name} was trained on features {post.schema_hash[:12]}, "
            f"now they are {kind.schema_hash[:12]}: train and deploy a new one",
        )
    return post
