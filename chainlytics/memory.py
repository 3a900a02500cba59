"""How Python's garbage collector is set in a process of ours."""

from __future__ import annotations

import gc


def calm_collector() -> None:
    """Look for cycles seldom: states, events and plans are many and hold none.

    Memory is freed by reference counts as before; only cycles wait longer. By the defaults the
    collector walks tens of thousands of cached states over and over, a third of the time of an
    import (docs/benchmarks.md).
    """
    gc.freeze()  # what was imported stays
    gc.set_threshold(50_000, 20, 100)
    gc.enable()
