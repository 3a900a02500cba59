"""Why somebody is not let in, in words that tell a stranger nothing."""

from __future__ import annotations

from collections.abc import Mapping


class IdentityFailure(Exception):
    """A request of identity that is not granted.

    Attributes:
        status: of the HTTP answer.
        code: of the problem type.
        headers: of the HTTP answer.
    """

    status = 401
    code = "unauthenticated"
    headers: Mapping[str, str] = {}


class WrongCredentials(IdentityFailure):
    """The same words for a wrong password, an unknown address and a disabled account."""

    code = "wrong-credentials"
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}

    def __init__(self) -> None:
        super().__init__("there is no account with this e-mail address and password")


class WrongRefreshToken(IdentityFailure):
    """The same words for one that is unknown, was used, has expired or whose session has ended."""

    code = "wrong-refresh-token"
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}

    def __init__(self) -> None:
        super().__init__("the refresh token is not good; log in again")


class WrongCode(IdentityFailure):
    """The same words for a code that is unknown, used or too old, and for a wrong password."""

    status = 422
    code = "wrong-code"

    def __init__(self) -> None:
        super().__init__("the code is not good, any more or for this password; ask for a new one")


class TooManyTries(IdentityFailure):
    """Passwords were tried at an address, known or not, too often; even the right one must wait."""

    status = 429
    code = "too-many-tries"

    def __init__(self, seconds: float) -> None:
        wait = max(1, round(seconds + 0.5))
        super().__init__(f"too many tries at this e-mail address; wait {wait} s")
        self.headers = {"Retry-After": str(wait)}


class Busy(IdentityFailure):
    """More passwords are waiting to be checked than this process takes on."""

    status = 503
    code = "busy"
    headers: Mapping[str, str] = {"Retry-After": "1"}

    def __init__(self) -> None:
        super().__init__("too many people log in at this moment; try again")


class NotOffered(IdentityFailure):
    """The deployment's settings do not offer this."""

    status = 404
    code = "not-offered"


class MailNotSetUp(IdentityFailure):
    """There is no way to send mail."""

    status = 503
    code = "mail-not-set-up"

    def __init__(self) -> None:
        super().__init__("this server cannot send mail: its operator has to set CHAINLYTICS_MAIL")


class PasswordRefused(IdentityFailure):
    """A password that is not taken."""

    status = 422
    code = "password-refused"

    def __init__(self, why: str) -> None:
        super().__init__(f"the password {why}")
