"""What endpoints are given: parts of the system, who asks, and read models that are fresh."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Header, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from structlog.contextvars import bind_contextvars

from api.authorisation import Authorisation
from api.conditional import entity_tag
from api.identity.account import Account
from api.identity.accounts import Accounts
from api.identity.authenticator import Authenticator
from api.identity.profiles import Profiles
from api.live import Live
from api.times import Timestamp
from api.tokens import Identity, InvalidToken, Issuer
from commands import Bus
from commands.webhook_messages import Webhooks
from eventstore import Log
from eventstore.attempts import Attempt, Attempts
from eventstore.probe import Probe
from eventstore.retention import Retention
from eventstore.subscription import Bell
from eventstore.uploads import Uploads
from ml.bundle import Bundles
from ml.hypotheses import Hypotheses
from ml.replay import Replayed
from readmodels.access import OF_THE_SERVER, QUERIES
from readmodels.database import ReadModels
from readmodels.exports import Exports
from readmodels.page import MAX_LIMIT
from readmodels.past import Past
from readmodels.people import People
from readmodels.positions import Positions

#: How long a query waits for its read model to come to ``min_position``, in seconds.
PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The parts of the system that the API works with; made by the composition root."""

    bus: Bus
    log: Log
    issuer: Issuer
    authorisation: Authorisation
    #: Believes tokens, of all providers.
    authenticator: Authenticator
    #: Accounts of our own; None: the settings offer none.
    accounts: Accounts | None
    profiles: Profiles
    positions: Positions
    past: Past
    news: Bell
    live: Live
    replay: Callable[[UUID, str], Awaitable[list[Replayed]]]
    hypotheses: Hypotheses
    bundles: Bundles
    attempts: Attempts
    people: People
    webhooks: Webhooks
    retention: Retention
    uploads: Uploads
    exports: Exports
    #: Bytes of one uploaded file.
    upload_bytes: int
    #: Looks whether the database answers, over a connection of its own.
    probe: Probe
    #: What each pool of connections tells of itself, by name.
    pools: Callable[[], Mapping[str, Mapping[str, int]]]
    #: Names of the witnesses that signed heads are handed to.
    witnesses: tuple[str, ...]
    #: What the names of topics of Kafka begin with, and how many partitions each has.
    kafka_prefix: str
    kafka_lanes: int


class NotAllowed(Exception):
    """The caller's roles, or the scopes of its key, do not allow a query."""

    def __init__(self, query: str, who: Identity) -> None:
        self.query = query
        told = f"{query} is not allowed for {', '.join(sorted(who.roles)) or 'no role'}"
        if query in OF_THE_SERVER and not who.operator:
            told = f"{query} is of the whole server: it is told to the operator's tokens only"
        elif who.scopes is not None and not who.roles.isdisjoint(QUERIES.get(query, frozenset())):
            told = f"{query} is not among the scopes of this key: {', '.join(sorted(who.scopes))}"
        super().__init__(told)


def may_ask(query: str, who: Identity) -> bool:
    """Whether a query is allowed to one of somebody's roles, and to the scopes of a key; what no
    rule names is allowed to nobody."""
    if who.roles.isdisjoint(QUERIES.get(query, frozenset())):
        return False
    if query in OF_THE_SERVER and not who.operator:
        return False
    return who.scopes is None or query in who.scopes


class NotFound(Exception):
    """There is nothing of that id in the caller's organisation.

    Args:
        what, name: what is asked for.
        why: where more is known than that it is not.
        **context: the values that this hangs on, by name.
    """

    def __init__(self, what: str, name: str, why: str = "is not known", **context: str) -> None:
        self.what, self.name, self.context = what, name, context
        super().__init__(f"{what} {name!r} {why}")


_bearer = HTTPBearer(
    auto_error=False,
    description="A token of an identity provider, of the operator (`chainlytics token`), or an API "
    "key of a service.",
)
#: Which organisation a request is about.
OrganisationHeader = Annotated[
    UUID | None,
    Header(
        alias="X-Organisation-Id",
        description="The organisation to act for; needed only by who belongs to several.",
    ),
]
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def parts(request: Request) -> Dependencies:
    """The parts of the system. Not because it waits: a plain function would be run by a thread."""
    found: Dependencies = request.app.state.dependencies
    return found


Parts = Annotated[Dependencies, Depends(parts)]


async def account(request: Request, deps: Parts, credentials: Credentials) -> Account:
    """Whose token it is, whatever organisation that acts for; without a good token, nobody.

    Raises:
        InvalidToken: there is no token, or it is not to be believed.
    """
    try:
        found = await deps.authorisation.account(_shown(credentials))
    except InvalidToken:
        _note_unknown(request, deps)
        raise
    request.state.limited_as = found.id
    bind_contextvars(actor=found.id)
    return found


async def identity(
    request: Request,
    deps: Parts,
    credentials: Credentials,
    organisation: OrganisationHeader = None,
) -> Identity:
    """Who asks, and for which organisation; without a good token, nobody.

    Raises:
        InvalidToken: there is no token, or it is not to be believed.
        NoSuchOrganisation: the organisation is none of the caller's.
        OrganisationNeeded: it is not clear which one.
    """
    try:
        found = await identified(deps, _shown(credentials), organisation)
    except InvalidToken:
        _note_unknown(request, deps)
        raise
    request.state.limited_as = found.counted_as
    bind_contextvars(actor=found.actor, organisation_id=str(found.organisation_id))
    return found


async def identified(
    deps: Dependencies, credentials: str, organisation: UUID | None = None
) -> Identity:
    """As ``Authorisation.identified``: asked again by who keeps a connection for long."""
    return await deps.authorisation.identified(credentials, organisation)


def _shown(credentials: HTTPAuthorizationCredentials | None) -> str:
    if credentials is None:
        raise InvalidToken("a bearer token is needed")
    return credentials.credentials


def _note_unknown(request: Request, deps: Dependencies) -> None:
    # What a bad token says of actor and organisation is not to be believed, so they stay unknown.
    deps.attempts.note(
        Attempt(
            *(None, "", ()),
            *(_endpoint(request), ""),
            *("unauthenticated", "unauthenticated"),
            request.state.correlation_id,
        )
    )


def _endpoint(request: Request) -> str:
    """Method and path as they are declared: what stands in the path's place is the sender's."""
    return f"{request.method} {getattr(request.scope.get('route'), 'path', '')}"


#: Who is signed in, whatever organisation it acts for.
Who = Annotated[Account, Depends(account)]
#: Who acts for an organisation.
Caller = Annotated[Identity, Depends(identity)]


def allowed(query: str) -> Any:
    """The caller, if the query is allowed to one of its roles."""

    async def check(request: Request, deps: Parts, caller: Caller) -> Identity:
        if not may_ask(query, caller):
            deps.attempts.note(
                Attempt(
                    *(caller.organisation_id, caller.actor, caller.roles),
                    *(query, ""),
                    *("denied", "forbidden"),
                    request.state.correlation_id,
                )
            )
            raise NotAllowed(query, caller)
        return caller

    check.__dict__["permission"] = query  # told of by tests/test_authorisation.py
    return Depends(check)


def seated(query: str) -> Any:
    """The same, with one of the connections that there are for following, until the end."""

    async def take(
        deps: Parts, caller: Annotated[Identity, allowed(query)]
    ) -> AsyncIterator[Identity]:
        with deps.live.seat(caller):
            yield caller

    return Depends(take)


MinPosition = Annotated[
    int | None,
    Query(
        ge=0,
        lt=2**63,
        description="Wait until the read model has come to this log position "
        "(a command's answer names its own), 5 seconds at the most.",
    ),
]
MinPositionHeader = Annotated[int | None, Header(ge=0, lt=2**63)]


def reading(query: str, *tables: str) -> Any:
    """Read models of the caller's organisation, at ``min_position`` or beyond, or as of a moment in
    the past.

    Args:
        query: the query's name, which permissions hang on.
        tables: the read models that it reads.
    """

    async def read(
        deps: Parts,
        response: Response,
        caller: Annotated[Identity, allowed(query)],
        min_position: MinPosition = None,
        x_min_position: MinPositionHeader = None,
        as_of: Annotated[
            str | None,
            Query(
                max_length=40,
                description="What the answer was then: a log position, or a time (RFC 3339) up to "
                "which events were recorded.",
                examples=["1234", "2026-03-31T23:59:59Z"],
            ),
        ] = None,
        effective_at: Annotated[
            Timestamp | None,
            Query(
                description="Only what counts from this moment or earlier by its own time, as far "
                "as it is known (by `as_of`); for read models that know such times."
            ),
        ] = None,
    ) -> ReadModels:
        if as_of is not None or effective_at is not None:
            moment = await deps.past.at(as_of, effective_at)
            response.headers["As-Of-Position"] = str(moment.position)
            return ReadModels(deps.log, caller.organisation_id, deps.past, moment)
        return await _fresh(deps, caller, max(min_position or 0, x_min_position or 0), tables)

    return Depends(read)


def reading_now(query: str, *tables: str) -> Any:
    """As ``reading``, for answers that hold records beside the log, which know no past."""

    async def read(
        deps: Parts,
        caller: Annotated[Identity, allowed(query)],
        min_position: MinPosition = None,
        x_min_position: MinPositionHeader = None,
    ) -> ReadModels:
        return await _fresh(deps, caller, max(min_position or 0, x_min_position or 0), tables)

    return Depends(read)


async def _fresh(
    deps: Dependencies, caller: Identity, position: int, tables: Sequence[str]
) -> ReadModels:
    if position and tables:  # what is read from the log waits for nothing
        await deps.positions.wait_for(position, tables, PATIENCE_S)
    return ReadModels(deps.log, caller.organisation_id)


Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the last page.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows on a page.")]


def tagged(response: Response, version: int, *besides: str) -> None:
    """Say which version of its stream an answer shows; and, in words of a-z and 0-9, what its bytes
    hang on besides."""
    response.headers["ETag"] = entity_tag(version, *besides)


def either(values: Sequence[str]) -> str:
    """Names as a pattern for a query parameter."""
    return f"^({'|'.join(values)})$"
