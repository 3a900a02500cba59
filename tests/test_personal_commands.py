"""Commands with personal data: encrypted before the rules, recognised again, never mixed up."""

from __future__ import annotations

import asyncio
import json
import stat
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import psycopg
import pytest
from structlog.testing import capture_logs

from chainlytics.application import Application
from commands.bulk import Keyed, Progress, Sender, send_all
from commands.context import Context, digest_of
from commands.erasing import UNDER_WAY, carry_out, erase, erasures
from commands.importer import import_directory
from commands.mapping import parse_mapping
from domain.access import Role
from domain.errors import Refused
from domain.orders import OrderLine, PlaceOrder
from domain.people import SEARCHED, ErasePerson, Reason, Recipient
from eventstore import CommandReused, Receipt, prepare_database
from eventstore.persons.claims import Claim, give_up_old, settle
from eventstore.persons.keys import Person
from readmodels.database import ReadModels
from readmodels.people import MOST, Reader
from tests.appending import emptied
from tests.archiving import archived, dropped
from tests.persons import MASTER, places_of, query, wired
from tests.test_cli_decisions import Here
from tests.world import context, copied

#: The persons of an organisation whose keys are claimed.
CLAIMED = """SELECT c.key_id FROM person_claims c JOIN person_keys k USING (key_id)
    WHERE k.organisation_id = %s"""
PLACED_AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def alone(database: str) -> str:
    """The database; each test has an organisation of its own."""
    prepare_database(database)
    return database


def ordered(order_id: str, person_id: str, name: str = "Ada Xylophonia") -> PlaceOrder:
    return PlaceOrder(
        order_id=order_id,
        customer_id="C-1",
        currency="EUR",
        lines=(OrderLine(line_no=1, sku="SKU-1", quantity=Decimal(1), unit_price_minor=100),),
        placed_at=PLACED_AT,
        promised_at=PLACED_AT + timedelta(days=3),
        recipient=Recipient(person_id=person_id, name=name),
    )


def of(organisation_id: UUID) -> Context:
    return context("boss", organisation_id)


def persons_of(url: str, own: UUID) -> list[tuple[str, UUID]]:
    """Order id and pseudonym of each order."""
    return query(
        url,
        """SELECT convert_from(state, 'UTF8')::jsonb ->> 'order_id',
            (convert_from(state, 'UTF8')::jsonb ->> 'person')::uuid
        FROM events WHERE organisation_id = %s AND topic = 'orders.OrderPlaced.v1'
        ORDER BY notification_id""",
        own,
    )


def test_bulk_commands_are_encrypted_and_recognised_when_sent_again(alone: str) -> None:
    own = uuid4()
    commands = [Keyed(f"{n}", ordered(f"B-{n}", f"P-{n % 7}")) for n in range(40)]
    commands.append(Keyed("3", ordered("B-3", "P-3")))  # twice in one chunk
    commands.append(Keyed("4", ordered("B-4", "P-4", "Another Name")))
    refused: list[str] = []

    async def send(app: Application, sent: list[Keyed], chunk: int) -> Progress:
        refused.clear()
        return await send_all(
            app.bus,
            sent,
            Sender("bulk", own, "importer"),
            total=len(sent),
            on_refusal=lambda _, code, detail: refused.append(code),
            chunk=chunk,
        )

    async def work() -> None:
        async with wired(alone) as app:
            progress = await send(app, commands, 9)
            assert (progress.stored, progress.repeated, progress.rejected) == (40, 1, 1)
            assert refused == ["command.reused"]
            placed = persons_of(alone, own)
            assert [name for name, _ in placed] == [f"B-{n}" for n in range(40)]
            assert len({person for _, person in placed}) == 7
            assert all(person == placed[n % 7][1] for n, (_, person) in enumerate(placed))
            [erased] = await app.people.keys.find(own, ("person_id",), "P-3")
            await erase(app.bus, app.people.keys, erased, Reason.RETENTION, of(own))
            for chunk in (5, 50):
                progress = await send(app, commands, chunk)
                assert (progress.stored, progress.repeated, progress.rejected) == (0, 41, 1)
                assert await app.people.keys.find(own, ("person_id",), "P-3") == {}
        # Another process, whose states are not in memory.
        async with wired(alone) as app:
            progress = await send(app, [*commands, Keyed("new", ordered("B-NEW", "P-3"))], 50)
            assert (progress.stored, progress.repeated, progress.rejected) == (1, 41, 1)
            [new] = await app.people.keys.find(own, ("person_id",), "P-3")
            assert new != erased
            assert persons_of(alone, own)[-1] == ("B-NEW", new)

    asyncio.run(work())
    assert places_of(alone, ["Xylophonia", "xylophonia", "Another Name"]) == set()


def test_chunks_with_and_without_persons_keep_their_order(alone: str) -> None:
    own = uuid4()
    plain = ordered("X", "P").model_copy(update={"recipient": None})
    commands = [
        Keyed(
            f"{n}",
            ordered(f"C-{n}", f"P-{n}")
            if n // 5 % 2
            else plain.model_copy(update={"order_id": f"C-{n}"}),
        )
        for n in range(60)
    ]

    async def work() -> None:
        async with wired(alone) as app:
            progress = await send_all(
                app.bus,
                commands,
                Sender("mixed", own, "importer"),
                total=len(commands),
                on_refusal=lambda *_: None,
                chunk=5,
            )
            assert progress.stored == 60

    asyncio.run(work())
    placed = persons_of(alone, own)
    assert [name for name, _ in placed] == [f"C-{n}" for n in range(60)]
    assert [person is not None for _, person in placed] == [bool(n // 5 % 2) for n in range(60)]


@pytest.mark.parametrize("many", [False, True])
def test_nothing_gets_under_the_key_of_somebody_erased(alone: str, many: bool) -> None:
    """The event is on the log and the key still there: neither in memory nor from the log is a
    state believed that is not the newest."""
    own = uuid4()

    async def work() -> None:
        async with wired(alone) as app, wired(alone) as elsewhere:
            await app.bus.execute(ordered("E-1", "P-1"), of(own))
            [(_, person)] = persons_of(alone, own)
            command = ErasePerson(person=str(person), erased_at=PLACED_AT)
            await elsewhere.bus.execute(command, of(own))
            # They are as good as any, of somebody new.
            if many:
                [taken] = await app.bus.execute_many([(ordered("E-2", "P-1"), of(own))])
                assert isinstance(taken, Receipt)
            else:
                await app.bus.execute(ordered("E-2", "P-1"), of(own))
            (_, first), (_, second) = persons_of(alone, own)
            assert first == person != second
            known = await app.people.keys.known(own, [first, second])
            assert known == {first: True, second: False}
            assert list(await app.people.keys.find(own, ("person_id",), "P-1")) == [second]

    asyncio.run(work())


def test_orders_and_erasures_of_one_person_at_once(alone: str) -> None:
    """No order is stored under a key behind that person's tombstone."""
    own = uuid4()

    async def work() -> None:
        async with wired(alone) as one, wired(alone) as two:
            for n in range(15):
                await one.bus.execute(ordered(f"R-{n}", "P-1"), of(own))
                [person] = await one.people.keys.find(own, ("person_id",), "P-1")
                answers = await asyncio.gather(
                    *(two.bus.execute(ordered(f"R-{n}-{m}", "P-1"), of(own)) for m in range(4)),
                    erase(one.bus, one.people.keys, person, Reason.REQUESTED, of(own)),
                    return_exceptions=True,
                )
                assert all(isinstance(one, Receipt) for one in answers), answers
                for person in await one.people.keys.find(own, ("person_id",), "P-1"):
                    await erase(one.bus, one.people.keys, person, Reason.REQUESTED, of(own))

    asyncio.run(work())
    late = query(
        alone,
        """SELECT p.notification_id FROM events p JOIN events e
            ON e.topic = 'people.PersonErased.v1' AND e.organisation_id = p.organisation_id
            AND e.notification_id < p.notification_id
            AND convert_from(e.state, 'UTF8')::jsonb ->> 'person'
                = convert_from(p.state, 'UTF8')::jsonb ->> 'person'
        WHERE p.organisation_id = %s AND p.topic = 'orders.OrderPlaced.v1'""",
        own,
    )
    assert late == []
    assert query(alone, "SELECT FROM person_search WHERE organisation_id = %s", own) == []


def held_of(url: str, own: UUID) -> list[tuple[UUID, bool]]:
    """The organisation's persons, and whether they are erased."""
    return query(
        url,
        "SELECT key_id, wrapped IS NULL FROM person_keys WHERE organisation_id = %s ORDER BY 2",
        own,
    )


def test_who_was_erased_is_not_found_by_a_command_that_is_refused(alone: str) -> None:
    """The order is sent again under a new command id, alone and by an import that is run again."""
    own, sent = uuid4(), ordered("Z-1", "P-1")

    async def work() -> None:
        async with wired(alone) as app:
            keys = app.people.keys
            await app.bus.execute(sent, of(own))
            [person] = await keys.find(own, SEARCHED, "Ada Xylophonia")
            await erase(app.bus, keys, person, Reason.REQUESTED, of(own))
            with pytest.raises(Refused, match=r"order\.already_placed"):
                await app.bus.execute(sent, of(own))
            assert await keys.find(own, SEARCHED, "Ada Xylophonia") == {}
            assert held_of(alone, own) == [(person, True)]
            codes: list[str] = []
            progress = await send_all(
                app.bus,
                [Keyed("1", sent), Keyed("2", ordered("Z-2", "P-2")), Keyed("3", sent)],
                Sender("renamed", own, "importer"),
                total=3,
                on_refusal=lambda _, code, detail: codes.append(code),
            )
            assert (progress.stored, progress.rejected) == (1, 2)
            assert codes == ["order.already_placed"] * 2
            assert await keys.find(own, SEARCHED, "P-1") == {}
            [(new, _)] = [one for one in held_of(alone, own) if one[0] != person]
            assert list(await keys.find(own, SEARCHED, "P-2")) == [new]

    asyncio.run(work())


def test_a_refused_command_leaves_alone_whom_another_one_brought_in(alone: str) -> None:
    """Two orders of one id and a new person at once: one is refused, whichever made the key."""
    own = uuid4()

    async def work() -> None:
        async with wired(alone) as one, wired(alone) as two:
            for n in range(15):
                answers = await asyncio.gather(
                    *(app.bus.execute(ordered(f"T-{n}", f"P-{n}"), of(own)) for app in (one, two)),
                    two.bus.execute_many([(ordered(f"T-{n}", f"P-{n}"), of(own))]),
                    return_exceptions=True,
                )
                assert sum(isinstance(each, Receipt) for each in flat(answers)) == 1, answers
                [person] = await one.people.keys.find(own, SEARCHED, f"P-{n}")
                assert persons_of(alone, own)[-1] == (f"T-{n}", person)

    asyncio.run(work())
    assert len(held_of(alone, own)) == 15


def flat(answers: list[Any]) -> list[Any]:
    return [one for each in answers for one in (each if type(each) is list else [each])]


@pytest.mark.parametrize("cold", [False, True])
def test_a_key_of_a_command_that_died_goes_after_an_hour(
    alone: str, tmp_path: Path, cold: bool
) -> None:
    own, stream = uuid4(), uuid4()
    aged = "UPDATE person_claims SET since = since - interval '61 minutes'"

    async def work(url: str) -> None:
        async with wired(url) as app:
            keys = app.people.keys
            await app.bus.execute(ordered("D-1", "P-1"), of(own))
            for n in range(3):
                await app.bus.execute(ordered(f"D-{n + 5}", f"P-{n + 5}"), of(own))
            # As a command does that dies before it is decided.
            dead = [
                Person(own, f"P-{n}", {"name": f"Name {n}"}, Claim(uuid4(), stream)) for n in (1, 2)
            ]
            [(first, _), (second, _)] = await keys.for_writing(dead)
            assert list(await keys.find(own, SEARCHED, "P-1")) == [first]
            assert await keys.find(own, SEARCHED, "P-2") == {}
        if cold:
            archived(url, tmp_path, positions=2)
            assert dropped(url)
        async with wired(url) as app, app.log.connection() as connection:
            keys = app.people.keys
            assert await give_up_old(connection, UNDER_WAY) == 0
            await connection.execute(aged)
            assert await give_up_old(connection, UNDER_WAY) == 1
            assert await give_up_old(connection, UNDER_WAY) == 0
            assert await keys.known(own, [first, second]) == {first: False}
            assert list(await keys.find(own, SEARCHED, "P-1")) == [first]
            [left] = await (
                await connection.execute("SELECT count(*) FROM person_claims")
            ).fetchall()
            assert left == (0,)

    with copied(alone) as url:
        emptied(url)
        with psycopg.connect(url) as connection:
            connection.execute("TRUNCATE person_keys, person_search, person_claims")
        asyncio.run(work(url))


def test_claims_go_when_events_are_there(alone: str) -> None:
    own = uuid4()

    async def work() -> None:
        async with wired(alone) as app, app.log.connection() as connection:
            keys = app.people.keys
            for n in range(3):
                await app.bus.execute(ordered(f"S-{n}", "P-1"), of(own))
            [waiting] = await keys.for_writing([Person(own, "P-2", {}, Claim(uuid4(), uuid4()))])
            while await settle(connection):
                pass
            assert query(alone, CLAIMED, own) == [(waiting[0],)]
            await app.bus.execute(ordered("S-3", "P-1"), of(own))
            with pytest.raises(Refused):
                await app.bus.execute(ordered("S-3", "P-1"), of(own))
            assert query(alone, CLAIMED, own) == [(waiting[0],)]
            assert len(await keys.find(own, SEARCHED, "P-1")) == 1

    asyncio.run(work())


def test_an_erasure_that_names_nobody_does_not_hold_up_the_others(alone: str) -> None:
    own = uuid4()

    async def work() -> None:
        async with wired(alone) as app, app.log.connection() as connection:
            await app.bus.execute(ordered("N-1", "P-1"), of(own))
            [(_, person)] = persons_of(alone, own)
            for name in ("nobody", str(person)):
                command = ErasePerson.model_construct(
                    person=name, reason=Reason.MISTAKE, erased_at=PLACED_AT
                )
                await app.bus.execute(command, of(own))
            while await carry_out(connection):
                pass
            assert await app.people.keys.known(own, [person]) == {person: True}
            [listed] = await erasures(app.log, own)
            assert (listed.person, listed.reason) == (person, Reason.MISTAKE)

    with capture_logs() as told:
        asyncio.run(work())
    assert {(one["event"], one["log_level"]) for one in told if "erasure" in one["event"]} == {
        ("an erasure names no person", "error")
    }


def test_whoever_is_found_is_on_record_before_there_is_a_row(alone: str) -> None:
    own = uuid4()

    async def work() -> None:
        async with wired(alone) as app:
            await app.projector.prepare()
            command = ordered("W-1", "P-1")
            told = command.recipient.model_copy(update={"email": "w@example.org"})  # type: ignore[union-attr]
            await app.bus.execute(command.model_copy(update={"recipient": told}), of(own))
            reader = Reader(own, "boss", frozenset({Role.ADMIN}), "a letter")
            read = ReadModels(app.log, own)
            [found] = (await app.people.find(read, reader, "W@example.org")).items
            assert found.email is None
            looks = query(
                alone, "SELECT person, fields FROM personal_access WHERE organisation_id = %s", own
            )
            assert looks == [(found.person, ["email"])]

    asyncio.run(work())


def test_a_search_says_that_there_are_more(alone: str) -> None:
    own = uuid4()

    async def work() -> None:
        async with wired(alone) as app:
            commands = [(ordered(f"M-{n}", f"P-{n}"), of(own)) for n in range(MOST + 1)]
            await app.bus.execute_many(commands[:MOST])
            await app.projector.prepare()
            reader = Reader(own, "boss", frozenset({Role.ADMIN}), "a letter")
            read = ReadModels(app.log, own)
            found = await app.people.find(read, reader, "Ada Xylophonia")
            assert (len(found.items), found.more) == (MOST, False)
            await app.bus.execute_many(commands)
            found = await app.people.find(read, reader, "Ada Xylophonia")
            assert (len(found.items), found.more) == (MOST, True)

    asyncio.run(work())


def test_a_digest_cannot_be_compared_with_guesses(alone: str) -> None:
    own, sent = uuid4(), ordered("G-1", "P-1")

    async def work() -> None:
        async with wired(alone) as app:
            once = of(own)
            receipt = await app.bus.execute(sent, once)
            again = await app.bus.execute(sent, once)
            assert again == receipt._replace(repeated=True)
            with pytest.raises(CommandReused):
                await app.bus.execute(ordered("G-1", "P-2"), once)
            [(stored, _)] = (await app.log.answers([once.command_id])).values()
            assert stored != digest_of(sent)
            assert stored == await app.people.keys.digest(digest_of(sent))

    asyncio.run(work())


SHOP = """
name = "people"
title = "Orders with recipients"

[files.orders]
file = "orders.csv"
key = ["order_id"]
columns = { order_id = "id", placed = "time", person = "id?", name = "text?", email = "text?" }

[[steps]]
command = "PlaceOrder"
key = "order_id"
at = "placed_at"
select = '''
SELECT order_id, 'C-1' AS customer_id, 'EUR' AS currency,
       placed AS placed_at, placed AS promised_at, source, person AS "recipient.person_id",
       name AS "recipient.name", email AS "recipient.email"
FROM orders
'''
[steps.lists]
lines = '''
SELECT order_id, 1 AS line_no, 'A' AS sku, 1 AS quantity, 1 AS unit_price_minor, source
FROM orders
'''
"""


def test_an_import_brings_recipients_in(alone: str, tmp_path: Path) -> None:
    own = uuid4()
    (tmp_path / "orders.csv").write_text(
        "order_id,placed,person,name,email\n"
        "I-1,2026-03-01T10:00:00Z,P-1,Ada Xylophonia,ada@example.org\n"
        "I-2,2026-03-01T11:00:00Z,,,\n"
        "I-3,2026-03-01T12:00:00Z,P-1,Ada Xylophonia,\n"
        "I-4,2026-03-01T13:00:00Z,P-4,,\n"
        "I-5,2026-03-01T13:00:00Z,Xylophonia Ada,Ada,\n"
        "I-6,2026-03-01T13:00:00Z,P-6,Ada,ada.xylophonia at example\n"
        "I-7,2026-03-01T13:00:00Z,P-7,Ada Xylophonia,,too many\n"
    )
    (tmp_path / "rejects.csv").write_text("an older one")
    (tmp_path / "rejects.csv").chmod(0o644)

    async def work() -> None:
        async with wired(alone) as app:
            report = await import_directory(
                app.bus,
                parse_mapping(SHOP),
                tmp_path,
                organisation_id=own,
                actor="importer",
                rejects=tmp_path / "rejects.csv",
            )
            assert (report.progress.stored, report.progress.rejected) == (3, 2)
            assert report.rejected_rows == {"orders.csv": 2}
            [person] = await app.people.keys.find(own, ("email",), "ADA@example.org")
            assert persons_of(alone, own) == [("I-1", person), ("I-2", None), ("I-3", person)]

    asyncio.run(work())
    rejects = (tmp_path / "rejects.csv").read_text()
    assert all(f"orders.csv,{line}," in rejects for line in (5, 6, 7, 8))
    assert "recipient.name" in rejects
    assert "recipient.email" in rejects
    assert "xylophonia" not in rejects.lower(), "a reject says where it stands, not what"
    assert stat.S_IMODE((tmp_path / "rejects.csv").stat().st_mode) == 0o600
    assert places_of(alone, ["Xylophonia", "xylophonia"]) == set()


def test_a_restored_backup_is_told_whom_to_erase_again(alone: str, tmp_path: Path) -> None:
    organisation, ledger = str(uuid4()), tmp_path / "erasures.json"
    own = UUID(organisation)
    here = Here(tmp_path)
    here.environment |= {
        "DATABASE_URL": alone,
        "CHAINLYTICS_HOME": str(tmp_path),
        "CHAINLYTICS_ORGANISATION": organisation,
        "CHAINLYTICS_MASTER_KEY": b64encode(MASTER).decode(),
    }

    async def place(*numbers: int) -> list[UUID]:
        async with wired(alone) as app:
            for n in numbers:
                await app.bus.execute(ordered(f"K-{n}", f"P-{n}"), of(own))
        return [person for _, person in persons_of(alone, own)]

    def again(code: int = 0) -> Any:
        done = here.run("people", "erase", "--again", str(ledger), "--yes", "--json", code=code)
        return json.loads(done.stdout) if code == 0 else done.stderr

    asyncio.run(place(1, 2, 3))
    persons = persons_of(alone, own)
    here.run("people", "erase", str(persons[0][1]), "--yes")
    with copied(alone) as backup:
        [*_, later] = asyncio.run(place(4))
        for person in (persons[1][1], later):
            here.run("people", "erase", str(person), "--reason", "objected", "--yes")
        assert str(later) in here.run("people", "erasures").stdout
        ledger.write_text(here.run("people", "erasures", "--json").stdout)
        listed = json.loads(ledger.read_text())
        gone = [persons[0][1], persons[1][1], later]
        assert [one["person"] for one in listed] == list(map(str, gone))
        assert [one["reason"] for one in listed] == ["requested", "objected", "objected"]
        assert [one["position"] for one in listed] == sorted(one["position"] for one in listed)
        assert all(datetime.fromisoformat(one["at"]).tzinfo for one in listed)
        assert again() == {"erased": 0, "before": 3, "unknown": 0}

        here.environment["DATABASE_URL"] = backup
        shown = json.loads(here.run("people", "show", str(persons[1][1]), "--json").stdout)
        assert shown["name"] == "Ada Xylophonia"
        assert again() == {"erased": 1, "before": 1, "unknown": 1}
        assert again() == {"erased": 0, "before": 2, "unknown": 1}
        shown = json.loads(here.run("people", "show", str(persons[1][1]), "--json").stdout)
        assert (shown["name"], shown["erased_at"] is None) == (None, False)
        [[reason]] = query(
            backup,
            """SELECT convert_from(state, 'UTF8')::jsonb ->> 'reason' FROM events
            WHERE convert_from(state, 'UTF8')::jsonb ->> 'person' = %s
                AND topic = 'people.PersonErased.v1'""",
            str(persons[1][1]),
        )
        assert reason == "objected"
        left = json.loads(here.run("people", "show", str(persons[2][1]), "--json").stdout)
        assert left["name"] == "Ada Xylophonia"
        ledger.write_text('[{"person": "Ada"}]')
        assert "is no list of erasures" in again(1)
        both = ("people", "erase", str(later), "--again", str(ledger))
        assert "not both" in here.run(*both, code=1).stderr


def test_the_command_line_finds_shows_erases_and_rewraps(alone: str, tmp_path: Path) -> None:
    organisation = str(uuid4())
    old, new = b64encode(MASTER).decode(), b64encode(b"n" * 32).decode()
    environment = {
        "DATABASE_URL": alone,
        "CHAINLYTICS_HOME": str(tmp_path),
        "CHAINLYTICS_ORGANISATION": organisation,
        "CHAINLYTICS_MASTER_KEY": old,
    }
    here = Here(tmp_path)
    here.environment |= environment

    async def place() -> None:
        async with wired(alone) as app:
            await app.bus.execute(ordered("L-1", "P-1"), of(UUID(organisation)))

    asyncio.run(place())
    with patch("sys.stdin", StringIO("ada xylophonia\n")):
        [found] = json.loads(here.run("people", "find", "-", "--json").stdout)
    person = found["person"]
    assert found["name"] == "Ada Xylophonia"
    assert "Ada Xylophonia" in here.run("people", "show", person, "--why", "a letter").stdout
    why = query(alone, "SELECT why FROM personal_access WHERE person = %s ORDER BY id", person)
    assert why == [("command line",), ("a letter",)]

    assert "is not known" in here.run("people", "show", str(uuid4()), code=1).stderr
    assert "CHAINLYTICS_MASTER_KEY_OLD" in here.run("people", "rewrap", code=1).stderr
    here.environment["CHAINLYTICS_MASTER_KEY"] = new
    assert "master key" in here.run("people", "show", person, code=1).stderr
    here.environment["CHAINLYTICS_MASTER_KEY_OLD"] = old
    assert json.loads(here.run("people", "rewrap", "--json").stdout)["keys"] > 0
    del here.environment["CHAINLYTICS_MASTER_KEY_OLD"]
    shown = json.loads(here.run("people", "show", person, "--json").stdout)
    assert shown["name"] == "Ada Xylophonia"

    done = here.run("people", "erase", person, "--yes", "--json")
    assert json.loads(done.stdout)["stream"] == f"people/{person}"
    assert "was erased" in here.run("people", "show", person).stdout
    assert json.loads(here.run("people", "find", "P-1", "--json").stdout) == []
