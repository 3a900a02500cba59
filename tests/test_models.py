"""Models: registered, approved by a second person, in a role, rolled back, stopped, watched."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from domain.models import (
    ApproveModel,
    DeployModel,
    Limit,
    Measurement,
    Metrics,
    ModelAlertCleared,
    ModelAlertRaised,
    ModelApproved,
    ModelDeployed,
    ModelMeasured,
    ModelRegistered,
    ModelResumed,
    ModelRetired,
    ModelRolledBack,
    ModelStopped,
    ModelWithdrawn,
    RecordMeasurement,
    RegisterModel,
    ResumeModel,
    RetireModel,
    Role,
    RollBackModel,
    Segment,
    StopModel,
    Training,
    WithdrawModel,
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
    segments=(),
)
approved = ModelApproved(model_hash=HASH, kind="fulfilment", approved_by="ben", approved_at=NOON)
deployed = ModelDeployed(
    model_hash=HASH,
    kind="fulfilment",
    schema_hash=SCHEMA,
    role="champion",
    share=1.0,
    deployed_by="ana",
    deployed_at=NOON,
)
as_challenger = deployed.model_copy(update={"role": "challenger", "share": 0.25})
as_shadow = deployed.model_copy(update={"role": "shadow"})

OTHER = "d" * 64
other_registered = registered.model_copy(update={"model_hash": OTHER, "schema_hash": "e" * 64})
other_approved = approved.model_copy(update={"model_hash": OTHER})
other_deployed = deployed.model_copy(update={"model_hash": OTHER, "schema_hash": "e" * 64})
other_retired = ModelRetired(
    model_hash=OTHER, kind="fulfilment", reason="old", retired_by="ben", retired_at=NOON
)
BACK = RollBackModel(model_hash=HASH, to=OTHER, reason="drift", rolled_back_at=NOON)
rolled_back = ModelRolledBack(
    model_hash=HASH,
    kind="fulfilment",
    to=OTHER,
    to_schema_hash="e" * 64,
    reason="drift",
    rolled_back_by="ana",
    rolled_back_at=NOON,
)
STOP = StopModel(model_hash=HASH, reason="odd", stopped_at=NOON)
RESUME = ResumeModel(model_hash=HASH, resumed_at=NOON)
WITHDRAW = WithdrawModel(model_hash=HASH, reason="too slow", withdrawn_at=NOON)
RETIRE = RetireModel(model_hash=HASH, reason="old", retired_at=NOON)
stopped = ModelStopped(
    model_hash=HASH, kind="fulfilment", reason="odd", stopped_by="ana", stopped_at=NOON
)
resumed = ModelResumed(model_hash=HASH, kind="fulfilment", resumed_by="ana", resumed_at=NOON)
retired = ModelRetired(
    model_hash=HASH, kind="fulfilment", reason="old", retired_by="ana", retired_at=NOON
)
other_stopped = stopped.model_copy(update={"model_hash": OTHER})
other_resumed = resumed.model_copy(update={"model_hash": OTHER})


def withdrawn(role: str = "champion") -> ModelWithdrawn:
    return ModelWithdrawn(
        model_hash=HASH,
        kind="fulfilment",
        role=role,
        reason="too slow",
        withdrawn_by="ana",
        withdrawn_at=NOON,
    )


MEASUREMENT = Measurement(
    from_position=1,
    to_position=90,
    decisions=40,
    outcomes=30,
    overridden=3,
    accuracy=0.9,
    brier=0.1,
    calibration_error=0.02,
    estimated_accuracy=None,
    estimated_brier=None,
    psi={"slack": 0.1},
    ks={"slack": 0.05},
)
measured = ModelMeasured(
    model_hash=HASH, kind="fulfilment", measurement=MEASUREMENT, measured_at=NOON
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


def test_a_key_is_nobodys_second_pair_of_eyes() -> None:
    given(registered).when(APPROVE, "key:K-1").refused("model.needs_a_person", actor="key:K-1")


@pytest.mark.parametrize(
    ("loss", "worse"), [(0.3, False), (0.30001, True), (5.0, True), (0.1, False)]
)
def test_who_approves_what_fits_worse_than_the_baseline_says_so(loss: float, worse: bool) -> None:
    """The baseline's log loss is 0.3."""
    fitted = METRICS.model_copy(update={"log_loss": loss})
    before = given(registered.model_copy(update={"metrics": fitted}))
    knowing = APPROVE.model_copy(update={"accept_worse": True})
    before.when(knowing, "ben").then(approved)
    if worse:
        before.when(APPROVE, "ben").refused("model.worse_than_baseline", model_hash=HASH)
        before.when(knowing, "ana").refused("model.needs_second_person", actor="ana")
    else:
        before.when(APPROVE, "ben").then(approved)


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


@pytest.mark.parametrize("command", [DEPLOY, STOP, RESUME, RETIRE, BACK, WITHDRAW], ids=type)
def test_what_is_unknown_is_neither_deployed_nor_anything_else(command: Command) -> None:
    given().when(command).refused("model.unknown", model_hash=HASH)


def test_the_metrics_of_segments_are_kept() -> None:
    parts = (Segment(column="region", value="DE-BE", metrics=METRICS),)
    given().when(REGISTER.model_copy(update={"segments": parts})).then(
        registered.model_copy(update={"segments": parts})
    )


# roles


def test_a_model_gets_a_role() -> None:
    challenger = DeployModel(model_hash=HASH, role=Role.CHALLENGER, share=0.25, deployed_at=NOON)
    shadow = DeployModel(model_hash=HASH, role=Role.SHADOW, deployed_at=NOON)
    given(registered, approved).when(challenger).then(as_challenger)
    given(registered, approved).when(shadow).then(as_shadow)
    given(registered, approved, as_shadow).when(DEPLOY).then(deployed)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"role": "challenger"}, "a challenger has one"),
        ({"role": "champion", "share": 0.5}, "a champion or shadow has none"),
        ({"role": "shadow", "share": 1}, "a champion or shadow has none"),
        ({"role": "challenger", "share": 0}, "greater than 0"),
        ({"role": "challenger", "share": 1.01}, "less than or equal to 1"),
        ({"role": "king"}, "'champion', 'challenger' or 'shadow'"),
    ],
)
def test_a_share_is_for_challengers(fields: dict[str, Any], told: str) -> None:
    found = problems(DeployModel, model_hash=HASH, deployed_at=NOON, **fields)
    assert "share" in found or "role" in found
    assert told in found


@pytest.mark.parametrize(
    ("given_role", "role"),
    [(deployed, "champion"), (as_challenger, "challenger"), (as_shadow, "shadow")],
)
def test_a_role_ends_and_may_be_given_again(given_role: ModelDeployed, role: str) -> None:
    known = (registered, approved, given_role)
    given(*known).when(WITHDRAW).then(withdrawn(role))
    if given_role is not deployed:
        given(*known, withdrawn(role)).when(WITHDRAW).refused("model.no_role", model_hash=HASH)
    given(*known, retired).when(WITHDRAW).refused("model.retired", model_hash=HASH)
    given(*known, withdrawn(role)).when(DEPLOY).then(deployed)
    given(*known, withdrawn(role), deployed).when(WITHDRAW).then(withdrawn())


def test_it_is_the_last_role_that_ends() -> None:
    given(registered, approved, as_challenger, deployed).when(WITHDRAW).then(withdrawn())
    given(registered, approved, deployed, as_shadow).when(WITHDRAW).then(withdrawn("shadow"))


@pytest.mark.parametrize("before", [[deployed, rolled_back], [deployed, withdrawn()]])
def test_a_former_champion_may_be_one_again_by_another_ones_roll_back(before: list[Event]) -> None:
    """Its own stream does not say so: it can always be withdrawn."""
    given(registered, approved, *before).when(WITHDRAW).then(withdrawn())


@pytest.mark.parametrize("before", [[], [approved]])
def test_without_a_role_nothing_is_withdrawn(before: list[Event]) -> None:
    given(registered, *before).when(WITHDRAW).refused("model.no_role", model_hash=HASH)


def test_a_withdrawn_champion_can_be_rolled_back_from_and_to() -> None:
    others = (other_registered, other_approved, other_deployed)
    given(registered, approved, deployed, withdrawn()).reading(*others).when(BACK).then(rolled_back)
    other_withdrawn = withdrawn().model_copy(update={"model_hash": OTHER})
    given(registered, approved, deployed).reading(*others, other_withdrawn).when(BACK).then(
        rolled_back
    )


# rolling back


def test_the_former_champion_comes_back_with_its_schema() -> None:
    given(registered, approved, deployed).reading(
        other_registered, other_approved, other_deployed
    ).when(BACK).then(rolled_back)


def test_a_retired_champion_can_still_be_rolled_back_from() -> None:
    given(registered, approved, deployed, retired).reading(
        other_registered, other_approved, other_deployed
    ).when(BACK).then(rolled_back)


@pytest.mark.parametrize(
    ("own", "read", "code", "told"),
    [
        ([], [other_registered, other_deployed], "model.never_champion", {"model_hash": HASH}),
        (
            [as_challenger],
            [other_registered, other_deployed],
            "model.never_champion",
            {"model_hash": HASH},
        ),
        ([deployed], [], "model.unknown", {"model_hash": OTHER}),
        (
            [deployed],
            [other_registered, other_approved],
            "model.never_champion",
            {"model_hash": OTHER},
        ),
        (
            [deployed],
            [
                other_registered,
                other_approved,
                as_shadow.model_copy(update={"model_hash": OTHER}),
            ],
            "model.never_champion",
            {"model_hash": OTHER},
        ),
        (
            [deployed],
            [other_registered, other_approved, other_deployed, other_retired],
            "model.retired",
            {"model_hash": OTHER},
        ),
        (
            [deployed],
            [other_registered.model_copy(update={"kind": "reorder"}), other_deployed],
            "model.of_another_kind",
            {"model_hash": OTHER, "kind": "reorder", "wanted": "fulfilment"},
        ),
    ],
)
def test_only_a_champion_makes_place_for_one_of_its_kind(
    own: list[Event], read: list[Event], code: str, told: dict[str, str]
) -> None:
    given(registered, approved, *own).reading(*read).when(BACK).refused(code, **told)


def test_nobody_rolls_back_to_a_stopped_model() -> None:
    before = given(registered, approved, deployed)
    known = (other_registered, other_approved, other_deployed, other_stopped)
    before.reading(*known).when(BACK).refused("model.stopped", model_hash=OTHER)
    before.reading(*known, other_resumed).when(BACK).then(rolled_back)


def test_a_model_is_not_rolled_back_to_itself() -> None:
    itself = BACK.model_copy(update={"to": HASH})
    given(registered, approved, deployed).when(itself).refused("model.same_model")


# stopping and retiring


@pytest.mark.parametrize("before", [[], [approved], [approved, deployed]])
def test_a_model_is_stopped_resumed_and_stopped_again(before: list[Event]) -> None:
    given(registered, *before).when(STOP).then(stopped)
    given(registered, *before, stopped).when(RESUME).then(resumed)
    given(registered, *before, stopped, resumed).when(STOP).then(stopped)


def test_a_switch_has_two_positions() -> None:
    known = (registered, approved, deployed)
    given(*known, stopped).when(STOP).refused("model.already_stopped", model_hash=HASH)
    given(*known).when(RESUME).refused("model.not_stopped", model_hash=HASH)
    given(*known, stopped, resumed).when(RESUME).refused("model.not_stopped")


@pytest.mark.parametrize("before", [[], [approved], [approved, deployed], [approved, stopped]])
def test_a_model_is_retired_for_good(before: list[Event]) -> None:
    given(registered, *before).when(RETIRE).then(retired)
    given(registered, *before, retired).when(RETIRE).refused("model.retired", model_hash=HASH)


@pytest.mark.parametrize("role", [Role.CHAMPION, Role.SHADOW])
def test_a_retired_model_gets_no_role(role: Role) -> None:
    again = DeployModel(model_hash=HASH, role=role, deployed_at=NOON)
    given(registered, approved, deployed, retired).when(again).refused("model.retired")


def test_a_model_is_not_approved_after_it_was_retired() -> None:
    given(registered, retired).when(APPROVE, "ben").refused("model.already_approved")


# measurements and alerts


def limit(value: float, feature: str | None = "slack", measure: str = "psi") -> Limit:
    return Limit(
        measure=measure, feature=feature, value=value, threshold=0.25, sentence=f"it is {value}"
    )


def measure(*limits: Limit) -> RecordMeasurement:
    return RecordMeasurement(
        model_hash=HASH, measurement=MEASUREMENT, limits=limits, measured_at=NOON
    )


def raised(one: Limit) -> ModelAlertRaised:
    fields = one.model_dump() | {"model_hash": HASH, "kind": "fulfilment", "raised_at": NOON}
    return ModelAlertRaised(**fields)


def cleared(one: Limit) -> ModelAlertCleared:
    fields = one.model_dump(exclude={"sentence"})
    return ModelAlertCleared(**fields, model_hash=HASH, kind="fulfilment", cleared_at=NOON)


def test_an_alert_is_raised_once_and_cleared_once() -> None:
    high, higher, low = limit(0.3), limit(0.4), limit(0.2)
    given(registered).when(measure(high)).then(measured, raised(high))
    given(registered, measured, raised(high)).when(measure(higher)).then(measured)
    given(registered, raised(high)).when(measure(low)).then(measured, cleared(low))
    given(registered, raised(high), cleared(low)).when(measure(low)).then(measured)
    given(registered, raised(high), cleared(low)).when(measure(higher)).then(
        measured, raised(higher)
    )


def test_what_is_at_its_threshold_is_within_it() -> None:
    given(registered).when(measure(limit(0.25))).then(measured)
    given(registered, raised(limit(0.3))).when(measure(limit(0.25))).then(
        measured, cleared(limit(0.25))
    )


def test_each_measure_and_feature_has_an_alert_of_its_own() -> None:
    psi, ks, other = limit(0.3), limit(0.3, measure="ks"), limit(0.3, feature="hour")
    whole = limit(0.3, feature=None, measure="override_rate")
    given(registered, raised(psi)).when(measure(psi, ks, other, whole)).then(
        measured, raised(ks), raised(other), raised(whole)
    )
    given(registered, raised(psi), raised(whole)).when(
        measure(limit(0.1, feature=None, measure="override_rate"))
    ).then(measured, cleared(limit(0.1, feature=None, measure="override_rate")))


def test_an_unknown_model_is_not_measured() -> None:
    given().when(measure()).refused("model.unknown", model_hash=HASH)


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
