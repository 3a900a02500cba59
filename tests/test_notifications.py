"""Who is told of alerts: by mail, by webhook, and over HTTP; on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from api.identity.mail import Letter, MailNotSent
from api.notifier import Alert, Notifier, letter_of, letters, name_of
from chainlytics.application import Application
from chainlytics.settings import Settings
from commands import Context
from domain.access import Role
from domain.alert_rules import AlertKind, SetAlertRule, Severity
from domain.alerts import RaiseAlert
from domain.notifications import (
    AlertsRead,
    AlertsSubscribed,
    AlertsUnsubscribed,
    NoticeSent,
    ReadAllAlerts,
    RecordNotice,
    SubscribeToAlerts,
    UnsubscribeFromAlerts,
)
from domain.organisations import AddMember, FoundOrganisation, RemoveMember
from domain.values import Command
from tests.serving import API, NO_TLS, Served, assert_problem, found, order, serving_here, until
from tests.spec import given, problems
from tests.test_accounts import Postbox, postbox, signed_up
from tests.webhooking import HERE, house, receiving
from tests.world import ORGANISATION, company

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVE = "local:6f1b7a52-0c35-4c1e-9d57-0d4a5a3c8f11"

# --- the rules

SUBSCRIBE = SubscribeToAlerts(subscriber=EVE, subscribed_at=NOON)
subscribed = AlertsSubscribed(
    subscriber=EVE,
    kinds=(),
    least_severity="warning",
    channel="email",
    digest="immediate",
    hour=7,
    zone="UTC",
    subscribed_at=NOON,
)
END = UnsubscribeFromAlerts(subscriber=EVE, unsubscribed_at=NOON)
ended = AlertsUnsubscribed(subscriber=EVE, reason=None, unsubscribed_at=NOON)
NOTICE = RecordNotice(subscriber=EVE, notice_id="N-1", alert_ids=("A-1",), told_at=NOON)


def test_everybody_subscribes_for_themselves() -> None:
    given().when(SUBSCRIBE, EVE).then(subscribed)
    given(subscribed).when(SUBSCRIBE, EVE).refused("notification.already_subscribed")
    daily = SUBSCRIBE.model_copy(update={"digest": "daily"})
    given(subscribed).when(daily, EVE).then(subscribed.model_copy(update={"digest": "daily"}))
    for command in (SUBSCRIBE, END, ReadAllAlerts(reader=EVE, read_at=NOON)):
        given().when(command, "local:ben").refused(
            "notification.of_somebody_else", subscriber=EVE, actor="local:ben"
        )


def test_who_is_told_of_nothing_ends_nothing() -> None:
    given(subscribed).when(END, EVE).then(ended)
    for command in (END, NOTICE):
        given(subscribed, ended).when(command, EVE).refused("notification.not_subscribed")


def test_what_was_sent_is_noted_and_what_never_can_be_ends_it() -> None:
    sent = NoticeSent(subscriber=EVE, notice_id="N-1", alert_ids=("A-1",), told_at=NOON)
    given(subscribed).when(NOTICE).then(sent)
    failed = NOTICE.model_copy(update={"failure": "no such box"})
    given(subscribed).when(failed).then(ended.model_copy(update={"reason": "no such box"}))


def test_how_far_somebody_has_seen_them() -> None:
    command = ReadAllAlerts(reader=EVE, to_position=9, read_at=NOON)
    given().when(command, EVE).then(AlertsRead(reader=EVE, to_position=9, read_at=NOON))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"kinds": ("boredom",)}, "kinds"),
        ({"kinds": ("stock_out", "stock_out")}, "named once"),
        ({"least_severity": "bad"}, "least_severity"),
        ({"channel": "fax"}, "email"),
        ({"digest": "weekly"}, "digest"),
        ({"hour": 24}, "hour"),
        ({"zone": "Mars"}, "no time zone"),
        ({"subscriber": "somebody"}, "match pattern"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(fields: dict[str, Any], told: str) -> None:
    said = SUBSCRIBE.model_dump()
    assert problems(SubscribeToAlerts, **said) == ""
    assert told in problems(SubscribeToAlerts, **(said | fields))


# --- letters


def alert(number: int, severity: str = "warning") -> Alert:
    return Alert(f"A-{number}", "order_late", severity, f"O-{number} is late", NOON)


def test_many_alerts_are_one_letter_that_begins_with_the_gravest() -> None:
    few, many = [alert(n) for n in range(3)], [alert(n) for n in range(9)]
    assert [len(one) for one in letters(EVE, few, one_letter=False)] == [1, 1, 1]
    assert [len(one) for one in letters(EVE, few, one_letter=True)] == [3]
    assert [len(one) for one in letters(EVE, many, one_letter=False)] == [9]
    some = [alert(1), alert(2, "critical")]
    letter = letter_of("eve@example.com", "N-1", some)
    assert letter.subject == "2 alerts, the gravest: [critical] O-2 is late"
    assert letter.text.index("O-2") < letter.text.index("O-1")
    # The same letter has the same name, whoever sends it again.
    assert name_of(EVE, some) == name_of(EVE, list(some))
    assert name_of(EVE, some) != name_of("local:ben", some)


def test_a_sentence_writes_no_lines_of_a_letter_but_its_own() -> None:
    """What people wrote, as why a task failed, stands in sentences: none of it is a header, another
    alert, or what a terminal obeys."""
    forged = "no disk\r\nBcc: all@example.com\n\nClick http://evil\u2028now\x1b[2J\u202elive"
    told = Alert("A-1", "task_failed", "warning", forged, NOON)
    letter = letter_of("eve@example.com", "N-1", [told])
    flat = "no disk Bcc: all@example.com Click http://evil now [2J live"
    assert letter.subject == f"[warning] {flat}"
    assert letter.text.splitlines() == [
        "2026-03-01 12:00 UTC  warning  task_failed",
        f"  {flat}",
        "  alert A-1",
        "",
        "You get this because you subscribed to alerts; unsubscribe in your notifications.",
    ]


# --- the notifier, whose clock is ours


class Box:
    """A way to send mail that keeps it, and may fail."""

    def __init__(self) -> None:
        self.letters: list[Letter] = []
        self.broken = False

    async def send(self, letter: Letter) -> None:
        if self.broken:
            raise MailNotSent("the server is away")
        self.letters.append(letter)


class Home:
    """An organisation with a member who has an address."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.organisation_id = uuid4()
        self.member = f"local:{uuid4()}"
        self.box = Box()
        self.notifier = self.another()

    def another(self) -> Notifier:
        """A notifier that remembers nothing, as after a start."""
        return Notifier(self.app.log, self.app.bus, self.app.memberships, self.box)

    async def send(self, command: Command, actor: str = "boss") -> None:
        context = Context(self.organisation_id, actor, frozenset(Role))
        await self.app.bus.execute(command, context)

    async def settle_in(self) -> None:
        await self.send(FoundOrganisation(name="x", founded_at=NOON), "local:ada")
        await self.send(AddMember(member=self.member, roles=(Role.VIEWER,), added_at=NOON))
        insert = "INSERT INTO identity.accounts (id, email, password_hash) VALUES (%s, %s, 'x')"
        async with self.app.pool.connection() as connection:
            account = UUID(self.member.removeprefix("local:"))
            await connection.execute(insert, (account, f"{account}@example.com"))

    async def subscribe(self, **chosen: Any) -> None:
        command = SubscribeToAlerts(subscriber=self.member, subscribed_at=NOON, **chosen)
        await self.send(command, self.member)

    async def raised(self, subject_id: str, **more: Any) -> None:
        said = {"kind": AlertKind.ORDER_LATE, "severity": Severity.WARNING, "occurrence": 1}
        sentence = f"{subject_id} is late"
        await self.send(
            RaiseAlert(**{**said, **more}, subject_id=subject_id, sentence=sentence, raised_at=NOON)
        )

    async def look(self, now: datetime = NOON) -> list[str]:
        """Whose letters a look sends, by their subjects."""
        await self.app.projector.catch_up()
        before = len(self.box.letters)
        await self.notifier.look(now)
        return [letter.subject for letter in self.box.letters[before:]]


def run(database: str, story: Any) -> None:
    async def main() -> None:
        from api.identity.schema import prepare_identity

        async with company(database) as app:
            await prepare_identity(app.log)
            home = Home(app)
            await home.settle_in()
            await story(home)

    asyncio.run(main())


def test_a_subscriber_is_told_once_of_what_they_want_to_know(database: str) -> None:
    async def story(home: Home) -> None:
        await home.raised("O-0")  # before they subscribed
        await home.subscribe(kinds=("order_late",), least_severity="warning")
        await home.raised("O-1")
        await home.raised("O-2", severity=Severity.INFO)
        await home.raised("S-1/A", kind=AlertKind.STOCK_OUT)
        home.box.broken = True
        assert await home.look() == []
        home.box.broken = False
        assert await home.look(NOON + timedelta(seconds=30)) == []  # the server is left alone
        assert await home.look(NOON + timedelta(minutes=2)) == ["[warning] O-1 is late"]
        assert await home.look() == []
        assert home.box.letters[0].to == f"{home.member.removeprefix('local:')}@example.com"
        # Whoever died before it was noted sends the same letter: it has the same name.
        await home.raised("O-3")
        await home.app.projector.catch_up()
        later = NOON + timedelta(minutes=5)
        await home.notifier.look(later)
        await home.another().look(later)  # before the read models know
        first, again = home.box.letters[-2:]
        assert first == again
        assert first.name is not None
        home.notifier = home.another()
        assert await home.look() == []

    run(database, story)


def test_a_letter_a_day_holds_what_the_day_brought(database: str) -> None:
    async def story(home: Home) -> None:
        await home.subscribe(digest="daily", hour=7, zone="Europe/Berlin")
        for number in range(3):
            await home.raised(f"O-{number}")
        six, later = datetime(2026, 3, 2, 5, 59, tzinfo=UTC), datetime(2026, 3, 2, 6, tzinfo=UTC)
        assert await home.look(six) == []
        [subject] = await home.look(later)
        assert subject.startswith("3 alerts")
        await home.raised("O-9")
        assert await home.look(later + timedelta(hours=23)) == []
        assert len(await home.look(later + timedelta(hours=24))) == 1

    run(database, story)


def test_in_quiet_hours_only_what_is_critical_is_sent(database: str) -> None:
    async def story(home: Home) -> None:
        rule = SetAlertRule(
            alert_kind=AlertKind.ORDER_LATE, quiet_from="22:00", quiet_to="06:00", set_at=NOON
        )
        await home.send(rule)
        await home.subscribe()
        await home.raised("O-1")
        await home.raised("O-2", severity=Severity.CRITICAL)
        night = datetime(2026, 3, 1, 23, tzinfo=UTC)
        assert await home.look(night) == ["[critical] O-2 is late"]
        assert await home.look(night + timedelta(hours=8)) == ["[warning] O-1 is late"]

    run(database, story)


def test_what_is_quiet_does_not_stand_in_the_way(database: str) -> None:
    """However much of it there is, what may be told is told."""

    async def story(home: Home) -> None:
        rule = SetAlertRule(
            alert_kind=AlertKind.ORDER_LATE, quiet_from="22:00", quiet_to="06:00", set_at=NOON
        )
        await home.send(rule)
        await home.subscribe()
        context = Context(home.organisation_id, "boss", frozenset(Role))
        quiet = [
            RaiseAlert(
                kind=AlertKind.ORDER_LATE,
                subject_id=f"O-{number}",
                occurrence=1,
                severity=Severity.WARNING,
                sentence="late",
                raised_at=NOON,
            )
            for number in range(501)
        ]
        own = [replace(context, command_id=uuid4()) for _ in quiet]
        await home.app.bus.execute_many(list(zip(quiet, own, strict=True)))
        await home.raised("S-1/A", kind=AlertKind.STOCK_OUT, severity=Severity.CRITICAL)
        night = datetime(2026, 3, 1, 23, tzinfo=UTC)
        assert await home.look(night) == ["[critical] S-1/A is late"]
        end = UnsubscribeFromAlerts(subscriber=home.member, unsubscribed_at=NOON)
        await home.send(end, home.member)

    run(database, story)


def test_a_subscriber_who_cannot_be_told_holds_up_no_other(database: str) -> None:
    async def story(home: Home) -> None:
        await home.subscribe()
        other = Home(home.app)
        other.box = home.box
        await other.settle_in()
        await other.subscribe()
        for one in (home, other):
            await one.raised("O-1")
        await home.app.projector.catch_up()
        spoil = """UPDATE read_models.alert_subscriptions
            SET told = '{"digest": "daily", "hour": 7, "zone": "Mars"}' WHERE subscriber = %s"""
        async with home.app.pool.connection() as connection:
            await connection.execute(spoil, (home.member,))
        await home.look()
        await home.notifier.look(NOON)
        address = f"{other.member.removeprefix('local:')}@example.com"
        assert [letter.to for letter in home.box.letters] == [address]
        end = UnsubscribeFromAlerts(subscriber=home.member, unsubscribed_at=NOON)
        await home.send(end, home.member)

    run(database, story)


def test_who_has_left_is_told_nothing(database: str) -> None:
    async def story(home: Home) -> None:
        await home.subscribe()
        await home.send(RemoveMember(member=home.member, removed_at=NOON))
        await asyncio.sleep(1.1)  # as long as a right may be believed in
        await home.raised("O-1")
        assert await home.look() == []
        assert await home.look() == []

    run(database, story)


def test_an_alert_reaches_a_webhook_and_is_signed(database: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, webhook_private_addresses=HERE)
    with house(database, settings) as own, receiving() as receiver, own.delivering():
        secret = own.register(receiver.url, events=("alerts",))
        own.send(
            RaiseAlert(
                kind=AlertKind.STOCK_OUT,
                subject_id="S-1/A",
                occurrence=1,
                severity=Severity.CRITICAL,
                sentence="Site S-1 has no A to give any more",
                raised_at=NOON,
            )
        )
        until(lambda: receiver.got or None)
        told = receiver.got[0].verified(secret)
        assert "AlertRaised" in told["type"]
        assert told["data"]["subject_id"] == "S-1/A"


# --- all of it, served


@pytest.fixture(scope="module")
def box() -> Iterator[Postbox]:
    with postbox() as box:
        yield box


@pytest.fixture(scope="module")
def served(
    database: str, box: Postbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    mail = SecretStr(f"smtp://127.0.0.1:{box.port}")
    with serving_here(database, home, mail=mail, mail_from="Ops <ops@example.com>") as (found, _):
        yield found


@pytest.fixture
def boss(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def test_a_late_order_becomes_a_letter(
    database: str, served: Served, boss: httpx.Client, box: Postbox
) -> None:
    email = f"eve-{uuid4().hex[:8]}@example.com"
    with httpx.Client(verify=NO_TLS, base_url=served.url + API, timeout=60) as eve:
        signed = signed_up(eve, box, email)
        eve.headers["Authorization"] = f"Bearer {signed['access_token']}"
        member = f"local:{found(eve.get('/auth/me'))['id'].removeprefix('local:')}"
        context = Context(ORGANISATION, "boss", frozenset({Role.ADMIN}))
        now = datetime.now(UTC)

        async def join() -> None:
            async with company(database) as app:
                await app.bus.execute(
                    FoundOrganisation(name="x", founded_at=NOON),
                    Context(ORGANISATION, "local:ada", frozenset({Role.ADMIN})),
                )
                add = AddMember(member=member, roles=(Role.ADMIN,), added_at=now)
                await app.bus.execute(add, context)

        asyncio.run(join())
        body = {"kinds": ["order_late"]}
        answer = until(
            lambda: (
                one
                if (one := eve.post("/notifications/subscriptions", json=body)).is_success
                else None
            ),
            10,
        )
        position = answer.json()["position"]
        told = found(eve.get(f"/notifications/subscriptions?min_position={position}"))
        assert (told["subscriber"], told["kinds"], told["active"]) == (member, ["order_late"], True)
        late = order(
            "O-late",
            promised_at=(now - timedelta(hours=1)).isoformat(),
            placed_at=(now - timedelta(days=2)).isoformat(),
        )
        assert boss.post("/orders", json=late).is_success

        def letter() -> Any:
            return next(
                (one for one in box.letters if one["To"] == email and "O-late" in one["Subject"]),
                None,
            )

        mail = until(letter, 40)
        assert mail["Message-ID"].startswith("<N-")
        assert mail["Message-ID"].endswith("@example.com>")
        [shown] = found(eve.get("/alerts?kind=order_late&state=open&seen=false"))["items"]
        assert shown["alert_id"] in mail.get_content()
        path = f"/alerts/{shown['alert_id']}"
        assert found(eve.get("/notifications"))["unread_count"] == 1
        receipt = eve.post(f"{path}/read", json={}).json()
        wait = f"min_position={receipt['position']}"
        assert found(eve.get(f"/notifications?{wait}"))["unread_count"] == 0
        assert found(boss.get("/notifications"))["unread_count"] == 1
        receipt = boss.post("/alerts/read-all", json={}).json()
        wait = f"min_position={receipt['position']}"
        assert found(boss.get(f"/notifications?{wait}"))["unread_count"] == 0
        assert eve.post(f"{path}/acknowledge", json={"note": "called"}).is_success
        assert eve.post(f"{path}/acknowledge", json={}).status_code == 409
        snoozed = eve.post(f"{path}/snooze", json={"until": "2001-01-01T00:00:00Z"})
        assert snoozed.status_code == 422
        assert eve.post(f"{path}/resolve", json={"reason": "known"}).is_success
        history = found(eve.get(f"{path}/history"))["items"]
        assert [one["what"] for one in history] == [
            *("AlertRaised", "AlertRead", "AlertAcknowledged", "AlertResolved"),
        ]
        assert eve.post("/notifications/subscriptions/end", json={}).is_success
        assert eve.post("/notifications/subscriptions/end", json={}).status_code == 409
    with psycopg.connect(database) as connection:
        states = connection.execute("SELECT convert_from(state, 'UTF8') FROM events").fetchall()
    assert all(email not in state for (state,) in states)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/alerts?kind=boredom", 422),
        ("/alerts?state=asleep", 422),
        ("/alerts?sort=mood", 422),
        ("/alerts?cursor=x", 422),
        ("/alerts/A-none", 404),
        ("/alerts/A-none/history", 404),
        ("/alerts/rules/boredom", 422),
        ("/alerts/rules/order_late/history", 404),
        ("/schedules/none", 404),
        ("/schedules/none/runs", 404),
        ("/schedules?task=dance", 422),
        ("/tasks/none/history", 404),
    ],
)
def test_what_is_not_there_is_told(boss: httpx.Client, path: str, status: int) -> None:
    assert_problem(boss.get(path), status)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/notifications/subscriptions", {}, 422),  # the operator's token is no account
        ("/notifications/subscriptions", {"subscriber": EVE}, 422),
        ("/alerts/rules/order_late", {"threshold": "much"}, 422),
        ("/alerts/A-none/resolve", {}, 422),
        ("/alerts/A-none/acknowledge", {}, 404),
        ("/schedules", {"name": "x", "when": {"cron": "61 * * * *"}, "work": {}}, 422),
        ("/schedules/none/run", {}, 404),
        ("/tasks/none/retry", {}, 404),
        ("/tasks/none/prioritise", {"priority": 3}, 404),
        ("/tasks/none/prioritise", {"priority": "soon"}, 422),
    ],
)
def test_what_cannot_be_is_told(
    boss: httpx.Client, path: str, body: dict[str, Any], status: int
) -> None:
    assert_problem(boss.post(path, json=body), status)


def test_a_schedule_has_its_task_done(served: Served, boss: httpx.Client) -> None:
    body = {
        "schedule_id": "seal",
        "name": "Seal",
        "when": {"cron": "30 2 * * *", "zone": "Europe/Berlin"},
        "work": {"task": "sealing"},
    }
    with served.client(Role.VIEWER, actor="vic") as viewer:
        assert_problem(viewer.post("/schedules", json=body), 403)
    with served.client(Role.ANALYST, actor="ann") as analyst:
        assert_problem(analyst.post("/schedules", json=body), 403)  # may not ask for its task
    wrong = boss.post("/schedules", json=body | {"when": {"cron": "30 2 * 13 *"}})
    assert "'13' is no month" in wrong.text
    answer = boss.post("/schedules", json=body)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    told = found(boss.get(f"/schedules/seal?min_position={made['position']}"))
    assert len(told["next_times"]) == 5
    ran = found(boss.post("/schedules/seal/run", json={"task_id": "T-seal"}))

    def done() -> Any:
        answer = boss.get("/tasks/T-seal")
        return answer.json() if answer.is_success and answer.json()["finished_at"] else None

    task = until(done, 40)
    assert (task["state"], task["kind"]) == ("completed", "sealing")
    assert task["result"]["sealed"] >= ran["position"]
    fresh = f"min_position={task['last_position']}"
    [one] = found(boss.get(f"/schedules/seal/runs?{fresh}"))["items"]
    assert (one["task_id"], one["due_at"], one["state"]) == ("T-seal", None, "completed")
    assert_problem(boss.post("/tasks/T-seal/prioritise", json={"priority": 9}), 409)
    assert_problem(boss.post("/tasks/T-seal/retry", json={}), 409)
    queue = found(boss.get(f"/tasks/queue?{fresh}"))
    assert [one["kind"] for one in queue["last_hour"]] == ["sealing"]
    assert queue["workers"][0]["tasks"] == 1
    assert found(boss.get("/tasks/T-seal/history"))["items"][0]["what"] == "TaskRequested"
    assert found(boss.post("/schedules/seal/retire", json={}))
    names = [one["what"] for one in found(boss.get("/schedules/seal/history"))["items"]]
    assert names == ["ScheduleMade", "ScheduleFired", "ScheduleRetired"]
