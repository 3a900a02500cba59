"""Metrics: figures are recorded, corrected by later events, withdrawn, and never edited."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.access import Role
from domain.metrics import (
    CorrectMetric,
    MetricCorrected,
    MetricRecorded,
    MetricWithdrawn,
    RecordMetric,
    WithdrawMetric,
)
from domain.sites import ServiceLevel, SiteClosed, SiteOpened
from domain.transport import VehicleRegistered
from domain.values import Command
from ml.catalogue import HANDLERS
from tests.spec import given, problems

#: Under these the API has something else.
RESERVED = ("dashboard", "kpi")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

RECORD = RecordMetric(
    metric_id="M-1", name="dock.wait", value=Decimal("12.5"), unit="min", measured_at=NOON
)
CORRECT = CorrectMetric(
    metric_id="M-1", value=Decimal("21.5"), reason="digits swapped", corrected_at=NOON
)
WITHDRAW = WithdrawMetric(metric_id="M-1", reason="clock stood still", withdrawn_at=NOON)

recorded = MetricRecorded(
    metric_id="M-1",
    name="dock.wait",
    value=Decimal("12.5"),
    unit="min",
    measured_at=NOON,
    site_id=None,
    client_id=None,
    vehicle_id=None,
    sku=None,
    source=None,
)
corrected = MetricCorrected(
    metric_id="M-1",
    name="dock.wait",
    value=Decimal("21.5"),
    unit="min",
    measured_at=NOON,
    was=Decimal("12.5"),
    reason="digits swapped",
    corrected_by="ana",
    corrected_at=NOON,
)
withdrawn = MetricWithdrawn(
    metric_id="M-1",
    name="dock.wait",
    reason="clock stood still",
    withdrawn_by="ana",
    withdrawn_at=NOON,
)
opened = SiteOpened(
    site_id="S-1",
    name=None,
    region=None,
    service_levels=(ServiceLevel(code="standard"),),
    daily_capacity=None,
    opened_at=None,
)
closed = SiteClosed(site_id="S-1", reason="lease ended", closed_at=None)
van = VehicleRegistered(
    vehicle_id="V-1",
    site_id="S-1",
    mode="van",
    service_levels=("standard",),
    max_weight_g=None,
    daily_capacity=None,
    cost_minor=0,
    carbon_g=0,
    registered_at=None,
)


@pytest.mark.parametrize("metric_id", RESERVED)
def test_a_figure_has_no_id_that_the_api_uses_for_something_else(metric_id: str) -> None:
    refused = given().when(RECORD.model_copy(update={"metric_id": metric_id}))
    refused.refused("metric.reserved_id", metric_id=metric_id, reserved="dashboard, kpi")


def test_a_figure_is_recorded_once() -> None:
    given().when(RECORD).then(recorded)
    given(recorded).when(RECORD).refused("metric.already_recorded", metric_id="M-1")
    given(recorded, withdrawn).when(RECORD).refused("metric.already_recorded", metric_id="M-1")


def test_a_figure_may_be_of_a_site_and_a_vehicle_that_are_known() -> None:
    """A closed site may still have figures: they are often told late."""
    of_both = RECORD.model_copy(update={"site_id": "S-1", "vehicle_id": "V-1"})
    expected = recorded.model_copy(update={"site_id": "S-1", "vehicle_id": "V-1"})
    given().reading(opened, van).when(of_both).then(expected)
    given().reading(opened, closed, van).when(of_both).then(expected)
    given().reading(van).when(of_both).refused("site.unknown", site_id="S-1")
    given().reading(opened).when(of_both).refused("vehicle.unknown", vehicle_id="V-1")


@pytest.mark.parametrize(
    ("field", "code"), [("client_id", "client.unknown"), ("sku", "product.unknown")]
)
def test_a_figure_of_what_is_not_known_is_refused(field: str, code: str) -> None:
    given().when(RECORD.model_copy(update={field: "X-1"})).refused(code, **{field: "X-1"})


def test_a_correction_says_what_holds_from_now_on_and_what_was() -> None:
    given(recorded).when(CORRECT).then(corrected)
    later = NOON + timedelta(hours=1)
    given(recorded, corrected).when(
        CorrectMetric(metric_id="M-1", measured_at=later, reason="zone", corrected_at=NOON), "ben"
    ).then(
        corrected.model_copy(
            update={
                "measured_at": later,
                "was": Decimal("21.5"),
                "reason": "zone",
                "corrected_by": "ben",
            }
        )
    )


def test_a_correction_that_changes_nothing_is_refused() -> None:
    given(recorded, corrected).when(CORRECT).refused("metric.unchanged", metric_id="M-1")
    given(recorded).when(CORRECT.model_copy(update={"value": None})).refused("metric.unchanged")


def test_what_was_withdrawn_counts_no_more() -> None:
    given(recorded).when(WITHDRAW).then(withdrawn)
    given(recorded, withdrawn).when(WITHDRAW).refused("metric.withdrawn", metric_id="M-1")
    given(recorded, withdrawn).when(CORRECT).refused("metric.withdrawn", metric_id="M-1")


@pytest.mark.parametrize("command", [CORRECT, WITHDRAW], ids=type)
def test_what_was_never_recorded_is_not_known(command: Command) -> None:
    given().when(command).refused("metric.unknown", metric_id="M-1")


def test_who_plans_may_record_and_who_only_looks_may_not() -> None:
    for command in (RecordMetric, CorrectMetric, WithdrawMetric):
        roles = HANDLERS[command].roles
        assert {Role.ADMIN, Role.ANALYST, Role.SERVICE} == roles


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"name": "Dock wait"}, "name", "match pattern"),
        ({"name": "a" * 65}, "name", "at most 64"),
        ({"value": "1.2345"}, "value", "3 decimal places"),
        ({"value": "NaN"}, "value", "finite"),
        ({"unit": "per hour"}, "unit", "match pattern"),
        ({"measured_at": "2026-03-01T12:00:00"}, "measured_at", "timezone"),
        ({"site_id": "S 1"}, "site_id", "match pattern"),
        ({"at": NOON}, "at", "Extra inputs"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    fields: dict[str, Any], field: str, rule: str
) -> None:
    right = RECORD.model_dump()
    assert problems(RecordMetric, **right) == ""
    told = problems(RecordMetric, **(right | fields))
    assert field in told
    assert rule in told
