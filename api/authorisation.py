"""Who may act for which organisation, and as what: an account's token or a service's key, held
against the organisation's own events."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic
from uuid import UUID

from api.identity.account import Account
from api.identity.authenticator import Authenticator
from api.tokens import Identity, InvalidToken
from commands.membership import FRESH_S, Memberships
from domain.access import KEY_ACTOR
from domain.organisations import STREAM
from eventstore import Log
from readmodels.organisations import Belonging, organisations_of

_REST = r"_([0-9a-f]{32})_([A-Za-z0-9][A-Za-z0-9._-]{0,63})_([0-9a-f]{64})\Z"
_KEY = re.compile("chk" + _REST)
_CODE = re.compile("chi" + _REST)
_MOST = 10_000


class NoSuchOrganisation(Exception):
    """The caller does not belong to the organisation, whether there is one or not."""

    def __init__(self, organisation_id: UUID) -> None:
        super().__init__(f"organisation {str(organisation_id)!r} is not known")


class OrganisationNeeded(Exception):
    """The account belongs to no organisation, or to several and none was named."""

    def __init__(self, count: int) -> None:
        told = (
            f"you belong to {count} organisations: name one in the header X-Organisation-Id"
            if count
            else "you belong to no organisation yet: found one, or accept an invitation"
        )
        super().__init__(told)


def api_key_of(organisation_id: UUID, key_id: str, secret: str) -> str:
    """A key as a service shows it."""
    return f"chk_{organisation_id.hex}_{key_id}_{secret}"


def invitation_code(organisation_id: UUID, invitation_id: str, secret: str) -> str:
    """An invitation's code, as whoever is invited sends it back."""
    return f"chi_{organisation_id.hex}_{invitation_id}_{secret}"


def read_invitation_code(code: str) -> tuple[UUID, str, str] | None:
    """Organisation, invitation and secret of a code; None: it is not of the form of one."""
    form = _CODE.match(code)
    return None if form is None else (UUID(form[1]), form[2], form[3])


def is_api_key(credentials: str) -> bool:
    """Whether credentials are a service's key, good or not."""
    return credentials.startswith("chk_")


def digest_of(secret: str) -> str:
    """What events hold of a secret. It has 256 random bits, so one round of SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Authorisation:
    """Turns what a request shows into who it is and what that may do.

    Args:
        authenticator: believes tokens.
        memberships: the members and keys of organisations, from the log.
        log: asked where an account belongs.
        secret: what the secrets of keys and invitations are made with.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        memberships: Memberships,
        log: Log,
        *,
        secret: bytes,
    ) -> None:
        self._authenticator = authenticator
        self.memberships = memberships
        self._log = log
        self._secret = secret
        self._belongings: OrderedDict[str, tuple[float, list[Belonging]]] = OrderedDict()
        self._joined: OrderedDict[str, UUID] = OrderedDict()

    def secret_of(self, command_id: UUID) -> str:
        """The secret that a command gives out: 64 hexadecimal digits. It is stored nowhere, and a
        retry of the command is answered with the same one."""
        told = b"secret of " + command_id.bytes
        return hmac.digest(self._secret, told, hashlib.sha256).hex()

    async def account(self, credentials: str) -> Account:
        """Whose token it is.

        Raises:
            InvalidToken: it is none, or not to be believed.
        """
        if is_api_key(credentials):
            raise InvalidToken("an API key is of an organisation's service: this needs an account")
        return await self._authenticator.authenticate(credentials)

    async def identified(self, credentials: str, organisation: UUID | None) -> Identity:
        """Who sends a request, for which organisation, and what is allowed there.

        Args:
            credentials: a bearer token or an API key.
            organisation: the one that the request names; without it the token's own, or the only
                one that the account belongs to.

        Raises:
            InvalidToken: the credentials are not to be believed.
            NoSuchOrganisation: not one of the caller's.
            OrganisationNeeded: it is not clear which one.
        """
        if is_api_key(credentials):
            return await self._by_key(credentials, organisation)
        account = await self._authenticator.authenticate(credentials)
        if account.roles is not None:
            own = account.organisation_id
            assert own is not None
            if organisation is not None and organisation != own:
                raise NoSuchOrganisation(organisation)
            return Identity(account.id, own, account.roles, None, account.expires_at, operator=True)
        chosen = organisation or account.organisation_id or await self._only(account)
        members = (await self.memberships.of(chosen)).members
        roles = members.get(account.id)
        if roles is None:
            raise NoSuchOrganisation(chosen)
        return Identity(account.id, chosen, roles, None, account.expires_at)

    async def belongings(self, account: Account) -> Sequence[Belonging]:
        """The organisations of an account, the oldest membership first."""
        if account.roles is not None:
            own = account.organisation_id
            assert own is not None
            named = (await self.memberships.of(own)).name
            return [Belonging(organisation_id=own, name=named, roles=tuple(sorted(account.roles)))]
        found = await organisations_of(self._log, account.id)
        newest = self._joined.get(account.id)
        if newest is not None and newest not in {one.organisation_id for one in found}:
            organisation = await self.memberships.of(newest)
            if (roles := organisation.members.get(account.id)) is not None:
                held = tuple(sorted(roles))
                found.append(Belonging(organisation_id=newest, name=organisation.name, roles=held))
        return found

    async def _only(self, account: Account) -> UUID:
        at, found = self._belongings.get(account.id, (0.0, []))
        if not found or monotonic() - at > FRESH_S:
            at, found = monotonic(), await organisations_of(self._log, account.id)
            self._belongings[account.id] = (at, found)
            self._belongings.move_to_end(account.id)
            if len(self._belongings) > _MOST:
                self._belongings.popitem(last=False)
        own = {one.organisation_id for one in found}
        # Where it joined just now the read model may not know yet.
        newest = self._joined.get(account.id)
        if newest is not None and account.id in (await self.memberships.of(newest)).members:
            own.add(newest)
        if len(own) != 1:
            raise OrganisationNeeded(len(own))
        return own.pop()

    def joined(self, account: Account, organisation_id: UUID) -> None:
        """An account founded or joined an organisation in this process."""
        self.memberships.changed(organisation_id, STREAM)
        self._joined[account.id] = organisation_id
        self._joined.move_to_end(account.id)
        if len(self._joined) > _MOST:
            self._joined.popitem(last=False)

    async def _by_key(self, credentials: str, organisation: UUID | None) -> Identity:
        form = _KEY.match(credentials)
        if form is None:
            raise InvalidToken("the API key is not of the form of one")
        own, key_id, secret = UUID(form[1]), form[2], form[3]
        key = await self.memberships.api_key(own, key_id)
        # Compared always, and first: how long it takes says nothing of which keys there are.
        right = hmac.compare_digest(digest_of(secret), key.digest or digest_of(""))
        if not right or not key.digest:
            raise InvalidToken("the API key is not known")
        if key.revoked:
            raise InvalidToken("the API key was revoked")
        if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
            raise InvalidToken("the API key has expired")
        if organisation is not None and organisation != own:
            raise NoSuchOrganisation(organisation)
        return Identity(f"{KEY_ACTOR}{key_id}", own, key.roles, key.scopes or None, key.expires_at)
