"""Locks of the database that have nothing to do with each other must not share a number: one that
is held for long, by a worker, would keep out whoever means another."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = (
    *("domain", "eventstore", "commands", "projections", "readmodels", "ml", "api"),
    "chainlytics",
)
NUMBER = re.compile(r"^(\w+) = (0x_?C4A1_?[0-9A-F]{4})$", re.MULTILINE)


def test_each_lock_has_a_number_of_its_own() -> None:
    found: dict[int, list[str]] = defaultdict(list)
    for floor in FLOORS:
        for file in (ROOT / floor).rglob("*.py"):
            for name, number in NUMBER.findall(file.read_text(encoding="utf-8")):
                found[int(number, 16)].append(f"{file.relative_to(ROOT)}:{name}")
    assert len(found) >= 9
    assert [names for names in found.values() if len(names) > 1] == []
