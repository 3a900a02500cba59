"""Personal data from end to end: encrypted, found, masked, erased; everything else unchanged."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI

from domain.access import Role
from domain.people import ErasePerson
from eventstore.seals.leaves import leaf_hash, row_bytes
from projections.catalogue import TABLES
from tests.persons import MASTER, places_of, query, wired
from tests.serving import (
    Served,
    assert_problem,
    decided,
    get,
    order,
    post,
    serving_here,
    until,
)
from tests.world import ORGANISATION, a_year, company, context, deployed_model

ADA = {
    "person_id": "CRM-4711",
    "name": "Ada Xylophonia Lovelace",
    "email": "ada.xylophonia@example.org",
    "phone": "+49 30 98765432",
    "street": "Xylophonstrasse 17",
    "postcode": "10999",
    "city": "Xylophonstadt",
    "country": "DE",
}
#: What must be nowhere; too telling to stand in an id or a hash by chance.
PLAIN = [ADA[name] for name in ("person_id", "name", "email", "phone", "street", "city")]
PLAIN += ["Xylophon", "xylophon", "98765432", "CRM-4711", "crm-4711"]
PLACED_AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def filled(database: str) -> str:
    """A made year with a deployed model."""

    async def fill() -> None:
        async with company(database) as app:
            await a_year(app, 600)
            await deployed_model(app)
            await app.consumer.catch_up()

    asyncio.run(fill())
    return database


@pytest.fixture(scope="module")
def served(
    filled: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, FastAPI]]:
    master = {"CHAINLYTICS_MASTER_KEY": b64encode(MASTER).decode()}
    with (
        patch.dict(os.environ, master),
        serving_here(filled, tmp_path_factory.mktemp("home")) as it,
    ):
        yield it


@pytest.fixture
def boss(served: tuple[Served, FastAPI]) -> Iterator[httpx.Client]:
    with served[0].client(Role.ADMIN, actor="boss") as client:
        yield client


@pytest.fixture
def viewer(served: tuple[Served, FastAPI]) -> Iterator[httpx.Client]:
    with served[0].client(Role.VIEWER, actor="vic") as client:
        yield client


def leaves(url: str) -> list[bytes]:
    async def work() -> list[bytes]:
        async with wired(url) as app:
            return [leaf_hash(row_bytes(one)) for one in await app.log.after(0, 10**6)]

    return asyncio.run(work())


def looks(url: str) -> list[Any]:
    return query(url, "SELECT actor, roles, person, fields, why FROM personal_access ORDER BY id")


def found(client: httpx.Client, search: str, **more: Any) -> list[dict[str, Any]]:
    why = more.pop("why", None)
    answer = client.post("/people/search", json={"search": search, "why": why}, params=more)
    assert answer.status_code == 200, answer.text
    assert answer.json()["more"] is False
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_a_person_from_the_first_order_to_the_erasure(
    filled: str,
    served: tuple[Served, FastAPI],
    boss: httpx.Client,
    viewer: httpx.Client,
    capfd: pytest.CaptureFixture[str],
) -> None:
    body = order("O-ADA", recipient=ADA)
    placed = post(boss, "/orders", body, key="ada")
    position = placed["position"]
    shown = get(boss, "/orders/O-ADA", min_position=position)
    person = shown["person"]
    assert str(UUID(person)) == person
    assert shown["person_erased"] is False
    assert "recipient" not in shown["placed"]
    assert [one["order_id"] for one in get(boss, "/orders", person=person)["items"]] == ["O-ADA"]
    assert places_of(filled, PLAIN) == set()

    whole = ADA.keys() - {"person_id"}
    # Found by each of them, shown whole, and each look is written down.
    searches = [
        "CRM-4711",
        " ada  XYLOPHONIA lovelace",
        "Ada.Xylophonia@example.org",
        "+493098765432",
    ]
    for search in searches:
        [one] = found(boss, search, min_position=position, why="ticket 7")
        assert all(one[name] == ADA[name] for name in whole)
        assert (one["person"], one["orders"], one["masked"]) == (person, 1, False)
    assert found(boss, "Ada") == []
    written = looks(filled)
    assert len(written) == len(searches)
    assert {(actor, who, why) for actor, _, who, _, why in written} == {
        ("boss", person, "ticket 7")
    }
    # The id is told only to who searched by it, by showing whose it is.
    told_fields = [set(fields) for _, _, _, fields, _ in written]
    assert told_fields == [whole | {"person_id"}, whole, whole, whole]
    assert all(roles == ["admin"] for _, roles, *_ in written)

    # Masked for who may not see it; searching could confirm a guess, so it is not allowed.
    answer = viewer.post("/people/search", json={"search": "CRM-4711"})
    assert_problem(answer, 403, "forbidden")
    assert boss.get("/people", params={"search": "CRM-4711"}).status_code in (404, 405)
    masked = get(viewer, f"/people/{person}")
    assert (masked["name"], masked["email"], masked["city"]) == ("A•••", "•••@•••", "•••")
    assert masked["masked"] is True
    assert looks(filled) == written
    with served[0].client(Role.ADMIN, organisation_id=uuid4()) as other:
        assert_problem(other.get(f"/people/{person}"), 404, "not-found")
        assert found(other, "CRM-4711") == []
        answer = other.post(f"/people/{person}/erase", json={})
        assert_problem(answer, 404, "person.unknown")

    # Nobody sees more on the trail and in the stream.
    told = "".join(
        viewer.get(path).text
        for path in ("/orders/O-ADA", "/orders/O-ADA/timeline", f"/orders?person={person}")
    )
    told += boss.get("/audit", params={"area": "orders", "limit": 500}).text
    with boss.stream("GET", "/stream", params={"after": position - 1}) as stream:
        for line in stream.iter_lines():
            told += line
            if "OrderPlaced" in line and "p1." in told:
                break
    assert not any(word in told for word in PLAIN)

    # A decision on it.
    decision = post(boss, "/decisions", {"subject_id": "O-ADA"})["id"]
    assert decided(boss, decision)["made"] is not None
    replayed = boss.post(f"/decisions/{decision}/replay").json()
    assert (replayed["same"], replayed["erased"]) == (True, [])

    # What goes wrong says nothing of the person either.
    wrong = [
        boss.post("/orders", json=body, headers={"Idempotency-Key": "another"}),
        boss.post("/orders/O-ADA/ship", json={}),
        boss.post("/orders", json=body | {"promised_at": "2000-01-01T00:00:00Z"}),
        boss.post("/orders", json=body | {"recipient": ADA | {"country": "Xylophonien"}}),
        boss.post("/orders", json=body | {"recipient": ADA | {"e_mail": ADA["email"]}}),
        boss.post("/orders", json=body | {"recipient": ADA["name"]}),
        boss.post("/people/search", json={"search": PLAIN[1] * 20}),
        viewer.post("/orders", json=body),
    ]
    assert [answer.status_code for answer in wrong] == [409, 409, 422, 422, 422, 422, 422, 403]
    assert wrong[3].json()["errors"][0]["field"] == "body.recipient.country"
    kept = [answer.text for answer in wrong]
    assert not any(word in text for word in PLAIN for text in kept)

    # Erased by an admin only.
    with served[0].client(Role.SERVICE) as service:
        assert_problem(service.post(f"/people/{person}/erase", json={}), 403, "forbidden")
    assert_problem(boss.post(f"/people/{uuid4()}/erase", json={}), 404, "person.unknown")
    assert boss.post(f"/people/{person}/erase", json={"reason": "Ada asked"}).status_code == 422
    before = leaves(filled)
    gone = post(boss, f"/people/{person}/erase", {"reason": "requested"})
    assert gone["stream"] == f"people/{person}"
    again = post(boss, f"/people/{person}/erase", {"reason": "mistake"})
    assert (again["position"], again["repeated"]) == (gone["position"], True)

    assert [found(boss, search) for search in searches] == [[]] * 4
    empty = get(boss, f"/people/{person}", min_position=gone["position"])
    assert empty["erased_at"] is not None
    assert {empty[name] for name in whole} == {None}
    assert empty["orders"] == 0
    then = get(boss, f"/people/{person}", as_of=position)
    assert (then["orders"], then["name"], then["erased_at"]) == (1, None, empty["erased_at"])
    assert get(boss, "/orders/O-ADA")["person_erased"] is True
    assert get(boss, "/orders/O-ADA", as_of=position)["person_erased"] is True
    assert [one["order_id"] for one in get(boss, "/orders", person=person)["items"]] == ["O-ADA"]
    assert len(looks(filled)) == len(written), "there was nothing to be given out"

    # The log is what it was, and a tombstone; the decision is what it was, and says so.
    after = leaves(filled)
    assert after[: len(before)] == before
    [[state]] = query(
        filled,
        "SELECT convert_from(state, 'UTF8') FROM events WHERE notification_id = %s",
        gone["position"],
    )
    assert person in state
    replayed = boss.post(f"/decisions/{decision}/replay").json()
    assert replayed["same"] is True
    [words] = replayed["erased"]
    assert words == (
        "recipient (name, email, phone, street, postcode, city, country) "
        f"of person {person} at position {position}"
    )

    # A retry is still answered, and makes nothing anew.
    [[keys]] = query(filled, "SELECT count(*) FROM person_keys")
    retried = post(boss, "/orders", body, key="ada")
    assert (retried["position"], retried["repeated"]) == (position, True)
    changed = body | {"recipient": ADA | {"name": "Eve"}}
    answer = boss.post("/orders", json=changed, headers={"Idempotency-Key": "ada"})
    assert_problem(answer, 409, "idempotency-key-reused")
    assert query(filled, "SELECT count(*) FROM person_keys") == [(keys,)]
    assert query(filled, "SELECT FROM person_search") == []
    assert query(filled, "SELECT wrapped FROM person_keys") == [(None,)]

    # Nothing is left anywhere: no word of it, and of the tokens what the log has.
    assert places_of(filled, PLAIN) == set()
    # Tiles are hashes of a year of events: three bytes in a row are among them by chance.
    assert places_of(filled, ["p1."]) - {"seal_tiles"} == {"events"}

    # Who comes back is somebody new.
    later = post(boss, "/orders", order("O-ADA-2", recipient=ADA))
    new = get(boss, "/orders/O-ADA-2", min_position=later["position"])
    assert new["person"] != person
    assert new["person_erased"] is False
    [one] = found(boss, "CRM-4711", min_position=later["position"])
    assert (one["person"], one["orders"]) == (new["person"], 1)

    output = capfd.readouterr()
    assert not any(word in output.out + output.err for word in PLAIN)


def test_a_rebuild_says_the_same_after_erasures(
    filled: str, served: tuple[Served, FastAPI], boss: httpx.Client
) -> None:
    placed = [
        post(boss, "/orders", order(f"O-R-{n}", recipient={"person_id": f"R-{n}", "name": f"N{n}"}))
        for n in range(4)
    ]
    names = {
        one["id"]: get(boss, f"/orders/{one['id']}", min_position=one["position"]) for one in placed
    }
    for n in (0, 2):
        post(boss, f"/people/{names[f'O-R-{n}']['person']}/erase", {})
    last = post(boss, "/orders", order("O-R-9", recipient={"person_id": "R-1", "name": "N1 again"}))
    found(boss, "R-1", min_position=last["position"])

    def tables() -> dict[str, list[Any]]:
        return {
            name: query(
                filled,
                f"SELECT t::text FROM read_models.{name} t WHERE organisation_id = %s ORDER BY 1",
                ORGANISATION,
            )
            for name in ("people", "order_summary")
        }

    live = tables()
    mine = [row for (row,) in live["people"]]
    assert sum(names[f"O-R-{n}"]["person"] in row for row in mine for n in (0, 2)) == 0
    assert sum(names[f"O-R-{n}"]["person"] in row for row in mine for n in (1, 3)) == 2
    until(lambda: True if found(boss, "R-1")[0]["orders"] == 2 else None)

    async def rebuild() -> None:
        async with wired(filled) as app:
            for name in ("people", "order_summary"):
                await app.projector.rebuild(TABLES[name])

    asyncio.run(rebuild())
    assert tables() == live


def test_an_erasure_that_was_cut_off_is_carried_out(
    filled: str, served: tuple[Served, FastAPI], boss: httpx.Client
) -> None:
    """The process died between the event and the key: the worker destroys it."""
    placed = post(
        boss, "/orders", order("O-CUT", recipient={"person_id": "CUT", "name": "Cut Off"})
    )
    person = get(boss, "/orders/O-CUT", min_position=placed["position"])["person"]

    async def event_only() -> None:
        async with wired(filled) as app:
            command = ErasePerson(person=person, erased_at=PLACED_AT)
            await app.bus.execute(command, context("boss"))

    asyncio.run(event_only())

    def destroyed() -> bool | None:
        [[wrapped]] = query(
            filled, "SELECT wrapped FROM person_keys WHERE key_id = %s", UUID(person)
        )
        return True if wrapped is None else None

    until(destroyed, 20)
    assert found(boss, "CUT") == []
    assert query(filled, "SELECT FROM person_search WHERE key_id = %s", UUID(person)) == []
