"""Accounts of the built-in provider: from the first mail to the last session."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import NamedTuple, Self
from uuid import UUID, uuid4

import psycopg
import structlog
from psycopg.errors import UniqueViolation
from psycopg.rows import TupleRow

from api.identity import letters
from api.identity.codes import find_code, new_code, take_code, wrong_password
from api.identity.failures import (
    MailNotSetUp,
    NotOffered,
    PasswordRefused,
    WrongCode,
    WrongCredentials,
)
from api.identity.mail import Mail, Outbox
from api.identity.passwords import Passwords, refused
from api.identity.sessions import Sessions, SignedIn, ended_sessions
from api.identity.tries import Tries
from eventstore import Log, LogUnavailable

_PRUNE_EVERY_S = 600.0
_PRUNE = (
    "DELETE FROM identity.codes WHERE expires_at < now() - interval '1 hour'",
    "DELETE FROM identity.sessions WHERE least(ended_at, expires_at) < now() - interval '30 days'",
    "DELETE FROM identity.revocations WHERE until < now() - interval '1 hour'",
)
_log = structlog.get_logger(__name__)


class KnownAccount(NamedTuple):
    """An account as its operator sees it."""

    id: UUID
    email: str
    name: str | None
    created_at: datetime
    disabled_at: datetime | None
    sessions: int


class Accounts:
    """Registers people, lets them in, and lets them choose a new password.

    What a stranger is answered, and how long that takes, does not tell which addresses have an
    account: that is said by mail alone.

    Args:
        mail: how letters go out; None: there is no way.
        registration: whether anybody may register.
        frontend: where the pages `/verify` and `/reset` are that letters lead to; None: letters
            hold the bare code.
    """

    def __init__(
        self,
        log: Log,
        sessions: Sessions,
        *,
        mail: Mail | None,
        registration: bool,
        frontend: str | None = None,
        passwords: Passwords | None = None,
    ) -> None:
        self.sessions = sessions
        self.registration = registration
        self._log = log
        self._outbox = None if mail is None else Outbox(mail)
        self._frontend = frontend
        self._passwords = passwords or Passwords()
        self._tries = Tries(log)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._outbox is not None:
            await self._outbox.__aenter__()
        self._task = asyncio.create_task(self._keep_pruned(), name="identity pruning")
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._outbox is not None:
            await self._outbox.__aexit__(*error)

    @property
    def mails(self) -> bool:
        """Whether there is a way to send mail."""
        return self._outbox is not None

    async def register(self, email: str, password: str, name: str | None) -> None:
        """Send a code to the address; there is an account when it comes back, with the password.

        Raises:
            NotOffered: nobody may register.
            MailNotSetUp: there is no way to send mail.
            Busy: see ``Passwords``.
        """
        if not self.registration:
            raise NotOffered("registration is closed: ask whoever runs this server for an account")
        outbox = self._writing()
        kept = await self._passwords.hash(password)
        async with self._log.connection() as connection:
            asked = await new_code(
                connection, "verify", email, letters.VERIFY_WITHIN, password_hash=kept, name=name
            )
        if asked.too_often:
            _log.warning("no mail sent: it was asked for too often")
        elif asked.known is None:
            outbox.post(letters.to_verify(email, asked.code, self._frontend))
        else:
            outbox.post(letters.is_known(email))

    async def verify(self, code: str, password: str, client: str) -> SignedIn:
        """Open an account for whoever has both the code and the password, and sign them in. The
        password too: else somebody who clicks on a mail that they did not ask for would open an
        account with a stranger's password.

        Raises:
            WrongCode: one of the two is not good.
            Busy: see ``Passwords``.
        """
        async with self._log.connection() as connection:
            asked = await find_code(connection, "verify", code)
        if not await self._passwords.matches(password, asked and asked.password_hash):
            async with self._log.connection() as connection:
                await wrong_password(connection, code)
            raise WrongCode
        account_id = uuid4()
        try:
            async with self._log.connection() as connection, connection.transaction():
                taken = await take_code(connection, "verify", code)
                if taken is None:
                    raise WrongCode
                await connection.execute(
                    """INSERT INTO identity.accounts (id, email, password_hash, name)
                    VALUES (%s, %s, %s, %s)""",
                    (account_id, taken.email, taken.password_hash, taken.name),
                )
        except UniqueViolation:
            raise WrongCode from None  # somebody opened it with another code
        return await self.sessions.begin(account_id, taken.email, client)

    async def log_in(self, email: str, password: str, client: str) -> SignedIn:
        """Sign somebody in.

        Raises:
            WrongCredentials: there is no such account, or not with this password, or not any more.
            TooManyTries: it was tried too often at this address.
            Busy: see ``Passwords``.
        """
        await self._tries.begin(email)
        row = await self._row(
            """SELECT id, password_hash FROM identity.accounts
            WHERE email = %s AND disabled_at IS NULL""",
            (email,),
        )
        account_id, kept = (None, None) if row is None else row
        if not await self._passwords.matches(password, kept):
            raise WrongCredentials
        await self._tries.forget(email)
        if self._passwords.outdated(kept):
            anew = await self._passwords.hash(password)
            async with self._log.connection() as connection:
                await connection.execute(
                    "UPDATE identity.accounts SET password_hash = %s WHERE id = %s "
                    "AND password_hash = %s",
                    (anew, account_id, kept),
                )
        return await self.sessions.begin(account_id, email, client)

    async def ask_reset(self, email: str) -> None:
        """Send a code for a new password to the address, if it has an account.

        Raises:
            MailNotSetUp: there is no way to send mail.
        """
        outbox = self._writing()
        async with self._log.connection() as connection:
            asked = await new_code(connection, "reset", email, letters.RESET_WITHIN)
        if asked.known and asked.too_often:
            _log.warning("no mail sent: it was asked for too often")
        elif asked.known:
            outbox.post(letters.to_reset(email, asked.code, self._frontend))

    async def reset(self, code: str, password: str) -> None:
        """Set a new password, once for a code, and end all sessions.

        Raises:
            WrongCode: the code is not good.
            PasswordRefused: the password is the account's address.
            Busy: see ``Passwords``.
        """
        async with self._log.connection() as connection:
            asked = await find_code(connection, "reset", code)
        if asked is None:
            raise WrongCode
        if (why := refused(password, asked.email)) is not None:
            raise PasswordRefused(why)
        kept = await self._passwords.hash(password)
        async with self._log.connection() as connection, connection.transaction():
            taken = await take_code(connection, "reset", code)
            if taken is None:
                raise WrongCode
            found = await connection.execute(
                """UPDATE identity.accounts SET password_hash = %s, password_changed_at = now()
                WHERE email = %s AND disabled_at IS NULL RETURNING id""",
                (kept, taken.email),
            )
            row = await found.fetchone()
            if row is None:
                raise WrongCode
            await connection.execute(
                "DELETE FROM identity.codes WHERE email = %s AND purpose = 'reset'", (taken.email,)
            )
            ended = await ended_sessions(connection, row[0], "password reset")
        self.sessions.refuse(ended)
        await self._tries.forget(taken.email)
        if self._outbox is not None:
            self._outbox.post(letters.was_reset(taken.email))

    async def name_of(self, account_id: UUID) -> str | None:
        """The name that an account was registered with."""
        row = await self._row("SELECT name FROM identity.accounts WHERE id = %s", (account_id,))
        return None if row is None else row[0]

    def _writing(self) -> Outbox:
        if self._outbox is None:
            raise MailNotSetUp
        return self._outbox

    async def _row(self, query: str, values: tuple[object, ...]) -> TupleRow | None:
        async with self._log.connection() as connection:
            found = await connection.execute(query.encode(), values)
            return await found.fetchone()

    async def _keep_pruned(self) -> None:
        while True:
            try:
                async with self._log.connection() as connection:
                    for statement in _PRUNE:
                        await connection.execute(statement)
                await self._tries.prune()
            except (psycopg.Error, LogUnavailable) as error:
                _log.warning("identity not pruned", error=str(error).strip())
            await asyncio.sleep(_PRUNE_EVERY_S)
