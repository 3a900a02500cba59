"""Wires who somebody is: the providers of the settings, and the accounts of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from api.identity.accounts import Accounts
from api.identity.authenticator import Authenticator
from api.identity.local import LocalTokens
from api.identity.operator import Operator
from api.identity.providers import Foreign, Provider
from api.identity.revocations import Revocations
from api.identity.schema import prepare_identity
from api.identity.sessions import Sessions
from api.tokens import Issuer
from chainlytics.settings import Settings
from eventstore import Log


@asynccontextmanager
async def identity(
    settings: Settings, log: Log, url: str
) -> AsyncIterator[tuple[Authenticator, Accounts | None]]:
    """What believes tokens, and the accounts of our own where the settings offer them."""
    await prepare_identity(log)
    secret = settings.issuer_secret()
    providers: list[Provider] = [Operator(Issuer(secret))]
    providers += [Foreign(one) for one in settings.identity_providers]
    async with AsyncExitStack() as stack:
        revocations = await stack.enter_async_context(Revocations(log, url))
        accounts = None
        if settings.identity_local:
            tokens = LocalTokens(secret)
            providers.append(tokens)
            accounts = await stack.enter_async_context(
                Accounts(
                    log,
                    Sessions(log, tokens, revocations),
                    mail=settings.mail_adapter(),
                    registration=settings.registration,
                    frontend=settings.identity_frontend,
                )
            )
        yield Authenticator(providers, revocations), accounts
