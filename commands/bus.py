"""The one way in: authorise, dedupe, load, decide, append; on a conflict load and decide again."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4, uuid5
from weakref import WeakValueDictionary

from commands.handler import Handler, stream_id
from domain import catalogue
from domain.access import Role
from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event
from eventstore import (
    CommandReused,
    Entry,
    Log,
    NewEvent,
    Receipt,
    RepeatedCommands,
    Unit,
    VersionConflict,
    Writer,
)

MAX_ATTEMPTS = 8


class Forbidden(Exception):
    """The sender's roles do not allow the command."""

    def __init__(self, command: str, roles: Collection[Role], needed: Collection[Role]) -> None:
        self.command, self.roles, self.needed = command, roles, needed
        have = ", ".join(sorted(roles)) or "no role"
        super().__init__(f"{command} needs one of {', '.join(sorted(needed))}; you have {have}")


class TooMuchContention(Exception):
    """Others kept changing the stream for as long as we tried."""


@dataclass(frozen=True, slots=True)
class Context:
    """Who sends a command and what led to it.

    ``command_id`` makes a retry safe: the same id is answered with the first result.
    ``digest`` replaces the command's own digest where the sender's words are known better
    (HTTP: the body as it was sent, before the server put its time into it).
    """

    organisation_id: UUID
    actor: str
    roles: frozenset[Role]
    command_id: UUID = field(default_factory=uuid4)
    correlation_id: UUID = field(default_factory=uuid4)
    causation_id: UUID | None = None
    digest: bytes | None = None


#: What became of one command of many.
Result = Receipt | Refused | CommandReused | Forbidden


def command_id(organisation_id: UUID, key: str) -> UUID:
    """The id of a command that is known by a key of the sender's own."""
    return uuid5(organisation_id, f"command:{key}")


def digest_of(command: Command) -> bytes:
    """SHA-256 over the command's name and JSON."""
    name = type(command).__name__.encode()
    return hashlib.sha256(name + b"\0" + command.__pydantic_serializer__.to_json(command)).digest()


@dataclass(frozen=True, slots=True)
class _Known:
    version: int
    state: Any


@dataclass(frozen=True, slots=True)
class _Planned:
    handler: Handler
    stream: str
    own: UUID
    all: Sequence[tuple[UUID, Decider[Any]]]


class Bus:
    """Runs commands against the log.

    States are immutable, so a cached one is shared as it is. A stale one does no harm: the append
    checks every version, and a refusal is only believed on the newest state.

    Args:
        log: reads streams.
        writer: appends.
        handlers: a handler for each command class.
        cache_size: states kept in memory.
    """

    def __init__(
        self,
        log: Log,
        writer: Writer,
        handlers: Mapping[type[Command], Handler],
        *,
        cache_size: int = 100_000,
    ) -> None:
        self._log = log
        self._writer = writer
        self._handlers = handlers
        self._cache: OrderedDict[UUID, _Known] = OrderedDict()
        self._cache_size = cache_size
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def execute(self, command: Command, context: Context) -> Receipt:
        """Run one command.

        Raises:
            Forbidden: the roles do not allow it.
            Refused: a business rule said no.
            CommandReused: its id was used before with another payload.
            TooMuchContention: conflicts did not end.
            LogUnavailable: the database did not answer; retry with the same command id.
        """
        handler = self._authorised(command, context)
        stream = handler.stream(command)
        own = stream_id(context.organisation_id, stream)
        reads = {
            stream_id(context.organisation_id, read.stream): read.decider
            for read in handler.reads(command)
        }
        deciders = {own: handler.decider, **reads}
        # One command of this process at a time on a stream: fewer conflicts, and first come first
        # served. Other processes are met by the version check.
        async with self._lock(own):
            fresh = False
            optimistic = handler.creates
            for _ in range(MAX_ATTEMPTS):
                known = await self._load(
                    deciders, refresh=fresh, assume_new={own} if optimistic else set()
                )
                states = [known[stream].state for stream in deciders]
                try:
                    events = handler.decide(command, context.actor, *states)
                except Refused as refusal:
                    first = await self._first_answer(command, context)
                    if first is not None:
                        return first
                    if fresh:
                        raise refusal
                    fresh, optimistic = True, False
                    continue
                entry = self._entry(command, context, stream, own, known[own].version, events)
                expected = {stream: known[stream].version for stream in deciders}
                try:
                    [receipt] = await self._writer.append(Unit([entry], expected))
                except VersionConflict:
                    fresh, optimistic = True, False
                    continue
                if not receipt.repeated:
                    state = handler.decider.fold(events, known[own].state)
                    self._remember(own, _Known(entry.version, state))
                return receipt
        raise TooMuchContention(f"{stream} kept changing; gave up after {MAX_ATTEMPTS} attempts")

    async def execute_many(self, commands: Sequence[tuple[Command, Context]]) -> list[Result]:
        """Run commands in their order, in one append; a result for each.

        A refused command does not hold up the others. Meant for imports: a few hundred at a time.

        Raises:
            TooMuchContention, LogUnavailable: as ``execute``; nothing of them was stored, or all.
        """
        first: dict[UUID, int] = {}
        again: dict[int, int] = {}
        for number, (_, context) in enumerate(commands):
            if first.setdefault(context.command_id, number) != number:
                again[number] = first[context.command_id]
        results: dict[int, Result] = {}
        optimistic, fresh = True, False
        for _ in range(MAX_ATTEMPTS):
            results = await self._answered(commands)
            planned = self._planned(commands, results, again)
            if not planned:
                break
            deciders = {stream: decider for one in planned.values() for stream, decider in one.all}
            new = {one.own for one in planned.values() if one.handler.creates} if optimistic else ()
            known = await self._load(deciders, refresh=fresh, assume_new=set(new))
            overlay = dict(known)
            entries: dict[int, Entry] = {}
            for number, one in planned.items():
                command, context = commands[number]
                states = (overlay[stream].state for stream, _ in one.all)
                try:
                    events = one.handler.decide(command, context.actor, *states)
                except Refused as refusal:
                    results[number] = refusal
                    continue
                before = overlay[one.own]
                entry = self._entry(command, context, one.stream, one.own, before.version, events)
                state = one.handler.decider.fold(events, before.state)
                overlay[one.own] = _Known(entry.version, state)
                entries[number] = entry
            if len(entries) < len(planned) and not fresh:
                # A refusal counts only on the newest states.
                optimistic, fresh = False, True
                continue
            if not entries:
                break
            touched = {stream for number in entries for stream, _ in planned[number].all}
            expected = {stream: known[stream].version for stream in touched}
            try:
                receipts = await self._writer.append(Unit(list(entries.values()), expected))
            except (VersionConflict, RepeatedCommands, CommandReused):
                optimistic, fresh = False, True
                continue
            for stream in touched:
                self._remember(stream, overlay[stream])
            results |= zip(entries, receipts, strict=True)
            break
        else:
            raise TooMuchContention(f"gave up after {MAX_ATTEMPTS} attempts")
        for number, original in again.items():
            results[number] = self._same_again(
                commands[original], commands[number], results[original]
            )
        return [results[number] for number in range(len(commands))]

    def _planned(
        self,
        commands: Sequence[tuple[Command, Context]],
        results: dict[int, Result],
        again: Collection[int],
    ) -> dict[int, _Planned]:
        """Streams and handler of each command that has no result yet; refusals go to results."""
        planned: dict[int, _Planned] = {}
        for number, (command, context) in enumerate(commands):
            if number in results or number in again:
                continue
            try:
                handler = self._authorised(command, context)
                stream = handler.stream(command)
                reads = handler.reads(command)
            except (Forbidden, Refused) as error:
                results[number] = error
                continue
            organisation_id = context.organisation_id
            own = stream_id(organisation_id, stream)
            others = [(stream_id(organisation_id, read.stream), read.decider) for read in reads]
            planned[number] = _Planned(handler, stream, own, [(own, handler.decider), *others])
        return planned

    @staticmethod
    def _same_again(
        first: tuple[Command, Context], second: tuple[Command, Context], result: Result
    ) -> Result:
        """The result of a command whose id stood in the same call before."""
        one, two = (context.digest or digest_of(command) for command, context in (first, second))
        if one != two:
            return CommandReused(second[1].command_id)
        return replace(result, repeated=True) if isinstance(result, Receipt) else result

    def _authorised(self, command: Command, context: Context) -> Handler:
        handler = self._handlers.get(type(command))
        needed = handler.roles if handler is not None else frozenset[Role]()
        if handler is None or needed.isdisjoint(context.roles):
            raise Forbidden(type(command).__name__, context.roles, needed)
        return handler

    def _lock(self, stream: UUID) -> asyncio.Lock:
        lock = self._locks.get(stream)
        if lock is None:
            lock = self._locks[stream] = asyncio.Lock()
        return lock

    async def _load(
        self, deciders: Mapping[UUID, Decider[Any]], *, refresh: bool, assume_new: set[UUID]
    ) -> dict[UUID, _Known]:
        """The state of each stream: from memory, and behind that from the log."""
        known: dict[UUID, _Known] = {}
        seen: dict[UUID, int] = {}
        for stream, decider in deciders.items():
            cached = self._cache.get(stream)
            if cached is not None:
                self._cache.move_to_end(stream)
            known[stream] = cached or _Known(0, decider.initial)
            if refresh or (cached is None and stream not in assume_new):
                seen[stream] = known[stream].version
        tails = await self._log.tails(seen) if seen else {}
        for stream, stored in tails.items():
            if stored:
                events = (catalogue.decode(event.topic, event.state) for event in stored)
                state = deciders[stream].fold(events, known[stream].state)
                known[stream] = _Known(stored[-1].version, state)
            self._remember(stream, known[stream])
        return known

    def _remember(self, stream: UUID, known: _Known) -> None:
        present = self._cache.get(stream)
        if present is None or present.version <= known.version:
            self._cache[stream] = known
            self._cache.move_to_end(stream)
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    async def _first_answer(self, command: Command, context: Context) -> Receipt | None:
        """The stored answer, where a refused command is a retry of one that was accepted."""
        result = (await self._answered([(command, context)])).get(0)
        if isinstance(result, CommandReused):
            raise result
        return result if isinstance(result, Receipt) else None

    async def _answered(self, commands: Sequence[tuple[Command, Context]]) -> dict[int, Result]:
        """Those of the commands that the log has answered before, by their number."""
        answers = await self._log.answers([context.command_id for _, context in commands])
        results: dict[int, Result] = {}
        for number, (command, context) in enumerate(commands) if answers else ():
            found = answers.get(context.command_id)
            if found is not None:
                digest, receipt = found
                same = digest == (context.digest or digest_of(command))
                results[number] = receipt if same else CommandReused(context.command_id)
        return results

    @staticmethod
    def _entry(
        command: Command,
        context: Context,
        stream: str,
        own: UUID,
        version: int,
        events: Sequence[Event],
    ) -> Entry:
        return Entry(
            command_id=context.command_id,
            digest=context.digest or digest_of(command),
            stream=stream,
            version=version + len(events),
            organisation_id=context.organisation_id,
            actor=context.actor,
            correlation_id=context.correlation_id,
            causation_id=context.causation_id,
            events=[
                NewEvent(own, version + number, *catalogue.encode(event))
                for number, event in enumerate(events, 1)
            ],
        )


def derived(context: Context, cause: UUID, step: str) -> Context:
    """The context of a command that follows from an event: its id comes from the event's, so
    that answering the event twice is one command."""
    return replace(context, command_id=uuid5(cause, step), causation_id=cause)
