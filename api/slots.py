"""How much goes on at the same time: so much in all, and of one caller a share of it."""

from __future__ import annotations

from starlette.exceptions import HTTPException


class TooManyAtOnce(HTTPException):
    """One caller has its share already."""

    def __init__(self, share: int, what: str) -> None:
        told = f"{share} {what}, as many as one may have; try again in a second"
        super().__init__(429, told, headers={"Retry-After": "1"})


class Busy(HTTPException):
    """There is no more room for anybody."""

    code = "too-busy"

    def __init__(self, most: int) -> None:
        told = f"{most} requests are being answered here; try again in a second"
        super().__init__(503, told, headers={"Retry-After": "1"})


class Slots:
    """Counts what goes on, by caller. Whoever has nothing going on is not remembered, so there are
    never more keys than slots.

    Args:
        most: how many there are; 0: no limit.
        share: how many of them one caller may have.
        what: what a caller has that many of, for its refusal.
    """

    def __init__(
        self, most: int, share: int, what: str = "requests of yours are being answered"
    ) -> None:
        self._most = most
        self._share = share
        self._what = what
        self._taken = 0
        self._by_key: dict[str, int] = {}

    def __len__(self) -> int:
        """How many callers have one."""
        return len(self._by_key)

    def take(self, key: str) -> HTTPException | None:
        """Take a slot for a caller, to be freed by ``free``; None: it has it, else why not."""
        if self._most <= 0:
            return None
        own = self._by_key.get(key, 0)
        if own >= self._share:
            return TooManyAtOnce(self._share, self._what)
        if self._taken >= self._most:
            return Busy(self._most)
        self._by_key[key] = own + 1
        self._taken += 1
        return None

    def free(self, key: str) -> None:
        """Give back a slot that was taken."""
        if self._most <= 0:
            return
        left = self._by_key[key] - 1
        if left:
            self._by_key[key] = left
        else:
            del self._by_key[key]
        self._taken -= 1
