"""States of streams: in memory, behind that a snapshot, behind that the log."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from pydantic import TypeAdapter, ValidationError

from commands.handler import Stream
from domain.catalogue import Catalogue
from domain.decider import Decider
from eventstore.streams import Snapshot, Streams, Wanted

_NO_SNAPSHOT = b""  # the fingerprint of none
_log = structlog.get_logger(__name__)


class Known(NamedTuple):
    """A stream's version and its state there."""

    version: int
    state: Any


class States:
    """Knows the states of streams. They are immutable, so one in memory is shared as it is.

    Args:
        streams: loads what is not in memory.
        catalogue: decodes events.
        size: states kept in memory; beyond, the one longest out of use is forgotten.
        every: events of a stream between two snapshots of it.
        snapshots: false loads every stream from its first event, and keeps no snapshot.
    """

    def __init__(
        self,
        streams: Streams,
        catalogue: Catalogue,
        *,
        size: int,
        every: int,
        snapshots: bool = True,
    ) -> None:
        self._streams = streams
        self._catalogue = catalogue
        self._rules: dict[Callable[..., Any], Rules] = {}
        self._size = size
        self._every = every
        self._snapshots = snapshots
        # By the id's integer: a UUID is hashed in Python, an integer is not.
        self._known: OrderedDict[int, Known] = OrderedDict()

    def get(self, stream_id: UUID) -> Known | None:
        """The state in memory, which may be stale."""
        known = self._known.get(stream_id.int)
        if known is not None:
            self._known.move_to_end(stream_id.int)
        return known

    def forget(self, stream_id: UUID) -> None:
        """Drop what is in memory: the log does not hold what it was folded from."""
        self._known.pop(stream_id.int, None)

    async def load(self, streams: Sequence[Stream]) -> list[Known]:
        """The newest state of each stream: from its snapshot or its first event, never from what is
        in memory, which a log restored from a backup may not hold.

        Raises:
            LogUnavailable: the database did not answer in time.
        """
        found = await self._streams.load(
            {stream.id: Wanted(0, self._fingerprint(stream.decider)) for stream in streams}
        )
        newest: list[Known] = []
        for stream_id, _, decider, _ in streams:
            snapshot, events = found[stream_id]
            now = Known(0, decider.initial)
            if snapshot is not None:
                try:
                    now = Known(snapshot.version, self._rules_of(decider).read(snapshot.state))
                except ValidationError as error:
                    _log.error("snapshot unreadable", stream_id=str(stream_id), error=str(error))
                    without = {stream_id: Wanted(0, _NO_SNAPSHOT)}
                    _, events = (await self._streams.load(without))[stream_id]
            since = now.version
            if events:
                decoded = (self._catalogue.decode(topic, state) for _, topic, state in events)
                now = Known(events[-1][0], decider.fold(decoded, now.state))
            newest.append(now)
            self.forget(stream_id)
            self.remember(stream_id, decider, now, since)
        return newest

    def remember(self, stream_id: UUID, decider: Decider[Any], known: Known, before: int) -> None:
        """Keep a state in memory; a snapshot too where events since ``before`` make one due."""
        key = stream_id.int
        present = self._known.get(key)
        if present is None or present.version <= known.version:
            self._known[key] = known
            self._known.move_to_end(key)
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        if self._snapshots and known.version // self._every > before // self._every:
            by = self._rules_of(decider)
            state = by.write(known.state)
            self._streams.save(stream_id, Snapshot(known.version, by.fingerprint, state))

    def _fingerprint(self, decider: Decider[Any]) -> bytes:
        return self._rules_of(decider).fingerprint if self._snapshots else _NO_SNAPSHOT

    def _rules_of(self, decider: Decider[Any]) -> Rules:
        found = self._rules.get(decider.evolve)
        if found is None:
            found = self._rules[decider.evolve] = Rules(decider, self._catalogue)
        return found


class Rules:
    """How a decider's states become bytes and back, and the fingerprint of what made them.

    The fingerprint covers the state's fields and types and the source of the package whose rules
    fold it, upcasters included: after any change there, streams are folded from their events again.
    """

    def __init__(self, decider: Decider[Any], catalogue: Catalogue) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(type(decider.initial))
        schema = json.dumps(self._adapter.json_schema(), sort_keys=True)
        upcast = sorted(f"{old} {new}" for old, (new, _) in catalogue.upcasters.items())
        made_of = "\0".join((decider.evolve.__qualname__, schema, *upcast))
        source = _source(decider.evolve.__module__)
        self.fingerprint = hashlib.sha256(made_of.encode() + source).hexdigest()[:32].encode()

    def write(self, state: Any) -> bytes:
        """The state as JSON."""
        return self._adapter.dump_json(state)

    def read(self, state: bytes) -> Any:
        """The state behind JSON that ``write`` made by the same rules.

        Raises:
            ValidationError: it is none.
        """
        return self._adapter.validate_json(state)


@functools.cache
def _source(module: str) -> bytes:
    """A digest of the module's file and those beside it, where it is part of a package."""
    file = Path(inspect.getfile(sys.modules[module]))
    files = sorted(file.parent.glob("*.py")) if "." in module else [file]
    return hashlib.sha256(b"\0".join(one.read_bytes() for one in files)).digest()
