"""What a replayed decision was about and cannot be read any more: data of persons erased since.

Features never read personal values, so such a decision is replayed to the same bytes; the replay
says that the case behind it is not whole any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

from commands import stream_id
from domain.catalogue import TOPICS
from domain.people import person_field, token_fields
from domain.values import Event
from ml.kind import Kind
from ml.walk import Window

#: Events that hold tokens of a person, and the field that says whose.
_HOLDERS: Mapping[type[Event], str] = {
    event: field for event in TOPICS if (field := person_field(event)) is not None
}


class ErasedData:
    """Collects, while the log is walked, the events that hold data of erased persons.

    Args:
        organisation_id: whose log.
        persons: the pseudonyms of its erased persons.
    """

    def __init__(self, organisation_id: UUID, persons: Collection[str]) -> None:
        self._organisation_id = organisation_id
        self._persons = persons
        self._found: dict[str, list[tuple[int, str]]] = {}

    @property
    def fields(self) -> dict[type[Event], set[str]]:
        """What ``read`` needs of the log; nothing where nobody was erased."""
        if not self._persons:
            return {}
        return {
            event: {"stream_id", person, *token_fields(event)} for event, person in _HOLDERS.items()
        }

    def read(self, window: Window) -> None:
        """Take a window in."""
        for event, names in self.fields.items():
            frame = window.events.get(event)
            if frame is None:
                continue
            person = _HOLDERS[event]
            tokens = [name for name in token_fields(event) if name in names]
            for row in frame.filter(frame[person].is_in(list(self._persons))).iter_rows(named=True):
                told = ", ".join(_told(name, row[name]) for name in tokens if row[name] is not None)
                words = f"{told} of person {row[person]} at position {row['position']}"
                self._found.setdefault(row["stream_id"], []).append((row["position"], words))

    def of(self, kind: Kind, subject_id: str, position: int) -> tuple[str, ...]:
        """Which fields of which person a decision's subject had on the log before a position."""
        if not self._found:
            return ()
        streams = [read.stream for read in kind.subject.reads(subject_id)]
        found = [
            words
            for stream in streams
            for at, words in self._found.get(str(stream_id(self._organisation_id, stream)), [])
            if at <= position
        ]
        return tuple(found)


def _told(name: str, value: object) -> str:
    """A field, and the parts of it that are there."""
    if not isinstance(value, dict):
        return name
    return f"{name} ({', '.join(part for part, one in value.items() if one is not None)})"
