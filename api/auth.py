"""Signing in over HTTP: accounts of our own, their sessions, and who a token speaks for."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Body, Header, Path, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import Example
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from api.dependencies import Credentials, Dependencies, NotFound, Parts, Who
from api.errors import documented
from api.identity.accounts import Accounts
from api.identity.address import address
from api.identity.failures import NotOffered
from api.identity.local import LOCAL
from api.identity.passwords import LONGEST, SHORTEST, refused
from api.identity.sessions import SignedIn
from api.organisations import organisations_of
from api.routers import Router
from api.tokens import InvalidToken
from domain.access import Role
from readmodels.organisations import Belonging

router = Router("/auth", tags=["auth"])

_CODE = "7Q2KD-M4XVA-9TBNE-3HGRC"
_PHRASE = "three quiet herons wade"
_MAIL = "ada@example.com"


def _readable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("must be readable text on one line")
    return text.strip()


Email = Annotated[
    str,
    Field(min_length=3, max_length=254, json_schema_extra={"format": "email"}, examples=[_MAIL]),
    AfterValidator(address),
]
Password = Annotated[SecretStr, Field(min_length=1, max_length=LONGEST, examples=[_PHRASE])]
NewPassword = Annotated[
    SecretStr, Field(min_length=SHORTEST, max_length=LONGEST, examples=[_PHRASE])
]
Code = Annotated[SecretStr, Field(min_length=20, max_length=40, examples=[_CODE])]
PersonName = Annotated[
    str, Field(min_length=1, max_length=100, examples=["Ada Lovelace"]), AfterValidator(_readable)
]
Client = Annotated[str | None, Header(alias="User-Agent", include_in_schema=False)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Registration(_Asked):
    """Who wants an account."""

    email: Email
    password: NewPassword
    name: PersonName | None = None


class Verification(_Asked):
    """The code of the mail, and the password that was registered with."""

    code: Code
    password: Password


class Login(_Asked):
    """Who signs in."""

    email: Email
    password: Password


class Refresh(_Asked):
    """A session's newest refresh token."""

    refresh_token: SecretStr = Field(
        min_length=1, max_length=200, examples=["chr_Zl3mYF0n2k9xq7Qv5sD1wB8uT4rE6yP0aHcGjKiLoMn"]
    )


class ResetRequest(_Asked):
    """Whose password is forgotten."""

    email: Email


class Reset(_Asked):
    """The code of the mail, and the new password."""

    code: Code
    password: NewPassword


class MailSent(BaseModel):
    """The same answer whether the address has an account or not."""

    detail: str = "if that is possible, a mail is on its way to this address"


class Tokens(BaseModel):
    """What signs the next requests, and what gets the next tokens."""

    access_token: str = Field(description="For `Authorization: Bearer ...`.")
    token_type: Literal["Bearer"] = "Bearer"
    expires_at: datetime = Field(description="When the access token does.")
    refresh_token: str = Field(description="Good once: each refresh gives the next one.")
    refresh_expires_at: datetime = Field(description="When the session ends at the latest.")
    account: str = Field(
        description="The account's id, as events name it.",
        examples=["local:6f1b7a52-0c35-4c1e-9d57-0d4a5a3c8f11"],
    )


class Me(BaseModel):
    """Who a token speaks for."""

    id: str = Field(
        description="The account's id, as events name it.",
        examples=["local:6f1b7a52-0c35-4c1e-9d57-0d4a5a3c8f11"],
    )
    provider: str = Field(description="Who says so.", examples=["local"])
    email: str | None = Field(description="If the provider has verified it.", examples=[_MAIL])
    name: str | None
    expires_at: datetime | None = Field(description="When the token does.")
    organisation_id: UUID | None = Field(description="The one that the token asks for.")
    roles: list[Role] | None = Field(description="Of an operator's own token; else null.")
    organisations: list[Belonging]


class SessionView(BaseModel):
    """A session that goes on."""

    id: UUID
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    client: str = Field(description="What the client called itself when it signed in.")
    current: bool = Field(description="Whether this request is of it.")


class ProviderHealth(BaseModel):
    """Whether tokens of a provider can be checked now."""

    name: str = Field(examples=["local"])
    kind: Literal["operator", "local", "nhost", "supabase", "oidc"]
    available: bool


class IdentityHealth(BaseModel):
    """Which providers there are, and what is offered to people without an account."""

    status: Literal["ok", "degraded"]
    providers: list[ProviderHealth]
    registration: Literal["open", "closed"]
    mail: bool = Field(description="Whether mail can be sent.")


def _example(summary: str, **value: str) -> dict[str, Example]:
    return {"example": {"summary": summary, "value": value}}


@router.post("/register", summary="Register", status_code=202, responses=documented(400, 404, 413))
async def register(
    deps: Parts,
    body: Annotated[
        Registration, Body(openapi_examples=_example("Ada", email=_MAIL, password=_PHRASE))
    ],
) -> MailSent:
    """Ask for an account. A code comes by mail; `POST /auth/verify` opens the account with it. The
    answer is the same where the address has an account: then the mail says so."""
    password = body.password.get_secret_value()
    _check(password, body.email)
    await _accounts(deps).register(body.email, password, body.name)
    return MailSent()


@router.post("/verify", summary="Verify an e-mail address", responses=documented(400, 401, 404))
async def verify(
    deps: Parts,
    response: Response,
    body: Annotated[
        Verification, Body(openapi_examples=_example("Ada", code=_CODE, password=_PHRASE))
    ],
    user_agent: Client = None,
) -> Tokens:
    """Open the account that was registered, and sign in."""
    signed = await _accounts(deps).verify(
        body.code.get_secret_value(), body.password.get_secret_value(), _client(user_agent)
    )
    return _tokens(response, signed)


@router.post("/login", summary="Log in", responses=documented(400, 404, 413, 429))
async def login(
    deps: Parts,
    response: Response,
    body: Annotated[Login, Body(openapi_examples=_example("Ada", email=_MAIL, password=_PHRASE))],
    user_agent: Client = None,
) -> Tokens:
    """Begin a session. After several wrong passwords at an address, known or not, each try waits
    longer than the last."""
    signed = await _accounts(deps).log_in(
        body.email, body.password.get_secret_value(), _client(user_agent)
    )
    return _tokens(response, signed)


@router.post("/refresh", summary="Refresh a session", responses=documented(400, 404, 413))
async def refresh(deps: Parts, response: Response, body: Annotated[Refresh, Body()]) -> Tokens:
    """The next tokens. A refresh token is good once; one that comes back ends the whole session, so
    send one refresh at a time."""
    signed = await _accounts(deps).sessions.refresh(body.refresh_token.get_secret_value())
    return _tokens(response, signed)


@router.post("/logout", summary="Log out", status_code=204, responses=documented())
async def logout(deps: Parts, who: Who, credentials: Credentials) -> None:
    """Believe this token no more; of a session of ours, nothing of the session."""
    assert credentials is not None
    token = credentials.credentials
    session = (await deps.authenticator.verified(token)).session
    if session is not None and deps.accounts is not None:
        await deps.accounts.sessions.end(UUID(who.subject), session, "logout")
    else:
        await deps.authenticator.revoke(token)


@router.post(
    "/password/reset-request",
    summary="Ask for a new password",
    status_code=202,
    responses=documented(400, 404, 413),
)
async def ask_reset(
    deps: Parts,
    body: Annotated[ResetRequest, Body(openapi_examples=_example("Ada", email=_MAIL))],
) -> MailSent:
    """Have a code sent that sets a new password, if the address has an account."""
    await _accounts(deps).ask_reset(body.email)
    return MailSent()


@router.post(
    "/password/reset",
    summary="Set a new password",
    status_code=204,
    responses=documented(400, 404, 413),
)
async def reset(
    deps: Parts,
    body: Annotated[Reset, Body(openapi_examples=_example("Ada", code=_CODE, password=_PHRASE))],
) -> None:
    """Set a new password by the code of the mail, and end all sessions of the account."""
    password = body.password.get_secret_value()
    _check(password)
    await _accounts(deps).reset(body.code.get_secret_value(), password)


@router.get("/me", summary="Who am I", responses=documented())
async def me(deps: Parts, who: Who) -> Me:
    """Who the token speaks for, and which organisations that belongs to, as what."""
    name = who.name
    if name is None and who.provider == LOCAL and deps.accounts is not None:
        name = await deps.accounts.name_of(UUID(who.subject))
    return Me(
        id=who.id,
        provider=who.provider,
        email=who.email,
        name=name,
        expires_at=who.expires_at,
        organisation_id=who.organisation_id,
        roles=None if who.roles is None else sorted(who.roles),
        organisations=await organisations_of(deps, who),
    )


@router.get("/sessions", summary="List my sessions", responses=documented())
async def list_sessions(deps: Parts, who: Who, credentials: Credentials) -> list[SessionView]:
    """The sessions of an account of ours that go on, the last used one first. Those of another
    provider are with that provider."""
    if who.provider != LOCAL or deps.accounts is None:
        return []
    if credentials is None:
        raise InvalidToken("a bearer token is needed")
    current = (await deps.authenticator.verified(credentials.credentials)).session
    return [
        SessionView(**one._asdict(), current=one.id == current)
        for one in await deps.accounts.sessions.of(UUID(who.subject))
    ]


@router.delete(
    "/sessions/{session_id}", summary="End a session", status_code=204, responses=documented(404)
)
async def end_session(
    deps: Parts, who: Who, session_id: Annotated[UUID, Path(description="The session.")]
) -> None:
    """End one of my sessions: its refresh token and its access tokens are good no more."""
    accounts = deps.accounts if who.provider == LOCAL else None
    if accounts is None or not await accounts.sessions.end(
        UUID(who.subject), session_id, "ended by its owner"
    ):
        raise NotFound("session", str(session_id))


@router.get("/health", summary="Health of identity")
async def identity_health(deps: Parts) -> IdentityHealth:
    """Whose tokens are believed, and whether they can be checked now. No token is needed; an issuer
    is asked for its keys every half a minute at the most."""
    providers = [
        ProviderHealth(name=one.name, kind=one.kind, available=await one.available())
        for one in deps.authenticator.providers
    ]
    accounts = deps.accounts
    return IdentityHealth(
        status="ok" if all(one.available for one in providers) else "degraded",
        providers=providers,
        registration="open" if accounts is not None and accounts.registration else "closed",
        mail=accounts is not None and accounts.mails,
    )


def _accounts(deps: Dependencies) -> Accounts:
    if deps.accounts is None:
        raise NotOffered("this server has no accounts of its own: sign in at your provider")
    return deps.accounts


def _tokens(response: Response, signed: SignedIn) -> Tokens:
    response.headers["Cache-Control"] = "no-store"
    return Tokens(
        access_token=signed.access_token,
        expires_at=signed.access_expires_at,
        refresh_token=signed.refresh_token,
        refresh_expires_at=signed.refresh_expires_at,
        account=f"{LOCAL}:{signed.account_id}",
    )


def _check(password: str, email: str = "") -> None:
    rule = refused(password, email)
    if rule is not None:
        told = {"type": "value_error", "loc": ("body", "password"), "msg": rule, "input": None}
        raise RequestValidationError([told])


def _client(user_agent: str | None) -> str:
    told = "".join(one for one in user_agent or "" if one.isprintable())
    return told[:200]
