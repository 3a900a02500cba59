"""Organisations: who belongs to one and as what, and who is invited.

A member is an account of an identity provider, ``provider:subject``: never a name or an address,
for events are for ever. An invitation's code stays with whom it is for; events hold its digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated

from pydantic import Field

from domain.access import Digest, Role, Roles, must_be_person, roles_of
from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event, Id, Text, UtcTime

#: An account of an identity provider. No slash: it is a part of a path.
Member = Annotated[
    str,
    Field(
        pattern=r"^[a-z][a-z0-9-]{0,31}:[!-.0-~]{1,200}$",
        examples=["local:6f1b7a52-0c35-4c1e-9d57-0d4a5a3c8f11"],
    ),
]
#: Of one organisation, at the most.
MOST_MEMBERS = 10_000
MOST_INVITATIONS = 500

# commands


class FoundOrganisation(Command):
    """Begin an organisation; who does is its first admin."""

    name: Text = Field(examples=["Example Logistics"])
    founded_at: UtcTime


class RenameOrganisation(Command):
    """Give the organisation another name."""

    name: Text = Field(examples=["Example Logistics"])
    renamed_at: UtcTime


class AddMember(Command):
    """Let an account act for the organisation, without asking it: for the operator, who is no
    member. Members invite."""

    member: Member
    roles: Roles
    added_at: UtcTime


class ChangeMemberRoles(Command):
    """Replace a member's roles as a whole."""

    member: Member
    roles: Roles
    changed_at: UtcTime


class RemoveMember(Command):
    """End a membership: from now on the account may do nothing here."""

    member: Member
    removed_at: UtcTime


class LeaveOrganisation(Command):
    """End one's own membership."""

    left_at: UtcTime


class InviteMember(Command):
    """Invite whoever holds a code; ``digest`` is the code's. It is good for one account."""

    invitation_id: Id
    roles: Roles
    digest: Digest
    expires_at: UtcTime
    invited_at: UtcTime


class RevokeInvitation(Command):
    """Take an open invitation back."""

    invitation_id: Id
    revoked_at: UtcTime


class AcceptInvitation(Command):
    """Become a member by an invitation; ``digest`` is that of the code that was sent."""

    invitation_id: Id
    digest: Digest
    accepted_at: UtcTime


# events


class OrganisationFounded(Event):
    """An organisation began."""

    name: str
    founder: str
    founded_at: datetime


class OrganisationRenamed(Event):
    """An organisation has another name."""

    name: str
    renamed_by: str
    renamed_at: datetime


class MemberAdded(Event):
    """An account may act for the organisation; ``invitation_id``: by which invitation."""

    member: str
    roles: tuple[str, ...]
    invitation_id: str | None
    added_by: str
    added_at: datetime


class MemberRolesChanged(Event):
    """A member has other roles."""

    member: str
    roles: tuple[str, ...]
    changed_by: str
    changed_at: datetime


class MemberRemoved(Event):
    """A membership ended."""

    member: str
    removed_by: str
    removed_at: datetime


class MemberInvited(Event):
    """Whoever holds a code may become a member."""

    invitation_id: str
    roles: tuple[str, ...]
    digest: str
    invited_by: str
    expires_at: datetime
    invited_at: datetime


class InvitationRevoked(Event):
    """An invitation was taken back."""

    invitation_id: str
    revoked_by: str
    revoked_at: datetime


EVENTS: tuple[type[Event], ...] = (
    OrganisationFounded,
    OrganisationRenamed,
    MemberAdded,
    MemberRolesChanged,
    MemberRemoved,
    MemberInvited,
    InvitationRevoked,
)

#: The one stream of an organisation: who belongs to it is decided as a whole.
STREAM = "organisations/own"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    OrganisationFounded: "{founder} founded {name}",
    OrganisationRenamed: "{renamed_by} named the organisation {name}",
    MemberAdded: "{member} became a member, by {added_by}",
    MemberRolesChanged: "{changed_by} gave {member} other roles",
    MemberRemoved: "{member} is no member any more, by {removed_by}",
    MemberInvited: "{invited_by} made invitation {invitation_id}",
    InvitationRevoked: "{revoked_by} took invitation {invitation_id} back",
}

# states


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an open invitation is worth, and who made it."""

    roles: frozenset[Role]
    digest: str
    expires_at: datetime
    invited_by: str


@dataclass(frozen=True, slots=True)
class Organisation:
    """Who belongs to an organisation, and who is invited to."""

    name: str | None = None
    members: Mapping[str, frozenset[Role]] = field(default_factory=dict)
    invitations: Mapping[str, Invitation] = field(default_factory=dict)
    #: Who was a member once.
    former: frozenset[str] = frozenset()


def evolve(organisation: Organisation, event: Event) -> Organisation:
    """The organisation after one more of its events."""
    match event:
        case OrganisationFounded() | OrganisationRenamed():
            return replace(organisation, name=event.name)
        case MemberAdded():
            joined = replace(organisation, members=_with(organisation, event.member, event.roles))
            return joined if event.invitation_id is None else _closed(joined, event.invitation_id)
        case MemberRolesChanged():
            return replace(organisation, members=_with(organisation, event.member, event.roles))
        case MemberRemoved():
            rest = {one: of for one, of in organisation.members.items() if one != event.member}
            former = organisation.former | {event.member}
            return replace(organisation, members=rest, former=former)
        case MemberInvited():
            made = Invitation(
                roles_of(event.roles), event.digest, event.expires_at, event.invited_by
            )
            # What has expired by then is good for nothing.
            still = {
                one: it
                for one, it in organisation.invitations.items()
                if it.expires_at > event.invited_at
            }
            return replace(organisation, invitations={**still, event.invitation_id: made})
        case InvitationRevoked():
            return _closed(organisation, event.invitation_id)
    return organisation


def _with(
    organisation: Organisation, member: str, roles: Sequence[str]
) -> Mapping[str, frozenset[Role]]:
    return {**organisation.members, member: roles_of(roles)}


def _closed(organisation: Organisation, invitation_id: str) -> Organisation:
    rest = {one: it for one, it in organisation.invitations.items() if one != invitation_id}
    return replace(organisation, invitations=rest)


ORGANISATIONS = Decider(initial=Organisation(), evolve=evolve)


# decisions


def found(organisation: Organisation, command: FoundOrganisation, actor: str) -> Sequence[Event]:
    """Begin an organisation, with its founder as admin."""
    if organisation.name is not None or organisation.members:
        raise Refused("organisation.already_founded", name=organisation.name)
    at = command.founded_at
    return [
        OrganisationFounded(name=command.name, founder=actor, founded_at=at),
        MemberAdded(
            member=actor, roles=(Role.ADMIN,), invitation_id=None, added_by=actor, added_at=at
        ),
    ]


def rename(_: Organisation, command: RenameOrganisation, actor: str) -> Sequence[Event]:
    """Name the organisation anew."""
    return [OrganisationRenamed(name=command.name, renamed_by=actor, renamed_at=command.renamed_at)]


def add_member(organisation: Organisation, command: AddMember, actor: str) -> Sequence[Event]:
    """Add an account that is no member yet: nobody is made one by others than the operator without
    saying yes, for his requests would go there."""
    must_be_person(actor)
    if actor in organisation.members:
        raise Refused("member.needs_invitation", member=command.member)
    if command.member in organisation.members:
        raise Refused("member.already_added", member=command.member)
    _must_have_room(organisation)
    return [
        MemberAdded(
            member=command.member,
            roles=command.roles,
            invitation_id=None,
            added_by=actor,
            added_at=command.added_at,
        )
    ]


def change_roles(
    organisation: Organisation, command: ChangeMemberRoles, actor: str
) -> Sequence[Event]:
    """Replace a member's roles; an admin remains."""
    must_be_person(actor)
    _must_be_member(organisation, command.member)
    if Role.ADMIN not in command.roles:
        _must_not_be_last_admin(organisation, command.member)
    return [
        MemberRolesChanged(
            member=command.member,
            roles=command.roles,
            changed_by=actor,
            changed_at=command.changed_at,
        )
    ]


def remove_member(organisation: Organisation, command: RemoveMember, actor: str) -> Sequence[Event]:
    """End a membership, and the open invitations of who goes; an admin remains."""
    return _removed(organisation, command.member, actor, command.removed_at)


def leave(organisation: Organisation, command: LeaveOrganisation, actor: str) -> Sequence[Event]:
    """End one's own membership; an admin remains."""
    return _removed(organisation, actor, actor, command.left_at)


def _removed(organisation: Organisation, member: str, actor: str, at: datetime) -> Sequence[Event]:
    _must_be_member(organisation, member)
    _must_not_be_last_admin(organisation, member)
    made = [one for one, it in organisation.invitations.items() if it.invited_by == member]
    return [
        MemberRemoved(member=member, removed_by=actor, removed_at=at),
        *(InvitationRevoked(invitation_id=one, revoked_by=actor, revoked_at=at) for one in made),
    ]


def invite(organisation: Organisation, command: InviteMember, actor: str) -> Sequence[Event]:
    """Make an invitation."""
    must_be_person(actor)
    if command.invitation_id in organisation.invitations:
        raise Refused("invitation.already_made", invitation_id=command.invitation_id)
    if command.expires_at <= command.invited_at:
        raise Refused("invitation.expires_before_it_begins", expires_at=command.expires_at)
    _must_have_room(organisation)
    still = [it for it in organisation.invitations.values() if it.expires_at > command.invited_at]
    if len(still) >= MOST_INVITATIONS:
        raise Refused("organisation.too_many_invitations", most=MOST_INVITATIONS)
    return [
        MemberInvited(
            invitation_id=command.invitation_id,
            roles=command.roles,
            digest=command.digest,
            invited_by=actor,
            expires_at=command.expires_at,
            invited_at=command.invited_at,
        )
    ]


def revoke_invitation(
    organisation: Organisation, command: RevokeInvitation, actor: str
) -> Sequence[Event]:
    """Take an open invitation back."""
    _must_be_open(organisation, command.invitation_id)
    return [
        InvitationRevoked(
            invitation_id=command.invitation_id, revoked_by=actor, revoked_at=command.revoked_at
        )
    ]


def accept(organisation: Organisation, command: AcceptInvitation, actor: str) -> Sequence[Event]:
    """Become a member. A wrong code is answered as an invitation that there is not."""
    invitation = _must_be_open(organisation, command.invitation_id)
    if invitation.digest != command.digest:
        raise Refused("invitation.unknown", invitation_id=command.invitation_id)
    if command.accepted_at >= invitation.expires_at:
        raise Refused("invitation.expired", expires_at=invitation.expires_at)
    if actor in organisation.members:
        raise Refused("member.already_added", member=actor)
    _must_have_room(organisation)
    return [
        MemberAdded(
            member=actor,
            roles=tuple(sorted(invitation.roles)),
            invitation_id=command.invitation_id,
            added_by=actor,
            added_at=command.accepted_at,
        )
    ]


def _must_be_member(organisation: Organisation, member: str) -> None:
    if member not in organisation.members:
        raise Refused("member.unknown", member=member)


def _must_not_be_last_admin(organisation: Organisation, member: str) -> None:
    admins = [one for one, roles in organisation.members.items() if Role.ADMIN in roles]
    if admins == [member]:
        raise Refused("organisation.needs_an_admin", member=member)


def _must_be_open(organisation: Organisation, invitation_id: str) -> Invitation:
    invitation = organisation.invitations.get(invitation_id)
    if invitation is None:
        raise Refused("invitation.unknown", invitation_id=invitation_id)
    return invitation


def _must_have_room(organisation: Organisation) -> None:
    if len(organisation.members) >= MOST_MEMBERS:
        raise Refused("organisation.full", most=MOST_MEMBERS)
