"""Organisations: what they are called, who belongs to them since when and as what."""

from __future__ import annotations

from polars import lit

from domain.organisations import (
    EVENTS,
    InvitationRevoked,
    MemberAdded,
    MemberInvited,
    MemberRemoved,
    MemberRolesChanged,
    OrganisationFounded,
    OrganisationRenamed,
)
from projections.fold import first, last
from projections.table import Table

ORGANISATION_LIST = Table(
    name="organisation_list",
    # One row for an organisation: its id is a column of every table.
    key={one: {"own": lit("own")} for one in EVENTS},
    columns={
        "version": last(dict.fromkeys(EVENTS, "version")),
        "name": last({OrganisationFounded: "name", OrganisationRenamed: "name"}),
        "founder": first({OrganisationFounded: "founder"}),
        "founded_at": first({OrganisationFounded: "founded_at"}),
    },
)

MEMBER_LIST = Table(
    name="member_list",
    key=dict.fromkeys((MemberAdded, MemberRolesChanged, MemberRemoved), ("member",)),
    columns={
        "roles": last({MemberAdded: "roles", MemberRolesChanged: "roles"}),
        "added_by": last({MemberAdded: "added_by"}),
        "added_at": last({MemberAdded: "added_at"}),
        "changed_by": last({MemberAdded: "added_by", MemberRolesChanged: "changed_by"}),
        "changed_at": last({MemberAdded: "added_at", MemberRolesChanged: "changed_at"}),
        "removed": last({MemberAdded: lit(False), MemberRemoved: lit(True)}),
        "removed_by": last({MemberRemoved: "removed_by"}),
        "removed_at": last({MemberRemoved: "removed_at"}),
    },
)

INVITATION_LIST = Table(
    name="invitation_list",
    key=dict.fromkeys((MemberInvited, InvitationRevoked, MemberAdded), ("invitation_id",)),
    columns={
        "roles": first({MemberInvited: "roles"}),
        "invited_by": first({MemberInvited: "invited_by"}),
        "invited_at": first({MemberInvited: "invited_at"}),
        "expires_at": first({MemberInvited: "expires_at"}),
        "accepted_by": first({MemberAdded: "member"}),
        "accepted_at": first({MemberAdded: "added_at"}),
        "revoked_by": first({InvitationRevoked: "revoked_by"}),
        "revoked_at": first({InvitationRevoked: "revoked_at"}),
    },
)

TABLES = (ORGANISATION_LIST, MEMBER_LIST, INVITATION_LIST)
