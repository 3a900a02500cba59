"""First come, first served: one at a time for each key."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """A lock for each key that is in use, for one event loop; nothing is kept of the others."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[asyncio.Future[None]] | None] = {}

    def take(self, key: int) -> bool:
        """Take the turn where nobody has it; whether it was taken. Who has it must ``give`` it."""
        if key in self._waiting:
            return False
        self._waiting[key] = None
        return True

    async def wait(self, key: int) -> None:
        """Return when it is the caller's turn, who must ``give`` it on."""
        queue = self._waiting[key]
        if queue is None:
            queue = self._waiting[key] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(key)  # it had come just then: the next one must not wait for ever
            raise

    def give(self, key: int) -> None:
        """End the turn; the next who still waits has it."""
        queue = self._waiting[key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[key]
