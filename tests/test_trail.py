"""Who did what: accepted, denied and refused commands, looks at personal data, and their end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from chainlytics.application import Application, application
from chainlytics.settings import Settings
from commands import Bus, Context, Forbidden, TooMuchContention
from commands.attempts import attempt_of
from domain.access import Role
from domain.errors import Refused
from domain.orders import CancelOrder, OrderLine, PlaceOrder
from domain.values import Command
from eventstore import CommandReused, Log, LogUnavailable, Unit, Writer, prepare_database
from eventstore import attempts as noting
from eventstore.attempts import (
    MOST_OF_ACTOR,
    MOST_OF_ORGANISATION,
    MOST_STREAMS,
    Attempt,
    Attempts,
)
from eventstore.backup import backup, restore
from eventstore.retention import Retention, keep_pruned, kept
from eventstore.trail import Trail
from readmodels import audit
from readmodels.audit import CommandLine, Result
from readmodels.database import ReadModels
from tests.appending import entry, reading, unit
from tests.serving import (
    API,
    Served,
    assert_problem,
    everything,
    get,
    order,
    post,
    serving_process,
    until,
)
from tests.test_cli_decisions import Here

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module", autouse=True)
def _prepared(database: str) -> None:
    prepare_database(database)


@pytest.fixture
def organisation() -> UUID:
    return uuid4()


def place(order_id: str) -> PlaceOrder:
    line = OrderLine(line_no=1, sku="A", quantity=Decimal(1), unit_price_minor=100)
    return PlaceOrder(
        order_id=order_id,
        customer_id="C-1",
        currency="EUR",
        lines=(line,),
        placed_at=NOON,
        promised_at=NOON,
    )


def cancel(order_id: str) -> CancelOrder:
    return CancelOrder(order_id=order_id, reason="changed mind", cancelled_at=NOON)


def by(organisation: UUID, actor: str, *roles: Role, **more: Any) -> Context:
    return Context(organisation, actor, frozenset(roles), **more)


async def lines_of(log: Log, organisation: UUID, **filters: Any) -> list[CommandLine]:
    """All lines, in pages of three."""
    read = ReadModels(log, organisation)
    found: list[CommandLine] = []
    cursor: str | None = None
    while True:
        page = await audit.commands(read, cursor=cursor, limit=3, **filters)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


@asynccontextmanager
async def flushed(url: str) -> AsyncIterator[Application]:
    """The application; what it noted is written when it is left."""
    async with application(url, pool_size=3) as app:
        yield app


def told(url: str, organisation: UUID, **filters: Any) -> list[CommandLine]:
    async def ask() -> list[CommandLine]:
        async with reading(url) as log:
            return await lines_of(log, organisation, **filters)

    return asyncio.run(ask())


def rows(url: str, query: str, *parameters: Any) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def away(url: str, table: str) -> Iterator[None]:
    """The database takes nothing for a table."""
    rows(url, f"ALTER TABLE {table} RENAME TO {table}_away")
    try:
        yield
    finally:
        rows(url, f"ALTER TABLE {table}_away RENAME TO {table}")


# accepted


def test_an_accepted_command_says_who_sent_it_as_what(database: str, organisation: UUID) -> None:
    cause = uuid4()
    sent = by(organisation, "ana", Role.ADMIN, Role.ANALYST, causation_id=cause)

    async def story() -> CommandLine:
        async with flushed(database) as app:
            receipt = await app.bus.execute(place("O-1"), sent)
            # Nothing is waited for: it was committed with the events.
            [line] = await lines_of(app.log, organisation)
            assert line.position == receipt.position
            assert await app.bus.execute(place("O-1"), sent) == receipt._replace(repeated=True)
            assert await lines_of(app.log, organisation) == [line]
            return line

    line = asyncio.run(story())
    assert (line.id, line.actor, line.roles) == (sent.command_id, "ana", ["admin", "analyst"])
    assert (line.command, line.stream, line.result) == ("PlaceOrder", "orders/O-1", "accepted")
    assert (line.correlation_id, line.causation_id) == (sent.correlation_id, cause)
    assert (line.version, line.times, line.code) == (1, 1, None)


def test_what_is_not_stored_says_nothing(database: str, organisation: UUID) -> None:
    stream = uuid4()

    async def story() -> None:
        async with Writer(database) as writer:
            one = unit(stream, 1)
            await writer.append(one)
            with pytest.raises(Exception, match="expected version"):
                await writer.append(unit(stream, 1))

    asyncio.run(story())
    [(count,)] = rows(
        database, "SELECT count(*) FROM commands WHERE stream = %s", f"notes/{stream}"
    )
    assert count == 1


def test_a_command_without_events_is_told_with_correlation_and_cause(
    database: str, organisation: UUID
) -> None:
    cause = uuid4()
    asked = entry(uuid4())._replace(
        organisation_id=organisation,
        causation_id=cause,
        command="Noop",
        roles=frozenset({"service"}),
    )

    async def story() -> None:
        async with Writer(database) as writer:
            await writer.append(
                Unit([asked, asked._replace(command_id=uuid4(), causation_id=None)])
            )

    asyncio.run(story())
    lines = {line.causation_id: line for line in told(database, organisation)}
    assert lines.keys() == {cause, None}
    for line in lines.values():
        assert (line.command, line.actor, line.roles) == ("Noop", "ana", ["service"])
        assert line.correlation_id == asked.correlation_id


def test_a_process_of_the_former_version_goes_on(database: str, organisation: UUID) -> None:
    """It calls the function with nineteen arrays; what it cannot say is empty."""
    commands, stream = [uuid4(), uuid4()], uuid4()
    call = """SELECT outcome, "position" FROM append_group(
        ARRAY[0,0]::bigint[], %s, ARRAY['d','d']::bytea[], ARRAY['notes/1','notes/1'],
        ARRAY[1,1]::bigint[], ARRAY[1,NULL]::bigint[],
        ARRAY[0]::bigint[], %s, ARRAY[0]::bigint[],
        ARRAY[0]::bigint[], %s, ARRAY[1]::bigint[], ARRAY['test.Noted.v1'], ARRAY['{}']::bytea[],
        %s, %s, %s, ARRAY[NULL]::uuid[], ARRAY['old'])"""
    parameters = (commands, [stream], [stream], [uuid4()], [organisation], [uuid4()])
    [(outcome, position)] = rows(database, call, *parameters)
    assert outcome == "head"
    again = rows(database, call, *parameters)
    assert [one for one, _ in again] == ["repeated", "repeated", "conflict", "head"]
    [line] = told(database, organisation)
    assert (line.actor, line.command, line.roles) == ("old", "", [])
    assert (line.position, line.stream) == (position + 1, "notes/1")


def test_the_log_of_a_former_version_is_brought_up_to_date(
    server_url: str, database: str, tmp_path: Path
) -> None:
    """In place, and out of a backup that knows neither the columns nor the tables."""
    name = f"former_{uuid4().hex[:12]}"
    rows(server_url, f"CREATE DATABASE {name}")
    url = database.rpartition("/")[0] + f"/{name}"
    try:
        prepare_database(url)
        asyncio.run(_appended(url, 3))
        for former in (
            "ALTER TABLE commands DROP COLUMN organisation_id CASCADE, DROP COLUMN asked",
            "DROP TABLE attempts, personal_access",
            "UPDATE schema_applied SET digest = 'former'",
        ):
            rows(url, former)
        file = tmp_path / "former.backup"
        backup(url, file)
        prepare_database(url)
        asyncio.run(_appended(url, 1))
        assert rows(url, "SELECT count(*), count(asked) FROM commands") == [(4, 1)]
        assert restore(url, file, replace=True).commands == 3
        asyncio.run(_appended(url, 2))
        assert rows(url, "SELECT count(*), count(asked) FROM commands") == [(5, 2)]
        assert rows(url, "SELECT count(*) FROM attempts") == [(0,)]
    finally:
        rows(server_url, f"DROP DATABASE {name} WITH (FORCE)")


async def _appended(url: str, count: int) -> None:
    async with Writer(url) as writer:
        for _ in range(count):
            await writer.append(unit(uuid4(), 1))


# not taken


def test_denied_refused_and_reused_commands_are_told(database: str, organisation: UUID) -> None:
    id_ = uuid4()

    async def story() -> None:
        async with flushed(database) as app:
            execute = app.bus.execute
            with pytest.raises(Forbidden):
                await execute(place("O-1"), by(organisation, "eve", Role.VIEWER))
            with pytest.raises(Refused):
                await execute(cancel("O-9"), by(organisation, "ana", Role.ADMIN))
            await execute(place("O-1"), by(organisation, "ana", Role.ADMIN, command_id=id_))
            with pytest.raises(CommandReused):
                await execute(place("O-2"), by(organisation, "ana", Role.ADMIN, command_id=id_))

    asyncio.run(story())
    lines = told(database, organisation)
    assert {(one.actor, one.command, one.stream, one.result, one.code) for one in lines} == {
        ("eve", "PlaceOrder", "orders/O-1", "denied", "forbidden"),
        ("ana", "CancelOrder", "orders/O-9", "refused", "order.unknown"),
        ("ana", "PlaceOrder", "orders/O-1", "accepted", None),
        ("ana", "PlaceOrder", "orders/O-2", "reused", "idempotency-key-reused"),
    }
    [denied] = told(database, organisation, result=Result.DENIED)
    assert denied.roles == ["viewer"]
    assert denied.position is None
    # Neither bodies nor what a refusal says in words.
    stored = str(rows(database, "SELECT a::text FROM attempts a"))
    assert "changed mind" not in stored
    assert "C-1" not in stored


def test_contention_is_told(organisation: UUID) -> None:
    context = by(organisation, "ana", Role.ADMIN)
    noted = attempt_of(place("O-1"), context, TooMuchContention(8, None, []), None)
    assert (noted.result, noted.code, noted.stream) == ("conflict", "too-much-contention", "")


def test_a_batch_tells_each_of_its_commands(database: str, organisation: UUID) -> None:
    same = by(organisation, "ana", Role.ADMIN)

    async def story() -> None:
        async with flushed(database) as app:
            await app.bus.execute_many(
                [
                    (place("O-1"), same),
                    (place("O-2"), same),  # the same id
                    (cancel("O-9"), by(organisation, "ana", Role.ADMIN)),
                    (place("O-3"), by(organisation, "eve", Role.AUDITOR)),
                    (cancel("O-1"), by(organisation, "bob", Role.SERVICE)),
                ]
            )

    asyncio.run(story())
    lines = told(database, organisation)
    assert Counter((one.stream, one.result.value) for one in lines) == {
        ("orders/O-1", "accepted"): 2,
        ("orders/O-2", "reused"): 1,
        ("orders/O-9", "refused"): 1,
        ("orders/O-3", "denied"): 1,
    }
    assert sum(one.times for one in lines) == 5


class Asked(Command):
    """What a test sends: somebody's command on one of few orders."""

    actor: str
    role: Role
    order: int
    cancels: bool
    key: int


ASKED = st.builds(
    Asked,
    actor=st.sampled_from(["ana", "bob"]),
    role=st.sampled_from([Role.ADMIN, Role.SERVICE, Role.VIEWER]),
    order=st.integers(1, 3),
    cancels=st.booleans(),
    key=st.integers(1, 40),
)


@settings(max_examples=12, deadline=None)
@given(sent=st.lists(ASKED, max_size=30), size=st.integers(1, 7))
def test_every_command_is_told_exactly_once_with_its_result(
    database: str, sent: list[Asked], size: int
) -> None:
    organisation = uuid4()
    expected: Counter[tuple[str, str, str, str]] = Counter()

    def command(one: Asked) -> Command:
        return cancel(f"O-{one.order}") if one.cancels else place(f"O-{one.order}")

    def context(one: Asked) -> Context:
        return by(
            organisation,
            one.actor,
            one.role,
            command_id=UUID(int=organisation.int ^ one.key),
        )

    def note(one: Asked, result: object) -> None:
        told = {Forbidden: "denied", Refused: "refused", CommandReused: "reused"}
        name = told.get(type(result), "accepted")
        if name != "accepted" or not getattr(result, "repeated", False):
            made = type(command(one)).__name__
            expected[one.actor, made, f"orders/O-{one.order}", name] += 1

    async def alone(bus: Bus, one: Asked) -> None:
        try:
            note(one, await bus.execute(command(one), context(one)))
        except (Forbidden, Refused, CommandReused) as error:
            note(one, error)

    async def story() -> None:
        async with flushed(database) as app:
            for start in range(0, len(sent), size):
                some = sent[start : start + size]
                if start % 2:
                    for one in some:
                        await alone(app.bus, one)
                else:
                    pairs = [(command(one), context(one)) for one in some]
                    results = await app.bus.execute_many(pairs)
                    for one, result in zip(some, results, strict=True):
                        note(one, result)

    asyncio.run(story())
    found: Counter[tuple[str, str, str, str]] = Counter()
    lines = told(database, organisation)
    for line in lines:
        found[line.actor, line.command, line.stream, line.result] += line.times
    assert found == expected
    assert told(database, organisation, newest_first=True) == lines[::-1]


def test_a_flood_is_a_few_rows_that_count(database: str, organisation: UUID) -> None:
    def attempt(number: int, actor: str) -> Attempt:
        own = (organisation, actor, (Role.VIEWER,))
        return Attempt(*own, "PlaceOrder", f"orders/{number}", "denied", "forbidden", uuid4())

    async def story() -> None:
        async with reading(database) as log, Attempts(log, every_s=0.01) as attempts:
            for number in range(5000):
                attempts.note(attempt(7, "same"))
                attempts.note(attempt(number, "other streams"))
                if number % 1000 == 0:
                    await asyncio.sleep(0.05)  # written in between, and counted on

    asyncio.run(story())
    lines = told(database, organisation)
    times: Counter[str] = Counter()
    for line in lines:
        times[line.actor] += line.times
    assert times == {"same": 5000, "other streams": 5000}
    of = Counter(line.actor for line in lines)
    assert of["same"] <= 2  # a minute may end in the middle
    assert of["other streams"] <= 2 * (MOST_STREAMS + 1)


def tried(
    organisation: UUID | None, actor: str, command: str, *roles: Role, on: str = ""
) -> Attempt:
    """Somebody was denied something."""
    return Attempt(organisation, actor, roles, command, on, "denied", "forbidden", None)


def test_who_was_denied_with_other_roles_was_denied_again(
    database: str, organisation: UUID
) -> None:
    async def story() -> None:
        async with reading(database) as log, Attempts(log) as attempts:
            for roles in ((Role.VIEWER,), (Role.ANALYST, Role.VIEWER), (Role.VIEWER, Role.ANALYST)):
                attempts.note(tried(organisation, "ana", "PlaceOrder", *roles, on="orders/O-1"))

    asyncio.run(story())
    lines = {tuple(one.roles): one.times for one in told(database, organisation)}
    assert lines == {("viewer",): 1, ("analyst", "viewer"): 2}


def test_who_floods_the_trail_loses_nobody_elses_attempts(
    database: str, organisation: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noting, "WINDOW_S", 1e9)
    other = uuid4()

    async def story() -> None:
        async with reading(database) as log, Attempts(log) as attempts:
            for number in range(20 * MOST_OF_ACTOR):
                attempts.note(tried(organisation, "eve", f"query {number}"))
            assert attempts.lost == 18 * MOST_OF_ACTOR
            attempts.note(tried(organisation, "ana", "PlaceOrder"))
            # Many actors of one organisation blind their own, not others.
            for number in range(MOST_OF_ORGANISATION + 100):
                attempts.note(tried(organisation, f"eve {number}", "PlaceOrder"))
            kept = MOST_OF_ORGANISATION - 2 * MOST_OF_ACTOR - 1
            assert attempts.lost == 18 * MOST_OF_ACTOR + MOST_OF_ORGANISATION + 100 - kept
            lost = attempts.lost
            attempts.note(tried(other, "eve", "PlaceOrder"))
            attempts.note(tried(None, "", "GET /knock"))
            assert attempts.lost == lost

    asyncio.run(story())
    counted = Counter(line.actor for line in told(database, organisation, actor="eve"))
    assert counted == {"eve": 2 * MOST_OF_ACTOR}
    assert [one.command for one in told(database, organisation, actor="ana")] == ["PlaceOrder"]
    assert [one.actor for one in told(database, other)] == ["eve"]


def test_nobody_hides_an_attempt_behind_a_flood_of_others(
    database: str, organisation: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noting, "WINDOW_S", 1e9)

    async def story() -> None:
        async with reading(database) as log, Attempts(log) as attempts:
            for number in range(50 * MOST_STREAMS):
                on = f"orders/{number}"
                attempts.note(tried(organisation, "eve", f"Command{number % 50}", on=on))
            attempts.note(tried(organisation, "eve", "ErasePerson", on="people/p-1"))
            assert attempts.lost == 0

    asyncio.run(story())
    lines = told(database, organisation)
    assert len(lines) == MOST_OF_ACTOR + 50 + 1
    assert sum(one.times for one in lines) == 50 * MOST_STREAMS + 1
    assert [one.stream for one in lines if one.command == "ErasePerson"] == [""]


def test_rows_that_wait_count_until_they_are_written(
    database: str, organisation: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [600.0]
    monkeypatch.setattr(noting, "monotonic", lambda: moment[0])
    monkeypatch.setattr(noting, "MOST_OF_ACTOR", 5)

    async def story() -> None:
        async with reading(database) as log, Attempts(log, every_s=0.01) as attempts:

            def note(first: int, count: int) -> int:
                before = attempts.lost
                for number in range(first, first + count):
                    attempts.note(tried(organisation, "eve", f"query {number}"))
                return attempts.lost - before

            with away(database, "attempts"):
                assert note(0, 8) == 0
                moment[0] += 60
                assert note(8, 8) == 6, "two of ten had room"
            await until_async(lambda: not attempts._waiting)
            # Those of the former minute are written and forgotten; those of this one count.
            assert note(20, 10) == 2
            moment[0] += 60
            await until_async(lambda: not attempts._waiting)
            assert note(40, 12) == 2

    asyncio.run(story())
    assert sum(one.times for one in told(database, organisation)) == 8 + 2 + 8 + 10


async def until_async(came: Callable[[], bool]) -> None:
    for _ in range(1000):
        if came():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come about")


def test_commands_go_on_while_attempts_cannot_be_written(database: str, organisation: UUID) -> None:
    async def story() -> None:
        async with flushed(database) as app:
            with away(database, "attempts"):
                for number in range(3):
                    context = by(organisation, "eve", Role.VIEWER)
                    with pytest.raises(Forbidden):
                        await app.bus.execute(place(f"O-{number}"), context)
                await app.bus.execute(place("O-1"), by(organisation, "ana", Role.ADMIN))
                await asyncio.sleep(0.5)
            assert app.attempts.lost == 0

    asyncio.run(story())
    results = Counter(line.result.value for line in told(database, organisation))
    assert results == {"denied": 3, "accepted": 1}


def test_what_is_lost_is_counted(database: str, organisation: UUID) -> None:
    def attempt(number: int) -> Attempt:
        own = (organisation, f"eve {number}", ())
        return Attempt(*own, "PlaceOrder", "", "denied", "forbidden", None)

    async def story() -> None:
        async with AsyncConnectionPool(database, open=False) as pool:
            attempts = Attempts(Log(pool), most=10)
            with away(database, "attempts"):
                async with attempts:
                    for number in range(25):
                        attempts.note(attempt(number))
                    assert attempts.lost == 15
            assert attempts.lost == 25

    asyncio.run(story())
    assert told(database, organisation) == []


def test_an_actor_of_any_name_is_noted(database: str, organisation: UUID) -> None:
    odd = "a\0b\ud800" + "c" * 1000

    async def story() -> None:
        async with reading(database) as log, Attempts(log) as attempts:
            own = (organisation, odd, ())
            attempts.note(Attempt(*own, "PlaceOrder", "", "denied", "forbidden", None))

    asyncio.run(story())
    [line] = told(database, organisation)
    assert line.actor.startswith("a\ufffdb?ccc")
    assert len(line.actor) == 300


# asked


def test_lines_by_filter_and_by_time(database: str, organisation: UUID) -> None:
    async def story() -> None:
        async with flushed(database) as app:
            for number in range(4):
                actor = "ana" if number % 2 else "bob"
                await app.bus.execute(place(f"O-{number}"), by(organisation, actor, Role.ADMIN))
            with pytest.raises(Refused):
                await app.bus.execute(cancel("O-9"), by(organisation, "ana", Role.ADMIN))

    asyncio.run(story())
    lines = told(database, organisation)
    assert len(lines) == 5
    assert [one.at for one in lines] == sorted(one.at for one in lines)
    assert told(database, organisation, newest_first=True) == lines[::-1]
    for filters in (
        {"actor": "ana"},
        {"command": "CancelOrder"},
        {"result": Result.ACCEPTED},
        {"result": Result.REFUSED},
        {"stream": "orders/O-2"},
        {"actor": "bob", "result": Result.ACCEPTED},
        {"actor": "nobody"},
    ):
        wanted = [one for one in lines if all(getattr(one, k) == v for k, v in filters.items())]
        assert told(database, organisation, **filters) == wanted
    middle = lines[2].at
    assert told(database, organisation, since=middle) == [one for one in lines if one.at >= middle]
    assert told(database, organisation, until=middle) == [one for one in lines if one.at < middle]
    assert told(database, uuid4()) == []


def test_a_question_by_actor_looks_back_so_far(database: str, organisation: UUID) -> None:
    for days in (1, 29, 31, 90):
        at = f"now() - interval '{days} days'"
        asked = chr(31).join(("PlaceOrder", "admin", "ana", str(uuid4()), ""))
        rows(
            database,
            f"""INSERT INTO commands VALUES (gen_random_uuid(), '', 'orders/O-1', 1, {days}, {at},
            %s, %s)""",
            organisation,
            asked,
        )
        rows(
            database,
            f"""INSERT INTO attempts VALUES (gen_random_uuid(), %s, {at}, {at}, 'ana', '{{}}',
            'PlaceOrder', 'orders/O-1', 'denied', 'forbidden', NULL, 1)""",
            organisation,
        )

    def ages(**filters: Any) -> list[int]:
        now = datetime.now(UTC)
        return [(now - one.at).days for one in told(database, organisation, **filters)][::2]

    assert ages() == ages(result=None) == [90, 31, 29, 1]
    for filters in ({"actor": "ana"}, {"command": "PlaceOrder"}, {"stream": "orders/O-1"}):
        assert ages(**filters) == [29, 1]
        assert ages(**filters, newest_first=True) == [1, 29]
        then = datetime.now(UTC) - 80 * DAY
        assert ages(**filters, until=then) == [90]
        assert ages(**filters, since=then) == [31, 29, 1]
        assert ages(**filters, since=then - 20 * DAY) == [90, 31, 29, 1]


# looks at personal data


def test_a_look_is_durable_or_refused(database: str, organisation: UUID) -> None:
    async def story() -> None:
        async with reading(database) as log:
            trail = Trail(log, patience_s=5)
            look = (organisation, "ana", frozenset({Role.AUDITOR, Role.ADMIN}), "p-1")
            await trail.looked_at(*look, ["name", "street"], "asked for by the person", None)
            with away(database, "personal_access"), pytest.raises(LogUnavailable):
                await trail.looked_at(*look, ["name"], "again", None)
            with psycopg.connect(database) as holder:
                holder.execute("LOCK TABLE personal_access")
                with pytest.raises(LogUnavailable, match=r"within 0\.2 s"):
                    await Trail(log, patience_s=0.2).looked_at(*look, ["name"], "again", None)
            read = ReadModels(log, organisation)
            [line] = (await audit.personal_access(read)).items
            assert (line.actor, line.roles, line.person) == ("ana", ["admin", "auditor"], "p-1")
            assert (line.fields, line.why) == (["name", "street"], "asked for by the person")
            await trail.looked_at(organisation, "bob", (), "p-2", ["name"], "order", uuid4())
            both = [one.actor for one in (await audit.personal_access(read)).items]
            assert both == ["bob", "ana"]
            first = await audit.personal_access(read, limit=1)
            then = await audit.personal_access(read, limit=1, cursor=first.next_cursor)
            assert [one.actor for one in (*first.items, *then.items)] == both
            [found] = (await audit.personal_access(read, person="p-1")).items
            assert found == line
            assert (await audit.personal_access(read, actor="eve")).items == ()
            others = await audit.personal_access(ReadModels(log, uuid4()))
            assert others.items == ()

    asyncio.run(story())


# retention


def test_each_class_of_record_has_its_own_end(database: str, organisation: UUID) -> None:
    for table in ("commands", "attempts", "personal_access"):
        rows(database, f"TRUNCATE {table}")
    own = str(organisation)
    for days in (5, 15, 25, 35):
        ago = f"now() - interval '{days} days'"
        rows(
            database,
            f"INSERT INTO commands VALUES (gen_random_uuid(), '', 's', 1, 1, {ago}, '{own}', 'x')",
        )
        rows(
            database,
            f"""INSERT INTO attempts VALUES (gen_random_uuid(), '{own}', {ago}, {ago}, '', '{{}}',
            '', '', 'denied', 'forbidden', NULL, 1)""",
        )
        rows(
            database,
            f"""INSERT INTO personal_access
            (organisation_id, at, actor, roles, person, fields, why)
            VALUES ('{own}', {ago}, '', '{{}}', '', '{{}}', '')""",
        )

    async def counts(retention: Retention) -> dict[str, int]:
        async with await AsyncConnection.connect(database, autocommit=True) as connection:
            return {one.table: one.rows for one in await kept(connection, retention)}

    async def pruned(retention: Retention, expected: dict[str, int]) -> None:
        task = asyncio.create_task(keep_pruned(database, retention, every=DAY))
        found = await counts(retention)
        for _ in range(1000):
            if found == expected:
                break
            await asyncio.sleep(0.02)
            found = await counts(retention)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert found == expected

    async def story() -> None:
        everything = {"commands": 4, "attempts": 4, "personal_access": 4}
        assert await counts(Retention()) == everything
        retention = Retention(answers=10 * DAY, who_did_what=30 * DAY, personal_access=20 * DAY)
        # An answer and who asked for it are one row: it goes with the later of the two.
        await pruned(retention, {"commands": 3, "attempts": 3, "personal_access": 2})
        retention = Retention(answers=None, who_did_what=10 * DAY, personal_access=None)
        await pruned(retention, {"commands": 3, "attempts": 1, "personal_access": 2})

    asyncio.run(story())


def test_how_long_is_a_setting() -> None:
    days = Settings(
        command_retention_days=400, audit_retention_days=0, personal_access_retention_days=30
    ).retention
    assert days.by_table == {"commands": None, "attempts": None, "personal_access": 30 * DAY}
    assert Settings().retention.by_table["commands"] == 400 * DAY


# over HTTP and at the command line


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_process(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


def lines_over_http(client: httpx.Client, count: int, **query: Any) -> list[dict[str, Any]]:
    """The lines, when there are so many: what was not taken is written behind."""

    def enough() -> list[dict[str, Any]] | None:
        found = everything(client, "/audit/commands", limit=2, **query)
        return found if len(found) >= count else None

    return until(enough)


def test_auditors_read_who_did_what(served: Served, organisation: UUID) -> None:
    def client(*roles: Role, actor: str) -> httpx.Client:
        return served.client(*roles, organisation_id=organisation, actor=actor)

    with (
        client(Role.ADMIN, actor="ana") as ana,
        client(Role.VIEWER, actor="eve") as eve,
        client(Role.AUDITOR, actor="aud") as auditor,
    ):
        post(ana, "/orders", order("O-1"), "key")
        assert ana.post("/orders", json=order("O-2"), headers={"Idempotency-Key": "key"}).is_error
        assert_problem(eve.post("/orders", json=order("O-3")), 403, "forbidden")
        assert_problem(eve.get("/audit/commands"), 403, "forbidden")
        assert_problem(eve.get("/audit/personal-access"), 403, "forbidden")
        assert_problem(auditor.post("/orders", json=order("O-4")), 403, "forbidden")
        lines = lines_over_http(auditor, 6)
        assert Counter((one["actor"], one["command"], one["result"]) for one in lines) == {
            ("ana", "PlaceOrder", "accepted"): 1,
            ("ana", "PlaceOrder", "reused"): 1,
            ("eve", "PlaceOrder", "denied"): 1,
            ("eve", "audit.commands", "denied"): 1,
            ("eve", "audit.personal_access", "denied"): 1,
            ("aud", "PlaceOrder", "denied"): 1,
        }
        newest = everything(auditor, "/audit/commands", limit=4, order="newest")
        assert newest == lines[::-1]
        middle = lines[3]["at"]
        later = everything(auditor, "/audit/commands", limit=4, **{"from": middle})
        assert later == [one for one in lines if one["at"] >= middle]
        [mine] = get(auditor, "/audit/commands", actor="ana", result="accepted")["items"]
        assert mine["roles"] == ["admin"]
        assert mine["position"] is not None
        assert_problem(auditor.get("/audit/commands", params={"result": "odd"}), 422, "invalid")
        assert_problem(auditor.get("/audit/commands", params={"cursor": "x"}), 422, "bad-cursor")
        bad = "WyIyMDI2LTAxLTAxVDAwOjAwOjAwKzAwOjAwIiwgMSwgIngiXQ"  # its id is none
        assert_problem(auditor.get("/audit/commands", params={"cursor": bad}), 422, "bad-cursor")
        assert_problem(auditor.get("/audit/commands", params={"actor": "\0"}), 422, "invalid")
        assert get(auditor, "/audit/personal-access", person="p-1")["items"] == []


def test_auditors_read_how_long_records_are_kept(
    database: str, served: Served, organisation: UUID
) -> None:
    with (
        served.client(organisation_id=organisation, actor="ana") as ana,
        served.client(Role.AUDITOR, organisation_id=organisation) as auditor,
        served.client(Role.ANALYST, organisation_id=organisation) as analyst,
    ):
        post(ana, "/orders", order("O-1"), "key")
        rows(
            database,
            """INSERT INTO personal_access (organisation_id, at, actor, roles, person, fields, why)
            VALUES (%s, '2026-01-02T03:04:05Z', '', '{}', '', '{}', '')""",
            organisation,
        )
        found = {one.pop("table"): one for one in get(auditor, "/audit/retention")}
        [mine] = get(auditor, "/audit/commands", result="accepted")["items"]
        # Of the caller's organisation alone, whatever others have.
        assert found == {
            "commands": {"days": 400, "rows": 1, "oldest": mine["at"]},
            "attempts": {"days": 400, "rows": 0, "oldest": None},
            "personal_access": {"days": 1096, "rows": 1, "oldest": "2026-01-02T03:04:05Z"},
        }
        assert_problem(analyst.get("/audit/retention"), 403, "forbidden")
        assert_problem(analyst.get("/audit/witnesses"), 403, "forbidden")


def test_auditors_read_which_witness_has_which_head(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"witnessed_{uuid4().hex[:12]}"
    rows(server_url, f"CREATE DATABASE {own}")
    url = server_url.rpartition("/")[0] + f"/{own}"
    file, gone = (tmp_path / "heads").as_uri(), (tmp_path / "none" / "heads").as_uri()
    monkeypatch.setenv("CHAINLYTICS_WITNESSES", f"{file} {gone}")
    try:
        with serving_process(url, tmp_path) as (served, _), served.client(Role.AUDITOR) as auditor:
            with served.client() as ana:
                position = post(ana, "/orders", order("O-1"), "key")["position"]

            def handed() -> list[dict[str, Any]] | None:
                found: list[dict[str, Any]] = get(auditor, "/audit/witnesses")
                states = [one["state"] for one in found]
                return found if states == ["current", "away"] else None

            first, second = until(handed)
            assert (first["name"], second["name"]) == (file, gone)
            assert (first["size"], first["error"]) == (position, None)
            assert first["number"] == first["newest_number"]
            assert (second["number"], second["cosigned"]) == (None, False)
            assert "No such file" in second["error"]
    finally:
        rows(server_url, f"DROP DATABASE {own} WITH (FORCE)")


def test_what_an_endpoint_refuses_before_the_bus_is_told_too(
    served: Served, organisation: UUID
) -> None:
    model = "1" * 64
    with served.client(organisation_id=organisation, actor="ana") as ana:
        body = {"to": "0" * 64, "reason": "late deliveries were missed"}
        said = assert_problem(ana.post(f"/models/{model}/rollback", json=body), 404)
        [line] = lines_over_http(ana, 1)
    assert (line["command"], line["stream"]) == ("RollBackModel", f"models/{model}")
    assert (line["result"], line["times"]) == ("refused", 1)
    assert said["type"].endswith(line["code"])


def test_nobody_is_told_without_an_organisation(database: str, served: Served) -> None:
    with served.nobody() as nobody:
        for _ in range(3):
            answer = nobody.get(
                f"{API}/orders/O-secret", headers={"Authorization": "Bearer s3cret"}
            )
            assert_problem(answer, 401, "unauthenticated")

    def noted() -> list[Any]:
        return rows(
            database,
            """SELECT command, actor, sum(times), count(*) FROM attempts
            WHERE organisation_id IS NULL GROUP BY 1, 2""",
        )

    until(lambda: True if noted() and noted()[0][2] == 3 else None)
    [(command, actor, times, count)] = noted()
    assert (command, actor, times) == (f"GET {API}/orders/{{order_id}}", "", 3)
    assert count <= 2
    stored = str(rows(database, "SELECT a::text FROM attempts a"))
    assert "s3cret" not in stored
    assert "O-secret" not in stored


def test_the_command_line_tells_and_is_told_of(
    database: str, organisation: UUID, tmp_path: Path
) -> None:
    terminal = Here(tmp_path)
    terminal.environment |= {
        "DATABASE_URL": database,
        "CHAINLYTICS_ORGANISATION": str(organisation),
        "COLUMNS": "220",
    }
    stop = ("policies", "stop", "--reason", "a drill")
    terminal.run(*stop, "--actor", "ana")
    terminal.run(*stop, "--actor", "ana", code=1)
    newest, first = terminal.json("audit", "commands")
    assert (first["actor"], first["roles"], first["result"]) == ("ana", ["admin"], "accepted")
    assert newest["result"] == "refused"
    assert [one["id"] for one in terminal.json("audit", "commands", "--oldest")] == [
        first["id"],
        newest["id"],
    ]
    assert terminal.json("audit", "commands", "--result", "refused") == [newest]
    # However narrow the terminal is folded.
    shown = terminal.run("audit", "commands", "--result", "refused").stdout
    assert "refuse" in shown
    assert "accept" not in shown

    async def knock() -> None:
        async with reading(database) as log, Attempts(log) as attempts:
            nobodys = Attempt(
                None, "", (), "GET /knock", "", "unauthenticated", "unauthenticated", None
            )
            attempts.note(nobodys)

    asyncio.run(knock())
    nobody = terminal.json("audit", "commands", "--unauthenticated")
    assert [one["times"] for one in nobody if one["endpoint"] == "GET /knock"] == [1]
    [line] = terminal.json("audit", "trail", "--area", "policies")
    assert line["position"] == first["position"]
    assert "weather" in terminal.run("audit", "trail", "--area", "weather", code=1).stderr
    assert terminal.json("audit", "access") == []

    async def look() -> None:
        async with reading(database) as log:
            await Trail(log).looked_at(
                organisation, "ana", ("admin",), "p-7", ["name"], "why", None
            )

    asyncio.run(look())
    [seen] = terminal.json("audit", "access", "--person", "p-7", "--from", "2020-01-01")
    assert (seen["actor"], seen["fields"]) == ("ana", ["name"])
    assert terminal.json("audit", "access", "--to", "2020-01-01") == []
    # No word is broken on a narrow terminal.
    terminal.environment["COLUMNS"] = "80"
    shown = terminal.run("audit", "commands", "--actor", "ana").stdout
    assert max(map(len, shown.splitlines())) <= 80
    for word in ("refused", "accepted", "StopKind", "policies/fulfilment", "ana", "admin"):
        assert f" {word} " in shown
    assert "policy.already_stopped" in shown
    assert "of the 30 days before now" in shown
    looks = terminal.run("audit", "access").stdout
    assert all(word in looks for word in ("ana", "admin", "p-7", "name", "why"))
    assert "a drill" in terminal.run("audit", "trail").stdout
    classes = {one["table"]: one for one in terminal.json("db", "retention")}
    assert classes.keys() == {"commands", "attempts", "personal_access"}
    assert classes["commands"]["days"] == 400
    assert classes["personal_access"]["rows"] >= 1
    assert "1096 days" in terminal.run("db", "retention").stdout
