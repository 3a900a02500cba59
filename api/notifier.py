"""The notifier: tells subscribers of alerts by mail.

At least once: a letter is sent, then it is noted. Whoever dies between the two sends it again,
under the same Message-ID, by which mail programs know that they have it. Addresses are asked of the
accounts when a letter goes out, and stand in no event.
"""

from __future__ import annotations

import asyncio
import hashlib
import smtplib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import structlog
from psycopg.rows import class_row

from api.identity.mail import Letter, Mail, MailNotSent
from commands import Bus, Context, TooMuchContention
from commands.membership import Memberships
from domain.access import Role
from domain.alert_rules import RANK, AlertKind, Severity, rules_of
from domain.errors import Refused
from domain.notifications import RecordNotice
from eventstore import Log, LogUnavailable
from eventstore.ids import named_id

ACTOR = "service:alerts"
LOCAL = "local:"
_NOTIFYING = 0x_C4A1_0042
_LOOK_S = 2.0
#: More than so many new ones are told of in one letter.
_EACH = 5
_AGAIN = timedelta(minutes=1)
_log = structlog.get_logger(__name__)
_OUTAGE = (psycopg.OperationalError, psycopg.InterfaceError, LogUnavailable, TooMuchContention)

_SUBSCRIPTIONS = """SELECT organisation_id, subscriber, told, since_position, last_told_at
    FROM read_models.alert_subscriptions WHERE active"""
_NEW = """SELECT a.alert_id, a.kind, a.severity, a.sentence, a.raised_at
    FROM read_models.alert_list a
    WHERE a.organisation_id = %(organisation_id)s AND a.state = 'open'
        AND a.raised_position > %(since)s AND a.severity = ANY(%(severities)s)
        AND (cardinality(%(kinds)s::text[]) = 0 OR a.kind = ANY(%(kinds)s))
        AND (a.kind <> ALL(%(quiet)s::text[]) OR a.severity = 'critical')
        AND NOT EXISTS (SELECT FROM read_models.alert_notices n
            WHERE n.organisation_id = a.organisation_id AND n.subscriber = %(subscriber)s
                AND n.alert_id = a.alert_id)
    ORDER BY a.raised_position LIMIT 500"""
_RULES = """SELECT kind, told FROM read_models.alert_rule_list WHERE organisation_id = %s"""
_ADDRESS = "SELECT email FROM identity.accounts WHERE id = %s AND disabled_at IS NULL"


class Alert(NamedTuple):
    """What a letter tells."""

    alert_id: str
    kind: str
    severity: str
    sentence: str
    raised_at: datetime


@dataclass(frozen=True, slots=True)
class _Subscription:
    organisation_id: UUID
    subscriber: str
    told: dict[str, Any]
    since_position: int
    last_told_at: datetime | None

    @property
    def key(self) -> tuple[UUID, str]:
        return self.organisation_id, self.subscriber

    def due(self, now: datetime) -> bool:
        """Whether its letter of the day is to be sent; those that are told at once always are."""
        if self.told["digest"] == "immediate":
            return True
        here = now.astimezone(ZoneInfo(self.told["zone"]))
        slot = here.replace(hour=self.told["hour"], minute=0, second=0, microsecond=0)
        if slot > here:
            slot -= timedelta(days=1)
        last = self.last_told_at or datetime.fromisoformat(self.told["subscribed_at"])
        return slot > last


async def address_of(log: Log, subscriber: str) -> str | None:
    """The address of an account of ours; None: there is none, or it is somebody else's account."""
    try:
        account = UUID(subscriber.removeprefix(LOCAL)) if subscriber.startswith(LOCAL) else None
    except ValueError:
        account = None
    if account is None:
        return None
    async with log.connection() as connection:
        row = await (await connection.execute(_ADDRESS, (account,))).fetchone()
    return None if row is None else str(row[0])


def letters(subscriber: str, alerts: Sequence[Alert], *, one_letter: bool) -> list[list[Alert]]:
    """What is told in each letter: one alert, or all of them where they are many."""
    if one_letter or len(alerts) > _EACH:
        return [list(alerts)]
    return [[one] for one in alerts]


def name_of(subscriber: str, alerts: Sequence[Alert]) -> str:
    """What a letter is known by, whoever sends it how often: whom it tells of which alerts."""
    said = " ".join([subscriber, *(one.alert_id for one in alerts)])
    return f"N-{hashlib.sha256(said.encode()).hexdigest()[:32]}"


def letter_of(to: str, name: str, alerts: Sequence[Alert]) -> Letter:
    """The letter that tells of some alerts, the gravest first."""
    ordered = sorted(alerts, key=lambda one: (-RANK[Severity(one.severity)], one.raised_at))
    first = ordered[0]
    subject = f"[{first.severity}] {_flat(first.sentence)}"
    if len(ordered) > 1:
        subject = f"{len(ordered)} alerts, the gravest: {subject}"
    lines = [
        f"{one.raised_at:%Y-%m-%d %H:%M} UTC  {one.severity}  {one.kind}\n  {_flat(one.sentence)}\n"
        f"  alert {one.alert_id}"
        for one in ordered
    ]
    end = "You get this because you subscribed to alerts; unsubscribe in your notifications."
    return Letter(to, subject[:150], "\n\n".join([*lines, end]) + "\n", name)


def _flat(sentence: str) -> str:
    """On one line, without what is no letter or sign: a sentence holds what people wrote, and is to
    look like nothing else of the letter, nor steer a terminal."""
    return " ".join("".join(one if one.isprintable() else " " for one in sentence).split())


class Notifier:
    """Tells all subscribers of all organisations.

    Args:
        log: the log.
        bus: takes commands.
        memberships: knows who may see alerts still.
        mail: how letters go out.
    """

    def __init__(self, log: Log, bus: Bus, memberships: Memberships, mail: Mail) -> None:
        self._log, self._bus, self._memberships, self._mail = log, bus, memberships, mail
        # Sent, and the read models may not know it yet.
        self._told: dict[tuple[UUID, str], set[str]] = {}
        self._resting: dict[tuple[UUID, str], datetime] = {}

    async def run(self) -> None:
        """Look every few seconds until cancelled; of several processes one does it at a time."""
        while True:
            try:
                async with self._log.connection() as connection:
                    row = await (
                        await connection.execute("SELECT pg_try_advisory_lock(%s)", (_NOTIFYING,))
                    ).fetchone()
                    try:
                        if row is not None and row[0]:
                            await self.look(datetime.now(UTC))
                    finally:
                        await connection.execute("SELECT pg_advisory_unlock(%s)", (_NOTIFYING,))
            except psycopg.errors.UndefinedTable:
                pass  # the read models, or the accounts, are not made yet
            except _OUTAGE as error:
                _log.warning("notifications wait", error=str(error).strip())
            except Exception:
                _log.exception("subscribers were not told")
            await asyncio.sleep(_LOOK_S)

    async def look(self, now: datetime) -> int:
        """Send what is to be sent at a moment; how many letters."""
        async with self._log.connection() as connection:
            cursor = await connection.execute(_SUBSCRIPTIONS)
            found = [_Subscription(*row) for row in await cursor.fetchall()]
        sent = 0
        for one in found:
            try:
                if self._resting.get(one.key, now) <= now and one.due(now):
                    sent += await self._tell(one, now)
            except (psycopg.errors.UndefinedTable, *_OUTAGE):
                raise  # all of them wait
            except Exception:
                _log.exception("a subscriber was not told", organisation_id=str(one.key[0]))
                self._resting[one.key] = now + _AGAIN
        return sent

    async def _tell(self, one: _Subscription, now: datetime) -> int:
        alerts = await self._new(one, now)
        if not alerts:
            return 0
        rights = await self._memberships.rights(one.organisation_id, one.subscriber, now)
        if rights is not None and not rights.roles:
            await self._record(one, alerts, now, "is no member any more")
            return 0
        to = await address_of(self._log, one.subscriber)
        if to is None:
            await self._record(one, alerts, now, "there is no address of this account")
            return 0
        sent = 0
        daily = one.told["digest"] == "daily"
        for some in letters(one.subscriber, alerts, one_letter=daily):
            try:
                await self._mail.send(letter_of(to, name_of(one.subscriber, some), some))
            except MailNotSent as error:
                if isinstance(error.__cause__, smtplib.SMTPRecipientsRefused) and error.for_good:
                    await self._record(one, some, now, "the mail server refused the address")
                else:
                    _log.warning("a notification waits", error=str(error))
                    self._resting[one.key] = now + _AGAIN
                return sent
            await self._record(one, some, now)
            self._told.setdefault(one.key, set()).update(alert.alert_id for alert in some)
            sent += 1
        return sent

    async def _new(self, one: _Subscription, now: datetime) -> list[Alert]:
        """The alerts that a subscriber is to be told of, and is not yet."""
        least = RANK[Severity(one.told["least_severity"])]
        async with self._log.connection() as connection:
            rows = await (await connection.execute(_RULES, (one.organisation_id,))).fetchall()
        rules = rules_of(rows)
        bound = {
            "organisation_id": one.organisation_id,
            "subscriber": one.subscriber,
            "since": one.since_position,
            "severities": [severity.value for severity in Severity if RANK[severity] >= least],
            "kinds": list(one.told["kinds"]),
            "quiet": [kind.value for kind in AlertKind if rules[kind].is_quiet(now)],
        }
        async with (
            self._log.connection() as connection,
            connection.cursor(row_factory=class_row(Alert)) as cursor,
        ):
            await cursor.execute(_NEW, bound)
            found = await cursor.fetchall()
        told = self._told.get(one.key, set())
        self._told[one.key] = told & {alert.alert_id for alert in found}
        return [alert for alert in found if alert.alert_id not in told]

    async def _record(
        self,
        one: _Subscription,
        alerts: Sequence[Alert],
        now: datetime,
        failure: str | None = None,
    ) -> None:
        name = name_of(one.subscriber, alerts)
        command = RecordNotice(
            subscriber=one.subscriber,
            notice_id=name,
            alert_ids=tuple(alert.alert_id for alert in alerts),
            failure=failure,
            told_at=now,
        )
        id_ = named_id(one.organisation_id, f"notice {name} {failure or ''} {one.since_position}")
        context = Context(
            organisation_id=one.organisation_id,
            actor=ACTOR,
            roles=frozenset({Role.SERVICE}),
            command_id=id_,
            digest=id_.bytes,
        )
        try:
            await self._bus.execute(command, context)
        except Refused as refusal:  # unsubscribed meanwhile
            _log.info("a notice is not noted", code=refusal.code)
