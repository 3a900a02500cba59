"""Reviews over HTTP: what people do with a made decision."""

from __future__ import annotations

from api.commands import Post, mount
from api.routers import Router
from domain.reviews import ConfirmDecision, ContestDecision, OverrideDecision

router = Router("/decisions", tags=["decisions"])

POSTS = (
    Post(
        "/{decision_id}/confirm",
        ConfirmDecision,
        "Agree with a referred decision",
        now=("confirmed_at",),
    ),
    Post(
        "/{decision_id}/override",
        OverrideDecision,
        "Choose another candidate",
        now=("overridden_at",),
        example={
            "option": {"site_id": "S-AMS", "service_level": "express"},
            "reason": "the customer called",
        },
    ),
    Post(
        "/{decision_id}/contest",
        ContestDecision,
        "Object to a decision",
        now=("contested_at",),
        example={
            "reason": "lateness costs us more than that",
            "redecide": True,
            "weights": {"cost": 1.0, "risk_minor": 8000, "carbon_minor_per_kg": 10},
        },
    ),
)
mount(router, POSTS)
