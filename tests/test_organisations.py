"""Organisations: members, invitations and the keys of services, as rules."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from domain.access import Role
from domain.api_keys import ApiKeyIssued, ApiKeyRevoked, IssueApiKey, RevokeApiKey
from domain.errors import Refused
from domain.organisations import (
    MOST_INVITATIONS,
    MOST_MEMBERS,
    ORGANISATIONS,
    AcceptInvitation,
    AddMember,
    ChangeMemberRoles,
    FoundOrganisation,
    InvitationRevoked,
    InviteMember,
    LeaveOrganisation,
    MemberAdded,
    MemberInvited,
    MemberRemoved,
    MemberRolesChanged,
    OrganisationFounded,
    OrganisationRenamed,
    RemoveMember,
    RenameOrganisation,
    RevokeInvitation,
    add_member,
)
from domain.values import Command
from tests.spec import ACTOR, given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(days=7)
BEN = "local:ben"
DIGEST = "ab" * 32

founded = OrganisationFounded(name="Example", founder=ACTOR, founded_at=NOON)
founder = MemberAdded(
    member=ACTOR, roles=("admin",), invitation_id=None, added_by=ACTOR, added_at=NOON
)
ben = MemberAdded(member=BEN, roles=("viewer",), invitation_id=None, added_by=ACTOR, added_at=NOON)
invited = MemberInvited(
    invitation_id="I-1",
    roles=("analyst",),
    digest=DIGEST,
    invited_by=ACTOR,
    expires_at=LATER,
    invited_at=NOON,
)
issued = ApiKeyIssued(
    key_id="K-1",
    name="scanner",
    roles=("service",),
    scopes=("PickStock",),
    digest=DIGEST,
    issued_by=ACTOR,
    expires_at=None,
    issued_at=NOON,
)
ACCEPT = AcceptInvitation(invitation_id="I-1", digest=DIGEST, accepted_at=NOON)
ISSUE = IssueApiKey(
    key_id="K-1",
    name="scanner",
    roles=(Role.SERVICE,),
    scopes=("PickStock",),
    digest=DIGEST,
    issued_at=NOON,
)


def test_who_founds_an_organisation_is_its_admin() -> None:
    given().when(FoundOrganisation(name="Example", founded_at=NOON)).then(founded, founder)


def test_it_is_founded_once_and_renamed() -> None:
    again = FoundOrganisation(name="Other", founded_at=NOON)
    given(founded, founder).when(again).refused("organisation.already_founded", name="Example")
    # Members that the operator added make it an organisation too: nobody takes it over.
    given(ben).when(again, "local:eve").refused("organisation.already_founded")
    given(founded, founder).when(RenameOrganisation(name="Other", renamed_at=NOON)).then(
        OrganisationRenamed(name="Other", renamed_by=ACTOR, renamed_at=NOON)
    )


def test_the_operator_adds_a_member_once() -> None:
    add = AddMember(member=BEN, roles=(Role.VIEWER,), added_at=NOON)
    added = ben.model_copy(update={"added_by": "cli:ops"})
    given(founded, founder).when(add, "cli:ops").then(added)
    given(founded, founder, ben).when(add, "cli:ops").refused("member.already_added", member=BEN)
    removed = MemberRemoved(member=BEN, removed_by=ACTOR, removed_at=NOON)
    given(founded, founder, ben, removed).when(add, "cli:ops").then(added)


def test_a_member_makes_nobody_a_member_without_asking() -> None:
    """Whose requests name no organisation would find them in one of somebody else's."""
    add = AddMember(member=BEN, roles=(Role.VIEWER,), added_at=NOON)
    given(founded, founder).when(add).refused("member.needs_invitation", member=BEN)


@pytest.mark.parametrize(
    "command",
    [
        AddMember(member=BEN, roles=(Role.VIEWER,), added_at=NOON),
        ChangeMemberRoles(member=BEN, roles=(Role.ADMIN,), changed_at=NOON),
        InviteMember(
            invitation_id="I-1",
            roles=(Role.ADMIN,),
            digest=DIGEST,
            expires_at=LATER,
            invited_at=NOON,
        ),
        ISSUE,
    ],
    ids=type,
)
def test_a_key_gives_nobody_rights(command: Command) -> None:
    """It could give more than its own, for longer than it lives."""
    history = [] if isinstance(command, IssueApiKey) else [founded, founder]
    given(*history).when(command, "key:K-9").refused("organisation.needs_a_person")


def test_roles_are_replaced_as_a_whole() -> None:
    change = ChangeMemberRoles(member=BEN, roles=(Role.AUDITOR, Role.ANALYST), changed_at=NOON)
    given(founded, founder, ben).when(change).then(
        MemberRolesChanged(
            member=BEN, roles=("analyst", "auditor"), changed_by=ACTOR, changed_at=NOON
        )
    )
    given(founded, founder).when(change).refused("member.unknown", member=BEN)


@pytest.mark.parametrize(
    "command",
    [
        ChangeMemberRoles(member="local:ana", roles=(Role.VIEWER,), changed_at=NOON),
        RemoveMember(member="local:ana", removed_at=NOON),
        LeaveOrganisation(left_at=NOON),
    ],
    ids=type,
)
def test_an_admin_remains(command: Command) -> None:
    ana = founder.model_copy(update={"member": "local:ana"})
    other = founder.model_copy(update={"member": BEN})
    given(ana).when(command, "local:ana").refused("organisation.needs_an_admin")
    given(ana, ben).when(command, "local:ana").refused("organisation.needs_an_admin")
    assert given(ana, other).when(command, "local:ana").events


def test_a_member_leaves_and_who_is_none_cannot() -> None:
    leave = LeaveOrganisation(left_at=NOON)
    given(founder, ben).when(leave, BEN).then(
        MemberRemoved(member=BEN, removed_by=BEN, removed_at=NOON)
    )
    given(founder).when(leave, BEN).refused("member.unknown", member=BEN)
    given(founder).when(RemoveMember(member=BEN, removed_at=NOON)).refused("member.unknown")


def test_an_invitation_makes_one_member() -> None:
    invite = InviteMember(
        invitation_id="I-1",
        roles=(Role.ANALYST,),
        digest=DIGEST,
        expires_at=LATER,
        invited_at=NOON,
    )
    given(founder).when(invite).then(invited)
    joined = MemberAdded(
        member=BEN, roles=("analyst",), invitation_id="I-1", added_by=BEN, added_at=NOON
    )
    given(founder, invited).when(ACCEPT, BEN).then(joined)
    given(founder, invited).when(invite).refused("invitation.already_made", invitation_id="I-1")
    given(founder, invited, joined).when(ACCEPT, "local:eve").refused("invitation.unknown")


def test_open_invitations_are_bounded_and_expired_ones_do_not_count() -> None:
    many = [
        invited.model_copy(update={"invitation_id": f"I-{number}"})
        for number in range(10, 10 + MOST_INVITATIONS)
    ]
    invite = InviteMember(
        invitation_id="I-1",
        roles=(Role.ANALYST,),
        digest=DIGEST,
        expires_at=LATER + timedelta(days=7),
        invited_at=NOON,
    )
    given(founder, *many).when(invite).refused("organisation.too_many_invitations")
    later = invite.model_copy(update={"invited_at": LATER})
    assert given(founder, *many).when(later).events
    after = ORGANISATIONS.fold([founder, *many, invited.model_copy(update={"invited_at": LATER})])
    assert after.invitations.keys() == {"I-1"}


def test_with_a_member_go_its_open_invitations() -> None:
    bens = invited.model_copy(update={"invited_by": BEN, "invitation_id": "I-2"})
    given(founder, ben, invited, bens).when(RemoveMember(member=BEN, removed_at=NOON)).then(
        MemberRemoved(member=BEN, removed_by=ACTOR, removed_at=NOON),
        InvitationRevoked(invitation_id="I-2", revoked_by=ACTOR, revoked_at=NOON),
    )


def test_only_the_right_code_in_time_makes_a_member() -> None:
    wrong = ACCEPT.model_copy(update={"digest": "cd" * 32})
    given(founder, invited).when(wrong, BEN).refused("invitation.unknown")
    given(founder).when(ACCEPT, BEN).refused("invitation.unknown")
    late = ACCEPT.model_copy(update={"accepted_at": LATER})
    given(founder, invited).when(late, BEN).refused("invitation.expired")
    given(founder, invited, ben).when(ACCEPT, BEN).refused("member.already_added", member=BEN)


def test_an_invitation_is_taken_back() -> None:
    revoke = RevokeInvitation(invitation_id="I-1", revoked_at=NOON)
    revoked = InvitationRevoked(invitation_id="I-1", revoked_by=ACTOR, revoked_at=NOON)
    given(founder, invited).when(revoke).then(revoked)
    given(founder, invited, revoked).when(revoke).refused("invitation.unknown")
    given(founder, invited, revoked).when(ACCEPT, BEN).refused("invitation.unknown")
    given(founder).when(revoke).refused("invitation.unknown")


def test_a_key_is_issued_and_revoked_once() -> None:
    revoke = RevokeApiKey(key_id="K-1", revoked_at=NOON)
    revoked = ApiKeyRevoked(key_id="K-1", revoked_by=ACTOR, revoked_at=NOON)
    given().when(ISSUE).then(issued)
    given(issued).when(ISSUE).refused("api_key.already_issued", key_id="K-1")
    given(issued).when(revoke).then(revoked)
    given(issued, revoked).when(revoke).refused("api_key.already_revoked")
    given(issued, revoked).when(ISSUE).refused("api_key.already_issued")
    given().when(revoke).refused("api_key.unknown")


def test_nothing_ends_before_it_begins() -> None:
    ended = ISSUE.model_copy(update={"expires_at": NOON})
    given().when(ended).refused("api_key.expires_before_it_begins")
    invite = InviteMember(
        invitation_id="I-1",
        roles=(Role.ANALYST,),
        digest=DIGEST,
        expires_at=NOON,
        invited_at=NOON,
    )
    given(founder).when(invite).refused("invitation.expires_before_it_begins")


def test_an_organisation_has_room_for_so_many() -> None:
    crowd = [
        ben.model_copy(update={"member": f"local:{number}"}) for number in range(MOST_MEMBERS - 1)
    ]
    full = ORGANISATIONS.fold([founder])
    full = replace(full, members={**full.members, **{one.member: frozenset() for one in crowd}})
    add = AddMember(member=BEN, roles=(Role.VIEWER,), added_at=NOON)
    with pytest.raises(Refused) as caught:
        add_member(full, add, "cli:ops")
    assert caught.value.code == "organisation.full"
    room = replace(full, members=dict(list(full.members.items())[1:]))
    assert add_member(room, add, "cli:ops")


@pytest.mark.parametrize(
    "member", ["ana", "Local:ana", "local:", "local:a b", "local:a/b", "local:a\nb", "loc al:a"]
)
def test_a_member_is_an_account_of_a_provider(member: str) -> None:
    told = problems(AddMember, member=member, roles=("viewer",), added_at=NOON)
    assert "member" in told


@pytest.mark.parametrize("roles", [(), ("viewer", "viewer"), ("king",)])
def test_roles_are_some_known_ones_each_named_once(roles: tuple[str, ...]) -> None:
    assert "roles" in problems(AddMember, member=BEN, roles=roles, added_at=NOON)
