"""E-mail addresses, in the one form that they are kept in."""

from __future__ import annotations

from email_validator import EmailNotValidError, validate_email


def address(text: str) -> str:
    """An address in lower case and normal form.

    Raises:
        ValueError: it is none.
    """
    try:
        found = validate_email(
            text,
            check_deliverability=False,
            globally_deliverable=False,  # a company's own names are addresses too
        )
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None
    return found.normalized.lower()
