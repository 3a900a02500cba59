"""People: rules, what fields may hold, the cipher, the keys, and masks."""

from __future__ import annotations

import asyncio
import stat
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from psycopg_pool import AsyncConnectionPool
from pydantic import ValidationError

from chainlytics.settings import Settings
from commands import stream_id
from commands.catalogue import COMMANDS
from commands.erasing import erase
from domain.catalogue import CATALOGUE, TOPICS, encode
from domain.errors import Refused
from domain.orders import OrderLine, OrderPlaced, PlaceOrder
from domain.people import (
    ErasePerson,
    OfPerson,
    Personal,
    PersonErased,
    Reason,
    Recipient,
    SealedRecipient,
    is_about_person,
    personal_parts,
    token_fields,
)
from domain.values import Command, Id
from eventstore import Log, StoredEvent, prepare_database
from eventstore.log import Connection
from eventstore.persons.cipher import (
    PersonCipher,
    WrongKey,
    index_token,
    new_key,
    normalised,
    unwrap,
    wrap,
)
from eventstore.persons.claims import Claim
from eventstore.persons.keys import Person, PersonKeys, WrongMasterKey, rewrap
from ml.catalogue import FEATURE_TABLES, KINDS
from ml.tables import GOVERNANCE
from projections.catalogue import TABLES
from projections.frames import decode
from projections.schema import METADATA
from readmodels.people import _masked
from tests.spec import given, problems
from tests.world import ORGANISATION, company, context

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANA = "6f1b7a52-0c35-4c1e-9d57-0d4a5a3c8f11"
TOKEN = "p1." + "A" * 40
#: As the rules get it: a pseudonym and tokens.
RECIPIENT = Recipient.model_construct(person_id=ANA, name=TOKEN, email=TOKEN)
PLACE = PlaceOrder(
    order_id="O-1",
    customer_id="C-1",
    currency="EUR",
    lines=(OrderLine(line_no=1, sku="SKU-1", quantity=Decimal(2), unit_price_minor=1999),),
    placed_at=NOON,
    promised_at=NOON + timedelta(days=5),
)
PLACED = OrderPlaced(
    order_id="O-1",
    customer_id="C-1",
    currency="EUR",
    lines=PLACE.lines,
    lines_known=True,
    units=Decimal(2),
    goods_minor=3998,
    freight_minor=0,
    weight_g=None,
    region=None,
    placed_at=NOON,
    promised_at=NOON + timedelta(days=5),
)
ERASE = ErasePerson(person=ANA, reason=Reason.REQUESTED, erased_at=NOON)
erased = PersonErased(person=ANA, reason="requested", erased_at=NOON)


def for_ana() -> PlaceOrder:
    return PLACE.model_copy(update={"recipient": RECIPIENT})


# rules


def test_a_person_is_erased() -> None:
    given().when(ERASE).then(erased)


def test_a_person_is_erased_once() -> None:
    given(erased).when(ERASE).refused("person.already_erased", person=ANA)


def test_an_order_holds_its_recipient_as_pseudonym_and_tokens() -> None:
    expected = PLACED.model_copy(
        update={"person": ANA, "recipient": SealedRecipient(name=TOKEN, email=TOKEN)}
    )
    given().when(for_ana()).then(expected)


def test_nothing_is_placed_for_who_was_erased_meanwhile() -> None:
    given().reading(erased).when(for_ana()).refused("person.erased", person=ANA)


def test_an_order_without_a_recipient_is_what_it_always_was() -> None:
    given().when(PLACE).then(PLACED)
    assert b"recipient" not in encode(PLACED)[1]
    assert b"person" not in encode(PLACED)[1]
    assert "recipient" not in PLACE.model_dump_json()


def test_plain_text_does_not_fit_into_an_event_and_is_not_told() -> None:
    plain = RECIPIENT.model_copy(update={"name": "Ada Lovelace"})
    with pytest.raises(ValidationError) as refused:
        given().when(PLACE.model_copy(update={"recipient": plain}))
    assert "Lovelace" not in str(refused.value)


# fields


@pytest.mark.parametrize(
    ("field", "wrong", "right"),
    [
        ("name", " ", "Ωμέγα O'Neil"),
        ("name", "x" * 201, "x" * 200),
        ("name", "a\0b", "李小龍"),
        ("email", "ada", "ada@example.org"),
        ("email", "a da@example.org", "ada+x@sub.example.org"),
        ("phone", "--/--", "+49 (30) 123-45"),
        ("phone", "call me", "030/12345"),
        ("postcode", " 10115", "SW1A 1AA"),
        ("country", "de", "DE"),
        ("city", "", "Sankt Pölten"),
        ("person_id", "a b", "CRM-7"),
    ],
)
def test_a_recipient_is_looked_at(field: str, wrong: str, right: str) -> None:
    usual: dict[str, Any] = {"person_id": "P-1", "name": "Ada"}
    assert getattr(Recipient(**usual | {field: right}), field) == right
    with pytest.raises(ValidationError) as refused:
        Recipient(**usual | {field: wrong})
    assert refused.value.errors()[0]["loc"] == (field,)
    assert "input_value" not in str(refused.value)


def test_no_command_tells_a_wrong_value_in_its_message() -> None:
    """Pydantic asks the outermost class whether values are quoted."""
    body = PLACE.model_dump(mode="json") | {"recipient": {"person_id": "P", "name": "Ada", "x": 1}}
    for recipient in ({"email": "ada.secret at x"}, {"e_mail": "ada.secret"}, "Ada Secret"):
        with pytest.raises(ValidationError) as refused:
            PlaceOrder.model_validate(body | {"recipient": recipient})
        assert "ecret" not in str(refused.value) + repr(refused.value)
        assert "input_value" not in str(refused.value)


def test_places_about_a_person_are_recognised() -> None:
    parts = personal_parts(PlaceOrder)
    about = [(), ("order_id",), ("lines", 0, "sku"), ("recipient",), ("recipient", "email")]
    about.append(("recipient", "no_such_field"))
    assert [is_about_person(parts, place) for place in about] == [False] * 3 + [True] * 3
    [own] = personal_parts(Recipient)
    assert [is_about_person([own], place) for place in ((), ("name",), ("person_id",))] == [
        False,
        True,
        True,
    ]


def test_an_erasure_has_one_of_a_few_reasons() -> None:
    assert "reason" in problems(ErasePerson, person=ANA, reason="Ada asked", erased_at=NOON)
    assert "person" in problems(ErasePerson, person="Ada", erased_at=NOON)


def test_what_is_personal_is_found_in_every_command() -> None:
    found = {name: personal_parts(command) for name, command in COMMANDS.items()}
    assert {name for name, parts in found.items() if parts} == {"PlaceOrder"}
    [part] = found["PlaceOrder"]
    assert part.path == ("recipient",)
    assert part.person == "person_id"
    assert part.fields == tuple(name for name in Recipient.model_fields if name != "person_id")


def test_personal_fields_that_could_not_be_encrypted_are_no_command() -> None:
    class InAList(Command):
        them: tuple[Recipient, ...]

    class Nobodys(Command):
        name: Annotated[str, Personal()] | None

    class ANumber(Command):
        person_id: Annotated[Id, OfPerson()]
        age: Annotated[int, Personal()]

    for command, why in ((InAList, "in a list"), (Nobodys, "whose"), (ANumber, "one text")):
        with pytest.raises(TypeError, match=why):
            personal_parts(command)


def test_events_hold_personal_data_as_tokens_only() -> None:
    holders = {event: token_fields(event) for event in TOPICS if token_fields(event)}
    assert holders == {OrderPlaced: ("recipient",)}
    body = PLACED.model_dump(mode="json") | {"person": ANA, "recipient": {"name": "Ada"}}
    with pytest.raises(ValidationError):
        OrderPlaced.model_validate(body)


def test_no_table_but_that_of_people_reads_a_personal_value() -> None:
    tables = {
        *TABLES.values(),
        *FEATURE_TABLES,
        *GOVERNANCE,
        *(table for kind in KINDS.values() for table in kind.tables),
        *(source.table for kind in KINDS.values() for source in kind.sources),
    }
    readers = {
        table.name
        for table in tables
        for event in table.events
        if table.fields(event) & set(token_fields(event))
    }
    assert readers == {"people"}
    for kind in KINDS.values():
        for event, fields in kind.examples.fields.items():
            assert not fields & set(token_fields(event))


def test_whole_events_in_tables_are_without_tokens() -> None:
    tricky = PLACED.model_copy(update={"customer_id": ',"recipient":{"name":"not this"}'})
    holds = tricky.model_copy(
        update={"person": ANA, "recipient": SealedRecipient(name=TOKEN, city=TOKEN)}
    )
    rows = [_stored(number, event) for number, event in enumerate((holds, tricky), 1)]
    frame = decode(rows, {OrderPlaced: {"state", "recipient", "person"}})[OrderPlaced]
    first, second = (CATALOGUE.decode(TOPICS[OrderPlaced], one.encode()) for one in frame["state"])
    assert first == holds.model_copy(update={"recipient": None})
    assert second == tricky
    assert frame["person"].to_list() == [ANA, None]
    assert frame["recipient"].struct.field("city").to_list() == [TOKEN, None]
    assert "state" in METADATA


def _stored(position: int, event: OrderPlaced) -> StoredEvent:
    topic, state = encode(event)
    of_log = (uuid4(), ORGANISATION, NOON, uuid4(), None, "ana")
    return StoredEvent(position, uuid4(), 1, topic, state, *of_log)


@pytest.mark.parametrize(
    ("field", "value", "mask"),
    [
        ("name", "Ada", "A•••"),
        ("name", "A", "•••"),
        ("name", " A ", "•••"),
        ("name", " Ada", "A•••"),
        ("email", "ada@example.org", "•••@•••"),
        ("phone", "+49 30", "•••"),
        ("city", "Berlin", "•••"),
    ],
)
def test_a_mask_says_next_to_nothing(field: str, value: str, mask: str) -> None:
    assert _masked(field, value) == mask


# the cipher

KEYS = st.binary(min_size=32, max_size=32)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
FIELD = st.sampled_from(list(SealedRecipient.model_fields))


@drawn(KEYS, st.uuids(), FIELD, WORDS)
def test_a_token_opens_with_its_key_and_fits_into_an_event(
    key: bytes, key_id: UUID, field: str, value: str
) -> None:
    cipher = PersonCipher(key_id, key)
    token = cipher.token(field, value)
    assert PersonCipher(key_id, key).value(field, token) == value
    assert getattr(SealedRecipient(**{field: token}), field) == token
    assert cipher.token(field, value) != token


@drawn(KEYS, KEYS, st.uuids(), st.uuids(), WORDS)
def test_a_token_opens_for_no_other_person_and_field(
    key: bytes, other: bytes, key_id: UUID, other_id: UUID, value: str
) -> None:
    token = PersonCipher(key_id, key).token("name", value)
    wrong: list[tuple[PersonCipher, str]] = [(PersonCipher(key_id, key), "email")]
    if other != key:
        wrong.append((PersonCipher(key_id, other), "name"))
    if other_id != key_id:
        wrong.append((PersonCipher(other_id, key), "name"))
    for cipher, field in wrong:
        with pytest.raises(WrongKey):
            cipher.value(field, token)


@drawn(st.data())
def test_a_changed_token_does_not_open(data: st.DataObject) -> None:
    cipher = PersonCipher(UUID(ANA), b"k" * 32)
    token = cipher.token("name", "Ada")
    content = bytearray(urlsafe_b64decode(token[3:] + "=" * (-len(token[3:]) % 4)))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WrongKey):
        cipher.value("name", "p1." + urlsafe_b64encode(content).rstrip(b"=").decode())


@pytest.mark.parametrize("token", ["", "p1.", "p1.A", "p2." + "A" * 40, "p1.ÄÖ", "Ada", TOKEN])
def test_what_is_no_token_does_not_open(token: str) -> None:
    with pytest.raises(WrongKey):
        PersonCipher(UUID(ANA), b"k" * 32).value("name", token)


@drawn(KEYS, KEYS, KEYS)
def test_a_key_is_wrapped_for_one_master_key_and_one_name(
    master: bytes, other: bytes, key: bytes
) -> None:
    wrapped = wrap(master, key, b"ana")
    assert unwrap(master, wrapped, b"ana") == key
    with pytest.raises(WrongKey):
        unwrap(master, wrapped, b"bob")
    if other != master:
        with pytest.raises(WrongKey):
            unwrap(other, wrapped, b"ana")


def test_values_are_compared_as_people_do() -> None:
    assert normalised("name", "  ADA\t Lovelace ") == normalised("name", "ada lovelace")
    assert normalised("name", "Straße") == normalised("name", "STRASSE")
    assert normalised("phone", "+49 (30) 12-34") == normalised("phone", "+49301234")
    assert normalised("phone", "49301234") != normalised("phone", "+49301234")
    assert normalised("person_id", "p-1") != normalised("person_id", "P-1")


def test_the_index_of_one_organisation_says_nothing_about_another() -> None:
    key = new_key()
    one = index_token(key, ORGANISATION, "name", "Ada")
    assert one == index_token(key, ORGANISATION, "name", "ADA ")
    assert one != index_token(key, uuid4(), "name", "Ada")
    assert one != index_token(key, ORGANISATION, "email", "Ada")
    assert one != index_token(new_key(), ORGANISATION, "name", "Ada")


# the keys

MASTER, OTHER = b"m" * 32, b"o" * 32
ADA = Person(ORGANISATION, "P-ADA", {"name": "Ada", "email": "ada@example.org"})
BOB = Person(ORGANISATION, "P-BOB", {"name": "Bob"})


@pytest.fixture(scope="module")
def url(database: str) -> str:
    prepare_database(database)
    return database


@pytest.fixture(autouse=True)
def _nobody_is_known(request: pytest.FixtureRequest) -> None:
    if "url" in request.fixturenames:
        with psycopg.connect(request.getfixturevalue("url"), autocommit=True) as connection:
            connection.execute("TRUNCATE person_secret, person_keys, person_search, person_claims")


@asynccontextmanager
async def keys_of(url: str, master: bytes = MASTER) -> AsyncIterator[PersonKeys]:
    pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
        url, min_size=1, max_size=8, open=False, kwargs={"autocommit": True}
    )
    async with pool:
        yield PersonKeys(Log(pool), lambda: master)


def rows(url: str, table: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1::text, 2::text").fetchall()


async def searched(keys: PersonKeys, value: str, own: UUID = ORGANISATION) -> list[UUID]:
    return list(await keys.find(own, ("person_id", "name", "email", "phone"), value))


def test_one_person_has_one_key(url: str) -> None:
    async def work() -> None:
        async with keys_of(url) as keys:
            [(ada, first), (bob, _), (again, _)] = await keys.for_writing([ADA, BOB, ADA])
            assert ada == again != bob
            token = first.token("name", "Ada")
            later = Person(ORGANISATION, "P-ADA", {"phone": "+49 30 1234"})
            [(same, cipher)] = await keys.for_writing([later])
            assert same == ada
            assert cipher.value("name", token) == "Ada"
            assert await searched(keys, "+49301234") == [ada]
            assert await searched(keys, "ADA ") == [ada]
            assert await searched(keys, "P-ADA") == [ada]
            assert await searched(keys, "Ada Lovelace") == []
            # The same id at another organisation is somebody else.
            elsewhere = uuid4()
            [(other, _)] = await keys.for_writing([Person(elsewhere, "P-ADA", {"name": "Ada"})])
            assert other != ada
            assert await searched(keys, "Ada") == [ada]
            assert await searched(keys, "Ada", elsewhere) == [other]
            assert await keys.known(elsewhere, [ada]) == {}

    asyncio.run(work())
    assert len(rows(url, "person_keys")) == 3
    assert b"Ada" not in b"".join(bytes(row[2]) for row in rows(url, "person_search"))


def test_many_writers_at_once_make_one_key_for_a_person(url: str) -> None:
    persons = [Person(ORGANISATION, f"P-{n}", {"name": "Ada", "email": f"{n}@x"}) for n in range(9)]

    async def work() -> None:
        async with keys_of(url) as keys:
            orders = [persons[n:] + persons[:n] for n in range(len(persons))]
            found = await asyncio.gather(*(keys.for_writing(some) for some in orders * 4))
            named = {
                (person.person_id, key_id)
                for some, made in zip(orders * 4, found, strict=True)
                for person, (key_id, _) in zip(some, made, strict=True)
            }
            assert len(named) == len(persons)
            assert len(await searched(keys, "Ada")) == len(persons)

    asyncio.run(work())
    assert len(rows(url, "person_keys")) == len(persons)


def test_a_destroyed_key_is_gone_and_the_person_comes_back_as_another(url: str) -> None:
    async def work() -> None:
        async with keys_of(url) as keys:
            [(ada, cipher), (bob, _)] = await keys.for_writing([ADA, BOB])
            token = cipher.token("name", "Ada")
            await keys.destroy(uuid4(), ada)
            assert await keys.known(ORGANISATION, [ada]) == {ada: False}, "another organisation's"
            await keys.destroy(ORGANISATION, ada)
            await keys.destroy(ORGANISATION, ada)
            [gone] = (await keys.for_reading(ORGANISATION, [ada])).values()
            assert gone.cipher is None
            assert gone.erased_at is not None
            assert await keys.known(ORGANISATION, [ada, bob]) == {ada: True, bob: False}
            assert await searched(keys, "Ada") == []
            assert await searched(keys, "P-ADA") == []
            assert await searched(keys, "Bob") == [bob]
            [(new, another)] = await keys.for_writing([ADA])
            assert new != ada
            with pytest.raises(WrongKey):
                another.value("name", token)

    asyncio.run(work())


def test_an_erasure_in_between_leaves_nothing_in_the_index(url: str) -> None:
    """Whichever comes first: what writes waits for the erasure, and the erasure for it."""

    async def work() -> None:
        async with keys_of(url) as keys:
            for _ in range(25):
                [(ada, _)] = await keys.for_writing([ADA])
                more = Person(ORGANISATION, "P-ADA", {"phone": "+49 30 1234"})
                _, [(written, _)] = await asyncio.gather(
                    keys.destroy(ORGANISATION, ada), keys.for_writing([more])
                )
                assert await searched(keys, "+49 30 1234") == ([] if written == ada else [written])
                await keys.destroy(ORGANISATION, written)

    asyncio.run(work())
    assert rows(url, "person_search") == []


def test_an_erasure_waits_for_who_writes_and_takes_that_too(url: str) -> None:
    async def work() -> None:
        async with keys_of(url) as keys:
            [(ada, _)] = await keys.for_writing([ADA])
            async with await psycopg.AsyncConnection.connect(url) as writer:
                # What person_keys_for does, stopped in the middle.
                await writer.execute("SELECT FROM person_keys WHERE key_id = %s FOR SHARE", (ada,))
                erasure = asyncio.create_task(keys.destroy(ORGANISATION, ada))
                await asyncio.sleep(0.3)
                assert not erasure.done()
                await writer.execute(
                    "INSERT INTO person_search VALUES (%s, 'name', 'late', %s)",
                    (ORGANISATION, ada),
                )
                await writer.commit()
                await erasure

    asyncio.run(work())
    assert rows(url, "person_search") == []


def test_with_the_wrong_master_key_nothing_is_written_and_nothing_read(url: str) -> None:
    async def right() -> UUID:
        async with keys_of(url) as keys:
            [(ada, _)] = await keys.for_writing([ADA])
            return ada

    ada = asyncio.run(right())
    before = [rows(url, name) for name in ("person_secret", "person_keys", "person_search")]

    async def wrong() -> None:
        async with keys_of(url, OTHER) as keys:
            for attempt in (
                keys.for_writing([BOB]),
                keys.digest(b"x"),
                searched(keys, "Ada"),
                keys.for_reading(ORGANISATION, [ada]),
            ):
                with pytest.raises(WrongMasterKey, match="CHAINLYTICS_MASTER_KEY"):
                    await attempt

    asyncio.run(wrong())
    assert before == [rows(url, name) for name in ("person_secret", "person_keys", "person_search")]


def test_the_master_key_is_replaced_and_everything_else_stays(url: str) -> None:
    async def work() -> None:
        async with keys_of(url) as keys, keys_of(url, OTHER) as after:
            [(ada, cipher), (bob, _)] = await keys.for_writing([ADA, BOB])
            token, digest = cipher.token("name", "Ada"), await keys.digest(b"words")
            await keys.destroy(ORGANISATION, bob)
            told: list[int] = []
            with pytest.raises(WrongMasterKey):
                rewrap(url, b"x" * 32, OTHER)
            assert await searched(keys, "Ada") == [ada], "a failed rotation changes nothing"
            assert rewrap(url, MASTER, OTHER, told.append) == 1
            assert told == [1]
            assert rewrap(url, MASTER, OTHER) == 0, "done again, there is nothing to do"
            [key] = (await after.for_reading(ORGANISATION, [ada])).values()
            assert key.cipher is not None
            assert key.cipher.value("name", token) == "Ada"
            assert await searched(after, "Ada") == [ada]
            assert await after.digest(b"words") == digest
            [(same, _)] = await after.for_writing([ADA])
            assert same == ada
            # Who still has the old one may not wrap by it.
            with pytest.raises(WrongMasterKey):
                await keys.for_writing([Person(ORGANISATION, "P-NEW", {})])
            with pytest.raises(WrongMasterKey):
                await keys.for_reading(ORGANISATION, [ada])

    asyncio.run(work())


async def until_blocked(url: str) -> None:
    """Until somebody waits for a lock."""
    waits = """SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'"""
    for _ in range(1000):
        with psycopg.connect(url) as connection:
            if connection.execute(waits).fetchone() != (0,):
                return
        await asyncio.sleep(0.01)
    raise TimeoutError("nobody waits for a lock")


def test_an_erasure_while_keys_are_wrapped_anew_is_not_undone(url: str) -> None:
    """The rotation has read the key, the erasure takes it before it is written."""
    erasing = "UPDATE person_keys SET wrapped = NULL, erased_at = now() WHERE key_id = %s"

    async def work() -> None:
        async with keys_of(url) as keys, keys_of(url, OTHER) as after:
            [(ada, _), (bob, _)] = await keys.for_writing([ADA, BOB])
            async with await psycopg.AsyncConnection.connect(url) as eraser:
                await eraser.execute(erasing, (ada,))
                wrapping = asyncio.create_task(asyncio.to_thread(rewrap, url, MASTER, OTHER))
                await until_blocked(url)
                await eraser.commit()
            assert await wrapping == 1, "who was erased is not counted"
            assert await after.known(ORGANISATION, [ada, bob]) == {ada: True, bob: False}
            assert await searched(after, "Bob") == [bob]

    asyncio.run(work())


def test_a_key_that_nobody_claims_any_more_is_gone(url: str) -> None:
    stream = uuid4()
    claims = [Claim(uuid4(), stream) for _ in range(3)]

    async def work() -> None:
        async with keys_of(url) as keys:
            [(ada, _)] = await keys.for_writing([replace(ADA, claim=claims[0])])
            for one in claims[1:]:
                assert (await keys.for_writing([replace(ADA, claim=one)]))[0][0] == ada
            assert await searched(keys, "Ada") == [], "nothing of her is stored"
            await keys.release([claims[0].id, uuid4()])
            await keys.release([claims[0].id])
            assert await keys.known(ORGANISATION, [ada]) == {ada: False}
            # Two end at once.
            await asyncio.gather(*(keys.release([one.id]) for one in claims[1:]))
            assert await keys.known(ORGANISATION, [ada]) == {}
            [(bob, _)] = await keys.for_writing([BOB])
            [(same, _)] = await keys.for_writing([replace(BOB, claim=claims[0])])
            await keys.release([claims[0].id])
            assert await searched(keys, "Bob") == [bob] == [same], "a key without claims stays"

    asyncio.run(work())
    assert rows(url, "person_claims") == []
    assert len(rows(url, "person_search")) == 2


def test_a_claim_given_up_does_not_take_the_key_from_who_comes_at_that_moment(url: str) -> None:
    async def work() -> None:
        async with keys_of(url) as keys:
            for _ in range(25):
                first, second = (Claim(uuid4(), uuid4()) for _ in range(2))
                await keys.for_writing([replace(ADA, claim=first)])
                _, [(key_id, _)] = await asyncio.gather(
                    keys.release([first.id]), keys.for_writing([replace(ADA, claim=second)])
                )
                assert await keys.known(ORGANISATION, [key_id]) == {key_id: False}
                await keys.release([second.id])
                assert await keys.known(ORGANISATION, [key_id]) == {}

    asyncio.run(work())
    assert rows(url, "person_search") == rows(url, "person_keys") == []


def test_nothing_is_wrapped_where_there_is_nothing(url: str) -> None:
    assert rewrap(url, MASTER, OTHER) == 0


def test_a_database_that_was_emptied_gets_a_secret_of_its_own(url: str) -> None:
    async def work() -> None:
        async with keys_of(url) as keys:
            await keys.for_writing([ADA])
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("TRUNCATE person_secret, person_keys, person_search")
            [(ada, _)] = await keys.for_writing([ADA])
            assert await searched(keys, "Ada") == [ada]

    asyncio.run(work())


def test_without_a_master_key_personal_data_is_refused(url: str) -> None:
    recipient = Recipient(person_id="P-1", name="Ada")

    async def work() -> None:
        async with company(url) as app:
            command = PLACE.model_copy(update={"recipient": recipient})
            with pytest.raises(Refused, match=r"person\.cannot_be_encrypted"):
                await app.bus.execute(command, context())
            one, two = await app.bus.execute_many([(command, context()), (PLACE, context())])
            assert isinstance(one, Refused)
            assert one.code == "person.cannot_be_encrypted"
            assert not isinstance(two, Exception)

            with pytest.raises(Refused, match=r"person\.cannot_be_encrypted"):
                await searched(app.people.keys, "Ada")

    asyncio.run(work())
    assert rows(url, "person_keys") == []


def test_who_was_never_known_is_not_erased(url: str) -> None:
    async def work() -> None:
        async with company(url) as app:
            with pytest.raises(Refused) as refused:
                await erase(app.bus, app.people.keys, UUID(ANA), Reason.REQUESTED, context())
            assert refused.value.code == "person.unknown"
            assert (await app.log.streams([stream_id(ORGANISATION, f"people/{ANA}")])) == {
                stream_id(ORGANISATION, f"people/{ANA}"): []
            }

    asyncio.run(work())


# the master key


def test_a_master_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    key = settings.personal_key()
    assert len(key) == 32
    assert Settings(home=tmp_path / "home").personal_key() == key
    [file] = (tmp_path / "home").iterdir()
    assert file.name == "master.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("short")
    with pytest.raises(ValueError, match=r"master\.key: must be 32 bytes"):
        settings.personal_key()


def test_a_master_key_of_the_settings_is_32_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINLYTICS_MASTER_KEY", b64encode(MASTER).decode())
    assert Settings().personal_key() == MASTER
    assert b64encode(MASTER).decode() not in repr(Settings())
    for wrong in ("c2hvcnQ=", "not base64!", "x" * 44):
        monkeypatch.setenv("CHAINLYTICS_MASTER_KEY", wrong)
        with pytest.raises(ValidationError):
            Settings()
