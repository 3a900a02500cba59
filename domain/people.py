"""People: what is personal, how fields say so, and the end of a person's data.

Rules never see personal data. Before a command with such fields reaches its rule, each person
in it is replaced by a pseudonym and each personal value by a token that only the person's key opens
(``commands/personal.py``). Events, states and tables hold these; erasing a person destroys the key.

A customer's id and an actor's name are accounts, never a person's name; persons are recipients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, Field

from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event, Id, Text, UtcTime, Value

# markers


@dataclass(frozen=True, slots=True)
class Personal:
    """Marks a field whose value is a person's: a token wherever it is stored."""


@dataclass(frozen=True, slots=True)
class OfPerson:
    """Marks the field that says whose the personal values beside it are."""


class PersonalPart(NamedTuple):
    """Where a command holds a person: the fields that lead there, the one that says who it is, and
    those that are personal."""

    path: tuple[str, ...]
    person: str
    fields: tuple[str, ...]


@cache
def personal_parts(kind: type[Value]) -> tuple[PersonalPart, ...]:
    """The persons in a command, as its class declares them.

    Raises:
        TypeError: personal fields that are no text, without one field beside them that says whose
            they are, or within a list or a map, where nobody would find them.
    """
    fields = kind.model_fields
    own = [name for name in fields if _marked(kind, name, Personal)]
    whose = [name for name in fields if _marked(kind, name, OfPerson)]
    if (own or whose) and len(whose) != 1:
        raise TypeError(f"{kind.__name__}: personal fields need one field that says whose they are")
    for name in (*own, *whose):
        if _kinds(fields[name].annotation) != [str]:
            raise TypeError(f"{kind.__name__}.{name}: what is personal is one text")
    parts = [PersonalPart((), whose[0], tuple(own))] if own else []
    for name, info in fields.items():
        match _kinds(info.annotation):
            case [type() as inner] if issubclass(inner, Value):
                found = personal_parts(inner)
                parts += [part._replace(path=(name, *part.path)) for part in found]
            case kinds if any(personal_fields(one) for one in _values_within(kinds)):
                raise TypeError(f"{kind.__name__}.{name}: personal fields in a list are not found")
    return tuple(parts)


@cache
def personal_fields(kind: type[BaseModel]) -> frozenset[str]:
    """The fields of an event or a value that are about a person: pseudonyms, tokens, and what
    holds such."""
    return frozenset(
        name
        for name, info in kind.model_fields.items()
        if _marked(kind, name, Personal, OfPerson)
        or any(personal_fields(one) for one in _values_within([info.annotation]))
    )


@cache
def token_fields(kind: type[BaseModel]) -> tuple[str, ...]:
    """The fields of an event that hold tokens."""
    about = personal_fields(kind)
    return tuple(
        name for name in kind.model_fields if name in about and not _marked(kind, name, OfPerson)
    )


@cache
def person_field(kind: type[BaseModel]) -> str | None:
    """The field of an event that says whose tokens it holds; None where it holds none."""
    whose = [name for name in kind.model_fields if _marked(kind, name, OfPerson)]
    return whose[0] if whose else None


def is_about_person(parts: Sequence[PersonalPart], place: Sequence[int | str]) -> bool:
    """Whether a place in a command, as a validation error names it, is one of a person's fields or
    what holds them; fields that are not known there count, for what was meant is not known."""
    return any(
        tuple(place[: len(part.path)]) == part.path
        if part.path
        else place[:1] and place[0] in (part.person, *part.fields)
        for part in parts
    )


def _marked(kind: type[BaseModel], name: str, *markers: type) -> bool:
    """Whether a field has a marker, on itself or on a part of its type."""
    info = kind.model_fields[name]
    said = [*info.metadata, *_metadata_within(info.annotation)]
    return any(isinstance(one, markers) for one in said)


def _metadata_within(annotation: Any) -> list[Any]:
    inner = [found for part in get_args(annotation) for found in _metadata_within(part)]
    return [*getattr(annotation, "__metadata__", ()), *inner]


def _kinds(annotation: Any) -> list[Any]:
    """What a field may be, beside None."""
    if hasattr(annotation, "__metadata__"):
        return _kinds(annotation.__origin__)
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [] if annotation is type(None) else [annotation]


def _values_within(annotations: Sequence[Any]) -> list[type[Value]]:
    """All values that types are made of."""
    found: list[type[Value]] = []
    for one in annotations:
        if isinstance(one, type) and issubclass(one, Value):
            found.append(one)
        found += _values_within(get_args(one))
    return found


# values


def _has_words(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _has_digits(text: str) -> str:
    if sum(letter.isdigit() for letter in text) < 3:
        raise ValueError("must have three digits at least")
    return text


#: What stands for a person outside of the keys: a random uuid.
Pseudonym = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        examples=["6f1b7a52-0c35-4c1e-9d57-0d4a5a3c8f11"],
    ),
]
#: A personal value as it is stored: what ``eventstore/persons/cipher.py`` makes. Nothing else fits:
#: plain text cannot come into an event by any mistake.
Sealed = Annotated[str, Field(pattern=r"^p1\.[A-Za-z0-9_-]+$")]
_Line = Annotated[Text, AfterValidator(_has_words), Field(max_length=200), Personal()]


class Recipient(Value):
    """The person whom an order goes to. ``person_id`` is how the sender knows the person."""

    person_id: Annotated[Id, OfPerson()] = Field(examples=["P-1"])
    name: _Line
    email: Annotated[
        str | None,
        Field(max_length=254, pattern=r"^[^@\s\x00]{1,64}@[^@\s\x00]{1,189}$"),
        Personal(),
    ] = None
    phone: Annotated[
        str | None,
        Field(max_length=30, pattern=r"^\+?[0-9 ()/.-]+$"),
        AfterValidator(lambda value: value and _has_digits(value)),
        Personal(),
    ] = None
    street: Annotated[_Line | None, Personal()] = None
    postcode: Annotated[
        str | None, Field(max_length=16, pattern=r"^[A-Za-z0-9][A-Za-z0-9 -]*$"), Personal()
    ] = None
    city: Annotated[_Line | None, Personal()] = None
    country: Annotated[str | None, Field(pattern=r"^[A-Z]{2}$"), Personal()] = None


class SealedRecipient(Value):
    """A recipient as it is stored: tokens of the person's key."""

    name: Annotated[Sealed | None, Personal()] = None
    email: Annotated[Sealed | None, Personal()] = None
    phone: Annotated[Sealed | None, Personal()] = None
    street: Annotated[Sealed | None, Personal()] = None
    postcode: Annotated[Sealed | None, Personal()] = None
    city: Annotated[Sealed | None, Personal()] = None
    country: Annotated[Sealed | None, Personal()] = None


def sealed(recipient: Recipient) -> SealedRecipient:
    """A recipient whose values are tokens already, as events hold it."""
    return SealedRecipient(**recipient.model_dump(exclude={"person_id"}))


#: What is kept of a person, in order.
FIELDS = tuple(SealedRecipient.model_fields)
#: What a person can be searched by.
SEARCHED = ("person_id", "name", "email", "phone")


class Reason(StrEnum):
    """Why a person is erased. Few fixed words: a free text could name whom it erases, for ever."""

    REQUESTED = "requested"
    OBJECTED = "objected"
    RETENTION = "retention"
    UNLAWFUL = "unlawful"
    MISTAKE = "mistake"


# command and event


class ErasePerson(Command):
    """Erase a person: the key is destroyed, so nothing that it encrypted can be read again."""

    person: Pseudonym
    reason: Reason = Reason.REQUESTED
    erased_at: UtcTime


class PersonErased(Event):
    """A person's data was erased; the tombstone says whose by pseudonym only."""

    person: str
    reason: str
    erased_at: datetime


EVENTS = (PersonErased,)

#: The stream that an event belongs to, by its fields.
STREAM = "people/{person}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {PersonErased: "Person {person} was erased: {reason}"}


# state and decisions


@dataclass(frozen=True, slots=True)
class Person:
    """What the rules need to know of a person."""

    erased: bool = False


def evolve(person: Person, event: Event) -> Person:
    """The person after one more of the events."""
    return Person(erased=True) if isinstance(event, PersonErased) else person


PEOPLE = Decider(initial=Person(), evolve=evolve)


def erase(person: Person, command: ErasePerson) -> Sequence[Event]:
    """Erase a person, once."""
    if person.erased:
        raise Refused("person.already_erased", person=command.person)
    return [
        PersonErased(
            person=command.person, reason=command.reason.value, erased_at=command.erased_at
        )
    ]


def must_not_be_erased(person: Person, pseudonym: str) -> None:
    """Refuse new data under the key of somebody who was erased meanwhile."""
    if person.erased:
        raise Refused("person.erased", person=pseudonym)
