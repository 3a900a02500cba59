"""The secrets of webhooks: encrypted beside the log, named by ids."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from eventstore.log import Connection, Log
from eventstore.persons.cipher import WrongKey, unwrap, wrap
from eventstore.persons.keys import PersonKeys, WrongMasterKey
from eventstore.webhooks.signing import new_secret

#: How long a secret is shown again to who asks by the same command: its answer may have been lost.
SHOWN_FOR = timedelta(hours=1)

# Of two at once under one id the first one counts, for both.
_KEEP = """INSERT INTO webhook_secrets (secret_id, organisation_id, webhook_id, sealed)
    VALUES (%s, %s, %s, %s) ON CONFLICT (secret_id) DO NOTHING"""
_OPEN = """SELECT sealed, created_at > clock_timestamp() - %s::interval FROM webhook_secrets
    WHERE organisation_id = %s AND webhook_id = %s AND secret_id = %s"""
_DROP = """DELETE FROM webhook_secrets
    WHERE organisation_id = %s AND webhook_id = %s AND secret_id = %s"""
# What no webhook of the deliverer's names any more, or never did.
_SWEEP = """DELETE FROM webhook_secrets s WHERE s.created_at < clock_timestamp() - %s::interval
    AND NOT EXISTS (SELECT FROM webhook_endpoints e
        WHERE e.organisation_id = s.organisation_id AND e.webhook_id = s.webhook_id
            AND (e.secret_id = s.secret_id
                OR (e.former_secret_id = s.secret_id AND e.former_until > clock_timestamp())))"""


class Opened(NamedTuple):
    """A secret; ``fresh``: made so lately that the answer that shows it may be under way."""

    secret: bytes
    fresh: bool


class WebhookSecrets:
    """Keeps and opens the secrets of one database.

    Args:
        log: whose database it is.
        keys: gives the key that they are encrypted with.
    """

    def __init__(self, log: Log, keys: PersonKeys) -> None:
        self._log = log
        self._keys = keys

    async def make(self, organisation_id: UUID, webhook_id: str, secret_id: UUID) -> bool:
        """Make a secret of this id, unless there is one; whether there was none.

        Raises:
            WrongMasterKey: it cannot be encrypted.
            LogUnavailable: the database did not answer in time.
        """
        name = _name(organisation_id, webhook_id, secret_id)
        sealed = wrap(await self._keys.webhook_key(), new_secret(), name)
        async with self._log.connection() as connection:
            cursor = await connection.execute(
                _KEEP, (secret_id, organisation_id, webhook_id, sealed)
            )
        return cursor.rowcount == 1

    async def open(self, organisation_id: UUID, webhook_id: str, secret_id: UUID) -> Opened | None:
        """The secret of this id; None where it is destroyed.

        Raises:
            WrongMasterKey: it does not open.
            LogUnavailable: the database did not answer in time.
        """
        key = await self._keys.webhook_key()
        async with self._log.connection() as connection:
            cursor = await connection.execute(
                _OPEN, (SHOWN_FOR, organisation_id, webhook_id, secret_id)
            )
            row = await cursor.fetchone()
        if row is None:
            return None
        try:
            secret = unwrap(key, row[0], _name(organisation_id, webhook_id, secret_id))
        except WrongKey as error:
            raise WrongMasterKey from error
        return Opened(secret, row[1])

    async def signers(
        self,
        organisation_id: UUID,
        webhook_id: str,
        secret_id: UUID,
        former: UUID | None,
        former_until: datetime | None,
        now: datetime,
    ) -> list[bytes]:
        """The secrets that sign now: the present one, and within the grace the former one."""
        ids = [secret_id]
        if former is not None and former_until is not None and now < former_until:
            ids.append(former)
        found = [await self.open(organisation_id, webhook_id, one) for one in ids]
        return [one.secret for one in found if one is not None]

    async def drop(self, organisation_id: UUID, webhook_id: str, secret_id: UUID) -> None:
        """Destroy a secret that no event names."""
        async with self._log.connection() as connection:
            await connection.execute(_DROP, (organisation_id, webhook_id, secret_id))


async def sweep(connection: Connection) -> int:
    """Destroy secrets that sign nothing any more: of removed webhooks, former ones behind their
    grace, and those made for commands that were not stored. How many."""
    return (await connection.execute(_SWEEP, (SHOWN_FOR,))).rowcount


def _name(organisation_id: UUID, webhook_id: str, secret_id: UUID) -> bytes:
    """What a secret is bound to: moved to another webhook's row it does not open."""
    return b"webhook\0" + organisation_id.bytes + secret_id.bytes + webhook_id.encode()
