"""Erases persons: first the tombstone event, then the key. A crash between the two is healed, and
what was erased can be told to a database that was restored from before it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection

from commands.bus import Bus
from commands.context import Context, command_id
from domain import catalogue
from domain.errors import Refused
from domain.people import ErasePerson, PersonErased, Reason
from eventstore import Log, Receipt
from eventstore.archive.cold import Cold
from eventstore.log import Connection, StoredEvent
from eventstore.persons.claims import give_up_old, settle
from eventstore.persons.keys import PersonKeys, destroy
from eventstore.subscription import read_page

_TOPIC = catalogue.TOPICS[PersonErased]
_DONE_TO = "SELECT position FROM person_erasures"
_DONE = """INSERT INTO person_erasures AS e (position) VALUES (%s)
    ON CONFLICT (only_row) DO UPDATE SET position = greatest(e.position, excluded.position)"""
#: Positions looked at before it is written down how far that is.
_STRETCH = 10_000
_FAR = 100_000  # positions, where nothing is written down
#: Longer than any command is under way.
UNDER_WAY = timedelta(hours=1)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure on the log: where, whose by pseudonym, when, and why."""

    position: int
    person: UUID
    at: datetime
    reason: Reason


class ErasedAgain(NamedTuple):
    """Of a list of erasures: persons erased now, erased before, and not known here."""

    erased: int
    before: int
    unknown: int


async def erase(
    bus: Bus, keys: PersonKeys, person: UUID, reason: Reason, context: Context
) -> Receipt:
    """Erase a person: on return the tombstone is on the log, and the key and all that the person
    could be found by are gone. Done again, it answers the first time's receipt.

    Args:
        context: who does it; its command id is set to one that follows from the pseudonym.

    Raises:
        Forbidden: the roles do not allow it.
        Refused: the organisation never had such a person, or the erasure is so long ago that the
            command is forgotten.
        LogUnavailable: it may be half done; sent again, or by the next look of ``keep_erased``, it
            is done whole.
    """
    own = context.organisation_id
    command = ErasePerson(person=str(person), reason=reason, erased_at=datetime.now(UTC))
    bus.allows(command, context)
    if person not in await keys.known(own, [person]):
        raise Refused("person.unknown", person=person)
    words = f"erase person {person}"
    once = replace(
        context,
        command_id=command_id(own, words),
        digest=hashlib.sha256(words.encode()).digest(),  # the same whatever time and reason
    )
    try:
        receipt = await bus.execute(command, once)
    except Refused as refusal:
        if refusal.code == "person.already_erased":
            await keys.destroy(own, person)
        raise
    await keys.destroy(own, person)
    return receipt


async def erasures(log: Log, organisation_id: UUID) -> list[Erasure]:
    """All erasures of an organisation, in log order: what to keep outside of the database.

    Raises:
        LogUnavailable: the database gave no connection in time.
        ArchiveUnavailable: a file of the archive is needed and cannot be read.
    """
    found: list[Erasure] = []
    cold, position, more = Cold(), 0, True
    async with log.connection() as connection:
        while more:
            page = await read_page(
                connection, position, 1000, topics=[_TOPIC], window=_FAR, cold=cold
            )
            found += [
                Erasure(stored.position, person, event.erased_at, Reason(event.reason))
                for stored in page.events
                if stored.organisation_id == organisation_id
                for event, person in _tombstone(stored)
            ]
            position, more = page.position, page.more
    return found


async def erase_again(
    bus: Bus, keys: PersonKeys, erased: Sequence[Erasure], context: Context
) -> ErasedAgain:
    """Erase all of a list whom the database has, as ``erase``; done again, it changes nothing."""
    known = await keys.known(context.organisation_id, [one.person for one in erased])
    now = before = 0
    for one in erased:
        if one.person not in known:
            continue
        try:
            receipt = await erase(bus, keys, one.person, one.reason, context)
        except Refused as refusal:
            if refusal.code != "person.already_erased":
                raise
            before += 1
        else:
            before += receipt.repeated
            now += not receipt.repeated
    return ErasedAgain(now, before, len(erased) - now - before)


def _tombstone(stored: StoredEvent) -> list[tuple[PersonErased, UUID]]:
    """The event and whose it is; nothing where no key can be of that name, which is logged."""
    event = catalogue.decode(stored.topic, stored.state)
    assert isinstance(event, PersonErased)
    try:
        return [(event, UUID(event.person))]
    except ValueError:
        _log.error("an erasure names no person", position=stored.position)
        return []


async def carry_out(connection: Connection) -> bool:
    """Destroy the keys of persons whose erasure is on the log and was not carried out yet; whether
    there may be more. What was looked at is written down in the same transaction."""
    async with connection.transaction():
        row = await (await connection.execute(_DONE_TO)).fetchone()
        done = 0 if row is None else int(row[0])
        page = await read_page(connection, done, 1000, topics=[_TOPIC], window=_STRETCH)
        found = [
            (person, stored.organisation_id)
            for stored in page.events
            for _, person in _tombstone(stored)
        ]
        # In the order in which others lock keys.
        for person, organisation_id in sorted(found):
            await destroy(connection, organisation_id, person)
        if page.events or page.position - done >= _STRETCH:
            await connection.execute(_DONE, (page.position,))
    return page.more and page.position > done


async def keep_erased(url: str, *, every: timedelta) -> None:
    """Carry erasures out, for ever: those whose process died between event and key, those sent
    without ``erase``, and those in a log that was restored from a backup. Keys that were made for
    commands that died on their way go too."""
    while True:
        try:
            async with await AsyncConnection.connect(
                url, autocommit=True, connect_timeout=5
            ) as connection:
                while True:
                    while await carry_out(connection):
                        pass
                    while await settle(connection):
                        pass
                    await give_up_old(connection, UNDER_WAY)
                    await asyncio.sleep(every.total_seconds())
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            _log.warning("erasing later", error=str(error).strip())
        except Exception:
            _log.exception("erasures not carried out, trying again")
        await asyncio.sleep(every.total_seconds())
