"""People: which rule answers which command."""

from __future__ import annotations

from commands.handler import Handler, Read
from domain import people
from domain.access import Role


def person_stream(pseudonym: str) -> str:
    """The stream of a person."""
    return people.STREAM.format(person=pseudonym)


def person_read(pseudonym: str) -> Read:
    """What a rule looks at that puts a person's data on the log. Its version must still hold when
    the event is stored, so nothing gets there once the person is erased."""
    return Read(person_stream(pseudonym), people.PEOPLE)


HANDLERS = (
    Handler(
        command=people.ErasePerson,
        roles=frozenset({Role.ADMIN}),
        stream=lambda command: person_stream(command.person),
        decider=people.PEOPLE,
        decide=lambda command, _, person: people.erase(person, command),
    ),
)
