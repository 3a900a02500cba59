"""Mail: the port, and its two adapters: SMTP, and the console for development."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import NamedTuple, Protocol, Self
from urllib.parse import unquote, urlsplit

import structlog

from api.identity.configuration import is_loopback

CONSOLE = "console"
_TIMEOUT_S = 10.0
_PORTS = {"smtps": 465, "smtp": 587}
_WAITING = 1_000
_PAUSES_S = (1.0, 5.0, 30.0)
_log = structlog.get_logger(__name__)


class Letter(NamedTuple):
    """A mail in plain text. ``name``: by which a letter that is sent again is known to be the same
    (the left part of its Message-ID); made up where it is None."""

    to: str
    subject: str
    text: str
    name: str | None = None


class MailNotSent(Exception):
    """A mail was not taken. ``for_good``: trying again does not help."""

    def __init__(self, why: str, *, for_good: bool = False) -> None:
        self.for_good = for_good
        super().__init__(why)


class Mail(Protocol):
    """A way to send mail."""

    async def send(self, letter: Letter) -> None:
        """Send it.

        Raises:
            MailNotSent: it was not taken.
        """


class ConsoleMail:
    """Shows mail to whoever runs the server: for development, since it shows codes too."""

    async def send(self, letter: Letter) -> None:
        """Print it to standard error."""
        told = f"--- mail to {letter.to}: {letter.subject}\n{letter.text}\n---\n"
        sys.stderr.write(told)
        sys.stderr.flush()


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mail is handed over. ``tls``: from the first byte; else by STARTTLS, and only a server
    on this machine may do without."""

    host: str
    port: int
    tls: bool
    user: str | None = None
    password: str | None = None

    @classmethod
    def of(cls, address: str) -> SmtpServer:
        """A server by its address, ``smtps://user:password@host:465`` or ``smtp://...``.

        Raises:
            ValueError: it is not one; the address itself is not repeated, it may hold a password.
        """
        wrong = "must be `console`, smtps://user:password@host:465 or smtp://user:password@host:587"
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError:
            raise ValueError(wrong) from None
        if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(wrong)
        if (parts.username is None) != (parts.password is None):
            raise ValueError("must name both a user and a password, or neither")
        return cls(
            parts.hostname,
            port or _PORTS[parts.scheme],
            parts.scheme == "smtps",
            None if parts.username is None else unquote(parts.username),
            None if parts.password is None else unquote(parts.password),
        )


class SmtpMail:
    """Hands mail to an SMTP server, one connection a letter.

    Args:
        server: where to.
        sender: the `From` of every letter.
        cafile: certificates that the server's is checked with; the system's without it.
    """

    def __init__(self, server: SmtpServer, sender: str, cafile: Path | None = None) -> None:
        self._server = server
        self._sender = sender
        self._context = ssl.create_default_context(cafile=None if cafile is None else str(cafile))

    async def send(self, letter: Letter) -> None:
        """See ``Mail``."""
        await asyncio.to_thread(self._send, letter)

    def _send(self, letter: Letter) -> None:
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = letter.to
        message["Subject"] = letter.subject
        message["Date"] = formatdate()
        domain = self._sender.rpartition("@")[2].strip(">")
        message["Message-ID"] = (
            make_msgid(domain=domain) if letter.name is None else f"<{letter.name}@{domain}>"
        )
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text)
        try:
            with self._connected() as connection:
                if self._server.user is not None and self._server.password is not None:
                    connection.login(self._server.user, self._server.password)
                connection.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise MailNotSent(
                f"the recipient was refused: {codes}", for_good=all(code >= 500 for code in codes)
            ) from error
        except smtplib.SMTPAuthenticationError as error:
            raise MailNotSent("the server refused user or password", for_good=True) from error
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise MailNotSent(f"{type(error).__name__}: {error}") from error

    def _connected(self) -> smtplib.SMTP:
        server = self._server
        if server.tls:
            return smtplib.SMTP_SSL(
                server.host, server.port, timeout=_TIMEOUT_S, context=self._context
            )
        connection = smtplib.SMTP(server.host, server.port, timeout=_TIMEOUT_S)
        try:
            connection.ehlo()
            # Whoever can strip the offer of STARTTLS on the way could read codes and password.
            if connection.has_extn("starttls") or not is_loopback(server.host):
                connection.starttls(context=self._context)
                connection.ehlo()
        except BaseException:
            connection.close()
            raise
        return connection


class Outbox:
    """Sends letters behind the requests that wrote them, so that an answer's time tells nothing.

    They wait in memory, a bounded number: who misses a mail asks for it again. What is not taken is
    tried again a few times, then logged; never its text, which holds a code.
    """

    def __init__(self, mail: Mail, *, pauses_s: Sequence[float] = _PAUSES_S) -> None:
        self._mail = mail
        self._pauses_s = tuple(pauses_s)
        self._waiting: asyncio.Queue[Letter] = asyncio.Queue(_WAITING)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work(), name="outbox")
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._waiting.join()
        except TimeoutError:
            _log.warning("mail not sent before the end", letters=self._waiting.qsize())
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def post(self, letter: Letter) -> None:
        """Send it soon."""
        try:
            self._waiting.put_nowait(letter)
        except asyncio.QueueFull:
            _log.error("mail dropped: too much is waiting")

    async def _work(self) -> None:
        while True:
            letter = await self._waiting.get()
            try:
                await self._deliver(letter)
            except Exception as error:
                # One letter must not end the outbox.
                _log.error("mail not sent", subject=letter.subject, error=type(error).__name__)
            finally:
                self._waiting.task_done()

    async def _deliver(self, letter: Letter) -> None:
        for pause in (*self._pauses_s, None):
            try:
                await self._mail.send(letter)
                return
            except MailNotSent as error:
                last = pause is None or error.for_good
                _log.warning("mail not taken", error=str(error), given_up=last)
                if last or pause is None:
                    return
                await asyncio.sleep(pause)


def mail_of(address: str, sender: str, cafile: Path | None = None) -> Mail:
    """The way to send mail that an address names.

    Raises:
        ValueError: it names none.
        OSError: there are no certificates in the file.
    """
    if address == CONSOLE:
        return ConsoleMail()
    return SmtpMail(SmtpServer.of(address), sender, cafile)
