"""What endpoints are given: parts of the system, who asks, and read models that are fresh."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Header, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AwareDatetime
from structlog.contextvars import bind_contextvars

from api.tokens import Identity, InvalidToken, Issuer
from commands import Bus
from domain.access import Role
from eventstore import Log
from eventstore.attempts import Attempt, Attempts
from eventstore.retention import Retention
from eventstore.subscription import Bell
from ml.bundle import Bundles
from ml.hypotheses import Hypotheses
from ml.replay import Replayed
from readmodels.access import QUERIES
from readmodels.database import ReadModels
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
    positions: Positions
    past: Past
    news: Bell
    replay: Callable[[UUID, str], Awaitable[list[Replayed]]]
    hypotheses: Hypotheses
    bundles: Bundles
    attempts: Attempts
    people: People
    retention: Retention
    #: Names of the witnesses that signed heads are handed to.
    witnesses: tuple[str, ...]
    #: What the names of topics of Kafka begin with, and how many partitions each has.
    kafka_prefix: str
    kafka_lanes: int


class NotAllowed(Exception):
    """The caller's roles do not allow a query."""

    def __init__(self, query: str, roles: frozenset[Role]) -> None:
        self.query, self.roles = query, roles
        super().__init__(f"{query} is not allowed for {', '.join(sorted(roles)) or 'no role'}")


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
    auto_error=False, description="A token of the development issuer: `chainlytics token`"
)


def parts(request: Request) -> Dependencies:
    """The parts of the system."""
    found: Dependencies = request.app.state.dependencies
    return found


Parts = Annotated[Dependencies, Depends(parts)]


async def identity(
    request: Request,
    deps: Parts,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Identity:
    """Who asks; without a good token, nobody.

    Raises:
        InvalidToken: there is no token, or it is not to be believed.
    """
    try:
        if credentials is None:
            raise InvalidToken("a bearer token is needed")
        found = deps.issuer.verify(credentials.credentials)
    except InvalidToken:
        # What it says of actor and organisation is not to be believed, so they stay unknown.
        deps.attempts.note(
            Attempt(
                *(None, "", ()),
                *(_endpoint(request), ""),
                *("unauthenticated", "unauthenticated"),
                request.state.correlation_id,
            )
        )
        raise
    bind_contextvars(actor=found.actor, organisation_id=str(found.organisation_id))
    return found


def _endpoint(request: Request) -> str:
    """Method and path as they are declared: what stands in the path's place is the sender's."""
    return f"{request.method} {getattr(request.scope.get('route'), 'path', '')}"


Caller = Annotated[Identity, Depends(identity)]


def allowed(query: str) -> Any:
    """The caller, if the query is allowed to one of its roles."""

    async def check(request: Request, deps: Parts, caller: Caller) -> Identity:
        if caller.roles.isdisjoint(QUERIES.get(query, frozenset())):
            deps.attempts.note(
                Attempt(
                    *(caller.organisation_id, caller.actor, caller.roles),
                    *(query, ""),
                    *("denied", "forbidden"),
                    request.state.correlation_id,
                )
            )
            raise NotAllowed(query, caller.roles)
        return caller

    return Depends(check)


def reading(query: str, *tables: str) -> Any:
    """Read models of the caller's organisation, at ``min_position`` or beyond.

    Args:
        query: the query's name, which permissions hang on.
        tables: the read models that it reads.
    """

    async def read(
        deps: Parts,
        response: Response,
        caller: Annotated[Identity, allowed(query)],
        min_position: Annotated[
            int | None,
            Query(
                ge=0,
                lt=2**63,
                description="Wait until the read model has come to this log position "
                "(a command's answer names its own), 5 seconds at the most.",
            ),
        ] = None,
        x_min_position: Annotated[int | None, Header(ge=0, lt=2**63)] = None,
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
            AwareDatetime | None,
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
        position = max(min_position or 0, x_min_position or 0)
        if position:
            await deps.positions.wait_for(position, tables, PATIENCE_S)
        return ReadModels(deps.log, caller.organisation_id)

    return Depends(read)


Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the last page.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows on a page.")]


def tagged(response: Response, version: int) -> None:
    """Say which version of a resource an answer shows."""
    response.headers["ETag"] = f'"{version}"'


def either(values: Sequence[str]) -> str:
    """Names as a pattern for a query parameter."""
    return f"^({'|'.join(values)})$"
