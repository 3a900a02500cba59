"""Models: registered by content hash, approved by a second person, deployed, superseded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event, Id, UtcTime, Value, Words

#: SHA-256 of the artifact's bytes, in hex.
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Stage(StrEnum):
    """Where a model stands."""

    UNKNOWN = "unknown"
    REGISTERED = "registered"
    APPROVED = "approved"
    DEPLOYED = "deployed"


class Metrics(Value):
    """How well predictions fit on the held-out, later part. None where not defined."""

    rows: int
    late_share: float
    auc: float | None
    log_loss: float
    brier: float


class Training(Value):
    """What a model was trained on and how: enough to train it again."""

    from_position: int
    to_position: int
    train_rows: int
    split_at: datetime
    features: tuple[Words, ...]
    parameters: dict[Words, Words]
    libraries: dict[Words, Words]
    base_score: Words


class RegisterModel(Command):
    """Propose a trained model whose artifact is stored under its hash."""

    model_hash: Hash
    kind: Id
    schema_hash: Hash
    training: Training
    metrics: Metrics
    baseline: Metrics
    registered_at: UtcTime


class ApproveModel(Command):
    """Approve a model that somebody else registered."""

    model_hash: Hash
    approved_at: UtcTime


class DeployModel(Command):
    """Make an approved model the champion of its kind."""

    model_hash: Hash
    deployed_at: UtcTime


class ModelRegistered(Event):
    """A trained model was proposed."""

    model_hash: str
    kind: str
    schema_hash: str
    training: Training
    metrics: Metrics
    baseline: Metrics
    registered_by: str
    registered_at: datetime


class ModelApproved(Event):
    """A second person approved the model."""

    model_hash: str
    kind: str
    approved_by: str
    approved_at: datetime


class ModelDeployed(Event):
    """The model became the champion of its kind, from this log position on."""

    model_hash: str
    kind: str
    schema_hash: str
    deployed_by: str
    deployed_at: datetime


EVENTS = (ModelRegistered, ModelApproved, ModelDeployed)

#: The stream that an event belongs to, by its fields.
STREAM = "models/{model_hash}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    ModelRegistered: "Model {model_hash} ({kind}) was registered by {registered_by}",
    ModelApproved: "Model {model_hash} was approved by {approved_by}",
    ModelDeployed: "Model {model_hash} was deployed for {kind} by {deployed_by}",
}


@dataclass(frozen=True, slots=True)
class Model:
    """What the rules need to know of a model."""

    model_hash: str = ""
    kind: str = ""
    schema_hash: str = ""
    stage: Stage = Stage.UNKNOWN
    registered_by: str = ""


def evolve(model: Model, event: Event) -> Model:
    """The model after one more of its events."""
    match event:
        case ModelRegistered():
            return Model(
                event.model_hash,
                event.kind,
                event.schema_hash,
                stage=Stage.REGISTERED,
                registered_by=event.registered_by,
            )
        case ModelApproved():
            return replace(model, stage=Stage.APPROVED)
        case ModelDeployed():
            return replace(model, stage=Stage.DEPLOYED)
    return model


MODELS = Decider(initial=Model(), evolve=evolve)


def register(model: Model, command: RegisterModel, actor: str) -> Sequence[Event]:
    """Propose a model once."""
    if model.stage is not Stage.UNKNOWN:
        raise Refused("model.already_registered", model_hash=command.model_hash)
    return [
        ModelRegistered(
            model_hash=command.model_hash,
            kind=command.kind,
            schema_hash=command.schema_hash,
            training=command.training,
            metrics=command.metrics,
            baseline=command.baseline,
            registered_by=actor,
            registered_at=command.registered_at,
        )
    ]


def approve(model: Model, command: ApproveModel, actor: str) -> Sequence[Event]:
    """Approve what somebody else registered."""
    if model.stage is Stage.UNKNOWN:
        raise Refused("model.unknown", model_hash=command.model_hash)
    if model.stage is not Stage.REGISTERED:
        raise Refused("model.already_approved", model_hash=model.model_hash)
    if actor == model.registered_by:
        raise Refused("model.needs_second_person", model_hash=model.model_hash, actor=actor)
    return [
        ModelApproved(
            model_hash=model.model_hash,
            kind=model.kind,
            approved_by=actor,
            approved_at=command.approved_at,
        )
    ]


def deploy(model: Model, command: DeployModel, actor: str) -> Sequence[Event]:
    """Deploy an approved model; a model that was live before may be deployed again."""
    if model.stage is Stage.UNKNOWN:
        raise Refused("model.unknown", model_hash=command.model_hash)
    if model.stage is Stage.REGISTERED:
        raise Refused("model.not_approved", model_hash=model.model_hash)
    return [
        ModelDeployed(
            model_hash=model.model_hash,
            kind=model.kind,
            schema_hash=model.schema_hash,
            deployed_by=actor,
            deployed_at=command.deployed_at,
        )
    ]
