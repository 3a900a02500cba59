"""Models: registered, approved by a second person, deployed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from domain.models import (
    ApproveModel,
    DeployModel,
    Metrics,
    ModelApproved,
    ModelDeployed,
    ModelRegistered,
    RegisterModel,
    Training,
)
from domain.values import Command, Event
from tests.spec import given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HASH, SCHEMA = "a" * 64, "b" * 64
TRAINING = Training(
    from_position=1,
    to_position=900,
    train_rows=700,
    split_at=NOON,
    features=("slack", "distance"),
    parameters={"max_depth": "4"},
    libraries={"xgboost": "3.2.0"},
    base_score="0.1",
)
METRICS = Metrics(rows=200, late_share=0.1, auc=0.8, log_loss=0.2, brier=0.07)
BASELINE = Metrics(rows=200, late_share=0.1, auc=None, log_loss=0.3, brier=0.09)

REGISTER = RegisterModel(
    model_hash=HASH,
    kind="fulfilment",
    schema_hash=SCHEMA,
    training=TRAINING,
    metrics=METRICS,
    baseline=BASELINE,
    registered_at=NOON,
)
APPROVE = ApproveModel(model_hash=HASH, approved_at=NOON)
DEPLOY = DeployModel(model_hash=HASH, deployed_at=NOON)

registered = ModelRegistered(
    model_hash=HASH,
    kind="fulfilment",
    schema_hash=SCHEMA,
    training=TRAINING,
    metrics=METRICS,
    baseline=BASELINE,
    registered_by="ana",
    registered_at=NOON,
)
approved = ModelApproved(model_hash=HASH, kind="fulfilment", approved_by="ben", approved_at=NOON)
deployed = ModelDeployed(
    model_hash=HASH,
    kind="fulfilment",
    schema_hash=SCHEMA,
    deployed_by="ana",
    deployed_at=NOON,
)


def test_a_model_is_registered_by_its_sender() -> None:
    given().when(REGISTER, "ana").then(registered)


@pytest.mark.parametrize(
    "history", [[registered], [registered, approved], [registered, approved, deployed]]
)
def test_a_model_is_registered_once(history: list[Event]) -> None:
    given(*history).when(REGISTER).refused("model.already_registered", model_hash=HASH)


def test_a_second_person_approves() -> None:
    given(registered).when(APPROVE, "ben").then(approved)


def test_nobody_approves_a_model_of_their_own() -> None:
    given(registered).when(APPROVE, "ana").refused("model.needs_second_person", actor="ana")


def test_an_unknown_model_is_not_approved() -> None:
    given().when(APPROVE, "ben").refused("model.unknown", model_hash=HASH)


@pytest.mark.parametrize("history", [[approved], [approved, deployed]])
def test_a_model_is_approved_once(history: list[Event]) -> None:
    given(registered, *history).when(APPROVE, "cleo").refused("model.already_approved")


@pytest.mark.parametrize("history", [[], [deployed]])
def test_an_approved_model_is_deployed_and_may_be_again(history: list[Event]) -> None:
    given(registered, approved, *history).when(DEPLOY, "ana").then(deployed)


def test_a_model_is_not_deployed_before_its_approval() -> None:
    given(registered).when(DEPLOY).refused("model.not_approved", model_hash=HASH)


def test_an_unknown_model_is_not_deployed() -> None:
    given().when(DEPLOY).refused("model.unknown", model_hash=HASH)


@pytest.mark.parametrize(
    ("kind", "fields", "field", "rule"),
    [
        (ApproveModel, {"model_hash": "abc", "approved_at": NOON}, "model_hash", "match pattern"),
        (ApproveModel, {"model_hash": HASH.upper(), "approved_at": NOON}, "model_hash", "match"),
        (ApproveModel, {"model_hash": HASH}, "approved_at", "Field required"),
        (
            DeployModel,
            {"model_hash": HASH, "deployed_at": "2026-03-01T12:00:00"},
            "deployed_at",
            "timezone",
        ),
        (
            DeployModel,
            {"model_hash": HASH, "deployed_at": NOON, "by": "ana"},
            "by",
            "Extra inputs",
        ),
        (
            RegisterModel,
            REGISTER.model_dump() | {"metrics": METRICS.model_dump() | {"auc": float("nan")}},
            "metrics.auc",
            "finite number",
        ),
        (
            RegisterModel,
            REGISTER.model_dump() | {"training": TRAINING.model_dump() | {"base_score": "a\0"}},
            "training.base_score",
            "U+0000",
        ),
        (RegisterModel, REGISTER.model_dump() | {"kind": ""}, "kind", "match pattern"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    kind: type[Command], fields: dict[str, Any], field: str, rule: str
) -> None:
    told = problems(kind, **fields)
    assert field in told
    assert rule in told
