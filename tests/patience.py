"""How long tests wait for what has to come about: a machine with much to do is no fault of ours."""

from __future__ import annotations

#: In seconds. Far more than anything takes, so that only what hangs fails.
PATIENCE_S = 240
