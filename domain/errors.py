"""The one error that a business rule raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def of_field(field: str) -> Iterator[None]:
    """Say of refusals within which field of the command they are about, where its name is not that
    of what it refers to: a client's ``default_site_id`` is a ``site_id``."""
    try:
        yield
    except Refused as refusal:
        raise Refused(refusal.code, **refusal.context, field=field) from None


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
