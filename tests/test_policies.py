"""Policies: set as a whole, and a stop switch for each kind of decision."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from commands import HANDLERS as WITHOUT_KINDS
from domain.access import Role
from domain.errors import Refused
from domain.policies import (
    KindResumed,
    KindStopped,
    PolicySet,
    ResumeKind,
    SetPolicy,
    StopKind,
)
from domain.values import Command, Event
from ml.catalogue import HANDLERS, KINDS
from tests.spec import given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

SET = SetPolicy(
    kind="fulfilment", minimum_confidence=0.8, four_eyes_above_minor=100_000, set_at=NOON
)
STOP = StopKind(kind="fulfilment", reason="strike", stopped_at=NOON)
RESUME = ResumeKind(kind="fulfilment", resumed_at=NOON)

policy_set = PolicySet(
    kind="fulfilment",
    minimum_confidence=0.8,
    four_eyes_above_minor=100_000,
    max_psi=0.25,
    max_ks=0.25,
    max_calibration_error=0.1,
    max_accuracy_drop=0.1,
    max_override_rate=0.3,
    set_by="ana",
    set_at=NOON,
)
stopped = KindStopped(kind="fulfilment", reason="strike", stopped_by="ana", stopped_at=NOON)
resumed = KindResumed(kind="fulfilment", resumed_by="ana", resumed_at=NOON)


@pytest.mark.parametrize("history", [[], [policy_set], [stopped], [policy_set, stopped, resumed]])
def test_a_policy_is_replaced_as_a_whole(history: list[Event]) -> None:
    given(*history).when(SET).then(policy_set)
    given(*history).when(SetPolicy(kind="fulfilment", set_at=NOON), "ben").then(
        policy_set.model_copy(
            update={"minimum_confidence": 0.0, "four_eyes_above_minor": None, "set_by": "ben"}
        )
    )


@pytest.mark.parametrize("history", [[], [policy_set], [stopped, resumed]])
def test_a_kind_is_stopped(history: list[Event]) -> None:
    given(*history).when(STOP).then(stopped)


@pytest.mark.parametrize("history", [[stopped], [stopped, policy_set]])
def test_a_stopped_kind_is_not_stopped_again_but_resumed(history: list[Event]) -> None:
    """A new policy does not release the switch."""
    given(*history).when(STOP).refused("policy.already_stopped", kind="fulfilment")
    given(*history).when(RESUME).then(resumed)


@pytest.mark.parametrize("history", [[], [policy_set], [stopped, resumed]])
def test_what_runs_is_not_resumed(history: list[Event]) -> None:
    given(*history).when(RESUME).refused("policy.not_stopped", kind="fulfilment")


@pytest.mark.parametrize("command", [SET, STOP, RESUME], ids=type)
def test_a_kind_that_there_is_not_has_no_policy(command: Command) -> None:
    """A misspelt kind must not seem stopped."""
    misspelt = command.model_copy(update={"kind": "fulfillment"})
    given().when(misspelt).refused(
        "decision.unknown_kind", kind="fulfillment", known=", ".join(sorted(KINDS))
    )


@pytest.mark.parametrize("command", [SET, STOP, RESUME], ids=type)
def test_the_handlers_without_kinds_know_none(command: Command) -> None:
    with pytest.raises(Refused, match=r"decision\.unknown_kind"):
        WITHOUT_KINDS[type(command)].stream(command)


def test_who_plans_may_stop_and_only_who_operates_may_resume() -> None:
    assert Role.ANALYST in HANDLERS[StopKind].roles
    assert Role.ANALYST not in HANDLERS[ResumeKind].roles | HANDLERS[SetPolicy].roles
    assert Role.ADMIN in HANDLERS[ResumeKind].roles & HANDLERS[SetPolicy].roles


@pytest.mark.parametrize(
    ("kind", "fields", "field", "rule"),
    [
        (SetPolicy, {"minimum_confidence": 1.1}, "minimum_confidence", "less than or equal to 1"),
        (SetPolicy, {"minimum_confidence": -0.1}, "minimum_confidence", "greater than or equal"),
        (SetPolicy, {"four_eyes_above_minor": -1}, "four_eyes_above_minor", "greater than or"),
        (SetPolicy, {"max_psi": 0}, "max_psi", "greater than 0"),
        (SetPolicy, {"max_ks": float("nan")}, "max_ks", "finite number"),
        (SetPolicy, {"max_override_rate": 2}, "max_override_rate", "less than or equal to 1"),
        (SetPolicy, {"patience": 2}, "patience", "Extra inputs"),
        (SetPolicy, {"kind": ""}, "kind", "match pattern"),
        (StopKind, {"reason": ""}, "reason", "at least 1 character"),
        (StopKind, {"reason": "a\0b"}, "reason", "U+0000"),
        (StopKind, {"stopped_at": "2026-03-01T12:00:00"}, "stopped_at", "timezone"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    kind: type[Command], fields: dict[str, Any], field: str, rule: str
) -> None:
    right = (SET if kind is SetPolicy else STOP).model_dump()
    assert problems(kind, **right) == ""
    told = problems(kind, **(right | fields))
    assert field in told
    assert rule in told
