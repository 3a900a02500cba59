"""Text search in lists: what is looked for as a pattern for ``ILIKE``."""

from __future__ import annotations

#: Characters that mean more than themselves in a pattern; the first one makes the others plain.
_SPECIAL = "\\%_"


def containing(text: str | None) -> str | None:
    r"""The pattern of texts that hold this one, upper or lower case alike; None finds everything.

    ``%``, ``_`` and ``\`` stand for themselves.
    """
    if text is None:
        return None
    plain = text
    for character in _SPECIAL:
        plain = plain.replace(character, f"\\{character}")
    return f"%{plain}%"
