"""Rebuilds the table of deliveries in a process of its own and says how much memory that took.

`python -m benchmarks.rebuilding URL` prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.deliveries import DELIVERIES
from chainlytics.memory import calm_collector
from projections.rebuild import rebuild

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Rebuilt:
    """What a process said of its rebuild: events, seconds, and its peak in megabytes (10^6)."""

    events: int
    seconds: float
    peak_rss_mb: float


def in_process(url: str) -> Rebuilt:
    """Rebuild in a fresh process.

    Raises:
        RuntimeError: it failed; the message is what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.rebuilding", url],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the rebuild failed:\n{done.stderr[-2000:]}")
    return Rebuilt(**json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    """Rebuild and print what it took."""
    calm_collector()  # as every process of ours does
    begun = perf_counter()
    events = asyncio.run(rebuild(sys.argv[1], DELIVERIES))
    rebuilt = Rebuilt(events, perf_counter() - begun, _peak_rss_mb())
    print(json.dumps(vars(rebuilt)))
    return 0


def _peak_rss_mb() -> float:
    # Linux counts into ru_maxrss what the parent held when it started us (fork, then exec); VmHWM
    # is of this program alone.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


if __name__ == "__main__":
    sys.exit(main())
