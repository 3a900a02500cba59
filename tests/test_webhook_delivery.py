"""Delivery to real receivers: signed, retried, in order, given up, replayed, and never lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError
from typer.testing import CliRunner

from chainlytics.cli.console import CliError
from chainlytics.cli.webhooks import app as cli
from chainlytics.settings import Settings
from domain.catalogue import decode
from domain.webhooks import (
    ChangeWebhook,
    PauseWebhook,
    RemoveWebhook,
    ResumeWebhook,
    RotateWebhookSecret,
    WebhookPaused,
)
from eventstore.persons.keys import rewrap
from eventstore.webhooks import queue
from eventstore.webhooks.secrets import sweep
from readmodels import webhooks
from readmodels.database import ReadModels
from readmodels.webhooks import Backlog, Delivery, Letter, webhook_lag
from tests.serving import until
from tests.webhooking import HERE, NOW, QUICK, Got, House, house, receiving

KEY = b64encode(b"k" * 32).decode()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        home=tmp_path_factory.mktemp("home"),
        master_key=SecretStr(KEY),
        webhook_private_addresses=HERE,
    )


@pytest.fixture(scope="module")
def wired(database: str, settings: Settings) -> Iterator[House]:
    with house(database, settings) as found:
        yield found


@pytest.fixture
def home(wired: House) -> Iterator[House]:
    """An organisation of the test's own; its webhooks end with it."""
    yield wired.opened()
    with psycopg.connect(wired.url) as connection:
        connection.execute("UPDATE webhook_endpoints SET paused = true")


def read(home: House) -> ReadModels:
    return ReadModels(home.app.log, home.organisation_id)


def deliveries(home: House, webhook_id: str = "w") -> list[Delivery]:
    """From the oldest on."""
    found = home.run(webhooks.list_deliveries(read(home), webhook_id, limit=500))
    return list(found.items)[::-1]


def letters(home: House) -> list[Letter]:
    return list(home.run(webhooks.list_dead_letters(read(home), "w")).items)


def backlog(home: House, webhook_id: str = "w") -> Backlog | None:
    return home.run(webhooks.backlog(read(home), webhook_id))


def states(home: House, webhook_id: str = "w") -> list[str]:
    return [one.status for one in deliveries(home, webhook_id)]


def paused_by(home: House) -> tuple[str, str] | None:
    """Who paused the webhook, and why, as the log says."""
    events = home.run(read(home).stream("webhooks/w"))
    last = decode(events[-1].topic, events[-1].state)
    return (last.paused_by, last.reason) if isinstance(last, WebhookPaused) else None


def moved(home: House, url: str) -> None:
    """The webhook has another address."""
    change = ChangeWebhook(webhook_id="w", url=url, events=("StockReceived",), changed_at=NOW)
    home.send(change)


def sure(condition: Any) -> bool | None:
    return True if condition else None


def test_a_receivers_own_library_takes_what_it_is_sent(home: House) -> None:
    with receiving() as receiver, home.delivering():
        home.goods("early", 1)  # before it was registered
        secret = home.register(receiver.url)
        home.goods("A", 7)
        until(lambda: sure(receiver.got))
        [got] = receiver.got
        told = got.verified(secret)
        assert told["type"] == "inventory.StockReceived.v1"
        assert told["data"]["sku"] == "A"
        assert told["organisation_id"] == str(home.organisation_id)
        assert told["actor"] == "ana"
        assert told["timestamp"].endswith("Z")
        assert got.headers["webhook-id"] == told["id"]
        assert got.headers["content-type"] == "application/json"
        with pytest.raises(WebhookVerificationError):
            got.verified("whsec_" + b64encode(b"x" * 32).decode())
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(got.body.replace(b'"A"', b'"B"'), got.headers)
        until(lambda: sure(states(home) == ["delivered"]))


def test_a_webhook_is_told_what_it_names_of_its_organisation_alone(home: House) -> None:
    """Other organisations' events are on the same log."""
    with receiving() as all_, receiving() as few, home.delivering():
        home.register(all_.url, "all", ())
        home.register(few.url, "few", ("inventory",))
        mine = home.organisation_id
        home.opened().goods("theirs", 5)
        home.organisation_id = mine
        home.goods("mine", 6)
        until(lambda: sure(all_.got and few.got))
        # Nothing of webhooks themselves: their addresses are not everybody's.
        assert [one.told["type"] for one in all_.got] == ["inventory.StockReceived.v1"]
        assert [one.sku for one in few.got] == ["mine"]
        assert {one.told["organisation_id"] for one in all_.got} == {str(mine)}
        assert all(b"whsec" not in one.body for one in all_.got)


def test_streams_come_in_their_order_whatever_fails(home: House) -> None:
    tries: Counter[str] = Counter()

    def flaky(got: Got) -> int:
        tries[got.headers["webhook-id"]] += 1
        return 503 if tries[got.headers["webhook-id"]] == 1 and got.quantity % 3 == 0 else 200

    with receiving(flaky) as receiver, home.delivering():
        secret = home.register(receiver.url)
        for quantity in range(1, 10):
            home.goods("A", quantity)
            home.goods("B", quantity)
        until(lambda: sure(states(home).count("delivered") == 18))
        for sku in ("A", "B"):
            # What failed comes again before what follows it.
            assert receiver.of(sku) == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]
        assert {one.verified(secret)["data"]["sku"] for one in receiver.got} == {"A", "B"}
        # A retry has the same id and body, whatever its signature.
        by_id: dict[str, set[bytes]] = {}
        for one in receiver.got:
            by_id.setdefault(one.headers["webhook-id"], set()).add(one.body)
        assert len(by_id) == 18
        assert {len(bodies) for bodies in by_id.values()} == {1}


def test_what_is_given_up_holds_its_stream_until_it_is_replayed(home: House) -> None:
    broken = True

    def picky(got: Got) -> int:
        return 400 if broken and got.sku == "bad" else 200

    with receiving(picky) as receiver, home.delivering():
        home.register(receiver.url)
        home.goods("bad", 1, 2, 3)
        home.goods("good", 1, 2)
        until(lambda: sure("dead" in states(home) and receiver.of("good") == [1, 2]))
        [letter] = letters(home)
        assert (letter.attempts, letter.status_code, letter.holding) == (len(QUICK) + 1, 400, 2)
        assert letter.error == "it answered 400"
        assert receiver.of("bad") == [1] * 4
        home.goods("bad", 4)
        home.goods("good", 3)
        until(lambda: sure(receiver.of("good") == [1, 2, 3]))
        assert states(home).count("held") == 3
        assert home.run(webhook_lag(home.app.log)).dead >= 1
        tried = home.run(webhooks.attempts(read(home), "w", letter.position))
        assert [one.attempt for one in tried] == [4, 3, 2, 1]
        assert {one.status_code for one in tried} == {400}

        broken = False
        assert _act(home, queue.replay, letter.position) == 1
        until(lambda: sure(set(states(home)) == {"delivered"}))
        assert receiver.of("bad") == [1] * 5 + [2, 3, 4]
        [first] = [one for one in deliveries(home) if one.position == letter.position]
        assert first.changed_by == "ana"
        assert _act(home, queue.replay, None) == 0


def test_who_discards_a_dead_letter_lets_its_stream_go_on(home: House) -> None:
    with receiving(lambda got: 422 if got.quantity == 1 else 200) as receiver, home.delivering():
        home.register(receiver.url)
        home.goods("A", 1, 2)
        [letter] = until(lambda: letters(home) or None)
        assert _act(home, queue.discard, letter.position) == 1
        until(lambda: sure(states(home) == ["discarded", "delivered"]))
        assert receiver.of("A")[-1] == 2


def _act(home: House, act: Any, position: int | None) -> int:
    async def work() -> int:
        async with home.app.log.connection() as connection:
            count: int = await act(connection, (home.organisation_id, "w"), position, "ana")
            return count

    return home.run(work())


def test_both_secrets_sign_within_the_grace(home: House) -> None:
    with receiving() as receiver, home.delivering():
        first = home.register(receiver.url)
        second = _rotated(home, hours=24)
        home.goods("A", 1)
        until(lambda: sure(receiver.got))
        assert receiver.got[0].headers["webhook-signature"].count("v1,") == 2
        assert receiver.got[0].verified(first) == receiver.got[0].verified(second)
        third = _rotated(home, hours=0)
        home.goods("A", 2)
        until(lambda: sure(len(receiver.got) == 2))
        assert receiver.got[1].verified(third)
        for former in (first, second):
            with pytest.raises(WebhookVerificationError):
                receiver.got[1].verified(former)


def _rotated(home: House, hours: int) -> str:
    secret_id = uuid4()
    home.run(home.webhooks.secrets.make(home.organisation_id, "w", secret_id))
    home.send(
        RotateWebhookSecret(
            webhook_id="w",
            secret_id=str(secret_id),
            grace_hours=hours,
            rotated_at=datetime.now(UTC),
        )
    )
    return home.secret(secret_id)


def test_a_receiver_that_asks_for_time_is_given_it(home: House) -> None:
    """It says 429 for all: another event is not sent meanwhile either."""
    busy = True

    def answer(got: Got) -> int | tuple[int, dict[str, str]]:
        return (429, {"Retry-After": "3600"}) if busy else 200

    with receiving(answer) as receiver, home.delivering():
        home.register(receiver.url)
        home.goods("A", 1)
        until(lambda: sure((found := backlog(home)) and found.resting_until))
        home.goods("B", 1)
        until(lambda: sure(len(deliveries(home)) == 2))
        home.register(receiver.url, "other")  # comes round: the deliverer has looked since
        until(lambda: sure(backlog(home, "other")))
        assert receiver.of("A") == [1]
        assert receiver.of("B") == []
        [waiting, _] = deliveries(home)
        assert (waiting.due_at - waiting.changed_at) >= timedelta(minutes=59)
        busy = False
        # Another address is tried at once, whatever the former one asked for.
        moved(home, receiver.url + "/new")
        until(lambda: sure(states(home) == ["delivered", "delivered"]))
        assert receiver.got[-1].path == "/hooks/new"


def test_a_receiver_that_is_gone_is_paused_and_misses_nothing(home: House) -> None:
    gone = True
    with receiving(lambda _: 410 if gone else 200) as receiver, home.delivering():
        home.register(receiver.url)
        home.goods("A", 1)
        until(lambda: paused_by(home))
        assert paused_by(home) == ("webhook-deliverer", "the receiver answered 410 Gone")
        home.goods("A", 2)
        home.goods("B", 1)
        assert len(receiver.got) == 1
        gone = False
        home.send(ResumeWebhook(webhook_id="w", resumed_at=NOW))
        until(lambda: sure(states(home) == ["delivered"] * 3))
        assert receiver.of("A") == [1, 1, 2]


def test_a_receiver_that_fails_for_too_long_is_paused(home: House) -> None:
    days = timedelta(milliseconds=150)
    patient = tuple([timedelta(milliseconds=100)] * 50)
    with (
        receiving(lambda _: 500) as receiver,
        home.delivering(give_up_after=days, schedule=patient),
    ):
        home.register(receiver.url)
        home.goods("A", 1)
        by, reason = until(lambda: paused_by(home))
    assert by == "webhook-deliverer"
    assert reason.startswith("it has taken nothing since 20")
    assert len(receiver.got) >= 2
    assert states(home) == ["pending"]


def test_what_happens_while_a_webhook_is_paused_is_sent_when_it_is_resumed(home: House) -> None:
    with receiving() as receiver, home.delivering():
        home.register(receiver.url)
        home.send(PauseWebhook(webhook_id="w", reason="they move", paused_at=NOW))
        home.goods("A", 1, 2)
        home.send(ResumeWebhook(webhook_id="w", resumed_at=NOW))
        home.goods("A", 3)
        until(lambda: sure(len(receiver.got) == 3))
        assert receiver.of("A") == [1, 2, 3]


def test_a_removed_webhook_is_sent_nothing_and_its_secrets_are_gone(home: House) -> None:
    with receiving(lambda _: 500) as receiver, home.delivering(schedule=(timedelta(hours=1),)):
        home.register(receiver.url)
        home.goods("A", 1, 2)
        until(lambda: sure(receiver.got))
        home.send(RemoveWebhook(webhook_id="w", removed_at=NOW))
        until(lambda: sure(backlog(home) is None))
        assert states(home) == ["discarded"] * 2
        with psycopg.connect(home.url) as connection:
            left = connection.execute(
                "SELECT count(*) FROM webhook_secrets WHERE organisation_id = %s",
                (home.organisation_id,),
            ).fetchone()
        assert left == (0,)


def test_a_slow_receiver_holds_up_nobody_else(home: House) -> None:
    with receiving() as slow, receiving() as quick, home.delivering():
        slow.open.clear()
        home.register(slow.url, "slow")
        home.register(quick.url, "quick")
        for sku in "ABCDEFGHIJKL":  # more than are sent to one at once
            home.goods(sku, 1)
        until(lambda: sure(len(quick.got) == 12))
        assert "delivered" not in states(home, "slow")
        slow.open.set()
        until(lambda: sure(states(home, "slow") == ["delivered"] * 12))


def test_two_deliverers_do_not_send_twice(home: House) -> None:
    """The second one stands by, and takes over when the first one is gone."""
    with receiving() as receiver:
        home.register(receiver.url)
        with home.delivering():
            with home.delivering():
                home.goods("A", *range(1, 30))
                until(lambda: sure(len(receiver.got) >= 29))
                assert receiver.of("A") == list(range(1, 30))
            home.goods("A", 30)
            until(lambda: sure(len(receiver.got) >= 30))
            assert receiver.of("A") == list(range(1, 31))


def test_secrets_are_not_stored_in_the_clear_and_outlive_the_master_key(home: House) -> None:
    with receiving() as receiver, home.delivering():
        secret = home.register(receiver.url)
        home.goods("A", 1)
        until(lambda: sure(receiver.got))
    with psycopg.connect(home.url) as connection:
        [(sealed,)] = connection.execute(
            "SELECT sealed FROM webhook_secrets WHERE organisation_id = %s",
            (home.organisation_id,),
        ).fetchall()
    assert b64decode(secret.removeprefix("whsec_")) not in sealed
    new = b"n" * 32
    assert rewrap(home.url, b"k" * 32, new) >= 0
    try:
        other = home.settings.model_copy(update={"master_key": _key(new)})
        with house(home.url, other) as again, receiving() as receiver, again.delivering():
            again.organisation_id = home.organisation_id
            moved(again, receiver.url)
            again.goods("A", 2)
            until(lambda: sure(receiver.got))
            assert all(one.verified(secret) for one in receiver.got)
    finally:
        rewrap(home.url, new, b"k" * 32)


def test_secrets_that_sign_nothing_are_swept_away(home: House) -> None:
    """Those of commands that were not stored, and former ones behind their grace; not before an
    hour, and never one that signs."""
    with receiving() as receiver, home.delivering():
        home.register(receiver.url)
        _rotated(home, hours=0)
        until(lambda: sure(backlog(home)))
        vain, fresh = uuid4(), uuid4()
        for one in (vain, fresh):
            home.run(home.webhooks.secrets.make(home.organisation_id, "never", one))
        home.goods("A", 1)
        until(lambda: sure(receiver.got))
    with psycopg.connect(home.url) as connection:
        connection.execute(
            """UPDATE webhook_secrets SET created_at = now() - interval '2 hours'
            WHERE organisation_id = %s AND secret_id <> %s""",
            (home.organisation_id, fresh),
        )

    async def work() -> None:
        async with home.app.log.connection() as connection:
            await sweep(connection)

    home.run(work())
    with psycopg.connect(home.url) as connection:
        rows = connection.execute(
            "SELECT secret_id FROM webhook_secrets WHERE organisation_id = %s",
            (home.organisation_id,),
        ).fetchall()
        signing = connection.execute(
            "SELECT secret_id FROM webhook_endpoints WHERE organisation_id = %s",
            (home.organisation_id,),
        ).fetchall()
    assert {one for (one,) in rows} == {fresh, *(one for (one,) in signing)}


def test_the_command_line_shows_and_replays(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = True
    with receiving(lambda _: 400 if broken else 200) as receiver, home.delivering():
        home.register(receiver.url)
        home.goods("A", 1, 2)
        [letter] = until(lambda: letters(home) or None)
        monkeypatch.setenv("DATABASE_URL", home.url)
        monkeypatch.setenv("CHAINLYTICS_HOME", str(home.settings.home))
        monkeypatch.setenv("CHAINLYTICS_ORGANISATION", str(home.organisation_id))
        monkeypatch.setenv("CHAINLYTICS_MASTER_KEY", KEY)
        assert [one["webhook_id"] for one in said("list", "--json")] == ["w"]
        assert said("show", "w", "--json")["backlog"]["dead"] == 1
        assert [one["status"] for one in said("deliveries", "w", "--json")] == ["held", "dead"]
        [told] = said("dead-letters", "w", "--json")
        assert (told["position"], told["holding"]) == (letter.position, 1)
        broken = False
        again = ("replay", "w", "--position", str(letter.position), "--json")
        assert said(*again) == {"count": 1, "discarded": False}
        until(lambda: sure(states(home) == ["delivered"] * 2))
        with pytest.raises(CliError, match="no dead letter of w at position"):
            said(*again)
        with pytest.raises(CliError, match="webhook 'x' is not known"):
            said("show", "x")
        with pytest.raises(CliError, match="or say --all"):
            said("replay", "w")


def said(*words: str) -> Any:
    """What the command line answers, as JSON."""
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def _key(key: bytes) -> Any:
    return SecretStr(b64encode(key).decode())


@contextmanager
def worker(home: House, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`chainlytics webhooks run` as a process; killed in the end."""
    with (folder / "worker.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "chainlytics", "webhooks", "run"],
            env=os.environ
            | {
                "DATABASE_URL": home.url,
                "CHAINLYTICS_HOME": str(folder),
                "CHAINLYTICS_MASTER_KEY": KEY,
                "CHAINLYTICS_WEBHOOK_PRIVATE_ADDRESSES": HERE,
                "HTTP_PROXY": "http://127.0.0.1:9",  # nobody listens there: it is not to be used
                "ALL_PROXY": "http://127.0.0.1:9",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_killed_deliverer_loses_nothing(home: House, tmp_path: Path) -> None:
    """Killed while requests are under way, twice: what comes twice has the same id, and nothing
    is missing or out of order."""
    skus = [f"K{number}" for number in range(5)]

    def came(enough: int) -> bool | None:
        return sure(len(receiver.got) >= enough)

    with receiving() as receiver:
        secret = home.register(receiver.url)
        for enough in (10, 40):
            with worker(home, tmp_path) as process:
                for quantity in range(1, 11):
                    for sku in skus:
                        home.goods(sku, quantity + enough)
                until(partial(came, enough))
                process.send_signal(signal.SIGKILL)
                process.wait()
        with worker(home, tmp_path):
            until(lambda: sure(states(home).count("delivered") == 100))
    expected = [*range(11, 21), *range(41, 51)]
    for sku in skus:
        # First coming alone.
        assert list(dict.fromkeys(receiver.of(sku))) == expected
    ids = {(one.sku, one.quantity): one.headers["webhook-id"] for one in receiver.got}
    for one in receiver.got:
        assert ids[one.sku, one.quantity] == one.headers["webhook-id"]
        assert one.verified(secret)
