"""What becomes of commands, by name: counted for whoever watches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from commands.context import Forbidden, TooMuchContention
from domain.errors import Refused
from eventstore import CommandReused, LogUnavailable, Receipt

#: Names and outcomes come from the code, never from a sender; should that ever change, so many
#: pairs are counted, and all others as one.
_MOST = 5_000
_OTHER = "other"


class Outcomes:
    """How often each command had which outcome since the process began."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, command: str, outcome: str) -> None:
        """One more."""
        pair = (command, outcome)
        if pair not in self._counts and len(self._counts) >= _MOST:
            pair = (_OTHER, _OTHER)
        self._counts[pair] += 1

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """By command and outcome."""
        return self._counts


def outcome_of(result: Receipt | BaseException) -> str:
    """An outcome in a word: ``accepted``, ``repeated``, a rule's code, or why it was not run."""
    match result:
        case Receipt():
            return "repeated" if result.repeated else "accepted"
        case Refused():
            return result.code
        case Forbidden():
            return "forbidden"
        case CommandReused():
            return "reused"
        case TooMuchContention():
            return "contention"
        case LogUnavailable():
            return "unavailable"
    return "failed"
