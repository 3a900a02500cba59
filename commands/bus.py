"""The one way in: authorise, dedupe, load, decide, append; on a conflict load and decide again."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from time import time_ns
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from commands.attempts import NotTaken, attempt_of
from commands.batch import NO_PLAN, Batch, Line, Outcome, Plan, decide, doubles, plan, same_again
from commands.context import (
    Context,
    Forbidden,
    Result,
    Sent,
    TooMuchContention,
    digest_of,
    entry_of,
)
from commands.handler import Handler, Stream, stream_id
from commands.outcomes import Outcomes, outcome_of
from commands.personal import Protector, names_persons
from commands.several import decided
from commands.states import Known, States
from commands.turns import Turns
from domain.access import Role
from domain.catalogue import CATALOGUE, Catalogue
from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command
from eventstore import (
    CommandReused,
    Entry,
    Log,
    PredecessorFailed,
    Receipt,
    RepeatedCommands,
    Unit,
    VersionConflict,
    Writer,
)
from eventstore.attempts import Attempts
from eventstore.group import Answer
from eventstore.persons.claims import Claim
from eventstore.persons.keys import PersonKeys
from eventstore.spans import Commanded, Spans
from eventstore.streams import Streams

MAX_ATTEMPTS = 8
_PAUSE_S = 0.001  # of a command of several streams that lost twice; each time twice as long
_DECIDE_AGAIN = (VersionConflict, RepeatedCommands, CommandReused, PredecessorFailed)
_NOTHING: Mapping[int, Known] = MappingProxyType({})


class _HandedIn(NamedTuple):
    """A batch on its way into the log: entries, what it changes, and where its answer will be."""

    entries: Mapping[int, Entry]
    changed: Sequence[tuple[Stream, Known, Known]]
    answer: Answer | None


def _is_stored(result: Result) -> bool:
    """Whether a command was stored by this very run."""
    return isinstance(result, Receipt) and not result.repeated


class Bus:
    """Runs commands against the log.

    States are immutable, so a cached one is shared as it is. A stale one does no harm: the append
    checks every version, and a refusal is only believed on the newest state.

    Args:
        log: knows the answers to commands.
        streams: loads streams.
        writer: appends.
        handlers: a handler for each command class.
        cache_size: states kept in memory.
        snapshot_every: events of a stream between two snapshots of its state.
        catalogue: the events that handlers make.
        patience_s: how long a command waits for those before it on its stream.
        attempts: is told of every command that is not taken, and by which rule.
        keyring: encrypts personal data before rules see it; without it commands that hold such are
            refused.
        spans: is told of every command; None: nobody follows.
    """

    def __init__(
        self,
        log: Log,
        streams: Streams,
        writer: Writer,
        handlers: Mapping[type[Command], Handler],
        *,
        cache_size: int = 100_000,
        snapshot_every: int = 10,
        catalogue: Catalogue = CATALOGUE,
        patience_s: float = 15.0,
        attempts: Attempts | None = None,
        keyring: PersonKeys | None = None,
        spans: Spans | None = None,
    ) -> None:
        #: What became of commands, counted.
        self.outcomes = Outcomes()
        self._spans = spans
        self._log = log
        self._attempts = attempts
        self._writer = writer
        self._handlers = handlers
        self._states = States(streams, catalogue, size=cache_size, every=snapshot_every)
        self._encode = catalogue.encode
        self._turns = Turns(patience_s=patience_s)
        self._protector = Protector(keyring)
        self._repeats = False  # whether the last batch held commands that the log knew

    @property
    def pending(self) -> int:
        """Events that wait for the database now."""
        return self._writer.pending

    async def state(self, organisation_id: UUID, stream: str, decider: Decider[Any]) -> Any:
        """The newest state of a stream: its snapshot and what came since, not all of its events.

        Raises:
            LogUnavailable: the database did not answer in time.
        """
        id_ = stream_id(organisation_id, stream)
        [known] = await self._states.load([Stream(id_, stream, decider)])
        return known.state

    async def execute(self, command: Command, context: Context) -> Receipt:
        """Run one command.

        Raises:
            Forbidden: the roles do not allow it.
            Refused: a business rule said no; VersionMismatch: the stream was at another version.
            CommandReused: its id was used before with another payload.
            TooMuchContention: conflicts did not end.
            LogUnavailable: the database did not answer; retry with the same command id.
            WrongMasterKey: personal data cannot be encrypted; nothing was written.
        """
        began = 0 if self._spans is None else time_ns()
        try:
            receipt = await self._execute(command, context)
        except (Forbidden, Refused, CommandReused, TooMuchContention) as error:
            self.not_taken(command, context, error)
            self._told([(command, context)], [error], began)
            raise
        except Exception as error:
            self.outcomes.count(type(command).__name__, outcome_of(error))
            self._told([(command, context)], [error], began)
            raise
        self.outcomes.count(type(command).__name__, outcome_of(receipt))
        self._told([(command, context)], [receipt], began)
        return receipt

    def _told(
        self, sent: Sequence[Sent], results: Sequence[Receipt | Exception], began: int
    ) -> None:
        """Tell who follows what became of commands."""
        if self._spans is None:
            return
        commanded = [
            Commanded(
                type(command).__name__,
                context.command_id,
                context.correlation_id,
                context.causation_id,
                context.actor,
                outcome_of(result),
            )
            for (command, context), result in zip(sent, results, strict=True)
        ]
        self._spans.commands(commanded, began)

    def not_taken(self, command: Command, context: Context, error: NotTaken) -> None:
        """Note that a command was not taken; for those who refuse it before it is sent."""
        self.outcomes.count(type(command).__name__, outcome_of(error))
        if self._attempts is not None:
            handler = self._handlers.get(type(command))
            self._attempts.note(attempt_of(command, context, error, handler))

    async def _execute(self, command: Command, context: Context) -> Receipt:
        handler = self.allows(command, context)
        if names_persons(command):
            context = await self._protector.recognised(command, context)
            # Asked first: a retry must not make keys anew for who was erased since.
            first = await self._first_answer(command, context)
            if first is not None:
                return first
            own = stream_id(context.organisation_id, handler.stream(command))
            said = context
            return await self._protector.run(
                command, context, own, lambda sealed: self._take(handler, sealed, said)
            )
        return await self._take(handler, command, context)

    async def _take(self, handler: Handler, command: Command, context: Context) -> Receipt:
        if handler.several:
            return await self._take_several(handler, command, context)
        streams = handler.streams(context.organisation_id, command)
        own = streams[0]
        turns, key = self._turns, own.id.int
        # One command of this process at a time on a stream: fewer conflicts, and first come first
        # served. Other processes are met by the version check.
        if not turns.take(key):
            await turns.wait(key)
        try:
            fresh, optimistic = False, handler.creates
            conflict: VersionConflict | None = None
            for _ in range(MAX_ATTEMPTS):
                known = await self._known(streams, fresh, (0,) if optimistic else ())
                states = [one.state for one in known]
                try:
                    # The append holds the stream at the version that is looked at here.
                    if context.expected is not None:
                        context.expected.check(own, known[0].version)
                    events = handler.decide(command, context.actor, *states)
                except Refused:
                    first = await self._first_answer(command, context)
                    if first is not None:
                        return first
                    if fresh:
                        raise
                    fresh, optimistic = True, False
                    continue
                before = known[0]
                entry = entry_of(self._encode, command, context, own, before.version, events)
                expected = {
                    stream.id: one.version for stream, one in zip(streams, known, strict=True)
                }
                try:
                    [receipt] = await self._writer.append(Unit((entry,), expected))
                except VersionConflict as error:
                    conflict = self._lost(error)
                    fresh, optimistic = True, False
                    continue
                if not receipt.repeated:
                    after = Known(entry.version, handler.decider.fold(events, before.state))
                    self._states.remember(own.id, handler.decider, after, before.version)
                return receipt
            raise TooMuchContention(MAX_ATTEMPTS, conflict, streams)
        finally:
            turns.give(key)

    async def _take_several(self, handler: Handler, command: Command, context: Context) -> Receipt:
        """As ``_take``, of a command that may append to several streams."""
        own = handler.own(context.organisation_id, command)
        held: list[int] = []
        fresh = False
        conflict: VersionConflict | None = None
        streams: Sequence[Stream] = [own]
        try:
            for attempt in range(MAX_ATTEMPTS):
                if attempt > 1:  # others win again and again: let a row of them pass
                    await asyncio.sleep(_PAUSE_S * 2**attempt)
                while True:
                    [before] = await self._known([own], fresh, ())
                    streams = handler.all_streams(context.organisation_id, command, before.state)
                    # Taken in one order by everybody, so that nobody waits for who waits for him.
                    keys = sorted(stream.id.int for stream in streams if stream.appends)
                    if not set(keys) <= set(held):
                        await self._turn_to(held, keys)
                        continue  # the state may be another one by now, and name other streams
                    known = await self._known(streams, fresh, ())
                    if known[0].version == before.version:
                        break
                try:
                    if context.expected is not None:
                        context.expected.check(own, known[0].version)
                    entry, behind = decided(handler, command, context, streams, known, self._encode)
                except Refused:
                    first = await self._first_answer(command, context)
                    if first is not None:
                        return first
                    if fresh:
                        raise
                    fresh = True
                    continue
                expected = {
                    stream.id: one.version for stream, one in zip(streams, known, strict=True)
                }
                try:
                    [receipt] = await self._writer.append(Unit((entry,), expected))
                except VersionConflict as error:
                    conflict, fresh = self._lost(error), True
                    continue
                if not receipt.repeated:
                    for stream, was, now in zip(streams, known, behind, strict=True):
                        if now is not was:
                            self._states.remember(stream.id, stream.decider, now, was.version)
                return receipt
            raise TooMuchContention(MAX_ATTEMPTS, conflict, streams)
        finally:
            for key in held:
                self._turns.give(key)

    async def _turn_to(self, held: list[int], keys: Sequence[int]) -> None:
        """Have the turns of these streams, and of no others; ``held`` says which one has."""
        while held:
            self._turns.give(held.pop())
        for key in keys:
            if not self._turns.take(key):
                await self._turns.wait(key)
            held.append(key)

    async def execute_many(self, commands: Sequence[Sent]) -> list[Result]:
        """Run commands in their order, in one append; a result for each.

        A refused command does not hold up the others. Meant for imports: a few hundred at a time.

        Raises:
            TooMuchContention, LogUnavailable, WrongMasterKey: as ``execute``; nothing of them was
                stored, or all.
        """
        return await self.run(self.batch(commands))

    def batch(self, commands: Sequence[Sent]) -> Batch:
        """The commands made ready for ``run``, as far as that can be done while another runs."""
        again = doubles(commands)
        results: dict[int, Result] = {}
        personal = {
            number: uuid4()
            for number, (command, _) in enumerate(commands)
            if names_persons(command) and number not in again
        }
        # Streams of persons are known by their pseudonyms only.
        planned = NO_PLAN if personal else plan(commands, self.allows, results, again)
        return Batch(commands, again, planned, results, personal)

    async def _protected(self, batch: Batch) -> Batch:
        """The batch without personal data; commands that were answered before stay as they are."""
        if not batch.personal:
            return batch
        sent, results = list(batch.sent), dict(batch.results)
        asked: list[int] = []
        claims: dict[int, Claim] = {}
        for number, claim in batch.personal.items():
            command, context = sent[number]
            try:
                stream = self.allows(command, context).stream(command)
                claims[number] = Claim(claim, stream_id(context.organisation_id, stream))
                sent[number] = command, await self._protector.recognised(command, context)
                asked.append(number)
            except (Forbidden, Refused) as error:
                results[number] = error
        answered = await self._answered([sent[number] for number in asked])
        results |= {asked[place]: result for place, result in answered.items()}
        left = [number for number in asked if number not in results]
        protected = await self._protector.protected(
            [sent[number] for number in left], [claims[number] for number in left]
        )
        for number, command in zip(left, protected, strict=True):
            sent[number] = command, sent[number][1]
        return Batch(sent, batch.again, plan(sent, self.allows, results, batch.again), results)

    async def run(self, batch: Batch, line: Line | None = None) -> list[Result]:
        """As ``execute_many``, of commands that were made ready before. Batches of one ``line`` may
        run at once: they are decided and stored in the order in which they were started."""
        began = 0 if self._spans is None else time_ns()
        line = line or Line()
        before, mine = line.last, asyncio.get_running_loop().create_future()
        line.last = mine
        try:
            results = await self._run(batch, line, before, mine)
        except TooMuchContention as error:
            await self._protector.release(batch.personal.values())
            for command, context in batch.sent:
                self.not_taken(command, context, error)
            self._told(batch.sent, [error] * len(batch.sent), began)
            raise
        finally:
            line.troubled.discard(mine)
            mine.set_result(None)
        await self._protector.release(
            [claim for number, claim in batch.personal.items() if not _is_stored(results[number])]
        )
        for number, original in batch.again.items():
            results[number] = same_again(
                batch.sent[original], batch.sent[number], results[original]
            )
        told = [results[number] for number in range(len(batch.sent))]
        for (command, context), result in zip(batch.sent, told, strict=True):
            if isinstance(result, Receipt):
                self.outcomes.count(type(command).__name__, outcome_of(result))
            else:
                self.not_taken(command, context, result)
        self._told(batch.sent, told, began)
        return told

    async def rehearse(self, batch: Batch, line: Line) -> list[Result]:
        """What would become of commands, were they run; nothing is stored. A command that would be
        taken gets a receipt without a position. Those of one ``line`` are decided on what the ones
        before them would leave.

        Raises:
            LogUnavailable, WrongMasterKey: as ``execute``.
        """
        async with line.deciding:
            try:
                ready = await self._protected(batch)
                results = dict(ready.results) | await self._answered(ready.sent)
                planned = plan(ready.sent, self.allows, results, batch.again)
                # A refusal is final here, so made on the newest states, not those in memory.
                lacking = [one for one in planned.streams if one.id.int not in line.ahead]
                loaded = await self._states.load(lacking)
                for stream, known in zip(lacking, loaded, strict=True):
                    line.ahead[stream.id.int] = known
                trial = await self._decided(ready.sent, planned, results, line.ahead, newest=True)
            finally:
                await self._protector.release(batch.personal.values())
            for stream, state in zip(trial.streams, trial.states, strict=True):
                line.ahead[stream.id.int] = state
        for number, entry in trial.entries.items():
            results[number] = Receipt(entry.stream, entry.version, 0)
        for number, original in batch.again.items():
            results[number] = same_again(
                batch.sent[original], batch.sent[number], results[original]
            )
        return [results[number] for number in range(len(batch.sent))]

    async def _run(
        self,
        batch: Batch,
        line: Line,
        before: asyncio.Future[None] | None,
        mine: asyncio.Future[None],
    ) -> dict[int, Result]:
        # The append itself finds out what the log knows already; it is only asked first where the
        # last batch was known, or when a rule refuses: the command may have been accepted before.
        handed: _HandedIn | None = None
        ready: Batch | None = None
        if not self._repeats and not line.troubled:
            async with line.deciding:
                ready = await self._protected(batch)
                results = dict(ready.results)
                trial = await self._decided(ready.sent, ready.plan, results, line.ahead)
                if not trial.refused and not line.troubled:
                    handed = await self._hand_in(ready.plan, trial, line, line.handed)
            if handed is not None:
                try:
                    return results | await self._stored(handed, line, mine)
                except _DECIDE_AGAIN:
                    pass
        line.troubled.add(mine)  # who comes behind waits until this one is through
        if before is not None:
            await asyncio.wait([before])  # what it leaves is on the log then
        ready = ready or await self._protected(batch)
        conflict: VersionConflict | None = None
        planned, anew = ready.plan, False
        for _ in range(MAX_ATTEMPTS):
            answered = await self._answered(ready.sent)
            self._repeats = bool(answered)
            results = dict(ready.results) | answered
            planned = plan(ready.sent, self.allows, results, batch.again)
            trial = await self._decided(ready.sent, planned, results, None)
            if not anew and await self._protector.erased_between(ready.sent, results):
                ready, anew = await self._protected(batch), True
                continue
            try:
                handed = await self._hand_in(planned, trial, line, None)
                return results | await self._stored(handed, line, mine)
            except _DECIDE_AGAIN as error:
                conflict = error if isinstance(error, VersionConflict) else conflict
        raise TooMuchContention(MAX_ATTEMPTS, conflict, planned.streams)

    async def _decided(
        self,
        sent: Sequence[Sent],
        planned: Plan,
        results: dict[int, Result],
        ahead: Mapping[int, Known] | None,
        *,
        newest: bool = False,
    ) -> Outcome:
        """Run the rules, on what is in memory and ``ahead`` of it, or on the newest states; where
        ``newest``, on what is ``ahead`` of those."""
        fresh, beyond = ahead is None, ahead or {}
        known = await self._known(planned.streams, fresh, planned.new, beyond)
        before = dict(results)

        def look(stream: Stream) -> Known | None:
            known = beyond.get(stream.id.int)  # nothing is where fresh
            return known if fresh or newest or known is not None else self._states.get(stream.id)

        while True:
            trial = decide(sent, planned, known, results, self._encode, look)
            if not trial.missing:
                return trial
            # Which streams a command of several touches, only those before it could say.
            found = await self._known(trial.missing, fresh or newest, (), beyond)
            planned = planned._replace(streams=[*planned.streams, *trial.missing])
            known = [*known, *found]
            results.clear()
            results.update(before)

    async def _hand_in(
        self, planned: Plan, trial: Outcome, line: Line, after: Answer | None
    ) -> _HandedIn:
        """Give the writer what was decided; who decides next sees the states that it leaves."""
        entries, streams, known, states, refused, several, _ = trial
        if not entries:
            return _HandedIn(entries, (), None)
        # A stream that only refused commands looked at need not hold still.
        touched = (
            {
                place
                for one in planned.commands
                if one.number in entries
                for place in several.get(one.number, one.places)
            }
            if refused
            else range(len(streams))
        )
        changed = [(streams[place], known[place], states[place]) for place in touched]
        unit = Unit(list(entries.values()), {stream.id: was.version for stream, was, _ in changed})
        answer = line.handed = await self._writer.hand_in(unit, after=after)
        line.ahead.update((stream.id.int, now) for stream, _, now in changed)
        return _HandedIn(entries, changed, answer)

    async def _stored(
        self, handed: _HandedIn, line: Line, mine: asyncio.Future[None]
    ) -> dict[int, Result]:
        """A receipt for each command that was handed in, when it is stored."""
        entries, changed, answer = handed
        if answer is None:
            return {}
        try:
            receipts = await answer
            if receipts[0].repeated:  # a batch of one
                raise RepeatedCommands({})
            for stream, was, now in changed:
                self._states.remember(stream.id, stream.decider, now, was.version)
        except BaseException as error:
            line.troubled.add(mine)  # before what was ahead is taken back: nobody decides between
            if isinstance(error, VersionConflict):
                self._lost(error)
            raise
        finally:
            for stream, _, now in changed:
                if line.ahead.get(stream.id.int) is now:
                    del line.ahead[stream.id.int]
        return dict(zip(entries, receipts, strict=True))

    def _lost(self, conflict: VersionConflict) -> VersionConflict:
        # A state ahead of the log (restored from a backup under a running process) is none.
        if conflict.actual < conflict.expected:
            self._states.forget(conflict.stream_id)
        return conflict

    def allows(self, command: Command, context: Context) -> Handler:
        """The handler of a command that the sender may send.

        Raises:
            Forbidden: the roles, or the scopes of the sender's key, do not allow it.
        """
        handler = self._handlers.get(type(command))
        needed = handler.roles if handler is not None else frozenset[Role]()
        name = type(command).__name__
        if handler is None or needed.isdisjoint(context.roles):
            raise Forbidden(name, context.roles, needed)
        if context.scopes is not None and name not in context.scopes:
            raise Forbidden(name, context.roles, needed, context.scopes)
        return handler

    async def _known(
        self,
        streams: Sequence[Stream],
        fresh: bool,
        new: Collection[int],
        ahead: Mapping[int, Known] = _NOTHING,
    ) -> list[Known]:
        """The state of each stream: the newest where ``fresh``, otherwise from what is ``ahead`` or
        in memory. One whose place is in ``new`` and that is in neither is taken not to exist."""
        if fresh:
            return await self._states.load(streams)
        known: list[Known] = []
        missing: list[int] = []
        for place, (id_, _, decider, _) in enumerate(streams):
            one = ahead.get(id_.int) or self._states.get(id_)
            if one is None:
                one = Known(0, decider.initial)
                if place not in new:
                    missing.append(place)
            known.append(one)
        if missing:
            loaded = await self._states.load([streams[place] for place in missing])
            for place, one in zip(missing, loaded, strict=True):
                known[place] = one
        return known

    async def _first_answer(self, command: Command, context: Context) -> Receipt | None:
        """The stored answer, where a refused command is a retry of one that was accepted."""
        result = (await self._answered([(command, context)])).get(0)
        if isinstance(result, CommandReused):
            raise result
        return result if isinstance(result, Receipt) else None

    async def _answered(self, commands: Sequence[Sent]) -> dict[int, Result]:
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
