"""Schedules: when they are due, what their rules allow, and that each time is fired once."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from chainlytics.application import Application
from chainlytics.settings import Settings, kinds_of
from chainlytics.tasks import tools_of
from commands import Context, stream_id
from commands.schedules import schedule_stream
from commands.tasks import task_stream
from domain.access import Role
from domain.catalogue import decode
from domain.errors import Refused
from domain.organisations import AddMember, ChangeMemberRoles, FoundOrganisation, RemoveMember
from domain.scheduled_work import ScheduledWork, WorkOfSchedule, request_of
from domain.schedules import (
    ChangeSchedule,
    FailScheduledRun,
    FireSchedule,
    MakeSchedule,
    PauseSchedule,
    ResumeSchedule,
    RetireSchedule,
    RunSchedule,
    ScheduleChanged,
    ScheduledRunFailed,
    ScheduleFired,
    ScheduleMade,
    SchedulePaused,
    ScheduleResumed,
    ScheduleRetired,
)
from domain.simulations import Disturbance, Disturbing, GenerateScenario, RetireScenario
from domain.sites import SiteOpened
from domain.tasks import TaskRequested
from domain.timetable import TimesOfSchedule, Timetable, following, latest
from domain.values import Command, Event
from domain.work import RequestArchiving, RequestSealing, RequestTours
from ml.job import CannotBeDone, Found, Job
from ml.schedules import Scheduler
from ml.task_work import do
from readmodels.database import ReadModels
from readmodels.schedules import get_schedule, list_schedules, schedule_runs
from tests.spec import given, problems
from tests.world import company

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HALF_PAST_TWO = Timetable(cron="30 2 * * *", zone="Europe/Berlin")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


def times(table: Timetable, after: datetime, many: int) -> list[datetime]:
    return list(islice(following(table, NOON, after), many))


# --- when it is due


def test_what_is_due_in_the_hour_that_there_is_not_is_due_once_and_later() -> None:
    """In Berlin clocks go from 02:00 to 03:00 on the 29th of March 2026."""
    assert times(HALF_PAST_TWO, utc(2026, 3, 27, 12), 3) == [
        utc(2026, 3, 28, 1, 30),
        utc(2026, 3, 29, 1, 30),  # 03:30 by the clock
        utc(2026, 3, 30, 0, 30),
    ]


def test_what_is_due_in_the_hour_that_there_is_twice_is_due_once() -> None:
    """Clocks go from 03:00 to 02:00 on the 25th of October 2026."""
    assert times(HALF_PAST_TWO, utc(2026, 10, 23, 12), 3) == [
        utc(2026, 10, 24, 0, 30),
        utc(2026, 10, 25, 0, 30),  # the first of the two 02:30
        utc(2026, 10, 26, 1, 30),
    ]


@pytest.mark.parametrize("day", [utc(2026, 3, 28, 22), utc(2026, 10, 24, 22)])
def test_what_is_due_each_hour_is_due_each_hour_on_such_days_too(day: datetime) -> None:
    hourly = Timetable(cron="30 * * * *", zone="Europe/Berlin")
    assert times(hourly, day, 6) == [
        day + timedelta(minutes=30) + timedelta(hours=n) for n in range(6)
    ]


@pytest.mark.parametrize(
    "table",
    [
        HALF_PAST_TWO,
        Timetable(cron="*/20 1-3 * * *", zone="Europe/Berlin"),
        Timetable(cron="15 */2 * * *", zone="Australia/Lord_Howe"),
        Timetable(cron="0 0 * * mon", zone="America/New_York"),
        Timetable(every_s=5_000),
    ],
)
@pytest.mark.parametrize("day", [utc(2026, 3, 28, 20), utc(2026, 10, 24, 20), utc(2026, 4, 4, 10)])
def test_the_last_time_is_the_last_of_those_that_follow(table: Timetable, day: datetime) -> None:
    """`latest`, which looks back from now, and `following`, which looks ahead, say the same."""
    due = [one for one in times(table, day, 60) if one <= day + timedelta(days=2)]
    for number in range(0, 48 * 60, 7):
        now = day + timedelta(minutes=number)
        passed = [one for one in due if one <= now]
        assert latest(table, NOON, day, now) == (passed[-1] if passed else None)


def test_an_interval_counts_from_when_it_was_set() -> None:
    hourly = Timetable(every_s=3600)
    assert times(hourly, NOON, 2) == [NOON + timedelta(hours=1), NOON + timedelta(hours=2)]
    assert latest(hourly, NOON, NOON, NOON + timedelta(minutes=59)) is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"cron": "60 * * * *"}, "'60' is no minute"),
        ({"cron": "0 24 * * *"}, "'24' is no hour"),
        ({"cron": "0 0 0 * *"}, "'0' is no day of month"),
        ({"cron": "0 0 * 13 *"}, "'13' is no month"),
        ({"cron": "0 0 * * FOO"}, "'FOO' is no day of week"),
        ({"cron": "R * * * *"}, "'R' is no minute"),
        ({"cron": "H H * * *"}, "'H' is no minute"),
        ({"cron": "*/0 * * * *"}, "'*/0' is no minute"),
        ({"cron": "0 0 31 2 *"}, "never comes"),
        ({"cron": "@daily"}, "needs five"),
        ({"cron": "0 0 * *"}, "has 4 fields"),
        ({"cron": "0 0 0 * * *"}, "has 6 fields"),
        ({"cron": "0 0 * * *", "zone": "Berlin"}, "'Berlin' is no time zone"),
        ({"every_s": 59}, "greater than or equal to 60"),
        ({}, "one of them"),
        ({"cron": "0 0 * * *", "every_s": 60}, "and not both"),
    ],
)
def test_a_timetable_that_is_none_is_told_why(said: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=r"cron|zone|every_s") as error:
        Timetable(**said)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("work", "told"),
    [
        ({"task": "training"}, "kind: training needs one"),
        ({"task": "simulation"}, "scenario_id: simulation needs one"),
        ({"task": "tours"}, "site_id: tours needs one"),
        ({"task": "sealing", "kind": "fulfilment"}, "kind: sealing is not told of one"),
        ({"task": "training", "kind": "x", "days_ahead": 1}, "days_ahead: training"),
        ({"task": "replay"}, "task"),
    ],
)
def test_a_schedule_asks_for_what_its_task_needs(work: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=r"task|kind|scenario_id|site_id|days_ahead") as error:
        ScheduledWork(**work)
    assert told in str(error.value)


def test_tours_are_planned_for_the_day_by_the_schedules_clock() -> None:
    work = ScheduledWork(task="tours", site_id="S-BER", days_ahead=1)
    late = utc(2026, 3, 1, 23, 30)
    request = request_of(work, "T-1", 5, late, "Europe/Berlin")
    assert isinstance(request, RequestTours)
    assert request.day.isoformat() == "2026-03-03"  # it is the 2nd in Berlin


# --- the rules

TRAIN = ScheduledWork(task="training", kind="fulfilment")
TRAIN_STORED = WorkOfSchedule(**TRAIN.model_dump())
MAKE = MakeSchedule(
    schedule_id="nightly", name="Train", when=HALF_PAST_TWO, work=TRAIN, made_at=NOON
)
made = ScheduleMade(
    schedule_id="nightly",
    name="Train",
    when=TimesOfSchedule(**HALF_PAST_TWO.model_dump()),
    work=TRAIN_STORED,
    priority=5,
    catch_up="latest",
    made_by="ana",
    made_at=NOON,
)
paused = SchedulePaused(schedule_id="nightly", reason=None, paused_by="ana", paused_at=NOON)
retired = ScheduleRetired(schedule_id="nightly", reason=None, retired_by="ana", retired_at=NOON)
DUE = utc(2026, 3, 2, 1, 30)
fired = ScheduleFired(
    schedule_id="nightly",
    task_id="T-1",
    due_at=DUE,
    work=TRAIN_STORED,
    zone="Europe/Berlin",
    priority=5,
    runs_as="ana",
    fired_at=DUE,
)
FIRE = FireSchedule(schedule_id="nightly", task_id="T-1", due_at=DUE, fired_at=DUE)
ABOUT: list[Command] = [
    ChangeSchedule(schedule_id="nightly", name="x", changed_at=NOON),
    PauseSchedule(schedule_id="nightly", paused_at=NOON),
    ResumeSchedule(schedule_id="nightly", resumed_at=NOON),
    RetireSchedule(schedule_id="nightly", retired_at=NOON),
    RunSchedule(schedule_id="nightly", task_id="T-2", ran_at=NOON),
    FIRE,
]


def test_a_schedule_is_made_once() -> None:
    given().when(MAKE).then(made)
    given(made).when(MAKE).refused("schedule.already_made", schedule_id="nightly")


@pytest.mark.parametrize("command", ABOUT, ids=type)
def test_what_there_is_not_and_what_has_ended_stays_so(command: Command) -> None:
    given().when(command).refused("schedule.unknown", schedule_id="nightly")
    given(made, retired).when(command).refused("schedule.retired", schedule_id="nightly")


def test_only_what_is_given_is_changed() -> None:
    later = NOON + timedelta(hours=1)
    given(made).when(
        ChangeSchedule(schedule_id="nightly", name="Learn", changed_at=later), "ben"
    ).then(
        ScheduleChanged(
            **made.model_dump(exclude={"name", "made_by", "made_at"}),
            name="Learn",
            counts_from=NOON,
            changed_by="ben",
            changed_at=later,
        )
    )
    when = Timetable(every_s=60)
    given(made).when(ChangeSchedule(schedule_id="nightly", when=when, changed_at=later)).then(
        ScheduleChanged(
            **made.model_dump(exclude={"when", "made_by", "made_at"}),
            when=TimesOfSchedule(**when.model_dump()),
            counts_from=later,  # another timetable begins now
            changed_by="ana",
            changed_at=later,
        )
    )
    given(made).when(ChangeSchedule(schedule_id="nightly", name="Train", changed_at=later)).refused(
        "schedule.nothing_changed"
    )


@pytest.mark.parametrize(
    ("work", "code", "named"),
    [
        ({"task": "training", "kind": "luck"}, "decision.unknown_kind", {"kind": "luck"}),
        ({"task": "inference", "kind": "luck"}, "decision.unknown_kind", {"kind": "luck"}),
        ({"task": "tours", "site_id": "S-9"}, "site.unknown", {"site_id": "S-9"}),
        ({"task": "simulation", "scenario_id": "X"}, "scenario.unknown", {"scenario_id": "X"}),
    ],
    ids=str,
)
def test_a_schedule_is_about_what_there_is(
    work: dict[str, str], code: str, named: dict[str, str]
) -> None:
    asked = ScheduledWork.model_validate(work)
    given().when(MAKE.model_copy(update={"work": asked})).refused(code, **named)
    change = ChangeSchedule(schedule_id="nightly", work=asked, changed_at=NOON)
    given(made).when(change).refused(code, **named)


def test_tours_are_planned_again_and_again_for_a_site_that_there_is() -> None:
    asked = ScheduledWork(task="tours", site_id="S-9")
    opened = SiteOpened(
        site_id="S-9",
        name=None,
        region=None,
        service_levels=(),
        daily_capacity=None,
        opened_at=NOON,
    )
    given().reading(opened).when(MAKE.model_copy(update={"work": asked})).then(
        made.model_copy(update={"work": WorkOfSchedule(**asked.model_dump())})
    )
    demand = ScheduledWork(task="inference", kind="demand")
    given().when(MAKE.model_copy(update={"work": demand})).then(
        made.model_copy(update={"work": WorkOfSchedule(**demand.model_dump())})
    )


def test_tours_are_planned_for_a_site_that_there_is() -> None:
    tours = RequestTours(task_id="T-1", site_id="S-9", day=NOON.date(), requested_at=NOON)
    given().when(tours).refused("site.unknown", site_id="S-9")


def test_a_schedule_is_paused_and_goes_on() -> None:
    given(made).when(ABOUT[1]).then(paused)
    given(made, paused).when(ABOUT[1]).refused("schedule.already_paused")
    given(made).when(ABOUT[2]).refused("schedule.not_paused")
    resumed = ScheduleResumed(schedule_id="nightly", resumed_by="ben", resumed_at=NOON)
    given(made, paused).when(ABOUT[2], "ben").then(resumed)
    # From now on in the name of who let it go on.
    given(made, paused, resumed).when(FIRE).then(fired.model_copy(update={"runs_as": "ben"}))


def test_a_time_is_fired_once_and_only_when_it_is_due() -> None:
    given(made).when(FIRE).then(fired)
    given(made, fired).when(FIRE).refused("schedule.already_fired", schedule_id="nightly")
    given(made, paused).when(FIRE).refused("schedule.paused")
    for due, at in ((DUE + timedelta(minutes=1), DUE + timedelta(hours=1)), (DUE, NOON)):
        early = FIRE.model_copy(update={"due_at": due, "fired_at": at})
        given(made).when(early).refused("schedule.not_due")
    # An earlier one is not made up for behind a later one.
    later = FIRE.model_copy(update={"due_at": DUE + timedelta(days=1)})
    told = fired.model_copy(update={"due_at": later.due_at})
    given(made, told).when(FIRE).refused("schedule.already_fired")


def test_somebody_who_does_not_wait_has_it_run_in_their_own_name() -> None:
    given(made, paused).when(ABOUT[4], "ben").then(
        fired.model_copy(
            update={"task_id": "T-2", "due_at": None, "runs_as": "ben", "fired_at": NOON}
        )
    )


def test_what_cannot_be_asked_for_is_told_and_may_pause_the_schedule() -> None:
    fail = FailScheduledRun(
        schedule_id="nightly", task_id="T-1", code="x.y", reason="no", pause=True, failed_at=DUE
    )
    told = ScheduledRunFailed(**fail.model_dump(exclude={"pause"}))
    stopped = SchedulePaused(schedule_id="nightly", reason="no", paused_by="ana", paused_at=DUE)
    given(made, fired).when(fail).then(told, stopped)
    given(made, fired, paused).when(fail).then(told)
    given().when(fail).refused("schedule.unknown")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"when": {"cron": "1 2 3"}}, "cron"),
        ({"when": {"cron": "* * * * *", "zone": "Mars/Base"}}, "no time zone"),
        ({"name": ""}, "at least 1 character"),
        ({"catch_up": "all"}, "latest"),
        ({"priority": 10}, "priority"),
        ({"work": {"task": "dance"}}, "training"),
        ({"schedule_id": "a b"}, "match pattern"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(fields: dict[str, Any], told: str) -> None:
    assert told in problems(MakeSchedule, **(MAKE.model_dump() | fields))


@pytest.mark.parametrize(
    "said", ["training", "dancing=1", "training=0", "training=x", "training=100"]
)
def test_how_many_of_a_kind_is_told_of_kinds_that_there_are(said: str) -> None:
    assert kinds_of("training=1, simulation=2 ,") == {"training": 1, "simulation": 2}
    with pytest.raises(ValueError, match="kind and a number"):
        kinds_of(said)


# --- the scheduler, on a real log


class Home:
    """An organisation, and a scheduler whose clock is ours."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.organisation_id = uuid4()
        self.scheduler = Scheduler(app.log, app.bus, app.memberships)

    async def send(self, command: Command, actor: str = "boss") -> None:
        roles = frozenset({Role.ADMIN, Role.ANALYST, Role.SERVICE})
        await self.app.bus.execute(command, Context(self.organisation_id, actor, roles))

    async def look(self, now: datetime) -> list[str]:
        await self.app.projector.catch_up()
        found = await self.scheduler.look(now)
        return [one.task_id for one in found if one.organisation_id == self.organisation_id]

    async def events(self, stream: str) -> list[Event]:
        id_ = stream_id(self.organisation_id, stream)
        found = (await self.app.log.streams([id_])).get(id_, [])
        return [decode(one.topic, one.state) for one in found]

    async def fired(self) -> list[ScheduleFired]:
        events = await self.events(schedule_stream("nightly"))
        return [event for event in events if isinstance(event, ScheduleFired)]

    async def task(self, task_id: str) -> TaskRequested | None:
        events = await self.events(task_stream(task_id))
        assert len([one for one in events if isinstance(one, TaskRequested)]) <= 1
        return next((one for one in events if isinstance(one, TaskRequested)), None)

    @property
    def read(self) -> ReadModels:
        return ReadModels(self.app.log, self.organisation_id)


Run = Callable[[Callable[[Home], Any]], None]


@pytest.fixture(scope="module")
def run(database: str) -> Iterator[Run]:
    """Runs a story in an organisation of its own."""
    with asyncio.Runner() as runner:
        opened = company(database)
        app = runner.run(opened.__aenter__())
        yield lambda story: runner.run(story(Home(app)))
        runner.run(opened.__aexit__(None, None, None))


def test_each_time_is_fired_once_whoever_looks_how_often(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.send(MAKE, "boss")
        assert await home.look(DUE - timedelta(seconds=1)) == []
        await home.app.projector.catch_up()
        other = Scheduler(home.app.log, home.app.bus, home.app.memberships)
        # Two at once, and again before the read models know.
        both = await asyncio.gather(
            home.scheduler.look(DUE), other.look(DUE + timedelta(seconds=1)), other.look(DUE)
        )
        assert len({one.task_id for found in both for one in found}) == 1
        [event] = await home.fired()
        asked = await home.task(event.task_id)
        assert asked is not None
        assert (asked.kind, asked.requested_by, asked.priority) == ("training", "boss", 5)
        assert await home.look(DUE + timedelta(hours=1)) == []
        assert len(await home.look(DUE + timedelta(days=1))) == 1
        await home.app.projector.catch_up()
        now = DUE + timedelta(days=1, hours=1)
        found = await get_schedule(home.read, "nightly", now)
        assert found is not None
        assert found.runs == 2
        assert [one.day for one in found.next_times] == [4, 5, 6, 7, 8]
        runs = (await schedule_runs(home.read, "nightly")).items
        assert [one.due_at for one in runs] == [DUE + timedelta(days=1), DUE]
        assert {one.state for one in runs} == {"requested"}
        listed = await list_schedules(home.read, search="TRAI", task="training", sort="name")
        assert [one.schedule_id for one in listed.items] == ["nightly"]
        assert (await list_schedules(home.read, search="%")).items == ()

    run(story)


def test_who_died_between_the_two_is_followed_by_the_next(run: Run) -> None:
    """Fired and not asked for: the next look asks for it."""

    async def story(home: Home) -> None:
        await home.send(MAKE)
        await home.send(FIRE.model_copy(update={"task_id": "T-77"}))
        assert await home.task("T-77") is None
        assert await home.look(DUE + timedelta(minutes=1)) == ["T-77"]
        assert await home.task("T-77") is not None
        assert await home.look(DUE + timedelta(minutes=2)) == []

    run(story)


def test_what_was_missed_is_made_up_for_once_or_not_at_all(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.send(MAKE)
        skips = MAKE.model_copy(update={"schedule_id": "skips", "catch_up": "skip"})
        await home.send(skips)
        back = DUE + timedelta(days=9, hours=5)
        assert len(await home.look(back)) == 1
        [event] = await home.fired()
        assert event.due_at == DUE + timedelta(days=9)
        assert await home.look(back + timedelta(minutes=1)) == []
        # What is in time is fired all the same.
        assert len(await home.look(DUE + timedelta(days=10, minutes=1))) == 2

    run(story)


def test_what_a_paused_schedule_missed_is_not_made_up_for(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.send(MAKE)
        await home.send(PauseSchedule(schedule_id="nightly", paused_at=NOON))
        assert await home.look(DUE + timedelta(days=3)) == []
        now = DUE + timedelta(days=3)
        await home.send(ResumeSchedule(schedule_id="nightly", resumed_at=now))
        assert await home.look(now + timedelta(hours=1)) == []
        await home.send(RunSchedule(schedule_id="nightly", task_id="T-9", ran_at=now))
        assert await home.look(now + timedelta(hours=1)) == ["T-9"]
        await home.send(RetireSchedule(schedule_id="nightly", retired_at=now))
        assert await home.look(now + timedelta(days=9)) == []

    run(story)


def test_the_schedules_of_who_has_left_stop(run: Run) -> None:
    async def story(home: Home) -> None:
        eve = "local:eve"
        await home.send(FoundOrganisation(name="x", founded_at=NOON), "local:ada")
        await home.send(AddMember(member=eve, roles=(Role.ANALYST,), added_at=NOON))
        await home.send(MAKE, eve)
        assert len(await home.look(DUE)) == 1
        [event] = await home.fired()
        asked = await home.task(event.task_id)
        assert asked is not None
        assert asked.requested_by == eve
        await home.send(RemoveMember(member=eve, removed_at=NOON))
        await asyncio.sleep(1.1)  # as long as a right may be believed in
        [task_id] = await home.look(DUE + timedelta(days=1))
        assert await home.task(task_id) is None
        await home.app.projector.catch_up()
        found = await get_schedule(home.read, "nightly")
        assert found is not None
        assert (found.state, found.next_times) == ("paused", ())
        assert found.paused_reason == "local:eve may not ask for training any more"
        [failed, _] = (await schedule_runs(home.read, "nightly")).items
        assert (failed.state, failed.code) == ("not_requested", "schedule.not_allowed")
        assert await home.look(DUE + timedelta(days=5)) == []

    run(story)


def test_the_schedules_of_who_may_less_than_before_stop(run: Run) -> None:
    """Still a member, but no more one who may train."""

    async def story(home: Home) -> None:
        eve = "local:eve"
        await home.send(FoundOrganisation(name="x", founded_at=NOON), "local:ada")
        await home.send(AddMember(member=eve, roles=(Role.ANALYST,), added_at=NOON))
        await home.send(MAKE, eve)
        await home.send(ChangeMemberRoles(member=eve, roles=(Role.VIEWER,), changed_at=NOON))
        await asyncio.sleep(1.1)  # as long as a right may be believed in
        [task_id] = await home.look(DUE)
        assert await home.task(task_id) is None
        await home.app.projector.catch_up()
        found = await get_schedule(home.read, "nightly")
        assert found is not None
        assert (found.state, found.paused_by) == ("paused", "service:schedules")
        # Let go on by somebody who may, it runs in their name.
        ada = "local:ada"
        await home.send(ResumeSchedule(schedule_id="nightly", resumed_at=DUE), ada)
        [task_id] = await home.look(DUE + timedelta(days=1))
        asked = await home.task(task_id)
        assert asked is not None
        assert asked.requested_by == ada

    run(story)


def test_a_schedule_that_cannot_be_looked_at_holds_up_no_other(run: Run) -> None:
    async def story(home: Home) -> None:
        await home.send(MAKE.model_copy(update={"schedule_id": "a-broken"}))
        await home.app.projector.catch_up()
        spoil = """UPDATE read_models.schedule_clock
            SET told = '{"when": {"cron": "never"}, "catch_up": "latest"}'
            WHERE organisation_id = %s AND schedule_id = 'a-broken'"""
        async with home.app.pool.connection() as connection:
            await connection.execute(spoil, (home.organisation_id,))
        await home.send(MAKE)
        try:
            assert len(await home.look(DUE)) == 1
        finally:
            gone = RetireSchedule(schedule_id="a-broken", retired_at=NOON)
            await home.send(gone)
            await home.app.projector.catch_up()

    run(story)


def test_a_schedule_whose_task_is_refused_says_so_and_goes_on(run: Run) -> None:
    async def story(home: Home) -> None:
        surge = Disturbance(kind=Disturbing.DEMAND_SURGE, factor=2)
        await home.send(
            GenerateScenario(
                scenario_id="X", seed=1, horizon_days=1, disturbances=(surge,), generated_at=NOON
            )
        )
        work = ScheduledWork(task="simulation", scenario_id="X")
        await home.send(MAKE.model_copy(update={"work": work}))
        await home.send(RetireScenario(scenario_id="X", reason="known", retired_at=NOON))
        await home.look(DUE)
        await home.app.projector.catch_up()
        [failed] = (await schedule_runs(home.read, "nightly")).items
        assert failed.code == "scenario.retired"
        assert await home.look(DUE + timedelta(minutes=1)) == []
        assert len(await home.look(DUE + timedelta(days=1))) == 1

    run(story)


# --- what is of the whole server


def job(home: Home, command: Command, actor: str = "boss") -> Any:
    async def asked() -> Job:
        await home.send(command, actor)
        own = stream_id(home.organisation_id, task_stream(command.task_id))  # type: ignore[attr-defined]
        [event] = (await home.app.log.streams([own]))[own]
        requested = decode(event.topic, event.state)
        assert isinstance(requested, TaskRequested)
        return Job(home.organisation_id, event, 1, requested)

    return asked()


KEY = SecretStr(b64encode(b"s" * 32).decode())


def test_the_log_is_sealed_and_archived_as_tasks(database: str, tmp_path: Path, run: Run) -> None:
    async def story(home: Home) -> None:
        told: list[tuple[int, int, str]] = []
        settings = Settings(
            home=tmp_path,
            database_url=database,
            seal_key=KEY,
            archive=str(tmp_path / "archive"),
            master_key=KEY,
        )

        async def done(command: Command) -> Found:
            made = await job(home, command)
            async with tools_of(database, settings)() as tools:
                return await do(tools, made, lambda *said: told.append(said))

        found = await done(RequestSealing(task_id="T-seal", requested_at=NOON))
        head = found.result["position"]
        assert isinstance(head, int)
        assert found.result["sealed"] == head >= 1
        assert found.result["newly_sealed"] == head
        found = await done(RequestArchiving(task_id="T-archive", requested_at=NOON))
        assert (found.result["position"], found.result["segments"]) == (head, 1)
        assert {said[2] for said in told} == {
            "sealing, by log positions",
            "writing the archive, by log positions",
        }
        # A second time there is what came since.
        found = await done(RequestSealing(task_id="T-again", requested_at=NOON))
        assert found.result["sealed"] == found.result["position"] != head

    run(story)


def test_a_worker_that_is_not_set_up_for_it_says_what_is_missing(
    database: str, tmp_path: Path, run: Run
) -> None:
    async def story(home: Home) -> None:
        settings = Settings(home=tmp_path, database_url=database, master_key=KEY)
        for command, code in (
            (RequestSealing(task_id="T-1", requested_at=NOON), "sealing.no_key"),
            (RequestArchiving(task_id="T-2", requested_at=NOON), "archiving.no_store"),
        ):
            made = await job(home, command)
            async with tools_of(database, settings)() as tools:
                with pytest.raises(CannotBeDone) as error:
                    await do(tools, made, lambda *_: None)
            assert error.value.code == code
            assert "CHAINLYTICS_" in error.value.reason

    run(story)


def test_a_member_does_not_seal_the_log_of_all(database: str, tmp_path: Path, run: Run) -> None:
    """Not by a task of their own, nor by a schedule."""

    async def story(home: Home) -> None:
        eve = "local:eve"
        await home.send(FoundOrganisation(name="x", founded_at=NOON), eve)
        settings = Settings(home=tmp_path, database_url=database, seal_key=KEY, master_key=KEY)
        made = await job(home, RequestSealing(task_id="T-1", requested_at=NOON), eve)
        async with tools_of(database, settings)() as tools:
            with pytest.raises(CannotBeDone, match="operator") as error:
                await do(tools, made, lambda *_: None)
        assert error.value.code == "task.of_the_server"
        work = ScheduledWork(task="sealing")
        await home.send(MAKE.model_copy(update={"work": work}), eve)
        [task_id] = await home.look(DUE)
        assert await home.task(task_id) is None
        await home.send(MAKE.model_copy(update={"work": work, "schedule_id": "ops"}), "boss")
        assert await home.task((await home.look(DUE))[-1]) is not None

    run(story)


def test_the_ids_of_organisations_do_not_meet(run: Run) -> None:
    async def story(home: Home) -> None:
        other = Home(home.app)
        for one in (home, other):
            await one.send(MAKE)
        await home.look(DUE)
        [mine], [theirs] = await home.fired(), await other.fired()
        assert UUID(mine.task_id) != UUID(theirs.task_id)
        with pytest.raises(Refused, match="already_made"):
            await other.send(MAKE)

    run(story)
