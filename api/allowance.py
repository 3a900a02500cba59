"""How much one process allows its callers; ``api/limits.py`` holds them to it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Rate(NamedTuple):
    """Requests a second in the long run, and how many at once. 0 a second: no limit."""

    per_second: float
    burst: int


# Generous enough for a busy integration; whoever tries out tokens has a few hundred tries at once.
_IDENTITY = Rate(1000, 10_000)
_ADDRESS = Rate(50, 1000)
_FAILURES = Rate(3, 300)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process allows.

    Attributes:
        identity: of whoever showed good credentials, by identity.
        address: of all others, by client address (IPv6: by /64).
        failures: of refused credentials, by client address.
        concurrent: requests that are answered at the same time; 0: no limit. Live streams do not
            count. As many again may have bodies that are still on their way.
        per_caller: how many of them one caller may have; 0: a tenth, but 32 where that is less, and
            never more than half.
        proxies: whose ``X-Forwarded-For`` is believed.
        body_timeout_s: how long a body may take to arrive; 0: no limit.
    """

    identity: Rate = _IDENTITY
    address: Rate = _ADDRESS
    failures: Rate = _FAILURES
    concurrent: int = 1000
    per_caller: int = 0
    proxies: Sequence[Network] = ()
    body_timeout_s: float = 30

    @property
    def share(self) -> int:
        """How many requests of one caller are answered at the same time."""
        return self.per_caller or min(max(self.concurrent // 10, 32), (self.concurrent + 1) // 2)


#: Where the settings say nothing.
LIMITS = Limits()
