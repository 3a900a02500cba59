"""What the built-in provider writes to people."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote

from api.identity.mail import Letter

VERIFY_WITHIN = timedelta(hours=24)
RESET_WITHIN = timedelta(hours=1)


def to_verify(email: str, code: str, frontend: str | None) -> Letter:
    """To somebody who registers."""
    return Letter(
        email,
        "Confirm your e-mail address",
        "Somebody, you we hope, registers at Chainlytics with this address.\n"
        "To go on, give this code and your password:\n\n"
        f"    {_shown(code, 'verify', frontend)}\n\n"
        f"It is good for {_hours(VERIFY_WITHIN)}. If it was not you, do nothing: there is no "
        "account without it.\n",
    )


def is_known(email: str) -> Letter:
    """To somebody who registers and has an account already."""
    return Letter(
        email,
        "You have an account already",
        "Somebody, you we hope, registers at Chainlytics with this address. There is an account of "
        "it already:\nlog in, or ask for a new password if you forgot yours. If it was not you, do "
        "nothing.\n",
    )


def to_reset(email: str, code: str, frontend: str | None) -> Letter:
    """To somebody who forgot a password, or is given an account."""
    return Letter(
        email,
        "Choose a new password",
        "A new password for your account at Chainlytics was asked for. This code sets it:\n\n"
        f"    {_shown(code, 'reset', frontend)}\n\n"
        f"It is good for {_hours(RESET_WITHIN)}, once. If it was not you, do nothing: the old "
        "password stays.\n",
    )


def was_reset(email: str) -> Letter:
    """To somebody whose password is another one now."""
    return Letter(
        email,
        "Your password was changed",
        "The password of your account at Chainlytics was changed, and all sessions were ended. If "
        "it was not you, ask for a new password now and tell whoever runs your server.\n",
    )


def _shown(code: str, what: str, frontend: str | None) -> str:
    # Behind a # the code is sent to no server and stands in no server's log.
    return code if frontend is None else f"{frontend.rstrip('/')}/{what}#code={quote(code)}"


def _hours(duration: timedelta) -> str:
    hours = round(duration / timedelta(hours=1))
    return f"{hours} hour" if hours == 1 else f"{hours} hours"
