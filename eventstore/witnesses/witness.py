"""Witnesses: places outside the database that are handed each signed head, so that a log whose past
was changed later contradicts what others hold.

An address says which kind it is:

    file:///mnt/worm/heads                         a file, notes appended
    https://witness.example/chainlytics            HTTP, by C2SP's protocol for witnesses
    kafka://broker-1:9092,broker-2:9092/heads      a topic of Kafka
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from eventstore.seals.checkpoint import Head, parsed

#: Gives the RFC 6962 proof that the log's first tree (of that size) is the past of the second one:
#: hashes of 32 bytes, the lowest first.
Proof = Callable[[int, int], Awaitable[Sequence[bytes]]]


class WitnessRefused(Exception):
    """A witness says no: what it has seen of this log and this head cannot both be true.

    The log was set back or rewritten, or the witness belongs to another log. People have to look.
    """


class WitnessAway(Exception):
    """A witness did not take the head this time; it may take it later."""


@dataclass(frozen=True, slots=True)
class HeadNote:
    """A head as it is handed over: its number among the log's heads, the signed note, and what
    that says."""

    number: int
    note: str
    head: Head

    @classmethod
    def of(cls, number: int, note: str) -> Self:
        """Read a note.

        Raises:
            BadCheckpoint: it is none.
        """
        return cls(number, note, parsed(note))


class Witness(Protocol):
    """Takes heads, at least once each: the same head may come again."""

    @property
    def name(self) -> str:
        """Its address, without credentials."""

    async def hand(self, head: HeadNote, *, seen: int, proof: Proof) -> str:
        """Hand a head over; when this returns the witness has it for good.

        Args:
            head: the head.
            seen: size of the last head that the witness took, as far as we remember; 0 for none.
            proof: gives consistency proofs of the log.

        Returns:
            Signature lines by which it answers, each with its newline; empty where it gives none.

        Raises:
            WitnessRefused: the head contradicts what the witness has seen.
            WitnessAway: it was not taken, or nobody knows whether it was.
        """

    async def close(self) -> None:
        """Give up connections."""
