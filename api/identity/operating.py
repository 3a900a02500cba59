"""What the operator does with accounts of the built-in provider."""

from __future__ import annotations

from uuid import UUID, uuid4

from psycopg.errors import UniqueViolation

from api.identity.accounts import KnownAccount
from api.identity.codes import new_code
from api.identity.letters import RESET_WITHIN
from api.identity.sessions import ended_sessions
from eventstore import Log
from eventstore.log import Connection

_LIST = """SELECT accounts.id, email, name, accounts.created_at, disabled_at,
    count(sessions.id) FILTER (WHERE ended_at IS NULL AND expires_at > now())
FROM identity.accounts AS accounts LEFT JOIN identity.sessions AS sessions
    ON account_id = accounts.id
GROUP BY accounts.id ORDER BY email LIMIT %s"""
_FIND = "SELECT id, email FROM identity.accounts WHERE email = lower(%s) OR id::text = %s"
#: A hash that no password has.
_NO_PASSWORD = "none"


class NoSuchAccount(Exception):
    """There is no account of this address or id."""

    def __init__(self, who: str) -> None:
        super().__init__(f"there is no account {who!r}")


class AccountExists(Exception):
    """There is an account of this address already."""

    def __init__(self, email: str) -> None:
        super().__init__(f"there is an account of {email!r} already")


async def list_accounts(log: Log, limit: int = 1000) -> list[KnownAccount]:
    """Accounts by address."""
    async with log.connection() as connection:
        found = await connection.execute(_LIST, (limit,))
        return [KnownAccount(*row) for row in await found.fetchall()]


async def add_account(log: Log, email: str, name: str | None) -> tuple[UUID, str]:
    """Open an account; its id, and the code by which its owner chooses a password.

    Raises:
        AccountExists: there is one of this address.
    """
    account_id = uuid4()
    try:
        async with log.connection() as connection, connection.transaction():
            await connection.execute(
                """INSERT INTO identity.accounts (id, email, password_hash, name)
                VALUES (%s, %s, %s, %s)""",
                (account_id, email, _NO_PASSWORD, name),
            )
            asked = await new_code(connection, "reset", email, RESET_WITHIN)
    except UniqueViolation:
        raise AccountExists(email) from None
    return account_id, asked.code


async def disable_account(log: Log, who: str) -> str:
    """Let somebody in no more, and end all sessions; the address.

    Raises:
        NoSuchAccount: nobody is of this address or id.
    """
    account_id, email = await _found(log, who)
    async with log.connection() as connection, connection.transaction():
        await connection.execute(
            "UPDATE identity.accounts SET disabled_at = coalesce(disabled_at, now()) WHERE id = %s",
            (account_id,),
        )
        await ended_sessions(connection, account_id, "account disabled")
    return email


async def enable_account(log: Log, who: str) -> str:
    """Let somebody in again; the address.

    Raises:
        NoSuchAccount: nobody is of this address or id.
    """
    account_id, email = await _found(log, who)
    async with log.connection() as connection:
        await connection.execute(
            "UPDATE identity.accounts SET disabled_at = NULL WHERE id = %s", (account_id,)
        )
    return email


async def remove_account(log: Log, who: str) -> str:
    """Forget somebody: account, sessions, codes, profile and preferences; the address. What the
    account did stays in the log, under an id that names nobody any more. Of an account of another
    provider (``nhost:...``), profile and preferences.

    Raises:
        NoSuchAccount: nobody is of this address or id.
    """
    try:
        account_id, email = await _found(log, who)
    except NoSuchAccount:
        # Of another provider's account we have no more than this.
        async with log.connection() as connection, connection.transaction():
            if not await _forget(connection, who):
                raise
        return who
    async with log.connection() as connection, connection.transaction():
        await ended_sessions(connection, account_id, "account removed")
        await connection.execute("DELETE FROM identity.codes WHERE email = %s", (email,))
        await _forget(connection, f"local:{account_id}")
        await connection.execute("DELETE FROM identity.accounts WHERE id = %s", (account_id,))
    return email


async def _forget(connection: Connection, account: str) -> int:
    """Remove profile and preferences of an account; how many there were."""
    profiles = await connection.execute(
        "DELETE FROM identity.profiles WHERE account = %s", (account,)
    )
    preferences = await connection.execute(
        "DELETE FROM identity.preferences WHERE account = %s", (account,)
    )
    return profiles.rowcount + preferences.rowcount


async def _found(log: Log, who: str) -> tuple[UUID, str]:
    async with log.connection() as connection:
        row = await (await connection.execute(_FIND, (who, who))).fetchone()
    if row is None:
        raise NoSuchAccount(who)
    return row[0], row[1]
