"""Alerts: their rules, and a watcher on a real log whose clock is ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from chainlytics.application import Application
from commands import Context, stream_id
from domain.access import Role
from domain.alert_rules import AlertKind, AlertRuleSet, Rule, SetAlertRule, Severity
from domain.alerts import (
    AcknowledgeAlert,
    AlertAcknowledged,
    AlertCauseEnded,
    AlertRaised,
    AlertRead,
    AlertReopened,
    AlertResolved,
    AlertSnoozed,
    EndAlertCause,
    RaiseAlert,
    ReadAlert,
    ReopenAlert,
    ResolveAlert,
    SnoozeAlert,
    alert_id_of,
)
from domain.catalogue import encode, stream_of
from domain.decisions import DecisionConfirmed
from domain.inventory import PickStock, ReceiveStock
from domain.models import RecordMeasurement
from domain.orders import CancelOrder, OrderLine, PlaceOrder
from domain.products import ChangeProduct, RegisterProduct
from domain.scheduled_work import ScheduledWork
from domain.schedules import MakeSchedule, RetireSchedule, RunSchedule
from domain.sites import OpenSite
from domain.tasks import CancelTask, CompleteTask, FailTask, RetryTask, StartTask
from domain.timetable import Timetable
from domain.values import Command, Event
from domain.work import RequestReplay
from eventstore import Entry, NewEvent, Unit, Writer
from ml.alert_conditions import CONDITIONS
from ml.alerts import Looked, Watcher
from readmodels.alerts import AlertPage, AlertSummary, alert_rules, get_alert, list_alerts
from readmodels.database import ReadModels
from tests.spec import given, problems
from tests.test_decisions import made
from tests.test_models import HASH, MEASUREMENT, REGISTER, limit
from tests.world import company

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ID = alert_id_of("order_late", "O-1", 1)

RAISE = RaiseAlert(
    kind=AlertKind.ORDER_LATE,
    subject_id="O-1",
    occurrence=1,
    severity=Severity.WARNING,
    sentence="O-1 is late",
    value=3.0,
    threshold=0.0,
    raised_at=NOON,
)
raised = AlertRaised(
    alert_id=ID,
    kind="order_late",
    subject_id="O-1",
    occurrence=1,
    severity="warning",
    sentence="O-1 is late",
    value=3.0,
    threshold=0.0,
    raised_at=NOON,
)
END = EndAlertCause(alert_id=ID, ended_at=NOON)
ACK = AcknowledgeAlert(alert_id=ID, note="called", acknowledged_at=NOON)
SNOOZE = SnoozeAlert(alert_id=ID, until=NOON + HOUR, snoozed_at=NOON)
RESOLVE = ResolveAlert(alert_id=ID, reason="known", resolved_at=NOON)
REOPEN = ReopenAlert(alert_id=ID, reopened_at=NOON)
READ = ReadAlert(alert_id=ID, read_at=NOON)
acknowledged = AlertAcknowledged(
    alert_id=ID, note="called", acknowledged_by="ana", acknowledged_at=NOON
)
resolved = AlertResolved(
    alert_id=ID,
    kind="order_late",
    subject_id="O-1",
    cause_is_gone=False,
    reason="known",
    resolved_by="ana",
    resolved_at=NOON,
)
over = resolved.model_copy(update={"cause_is_gone": True, "reason": "its cause is gone"})
snoozed = AlertSnoozed(alert_id=ID, until=NOON + HOUR, snoozed_by="ana", snoozed_at=NOON)
reopened = AlertReopened(
    alert_id=ID,
    kind="order_late",
    subject_id="O-1",
    reason=None,
    reopened_by="ana",
    reopened_at=NOON,
)
ended = AlertCauseEnded(alert_id=ID, kind="order_late", subject_id="O-1", ended_at=NOON)


# --- the rules


def test_an_alert_is_raised_once() -> None:
    given().when(RAISE).then(raised)
    for history in ([raised], [raised, resolved], [raised, over]):
        given(*history).when(RAISE).refused("alert.already_raised", alert_id=ID)
    assert alert_id_of("order_late", "O-1", 2) != ID


@pytest.mark.parametrize("command", [END, ACK, SNOOZE, RESOLVE, REOPEN, READ], ids=type)
def test_what_there_is_not_is_told(command: Command) -> None:
    given().when(command).refused("alert.unknown", alert_id=ID)


def test_an_alert_ends_with_its_cause() -> None:
    for history in ([raised], [raised, acknowledged], [raised, snoozed]):
        given(*history).when(END).then(over)
    given(raised, over).when(END).refused("alert.cause_is_gone", alert_id=ID)


def test_what_somebody_has_resolved_waits_for_its_cause_to_end() -> None:
    given(raised).when(RESOLVE).then(resolved)
    given(raised, resolved).when(END).then(ended)
    given(raised, resolved, ended).when(END).refused("alert.cause_is_gone")


@pytest.mark.parametrize("command", [ACK, SNOOZE, RESOLVE], ids=type)
def test_what_is_resolved_needs_nobody(command: Command) -> None:
    given(raised, resolved).when(command).refused("alert.already_resolved", alert_id=ID)


def test_an_alert_is_looked_after_or_left_alone() -> None:
    given(raised).when(ACK).then(acknowledged)
    given(raised, acknowledged).when(ACK).refused("alert.already_acknowledged")
    given(raised, acknowledged).when(SNOOZE).then(snoozed)
    past = SNOOZE.model_copy(update={"until": NOON})
    given(raised).when(past).refused("alert.snoozed_until_past", until=str(NOON))


def test_what_was_done_is_taken_back() -> None:
    for history in ([raised, acknowledged], [raised, snoozed], [raised, resolved]):
        given(*history).when(REOPEN).then(reopened)
    given(raised).when(REOPEN).refused("alert.already_open")
    given(raised, resolved, reopened).when(REOPEN).refused("alert.already_open")
    given(raised, over).when(REOPEN).refused("alert.cause_is_gone")
    given(raised, resolved, ended).when(REOPEN).refused("alert.cause_is_gone")


def test_everybody_has_seen_it_for_themselves() -> None:
    seen = AlertRead(alert_id=ID, read_by="ana", read_at=NOON)
    given(raised).when(READ).then(seen)
    given(raised, seen).when(READ).refused("alert.already_read")
    given(raised, seen).when(READ, "ben").then(seen.model_copy(update={"read_by": "ben"}))


def test_a_rule_is_set_as_a_whole_and_the_usual_fills_it() -> None:
    command = SetAlertRule(alert_kind=AlertKind.STOCK_OUT, most_open=5, set_at=NOON)
    given().when(command).then(
        AlertRuleSet(
            kind="stock_out",
            enabled=True,
            threshold=0.0,
            severity="critical",
            max_age_days=14,
            most_open=5,
            quiet_from=None,
            quiet_to=None,
            zone="UTC",
            set_by="ana",
            set_at=NOON,
        )
    )


@pytest.mark.parametrize(
    ("clock", "quiet"), [("21:59", False), ("22:00", True), ("05:59", True), ("06:00", False)]
)
def test_nobody_is_woken_in_quiet_hours(clock: str, quiet: bool) -> None:
    """By the clock of the rule's zone: Berlin is an hour ahead in March."""
    rule = Rule(0, Severity.WARNING, quiet_from="22:00", quiet_to="06:00", zone="Europe/Berlin")
    at = datetime.fromisoformat(f"2026-03-02T{clock}:00+01:00")
    assert rule.is_quiet(at) is quiet
    grave = Rule(0, Severity.CRITICAL, quiet_from="22:00", quiet_to="06:00")
    assert not grave.is_quiet(at)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"alert_kind": "boredom"}, "alert_kind"),
        ({"threshold": -1}, "threshold"),
        ({"threshold": float("nan")}, "finite number"),
        ({"severity": "bad"}, "severity"),
        ({"most_open": 0}, "most_open"),
        ({"max_age_days": 400}, "max_age_days"),
        ({"quiet_from": "22:00"}, "both, or neither"),
        ({"quiet_from": "22:00", "quiet_to": "22:00"}, "another time"),
        ({"quiet_from": "25:00", "quiet_to": "06:00"}, "quiet_from"),
        ({"zone": "Nowhere"}, "no time zone"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(fields: dict[str, Any], told: str) -> None:
    said = {"alert_kind": "order_late", "set_at": NOON}
    assert problems(SetAlertRule, **said) == ""
    assert told in problems(SetAlertRule, **(said | fields))


# --- the watcher, on a real log


class Home:
    """An organisation, and a watcher."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.organisation_id = uuid4()
        self.watcher = Watcher(app.log, app.bus)
        self.read = ReadModels(app.log, self.organisation_id)

    async def send(self, command: Command, actor: str = "boss") -> None:
        roles = frozenset({Role.ADMIN, Role.ANALYST, Role.SERVICE})
        await self.app.bus.execute(command, Context(self.organisation_id, actor, roles))

    async def look(self, now: datetime = NOON) -> Looked:
        await self.app.projector.catch_up()
        found = await self.watcher.look(now, self.organisation_id)
        await self.app.projector.catch_up()
        return found

    async def alerts(self, **chosen: Any) -> AlertPage:
        return await list_alerts(self.read, "ana", **chosen)

    async def alert(self, alert_id: str) -> AlertSummary:
        found = await get_alert(self.read, alert_id, "ana")
        assert found is not None
        return found

    async def append(self, event: Event, version: int = 1) -> None:
        """Put an event on the log as it is, behind those of its stream."""
        name = stream_of(event)
        id_ = stream_id(self.organisation_id, name)
        new = NewEvent(id_, version, *encode(event))
        entry = Entry(
            uuid4(), b"", name, version, self.organisation_id, "ana", uuid4(), None, [new]
        )
        async with Writer(self.app.url) as writer:
            await writer.append(Unit([entry], {id_: version - 1}))

    async def place(self, order_id: str, promised_at: datetime) -> None:
        line = OrderLine(line_no=1, sku="SKU-1", quantity=Decimal(1), unit_price_minor=100)
        await self.send(
            PlaceOrder(
                order_id=order_id,
                customer_id="C-1",
                currency="EUR",
                lines=(line,),
                placed_at=promised_at - 5 * DAY,
                promised_at=promised_at,
            )
        )

    async def stock(self, received: int, picked: int, at: datetime = NOON) -> None:
        await self.send(OpenSite(site_id="S-1", opened_at=at))
        came = Decimal(received)
        await self.send(ReceiveStock(site_id="S-1", sku="A", quantity=came, received_at=at))
        went = Decimal(picked)
        await self.send(PickStock(site_id="S-1", sku="A", quantity=went, picked_at=at))


Run = Callable[[Callable[[Home], Any]], None]


@pytest.fixture(scope="module")
def run(database: str) -> Iterator[Run]:
    """Runs a story in an organisation of its own."""
    with asyncio.Runner() as runner:
        opened = company(database)
        app = runner.run(opened.__aenter__())
        yield lambda story: runner.run(story(Home(app)))
        runner.run(opened.__aexit__(None, None, None))


def test_a_late_order_raises_one_alert_and_its_end_resolves_it(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.place("O-1", NOON - HOUR)
        await home.place("O-2", NOON + 90 * DAY)
        [first] = (await home.look()).raised
        told = await home.alert(first)
        assert (told.kind, told.subject_id, told.state) == ("order_late", "O-1", "open")
        assert told.sentence == (
            "Order O-1 was promised for 2026-03-01 11:00 UTC and is not delivered"
        )
        # Looked at again, by somebody else too, and before the read models know.
        others = [Watcher(home.app.log, home.app.bus) for _ in range(2)]
        looks = [one.look(NOON, home.organisation_id) for one in others]
        assert [one.raised for one in await asyncio.gather(*looks)] == [[], []]
        await home.send(CancelOrder(order_id="O-1", reason="late", cancelled_at=NOON))
        assert (await home.look()).ended == [first]
        told = await home.alert(first)
        assert (told.state, told.resolved_by) == ("resolved", "service:alerts")
        assert (await home.look()).ended == []

    run(story)


def test_two_watchers_at_once_raise_it_once(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.place("O-1", NOON - HOUR)
        await home.app.projector.catch_up()
        watchers = [Watcher(home.app.log, home.app.bus) for _ in range(4)]
        found = await asyncio.gather(*(one.look(NOON, home.organisation_id) for one in watchers))
        assert len([alert for one in found for alert in one.raised]) == 1
        await home.app.projector.catch_up()
        assert len((await home.alerts()).items) == 1

    run(story)


def test_what_was_promised_long_ago_is_history(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.place("O-old", NOON - 15 * DAY)
        assert (await home.look()).raised == []
        await home.place("O-new", NOON - 13 * DAY)
        [alert_id] = (await home.look()).raised
        # One that grows old stays: its cause is there.
        assert (await home.look(NOON + 60 * DAY)).ended == []
        assert (await home.alert(alert_id)).state == "open"

    run(story)


def test_a_first_look_raises_no_flood_and_says_so(run: Run) -> None:
    async def story(home: Home) -> None:
        rule = SetAlertRule(alert_kind=AlertKind.ORDER_LATE, most_open=3, set_at=NOON)
        await home.send(rule)
        for number in range(7):
            await home.place(f"O-{number}", NOON - (number + 1) * HOUR)
        assert len((await home.look()).raised) == 4
        [summary] = (await home.alerts(kind="too_many")).items
        assert (summary.subject_id, summary.value) == ("order_late", 4.0)
        assert "4 more cases of order_late than the 3 alerts" in summary.sentence
        late = await home.alerts(kind="order_late", sort="subject_id")
        assert [one.subject_id for one in late.items] == ["O-0", "O-1", "O-2"]
        assert (await home.look()).raised == []
        # As the first ones are settled the next ones come, and at last the summary goes.
        for number in range(4):
            command = CancelOrder(order_id=f"O-{number}", reason="x", cancelled_at=NOON)
            await home.send(command)
        looked = await home.look()
        assert len(looked.raised) == 3
        assert len(looked.ended) == 4
        assert (await home.alert(summary.alert_id)).state == "resolved"

    run(story)


def test_who_resolves_it_is_not_told_again_before_it_comes_again(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.stock(10, 10)
        [first] = (await home.look()).raised
        assert (await home.alert(first)).kind == "stock_out"
        await home.send(ResolveAlert(alert_id=first, reason="it is winter", resolved_at=NOON))
        assert (await home.look()).raised == []
        fresh = Watcher(home.app.log, home.app.bus)  # as after a start
        assert (await fresh.look(NOON, home.organisation_id)).raised == []
        more = ReceiveStock(site_id="S-1", sku="A", quantity=Decimal(500), received_at=NOON)
        await home.send(more)
        assert (await home.look()).ended == [first]
        await home.send(PickStock(site_id="S-1", sku="A", quantity=Decimal(500), picked_at=NOON))
        [second] = (await home.look()).raised
        assert (await home.alert(second)).occurrence == 2
        assert second == alert_id_of("stock_out", "S-1/A", 2)

    run(story)


def test_stock_that_does_not_last_until_more_comes(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.stock(100, 56)  # two a day in four weeks, 22 days' worth left
        assert (await home.look()).raised == []
        await home.send(
            PickStock(site_id="S-1", sku="A", quantity=Decimal(28), picked_at=NOON)
        )  # three a day, 16 left
        [alert_id] = (await home.look()).raised
        told = await home.alert(alert_id)
        assert told.kind == "stock_out_ahead"
        assert told.sentence == "Site S-1 has 16 of A to give, which lasts 5 days"
        # What nobody asks for any more lasts.
        assert (await home.look(NOON + 40 * DAY)).ended == [alert_id]

    run(story)


def test_stock_that_nobody_asked_for_lately_is_not_missed(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.stock(5, 5, NOON - 200 * DAY)
        assert (await home.look()).raised == []

    run(story)


def test_an_order_that_is_bound_to_be_late_is_told_before(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.place("O-1", NOON + 3 * DAY)
        assert (await home.look()).raised == []
        soon = NOON + 25 * HOUR  # lanes that are not known take two days
        [ahead] = (await home.look(soon)).raised
        assert (await home.alert(ahead)).kind == "order_late_ahead"
        looked = await home.look(NOON + 4 * DAY)
        assert looked.ended == [ahead]
        [late] = looked.raised
        assert (await home.alert(late)).kind == "order_late"

    run(story)


def test_a_task_that_failed_is_told_of_until_it_is_asked_for_again(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.send(RequestReplay(task_id="T-1", requested_at=NOON))
        await home.send(StartTask(task_id="T-1", worker="w", started_at=NOON))
        await home.send(
            FailTask(task_id="T-1", attempt=1, code="x.y", reason="no disk", failed_at=NOON)
        )
        [alert_id] = (await home.look()).raised
        assert (await home.alert(alert_id)).sentence == "The replay T-1 failed: no disk"
        await home.send(RetryTask(task_id="T-2", retry_of="T-1", requested_at=NOON))
        assert (await home.look()).ended == [alert_id]
        await home.send(CancelTask(task_id="T-2", cancelled_at=NOON))
        assert (await home.look()).raised == []

    run(story)


def test_a_schedule_that_fails_again_and_again_is_one_alert(run: Run) -> None:
    """About the schedule, not each of its tasks; until one of them is done, or it ends."""

    async def story(home: Home) -> None:
        async def ran(task_id: str, reason: str | None) -> None:
            await home.send(RunSchedule(schedule_id="nightly", task_id=task_id, ran_at=NOON))
            await home.send(RequestReplay(task_id=task_id, requested_at=NOON))
            await home.send(StartTask(task_id=task_id, worker="w", started_at=NOON))
            if reason is None:
                done = CompleteTask(task_id=task_id, attempt=1, result={}, completed_at=NOON)
                await home.send(done)
                return
            await home.send(
                FailTask(task_id=task_id, attempt=1, code="x.y", reason=reason, failed_at=NOON)
            )

        await home.send(
            MakeSchedule(
                schedule_id="nightly",
                name="Replay",
                when=Timetable(every_s=3600),
                work=ScheduledWork(task="training", kind="fulfilment"),
                made_at=NOON,
            )
        )
        await ran("T-1", "no disk")
        [alert_id] = (await home.look()).raised
        told = await home.alert(alert_id)
        assert told.subject_id == "schedules/nightly"
        assert told.sentence == "The replay T-1 of schedule nightly failed: no disk"
        await ran("T-2", "no disk")
        await ran("T-3", "no disk")
        looked = await home.look()
        assert (looked.raised, looked.ended) == ([], [])
        await ran("T-4", None)
        looked = await home.look()
        assert (looked.raised, looked.ended) == ([], [alert_id])
        # Whoever asks for the work of the last one again has looked after it.
        await ran("T-5", "no disk")
        [second] = (await home.look()).raised
        assert (await home.alert(second)).occurrence == 2
        await home.send(RetryTask(task_id="T-6", retry_of="T-5", requested_at=NOON))
        assert (await home.look()).ended == [second]
        await ran("T-7", "no disk")
        [third] = (await home.look()).raised
        await home.send(RetireSchedule(schedule_id="nightly", retired_at=NOON))
        assert (await home.look()).ended == [third]

    run(story)


def test_goods_come_in_the_days_that_their_product_says(run: Run) -> None:
    """The rule's seven days are for what has no such figure."""

    async def story(home: Home) -> None:
        def product(days: int) -> RegisterProduct:
            return RegisterProduct(sku="A", name="Apple", lead_days=days, registered_at=NOON)

        await home.stock(100, 56)  # two a day, 22 days' worth left
        await home.send(product(20))
        assert (await home.look()).raised == []
        # Nothing of it has moved: what is known of it has changed.
        await home.send(ChangeProduct(sku="A", lead_days=30, changed_at=NOON))
        [alert_id] = (await home.look()).raised
        told = await home.alert(alert_id)
        assert (told.kind, told.threshold) == ("stock_out_ahead", 30)
        assert told.sentence == (
            "Site S-1 has 44 of A to give, which lasts 22 days; more takes 30 days to come"
        )
        await home.send(ChangeProduct(sku="A", lead_days=3, changed_at=NOON))
        assert (await home.look()).ended == [alert_id]
        # Six days' worth: below the rule's seven, but more comes in three.
        more = PickStock(site_id="S-1", sku="A", quantity=Decimal(24), picked_at=NOON)
        await home.send(more)  # 80 in four weeks, 20 left: seven days
        assert (await home.look()).raised == []

    run(story)


def test_an_organisation_that_cannot_be_looked_at_holds_up_no_other(run: Run) -> None:
    async def story(home: Home) -> None:
        broken = Home(home.app)
        broken.organisation_id = UUID(int=1)  # the first that is looked at
        await broken.place("O-1", NOON - HOUR)
        rule = SetAlertRule(alert_kind=AlertKind.ORDER_LATE, threshold=1, set_at=NOON)
        await broken.send(rule)
        await home.place("O-2", NOON - HOUR)
        await home.app.projector.catch_up()
        spoil = """UPDATE read_models.alert_rule_list SET told = '{"threshold": "a great deal"}'
            WHERE organisation_id = %s"""
        async with home.app.pool.connection() as connection:
            await connection.execute(spoil, (broken.organisation_id,))
        looked = await home.watcher.look(NOON)
        await home.app.projector.catch_up()
        late = await home.alerts(kind="order_late")
        assert [one.alert_id for one in late.items if one.alert_id in looked.raised]
        async with home.app.pool.connection() as connection:
            restore = "DELETE FROM read_models.alert_rule_list WHERE organisation_id = %s"
            await connection.execute(restore, (broken.organisation_id,))

    run(story)


def test_a_rule_that_is_switched_off_ends_its_alerts(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.place("O-1", NOON - HOUR)
        [first] = (await home.look()).raised
        off = SetAlertRule(alert_kind=AlertKind.ORDER_LATE, enabled=False, set_at=NOON)
        await home.send(off)
        assert (await home.look()).ended == [first]
        strict = SetAlertRule(
            alert_kind=AlertKind.ORDER_LATE,
            threshold=0.5,
            severity=Severity.CRITICAL,
            set_at=NOON,
        )
        await home.send(strict)
        [second] = (await home.look()).raised
        assert (await home.alert(second)).severity == "critical"
        told = {one.kind: one for one in await alert_rules(home.read)}
        assert set(told) == set(AlertKind)
        assert (told["order_late"].threshold, told["order_late"].set_by) == (0.5, "boss")
        assert (told["anomaly"].threshold, told["anomaly"].set_by) == (0.9, None)

    run(story)


def test_lists_are_filtered_and_sorted_and_know_who_has_seen_what(run: Run) -> None:
    async def story(home: Home) -> None:
        for number in range(3):
            await home.place(f"O-{number}", NOON - (number + 1) * HOUR)
        await home.stock(1, 1)
        raised = (await home.look()).raised
        assert len(raised) == 4
        page = await home.alerts(limit=2)
        assert page.unread_count == 4
        assert page.next_cursor is not None
        rest = await home.alerts(limit=5, cursor=page.next_cursor)
        assert sorted(one.alert_id for one in (*page.items, *rest.items)) == sorted(raised)
        by_gravity = await home.alerts(sort="-gravity")
        assert by_gravity.items[0].kind == "stock_out"
        first = by_gravity.items[0].alert_id
        await home.send(ReadAlert(alert_id=first, read_at=NOON), "ana")
        await home.app.projector.catch_up()
        assert (await home.alerts(seen=True)).items[0].alert_id == first
        assert (await home.alerts()).unread_count == 3
        assert (await list_alerts(home.read, "ben")).unread_count == 4
        found = await home.alerts(search="o-1 WAS", kind="order_late", subject_id="O-1")
        assert len(found.items) == 1
        assert (await home.alerts(search="_")).items == ()
        for alert_id in raised[:2]:
            soon = datetime.now(UTC) + (HOUR if alert_id == raised[0] else timedelta(seconds=-1))
            await home.send(
                SnoozeAlert(alert_id=alert_id, until=soon, snoozed_at=soon - DAY), "ana"
            )
        await home.app.projector.catch_up()
        assert [one.alert_id for one in (await home.alerts(state="snoozed")).items] == [raised[0]]
        assert (await home.alert(raised[1])).state == "open"  # its time is up

    run(story)


def test_an_alert_of_a_model_is_pointed_at_once(run: Run) -> None:
    """The alerts of models are events of their own: one of ours stands for all of a model's."""

    async def story(home: Home) -> None:
        def measured(end: int, *values: float) -> RecordMeasurement:
            names = ("slack", "score")[: len(values)]
            stretch = MEASUREMENT.model_copy(update={"from_position": end, "to_position": end})
            limits = tuple(limit(one, name) for one, name in zip(values, names, strict=True))
            return RecordMeasurement(
                model_hash=HASH, measurement=stretch, limits=limits, measured_at=NOON
            )

        await home.send(REGISTER)
        await home.send(measured(91, 0.3, 0.4))
        [alert_id] = (await home.look()).raised
        told = await home.alert(alert_id)
        assert (told.kind, told.subject_id, told.value) == ("model_drift", HASH, 2.0)
        assert "(and 1 more figures)" in told.sentence
        await home.send(measured(92, 0.1, 0.4))
        assert (await home.look()).ended == []
        await home.send(measured(93, 0.1, 0.1))
        assert (await home.look()).ended == [alert_id]

    run(story)


def test_what_a_decision_finds_unusual_is_told_until_somebody_says_what_it_was(run: Run) -> None:
    async def story(home: Home) -> None:
        now = datetime.now(UTC) + HOUR
        likely = made.model_copy(update={"kind": "anomaly", "foretold": 0.95})
        await home.append(likely)
        await home.append(likely.model_copy(update={"decision_id": "D-2", "foretold": 0.5}))
        await home.append(likely.model_copy(update={"decision_id": "D-3", "kind": "fulfilment"}))
        [alert_id] = (await home.look(now)).raised
        told = await home.alert(alert_id)
        assert (told.kind, told.subject_id) == ("anomaly", "D-1")
        assert told.sentence == "O-1 is unusual (95%), says decision D-1"
        await home.append(
            DecisionConfirmed(
                decision_id="D-1",
                kind="anomaly",
                subject_id="O-1",
                model_hash="a" * 64,
                option={},
                approvals_left=0,
                confirmed_by="ana",
                confirmed_at=NOON,
            ),
            2,
        )
        assert (await home.look(now)).ended == [alert_id]

    run(story)


def test_what_read_models_cannot_fold_is_told(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.place("O-1", NOON + 200 * DAY)
        await home.look()
        parked = """INSERT INTO dead_letters (projection, suffix, position, event_id, keys)
            SELECT 'order_summary', '', notification_id, event_id, '{}' FROM events
            WHERE organisation_id = %s ORDER BY notification_id LIMIT 1"""
        async with home.app.pool.connection() as connection:
            await connection.execute(parked, (home.organisation_id,))
            [alert_id] = (await home.look()).raised
            told = await home.alert(alert_id)
            assert (told.kind, told.severity) == ("dead_letters", "critical")
            assert "order_summary" in told.sentence
            await connection.execute("DELETE FROM dead_letters")
        assert (await home.look()).ended == [alert_id]

    run(story)


def test_every_kind_has_a_condition() -> None:
    kinds = [condition.kind for condition in CONDITIONS]
    assert set(kinds) == set(AlertKind) - {AlertKind.TOO_MANY}
    assert len(kinds) == len(set(kinds))
