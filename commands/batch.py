"""Many commands as one append: each decides on what the ones before it left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from commands.context import (
    Context,
    Encode,
    Forbidden,
    Result,
    Sent,
    digest_of,
    entry_of,
)
from commands.handler import Handler, Stream
from commands.several import Wider
from commands.states import Known
from domain.errors import Refused
from domain.values import Command
from eventstore import CommandReused, Entry, Receipt
from eventstore.group import Answer


class Planned(NamedTuple):
    """A command by its number, its handler, and its streams by their place in the plan."""

    number: int
    handler: Handler
    places: Sequence[int]


class Plan(NamedTuple):
    """Commands that have to be decided, and all streams that they touch, each once."""

    commands: Sequence[Planned]
    streams: Sequence[Stream]
    #: Places of streams that usually do not exist before one of the commands makes them.
    new: Collection[int]


NO_PLAN = Plan((), (), ())


class Batch(NamedTuple):
    """Commands that are to be run together, and what can be known of them without the log."""

    sent: Sequence[Sent]
    #: Commands whose id stands in the batch before: their number, and that one's.
    again: Mapping[int, int]
    plan: Plan
    #: What may not be asked, and what was answered before.
    results: Mapping[int, Result]
    #: Commands whose personal data is still to be encrypted, until then there is no plan; and the
    #: id of each one's claim on a person's key.
    personal: Mapping[int, UUID] = MappingProxyType({})


class Line:
    """Batches of one sender under way: each decides on what those before it are about to leave.

    Nothing is believed of it that the log does not confirm: a batch is only stored if the one
    before it was, and one that fails, or that holds a refusal, waits for the one before it and
    decides again on the newest states.
    """

    def __init__(self) -> None:
        self.deciding = asyncio.Lock()
        #: States behind what was handed to the writer and is not answered yet, by stream.
        self.ahead: dict[int, Known] = {}
        #: The answer to what was handed to the writer last.
        self.handed: Answer | None = None
        #: Batches that have to decide again and are not through yet.
        self.troubled: set[asyncio.Future[None]] = set()
        #: Ends when the batch that came last is done.
        self.last: asyncio.Future[None] | None = None


class Outcome(NamedTuple):
    """Entries by the number of their command, and every stream's state before and behind them.

    ``touched``: the places of what commands of several streams touch, by their number.
    ``missing``: streams that have to be asked for first; there is no outcome until then.
    """

    entries: Mapping[int, Entry]
    streams: Sequence[Stream]
    known: Sequence[Known]
    states: Sequence[Known]
    refused: int
    touched: Mapping[int, Sequence[int]]
    missing: Sequence[Stream]


def plan(
    sent: Sequence[Sent],
    authorised: Callable[[Command, Context], Handler],
    results: dict[int, Result],
    again: Collection[int] = (),
) -> Plan:
    """Handler and streams of each command without a result; what may not be asked gets one."""
    commands: list[Planned] = []
    streams: list[Stream] = []
    places: dict[int, int] = {}
    new: set[int] = set()
    for number, (command, context) in enumerate(sent):
        if number in results or number in again:
            continue
        try:
            handler = authorised(command, context)
            # Of a handler of several, further ones that its own stream's state says.
            touched = handler.streams(context.organisation_id, command)
        except (Forbidden, Refused) as error:
            results[number] = error
            continue
        mine: list[int] = []
        for stream in touched:
            place = places.setdefault(stream.id.int, len(streams))
            if place == len(streams):
                streams.append(stream)
            mine.append(place)
        if handler.creates:
            new.add(mine[0])
        commands.append(Planned(number, handler, mine))
    return Plan(commands, streams, new)


def decide(
    sent: Sequence[Sent],
    planned: Plan,
    known: Sequence[Known],
    results: dict[int, Result],
    encode: Encode,
    look: Callable[[Stream], Known | None] = lambda _: None,
) -> Outcome:
    """Run the rules in the order of the commands; a refusal holds up nobody.

    Args:
        look: the state of a stream beyond the plan, where that is known without asking the log.
    """
    wider = Wider(planned.streams, known, look)
    states = wider.states
    entries: dict[int, Entry] = {}
    refused = 0
    for number, handler, places in planned.commands:
        command, context = sent[number]
        own = places[0]
        before = states[own]
        try:
            if handler.several:
                found = wider.decide(number, handler, command, context, encode)
                if found is not None:
                    entries[number] = found
                continue
            if context.expected is not None:
                context.expected.check(planned.streams[own], before.version)
            if len(places) == 1:
                events = handler.decide(command, context.actor, before.state)
            else:
                read = [states[place].state for place in places]
                events = handler.decide(command, context.actor, *read)
        except Refused as refusal:
            results[number] = refusal
            refused += 1
            continue
        entry = entry_of(encode, command, context, planned.streams[own], before.version, events)
        states[own] = Known(entry.version, handler.decider.fold(events, before.state))
        entries[number] = entry
    missing = list(wider.missing.values())
    return Outcome(entries, wider.streams, wider.known, states, refused, wider.touched, missing)


def doubles(sent: Sequence[Sent]) -> dict[int, int]:
    """Commands whose id stands in the same call before: their number, and that one's."""
    first: dict[int, int] = {}
    again: dict[int, int] = {}
    for number, (_, context) in enumerate(sent):
        before = first.setdefault(context.command_id.int, number)
        if before != number:
            again[number] = before
    return again


def same_again(first: Sent, second: Sent, result: Result) -> Result:
    """The result of a command whose id stood in the same call before."""
    one, two = (context.digest or digest_of(command) for command, context in (first, second))
    if one != two:
        return CommandReused(second[1].command_id)
    return result._replace(repeated=True) if isinstance(result, Receipt) else result
