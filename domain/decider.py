"""The shape every area's rules share: an initial state and a fold of events into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Generic, TypeVar

from domain.values import Event

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Decider(Generic[S]):
    """How one kind of stream comes to its state.

    ``evolve`` never refuses and never looks at a clock; the functions that decide stand beside it
    in the area's file, one for each command, and answer with events.
    """

    initial: S
    evolve: Callable[[S, Any], S]

    def fold(self, events: Iterable[Event], state: S | None = None) -> S:
        """The state after ``events``, starting from ``state`` (default: the initial one)."""
        return reduce(self.evolve, events, self.initial if state is None else state)
