"""Organisations: members, invitations, and those that an account belongs to."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from eventstore import Log
from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page
from readmodels.sorting import Column, Sorting

_ORGANISATION = """SELECT name, founder, founded_at, version FROM read_models.organisation_list
    WHERE organisation_id = %(organisation_id)s"""

_MEMBER = """member, CASE WHEN removed THEN '[]' ELSE roles END AS roles, added_by, added_at,
    changed_by, changed_at, coalesce(removed, false) AS removed,
    CASE WHEN removed THEN removed_by END AS removed_by,
    CASE WHEN removed THEN removed_at END AS removed_at, last_position"""
_MEMBER_GET = f"""SELECT {_MEMBER}, (
        SELECT o.version FROM read_models.organisation_list o
        WHERE o.organisation_id = %(organisation_id)s
    ) AS version
    FROM read_models.member_list
    WHERE organisation_id = %(organisation_id)s AND member = %(member)s"""
_MEMBERS = f"""SELECT {_MEMBER} FROM read_models.member_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(role)s::text IS NULL OR (roles ? %(role)s AND NOT coalesce(removed, false)))
      AND (%(former)s OR NOT coalesce(removed, false))"""
MEMBER_SORTING = Sorting(
    {"member": Column(str), "added_at": Column(datetime), "changed_at": Column(datetime)},
    usual="member",
    key=("member",),
)

_INVITATIONS = """SELECT invitation_id, roles, invited_by, invited_at, expires_at, accepted_by,
    accepted_at, revoked_by, revoked_at FROM read_models.invitation_list
    WHERE organisation_id = %(organisation_id)s AND invitation_id > %(after)s
      AND (%(closed)s OR (accepted_at IS NULL AND revoked_at IS NULL))
    ORDER BY invitation_id LIMIT %(limit)s"""

_OF_ACCOUNT = """SELECT m.organisation_id, o.name, m.roles
    FROM read_models.member_list m
    LEFT JOIN read_models.organisation_list o ON o.organisation_id = m.organisation_id
    WHERE m.member = %s AND NOT coalesce(m.removed, false)
    ORDER BY m.added_at, m.organisation_id LIMIT 1000"""


class OrganisationView(Row):
    """An organisation; without a name and founder where it was never founded by a command.
    ``version``: of its stream, which members and invitations are in."""

    name: str | None = None
    founder: str | None = None
    founded_at: datetime | None = None
    version: int = 0


class MemberView(Row):
    """A member, or a former one: that has no roles. ``added_at`` is of the last time."""

    member: str
    roles: tuple[str, ...]
    added_by: str
    added_at: datetime
    changed_by: str
    changed_at: datetime
    removed: bool
    removed_by: str | None
    removed_at: datetime | None
    last_position: int


class MemberDetail(MemberView):
    """A member, and the version of the organisation's stream: for ``If-Match``."""

    version: int


class InvitationView(Row):
    """An invitation: open until it is accepted, revoked or expires."""

    invitation_id: str
    roles: tuple[str, ...]
    invited_by: str
    invited_at: datetime
    expires_at: datetime
    accepted_by: str | None
    accepted_at: datetime | None
    revoked_by: str | None
    revoked_at: datetime | None


class Belonging(Row):
    """An organisation that an account belongs to, and as what."""

    organisation_id: UUID
    name: str | None
    roles: tuple[str, ...]


async def get_organisation(read: ReadModels) -> OrganisationView:
    """The organisation."""
    return await read.one(OrganisationView, _ORGANISATION) or OrganisationView()


async def get_member(read: ReadModels, member: str) -> MemberDetail | None:
    """One member, or a former one; None: never was one."""
    return await read.one(MemberDetail, _MEMBER_GET, member=member)


async def list_members(
    read: ReadModels,
    *,
    role: str | None = None,
    former: bool = False,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[MemberView]:
    """Members, those of a role only where one is named; ``former`` ones too, if asked.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = MEMBER_SORTING.by(sort, cursor)
    rows = await read.rows(
        MemberView,
        f"{_MEMBERS} {by.sql}",
        role=role,
        former=former,
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)


async def list_invitations(
    read: ReadModels, *, closed: bool = False, cursor: str | None = None, limit: int = 50
) -> Page[InvitationView]:
    """Invitations that are open, or all of them.

    Raises:
        BadCursor: the cursor was not given by this query.
    """
    (after,) = decode(cursor, str) if cursor else ("",)
    rows = await read.rows(
        InvitationView, _INVITATIONS, closed=closed, after=after, limit=limit + 1
    )
    return page(rows, limit, lambda row: (row.invitation_id,))


async def organisations_of(log: Log, member: str) -> list[Belonging]:
    """Where an account belongs, as far as the read model has come: the one question that is asked
    across organisations, so it goes to the owner's connections and is asked of oneself only."""
    async with (
        log.connection() as connection,
        connection.cursor(row_factory=class_row(Belonging)) as cursor,
    ):
        await cursor.execute(_OF_ACCOUNT, (member,))
        return await cursor.fetchall()
