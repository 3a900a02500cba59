"""Commands that append to several streams: which event goes where, and what each stream is then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from commands.context import Context, Encode, entry_of_several
from commands.handler import Handler, Stream
from commands.states import Known
from domain.catalogue import stream_of
from domain.values import Command, Event
from eventstore import Entry


def decided(
    handler: Handler,
    command: Command,
    context: Context,
    streams: Sequence[Stream],
    known: Sequence[Known],
    encode: Encode,
) -> tuple[Entry, list[Known]]:
    """Run the rule of a handler of ``several``: its entry, and the streams as they are behind it.

    Raises:
        Refused: the rule said no.
        TypeError: it gave an event of a stream that it may not append to.
    """
    states = {stream.name: one.state for stream, one in zip(streams, known, strict=True)}
    events = handler.decide(command, context.actor, known[0].state, states)
    places = {stream.name: place for place, stream in enumerate(streams) if stream.appends}
    behind = list(known)
    routed: list[tuple[Stream, int, Event]] = []
    for event in events:
        place = place_of(event, places)
        stream, (version, state) = streams[place], behind[place]
        behind[place] = Known(version + 1, stream.decider.evolve(state, event))
        routed.append((stream, version + 1, event))
    entry = entry_of_several(encode, command, context, streams[0], behind[0].version, routed)
    return entry, behind


def place_of(event: Event, places: Mapping[str, int]) -> int:
    """The place of an event's stream among those that may be appended to.

    Raises:
        TypeError: it is none of them.
    """
    name = stream_of(event)
    if name not in places:
        allowed = ", ".join(places)
        raise TypeError(
            f"{type(event).__name__} belongs to {name}; the rule may append to {allowed}"
        )
    return places[name]


class Wider:
    """The streams of a batch, to which commands of several streams add theirs while it is decided:
    what they touch follows from states that commands before them leave.

    Args:
        streams: those that are known before anything is decided.
        known: their states, each at the place of its stream.
        look: the state of another stream, where that can be had without asking the log.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        known: Sequence[Known],
        look: Callable[[Stream], Known | None],
    ) -> None:
        self.streams = list(streams)
        self.known, self.states = list(known), list(known)
        #: The places of what each of those commands touches, by the command's number.
        self.touched: dict[int, Sequence[int]] = {}
        #: Streams that have to be asked for before all can be decided.
        self.missing: dict[int, Stream] = {}
        self._look = look
        self._places: dict[int, int] = {}

    def decide(
        self, number: int, handler: Handler, command: Command, context: Context, encode: Encode
    ) -> Entry | None:
        """The entry of a command of ``several``; None: a stream is missing.

        Raises:
            Refused, TypeError: as ``decided``.
        """
        if not self._places:
            self._places = {stream.id.int: place for place, stream in enumerate(self.streams)}
        own = handler.own(context.organisation_id, command)
        state = self.states[self._places[own.id.int]].state
        streams = handler.all_streams(context.organisation_id, command, state)
        found = self._placed(streams)
        if found is None:
            return None
        now = [self.states[place] for place in found]
        if context.expected is not None:
            context.expected.check(own, now[0].version)
        entry, behind = decided(handler, command, context, streams, now, encode)
        for place, one in zip(found, behind, strict=True):
            self.states[place] = one
        self.touched[number] = found
        return entry

    def _placed(self, streams: Iterable[Stream]) -> list[int] | None:
        found: list[int] = []
        lacks = False
        for stream in streams:
            key = stream.id.int
            place = self._places.get(key)
            if place is None:
                known = self._look(stream)
                if known is None:
                    self.missing[key] = stream
                    lacks = True
                    continue
                place = self._places[key] = len(self.known)
                self.streams.append(stream)
                self.known.append(known)
                self.states.append(known)
            found.append(place)
        return None if lacks else found
