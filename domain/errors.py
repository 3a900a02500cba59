"""The one error that a business rule raises."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """A business rule said no.

    Args:
        code: stable code, ``area.rule`` in snake case, for example ``order.already_shipped``.
        **context: the values that the rule looked at, by name (JSON-ready).
    """

    def __init__(self, code: str, **context: Any) -> None:
        self.code = code
        self.context = {name: _plain(value) for name, value in context.items()}
        super().__init__(f"{self.detail} [{code}]")

    @property
    def detail(self) -> str:
        """The rule in words, followed by the values it looked at."""
        words = self.code.replace(".", " ").replace("_", " ")
        values = ", ".join(f"{name}={value}" for name, value in self.context.items())
        return f"{words} ({values})" if values else words


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
