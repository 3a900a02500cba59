"""Many requests in pieces: the most urgent first, one scored while the next is prepared and the
last one is written."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import groupby

from domain.decisions import FailDecision
from ml.deciding import Answer, Instead, decide
from ml.kind import History, Kind, Request
from ml.scorers import Scorers

#: Requests that are decided together: enough that a frame costs little for each of them.
PIECE = 128
#: Pieces under way: one is scored, one is ready to be, one is prepared.
_AHEAD = 3
DEADLINE_PASSED = "decision.deadline_passed"
_NEVER = datetime.max.replace(tzinfo=UTC)


def pieces(
    kinds: Mapping[str, Kind], requests: Sequence[Request]
) -> list[tuple[Kind, list[Request]]]:
    """Requests by priority, then by deadline, then as they came; each piece of one kind. Those of
    other kinds are left out."""

    def urgency(request: Request) -> tuple[int, datetime, int]:
        event = request.event
        return -event.priority, event.deadline or _NEVER, request.position

    found = []
    known = [request for request in requests if request.event.kind in kinds]
    for _, equal in groupby(sorted(known, key=urgency), key=lambda one: one.event.priority):
        by_kind: dict[str, list[Request]] = {}
        for request in equal:
            by_kind.setdefault(request.event.kind, []).append(request)
        for name, mine in by_kind.items():
            found += [
                (kinds[name], mine[start : start + PIECE]) for start in range(0, len(mine), PIECE)
            ]
    return found


async def answers(
    kinds: Mapping[str, Kind],
    requests: Sequence[Request],
    history: History,
    scorers: Scorers,
    instead: Instead | None = None,
    clock: Callable[[], datetime] | None = None,
) -> AsyncIterator[list[Answer]]:
    """The answers to requests, piece by piece. One thread scores.

    ``clock``: requests whose deadline has passed by it when their turn comes are answered with
    that; without one, none is.
    """
    gate = asyncio.Lock()
    waiting = deque(pieces(kinds, requests))
    running: deque[asyncio.Task[list[Answer]]] = deque()

    async def answer(kind: Kind, some: Sequence[Request]) -> list[Answer]:
        now = None if clock is None else clock()
        late = {one.position: too_late(one, now) for one in some if now is not None}
        found = [Answer(one, told) for one in some if (told := late.get(one.position))]
        in_time = [one for one in some if not late.get(one.position)]
        load = partial(scorers.load, kind)
        return [*found, *await decide(kind, in_time, history, load, gate, instead)]

    def start() -> None:
        while waiting and len(running) < _AHEAD:
            running.append(asyncio.create_task(answer(*waiting.popleft())))

    try:
        start()
        while running:
            done = await running.popleft()
            start()  # before the caller writes what is done: the scorer is not to wait for that
            yield done
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def too_late(request: Request, now: datetime) -> FailDecision | None:
    """The answer to a request whose deadline has passed."""
    deadline = request.event.deadline
    if deadline is None or now <= deadline:
        return None
    return FailDecision(
        decision_id=request.event.decision_id,
        code=DEADLINE_PASSED,
        detail=f"the deadline of {deadline.isoformat()} had passed",
    )
