"""Connections of the role that queries run as: it owns nothing (docs/adr/0035).

The role is ``<owner>_api``; roles.sql makes it and says what it may read. Where the owner has a
password, the role's follows from it, so that nobody has to keep another secret. Where it has none
(the system's account, a certificate), the owner's connections take the role on as they begin.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

_PURPOSE = b"chainlytics: the password of the role that queries run as"
_TRIES = 5
#: How roles.sql says that the role is missing and cannot be made.
NO_ROLE = "CL010"

_OWNER = "SELECT current_user, current_user || '_api'"
_SEES = """SELECT current_user, r.rolsuper OR r.rolbypassrls OR pg_has_role(c.relowner, 'MEMBER'),
    has_column_privilege(c.oid, 'state', 'SELECT'), pg_get_userbyid(c.relowner)
FROM pg_roles r, pg_class c WHERE r.rolname = current_user AND c.oid = to_regclass('events')"""


class RoleUnusable(Exception):
    """Queries cannot run as a role of their own; the message says what is missing."""


async def conninfo_of_queries(owner: AsyncConnection[Any], url: str, given: str | None) -> str:
    """How to connect as the role that queries run as; it was tried.

    Args:
        owner: a connection of the database's owner.
        url: how that one was made.
        given: a URL of the role's own, where an administrator has made a login for it.

    Raises:
        RoleUnusable: nobody can log in as this role, or it sees more than it should.
        psycopg.OperationalError: the database went away.
    """
    if given is not None:
        return await _tried(given, "CHAINLYTICS_API_DATABASE_URL")
    name, role = await _one(owner, _OWNER)
    password = owner.info.password
    if not password:
        return await _tried(taking_on(url, role), role)
    own = hmac.digest(password.encode(), _PURPOSE, "sha256").hex()
    conninfo = make_conninfo(url, user=role, password=own)
    try:
        return await _tried(conninfo, role)
    except psycopg.OperationalError:
        # It has no password yet, or the owner's was changed.
        await _give_password(owner, name, role, own)
    try:
        return await _tried(conninfo, role)
    except psycopg.OperationalError as error:
        raise RoleUnusable(
            f"queries cannot log in as {role} ({_told(error)}): let this role in where {name} is "
            "(pg_hba.conf), or give it a login and name that in CHAINLYTICS_API_DATABASE_URL"
        ) from error


def taking_on(url: str, role: str) -> str:
    """Connections of the owner's that take on a role as they begin."""
    escaped = role.replace("\\", "\\\\").replace(" ", "\\ ")  # a space would end it
    options = f"{conninfo_to_dict(url).get('options') or ''} -c role={escaped}"
    return make_conninfo(url, options=options.strip())


async def _tried(conninfo: str, named: str) -> str:
    """The same, if it connects and sees no more than it should."""
    try:
        connection = await AsyncConnection.connect(conninfo, autocommit=True)
    except psycopg.Error as error:
        if named != "CHAINLYTICS_API_DATABASE_URL":
            raise
        raise RoleUnusable(f"{named}: {_told(error)}") from error
    async with connection:
        user, sees_all, reads, owner = await _one(connection, _SEES)
    if sees_all:
        raise RoleUnusable(
            f"{named}: {user} sees the rows of every organisation: it is a superuser, has "
            f"BYPASSRLS, or is a member of {owner}, who owns the log"
        )
    if not reads:
        raise RoleUnusable(
            f"{named}: {user} may not read what queries read: GRANT {owner}_api TO {user}"
        )
    return conninfo


async def _give_password(owner: AsyncConnection[Any], name: str, role: str, password: str) -> None:
    """Let the role log in by a password, which is sent as the server keeps it: hashed."""
    hashed = owner.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    query = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(
        sql.Identifier(role), sql.Literal(hashed.decode())
    )
    for _ in range(_TRIES):
        try:
            await owner.execute(query)
            return
        except psycopg.errors.InternalError_:
            # "tuple concurrently updated": another process does the same, with the same password.
            await asyncio.sleep(0.1)
        except psycopg.errors.InsufficientPrivilege as error:
            raise RoleUnusable(
                f"{name} may not give the role {role} a password: have an administrator make a "
                f"login that is a member of {role}, and name it in CHAINLYTICS_API_DATABASE_URL"
            ) from error


async def _one(connection: AsyncConnection[Any], query: str) -> tuple[Any, ...]:
    row = await (await connection.execute(query)).fetchone()
    if row is None:
        raise RoleUnusable("the database that queries are asked in holds no log")
    return tuple(row)


def _told(error: psycopg.Error) -> str:
    return str(error).strip().splitlines()[-1].strip()
