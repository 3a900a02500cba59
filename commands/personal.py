"""Keeps personal data from the rules: persons become pseudonyms and their values tokens before a
command is decided on, so that states, events and tables never hold anything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import structlog

from commands.context import Context, Result, Sent, TooMuchContention, digest_of
from domain.errors import Refused
from domain.people import SEARCHED, PersonalPart, personal_parts
from domain.values import Command, Value
from eventstore import CommandReused, LogUnavailable, Receipt
from eventstore.persons.cipher import PersonCipher
from eventstore.persons.claims import Claim
from eventstore.persons.keys import Person, PersonKeys

_log = structlog.get_logger(__name__)


def names_persons(command: Command) -> bool:
    """Whether a command holds personal data: of most classes a look into a dictionary says no."""
    # A loop is a third of what a generator costs here, and this is asked for each command.
    for path, _, _ in personal_parts(type(command)):  # noqa: SIM110
        if _held(command, path) is not None:
            return True
    return False


class Protector:
    """Encrypts what is personal in commands.

    Args:
        keys: the persons' keys; without them a command with personal data is refused.
    """

    def __init__(self, keys: PersonKeys | None) -> None:
        self._given = keys

    async def recognised(self, command: Command, context: Context) -> Context:
        """The context by which a retry of a command with personal data is recognised. The digest
        is that of the sender's words, keyed: a bare hash could be compared with guessed names.

        Raises:
            Refused: there are no keys to encrypt with.
            WrongMasterKey, LogUnavailable: as ``PersonKeys``.
        """
        said = context.digest or digest_of(command)
        return replace(context, digest=await self._keys.digest(said))

    async def run(
        self,
        command: Command,
        context: Context,
        stream_id: UUID,
        take: Callable[[Command], Awaitable[Receipt]],
    ) -> Receipt:
        """Have a command taken without its personal data; once more, under a new key, where the
        person was erased in between.

        Raises:
            As ``take`` and ``protected``. A key that was made for a command that is not taken is
            gone again.
        """
        try:
            return await self._run(command, context, stream_id, take)
        except Refused as error:
            if not await self.erased_between([(command, context)], {0: error}):
                raise
        return await self._run(command, context, stream_id, take)

    async def _run(
        self,
        command: Command,
        context: Context,
        stream_id: UUID,
        take: Callable[[Command], Awaitable[Receipt]],
    ) -> Receipt:
        claim = Claim(uuid4(), stream_id)
        [sealed] = await self.protected([(command, context)], [claim])
        try:
            receipt = await take(sealed)
        except (Refused, CommandReused, TooMuchContention):
            await self.release([claim.id])
            raise
        if receipt.repeated:
            await self.release([claim.id])
        return receipt

    async def release(self, claims: Collection[UUID]) -> None:
        """Give up the claims of commands that were not stored, see ``PersonKeys``. What cannot be
        done now is done an hour later (``commands/erasing.py``); until then nobody is found by it.
        """
        if not claims or self._given is None:
            return
        try:
            await self._given.release(claims)
        except (LogUnavailable, psycopg.Error) as error:
            _log.warning("keys given up later", error=str(error).strip())

    async def erased_between(self, sent: Sequence[Sent], results: Mapping[int, Result]) -> bool:
        """Whether commands were refused because their person is erased. The keys are destroyed
        then, should whoever erased not have come to it: encrypted anew, the commands get new ones.
        """
        found = False
        for number, result in results.items():
            if isinstance(result, Refused) and result.code == "person.erased":
                own = sent[number][1].organisation_id
                await self._keys.destroy(own, UUID(result.context["person"]))
                found = True
        return found

    async def protected(self, sent: Sequence[Sent], claims: Sequence[Claim]) -> list[Command]:
        """The commands with pseudonyms and tokens; one question to the database for all of them.
        Each has a claim on the keys that are made.

        Raises:
            Refused: there are no keys to encrypt with.
            WrongMasterKey, LogUnavailable: as ``PersonKeys``; nothing was written.
        """
        places: list[tuple[int, PersonalPart]] = []
        persons: list[Person] = []
        for number, (command, context) in enumerate(sent):
            for part in personal_parts(type(command)):
                holder = _held(command, part.path)
                if holder is not None:
                    places.append((number, part))
                    persons.append(_person(context, holder, part, claims[number]))
        commands = [command for command, _ in sent]
        if persons:
            keys = await self._keys.for_writing(persons)
            for (number, part), (key_id, cipher) in zip(places, keys, strict=True):
                holder = _held(commands[number], part.path)
                changes = _tokens(holder, part, str(key_id), cipher)
                commands[number] = _replaced(commands[number], part.path, changes)
        return commands

    @property
    def _keys(self) -> PersonKeys:
        if self._given is None:
            raise Refused("person.cannot_be_encrypted")
        return self._given


def _held(command: Value, path: Sequence[str]) -> Any:
    """The value at a path; None where there is none."""
    found: Any = command
    for name in path:
        if found is None:
            return None
        found = getattr(found, name)
    return found


def _person(context: Context, holder: Any, part: PersonalPart, claim: Claim) -> Person:
    searched = {
        name: value
        for name in part.fields
        if name in SEARCHED and (value := getattr(holder, name)) is not None
    }
    return Person(context.organisation_id, getattr(holder, part.person), searched, claim)


def _tokens(
    holder: Any, part: PersonalPart, pseudonym: str, cipher: PersonCipher
) -> dict[str, Any]:
    tokens = {
        name: cipher.token(name, value)
        for name in part.fields
        if (value := getattr(holder, name)) is not None
    }
    return {part.person: pseudonym} | tokens


def _replaced(value: Any, path: Sequence[str], changes: dict[str, Any]) -> Any:
    """A copy of a frozen value with other fields at a path; tokens are not for its validators."""
    if not path:
        return value.model_copy(update=changes)
    name, *rest = path
    return value.model_copy(update={name: _replaced(getattr(value, name), rest, changes)})
