"""Whether who follows may go on: a live connection outlives tokens, keys and memberships."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import psycopg
import structlog

from api.authorisation import NoSuchOrganisation
from api.dependencies import Dependencies, NotAllowed, identified, may_ask
from api.tokens import Identity, InvalidToken
from eventstore import LogUnavailable

#: The permission that following the log hangs on.
PERMISSION = "stream.events"
#: Areas whose events are told only to whoever may ask a query: where webhooks lead, who is invited.
_AREAS_OF: Mapping[str, str] = {
    "webhooks": "webhooks.list",
    "organisations": "invitations.list",
    "api_keys": "api_keys.list",
}
#: Clocks differ: a token may be believed for a moment longer than it says.
_LEAST_S = 0.2
_log = structlog.get_logger(__name__)


class Ended(NamedTuple):
    """Why a connection ends, for its client; ``code`` is that of a WebSocket."""

    code: int
    reason: str


#: What a WebSocket closes with: 4000 and the status that HTTP has for it.
UNAUTHENTICATED, FORBIDDEN, NOT_FOUND = 4401, 4403, 4404


class Watch:
    """Asks every few seconds, and when the token expires, whether somebody may still follow.

    Args:
        deps: what it asks.
        credentials: the token or key that the client showed.
        who: whom it was found to be.
        every_s: how often it asks, in seconds.
        permission: what it must be allowed.
    """

    def __init__(
        self,
        deps: Dependencies,
        credentials: str,
        who: Identity,
        every_s: float,
        permission: str = PERMISSION,
    ) -> None:
        self._deps = deps
        self._credentials = credentials
        self._who = who
        self._every_s = every_s
        self._permission = permission

    def hidden(self) -> frozenset[str]:
        """The areas that whoever follows may not see, as was known when it was asked last."""
        return frozenset(area for area, query in _AREAS_OF.items() if not may_ask(query, self._who))

    async def renew(self, credentials: str) -> Identity:
        """Go on with other credentials of the same actor in the same organisation.

        Raises:
            InvalidToken: they are not to be believed, or are somebody else's.
            NotAllowed: they do not allow to follow.
        """
        who = await admit(self._deps, credentials, self._who, self._permission)
        if (who.actor, who.organisation_id) != (self._who.actor, self._who.organisation_id):
            raise InvalidToken("this token is somebody else's: open a connection for it")
        self._credentials, self._who = credentials, who
        return who

    async def ended(self) -> Ended:
        """Return as soon as the client may follow no more."""
        while True:
            await asyncio.sleep(min(self._every_s, max(self._left_s(), _LEAST_S)))
            credentials = self._credentials
            try:
                who = await admit(self._deps, credentials, self._who, self._permission)
            except InvalidToken as error:
                ended = Ended(UNAUTHENTICATED, str(error))
            except NotAllowed as error:
                ended = Ended(FORBIDDEN, str(error))
            except NoSuchOrganisation as error:
                ended = Ended(NOT_FOUND, str(error))
            except (psycopg.Error, LogUnavailable) as error:
                # Asked again: no events come either as long as the database is away.
                _log.warning("cannot ask who follows", error=str(error).strip())
                if self._left_s() > 0:
                    continue
                ended = Ended(UNAUTHENTICATED, "the token has expired")
            else:
                if credentials is self._credentials:
                    self._who = who
                continue
            if credentials is self._credentials:  # not renewed meanwhile
                return ended

    def _left_s(self) -> float:
        if self._who.expires_at is None:
            return self._every_s
        return (self._who.expires_at - datetime.now(UTC)).total_seconds()


async def admit(
    deps: Dependencies, credentials: str, before: Identity, permission: str
) -> Identity:
    """Who follows, for the same organisation as before.

    Raises:
        InvalidToken, NoSuchOrganisation: it is nobody, or of another organisation.
        NotAllowed: it may not follow any more.
    """
    who = await identified(deps, credentials, before.organisation_id)
    if not may_ask(permission, who):
        raise NotAllowed(permission, who)
    return who
