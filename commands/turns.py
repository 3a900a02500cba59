"""First come, first served: one at a time for each key."""

from __future__ import annotations

import asyncio
from collections import deque

from eventstore import LogUnavailable


class Turns:
    """A lock for each key that is in use, for one event loop; nothing is kept of the others.

    Args:
        patience_s: how long a turn is waited for.
        most: callers that may wait at once, for all keys together.
    """

    def __init__(self, *, patience_s: float = 15.0, most: int = 20_000) -> None:
        self._patience_s, self._most, self._count = patience_s, most, 0
        self._waiting: dict[int, deque[asyncio.Future[None]] | None] = {}

    def take(self, key: int) -> bool:
        """Take the turn where nobody has it; whether it was taken. Who has it must ``give`` it."""
        if key in self._waiting:
            return False
        self._waiting[key] = None
        return True

    async def wait(self, key: int) -> None:
        """Return when it is the caller's turn, who must ``give`` it on.

        Raises:
            LogUnavailable: it did not come in time, or too many wait.
        """
        if self._count >= self._most:
            raise LogUnavailable(f"{self._count} commands wait for others on their streams")
        queue = self._waiting[key]
        if queue is None:
            queue = self._waiting[key] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._count += 1
        try:
            async with asyncio.timeout(self._patience_s):
                await turn
        except (asyncio.CancelledError, TimeoutError) as error:
            if turn.done() and not turn.cancelled():
                self.give(key)  # it had come just then: the next one must not wait for ever
            if isinstance(error, TimeoutError):
                raise LogUnavailable(
                    "commands before this one on its stream take too long"
                ) from None
            raise
        finally:
            self._count -= 1

    def give(self, key: int) -> None:
        """End the turn; the next who still waits has it."""
        queue = self._waiting[key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[key]
