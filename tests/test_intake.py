"""Commands by Kafka, on a real broker and a real Postgres: one command of each message, whatever
is cut off in between; the same words as HTTP; poison out of everybody's way, and back again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
import pytest
from kafka import KafkaAdminClient
from kafka.errors import MessageSizeTooLargeError
from typer.testing import CliRunner

from api.dependencies import Dependencies
from api.intake import CONSUMER, Intake
from api.tokens import Issuer
from chainlytics.cli import app
from chainlytics.cli.console import CliError
from commands import HANDLERS, stream_id
from domain.access import Role
from domain.orders import CancelOrder
from domain.values import Command
from eventstore import prepare_database
from eventstore.embedded import EmbeddedPostgres
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.inbox import Inbox, Message, Outgoing
from eventstore.kafka.letters import COMMANDS, DEAD, Letter, dead_letter, dead_letters
from eventstore.kafka.topics import ensure_topics
from tests.broker import RunningBroker, StoppableBroker
from tests.conftest import TEST_SETTINGS
from tests.intake import LANES, Outside, outside, running, taking_in
from tests.proxy import Proxy
from tests.serving import SECRET, bearer, order, serving_here, until
from tests.world import ORGANISATION


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def port(broker: RunningBroker, database: str, home: Path) -> Iterator[Outside]:
    """Somebody outside of an intake that runs for the whole module."""
    with outside(broker.bootstrap) as who, taking_in(database, home, who.cluster):
        yield who


@pytest.fixture
def apart(broker: RunningBroker) -> Iterator[Outside]:
    """Somebody outside with topics of his own, that nobody takes in yet."""
    with outside(broker.bootstrap) as who:
        yield who


def events(database: str, *order_ids: str, organisation: UUID = ORGANISATION) -> int:
    """Events of orders in the log."""
    streams = [stream_id(organisation, f"orders/{one}") for one in order_ids]
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT count(*) FROM events WHERE originator_id = ANY(%s)", (streams,)
        ).fetchone()
    assert row is not None
    return int(row[0])


def attempts(database: str, result: str, command: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT coalesce(sum(times), 0) FROM attempts WHERE result = %s AND command = %s",
            (result, command),
        ).fetchone()
    assert row is not None
    return int(row[0])


def head(database: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT position FROM log_head").fetchone()
    assert row is not None
    return int(row[0])


# what is answered


def test_a_command_is_taken_and_answered(port: Outside, database: str) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    reply = port.ask(
        "PlaceOrder", order("O-1"), id="first", traceparent=f"00-{trace}-b7ad6b7169203331-01"
    )
    body = reply.accepted
    assert body == {
        "stream": "orders/O-1",
        "id": "O-1",
        "version": 1,
        "position": body["position"],
        "repeated": False,
    }
    assert reply.key == b"K"
    assert reply.headers["ce_specversion"] == "1.0"
    assert reply.headers["ce_commandid"] == "first"
    assert reply.headers["ce_source"] == f"/organisations/{ORGANISATION}"
    assert reply.headers["ce_correlationid"] == str(UUID(trace))
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT actor, correlation_id FROM events WHERE notification_id = %s",
            (body["position"],),
        ).fetchone()
    assert row == ("tester", UUID(trace))


def test_the_correlation_id_can_be_named_and_the_key_left_out(port: Outside) -> None:
    named = uuid4()
    sent = port.send("PlaceOrder", order("O-named"), key=None, ce_correlationid=str(named))
    reply = port.reply(sent)
    assert reply.accepted
    assert reply.headers["ce_correlationid"] == str(named)
    assert reply.key == sent.encode()


def test_the_same_id_is_one_command(port: Outside, database: str) -> None:
    first = port.ask("PlaceOrder", order("O-2"), id="twice").accepted
    port.send("PlaceOrder", order("O-2"), id="twice")
    second = port.replies("twice", 2)[1].accepted
    assert second == first | {"repeated": True}
    assert events(database, "O-2") == 1


def test_the_same_id_is_one_command_in_one_poll(apart: Outside, database: str, home: Path) -> None:
    for _ in range(3):
        apart.send("PlaceOrder", order("O-poll"), id="thrice")
    apart.producer.flush()
    with taking_in(database, home, apart.cluster):
        replies = apart.replies("thrice", 3)
    assert [one.accepted["repeated"] for one in replies] == [False, True, True]
    assert events(database, "O-poll") == 1


def test_the_same_id_with_other_words_is_refused(port: Outside, database: str) -> None:
    assert port.ask("PlaceOrder", order("O-3"), id="reused").accepted
    port.send("PlaceOrder", order("O-3b"), id="reused")
    port.replies("reused", 2)[1].rejected(409, "idempotency-key-reused")
    assert events(database, "O-3b") == 0
    assert port.letters("reused") == []


def test_ids_of_another_organisation_are_its_own(port: Outside, database: str) -> None:
    other = uuid4()
    assert port.ask("PlaceOrder", order("O-4"), id="shared").accepted
    port.send("PlaceOrder", order("O-5"), id="shared", token=bearer(organisation_id=other))
    second = port.replies("shared", 2)[1]
    assert second.accepted["repeated"] is False
    assert second.headers["ce_source"] == f"/organisations/{other}"
    assert events(database, "O-5", organisation=other) == 1


def test_a_rule_refuses(port: Outside, database: str) -> None:
    assert port.ask("PlaceOrder", order("O-6")).accepted
    sent = port.send("PlaceOrder", order("O-6"))
    port.reply(sent).rejected(409, "order.already_placed")
    assert port.letters(sent) == []
    assert until(lambda: attempts(database, "refused", "PlaceOrder") or None)


def test_a_command_takes_its_time_from_the_server(port: Outside) -> None:
    assert port.ask("PlaceOrder", order("O-7")).accepted
    reply = port.ask("CancelOrder", {"order_id": "O-7", "reason": "changed mind"}).accepted
    assert (reply["stream"], reply["version"]) == ("orders/O-7", 2)


# what is not let in


@pytest.mark.parametrize("kind", ["none", "expired", "forged", "basic"])
def test_without_a_good_token_nothing_is_taken(port: Outside, database: str, kind: str) -> None:
    who: dict[str, Any] = {
        "subject": "tester",
        "organisation_id": ORGANISATION,
        "roles": frozenset({Role.ADMIN}),
    }
    expired = Issuer(SECRET).issue(**who, ttl=timedelta(seconds=-5))
    forged = Issuer("another secret of more than 32 characters").issue(
        **who, ttl=timedelta(hours=1)
    )
    before = head(database)
    noted = attempts(database, "unauthenticated", "kafka PlaceOrder")
    fields = order(f"O-{kind}")
    match kind:
        case "none":
            sent = port.send("PlaceOrder", fields, without="authorization")
        case "basic":
            sent = port.send("PlaceOrder", fields, authorization="Basic dGVzdDp0ZXN0")
        case _:
            token = expired if kind == "expired" else forged
            sent = port.send("PlaceOrder", fields, token=token)
    reply = port.reply(sent)
    reply.rejected(401, "unauthenticated")
    assert reply.headers["ce_source"] == "/organisations", "what it says of itself is not believed"
    assert head(database) == before
    assert port.letters(sent) == []
    until(lambda: attempts(database, "unauthenticated", "kafka PlaceOrder") > noted or None)


def test_a_viewer_may_not(port: Outside, database: str) -> None:
    sent = port.send("PlaceOrder", order("O-8"), token=bearer(Role.VIEWER))
    port.reply(sent).rejected(403, "forbidden")
    assert events(database, "O-8") == 0
    assert port.letters(sent) == []
    assert until(lambda: attempts(database, "denied", "PlaceOrder") or None)


def test_another_organisation_cannot_be_named(port: Outside, database: str) -> None:
    other = uuid4()
    within = port.ask("PlaceOrder", order("O-9", organisation_id=str(other)))
    told = within.rejected(422, "invalid")
    assert [one["field"] for one in told["errors"]] == ["body.organisation_id"]
    named = {"organisation_id": str(other), "ce_organisation": str(other), "ce_actor": "root"}
    outside = port.ask("PlaceOrder", order("O-9"), **named)
    assert outside.headers["ce_source"] == f"/organisations/{ORGANISATION}"
    assert outside.accepted
    assert events(database, "O-9", organisation=other) == 0
    assert events(database, "O-9") == 1


def test_an_outsider_names_no_topic(port: Outside) -> None:
    sent = port.send("PlaceOrder", order("O-10"), ce_replytopic=port.cluster.topic("orders"))
    assert port.reply(sent).accepted


# poison


def test_a_field_that_is_not_valid(port: Outside, database: str) -> None:
    sent = port.send("PlaceOrder", order("O-11", currency="XXX"))
    told = port.reply(sent).rejected(422, "invalid")
    assert [(one["field"], one["value"]) for one in told["errors"]] == [("body.currency", "XXX")]
    [letter] = port.letters(sent)
    assert "body.currency" in letter.reason
    assert letter.key == b"K"
    assert json.loads(letter.value or b"") == order("O-11", currency="XXX")
    assert dict(letter.headers)["ce_type"] == b"PlaceOrder"
    assert letter.came_topic == port.cluster.topic(COMMANDS)
    assert letter.replayed_at is None
    assert events(database, "O-11") == 0


@pytest.mark.parametrize(
    ("value", "status", "code"),
    [
        (b"{not json", 422, "invalid"),
        (b"", 422, "invalid"),
        (b'{"order_id": "\xff"}', 400, "bad-request"),
        (b"[" * 100_000, 400, "bad-request"),
        (b"[]", 422, "invalid"),
        (b"null", 422, "invalid"),
        (b'{"\\ud800": 1, "order_id": "\\ud800"}', 422, "invalid"),
        (b'"' + b"x" * 1_000_000 + b'"', 413, "body-too-large"),
    ],
    ids=["text", "nothing", "latin-1", "deep", "list", "null", "surrogate", "large"],
)
def test_a_value_that_is_no_command(port: Outside, value: bytes, status: int, code: str) -> None:
    sent = port.send("PlaceOrder", value)
    port.reply(sent).rejected(status, code)
    [letter] = port.letters(sent)
    assert (letter.value or b"") == value
    assert code in letter.reason
    assert port.ask("PlaceOrder", order(f"O-{uuid4()}")).accepted, "nobody is held up"


def test_a_command_that_there_is_not(port: Outside) -> None:
    for name in ("DropTables", "OrderPlaced", "RegisterModel"):
        sent = port.send(name, {})
        told = port.reply(sent).rejected(422, "invalid")
        assert [(one["field"], one["value"]) for one in told["errors"]] == [
            ("header.ce_type", name)
        ]
        [letter] = port.letters(sent)
        assert "no such command" in letter.reason


@pytest.mark.parametrize("header", ["ce_specversion", "ce_source", "ce_type"])
def test_a_header_that_is_missing(port: Outside, header: str) -> None:
    sent = port.send("PlaceOrder", order("O-12"), without=header)
    told = port.reply(sent).rejected(422, "invalid")
    assert [one["field"] for one in told["errors"]] == [f"header.{header}"]
    assert len(port.letters(sent)) == 1


@pytest.mark.parametrize("named", ["", " blank", "x" * 201, "ä", "a\nb"])
def test_an_id_that_can_be_none_is_a_dead_letter_only(port: Outside, named: str) -> None:
    marker = str(uuid4())
    port.send("PlaceOrder", order("O-13"), key=marker, ce_id=named)
    assert port.ask("PlaceOrder", order(f"O-{uuid4()}"), key=marker).accepted
    [letter] = [one for one in all_letters(port) if one.key == marker.encode()]
    assert "header.ce_id" in letter.reason


def test_a_header_that_stands_there_twice(port: Outside) -> None:
    topic = port.cluster.topic(COMMANDS)
    token = f"Bearer {bearer()}".encode()
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"double"),
        ("ce_source", b"/tests"),
        ("ce_type", b"PlaceOrder"),
        ("ce_type", b"CancelOrder"),
        ("authorization", token),
    ]
    port.producer.send(topic, key=b"K", value=b"{}", headers=headers)
    port.reply("double").rejected(422, "invalid")
    tokens = [one for one in headers if one != ("ce_type", b"CancelOrder")]
    tokens[1] = ("ce_id", b"two tokens")
    port.producer.send(topic, key=b"K", value=b"{}", headers=[*tokens, ("authorization", token)])
    port.reply("two tokens").rejected(401, "unauthenticated")


class Latin(str):
    """A header's name as a client in another encoding sends it."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"n\xe4me"


def test_a_record_that_the_client_cannot_read_holds_up_nobody(
    apart: Outside, database: str, home: Path
) -> None:
    topic = apart.cluster.topic(COMMANDS)
    for partition in range(LANES):
        before = apart.send("PlaceOrder", order(f"O-before-{partition}"))
        assert before
    apart.producer.flush()
    apart.producer.send(topic, key=b"K", value=b"{}", headers=[(Latin("name"), b"")], partition=1)
    apart.producer.flush()
    after = [apart.send("PlaceOrder", order(f"O-after-{n}"), key=str(n)) for n in range(8)]
    with taking_in(database, home, apart.cluster):
        assert all(one[0].accepted for one in apart.all_replied(after).values())
    [letter] = all_letters(apart)
    assert (letter.came_partition, letter.whole) == (1, False)


def test_a_large_letter_is_kept(port: Outside) -> None:
    sent = the_largest(port)
    port.reply(sent).rejected(413, "body-too-large")
    [letter] = port.letters(sent)
    assert len(letter.value or b"") > 1_000_000


def test_a_letter_that_is_too_large_leaves_its_place(
    broker: RunningBroker, database: str, home: Path
) -> None:
    """With our own headers on it, it does not fit into a topic that somebody else made."""
    cluster = Cluster(tuple(broker.bootstrap.split(",")), f"t{uuid4().hex[:10]}")
    ensure_topics(cluster, [cluster.topic(DEAD)], LANES, kept={"max.message.bytes": "1048588"})
    with outside(broker.bootstrap, cluster) as port, taking_in(database, home, cluster):
        sent = the_largest(port)
        other = port.send("PlaceOrder", b"{")
        port.reply(sent).rejected(413, "body-too-large")
        port.replies(other)
        assert len(port.letters(other)) == 1
        [letter] = [one for one in all_letters(port) if not one.whole]
        assert (letter.value, letter.key, letter.command_id) == (b"", None, "")
        assert "larger than" in letter.reason
        done = terminal(cluster, "replay", *place(letter))
        assert done.exit_code == 1
        assert "was not kept" in done.output


def the_largest(port: Outside) -> str:
    """Send the largest message that the brokers take."""
    for size in range(1_048_576, 1_040_000, -10):
        try:
            return port.send("PlaceOrder", b"x" * size)
        except MessageSizeTooLargeError:
            continue
    raise AssertionError("no size was taken")


# what is cut off


class Stopped(BaseException):
    """As a crash: nothing of ours runs after it."""


class StopsBeforeAnswers(Inbox):
    async def put(self, records: Sequence[Outgoing]) -> None:
        raise Stopped


class StopsBeforeOffsets(Inbox):
    async def done(self, messages: Iterable[Message]) -> None:
        raise Stopped


def cut_off(inbox: type[Inbox], port: Outside) -> Callable[[Dependencies], Awaitable[None]]:
    async def work(parts: Dependencies) -> None:
        topic = port.cluster.topic(COMMANDS)
        async with inbox(port.cluster, CONSUMER, topic, parts.log) as one:
            await Intake(port.cluster, parts, one).run()

    return work


def test_stopped_before_the_answers(apart: Outside, database: str, home: Path) -> None:
    sent = apart.send("PlaceOrder", order("O-20"))
    apart.producer.flush()
    with (
        pytest.raises(Stopped),
        running(database, home, cut_off(StopsBeforeAnswers, apart)) as thread,
    ):
        thread.join(timeout=30)
    assert events(database, "O-20") == 1
    with taking_in(database, home, apart.cluster):
        assert apart.reply(sent).accepted["repeated"] is True
    assert events(database, "O-20") == 1


def test_stopped_before_the_offsets(apart: Outside, database: str, home: Path) -> None:
    sent = apart.send("PlaceOrder", order("O-21"))
    poison = apart.send("PlaceOrder", b"{")
    apart.producer.flush()
    with (
        pytest.raises(Stopped),
        running(database, home, cut_off(StopsBeforeOffsets, apart)) as thread,
    ):
        thread.join(timeout=30)
    with taking_in(database, home, apart.cluster):
        first, second = apart.replies(sent, 2)
        apart.replies(poison, 2)
    assert first.accepted["repeated"] is False
    assert second.accepted == first.accepted | {"repeated": True}
    assert second.headers["ce_id"] == first.headers["ce_id"]
    assert events(database, "O-21") == 1
    assert len(apart.letters(poison)) == 1, "given up twice, it is shown once"


def test_what_is_done_does_not_come_again(apart: Outside, database: str, home: Path) -> None:
    with taking_in(database, home, apart.cluster):
        first = apart.send("PlaceOrder", order("O-22"))
        assert apart.reply(first).accepted
        until(lambda: stored(database, apart.cluster) or None)
    with taking_in(database, home, apart.cluster):
        assert apart.ask("PlaceOrder", order("O-23")).accepted
    assert len(apart.replies(first)) == 1


def test_without_offsets_all_is_taken_in_again(apart: Outside, database: str, home: Path) -> None:
    """As after a restore: the group's own offsets are not believed."""
    with taking_in(database, home, apart.cluster):
        first = apart.send("PlaceOrder", order("O-24"))
        assert apart.reply(first).accepted
        until(lambda: committed(apart.cluster) or None)
    with psycopg.connect(database) as connection:
        connection.execute(
            "DELETE FROM kafka_offsets WHERE topic = %s", (apart.cluster.topic(COMMANDS),)
        )
    with taking_in(database, home, apart.cluster):
        assert apart.replies(first, 2)[1].accepted["repeated"] is True
    assert events(database, "O-24") == 1


def stored(database: str, cluster: Cluster) -> int:
    """Messages that are stored as done."""
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT coalesce(sum(next_offset), 0) FROM kafka_offsets WHERE topic = %s",
            (cluster.topic(COMMANDS),),
        ).fetchone()
    assert row is not None
    return int(row[0])


def committed(cluster: Cluster) -> int:
    """Messages that Kafka's own tools show as done."""
    client = KafkaAdminClient(bootstrap_servers=list(cluster.brokers))
    try:
        found = client.list_group_offsets([cluster.group(CONSUMER)])
        offsets = found[cluster.group(CONSUMER)]
        return sum(one.offset for one in offsets.values())
    finally:
        client.close()


def environment(database: str, home: Path, cluster: Cluster) -> dict[str, str]:
    return os.environ | {
        "DATABASE_URL": database,
        "CHAINLYTICS_HOME": str(home),
        "CHAINLYTICS_TOKEN_SECRET": SECRET,
        "KAFKA_BOOTSTRAP_SERVERS": ",".join(cluster.brokers),
        "CHAINLYTICS_KAFKA_PREFIX": cluster.prefix,
        "CHAINLYTICS_KAFKA_LANES": str(LANES),
    }


@contextmanager
def intake_process(
    database: str, home: Path, cluster: Cluster
) -> Iterator[subprocess.Popen[bytes]]:
    """`chainlytics intake`, killed at the end."""
    with (home / "intake.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "chainlytics", "intake"],
            env=environment(database, home, cluster),
            cwd=home,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def many(port: Outside, count: int, name: str) -> dict[str, str]:
    """Send orders; the id of each order by that of its command."""
    sent = {}
    for number in range(count):
        order_id = f"O-{name}-{number}"
        sent[port.send("PlaceOrder", order(order_id), key=order_id)] = order_id
    port.producer.flush()
    return sent


def each_once(port: Outside, database: str, sent: dict[str, str]) -> None:
    """Every command was answered, always the same, and left one event."""
    replies = port.all_replied(list(sent))
    for command, order_id in sent.items():
        assert {one.accepted["stream"] for one in replies[command]} == {f"orders/{order_id}"}
        assert len({one.accepted["position"] for one in replies[command]}) == 1
    assert events(database, *sent.values()) == len(sent)


def test_killed_in_the_middle(apart: Outside, database: str, home: Path) -> None:
    prepare_database(database)
    sent = many(apart, 3000, "kill")
    with intake_process(database, home, apart.cluster) as process:
        until(lambda: events(database, *sent.values()) or None, 90)
        assert process.poll() is None, (home / "intake.log").read_text()
        process.kill()
        process.wait()
    assert events(database, *sent.values()) < len(sent), "it was in the middle"
    with intake_process(database, home, apart.cluster):
        each_once(apart, database, sent)


def test_two_members_share_the_work(apart: Outside, database: str, home: Path) -> None:
    sent = many(apart, 500, "one")
    with ExitStack() as first:
        first.enter_context(taking_in(database, home, apart.cluster))
        apart.all_replied(list(sent)[:10])
        with taking_in(database, home, apart.cluster):
            sent |= many(apart, 500, "both")
            until(lambda: members(apart.cluster) == 2 or None)
            sent |= many(apart, 500, "shared")
            apart.all_replied(list(sent))
            first.close()
            sent |= many(apart, 500, "other")
            each_once(apart, database, sent)


def members(cluster: Cluster) -> int:
    """Members that have partitions."""
    client = KafkaAdminClient(bootstrap_servers=list(cluster.brokers))
    try:
        group = client.describe_groups([cluster.group(CONSUMER)])[cluster.group(CONSUMER)]
        return len(group["members"]) if group["group_state"] == "Stable" else 0
    finally:
        client.close()


@contextmanager
def proxied(url: str) -> Iterator[tuple[Proxy, str]]:
    """An address of a server that stays while the server moves."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="proxy")
    thread.start()
    proxy = Proxy(url)
    try:
        yield proxy, asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_postgres_stops_and_starts(apart: Outside) -> None:
    folder = Path(tempfile.mkdtemp(prefix="chainlytics-intake-"))
    folder.chmod(0o755)  # root's PostgreSQL runs as `nobody`
    server = EmbeddedPostgres(folder, settings=TEST_SETTINGS)
    try:
        url = server.start()
        prepare_database(url)
        with proxied(url) as (proxy, address), taking_in(address, folder, apart.cluster):
            sent = many(apart, 200, "up")
            apart.all_replied(list(sent)[:1])
            server.stop()
            sent |= many(apart, 200, "down")
            sleep(1)  # it tries
            url = server.start()
            proxy.aim(url)
            sent |= many(apart, 200, "again")
            each_once(apart, url, sent)
        assert all_letters(apart) == []
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_broker_is_killed_and_starts_again(
    own_broker: StoppableBroker, database: str, home: Path
) -> None:
    with outside(own_broker.bootstrap) as port, taking_in(database, home, port.cluster):
        sent = many(port, 200, "broker")
        port.all_replied(list(sent)[:1])
        own_broker.stop(kill=True)
        own_broker.start()
        sent |= many(port, 200, "back")
        each_once(port, database, sent)


def test_many_at_once_are_all_answered(port: Outside, database: str) -> None:
    each_once(port, database, many(port, 2000, "many"))


# what fails here, and is put back


def failing(command: type[Command]) -> Callable[[Dependencies], Dependencies]:
    """Parts in which the rule of a command fails as no rule should."""

    def rule(*_: Any) -> Any:
        raise ZeroDivisionError("a secret of ours")

    def parts_of(parts: Dependencies) -> Dependencies:
        broken = copy(parts.bus)
        handler = replace(HANDLERS[command], decide=rule)
        broken._handlers = {**HANDLERS, command: handler}
        return replace(parts, bus=broken)

    return parts_of


def test_what_fails_here_is_a_letter_and_is_taken_when_its_cause_is_gone(
    apart: Outside, database: str, home: Path
) -> None:
    broken = failing(CancelOrder)

    async def work(parts: Dependencies) -> None:
        topic = apart.cluster.topic(COMMANDS)
        async with Inbox(apart.cluster, CONSUMER, topic, parts.log) as inbox:
            await Intake(apart.cluster, broken(parts), inbox, waits_s=(0.01, 0.01)).run()

    with running(database, home, work):
        before = apart.send("PlaceOrder", order("O-30"))
        sent = apart.send("CancelOrder", {"order_id": "O-30", "reason": "changed mind"})
        behind = apart.send("PlaceOrder", order("O-31"))
        assert apart.reply(behind).accepted, "the others are not held up"
        assert apart.reply(before).accepted
        told = apart.reply(sent).rejected(500, "unexpected")
    assert "secret" not in json.dumps(told)
    [letter] = apart.letters(sent)
    assert letter.reason.startswith("unexpected")

    with taking_in(database, home, apart.cluster):
        [shown] = json.loads(terminal(apart.cluster, "list", "--json").stdout)
        assert (shown["id"], shown["command"], shown["replayed_at"]) == (sent, "CancelOrder", None)
        done = terminal(apart.cluster, "replay", *place(letter))
        assert done.exit_code == 0, done.output
        assert apart.replies(sent, 2)[1].accepted["version"] == 2
        [shown] = json.loads(terminal(apart.cluster, "list", "--json").stdout)
        assert shown["replayed_at"] is not None
        assert "0 put back" in terminal(apart.cluster, "replay", "--all").output
        assert "1 put back" in terminal(apart.cluster, "replay", *place(letter)).output
        assert apart.replies(sent, 3)[2].accepted["repeated"] is True
    assert events(database, "O-30") == 2


def test_a_letter_gets_a_fresh_token_for_whom_it_was_sent(
    apart: Outside, database: str, home: Path
) -> None:
    other = uuid4()
    who: dict[str, Any] = {"organisation_id": other, "roles": frozenset({Role.SERVICE})}
    old = Issuer(SECRET).issue(subject="ann", ttl=timedelta(days=-3), **who)
    forged = Issuer("another secret of more than 32 characters").issue(
        subject="eve", ttl=timedelta(hours=1), **who
    )
    for name, token in (("old", old), ("forged", forged), ("none", "")):
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", name.encode()),
            ("ce_source", b"/tests"),
            ("ce_type", b"PlaceOrder"),
        ]
        if token:
            headers.append(("authorization", f"Bearer {token}".encode()))
        value = json.dumps(order(f"O-{name}")).encode()
        message = Message(apart.cluster.topic(COMMANDS), 0, len(name), b"K", value, headers)
        topic, key, kept, said, *_ = dead_letter(apart.cluster, message, "it rained")
        apart.producer.send(topic, key=key, value=kept, headers=said)
    apart.producer.flush()
    with taking_in(database, home, apart.cluster):
        done = terminal(apart.cluster, "replay", "--all", "--json")
        assert done.exit_code == 1
        told = json.loads(done.stdout)
        assert told["replayed"] == 1
        reasons = [one["reason"] for one in told["refused"]]
        assert any("Signature" in one for one in reasons)
        assert any("no token" in one for one in reasons)
        reply = apart.reply("old")
        assert reply.accepted
        assert reply.headers["ce_source"] == f"/organisations/{other}"
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT actor FROM events WHERE organisation_id = %s", (other,)
        ).fetchone()
    assert row == ("ann",)


def test_patience_ends_and_the_rest_comes_again(apart: Outside, database: str, home: Path) -> None:
    """A rule that fails for a whole poll must not keep the member away from its group."""
    sent = [apart.send("CancelOrder", {"order_id": f"O-{n}", "reason": "x"}) for n in range(6)]
    apart.producer.flush()
    polls: list[int] = []

    async def work(parts: Dependencies) -> None:
        broken = failing(CancelOrder)(parts)
        topic = apart.cluster.topic(COMMANDS)
        async with Inbox(apart.cluster, CONSUMER, topic, parts.log) as inbox:
            intake = Intake(apart.cluster, broken, inbox, waits_s=(), patience_s=0)
            while True:
                if settled := await intake.once():
                    polls.append(len(settled))

    with running(database, home, work):
        apart.all_replied(sent)
        until(lambda: len(polls) == 6 or None)
    assert polls == [1] * 6
    assert [len(apart.letters(one)) for one in sent] == [1] * 6


def terminal(cluster: Cluster, *words: str) -> Any:
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": ",".join(cluster.brokers),
        "CHAINLYTICS_KAFKA_PREFIX": cluster.prefix,
        "CHAINLYTICS_TOKEN_SECRET": SECRET,
        "COLUMNS": "200",
    }
    return CliRunner().invoke(app, ["kafka", "dead-letters", *words], env=settings)


def place(letter: Letter) -> list[str]:
    return ["--partition", str(letter.partition), "--offset", str(letter.offset)]


def test_one_letter_or_all(apart: Outside) -> None:
    for words in ((), ("--partition", "0"), ("--all", "--partition", "0", "--offset", "0")):
        done = terminal(apart.cluster, "replay", *words)
        assert isinstance(done.exception, CliError), words
    done = terminal(apart.cluster, "replay", "--partition", "0", "--offset", "7")
    assert "no dead letter at offset 7" in str(done.exception)
    assert "none yet" in terminal(apart.cluster, "list").output


# the same words as HTTP


class Case(NamedTuple):
    """A command over both ways: what HTTP's path is, and what is said in which order."""

    command: str
    path: str
    fields: dict[str, Any]
    body: dict[str, Any]
    roles: tuple[Role, ...] = (Role.ADMIN,)


MODEL = "0" * 64
CASES = {
    "accepted": Case("PlaceOrder", "/orders", order("O-1"), order("O-1")),
    "conflict": Case("PlaceOrder", "/orders", order("O-1"), order("O-1")),
    "unknown": Case(
        "CancelOrder", "/orders/O-9/cancel", {"order_id": "O-9", "reason": "x"}, {"reason": "x"}
    ),
    "invalid": Case("PlaceOrder", "/orders", order("O-2", lines=[]), order("O-2", lines=[])),
    "personal": Case(
        "PlaceOrder",
        "/orders",
        order("O-2", recipient={"person_id": "P-1", "name": 7}),
        order("O-2", recipient={"person_id": "P-1", "name": 7}),
    ),
    "additional": Case("PlaceOrder", "/orders", order("O-2", x=1), order("O-2", x=1)),
    "forbidden": Case("PlaceOrder", "/orders", order("O-3"), order("O-3"), roles=(Role.VIEWER,)),
    "checked": Case(
        "RollBackModel",
        f"/models/{MODEL}/rollback",
        {"model_hash": MODEL, "to": "1" * 64, "reason": "x"},
        {"to": "1" * 64, "reason": "x"},
    ),
    "made": Case(
        "RequestDecision",
        "/decisions",
        {"kind": "no-such-kind", "subject_id": "O-1"},
        {"kind": "no-such-kind", "subject_id": "O-1"},
    ),
}


def test_answers_are_those_of_http(port: Outside, database: str, home: Path) -> None:
    by_http, by_kafka = uuid4(), uuid4()
    with serving_here(database, home) as (served, _):
        for name, case in CASES.items():
            with served.client(*case.roles, organisation_id=by_http) as client:
                answer = client.post(case.path, json=case.body)
            token = bearer(*case.roles, organisation_id=by_kafka)
            reply = port.ask(case.command, case.fields, token=token)
            assert plain(reply.body) == plain(answer.json()), name
            assert reply.headers["content-type"] == answer.headers["content-type"], name
            if answer.is_success:
                assert reply.accepted
            else:
                assert reply.rejected(answer.status_code, reply.body["type"].split(":")[-1])
        with served.nobody() as client:
            answer = client.post("/api/v1/orders", json=order("O-4"))
        reply = port.ask("PlaceOrder", order("O-4"), without="authorization")
        assert plain(reply.body) == plain(answer.json())
        with served.client(organisation_id=by_http) as client:
            for value in (b"{", b'"\xff"'.decode("unicode_escape").encode("latin-1"), b"[]"):
                json_ = {"content-type": "application/json"}
                answer = client.post("/orders", content=value, headers=json_)
                reply = port.ask("PlaceOrder", value)
                assert plain(reply.body) == plain(answer.json()), value


def plain(body: dict[str, Any]) -> dict[str, Any]:
    """A body without what is of its moment."""
    return {name: value for name, value in body.items() if name not in _OF_ITS_MOMENT}


_OF_ITS_MOMENT = ("position", "correlation_id")


def all_letters(port: Outside) -> list[Letter]:
    return dead_letters(port.cluster)


# the page


PAGE = Path(__file__).parent.parent / "docs" / "kafka-commands.md"


def test_the_example_of_the_page_is_answered(
    port: Outside, database: str, home: Path, tmp_path: Path
) -> None:
    [example] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment(database, home, port.cluster) | {"CHAINLYTICS_TOKEN": bearer()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("CommandAccepted {'stream': 'orders/O-"), done.stdout


def test_the_commands_of_the_page_are_there(apart: Outside) -> None:
    [block] = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.strip().splitlines():
        done = terminal(apart.cluster, *line.split()[3:])
        told = done.output + str(done.exception or "")
        assert any(word in told for word in ("none yet", "0 put back", "no dead letter")), told
