"""What stands in the way of commands that have other commands sent: who sends the one must be
allowed to send the other; and what is of the whole server is done for its operator alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from api.dependencies import Dependencies
from commands import Context, Forbidden
from domain.values import Command
from domain.work import RequestArchiving, RequestSealing
from ml.catalogue import HANDLERS

#: They seal and archive the log of all organisations.
OF_THE_SERVER: frozenset[type[Command]] = frozenset({RequestSealing, RequestArchiving})


class OfTheServer(Forbidden):
    """A command about the whole server, sent by somebody of one organisation."""

    def __init__(self, command: str) -> None:
        Exception.__init__(
            self, f"{command} is of the whole server: it is taken from the operator's tokens only"
        )


async def must_be_allowed(deps: Dependencies, command: Command, context: Context) -> None:
    """Refuse what whoever sends it may not send.

    Raises:
        Forbidden: roles or scopes do not allow it, or it is of the whole server.
    """
    kind = type(command)
    needed = HANDLERS[kind].roles
    is_scoped = context.scopes is not None and kind.__name__ not in context.scopes
    if context.roles.isdisjoint(needed) or is_scoped:
        raise Forbidden(kind.__name__, context.roles, needed, context.scopes)
    if kind in OF_THE_SERVER:
        await of_the_server(deps, command, context)


async def of_the_server(deps: Dependencies, command: Any, context: Context) -> None:
    """Refuse who is a member or a key: those are of one organisation.

    Raises:
        OfTheServer: so it is.
    """
    memberships = deps.authorisation.memberships
    now = datetime.now(UTC)
    if await memberships.rights(context.organisation_id, context.actor, now) is not None:
        raise OfTheServer(type(command).__name__)
