"""Organisations: which rule answers which command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from commands.handler import Handler
from domain import organisations
from domain.access import Role

_ADMIN = frozenset({Role.ADMIN})
#: Who founds an organisation or accepts an invitation has no role yet: the rule asks for the code,
#: and the endpoint acts for whom it makes a member.
_ANYBODY = frozenset(Role)


_RULES: tuple[tuple[Any, frozenset[Role], Callable[..., Any]], ...] = (
    (organisations.FoundOrganisation, _ADMIN, organisations.found),
    (organisations.RenameOrganisation, _ADMIN, organisations.rename),
    (organisations.AddMember, _ADMIN, organisations.add_member),
    (organisations.ChangeMemberRoles, _ADMIN, organisations.change_roles),
    (organisations.RemoveMember, _ADMIN, organisations.remove_member),
    (organisations.LeaveOrganisation, _ANYBODY, organisations.leave),
    (organisations.InviteMember, _ADMIN, organisations.invite),
    (organisations.RevokeInvitation, _ADMIN, organisations.revoke_invitation),
    (organisations.AcceptInvitation, _ANYBODY, organisations.accept),
)

HANDLERS = tuple(
    Handler(
        command=command,
        roles=roles,
        stream=lambda _: organisations.STREAM,
        decider=organisations.ORGANISATIONS,
        decide=lambda command, actor, organisation, rule=rule: rule(organisation, command, actor),
    )
    for command, roles, rule in _RULES
)
