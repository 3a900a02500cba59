"""Models: registered by content hash, approved by a second person, deployed in a role, measured,
stopped, rolled back and retired.

A kind of decision has one champion, which decides; a challenger may decide a share of the requests
in its place; a shadow scores them all and never acts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from domain.access import KEY_ACTOR
from domain.decider import Decider
from domain.errors import Refused, of_field
from domain.values import Command, Event, Id, Text, UtcTime, Value, Words

#: SHA-256 of the artifact's bytes, in hex.
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Stage(StrEnum):
    """Where a model stands."""

    UNKNOWN = "unknown"
    REGISTERED = "registered"
    APPROVED = "approved"
    DEPLOYED = "deployed"
    RETIRED = "retired"


class Role(StrEnum):
    """What a deployed model does."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    SHADOW = "shadow"


# values


def _is_none(value: object) -> bool:
    return value is None


class Metrics(Value):
    """How well predictions fit on the held-out, later part. None where not defined.

    Of probabilities: ``late_share``: of the rows, how many turned out as the model warns of;
    ``calibration_error``: expected calibration error in ten bins. Of numbers: ``mae`` and ``rmse``,
    mean absolute and root mean squared error, in the unit that the model speaks in.
    """

    rows: int
    late_share: float | None
    auc: float | None
    log_loss: float | None
    brier: float | None
    accuracy: float | None = None
    calibration_error: float | None = None
    mae: Annotated[float | None, Field(exclude_if=_is_none)] = None
    rmse: Annotated[float | None, Field(exclude_if=_is_none)] = None

    def fit_worse_than(self, baseline: Metrics) -> bool:
        """By log loss, or by mean absolute error where numbers are foretold."""
        _, own, other = self.against(baseline)
        return own > other

    def against(self, baseline: Metrics) -> tuple[str, float, float]:
        """The figure that two are compared by, in words, and both values; lower is better."""
        if self.log_loss is not None and baseline.log_loss is not None:
            return "log loss", self.log_loss, baseline.log_loss
        return "mean absolute error", self.mae or 0.0, baseline.mae or 0.0


class Segment(Value):
    """The metrics of a part of the held-out rows, such as one service level."""

    column: Words
    value: Words
    metrics: Metrics


class Training(Value):
    """What a model was trained on and how: enough to train it again.

    ``query``: which rows, in words. ``data_hash``: of the artifact with the rows that it learned
    from. ``calibrated_on``: how many rows its calibration comes from.
    """

    from_position: int
    to_position: int
    train_rows: int
    split_at: datetime
    features: tuple[Words, ...]
    parameters: dict[Words, Words]
    libraries: dict[Words, Words]
    base_score: Words
    query: Words | None = None
    data_hash: Hash | None = None
    calibrated_on: int | None = None


class Measurement(Value):
    """A model's figures over the decisions of a stretch of the log.

    Of decisions whose outcome is known: ``accuracy`` (share of right statements), ``brier`` and
    ``calibration_error``. Of all: the estimates without labels, from calibrated risks alone.
    ``psi`` and ``ks``: each feature's drift against the training rows, and that of the scores
    under the name ``score``.
    """

    from_position: int
    to_position: int
    decisions: int
    outcomes: int
    overridden: int
    accuracy: float | None
    brier: float | None
    calibration_error: float | None
    estimated_accuracy: float | None
    estimated_brier: float | None
    psi: dict[Words, float]
    ks: dict[Words, float]


class Limit(Value):
    """What a measure may come to; ``measure`` is a name such as ``psi`` or ``override_rate``."""

    measure: Words
    feature: Words | None = None
    value: float
    threshold: float
    sentence: Words

    @property
    def name(self) -> str:
        """What is watched."""
        return self.measure if self.feature is None else f"{self.measure}:{self.feature}"


# commands


class RegisterModel(Command):
    """Propose a trained model whose artifact is stored under its hash."""

    model_hash: Hash
    kind: Id
    schema_hash: Hash
    training: Training
    metrics: Metrics
    baseline: Metrics
    segments: tuple[Segment, ...] = ()
    registered_at: UtcTime


class ApproveModel(Command):
    """Approve a model that somebody else registered. ``accept_worse``: even though its
    probabilities fit the test worse than the baseline's (log loss)."""

    model_hash: Hash
    accept_worse: bool = False
    approved_at: UtcTime


class DeployModel(Command):
    """Give an approved model a role in its kind. ``share``: of the requests, for a challenger."""

    model_hash: Hash
    role: Role = Role.CHAMPION
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    deployed_at: UtcTime

    @model_validator(mode="after")
    def _a_challenger_has_a_share(self) -> Self:
        if (self.role is Role.CHALLENGER) != (self.share is not None):
            raise ValueError("share: a challenger has one (0 to 1), a champion or shadow has none")
        return self


class RollBackModel(Command):
    """Make an earlier champion the champion again, in the place of this model."""

    model_hash: Hash
    to: Hash
    reason: Text
    rolled_back_at: UtcTime


class WithdrawModel(Command):
    """End a model's role; it may be deployed again."""

    model_hash: Hash
    reason: Text
    withdrawn_at: UtcTime


class StopModel(Command):
    """Let a model decide nothing more until it is resumed."""

    model_hash: Hash
    reason: Text
    stopped_at: UtcTime


class ResumeModel(Command):
    """Let a stopped model go on."""

    model_hash: Hash
    resumed_at: UtcTime


class RetireModel(Command):
    """Take a model out of every role for good; its artifact stays for replays."""

    model_hash: Hash
    reason: Text
    retired_at: UtcTime


class RecordMeasurement(Command):
    """Put a model's figures on the log, with those that are watched."""

    model_hash: Hash
    measurement: Measurement
    limits: tuple[Limit, ...]
    measured_at: UtcTime


# events


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
    segments: tuple[Segment, ...] | None = None


class ModelApproved(Event):
    """A second person approved the model."""

    model_hash: str
    kind: str
    approved_by: str
    approved_at: datetime


class ModelDeployed(Event):
    """The model has a role in its kind, from this log position on, and no other one."""

    model_hash: str
    kind: str
    schema_hash: str
    role: str
    share: float
    deployed_by: str
    deployed_at: datetime


class ModelRolledBack(Event):
    """The model ``to`` is the champion again, in the place of this one."""

    model_hash: str
    kind: str
    to: str
    to_schema_hash: str
    reason: str
    rolled_back_by: str
    rolled_back_at: datetime


class ModelWithdrawn(Event):
    """The model has no role any more."""

    model_hash: str
    kind: str
    role: str
    reason: str
    withdrawn_by: str
    withdrawn_at: datetime


class ModelStopped(Event):
    """The model decides nothing until it is resumed."""

    model_hash: str
    kind: str
    reason: str
    stopped_by: str
    stopped_at: datetime


class ModelResumed(Event):
    """The model goes on."""

    model_hash: str
    kind: str
    resumed_by: str
    resumed_at: datetime


class ModelRetired(Event):
    """The model has no role any more and gets none."""

    model_hash: str
    kind: str
    reason: str
    retired_by: str
    retired_at: datetime


class ModelMeasured(Event):
    """A model's figures over the decisions of a stretch of the log."""

    model_hash: str
    kind: str
    measurement: Measurement
    measured_at: datetime


class ModelAlertRaised(Event):
    """A model's figure has gone past its threshold."""

    model_hash: str
    kind: str
    measure: str
    feature: str | None
    value: float
    threshold: float
    sentence: str
    raised_at: datetime


class ModelAlertCleared(Event):
    """A model's figure is within its threshold again."""

    model_hash: str
    kind: str
    measure: str
    feature: str | None
    value: float
    threshold: float
    cleared_at: datetime


EVENTS = (
    ModelRegistered,
    ModelApproved,
    ModelDeployed,
    ModelRolledBack,
    ModelWithdrawn,
    ModelStopped,
    ModelResumed,
    ModelRetired,
    ModelMeasured,
    ModelAlertRaised,
    ModelAlertCleared,
)

#: The stream that an event belongs to, by its fields.
STREAM = "models/{model_hash}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    ModelRegistered: "Model {model_hash} ({kind}) was registered by {registered_by}",
    ModelApproved: "Model {model_hash} was approved by {approved_by}",
    ModelDeployed: "Model {model_hash} was deployed as {role} for {kind} by {deployed_by}",
    ModelRolledBack: "Model {model_hash} was rolled back to {to} by {rolled_back_by}: {reason}",
    ModelWithdrawn: "Model {model_hash} is {role} no more, says {withdrawn_by}: {reason}",
    ModelStopped: "Model {model_hash} was stopped by {stopped_by}: {reason}",
    ModelResumed: "Model {model_hash} goes on, says {resumed_by}",
    ModelRetired: "Model {model_hash} was retired by {retired_by}: {reason}",
    ModelMeasured: "Model {model_hash} ({kind}) was measured",
    ModelAlertRaised: "Alert on model {model_hash}: {sentence}",
    ModelAlertCleared: "Model {model_hash}: {measure} is within its threshold again",
}

# older forms


def deployed_v1_to_v2(body: dict[str, Any]) -> dict[str, Any]:
    """v2 knows roles; v1 knew champions only."""
    return {**body, "role": Role.CHAMPION.value, "share": 1.0}


# state


@dataclass(frozen=True, slots=True)
class Model:
    """What the rules need to know of a model.

    ``fits_worse``: than the baseline. ``role``: the last one that it was given and did not lose by
    an event of its own; another model may have it by now. ``was_champion``: it may be rolled back
    to. ``alerting``: the measures past their thresholds.
    """

    model_hash: str = ""
    kind: str = ""
    schema_hash: str = ""
    stage: Stage = Stage.UNKNOWN
    registered_by: str = ""
    fits_worse: bool = False
    role: str = ""
    was_champion: bool = False
    stopped: bool = False
    alerting: frozenset[str] = frozenset()


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
                fits_worse=event.metrics.fit_worse_than(event.baseline),
            )
        case ModelApproved():
            return replace(model, stage=Stage.APPROVED)
        case ModelDeployed():
            champion = model.was_champion or event.role == Role.CHAMPION
            return replace(model, stage=Stage.DEPLOYED, role=event.role, was_champion=champion)
        case ModelRolledBack() | ModelWithdrawn():
            return replace(model, role="")
        case ModelStopped():
            return replace(model, stopped=True)
        case ModelResumed():
            return replace(model, stopped=False)
        case ModelRetired():
            return replace(model, stage=Stage.RETIRED, role="")
        case ModelAlertRaised():
            return replace(model, alerting=model.alerting | {_watched(event)})
        case ModelAlertCleared():
            return replace(model, alerting=model.alerting - {_watched(event)})
    return model


def _watched(event: ModelAlertRaised | ModelAlertCleared) -> str:
    return event.measure if event.feature is None else f"{event.measure}:{event.feature}"


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
            segments=command.segments,
        )
    ]


def approve(model: Model, command: ApproveModel, actor: str) -> Sequence[Event]:
    """Approve what somebody else registered. A key is nobody's second pair of eyes: whoever
    registered a model may have issued it."""
    _must_be_known(model, command.model_hash)
    if actor.startswith(KEY_ACTOR):
        raise Refused("model.needs_a_person", model_hash=model.model_hash, actor=actor)
    if model.stage is not Stage.REGISTERED:
        raise Refused("model.already_approved", model_hash=model.model_hash)
    if actor == model.registered_by:
        raise Refused("model.needs_second_person", model_hash=model.model_hash, actor=actor)
    if model.fits_worse and not command.accept_worse:
        raise Refused("model.worse_than_baseline", model_hash=model.model_hash)
    return [
        ModelApproved(
            model_hash=model.model_hash,
            kind=model.kind,
            approved_by=actor,
            approved_at=command.approved_at,
        )
    ]


def deploy(model: Model, command: DeployModel, actor: str) -> Sequence[Event]:
    """Deploy an approved model; one that was live before may be deployed again."""
    _must_be_known(model, command.model_hash)
    if model.stage is Stage.REGISTERED:
        raise Refused("model.not_approved", model_hash=model.model_hash)
    _must_not_be_retired(model)
    return [
        ModelDeployed(
            model_hash=model.model_hash,
            kind=model.kind,
            schema_hash=model.schema_hash,
            role=command.role,
            share=1.0 if command.share is None else command.share,
            deployed_by=actor,
            deployed_at=command.deployed_at,
        )
    ]


def roll_back(model: Model, command: RollBackModel, actor: str, to: Model) -> Sequence[Event]:
    """Put an earlier champion of the same kind in the place of this one."""
    _must_be_known(model, command.model_hash)
    with of_field("to"):
        _must_be_known(to, command.to)
    if command.to == command.model_hash:
        raise Refused("model.same_model", model_hash=command.model_hash)
    if not model.was_champion:
        raise Refused("model.never_champion", model_hash=model.model_hash)
    if to.kind != model.kind:
        raise Refused(
            "model.of_another_kind", model_hash=to.model_hash, kind=to.kind, wanted=model.kind
        )
    if not to.was_champion:
        raise Refused("model.never_champion", model_hash=to.model_hash)
    _must_not_be_retired(to)
    if to.stopped:
        raise Refused("model.stopped", model_hash=to.model_hash)
    return [
        ModelRolledBack(
            model_hash=model.model_hash,
            kind=model.kind,
            to=to.model_hash,
            to_schema_hash=to.schema_hash,
            reason=command.reason,
            rolled_back_by=actor,
            rolled_back_at=command.rolled_back_at,
        )
    ]


def withdraw(model: Model, command: WithdrawModel, actor: str) -> Sequence[Event]:
    """End the role that a model has."""
    _must_be_known(model, command.model_hash)
    _must_not_be_retired(model)
    # Rolled back to, a model is champion again by an event of the other one.
    role = model.role or (Role.CHAMPION if model.was_champion else "")
    if not role:
        raise Refused("model.no_role", model_hash=model.model_hash)
    return [
        ModelWithdrawn(
            model_hash=model.model_hash,
            kind=model.kind,
            role=role,
            reason=command.reason,
            withdrawn_by=actor,
            withdrawn_at=command.withdrawn_at,
        )
    ]


def stop(model: Model, command: StopModel, actor: str) -> Sequence[Event]:
    """Pull a model's stop switch."""
    _must_be_known(model, command.model_hash)
    if model.stopped:
        raise Refused("model.already_stopped", model_hash=model.model_hash)
    return [
        ModelStopped(
            model_hash=model.model_hash,
            kind=model.kind,
            reason=command.reason,
            stopped_by=actor,
            stopped_at=command.stopped_at,
        )
    ]


def resume(model: Model, command: ResumeModel, actor: str) -> Sequence[Event]:
    """Release a model's stop switch."""
    _must_be_known(model, command.model_hash)
    if not model.stopped:
        raise Refused("model.not_stopped", model_hash=model.model_hash)
    return [
        ModelResumed(
            model_hash=model.model_hash,
            kind=model.kind,
            resumed_by=actor,
            resumed_at=command.resumed_at,
        )
    ]


def retire(model: Model, command: RetireModel, actor: str) -> Sequence[Event]:
    """Retire a model once, wherever it stands."""
    _must_be_known(model, command.model_hash)
    _must_not_be_retired(model)
    return [
        ModelRetired(
            model_hash=model.model_hash,
            kind=model.kind,
            reason=command.reason,
            retired_by=actor,
            retired_at=command.retired_at,
        )
    ]


def measure(model: Model, command: RecordMeasurement) -> Sequence[Event]:
    """The figures; an alert where a limit is newly passed, and its end where it no longer is."""
    _must_be_known(model, command.model_hash)
    events: list[Event] = [
        ModelMeasured(
            model_hash=model.model_hash,
            kind=model.kind,
            measurement=command.measurement,
            measured_at=command.measured_at,
        )
    ]
    for limit in command.limits:
        told: Mapping[str, Any] = {
            "model_hash": model.model_hash,
            "kind": model.kind,
            "measure": limit.measure,
            "feature": limit.feature,
            "value": limit.value,
            "threshold": limit.threshold,
        }
        passed = limit.value > limit.threshold
        if passed and limit.name not in model.alerting:
            events.append(
                ModelAlertRaised(**told, sentence=limit.sentence, raised_at=command.measured_at)
            )
        elif not passed and limit.name in model.alerting:
            events.append(ModelAlertCleared(**told, cleared_at=command.measured_at))
    return events


def _must_be_known(model: Model, model_hash: str) -> None:
    if model.stage is Stage.UNKNOWN:
        raise Refused("model.unknown", model_hash=model_hash)


def _must_not_be_retired(model: Model) -> None:
    if model.stage is Stage.RETIRED:
        raise Refused("model.retired", model_hash=model.model_hash)
