"""People: found by what they told, shown to who may see personal data, masked to all others.

This is the one place where tokens are opened for a reader. Nothing is given out before it is
written down who gets it (``eventstore/trail.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import Field

from domain.access import PERSONAL, Role
from domain.people import FIELDS, SEARCHED
from eventstore.persons.cipher import PersonCipher, WrongKey
from eventstore.persons.keys import PersonKey, PersonKeys
from eventstore.trail import Trail
from readmodels.database import ReadModels, Row

_TOKENS = ", ".join(FIELDS)
_ALL = ("person_id", *FIELDS)
_PEOPLE = f"""SELECT person, {_TOKENS}, orders, first_placed_at, last_placed_at
    FROM read_models.people
    WHERE organisation_id = %(organisation_id)s
      AND (%(person)s::text IS NULL OR person = %(person)s)
      AND (%(persons)s::text[] IS NULL OR person = ANY(%(persons)s))"""

#: What stands for what a reader may not see.
MASK = "•••"
#: The most persons that a search answers.
MOST = 50
_NOTHING: Mapping[str, Sequence[str]] = MappingProxyType({})


class PersonView(Row):
    """A person as a reader may see them. ``masked``: the values are not the person's;
    ``erased_at``: since then nobody can see any."""

    person: str = Field(description="The pseudonym, as orders have it.")
    name: str | None
    email: str | None
    phone: str | None
    street: str | None
    postcode: str | None
    city: str | None
    country: str | None
    orders: int
    first_placed_at: datetime | None
    last_placed_at: datetime | None
    masked: bool
    erased_at: datetime | None


class Found(NamedTuple):
    """What a search found. ``more``: there are more than these, to be found by something that
    fewer have."""

    items: list[PersonView]
    more: bool


class Tokens(Row):
    """A person's values as they are stored."""

    person: str
    name: str | None = None
    email: str | None = None
    phone: str | None = None
    street: str | None = None
    postcode: str | None = None
    city: str | None = None
    country: str | None = None
    orders: int = 0
    first_placed_at: datetime | None = None
    last_placed_at: datetime | None = None

    @property
    def tokens(self) -> Mapping[str, str]:
        """The tokens by field."""
        return {name: token for name in FIELDS if (token := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class Reader:
    """Who asks, and why: both are written down where personal data is given out."""

    organisation_id: UUID
    actor: str
    roles: Collection[Role]
    why: str
    correlation_id: UUID | None = None

    @property
    def sees_personal_data(self) -> bool:
        """Whether one of the roles may see it."""
        return not PERSONAL.isdisjoint(self.roles)


class People:
    """Shows persons.

    Args:
        keys: open tokens.
        trail: is told before anything is shown.
    """

    def __init__(self, keys: PersonKeys, trail: Trail) -> None:
        self.keys = keys
        self._trail = trail

    async def find(self, read: ReadModels, reader: Reader, search: str) -> Found:
        """The persons with exactly this id, name, email or phone number, at most ``MOST``; nobody
        who was erased. Persons are found from their first event on, their values are there with
        the read model.

        Raises:
            WrongMasterKey, LogUnavailable: as ``PersonKeys``.
        """
        found = await self.keys.find(reader.organisation_id, SEARCHED, search, MOST + 1)
        if not found:
            return Found([], more=False)
        told = {str(key_id): fields for key_id, fields in list(found.items())[:MOST]}
        persons = list(told)
        rows = await read.rows(Tokens, _PEOPLE, person=None, persons=persons)
        stored = {row.person: row for row in rows}
        views = await self.shown(
            reader, [stored.get(person) or Tokens(person=person) for person in persons], told
        )
        return Found(views, more=len(found) > MOST)

    async def show(self, read: ReadModels, reader: Reader, person: UUID) -> PersonView | None:
        """One person, erased ones too; None: the organisation never had such a person.

        Raises:
            WrongMasterKey, LogUnavailable: as ``PersonKeys``.
        """
        if not await self.keys.known(reader.organisation_id, [person]):
            return None
        stored = await read.one(Tokens, _PEOPLE, person=str(person), persons=None)
        [shown] = await self.shown(reader, [stored or Tokens(person=str(person))])
        return shown

    async def shown(
        self,
        reader: Reader,
        stored: Sequence[Tokens],
        told: Mapping[str, Sequence[str]] = _NOTHING,
    ) -> list[PersonView]:
        """Persons as the reader may see them, from their tokens. ``told``: by person, the fields of
        which the reader learns the value by seeing who has it.

        Raises:
            WrongMasterKey, LogUnavailable: as ``PersonKeys``.
        """
        ids = [UUID(one.person) for one in stored]
        keys = await self.keys.for_reading(reader.organisation_id, ids)
        views = []
        for one, id_ in zip(stored, ids, strict=True):
            key = keys.get(id_)
            values = _opened(key, one.tokens)
            fields = {*told.get(one.person, ()), *(values if reader.sees_personal_data else ())}
            if fields:
                await self._trail.looked_at(
                    reader.organisation_id,
                    reader.actor,
                    [role.value for role in reader.roles],
                    one.person,
                    sorted(fields, key=_ALL.index),
                    reader.why,
                    reader.correlation_id,
                )
            views.append(_view(one, key, values, masked=not reader.sees_personal_data))
        return views


def _opened(key: PersonKey | None, tokens: Mapping[str, str]) -> dict[str, str]:
    """What tokens hold; nothing once the key is gone."""
    if key is None or key.cipher is None:
        return {}
    return {
        name: value for name, token in tokens.items() if (value := _value(key.cipher, name, token))
    }


def _value(cipher: PersonCipher, name: str, token: str) -> str | None:
    try:
        return cipher.value(name, token)
    except WrongKey:
        return None  # not of this key: as good as erased


def _view(
    stored: Tokens, key: PersonKey | None, values: Mapping[str, str], *, masked: bool
) -> PersonView:
    shown: dict[str, Any] = {
        name: _masked(name, values[name]) if masked and name in values else values.get(name)
        for name in FIELDS
    }
    return PersonView(
        person=stored.person,
        **shown,
        orders=stored.orders,
        first_placed_at=stored.first_placed_at,
        last_placed_at=stored.last_placed_at,
        masked=masked,
        erased_at=None if key is None else key.erased_at,
    )


def _masked(name: str, value: str) -> str:
    """What stands for a value: of a name of several letters the first one, of all others only that
    there is one."""
    match name:
        case "name" if len(value.strip()) > 1:
            return value.strip()[0] + MASK
        case "email":
            return f"{MASK}@{MASK}"
    return MASK
